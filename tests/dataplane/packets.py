"""Packets for the data plane's tests: built, broken and read by struct alone, apart from the code under test. Pure.

Called by the model's tests, the differential tests and the driver contract suite. Addresses are text or bytes; every
builder takes what it does not set from the honest packet, so that a test names only what it bends.
"""

import socket
import struct

ROUTER = bytes.fromhex("fe1611000000")
BROADCAST = b"\xff" * 6
IPV4, ARP, IPV6, VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58


def ip4(address: str | bytes) -> bytes:
    """4 bytes."""
    return socket.inet_aton(address) if isinstance(address, str) else address[-4:]


def mac(number: int) -> bytes:
    """A port's MAC, by number."""
    return b"\xfa\x16\x3e" + number.to_bytes(3, "big")


def internet_checksum(data: bytes) -> int:
    """RFC 1071, the slow way: over whole packets it is 0 when the checksum inside is right."""
    total = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
    while total > 0xFFFF:
        total = total % 0x10000 + total // 0x10000
    return 0xFFFF - total


def ethernet(destination: bytes, source: bytes, payload: bytes, ethertype: int = IPV4) -> bytes:
    """An Ethernet frame."""
    return struct.pack("!6s6sH", destination, source, ethertype) + payload


def arp(
    sender_mac: bytes,
    sender: str | bytes,
    target: str | bytes,
    *,
    opcode: int = 1,
    target_mac: bytes = b"\0" * 6,
    ethernet_destination: bytes = BROADCAST,
    ethernet_source: bytes | None = None,
    head: bytes = b"\x00\x01\x08\x00\x06\x04",
) -> bytes:
    """An ARP frame: a question unless told otherwise."""
    packet = head + struct.pack("!H6s4s6s4s", opcode, sender_mac, ip4(sender), target_mac, ip4(target))
    return ethernet(ethernet_destination, ethernet_source or sender_mac, packet, ARP)


def ipv4(
    source: str | bytes,
    destination: str | bytes,
    payload: bytes = b"",
    *,
    protocol: int = UDP,
    ttl: int = 64,
    fragment: int = 0x4000,
    options: bytes = b"",
    total_length: int | None = None,
    first_byte: int | None = None,
    identification: int = 0,
) -> bytes:
    """An IPv4 packet with a right checksum, whatever else is bent. `options` is a multiple of 4 bytes."""
    length = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | length // 4 if first_byte is None else first_byte,
        0,
        length + len(payload) if total_length is None else total_length,
        identification,
        fragment,
        ttl,
        protocol,
        0,
        ip4(source),
        ip4(destination),
    )
    head += options
    return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + payload


def icmp_echo(kind: int = 8, code: int = 0, identifier: int = 7, sequence: int = 1, data: bytes = b"alcor") -> bytes:
    """An ICMP echo message with a right checksum."""
    body = struct.pack("!BBHHH", kind, code, 0, identifier, sequence) + data
    return body[:2] + struct.pack("!H", internet_checksum(body)) + body[4:]


def udp(source: str | bytes, destination: str | bytes, data: bytes, *, sport: int = 4000, dport: int = 5000) -> bytes:
    """A UDP datagram with a right checksum for these addresses."""
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    pseudo = ip4(source) + ip4(destination) + struct.pack("!HH", UDP, 8 + len(data))
    return head[:6] + struct.pack("!H", internet_checksum(pseudo + head + data) or 0xFFFF) + data


def tcp(source: str | bytes, destination: str | bytes, data: bytes = b"", *, flags: int = 2) -> bytes:
    """A TCP segment (a SYN unless told otherwise) with a right checksum for these addresses."""
    head = struct.pack("!HHIIBBHHH", 4000, 80, 1, 0, 5 << 4, flags, 64240, 0, 0)
    pseudo = ip4(source) + ip4(destination) + struct.pack("!HH", TCP, len(head) + len(data))
    check = struct.pack("!H", internet_checksum(pseudo + head + data))
    return head[:16] + check + head[18:] + data


def vxlan(vni: int, frame: bytes, *, flags: int = 0x08, reserved: int = 0) -> bytes:
    """A VXLAN header and the inner frame."""
    return struct.pack("!II", flags << 24, vni << 8 | reserved) + frame


def overlay(
    source: str | bytes,
    destination: str | bytes,
    vxlan_packet: bytes,
    *,
    port: int = 4789,
    options: bytes = b"",
    fragment: int = 0x4000,
    protocol: int = UDP,
    ethertype: int = IPV4,
) -> bytes:
    """What the underlay interface receives: Ethernet, IPv4 and UDP around a VXLAN packet."""
    datagram = struct.pack("!HHHH", 0xC123, port, 8 + len(vxlan_packet), 0) + vxlan_packet
    packet = ipv4(source, destination, datagram, protocol=protocol, fragment=fragment, options=options)
    return ethernet(mac(0xFFFFFE), mac(0xFFFFFF), packet, ethertype)


def ip6(address: str | bytes) -> bytes:
    """16 bytes."""
    return socket.inet_pton(socket.AF_INET6, address) if isinstance(address, str) else address


def ipv6(
    source: str | bytes,
    destination: str | bytes,
    payload: bytes = b"",
    *,
    protocol: int = UDP,
    hops: int = 64,
    length: int | None = None,
    first_byte: int = 0x60,
) -> bytes:
    """An IPv6 packet; extension headers are part of `payload`."""
    size = len(payload) if length is None else length
    return struct.pack("!B3xHBB", first_byte, size, protocol, hops) + ip6(source) + ip6(destination) + payload


def icmpv6(source: str | bytes, destination: str | bytes, kind: int, body: bytes, *, code: int = 0) -> bytes:
    """An ICMPv6 message with a right checksum; `body` is what follows the checksum."""
    bare = struct.pack("!BBH", kind, code, 0) + body
    pseudo = ip6(source) + ip6(destination) + struct.pack("!II", len(bare), ICMPV6)
    return bare[:2] + struct.pack("!H", internet_checksum(pseudo + bare)) + bare[4:]


def ports(protocol: int, sport: int, dport: int, *, flags: int = 2, data: bytes = b"") -> bytes:
    """A transport header without a checksum, for tests that look at ports and flags only."""
    if protocol == TCP:
        return struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 5 << 4, flags, 64240, 0, 0) + data
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
