"""Random packets to a host's own services, right and wrong, from a seed. Pure. Called by worlds."""

import random

from tests.dataplane import packets

from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS, Ip, Mac, Prefix, ip_version, link_local

ALL_SERVERS = bytes.fromhex("ff020000000000000000000000010002")
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")
ENDS = ((68, 67), (67, 68), (67, 68), (546, 547), (547, 546), (547, 546), (68, 68), (4000, 53), (4000, 80), (4000, 123))


def random_ask(rng: random.Random, mac: Mac, own: list[Ip]) -> bytes:
    """A frame of the port with that MAC and those addresses."""
    v4 = [ip for ip in own if ip_version(ip) == 4] or [Ip(bytes(12) + b"\x0a\0\0\x63")]
    v6 = [ip for ip in own if ip_version(ip) == 6] or [link_local(mac)]
    kind = rng.random()
    source_mac = mac if rng.random() < 0.9 else Mac(packets.mac(99))
    if kind < 0.15:
        sender = rng.choice((*v4, bytes(4)))
        return packets.arp(source_mac, packets.ip4(sender), packets.ip4(SERVICE_IPS[0]), ethernet_source=source_mac)
    if kind < 0.5:
        return _v6(rng, source_mac, rng.choice((*v6, bytes(16), packets.ip6("2001:db8::77"))))
    source = rng.choice((packets.ip4(rng.choice(v4)),) * 4 + (bytes(4), bytes((10, 9, 9, 9))))
    to = rng.choice(
        (b"\xff\xff\xff\xff", packets.ip4(SERVICE_IPS[0]), packets.ip4(SERVICE_IPS[0]), bytes((10, 0, 0, 3)))
    )
    protocol = rng.choice((packets.UDP, packets.UDP, packets.TCP, packets.ICMP))
    sport, dport = rng.choice(ENDS)
    payload = packets.ports(protocol, sport, dport, data=rng.randbytes(rng.choice((0, 30))))
    packet = packets.ipv4(
        source,
        to,
        payload[: rng.choice((len(payload),) * 9 + (2,))],
        protocol=protocol,
        fragment=rng.choice((0x4000, 0, 0, 0x2000, 0x0003)),
        options=rng.choice((b"", b"", b"", b"\x01" * 4)),
    )
    destination = rng.choice((packets.BROADCAST, ROUTER_MAC, ROUTER_MAC, packets.mac(5)))
    return packets.ethernet(destination, source_mac, packet)


def random_announcement(rng: random.Random, mac: Mac, own: list[Ip], pairs: list[Prefix]) -> bytes:
    """A frame of a port that says an address is its: one of its pairs, its own, or anybody's."""
    mac = rng.choice((mac, mac, Mac(packets.mac(99))))
    said = rng.choice((*(pair.base for pair in pairs), *own, packets.ip6("2001:db8::3"), packets.ip4("10.0.0.3")))
    if ip_version(Ip(said)) == 4:
        said4 = packets.ip4(said)
        target = rng.choice((said4, said4, bytes((10, 0, 0, 3))))
        return packets.arp(mac, said4, target, opcode=rng.choice((1, 1, 2, 2, 3)), ethernet_source=mac)
    body = rng.choice((b"\x20\0\0\0", b"\x60\0\0\0")) + said + rng.choice((b"\x02\x01" + mac, b""))
    kind, code = rng.choice((136, 136, 136, 135)), rng.choice((0,) * 9 + (1,))
    told = packets.icmpv6(said, ALL_NODES, kind, body[: rng.choice((len(body),) * 9 + (12,))], code=code)
    packet = packets.ipv6(said, ALL_NODES, told, protocol=packets.ICMPV6, hops=rng.choice((255,) * 9 + (64,)))
    return packets.ethernet(b"\x33\x33\0\0\0\1", mac, packet, packets.IPV6)


def _v6(rng: random.Random, mac: Mac, source: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.3:
        told = packets.icmpv6(
            source, ALL_ROUTERS, 133, bytes(rng.choice((4, 4, 4, 12, 2))), code=rng.choice((0, 0, 0, 1))
        )
        packet = packets.ipv6(source, ALL_ROUTERS, told, protocol=packets.ICMPV6, hops=rng.choice((255, 255, 255, 64)))
        return packets.ethernet(b"\x33\x33\0\0\0\2", mac, packet, packets.IPV6)
    if kind < 0.45:
        told = packets.icmpv6(source, SERVICE_IPS[1], 135, bytes(4) + SERVICE_IPS[1] + b"\x01\x01" + mac)
        packet = packets.ipv6(source, SERVICE_IPS[1], told, protocol=packets.ICMPV6, hops=255)
        return packets.ethernet(b"\x33\x33\xff\xfe\xa9\xfe", mac, packet, packets.IPV6)
    to = rng.choice((ALL_SERVERS, SERVICE_IPS[1], SERVICE_IPS[1], packets.ip6("2001:db8::3")))
    protocol = rng.choice((packets.UDP, packets.UDP, packets.TCP, packets.ICMPV6))
    sport, dport = rng.choice(ENDS)
    payload = packets.ports(protocol, sport, dport, data=rng.randbytes(rng.choice((0, 30))))
    packet = packets.ipv6(source, to, payload[: rng.choice((len(payload),) * 9 + (2,))], protocol=protocol)
    group = b"\x33\x33" + to[12:]
    return packets.ethernet(group if to[0] == 0xFF else ROUTER_MAC, mac, packet, packets.IPV6)
