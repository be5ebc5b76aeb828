"""The driver contract, limits of external addresses: their own packets wait, whatever the limits of ports, and nothing
else does. Held against every driver."""

import time
from contextlib import ExitStack

import msgspec
import pytest
from tests.dataplane import packets
from tests.dataplane.contract_hosts import WORLD_MAC, Host
from tests.dataplane.test_contract import Pair, host, pair, port, put
from tests.dataplane.test_contract_lb import backend, service
from tests.dataplane.test_contract_nat import CLIENT, EIP, OTHER_EIP, WAYS, leaving, with_eip, with_forwardings
from tests.dataplane.test_contract_qos import BIG, CHATTER, COUNT, FAST, SLOW, SOCKETS, flood, late, settled
from tests.dataplane.test_contract_vip import anchor, answered, answers, asked, asks, left, member, serve

from alcor.dataplane.base import EipLimit, LocalPort, Plan, RateLimit
from alcor.model.addresses import parse_ip

__all__ = ["host", "pair"]  # fixtures
INSIDE = 5353
"""The port that 53 of a forwarding's external address leads to."""


def limited(one: LocalPort, *, out: RateLimit | None = None, into: RateLimit | None = None) -> LocalPort:
    """The port, whose external address has limits."""
    return msgspec.structs.replace(one, eip_limits=(EipLimit(parse_ip(EIP), out, into),))


def forwarded(number: int) -> LocalPort:
    """A port with a forwarding."""
    return with_forwardings(port(number), (53, INSIDE))


def outside_late(host: Host, one: LocalPort) -> int:
    """Packets of the port that found no room in a queue of its external address."""
    return host.driver.counters()[one.id].dropped.get("eip_rate_limit", 0)


def flood_in(host: Host, target: str = EIP) -> int:
    """COUNT datagrams from outside as fast as they can be sent; how many of them a SLOW queue takes at most."""
    begun = time.monotonic()
    packet = packets.ipv4(CLIENT, target, packets.udp(CLIENT, target, BIG, sport=4000, dport=53))
    with ExitStack() as stack:
        worlds = [stack.enter_context(host.world()) for _ in range(SOCKETS)]  # as in `flood`
        for number in range(COUNT):
            worlds[number % SOCKETS].send(packets.ethernet(worlds[0].mac, WORLD_MAC, packet))
    return 225 + int(100 * (time.monotonic() - begun))


def flood_out(host: Host, source: LocalPort) -> int:
    """The same, from the port to the outside."""
    begun = time.monotonic()
    ip = source.addresses[0].ip
    packet = packets.ipv4(ip, CLIENT, packets.udp(ip, CLIENT, BIG, sport=INSIDE, dport=4000))
    with ExitStack() as stack:
        wires = [stack.enter_context(host.wire(source)) for _ in range(SOCKETS)]  # as in `flood`
        for number in range(COUNT):
            wires[number % SOCKETS].send(packets.ethernet(packets.ROUTER, source.mac, packet))
    return 225 + int(100 * (time.monotonic() - begun))


def test_limits_are_observed(host: Host) -> None:
    """What was put is there, also for a driver that starts anew; changed in place; gone without a trace."""
    ports = [
        limited(with_eip(port(1), EIP), out=SLOW, into=FAST),
        port(2),
    ]
    put(host, *ports)
    host.reopen()
    assert {one.id: one for one in ports} == host.driver.observe().ports
    for one in (
        limited(with_eip(port(1), EIP), into=SLOW),
        limited(with_eip(port(1), EIP), out=RateLimit(1)),
        with_eip(port(1), EIP),
        limited(forwarded(1), out=SLOW, into=RateLimit(2_147_483_647)),
        limited(forwarded(1), out=FAST),
    ):
        put(host, one)
        host.reopen()
        assert one == host.driver.observe().ports[one.id]
        before = host.contents()
        put(host, one)
        assert before == host.contents()
    put(host, port(1), limited(with_eip(port(2), EIP), out=SLOW, into=SLOW))
    assert limited(with_eip(port(2), EIP), out=SLOW, into=SLOW) == host.driver.observe().ports[port(2).id]
    host.driver.apply(Plan(remove_ports=(port(1).id, port(2).id)))
    assert () == host.driver.observe().orphans


@pytest.mark.parametrize("kind", ["eip", "forwarding"])
def test_what_comes_in_too_fast_is_dropped_and_counted(host: Host, kind: str) -> None:
    """Of a flood so much comes through as the burst and the queue hold; the rest is counted at the address's port, and
    apart from what the port's own limits drop."""
    one = limited(with_eip(port(1), EIP) if kind == "eip" else forwarded(1), into=SLOW)
    put(host, one, **WAYS)
    most = flood_in(host)
    came = settled(host, one)
    assert 190 <= came <= most + CHATTER
    assert abs(COUNT - came - outside_late(host, one)) <= CHATTER
    assert 0 == late(host, one)


