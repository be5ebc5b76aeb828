"""Which networks are too large to be preloaded. Pure: (indexes, changes) -> network rows.

Called by loops.commit with the whole batch, before it is written: a network crosses the threshold in the very commit
that makes it cross, so no host is ever told of more endpoints than it is to hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from alcor.model.ids import Id
from alcor.model.nouns import Network, Peering, Router
from alcor.services.indexes import Indexes
from alcor.store.base import Changes


class DemandPolicy(NamedTuple):
    """Ports of a network and of those that routers and peerings connect with it: what a host of it holds.
    Between the two bounds it stays as it is: one that hovers does not flap."""

    above: int = 10_000
    """More than so many: its hosts ask on demand."""
    below: int = 8_000
    """Fewer than so many: its hosts are preloaded again."""

    def decide(self, ports: int, on_demand: bool) -> bool:
        """Whether a network of so many ports is to be on demand, given that it is or is not."""
        return ports >= self.below if on_demand else ports > self.above


def demand_policy(above: int) -> DemandPolicy:
    """The policy of that threshold, its lower bound a fifth below."""
    return DemandPolicy(above, above - above // 5)


def review(indexes: Indexes, changes: Changes, policy: DemandPolicy, revision: int) -> list[Network]:
    """The networks that cross a threshold with these changes, as rows to be written. `indexes` have the changes."""
    crossed = []
    touched = _touched(changes)
    touched.update([near for network_id in touched for near in indexes.neighbours(network_id)])
    for network_id in sorted(touched):
        network = indexes.networks.get(network_id)
        if network is None:
            continue
        held = (network_id, *indexes.neighbours(network_id))
        wanted = policy.decide(sum(len(indexes.macs(one)) for one in held), network.on_demand)
        if wanted != network.on_demand:
            crossed.append(replace(network, on_demand=wanted, revision=revision))
    return crossed


def _touched(changes: Changes) -> set[Id]:
    ports: Iterable[Id] = (port.network_id for port in changes.new_ports)
    roads: tuple[Router | Peering, ...] = (*changes.routers, *changes.peerings, *changes.deleted_peerings)
    connected = {network_id for road in roads for network_id in road.networks}
    return {*ports, *(port.network_id for port in changes.deleted_ports), *connected}
