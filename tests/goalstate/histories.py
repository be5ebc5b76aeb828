"""Histories of a small cloud, drawn by hypothesis: commits one after the other, with the rows after each.

Few hosts, VPCs and addresses, so that ports collide, move, and come back: what a merge can get wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st
from msgspec.structs import replace
from tests.goalstate import balances, claims, eips, ground

from alcor.goalstate.balancing import Balancers
from alcor.goalstate.delta import Commits
from alcor.goalstate.qos import Policies
from alcor.goalstate.snapshot import Groups, Roads
from alcor.model.addresses import Ip, Mac, ip_from_int, parse_ip, parse_prefix
from alcor.model.balancing import Balancing
from alcor.model.ids import Id
from alcor.model.nouns import (
    Direction,
    ExtraRoute,
    FixedIp,
    Identity,
    Network,
    Node,
    Peering,
    Port,
    PortKind,
    PortStatus,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
)
from alcor.model.qos import QosBinding, QosPolicy, QosRule, QosRuleKind

HOSTS = ("a", "b", "c")
VPCS = 2
PORTS = 6
ADDRESSES = 4
GROUPS = 2
POLICIES = 2
ROUTERS = 2

Action = tuple[str, int, int, int]
ACTIONS: st.SearchStrategy[Action] = st.tuples(
    st.sampled_from(
        [
            *("port", "port", "port", "port", "delete", "rename", "node", "network", "subnet", "unsubnet", "demand"),
            *("regroup", "regroup", "rule", "rule", "ungroup", "claim", "claim", "claim"),
            *("limit", "limit", "outlimit", "outlimit", "netlimit", "wirelimit", "quality", "quality", "unquality"),
            *("router", "router", "unroute", "peer"),
            *balances.VERBS,
        ]
    ),
    st.integers(0, PORTS - 1),
    st.integers(0, len(HOSTS)),
    st.integers(0, ADDRESSES - 1),
)
HISTORIES: st.SearchStrategy[list[list[Action]]] = st.lists(
    st.lists(ACTIONS, min_size=1, max_size=3), min_size=1, max_size=12
)
"""Commits, each of some actions."""


class Rows(NamedTuple):
    """Desired state at one moment."""

    revision: int
    networks: dict[Id, Network]
    subnets: dict[Id, Subnet]
    ports: dict[Id, Port]
    nodes: dict[str, Node]
    groups: dict[Id, SecurityGroup]
    rules: dict[Id, SecurityGroupRule]
    identities: dict[tuple[Id, int], Identity]
    policies: dict[Id, QosPolicy]
    qos_rules: dict[Id, QosRule]
    bindings: dict[tuple[Id, Id], QosBinding]
    routers: dict[Id, Router]
    peerings: dict[Id, Peering]

    def qos(self) -> Policies:
        rows = self.policies.values(), self.qos_rules.values(), self.bindings.values()
        return Policies(*rows, self.networks.values())

    balancing: balances.Rows

    def balancers(self) -> Balancers:
        return Balancers(self.balancing.values())

    def roads(self) -> Roads:
        return Roads(self.routers.values(), self.peerings.values())

    def connected(self) -> dict[Id, tuple[Id, ...]]:
        """Router or peering -> the VPCs that it connects."""
        roads: list[Router | Peering] = [router for router in self.routers.values() if router.admin_state_up]
        return {road.id: road.networks for road in (*roads, *self.peerings.values())}

    def needs(self) -> set[tuple[str, Id]]:
        """(host, VPC): the slow way."""
        carried = {(host, network) for network, host, _ in self.hosts_of_networks()}
        roads = self.connected().values()
        near = {(host, one) for host, network in carried for road in roads if network in road for one in road}
        return carried | near

    def view(self) -> Groups:
        return Groups(self.groups.values(), self.rules.values(), self.identities.values())

    def on_demand(self) -> set[Id]:
        return {network.id for network in self.networks.values() if network.on_demand}

    def of_network(self, network: Id) -> list[Port]:
        return [port for port in self.ports.values() if port.network_id == network]

    def of_host(self, host: str) -> list[Port]:
        return [port for port in self.ports.values() if port.host == host]

    def subnets_of(self, network: Id) -> list[Subnet]:
        return [subnet for subnet in self.subnets.values() if subnet.network_id == network]

    def hosts_of_networks(self) -> list[tuple[Id, str, int]]:
        counts: dict[tuple[Id, str], int] = {}
        for port in self.ports.values():
            if port.host:
                counts[port.network_id, port.host] = counts.get((port.network_id, port.host), 0) + 1
        return [(network, host, count) for (network, host), count in counts.items()]


class Commit(NamedTuple):
    """What one commit changed, and the rows after it."""

    new: list[Port]
    changed: list[tuple[Port, Port]]
    deleted: list[Port]
    networks: list[Network]
    subnets: list[Subnet]
    deleted_subnets: list[Subnet]
    nodes: list[Node]
    groups: list[SecurityGroup]
    rules: list[SecurityGroupRule]
    identities: list[Identity]
    deleted_groups: list[SecurityGroup]
    deleted_rules: list[SecurityGroupRule]
    deleted_identities: list[Identity]
    policies: list[QosPolicy]
    qos_rules: list[QosRule]
    bindings: list[QosBinding]
    deleted_policies: list[QosPolicy]
    deleted_qos_rules: list[QosRule]
    deleted_bindings: list[QosBinding]
    routers: list[Router]
    peerings: list[Peering]
    deleted_roads: list[Router | Peering]
    left: list[Id]
    """Networks that a router was connected with."""
    balancing: list[Balancing]
    deleted_balancing: list[Balancing]
    after: Rows

    def add_to(self, commits: Commits, roads: Roads) -> None:
        """`roads`: the view as of the commit before; it is brought up to date."""
        revision = self.after.revision
        commits.add_roads(revision, roads, self.routers, self.peerings, self.deleted_roads)
        commits.add_networks(revision, self.networks, self.subnets, self.nodes)
        commits.remove_networks(revision, (), self.deleted_subnets, ())
        commits.add_groups(revision, self.groups, self.rules, self.identities)
        commits.remove_groups(revision, self.deleted_groups, self.deleted_rules, self.deleted_identities)
        commits.add_qos(revision, self.policies, (*self.bindings, *self.deleted_bindings))
        commits.add_balancing(revision, self.balancing, self.deleted_balancing)
        commits.add_ports(revision, self.new, self.changed, self.deleted)


def network_id(index: int) -> Id:
    return Id(b"n" * 15 + bytes((index,)))


def subnet_id(index: int) -> Id:
    return Id(b"s" * 15 + bytes((index,)))


WIRE = network_id(VPCS)
"""An external network."""


def router_id(index: int) -> Id:
    return Id(b"t" * 15 + bytes((index,)))


def port_id(index: int, life: int) -> Id:
    """A port that is deleted and made again is another port."""
    return Id(b"p" * 13 + bytes((index, life >> 8, life & 255)))


def start() -> Rows:
    """Two VPCs with a subnet each, an external network, three nodes, no port; revision 1."""
    networks = {network_id(index): ground.network(network_id(index), index, 1) for index in range(VPCS)}
    networks[WIRE] = ground.network(WIRE, VPCS, 1, external=True)
    subnets = {subnet_id(index): ground.subnet(subnet_id(index), network_id(index), index, 1) for index in range(VPCS)}
    nodes = {name: ground.node(name, index, 1) for index, name in enumerate(HOSTS)}
    return Rows(1, networks, subnets, {}, nodes, *({}, {}, {}), *({}, {}, {}), *({}, {}, {}))


def play(history: Sequence[Sequence[Action]], *, exclusive: bool = False) -> list[Commit]:
    """The commits of a history, in order. `exclusive`: an address has one port at a time, as the control plane sees to;
    otherwise ports may claim the same, which is what agents can see while updates race."""
    rows, commits = start(), []
    for actions in history:
        commit = _commit(rows, [action for action in actions if not exclusive or _is_free(rows, actions, action)])
        rows = commit.after
        commits.append(commit)
    return commits


def _commit(before: Rows, actions: Sequence[Action]) -> Commit:
    rows = Rows(
        before.revision + 1,
        *(dict(before.networks), dict(before.subnets), dict(before.ports), dict(before.nodes)),
        *(dict(before.groups), dict(before.rules), dict(before.identities)),
        *(dict(before.policies), dict(before.qos_rules), dict(before.bindings)),
        *(dict(before.routers), dict(before.peerings), dict(before.balancing)),
    )
    lists: list[Any] = [[] for _ in Commit._fields[:-1]]
    commit = Commit._make([*lists, rows])
    touched: set[object] = set()
    for verb, index, host, address in actions:
        row = {"node": ("node", host), "port": ("port", index)}.get(
            verb, ("subnet", index % VPCS) if "subnet" in verb else ("port", index)
        )
        if verb in ("network", "demand", "netlimit"):
            row = ("network", index % VPCS)
        if verb == "wirelimit":
            row = ("network", VPCS)
        if verb in balances.VERBS:
            row = ("balancing", index if "member" in verb else index % VPCS)
        if verb in ("rule", "ungroup"):
            row = ("group", index % GROUPS)
        if "quality" in verb:
            row = ("policy", index % POLICIES)
        if verb in ("router", "unroute", "peer"):
            row = ("road", verb == "peer" or index % ROUTERS)
        if row not in touched:  # a row changes at most once a commit
            touched.add(row)
            (claims.act if verb == "claim" else _act)(commit, verb, index, host, address)
            touched.update(("port", after.id[13]) for _, after in commit.changed)
    return commit


def _is_free(rows: Rows, actions: Sequence[Action], action: Action) -> bool:
    """The address that the action gives a port was nobody else's before the commit, and is given once in it."""
    verb, index, _, address = action
    ip = _address(index % VPCS, address)
    givers = [other[1] for other in actions if other[0] == "port" and _address(other[1] % VPCS, other[3]) == ip]
    owners = [port.id[13] for port in rows.ports.values() if port.fixed_ips[0].ip == ip]
    return verb != "port" or (givers[0] == index and all(owner == index for owner in owners))


