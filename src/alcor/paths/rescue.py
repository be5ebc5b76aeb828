"""The rescue path: the fast path's gRPC, its bytes carried by a healthy peer over the underlay. Fills base.Dialer.

Wired by roles. The controller opens the peer's Relay, and through a private Unix socket speaks mutual TLS with the
target end to end: the peer can carry, delay and cut, but neither read nor forge. Up to three peers are tried.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio

from alcor.model.addresses import format_ip
from alcor.model.nouns import Node
from alcor.paths import peers
from alcor.paths.base import Line, LineEnded
from alcor.paths.fast import GrpcDialer, address, join_address
from alcor.paths.link import TARGET_HEADER
from alcor.paths.peers import Peer
from alcor.wire.codec import RELAY_METHOD
from alcor.wire.fields import WireError
from alcor.wire.frames import decode_chunk, encode_chunk

TRIES = 3
TRY_S = 1.5
"""From asking a peer to the target's Hello; then the next is asked. The last one has what the caller's patience leaves.
"""
MAX_RELAYS = 16
"""That one peer carries at a time."""
CHUNK_BYTES = 64 << 10

_Relay = grpc.aio.StreamStreamCall[bytes, bytes]


def _no_place(_node: Node) -> tuple[str, str]:
    return "", ""


class RescueDialer:
    """See the module."""

    def __init__(
        self,
        *,
        dialer: GrpcDialer,
        healthy: Callable[[], Collection[Node]],
        roll: Callable[[], float],
        place: Callable[[Node], tuple[str, str]] = _no_place,
        try_s: float = TRY_S,
    ) -> None:
        """`healthy`: the hosts in session on the fast path. `place`: a node's availability zone and failure domain."""
        self._dialer = dialer
        self._healthy = healthy
        self._roll = roll
        self._place = place
        self._try_s = try_s
        self._loads: Counter[str] = Counter()

    def open(self, node: Node) -> bool:
        """See base.Dialer: there is another host that is well."""
        healthy = self._healthy()
        return len(healthy) > 1 or any(peer.name != node.name for peer in healthy)

    @asynccontextmanager
    async def dial(self, node: Node) -> AsyncIterator[Line]:
        """See base.Dialer."""
        chosen = self._choose(node)
        reasons = [] if chosen else ["there is no healthy host that could carry"]
        for number, peer in enumerate(chosen, 1):
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(self._try_s if number < len(chosen) else None):
                        line = await stack.enter_async_context(self._by(peer, node))
                        greeted = _Greeted(line, await line.read())
                except LineEnded as error:
                    reasons.append(f"by {peer.name}: {error}")
                    continue
                except TimeoutError:
                    reasons.append(f"by {peer.name}: no Hello within {self._try_s:g} s")
                    continue
                except OSError as error:  # no descriptor, no room for the door
                    reasons.append(f"by {peer.name}: {error}")
                    continue
                yield greeted
                return
        raise LineEnded("; ".join(reasons))

    def loads(self) -> dict[str, int]:
        """Peer -> relays that it carries, sorted."""
        return {host: load for host, load in sorted(self._loads.items()) if load}

    def _choose(self, node: Node) -> list[Node]:
        nodes = {one.name: one for one in peers.window(list(self._healthy()), self._roll())}
        able = [Peer(name, *self._place(one), self._loads[name]) for name, one in nodes.items()]
        target = Peer(node.name, *self._place(node))
        return [nodes[name] for name in peers.choose(target, able, count=TRIES, max_load=MAX_RELAYS)]

    @asynccontextmanager
    async def _by(self, peer: Node, node: Node) -> AsyncIterator[Line]:
        """A line through that peer."""
        self._loads[peer.name] += 1
        try:
            async with AsyncExitStack() as stack:
                channel = await stack.enter_async_context(self._dialer.channel(address(peer), peer.name))
                method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(RELAY_METHOD)
                target = join_address(format_ip(node.underlay_ip), node.agent_port)
                relay = method(metadata=(*self._dialer.metadata, (TARGET_HEADER, target)))
                stack.callback(relay.cancel)
                door = await stack.enter_async_context(_door(relay))
                line = await stack.enter_async_context(self._dialer.dial_at(f"unix:{door.path}", node.name))
                yield _Carried(line, door)
        finally:
            self._loads[peer.name] -= 1
            if not self._loads[peer.name]:
                del self._loads[peer.name]


