"""Random tables and random packets for them, from a seed. Pure.

Called by the model's property tests and the differential tests. A world has three VPCs that use the same addresses; its
packets are honest ones of every kind, and honest ones bent at random, so that every step of the pipeline is met often.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace
from tests.dataplane import asks, balances, journeys, outside, outside6, packets, shares, talks, vips

from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.tables import DSCP_MARKED, HostConfig, LocalRow, PortRow, RemoteRow, Sender, Tables, Use
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, ip_version, link_local, parse_ip, parse_prefix
from alcor.model.ids import Id

ROUTED, PORT_PEER, UP, OPEN, PAIRS, ROUTES, SERVED = 1, 2, 4, 8, 16, 32, 256
GATEWAY, LOCAL_PEER, LOCAL_DOWN, BALANCED = 1, 2, 4, 16
VNIS = (1, 0x123456, 0xFFFFFF)
UNDERLAY = "172.16.0.1"
ADDRESSES = tuple(f"10.0.{net}.{host}" for net in (0, 1) for host in range(1, 13))
GATEWAYS = ("10.0.0.254", "10.0.1.254")
ADDRESSES_V6 = tuple(f"2001:db8::{net}:{host}" for net in (0, 1) for host in range(1, 9))
GATEWAYS_V6 = ("2001:db8::fe", "2001:db8::1:fe")
SENT_FROM = ("10.0.0.0/28", "10.0.1.3/32", "2001:db8::/112", "192.0.2.0/24")
STRANGERS = ("10.0.0.99", "192.0.2.1", "0.0.0.0", "255.255.255.255", "224.0.0.1")


class Packet(NamedTuple):
    """A frame and where it comes in: a port's interface, the external device (outside.IFINDEX), or (0) the underlay."""

    ifindex: int
    frame: bytes
    held: bool = False
    """It waited for an address and comes back."""
    queued: bool = False
    """It waited for its turn and comes back."""
    to_port: bool = False
    """It comes back and is for the port, not from it: it waited, or is a service's answer."""
    of_eip: bool = False
    """It waited for an EIP and comes out of its queue."""


