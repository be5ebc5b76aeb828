"""What a lab is asked for and what it found: plain records, written as report.json and drawn as report.html. Pure.

Called by every file of the lab, by bench and by roles. Times are in seconds or milliseconds as their names say.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.lab.tally import Campaign

SAMPLES = 200
SCALES = (1, 10, 100, 1000)
HOST_SCALES = (10, 30, 100, 300, 1000)

ROOM = 150
"""In a lab for faults: by so many ports a VPC may grow and still be preloaded."""
MANY = 300
"""From here on a measurement is long enough to stand by itself; of smaller ones the median of three counts."""


def repeats_of(ports: int) -> int:
    """How often a measurement of so many ports is made."""
    return 1 if ports >= MANY else 3


class LabError(Exception):
    """The lab cannot go on: what failed, and what to do or where to look next."""


class Stopped(LabError):
    """Somebody asked the lab to stop; it is cleaned up."""


class LabOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor lab` was asked for."""

    hosts: int = 100
    ports: int = 1000
    keep: bool = False
    """Leave everything running at the end; `cleanup(run_dir, kept=True)` removes it."""
    report: Path | None = None
    """Directory for report.html and report.json."""
    driver: str = "auto"
    """`ebpf`, `fake`, or `auto`: ebpf if this machine can, else fake."""
    pool: int = 2
    """Ready namespaces per agent; as many as an agent keeps by default."""
    run_dir: Path = DEFAULT_RUN_DIR
    api_port: int | None = None
    """None: 9696 when free, else one that the system chooses."""
    samples: int = SAMPLES
    """Single ports through the fast path; 0 leaves that measurement out."""
    scales: tuple[int, ...] = SCALES
    """Numbers of ports for serial against batch; empty leaves it out."""
    host_scales: tuple[int, ...] = HOST_SCALES
    """Numbers of ports on one host, serial against parallel; empty leaves it out."""
    faults: int = 0
    """How many faults to inject, instead of measuring; 0: the lab proper."""
    upgrade_objects: int = 10_000
    """After the faults: how many objects an agent carries that is upgraded; 0 leaves that measurement out."""
    fault_kinds: tuple[str, ...] = ()
    """Only kinds whose name begins with one of these; none: all."""
    seed: int = 1
    """Decides which fault strikes whom, when."""

    @property
    def on_demand_above(self) -> int:
        """The server's setting. The lab's VPC is well below four fifths of it, so that it can be crossed both ways;
        under faults all but one VPC are preloaded whatever the churn adds, and can be compared."""
        return self.ports + ROOM if self.faults else 10 + self.ports * 3 // 2


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One claim about the network, and what real packets said."""

    name: str
    expectation: str
    measured: str
    passed: bool


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table "what it must reach"."""

    name: str
    goal: str
    measured: str
    reached: bool | None
    """None: measured for information, no bar set."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of the lab and how long it took."""

    name: str
    seconds: float


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """`ports` ports one after another against all at once."""

    ports: int
    serial_ms: float
    batch_ms: float


class Provisioned(msgspec.Struct, frozen=True, kw_only=True):
    """The main job: one POST with all ports."""

    ports: int
    active: int
    created_ms: float
    """POST -> 201."""
    active_ms: float
    """POST -> all ACTIVE."""
    errors: tuple[str, ...] = ()


class HostFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One host by itself, driven through its agent's gRPC server: goal state sent -> acknowledged."""

    scales: tuple[Scale, ...] = ()
    ports: int = 0
    """Ports it carried when its memory was read."""
    rss_mib: float = 0.0
    private_mib: float = 0.0
    wiring_ms: float = 0.0
    """Of the largest message: spent on namespaces and interfaces, by the agent's own clock."""
    tables_ms: float = 0.0
    total_ms: float = 0.0


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    versions: dict[str, str]
    load_average: float
    disk: str
    """File system of the server's database and the agents' journals."""
    at: str


class LabResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a lab found; `report.json` is this record."""

    lab_id: str
    driver: str
    driver_note: str
    hosts: int
    provisioned: Provisioned
    proofs: tuple[Proof, ...]
    goals: tuple[Goal, ...]
    steps: tuple[Step, ...]
    scales: tuple[Scale, ...]
    singles_ms: tuple[float, ...]
    """Single ports by the fast path, POST to ACTIVE."""
    host: HostFigures
    machine: MachineFacts
    problems: tuple[str, ...] = ()
    """What could not be measured, and why."""
    normal_ms: tuple[float, ...] = ()
    """Single ports by the normal path, over the bus."""
    rule_changes_ms: tuple[float, ...] = ()
    """From the request to the packets of one host, for each host and change of a rule."""
    first_packets_ms: tuple[float, ...] = ()
    """By how much the first packet between two that are strangers was slower than the second."""
    failovers_ms: tuple[float, ...] = ()
    """From the threshold of a load balancer's member's health check until no connection went there any more."""
    faults: Campaign | None = None
    """What a campaign of faults found; None: there was none."""

    @property
    def passed(self) -> bool:
        """All ports ACTIVE, every proof passed, nothing left undone. A goal missed fails no lab: machines differ."""
        whole = self.provisioned.active == self.provisioned.ports
        proved = bool(self.proofs) and all(proof.passed for proof in self.proofs)
        return whole and not self.problems and proved and (self.faults is None or self.faults.passed)

    @property
    def last_line(self) -> str:
        """The line the lab ends with."""
        ports = f"{self.provisioned.active:,}/{self.provisioned.ports:,} ports ACTIVE"
        if self.faults is not None:
            ports += f", {self.faults.last_line}"
        failed = [proof.name for proof in self.proofs if not proof.passed]
        if self.passed:
            return f"{ports}, all proofs passed"
        if failed:
            return f"{ports}, {len(failed)} of {len(self.proofs)} proofs FAILED: {'; '.join(failed)}"
        return f"{ports}; not finished: {'; '.join(self.problems) or 'no proof was run'}"


def percentile(values: tuple[float, ...] | list[float], fraction: float) -> float:
    """The value below which that fraction (0.99, not 99: ValueError) of the (non-empty) sample lies: nearest rank."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"{fraction} is no fraction of a sample")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]
