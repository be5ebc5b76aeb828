"""The host's end of the normal path: sessions over the bus, in the shape of streams (docs/rooms/paths.md).

Called by core, on its event loop; fills the same Intake as server. Who may publish on this host's subject is the bus's
business (bus.credentials), epochs are the reconciler's; here messages are numbered, pieced together and bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from alcor.agent.intake import older
from alcor.agent.server import Intake, Stream
from alcor.bus.base import Bus, Subscription, down_subject, up_subject
from alcor.wire.codec import MAX_MESSAGE_BYTES
from alcor.wire.fields import WireError
from alcor.wire.frames import BusMessage, End, Hail, Piece, decode_bus_message, encode_bus_message
from alcor.wire.lookups import is_aside

_log = logging.getLogger(__name__)

MESSAGE_HEADROOM = 256
"""Of a bus message, left for what is around a piece."""


class _BusSession:
    """One session of a partition's controller."""

    def __init__(self, partition: int, message: BusMessage, stream: Stream) -> None:
        self.partition = partition
        self.id = message.session
        self.stream = stream
        self.heard = 1
        """Number of the last message that came."""
        self.said = 0
        self.pieces: list[bytes] = []
        self.size = 0
        self.sender: asyncio.Task[None] | None = None


class BusEnd:
    """See the module. `start` it; `stop` it."""

    def __init__(self, bus: Bus, host: str, partitions: Iterable[int], intake: Intake) -> None:
        self._bus = bus
        self._host = host
        self._partitions = tuple(partitions)
        self._intake = intake
        self._sessions: dict[int, _BusSession] = {}
        """Partition -> its session; one at a time."""
        self._subscriptions: list[Subscription] = []
        self._streams = 0
        self.refused = 0
        """Messages that were no messages, of no session, or ended theirs."""

    async def start(self) -> None:
        """Listens for controllers. Raises BusError."""
        for partition in self._partitions:

            def take(_subject: str, data: bytes, partition: int = partition) -> None:
                self._take(partition, data)

            self._subscriptions.append(await self._bus.subscribe(down_subject(partition, self._host), take))

    async def stop(self) -> None:
        """Ends the sessions."""
        for session in list(self._sessions.values()):
            self._leave(session, "the agent stops")
        for subscription in self._subscriptions:
            await subscription.cancel()

    def beat(self, partition: int, heartbeat: bytes) -> None:
        """Says a Report that belongs to no session."""
        if partition in self._partitions:
            message = encode_bus_message(BusMessage(0, 0, Piece(heartbeat)))
            self._bus.publish(up_subject(partition, self._host), message)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Whose controllers it listens to."""
        return self._partitions

    def _take(self, partition: int, data: bytes) -> None:
        try:
            message = decode_bus_message(data)
        except WireError as error:
            self.refused += 1
            _log.warning("a message on the bus is refused: %s", error)
            return
        body = message.body
        session = self._sessions.get(partition)
        if isinstance(body, Hail):
            if not message.session or message.number != 1:
                self.refused += 1
            elif session is None or session.id != message.session:
                self._greet(partition, message, body)
            elif session.heard != 1:
                self.refused += 1  # else it was said again to be heard
            return
        if session is None or session.id != message.session:
            self.refused += 1  # of a session that is over
            return
        if message.number != session.heard + 1:
            lost = "was lost" if message.number > session.heard else "came again"
            self._refuse(session, f"message {message.number} came behind message {session.heard}: something {lost}")
            return
        session.heard += 1
        if isinstance(body, End):
            self._leave(session, "")
        else:
            self._piece(session, body)

    def _greet(self, partition: int, message: BusMessage, hail: Hail) -> None:
        present = self._sessions.get(partition)
        if present is not None and hail.epoch < present.stream.epoch:
            self.refused += 1
            reason = older(hail.epoch, present.stream.epoch)
            self._bus.publish(
                up_subject(partition, self._host), encode_bus_message(BusMessage(message.session, 1, End(reason)))
            )
            return
        if present is not None:
            del self._sessions[partition]
            self._forget(present)
        self._streams -= 1  # the server's count upwards
        stream = Stream(self._streams, partition, hail.epoch)
        session = self._sessions[partition] = _BusSession(partition, message, stream)
        session.sender = asyncio.create_task(self._send(session), name=f"bus session of partition {partition}")
        self._intake.greet(stream)

    def _piece(self, session: _BusSession, piece: Piece) -> None:
        session.pieces.append(piece.data)
        session.size += len(piece.data)
        if session.size > MAX_MESSAGE_BYTES:
            self._refuse(session, f"a bundle of more than {MAX_MESSAGE_BYTES} bytes")
        elif not piece.more:
            bundle, session.pieces, session.size = b"".join(session.pieces), [], 0
            if is_aside(bundle):
                self._intake.answers(session.stream, bundle)
                return
            if session.stream.full:
                self._refuse(session, "more bundles than may be unanswered")
                return
            session.stream.taken()
            self._intake.bundle(session.stream, bundle)

    async def _send(self, session: _BusSession) -> None:
        while True:
            report = await session.stream.outgoing.get()
            if isinstance(report, str):
                self._leave(session, report)
                return
            size = self._bus.max_payload - MESSAGE_HEADROOM
            pieces = [report[start : start + size] for start in range(0, len(report), size)] or [b""]
            for number, piece in enumerate(pieces, 1):
                if not self._say(session, Piece(piece, more=number < len(pieces))):
                    self._leave(session, "the bus is gone, or too slow")
                    return

    def _say(self, session: _BusSession, body: Piece | End) -> bool:
        session.said += 1
        message = encode_bus_message(BusMessage(session.id, session.said, body))
        return self._bus.publish(up_subject(session.partition, self._host), message)

    def _refuse(self, session: _BusSession, reason: str) -> None:
        """Ends a session for what came."""
        self.refused += 1
        self._leave(session, reason)

    def _leave(self, session: _BusSession, reason: str) -> None:
        """Ends a session, telling the controller why unless it knows."""
        if self._sessions.get(session.partition) is session:
            del self._sessions[session.partition]
        if reason:
            _log.info("session of partition %d over the bus ended: %s", session.partition, reason)
            self._say(session, End(reason))
        self._forget(session)

    def _forget(self, session: _BusSession) -> None:
        self._intake.gone(session.stream)
        if session.sender is not None and session.sender is not asyncio.current_task():
            session.sender.cancel()
