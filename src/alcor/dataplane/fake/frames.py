"""Frames as bytes: Ethernet, ARP, IPv4, ICMP, UDP and VXLAN, taken apart and put together by struct. Pure.

Called by the pipeline model (to read and rewrite frames), the fake's workloads (to make and answer them) and tests.
Addresses in a frame are 4 bytes; `v4` and `mapped` turn them into table keys and back.
"""

from __future__ import annotations

import struct

import msgspec

from alcor.model.addresses import V4_MAPPED, Ip, Mac, ip_version

ETHERNET_LENGTH, ARP_LENGTH, IPV4_LENGTH, IPV6_LENGTH, UDP_LENGTH, ICMP_LENGTH, VXLAN_LENGTH = 14, 28, 20, 40, 8, 8, 8
TYPE_IPV4, TYPE_ARP, TYPE_VLAN, TYPE_IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMPV6 = 1, 6, 17, 58
ARP_REQUEST, ARP_REPLY = 1, 2
ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST = 0, 8
ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY = 128, 129
BROADCAST_MAC = Mac(b"\xff" * 6)
ALL_NODES, ALL_NODES_MAC = Ip(b"\xff\x02" + bytes(13) + b"\x01"), Mac(b"\x33\x33\0\0\0\1")
ND_ADVERTISEMENT, ND_HOPS = 136, 255
ND_ROUTER, ND_SOLICITED, ND_OVERRIDE = 0x80000000, 0x40000000, 0x20000000
DONT_FRAGMENT = 0x4000
FRAGMENT_MASK = 0x3FFF
"""More-fragments bit and offset: any of them set means a fragment."""
VXLAN_I_FLAG = 0x08
"""RFC 7348 section 5: the VNI is valid."""
VXLAN_G_FLAG = 0x80
"""VXLAN Group Policy Option (draft-smith-vxlan-group-policy): bytes 2 and 3 are the sender's identity."""


class Ethernet(msgspec.Struct, frozen=True, gc=False):
    """An Ethernet II header."""

    destination: Mac
    source: Mac
    ethertype: int


class Arp(msgspec.Struct, frozen=True, gc=False):
    """An ARP packet for IPv4 over Ethernet (RFC 826)."""

    operation: int
    sender_mac: Mac
    sender_ip: Ip
    target_mac: Mac
    target_ip: Ip


class Header(msgspec.Struct, frozen=True, gc=False):
    """An IP header; `header_length` counts bytes, IPv4's options included. IPv6's hop limit is `ttl` too."""

    version: int
    header_length: int
    total_length: int
    fragment: int
    ttl: int
    protocol: int
    source: Ip
    destination: Ip


def v4(ip: Ip) -> bytes:
    """The 4 bytes of a v4-mapped key."""
    return ip[12:]


def mapped(address: bytes) -> Ip:
    """The table key of 4 bytes of IPv4."""
    return Ip(V4_MAPPED + address)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of the data, as it goes into a header."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def update_checksum(old_checksum: int, old_word: int, new_word: int) -> int:
    """The checksum after one 16-bit word changed: RFC 1624, equation 3, HC' = ~(~HC + ~m + m')."""
    total = (~old_checksum & 0xFFFF) + (~old_word & 0xFFFF) + new_word
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse_ethernet(frame: bytes) -> Ethernet | None:
    """The header, or None when it is not whole."""
    if len(frame) < ETHERNET_LENGTH:
        return None
    return Ethernet(Mac(frame[0:6]), Mac(frame[6:12]), int.from_bytes(frame[12:14], "big"))


def parse_arp(frame: bytes) -> Arp | None:
    """The ARP packet of the frame, or None when it is not whole or not for IPv4 over Ethernet."""
    packet = frame[ETHERNET_LENGTH : ETHERNET_LENGTH + ARP_LENGTH]
    if len(packet) < ARP_LENGTH or packet[:6] != b"\x00\x01\x08\x00\x06\x04":
        return None
    return Arp(
        operation=int.from_bytes(packet[6:8], "big"),
        sender_mac=Mac(packet[8:14]),
        sender_ip=mapped(packet[14:18]),
        target_mac=Mac(packet[18:24]),
        target_ip=mapped(packet[24:28]),
    )


def parse_ipv4(packet: bytes) -> Header | None:
    """The IPv4 header, or None when cut short or contradicting the packet's length. Its checksum is not verified."""
    if len(packet) < IPV4_LENGTH or packet[0] >> 4 != 4:
        return None
    header_length = (packet[0] & 0x0F) * 4
    total_length = int.from_bytes(packet[2:4], "big")
    if header_length < IPV4_LENGTH or not header_length <= total_length <= len(packet):
        return None
    return Header(
        version=4,
        header_length=header_length,
        total_length=total_length,
        fragment=int.from_bytes(packet[6:8], "big") & FRAGMENT_MASK,
        ttl=packet[8],
        protocol=packet[9],
        source=mapped(packet[12:16]),
        destination=mapped(packet[16:20]),
    )


