"""Random load balancers, and packets between their clients and their backends. Pure. Called by worlds."""

import random
import struct

from tests.dataplane import packets, talks
from tests.dataplane.talks import PORTS, Talk

from alcor.dataplane.base import Backend, Service, ServiceKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.tables import LocalFlag, LocalRow, PortFlag, Tables
from alcor.model.addresses import Ip, Mac, ip_version, parse_ip

VIPS = ("10.0.0.200", "10.0.1.200", "2001:db8::c8")
VIP_MAC = Mac(b"\xfa\x16\x3e\xaa\0\1")


def random_balancers(rng: random.Random, tables: Tables, vnis: tuple[int, ...]) -> None:
    """Puts addresses of load balancers into the tables, and services there."""
    for vni in vnis:
        for vip in VIPS:
            if rng.random() < 0.7:
                tables.local[EndpointKey(vni, parse_ip(vip))] = LocalRow(0, int(LocalFlag.VIP), VIP_MAC)
    for service in random_services(rng, tables):
        tables.balance.put(service, 1 << 60)


def random_services(rng: random.Random, tables: Tables) -> list[Service]:
    """Services at addresses that are there, of few backends, so that answers are of the right one often."""
    found = {}
    pools: dict[tuple[int, int], list[tuple[Backend, ...]]] = {}  # few: each one's table takes long to make
    for key in sorted(key for key, row in tables.local.items() if row.flags & LocalFlag.VIP):
        version = ip_version(key.ip)
        if (key.vni, version) not in pools:
            pools[key.vni, version] = [_random_backends(rng, tables, key.vni, version) for _ in range(2)]
        for _ in range(3):
            named = ServiceKey(key.vni, key.ip, rng.choice((6, 6, 17)), rng.choice(PORTS))
            found[named] = Service(named, rng.choice(pools[key.vni, version]), affinity=rng.random() < 0.4)
    return [found[named] for named in sorted(found)]


def _random_backends(rng: random.Random, tables: Tables, vni: int, version: int) -> tuple[Backend, ...]:
    """Somebodies of the VPC, the client too perhaps."""
    known = sorted({one.ip for table in (tables.local, tables.remote) for one in table if one.vni == vni})
    hosts = [ip for ip in known if ip_version(ip) == version and not ip.startswith(b"\xfe\x80")]
    count = rng.choice((0, 1, 1, 2, 3, 5))
    return tuple(
        Backend(ip, rng.choice(PORTS), rng.choice((0, 1, 1, 1, 7)), rng.random() < 0.2)
        for ip in sorted(rng.sample(hosts, min(count, len(hosts))))
    )


def random_changes(rng: random.Random, tables: Tables) -> tuple[list[ServiceKey], list[Service]]:
    """What becomes of the services: some go, some change, some come. Made so in the tables."""
    gone = [key for key in sorted(tables.balance.services) if rng.random() < 0.2]
    wanted = [service for service in random_services(rng, tables) if rng.random() < 0.4]
    changed = [
        Service(key, row.service.backends[1:], row.service.affinity)
        for key, row in sorted(tables.balance.services.items())
        if key not in gone and key not in {one.key for one in wanted} and rng.random() < 0.4
    ]
    for key in gone:
        tables.balance.remove(key)
    for service in (*wanted, *changed):
        tables.balance.put(service, 1 << 60)
    return gone, [*wanted, *changed]


def random_dealing(rng: random.Random, tables: Tables) -> Talk | None:
    """Of a port of the host with a load balancer's address, where there is one; of an unfiltered port mostly."""
    ports = [(ifindex, port) for ifindex, port in sorted(tables.ports.items()) if port.flags & PortFlag.UP]
    free = [one for one in ports if not one[1].identity and one[1].flags & PortFlag.ROUTED]
    ifindex, port = rng.choice(free if free and rng.random() < 0.7 else ports)
    own = sorted(key.ip for key, row in tables.local.items() if row.ifindex == ifindex)
    local = rng.choice(own)
    services = [
        key
        for key, row in sorted(tables.balance.services.items())
        if key.vni == port.vni and ip_version(key.ip) == ip_version(local) and (row.backends or rng.random() < 0.2)
    ]
    if not services:
        return None
    named = rng.choice(services)
    protocol = named.protocol if rng.random() < 0.95 else rng.choice((1, 6, 17, 132))
    sport = rng.choice((4000, 4001, 4002, *PORTS))
    return Talk(ifindex, port.vni, local, named.ip, protocol, sport, named.port, begun_here=True)


