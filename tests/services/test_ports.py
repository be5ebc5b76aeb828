"""Ports: addresses, MACs, bindings, bulks that hold whole or leave nothing."""

from typing import Any

import pytest
from msgspec import UNSET
from tests.services.world import NOBODY, World, fixed, mac

from alcor.model.addresses import ROUTER_MAC, Mac, format_ip, parse_ip
from alcor.model.nouns import Port, PortKind, PortStatus
from alcor.services.commands import CreatePorts, DeletePorts, FixedIpSpec, PortSpec, UpdatePort
from alcor.services.errors import (
    DomainError,
    InvalidInput,
    InvalidIpForNetwork,
    InvalidIpForSubnet,
    IpAddressAlreadyAllocated,
    IpAddressGenerationFailure,
    MacAddressInUse,
    NetworkNotFound,
    PortBound,
    PortNotFound,
    RevisionNumberConstraintFailed,
)
from alcor.store.base import Query


def _ips(*ports: Port) -> list[str]:
    return [format_ip(fixed_ip.ip) for port in ports for fixed_ip in port.fixed_ips]


def _refused(world: World, error: type[DomainError], match: str, *specs: PortSpec) -> None:
    before = (world.store.list_ports(Query()), dict(world.indexes.ports_on), world.revision)
    with pytest.raises(error, match=match):
        world.do(CreatePorts(specs=specs))
    assert before == (world.store.list_ports(Query()), dict(world.indexes.ports_on), world.revision)
    world.check()


def test_a_bulk_gets_addresses_and_macs_in_order() -> None:
    """The first Alcor gave one MAC to a whole bulk; here all differ, and addresses ascend."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/16")
    ports = world.ports(network, 1000)
    assert ["10.0.0.2", "10.0.0.3", "10.0.3.233"] == _ips(ports[0], ports[1], ports[-1])
    assert 1000 == len({port.mac for port in ports}) == len({port.id for port in ports})
    assert list(ports) == world.store.get_ports([port.id for port in ports])
    world.check()


def test_a_network_without_subnet_gives_no_address() -> None:
    """As Neutron: the port is there, without fixed IPs; an empty list asks for the same."""
    world = World()
    network = world.network()
    assert () == world.port(network).fixed_ips
    world.subnet(network, "10.0.0.0/24")
    assert () == world.port(network, fixed_ips=()).fixed_ips


def test_subnets_are_filled_one_after_the_other() -> None:
    """A bulk that does not fit the first subnet goes on in the second; what fits nowhere is refused."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/29")
    world.subnet(network, "10.0.1.0/29")
    ports = world.ports(network, 7)
    assert ["10.0.0.2", "10.0.0.6", "10.0.1.2", "10.0.1.3"] == _ips(ports[0], *ports[4:])
    with pytest.raises(IpAddressGenerationFailure, match="No more IP addresses available on network 00000000-"):
        world.ports(network, 4)
    assert ["10.0.1.4", "10.0.1.5", "10.0.1.6"] == _ips(*world.ports(network, 3))
    world.check()


def test_the_port_that_does_not_fit_takes_the_bulk_with_it() -> None:
    """A bulk of one more than there is room for leaves nothing behind."""
    world = World()
    network = world.network()
    subnet = world.subnet(network, "10.0.0.0/24")
    specs = (PortSpec(network_id=network.id),) * 254
    _refused(world, IpAddressGenerationFailure, "network", *specs)
    named = PortSpec(network_id=network.id, fixed_ips=fixed(subnet.id))
    _refused(world, IpAddressGenerationFailure, r"10\.0\.0\.0/24\) has 253 left", *[named] * 254)
    assert 253 == len(world.ports(network, 253))
    world.check()


