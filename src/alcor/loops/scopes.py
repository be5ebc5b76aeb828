"""The scopes of VPCs, encoded once and kept: what a host that starts to carry a VPC is sent. Called by publish.

An entry is a snapshot and the deltas since, so that the next host costs no reading and no encoding, however large the
VPC. When the deltas have grown to half of the snapshot the entry is dropped; the next asker pays for a new one.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from alcor.model.ids import Id
from alcor.paths.base import Parcel

MAX_CACHE_BYTES = 256 << 20
"""Of encoded scopes; beyond it the least recently used go."""
MIN_DELTA_BYTES = 256 << 10
"""Deltas up to this are kept beside a snapshot of whatever size."""


class _Entry(msgspec.Struct):
    snapshot: Parcel
    digest: int | None
    """Of the whole entry; None once a delta was added."""
    deltas: list[Parcel]
    delta_bytes: int


class VpcScopes:
    """See the module. Bounded."""

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._entries: OrderedDict[Id, _Entry] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0

    def get(self, vpc: Id) -> list[Parcel] | None:
        """The VPC's whole scope, to be sent in this order; None when it is not kept."""
        entry = self._entries.get(vpc)
        if entry is None:
            return None
        self._entries.move_to_end(vpc)
        return [entry.snapshot, *entry.deltas]

    def digest(self, vpc: Id) -> int | None:
        """The scope's digest; None when it is not kept, or changed since it was read."""
        entry = self._entries.get(vpc)
        return entry.digest if entry is not None else None

    def put(self, snapshot: Parcel, digest: int) -> None:
        """Keeps a scope as just read."""
        self.drop(snapshot.scope)
        self._entries[snapshot.scope] = _Entry(snapshot, digest, [], 0)
        self._bytes += len(snapshot.part)
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            self.drop(next(iter(self._entries)))

    def extend(self, delta: Parcel) -> None:
        """Adds what changed, if the scope is kept."""
        entry = self._entries.get(delta.scope)
        if entry is None:
            return
        if entry.delta_bytes + len(delta.part) > max(MIN_DELTA_BYTES, len(entry.snapshot.part) // 2):
            self.drop(delta.scope)
            return
        entry.deltas.append(delta)
        entry.digest = None
        entry.delta_bytes += len(delta.part)
        self._bytes += len(delta.part)

    def drop(self, vpc: Id) -> None:
        """Forgets the scope."""
        entry = self._entries.pop(vpc, None)
        if entry is not None:
            self._bytes -= len(entry.snapshot.part) + entry.delta_bytes
