"""`alcor bench bus`: the normal path with a crowd. Called by the command line.

A real `alcor server`, a real nats-server, and simulated hosts (bench.crowd) in this process; all on loopback and on the
same cores, so what the hosts cost is in the figures. Measured: one change of a VPC until the last of a thousand hosts
has it, beside the same bytes published bare; ten thousand hosts that come back at once; how much later healthy hosts
get what is theirs when others are dead; and what one host costs that was away for a moment.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop

from alcor.bench import away as away_bench
from alcor.bench.api_load import Connection, post, request
from alcor.bench.crowd import Crowd, Host, own_ports
from alcor.bench.serving import Server, serve
from alcor.bus.base import news_subject
from alcor.bus.embedded import EmbeddedBus, EmbeddedOptions
from alcor.bus.nats import NatsBus, NatsOptions
from alcor.kit.memory import Survivors
from alcor.lab.results import Goal, LabError, percentile
from alcor.model.ids import Id, parse_id

FANOUT_HOSTS = 1_000
STORM_HOSTS = 10_000
AWAY_OBJECTS = 10_000
STORM_PORTS = 2
"""Per host."""
STORM_VPC_HOSTS = 100
"""Hosts that share a VPC."""
DEAD_VPC_HOSTS = 10
"""Hosts that share a VPC where one of them is dead."""
DEATH_S = 5.0
"""From a death or a return to the first measurement: a host is given up when it has been silent for 3 s."""
GOAL_FANOUT_S = 1.0
GOAL_STORM_S = 60.0
GOAL_DEAD = 1.10
CHANGES = 30
SINGLES = 1500
ROUNDS = 4
PATIENCE_S = 180.0
CHUNK = 1000

Progress = Callable[[str], None]


class Fanout(msgspec.Struct, frozen=True, kw_only=True):
    """One port created in a VPC of `hosts` hosts, over and over: from POST to the last host's having merged it."""

    hosts: int
    changes: int
    published: int
    """Messages on the VPC's subject."""
    p50_ms: float
    max_ms: float
    bare_p50_ms: float
    """As many bytes published bare, to the same connections' as many subscriptions; until the last has them."""


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """All hosts come back at once."""

    what: str
    hosts: int
    seconds: float
    """Until each is in session, told all, and has answered."""
    missing: int
    """Hosts that were not there by PATIENCE_S."""
    server_cpu_s: float
    server_peak_mb: float


class Dead(msgspec.Struct, frozen=True, kw_only=True):
    """Single ports on healthy hosts, POST until the host has it, with and without dead hosts in their VPC."""

    hosts: int
    dead: int
    p50_ms: float
    p99_ms: float
    p50_with_dead_ms: float
    p99_with_dead_ms: float
    p99_as_they_die_ms: float
    """Of all that were asked for within DEATH_S after the deaths, which are noticed meanwhile."""
    p99_ratio: float
    """Of the rounds' p99s, the median with dead over the median without."""


class BusBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `run` measured."""

    fanout: Fanout
    storms: tuple[Storm, ...]
    dead: Dead
    away: away_bench.Away
    goals: tuple[Goal, ...]


def run(
    fanout: int = FANOUT_HOSTS,
    storm: int = STORM_HOSTS,
    progress: Progress | None = None,
    *,
    away: int = AWAY_OBJECTS,
) -> BusBench:
    """Measures. Raises LabError."""
    say = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="alcor-bench-bus-") as made, Survivors():  # as in an agent
        return uvloop.run(_run(Path(made), fanout, storm, away, say))


async def _run(where: Path, fanout: int, storm: int, away: int, say: Progress) -> BusBench:
    bus = EmbeddedBus(EmbeddedOptions(directory=where / "nats", port=_free_port()))
    await bus.start()
    try:
        # No host listens for the fast path here, so no host is worth a dial on it.
        environment = {"ALCOR_SERVER_BUS": bus.url, "ALCOR_SERVER_FAST_CHANNELS": "0"}
        with serve(where, "away", environment | {"ALCOR_SERVER_ON_DEMAND_ABOVE": "1000000"}) as server:
            caught = await _away(server, bus, away, say)
        with serve(where, "fanout", environment) as server:
            names = [f"host-{number}" for number in range(fanout)]
            crowd = Crowd(bus.url, names)
            await crowd.start()
            try:
                network = await _vpc(server, "fanout")
                await _hosts(server, names)
                await _ports(server, [(network, name) for name in names])
                await _settled(crowd, 1, say)
                fanned = await _fanout(server, bus, crowd, network, say)
                dead = await _dead(server, crowd, say)
            finally:
                await crowd.stop()
        with serve(where, "storm", environment) as server:
            storms = await _storms(server, bus, storm, say)
    finally:
        await bus.stop()
    goals = (*_goals(fanned, storms, dead), away_bench.goal(caught))
    return BusBench(fanout=fanned, storms=tuple(storms), dead=dead, away=caught, goals=goals)


# ---- one host that was away ----


async def _away(server: Server, bus: EmbeddedBus, objects: int, say: Progress) -> away_bench.Away:
    say(f"a host of {objects:,} objects that was away")
    names = ("host-away", "host-there")
    crowd = Crowd(bus.url, list(names))
    await crowd.start()
    try:
        network = await _vpc(server, "away")
        await _hosts(server, names)
        await _ports(server, [(network, name) for name in names])
        await _settled(crowd, 1, say)
        return await away_bench.measure(crowd, names, network, objects, lambda places: _ports(server, places))
    finally:
        await crowd.stop()


# ---- one change, a thousand hosts ----


async def _fanout(server: Server, bus: EmbeddedBus, crowd: Crowd, network: str, say: Progress) -> Fanout:
    vpc = parse_id(network)
    if await crowd.until(lambda host: vpc in host.feeding(), PATIENCE_S):
        raise LabError("not every host takes the VPC's news from the bus")
    heard: list[bytes] = []
    tap = NatsBus(NatsOptions(servers=[bus.url], name="tap"))
    tap.start()
    try:
        await tap.started(10.0)
        await tap.subscribe(news_subject(1, vpc), lambda _, data: heard.append(data))
        names = list(crowd.hosts)
        known = len(names)
        seconds = []
        for change in range(CHANGES):
            say(f"change {change + 1} of {CHANGES}, {len(names):,} hosts")
            began = time.monotonic()
            await _ports(server, [(network, names[0])])
            known += 1
            await _until_known(crowd, vpc, known)
            seconds.append(max(host.changed_at for host in crowd.hosts.values()) - began)
            await asyncio.sleep(0.2)
        published = len(heard)
        bare = await _bare(crowd, tap, max(heard, key=len, default=b""))
    finally:
        await tap.close()
    return Fanout(
        hosts=len(names),
        changes=CHANGES,
        published=published,
        p50_ms=statistics.median(seconds) * 1e3,
        max_ms=max(seconds) * 1e3,
        bare_p50_ms=statistics.median(bare) * 1e3,
    )


async def _until_known(crowd: Crowd, vpc: Id, known: int) -> None:
    if missing := await crowd.until(lambda host: host.endpoints(vpc) >= known, PATIENCE_S):
        raise LabError(f"{missing} hosts never learnt of a change")


async def _bare(crowd: Crowd, tap: NatsBus, data: bytes) -> list[float]:
    """As many publishes of these bytes, on a subject to which as many interests are held as there are hosts."""
    last = [0.0, 0]

    def take(_subject: str, _data: bytes) -> None:
        last[0], last[1] = time.monotonic(), last[1] + 1

    subscriptions = []
    share = len(crowd.hosts) // len(crowd.buses)
    for bus in crowd.buses:
        subscriptions += [await bus.subscribe("alcor.bench.bare", take) for _ in range(share)]
    seconds = []
    for _ in range(CHANGES):
        last[1] = 0
        began = time.monotonic()
        tap.publish("alcor.bench.bare", data)
        while last[1] < len(subscriptions):
            await asyncio.sleep(0.001)
        seconds.append(last[0] - began)
    for subscription in subscriptions:
        await subscription.cancel()
    return seconds


# ---- dead hosts ----


async def _dead(server: Server, crowd: Crowd, say: Progress) -> Dead:
    """Rounds with all hosts alive and rounds with a tenth of them dead, in turn. Ten hosts share a VPC, so that what
    is measured is not what a thousand simulated hosts make of each other's news."""
    names = list(crowd.hosts)
    groups = [names[first : first + DEAD_VPC_HOSTS] for first in range(0, len(names), DEAD_VPC_HOSTS)]
    doomed = [group[0] for group in groups]
    places = []
    waiting = []
    """A port on each of the doomed: the controller keeps trying."""
    for group in groups:
        network = await _vpc(server, f"of {group[0]}")
        await _ports(server, [(network, name) for name in group])
        places += [(network, name) for name in group[1:]]
        waiting.append((network, group[0]))
    await crowd.until(lambda host: own_ports(host) > 1, PATIENCE_S)
    alive: list[list[float]] = []
    beside: list[list[float]] = []
    dying: list[float] = []
    for number in range(ROUNDS):
        say(f"single ports, all hosts alive, round {number + 1} of {ROUNDS}")
        alive.append(await _singles(server, crowd, places))
        for name in doomed:
            crowd.hosts[name].die()
        say(f"single ports, {len(doomed):,} of {len(names):,} hosts dead, round {number + 1} of {ROUNDS}")
        await _ports(server, waiting)
        dying += await _singles(server, crowd, places, for_s=DEATH_S)
        beside.append(await _singles(server, crowd, places))
        for name in doomed:
            crowd.hosts[name].revive()
        if missing := await crowd.until(lambda host: host.synced_at > 0, PATIENCE_S):
            raise LabError(f"{missing} hosts did not come back")
        await asyncio.sleep(DEATH_S)
    before = statistics.median(percentile(one, 0.99) for one in alive)
    after = statistics.median(percentile(one, 0.99) for one in beside)
    return Dead(
        hosts=len(names),
        dead=len(doomed),
        p50_ms=statistics.median(chain.from_iterable(alive)),
        p99_ms=before,
        p50_with_dead_ms=statistics.median(chain.from_iterable(beside)),
        p99_with_dead_ms=after,
        p99_as_they_die_ms=percentile(dying, 0.99),
        p99_ratio=after / before,
    )


