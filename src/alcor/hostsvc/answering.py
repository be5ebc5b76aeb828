"""What one frame of a port is answered with. Pure. Called by serving, on the event loop: some 50 us a request."""

from __future__ import annotations

from typing import NamedTuple

from alcor.dataplane.fake.frames import ETHERNET_LENGTH, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Header
from alcor.hostsvc import dhcp4, dhcp6, dns
from alcor.hostsvc.advertisements import advertisement
from alcor.hostsvc.base import Client, Clients
from alcor.hostsvc.packets import Datagram, read_datagram, read_header, write_datagram
from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS, Mac

ROUTER_SOLICITATION = 133


class Tcp(NamedTuple):
    """A segment for the stack that serves TCP."""

    ip: Header


class Query(NamedTuple):
    """A DNS query that a resolver elsewhere may answer."""

    asked: Datagram
    largest: int
    refusal: bytes
    failure: bytes


Answer = list[bytes] | Tcp | Query | None
"""Frames (none: it needs no answer), or who else is to answer. None: nobody has an answer."""


def answer(frame: bytes, client: Client, clients: Clients) -> Answer:
    """The answer to what the port sent. Never raises."""
    ip = read_header(frame)
    if ip is None:
        return None
    if ip.protocol == PROTOCOL_TCP:
        return Tcp(ip) if ip.destination in SERVICE_IPS and not ip.fragment else None
    if ip.protocol == PROTOCOL_ICMPV6 and ip.version == 6:
        return _solicited(frame, ip, client)
    asked = read_datagram(frame, ip) if ip.protocol == PROTOCOL_UDP else None
    if asked is None:
        return None
    if ip.version == 4 and asked.destination_port == dhcp4.SERVER_PORT:
        return dhcp4.answer_dhcp(client, asked)
    if ip.version == 6 and asked.destination_port == dhcp6.SERVER_PORT:
        return dhcp6.answer_dhcp6(client, asked)
    if ip.destination in SERVICE_IPS and asked.destination_port == dns.PORT:
        return _named(asked, client, clients)
    return None


def reply(asked: Datagram, payload: bytes) -> bytes:
    """The frame of a service's answer to a datagram."""
    told = Datagram(ROUTER_MAC, asked.destination, asked.source, asked.destination_port, asked.source_port, payload)
    return write_datagram(told, asked.source_mac)


def _solicited(frame: bytes, ip: Header, client: Client) -> Answer:
    at = ETHERNET_LENGTH + ip.header_length
    if frame[at : at + 2] != bytes((ROUTER_SOLICITATION, 0)):
        return None
    told = advertisement(client, ip.source, Mac(frame[6:12]))
    return [told] if told is not None else []


def _named(asked: Datagram, client: Client, clients: Clients) -> Answer:
    try:
        told = dns.answer_dns(asked.payload, client, clients.zone(client))
    except dns.Elsewhere as elsewhere:
        return Query(asked, elsewhere.largest, elsewhere.answer(), elsewhere.failure())
    return [reply(asked, told)] if told is not None else None