def random_tables(rng: random.Random, ifindexes: list[int], underlay_ifindex: int) -> Tables:
    """Tables over these interfaces. One of them is no port, one is a port that is down."""
    config = HostConfig(parse_ip(UNDERLAY), underlay_ifindex, rng.choice((4789, 8472)))
    tables = Tables(config=config)
    for number, ifindex in enumerate(ifindexes[1:]):
        flags = rng.choice((0, ROUTED, ROUTED, ROUTED)) | rng.choice((0, PORT_PEER)) | (UP if number else 0)
        vni, identity = rng.choice(VNIS), rng.choice((0, *talks.IDENTITIES))
        mac = Mac(packets.mac(ifindex))
        if rng.random() < 0.2:
            flags |= PAIRS
            tables.senders[ifindex] = tuple(
                Sender(rng.choice((mac, Mac(packets.mac(99)))), parse_prefix(rng.choice(SENT_FROM))) for _ in range(2)
            )
        flags |= OPEN if rng.random() < 0.1 else 0
        flags |= ROUTES if flags & ROUTED and rng.random() < 0.5 else 0
        flags |= SERVED if rng.random() < 0.6 else 0
        mtu = rng.choice((1450, 1450, 1450, 68, 90))
        sent, received = rng.choice((0, 0, number + 1)), rng.choice((0, 0, 0xFFFF - number))
        dscp = rng.choice((0, 0, 0, DSCP_MARKED, DSCP_MARKED | rng.randrange(64)))
        digest = rng.getrandbits(64)
        row = PortRow(Id(rng.randbytes(16)), vni, mtu, mac, flags, identity, digest, sent, received, dscp)
        tables.ports[ifindex] = row
        seen = (LOCAL_PEER if flags & PORT_PEER else 0) | (0 if flags & UP else LOCAL_DOWN)
        seen |= BALANCED if rng.random() < 0.9 else 0
        local = LocalRow(ifindex, seen, row.mac, identity, received)
        # An address of one port only: who loses it has another.
        own = [f"10.0.2.{number + 1}", *rng.sample(ADDRESSES, rng.choice((1, 1, 2)))]
        if rng.random() < 0.7:
            own += rng.sample(ADDRESSES_V6, rng.choice((1, 2)))
            tables.local[EndpointKey(vni, link_local(mac))] = local
        for address in own:
            tables.local[EndpointKey(vni, parse_ip(address))] = local
        if flags & PAIRS and rng.random() < 0.5:  # what it claims may be at another MAC
            claimed = rng.choice(tables.senders[ifindex])
            tables.local[EndpointKey(vni, claimed.prefix.base)] = replace(local, mac=claimed.mac)
    tables.policy.policies.update(talks.random_policies(rng, VNIS))
    for vni in VNIS:
        for address in (*GATEWAYS, *GATEWAYS_V6):
            if rng.random() < 0.8:
                tables.local[EndpointKey(vni, parse_ip(address))] = LocalRow(0, GATEWAY, ROUTER_MAC)
        for number, address in enumerate((*ADDRESSES, *GATEWAYS, *ADDRESSES_V6)):
            if rng.random() < 0.3:
                tables.remote[EndpointKey(vni, parse_ip(address))] = _remote(rng, number)
            if rng.random() < 0.1:
                tables.forwards[EndpointKey(vni, parse_ip(address))] = _remote(rng, number)
        if rng.random() < 0.4:
            _put_on_demand(rng, tables, vni)
    journeys.random_routes(rng, tables, VNIS)
    for ifindex in tables.ports:
        v4, v6 = parse_ip(GATEWAYS[0]), parse_ip(GATEWAYS_V6[0])
        tables.routers[ifindex] = rng.choice(((v4, v6), (v4, v6), (v4, None), (None, v6)))
    balances.random_balancers(rng, tables, VNIS)
    outside6.put_prefixes(rng, tables, VNIS)
    tables = outside.put_eips(rng, tables)
    if rng.random() < 0.6:
        shares.put_shared(rng, tables)
    return tables


def _remote(rng: random.Random, number: int) -> RemoteRow:
    host = parse_ip(rng.choice(("172.16.0.2", "172.16.0.3", "172.16.0.3", "fd00::1")))
    return RemoteRow(host, Mac(packets.mac(1000 + number)), rng.choice((0, *talks.IDENTITIES)))


def _put_on_demand(rng: random.Random, tables: Tables, vni: int) -> None:
    """The VPC is on demand: of what is in `remote`, some was learnt, and some is that nobody has the address."""
    tables.on_demand.add(vni)
    for key, row in list(tables.remote.items()):
        if key.vni == vni:
            use = rng.choice((Use.IDLE, Use.IDLE, Use.RECENT, Use.ABSENT))
            nobody = RemoteRow(Ip(bytes(16)), Mac(bytes(6)))
            tables.remote[key] = replace(nobody if use is Use.ABSENT else row, use=int(use))


