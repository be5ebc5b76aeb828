"""`alcor bench ondemand`: endpoints on demand, at the controller and between two containers. Called by roles.

A real `alcor server` with VPCs of a thousand to a million ports, asked over its fast path (gRPC, mutual TLS) by hosts
that ask as agents do: for addresses of ports all over the VPC, each forgetting what it asked before. What counts is the
server's CPU time, of all its threads: the hosts share the machine's cores. Beside it the same rows read from the same
database, and nothing else. Then a small lab: the first packet between containers that never spoke.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.console import Console

from alcor.agent.relay import Relay, RelayLimits
from alcor.agent.server import AgentServer, Stream
from alcor.bench.serving import Server, serve
from alcor.kit.pki import issue
from alcor.lab import demand, scenario
from alcor.lab.goals import goals
from alcor.lab.live import LiveLab
from alcor.lab.proofs import World
from alcor.lab.results import Goal, HostFigures, LabError, LabOptions, Provisioned
from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.lab.stages import Stages
from alcor.lab.workloads import workloads
from alcor.model.addresses import Ip, parse_ip
from alcor.model.ids import Id, ordinal_of, parse_id
from alcor.paths.link import AGENT, load_credentials
from alcor.store.schema import place_of_ip
from alcor.wire.codec import decode_bundle
from alcor.wire.lookups import Lookup, Wanted, decode_answers, encode_lookup
from alcor.wire.reports import Ack, Hello, encode_ack, encode_hello

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ASKERS, FAR = 16, 200
"""Hosts that ask, and hosts that nobody runs: the VPCs' ports are there."""
BATCHES = (64, 8, 1)
"""Addresses in one question: what waits together when a host is busy, when it is less so, and one by one."""
JUDGED = (64, 8)
"""A question of one address costs what a message costs, whatever is in it."""
IN_FLIGHT = 4
"""Questions of one host under way."""
WARM_S, MEASURE_S = 1.0, 4.0
CALM = 0.1
"""Of a core, that the server uses at most before it is measured."""
BULK = 1000
SAMPLES = 20_000
"""Addresses of each VPC that are asked for."""
PATIENCE_S = 60.0
GOAL_LOOKUPS = 20_000
GOAL_FLAT = 2.0
"""The fastest size against the slowest, a thousand times as large: a larger database is read from further away."""
LAB_HOSTS, LAB_PORTS = 10, 400

Progress = Callable[[str], None]


class Sized(msgspec.Struct, frozen=True, kw_only=True):
    """Lookups in one VPC."""

    ports: int
    batch: int
    """Addresses in one question."""
    per_core: float
    """Addresses answered for each second of the server's CPU time."""
    per_second: float
    """By the clock, with the hosts on the same cores."""
    rows_per_core: float
    """The same rows read from the same database by as many at a time, for each second of CPU time."""


class OnDemandBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `run` measured."""

    sizes: tuple[Sized, ...]
    first_packets_ms: tuple[float, ...]
    """By how much the first echo between two containers was slower than the second; both ends ask."""
    proofs: tuple[str, ...]
    """Of the lab, those that failed."""
    goals: tuple[Goal, ...]


class _Vpc(msgspec.Struct, frozen=True, kw_only=True):
    ports: int
    network: Id
    subnet: Id
    ips: list[Ip]
    """Some of its ports' addresses."""
    sources: list[Ip]
    """Of the ports on the hosts that ask."""


def run(
    sizes: Sequence[int] = SIZES, progress: Progress | None = None, *, run_dir: Path = DEFAULT_RUN_DIR
) -> OnDemandBench:
    """Measures. Raises LabError (no root, no BPF, a process that died)."""
    say = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="alcor-bench-ondemand-") as made:
        sized = uvloop.run(_controller(Path(made), sizes, say))
    added, failed = _lab(say, run_dir)
    return OnDemandBench(
        sizes=tuple(sized), first_packets_ms=tuple(added), proofs=tuple(failed), goals=_goals(sized, added)
    )


def _goals(sized: Sequence[Sized], added: Sequence[float]) -> tuple[Goal, ...]:
    found = []
    for batch in BATCHES:
        some = [one for one in sized if one.batch == batch]
        rates = [one.per_core for one in some]
        shown = ", ".join(f"{one.ports:,}: {one.per_core:,.0f}" for one in some)
        rows = ", ".join(f"{one.rows_per_core:,.0f}" for one in some)
        judged = batch in JUDGED
        found.append(
            Goal(
                name=f"lookups a second and controller core, {batch} in a question, by ports in the VPC",
                goal=f"at least {GOAL_LOOKUPS:,}" if judged else "for information",
                measured=f"{shown} (the database alone: {rows})",
                reached=min(rates) >= GOAL_LOOKUPS if judged else None,
            )
        )
        if judged:
            ratio = max(rates) / min(rates)
            found.append(
                Goal(
                    name=f"the same, {some[0].ports:,} against {some[-1].ports:,} ports",
                    goal=f"flat: within {GOAL_FLAT}x",
                    measured=f"{ratio:.2f}x",
                    reached=ratio <= GOAL_FLAT,
                )
            )
    if added:
        nothing = Provisioned(ports=0, active=0, created_ms=0, active_ms=0)
        found += goals(nothing, (), (), HostFigures(), first_packets_ms=added)
    return tuple(found)


