"""Subnets: CIDRs, gateways, allocation pools, deletion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.services.world import NOBODY, World, fixed

from alcor.model.addresses import Ip, format_ip, ip_from_int, ip_to_int, parse_ip, parse_prefix
from alcor.model.nouns import Pool
from alcor.services.commands import (
    CreatePorts,
    CreateSubnets,
    DeletePorts,
    DeleteSubnet,
    FixedIpSpec,
    PortSpec,
    SubnetSpec,
    UpdateSubnet,
)
from alcor.services.errors import (
    DomainError,
    GatewayConflictWithAllocationPools,
    InvalidAllocationPool,
    InvalidInput,
    IpAddressAlreadyAllocated,
    NetworkNotFound,
    OutOfBoundsAllocationPool,
    OverlappingAllocationPools,
    RevisionNumberConstraintFailed,
    SubnetInUse,
    SubnetNotFound,
)
from alcor.services.subnets import default_pools, usable


def _pool(first: str, last: str) -> Pool:
    return Pool(parse_ip(first), parse_ip(last))


def _texts(pools: tuple[Pool, ...]) -> list[str]:
    return [f"{format_ip(pool.first)}-{format_ip(pool.last)}" for pool in pools]


def test_defaults_are_neutrons() -> None:
    """The gateway is the first address, the pool everything else but network and broadcast."""
    world = World()
    subnet = world.subnet(world.network(), "10.0.0.0/24")
    assert parse_ip("10.0.0.1") == subnet.gateway
    assert ["10.0.0.2-10.0.0.254"] == _texts(subnet.pools)
    assert world.store.subnets() == [subnet]


def test_a_gateway_in_the_middle_parts_the_default_pool() -> None:
    """The default pools are on both sides of it; without a gateway there is one pool."""
    world = World()
    network = world.network()
    parted = world.subnet(network, "10.0.0.0/29", gateway=parse_ip("10.0.0.4"))
    assert ["10.0.0.1-10.0.0.3", "10.0.0.5-10.0.0.6"] == _texts(parted.pools)
    whole = world.subnet(network, "10.0.1.0/29", gateway=None)
    assert ["10.0.1.1-10.0.1.6"] == _texts(whole.pools)
    assert whole.gateway is None


def test_overlap_inside_a_network_is_refused() -> None:
    """With Neutron's words; in another network the same CIDR is fine."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/16")
    for cidr in ("10.0.0.0/16", "10.0.3.0/24", "10.0.0.0/8"):
        with pytest.raises(InvalidInput, match=f"Requested subnet with cidr: {cidr} for network: .* overlaps"):
            world.subnet(network, cidr)
    world.subnet(world.network(), "10.0.0.0/16")


def test_overlap_inside_a_request_is_refused() -> None:
    """A bulk is checked against itself, and leaves nothing when it fails."""
    world = World()
    network = world.network()
    specs = [SubnetSpec(network_id=network.id, cidr=parse_prefix(cidr)) for cidr in ("10.0.0.0/24", "10.0.0.128/25")]
    with pytest.raises(InvalidInput, match="overlaps with another subnet"):
        world.do(CreateSubnets(specs=tuple(specs)))
    assert {} == world.indexes.subnets


def test_a_subnet_of_a_vpc_lies_inside_its_cidr() -> None:
    """The VPC's cidr bounds its subnets."""
    world = World()
    vpc = world.network(cidr="10.0.0.0/16")
    world.subnet(vpc, "10.0.9.0/24")
    with pytest.raises(InvalidInput, match=r"10\.1\.0\.0/24 is not inside cidr 10\.0\.0\.0/16"):
        world.subnet(vpc, "10.1.0.0/24")


@pytest.mark.parametrize("cidr", ["224.0.0.0/24", "127.0.0.0/24", "0.0.0.0/0", "0.1.0.0/16", "255.0.0.0/24"])
def test_blocks_that_hosts_cannot_use_are_refused(cidr: str) -> None:
    """Multicast, loopback, "this network" and everything."""
    world = World()
    with pytest.raises(InvalidInput, match=cidr):
        world.subnet(world.network(), cidr)


