"""`alcor bench host`: how fast one host programs ports, beside a C program that makes only namespaces and veths.

Called by the command line (`run`) and by whoever measures more than the driver: `measure` times any callable that
applies ports. Every timing is taken in a fresh throw-away host (a network namespace, names on a tmpfs), after the
kernel has finished removing the one before; variants take turns inside each repetition, so that a busy moment of the
machine hits all of them. Needs root; touches nothing outside what it makes, and removes it again.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from alcor.bench.host_bed import PORT_LIMIT, Bed, bed, container_ports, room_for_descriptors
from alcor.dataplane.base import DataPlaneError, LocalPort, Plan
from alcor.dataplane.ebpf.driver import EbpfDriver
from alcor.lab.results import Goal

REFERENCE_SOURCE = Path(__file__).with_name("host_reference.c")
REFERENCE_THREADS = 2
SCALING_SIZES = (10, 30, 100, 300, 1000)
POOL_FILL_TIMEOUT_S = 300.0
GOAL_ON_DEMAND = 35_000
GOAL_POOL = 50_000
GOAL_RATIO = 1.3

Apply = Callable[[Sequence[LocalPort]], None]
"""Carries the ports out; returns when they are programmed, raises when one is not."""
Progress = Callable[[str], None]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One way of making one number of ports: every repetition, and the median."""

    ports: int
    seconds: tuple[float, ...]
    median_s: float
    us_per_port: float
    ports_per_minute: float


class SizeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One number of ports, one plan. `reference*`: the C program, namespaces and veths only."""

    ports: int
    on_demand: Timing
    pool: Timing
    reference: Timing
    """One thread."""
    reference_threads: Timing
    """Namespaces made by helper threads, as the driver does."""
    ratio: float
    """On demand against `reference`: medians."""


class ScalingPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The same number of ports, one port a plan and all in one plan; namespaces on demand."""

    ports: int
    serial: Timing
    parallel: Timing


class HostBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench host` found. JSON-able."""

    kernel: str
    cpus: int
    repeats: int
    sizes: tuple[SizeResult, ...]
    scaling: tuple[ScalingPoint, ...]
    goals: tuple[Goal, ...]


def run(sizes: Sequence[int] = (1000, 5000), repeats: int = 3, progress: Progress | None = None) -> HostBench:
    """Measures everything. Takes some minutes, and 250 KiB of memory per port. Raises DataPlaneError without root."""
    if os.geteuid() != 0:
        raise DataPlaneError("alcor bench host makes network namespaces and loads BPF programs: run it as root")
    if not sizes or min(sizes) < 1 or max(sizes) > PORT_LIMIT or repeats < 1:
        raise DataPlaneError(f"sizes must be from 1 to {PORT_LIMIT} ports, repeats at least 1")
    say = progress or (lambda _: None)
    with _reference() as program, room_for_descriptors(max(sizes)):
        measured = tuple(_size(ports, repeats, program, say) for ports in sizes)
        scaling = tuple(_scaling(ports, repeats, say) for ports in SCALING_SIZES if ports <= max(sizes))
    return HostBench(
        kernel=os.uname().release,
        cpus=len(os.sched_getaffinity(0)),
        repeats=repeats,
        sizes=measured,
        scaling=scaling,
        goals=tuple(goal for one in measured for goal in _goals(one)),
    )


def measure(apply: Apply, ports: Sequence[LocalPort], *, serial: bool = False) -> float:
    """Seconds that `apply` takes for the ports: all at once, or with `serial` one call for each."""
    begun = time.perf_counter()
    if serial:
        for port in ports:
            apply((port,))
    else:
        apply(ports)
    return time.perf_counter() - begun


def applier(driver: EbpfDriver) -> Apply:
    """The driver as something that applies ports. Raises DataPlaneError with the first port's error."""

    def apply(ports: Sequence[LocalPort]) -> None:
        applied = driver.apply(Plan(put_ports=tuple(ports)))
        failed = [one.error for one in applied.ports if one.error]
        if failed or applied.error:
            raise DataPlaneError(f"{len(failed)} of {len(ports)} ports failed: {(failed or [applied.error])[0]}")

    return apply


def _size(ports: int, repeats: int, program: Path, say: Progress) -> SizeResult:
    wanted = container_ports(ports)
    found: dict[str, list[float]] = {"on demand": [], "pool": [], "C": [], "C, threads": []}
    for turn in range(repeats):
        for name, seconds in found.items():
            with bed(pool_size=ports if name == "pool" else 0) as one:
                seconds.append(_time_one(name, one, wanted, program))
            say(f"{ports} ports, {name}, {turn + 1} of {repeats}: {seconds[-1] / ports * 1e6:.0f} us a port")
    times = {name: _timing(ports, seconds) for name, seconds in found.items()}
    return SizeResult(
        ports=ports,
        on_demand=times["on demand"],
        pool=times["pool"],
        reference=times["C"],
        reference_threads=times["C, threads"],
        ratio=times["on demand"].median_s / times["C"].median_s,
    )


def _time_one(name: str, one: Bed, wanted: Sequence[LocalPort], program: Path) -> float:
    if name.startswith("C"):
        threads = REFERENCE_THREADS if "threads" in name else 0
        return one.in_host(lambda: _time_reference(program, len(wanted), one.netns_dir, threads))
    if not one.wait_pool(POOL_FILL_TIMEOUT_S):
        raise DataPlaneError(f"the namespace pool did not fill within {POOL_FILL_TIMEOUT_S:.0f} s: free some memory")
    return one.with_driver(partial(_apply_all, wanted=wanted, serial=False))


def _time_reference(program: Path, ports: int, netns_dir: Path, threads: int) -> float:
    command = [str(program), str(ports), str(netns_dir), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataPlaneError(f"the C reference failed: {done.stderr.strip()}")
    return int(done.stdout) / 1e9


def _scaling(ports: int, repeats: int, say: Progress) -> ScalingPoint:
    wanted = container_ports(ports)
    found: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(repeats):
        for serial, seconds in found.items():
            with bed(pool_size=0) as one:
                seconds.append(one.with_driver(partial(_apply_all, wanted=wanted, serial=serial)))
            way = "one by one" if serial else "one plan"
            say(f"{ports} ports, {way}, {turn + 1} of {repeats}: {seconds[-1] / ports * 1e6:.0f} us a port")
    return ScalingPoint(ports=ports, serial=_timing(ports, found[True]), parallel=_timing(ports, found[False]))


def _apply_all(driver: EbpfDriver, wanted: Sequence[LocalPort], serial: bool) -> float:
    return measure(applier(driver), wanted, serial=serial)


def _timing(ports: int, seconds: Sequence[float]) -> Timing:
    median = statistics.median(seconds)
    return Timing(
        ports=ports,
        seconds=tuple(seconds),
        median_s=median,
        us_per_port=median / ports * 1e6,
        ports_per_minute=ports / median * 60,
    )


def _goals(one: SizeResult) -> Iterator[Goal]:
    demand, pool = one.on_demand.ports_per_minute, one.pool.ports_per_minute
    label = f"one host, {one.ports:,} container ports"
    yield Goal(
        name=f"{label}, namespaces on demand",
        goal=f"at least {GOAL_ON_DEMAND:,} a minute",
        measured=f"{demand:,.0f} a minute",
        reached=demand >= GOAL_ON_DEMAND,
    )
    yield Goal(
        name=f"{label}, from the pool",
        goal=f"at least {GOAL_POOL:,} a minute",
        measured=f"{pool:,.0f} a minute",
        reached=pool >= GOAL_POOL,
    )
    yield Goal(
        name=f"{label}, beside C",
        goal=f"at most {GOAL_RATIO}x of a C program that makes only the namespaces and veths",
        measured=f"{one.ratio:.2f}x of one thread in C ({one.reference.us_per_port:.0f} us a port), "
        f"{one.on_demand.median_s / one.reference_threads.median_s:.2f}x of C with namespaces made by threads",
        reached=one.ratio <= GOAL_RATIO,
    )


@contextmanager
def _reference() -> Iterator[Path]:
    """The C program, compiled into a directory of its own."""
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise DataPlaneError("no C compiler for the reference program: install gcc")
    with tempfile.TemporaryDirectory(prefix="alcor-bench-") as directory:
        program = Path(directory) / "host_reference"
        done = subprocess.run(
            [compiler, "-O2", "-pthread", str(REFERENCE_SOURCE), "-o", str(program)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DataPlaneError(f"the C reference does not compile: {done.stderr.strip()[:500]}")
        yield program
