"""`alcor bench NAME` or `all`: measures, prints the table of goals, writes JSON. Called by main.

A bench that misses a goal still exits with 0: it measures, it does not judge. It exits with 1 when it cannot measure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

if TYPE_CHECKING:
    from alcor.lab.results import Goal

app = typer.Typer(help="Measures what Alcor promises, with a reference beside it. JSON out.", no_args_is_help=True)

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Directory for NAME.json.")]
Progress = Callable[[str], None]


class Bench(Protocol):
    """What every bench answers: a msgspec Struct with the lines of the table that it measured."""

    @property
    def goals(self) -> tuple[Goal, ...]: ...


@app.command()
def api(
    ports: Annotated[int, typer.Option(min=10_000, help="Ports by bulk POSTs, in all.")] = 100_000,
    clients: Annotated[int, typer.Option(min=2, max=256, help="Concurrent clients of the single-port part.")] = 64,
    hosts: Annotated[int, typer.Option(min=0, help="Bind the ports to so many hosts; 0: unbound.")] = 0,
    out: Out = None,
) -> None:
    """REST to durable commit: bulk POSTs of 1,000 ports, and single ports from one and from many clients."""
    from alcor.bench.api import run

    _measure("api", out, lambda say: run(ports, 1000, clients, say, hosts=hosts))


@app.command()
def host(
    size: Annotated[list[int] | None, typer.Option(help="Numbers of ports; may repeat [1000, 5000].")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=20)] = 3,
    out: Out = None,
) -> None:
    """One host: container ports a minute, beside a C program that makes only the namespaces and veths."""
    from alcor.bench.host import run

    _measure("host", out, lambda say: run(size or (1000, 5000), repeats, say))


@app.command()
def fastpath(
    hosts: Annotated[int, typer.Option(min=1, max=100, help="Hosts of the lab.")] = 10,
    samples: Annotated[int, typer.Option(min=10, max=10_000, help="Ports, one at a time.")] = 200,
    out: Out = None,
) -> None:
    """One port at a time through the fast path: POST to ACTIVE."""
    from alcor.bench.fastpath import run

    _measure("fastpath", out, lambda say: run(hosts=hosts, samples=samples, progress=say))


@app.command()
def bus(
    hosts: Annotated[int, typer.Option(min=100, max=10_000, help="Hosts that share one VPC.")] = 1000,
    storm: Annotated[int, typer.Option(min=100, max=50_000, help="Hosts that come back at once.")] = 10_000,
    away: Annotated[int, typer.Option(min=10, max=100_000, help="Objects of the host that was away.")] = 10_000,
    out: Out = None,
) -> None:
    """The normal path: one change to a thousand hosts, ten thousand at once, dead among living, one that was away."""
    from alcor.bench.bus import run

    _measure("bus", out, lambda say: run(hosts, storm, say, away=away))


@app.command()
def dataplane(rounds: Annotated[int, typer.Option(min=1, max=50)] = 5, out: Out = None) -> None:
    """Container to container across two hosts, beside a bare veth and Linux bridge + VXLAN."""
    from alcor.bench.dataplane import run

    _measure("dataplane", out, lambda say: run(rounds, say))


@app.command()
def policy(rounds: Annotated[int, typer.Option(min=1, max=50)] = 5, out: Out = None) -> None:
    """Security groups: a packet and a connection with 10, 100 and 10,000 rules, beside bridge + VXLAN + nftables."""
    from alcor.bench.policy import run

    _measure("policy", out, lambda say: run(rounds, say))


@app.command()
def qos(rounds: Annotated[int, typer.Option(min=1, max=50)] = 5, out: Out = None) -> None:
    """Quality of service: does TCP get its port's rate, 1 Mbit/s to 1 Gbit/s, and what does a queue cost a packet?"""
    from alcor.bench.qos import run

    _measure("qos", out, lambda say: run(rounds, say))


@app.command()
def ondemand(out: Out = None) -> None:
    """Large VPCs on demand: lookups a second at the controller, first packets between containers."""
    from alcor.bench.ondemand import run

    _measure("ondemand", out, lambda say: run(progress=say))


@app.command()
def nat(rounds: Annotated[int, typer.Option(min=1, max=50)] = 5, out: Out = None) -> None:
    """EIPs: a packet from EIP to EIP across two hosts beside the overlay, with 10 and 1,000 EIPs on the host."""
    from alcor.bench.nat import run

    _measure("nat", out, lambda say: run(rounds, say))


@app.command()
def routing(rounds: Annotated[int, typer.Option(min=1, max=50)] = 5, out: Out = None) -> None:
    """Routers: a packet between two networks beside the overlay and a routing Linux host, with 10 and 1,000 routes."""
    from alcor.bench.routing import run

    _measure("routing", out, lambda say: run(rounds, say))


@app.command()
def lb(rounds: Annotated[int, typer.Option(min=1, max=50)] = 5, out: Out = None) -> None:
    """Load balancers: a packet and a connection beside the overlay, nftables and HAProxy, with 10 and 1,000 members."""
    from alcor.bench.lb import run

    _measure("lb", out, lambda say: run(rounds, say))


@app.command("all")
def everything(out: Out = None) -> None:
    """All of them, one after another."""
    api(out=out)
    host(out=out)
    fastpath(out=out)
    bus(out=out)
    dataplane(out=out)
    policy(out=out)
    qos(out=out)
    ondemand(out=out)
    nat(out=out)
    routing(out=out)
    lb(out=out)


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
        raise typer.Exit(1) from None
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
