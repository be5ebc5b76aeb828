"""Random IPv6 outside: whose prefixes are on external networks, and packets that cross to and from there. Pure.

Called by worlds. Addresses are the worlds' own, so that some are in a prefix of their VNI, some in another VNI's, some
in an external network's alone; ports of one host meet each other at its external device.
"""

import random
import struct

from tests.dataplane import packets, talks
from tests.dataplane.outside import IFINDEX, MAC

from alcor.dataplane.base import NO_ADDRESS, OUTSIDE, Hop, Route, RouteKey, RouteKind
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.outside6 import owner
from alcor.dataplane.fake.tables import PortFlag, Tables
from alcor.model.addresses import Ip, ip_version, parse_ip, parse_prefix

EVERYWHERE = parse_prefix("::/0")
NETWORKS = ("2001:db8::/32", "2001:db8::/32", "2001:db8::/64", "::/0")
SUBNETS = ("2001:db8::/112", "2001:db8::1:0/112", "2001:db8::8/125", "2001:db8::5/128")
GATEWAYS = ("fe80::1", "fe80::1", "2001:db8::ffff:1", "::")
ROUTERS = ("2001:db8::fe", "2001:db8::1:fe")
"""VPCs' own gateways."""
OTHERS = ("2001:db9::1", "2001:db8:1::7", "2001:db8::99", "fd00::7", "fe80::7", "ff0e::1", "2001:db8::ffff:1")


def put_prefixes(rng: random.Random, tables: Tables, vnis: tuple[int, ...]) -> None:
    """Ways out for most VNIs, and whose prefixes are whose outside. Some lead nowhere."""
    for vni in vnis:
        if rng.random() < 0.8:
            tables.routes[RouteKey(vni, EVERYWHERE)] = Route(RouteKind.OUTSIDE)
    if rng.random() < 0.9:
        on_link = Route(RouteKind.CONNECTED, (Hop(OUTSIDE, 0, NO_ADDRESS),))
        tables.routes[RouteKey(OUTSIDE, parse_prefix(rng.choice(NETWORKS)))] = on_link
    for text in SUBNETS:
        there = sorted({key.vni for key in _own(tables) if key.ip in parse_prefix(text)})
        vni = rng.choice(there) if there and rng.random() < 0.9 else rng.choice(vnis)
        hop = Hop(vni, rng.choice((1450, 1400)), parse_ip(rng.choice(GATEWAYS)))
        if rng.random() < 0.8:
            kind = RouteKind.CONNECTED if rng.random() < 0.95 else RouteKind.BLACKHOLE
            tables.routes[RouteKey(OUTSIDE, parse_prefix(text))] = Route(kind, (hop,))


def _own(tables: Tables) -> list[EndpointKey]:
    """Ports' IPv6 addresses."""
    return sorted(key for key, row in tables.local.items() if row.ifindex and ip_version(key.ip) == 6)


def _at_home(tables: Tables) -> list[EndpointKey]:
    """Those that ports have outside, too."""
    return [key for key in _own(tables) if (hop := owner(tables, key.ip)) is not None and hop.vni == key.vni]


def random_talk(rng: random.Random, tables: Tables) -> talks.Talk | None:
    """Between a port's IPv6 address and somebody outside, or somebody of this host; None: no port has one."""
    own, home = _own(tables), _at_home(tables)
    if not own:
        return None
    routed = [key for key in home if tables.ports[tables.local[key].ifindex].flags & PortFlag.ROUTES]
    key = rng.choice((rng.choice(own), *(rng.choice(some) for some in (home, routed, routed, routed) if some)))
    remote = rng.choice(
        (
            *map(parse_ip, OTHERS),
            *map(parse_ip, OTHERS[:2]),
            parse_ip(ROUTERS[1]),
            *(one.ip for one in rng.sample(home, min(6, len(home)))),
        )
    )
    protocol = rng.choice((packets.TCP, packets.TCP, packets.UDP, packets.ICMPV6, packets.ICMPV6, 47, 132))
    ports = rng.choice((4000, *talks.PORTS)), rng.choice(talks.PORTS)
    return talks.Talk(tables.local[key].ifindex, *key, remote, protocol, *ports, rng.random() < 0.5)