# ---- the controller ----


async def _controller(where: Path, sizes: Sequence[int], say: Progress) -> list[Sized]:
    environment = {"ALCOR_SERVER_ON_DEMAND_ABOVE": "100"}
    with serve(where, "ondemand", environment) as server:
        askers = [await _Asker.start(where, number) for number in range(ASKERS)]
        try:
            api = _Api(server.port)
            nodes = [{"name": one.name, "local_ip": one.address, **one.agent} for one in askers]
            # Nothing listens at port 1: these hosts are dead, and dialled now and then.
            far = [_far(number) for number in range(FAR)]
            api.create("nodes", [*nodes, *far])
            vpcs = [await asyncio.to_thread(_fill, api, size, askers, far, say) for size in sizes]
            async with asyncio.timeout(PATIENCE_S):
                for one in askers:
                    await one.greeted.wait()
            await _calm(server)
            found = []
            for vpc in vpcs:
                for batch in BATCHES:
                    say(f"lookups in a VPC of {vpc.ports:,} ports, {batch} at a time")
                    found.append(await _measure(server, where / "ondemand.db", askers, vpc, batch))
            return found
        finally:
            for one in askers:
                await one.stop()


def _far(number: int) -> dict[str, Any]:
    high, low = divmod(number, 250)
    return {"name": f"far-{number}", "local_ip": f"10.255.{high}.{low + 1}", "agent_host": "127.0.0.1", "agent_port": 1}


class _Api:
    """POSTs, as fast as one connection takes them."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)

    def create(self, collection: str, bodies: list[dict[str, Any]]) -> Any:
        content = msgspec.json.encode({collection: bodies})
        self._connection.request("POST", f"/v2.0/{collection}", content, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 201:
            raise LabError(f"the API answered {answer.status}: {data[:300].decode(errors='replace')}")
        return msgspec.json.decode(data)[collection]


def _fill(api: _Api, size: int, askers: Sequence[_Asker], far: Sequence[dict[str, Any]], say: Progress) -> _Vpc:
    """A VPC with a port on each host that asks, and the rest far away."""
    (network,) = api.create("networks", [{"name": f"vpc-{size}", "cidr": "10.0.0.0/8"}])
    subnet_body = {"network_id": network["id"], "cidr": "10.0.0.0/11", "ip_version": 4}
    (subnet,) = api.create("subnets", [subnet_body])
    hosts = [one.name for one in askers]
    ips: list[Ip] = []
    sources: list[Ip] = []
    every = max(1, size // SAMPLES)
    for first in range(0, size, BULK):
        say(f"a VPC of {size:,} ports: {first:,}")
        places = [hosts[n] if n < len(hosts) else far[n % len(far)]["name"] for n in range(first, first + BULK)]
        made = api.create("ports", [{"network_id": network["id"], "binding:host_id": place} for place in places])
        found = [parse_ip(port["fixed_ips"][0]["ip_address"]) for port in made]
        sources = sources or found[: len(hosts)]
        ips += found[::every]
    return _Vpc(ports=size, network=parse_id(network["id"]), subnet=parse_id(subnet["id"]), ips=ips, sources=sources)


class _Asker:
    """A host that only asks. Fills agent.server.Intake."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.agent: dict[str, Any] = {}
        self.greeted = asyncio.Event()
        self.answered = 0
        self._server: AgentServer | None = None
        self._stream: Stream | None = None
        self._ask: Callable[[], bytes] | None = None

    @classmethod
    async def start(cls, where: Path, number: int) -> _Asker:
        """Listens, on a loopback address of its own."""
        one = cls(f"asker-{number}", f"127.77.0.{number + 1}")
        issue(where / "ca", where / one.name, one.name, role="agent", addresses=[one.address])
        credentials = load_credentials(where / one.name, AGENT)
        one._server = AgentServer(f"{one.address}:0", credentials, one, Relay(RelayLimits()))
        port = await one._server.start()
        one.agent = {"agent_host": one.address, "agent_port": port}
        return one

    async def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            await self._server.stop()

    def begin(self, ask: Callable[[], bytes]) -> None:
        """Asks from now on: a question for each answer."""
        self._ask = ask
        assert self._stream is not None
        for _ in range(IN_FLIGHT):
            self._stream.send(ask(), answers=False)

    def end(self) -> None:
        """Asks no more."""
        self._ask = None

    def greet(self, stream: Stream) -> None:
        self._stream = stream
        stream.send(encode_hello(Hello(self.name, stream.epoch, ())), answers=False)
        self.greeted.set()

    def bundle(self, stream: Stream, data: bytes) -> None:
        head, _ = decode_bundle(data)
        stream.send(encode_ack(Ack(sequence=head.sequence)), answers=True)

    def answers(self, stream: Stream, data: bytes) -> None:
        told = decode_answers(data)
        for answer in told.answers:
            if answer.unasked:
                continue
            self.answered += len(answer.found)
            if answer.found and self._ask is not None:
                stream.send(self._ask(), answers=False)

    def gone(self, stream: Stream) -> None:
        if self._stream is stream:
            self.greeted.clear()


