"""IPv6 outside: routers' addresses of both families, which subnets are open, and what is refused."""

import random
from typing import Any

import pytest
from msgspec.structs import replace
from tests.services.world import World, fixed

from alcor.goalstate.objects import Outside6Goal
from alcor.goalstate.snapshot import router_goal
from alcor.model.addresses import Prefix, format_ip, ip_from_int, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Ipv6Mode, Network, Outside6, Pool, Router, RouterGateway, RouterInterface, Subnet
from alcor.services.commands import (
    AddRouterInterface,
    Command,
    CreateFloatingIps,
    CreateRouters,
    DeleteRouter,
    FixedIpSpec,
    FloatingIpSpec,
    GatewaySpec,
    RemoveRouterInterface,
    RouterSpec,
    UpdateNetwork,
    UpdateRouter,
    UpdateSubnet,
)
from alcor.services.errors import (
    BadRequest,
    DomainError,
    InvalidInput,
    InvalidIpForSubnet,
    RouterExternalGatewayInUseByFloatingIp,
    SubnetInUse,
)
from alcor.services.indexes import Indexes
from alcor.services.open_subnets import OpenSubnets

OUTER = "2001:db8:100::/40"
LINK_LOCAL = parse_ip("fe80::1")


class Cloud:
    """An external network of both families, and an inner one with a subnet inside its IPv6 one."""

    def __init__(self) -> None:
        self.world = world = World()
        self.outer = world.network(external=True)
        self.pool4 = world.subnet(self.outer, "203.0.113.0/28")
        self.pool6 = world.subnet(self.outer, OUTER, gateway=LINK_LOCAL, enable_dhcp=False)
        self.inner = world.network()
        self.open = world.subnet(self.inner, "2001:db8:100:5::/64")

    def router(self, network: Network | None = None, *subnets: Subnet, **fields: Any) -> Router:
        spec = GatewaySpec(network_id=(network or self.outer).id, **fields)
        made: Router = self.world.do(CreateRouters(specs=(RouterSpec(gateway=spec),)))[0]
        for subnet in subnets:
            self.world.do(AddRouterInterface(id=made.id, subnet_id=subnet.id))
        return self.now(made.id)

    def now(self, identifier: Id) -> Router:
        """As it is in memory and in the store."""
        found = self.world.indexes.routers[identifier]
        assert [found] == [one for one in self.world.store.rows(Router) if one.id == identifier]
        return found

    def set(self, router: Router, **fields: Any) -> Router:
        spec = GatewaySpec(**{"network_id": self.outer.id, **fields})
        self.world.do(UpdateRouter(id=router.id, gateway=spec))
        return self.now(router.id)

    def inside(self, cidr: str, **fields: Any) -> Subnet:
        """A subnet of a network of its own."""
        return self.world.subnet(self.world.network(), cidr, **fields)

    def refused(self, error: type[DomainError], match: str, command: Command) -> None:
        """Nothing is changed by it."""
        before = self.world.revision
        with pytest.raises(error, match=match):
            self.world.do(command)
        assert before == self.world.revision
        self.world.check()


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def gateway(router: Router) -> RouterGateway:
    assert router.gateway is not None
    return router.gateway


def shown(router: Router) -> list[str]:
    return [format_ip(one.ip) for one in gateway(router).addresses]


def test_a_gateway_has_an_address_of_each_family(cloud: Cloud) -> None:
    """By one port; hosts are told the external subnet, whether or not the IPv4 address is shared."""
    for number, snat in ((0, True), (1, False)):
        router = cloud.router(enable_snat=snat)
        assert [f"203.0.113.{2 + number}", f"2001:db8:100::{1 + number}"] == shown(router)
        (port,) = cloud.world.store.get_ports([gateway(router).port_id])
        assert gateway(router).addresses == port.fixed_ips
        goal = router_goal(router)
        assert goal is not None
        assert (True, Outside6Goal(parse_prefix(OUTER), LINK_LOCAL)) == (goal.outside, goal.outside6)
        assert snat == (goal.shared is not None)
        cloud.world.check()
        cloud.world.do(UpdateRouter(id=router.id, admin_state_up=False))
        assert router_goal(cloud.now(router.id)) is None


