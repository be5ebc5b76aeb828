"""The publish loop in every weather: whatever is lost, cut, or committed meanwhile, hosts converge to the truth.

Real publisher, mailboxes, codec, agents' core; the network, and the moment at which commits land, are drawn at random.
"""

import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.goalstate import balances
from tests.goalstate.histories import HISTORIES, HOSTS, Action, Commit, network_id, play, start
from tests.goalstate.test_delta import whole

from alcor.agent.config import AgentConfig
from alcor.agent.intake import Received
from alcor.agent.plan import full_plan
from alcor.agent.reconcile import Reconciler
from alcor.agent.state import Desired, Touched
from alcor.dataplane.base import Observed
from alcor.goalstate.snapshot import host_snapshot
from alcor.kit.backoff import Backoff
from alcor.kit.clock import FakeClock
from alcor.loops import publish
from alcor.loops.publish import Publisher
from alcor.model.ids import Id
from alcor.model.nouns import Node, Peering, Port, Router
from alcor.paths import sender
from alcor.paths.base import Parcel, Session
from alcor.paths.sender import Mailbox
from alcor.services.commands import PortReport
from alcor.sim.tables import DictionaryDriver, Tables
from alcor.store.base import Changes
from alcor.store.memory import MemoryStore
from alcor.wire.codec import BundleHead, encode_bundle


class Site:
    """One host behind a network that may be cut: its mailbox at the controller, its agent's core, its tables."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.mailbox = Mailbox()
        self.session: Session | None = None
        self.sequence = 0
        self.clock = FakeClock()
        self.tables = Tables()
        self._config = AgentConfig(
            host=name, state_dir=directory, listen="", tls_dir=directory, retry=Backoff(first_s=1.0, cap_s=1.0)
        )
        self.boot()

    def boot(self) -> None:
        self.driver = DictionaryDriver(self.tables)
        self.reconciler = Reconciler(self._config, self.driver, self.clock.monotonic, lambda: 0.0)
        self.reconciler.start()

    def cut(self) -> None:
        """The stream breaks: what waits is lost."""
        self.session = None
        self.mailbox.clear()


class Network:
    """Fills paths.base.Path over sites."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sites: dict[str, Site] = {}
        self.sessions = 0
        self.hurried: list[str] = []

    def connect(self, node: Node) -> None:
        if node.name not in self.sites:
            (self.directory / node.name).mkdir()
            self.sites[node.name] = Site(self.directory / node.name, node.name)

    def disconnect(self, host: str) -> None:
        self.sites[host].cut()

    def begin(self, session: Session, parcels: Any) -> None:
        site = self.sites[session.host]
        if site.session == session:
            site.mailbox.begin(parcels)

    def listening(self, host: str) -> bool:
        return self.sites[host].mailbox.begun

    def offer(self, host: str, parcels: Any) -> None:
        self.sites[host].mailbox.offer(parcels)

    def spread(self, vpc: Id, parcel: Parcel, hosts: Any) -> None:
        for host in hosts:
            self.offer(host, (parcel,))

    def hurry(self, host: str) -> None:
        self.hurried.append(host)

    def answer(self, host: str, answers: Any) -> None:
        raise AssertionError(f"{host} is answered, and nobody here asks: {answers}")

    def withdraw(self, host: str, scope: Id) -> None:
        self.sites[host].mailbox.withdraw(scope)

    def reset(self, session: Session, reason: str) -> None:
        if self.sites[session.host].session == session:
            self.sites[session.host].cut()

    # What happens on the wire.

    def greet(self, publisher: Publisher, site: Site) -> None:
        self.sessions += 1
        site.cut()
        site.sequence = 0
        site.session = Session(site.name, self.sessions)
        publisher.greeted(site.session, site.reconciler.greet(1, 1))

    def carry(self, publisher: Publisher, site: Site) -> bool:
        """Delivers one bundle and its ack; False when there was none."""
        if site.session is None:
            return False
        owed = site.mailbox.ask()
        if owed:
            publisher.overflowed(site.session, owed)
        load = site.mailbox.take()
        if load is None:
            return bool(owed)
        site.sequence += 1
        head = BundleHead(partition=1, epoch=1, sequence=site.sequence, host=site.name, synced=load.synced)
        data = encode_bundle(head, load.parts)
        (answer,) = site.reconciler.handle([Received(data, site.clock.monotonic(), 1, 1, 1)])
        assert answer.ack is not None
        assert answer.ack.error == ""
        publisher.acknowledged(site.session, answer.ack)
        while site.reconciler.due() <= site.clock.monotonic():
            site.reconciler.tick()
        return True


