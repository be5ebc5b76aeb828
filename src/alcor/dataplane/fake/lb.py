"""Load balancing on the client's own host: steps B and U of docs/pipeline.md, executed. Pure but for the table of
connections, which packets change.

Called by the pipeline model; lb.h is the same in C.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from alcor.dataplane.base import DRAIN_S, Backend, Service, ServiceCounters, ServiceKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from alcor.dataplane.fake.packet import (
    ECHO_REQUEST,
    TCP_ACK,
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    Packet,
    Part,
    read_packet,
)
from alcor.dataplane.fake.policy import SECOND, FlowKey, PolicyTables, reassemble
from alcor.dataplane.maglev import place_of, places, usable
from alcor.model.addresses import Ip, format_ip

MAX_BALANCED = 262_144
"""Rows; beyond, the one that was used longest ago is forgotten."""
BALANCEABLE = frozenset((PROTOCOL_TCP, PROTOCOL_UDP))
ERROR_HEADER = 8
"""Bytes of an ICMP error before the packet that it quotes."""


class BalancedFlag(IntFlag):
    """Flags of a row of `balanced`."""

    CLOSED = 1
    HAIRPIN = 2
    HAIRPIN_BACK = 4


class Way(IntEnum):
    """Which packets a row of `balanced` is about."""

    FORTH = 0
    """What a client sends."""
    BACK = 1
    """What a backend answers it."""
    OUT = 2
    """What a backend answers to what came from outside: `ip` is the host that it goes to, zeros for this one."""


class BalancedKey(NamedTuple):
    """A connection of a port, one way."""

    flow: FlowKey
    way: Way


class Balanced(msgspec.Struct, gc=False):
    """A row of `balanced`."""

    ip: Ip
    port: int
    flags: BalancedFlag
    slot: int
    epoch: int
    seen_ns: int
    until_ns: int = 0


class ServiceRow(msgspec.Struct):
    """A service as the maps hold it."""

    service: Service
    slot: int
    backends: dict[tuple[Ip, int], tuple[int, bool]]
    """Who may keep connections -> until when (ns; 0: it was not taken out), and whether it failed."""
    counters: list[int] = msgspec.field(default_factory=lambda: [0] * 6)


class BalanceTables(msgspec.Struct):
    """What the maps of load balancing hold."""

    services: dict[ServiceKey, ServiceRow] = msgspec.field(default_factory=dict)
    epochs: dict[int, int] = msgspec.field(default_factory=dict)
    """By slot."""
    balanced: dict[BalancedKey, Balanced] = msgspec.field(default_factory=dict)

    def put(self, service: Service, now_ns: int) -> None:
        """Makes the service so: every connection asks with its next packet whether its backend may keep it."""
        row = self.services.get(service.key)
        if row is None:
            taken = {one.slot for one in self.services.values()}
            slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
            row = self.services[service.key] = ServiceRow(service, slot, {})
        rows = {(one.ip, one.port): (0, one.failed) for one in service.backends}
        for name, (until_ns, failed) in row.backends.items():
            if name not in rows and not 0 < until_ns <= now_ns:
                rows[name] = until_ns or now_ns + DRAIN_S * SECOND, failed
        row.service, row.backends = service, rows
        self.epochs[row.slot] = self.epochs.get(row.slot, 0) + 1

    def remove(self, key: ServiceKey) -> None:
        """An absent one is removed already."""
        row = self.services.pop(key, None)
        if row is not None:
            self.epochs[row.slot] = self.epochs.get(row.slot, 0) + 1

    def counters(self) -> dict[ServiceKey, ServiceCounters]:
        """Traffic per service, sorted."""
        return {key: ServiceCounters(*row.counters) for key, row in sorted(self.services.items())}

    def row_at(self, slot: int) -> ServiceRow | None:
        """The service whose slot it is."""
        return next((row for row in self.services.values() if row.slot == slot), None)


class Choice(NamedTuple):
    """What becomes of a packet for a load balancer's address."""

    packet: Packet
    """As it will be."""
    pinned: BalancedKey
    chosen: Balanced
    service: ServiceKey
    known: bool
    quoted: Packet | None = None
    """It is an ICMP error about a packet of the connection."""

    @property
    def hairpin(self) -> bool:
        return bool(self.chosen.flags & (BalancedFlag.HAIRPIN | BalancedFlag.HAIRPIN_BACK))

    @property
    def exempt(self) -> bool:
        """Policy has nothing to say of it."""
        return self.hairpin or self.quoted is not None


