"""Who is probed, and when a member is said to be well or ill."""

import asyncio
import time
from collections.abc import Callable, Mapping

import pytest

from alcor.agent import probing as probing_module
from alcor.agent.probing import Probing, Watched, watched
from alcor.agent.state import Desired, Touched
from alcor.dataplane.base import Driver, Probe
from alcor.goalstate.objects import (
    HOST_SCOPE,
    BalancerGoal,
    Goal,
    ListenerGoal,
    MemberGoal,
    MonitorGoal,
    PoolGoal,
    PortAddress,
    PortGoal,
    ScopeUpdate,
    VpcGoal,
)
from alcor.model.addresses import Mac, parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import PortKind
from alcor.sim.tables import DictionaryDriver, Tables
from alcor.wire.reports import MemberAck

VPC, PORT, POOL, BALANCER = (Id(bytes((number,)) * 16) for number in (1, 2, 3, 4))
NEAR, FAR = Id(b"m" * 16), Id(b"n" * 16)
MAC, VIP = Mac(bytes((2, 0, 0, 0, 0, 1))), parse_ip("10.0.0.200")


def desired(monitor: MonitorGoal | None) -> Desired:
    """A port with 10.0.0.5, a pool with that address and another's as members."""
    found = Desired()
    port = PortGoal(PORT, 5, VPC, MAC, (PortAddress(parse_ip("10.0.0.5"), VPC),), True, PortKind.CONTAINER, "", "")
    objects: tuple[Goal, ...] = (
        VpcGoal(VPC, 1, 77, 1400, True),
        BalancerGoal(BALANCER, 2, VIP, MAC, (ListenerGoal(6, 80, POOL),)),
        PoolGoal(POOL, 3, True, False, monitor),
        MemberGoal(NEAR, 4, POOL, parse_ip("10.0.0.5"), 8080, 1, False),
        MemberGoal(FAR, 4, POOL, parse_ip("10.0.0.6"), 8080, 1, False),
    )
    updates = (
        ScopeUpdate(scope=HOST_SCOPE, revision=5, snapshot=True, objects=(port,)),
        ScopeUpdate(scope=VPC, revision=5, snapshot=True, objects=objects),
    )
    found.take(1, 1, updates, synced=True, touched=Touched())
    return found


def test_only_members_of_this_host_are_probed() -> None:
    """By their pool's monitor, in the name of its balancer; without a monitor, or before its port is carried, nobody
    is."""
    tables = Tables()
    driver: Driver = DictionaryDriver(tables)
    monitor = MonitorGoal("HTTP", 2, 1, 3, 4, "GET", "/up", "200")
    assert {} == watched(desired(monitor), driver)
    tables.ports[PORT] = None  # type: ignore[assignment]
    found = watched(desired(monitor), driver)
    probe = Probe(
        *(1, MAC, parse_ip("10.0.0.5"), 8080, MAC, VIP, "HTTP", 1, "GET", "/up", "200"), avoid=frozenset((80,))
    )
    assert {NEAR: Watched(1, probe, 2, 3, 4)} == found
    assert {} == watched(desired(None), driver)


class Patient:
    """A prober whose workload answers as it is told, and what was told of it."""

    def __init__(self) -> None:
        self.reason = ""
        self.asked = 0
        self.told: list[bool] = []

    def start(self, probe: Probe, done: Callable[[str], None]) -> None:
        self.asked += 1
        done(self.reason)

    def tell(self, partition: int, members: tuple[MemberAck, ...]) -> None:
        assert partition == 1
        self.told += [one.healthy for one in members]


async def test_a_host_without_members_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it changes; then at once, and again if it goes on changing."""
    monkeypatch.setattr(probing_module, "LOOK_S", 0.1)
    patient, looks = Patient(), 0
    found: dict[Id, Watched] = {}

    async def look() -> Mapping[Id, Watched]:
        nonlocal looks
        looks += 1
        return found

    def looking() -> asyncio.Future[Mapping[Id, Watched]]:
        return asyncio.ensure_future(look())

    probing = Probing(patient, time.monotonic, looking, patient.tell)
    task = asyncio.create_task(probing.run())
    async with asyncio.timeout(20):
        await asyncio.sleep(0.3)
        assert looks == 1
        found[NEAR] = Watched(1, Probe(1, MAC, VIP, 80, MAC, VIP, "TCP", 1), 0.01, 1, 1)
        probing.changed()
        while not patient.told:
            await asyncio.sleep(0.001)
        assert looks == 2
        probing.changed()
        while looks < 3:
            await asyncio.sleep(0.001)
        task.cancel()


async def test_it_takes_some_in_a_row() -> None:
    """The first good answer makes a member well; then `fall` bad ones in a row make it ill, `rise` good ones well."""
    patient = Patient()
    probe = Probe(1, MAC, VIP, 80, MAC, VIP, "TCP", 1)

    async def look() -> Mapping[Id, Watched]:
        return {NEAR: Watched(1, probe, 0.01, 3, 2)}

    def looking() -> asyncio.Future[Mapping[Id, Watched]]:
        return asyncio.ensure_future(look())

    probing = Probing(patient, time.monotonic, looking, patient.tell)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(probing.run())
        for reason, expected, least in (("", True, 1), ("dead", False, 2), ("", True, 3)):
            asked, patient.reason = patient.asked, reason
            while not patient.told or patient.told[-1] is not expected:
                await asyncio.sleep(0.001)
            assert least <= patient.asked - asked
        task.cancel()
    assert [True, False, True] == [one for at, one in enumerate(patient.told) if not at or patient.told[at - 1] != one]
