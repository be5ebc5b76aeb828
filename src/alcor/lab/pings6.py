"""Echo requests over IPv6 (RFC 4443), one at a time. Called by the proofs of IPv6."""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

from alcor.lab.pings import visit

ECHO_REQUEST, ECHO_REPLY = 128, 129
RESEND_S, TIMEOUT_S = 0.25, 5.0
_ICMP = struct.Struct("!BBHHH")


def ping6(source: Path, target: str, timeout_s: float = TIMEOUT_S, interface: str = "") -> bool:
    """True when an echo request from the namespace is answered by the target itself; it is sent again until then.
    `interface`: the one to which a link-local target belongs."""
    identifier = secrets.randbelow(1 << 16)
    request = _ICMP.pack(ECHO_REQUEST, 0, 0, identifier, 1) + b"alcor"

    def opened(_: Path) -> tuple[socket.socket, int]:
        scope = socket.if_nametoindex(interface) if interface else 0
        return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6), scope

    ((asking, scope),) = visit([source], opened)
    with asking:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with suppress(OSError):  # no answer to an earlier solicitation: told at the next send
                asking.sendto(request, (target, 0, 0, scope))
            until = min(deadline, time.monotonic() + RESEND_S)
            while select.select([asking], [], [], max(0.0, until - time.monotonic()))[0]:
                message, (sender, *_) = asking.recvfrom(2048)
                kind, _code, _sum, answered, _sequence = _ICMP.unpack_from(message)
                if (kind, answered, sender.partition("%")[0]) == (ECHO_REPLY, identifier, target):
                    return True
    return False
