"""What a workload announces: that an address is at one of its MACs; and what others are told of it. Pure. Called by
serving, and by the agent.

The data plane hands up ARP announcements and replies (RFC 826, RFC 5227 section 3) and neighbour advertisements (RFC
4861 section 4.4) of addresses that are a port's by its allowed pairs, and not at it yet (step C of docs/pipeline.md).
"""

from __future__ import annotations

from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, IPV6_LENGTH
from alcor.model.addresses import Ip, Mac
from alcor.model.nouns import Claim

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
    if frame[ETHERNET_LENGTH + 6] != frames.PROTOCOL_ICMPV6 or frame[at] != frames.ND_ADVERTISEMENT:
        return None
    return Claim(Ip(frame[at + 8 : TARGET_END]), Mac(frame[6:12]))


def announcement(claim: Claim) -> bytes:
    """The frame that says the same to a workload: what it remembers of the address is mended."""
    return frames.announcement(claim.ip, claim.mac)
