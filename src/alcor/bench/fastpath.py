"""`alcor bench fastpath`: single ports, POST to ACTIVE, on a small idle lab. Called by the command line."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from alcor.lab import measures, scenario
from alcor.lab.goals import single_goal
from alcor.lab.live import LiveLab
from alcor.lab.results import SAMPLES, Goal, LabError, LabOptions, percentile
from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.lab.stages import Stages

WARM_UP = 3
"""Ports per host before the first sample: afterwards every host carries the VPC and keeps its channel."""
SAY_EVERY = 50

Progress = Callable[[str], None]


class FastPathBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench fastpath` found. JSON-able; milliseconds."""

    kernel: str
    driver: str
    hosts: int
    pool: int
    """Ready namespaces per agent; 0: each port's is made with it."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    slowest_ms: float
    samples_ms: tuple[float, ...]
    goals: tuple[Goal, ...]


def run(
    hosts: int = 10,
    samples: int = SAMPLES,
    progress: Progress | None = None,
    *,
    pool: int = 2,
    driver: str = "ebpf",
    run_dir: Path = DEFAULT_RUN_DIR,
) -> FastPathBench:
    """Brings a lab up, measures, and removes it. Raises LabError (no root, no BPF, a process that died)."""
    if samples < 1:
        raise LabError("samples must be at least 1")
    say = progress or (lambda _: None)
    stages = Stages(Console(quiet=True), threading.Event())
    options = LabOptions(hosts=hosts, ports=hosts * WARM_UP, driver=driver, pool=pool, run_dir=run_dir)
    say(f"a lab of {hosts} hosts")
    with LiveLab(options, driver, stages) as lab:
        scenario.register_nodes(lab.client, lab.hosts)
        vpc = scenario.make_vpc(lab.client, "fastpath", lab.topology)
        bodies = scenario.port_bodies(vpc, lab.hosts, options.ports, name="warm-up")
        _, warm = scenario.provision(lab.client, bodies, progress=lambda _: None, check=lab.check)
        if warm.active != warm.ports:
            raise LabError(f"only {warm.active} of {warm.ports} ports became ACTIVE: {'; '.join(warm.errors)}")

        def count(done: int) -> None:
            if done % SAY_EVERY == 0:
                say(f"{done} of {samples} ports")

        lab.await_idle()
        found = measures.singles(lab.client, vpc, lab.hosts, samples, progress=count, check=lab.check)
    return FastPathBench(
        kernel=os.uname().release,
        driver=driver,
        hosts=hosts,
        pool=pool,
        p50_ms=percentile(found, 0.5),
        p90_ms=percentile(found, 0.9),
        p99_ms=percentile(found, 0.99),
        slowest_ms=max(found),
        samples_ms=tuple(found),
        goals=(single_goal(found),),
    )
