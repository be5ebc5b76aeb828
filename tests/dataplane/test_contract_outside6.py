"""The driver contract, IPv6 outside: addresses of ports that are their own on external networks, held against every
driver. 2001:db8:100::/40 is the external network's, a /64 of it each of two VPCs'."""

from typing import Any

import msgspec
from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, WORLD_MAC, Host, World
from tests.dataplane.test_contract import OTHER_VNI, VNI, Pair, host, pair, port, put

from alcor.dataplane.base import (
    NO_ADDRESS,
    OUTSIDE,
    Address,
    Hop,
    LocalPort,
    Policy,
    PolicyKey,
    Route,
    RouteKey,
    RouteKind,
)
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import parse_ip, parse_prefix

__all__ = ["host", "pair"]  # fixtures
NETWORK, ROUTER = "2001:db8:100::/40", "fe80::1"
SUBNETS = {VNI: "2001:db8:1a0::", OTHER_VNI: "2001:db8:1b0::"}
NEIGHBOUR, STRANGER = "2001:db8:100::77", "2001:db8:ffff::7"
REQUEST, REPLY, SOLICITATION, ADVERTISEMENT, TOO_BIG = 128, 129, 135, 136, 2
ECHO = b"\0\7\0\1alcor"
ALL_NODES = "ff02::1"


def address(number: int, vni: int = VNI) -> str:
    """Of the port of that number."""
    return f"{SUBNETS[vni]}{number:x}"


def abroad(number: int, *ips: str, vni: int = VNI) -> LocalPort:
    """A port with an IPv6 address, in a network whose router leads outside."""
    gateway = parse_ip(address(0xFE, vni))
    addresses = tuple(Address(parse_ip(ip), 64, gateway) for ip in ips or (address(number, vni),))
    return msgspec.structs.replace(port(number, vni=vni), addresses=addresses, routes=True)


def connected(vni: int, mtu: int, gateway: str = "") -> Route:
    """A route to addresses of a VNI."""
    return Route(RouteKind.CONNECTED, (Hop(vni, mtu, parse_ip(gateway) if gateway else NO_ADDRESS),))


def owned(vni: int) -> tuple[RouteKey, Route]:
    """The VPC's subnet is its own outside."""
    return RouteKey(OUTSIDE, parse_prefix(f"{SUBNETS[vni]}/64")), connected(vni, 1400, ROUTER)


def ways(*vnis: int) -> dict[str, tuple[Any, ...]]:
    """What a plan has for such VPCs, but for whose their subnets are outside."""
    inside = [(RouteKey(vni, parse_prefix(f"{SUBNETS[vni]}/64")), connected(vni, 1400)) for vni in vnis]
    out = [(RouteKey(vni, parse_prefix("::/0")), Route(RouteKind.OUTSIDE)) for vni in vnis]
    network = (RouteKey(OUTSIDE, parse_prefix(NETWORK)), connected(OUTSIDE, 0))
    gateways = tuple(EndpointKey(vni, parse_ip(address(0xFE, vni))) for vni in vnis)
    return {"put_gateways": gateways, "put_routes": (*inside, *out, network)}


def lead_out(host: Host, *vnis: int) -> None:
    """Their routers lead outside, and their subnets are their own there."""
    put(host, **ways(*vnis))
    put(host, put_routes=tuple(owned(vni) for vni in vnis))


def asked(world: World, target: str, source: str = NEIGHBOUR) -> bytes:
    """A neighbour's question, as the external device receives it; from :: it is duplicate address detection."""
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + packets.ip6(target)[13:]
    option = b"" if source == "::" else b"\x01\x01" + WORLD_MAC
    told = packets.icmpv6(source, group, SOLICITATION, bytes(4) + packets.ip6(target) + option)
    packet = packets.ipv6(source, group, told, protocol=packets.ICMPV6, hops=255)
    return packets.ethernet(b"\x33\x33" + group[12:], WORLD_MAC, packet, packets.IPV6)


def pinged(world: World, target: str, source: str = NEIGHBOUR, data: bytes = ECHO) -> bytes:
    """A ping from outside, as the external device receives it."""
    packet = packets.ipv6(source, target, packets.icmpv6(source, target, REQUEST, data), protocol=packets.ICMPV6)
    return packets.ethernet(world.mac, WORLD_MAC, packet, packets.IPV6)


def told(world: World, source: str, kind: int, wait_s: float = 5.0) -> bytes | None:
    """The next ICMPv6 message of that type from there that leaves; None: none does."""
    while (packet := world.wait(source, wait_s)) is not None:
        if packet[6] == packets.ICMPV6 and packet[40] == kind:
            return packet
    return None


def advertised(world: World, ip: str, to: str, flags: bytes) -> bytes:
    """The advertisement of an address of this host."""
    body = flags + bytes(3) + packets.ip6(ip) + b"\x02\x01" + world.mac
    return packets.ipv6(ip, to, packets.icmpv6(ip, to, ADVERTISEMENT, body), protocol=packets.ICMPV6, hops=255)


