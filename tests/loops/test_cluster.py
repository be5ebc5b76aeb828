"""A region on a cluster of two nats-servers (TLS, credentials, routes with TLS): what is left when one is killed.

Controller and agent are configured as roles configure them, with `tls://a,b`; the management network is cut, so the bus
is the only way to the host.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.bus.servers import end_for_good, guarded_cluster
from tests.loops.region import PATIENCE_S, Region

from alcor.bus import credentials
from alcor.bus.base import BusError, up_subject
from alcor.bus.embedded import EmbeddedBus
from alcor.bus.nats import NatsBus
from alcor.paths.base import PathName


class Cluster:
    """A region of one host, which only the bus reaches, and the two nodes of its bus."""

    def __init__(self, directory: Path) -> None:
        self.region = Region(directory)
        credentials.enrol(directory / "ca", directory / "tls", "controller-1", role=credentials.CONTROLLER)
        self.nodes = guarded_cluster(directory)

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()
        first, second = self.nodes
        self.region.bus_url = f"{first.url},{second.url.removeprefix('tls://')}"
        await self.region.start()
        self.host = self.region.make_host("host-a")
        await self.host.start()
        await self.region.register(self.host, at="127.0.3.1")  # nobody listens there

    async def stop(self) -> None:
        await self.region.close()
        for node in self.nodes:
            await node.stop()

    def of(self, side: str) -> NatsBus:
        """The connection of the host or of the controller."""
        bus = self.host.bus if side == "host" else self.region.bus
        assert bus is not None
        return bus

    def node(self, side: str) -> EmbeddedBus:
        """The one that it is connected to."""
        at = self.of(side)._client.connected_url
        assert at is not None
        return next(node for node in self.nodes if urlsplit(node.url).port == at.port)

    async def until_apart(self) -> None:
        """Until the two are connected to different nodes, so that what they say goes by the route between these."""
        bus, up = self.of("host"), asyncio.Event()
        bus.on_state(lambda connected: up.set() if connected else up.clear())
        while self.node("host") is self.node("controller"):
            up.clear()
            await bus._client.force_reconnect()
            await asyncio.wait_for(up.wait(), PATIENCE_S)

    async def until_on_the_bus(self) -> None:
        path = self.region.path
        assert path is not None
        await self.region.until(lambda: path.paths().get("host-a") is PathName.NORMAL)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()


@pytest.mark.parametrize("side", ["host", "controller"])
async def test_goal_state_flows_when_a_node_is_killed(cluster: Cluster, side: str) -> None:
    """Whoever's node it was (SIGKILL): the session comes back over the other one, and what a host may not do it may not
    do there either."""
    region = cluster.region
    network, _ = await region.add_vpc()
    await cluster.until_on_the_bus()
    await cluster.until_apart()
    (first,) = await region.add_ports(network, ["host-a"])
    await region.until_active(first)
    lost = cluster.node(side)
    (left,) = [node for node in cluster.nodes if node is not lost]
    greeted = region.path.dials[PathName.NORMAL, "greeted"]  # type: ignore[union-attr]
    await end_for_good(lost)
    (second,) = await region.add_ports(network, ["host-a"])
    await region.until_active(second)
    assert cluster.node("host") is cluster.node("controller") is left
    assert set(cluster.host.tables.ports) == {first.id, second.id}
    assert region.path is not None
    assert region.path.dials[PathName.NORMAL, "greeted"] > greeted, "a new session"
    assert region.path.paths() == {"host-a": PathName.NORMAL}

    with pytest.raises(BusError, match="does not let host-a subscribe"):
        await cluster.of("host").subscribe(up_subject(1, "*"), lambda *_: None)
    before = cluster.of("host").violations
    cluster.of("host").publish(up_subject(1, "host-b"), b"forged")
    await region.until(lambda: cluster.of("host").violations == before + 1)
