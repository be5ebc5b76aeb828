"""Routers and peerings: what they connect, what is refused, and that nothing leaks."""

import pytest
from tests.services.world import World, fixed

from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.nouns import ExtraRoute, Network, PortStatus, Router, Subnet
from alcor.services.commands import (
    AddRouterInterface,
    ChangeExtraRoutes,
    CreatePeerings,
    CreateRouters,
    CreateSecurityGroups,
    DeletePorts,
    DeleteRouter,
    DeleteSecurityGroup,
    PeeringSpec,
    RemoveRouterInterface,
    RouterInterfaces,
    RouterSpec,
    SecurityGroupSpec,
    UpdateRouter,
)
from alcor.services.demand import demand_policy, review
from alcor.services.errors import BadRequest, InvalidInput, InvalidRoutes, RoutesExhausted, VpcPeeringOverlap
from alcor.services.indexes import Indexes
from alcor.services.routers import MAX_ROUTES
from alcor.store.base import Changes


def vpc(world: World, cidr: str) -> tuple[Network, Subnet]:
    network = world.network(cidr=cidr)
    return network, world.subnet(network, cidr)


def join(world: World, *subnets: Subnet) -> Router:
    """A router with an interface in each."""
    (router,) = world.do(CreateRouters(specs=(RouterSpec(name="r"),)))
    for subnet in subnets:
        world.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))
    found: Router = world.indexes.routers[router.id]
    return found


def test_an_interface_takes_and_gives_back() -> None:
    """A port, a MAC and the gateway's address; the router's revision names each state."""
    world = World()
    (_, one), (_, two) = vpc(world, "10.1.0.0/16"), vpc(world, "10.2.0.0/16")
    router = join(world, one, two)
    assert [parse_ip("10.1.0.1"), parse_ip("10.2.0.1")] == [interface.ip for interface in router.interfaces]
    assert world.revision == router.revision
    (port,) = world.store.get_ports([router.interfaces[0].port_id])
    assert (PortStatus.DOWN, False, 0) == (port.status, port.port_security_enabled, port.identity)
    world.check()
    done: RouterInterfaces = world.do(RemoveRouterInterface(id=router.id, subnet_id=one.id))
    assert router.interfaces[:1] == done.interfaces
    world.do(RemoveRouterInterface(id=router.id, port_id=router.interfaces[1].port_id))
    world.do(DeleteRouter(id=router.id))
    world.check()
    assert ({}, {}, {}) == (world.indexes.routers, world.indexes.router_of, world.indexes.roads_of)
    assert [] == world.store.rows(Router)


def test_the_indexes_are_the_same_after_a_restart() -> None:
    """Routers, their ports and peerings are read back from the store."""
    world = World()
    (net1, one), (net2, two), (net3, _) = (vpc(world, f"10.{index}.0.0/16") for index in (1, 2, 3))
    join(world, one, two)
    world.do(CreatePeerings(specs=(PeeringSpec(network_id=net2.id, peer_network_id=net3.id),)))
    again = Indexes(world.store)
    for name in ("routers", "router_of", "peerings", "roads_of"):
        assert getattr(world.indexes, name) == getattr(again, name), name
    assert [net1.id, net3.id] == again.neighbours(net2.id)


def test_what_would_be_ambiguous_is_refused() -> None:
    """Through however many roads: two subnets that overlap may not be reached from one network."""
    world = World()
    (net1, one), (net2, two) = vpc(world, "10.1.0.0/16"), vpc(world, "10.2.0.0/16")
    _, twin = vpc(world, "10.2.0.0/17")
    join(world, one, two)
    (other,) = world.do(CreateRouters(specs=(RouterSpec(),)))
    port = world.port(net1, fixed_ips=fixed("10.1.0.9"), security_groups=())
    world.do(AddRouterInterface(id=other.id, port_id=port.id))
    with pytest.raises(BadRequest, match=r"10\.2\.0\.0/17.*overlaps with cidr|overlaps with cidr 10\.2\.0\.0/17"):
        world.do(AddRouterInterface(id=other.id, subnet_id=twin.id))
    net3, _ = vpc(world, "10.3.0.0/16")
    world.do(CreatePeerings(specs=(PeeringSpec(network_id=net2.id, peer_network_id=net3.id),)))
    net4 = world.network(cidr="10.4.0.0/16")
    six = "2001:db8::/64"
    world.subnet(net2, six)
    world.subnet(net4, six)
    with pytest.raises(VpcPeeringOverlap, match="would reach both"):
        world.do(CreatePeerings(specs=(PeeringSpec(network_id=net4.id, peer_network_id=net2.id),)))
    with pytest.raises(InvalidInput, match="would reach both"):
        world.subnet(net3, six)
    world.check()


def test_groups_have_numbers_in_every_connected_network() -> None:
    """Those that ports have when networks are connected, and those that come later; a deleted group's go everywhere."""
    world = World()
    (net1, one), (net2, two) = vpc(world, "10.1.0.0/16"), vpc(world, "10.2.0.0/16")
    group, late = world.do(CreateSecurityGroups(specs=(SecurityGroupSpec(name="g"), SecurityGroupSpec(name="late"))))
    a = world.port(net1, security_groups=(group.id,))
    join(world, one, two)
    assert {(group.id,)} == world.indexes.identities[net2.id].keys()
    b = world.port(net2, security_groups=(late.id,))
    assert {(group.id,), (late.id,)} == world.indexes.identities[net1.id].keys()
    world.check()
    world.do(DeletePorts(ids=(a.id, b.id)))
    for one_group in (group, late):
        world.do(DeleteSecurityGroup(id=one_group.id))
    assert not any(world.indexes.identities.values())
    world.check()


def test_routes_are_bounded_and_kept_in_order() -> None:
    """Whatever the order in which they were given; beyond the maximum Neutron's error."""
    world = World()
    _, one = vpc(world, "10.1.0.0/16")
    router = join(world, one)
    hop = parse_ip("10.1.0.9")
    some = tuple(ExtraRoute(parse_prefix(f"192.0.{index}.0/24"), hop) for index in (3, 1, 2))
    changed: Router = world.do(ChangeExtraRoutes(id=router.id, add=some))
    assert tuple(sorted(some)) == changed.routes
    revision = world.revision
    world.do(ChangeExtraRoutes(id=router.id, add=some[:1], remove=(ExtraRoute(some[0].destination, None),)))
    assert revision == world.revision
    many = tuple(
        ExtraRoute(parse_prefix(f"172.{16 + index // 256}.{index % 256}.0/24"), hop) for index in range(MAX_ROUTES + 1)
    )
    with pytest.raises(RoutesExhausted, match=f"exceeds the maximum {MAX_ROUTES}"):
        world.do(UpdateRouter(id=router.id, routes=many))
    with pytest.raises(InvalidRoutes, match="not connected"):
        world.do(ChangeExtraRoutes(id=router.id, add=(ExtraRoute(some[0].destination, parse_ip("10.9.0.1")),)))


def test_connected_networks_count_together() -> None:
    """A network is on demand when a host of it would hold too many endpoints, whichever network they are of."""
    world = World()
    (net1, one), (net2, two) = vpc(world, "10.1.0.0/16"), vpc(world, "10.2.0.0/16")
    world.ports(net1, 5)
    world.ports(net2, 5)
    policy = demand_policy(9)
    assert [] == review(world.indexes, Changes(new_ports=[world.port(net1)]), policy, 9)
    router = join(world, one, two)
    crossed = review(world.indexes, Changes(routers=[router]), policy, 9)
    assert [(net1.id, True), (net2.id, True)] == [(network.id, network.on_demand) for network in crossed]
