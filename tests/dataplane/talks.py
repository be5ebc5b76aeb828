"""Random policies, and packets that talk: both ways, through opening, closing, errors and fragments. Pure.

Called by worlds. A talk is between a port of the host and somebody of its VPC, here or elsewhere; its packets come in
any order, some of them bent, so that every state of a connection meets every packet.
"""

import random
import struct
from typing import NamedTuple

from tests.dataplane import packets

from alcor.dataplane.base import Policy, PolicyKey, Rule
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.tables import PortFlag, Tables
from alcor.model.addresses import Ip, Mac, Prefix, ip_from_int, ip_version

IDENTITIES = (1, 2, 3, 0x1234)
PORTS = (22, 53, 80, 443, 5000)


class Talk(NamedTuple):
    """Who talks with whom, about what."""

    ifindex: int
    vni: int
    local: Ip
    remote: Ip
    protocol: int
    sport: int
    dport: int
    begun_here: bool


def random_policies(rng: random.Random, vnis: tuple[int, ...]) -> dict[PolicyKey, Policy]:
    """Policies of some identities; of some there are none."""
    keys = [PolicyKey(vni, identity) for vni in vnis for identity in IDENTITIES if rng.random() < 0.9]
    return {key: Policy(key, tuple(random_rule(rng) for _ in range(rng.choice((0, 2, 6, 12, 20))))) for key in keys}


def random_rule(rng: random.Random) -> Rule:
    """One rule of any kind."""
    version = rng.choice((4, 4, 6))
    protocol = rng.choice((None, packets.TCP, packets.TCP, packets.UDP, 1 if version == 4 else 58, 47, 132))
    first, last = 0, 0xFFFF
    if protocol in (packets.TCP, packets.UDP, 132):
        first = rng.choice((0, 1, 22, 53, 79, 80, 4000))
        last = rng.choice((first, first, max(first, 80), max(first, 443), 5000, 0xFFFF))
    elif protocol in (1, 58):
        kind = rng.choice((8, 3, 128, 1, 0))
        first, last = rng.choice(((0, 0xFFFF), (kind << 8, kind << 8 | 255), (kind << 8, kind << 8)))
    remote = rng.randrange(3)
    prefix = _prefix(rng, version) if remote == 1 else None
    identities = tuple(sorted(rng.sample(IDENTITIES, rng.randrange(3)))) if remote == 2 else None
    return Rule(rng.random() < 0.5, version, protocol, first, last, prefix, identities)


def _prefix(rng: random.Random, version: int) -> Prefix:
    base, bits = (0x0A000000, 32) if version == 4 else (0x20010DB8 << 96, 128)
    length = rng.choice((0, 8, 16, 23, 24, 28, 30, 32)) if version == 4 else rng.choice((0, 32, 64, 112, 126, 128))
    inside = rng.choice((1, 5, 8, 0x101, 0x107))
    value = (base + inside) >> (bits - length) << (bits - length)
    return Prefix(ip_from_int(value, version), length, version)


def random_talk(rng: random.Random, tables: Tables) -> Talk:
    """Somebody here with somebody of the same family."""
    likely = [(ifindex, port) for ifindex, port in sorted(tables.ports.items()) if port.flags & PortFlag.ROUTED]
    ifindex, port = rng.choice(likely or sorted(tables.ports.items()))
    own = sorted(key.ip for key, row in tables.local.items() if row.ifindex == ifindex)
    local = rng.choice(own)
    version = ip_version(local)
    others = sorted(
        key.ip
        for table in (tables.local, tables.remote)
        for key in table
        if key.vni == port.vni and ip_version(key.ip) == version
    )
    icmp = packets.ICMP if version == 4 else packets.ICMPV6
    protocol = rng.choice((packets.TCP, packets.TCP, packets.UDP, icmp, icmp, 47, 132))
    sport, dport = rng.choice((4000, 4001, *PORTS)), rng.choice(PORTS)
    return Talk(ifindex, port.vni, local, rng.choice(others), protocol, sport, dport, rng.random() < 0.5)


def random_word(rng: random.Random, tables: Tables, talk: Talk) -> tuple[int, bytes]:
    """One packet of the talk: the interface that it comes in at (0: the tunnel), and the frame."""
    forth = rng.random() < 0.6
    sent = forth == talk.begun_here
    source, destination = (talk.local, talk.remote) if sent else (talk.remote, talk.local)
    packet = packet_of(rng, talk, source, destination, forth=forth)
    version = ip_version(source)
    ethertype = packets.IPV4 if version == 4 else packets.IPV6
    here = tables.local.get(EndpointKey(talk.vni, talk.remote))
    if sent or (here is not None and here.ifindex):
        ifindex = talk.ifindex if sent else (here.ifindex if here is not None else 0)
        mac = tables.ports[ifindex].mac if ifindex in tables.ports else Mac(packets.mac(9))
        return ifindex, packets.ethernet(packets.ROUTER, mac, packet, ethertype)
    local = tables.local[EndpointKey(talk.vni, talk.local)]
    inner = packets.ethernet(local.mac, packets.ROUTER, packet, ethertype)
    there = tables.remote.get(EndpointKey(talk.vni, talk.remote))
    identity = there.identity if there is not None and rng.random() < 0.9 else rng.choice((0, *IDENTITIES))
    flags = 0x88 if identity else 0x08
    head = struct.pack("!II", flags << 24 | identity, talk.vni << 8)
    frame = packets.overlay("172.16.0.2", "172.16.0.1", head + inner, port=tables.config.vxlan_port)
    return 0, frame


