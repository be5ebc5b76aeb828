"""rtnetlink: encoding of messages, and a socket that sends them in batches. Called by links, wiring and the lab.

A message is a value, `bytes`: header, body, attributes (RFC 3549; linux/netlink.h, linux/rtnetlink.h). `Netlink.send`
packs many of them into each sendmsg, which the kernel carries out in order under one system call, and says per message
what became of it. Batching is what makes Python as quick as C here: the kernel's RTNL lock is the limit (44 k against
40 k ports a minute, measured).

A socket belongs for ever to the network namespace that its thread was in when it was opened; to open one elsewhere:
`netns.call(fd, Netlink)`. A `Netlink` is not thread-safe: one per thread.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, TypeVar

from alcor.kit.sockets import set_receive_buffer

MAX_MESSAGES_PER_SEND = 64
"""More gains nothing (measured), and the answers of so many fit in the receive buffer."""
MAX_BYTES_PER_SEND = 128 * 1024
"""Stays below the default send buffer (net.core.wmem_default, 208 KiB): a larger send fails with EMSGSIZE."""
RECEIVE_BUFFER_BYTES = 1024 * 1024
RECV_BYTES = 32 * 1024
"""A dump's datagrams are at most 32 KiB, an answer's much less."""
MAX_DUMP_ATTEMPTS = 16
ANSWER_TIMEOUT_S = 60
"""The kernel answers from within sendmsg; only a lost answer would make us wait."""
_ANSWER_TIMEOUT = struct.pack("=qq", ANSWER_TIMEOUT_S, 0)

# linux/netlink.h
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port id."""
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_SEQUENCE_OFFSET = 8
_FLAGS_OFFSET = 6
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

T = TypeVar("T")


class Ack(NamedTuple):
    """What became of a message: 0, or an errno with the kernel's own words if it had any (extended ack)."""

    errno: int
    text: str = ""

    def __str__(self) -> str:
        if not self.errno:
            return "done"
        return f"{os.strerror(self.errno)}: {self.text}" if self.text else os.strerror(self.errno)


DONE = Ack(0)


class NetlinkError(OSError):
    """The kernel refused a message. `errno` as usual; `strerror` has the kernel's reason and what was asked."""


# ---- encoding (pure) ----


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A request of type `kind` (RTM_*). `flags` are added to NLM_F_REQUEST; the sequence number is set when sent."""
    return HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute (struct nlattr, padded to 4 bytes)."""
    size = len(value)
    return _ATTRIBUTE.pack(4 + size, kind) + value + _PADDING[size & 3]


def attribute_u32(kind: int, value: int) -> bytes:
    """An attribute that is a 32-bit number in host order."""
    return _ATTRIBUTE.pack(8, kind) + _U32.pack(value)


def attribute_text(kind: int, value: str) -> bytes:
    """An attribute that is a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type, from `offset` on. Of a repeated type the last counts; a cut-off tail is ignored."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def text_of(value: bytes) -> str:
    """The text of a NUL-terminated attribute."""
    return value.rstrip(b"\0").decode("utf-8", "replace")


def batches(messages: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Cuts messages into ranges [first, last) that one sendmsg may carry: bounded in number and in bytes."""
    first = size = 0
    for index, one in enumerate(messages):
        length = (len(one) + 3) & ~3
        if index - first == MAX_MESSAGES_PER_SEND or (index > first and size + length > MAX_BYTES_PER_SEND):
            yield first, index
            first, size = index, 0
        size += length
    if first < len(messages):
        yield first, len(messages)


# ---- the socket ----

_per_thread = threading.local()


def _receive_buffer() -> bytearray:
    # One per reading thread, for all its sockets: thousands are opened, and each is read to the end before the next.
    buffer = getattr(_per_thread, "buffer", None)
    if buffer is None:
        buffer = _per_thread.buffer = bytearray(RECV_BYTES)
    return buffer


