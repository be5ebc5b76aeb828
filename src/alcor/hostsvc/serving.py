"""The services of one host, at work: requests in, answers out. Called by the agent, on its event loop.

`answering` (pure) decides; here are the data plane's requests, the stack that serves TCP, the resolvers, the clock.
Nothing here is kept across a restart: what was under way, its client asks again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec

from alcor.dataplane.base import Request, Requests, Stack
from alcor.hostsvc import dns
from alcor.hostsvc.advertisements import INTERVAL_S, advertisement
from alcor.hostsvc.announcements import announced
from alcor.hostsvc.answering import Query, Tcp, answer, reply
from alcor.hostsvc.base import Client, Clients
from alcor.hostsvc.metadata import PORT as METADATA_PORT
from alcor.hostsvc.metadata import MetadataConfig, MetadataProxy
from alcor.hostsvc.resolvers import Resolvers
from alcor.hostsvc.translation import Translation
from alcor.model.addresses import Ip
from alcor.model.ids import Id
from alcor.model.nouns import Claim

_log = logging.getLogger(__name__)

TICK_S = 1.0
NOT_YET_S = 5.0
"""A port that the data plane does not carry yet is looked for again after so long."""
DNS_IDLE_S = 10.0
"""A TCP connection to the DNS on which nothing is asked is closed (RFC 7766)."""
MAX_DNS_CONNECTIONS = 256


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a host's services are told when they are made."""

    resolvers: tuple[tuple[str, int], ...] = ()
    """Who is asked for names that are in no VPC: (address, port). Empty: such names are refused."""
    metadata: MetadataConfig = MetadataConfig()


