"""Which IPv6 subnets are open: outside with their own addresses. Part of Indexes. Pure.

A subnet is open while a router that has an interface in it has a gateway, and it lies inside that gateway's external
subnet. Outside there is one of each address, so no two open subnets of the region share one; that is looked up here,
whatever number of subnets there is.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import NamedTuple

from alcor.model.addresses import Ip, Prefix, ip_to_int, ip_version
from alcor.model.ids import Id
from alcor.model.nouns import Router
from alcor.store.base import Changes


class OpenSubnet(NamedTuple):
    """A subnet, and its addresses."""

    cidr: Prefix
    subnet_id: Id


class OpenSubnets:
    """See the module. Kept up to date by `apply`."""

    def __init__(self, routers: Iterable[Router] = ()) -> None:
        self._at: dict[int, OpenSubnet] = {}
        """First address -> the subnet that begins there."""
        self._starts: list[int] = []
        """Sorted. Open subnets share no address, so in the order of their ends, too."""
        self._by: dict[Id, set[Id]] = {}
        """Subnet -> the routers that it is open by."""
        self._of: dict[Id, tuple[OpenSubnet, ...]] = {}
        """Router -> what is open by it."""
        for router in routers:
            self._join(router)
        self._starts = sorted(self._at)

    def apply(self, changes: Changes) -> None:
        """Takes in what a command changed."""
        for router in changes.deleted_routers:
            self._put(router.id, ())
        for router in changes.routers:
            self._put(router.id, _open(router))

    def sharing(self, first: Ip, last: Ip, *, but: Id | None = None) -> OpenSubnet | None:
        """An open subnet, other than that one, with an address from `first` to `last`."""
        low, high = ip_to_int(first), ip_to_int(last)
        if ip_version(first) == 4:
            return None
        at = bisect_right(self._starts, high)
        while at:
            at -= 1
            found = self._at[self._starts[at]]
            if found.cidr.first + found.cidr.size <= low:
                return None
            if found.subnet_id != but:
                return found
        return None

    def all(self) -> dict[OpenSubnet, frozenset[Id]]:
        """Each with the routers that it is open by (for the invariant checker)."""
        return {one: frozenset(self._by[one.subnet_id]) for one in self._at.values()}

    def ordered(self) -> list[OpenSubnet]:
        """By address (for the invariant checker)."""
        return [self._at[start] for start in self._starts]

    def _put(self, router_id: Id, now: tuple[OpenSubnet, ...]) -> None:
        before = self._of.pop(router_id, ())
        if now:
            self._of[router_id] = now
        for one in set(now) - set(before):
            if one.subnet_id not in self._by:
                self._at[one.cidr.first] = one
                insort(self._starts, one.cidr.first)
            self._by.setdefault(one.subnet_id, set()).add(router_id)
        for one in set(before) - set(now):
            routers = self._by[one.subnet_id]
            routers.discard(router_id)
            if not routers:
                del self._by[one.subnet_id]
                del self._at[one.cidr.first]
                del self._starts[bisect_right(self._starts, one.cidr.first) - 1]

    def _join(self, router: Router) -> None:
        """At the start, when nothing is sorted yet."""
        found = _open(router)
        if found:
            self._of[router.id] = found
        for one in found:
            self._at[one.cidr.first] = one
            self._by.setdefault(one.subnet_id, set()).add(router.id)


def _open(router: Router) -> tuple[OpenSubnet, ...]:
    return tuple([OpenSubnet(one.cidr, one.subnet_id) for one in router.open_interfaces])
