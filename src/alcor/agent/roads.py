"""Where packets go that leave their VPC: routes and translations of identities, from routers and peerings. Pure.

Called by plan. A VPC of local ports has routes once it has a router or a peering; then all it routes by is in them, its
own subnets too. What a route leads to and is not held yet is left out: such a packet is dropped, not sent astray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alcor.agent.state import Desired, ScopeKey
from alcor.dataplane.base import NO_ADDRESS, EndpointKey, Hop, Route, RouteKey, RouteKind, TranslationKey
from alcor.goalstate.merge import ScopeState
from alcor.goalstate.objects import RouterGoal, VpcGoal
from alcor.model.addresses import Prefix
from alcor.model.ids import Id

Routes = dict[RouteKey, Route]
Translations = dict[TranslationKey, int]


class Roads(NamedTuple):
    """All routes and translations of a host."""

    routes: Routes
    translations: Translations


def roads(desired: Desired) -> Roads:
    """What the VPCs of local ports ask for."""
    routes: Routes = {}
    translations: Translations = {}
    for key in desired.carried():
        vpc = desired.vpc(key)
        if vpc is None or not has_roads(desired, key):
            continue
        routes.update((RouteKey(vpc.vni, prefix), route) for prefix, route in _routes(desired, key, vpc).items())
        for near in desired.neighbours(key):
            translations.update(_translations(desired, key, near))
    return Roads(routes, translations)


def has_roads(desired: Desired, key: ScopeKey) -> bool:
    """The VPC has a router or a peering."""
    state = desired.scopes.get(key)
    return state is not None and bool(state.routers or state.peerings)


def attached(desired: Desired, key: ScopeKey) -> frozenset[Id]:
    """The subnets of the VPC whose ports may leave it: those that a router has an address in; of a peered VPC all."""
    state = desired.scopes[key]
    if state.peerings:
        return frozenset(state.subnets)
    return frozenset(one.subnet_id for router in state.routers.values() for one in router.interfaces)


def router_addresses(desired: Desired, key: ScopeKey) -> Iterator[EndpointKey]:
    """Where routers are found in the VPC."""
    vpc, state = desired.vpc(key), desired.scopes.get(key)
    if vpc is not None and state is not None:
        for router in state.routers.values():
            for one in router.interfaces:
                if one.vpc_id == key.scope:
                    yield EndpointKey(vpc.vni, one.ip)


def _routes(desired: Desired, key: ScopeKey, vpc: VpcGoal) -> dict[Prefix, Route]:
    """Connected subnets come before extra routes to the same destination; of two routers' the older's."""
    state = desired.scopes[key]
    found: dict[Prefix, Route] = {}
    for _, router in sorted(state.routers.items(), reverse=True):
        found |= _extra_routes(desired, key, router)
    connected: dict[Prefix, VpcGoal] = {}
    for router in state.routers.values():
        for one in router.interfaces:
            near = desired.vpc(ScopeKey(key.partition, one.vpc_id))
            if near is not None:
                connected[one.cidr] = near
    for peering in state.peerings.values():
        for peer in peering.vpcs:
            connected |= _subnets(desired, ScopeKey(key.partition, peer))
    if vpc.routed:
        connected |= _subnets(desired, key)
    found.update((cidr, _connected(near)) for cidr, near in connected.items())
    return found


def _subnets(desired: Desired, key: ScopeKey) -> dict[Prefix, VpcGoal]:
    vpc = desired.vpc(key)
    return {subnet.cidr: vpc for subnet in desired.scopes[key].subnets.values()} if vpc is not None else {}


def _connected(vpc: VpcGoal) -> Route:
    return Route(RouteKind.CONNECTED, (Hop(vpc.vni, vpc.mtu, NO_ADDRESS),))


def _extra_routes(desired: Desired, key: ScopeKey, router: RouterGoal) -> dict[Prefix, Route]:
    hops: dict[Prefix, list[Hop]] = {}
    for route in router.routes:
        some = hops.setdefault(route.destination, [])
        for one in router.interfaces:
            if route.nexthop is not None and route.nexthop in one.cidr:
                vpc = desired.vpc(ScopeKey(key.partition, one.vpc_id))
                if vpc is not None:
                    some.append(Hop(vpc.vni, vpc.mtu, route.nexthop))
    # A route whose next hops are not known yet is as a blackhole: a shorter prefix must not have its packets.
    return {
        destination: Route(RouteKind.HOPS, tuple(some)) if some else Route(RouteKind.BLACKHOLE)
        for destination, some in hops.items()
    }


def _translations(desired: Desired, key: ScopeKey, near: ScopeKey) -> Translations:
    """The numbers of the sets of groups that both VPCs know, both ways."""
    vpc, other = desired.vpc(key), desired.vpc(near)
    if vpc is None or other is None:
        return {}
    here, there = _numbers(desired.scopes[key]), _numbers(desired.scopes[near])
    found: Translations = {}
    for groups, number in here.items():
        if groups in there:
            found[TranslationKey(vpc.vni, number, other.vni)] = there[groups]
            found[TranslationKey(other.vni, there[groups], vpc.vni)] = number
    return found


def _numbers(state: ScopeState) -> Mapping[tuple[Id, ...], int]:
    return {one.groups: one.number for one in state.identities.values()}
