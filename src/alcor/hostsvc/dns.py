"""The DNS of a VPC: names of its ports, both ways, authoritative; anything else is somebody else's. Pure.

Called by answering (UDP) and serving (TCP). dnspython enters Alcor here and nowhere else. A port has its dns_name, and
every address of a subnet has the name that is made of it (host-10-0-0-5, as in Neutron).
"""

from __future__ import annotations

from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from alcor.hostsvc.base import Client, Zone
from alcor.model.addresses import Ip, format_ip, ip_version, parse_ip
from alcor.model.names import host_name, ip_of_host_name

PORT = 53
TTL_S = 30
"""Short: ports come and go."""
LARGEST_UDP = 1232
"""What no path cuts (DNS flag day 2020)."""
SMALLEST_UDP = 512
MAX_ADDRESSES = 64
"""Of one answer."""
_TYPES: Final = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}
_REVERSE: Final = (dns.reversename.ipv4_reverse_domain, dns.reversename.ipv6_reverse_domain)


class Elsewhere(Exception):
    """Not of this VPC: for a resolver, if there is one."""

    def __init__(self, query: dns.message.Message) -> None:
        super().__init__("somebody else's name")
        self._query = query

    def answer(self) -> bytes:
        """What to say when there is nobody else to ask."""
        return _refuse(self._query, dns.rcode.REFUSED)

    def failure(self) -> bytes:
        """What to say when nobody else answers."""
        return _refuse(self._query, dns.rcode.SERVFAIL)

    @property
    def largest(self) -> int:
        """Bytes of answer that the client takes by UDP."""
        return _largest(self._query)


def answer_dns(raw: bytes, client: Client, zone: Zone, *, tcp: bool = False) -> bytes | None:
    """The answer; None for what is no query. Raises Elsewhere."""
    try:
        query = dns.message.from_wire(raw, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, IndexError, OverflowError):
        return None
    if query.flags & dns.flags.QR:
        return None
    if query.opcode() != dns.opcode.QUERY:
        return _refuse(query, dns.rcode.NOTIMP)
    if len(query.question) != 1:
        return _refuse(query, dns.rcode.FORMERR)
    asked = query.question[0]
    if asked.rdclass != dns.rdataclass.IN:
        return _refuse(query, dns.rcode.REFUSED)
    try:
        response = _forward(query, client, zone) or _backward(query, client, zone)
    except (dns.exception.DNSException, ValueError):
        return _refuse(query, dns.rcode.SERVFAIL)
    if response is None:
        raise Elsewhere(query)
    return response.to_wire(max_size=65535 if tcp else _largest(query), prefer_truncation=True)


def is_answer(raw: bytes, query: bytes) -> bool:
    """Somebody's bytes answer this query: same number, same question (RFC 5452)."""
    if len(raw) < 12 or raw[:2] != query[:2] or not raw[2] & 0x80:
        return False
    try:
        return dns.message.from_wire(query, ignore_trailing=True, question_only=True).question == (
            dns.message.from_wire(raw, ignore_trailing=True, question_only=True).question
        )
    except (dns.exception.DNSException, ValueError, IndexError, OverflowError):
        return False


def truncated(raw: bytes) -> bytes:
    """An answer that is too long, as one that says so: header and question, TC set."""
    try:
        answer = dns.message.from_wire(raw, ignore_trailing=True, question_only=True)
    except (dns.exception.DNSException, ValueError, IndexError, OverflowError):
        return raw[:12]
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def _largest(query: dns.message.Message) -> int:
    return max(SMALLEST_UDP, min(query.payload, LARGEST_UDP)) if query.edns >= 0 else SMALLEST_UDP


def _refuse(query: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    response = dns.message.make_response(query)
    response.set_rcode(code)
    return response.to_wire()


def _forward(query: dns.message.Message, client: Client, zone: Zone) -> dns.message.Message | None:
    """Names of the VPC's domain; None: it is another's."""
    asked = query.question[0]
    domain = dns.name.from_text(client.domain)
    if not asked.name.is_subdomain(domain):
        return None
    response = _authoritative(query)
    if asked.name == domain:
        found: tuple[Ip, ...] = ()
        exists = True
    else:
        word = asked.name.relativize(domain).to_text(omit_final_dot=True).lower()
        found = zone.addresses(word)
        made = ip_of_host_name(word) if not found else None
        if made is not None and zone.contains(made):
            found = (made,)
        exists = bool(found)
    for kind, version in _TYPES.items():
        texts = [format_ip(ip) for ip in found if ip_version(ip) == version][:MAX_ADDRESSES]
        if texts and asked.rdtype in (kind, dns.rdatatype.ANY):
            response.answer.append(dns.rrset.from_text_list(asked.name, TTL_S, dns.rdataclass.IN, kind, texts))
    if not response.answer:
        _deny(response, domain, exists=exists)
    return response


def _backward(query: dns.message.Message, client: Client, zone: Zone) -> dns.message.Message | None:
    """Addresses of the VPC's subnets; None: it is another's."""
    asked = query.question[0]
    if not any(asked.name.is_subdomain(domain) for domain in _REVERSE):
        return None
    try:
        ip = parse_ip(dns.reversename.to_address(asked.name))
    except (dns.exception.DNSException, ValueError):
        return None
    if not zone.contains(ip):
        return None
    response = _authoritative(query)
    if asked.rdtype in (dns.rdatatype.PTR, dns.rdatatype.ANY):
        name = f"{zone.name(ip) or host_name(ip)}.{client.domain}"
        response.answer.append(
            dns.rrset.from_text(asked.name, TTL_S, dns.rdataclass.IN, dns.rdatatype.PTR, name),
        )
    else:
        _deny(response, asked.name, exists=True)
    return response


def _authoritative(query: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    if query.flags & dns.flags.RD:
        response.flags |= dns.flags.RA
    return response


def _deny(response: dns.message.Message, zone: dns.name.Name, *, exists: bool) -> None:
    """No such name, or nothing of that type; the SOA says for how long to believe it (RFC 2308)."""
    if not exists:
        response.set_rcode(dns.rcode.NXDOMAIN)
    text = f"{zone} hostmaster.{zone} 1 3600 600 86400 {TTL_S}"
    response.authority.append(dns.rrset.from_text(zone, TTL_S, dns.rdataclass.IN, dns.rdatatype.SOA, text))
