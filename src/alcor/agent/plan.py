"""Desired x observed -> plan. Pure.

Called by reconcile: `full_plan` against what was observed (at start, after a failure, at every audit), `partial_plan`
for what some updates touched. The two agree: a data plane brought up to date by partial plans has an empty full plan.

Fail closed: a port whose VPC, subnet, security groups or QoS policies have not arrived is neither put nor removed; an
address is programmed only while its VPC's goal is held. Endpoints of ports on this host are not remote endpoints,
whatever their goals say.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, KeysView, Mapping, Set
from itertools import compress
from operator import not_
from typing import TypeVar, cast

import msgspec

from alcor.agent.balancing import full_balancing, partial_balancing
from alcor.agent.roads import RoadsPlan, attached, has_roads, plan_roads, roads, router_addresses
from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.dataplane.base import (
    Address,
    EipLimit,
    LocalPort,
    Observed,
    Plan,
    Policy,
    PolicyKey,
    RateLimit,
    Route,
    RouteKey,
    Rule,
    ServiceKey,
    TranslationKey,
)
from alcor.dataplane.endpoints import Endpoint, EndpointColumns, EndpointKey
from alcor.goalstate.merge import ScopeState
from alcor.goalstate.objects import EndpointGoal, GroupGoal, LimitGoal, PortGoal, QosGoal, identity_id
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, link_local
from alcor.model.ids import Id
from alcor.model.nouns import Eip, Forwarding

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def local_port(desired: Desired, identifier: Id) -> LocalPort | None:
    """The port as the data plane is to carry it; None while it is unknown or waits for its VPC or a subnet."""
    goal = desired.port(identifier)
    if goal is None:
        return None
    key = ScopeKey(desired.ports[identifier], goal.vpc_id)
    state = desired.scopes.get(key)
    vpc = state.vpcs.get(goal.vpc_id) if state is not None else None
    if state is None or vpc is None:
        return None
    addresses, served = [], False
    for address in goal.addresses:
        subnet = state.subnets.get(address.subnet_id)
        if subnet is None:
            return None
        told = tuple([(route.destination.base, route.destination.length) for route in subnet.host_routes])
        addresses.append(Address(address.ip, subnet.cidr.length, subnet.gateway, told))
        served = served or subnet.dhcp
    if goal.identity and groups_of(state, goal.identity) is None:
        return None
    qos_id = goal.qos_id or vpc.qos_id
    qos = state.qos.get(qos_id) if qos_id is not None else NO_QOS
    if qos is None:
        return None
    limits = _eip_limits(state, goal)
    if limits is None:
        return None
    leaves = False
    if has_roads(desired, key):
        leaves = not attached(desired, key).isdisjoint(address.subnet_id for address in goal.addresses)
    return LocalPort(
        id=goal.id,
        vni=vpc.vni,
        mac=goal.mac,
        addresses=tuple(addresses),
        mtu=vpc.mtu,
        admin_state_up=goal.admin_state_up and vpc.admin_state_up,
        routed=vpc.routed or leaves,
        kind=goal.kind,
        netns=goal.netns,
        interface=goal.interface,
        identity=goal.identity,
        port_security=goal.port_security,
        pairs=goal.pairs,
        routes=leaves,
        balanced=bool(state.balancers),
        served=served,
        egress_limit=_rate_limit(qos.egress),
        ingress_limit=_rate_limit(qos.ingress),
        dscp=qos.dscp,
        eips=tuple([_bare(one) for one in goal.eips]),
        forwardings=tuple([_bare(one) for one in goal.forwardings]),
        eip_limits=limits,
        claims=goal.claims,
    )


NO_QOS = QosGoal(Id(bytes(16)), 0, None, None, None)


def _rate_limit(goal: LimitGoal | None) -> RateLimit | None:
    return RateLimit(goal.kbps, goal.burst_kbit) if goal is not None else None


def _eip_limits(state: ScopeState, goal: PortGoal) -> tuple[EipLimit, ...] | None:
    """Of the port's external addresses; None while a policy of one has not arrived. A policy's mark is for ports."""
    found = []
    outer: list[Eip | Forwarding] = [*goal.eips, *goal.forwardings]
    named = {one.ip: one.qos_id for one in outer if one.qos_id is not None}
    for ip, qos_id in sorted(named.items()):
        qos = state.qos.get(qos_id)
        if qos is None:
            return None
        if qos.egress is not None or qos.ingress is not None:
            found.append(EipLimit(ip, _rate_limit(qos.egress), _rate_limit(qos.ingress)))
    return tuple(found)


_Outer = TypeVar("_Outer", Eip, Forwarding)


def _bare(one: _Outer) -> _Outer:
    """Without its policy, of which a data plane knows the limits alone."""
    return one if one.qos_id is None else msgspec.structs.replace(one, qos_id=None)


def groups_of(state: ScopeState, identity: int) -> list[GroupGoal] | None:
    """The security groups that an identity stands for; None while one of them, or the identity, has not arrived."""
    goal = state.identities.get(identity_id(identity))
    if goal is None or any(group not in state.groups for group in goal.groups):
        return None
    return [state.groups[group] for group in goal.groups]


def policies(desired: Desired, key: ScopeKey, identities: Iterable[int]) -> Iterator[Policy]:
    """What ports of these identities may do; those that have not arrived whole are left out.

    A rule that names a group becomes one that names the identities of the VPC that have the group: so a group's members
    may come and go and no rule changes.
    """
    vpc, state = desired.vpc(key), desired.scopes.get(key)
    if vpc is None or state is None:
        return
    having: dict[Id, list[int]] = {}
    for goal in state.identities.values():
        for group in goal.groups:
            having.setdefault(group, []).append(goal.number)
    for identity in identities:
        groups = groups_of(state, identity)
        if groups is None:
            continue
        rules = {}
        for rule in (rule for group in groups for rule in group.rules):
            who = tuple(sorted(having.get(rule.group, ()))) if rule.group is not None else None
            one = Rule(rule.egress, rule.version, rule.protocol, rule.first, rule.last, rule.prefix, who)
            rules[_encode(one)] = one
        yield Policy(PolicyKey(vpc.vni, identity), tuple([rules[name] for name in sorted(rules)]))


_encode = msgspec.msgpack.Encoder().encode


def gateways(desired: Desired, key: ScopeKey) -> Iterator[EndpointKey]:
    """The gateways that this host answers for in a VPC: of all its subnets, when it is routed, and its routers'; and
    where router advertisements come from, when there are any."""
    yield from router_addresses(desired, key)
    vpc = desired.vpc(key)
    if vpc is not None and vpc.routed:
        subnets = desired.scopes[key].subnets.values()
        if any(subnet.ra_mode is not None for subnet in subnets):
            yield EndpointKey(vpc.vni, link_local(ROUTER_MAC))
        for subnet in subnets:
            if subnet.gateway is not None:
                yield EndpointKey(vpc.vni, subnet.gateway)


def full_plan(desired: Desired, observed: Observed, *, may_remove: bool) -> Plan:
    """Everything that differs. Without `may_remove` (not in sync yet) what is not desired is left alone."""
    put_ports: list[LocalPort] = []
    for identifier in sorted(desired.ports):
        port = local_port(desired, identifier)
        if port is not None and observed.ports.get(identifier) != port:
            put_ports.append(port)
    put_endpoints: list[tuple[EndpointKey, Endpoint]] = []
    extra = set(observed.endpoints) if may_remove else set()
    wanted_gateways: set[EndpointKey] = set()
    wanted_policies: list[Policy] = []
    for key in desired.vpcs():
        wanted_policies += policies(desired, key, desired.identities(key))
        wanted_gateways.update(gateways(desired, key))
        vpc = desired.vpc(key)
        if vpc is None or desired.scopes[key].partial:
            continue
        owners, goals = desired.owners(key), desired.scopes[key].endpoints
        for ip, held in owners.items():
            endpoint = _endpoint_of(ip, held, goals, desired.ports)
            if endpoint is None:
                continue
            where = EndpointKey(vpc.vni, ip)
            extra.discard(where)
            if observed.endpoints.get(where) != endpoint:
                put_endpoints.append((where, endpoint))
    ways = plan_roads(roads(desired), observed.routes, observed.translations, observed.shared, may_remove=may_remove)
    balancing = full_balancing(desired, observed.vips, observed.services, may_remove=may_remove)
    on_demand = desired.on_demand().keys()
    unused = observed.policies.keys() - {policy.key for policy in wanted_policies}
    return Plan(
        remove_ports=tuple(sorted((observed.ports.keys() | observed.damaged) - desired.ports.keys()))
        if may_remove
        else (),
        remove_endpoints=tuple(sorted(extra)),
        remove_gateways=tuple(sorted(observed.gateways - wanted_gateways)) if may_remove else (),
        put_policies=tuple([one for one in wanted_policies if observed.policies.get(one.key) != one.digest()]),
        put_gateways=tuple(sorted(wanted_gateways - observed.gateways)),
        put_endpoints=tuple(sorted(put_endpoints, key=_where)),
        put_ports=tuple(put_ports),
        remove_policies=tuple(sorted(unused)) if may_remove else (),
        put_on_demand=tuple(sorted(on_demand - observed.on_demand)),
        remove_on_demand=tuple(sorted(observed.on_demand - on_demand)) if may_remove else (),
        **ways._asdict(),
        **balancing._asdict(),
    )


def partial_plan(
    desired: Desired,
    touched: Touched,
    ports: Mapping[Id, LocalPort],
    carried_gateways: Set[EndpointKey],
    carried_policies: Mapping[PolicyKey, int],
    carried_on_demand: Set[int],
    carried_routes: Mapping[RouteKey, Route],
    carried_translations: Mapping[TranslationKey, int],
    carried_vips: Mapping[EndpointKey, Mac],
    carried_services: Mapping[ServiceKey, int],
    carried_shared: Mapping[Ip, int],
) -> Plan:
    """What the touched objects ask for. `ports` and all that is `carried_` is what the data plane carries: of policies,
    services and shared addresses the digests, of VPCs on demand the VNIs.

    Endpoints are put or removed, and ports removed, without asking what is there: doing so twice changes nothing, no
    copy of the endpoints has to be kept, and what a failed attempt left half-made goes too.
    """
    put_ports, remove_ports = _port_plan(desired, touched, ports)
    put_endpoints: list[tuple[EndpointKey, Endpoint]] = []
    put_columns: list[EndpointColumns] = []
    remove_endpoints = set(touched.gone)
    for key in sorted(touched.addresses):
        vpc = desired.vpc(key)
        if vpc is None or desired.scopes[key].partial:
            continue
        addresses = touched.addresses[key]
        owners, goals = desired.owners(key), desired.scopes[key].endpoints
        columns, rest = _columns(vpc.vni, addresses, owners, goals, desired.ports.keys())
        if columns:
            put_columns.append(columns)
        for ip in rest:
            held, where = owners.get(ip), EndpointKey(vpc.vni, ip)
            endpoint = _endpoint_of(ip, held, goals, desired.ports) if held is not None else None
            if endpoint is not None:
                put_endpoints.append((where, endpoint))
            elif addresses[ip] is False:
                remove_endpoints.add(where)
    if remove_endpoints:
        remove_endpoints.difference_update(map(_where, put_endpoints), *[columns.keys() for columns in put_columns])
    wanted, touched_vnis = set[EndpointKey](), set(touched.gone_vnis)
    for key in touched.vpcs:
        vpc = desired.vpc(key)
        if vpc is not None:
            touched_vnis.add(vpc.vni)
            wanted.update(gateways(desired, key))
    put_policies, remove_policies = _policy_plan(desired, touched, carried_policies)
    on_demand = desired.on_demand().keys() if touched.vpcs or touched.gone_vnis else carried_on_demand
    carried = {gateway for gateway in carried_gateways if gateway.vni in touched_vnis} if touched_vnis else set()
    ways = RoadsPlan()
    if touched.roads:
        ways = plan_roads(roads(desired), carried_routes, carried_translations, carried_shared, may_remove=True)
    return Plan(
        remove_ports=tuple(remove_ports),
        remove_endpoints=tuple(sorted(remove_endpoints)),
        remove_gateways=tuple(sorted(carried - wanted)),
        put_policies=tuple(put_policies),
        put_gateways=tuple(sorted(wanted - carried)),
        put_endpoints=tuple(put_endpoints),
        put_columns=tuple(put_columns),
        put_ports=tuple(put_ports),
        remove_policies=tuple(sorted(remove_policies)),
        put_forwards=tuple(sorted(touched.forwards.items(), key=_where)),
        put_on_demand=tuple(sorted(on_demand - carried_on_demand)),
        remove_on_demand=tuple(sorted(carried_on_demand - on_demand)),
        remove_forwards=tuple(sorted(touched.followed - touched.forwards.keys())),
        **ways._asdict(),
        **partial_balancing(desired, touched, carried_vips, carried_services)._asdict(),
    )


def _port_plan(desired: Desired, touched: Touched, carried: Mapping[Id, LocalPort]) -> tuple[list[LocalPort], list[Id]]:
    """Ports to put and to remove."""
    put: list[LocalPort] = []
    remove: list[Id] = []
    # A port may have waited for them, whether or not it is carried as it was before.
    waited = {identifier for key in touched.policies for identifier in desired.ports_of(key)}
    for identifier in sorted(touched.ports | waited):
        if identifier in desired.ports:
            port = local_port(desired, identifier)
            if port is not None and carried.get(identifier) != port:
                put.append(port)
        else:
            remove.append(identifier)
    return put, remove


def _policy_plan(
    desired: Desired, touched: Touched, carried: Mapping[PolicyKey, int]
) -> tuple[list[Policy], set[PolicyKey]]:
    """Policies to put and to remove. Where only ports came or went, what is carried is right."""
    put: list[Policy] = []
    gone = {key for key in carried if key.vni in touched.gone_vnis} if touched.gone_vnis else set()
    for key in sorted(touched.policies | touched.members):
        vpc = desired.vpc(key)
        if vpc is None:
            continue
        used = desired.identities(key)
        if key not in touched.policies:
            wanted = [one for one in used if PolicyKey(vpc.vni, one) not in carried]
        else:
            wanted = used
        put += [one for one in policies(desired, key, wanted) if carried.get(one.key) != one.digest()]
        gone |= {one for one in carried if one.vni == vpc.vni and one.identity not in used}
        # A VPC that went and came back in one go: what is carried of it is right.
        gone -= {PolicyKey(vpc.vni, one) for one in used}
    return put, gone


def _columns(
    vni: int,
    ips: Mapping[Ip, object],
    owners: Mapping[Ip, Id | tuple[Id, ...]],
    goals: Mapping[Id, EndpointGoal],
    local: KeysView[Id],
) -> tuple[EndpointColumns, Iterable[Ip]]:
    """The addresses that one port elsewhere has, as its own; and the others. Nearly all are the former."""
    if len(ips) == len(goals) and list(ips) == list(owners) and list(owners.values()) == list(goals):
        # A VPC that just came, in the order in which it came: nothing has to be looked up.
        here = local & goals.keys()
        plain = [identifier not in here and not goal.claims for identifier, goal in goals.items()]
        found = list(compress(goals.values(), plain))
    else:
        held = map(owners.get, ips)
        each = [goals[one] if isinstance(one, bytes) and one not in local else None for one in held]
        plain = [goal is not None and not goal.claims for goal in each]
        found = cast("list[EndpointGoal]", list(compress(each, plain)))
    columns = EndpointColumns(
        vni,
        tuple(compress(ips, plain)),
        tuple([goal.mac for goal in found]),
        tuple([goal.host_ip for goal in found]),
        tuple([goal.identity for goal in found]),
    )
    return columns, compress(ips, map(not_, plain))


def _endpoint_of(
    ip: Ip, held: Id | tuple[Id, ...], goals: Mapping[Id, EndpointGoal], local: Container[Id]
) -> Endpoint | None:
    """Where an address is that `held` claim; None: on this host. Of several claimants the newest has it: the others
    are on their way out."""
    if isinstance(held, tuple):
        claims = [goals[identifier] for identifier in held if identifier not in local]
        if not claims:
            return None
        newest = max(claims, key=_age)
        return Endpoint(newest.mac_at(ip), newest.host_ip, newest.identity)
    if held in local:
        return None
    goal = goals[held]
    return Endpoint(goal.mac_at(ip), goal.host_ip, goal.identity)


def _age(goal: EndpointGoal) -> tuple[int, Id]:
    return goal.revision, goal.id


def _where(row: tuple[EndpointKey, Endpoint]) -> EndpointKey:
    return row[0]