async def _singles(
    server: Server, crowd: Crowd, places: Sequence[tuple[str, str]], for_s: float | None = None
) -> list[float]:
    """Milliseconds, from the POST to the host's having merged its port: of SINGLES, or of as many as come to be in so
    many seconds."""
    dice = random.Random(2)
    connection = await Connection.open(server.port)
    taken: list[float] = []
    until = time.monotonic() + for_s if for_s is not None else math.inf
    try:
        while time.monotonic() < until and (for_s is not None or len(taken) < SINGLES):
            network, name = dice.choice(places)
            host = crowd.hosts[name]
            before = own_ports(host)
            raw = request("POST", "/v2.0/ports", {"port": _port(network, host.name)})
            began = time.monotonic()
            await connection.exchange(raw, 201)
            while own_ports(host) == before:
                await asyncio.sleep(0.0005)
            taken.append((time.monotonic() - began) * 1e3)
    finally:
        connection.close()
    return taken


# ---- everybody at once ----


async def _storms(server: Server, bus: EmbeddedBus, hosts: int, say: Progress) -> list[Storm]:
    names = [f"host-{number}" for number in range(hosts)]
    await _hosts(server, names)
    for first in range(0, hosts, STORM_VPC_HOSTS):
        say(f"ports of {first:,} of {hosts:,} hosts")
        network = await _vpc(server, f"vpc-{first}")
        share = names[first : first + STORM_VPC_HOSTS]
        await _ports(server, [(network, name) for name in share for _ in range(STORM_PORTS)])
    crowd = Crowd(bus.url, names)
    storms = []
    began = time.monotonic()
    cpu = server.cpu_seconds()
    try:
        await crowd.start()
        storms.append(await _storm(server, crowd, "first contact: they hold nothing", began, cpu, say))
        await asyncio.sleep(2.0)
        began, cpu = time.monotonic(), server.cpu_seconds()
        os.kill(bus.pid, signal.SIGKILL)
        await _gone(crowd, began)
        storms.append(await _storm(server, crowd, "nats-server killed: all sessions end", began, cpu, say))
        await asyncio.sleep(2.0)
        server.end(signal.SIGKILL)
        for host in crowd.hosts.values():
            host.synced_at = 0.0
        server.start()
        began = time.monotonic()
        storms.append(await _storm(server, crowd, "server killed and started again", began, 0.0, say))
        await asyncio.sleep(2.0)
        began, cpu = time.monotonic(), server.cpu_seconds()
        for host in crowd.hosts.values():
            host.forget()
        os.kill(bus.pid, signal.SIGKILL)
        await _gone(crowd, began)
        storms.append(await _storm(server, crowd, "nats-server killed, and no host holds anything", began, cpu, say))
    finally:
        await crowd.stop()
    return storms