PING, NO_LISTENER, NO_BACKEND, MALFORMED, FRAGMENT = "ping", "no listener", "no backend", "malformed", "fragment"


def choose(
    tables: BalanceTables, policy: PolicyTables, data: bytes, version: int, vni: int, ifindex: int, now_ns: int
) -> Choice | str:
    """Step B: which backend gets the packet `data` for a load balancer's address; or why none does."""
    packet = read_packet(data, version)
    if packet is None:
        return MALFORMED
    if packet.part is not Part.WHOLE and not reassemble(policy, packet, vni):
        return FRAGMENT
    service = ServiceKey(vni, packet.destination, packet.protocol, packet.destination_port)
    if packet.is_icmp:
        if packet.part is Part.WHOLE and packet.selector == ECHO_REQUEST[version] << 8:
            return PING
        return _related(tables, packet, data, service, ifindex) if packet.is_icmp_error else NO_LISTENER
    if packet.protocol not in BALANCEABLE:
        return NO_LISTENER
    if not has_checksum(packet, data):
        return MALFORMED
    flow = FlowKey(
        packet.source,
        packet.destination,
        ifindex,
        packet.source_port,
        packet.destination_port,
        packet.protocol,
    )
    pinned = BalancedKey(flow, way=Way.FORTH)
    row = tables.balanced.get(pinned)
    opening = opens_connection(packet)
    fresh = row is not None and not _is_idle(pinned, row, now_ns)
    known = False
    if row is not None and fresh and not opening and _may_keep(tables, service, row, now_ns):
        chosen, known = row, True
    else:
        picked = _pick(tables, service, packet)
        if isinstance(picked, str):
            return picked
        chosen = picked
        if row is not None and fresh and not row.flags & BalancedFlag.CLOSED:
            known = (row.ip, row.port, row.slot) == (picked.ip, picked.port, picked.slot)
            chosen = row if known else picked
    packet.destination = chosen.ip
    if not chosen.flags & BalancedFlag.HAIRPIN_BACK:
        packet.destination_port = packet.selector = chosen.port
    return Choice(packet, pinned, chosen, service, known)


def has_checksum(packet: Packet, data: bytes) -> bool:
    need = packet.payload + (20 if packet.protocol == PROTOCOL_TCP else 8)
    return packet.part is Part.LATER or len(data) >= need


def _is_idle(key: BalancedKey, row: Balanced, now_ns: int) -> bool:
    open_tcp = key.flow.protocol == PROTOCOL_TCP and not row.flags & BalancedFlag.CLOSED
    return now_ns - row.seen_ns > (432_000 if open_tcp else 120) * SECOND


def _may_keep(tables: BalanceTables, named: ServiceKey, row: Balanced, now_ns: int) -> bool:
    """May the connection keep its backend? Asked again after each change of the service."""
    if row.flags & BalancedFlag.HAIRPIN_BACK:
        return True
    latest = tables.epochs.get(row.slot, 0)
    if row.epoch != latest:
        service = tables.services.get(named)
        if service is None or service.slot != row.slot:
            return False
        state = service.backends.get((row.ip, row.port))
        if state is None or (state[1] and named.protocol == PROTOCOL_UDP):
            return False
        row.until_ns, row.epoch = state[0], latest
    return not row.until_ns or now_ns <= row.until_ns


def _pick(tables: BalanceTables, named: ServiceKey, packet: Packet) -> Balanced | str:
    row = tables.services.get(named)
    if row is None:
        return NO_LISTENER
    backends = usable(row.service)
    if not backends:
        return NO_BACKEND
    place = place_of(packet.source, 0 if row.service.affinity else packet.source_port)
    one: Backend = backends[places(row.service)[place]]
    flags = BalancedFlag.HAIRPIN if one.ip == packet.source else BalancedFlag(0)
    return Balanced(one.ip, one.port, flags, row.slot, tables.epochs.get(row.slot, 0), 0)