class HostServices:
    """See the module."""

    def __init__(
        self,
        requests: Requests,
        clients: Clients,
        config: ServiceConfig,
        *,
        clock: Callable[[], float],
        roll: Callable[[], float],
        stack: Stack | None = None,
        claimed: Callable[[Id, Claim], None] | None = None,
    ) -> None:
        """`stack` serves TCP; None: nothing does. `claimed(port, claim)` hears what ports announce; None: nobody."""
        self._requests = requests
        self._clients = clients
        self._clock = clock
        self._roll = roll
        self._claimed = claimed
        self._stack = stack
        self._translation = Translation(stack) if stack is not None else None
        self._resolvers = Resolvers(config.resolvers)
        self._metadata = MetadataProxy(config.metadata)
        self._due: dict[Id, tuple[Client, float]] = {}
        """Who is advertised to, as it was then, and when next."""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dns_connections = 0

    def changed(self) -> None:
        """Others may be to be advertised to now. On the event loop."""
        self._changed.set()

    async def run(self) -> None:
        """Answers until cancelled; rests until somebody is due, or `changed`."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._requests.fileno(), self.drain)
        servers = await self._listen()
        try:
            while True:
                self._changed.clear()
                self.tick()
                await asyncio.sleep(TICK_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._rest_s()):
                        await self._changed.wait()
        finally:
            loop.remove_reader(self._requests.fileno())
            if self._stack is not None:
                loop.remove_reader(self._stack.fileno())
            for server in servers:
                server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> list[asyncio.Server]:
        stack = self._stack
        if stack is None:
            return []
        asyncio.get_running_loop().add_reader(stack.fileno(), self.pump)
        servers = []
        for version in (4, 6):
            for port, serve in ((METADATA_PORT, self._serve_metadata), (dns.PORT, self._serve_dns)):
                listener: socket.socket = await asyncio.to_thread(stack.listen, version, port)
                servers.append(await asyncio.start_server(serve, sock=listener))
        return servers

    def drain(self) -> None:
        """Answers what waits."""
        for request in self._requests.take():
            claim = announced(request.frame)
            if claim is not None and self._claimed is not None:
                self._claimed(request.port, claim)
                continue
            client = self._clients.client(request.port)
            found = answer(request.frame, client, self._clients) if client is not None else None
            if isinstance(found, Tcp):
                self._take_tcp(request, found)
            elif isinstance(found, Query):
                self._ask(request, found)
            elif found is None:
                self._requests.refuse(request)
            else:
                for frame in found:
                    self._requests.answer(request.ifindex, frame)

    def pump(self) -> None:
        """Hands on what the stack sent."""
        if self._stack is None or self._translation is None:
            return
        for packet in self._stack.take():
            found = self._translation.outwards(packet)
            if found is not None:
                self._requests.answer(*found)

    def tick(self) -> None:
        """Advertises to who is due, or is not as it was: new, or changed."""
        now, low, high = self._clock(), *INTERVAL_S
        advertised = self._clients.advertised()
        due = [one for one in advertised if self._is_due(one, now)]
        if len(self._due) > len(advertised):
            present = {one.id for one in advertised}
            self._due = {key: value for key, value in self._due.items() if key in present}
        if not due:
            return
        places = self._requests.interfaces()
        for client in due:
            frame, ifindex = advertisement(client), places.get(client.id)
            if frame is not None and ifindex is not None:
                self._requests.answer(ifindex, frame)
            wait_s = low + (high - low) * self._roll() if ifindex is not None else NOT_YET_S
            self._due[client.id] = client, now + wait_s

    def _rest_s(self) -> float | None:
        """Until somebody is due; None: until there is a change."""
        due = min([at for _, at in self._due.values()], default=None)
        return max(0.0, due - self._clock()) if due is not None else None

    def _is_due(self, client: Client, now: float) -> bool:
        known = self._due.get(client.id)
        return known is None or known[0] != client or known[1] <= now

    # TCP.

    def _take_tcp(self, request: Request, found: Tcp) -> None:
        packet = self._translation.inwards(request, found.ip) if self._translation is not None else None
        if packet is None or self._stack is None:
            self._requests.refuse(request)
        else:
            self._stack.give(packet, request.gso_size)

    def _caller(self, writer: asyncio.StreamWriter) -> Callable[[], tuple[Client, Ip] | None]:
        """Who is at the other end, whenever that is asked."""
        address: str = writer.get_extra_info("peername")[0]

        def ask() -> tuple[Client, Ip] | None:
            party = self._translation.who(address) if self._translation is not None else None
            client = self._clients.client(party.port) if party is not None else None
            return (client, party.ip) if client is not None and party is not None else None

        return ask

    async def _serve_metadata(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._metadata.serve(reader, writer, self._caller(writer))

    async def _serve_dns(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """DNS over TCP: each message behind its length (RFC 1035 section 4.2.2)."""
        caller = self._caller(writer)
        self._dns_connections += 1
        try:
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                while self._dns_connections <= MAX_DNS_CONNECTIONS:
                    async with asyncio.timeout(DNS_IDLE_S):
                        length = int.from_bytes(await reader.readexactly(2), "big")
                        query = await reader.readexactly(length)
                    who = caller()
                    told = await self._name(query, who[0]) if who is not None else None
                    if told is None:
                        return
                    writer.write(len(told).to_bytes(2, "big") + told)
                    async with asyncio.timeout(DNS_IDLE_S):
                        await writer.drain()
        finally:
            self._dns_connections -= 1
            writer.close()

    async def _name(self, query: bytes, client: Client) -> bytes | None:
        try:
            return dns.answer_dns(query, client, self._clients.zone(client), tcp=True)
        except dns.Elsewhere as elsewhere:
            if not self._resolvers.available:
                return elsewhere.answer()
            return await self._resolvers.ask(query, tcp=True) or elsewhere.failure()

    # Names elsewhere.

    def _ask(self, request: Request, found: Query) -> None:
        if not self._resolvers.available:
            self._requests.answer(request.ifindex, reply(found.asked, found.refusal))
            return
        task = asyncio.get_running_loop().create_task(self._resolve(request, found))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, request: Request, found: Query) -> None:
        told = await self._resolvers.ask(found.asked.payload, tcp=False) or found.failure
        if len(told) > found.largest:
            told = dns.truncated(told)
        self._requests.answer(request.ifindex, reply(found.asked, told))
