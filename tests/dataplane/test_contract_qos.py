"""The driver contract, quality of service: rate limits and DSCP marking, held against every driver."""

import time
from contextlib import ExitStack

import msgspec
import pytest
from tests.dataplane import packets
from tests.dataplane.contract_hosts import Host
from tests.dataplane.test_contract import Pair, as_endpoints, gateways, host, pair, port, put, udp

from alcor.dataplane.base import Address, LocalPort, Plan, RateLimit
from alcor.model.addresses import parse_ip

__all__ = ["host", "pair"]  # fixtures
SLOW, FAST = RateLimit(800, 80), RateLimit(10_000_000)
"""100 kB a second, 10 kB at once; and no hindrance."""
BIG = b"x" * 1000
COUNT, SOCKETS = 600, 8
CHATTER = 10
"""Packets that workloads may send by themselves meanwhile."""


def limited(number: int, *, out: RateLimit | None = None, into: RateLimit | None = None) -> LocalPort:
    """A port with limits."""
    return msgspec.structs.replace(port(number), egress_limit=out, ingress_limit=into)


def flood(host: Host, source: LocalPort, target: LocalPort, count: int) -> int:
    """That many frames of 1,042 bytes, as fast as they can be sent; how many of them a SLOW queue takes at most."""
    begun = time.monotonic()
    with ExitStack() as stack:
        # What waits in a queue is still its socket's, which sends no more than its buffer has room for: one is too few.
        wires = [stack.enter_context(host.wire(source)) for _ in range(SOCKETS)]
        for number in range(count):
            wires[number % SOCKETS].send(udp(source, target, BIG))
    # 10 kB of burst and 208 KiB of queue are 214 frames; and what went meanwhile.
    return 225 + int(100 * (time.monotonic() - begun))


def late(host: Host, one: LocalPort) -> int:
    """Packets of the port that found no room in a queue."""
    return host.driver.counters()[one.id].dropped.get("rate_limit", 0)


def settled(host: Host, target: LocalPort) -> int:
    """Packets that the port was given, once no more come."""
    seen, since = -1, time.monotonic()
    while time.monotonic() < since + 0.4:
        now = host.driver.counters()[target.id].received_packets
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.02)
    return seen


@pytest.mark.parametrize("way", ["out", "into"])
def test_what_is_too_much_is_dropped_and_counted(pair: Pair, way: str) -> None:
    """Of a flood so much comes through as the burst and the queue hold; the rest is counted at the port that is
    limited. The other port is not touched by it."""
    here, there = pair
    a = limited(1, out=SLOW) if way == "out" else port(1)
    b = limited(2, into=SLOW) if way == "into" else port(2)
    free = port(3)
    put(here, a, free, put_endpoints=as_endpoints(there, b))
    put(there, b, put_endpoints=as_endpoints(here, a, free))
    most = flood(here, a, b, COUNT)
    came = settled(there, b)
    assert 190 <= came <= most + CHATTER
    counted, who = (here, a) if way == "out" else (there, b)
    other, unlimited = (there, b) if way == "out" else (here, a)
    assert abs(COUNT - came - late(counted, who)) <= CHATTER
    assert 0 == late(other, unlimited)
    # Only what came through counts as sent by a port whose sending is limited.
    assert abs((came if way == "out" else COUNT) - here.driver.counters()[a.id].sent_packets) <= CHATTER


def test_an_unlimited_port_beside_a_limited_one_loses_nothing(host: Host) -> None:
    """A queue holds up its own port's packets only."""
    a, b, c = limited(1, out=SLOW), port(2), port(3)
    put(host, a, b, c)
    flood(host, a, c, COUNT)
    flood(host, b, c, COUNT)
    settled(host, c)
    assert 0 == late(host, b)
    assert 0 < late(host, a)
    assert COUNT <= host.driver.counters()[b.id].sent_packets


