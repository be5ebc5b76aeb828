"""The agent's core: every bundle is answered, every port's fate is told, failures are mended without being asked."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.goalstate.histories import Action, Commit, network_id, play, subnet_id
from tests.goalstate.test_delta import of, whole

from alcor.agent import lacking
from alcor.agent.config import AgentConfig
from alcor.agent.intake import News, Received
from alcor.agent.reconcile import Answer, Reconciler, Refused
from alcor.goalstate.objects import HOST_SCOPE, EndpointGoal, InterfaceGoal, RouterGoal, ScopeUpdate, SharedGoal
from alcor.goalstate.snapshot import host_snapshot
from alcor.kit.backoff import Backoff
from alcor.kit.clock import FakeClock
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Port
from alcor.sim.tables import DictionaryDriver, Tables
from alcor.wire.codec import BundleHead, encode_bundle, encode_part
from alcor.wire.reports import Ack, Held, PortAck

VPC = network_id(0)
TWO_PORTS: list[Action] = [("port", 0, 0, 0), ("port", 2, 0, 1), ("port", 4, 1, 2)]


class Rig:
    """A reconciler of host `a` that can be restarted, its data plane, and a clock that stands."""

    def __init__(self, directory: Path) -> None:
        self.config = AgentConfig(
            host="a",
            state_dir=directory,
            listen="",
            tls_dir=directory,
            audit_interval_s=60.0,
            retry=Backoff(first_s=1.0, cap_s=8.0),
        )
        self.tables = Tables()
        self.clock = FakeClock()
        self.sequence = self.stream = 0
        self.start()

    def start(self) -> None:
        self.driver = DictionaryDriver(self.tables)
        self.reconciler = Reconciler(self.config, self.driver, self.clock.monotonic, lambda: 0.5)
        self.reconciler.start()

    def restart(self) -> None:
        self.reconciler.close()
        self.start()

    def bundle(
        self, *updates: ScopeUpdate, synced: bool = False, host: str = "a", epoch: int = 1, partition: int = 1
    ) -> bytes:
        self.sequence += 1
        head = BundleHead(partition=partition, epoch=epoch, sequence=self.sequence, host=host, synced=synced)
        return encode_bundle(head, [encode_part(update) for update in updates])

    def handle(self, *bundles: bytes, partition: int = 1, epoch: int = 5) -> list[Answer]:
        """What came on a stream of that partition and epoch: a new one each time."""
        self.stream += 1
        now, stream = self.clock.monotonic(), self.stream
        return self.reconciler.handle([Received(data, now, stream, partition, epoch) for data in bundles])

    def send(self, *updates: ScopeUpdate, synced: bool = False) -> Ack:
        (answer,) = self.handle(self.bundle(*updates, synced=synced))
        assert answer.ack is not None
        return answer.ack

    def begin(self, commit: Commit) -> Ack:
        """What a fresh host is sent."""
        rows = commit.after
        return self.send(host_snapshot(rows.revision, rows.of_host("a")), whole(rows, VPC), synced=True)

    def wait_until_due(self) -> list[PortAck]:
        """Lets time pass until there is something to do; returns what is then said of ports."""
        self.clock.advance(max(0.0, self.reconciler.due() - self.clock.monotonic()))
        return [port for partition, ack in self.reconciler.tick() for port in ack.ports if partition == 1]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def local(commit: Commit) -> list[Port]:
    return sorted(commit.after.of_host("a"), key=lambda port: port.id)


def told(ports: Sequence[PortAck]) -> list[tuple[Id, int, bool, str]]:
    return [(port.id, port.revision, port.deleted, port.error) for port in ports]


def test_an_ack_says_what_is_carried(rig: Rig) -> None:
    """Sequence, every port with its revision, and what is held of the scopes that were touched."""
    (commit,) = play([TWO_PORTS])
    ack = rig.begin(commit)
    assert (ack.sequence, ack.error) == (1, "")
    assert told(ack.ports) == [(port.id, 2, False, "") for port in local(commit)]
    assert ack.scopes == rig.reconciler.greet(1, 1).scopes
    assert [held.scope for held in ack.scopes] == [HOST_SCOPE, VPC]


def test_what_waits_is_done_as_one(rig: Rig) -> None:
    """Bundles that waited are merged, applied once, and answered one by one, in order; the last tells of the ports."""
    first, second = play([TWO_PORTS, [("port", 1, 0, 3)]])
    rows = first.after
    bundles = [
        rig.bundle(host_snapshot(2, rows.of_host("a"))),
        rig.bundle(whole(rows, VPC), whole(second.after, network_id(1))),
        rig.bundle(*of(second).hosts.values(), synced=True),
    ]
    acks = [answer.ack for answer in rig.handle(*bundles)]
    assert [ack.sequence for ack in acks if ack] == [1, 2, 3]
    assert [len(ack.ports) for ack in acks if ack] == [0, 0, 3]
    assert len(rig.driver.plans) == 1


def test_naming_a_port_again_asks_how_it_is(rig: Rig) -> None:
    """A port that is held and carried already is answered without touching it."""
    (commit,) = play([TWO_PORTS])
    rig.begin(commit)
    ack = rig.send(replace(host_snapshot(2, commit.after.of_host("a")), snapshot=False))
    assert told(ack.ports) == [(port.id, 2, False, "") for port in local(commit)]
    assert len(rig.driver.plans) == 1


def test_a_deleted_port_is_answered_too(rig: Rig) -> None:
    """`deleted`, with the revision of its tombstone; the same again is answered the same."""
    made, gone = play([TWO_PORTS, [("delete", 0, 0, 0)]])
    rig.begin(made)
    update = of(gone).hosts["a"]
    for _ in range(2):
        assert told(rig.send(update).ports) == [(local(made)[0].id, 3, True, "")]


def test_a_port_that_waits_is_not_answered_until_it_is_carried(rig: Rig) -> None:
    """Nothing is said of it while its VPC is missing; the bundle that completes it tells."""
    (commit,) = play([TWO_PORTS])
    assert rig.send(host_snapshot(2, commit.after.of_host("a"))).ports == ()
    assert told(rig.send(whole(commit.after, VPC)).ports) == [(port.id, 2, False, "") for port in local(commit)]


def test_a_failed_port_is_told_and_retried_with_patience(rig: Rig) -> None:
    """Its neighbours are not held up; each retry waits longer; its success is told unasked."""
    (commit,) = play([TWO_PORTS])
    bad, good = local(commit)
    rig.tables.refused_ports[bad.id] = "no such namespace: make it first"
    assert told(rig.begin(commit).ports) == [
        (bad.id, 2, False, "no such namespace: make it first"),
        (good.id, 2, False, ""),
    ]
    rig.wait_until_due()  # the first audit, now that it is in sync, tries again too
    waits = []
    for _ in range(4):
        before = rig.clock.monotonic()
        assert told(rig.wait_until_due()) == [(bad.id, 2, False, "no such namespace: make it first")]
        waits.append(rig.clock.monotonic() - before)
    assert waits == sorted(waits)
    assert waits[-1] == 6.0
    assert rig.reconciler.status().failing_ports != {}
    rig.tables.refused_ports.clear()
    assert told(rig.wait_until_due()) == [(bad.id, 2, False, "")]
    assert rig.reconciler.status().failing_ports == {}


def test_a_port_is_not_carried_while_its_tables_are_not(rig: Rig) -> None:
    """Endpoints that could not be written fail the ports put with them, until a full round has mended everything."""
    (commit,) = play([TWO_PORTS])
    rig.tables.tables_error = "the map of endpoints is full: raise its size"
    assert {port.error for port in rig.begin(commit).ports} == {rig.tables.tables_error}
    assert {port.error for port in rig.wait_until_due()} == {rig.tables.tables_error}
    rig.tables.tables_error = ""
    assert told(rig.wait_until_due()) == [(port.id, 2, False, "") for port in local(commit)]
    assert len(rig.tables.endpoints) == 1


def test_a_broken_data_plane_is_told_on_every_port_and_comes_back(rig: Rig) -> None:
    """The whole refuses: so does every port that a bundle names, with that reason; then all is mended at once."""
    (commit,) = play([TWO_PORTS])
    rig.tables.broken = "the device eth0 is gone: bring it back"
    assert {port.error for port in rig.begin(commit).ports} == {rig.tables.broken}
    assert rig.reconciler.status().broken == rig.tables.broken
    assert (rig.reconciler.in_sync, rig.reconciler.settled) == (True, False)
    rig.tables.broken = ""
    assert told(rig.wait_until_due()) == [(port.id, 2, False, "") for port in local(commit)]
    assert rig.reconciler.status().broken == ""


def test_an_agent_that_starts_on_a_broken_data_plane_recovers(rig: Rig) -> None:
    """It starts, says why nothing works, and goes on as soon as it does."""
    (commit,) = play([TWO_PORTS])
    rig.begin(commit)
    rig.tables.ports.clear()
    rig.tables.broken = "no BPF file system: mount one"
    rig.restart()
    rig.tables.broken = ""
    rig.wait_until_due()
    assert set(rig.tables.ports) == {port.id for port in local(commit)}


def test_drift_is_repaired(rig: Rig) -> None:
    """What somebody removed comes back, what somebody added goes, at the next audit."""
    (commit,) = play([TWO_PORTS])
    rig.begin(commit)
    rig.wait_until_due()
    wanted = (dict(rig.tables.ports), dict(rig.tables.endpoints), set(rig.tables.gateways))
    rig.tables.ports.popitem()
    rig.tables.endpoints.clear()
    rig.tables.gateways.add(next(iter(rig.tables.gateways))._replace(vni=999))
    before = rig.clock.monotonic()
    rig.wait_until_due()
    assert (rig.tables.ports, rig.tables.endpoints, rig.tables.gateways) == wanted
    assert rig.clock.monotonic() - before <= 75.0


def test_a_restart_writes_nothing_that_is_right(rig: Rig) -> None:
    """From the journal and what it observes it finds that there is nothing to do."""
    (commit,) = play([TWO_PORTS])
    rig.begin(commit)
    rig.restart()
    assert rig.driver.plans == []
    assert rig.reconciler.greet(1, 1).scopes != ()


def test_a_rebooted_host_is_programmed_from_its_journal(rig: Rig) -> None:
    """The kernel is empty and nobody is there to ask: everything comes back all the same."""
    (commit,) = play([TWO_PORTS])
    rig.begin(commit)
    ports, endpoints = dict(rig.tables.ports), dict(rig.tables.endpoints)
    rig.tables = Tables()
    rig.restart()
    assert (rig.tables.ports, rig.tables.endpoints) == (ports, endpoints)


def test_nothing_unexplained_goes_before_the_host_is_in_sync(rig: Rig) -> None:
    """With a lost journal: at first what a tombstone names; the rest, and orphans, once the controller said so."""
    made, gone = play([[*TWO_PORTS, ("port", 1, 0, 3)], [("delete", 0, 0, 0)]])
    rows = made.after
    rig.send(host_snapshot(2, rows.of_host("a")), whole(rows, VPC), whole(rows, network_id(1)), synced=True)
    (rig.config.state_dir / "journal").unlink()
    rig.tables.orphans = ("half",)
    rig.restart()
    assert len(rig.tables.ports) == 3
    rig.send(of(gone).hosts["a"])
    assert (len(rig.tables.ports), rig.tables.orphans, rig.reconciler.settled) == (2, ("half",), False)
    keep = [port for port in gone.after.of_host("a") if port.network_id == VPC]
    rig.send(host_snapshot(3, keep), whole(gone.after, VPC), synced=True)
    assert (rig.reconciler.in_sync, rig.reconciler.settled) == (True, False)
    rig.wait_until_due()
    assert rig.reconciler.settled
    assert (set(rig.tables.ports), list(rig.tables.orphans)) == ({port.id for port in keep}, [])


def test_what_must_not_be_taken_is_refused_with_a_reason(rig: Rig) -> None:
    """Another host's bundle, another epoch or partition than its stream's, a malformed scope: refused whole, named, and
    nothing changes."""
    (commit,) = play([TWO_PORTS])
    rig.begin(commit)
    scopes = rig.reconciler.greet(1, 5).scopes
    empty = ScopeUpdate(scope=HOST_SCOPE, revision=9, snapshot=True, objects=())
    bad = ScopeUpdate(scope=Id(b"short"), revision=9, snapshot=True, objects=())
    for data, reason in (
        (rig.bundle(empty, host="b", epoch=5), "bundle.host: it is for host 'b', this is 'a'"),
        (rig.bundle(empty, epoch=4), "bundle.epoch: epoch 4 is older than 5: another controller has taken over"),
        (rig.bundle(empty, epoch=6), "bundle.epoch: 6, its stream's is 5"),
        (rig.bundle(empty, epoch=5, partition=2), "bundle.partition: 2, its stream is partition 1's"),
        (rig.bundle(empty, bad, epoch=5), "scopes[1].scope: 5 bytes, an id has 16"),
    ):
        (answer,) = rig.handle(data)
        assert answer.ack is not None
        assert answer.ack == Ack(sequence=answer.ack.sequence, error=reason)
    assert answer.ack is not None
    assert answer.ack.sequence == rig.sequence
    assert rig.reconciler.status().refused == {"bundles": 5, "news": 0, "streams": 0}
    assert rig.reconciler.greet(1, 5).scopes == scopes
    assert rig.reconciler.held().keys() == {1}
    with pytest.raises(Refused, match="epoch 4 is older than 5"):
        rig.reconciler.greet(1, 4)
    assert rig.reconciler.status().refused["streams"] == 1


def test_news_that_is_not_its_subjects_is_dropped(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Of another VPC, another partition, for one host, of an older epoch, or noise: nothing of it is taken."""
    first, second = play([TWO_PORTS, [("port", 6, 1, 3)]])
    rig.begin(first)
    scopes = rig.reconciler.greet(1, 5).scopes
    update = replace(of(second).vpcs[VPC], previous=first.after.revision)
    for data, vpc in (
        (rig.bundle(update, host="", epoch=5), network_id(1)),
        (rig.bundle(update, host="", epoch=5, partition=2), VPC),
        (rig.bundle(update, host="a", epoch=5), VPC),
        (rig.bundle(update, host="", epoch=4), VPC),
        (b"\xff\xff", VPC),
    ):
        assert rig.reconciler.news([News(1, vpc, data)]) == []
    assert rig.reconciler.greet(1, 5).scopes == scopes
    assert caplog.text.count("is dropped") == 4  # an older epoch's is nobody's fault
    assert rig.reconciler.status().refused["news"] == 5
    rig.reconciler.news([News(1, VPC, rig.bundle(update, host="", epoch=5))])
    assert rig.reconciler.greet(1, 5).scopes != scopes


