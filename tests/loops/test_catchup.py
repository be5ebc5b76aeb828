"""Catching up: a host that was away is sent what it missed, and holds what a snapshot would have given it."""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.goalstate.histories import HISTORIES, HOSTS, Action, Commit, Rows, network_id, play, start
from tests.goalstate.test_delta import whole
from tests.loops.test_publish import Network, RacingStore, Site

from alcor.agent.intake import Received
from alcor.agent.reconcile import Answer
from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.agent.sync import Sync
from alcor.goalstate.digest import digest
from alcor.goalstate.merge import ScopeState
from alcor.goalstate.objects import AS_OF_NOTHING, HOST_SCOPE, Kind, ScopeUpdate, Tombstone
from alcor.goalstate.snapshot import host_snapshot
from alcor.loops import history as history_module
from alcor.loops.history import History, read_history
from alcor.loops.publish import Publisher
from alcor.loops.views import Views
from alcor.model.addresses import parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import PortStatus
from alcor.paths.base import Parcel
from alcor.store.base import ChangeRecord, Changes
from alcor.wire.codec import BundleHead, decode_bundle, decode_scopes, encode_bundle


class Scene:
    """A controller and three hosts, whom nothing happens to but what a test says."""

    def __init__(self, directory: Path, commits: list[Commit]) -> None:
        self.store = RacingStore(random.Random(0))
        self.store.dice.random = lambda: 1.0  # type: ignore[method-assign]
        self.directory = directory
        self.states = [start(), *(commit.after for commit in commits)]
        first = self.states[0]
        self.store.commit(
            1,
            Changes(
                networks=list(first.networks.values()),
                subnets=list(first.subnets.values()),
                nodes=list(first.nodes.values()),
            ),
        )
        self.network = Network(directory)
        self.store.pending = list(commits)
        self.restart()
        for node in first.nodes.values():
            self.network.connect(node)

    @property
    def now(self) -> Rows:
        return self.states[self.store.revision() - 1]

    def restart(self) -> None:
        """A new controller over the same store."""
        for site in self.network.sites.values():
            site.cut()
        self.publisher = self.store.publisher = Publisher(self.store)

    async def commit(self) -> None:
        self.store.land()
        await self.publisher._round(self.network)
        self.check_digests()

    def check_digests(self) -> None:
        """What the controller believes of VPCs' digests, brought forward with every commit, is true."""
        rows = self.states[self.publisher._views.revision - 1]
        for vpc in rows.networks:
            known = self.publisher._drift.digest(vpc)
            assert known is None or known == digest(whole(rows, vpc).objects)

    async def greet(self, name: str) -> list[Parcel]:
        """The host comes back; what it is sent at first, before it takes all that is sent."""
        site = self.network.sites[name]
        self.network.greet(self.publisher, site)
        await self.publisher._round(self.network)
        self.check_digests()
        sent = list(site.mailbox._waiting)
        while self.network.carry(self.publisher, site):
            await self.publisher._round(self.network)
        return sent

    def check(self, site: Site) -> None:
        """It holds what snapshots of everything would have given it."""
        mine = self.now.of_host(site.name)
        truth = {HOST_SCOPE: host_snapshot(self.now.revision, mine)}
        truth.update((vpc, whole(self.now, vpc)) for host, vpc in self.now.needs() if host == site.name)
        held = {key.scope: state for key, state in site.reconciler.desired.scopes.items()}
        assert truth.keys() == held.keys() | {HOST_SCOPE}
        for scope, update in truth.items():
            state = held.get(scope, ScopeState(scope))
            assert list(state.objects()) == sorted(update.objects, key=lambda goal: goal.key)
            assert state.digest == digest(update.objects)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(HISTORIES, st.data())
async def test_what_was_missed_equals_all_of_it(history: list[list[Action]], data: st.DataObject) -> None:
    """Whatever commits a host missed, and whether or not the controller was another one meanwhile: what it is sent when
    it comes back fits what it holds (it never asks for more), and it then holds what the store does."""
    with tempfile.TemporaryDirectory() as directory:
        scene = Scene(Path(directory), play(history, exclusive=True))
        whole_again: list[str] = []
        scene.publisher.overflowed = lambda session, scopes: whole_again.append(session.host)  # type: ignore[method-assign]
        while scene.store.pending:
            await scene.commit()
            what = data.draw(st.sampled_from(["away", "away", "greet", "greet", "cut", "restart"]))
            site = scene.network.sites[data.draw(st.sampled_from(HOSTS))]
            if what == "greet":
                await scene.greet(site.name)
                scene.check(site)
            elif what == "cut":
                site.cut()
            elif what == "restart":
                scene.restart()
                scene.publisher.overflowed = lambda session, scopes: whole_again.append(session.host)  # type: ignore[method-assign]
        assert whole_again == []
        for site in scene.network.sites.values():
            await scene.greet(site.name)
            scene.check(site)
            site.reconciler.close()


