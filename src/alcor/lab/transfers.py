"""TCP echo between two workloads: bytes there and back again, compared by hash. Called by proofs."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from alcor.lab.pings import visit

CHUNK = 1 << 18
TIMEOUT_S = 30.0


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back of what was sent."""

    sent_bytes: int
    returned_bytes: int
    equal: bool
    seconds: float
    error: str = ""


def echo(client: Path, server: Path, server_ip: str, size: int, seed: int = 1, *, by: str = "") -> Transfer:
    """Sends `size` bytes from one namespace to an echo server in another and compares what returns. `by`: the address
    that the client knows it by, when it is another."""
    (listener,) = visit([server], lambda _: _listen(server_ip))
    (outgoing,) = visit([client], lambda _: _tcp(by or server_ip))
    with listener, outgoing:
        outgoing.settimeout(TIMEOUT_S)
        server_thread = threading.Thread(target=_serve, args=(listener,), name="echo", daemon=True)
        server_thread.start()
        started = time.perf_counter()
        block = random.Random(seed).randbytes(CHUNK)
        sent, returned = hashlib.blake2b(), hashlib.blake2b()
        counted = [0]
        try:
            address, port, *_ = listener.getsockname()
            outgoing.connect((by or address, port))
            sender = threading.Thread(target=_send, args=(outgoing, block, size, sent), name="send", daemon=True)
            sender.start()
            _receive(outgoing, size, returned, counted)
            sender.join(TIMEOUT_S)
        except OSError as error:
            seconds = time.perf_counter() - started
            return Transfer(sent_bytes=size, returned_bytes=counted[0], equal=False, seconds=seconds, error=f"{error}")
        seconds = time.perf_counter() - started
    server_thread.join(TIMEOUT_S)
    equal = counted[0] == size and sent.digest() == returned.digest()
    return Transfer(sent_bytes=size, returned_bytes=counted[0], equal=equal, seconds=seconds)


def _tcp(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)


def _listen(address: str) -> socket.socket:
    listener = _tcp(address)
    listener.bind((address, 0))
    listener.listen(1)
    listener.settimeout(TIMEOUT_S)
    return listener


def _serve(listener: socket.socket) -> None:
    with suppress(OSError):  # the client reports what is missing
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TIMEOUT_S)
            while data := connection.recv(CHUNK):
                connection.sendall(data)


def _send(outgoing: socket.socket, block: bytes, size: int, digest: hashlib.blake2b) -> None:
    sent = 0
    with suppress(OSError):
        while sent < size:
            # Numbered, so that no two parts are the same and a swap or a repeat shows.
            part = (sent.to_bytes(8, "big") + block[8:])[: size - sent]
            outgoing.sendall(part)
            digest.update(part)
            sent += len(part)


def _receive(outgoing: socket.socket, size: int, digest: hashlib.blake2b, counted: list[int]) -> None:
    while counted[0] < size:
        data = outgoing.recv(CHUNK)
        if not data:
            return
        digest.update(data)
        counted[0] += len(data)