def test_a_network_of_ipv6_only_leads_outside(cloud: Cloud) -> None:
    """Then nothing is shared, and a floating IP has no address to be."""
    only = cloud.world.network(external=True)
    cloud.world.subnet(only, "2001:db8:9000::/48")
    router = cloud.router(only)
    assert (None, None, True, False) == (
        gateway(router).subnet_id,
        gateway(router).ip,
        gateway(router).enable_snat,
        gateway(router).shares,
    )
    goal = router_goal(router)
    assert goal is not None
    assert (True, None) == (goal.outside, goal.shared)
    assert goal.outside6 == Outside6Goal(parse_prefix("2001:db8:9000::/48"), parse_ip("2001:db8:9000::1"))
    fip = CreateFloatingIps(specs=(FloatingIpSpec(network_id=only.id),))
    cloud.refused(BadRequest, "does not contain any IPv4 subnet", fip)
    empty = GatewaySpec(network_id=cloud.world.network(external=True).id)
    cloud.refused(BadRequest, "does not contain any subnet", UpdateRouter(id=router.id, gateway=empty))
    cloud.world.do(DeleteRouter(id=router.id))
    assert [] == cloud.world.store.get_ports([gateway(router).port_id])
    cloud.world.check()


def test_floating_ips_take_no_ipv6_address(cloud: Cloud) -> None:
    """Of a network of both families they are IPv4, and cannot be asked to be otherwise."""
    (fip,) = cloud.world.do(CreateFloatingIps(specs=(FloatingIpSpec(network_id=cloud.outer.id),)))
    (port,) = cloud.world.store.get_ports([fip.external_port_id])
    assert [fip.ip] == [fixed.ip for fixed in port.fixed_ips]
    for fields in ({"subnet_id": cloud.pool6.id}, {"ip": parse_ip("2001:db8:100::9")}):
        spec = FloatingIpSpec(network_id=cloud.outer.id, **fields)
        cloud.refused(BadRequest, "is IPv6", CreateFloatingIps(specs=(spec,)))


def test_addresses_are_asked_for_by_family(cloud: Cloud) -> None:
    """Only what is named is had; the IPv4 address and the port stay while it is; the same once more writes nothing."""
    router = cloud.router(addresses=fixed(cloud.pool4.id))
    assert ["203.0.113.2"] == shown(router)
    assert gateway(router).outside6 is None
    both = cloud.set(router)
    assert ["203.0.113.2", "2001:db8:100::1"] == shown(both)
    before = cloud.world.revision
    for same in ((), fixed(cloud.pool6.id, cloud.pool4.id), fixed("203.0.113.2", "2001:db8:100::1")):
        assert both == cloud.set(router, addresses=same)
    assert before == cloud.world.revision
    moved = cloud.set(router, addresses=fixed(cloud.pool4.id, "2001:db8:100::77"))
    assert ["203.0.113.2", "2001:db8:100::77"] == shown(moved)
    assert gateway(router).port_id == gateway(moved).port_id
    cloud.world.check()
    other = cloud.set(router, addresses=fixed("203.0.113.9", "2001:db8:100::77"))
    assert ["203.0.113.9", "2001:db8:100::77"] == shown(other)
    assert gateway(router).port_id != gateway(other).port_id
    assert ["2001:db8:100::77"] == shown(cloud.set(router, addresses=fixed(cloud.pool6.id)))
    assert ["203.0.113.3", "2001:db8:100::77"] == shown(cloud.set(router))
    cloud.world.check()


def test_a_floating_ip_holds_the_ipv4_half_alone(cloud: Cloud) -> None:
    """IPv6 comes and goes beside it."""
    v4 = cloud.world.subnet(cloud.inner, "10.0.0.0/24")
    router = cloud.router(None, v4, cloud.open)
    port = cloud.world.port(cloud.inner, fixed_ips=fixed(v4.id))
    cloud.world.do(CreateFloatingIps(specs=(FloatingIpSpec(network_id=cloud.outer.id, port_id=port.id),)))
    without = cloud.set(router, addresses=fixed(cloud.pool4.id))
    assert ((), without.interfaces[1:]) == (without.open_interfaces, router.open_interfaces)
    six = GatewaySpec(network_id=cloud.outer.id, addresses=fixed(cloud.pool6.id))
    cloud.refused(RouterExternalGatewayInUseByFloatingIp, "required by", UpdateRouter(id=router.id, gateway=six))
    assert 2 == len(shown(cloud.set(router)))


