"""A whole southbound in one process, over real sockets and mutual TLS: store, writer, loops, fast path, agents.

Only the data planes are dictionaries. Controllers and agents can be stopped and started again; what they kept on disk,
or in the store, is then all they have.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from alcor.agent.config import AgentConfig
from alcor.agent.core import Agent
from alcor.agent.relay import RelayLimits
from alcor.agent.turn import agent_turn
from alcor.bus import credentials
from alcor.bus.nats import NatsBus, options_of
from alcor.kit import pki
from alcor.kit.backoff import Backoff
from alcor.loops.commit import Committer
from alcor.loops.health import HealthMonitor
from alcor.loops.publish import Publisher
from alcor.loops.sharing import SharingLoop
from alcor.loops.status import StatusLoop
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Network, Port, PortStatus, Subnet
from alcor.paths.base import Dialer, PathName
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.fast import GrpcDialer
from alcor.paths.ladder import LadderLimits
from alcor.paths.link import AGENT, CONTROLLER, load_credentials
from alcor.paths.normal import NormalDialer
from alcor.paths.rescue import RescueDialer
from alcor.services.commands import (
    Command,
    CreateNetworks,
    CreateNodes,
    CreatePorts,
    CreateSubnets,
    NetworkSpec,
    NodeSpec,
    PortSpec,
    SubnetSpec,
)
from alcor.services.demand import DemandPolicy
from alcor.sim.tables import DictionaryDriver, Tables
from alcor.store.base import Changes, Query
from alcor.store.memory import MemoryStore

QUICK = Backoff(first_s=0.01, cap_s=0.05)
PATIENCE_S = 20.0


class Host:
    """A node: its data plane, its agent's files, and at times its agent."""

    def __init__(self, directory: Path, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.tables = Tables()
        self.directory = directory / name
        self.port = 0
        self.address = "127.0.0.1"
        self.bus_url = ""
        self.heartbeat_s = 10.0
        self.sign_s = 1.0
        self.bus: NatsBus | None = None
        self.agent: Agent | None = None
        self.driver: DictionaryDriver | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the agent; the first time at a port that the kernel chooses, later at the same."""
        config = AgentConfig(
            host=self.name,
            state_dir=self.directory / "state",
            listen=self.address,
            port=self.port,
            tls_dir=self.directory / "tls",
            retry=QUICK,
            heartbeat_s=0.1 if self.bus_url else self.heartbeat_s,
            sign_s=self.sign_s,
            relay=RelayLimits(ports=frozenset(range(1, 1 << 16)), loopback=True),
        )
        self.driver = DictionaryDriver(self.tables)
        if self.bus_url:
            self.bus = connect(self.bus_url, self.name, self.directory / "tls", AGENT)
        self.agent = Agent(config, self.driver, self.bus, (1,))
        self._task = asyncio.create_task(self._run(config.state_dir, self.agent))
        started = asyncio.create_task(self.agent.started())
        await asyncio.wait([self._task, started], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            started.cancel()
            await self.ended()
        self.port = self.agent.port

    async def _run(self, state_dir: Path, agent: Agent) -> None:
        async with agent_turn(state_dir):
            await agent.run()

    async def ended(self) -> None:
        """Waits for the agent to end by itself; raises what ended it."""
        assert self._task is not None
        task, self._task = self._task, None
        await task

    async def stop(self) -> None:
        """Ends the agent; what it programmed stays."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = self.agent = None
        if self.bus is not None:
            await self.bus.close()
            self.bus = None


def connect(urls: str, name: str, directory: Path | None = None, role: str = "") -> NatsBus:
    """A connection to the bus (addresses with commas between them), soon; as roles make it from what is in that
    directory, but impatient."""
    options = options_of(urls, name, directory or Path(), role)
    bus = NatsBus(msgspec.structs.replace(options, reconnect_s=0.05))
    bus.start()
    return bus


class Region:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = MemoryStore()
        self.hosts: dict[str, Host] = {}
        self.committer: Committer | None = None
        self.path: Delivery | None = None
        self.bus_url = ""
        """Hosts and controllers made from now on use this bus."""
        self.bus: NatsBus | None = None
        self.demand: DemandPolicy | None = None
        """From how many ports on a network is on demand; None: as by default."""
        self._tasks: list[asyncio.Task[None]] = []
        self._revision = asyncio.Event()
        pki.make_ca(directory / "ca")
        pki.issue(directory / "ca", directory / "tls", "controller-1", role=CONTROLLER)

    async def start(self, *, limits: DeliveryLimits | None = None, tls_dir: Path | None = None) -> None:
        """Starts a controller over the store."""
        loop = asyncio.get_running_loop()
        publisher = Publisher(self.store)
        self.monitor = HealthMonitor(publisher, lambda: int(loop.time() * 1000), loop.time)

        def committed(revision: int, changes: Changes) -> None:
            publisher.committed(revision, changes)
            loop.call_soon_threadsafe(self._revision.set)

        self.committer = Committer(
            self.store,
            clock=lambda: 1_700_000_000_000,
            entropy=os.urandom,
            demand=self.demand,
            on_commit=committed,
        )
        status = StatusLoop(self.committer, random.random)
        sharing = SharingLoop(self.committer, publisher, self.monitor)
        publisher.moved = sharing.moved
        proof = load_credentials(tls_dir or self.directory / "tls", CONTROLLER)
        fast = GrpcDialer(partition=1, epoch=self.committer.epoch, credentials=proof)
        dialers: dict[PathName, Dialer] = {PathName.FAST: fast}
        self.bus = connect(self.bus_url, "controller", self.directory / "tls", CONTROLLER) if self.bus_url else None
        self.path = Delivery(
            partition=1,
            epoch=self.committer.epoch,
            dialers=dialers,
            events=self.monitor,
            roll=random.random,
            limits=limits or DeliveryLimits(ladder=LadderLimits(backoff=QUICK)),
            bus=self.bus,
        )
        self.monitor.probes = self.path.probing
        dialers[PathName.RESCUE] = RescueDialer(dialer=fast, healthy=self.path.healthy, roll=random.random)
        if self.bus is not None:
            normal = NormalDialer(
                partition=1, epoch=self.committer.epoch, bus=self.bus, heard=self.path.heard, roll=random.random
            )
            await normal.start()
            dialers[PathName.NORMAL] = normal
        self.committer.start()
        self._tasks = [
            asyncio.create_task(publisher.run(self.path, status.add, status.add_members, status.add_claims)),
            asyncio.create_task(status.run()),
            asyncio.create_task(sharing.run()),
            asyncio.create_task(self.path.run()),
            asyncio.create_task(self.monitor.run()),
        ]

    async def stop(self) -> None:
        """Ends the controller; the store stays."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        self._tasks = []
        if self.bus is not None:
            await self.bus.close()
        if self.committer is not None:
            await asyncio.to_thread(self.committer.close)

    async def close(self) -> None:
        """Ends everything."""
        await self.stop()
        for host in self.hosts.values():
            await host.stop()

    # What callers of the API do.

    async def do(self, command: Command) -> Any:
        """Submits a command and returns what its docstring names."""
        assert self.committer is not None
        return await self.committer.submit(command)

    def make_host(self, name: str) -> Host:
        """A host with its certificate; no agent runs and no node is registered yet."""
        host = self.hosts[name] = Host(self.directory, name, len(self.hosts) + 1)
        host.address = f"127.0.1.{host.number}"
        host.bus_url = self.bus_url
        pki.issue(self.directory / "ca", host.directory / "tls", name, role=AGENT)
        if self.bus_url.startswith("tls://"):
            credentials.enrol(self.directory / "ca", host.directory / "tls", name, role=credentials.HOST)
        return host

    async def add_host(self, name: str) -> Host:
        """A registered host with a running agent."""
        host = self.make_host(name)
        await host.start()
        await self.register(host)
        return host

    async def register(self, host: Host, at: str = "") -> None:
        """Registers the node where its agent listens, or as if that were at another address."""
        underlay = parse_ip(host.address)
        spec = NodeSpec(name=host.name, underlay_ip=underlay, agent_host=at or host.address, agent_port=host.port)
        await self.do(CreateNodes(specs=(spec,)))

    async def add_vpc(self, cidr: str = "10.0.0.0/16") -> tuple[Network, Subnet]:
        """A VPC with one subnet."""
        prefix = parse_prefix(cidr)
        (network,) = await self.do(CreateNetworks(specs=(NetworkSpec(cidr=prefix),)))
        (subnet,) = await self.do(CreateSubnets(specs=(SubnetSpec(network_id=network.id, cidr=prefix),)))
        return network, subnet

    async def add_ports(self, network: Network, hosts: list[str], **fields: object) -> tuple[Port, ...]:
        """A port on each of the hosts, in one request."""
        specs = tuple(PortSpec(network_id=network.id, host=host, **fields) for host in hosts)  # type: ignore[arg-type]
        ports: tuple[Port, ...] = await self.do(CreatePorts(specs=specs))
        return ports

    # What tests wait for.

    def ports(self) -> list[Port]:
        """Every port, as the store has it."""
        return self.store.list_ports(Query(limit=100_000))

    def status(self) -> dict[Id, PortStatus]:
        """Every port's status."""
        return {port.id: port.status for port in self.ports()}

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits for something that a commit or a data plane brings about; looks at every commit, and now and then."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self._revision.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._revision.wait()

    async def until_active(self, *ports: Port) -> None:
        """Waits until those ports (all, when none is given) are ACTIVE."""
        wanted = [port.id for port in ports] or [port.id for port in self.ports()]
        await self.until(lambda: all(self.status().get(port) == PortStatus.ACTIVE for port in wanted))
