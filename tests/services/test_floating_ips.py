"""Floating IPs and routers' gateways: addresses from external networks, what they stand for, what is refused."""

from typing import Any

import pytest
from tests.services.world import NOBODY, World, fixed

from alcor.model.addresses import format_ip, parse_ip
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FloatingIp, Network, Port, PortStatus, Router, Subnet
from alcor.services.commands import (
    AddRouterInterface,
    Command,
    CreateFloatingIps,
    CreatePorts,
    CreateRouters,
    DeleteFloatingIp,
    DeleteNetwork,
    DeletePorts,
    DeleteRouter,
    FixedIpSpec,
    FloatingIpSpec,
    GatewaySpec,
    PortSpec,
    RemoveRouterInterface,
    RouterSpec,
    UpdateFloatingIp,
    UpdateNetwork,
    UpdatePort,
    UpdateRouter,
    UpdateSubnet,
)
from alcor.services.errors import (
    BadRequest,
    DomainError,
    ExternalGatewayForFloatingIPNotFound,
    ExternalIpAddressExhausted,
    ExternalNetworkInUse,
    FloatingIPNotFound,
    FloatingIPPortAlreadyAssociated,
    InvalidInput,
    InvalidIpForNetwork,
    IpAddressAlreadyAllocated,
    NetworkNotFound,
    PortNotFound,
    RouterExternalGatewayInUseByFloatingIp,
    RouterInterfaceInUseByFloatingIP,
    ServicePortInUse,
    SubnetInUse,
)
from alcor.store.base import Query


class Cloud:
    """An external network, an inner one with ports, and a router between them."""

    def __init__(self) -> None:
        self.world = world = World()
        self.node = world.node("h1", "192.0.2.1")
        self.outer = world.network(external=True)
        self.pool = world.subnet(self.outer, "203.0.113.0/28")
        self.inner = world.network()
        self.subnet = world.subnet(self.inner, "10.0.0.0/24")
        self.port = world.port(self.inner, host="h1")
        self.router = self.make_router(self.outer)
        world.do(AddRouterInterface(id=self.router.id, subnet_id=self.subnet.id))

    def make_router(self, network: Network) -> Router:
        made: Router = self.world.do(CreateRouters(specs=(RouterSpec(gateway=GatewaySpec(network_id=network.id)),)))[0]
        return made

    def eip(self, **fields: Any) -> FloatingIp:
        spec = FloatingIpSpec(**{"network_id": self.outer.id, **fields})
        made: FloatingIp = self.world.do(CreateFloatingIps(specs=(spec,)))[0]
        return made

    def now(self, fip: FloatingIp) -> FloatingIp:
        (found,) = self.world.store.list_rows(FloatingIp, Query(filters={"id": (fip.id,)}))
        return found

    def eips_of(self, port: Port) -> list[tuple[str, str]]:
        return [(format_ip(eip.ip), format_ip(eip.inside)) for eip in self.world.stored(port).eips]

    def refused(self, error: type[DomainError], match: str, command: Command) -> None:
        """Nothing is changed by it."""
        before = self.world.revision
        with pytest.raises(error, match=match):
            self.world.do(command)
        assert before == self.world.revision
        self.world.check()


@pytest.fixture
def cloud() -> Cloud:
    """The router's gateway has the first address outside."""
    return Cloud()


def _create(cloud: Cloud, **fields: Any) -> CreateFloatingIps:
    return CreateFloatingIps(specs=(FloatingIpSpec(**{"network_id": cloud.outer.id, **fields}),))


def test_an_address_stands_for_a_port_until_it_is_taken_away(cloud: Cloud) -> None:
    """Each change is the port's: its host must realise it, and the port is BUILD until then."""
    port = cloud.world.report(cloud.port)
    fip = cloud.eip(port_id=port.id)
    assert (port.id, port.fixed_ips[0].ip, cloud.router.id) == (fip.port_id, fip.fixed_ip, fip.router_id)
    assert [("203.0.113.3", "10.0.0.2")] == cloud.eips_of(port)
    assert (PortStatus.BUILD, fip.revision) == (cloud.world.stored(port).status, cloud.world.stored(port).revision)
    (eip,) = cloud.world.stored(port).eips
    assert (28, cloud.pool.gateway) == (eip.prefix_length, eip.gateway)
    cloud.world.do(UpdateFloatingIp(id=fip.id, port_id=None))
    assert (None, None, None) == (cloud.now(fip).port_id, cloud.now(fip).fixed_ip, cloud.now(fip).router_id)
    assert [] == cloud.eips_of(port)
    cloud.world.check()