def _act(commit: Commit, verb: str, index: int, host_index: int, address: int) -> None:
    rows = commit.after
    revision = rows.revision
    vpc = index % VPCS
    live = next((port for port in rows.ports.values() if port.id[13] == index), None)
    host = HOSTS[host_index] if host_index < len(HOSTS) else ""
    if verb == "port":
        fixed = (FixedIp(subnet_id(vpc), _address(vpc, address)),)
        if live is None:
            port = _port(index, revision, vpc, host, fixed)
            rows.ports[port.id] = port
            commit.new.append(port)
        else:
            _change(commit, live, replace(live, host=host, fixed_ips=fixed, revision=revision))
    elif verb == "rename" and live is not None:
        _change(commit, live, _renamed(live, revision, address))
    elif verb == "delete" and live is not None:
        del rows.ports[live.id]
        commit.deleted.append(live)
    elif verb == "node" and host:
        node = replace(ground.node(host, host_index, revision), underlay_ip=ip_from_int(0xAC100000 + revision, 4))
        rows.nodes[host] = node
        commit.nodes.append(node)
    elif verb == "network":
        cidr = parse_prefix("10.0.0.0/8") if address else None
        before = rows.networks[network_id(vpc)]
        network = replace(before, mtu=1400 + address, cidr=cidr, revision=revision)
        rows.networks[network.id] = network
        commit.networks.append(network)
    elif verb == "demand":
        before = rows.networks[network_id(vpc)]
        network = replace(before, on_demand=not before.on_demand, revision=revision)
        rows.networks[network.id] = network
        commit.networks.append(network)
    elif verb == "subnet":
        gateway = parse_ip(f"10.{vpc}.0.{250 + address}") if address else None
        subnet = replace(_subnet(vpc, revision), gateway=gateway)
        rows.subnets[subnet.id] = subnet
        commit.subnets.append(subnet)
    elif verb == "unsubnet" and subnet_id(vpc) in rows.subnets:
        commit.deleted_subnets.append(rows.subnets.pop(subnet_id(vpc)))
    elif verb == "regroup" and live is not None:
        _regroup(commit, live, address)
    elif verb == "rule":
        _toggle_rule(commit, index % GROUPS, host_index, address)
    elif verb == "ungroup":
        _delete_group(commit, index % GROUPS)
    elif verb in ("limit", "outlimit") and live is not None:
        policy_id = _bind(commit, live.network_id, address, WIRE if verb == "outlimit" else None)
        _change(commit, live, eips.limited(live, verb, address, policy_id, revision))
    elif verb in ("netlimit", "wirelimit"):
        network = rows.networks[WIRE if verb == "wirelimit" else network_id(vpc)]
        network = replace(network, qos_policy_id=_bind(commit, network.id, address), revision=revision)
        rows.networks[network.id] = network
        commit.networks.append(network)
    elif verb == "quality":
        _toggle_limit(commit, index % POLICIES, address)
    elif verb == "unquality":
        _delete_policy(commit, index % POLICIES)
    elif verb == "router":
        _route(commit, index % ROUTERS, host_index, address)
    elif verb == "unroute" and router_id(index % ROUTERS) in rows.routers:
        gone = rows.routers.pop(router_id(index % ROUTERS))
        commit.deleted_roads.append(gone)
        commit.left.extend(gone.networks)
    elif verb == "peer":
        _peer(commit)
    elif verb in balances.VERBS:
        _balance(commit, network_id(vpc), verb, index, address)


