"""`alcor bench dataplane`: container to container across two hosts, beside a bare veth and a Linux bridge + VXLAN.

Called by the command line. Three figures for each of the three: CPU per packet (UDP, 64 bytes of payload), the round
trip of one byte over TCP, and TCP throughput; all on one core, both ends, so that they say what the path costs and not
how two cores wake each other. The three take turns within every round, so that a busy moment of the machine hits all.
Every round is in the answer; the goals compare medians.
"""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from alcor.bench.dataplane_beds import Bed, beds
from alcor.bench.rounds import Progress, place
from alcor.bench.traffic import connected, packet_ns, traffic
from alcor.lab.results import Goal
from alcor.lab.rundir import DEFAULT_RUN_DIR

CHUNKS = 400
ROUND_TRIPS = 20_000
STREAM_MS = 2000
GOAL_CPU_RATIO = 1.6


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way between two containers: medians over the rounds, and every round."""

    name: str
    cpu_ns_per_packet: float
    cpu_ratio: float
    """Against the bare veth of the same run."""
    round_trip_p50_us: float
    gbit_per_s: float
    cpu_s_per_gbyte: float
    cpu_rounds_ns: tuple[float, ...]
    round_trip_rounds_us: tuple[float, ...]
    gbit_rounds: tuple[float, ...]


class DataPlaneBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench dataplane` found. JSON-able."""

    kernel: str
    rounds: int
    paths: tuple[Way, ...]
    goals: tuple[Goal, ...]


class _Rounds:
    """What one bed showed, round by round."""

    def __init__(self) -> None:
        self.cpu_ns: list[float] = []
        self.round_trip_us: list[float] = []
        self.gbit: list[float] = []
        self.cpu_s_per_gbyte: list[float] = []


def run(rounds: int = 5, progress: Progress | None = None, run_dir: Path = DEFAULT_RUN_DIR) -> DataPlaneBench:
    """Measures everything; about 10 s a round. Raises DataPlaneError without root."""
    with place("dataplane", rounds, run_dir, progress) as at:
        made = beds(at.run, at.stack)
        found = {bed.name: _Rounds() for bed in made}
        for number in range(1, rounds + 1):
            for bed in made:
                at.say(f"round {number} of {rounds}: {bed.name}")
                _measure(at.program, bed, found[bed.name])
    reference = statistics.median(found[made[0].name].cpu_ns)
    paths = tuple(_summary(name, rounds_, reference) for name, rounds_ in found.items())
    return DataPlaneBench(kernel=os.uname().release, rounds=rounds, paths=paths, goals=_goals(paths))


def _measure(program: Path, bed: Bed, into: _Rounds) -> None:
    with connected(bed, socket.SOCK_DGRAM) as ends:
        into.cpu_ns.append(packet_ns(program, ends, CHUNKS))
    with connected(bed, socket.SOCK_STREAM) as (client, server):
        trips = traffic(program, "rr", client, server, ROUND_TRIPS)
    into.round_trip_us.append(statistics.median(int(line) for line in trips) / 1000)
    with connected(bed, socket.SOCK_STREAM) as (client, server):
        (line,) = traffic(program, "stream", client, server, STREAM_MS)
    received, elapsed_ns, cpu_ns = (int(word) for word in line.split())
    into.gbit.append(received * 8 / elapsed_ns)
    into.cpu_s_per_gbyte.append(cpu_ns / received)


def _summary(name: str, rounds: _Rounds, reference_ns: float) -> Way:
    cpu = statistics.median(rounds.cpu_ns)
    return Way(
        name=name,
        cpu_ns_per_packet=cpu,
        cpu_ratio=cpu / reference_ns,
        round_trip_p50_us=statistics.median(rounds.round_trip_us),
        gbit_per_s=statistics.median(rounds.gbit),
        cpu_s_per_gbyte=statistics.median(rounds.cpu_s_per_gbyte),
        cpu_rounds_ns=tuple(rounds.cpu_ns),
        round_trip_rounds_us=tuple(rounds.round_trip_us),
        gbit_rounds=tuple(rounds.gbit),
    )


def _goals(paths: Sequence[Way]) -> tuple[Goal, ...]:
    _, bridge, alcor = paths
    return (
        Goal(
            name="CPU per packet across hosts",
            goal=f"at most {GOAL_CPU_RATIO}x of a bare veth",
            measured=f"{alcor.cpu_ratio:.2f}x, {alcor.cpu_ns_per_packet:.0f} ns; bridge's {bridge.cpu_ratio:.2f}x",
            reached=alcor.cpu_ratio <= GOAL_CPU_RATIO,
        ),
        Goal(
            name="TCP throughput of a core across hosts",
            goal="at least the bridge's",
            measured=f"{alcor.gbit_per_s:.1f} against {bridge.gbit_per_s:.1f} Gbit/s; "
            f"CPU {alcor.cpu_s_per_gbyte:.2f} against {bridge.cpu_s_per_gbyte:.2f} s a GB",
            reached=alcor.gbit_per_s >= bridge.gbit_per_s,
        ),
        Goal(
            name="round trip across hosts, p50",
            goal="below the bridge's",
            measured=f"{alcor.round_trip_p50_us:.1f} against {bridge.round_trip_p50_us:.1f} us",
            reached=alcor.round_trip_p50_us < bridge.round_trip_p50_us,
        ),
    )
