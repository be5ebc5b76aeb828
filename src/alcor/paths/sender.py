"""What waits for one host: a bounded mailbox whose whole content leaves in one message. Pure but for its own state.

Called by paths. Between two messages everything that comes is gathered; a snapshot replaces what waits of its scope;
when too much waits, the deltas are thrown away and their scopes are owed as snapshots instead, which the mailbox asks
for only when it could send them. A host that does not read costs a fixed amount of memory and no work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from alcor.goalstate.objects import HOST_SCOPE
from alcor.model.ids import Id
from alcor.paths.base import Parcel
from alcor.wire.codec import MAX_MESSAGE_BYTES, Part

MAX_WAITING_DELTAS = 4096
MAX_WAITING_BYTES = 16 << 20
"""Of deltas; beyond either, deltas collapse to owed snapshots. Snapshots are shared bytes and at most one per scope
waits, so they do not count."""
BUNDLE_BYTES = 2 << 20
"""A bundle is closed when it has that much. One update larger than this travels in a bundle of its own."""
BUNDLE_HEADROOM = 64 << 10
"""Left of MAX_MESSAGE_BYTES for the bundle's head."""


class Load(NamedTuple):
    """What goes into the next bundle."""

    parts: list[Part]
    synced: bool
    """Everything that the Hello showed to differ is in this bundle or an earlier one."""
    vpcs: frozenset[Id] = frozenset()
    """Whose updates are in it."""


class TooLarge(Exception):
    """One update exceeds what a message may carry: whose scope, how large, and what to do."""


class Mailbox:
    """See the module. Nothing is taken before `begin`."""

    __slots__ = ("_begun", "_bytes", "_deltas", "_owed", "_syncing", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[Parcel] = []
        self._deltas = self._bytes = 0
        """Waiting deltas and their size."""
        self._owed: dict[Id, bool] = {}
        """Scope -> its snapshot has been asked for."""
        self._begun = False
        self._syncing = False

    def begin(self, parcels: Iterable[Parcel]) -> None:
        """Starts a session: from here on parcels are taken, and the first emptying of the box says `synced`."""
        self.clear()
        self._begun = self._syncing = True
        self.offer(parcels)

    @property
    def begun(self) -> bool:
        """Parcels are taken."""
        return self._begun

    @property
    def waiting(self) -> bool:
        """Something is still to be sent."""
        return bool(self._waiting or self._owed or self._syncing)

    def clear(self) -> None:
        """Ends the session: the box is empty and takes nothing."""
        self._waiting.clear()
        self._owed.clear()
        self._deltas = self._bytes = 0
        self._begun = self._syncing = False

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Takes parcels in, in order; before `begin` they are dropped."""
        if not self._begun:
            return
        for parcel in parcels:
            if parcel.snapshot:
                self.withdraw(parcel.scope)
            elif parcel.scope in self._owed:
                continue
            else:
                self._deltas += 1
                self._bytes += len(parcel.part)
            self._waiting.append(parcel)
        if self._bytes > MAX_WAITING_BYTES or self._deltas > MAX_WAITING_DELTAS:
            self._collapse()

    def withdraw(self, scope: Id) -> None:
        """Forgets what waits of that scope, and that its snapshot is owed."""
        self._owed.pop(scope, None)
        if any(parcel.scope == scope for parcel in self._waiting):
            self._waiting = [parcel for parcel in self._waiting if parcel.scope != scope]
            self._count()

    def ask(self) -> frozenset[Id]:
        """The scopes whose snapshots are owed and have not been asked for; call it when there is room to send."""
        scopes = frozenset(scope for scope, asked in self._owed.items() if not asked)
        self._owed.update((scope, True) for scope in scopes)
        return scopes

    def take(self) -> Load | None:
        """The next bundle's load, the host's own scope first; None when there is nothing to send. Raises TooLarge."""
        if not self._waiting and (self._owed or not self._syncing):
            return None
        self._waiting.sort(key=_host_scope_first)
        parts: list[Part] = []
        size = 0
        for parcel in self._waiting:
            if size + len(parcel.part) > BUNDLE_BYTES and parts:
                break
            if len(parcel.part) > MAX_MESSAGE_BYTES - BUNDLE_HEADROOM:
                scope = "the host's own scope" if parcel.scope == HOST_SCOPE else f"VPC {parcel.scope.hex()}"
                raise TooLarge(
                    f"one update of {scope} has {len(parcel.part)} bytes, a message carries at most"
                    f" {MAX_MESSAGE_BYTES}: split the VPC or spread its ports over more hosts"
                )
            size += len(parcel.part)
            parts.append(parcel.part)
        vpcs = frozenset(parcel.scope for parcel in self._waiting[: len(parts)] if parcel.scope != HOST_SCOPE)
        del self._waiting[: len(parts)]
        self._count()
        synced = self._syncing and not self._waiting and not self._owed
        if synced:
            self._syncing = False
        return Load(parts, synced, vpcs)

    def _collapse(self) -> None:
        """Owes a snapshot of every scope that deltas wait of, in their stead; snapshots without deltas stay."""
        late = {parcel.scope for parcel in self._waiting if not parcel.snapshot}
        self._owed.update(dict.fromkeys(sorted(late), False))
        self._waiting = [parcel for parcel in self._waiting if parcel.scope not in late]
        self._count()

    def _count(self) -> None:
        deltas = [len(parcel.part) for parcel in self._waiting if not parcel.snapshot]
        self._deltas, self._bytes = len(deltas), sum(deltas)


def _host_scope_first(parcel: Parcel) -> bool:
    """Sort key; sorting is stable, so within a scope the order stays that of the offers."""
    return parcel.scope != HOST_SCOPE
