"""The driver contract, load balancing: services spread over backends, kept, drained and answered, by every driver."""

import time

import msgspec
from tests.dataplane import packets
from tests.dataplane.contract_hosts import Host, Wire
from tests.dataplane.test_contract import VNI, Pair, as_endpoints, gateways, host, pair, port, put

from alcor.dataplane.base import Backend, LocalPort, Plan, Service, ServiceKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.maglev import maglev_table, place_of
from alcor.model.addresses import Ip, Mac, parse_ip

__all__ = ["host", "pair"]  # fixtures
VIP, VIP_MAC = "10.0.0.200", Mac(packets.mac(200))
WHERE = EndpointKey(VNI, parse_ip(VIP))
KEY = ServiceKey(VNI, parse_ip(VIP), 17, 53)


def client(number: int) -> LocalPort:
    """A port of a VPC with load balancers."""
    return msgspec.structs.replace(port(number), balanced=True)


def service(*backends: Backend, affinity: bool = False) -> Service:
    """UDP port 53 of the VIP."""
    return Service(KEY, tuple(sorted(backends, key=lambda one: (one.ip, one.port))), affinity)


def backend(number: int, weight: int = 1, *, failed: bool = False) -> Backend:
    """Port 5353 of 10.0.0.<number>."""
    return Backend(parse_ip(f"10.0.0.{number}"), 5353, weight, failed)


