"""DHCP for IPv6 (RFC 8415), stateful and stateless, answered from goal state alone. Pure. Called by answering.

Every host is the same server: its DUID is made of the router's MAC, so that a port that moves finds the server it knew.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from alcor.hostsvc.base import LEASE_S, ROUTER_LINK_LOCAL, Client, Lease
from alcor.hostsvc.packets import Datagram, write_datagram
from alcor.model.addresses import ROUTER_MAC, ip_version
from alcor.model.dhcp import domain_labels, encode_option
from alcor.model.nouns import Ipv6Mode

SERVER_PORT, CLIENT_PORT = 547, 546
SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE = 1, 2, 3, 4, 5, 6, 7, 8, 9
INFORMATION_REQUEST = 11
CLIENT_ID, SERVER_ID, IA_NA, IA_TA, IA_ADDRESS, PREFERENCE, STATUS, RAPID_COMMIT, IA_PD = 1, 2, 3, 4, 5, 7, 13, 14, 25
DNS_SERVERS, DOMAIN_LIST = 23, 24
SUCCESS, NO_ADDRESSES, NO_BINDING, NOT_ON_LINK, NO_PREFIX = 0, 2, 3, 4, 6
DUID: Final = b"\0\x03\0\x01" + ROUTER_MAC
"""DUID-LL of Ethernet (RFC 8415 section 11.4)."""
_MAX_OPTIONS = 64
_NEEDS_SERVER: Final = frozenset({REQUEST, RENEW, RELEASE, DECLINE})
_FORBIDS_SERVER: Final = frozenset({SOLICIT, CONFIRM, REBIND})


class _Option(NamedTuple):
    code: int
    raw: bytes


def answer_dhcp6(client: Client, asked: Datagram) -> list[bytes] | None:
    """The answer's frames: none for what needs no answer. None: it is no request that this port's host answers."""
    kind, options = asked.payload[:1], _read_options(asked.payload[4:])
    leases = [lease for lease in client.of_version(6) if _by_dhcp(lease)]
    if not kind or len(asked.payload) < 4 or options is None or not leases:
        return None
    told = kind[0]
    who = next((one.raw for one in options if one.code == CLIENT_ID), b"")
    server = next((one.raw for one in options if one.code == SERVER_ID), None)
    if not _is_valid(told, who, server):
        return None
    if server is not None and server != DUID:
        return []
    stateful = [lease for lease in leases if _stateful(lease)]
    body = _body(told, options, stateful)
    if body is None:
        return []
    reply = REPLY
    if told == SOLICIT and not any(one.code == RAPID_COMMIT for one in options):
        reply = ADVERTISE
        body.append(_Option(PREFERENCE, b"\xff"))
    elif told == SOLICIT:
        body.append(_Option(RAPID_COMMIT, b""))
    ids = [_Option(SERVER_ID, DUID)]
    if who:
        ids.insert(0, _Option(CLIENT_ID, who))
    payload = bytes((reply,)) + asked.payload[1:4] + _write(ids + body + _extras(client, leases))
    packet = Datagram(ROUTER_MAC, ROUTER_LINK_LOCAL, asked.source, SERVER_PORT, CLIENT_PORT, payload)
    return [write_datagram(packet, asked.source_mac)]


def _by_dhcp(lease: Lease) -> bool:
    """DHCPv6 is spoken in its subnet: it says so, or it says nothing (as in Neutron)."""
    return _stateful(lease) or lease.address_mode is Ipv6Mode.STATELESS


def _stateful(lease: Lease) -> bool:
    return lease.address_mode is Ipv6Mode.STATEFUL or (lease.address_mode is None and lease.ra_mode is None)


def _is_valid(kind: int, who: bytes, server: bytes | None) -> bool:
    """RFC 8415 section 16."""
    if kind in _NEEDS_SERVER:
        return bool(who) and server is not None
    if kind in _FORBIDS_SERVER:
        return bool(who) and server is None
    return kind == INFORMATION_REQUEST


def _body(kind: int, options: list[_Option], leases: list[Lease]) -> list[_Option] | None:
    """What answers the client's identity associations; None: it needs no answer."""
    if kind in (RELEASE, DECLINE):
        return [_status(SUCCESS)]
    if kind == INFORMATION_REQUEST:
        return []
    if kind == CONFIRM:
        return _confirm(options, leases)
    found, left = [], list(leases)
    for one in options:
        if one.code == IA_NA and len(one.raw) >= 12:
            found.append(_Option(IA_NA, _association(one.raw, left.pop(0) if left else None, kind)))
        elif one.code == IA_TA and len(one.raw) >= 4:
            found.append(_Option(IA_TA, one.raw[:4] + _write([_status(NO_ADDRESSES)])))
        elif one.code == IA_PD and len(one.raw) >= 12:
            found.append(_Option(IA_PD, one.raw[:4] + bytes(8) + _write([_status(NO_PREFIX)])))
    return found