@pytest.mark.parametrize("kind", ["eip", "forwarding"])
def test_what_leaves_too_fast_is_dropped_and_counted(host: Host, kind: str) -> None:
    """The same the other way. The port itself is not limited: all that it sent counts as sent."""
    one = limited(with_eip(port(1), EIP) if kind == "eip" else forwarded(1), out=SLOW)
    put(host, one, **WAYS)
    most = flood_out(host, one)
    time.sleep(0.1)
    dropped = outside_late(host, one)
    assert COUNT - most - CHATTER <= dropped <= COUNT - 190 + CHATTER
    assert COUNT <= host.driver.counters()[one.id].sent_packets <= COUNT + CHATTER
    assert 0 == late(host, one)


def test_traffic_inside_is_not_touched(host: Host) -> None:
    """What goes from port to port in a VPC does not wait for the external address of either; nor does another
    external address."""
    one = limited(with_eip(port(1), EIP), out=SLOW, into=SLOW)
    other, free = port(2), with_eip(port(3), OTHER_EIP)
    put(host, one, other, free, **WAYS)
    flood(host, one, other, COUNT)
    flood(host, other, one, COUNT)
    assert COUNT <= settled(host, other) <= COUNT + CHATTER
    assert COUNT <= settled(host, one) <= COUNT + CHATTER
    flood_in(host, OTHER_EIP)
    assert COUNT <= settled(host, free) <= COUNT + CHATTER
    assert (0, 0) == (outside_late(host, one), outside_late(host, free))


@pytest.mark.parametrize("slower", ["port", "eip"])
def test_packets_wait_for_both(host: Host, slower: str) -> None:
    """A port with a limit of its own: what comes passes the address's, then the port's; the slower one decides."""
    own, outer = (SLOW, FAST) if slower == "port" else (FAST, SLOW)
    one = msgspec.structs.replace(
        limited(with_eip(port(1), EIP), out=outer, into=outer), ingress_limit=own, egress_limit=own
    )
    put(host, one, **WAYS)
    most = flood_in(host)
    came = settled(host, one)
    assert 190 <= came <= most + CHATTER
    dropped = late(host, one), outside_late(host, one)
    assert 0 == dropped[slower == "port"]
    assert abs(COUNT - came - sum(dropped)) <= CHATTER


def test_limited_addresses_are_reached(host: Host) -> None:
    """From outside, by a neighbour with one, and by its own port: every packet waits at both, and goes on."""
    one = limited(with_eip(port(1), EIP), out=FAST, into=FAST)
    two = msgspec.structs.replace(
        with_eip(port(2), OTHER_EIP), eip_limits=(EipLimit(parse_ip(OTHER_EIP), FAST, FAST),), egress_limit=FAST
    )
    put(host, one, two, **WAYS)
    with host.world() as world, host.wire(one) as wire:
        asks(world, 4000, b"which?")
        inside = packets.ipv4(
            CLIENT, "10.0.0.1", packets.udp(CLIENT, "10.0.0.1", b"which?", sport=4000, dport=53), ttl=63
        )
        wire.wait(packets.ethernet(one.mac, packets.ROUTER, inside))
        sent = packets.ipv4("10.0.0.1", CLIENT, packets.udp("10.0.0.1", CLIENT, b"that", sport=53, dport=4000))
        wire.send(packets.ethernet(packets.ROUTER, one.mac, sent))
        assert answered(4000, b"that") == left(world)
    assert host.ping(one, OTHER_EIP)
    assert host.ping(two, EIP)
    assert host.ping(one, EIP)


def test_a_load_balancers_address_is_limited_where_it_is_answered(pair: Pair) -> None:
    """Both ways by the host of its EIP, though the backend is on another, which has no EIP and no queue."""
    near, far = pair
    one, other = limited(anchor(port(1)), out=FAST, into=FAST), member(port(2))
    known = service(backend(2))
    serve(near, one, known=known, there=(far, other))
    serve(far, other, known=known, there=(near, one))
    with near.world() as world, far.wire(other) as wire:
        asks(world, 4000, b"which?")
        wire.wait(asked(other, 4000, b"which?"))
        answers(wire, other, 4000, b"that")
        assert answered(4000, b"that") == left(world)
    put(near, limited(anchor(port(1)), into=SLOW))
    before = settled(far, other)
    most = flood_in(near)
    came = settled(far, other) - before
    assert 190 <= came <= most + CHATTER
    assert abs(COUNT - came - outside_late(near, one)) <= CHATTER


def test_limits_act_at_once_on_running_traffic(host: Host) -> None:
    """A limit that comes, changes or goes does so for the next packet."""
    one = with_eip(port(1), EIP)
    put(host, one, **WAYS)
    flood_in(host)
    came = settled(host, one)
    assert COUNT <= came <= COUNT + CHATTER
    for limit in (SLOW, FAST, None):
        put(host, limited(one, into=limit) if limit else one)
        most = flood_in(host)
        before, came = came, settled(host, one)
        least, most = (190, most) if limit is SLOW else (COUNT, COUNT)
        assert least <= came - before <= most + CHATTER


def test_a_limited_address_moves(host: Host) -> None:
    """To another port of the host: its queue there is its own, and the old one is gone."""
    one, two = limited(with_eip(port(1), EIP), into=SLOW), leaving(port(2))
    put(host, one, two, **WAYS)
    put(host, leaving(port(1)), limited(with_eip(port(2), EIP), into=FAST))
    flood_in(host)
    came = settled(host, two)
    assert COUNT <= came <= COUNT + CHATTER
    assert () == host.driver.observe().orphans
