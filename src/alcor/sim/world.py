"""A simulated region: one controller over a store that survives it, hosts, the network between; and what must hold.

Called by run. Everything above the store and the network is production code: the writer's batches, publisher, status
loop, delivery, sessions, ladder, normal dialer, news, agents with their journals. A broken promise is `Broken`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from alcor.dataplane.base import Endpoint, EndpointKey, Miss, Plan
from alcor.loops.commit import Committer
from alcor.loops.health import HealthMonitor
from alcor.loops.publish import Publisher
from alcor.loops.status import StatusLoop
from alcor.model.addresses import ip_from_int, ip_to_int, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Port, PortStatus
from alcor.paths.base import Dialer, PathName
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.neighbours import PEERS
from alcor.paths.normal import NormalDialer
from alcor.services.commands import (
    Command,
    CreateNetworks,
    CreateNodes,
    CreatePorts,
    CreateSubnets,
    DeletePorts,
    NetworkSpec,
    NodeSpec,
    PortReport,
    PortSpec,
    SubnetSpec,
    UpdatePort,
)
from alcor.services.demand import DemandPolicy
from alcor.services.errors import DomainError
from alcor.services.health import Peers, Reach
from alcor.sim.host import PARTITION, SimHost
from alcor.sim.network import FastDialer, Network, RescueDialer
from alcor.store.base import Changes, Query
from alcor.store.memory import MemoryStore

COMMIT_S = (0.0005, 0.01)
VPCS = 3
PROBE_S = 0.25
MAX_PORTS = 14
DEMAND = DemandPolicy(above=5, below=4)
"""So few ports make a VPC too large to be preloaded: VPCs cross it both ways all the time."""
AT_ONCE = 2
"""So many ports of a VPC are sent with a host's first port of it; of larger ones the endpoints follow."""


class Broken(AssertionError):
    """A promise was broken: which, by whom, when."""


class _Writer(Committer):
    """The production writer without its thread: a command is committed soon, with what else came meanwhile."""

    def __init__(self, store: MemoryStore, dice: random.Random, **options: object) -> None:
        super().__init__(store, **options)  # type: ignore[arg-type]
        self._dice = dice

    async def submit(self, command: Command) -> object:
        """See Committer."""
        asyncio.get_running_loop().call_later(self._dice.uniform(*COMMIT_S), self.drain)
        return await super().submit(command)


class Controller:
    """One life of the control plane."""

    def __init__(self, world: World) -> None:
        dice, network = world.dice, world.network
        self.bus = network.bus.party()
        self.publisher = Publisher(world.store, at_once=AT_ONCE)
        self._world = world

        def committed(revision: int, changes: Changes) -> None:
            self.publisher.committed(revision, changes)

        self.writer = _Writer(
            world.store,
            dice,
            clock=lambda: 1_700_000_000_000,
            entropy=dice.randbytes,
            demand=DEMAND,
            on_commit=committed,
        )
        epoch = self.writer.epoch
        clock = asyncio.get_running_loop().time
        self.monitor = HealthMonitor(self.publisher, lambda: int(clock() * 1000), clock)
        self.status = StatusLoop(self.writer, dice.random)
        dialers: dict[PathName, Dialer] = {}
        self.delivery = Delivery(
            partition=PARTITION,
            epoch=epoch,
            dialers=dialers,
            events=self.monitor,
            roll=dice.random,
            bus=self.bus,
            entropy=dice.randbytes,
            limits=DeliveryLimits(probe_s=PROBE_S),
        )
        self.monitor.probes = self.delivery.probing
        self.normal = NormalDialer(
            partition=PARTITION, epoch=epoch, bus=self.bus, heard=self.delivery.heard, roll=dice.random
        )
        ways: dict[PathName, Dialer] = {
            PathName.FAST: FastDialer(network, epoch),
            PathName.NORMAL: self.normal,
            PathName.RESCUE: RescueDialer(network, epoch, self.delivery.healthy),
        }
        dialers.update((path, ways[path]) for path in world.paths)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins."""
        await self.normal.start()
        self._tasks = [
            asyncio.create_task(self.publisher.run(self.delivery, self._report), name="publisher"),
            asyncio.create_task(self.status.run(), name="status"),
            asyncio.create_task(self.delivery.run(), name="delivery"),
            asyncio.create_task(self.monitor.run(), name="monitor"),
        ]

    async def kill(self) -> None:
        """SIGKILL; the store keeps what was committed."""
        self.bus.die()
        self._world.network.hang_up_all()
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def check(self) -> None:
        """Its loops run."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise Broken(f"{task.get_name()} ended: {error!r}") from error

    def _report(self, reports: Iterable[PortReport]) -> None:
        told = tuple(reports)
        for report in told:
            self._world.check_report(report)
        self.status.add(told)