def _association(raw: bytes, lease: Lease | None, kind: int) -> bytes:
    """An IA_NA's answer: the port's address, and addresses that the client believes to have and must let go."""
    if lease is None:
        status = NO_BINDING if kind in (RENEW, REBIND) else NO_ADDRESSES
        return raw[:4] + bytes(8) + _write([_status(status)])
    times = (LEASE_S // 2).to_bytes(4, "big") + (LEASE_S * 4 // 5).to_bytes(4, "big")
    life = LEASE_S.to_bytes(4, "big")
    inside = [_Option(IA_ADDRESS, lease.ip + life + life)]
    if kind in (RENEW, REBIND):
        stale = {one.raw[:16] for one in _read_options(raw[12:]) or () if one.code == IA_ADDRESS and len(one.raw) >= 24}
        inside += [_Option(IA_ADDRESS, ip + bytes(8)) for ip in sorted(stale - {bytes(lease.ip)})]
    return raw[:4] + times + _write(inside)


def _confirm(options: list[_Option], leases: list[Lease]) -> list[_Option] | None:
    addresses = [
        inner.raw[:16]
        for one in options
        if one.code == IA_NA and len(one.raw) >= 12
        for inner in _read_options(one.raw[12:]) or ()
        if inner.code == IA_ADDRESS and len(inner.raw) >= 24
    ]
    if not addresses:
        return None
    fits = all(any(ip in lease.cidr for lease in leases) for ip in addresses)
    return [_status(SUCCESS if fits else NOT_ON_LINK)]


def _extras(client: Client, leases: list[Lease]) -> list[_Option]:
    """Servers, domain, and what the port asked for by extra_dhcp_opts."""
    servers = dict.fromkeys(one for lease in leases for one in lease.nameservers if ip_version(one) == 6)
    found = {DOMAIN_LIST: domain_labels(client.domain)}
    if servers:
        found[DNS_SERVERS] = b"".join(servers)
    for option in client.options:
        if option.version == 6:
            try:
                code, raw = encode_option(6, option.name, option.value)
            except ValueError:
                continue  # of a newer control plane: the rest is no worse for it
            found[code] = raw
    return [_Option(code, raw) for code, raw in sorted(found.items())]


def _status(code: int) -> _Option:
    return _Option(STATUS, code.to_bytes(2, "big"))


def _read_options(raw: bytes) -> list[_Option] | None:
    """The options in their order; None when they are inconsistent."""
    found: list[_Option] = []
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at + 2 : at + 4], "big")
        if at + 4 > len(raw) or end > len(raw) or len(found) >= _MAX_OPTIONS:
            return None
        found.append(_Option(int.from_bytes(raw[at : at + 2], "big"), raw[at + 4 : end]))
        at = end
    return found


def _write(options: list[_Option]) -> bytes:
    return b"".join([code.to_bytes(2, "big") + len(raw).to_bytes(2, "big") + raw for code, raw in options])