def sent(one: LocalPort, destination: str, source: str = "", hops: int = 64) -> tuple[bytes, bytes]:
    """A datagram that the port sends to its router, as its frame; and as it is one hop on."""
    source = source or address(one.mac[5], one.vni)
    data = packets.ports(packets.UDP, 4000, 5000, data=b"out")
    packet, later = (packets.ipv6(source, destination, data, hops=left) for left in (hops, hops - 1))
    return packets.ethernet(packets.ROUTER, one.mac, packet, packets.IPV6), later


def dropped(host: Host, one: LocalPort, reason: str) -> int:
    """How many packets of the port were dropped for that reason."""
    return host.driver.counters()[one.id].dropped.get(reason, 0)


def test_routes_outside_are_observed_as_they_were_put(host: Host) -> None:
    """They come back equal, also for a driver that starts anew, and go without a trace."""
    lead_out(host, VNI, OTHER_VNI)
    routes = {**dict(ways(VNI, OTHER_VNI)["put_routes"]), **dict(map(owned, (VNI, OTHER_VNI)))}
    host.reopen()
    assert routes == host.driver.observe().routes
    put(host, remove_routes=tuple(routes))
    assert {} == host.driver.observe().routes


def test_a_neighbour_finds_and_pings_the_port(host: Host) -> None:
    """Who asks for the port's address is told the external device's MAC; its ping is answered from that address."""
    lead_out(host, VNI)
    put(host, abroad(1))
    with host.world() as world:
        world.send(asked(world, address(1)))
        assert advertised(world, address(1), NEIGHBOUR, b"\x60") == told(world, address(1), ADVERTISEMENT)
        world.send(pinged(world, address(1)))
        answer = told(world, address(1), REPLY)
        assert answer is not None
        assert parse_ip(NEIGHBOUR) in world.asked
    assert (63, packets.ip6(NEIGHBOUR)) == (answer[7], answer[24:40])
    assert packets.icmpv6(address(1), NEIGHBOUR, REPLY, ECHO) == answer[40:]


def test_a_probe_is_answered_to_all(host: Host) -> None:
    """Duplicate address detection outside learns that the address is taken (RFC 4862 section 5.4)."""
    lead_out(host, VNI)
    put(host, abroad(1))
    with host.world() as world:
        world.send(asked(world, address(1), "::"))
        assert advertised(world, address(1), ALL_NODES, b"\x20") == told(world, address(1), ADVERTISEMENT)


def test_a_port_reaches_neighbours_and_what_is_behind_the_router(host: Host) -> None:
    """What it sends leaves as it is, one hop on: to a neighbour on the external network itself, else to the router."""
    lead_out(host, VNI)
    one = abroad(1)
    put(host, one)
    with host.world() as world, host.wire(one) as wire:
        for destination, hop in ((NEIGHBOUR, NEIGHBOUR), (STRANGER, ROUTER)):
            frame, later = sent(one, destination)
            wire.send(frame)
            packet = world.wait(address(1))
            while packet is not None and packet[6] != packets.UDP:
                packet = world.wait(address(1))
            assert later == packet
            assert parse_ip(hop) in world.asked


def test_an_address_that_is_nobodys_outside_does_not_leave(host: Host) -> None:
    """Not of a subnet outside of the external network, not of another VPC's subnet, whatever the port may send from."""
    lead_out(host, VNI, OTHER_VNI)
    one = msgspec.structs.replace(abroad(1, address(1), "fd00::1"), port_security=False)
    put(host, one)
    with host.world() as world, host.wire(one) as wire:
        for source in ("fd00::1", address(9, OTHER_VNI), STRANGER):
            wire.send(sent(one, NEIGHBOUR, source)[0])
            assert world.wait(source, MISS_S) is None
    assert 3 == dropped(host, one, "no_translation")


def test_what_no_router_passes_on_stays(host: Host) -> None:
    """A link-local address: not even the external network's own router is reached by one."""
    lead_out(host, VNI)
    one = abroad(1)
    put(host, one)
    with host.world() as world, host.wire(one) as wire:
        wire.send(sent(one, ROUTER)[0])
        assert world.wait(address(1), MISS_S) is None
    assert 1 == dropped(host, one, "no_external")


def test_nobody_outside_speaks_as_the_host(host: Host) -> None:
    """A link-local source, such as the host's services have, does not come in."""
    lead_out(host, VNI)
    one = abroad(1)
    put(host, one)
    with host.world() as world, host.wire(one) as wire:
        for source in ("fe80::a9fe:a9fe", NEIGHBOUR):
            world.send(pinged(world, address(1), source))
        echo = packets.icmpv6(NEIGHBOUR, address(1), REQUEST, ECHO)
        packet = packets.ipv6(NEIGHBOUR, address(1), echo, protocol=packets.ICMPV6, hops=63)
        frames = wire.wait(packets.ethernet(one.mac, packets.ROUTER, packet, packets.IPV6))
    assert not [frame for frame in frames if frame[22:38] == packets.ip6("fe80::a9fe:a9fe")]