@pytest.mark.parametrize("cidr", ["2001:db8::/63", "::/64", "fe80::/64", "ff02::/64"])
def test_ipv6_blocks_that_hosts_cannot_use_are_refused(cidr: str) -> None:
    """More than an interface identifier's room; unspecified, link-local, groups."""
    world = World()
    with pytest.raises(InvalidInput):
        world.subnet(world.network(), cidr)


def test_a_dual_stack_port_has_an_address_of_each_family() -> None:
    """A VPC's CIDR bounds the subnets of its own family; a port that says nothing gets one address of each; what is
    given back can be had again."""
    world = World()
    network = world.network(cidr="10.0.0.0/16")
    four, six = world.subnet(network, "10.0.0.0/24"), world.subnet(network, "2001:db8::/64")
    assert (4, 6) == (four.ip_version, six.ip_version)
    ports = world.ports(network, 3)
    assert [["10.0.0.2", "2001:db8::2"], ["10.0.0.3", "2001:db8::3"], ["10.0.0.4", "2001:db8::4"]] == [
        [format_ip(fixed.ip) for fixed in port.fixed_ips] for port in ports
    ]
    world.do(DeletePorts(ids=(ports[0].id,)))
    world.check()
    last = FixedIpSpec(ip=parse_ip("2001:db8::ffff:ffff:ffff:ffff"))
    (port,) = world.do(CreatePorts(specs=(PortSpec(network_id=network.id, fixed_ips=(last,)),)))
    assert ["2001:db8::ffff:ffff:ffff:ffff"] == [format_ip(fixed.ip) for fixed in port.fixed_ips]
    world.check()


def test_dhcp_needs_room() -> None:
    """/31 and /32 are possible without DHCP, and have no gateway."""
    world = World()
    network = world.network()
    with pytest.raises(InvalidInput, match="enable_dhcp"):
        world.subnet(network, "10.0.0.0/31")
    pair = world.subnet(network, "10.0.0.0/31", enable_dhcp=False)
    assert (None, ["10.0.0.0-10.0.0.1"]) == (pair.gateway, _texts(pair.pools))
    with pytest.raises(InvalidInput, match="enable_dhcp"):
        world.do(UpdateSubnet(id=pair.id, enable_dhcp=True))


@pytest.mark.parametrize("gateway", ["10.0.0.0", "10.0.0.255", "10.0.1.1", "2001:db8::1"])
def test_a_gateway_is_a_usable_address_of_the_cidr(gateway: str) -> None:
    """Not the network's address, not the broadcast address, not elsewhere."""
    world = World()
    with pytest.raises(InvalidInput, match=f"gateway_ip {gateway}"):
        world.subnet(world.network(), "10.0.0.0/24", gateway=parse_ip(gateway))


@pytest.mark.parametrize(
    ("pools", "error"),
    [
        ([("10.0.0.9", "10.0.0.3")], InvalidAllocationPool),
        ([("2001:db8::1", "2001:db8::2")], InvalidAllocationPool),
        ([("10.0.0.200", "10.0.1.3")], OutOfBoundsAllocationPool),
        ([("10.0.0.0", "10.0.0.9")], OutOfBoundsAllocationPool),
        ([("10.0.0.9", "10.0.0.255")], OutOfBoundsAllocationPool),
        ([("10.0.0.9", "10.0.0.20"), ("10.0.0.20", "10.0.0.30")], OverlappingAllocationPools),
        ([("10.0.0.1", "10.0.0.9")], GatewayConflictWithAllocationPools),
    ],
)
def test_pools_are_inside_apart_and_without_the_gateway(pools: list[tuple[str, str]], error: type[DomainError]) -> None:
    """Each rule has Neutron's error, on creation and on update."""
    world = World()
    network = world.network()
    wanted = tuple(_pool(*pool) for pool in pools)
    with pytest.raises(error, match=r"10\.0\.|2001"):
        world.subnet(network, "10.0.0.0/24", pools=wanted)
    subnet = world.subnet(network, "10.0.0.0/24")
    with pytest.raises(error):
        world.do(UpdateSubnet(id=subnet.id, pools=wanted))


