"""Desired x observed -> plan. Pure.

Called by reconcile: `full_plan` against what was observed (at start, after a failure, at every audit), `partial_plan`
for what some updates touched. The two agree: a data plane brought up to date by partial plans has an empty full plan.

Fail closed: a port whose VPC or subnet has not arrived is neither put nor removed; an address is programmed only while
its VPC's goal is held. Endpoints of ports on this host are not remote endpoints, whatever their goals say.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Set

from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.dataplane.base import Address, Endpoint, EndpointKey, LocalPort, Observed, Plan
from alcor.goalstate.objects import EndpointGoal
from alcor.model.ids import Id


def local_port(desired: Desired, identifier: Id) -> LocalPort | None:
    """The port as the data plane is to carry it; None while it is unknown or waits for its VPC or a subnet."""
    goal = desired.port(identifier)
    if goal is None:
        return None
    state = desired.scopes.get(ScopeKey(desired.ports[identifier], goal.vpc_id))
    vpc = state.vpcs.get(goal.vpc_id) if state is not None else None
    if state is None or vpc is None:
        return None
    addresses = []
    for address in goal.addresses:
        subnet = state.subnets.get(address.subnet_id)
        if subnet is None:
            return None
        addresses.append(Address(address.ip, subnet.cidr.length, subnet.gateway))
    return LocalPort(
        id=goal.id,
        vni=vpc.vni,
        mac=goal.mac,
        addresses=tuple(addresses),
        mtu=vpc.mtu,
        admin_state_up=goal.admin_state_up and vpc.admin_state_up,
        routed=vpc.routed,
        kind=goal.kind,
        netns=goal.netns,
        interface=goal.interface,
    )


def gateways(desired: Desired, key: ScopeKey) -> Iterator[EndpointKey]:
    """The gateways that this host answers for in a VPC: of all its subnets, when it is routed."""
    vpc = desired.vpc(key)
    if vpc is not None and vpc.routed:
        for subnet in desired.scopes[key].subnets.values():
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
    for key in desired.vpcs():
        wanted_gateways.update(gateways(desired, key))
        vpc = desired.vpc(key)
        if vpc is None:
            continue
        owners, goals = desired.owners(key), desired.scopes[key].endpoints
        for ip, held in owners.items():
            endpoint = _endpoint_of(held, goals, desired.ports)
            if endpoint is None:
                continue
            where = EndpointKey(vpc.vni, ip)
            extra.discard(where)
            if observed.endpoints.get(where) != endpoint:
                put_endpoints.append((where, endpoint))
    return Plan(
        remove_ports=tuple(sorted(observed.ports.keys() - desired.ports.keys())) if may_remove else (),
        remove_endpoints=tuple(sorted(extra)),
        remove_gateways=tuple(sorted(observed.gateways - wanted_gateways)) if may_remove else (),
        put_gateways=tuple(sorted(wanted_gateways - observed.gateways)),
        put_endpoints=tuple(sorted(put_endpoints, key=_where)),
        put_ports=tuple(put_ports),
    )


def partial_plan(
    desired: Desired, touched: Touched, ports: Mapping[Id, LocalPort], carried_gateways: Set[EndpointKey]
) -> Plan:
    """What the touched objects ask for. `ports` and `carried_gateways` are what the data plane carries.

    Endpoints are put or removed, and ports removed, without asking what is there: doing so twice changes nothing, no
    copy of the endpoints has to be kept, and what a failed attempt left half-made goes too.
    """
    remove_ports: list[Id] = []
    put_ports: list[LocalPort] = []
    for identifier in sorted(touched.ports):
        if identifier in desired.ports:
            port = local_port(desired, identifier)
            if port is not None and ports.get(identifier) != port:
                put_ports.append(port)
        else:
            remove_ports.append(identifier)
    put_endpoints: list[tuple[EndpointKey, Endpoint]] = []
    remove_endpoints = set(touched.gone)
    for key in sorted(touched.addresses):
        vpc = desired.vpc(key)
        if vpc is None:
            continue
        fresh = touched.fresh.get(key, ())
        owners, goals = desired.owners(key), desired.scopes[key].endpoints
        for ip in sorted(touched.addresses[key]):
            held = owners.get(ip)
            endpoint = _endpoint_of(held, goals, desired.ports) if held is not None else None
            where = EndpointKey(vpc.vni, ip)
            if endpoint is None:
                if ip not in fresh:
                    remove_endpoints.add(where)
            else:
                put_endpoints.append((where, endpoint))
                if remove_endpoints:
                    remove_endpoints.discard(where)
    wanted, touched_vnis = set[EndpointKey](), set(touched.gone_vnis)
    for key in touched.vpcs:
        vpc = desired.vpc(key)
        if vpc is not None:
            touched_vnis.add(vpc.vni)
            wanted.update(gateways(desired, key))
    carried = {gateway for gateway in carried_gateways if gateway.vni in touched_vnis} if touched_vnis else set()
    return Plan(
        remove_ports=tuple(remove_ports),
        remove_endpoints=tuple(sorted(remove_endpoints)),
        remove_gateways=tuple(sorted(carried - wanted)),
        put_gateways=tuple(sorted(wanted - carried)),
        put_endpoints=tuple(put_endpoints),
        put_ports=tuple(put_ports),
    )


def _endpoint_of(held: Id | tuple[Id, ...], goals: Mapping[Id, EndpointGoal], local: Container[Id]) -> Endpoint | None:
    """Where an address is that `held` claim; None: on this host. Of several claimants the newest has it: the others
    are on their way out."""
    if isinstance(held, tuple):
        claims = [goals[identifier] for identifier in held if identifier not in local]
        if not claims:
            return None
        newest = max(claims, key=_age)
        return Endpoint(newest.mac, newest.host_ip)
    if held in local:
        return None
    goal = goals[held]
    return Endpoint(goal.mac, goal.host_ip)


def _age(goal: EndpointGoal) -> tuple[int, Id]:
    return goal.revision, goal.id


def _where(row: tuple[EndpointKey, Endpoint]) -> EndpointKey:
    return row[0]
