"""IPv6 modes of subnets, and addresses that MACs make."""

import pytest
from tests.services.world import World, fixed, mac

from alcor.model.addresses import format_ip, parse_ip
from alcor.model.nouns import Ipv6Mode, Port
from alcor.services.commands import FixedIpSpec, UpdatePort, UpdateSubnet
from alcor.services.errors import AllocationOnAutoAddressSubnet, InvalidInput, IpAddressAlreadyAllocated

SLAAC = {"ra_mode": Ipv6Mode.SLAAC, "address_mode": Ipv6Mode.SLAAC}


def ips(port: Port) -> list[str]:
    return [format_ip(one.ip) for one in port.fixed_ips]


def made(port: Port, prefix: str) -> str:
    """What the port's MAC makes in a /64."""
    first = bytes((port.mac[0] ^ 2,))
    return format_ip(parse_ip(prefix)[:8] + first + port.mac[1:3] + b"\xff\xfe" + port.mac[3:])  # type: ignore[arg-type]


def test_a_port_has_an_address_in_every_automatic_subnet() -> None:
    """One of IPv4, one from the stateful subnet, and what its MAC makes in each of the others (as in Neutron)."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    world.subnet(network, "2001:db8::/64")
    world.subnet(network, "2001:db8:1::/64", **SLAAC)
    world.subnet(network, "2001:db8:2::/64", ra_mode=Ipv6Mode.STATELESS)
    for port in world.ports(network, 3):
        automatic = [made(port, "2001:db8:1::"), made(port, "2001:db8:2::")]
        assert automatic == ips(port)[2:]
        assert ips(port)[0].startswith("10.0.0.") and ips(port)[1].startswith("2001:db8::")
    world.check()


def test_a_subnet_may_be_named_without_an_address() -> None:
    """With a MAC of the caller's or of Alcor's; the address itself is refused unless it is the one."""
    world = World()
    network = world.network()
    subnet = world.subnet(network, "2001:db8::/64", **SLAAC)
    port = world.port(network, fixed_ips=fixed(subnet.id))
    assert [made(port, "2001:db8::")] == ips(port)
    chosen = mac("02:00:00:00:00:05")
    own = (FixedIpSpec(subnet_id=subnet.id, ip=parse_ip("2001:db8::ff:fe00:5")),)
    assert ["2001:db8::ff:fe00:5"] == ips(world.port(network, mac=chosen, fixed_ips=own))
    with pytest.raises(AllocationOnAutoAddressSubnet, match="2001:db8::5 cannot be directly assigned"):
        world.port(network, fixed_ips=fixed("2001:db8::5"))
    router = world.port(network, fixed_ips=fixed("2001:db8::5"), device_owner="network:router_interface")
    assert ["2001:db8::5"] == ips(router)
    world.check()


def test_another_mac_makes_another_address() -> None:
    """The address goes with the MAC, in one update; other addresses stay."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    subnet = world.subnet(network, "2001:db8::/64", **SLAAC)
    port = world.port(network)
    changed = world.do(UpdatePort(id=port.id, mac=mac("02:00:00:00:00:05")))
    assert [ips(port)[0], "2001:db8::ff:fe00:5"] == ips(changed)
    same = world.do(
        UpdatePort(
            id=port.id, fixed_ips=tuple(FixedIpSpec(subnet_id=one.subnet_id, ip=one.ip) for one in changed.fixed_ips)
        )
    )
    assert same == changed
    world.port(network, fixed_ips=fixed("2001:db8::ff:fe00:9"), device_owner="network:router_interface")
    with pytest.raises(IpAddressAlreadyAllocated, match="2001:db8::ff:fe00:9"):
        world.port(network, fixed_ips=fixed(subnet.id), mac=mac("02:00:00:00:00:09"))
    world.check()


@pytest.mark.parametrize(
    ("cidr", "fields", "words"),
    [
        ("10.0.0.0/24", {"address_mode": Ipv6Mode.SLAAC}, "ipv6_address_mode is not valid when ip_version is 4"),
        ("2001:db8::/64", {**SLAAC, "enable_dhcp": False}, "enable_dhcp is set to False"),
        ("2001:db8::/64", {**SLAAC, "ra_mode": Ipv6Mode.STATEFUL}, "they must be the same value"),
        ("2001:db8::/80", SLAAC, "requires the prefix to be /64"),
    ],
)
def test_modes_that_do_not_go_together_are_refused(cidr: str, fields: dict[str, object], words: str) -> None:
    """In Neutron's words."""
    world = World()
    with pytest.raises(InvalidInput, match=words):
        world.subnet(world.network(), cidr, **fields)


def test_dhcp_stays_on_with_a_mode() -> None:
    """An advertised subnet cannot fall silent; a stateful one of another length can be."""
    world = World()
    network = world.network()
    subnet = world.subnet(network, "2001:db8::/80", ra_mode=Ipv6Mode.STATEFUL, address_mode=Ipv6Mode.STATEFUL)
    with pytest.raises(InvalidInput, match="enable_dhcp is set to False"):
        world.do(UpdateSubnet(id=subnet.id, enable_dhcp=False))
