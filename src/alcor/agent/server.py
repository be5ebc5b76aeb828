"""The host's end of the fast and the rescue path: a gRPC server with mutual TLS that lets controllers in and passes
bundles on.

Called by core, on its event loop. It knows who may speak (a certificate with the role `controller`) and which stream of
a partition is the live one (the newest; the reconciler refuses older epochs); what bundles say is not its business.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, TypeAlias

import grpc
import grpc.aio

from alcor.agent.relay import Relay
from alcor.paths.link import CONTROLLER, EPOCH_HEADER, PARTITION_HEADER, SERVER_OPTIONS, Credentials, roles_of
from alcor.wire.codec import METHOD, RELAY, SERVICE
from alcor.wire.lookups import is_aside

_log = logging.getLogger(__name__)

MAX_UNANSWERED = 64
"""Bundles of one stream under way inside the agent; then it is not read until some are answered."""
STOP_GRACE_S = 0.2

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class Intake(Protocol):
    """Where the server puts what comes; answers come back by `Stream.send` and `Stream.end`."""

    def greet(self, stream: Stream) -> None:
        """A controller opened a stream."""
        ...

    def bundle(self, stream: Stream, data: bytes) -> None:
        """A bundle came."""
        ...

    def answers(self, stream: Stream, data: bytes) -> None:
        """A bundle of answers or peers came (wire.lookups, wire.probes): it is not acknowledged."""
        ...

    def gone(self, stream: Stream) -> None:
        """The stream is over."""
        ...


class Stream:
    """One controller's stream, as the rest of the agent sees it. Its methods belong to the event loop."""

    def __init__(self, number: int, partition: int, epoch: int) -> None:
        self.number = number
        self.partition = partition
        self.epoch = epoch
        self.bundles = 0
        """That were taken; each has the next sequence."""
        self._unanswered = 0
        self._room = asyncio.Event()
        self._room.set()
        self.outgoing: asyncio.Queue[bytes | str] = asyncio.Queue()
        """Reports; a str is the reason to end the stream."""

    @property
    def busy(self) -> bool:
        """Bundles were taken that are not answered."""
        return self._unanswered > 0

    @property
    def full(self) -> bool:
        """No further bundle may be taken before one is answered."""
        return self._unanswered >= MAX_UNANSWERED

    def taken(self) -> None:
        """A bundle was taken."""
        self.bundles += 1
        self._unanswered += 1
        if self.full:
            self._room.clear()

    async def wait_room(self) -> None:
        """Returns when the stream is not full."""
        await self._room.wait()

    def send(self, report: bytes, *, answers: bool) -> None:
        """Sends a report; `answers`: to a bundle, which makes room for another."""
        self.outgoing.put_nowait(report)
        if answers:
            self._unanswered -= 1
            self._room.set()

    def end(self, reason: str) -> None:
        """Ends the stream, telling the controller why."""
        self.outgoing.put_nowait(reason)


class AgentServer:
    """See the module. `start`, then `stop`."""

    def __init__(self, address: str, credentials: Credentials, intake: Intake, relay: Relay) -> None:
        """`address` as gRPC writes it: host:port, IPv6 in brackets. Port 0: any free one."""
        self._address = address
        self._intake = intake
        self._relay = relay
        self._streams = 0
        self._open: set[Stream] = set()
        self._refused = 0
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            METHOD: grpc.stream_stream_rpc_method_handler(self._sync),
            RELAY: grpc.stream_stream_rpc_method_handler(relay.handle),
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        self._credentials = credentials

    @property
    def refused(self) -> int:
        """Streams and relays that were not let in."""
        return self._refused + self._relay.refused

    async def start(self) -> int:
        """Listens; returns the port. Raises OSError when the address is taken."""
        try:
            port = self._server.add_secure_port(self._address, self._credentials.for_server())
        except RuntimeError as error:
            raise OSError(f"cannot listen at {self._address}: {error}") from None
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Ends the streams, behind what they were to say; relays may finish, for a moment."""
        for stream in self._open:
            stream.end("the agent stops")
        await self._server.stop(STOP_GRACE_S)

    async def _sync(self, _requests: object, context: Context) -> None:
        if CONTROLLER not in roles_of(context.auth_context()):
            reason = "the peer's certificate does not give it the role 'controller'"
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, reason)
        headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
        partition, epoch = headers.get(PARTITION_HEADER, ""), headers.get(EPOCH_HEADER, "")
        if not (_is_number(partition) and _is_number(epoch)):
            reason = f"the metadata {PARTITION_HEADER} and {EPOCH_HEADER} must be numbers"
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, reason)
        self._streams += 1
        stream = Stream(self._streams, int(partition), int(epoch))
        self._open.add(stream)
        self._intake.greet(stream)
        reader = asyncio.create_task(self._read(stream, context), name=f"read stream {stream.number}")
        try:
            while True:
                report = await stream.outgoing.get()
                if isinstance(report, str):
                    _log.info("stream of partition %d, epoch %d ended: %s", stream.partition, stream.epoch, report)
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, report)
                else:
                    await context.write(report)
        finally:
            self._open.discard(stream)
            self._intake.gone(stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _refuse(self, context: Context, code: grpc.StatusCode, reason: str) -> None:
        self._refused += 1
        await context.abort(code, reason)

    async def _read(self, stream: Stream, context: Context) -> None:
        while True:
            await stream.wait_room()
            data: object = await context.read()
            if not isinstance(data, bytes):  # grpc.aio.EOF
                stream.end("the controller closed the stream")
                return
            if is_aside(data):
                self._intake.answers(stream, data)
                continue
            stream.taken()
            self._intake.bundle(stream, data)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
