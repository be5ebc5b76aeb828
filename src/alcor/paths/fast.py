"""The fast path: the controller dials the agent, gRPC with mutual TLS. Fills base.Dialer. Called by roles, rescue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import grpc.aio

from alcor.model.nouns import Node
from alcor.paths.base import Line, LineEnded
from alcor.paths.link import EPOCH_HEADER, PARTITION_HEADER, Credentials, client_options
from alcor.wire.codec import SYNC_METHOD


class GrpcDialer:
    """Opens Sync streams."""

    def __init__(self, *, partition: int, epoch: int, credentials: Credentials) -> None:
        self.metadata = ((PARTITION_HEADER, str(partition)), (EPOCH_HEADER, str(epoch)))
        self._credentials = credentials.for_client()

    def open(self, node: Node) -> bool:
        """See base.Dialer: only dialling tells."""
        return True

    def dial(self, node: Node) -> AbstractAsyncContextManager[Line]:
        """See base.Dialer."""
        return self.dial_at(address(node), node.name)

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


def address(node: Node) -> str:
    """Where the node's agent listens, as gRPC writes it."""
    return join_address(node.agent_host, node.agent_port)


def join_address(host: str, port: int) -> str:
    """`host:port`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