def test_addresses_that_are_named_are_not_chosen() -> None:
    """A bulk is planned whole: a port that names an address gets it, wherever it stands in the request."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    specs = (
        PortSpec(network_id=network.id),
        PortSpec(network_id=network.id, fixed_ips=fixed("10.0.0.2")),
        PortSpec(network_id=network.id),
    )
    assert ["10.0.0.3", "10.0.0.2", "10.0.0.4"] == _ips(*world.do(CreatePorts(specs=specs)))


def test_the_same_fixed_ip_is_given_once() -> None:
    """The first Alcor gave the same fixed IP twice. Refused across requests, in a bulk, and in one port."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    world.port(network, fixed_ips=fixed("10.0.0.9"))
    taken = PortSpec(network_id=network.id, fixed_ips=fixed("10.0.0.9"))
    other = PortSpec(network_id=network.id, fixed_ips=fixed("10.0.0.8"))
    twice = PortSpec(network_id=network.id, fixed_ips=fixed("10.0.0.7", "10.0.0.7"))
    _refused(world, IpAddressAlreadyAllocated, r"10\.0\.0\.9 already allocated in subnet", taken)
    _refused(world, IpAddressAlreadyAllocated, r"10\.0\.0\.8", other, other)
    _refused(world, IpAddressAlreadyAllocated, r"10\.0\.0\.7", twice)


def test_a_port_may_have_several_addresses() -> None:
    """By subnet, by address, in two subnets, outside the pools; at most five."""
    world = World()
    network = world.network()
    one = world.subnet(network, "10.0.0.0/24")
    two = world.subnet(network, "10.0.1.0/24")
    port = world.port(
        network,
        fixed_ips=(
            FixedIpSpec(subnet_id=two.id),
            FixedIpSpec(ip=parse_ip("10.0.0.200")),
            FixedIpSpec(subnet_id=one.id, ip=parse_ip("10.0.0.7")),
            FixedIpSpec(subnet_id=two.id),
        ),
    )
    assert ["10.0.1.2", "10.0.0.200", "10.0.0.7", "10.0.1.3"] == _ips(port)
    assert [two.id, one.id, one.id, two.id] == [fixed_ip.subnet_id for fixed_ip in port.fixed_ips]
    six = PortSpec(network_id=network.id, fixed_ips=fixed(*[one.id] * 6))
    _refused(world, InvalidInput, "fixed_ips has 6", six)


def test_addresses_that_cannot_be_are_refused() -> None:
    """Network, broadcast, gateway, elsewhere, another network's subnet, neither subnet nor address."""
    world = World()
    network, other = world.network(), world.network()
    subnet, foreign = world.subnet(network, "10.0.0.0/24"), world.subnet(other, "10.9.0.0/24")

    def refused(error: type[DomainError], match: str, *specs: FixedIpSpec) -> None:
        _refused(world, error, match, PortSpec(network_id=network.id, fixed_ips=specs))

    for text in ("10.0.0.0", "10.0.0.255", "10.0.1.1", "2001:db8::1"):
        refused(InvalidIpForNetwork, text, FixedIpSpec(ip=parse_ip(text)))
        refused(InvalidIpForSubnet, text, FixedIpSpec(subnet_id=subnet.id, ip=parse_ip(text)))
    world.node("h1", "192.0.2.1")
    bound = PortSpec(network_id=network.id, host="h1", fixed_ips=fixed("10.0.0.1"))
    _refused(world, InvalidIpForSubnet, r"10\.0\.0\.1 is the gateway_ip", bound)
    refused(InvalidInput, "invalid subnet", FixedIpSpec(subnet_id=foreign.id))
    refused(InvalidInput, "invalid subnet eeeeeeee-", FixedIpSpec(subnet_id=NOBODY))
    refused(InvalidInput, "needs subnet_id or ip_address", FixedIpSpec())


def test_a_gateway_address_is_for_ports_without_a_host() -> None:
    """Such a port may become a router's; it is not bound while it has that address."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    world.node("h1", "192.0.2.1")
    port = world.port(network, fixed_ips=fixed("10.0.0.1"))
    with pytest.raises(InvalidIpForSubnet, match=r"10\.0\.0\.1 is the gateway_ip"):
        world.do(UpdatePort(id=port.id, host="h1"))
    moved = world.do(UpdatePort(id=port.id, host="h1", fixed_ips=fixed("10.0.0.9")))
    assert ("h1", "10.0.0.9") == (moved.host, *_ips(moved))


def test_macs_are_used_once_in_a_network() -> None:
    """Across requests and in a bulk; another network may have the same."""
    world = World()
    network = world.network()
    chosen = mac("02:00:00:00:00:01")
    assert chosen == world.port(network, mac=chosen).mac
    spec = PortSpec(network_id=network.id, mac=chosen)
    _refused(world, MacAddressInUse, "02:00:00:00:00:01 is in use", spec)
    twin = PortSpec(network_id=network.id, mac=mac("02:00:00:00:00:02"))
    _refused(world, MacAddressInUse, "02:00:00:00:00:02", twin, twin)
    assert chosen == world.port(world.network(), mac=chosen).mac


@pytest.mark.parametrize("chosen", [mac("01:00:5e:00:00:01"), mac("ff:ff:ff:ff:ff:ff"), Mac(bytes(6)), ROUTER_MAC])
def test_macs_that_no_interface_has_are_refused(chosen: Mac) -> None:
    """Group addresses, zero, and the router's."""
    world = World()
    _refused(world, InvalidInput, "mac_address", PortSpec(network_id=world.network().id, mac=chosen))


