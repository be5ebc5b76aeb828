"""The server's ways to its hosts: the bus, a dialer for each path, and the delivery over them. Called by server."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc.aio
import msgspec

from alcor.bus.base import BusError
from alcor.bus.credentials import read_trust
from alcor.bus.embedded import EmbeddedBus, EmbeddedOptions
from alcor.bus.nats import NatsBus, options_of
from alcor.paths.base import Dialer, Events, PathName
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.fast import GrpcDialer
from alcor.paths.link import CONTROLLER, Credentials
from alcor.paths.normal import NormalDialer
from alcor.paths.probing import MAX_INTERVAL_S, MIN_INTERVAL_S
from alcor.paths.rescue import RescueDialer
from alcor.roles.config import ConfigError, ServerConfig, parse_listen

EMBEDDED, NONE = "embedded", "none"


@asynccontextmanager
async def delivery(
    config: ServerConfig, credentials: Credentials, epoch: int, events: Events
) -> AsyncIterator[Delivery]:
    """The delivery, not yet running, with everything that it speaks over. Raises ConfigError."""
    if config.probe_s and not MIN_INTERVAL_S <= config.probe_s <= MAX_INTERVAL_S:
        raise ConfigError(f"probe_s = {config.probe_s:g} must be 0 or {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g} seconds")
    async with _bus(config) as bus:
        dialers: dict[PathName, Dialer] = {}
        path = Delivery(
            partition=config.partition,
            epoch=epoch,
            dialers=dialers,
            events=events,
            roll=random.random,
            limits=DeliveryLimits(fast_channels=config.fast_channels, probe_s=config.probe_s),
            bus=bus,
        )
        fast = GrpcDialer(partition=config.partition, epoch=epoch, credentials=credentials)
        dialers[PathName.FAST] = fast
        dialers[PathName.RESCUE] = RescueDialer(
            dialer=fast,
            healthy=path.healthy,
            roll=random.random,
            place=lambda node: (node.availability_zone, node.failure_domain),
        )
        if bus is not None:
            normal = NormalDialer(
                partition=config.partition, epoch=epoch, bus=bus, heard=path.heard, roll=random.random
            )
            await normal.start()
            dialers[PathName.NORMAL] = normal
        grpc.aio.init_grpc_aio()  # else each dial while no channel is open starts its poller, and waits for its end
        try:
            yield path
        finally:
            grpc.aio.shutdown_grpc_aio()


def refused(path: Delivery) -> Mapping[str, int]:
    """Bus messages that were refused, by reason."""
    normal = path.dialers.get(PathName.NORMAL)
    return normal.refused if isinstance(normal, NormalDialer) else {}


@asynccontextmanager
async def _bus(config: ServerConfig) -> AsyncIterator[NatsBus | None]:
    if config.bus == NONE:
        yield None
    elif config.bus == EMBEDDED:
        server = _embedded(config)
        try:
            await server.start()
        except (BusError, OSError) as error:
            raise ConfigError(f"{error}; `bus_listen` says where it listens, bus = 'none' does without") from None
        try:
            async with _connection(config, server.url) as bus:
                yield bus
        finally:
            await server.stop()
    else:
        async with _connection(config, config.bus) as bus:
            yield bus


def _embedded(config: ServerConfig) -> EmbeddedBus:
    host, port = parse_listen(config.bus_listen)
    try:
        trust = read_trust(config.tls_dir)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read the bus's trust in {config.tls_dir}: {error}") from None
    if trust is None:
        raise ConfigError(
            f"{config.tls_dir} has no bus-trust.json, without which an embedded bus lets nobody in:"
            " issue the controller's files anew with `alcor pki`, or set bus = 'none'"
        )
    return EmbeddedBus(
        EmbeddedOptions(
            directory=config.database.parent / "bus", host=host, port=port, trust=trust, tls_dir=config.tls_dir
        )
    )


@asynccontextmanager
async def _connection(config: ServerConfig, addresses: str) -> AsyncIterator[NatsBus]:
    name = f"controller-{config.partition}"
    try:
        options = options_of(addresses, name, config.tls_dir, CONTROLLER, config.bus_credentials)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use the certificates in {config.tls_dir} for the bus: {error}") from None
    bus = NatsBus(options)
    bus.start()
    try:
        yield bus
    finally:
        await bus.close()
