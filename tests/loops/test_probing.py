"""Hosts that probe each other, with real agents and datagrams: who is gone is found before a heartbeat is missed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.loops.region import QUICK, Host, Region

from alcor.paths.base import PathName
from alcor.paths.delivery import DeliveryLimits
from alcor.paths.ladder import LadderLimits
from alcor.services.health import Peers, Reach

PROBE_S = 0.1
ALL_WELL = Peers(reached=3)


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start(limits=DeliveryLimits(ladder=LadderLimits(backoff=QUICK), probe_s=PROBE_S))
    try:
        for name in ("a", "b", "c", "d"):
            await region.add_host(name)
        await region.until(lambda: all(region.monitor.health(name).peers == ALL_WELL for name in region.hosts))
        yield region
    finally:
        await region.close()


def state(region: Region, host: str = "d") -> Reach:
    return region.monitor.health(host).state


def changes(region: Region, host: str = "d") -> list[tuple[str, str]]:
    return [(event.was, event.now) for event in region.monitor.events() if event.host == host]


def deafen(host: Host) -> None:
    """No probe reaches it any more: its underlay is cut."""
    assert host.agent is not None
    probes = host.agent._prober.pinger
    probes._loop.remove_reader(probes._listener)  # type: ignore[union-attr]


async def test_a_host_that_is_gone_is_down_in_three_probes(region: Region) -> None:
    """It neither answers its peers nor the controller's asking: heartbeats are due every 10 s only."""
    host = region.hosts["d"]
    assert host.agent is not None
    deafen(host)
    # Not only of the controller's asking: its own prober tells that it hears nobody, and who tells is there.
    host.agent._say_there = lambda *_, **__: None  # type: ignore[method-assign]
    began = asyncio.get_running_loop().time()
    await region.until(lambda: state(region) is Reach.DOWN)
    assert asyncio.get_running_loop().time() - began < 9.0  # under a second on a quiet machine; 30 s by heartbeats
    assert changes(region) == [("up", "suspect"), ("suspect", "down")]
    assert region.monitor.health("d").peers == Peers(silent=3)
    assert [state(region, name) for name in ("a", "b", "c")] == [Reach.UP] * 3


async def test_a_host_whose_underlay_is_cut_answers_the_controller_and_is_up(region: Region) -> None:
    """It is asked, and says that it is there; what its peers say is shown."""
    deafen(region.hosts["d"])
    await region.until(lambda: region.monitor.health("d").peers == Peers(silent=3))
    await region.until(lambda: state(region) is Reach.UP)
    await asyncio.sleep(0.5)
    assert changes(region) == [("up", "suspect"), ("suspect", "up")]


async def test_an_agent_that_is_gone_is_told_from_a_machine_that_is(region: Region) -> None:
    """Its machine refuses the probes: suspect, not down."""
    await region.hosts["d"].stop()
    await region.until(lambda: region.monitor.health("d").peers == Peers(refused=3))
    assert state(region) is Reach.SUSPECT
    await region.hosts["d"].start()
    await region.until(lambda: region.monitor.health("d").peers == ALL_WELL and state(region) is Reach.UP)


async def test_a_host_that_only_peers_reach_is_not_down(region: Region) -> None:
    """Its management network is cut, and nobody relays: it is suspect from the first missed heartbeat, not more."""
    host = region.hosts["d"]
    await host.stop()
    host.heartbeat_s = 0.2
    await host.start()
    path = region.path
    assert path is not None
    await region.until(lambda: region.monitor.health("d").interval_s < 1 and "d" in path.paths())
    await region.until(lambda: region.monitor.health("d").peers == ALL_WELL)
    del path.dialers[PathName.RESCUE]  # type: ignore[attr-defined]
    conversation = path._conversation("d")
    assert conversation is not None
    path.dialers[PathName.FAST].open = lambda node: node.name != "d"  # type: ignore[method-assign]
    conversation.end("cut")
    await region.until(lambda: state(region) is Reach.SUSPECT)
    await asyncio.sleep(1.5)
    assert (state(region), region.monitor.health("d").peers) == (Reach.SUSPECT, ALL_WELL)
