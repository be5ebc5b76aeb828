"""Shared external addresses: "A shared address" of docs/pipeline.md, executed. Pure but for the table of bindings,
which packets change.

Called by nat.py; snat.h is the same in C. A connection gets a port of the address that its host's blocks have, and
keeps it; only the remote that was spoken to may answer.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final, NamedTuple

import msgspec

from alcor.dataplane.base import SharedAddress
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.hashing import finalize, hash_end
from alcor.dataplane.fake.lb import ends_connection
from alcor.dataplane.fake.packet import ECHO_REPLY, ECHO_REQUEST, TCP_ACK, TCP_SYN, Packet
from alcor.dataplane.fake.policy import SECOND, FlowKey
from alcor.model.addresses import Ip
from alcor.model.blocks import BLOCK_PORTS

MAX_BINDINGS: Final = 262_144
"""Rows; beyond, the one that was used longest ago is forgotten."""
PORT_TRIES: Final = 32


class BindingFlag(IntFlag):
    """Flags of a row of `bindings`."""

    ANSWERED = 1
    CLOSED = 2


class BindingKey(NamedTuple):
    """A connection of a port; `back`: as its remote sees it, the flow's local side being the shared address."""

    flow: FlowKey
    back: bool


class Binding(msgspec.Struct, gc=False):
    """A row of `bindings`: the other side. Clock and flags are kept in the row back."""

    ip: Ip
    vni: int
    ifindex: int
    port: int
    seen_ns: int
    flags: BindingFlag = BindingFlag(0)


class SharingTables(msgspec.Struct):
    """What the maps of shared addresses hold."""

    shared: dict[Ip, SharedAddress] = msgspec.field(default_factory=dict)
    bindings: dict[BindingKey, Binding] = msgspec.field(default_factory=dict)

    def find(self, key: BindingKey) -> Binding | None:
        """The row, which is the one used last now."""
        row = self.bindings.pop(key, None)
        if row is not None:
            self.bindings[key] = row
        return row

    def put(self, key: BindingKey, row: Binding) -> None:
        """The row, whatever was there."""
        self.bindings.pop(key, None)
        self.bindings[key] = row
        if len(self.bindings) > MAX_BINDINGS:
            del self.bindings[next(iter(self.bindings))]


def is_bindable(packet: Packet, *, leaves: bool) -> bool:
    """TCP, UDP, and ICMP echoes that go that way."""
    if packet.protocol in (frames.PROTOCOL_TCP, frames.PROTOCOL_UDP):
        return True
    return packet.is_icmp and packet.icmp_type == (ECHO_REQUEST if leaves else ECHO_REPLY)[4]


def is_over(protocol: int, row: Binding, now_ns: int) -> bool:
    """RFC 5382 REQ-5 (TCP), RFC 4787 REQ-5 (UDP), RFC 5508 REQ-2 (ICMP queries)."""
    life = 300
    if protocol == frames.PROTOCOL_TCP:
        life = 7440 if row.flags == BindingFlag.ANSWERED else 240
    elif protocol == frames.PROTOCOL_ICMP:
        life = 60
    return now_ns - row.seen_ns > life * SECOND


def refresh(row: Binding, packet: Packet, now_ns: int) -> None:
    """A packet of the connection went by."""
    if ends_connection(packet):
        row.flags |= BindingFlag.CLOSED
    if now_ns - row.seen_ns > SECOND // 4:
        row.seen_ns = now_ns


def key_of(packet: Packet, ifindex: int, *, leaves: bool, back: bool = False) -> BindingKey:
    """Of a packet that leaves (or, quoted, left) its local side; an echo's remote port is 0."""
    ends = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
    (local, local_port), (remote, remote_port) = ends if leaves else reversed(ends)
    if packet.protocol == frames.PROTOCOL_ICMP:
        remote_port = 0
    return BindingKey(FlowKey(local, remote, ifindex, local_port, remote_port, packet.protocol), back)


class Wanted(NamedTuple):
    """Who is to be bound: a packet's port and its inner side, and the address that it shares."""

    vni: int
    ifindex: int
    address: Ip
    own: list[int]
    """The host's blocks of it."""


def bind(tables: SharingTables, packet: Packet, wanted: Wanted, now_ns: int) -> int | None:
    """The port of the shared address for a packet that leaves; None: all are taken."""
    forth = key_of(packet, wanted.ifindex, leaves=True)
    inner = Binding(packet.source, wanted.vni, wanted.ifindex, packet.source_port, now_ns)
    known = tables.find(forth)
    port = None
    if known is not None and known.ip == wanted.address and known.port // BLOCK_PORTS in wanted.own:
        port = known.port if _take(tables, _back(forth, known.ip, known.port), inner, now_ns) else None
    if port is None:
        port = _choose(tables, forth, inner, wanted, now_ns)
        if port is None:
            return None
        tables.put(forth, Binding(wanted.address, 0, wanted.ifindex, port, now_ns))
    row = tables.bindings[_back(forth, wanted.address, port)]
    if packet.is_tcp and packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN:
        row.flags = BindingFlag(0)
    refresh(row, packet, now_ns)
    return port


def bound(tables: SharingTables, quoted: Packet, wanted: Wanted) -> int | None:
    """The port outside of the connection that a port's ICMP error is about; None: there is none."""
    row = tables.find(key_of(quoted, wanted.ifindex, leaves=False))
    return row.port if row is not None and row.ip == wanted.address else None


def _choose(tables: SharingTables, forth: BindingKey, inner: Binding, wanted: Wanted, now_ns: int) -> int | None:
    """The first port that is free towards the remote, from a place that the inner side says."""
    value = finalize(hash_end(forth.flow.local, forth.flow.local_port) ^ forth.flow.protocol)
    total = len(wanted.own) * BLOCK_PORTS
    start = value * total >> 32
    for step in range(PORT_TRIES):
        at = (start + step) % total
        port = wanted.own[at // BLOCK_PORTS] * BLOCK_PORTS + at % BLOCK_PORTS
        if _take(tables, _back(forth, wanted.address, port), inner, now_ns):
            return port
    return None


def _take(tables: SharingTables, back: BindingKey, inner: Binding, now_ns: int) -> bool:
    """Whether the port can be had; it is, then."""
    row = tables.find(back)
    if row is not None and (row.vni, row.ip, row.port) == (inner.vni, inner.ip, inner.port):
        row.ifindex = inner.ifindex
        return True
    if row is not None and not is_over(back.flow.protocol, row, now_ns):
        return False
    tables.put(back, inner)
    return True


def _back(forth: BindingKey, ip: Ip, port: int) -> BindingKey:
    return BindingKey(forth.flow._replace(local=ip, local_port=port, ifindex=0), back=True)
