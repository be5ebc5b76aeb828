"""The normal path: sessions over the message bus, many hosts over one connection. Fills base.Dialer. Wired by roles.

A session is a run of BusMessages with its number, each way numbered from 1; the bus may lose messages, never silently:
a gap ends the session. Session 0 carries heartbeats. What a host says is known to be its own by the subject, which
the bus lets nobody else publish on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from alcor.bus.base import Bus, Subscription, down_subject, up_subject, word
from alcor.model.nouns import Node
from alcor.paths.base import Line, LineEnded
from alcor.wire.codec import MAX_MESSAGE_BYTES
from alcor.wire.fields import WireError
from alcor.wire.frames import BusMessage, End, Hail, Piece, decode_bus_message, encode_bus_message
from alcor.wire.reports import Heartbeat, decode_report

_log = logging.getLogger(__name__)

PIECE_HEADROOM = 256
"""Left of a bus message for what is around a piece."""
MAX_UNREAD = 1024
"""Messages of one line that may wait to be read; a host that says more at once is not a friend."""
HEARD_FACTOR = 3
"""A host is there while it was heard within so many of its heartbeats' intervals, and MIN_HEARD_S."""
MIN_HEARD_S = 10.0
FULL_WAIT_S = 0.01
FULL_PATIENCE_S = 10.0
"""How long a write waits for a bus that takes no more."""


