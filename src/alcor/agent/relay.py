"""The rescue path's middle: this host joins a controller to another host's agent and copies bytes both ways.

Called by server. What it carries is the controller's own TLS connection to that agent, so it can neither read nor forge
anything; it can only end it. It is no open proxy: controllers only, to the ports of agents only, so many at a time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TypeAlias

import grpc
import grpc.aio
import msgspec

from alcor.model.addresses import ip_version, parse_ip
from alcor.paths.link import CONTROLLER, TARGET_HEADER, roles_of
from alcor.wire.fields import WireError
from alcor.wire.frames import decode_chunk, encode_chunk

_log = logging.getLogger(__name__)

CHUNK_BYTES = 64 << 10

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class RelayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a host does for others."""

    relays: int = 16
    """At a time; 0: none."""
    connect_s: float = 5.0
    idle_s: float = 120.0
    """A relay over which nothing came for so long is ended."""
    ports: frozenset[int] = frozenset({50001})
    """Where agents listen."""
    loopback: bool = False
    """Targets on this machine: for labs and tests."""


class Relay:
    """See the module."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._running = 0
        self.refused = 0
        """Relays that were not begun, or were ended for what came."""

    async def handle(self, _requests: object, context: Context) -> None:
        """The Relay method of alcor.v1.Agent."""
        if CONTROLLER not in roles_of(context.auth_context()):
            reason = "the peer's certificate does not give it the role 'controller'"
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, reason)
        headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
        target = headers.get(TARGET_HEADER, "")
        host, port = self._target(target)
        if not host:
            reason = f"{TARGET_HEADER} '{target}' is not the address and port of an agent that may be relayed to"
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, reason)
        if self._running >= self._limits.relays:
            reason = f"this host relays for {self._running} others already"
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        self._running += 1
        try:
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    reader, writer = await asyncio.open_connection(host, port, limit=4 * CHUNK_BYTES)
            except (OSError, TimeoutError) as error:
                reason = f"{target} cannot be reached from here: {error or 'it does not answer'}"
                await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
            _log.info("relaying a controller to %s", target)
            try:
                await self._copy(context, reader, writer)
            except WireError as error:
                await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            finally:
                writer.close()
                try:
                    await writer.wait_closed()
                except OSError as error:
                    error.__traceback__ = None  # asyncio keeps it, and it would keep the caller
        finally:
            self._running -= 1

    async def _refuse(self, context: Context, code: grpc.StatusCode, reason: str) -> None:
        self.refused += 1
        await context.abort(code, reason)

    def _target(self, target: str) -> tuple[str, int]:
        """An address and a port that may be dialled; an empty address: it may not."""
        host, _, port = target.rpartition(":")
        host = host.strip("[]")
        try:
            ip = parse_ip(host)
        except ValueError:
            return "", 0  # names are not looked up for others
        loopback = ip[12] == 127 if ip_version(ip) == 4 else ip == parse_ip("::1")
        allowed = port.isascii() and port.isdigit() and int(port) in self._limits.ports
        return (host, int(port)) if allowed and (self._limits.loopback or not loopback) else ("", 0)

    async def _copy(self, context: Context, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both ways, until either side ends or nothing comes for too long. Raises WireError: what came is no chunk."""
        idle_s = self._limits.idle_s
        loop = asyncio.get_running_loop()
        last = loop.time()

        async def down() -> None:
            nonlocal last
            while isinstance(message := await context.read(), bytes):
                writer.write(decode_chunk(message))
                await writer.drain()
                last = loop.time()

        async def up() -> None:
            nonlocal last
            while data := await reader.read(CHUNK_BYTES):
                await context.write(encode_chunk(data))
                last = loop.time()

        tasks = [asyncio.create_task(down()), asyncio.create_task(up())]
        try:
            while loop.time() - last < idle_s:
                done, _ = await asyncio.wait(
                    tasks, timeout=last + idle_s - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    for error in [task.exception() for task in done]:
                        if error is not None:
                            error.__traceback__ = None  # asyncio keeps it, and it would keep the caller
                        if not isinstance(error, OSError | grpc.aio.UsageError | asyncio.InvalidStateError | None):
                            raise error
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
