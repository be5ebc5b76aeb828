"""What becomes of a packet for an address that the host knows nothing of: step H of docs/pipeline.md; and step M, what
a sender is told whose packet is too large. Pure. Called by the pipeline model.
"""

from __future__ import annotations

from alcor.dataplane.base import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Header
from alcor.dataplane.fake.packet import Part, read_packet
from alcor.dataplane.fake.walk import DropReason, Verdict, Walk
from alcor.model.addresses import format_ip

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
    quote = frame[ETHERNET_LENGTH : ETHERNET_LENGTH + quoted]
    if ip.version == 4:
        message = bytes((UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0)) + (mtu & 0xFFFF).to_bytes(2, "big") + quote
        message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
        error = frames.ipv4(ip.destination, ip.source, PROTOCOL_ICMP, message)
    else:
        message = bytes((TOO_BIG_V6, 0, 0, 0)) + mtu.to_bytes(4, "big") + quote
        told = frames.icmpv6(ip.destination, ip.source, message)
        error = frames.ipv6(ip.destination, ip.source, PROTOCOL_ICMPV6, told)
    answer = frame[6:12] + frame[0:6] + frame[12:ETHERNET_LENGTH] + error
    return walk.reply(answer, f"{text}: the sender is told", reason=DropReason.TOO_BIG)
