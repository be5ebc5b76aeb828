"""Random external addresses, and packets that cross to and from external networks. Pure.

Called by worlds. Talks go on between an address outside and an EIP, from both ends; EIPs of one host talk with each
other, and with themselves.
"""

import random

from msgspec.structs import replace
from tests.dataplane import packets, talks, vips

from alcor.dataplane.base import OUTSIDE, Route, RouteKey, RouteKind
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.tables import EipRow, ExternalDevice, ForwardingKey, ForwardingRow, PortFlag, Tables
from alcor.model.addresses import Ip, Mac, ip_version, parse_ip, parse_prefix

IFINDEX = 1015
"""Of the external device."""
MAC = Mac(packets.mac(0xE0))
EIPS = tuple(f"203.0.113.{number}" for number in range(10, 40))
OTHERS = ("203.0.113.1", "203.0.113.200", "198.51.100.7", "8.8.8.8", *EIPS[:3])
EVERYWHERE = parse_prefix("0.0.0.0/0")
MASKS = (0xFFFFFF00, 0xFFFFFF00, 0xFFFFFFF0, 0xFFFFFFFF)


def put_eips(rng: random.Random, tables: Tables) -> Tables:
    """The tables with an external device (nearly always), and with EIPs for some addresses of ports. Some of the rows
    do not belong together."""
    device = ExternalDevice(IFINDEX, MAC) if rng.random() < 0.95 else None
    for vni in {port.vni for port in tables.ports.values()}:
        if rng.random() < 0.8:
            tables.routes[RouteKey(vni, EVERYWHERE)] = Route(RouteKind.OUTSIDE)
    free = list(EIPS)
    rng.shuffle(free)
    for key, row in sorted(tables.local.items(), key=lambda one: one[0]):
        if row.ifindex and ip_version(key.ip) == 4 and free and rng.random() < 0.5:
            eip = parse_ip(free.pop())
            gateway = rng.choice((parse_ip("203.0.113.1"), parse_ip("203.0.113.1"), None))
            owner = row.ifindex if rng.random() < 0.95 else row.ifindex + 1
            tables.eips[key] = EipRow(eip, OUTSIDE, owner, gateway, rng.choice(MASKS))
            if rng.random() < 0.95:
                tables.eips[EndpointKey(OUTSIDE, eip)] = EipRow(key.ip, key.vni, row.ifindex)
    vips.put_vip_eips(rng, tables, free, MASKS)
    _put_forwardings(rng, tables, free)
    if free:  # what it stands for is not here, or is a gateway
        inside = EndpointKey(1, parse_ip(rng.choice(("10.0.0.99", "10.0.0.254"))))
        tables.eips[EndpointKey(OUTSIDE, parse_ip(free.pop()))] = EipRow(inside.ip, inside.vni, 0)
    _put_queues(rng, tables)
    return Tables(**{name: getattr(tables, name) for name in Tables.__struct_fields__} | {"external": device})


def _put_queues(rng: random.Random, tables: Tables) -> None:
    """Limits of external addresses, one way or both."""
    for key, row in tables.eips.items():
        tables.eips[key] = replace(row, queue=rng.choice((0, 0, rng.randrange(1, 0xA1C0))))
    for name, forwarding in tables.forwardings.items():
        if name.vni != OUTSIDE:
            limited = replace(forwarding.other, queue=rng.choice((0, 0, rng.randrange(1, 0xA1C0))))
            tables.forwardings[name] = replace(forwarding, other=limited)


def _put_forwardings(rng: random.Random, tables: Tables, free: list[str]) -> None:
    """Forwardings of a few external addresses to ports' addresses without EIPs; some rows are of one side only."""
    bare = sorted(
        (key, row.ifindex)
        for key, row in tables.local.items()
        if row.ifindex and ip_version(key.ip) == 4 and key not in tables.eips
    )
    for _ in range(3 if bare else 0):
        outer = parse_ip(free.pop()) if free else parse_ip(EIPS[0])
        tables.eips.setdefault(EndpointKey(OUTSIDE, outer), EipRow(Ip(bytes(16)), OUTSIDE, 0))
        key, ifindex = rng.choice(bare)
        for protocol in (packets.TCP, packets.UDP):
            for port in talks.PORTS:
                inner = rng.choice((port, port + 1000))
                out = EipRow(outer, OUTSIDE, ifindex, parse_ip("203.0.113.1"), rng.choice(MASKS))
                back = EipRow(key.ip, key.vni, ifindex)
                if rng.random() < 0.9:
                    tables.forwardings[ForwardingKey(key.vni, key.ip, protocol, inner)] = ForwardingRow(out, port)
                if rng.random() < 0.9:
                    tables.forwardings[ForwardingKey(OUTSIDE, outer, protocol, port)] = ForwardingRow(back, inner)


