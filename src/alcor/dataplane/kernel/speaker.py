"""The kernel routing table from which a BGP speaker takes what to announce: a /32 or /128 for each external address of
this host. Wired by roles; agent.bgp says what is in it.

A table of its own that no rule looks up: it forwards nothing, it only says. BIRD learns its routes, FRR imports them
(docs/rooms/bgp.md has both). So what is announced stays when the agent is gone, as the data plane does, and a speaker
that starts finds all of it. A route is a `blackhole`, as what a router originates is: should a packet ever be routed by
it (FRR copies it into the main table), the address is not here any more, and silence is better than an error that ends
connections while the address moves. Ours are known by their protocol number; others in the table are left alone.
A number is a table of each family. Sources: linux/rtnetlink.h; net/ipv4/fib_frontend.c, net/ipv6/ip6_fib.c and
net/ipv6/route.c of kernel 6.1 (filters of dumps, what a deletion compares).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from alcor.dataplane.kernel.links import RTA_DST, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE
from alcor.dataplane.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Netlink,
    NetlinkError,
    attribute,
    attribute_u32,
    message,
    parse_attributes,
)
from alcor.model.addresses import Ip, format_ip, ip_from_int, ip_version

RTA_TABLE: Final = 15
RTN_BLACKHOLE: Final = 6
PROTOCOL: Final = 137
"""What our routes say they come from (`ip route show table N proto 137`); nobody's in iproute2's rt_protos."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination's length, source's, tos, table, protocol, scope, type, flags."""
_FAMILIES: Final = {4: (socket.AF_INET, 32), 6: (socket.AF_INET6, 128)}
"""IP version -> its family, and the length of a route to one address."""
_NOT_THERE: Final = frozenset((errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP))
"""The kernel makes a table with its first route; and it may be without IPv6."""


class KernelSpeakerTable:
    """Fills agent.bgp.SpeakerTable. In the namespace of the thread that opens it; for one thread at a time."""

    def __init__(self, number: int) -> None:
        """Raises OSError."""
        self.number = number
        self._netlink = Netlink()

    def close(self) -> None:
        """What is in the table stays."""
        self._netlink.close()

    def read(self) -> set[Ip]:
        """The addresses whose routes are ours. Raises OSError."""
        found: set[Ip] = set()
        for version in _FAMILIES:
            try:
                found |= set(self._netlink.dump(message(RTM_GETROUTE, NLM_F_DUMP, self._all(version)), self._parse))
            except NetlinkError as error:
                if error.errno not in _NOT_THERE:
                    raise
        return found

    def change(self, put: Sequence[Ip], remove: Sequence[Ip]) -> None:
        """Raises OSError, when all that could be done is done: some may be as they were then."""
        asked = [(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, ip) for ip in put]
        asked += [(RTM_DELROUTE, 0, ip) for ip in remove]
        answers = self._netlink.send([message(kind, flags, self._route(ip)) for kind, flags, ip in asked])
        for (kind, _, ip), answer in zip(asked, answers, strict=True):
            if not answer.errno or (kind == RTM_DELROUTE and answer.errno == errno.ESRCH):
                continue
            if answer.errno == errno.EEXIST:
                raise OSError(errno.EEXIST, f"table {self.number} has a route to {format_ip(ip)} that is not Alcor's")
            raise OSError(answer.errno, f"route to {format_ip(ip)} in table {self.number}: {os.strerror(answer.errno)}")

    def _route(self, ip: Ip) -> bytes:
        version = ip_version(ip)
        return self._head(version, _FAMILIES[version][1]) + attribute(RTA_DST, ip[12:] if version == 4 else ip)

    def _all(self, version: int) -> bytes:
        return self._head(version, 0)

    def _head(self, version: int, length: int) -> bytes:
        body = _ROUTE.pack(_FAMILIES[version][0], length, 0, 0, 0, PROTOCOL, 0, RTN_BLACKHOLE, 0)
        return body + attribute_u32(RTA_TABLE, self.number)

    def _parse(self, body: bytes) -> Ip | None:
        family, length, _, _, _, protocol, _, kind, _ = _ROUTE.unpack_from(body)
        version = next((version for version, known in _FAMILIES.items() if known == (family, length)), None)
        found = parse_attributes(body, _ROUTE.size)
        table = struct.unpack("=I", found.get(RTA_TABLE, bytes(4)))[0]
        if version is None or (protocol, kind, table) != (PROTOCOL, RTN_BLACKHOLE, self.number):
            return None
        return ip_from_int(int.from_bytes(found[RTA_DST], "big"), version)
