"""What of a packet policy and connection tracking look at: addresses, protocol, ports. Pure.

Called by the pipeline model; packet.h is the same in C. IPv4 is RFC 791, IPv6 and its extension headers RFC 8200, ICMP
RFC 792 and RFC 4443.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import IPV4_LENGTH, IPV6_LENGTH, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP
from alcor.model.addresses import Ip

MAX_EXTENSIONS = 6
"""IPv6 extension headers that are looked past; a longer chain is malformed."""
PORTED = frozenset((PROTOCOL_TCP, frames.PROTOCOL_UDP, 33, 132, 136))
"""TCP, UDP, DCCP, SCTP, UDP-Lite: two ports come first."""
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
EXTENSIONS = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION))
ICMP_ERRORS = {4: frozenset((3, 4, 5, 11, 12)), 6: frozenset((1, 2, 3, 4))}
"""Types that quote the packet that they are about."""
ECHO_REQUEST, ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 0x01, 0x02, 0x04, 0x10


class Part(IntEnum):
    """Which part of a datagram a packet is."""

    WHOLE = 0
    FIRST = 1
    LATER = 2
    """Without ports."""


class Packet(msgspec.Struct, gc=False):
    """An IP packet as policy sees it. An ICMP echo's ports are both its identifier; where there are none they are 0."""

    version: int
    source: Ip
    destination: Ip
    protocol: int
    payload: int
    """Where the transport header begins, from the start of the IP header."""
    part: Part = Part.WHOLE
    fragment_id: bytes = b""
    source_port: int = 0
    destination_port: int = 0
    selector: int = 0
    """What rules compare: the destination port; for ICMP type << 8 | code."""
    tcp_flags: int = 0

    @property
    def is_icmp(self) -> bool:
        return self.protocol == (PROTOCOL_ICMP if self.version == 4 else PROTOCOL_ICMPV6)

    @property
    def icmp_type(self) -> int:
        return self.selector >> 8

    @property
    def is_icmp_error(self) -> bool:
        return self.is_icmp and self.part is not Part.LATER and self.icmp_type in ICMP_ERRORS[self.version]

    @property
    def is_echo_request(self) -> bool:
        return self.is_icmp and self.icmp_type == ECHO_REQUEST[self.version]

    @property
    def is_tcp(self) -> bool:
        """A segment whose flags can be seen."""
        return self.protocol == PROTOCOL_TCP and self.part is not Part.LATER


def read_packet(data: bytes, version: int, *, quoted: bool = False) -> Packet | None:
    """The packet that the bytes begin with; None when malformed. A quoted one (in an ICMP error) may be cut short."""
    found = _ipv4(data, quoted=quoted) if version == 4 else _ipv6(data, quoted=quoted)
    if found is None:
        return None
    packet, end = found
    return packet if _transport(packet, data, end, quoted=quoted) else None


def _ipv4(data: bytes, *, quoted: bool) -> tuple[Packet, int] | None:
    if len(data) < IPV4_LENGTH or data[0] >> 4 != 4:
        return None
    header, total = (data[0] & 0x0F) * 4, int.from_bytes(data[2:4], "big")
    if header < IPV4_LENGTH or total < header or (not quoted and total > len(data)):
        return None
    packet = Packet(4, frames.mapped(data[12:16]), frames.mapped(data[16:20]), data[9], header)
    packet.fragment_id = data[4:6]
    offset = int.from_bytes(data[6:8], "big")
    packet.part = Part.LATER if offset & 0x1FFF else Part.FIRST if offset & 0x2000 else Part.WHOLE
    return packet, total


def _ipv6(data: bytes, *, quoted: bool) -> tuple[Packet, int] | None:
    if len(data) < IPV6_LENGTH or data[0] >> 4 != 6:
        return None
    end = IPV6_LENGTH + int.from_bytes(data[4:6], "big")
    if not quoted and end > len(data):
        return None
    packet = Packet(6, Ip(data[8:24]), Ip(data[24:40]), data[6], IPV6_LENGTH)
    for count in range(MAX_EXTENSIONS + 1):
        kind, here = packet.protocol, packet.payload
        if kind not in EXTENSIONS:
            break
        head = data[here : here + 8]
        if count == MAX_EXTENSIONS or end - here < 8 or len(head) < 8:
            return None
        length = 8 * (1 + head[1])
        if kind == FRAGMENT:
            length = 8
            offset = int.from_bytes(head[2:4], "big")
            packet.fragment_id = head[4:8]
            packet.part = Part.LATER if offset & 0xFFF8 else Part.FIRST if offset & 1 else packet.part
        elif kind == AUTHENTICATION:
            length = 4 * (2 + head[1])
        packet.protocol = head[0]
        packet.payload += length
        if packet.payload > end:
            return None
        if packet.part is Part.LATER:
            break
    return packet, end


def _transport(packet: Packet, data: bytes, end: int, *, quoted: bool) -> bool:
    """Reads the transport header as far as it is needed; False when it is not there."""
    if packet.part is Part.LATER:
        return True
    room, head = end - packet.payload, data[packet.payload : packet.payload + 20]
    if packet.protocol in PORTED:
        if room < 4 or len(head) < 4:
            return False
        packet.source_port = int.from_bytes(head[0:2], "big")
        packet.destination_port = packet.selector = int.from_bytes(head[2:4], "big")
        if packet.protocol == PROTOCOL_TCP and not quoted:
            if room < 20 or len(head) < 14:
                return False
            packet.tcp_flags = head[13]
    elif packet.is_icmp:
        if room < 8 or len(head) < 8:
            return False
        packet.selector = int.from_bytes(head[0:2], "big")
        if packet.icmp_type in (ECHO_REQUEST[packet.version], ECHO_REPLY[packet.version]):
            packet.source_port = packet.destination_port = int.from_bytes(head[4:6], "big")
    return True
