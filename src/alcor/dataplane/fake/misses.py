"""What becomes of a packet for an address that the host knows nothing of: step H of docs/pipeline.md; and steps M and
T, what a sender is told whose packet is too large, or goes nowhere. Pure. Called by the pipeline model.
"""

from __future__ import annotations

from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Header
from alcor.dataplane.fake.packet import Part, read_packet
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import ROUTER_MAC, Ip, format_ip, ip_version

UNREACHABLE, FRAGMENTATION_NEEDED, TOO_BIG_V6 = 3, 4, 2
QUOTED = {4: 68, 6: 128}
"""Bytes of the packet that an error quotes: the largest IPv4 header and 8 bytes, for no MTU is smaller."""


def unknown(walk: Walk, key: EndpointKey, reason: DropReason, step: str) -> Verdict:
    """Step H, for an address that nobody is known to have."""
    text = f"{step}: nobody in VNI {key.vni} has {format_ip(key.ip)}"
    if key in walk.tables.remote or key.vni not in walk.tables.on_demand:
        return walk.drop(reason, text)
    if walk.held:
        return walk.drop(DropReason.UNRESOLVED, f"H: nothing was learnt of {format_ip(key.ip)}")
    return walk.hold(key)


def check_length(walk: Walk, mtu: int, ip: Header) -> Verdict | None:
    """Step M: a verdict when the packet is larger than the MTU on its way."""
    if ip.total_length <= mtu:
        return None
    text = f"M: {ip.total_length} bytes, the MTU is {mtu}"
    frame, quoted = walk.frame, QUOTED[ip.version]
    packet = read_packet(frame[ETHERNET_LENGTH:], ip.version)
    quiet = packet is None or packet.part is Part.LATER or packet.is_icmp_error
    may_be_cut = ip.version == 4 and not frame[ETHERNET_LENGTH + 6] & frames.DONT_FRAGMENT >> 8
    if quiet or may_be_cut or len(frame) < ETHERNET_LENGTH + quoted:
        return walk.drop(DropReason.TOO_BIG, text)
    kind, code = (UNREACHABLE, FRAGMENTATION_NEEDED) if ip.version == 4 else (TOO_BIG_V6, 0)
    answer = _error(frame, ip, ip.destination, bytes((kind, code)), mtu, quoted)
    return walk.reply(answer, f"{text}: the sender is told", reason=DropReason.TOO_BIG)


def _error(frame: bytes, ip: Header, source: Ip, kind: bytes, mtu: int, quoted: int) -> bytes:
    """The frame of an error (its type and code are `kind`) from that address to the frame's sender."""
    quote = frame[ETHERNET_LENGTH : ETHERNET_LENGTH + quoted]
    if ip.version == 4:
        message = kind + bytes(4) + (mtu & 0xFFFF).to_bytes(2, "big") + quote
        message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
        error = frames.ipv4(source, ip.source, PROTOCOL_ICMP, message)
    else:
        told = frames.icmpv6(source, ip.source, kind + bytes(2) + mtu.to_bytes(4, "big") + quote)
        error = frames.ipv6(source, ip.source, PROTOCOL_ICMPV6, told)
    return frame[6:12] + frame[0:6] + frame[12:ETHERNET_LENGTH] + error


SHORT_QUOTE = {4: 28, 6: 48}
"""Of a packet that is too short for QUOTED: an IP header without options, and 8 bytes."""
TIME_EXCEEDED = {4: 11, 6: 3}
UNREACHABLE_TYPE = {4: UNREACHABLE, 6: 1}
NOBODY_CODE = {4: 1, 6: 3}
TOLD_OF = frozenset((DropReason.TTL_EXCEEDED, DropReason.NO_ROUTE, DropReason.NO_ENDPOINT, DropReason.BLACKHOLE))


def tell(walk: Walk, refused: Verdict) -> Verdict:
    """Step T: who sent a packet to the router is told why it is dropped, if it may be. How often is not looked at."""
    frame, reason = walk.frame, refused.reason
    version = {frames.TYPE_IPV4: 4, frames.TYPE_IPV6: 6}.get(int.from_bytes(frame[12:14], "big"), 0)
    router = walk.tables.routers.get(walk.ifindex, (None, None))[0 if version == 4 else 1]
    if reason not in TOLD_OF or frame[:6] != ROUTER_MAC or router is None or not version:
        return refused
    ip = frames.parse_ipv4(frame[ETHERNET_LENGTH:]) if version == 4 else frames.parse_ipv6(frame[ETHERNET_LENGTH:])
    packet = read_packet(frame[ETHERNET_LENGTH:], version)
    if ip is None or packet is None or packet.part is Part.LATER or packet.is_icmp_error:
        return refused
    if not (_is_single(ip.source, source=True) and _is_single(ip.destination, source=False)):
        return refused
    short = ip.total_length < QUOTED[version]
    quoted = SHORT_QUOTE[version] if short else QUOTED[version]
    if ip.total_length < quoted or (short and version == 4 and ip.header_length != frames.IPV4_LENGTH):
        return refused
    kind, code = UNREACHABLE_TYPE[version], NOBODY_CODE[version] if reason is DropReason.NO_ENDPOINT else 0
    if reason is DropReason.TTL_EXCEEDED:
        kind, code = TIME_EXCEEDED[version], 0
    answer = _error(frame, ip, router, bytes((kind, code)), 0, quoted)
    return walk.reply(answer, "T: the router tells the sender", reason=reason)


def _is_single(ip: Ip, *, source: bool) -> bool:
    """One host's address (RFC 1122 section 3.2.2)."""
    if ip_version(ip) == 4:
        return 0 < ip[12] < 224
    return ip[0] != 0xFF and not (source and ip == bytes(16))
