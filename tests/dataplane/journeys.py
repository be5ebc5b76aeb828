"""Random routes between VNIs, and packets that take them. Pure. Called by worlds."""

import random

from tests.dataplane import packets, talks

from alcor.dataplane.base import NO_ADDRESS, Hop, Route, RouteKey, RouteKind, TranslationKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.tables import LocalFlag, MacKey, PortFlag, Tables
from alcor.model.addresses import Ip, ip_version, parse_ip, parse_prefix

ROUTED_TO = {
    4: ("0.0.0.0/0", "10.0.0.0/23", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.8/29", "10.0.1.5/32", "192.0.2.0/24"),
    6: ("::/0", "2001:db8::/64", "2001:db8::1:0/112", "2001:db8::5/128", "2001:db8::8/125", "fd00::/8"),
}
STRANGERS = {4: ("192.0.2.1", "198.51.100.7", "10.0.1.5", "10.0.0.9"), 6: ("fd00::7", "2001:db9::1", "2001:db8::5")}


def random_routes(rng: random.Random, tables: Tables, vnis: tuple[int, ...]) -> None:
    """Routes of every kind and number of hops, translations of some identities, the ports by their MACs."""
    for vni in vnis:
        for version in (4, 6):
            for text in ROUTED_TO[version]:
                if rng.random() < 0.5:
                    tables.routes[RouteKey(vni, parse_prefix(text))] = _route(rng, tables, vnis, version)
        for identity in talks.IDENTITIES:
            for to in vnis:
                if to != vni and rng.random() < 0.8:
                    tables.translations[TranslationKey(vni, identity, to)] = rng.choice(talks.IDENTITIES)
    for ifindex, port in tables.ports.items():
        (row,) = {row for row in tables.local.values() if (row.ifindex, row.mac) == (ifindex, port.mac)}
        tables.macs[MacKey(port.vni, port.mac)] = row


def _route(rng: random.Random, tables: Tables, vnis: tuple[int, ...], version: int) -> Route:
    kind = rng.choice(
        (
            RouteKind.CONNECTED,
            RouteKind.CONNECTED,
            RouteKind.HOPS,
            RouteKind.HOPS,
            RouteKind.BLACKHOLE,
            RouteKind.OUTSIDE,
        )
    )
    if kind in (RouteKind.BLACKHOLE, RouteKind.OUTSIDE):
        return Route(kind)
    if kind is RouteKind.CONNECTED:
        return Route(kind, (Hop(rng.choice(vnis), rng.choice((1450, 1450, 90)), NO_ADDRESS),))
    count = rng.choice((1, 2, 3, 5, 8))
    return Route(kind, tuple(_hop(rng, tables, vnis, version) for _ in range(count)))


def _hop(rng: random.Random, tables: Tables, vnis: tuple[int, ...], version: int) -> Hop:
    known = sorted(key for one in (tables.local, tables.remote) for key in one if ip_version(key.ip) == version)
    stranger = EndpointKey(rng.choice(vnis), parse_ip(STRANGERS[version][1]))
    key = rng.choice(known) if known and rng.random() < 0.9 else stranger
    return Hop(key.vni, rng.choice((1450, 1450, 100)), key.ip)


def random_journey(rng: random.Random, tables: Tables) -> tuple[int, bytes]:
    """A packet that a port sends to the router, or one out of the tunnel for somebody behind a port."""
    travellers = [one for one in sorted(tables.ports.items()) if one[1].flags & PortFlag.ROUTES]
    ifindex, port = rng.choice(travellers or sorted(tables.ports.items()))
    own = sorted(key.ip for key, row in tables.local.items() if row.ifindex == ifindex)
    source = rng.choice(own)
    version = ip_version(source)
    known = sorted({key.ip for one in (tables.local, tables.remote) for key in one if ip_version(key.ip) == version})
    gateways = sorted(key.ip for key, row in tables.local.items() if row.flags & LocalFlag.GATEWAY)
    gateways = [ip for ip in gateways if ip_version(ip) == version]
    destination = rng.choice((*rng.sample(known, min(6, len(known))), *map(parse_ip, STRANGERS[version])))
    protocol, payload = _payload(rng, source, destination)
    if gateways and rng.random() < 0.1:
        destination = rng.choice(gateways)
        protocol, payload = _ping(rng, source, destination)
    hops = rng.choice((64, 64, 64, 2, 1))
    if version == 4:
        fragment = rng.choice((0x4000, 0x4000, 0x4000, 0, 0x2000, 7))
        packet = packets.ipv4(source, destination, payload, protocol=protocol, ttl=hops, fragment=fragment)
    else:
        packet = packets.ipv6(source, destination, payload, protocol=protocol, hops=hops)
    ethertype = packets.IPV4 if version == 4 else packets.IPV6
    if rng.random() < 0.7:
        return ifindex, packets.ethernet(packets.ROUTER, port.mac, packet, ethertype)
    inner = packets.ethernet(port.mac, packets.ROUTER, packet, ethertype)
    identity = rng.choice((0, *talks.IDENTITIES))
    head = bytes((0x88 if identity else 0x08, 0)) + identity.to_bytes(2, "big") + (port.vni << 8).to_bytes(4, "big")
    return 0, packets.overlay("172.16.0.2", "172.16.0.1", head + inner, port=tables.config.vxlan_port)


def _payload(rng: random.Random, source: Ip, destination: Ip) -> tuple[int, bytes]:
    data = rng.randbytes(rng.choice((0, 8, 40, 90)))
    return rng.choice(
        (
            (packets.UDP, packets.ports(packets.UDP, 4000, rng.choice((53, 80, 4000)), data=data)),
            (
                packets.TCP,
                packets.ports(packets.TCP, rng.choice((4000, 4001)), 80, flags=rng.choice((2, 16)), data=data),
            ),
            (47, data),
            _ping(rng, source, destination),
        )
    )


def _ping(rng: random.Random, source: Ip, destination: Ip) -> tuple[int, bytes]:
    if ip_version(source) == 4:
        return packets.ICMP, packets.icmp_echo(data=rng.randbytes(20))
    return packets.ICMPV6, packets.icmpv6(source, destination, 128, rng.randbytes(20))
