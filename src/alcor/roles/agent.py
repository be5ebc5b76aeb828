"""`alcor agent`: wires one host's agent, or its standby, with driver and bus. Called by main.

The driver is made here and closed here; what it programmed stays and forwards on, whether the agent runs or not (P4).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import uvloop

from alcor.agent import control
from alcor.agent.bgp import Bgp
from alcor.agent.config import DEFAULT_PORT, AgentConfig
from alcor.agent.core import Agent
from alcor.agent.journal import JournalError
from alcor.agent.relay import RelayLimits
from alcor.agent.turn import AgentBusy, Patience, agent_turn, answering, standby_turn
from alcor.bus.base import BusError
from alcor.bus.nats import NatsBus, options_of
from alcor.dataplane.base import DataPlaneError, Driver
from alcor.hostsvc.metadata import MetadataConfig
from alcor.hostsvc.serving import ServiceConfig
from alcor.kit import logs
from alcor.kit.memory import Survivors
from alcor.model.addresses import parse_ip
from alcor.model.ids import format_id, parse_id
from alcor.paths.link import AGENT, CredentialsError
from alcor.roles.activation import notify_ready
from alcor.roles.config import (
    AgentRoleConfig,
    ConfigError,
    is_loopback,
    numbers,
    parse_listen,
    resolvers,
    speaker_table,
)

if TYPE_CHECKING:
    from alcor.dataplane.kernel.speaker import KernelSpeakerTable
    from alcor.dataplane.kernel.stack import TunStack

MAX_PINGS = 1000
MAX_WAIT_S = 10.0
YIELD_POLL_S = 0.2
_log = logging.getLogger(__name__)


def run(config: AgentRoleConfig, *, standby: bool = False) -> None:
    """Runs until told to stop. Raises ConfigError; exits with 1 when the host cannot be served."""
    logs.set_up(config.log_level, role="standby" if standby else "agent")
    if not config.underlay_ip:
        raise ConfigError("underlay_ip is not set: give the address of this host's tunnel end (the node's local_ip)")
    speaker_table(config)
    listen, port = parse_listen(config.listen) if config.listen else (config.underlay_ip, DEFAULT_PORT)
    settings = AgentConfig(
        host=config.host or socket.gethostname(),
        state_dir=config.state_dir,
        listen=listen,
        port=port,
        tls_dir=config.tls_dir,
        heartbeat_s=config.heartbeat_s,
        standby=standby,
        relay=RelayLimits(
            relays=config.relays,
            ports=frozenset(numbers(config.relay_ports, "relay_ports")),
            loopback=is_loopback(listen),
        ),
        services=_services(config),
    )
    if config.driver == "ebpf":
        import alcor.dataplane.ebpf.driver  # noqa: F401 - before its turn, which is short
    try:
        with Survivors():
            uvloop.run(_stand_by(settings, config) if standby else _take_turn(settings, config))
    except (AgentBusy, BusError, CredentialsError, DataPlaneError, JournalError, OSError) as error:
        _log.critical("the agent cannot run: %s", error)
        sys.exit(1)


async def _take_turn(settings: AgentConfig, config: AgentRoleConfig) -> None:
    stop = _stop_on_signal()
    async with agent_turn(config.state_dir):
        await _run(settings, config, stop)


async def _stand_by(settings: AgentConfig, config: AgentRoleConfig) -> None:
    """Waits for the agent's end, serves in its place, gives the place back; over and over."""
    stop = _stop_on_signal()
    patience = Patience(dead_s=config.standby_dead_s, hung_s=config.standby_hung_s)
    notify_ready(os.environ)
    while not stop.is_set():
        async with AsyncExitStack() as stack:
            entering = asyncio.create_task(stack.enter_async_context(standby_turn(config.state_dir, patience)))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([entering, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not entering.done():
                entering.cancel()
                await asyncio.gather(entering, return_exceptions=True)
                return
            wanted_back = entering.result()
            _log.warning("the agent of host %s is dead: the standby serves in its place", settings.host)
            leave = asyncio.Event()
            watching = asyncio.create_task(_watch(stop, wanted_back, leave))
            try:
                await _run(settings, config, leave)
            finally:
                watching.cancel()
        _log.warning("the standby of host %s yields", settings.host)


async def _watch(stop: asyncio.Event, wanted_back: Callable[[], bool], leave: asyncio.Event) -> None:
    while not stop.is_set() and not wanted_back():
        await asyncio.sleep(YIELD_POLL_S)
    leave.set()


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _run(settings: AgentConfig, config: AgentRoleConfig, stop: asyncio.Event) -> None:
    """Serves the host, whose turn it is, until told to stop."""
    driver, operations, close = _make_driver(config)
    async with AsyncExitStack() as opened:
        opened.callback(close)
        bus = _make_bus(settings, config)
        if bus is not None:
            bus.start()
            opened.push_async_callback(bus.close)
        stack = _make_stack(config)
        if stack is not None:
            opened.callback(stack.close)
        table = _make_table(config)
        if table is not None:
            opened.callback(table.close)
        bgp = Bgp(table, parse_ip(config.underlay_ip)) if table is not None else None
        agent = Agent(settings, driver, bus, numbers(config.partitions, "partitions"), stack=stack, bgp=bgp)
        await opened.enter_async_context(answering(config.state_dir, lambda: agent.stuck))
        await _serve(agent, operations, config, stop)


def _services(config: AgentRoleConfig) -> ServiceConfig:
    """What ports are answered with. Raises ConfigError."""
    host, port, secret = "", 0, b""
    if config.metadata_url:
        found = urlsplit(config.metadata_url)
        if found.scheme != "http" or not found.hostname or found.path.strip("/"):
            raise ConfigError(f"metadata_url = '{config.metadata_url}' is not http://host:port")
        host, port = found.hostname, found.port or 80
    if config.metadata_secret_file is not None:
        try:
            secret = config.metadata_secret_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"metadata_secret_file: cannot read {config.metadata_secret_file}: {error}") from None
    metadata = MetadataConfig(host=host, port=port, secret=secret)
    return ServiceConfig(resolvers=resolvers(config.dns_resolvers), metadata=metadata)


def _make_stack(config: AgentRoleConfig) -> TunStack | None:
    """What serves ports TCP; None where it cannot be: everything else goes on."""
    if config.driver != "ebpf":
        return None
    from alcor.dataplane.kernel.stack import TunStack

    try:
        return TunStack()
    except DataPlaneError as error:
        _log.error("%s: metadata, and DNS over TCP, are not served", error)
        return None


def _make_table(config: AgentRoleConfig) -> KernelSpeakerTable | None:
    """Where a BGP speaker reads; None: nothing is announced by BGP. Raises OSError."""
    number = speaker_table(config)
    if not number:
        return None
    from alcor.dataplane.kernel.speaker import KernelSpeakerTable

    return KernelSpeakerTable(number)


def _make_bus(settings: AgentConfig, config: AgentRoleConfig) -> NatsBus | None:
    options = options_of(config.bus, settings.host, config.tls_dir, AGENT, config.bus_credentials)
    return NatsBus(options) if options.servers else None


async def _serve(
    agent: Agent, operations: Mapping[str, control.Operation], config: AgentRoleConfig, stop: asyncio.Event
) -> None:
    async def status(_arguments: control.Arguments) -> object:
        return msgspec.to_builtins(await agent.status())

    async def counters(_arguments: control.Arguments) -> object:
        return {format_id(port): msgspec.to_builtins(one) for port, one in (await agent.counters()).items()}

    tasks = [asyncio.create_task(agent.run()), asyncio.create_task(stop.wait())]
    if config.control_socket is not None:
        table = {"status": status, "counters": counters, **operations}
        tasks.append(asyncio.create_task(control.serve(config.control_socket, table)))
    started = asyncio.create_task(agent.started())
    try:
        await asyncio.wait([*tasks, started], return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            notify_ready(os.environ)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*tasks, started):
            task.cancel()
        await asyncio.gather(*tasks, started, return_exceptions=True)


def _make_driver(
    config: AgentRoleConfig,
) -> tuple[Driver, Mapping[str, control.Operation], Callable[[], None]]:
    """The driver, what else its host can be asked, and what closes it."""
    if config.driver == "ebpf":
        from alcor.dataplane.ebpf.driver import EbpfConfig, EbpfDriver

        driver = EbpfDriver(
            EbpfConfig(
                pin_dir=config.pin_dir,
                device=config.underlay_device,
                underlay_ip=parse_ip(config.underlay_ip),
                netns_dir=config.netns_dir,
                vxlan_port=config.vxlan_port,
                pool_size=config.pool_size,
                remote_entries=config.remote_entries,
                translation_entries=config.translation_entries,
                flow_entries=config.flow_entries,
                external_device=config.external_device,
            )
        )
        return driver, {}, driver.close
    if config.driver == "fake":
        if config.external_device:
            raise ConfigError("external_device: the driver `fake` has none; leave it empty")
        return _make_fake(config)
    raise ConfigError(f"driver '{config.driver}' is not known; known are: ebpf, fake")


def _make_fake(
    config: AgentRoleConfig,
) -> tuple[Driver, Mapping[str, control.Operation], Callable[[], None]]:
    from alcor.dataplane.fake.driver import FakeDriver
    from alcor.dataplane.fake.switch import Switch

    switch = Switch(parse_ip(config.underlay_ip), config.vxlan_port, config.state_dir / "fake").open()
    driver = FakeDriver(switch)

    async def ping(arguments: control.Arguments) -> object:
        port = parse_id(control.text(arguments, "port"))
        destination = parse_ip(control.text(arguments, "destination"))
        count = int(control.number(arguments, "count", 1, most=MAX_PINGS))
        wait_s = control.number(arguments, "timeout_s", 1.0, most=MAX_WAIT_S)
        pings = await asyncio.to_thread(driver.ping, port, destination, count, wait_s)
        return {"sent": pings.sent, "received": pings.received, "round_trip_us": list(pings.round_trip_us)}

    async def inject(arguments: control.Arguments) -> object:
        port = parse_id(control.text(arguments, "port"))
        verdict = driver.inject(port, bytes.fromhex(control.text(arguments, "frame")))
        return {"kind": verdict.kind.name.lower(), "steps": list(verdict.steps)}

    return driver, {"ping": ping, "inject": inject}, switch.close