def test_what_a_deleted_port_had_is_free_at_once_and_reused_last() -> None:
    """The address may be named again immediately; unnamed, it comes after every fresh one."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/29")
    ports = world.ports(network, 3)
    world.do(DeletePorts(ids=(ports[0].id, ports[1].id)))
    assert ["10.0.0.5", "10.0.0.6"] == _ips(*world.ports(network, 2))
    again = world.port(network, fixed_ips=fixed("10.0.0.3"), mac=ports[1].mac)
    assert (["10.0.0.3"], ports[1].mac) == (_ips(again), again.mac)
    assert ["10.0.0.2"] == _ips(world.port(network))
    world.check()


def test_a_bulk_delete_is_all_or_nothing() -> None:
    """One unknown id, named in the message, and nothing is deleted; naming a port twice is naming it once."""
    world = World()
    ports = world.ports(world.network(), 2)
    with pytest.raises(PortNotFound, match="eeeeeeee-"):
        world.do(DeletePorts(ids=(ports[0].id, NOBODY)))
    assert 2 == len(world.store.get_ports([port.id for port in ports]))
    world.do(DeletePorts(ids=(ports[0].id, ports[0].id, ports[1].id)))
    assert [] == world.store.get_ports([port.id for port in ports])
    world.check()


def test_a_binding_names_a_node() -> None:
    """An unknown host is refused, naming binding:host_id; no host is fine."""
    world = World()
    network = world.network()
    _refused(world, InvalidInput, "binding:host_id h9", PortSpec(network_id=network.id, host="h9"))
    port = world.port(network)
    with pytest.raises(InvalidInput, match="binding:host_id h9"):
        world.do(UpdatePort(id=port.id, host="h9"))


def test_kinds_and_interfaces() -> None:
    """A compute port is a tap; an adopted one needs an interface; names fit the kernel."""
    world = World()
    network = world.network()
    assert PortKind.TAP is world.port(network, device_owner="compute:nova").kind
    assert PortKind.CONTAINER is world.port(network).kind
    for spec in (
        {"kind": PortKind.ADOPTED},
        {"kind": PortKind.CONTAINER, "interface": "sixteen-bytes-xx"},
        {"kind": PortKind.CONTAINER, "interface": "a/b"},
        {"kind": PortKind.TAP, "netns": "/run/netns/x"},
        {"netns": "relative"},
    ):
        _refused(world, InvalidInput, "interface|netns", PortSpec(network_id=network.id, **spec))


def test_status_before_any_host_spoke() -> None:
    """Unbound: DOWN. Bound: BUILD."""
    world = World()
    world.node("h1", "192.0.2.1")
    network = world.network()
    assert PortStatus.DOWN is world.port(network).status
    assert PortStatus.BUILD is world.port(network, host="h1").status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": "x"}, PortStatus.ACTIVE),
        ({"description": "x", "device_id": "y", "device_owner": "z"}, PortStatus.ACTIVE),
        ({"admin_state_up": False}, PortStatus.BUILD),
        ({"fixed_ips": fixed("10.0.0.99")}, PortStatus.BUILD),
        ({"host": "h2"}, PortStatus.BUILD),
        ({"host": ""}, PortStatus.DOWN),
        ({"interface": "eth7"}, PortStatus.BUILD),
    ],
)
def test_a_change_that_the_host_must_realise_builds_again(change: dict[str, Any], status: PortStatus) -> None:
    """Words alone keep the status; the revision grows either way."""
    world = World()
    world.node("h1", "192.0.2.1")
    world.node("h2", "192.0.2.2")
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    port = world.report(world.port(network, host="h1"))
    changed = world.do(UpdatePort(id=port.id, **change))
    assert status is changed.status
    assert changed.revision == port.revision + 2  # The report was a commit, too.
    assert (0 if "host" in change else port.revision) == changed.realised_revision
    assert changed == world.stored(port)
    world.check()


def test_an_update_that_changes_nothing_writes_nothing() -> None:
    """Same values, same revision, same status."""
    world = World()
    network = world.network()
    subnet = world.subnet(network, "10.0.0.0/24")
    port = world.port(network, name="a")
    assert port == world.do(UpdatePort(id=port.id, name="a", mac=port.mac, fixed_ips=fixed(subnet.id)))
    assert port.revision == world.revision


def test_new_addresses_replace_the_old() -> None:
    """An address that is named again stays, a subnet alone keeps an address of it, the rest is given back."""
    world = World()
    network = world.network()
    one, two = world.subnet(network, "10.0.0.0/24"), world.subnet(network, "10.0.1.0/24")
    port = world.port(network, fixed_ips=fixed(one.id, two.id))
    changed = world.do(UpdatePort(id=port.id, fixed_ips=fixed(two.id, "10.0.0.9")))
    assert ["10.0.1.2", "10.0.0.9"] == _ips(changed)
    changed = world.do(UpdatePort(id=port.id, fixed_ips=fixed("10.0.0.9")))
    assert ["10.0.0.9"] == _ips(changed)
    assert ["10.0.0.2"] == _ips(world.port(network, fixed_ips=fixed("10.0.0.2")))
    assert () == world.do(UpdatePort(id=port.id, fixed_ips=())).fixed_ips
    world.check()


def test_a_taken_address_refuses_the_update() -> None:
    """Nothing of the update happens."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    first, second = world.ports(network, 2)
    with pytest.raises(IpAddressAlreadyAllocated, match=r"10\.0\.0\.3"):
        world.do(UpdatePort(id=first.id, name="x", fixed_ips=fixed("10.0.0.3")))
    assert first == world.stored(first)
    assert ["10.0.0.3"] == _ips(second)
    world.check()