def _balance(commit: Commit, network: Id, verb: str, index: int, address: int) -> None:
    fresh, lost = balances.act(commit.after.balancing, network, commit.after.revision, verb, index, address)
    commit.balancing.extend(fresh)
    commit.deleted_balancing.extend(lost)


def _subnet(vpc: int, revision: int) -> Subnet:
    return ground.subnet(subnet_id(vpc), network_id(vpc), vpc, revision)


def _policy(commit: Commit, number: int) -> QosPolicy:
    """The QoS policy of that number; made when there is none."""
    rows = commit.after
    found = next((policy for policy in rows.policies.values() if policy.id[0] == number), None)
    if found is None:
        identifier = Id(bytes((number,)) + b"q" * 13 + rows.revision.to_bytes(2, "big"))
        times = {"created_at": 0, "updated_at": 0, "revision": rows.revision}
        found = QosPolicy(
            id=identifier, project_id="", name="", description="", shared=False, is_default=False, **times
        )
        rows.policies[found.id] = found
        commit.policies.append(found)
    return found


def _bind(commit: Commit, network: Id, number: int, otherwise: Id | None = None) -> Id | None:
    """The policy of that number, or for a number too large what there is otherwise, known to the network's hosts."""
    wanted = _policy(commit, number).id if number < POLICIES else otherwise
    if wanted is not None and (network, wanted) not in commit.after.bindings:
        binding = QosBinding(network_id=network, policy_id=wanted, revision=commit.after.revision)
        commit.after.bindings[network, wanted] = binding
        commit.bindings.append(binding)
    return wanted


