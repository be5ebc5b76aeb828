"""What a workload announces: that an address is at one of its MACs; and what others are told of it. Pure. Called by
serving, and by the agent.

The data plane hands up ARP announcements and replies (RFC 826, RFC 5227 section 3) and neighbour advertisements (RFC
4861 section 4.4) of addresses that are a port's by its allowed pairs, and not at it yet (step C of docs/pipeline.md).
"""

from __future__ import annotations

from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, IPV6_LENGTH
from alcor.model.addresses import Ip, Mac, ip_version
from alcor.model.nouns import Claim

ADVERTISEMENT = 136
TARGET_END = ETHERNET_LENGTH + IPV6_LENGTH + 24


def announced(frame: bytes) -> Claim | None:
    """The address that the frame announces; None: it announces none."""
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == frames.TYPE_ARP:
        arp = frames.parse_arp(frame)
        return Claim(arp.sender_ip, arp.sender_mac) if arp is not None else None
    if ethertype != frames.TYPE_IPV6 or len(frame) < TARGET_END:
        return None
    at = ETHERNET_LENGTH + IPV6_LENGTH
    if frame[ETHERNET_LENGTH + 6] != frames.PROTOCOL_ICMPV6 or frame[at] != ADVERTISEMENT:
        return None
    return Claim(Ip(frame[at + 8 : TARGET_END]), Mac(frame[6:12]))


ALL_NODES, ALL_NODES_MAC = Ip(b"\xff\x02" + bytes(13) + b"\x01"), Mac(b"\x33\x33\0\0\0\1")
BROADCAST = Mac(b"\xff" * 6)
OVERRIDE = b"\x20\0\0\0"


def announcement(claim: Claim) -> bytes:
    """The frame that says the same to a workload: what it remembers of the address is mended."""
    ip, mac = claim.ip, claim.mac
    if ip_version(ip) == 4:
        told = frames.arp(frames.ARP_REQUEST, mac, ip, Mac(bytes(6)), ip)
        return frames.ethernet(BROADCAST, mac, frames.TYPE_ARP, told)
    body = bytes((ADVERTISEMENT, 0, 0, 0)) + OVERRIDE + ip + b"\x02\x01" + mac
    message = frames.icmpv6(ip, ALL_NODES, body)
    packet = frames.ipv6(ip, ALL_NODES, frames.PROTOCOL_ICMPV6, message, hop_limit=255)
    return frames.ethernet(ALL_NODES_MAC, mac, frames.TYPE_IPV6, packet)