def test_router_addresses_that_cannot_be(cloud: Cloud) -> None:
    """Two of a family; one that is in no pool, which a tenant's subnet may have."""
    router = cloud.router()
    pool = Pool(parse_ip("2001:db8:100::100"), parse_ip("2001:db8:100::1ff"))
    cloud.world.do(UpdateSubnet(id=cloud.pool6.id, pools=(pool,)))
    far = FixedIpSpec(subnet_id=cloud.pool6.id, ip=parse_ip("2001:db8:1ff::9"))
    for error, match, wanted in (
        (BadRequest, "one address of each family", fixed("2001:db8:100::101", "2001:db8:100::102")),
        (BadRequest, "is in no allocation pool", fixed("2001:db8:100::9")),
        (InvalidIpForSubnet, "not a valid IP for the specified", (far,)),
    ):
        asked = GatewaySpec(network_id=cloud.outer.id, addresses=wanted)
        cloud.refused(error, match, UpdateRouter(id=router.id, gateway=asked))
    assert ["203.0.113.2", "2001:db8:100::1"] == shown(cloud.set(router))
    assert ["203.0.113.3", "2001:db8:100::100"] == shown(cloud.router())


def test_subnets_inside_the_external_one_are_open_while_a_router_leads_there(cloud: Cloud) -> None:
    """Others of the router's stay inside, and so does one that has the prefix of somebody else."""
    stranger, private = cloud.inside("2001:4860::/64"), cloud.inside("fd00:1::/64")
    router = cloud.router(None, cloud.open, stranger, private)
    assert [cloud.open.id] == [one.subnet_id for one in router.open_interfaces]
    assert {cloud.open.id} == {one.subnet_id for one in cloud.world.indexes.open_subnets.all()}
    second = cloud.router(None)
    port = cloud.world.port(cloud.inner, fixed_ips=fixed("2001:db8:100:5::99"))
    cloud.world.do(AddRouterInterface(id=second.id, port_id=port.id))
    (routers,) = cloud.world.indexes.open_subnets.all().values()
    assert {router.id, second.id} == routers
    cloud.world.check()
    cloud.world.do(UpdateRouter(id=router.id, gateway=None))
    assert 1 == len(cloud.world.indexes.open_subnets.all())
    cloud.world.do(RemoveRouterInterface(id=second.id, subnet_id=cloud.open.id))
    assert {} == cloud.world.indexes.open_subnets.all()
    cloud.world.check()


def test_an_interface_is_one_change_of_its_router(cloud: Cloud) -> None:
    """However many ports the VPC has: no port's revision grows."""
    ports = cloud.world.ports(cloud.inner, 50)
    router = cloud.router(None, cloud.open)
    changes = cloud.world.compute(UpdateRouter(id=router.id, gateway=None)).changes
    assert ([router.id], []) == ([one.id for one in changes.routers], changes.changed_ports)
    assert ports == tuple(cloud.world.stored(port) for port in ports)


def test_no_two_open_subnets_share_an_address(cloud: Cloud) -> None:
    """Whichever way the second would come to be: an interface, a gateway, or the first's own way once more."""
    cloud.router(None, cloud.open)
    again = cloud.inside("2001:db8:100:5::/64")
    longer = cloud.inside("2001:db8:100:5:8000::/80")
    with_gateway = cloud.router()
    for subnet in (again, longer):
        match = f"{subnet.cidr} of subnet .* overlaps with cidr 2001:db8:100:5::/64, which another router leads outside"
        cloud.refused(BadRequest, match, AddRouterInterface(id=with_gateway.id, subnet_id=subnet.id))
    inner: Router = cloud.world.do(CreateRouters(specs=(RouterSpec(),)))[0]
    cloud.world.do(AddRouterInterface(id=inner.id, subnet_id=again.id))
    asked = GatewaySpec(network_id=cloud.outer.id)
    cloud.refused(BadRequest, "which another router leads outside", UpdateRouter(id=inner.id, gateway=asked))
    assert ["203.0.113.4"] == shown(cloud.set(inner, addresses=fixed(cloud.pool4.id)))
    cloud.refused(BadRequest, "which another router leads outside", UpdateRouter(id=inner.id, gateway=asked))
    cloud.world.check()


