"""Router advertisements (RFC 4861 section 4.2, RFC 8106): to who solicits, and every now and then. Pure."""

from __future__ import annotations

import struct
from typing import Final

from alcor.dataplane.fake import frames
from alcor.hostsvc.base import ROUTER_LINK_LOCAL, Client, Lease
from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS, Ip, Mac, ip_version, parse_ip
from alcor.model.dhcp import domain_labels
from alcor.model.nouns import Ipv6Mode

ADVERTISEMENT = 134
INTERVAL_S = (200.0, 600.0)
"""Between two that nobody asked for (RFC 4861 section 6.2.1)."""
ROUTER_LIFETIME_S, SERVERS_LIFETIME_S = 1800, 1800
"""Three times the longest interval."""
VALID_S, PREFERRED_S = 86_400, 14_400
"""Of prefixes, as radvd has them under Neutron."""
HOP_LIMIT = 64
ALL_NODES: Final = parse_ip("ff02::1")
ALL_NODES_MAC: Final = Mac(b"\x33\x33\0\0\0\1")
_MANAGED, _OTHER = 0x80, 0x40
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_NOBODY: Final = Ip(bytes(16))


def advertised(client: Client) -> list[Lease]:
    """Its addresses in subnets that are advertised."""
    return [lease for lease in client.of_version(6) if lease.ra_mode is not None]


def advertisement(client: Client, to: Ip = ALL_NODES, to_mac: Mac = ALL_NODES_MAC) -> bytes | None:
    """The frame for who solicited, or (by default) for all nodes behind the port; None: nothing is advertised."""
    leases = advertised(client)
    if not leases:
        return None
    if to == _NOBODY:
        to, to_mac = ALL_NODES, ALL_NODES_MAC
    modes = {lease.ra_mode for lease in leases}
    flags = _MANAGED if Ipv6Mode.STATEFUL in modes else 0
    flags |= _OTHER if modes - {Ipv6Mode.SLAAC} else 0
    lifetime = ROUTER_LIFETIME_S if client.routed and any(lease.gateway is not None for lease in leases) else 0
    message = struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, HOP_LIMIT, flags, lifetime, 0, 0)
    message += b"\x01\x01" + ROUTER_MAC
    message += struct.pack("!BBHI", 5, 1, 0, client.mtu)
    for lease in {lease.cidr: lease for lease in leases}.values():
        how = _ON_LINK | (0 if lease.ra_mode is Ipv6Mode.STATEFUL else _AUTONOMOUS)
        message += struct.pack("!BBBBIII", 3, 4, lease.cidr.length, how, VALID_S, PREFERRED_S, 0) + lease.cidr.base
    message += _servers(leases) + _domain(client.domain)
    told = frames.icmpv6(ROUTER_LINK_LOCAL, to, message)
    packet = frames.ipv6(ROUTER_LINK_LOCAL, to, frames.PROTOCOL_ICMPV6, told, hop_limit=255)
    return frames.ethernet(to_mac, ROUTER_MAC, frames.TYPE_IPV6, packet)


def _servers(leases: list[Lease]) -> bytes:
    """RDNSS (RFC 8106 section 5.1); the host itself when no other is named."""
    named = dict.fromkeys(one for lease in leases for one in lease.nameservers if ip_version(one) == 6)
    servers = list(named) or [SERVICE_IPS[1]]
    return struct.pack("!BBHI", 25, 1 + 2 * len(servers), 0, SERVERS_LIFETIME_S) + b"".join(servers)


def _domain(domain: str) -> bytes:
    """DNSSL (RFC 8106 section 5.2)."""
    labels = domain_labels(domain)
    padded = labels + bytes(-len(labels) % 8)
    return struct.pack("!BBHI", 31, 1 + len(padded) // 8, 0, SERVERS_LIFETIME_S) + padded
