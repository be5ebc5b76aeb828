"""`alcor server`: wires the control plane in one process. Called by main.

    api -> Committer -> SqliteStore           commands down
    Committer -> Publisher -> Delivery        goal state out, by commit, over `ways`
    Delivery -> HealthMonitor -> Publisher -> StatusLoop    words of hosts back, as commands

Everything lives in one task group: a part that fails (above all a store that cannot write) ends the process, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import signal
import socket
import sys
import time

import uvicorn
import uvloop
from starlette.applications import Starlette

from alcor.api.app import create_app
from alcor.kit import logs
from alcor.kit.clock import SystemClock
from alcor.kit.memory import Survivors
from alcor.loops.anchors import Anchors
from alcor.loops.commit import Committer
from alcor.loops.health import HealthMonitor
from alcor.loops.metrics import Metrics
from alcor.loops.publish import Publisher
from alcor.loops.reachability import Reachability
from alcor.loops.sharing import SharingLoop
from alcor.loops.status import StatusLoop
from alcor.loops.waiting import PortWaits
from alcor.paths.link import CONTROLLER, Credentials, CredentialsError, load_credentials
from alcor.roles import ways
from alcor.roles.activation import notify_ready, take_sockets
from alcor.roles.config import ConfigError, ServerConfig, is_loopback, parse_listen
from alcor.services.demand import demand_policy
from alcor.store.base import Changes, StoreError
from alcor.store.sqlite import SqliteStore

BACKLOG = 2048
SHUTDOWN_S = 5
KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than clients and proxies keep theirs, so that they close first."""
_log = logging.getLogger(__name__)


def run(config: ServerConfig) -> None:
    """Runs until told to stop. Raises ConfigError; exits with 1 when the store fails."""
    logs.set_up(config.log_level, role="server")
    try:
        credentials = load_credentials(config.tls_dir, CONTROLLER)
    except CredentialsError as error:
        raise ConfigError(str(error)) from None
    sockets = take_sockets(os.environ) or [_listen(config)]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a session on the fast path is a socket
    try:
        with Survivors():
            uvloop.run(_serve(config, credentials, sockets))
    except* StoreError as failures:
        for failure in failures.exceptions:
            _log.critical("the store failed: %s", failure)
        sys.exit(1)


def _listen(config: ServerConfig) -> socket.socket:
    host, port = parse_listen(config.listen)
    if not is_loopback(host) and not config.insecure_listen:
        raise ConfigError(
            f"listen = '{config.listen}' is reachable from other machines, and requests are not authenticated: "
            "listen on 127.0.0.1 (behind a proxy that authenticates), or set insecure_listen = true"
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.listen}: {error.strerror}") from None
    return listener


async def _serve(config: ServerConfig, credentials: Credentials, sockets: list[socket.socket]) -> None:
    config.database.parent.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(config.database)
    publisher = Publisher(store)
    anchors = Anchors(store)
    waits = PortWaits()

    def committed(revision: int, changes: Changes) -> None:
        publisher.committed(revision, changes)
        anchors.committed(changes)
        waits.committed(changes)

    committer = Committer(
        store,
        clock=SystemClock().now_ms,
        entropy=os.urandom,
        max_mtu=config.max_mtu,
        demand=demand_policy(config.on_demand_above),
        on_commit=committed,
    )
    status = StatusLoop(committer, random.random)
    metrics = Metrics()
    monitor = HealthMonitor(publisher, SystemClock().now_ms, time.monotonic, also=(metrics,))
    sharing = SharingLoop(committer, publisher, monitor)
    publisher.moved = sharing.moved
    committer.start()
    try:
        async with ways.delivery(config, credentials, committer.epoch, monitor) as path, asyncio.TaskGroup() as group:
            monitor.probes = path.probing
            metrics.watch(
                dials=lambda: path.dials,
                endings=lambda: path.endings,
                paths=path.paths,
                failing=path.failures,
                states=monitor.states,
                seen=monitor.seen,
                revision=store.revision,
                refused=lambda: ways.refused(path),
            )
            loops = [
                group.create_task(committer.wait_failed()),
                group.create_task(monitor.run()),
                group.create_task(path.run()),
                group.create_task(publisher.run(path, status.add, status.add_members, status.add_claims)),
                group.create_task(status.run()),
                group.create_task(sharing.run()),
                group.create_task(anchors.run(committer, monitor)),
            ]
            app = create_app(
                committer,
                store,
                health=monitor,
                metrics=metrics.render,
                reachability=Reachability(store, monitor),
                traffic=publisher.traffic,
                waits=waits,
            )
            await _serve_api(app, sockets, waits)
            for loop in loops:
                loop.cancel()
    finally:
        committer.close()
        store.close()


async def _serve_api(app: Starlette, sockets: list[socket.socket], waits: PortWaits) -> None:
    """Answers REST until SIGTERM or SIGINT; requests under way are answered first, and who waits, at once."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    config = server.config
    if not config.loaded:
        config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=sockets)
    if server.should_exit:
        return
    for listener in sockets:
        _log.info("REST API on %s", listener.getsockname())
    notify_ready(os.environ)
    try:
        await server.main_loop()
    finally:
        waits.close()
        await server.shutdown(sockets=sockets)
