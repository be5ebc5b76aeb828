"""Merging: newest wins, whatever the order, and the digest says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.goalstate.histories import HISTORIES, HOSTS, Action, Rows, network_id, play, start
from tests.goalstate.test_delta import of, whole

from alcor.goalstate import merge
from alcor.goalstate.digest import digest, object_digest
from alcor.goalstate.merge import Change, Merged, ScopeState
from alcor.goalstate.objects import HOST_SCOPE, EndpointGoal, Goal, Key, Kind, ScopeUpdate, Tombstone
from alcor.goalstate.snapshot import host_snapshot
from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id

VPC = Id(b"v" * 16)


def endpoint(number: int, revision: int) -> EndpointGoal:
    return EndpointGoal(Id(bytes(15) + bytes((number,))), revision, Mac(bytes(6)), (Ip(bytes(16)),), Ip(bytes(16)))


def update(revision: int, *objects: Goal, gone: tuple[Tombstone, ...] = (), snapshot: bool = False) -> ScopeUpdate:
    return ScopeUpdate(scope=VPC, revision=revision, snapshot=snapshot, objects=objects, tombstones=gone)


def partial(rows: Rows, vpc: Id) -> ScopeUpdate:
    """All but the endpoints, as a host gets it with its first port of a large VPC."""
    bare = tuple([goal for goal in whole(rows, vpc).objects if not isinstance(goal, EndpointGoal)])
    return ScopeUpdate(scope=vpc, revision=1, snapshot=False, partial=True, objects=bare)


def told(merged: Merged) -> list[Change]:
    """All that an update changed, one by one."""
    return [*(Change(Kind.ENDPOINT, goal.id, None, goal) for goal in merged.loaded), *merged.changes]


def grave(number: int, revision: int) -> Tombstone:
    return Tombstone(Kind.ENDPOINT, endpoint(number, 1).id, revision)


def converge(truth: ScopeUpdate, deltas: list[ScopeUpdate], snapshots: list[ScopeUpdate], data: st.DataObject) -> None:
    """Any order, any repetition of the deltas with any of the snapshots among them: the truth."""
    extra = data.draw(st.lists(st.sampled_from([*deltas, *snapshots]), max_size=6)) if deltas else []
    order = data.draw(st.permutations([*deltas, *extra]))
    state = ScopeState(truth.scope)
    mirror: dict[Key, Goal] = {}
    for one in order:
        for change in told(state.merge(one)):
            assert mirror.pop(Key(change.kind, change.id), None) == change.before
            if change.after is not None:
                mirror[change.after.key] = change.after
        assert mirror == {goal.key: goal for goal in state.objects()}
    assert list(state.objects()) == sorted(truth.objects, key=lambda goal: goal.key)
    assert state.digest == digest(truth.objects)
    before = list(state.objects())
    for one in order:
        assert told(state.merge(one)) == []
    assert list(state.objects()) == before


@given(HISTORIES, st.data())
def test_any_order_of_a_vpcs_updates_converges(history: list[list[Action]], data: st.DataObject) -> None:
    """Deltas repeated and reordered, snapshots among them, those read later than they claim too: the same state."""
    commits = play(history)
    vpc = network_id(data.draw(st.integers(0, 1)))
    moments = [start(), *(commit.after for commit in commits)]
    deltas = [whole(start(), vpc)]
    for before, commit in zip(moments, commits, strict=False):
        if vpc in before.on_demand() ^ commit.after.on_demand():
            deltas.append(whole(commit.after, vpc))  # it crosses the threshold: everybody gets all of it
        elif vpc in (change := of(commit, before=before)).vpcs:
            deltas.append(change.vpcs[vpc])
    snapshots = [
        whole(read, vpc, claimed.revision)
        for index, claimed in enumerate(moments)
        for read in moments[index:]
        if (vpc in read.on_demand()) == (vpc in claimed.on_demand())  # the network is as of what is claimed
    ]
    snapshots += [partial(moment, vpc) for moment in moments]
    converge(whole(moments[-1], vpc), deltas, snapshots, data)


@given(HISTORIES, st.data())
def test_any_order_of_a_hosts_updates_converges(history: list[list[Action]], data: st.DataObject) -> None:
    """The same for a host's own scope, where ports leave and come back."""
    commits = play(history)
    host = data.draw(st.sampled_from(HOSTS))

    def snapshot(read: Rows, claimed: Rows) -> ScopeUpdate:
        return host_snapshot(claimed.revision, read.of_host(host))

    moments = [start(), *(commit.after for commit in commits)]
    deltas = [change.hosts[host] for commit in commits if host in (change := of(commit)).hosts]
    snapshots = [snapshot(read, claimed) for index, claimed in enumerate(moments) for read in moments[index:]]
    converge(snapshot(moments[-1], moments[-1]), deltas, snapshots, data)


