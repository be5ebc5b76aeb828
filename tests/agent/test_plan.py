"""Planning: partial plans add up to full ones, nothing dangles, and only what may go is removed."""

from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.goalstate.histories import HISTORIES, Action, network_id, play, start, subnet_id
from tests.goalstate.test_delta import of, whole

from alcor.agent.plan import full_plan, local_port, partial_plan
from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.dataplane.base import LocalPort, Observed, Plan, PolicyKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.goalstate.objects import HOST_SCOPE, EndpointGoal, ScopeUpdate, VpcGoal
from alcor.goalstate.snapshot import host_snapshot, port_goal, subnet_goal, vpc_goal
from alcor.model.addresses import parse_ip
from alcor.model.ids import Id
from alcor.sim.tables import DictionaryDriver, Tables

EMPTY = Observed(ports={}, endpoints={}, gateways=frozenset())


class World(NamedTuple):
    """A host's desired state, and a data plane that only ever saw partial plans."""

    desired: Desired
    driver: DictionaryDriver

    def take(self, *updates: ScopeUpdate, synced: bool = False) -> Plan:
        touched = Touched()
        self.desired.take(1, 1, updates, synced=synced, touched=touched)
        touched.ports.update(touched.mentioned)
        tables = self.driver.tables
        carried = {key: policy.digest() for key, policy in tables.policies.items()}
        services = {key: service.digest() for key, service in tables.services.items()}
        shared = {ip: address.digest() for ip, address in tables.shared.items()}
        plan = partial_plan(
            *(self.desired, touched, tables.ports, tables.gateways, carried, tables.on_demand),
            *(tables.routes, tables.translations, tables.vips, services, shared),
        )
        self.driver.apply(plan)
        return plan


def make_world() -> World:
    return World(Desired(), DictionaryDriver(Tables()))


Contents = tuple[dict[Id, LocalPort], *tuple[object, ...]]


def contents(tables: Tables) -> Contents:
    rest = (tables.endpoints, tables.gateways, tables.policies, tables.routes, tables.translations)
    return tables.ports, *rest, tables.vips, tables.services, tables.shared


@given(HISTORIES, st.data())
def test_partial_plans_add_up_to_the_full_one(history: list[list[Action]], data: st.DataObject) -> None:
    """Updates of all scopes in any order, grouped anyhow, repeated, snapshots among them: what partial plans made is
    what one full plan makes from nothing, and a full plan finds nothing to do."""
    commits = play(history)
    updates = [whole(start(), network_id(0)), whole(start(), network_id(1))]
    before = start()
    for commit in commits:
        change = of(commit, before=before)
        before = commit.after
        updates += [change.hosts["a"]] if "a" in change.hosts else []
        updates += list(change.vpcs.values())
        updates += [whole(commit.after, network_id(index)) for index in range(2)]
        updates.append(host_snapshot(commit.after.revision, commit.after.of_host("a")))
    order = data.draw(st.permutations(updates))
    world = make_world()
    while order:
        size = data.draw(st.integers(1, 4))
        world.take(*order[:size], synced=data.draw(st.booleans()))
        order = order[size:]
        observed = world.driver.observe()
        plan = full_plan(world.desired, observed, may_remove=True)
        # A carried port whose VPC has not come back waits, and is left as it is.
        assert plan.empty
    fresh = DictionaryDriver(Tables())
    fresh.apply(full_plan(world.desired, EMPTY, may_remove=False))
    ports, *rest = contents(world.driver.tables)
    waiting = {port for port in ports if local_port(world.desired, port) is None}
    assert contents(fresh.tables) == ({k: v for k, v in ports.items() if k not in waiting}, *rest)