def _toggle_limit(commit: Commit, number: int, address: int) -> None:
    """A rule of the policy comes, or goes when it is there."""
    rows = commit.after
    policy = _policy(commit, number)
    identifier = Id(b"l" * 13 + bytes((address,)) + policy.id[:1] + policy.id[-1:])
    gone = rows.qos_rules.pop(identifier, None)
    if gone is not None:
        commit.deleted_qos_rules.append(gone)
    else:
        kind = QosRuleKind.DSCP_MARKING if address == 3 else QosRuleKind.BANDWIDTH_LIMIT
        rows.qos_rules[identifier] = rule = QosRule(
            id=identifier,
            policy_id=policy.id,
            kind=kind,
            direction=(Direction.EGRESS, Direction.INGRESS)[address % 2],
            max_kbps=1000 + address,
            max_burst_kbps=address,
            dscp_mark=8,
            created_at=0,
            updated_at=0,
            revision=rows.revision,
        )
        commit.qos_rules.append(rule)
    fresh = replace(policy, revision=rows.revision)
    rows.policies[policy.id] = fresh
    commit.policies[:] = [one for one in commit.policies if one.id != policy.id] + [fresh]


def _delete_policy(commit: Commit, number: int) -> None:
    """Unless somebody has it: with its rules and bindings."""
    rows = commit.after
    policy = next((policy for policy in rows.policies.values() if policy.id[0] == number), None)
    having = eips.policies(rows.ports.values()) | {one.qos_policy_id for one in rows.networks.values()}
    if policy is None or policy.revision == rows.revision or policy.id in having:
        return
    commit.deleted_policies.append(rows.policies.pop(policy.id))
    for rule in [one for one in rows.qos_rules.values() if one.policy_id == policy.id]:
        commit.deleted_qos_rules.append(rows.qos_rules.pop(rule.id))
    commit.deleted_bindings.extend(rows.bindings.pop(key) for key in list(rows.bindings) if key[1] == policy.id)


