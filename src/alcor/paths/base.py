"""The port that every path fills: getting encoded goal state to hosts, and their word back.

Called by loops (publish puts parts in, status and publish are told what came back). A path knows hosts, scopes' keys
and bytes; it knows nothing of what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from alcor.model.ids import Id
from alcor.model.nouns import Node
from alcor.wire.codec import Ack, Hello, Part


class Parcel(NamedTuple):
    """One encoded update on its way to a host. A snapshot makes whatever waits of its scope needless."""

    scope: Id
    part: Part
    snapshot: bool


class Session(NamedTuple):
    """One stream's life to a host. What was meant for an earlier one must not reach a later one."""

    host: str
    number: int


class Events(Protocol):
    """What a path tells, on its event loop. Handlers are quick and do not raise."""

    def greeted(self, session: Session, hello: Hello) -> None:
        """A host is there and says what it holds: answer with `Path.begin`. Nothing is sent to it before."""
        ...

    def acknowledged(self, session: Session, ack: Ack) -> None:
        """A host answered a bundle, or had later word (sequence 0)."""
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

    def withdraw(self, host: str, scope: Id) -> None:
        """Forgets what waits of that scope: the host no longer needs it."""
        ...

    def reset(self, session: Session, reason: str) -> None:
        """Ends that stream if it still lives; a new one begins with a new Hello."""
        ...