def random_word(rng: random.Random, tables: Tables, dealing: Talk) -> tuple[int, bytes]:
    """A packet of the client to the address, or of one of its backends to the client, or an error about one."""
    if rng.random() < 0.15:
        return talks.random_word(rng, tables, dealing)
    row = tables.balance.services.get(ServiceKey(dealing.vni, dealing.remote, dealing.protocol, dealing.dport))
    client, vip = (dealing.local, dealing.sport), (dealing.remote, dealing.dport)
    backend = rng.choice(sorted(row.backends)) if row is not None and row.backends else vip
    forth, error = rng.random() < 0.6, rng.random() < 0.15
    if backend[0] == client[0] and not forth:
        # To itself: it answers the address.
        source, destination, about = (client[0], backend[1]), (vip[0], client[1]), None
    elif forth:
        source, destination, about = client, vip, (vip, client)
    else:
        source, destination, about = backend, client, (client, backend)
    if error and about is not None:
        packet = error_about(rng, dealing.protocol, source[0], destination[0], *about)
    else:
        packet = packet_between(rng, dealing.protocol, source, destination)
    return _sent(rng, tables, dealing, source[0], packet)


End = tuple[Ip, int]


def _sent(rng: random.Random, tables: Tables, dealing: Talk, source: Ip, packet: bytes) -> tuple[int, bytes]:
    """The packet where it comes in: at its sender's interface, or out of the tunnel."""
    ethertype = packets.IPV4 if ip_version(source) == 4 else packets.IPV6
    here = tables.local.get(EndpointKey(dealing.vni, source))
    if here is not None and here.ifindex:
        vip = packets.ROUTER if rng.random() < 0.7 else VIP_MAC
        return here.ifindex, packets.ethernet(vip, here.mac, packet, ethertype)
    there = tables.remote.get(EndpointKey(dealing.vni, source))
    identity = there.identity if there is not None else 0
    local = tables.local[EndpointKey(dealing.vni, dealing.local)]
    inner = packets.ethernet(local.mac, packets.ROUTER, packet, ethertype)
    head = struct.pack("!II", (0x88 if identity else 0x08) << 24 | identity, dealing.vni << 8)
    return 0, packets.overlay("172.16.0.2", "172.16.0.1", head + inner, port=tables.config.vxlan_port)


def packet_between(rng: random.Random, protocol: int, source: End, destination: End) -> bytes:
    flags = rng.choice((0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04))
    payload = packets.ports(protocol, source[1], destination[1], flags=flags, data=rng.randbytes(rng.randrange(40)))
    if rng.random() < 0.7:
        at = 16 if protocol == packets.TCP else 6
        payload = payload[:at] + rng.randbytes(2) + payload[at + 2 :]
    if ip_version(source[0]) == 6:
        if rng.random() < 0.15:
            offset = rng.choice((1, 1, 8, 9))
            payload, protocol = struct.pack("!BxHI", protocol, offset, rng.choice((1, 2))) + payload, 44
        return packets.ipv6(source[0], destination[0], payload, protocol=protocol)
    return packets.ipv4(
        source[0],
        destination[0],
        payload,
        protocol=protocol,
        fragment=rng.choice((0x4000,) * 8 + (0x2000, 7)),
        options=rng.choice((b"", b"", b"", b"\x01" * 8)),
        identification=rng.choice((1, 2)),
    )


def error_about(rng: random.Random, protocol: int, source: Ip, destination: Ip, quoting: End, quoted_to: End) -> bytes:
    quoted = packets.ports(protocol, quoting[1], quoted_to[1], data=b"quoted")[: rng.choice((8, 8, 28))]
    if ip_version(source) == 4:
        about = packets.ipv4(quoting[0], quoted_to[0], quoted, protocol=protocol, total_length=rng.choice((60, 1500)))
        bare = struct.pack("!BBHI", rng.choice((3, 3, 11)), 4, 0, 1400) + about
        message = bare[:2] + struct.pack("!H", packets.internet_checksum(bare)) + bare[4:]
        return packets.ipv4(source, destination, message, protocol=packets.ICMP)
    about = packets.ipv6(quoting[0], quoted_to[0], quoted, protocol=protocol, length=rng.choice((40, 1400)))
    told = packets.icmpv6(source, destination, rng.choice((1, 2)), bytes(4) + about)
    return packets.ipv6(source, destination, told, protocol=packets.ICMPV6)
