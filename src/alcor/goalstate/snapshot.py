"""From rows of desired state to goal-state objects, and to whole scopes. Pure.

Called by delta (object by object) and by the publish loop (whole scopes). Each object's revision is that of the commit
that made it what it is, so that truth and what agents merged from deltas have the same digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alcor.goalstate.balancing import Balancers
from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    Goal,
    GroupGoal,
    IdentityGoal,
    InterfaceGoal,
    NameGoal,
    Outside6Goal,
    PeeringGoal,
    PortAddress,
    PortGoal,
    RouterGoal,
    RuleGoal,
    ScopeUpdate,
    SharedGoal,
    SubnetGoal,
    VpcGoal,
    identity_id,
)
from alcor.goalstate.qos import Policies
from alcor.model.addresses import parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import (
    Direction,
    Identity,
    Network,
    Node,
    Peering,
    Port,
    Router,
    RouterGateway,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
)

ANY_SELECTOR = (0, 0xFFFF)
ICMP_PROTOCOLS = frozenset((1, 58))


class Groups:
    """What the goals of security groups are made of: groups, their rules and networks' identities, as of one commit.

    Whoever makes it keeps it up to date: `put` and `drop` take rows in and out.
    """

    def __init__(
        self,
        groups: Iterable[SecurityGroup] = (),
        rules: Iterable[SecurityGroupRule] = (),
        identities: Iterable[Identity] = (),
    ) -> None:
        self._groups: dict[Id, SecurityGroup] = {}
        self._rules: dict[Id, dict[Id, SecurityGroupRule]] = {}
        self._identities: dict[Id, dict[int, Identity]] = {}
        self._users: dict[Id, dict[Id, set[int]]] = {}
        """Group -> network -> the identities there that name it."""
        self.put(groups, rules, identities)

    def put(
        self,
        groups: Iterable[SecurityGroup] = (),
        rules: Iterable[SecurityGroupRule] = (),
        identities: Iterable[Identity] = (),
    ) -> None:
        """New and changed rows."""
        for group in groups:
            self._groups[group.id] = group
        for rule in rules:
            self._rules.setdefault(rule.group_id, {})[rule.id] = rule
        for identity in identities:
            self._identities.setdefault(identity.network_id, {})[identity.number] = identity
            for group_id in identity.groups:
                self._users.setdefault(group_id, {}).setdefault(identity.network_id, set()).add(identity.number)

    def drop(
        self,
        groups: Iterable[SecurityGroup] = (),
        rules: Iterable[SecurityGroupRule] = (),
        identities: Iterable[Identity] = (),
    ) -> None:
        """Deleted rows; an absent one is passed over."""
        for rule in rules:
            self._rules.get(rule.group_id, {}).pop(rule.id, None)
        for identity in identities:
            self._identities.get(identity.network_id, {}).pop(identity.number, None)
            for group_id in identity.groups:
                networks = self._users.get(group_id, {})
                numbers = networks.get(identity.network_id, set())
                numbers.discard(identity.number)
                if not numbers:
                    networks.pop(identity.network_id, None)
        for group in groups:
            self._groups.pop(group.id, None)
            self._rules.pop(group.id, None)
            self._users.pop(group.id, None)

    def drop_network(self, network_id: Id) -> None:
        """A network that is gone, with its identities."""
        self.drop(identities=list(self._identities.pop(network_id, {}).values()))

    def networks_of(self, group_id: Id) -> list[Id]:
        """The networks with an identity that names the group, sorted."""
        return sorted(self._users.get(group_id, ()))

    def identity_goals(self, network_id: Id) -> list[IdentityGoal]:
        """Of all the network's identities, sorted."""
        return [identity_goal(one) for _, one in sorted(self._identities.get(network_id, {}).items())]

    def groups_in(self, network_id: Id) -> list[Id]:
        """The groups that the network's identities name, sorted."""
        return sorted({group for one in self._identities.get(network_id, {}).values() for group in one.groups})

    def group_goal(self, network_id: Id, group_id: Id) -> GroupGoal | None:
        """The group as the network's scope has it; None when no identity there names it, or it is gone."""
        group = self._groups.get(group_id)
        numbers = self._users.get(group_id, {}).get(network_id)
        if group is None or not numbers:
            return None
        since = min(self._identities[network_id][number].revision for number in numbers)
        rules = tuple([rule_goal(rule) for _, rule in sorted(self._rules.get(group_id, {}).items())])
        return GroupGoal(group_id, max(group.revision, since), rules)

    def goals(self, network_id: Id) -> list[Goal]:
        """Everything of the network's scope that is about groups, sorted by key."""
        found: list[Goal] = [*self.identity_goals(network_id)]
        found += [goal for one in self.groups_in(network_id) if (goal := self.group_goal(network_id, one)) is not None]
        return found


