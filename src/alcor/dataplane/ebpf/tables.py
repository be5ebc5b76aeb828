"""The rows of the ebpf driver's tables, as Python records and as the bytes that the compiled program reads. Pure.

Called by program.py, the driver, its wiring and the differential tests. `alcor.h` has the same layouts in C and
docs/pipeline.md says what they mean. Numbers are little- or big-endian as the machine is; addresses and the VXLAN port
are in network order.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import IntEnum, IntFlag
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from alcor.dataplane.base import LocalPort, Miss, PortCounters, Request
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import Endpoint, EndpointColumns, EndpointKey
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, ip_version, with_link_local
from alcor.model.ids import Id

IFINDEX: Final = struct.Struct("=I")
"""Key of `ports` and `counters`."""
PORT: Final = struct.Struct("=16sII6sHHHHBxQ")
ADDRESS_KEY: Final = struct.Struct("=I16s")
"""Key of `local` and `remote`."""
VNI: Final = struct.Struct("=I")
"""What an ADDRESS_KEY begins with."""
LOCAL: Final = struct.Struct("=IH6sHH")
MAC_KEY: Final = struct.Struct("=I6s2x")
REMOTE: Final = struct.Struct("=16s6sHI")
"""Value of `remote` and `forwards`."""
REMOTE_TAIL: Final = struct.Struct("=HI")
"""What it ends with, after host and MAC."""
Batch = tuple[bytes, bytes, int]
"""Keys, values and how many of them."""
MISS: Final = struct.Struct("=I16sIII")
"""What is before the frame in a record of `misses`."""
REQUEST: Final = struct.Struct("=16sIII4x")
"""What is before the frame in a record of `requests`."""
MARK_TO_PORT: Final = 0x80000000
"""In the mark of a frame that comes back: it is for the port, not from it."""
MARK_OUTSIDE: Final = 0x40000000
"""Likewise: it waited for an EIP, and the rest of the mark is the external device's ifindex, not a port's."""
MARK_CAME_IN: Final = MARK_OUTSIDE | MARK_TO_PORT
"""The mark of a frame that waited and comes in again at the external device."""
MISS_RATE: Final = struct.Struct("=QI4x")
SENDER_KEY: Final = struct.Struct("=II6s2x16s")
SENDER_VALUE: Final = IFINDEX.pack(1)
FLOW_KEY: Final = struct.Struct("=16s16sI2s2sB3x")
FLOW: Final = struct.Struct("=QIH2sBBB5x")
TRAFFIC: Final = struct.Struct("=4Q")
DROP_KEY: Final = struct.Struct("=II")
DROP_COUNT: Final = struct.Struct("=Q")
ROUTER: Final = struct.Struct("=16s16s")
"""Value of `routers`."""
CONFIG: Final = struct.Struct("=16sI2s2x4sII")
CONFIG_KEY: Final = IFINDEX.pack(0)
EXTERNAL: Final = struct.Struct("=I6s2x")
EIP: Final = struct.Struct("=16sII4s4s")
"""eips.py says what is in it."""
FORWARDING_KEY: Final = struct.Struct("=I16s2sBx")
FORWARDING: Final = struct.Struct("=16sII4s4s2s2x")
SHARED: Final = struct.Struct("=4s4sIII32s4xQ")
BLOCK_KEY: Final = struct.Struct("=16sI")
BINDING: Final = struct.Struct("=16sIIQ2sB5x")

VXLAN_PORT: Final = 4789
"""RFC 7348's UDP port."""


class PortFlag(IntFlag):
    """Flags of a row of `ports`."""

    ROUTED = 1
    PEER = 2
    UP = 4
    OPEN = 8
    PAIRS = 16
    ROUTES = 32
    SERVED = 256
    ANSWERS = 512
    """The programs set it; it says nothing of how the port is to be."""


class EndpointFlag(IntFlag):
    """Flags of a row of `local`."""

    GATEWAY = 1
    PEER = 2
    DOWN = 4
    VIP = 8
    BALANCED = 16