async def _storm(server: Server, crowd: Crowd, what: str, began: float, cpu: float, say: Progress) -> Storm:
    say(f"{len(crowd.hosts):,} hosts at once; {what}")

    def back(host: Host) -> bool:
        return host.synced_at > began and own_ports(host) == STORM_PORTS

    missing = await crowd.until(back, PATIENCE_S)
    last = max(host.synced_at for host in crowd.hosts.values())
    return Storm(
        what=what,
        hosts=len(crowd.hosts),
        seconds=last - began if not missing else PATIENCE_S,
        missing=missing,
        server_cpu_s=server.cpu_seconds() - cpu,
        server_peak_mb=server.peak_memory() / 1e6,
    )


async def _gone(crowd: Crowd, began: float) -> None:
    """Until every connection knows; what was said before counts no more."""
    while any(bus.connected for bus in crowd.buses) and time.monotonic() < began + 5.0:
        await asyncio.sleep(0.01)
    for host in crowd.hosts.values():
        host.synced_at = 0.0


# ---- asking ----


async def _vpc(server: Server, name: str) -> str:
    network = cast(Any, await post(server.port, "/v2.0/networks", {"network": {"name": name, "cidr": "10.0.0.0/8"}}))
    identifier: str = network["network"]["id"]
    subnet = {"network_id": identifier, "cidr": "10.0.0.0/8", "ip_version": 4}
    await post(server.port, "/v2.0/subnets", {"subnet": subnet})
    return identifier


async def _hosts(server: Server, names: Sequence[str]) -> None:
    """Their agents are on the bus only: nobody listens where the fast path would dial."""
    nodes = [
        {
            "name": name,
            "local_ip": f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
            "agent_host": "127.0.0.1",
            "agent_port": 1,
        }
        for number, name in enumerate(names, 1)
    ]
    for first in range(0, len(nodes), CHUNK):
        await post(server.port, "/v2.0/nodes", {"nodes": nodes[first : first + CHUNK]})


async def _ports(server: Server, places: Sequence[tuple[str, str]]) -> None:
    for first in range(0, len(places), CHUNK):
        bodies = [_port(network, host) for network, host in places[first : first + CHUNK]]
        await post(server.port, "/v2.0/ports", {"ports": bodies})


def _port(network: str, host: str) -> dict[str, str]:
    return {"network_id": network, "binding:host_id": host, "device_owner": "container:bench"}


async def _settled(crowd: Crowd, ports: int, say: Progress) -> None:
    say(f"{len(crowd.hosts):,} hosts take their ports")
    if missing := await crowd.until(lambda host: host.synced_at > 0 and own_ports(host) == ports, PATIENCE_S):
        raise LabError(f"{missing} of {len(crowd.hosts)} hosts did not take their ports within {PATIENCE_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _goals(fanout: Fanout, storms: Sequence[Storm], dead: Dead) -> tuple[Goal, ...]:
    return (
        Goal(
            name=f"one VPC change to {fanout.hosts:,} hosts: publishes per change",
            goal="1",
            measured=f"{fanout.published / fanout.changes:g}",
            reached=fanout.published == fanout.changes,
        ),
        Goal(
            name=f"one VPC change: POST until the last of {fanout.hosts:,} hosts has it",
            goal=f"at most {GOAL_FANOUT_S:g} s",
            measured=f"median {fanout.p50_ms:.0f} ms, slowest {fanout.max_ms:.0f} ms"
            f" (published bare: {fanout.bare_p50_ms:.0f} ms)",
            reached=fanout.max_ms <= GOAL_FANOUT_S * 1e3,
        ),
        *(
            Goal(
                name=f"{storm.hosts:,} hosts at once; {storm.what}",
                goal=f"at most {GOAL_STORM_S:g} s",
                measured=f"{storm.seconds:.1f} s, server {storm.server_cpu_s:.1f} CPU-s, {storm.server_peak_mb:.0f} MB"
                + (f", {storm.missing} missing" if storm.missing else ""),
                reached=not storm.missing and storm.seconds <= GOAL_STORM_S,
            )
            for storm in storms
        ),
        Goal(
            name=f"single ports on healthy hosts, {dead.dead} of {dead.hosts:,} dead: p99 against none dead",
            goal=f"at most {GOAL_DEAD:.2f}x",
            measured=f"{dead.p99_ratio:.2f}x ({dead.p99_ms:.1f} -> {dead.p99_with_dead_ms:.1f} ms,"
            f" medians {dead.p50_ms:.1f} -> {dead.p50_with_dead_ms:.1f} ms; p99 as they die"
            f" {dead.p99_as_they_die_ms:.1f} ms)",
            reached=dead.p99_ratio <= GOAL_DEAD,
        ),
    )
