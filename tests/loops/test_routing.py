"""Routers and peerings from the API's command to the hosts, over real sockets: who is told, and who is not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.loops.region import Region

from alcor.dataplane.base import NO_ADDRESS, Hop, Route, RouteKey, RouteKind, TranslationKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.nouns import ExtraRoute, Network, Peering, Port, Router, Subnet
from alcor.services.commands import (
    AddRouterInterface,
    ChangeExtraRoutes,
    CreatePeerings,
    CreateRouters,
    DeletePeering,
    DeletePorts,
    PeeringSpec,
    RemoveRouterInterface,
    RouterSpec,
    UpdateRouter,
)
from alcor.services.demand import demand_policy


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


Vpc = tuple[Network, Subnet]


async def make_router(region: Region, *vpcs: Vpc) -> Router:
    """A router with an interface in each."""
    router: Router
    (router,) = await region.do(CreateRouters(specs=(RouterSpec(),)))
    for _, subnet in vpcs:
        await region.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))
    return router


def connected(network: Network) -> Route:
    return Route(RouteKind.CONNECTED, (Hop(network.vni, network.mtu, NO_ADDRESS),))


def where(network: Network, port: Port) -> EndpointKey:
    return EndpointKey(network.vni, port.fixed_ips[0].ip)


async def test_a_router_reaches_the_hosts_that_need_it_and_no_other(region: Region) -> None:
    """Hosts with a port of either VPC get routes and the other's endpoints; a third VPC's host hears nothing. The last
    interface gone, everything of the other VPC is forgotten, and ports are as before."""
    a, b, c = [await region.add_host(name) for name in ("host-a", "host-b", "host-c")]
    one, two, three = [await region.add_vpc(f"10.{index}.0.0/16") for index in (1, 2, 3)]
    (pa,) = await region.add_ports(one[0], ["host-a"])
    (pb,) = await region.add_ports(two[0], ["host-b"])
    (pc,) = await region.add_ports(three[0], ["host-c"])
    await region.until_active(pa, pb, pc)
    before = c.tables.written.copy()
    router = await make_router(region, one, two)
    routes = {
        RouteKey(network.vni, subnet.cidr): connected(target)
        for network, _ in (one, two)
        for target, subnet in (one, two)
    }
    await region.until(lambda: {key for key in routes if key.vni == one[0].vni} == a.tables.routes.keys())
    assert {key: route for key, route in routes.items() if key.vni == one[0].vni} == a.tables.routes
    await region.until(lambda: {key: r for key, r in routes.items() if key.vni == two[0].vni} == b.tables.routes)
    await region.until(lambda: set(a.tables.endpoints) == {where(two[0], pb)})
    await region.until(lambda: set(b.tables.endpoints) == {where(one[0], pa)})
    await region.until(lambda: a.tables.ports[pa.id].routes and b.tables.ports[pb.id].routes)
    await region.until_active(pa, pb)
    # What stands for the default group here is known there.
    numbers = (one[0].vni, pa.identity, two[0].vni), (two[0].vni, pb.identity, one[0].vni)
    for host in (a, b):
        assert {TranslationKey(*numbers[0]): pb.identity, TranslationKey(*numbers[1]): pa.identity} == (
            host.tables.translations
        )
        assert len(host.tables.gateways) == 2
    assert ({}, before) == (c.tables.routes, c.tables.written)
    (later,) = await region.add_ports(two[0], ["host-c"])
    await region.until(lambda: where(two[0], later) in a.tables.endpoints)
    await region.until(lambda: where(one[0], pa) in c.tables.endpoints)
    await region.do(RemoveRouterInterface(id=router.id, subnet_id=two[1].id))
    await region.until(lambda: not a.tables.endpoints and not a.tables.translations)
    await region.until(lambda: set(b.tables.endpoints) == {where(two[0], later)} and not b.tables.routes)
    assert not b.tables.ports[pb.id].routes
    assert {RouteKey(one[0].vni, one[1].cidr): connected(one[0])} == a.tables.routes
    await region.until(lambda: where(one[0], pa) not in c.tables.endpoints)
    await region.until_active(pa, pb, later)


async def test_extra_routes_and_the_router_down(region: Region) -> None:
    """Next hops, several of them, blackholes; a router that is down routes nothing; up again it does."""
    a = await region.add_host("host-a")
    await region.add_host("host-b")
    one, two = await region.add_vpc("10.1.0.0/16"), await region.add_vpc("10.2.0.0/16")
    (port,) = await region.add_ports(one[0], ["host-a"])
    (far,) = await region.add_ports(two[0], ["host-b"])
    router = await make_router(region, one, two)
    there, nowhere = parse_prefix("192.0.2.0/24"), parse_prefix("198.51.100.0/24")
    routes = (
        ExtraRoute(there, parse_ip("10.2.0.9")),
        ExtraRoute(there, parse_ip("10.1.0.8")),
        ExtraRoute(nowhere, None),
    )
    await region.do(ChangeExtraRoutes(id=router.id, add=routes))
    hops = (Hop(one[0].vni, 1450, parse_ip("10.1.0.8")), Hop(two[0].vni, 1450, parse_ip("10.2.0.9")))
    await region.until(lambda: RouteKey(one[0].vni, there) in a.tables.routes)
    assert Route(RouteKind.HOPS, hops) == a.tables.routes[RouteKey(one[0].vni, there)]
    assert Route(RouteKind.BLACKHOLE) == a.tables.routes[RouteKey(one[0].vni, nowhere)]
    await region.do(UpdateRouter(id=router.id, admin_state_up=False))
    await region.until(lambda: not a.tables.routes and not a.tables.endpoints and not a.tables.ports[port.id].routes)
    await region.do(UpdateRouter(id=router.id, admin_state_up=True))
    await region.until(lambda: len(a.tables.routes) == 4 and set(a.tables.endpoints) == {where(two[0], far)})


async def test_a_peering_and_its_end(region: Region) -> None:
    """All subnets of both, those that come later too; nothing is left of it; restarts of agents lose nothing. A host
    that carries neither hears nothing of it."""
    a, b, c = [await region.add_host(f"host-{letter}") for letter in "abc"]
    one, two = await region.add_vpc("10.1.0.0/16"), await region.add_vpc("10.2.0.0/16")
    other = await region.add_vpc("10.3.0.0/16")
    (pa,) = await region.add_ports(one[0], ["host-a"])
    (pb,) = await region.add_ports(two[0], ["host-b"])
    await region.add_ports(other[0], ["host-c"])
    await region.until(lambda: len(c.tables.ports) == 1)
    before = c.tables.written.copy()
    spec = PeeringSpec(network_id=one[0].id, peer_network_id=two[0].id)
    (peering,) = await region.do(CreatePeerings(specs=(spec,)))
    assert isinstance(peering, Peering)
    await region.until(lambda: set(a.tables.endpoints) == {where(two[0], pb)} and len(a.tables.routes) == 2)
    assert ({}, before) == (c.tables.routes, c.tables.written)
    await a.stop()
    await a.start()
    (late,) = await region.add_ports(two[0], ["host-b"])
    await region.until(lambda: set(a.tables.endpoints) == {where(two[0], pb), where(two[0], late)})
    await region.do(DeletePeering(id=peering.id))
    for host in (a, b):
        await region.until(lambda host=host: not host.tables.endpoints and not host.tables.routes)  # type: ignore[misc]
    await region.do(DeletePorts(ids=(pa.id,)))
    await region.until(lambda: not a.tables.ports and not a.tables.gateways)


async def test_what_is_connected_counts_for_what_is_preloaded(tmp_path: Path) -> None:
    """P5: two VPCs that are small alone and large together go on demand when a router joins them, and come back."""
    region = Region(tmp_path)
    region.demand = demand_policy(10)
    await region.start()
    try:
        a = await region.add_host("host-a")
        await region.add_host("host-b")
        one, two = await region.add_vpc("10.1.0.0/16"), await region.add_vpc("10.2.0.0/16")
        await region.add_ports(one[0], ["host-a"] * 5)
        await region.add_ports(two[0], ["host-b"] * 5)
        router = await make_router(region, one, two)
        await region.until(lambda: a.tables.on_demand == {one[0].vni, two[0].vni} and not a.tables.endpoints)
        await region.do(RemoveRouterInterface(id=router.id, subnet_id=two[1].id))
        await region.until(lambda: not a.tables.on_demand)
    finally:
        await region.close()
