"""Catching up: what a host that comes back missed of a scope, while that is known and little. Owned by publish.

The scope's objects are built from rows and views as they are, so what is sent is a function of the present state and of
which keys changed; and it says which digest must come of it. Rows that are newer than the last published commit do not
belong to that digest: then, as when too much was missed, the answer is None, and the scope is sent whole.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from alcor.goalstate.catchup import catch_up
from alcor.goalstate.delta import Delta
from alcor.goalstate.objects import HOST_SCOPE, Kind, ScopeUpdate
from alcor.goalstate.snapshot import port_goal
from alcor.loops.history import Changed, keys_of, read_history
from alcor.loops.views import Views
from alcor.model.ids import Id
from alcor.model.nouns import Port
from alcor.paths.base import Parcel
from alcor.store.base import Store
from alcor.wire.codec import encode_part

MAX_READY = 256
"""Encoded deltas that are kept: hosts of a VPC come back together, and most missed the same."""


class CatchUp:
    """See the module."""

    def __init__(self, store: Store, views: Views) -> None:
        """Reads the change log; nobody may write meanwhile."""
        self._store = store
        self._views = views
        self._history = read_history(store, views)
        self._ready: OrderedDict[tuple[Id, int, int], Parcel] = OrderedDict()
        """(VPC, since, published) -> the delta."""
        self.deltas = 0
        """Scopes that were answered for with less than all."""

    def publish(self, changed: Delta, anew: Iterable[Id], gone: Iterable[Id], revision: int) -> None:
        """What is published; the VPCs that are `anew` are other scopes from now on."""
        for host, update in changed.hosts.items():
            self._history.note(host, revision, keys_of(update))
        for vpc, update in changed.vpcs.items():
            self._history.note(vpc, revision, keys_of(update))
        for vpc in anew:
            self._history.cut(vpc, revision)
        for vpc in gone:
            self._history.forget(vpc)

    def host(
        self, host: str, since: int, rows: Sequence[Port], unsettled: Iterable[Port], digest: int
    ) -> Parcel | None:
        """The host's own scope, from its rows; the `unsettled` are named in any case."""
        missed = self._history.since(host, since)
        revision = self._views.revision
        if missed is None or any(row.revision > revision for row in rows):
            return None
        missed.update(((Kind.PORT, row.id), row.revision) for row in rows if row.revision > since)
        missed.update(((Kind.PORT, row.id), row.revision) for row in unsettled)
        update = catch_up(HOST_SCOPE, revision, missed, [port_goal(row) for row in rows], digest)
        self.deltas += 1
        return Parcel(HOST_SCOPE, encode_part(update), False)

    async def vpc(self, vpc: Id, since: int, digest: int) -> Parcel | None:
        """A VPC's scope, whose digest is `digest`."""
        revision = self._views.revision
        ready = self._ready.get((vpc, since, revision))
        if ready is None:
            missed = self._history.since(vpc, since)
            if missed is None:
                return None
            update = await self._missed(vpc, missed, digest)
            if update is None:
                return None
            ready = self._ready[vpc, since, revision] = Parcel(vpc, encode_part(update), False)
            if len(self._ready) > MAX_READY:
                self._ready.popitem(last=False)
        self.deltas += 1
        return ready

    async def _missed(self, vpc: Id, missed: dict[Changed, int], digest: int) -> ScopeUpdate | None:
        views = self._views
        network = views.networks[vpc]
        if network.on_demand:
            missed = {key: revision for key, revision in missed.items() if key[0] is not Kind.ENDPOINT}
        ports = sorted({identifier for kind, identifier in missed if kind in (Kind.ENDPOINT, Kind.NAME)})
        rows = await asyncio.to_thread(self._store.get_ports, ports) if ports else []
        if any(row.revision > views.revision for row in rows):
            return None
        present = list(views.snapshot(network, rows).objects)
        return catch_up(vpc, views.revision, missed, present, digest)