def identity_goal(identity: Identity) -> IdentityGoal:
    """The identity of an identity row."""
    return IdentityGoal(identity_id(identity.number), identity.revision, identity.groups)


def rule_goal(rule: SecurityGroupRule) -> RuleGoal:
    """What a rule's row allows, ICMP's type and code as one number."""
    first, last = ANY_SELECTOR
    if rule.protocol in ICMP_PROTOCOLS and rule.port_min is not None:
        first = rule.port_min << 8 | (rule.port_max or 0)
        last = first if rule.port_max is not None else first | 0xFF
    elif rule.port_min is not None and rule.port_max is not None:
        first, last = rule.port_min, rule.port_max
    return RuleGoal(
        rule.direction is Direction.EGRESS,
        rule.version,
        rule.protocol,
        first,
        last,
        rule.remote_prefix,
        rule.remote_group,
    )


class Roads:
    """What connects networks: routers and peerings, as of one commit. Whoever makes it keeps it up to date."""

    def __init__(self, routers: Iterable[Router] = (), peerings: Iterable[Peering] = ()) -> None:
        self._goals: dict[Id, RouterGoal | PeeringGoal] = {}
        """Routers that are up, and peerings."""
        self._of: dict[Id, set[Id]] = {}
        """Network -> those that it has."""
        for router in routers:
            self.put(router.id, router_goal(router))
        for peering in peerings:
            self.put(peering.id, peering_goal(peering))

    def put(self, identifier: Id, goal: RouterGoal | PeeringGoal | None) -> tuple[tuple[Id, ...], tuple[Id, ...]]:
        """The router or peering is that now (None: it is not there, or down); returns the networks that it connected
        and those that it connects, sorted."""
        before = self._goals.pop(identifier, None)
        for vpc in before.vpcs if before is not None else ():
            self._of[vpc].discard(identifier)
            if not self._of[vpc]:
                del self._of[vpc]
        if goal is not None:
            self._goals[identifier] = goal
            for vpc in goal.vpcs:
                self._of.setdefault(vpc, set()).add(identifier)
        return before.vpcs if before is not None else (), goal.vpcs if goal is not None else ()

    def goals(self, network_id: Id) -> list[Goal]:
        """Everything of the network's scope that is about what connects it, sorted by key."""
        return sorted((self._goals[one] for one in self._of.get(network_id, ())), key=lambda goal: goal.key)


def router_goal(router: Router) -> RouterGoal | None:
    """The router of a router row; None while it is down: then it connects nothing."""
    if not router.admin_state_up:
        return None
    interfaces = [InterfaceGoal(one.network_id, one.subnet_id, one.cidr, one.ip) for one in router.interfaces]
    gateway = router.gateway
    if gateway is None:
        return RouterGoal(router.id, router.revision, tuple(interfaces), router.routes)
    outer = gateway.outside6
    outside6 = Outside6Goal(outer.cidr, outer.gateway) if outer is not None else None
    shared = shared_goal(gateway)
    return RouterGoal(router.id, router.revision, tuple(interfaces), router.routes, True, shared, outside6)


def shared_goal(gateway: RouterGateway) -> SharedGoal | None:
    """A router's address that hosts share; None: they do not."""
    if gateway.ip is None or not gateway.enable_snat:
        return None
    ends = {one.host: one.host_ip for one in gateway.blocks}
    blocks = tuple([(one.block, one.host_ip) for one in gateway.blocks])
    return SharedGoal(gateway.ip, gateway.prefix_length, gateway.next_hop, ends.get(gateway.answerer), blocks)


def peering_goal(peering: Peering) -> PeeringGoal:
    """The peering of a peering row."""
    return PeeringGoal(peering.id, peering.revision, peering.networks)


