"""Thousands of simulated hosts on a real bus: the agent's own ends of it, over a data plane that is only merged state.

Called by bench.bus. What is simulated is the kernel and the process of its own: a hundred hosts share a connection and
all share an event loop. Sessions, numbering, pieces, sealed news, merging, digests and gaps are the production code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from alcor.agent.bus import BusEnd
from alcor.agent.feeds import FeedKey, Feeds
from alcor.agent.server import Stream
from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.bus.base import Bus, Handler, Subscription
from alcor.bus.nats import NatsBus, NatsOptions
from alcor.goalstate.objects import HOST_SCOPE
from alcor.model.ids import Id
from alcor.wire.codec import decode_bundle, decode_scopes
from alcor.wire.reports import (
    Ack,
    Feeding,
    Heartbeat,
    Held,
    Hello,
    PortAck,
    encode_ack,
    encode_feeding,
    encode_heartbeat,
    encode_hello,
)

PARTITION = 1
HEARTBEAT_S = 10.0
SIGN_MS = 1000
"""Hosts here answer at once, so the answer is the sign of life."""
CONNECT_S = 20.0
POLL_S = 0.005


class _Cable:
    """One host's share of a connection, which can be cut. Fills bus.base.Bus."""

    def __init__(self, bus: Bus) -> None:
        self.cut = False
        self._bus = bus

    @property
    def connected(self) -> bool:
        """See bus.base.Bus."""
        return self._bus.connected

    @property
    def max_payload(self) -> int:
        """See bus.base.Bus."""
        return self._bus.max_payload

    def publish(self, subject: str, data: bytes) -> bool:
        """See bus.base.Bus."""
        return self.cut or self._bus.publish(subject, data)

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """See bus.base.Bus."""

        def take(subject: str, data: bytes) -> None:
            if not self.cut:
                handler(subject, data)

        return await self._bus.subscribe(subject, take)

    def on_state(self, handler: Callable[[bool], None]) -> None:
        """See bus.base.Bus."""
        self._bus.on_state(handler)

    async def close(self) -> None:
        """See bus.base.Bus; the connection is the crowd's."""