def test_it_moves_in_one_commit(cloud: Cloud) -> None:
    """The port that loses it and the port that gets it change together."""
    other = cloud.world.port(cloud.inner, host="h1")
    fip = cloud.eip(port_id=cloud.port.id)
    before = cloud.world.revision
    cloud.world.do(UpdateFloatingIp(id=fip.id, port_id=other.id))
    assert before + 1 == cloud.world.revision
    assert ([], [("203.0.113.3", "10.0.0.3")]) == (cloud.eips_of(cloud.port), cloud.eips_of(other))


def test_what_changes_nothing_writes_nothing(cloud: Cloud) -> None:
    """The revision stays."""
    fip = cloud.eip(port_id=cloud.port.id)
    before = cloud.world.revision
    for same in ({"port_id": cloud.port.id}, {"description": ""}, {}):
        assert fip == cloud.world.do(UpdateFloatingIp(id=fip.id, **same))
    assert before == cloud.world.revision


def test_a_deleted_one_gives_its_address_back(cloud: Cloud) -> None:
    """Its port outside goes with it, and the port inside is without it."""
    fip = cloud.eip(port_id=cloud.port.id, ip=parse_ip("203.0.113.9"))
    cloud.world.do(DeleteFloatingIp(id=fip.id))
    assert ([], []) == (cloud.eips_of(cloud.port), cloud.world.store.get_ports([fip.external_port_id]))
    assert parse_ip("203.0.113.9") == cloud.eip(ip=parse_ip("203.0.113.9")).ip
    cloud.world.check()


def test_a_port_that_goes_leaves_its_floating_ip_free(cloud: Cloud) -> None:
    """The project keeps the address."""
    fip = cloud.eip(port_id=cloud.port.id)
    cloud.world.do(DeletePorts(ids=(cloud.port.id,)))
    assert (None, fip.ip) == (cloud.now(fip).port_id, cloud.now(fip).ip)
    cloud.world.check()


def test_an_address_that_goes_takes_its_floating_ip_off(cloud: Cloud) -> None:
    """A port that gets another fixed address is what the floating IP stood for no more."""
    fip = cloud.eip(port_id=cloud.port.id)
    cloud.world.do(UpdatePort(id=cloud.port.id, fixed_ips=(FixedIpSpec(ip=parse_ip("10.0.0.77")),)))
    assert (None, []) == (cloud.now(fip).port_id, cloud.eips_of(cloud.port))


def test_a_port_of_several_addresses_must_say_which(cloud: Cloud) -> None:
    """Then each may have one."""
    addresses = (FixedIpSpec(subnet_id=cloud.subnet.id), FixedIpSpec(subnet_id=cloud.subnet.id))
    port = cloud.world.port(cloud.inner, fixed_ips=addresses)
    cloud.refused(BadRequest, "has multiple fixed IPv4 addresses", _create(cloud, port_id=port.id))
    for own in port.fixed_ips:
        cloud.eip(port_id=port.id, fixed_ip=own.ip)
    assert 2 == len(cloud.eips_of(port))


def test_what_cannot_be_is_refused(cloud: Cloud) -> None:
    """With Neutron's errors; nothing is half-done."""
    taken = cloud.eip(port_id=cloud.port.id)
    alone = cloud.world.port(cloud.world.network())
    inner, port = cloud.inner.id, cloud.port.id
    far = cloud.world.network()
    cloud.world.subnet(far, "10.9.0.0/24")
    unreached = cloud.world.port(far)
    for error, match, fields in (
        (FloatingIPPortAlreadyAssociated, "already has a floating IP on external network", {"port_id": port}),
        (PortNotFound, "could not be found", {"port_id": NOBODY}),
        (NetworkNotFound, "could not be found", {"network_id": NOBODY}),
        (BadRequest, "is not a valid external network", {"network_id": inner}),
        (BadRequest, "that has no fixed IPv4 addresses", {"port_id": alone.id}),
        (BadRequest, "does not have fixed ip 10.0.0.9", {"port_id": port, "fixed_ip": parse_ip("10.0.0.9")}),
        (BadRequest, "cannot be specified without a port_id", {"fixed_ip": parse_ip("10.0.0.9")}),
        (ExternalGatewayForFloatingIPNotFound, "is not reachable from subnet", {"port_id": unreached.id}),
        (InvalidIpForNetwork, "is not a valid IP for any of the subnets", {"ip": parse_ip("198.51.100.1")}),
        (IpAddressAlreadyAllocated, "already allocated", {"ip": taken.ip}),
    ):
        cloud.refused(error, match, _create(cloud, **fields))
    cloud.refused(FloatingIPNotFound, "could not be found", DeleteFloatingIp(id=NOBODY))
    cloud.refused(FloatingIPNotFound, "could not be found", UpdateFloatingIp(id=NOBODY, port_id=None))