def test_another_hosts_addresses_are_not_answered_for(pair: Pair) -> None:
    """Nor a gateway's, nor one of a subnet that is not its own outside; and what comes for them goes nowhere."""
    one, other = pair
    for side in (one, other):
        lead_out(side, VNI)
    far = abroad(2)
    put(one, abroad(1), abroad(3, vni=OTHER_VNI))
    put(other, far)
    put(one, put_endpoints=((EndpointKey(VNI, parse_ip(address(2))), Endpoint(far.mac, other.underlay_ip)),))
    with one.world() as near, other.world() as there:
        for ip in (address(2), address(0xFE), address(3, OTHER_VNI), address(9)):
            near.send(asked(near, ip))
            near.send(pinged(near, ip))
            assert near.wait(ip, MISS_S) is None
        there.send(asked(there, address(2)))
        assert told(there, address(2), ADVERTISEMENT) is not None


def test_ports_of_one_host_meet_outside(host: Host) -> None:
    """Two VPCs whose subnets are on the external network reach each other there, without a wire between; not through
    their routes inside."""
    lead_out(host, VNI, OTHER_VNI)
    one, other = abroad(1), abroad(2, vni=OTHER_VNI)
    put(host, one, other)
    with host.wire(one) as wire, host.wire(other) as there:
        frame, _ = sent(one, address(2, OTHER_VNI))
        wire.send(frame)
        _, later = sent(one, address(2, OTHER_VNI), hops=63)
        there.wait(packets.ethernet(other.mac, packets.ROUTER, later, packets.IPV6))


def test_who_is_outside_is_nobody_for_security_groups(host: Host) -> None:
    """A port that nobody may reach is not reached, and the drop is its own."""
    lead_out(host, VNI)
    one = msgspec.structs.replace(abroad(1), identity=5)
    put(host, one, put_policies=(Policy(PolicyKey(VNI, 5), ()),))
    with host.world() as world:
        world.send(pinged(world, address(1)))
        assert told(world, address(1), REPLY, MISS_S) is None
    assert 1 == dropped(host, one, "policy_ingress")


def test_a_sender_outside_is_told_of_a_smaller_mtu(host: Host) -> None:
    """Packet too big (RFC 8201), from the address that it sent to."""
    lead_out(host, VNI)
    put(host, msgspec.structs.replace(abroad(1), mtu=1300))
    with host.world() as world:
        world.send(pinged(world, address(1), data=ECHO + bytes(1300)))
        error = told(world, address(1), TOO_BIG)
    assert error is not None
    assert (1300, packets.ip6(NEIGHBOUR)) == (int.from_bytes(error[44:48], "big"), error[24:40])


def test_an_address_that_comes_is_announced(host: Host) -> None:
    """With its port, and with its subnet's way out; once. One that was there is not announced again."""
    with host.world() as world:
        put(host, abroad(1), **ways(VNI))
        assert told(world, address(1), ADVERTISEMENT, MISS_S) is None
        put(host, put_routes=(owned(VNI),))
        assert advertised(world, address(1), ALL_NODES, b"\x20") == told(world, address(1), ADVERTISEMENT)
        put(host, abroad(2))
        assert advertised(world, address(2), ALL_NODES, b"\x20") == told(world, address(2), ADVERTISEMENT)
        put(host, abroad(1), abroad(2, address(2), address(3)), put_routes=(owned(VNI),))
        assert advertised(world, address(3), ALL_NODES, b"\x20") == told(world, address(3), ADVERTISEMENT)
        for number in (1, 2):
            assert told(world, address(number), ADVERTISEMENT, MISS_S) is None


def test_a_port_takes_its_address_along(pair: Pair) -> None:
    """From one host to another: the new one announces it and answers, the old one is silent."""
    one, other = pair
    for side in (one, other):
        lead_out(side, VNI)
    put(one, abroad(1))
    with one.world() as old, other.world() as new:
        put(one, remove_ports=(abroad(1).id,))
        put(other, abroad(1))
        assert told(new, address(1), ADVERTISEMENT) is not None
        for world in (old, new):
            world.send(asked(world, address(1)))
        assert told(new, address(1), ADVERTISEMENT) is not None
        assert told(old, address(1), ADVERTISEMENT, MISS_S) is None


def test_a_way_out_that_is_taken_away_is_none(host: Host) -> None:
    """Nobody is answered for, and nothing leaves."""
    lead_out(host, VNI)
    one = abroad(1)
    put(host, one)
    put(host, remove_routes=(owned(VNI)[0],))
    with host.world() as world, host.wire(one) as wire:
        world.send(asked(world, address(1)))
        wire.send(sent(one, NEIGHBOUR)[0])
        assert world.wait(address(1), MISS_S) is None
    assert 1 == dropped(host, one, "no_translation")
