"""DNS queries for others: asked of the configured resolvers in turn, for a bounded time, a bounded number at once.

Called by serving, on the event loop. A query goes to a resolver as the port sent it, but for its number, which is
random (RFC 5452); each has a socket of its own, and with it a random source port.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress

from alcor.hostsvc import dns

TIMEOUT_S = 2.0
"""For each resolver."""
MAX_WAITING = 512
"""Queries at once; more are refused."""


class Resolvers:
    """See the module."""

    def __init__(self, servers: Sequence[tuple[str, int]], timeout_s: float = TIMEOUT_S) -> None:
        """(address, port) of each, the first to be asked first. Empty: nobody is asked."""
        self._servers = tuple(servers)
        self._timeout_s = timeout_s
        self._waiting = 0

    @property
    def available(self) -> bool:
        """There is somebody to ask, and room to wait."""
        return bool(self._servers) and self._waiting < MAX_WAITING

    async def ask(self, query: bytes, *, tcp: bool) -> bytes | None:
        """Somebody's answer to the query, under its number; None: nobody gave one in time."""
        asked = secrets.token_bytes(2) + query[2:]
        self._waiting += 1
        try:
            for server in self._servers:
                with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(self._timeout_s):
                        answer = await (_ask_tcp(asked, server) if tcp else _ask_udp(asked, server))
                        return query[:2] + answer[2:]
        finally:
            self._waiting -= 1
        return None


class _Waiter(asyncio.DatagramProtocol):
    """Takes the first datagram that answers the query."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _source: object) -> None:
        if not self.answer.done() and dns.is_answer(data, self._query):
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def _ask_udp(query: bytes, server: tuple[str, int]) -> bytes:
    loop = asyncio.get_running_loop()
    transport, waiter = await loop.create_datagram_endpoint(lambda: _Waiter(query), remote_addr=server)
    try:
        transport.sendto(query)
        return await waiter.answer
    finally:
        transport.close()


async def _ask_tcp(query: bytes, server: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(length)
        if not dns.is_answer(answer, query):
            raise OSError("the resolver answered another question")
        return answer
    finally:
        writer.close()
