"""Where packets go that leave their VPC: what is outside, by IPv6, of the VPCs of a host."""

from collections.abc import Iterable

from alcor.agent.roads import roads
from alcor.agent.state import Desired, Touched
from alcor.dataplane.base import NO_ADDRESS, OUTSIDE, Hop, Route, RouteKey, RouteKind
from alcor.dataplane.roads import EVERYWHERE, EVERYWHERE6, Vpc, open_routes, routes_of
from alcor.goalstate.objects import (
    HOST_SCOPE,
    Goal,
    InterfaceGoal,
    Outside6Goal,
    PortAddress,
    PortGoal,
    RouterGoal,
    ScopeUpdate,
    SubnetGoal,
    VpcGoal,
)
from alcor.model.addresses import Mac, ip_from_int, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import ExtraRoute, PortKind

OUTER = Outside6Goal(parse_prefix("2001:db8:100::/40"), parse_ip("fe80::1"))
WIRE = Route(RouteKind.CONNECTED, (Hop(OUTSIDE, 0, NO_ADDRESS),))
ONE, TWO = parse_prefix("2001:db8:100:1::/64"), parse_prefix("2001:db8:100:2::/64")
PRIVATE = parse_prefix("fd00::/64")


def an_id(number: int) -> Id:
    return Id(number.to_bytes(16, "big"))


def interface(vpc: int, cidr: str | object) -> InterfaceGoal:
    prefix = parse_prefix(str(cidr))
    return InterfaceGoal(an_id(vpc), an_id(50 + vpc), prefix, ip_from_int(prefix.first + 1, prefix.version))


def router(number: int, *interfaces: InterfaceGoal, outer: Outside6Goal | None = OUTER, **fields: object) -> RouterGoal:
    return RouterGoal(an_id(number), 1, interfaces, (), outer is not None, None, outer, **fields)


def vpc(number: int, *routers: RouterGoal) -> Vpc:
    return Vpc(VpcGoal(an_id(number), 1, 100 + number, 1400, False), routers=routers)


def leads(number: int, gateway: str | None = "fe80::1") -> Route:
    hop = NO_ADDRESS if gateway is None else parse_ip(gateway)
    return Route(RouteKind.CONNECTED, (Hop(100 + number, 1400, hop),))


def test_ipv6_leaves_by_a_router_with_an_ipv6_subnet_outside() -> None:
    """Not by one whose gateway has none; what is connected and what a router says of it come first."""
    with_six = vpc(1, router(10, interface(1, ONE)))
    assert Route(RouteKind.OUTSIDE) == routes_of(with_six, {an_id(1): with_six})[EVERYWHERE6]
    assert leads(1, None) == routes_of(with_six, {an_id(1): with_six})[ONE]
    without = vpc(1, RouterGoal(an_id(10), 1, (interface(1, ONE),), (), True))
    assert EVERYWHERE6 not in (found := routes_of(without, {an_id(1): without}))
    assert EVERYWHERE in found
    assert {} == open_routes([without])
    own = RouterGoal(an_id(10), 1, (interface(1, ONE),), (ExtraRoute(EVERYWHERE6, None),), True, None, OUTER)
    assert Route(RouteKind.BLACKHOLE) == routes_of(one := vpc(1, own), {an_id(1): one})[EVERYWHERE6]


def test_subnets_inside_the_external_one_are_open() -> None:
    """With their VPC, its MTU and the external subnet's gateway; others are not there, and of IPv4 nothing is."""
    one = router(10, interface(1, ONE), interface(1, PRIVATE), interface(1, "10.0.0.0/24"), interface(2, TWO))
    assert {OUTER.cidr: WIRE, ONE: leads(1)} == open_routes([vpc(1, one)])
    assert {OUTER.cidr: WIRE, ONE: leads(1), TWO: leads(2)} == open_routes([vpc(1, one), vpc(2, one)])
    bare = router(10, interface(1, ONE), outer=Outside6Goal(OUTER.cidr, None))
    assert leads(1, None) == open_routes([vpc(1, bare)])[ONE]
    assert {} == open_routes([vpc(1)])


def test_a_subnet_is_open_by_its_own_routers_alone() -> None:
    """The VPC's other router leads outside, and this one does not: its subnet stays inside."""
    inner = router(9, interface(1, TWO), outer=None)
    assert {OUTER.cidr: WIRE, ONE: leads(1)} == open_routes([vpc(1, router(10, interface(1, ONE)), inner)])


def test_the_older_routers_gateway_counts() -> None:
    """And, while a host has not heard all of it, the older VPC's; whatever order they come in."""
    other = Outside6Goal(OUTER.cidr, parse_ip("fe80::2"))
    older, younger = router(10, interface(1, ONE), outer=other), router(11, interface(1, ONE))
    for routers in ((older, younger), (younger, older)):
        assert leads(1, "fe80::2") == open_routes([vpc(1, *routers)])[ONE]
    moved = [vpc(1, older), vpc(2, router(12, interface(2, ONE)))]
    for some in (moved, moved[::-1]):
        assert leads(1, "fe80::2") == open_routes(some)[ONE]


def test_a_host_has_what_the_vpcs_of_its_ports_have() -> None:
    """Not those of VPCs that routers connect with them."""
    desired, touched = Desired(), Touched()
    one = router(10, interface(1, ONE), interface(2, TWO))

    def whole(scope: Id, objects: Iterable[Goal]) -> ScopeUpdate:
        return ScopeUpdate(scope=scope, revision=1, snapshot=True, objects=tuple(objects))

    subnets = {number: SubnetGoal(an_id(50 + number), 1, cidr, None) for number, cidr in ((1, ONE), (2, TWO))}
    goals = {number: (vpc(number).goal, subnets[number], one) for number in (1, 2)}
    address = PortAddress(parse_ip("2001:db8:100:1::9"), an_id(51))
    port = PortGoal(an_id(70), 1, an_id(1), Mac(bytes(6)), (address,), True, PortKind.TAP, "", "")
    updates = (whole(HOST_SCOPE, [port]), *(whole(an_id(number), goals[number]) for number in (1, 2)))
    desired.take(1, 1, updates, synced=True, touched=touched)
    found = roads(desired).routes
    assert {OUTER.cidr: WIRE, ONE: leads(1)} == {key.prefix: route for key, route in found.items() if not key.vni}
    assert found[RouteKey(101, EVERYWHERE6)] == Route(RouteKind.OUTSIDE)
    gone = ScopeUpdate(scope=HOST_SCOPE, revision=2, snapshot=True, objects=())
    desired.take(1, 1, [gone], synced=True, touched=touched)
    assert {} == roads(desired).routes