def test_an_open_subnet_has_no_address_of_the_pools_nor_the_gateways(cloud: Cloud) -> None:
    """When it would be open, and when the pools change; by default they are the external subnet's first /64."""
    router = cloud.router()
    first = cloud.inside("2001:db8:100::/64")
    match = r"2001:db8:100::/64 of subnet .* overlaps with allocation pool 2001:db8:100::1-.* of cidr 2001:db8:100::/40"
    cloud.refused(BadRequest, match, AddRouterInterface(id=router.id, subnet_id=first.id))
    numbered = cloud.world.network(external=True)
    pool = Pool(parse_ip("2001:db8:8000::100"), parse_ip("2001:db8:8000::1ff"))
    outer = cloud.world.subnet(numbered, "2001:db8:8000::/48", pools=(pool,))
    other = cloud.router(numbered)
    near = cloud.inside("2001:db8:8000::/120")
    cloud.refused(BadRequest, "overlaps with the gateway_ip", AddRouterInterface(id=other.id, subnet_id=near.id))
    apart = cloud.inside("2001:db8:8000::200/120")
    cloud.world.do(AddRouterInterface(id=other.id, subnet_id=apart.id))
    wider = (Pool(pool.first, parse_ip("2001:db8:8000::2ff")),)
    match = "pool 2001:db8:8000::100-2001:db8:8000::2ff .* overlaps with cidr 2001:db8:8000::200/120"
    cloud.refused(InvalidInput, match, UpdateSubnet(id=outer.id, pools=wider))
    cloud.world.do(RemoveRouterInterface(id=other.id, subnet_id=apart.id))
    cloud.world.do(UpdateSubnet(id=outer.id, pools=wider))
    cloud.refused(BadRequest, "overlaps with allocation pool", AddRouterInterface(id=other.id, subnet_id=apart.id))
    around = cloud.inside("2001:db8:100:7::/64")
    small = cloud.world.network(external=True)
    cloud.world.subnet(small, "2001:db8:a000:7::/80")
    third = cloud.router(small)
    cloud.world.do(AddRouterInterface(id=third.id, subnet_id=around.id))
    larger = cloud.inside("2001:db8:a000:7::/64")
    match = r"overlaps with cidr 2001:db8:a000:7::/80"
    cloud.refused(BadRequest, match, AddRouterInterface(id=third.id, subnet_id=larger.id))


def test_external_subnets_of_ipv6(cloud: Cloud) -> None:
    """They are shorter than hosts' if wanted, apart from each other, and nothing is advertised there."""
    assert [Pool(parse_ip("2001:db8:100::1"), parse_ip("2001:db8:100::ffff:ffff:ffff:ffff"))] == list(cloud.pool6.pools)
    other = cloud.world.network(external=True)
    for cidr, match, fields in (
        ("2001:db8:120::/48", "overlaps with 2001:db8:100::/40 of external network", {}),
        ("2000::/3", "/16 or longer", {}),
        ("fe80::/64", "hosts cannot have addresses", {}),
        ("2001:db8:300::/64", "hosts advertise nothing", {"ra_mode": Ipv6Mode.SLAAC}),
        ("2001:db8:300::/64", "gateway_ip ff02::1", {"gateway": parse_ip("ff02::1")}),
        ("2001:db8:300::/64", "gateway_ip 203.0.113.1", {"gateway": parse_ip("203.0.113.1")}),
    ):
        with pytest.raises(InvalidInput, match=match):
            cloud.world.subnet(other, cidr, **fields)
    with pytest.raises(InvalidInput, match="/64 or longer"):
        cloud.inside("2001:db8:300::/56")
    assert (
        parse_ip("2001:db8::1")
        == cloud.world.subnet(other, "2001:db8:300::/48", gateway=parse_ip("2001:db8::1")).gateway
    )
    inner = cloud.world.network()
    cloud.world.subnet(inner, "2001:db8:100:9::/64")
    cloud.refused(InvalidInput, "of external network", UpdateNetwork(id=inner.id, external=True))
    slaac = cloud.world.network()
    cloud.world.subnet(slaac, "2001:db8:500::/64", ra_mode=Ipv6Mode.SLAAC, address_mode=Ipv6Mode.SLAAC)
    cloud.refused(InvalidInput, "hosts advertise nothing", UpdateNetwork(id=slaac.id, external=True))
    short = cloud.world.network(external=True)
    cloud.world.subnet(short, "2001:db8:400::/48")
    cloud.refused(InvalidInput, "shorter than /64", UpdateNetwork(id=short.id, external=False))


