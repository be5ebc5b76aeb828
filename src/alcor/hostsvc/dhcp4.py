"""DHCP for IPv4 (RFC 2131, RFC 2132, RFC 3442), answered from goal state alone: there are no leases to keep. Pure.

Called by answering. A port has its address as long as it is there; DISCOVER and REQUEST are told which it is, for a
day at a time. RELEASE and DECLINE change nothing.
"""

from __future__ import annotations

import struct
from typing import Final

from alcor.hostsvc.base import LEASE_S, Client, Lease
from alcor.hostsvc.packets import Datagram, write_datagram
from alcor.model.addresses import BROADCAST_IP, ROUTER_MAC, SERVICE_IPS, V4_MAPPED, Ip, ip_from_int, ip_version
from alcor.model.dhcp import NEXT_SERVER, classless_route, encode_option
from alcor.model.names import host_name

SERVER_PORT, CLIENT_PORT = 67, 68
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
_COOKIE: Final = b"\x63\x82\x53\x63"
_FIXED: Final = struct.Struct("!BBBBIHH4s4s4s4s16s192s4s")
_BROADCAST: Final = 0x8000
_SMALLEST, _LARGEST, _HEADERS = 576, 1400, 28
"""Bytes of a datagram that every client takes, that no underlay cuts, and of IP and UDP in front."""
_NOWHERE: Final = bytes(4)
_MANDATORY: Final = (53, 54, 51, 58, 59, 1)
_MAX_OPTIONS = 64


def answer_dhcp(client: Client, asked: Datagram) -> list[bytes] | None:
    """The answer's frames: none for what needs no answer. None: it is no request of this port's client."""
    if len(asked.payload) < _FIXED.size:
        return None
    op, kind, length, _, xid, _, flags, ciaddr, _, _, giaddr, chaddr, _, cookie = _FIXED.unpack_from(asked.payload)
    if (op, kind, length, cookie, giaddr) != (1, 1, 6, _COOKIE, _NOWHERE) or chaddr[:6] != client.mac:
        return None
    options = _read_options(asked.payload[_FIXED.size :])
    leases = client.of_version(4)
    if options is None or not leases or len(options.get(53, b"")) != 1:
        return None
    told = options[53][0]
    if told in (DECLINE, RELEASE):
        return []
    wanted = options.get(50, _NOWHERE) if ciaddr == _NOWHERE else ciaddr
    lease = next((one for one in leases if one.ip[12:] == wanted), None)
    ours = client.gateway_of(lease or leases[0])
    if told == DISCOVER:
        reply = OFFER
    elif told == REQUEST:
        if options.get(54, ours[12:]) != ours[12:]:
            return []  # the client chose another server, which has no way here
        reply = ACK if lease is not None else NAK
    elif told == INFORM:
        reply = ACK
    else:
        return None
    lease = lease or leases[0]
    given = _options(client, lease, options, reply, lease_time=told != INFORM)
    siaddr = given.pop(NEXT_SERVER, _NOWHERE)
    yiaddr = lease.ip[12:] if reply != NAK and told != INFORM else _NOWHERE
    head = _FIXED.pack(
        *(2, 1, 6, 0, xid, 0, flags, ciaddr if reply == ACK else _NOWHERE, yiaddr, siaddr, giaddr, chaddr),
        *(bytes(192), _COOKIE),
    )
    body = _write_options(given, options.get(55, b""), _room(options))
    to = _destination(reply, ciaddr, yiaddr, flags)
    packet = Datagram(ROUTER_MAC, ours, to, SERVER_PORT, CLIENT_PORT, head + body)
    return [write_datagram(packet, client.mac)]


def _destination(reply: int, ciaddr: bytes, yiaddr: bytes, flags: int) -> Ip:
    """RFC 2131 section 4.1."""
    if reply != NAK and ciaddr != _NOWHERE:
        return Ip(V4_MAPPED + ciaddr)
    if reply == NAK or flags & _BROADCAST or yiaddr == _NOWHERE:
        return BROADCAST_IP
    return Ip(V4_MAPPED + yiaddr)


def _read_options(raw: bytes) -> dict[int, bytes] | None:
    """The options by number, repeated ones joined (RFC 3396); None when they are inconsistent."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw) and raw[at] != 255:
        if raw[at] == 0:
            at += 1
            continue
        if at + 2 > len(raw) or at + 2 + raw[at + 1] > len(raw) or len(found) > _MAX_OPTIONS:
            return None
        found[raw[at]] = found.get(raw[at], b"") + raw[at + 2 : at + 2 + raw[at + 1]]
        at += 2 + raw[at + 1]
    return found


def _room(options: dict[int, bytes]) -> int:
    """Bytes of options that the client takes (RFC 2132 section 9.10)."""
    said = int.from_bytes(options.get(57, b"")[:2], "big")
    return min(max(said, _SMALLEST), _LARGEST) - _HEADERS - _FIXED.size - 1


def _options(
    client: Client, lease: Lease, asked: dict[int, bytes], reply: int, *, lease_time: bool
) -> dict[int, bytes]:
    """What the answer says, by number."""
    ours = client.gateway_of(lease)
    found = {53: bytes((reply,)), 54: ours[12:]}
    if 61 in asked:
        found[61] = asked[61]  # RFC 6842
    if reply == NAK:
        return found
    if lease_time:
        times = {51: LEASE_S, 58: LEASE_S // 2, 59: LEASE_S * 7 // 8}
        found |= {code: seconds.to_bytes(4, "big") for code, seconds in times.items()}
    mask = (0xFFFFFFFF << (32 - lease.cidr.length)) & 0xFFFFFFFF
    found[1] = mask.to_bytes(4, "big")
    found[28] = ip_from_int(lease.cidr.first + lease.cidr.size - 1, 4)[12:]
    if lease.gateway is not None:
        found[3] = lease.gateway[12:]
    servers = [server for server in lease.nameservers if ip_version(server) == 4] or [SERVICE_IPS[0]]
    found[6] = b"".join([server[12:] for server in servers])
    found[12] = (client.hostname or host_name(lease.ip)).partition(".")[0].encode()
    found[15] = client.domain.rstrip(".").encode()
    found[26] = client.mtu.to_bytes(2, "big")
    found[121] = _routes(client, lease)
    for option in client.options:
        if option.version == 4:
            try:
                code, raw = encode_option(4, option.name, option.value)
            except ValueError:
                continue  # of a newer control plane: the rest is no worse for it
            found[code] = raw
    return found


def _routes(client: Client, lease: Lease) -> bytes:
    """Option 121: the host's services, the subnet's host routes, and the default route, for who reads this does not
    read option 3 (RFC 3442). Without a gateway of its own the service address is on the link (next hop 0.0.0.0)."""
    hop = lease.gateway[12:] if lease.gateway is not None and client.routed else _NOWHERE
    routes = [classless_route("169.254.169.254/32", hop)]
    routes += [classless_route(str(to), hop[12:]) for to, hop in lease.routes if to.version == 4]
    if lease.gateway is not None:
        routes.append(classless_route("0.0.0.0/0", lease.gateway[12:]))
    return b"".join(routes)


def _write_options(given: dict[int, bytes], wanted: bytes, room: int) -> bytes:
    """As many as there is room for: what every answer has, then what the client asked for, in its order, then the
    rest."""
    order = dict.fromkeys((*_MANDATORY, *wanted, *sorted(given)))
    written = b""
    for code in order:
        raw = given.get(code)
        if raw is not None and len(raw) <= 255 and len(written) + 2 + len(raw) <= room:
            written += bytes((code, len(raw))) + raw
    return written + b"\xff"