def random_packets(rng: random.Random, tables: Tables, ifindexes: list[int], count: int) -> list[Packet]:
    """Packets of every kind; some are words of a few talks, some take routes."""

    def packet(ifindex: int, frame: bytes) -> Packet:
        if ifindex == outside.IFINDEX:
            return Packet(ifindex, frame, queued=rng.random() < 0.7)
        if not ifindex:
            return Packet(ifindex, frame)
        held = rng.random() < 0.1
        queued = not held and rng.random() < 0.7
        return Packet(ifindex, frame, held=held, queued=queued, to_port=(held or queued) and rng.random() < 0.05)

    kept = [talks.random_talk(rng, tables) for _ in range(8)]
    beyond = [talk for _ in range(6) if (talk := outside6.random_talk(rng, tables)) is not None]
    abroad = [talk for _ in range(5) if (talk := outside.random_talk(rng, tables)) is not None]
    sharing = [talk for _ in range(6) if (talk := shares.random_talk(rng, tables)) is not None]
    dealings = [one for _ in range(8) if (one := balances.random_dealing(rng, tables)) is not None]
    calls = [call for _ in range(5) if (call := vips.random_call(rng, tables)) is not None]
    found = []
    for _ in range(count):
        if rng.random() < 0.06:
            found.append(_request(rng, tables))
            continue
        if rng.random() < 0.02:
            frame = outside.random_frame(rng, tables)
            found.append(Packet(outside.IFINDEX, frame, queued=True, to_port=rng.random() < 0.3, of_eip=True))
            continue
        if calls and rng.random() < 0.15:
            ifindex, frame = vips.random_word(rng, tables, rng.choice(calls), outside.IFINDEX, outside.MAC)
            found.append(packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.1 else frame))
            continue
        if rng.random() < 0.25:
            ifindex, frame = journeys.random_journey(rng, tables)
            found.append(packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.1 else frame))
            continue
        if sharing and tables.sharing.shared and rng.random() < 0.2:
            ifindex, frame = shares.random_word(rng, tables, rng.choice(sharing))
            found.append(packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.1 else frame))
            continue
        if beyond and rng.random() < 0.16:
            ifindex, frame = outside6.random_word(rng, tables, rng.choice(beyond))
            found.append(packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.1 else frame))
            continue
        if abroad and rng.random() < 0.3:
            ifindex, frame = outside.random_word(rng, tables, rng.choice(abroad))
            found.append(packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.1 else frame))
            continue
        if rng.random() < 0.4:
            found.append(packet(*random_packet(rng, tables, ifindexes)[:2]))
            continue
        if dealings and rng.random() < 0.5:
            ifindex, frame = balances.random_word(rng, tables, rng.choice(dealings))
        else:
            ifindex, frame = talks.random_word(rng, tables, rng.choice(kept))
        found.append(packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.1 else frame))
    return found


def _request(rng: random.Random, tables: Tables) -> Packet:
    """A question to a host, of a port that it serves if there is one, or to a neighbour; at times it comes back
    unanswered."""
    ports = sorted(tables.ports.items())
    served = [one for one in ports if one[1].flags & SERVED and one[1].flags & UP]
    ifindex, port = rng.choice(served or ports)
    own = sorted(key.ip for key, row in tables.local.items() if row.ifindex == ifindex)
    own_v6 = [ip for ip in own if ip_version(ip) == 6]
    if own_v6 and rng.random() < 0.5:
        return Packet(ifindex, _nd(rng, tables, port.vni, port.mac, rng.choice(own_v6)))
    return Packet(ifindex, asks.random_ask(rng, port.mac, own), held=rng.random() < 0.4)


def random_packet(rng: random.Random, tables: Tables, ifindexes: list[int]) -> Packet:
    """An honest packet for these tables, or (two times in five) one that is bent somewhere."""
    if rng.random() < 0.3:
        frame = _from_overlay(rng, tables)
        return Packet(0, _bent(rng, frame, tables) if rng.random() < 0.4 else frame)
    if rng.random() < 0.2:
        frame = rng.choice((outside, outside6)).random_frame(rng, tables)
        queued = rng.random() < 0.7
        return Packet(outside.IFINDEX, _bent(rng, frame, tables) if rng.random() < 0.4 else frame, queued=queued)
    ifindex = rng.choice(ifindexes)
    port = tables.ports.get(ifindex)
    vni, source_mac = (port.vni, port.mac) if port else (VNIS[0], Mac(packets.mac(ifindex)))
    own = sorted(key.ip for key, row in tables.local.items() if row.ifindex == ifindex)
    own_v6 = [ip for ip in own if ip_version(ip) == 6]
    if rng.random() < 0.15:
        frame = asks.random_ask(rng, Mac(source_mac), own)
        return Packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.2 else frame)
    if ifindex in tables.senders and rng.random() < 0.3:
        frame = asks.random_announcement(rng, Mac(source_mac), own, [one.prefix for one in tables.senders[ifindex]])
        return Packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.1 else frame)
    if own and rng.random() < 0.1:
        frame = _large(rng, tables, vni, source_mac, rng.choice(own))
        return Packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.2 else frame)
    if own_v6 and rng.random() < 0.3:
        frame = _nd(rng, tables, vni, source_mac, rng.choice(own_v6))
        return Packet(ifindex, _bent(rng, frame, tables) if rng.random() < 0.4 else frame)
    own = [ip for ip in own if ip_version(ip) == 4]
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


