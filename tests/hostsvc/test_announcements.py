"""Announcements: read from what workloads send, and written for others."""

import pytest
from tests.dataplane import packets

from alcor.hostsvc.announcements import announced, announcement
from alcor.model.addresses import Mac, parse_ip
from alcor.model.nouns import Claim

MAC = Mac(packets.mac(7))


@pytest.mark.parametrize("ip", ["10.0.0.100", "2001:db8::100"])
def test_what_is_announced_is_read(ip: str) -> None:
    """Both families; cut anywhere, nothing is."""
    claim = Claim(parse_ip(ip), MAC)
    frame = announcement(claim)
    assert claim == announced(frame)
    assert [None] * 42 == [announced(frame[:length]) for length in range(42)]


def test_a_reply_announces_too() -> None:
    """As `arping -A` sends it."""
    frame = packets.arp(MAC, "10.0.0.100", "10.0.0.100", opcode=2)
    assert Claim(parse_ip("10.0.0.100"), MAC) == announced(frame)


def test_other_frames_announce_nothing() -> None:
    """IPv4, a solicitation, another protocol of IPv6."""
    target = packets.ip6("2001:db8::100")
    solicited = packets.icmpv6(target, target, 135, bytes(4) + target)
    frames = [
        packets.ethernet(packets.BROADCAST, MAC, packets.ipv4("10.0.0.1", "10.0.0.2")),
        packets.ethernet(MAC, MAC, packets.ipv6(target, target, solicited, protocol=packets.ICMPV6), packets.IPV6),
        packets.ethernet(MAC, MAC, packets.ipv6(target, target, bytes(40), protocol=packets.UDP), packets.IPV6),
    ]
    assert [None, None, None] == [announced(frame) for frame in frames]
