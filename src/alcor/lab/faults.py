"""The kinds of faults, and in what order they strike. Called by campaign.

A kind is a function that does harm to some hosts (or to the server) and answers how to undo it. What must hold while
the harm lasts is the campaign's business; only what is particular to a kind is said here.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from alcor.lab import harm
from alcor.lab.client import Client
from alcor.lab.delayline import DelayLine, Way, Weather
from alcor.lab.ground import SERVER, Ground
from alcor.lab.measures import CLOSED_PORT
from alcor.lab.processes import AGENT_PORT, BUS_PORT, standby_of
from alcor.lab.results import LabError
from alcor.lab.topology import Machine, fabric_device

HOUR_MS = 3_600_000
JUMPS_MS = (-24 * HOUR_MS, -HOUR_MS, -500, HOUR_MS, 400 * 24 * HOUR_MS)
DEATHS = 3


class Struck(NamedTuple):
    """A fault that has struck."""

    undo: Callable[[], None]
    note: str = ""
    idle: Callable[[], str] = lambda: ""
    """Asked before `undo`: why the fault was none; "" when it was one. What does no harm proves nothing."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of fault."""

    name: str
    strike: Callable[[Ground, Sequence[Machine]], Struck]
    hosts: int = 0
    """How many it strikes; 0: the controller's side only."""
    real: bool = False
    """Takes namespaces and mounts."""
    severs: bool = False
    """Packets between containers of the struck hosts are lost while it lasts, and must be."""
    isolates: bool = False
    """Packets between containers of the struck hosts and of any other are lost while it lasts, and must be."""
    loses: bool = False
    """Packets from and to containers of the struck hosts may be lost while it lasts."""
    deaf: bool = False
    """Nobody answers for addresses that are asked for: who is known in a VPC on demand is reached, others are not."""
    quiet: bool = False
    """Nothing may be asked of the API while it lasts but what the kind itself asks."""
    refuses: bool = False
    """While it lasts the API may only answer what is true, or not at all."""
    around: bool = False
    """A path leads around it: a port made on a struck host while it lasts becomes ACTIVE (tally.Strike.around_ms)."""
    seen: bool = False
    """The struck host is noticed not to be well while it lasts (tally.Strike.noticed_ms)."""
    hold_s: tuple[float, float] = (0.5, 1.5)
    """It lasts so long, by dice."""


