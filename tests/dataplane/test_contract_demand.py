"""The driver contract, endpoints on demand, ports that leave, packets that are too large: held against every driver."""

import select
import time

import pytest
from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, WAIT_S, Host
from tests.dataplane.test_contract import VNI, Pair, as_endpoints, gateways, host, pair, port, put, udp

from alcor.dataplane.base import LocalPort, Miss, Plan
from alcor.dataplane.ebpf.misses import vnet_header
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.addresses import ip_version, parse_ip
from alcor.model.nouns import PortKind

__all__ = ["host", "pair"]  # fixtures
ON_DEMAND = Plan(put_on_demand=(VNI,))


def take(host: Host, wait_s: float = WAIT_S) -> list[Miss]:
    """The packets that wait, but for what a container's stack asks by itself about IPv6; waits for the first."""
    while select.select([host.driver.misses], [], [], wait_s)[0]:
        misses = [miss for miss in host.driver.misses.take() if ip_version(miss.sought.ip) == 4]
        if misses:
            return misses
    return []


def dropped(host: Host, one: LocalPort) -> dict[str, int]:
    """Drops of the port, without those of its stack's own words."""
    found = host.driver.counters()[one.id].dropped
    return {reason: count for reason, count in found.items() if reason not in ("multicast", "nd_unknown")}


def sought(number: int) -> EndpointKey:
    return EndpointKey(VNI, parse_ip(f"10.0.0.{number}"))


def strangers(pair: Pair) -> tuple[LocalPort, LocalPort]:
    """A port on each host, none of which knows the other's; on the first the VPC is on demand."""
    here, there = pair
    a, far = port(1), port(4)
    put(here, a, put_on_demand=(VNI,), put_gateways=gateways())
    put(there, far, put_endpoints=as_endpoints(here, a))
    return a, far


def test_a_packet_is_held_until_its_address_is_known(pair: Pair) -> None:
    """It is taken as it was sent; sent on, it arrives as if nothing had been; those behind it hold nobody up."""
    here, there = pair
    a, far = strangers(pair)
    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(udp(a, far, b"one"))
        (miss,) = take(here)
        assert (sought(4), udp(a, far, b"one")) == (miss.sought, miss.frame)
        assert a.addresses[0].ip == miss.source
        here.driver.misses.learn(as_endpoints(there, far), ())
        here.driver.misses.release([miss])
        assert [udp(a, far, b"one")] == receiver.wait(udp(a, far, b"one"))
        sender.send(udp(a, far, b"two"))
        receiver.wait(udp(a, far, b"two"))
    assert not take(here, 0)
    assert {} == dropped(here, a)


def test_the_neighbour_is_asked_for_too(pair: Pair) -> None:
    """A container's own stack asks who has the address first: that waits like any packet, and is then answered."""
    here, there = pair
    a, far = strangers(pair)
    assert not here.ping(a, "10.0.0.4", MISS_S)
    misses = take(here)
    assert {(sought(4), a.addresses[0].ip)} == {(miss.sought, miss.source) for miss in misses}
    here.driver.misses.learn(as_endpoints(there, far), ())
    here.driver.misses.release(misses)
    assert here.ping(a, "10.0.0.4")


def test_nobody_is_known_to_have_an_address(pair: Pair) -> None:
    """Then its packets are dropped as in any VPC, and not held again; what was forgotten is."""
    here, _ = pair
    a, far = strangers(pair)
    with here.wire(a) as sender:
        sender.send(udp(a, far, b"one"))
        misses = take(here)
        here.driver.misses.learn((), [sought(4)])
        here.driver.misses.release(misses)
        sender.send(udp(a, far, b"two"))
        sender.send(udp(a, port(9), b"three"))
        assert [sought(9)] == [miss.sought for miss in take(here)]
        assert {"no_endpoint": 2} == dropped(here, a)
        here.driver.misses.forget([sought(4)])
        sender.send(udp(a, far, b"four"))
        assert [sought(4)] == [miss.sought for miss in take(here)]


def test_a_packet_waits_once(pair: Pair) -> None:
    """Sent on although nothing was learnt, it is dropped, with a reason, and not held again."""
    here, _ = pair
    a, far = strangers(pair)
    with here.wire(a) as sender:
        sender.send(udp(a, far, b"one"))
        here.driver.misses.release(take(here))
        sender.send(udp(a, port(9), b"two"))
        assert [sought(9)] == [miss.sought for miss in take(here)]
    assert {"unresolved": 1} == dropped(here, a)