class World:
    """See the module."""

    def __init__(self, dice: random.Random, directory: Path, hosts: int, paths: Sequence[PathName]) -> None:
        """`paths` that there are, best first."""
        self.dice = dice
        self.paths = paths
        self.network = Network(dice)
        self.store = MemoryStore()
        self.hosts = {name: SimHost(name, directory / name, self.network, self._watch) for name in _names(hosts)}
        self.controller: Controller | None = None
        self.checks = 0
        """Times that a promise was looked at."""
        self.vpcs: list[Id] = []
        self._seen: dict[tuple[str, Id], int] = {}
        """(host, port) -> newest revision that its agent wanted."""
        self._carried: dict[tuple[str, Id], set[int]] = {}
        """(host, port) -> revisions that its agent ever brought to the data plane."""

    async def begin(self) -> None:
        """Starts everything: nodes, VPCs with the same addresses, no ports."""
        for host in self.hosts.values():
            host.start()
        await self.start_controller()
        nodes = tuple(
            NodeSpec(
                name=name, underlay_ip=parse_ip(f"172.16.0.{number}"), agent_host=f"192.0.2.{number}", agent_port=50001
            )
            for number, name in enumerate(self.hosts, 1)
        )
        await self.do(CreateNodes(specs=nodes))
        prefix = parse_prefix("10.0.0.0/26")
        for _ in range(VPCS):
            await self.do(CreateNetworks(specs=(NetworkSpec(cidr=prefix),)))
        for network in self.store.networks():
            self.vpcs.append(network.id)
            await self.do(CreateSubnets(specs=(SubnetSpec(network_id=network.id, cidr=prefix),)))

    async def start_controller(self) -> None:
        """A new life of the control plane."""
        self.controller = Controller(self)
        await self.controller.start()

    async def stop_controller(self) -> None:
        """Its end, at once."""
        if self.controller is not None:
            await self.controller.kill()
            self.controller = None

    async def end(self) -> None:
        """Stops everything."""
        for host in self.hosts.values():
            host.close()
        await self.stop_controller()

    # What callers of the API do.

    async def do(self, command: Command) -> object:
        """Submits a command. None: refused, or nobody is there to take it."""
        if self.controller is None:
            return None
        with suppress(DomainError):
            return await self.controller.writer.submit(command)
        return None

    async def work(self) -> None:
        """One change, or a few: ports come, move, change and go."""
        dice, ports = self.dice, self.ports()
        self._miss()
        act = dice.random()
        if len(ports) < 3 or (act < 0.4 and len(ports) < MAX_PORTS):
            vpc = dice.choice(self.vpcs)
            hosts = dice.sample(sorted(self.hosts), dice.choice((1, 1, 2)))
            await self.do(CreatePorts(specs=tuple(PortSpec(network_id=vpc, host=host) for host in hosts)))
        elif act < 0.65:
            await self.do(DeletePorts(ids=tuple(port.id for port in dice.sample(ports, dice.choice((1, 1, 2))))))
        elif act < 0.9:
            await self.do(UpdatePort(id=dice.choice(ports).id, host=dice.choice(sorted(self.hosts))))
        else:
            await self.do(UpdatePort(id=dice.choice(ports).id, admin_state_up=dice.random() < 0.5))

    def _miss(self) -> None:
        """A packet of a VPC on demand for some address, on some host."""
        host = self.hosts[self.dice.choice(sorted(self.hosts))]
        if host.agent is not None and host.tables.on_demand:
            sought = EndpointKey(self.dice.choice(sorted(host.tables.on_demand)), ip_from_int(self._address(), 4))
            if sought not in host.tables.learnt:
                host.agent.driver.misses.miss(Miss(sought, 1, b""))

    def _address(self) -> int:
        return ip_to_int(parse_ip("10.0.0.0")) + self.dice.randrange(2, 2 + MAX_PORTS)

    def ports(self) -> list[Port]:
        """Every port."""
        return self.store.list_ports(Query(limit=10_000))

    # What must hold at every step.

    def _watch(self, host: SimHost) -> None:
        """After every round of an agent."""
        self.checks += 1
        agent = host.agent
        assert agent is not None
        desired = agent.reconciler.desired
        for identifier in desired.ports:
            goal = desired.port(identifier)
            if goal is None:
                continue
            newest = self._seen.get((host.name, identifier), 0)
            if goal.revision < newest and agent.reconciler.in_sync:
                raise Broken(f"{host.name} went back from revision {newest} to {goal.revision} of {identifier.hex()}")
            self._seen[host.name, identifier] = max(newest, goal.revision)
            if identifier in host.tables.ports:
                self._carried.setdefault((host.name, identifier), set()).add(goal.revision)
        mine = {host.tables.ports[identifier].vni for identifier in host.tables.ports}
        wanted = {vpc.vni for key in desired.vpcs() if (vpc := desired.vpc(key)) is not None and desired.ports_of(key)}
        strange = {key.vni for key in host.tables.endpoints} - mine - wanted
        if strange and agent.reconciler.in_sync:
            raise Broken(f"{host.name} knows endpoints of VNIs {sorted(strange)}, of which it has no port")

    def check_report(self, report: PortReport) -> None:
        """When a controller is told that a port is carried, it was, in exactly that revision (promise P1)."""
        self.checks += 1
        if not report.error and report.revision not in self._carried.get((report.host, report.id), ()):
            raise Broken(f"{report.host} says that it carries {report.id.hex()} of {report.revision}, and never did")

    # What must hold in the end.

    def differences(self) -> list[str]:
        """What is not as the store wants it; computed from rows alone, with none of the code under test."""
        ports = self.ports()
        underlay = {node.name: node.underlay_ip for node in self.store.nodes()}
        vnis = {network.id: network.vni for network in self.store.networks()}
        large = {network.vni for network in self.store.networks() if network.on_demand}
        everywhere = {
            EndpointKey(vnis[port.network_id], fixed.ip): (
                Endpoint(port.mac, underlay[port.host], port.identity),
                port.host,
            )
            for port in ports
            if port.host
            for fixed in port.fixed_ips
        }
        wrong = [f"{port.id.hex()} is {port.status} {port.status_reason}" for port in ports if not _settled(port)]
        for name, host in self.hosts.items():
            mine = {port.id for port in ports if port.host == name}
            if set(host.tables.ports) != mine:
                stale = len(set(host.tables.ports) - mine)
                wrong.append(f"{name} carries {stale} ports too many, {len(mine - set(host.tables.ports))} too few")
            vpcs = {port.network_id for port in ports if port.host == name}
            endpoints = {
                key: where
                for key, (where, at) in everywhere.items()
                if at != name and key.vni in {vnis[vpc] for vpc in vpcs} - large
            }
            if host.tables.on_demand != {vnis[vpc] for vpc in vpcs} & large:
                wrong.append(f"{name} asks for endpoints of VNIs {sorted(host.tables.on_demand)}")
            for key, learnt in host.tables.learnt.items():
                if learnt != everywhere.get(key, (None, ""))[0]:
                    wrong.append(f"{name} learnt {learnt} of {key}, which is {everywhere.get(key)}")
            if dict(host.tables.endpoints) != endpoints:
                stale = len(host.tables.endpoints.keys() - endpoints.keys())
                missing = len(endpoints.keys() - host.tables.endpoints.keys())
                wrong.append(f"{name} has {stale} stale endpoints and lacks {missing}, or some are wrong")
            needed = {(vnis[port.network_id], port.identity) for port in ports if port.host == name and port.identity}
            if set(host.tables.policies) != needed:
                wrong.append(f"{name} has policies of {len(host.tables.policies)} identities, its ports {len(needed)}")
        return wrong

    def activity(self) -> tuple[int, ...]:
        """Grows when an agent changes its data plane (other than to follow no longer a port that left long ago), or a
        host is dialled into a new session."""
        agents = [host.agent for host in self.hosts.values() if host.agent is not None]
        plans = sum(
            msgspec.structs.replace(plan, remove_forwards=()) != Plan() for one in agents for plan in one.driver.plans
        )
        return (plans, self.controller.delivery.sessions if self.controller is not None else 0)

    def lagging(self) -> list[str]:
        """Hosts that are not in session, or not on the best path; or of which the controller or their peers think that
        they are not well."""
        assert self.controller is not None
        paths = self.controller.delivery.paths()
        health = {name: self.controller.monitor.health(name) for name in self.hosts}
        unwell = [name for name, one in health.items() if one.state is not Reach.UP or one.peers != self._all_well()]
        return [name for name in self.hosts if paths.get(name) is not self.paths[0]] + unwell

    def _all_well(self) -> Peers:
        """All that probe a host reach it."""
        return Peers(reached=min(PEERS, len(self.hosts) - 1))


def _names(hosts: int) -> list[str]:
    return [f"host-{number}" for number in range(1, hosts + 1)]


def _settled(port: Port) -> bool:
    if not port.host:
        return True
    want = PortStatus.ACTIVE if port.admin_state_up else PortStatus.DOWN
    return port.status is want and port.realised_revision == port.revision