def packet_of(rng: random.Random, talk: Talk, source: Ip, destination: Ip, *, forth: bool) -> bytes:
    """A packet of the talk between these two, as IP has it; `forth`: on the way of the first one."""
    sport, dport = (talk.sport, talk.dport) if forth else (talk.dport, talk.sport)
    flags = rng.choice((0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x01, 0x04, 0x14, 0x00, 0x29, 0x03))
    protocol, version = talk.protocol, ip_version(source)
    if protocol in (packets.ICMP, packets.ICMPV6):
        payload = _echo(rng, version, source, destination, talk.sport, request=forth)
    else:
        payload = packets.ports(protocol, sport, dport, flags=flags, data=rng.randbytes(rng.randrange(40)))
    if rng.random() < 0.12:
        protocol, payload = _error(rng, talk, version, source, destination, forth=forth)
    if rng.random() < 0.03:
        payload = payload[: rng.randrange(len(payload) + 1)]
    if version == 4:
        return packets.ipv4(
            source,
            destination,
            payload,
            protocol=protocol,
            fragment=rng.choice((0x4000,) * 9 + (0x2000, 0x2000, 7, 7, 0x2007)),
            options=rng.choice((b"", b"", b"\x01" * 8)),
            identification=rng.choice((1, 2)),
        )
    return _ipv6(rng, source, destination, protocol, payload)


def _ipv6(rng: random.Random, source: Ip, destination: Ip, protocol: int, payload: bytes) -> bytes:
    """With extension headers sometimes, whole and broken."""
    for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2, 7))):
        kind = rng.choice((0, 43, 44, 44, 51, 60))
        if kind == 44:
            offset = rng.choice((0, 1, 1, 8, 8, 9))
            payload = struct.pack("!BxHI", protocol, offset, rng.choice((1, 2))) + payload
        elif kind == 51:
            payload = struct.pack("!BB2x", protocol, 1) + bytes(8) + payload
        else:
            extra = rng.choice((0, 0, 0, 1, 200))
            payload = bytes((protocol, extra)) + bytes(6 + (8 if extra == 1 else 0)) + payload
        protocol = kind
    length = len(payload) if rng.random() < 0.97 else rng.choice((0, 7, len(payload) + 1))
    return packets.ipv6(source, destination, payload, protocol=protocol, hops=rng.choice((64, 64, 2, 1)), length=length)


def _echo(rng: random.Random, version: int, source: Ip, destination: Ip, number: int, *, request: bool) -> bytes:
    body = struct.pack("!HH", number, 1) + rng.randbytes(rng.randrange(20))
    if version == 4:
        kind = rng.choice((8 if request else 0, 8 if request else 0, 3, 13))
        bare = struct.pack("!BBH", kind, 0, 0) + body
        return bare[:2] + struct.pack("!H", packets.internet_checksum(bare)) + bare[4:]
    kind = rng.choice((128 if request else 129, 128 if request else 129, 1, 130, 134, 143))
    return packets.icmpv6(source, destination, kind, body)


def _error(
    rng: random.Random, talk: Talk, version: int, source: Ip, destination: Ip, *, forth: bool
) -> tuple[int, bytes]:
    """An ICMP error about a packet that went the other way."""
    sport, dport = (talk.dport, talk.sport) if forth else (talk.sport, talk.dport)
    if talk.protocol in (packets.ICMP, packets.ICMPV6):
        quoted = _echo(rng, version, destination, source, talk.sport, request=not forth)
    else:
        quoted = packets.ports(talk.protocol, sport, dport, data=b"quoted")
    quoted = quoted[: rng.choice((8, 8, 28, 3))]
    if version == 4:
        about = packets.ipv4(destination, source, quoted, protocol=talk.protocol, total_length=rng.choice((60, 1500)))
        body = struct.pack("!I", 1400) + about
        bare = struct.pack("!BBH", rng.choice((3, 3, 11, 12, 5, 4)), 4, 0) + body
        return packets.ICMP, bare[:2] + struct.pack("!H", packets.internet_checksum(bare)) + bare[4:]
    about = packets.ipv6(destination, source, quoted, protocol=talk.protocol, length=rng.choice((40, 1400)))
    return packets.ICMPV6, packets.icmpv6(source, destination, rng.choice((1, 2, 3, 4)), bytes(4) + about)
