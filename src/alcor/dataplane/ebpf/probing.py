"""Health probes of workloads, from the host's end of their interface. Called by the driver; used by the agent.

A probe is a small conversation in frames, put into the interface as if a load balancer's address had sent them: so it
meets the workload's own stack and program, whatever kind of port it is, and needs no address of its own. The answers
are read before the data plane sees (and drops) them: packet sockets come before traffic control. Security groups are
not met. TCP is RFC 9293 as far as one request needs it; a lost segment is sent again.

One thread runs all conversations; each is a generator that yields what to send and is resumed with what came.
"""

from __future__ import annotations

import itertools
import queue
import random
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from typing import NamedTuple

from alcor.dataplane.base import Probe
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from alcor.dataplane.fake.packet import Packet, read_packet
from alcor.model.addresses import Ip, ip_version

RESEND_S = 0.2
MAX_CONVERSATIONS = 1024
"""At once; the others wait."""
MAX_ANSWER = 64 * 1024
"""Bytes of an HTTP answer that are looked at."""
FIRST_PORT, LAST_PORT = 61_000, 64_999
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_WINDOW = 65_535

Conversation = Generator[bytes | None, "Came | None", tuple[str, bytes | None]]
"""Yields what to send (None: nothing new), is resumed with what came (None: time passed), returns why it failed and the
last thing to send."""


class Came(NamedTuple):
    """A packet for the probe."""

    packet: Packet
    data: bytes
    """From the IP header on."""


class Probing:
    """See the module. Fills dataplane.base.Prober; made on a thread that is in the host's network namespace."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Probe, Callable[[str], None]] | None] = queue.SimpleQueue()
        self._wake_end, self._bell = socket.socketpair()
        self._wake_end.setblocking(False)
        self._ports = itertools.cycle(range(FIRST_PORT, LAST_PORT + 1))
        self._thread = threading.Thread(target=self._run, name="alcor-probes", daemon=True)
        self._thread.start()

    def start(self, probe: Probe, done: Callable[[str], None]) -> None:
        """See dataplane.base."""
        self._asked.put((probe, done))
        self._bell.send(b"!")

    def close(self) -> None:
        """Ends the thread; conversations that run are told nothing."""
        self._asked.put(None)
        self._bell.send(b"!")
        self._thread.join()
        self._bell.close()
        self._wake_end.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_end, selectors.EVENT_READ)
            running: dict[int, _Running] = {}
            try:
                while self._round(selector, running):
                    pass
            finally:
                for one in running.values():
                    one.wire.close()

    def _round(self, selector: selectors.BaseSelector, running: dict[int, _Running]) -> bool:
        due = min((one.due for one in running.values()), default=None)
        for key, _ in selector.select(None if due is None else max(0.0, due - time.monotonic())):
            if key.fileobj is self._wake_end:
                with suppress(BlockingIOError):
                    self._wake_end.recv(4096)
            else:
                running[key.fd].read()
        while len(running) < MAX_CONVERSATIONS:
            try:
                asked = self._asked.get_nowait()
            except queue.Empty:
                break
            if asked is None:
                return False
            self._begin(selector, running, *asked)
        now = time.monotonic()
        for descriptor, one in list(running.items()):
            if one.due <= now:
                one.pass_time(now)
            if one.reason is not None:
                selector.unregister(one.wire)
                del running[descriptor]
                one.wire.close()
                one.done(one.reason)
        return True

    def _begin(
        self,
        selector: selectors.BaseSelector,
        running: dict[int, _Running],
        probe: Probe,
        done: Callable[[str], None],
    ) -> None:
        number = next(port for port in self._ports if port not in probe.avoid)
        try:
            one = _Running(probe, number, done)
        except OSError as error:
            done(f"cannot probe: {error.strerror}")
            return
        running[one.wire.fileno()] = one
        selector.register(one.wire, selectors.EVENT_READ)


class _Running:
    """A conversation and its socket."""

    def __init__(self, probe: Probe, number: int, done: Callable[[str], None]) -> None:
        self.done = done
        self.reason: str | None = None
        self._probe = probe
        self._number = number
        self.wire = _wire(probe)
        now = time.monotonic()
        self._end = now + probe.timeout_s
        self.due = now
        self._last: bytes | None = None
        self._talk = converse(probe, number)
        self._step(None, first=True)

    def read(self) -> None:
        """Everything that came."""
        while self.reason is None:
            try:
                data, where = self.wire.recvfrom(65_536)
            except BlockingIOError:
                return
            except OSError as error:
                self.reason = f"the interface is gone: {error.strerror}"
                return
            if where[2] == socket.PACKET_OUTGOING:
                continue
            packet = read_packet(data[ETHERNET_LENGTH:], ip_version(self._probe.ip))
            if packet is not None and packet.destination == self._probe.source:
                self._step(Came(packet, data[ETHERNET_LENGTH:]))

    def pass_time(self, now: float) -> None:
        """Nothing came for a while."""
        if now >= self._end:
            self.reason = self.reason or self._finish_late()
        elif self._last is not None:
            self._send(self._last)

    def _finish_late(self) -> str:
        quiet = self._probe.type == "UDP-CONNECT"
        return "" if quiet else f"no answer within {self._probe.timeout_s:g} s"

    def _step(self, came: Came | None, *, first: bool = False) -> None:
        try:
            out = next(self._talk) if first else self._talk.send(came)
        except StopIteration as ended:
            reason, last = ended.value
            if last is not None:
                self._send(last)
            self.reason = self.reason or reason
            return
        if out is not None:
            self._last = out
            self._send(out)

    def _send(self, packet: bytes) -> None:
        probe = self._probe
        ethertype = frames.TYPE_IPV4 if ip_version(probe.ip) == 4 else frames.TYPE_IPV6
        try:
            self.wire.send(frames.ethernet(probe.mac, probe.source_mac, ethertype, packet))
        except OSError as error:
            self.reason = f"the interface is gone: {error.strerror}"
        self.due = min(self._end, time.monotonic() + RESEND_S)


def _wire(probe: Probe) -> socket.socket:
    """A packet socket at the interface that takes only what goes to the probe's source address."""
    name = socket.if_indextoname(probe.ifindex)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        ethertype, at = (frames.TYPE_IPV4, 30) if ip_version(probe.ip) == 4 else (frames.TYPE_IPV6, 50)
        number = int.from_bytes(probe.source[12:], "big")
        # Classic BPF: the ethertype, then the (last) 32 bits of the destination address.
        steps = ((0x28, 0, 0, 12), (0x15, 0, 3, ethertype), (0x20, 0, 0, at), (0x15, 0, 1, number), (6, 0, 0, 0xFFFF))
        code = b"".join(struct.pack("=HBBI", *step) for step in (*steps, (6, 0, 0, 0)))
        kept = create_string_buffer(code)
        wire.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(code) // 8, addressof(kept)))
        wire.bind((name, ETH_P_ALL))
    except BaseException:
        wire.close()
        raise
    return wire