def test_a_port_may_miss_only_so_often(pair: Pair) -> None:
    """What is too much in one moment is dropped and counted; nothing is lost without a word."""
    here, _ = pair
    a, far = strangers(pair)
    sent = 6000
    with here.wire(a) as sender:
        for number in range(sent):
            sender.send(udp(a, far, number.to_bytes(4, "big")))
    held, counted = 0, dict[str, int]()
    deadline = time.monotonic() + WAIT_S
    while held + sum(counted.values()) < sent and time.monotonic() < deadline:  # the kernel may still be at it
        held += len(take(here, 0.01))
        counted = dropped(here, a)
    assert 0 < held < sent
    assert {"miss_limit": sent - held} == counted


def test_what_packets_follow_is_used(pair: Pair) -> None:
    """What was learnt counts as used; then only what packets were sent to since it was last asked about."""
    here, there = pair
    a, far = strangers(pair)
    here.driver.misses.learn([*as_endpoints(there, far), *as_endpoints(there, port(5))], [sought(9)])
    both = [sought(4), sought(5), sought(9)]
    assert frozenset(both[:2]) == here.driver.misses.used(both)
    assert frozenset() == here.driver.misses.used(both)
    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(udp(a, far, b"one"))
        receiver.wait(udp(a, far, b"one"))
    assert frozenset({sought(4)}) == here.driver.misses.used(both)


def test_a_preloaded_vpc_holds_nothing(pair: Pair) -> None:
    """Unknown addresses are dropped, and nothing is learnt."""
    here, there = pair
    a = port(1)
    put(here, a)
    with here.wire(a) as sender:
        sender.send(udp(a, port(9), b"one"))
        sender.send(udp(a, port(9), b"two"))
        here.driver.misses.learn(as_endpoints(there, port(9)), [sought(8)])
        assert not take(here, MISS_S)
    assert {"no_endpoint": 2} == dropped(here, a)
    seen = here.driver.observe()
    assert (frozenset(), (), {}) == (seen.on_demand, seen.learnt, seen.endpoints)


def test_what_was_learnt_outlives_the_driver(pair: Pair) -> None:
    """A driver that starts anew sees it, beside what was preloaded, and packets are held as before."""
    here, there = pair
    a, far = strangers(pair)
    put(here, put_endpoints=as_endpoints(there, port(6)))
    here.driver.misses.learn(as_endpoints(there, far), [sought(9)])
    here.reopen()
    seen = here.driver.observe()
    assert (frozenset({VNI}), (sought(4), sought(9))) == (seen.on_demand, tuple(sorted(seen.learnt)))
    assert [sought(6)] == list(seen.endpoints)
    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(udp(a, port(8), b"one"))
        misses = take(here)
        assert [sought(8)] == [miss.sought for miss in misses]
        sender.send(udp(a, far, b"two"))
        receiver.wait(udp(a, far, b"two"))


def test_a_vpc_becomes_preloaded_again(pair: Pair) -> None:
    """What was learnt goes, what was put stays, in one plan; from then on nothing is held or learnt. Twice is once."""
    here, there = pair
    a, far = strangers(pair)
    here.driver.misses.learn([*as_endpoints(there, far), *as_endpoints(there, port(5))], [sought(9)])
    plan = Plan(put_endpoints=as_endpoints(there, far), remove_on_demand=(VNI,))
    for _ in range(2):
        assert here.driver.apply(plan).error == ""
        here.driver.misses.learn(as_endpoints(there, port(7)), [sought(8)])
        seen = here.driver.observe()
        assert (frozenset(), (), [sought(4)]) == (seen.on_demand, seen.learnt, list(seen.endpoints))
    with here.wire(a) as sender:
        sender.send(udp(a, port(5), b"one"))
        assert not take(here, MISS_S)


def test_what_leaves_is_followed(pair: Pair) -> None:
    """A packet for a port that is no longer here goes after it; when that ends, it is nobody's."""
    here, there = pair
    a, far = port(1), port(4)
    put(here, a, put_forwards=as_endpoints(there, far))
    put(there, far, put_endpoints=as_endpoints(here, a))
    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(udp(a, far, b"one"))
        receiver.wait(udp(a, far, b"one"))
        assert dict(as_endpoints(there, far)) == here.driver.observe().forwards
        here.driver.apply(Plan(remove_forwards=(sought(4), sought(5))))
        assert {} == here.driver.observe().forwards
        sender.send(udp(a, far, b"two"))
    assert {"no_endpoint": 1} == dropped(here, a)


