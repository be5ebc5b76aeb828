"""The lab's report: report.json (the record itself) and report.html (one self-contained file to look at).

Called by run and by whoever has a report.json: `render` is pure, so an old report can be drawn again.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
import msgspec

from alcor.lab import plots
from alcor.lab.results import LabResult, percentile
from alcor.lab.tally import lines

JSON_NAME, HTML_NAME = "report.json", "report.html"
RATE_GOAL = 35_000
SHOWN_HOSTS = 120
SHOWN_DOTS = 12


class HostBox(msgspec.Struct, frozen=True, kw_only=True):
    """A host in the topology picture: its place and the places of its containers' dots."""

    x: float
    y: float
    dots: tuple[tuple[float, float, int], ...]


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The topology picture, as numbers."""

    width: int
    height: int
    box_width: float
    box_height: float
    hosts: tuple[HostBox, ...]
    columns: int
    hidden: int
    """Hosts that there was no room for."""


def write(result: LabResult, directory: Path) -> Path:
    """Writes both files; answers the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / JSON_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    page = directory / HTML_NAME
    page.write_text(render(result))
    return page


def read(path: Path) -> LabResult:
    """The record in a report.json. Raises msgspec.ValidationError when it is none."""
    return msgspec.json.decode(path.read_bytes(), type=LabResult)


def render(result: LabResult) -> str:
    """The page. Pure: same record, same bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["ms"] = duration
    return environment.get_template(HTML_NAME).render(
        result=result,
        tiles=tiles(result),
        faults=lines(result.faults.strikes) if result.faults else [],
        figures=figures(result),
        picture=picture(result.hosts, result.provisioned.ports),
        slowest=max((step.seconds for step in result.steps), default=1.0),
        total_s=sum(step.seconds for step in result.steps),
    )


def duration(value_ms: float) -> str:
    """Milliseconds for people: three figures, seconds from one second on."""
    if value_ms >= 1000:
        return f"{value_ms / 1000:.2f} s"
    return f"{value_ms:.0f} ms" if value_ms >= 100 else f"{value_ms:.1f} ms"


def tiles(result: LabResult) -> list[tuple[str, str, str]]:
    """(figure, what it is, small print) for the head of the page."""
    done = result.provisioned
    found = [
        (f"{done.active:,}/{done.ports:,}", "ports ACTIVE", f"on {result.hosts:,} hosts, from one POST"),
        (duration(done.active_ms), "POST to all ACTIVE", f"accepted and durable after {duration(done.created_ms)}"),
    ]
    if result.singles_ms:
        median, tail = percentile(result.singles_ms, 0.5), percentile(result.singles_ms, 0.99)
        found.append((duration(median), "single port, p50", f"p99 {duration(tail)}, {len(result.singles_ms)} samples"))
    if result.host.scales:
        rate = max(scale.ports * 60_000 / scale.batch_ms for scale in result.host.scales)
        found.append((f"{rate:,.0f}", "ports per minute", "on one host, acknowledged"))
    if result.faults:
        struck = result.faults.strikes
        held = sum(strike.held for strike in struck)
        found.append((f"{held:,}/{len(struck):,}", "faults with every promise kept", f"seed {result.faults.seed}"))
    passed = sum(proof.passed for proof in result.proofs)
    found.append((f"{passed}/{len(result.proofs)}", "proofs passed", "with real packets" * (result.driver == "ebpf")))
    return found


def figures(result: LabResult) -> list[tuple[str, str, str]]:
    """(title, caption, SVG) of every plot there are numbers for."""
    found = []
    if result.faults:
        whole: dict[str, list[float]] = {line.kind: [] for line in lines(result.faults.strikes)}
        around: dict[str, list[float]] = {kind: [] for kind in whole}
        for strike in result.faults.strikes:
            if strike.recovered:
                whole[strike.kind].append(strike.recovery_ms)
            if strike.around_ms is not None:
                around[strike.kind].append(strike.around_ms)
        found.append(
            (
                "Time to recover",
                "A dot for every fault: from its end until every host carried exactly what the API shows and new ports "
                "were ACTIVE; and, where a path leads around it, from its beginning until a port made on a struck host "
                "was ACTIVE.",
                plots.recoveries(whole, around),
            )
        )
    if result.scales:
        found.append(
            (
                "Provisioning, end to end",
                "From POST until the API says ACTIVE. Serial: each port is ACTIVE before the next is asked for. "
                "Batch: one POST with all. The VPC is on every host: each POST is news to all "
                f"{result.hosts:,} agents, and they share this machine's {result.machine.cores} cores.",
                plots.latency(result.scales, "serial", "batch", "POST to ACTIVE"),
            )
        )
    if result.host.scales:
        found.append(
            (
                "Programming one host",
                "Goal state sent to one agent until acknowledged. Serial: one port per message, each acknowledged "
                "before the next. Parallel: one message with all.",
                plots.latency(result.host.scales, "serial", "parallel", "sent to acknowledged"),
            )
        )
    if result.singles_ms:
        found.append(
            (
                "Single ports through the fast path",
                "One port at a time on the idle lab, hosts in turn.",
                plots.distribution(result.singles_ms),
            )
        )
    if result.host.scales:
        best = max(result.host.scales, key=lambda scale: scale.ports)
        found.append(
            (
                "Ports per minute on one host",
                f"{best.ports:,} container ports, each with its own namespace, veth, address and route.",
                plots.rates(
                    [
                        ("one per message", best.ports * 60_000 / best.serial_ms, plots.ONE),
                        ("all in one message", best.ports * 60_000 / best.batch_ms, plots.MANY),
                    ],
                    RATE_GOAL,
                ),
            )
        )
    return found


def picture(hosts: int, ports: int) -> Picture:
    """Where everything is in the topology picture. Pure."""
    shown = min(hosts, SHOWN_HOSTS)
    columns = min(20, shown)
    rows = -(-shown // columns)
    per_host = min(SHOWN_DOTS, max(1, -(-ports // hosts)))
    width, gap, edge = 1000, 8.0, 2.0
    box_width = min(90.0, (width - 2 * edge - gap * (columns - 1)) / columns)
    dot_columns = min(per_host, 5 if box_width < 60 else 6)
    box_height = 16 + 9.0 * -(-per_host // dot_columns)
    left = (width - columns * box_width - gap * (columns - 1)) / 2
    boxes = []
    for number in range(shown):
        row, column = divmod(number, columns)
        x = left + column * (box_width + gap)
        y = 178 + row * (box_height + gap)
        carried = min(per_host, ports // hosts + (number < ports % hosts))
        pad = (box_width - 7.0 * dot_columns) / 2 + 3.5
        dots = tuple(
            (x + pad + 7.0 * (dot % dot_columns), y + 13 + 9.0 * (dot // dot_columns), dot % 2)
            for dot in range(carried)
        )
        boxes.append(HostBox(x=x, y=y, dots=dots))
    height = int(178 + rows * (box_height + gap) + (22 if hosts > shown else 4))
    return Picture(
        width=width,
        height=height,
        box_width=box_width,
        box_height=box_height,
        hosts=tuple(boxes),
        columns=columns,
        hidden=hosts - shown,
    )