def test_a_bound_port_keeps_its_mac() -> None:
    """As in Neutron: unbind first. Unbound, the MAC changes and the old one is free."""
    world = World()
    world.node("h1", "192.0.2.1")
    network = world.network()
    port = world.port(network, host="h1")
    new = mac("02:00:00:00:00:05")
    with pytest.raises(PortBound, match="h1"):
        world.do(UpdatePort(id=port.id, mac=new))
    world.do(UpdatePort(id=port.id, host=""))
    assert new == world.do(UpdatePort(id=port.id, mac=new)).mac
    assert port.mac == world.port(network, mac=port.mac).mac
    world.check()


def test_revisions_and_unknown_ids() -> None:
    """If-Match on update and delete; 404 for port and network."""
    world = World()
    port = world.port(world.network())
    with pytest.raises(RevisionNumberConstraintFailed):
        world.do(UpdatePort(id=port.id, name="x", if_match=port.revision + 1))
    with pytest.raises(RevisionNumberConstraintFailed):
        world.do(DeletePorts(ids=(port.id,), if_match=port.revision - 1))
    with pytest.raises(PortNotFound, match="eeeeeeee-"):
        world.do(UpdatePort(id=NOBODY, name="x"))
    with pytest.raises(NetworkNotFound, match="eeeeeeee-"):
        world.do(CreatePorts(specs=(PortSpec(network_id=NOBODY),)))
    world.do(DeletePorts(ids=(port.id,), if_match=port.revision))


def test_unset_is_not_a_value() -> None:
    """An update without fields is no change."""
    world = World()
    port = world.port(world.network())
    assert port == world.do(UpdatePort(id=port.id, fixed_ips=UNSET))


def test_allocators_are_rebuilt_from_the_store() -> None:
    """A controller that starts over gives out nothing that is in use."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    before = world.ports(network, 5)
    again = World(store=world.store)
    after = again.ports(network, 5)
    assert ["10.0.0.7"] == _ips(after[0])
    assert 10 == len({port.mac for port in before + after}) == len(set(_ips(*before, *after)))
    again.check()
