"""The driver contract, shared addresses outside: ports without an EIP leave by their own host's ports of one, held
against every driver."""

import struct
from typing import TypedDict

from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, WORLD_MAC, Host, World
from tests.dataplane.test_contract import VNI, Pair, gateways, host, pair, port, put
from tests.dataplane.test_contract_nat import CLIENT, EIP, ROUTER, leaving, with_eip

from alcor.dataplane.base import Hop, LocalPort, Plan, Route, RouteKey, RouteKind, SharedAddress
from alcor.model.addresses import Ip, parse_ip, parse_prefix

__all__ = ["host", "pair"]  # fixtures
SHARED, STRANGER = "203.0.113.9", "203.0.113.78"
WAYS = {
    "put_gateways": gateways(),
    "put_routes": (
        (
            RouteKey(VNI, parse_prefix("0.0.0.0/0")),
            Route(RouteKind.OUTSIDE, (Hop(0, 0, parse_ip(SHARED)),)),
        ),
    ),
}
BLOCK, OTHER_BLOCK = 2, 9


class Shared(TypedDict):
    """A field of a plan."""

    put_shared: tuple[tuple[Ip, SharedAddress], ...]


def shared(answerer: Host | None, **blocks: Host) -> Shared:
    """The address as these hosts share it (`b2=host`: block 2 is that host's), as a field of a plan."""
    held = tuple(sorted((int(name[1:]), one.underlay_ip) for name, one in blocks.items()))
    end = answerer.underlay_ip if answerer is not None else None
    return {"put_shared": ((parse_ip(SHARED), SharedAddress(24, parse_ip(ROUTER), 1400, end, held)),)}


def sent(one: LocalPort, data: bytes, remote: str = CLIENT) -> bytes:
    """A datagram of the port's workload to somebody outside, port 53."""
    inside = one.addresses[0].ip
    payload = packets.udp(inside, remote, data, sport=4000, dport=53)
    return packets.ethernet(packets.ROUTER, one.mac, packets.ipv4(inside, remote, payload))


def answer(world: World, outer: int, data: bytes, remote: str = CLIENT) -> bytes:
    """Somebody outside answers to that port of the address."""
    payload = packets.udp(remote, SHARED, data, sport=53, dport=outer)
    return packets.ethernet(world.mac, WORLD_MAC, packets.ipv4(remote, SHARED, payload))


def given(one: LocalPort, data: bytes, remote: str = CLIENT) -> bytes:
    """What the workload is given then."""
    inside = one.addresses[0].ip
    payload = packets.udp(remote, inside, data, sport=53, dport=4000)
    return packets.ethernet(one.mac, packets.ROUTER, packets.ipv4(remote, inside, payload, ttl=63))


def outer_port(packet: bytes | None) -> int:
    """The source port of what left, whose checksums are right."""
    assert packet is not None
    length = struct.unpack("!H", packet[2:4])[0]
    pseudo = packet[12:20] + b"\0" + packet[9:10] + struct.pack("!H", length - 20)
    assert (0, 0) == (packets.internet_checksum(packet[:20]), packets.internet_checksum(pseudo + packet[20:length]))
    return int(struct.unpack("!H", packet[20:22])[0])


def test_shared_addresses_are_observed_as_they_were_put(host: Host) -> None:
    """Also by a driver that starts anew; changed and removed, and what is removed twice is removed."""
    ip = parse_ip(SHARED)
    for state in (shared(host, b2=host), shared(None, b2=host, b5=host)):
        put(host, **state)
        host.reopen()
        observed = host.driver.observe()
        assert {ip: state["put_shared"][0][1].digest()} == observed.shared
        assert ({ip} if state == shared(host, b2=host) else set()) == observed.answers
        assert host.driver.apply(Plan(**state)).error == ""
    for _ in range(2):
        put(host, remove_shared=(ip,))
        observed = host.driver.observe()
        assert ({}, frozenset()) == (observed.shared, observed.answers)


def test_a_port_without_an_eip_leaves_and_hears_the_answer(host: Host) -> None:
    """By a port of the host's block, the same one each time; the answer's checksum is right inside."""
    one = leaving(port(1))
    put(host, one, **shared(host, b2=host), **WAYS)
    with host.world() as world, host.wire(one) as wire:
        wire.send(sent(one, b"first"))
        outer = outer_port(world.wait(SHARED))
        wire.send(sent(one, b"second"))
        assert outer == outer_port(world.wait(SHARED))
        assert BLOCK == outer // 512
        world.send(answer(world, outer, b"heard"))
        wire.wait(given(one, b"heard"))


