"""The command line: `alcor server | agent | lab | sim | bench | trace | pki`. A role is imported only when asked for.

Called by the `alcor` script. Every error a user can mend ends as one line on standard error and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from alcor import __version__
from alcor.model.addresses import parse_ip
from alcor.roles import bench
from alcor.roles.config import AgentRoleConfig, ConfigError, ServerConfig, load

CONFIG = click.option("--config", "-c", type=Path, help="TOML file; see docs/configuration.md.")
LOG_LEVEL = click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")
INTERRUPTED = 128 + 2
"""What shells call the end of a command by SIGINT."""


@click.group(cls=bench.InOrder, context_settings={"show_default": True, "max_content_width": 120})
@click.version_option(
    __version__, prog_name="alcor", message="%(prog)s %(version)s", help="Print the version and leave."
)
def app() -> None:
    """A cloud-native SDN platform: virtual networks for every VM and container of a region."""


@app.command()
@CONFIG
@click.option("--listen", help="address:port of the REST API [127.0.0.1:9696].")
@click.option("--database", type=Path, help="The store's file.")
@click.option("--tls-dir", type=Path, help="ca.pem, controller.pem, controller-key.pem.")
@LOG_LEVEL
def server(
    config: Path | None, listen: str | None, database: Path | None, tls_dir: Path | None, log_level: str | None
) -> None:
    """Runs the control plane: REST API, store, goal state, paths to the agents.

    Settings: flags, then ALCOR_SERVER_* variables, then the file. Stops on SIGTERM or Ctrl-C.
    """
    from alcor.roles.server import run

    flags: dict[str, object] = {"listen": listen, "database": database, "tls_dir": tls_dir, "log_level": log_level}
    run(load(ServerConfig, config, os.environ, flags, prefix="ALCOR_SERVER_"))


@app.command()
@CONFIG
@click.option("--host", help="The node's name [this machine's].")
@click.option("--listen", help="address:port of the gRPC server [underlay_ip:50001].")
@click.option("--driver", help="ebpf or fake.")
@click.option("--underlay-device", help="The device of the tunnel end.")
@click.option("--underlay-ip", help="The address of the tunnel end.")
@LOG_LEVEL
@click.option("--standby", is_flag=True, help="Wait until the agent is dead or hung, serve in its place, yield.")
def agent(
    config: Path | None,
    host: str | None,
    listen: str | None,
    driver: str | None,
    underlay_device: str | None,
    underlay_ip: str | None,
    log_level: str | None,
    standby: bool,
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
@click.option("--hosts", type=click.IntRange(1, 4000), help="Compute hosts [100].")
@click.option("--ports", type=click.IntRange(1, 100_000), help="Ports, over all hosts [1000].")
@click.option("--keep", is_flag=True, help="Leave the lab running at the end.")
@click.option("--clean", is_flag=True, help="Only remove what an earlier lab left, kept ones too.")
@click.option("--report", type=Path, help="Directory for report.html and report.json.")
@click.option("--driver", default="auto", help="ebpf, fake, or auto: ebpf if this machine can.")
@click.option("--pool", type=click.IntRange(0, 1000), default=2, show_default=True, help="Ready namespaces per agent.")
@click.option("--quick", is_flag=True, help="Provision and prove only; leave the measurements out.")
@click.option("--faults", is_flag=True, help="Inject faults instead of measuring; 10 hosts.")
@click.option("--seed", type=int, default=1, help="Of --faults: decides which fault strikes whom, when.")
@click.option("--fault", multiple=True, help="Of --faults: only those whose name begins so; may repeat.")
@click.option("--rounds", type=click.IntRange(1, 10_000), default=200, help="Of --faults: how many strike.")
def lab(
    hosts: int | None,
    ports: int | None,
    keep: bool,
    clean: bool,
    report: Path | None,
    driver: str,
    pool: int,
    quick: bool,
    faults: bool,
    seed: int,
    fault: tuple[str, ...],
    rounds: int,
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
        fault_kinds=fault,
        seed=seed,
    )
    if quick:
        options = replace(options, samples=0, scales=(), host_scales=())
    sys.exit(run(options))


@app.command()
@click.option("--seed", type=click.IntRange(0), default=1, help="Of the first schedule.")
@click.option("--schedules", type=click.IntRange(1, 1_000_000), default=1000, help="How many, with seeds in a row.")
@click.option("--hosts", type=click.IntRange(2, 50), default=4, help="Hosts in each.")
@click.option("--report", type=Path, help="Directory for sim.json.")
def sim(seed: int, schedules: int, hosts: int, report: Path | None) -> None:
    """Plays the control plane and its agents on virtual time, under faults drawn by a seed, and checks its promises."""
    from alcor.roles.sim import run

    sys.exit(run(seed, schedules, hosts, report))


@app.command()
@click.argument("source", help="Id of the port that sends, or an address outside.")
@click.argument("destination", help="Id of a port, or an address.")
@click.option("--protocol", default="icmp", help="tcp, udp, icmp, ... or a number.")
@click.option("--port", type=click.IntRange(1, 65535), help="Destination port.")
@click.option("--api", default="http://127.0.0.1:9696", help="Where the API is.")
@click.option("--control-socket", type=Path, help="Of this host's agent: its counters beside it.")
def trace(
    source: str, destination: str, protocol: str, port: int | None, api: str, control_socket: Path | None
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
    sys.exit(run(api, question, control_socket))


@app.command()
@click.argument("directory", type=Path, help="Where the CA is, or is to be made.")
@click.argument("name", help="Name of the machine to issue to.")
@click.option("--role", default="agent", help="controller or agent.")
@click.option("--address", multiple=True, help="An address of the machine; may repeat.")
def pki(directory: Path, name: str, role: str, address: tuple[str, ...]) -> None:
    """Makes a CA if there is none, and issues a certificate and credentials of the bus into DIRECTORY/NAME (for labs
    and first installs)."""
    from alcor.bus import credentials
    from alcor.kit import pki as authority

    bus_roles = {"controller": credentials.CONTROLLER, "agent": credentials.HOST}
    if role not in bus_roles:
        raise ConfigError(f"role '{role}' is not known; known are: {', '.join(bus_roles)}")
    for one in address:
        try:
            parse_ip(one)
        except ValueError as error:
            raise ConfigError(f"--address: {error}") from None
    authority.make_ca(directory)
    authority.issue(directory, directory / name, name, role=role, addresses=address)
    credentials.enrol(directory, directory / name, name, role=bus_roles[role])
    click.echo(f"{directory / name}: {', '.join(sorted(path.name for path in (directory / name).iterdir()))}")


app.add_command(bench.app, "bench")


def main() -> None:
    """Runs the command line; a wrong setting is one line, not a traceback."""
    try:
        app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(INTERRUPTED)
    except ConfigError as error:
        sys.exit(_complain(str(error)))


def _complain(message: str) -> int:
    print(f"alcor: {message}", file=sys.stderr)  # noqa: T201 - before logging is set up
    return 2