def test_a_port_waits_for_its_vpc_and_its_subnet() -> None:
    """Fail closed: neither is guessed; when both have come the port is put, by whatever brought the last."""
    (commit,) = play([[("port", 0, 0, 0)]])
    rows, vpc = commit.after, network_id(0)
    world = make_world()
    assert world.take(host_snapshot(2, rows.of_host("a"))).empty
    lacking = ScopeUpdate(scope=vpc, revision=1, snapshot=True, objects=(vpc_goal(rows.networks[vpc]),))
    assert world.take(lacking).empty
    subnet = subnet_goal(rows.subnets[subnet_id(0)])
    plan = world.take(ScopeUpdate(scope=vpc, revision=2, snapshot=True, objects=(*lacking.objects, subnet)))
    assert [port.id for port in plan.put_ports] == [port.id for port in rows.of_host("a")]
    assert plan.put_gateways == (EndpointKey(100, parse_ip("10.0.0.1")),)


def test_a_port_waits_for_its_groups() -> None:
    """Fail closed: until all groups of its identity have come a port is not put, or stays as it was carried; whatever
    brings the last of them lets it go on."""
    made, regrouped = play([[("port", 0, 0, 0)], [("regroup", 0, 0, 3), ("rule", 0, 1, 2)]])
    rows, vpc = regrouped.after, network_id(0)
    world = make_world()
    world.take(whole(made.after, vpc), host_snapshot(2, made.after.of_host("a")))
    (carried,) = world.driver.tables.ports.values()
    assert world.take(host_snapshot(3, rows.of_host("a"))).empty
    update = whole(rows, vpc)
    last = update.objects[-1]
    world.take(msgspec.structs.replace(update, snapshot=False, objects=update.objects[:-1]))
    assert [carried] == list(world.driver.tables.ports.values())
    plan = world.take(msgspec.structs.replace(update, snapshot=False, objects=(last,)))
    assert [1] == [port.identity for port in plan.put_ports]
    assert [PolicyKey(100, 1)] == [policy.key for policy in plan.put_policies]
    assert full_plan(world.desired, world.driver.observe(), may_remove=True).empty


def test_a_group_that_nobody_here_needs_goes() -> None:
    """A policy is removed with the last local port of its identity, and kept while one is left."""
    _, regrouped = play([[("port", 0, 0, 0)], [("regroup", 0, 0, 1)]])
    world, vpc = make_world(), network_id(0)
    world.take(whole(regrouped.after, vpc), host_snapshot(3, regrouped.after.of_host("a")))
    assert [PolicyKey(100, 1)] == list(world.driver.tables.policies)
    plan = world.take(host_snapshot(4, []))
    assert (PolicyKey(100, 1),) == plan.remove_policies
    assert {} == world.driver.tables.policies


def test_a_carried_port_that_waits_is_left_alone() -> None:
    """Its VPC's goal was lost (a damaged journal): it is neither changed nor removed."""
    (commit,) = play([[("port", 0, 0, 0)]])
    world = make_world()
    world.take(host_snapshot(2, commit.after.of_host("a")), whole(commit.after, network_id(0)))
    observed = world.driver.observe()
    lost = Desired()
    lost.take(1, 1, [host_snapshot(2, commit.after.of_host("a"))], synced=False, touched=Touched())
    plan = full_plan(lost, observed, may_remove=True)
    assert (plan.remove_ports, plan.put_ports) == ((), ())


def test_a_damaged_port_is_put_again_or_removed() -> None:
    """As it is wanted or not; before the host is in sync it is left alone."""
    (commit,) = play([[("port", 0, 0, 0)]])
    world = make_world()
    world.take(host_snapshot(2, commit.after.of_host("a")), whole(commit.after, network_id(0)))
    whole_now = world.driver.observe()
    unwanted = Id(b"u" * 16)
    damaged = frozenset({*whole_now.ports, unwanted})
    observed = msgspec.structs.replace(whole_now, ports={}, damaged=damaged)
    plan = full_plan(world.desired, observed, may_remove=True)
    assert ([one.id for one in plan.put_ports], plan.remove_ports) == (list(whole_now.ports), (unwanted,))
    assert full_plan(world.desired, observed, may_remove=False).remove_ports == ()