class _Door:
    """A private Unix socket; the bytes of its first and only caller go to the relay and back."""

    def __init__(self, relay: _Relay) -> None:
        self.path = ""
        self.reason = ""
        """Why nothing is carried any more; empty: the relay did not say."""
        self._relay = relay
        self._caller: socket.socket | None = None
        self._carrying: asyncio.Task[None] | None = None

    def welcome(self, listener: socket.socket) -> None:
        """A caller. gRPC knocks again after a failure; it is not let in twice: a relay carries one connection."""
        try:
            caller, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptor: it would be called again and again
            self.reason = str(error)
            asyncio.get_running_loop().remove_reader(listener)
            return
        if self._carrying is not None:
            caller.close()
            return
        self._caller = caller
        self._carrying = asyncio.create_task(self._carry(caller), name="relay")

    async def close(self) -> None:
        """Ends what is carried."""
        carrying, self._carrying = self._carrying, None  # what cancels it holds this: else both wait to be collected
        if carrying is not None and self._caller is not None:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)
            self._caller.close()  # a task that was cancelled before it began closed nothing

    async def _carry(self, caller: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=caller)
        out = asyncio.create_task(self._out(reader), name="relay out")
        try:
            await self._back(writer)
        finally:
            writer.close()
            out.cancel()
            await asyncio.gather(out, return_exceptions=True)

    async def _out(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, grpc.aio.AioRpcError, asyncio.InvalidStateError):  # `_back` knows why
            while data := await reader.read(CHUNK_BYTES):
                await self._relay.write(encode_chunk(data))
            await self._relay.done_writing()

    async def _back(self, writer: asyncio.StreamWriter) -> None:
        try:
            while isinstance(message := await self._relay.read(), bytes):
                writer.write(decode_chunk(message))
                await writer.drain()
            self.reason = "the relay ended"
        except grpc.aio.AioRpcError as error:
            self.reason = f"{error.code().name}: {error.details()}"
        except (WireError, OSError) as error:
            self.reason = str(error)


@asynccontextmanager
async def _door(relay: _Relay) -> AsyncIterator[_Door]:
    directory = tempfile.mkdtemp(prefix="alcor-relay-")  # 0700: nobody else comes in
    door = _Door(relay)
    door.path = str(Path(directory) / "s")
    try:
        # By hand: asyncio's server, closed between accepting a caller and serving it, forgets that one half made.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.setblocking(False)
            listener.bind(door.path)
            listener.listen()
            loop = asyncio.get_running_loop()
            loop.add_reader(listener, door.welcome, listener)
            try:
                yield door
            finally:
                loop.remove_reader(listener)
                await door.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Carried:
    """A line whose end says what the peer said of it. Fills base.Line."""

    def __init__(self, line: Line, door: _Door) -> None:
        self._line = line
        self._door = door

    async def read(self) -> bytes:
        """See base.Line."""
        try:
            return await self._line.read()
        except LineEnded as error:
            raise self._explained(error) from None

    async def write(self, data: bytes) -> None:
        """See base.Line."""
        try:
            await self._line.write(data)
        except LineEnded as error:
            raise self._explained(error) from None

    def _explained(self, error: LineEnded) -> LineEnded:
        return LineEnded(f"{error} ({self._door.reason})" if self._door.reason else str(error))


class _Greeted:
    """A line whose first message was read already. Fills base.Line."""

    def __init__(self, line: Line, first: bytes) -> None:
        self._line = line
        self._first: bytes | None = first

    async def read(self) -> bytes:
        """See base.Line."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._line.read()

    async def write(self, data: bytes) -> None:
        """See base.Line."""
        await self._line.write(data)