async def settled(directory: Path) -> tuple[Scene, Site]:
    """Host a carries a port in each of two VPCs and has answered for them. In one VPC its port is then renamed, b's
    goes, and the subnet changes."""
    commits = play(
        [
            [("port", 0, 0, 0), ("port", 1, 0, 0), ("port", 2, 1, 1)],
            [("port", 4, 2, 2)],
            [("rename", 0, 0, 1)],
            [("delete", 2, 0, 0)],
            [("subnet", 0, 0, 1)],
        ]
    )
    scene = Scene(directory, commits)
    await scene.commit()
    await scene.commit()
    await scene.greet("a")
    site = scene.network.sites["a"]
    scene.check(site)
    site.cut()
    for row in scene.store.ports_of_host("a"):
        scene.store._ports[row.id] = replace(row, status=PortStatus.ACTIVE, realised_revision=row.revision)
    return scene, site


async def test_only_what_changed_is_sent(tmp_path: Path) -> None:
    """By a controller that was there, and by one that has but the log."""
    scene, site = await settled(tmp_path)
    for _ in range(3):
        await scene.commit()
    scene.restart()
    updates = {parcel.scope: decoded(parcel) for parcel in await scene.greet("a")}
    scene.check(site)
    own, vpc = updates[HOST_SCOPE], updates[network_id(0)]
    assert (own.snapshot, vpc.snapshot) == (False, False)
    assert [goal.key.kind for goal in own.objects] == [Kind.PORT]
    assert [goal.key.kind for goal in vpc.objects] == [Kind.SUBNET, Kind.ENDPOINT]
    # The log does not say whether ports had names: of both that changed it is said that they have none now.
    assert [one.kind for one in vpc.tombstones] == [Kind.ENDPOINT, Kind.NAME, Kind.NAME]
    assert scene.publisher._catch_up.deltas == 2


@pytest.mark.parametrize("scope", [HOST_SCOPE, network_id(0)])
async def test_a_wrong_base_is_noticed(tmp_path: Path, scope: Id) -> None:
    """A host that holds something else than its revision says: what it was sent does not make it right, and it says so
    and gets the scope whole. Until then it removes nothing for not being asked for."""
    scene, site = await settled(tmp_path)
    for _ in range(3):
        await scene.commit()
    state = site.reconciler.desired.scopes[ScopeKey(1, scope)]
    (*_, lost) = [goal for goal in state.objects() if goal.key.kind in (Kind.PORT, Kind.ENDPOINT)]
    wrong = Tombstone(lost.key.kind, lost.id, lost.revision)
    told = ScopeUpdate(scope=scope, revision=state.revision, snapshot=False, objects=(), tombstones=(wrong,))
    site.reconciler.desired.take(1, 1, [told], synced=False, touched=Touched())
    before = {key: where for key, where in site.tables.endpoints.items() if key.ip == parse_ip("10.0.0.4")}
    assert before
    synced: list[bool] = []
    handle = site.reconciler.handle

    def watch(bundles: Sequence[Received]) -> list[Answer]:
        answers = handle(bundles)
        synced.append(site.reconciler.in_sync)
        while site.reconciler.due() <= site.clock.monotonic():
            site.reconciler.tick()
        assert before.items() <= site.tables.endpoints.items()  # what it forgot is not taken out
        return answers

    site.reconciler._sync = Sync()
    site.reconciler.handle = watch  # type: ignore[method-assign]
    sent = await scene.greet("a")
    assert [False] == [parcel.snapshot for parcel in sent if parcel.scope == scope]
    assert synced == [False, True]
    scene.check(site)


