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
from typing import Any

import msgspec

from alcor.dataplane.base import Plan
from alcor.loops.anchors import Anchors
from alcor.loops.commit import Committer
from alcor.loops.health import HealthMonitor
from alcor.loops.publish import Publisher
from alcor.loops.sharing import SharingLoop
from alcor.loops.status import StatusLoop
from alcor.model.addresses import Ip, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Port, Subnet
from alcor.paths.base import Dialer, PathName
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.neighbours import PEERS
from alcor.paths.normal import NormalDialer
from alcor.services.commands import (
    Command,
    CreateNetworks,
    CreateNodes,
    CreateSubnets,
    NetworkSpec,
    NodeSpec,
    PortReport,
    SubnetSpec,
)
from alcor.services.demand import DemandPolicy
from alcor.services.errors import DomainError
from alcor.services.health import Peers, Reach
from alcor.sim.clock import VirtualLoop
from alcor.sim.host import PARTITION, SimHost
from alcor.sim.network import FastDialer, Network, RescueDialer
from alcor.store.base import Changes, Query
from alcor.store.memory import MemoryStore

COMMIT_S = (0.0005, 0.01)
VPCS = 3
COMMON = parse_prefix("10.0.0.0/26")
"""Every VPC has it."""
OUTER6, COMMON6 = parse_prefix("2001:db8:100::/40"), parse_prefix("2001:db8:100:99::/64")
"""Of the external network; every VPC has the second, inside of it, of which one at a time can be open."""
PROBE_S = 0.25
DEMAND = DemandPolicy(above=5, below=4)
"""So few ports make a VPC too large to be preloaded: VPCs cross it both ways all the time."""
WIDE = 0.5
"""Of the schedules."""
EXTERNAL = 0.75
"""Of the hosts have an external device."""
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
        self._anchors = Anchors(world.store)
        self._world = world

        def committed(revision: int, changes: Changes) -> None:
            self.publisher.committed(revision, changes)
            self._anchors.committed(changes)
            for router in changes.routers:
                if router.gateway is not None and router.gateway.ip is not None:
                    world.gateways.setdefault(router.gateway.ip, set()).add(router.gateway.port_id)

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
        self._sharing = SharingLoop(self.writer, self.publisher, self.monitor)
        self.publisher.moved = self._sharing.moved
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
            asyncio.create_task(
                self.publisher.run(self.delivery, self._report, self.status.add_members, self.status.add_claims),
                name="publisher",
            ),
            asyncio.create_task(self.status.run(), name="status"),
            asyncio.create_task(self._sharing.run(), name="sharing"),
            asyncio.create_task(self._anchors.run(self.writer, self.monitor), name="anchors"),
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
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self.dice = dice
        self.paths = paths
        self.network = Network(dice)
        self.store = MemoryStore()
        self.hosts = {
            name: SimHost(name, underlay, directory / name, self.network, self._watch)
            for name, underlay in _names(hosts)
        }
        self.controller: Controller | None = None
        self.checks = 0
        """Times that a promise was looked at."""
        self.wide = dice.random() < WIDE
        """There are routers, addresses outside and announced ones, too."""
        self.outside = Id(b"")
        """The external network, once begun."""
        self.vpcs: list[Id] = []
        self.subnets: list[Subnet] = []
        """Of every VPC one with the same addresses, and one with its own."""
        self.inside_outer: list[Subnet] = []
        """Likewise, of IPv6: inside the external network's."""
        self.masters: dict[tuple[Id, Ip], Id] = {}
        """(network, address that is not a port's own) -> the port whose workload has it."""
        self.gateways: dict[Ip, set[Id]] = {}
        """Address outside -> the ports of routers that ever had it."""
        self.repeat_at = 0.0
        """When these workloads say so again."""
        self._seen: dict[tuple[str, Id], int] = {}
        """(host, port) -> newest revision that its agent wanted."""
        self._carried: dict[tuple[str, Id], set[int]] = {}
        """(host, port) -> revisions that its agent ever brought to the data plane."""

    @property
    def failure(self) -> Exception | None:
        """What a round of an agent raised first."""
        return self._loop.failure

    async def begin(self) -> None:
        """Starts everything: nodes, VPCs with the same addresses, no ports."""
        for host in self.hosts.values():
            host.tables.external = self.dice.random() < EXTERNAL
            host.start()
        await self.start_controller()
        nodes = tuple(
            NodeSpec(name=host.name, underlay_ip=host.underlay, agent_host=f"192.0.2.{number}", agent_port=50001)
            for number, host in enumerate(self.hosts.values(), 1)
        )
        await self.do(CreateNodes(specs=nodes))
        outside = NetworkSpec(external=True)
        vpcs = (NetworkSpec(cidr=parse_prefix("10.0.0.0/8")),) * VPCS
        external, *networks = await self.do(CreateNetworks(specs=(outside, *vpcs)))
        self.outside = external.id
        pool = SubnetSpec(network_id=external.id, cidr=parse_prefix("203.0.113.0/24"), enable_dhcp=False)
        specs = [pool, SubnetSpec(network_id=external.id, cidr=OUTER6, gateway=parse_ip("fe80::1"))]
        for number, network in enumerate(networks):
            self.vpcs.append(network.id)
            own, own6 = parse_prefix(f"10.1.{number}.0/26"), parse_prefix(f"2001:db8:100:{number + 1}::/64")
            specs += [SubnetSpec(network_id=network.id, cidr=cidr) for cidr in (COMMON, own, COMMON6, own6)]
        _, _, *made = await self.do(CreateSubnets(specs=tuple(specs)))
        self.subnets = [subnet for subnet in made if subnet.ip_version == 4]
        self.inside_outer = [subnet for subnet in made if subnet.ip_version == 6]

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

    async def do(self, command: Command) -> Any:
        """Submits a command and returns what its docstring names. None: refused, or nobody is there to take it."""
        if self.controller is None:
            return None
        with suppress(DomainError):
            return await self.controller.writer.submit(command)
        return None

    def ports(self) -> list[Port]:
        """Those of workloads."""
        return self.store.list_ports(Query(filters={"device_owner": ("",)}, limit=10_000))

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
        needed = desired.needed()
        wanted = {vpc.vni for key in desired.vpcs() if (vpc := desired.vpc(key)) is not None and key in needed}
        strange = {key.vni for key in host.tables.endpoints} - mine - wanted
        if strange and agent.reconciler.settled:
            raise Broken(f"{host.name} knows endpoints of VNIs {sorted(strange)}, which it does not need")
        self._check_blocks(host)

    def _check_blocks(self, host: SimHost) -> None:
        """No two hosts send from one port of an address outside, even while they hold different words. (An address that
        was given back may be another router's before all have heard of it.)"""
        mine = {one for one in host.sends_from() if len(self.gateways[one[0]]) == 1}
        for other in self.hosts.values() if mine else ():
            if other is not host and (both := mine & other.sends_from()):
                block = min(both)
                raise Broken(f"{host.name} and {other.name} have block {block[1]} of {block[0].hex()} at once")

    def check_report(self, report: PortReport) -> None:
        """When a controller is told that a port is carried, it was, in exactly that revision (promise P1)."""
        self.checks += 1
        if not report.error and report.revision not in self._carried.get((report.host, report.id), ()):
            raise Broken(f"{report.host} says that it carries {report.id.hex()} of {report.revision}, and never did")

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


def _names(hosts: int) -> list[tuple[str, Ip]]:
    """Hosts and their tunnel ends."""
    return [(f"host-{number}", parse_ip(f"172.16.0.{number}")) for number in range(1, hosts + 1)]