def test_the_gateway_of_an_external_subnet_in_use_stays(cloud: Cloud) -> None:
    """It is in routers' goals."""
    router = cloud.router()
    cloud.refused(SubnetInUse, "gateway_ip", UpdateSubnet(id=cloud.pool6.id, gateway=None))
    cloud.set(router, addresses=fixed(cloud.pool4.id))
    cloud.world.do(UpdateSubnet(id=cloud.pool6.id, gateway=None))
    goal = router_goal(cloud.set(router))
    assert goal is not None
    assert goal.outside6 == Outside6Goal(parse_prefix(OUTER), None)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_open_survives_and_is_found(seed: int) -> None:
    """After random changes: the index is what a start would make of the store, and finds what a look at all would."""
    dice, cloud = random.Random(seed), Cloud()
    subnets = [cloud.inside(f"2001:db8:100:{dice.randrange(1, 30):x}::/{dice.choice((64, 72))}") for _ in range(25)]
    routers = [cloud.router() for _ in range(4)]
    for _ in range(150):
        router = cloud.now(dice.choice(routers).id)
        command: Command = AddRouterInterface(id=router.id, subnet_id=dice.choice(subnets).id)
        if router.interfaces and dice.random() < 0.4:
            command = RemoveRouterInterface(id=router.id, subnet_id=dice.choice(router.interfaces).subnet_id)
        elif dice.random() < 0.2:
            addresses = fixed(cloud.pool4.id) if dice.random() < 0.5 else ()
            command = UpdateRouter(id=router.id, gateway=GatewaySpec(network_id=cloud.outer.id, addresses=addresses))
        try:
            cloud.world.do(command)
        except DomainError:
            continue
        found = cloud.world.indexes.open_subnets
        assert Indexes(cloud.world.store).open_subnets.all() == found.all()
        rows = {one.subnet_id for row in cloud.world.store.rows(Router) for one in row.open_interfaces}
        assert rows == {one.subnet_id for one in found.all()}
        first = ip_from_int(parse_prefix("2001:db8:100::/64").first + (dice.randrange(30) << 64), 6)
        asked = Prefix(first, 64, 6)
        last = ip_from_int(asked.first + asked.size - 1, 6)
        assert any(one.cidr.overlaps(asked) for one in found.all()) == (found.sharing(first, last) is not None)
    cloud.world.check()


def test_a_hundred_thousand_open_subnets_are_no_matter() -> None:
    """A question costs a search by halves, not a look at each (counted, not timed)."""
    looked = 0

    class Counting(Prefix, frozen=True, gc=False):
        @property
        def size(self) -> int:
            nonlocal looked
            looked += 1
            return 1 << 64

    base = parse_prefix(OUTER)
    cidrs = [Counting(ip_from_int(base.first + (number << 64), 6), 64, 6) for number in range(100_000)]
    ids = [Id(number.to_bytes(16, "big")) for number in range(100_000)]
    interfaces = [RouterInterface(one, one, one, cidr, cidr.base) for one, cidr in zip(ids, cidrs, strict=True)]
    outer = Outside6(ids[0], base.base, base, None)
    router = replace(
        Cloud().router(),
        interfaces=tuple(interfaces),
        gateway=RouterGateway(ids[0], ids[0], None, None, outside6=outer),
    )
    index = OpenSubnets([router])
    looked = 0
    for number in (0, 50_000, 99_999):
        first = cidrs[number].base
        assert (cidrs[number], ids[number]) == index.sharing(first, first)
        assert index.sharing(first, first, but=ids[number]) is None
    assert looked < 20
