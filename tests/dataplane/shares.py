"""Random shared external addresses, and packets of connections through them. Pure. Called by worlds."""

import random
import struct

from tests.dataplane import outside, packets, talks

from alcor.dataplane.base import OUTSIDE, Hop, Route, RouteKey, RouteKind, SharedAddress
from alcor.dataplane.fake.hashing import finalize, hash_end
from alcor.dataplane.fake.policy import FlowKey
from alcor.dataplane.fake.sharing import Binding, BindingKey
from alcor.dataplane.fake.tables import PortFlag, Tables
from alcor.model.addresses import Ip, ip_version, parse_ip
from alcor.model.blocks import BLOCK_PORTS

ADDRESSES = ("203.0.113.50", "203.0.113.51")
BUSY = parse_ip("198.51.100.99"), 53
"""A remote, and its port of UDP, towards which all ports of the addresses' blocks are taken sometimes."""
HERE, ELSEWHERE = parse_ip("172.16.0.1"), ("172.16.0.2", "172.16.0.3")
FIRST_BLOCK = 2


def put_shared(rng: random.Random, tables: Tables) -> None:
    """Addresses that this host shares with others, and routes of VNIs outside by them."""
    for number, name in enumerate(ADDRESSES):
        ip = parse_ip(name)
        if rng.random() < 0.15:
            continue
        first = FIRST_BLOCK + number
        mine = rng.choice(((first,), (first,), (first, first + 7), ()))
        blocks = dict.fromkeys(mine, HERE) | {40 + n: parse_ip(one) for n, one in enumerate(ELSEWHERE)}
        tables.sharing.shared[ip] = SharedAddress(
            rng.choice((0, 24, 28, 32)),
            rng.choice((parse_ip("203.0.113.1"),) * 4 + (None,)),
            rng.choice((1450, 90)),
            rng.choice((HERE, HERE, parse_ip(ELSEWHERE[0]), None)),
            tuple(sorted(blocks.items())),
        )
        if len(mine) == 1 and rng.random() < 0.7:
            _fill(tables, ip, first)
    for vni in {port.vni for port in tables.ports.values()}:
        if rng.random() < 0.8:
            leads = Hop(OUTSIDE, 0, parse_ip(rng.choice(ADDRESSES)))
            tables.routes[RouteKey(vni, outside.EVERYWHERE)] = Route(RouteKind.OUTSIDE, (leads,))


def _fill(tables: Tables, ip: Ip, block: int) -> None:
    for port in range(block * BLOCK_PORTS, (block + 1) * BLOCK_PORTS):
        flow = FlowKey(ip, BUSY[0], 0, port, BUSY[1], packets.UDP)
        tables.sharing.bindings[BindingKey(flow, back=True)] = Binding(parse_ip("10.9.9.9"), 77, 0, 99, 1 << 60)


def random_talk(rng: random.Random, tables: Tables) -> talks.Talk | None:
    """Between a port that may share an address, and somebody outside; None: there is no such port."""
    inside = [
        (row.ifindex, key)
        for key, row in sorted(tables.local.items(), key=lambda one: one[0])
        if row.ifindex in tables.ports and ip_version(key.ip) == 4 and (key not in tables.eips or rng.random() < 0.1)
    ]
    ready = PortFlag.ROUTES | PortFlag.ROUTED | PortFlag.UP
    inside = [one for one in inside if tables.ports[one[0]].flags & ready == ready] or inside
    if not inside:
        return None
    free = [one for one in inside if not tables.ports[one[0]].identity]
    ifindex, key = rng.choice(free if free and rng.random() < 0.6 else inside)
    if rng.random() < 0.35:
        port = rng.choice((4000, 4001))
        return talks.Talk(ifindex, key.vni, key.ip, BUSY[0], packets.UDP, port, BUSY[1], True)
    protocol = rng.choice((packets.TCP, packets.TCP, packets.UDP, packets.UDP, packets.ICMP, packets.ICMP, 132))
    remote = parse_ip(rng.choice((*outside.OTHERS, *ADDRESSES)))
    ports = rng.choice((4000, 4001, *talks.PORTS)), rng.choice(talks.PORTS)
    return talks.Talk(ifindex, key.vni, key.ip, remote, protocol, *ports, rng.random() < 0.9)


def random_word(rng: random.Random, tables: Tables, talk: talks.Talk) -> tuple[int, bytes]:
    """One packet of the talk, from its port, from outside, or sent on by another host: where it comes in, and the
    frame."""
    forth = rng.random() < 0.55
    if forth == talk.begun_here:
        packet = talks.packet_of(rng, talk, talk.local, talk.remote, forth=forth)
        mac = tables.ports[talk.ifindex].mac
        return talk.ifindex, packets.ethernet(packets.ROUTER, mac, outside.checked(rng, packet))
    ip, outer = _outer(rng, tables, talk)
    there = talk._replace(sport=outer) if talk.begun_here else talk._replace(dport=outer)
    packet = talks.packet_of(rng, there, talk.remote, ip, forth=forth)
    frame = packets.ethernet(outside.MAC, packets.mac(0xE1), outside.checked(rng, packet))
    if rng.random() < 0.6:
        return outside.IFINDEX, frame
    head = struct.pack("!II", 0x08 << 24, OUTSIDE << 8)
    return 0, packets.overlay("172.16.0.2", "172.16.0.1", head + frame, port=tables.config.vxlan_port)


def _outer(rng: random.Random, tables: Tables, talk: talks.Talk) -> tuple[Ip, int]:
    """The address and port that the talk has outside, if nobody had the port before; or another host's port."""
    route = tables.routes.get(RouteKey(talk.vni, outside.EVERYWHERE))
    ip = route.hops[0].ip if route is not None and route.hops else parse_ip(ADDRESSES[0])
    shared = tables.sharing.shared.get(ip)
    own = shared.own(HERE) if shared is not None else []
    if not own or rng.random() < 0.1:
        return ip, rng.choice((80, 40 * BLOCK_PORTS + 3, 41 * BLOCK_PORTS, 65535))
    number = finalize(hash_end(talk.local, talk.sport) ^ talk.protocol) * len(own) * BLOCK_PORTS >> 32
    return ip, own[number // BLOCK_PORTS] * BLOCK_PORTS + number % BLOCK_PORTS
