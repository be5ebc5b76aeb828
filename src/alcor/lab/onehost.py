"""One host by itself: how quickly its agent programs ports, and how much memory it takes. Called by run.

The host is in the lab but no server knows it; hostload sends it goal state. Its agent is started in an interpreter of
its own, so that the memory counted is what an agent takes on a real host, where no brother shares its pages.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from alcor.lab.hostload import Measured, Order
from alcor.lab.processes import AGENT_PORT, Processes
from alcor.lab.results import HostFigures, LabError, Scale
from alcor.lab.scenario import Progress
from alcor.lab.topology import Machine, Topology

TIMEOUT_S = 600.0
NAME = "hostload"


def load(
    processes: Processes,
    topology: Topology,
    host: Machine,
    scales: tuple[int, ...],
    *,
    progress: Progress,
    check: Callable[[], None],
) -> HostFigures:
    """Runs hostload against the agent of `host`, which must be listening; leaves the largest load on it."""
    order = Order(
        host=host.name,
        address=host.address,
        port=AGENT_PORT,
        tls_dir=str(topology.controller.data_dir / "tls"),
        scales=scales,
        mtu=min(1500, topology.mtu - 50),
        real=topology.real,
    )
    log = processes.log_of(NAME)
    log.unlink(missing_ok=True)
    processes.start(
        NAME, [msgspec.json.encode(order).decode()], netns_path=topology.controller.netns, module="alcor.lab.hostload"
    )

    def tick() -> None:
        check()
        progress(max((line["done"] for line in _lines(log) if "done" in line), default=0))

    processes.await_end(NAME, TIMEOUT_S, tick)
    results = [line["result"] for line in _lines(log) if "result" in line]
    if not results:
        raise LabError(f"{NAME} ended without a result\n{processes.log_tail(NAME)}")
    measured = msgspec.convert(results[-1], list[Measured])
    rss, private = memory_mib(processes.running(host.name).pid)
    last = measured[-1].timings
    return HostFigures(
        scales=tuple(Scale(ports=one.ports, serial_ms=one.serial_ms, batch_ms=one.batch_ms) for one in measured),
        ports=measured[-1].ports,
        rss_mib=rss,
        private_mib=private,
        wiring_ms=last.wiring_us / 1000,
        tables_ms=last.tables_us / 1000,
        total_ms=last.total_us / 1000,
    )


def _lines(log: Path) -> list[dict[str, Any]]:
    """The whole JSON lines that hostload has written so far."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines(keepends=True):
        if line.startswith("{") and line.endswith("}\n"):
            found.append(json.loads(line))
    return found


def memory_mib(pid: int) -> tuple[float, float]:
    """(resident, private) memory of a process in MiB: Rss, and Private_Clean + Private_Dirty (proc(5))."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0])
    return values["Rss"] / 1024, (values["Private_Clean"] + values["Private_Dirty"]) / 1024