class Host:
    """One simulated host. Fills agent.server.Intake."""

    def __init__(self, name: str, bus: NatsBus) -> None:
        self.name = name
        self.desired = Desired()
        self.stream: Stream | None = None
        self.synced_at = 0.0
        """When it was last told that it holds all it should; 0: not in this session."""
        self.changed_at = 0.0
        """When something was last merged."""
        self.greeted_at = 0.0
        """When its session began."""
        self.taken = 0
        """Bytes of bundles, in its session."""
        self._cable = _Cable(bus)
        self._end = BusEnd(self._cable, name, (PARTITION,), self)
        self._feeds = Feeds(self._cable, self._news, self._told)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens to its controller."""
        self._cable.on_state(lambda connected: self.beat() if connected else None)
        await self._end.start()
        self.beat()
        self._task = asyncio.create_task(self._feeds.run(), name=f"feeds of {self.name}")

    async def stop(self) -> None:
        """Ends its sessions."""
        await self._end.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def die(self) -> None:
        """Says and hears nothing more, without a word: SIGKILL, or the cable."""
        self._cable.cut = True

    def revive(self) -> None:
        """Is there again; its controller sees that something was lost."""
        self._cable.cut, self.synced_at = False, 0.0
        self.beat()

    def leave(self) -> None:
        """Ends its session, as an agent that restarts does."""
        if self.stream is not None:
            self.stream.end("it restarts")

    def beat(self) -> None:
        """One heartbeat, in its session and out of it."""
        stream = self.stream
        epoch = stream.epoch if stream is not None else 0
        held = self.desired.held(PARTITION)
        report = encode_heartbeat(Heartbeat(self.name, epoch, int(HEARTBEAT_S * 1000), held))
        if stream is not None:
            stream.send(report, answers=False)
        self._end.beat(PARTITION, report)

    def feeding(self) -> frozenset[Id]:
        """VPCs whose news it takes from the bus."""
        return self._feeds.taken(PARTITION, self.stream.epoch) if self.stream is not None else frozenset()

    def endpoints(self, vpc: Id) -> int:
        """How many endpoints of that VPC it knows."""
        state = self.desired.scopes.get(ScopeKey(PARTITION, vpc))
        return len(state.endpoints) if state is not None else 0

    def forget(self) -> None:
        """Loses what it held, as a host with a new disk."""
        self.desired = Desired()

    # Intake.

    def greet(self, stream: Stream) -> None:
        """See agent.server.Intake."""
        self.stream, self.synced_at, self.taken, self.greeted_at = stream, 0.0, 0, time.monotonic()
        self.desired.begin(PARTITION)
        held = self.desired.held(PARTITION)
        hello = Hello(self.name, stream.epoch, held, heartbeat_ms=int(HEARTBEAT_S * 1000), sign_ms=SIGN_MS)
        stream.send(encode_hello(hello), answers=False)
        self._told(PARTITION)

    def bundle(self, stream: Stream, data: bytes) -> None:
        """See agent.server.Intake."""
        self.taken += len(data)
        head, unchecked = decode_bundle(data)
        updates = decode_scopes(unchecked)
        touched = Touched()
        synced = self.desired.take(head.partition, head.epoch, updates, synced=head.synced, touched=touched)
        self._feeds.offer(head.partition, head.epoch, head.feeds)
        ports = []
        for identifier, (_, named) in touched.mentioned.items():
            goal = self.desired.port(identifier)
            revision = goal.revision if goal is not None else named
            ports.append(PortAck(identifier, revision, goal is None, "", 0))
        keys = dict.fromkeys(ScopeKey(PARTITION, update.scope) for update in updates)
        scopes = tuple(Held(key.scope, 0, 0) if key in touched.missed else self.desired.held_of(key) for key in keys)
        stream.send(encode_ack(Ack(sequence=head.sequence, ports=tuple(ports), scopes=scopes)), answers=True)
        self.changed_at = time.monotonic()
        if synced:
            self.synced_at = self.changed_at

    def answers(self, stream: Stream, data: bytes) -> None:
        """Nothing is on demand here."""

    def gone(self, stream: Stream) -> None:
        """See agent.server.Intake."""
        if self.stream is stream:
            self.stream, self.synced_at = None, 0.0

    # News.

    def _news(self, key: FeedKey, bundle: bytes) -> None:
        head, unchecked = decode_bundle(bundle)
        touched = Touched()
        self.desired.take(head.partition, head.epoch, decode_scopes(unchecked), synced=False, touched=touched)
        self.changed_at = time.monotonic()
        if touched.missed and self.stream is not None:
            scopes = tuple(Held(missed.scope, 0, 0) for missed in sorted(touched.missed))
            self.stream.send(encode_ack(Ack(sequence=0, scopes=scopes)), answers=False)

    def _told(self, _partition: int) -> None:
        if self.stream is not None:
            self.stream.send(encode_feeding(Feeding(self.feeding())), answers=False)


class Crowd:
    """Hosts, by name, over as many connections as they need."""

    def __init__(self, url: str, names: list[str], *, per_connection: int = 100) -> None:
        self.buses = [
            NatsBus(NatsOptions(servers=[url], name=f"hosts {first}", reconnect_s=0.1))
            for first in range(0, len(names), per_connection)
        ]
        self.hosts = {name: Host(name, self.buses[number // per_connection]) for number, name in enumerate(names)}
        self._beats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects and listens. Raises TimeoutError."""
        for bus in self.buses:
            bus.start()
        for bus in self.buses:
            if not await bus.started(CONNECT_S):
                raise TimeoutError("the crowd cannot connect to the bus")
        for host in self.hosts.values():
            await host.start()
        self._beats = asyncio.create_task(self._beat(), name="heartbeats")

    async def stop(self) -> None:
        """Ends all."""
        if self._beats is not None:
            self._beats.cancel()
        for host in self.hosts.values():
            await host.stop()
        for bus in self.buses:
            await bus.close()

    async def until(self, true: Callable[[Host], bool], timeout_s: float, *, but: frozenset[str] = frozenset()) -> int:
        """Waits until it is so of every host but those; how many hosts it is not so of in the end."""
        waiting = [host for name, host in self.hosts.items() if name not in but]
        deadline = time.monotonic() + timeout_s
        while waiting and time.monotonic() < deadline:
            while waiting and true(waiting[-1]):
                waiting.pop()
            await asyncio.sleep(POLL_S)
        return sum(not true(host) for host in waiting)

    async def _beat(self) -> None:
        """Every host every HEARTBEAT_S, spread evenly."""
        while True:
            pause_s = HEARTBEAT_S / len(self.hosts)
            began = time.monotonic()
            for number, host in enumerate(list(self.hosts.values()), 1):
                host.beat()
                late_s = began + number * pause_s - time.monotonic()
                if late_s > POLL_S:
                    await asyncio.sleep(late_s)
            await asyncio.sleep(0)


def own_ports(host: Host) -> int:
    """How many ports the host is to carry."""
    state = host.desired.scopes.get(ScopeKey(PARTITION, HOST_SCOPE))
    return len(state.ports) if state is not None else 0
