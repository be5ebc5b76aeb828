"""What happens to a packet on a host: the executable model of docs/pipeline.md, step by step. Pure.

Called by the fake driver (which forwards with it) and by the differential tests, which hold the compiled program of the
`ebpf` driver against it byte by byte. Read it to learn what Alcor's data plane does: `from_port` is a packet that a
workload sent, `from_overlay` one that came out of the tunnel. A `Verdict` says what becomes of the packet, and why.

Numbers in the step texts are those of docs/pipeline.md. IPv4 only for now; keys already carry 128 bits.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

import msgspec

from alcor.dataplane.base import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import (
    ARP_REPLY,
    ARP_REQUEST,
    ETHERNET_LENGTH,
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    ICMP_LENGTH,
    IPV4_LENGTH,
    PROTOCOL_ICMP,
    PROTOCOL_UDP,
    TYPE_ARP,
    TYPE_IPV4,
    UDP_LENGTH,
    VXLAN_I_FLAG,
    VXLAN_LENGTH,
    Ethernet,
    Ipv4,
)
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, format_ip, format_mac, ip_version
from alcor.model.ids import Id

UNSPECIFIED = Ip(frames.mapped(b"\0\0\0\0"))
FLOW_PORT_BASE, FLOW_HASH_MASK = 0xC000, 0x3FFF
"""Outer UDP source port: 0xC000 | (flow hash & 0x3FFF). The hash itself is the kernel's, so tests mask it."""

ENCAP_MAX_LENGTH = 0xFFFF - IPV4_LENGTH - UDP_LENGTH - VXLAN_LENGTH


class PortFlag(IntFlag):
    """Flags of a row of `ports`."""

    ROUTED = 1
    PEER = 2
    UP = 4


class LocalFlag(IntFlag):
    """Flags of a row of `local`."""

    GATEWAY = 1
    PEER = 2
    DOWN = 4


class PortRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `ports`: the interface is a port, wired whole. (`digest` is the driver's; packets never meet it.)"""

    id: Id
    vni: int
    mtu: int
    mac: Mac
    flags: int
    digest: int = 0


class LocalRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `local`: who on this host has the address. A gateway has ifindex 0 and the router's MAC."""

    ifindex: int
    flags: int
    mac: Mac


class RemoteRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `remote`: which host has the address, and the port's MAC there."""

    host_ip: Ip
    mac: Mac


class HostConfig(msgspec.Struct, frozen=True, gc=False):
    """The row of `config`: this host's tunnel end."""

    underlay_ip: Ip
    underlay_ifindex: int
    vxlan_port: int


class Tables(msgspec.Struct, frozen=True, gc=False):
    """What the maps hold, as Python records."""

    config: HostConfig
    ports: dict[int, PortRow] = msgspec.field(default_factory=dict)
    local: dict[EndpointKey, LocalRow] = msgspec.field(default_factory=dict)
    remote: dict[EndpointKey, RemoteRow] = msgspec.field(default_factory=dict)


class VerdictKind(IntEnum):
    """What becomes of a packet; the numbers are those of `skb->cb[0]`."""

    DELIVER = 1
    """Handed to the local interface `ifindex`."""
    TUNNEL = 2
    """Sent to `host_ip` through the underlay."""
    REPLY = 3
    """Turned into its answer and handed back to the interface it came from."""
    DROP = 4
    """Thrown away for `reason`, counted at `ifindex` (0: no port is to blame)."""
    PASS = 5
    """Not ours: left to the host's own stack, untouched."""


class DropReason(IntEnum):
    """Why a packet was dropped; numbers and meanings as in docs/pipeline.md."""

    NO_PORT = 1
    PORT_DOWN = 2
    MALFORMED = 3
    SPOOFED_MAC = 4
    SPOOFED_IP = 5
    NOT_SUPPORTED = 6
    ARP_IGNORED = 7
    ARP_UNKNOWN = 8
    MULTICAST = 9
    NO_ENDPOINT = 10
    NOT_ROUTED = 11
    GATEWAY = 12
    TTL_EXCEEDED = 13
    NO_UNDERLAY = 14
    ENCAP_FAILED = 15
    """A kernel refuses for many reasons; the model only when the outer packet would not fit IPv4's 16-bit length."""

    @property
    def word(self) -> str:
        """The reason as counters and docs spell it."""
        return self.name.lower()


class Direction(IntEnum):
    """Which counter of a port a packet adds to."""

    SENT = 0
    RECEIVED = 1


class Count(NamedTuple):
    """One packet of `length` bytes to add to a port's `sent` or `received` counters."""

    ifindex: int
    direction: Direction
    length: int


class Verdict(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became of a packet, what it adds to the counters, and why, in words.

    `frame` is what comes out: for a tunnel verdict the outer packet from its IPv4 header on (the outer Ethernet header
    is the underlay neighbour's business), for a drop or a pass the packet as it came in.
    """

    kind: VerdictKind
    frame: bytes
    steps: tuple[str, ...]
    ifindex: int = 0
    host_ip: Ip | None = None
    reason: DropReason | None = None
    counts: tuple[Count, ...] = ()

    @property
    def why(self) -> str:
        """The steps, one a line."""
        return "\n".join(self.steps)


class _Walk:
    """One packet's way through the tables: what it has met so far."""

    __slots__ = ("counts", "frame", "ifindex", "steps", "tables")

    def __init__(self, tables: Tables, ifindex: int, frame: bytes) -> None:
        self.tables = tables
        self.ifindex = ifindex
        self.frame = frame
        self.steps: list[str] = []
        self.counts: list[Count] = []

    def drop(self, reason: DropReason, text: str) -> Verdict:
        self.steps.append(f"{text}: drop {reason.word}")
        return self._end(VerdictKind.DROP, self.frame, ifindex=self.ifindex, reason=reason)

    def deliver(self, row: LocalRow, frame: bytes) -> Verdict:
        self.counts.append(Count(row.ifindex, Direction.RECEIVED, len(frame)))
        self.steps.append(f"11: deliver to interface {row.ifindex}")
        return self._end(VerdictKind.DELIVER, frame, ifindex=row.ifindex)

    def reply(self, frame: bytes, text: str) -> Verdict:
        self.counts.append(Count(self.ifindex, Direction.RECEIVED, len(frame)))
        self.steps.append(f"{text}: back out of interface {self.ifindex}")
        return self._end(VerdictKind.REPLY, frame, ifindex=self.ifindex)

    def tunnel(self, vni: int, row: RemoteRow, frame: bytes) -> Verdict:
        ends = (self.tables.config.underlay_ip, row.host_ip)
        if any(ip_version(end) != 4 for end in ends):
            return self.drop(DropReason.NO_UNDERLAY, f"12: no IPv4 from {format_ip(ends[0])} to {format_ip(ends[1])}")
        if len(frame) > ENCAP_MAX_LENGTH:
            return self.drop(DropReason.ENCAP_FAILED, f"12: {len(frame)} bytes do not fit an outer packet")
        datagram = frames.udp(FLOW_PORT_BASE, self.tables.config.vxlan_port, frames.vxlan(vni, frame))
        packet = frames.ipv4(*ends, PROTOCOL_UDP, datagram)
        self.steps.append(f"12: tunnel to host {format_ip(row.host_ip)} with VNI {vni}")
        return self._end(VerdictKind.TUNNEL, packet, host_ip=row.host_ip)

    def pass_on(self, text: str) -> Verdict:
        self.steps.append(f"{text}: pass to the host's stack")
        return self._end(VerdictKind.PASS, self.frame)

    def _end(
        self,
        kind: VerdictKind,
        frame: bytes,
        *,
        ifindex: int = 0,
        host_ip: Ip | None = None,
        reason: DropReason | None = None,
    ) -> Verdict:
        return Verdict(
            kind=kind,
            frame=frame,
            steps=tuple(self.steps),
            ifindex=ifindex,
            host_ip=host_ip,
            reason=reason,
            counts=tuple(self.counts),
        )


def from_port(tables: Tables, ifindex: int, frame: bytes) -> Verdict:
    """What becomes of a frame that the workload behind interface `ifindex` sent. Never raises."""
    walk = _Walk(tables, ifindex, frame)
    port = tables.ports.get(ifindex)
    if port is None:
        walk.ifindex = 0
        return walk.drop(DropReason.NO_PORT, f"1: interface {ifindex} is no port")
    if not port.flags & PortFlag.UP:
        return walk.drop(DropReason.PORT_DOWN, "2: the port is administratively down")
    header = frames.parse_ethernet(frame)
    if header is None:
        return walk.drop(DropReason.MALFORMED, f"3: {len(frame)} bytes are no Ethernet header")
    walk.counts.append(Count(ifindex, Direction.SENT, len(frame)))
    if header.source != port.mac:
        return walk.drop(DropReason.SPOOFED_MAC, f"4: source MAC {format_mac(header.source)} is not the port's")
    walk.steps.append(f"1-4: port of VNI {port.vni}, up, its own MAC")
    if header.ethertype == TYPE_ARP:
        return _arp(walk, port)
    if header.ethertype == TYPE_IPV4:
        return _ipv4(walk, port, header)
    return walk.drop(DropReason.NOT_SUPPORTED, f"5: ethertype {header.ethertype:#06x}")


def _arp(walk: _Walk, port: PortRow) -> Verdict:
    """Step 6: every question is answered here, on the sender's own host; nothing is flooded."""
    tables, ask = walk.tables, frames.parse_arp(walk.frame)
    if ask is None:
        return walk.drop(DropReason.MALFORMED, "6: not a whole ARP packet for IPv4 over Ethernet")
    if ask.sender_mac != port.mac:
        return walk.drop(DropReason.SPOOFED_MAC, f"6: sender MAC {format_mac(ask.sender_mac)} is not the port's")
    probe = ask.sender_ip == UNSPECIFIED
    if not probe and not _owns(walk, port.vni, ask.sender_ip):
        return walk.drop(DropReason.SPOOFED_IP, f"6: sender {format_ip(ask.sender_ip)} is not the port's")
    if ask.operation != ARP_REQUEST:
        return walk.drop(DropReason.ARP_IGNORED, f"6: opcode {ask.operation} is no request")
    if ask.target_ip == ask.sender_ip:
        return walk.drop(DropReason.ARP_IGNORED, f"6: announcement of {format_ip(ask.target_ip)}")
    if probe and _owns(walk, port.vni, ask.target_ip):
        return walk.drop(DropReason.ARP_IGNORED, f"6: probe for the port's own {format_ip(ask.target_ip)}")
    key = EndpointKey(port.vni, ask.target_ip)
    local, remote = tables.local.get(key), tables.remote.get(key)
    if local is not None and local.flags & LocalFlag.GATEWAY and not port.flags & PortFlag.ROUTED:
        local = None
    answer = local or remote
    if answer is None:
        return walk.drop(DropReason.ARP_UNKNOWN, f"6: nobody in VNI {port.vni} has {format_ip(ask.target_ip)}")
    packet = frames.arp(ARP_REPLY, answer.mac, ask.target_ip, ask.sender_mac, ask.sender_ip)
    padding = walk.frame[ETHERNET_LENGTH + frames.ARP_LENGTH :]
    reply = frames.ethernet(ask.sender_mac, answer.mac, TYPE_ARP, packet + padding)
    return walk.reply(reply, f"6: {format_ip(ask.target_ip)} is at {format_mac(answer.mac)}")


def _ipv4(walk: _Walk, port: PortRow, ether: Ethernet) -> Verdict:
    """Steps 7 and 8: the source must be the port's; then by destination MAC to the router, or along the wire."""
    packet = frames.parse_ipv4(walk.frame[ETHERNET_LENGTH:])
    if packet is None:
        return walk.drop(DropReason.MALFORMED, "7: IPv4 header cut short or inconsistent")
    if not _owns(walk, port.vni, packet.source):
        return walk.drop(DropReason.SPOOFED_IP, f"7: source {format_ip(packet.source)} is not the port's")
    walk.steps.append(f"7: {format_ip(packet.source)} -> {format_ip(packet.destination)}, source is the port's")
    if ether.destination == ROUTER_MAC:
        return _route(walk, port, packet)
    if ether.destination[0] & 1:
        return walk.drop(DropReason.MULTICAST, f"8: group destination MAC {format_mac(ether.destination)}")
    endpoint = _find(walk.tables, port.vni, packet.destination)
    if endpoint is None:
        return _unknown(walk, 8, port.vni, packet.destination)
    if endpoint.mac != ether.destination:
        text = (
            f"8: {format_ip(packet.destination)} is at {format_mac(endpoint.mac)}, not {format_mac(ether.destination)}"
        )
        return walk.drop(DropReason.NO_ENDPOINT, text)
    return _hand_over(walk, port.vni, endpoint, walk.frame)


def _route(walk: _Walk, port: PortRow, packet: Ipv4) -> Verdict:
    """Steps 9 and 10: the implicit router of the VPC."""
    if not port.flags & PortFlag.ROUTED:
        return walk.drop(DropReason.NOT_ROUTED, "9: sent to the router's MAC, but the network has no router")
    local = walk.tables.local.get(EndpointKey(port.vni, packet.destination))
    if local is not None and local.flags & LocalFlag.GATEWAY:
        if not _asks_echo(walk.frame, packet):
            text = f"9: {format_ip(packet.destination)} is a gateway, which answers only pings"
            return walk.drop(DropReason.GATEWAY, text)
        return walk.reply(_echo_reply(walk.frame, packet), f"9: gateway {format_ip(packet.destination)} answers a ping")
    if packet.ttl <= 1:
        return walk.drop(DropReason.TTL_EXCEEDED, f"10: TTL {packet.ttl} runs out at the router")
    endpoint = _find(walk.tables, port.vni, packet.destination)
    if endpoint is None:
        return _unknown(walk, 10, port.vni, packet.destination)
    walk.steps.append(f"10: routed, TTL now {packet.ttl - 1}, to {format_mac(endpoint.mac)}")
    header = endpoint.mac + ROUTER_MAC + walk.frame[12:ETHERNET_LENGTH]
    return _hand_over(walk, port.vni, endpoint, header + _with_ttl(walk.frame[ETHERNET_LENGTH:], packet.ttl - 1))


def _hand_over(walk: _Walk, vni: int, endpoint: LocalRow | RemoteRow, frame: bytes) -> Verdict:
    """Steps 11 and 12: to the interface, or into the tunnel."""
    if isinstance(endpoint, LocalRow):
        if endpoint.flags & LocalFlag.DOWN:
            return walk.drop(DropReason.PORT_DOWN, "11: the receiving port is administratively down")
        return walk.deliver(endpoint, frame)
    return walk.tunnel(vni, endpoint, frame)


def _unknown(walk: _Walk, step: int, vni: int, ip: Ip) -> Verdict:
    return walk.drop(DropReason.NO_ENDPOINT, f"{step}: nobody in VNI {vni} has {format_ip(ip)}")


def _owns(walk: _Walk, vni: int, ip: Ip) -> bool:
    """True when the address is the sending port's own."""
    row = walk.tables.local.get(EndpointKey(vni, ip))
    return row is not None and row.ifindex == walk.ifindex


def _find(tables: Tables, vni: int, ip: Ip) -> LocalRow | RemoteRow | None:
    """Who has the address: a local port, else one on another host. A gateway is nobody."""
    key = EndpointKey(vni, ip)
    local = tables.local.get(key)
    if local is not None and not local.flags & LocalFlag.GATEWAY:
        return local
    return tables.remote.get(key)


def _asks_echo(frame: bytes, packet: Ipv4) -> bool:
    """True for an ICMP echo request that is whole and no fragment."""
    message = frame[ETHERNET_LENGTH + packet.header_length : ETHERNET_LENGTH + packet.total_length]
    return (
        packet.protocol == PROTOCOL_ICMP
        and not packet.fragment
        and len(message) >= ICMP_LENGTH
        and message[0] == ICMP_ECHO_REQUEST
        and message[1] == 0
    )


def _echo_reply(frame: bytes, packet: Ipv4) -> bytes:
    """The echo request turned into its reply in place: addresses swapped, TTL 64, type 0. Options and data stay."""
    header = _with_ttl(frame[ETHERNET_LENGTH : ETHERNET_LENGTH + packet.header_length], 64)
    # Swapping the two addresses leaves the header's checksum as it is: a sum does not know order.
    header = header[:12] + header[16:20] + header[12:16] + header[20:]
    rest = frame[ETHERNET_LENGTH + packet.header_length :]
    old = int.from_bytes(rest[2:4], "big")
    new = frames.update_checksum(old, ICMP_ECHO_REQUEST << 8, ICMP_ECHO_REPLY << 8)
    message = bytes((ICMP_ECHO_REPLY, 0)) + new.to_bytes(2, "big") + rest[4:]
    return frame[6:12] + frame[0:6] + frame[12:ETHERNET_LENGTH] + header + message


def _with_ttl(packet: bytes, ttl: int) -> bytes:
    """The IPv4 packet with another TTL, its header checksum updated for the word that TTL and protocol share."""
    old_word = int.from_bytes(packet[8:10], "big")
    new_word = ttl << 8 | packet[9]
    new = frames.update_checksum(int.from_bytes(packet[10:12], "big"), old_word, new_word)
    return packet[:8] + new_word.to_bytes(2, "big") + new.to_bytes(2, "big") + packet[12:]


def from_overlay(tables: Tables, frame: bytes) -> Verdict:
    """What becomes of a frame that the underlay interface received. Never raises."""
    walk = _Walk(tables, 0, frame)
    outer_end = ETHERNET_LENGTH + IPV4_LENGTH + UDP_LENGTH
    if not _is_ours(tables.config, frame[:outer_end]):
        return walk.pass_on("1: not a VXLAN datagram for this host")
    inner_start = outer_end + VXLAN_LENGTH
    if len(frame) < inner_start or not frame[outer_end] & VXLAN_I_FLAG:
        return walk.drop(DropReason.MALFORMED, "2: VXLAN header cut short or without a VNI")
    vni = int.from_bytes(frame[outer_end + 4 : outer_end + 7], "big")
    inner = frame[inner_start:]
    ether = frames.parse_ethernet(inner)
    if ether is None:
        return walk.drop(DropReason.MALFORMED, f"2: {len(inner)} inner bytes are no Ethernet header")
    if ether.ethertype != TYPE_IPV4:
        return walk.drop(DropReason.NOT_SUPPORTED, f"2: inner ethertype {ether.ethertype:#06x}")
    if len(inner) < ETHERNET_LENGTH + IPV4_LENGTH or inner[ETHERNET_LENGTH] >> 4 != 4:
        return walk.drop(DropReason.MALFORMED, "2: inner IPv4 header cut short or of another version")
    destination = frames.mapped(inner[ETHERNET_LENGTH + 16 : ETHERNET_LENGTH + 20])
    local = tables.local.get(EndpointKey(vni, destination))
    if local is None or local.flags & LocalFlag.GATEWAY:
        return walk.drop(DropReason.NO_ENDPOINT, f"3: nobody in VNI {vni} on this host has {format_ip(destination)}")
    if local.mac != ether.destination:
        text = f"3: {format_ip(destination)} is at {format_mac(local.mac)}, not {format_mac(ether.destination)}"
        return walk.drop(DropReason.NO_ENDPOINT, text)
    if local.flags & LocalFlag.DOWN:
        return walk.drop(DropReason.PORT_DOWN, "3: the receiving port is administratively down")
    walk.steps.append(f"1-4: out of the tunnel, VNI {vni}, for {format_ip(destination)}")
    return walk.deliver(local, inner)


def _is_ours(config: HostConfig, headers: bytes) -> bool:
    """True when the outer headers are IPv4 (no options, no fragment) and UDP to this host's tunnel end.

    The UDP header need not be whole to tell: its first four bytes are the ports.
    """
    return (
        len(headers) >= ETHERNET_LENGTH + IPV4_LENGTH + 4
        and headers[12:14] == b"\x08\x00"
        and headers[14] == 0x45
        and not int.from_bytes(headers[20:22], "big") & frames.FRAGMENT_MASK
        and headers[23] == PROTOCOL_UDP
        and ip_version(config.underlay_ip) == 4
        and headers[30:34] == frames.v4(config.underlay_ip)
        and int.from_bytes(headers[36:38], "big") == config.vxlan_port
    )
