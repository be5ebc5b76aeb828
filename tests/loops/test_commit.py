"""The writer: what shares a commit, what fails alone, what happens when the store breaks."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from alcor.kit.clock import FakeClock
from alcor.loops import commit
from alcor.loops.commit import Committer
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.ids import ordinal_of
from alcor.model.nouns import Network, Port, PortStatus
from alcor.services.commands import (
    CheckInvariants,
    Command,
    CreateNetworks,
    CreateNodes,
    CreatePorts,
    CreateSubnets,
    DeleteNetwork,
    DeletePorts,
    FixedIpSpec,
    NetworkSpec,
    NodeSpec,
    PortReport,
    PortSpec,
    RecordPortReports,
    SubnetSpec,
    UpdateNetwork,
    UpdatePort,
)
from alcor.services.errors import (
    ControlPlaneBusy,
    ControlPlaneStopped,
    IpAddressAlreadyAllocated,
    IpAddressGenerationFailure,
    NetworkInUse,
    PortNotFound,
    RevisionNumberConstraintFailed,
)
from alcor.store.base import Changes, Query, StoreError
from alcor.store.memory import MemoryStore


class Gate(MemoryStore):
    """A memory store whose commits wait at a gate, so that a test decides what a batch is."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()
        self.batches: list[int] = []

    def commit(self, revision: int, changes: Changes) -> None:
        self.arrived.set()
        self.open.wait()
        super().commit(revision, changes)
        self.batches.append(revision)


class Writer:
    """A committer over a gated store, and what its listener heard."""

    def __init__(self, store: Gate) -> None:
        self.store = store
        self.heard: list[tuple[int, int]] = []
        self.committer = Committer(store, clock=FakeClock().now_ms, entropy=os.urandom, on_commit=self._hear)
        self.do = self.committer.submit

    def _hear(self, revision: int, changes: Changes) -> None:
        self.heard.append((revision, len(changes.new_ports)))

    async def network(self, **fields: Any) -> Network:
        made: Any = await self.do(CreateNetworks(specs=(NetworkSpec(**fields),)))
        found: Network = made[0]
        return found

    async def together(self, *commands: Command) -> list[Any]:
        """Makes the commands one drain of the queue: a first commit is held until all of them wait."""
        self.store.open.clear()
        self.store.arrived.clear()
        first = asyncio.create_task(self.do(CreateNetworks(specs=(NetworkSpec(),))))
        await asyncio.to_thread(self.store.arrived.wait)
        tasks = [asyncio.create_task(self.do(command)) for command in commands]
        await asyncio.sleep(0)  # Every task has submitted when the loop comes round.
        self.store.batches.clear()
        self.store.open.set()
        await first
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return list(answers)

    async def settle(self) -> None:
        """Until the listener has heard of every commit so far: it is called after the answers."""
        await self.do(CheckInvariants())

    @property
    def commits(self) -> int:
        """How many commits the commands of `together` took."""
        return len(self.store.batches) - 1


@asynccontextmanager
async def writer(store: Gate | None = None) -> AsyncIterator[Writer]:
    """A started writer; at the end memory and store must agree."""
    made = Writer(store or Gate())
    made.committer.start()
    yield made
    with suppress(ControlPlaneStopped):
        assert () == await made.do(CheckInvariants())
        assert [] == made.store.check()
    made.committer.close()


def _ports(network: Network, count: int = 1, **fields: Any) -> CreatePorts:
    return CreatePorts(specs=(PortSpec(network_id=network.id, **fields),) * count)


async def test_an_answer_is_durable() -> None:
    """What `submit` returned is in the store, with the commit's revision and time and growing ordinals."""
    async with writer() as it:
        network = await it.network(name="a")
        made: Any = await it.do(_ports(network, 3))
        assert list(made) == it.store.list_ports(Query())
        assert (1, 2) == (network.revision, made[0].revision)
        assert FakeClock().now_ms() == network.created_at
        assert [1, 2, 3, 4] == [ordinal_of(one.id) for one in (network, *made)]


async def test_waiting_commands_share_a_commit() -> None:
    """64 commands that wait are one transaction, one revision, one call of the listener."""
    async with writer() as it:
        network = await it.network()
        answers = await it.together(*[_ports(network)] * 64)
        assert 1 == it.commits
        assert 1 == len({port.revision for (port,) in answers})
        assert 64 == len({port.mac for (port,) in answers})
        await it.settle()
        assert (it.store.revision(), 64) == it.heard[-1]


