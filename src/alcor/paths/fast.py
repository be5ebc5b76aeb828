"""The fast path: one long-lived gRPC stream to each agent, dialled by the controller with mutual TLS. Fills base.Path.

Called by loops.publish; wired by roles. docs/rooms/paths.md is the protocol. One task per host dials, greets, sends and
listens; a host that is dead, slow or hostile costs its own task and nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import grpc
import grpc.aio
import msgspec

from alcor.goalstate.objects import HOST_SCOPE
from alcor.kit.backoff import Backoff
from alcor.model.ids import Id
from alcor.model.nouns import Node
from alcor.paths.base import Events, Parcel, PathName, Session
from alcor.paths.link import EPOCH_HEADER, PARTITION_HEADER, Credentials, client_options
from alcor.paths.sender import Mailbox, TooLarge
from alcor.wire.codec import SYNC_METHOD, BundleHead, encode_bundle
from alcor.wire.fields import WireError
from alcor.wire.reports import Ack, Heartbeat, Hello, decode_report

_log = logging.getLogger(__name__)


class FastPathLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Patience, in seconds, and how much may be under way."""

    connect_s: float = 20.0
    """From dialling to the agent's Hello."""
    ack_s: float = 120.0
    """From sending a bundle to its Ack; then the stream is made anew."""
    window: int = 4
    """Bundles sent and not yet answered. What comes meanwhile waits and leaves as one message."""
    linger_s: float = 0.01
    """News of a VPC alone waits for one to two times this: a host whose own ports change goes before the many that
    only listen, and a run of changes reaches those in few messages. (A port in a VPC of 100 hosts on one machine became
    ACTIVE in 50 ms when all 100 were told at once.)"""
    backoff: Backoff = Backoff(first_s=0.2, cap_s=10.0)


Stream: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]


class SessionEnded(Exception):
    """Why a stream ended, for people."""