def test_an_exhausted_pool_is_said_so(cloud: Cloud) -> None:
    """14 addresses less the gateway's and the router's."""
    for _ in range(12):
        cloud.eip()
    cloud.refused(ExternalIpAddressExhausted, "Unable to find any IP address", _create(cloud))


def test_ports_outside_are_not_for_hosts_nor_for_hands(cloud: Cloud) -> None:
    """No host carries a port of an external network, and a floating IP's or gateway's own port only it changes."""
    fip = cloud.eip()
    gateway = cloud.world.indexes.routers[cloud.router.id].gateway
    assert gateway is not None
    for port_id in (fip.external_port_id, gateway.port_id):
        cloud.refused(ServicePortInUse, "cannot be deleted directly", DeletePorts(ids=(port_id,)))
        cloud.refused(ServicePortInUse, "cannot be changed directly", UpdatePort(id=port_id, name="x"))
    bound = PortSpec(network_id=cloud.outer.id, host="h1")
    cloud.refused(InvalidInput, "is external, and hosts carry no", CreatePorts(specs=(bound,)))
    free = cloud.world.port(cloud.outer)
    cloud.refused(InvalidInput, "is external, and hosts carry no", UpdatePort(id=free.id, host="h1"))
    owned = PortSpec(network_id=cloud.inner.id, device_owner="network:floatingip")
    cloud.refused(InvalidInput, "device_owner", CreatePorts(specs=(owned,)))


def test_what_a_floating_ip_needs_stays(cloud: Cloud) -> None:
    """The router's interface and gateway, the external network as such, its subnet's gateway."""
    fip = cloud.eip(port_id=cloud.port.id)
    router, subnet = cloud.router.id, cloud.subnet.id
    cloud.refused(
        RouterInterfaceInUseByFloatingIP, "required by one", RemoveRouterInterface(id=router, subnet_id=subnet)
    )
    cloud.refused(
        RouterExternalGatewayInUseByFloatingIp, "required by one or more", UpdateRouter(id=router, gateway=None)
    )
    cloud.refused(ExternalNetworkInUse, "non-external", UpdateNetwork(id=cloud.outer.id, external=False))
    cloud.refused(SubnetInUse, "gateway_ip", UpdateSubnet(id=cloud.pool.id, gateway=None))
    cloud.world.do(UpdateFloatingIp(id=fip.id, port_id=None))
    cloud.world.do(RemoveRouterInterface(id=router, subnet_id=subnet))
    cloud.world.do(UpdateRouter(id=router, gateway=None))
    cloud.world.do(DeleteFloatingIp(id=fip.id))
    cloud.world.do(DeleteRouter(id=router))
    cloud.world.do(DeleteNetwork(id=cloud.outer.id))
    cloud.world.check()


def test_a_gateway_is_set_kept_changed_and_cleared(cloud: Cloud) -> None:
    """Each with its port; the same once more changes nothing."""
    router = cloud.make_router(cloud.outer)
    assert router.gateway is not None
    same: Router = cloud.world.do(UpdateRouter(id=router.id, gateway=GatewaySpec(network_id=cloud.outer.id)))
    assert router == same
    chosen = GatewaySpec(network_id=cloud.outer.id, addresses=fixed("203.0.113.12"))
    moved: Router = cloud.world.do(UpdateRouter(id=router.id, gateway=chosen))
    assert moved.gateway is not None
    assert parse_ip("203.0.113.12") == moved.gateway.ip
    assert [] == cloud.world.store.get_ports([router.gateway.port_id])
    cloud.world.check()
    cloud.world.do(DeleteRouter(id=router.id))
    assert [] == cloud.world.store.get_ports([moved.gateway.port_id])
    cloud.world.check()


