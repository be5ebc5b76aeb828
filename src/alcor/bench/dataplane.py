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
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from alcor.bench.compiling import compiled
from alcor.bench.dataplane_beds import Bed, beds, inside
from alcor.dataplane.base import DataPlaneError
from alcor.lab.results import Goal, percentile
from alcor.lab.rundir import DEFAULT_RUN_DIR

SOURCE = Path(__file__).with_name("traffic.c")
CHUNKS, PER_CHUNK, PAYLOAD = 400, 256, 64
ROUND_TRIPS = 20_000
STREAM_MS = 2000
CPU_QUANTILE = 0.1
"""Of the chunks: interrupts of others only ever add."""
RECEIVE_BUFFER_BYTES = 8 << 20
TIMEOUT_S = 120.0
GOAL_CPU_RATIO = 1.6

Progress = Callable[[str], None]


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
    if os.geteuid() != 0:
        raise DataPlaneError("alcor bench dataplane makes network namespaces and loads BPF programs: run it as root")
    if rounds < 1:
        raise DataPlaneError("rounds must be at least 1")
    say = progress or (lambda _: None)
    with compiled(SOURCE) as program, beds(run_dir) as made:
        found = {bed.name: _Rounds() for bed in made}
        for number in range(1, rounds + 1):
            for bed in made:
                say(f"round {number} of {rounds}: {bed.name}")
                _measure(program, bed, found[bed.name])
    reference = statistics.median(found[made[0].name].cpu_ns)
    paths = tuple(_summary(name, rounds_, reference) for name, rounds_ in found.items())
    return DataPlaneBench(kernel=os.uname().release, rounds=rounds, paths=paths, goals=_goals(paths))


def _measure(program: Path, bed: Bed, into: _Rounds) -> None:
    with connected(bed, socket.SOCK_DGRAM) as (client, server):
        chunks = traffic(program, "udp", client, server, CHUNKS, PER_CHUNK, PAYLOAD)
    into.cpu_ns.append(percentile([float(line) for line in chunks], CPU_QUANTILE))
    with connected(bed, socket.SOCK_STREAM) as (client, server):
        trips = traffic(program, "rr", client, server, ROUND_TRIPS)
    into.round_trip_us.append(statistics.median(int(line) for line in trips) / 1000)
    with connected(bed, socket.SOCK_STREAM) as (client, server):
        (line,) = traffic(program, "stream", client, server, STREAM_MS)
    received, elapsed_ns, cpu_ns = (int(word) for word in line.split())
    into.gbit.append(received * 8 / elapsed_ns)
    into.cpu_s_per_gbyte.append(cpu_ns / received)


@contextmanager
def connected(bed: Bed, kind: socket.SocketKind) -> Iterator[tuple[int, int]]:
    """Descriptors of two connected sockets, one in each container. A datagram server has room for a whole chunk."""
    with ExitStack() as stack:
        server = stack.enter_context(inside(bed.namespaces[1], lambda: socket.socket(socket.AF_INET, kind)))
        client = stack.enter_context(inside(bed.namespaces[0], lambda: socket.socket(socket.AF_INET, kind)))
        so_rcvbufforce = 33
        server.bind((bed.server_ip, 0))
        if kind is socket.SOCK_DGRAM:
            server.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, RECEIVE_BUFFER_BYTES)
            client.connect(server.getsockname())
            yield client.fileno(), server.fileno()
            return
        server.listen(1)
        server.settimeout(TIMEOUT_S)
        client.settimeout(TIMEOUT_S)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        stack.enter_context(accepted)
        for one in (client, accepted):
            one.setblocking(True)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client.fileno(), accepted.fileno()


def traffic(program: Path, mode: str, client: int, server: int, *numbers: int) -> list[str]:
    """What traffic.c says, line by line. Raises DataPlaneError."""
    arguments = [str(program), mode, str(client), str(server), *map(str, numbers)]
    done = subprocess.run(
        arguments, pass_fds=(client, server), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise DataPlaneError(f"{' '.join(arguments[1:])}: {done.stderr.strip()}")
    return done.stdout.splitlines()


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
