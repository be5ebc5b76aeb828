"""Which subnets a network's ports can send to, by routers and peerings, and that no two of them share an address. Pure.

Called by the services of routers, peerings, subnets and networks before they connect anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from alcor.model.addresses import Prefix
from alcor.model.ids import Id
from alcor.model.nouns import Peering, Router, Subnet
from alcor.services.indexes import Indexes


class Clash(NamedTuple):
    """Two subnets that share an address, and the network that would reach both."""

    network_id: Id
    one: Id
    one_cidr: Prefix
    other: Id
    other_cidr: Prefix


def find_clash(
    indexes: Indexes,
    network_ids: Iterable[Id],
    *,
    road: Router | Peering | None = None,
    subnets: Iterable[Subnet] = (),
) -> Clash | None:
    """The first clash in what these networks would reach: with `road` as it will be, and `subnets` made."""
    fresh: dict[Id, dict[Id, Prefix]] = {}
    for subnet in subnets:
        fresh.setdefault(subnet.network_id, {})[subnet.id] = subnet.cidr
    for network_id in network_ids:
        roads = {one.id: one for one in indexes.roads(network_id)}
        if road is not None:
            roads[road.id] = road
        found = _subnets(indexes, network_id, fresh)
        for one in roads.values():
            if isinstance(one, Router):
                found |= {interface.subnet_id: interface.cidr for interface in one.interfaces}
            else:
                for peer in one.networks:
                    found |= _subnets(indexes, peer, fresh)
        clash = _overlap(network_id, found)
        if clash is not None:
            return clash
    return None


def near(indexes: Indexes, network_id: Id) -> list[Id]:
    """The network, and those that reach all of its subnets: its peers. Sorted."""
    peers = {one for road in indexes.roads(network_id) if isinstance(road, Peering) for one in road.networks}
    return sorted(peers | {network_id})


def _subnets(indexes: Indexes, network_id: Id, fresh: Mapping[Id, dict[Id, Prefix]]) -> dict[Id, Prefix]:
    known = {one.id: one.cidr for one in indexes.subnets_of.get(network_id, {}).values()}
    return known | fresh.get(network_id, {})


def _overlap(network_id: Id, found: Mapping[Id, Prefix]) -> Clash | None:
    """In the order of their addresses, overlapping prefixes stand next to each other."""
    ordered = sorted((cidr.version, cidr.first, -cidr.size, subnet_id) for subnet_id, cidr in found.items())
    for (_, _, _, one), (_, _, _, other) in pairwise(ordered):
        if found[one].overlaps(found[other]):
            return Clash(network_id, one, found[one], other, found[other])
    return None