def test_limits_act_at_once_on_running_traffic(host: Host) -> None:
    """A limit that comes, changes or goes does so for the next packet; the port is changed in place."""
    a, b = port(1), port(2)
    put(host, a, b)
    flood(host, a, b, COUNT)
    came = settled(host, b)
    assert COUNT <= came <= COUNT + CHATTER
    for limit in (SLOW, FAST, None):
        put(host, limited(1, out=limit))
        most = flood(host, a, b, COUNT)
        before, came = came, settled(host, b)
        least, most = (190, most) if limit is SLOW else (COUNT, COUNT)
        assert least <= came - before <= most + CHATTER


def test_limits_and_marks_are_observed(host: Host) -> None:
    """What was put is there, also for a driver that starts anew; what went is not. A rate may be anything."""
    huge = RateLimit(2_147_483_647, 2_147_483_647)
    wanted = (
        msgspec.structs.replace(limited(1, out=SLOW, into=RateLimit(1)), dscp=46),
        limited(2, into=huge),
        msgspec.structs.replace(port(3), dscp=0),
    )
    put(host, *wanted)
    host.reopen()
    assert {one.id: one for one in wanted} == host.driver.observe().ports
    changed = (limited(1, into=SLOW), limited(2, out=RateLimit(1, 1), into=huge), port(3))
    put(host, *changed)
    host.reopen()
    assert {one.id: one for one in changed} == host.driver.observe().ports
    before = host.contents()
    put(host, *changed)
    assert before == host.contents()
    host.driver.apply(Plan(remove_ports=tuple(one.id for one in changed)))
    assert () == host.driver.observe().orphans


def test_limited_ports_answer_and_are_answered(pair: Pair) -> None:
    """Pings go both ways through both queues, on one host, across hosts and to the gateway."""
    here, there = pair
    a, b = limited(1, out=FAST, into=FAST), limited(2, out=FAST, into=FAST)
    far = limited(3, out=FAST, into=FAST)
    put(here, a, b, put_endpoints=as_endpoints(there, far), put_gateways=gateways())
    put(there, far, put_endpoints=as_endpoints(here, a, b), put_gateways=gateways())
    assert here.ping(a, "10.0.0.2")
    assert here.ping(a, "10.0.0.3")
    assert there.ping(far, "10.0.0.1")
    assert here.ping(a, "10.0.0.254")
    assert 0 == late(here, a)


def test_a_marked_ports_packets_carry_its_dscp(pair: Pair) -> None:
    """Whatever the workload wrote there; ECN stays, and the header's checksum is right. On one host and across."""
    here, there = pair
    a, b, far = msgspec.structs.replace(port(1), dscp=46), port(2), port(3)
    put(here, a, b, put_endpoints=as_endpoints(there, far))
    put(there, far, put_endpoints=as_endpoints(here, a, b))
    for host_, target in ((here, b), (there, far)):
        with here.wire(a) as sender, host_.wire(target) as receiver:
            sender.send(_with_tos(udp(a, target), 0x03))
            receiver.wait(_with_tos(udp(a, target), 46 << 2 | 0x03))


def _with_tos(frame: bytes, tos: int) -> bytes:
    head = frame[14:15] + bytes((tos,)) + frame[16:24] + b"\0\0" + frame[26:34]
    return frame[:14] + head[:10] + packets.internet_checksum(head).to_bytes(2, "big") + head[12:] + frame[34:]


def test_an_ipv6_packet_carries_its_ports_dscp(host: Host) -> None:
    """In its traffic class, which begins in the middle of a byte; the flow label beside it stays."""
    a, b = (
        msgspec.structs.replace(port(n), addresses=(Address(parse_ip(f"2001:db8::{n}"), 64, None),)) for n in (1, 2)
    )
    put(host, msgspec.structs.replace(a, dscp=0x2D), b)
    source, target = parse_ip("2001:db8::1"), parse_ip("2001:db8::2")
    packet = packets.ipv6(source, target, packets.udp(source, target, b"hello"), protocol=packets.UDP)
    plain = packets.ethernet(b.mac, a.mac, b"\x6a\xbb\xcd\xef" + packet[4:], packets.IPV6)
    with host.wire(a) as sender, host.wire(b) as receiver:
        sender.send(plain)
        receiver.wait(packets.ethernet(b.mac, a.mac, b"\x6b\x7b\xcd\xef" + packet[4:], packets.IPV6))