def _related(tables: BalanceTables, packet: Packet, data: bytes, service: ServiceKey, ifindex: int) -> Choice | str:
    """An ICMP error for the VIP goes to the backend whose answer it quotes."""
    quoted = read_packet(data[packet.payload + ERROR_HEADER :], packet.version, quoted=True)
    if quoted is None or quoted.part is Part.LATER or quoted.protocol not in BALANCEABLE:
        return NO_LISTENER
    if quoted.source != packet.destination:
        return NO_LISTENER
    flow = FlowKey(
        quoted.destination,
        quoted.source,
        ifindex,
        quoted.destination_port,
        quoted.source_port,
        quoted.protocol,
    )
    pinned = BalancedKey(flow, way=Way.FORTH)
    row = tables.balanced.get(pinned)
    if row is None or row.flags & (BalancedFlag.HAIRPIN | BalancedFlag.HAIRPIN_BACK):
        return NO_LISTENER
    packet.destination = row.ip
    return Choice(packet, pinned, row, service, known=True, quoted=quoted)


def balance(tables: BalanceTables, choice: Choice, frame: bytes, now_ns: int) -> bytes:
    """The frame as it goes to who was chosen, which is remembered."""
    packet, chosen, vip = choice.packet, choice.chosen, choice.service.ip
    if choice.quoted is not None:
        inner = _readdress_quoted(frame, packet, choice.quoted, chosen.ip, chosen.port, source=True)
        return readdress(inner, packet, ETHERNET_LENGTH, chosen.ip, None, source=False)
    back = bool(chosen.flags & BalancedFlag.HAIRPIN_BACK)
    _pin(tables, choice, len(frame), now_ns)
    frame = readdress(frame, packet, ETHERNET_LENGTH, chosen.ip, None if back else chosen.port, source=False)
    if choice.hairpin:
        frame = readdress(frame, packet, ETHERNET_LENGTH, vip, chosen.port if back else None, source=True)
    return frame


def _pin(tables: BalanceTables, choice: Choice, length: int, now_ns: int) -> None:
    key, chosen = choice.pinned, choice.chosen
    row = tables.row_at(chosen.slot)
    ends = ends_connection(choice.packet) and not chosen.flags & BalancedFlag.CLOSED
    back = bool(chosen.flags & BalancedFlag.HAIRPIN_BACK)
    if row is not None and not back:
        row.counters[0] += not choice.known
        row.counters[1] += ends
        row.counters[2] += 1
        row.counters[3] += length
    opens = opens_connection(choice.packet)
    if choice.known and not ends and not opens and now_ns - chosen.seen_ns <= SECOND // 4:
        return
    flags = chosen.flags | (BalancedFlag.CLOSED if ends else 0)
    _keep(tables, key, replace(chosen, flags=flags, seen_ns=now_ns))
    if back:
        return
    flow, closed = key.flow, flags & BalancedFlag.CLOSED
    if flags & BalancedFlag.HAIRPIN:
        answers = BalancedKey(flow._replace(local_port=chosen.port, remote_port=flow.local_port), way=Way.FORTH)
        way = Balanced(chosen.ip, choice.service.port, closed | BalancedFlag.HAIRPIN_BACK, chosen.slot, 0, now_ns)
    else:
        answers = BalancedKey(flow._replace(remote=chosen.ip, remote_port=chosen.port), way=Way.BACK)
        way = Balanced(choice.service.ip, choice.service.port, closed, chosen.slot, 0, now_ns)
    before = tables.balanced.get(answers) if choice.known and not opens else None
    if before is not None:  # that the backend has ended its way stays remembered
        way.flags |= before.flags & BalancedFlag.CLOSED
    _keep(tables, answers, way)


def _keep(tables: BalanceTables, key: BalancedKey, row: Balanced) -> None:
    tables.balanced.pop(key, None)
    tables.balanced[key] = row
    if len(tables.balanced) > MAX_BALANCED:
        del tables.balanced[next(iter(tables.balanced))]


def opens_connection(packet: Packet) -> bool:
    return packet.is_tcp and packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN


def ends_connection(packet: Packet) -> bool:
    return packet.is_tcp and bool(packet.tcp_flags & (TCP_FIN | TCP_RST))