def test_nothing_is_removed_before_the_host_is_in_sync() -> None:
    """What is carried and not desired stays until the journal's age does not matter any more."""
    (commit,) = play([[("port", 0, 0, 0), ("port", 2, 1, 1)]])
    world = make_world()
    world.take(host_snapshot(2, commit.after.of_host("a")), whole(commit.after, network_id(0)))
    observed = world.driver.observe()
    assert len(observed.ports) == len(observed.endpoints) == len(observed.gateways) == 1
    assert full_plan(Desired(), observed, may_remove=False).empty
    plan = full_plan(Desired(), observed, may_remove=True)
    assert plan == Plan(
        remove_ports=tuple(observed.ports),
        remove_endpoints=tuple(observed.endpoints),
        remove_gateways=tuple(observed.gateways),
    )


def test_a_vpc_goes_with_its_last_port() -> None:
    """Its endpoints and gateways are removed, its scope is forgotten, and a late delta of it changes nothing."""
    made, gone = play([[("port", 0, 0, 0), ("port", 2, 1, 1)], [("delete", 0, 0, 0), ("port", 4, 2, 2)]])
    world, vpc = make_world(), network_id(0)
    world.take(host_snapshot(2, made.after.of_host("a")), whole(made.after, vpc))
    change = of(gone)
    plan = world.take(change.hosts["a"])
    assert (len(plan.remove_ports), len(plan.remove_gateways)) == (1, 1)
    assert contents(world.driver.tables) == ({}, {}, set(), {}, {}, {}, {}, {}, {})
    assert world.take(change.vpcs[vpc]).empty
    assert list(world.desired.scopes) == [ScopeKey(1, HOST_SCOPE)]
    assert world.desired.held_of(ScopeKey(1, vpc)).revision == 0


def test_a_vpc_that_nobody_here_uses_is_forgotten_once_in_sync() -> None:
    """Until then its port may still be on its way."""
    (commit,) = play([[("port", 0, 1, 0)]])
    world = make_world()
    world.take(whole(commit.after, network_id(0)))
    assert len(world.driver.tables.endpoints) == 1
    world.take(synced=True)
    assert contents(world.driver.tables) == ({}, {}, set(), {}, {}, {}, {}, {}, {})


def test_an_address_that_changes_hands_is_never_lost() -> None:
    """The new owner's endpoint may come before the old one's tombstone."""
    first, moved = play([[("port", 0, 1, 0), ("port", 2, 0, 3)], [("delete", 0, 0, 0), ("port", 4, 2, 0)]])
    world, vpc = make_world(), network_id(0)
    world.take(host_snapshot(2, first.after.of_host("a")), whole(first.after, vpc))
    update = of(moved).vpcs[vpc]
    key = EndpointKey(100, parse_ip("10.0.0.2"))
    for part in (
        ScopeUpdate(scope=vpc, revision=3, snapshot=False, objects=update.objects),
        ScopeUpdate(scope=vpc, revision=3, snapshot=False, objects=(), tombstones=update.tombstones),
    ):
        world.take(part)
        assert world.driver.tables.endpoints[key].host_ip == parse_ip("172.16.0.3")


def test_endpoints_that_came_before_their_vpc_are_put_with_it() -> None:
    """News may come before the snapshot, which tells them again; what is new in it does not hide them."""
    early, late = play([[("port", 0, 1, 0), ("port", 2, 0, 1)], [("port", 4, 2, 2)]])
    world, vpc = make_world(), network_id(0)
    goals = whole(early.after, vpc).objects
    news = [goal for goal in goals if isinstance(goal, EndpointGoal)]
    world.take(
        host_snapshot(2, early.after.of_host("a")),
        ScopeUpdate(scope=vpc, revision=2, snapshot=False, objects=tuple(news)),
    )
    assert not world.driver.tables.endpoints
    world.take(whole(late.after, vpc))
    remote = {goal.ips[0] for goal in whole(late.after, vpc).objects if isinstance(goal, EndpointGoal)}
    here = {fixed.ip for port in late.after.of_host("a") for fixed in port.fixed_ips}
    assert remote - here == {key.ip for key in world.driver.tables.endpoints} and len(remote - here) >= 2