async def test_who_cannot_say_what_it_missed_gets_all(tmp_path: Path) -> None:
    """A host whose journal was damaged: what it holds reaches nowhere, and every scope of it is sent whole."""
    scene, site = await settled(tmp_path)
    await scene.commit()
    for state in site.reconciler.desired.scopes.values():
        state.revision = AS_OF_NOTHING
    assert {True} == {parcel.snapshot for parcel in await scene.greet("a")}
    scene.check(site)


async def test_who_missed_too_much_gets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are remembered up to a bound; beyond it the scope is sent whole, and what is old is forgotten."""
    monkeypatch.setattr(history_module, "MAX_MISSED", 2)
    scene, site = await settled(tmp_path)
    for _ in range(3):
        await scene.commit()
    sent = {parcel.scope: parcel.snapshot for parcel in await scene.greet("a")}
    assert sent == {HOST_SCOPE: False, network_id(0): True}
    scene.check(site)


def decoded(parcel: Parcel) -> ScopeUpdate:
    head = BundleHead(partition=1, epoch=1, sequence=1, host="a", synced=False)
    (update,) = decode_scopes(decode_bundle(encode_bundle(head, [parcel.part]))[1])
    return update


# ---- the history ----


def key(number: int) -> tuple[Kind, Id]:
    return Kind.ENDPOINT, Id(bytes((number,)) * 16)


def test_a_history_knows_what_changed_since() -> None:
    """Each key with its last revision; nothing for who is up to date; None for who is further behind than it goes."""
    history = History(10)
    history.note("a", 11, [key(1), key(2)])
    history.note("a", 13, [key(2)])
    assert history.since("a", 10) == {key(1): 11, key(2): 13}
    assert history.since("a", 11) == {key(2): 13}
    assert history.since("a", 13) == {}
    assert history.since("a", 9) is None
    assert (history.since("b", 10), history.since("b", 9)) == ({}, None)
    history.cut("a", 14)
    assert (history.since("a", 13), history.since("a", 14)) == (None, {})


def test_a_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scope by itself, and all together: the oldest go, and only the scopes they are of reach back less far."""
    monkeypatch.setattr(history_module, "MAX_MISSED", 3)
    monkeypatch.setattr(history_module, "MAX_KEPT", 5)
    history = History(0)
    for revision in range(1, 5):
        history.note("a", revision, [key(revision)])
    assert (history.since("a", 0), history.since("a", 1)) == (None, {key(n): n for n in (2, 3, 4)})
    history.note("b", 5, [key(5), key(6)])
    assert history.since("a", 1) is not None
    history.note("c", 6, [key(7)])
    assert (history.since("a", 1), history.since("a", 2)) == (None, {key(n): n for n in (3, 4)})
    history.note("d", 7, map(key, range(4)))
    assert (history.since("d", 6), history.since("d", 7)) == (None, {})
    for revision in range(8, 200):
        history.note("e", revision, [key(1)])
        assert history._weight <= 5
        assert len(history._order) <= 11


def test_records_of_older_versions_are_no_history() -> None:
    """They do not say which VPCs they are about: it begins after them."""
    scene = RacingStore(random.Random(0))
    rows = start()
    first = Changes(networks=list(rows.networks.values()), subnets=list(rows.subnets.values()))
    scene.commit(1, first)
    scene._log.append(ChangeRecord(2, ports=(key(1)[1],)))
    scene._log.append(ChangeRecord(3, ports=(key(2)[1],), port_networks=((network_id(0), 1),)))
    scene._revision = 3
    history = read_history(scene, Views(scene))
    assert history.since(network_id(0), 1) is None
    assert history.since(network_id(0), 2) == {key(2): 3, (Kind.NAME, key(2)[1]): 3}


def test_synced_counts_when_the_hosts_own_scope_is_there() -> None:
    """Said while it is in doubt, it holds from when the scope has come whole."""
    desired = Desired()
    wrong = ScopeUpdate(scope=HOST_SCOPE, revision=3, snapshot=False, objects=(), confirms=7)
    right = ScopeUpdate(scope=HOST_SCOPE, revision=3, snapshot=True, objects=())
    touched = Touched()
    assert not desired.take(1, 1, [wrong], synced=False, touched=touched)
    assert ScopeKey(1, HOST_SCOPE) in touched.missed
    assert not desired.take(1, 1, [], synced=True, touched=Touched())
    assert desired.take(1, 1, [right], synced=False, touched=Touched())
    assert not desired.take(1, 1, [], synced=False, touched=Touched())