class EndpointUse(IntEnum):
    """How a row of `remote` came there, and whether packets follow it."""

    PRELOADED = 0
    IDLE = 1
    RECENT = 2
    ABSENT = 3


class Verdict(IntEnum):
    """`skb->cb[0]` after a run; `cb[1]` is an ifindex (DELIVER, REPLY, HOLD, SERVE, EXTERNAL, TURN), a DropReason
    (DROP) or a queue (QUEUE); a drop counts at the interface `cb[2]`; `cb[3]` is the next hop (EXTERNAL)."""

    DELIVER = 1
    TUNNEL = 2
    REPLY = 3
    DROP = 4
    PASS = 5
    HOLD = 6
    SERVE = 7
    QUEUE = 8
    EXTERNAL = 9
    TURN = 10


class Queues(NamedTuple):
    """The numbers of the queues in which what a port (or an EIP) sends, and what is for it, waits; 0: it does not."""

    sent: int
    received: int


NO_QUEUES: Final = Queues(0, 0)
DSCP_MARKED: Final = 0x40


class PortRow(NamedTuple):
    """A row of `ports`."""

    id: Id
    vni: int
    mtu: int
    mac: Mac
    flags: PortFlag
    identity: int
    digest: int
    queues: Queues = NO_QUEUES
    dscp: int = 0
    """DSCP_MARKED and what its packets are marked with; 0: they are not."""


class LocalRow(NamedTuple):
    """A row of `local`; `ifindex` 0 for a gateway."""

    ifindex: int
    flags: EndpointFlag
    mac: Mac
    identity: int = 0
    queue: int = 0
    """Where what is for it waits; 0: it does not."""


class MacKey(NamedTuple):
    """A key of `macs`: a port of this host."""

    vni: int
    mac: Mac


class HostConfig(NamedTuple):
    """The row of `config`: this host's tunnel end."""

    underlay_ip: Ip
    underlay_ifindex: int
    vxlan_port: int = VXLAN_PORT
    onlink_length: int = 0
    """Prefix length of `underlay_ip` within which every host is a direct neighbour on the interface; spares a route
    lookup per packet. 0: the kernel's routes decide."""
    held_ifindex: int = 0
    """Where packets that were held come back; 0: nowhere."""
    miss_rate: int = 0
    """Packets of a port that are held in a second; 0: any number."""


class Traffic(NamedTuple):
    """A row of `counters`, all CPUs together."""

    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int


GATEWAY_VALUE: Final = LOCAL.pack(0, EndpointFlag.GATEWAY, ROUTER_MAC, 0, 0)


def pack_ifindex(ifindex: int) -> bytes:
    """Key of `ports` and `counters`."""
    return IFINDEX.pack(ifindex)


def unpack_ifindex(key: bytes) -> int:
    """The ifindex in a key of `ports` or `counters`."""
    return int(IFINDEX.unpack(key)[0])


def pack_port(row: PortRow) -> bytes:
    """Value of `ports`."""
    identifier, vni, mtu, mac, flags, identity, digest, queues, dscp = row
    return PORT.pack(identifier, vni, mtu, mac, flags, identity, *queues, dscp, digest)


def unpack_port(value: bytes) -> PortRow:
    """A row of `ports` from its value."""
    identifier, vni, mtu, mac, flags, identity, sent, received, dscp, digest = PORT.unpack(value)
    queues = Queues(sent, received)
    return PortRow(Id(identifier), vni, mtu, Mac(mac), PortFlag(flags), identity, digest, queues, dscp)


def pack_key(key: EndpointKey) -> bytes:
    """Key of `local` and `remote`."""
    return ADDRESS_KEY.pack(*key)


def unpack_key(key: bytes) -> EndpointKey:
    """The address that a key of `local` or `remote` names."""
    vni, ip = ADDRESS_KEY.unpack(key)
    return EndpointKey(vni, Ip(ip))


def pack_local(row: LocalRow) -> bytes:
    """Value of `local`."""
    return LOCAL.pack(*row)