def test_ports_of_this_host_are_not_remote() -> None:
    """A VPC's scope has every endpoint; the host's own are left out, and come when the port moves away."""
    here, away = play([[("port", 0, 0, 0), ("port", 2, 0, 1)], [("port", 0, 1, 0)]])
    world, vpc = make_world(), network_id(0)
    plan = world.take(host_snapshot(2, here.after.of_host("a")), whole(here.after, vpc))
    assert (list(plan.endpoints()), plan.remove_endpoints) == ([], ())
    change = of(away)
    plan = world.take(change.hosts["a"], change.vpcs[vpc])
    assert [key for key, _ in plan.endpoints()] == [EndpointKey(100, parse_ip("10.0.0.2"))]


def test_a_goal_says_everything_about_its_port() -> None:
    """The port's own properties come through as they are."""
    (commit,) = play([[("port", 0, 0, 0)]])
    world = make_world()
    world.take(host_snapshot(2, commit.after.of_host("a")), whole(commit.after, network_id(0)))
    (row,) = commit.after.of_host("a")
    goal, (port,) = port_goal(row), world.driver.tables.ports.values()
    assert (port.id, port.mac, port.kind, port.netns, port.interface, port.admin_state_up) == (
        goal.id,
        goal.mac,
        goal.kind,
        goal.netns,
        goal.interface,
        goal.admin_state_up,
    )


def test_a_network_that_is_down_takes_its_ports_down() -> None:
    """`admin_state_up` of the network goes for all its ports, whatever theirs says; up again, theirs counts."""
    (commit,) = play([[("port", 0, 0, 0)]])
    world, vpc = make_world(), network_id(0)
    update = whole(commit.after, vpc)
    world.take(host_snapshot(2, commit.after.of_host("a")), update)
    (goal,) = (one for one in update.objects if isinstance(one, VpcGoal))
    for revision, up in ((8, False), (9, True)):
        changed = msgspec.structs.replace(goal, revision=revision, admin_state_up=up)
        plan = world.take(ScopeUpdate(scope=vpc, revision=revision, snapshot=False, objects=(changed,)))
        assert [port.admin_state_up for port in plan.put_ports] == [up]


def test_a_vpc_that_comes_back_at_once_keeps_its_policies() -> None:
    """Its last port goes and another comes in one go (found by the simulator): what is carried is right, and stays."""
    made, regrouped, again = play(
        [[("port", 0, 0, 0)], [("regroup", 0, 0, 1)], [("port", 2, 0, 1), ("regroup", 0, 0, 1)]]
    )
    rows, vpc = again.after, network_id(0)
    world = make_world()
    world.take(whole(regrouped.after, vpc), host_snapshot(3, regrouped.after.of_host("a")))
    carried = dict(world.driver.tables.policies)
    assert [PolicyKey(100, 1)] == list(carried)
    touched = Touched()
    for updates in ([host_snapshot(4, [])], [host_snapshot(5, rows.of_host("a")), whole(rows, vpc, 5)]):
        world.desired.take(1, 1, updates, synced=False, touched=touched)
    tables = world.driver.tables
    digests = {key: policy.digest() for key, policy in carried.items()}
    plan = partial_plan(
        world.desired, touched, tables.ports, tables.gateways, digests, tables.on_demand, {}, {}, {}, {}, {}
    )
    assert plan.remove_policies == ()
    world.driver.apply(plan)
    assert carried == tables.policies
    assert full_plan(world.desired, world.driver.observe(), may_remove=True).empty
    assert made.after.revision == 2
