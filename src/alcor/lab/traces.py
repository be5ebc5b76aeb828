"""What is between two containers, as traceroute(8) finds it: echoes whose TTL runs out on the way. Called by routing
and dualstack.

A raw ICMP socket hears errors too, whose source says who sent them (RFC 792, RFC 4443).
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from alcor.lab.pings import echo_request, visit

RESEND_S, TIMEOUT_S = 0.2, 5.0
TIME_EXCEEDED, UNREACHABLE = {4: 11, 6: 3}, {4: 3, 6: 1}
ECHO_REPLY, ECHO6_REQUEST, ECHO6_REPLY = 0, 128, 129
_ICMP = struct.Struct("!BBHHH")


class Word(NamedTuple):
    """What came back: its type and code, and from whom."""

    kind: int
    code: int
    source: str


def hop(netns: Path, target: str, ttl: int, timeout_s: float = TIMEOUT_S) -> Word | None:
    """What is answered to an echo from the container with that TTL; None: nothing, in time."""
    v6 = ":" in target
    identifier, payload = secrets.randbelow(1 << 16), b"alcor" + bytes(60)
    request = _ICMP.pack(ECHO6_REQUEST, 0, 0, identifier, 1) + payload if v6 else echo_request(identifier, 1, payload)

    def open_there(_: Path) -> socket.socket:
        if v6:
            opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        return opened

    with visit([netns], open_there)[0] as opened:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with suppress(OSError):  # an answer to an earlier one: it is read below
                opened.sendto(request, (target, 0))
            until = min(deadline, time.monotonic() + RESEND_S)
            while select.select([opened], [], [], max(0.0, until - time.monotonic()))[0]:
                message, (source, *_) = opened.recvfrom(2048)
                word = _read(message if v6 else message[20:], source, identifier, 6 if v6 else 4)
                if word is not None:
                    return word
    return None


def _read(message: bytes, source: str, identifier: int, version: int) -> Word | None:
    """An answer to the echo of that identifier, or an error about it."""
    kind, code, _, answered, _ = _ICMP.unpack_from(message)
    if kind == (ECHO_REPLY if version == 4 else ECHO6_REPLY):
        return Word(kind, code, source) if answered == identifier else None
    at = 8 + (20 if version == 4 else 40)
    if kind not in (TIME_EXCEEDED[version], UNREACHABLE[version]) or len(message) < at + 8:
        return None
    return Word(kind, code, source) if _ICMP.unpack_from(message, at)[3] == identifier else None