def remember_way(tables: BalanceTables, packet: Packet, ifindex: int, via: Ip, now_ns: int) -> bool:
    """Step O: where the answers go to a packet that the interface is given and that came from outside: to the host
    `via`; zeros: this one. False: such a packet has no answers of its own."""
    if packet.protocol not in BALANCEABLE or packet.part is Part.LATER:
        return False
    ends = (packet.destination, packet.source, ifindex, packet.destination_port, packet.source_port, packet.protocol)
    key = BalancedKey(FlowKey(*ends), Way.OUT)
    known = tables.balanced.get(key)
    flags = BalancedFlag.CLOSED if ends_connection(packet) else BalancedFlag(0)
    if known is not None and not (packet.is_tcp and packet.tcp_flags & TCP_SYN):
        flags |= known.flags
    fresh = known is not None and (known.ip, known.flags) == (via, flags) and now_ns - known.seen_ns <= SECOND // 4
    if not fresh:
        _keep(tables, key, Balanced(via, 0, flags, 0, 0, now_ns))
    return True


def way_out(tables: BalanceTables, policy: PolicyTables, data: bytes, vni: int, ifindex: int, now_ns: int) -> Ip | None:
    """Step O: the host that an IPv4 packet of the interface goes back to (zeros: this one), as it answers what came
    from outside; None: it does not."""
    packet = read_packet(data, 4)
    if packet is None or (packet.part is not Part.WHOLE and not reassemble(policy, packet, vni)):
        return None
    ends = (packet.source, packet.destination, ifindex, packet.source_port, packet.destination_port, packet.protocol)
    of: Packet | None = packet
    if packet.is_icmp_error:
        of = read_packet(data[packet.payload + ERROR_HEADER :], 4, quoted=True)
        if of is None or of.part is Part.LATER:
            return None
        ends = (of.destination, of.source, ifindex, of.destination_port, of.source_port, of.protocol)
    if ends[-1] not in BALANCEABLE:
        return None
    key = BalancedKey(FlowKey(*ends), Way.OUT)
    row = tables.balanced.get(key)
    return None if row is None or _is_idle(key, row, now_ns) else row.ip


class Answered(NamedTuple):
    """What step U makes of a frame."""

    frame: bytes
    """As it is delivered to the interface."""
    text: str = ""
    """What happened, in words; empty: nothing."""
    done: bool = False
    """It came from a backend, and now from the VIP."""


def unbalance(
    tables: BalanceTables, policy: PolicyTables, frame: bytes, vni: int, ifindex: int, version: int, now_ns: int
) -> Answered:
    """Step U: what a backend answers comes from the VIP."""
    data = frame[ETHERNET_LENGTH:]
    packet = read_packet(data, version)
    if packet is None or (packet.part is not Part.WHOLE and not reassemble(policy, packet, vni)):
        return Answered(frame)
    if packet.is_icmp_error:
        return _unbalance_error(tables, packet, frame, ifindex)
    if packet.protocol not in BALANCEABLE or not has_checksum(packet, data):
        return Answered(frame)
    flow = FlowKey(
        packet.destination,
        packet.source,
        ifindex,
        packet.destination_port,
        packet.source_port,
        packet.protocol,
    )
    key = BalancedKey(flow, way=Way.BACK)
    row = tables.balanced.get(key)
    if row is None or _is_idle(key, row, now_ns):
        return Answered(frame)
    service = tables.row_at(row.slot)
    if service is not None:
        service.counters[4] += 1
        service.counters[5] += len(frame)
    if ends_connection(packet):
        if service is not None and packet.tcp_flags & TCP_RST and not row.flags & BalancedFlag.CLOSED:
            service.counters[1] += 1
        row.flags |= BalancedFlag.CLOSED
    if now_ns - row.seen_ns > SECOND // 4:
        row.seen_ns = now_ns
    text = f"U: the answer of {format_ip(packet.source)} comes from {format_ip(row.ip)} port {row.port}"
    return Answered(readdress(frame, packet, ETHERNET_LENGTH, row.ip, row.port, source=True), text, done=True)


