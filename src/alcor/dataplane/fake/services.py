"""What a port asks of its own host: DHCP, router solicitations, DNS, metadata; step S of docs/pipeline.md. Pure.

Called by the pipeline model. The host's services (the agent) answer; here is only what is theirs, and what nobody else
may send. The service address is 169.254.169.254, and fe80::a9fe:a9fe.
"""

from __future__ import annotations

from alcor.dataplane.drops import DropReason
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import (
    ETHERNET_LENGTH,
    IPV6_LENGTH,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Ethernet,
    Header,
)
from alcor.dataplane.fake.tables import LocalRow, PortFlag, PortRow
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS, Ip, format_ip, format_mac

ROUTER_SOLICITATION = 133
_CLIENT_SERVER = {4: (68, 67), 6: (546, 547)}
"""UDP ports of DHCP (RFC 2131) and DHCPv6 (RFC 8415)."""
_OFFERED = {(PROTOCOL_TCP, 80), (PROTOCOL_TCP, 53), (PROTOCOL_UDP, 53)}
_NOBODY = (frames.mapped(b"\0\0\0\0"), Ip(bytes(16)))


def service_row(port: PortRow, ip: Ip) -> LocalRow | None:
    """Who answers for the service address when a port that is served asks."""
    return LocalRow(0, 0, ROUTER_MAC) if ip in SERVICE_IPS and port.flags & PortFlag.SERVED else None


def service(walk: Walk, port: PortRow, ether: Ethernet, ip: Header | None) -> Verdict | None:
    """Step S: a verdict when the packet is for the host's services, or plays them."""
    if ip is None:
        return None
    ports = _ports(walk.frame, ip)
    if ip.protocol == PROTOCOL_UDP and ports is not None:
        client, server = _CLIENT_SERVER[ip.version]
        if ports == (server, client) and not port.flags & PortFlag.OPEN:
            return walk.drop(DropReason.DHCP_SERVER, "S: only the host answers DHCP")
        if ports == (client, server) and port.flags & PortFlag.SERVED and ether.source == port.mac:
            anonymous = ip.version == 4 and ip.source in _NOBODY
            return (None if anonymous else _spoofed(walk, port, ether, ip.source)) or walk.serve("S: asks for DHCP")
    if ip.destination not in SERVICE_IPS or not port.flags & PortFlag.SERVED:
        return None
    if ports is None or (ip.protocol, ports[1]) not in _OFFERED:
        return walk.drop(DropReason.NO_SERVICE, f"S: {format_ip(ip.destination)} offers no such thing")
    return _spoofed(walk, port, ether, ip.source) or walk.serve(f"S: for {format_ip(ip.destination)}")


def solicit(walk: Walk, port: PortRow, ether: Ethernet) -> Verdict:
    """Step 6b, a router solicitation of a port that is served (RFC 4861 section 6.1.1)."""
    ip = walk.frame[ETHERNET_LENGTH : ETHERNET_LENGTH + IPV6_LENGTH]
    message = walk.frame[ETHERNET_LENGTH + IPV6_LENGTH :]
    if len(message) < 8 or int.from_bytes(ip[4:6], "big") < 8:
        return walk.drop(DropReason.MALFORMED, "6b: a router solicitation cut short")
    if message[1] or ip[7] != 255:
        return walk.drop(DropReason.ND_IGNORED, f"6b: router solicitation with hop limit {ip[7]}")
    source = Ip(ip[8:24])
    if source in _NOBODY:
        if ether.source != port.mac:
            return walk.drop(DropReason.SPOOFED_MAC, f"6b: {format_mac(ether.source)} is not the port's")
        return walk.serve("6b: router solicitation")
    return _spoofed(walk, port, ether, source) or walk.serve("6b: router solicitation")


def _spoofed(walk: Walk, port: PortRow, ether: Ethernet, source: Ip) -> Verdict | None:
    reason = walk.spoofed(port, ether.source, source)
    if reason is None:
        return None
    return walk.drop(reason, f"S: the port may not ask from {format_mac(ether.source)} {format_ip(source)}")


def _ports(frame: bytes, ip: Header) -> tuple[int, int] | None:
    """Source and destination port; None when there are none to read."""
    if ip.fragment or ip.total_length < ip.header_length + 4:
        return None
    at = ETHERNET_LENGTH + ip.header_length
    return int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")