# ---- conversations ----


def converse(probe: Probe, number: int) -> Conversation:
    """The conversation of a probe, from that source port (or with that identifier)."""
    if probe.type == "PING":
        return _ping(probe, number)
    if probe.type == "UDP-CONNECT":
        return _udp(probe, number)
    return _tcp(probe, number)


def _ping(probe: Probe, number: int) -> Conversation:
    if ip_version(probe.ip) == 4:
        packet = frames.ipv4(probe.source, probe.ip, PROTOCOL_ICMP, frames.icmp_echo(8, number, 1, b"alcor"))
    else:
        message = struct.pack("!BBHHH", 128, 0, 0, number, 1) + b"alcor"
        told = frames.icmpv6(probe.source, probe.ip, message)
        packet = frames.ipv6(probe.source, probe.ip, PROTOCOL_ICMPV6, told)
    came = yield packet
    while came is None or not came.packet.is_icmp or came.packet.source_port != number:
        came = yield None
    return "", None


def _udp(probe: Probe, number: int) -> Conversation:
    datagram = struct.pack("!HHHH", number, probe.port, frames.UDP_LENGTH, 0)
    came = yield _packet(probe, PROTOCOL_UDP, datagram, 6)
    while came is None or not (came.packet.is_icmp_error or came.packet.protocol == PROTOCOL_UDP):
        came = yield None
    return "" if came.packet.protocol == PROTOCOL_UDP else "the port is unreachable", None


class _Segment(NamedTuple):
    flags: int
    sequence: int
    acknowledged: int
    payload: bytes


