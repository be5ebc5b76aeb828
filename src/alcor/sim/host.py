"""A simulated host: a data plane that outlives its processes, an agent, a standby, and what happens to them.

Called by world. The agent is the production one (agent.core) but for its thread and its gRPC server: its work is done
on the loop, a moment after it came, and it is called over wires in memory.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alcor.agent.config import AgentConfig
from alcor.agent.core import Agent
from alcor.agent.reconcile import Reconciler
from alcor.agent.resolver import TICK_S
from alcor.agent.server import Stream
from alcor.dataplane.base import RouteKind
from alcor.kit.backoff import Backoff
from alcor.model.addresses import Ip
from alcor.model.ids import Id
from alcor.model.nouns import Claim
from alcor.paths.base import LineEnded
from alcor.sim.network import BusParty, Network, Probes, Wire
from alcor.sim.tables import DictionaryDriver, Tables
from alcor.wire.lookups import is_aside

PARTITION = 1
OUTSIDE = RouteKind.OUTSIDE
HEARTBEAT_S = 2.0
WORK_S = (0.0005, 0.02)
"""How long a round of the worker takes to begin."""
DEAD_S, HUNG_S, BOOT_S = 0.5, 5.0, 0.3


class _Desk:
    """The worker's queue, without a worker: what is put here is done soon. Stands for queue.SimpleQueue."""

    def __init__(self, soon: Callable[[], None]) -> None:
        self.work: list[Any] = []
        self._soon = soon

    def put(self, work: Any) -> None:
        """Takes work in."""
        self.work.append(work)
        self._soon()

    def qsize(self) -> int:
        """What waits."""
        return len(self.work)


