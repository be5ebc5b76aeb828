"""The driver contract, addresses outside: EIPs that come, go, move and are refused, held against every driver."""

import struct

import msgspec
from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, WORLD_MAC, Host, World
from tests.dataplane.test_contract import VNI, Pair, errors, gateways, host, pair, port, put

from alcor.dataplane.base import LocalPort, Plan, Route, RouteKey, RouteKind
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.nouns import Eip, Forwarding

__all__ = ["host", "pair"]  # fixtures
EIP, OTHER_EIP, ROUTER, CLIENT = "203.0.113.10", "203.0.113.11", "203.0.113.1", "203.0.113.77"

WAYS = {
    "put_gateways": gateways(),
    "put_routes": ((RouteKey(VNI, parse_prefix("0.0.0.0/0")), Route(RouteKind.OUTSIDE)),),
}


def with_eip(one: LocalPort, *ips: str) -> LocalPort:
    """The port with these addresses outside for its first one inside."""
    inside = one.addresses[0].ip
    eips = tuple(Eip(parse_ip(ip), inside, 24, parse_ip(ROUTER)) for ip in ips)
    return leaving(msgspec.structs.replace(one, eips=eips))


def leaving(one: LocalPort) -> LocalPort:
    """The port, in a network whose router leads outside."""
    return msgspec.structs.replace(one, routes=True)


def ping(world: World, destination: str, source: str = CLIENT, *, kind: int = 8) -> bytes:
    """A ping from outside, as the external device receives it."""
    packet = packets.ipv4(source, destination, packets.icmp_echo(kind=kind), protocol=packets.ICMP)
    return packets.ethernet(world.mac, WORLD_MAC, packet)


def test_eips_are_observed_as_they_were_put(host: Host) -> None:
    """They come back equal, also for a driver that starts anew; changed and removed in place."""
    ports = with_eip(port(1), EIP), port(2)
    put(host, *ports)
    host.reopen()
    assert {one.id: one for one in ports} == host.driver.observe().ports
    ports = with_eip(port(1)), with_eip(port(2), EIP, OTHER_EIP)
    put(host, *ports)
    assert {one.id: one for one in ports} == host.driver.observe().ports
    put(host, remove_ports=tuple(one.id for one in ports))
    assert ({}, ()) == (host.driver.observe().ports, host.driver.observe().orphans)


def test_an_eip_has_one_port(host: Host) -> None:
    """A second port with the same one is refused by name; the first keeps it."""
    first, second = with_eip(port(1), EIP), with_eip(port(2), EIP)
    put(host, first)
    refused = errors(host.driver.apply(Plan(put_ports=(second,))))[second.id]
    assert f"address {EIP} is taken by port" in refused
    assert first == host.driver.observe().ports[first.id]


def test_who_pings_the_eip_reaches_the_port(host: Host) -> None:
    """The workload answers from its own address; outside, the answer comes from the EIP, with a right checksum."""
    put(host, with_eip(port(1), EIP), **WAYS)
    with host.world() as world:
        world.send(ping(world, EIP))
        answer = world.wait(EIP)
    assert answer is not None
    assert (0, packets.ip4(CLIENT)) == (answer[20], answer[16:20])
    assert (0, 0) == (packets.internet_checksum(answer[:20]), packets.internet_checksum(answer[20:]))


def test_a_port_without_an_eip_is_not_reached_and_does_not_leave(host: Host) -> None:
    """Nor does one whose EIP was taken away."""
    put(host, with_eip(port(1), EIP), leaving(port(2)), **WAYS)
    put(host, leaving(port(1)))
    with host.world() as world:
        world.send(ping(world, EIP))
        assert not host.ping(port(2), CLIENT, MISS_S)
        assert world.wait(EIP, MISS_S) is None
        assert world.wait("10.0.0.2", MISS_S) is None


def test_the_host_says_where_its_eips_are(host: Host) -> None:
    """A question for an EIP is answered with the external device's MAC; one for another address is not."""
    one = with_eip(port(1), EIP)
    put(host, one, **WAYS)
    with host.world() as world, host.wire(one) as wire:
        world.send(packets.arp(WORLD_MAC, CLIENT, OTHER_EIP))
        world.send(packets.arp(WORLD_MAC, CLIENT, EIP))
        # What the workload is given after both: the ping.
        world.send(ping(world, EIP))
        inside = packets.ipv4(CLIENT, "10.0.0.1", packets.icmp_echo(), protocol=packets.ICMP, ttl=63)
        wire.wait(packets.ethernet(one.mac, packets.ROUTER, inside))
        assert world.wait("198.51.100.1", MISS_S) is None  # nobody's: it only listens
        to = WORLD_MAC
        assert [packets.arp(world.mac, EIP, CLIENT, opcode=2, target_mac=to, ethernet_destination=to)] == world.arp


def test_a_port_reaches_its_own_eip_and_its_neighbours(host: Host) -> None:
    """Between EIPs of one host packets turn back at the external device; each end sees the other's EIP."""
    put(host, with_eip(port(1), EIP), with_eip(port(2), OTHER_EIP), **WAYS)
    assert host.ping(port(1), OTHER_EIP)
    assert host.ping(port(1), EIP)