async def test_a_command_that_fails_fails_alone() -> None:
    """The others of its batch commit; it leaves nothing: what it would have taken goes to them."""
    async with writer() as it:
        network = await it.network()
        await it.do(CreateSubnets(specs=(SubnetSpec(network_id=network.id, cidr=parse_prefix("10.0.0.0/29")),)))
        too_many, fits = _ports(network, 6), _ports(network, 5)
        twice = CreatePorts(
            specs=(PortSpec(network_id=network.id, fixed_ips=(FixedIpSpec(ip=parse_ip("10.0.0.5")),)),) * 2
        )
        refused, doubled, made, full = await it.together(too_many, twice, fits, _ports(network))
        assert isinstance(refused, IpAddressGenerationFailure)
        assert isinstance(doubled, IpAddressAlreadyAllocated)
        assert isinstance(full, IpAddressGenerationFailure)
        assert 5 == len({port.fixed_ips for port in made})
        assert (1, 5) == (it.commits, len(it.store.list_ports(Query())))


async def test_a_batch_of_failures_is_no_commit() -> None:
    """Nothing is written, nobody is woken, the revision stays."""
    async with writer() as it:
        network = await it.network()
        await it.settle()
        heard = list(it.heard)
        with pytest.raises(PortNotFound):
            await it.do(DeletePorts(ids=(network.id,)))
        await it.settle()
        assert (1, heard) == (it.store.revision(), it.heard)


async def test_commands_of_one_row_never_share_a_commit() -> None:
    """Two updates of a port: the second sees the first, and If-Match tells them apart."""
    async with writer() as it:
        network = await it.network()
        made: Any = await it.do(_ports(network))
        port: Port = made[0]
        first, second, third, matched = await it.together(
            UpdatePort(id=port.id, name="a"),
            UpdatePort(id=port.id, description="b"),
            UpdateNetwork(id=network.id, name="c"),
            UpdatePort(id=port.id, name="d", if_match=port.revision),
        )
        assert ("a", "") == (first.name, first.description)
        assert ("a", "b") == (second.name, second.description)
        assert first.revision < second.revision == third.revision
        assert isinstance(matched, RevisionNumberConstraintFailed)
        assert 2 == it.commits


async def test_networks_are_rows_too() -> None:
    """An update and a deletion of one network in one drain are two commits, in order."""
    async with writer() as it:
        network = await it.network()
        renamed, deleted = await it.together(UpdateNetwork(id=network.id, name="x"), DeleteNetwork(id=network.id))
        assert ("x", None, 2) == (renamed.name, deleted, it.commits)
        assert network.id not in {left.id for left in it.store.networks()}


async def test_a_deletion_sees_what_its_batch_created() -> None:
    """A network does not go while a port of the same batch comes."""
    async with writer() as it:
        network = await it.network()
        made, deleted = await it.together(_ports(network), DeleteNetwork(id=network.id))
        assert isinstance(deleted, NetworkInUse)
        assert list(made) == it.store.list_ports(Query())


async def test_what_is_deleted_twice_is_deleted_once() -> None:
    """The second of two deletions in one drain is told so."""
    async with writer() as it:
        made: Any = await it.do(_ports(await it.network()))
        first, second = await it.together(DeletePorts(ids=(made[0].id,)), DeletePorts(ids=(made[0].id,)))
        assert first is None
        assert isinstance(second, PortNotFound)


async def test_a_report_never_meets_a_change_it_does_not_know() -> None:
    """A report of the old revision behind an update in one drain changes nothing: the port builds again."""
    async with writer() as it:
        await it.do(CreateNodes(specs=(NodeSpec(name="h1", underlay_ip=parse_ip("192.0.2.1")),)))
        made: Any = await it.do(_ports(await it.network(), host="h1"))
        port: Port = made[0]
        report = RecordPortReports(reports=(PortReport(port.id, "h1", port.revision, ""),))
        changed, _ = await it.together(UpdatePort(id=port.id, admin_state_up=False), report)
        assert [changed] == it.store.get_ports([port.id])
        assert PortStatus.BUILD is changed.status
        reported, changed = await it.together(
            RecordPortReports(reports=(PortReport(port.id, "h1", changed.revision, ""),)),
            UpdatePort(id=port.id, name="x"),
        )
        assert (None, PortStatus.DOWN) == (reported, changed.status)
        assert changed.revision > changed.realised_revision > 0


async def test_the_listener_hears_commits_in_order() -> None:
    """Revisions without gaps, after the rows are durable."""
    async with writer() as it:
        network = await it.network()
        await asyncio.gather(*[it.do(_ports(network)) for _ in range(50)])
    assert sorted(it.heard) == it.heard
    assert list(range(1, it.store.revision() + 1)) == [revision for revision, _ in it.heard]
    assert 50 == sum(ports for _, ports in it.heard)


async def test_a_full_queue_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """503; what waits already is done; a large command alone is always taken."""
    monkeypatch.setattr(commit, "MAX_QUEUED_WEIGHT", 10)
    async with writer() as it:
        network = await it.network()
        it.store.open.clear()
        it.store.arrived.clear()
        held = asyncio.create_task(it.do(_ports(network)))
        await asyncio.to_thread(it.store.arrived.wait)
        waiting = asyncio.create_task(it.do(_ports(network, 99)))
        await asyncio.sleep(0)
        with pytest.raises(ControlPlaneBusy, match="99 changes wait"):
            await it.do(_ports(network))
        it.store.open.set()
        await asyncio.gather(held, waiting)
        await it.do(_ports(network))
    assert 101 == len(it.store.list_ports(Query()))


