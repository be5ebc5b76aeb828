"""What services know without asking the store: networks, subnets, nodes, allocators, counts. Not the ports.

Made and owned by the writer thread (loops.commit); services read it, and only `apply` changes it, after the whole
command was computed: a command that fails leaves nothing. Allocators are rebuilt from the store when a subnet or a
network is first touched, and dropped again, oldest use first, beyond `MAX_ALLOCATORS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from alcor.model.addresses import Ip
from alcor.model.allocation import (
    Allocation,
    Allocator,
    address_allocator,
    mac_allocator,
    pool_ranges,
    vni_allocator,
)
from alcor.model.ids import Id
from alcor.model.nouns import Network, Node, Port, Subnet
from alcor.store.base import Changes, Store

DEFAULT_MAX_MTU = 1450
"""An underlay of 1500 bytes less the 50 of VXLAN over IPv4."""
MAX_ALLOCATORS = 50_000


class Stamp(NamedTuple):
    """What the outside world gives to a command: the number and time of its commit, and ids, one for each spec."""

    revision: int
    now: int
    ids: Sequence[Id]


class Outcome(NamedTuple):
    """What a command comes to: the answer, the rows, and what `Indexes.apply` does to the allocators."""

    answer: object
    changes: Changes
    allocations: tuple[tuple[Allocator, Allocation], ...] = ()


class Indexes:
    """The control plane's memory of one partition. See the module."""

    def __init__(self, store: Store, *, max_mtu: int = DEFAULT_MAX_MTU) -> None:
        self.max_mtu = max_mtu
        self.networks: dict[Id, Network] = {network.id: network for network in store.networks()}
        self.subnets: dict[Id, Subnet] = {}
        self.subnets_of: dict[Id, dict[Id, Subnet]] = {}
        """Network -> its subnets, in the order of creation."""
        self.nodes: dict[Id, Node] = {}
        self.node_named: dict[str, Id] = {}
        self.node_at: dict[Ip, Id] = {}
        """Underlay address -> node."""
        self.ports_on: Counter[str] = Counter()
        """Host -> how many ports are bound to it."""
        self.vnis = vni_allocator()
        self._store = store
        self._addresses: dict[Id, Allocator] = {}
        self._macs: dict[Id, Allocator] = {}
        self.vnis.restore(network.vni for network in self.networks.values())
        for subnet in sorted(store.subnets(), key=lambda subnet: subnet.id):
            self._put_subnet(subnet)
        for node in store.nodes():
            self._put_node(node)
        for _, host, count in store.hosts_of_networks():
            self.ports_on[host] += count

    def addresses(self, subnet: Subnet) -> Allocator:
        """The allocator of the subnet's addresses (offsets from its first)."""
        allocator = self._addresses.pop(subnet.id, None)
        if allocator is None:
            allocator = address_allocator(subnet.cidr, subnet.pools)
            allocator.restore(self._store.allocated_addresses(subnet.id))
        self._addresses[subnet.id] = allocator
        return allocator

    def macs(self, network_id: Id) -> Allocator:
        """The allocator of the network's MACs. Every port has one, so its length is the number of ports."""
        allocator = self._macs.pop(network_id, None)
        if allocator is None:
            allocator = mac_allocator(network_id)
            allocator.restore(self._store.allocated_macs(network_id))
        self._macs[network_id] = allocator
        return allocator

    def apply(self, outcome: Outcome) -> None:
        """Makes an outcome so. It is not durable yet: a failing commit ends the process."""
        changes = outcome.changes
        for allocator, allocation in outcome.allocations:
            allocator.apply(allocation)
        for network in changes.networks:
            self.networks[network.id] = network
        for subnet in changes.subnets:
            self._put_subnet(subnet)
        for node in changes.nodes:
            self._put_node(node)
        self._count_ports(changes)
        for subnet in changes.deleted_subnets:
            del self.subnets[subnet.id]
            del self.subnets_of[subnet.network_id][subnet.id]
            self._addresses.pop(subnet.id, None)
        for network in changes.deleted_networks:
            del self.networks[network.id]
            self.subnets_of.pop(network.id, None)
            self._macs.pop(network.id, None)
        for node in changes.deleted_nodes:
            del self.nodes[node.id]
            del self.node_named[node.name]
            del self.node_at[node.underlay_ip]

    def trim(self) -> None:
        """Drops allocators beyond the bound. Call it only while nothing is applied and not committed."""
        for allocators in (self._addresses, self._macs):
            while len(allocators) > MAX_ALLOCATORS:
                del allocators[next(iter(allocators))]

    def loaded(self) -> tuple[dict[Id, Allocator], dict[Id, Allocator]]:
        """The allocators in memory, by subnet and by network (for the invariant checker)."""
        return self._addresses, self._macs

    @property
    def store(self) -> Store:
        """Where allocators are rebuilt from (for the invariant checker)."""
        return self._store

    def _put_subnet(self, subnet: Subnet) -> None:
        before = self.subnets.get(subnet.id)
        self.subnets[subnet.id] = subnet
        self.subnets_of.setdefault(subnet.network_id, {})[subnet.id] = subnet
        if before is not None and before.pools != subnet.pools and subnet.id in self._addresses:
            self._addresses[subnet.id].reshape(pool_ranges(subnet.cidr, subnet.pools))

    def _put_node(self, node: Node) -> None:
        before = self.nodes.get(node.id)
        if before is not None:
            del self.node_at[before.underlay_ip]
        self.nodes[node.id] = node
        self.node_named[node.name] = node.id
        self.node_at[node.underlay_ip] = node.id

    def _count_ports(self, changes: Changes) -> None:
        for port in changes.new_ports:
            self._count(port, 1)
        for before, after in changes.changed_ports:
            if before.host != after.host:
                self._count(before, -1)
                self._count(after, 1)
        for port in changes.deleted_ports:
            self._count(port, -1)

    def _count(self, port: Port, step: int) -> None:
        if port.host:
            self.ports_on[port.host] += step
            if not self.ports_on[port.host]:
                del self.ports_on[port.host]