def unpack_local(value: bytes) -> LocalRow:
    """A row of `local` from its value."""
    ifindex, flags, mac, identity, queue = LOCAL.unpack(value)
    return LocalRow(ifindex, EndpointFlag(flags), Mac(mac), identity, queue)


def pack_endpoint(endpoint: Endpoint, use: EndpointUse = EndpointUse.PRELOADED) -> bytes:
    """Value of `remote`."""
    return REMOTE.pack(endpoint.host_ip, endpoint.mac, endpoint.identity, use)


def unpack_endpoint(value: bytes) -> Endpoint:
    """A row of `remote` from its value."""
    host_ip, mac, identity, _ = REMOTE.unpack(value)
    return Endpoint(Mac(mac), Ip(host_ip), identity)


def unpack_use(value: bytes) -> EndpointUse:
    """How a row of `remote` came there."""
    return EndpointUse(REMOTE.unpack(value)[3])


def unpack_miss(record: bytes) -> Miss:
    """A record of `misses`."""
    vni, ip, ifindex, length, gso_size = MISS.unpack_from(record)
    return Miss(EndpointKey(vni, Ip(ip)), ifindex, record[MISS.size : MISS.size + length], gso_size)


def unpack_request(record: bytes) -> Request:
    """A record of `requests`."""
    identifier, ifindex, length, gso_size = REQUEST.unpack_from(record)
    return Request(Id(identifier), ifindex, record[REQUEST.size : REQUEST.size + length], gso_size)


def pack_vnis(vnis: Sequence[int]) -> tuple[bytes, bytes]:
    """VNIs as keys and values of `on_demand`."""
    return b"".join([IFINDEX.pack(vni) for vni in vnis]), SENDER_VALUE * len(vnis)


def unpack_vni(key: bytes) -> int:
    """The VNI in a key of `on_demand`."""
    return int(IFINDEX.unpack(key)[0])


def pack_config(config: HostConfig) -> bytes:
    """Value of `config`."""
    mask = (0xFFFFFFFF << (32 - config.onlink_length)) & 0xFFFFFFFF
    return CONFIG.pack(
        config.underlay_ip,
        config.underlay_ifindex,
        config.vxlan_port.to_bytes(2, "big"),
        mask.to_bytes(4, "big"),
        config.held_ifindex,
        config.miss_rate,
    )


def unpack_config(value: bytes) -> HostConfig:
    """The row of `config` from its value."""
    underlay_ip, underlay_ifindex, vxlan_port, mask, held, rate = CONFIG.unpack(value)
    onlink_length = int.from_bytes(mask, "big").bit_count()
    return HostConfig(Ip(underlay_ip), underlay_ifindex, int.from_bytes(vxlan_port, "big"), onlink_length, held, rate)


def pack_drop_key(ifindex: int, reason: DropReason) -> bytes:
    """Key of `drops`; ifindex 0 where no port is to blame."""
    return DROP_KEY.pack(ifindex, reason)


def unpack_drop_key(key: bytes) -> tuple[int, DropReason]:
    """The ifindex and the reason in a key of `drops`."""
    ifindex, reason = DROP_KEY.unpack(key)
    return ifindex, DropReason(reason)


# ---- records of dataplane.base as rows ----


def port_digest(port: LocalPort) -> int:
    """A 64-bit hash of the whole port: equal digests in a row and of the desired port mean nothing to do."""
    return int.from_bytes(blake2b(msgspec.msgpack.encode(port), digest_size=8).digest(), "little")


def port_row(port: LocalPort, *, peer: bool, queues: Queues = NO_QUEUES) -> PortRow:
    """The row of `ports`; `peer` when the workload is behind a veth in another namespace."""
    # Products, not |=: of flags that is 2 us each, by profile.
    flags = PortFlag(
        PortFlag.UP * port.admin_state_up
        | PortFlag.ROUTED * port.routed
        | PortFlag.PEER * peer
        | PortFlag.OPEN * (not port.port_security)
        | PortFlag.PAIRS * bool(port.pairs)
        | PortFlag.ROUTES * bool(port.routes)
        | PortFlag.SERVED * port.served
    )
    dscp = 0 if port.dscp is None else DSCP_MARKED | port.dscp
    return PortRow(port.id, port.vni, port.mtu, port.mac, flags, port.identity, port_digest(port), queues, dscp)


