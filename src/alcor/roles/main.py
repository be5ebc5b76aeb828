"""The command line: `alcor server | agent | lab | sim | bench | trace | pki`. A role is imported only when asked for.

Called by the `alcor` script. Every error a user can mend ends as one line on standard error and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from alcor import __version__
from alcor.roles import bench
from alcor.roles.config import AgentRoleConfig, ConfigError, ServerConfig, load

app = typer.Typer(
    name="alcor",
    help="A cloud-native SDN platform: virtual networks for every VM and container of a region.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench.app, name="bench")

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file; see docs/configuration.md.")]


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"alcor {__version__}")
        raise typer.Exit


@app.command()
def server(
    config: ConfigFile = None,
    listen: Annotated[str | None, typer.Option(help="address:port of the REST API [127.0.0.1:9696].")] = None,
    database: Annotated[Path | None, typer.Option(help="The store's file.")] = None,
    tls_dir: Annotated[Path | None, typer.Option(help="ca.pem, controller.pem, controller-key.pem.")] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
) -> None:
    """Runs the control plane: REST API, store, goal state, paths to the agents.

    Settings: flags, then ALCOR_SERVER_* variables, then the file. Stops on SIGTERM or Ctrl-C.
    """
    from alcor.roles.server import run

    flags: dict[str, object] = {"listen": listen, "database": database, "tls_dir": tls_dir, "log_level": log_level}
    run(load(ServerConfig, config, os.environ, flags, prefix="ALCOR_SERVER_"))


@app.command()
def agent(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="The node's name [this machine's].")] = None,
    listen: Annotated[str | None, typer.Option(help="address:port of the gRPC server [underlay_ip:50001].")] = None,
    driver: Annotated[str | None, typer.Option(help="ebpf or fake.")] = None,
    underlay_device: Annotated[str | None, typer.Option(help="The device of the tunnel end.")] = None,
    underlay_ip: Annotated[str | None, typer.Option(help="The address of the tunnel end.")] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait until the agent is dead or hung, serve in its place, yield.")
    ] = False,
) -> None:
    """Runs one host's agent: programs its data plane as the controller says, and reports back.

    Settings: flags, then ALCOR_AGENT_* variables, then the file. What is programmed forwards on when the agent stops.
    """
    from alcor.roles.agent import run

    flags: dict[str, object] = {
        "host": host,
        "listen": listen,
        "driver": driver,
        "underlay_device": underlay_device,
        "underlay_ip": underlay_ip,
        "log_level": log_level,
    }
    run(load(AgentRoleConfig, config, os.environ, flags, prefix="ALCOR_AGENT_"), standby=standby)


@app.command()
def lab(
    hosts: Annotated[int | None, typer.Option(min=1, max=4000, help="Compute hosts [100].")] = None,
    ports: Annotated[int | None, typer.Option(min=1, max=100_000, help="Ports, over all hosts [1000].")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab running at the end.")] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Only remove what an earlier lab left, kept ones too.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Directory for report.html and report.json.")] = None,
    driver: Annotated[str, typer.Option(help="ebpf, fake, or auto: ebpf if this machine can.")] = "auto",
    pool: Annotated[int, typer.Option(min=0, max=1000, help="Ready namespaces per agent.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Provision and prove only; leave the measurements out.")
    ] = False,
    faults: Annotated[bool, typer.Option("--faults", help="Inject faults instead of measuring; 10 hosts.")] = False,
    seed: Annotated[int, typer.Option(help="Of --faults: decides which fault strikes whom, when.")] = 1,
    fault: Annotated[
        list[str] | None, typer.Option(help="Of --faults: only those whose name begins so; may repeat.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Of --faults: how many strike.")] = 200,
) -> None:
    """Brings up hosts in namespaces, creates ports by one POST, proves the network with real packets, reports.

    With --faults: kills, hangs, cuts, fills and corrupts what it brought up, and proves after each that all is well.
    """
    from msgspec.structs import replace

    from alcor.lab.results import LabOptions
    from alcor.lab.rundir import DEFAULT_RUN_DIR, cleanup
    from alcor.roles.lab import run

    if clean:
        cleanup(DEFAULT_RUN_DIR, kept=True)
        return
    usual_hosts, usual_ports = (10, 60) if faults else (100, 1000)
    options = LabOptions(
        hosts=hosts or usual_hosts,
        ports=ports or usual_ports,
        keep=keep,
        report=report,
        driver=driver,
        pool=pool,
        faults=rounds if faults else 0,
        fault_kinds=tuple(fault or ()),
        seed=seed,
    )
    if quick:
        options = replace(options, samples=0, scales=(), host_scales=())
    raise typer.Exit(run(options))


@app.command()
def sim(
    seed: Annotated[int, typer.Option(min=0, help="Of the first schedule.")] = 1,
    schedules: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many, with seeds in a row.")] = 1000,
    hosts: Annotated[int, typer.Option(min=2, max=50, help="Hosts in each.")] = 4,
    report: Annotated[Path | None, typer.Option(help="Directory for sim.json.")] = None,
) -> None:
    """Plays the control plane and its agents on virtual time, under faults drawn by a seed, and checks its promises."""
    from alcor.roles.sim import run

    raise typer.Exit(run(seed, schedules, hosts, report))


@app.command()
def trace(
    source: Annotated[str, typer.Argument(help="Id of the port that sends, or an address outside.")],
    destination: Annotated[str, typer.Argument(help="Id of a port, or an address.")],
    protocol: Annotated[str, typer.Option(help="tcp, udp, icmp, ... or a number.")] = "icmp",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Destination port.")] = None,
    api: Annotated[str, typer.Option(help="Where the API is.")] = "http://127.0.0.1:9696",
    control_socket: Annotated[Path | None, typer.Option(help="Of this host's agent: its counters beside it.")] = None,
) -> None:
    """Why a packet arrives or not: every step of it by desired state, and what the host has counted."""
    from alcor.roles.trace import run

    question: dict[str, object] = {"protocol": protocol}
    for end, value, by_id in (
        ("source", source, "source_port_id"),
        ("destination", destination, "destination_port_id"),
    ):
        is_port = len(value) == 36 and value.count("-") == 4
        question[by_id if is_port else f"{end}_ip"] = value
    if port is not None:
        question["destination_port"] = port
    raise typer.Exit(run(api, question, control_socket))


@app.command()
def pki(
    directory: Annotated[Path, typer.Argument(help="Where the CA is, or is to be made.")],
    name: Annotated[str, typer.Argument(help="Name of the machine to issue to.")],
    role: Annotated[str, typer.Option(help="controller or agent.")] = "agent",
    address: Annotated[list[str] | None, typer.Option(help="An address of the machine; may repeat.")] = None,
) -> None:
    """Makes a CA if there is none, and issues a certificate and credentials of the bus into DIRECTORY/NAME (for labs
    and first installs)."""
    from alcor.bus import credentials
    from alcor.kit import pki as authority

    bus_roles = {"controller": credentials.CONTROLLER, "agent": credentials.HOST}
    if role not in bus_roles:
        raise ConfigError(f"role '{role}' is not known; known are: {', '.join(bus_roles)}")
    authority.make_ca(directory)
    authority.issue(directory, directory / name, name, role=role, addresses=address or ())
    credentials.enrol(directory, directory / name, name, role=bus_roles[role])
    typer.echo(f"{directory / name}: {', '.join(sorted(path.name for path in (directory / name).iterdir()))}")


def main() -> None:
    """Runs the command line; a wrong setting is one line, not a traceback."""
    try:
        app()
    except ConfigError as error:
        sys.exit(_complain(str(error)))


def _complain(message: str) -> int:
    print(f"alcor: {message}", file=sys.stderr)  # noqa: T201 - before logging is set up
    return 2