def test_noise_ends_the_stream(rig: Rig) -> None:
    """What has no sequence cannot be answered: the stream must end, with the reason."""
    (answer,) = rig.handle(b"\xff\xff")
    assert (answer.stream, answer.ack) == (1, None)
    assert answer.reason.startswith("bundle: not a protobuf message")


def test_what_cannot_be_journalled_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acknowledged means durable here too: without room for the journal nothing is taken."""
    (commit,) = play([TWO_PORTS])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    ack = rig.begin(commit)
    monkeypatch.undo()
    assert "No space left on device" in ack.error
    assert rig.tables.ports == {}
    assert rig.begin(commit).error == ""


def test_partitions_do_not_mix(rig: Rig) -> None:
    """A host of two partitions is in sync when both have said so; each is told of its own ports only."""
    (commit,) = play([TWO_PORTS])
    rig.begin(commit)
    other = BundleHead(partition=2, epoch=1, sequence=1, host="a", synced=False)
    (answer,) = rig.handle(encode_bundle(other, []), partition=2)
    assert answer.ack is not None
    assert answer.ack.ports == ()
    assert not rig.reconciler.in_sync
    assert rig.reconciler.greet(2, 1).scopes == ()
    rig.handle(encode_bundle(replace(other, synced=True), []), partition=2)
    assert rig.reconciler.in_sync


def router(revision: int, *vpcs: Id, shared: SharedGoal | None = None) -> RouterGoal:
    """A router between these VPCs."""
    interfaces = tuple(
        InterfaceGoal(vpc, subnet_id(number), parse_prefix(f"10.{number}.0.0/16"), parse_ip(f"10.{number}.255.1"))
        for number, vpc in enumerate(vpcs)
    )
    return RouterGoal(Id(b"r" * 16), revision, interfaces, (), outside=shared is not None, shared=shared)


def test_what_is_needed_and_does_not_come_is_asked_for(rig: Rig) -> None:
    """The last port of a VPC went before the host heard of the router that leads there: the VPC was forgotten, and who
    knew of the router all the time thinks that it is held."""
    first, second = play([[("port", 0, 0, 0), ("port", 1, 0, 1)], [("delete", 1, 0, 0)]])
    other = network_id(1)
    rows = first.after
    rig.send(host_snapshot(2, rows.of_host("a")), whole(rows, VPC), whole(rows, other), synced=True)
    rig.send(*of(second).hosts.values())
    assert [held.scope for held in rig.reconciler.held()[1]] == [HOST_SCOPE, VPC]
    late = ScopeUpdate(scope=VPC, revision=4, snapshot=False, objects=(router(4, VPC, other),))
    assert not any(ack.scopes for _, ack in rig.reconciler.news([News(1, VPC, rig.bundle(late, host=""))]))

    def asked() -> list[tuple[int, tuple[Held, ...]]]:
        rig.clock.advance(lacking.PATIENCE_S)
        return [(partition, ack.scopes) for partition, ack in rig.reconciler.tick() if ack.scopes]

    assert asked() == [(1, (Held(other, 0, 0),))]
    assert asked() == [(1, (Held(other, 0, 0),))], "as long as it does not come"
    rig.send(whole(second.after, other))
    assert asked() == []


def test_what_comes_in_time_is_not_asked_for(rig: Rig) -> None:
    """Nor anything before the host is in sync: what is missing is on its way."""
    (commit,) = play([[("port", 0, 0, 0)]])
    other, rows = network_id(1), commit.after
    late = ScopeUpdate(scope=VPC, revision=4, snapshot=False, objects=(router(4, VPC, other),))
    rig.send(host_snapshot(2, rows.of_host("a")), whole(rows, VPC), late)
    rig.clock.advance(10 * lacking.PATIENCE_S)
    assert not any(ack.scopes for _, ack in rig.reconciler.tick())
    rig.send(whole(rows, other), synced=True)
    rig.clock.advance(10 * lacking.PATIENCE_S)
    assert not any(ack.scopes for _, ack in rig.reconciler.tick())


def test_an_old_journal_gives_no_block_back(rig: Rig) -> None:
    """A block of a shared address that the journal says is this host's may be another's by now: nothing is put before
    the host is in sync, and what the data plane has stays."""
    (commit,) = play([[("port", 0, 0, 0)]])
    rows, ip, here = commit.after, parse_ip("203.0.113.9"), parse_ip("192.0.2.1")

    def with_block(revision: int, block: int) -> ScopeUpdate:
        shared = SharedGoal(ip, 24, None, None, ((block, here),))
        return ScopeUpdate(
            scope=VPC, revision=revision, snapshot=False, objects=(router(revision, VPC, shared=shared),)
        )

    def block() -> list[int]:
        return [number for number, _ in rig.tables.shared[ip].blocks] if ip in rig.tables.shared else []

    rig.send(host_snapshot(2, rows.of_host("a")), whole(rows, VPC), with_block(3, 3), synced=True)
    rig.wait_until_due()
    assert block() == [3]
    journal = (rig.config.state_dir / "journal").read_bytes()
    rig.send(with_block(4, 4))
    assert block() == [4]
    rig.reconciler.close()
    (rig.config.state_dir / "journal").write_bytes(journal)
    rig.start()
    assert block() == [4]
    del rig.tables.shared[ip]
    rig.restart()
    assert block() == []
    rig.send(with_block(4, 4), synced=True)
    rig.wait_until_due()
    assert block() == [4]


def test_a_partial_scope_is_as_of_nothing_whatever_comes_of_it(rig: Rig) -> None:
    """Also when deltas happen to have brought all that there is: only a snapshot makes it whole, so it is asked for."""
    first, second = play([[("port", 0, 0, 0)], [("port", 2, 1, 1)]])
    rows = first.after
    truth = whole(rows, VPC)
    bare = tuple(goal for goal in truth.objects if not isinstance(goal, EndpointGoal))
    rig.send(
        host_snapshot(2, rows.of_host("a")),
        ScopeUpdate(scope=VPC, revision=1, snapshot=False, partial=True, objects=bare),
        synced=True,
    )
    rig.send(of(second).vpcs[VPC])
    held = {one.scope: one.revision for one in rig.reconciler.greet(1, 1).scopes}
    assert held == {HOST_SCOPE: 2, VPC: 1}
    rig.send(whole(second.after, VPC))
    assert {one.scope: one.revision for one in rig.reconciler.greet(1, 1).scopes}[VPC] == second.after.revision


def test_what_follows_a_refused_bundle_is_not_taken(rig: Rig) -> None:
    """Least of all that the host is in sync: what was refused may name what is in use."""
    (commit,) = play([TWO_PORTS])
    rows = commit.after
    rig.begin(commit)
    rig.restart()
    carried = set(rig.tables.ports)
    assert len(carried) == 2
    lost = rig.bundle(host_snapshot(9, rows.of_host("a")), host="b")
    last = rig.bundle(host_snapshot(9, ()), synced=True)
    answers = rig.handle(lost, last)
    assert [answer.ack.error != "" for answer in answers if answer.ack] == [True, True]
    rig.stream -= 1
    (late,) = rig.handle(last)
    assert late.ack is not None
    assert late.ack.error == "one before it on its stream was refused"
    rig.clock.advance(100.0)
    rig.reconciler.tick()
    assert set(rig.tables.ports) == carried
    assert not rig.reconciler.in_sync


def test_news_may_end_the_last_doubt(rig: Rig) -> None:
    """A scope that could not be proved is what being in sync waits for; or that nothing leads to it any more."""
    (commit,) = play([[("port", 0, 0, 0)]])
    other, rows = network_id(1), commit.after
    joined = ScopeUpdate(scope=VPC, revision=3, snapshot=False, objects=(router(3, VPC, other),))
    rig.send(host_snapshot(2, rows.of_host("a")), whole(rows, VPC), joined, whole(rows, other), synced=True)
    rig.restart()
    unproved = ScopeUpdate(scope=other, revision=4, snapshot=False, objects=(), confirms=1)
    rig.send(unproved, synced=True)
    assert not rig.reconciler.in_sync
    gone = ScopeUpdate(scope=VPC, revision=5, snapshot=False, objects=(router(5, VPC),))
    rig.reconciler.news([News(1, VPC, rig.bundle(gone, host=""))])
    assert rig.reconciler.in_sync
