"""The fast path: the controller dials the agent, gRPC with mutual TLS. Fills base.Dialer. Called by roles, rescue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from alcor.model.nouns import Node
from alcor.paths.base import Line, LineEnded
from alcor.paths.link import EPOCH_HEADER, PARTITION_HEADER, Credentials, client_options
from alcor.wire.codec import SYNC_METHOD

MAX_ABSENT = 65_536
"""Hosts that are known not to have been there; of those beyond that are not, a dial costs more."""


class GrpcDialer:
    """Opens Sync streams. At who was not there last time it knocks first: a TCP connection that is refused costs a
    thirtieth of a gRPC channel to nobody (4 ms of a core), and a partition always has some hosts that are dead."""

    def __init__(self, *, partition: int, epoch: int, credentials: Credentials) -> None:
        self.metadata = ((PARTITION_HEADER, str(partition)), (EPOCH_HEADER, str(epoch)))
        self._credentials = credentials.for_client()
        self._absent: set[str] = set()

    def open(self, node: Node) -> bool:
        """See base.Dialer: only dialling tells."""
        return True

    @asynccontextmanager
    async def dial(self, node: Node) -> AsyncIterator[Line]:
        """See base.Dialer."""
        target = address(node)
        if target in self._absent:
            await _knock(node)
        elif len(self._absent) < MAX_ABSENT:
            self._absent.add(target)
        async with self.dial_at(target, node.name) as line:
            yield _Answering(line, lambda: self._absent.discard(target))

    def channel(self, target: str, name: str) -> grpc.aio.Channel:
        """A channel to the agent of that name."""
        return grpc.aio.secure_channel(target, self._credentials, options=client_options(name))

    @asynccontextmanager
    async def dial_at(self, target: str, name: str) -> AsyncIterator[Line]:
        """A line to the agent of that name, wherever it is dialled: its certificate must be for the name."""
        async with self.channel(target, name) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SYNC_METHOD)
            stream = method(metadata=self.metadata)
            try:
                yield GrpcLine(stream)
            finally:
                stream.cancel()


class GrpcLine:
    """A Sync stream. Fills base.Line."""

    def __init__(self, stream: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        self._stream = stream

    async def read(self) -> bytes:
        """See base.Line."""
        try:
            data: object = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise LineEnded(f"{error.code().name}: {error.details()}") from None
        if not isinstance(data, bytes):  # grpc.aio.EOF
            raise LineEnded("the agent ended the stream")
        return data

    async def write(self, data: bytes) -> None:
        """See base.Line."""
        try:
            await self._stream.write(data)
        except grpc.aio.AioRpcError as error:
            raise LineEnded(f"{error.code().name}: {error.details()}") from None
        except asyncio.InvalidStateError:
            raise LineEnded("the stream was gone before all was sent") from None


class _Answering:
    """A line that tells of the first word that comes. Fills base.Line."""

    def __init__(self, line: Line, tell: Callable[[], None]) -> None:
        self._line = line
        self._tell: Callable[[], None] | None = tell

    async def read(self) -> bytes:
        """See base.Line."""
        data = await self._line.read()
        if self._tell is not None:
            self._tell()
            self._tell = None
        return data

    async def write(self, data: bytes) -> None:
        """See base.Line."""
        await self._line.write(data)


async def _knock(node: Node) -> None:
    """Raises LineEnded if nobody listens there."""
    try:
        _, writer = await asyncio.open_connection(node.agent_host, node.agent_port)
    except OSError as error:
        raise LineEnded(f"UNAVAILABLE: {error}") from None
    writer.transport.abort()


def address(node: Node) -> str:
    """Where the node's agent listens, as gRPC writes it."""
    return join_address(node.agent_host, node.agent_port)


def join_address(host: str, port: int) -> str:
    """`host:port`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
