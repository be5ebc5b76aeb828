"""The driver contract, a load balancer's address behind an EIP: balanced where the EIP is, answered through there."""

import msgspec
from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, WORLD_MAC, Host, Wire, World
from tests.dataplane.test_contract import Pair, as_endpoints, host, pair, port, put
from tests.dataplane.test_contract_lb import VIP_MAC, WHERE, backend, service
from tests.dataplane.test_contract_nat import CLIENT, EIP, ROUTER, WAYS, leaving, ping

from alcor.dataplane.base import LocalPort, Service
from alcor.model.addresses import parse_ip
from alcor.model.nouns import Eip

__all__ = ["host", "pair"]  # fixtures


def anchor(one: LocalPort) -> LocalPort:
    """The port that the EIP of the load balancer's address is with."""
    eip = Eip(parse_ip(EIP), WHERE.ip, 24, parse_ip(ROUTER))
    return msgspec.structs.replace(member(one), eips=(eip,))


def member(one: LocalPort) -> LocalPort:
    """A port of a VPC with load balancers and a way outside."""
    return leaving(msgspec.structs.replace(one, balanced=True))


def serve(host: Host, *ports: LocalPort, known: Service, there: tuple[Host, LocalPort] | None = None) -> None:
    """The host with these ports, the service, and a port of another host."""
    ends = as_endpoints(*there) if there is not None else ()
    put(host, *ports, put_vips=((WHERE, VIP_MAC),), put_services=(known,), put_endpoints=ends, **WAYS)


def asks(world: World, sport: int, data: bytes, dport: int = 53) -> None:
    """A datagram from outside to the EIP."""
    sent = packets.ipv4(CLIENT, EIP, packets.udp(CLIENT, EIP, data, sport=sport, dport=dport))
    world.send(packets.ethernet(world.mac, WORLD_MAC, sent))


def asked(one: LocalPort, sport: int, data: bytes) -> bytes:
    """The same, as the backend gets it."""
    ip = one.addresses[0].ip
    inside = packets.ipv4(CLIENT, ip, packets.udp(CLIENT, ip, data, sport=sport, dport=5353), ttl=63)
    return packets.ethernet(one.mac, packets.ROUTER, inside)


def answers(wire: Wire, one: LocalPort, dport: int, data: bytes) -> None:
    """The backend answers, through its gateway."""
    ip = one.addresses[0].ip
    sent = packets.ipv4(ip, CLIENT, packets.udp(ip, CLIENT, data, sport=5353, dport=dport))
    wire.send(packets.ethernet(packets.ROUTER, one.mac, sent))


def answered(dport: int, data: bytes) -> bytes:
    """The same, as it leaves: from the EIP."""
    return packets.ipv4(EIP, CLIENT, packets.udp(EIP, CLIENT, data, sport=53, dport=dport), ttl=63)


def left(world: World, timeout_s: float | None = None) -> bytes | None:
    """What leaves from the EIP but for errors: nobody listens in the workload, whose stack says so."""
    while True:
        packet = world.wait(EIP) if timeout_s is None else world.wait(EIP, timeout_s)
        if packet is None or packet[9] != packets.ICMP:
            return packet


def test_it_is_observed_as_it_was_put(host: Host) -> None:
    """The port that the EIP is with comes back equal, also for a driver that starts anew; and without it."""
    one = anchor(port(1))
    serve(host, one, known=service(backend(1)))
    host.reopen()
    assert {one.id: one} == host.driver.observe().ports
    put(host, member(port(1)))
    assert {one.id: member(port(1))} == host.driver.observe().ports


def test_a_backend_of_the_eips_host(host: Host) -> None:
    """What comes to a listener's port reaches the backend with the client's address; its answer comes from the EIP.
    Another port reaches nobody; a ping is answered for the load balancer."""
    one = anchor(port(1))
    serve(host, one, known=service(backend(1)))
    with host.world() as world, host.wire(one) as wire:
        asks(world, 4000, b"nobody", dport=54)
        asks(world, 4000, b"which?")
        frames = wire.wait(asked(one, 4000, b"which?"))
        assert 1 == sum(frame[12:14] == b"\x08\0" for frame in frames)
        answers(wire, one, 4000, b"that")
        assert answered(4000, b"that") == left(world)
        world.send(ping(world, EIP))
        answer = world.wait(EIP)
        while answer is not None and answer[20]:  # errors of the workload's stack
            answer = world.wait(EIP)
        assert answer is not None
        assert (0, packets.ip4(CLIENT)) == (packets.internet_checksum(answer[20:]), answer[16:20])


def test_a_backend_of_another_host(pair: Pair) -> None:
    """The EIP's host balances, tunnels, and gets the answer back, which leaves there and nowhere else; the backend's
    host needs no EIP."""
    near, far = pair
    one, other = anchor(port(1)), member(port(2))
    known = service(backend(2))
    serve(near, one, known=known, there=(far, other))
    serve(far, other, known=known, there=(near, one))
    with near.world() as world, far.world() as elsewhere, far.wire(other) as wire:
        asks(world, 4000, b"which?")
        wire.wait(asked(other, 4000, b"which?"))
        answers(wire, other, 4000, b"that")
        assert answered(4000, b"that") == left(world)
        assert elsewhere.wait(EIP, MISS_S) is None


def test_the_eip_moves(pair: Pair) -> None:
    """To the backend's own host: the next packet of the same client arrives by there, and its answer leaves there."""
    near, far = pair
    one, other = anchor(port(1)), member(port(2))
    known = service(backend(2))
    serve(near, one, known=known, there=(far, other))
    serve(far, other, known=known, there=(near, one))
    with near.world() as before, far.world() as after, far.wire(other) as wire:
        asks(before, 4000, b"here")
        wire.wait(asked(other, 4000, b"here"))
        put(near, member(port(1)))
        put(far, anchor(port(2)))
        asks(after, 4000, b"there")
        wire.wait(asked(other, 4000, b"there"))
        answers(wire, other, 4000, b"that")
        assert answered(4000, b"that") == left(after)
        assert left(before, MISS_S) is None


def test_without_the_eip_nothing_comes_and_nothing_leaves(host: Host) -> None:
    """An answer that is late, once the EIP is taken away, stays inside; nor does a new connection come in."""
    one = anchor(port(1))
    serve(host, one, known=service(backend(1)))
    with host.world() as world, host.wire(one) as wire:
        asks(world, 4000, b"which?")
        wire.wait(asked(one, 4000, b"which?"))
        put(host, member(port(1)))
        answers(wire, one, 4000, b"late")
        assert left(world, MISS_S) is None


def test_no_backend_no_answer(host: Host) -> None:
    """With no member that takes connections nothing arrives; once there is one it does."""
    one = anchor(port(1))
    serve(host, one, known=service(backend(1, failed=True)))
    with host.world() as world, host.wire(one) as wire:
        asks(world, 4000, b"lost")
        asks(world, 4001, b"lost")
        put(host, put_services=(service(backend(1)),))
        asks(world, 4002, b"found")
        frames = wire.wait(asked(one, 4002, b"found"))
        assert 1 == sum(frame[12:14] == b"\x08\0" for frame in frames)