def parse_ipv6(packet: bytes) -> Header | None:
    """The IPv6 header (RFC 8200), or None when cut short or contradicting the packet's length. Extension headers are
    not looked into: `protocol` is the next header, `fragment` 0."""
    if len(packet) < IPV6_LENGTH or packet[0] >> 4 != 6:
        return None
    total_length = IPV6_LENGTH + int.from_bytes(packet[4:6], "big")
    if total_length > len(packet):
        return None
    return Header(
        version=6,
        header_length=IPV6_LENGTH,
        total_length=total_length,
        fragment=0,
        ttl=packet[7],
        protocol=packet[6],
        source=Ip(packet[8:24]),
        destination=Ip(packet[24:40]),
    )


def with_ttl(packet: bytes, version: int, ttl: int) -> bytes:
    """The packet with another TTL; IPv4's header checksum is updated for the word that TTL and protocol share."""
    if version == 6:
        return packet[:7] + bytes((ttl,)) + packet[8:]
    old_word = int.from_bytes(packet[8:10], "big")
    new_word = ttl << 8 | packet[9]
    new = update_checksum(int.from_bytes(packet[10:12], "big"), old_word, new_word)
    return packet[:8] + new_word.to_bytes(2, "big") + new.to_bytes(2, "big") + packet[12:]


def ethernet(destination: Mac, source: Mac, ethertype: int, payload: bytes) -> bytes:
    """An Ethernet frame, unpadded."""
    return destination + source + ethertype.to_bytes(2, "big") + payload


def arp(operation: int, sender_mac: Mac, sender_ip: Ip, target_mac: Mac, target_ip: Ip) -> bytes:
    """An ARP packet, without Ethernet header."""
    return (
        b"\x00\x01\x08\x00\x06\x04"
        + operation.to_bytes(2, "big")
        + sender_mac
        + v4(sender_ip)
        + target_mac
        + v4(target_ip)
    )


def with_dscp(packet: bytes, version: int, dscp: int) -> bytes:
    """The packet with another DSCP (RFC 2474); ECN, in the same byte, stays. IPv4's header checksum is updated."""
    word = int.from_bytes(packet[:2], "big")
    if version == 6:
        return (word & 0xF03F | dscp << 6).to_bytes(2, "big") + packet[2:]
    marked = word & 0xFF03 | dscp << 2
    new = update_checksum(int.from_bytes(packet[10:12], "big"), word, marked)
    return marked.to_bytes(2, "big") + packet[2:10] + new.to_bytes(2, "big") + packet[12:]


def ipv4(source: Ip, destination: Ip, protocol: int, payload: bytes, *, ttl: int = 64, tos: int = 0) -> bytes:
    """An IPv4 packet: no options, id 0, DF set, its checksum finished."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        tos,
        IPV4_LENGTH + len(payload),
        0,
        DONT_FRAGMENT,
        ttl,
        protocol,
        0,
        v4(source),
        v4(destination),
    )
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    """A UDP datagram with no checksum (0), as VXLAN over IPv4 sends it (RFC 7348 section 5)."""
    return struct.pack("!HHHH", source_port, destination_port, UDP_LENGTH + len(payload), 0) + payload


def ipv6(source: Ip, destination: Ip, protocol: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """An IPv6 packet without extension headers, traffic class and flow label 0."""
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit) + source + destination + payload


def icmpv6(source: Ip, destination: Ip, message: bytes) -> bytes:
    """The ICMPv6 message (its checksum field anything) with its checksum finished: RFC 4443 section 2.3."""
    bare = message[:2] + b"\0\0" + message[4:]
    pseudo = source + destination + struct.pack("!II", len(bare), PROTOCOL_ICMPV6)
    return bare[:2] + checksum(pseudo + bare).to_bytes(2, "big") + bare[4:]


def advertisement(target: Ip, to: Ip, mac: Mac, flags: int) -> bytes:
    """The ICMPv6 message that says to `to` that `target` is at that MAC (RFC 4861 section 4.4)."""
    body = bytes((ND_ADVERTISEMENT, 0, 0, 0)) + flags.to_bytes(4, "big") + target + b"\x02\x01" + mac
    return icmpv6(target, to, body)


def announcement(ip: Ip, mac: Mac) -> bytes:
    """The frame that tells everybody on a link that the address is at that MAC: RFC 5227 section 3, RFC 4861 section
    7.2.6."""
    if ip_version(ip) == 4:
        return ethernet(BROADCAST_MAC, mac, TYPE_ARP, arp(ARP_REQUEST, mac, ip, Mac(bytes(6)), ip))
    told = advertisement(ip, ALL_NODES, mac, ND_OVERRIDE)
    return ethernet(ALL_NODES_MAC, mac, TYPE_IPV6, ipv6(ip, ALL_NODES, PROTOCOL_ICMPV6, told, hop_limit=ND_HOPS))


def vxlan(vni: int, frame: bytes, identity: int = 0, mark: int = 0) -> bytes:
    """The frame with its VXLAN header (RFC 7348); with an identity as its Group Policy Option, and our mark in its last
    byte, which is reserved."""
    flags = VXLAN_I_FLAG | (VXLAN_G_FLAG if identity else 0)
    return struct.pack("!II", flags << 24 | identity, vni << 8 | mark) + frame


def icmp_echo(kind: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """An ICMP echo request or reply (RFC 792), its checksum finished."""
    message = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + data
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