def test_gateways_that_cannot_be(cloud: Cloud) -> None:
    """Not on an inner network, not where inside and outside share addresses."""
    inner = GatewaySpec(network_id=cloud.inner.id)
    cloud.refused(BadRequest, "is not an external network", UpdateRouter(id=cloud.router.id, gateway=inner))
    alike = cloud.world.network()
    subnet: Subnet = cloud.world.subnet(alike, "203.0.113.0/24")
    cloud.refused(BadRequest, "overlaps with cidr", AddRouterInterface(id=cloud.router.id, subnet_id=subnet.id))


def test_external_networks_are_no_vpcs(cloud: Cloud) -> None:
    """Clearly refused."""
    with pytest.raises(InvalidInput, match="is no VPC"):
        cloud.world.network(external=True, cidr="10.0.0.0/8")


def test_many_at_once_are_all_or_none(cloud: Cloud) -> None:
    """In one command, also for ports of their own; two for one address are refused together."""
    ports = cloud.world.ports(cloud.inner, 3)
    spec = {port.id: FloatingIpSpec(network_id=cloud.outer.id, port_id=port.id) for port in ports}
    made: tuple[FloatingIp, ...] = cloud.world.do(CreateFloatingIps(specs=tuple(spec.values())))
    assert [port.id for port in ports] == [fip.port_id for fip in made]
    last: Id = cloud.world.port(cloud.inner).id
    twice = (FloatingIpSpec(network_id=cloud.outer.id, port_id=last),) * 2
    cloud.refused(FloatingIPPortAlreadyAssociated, format_id(last), CreateFloatingIps(specs=twice))


def test_a_routed_subnets_gateway_is_elsewhere_on_the_wire() -> None:
    """As in Neutron, an external subnet may have its gateway outside of it: then hosts send all there, and know no
    address of the subnet as a neighbour. A subnet of tenants may not, nor of a network that becomes one."""
    cloud = Cloud()
    world = cloud.world
    routed = world.network(external=True)
    world.subnet(routed, "198.51.100.0/24", gateway=parse_ip("203.0.113.1"))
    cloud.refused(
        InvalidInput,
        "gateway_ip 203.0.113.1 outside of its cidr",
        UpdateNetwork(id=routed.id, external=False),
    )
    for wrong in ("192.0.2.0", "192.0.2.255", "127.0.0.1", "224.0.0.5", "2001:db8::1"):
        with pytest.raises(InvalidInput, match=f"gateway_ip {wrong}"):
            world.subnet(routed, "192.0.2.0/24", gateway=parse_ip(wrong))
    with pytest.raises(InvalidInput, match="gateway_ip"):
        world.subnet(cloud.inner, "10.0.1.0/24", gateway=parse_ip("203.0.113.1"))
    router = cloud.make_router(routed)
    inside = world.subnet(cloud.inner, "10.0.2.0/24")
    world.do(AddRouterInterface(id=router.id, subnet_id=inside.id))
    port = world.port(cloud.inner, host="h1", fixed_ips=(FixedIpSpec(subnet_id=inside.id),))
    cloud.eip(network_id=routed.id, port_id=port.id)
    (eip,) = world.stored(port).eips
    assert (32, parse_ip("203.0.113.1")) == (eip.prefix_length, eip.gateway)
    assert world.subnet(routed, "192.0.2.0/24").gateway == parse_ip("192.0.2.1")


def test_a_routed_subnets_gateway_is_changed_like_any() -> None:
    """Into the subnet, out of it and to none, while no address of the subnet is used."""
    world = World()
    routed = world.network(external=True)
    subnet = world.subnet(routed, "198.51.100.0/24", gateway=parse_ip("203.0.113.1"))
    assert ["198.51.100.1-198.51.100.254"] == [
        f"{format_ip(pool.first)}-{format_ip(pool.last)}" for pool in subnet.pools
    ]
    for gateway in ("203.0.113.2", "198.51.99.255", None):
        ip = parse_ip(gateway) if gateway else None
        world.do(UpdateSubnet(id=subnet.id, gateway=ip))
        assert ip == world.indexes.subnets[subnet.id].gateway
    world.check()
