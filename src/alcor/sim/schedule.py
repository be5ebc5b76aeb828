"""One schedule: work and faults drawn by a seed, then calm; then all must be as the store says. Called by run."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from alcor.paths.base import PathName
from alcor.services.commands import CheckInvariants
from alcor.sim.callers import begin, clear, repeat, work
from alcor.sim.clock import Stalled, VirtualLoop
from alcor.sim.truth import differences, drift, leaks
from alcor.sim.world import Broken, World

STORM_S = (4.0, 14.0)
"""How long faults strike, in virtual seconds."""
WORK_EVERY_S, FAULT_EVERY_S = 0.35, 0.9
"""On average."""
CALM_S = 120.0
"""By then everything has converged, or the schedule has failed."""
SETTLE_S = 10.0
"""For so long after that agents may still be told what does not show: an object's newer revision, lost with a bus."""
QUIET_S = 25.0
"""For so long nothing may happen afterwards but heartbeats."""
LOOK_S = 0.05


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a schedule."""

    seed: int
    broken: str
    """Which promise; empty: none."""
    faults: dict[str, int]
    commits: int
    checks: int
    virtual_s: float
    converged_s: float
    """From the end of the last fault."""


Fault = Callable[[World], Awaitable[None] | None]


def play(seed: int, hosts: int = 4, paths: Sequence[PathName] = tuple(PathName)) -> Outcome:
    """Plays the schedule of that seed, over these paths (best first). Same arguments, same steps."""
    dice = random.Random(seed)
    loop = VirtualLoop(dice)
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="alcor-sim-", dir=_memory()) as directory:
            world_of = _Schedule(seed, dice, Path(directory), hosts, paths)
            asyncio.set_event_loop(loop)
            return loop.run_until_complete(world_of.play())
    finally:
        logging.disable(logging.NOTSET)
        asyncio.set_event_loop(None)
        loop.close()


def _memory() -> str | None:
    """A directory in memory, if there is one: journals need not survive the machine."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


class _Schedule:
    def __init__(self, seed: int, dice: random.Random, directory: Path, hosts: int, paths: Sequence[PathName]) -> None:
        self._seed = seed
        self._dice = dice
        self._directory = directory
        self._hosts = hosts
        self._paths = paths
        self._struck: Counter[str] = Counter()

    async def play(self) -> Outcome:
        world = World(self._dice, self._directory, self._hosts, self._paths)
        broken, converged_s = "", 0.0
        loop = asyncio.get_running_loop()
        try:
            await world.begin()
            await begin(world)
            await self._storm(world)
            await heal(world)
            converged_s = await converge(world)
            await self._quiet(world)
            await self._end(world)
        except Broken as error:
            broken = f"at {loop.time():.3f} s: {error}"
        except Stalled:
            broken = f"at {loop.time():.3f} s: everybody waits for ever"
        finally:
            virtual_s = loop.time()
            try:
                await world.end()
            except Exception as error:
                broken = broken or f"at the end: {error!r}"
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
        return Outcome(
            seed=self._seed,
            broken=broken,
            faults=dict(sorted(self._struck.items())),
            commits=world.store.revision(),
            checks=world.checks,
            virtual_s=virtual_s,
            converged_s=converged_s,
        )

    async def _storm(self, world: World) -> None:
        dice, loop = self._dice, asyncio.get_running_loop()
        ends = loop.time() + dice.uniform(*STORM_S)
        faults = dice.sample(sorted(FAULTS), dice.randint(2, len(FAULTS)))
        next_fault = loop.time() + dice.expovariate(1 / FAULT_EVERY_S)
        while loop.time() < ends:
            await asyncio.sleep(dice.expovariate(1 / WORK_EVERY_S))
            check(world)
            repeat(world)
            await work(world)
            if loop.time() >= next_fault:
                name = dice.choice(faults)
                self._struck[name] += 1
                done = FAULTS[name](world)
                if done is not None:
                    await done
                next_fault = loop.time() + dice.expovariate(1 / FAULT_EVERY_S)

    async def _quiet(self, world: World) -> None:
        await asyncio.sleep(SETTLE_S)
        before = world.activity()
        repeat(world)
        await asyncio.sleep(QUIET_S)
        check(world)
        if world.activity() != before:
            raise Broken(f"something flaps: (plans, sessions) went from {before} to {world.activity()} in the calm")
        if wrong := differences(world) + drift(world):
            raise Broken(f"it converged, and then: {'; '.join(wrong)}")

    async def _end(self, world: World) -> None:
        """Nothing is out of step in the controller's memory; what was deleted leaves nothing behind, anywhere."""
        if world.wide:
            await clear(world)
            await converge(world)
        wrong = await world.do(CheckInvariants())
        if world.wide:
            wrong = (*wrong, *leaks(world))
        if wrong:
            raise Broken(f"in the end: {'; '.join(wrong)}")


