"""A lab that is up: hosts, fabric, server, agents, and a client to talk to them. Called by run, bench and tests."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType

from alcor.dataplane.ebpf import program, tables
from alcor.dataplane.kernel import netns
from alcor.dataplane.kernel.bpf import BpfMap, sum_per_cpu
from alcor.kit import pki
from alcor.kit.clock import LAB_CLOCK
from alcor.lab.client import Client
from alcor.lab.harm import set_clock
from alcor.lab.processes import (
    AGENT_PORT,
    Processes,
    await_listening,
    bus_url,
    listen_for_api,
    start_agents,
    start_server,
    start_standby,
    write_agent_config,
)
from alcor.lab.results import LabError, LabOptions
from alcor.lab.rundir import RunDirectory, cleanup, cpu_ticks, usable_run_dir
from alcor.lab.stages import Stages
from alcor.lab.topology import Machine, Topology, plan, raise_topology
from alcor.lab.workloads import Workload
from alcor.model.ids import format_id

SPARE = 1
"""Hosts beside those asked for: the one that is measured by itself."""
SERVER_TIMEOUT_S = 60.0
PROBE_S = 1.0
FAULT_PATIENCE = {"heartbeat_s": 0.3, "standby_dead_s": 0.3, "standby_hung_s": 1.5}
"""Of agents and standbys in a lab for faults: what they find out takes as little time as the promises allow."""
FAULT_PROBE_S = 0.1
"""In a lab for faults hosts probe each other."""
STORE_MIB, JOURNAL_MIB = 64, 4
"""Sizes of the disks of server and agents in a lab for faults."""
IDLE_TIMEOUT_S, IDLE_LOOK_S, IDLE_TICKS = 30.0, 0.25, 2
"""Idle: all processes of the lab together use at most 2 ticks (20 ms) of CPU in a quarter of a second."""


def choose_driver(asked: str) -> tuple[str, str]:
    """(driver, why not another). Raises LabError when what was asked for cannot be."""
    if asked not in ("auto", "ebpf", "fake"):
        raise LabError(f"driver '{asked}' is not known; known are: auto, ebpf, fake")
    if asked == "fake":
        return "fake", "The software switch was asked for: no packet of this lab is real."
    missing = why_not_ebpf()
    if not missing:
        return "ebpf", ""
    if asked == "ebpf":
        raise LabError(f"this machine cannot run the ebpf driver: {missing}")
    return "fake", f"This machine cannot run the ebpf driver: {missing}. The lab ran with the software switch instead."


def why_not_ebpf() -> str:
    """What this process lacks for a lab of real packets; "" when nothing."""
    if os.geteuid() != 0:
        return "it takes root"
    try:
        netns.on_own_thread(netns.unshare_net)
    except OSError as error:
        return f"it may not make network namespaces ({error.strerror})"
    return program.probe() or ""


class LiveLab:
    """A lab. Entering brings it up, stage by stage; leaving removes every trace of it, unless it is to be kept."""

    def __init__(self, options: LabOptions, driver: str, stages: Stages) -> None:
        self.options = options
        self.driver = driver
        self._stages = stages
        self._stack = ExitStack()
        self._kept = False
        self.run: RunDirectory
        self.topology: Topology
        self.processes: Processes
        self.listener: socket.socket
        self.client: Client

    @property
    def hosts(self) -> tuple[Machine, ...]:
        """The hosts that the server knows."""
        return self.topology.hosts[: self.options.hosts]

    @property
    def spare(self) -> Machine:
        """A host that no server knows; its agent is started by `start_spare`."""
        return self.topology.hosts[-1]

    @property
    def clock_file(self) -> Path:
        """What shifts the wall clock of the lab's processes, in a lab for faults (kit.clock)."""
        return self.run.data / "clock"

    @property
    def api_port(self) -> int:
        """Where the API answers, on 127.0.0.1 of the machine."""
        port: int = self.listener.getsockname()[1]
        return port

    def __enter__(self) -> LiveLab:
        try:
            self._raise()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept:
            self.processes.detach()
            self.run.keep()
            return
        with self._stages_quiet("cleaning up"):
            self._stack.close()

    def keep(self) -> None:
        """Leaving will leave everything as it is."""
        self._kept = True

    def check(self) -> None:
        """Raises when a process of the lab died, or when the lab is asked to stop."""
        self._stages.check()
        self.processes.check()

    def _raise(self) -> None:
        _raise_open_files()
        real = self.driver == "ebpf"
        with self._stages.stage("hosts and fabric"):
            run_dir = usable_run_dir(self.options.run_dir)
            cleanup(run_dir)
            self.run = RunDirectory.make(run_dir, mounts=real)
            self._stack.callback(self.run.remove)
            self.processes = self._stack.enter_context(Processes(self.run))  # imports while the kernel works
            self.topology = plan(self.run, self.options.hosts + SPARE, real=real)
            raise_topology(self.topology)
            if self.options.faults:
                self._prepare_for_faults(real)
        with self._stages.stage("certificates"):
            pki.make_ca(self.run.data / "ca")
            self.listener = self._stack.enter_context(listen_for_api(self.options.api_port))
        with self._stages.stage("server"):
            above = self.options.on_demand_above
            probe_s = FAULT_PROBE_S if self.options.faults else 0.0
            start_server(self.processes, self.topology, self.listener, on_demand_above=above, probe_s=probe_s)
            self.client = Client(self.api_port)
            self._stack.callback(self.client.close)
            self.await_server()
        with self._stages.stage("agents", len(self.hosts)) as advance:
            patience = FAULT_PATIENCE if self.options.faults else None
            start_agents(
                self.processes,
                self.hosts,
                self.topology,
                driver=self.driver,
                pool=self.options.pool,
                patience=patience,
            )
            self.await_agents(self.hosts, advance)
            if self.options.faults:
                for host in self.hosts:
                    start_standby(self.processes, host)

    def _prepare_for_faults(self, real: bool) -> None:
        """A clock that can jump and, where mounts can be made, disks that can be full."""
        set_clock(self.clock_file, 0)
        self.processes.environment[LAB_CLOCK] = str(self.clock_file)
        if real:
            self.run.small_disk(self.topology.controller.data_dir, STORE_MIB)
            for host in self.hosts:
                self.run.small_disk(host.data_dir / "state", JOURNAL_MIB)

    def await_server(self) -> None:
        """Until the API answers. The socket is open from the start: a question waits for the server to take it."""
        deadline = time.monotonic() + SERVER_TIMEOUT_S
        while True:
            probe = Client(self.api_port, timeout_s=PROBE_S)
            try:
                probe.get("/")
            except LabError:
                self.check()
                if time.monotonic() > deadline:
                    raise
            else:
                return
            finally:
                probe.close()

    def await_agents(self, hosts: tuple[Machine, ...], progress: Callable[[int], None]) -> None:
        """Until the agents of these hosts accept connections."""
        targets = [(host.address, AGENT_PORT) for host in hosts]
        await_listening(self.processes, targets, from_netns=self.topology.controller.netns, progress=progress)

    def await_idle(self) -> None:
        """Until server and agents have nothing left to do: what follows is then not mixed with what was before.

        Gives up after IDLE_TIMEOUT_S: a lab that is never idle is measured as it is.
        """
        pids = [process.pid for process in self.run.processes() if process.alive]
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        before = sum(map(cpu_ticks, pids))
        while time.monotonic() < deadline:
            time.sleep(IDLE_LOOK_S)
            self.check()
            now = sum(map(cpu_ticks, pids))
            if now - before <= IDLE_TICKS:
                return
            before = now

    def start_agent(self, host: Machine, *, fresh: bool = False) -> None:
        """The agent of one host (again), as it was configured before; waits until it accepts connections."""
        bus = bus_url(self.topology)
        config = write_agent_config(self.run, host, driver=self.driver, pool=self.options.pool, bus=bus)
        argv = ["agent", "--config", str(config)]
        self.processes.start(host.name, argv, netns_path=host.netns, fresh=fresh)
        self.await_agents((host,), lambda _: None)

    def drops(self, one: Workload) -> dict[str, int]:
        """Packets dropped so far on the workload's host, by reason."""
        return self.dropped(one.host)

    def dropped(self, host: Machine) -> dict[str, int]:
        """Packets dropped so far on a host, by reason; read from the data plane's own pinned map."""
        opened = BpfMap.open(host.pin_dir / "drops")
        try:
            found: dict[str, int] = {}
            for key, value in opened.items():
                name = tables.unpack_drop_key(key)[1].name.lower()
                found[name] = found.get(name, 0) + sum_per_cpu(value, tables.DROP_COUNT)[0]
            return found
        finally:
            opened.close()

    def dropped_of(self, one: Workload) -> dict[str, int]:
        """Packets dropped so far that are that port's to answer for, by reason; read likewise."""
        with closing(BpfMap.open(one.host.pin_dir / "ports")) as ports:
            rows = {format_id(tables.unpack_port(value).id): tables.unpack_ifindex(key) for key, value in ports.items()}
        found: dict[str, int] = {}
        with closing(BpfMap.open(one.host.pin_dir / "drops")) as drops:
            for key, value in drops.items():
                ifindex, reason = tables.unpack_drop_key(key)
                if ifindex == rows[one.id]:
                    found[reason.name.lower()] = sum_per_cpu(value, tables.DROP_COUNT)[0]
        return found

    def _stages_quiet(self, name: str) -> ExitStack:
        """A stage that is shown even when the lab was asked to stop."""
        stack = ExitStack()
        with suppress(LabError):
            stack.enter_context(self._stages.stage(name))
        return stack


def _raise_open_files() -> None:
    """As many open files as this process may have: a wave of pings holds hundreds of sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
