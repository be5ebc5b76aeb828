"""ICMP echo from inside container namespaces, many at a time: real packets through the containers' own stacks.

Called by proofs and measures. A raw ICMP socket belongs to the namespace its thread was in when it was opened, and
works from any thread afterwards: so one thread walks through the namespaces to open sockets, one loop serves them all.
(ICMP: RFC 792. IP_MTU_DISCOVER: ip(7).)
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from alcor.dataplane.kernel import netns
from alcor.dataplane.kernel.links import NUD_PERMANENT
from alcor.dataplane.kernel.netlink import NLM_F_DUMP, Netlink, attribute, message, parse_attributes

WAVE = 200
"""Pings under way at a time: each leaves a neighbour entry at both ends, and all namespaces of a machine share a table
of 1,024 (net.ipv4.neigh.default.gc_thresh3)."""
RESEND_S = 0.25
TIMEOUT_S = 10.0
ICMP_HEADER, IP_HEADER = 8, 20
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
ECHO_REQUEST, ECHO_REPLY = 8, 0
RTM_DELNEIGH, RTM_GETNEIGH, NDA_DST = 29, 30, 1
_ICMP = struct.Struct("!BBHHH")
_NEIGH = struct.Struct("=BxxxiHBB")
NONCE_BYTES = 16
NUD_NOARP = 0x40
MAX_STREAM = 0xFFFF
"""Requests of one stream: ICMP numbers them with 16 bits."""

T = TypeVar("T")


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """One echo to ask for: from the namespace at `source` to `target` (an IPv4 address in text)."""

    source: Path
    target: str
    size: int = 84
    """Bytes of the whole IP packet (ping(8)'s default is 84)."""
    nonce: bytes = b""
    """Found in every request and reply; chosen when empty."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a ping."""

    answered: bool
    sent: int
    """Requests it took; 1 when the first was answered."""
    rtt_ms: float


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identifier: int, sequence: int, payload: bytes) -> bytes:
    """An ICMP echo request."""
    bare = _ICMP.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + payload
    return bare[:2] + checksum(bare).to_bytes(2, "big") + bare[4:]


def payload_of(ping: Ping) -> bytes:
    """The nonce, filled up to the size asked for."""
    nonce = ping.nonce or secrets.token_bytes(NONCE_BYTES)
    return nonce + bytes(max(0, ping.size - IP_HEADER - ICMP_HEADER - len(nonce)))


def visit(paths: Sequence[Path], function: Callable[[Path], T]) -> list[T]:
    """What `function(path)` returns inside the namespace at each path, on one thread that walks through them."""

    def walk() -> list[T]:
        found = []
        for path in paths:
            fd = netns.open_path(path)
            try:
                netns.set_net(fd)
            finally:
                os.close(fd)
            found.append(function(path))
        return found

    return netns.on_own_thread(walk)


def open_icmp(_: Path) -> socket.socket:
    """A raw ICMP socket in the calling thread's namespace, never fragmenting, never blocking. Raises OSError."""
    one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    one.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    one.setblocking(False)
    return one


class _Outstanding:
    """One ping under way."""

    def __init__(self, ping: Ping, socket_: socket.socket) -> None:
        self.socket = socket_
        self.answer: Answer | None = None
        self._ping = ping
        self._payload = payload_of(ping)
        self._identifier = secrets.randbelow(0x10000)
        self._sent_at: dict[int, float] = {}

    def send(self) -> None:
        """The next request. A local refusal (no route, too big for the MTU) counts as sent: it is never answered."""
        sequence = len(self._sent_at) + 1
        self._sent_at[sequence] = time.perf_counter()
        with suppress(OSError):
            self.socket.sendto(echo_request(self._identifier, sequence, self._payload), (self._ping.target, 0))

    def receive(self) -> bool:
        """Takes in what arrived; True once the right reply was among it."""
        with suppress(BlockingIOError):
            while self.answer is None:
                packet, (sender, _) = self.socket.recvfrom(65536)
                now = time.perf_counter()
                body = packet[(packet[0] & 0xF) * 4 :]
                kind, _, _, identifier, sequence = _ICMP.unpack_from(body)
                mine = (kind, identifier) == (ECHO_REPLY, self._identifier) and sender == self._ping.target
                if mine and sequence in self._sent_at and body[ICMP_HEADER:] == self._payload:
                    rtt_ms = (now - self._sent_at[sequence]) * 1000
                    self.answer = Answer(answered=True, sent=len(self._sent_at), rtt_ms=rtt_ms)
        return self.answer is not None

    def result(self) -> Answer:
        """The answer, or that there was none."""
        return self.answer or Answer(answered=False, sent=len(self._sent_at), rtt_ms=0.0)