class Planned(NamedTuple):
    """One strike of a campaign."""

    kind: Kind
    victims: tuple[str, ...]
    hold_s: float

    def cuts(self, here: str, there: str) -> bool:
        """Packets between these two hosts may be lost."""
        struck = sum(host in self.victims for host in (here, there))
        return (self.kind.severs and struck == 2) or ((self.kind.loses or self.kind.isolates) and struck > 0)

    def severed(self, hosts: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of hosts between which no packet may get through."""
        if self.kind.isolates:
            return [(one, other) for one in self.victims for other in hosts if other not in self.victims]
        return [(self.victims[0], self.victims[1])] if self.kind.severs else []


def plan(seed: int, count: int, kinds: Sequence[Kind], hosts: Sequence[str]) -> list[Planned]:
    """Who is struck by what, for how long. Every kind comes equally often, in an order by dice. Pure."""
    dice = random.Random(seed)
    planned: list[Planned] = []
    while len(planned) < count:
        for kind in dice.sample(list(kinds), len(kinds)):
            victims = tuple(dice.sample(list(hosts), min(kind.hosts, len(hosts))))
            planned.append(Planned(kind, victims, dice.uniform(*kind.hold_s)))
    return planned[:count]


def kinds_for(driver: str, beginnings: tuple[str, ...] = ()) -> list[Kind]:
    """The kinds that a lab with this driver can take, and whose names begin with one of these. Raises LabError."""
    able = [kind for kind in KINDS if driver == "ebpf" or not kind.real]
    kinds = [kind for kind in able if kind.name.startswith(beginnings or "")]
    if not kinds:
        raise LabError(f"no fault's name begins with {beginnings}; known are: {', '.join(kind.name for kind in able)}")
    return kinds


def _names(hosts: Sequence[Machine]) -> list[str]:
    return [host.name for host in hosts]


# ---- processes ----


def _kill_agents(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    ground.kill(*_names(hosts))
    return Struck(lambda: ground.start(*_names(hosts)))


def _crash_loop(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    for _ in range(DEATHS):
        ground.kill(*_names(hosts))
        ground.start(*_names(hosts))
    ground.kill(*_names(hosts))
    return Struck(lambda: ground.start(*_names(hosts)))


def _kill_standbys(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    names = [standby_of(host.name) for host in hosts]
    ground.kill(*names)
    return Struck(lambda: ground.start(*names))


def _hang_standbys(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    names = [standby_of(host.name) for host in hosts]
    ground.freeze(*names)
    return Struck(lambda: ground.thaw(*names))


def _kill_both(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    names = [name for host in hosts for name in (standby_of(host.name), host.name)]
    ground.kill(*names)
    return Struck(lambda: ground.start(*names))


def _kill_serving_standbys(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    """Agents die, their standbys take over, and die as well."""
    idle = _take_over(ground, hosts)
    names = [name for host in hosts for name in (host.name, standby_of(host.name))]
    ground.kill(*names)
    return Struck(lambda: ground.start(*names), idle=lambda: idle)


def _hang_serving_standbys(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    """They stay hung: the agent that is started again has to end them to get its place (`tend` starts them anew)."""
    idle = _take_over(ground, hosts)
    ground.freeze(*(standby_of(host.name) for host in hosts))
    return Struck(lambda: ground.start(*_names(hosts)), idle=lambda: idle)


def _take_over(ground: Ground, hosts: Sequence[Machine]) -> str:
    """Agents die and their standbys take over; which did not."""
    ground.kill(*_names(hosts))
    away = [standby_of(host.name) for host in hosts if not ground.taken_over(host)]
    return f"{' '.join(away)} did not take over" if away else ""


def _kill_bus(ground: Ground, _: Sequence[Machine]) -> Struck:
    ground.signal_bus(signal.SIGKILL)
    return Struck(lambda: None)


def _hang_bus(ground: Ground, _: Sequence[Machine]) -> Struck:
    pid = ground.signal_bus(signal.SIGSTOP)

    def undo() -> None:
        ground.signal_bus(signal.SIGCONT, pid)

    return Struck(undo)


def _hang_agents(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    ground.freeze(*_names(hosts))
    return Struck(lambda: ground.thaw(*_names(hosts)))


def _upgrade_agent(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    ground.kill(*_names(hosts), number=signal.SIGTERM)
    ground.start(*_names(hosts), fresh=True)
    return Struck(lambda: None)


def _kill_all_agents(ground: Ground, _: Sequence[Machine]) -> Struck:
    return _kill_agents(ground, ground.hosts)


def _kill_server(ground: Ground, _: Sequence[Machine]) -> Struck:
    ground.kill(SERVER)
    return Struck(lambda: ground.start(SERVER))


def _hang_server(ground: Ground, _: Sequence[Machine]) -> Struck:
    ground.freeze(SERVER)
    return Struck(lambda: ground.thaw(SERVER))


def _upgrade_server(ground: Ground, _: Sequence[Machine]) -> Struck:
    ground.kill(SERVER, number=signal.SIGTERM)
    return Struck(lambda: ground.start(SERVER))


def _kill_everything(ground: Ground, _: Sequence[Machine]) -> Struck:
    ground.kill(*ground.names())
    return Struck(lambda: ground.start(*ground.names()))


# ---- networks ----


def _cut_management(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    controller = ground.lab.topology.controller
    ends = [(host.netns, [controller.ip]) for host in hosts]
    ends.append((controller.netns, [host.ip for host in hosts]))
    for namespace, targets in ends:
        assert namespace is not None
        harm.swallow(namespace, targets)

    def undo() -> None:
        for namespace, targets in ends:
            assert namespace is not None
            harm.restore(namespace, targets)

    def idle() -> str:
        reached = [host.name for host in hosts if harm.reaches(_inside(controller), host.address, AGENT_PORT)]
        return f"the controller still reaches {' '.join(reached)}" if reached else ""

    return Struck(undo, idle=idle)


def _cut_bus(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    controller = ground.lab.topology.controller
    ends = [(_inside(host), controller.ip, True) for host in hosts]
    ends += [(_inside(controller), host.ip, False) for host in hosts]
    for namespace, target, towards in ends:
        harm.swallow_port(namespace, target, BUS_PORT, towards=towards)

    def undo() -> None:
        for namespace, target, towards in ends:
            harm.restore_port(namespace, target, BUS_PORT, towards=towards)

    def idle() -> str:
        reached = [host.name for host in hosts if harm.reaches(_inside(host), controller.address, BUS_PORT)]
        return f"the bus is still reached from {' '.join(reached)}" if reached else ""

    return Struck(undo, idle=idle)


def _cut_management_and_kill(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    cut = _cut_management(ground, hosts)
    killed = _kill_agents(ground, hosts)

    def undo() -> None:
        cut.undo()
        killed.undo()

    return Struck(undo)


def _close_fast_path(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    """Their nodes are registered with a port where nobody listens: left is the bus."""
    _register(ground, hosts, CLOSED_PORT)
    return Struck(lambda: _register(ground, hosts, AGENT_PORT))


def _register(ground: Ground, hosts: Sequence[Machine], port: int) -> None:
    client = Client(ground.lab.api_port)  # the lab's own connection may be to a server that was killed since
    with closing(client):
        _put_port(client, hosts, port)


def _put_port(client: Client, hosts: Sequence[Machine], port: int) -> None:
    for host in hosts:
        (node,) = client.get(f"/v2.0/nodes?name={host.name}")["nodes"]
        client.request("PUT", f"/v2.0/nodes/{node['id']}", {"node": {"agent_port": port}})


def _cut_underlay(_: Ground, hosts: Sequence[Machine]) -> Struck:
    here, there = hosts
    ends = ((here.netns, there.ip), (there.netns, here.ip))
    for namespace, target in ends:
        assert namespace is not None
        harm.swallow(namespace, [target])

    def undo() -> None:
        for namespace, target in ends:
            assert namespace is not None
            harm.restore(namespace, [target])

    return Struck(undo)


def _cut_off(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    """From every other host, both ways. The controller still reaches it."""
    ends = [(_inside(host), [other.ip for other in ground.hosts if other not in hosts]) for host in hosts]
    ends += [(_inside(other), [host.ip for host in hosts]) for other in ground.hosts if other not in hosts]
    for namespace, targets in ends:
        harm.swallow(namespace, targets)

    def undo() -> None:
        for namespace, targets in ends:
            harm.restore(namespace, targets)

    return Struck(undo)


def _weather(loss: float, delay_s: float, jitter_s: float, twice: float) -> Callable[..., Struck]:
    weather = Weather(loss=loss, delay_s=delay_s, jitter_s=jitter_s, twice=twice)

    def strike(ground: Ground, hosts: Sequence[Machine]) -> Struck:
        controller = ground.lab.topology.controller
        stack = ExitStack()
        ways = [Way(namespace=_inside(controller), targets=tuple(host.ip for host in hosts))]
        ways += [Way(namespace=_inside(host), targets=(controller.ip,)) for host in hosts]
        lines = [stack.enter_context(DelayLine(way, weather, ground.dice.getrandbits(32))) for way in ways]
        return Struck(stack.close, idle=lambda: _untouched(lines))

    return strike


def _storm(loss: float, delay_s: float, jitter_s: float, twice: float) -> Callable[..., Struck]:
    """On the fabric, so that everything a host is sent passes through it: tunnels, too."""
    weather = Weather(loss=loss, delay_s=delay_s, jitter_s=jitter_s, twice=twice)

    def strike(ground: Ground, hosts: Sequence[Machine]) -> Struck:
        topology = ground.lab.topology
        stack = ExitStack()
        lines = []
        for host in hosts:
            way = Way(
                namespace=topology.run.netns("fabric"),
                targets=(host.ip,),
                device=fabric_device(topology, host),
                name=f"storm-{host.name}"[:15],
            )
            lines.append(stack.enter_context(DelayLine(way, weather, ground.dice.getrandbits(32))))
        return Struck(stack.close, idle=lambda: _untouched(lines) or _in_order(lines, weather))

    return strike


def _untouched(lines: Sequence[DelayLine]) -> str:
    quiet = sum(not line.carried + line.lost for line in lines)
    return f"{quiet} of {len(lines)} detours carried no packet" if quiet else ""


def _in_order(lines: Sequence[DelayLine], weather: Weather) -> str:
    """Hosts probe each other all the time, so where packets can overtake each other some do."""
    return "no packet overtook another" if weather.jitter_s and not sum(line.overtaken for line in lines) else ""


def _inside(machine: Machine) -> Path:
    assert machine.netns is not None
    return machine.netns


# ---- disks, files, clocks ----


def _fill_host_disk(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    for host in hosts:
        harm.fill(host.data_dir / "state")

    def undo() -> None:
        for host in hosts:
            harm.free(host.data_dir / "state")

    return Struck(undo)


def _fill_host_disk_and_kill(ground: Ground, hosts: Sequence[Machine]) -> Struck:
    filled = _fill_host_disk(ground, hosts)
    ground.kill(*_names(hosts))
    ground.start(*_names(hosts))
    return filled


def _fill_store_disk(ground: Ground, _: Sequence[Machine]) -> Struck:
    harm.fill(ground.database.parent)
    return Struck(lambda: harm.free(ground.database.parent))


def _journal(damage: Callable[..., str]) -> Callable[..., Struck]:
    def strike(ground: Ground, hosts: Sequence[Machine]) -> Struck:
        ground.kill(*_names(hosts))
        notes = [damage(ground.journal(host), ground.dice) for host in hosts]
        return Struck(lambda: ground.start(*_names(hosts)), "; ".join(notes))

    return strike


def _damage_database(ground: Ground, _: Sequence[Machine]) -> Struck:
    ground.kill(SERVER)
    good = ground.database.with_suffix(".good")
    note = harm.damage_database(ground.database, good, ground.dice)
    ground.start(SERVER)

    def undo() -> None:
        ground.kill(SERVER)
        harm.restore_database(ground.database, good)
        ground.start(SERVER)

    return Struck(undo, note)


def _jump_clock(ground: Ground, _: Sequence[Machine]) -> Struck:
    shift_ms = ground.dice.choice(JUMPS_MS)
    ground.set_clock(shift_ms)
    return Struck(
        undo=lambda: ground.set_clock(0),
        note=f"by {shift_ms / 1000:+,.0f} s",
        idle=lambda: "" if ground.reads_clock() else "the server does not read the clock that jumped",
    )


KINDS: tuple[Kind, ...] = (
    Kind(name="agent killed", strike=_kill_agents, hosts=1, around=True, seen=True),
    Kind(name="agents of 3 hosts killed", strike=_kill_agents, hosts=3, around=True),
    Kind(name="agent and standby killed", strike=_kill_both, hosts=1, seen=True),
    Kind(name="standby killed", strike=_kill_standbys, hosts=1, around=True, hold_s=(0.0, 0.5)),
    Kind(name="standby hung", strike=_hang_standbys, hosts=1, around=True, hold_s=(0.0, 0.5)),
    Kind(name="standby killed as it serves", strike=_kill_serving_standbys, hosts=1),
    Kind(name="standby hung as it serves", strike=_hang_serving_standbys, hosts=1),
    Kind(name="agent killed again and again", strike=_crash_loop, hosts=1, hold_s=(0.0, 0.5)),
    Kind(name="agent hung", strike=_hang_agents, hosts=1, around=True, seen=True),
    Kind(name="agents of 3 hosts hung", strike=_hang_agents, hosts=3, around=True),
    Kind(name="agent upgraded", strike=_upgrade_agent, hosts=1, hold_s=(0.0, 0.2)),
    Kind(name="all agents killed", strike=_kill_all_agents),
    Kind(name="server killed", strike=_kill_server),
    Kind(name="server hung", strike=_hang_server),
    Kind(name="server upgraded", strike=_upgrade_server, hold_s=(0.0, 0.5)),
    Kind(name="server, bus, agents, standbys dead", strike=_kill_everything, deaf=True),
    Kind(name="bus killed", strike=_kill_bus, around=True, hold_s=(0.0, 0.5)),
    Kind(name="bus hung", strike=_hang_bus, around=True),
    Kind(name="fast path closed", strike=_close_fast_path, hosts=1, around=True),
    Kind(name="journal damaged", strike=_journal(harm.flip_bytes), hosts=1, hold_s=(0.2, 0.5)),
    Kind(name="journal cut short", strike=_journal(harm.cut_short), hosts=1, hold_s=(0.2, 0.5)),
    Kind(
        name="database damaged", strike=_damage_database, quiet=True, refuses=True, hold_s=(1.5, 2.0)
    ),
    Kind(name="clock jumps", strike=_jump_clock),
    Kind(name="management cut", strike=_cut_management, hosts=1, real=True, around=True),
    Kind(name="management of 3 hosts cut", strike=_cut_management, hosts=3, real=True, around=True),
    Kind(name="management cut, agent killed", strike=_cut_management_and_kill, hosts=1, real=True, around=True),
    Kind(name="underlay cut between 2 hosts", strike=_cut_underlay, hosts=2, real=True, severs=True),
    Kind(name="underlay of a host cut", strike=_cut_off, hosts=1, real=True, isolates=True, around=True, seen=True),
    Kind(name="management loses packets", strike=_weather(0.2, 0.0, 0.0, 0.0), hosts=2, real=True),
    Kind(name="management delays, reorders", strike=_weather(0.02, 0.02, 0.08, 0.05), hosts=2, real=True),
    Kind(name="host's network loses packets", strike=_storm(0.2, 0.0, 0.0, 0.0), hosts=1, real=True, loses=True),
    Kind(name="host's network delays, reorders", strike=_storm(0.0, 0.01, 0.06, 0.05), hosts=2, real=True),
    Kind(name="bus cut from 3 hosts", strike=_cut_bus, hosts=3, real=True, around=True),
    Kind(name="host's disk full", strike=_fill_host_disk, hosts=1, real=True),
    Kind(name="host's disk full, agent killed", strike=_fill_host_disk_and_kill, hosts=1, real=True),
    Kind(name="store's disk full", strike=_fill_store_disk, real=True),
)  # fmt: skip
