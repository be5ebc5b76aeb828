"""Random tables and random packets for them, from a seed. Pure.

Called by the model's property tests and the differential tests. A world has three VPCs that use the same addresses; its
packets are honest ones of every kind, and honest ones bent at random, so that every step of the pipeline is met often.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.dataplane import packets

from alcor.dataplane.base import EndpointKey
from alcor.dataplane.fake.tables import HostConfig, LocalRow, PortRow, RemoteRow, Tables
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, parse_ip
from alcor.model.ids import Id

ROUTED, PORT_PEER, UP = 1, 2, 4
GATEWAY, LOCAL_PEER, LOCAL_DOWN = 1, 2, 4
VNIS = (1, 0x123456, 0xFFFFFF)
UNDERLAY = "172.16.0.1"
ADDRESSES = tuple(f"10.0.{net}.{host}" for net in (0, 1) for host in range(1, 13))
GATEWAYS = ("10.0.0.254", "10.0.1.254")
STRANGERS = ("10.0.0.99", "192.0.2.1", "0.0.0.0", "255.255.255.255", "224.0.0.1")


class Packet(NamedTuple):
    """A frame and where it comes in: a port's interface, or (0) the underlay."""

    ifindex: int
    frame: bytes


def random_tables(rng: random.Random, ifindexes: list[int], underlay_ifindex: int) -> Tables:
    """Tables over these interfaces. One of them is no port, one is a port that is down."""
    config = HostConfig(parse_ip(UNDERLAY), underlay_ifindex, rng.choice((4789, 8472)))
    tables = Tables(config=config)
    for number, ifindex in enumerate(ifindexes[1:]):
        flags = rng.choice((0, ROUTED, ROUTED, ROUTED)) | rng.choice((0, PORT_PEER)) | (UP if number else 0)
        vni = rng.choice(VNIS)
        row = PortRow(Id(rng.randbytes(16)), vni, 1450, Mac(packets.mac(ifindex)), flags, rng.getrandbits(64))
        tables.ports[ifindex] = row
        seen = (LOCAL_PEER if flags & PORT_PEER else 0) | (0 if flags & UP else LOCAL_DOWN)
        for address in rng.sample(ADDRESSES, rng.choice((1, 1, 2))):
            local = LocalRow(ifindex, seen, row.mac)
            tables.local[EndpointKey(vni, parse_ip(address))] = local
    for vni in VNIS:
        for address in GATEWAYS:
            if rng.random() < 0.8:
                tables.local[EndpointKey(vni, parse_ip(address))] = LocalRow(0, GATEWAY, ROUTER_MAC)
        for number, address in enumerate((*ADDRESSES, *GATEWAYS)):
            if rng.random() < 0.3:
                host = parse_ip(rng.choice(("172.16.0.2", "172.16.0.3", "172.16.0.3", "fd00::1")))
                tables.remote[EndpointKey(vni, parse_ip(address))] = RemoteRow(host, Mac(packets.mac(1000 + number)))
    return tables


def random_packet(rng: random.Random, tables: Tables, ifindexes: list[int]) -> Packet:
    """An honest packet for these tables, or (two times in five) one that is bent somewhere."""
    if rng.random() < 0.3:
        frame = _from_overlay(rng, tables)
        return Packet(0, _bent(rng, frame, tables) if rng.random() < 0.4 else frame)
    ifindex = rng.choice(ifindexes)
    port = tables.ports.get(ifindex)
    vni, source_mac = (port.vni, port.mac) if port else (VNIS[0], Mac(packets.mac(ifindex)))
    own = sorted(key.ip for key, row in tables.local.items() if row.ifindex == ifindex)
    source = rng.choice(own) if own else parse_ip(ADDRESSES[0])
    make = rng.choice((_arp, _l2, _l2, _routed, _routed, _ping_gateway))
    frame = make(rng, tables, vni, source_mac, source)
    return Packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.4 else frame)


