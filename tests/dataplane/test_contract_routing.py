"""The driver contract, routing: routes between VNIs, next hops, blackholes, translated identities, for every driver."""

import msgspec
from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, Host
from tests.dataplane.test_contract import (
    NEAR,
    OTHER_VNI,
    VNI,
    Pair,
    as_endpoints,
    gateways,
    host,
    pair,
    port,
    put,
)

from alcor.dataplane.base import (
    NO_ADDRESS,
    Address,
    Hop,
    LocalPort,
    Plan,
    Policy,
    PolicyKey,
    Route,
    RouteKey,
    RouteKind,
    Rule,
    TranslationKey,
)
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import ROUTER_MAC, parse_ip, parse_prefix

__all__ = ["host", "pair"]  # fixtures
HERE, THERE, BEHIND = parse_prefix("10.0.0.0/24"), parse_prefix("10.0.1.0/24"), parse_prefix("192.0.2.0/24")


def traveller(number: int, *ips: str, vni: int = VNI, identity: int = 0, **fields: object) -> LocalPort:
    """A port whose packets may leave its VNI."""
    one = port(number, *ips, vni=vni)
    return msgspec.structs.replace(one, routes=True, identity=identity, **fields)


def connected(vni: int, mtu: int = 1400) -> Route:
    """To whoever has the destination in that VNI."""
    return Route(RouteKind.CONNECTED, (Hop(vni, mtu, NO_ADDRESS),))


def through(*hops: str, vni: int = VNI) -> Route:
    """By next hops."""
    return Route(RouteKind.HOPS, tuple(Hop(vni, 1400, parse_ip(hop)) for hop in hops))


ROUTES = (
    (RouteKey(VNI, HERE), connected(VNI)),
    (RouteKey(VNI, THERE), connected(OTHER_VNI)),
    (RouteKey(OTHER_VNI, HERE), connected(VNI)),
    (RouteKey(OTHER_VNI, THERE), connected(OTHER_VNI)),
)
"""Two VNIs with a subnet each, and a router between them."""


def known(host: Host, *ports: LocalPort) -> tuple[tuple[EndpointKey, Endpoint], ...]:
    """How other hosts know these ports, identity included."""
    return tuple(
        (key, msgspec.structs.replace(end, identity=one.identity))
        for one in ports
        for key, end in as_endpoints(host, one)
    )


def test_routes_are_observed(host: Host) -> None:
    """What was put is there, of every kind and family, also for a driver that starts anew; what was removed is not."""
    rows = (
        *ROUTES,
        (RouteKey(VNI, parse_prefix("0.0.0.0/0")), through("10.0.0.7", "10.0.0.8", "10.0.0.9")),
        (RouteKey(VNI, parse_prefix("::/0")), Route(RouteKind.BLACKHOLE)),
        (RouteKey(VNI, parse_prefix("2001:db8::/64")), connected(OTHER_VNI)),
    )
    named = ((TranslationKey(VNI, 1, OTHER_VNI), 7), (TranslationKey(OTHER_VNI, 7, VNI), 1))
    put(host, traveller(1), put_routes=rows, put_translations=named)
    host.reopen()
    observed = host.driver.observe()
    assert (dict(rows), dict(named)) == (observed.routes, observed.translations)
    assert {traveller(1).id: traveller(1)} == observed.ports
    changed = (rows[4][0], through("10.0.0.7"))
    gone = tuple(key for key, _ in rows[:4])
    put(host, put_routes=(changed,), remove_routes=(*gone, RouteKey(9, HERE)), remove_translations=(named[0][0],))
    observed = host.driver.observe()
    assert dict((changed, *rows[5:])) == observed.routes
    assert dict(named[1:]) == observed.translations


def test_a_router_joins_two_vpcs(pair: Pair) -> None:
    """Ports of two VNIs ping each other on one host and across hosts, and each other's gateways; without routes, no."""
    here, there = pair
    a, b = traveller(1), traveller(2, "10.0.1.2", vni=OTHER_VNI)
    far, stranger = traveller(3, "10.0.1.3", vni=OTHER_VNI), port(4)
    both = {"put_routes": ROUTES, "put_gateways": (*gateways()[:1], *gateways(OTHER_VNI)[1:])}
    put(here, a, b, stranger, put_endpoints=known(there, far), **both)
    put(there, far, put_endpoints=known(here, a, b, stranger), **both)
    for target in ("10.0.1.2", "10.0.1.3", "10.0.1.254", NEAR):
        assert here.ping(a, target), target
    assert there.ping(far, "10.0.0.1")
    assert not here.ping(stranger, "10.0.1.2", MISS_S)
    assert 1 <= here.driver.counters()[stranger.id].dropped["no_endpoint"]
    put(here, remove_routes=(RouteKey(VNI, THERE),))
    assert not here.ping(a, "10.0.1.3", MISS_S)
    assert 1 <= here.driver.counters()[a.id].dropped["no_route"]


