"""What connects simulated processes: lines that delay and are cut, and a bus that loses, repeats and goes away.

Called by host, control and run. Three networks fail apart: *management* (controller to a host, and a host to the bus),
the *underlay* (host to host), the *bus* itself. A line over a cut network holds what was sent, as TCP does, and goes on
when the cut heals, if both ends still want it: late messages of sessions thought dead are part of the weather.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

from alcor.agent.probe import Prober
from alcor.bus.base import Handler
from alcor.model.nouns import Node
from alcor.paths import peers
from alcor.paths.base import Line, LineEnded
from alcor.paths.peers import Peer
from alcor.wire.probes import Target

DELAY_S = (0.0002, 0.004)
IN_ORDER_S = 1e-6
"""Between two messages of a line: timers of the same time run in any order."""
RELAYS = 16
TRIES = 3
TRY_S = 1.5


class Callee(Protocol):
    """A host's process that listens, as the network sees it."""

    frozen: bool

    def answer(self, wire: Wire, epoch: int) -> None:
        """A controller called; `wire` is the agent's end."""
        ...


class Network:
    """Who reaches whom."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.cut_hosts: set[str] = set()
        """Hosts that the controller and the bus do not reach."""
        self.cut_pairs: set[frozenset[str]] = set()
        """Hosts that do not reach each other over the underlay."""
        self.slow_s = 0.0
        """Added to every delay, by dice."""
        self.bus = BusServer(self)
        self.listening: dict[str, Callee] = {}
        """Host -> its process that listens."""
        self.wires: list[Wire] = []

    def delay_s(self) -> float:
        """Of one message."""
        return self.dice.uniform(*DELAY_S) + self.dice.uniform(0, self.slow_s)

    def managed(self, host: str) -> bool:
        """The controller reaches the host, and the host the bus."""
        return host not in self.cut_hosts

    def near(self, one: str, other: str) -> bool:
        """The hosts reach each other."""
        return frozenset((one, other)) not in self.cut_pairs

    def changed(self) -> None:
        """A cut began or healed: what is held goes on."""
        for wire in list(self.wires):
            wire.pump()
        self.bus.changed()

    def hang_up(self, host: str) -> None:
        """The process at a host died: the kernel ends its connections."""
        for wire in list(self.wires):
            if host in wire.hosts:
                wire.end(f"the process at {host} died")

    def hang_up_all(self) -> None:
        """The controller died."""
        for wire in list(self.wires):
            wire.end("the controller died")


class Probes:
    """Datagrams between hosts: lost where the underlay is cut, refused where nobody listens, late where it is slow.
    Fills agent.probe.Pinger."""

    def __init__(self, network: Network, host: str, prober: Prober) -> None:
        self._network = network
        self._host = host
        self._prober = prober

    def send(self, target: Target, nonce: bytes) -> None:
        """See agent.probe.Pinger."""
        network, loop = self._network, asyncio.get_running_loop()

        def arrive() -> None:
            if not network.near(self._host, target.host):
                return
            callee = network.listening.get(target.host)
            if callee is None:
                loop.call_later(network.delay_s(), self._prober.refused, target)
            elif not callee.frozen:
                loop.call_later(network.delay_s(), self._prober.answered, target, nonce)

        loop.call_later(network.delay_s(), arrive)

    def keep(self, targets: Iterable[Target]) -> None:
        """See agent.probe.Pinger: nothing is kept."""


class Wire:
    """One end of a connection. Fills paths.base.Line."""

    def __init__(self, network: Network, hosts: tuple[str, ...], through: Callable[[], bool]) -> None:
        self.hosts = hosts
        self.other: Wire | None = None
        self._network = network
        self._through = through
        self._queue: asyncio.Queue[bytes | LineEnded] = asyncio.Queue()
        self._held: list[bytes] = []
        """Sent, and not through yet."""
        self._due = 0.0
        self.ended = ""
        network.wires.append(self)

    async def read(self) -> bytes:
        """See paths.base.Line."""
        if self.ended and self._queue.empty():
            raise LineEnded(self.ended)
        message = await self._queue.get()
        if isinstance(message, LineEnded):
            raise message
        return message

    async def write(self, data: bytes) -> None:
        """See paths.base.Line."""
        if self.ended:
            raise LineEnded(self.ended)
        self.send(data)

    def send(self, data: bytes) -> None:
        """Sends, if it is not over."""
        if not self.ended:
            self._held.append(data)
            self.pump()

    def pump(self) -> None:
        """Lets through what is held."""
        if not self._through() or self.other is None:
            return
        loop = asyncio.get_running_loop()
        for data in self._held:
            self._due = max(self._due + IN_ORDER_S, loop.time() + self._network.delay_s())
            loop.call_at(self._due, self.other.take, data)
        self._held.clear()

    def take(self, data: bytes) -> None:
        """A message came through."""
        if not self.ended:
            self._queue.put_nowait(data)

    def end(self, reason: str) -> None:
        """Both ends are told, each when the network lets it know."""
        if not self.ended:
            self.ended = reason
            self._queue.put_nowait(LineEnded(reason))
            if self in self._network.wires:
                self._network.wires.remove(self)
            if self.other is not None:
                self._tell()

    def _tell(self) -> None:
        other = self.other
        if other is None or other.ended:
            return
        loop = asyncio.get_running_loop()
        if self._through():
            at = max(self._due + IN_ORDER_S, loop.time() + self._network.delay_s())
            loop.call_at(at, other.end, self.ended)
        else:
            loop.call_later(1.0, self._tell)


def _connect(network: Network, hosts: tuple[str, ...], through: Callable[[], bool]) -> tuple[Wire, Wire]:
    here, there = Wire(network, hosts, through), Wire(network, hosts, through)
    here.other, there.other = there, here
    return here, there


class FastDialer:
    """gRPC to the agent. Fills paths.base.Dialer."""

    def __init__(self, network: Network, epoch: int) -> None:
        self._network = network
        self._epoch = epoch

    def open(self, node: Node) -> bool:
        """See paths.base.Dialer."""
        return True

    @asynccontextmanager
    async def dial(self, node: Node) -> AsyncIterator[Line]:
        """See paths.base.Dialer."""
        network = self._network

        def through() -> bool:
            return network.managed(node.name)

        async with _call(network, (node.name,), through, self._epoch) as line:
            yield line


class RescueDialer:
    """Through a peer, chosen as production chooses. Fills paths.base.Dialer."""

    def __init__(self, network: Network, epoch: int, healthy: Callable[[], Collection[Node]]) -> None:
        self._network = network
        self._epoch = epoch
        self._healthy = healthy

    def open(self, node: Node) -> bool:
        """See paths.base.Dialer."""
        return any(peer.name != node.name for peer in self._healthy())

    @asynccontextmanager
    async def dial(self, node: Node) -> AsyncIterator[Line]:
        """See paths.base.Dialer."""
        network = self._network
        able = [Peer(one.name) for one in peers.window(list(self._healthy()), network.dice.random())]
        for peer in peers.choose(Peer(node.name), able, count=TRIES, max_load=RELAYS):

            def through(peer: str = peer) -> bool:
                return network.managed(peer) and network.near(peer, node.name) and peer in network.listening

            if not through():
                await asyncio.sleep(TRY_S)
                continue
            async with _call(network, (peer, node.name), through, self._epoch) as line:
                yield line
                return
        raise LineEnded("no peer reaches it")


@asynccontextmanager
async def _call(
    network: Network, hosts: tuple[str, ...], through: Callable[[], bool], epoch: int
) -> AsyncIterator[Wire]:
    await asyncio.sleep(network.delay_s())
    while not through():
        await asyncio.sleep(0.5)  # SYN after SYN
    callee = network.listening.get(hosts[-1])
    if callee is None:
        raise LineEnded("connection refused")
    here, there = _connect(network, hosts, through)
    callee.answer(there, epoch)
    try:
        yield here
    finally:
        here.end("the controller hung up")


class BusServer:
    """The bus between all: at most once, in order per party unless told to misbehave."""

    def __init__(self, network: Network) -> None:
        self.up = True
        self.lose = 0.0
        """Part of the messages that is lost without a word."""
        self.repeat = 0.0
        """Part of the messages that comes twice."""
        self._network = network
        self.parties: list[BusParty] = []

    def party(self, host: str = "") -> BusParty:
        """A connection of that host, or of the controller."""
        party = BusParty(self, self._network, host)
        self.parties.append(party)
        return party

    def changed(self) -> None:
        """Who can connect does, who cannot finds out."""
        for party in list(self.parties):
            party.look()

    def carry(self, sender: BusParty, subject: str, data: bytes) -> None:
        """To everybody who listens."""
        dice = self._network.dice
        for party in list(self.parties):
            if party is sender or not party.interested(subject) or dice.random() < self.lose:
                continue
            for _ in range(2 if dice.random() < self.repeat else 1):
                party.receive(subject, data, self._network.delay_s())


class BusParty:
    """One connection. Fills bus.base.Bus."""

    max_payload = 1 << 20

    def __init__(self, server: BusServer, network: Network, host: str) -> None:
        self._server = server
        self._network = network
        self._host = host
        self._handlers: dict[str, list[Handler]] = {}
        self._states: list[Callable[[bool], None]] = []
        self._due = 0.0
        self._generation = 0
        self._closed = False
        self.connected = self._able()

    def _able(self) -> bool:
        return self._server.up and (not self._host or self._network.managed(self._host)) and not self._closed

    def look(self) -> None:
        """Connects or disconnects, as things are."""
        if self._able() == self.connected or self._closed:
            return
        self.connected = not self.connected
        self._generation += 1
        for handler in list(self._states):
            handler(self.connected)

    def publish(self, subject: str, data: bytes) -> bool:
        """See bus.base.Bus."""
        if not self.connected:
            return False
        self._server.carry(self, subject, data)
        return True

    def interested(self, subject: str) -> bool:
        """It is connected, and listens there."""
        return self.connected and any(_matches(pattern, subject) for pattern in self._handlers)

    def receive(self, subject: str, data: bytes, delay_s: float) -> None:
        """A message on its way here; lost if the connection is."""
        loop = asyncio.get_running_loop()
        generation = self._generation
        self._due = max(self._due + IN_ORDER_S, loop.time() + delay_s)

        def arrive() -> None:
            if generation == self._generation and not self._closed:
                for pattern, handlers in list(self._handlers.items()):
                    if _matches(pattern, subject):
                        for handler in list(handlers):
                            handler(subject, data)

        loop.call_at(self._due, arrive)

    async def subscribe(self, subject: str, handler: Handler) -> _Interest:
        """See bus.base.Bus."""
        self._handlers.setdefault(subject, []).append(handler)
        return _Interest(self._handlers, subject, handler)

    def on_state(self, handler: Callable[[bool], None]) -> None:
        """See bus.base.Bus."""
        self._states.append(handler)

    def die(self) -> None:
        """The process is gone: nothing is said, nothing arrives."""
        self._closed, self.connected = True, False
        if self in self._server.parties:
            self._server.parties.remove(self)

    async def close(self) -> None:
        """See bus.base.Bus."""
        self.die()


class _Interest:
    """Fills bus.base.Subscription."""

    def __init__(self, handlers: dict[str, list[Handler]], subject: str, handler: Handler) -> None:
        self._handlers = handlers
        self._subject = subject
        self._handler = handler

    async def cancel(self) -> None:
        """See bus.base.Subscription."""
        handlers = self._handlers.get(self._subject, [])
        if self._handler in handlers:
            handlers.remove(self._handler)
        if not handlers:
            self._handlers.pop(self._subject, None)


def _matches(pattern: str, subject: str) -> bool:
    if pattern == subject:
        return True
    if "*" not in pattern:
        return False
    ours, theirs = pattern.split("."), subject.split(".")
    return len(ours) == len(theirs) and all(one in ("*", other) for one, other in zip(ours, theirs, strict=True))