def port_endpoints(
    port: LocalPort, ifindex: int, *, peer: bool, queues: Queues = NO_QUEUES
) -> tuple[tuple[EndpointKey, LocalRow], ...]:
    """The rows of `local` of a port behind `ifindex`, one for each of its addresses."""
    row = port_local(port, ifindex, peer=peer, queues=queues)
    own = tuple((EndpointKey(port.vni, ip), row) for ip in _own_ips(port))
    return own + tuple((EndpointKey(port.vni, claim.ip), row._replace(mac=claim.mac)) for claim in port.claims)


def port_local(port: LocalPort, ifindex: int, *, peer: bool, queues: Queues = NO_QUEUES) -> LocalRow:
    """What `local` says at each of the port's addresses, and `macs` at its MAC."""
    flags = EndpointFlag(
        EndpointFlag.PEER * peer | EndpointFlag.DOWN * (not port.admin_state_up) | EndpointFlag.BALANCED * port.balanced
    )
    return LocalRow(ifindex, flags, port.mac, port.identity, queues.received)


def port_routers(port: LocalPort) -> bytes:
    """Value of `routers`: the first gateway of each family, zeros where there is none or nothing routes."""
    found: dict[int, Ip] = {}
    for one in port.addresses if port.routed else ():
        if one.gateway is not None:
            found.setdefault(ip_version(one.gateway), one.gateway)
    return ROUTER.pack(found.get(4, bytes(16)), found.get(6, bytes(16)))


def pack_macs(rows: Sequence[tuple[MacKey, LocalRow]]) -> tuple[bytes, bytes]:
    """(VNI and MAC, row) pairs as keys and values of `macs`."""
    return pack_mac_keys([key for key, _ in rows]), b"".join([LOCAL.pack(*row) for _, row in rows])


def pack_mac_keys(keys: Iterable[MacKey]) -> bytes:
    """Keys of `macs`."""
    return b"".join([MAC_KEY.pack(vni, mac) for vni, mac in keys])


def unpack_mac_key(raw: bytes) -> MacKey:
    """The VNI and MAC in a key of `macs`."""
    vni, mac = MAC_KEY.unpack(raw)
    return MacKey(vni, Mac(mac))


def port_ips(port: LocalPort) -> tuple[Ip, ...]:
    """The addresses that the port answers for: its own, and what it claims."""
    return _own_ips(port) + tuple(claim.ip for claim in port.claims)


def _own_ips(port: LocalPort) -> tuple[Ip, ...]:
    """With IPv6 the link-local address that its MAC makes is among them."""
    return with_link_local(tuple([address.ip for address in port.addresses]), port.mac)


def pack_external(ifindex: int, mac: Mac) -> bytes:
    """The row of `external`; 0: there is no such device."""
    return EXTERNAL.pack(ifindex, mac)


def sender_keys(port: LocalPort, ifindex: int) -> list[bytes]:
    """The keys of `senders` of a port behind `ifindex`, one for each of its pairs."""
    keys = []
    for prefix, mac in ((pair.prefix, pair.mac) for pair in port.pairs):
        bits = prefix.length + (96 if prefix.version == 4 else 0)
        keys.append(SENDER_KEY.pack(96 + bits, ifindex, mac, prefix.base))
    return keys


# ---- many rows at once, packed without gaps for `BpfMap.update_batch` ----


def pack_ports(rows: Sequence[tuple[int, PortRow]]) -> tuple[bytes, bytes]:
    """(ifindex, row) pairs as keys and values of `ports`."""
    return (
        b"".join([IFINDEX.pack(ifindex) for ifindex, _ in rows]),
        b"".join([pack_port(row) for _, row in rows]),
    )


