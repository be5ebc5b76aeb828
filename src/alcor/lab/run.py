"""`alcor lab`: the whole scenario, from nothing to a report, and nothing left behind. Called by roles.

`run` is the entry: it works on a thread of its own, so that Ctrl-C (a cancelled task) or SIGTERM only asks it to stop;
it then cleans up and the call ends.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from alcor.lab import (
    balancing,
    bgp,
    demand,
    dualstack,
    fakeproofs,
    measures,
    onehost,
    outside,
    outside6,
    policing,
    proofs,
    quality,
    report,
    routing,
    scenario,
    services,
    survival,
    virtual,
)
from alcor.lab.facts import facts
from alcor.lab.goals import fault_goals, goals
from alcor.lab.live import LiveLab, choose_driver
from alcor.lab.proofs import World
from alcor.lab.results import (
    HostFigures,
    LabError,
    LabOptions,
    LabResult,
    MachineFacts,
    Proof,
    Provisioned,
    Scale,
    Stopped,
    repeats_of,
)
from alcor.lab.rundir import kept_labs
from alcor.lab.scenario import Vpc
from alcor.lab.stages import Stages
from alcor.lab.tally import Campaign, lines
from alcor.lab.underfault import UnderFault
from alcor.lab.workloads import Workload, workloads

BUS_HOSTS = 5
"""Hosts that are put on the normal path to measure it."""


async def run(options: LabOptions, console: Console) -> LabResult:
    """Runs the lab; writes the report if asked to; prints what it found. Raises LabError when it could not go on.

    Cancelling cleans up first; SIGTERM does too, and ends in Stopped (a LabError). `LabResult.passed` is the exit
    code's business; the last line printed says the same.
    """
    stop = threading.Event()
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError, RuntimeError):
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    work = loop.run_in_executor(None, _run, options, console, stop)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        console.print("[yellow]stopping; cleaning up[/]")
        with suppress(LabError):
            await work
        raise
    finally:
        with suppress(NotImplementedError, RuntimeError):
            loop.remove_signal_handler(signal.SIGTERM)


def _run(options: LabOptions, console: Console, stop: threading.Event) -> LabResult:
    driver, note = choose_driver(options.driver)
    if note:
        console.print(f"[bold yellow]{note}[/]")
    if others := kept_labs(options.run_dir):
        console.print(f"[yellow]still there: kept labs {', '.join(others)}[/] (alcor lab --clean removes them)")
    machine = facts(options)
    stages = Stages(console, stop)
    with LiveLab(options, driver, stages) as lab:
        play = _faults if options.faults else _scenario
        result = play(lab, stages, machine, note)
        if options.keep:
            lab.keep()
    page = report.write(result, options.report) if options.report else None
    _print(console, result)
    if options.keep:
        _tell_kept(console, lab)
    if page:
        console.print(f"report: {page}", soft_wrap=True)
    console.print(
        result.last_line, style="bold green" if result.passed else "bold red", soft_wrap=True, highlight=False
    )
    return result


def _scenario(lab: LiveLab, stages: Stages, machine: MachineFacts, note: str) -> LabResult:
    return _Session(lab, stages).play(machine, note)


def _faults(lab: LiveLab, stages: Stages, machine: MachineFacts, note: str) -> LabResult:
    """A campaign of faults instead of measurements."""
    session = UnderFault(lab, stages)
    provisioned, campaign = session.play()
    return LabResult(
        lab_id=lab.run.id,
        driver=lab.driver,
        driver_note=note,
        hosts=len(lab.hosts),
        provisioned=provisioned,
        proofs=tuple(session.proofs),
        goals=fault_goals(campaign),
        steps=tuple(stages.steps),
        scales=(),
        singles_ms=(),
        host=HostFigures(),
        machine=machine,
        faults=campaign,
    )


class _Session:
    """The scenario on a lab that is up, and what it found so far."""

    def __init__(self, lab: LiveLab, stages: Stages) -> None:
        self._lab = lab
        self._stages = stages
        self._proofs: list[Proof] = []
        self._scales: list[Scale] = []
        self._singles: list[float] = []
        self._normal: list[float] = []
        self._rule_changes: list[float] = []
        self._first_packets: list[float] = []
        self._failovers: list[float] = []
        self._host = HostFigures()
        self._problems: list[str] = []

    def play(self, machine: MachineFacts, note: str) -> LabResult:
        """The main job, the proofs, the measurements. What fails on the way is in the result, not an exception."""
        vpc, ports, provisioned = self._main_job()
        if provisioned.active == provisioned.ports:
            self._attempt(lambda: self._prove(vpc, ports))
            self._attempt(lambda: self._measure(vpc))
        else:
            self._problems.append(f"{provisioned.ports - provisioned.active} ports are not ACTIVE: nothing was proved")
        return LabResult(
            lab_id=self._lab.run.id,
            driver=self._lab.driver,
            driver_note=note,
            hosts=len(self._lab.hosts),
            provisioned=provisioned,
            proofs=tuple(self._proofs),
            goals=goals(
                provisioned,
                self._scales,
                self._singles,
                self._host,
                self._normal,
                self._rule_changes,
                self._first_packets,
                self._failovers,
            ),
            steps=tuple(self._stages.steps),
            scales=tuple(self._scales),
            singles_ms=tuple(self._singles),
            normal_ms=tuple(self._normal),
            rule_changes_ms=tuple(self._rule_changes),
            first_packets_ms=tuple(self._first_packets),
            failovers_ms=tuple(self._failovers),
            host=self._host,
            machine=machine,
            problems=tuple(self._problems),
        )

    def _attempt(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Stopped:
            raise
        except (LabError, OSError) as error:
            self._problems.append(str(error))

    def _main_job(self) -> tuple[Vpc, list[Workload], Provisioned]:
        lab, options = self._lab, self._lab.options
        with self._stages.stage("nodes, VPC, subnets"):
            scenario.register_nodes(lab.client, lab.hosts)
            vpc = scenario.make_vpc(lab.client, "vpc", lab.topology)
        with self._stages.stage("agents connect"):
            lab.await_idle()
        bodies = scenario.port_bodies(vpc, lab.hosts, options.ports)
        with self._stages.stage("one POST, until all are ACTIVE", options.ports) as advance:
            made, provisioned = scenario.provision(lab.client, bodies, progress=advance, check=lab.check)
        return vpc, workloads(made, lab.hosts, vpc.gateways), provisioned

    def _prove(self, vpc: Vpc, ports: list[Workload]) -> None:
        lab = self._lab
        with self._stages.stage("a twin VPC with the same addresses"):
            twin = scenario.make_twin(lab.client, lab.topology, lab.hosts, ports, check=lab.check)
        world = World(vpc=tuple(ports), twin=tuple(twin), mtu=min(1500, lab.topology.mtu - 50))
        if lab.driver == "fake":
            with self._stages.stage("proofs over the software switch", fakeproofs.count(world)) as advance:
                self._proofs += fakeproofs.prove(world, advance)
            return
        with self._stages.stage("pings between containers", proofs.count_pings(world)) as advance:
            self._proofs += proofs.reachability(world, advance)
            self._proofs += proofs.too_big(world)
        with self._stages.stage("TCP between hosts", proofs.TRANSFERS) as advance:
            self._proofs += proofs.transfers(world, advance)
        with self._stages.stage("isolation and anti-spoofing"):
            self._proofs += proofs.isolation(world)
            self._proofs += proofs.spoofing(world, lab.drops)
        with self._stages.stage("security groups, rules changed under pings", policing.CHANGES) as advance:
            found = policing.police(lab.client, world, lab.drops, advance, lab.check)
            self._proofs += found.proofs
            self._rule_changes += [*found.allowed_ms, *found.cut_ms]
        with self._stages.stage("ports with a limited rate"):
            self._proofs += quality.prove(lab.client, world, lab.check)
        with self._stages.stage("load balancers"):
            balanced = balancing.prove(lab.client, world, lab.drops, lab.processes.log_of, lab.check)
            self._proofs += balanced.proofs
            self._failovers += balanced.failovers_ms
        with self._stages.stage("IPv6"):
            self._proofs += dualstack.prove(lab.client, lab.hosts, lab.check)
        with self._stages.stage("addresses that move between ports"):
            self._proofs += virtual.prove(lab.client, lab.hosts, lab.check)
        with self._stages.stage("routers and peerings"):
            self._proofs += routing.prove(lab.client, lab.hosts, lab.check)
        with self._stages.stage("addresses, names and metadata from the host"):
            controller = lab.topology.controller
            self._proofs += services.prove(lab.client, controller, lab.hosts, lab.dropped, lab.run.data, lab.check)
        with self._stages.stage("on demand, first packets, ports that move", demand.count()) as advance:
            asked = demand.prove(lab, world, vpc, advance)
            self._proofs += asked.proofs
            self._first_packets += asked.added_ms
        with self._stages.stage("floating IPs, from outside and to it"):
            abroad = outside.prove(lab.client, lab.topology, lab.hosts, lab.check)
            self._proofs += abroad.proofs
        with self._stages.stage("IPv6, from outside and to it"):
            self._proofs += outside6.prove(lab.client, lab.topology, lab.hosts, lab.check)
        with self._stages.stage("external addresses announced by BGP"):
            self._proofs += bgp.prove(lab)
        with self._stages.stage("agents killed under a ping"):
            self._proofs += survival.killed_agents(lab, world, vpc)
        with self._stages.stage("ports deleted again"):
            self._proofs += survival.deleted_ports(lab, world)

    def _measure(self, vpc: Vpc) -> None:
        lab, options = self._lab, self._lab.options
        if options.samples:
            with self._stages.stage("single ports through the fast path", options.samples) as advance:
                lab.await_idle()
                self._singles += measures.singles(
                    lab.client, vpc, lab.hosts, options.samples, progress=advance, check=lab.check
                )
            with self._stages.stage("single ports by the normal path", options.samples) as advance:
                some = lab.hosts[:BUS_HOSTS]
                self._normal += measures.by_the_bus(
                    lab.client, vpc, some, options.samples, progress=advance, check=lab.check
                )
        if options.host_scales:
            total = 2 * sum(ports * repeats_of(ports) for ports in options.host_scales)
            with self._stages.stage("one host by itself, serial and parallel", total) as advance:
                lab.start_agent(lab.spare, fresh=True)
                lab.await_idle()
                self._host = onehost.load(
                    lab.processes, lab.topology, lab.spare, options.host_scales, progress=advance, check=lab.check
                )
        if options.scales:
            total = 2 * sum(ports * repeats_of(ports) for ports in options.scales)
            with self._stages.stage("provisioning, serial and batch", total) as advance:
                self._scales += measures.serial_and_batch(
                    lab.client,
                    lambda name: scenario.make_vpc(lab.client, name, lab.topology),
                    lab.hosts,
                    options.scales,
                    progress=advance,
                    check=lab.check,
                )


def _tell_kept(console: Console, lab: LiveLab) -> None:
    console.print(f"[bold]kept[/]: the API answers on http://127.0.0.1:{lab.api_port}")
    if lab.driver == "ebpf":
        console.print(f"  enter a host:      nsenter --net={lab.hosts[0].netns} bash", soft_wrap=True)
        console.print(f"  its containers:    ls {lab.hosts[0].netns_dir}", soft_wrap=True)
    console.print(f"  configuration, logs, database: {lab.run.data}", soft_wrap=True)
    console.print("  remove everything: alcor lab --clean")


def _print(console: Console, result: LabResult) -> None:
    """The tables a lab ends with."""
    shown = Table(title="proofs", title_justify="left", title_style="bold")
    for column in ("proof", "what was", ""):
        shown.add_column(column)
    for proof in result.proofs:
        shown.add_row(proof.name, proof.measured, "[green]passed[/]" if proof.passed else "[bold red]FAILED[/]")
    console.print(shown)
    if result.goals:
        console.print(_goal_table(result))
    if result.faults:
        console.print(_fault_table(result.faults))
    for line in (*result.provisioned.errors, *result.problems):
        console.print(line, style="red", markup=False)


def _fault_table(campaign: Campaign) -> Table:
    title = f"{len(campaign.strikes)} faults, seed {campaign.seed}, {campaign.requests:,} changes acknowledged"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("fault", "n", "whole after", "worst", "around", "bad", "pings lost", ""):
        table.add_column(column, justify="left" if column in ("fault", "") else "right", no_wrap=True)
    for line in lines(campaign.strikes):
        table.add_row(
            line.kind,
            str(line.times),
            _seconds(line.p50_ms),
            _seconds(line.max_ms),
            _seconds(line.around_max_ms),
            str(line.times - line.recovered + line.lost + line.stale + line.leaked + line.violations),
            f"{line.pings_lost}/{line.pings}",
            "[green]held[/]" if line.held else "[bold red]NOT[/]",
        )
    table.caption = (
        "whole after: from the end of the fault until all was as it must be (median). around: from the strike until a "
        "port made meanwhile was ACTIVE (worst). bad: not recovered, lost, stale, leaked, otherwise wrong."
    )
    return table


def _seconds(ms: float | None) -> str:
    return "" if ms is None else f"{ms / 1000:.2f} s"


def _goal_table(result: LabResult) -> Table:
    table = Table(title="goals", title_justify="left", title_style="bold")
    for column in ("what", "goal", "measured", ""):
        table.add_column(column)
    marks = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}
    for goal in result.goals:
        table.add_row(goal.name, goal.goal, goal.measured, marks[goal.reached])
    return table