class NormalDialer:
    """See the module. `start` it before the first dial."""

    def __init__(
        self,
        *,
        partition: int,
        epoch: int,
        bus: Bus,
        heard: Callable[[str, Heartbeat], None],
        roll: Callable[[], float],
    ) -> None:
        """`heard` is told of heartbeats (host, heartbeat); `roll` answers a random number in [0, 1)."""
        self.bus = bus
        self.partition = partition
        self.refused: Counter[str] = Counter()
        """Messages that were dropped, by reason."""
        self._epoch = epoch
        self._heard = heard
        self._session = 1 + int(roll() * (1 << 53))
        """The next one's number; another controller's life begins elsewhere."""
        self._lines: dict[int, BusLine] = {}
        self._there_until: dict[str, float] = {}
        """Host -> until when its last heartbeat says that it is there."""
        self._hailed: dict[str, BusLine] = {}
        """Host -> its line, on which nothing was heard yet."""
        self._tried: set[str] = set()
        """Hosts that were hailed and are silent, since the bus connected."""
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Listens to all hosts. Raises BusError."""
        self.bus.on_state(self._changed)
        self._subscription = await self.bus.subscribe(up_subject(self.partition, "*"), self._take)

    async def stop(self) -> None:
        """Listens no more."""
        if self._subscription is not None:
            await self._subscription.cancel()
        self._changed(False)

    def open(self, node: Node) -> bool:
        """See base.Dialer: the bus is connected, and the host was heard on it lately or not hailed in vain."""
        if not self.bus.connected:
            return False
        return node.name not in self._tried or self._there_until.get(node.name, 0.0) > _now()

    @asynccontextmanager
    async def dial(self, node: Node) -> AsyncIterator[Line]:
        """See base.Dialer."""
        session = self._session
        self._session += 1
        line = self._lines[session] = self._hailed[node.name] = BusLine(self, node.name, session)
        self._tried.add(node.name)
        try:
            line.hail(self._epoch)
            yield line
        finally:
            del self._lines[session]
            if self._hailed.get(node.name) is line:
                del self._hailed[node.name]
            line.hang_up()

    def _changed(self, connected: bool) -> None:
        if connected:
            self._tried.clear()
            return
        for line in self._lines.values():
            line.end("the connection to the bus was lost")

    def _take(self, subject: str, data: bytes) -> None:
        """A message from a host."""
        speaker = subject.rpartition(".")[2]
        try:
            message = decode_bus_message(data)
            if message.session == 0:
                self._hear(speaker, message)
                return
        except WireError as error:
            self._refuse(speaker, "malformed", str(error))
            return
        line = self._lines.get(message.session)
        if line is None:
            self.refused["of no session"] += 1  # an earlier one's last words
        elif line.speaker != speaker:
            self._refuse(speaker, "of another host's session", f"session {message.session} is {line.speaker}'s")
        else:
            self._tried.discard(line.host)
            self._hailed.pop(line.host, None)
            line.take(message)

    def _hear(self, speaker: str, message: BusMessage) -> None:
        if not isinstance(message.body, Piece) or message.body.more:
            raise WireError("session 0 carries heartbeats, each in one piece")
        heartbeat = decode_report(message.body.data)
        if not isinstance(heartbeat, Heartbeat):
            raise WireError("session 0 carries heartbeats only")
        if word(heartbeat.host) != speaker:
            self._refuse(speaker, "in another host's name", f"a heartbeat of {heartbeat.host}")
            return
        lasts_s = max(MIN_HEARD_S, HEARD_FACTOR * heartbeat.interval_ms / 1000)
        self._there_until[heartbeat.host] = _now() + lasts_s
        hailed = self._hailed.get(heartbeat.host)
        if hailed is not None and heartbeat.epoch < self._epoch:
            hailed.hail_again(self._epoch)
        self._heard(heartbeat.host, heartbeat)

    def _refuse(self, speaker: str, reason: str, detail: str) -> None:
        self.refused[reason] += 1
        _log.debug("bus message of %s refused: %s", speaker, detail)


class BusLine:
    """One session over the bus. Fills base.Line."""

    def __init__(self, dialer: NormalDialer, host: str, session: int) -> None:
        self.host = host
        self.speaker = word(host)
        self._dialer = dialer
        self._session = session
        self._subject = down_subject(dialer.partition, host)
        self._said = self._heard = 0
        """Numbers of the last messages each way."""
        self._pieces: list[bytes] = []
        self._size = 0
        """Of the pieces together."""
        self._whole: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._ended = ""
        """Why the line is over."""
        self._they_know = False

    async def read(self) -> bytes:
        """See base.Line."""
        while not self._whole:
            if self._ended:
                raise LineEnded(self._ended)
            self._news.clear()
            await self._news.wait()
        return self._whole.popleft()

    async def write(self, data: bytes) -> None:
        """See base.Line."""
        size = self._dialer.bus.max_payload - PIECE_HEADROOM
        for at in range(0, max(len(data), 1), size):
            piece = Piece(data[at : at + size], more=at + size < len(data))
            give_up = _now() + FULL_PATIENCE_S
            while not self._say(piece):
                if self._ended or not self._dialer.bus.connected or _now() > give_up:
                    raise LineEnded(self._ended or "the bus takes no more")
                await asyncio.sleep(FULL_WAIT_S)

    def hail(self, epoch: int) -> None:
        """Asks the host to greet. Raises LineEnded."""
        if not self._say(Hail(epoch)):
            raise LineEnded("the bus takes no more")

    def hail_again(self, epoch: int) -> None:
        """The same, of a host that is there now and may not have been: it takes the first that it hears."""
        self._dialer.bus.publish(self._subject, encode_bus_message(BusMessage(self._session, 1, Hail(epoch))))

    def end(self, reason: str) -> None:
        """The line is over."""
        self._ended = self._ended or reason
        self._news.set()

    def hang_up(self) -> None:
        """Leaves the line; tells the host, if it does not know."""
        if not self._they_know:
            self._say(End(self._ended or "the controller ended the session"))
        self.end("over")

    def take(self, message: BusMessage) -> None:
        """A message of this session came."""
        if self._ended or message.number <= self._heard:
            self._dialer.refused["repeated"] += not self._ended
            return
        if message.number != self._heard + 1:
            self._refuse("lost", f"the bus lost messages: number {message.number} came after {self._heard}")
            return
        self._heard = message.number
        body = message.body
        if isinstance(body, End):
            self._they_know = True
            self.end(f"the host ended the session: {body.reason}")
        elif isinstance(body, Hail):
            self._refuse("malformed", "the host hailed: only controllers do")
        else:
            self._join(body)

    def _join(self, piece: Piece) -> None:
        self._size += len(piece.data)
        if self._size > MAX_MESSAGE_BYTES:
            self._refuse("too large", f"a message of more than {MAX_MESSAGE_BYTES} bytes")
            return
        if len(self._whole) >= MAX_UNREAD:
            self._refuse("too many", f"more than {MAX_UNREAD} messages at once")
            return
        self._pieces.append(piece.data)
        if not piece.more:
            self._whole.append(b"".join(self._pieces))
            self._pieces.clear()
            self._size = 0
            self._news.set()

    def _refuse(self, counted: str, reason: str) -> None:
        """Ends the line for what came."""
        self._dialer.refused[counted] += 1
        self.end(reason)

    def _say(self, body: Hail | Piece | End) -> bool:
        message = BusMessage(self._session, self._said + 1, body)
        if not self._dialer.bus.publish(self._subject, encode_bus_message(message)):
            return False
        self._said += 1
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
