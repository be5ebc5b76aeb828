"""`alcor bench qos`: does TCP get the rate that its port is limited to, and what does a queue cost a packet?

Called by the command line. One pair of containers across two hosts. Rates: a stream of 10 s through a limit of what the
port sends, and of what the other is given; the rate is of Ethernet frames, so what TCP can carry of it is its payload's
share of a full frame. Cost: CPU per packet (UDP, 64 bytes) without a policy, with a mark, and through queues that are
never full; all take turns within every round.
"""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from alcor.bench.compiling import compiled
from alcor.bench.dataplane import CPU_QUANTILE, PAYLOAD, SOURCE, connected, traffic
from alcor.bench.dataplane_beds import MTU, Bed, Host, alcor_bed, check, port_of
from alcor.dataplane.base import DataPlaneError, LocalPort, Plan, RateLimit
from alcor.lab.results import Goal, percentile
from alcor.lab.rundir import DEFAULT_RUN_DIR, RunDirectory

RATES_KBPS = (1_000, 10_000, 100_000, 1_000_000)
STREAM_MS = 10_000
CHUNKS, PER_CHUNK = 200, 256
NEVER_FULL = RateLimit(20_000_000, 1_000_000)
FRAME, SEGMENT = MTU + 14, MTU - 20 - 32
"""Bytes of a full frame, and of TCP's payload in it (20 of IP, 20 of TCP, 12 of timestamps)."""
GOAL_ERROR = 0.02

Progress = Callable[[str], None]


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A stream through a limit. `error`: how far it was from what TCP can carry at that rate."""

    direction: str
    kbps: int
    seconds: float
    goodput_kbps: float
    error: float
    dropped: int
    """Packets that found no room in the queue."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU per packet: the median over the rounds, every round, and against the port without a policy."""

    name: str
    cpu_ns_per_packet: float
    ratio: float
    rounds_ns: tuple[float, ...]


class QosBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench qos` found. JSON-able."""

    kernel: str
    rates: tuple[Rate, ...]
    costs: tuple[Cost, ...]
    goals: tuple[Goal, ...]


def run(
    rounds: int = 5,
    progress: Progress | None = None,
    run_dir: Path = DEFAULT_RUN_DIR,
    rates: Sequence[int] = RATES_KBPS,
) -> QosBench:
    """Measures everything; 20 s a rate and 2 s a round. Raises DataPlaneError without root."""
    if os.geteuid() != 0:
        raise DataPlaneError("alcor bench qos makes network namespaces and loads BPF programs: run it as root")
    if rounds < 1:
        raise DataPlaneError("rounds must be at least 1")
    say = progress or (lambda _: None)
    run_directory = RunDirectory.make(run_dir, mounts=True)
    with compiled(SOURCE) as program, ExitStack() as stack:
        stack.callback(run_directory.remove)
        bed, hosts = alcor_bed(run_directory, stack)
        check(bed)
        measured = []
        for kbps in rates:
            for number, direction in enumerate(("egress", "ingress")):
                say(f"a stream of {STREAM_MS // 1000} s through {kbps / 1000:g} Mbit/s, {direction}")
                measured.append(_stream(program, bed, hosts[number], number, kbps))
        costs = _costs(program, bed, hosts, rounds, say)
    return QosBench(kernel=os.uname().release, rates=tuple(measured), costs=costs, goals=_goals(tuple(measured), costs))


def _put(host: Host, port: LocalPort) -> None:
    host.apply(Plan(put_ports=(port,)))


def _stream(program: Path, bed: Bed, host: Host, number: int, kbps: int) -> Rate:
    """Container 0 sends to container 1; the limit is at `number`, so that 0 is egress and 1 ingress."""
    limit, plain = RateLimit(kbps), port_of(number)
    limited = msgspec.structs.replace(plain, **{("egress_limit", "ingress_limit")[number]: limit})
    _put(host, limited)
    with connected(bed, socket.SOCK_STREAM) as (client, server):
        (line,) = traffic(program, "stream", client, server, STREAM_MS)
    dropped = host.worker.submit(host.driver.counters).result()[plain.id].dropped.get("rate_limit", 0)
    _put(host, plain)
    received, elapsed_ns, _ = (int(word) for word in line.split())
    goodput = received * 8_000_000 / elapsed_ns
    return Rate(
        direction=("egress", "ingress")[number],
        kbps=kbps,
        seconds=elapsed_ns / 1e9,
        goodput_kbps=goodput,
        error=goodput / (kbps * SEGMENT / FRAME) - 1,
        dropped=dropped,
    )


def _costs(program: Path, bed: Bed, hosts: Sequence[Host], rounds: int, say: Progress) -> tuple[Cost, ...]:
    cases: dict[str, tuple[dict[str, object], dict[str, object]]] = {
        "no policy": ({}, {}),
        "a mark": ({"dscp": 46}, {}),
        "a queue of the sender": ({"egress_limit": NEVER_FULL}, {}),
        "a queue of the receiver": ({}, {"ingress_limit": NEVER_FULL}),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(1, rounds + 1):
        say(f"cost, round {turn} of {rounds}")
        for name, changes in cases.items():
            for number, change in enumerate(changes):
                _put(hosts[number], msgspec.structs.replace(port_of(number), **change))
            with connected(bed, socket.SOCK_DGRAM) as (client, server):
                chunks = traffic(program, "udp", client, server, CHUNKS, PER_CHUNK, PAYLOAD)
            found[name].append(percentile([float(line) for line in chunks], CPU_QUANTILE))
    plain = statistics.median(found["no policy"])
    return tuple(
        Cost(
            name=name,
            cpu_ns_per_packet=statistics.median(some),
            ratio=statistics.median(some) / plain,
            rounds_ns=tuple(some),
        )
        for name, some in found.items()
    )


def _goals(rates: tuple[Rate, ...], costs: tuple[Cost, ...]) -> tuple[Goal, ...]:
    goals = [
        Goal(
            name=f"TCP through {rate.kbps / 1000:g} Mbit/s, {rate.direction}, {STREAM_MS // 1000} s",
            goal=f"within {GOAL_ERROR:.0%} of the rate",
            measured=f"{rate.error:+.2%}: {rate.goodput_kbps / 1000:.3f} Mbit/s of payload, {rate.dropped} dropped",
            reached=abs(rate.error) <= GOAL_ERROR,
        )
        for rate in rates
    ]
    plain = costs[0]
    goals += [
        Goal(
            name=f"CPU per packet with {cost.name}",
            goal="said, not promised",
            measured=f"{cost.ratio:.2f}x of {plain.cpu_ns_per_packet:.0f} ns without a policy",
            reached=None,
        )
        for cost in costs[1:]
    ]
    return tuple(goals)