class RacingStore(MemoryStore):
    """A store into which the next commit may land just before ports are read."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice
        self.pending: list[Commit] = []
        self.publisher: Publisher | None = None

    def land(self) -> None:
        commit = self.pending.pop(0)
        changes = Changes(
            networks=commit.networks,
            subnets=commit.subnets,
            nodes=commit.nodes,
            new_ports=commit.new,
            changed_ports=commit.changed,
            deleted_ports=commit.deleted,
            deleted_subnets=commit.deleted_subnets,
            security_groups=commit.groups,
            rules=commit.rules,
            identities=commit.identities,
            deleted_security_groups=commit.deleted_groups,
            deleted_rules=commit.deleted_rules,
            deleted_identities=commit.deleted_identities,
            qos_policies=commit.policies,
            qos_rules=commit.qos_rules,
            qos_bindings=commit.bindings,
            deleted_qos_policies=commit.deleted_policies,
            deleted_qos_rules=commit.deleted_qos_rules,
            deleted_qos_bindings=commit.deleted_bindings,
            routers=commit.routers,
            peerings=commit.peerings,
            left_networks=commit.left,
            deleted_routers=[road for road in commit.deleted_roads if isinstance(road, Router)],
            deleted_peerings=[road for road in commit.deleted_roads if isinstance(road, Peering)],
            **balances.changes(commit.balancing, commit.deleted_balancing),
        )
        self.commit(commit.after.revision, changes)
        assert self.publisher is not None
        self.publisher.committed(commit.after.revision, changes)

    def _race(self) -> None:
        while self.pending and self.dice.random() < 0.4:
            self.land()

    def ports_of_host(self, host: str) -> list[Port]:
        self._race()
        return super().ports_of_host(host)

    def ports_of_network(self, network_id: Id) -> list[Port]:
        self._race()
        return super().ports_of_network(network_id)

    def get_ports(self, ids: Iterable[Id]) -> list[Port]:
        self._race()
        return super().get_ports(ids)


async def weather(commits: list[Commit], dice: random.Random, directory: Path) -> tuple[Network, list[PortReport]]:
    """Plays the commits through a publisher in random weather, then lets the sun out until nothing moves."""
    store = RacingStore(dice)
    rows = start()
    first = Changes(networks=list(rows.networks.values()), subnets=list(rows.subnets.values()))
    first.nodes = list(rows.nodes.values())
    store.commit(1, first)
    store.publisher = publisher = Publisher(store, at_once=1)
    store.pending = list(commits)
    network = Network(directory)
    reports: list[PortReport] = []
    publisher._reports = reports.extend
    for node in rows.nodes.values():
        network.connect(node)
    while store.pending:
        site = network.sites[dice.choice(HOSTS)]
        step = dice.random()
        if step < 0.3:
            store.land()
        elif step < 0.5:
            await publisher._round(network)
        elif step < 0.75:
            network.carry(publisher, site)
        elif step < 0.85:
            site.cut()
        elif step < 0.95:
            network.greet(publisher, site)
        else:
            site.cut()
            site.reconciler.close()
            site.boot()
        if dice.random() < 0.05:  # another controller over the same store
            for one in network.sites.values():
                one.cut()
            store.publisher = publisher = Publisher(store)
            publisher._reports = reports.extend
    for site in network.sites.values():
        if site.session is None:
            network.greet(publisher, site)
    moving = True
    while moving:
        await publisher._round(network)
        moving = bool([site for site in network.sites.values() if network.carry(publisher, site)])
    return network, reports


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(HISTORIES, st.integers(0, 2**32), st.sampled_from([2, 4096]))
async def test_hosts_converge_in_any_weather(history: list[list[Action]], seed: int, room: int) -> None:
    """Cuts, restarts, overflows, commits in the middle of reading: in the end every host carries exactly its ports,
    knows exactly the endpoints of its VPCs elsewhere and of those that are connected with them, and
    has answered for every port's present revision."""
    commits = play(history, exclusive=True)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sender, "MAX_WAITING_DELTAS", room)
        network, reports = await weather(commits, random.Random(seed), Path(directory))
        rows = commits[-1].after
        answered = {(report.id, report.host, report.revision) for report in reports if not report.error}
        for name, site in network.sites.items():
            truth = Desired()
            mine = rows.of_host(name)
            vpcs = sorted(vpc for host, vpc in rows.needs() if host == name)
            updates = [host_snapshot(rows.revision, mine), *(whole(rows, vpc) for vpc in vpcs)]
            truth.take(1, 1, updates, synced=True, touched=Touched())
            fresh = DictionaryDriver(Tables())
            empty = Observed(ports={}, endpoints={}, gateways=frozenset())
            fresh.apply(full_plan(truth, empty, may_remove=True))
            waiting = {port.id for port in mine} - fresh.tables.ports.keys()
            carried = {key: port for key, port in site.tables.ports.items() if key not in waiting}
            assert carried == fresh.tables.ports
            assert site.tables.endpoints == fresh.tables.endpoints
            assert site.tables.gateways == fresh.tables.gateways
            assert site.tables.policies == fresh.tables.policies
            assert site.tables.routes == fresh.tables.routes
            assert site.tables.translations == fresh.tables.translations
            assert site.tables.vips == fresh.tables.vips
            assert site.tables.services == fresh.tables.services
            assert site.reconciler.desired.held(1)[1:] == truth.held(1)[1:] or [
                (held.scope, held.digest) for held in site.reconciler.desired.held(1)[1:]
            ] == [(held.scope, held.digest) for held in truth.held(1)[1:]]
            assert {(port.id, name, port.revision) for port in mine if port.id not in waiting} <= answered
            site.reconciler.close()


