"""Which hosts need which VPCs. Pure. Called by the loops, with what `delta` says has changed.

A host needs a VPC while it runs a port of it, or of one that a router or a peering connects with it: then a packet of
that port may go there. It needs no VPC that is farther away: what is behind a next hop is the next hop's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alcor.model.ids import Id


class Subscriptions:
    """Which hosts need which VPCs: those that they run ports of, by counting, and those that routers and peerings
    connect with these."""

    def __init__(
        self, rows: Iterable[tuple[Id, str, int]] = (), roads: Mapping[Id, tuple[Id, ...]] | None = None
    ) -> None:
        """From (network, host, bound ports), as the store counts them, and what each router and peering connects."""
        self._counts: dict[Id, dict[str, int]] = {}
        """VPC -> host -> its ports there."""
        self._roads: dict[Id, tuple[Id, ...]] = {}
        self._roads_of: dict[Id, set[Id]] = {}
        self._needed: dict[Id, set[str]] = {}
        self._vpcs: dict[str, set[Id]] = {}
        self.shift({(host, vpc): count for vpc, host, count in rows}, roads or {})

    def shift(
        self, bound: Mapping[tuple[str, Id], int], roads: Mapping[Id, tuple[Id, ...]] | None = None
    ) -> tuple[list[tuple[str, Id]], list[tuple[str, Id]]]:
        """Takes in `Delta.bound` and `Delta.roads`; returns the (host, VPC) pairs that started and those that ended."""
        touched: dict[tuple[str, Id], None] = {}
        for (host, vpc), change in bound.items():
            if self._count(host, vpc, change):
                touched.update(((host, near), None) for near in sorted(self._near(vpc)))
        for identifier, vpcs in (roads or {}).items():
            reached = self._carriers(self._roads.get(identifier, ()))
            affected = {*self._roads.get(identifier, ()), *vpcs}
            self._connect(identifier, vpcs)
            touched.update(((host, vpc), None) for host in reached | self._carriers(vpcs) for vpc in affected)
        started: list[tuple[str, Id]] = []
        ended: list[tuple[str, Id]] = []
        for host, vpc in sorted(touched) if roads else touched:
            before, now = self.needs(host, vpc), self._is_needed(host, vpc)
            if now and not before:
                started.append((host, vpc))
                self._needed.setdefault(vpc, set()).add(host)
                self._vpcs.setdefault(host, set()).add(vpc)
            elif before and not now:
                ended.append((host, vpc))
                self._needed[vpc].discard(host)
                self._vpcs[host].discard(vpc)
                if not self._needed[vpc]:
                    del self._needed[vpc]
        return started, ended

    def hosts(self, vpc: Id) -> list[str]:
        """The hosts that need the VPC, sorted."""
        return sorted(self._needed.get(vpc, ()))

    def ports(self, vpc: Id) -> int:
        """The VPC's bound ports; it takes a step for each of its hosts."""
        return sum(self._counts.get(vpc, {}).values())

    def carriers(self, vpc: Id) -> dict[str, int]:
        """Host -> its ports of the VPC."""
        return self._counts.get(vpc, {})

    def vpcs(self, host: str) -> list[Id]:
        """The VPCs that the host needs, sorted."""
        return sorted(self._vpcs.get(host, ()))

    def needs(self, host: str, vpc: Id) -> bool:
        """True while the host runs a port of the VPC, or of one that is connected with it."""
        return host in self._needed.get(vpc, ())

    def _count(self, host: str, vpc: Id, change: int) -> bool:
        """True when the host runs its first port of the VPC, or no more."""
        counts = self._counts.setdefault(vpc, {})
        before = counts.get(host, 0)
        after = before + change
        if after < 0:
            raise ValueError(f"host {host} would have {after} ports of a VPC: commits were skipped or repeated")
        if after:
            counts[host] = after
        else:
            counts.pop(host, None)
        if not counts:
            del self._counts[vpc]
        return bool(before) != bool(after)

    def _connect(self, identifier: Id, vpcs: tuple[Id, ...]) -> None:
        for vpc in self._roads.pop(identifier, ()):
            self._roads_of[vpc].discard(identifier)
            if not self._roads_of[vpc]:
                del self._roads_of[vpc]
        if vpcs:
            self._roads[identifier] = vpcs
            for vpc in vpcs:
                self._roads_of.setdefault(vpc, set()).add(identifier)

    def _near(self, vpc: Id) -> set[Id]:
        """The VPC, and those that are connected with it."""
        return {vpc, *(near for road in self._roads_of.get(vpc, ()) for near in self._roads[road])}

    def _carriers(self, vpcs: Iterable[Id]) -> set[str]:
        return {host for vpc in vpcs for host in self._counts.get(vpc, ())}

    def _is_needed(self, host: str, vpc: Id) -> bool:
        return any(host in self._counts.get(near, ()) for near in self._near(vpc))