def _nd(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    """A neighbour solicitation, another message of neighbour discovery, or a ping to a gateway."""
    if rng.random() < 0.2:
        gateway = parse_ip(rng.choice(GATEWAYS_V6))
        echo = packets.icmpv6(source, gateway, rng.choice((128, 128, 129)), rng.randbytes(rng.choice((4, 20, 2))))
        packet = packets.ipv6(source, gateway, echo, protocol=packets.ICMPV6)
        return packets.ethernet(packets.ROUTER, source_mac, packet, packets.IPV6)
    here = sorted(
        key.ip for one in (tables.local, tables.remote) for key in one if key.vni == vni and ip_version(key.ip) == 6
    )
    target = rng.choice((*here, parse_ip("2001:db8::99"), source))
    asker = rng.choice((source, source, source, bytes(16), parse_ip(rng.choice(ADDRESSES_V6))))
    option = rng.choice((b"\x01\x01" + source_mac, b"\x01\x01" + source_mac, b"", b"\x0e\x01" + bytes(6)))
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:]
    to = rng.choice((group, group, target))
    kind = rng.choice((135,) * 8 + (133, 134, 136, 137))
    told = packets.icmpv6(asker, to, kind, bytes(4) + target + option, code=rng.choice((0, 0, 0, 0, 0, 0, 1)))
    packet = packets.ipv6(asker, to, told, protocol=packets.ICMPV6, hops=rng.choice((255,) * 9 + (64,)))
    destination = b"\x33\x33" + to[12:] if to == group else packets.mac(5)
    source_mac = Mac(packets.mac(99)) if rng.random() < 0.1 else source_mac
    return packets.ethernet(destination, source_mac, packet, packets.IPV6)


def _l2(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    destination = _known(rng, tables, vni)
    row = tables.local.get(EndpointKey(vni, destination)) or tables.remote.get(EndpointKey(vni, destination))
    return packets.ethernet(row.mac if row else packets.mac(77), source_mac, _ip_packet(rng, source, destination))


def _routed(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    destination = rng.choice((_known(rng, tables, vni), _known(rng, tables, vni), _any_address(rng)))
    return packets.ethernet(packets.ROUTER, source_mac, _ip_packet(rng, source, destination))


def _large(rng: random.Random, tables: Tables, vni: int, source_mac: Mac, source: Ip) -> bytes:
    """A packet that is too large for the smallest MTU, and around the size that an error quotes."""
    version = ip_version(source)
    known = sorted(
        key.ip
        for one in (tables.local, tables.remote)
        for key in one
        if key.vni == vni and ip_version(key.ip) == version
    )
    data = rng.randbytes(rng.choice((20, 41, 42, 61, 62, 79, 80, 81, 200)))
    if version == 6:
        to = rng.choice(known or [parse_ip(ADDRESSES_V6[0])])
        payload, protocol = rng.choice(
            (
                (packets.udp(source, to, data), packets.UDP),
                (packets.icmpv6(source, to, rng.choice((128, 2)), data), packets.ICMPV6),
            )
        )
        return packets.ethernet(
            packets.ROUTER, source_mac, packets.ipv6(source, to, payload, protocol=protocol), packets.IPV6
        )
    to = rng.choice(known or [parse_ip(ADDRESSES[0])])
    payload, protocol = rng.choice(
        (
            (packets.udp(source, to, data), packets.UDP),
            (packets.icmp_echo(kind=rng.choice((8, 3)), data=data), packets.ICMP),
        )
    )
    packet = packets.ipv4(source, to, payload, protocol=protocol, fragment=rng.choice((0x4000, 0x4000, 0, 0x4001)))
    return packets.ethernet(packets.ROUTER, source_mac, packet)


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
    """An IPv4 address that somebody in the VPC has, mostly."""
    here = sorted(
        key.ip for one in (tables.local, tables.remote) for key in one if key.vni == vni and ip_version(key.ip) == 4
    )
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