def frame(source: LocalPort, ends: tuple[Ip, Ip], to: Mac, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram on the link."""
    datagram = packets.udp(*ends, data, sport=ports[0], dport=ports[1])
    return packets.ethernet(to, source.mac, packets.ipv4(*ends, datagram, protocol=packets.UDP))


def asks(wire: Wire, source: LocalPort, sport: int, data: bytes) -> None:
    """A datagram from that port of the client to the VIP."""
    ends = source.addresses[0].ip, WHERE.ip
    wire.send(frame(source, ends, VIP_MAC, (sport, 53), data))


def asked(source: LocalPort, target: LocalPort, sport: int, data: bytes) -> bytes:
    """The same, as the backend gets it: only the destination is another."""
    ends = source.addresses[0].ip, target.addresses[0].ip
    return frame(source, ends, target.mac, (sport, 5353), data)


def answers(wire: Wire, source: LocalPort, target: LocalPort, dport: int, data: bytes) -> None:
    """The backend answers the client."""
    ends = source.addresses[0].ip, target.addresses[0].ip
    wire.send(frame(source, ends, target.mac, (5353, dport), data))


def answered(source: LocalPort, target: LocalPort, dport: int, data: bytes) -> bytes:
    """The same, as the client gets it: from the VIP."""
    ends = WHERE.ip, target.addresses[0].ip
    return frame(source, ends, target.mac, (53, dport), data)


def sport_for(source: LocalPort, wanted: int, *backends: Backend) -> int:
    """A source port whose connection goes to 10.0.0.<wanted>."""
    chosen = service(*backends).backends
    table = maglev_table(chosen)
    ip = source.addresses[0].ip
    return next(
        sport
        for sport in range(20_000, 30_000)
        if chosen[table[place_of(ip, sport)]].ip == parse_ip(f"10.0.0.{wanted}")
    )


def join(pair: Pair, *here: LocalPort, there: tuple[LocalPort, ...], known: Service) -> None:
    """The client's host with the service; both hosts know each other's ports."""
    put(
        pair[0],
        *here,
        put_endpoints=as_endpoints(pair[1], *there),
        put_gateways=gateways(),
        put_services=(known,),
        put_vips=((WHERE, VIP_MAC),),
    )
    put(pair[1], *there, put_endpoints=as_endpoints(pair[0], *here), put_gateways=gateways())


def test_services_are_observed(host: Host) -> None:
    """What was put is there, also for a driver that starts anew; what was removed is not."""
    first, second = service(backend(2), backend(3)), service(backend(2), affinity=True)
    put(host, put_services=(first,), put_vips=((WHERE, VIP_MAC),))
    host.reopen()
    observed = host.driver.observe()
    assert ({KEY: first.digest()}, {WHERE: VIP_MAC}) == (observed.services, observed.vips)
    assert () == observed.orphans
    put(host, put_services=(second,))
    assert {KEY: second.digest()} == host.driver.observe().services
    put(host, remove_services=(KEY, KEY._replace(port=54)), remove_vips=(WHERE,))
    observed = host.driver.observe()
    assert ({}, {}) == (observed.services, observed.vips)


def test_a_vip_answers_pings(host: Host) -> None:
    """Its MAC is told, and an echo request is answered, by the client's own host."""
    put(host, client(1), put_vips=((WHERE, VIP_MAC),), put_gateways=gateways())
    assert host.ping(client(1), VIP)


def test_a_connection_goes_there_and_back(pair: Pair) -> None:
    """To a backend of another host and of the same: only the client's host readdresses, both ways, and counts."""
    here, there = pair
    a, near, far = client(1), client(2), port(3)
    both = backend(2), backend(3)
    join(pair, a, near, there=(far,), known=service(*both))
    with here.wire(a) as wire, here.wire(near) as near_wire, there.wire(far) as far_wire:
        for target, its_wire, number in ((near, near_wire, 2), (far, far_wire, 3)):
            sport = sport_for(a, number, *both)
            asks(wire, a, sport, b"who")
            its_wire.wait(asked(a, target, sport, b"who"))
            answers(its_wire, target, a, sport, b"me")
            wire.wait(answered(target, a, sport, b"me"))
    counted = here.driver.service_counters()[KEY]
    assert (2, 2, 2) == (counted.connections, counted.packets_in, counted.packets_out)
    assert (2 * 45, 2 * 44) == (counted.bytes_in, counted.bytes_out)


def segment(source: LocalPort, ends: tuple[Ip, Ip], to: Mac, flags: int, *, back: bool = False) -> bytes:
    """TCP on the link, port 4000 to 80, or `back`: the two words changed about leave the checksum right."""
    raw = packets.tcp(*ends, flags=flags)
    raw = raw[2:4] + raw[:2] + raw[4:] if back else raw
    return packets.ethernet(to, source.mac, packets.ipv4(*ends, raw, protocol=packets.TCP))


def test_a_connection_that_its_backend_reset_has_ended_once(pair: Pair) -> None:
    """Also when the client goes on, so that what is remembered of it is written anew."""
    here, there = pair
    a, far = client(1), port(3)
    mine, its, vip = a.addresses[0].ip, far.addresses[0].ip, WHERE.ip
    key = ServiceKey(VNI, vip, packets.TCP, 80)
    join(pair, a, there=(far,), known=Service(key, (Backend(its, 80),), False))
    syn, ack, reset = 2, 16, 4
    with here.wire(a) as wire, there.wire(far) as far_wire:
        for flags in (syn, ack):
            wire.send(segment(a, (mine, vip), VIP_MAC, flags))
            far_wire.wait(segment(a, (mine, its), far.mac, flags))
            far_wire.send(segment(far, (its, mine), a.mac, reset, back=True))
            wire.wait(segment(far, (vip, mine), a.mac, reset, back=True))
            time.sleep(0.3)  # more than rows are left as they are
    counted = here.driver.service_counters()[key]
    assert (1, 1) == (counted.connections, counted.closed)


def test_a_backend_is_drained(pair: Pair) -> None:
    """Taken out, or of weight 0, it keeps its connection, and a new one of the same place goes elsewhere; failed, it
    loses UDP's at once."""
    here, there = pair
    a, far, other = client(1), port(3), port(4)
    both = backend(3), backend(4)
    join(pair, a, there=(far, other), known=service(*both))
    sport = sport_for(a, 3, *both)
    with here.wire(a) as wire, there.wire(far) as far_wire, there.wire(other) as other_wire:
        asks(wire, a, sport, b"one")
        far_wire.wait(asked(a, far, sport, b"one"))
        for changed in (service(backend(3, 0), backend(4)), service(backend(4))):
            put(here, put_services=(changed,))
            asks(wire, a, sport, b"two")
            far_wire.wait(asked(a, far, sport, b"two"))
        put(here, put_services=(service(backend(3, failed=True), backend(4)),))
        asks(wire, a, sport, b"three")
        other_wire.wait(asked(a, other, sport, b"three"))
        put(here, put_services=(service(*both),))
        asks(wire, a, sport, b"four")
        other_wire.wait(asked(a, other, sport, b"four"))


def test_without_a_service_or_a_backend_it_is_dropped(host: Host) -> None:
    """And counted at the client, by its reason; nothing is remembered of it."""
    a = client(1)
    put(host, a, put_vips=((WHERE, VIP_MAC),), put_gateways=gateways())
    with host.wire(a) as wire:
        asks(wire, a, 20_000, b"nobody")
        put(host, put_services=(service(backend(3, failed=True)),))
        asks(wire, a, 20_000, b"nobody")
        host.driver.apply(Plan(remove_services=(KEY,)))
        asks(wire, a, 20_000, b"nobody")
        assert host.ping(a, VIP)
    dropped = host.driver.counters()[a.id].dropped
    assert (2, 1) == (dropped["no_listener"], dropped["no_backend"])
