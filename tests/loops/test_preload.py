"""Large VPCs whose endpoints follow behind what makes ports ACTIVE."""

from pathlib import Path

import pytest
from tests.loops.region import Region
from tests.loops.test_on_demand import ask, key, packet, released, where

from alcor.goalstate.objects import HOST_SCOPE
from alcor.loops import preload
from alcor.loops.preload import AT_ONCE, PATIENCE_S, Preloads
from alcor.model.ids import Id

VPC, OTHER = Id(b"v" * 16), Id(b"w" * 16)


def test_endpoints_follow_once_nobody_has_ports_to_acknowledge() -> None:
    """Not before the last of them has answered; then at once."""
    owed = Preloads()
    owed.ask(["a", "b"], 0.0)
    owed.owe(VPC, "a", 0.0)
    assert not owed.answered("a")
    assert {} == owed.take(0.1)
    assert owed.answered("b")
    assert {VPC: ["a"]} == owed.take(0.2)
    assert {} == owed.take(0.3)
    assert owed.due() is None


def test_a_host_that_does_not_answer_delays_for_so_long() -> None:
    """Then who is owed gets it; what is owed since later waits its own time."""
    owed = Preloads()
    owed.ask(["dead"], 0.0)
    owed.owe(VPC, "a", 0.0)
    owed.ask(["hung"], 1.0)
    owed.owe(OTHER, "b", 1.0)
    assert PATIENCE_S == owed.due()
    assert {VPC: ["a"]} == owed.take(PATIENCE_S)
    assert 1.0 + PATIENCE_S == owed.due()
    assert {OTHER: ["b"]} == owed.take(1.0 + PATIENCE_S)


def test_who_left_is_owed_nothing() -> None:
    """A host that carries the VPC no more, or that is compared in a new session."""
    owed = Preloads()
    owed.ask(["a", "b", "c"], 0.0)
    for host in ("a", "b", "c"):
        owed.owe(VPC, host, 0.0)
    owed.settle(VPC, "a")
    owed.forget_host("b")
    assert {VPC: ["c"]} == owed.take(PATIENCE_S)


async def test_a_first_port_is_active_before_the_endpoints_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host carries it, asks meanwhile for where a packet goes, and holds the whole VPC in the end."""
    region = Region(tmp_path)
    await region.start()
    try:
        first, second = await region.add_host("host-a"), await region.add_host("host-b")
        elsewhere, _ = await region.add_vpc()
        await region.until_active(*await region.add_ports(elsewhere, ["host-b"]))  # it is met, and holds what it should
        network, _ = await region.add_vpc()
        many = await region.add_ports(network, ["host-a"] * (AT_ONCE + 1))
        await region.until_active(*many)
        monkeypatch.setattr(Preloads, "take", lambda *_: {})  # they never follow
        (port,) = await region.add_ports(network, ["host-b"])
        await region.until_active(port)
        assert not second.tables.endpoints
        assert {network.vni} == second.tables.on_demand
        miss = packet(network, many[7].fixed_ips[0].ip)
        ask(second, miss)
        await region.until(lambda: released(second) == [miss])
        assert second.tables.learnt[key(network, many[7])] == where(region, many[7])
        monkeypatch.undo()
        await region.add_ports(network, ["host-b"])
        await region.until(lambda: len(second.tables.endpoints) == len(many))
        assert not second.tables.on_demand
        assert not second.tables.learnt
        await region.until(lambda: len(first.tables.endpoints) == 2)
    finally:
        await region.close()


async def test_a_host_that_restarts_meanwhile_is_sent_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was journalled says that the endpoints are still to come."""
    region = Region(tmp_path)
    await region.start()
    try:
        await region.add_host("host-a")
        second = await region.add_host("host-b")
        network, _ = await region.add_vpc()
        many = await region.add_ports(network, ["host-a"] * (AT_ONCE + 1))
        await region.until_active(*many)
        monkeypatch.setattr(preload, "PATIENCE_S", 1e9)
        monkeypatch.setattr(Preloads, "answered", lambda *_: False)
        monkeypatch.setattr(Preloads, "take", lambda *_: {})
        await region.until_active(*await region.add_ports(network, ["host-b"]))
        assert {network.vni} == second.tables.on_demand
        await second.stop()
        await second.start()
        assert second.agent is not None
        await region.until(lambda: len(second.tables.endpoints) == len(many))
        await region.until(lambda: not second.tables.on_demand)
        assert HOST_SCOPE == second.agent._reconciler.desired.held(1)[0].scope
    finally:
        await region.close()
