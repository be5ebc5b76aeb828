"""The bus on NATS core publish/subscribe (docs.nats.io/reference/protocol). Fills base.Bus; nats-py enters here only.

Called by roles. A connection is made in the background and made again for as long as it is wanted; what is published
meanwhile is dropped, because whoever publishes says so again (docs/rooms/paths.md, heartbeats).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from alcor.bus.base import BusError, Handler
from alcor.bus.credentials import find_credentials
from alcor.bus.tls import client_context

_log = logging.getLogger(__name__)

DEFAULT_MAX_PAYLOAD = 1 << 20
"""Until a server has said what it carries."""
MAX_WAITING_BYTES = 64 << 20
"""Published and not yet taken by the socket; beyond it messages are dropped."""
MAX_UNREAD_MESSAGES = 65_536
MAX_UNREAD_BYTES = 256 << 20
"""Received and not yet handled, by subscription; beyond either messages are dropped."""
FLUSH_S = 5.0
WATCH_S = 15.0
"""Between two looks whether nats-py still carries."""
AWAY_S = 30.0
"""A client that has found no server for so long may be stuck."""
CLOSE_S = 0.25
"""For the last words, and again for closing, which over a network that is cut would take TLS half a minute."""


BROKEN = (nats.errors.Error, OSError, TimeoutError, RuntimeError)
"""What nats-py lets out of a connection that broke. The last is uvloop's, of a socket that is closed already."""


class NatsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the bus."""

    servers: Sequence[str]
    """`nats://host:port` or `tls://host:port`; any of a cluster's."""
    name: str
    """Shown in the server's connection list."""
    credentials: Path | None = None
    """A .creds file."""
    tls: ssl.SSLContext | None = None
    """With it, only servers that speak TLS are spoken to."""
    reconnect_s: float = 0.25
    connect_s: float = 2.0
    ping_s: float = 5.0
    """A server that misses two pings is given up."""


def options_of(addresses: str, name: str, directory: Path, role: str, chosen: Path | None = None) -> NatsOptions:
    """A client of the servers at these addresses (commas between them; one without a scheme has that of the one before)
    with the credentials that are `chosen`, or else in `directory`, and if one is `tls://` with `role`'s certificate
    there. Raises OSError, ssl.SSLError."""
    servers: list[str] = []
    scheme = "nats"
    for address in filter(None, (part.strip() for part in addresses.split(","))):
        scheme = address.partition("://")[0] if "://" in address else scheme
        servers.append(address if "://" in address else f"{scheme}://{address}")
    guarded = any(server.startswith("tls://") for server in servers)
    tls = client_context(directory, role) if guarded else None
    return NatsOptions(servers=servers, name=name, credentials=find_credentials(chosen, directory), tls=tls)


class _Client(Client):
    """nats-py begins TLS only when the server says so, in clear, where whoever is between could leave it out."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and "tls" in self.options and not info.get("tls_required"):
            raise nats.errors.Error("the server does not speak TLS: nothing is said to it")
        await super()._process_info(info, initial_connection)

    async def _process_pong(self) -> None:
        """An answer to somebody who waits no more must not end nats-py's reading (it would, by InvalidStateError)."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()


