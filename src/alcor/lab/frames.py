"""Raw frames: what a workload sees on its interface, and frames that it has no right to send. Called by proofs.

AF_PACKET (packet(7)): a capture sees every frame that reaches the interface inside the container, whatever the stack
does with it later; a forged frame leaves the container exactly as written.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from alcor.kit.sockets import set_receive_buffer
from alcor.lab.pings import ECHO_REQUEST, ICMP_HEADER, checksum, echo_request, visit
from alcor.model.addresses import Mac, parse_ip, parse_mac

INTERFACE = "eth0"
ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800
PACKET_OUTGOING = 4
CAPTURE_BUFFER_BYTES = 1 << 20
_IPV4 = struct.Struct("!BBHHHBBH4s4s")


class Captures:
    """Echo requests that arrive at several workloads' interfaces, told apart by a nonce inside. Use as a context."""

    def __init__(self, namespaces: Sequence[Path]) -> None:
        self._namespaces = tuple(namespaces)
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Captures:
        self._sockets = visit(self._namespaces, _capture)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._sockets:
            one.close()

    def count(self, nonce: bytes) -> list[int]:
        """How many requests with the nonce have arrived at each since the capture began (or was last asked)."""
        counts = []
        for one in self._sockets:
            seen = 0
            with suppress(BlockingIOError):
                while True:
                    frame, (_, _, kind, *_) = one.recvfrom(65536)
                    at = frame.find(nonce) - ICMP_HEADER
                    seen += kind != PACKET_OUTGOING and at > 0 and frame[at] == ECHO_REQUEST
            counts.append(seen)
        return counts


def _capture(_: Path) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    set_receive_buffer(one, CAPTURE_BUFFER_BYTES)
    one.bind((INTERFACE, ETH_P_ALL))
    one.setblocking(False)
    return one


def icmp_frame(*, source_mac: str, target_mac: Mac | str, source: str, target: str, payload: bytes) -> bytes:
    """An Ethernet frame with an ICMP echo request, as a workload could write it by hand."""
    icmp = echo_request(1, 1, payload)
    bare = _IPV4.pack(
        0x45, 0, 20 + len(icmp), 1, 0, 64, socket.IPPROTO_ICMP, 0, parse_ip(source)[12:], parse_ip(target)[12:]
    )
    header = bare[:10] + checksum(bare).to_bytes(2, "big") + bare[12:]
    to = parse_mac(target_mac) if isinstance(target_mac, str) else target_mac
    return bytes(to) + bytes(parse_mac(source_mac)) + ETH_P_IP.to_bytes(2, "big") + header + icmp


def send_frames(namespace: Path, frames: Sequence[bytes]) -> None:
    """Puts the frames on the wire from inside a container."""

    def send(_: Path) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
            out.bind((INTERFACE, 0))
            for frame in frames:
                out.send(frame)

    visit([namespace], send)
