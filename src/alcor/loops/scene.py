"""The hosts that one packet may meet, as the model of the data plane holds them: made of rows, as far as the packet can
tell. Called by reachability: "why did this packet not arrive?".

A scene has some ports, what their networks are connected with, and load balancers. Every host of it is taken to have an
external device; which host answers for an external address follows from the ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from alcor.dataplane.balancing import services_of, vips_of
from alcor.dataplane.base import Address, LocalPort, Policy, PolicyKey, Rule, Service, ServiceKey, TranslationKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.state import Carried, State
from alcor.dataplane.fake.tables import ExternalDevice, HostConfig, RemoteRow
from alcor.dataplane.roads import router_addresses
from alcor.goalstate.balancing import Balancers
from alcor.goalstate.objects import BalancerGoal, MemberGoal, PoolGoal
from alcor.goalstate.snapshot import rule_goal
from alcor.loops.surroundings import Surroundings
from alcor.model.addresses import Ip, Mac, with_link_local
from alcor.model.balancing import Balancing, HealthMonitor, Listener, LoadBalancer, Member, MemberPool
from alcor.model.ids import Id
from alcor.model.nouns import Node, Port, PortKind, SecurityGroupRule
from alcor.store.base import Query, Store

EXTERNAL = ExternalDevice(1, Mac(b"\x02alcor"))
"""Every host's, with its interface."""
VXLAN_PORT = 4789
MANY = 100_000


class Balancer(NamedTuple):
    """A load balancer with all that it has."""

    row: LoadBalancer
    members: list[Member]
    goals: Balancers

    def services(self, vni: int) -> dict[ServiceKey, Service]:
        """What hosts make of it."""
        goals = self.goals.goals(self.row.network_id)
        return services_of(
            vni,
            [goal for goal in goals if isinstance(goal, BalancerGoal)],
            {goal.id: goal for goal in goals if isinstance(goal, PoolGoal)},
            [goal for goal in goals if isinstance(goal, MemberGoal)],
        )


def read_balancer(store: Store, network_id: Id, vip: Ip) -> Balancer | None:
    """The load balancer that has the address; None: none has."""
    balancers = store.list_rows(LoadBalancer, Query(filters={"parent": (network_id,)}, limit=MANY))
    row = next((one for one in balancers if one.vip_ip == vip), None)
    if row is None:
        return None
    listeners = store.list_rows(Listener, Query(filters={"parent": (row.id,)}, limit=MANY))
    pools = store.list_rows(MemberPool, Query(filters={"parent": (row.id,)}, limit=MANY))
    owners = tuple(pool.id for pool in pools)
    members: list[Member] = []
    monitors: list[HealthMonitor] = []
    if owners:
        members = store.list_rows(Member, Query(filters={"parent": owners}, limit=MANY))
        monitors = store.list_rows(HealthMonitor, Query(filters={"parent": owners}, limit=MANY))
    rows: list[Balancing] = [row, *listeners, *pools, *members, *monitors]
    return Balancer(row, members, Balancers(rows))