def pack_locals(rows: Sequence[tuple[EndpointKey, LocalRow]]) -> tuple[bytes, bytes]:
    """(address, row) pairs as keys and values of `local`."""
    return pack_keys([key for key, _ in rows]), b"".join([LOCAL.pack(*row) for _, row in rows])


def pack_endpoints(
    rows: Sequence[tuple[EndpointKey, Endpoint]], use: EndpointUse = EndpointUse.PRELOADED
) -> tuple[bytes, bytes]:
    """(address, endpoint) pairs as keys and values of `remote` and `forwards`."""
    pack, number = REMOTE.pack, int(use)
    values = [pack(end.host_ip, end.mac, end.identity, number) for _, end in rows]
    return pack_keys([key for key, _ in rows]), b"".join(values)


def pack_columns(columns: EndpointColumns) -> tuple[bytes, bytes]:
    """The same of columns: values are put together from pieces that are packed once an identity, not once a row."""
    head = VNI.pack(columns.vni)
    tails = {identity: REMOTE_TAIL.pack(identity, EndpointUse.PRELOADED) for identity in set(columns.identities)}
    pieces: list[bytes] = [b""] * (3 * len(columns))
    pieces[::3], pieces[1::3] = columns.host_ips, columns.macs
    pieces[2::3] = map(tails.__getitem__, columns.identities)
    return head + head.join(columns.ips) if columns else b"", b"".join(pieces)


def gathered(batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    """The same rows in fewer batches: neighbours become one as long as it has at most that many."""
    some: list[Batch] = []
    count = 0
    for batch in batches:
        if some and count + batch[2] > most:
            yield _joined(some)
            some, count = [], 0
        some.append(batch)
        count += batch[2]
    if some:
        yield _joined(some)


def _joined(batches: Sequence[Batch]) -> Batch:
    keys, values, counts = zip(*batches, strict=True)
    return b"".join(keys), b"".join(values), sum(counts)


def pack_absent(keys: Sequence[EndpointKey]) -> tuple[bytes, bytes]:
    """Addresses that nobody has as keys and values of `remote`."""
    return pack_keys(keys), REMOTE.pack(bytes(16), bytes(6), 0, EndpointUse.ABSENT) * len(keys)


def pack_gateways(keys: Sequence[EndpointKey]) -> tuple[bytes, bytes]:
    """Gateways' addresses as keys and values of `local`."""
    return pack_keys(keys), GATEWAY_VALUE * len(keys)


def pack_vips(vips: Sequence[tuple[EndpointKey, Mac]]) -> tuple[bytes, bytes]:
    """Load balancers' addresses and MACs as keys and values of `local`."""
    values = b"".join([LOCAL.pack(*LocalRow(0, EndpointFlag.VIP, mac)) for _, mac in vips])
    return pack_keys([key for key, _ in vips]), values


def pack_keys(keys: Collection[EndpointKey]) -> bytes:
    """Keys of `local` and `remote`."""
    if len(vnis := {vni for vni, _ in keys}) == 1:  # as ADDRESS_KEY has them, in a quarter of the time
        head = VNI.pack(vnis.pop())
        return head + head.join([ip for _, ip in keys])
    return b"".join([ADDRESS_KEY.pack(vni, ip) for vni, ip in keys])


def pack_ifindexes(ifindexes: Iterable[int]) -> bytes:
    """Keys of `ports` and `counters`."""
    return b"".join([IFINDEX.pack(ifindex) for ifindex in ifindexes])


# ---- counters ----


def port_counters(traffic: Traffic, dropped: dict[DropReason, int]) -> PortCounters:
    """What base.py calls a port's counters."""
    return PortCounters(
        sent_packets=traffic.sent_packets,
        sent_bytes=traffic.sent_bytes,
        received_packets=traffic.received_packets,
        received_bytes=traffic.received_bytes,
        dropped={reason.name.lower(): count for reason, count in sorted(dropped.items())},
    )