def _route(commit: Commit, number: int, up: int, what: int) -> None:
    """The router is down or up, with interfaces in some VPCs, and perhaps with routes."""
    rows = commit.after
    times = {"created_at": 0, "updated_at": 0, "revision": rows.revision}
    interfaces = tuple(
        one
        for vpc in range(VPCS)
        for one in ground.interfaces(vpc, port_id(90 + vpc, 1), network_id(vpc), subnet_id(vpc))
        if what != vpc
    )
    hops = [ExtraRoute(parse_prefix("192.0.2.0/24"), _address(vpc, vpc)) for vpc in range(VPCS) if what != vpc]
    routes = (*hops, ExtraRoute(parse_prefix("192.0.2.8/29"), None)) if up != 1 else ()
    router = Router(
        id=router_id(number),
        project_id="",
        name="",
        description="",
        admin_state_up=bool(up),
        routes=routes,
        interfaces=interfaces,
        gateway=ground.gateway(port_id(99, 1), network_id(9), subnet_id(9), what) if up > 1 else None,
        **times,
    )
    before = rows.routers.get(router.id)
    commit.left.extend(before.networks if before is not None else ())
    rows.routers[router.id] = router
    commit.routers.append(router)


def _peer(commit: Commit) -> None:
    """The two VPCs are peered, or no more."""
    rows = commit.after
    times = {"created_at": 0, "updated_at": 0, "revision": rows.revision}
    identifier = Id(b"e" * 16)
    found = rows.peerings.pop(identifier, None)
    if found is not None:
        commit.deleted_roads.append(found)
        return
    rows.peerings[identifier] = peering = Peering(
        id=identifier,
        project_id="",
        name="",
        description="",
        network_id=network_id(1),
        peer_network_id=network_id(0),
        **times,
    )
    commit.peerings.append(peering)


def _group(commit: Commit, number: int) -> SecurityGroup:
    """The group of that number; made when there is none."""
    rows = commit.after
    found = next((group for group in rows.groups.values() if group.id[0] == number), None)
    if found is None:
        identifier = Id(bytes((number,)) + b"g" * 13 + rows.revision.to_bytes(2, "big"))
        found = SecurityGroup(
            id=identifier, project_id="", name="", description="", created_at=0, updated_at=0, revision=rows.revision
        )
        rows.groups[found.id] = found
        commit.groups.append(found)
    return found


def _regroup(commit: Commit, port: Port, bits: int) -> None:
    """The port gets the groups of these bits, and their identity in its network."""
    rows = commit.after
    groups = tuple(sorted(_group(commit, number).id for number in range(GROUPS) if bits >> number & 1))
    numbers = {one.groups: one.number for one in rows.identities.values() if one.network_id == port.network_id}
    if groups not in numbers:
        number = max((number for network, number in rows.identities if network == port.network_id), default=0) + 1
        identity = Identity(network_id=port.network_id, number=number, groups=groups, revision=rows.revision)
        rows.identities[port.network_id, number] = identity
        commit.identities.append(identity)
        numbers[groups] = number
    _change(
        commit, port, replace(port, security_groups=groups, identity=numbers[groups], revision=commit.after.revision)
    )