def random_talk(rng: random.Random, tables: Tables) -> talks.Talk | None:
    """Between a port's address that has an EIP and somebody outside; None: there is no such port."""
    forwarded = [name for name in tables.forwardings if name.vni != OUTSIDE]
    if forwarded and rng.random() < 0.4:
        name = rng.choice(sorted(forwarded))
        key = EndpointKey(name.vni, name.ip)
        remote = parse_ip(rng.choice(OTHERS))
        # Begun outside: the port of the first packet is the one inside.
        return talks.Talk(tables.local[key].ifindex, key.vni, key.ip, remote, name.protocol, 4000, name.port, False)
    inside = sorted(key for key in tables.eips if key.vni != OUTSIDE and tables.local[key].ifindex)
    inside = [key for key in inside if tables.ports[tables.local[key].ifindex].flags & PortFlag.ROUTES] or inside
    if not inside:
        return None
    key = rng.choice(inside)
    ifindex = tables.local[key].ifindex
    own = tables.eips[key].ip
    protocol = rng.choice((packets.TCP, packets.TCP, packets.UDP, packets.ICMP, packets.ICMP, 47, 132, 33, 136))
    remote = rng.choice((*map(parse_ip, OTHERS), own))
    ports = rng.choice((4000, *talks.PORTS)), rng.choice(talks.PORTS)
    return talks.Talk(ifindex, key.vni, key.ip, remote, protocol, *ports, rng.random() < 0.5)


def random_word(rng: random.Random, tables: Tables, talk: talks.Talk) -> tuple[int, bytes]:
    """One packet of the talk, from its port or from outside: the interface that it comes in at, and the frame."""
    forth = rng.random() < 0.6
    if forth == talk.begun_here:
        packet = talks.packet_of(rng, talk, talk.local, talk.remote, forth=forth)
        mac = tables.ports[talk.ifindex].mac if talk.ifindex in tables.ports else Mac(packets.mac(9))
        return talk.ifindex, packets.ethernet(packets.ROUTER, mac, checked(rng, packet))
    row = tables.eips.get(EndpointKey(talk.vni, talk.local))
    if row is not None:
        eip = row.ip
    else:
        forwarding = tables.forwardings[ForwardingKey(talk.vni, talk.local, talk.protocol, talk.dport)]
        eip, talk = forwarding.other.ip, talk._replace(dport=forwarding.port)
    packet = talks.packet_of(rng, talk, talk.remote, eip, forth=forth)
    return IFINDEX, packets.ethernet(MAC, packets.mac(0xE1), checked(rng, packet))


def random_frame(rng: random.Random, tables: Tables) -> bytes:
    """A frame that the external device receives: a question, or a packet of any kind for any address."""
    eips = sorted([*(key.ip for key in tables.eips if key.vni == OUTSIDE), *tables.sharing.shared]) or [
        parse_ip(EIPS[0])
    ]
    target: Ip = rng.choice((*eips, *eips, parse_ip(EIPS[0]), parse_ip("192.0.2.1")))
    source = parse_ip(rng.choice(OTHERS))
    if rng.random() < 0.25:
        sender = rng.choice((source, source, source, target, parse_ip("0.0.0.0")))
        return packets.arp(packets.mac(0xE1), sender, target, opcode=rng.choice((1, 1, 1, 1, 2)))
    size = rng.choice((0, 1, 8, 30, 61, 62, 200, 1500))
    protocol, payload = rng.choice(
        (
            (packets.UDP, packets.udp(source, target, rng.randbytes(size))),
            (packets.TCP, packets.tcp(source, target, rng.randbytes(size))),
            (packets.ICMP, packets.icmp_echo(data=rng.randbytes(size))),
            (rng.choice((33, 47, 136)), rng.randbytes(size)),
        )
    )
    packet = packets.ipv4(
        source,
        target,
        payload,
        protocol=protocol,
        ttl=rng.choice((64, 64, 64, 2, 1, 0)),
        fragment=rng.choice((0x4000, 0x4000, 0, 0x2000, 7)),
        options=rng.choice((b"", b"", b"\x01" * 8)),
        identification=rng.choice((1, 2)),
    )
    to = rng.choice((MAC, MAC, MAC, MAC, MAC, packets.BROADCAST, packets.mac(5)))
    ethertype = rng.choice((packets.IPV4,) * 12 + (packets.IPV6, packets.VLAN))
    return packets.ethernet(to, packets.mac(0xE1), packet, ethertype)


def checked(rng: random.Random, packet: bytes) -> bytes:
    """The packet with a telling checksum in its transport header: none, the largest, any."""
    at = (packet[0] & 0x0F) * 4 + (16 if packet[9] == packets.TCP else 6)
    if packet[9] not in (packets.TCP, packets.UDP, 33, 136) or len(packet) < at + 2:
        return packet
    check = rng.choice((b"\0\0", b"\xff\xff", rng.randbytes(2), rng.randbytes(2)))
    return packet[:at] + check + packet[at + 2 :]