@given(HISTORIES, st.data())
def test_a_late_snapshot_repairs_whatever_was_lost(history: list[list[Action]], data: st.DataObject) -> None:
    """After any loss, a snapshot of the newest rows makes the state the truth; stale deltas after it change nothing."""
    commits = play(history)
    vpc = network_id(0)
    moments = [start(), *(commit.after for commit in commits)]
    changes = [of(commit, before=before) for before, commit in zip(moments, commits, strict=False)]
    deltas = [change.vpcs[vpc] for change in changes if vpc in change.vpcs]
    state = ScopeState(vpc)
    for one in deltas:
        if data.draw(st.booleans()):
            state.merge(one)
    truth = whole(commits[-1].after, vpc)
    state.merge(truth)
    assert (list(state.objects()), state.digest) == (list(truth.objects), digest(truth.objects))
    for one in data.draw(st.permutations(deltas)):
        assert told(state.merge(one)) == []


def test_an_older_object_is_refused() -> None:
    """Newest revision of each object wins; the same one twice changes nothing."""
    state = ScopeState(VPC)
    assert told(state.merge(update(5, endpoint(1, 5)))) == [
        Change(Kind.ENDPOINT, endpoint(1, 5).id, None, endpoint(1, 5))
    ]
    assert told(state.merge(update(5, endpoint(1, 5)))) == []
    assert told(state.merge(update(4, endpoint(1, 4)))) == []
    assert state.endpoints[endpoint(1, 1).id].revision == 5


def test_a_tombstone_keeps_the_dead_dead() -> None:
    """A delta older than the deletion, or of the same commit, does not bring the object back; a newer one does."""
    state = ScopeState(VPC)
    state.merge(update(7, gone=(grave(1, 7),)))
    assert told(state.merge(update(6, endpoint(1, 6), endpoint(2, 6)))) != []
    assert list(state.endpoints) == [endpoint(2, 6).id]
    assert told(state.merge(update(7, endpoint(1, 7)))) == []
    assert told(state.merge(update(8, endpoint(1, 8)))) != []
    assert list(state.tombstones()) == []


def test_a_snapshot_buries_what_it_lacks_and_only_up_to_its_revision() -> None:
    """What is newer than the snapshot stays; older deltas of what it lacked are refused without any tombstone."""
    state = ScopeState(VPC)
    state.merge(update(3, endpoint(1, 3), endpoint(2, 3)))
    state.merge(update(9, endpoint(3, 9), gone=(grave(4, 4), grave(5, 9))))
    state.merge(update(5, endpoint(1, 3), snapshot=True))
    assert set(state.endpoints) == {endpoint(1, 1).id, endpoint(3, 1).id}
    assert told(state.merge(update(4, endpoint(2, 4)))) == []
    assert list(state.tombstones()) == [grave(5, 9)]
    assert (state.revision, state.floor, state.complete) == (9, 5, True)


def test_tombstones_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many: the older half goes and the floor rises, so that what they buried stays buried."""
    monkeypatch.setattr(merge, "MAX_TOMBSTONES", 4)
    state = ScopeState(VPC)
    for number in range(1, 6):
        state.merge(update(number, gone=(grave(number, number),)))
    assert list(state.tombstones()) == [grave(4, 4), grave(5, 5)]
    assert told(state.merge(update(2, endpoint(2, 2)))) == []
    state.merge(update(6, endpoint(2, 2), snapshot=True))
    assert list(state.endpoints) == [endpoint(2, 2).id]


def test_the_digest_tells_kinds_ids_and_revisions_apart() -> None:
    """Golden (`b2sum -l 64` gives the weight): agents and controllers of different versions must agree on it."""
    identifier = bytes(range(16))
    assert object_digest(Kind.ENDPOINT, identifier, 7) == 0x1A239F095EC376FB * 0x000102030405060708090A0B0C0D0E0F
    others = {object_digest(Kind.PORT, identifier, 7), object_digest(Kind.ENDPOINT, identifier, 8)}
    others.add(object_digest(Kind.ENDPOINT, identifier[::-1], 7))
    assert len(others) == 3
    assert object_digest(Kind.ENDPOINT, identifier, 7) not in others


def test_a_restored_scope_remembers_its_floor() -> None:
    """What a journal says beyond objects: how far, how deep, and whether it is whole."""
    state = ScopeState(HOST_SCOPE)
    state.restore(revision=9, floor=8, complete=True)
    assert (state.revision, state.floor, state.complete) == (9, 8, True)