class NatsBus:
    """See the module. `start` it on its event loop; `close` it there."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._client = _Client()
        self._up = asyncio.Event()
        """Connected, and the listeners know."""
        self._away_since = 0.0
        self._closed = asyncio.Event()
        """nats-py gave the client up."""
        self._interests: list[_Interest] = []
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._listeners: list[Callable[[bool], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._refused: dict[str, str] = {}
        """Subject -> the server's word, of subscriptions it did not permit."""
        self._complained = ""
        self.violations = 0
        """Times the server said that we may not."""
        self.dropped = 0
        """Messages not published, and messages lost because a handler did not keep up."""

    def start(self) -> None:
        """Begins to connect."""
        self._tasks = [
            asyncio.create_task(self._keep(), name="bus keep"),
            asyncio.create_task(self._send(), name="bus send"),
        ]

    async def started(self, timeout_s: float) -> bool:
        """Waits until connected, for at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        return self.connected

    @property
    def connected(self) -> bool:
        """See base.Bus."""
        return bool(self._client.is_connected)

    @property
    def max_payload(self) -> int:
        """See base.Bus."""
        return int(self._client.max_payload) if self.connected else DEFAULT_MAX_PAYLOAD

    def publish(self, subject: str, data: bytes) -> bool:
        """See base.Bus."""
        if not self.connected or len(data) > self.max_payload or self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
            self.dropped += 1
            return False
        self._outgoing.append((subject, data))
        self._waiting_bytes += len(data)
        self._wake.set()
        return True

    async def subscribe(self, subject: str, handler: Handler) -> _Interest:
        """See base.Bus."""
        interest = _Interest(self, subject, handler)
        self._interests.append(interest)
        if self.connected:
            try:
                await interest.enter(self._client)
                for _ in range(2):  # seen: the word about a refusal came after the first answer
                    await self._client.flush(timeout=FLUSH_S)  # type: ignore[arg-type]
            except BROKEN as error:
                if not isinstance(error, nats.errors.TimeoutError | nats.errors.ConnectionClosedError):
                    _log.warning("bus: cannot subscribe %s now: %s", subject, error)
            refusal = self._refused.pop(subject.lower(), "")
            if refusal:
                await interest.cancel()
                raise BusError(f"the bus does not let {self._options.name} subscribe to {subject}: {refusal}")
        return interest

    def on_state(self, handler: Callable[[bool], None]) -> None:
        """See base.Bus."""
        self._listeners.append(handler)

    async def close(self) -> None:
        """See base.Bus."""
        while pending := [task for task in self._tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=CLOSE_S)  # nats-py swallows a cancellation at times
        self._listeners.clear()
        with suppress(*BROKEN):
            async with asyncio.timeout(CLOSE_S):
                await self._part()
        await self._end(self._client)

    async def _end(self, client: _Client) -> None:
        with suppress(*BROKEN, AssertionError):  # nats-py's own, of a client that never began to connect
            async with asyncio.timeout(CLOSE_S):
                await client.close()
        self._abort(client)

    def _abort(self, client: _Client) -> None:
        """Ends the connection's socket, if it has one: nats-py leaves what it could not close in time, and a connection
        that failed half made, to the garbage collector."""
        writer: asyncio.StreamWriter | None = getattr(client._transport, "_bare_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _part(self) -> None:
        """What was said last still goes out."""
        if self.connected:
            while self._outgoing:
                await self._client.publish(*self._outgoing.popleft())
            await self._client.flush(timeout=FLUSH_S)  # type: ignore[arg-type]

    async def _keep(self) -> None:
        """Connects; with a new client when nats-py has given the old one up, or it is stuck."""
        self._away_since = asyncio.get_running_loop().time()
        while True:
            client = self._client
            try:
                await self._connect(client)
                await self._until_stuck(client)
            except Exception as error:  # whatever it is, the bus is wanted
                await self._failed(client, error)
            self._tell(False)
            await self._end(client)
            await asyncio.sleep(self._options.reconnect_s)
            self._closed.clear()
            self._client = _Client()
            for interest in self._interests:
                interest.leave()
            self._away_since = asyncio.get_running_loop().time()

    async def _until_stuck(self, client: _Client) -> None:
        """Seen: its reading, writing or reconnecting had ended by what it does not expect, and it said that all was
        well."""
        loop = asyncio.get_running_loop()
        while not client.is_closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._closed.wait()
            if client.is_connected:
                try:
                    await client.rtt(WATCH_S)  # type: ignore[arg-type]
                except BROKEN:
                    if client.is_connected:
                        _log.warning("bus: the connection is stuck: it is made anew")
                        return
            elif loop.time() - self._away_since > AWAY_S:
                return

    async def _connect(self, client: _Client) -> None:
        options = self._options
        extra: dict[str, object] = {}
        if options.credentials is not None:
            extra["user_credentials"] = str(options.credentials)
        if options.tls is not None:
            extra["tls"] = options.tls

        async def lost() -> None:
            self._tell(False)

        async def closed() -> None:
            self._closed.set()

        async def found() -> None:
            self._tell(True)

        await client.connect(
            servers=list(options.servers),
            name=options.name,
            error_cb=partial(self._failed, client),
            disconnected_cb=lost,
            closed_cb=closed,
            reconnected_cb=found,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=options.reconnect_s,  # type: ignore[arg-type]
            connect_timeout=options.connect_s,  # type: ignore[arg-type]
            ping_interval=options.ping_s,  # type: ignore[arg-type]
            pending_size=0,  # nothing is kept for a server that is away
            no_echo=True,
            skip_subject_validation=True,  # subjects are made in base
            **extra,  # type: ignore[arg-type]
        )
        for interest in list(self._interests):
            await interest.enter(client)
        if client.is_connected:  # else it will be again
            self._tell(True)

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing:
                subject, data = self._outgoing.popleft()
                self._waiting_bytes -= len(data)
                try:
                    await self._client.publish(subject, data)
                except Exception:  # the server went away: on_state tells; who says nothing more would not be missed
                    self.dropped += 1

    def _tell(self, up: bool) -> None:
        if up == self._up.is_set():
            return
        if up:
            self._complained = ""
            self._up.set()
        else:
            self._up.clear()
            self._away_since = asyncio.get_running_loop().time()
            self._outgoing.clear()
            self._waiting_bytes = 0
        for listener in list(self._listeners):
            listener(up)

    async def _failed(self, client: _Client, error: Exception) -> None:
        text = str(error)
        if client.is_connecting or client.is_reconnecting:
            self._abort(client)  # the next attempt would forget it
        if isinstance(error, nats.errors.SlowConsumerError):
            self.dropped += 1
            text = f"messages of {error.subject} are dropped: they come faster than they are handled"
        elif "permissions violation" in text.lower():
            self.violations += 1
            quoted = text.split('"')
            if "subscription" in text.lower() and len(quoted) > 1:
                self._refused[quoted[1].lower()] = text
        if text != self._complained:  # a server that is away is mentioned once
            self._complained = text
            _log.warning("bus: %s", text or type(error).__name__)


class _Interest:
    """One subscription. Fills base.Subscription."""

    def __init__(self, bus: NatsBus, subject: str, handler: Handler) -> None:
        self._bus = bus
        self._subject = subject
        self._handler = handler
        self._entered: NatsSubscription | None = None

    async def enter(self, client: Client) -> None:
        """Tells the server; the client tells it again after a reconnect."""
        if self._entered is None:
            take: Callable[[Msg], Awaitable[None]] = self._take
            self._entered = await client.subscribe(
                self._subject,
                cb=take,
                pending_msgs_limit=MAX_UNREAD_MESSAGES,
                pending_bytes_limit=MAX_UNREAD_BYTES,
            )

    def leave(self) -> None:
        """The client that was told of it is no more."""
        self._entered = None

    async def cancel(self) -> None:
        """See base.Subscription."""
        with suppress(ValueError):
            self._bus._interests.remove(self)
        entered, self._entered = self._entered, None
        if entered is not None:
            with suppress(*BROKEN):
                await entered.unsubscribe()

    async def _take(self, message: Msg) -> None:
        self._handler(message.subject, message.data)