def test_eips_of_two_hosts_reach_each_other_through_the_world(pair: Pair) -> None:
    """What leaves one host for another's EIP is what that host takes in."""
    one, other = pair
    put(one, with_eip(port(1), EIP), **WAYS)
    put(other, with_eip(port(2), OTHER_EIP), **WAYS)
    with one.world() as near, other.world() as far:
        near.send(ping(near, EIP, OTHER_EIP))
        answer = near.wait(EIP)
        assert answer is not None
        far.send(packets.ethernet(far.mac, WORLD_MAC, _as_request(answer)))
        back = far.wait(OTHER_EIP)
    assert back is not None
    assert packets.ip4(EIP) == back[16:20]


def _as_request(answer: bytes) -> bytes:
    message = b"\x08\0\0\0" + answer[24:]
    check = struct.pack("!H", packets.internet_checksum(message))
    return answer[:20] + message[:2] + check + message[4:]


def test_errors_are_translated_inside_too(host: Host) -> None:
    """A router outside says that a packet of the EIP did not get through: the port learns it of its own packet."""
    one = with_eip(port(1), EIP)
    put(host, one, **WAYS)
    quoted = packets.ipv4(EIP, "198.51.100.7", packets.udp(EIP, "198.51.100.7", b"lost"), protocol=packets.UDP)
    body = struct.pack("!I", 1300) + quoted
    bare = b"\x03\x04\0\0" + body
    message = bare[:2] + struct.pack("!H", packets.internet_checksum(bare)) + bare[4:]
    inner = packets.ipv4("10.0.0.1", "198.51.100.7", packets.udp(EIP, "198.51.100.7", b"lost"), protocol=packets.UDP)
    told = message[:8] + inner
    assert packets.internet_checksum(told) == 0
    with host.world() as world, host.wire(one) as wire:
        error = packets.ipv4(ROUTER, EIP, message, protocol=packets.ICMP)
        world.send(packets.ethernet(world.mac, WORLD_MAC, error))
        expected = packets.ipv4(ROUTER, "10.0.0.1", told, protocol=packets.ICMP, ttl=63)
        wire.wait(packets.ethernet(one.mac, packets.ROUTER, expected))


def with_forwardings(one: LocalPort, *ports: tuple[int, int], protocol: int = packets.UDP) -> LocalPort:
    """The port with ports of EIP for ports of its own."""
    inside = one.addresses[0].ip
    found = [Forwarding(parse_ip(EIP), protocol, outer, inside, inner, 24, parse_ip(ROUTER)) for outer, inner in ports]
    return leaving(msgspec.structs.replace(one, forwardings=tuple(sorted(found))))


def test_forwardings_are_observed_as_they_were_put(host: Host) -> None:
    """They come back equal, also for a driver that starts anew; changed in place, moved, removed without a trace."""
    one, other = with_forwardings(port(1), (53, 5353), (80, 80)), port(2)
    put(host, one, other)
    host.reopen()
    assert {one.id: one, other.id: other} == host.driver.observe().ports
    one, other = port(1), with_forwardings(port(2), (80, 8080))
    put(host, one, other)
    assert {one.id: one, other.id: other} == host.driver.observe().ports
    refused = errors(host.driver.apply(Plan(put_ports=(with_eip(port(3), EIP),))))
    assert f"address {EIP} is taken by port" in refused[port(3).id]
    put(host, remove_ports=(one.id, other.id))
    assert ({}, ()) == (host.driver.observe().ports, host.driver.observe().orphans)


def test_a_forwarded_port_reaches_the_port_and_nothing_else_does(host: Host) -> None:
    """The datagram comes with the inner port, its checksum right; the answer leaves with the outer one. Another port,
    and a ping, stay outside; the host answers for the address."""
    one = with_forwardings(port(1), (53, 5353))
    put(host, one, **WAYS)
    inside = packets.udp(CLIENT, "10.0.0.1", b"which?", sport=4000, dport=5353)
    expected = packets.ipv4(CLIENT, "10.0.0.1", inside, ttl=63)
    back = packets.ipv4("10.0.0.1", CLIENT, packets.udp("10.0.0.1", CLIENT, b"that", sport=5353, dport=4000))
    with host.world() as world, host.wire(one) as wire:
        for dport in (54, 53):
            sent = packets.ipv4(CLIENT, EIP, packets.udp(CLIENT, EIP, b"which?", sport=4000, dport=dport))
            if dport == 53:
                world.send(ping(world, EIP))
            world.send(packets.ethernet(world.mac, WORLD_MAC, sent))
        frames = wire.wait(packets.ethernet(one.mac, packets.ROUTER, expected))
        assert 1 == sum(frame[12:14] == b"\x08\0" for frame in frames)
        wire.send(packets.ethernet(packets.ROUTER, one.mac, back))
        left = world.wait(EIP)
        while left is not None and left[9] == packets.ICMP:  # nobody listens there: a real stack says so, and of what
            assert packets.ip4(EIP) + struct.pack("!HH", 4000, 53) == left[44:52]
            left = world.wait(EIP)
    answer = packets.udp(EIP, CLIENT, b"that", sport=53, dport=4000)
    assert packets.ipv4(EIP, CLIENT, answer, ttl=63) == left