class SimAgent(Agent):
    """One life of an agent or a standby."""

    def __init__(
        self, config: AgentConfig, tables: Tables, network: Network, watch: Callable[[Reconciler], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.bus_party: BusParty = network.bus.party(config.host)
        self.driver = DictionaryDriver(tables)
        super().__init__(config, self.driver, self.bus_party, (PARTITION,), clock=loop.time, roll=network.dice.random)
        self._prober.pinger = Probes(network, config.host, self._prober)
        self.frozen = False
        self.dead = False
        self._network = network
        self._watch = watch
        self._loop = loop
        self._work = self._desk = _Desk(self._wake)  # type: ignore[assignment]
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def reconciler(self) -> Reconciler:
        """Its core."""
        return self._reconciler

    def boot(self) -> None:
        """Reads the journal, observes, listens. Raises JournalError."""
        self._reconciler.start()
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        speaking = asyncio.create_task(self._speak(failure), name="agent")
        speaking.add_done_callback(lambda _: self.driver.close())  # until then its descriptors are listened to
        self._tasks = [speaking]
        self._network.listening[self._config.host] = self
        self._wake()

    def die(self) -> None:
        """SIGKILL: no last words; the kernel closes its connections."""
        if self.dead:
            return
        self.dead = True
        if self._network.listening.get(self._config.host) is self:
            del self._network.listening[self._config.host]
        self.bus_party.die()
        for task in self._tasks:
            task.cancel()
        for timer in (self._timer, self._sign):
            if timer is not None:
                timer.cancel()
        self._reconciler.close()
        self._network.hang_up(self._config.host)

    def freeze(self) -> None:
        """SIGSTOP: the kernel still takes what comes."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        self._wake()

    def hear(self, port: Id, claim: Claim) -> None:
        """A port's workload announced an address."""
        if not self.frozen:
            self.claiming.announced(port, claim)

    def answer(self, wire: Wire, epoch: int) -> None:
        """See network.Callee."""
        self._numbers += 1
        stream = Stream(self._numbers, PARTITION, epoch)
        self._tasks.append(asyncio.create_task(self._stream(stream, wire), name="stream"))

    async def _answer_ports(self) -> None:
        """No port asks anything."""
        await asyncio.Event().wait()

    async def _resolve(self) -> None:
        """Packets are taken every now and then: the loop of a simulation watches no descriptors."""
        while True:
            await asyncio.sleep(self._network.dice.uniform(*WORK_S) + TICK_S / 2)
            await self._warm()
            self._resolver.drain()
            self._resolver.tick()

    async def _stream(self, stream: Stream, wire: Wire) -> None:
        await self._warm()
        self.greet(stream)
        reader = asyncio.create_task(self._listen(stream, wire), name="read stream")
        try:
            while True:
                report = await stream.outgoing.get()
                await self._warm()
                if isinstance(report, str):
                    wire.end(report)
                    return
                wire.send(report)
        finally:
            self.gone(stream)
            reader.cancel()
            wire.end("the agent hung up")

    async def _listen(self, stream: Stream, wire: Wire) -> None:
        while True:
            await stream.wait_room()
            try:
                data = await wire.read()
            except LineEnded:
                stream.end("the controller closed the stream")
                return
            await self._warm()
            if is_aside(data):
                self.answers(stream, data)
                continue
            stream.taken()
            self.bundle(stream, data)

    async def _warm(self) -> None:
        while self.frozen:
            await asyncio.sleep(0.05)

    def _wake(self) -> None:
        """The next round is soon, or when something is due."""
        loop = asyncio.get_running_loop()
        if self.dead or self.frozen:
            return
        delay_s = self._network.dice.uniform(*WORK_S)
        at = loop.time() + delay_s if self._desk.work else max(self._due(), loop.time() + delay_s)
        if self._timer is not None:
            if not self._timer.cancelled() and loop.time() < self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._turn_now)

    def _handle(self, bundles: list[Any]) -> None:
        """Looked at after each: one round may handle some, do something else, and handle more."""
        super()._handle(bundles)
        if bundles:
            self._watch(self._reconciler)

    def _turn_now(self) -> None:
        self._timer = None
        if self.dead or self.frozen:
            return
        work, self._desk.work = self._desk.work, []
        self._do(work)
        self._watch(self._reconciler)
        self._wake()


class SimHost:
    """See the module."""

    def __init__(
        self, name: str, underlay: Ip, directory: Path, network: Network, watch: Callable[[SimHost], None]
    ) -> None:
        self.name = name
        self.underlay = underlay
        """Its tunnel end."""
        self.tables = Tables()
        self.agent: SimAgent | None = None
        """Whoever serves: the agent or its standby."""
        self.agent_wanted = True
        self.standby_there = True
        self._directory = directory
        self._network = network
        self._watch = watch
        self._life = 0

    def sends_from(self) -> set[tuple[Ip, int]]:
        """(address outside, block) of those that its ports' connections have, were any made now."""
        tables = self.tables
        leading = {port.vni for port in tables.ports.values() if port.routes}
        out = (route.hops for key, route in tables.routes.items() if key.vni in leading and route.kind is OUTSIDE)
        addresses = {hop.ip for hops in out for hop in hops} & tables.shared.keys()
        return {(ip, block) for ip in addresses for block in tables.shared[ip].own(self.underlay)}

    @property
    def journal(self) -> Path:
        """The file."""
        return self._directory / "journal"

    def start(self) -> None:
        """The agent (again): a standby in its place yields."""
        self.agent_wanted = True
        self._replace(standby=False)

    def kill(self) -> None:
        """The agent dies; its standby takes over after a while."""
        self.agent_wanted = False
        self._end()
        self._later(DEAD_S + BOOT_S, self._take_over)

    def hang(self) -> None:
        """The agent hangs; its standby ends it and takes over."""
        if self.agent is not None and not self.agent.frozen:
            self.agent.freeze()
            self._later(HUNG_S + DEAD_S, self._take_over)

    def thaw(self) -> None:
        """The agent goes on, if it is still there."""
        if self.agent is not None and self.agent.frozen:
            self._life += 1  # it answers: nobody takes over
            self.agent.thaw()

    def heal(self) -> None:
        """All is well again: the agent runs."""
        self.standby_there = True
        if self.agent is None or self.agent.frozen or not self.agent_wanted:
            self._end()
            self.start()

    def harm_journal(self, dice: random.Random) -> None:
        """Wrong bytes in the file, or the end of it is gone; while nobody has it open."""
        if self.journal.exists() and (size := self.journal.stat().st_size):
            data = bytearray(self.journal.read_bytes())
            at = dice.randrange(size)
            if dice.random() < 0.5:
                del data[at:]
            else:
                data[at] ^= dice.randrange(1, 256)
            self.journal.write_bytes(data)

    def lose_disk(self) -> None:
        """The journal is gone."""
        self.journal.unlink(missing_ok=True)

    def close(self) -> None:
        """The end of the simulation."""
        self._end()

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        self._life += 1
        life = self._life

        def run() -> None:
            if life == self._life:
                function()

        asyncio.get_running_loop().call_later(seconds, run)

    def _take_over(self) -> None:
        if self.standby_there:
            self._replace(standby=True)

    def _replace(self, *, standby: bool) -> None:
        self._end()
        self._directory.mkdir(exist_ok=True)
        config = AgentConfig(
            host=self.name,
            state_dir=self._directory,
            listen="",
            tls_dir=self._directory,
            heartbeat_s=HEARTBEAT_S,
            standby=standby,
            retry=Backoff(first_s=1.0, cap_s=5.0),
        )
        agent = SimAgent(config, self.tables, self._network, lambda _: self._watch(self))
        self.agent = agent
        agent.boot()

    def _end(self) -> None:
        self._life += 1
        if self.agent is not None:
            self.agent.die()
            self.agent = None
