"""The ports of this room: what the loops see (Path, Events), and what every way to a host fills (Dialer, Line).

Called by loops (publish puts parts in, status and publish are told what came back). A path knows hosts, scopes' keys
and bytes; it knows nothing of what is in them. `delivery` fills Path: it keeps one session per host, over a line that
the ladder's choice of dialer opened. The session's protocol is the same on every line (docs/rooms/paths.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import NamedTuple, Protocol

from alcor.model.ids import Id
from alcor.model.nouns import Node
from alcor.wire.codec import Part
from alcor.wire.lookups import Answer, Lookup
from alcor.wire.reports import Ack, Heartbeat, Hello


class PathName(StrEnum):
    """The ways to a host, best first."""

    FAST = "fast"
    """The controller dials the agent: gRPC, mutual TLS."""
    NORMAL = "normal"
    """Over the message bus."""
    RESCUE = "rescue"
    """The same gRPC, carried by a healthy peer host over the underlay."""


class LineEnded(Exception):
    """Why a line could not be opened or is over, for people."""


class Line(Protocol):
    """A connection to one host's agent: whole messages, each way in order, until it ends. One reader, one writer."""

    async def read(self) -> bytes:
        """The next Report message. Raises LineEnded."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends a Bundle message; returns when the line has taken it. Raises LineEnded."""
        ...


class Dialer(Protocol):
    """One way to hosts."""

    def dial(self, node: Node) -> AbstractAsyncContextManager[Line]:
        """A line to that node's agent, whose first message is its Hello; closed on leaving. Entering may raise
        LineEnded or TimeoutError, and takes as long as the caller's timeout lets it."""
        ...

    def open(self, node: Node) -> bool:
        """It is worth dialling: nothing known speaks against it (the bus is connected, there is a peer...)."""
        ...


class Parcel(NamedTuple):
    """One encoded update on its way to a host. A snapshot makes whatever waits of its scope needless."""

    scope: Id
    part: Part
    snapshot: bool


class Session(NamedTuple):
    """One stream's life to a host. What was meant for an earlier one must not reach a later one."""

    host: str
    number: int
    path: PathName = PathName.FAST
    attempts: int = 1
    """Dials since the host was last in session, this one included."""


class Events(Protocol):
    """What a path tells, on its event loop. Handlers are quick and do not raise."""

    def greeted(self, session: Session, hello: Hello) -> None:
        """A host is there and says what it holds: answer with `Path.begin`. Nothing is sent to it before."""
        ...

    def acknowledged(self, session: Session, ack: Ack) -> None:
        """A host answered a bundle, or had later word (sequence 0)."""
        ...

    def heard(self, host: str, path: PathName, heartbeat: Heartbeat) -> None:
        """A host said that it is there, in or out of a session."""
        ...

    def asked(self, session: Session, lookup: Lookup) -> None:
        """A host asks where addresses of a VPC on demand are: answer with `Path.answer`."""
        ...

    def overflowed(self, session: Session, scopes: frozenset[Id]) -> None:
        """More waited for the host than may wait: of these scopes it needs snapshots now, by `Path.offer`."""
        ...

    def refused(self, session: Session, reason: str, attempts: int) -> None:
        """The host refused goal state `attempts` times in a row (1 the first time). The path redials by itself."""
        ...


class Path(Protocol):
    """A way to hosts. Every method is quick, called on the event loop, and idempotent."""

    def connect(self, node: Node) -> None:
        """Keeps a session to that node from now on; a changed address redials."""
        ...

    def disconnect(self, host: str) -> None:
        """Ends the session and forgets the host."""
        ...

    def begin(self, session: Session, parcels: Sequence[Parcel]) -> None:
        """Answers the session's Hello: what differs (nothing is an answer too). From here on offers are taken."""
        ...

    def listening(self, host: str) -> bool:
        """Offers to that host are taken now: it is worth encoding them."""
        ...

    def offer(self, host: str, parcels: Iterable[Parcel]) -> None:
        """Sends soon, with whatever else waits, in order. Dropped silently when the host is away: its next Hello
        shows what it lacks."""
        ...

    def spread(self, vpc: Id, parcel: Parcel, hosts: Iterable[str]) -> None:
        """Sends one VPC's delta to all these hosts: those that take the VPC's news from the bus by one publish, to the
        others as `offer` does."""
        ...

    def answer(self, host: str, answers: Sequence[Answer]) -> None:
        """Sends at once, ahead of whatever waits. Dropped silently when the host is away: it asks again in its next
        session."""
        ...

    def withdraw(self, host: str, scope: Id) -> None:
        """Forgets what waits of that scope: the host no longer needs it."""
        ...

    def reset(self, session: Session, reason: str) -> None:
        """Ends that stream if it still lives; a new one begins with a new Hello."""
        ...

    def hurry(self, host: str) -> None:
        """Brings the host's session to the fast path now, if it can be had."""
        ...