def _unbalance_error(tables: BalanceTables, packet: Packet, frame: bytes, ifindex: int) -> Answered:
    at = ETHERNET_LENGTH + packet.payload + ERROR_HEADER
    quoted = read_packet(frame[at:], packet.version, quoted=True)
    if quoted is None or quoted.part is Part.LATER or quoted.protocol not in BALANCEABLE:
        return Answered(frame)
    if quoted.source != packet.destination:
        return Answered(frame)
    flow = FlowKey(
        quoted.source,
        quoted.destination,
        ifindex,
        quoted.source_port,
        quoted.destination_port,
        quoted.protocol,
    )
    row = tables.balanced.get(BalancedKey(flow, way=Way.BACK))
    if row is None:
        return Answered(frame)
    frame = _readdress_quoted(frame, packet, quoted, row.ip, row.port, source=False)
    done = packet.source == quoted.destination
    if done:
        frame = readdress(frame, packet, ETHERNET_LENGTH, row.ip, None, source=True)
    return Answered(frame, f"U: an error about a packet to {format_ip(row.ip)} port {row.port}", done)


# ---- rewriting ----


def readdress(frame: bytes, packet: Packet, at: int, ip: Ip, port: int | None, *, source: bool) -> bytes:
    """The frame whose packet begins at `at`, with another source or destination; checksums follow (RFC 1624)."""
    transport, edits = at + packet.payload, [_address_edit(packet, at, ip, source=source)]
    if packet.part is Part.LATER:
        return _edit(frame, packet, at, edits, None)
    if packet.is_icmp:
        check = transport + 2 if packet.protocol == PROTOCOL_ICMPV6 else None
        return _edit(frame, packet, at, edits, check)
    if port is not None:
        edits.append((transport + (0 if source else 2), port.to_bytes(2, "big")))
    check = transport + (16 if packet.protocol == PROTOCOL_TCP else 6)
    if packet.protocol == PROTOCOL_UDP and frame[check : check + 2] == b"\0\0":
        check = None
    return _edit(frame, packet, at, edits, check)


def _readdress_quoted(frame: bytes, packet: Packet, quoted: Packet, ip: Ip, port: int, *, source: bool) -> bytes:
    """The same, of the packet that an ICMP error quotes: the error's checksum covers all of it."""
    at = ETHERNET_LENGTH + packet.payload + ERROR_HEADER
    place = at + quoted.payload + (0 if source else 2)
    edits = [_address_edit(quoted, at, ip, source=source), (place, port.to_bytes(2, "big"))]
    check = ETHERNET_LENGTH + packet.payload + 2
    # Of IPv4 only the port: the quoted header's own checksum takes the address up.
    covered = edits[1:] if packet.version == 4 else edits
    return _edit(frame, quoted, at, edits, check, covered)


_Edit = tuple[int, bytes]


def _address_edit(packet: Packet, at: int, ip: Ip, *, source: bool) -> _Edit:
    if packet.version == 4:
        return at + (12 if source else 16), frames.v4(ip)
    return at + (8 if source else 24), ip


def _edit(
    frame: bytes, packet: Packet, at: int, edits: list[_Edit], check: int | None, covered: list[_Edit] | None = None
) -> bytes:
    """Makes the edits, the first of which is the address; `covered` (all) are in the checksum at `check`."""
    found = bytearray(frame)
    if check is not None:
        number = int.from_bytes(frame[check : check + 2], "big")
        for place, new in edits if covered is None else covered:
            number = _fix(number, frame[place : place + len(new)], new)
        udp = packet.protocol == PROTOCOL_UDP and covered is None
        found[check : check + 2] = (number or (0xFFFF if udp else 0)).to_bytes(2, "big")
    if packet.version == 4:
        place, new = edits[0]
        number = _fix(int.from_bytes(frame[at + 10 : at + 12], "big"), frame[place : place + 4], new)
        found[at + 10 : at + 12] = number.to_bytes(2, "big")
    for place, new in edits:
        found[place : place + len(new)] = new
    return bytes(found)


def _fix(number: int, old: bytes, new: bytes) -> int:
    for place in range(0, len(old), 2):
        number = frames.update_checksum(
            number, int.from_bytes(old[place : place + 2], "big"), int.from_bytes(new[place : place + 2], "big")
        )
    return number
