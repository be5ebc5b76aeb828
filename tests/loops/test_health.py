"""The health monitor: who is heard is up, who is silent is suspect and then down, whoever carried the words."""

import pytest
from tests.paths.wires import Recorder

from alcor.loops.health import MAX_EVENTS, POKE_S, HealthMonitor
from alcor.loops.metrics import Metrics
from alcor.model.ids import Id
from alcor.paths.base import PathName, Session
from alcor.services.health import Peers, Reach
from alcor.wire.probes import Seen, Sighting
from alcor.wire.reports import Ack, Heartbeat, Hello, PortAck

INTERVAL_MS = 1000
PORT = Id(bytes(16))


class Watch:
    """A monitor, its clock, and whom it tells."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told = Recorder()
        self.metrics = Metrics()
        self.monitor = HealthMonitor(self.told, lambda: int(self.now * 1000), lambda: self.now, also=(self.metrics,))

    def beat(self, host: str = "h", *, path: PathName = PathName.NORMAL, standby: bool = False) -> None:
        self.monitor.heard(host, path, Heartbeat(host, 1, INTERVAL_MS, (), standby))

    def greet(self, host: str = "h", *, path: PathName = PathName.FAST, standby: bool = False) -> Session:
        session = Session(host, 1, path, 3)
        self.monitor.greeted(session, Hello(host, 1, (), standby=standby, heartbeat_ms=INTERVAL_MS))
        return session

    def wait(self, seconds: float) -> Reach:
        self.now += seconds
        self.monitor.look()
        return self.monitor.health("h").state

    def events(self) -> list[tuple[str, str]]:
        return [(event.was, event.now) for event in self.monitor.events()]


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_host_that_was_never_heard_is_down(watch: Watch) -> None:
    """And nothing is told of it."""
    assert watch.monitor.health("nobody").state is Reach.DOWN
    assert watch.monitor.events() == []


def test_an_external_device_is_remembered(watch: Watch) -> None:
    """From the Hello; heartbeats do not say it again, the next Hello may say otherwise."""
    for external in (True, False):
        hello = Hello("h", 1, (), heartbeat_ms=INTERVAL_MS, outside=external)
        watch.monitor.greeted(Session("h", 1, PathName.FAST, 1), hello)
        watch.beat()
        assert watch.monitor.health("h").outside is external


def test_silence_makes_a_host_suspect_and_then_down_within_three_heartbeats(watch: Watch) -> None:
    """One and a half intervals, three intervals; each is told once."""
    watch.greet()
    assert watch.wait(1.4) is Reach.UP
    assert watch.wait(0.2) is Reach.SUSPECT
    assert watch.wait(1.3) is Reach.SUSPECT
    assert watch.wait(0.15) is Reach.DOWN
    assert watch.wait(100) is Reach.DOWN
    assert watch.events() == [("up", "suspect"), ("suspect", "down")]


@pytest.mark.parametrize("path", list(PathName))
def test_a_word_by_any_path_counts(watch: Watch, path: PathName) -> None:
    """A host is down only when nobody reaches it, peers included."""
    watch.greet(path=path)
    for _ in range(20):
        watch.beat(path=path)
        assert watch.wait(1.0) is Reach.UP
    assert watch.monitor.health("h").path == path
    assert watch.events() == []


def test_one_word_does_not_make_a_dead_host_well(watch: Watch) -> None:
    """Two do, or a session: a host that flickers does not flap between up and down."""
    watch.greet()
    assert watch.wait(10) is Reach.DOWN
    watch.beat()
    assert watch.wait(0.0) is Reach.SUSPECT
    watch.beat()
    assert watch.wait(0.0) is Reach.UP
    assert watch.wait(10) is Reach.DOWN
    watch.greet()
    assert watch.wait(0.0) is Reach.UP


def test_the_standby_is_told_apart(watch: Watch) -> None:
    """The host is up, its agent is not."""
    watch.greet()
    watch.greet(standby=True)
    assert watch.monitor.health("h").standby
    assert watch.wait(0.5) is Reach.UP
    watch.beat()
    assert not watch.monitor.health("h").standby
    assert watch.events() == [("agent", "standby"), ("standby", "agent")]


def test_everything_is_passed_on(watch: Watch) -> None:
    """The monitor stands between; nobody misses anything."""
    session = watch.greet()
    watch.beat()
    watch.monitor.acknowledged(session, Ack(sequence=1))
    watch.monitor.overflowed(session, frozenset())
    watch.monitor.refused(session, "why", 1)
    assert [kind for kind, _ in watch.told.heard_of] == ["greeted", "heard", "acknowledged", "overflowed", "refused"]
    assert watch.monitor.health("h").attempts == 3


def test_a_thousand_hosts_cost_what_is_due(watch: Watch) -> None:
    """One entry a host, however often it is heard; events are bounded."""
    for _ in range(5):
        for number in range(1000):
            watch.beat(f"host-{number}")
        watch.wait(1.0)
    assert len(watch.monitor._deadlines) == 1000
    assert watch.monitor.states() == {Reach.UP: 1000}
    watch.wait(10)
    watch.wait(10)
    assert watch.monitor.states() == {Reach.DOWN: 1000}
    assert len(watch.monitor.events()) == MAX_EVENTS
    watch.monitor.forget("host-1")
    assert watch.monitor.states() == {Reach.DOWN: 999}


def test_the_page_for_prometheus(watch: Watch) -> None:
    """Ports by path and outcome, how long wiring took, hosts by state, sessions by path."""
    session = watch.greet(path=PathName.RESCUE)
    good, bad = PortAck(PORT, 1, False, "", 1500), PortAck(PORT, 1, False, "no room", 10)
    watch.monitor.acknowledged(session, Ack(sequence=1, ports=(good, good, bad)))
    watch.metrics.watch(
        dials=lambda: {(PathName.FAST, "failed"): 3, (PathName.RESCUE, "greeted"): 1},
        endings=lambda: {(PathName.FAST, "silent"): 2},
        paths=lambda: {"h": PathName.RESCUE},
        failing=lambda: {"x": 2},
        states=watch.monitor.states,
        revision=lambda: 42,
        seen=watch.monitor.seen,
        refused=lambda: {"malformed": 7},
    )
    page = watch.metrics.render().decode()
    for line in (
        'alcor_port_reports_total{outcome="carried",path="rescue"} 2.0',
        'alcor_port_reports_total{outcome="refused",path="rescue"} 1.0',
        'alcor_port_wiring_seconds_bucket{le="0.002",path="rescue"} 2.0',
        'alcor_sessions{path="rescue"} 1.0',
        'alcor_dials_total{outcome="failed",path="fast"} 3.0',
        'alcor_dials_total{outcome="greeted",path="rescue"} 1.0',
        'alcor_sessions_ended_total{cause="silent",path="fast"} 2.0',
        'alcor_session_dials_bucket{le="2.0",path="rescue"} 0.0',
        'alcor_session_dials_bucket{le="3.0",path="rescue"} 1.0',
        'alcor_hosts{state="up"} 1.0',
        'alcor_hosts_by_peers{seen="no word"} 1.0',
        'alcor_bus_refused{reason="malformed"} 7.0',
        "alcor_hosts_failing 1.0",
        "alcor_revision 42.0",
    ):
        assert line in page


# ---- what peers say ----


class Probes:
    """Everybody watches everybody, but a stranger nobody. Fills loops.health.Probes."""

    def __init__(self) -> None:
        self.poked: list[str] = []

    def watches(self, watcher: str, host: str) -> bool:
        return watcher != "stranger"

    def poke(self, host: str) -> bool:
        self.poked.append(host)
        return True


class Probed(Watch):
    """Host h and those that probe it, all up."""

    def __init__(self, *watchers: str) -> None:
        super().__init__()
        self.probes = self.monitor.probes = Probes()
        for name in ("h", *watchers):
            self.greet(name)
        self.say(Seen.REACHED, *watchers)

    def say(self, seen: Seen | None, *watchers: str) -> None:
        """How these see h; None: they have no word."""
        for watcher in watchers:
            sightings = (Sighting("h", seen),) if seen else ()
            self.monitor.heard(watcher, PathName.FAST, Heartbeat(watcher, 1, INTERVAL_MS, (), False, sightings))

    @property
    def state(self) -> Reach:
        return self.monitor.health("h").state

    @property
    def peers(self) -> Peers:
        return self.monitor.health("h").peers


def test_a_host_that_no_peer_reaches_is_asked_and_is_down_if_it_does_not_answer() -> None:
    """Long before a heartbeat is missed; each step is told."""
    watch = Probed("a", "b")
    watch.say(Seen.SILENT, "a")
    assert (watch.state, watch.probes.poked) == (Reach.UP, [])
    watch.say(Seen.SILENT, "b")
    assert (watch.state, watch.probes.poked) == (Reach.SUSPECT, ["h"])
    assert watch.wait(POKE_S - 0.01) is Reach.SUSPECT
    assert watch.wait(0.02) is Reach.DOWN
    assert watch.events() == [("up", "suspect"), ("suspect", "down")]
    assert watch.monitor.seen() == {"silent": 1, "no word": 2}


def test_a_host_that_answers_is_up_whatever_its_peers_say() -> None:
    """Its underlay is cut, or they lie; that is shown, and asked once."""
    watch = Probed("a", "b")
    watch.say(Seen.SILENT, "a", "b")
    watch.now += 0.1
    watch.beat()
    assert watch.wait(POKE_S) is Reach.UP
    watch.say(Seen.SILENT, "a", "b")
    assert watch.wait(0.3) is Reach.UP
    assert (watch.peers, watch.probes.poked) == (Peers(silent=2), ["h"])


def test_a_host_that_only_its_peers_reach_is_not_down() -> None:
    """Its management network is cut: suspect for as long as a peer that is up reaches it."""
    watch = Probed("a", "b")
    for _ in range(10):
        watch.say(Seen.REACHED, "a")
        watch.say(Seen.SILENT, "b")
        watch.wait(0.9)
    assert (watch.state, watch.events()) == (Reach.SUSPECT, [("up", "suspect")])
    watch.say(Seen.SILENT, "a")
    # Silent for long, and now nobody reaches it.
    assert (watch.state, watch.events()[1:]) == (Reach.DOWN, [("suspect", "down")])
    watch.say(Seen.REACHED, "b")
    assert watch.state is Reach.SUSPECT
    assert watch.wait(0.5) is Reach.SUSPECT


def test_a_machine_without_an_agent_is_suspect_at_once() -> None:
    """Its standby may take over: down is what stays silent."""
    watch = Probed("a", "b")
    watch.say(Seen.REFUSED, "a", "b")
    assert (watch.state, watch.peers) == (Reach.SUSPECT, Peers(refused=2))
    assert watch.wait(1.0) is Reach.SUSPECT
    watch.say(Seen.REFUSED, "a", "b")
    assert watch.wait(2.1) is Reach.DOWN


def test_only_the_word_of_hosts_that_are_up_counts() -> None:
    """Who is down itself may have said so long ago; who was not told to probe it says nothing."""
    watch = Probed("a", "b")
    watch.greet("stranger")
    watch.say(Seen.SILENT, "stranger")
    assert watch.peers == Peers(reached=2)
    watch.say(Seen.SILENT, "b")
    for _ in range(4):
        watch.now += 0.9
        watch.beat()
        watch.say(Seen.SILENT, "b")
        watch.monitor.look()
    assert watch.monitor.health("a").state is Reach.DOWN
    assert (watch.peers, watch.probes.poked) == (Peers(silent=1), ["h"])
    watch.say(None, "b")
    assert watch.peers == Peers()


def test_peers_may_speak_of_a_host_before_it_speaks() -> None:
    """Their word counts from when it is first heard. (Found by the simulator, seed 3516870.)"""
    watch = Probed()
    watch.greet("a")
    watch.monitor.heard("a", PathName.FAST, Heartbeat("a", 1, INTERVAL_MS, (), False, (Sighting("new", Seen.REACHED),)))
    watch.beat("new")
    assert watch.monitor.health("new").peers == Peers(reached=1)


def test_words_are_forgotten_with_their_hosts() -> None:
    """Nodes that were removed leave nothing."""
    watch = Probed("a", "b")
    for name in ("a", "h", "b"):
        watch.monitor.forget(name)
    assert (watch.monitor._told, watch.monitor._words, watch.monitor.seen()) == ({}, {}, {})
    assert watch.wait(10) is Reach.DOWN
