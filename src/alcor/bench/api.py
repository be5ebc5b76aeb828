"""`alcor bench api`: how fast ports are created over REST, durably. Called by the command line.

`alcor server` with a fresh database on a real disk, a load generator in this process, and nothing else: no agents, so
ports are unbound (the lab and bench.fastpath measure the whole stair), unless `hosts` asks for ports bound to hosts
that nobody runs. Measured: bulk POSTs, sustained, and whether the last are as fast as the first; single POSTs from one
client, and from many at once, which the commit loop coalesces; and, in the same run, bench.api_reference.

A round takes seconds, and a busy neighbour may spoil one: there are several, each with databases of its own, and of
each figure the median round is the answer.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop

from alcor.bench.api_load import Sample, load, post, request
from alcor.bench.api_reference import reference_rate
from alcor.bench.serving import Server, serve
from alcor.lab.results import Goal

GOAL_BULK_PORTS_PER_S = 20_000
GOAL_FLAT = 0.8
GOAL_GAIN = 5.0
GOAL_SINGLES_PER_S = 1_000
WINDOWS = 10
ROUNDS = 3
BULK_CLIENTS = 2
SERIAL_REQUESTS = 1_000
CONCURRENT_REQUESTS = 10_000
WARM_UP = 200
REFERENCE_PORTS = 50_000
NOBODY = {"agent_host": "127.0.0.1", "agent_port": 1}
"""Where the agents of bound hosts would be: the server dials them, so nowhere but loopback, and a port that is closed.
Their tunnel ends are of TEST-NET-1 (RFC 5737)."""
MAX_HOSTS = 254

Progress = Callable[[str], None]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the first byte sent to the last byte received."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Bulk(msgspec.Struct, frozen=True, kw_only=True):
    """Bulk POSTs, sustained. `windows`: ports a second in each tenth of them, by when their answers came.

    `last_over_first`: the median POST of the first tenth over that of the last, so that one stall of the disk is no
    trend.
    """

    ports: int
    ports_per_post: int
    clients: int
    ports_per_s: float
    windows: tuple[float, ...]
    last_over_first: float
    post: Latency
    server_cpu_ms_per_1000: float


class Singles(msgspec.Struct, frozen=True, kw_only=True):
    """Single-port POSTs."""

    ports: int
    clients: int
    ports_per_s: float
    post: Latency
    server_cpu_us_per_port: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One time through everything."""

    bulk: Bulk
    serial: Singles
    concurrent: Singles
    gain: float
    """Rate of many clients over the rate of one."""
    reference_ports_per_s: float
    """The bare prototype (bench.api_reference)."""
    reference_ratio: float
    """Bulk rate over the prototype's."""


class ApiBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `run` measured. `bound_hosts`: hosts that the ports name, without agents; 0: ports are unbound.

    `bulk` is of the round with the median bulk rate, `serial` and `concurrent` are of the one with the median gain.
    """

    bound_hosts: int
    filesystem: str
    cpus: int
    bulk: Bulk
    last_over_first: float
    """The median of the rounds."""
    serial: Singles
    concurrent: Singles
    gain: float
    reference_ports_per_s: float
    reference_ratio: float
    """The median of the rounds."""
    goals: tuple[Goal, ...]
    rounds: tuple[Round, ...]


def run(
    ports: int = 100_000,
    bulk: int = 1000,
    clients: int = 64,
    progress: Progress | None = None,
    *,
    hosts: int = 0,
    rounds: int = ROUNDS,
    directory: Path | None = None,
) -> ApiBench:
    """Measures. `directory`: where the databases are made and removed again, by default the system's temporary one."""
    if not 0 <= hosts <= MAX_HOSTS:
        raise ValueError(f"hosts = {hosts} must be 0 to {MAX_HOSTS}")
    tell = progress or (lambda _text: None)
    with tempfile.TemporaryDirectory(prefix="alcor-bench-api-", dir=directory) as made:
        where = Path(made)
        filesystem = _filesystem(where)
        taken = []
        for at in range(rounds):
            tell(f"round {at + 1} of {rounds}: {ports} ports in bulks, then one by one")
            place = where / str(at)
            place.mkdir()
            taken.append(_round(place, ports, bulk, clients, hosts))
            shutil.rmtree(place)
    by_rate = sorted(taken, key=lambda one: one.bulk.ports_per_s)[rounds // 2]
    by_gain = sorted(taken, key=lambda one: one.gain)[rounds // 2]
    flat = statistics.median(one.bulk.last_over_first for one in taken)
    return ApiBench(
        bound_hosts=hosts,
        filesystem=filesystem,
        cpus=len(os.sched_getaffinity(0)),
        bulk=by_rate.bulk,
        last_over_first=flat,
        serial=by_gain.serial,
        concurrent=by_gain.concurrent,
        gain=by_gain.gain,
        reference_ports_per_s=statistics.median(one.reference_ports_per_s for one in taken),
        reference_ratio=statistics.median(one.reference_ratio for one in taken),
        goals=_goals(by_rate.bulk, flat, by_gain.concurrent, by_gain.gain),
        rounds=tuple(taken),
    )


def _round(where: Path, ports: int, bulk: int, clients: int, hosts: int) -> Round:
    with serve(where, "bulk") as server:
        network_id = uvloop.run(_prepare(server.port, hosts))
        bulk_result = _bulk(server, network_id, ports, bulk, hosts)
    with serve(where, "singles") as server:
        network_id = uvloop.run(_prepare(server.port, hosts))
        singles = _single_requests(network_id, hosts)
        _singles(server, singles[:WARM_UP], 1)
        serial = _singles(server, singles[:SERIAL_REQUESTS], 1)
        concurrent = _singles(server, singles, clients)
    body = msgspec.json.encode(_bulk_body(network_id, bulk, hosts))
    reference = reference_rate(where / "reference.db", body, min(ports, REFERENCE_PORTS))
    return Round(
        bulk=bulk_result,
        serial=serial,
        concurrent=concurrent,
        gain=concurrent.ports_per_s / serial.ports_per_s,
        reference_ports_per_s=reference,
        reference_ratio=bulk_result.ports_per_s / reference,
    )


def _goals(bulk: Bulk, flat: float, concurrent: Singles, gain: float) -> tuple[Goal, ...]:
    clients = f"{concurrent.clients} clients posting single ports"
    return (
        Goal(
            name=f"bulk POSTs of {bulk.ports_per_post:,}, {bulk.ports:,} ports, durable",
            goal=f"at least {GOAL_BULK_PORTS_PER_S:,} ports/s",
            measured=f"{bulk.ports_per_s:,.0f} ports/s",
            reached=bulk.ports_per_s >= GOAL_BULK_PORTS_PER_S,
        ),
        Goal(
            name="flat: the rate of the last tenth against the first",
            goal=f"at least {GOAL_FLAT:.0%}",
            measured=f"{flat:.0%}",
            reached=flat >= GOAL_FLAT,
        ),
        Goal(
            name=f"{clients}, against one",
            goal=f"at least {GOAL_GAIN:.0f}x",
            measured=f"{gain:.1f}x",
            reached=gain >= GOAL_GAIN,
        ),
        Goal(
            name=clients,
            goal=f"at least {GOAL_SINGLES_PER_S:,} ports/s",
            measured=f"{concurrent.ports_per_s:,.0f} ports/s",
            reached=concurrent.ports_per_s >= GOAL_SINGLES_PER_S,
        ),
    )


async def _prepare(port: int, hosts: int) -> str:
    """A VPC with room for four million ports, and the hosts."""
    network = cast(Any, await post(port, "/v2.0/networks", {"network": {"name": "bench", "cidr": "10.0.0.0/8"}}))
    network_id: str = network["network"]["id"]
    await post(port, "/v2.0/subnets", {"subnet": {"network_id": network_id, "cidr": "10.0.0.0/10", "ip_version": 4}})
    if hosts:
        nodes = [{"name": _host(at), "local_ip": f"192.0.2.{at + 1}", **NOBODY} for at in range(hosts)]
        await post(port, "/v2.0/nodes", {"nodes": nodes})
    return network_id


def _host(at: int) -> str:
    return f"bench-host-{at}"


def _port_body(network_id: str, at: int, hosts: int) -> dict[str, str]:
    body = {"network_id": network_id, "name": f"bench-{at}", "device_owner": "container:bench"}
    return body | {"binding:host_id": _host(at % hosts)} if hosts else body


def _bulk_body(network_id: str, bulk: int, hosts: int, *, first: int = 0) -> dict[str, list[dict[str, str]]]:
    return {"ports": [_port_body(network_id, at, hosts) for at in range(first, first + bulk)]}


def _bulk(server: Server, network_id: str, ports: int, bulk: int, hosts: int) -> Bulk:
    posts = ports // bulk
    requests = [
        request("POST", "/v2.0/ports", _bulk_body(network_id, bulk, hosts, first=at * bulk)) for at in range(posts)
    ]
    cpu = server.cpu_seconds()
    samples, last = uvloop.run(load(server.port, requests, BULK_CLIENTS))
    cpu = server.cpu_seconds() - cpu
    made = msgspec.json.decode(last)["ports"]
    if len({port["fixed_ips"][0]["ip_address"] for port in made}) != bulk:
        raise RuntimeError("the server gave an address twice, or too few ports")
    windows = _windows(samples, bulk)
    return Bulk(
        ports=posts * bulk,
        ports_per_post=bulk,
        clients=BULK_CLIENTS,
        ports_per_s=posts * bulk / samples[-1].finished,
        windows=windows,
        last_over_first=_median_seconds(samples, 0) / _median_seconds(samples, -1),
        post=_latency(samples),
        server_cpu_ms_per_1000=cpu * 1e6 / (posts * bulk),
    )


def _windows(samples: Sequence[Sample], bulk: int) -> tuple[float, ...]:
    """Ports a second in each tenth of the POSTs."""
    size = max(1, len(samples) // WINDOWS)
    rates = []
    began = 0.0
    for start in range(0, len(samples) - size + 1, size):
        ended = samples[start + size - 1].finished
        rates.append(size * bulk / (ended - began))
        began = ended
    return tuple(rates)


def _median_seconds(samples: Sequence[Sample], window: int) -> float:
    """How long the median POST took in the first (0) or last (-1) tenth."""
    size = max(1, len(samples) // WINDOWS)
    part = samples[:size] if window == 0 else samples[-size:]
    return statistics.median(sample.seconds for sample in part)


def _single_requests(network_id: str, hosts: int) -> list[bytes]:
    return [
        request("POST", "/v2.0/ports", {"port": _port_body(network_id, at, hosts)}) for at in range(CONCURRENT_REQUESTS)
    ]


def _singles(server: Server, requests: list[bytes], clients: int) -> Singles:
    cpu = server.cpu_seconds()
    samples, _ = uvloop.run(load(server.port, requests, clients))
    cpu = server.cpu_seconds() - cpu
    return Singles(
        ports=len(samples),
        clients=clients,
        ports_per_s=len(samples) / samples[-1].finished,
        post=_latency(samples),
        server_cpu_us_per_port=cpu * 1e6 / len(samples),
    )


def _latency(samples: Sequence[Sample]) -> Latency:
    seconds = sorted(sample.seconds for sample in samples)
    return Latency(
        p50_ms=statistics.median(seconds) * 1e3,
        p99_ms=seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))] * 1e3,
        max_ms=seconds[-1] * 1e3,
    )


def _filesystem(path: Path) -> str:
    """The type of the file system that holds `path`: durable means nothing on a tmpfs."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if str(path).startswith(mounted) and len(mounted) > len(best[0]):
            best = (mounted, kind)
    return best[1]
