"""The simulator: seeds that hold, seeds that once failed, the same seed twice; and that broken code is found."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from alcor.agent import plan as planning
from alcor.agent.state import Desired
from alcor.dataplane.base import Applied, LocalPort, Plan
from alcor.goalstate.merge import ScopeState
from alcor.loops import drift, publish
from alcor.loops.publish import Publisher
from alcor.model.ids import Id
from alcor.paths.base import PathName
from alcor.roles.main import app
from alcor.services import claims
from alcor.services.commands import (
    AddRouterInterface,
    CreatePorts,
    CreateRouters,
    DeletePorts,
    GatewaySpec,
    PortSpec,
    RouterSpec,
)
from alcor.sim.clock import VirtualLoop
from alcor.sim.host import SimHost
from alcor.sim.run import kept_seeds, run
from alcor.sim.schedule import Outcome, converge, play
from alcor.sim.tables import DictionaryDriver
from alcor.sim.world import Broken, World
from alcor.wire.reports import Held

FAST, NORMAL, RESCUE = PathName
SEARCHED = 150
"""Schedules in which a mistake must show."""


def broken(seeds: Iterable[int]) -> list[tuple[int, str]]:
    outcomes = (play(seed) for seed in seeds)
    return [(one.seed, one.broken) for one in outcomes if one.broken]


def test_schedules_hold() -> None:
    """Whatever strikes: after it all hosts carry exactly what the store says, and nothing flaps."""
    assert broken(range(40)) == []


MIXES = ((FAST,), (NORMAL,), (FAST, NORMAL), (FAST, RESCUE), (FAST, NORMAL, RESCUE))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(MIXES))
def test_any_mix_of_paths_ends_as_one_path_does(seed: int, paths: tuple[PathName, ...]) -> None:
    """What a host carries in the end is a function of the store alone, by whatever paths it was told, in whatever
    weather; and what it was told piece by piece is what it would have been told whole."""
    assert play(seed, 3, paths).broken == ""


def test_a_schedule_leaves_no_descriptor_open() -> None:
    """Thousands are played in one process."""
    play(7)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for seed in range(8, 11):
        play(seed)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_seeds_that_once_failed_hold() -> None:
    """Each was a mistake, in the code or in the simulator."""
    assert broken(kept_seeds()) == []


def test_the_same_seed_takes_the_same_steps() -> None:
    """So that a failure can be looked at."""
    one = play(11)
    assert one == play(11)
    assert one != msgspec.structs.replace(play(8), seed=11)
    assert sum(one.faults.values()) > 3


def test_another_process_takes_the_same_steps() -> None:
    """Python's hashes of texts differ between processes, and so does the order of sets: nothing rests on it."""
    program = "from alcor.sim.schedule import play; o = play(50204); print(o.commits, o.checks, o.virtual_s)"
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashes in ("1", "2")
    ]
    assert told[0] == told[1] != ""


def test_what_is_broken_in_a_round_of_an_agent_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are callbacks of the event loop, which only logs what they raise."""
    watch = World._watch

    def late(self: World, host: SimHost) -> None:
        watch(self, host)
        if self.checks > 20:
            raise Broken(f"{host.name} is looked at")

    monkeypatch.setattr(World, "_watch", late)
    assert "is looked at" in play(7).broken


def _believe_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents take the last word for the newest."""
    merge = ScopeState.merge

    def forgetful(self: ScopeState, update: Any) -> Any:
        for table in (self.ports, self.endpoints):
            for goal in update.objects:
                table.pop(goal.id, None)
        self.floor = 0
        self._tombstones.clear()
        return merge(self, update)

    monkeypatch.setattr(ScopeState, "merge", forgetful)


def _trust_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for news that was lost: neither the host at what it follows, nor the controller at heartbeats."""
    take = Desired.take

    def blind(self: Desired, *arguments: Any, **options: Any) -> None:
        partition, epoch, updates = arguments
        take(self, partition, epoch, [msgspec.structs.replace(one, previous=0) for one in updates], **options)

    def deaf(*_: object) -> list[Held]:
        return []

    monkeypatch.setattr(Desired, "take", blind)
    monkeypatch.setattr(drift.Drift, "heard", deaf)


def _never_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hello is answered with nothing: whoever was away stays behind."""

    async def greet(self: publish.Publisher, path: Any, session: Any, _hello: Any) -> None:
        path.begin(session, ())

    monkeypatch.setattr(publish.Publisher, "_greet", greet)