def _bump(commit: Commit, group: SecurityGroup) -> None:
    rows = commit.after
    fresh = replace(group, revision=rows.revision)
    rows.groups[group.id] = fresh
    commit.groups[:] = [one for one in commit.groups if one.id != group.id] + [fresh]


def _toggle_rule(commit: Commit, number: int, about: int, port: int) -> None:
    """A rule of the group comes, or goes when it is there."""
    rows = commit.after
    group = _group(commit, number)
    remote = _group(commit, about % GROUPS).id if about else None
    identifier = Id(b"r" * 10 + bytes((about, port)) + group.id[:1] + group.id[-3:])
    if any(rule.id == identifier for rule in commit.deleted_rules):
        return  # it went with a group in this very commit; no id comes back in the commit that it went with
    found = rows.rules.pop(identifier, None)
    if found is not None:
        commit.deleted_rules.append(found)
    else:
        rows.rules[identifier] = rule = SecurityGroupRule(
            id=identifier,
            group_id=group.id,
            project_id="",
            description="",
            direction=Direction.INGRESS,
            version=4,
            protocol=6,
            protocol_name="tcp",
            port_min=port,
            port_max=port + about,
            remote_prefix=None,
            remote_group=remote,
            created_at=0,
            updated_at=0,
            revision=rows.revision,
        )
        commit.rules.append(rule)
    _bump(commit, group)


def _delete_group(commit: Commit, number: int) -> None:
    """Unless a port is in it: with its rules, those that name it, and the identities that do."""
    rows = commit.after
    group = next((group for group in rows.groups.values() if group.id[0] == number), None)
    if group is None or any(group.id in port.security_groups for port in rows.ports.values()):
        return
    if group.revision == rows.revision or any(one.revision == rows.revision for one in rows.identities.values()):
        return  # a row changes at most once a commit
    del rows.groups[group.id]
    commit.deleted_groups.append(group)
    for rule in [one for one in rows.rules.values() if group.id in (one.group_id, one.remote_group)]:
        if rule.revision == rows.revision:
            rows.rules[rule.id] = replace(rule, remote_group=None)
            continue
        commit.deleted_rules.append(rows.rules.pop(rule.id))
        if rule.group_id != group.id:
            _bump(commit, rows.groups[rule.group_id])
    for key, identity in list(rows.identities.items()):
        if group.id in identity.groups:
            commit.deleted_identities.append(rows.identities.pop(key))


def _change(commit: Commit, before: Port, after: Port) -> None:
    commit.after.ports[after.id] = after
    commit.changed.append((before, after))


def _renamed(port: Port, revision: int, bits: int) -> Port:
    """Words and switches of a port; half the time it has a name in the VPC's domain."""
    named = f"name{bits & 1}" if bits >> 1 else ""
    return replace(port, name=f"r{revision}", admin_state_up=bool(bits), dns_name=named, revision=revision)


def _address(vpc: int, address: int) -> Ip:
    return parse_ip(f"10.{vpc}.0.{address + 2}")


def _port(index: int, revision: int, vpc: int, host: str, fixed: tuple[FixedIp, ...]) -> Port:
    return Port(
        id=port_id(index, revision),
        network_id=network_id(vpc),
        project_id="",
        name="",
        description="",
        mac=Mac(bytes((2, 0, 0, 0, index, revision & 255))),
        fixed_ips=fixed,
        host=host,
        device_id="",
        device_owner="",
        admin_state_up=True,
        kind=PortKind.CONTAINER,
        netns="",
        interface="",
        created_at=0,
        updated_at=0,
        revision=revision,
        status=PortStatus.BUILD,
        status_reason="",
        realised_revision=0,
    )
