"""Real nats-servers for tests, with and without credentials. Called by the tests of this folder and of others."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from alcor.bus import credentials
from alcor.bus.embedded import EmbeddedBus, EmbeddedOptions
from alcor.bus.nats import NatsBus, NatsOptions
from alcor.bus.tls import client_context
from alcor.kit import pki


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def open_server(directory: Path, *, cluster: int = 0, routes: Sequence[int] = ()) -> EmbeddedBus:
    """A server that lets anybody in."""
    return EmbeddedBus(
        EmbeddedOptions(
            directory=directory,
            port=free_port(),
            cluster=f"127.0.0.1:{cluster}" if cluster else "",
            routes=[f"127.0.0.1:{route}" for route in routes],
        )
    )


def make_region(directory: Path, *hosts: str) -> None:
    """Certificates and credentials of a controller and these hosts, as `alcor pki` makes them."""
    pki.make_ca(directory / "ca")
    for name, role, bus_role in (
        ("controller", "controller", credentials.CONTROLLER),
        *((host, "agent", credentials.HOST) for host in hosts),
    ):
        pki.issue(directory / "ca", directory / name, name, role=role, addresses=["127.0.0.1"])
        credentials.enrol(directory / "ca", directory / name, name, role=bus_role)


def guarded_server(directory: Path) -> EmbeddedBus:
    """A server of that region: TLS both ways, and credentials."""
    return EmbeddedBus(
        EmbeddedOptions(
            directory=directory / "nats",
            port=free_port(),
            trust=credentials.read_trust(directory / "controller"),
            tls_dir=directory / "controller",
        )
    )


def guarded_cluster(directory: Path) -> tuple[EmbeddedBus, EmbeddedBus]:
    """Two servers of that region, TLS and credentials as above, and between them TLS of a CA of their own."""
    pki.make_ca(directory / "routes-ca")
    ports = free_port(), free_port()
    nodes = []
    for number, port in enumerate(ports):
        name = f"bus-{number}"
        pki.issue(directory / "ca", directory / name, name, role="controller", addresses=["127.0.0.1"])
        routes = directory / f"{name}-routes"
        pki.issue(directory / "routes-ca", routes, name, role="controller", addresses=["127.0.0.1"])
        nodes.append(
            EmbeddedBus(
                EmbeddedOptions(
                    directory=directory / f"{name}-nats",
                    port=free_port(),
                    trust=credentials.trust(directory / "ca"),
                    tls_dir=directory / name,
                    cluster=f"127.0.0.1:{port}",
                    routes=[f"127.0.0.1:{ports[1 - number]}"],
                    cluster_tls_dir=routes,
                )
            )
        )
    return nodes[0], nodes[1]


async def end_for_good(server: EmbeddedBus) -> None:
    """As when its machine dies: SIGKILL, and nobody starts it again."""
    assert server._task is not None
    server._task.cancel()
    await asyncio.gather(server._task, return_exceptions=True)
    os.kill(server.pid, signal.SIGKILL)


def client(directory: Path, url: str, name: str, role: str) -> NatsBus:
    """A client of that region, not started."""
    return NatsBus(
        NatsOptions(
            servers=[url],
            name=name,
            credentials=directory / name / "bus.creds",
            tls=client_context(directory / name, role),
            reconnect_s=0.05,
        )
    )


@asynccontextmanager
async def connection(*urls: str, name: str = "test") -> AsyncIterator[NatsBus]:
    """A connected client of servers that let anybody in."""
    bus = NatsBus(NatsOptions(servers=urls, name=name, reconnect_s=0.05, ping_s=0.5))
    bus.start()
    assert await bus.started(5.0)
    try:
        yield bus
    finally:
        await bus.close()
