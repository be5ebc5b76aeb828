"""TCP of ports to the host's own stack and back: addresses rewritten, so that VPCs with the same addresses never meet.

Called by serving. Each (port, address) has a number while it talks, and with it an address in the stack: there servers
see who calls. Segments are not followed: an entry is forgotten when there are too many, the one used longest ago first,
or when its port is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from alcor.dataplane.base import Request, Stack
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, PROTOCOL_TCP, TYPE_IPV4, TYPE_IPV6, Header
from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS, Ip, Mac, ip_to_int, ip_version, parse_ip
from alcor.model.ids import Id

TCP_LENGTH, CHECKSUM_AT = 20, 16


class Party(NamedTuple):
    """Who talks to the stack under a number."""

    port: Id
    ip: Ip
    mac: Mac
    ifindex: int


class Translation:
    """See the module. One event loop."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._numbers: OrderedDict[tuple[Id, Ip], int] = OrderedDict()
        self._parties: dict[int, Party] = {}
        self._next = 1

    def inwards(self, request: Request, ip: Header) -> bytes | None:
        """The port's segment as the stack is to see it; None when it is cut short."""
        start, end = ETHERNET_LENGTH + ip.header_length, ETHERNET_LENGTH + ip.total_length
        segment = request.frame[start:end]
        if len(segment) < TCP_LENGTH or not TCP_LENGTH <= (segment[12] >> 4) * 4 <= len(segment):
            return None
        number = self._number(request.port, ip.source)
        self._parties[number] = Party(request.port, ip.source, Mac(request.frame[6:12]), request.ifindex)
        source, to = self._stack.party(ip.version, number), self._stack.address(ip.version)
        make = frames.ipv4 if ip.version == 4 else frames.ipv6
        return make(source, to, PROTOCOL_TCP, segment)

    def outwards(self, packet: bytes) -> tuple[int, bytes] | None:
        """The interface and the frame that a packet of the stack becomes; None when it is for nobody."""
        ip = frames.parse_ipv4(packet) if packet[:1] and packet[0] >> 4 == 4 else frames.parse_ipv6(packet)
        party = self._party(ip.destination) if ip is not None else None
        if ip is None or party is None or ip.protocol != PROTOCOL_TCP or ip.version != ip_version(party.ip):
            return None
        segment = packet[ip.header_length : ip.total_length]
        if len(segment) < TCP_LENGTH:
            return None
        ours = SERVICE_IPS[ip.version == 6]
        old = int.from_bytes(segment[CHECKSUM_AT : CHECKSUM_AT + 2], "big")
        new = _readdressed(old, (ip.source, ip.destination), (ours, party.ip))
        segment = segment[:CHECKSUM_AT] + new.to_bytes(2, "big") + segment[CHECKSUM_AT + 2 :]
        make, kind = (frames.ipv4, TYPE_IPV4) if ip.version == 4 else (frames.ipv6, TYPE_IPV6)
        told = make(ours, party.ip, PROTOCOL_TCP, segment)
        return party.ifindex, frames.ethernet(party.mac, ROUTER_MAC, kind, told)

    def who(self, address: str) -> Party | None:
        """Who calls from that address of the stack."""
        return self._party(parse_ip(address))

    def _number(self, port: Id, ip: Ip) -> int:
        key = port, ip
        number = self._numbers.pop(key, None)
        if number is None and len(self._numbers) >= self._stack.parties:
            _, number = self._numbers.popitem(last=False)
        if number is None:
            number, self._next = self._next, self._next + 1
        self._numbers[key] = number
        return number

    def _party(self, address: Ip) -> Party | None:
        first = self._stack.address(ip_version(address))
        return self._parties.get(ip_to_int(address) - ip_to_int(first))


def _readdressed(checksum: int, old: tuple[Ip, Ip], new: tuple[Ip, Ip]) -> int:
    """A TCP checksum after the addresses in its pseudo header changed (RFC 1624). A key's prefix of IPv4 is the same on
    both sides and cancels out."""
    for before, after in zip(old, new, strict=True):
        for at in range(0, 16, 2):
            one, other = int.from_bytes(before[at : at + 2], "big"), int.from_bytes(after[at : at + 2], "big")
            if one != other:
                checksum = frames.update_checksum(checksum, one, other)
    return checksum
