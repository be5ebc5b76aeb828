"""Addresses as bytes: IPs are 128-bit keys (IPv4 as v4-mapped IPv6, RFC 4291 2.5.5.2), MACs 48-bit. Pure.

Called by every room. Text appears only at the edges (REST, logs); inside, an address is a key of fixed size,
so that a table written for IPv4 carries IPv6 without change.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import NewType

import msgspec

Ip = NewType("Ip", bytes)
"""16 bytes, network order; IPv4 is ::ffff:a.b.c.d."""

Mac = NewType("Mac", bytes)
"""6 bytes, network order."""

V4_MAPPED = b"\x00" * 10 + b"\xff\xff"
ROUTER_MAC = Mac(bytes.fromhex("fe1611000000"))
"""The MAC of every gateway, on every host: frames to it are routed. Locally administered, unicast."""
SERVICE_IPS = (Ip(V4_MAPPED + b"\xa9\xfe\xa9\xfe"), Ip(b"\xfe\x80" + bytes(10) + b"\xa9\xfe\xa9\xfe"))
"""Where a port finds its host's services, DNS and metadata: 169.254.169.254 and fe80::a9fe:a9fe, as in OpenStack."""
BROADCAST_IP = Ip(V4_MAPPED + b"\xff" * 4)


class Prefix(msgspec.Struct, frozen=True, gc=False, order=True):
    """A CIDR block: `base` has its host bits clear, `length` counts in its own family (0-32 or 0-128)."""

    base: Ip
    length: int
    version: int = 4

    @property
    def size(self) -> int:
        """How many addresses the block holds, network and broadcast included."""
        return int(1 << ((32 if self.version == 4 else 128) - self.length))

    @property
    def first(self) -> int:
        """The block's first address as an integer in its own family."""
        return ip_to_int(self.base)

    def __contains__(self, ip: object) -> bool:
        if not isinstance(ip, bytes) or ip_version(Ip(ip)) != self.version:
            return False
        return self.first <= ip_to_int(Ip(ip)) < self.first + self.size

    def overlaps(self, other: Prefix) -> bool:
        """True when the two blocks share an address."""
        return self.version == other.version and (
            self.first < other.first + other.size and other.first < self.first + self.size
        )

    def covers(self, other: Prefix) -> bool:
        """True when every address of the other block is one of this."""
        return self.version == other.version and self.length <= other.length and other.base in self

    def __str__(self) -> str:
        return f"{format_ip(self.base)}/{self.length}"


def ip_version(ip: Ip) -> int:
    """4 for a v4-mapped key, else 6."""
    return 4 if ip[:12] == V4_MAPPED else 6


def ip_to_int(ip: Ip) -> int:
    """The address as an integer in its own family (32 bits for IPv4)."""
    return int.from_bytes(ip[12:] if ip[:12] == V4_MAPPED else ip, "big")


def ip_from_int(value: int, version: int) -> Ip:
    """The key of the address `value` of that family."""
    return Ip(V4_MAPPED + value.to_bytes(4, "big")) if version == 4 else Ip(value.to_bytes(16, "big"))


def parse_ip(text: str) -> Ip:
    """The key of an address in text. Raises ValueError with the text in it."""
    try:
        return Ip(V4_MAPPED + socket.inet_pton(socket.AF_INET, text))
    except OSError:
        pass
    try:
        return Ip(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, UnicodeError, ValueError):
        raise ValueError(f"'{text}' is not a valid IP address") from None


def format_ip(ip: Ip) -> str:
    """The address in text (RFC 5952 for IPv6)."""
    if ip[:12] == V4_MAPPED:
        return f"{ip[12]}.{ip[13]}.{ip[14]}.{ip[15]}"
    return socket.inet_ntop(socket.AF_INET6, ip)


@lru_cache(maxsize=4096)
def parse_prefix(text: str) -> Prefix:
    """A CIDR in text; host bits must be clear. Raises ValueError with the reason."""
    address, slash, length_text = text.partition("/")
    base = parse_ip(address)
    version = ip_version(base)
    bits = 32 if version == 4 else 128
    if not slash or not length_text.isascii() or not length_text.isdigit() or int(length_text) > bits:
        raise ValueError(f"'{text}' is not a valid CIDR")
    length = int(length_text)
    if ip_to_int(base) & ((1 << (bits - length)) - 1):
        raise ValueError(f"'{text}' has host bits set")
    return Prefix(base, length, version)


def network_of(text: str) -> Prefix:
    """The prefix of an address or CIDR, its host bits cleared (Neutron's normalized_cidr). Raises ValueError."""
    address, slash, length_text = text.partition("/")
    base = parse_ip(address)
    version = ip_version(base)
    bits = 32 if version == 4 else 128
    if slash and (not length_text.isascii() or not length_text.isdigit() or int(length_text) > bits):
        raise ValueError(f"'{text}' is not a valid CIDR")
    length = int(length_text) if slash else bits
    return Prefix(ip_from_int(ip_to_int(base) >> (bits - length) << (bits - length), version), length, version)


def parse_mac(text: str) -> Mac:
    """A MAC in text (aa:bb:cc:dd:ee:ff). Raises ValueError with the text in it."""
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 and part.isascii() for part in parts):
        raise ValueError(f"'{text}' is not a valid MAC address")
    try:
        return Mac(bytes.fromhex("".join(parts)))
    except ValueError:
        raise ValueError(f"'{text}' is not a valid MAC address") from None


def link_local(mac: Mac) -> Ip:
    """The IPv6 link-local address that a MAC makes: fe80::/64 and the modified EUI-64 (RFC 4291 appendix A)."""
    return Ip(b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:])


def mac_of_link_local(ip: Ip) -> Mac | None:
    """The MAC that makes the link-local address; None when no MAC does."""
    mac = Mac(bytes((ip[8] ^ 2,)) + ip[9:11] + ip[13:])
    return mac if link_local(mac) == ip else None


def with_link_local(ips: tuple[Ip, ...], mac: Mac) -> tuple[Ip, ...]:
    """The addresses at which a port is found: its own, and with IPv6 the link-local one that its MAC makes."""
    for ip in ips:
        if ip[0]:  # an IPv4 key begins with zeros
            local = link_local(mac)
            return ips if local in ips else (*ips, local)
    return ips


def format_mac(mac: Mac) -> str:
    """The MAC in text, lower case, with colons."""
    return mac.hex(":")
