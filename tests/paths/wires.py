"""Hosts and wires of tests: dialers whose fate is told, agents that answer as they are told, a bus in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from alcor.bus.base import Handler
from alcor.model.addresses import parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import Node
from alcor.paths.base import Line, LineEnded, Parcel, PathName, Session
from alcor.paths.delivery import Delivery
from alcor.wire.codec import BundleHead, decode_bundle
from alcor.wire.lookups import Lookup
from alcor.wire.reports import Ack, Heartbeat, Hello, encode_ack, encode_hello

PATIENCE_S = 20.0


def node(name: str, *, port: int = 50001, host: str = "192.0.2.1", underlay: str = "172.16.0.1") -> Node:
    return Node(
        id=Id(name.encode().ljust(16, b"\0")),
        name=name,
        underlay_ip=parse_ip(underlay),
        agent_host=host,
        agent_port=port,
        created_at=0,
        updated_at=0,
        revision=1,
    )


class Recorder:
    """Hears what the path tells, and answers every Hello with nothing, or with `answer`."""

    def __init__(self) -> None:
        self.path: Delivery | None = None
        self.heard_of: list[tuple[str, object]] = []
        self.news = asyncio.Event()
        self.answer: tuple[Parcel, ...] | None = ()

    def _hear(self, what: str, detail: object) -> None:
        self.heard_of.append((what, detail))
        self.news.set()

    def greeted(self, session: Session, hello: Hello) -> None:
        if self.path is not None and self.answer is not None:
            self.path.begin(session, self.answer)
        self._hear("greeted", session)

    def acknowledged(self, session: Session, ack: Ack) -> None:
        self._hear("acknowledged", (session.host, ack.sequence))

    def heard(self, host: str, path: PathName, heartbeat: Heartbeat) -> None:
        self._hear("heard", (host, path))

    def asked(self, session: Session, lookup: Lookup) -> None:
        self._hear("asked", lookup)

    def overflowed(self, session: Session, scopes: frozenset[Id]) -> None:
        self._hear("overflowed", scopes)

    def refused(self, session: Session, reason: str, attempts: int) -> None:
        self._hear("refused", (reason, attempts))

    def of(self, what: str) -> list[object]:
        return [detail for kind, detail in self.heard_of if kind == what]

    def sessions(self, host: str) -> list[Session]:
        return [one for one in self.of("greeted") if isinstance(one, Session) and one.host == host]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self.news.clear()
                await self.news.wait()


class Agent:
    """One host's agent: greets every line, answers every bundle; the newest line ends those before it."""

    def __init__(self, name: str, *, heartbeat_ms: int = 0) -> None:
        self.name = name
        self.heartbeat_ms = heartbeat_ms
        self.line: Wire | None = None
        self.bundles: list[tuple[BundleHead, bytes]] = []
        self.answering = True

    def greet(self, line: "Wire") -> None:
        if self.line is not None:
            self.line.end("a newer stream of the partition began")
        self.line = line
        line.say(encode_hello(Hello(self.name, 1, (), heartbeat_ms=self.heartbeat_ms)))

    def take(self, line: "Wire", data: bytes) -> None:
        head, _ = decode_bundle(data)
        self.bundles.append((head, data))
        if self.answering and line is self.line:
            line.say(encode_ack(Ack(sequence=head.sequence)))


class Wire:
    """A line in memory, to an agent."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._queue: asyncio.Queue[bytes | LineEnded] = asyncio.Queue()

    def say(self, data: bytes) -> None:
        self._queue.put_nowait(data)

    def end(self, reason: str) -> None:
        self._queue.put_nowait(LineEnded(reason))

    async def read(self) -> bytes:
        message = await self._queue.get()
        if isinstance(message, LineEnded):
            raise message
        return message

    async def write(self, data: bytes) -> None:
        self.agent.take(self, data)


class Wires:
    """A Dialer to agents in memory. A host's fate: "up", "refused" (at once), "hole" (no answer, ever)."""

    def __init__(self, agents: dict[str, Agent]) -> None:
        self.agents = agents
        self.fates: dict[str, str] = {}
        self.shut: set[str] = set()
        self.dials: Counter[str] = Counter()
        self.dialling = 0
        self.most_dialling = 0

    def open(self, node: Node) -> bool:
        return node.name not in self.shut

    @asynccontextmanager
    async def dial(self, node: Node) -> AsyncIterator[Line]:
        self.dials[node.name] += 1
        self.dialling += 1
        self.most_dialling = max(self.most_dialling, self.dialling)
        try:
            await asyncio.sleep(0)
            fate = self.fates.get(node.name, "up")
            if fate == "refused":
                raise LineEnded("connection refused")
            if fate == "hole":
                await asyncio.Event().wait()
        finally:
            self.dialling -= 1
        agent = self.agents[node.name]
        wire = Wire(agent)
        agent.greet(wire)
        try:
            yield wire
        finally:
            if agent.line is wire:
                agent.line = None


class MemoryBus:
    """A Bus in memory for any number of parties; `meddle` may drop, repeat or change what is published."""

    def __init__(self, max_payload: int = 1 << 20) -> None:
        self.connected = True
        self.max_payload = max_payload
        self.published: list[tuple[str, bytes]] = []
        self.meddle: Callable[[str, bytes], list[tuple[str, bytes]]] = lambda subject, data: [(subject, data)]
        self._handlers: dict[str, list[Handler]] = {}
        self._states: list[Callable[[bool], None]] = []

    def publish(self, subject: str, data: bytes) -> bool:
        if not self.connected or len(data) > self.max_payload:
            return False
        self.published.append((subject, data))
        for one in self.meddle(subject, data):
            asyncio.get_running_loop().call_soon(self._deliver, *one)
        return True

    async def subscribe(self, subject: str, handler: Handler) -> "MemorySubscription":
        self._handlers.setdefault(subject, []).append(handler)
        return MemorySubscription(self._handlers[subject], handler)

    def on_state(self, handler: Callable[[bool], None]) -> None:
        self._states.append(handler)

    async def close(self) -> None:
        self._handlers.clear()

    def set_connected(self, connected: bool) -> None:
        self.connected = connected
        for handler in self._states:
            handler(connected)

    def _deliver(self, subject: str, data: bytes) -> None:
        words = subject.split(".")
        for pattern, handlers in list(self._handlers.items()):
            wanted = pattern.split(".")
            if len(wanted) == len(words) and all(a in ("*", b) for a, b in zip(wanted, words, strict=True)):
                for handler in list(handlers):
                    handler(subject, data)


class MemorySubscription:
    """Ends an interest."""

    def __init__(self, handlers: list[Handler], handler: Handler) -> None:
        self._handlers, self._handler = handlers, handler

    async def cancel(self) -> None:
        if self._handler in self._handlers:
            self._handlers.remove(self._handler)