def test_changed_pools_feed_the_next_port() -> None:
    """Allocators follow; ports outside the new pools keep what they have."""
    world = World()
    network = world.network()
    subnet = world.subnet(network, "10.0.0.0/24")
    world.port(network)
    world.do(UpdateSubnet(id=subnet.id, pools=(_pool("10.0.0.100", "10.0.0.101"),)))
    ports = world.ports(network, 2)
    assert ["10.0.0.100", "10.0.0.101"] == [format_ip(port.fixed_ips[0].ip) for port in ports]
    world.check()


def test_a_ports_address_cannot_become_the_gateway() -> None:
    """409, naming the address."""
    world = World()
    network = world.network()
    subnet = world.subnet(network, "10.0.0.0/24", pools=(_pool("10.0.0.10", "10.0.0.20"),))
    world.port(network, fixed_ips=fixed("10.0.0.9"))
    with pytest.raises(IpAddressAlreadyAllocated, match=r"10\.0\.0\.9"):
        world.do(UpdateSubnet(id=subnet.id, gateway=parse_ip("10.0.0.9")))
    with pytest.raises(GatewayConflictWithAllocationPools):
        world.do(UpdateSubnet(id=subnet.id, gateway=parse_ip("10.0.0.15")))
    assert world.do(UpdateSubnet(id=subnet.id, gateway=None)).gateway is None


def test_a_subnet_with_addresses_in_use_stays() -> None:
    """SubnetInUse; afterwards it goes, and ports get no address."""
    world = World()
    network = world.network()
    subnet = world.subnet(network, "10.0.0.0/24")
    world.port(network)
    with pytest.raises(SubnetInUse):
        world.do(DeleteSubnet(id=subnet.id))
    other = world.network()
    empty = world.subnet(other, "10.0.0.0/24")
    world.do(DeleteSubnet(id=empty.id))
    assert () == world.port(other).fixed_ips
    world.check()


def test_revisions_and_unknown_ids() -> None:
    """If-Match, 404 of the subnet and of its network."""
    world = World()
    subnet = world.subnet(world.network(), "10.0.0.0/24", name="a")
    with pytest.raises(RevisionNumberConstraintFailed):
        world.do(UpdateSubnet(id=subnet.id, name="b", if_match=subnet.revision - 1))
    assert subnet == world.do(UpdateSubnet(id=subnet.id, name="a", if_match=subnet.revision))
    with pytest.raises(SubnetNotFound, match="eeeeeeee-"):
        world.do(DeleteSubnet(id=NOBODY))
    with pytest.raises(NetworkNotFound, match="eeeeeeee-"):
        world.do(CreateSubnets(specs=(SubnetSpec(network_id=NOBODY, cidr=parse_prefix("10.0.0.0/24")),)))


@given(length=st.integers(8, 32), seed=st.integers(0, 1 << 40))
def test_default_pools_are_what_is_usable(length: int, seed: int) -> None:
    """The default pools hold every usable address but the gateway, and no other."""
    size = 1 << (32 - length)
    first = (10 << 24) + (seed % (1 << (length - 8))) * size
    cidr = parse_prefix(f"{format_ip(ip_from_int(first, 4))}/{length}")
    gateway = ip_from_int(first + seed % size, 4)
    chosen: Ip | None = gateway if usable(cidr, gateway) else None
    pools = default_pools(cidr, chosen)
    held = sum(ip_to_int(pool.last) - ip_to_int(pool.first) + 1 for pool in pools)
    assert size - (0 if size <= 2 else 2) - (chosen is not None) == held
    assert all(usable(cidr, pool.first) and usable(cidr, pool.last) for pool in pools)