def ping_all(
    pings: Sequence[Ping],
    *,
    timeout_s: float = TIMEOUT_S,
    resend_s: float = RESEND_S,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """The answers, in order. Requests are repeated every `resend_s` until one is answered or `timeout_s` is over.

    `progress` is told how many were answered or given up so far.
    """
    answers: list[Answer] = []
    for first in range(0, len(pings), WAVE):
        wave = pings[first : first + WAVE]
        sockets = visit([ping.source for ping in wave], open_icmp)
        try:
            answers += _wave([_Outstanding(*one) for one in zip(wave, sockets, strict=True)], timeout_s, resend_s)
        finally:
            for one in sockets:
                one.close()
        forget_neighbours(sorted({ping.source for ping in wave}))
        progress(len(answers))
    return answers


def _wave(wave: list[_Outstanding], timeout_s: float, resend_s: float) -> list[Answer]:
    poller = select.poll()
    waiting = {one.socket.fileno(): one for one in wave}
    for fd in waiting:
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while waiting and (now := time.monotonic()) < deadline:
        for one in waiting.values():
            one.send()
        resend = min(deadline, now + resend_s)
        while waiting and (left := resend - time.monotonic()) > 0:
            for fd, _ in poller.poll(left * 1000):
                if waiting[fd].receive():
                    poller.unregister(fd)
                    del waiting[fd]
    return [one.result() for one in wave]


def forget_neighbours(paths: Sequence[Path]) -> None:
    """Empties the neighbour caches there (permanent entries stay): room in the machine's one table for the next."""

    def forget(_: Path) -> None:
        with Netlink() as netlink:
            request = message(RTM_GETNEIGH, NLM_F_DUMP, _NEIGH.pack(socket.AF_INET, 0, 0, 0, 0))
            netlink.send(netlink.dump(request, _deletion))

    visit(paths, forget)


def _deletion(body: bytes) -> bytes | None:
    """The message that deletes the neighbour of that dump entry; None for a permanent one."""
    family, index, state, flags, _ = _NEIGH.unpack_from(body)
    address = parse_attributes(body, _NEIGH.size).get(NDA_DST)
    if state & (NUD_PERMANENT | NUD_NOARP) or address is None:
        return None
    return message(RTM_DELNEIGH, 0, _NEIGH.pack(family, index, 0, flags, 0) + attribute(NDA_DST, address))


class Stream:
    """A ping that repeats on a thread of its own until stopped, counting every request and reply."""

    def __init__(self, ping: Ping, interval_s: float) -> None:
        self._ping = ping
        self._interval_s = interval_s
        self._payload = payload_of(ping)
        self._identifier = secrets.randbelow(0x10000)
        self._stop = threading.Event()
        self._sent_at: list[float] = []
        self._answered: set[int] = set()
        self._rtts_ms: list[float] = []
        (self._socket,) = visit([ping.source], open_icmp)
        self._thread = threading.Thread(target=self._run, name="ping", daemon=True)
        self._thread.start()

    @property
    def answered(self) -> int:
        """Requests answered so far."""
        return len(self._answered)

    def stop(self, grace_s: float = 2.0) -> StreamResult:
        """No more requests; waits up to `grace_s` for the last replies."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + grace_s
        while len(self._answered) < len(self._sent_at) and (left := deadline - time.monotonic()) > 0:
            select.select([self._socket], [], [], left)
            self._receive()
        self._socket.close()
        worst = max(self._rtts_ms, default=0.0)
        return StreamResult(sent=len(self._sent_at), answered=len(self._answered), worst_rtt_ms=worst)

    def _run(self) -> None:
        following = time.monotonic()
        while not self._stop.is_set() and len(self._sent_at) < MAX_STREAM:
            self._sent_at.append(time.perf_counter())
            request = echo_request(self._identifier, len(self._sent_at), self._payload)
            with suppress(OSError):
                self._socket.sendto(request, (self._ping.target, 0))
            # Never behind: a burst that makes up for a pause would overflow the socket with its replies.
            following = max(following + self._interval_s, time.monotonic())
            self._receive()
            while (left := following - time.monotonic()) > 0:
                if select.select([self._socket], [], [], left)[0]:
                    self._receive()

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                packet, (sender, _) = self._socket.recvfrom(65536)
                now = time.perf_counter()
                body = packet[(packet[0] & 0xF) * 4 :]
                kind, _, _, identifier, sequence = _ICMP.unpack_from(body)
                mine = (kind, identifier, sender) == (ECHO_REPLY, self._identifier, self._ping.target)
                if mine and 0 < sequence <= len(self._sent_at) and sequence not in self._answered:
                    self._answered.add(sequence)
                    self._rtts_ms.append((now - self._sent_at[sequence - 1]) * 1000)


class StreamResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream counted."""

    sent: int
    answered: int
    worst_rtt_ms: float

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return self.sent - self.answered
