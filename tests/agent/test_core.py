"""The agent as a process sees it: one per directory, honest about why it cannot run, answering its own host."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.loops.region import QUICK, Host, Region
from tests.paths.test_fast import Recorder

from alcor.agent.core import Agent
from alcor.agent.probing import Probing
from alcor.agent.turn import AgentBusy
from alcor.dataplane.base import Applied, Plan
from alcor.hostsvc.serving import HostServices
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Port, PortStatus
from alcor.paths.base import PathName
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.fast import GrpcDialer
from alcor.paths.ladder import LadderLimits
from alcor.paths.link import CONTROLLER, CredentialsError, load_credentials
from alcor.paths.session import MISSED_HEARTBEATS


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


async def test_one_agent_a_directory(region: Region) -> None:
    """The second says which lock is held and what to do; when the first has ended, it may."""
    host = await region.add_host("host-a")
    twin = Host(region.directory, "host-a", 9)
    with pytest.raises(AgentBusy, match=r"another agent holds .*lock: stop it first"):
        await twin.start()
    await host.stop()
    await twin.start()
    await twin.stop()


async def test_a_taken_address_is_said(region: Region) -> None:
    """The port is somebody else's."""
    host = await region.add_host("host-a")
    other = region.make_host("host-b")
    other.address, other.port = host.address, host.port
    with pytest.raises(OSError, match=f"cannot listen at 127.0.1.1:{host.port}"):
        await other.start()


async def test_missing_certificates_are_said(region: Region) -> None:
    """Before anything is touched."""
    host = region.make_host("host-a")
    (host.directory / "tls" / "agent-key.pem").unlink()
    with pytest.raises(CredentialsError, match=r"agent-key\.pem"):
        await host.start()
    assert not (host.directory / "state" / "journal").exists()


async def test_a_mistake_in_the_driver_ends_the_agent(region: Region) -> None:
    """What is no error of the data plane is a bug: it is not swallowed, and a supervisor starts the agent anew."""
    host = await region.add_host("host-a")
    assert host.driver is not None

    def apply(plan: Plan) -> Applied:
        raise ZeroDivisionError("a mistake")

    host.driver.apply = apply  # type: ignore[method-assign]
    network, _ = await region.add_vpc()
    await region.add_ports(network, ["host-a"])
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(host.ended(), 20)
    await host.start()
    await region.until_active()


@pytest.mark.parametrize("signs", [True, False])
async def test_a_host_that_works_for_long_says_that_it_lives(
    region: Region, monkeypatch: pytest.MonkeyPatch, *, signs: bool
) -> None:
    """Between bundle and answer there are signs of life, so its session stays; one without them is given up."""
    if not signs:
        monkeypatch.setattr(Agent, "_give_sign", lambda _: None)
    host = region.make_host("host-a")
    host.sign_s = 0.2
    await host.start()
    await region.register(host)
    assert host.driver is not None
    real, longest_s = host.driver.apply, 2 * MISSED_HEARTBEATS * host.sign_s

    def slow(plan: Plan) -> Applied:
        if plan.put_ports:
            time.sleep(longest_s)
        return real(plan)

    host.driver.apply = slow  # type: ignore[method-assign]
    network, _ = await region.add_vpc()
    await region.add_ports(network, ["host-a"])
    await region.until_active()
    assert region.path is not None
    assert (region.path.endings[PathName.FAST, "silent"] == 0) == signs


async def test_it_says_how_its_host_does(region: Region) -> None:
    """Status and counters, asked while it works; ids as text."""
    host = await region.add_host("host-a")
    network, _ = await region.add_vpc()
    host.tables.refused_interfaces["eth9"] = "no"
    (good,) = await region.add_ports(network, ["host-a"])
    (bad,) = await region.add_ports(network, ["host-a"], interface="eth9")
    await region.until_active(good)
    await region.until(lambda: region.status()[bad.id] == PortStatus.ERROR)
    assert host.agent is not None
    status = await host.agent.status()
    assert (status.host, status.in_sync, status.desired_ports) == ("host-a", True, 2)
    assert status.failing_ports == {format_id(bad.id): "no"}
    assert list(await host.agent.counters()) == [good.id]


async def test_what_it_carries_is_looked_at_again(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """By probes and by host services, which rest else: after a start, a bundle, and when what failed has succeeded."""
    host = region.make_host("host-a")
    looks: list[tuple[type, frozenset[Id]]] = []
    resting = (Probing, HostServices)
    for kind in resting:
        monkeypatch.setattr(kind, "changed", lambda self: looks.append((type(self), frozenset(host.tables.ports))))

    def seen(*ports: Port) -> bool:
        carried = frozenset(port.id for port in ports)
        return all((kind, carried) in looks for kind in resting)

    await host.start()
    await region.register(host)
    await region.until(seen)
    network, _ = await region.add_vpc()
    (one,) = await region.add_ports(network, ["host-a"])
    await region.until(lambda: seen(one))
    host.tables.refused_interfaces["eth9"] = "no"
    (two,) = await region.add_ports(network, ["host-a"], interface="eth9")
    await region.until(lambda: region.status()[two.id] == PortStatus.ERROR)
    assert not seen(one, two)
    del host.tables.refused_interfaces["eth9"]
    await region.until(lambda: seen(one, two))
    await host.stop()
    looks.clear()
    await host.start()
    await region.until(lambda: seen(one, two))


async def test_a_newer_controller_takes_over_and_the_older_is_refused(region: Region) -> None:
    """The higher epoch's stream ends the older one; its owner is told why, however often it dials."""
    host = await region.add_host("host-a")
    await region.until(lambda: region.path is not None and region.path.connected() == ["host-a"])
    assert region.committer is not None
    assert region.path is not None
    events = Recorder()
    epoch, credentials = region.committer.epoch + 1, load_credentials(region.directory / "tls", CONTROLLER)
    newer = Delivery(
        partition=1,
        epoch=epoch,
        dialers={PathName.FAST: GrpcDialer(partition=1, epoch=epoch, credentials=credentials)},
        events=events,
        roll=random.random,
        limits=DeliveryLimits(ladder=LadderLimits(backoff=QUICK)),
    )
    events.path = newer
    task = asyncio.create_task(newer.run())
    (node,) = region.store.nodes()
    newer.connect(node)
    try:
        await events.until(lambda: events.of("acknowledged") == [1])
        await region.until(lambda: region.path is not None and region.path.failures().get("host-a", 0) >= 3)
        assert region.path.connected() == []
        assert newer.connected() == ["host-a"]
        assert len(events.of("greeted")) == 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert host.agent is not None