class FastPath:
    """See the module. `run` it in a task group; the other methods are called on the same event loop."""

    def __init__(
        self,
        *,
        partition: int,
        epoch: int,
        credentials: Credentials,
        events: Events,
        roll: Callable[[], float],
        limits: FastPathLimits | None = None,
    ) -> None:
        """`roll` answers a random number in [0, 1), for jitter."""
        self._partition = partition
        self._epoch = epoch
        self._credentials = credentials.for_client()
        self._events = events
        self._roll = roll
        self._limits = limits or FastPathLimits()
        self._hosts: dict[str, _Host] = {}
        self._group: asyncio.TaskGroup | None = None
        self._sessions = 0

    async def run(self) -> None:
        """Keeps sessions until cancelled; then closes every stream."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for host in self._hosts.values():
                    host.start(group)
                await asyncio.Event().wait()
            finally:
                self._group = None

    def connect(self, node: Node) -> None:
        """See base.Path."""
        host = self._hosts.get(node.name)
        address = _address(node)
        if host is not None:
            if host.address == address:
                return
            host.stop()
        host = self._hosts[node.name] = _Host(self, node.name, address)
        if self._group is not None:
            host.start(self._group)

    def disconnect(self, host: str) -> None:
        """See base.Path."""
        known = self._hosts.pop(host, None)
        if known is not None:
            known.stop()

    def begin(self, session: Session, parcels: Sequence[Parcel]) -> None:
        """See base.Path."""
        host = self._hosts.get(session.host)
        if host is not None and host.session == session:
            host.mailbox.begin(parcels)
            host.wake.set()

    def listening(self, host: str) -> bool:
        """See base.Path."""
        known = self._hosts.get(host)
        return known is not None and known.mailbox.begun

    def offer(self, host: str, parcels: Iterable[Parcel]) -> None:
        """See base.Path."""
        known = self._hosts.get(host)
        if known is not None:
            taken = tuple(parcels)
            known.mailbox.offer(taken)
            if any(parcel.scope == HOST_SCOPE or parcel.snapshot for parcel in taken):
                known.wake.set()
            else:
                known.wake_soon(self._limits.linger_s * (1 + self._roll()))

    def spread(self, vpc: Id, parcel: Parcel, hosts: Iterable[str]) -> None:
        """See base.Path."""
        for host in hosts:
            self.offer(host, (parcel,))

    def withdraw(self, host: str, scope: Id) -> None:
        """See base.Path."""
        known = self._hosts.get(host)
        if known is not None:
            known.mailbox.withdraw(scope)
            known.wake.set()

    def reset(self, session: Session, reason: str) -> None:
        """See base.Path."""
        host = self._hosts.get(session.host)
        if host is not None and host.session == session:
            host.end(reason)

    def connected(self) -> list[str]:
        """The hosts with a live stream, sorted."""
        return sorted(name for name, host in self._hosts.items() if host.session is not None)

    def failures(self) -> dict[str, int]:
        """Host -> failed attempts in a row, of those that are not in sync, sorted."""
        return {name: host.failures for name, host in sorted(self._hosts.items()) if host.failures}


class _Host:
    """One host: its mailbox and the task that keeps a stream to it."""

    def __init__(self, path: FastPath, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.mailbox = Mailbox()
        self.wake = asyncio.Event()
        self.session: Session | None = None
        self._path = path
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._unanswered: deque[tuple[int, bool]] = deque()
        """(sequence, synced) of bundles sent and not answered, oldest first."""
        self._deadline: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._blocked = False
        """The window was full when there may have been something to send."""
        self.failures = 0
        """In a row, of whatever kind; a whole synchronisation ends the row."""
        self._refusals = 0

    def start(self, group: asyncio.TaskGroup) -> None:
        self._task = group.create_task(self._keep(), name=f"fast path to {self.name}")

    def stop(self) -> None:
        self._calm()
        self.mailbox.clear()
        if self._task is not None:
            self._task.cancel()

    def wake_soon(self, delay_s: float) -> None:
        """Wakes the sender after that long, or earlier if something more urgent comes."""
        if self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(delay_s, self.wake.set)

    def end(self, reason: str) -> None:
        """Ends the present stream from outside its task."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(SessionEnded(reason))

    async def _keep(self) -> None:
        while True:
            try:
                await self._live()
                reason = "the agent ended the stream"
            except (SessionEnded, WireError, TooLarge) as error:
                reason = str(error)
            except TimeoutError:
                reason = f"no Hello within {self._path._limits.connect_s:g} s"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            level = logging.WARNING if self.failures == 0 else logging.DEBUG
            _log.log(level, "host %s at %s: %s", self.name, self.address, reason)
            delay_s = self._path._limits.backoff.delay_s(self.failures, self._path._roll())
            self.failures += 1
            await asyncio.sleep(delay_s)

    async def _live(self) -> None:
        """One stream, from dialling to its end. Raises what ended it."""
        path = self._path
        metadata = ((PARTITION_HEADER, str(path._partition)), (EPOCH_HEADER, str(path._epoch)))
        async with grpc.aio.secure_channel(
            self.address, path._credentials, options=client_options(self.name)
        ) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SYNC_METHOD)
            stream = method(metadata=metadata)
            tasks: list[asyncio.Task[None]] = []
            self._ended = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(path._limits.connect_s):
                    hello = decode_report(await _read(stream))
                if not isinstance(hello, Hello) or hello.host != self.name:
                    raise SessionEnded(f"its first word was not the Hello of {self.name}")
                path._sessions += 1
                self.session = Session(self.name, path._sessions)
                path._events.greeted(self.session, hello)
                tasks = [
                    asyncio.create_task(self._listen(stream), name=f"listen to {self.name}"),
                    asyncio.create_task(self._send(stream), name=f"send to {self.name}"),
                ]
                done, _ = await asyncio.wait([*tasks, self._ended], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                self.session = None
                self._ended.cancel()
                self.mailbox.clear()
                self._unanswered.clear()
                self._watch()
                stream.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, stream: Stream) -> None:
        while True:
            report = decode_report(await _read(stream))
            if isinstance(report, Heartbeat):
                self._path._events.heard(self.name, PathName.FAST, report)
                continue
            if not isinstance(report, Ack):
                raise SessionEnded("a second Hello on the same stream")
            self._answered(report)
            if self._blocked:  # otherwise what waits lingers
                self.wake.set()

    def _answered(self, ack: Ack) -> None:
        session = self.session
        assert session is not None
        synced = False
        if ack.sequence:
            expected, synced = self._unanswered.popleft() if self._unanswered else (0, False)
            if ack.sequence != expected:
                raise SessionEnded(f"it answered bundle {ack.sequence}, not {expected}: acks come once and in order")
            self._watch()
        if ack.error:
            self._refusals += 1
            self._path._events.refused(session, ack.error, self._refusals)
            raise SessionEnded(f"it refused goal state: {ack.error}")
        if synced:
            if self.failures:
                _log.info("host %s at %s is in sync again", self.name, self.address)
            self.failures = self._refusals = 0
        self._path._events.acknowledged(session, ack)

    async def _send(self, stream: Stream) -> None:
        path, sequence = self._path, 0
        while True:
            await self.wake.wait()
            self.wake.clear()
            self._calm()
            while not (blocked := len(self._unanswered) >= path._limits.window):
                owed = self.mailbox.ask()
                if owed and self.session is not None:
                    path._events.overflowed(self.session, owed)
                load = self.mailbox.take()
                if load is None:
                    break
                sequence += 1
                head = BundleHead(
                    partition=path._partition,
                    epoch=path._epoch,
                    sequence=sequence,
                    host=self.name,
                    synced=load.synced,
                )
                self._unanswered.append((sequence, load.synced))
                if len(self._unanswered) == 1:
                    self._watch()
                try:
                    await stream.write(encode_bundle(head, load.parts))
                except asyncio.InvalidStateError:
                    raise SessionEnded("the stream was gone before all was sent") from None
                if self._lingering is not None and not self.wake.is_set():
                    break  # what came during the write lingers too
            self._blocked = blocked

    def _calm(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _watch(self) -> None:
        """Restarts the clock of the oldest unanswered bundle."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._unanswered:
            limit_s = self._path._limits.ack_s
            reason = f"bundle {self._unanswered[0][0]} not answered within {limit_s:g} s"
            self._deadline = asyncio.get_running_loop().call_later(limit_s, self.end, reason)


async def _read(stream: Stream) -> bytes:
    """The next message. Raises SessionEnded when there is none to come."""
    data: object = await stream.read()
    if not isinstance(data, bytes):  # grpc.aio.EOF
        raise SessionEnded("the agent ended the stream")
    return data


def _address(node: Node) -> str:
    host = f"[{node.agent_host}]" if ":" in node.agent_host else node.agent_host
    return f"{host}:{node.agent_port}"
