"""`alcor bench NAME` or `all`: measures, prints the table of goals, writes JSON. Called by main.

A bench that misses a goal still exits with 0: it measures, it does not judge. It exits with 1 when it cannot measure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from alcor.lab.results import Goal

OUT = click.option("--out", "-o", type=Path, help="Directory for NAME.json.")
ROUNDS = click.option("--rounds", type=click.IntRange(1, 50), default=5)
Progress = Callable[[str], None]


class Bench(Protocol):
    """What every bench answers: a msgspec Struct with the lines of the table that it measured."""

    @property
    def goals(self) -> tuple[Goal, ...]: ...


class InOrder(click.Group):
    """Lists its commands as they were added, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder)
def app() -> None:
    """Measures what Alcor promises, with a reference beside it. JSON out."""


@app.command()
@click.option("--ports", type=click.IntRange(10_000), default=100_000, help="Ports by bulk POSTs, in all.")
@click.option("--clients", type=click.IntRange(2, 256), default=64, help="Concurrent clients of the single-port part.")
@click.option("--hosts", type=click.IntRange(0), default=0, help="Bind the ports to so many hosts; 0: unbound.")
@OUT
def api(ports: int, clients: int, hosts: int, out: Path | None) -> None:
    """REST to durable commit: bulk POSTs of 1,000 ports, and single ports from one and from many clients."""
    from alcor.bench.api import run

    _measure("api", out, lambda say: run(ports, 1000, clients, say, hosts=hosts))


@app.command()
@click.option("--size", type=int, multiple=True, help="Numbers of ports; may repeat [1000, 5000].")
@click.option("--repeats", type=click.IntRange(1, 20), default=3)
@OUT
def host(size: tuple[int, ...], repeats: int, out: Path | None) -> None:
    """One host: container ports a minute, beside a C program that makes only the namespaces and veths."""
    from alcor.bench.host import run

    _measure("host", out, lambda say: run(size or (1000, 5000), repeats, say))


@app.command()
@click.option("--hosts", type=click.IntRange(1, 100), default=10, help="Hosts of the lab.")
@click.option("--samples", type=click.IntRange(10, 10_000), default=200, help="Ports, one at a time.")
@click.option("--pool", type=click.IntRange(0, 1000), default=2, show_default=True, help="Ready namespaces per agent.")
@OUT
def fastpath(hosts: int, samples: int, pool: int, out: Path | None) -> None:
    """One port at a time through the fast path: POST to ACTIVE."""
    from alcor.bench.fastpath import run

    _measure("fastpath", out, lambda say: run(hosts=hosts, samples=samples, pool=pool, progress=say))


@app.command()
@click.option("--hosts", type=click.IntRange(100, 10_000), default=1000, help="Hosts that share one VPC.")
@click.option("--storm", type=click.IntRange(100, 50_000), default=10_000, help="Hosts that come back at once.")
@click.option("--away", type=click.IntRange(10, 100_000), default=10_000, help="Objects of the host that was away.")
@OUT
def bus(hosts: int, storm: int, away: int, out: Path | None) -> None:
    """The normal path: one change to a thousand hosts, ten thousand at once, dead among living, one that was away."""
    from alcor.bench.bus import run

    _measure("bus", out, lambda say: run(hosts, storm, say, away=away))


@app.command()
@ROUNDS
@OUT
def dataplane(rounds: int, out: Path | None) -> None:
    """Container to container across two hosts, beside a bare veth and Linux bridge + VXLAN."""
    from alcor.bench.dataplane import run

    _measure("dataplane", out, lambda say: run(rounds, say))


@app.command()
@ROUNDS
@OUT
def policy(rounds: int, out: Path | None) -> None:
    """Security groups: a packet and a connection with 10, 100 and 10,000 rules, beside bridge + VXLAN + nftables."""
    from alcor.bench.policy import run

    _measure("policy", out, lambda say: run(rounds, say))


@app.command()
@ROUNDS
@OUT
def qos(rounds: int, out: Path | None) -> None:
    """Quality of service: does TCP get its port's rate, 1 Mbit/s to 1 Gbit/s, and what does a queue cost a packet?"""
    from alcor.bench.qos import run

    _measure("qos", out, lambda say: run(rounds, say))


@app.command()
@OUT
def ondemand(out: Path | None) -> None:
    """Large VPCs on demand: lookups a second at the controller, first packets between containers."""
    from alcor.bench.ondemand import run

    _measure("ondemand", out, lambda say: run(progress=say))


@app.command()
@ROUNDS
@OUT
def nat(rounds: int, out: Path | None) -> None:
    """EIPs and shared addresses: a packet across two hosts beside the overlay, with 10 and 1,000 EIPs on the host."""
    from alcor.bench.nat import run

    _measure("nat", out, lambda say: run(rounds, say))


@app.command()
@ROUNDS
@OUT
def routing(rounds: int, out: Path | None) -> None:
    """Routers: a packet between two networks beside the overlay and a routing Linux host, with 10 and 1,000 routes."""
    from alcor.bench.routing import run

    _measure("routing", out, lambda say: run(rounds, say))


@app.command()
@ROUNDS
@OUT
def lb(rounds: int, out: Path | None) -> None:
    """Load balancers: a packet and a connection beside the overlay, nftables and HAProxy, with 10 and 1,000 members."""
    from alcor.bench.lb import run

    _measure("lb", out, lambda say: run(rounds, say))


@app.command("all")
@OUT
@click.pass_context
def everything(context: click.Context, out: Path | None) -> None:
    """All of them, one after another."""
    for one in (api, host, fastpath, bus, dataplane, policy, qos, ondemand, nat, routing, lb):
        context.invoke(one, out=out)


def _measure(name: str, out: Path | None, run: Callable[[Callable[[str], None]], Bench]) -> None:
    import msgspec
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

    from alcor.dataplane.base import DataPlaneError
    from alcor.lab.results import LabError

    console = Console(stderr=True)
    try:
        with Status(f"bench {name}", console=console) as status:
            result = run(lambda text: status.update(f"bench {name}: {text}"))
    except (DataPlaneError, LabError, OSError) as error:
        print(f"alcor bench {name}: {error}", file=sys.stderr)  # noqa: T201 - the user's answer, not a log
        sys.exit(1)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    if out is None:
        print(text)  # noqa: T201 - the JSON is the output
    else:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(text + "\n")
        console.print(f"{out / name}.json")
    table = Table("what", "goal", "measured", "", title=f"bench {name}")
    for goal in result.goals:
        table.add_row(goal.name, goal.goal, goal.measured, _mark(goal.reached))
    console.print(table)


def _mark(reached: bool | None) -> str:
    return "" if reached is None else "reached" if reached else "[bold red]not reached"
