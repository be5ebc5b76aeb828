"""What services know without asking the store: networks, subnets, nodes, groups, allocators, counts. Not the ports.

Made and owned by the writer thread (loops.commit); services read it, and only `apply` changes it, after the whole
command was computed: a command that fails leaves nothing. Allocators are rebuilt from the store when a subnet or a
network is first touched, and dropped again, oldest use first, beyond `MAX_ALLOCATORS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
from alcor.model.nouns import (
    FloatingIp,
    Identity,
    Network,
    Node,
    Peering,
    Port,
    PortForwarding,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
)
from alcor.services.balancing import BalancingIndex
from alcor.services.claimants import Claimants
from alcor.services.open_subnets import OpenSubnets
from alcor.services.qos_index import QosIndex
from alcor.store.base import Changes, Store

DEFAULT_MAX_MTU = 1450
"""An underlay of 1500 bytes less the 50 of VXLAN over IPv4."""
MAX_ALLOCATORS = 50_000


def _no_more(count: int) -> Sequence[Id]:
    raise TypeError(f"this command has no ids to spare, {count} are asked for")


class Stamp(NamedTuple):
    """What the outside world gives to a command: the number and time of its commit, and ids, one for each spec."""

    revision: int
    now: int
    ids: Sequence[Id]
    spare: Callable[[int], Sequence[Id]] = _no_more
    """So many ids beyond those, for what a command makes by the way."""


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
        self.external: set[Id] = {network.id for network in self.networks.values() if network.external}
        """Those of the networks that are outside."""
        self.subnets: dict[Id, Subnet] = {}
        self.subnets_of: dict[Id, dict[Id, Subnet]] = {}
        """Network -> its subnets, in the order of creation."""
        self.nodes: dict[Id, Node] = {}
        self.node_named: dict[str, Id] = {}
        self.node_at: dict[Ip, Id] = {}
        """Underlay address -> node."""
        self.ports_on: Counter[str] = Counter()
        """Host -> how many ports are bound to it."""
        self.security_groups: dict[Id, SecurityGroup] = {}
        self.groups_of: dict[str, set[Id]] = {}
        """Project -> its groups."""
        self.default_groups: dict[str, Id] = {}
        """Project -> its default group."""
        self.rules: dict[Id, SecurityGroupRule] = {}
        self.rules_of: dict[Id, dict[Id, SecurityGroupRule]] = {}
        """Group -> its rules."""
        self.rules_in_project: Counter[str] = Counter()
        self.identities: dict[Id, dict[tuple[Id, ...], Identity]] = {}
        """Network -> set of groups -> what stands for it there."""
        self.last_identity: dict[Id, int] = {}
        """Network -> the last number given out."""
        self.ports_with: Counter[tuple[Id, int]] = Counter()
        """(network, identity) -> how many ports have it."""
        self.qos = QosIndex(store)
        self.routers: dict[Id, Router] = {}
        self.router_of: dict[Id, Id] = {}
        """Port -> the router whose interface it is."""
        self.open_subnets = OpenSubnets(store.rows(Router))
        self.peerings: dict[Id, Peering] = {}
        self.roads_of: dict[Id, set[Id]] = {}
        """Network -> the routers and peerings that it has."""
        self.floating_ips: dict[Id, FloatingIp] = {}
        self.floating_ips_of: dict[Id, set[Id]] = {}
        """Port -> those that stand for its addresses."""
        self.floating_ips_at: dict[Id, set[Id]] = {}
        """Port -> those whose anchor it is."""
        self.port_forwardings: dict[Id, PortForwarding] = {}
        self.forwardings_by: dict[Id, set[Id]] = {}
        """Floating IP -> its port forwardings."""
        self.forwardings_of: dict[Id, set[Id]] = {}
        """Port -> those that lead to it."""
        self.floating_ips_via: dict[Id, set[Id]] = {}
        """Router -> those that it leads to."""
        self.balancing = BalancingIndex(store)
        self.claims = Claimants(store.claiming_ports())
        self.vnis = vni_allocator()
        self._store = store
        self._addresses: dict[Id, Allocator] = {}
        self._macs: dict[Id, Allocator] = {}
        self.vnis.restore(network.vni for network in self.networks.values())
        for subnet in sorted(store.subnets(), key=lambda subnet: subnet.id):
            self._put_subnet(subnet)
        self._load_hosts(store)
        for group in store.security_groups():
            self._put_group(group)
        for rule in store.security_group_rules():
            self._put_rule(rule)
        for identity in store.identities():
            self._put_identity(identity)
        self._load_roads(store)
        for network_id, number, count in store.ports_of_identities():
            self.ports_with[network_id, number] = count
        self._load_outside(store)

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
            (self.external.add if network.external else self.external.discard)(network.id)
        for subnet in changes.subnets:
            self._put_subnet(subnet)
        for node in changes.nodes:
            self._put_node(node)
        for group in changes.security_groups:
            self._put_group(group)
        for rule in changes.rules:
            self._put_rule(rule)
        for identity in changes.identities:
            self._put_identity(identity)
        for router in changes.deleted_routers:
            self._drop_road(router)
        for peering in changes.deleted_peerings:
            self._drop_road(peering)
        for router in changes.routers:
            self._put_router(router)
        for peering in changes.peerings:
            self._put_peering(peering)
        for fip in changes.floating_ips:
            self._put_floating_ip(fip)
        for fip in changes.deleted_floating_ips:
            self._drop_floating_ip(fip.id)
        for one in changes.port_forwardings:
            self._put_forwarding(one)
        for one in changes.deleted_port_forwardings:
            self._drop_forwarding(one.id)
        self.open_subnets.apply(changes)
        self.balancing.apply(changes)
        self.claims.apply(changes)
        self._count_ports(changes)
        self.qos.apply(changes)
        self._drop_groups(changes)
        for subnet in changes.deleted_subnets:
            del self.subnets[subnet.id]
            del self.subnets_of[subnet.network_id][subnet.id]
            self._addresses.pop(subnet.id, None)
        for network in changes.deleted_networks:
            del self.networks[network.id]
            self.external.discard(network.id)
            self.subnets_of.pop(network.id, None)
            self._macs.pop(network.id, None)
            self.identities.pop(network.id, None)
            self.last_identity.pop(network.id, None)
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

    def identities_with(self, group_id: Id) -> list[Identity]:
        """The identities of all networks that name the group, sorted."""
        found = [one for known in self.identities.values() for groups, one in known.items() if group_id in groups]
        return sorted(found, key=lambda one: (one.network_id, one.number))

    def roads(self, network_id: Id) -> list[Router | Peering]:
        """The routers (up or down) and peerings that the network has, in the order of creation."""
        return [self.routers.get(one) or self.peerings[one] for one in sorted(self.roads_of.get(network_id, ()))]

    def neighbours(self, network_id: Id) -> list[Id]:
        """The networks that a router or a peering connects with this one, sorted."""
        return sorted({one for road in self.roads(network_id) for one in road.networks} - {network_id})

    def _put_router(self, router: Router) -> None:
        before = self.routers.get(router.id)
        if before is not None:
            self._drop_road(before)
        self.routers[router.id] = router
        self.router_of.update((one.port_id, router.id) for one in router.interfaces)
        self._add_road(router)

    def _put_peering(self, peering: Peering) -> None:
        self.peerings[peering.id] = peering
        self._add_road(peering)

    def _add_road(self, road: Router | Peering) -> None:
        for network_id in road.networks:
            self.roads_of.setdefault(network_id, set()).add(road.id)

    def _drop_road(self, road: Router | Peering) -> None:
        for network_id in road.networks:
            self.roads_of[network_id].discard(road.id)
            if not self.roads_of[network_id]:
                del self.roads_of[network_id]
        if isinstance(road, Router):
            del self.routers[road.id]
            for one in road.interfaces:
                del self.router_of[one.port_id]
        else:
            del self.peerings[road.id]

    def _put_group(self, group: SecurityGroup) -> None:
        self.security_groups[group.id] = group
        self.groups_of.setdefault(group.project_id, set()).add(group.id)
        if group.name == "default":
            self.default_groups[group.project_id] = group.id

    def _put_rule(self, rule: SecurityGroupRule) -> None:
        self.rules[rule.id] = rule
        self.rules_of.setdefault(rule.group_id, {})[rule.id] = rule
        self.rules_in_project[rule.project_id] += 1

    def _put_identity(self, identity: Identity) -> None:
        self.identities.setdefault(identity.network_id, {})[identity.groups] = identity
        self.last_identity[identity.network_id] = max(identity.number, self.last_identity.get(identity.network_id, 0))

    def _load_hosts(self, store: Store) -> None:
        for node in store.nodes():
            self._put_node(node)
        for _, host, count in store.hosts_of_networks():
            self.ports_on[host] += count

    def _load_roads(self, store: Store) -> None:
        for router in store.rows(Router):
            self._put_router(router)
        for peering in store.rows(Peering):
            self._put_peering(peering)

    def _load_outside(self, store: Store) -> None:
        for fip in store.rows(FloatingIp):
            self._put_floating_ip(fip)
        for one in store.rows(PortForwarding):
            self._put_forwarding(one)

    def _put_floating_ip(self, fip: FloatingIp) -> None:
        self._drop_floating_ip(fip.id)
        self.floating_ips[fip.id] = fip
        for users, key in self._users(fip):
            if key is not None:
                users.setdefault(key, set()).add(fip.id)

    def _drop_floating_ip(self, identifier: Id) -> None:
        before = self.floating_ips.pop(identifier, None)
        if before is None:
            return
        for users, key in self._users(before):
            if key is not None:
                users[key].discard(identifier)
                if not users[key]:
                    del users[key]

    def _users(self, fip: FloatingIp) -> tuple[tuple[dict[Id, set[Id]], Id | None], ...]:
        """Who names it where."""
        return (
            (self.floating_ips_of, fip.port_id),
            (self.floating_ips_via, fip.router_id),
            (self.floating_ips_at, fip.anchor_id),
        )

    def _put_forwarding(self, one: PortForwarding) -> None:
        self.port_forwardings[one.id] = one
        self.forwardings_by.setdefault(one.floating_ip_id, set()).add(one.id)
        self.forwardings_of.setdefault(one.port_id, set()).add(one.id)

    def _drop_forwarding(self, identifier: Id) -> None:
        gone = self.port_forwardings.pop(identifier)
        for users, key in ((self.forwardings_by, gone.floating_ip_id), (self.forwardings_of, gone.port_id)):
            users[key].discard(identifier)
            if not users[key]:
                del users[key]

    def router_between(self, subnet_id: Id, network_id: Id) -> Id | None:
        """The router with an address in the subnet and a gateway on the external network."""
        for road in self.roads(self.subnets[subnet_id].network_id):
            if not isinstance(road, Router) or road.gateway is None or road.gateway.network_id != network_id:
                continue
            if any(one.subnet_id == subnet_id for one in road.interfaces):
                return road.id
        return None

    def _drop_groups(self, changes: Changes) -> None:
        for rule in changes.deleted_rules:
            del self.rules[rule.id]
            self.rules_of[rule.group_id].pop(rule.id)
            self.rules_in_project[rule.project_id] -= 1
        for identity in changes.deleted_identities:
            self.identities[identity.network_id].pop(identity.groups)
        for group in changes.deleted_security_groups:
            del self.security_groups[group.id]
            self.groups_of[group.project_id].discard(group.id)
            self.rules_of.pop(group.id, None)

    def _count_ports(self, changes: Changes) -> None:
        for port in changes.new_ports:
            self._count(port, 1)
        for before, after in changes.changed_ports:
            if (before.host, before.identity) != (after.host, after.identity):
                self._count(before, -1)
                self._count(after, 1)
        for port in changes.deleted_ports:
            self._count(port, -1)

    def _count(self, port: Port, step: int) -> None:
        if port.identity:
            named = port.network_id, port.identity
            self.ports_with[named] += step
            if not self.ports_with[named]:
                del self.ports_with[named]
        if port.host:
            self.ports_on[port.host] += step
            if not self.ports_on[port.host]:
                del self.ports_on[port.host]
