"""Deltas: what commits mean to hosts and VPCs, and that deltas add up to snapshots."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.goalstate.histories import HISTORIES, HOSTS, Action, Commit, Rows, network_id, play, port_id, start

from alcor.goalstate.delta import Commits, Delta, delta
from alcor.goalstate.digest import digest
from alcor.goalstate.merge import ScopeState
from alcor.goalstate.objects import HOST_SCOPE, EndpointGoal, Kind, PortGoal, ScopeUpdate, Tombstone
from alcor.goalstate.snapshot import host_snapshot, vpc_snapshot
from alcor.goalstate.subscriptions import Subscriptions
from alcor.model.ids import Id


def of(*commits: Commit, before: Rows | None = None) -> Delta:
    """The delta of those commits together; `before`: the rows before the first."""
    gathered, roads = Commits(), (before or start()).roads()
    for commit in commits:
        commit.add_to(gathered, roads)
    rows = commits[-1].after
    moved = [port for name in sorted(gathered.nodes) for port in rows.of_host(name)]
    return delta(gathered, rows.nodes, moved, rows.view(), rows.on_demand(), rows.qos(), rows.balancers())


def whole(rows: Rows, network: Id, revision: int | None = None) -> ScopeUpdate:
    """The VPC's snapshot, claimed for that revision."""
    claimed = rows.revision if revision is None else revision
    return vpc_snapshot(
        claimed,
        rows.networks[network],
        rows.subnets_of(network),
        rows.of_network(network),
        rows.nodes,
        rows.view(),
        rows.qos(),
        rows.roads(),
        rows.balancers(),
    )


@given(HISTORIES, st.data())
def test_incremental_equals_snapshot(history: list[list[Action]], data: st.DataObject) -> None:
    """Whatever commits are published together, every host holds what a snapshot of the rows would give it."""
    commits = play(history)
    subscriptions = Subscriptions()
    held = {(host, HOST_SCOPE): ScopeState(HOST_SCOPE) for host in HOSTS}
    rows = start()
    while commits:
        size = data.draw(st.integers(1, len(commits)))
        batch, commits = commits[:size], commits[size:]
        before, rows = rows, batch[-1].after
        change = of(*batch, before=before)
        started, ended = subscriptions.shift(change.bound, change.roads)
        for host, update in change.hosts.items():
            held[host, HOST_SCOPE].merge(update)
        for vpc, update in change.vpcs.items():
            for host in subscriptions.hosts(vpc):
                if (host, vpc) not in started:
                    held[host, vpc].merge(update)
        for pair in ended:
            del held[pair]
        for host, vpc in started:
            held[host, vpc] = ScopeState(vpc)
            held[host, vpc].merge(whole(rows, vpc))
        for vpc in before.on_demand() ^ rows.on_demand():
            for host in subscriptions.hosts(vpc):
                held[host, vpc].merge(whole(rows, vpc))
        for (host, scope), state in held.items():
            truth = whole(rows, scope) if scope else host_snapshot(rows.revision, rows.of_host(host))
            assert sorted(truth.objects, key=lambda goal: goal.key) == list(state.objects())
            assert digest(truth.objects) == state.digest
        assert {(host, vpc) for host in HOSTS for vpc in subscriptions.vpcs(host)} == rows.needs()
        again = Subscriptions(rows.hosts_of_networks(), rows.connected())
        assert all(subscriptions.hosts(vpc) == again.hosts(vpc) for vpc in rows.networks)


@given(HISTORIES)
def test_updates_are_sorted(history: list[list[Action]]) -> None:
    """Same input, same bytes: objects and tombstones leave sorted by key."""
    change = of(*play(history))
    for update in (*change.hosts.values(), *change.vpcs.values()):
        for some in (update.objects, update.tombstones):
            assert [item.key for item in some] == sorted(item.key for item in some)


def test_a_moved_port_is_a_tombstone_at_its_old_host() -> None:
    """The old host is told that it is gone, the new one that it is there, the VPC where it is now."""
    made, moved = play([[("port", 0, 0, 0)], [("port", 0, 1, 0)]])
    port = port_id(0, 2)
    change = of(moved)
    (endpoint,) = change.vpcs[network_id(0)].objects
    assert isinstance(endpoint, EndpointGoal)
    assert endpoint.host_ip == moved.after.nodes["b"].underlay_ip
    assert change.hosts["a"].tombstones == (Tombstone(Kind.PORT, port, 3, endpoint),)
    assert [goal.id for goal in change.hosts["b"].objects] == [port]
    assert {("a", network_id(0)): -1, ("b", network_id(0)): 1} == change.bound
    assert made.after.revision == 2


def test_an_unbound_port_is_nowhere() -> None:
    """A port without a host has no endpoint and is told to nobody."""
    change = of(*play([[("port", 0, 3, 0)]]))
    assert (change.hosts, change.vpcs, change.bound) == ({}, {}, {})


def test_every_host_that_a_port_visited_is_told_that_it_left() -> None:
    """Commits are published together, but whoever greeted in between may have been told from the rows."""
    change = of(*play([[("port", 0, 0, 0)], [("port", 0, 1, 0)], [("delete", 0, 0, 0)]]))
    gone = (Tombstone(Kind.PORT, port_id(0, 2), 4),)
    assert {host: update.tombstones for host, update in change.hosts.items()} == {"a": gone, "b": gone}
    assert change.vpcs[network_id(0)].tombstones == (Tombstone(Kind.ENDPOINT, port_id(0, 2), 4),)
    assert change.bound == {}


def test_endpoints_follow_their_node() -> None:
    """A node's new tunnel end is a new endpoint of each of its ports, with the node's revision; ports do not change."""
    commits = play([[("port", 0, 0, 0)], [("node", 0, 0, 0)]])
    change = of(commits[-1])
    assert change.hosts == {}
    (endpoint,) = change.vpcs[network_id(0)].objects
    assert isinstance(endpoint, EndpointGoal)
    assert (endpoint.revision, endpoint.host_ip) == (3, commits[-1].after.nodes["a"].underlay_ip)


def test_a_host_that_is_no_node_gets_its_ports_but_has_no_endpoints() -> None:
    """Nobody can reach a tunnel end that nobody registered."""
    commits = Commits()
    (commit,) = play([[("port", 0, 0, 0)]])
    commit.add_to(commits, start().roads())
    change = delta(commits, {})
    assert [type(goal) for goal in change.hosts["a"].objects] == [PortGoal]
    assert change.vpcs[network_id(0)].objects == ()


def test_subscriptions_start_from_the_stores_counts() -> None:
    """Who carries what is rebuilt from rows; a count below zero is a mistake that does not pass unseen."""
    vpc = network_id(0)
    subscriptions = Subscriptions([(vpc, "a", 2)])
    assert subscriptions.shift({("a", vpc): -1, ("b", vpc): 1}) == ([("b", vpc)], [])
    assert subscriptions.hosts(vpc) == ["a", "b"]
    assert subscriptions.shift({("a", vpc): -1}) == ([], [("a", vpc)])
    assert not subscriptions.needs("a", vpc)
    with pytest.raises(ValueError, match="skipped or repeated"):
        subscriptions.shift({("a", vpc): -1})


def test_the_start_has_no_port() -> None:
    """The histories begin where these tests think they do."""
    assert (start().revision, start().ports) == (1, {})
