"""A state machine over the real goalstate, loops, paths and agent rooms, on virtual time: hypothesis takes every step.

The simulator's schedules draw theirs by dice; here each commit, fault and pause is a rule, so that what breaks a
promise is shrunk to the shortest way there. In the end, by whatever paths hosts were told, and however piece by piece:
what each holds is what snapshots of the rows would give it, object by object, and what it carries is what the rows say.
"""

import asyncio
import logging
import random
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from alcor.goalstate.merge import ScopeState
from alcor.model.nouns import Port
from alcor.paths.base import PathName
from alcor.services.commands import CreatePorts, DeletePorts, PortSpec, UpdatePort
from alcor.sim.clock import VirtualLoop
from alcor.sim.schedule import SETTLE_S, check, converge, heal
from alcor.sim.truth import differences, drift
from alcor.sim.world import Broken, World

FAST, NORMAL, RESCUE = PathName
HOSTS = ("host-1", "host-2", "host-3")
MIXES = ((FAST,), (NORMAL,), (FAST, NORMAL), (FAST, RESCUE), (FAST, NORMAL, RESCUE))
MAX_PORTS = 10
hosts, places = st.sampled_from(HOSTS), st.integers(0, MAX_PORTS - 1)


class Weather(RuleBasedStateMachine):
    """Three hosts, three VPCs with the same addresses, one of them at times on demand; a network that drops, repeats,
    holds back, delays and is cut in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="alcor-machine-")
        self.loop: VirtualLoop | None = None
        self.world: World | None = None

    @initialize(seed=st.integers(0, 2**16), paths=st.sampled_from(MIXES))
    def begin(self, seed: int, paths: tuple[PathName, ...]) -> None:
        """Small delays, and the order of what is due at once, are by dice: by few, so that steps stay what differs."""
        logging.disable(logging.CRITICAL)
        dice = random.Random(seed)
        self.loop = VirtualLoop(dice)
        asyncio.set_event_loop(self.loop)

        async def made() -> World:
            world = World(dice, Path(self.directory.name), len(HOSTS), paths)
            await world.begin()
            return world

        self.world = self.loop.run_until_complete(made())

    def run(self, steps: Coroutine[Any, Any, Any]) -> None:
        assert self.loop is not None
        self.loop.run_until_complete(steps)

    @property
    def here(self) -> World:
        assert self.world is not None
        return self.world

    def ports(self) -> list[Port]:
        return sorted(self.here.ports(), key=lambda port: port.id)

    # What callers do.

    @precondition(lambda self: self.world is not None and len(self.here.ports()) < MAX_PORTS)
    @rule(vpc=st.integers(0, 2), on=st.lists(hosts, min_size=1, max_size=2, unique=True))
    def create(self, vpc: int, on: list[str]) -> None:
        network = self.here.vpcs[vpc]
        self.run(self.here.do(CreatePorts(specs=tuple(PortSpec(network_id=network, host=host) for host in on))))

    @precondition(lambda self: self.world is not None and bool(self.here.ports()))
    @rule(which=places, to=hosts)
    def move(self, which: int, to: str) -> None:
        port = self.ports()[which % len(self.here.ports())]
        self.run(self.here.do(UpdatePort(id=port.id, host=to)))

    @precondition(lambda self: self.world is not None and bool(self.here.ports()))
    @rule(which=places, up=st.booleans())
    def change(self, which: int, up: bool) -> None:
        port = self.ports()[which % len(self.here.ports())]
        self.run(self.here.do(UpdatePort(id=port.id, admin_state_up=up)))

    @precondition(lambda self: self.world is not None and bool(self.here.ports()))
    @rule(which=places)
    def delete(self, which: int) -> None:
        port = self.ports()[which % len(self.here.ports())]
        self.run(self.here.do(DeletePorts(ids=(port.id,))))

    # What happens to the network.

    @rule(seconds=st.sampled_from((0.003, 0.05, 0.7, 3.0)))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(host=hosts, cut=st.booleans())
    def manage(self, host: str, cut: bool) -> None:
        (self.here.network.cut_hosts.add if cut else self.here.network.cut_hosts.discard)(host)
        self.tell()

    @rule(pair=st.lists(hosts, min_size=2, max_size=2, unique=True), cut=st.booleans())
    def part(self, pair: list[str], cut: bool) -> None:
        pairs = self.here.network.cut_pairs
        (pairs.add if cut else pairs.discard)(frozenset(pair))
        self.tell()

    @rule(up=st.booleans(), lose=st.sampled_from((0.0, 0.5)), repeat=st.sampled_from((0.0, 0.5)))
    def bus(self, up: bool, lose: float, repeat: float) -> None:
        bus = self.here.network.bus
        bus.up, bus.lose, bus.repeat = up, lose, repeat
        self.tell()

    @rule(slow_s=st.sampled_from((0.0, 0.3)))
    def delay(self, slow_s: float) -> None:
        self.here.network.slow_s = slow_s

    def tell(self) -> None:
        async def changed() -> None:
            self.here.network.changed()

        self.run(changed())

    # What happens to processes.

    @rule(host=hosts, what=st.sampled_from(("kill", "hang", "thaw", "start", "lose_disk")))
    def process(self, host: str, what: str) -> None:
        async def strike() -> None:
            one = self.here.hosts[host]
            if what == "lose_disk":
                one.kill()
                one.lose_disk()
                one.start()
            else:
                getattr(one, what)()

        self.run(strike())

    @rule()
    def restart_controller(self) -> None:
        async def restart() -> None:
            await self.here.stop_controller()
            await self.here.start_controller()

        self.run(restart())

    # What must hold.

    @invariant()
    def the_controller_runs(self) -> None:
        """At every step; that agents report only what they carry, and go back never, the world itself looks at."""
        if self.world is not None:
            check(self.world)

    def teardown(self) -> None:
        try:
            if self.world is not None:
                self.run(self.calm())
        finally:
            if self.loop is not None:
                self.loop.run_until_complete(self.end())
                asyncio.set_event_loop(None)
                self.loop.close()
            logging.disable(logging.NOTSET)
            self.directory.cleanup()

    async def end(self) -> None:
        if self.world is not None:
            await self.world.end()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def calm(self) -> None:
        """Nothing fails any more: every host comes to hold and carry what it should."""
        world = self.here
        await heal(world)
        await converge(world)
        await asyncio.sleep(SETTLE_S)
        assert differences(world) == []
        assert drift(world) == []


TestWeather = Weather.TestCase
TestWeather.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that keeps what tombstones name and what snapshots lack. (Either alone is repaired by the other.)"""
    for method in ("_bury", "_remove_missing"):
        monkeypatch.setattr(ScopeState, method, lambda *_: None)
    quick = settings(TestWeather.settings, phases=[Phase.generate], database=None, max_examples=300, derandomize=True)
    with pytest.raises((AssertionError, Broken)):
        run_state_machine_as_test(Weather, settings=quick)