def vpc_goal(network: Network) -> VpcGoal:
    """The VPC of a network row; only a network with a `cidr` routes between its subnets."""
    return VpcGoal(
        network.id,
        network.revision,
        network.vni,
        network.mtu,
        network.cidr is not None,
        network.admin_state_up,
        network.on_demand,
        network.dns_domain,
        network.qos_policy_id,
    )


def subnet_goal(subnet: Subnet) -> SubnetGoal:
    """The subnet of a subnet row."""
    return SubnetGoal(
        subnet.id,
        subnet.revision,
        subnet.cidr,
        subnet.gateway,
        subnet.enable_dhcp,
        tuple([parse_ip(server) for server in subnet.dns_nameservers]),
        subnet.ra_mode,
        subnet.address_mode,
        subnet.host_routes,
    )


def name_goal(port: Port) -> NameGoal | None:
    """The name of a port row; None when it has none."""
    if not port.dns_name:
        return None
    return NameGoal(port.id, port.revision, port.dns_name, tuple([fixed.ip for fixed in port.fixed_ips]))


def port_goal(port: Port) -> PortGoal:
    """What the port's host must carry."""
    return PortGoal(
        port.id,
        port.revision,
        port.network_id,
        port.mac,
        tuple([PortAddress(fixed.ip, fixed.subnet_id) for fixed in port.fixed_ips]),
        port.admin_state_up,
        port.kind,
        port.netns,
        port.interface,
        port.identity,
        port.port_security_enabled,
        port.address_pairs,
        port.project_id,
        port.device_id,
        port.dns_name,
        port.dhcp_options,
        port.qos_policy_id,
        port.eips,
        port.forwardings,
        port.claims,
    )


def endpoint_goal(port: Port, nodes: Mapping[str, Node], viewed: int) -> EndpointGoal | None:
    """Where the port is; None while it is unbound or its host is not registered.

    It changes with its port and with its node's tunnel end, so its revision is the newer of the two. `nodes` are as of
    commit `viewed`; a port row may have been read later. Then the node may have changed between, the two do not belong
    together, and no revision is true of them: the endpoint says `viewed`, so that what is published next replaces it.
    """
    node = nodes.get(port.host) if port.host else None
    if node is None:
        return None
    return EndpointGoal(
        port.id,
        min(max(port.revision, node.revision), viewed),
        port.mac,
        tuple([fixed.ip for fixed in port.fixed_ips]),
        node.underlay_ip,
        port.identity,
        port.claims,
    )


def host_snapshot(revision: int, ports: Iterable[Port]) -> ScopeUpdate:
    """The whole scope of the host that carries exactly `ports`; the rows include every commit up to `revision`."""
    objects = sorted((port_goal(port) for port in ports), key=_identifier)
    return ScopeUpdate(scope=HOST_SCOPE, revision=revision, snapshot=True, objects=tuple(objects))


def vpc_snapshot(
    revision: int,
    network: Network,
    subnets: Iterable[Subnet],
    ports: Iterable[Port],
    nodes: Mapping[str, Node],
    groups: Groups | None = None,
    qos: Policies | None = None,
    roads: Roads | None = None,
    balancers: Balancers | None = None,
) -> ScopeUpdate:
    """The whole scope of a VPC: network, subnets, nodes, groups, `qos`, roads and balancers as of commit `revision`,
    all the network's ports as of then or later (when the network is on demand: those with names)."""
    rows = list(ports)
    endpoints = [goal for port in rows if (goal := endpoint_goal(port, nodes, revision)) is not None]
    if network.on_demand:
        endpoints = []
    names = [name for port in rows if (name := name_goal(port)) is not None]
    objects: list[Goal] = [vpc_goal(network)]
    objects += sorted((subnet_goal(subnet) for subnet in subnets), key=_identifier)
    objects += sorted(endpoints, key=_identifier)
    if groups is not None:
        objects += groups.goals(network.id)
    if roads is not None:
        objects += roads.goals(network.id)
    if balancers is not None:
        objects += balancers.goals(network.id)
    objects += sorted(names, key=_identifier)
    if qos is not None:
        objects += qos.goals(network.id)
    return ScopeUpdate(scope=network.id, revision=revision, snapshot=True, objects=tuple(objects))


def _identifier(goal: Goal) -> bytes:
    return goal.id