async def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows and by commands; a command larger than the bound goes alone."""
    monkeypatch.setattr(commit, "MAX_BATCH_WEIGHT", 10)
    monkeypatch.setattr(commit, "MAX_BATCH_COMMANDS", 3)
    async with writer() as it:
        network = await it.network()
        await it.together(*[_ports(network, 4)] * 4)
        assert 2 == it.commits
        await it.together(_ports(network, 99), _ports(network))
        assert 2 == it.commits
        await it.together(*[_ports(network)] * 7)
        assert 3 == it.commits


async def test_whoever_went_away_is_not_missed() -> None:
    """A cancelled caller does not stop its command, nor the batch."""
    async with writer() as it:
        network = await it.network()
        it.store.open.clear()
        it.store.arrived.clear()
        held = asyncio.create_task(it.do(_ports(network)))
        await asyncio.to_thread(it.store.arrived.wait)
        gone, stays = asyncio.create_task(it.do(_ports(network))), asyncio.create_task(it.do(_ports(network)))
        await asyncio.sleep(0)
        gone.cancel()
        it.store.open.set()
        await asyncio.gather(held, stays)
    assert 3 == len(it.store.list_ports(Query()))


async def test_a_store_that_fails_stops_everything() -> None:
    """Nobody is acknowledged: who waits and who comes is told so; wait_failed raises the store's reason."""
    store = Gate()
    async with writer(store) as it:
        network = await it.network()
        failed = asyncio.create_task(it.committer.wait_failed())
        store.open.clear()
        store.arrived.clear()
        held = asyncio.create_task(it.do(_ports(network)))
        await asyncio.to_thread(store.arrived.wait)
        waiting = [asyncio.create_task(it.do(_ports(network))) for _ in range(5)]
        await asyncio.sleep(0)
        store.fail = "disk full"
        store.open.set()
        for task in (held, *waiting):
            with pytest.raises(ControlPlaneStopped, match="disk full"):
                await task
        with pytest.raises(StoreError, match="disk full"):
            await failed
        with pytest.raises(StoreError, match="disk full"):
            await it.committer.wait_failed()
        with pytest.raises(ControlPlaneStopped):
            await it.do(_ports(network))
    assert [] == store.list_ports(Query())
    assert 1 == it.heard[-1][0]


async def test_a_listener_that_fails_stops_everything() -> None:
    """A mistake of ours is as fatal as the disk's: what was answered is durable, what follows is refused."""
    store = Gate()

    def broken(revision: int, changes: Changes) -> None:
        raise RuntimeError("listener broke")

    committer = Committer(store, clock=lambda: 1, entropy=os.urandom, on_commit=broken)
    committer.start()
    await committer.submit(CreateNetworks(specs=(NetworkSpec(),)))
    with pytest.raises(StoreError, match="listener broke"):
        await committer.wait_failed()
    committer.close()
    assert 1 == len(store.networks())


async def test_a_service_that_breaks_fails_its_command() -> None:
    """A command nobody answers is the caller's TypeError; the writer goes on."""
    async with writer() as it:
        with pytest.raises(TypeError, match="no service answers Command"):
            await it.do(Command())
        await it.network()


async def test_closing_finishes_what_waits() -> None:
    """Then refuses; closing twice, or before the start, is nothing."""
    async with writer() as it:
        network = await it.network()
        tasks = [asyncio.create_task(it.do(_ports(network))) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(it.committer.close)
        answers: list[Any] = await asyncio.gather(*tasks)
        assert 20 == len([port for made in answers for port in made])
        with pytest.raises(ControlPlaneStopped):
            await it.do(_ports(network))
    Committer(Gate(), clock=lambda: 1, entropy=os.urandom).close()


async def test_a_controller_goes_on_where_the_last_one_stopped() -> None:
    """Revisions, ordinals, VNIs, addresses and MACs continue; the epoch is its own."""
    store = Gate()
    async with writer(store) as first:
        network = await first.network()
        await first.do(CreateSubnets(specs=(SubnetSpec(network_id=network.id, cidr=parse_prefix("10.0.0.0/24")),)))
        before: Any = await first.do(_ports(network, 3))
        gone = await first.network()
        await first.do(DeleteNetwork(id=gone.id))
        revision = store.revision()
    async with writer(store) as second:
        assert (1, 2) == (first.committer.epoch, second.committer.epoch)
        after: Any = await second.do(_ports(network, 3))
        assert revision + 1 == after[0].revision
        assert ordinal_of(gone.id) + 1 == ordinal_of(after[0].id)
        assert 6 == len({port.mac for port in before + after}) == len({port.fixed_ips for port in before + after})