def _walk(buffer: bytearray, size: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, sequence, flags, start of body, end) of each message received."""
    offset = 0
    while offset + 16 <= size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(buffer, offset)
        if length < 16 or offset + length > size:
            raise NetlinkError(errno.EBADMSG, "the kernel's answer is cut short")
        yield kind, sequence, flags, offset + 16, offset + length
        offset += (length + 3) & ~3


def _answer(buffer: bytearray, start: int, end: int) -> Ack:
    code: int = -struct.unpack_from("=i", buffer, start)[0]
    if not code:
        return DONE
    flags = struct.unpack_from("=H", buffer, start - 16 + _FLAGS_OFFSET)[0]
    if not flags & NLM_F_ACK_TLVS:
        return Ack(code)
    echoed = 16 if flags & NLM_F_CAPPED else (_U32.unpack_from(buffer, start + 4)[0] + 3) & ~3
    found = parse_attributes(bytes(buffer[start + 4 + echoed : end]))
    return Ack(code, text_of(found.get(NLMSGERR_ATTR_MSG, b"")))


class Netlink:
    """An rtnetlink socket in the network namespace of the thread that opens it. Close it, or use it as a context.

    `receive_buffer_bytes` 0 keeps the system's default: enough for a few messages at a time.
    """

    def __init__(self, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            if receive_buffer_bytes:
                set_receive_buffer(self._socket, receive_buffer_bytes)
            # In the kernel, not with settimeout: that costs a poll() before every send and receive.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIMEOUT)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket. Idempotent."""
        self._socket.close()

    def send(self, messages: Sequence[bytes]) -> list[Ack]:
        """Carries out the messages, in order; one answer per message, in the same order.

        A refused message does not stop the ones after it. Messages go in batches of MAX_MESSAGES_PER_SEND; within a
        batch only the last asks for an acknowledgement, since errors are always reported and the kernel works in
        order: that fence saves 63 receives of 64. Should answers be lost (ENOBUFS), the messages of that batch that
        have none are answered ENOBUFS: they may or may not have been carried out. Raises OSError when the socket
        itself fails.
        """
        answers = [DONE] * len(messages)
        for first, last in batches(messages):
            self._send_batch(messages, first, last, answers)
        return answers

    def get(self, requests: Sequence[bytes], parse: Callable[[bytes], T]) -> list[T | None]:
        """What the kernel answers to each request for one object, its body through `parse`; None where it refused, or
        the answer was lost. Batches and errors are `send`'s."""
        found: list[T | None] = [None] * len(requests)

        def hear(index: int, body: bytes) -> None:
            found[index] = parse(body)

        answers = [DONE] * len(requests)
        for first, last in batches(requests):
            self._send_batch(requests, first, last, answers, hear)
        return found

    def check(self, messages: Sequence[bytes], allow: frozenset[int] = frozenset()) -> None:
        """Like `send`, but raises NetlinkError for the first message refused with an errno that is not in `allow`."""
        for index, answer in enumerate(self.send(messages)):
            if answer.errno and answer.errno not in allow:
                kind = HEADER.unpack_from(messages[index])[1]
                asked = f"netlink message {index + 1} of {len(messages)} (type {kind})"
                raise NetlinkError(answer.errno, f"{asked}: {answer}")

    def _send_batch(
        self,
        messages: Sequence[bytes],
        first: int,
        last: int,
        answers: list[Ack],
        hear: Callable[[int, bytes], None] | None = None,
    ) -> None:
        base = self._sequence + 1
        packet = bytearray()
        offset = 0
        for index in range(first, last):
            one = messages[index]
            offset = len(packet)
            packet += one
            packet += _PADDING[len(one) & 3]
            _U32.pack_into(packet, offset + _SEQUENCE_OFFSET, (base + index - first) & 0xFFFFFFFF)
        packet[offset + _FLAGS_OFFSET] |= NLM_F_ACK
        self._sequence = (base + last - first - 1) & 0xFFFFFFFF
        self._socket.send(packet)
        answered = self._receive_answers(base, first, last, answers, 0, hear)
        if not answered:
            # Only what is still queued can be known, and until it is read the kernel would drop later answers too.
            lost = Ack(errno.ENOBUFS, "the answer was lost; observe before trying again")
            known = self._drain(base, first, last, answers, hear)
            answers[first:last] = [one if at in known else lost for at, one in enumerate(answers[first:last], first)]

    def _receive_answers(
        self,
        base: int,
        first: int,
        last: int,
        answers: list[Ack],
        flags: int,
        hear: Callable[[int, bytes], None] | None = None,
    ) -> bool:
        """Receives until the batch's last message is answered; False when the kernel had to drop answers. `hear` is
        told what came that is no acknowledgement, and of which message."""
        buffer = _receive_buffer()
        while True:
            try:
                size = self._socket.recv_into(buffer, 0, flags)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return False
            for kind, sequence, _, start, end in _walk(buffer, size):
                index = first + ((sequence - base) & 0xFFFFFFFF)
                if kind != NLMSG_ERROR:
                    if hear is not None and index < last:
                        hear(index, bytes(buffer[start:end]))
                    continue
                if index < last:  # else: left over from a batch that was given up
                    answers[index] = _answer(buffer, start, end)
                if index == last - 1:
                    return True

    def _drain(
        self,
        base: int,
        first: int,
        last: int,
        answers: list[Ack],
        hear: Callable[[int, bytes], None] | None,
    ) -> set[int]:
        """Reads what is queued; the indexes of the messages of the batch that turn out to be answered."""
        unknown = Ack(-1)
        held = answers[first:last]
        answers[first:last] = [one if one.errno else unknown for one in held]
        with suppress(BlockingIOError):
            while not self._receive_answers(base, first, last, answers, socket.MSG_DONTWAIT, hear):
                pass
        return {index for index in range(first, last) if answers[index] is not unknown}

    def dump(self, request: bytes, parse: Callable[[bytes], T | None]) -> list[T]:
        """Everything the kernel answers to `request` (a message made with NLM_F_DUMP), each body through `parse`.

        `parse` is given the body (what follows the header) and may return None to leave it out; it must not use
        netlink itself. A dump that changes underneath (NLM_F_DUMP_INTR) is started again, at most MAX_DUMP_ATTEMPTS
        times; then, and when the kernel refuses, NetlinkError.
        """
        for _ in range(MAX_DUMP_ATTEMPTS):
            found = self._dump_once(request, parse)
            if found is not None:
                return found
        raise NetlinkError(errno.EAGAIN, f"the tables changed during each of {MAX_DUMP_ATTEMPTS} dumps: try again")

    def _dump_once(self, request: bytes, parse: Callable[[bytes], T | None]) -> list[T] | None:
        self._sequence = wanted = (self._sequence + 1) & 0xFFFFFFFF
        packet = bytearray(request)
        _U32.pack_into(packet, _SEQUENCE_OFFSET, wanted)
        self._socket.send(packet)
        found: list[T] = []
        interrupted = False
        buffer = _receive_buffer()
        while True:
            size = self._socket.recv_into(buffer)
            for kind, sequence, flags, start, end in _walk(buffer, size):
                if sequence != wanted:
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_DONE:
                    code = -struct.unpack_from("=i", buffer, start)[0] if end - start >= 4 else 0
                    if code > 0:
                        raise NetlinkError(code, f"dump refused: {os.strerror(code)}")
                    return None if interrupted else found
                if kind == NLMSG_ERROR:
                    answer = _answer(buffer, start, end)
                    raise NetlinkError(answer.errno, f"dump refused: {answer}")
                one = parse(bytes(buffer[start:end]))
                if one is not None:
                    found.append(one)