def test_a_packet_above_the_mtu_is_told_so(pair: Pair) -> None:
    """Its sender hears the size that fits (RFC 1191); without DF it is only dropped. Both are counted."""
    here, there = pair
    a, far = port(1, kind=PortKind.TAP, mtu=1000), port(4)
    put(here, a, put_endpoints=as_endpoints(there, far))
    put(there, far, put_endpoints=as_endpoints(here, a))
    source, to = a.addresses[0].ip, far.addresses[0].ip

    def large(size: int, fragment: int = 0x4000) -> bytes:
        payload = packets.udp(source, to, bytes(size - 28))
        return packets.ethernet(far.mac, a.mac, packets.ipv4(source, to, payload, protocol=17, fragment=fragment))

    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(large(1001, fragment=0))
        sender.send(large(1001))
        quote = large(1001)[14 : 14 + 68]
        message = bytes((3, 4, 0, 0, 0, 0)) + (1000).to_bytes(2, "big") + quote
        message = message[:2] + packets.internet_checksum(message).to_bytes(2, "big") + message[4:]
        error = packets.ipv4(to, source, message, protocol=1, fragment=0x4000)
        sender.wait(packets.ethernet(a.mac, far.mac, error))
        sender.send(large(1000))
        receiver.wait(large(1000))
    assert {"too_big": 2} == dropped(here, a)


NOTHING = bytes(10)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("protocol", "offset"), [(6, 16), (17, 6)])
def test_an_unfinished_checksum_is_said_to_be_so(version: int, protocol: int, offset: int) -> None:
    """The kernel is asked to finish what holds the pseudo header's sum only, and told where segments are to be cut."""
    source, to = (
        (parse_ip("10.0.0.1"), parse_ip("10.0.0.2")) if version == 4 else (parse_ip("fd00::1"), parse_ip("fd00::2"))
    )
    make = packets.tcp if protocol == 6 else packets.udp
    payload = bytearray(make(source, to, b"data" * 10))
    if protocol == 6:
        payload[12] = 0x50
    start = 34 if version == 4 else 54
    addresses = (source[12:] + to[12:]) if version == 4 else source + to
    total = sum(int.from_bytes(addresses[at : at + 2], "big") for at in range(0, len(addresses), 2))
    total += protocol + len(payload)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)

    def frame() -> bytes:
        packet = packets.ipv4 if version == 4 else packets.ipv6
        whole = packet(source, to, bytes(payload), protocol=protocol)
        return packets.ethernet(b"\x02" * 6, b"\x04" * 6, whole, packets.IPV4 if version == 4 else packets.IPV6)

    finished = frame()
    payload[offset : offset + 2] = total.to_bytes(2, "big")
    unfinished = frame()
    place = start.to_bytes(2, "little") + offset.to_bytes(2, "little")
    assert vnet_header(unfinished, 0) == bytes((1, 0)) + start.to_bytes(2, "little") + bytes(2) + place
    if finished[start + offset : start + offset + 2] != unfinished[start + offset : start + offset + 2]:
        assert vnet_header(finished, 0) == NOTHING
    kind = {(4, 6): 1, (6, 6): 4}.get((version, protocol), 5)
    header = (start + (20 if protocol == 6 else 8)).to_bytes(2, "little")
    assert vnet_header(unfinished, 20) == bytes((1, kind)) + header + (20).to_bytes(2, "little") + place


@pytest.mark.parametrize("cut", [0, 13, 20, 33, 40, 53])
def test_what_is_cut_short_has_nothing_to_finish(cut: int) -> None:
    """Nor has ARP, a fragment, or another protocol."""
    source, to = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")
    whole = packets.ethernet(b"\x02" * 6, b"\x04" * 6, packets.ipv4(source, to, packets.udp(source, to, bytes(20))))
    assert vnet_header(whole[:cut], 0) == NOTHING
    fragment = packets.ipv4(source, to, packets.udp(source, to, b""), fragment=0x2000)
    for packet in (fragment, packets.ipv4(source, to, packets.icmp_echo(), protocol=1)):
        assert vnet_header(packets.ethernet(b"\x02" * 6, b"\x04" * 6, packet), 0) == NOTHING