async def heal(world: World) -> None:
    """Undoes every fault there is."""
    network = world.network
    network.cut_hosts.clear()
    network.cut_pairs.clear()
    network.slow_s = 0.0
    network.bus.up, network.bus.lose, network.bus.repeat = True, 0.0, 0.0
    if world.controller is None:
        await world.start_controller()
    for host in world.hosts.values():
        host.heal()
    network.changed()


async def converge(world: World) -> float:
    """Waits until every host is as the store says; in virtual seconds. Raises Broken when it does not come to that."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        check(world)
        repeat(world)
        wrong = differences(world)
        if not wrong and not world.lagging():
            return loop.time() - began
        if loop.time() > began + CALM_S:
            raise Broken(f"not converged after {CALM_S:g} s: {'; '.join(wrong or world.lagging())}")
        await asyncio.sleep(LOOK_S)


def check(world: World) -> None:
    """The controller's loops run, and no step of an agent broke a promise. Raises Broken."""
    if world.failure is not None:
        raise Broken(f"in a round of an agent: {world.failure}") from world.failure
    if world.controller is not None:
        world.controller.check()


# ---- faults ----


def _some_host(world: World) -> str:
    return world.dice.choice(sorted(world.hosts))


def _kill_agent(world: World) -> None:
    world.hosts[_some_host(world)].kill()


def _start_agent(world: World) -> None:
    world.hosts[_some_host(world)].start()


def _hang_agent(world: World) -> None:
    world.hosts[_some_host(world)].hang()


def _thaw_agents(world: World) -> None:
    for host in world.hosts.values():
        host.thaw()


def _standby_gone(world: World) -> None:
    host = world.hosts[_some_host(world)]
    host.standby_there = not host.standby_there


def _harm_journal(world: World) -> None:
    host = world.hosts[_some_host(world)]
    host.kill()
    host.harm_journal(world.dice)
    host.start()


def _lose_disk(world: World) -> None:
    host = world.hosts[_some_host(world)]
    host.kill()
    host.lose_disk()
    host.start()


def _kill_all_agents(world: World) -> None:
    for host in world.hosts.values():
        host.kill()


def _cut_management(world: World) -> None:
    world.network.cut_hosts.add(_some_host(world))
    world.network.changed()


def _heal_management(world: World) -> None:
    world.network.cut_hosts.clear()
    world.network.changed()


def _cut_all_management(world: World) -> None:
    world.network.cut_hosts.update(world.hosts)
    world.network.changed()


def _cut_underlay(world: World) -> None:
    world.network.cut_pairs.add(frozenset(world.dice.sample(sorted(world.hosts), 2)))
    world.network.changed()


def _heal_underlay(world: World) -> None:
    world.network.cut_pairs.clear()
    world.network.changed()


async def _flap_bus(world: World) -> None:
    world.network.bus.up = False
    world.network.changed()
    await asyncio.sleep(world.dice.uniform(0.0, 2.0))
    world.network.bus.up = True
    world.network.changed()


def _end_bus(world: World) -> None:
    world.network.bus.up = not world.network.bus.up
    world.network.changed()


def _lossy_bus(world: World) -> None:
    world.network.bus.lose = world.dice.choice((0.0, 0.05, 0.5))


def _repeating_bus(world: World) -> None:
    world.network.bus.repeat = world.dice.choice((0.0, 0.1, 0.5))


def _slow(world: World) -> None:
    world.network.slow_s = world.dice.choice((0.0, 0.05, 0.5))


async def _restart_controller(world: World) -> None:
    await world.stop_controller()
    await asyncio.sleep(world.dice.uniform(0.0, 1.0))
    await world.start_controller()


def _refuse(world: World) -> None:
    """A host's kernel refuses a port, or everything, for a while."""
    tables = world.hosts[_some_host(world)].tables
    field = world.dice.choice(("tables_error", "broken"))
    setattr(tables, field, "no room")
    asyncio.get_running_loop().call_later(world.dice.uniform(0.1, 3.0), setattr, tables, field, "")


FAULTS: dict[str, Fault] = {
    "agent killed": _kill_agent,
    "agent started": _start_agent,
    "agent hung": _hang_agent,
    "agents go on": _thaw_agents,
    "standby gone or back": _standby_gone,
    "journal damaged": _harm_journal,
    "journal lost": _lose_disk,
    "all agents killed": _kill_all_agents,
    "management cut": _cut_management,
    "management healed": _heal_management,
    "all management cut": _cut_all_management,
    "underlay cut": _cut_underlay,
    "underlay healed": _heal_underlay,
    "bus flaps": _flap_bus,
    "bus gone or back": _end_bus,
    "bus loses": _lossy_bus,
    "bus repeats": _repeating_bus,
    "everything slow": _slow,
    "controller restarted": _restart_controller,
    "data plane refuses": _refuse,
}
"""By name. What heals is among them: schedules go both ways."""