async def greeted(directory: Path) -> tuple[RacingStore, Publisher, Network]:
    """A publisher whose hosts are all in session and hold nothing; what is put into `pending` lands when told."""
    store = RacingStore(random.Random(0))
    store.dice.random = lambda: 1.0  # type: ignore[method-assign]
    rows = start()
    store.commit(
        1,
        Changes(
            networks=list(rows.networks.values()),
            subnets=list(rows.subnets.values()),
            nodes=list(rows.nodes.values()),
        ),
    )
    store.publisher = publisher = Publisher(store)
    network = Network(directory)
    for node in rows.nodes.values():
        network.connect(node)
        network.greet(publisher, network.sites[node.name])
    await publisher._round(network)
    return store, publisher, network


async def test_a_vpcs_update_is_encoded_once_for_all_its_hosts(tmp_path: Path) -> None:
    """The very same bytes go to every host that carries the VPC, and to those that start to."""
    commits = play([[("port", 0, 0, 0), ("port", 2, 1, 1)], [("port", 4, 2, 2)]])
    store, publisher, network = await greeted(tmp_path)
    store.pending = commits
    store.land()
    store.land()
    await publisher._round(network)
    parts: dict[str, list[Parcel]] = {
        name: [parcel for parcel in site.mailbox._waiting if parcel.scope == network_id(0)]
        for name, site in network.sites.items()
    }
    assert [len(waiting) for waiting in parts.values()] == [1, 1, 1]
    assert len({id(waiting[0].part) for waiting in parts.values()}) == 1


@pytest.mark.parametrize(
    ("actions", "flagged", "hurried"),
    [
        ([("port", 0, 0, 0), ("port", 2, 1, 1)], None, {"a", "b"}),
        ([("port", 0, 0, 0), ("port", 2, 1, 1), ("port", 4, 2, 2)], None, set()),
        ([("port", 0, 0, 0), ("port", 2, 1, 1), ("port", 4, 2, 2)], "b", {"b"}),
    ],
    ids=["work for few hosts", "work for many", "a port of many that asks for it"],
)
async def test_who_is_worth_the_fast_path(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    actions: list[Action],
    flagged: str | None,
    hurried: set[str],
) -> None:
    """Hosts of a round that concerns few of them, and those of ports with `alcor:fast_path`."""
    monkeypatch.setattr(publish, "SMALL_WORK", 2)
    (commit,) = play([actions])
    store, publisher, network = await greeted(tmp_path)
    store.pending = [commit._replace(new=[structs.replace(one, fast_path=one.host == flagged) for one in commit.new])]
    store.land()
    await publisher._round(network)
    assert set(network.hurried) == hurried


def test_a_publisher_is_made_before_the_writer_starts() -> None:
    """Counting while commits land would count wrong: it says so at once."""

    class Moving(MemoryStore):
        def hosts_of_networks(self) -> Any:
            self.commit(self.revision() + 1, Changes(networks=list(start().networks.values())))
            return super().hosts_of_networks()

    with pytest.raises(RuntimeError, match="before the writer starts"):
        Publisher(Moving())