async def _calm(server: Server) -> None:
    """Until the server has done what making the VPCs brought it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        cpu = server.cpu_seconds()
        await asyncio.sleep(WARM_S)
        if server.cpu_seconds() - cpu < CALM * WARM_S:
            return


def _questions(vpc: _Vpc, batch: int, number: int) -> Callable[[], bytes]:
    """What the host of that number asks."""
    rng = random.Random(number)
    sources = (vpc.sources[number],) * batch
    held: list[tuple[Ip, ...]] = []

    def ask() -> bytes:
        ips = tuple(rng.sample(vpc.ips, batch))
        held.append(ips)
        forgotten = held.pop(0) if len(held) > 2 * IN_FLIGHT else ()
        return encode_lookup(Lookup((Wanted(vpc.network, ips, forgotten, sources),)))

    return ask


async def _measure(server: Server, database: Path, askers: Sequence[_Asker], vpc: _Vpc, batch: int) -> Sized:
    for number, one in enumerate(askers):
        one.begin(_questions(vpc, batch, number))
    await asyncio.sleep(WARM_S)
    cpu, begun, before = server.cpu_seconds(), time.monotonic(), sum(one.answered for one in askers)
    await asyncio.sleep(MEASURE_S)
    cpu, seconds = server.cpu_seconds() - cpu, time.monotonic() - begun
    count = sum(one.answered for one in askers) - before
    for one in askers:
        one.end()
    await asyncio.sleep(WARM_S)
    if not count:
        raise LabError(f"nothing was answered in a VPC of {vpc.ports:,} ports")
    rows = await asyncio.to_thread(_rows_per_core, database, vpc, batch)
    return Sized(ports=vpc.ports, batch=batch, per_core=count / cpu, per_second=count / seconds, rows_per_core=rows)


def _rows_per_core(database: Path, vpc: _Vpc, batch: int) -> float:
    """What SQLite alone gives for the same question."""
    rng = random.Random(batch)
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    sql = (
        "SELECT a.place, p.mac, p.host, p.identity FROM addresses a JOIN ports p ON p.n = a.port "
        "WHERE a.subnet = ? AND a.place IN (SELECT value FROM json_each(?))"
    )
    subnet, rows = ordinal_of(vpc.subnet), 0
    begun = time.thread_time()
    while time.thread_time() - begun < 0.5:
        places = msgspec.json.encode([place_of_ip(ip) for ip in rng.sample(vpc.ips, batch)]).decode()
        rows += len(connection.execute(sql, (subnet, places)).fetchall())
    spent = time.thread_time() - begun
    connection.close()
    return rows / spent


# ---- the first packet ----


def _lab(say: Progress, run_dir: Path) -> tuple[list[float], list[str]]:
    """First packets in a lab, and the proofs that failed there. Without root there is none."""
    if os.geteuid() != 0:
        return [], []
    options = LabOptions(hosts=LAB_HOSTS, ports=LAB_PORTS, driver="ebpf", run_dir=run_dir)
    say(f"a lab of {LAB_HOSTS} hosts")
    with LiveLab(options, "ebpf", Stages(Console(quiet=True), threading.Event())) as lab:
        scenario.register_nodes(lab.client, lab.hosts)
        vpc = scenario.make_vpc(lab.client, "ondemand", lab.topology)
        bodies = scenario.port_bodies(vpc, lab.hosts, options.ports)
        made, done = scenario.provision(lab.client, bodies, progress=lambda _: None, check=lab.check)
        if done.active != done.ports:
            raise LabError(f"only {done.active} of {done.ports} ports became ACTIVE: {'; '.join(done.errors)}")
        world = World(vpc=tuple(workloads(made, lab.hosts, vpc.gateways)), twin=(), mtu=lab.topology.mtu - 50)
        lab.await_idle()
        say("first packets")
        found = demand.prove(lab, world, vpc, lambda _: None)
    return found.added_ms, [f"{one.name}: {one.measured}" for one in found.proofs if not one.passed]