def _tcp(probe: Probe, number: int) -> Conversation:
    """Connects; with HTTP and HTTPS asks, and reads the status."""
    sent = random.getrandbits(32)
    segment: _Segment | None = None
    out: bytes | None = _segment(probe, number, sent, 0, _SYN)
    while segment is None:
        segment = _heard(probe, number, (yield out))
        out = None
    if segment.flags & _RST or not segment.flags & _SYN:
        return "the connection is refused", None
    taken = (segment.sequence + 1) & 0xFFFFFFFF
    sent = (sent + 1) & 0xFFFFFFFF
    if probe.type == "TCP":
        return "", _segment(probe, number, sent, taken, _RST | _ACK)
    secure = _Secure(probe) if probe.type == "HTTPS" else _Plain(probe)
    out = secure.begin()
    while True:
        flags = _ACK | (_PSH if out else 0)
        request = _segment(probe, number, sent, taken, flags, out)
        segment = _heard(probe, number, (yield request))
        while segment is None or segment.sequence != taken or not (segment.payload or segment.flags & (_FIN | _RST)):
            if segment is not None and out and segment.acknowledged == (sent + len(out)) & 0xFFFFFFFF:
                sent, out = segment.acknowledged, b""
                request = _segment(probe, number, sent, taken, _ACK)
                segment = _heard(probe, number, (yield request))
                continue
            segment = _heard(probe, number, (yield None))
        if out and segment.acknowledged == (sent + len(out)) & 0xFFFFFFFF:
            sent, out = segment.acknowledged, b""
        taken = (taken + len(segment.payload)) & 0xFFFFFFFF
        more, reason = secure.take(segment.payload)
        if reason is None and segment.flags & (_FIN | _RST):
            reason = "the connection ended before an answer"
        if reason is not None:
            at = (sent + len(out or b"")) & 0xFFFFFFFF
            return reason, _segment(probe, number, at, taken, _RST | _ACK)
        out = more or b""


class _Plain:
    """An HTTP request, and the status of its answer."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._answer = b""

    def begin(self) -> bytes:
        return self.request()

    def request(self) -> bytes:
        return f"{self._probe.http_method} {self._probe.url_path} HTTP/1.0\r\nUser-Agent: alcor\r\n\r\n".encode()

    def take(self, data: bytes) -> tuple[bytes, str | None]:
        """What came; returns what to send, and the outcome once it is known."""
        self._answer += data
        return b"", self.outcome(self._answer)

    def outcome(self, answer: bytes) -> str | None:
        """Why it is not what is expected ("": it is); None: not known yet."""
        line, end, _ = answer.partition(b"\n")
        if not end:
            return "no HTTP status in the answer" if len(answer) > MAX_ANSWER else None
        words = line.split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            return "the answer is not HTTP"
        code = int(words[1])
        return "" if is_expected(code, self._probe.expected_codes) else f"HTTP status {code}"


class _Secure(_Plain):
    """The same inside TLS, whoever's certificate it is."""

    def __init__(self, probe: Probe) -> None:
        super().__init__(probe)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        self._shaken = False
        self._read = b""

    def begin(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._out.read()

    def take(self, data: bytes) -> tuple[bytes, str | None]:
        self._in.write(data)
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                self._tls.write(self.request())
            self._read += self._tls.read(MAX_ANSWER)
        except ssl.SSLWantReadError:
            return self._out.read(), None
        except ssl.SSLError as error:
            return b"", f"TLS: {error.reason}"
        return self._out.read(), self.outcome(self._read)


def is_expected(code: int, text: str) -> bool:
    """Octavia's expected codes: `200`, `200,202`, `200-204`."""
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and int(first) <= code <= int(last if last.isdigit() else first):
            return True
    return False


def _heard(probe: Probe, number: int, came: Came | None) -> _Segment | None:
    """The segment, if it is one of the conversation."""
    if came is None or not came.packet.is_tcp:
        return None
    if (came.packet.source_port, came.packet.destination_port) != (probe.port, number):
        return None
    head = came.data[came.packet.payload : came.packet.payload + 20]
    sequence, acknowledged = struct.unpack("!II", head[4:12])
    begins = came.packet.payload + (head[12] >> 4) * 4
    ends = int.from_bytes(came.data[2:4], "big") if came.packet.version == 4 else len(came.data)
    return _Segment(came.packet.tcp_flags, sequence, acknowledged, came.data[begins:ends])


def _segment(
    probe: Probe, number: int, sequence: int, acknowledged: int, flags: int, data: bytes | None = b""
) -> bytes:
    head = struct.pack("!HHIIBBHHH", number, probe.port, sequence, acknowledged, 5 << 4, flags, _WINDOW, 0, 0)
    return _packet(probe, PROTOCOL_TCP, head + (data or b""), 16)


def _packet(probe: Probe, protocol: int, payload: bytes, check_at: int) -> bytes:
    """An IP packet whose transport checksum, at that place of the payload, is right."""
    if ip_version(probe.ip) == 4:
        pseudo = _v4(probe.source) + _v4(probe.ip) + struct.pack("!HH", protocol, len(payload))
    else:
        pseudo = probe.source + probe.ip + struct.pack("!II", len(payload), protocol)
    number = frames.checksum(pseudo + payload) or 0xFFFF
    whole = payload[:check_at] + number.to_bytes(2, "big") + payload[check_at + 2 :]
    if ip_version(probe.ip) == 4:
        return frames.ipv4(probe.source, probe.ip, protocol, whole)
    return frames.ipv6(probe.source, probe.ip, protocol, whole)


def _v4(ip: Ip) -> bytes:
    return frames.v4(ip)