Maker = Callable[[random.Random, Tables, int, Mac, Ip], bytes]


def _arp(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    target = rng.choice((_known(rng, tables, vni), _known(rng, tables, vni), _any_address(rng), source))
    sender = rng.choice((source, source, source, b"\0\0\0\0", target, packets.ip4(_any_address(rng))))
    frame = packets.arp(
        source_mac if rng.random() < 0.95 else packets.mac(99),
        sender,
        target,
        opcode=rng.choice((1, 1, 1, 1, 1, 1, 2, 3, 256)),
        ethernet_source=source_mac,
        ethernet_destination=rng.choice((packets.BROADCAST, packets.ROUTER, packets.mac(5))),
    )
    return frame + bytes(rng.choice((0, 0, 18)))


def _l2(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    destination = _known(rng, tables, vni)
    row = tables.local.get(EndpointKey(vni, destination)) or tables.remote.get(EndpointKey(vni, destination))
    return packets.ethernet(row.mac if row else packets.mac(77), source_mac, _ip_packet(rng, source, destination))


def _routed(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    destination = rng.choice((_known(rng, tables, vni), _known(rng, tables, vni), _any_address(rng)))
    return packets.ethernet(packets.ROUTER, source_mac, _ip_packet(rng, source, destination))


def _ping_gateway(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    echo = packets.icmp_echo(
        kind=rng.choice((8, 8, 8, 8, 0, 13)), code=rng.choice((0, 0, 0, 1)), data=rng.randbytes(rng.randrange(64))
    )
    if rng.random() < 0.1:
        echo = echo[: rng.randrange(9)]
    packet = packets.ipv4(
        source,
        rng.choice(GATEWAYS),
        echo,
        protocol=rng.choice((1, 1, 1, 1, 17)),
        ttl=rng.choice((0, 1, 2, 64, 255)),
        fragment=rng.choice((0, 0x4000, 0x4000, 0x4000, 0x2000, 1)),
        options=rng.choice((b"", b"", b"\x01" * 4, b"\x01" * 40)),
        identification=rng.getrandbits(16),
    )
    return packets.ethernet(packets.ROUTER, source_mac, packet + bytes(rng.choice((0, 0, 6))))


def _from_overlay(rng: random.Random, tables: Tables) -> bytes:
    vni = rng.choice(VNIS)
    destination = _known(rng, tables, vni)
    row = tables.local.get(EndpointKey(vni, destination))
    inner = packets.ethernet(
        row.mac if row and rng.random() < 0.95 else packets.mac(78),
        packets.ROUTER,
        _ip_packet(rng, packets.ip4(rng.choice(ADDRESSES)), destination),
        rng.choice((packets.IPV4,) * 12 + (packets.ARP, packets.IPV6, packets.VLAN)),
    )
    if rng.random() < 0.1:
        inner = inner[: rng.randrange(36)]
    packet = packets.vxlan(
        vni if rng.random() < 0.95 else rng.getrandbits(24),
        inner,
        flags=rng.choice((0x08, 0x08, 0x08, 0x08, 0x88, 0xFF, 0x00, 0xF7)),
        reserved=rng.choice((0, 0, 0xFF)),
    )
    return packets.overlay(
        "172.16.0.2",
        UNDERLAY if rng.random() < 0.95 else "172.16.0.9",
        packet,
        port=tables.config.vxlan_port if rng.random() < 0.95 else rng.choice((4789, 8472, 53)),
        options=b"\x01" * 4 if rng.random() < 0.03 else b"",
        fragment=rng.choice((0, 0x4000, 0x4000, 0x4000, 0x8000)) if rng.random() < 0.97 else rng.choice((0x2000, 7)),
        protocol=packets.UDP if rng.random() < 0.97 else packets.TCP,
        ethertype=packets.IPV4 if rng.random() < 0.97 else rng.choice((packets.IPV6, packets.ARP)),
    )


def _ip_packet(rng: random.Random, source: bytes, destination: bytes) -> bytes:
    data = rng.randbytes(rng.randrange(80))
    protocol, payload = rng.choice(
        (
            (packets.UDP, packets.udp(source, destination, data)),
            (packets.TCP, packets.tcp(source, destination, data)),
            (packets.ICMP, packets.icmp_echo(data=data)),
            (47, data),
        )
    )
    return packets.ipv4(
        source,
        destination,
        payload,
        protocol=protocol,
        ttl=rng.choice((64, 64, 64, 255, 128, 2, 1, 0)),
        fragment=rng.choice((0, 0x4000, 0x4000, 0x2000, 0x0010)),
        options=rng.choice((b"", b"", b"", b"\x01" * 4, b"\x01" * 40)),
        identification=rng.getrandbits(16),
    )


def _known(rng: random.Random, tables: Tables, vni: int) -> Ip:
    """An address that somebody in the VPC has, mostly."""
    here = sorted(key.ip for table in (tables.local, tables.remote) for key in table if key.vni == vni)
    return rng.choice(here) if here and rng.random() < 0.9 else _any_address(rng)


def _any_address(rng: random.Random) -> Ip:
    return parse_ip(rng.choice(ADDRESSES + GATEWAYS + STRANGERS))


def _bent(rng: random.Random, frame: bytes, tables: Tables) -> bytes:
    """The frame with one thing wrong: cut, grown, a field changed to a telling value, or bytes flipped anywhere."""
    how = rng.randrange(6)
    if how == 0:
        return frame[: rng.randrange(len(frame) + 1)]
    if how == 1:
        return frame + rng.randbytes(rng.randrange(1, 60))
    if how == 2:
        return _overwrite(frame, *rng.choice(_telling_values(rng, tables)))
    bent = bytearray(frame)
    # Most steps read the first headers: that is where bytes matter.
    reach = len(bent) if how == 3 else min(len(bent), 50)
    for _ in range(rng.choice((1, 1, 2, 5)) if reach else 0):
        bent[rng.randrange(reach)] = rng.choice((0, 0xFF, rng.getrandbits(8)))
    return bytes(bent)


def _overwrite(frame: bytes, at: int, value: bytes) -> bytes:
    return frame if len(frame) < at + len(value) else frame[:at] + value + frame[at + len(value) :]


def _telling_values(rng: random.Random, tables: Tables) -> tuple[tuple[int, bytes], ...]:
    """Offsets and values that decide a step: MACs, ethertype, version, lengths, fragment, TTL, addresses, checksums."""
    some_port = rng.choice(sorted(tables.ports.items()))[1]
    length = rng.choice((0, 19, 20, 21, 27, 28, 60, 1500, 0xFFFF)).to_bytes(2, "big")
    return (
        (0, rng.choice((packets.BROADCAST, packets.ROUTER, b"\x01\x00\x5e\0\0\1", some_port.mac))),
        (6, rng.choice((some_port.mac, packets.ROUTER, packets.BROADCAST))),
        (12, rng.choice((packets.IPV4, packets.ARP, packets.IPV6, packets.VLAN, 0x05DC, 0x88CC)).to_bytes(2, "big")),
        (14, bytes((rng.choice((0x40, 0x44, 0x45, 0x46, 0x4F, 0x55, 0x65, 0x05)),))),
        (16, length),
        (20, rng.choice((b"\x20\0", b"\0\1", b"\x80\0", b"\x3f\xff"))),
        (22, bytes((rng.choice((0, 1, 2)),))),
        (26, packets.ip4(_any_address(rng))),
        (30, packets.ip4(_any_address(rng))),
        (24, rng.choice((b"\0\0", b"\xff\xff", b"\xfe\xff", b"\0\1", b"\1\0"))),
        (36, rng.choice((b"\0\0", b"\xff\xff", b"\x08\0", b"\xf7\xff"))),
    )