def test_the_longest_prefix_has_the_packet(host: Host) -> None:
    """A blackhole inside a subnet, a way back into it inside the blackhole."""
    a, b, c = traveller(1), traveller(2, "10.0.1.2", vni=OTHER_VNI), traveller(3, "10.0.1.3", vni=OTHER_VNI)
    hole = (RouteKey(VNI, parse_prefix("10.0.1.0/28")), Route(RouteKind.BLACKHOLE))
    spared = (RouteKey(VNI, parse_prefix("10.0.1.3/32")), connected(OTHER_VNI))
    put(host, a, b, c, put_routes=(*ROUTES, hole, spared), put_gateways=(*gateways(), *gateways(OTHER_VNI)))
    assert host.ping(a, "10.0.1.3")
    assert not host.ping(a, "10.0.1.2", MISS_S)
    assert 1 <= host.driver.counters()[a.id].dropped["blackhole"]


def test_a_next_hop_is_given_what_is_for_others(pair: Pair) -> None:
    """A packet whose destination nobody has goes to the port of the route, on this host and on another."""
    here, there = pair
    a, near, far = traveller(1), traveller(5), traveller(6)
    put(here, a, near, put_routes=(*ROUTES, (RouteKey(VNI, BEHIND), through("10.0.0.5"))))
    put(there, far)
    packet = packets.ipv4("10.0.0.1", "192.0.2.9", packets.udp("10.0.0.1", "192.0.2.9", b"x"), protocol=packets.UDP)
    rewritten = packets.ipv4(
        "10.0.0.1", "192.0.2.9", packets.udp("10.0.0.1", "192.0.2.9", b"x"), protocol=packets.UDP, ttl=63
    )
    sent = packets.ethernet(ROUTER_MAC, a.mac, packet)
    with here.wire(a) as sender, here.wire(near) as receiver:
        sender.send(sent)
        receiver.wait(packets.ethernet(near.mac, ROUTER_MAC, rewritten))
    moved = {"put_endpoints": known(there, far), "put_routes": ((RouteKey(VNI, BEHIND), through("10.0.0.6")),)}
    put(here, **moved)
    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(sent)
        receiver.wait(packets.ethernet(far.mac, ROUTER_MAC, rewritten))


def test_flows_share_next_hops(host: Host) -> None:
    """Each flow has one of several next hops, always the same; together they use all of them."""
    a, hops = traveller(1), [traveller(number) for number in (5, 6, 7)]
    shared = (RouteKey(VNI, BEHIND), through("10.0.0.5", "10.0.0.6", "10.0.0.7"))
    put(host, a, *hops, put_routes=(*ROUTES, shared))
    with host.wire(a) as sender:
        for _ in range(2):
            for sport in range(2000, 2040):
                data = packets.udp("10.0.0.1", "192.0.2.9", b"x", sport=sport)
                packet = packets.ipv4("10.0.0.1", "192.0.2.9", data, protocol=packets.UDP)
                sender.send(packets.ethernet(ROUTER_MAC, a.mac, packet))
    counters = host.driver.counters()
    received = [counters[hop.id].received_packets for hop in hops]
    assert 80 == sum(received)
    assert all(count and not count % 2 for count in received), received


def test_groups_hold_across_vpcs(pair: Pair) -> None:
    """A rule that names a group lets its members of the other VPC in, by what stands for them there; others not."""
    here, there = pair
    member, other = traveller(1, identity=1), traveller(2, identity=2)
    target, far = (traveller(n, f"10.0.1.{n}", vni=OTHER_VNI, identity=7) for n in (3, 4))

    def policies(vni: int, identity: int, *friends: int) -> Policy:
        out = Rule(True, 4, None, 0, 0xFFFF, None, friends or None)
        return Policy(PolicyKey(vni, identity), (out, Rule(False, 4, None, 0, 0xFFFF, None, friends)))

    rest = {
        "put_routes": ROUTES,
        "put_gateways": (*gateways(), *gateways(OTHER_VNI)),
        # Groups {g} are 1 in one VPC and 7 in the other; what 2 stands for nobody there has.
        "put_translations": ((TranslationKey(VNI, 1, OTHER_VNI), 7), (TranslationKey(OTHER_VNI, 7, VNI), 1)),
        "put_policies": (policies(VNI, 1, 1), policies(VNI, 2), policies(OTHER_VNI, 7, 7)),
    }
    put(here, member, other, target, put_endpoints=known(there, far), **rest)
    put(there, far, put_endpoints=known(here, member, other, target), **rest)
    for address in ("10.0.1.3", "10.0.1.4"):
        assert here.ping(member, address)
        assert not here.ping(other, address, MISS_S)
    assert 1 <= there.driver.counters()[far.id].dropped["policy_ingress"]
    # Its group gone, it is nobody there: at once.
    put(here, remove_translations=(TranslationKey(VNI, 1, OTHER_VNI), TranslationKey(OTHER_VNI, 7, VNI)))
    assert not here.ping(member, "10.0.1.4", MISS_S)
    assert 1 <= here.driver.counters()[member.id].dropped["policy_egress"]


