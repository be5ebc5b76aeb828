"""A load generator that costs little: HTTP/1.1 over keep-alive connections, requests made beforehand, answers counted
but not parsed. Called by bench.api.

Honest in what it counts: only the status that was asked for is a success; anything else ends the run with the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import NamedTuple, cast

import msgspec

ANSWER_TIMEOUT_S = 60.0


class Sample(NamedTuple):
    """One request that succeeded."""

    finished: float
    """Seconds since the load began."""
    seconds: float


class Unexpected(Exception):
    """An answer that is not the one the load is for."""


class Connection(asyncio.Protocol):
    """One keep-alive connection. A Protocol, not streams: half the cost."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._chunks: list[bytes] = []
        self._missing = -1
        """Bytes still to come; -1 until the head is whole."""

    @classmethod
    async def open(cls, port: int) -> Connection:
        """A connection to that port of loopback."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def exchange(self, raw: bytes, want: int) -> bytes:
        """The body of the answer to a request, which must have the status `want`."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        status, body = await self._answer
        if status != want:
            raise Unexpected(f"{status}: {body[:500].decode(errors='replace')}")
        return body

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass.

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unexpected(f"the server hung up: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        if self._missing < 0:
            whole = b"".join(self._chunks)
            end = whole.find(b"\r\n\r\n")
            if end < 0:
                self._chunks = [whole]
                return
            self._chunks = [whole]
            self._missing = end + 4 + _content_length(whole[:end]) - len(whole)
        else:
            self._missing -= len(data)
        if self._missing == 0 and self._answer is not None:
            whole = b"".join(self._chunks)
            self._chunks, self._missing = [], -1
            self._answer.set_result((int(whole[9:12]), whole[whole.index(b"\r\n\r\n") + 4 :]))


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


def request(method: str, path: str, body: object | None = None) -> bytes:
    """A request as it goes on the wire."""
    raw = b"" if body is None else msgspec.json.encode(body)
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


async def post(port: int, path: str, body: object) -> dict[str, object]:
    """One POST on a connection of its own, answered with 201 and an object."""
    connection = await Connection.open(port)
    try:
        raw = await asyncio.wait_for(connection.exchange(request("POST", path, body), 201), ANSWER_TIMEOUT_S)
        return msgspec.json.decode(raw, type=dict[str, object])
    finally:
        connection.close()


async def load(port: int, requests: Iterable[bytes], clients: int) -> tuple[list[Sample], bytes]:
    """All requests, in order, over so many connections, each sending its next as soon as its last is answered (201).

    The samples in the order they finished, and the last body. The clock starts when every connection stands.
    """
    connections = [await Connection.open(port) for _ in range(clients)]
    waiting = iter(requests)
    samples: list[Sample] = []
    body = b""
    began = time.perf_counter()

    async def work(connection: Connection) -> None:
        nonlocal body
        for raw in waiting:
            start = time.perf_counter()
            body = await connection.exchange(raw, 201)
            end = time.perf_counter()
            samples.append(Sample(end - began, end - start))

    try:
        async with asyncio.TaskGroup() as tasks:
            for connection in connections:
                tasks.create_task(work(connection))
    finally:
        for connection in connections:
            connection.close()
    return samples, body
