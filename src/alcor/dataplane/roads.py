"""Where packets go that leave their VPC: routes, and what stands for whose groups, from routers and peerings. Pure.

Called by the agent (for what it programs) and by the answer to "why did this packet not arrive?" (loops.reachability).
A VPC has routes once it has a router or a peering; then all that it routes by is in them, its own subnets too. What a
route leads to and is not known is left out: such a packet is dropped, not sent astray.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from alcor.dataplane.base import NO_ADDRESS, OUTSIDE, Hop, Route, RouteKind, SharedAddress, TranslationKey
from alcor.goalstate.objects import IdentityGoal, PeeringGoal, RouterGoal, SubnetGoal, VpcGoal
from alcor.model.addresses import Ip, Prefix, parse_prefix
from alcor.model.ids import Id

EVERYWHERE = parse_prefix("0.0.0.0/0")
EVERYWHERE6 = parse_prefix("::/0")


class Vpc(NamedTuple):
    """What of a VPC's scope routing looks at."""

    goal: VpcGoal
    subnets: Iterable[SubnetGoal] = ()
    routers: Iterable[RouterGoal] = ()
    peerings: Iterable[PeeringGoal] = ()
    identities: Iterable[IdentityGoal] = ()


def attached(vpc: Vpc) -> frozenset[Id]:
    """The subnets whose ports may leave the VPC: those that a router has an address in; of a peered VPC all."""
    if list(vpc.peerings):
        return frozenset(subnet.id for subnet in vpc.subnets)
    return frozenset(one.subnet_id for router in vpc.routers for one in router.interfaces)


def router_addresses(vpc: Vpc) -> Iterator[Ip]:
    """Where routers are found in the VPC."""
    for router in vpc.routers:
        for one in router.interfaces:
            if one.vpc_id == vpc.goal.id:
                yield one.ip


def routes_of(vpc: Vpc, known: Mapping[Id, Vpc]) -> dict[Prefix, Route]:
    """The routes of a VPC's ports; `known` are the VPCs that routers and peerings connect with it, itself included.

    Connected subnets come before extra routes to the same destination; of two routers' the older's.
    """
    found: dict[Prefix, Route] = {}
    leading = [router for router in vpc.routers if router.outside]
    if leading:
        found[EVERYWHERE] = _outside(min(leading, key=lambda router: (router.shared is None, router.id)))
    if any(router.outside6 is not None for router in leading):
        found[EVERYWHERE6] = Route(RouteKind.OUTSIDE)
    for router in sorted(vpc.routers, key=lambda router: router.id, reverse=True):
        found |= _extra_routes(router, known)
    connected: dict[Prefix, VpcGoal] = {}
    for router in vpc.routers:
        for one in router.interfaces:
            if one.vpc_id in known:
                connected[one.cidr] = known[one.vpc_id].goal
    for peering in vpc.peerings:
        for peer in peering.vpcs:
            if peer in known:
                connected.update((subnet.cidr, known[peer].goal) for subnet in known[peer].subnets)
    if vpc.goal.routed:
        connected.update((subnet.cidr, vpc.goal) for subnet in vpc.subnets)
    found.update((cidr, _connected(near)) for cidr, near in connected.items())
    return found


def open_routes(vpcs: Iterable[Vpc]) -> dict[Prefix, Route]:
    """The routes of VNI OUTSIDE of a host that has ports of these VPCs: where the addresses of open subnets are, and
    what is on the external wire. A port may leave from the former only, and what lacks is not there.

    A subnet that two routers lead outside has the gateway of the older one. (No two of different VPCs share an address;
    while a host has not heard all of it, the older VPC's counts.)
    """
    wires: dict[Prefix, Route] = {}
    found: dict[Prefix, Route] = {}
    for vpc in sorted(vpcs, key=lambda vpc: vpc.goal.id, reverse=True):
        for router in sorted(vpc.routers, key=lambda router: router.id, reverse=True):
            outer = router.outside6
            if outer is None:
                continue
            wires[outer.cidr] = Route(RouteKind.CONNECTED, (Hop(OUTSIDE, 0, NO_ADDRESS),))
            hop = Hop(vpc.goal.vni, vpc.goal.mtu, outer.gateway or NO_ADDRESS)
            for one in router.interfaces:
                if one.vpc_id == vpc.goal.id and outer.cidr.covers(one.cidr):
                    found[one.cidr] = Route(RouteKind.CONNECTED, (hop,))
    return wires | found


def shared_of(vpc: Vpc, known: Mapping[Id, Vpc]) -> Iterator[tuple[Ip, SharedAddress]]:
    """The addresses outside that hosts share for ports of the VPC; `known` as for routes."""
    for router in vpc.routers:
        shared = router.shared
        if shared is not None:
            mtu = min([known[one].goal.mtu for one in router.vpcs if one in known], default=vpc.goal.mtu)
            yield (
                shared.ip,
                SharedAddress(shared.prefix_length, shared.gateway, mtu, shared.answerer, shared.blocks),
            )


def translations_of(vpc: Vpc, near: Vpc) -> dict[TranslationKey, int]:
    """The numbers of the sets of groups that both VPCs know, both ways."""
    there = {one.groups: one.number for one in near.identities}
    found = {}
    for one in vpc.identities:
        other = there.get(one.groups)
        if other is not None:
            found[TranslationKey(vpc.goal.vni, one.number, near.goal.vni)] = other
            found[TranslationKey(near.goal.vni, other, vpc.goal.vni)] = one.number
    return found


def _outside(router: RouterGoal) -> Route:
    """What is nowhere else; from the router's address, if it is shared."""
    hops = () if router.shared is None else (Hop(0, 0, router.shared.ip),)
    return Route(RouteKind.OUTSIDE, hops)


def _connected(vpc: VpcGoal) -> Route:
    return Route(RouteKind.CONNECTED, (Hop(vpc.vni, vpc.mtu, NO_ADDRESS),))


def _extra_routes(router: RouterGoal, known: Mapping[Id, Vpc]) -> dict[Prefix, Route]:
    hops: dict[Prefix, list[Hop]] = {}
    for route in router.routes:
        some = hops.setdefault(route.destination, [])
        for one in router.interfaces:
            if route.nexthop is not None and route.nexthop in one.cidr and one.vpc_id in known:
                vpc = known[one.vpc_id].goal
                some.append(Hop(vpc.vni, vpc.mtu, route.nexthop))
    # A route whose next hops are not known yet is as a blackhole: a shorter prefix must not have its packets.
    return {
        destination: Route(RouteKind.HOPS, tuple(some)) if some else Route(RouteKind.BLACKHOLE)
        for destination, some in hops.items()
    }