def test_containers_are_told_host_routes(host: Host) -> None:
    """Routes of a subnet come and go with the port as it is; the port stays."""
    plain = traveller(1, "10.0.0.1", "10.0.1.1")
    told = (parse_ip("192.0.2.0"), 24), (parse_ip("198.51.100.0"), 25)
    addresses = (plain.addresses[0], msgspec.structs.replace(plain.addresses[1], routes=told))
    routed = msgspec.structs.replace(plain, addresses=addresses)
    for one in (plain, routed, plain, routed):
        put(host, one)
        assert {one.id: one} == host.driver.observe().ports
    there = ((RouteKey(VNI, BEHIND), through("10.0.0.2")),)
    put(host, traveller(2), put_routes=there, put_gateways=gateways())
    with host.wire(routed), host.wire(traveller(2)):
        assert not host.ping(routed, "192.0.2.9", MISS_S)
    assert 1 <= host.driver.counters()[traveller(2).id].received_packets


def test_removed_ports_leave_no_mac_behind(host: Host) -> None:
    """A port's MAC is found while it is carried only, also when another takes it over."""
    one = traveller(1)
    put(host, one)
    taken = msgspec.structs.replace(traveller(2), mac=one.mac)
    put(host, taken, remove_ports=(one.id,))
    assert ({taken.id: taken}, ()) == ((found := host.driver.observe()).ports, found.orphans)
    put(host, remove_ports=(taken.id,))
    host.reopen()
    assert ({}, ()) == ((found := host.driver.observe()).ports, found.orphans)
    assert host.driver.apply(Plan()).error == ""


def router_error(kind: int, code: int, packet: bytes) -> bytes:
    """What the router of NEAR's subnet tells 10.0.0.1 of its packet."""
    bare = bytes((kind, code)) + bytes(6) + packet[: 68 if len(packet) >= 68 else 28]
    told = bare[:2] + packets.internet_checksum(bare).to_bytes(2, "big") + bare[4:]
    return packets.ipv4(NEAR, "10.0.0.1", told, protocol=packets.ICMP, ttl=64)


def test_the_router_tells_what_it_cannot_pass_on(host: Host) -> None:
    """TTL that runs out, no route, a blackhole, nobody there: an ICMP error from the subnet's gateway, and a counted
    drop. Of an error it tells nothing."""
    a = traveller(1)
    hole = (RouteKey(VNI, parse_prefix("198.51.100.0/24")), Route(RouteKind.BLACKHOLE))
    put(host, a, put_routes=(*ROUTES, hole), put_gateways=(*gateways(), *gateways(OTHER_VNI)))
    cases = (
        *(("10.0.1.9", 1, 11, 0, 40), ("203.0.113.9", 64, 3, 0, 8)),
        *(("198.51.100.9", 64, 3, 0, 90), ("10.0.1.9", 64, 3, 1, 60)),
    )
    with host.wire(a) as wire:
        for target, ttl, kind, code, size in cases:
            data = packets.udp("10.0.0.1", target, bytes(size))
            packet = packets.ipv4("10.0.0.1", target, data, protocol=packets.UDP, ttl=ttl)
            quiet = packets.icmp_echo(kind=3, data=packet)
            quiet = packets.ipv4("10.0.0.1", target, quiet, protocol=packets.ICMP, ttl=ttl)
            wire.send(packets.ethernet(ROUTER_MAC, a.mac, quiet))
            wire.send(packets.ethernet(ROUTER_MAC, a.mac, packet))
            seen = wire.wait(packets.ethernet(a.mac, ROUTER_MAC, router_error(kind, code, packet)))
            assert 1 == sum(frame[26:30] == packets.ip4(NEAR) for frame in seen)
    dropped = host.driver.counters()[a.id].dropped
    reasons = ("ttl_exceeded", "no_route", "blackhole", "no_endpoint")
    assert (2, 2, 2, 2) == tuple(dropped[reason] for reason in reasons)


def test_the_router_tells_in_ipv6_too(host: Host) -> None:
    """RFC 4443: time exceeded and no route, from the port's own gateway."""
    a = msgspec.structs.replace(
        traveller(1), addresses=(Address(parse_ip("2001:db8::1"), 64, parse_ip("2001:db8::fe")),)
    )
    put(host, a)
    with host.wire(a) as wire:
        for hops, kind in ((1, 3), (64, 1)):
            data = packets.ports(packets.UDP, 4000, 5000, data=bytes(8))
            packet = packets.ipv6("2001:db8::1", "2001:db8:9::9", data, protocol=packets.UDP, hops=hops)
            wire.send(packets.ethernet(ROUTER_MAC, a.mac, packet, packets.IPV6))
            told = packets.icmpv6("2001:db8::fe", "2001:db8::1", kind, bytes(4) + packet[:48])
            error = packets.ipv6("2001:db8::fe", "2001:db8::1", told, protocol=packets.ICMPV6, hops=64)
            wire.wait(packets.ethernet(a.mac, ROUTER_MAC, error, packets.IPV6))