def _report_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are acknowledged that the data plane never got."""
    apply = DictionaryDriver.apply

    def lying(self: DictionaryDriver, plan: Plan) -> Applied:
        applied = apply(self, plan)
        for port in plan.put_ports:
            del self.tables.ports[port.id]
        return applied

    monkeypatch.setattr(DictionaryDriver, "apply", lying)


def _keep_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had an address that another port announces now has it still."""
    monkeypatch.setattr(claims, "_without", lambda port, _ips: port)


def _leave_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address outside stays with hosts that have no port of its router any more."""
    apply = DictionaryDriver.apply

    def partly(self: DictionaryDriver, plan: Plan) -> Applied:
        return apply(self, msgspec.structs.replace(plan, remove_shared=()))

    monkeypatch.setattr(DictionaryDriver, "apply", partly)


def _close_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are carried without their floating IPs."""
    local_port = planning.local_port

    def closed(desired: Desired, identifier: Id) -> LocalPort | None:
        port = local_port(desired, identifier)
        return msgspec.structs.replace(port, eips=()) if port is not None else None

    monkeypatch.setattr(planning, "local_port", closed)


@pytest.mark.parametrize("hasty", [False, True])
def test_two_hosts_that_send_from_one_block_are_seen(
    hasty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router's only port goes from a host that does not hear of it, and another comes: did its host wait?"""
    if hasty:
        monkeypatch.setattr(Publisher, "caught_up", lambda *_: 1 << 40)
    dice = random.Random(1)
    loop = VirtualLoop(dice)

    async def scene() -> Exception | None:
        world = World(dice, tmp_path, 3, tuple(PathName))
        await world.begin()
        subnet = world.subnets[0]
        (router,) = await world.do(CreateRouters(specs=(RouterSpec(gateway=GatewaySpec(network_id=world.outside)),)))
        await world.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))
        (port,) = await world.do(CreatePorts(specs=(PortSpec(network_id=subnet.network_id, host="host-1"),)))
        await converge(world)
        world.network.cut_hosts.add("host-1")
        world.network.cut_pairs.update(frozenset(("host-1", other)) for other in ("host-2", "host-3"))
        world.network.changed()
        await world.do(DeletePorts(ids=(port.id,)))
        await world.do(CreatePorts(specs=(PortSpec(network_id=subnet.network_id, host="host-2"),)))
        await asyncio.sleep(3.0)
        await world.end()
        return world.failure

    monkeypatch.setattr("alcor.sim.world.EXTERNAL", 1.0)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        failure = runner.run(scene())
    assert (failure is not None and "have block 2 of" in str(failure)) is hasty


MISTAKES = (
    *(_believe_anything, _trust_the_bus, _never_compare, _report_too_much),
    *(_keep_claims, _leave_shares, _close_doors),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.__name__)
def test_a_mistake_is_found(mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulator that cannot fail proves nothing."""
    mistake(monkeypatch)
    assert any(play(seed).broken for seed in range(SEARCHED))


def test_many_schedules_over_the_cores_are_summed_up() -> None:
    """In whatever order they end."""
    told: list[Outcome] = []
    summary = run(range(40, 52), 3, told.append, processes=2)
    assert (summary.wanted, summary.schedules, summary.failed, summary.hosts) == (12, 12, 0, 3)
    assert sorted(one.seed for one in told) == list(range(40, 52))
    assert summary.checks > 300


@pytest.mark.parametrize("processes", [1, 2])
def test_what_was_played_before_an_interrupt_counts(processes: int) -> None:
    """Hours of schedules are not lost to ctrl-c."""
    told: list[Outcome] = []

    def interrupt(outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == 10:
            raise KeyboardInterrupt

    summary = run(range(1000), 3, interrupt, processes=processes)
    assert (summary.wanted, summary.schedules) == (1000, 10)
    assert summary.checks == sum(one.checks for one in told) > 0


def test_the_command_says_how_to_see_a_failure_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, the promise, the seed; 0 when every promise held."""
    assert CliRunner().invoke(app, ["sim", "--schedules", "1", "--seed", "3"]).exit_code == 0
    _never_compare(monkeypatch)
    seed = next(seed for seed in range(SEARCHED) if play(seed).broken)
    result = CliRunner().invoke(app, ["sim", "--schedules", "1", "--seed", str(seed)])
    assert result.exit_code == 1
    assert f"alcor sim --seed {seed} --schedules 1" in result.output