def test_who_was_not_spoken_to_does_not_reach_a_port(host: Host) -> None:
    """Neither another host outside, nor another port of the one that was, nor one that asks for a port of nobody."""
    one = leaving(port(1))
    put(host, one, **shared(host, b2=host), **WAYS)
    with host.world() as world, host.wire(one) as wire:
        wire.send(sent(one, b"asked"))
        outer = outer_port(world.wait(SHARED))
        world.send(answer(world, outer, b"unasked", STRANGER))
        world.send(answer(world, outer + 1, b"unasked"))
        other = packets.ipv4(CLIENT, SHARED, packets.udp(CLIENT, SHARED, b"unasked", sport=54, dport=outer))
        world.send(packets.ethernet(world.mac, WORLD_MAC, other))
        world.send(answer(world, outer, b"asked for"))
        frames = wire.wait(given(one, b"asked for"))
    assert not [frame for frame in frames if b"unasked" in frame]


def test_two_hosts_share_an_address(pair: Pair) -> None:
    """Each by its own block. What comes for the other's block where the address is answered for is sent on to it, and
    the port hears its answer; nobody else's."""
    one, other = pair
    near, far = leaving(port(1)), leaving(port(2))
    state = shared(one, b2=one, b9=other)
    put(one, near, **state, **WAYS)
    put(other, far, **state, **WAYS)
    with one.world() as world, other.world() as far_world, one.wire(near) as here, other.wire(far) as there:
        here.send(sent(near, b"from one"))
        there.send(sent(far, b"from the other"))
        ports = outer_port(world.wait(SHARED)), outer_port(far_world.wait(SHARED))
        assert (BLOCK, OTHER_BLOCK) == (ports[0] // 512, ports[1] // 512)
        world.send(answer(world, ports[1], b"unasked", STRANGER))
        world.send(answer(world, ports[0], b"to one"))
        world.send(answer(world, ports[1], b"to the other"))
        here.wait(given(near, b"to one"))
        frames = there.wait(given(far, b"to the other"))
    assert not [frame for frame in frames if b"unasked" in frame]


def test_an_eip_comes_first(host: Host) -> None:
    """A port that has one leaves by it, in a network whose router shares its address."""
    one = with_eip(port(1), EIP)
    put(host, one, **shared(host, b2=host), **WAYS)
    with host.world() as world, host.wire(one) as wire:
        wire.send(sent(one, b"mine"))
        assert outer_port(world.wait(EIP)) == 4000


def test_a_host_without_a_block_drops_and_counts(pair: Pair) -> None:
    """Nothing leaves by another host's ports."""
    one, other = pair
    lost = leaving(port(1))
    put(one, lost, **shared(other, b9=other), **WAYS)
    with one.world() as world, one.wire(lost) as wire:
        wire.send(sent(lost, b"lost"))
        assert world.wait(SHARED, MISS_S) is None
    assert one.driver.counters()[lost.id].dropped["no_block"] == 1


def test_an_error_from_outside_is_of_the_ports_own_packet(host: Host) -> None:
    """A router outside says that a datagram did not get through: the workload learns it of its own port."""
    one = leaving(port(1))
    put(host, one, **shared(host, b2=host), **WAYS)
    with host.world() as world, host.wire(one) as wire:
        wire.send(sent(one, b"lost"))
        left = world.wait(SHARED)
        assert left is not None
        outer = outer_port(left)
        bare = struct.pack("!BBHI", 3, 4, 0, 1300) + left[:28]
        message = bare[:2] + struct.pack("!H", packets.internet_checksum(bare)) + bare[4:]
        error = packets.ipv4(ROUTER, SHARED, message, protocol=packets.ICMP)
        world.send(packets.ethernet(world.mac, WORLD_MAC, error))
        inside = packets.ipv4(one.addresses[0].ip, CLIENT, packets.udp("10.0.0.1", CLIENT, b"lost", dport=53), ttl=63)
        quoted = inside[:20] + struct.pack("!H", 4000) + left[22:28]
        bare = struct.pack("!BBHI", 3, 4, 0, 1300) + quoted
        told = bare[:2] + struct.pack("!H", packets.internet_checksum(bare)) + bare[4:]
        expected = packets.ipv4(ROUTER, one.addresses[0].ip, told, protocol=packets.ICMP, ttl=63)
        wire.wait(packets.ethernet(one.mac, packets.ROUTER, expected))
    assert outer // 512 == BLOCK