def random_word(rng: random.Random, tables: Tables, talk: talks.Talk) -> tuple[int, bytes]:
    """One packet of the talk, from its port or from outside: the interface that it comes in at, and the frame."""
    forth = rng.random() < 0.6
    if forth == talk.begun_here:
        packet = talks.packet_of(rng, talk, talk.local, talk.remote, forth=forth)
        mac = tables.ports[talk.ifindex].mac
        return talk.ifindex, packets.ethernet(packets.ROUTER, mac, packet, packets.IPV6)
    packet = talks.packet_of(rng, talk, talk.remote, talk.local, forth=forth)
    return IFINDEX, packets.ethernet(MAC, packets.mac(0xE1), packet, packets.IPV6)


def random_frame(rng: random.Random, tables: Tables) -> bytes:
    """An IPv6 frame that the external device receives: a question, or a packet of any kind for any address."""
    home, own = [key.ip for key in _at_home(tables)], [key.ip for key in _own(tables)]
    strangers = [parse_ip(text) for text in (OTHERS[0], "2001:db8::99", *ROUTERS, *ROUTERS)]
    target = rng.choice((*home, *home, *home, *own, *strangers))
    source = parse_ip(rng.choice((*OTHERS[:4], *OTHERS[:4], "fe80::e1", "ff02::1", "::")))
    if rng.random() < 0.5:
        return _solicitation(rng, source, target)
    size = rng.choice((0, 1, 8, 24, 41, 42, 80, 100, 200, 1402, 1500))
    protocol, payload = rng.choice(
        (
            (packets.UDP, packets.udp(source, target, rng.randbytes(size))),
            (packets.TCP, packets.tcp(source, target, rng.randbytes(size))),
            (
                packets.ICMPV6,
                packets.icmpv6(source, target, rng.choice((128, 129, 1, 2, 135, 136)), rng.randbytes(size)),
            ),
            (rng.choice((33, 47, 136)), rng.randbytes(size)),
            (44, struct.pack("!BxHI", packets.UDP, rng.choice((0, 1, 8)), rng.choice((1, 2))) + rng.randbytes(size)),
        )
    )
    length = None if rng.random() < 0.95 else len(payload) + rng.choice((1, -1))
    hops = rng.choice((64, 64, 64, 255, 2, 1, 0))
    packet = packets.ipv6(
        source, target, payload, protocol=protocol, hops=hops, length=max(0, length) if length else None
    )
    to = rng.choice((MAC,) * 6 + (packets.BROADCAST, packets.mac(5)))
    return packets.ethernet(to, packets.mac(0xE1), packet, packets.IPV6)


def _solicitation(rng: random.Random, source: Ip, target: Ip) -> bytes:
    asker = rng.choice((source, source, source, target, Ip(bytes(16))))
    group = Ip(b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:])
    to = rng.choice((group, group, target))
    option = rng.choice((b"\x01\x01" + packets.mac(0xE1), b"\x01\x01" + packets.mac(0xE1), b"", b"\x0e\x01" + bytes(6)))
    body = bytes(4) + target + option
    kind, code = rng.choice((135,) * 8 + (133, 134, 136, 137)), rng.choice((0,) * 8 + (1,))
    told = packets.icmpv6(asker, to, kind, body[: rng.choice((len(body),) * 9 + (10,))], code=code)
    length = rng.choice((None,) * 8 + (23, 24))
    packet = packets.ipv6(asker, to, told, protocol=packets.ICMPV6, hops=rng.choice((255,) * 9 + (64,)), length=length)
    destination = b"\x33\x33" + to[12:] if to == group else rng.choice((MAC, MAC, packets.mac(5)))
    return packets.ethernet(destination, packets.mac(0xE1), packet, packets.IPV6)