class Scene:
    """See the module."""

    def __init__(
        self,
        around: Mapping[Id, Surroundings],
        ports: Iterable[Port],
        nodes: Mapping[str, Node],
        rules: Sequence[SecurityGroupRule],
        services: Mapping[ServiceKey, Service],
        vips: Mapping[EndpointKey, Mac],
    ) -> None:
        """`around`: of every port's network. `nodes`: of every port's host, by name. `rules`: of all their groups."""
        self.around = around
        self.ports = {port.id: port for port in ports}
        self.nodes = nodes
        self._services, self._vips = services, vips
        self._hosts: dict[str, Carried] = {}
        self.host_at = {node.underlay_ip: node.name for node in nodes.values()}
        self._rows: dict[tuple[Id, Rule], Id] = {}
        """(network, rule as its ports have it) -> the row."""
        self._groups: dict[tuple[Id, Id], list[Rule]] = {}
        """(network, group) -> its rules there."""
        having: dict[tuple[Id, Id], set[int]] = {}
        for surroundings in around.values():
            for identity in surroundings.identities:
                for group in identity.groups:
                    having.setdefault((identity.network_id, group), set()).add(identity.number)
        for network_id in {port.network_id for port in self.ports.values()}:
            for row in rules:
                goal = rule_goal(row)
                who = None if goal.group is None else tuple(sorted(having.get((network_id, goal.group), ())))
                rule = Rule(goal.egress, goal.version, goal.protocol, goal.first, goal.last, goal.prefix, who)
                self._rows.setdefault((network_id, rule), row.id)
                self._groups.setdefault((network_id, row.group_id), []).append(rule)

    def with_services(self, services: Mapping[ServiceKey, Service]) -> Scene:
        """The same, before any packet, with these services."""
        other = object.__new__(Scene)
        other.__dict__.update(self.__dict__)
        other._services, other._hosts = services, {}
        return other

    def vni_of(self, port: Port) -> int:
        """The port's network's."""
        return self.around[port.network_id].networks[port.network_id].vni

    def policy(self, port: Port) -> Policy:
        """What the port's security groups allow."""
        groups = [(port.network_id, group) for group in port.security_groups]
        rules = tuple(rule for group in groups for rule in self._groups.get(group, ()))
        return Policy(PolicyKey(self.vni_of(port), port.identity), rules)

    def row_of(self, port: Port, rule: Rule) -> Id:
        """Whose rule of `policy` it is."""
        return self._rows[port.network_id, rule]

    def seen_by(self, port: Port, other: Port | None) -> int:
        """The identity of the other side as the port's network knows it; 0: nobody's."""
        if other is None or other.network_id == port.network_id:
            return other.identity if other is not None else 0
        known = self.around[port.network_id]
        if other.network_id not in known.networks:
            return 0
        vnis = known.networks[other.network_id].vni, known.networks[port.network_id].vni
        return known.translations().get(TranslationKey(vnis[0], other.identity, vnis[1]), 0)

    def host(self, name: str) -> Carried:
        """The host as it is after the packets that it met."""
        if name not in self._hosts:
            self._hosts[name] = self._make(self.nodes[name])
        return self._hosts[name]

    def port_at(self, host: str, ifindex: int) -> Port | None:
        """Whose interface it is on that host."""
        row = self.host(host).tables.ports.get(ifindex)
        return self.ports[row.id] if row is not None else None

    def _make(self, node: Node) -> Carried:
        carried = Carried(HostConfig(node.underlay_ip, 1, VXLAN_PORT), State(), EXTERNAL)
        carried.put_policies([self.policy(port) for port in self.ports.values() if port.identity])
        for surroundings in self.around.values():
            surroundings.fill(carried.tables)
            for vpc in surroundings.vpcs.values():
                own = (one.gateway for one in vpc.subnets if vpc.goal.routed and one.gateway is not None)
                for ip in (*own, *router_addresses(vpc)):
                    carried.put_gateway(EndpointKey(vpc.goal.vni, ip))
        for key, mac in self._vips.items():
            carried.put_vip(key, mac)
        for service in self._services.values():
            carried.tables.balance.put(service, 0)
        for port in self.ports.values():
            if port.host == node.name:
                carried.put_port(self._local(port))
            elif port.host:
                row = RemoteRow(self.nodes[port.host].underlay_ip, port.mac, port.identity)
                ips = with_link_local(tuple([fixed.ip for fixed in port.fixed_ips]), port.mac)
                carried.tables.remote.update({EndpointKey(self.vni_of(port), ip): row for ip in ips})
        return carried

    def _local(self, port: Port) -> LocalPort:
        """The port, as far as packets tell. It is wired like any other, whatever its interface is."""
        around = self.around[port.network_id]
        network, leaves = around.networks[port.network_id], around.leaves(port)
        return LocalPort(
            id=port.id,
            vni=network.vni,
            mac=port.mac,
            addresses=tuple([Address(fixed.ip, 0, None) for fixed in port.fixed_ips]),
            mtu=network.mtu,
            admin_state_up=port.admin_state_up and network.admin_state_up,
            routed=network.cidr is not None or leaves,
            kind=PortKind.CONTAINER,
            netns="",
            interface="",
            identity=port.identity,
            port_security=port.port_security_enabled,
            pairs=port.address_pairs,
            routes=leaves,
            eips=port.eips,
            forwardings=port.forwardings,
        )


def vips(balancers: Iterable[Balancer], around: Mapping[Id, Surroundings]) -> dict[EndpointKey, Mac]:
    """The addresses of these."""
    found: dict[EndpointKey, Mac] = {}
    for one in balancers:
        goals = one.goals.goals(one.row.network_id)
        vni = around[one.row.network_id].own.goal.vni
        found |= vips_of(vni, [goal for goal in goals if isinstance(goal, BalancerGoal)])
    return found
