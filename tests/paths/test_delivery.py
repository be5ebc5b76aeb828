"""Delivery over wires in memory: falling and climbing, moving without loss, dead hosts that delay nobody."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.paths.wires import PATIENCE_S, Agent, Recorder, Wire, Wires, node

from alcor.goalstate.objects import HOST_SCOPE, ScopeUpdate
from alcor.kit.backoff import Backoff
from alcor.model.ids import Id
from alcor.paths.base import Parcel, PathName
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.ladder import LadderLimits
from alcor.paths.session import SessionLimits
from alcor.wire.codec import decode_bundle, decode_scopes, encode_part
from alcor.wire.reports import Ack, Heartbeat, Hello, encode_ack, encode_hello

FAST, NORMAL, RESCUE = PathName.FAST, PathName.NORMAL, PathName.RESCUE
QUICK = LadderLimits(backoff=Backoff(first_s=0.01, cap_s=0.05), hedge_s=0.02, first_connect_s=0.1, connect_s=0.2)


def own(revision: int) -> Parcel:
    """News of the host itself."""
    return Parcel(
        HOST_SCOPE, encode_part(ScopeUpdate(scope=HOST_SCOPE, revision=revision, snapshot=False, objects=())), False
    )


class Region:
    """A delivery and its hosts, reachable by three paths."""

    def __init__(self, hosts: int, limits: DeliveryLimits, heartbeat_ms: int) -> None:
        self.agents = {f"h{number}": Agent(f"h{number}", heartbeat_ms=heartbeat_ms) for number in range(hosts)}
        self.paths = {path: Wires(self.agents) for path in (FAST, NORMAL, RESCUE)}
        self.events = Recorder()
        self.delivery = self.events.path = Delivery(
            partition=1, epoch=1, dialers=self.paths, events=self.events, roll=random.random, limits=limits
        )
        for name in self.agents:
            self.delivery.connect(node(name))

    async def until_on(self, path: PathName, *hosts: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while any(self.delivery.paths().get(host) != path for host in hosts or self.agents):
                await asyncio.sleep(0.002)

    def fate(self, what: str, *paths: PathName, host: str = "h0") -> None:
        for path in paths:
            self.paths[path].fates[host] = what


@asynccontextmanager
async def region(
    hosts: int = 1, *, limits: DeliveryLimits | None = None, heartbeat_ms: int = 0
) -> AsyncIterator[Region]:
    made = Region(hosts, limits or DeliveryLimits(ladder=QUICK), heartbeat_ms)
    task = asyncio.create_task(made.delivery.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_session_falls_and_climbs() -> None:
    """Fast at first; by the next path that works when it is cut; back on the fast one when that works again."""
    async with region() as it:
        await it.until_on(FAST)
        assert (it.paths[NORMAL].dials, it.paths[RESCUE].dials) == ({}, {})
        it.fate("refused", FAST)
        assert it.agents["h0"].line is not None
        it.agents["h0"].line.end("cut")
        await it.until_on(NORMAL)
        it.fate("hole", FAST, NORMAL)
        assert it.agents["h0"].line is not None
        it.agents["h0"].line.end("cut")
        await it.until_on(RESCUE)
        it.fate("up", NORMAL)
        await it.until_on(NORMAL)
        it.fate("up", FAST)
        await it.until_on(FAST)
        dials = [sum(wires.dials.values()) for wires in it.paths.values()]
        await asyncio.sleep(0.1)
        assert [sum(wires.dials.values()) for wires in it.paths.values()] == dials, "on the best path all is quiet"
        assert it.delivery.failures() == {}


async def test_sessions_say_how_they_came_about() -> None:
    """The path, and how many dials it took since the host was last in session."""
    async with region() as it:
        await it.until_on(FAST)
        it.fate("refused", FAST)
        assert it.agents["h0"].line is not None
        it.agents["h0"].line.end("cut")
        await it.until_on(NORMAL)
        sessions = it.events.sessions("h0")
        assert [(one.path, one.attempts) for one in sessions] == [(FAST, 1), (NORMAL, 2)]
        assert (it.delivery.dials[FAST, "greeted"], it.delivery.dials[NORMAL, "greeted"]) == (1, 1)
        assert it.delivery.dials[FAST, "failed"] >= 1
        assert sessions[0].number < sessions[1].number


async def test_what_is_offered_while_a_session_moves_arrives() -> None:
    """Either in the old session, or, as it was not answered there, because the new one's Hello shows it missing."""
    async with region() as it:
        it.fate("refused", FAST)
        await it.until_on(NORMAL)
        it.agents["h0"].answering = False
        it.delivery.offer("h0", [own(7)])
        it.events.answer = (own(7),)
        it.agents["h0"].answering = True
        it.fate("up", FAST)
        await it.until_on(FAST)
        number = it.events.sessions("h0")[-1].number
        await it.events.until(lambda: len(it.events.of("acknowledged")) >= 2)
        head, data = it.agents["h0"].bundles[-1]
        assert (head.sequence, head.synced) == (1, True)
        assert [update.revision for update in decode_scopes(decode_bundle(data)[1])] == [7]
        assert it.delivery.paths() == {"h0": FAST}
        assert number == it.events.sessions("h0")[-1].number


async def test_silence_ends_a_session() -> None:
    """A host that promised heartbeats and says nothing is tried by the other paths; one that did not is left alone."""
    async with region(heartbeat_ms=20) as it:
        await it.until_on(FAST)
        it.fate("hole", FAST)
        it.agents["h0"].heartbeat_ms = 0
        await it.until_on(NORMAL)
    async with region() as it:
        await it.until_on(FAST)
        await asyncio.sleep(0.1)
        assert it.paths[FAST].dials == {"h0": 1}


async def test_dead_hosts_delay_nobody() -> None:
    """With half of the hosts behind a black hole on every path, and few dials at a time, the others are in session as
    soon as if they were alone."""
    limits = DeliveryLimits(ladder=QUICK, dials=4, dial_turn_s=0.01)
    async with region(100, limits=limits) as it:
        for number in range(0, 100, 2):
            it.fate("hole", FAST, NORMAL, RESCUE, host=f"h{number}")
        alive = [f"h{number}" for number in range(1, 100, 2)]
        await it.until_on(FAST, *alive)
        loop = asyncio.get_running_loop()
        slowest = 0.0
        for host in alive:
            started = loop.time()
            bundles = len(it.agents[host].bundles)
            it.delivery.offer(host, [own(9)])
            while len(it.agents[host].bundles) == bundles:
                await asyncio.sleep(0)
            slowest = max(slowest, loop.time() - started)
        assert slowest < 0.1
        assert sorted(it.delivery.connected()) == sorted(alive)


async def test_a_storm_is_admitted_in_turns() -> None:
    """Never more dials at a time than allowed, and everybody gets in."""
    async with region(300, limits=DeliveryLimits(ladder=QUICK, dials=8, dial_turn_s=60.0)) as it:
        await it.until_on(FAST)
        assert it.paths[FAST].most_dialling <= 8
        for agent in it.agents.values():
            assert agent.line is not None
            agent.line.end("all at once")
        await asyncio.sleep(0)
        await it.events.until(lambda: len(it.events.of("greeted")) == 600)
        assert it.paths[FAST].most_dialling <= 8


async def test_a_turn_lasts_until_the_host_is_in_sync() -> None:
    """A Hello is little work, what follows is not: whoever is greeted and not yet answered counts."""
    async with region(40, limits=DeliveryLimits(ladder=QUICK, dials=8, dial_turn_s=60.0)) as it:
        for agent in it.agents.values():
            agent.answering = False
        await it.events.until(lambda: len(it.events.of("greeted")) == 8)
        await asyncio.sleep(0.05)
        assert len(it.events.of("greeted")) == 8
        for agent in it.agents.values():
            agent.answering = True
            if agent.line is not None:
                agent.line.say(encode_ack(Ack(sequence=1)))
        await it.until_on(FAST)


async def test_a_host_that_says_something_leaves_the_dead_ones_queue() -> None:
    """Dead hosts wait for each other; one that is there again is dialled before all of them."""
    async with region(300) as it:
        it.paths[FAST].shut = it.paths[RESCUE].shut = set(it.agents)
        dials = it.paths[NORMAL].dials
        for host in it.agents:
            it.fate("refused", NORMAL, host=host)
        async with asyncio.timeout(PATIENCE_S):
            while len(dials) < 300 or min(dials.values()) < 2 or max(dials.values()) < 3:
                await asyncio.sleep(0.01)
        name = min(dials, key=lambda host: dials[host])
        before = dials.total()
        it.fate("up", NORMAL, host=name)
        it.delivery.heard(name, Heartbeat(name, 0, 10_000, ()))
        await it.until_on(NORMAL, name)
        assert dials.total() - before < 30


async def test_only_a_fast_session_makes_room_for_another() -> None:
    """A host that is dialled on the fast path, and is served on the normal one meanwhile, keeps its session."""
    async with region(3, limits=DeliveryLimits(ladder=QUICK, fast_channels=1)) as it:
        await it.events.until(lambda: len(it.events.of("acknowledged")) == 3)
        paths = it.delivery.paths()
        (fast,) = [host for host, path in paths.items() if path == FAST]
        first, second = [host for host, path in paths.items() if path == NORMAL]
        for host in (fast, first):
            it.fate("hole", FAST, host=host)
        it.delivery.hurry(first)
        await it.until_on(NORMAL, fast)
        sessions = len(it.events.sessions(first))
        it.delivery.hurry(second)
        await it.until_on(FAST, second)
        assert len(it.events.sessions(first)) == sessions
        assert it.delivery.paths()[first] == NORMAL


async def test_the_number_of_fast_sessions_is_bounded() -> None:
    """The others are on the normal path; who is in a hurry takes the place of the one that waited longest for news."""
    async with region(6, limits=DeliveryLimits(ladder=QUICK, fast_channels=4)) as it:
        await it.events.until(lambda: len(it.events.of("acknowledged")) == 6)
        paths = it.delivery.paths()
        fast = sorted(host for host, path in paths.items() if path == FAST)
        normal = sorted(host for host, path in paths.items() if path == NORMAL)
        assert (len(fast), len(normal)) == (4, 2)
        for host in fast[1:]:
            it.delivery.offer(host, [own(3)])
        await it.events.until(lambda: all(("acknowledged", (host, 2)) in it.events.heard_of for host in fast[1:]))
        it.delivery.hurry(normal[0])
        await it.until_on(FAST, normal[0], *fast[1:])
        await it.until_on(NORMAL, fast[0], normal[1])


async def test_as_many_leave_the_fast_path_as_others_need_it() -> None:
    """One that is about to leave is not asked again, in place of another."""
    async with region(8, limits=DeliveryLimits(ladder=QUICK, fast_channels=4)) as it:
        await it.events.until(lambda: len(it.events.of("acknowledged")) == 8)
        normal = [host for host, path in it.delivery.paths().items() if path == NORMAL]
        for host in normal:
            it.delivery.hurry(host)
        await it.until_on(FAST, *normal)
        await it.until_on(NORMAL, *set(it.agents) - set(normal))


async def test_a_host_that_says_something_keeps_its_turn_among_the_hopeful() -> None:
    """Who proves that it is there is not sent to the end of the queue for it."""
    limits = DeliveryLimits(ladder=QUICK, dials=1, dial_turn_s=0.05)
    async with region(20, limits=limits) as it:
        it.paths[FAST].shut = it.paths[RESCUE].shut = set(it.agents)
        for host in it.agents:
            it.fate("hole", NORMAL, host=host)
        name = list(it.agents)[9]
        it.fate("up", NORMAL, host=name)
        for _ in range(8):
            await asyncio.sleep(0.05)
            it.delivery.heard(name, Heartbeat(name, 0, 10_000, ()))
        await it.until_on(NORMAL, name)
        assert it.paths[NORMAL].dials.total() <= 12


async def test_without_a_normal_path_the_bound_yields() -> None:
    """No host is left out for the sake of memory."""
    async with region(6, limits=DeliveryLimits(ladder=QUICK, fast_channels=4)) as it:
        it.paths[NORMAL].shut = set(it.agents)
        await it.until_on(FAST)


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        ([encode_hello(Hello("h9", 1, ()))], "its first word was not the Hello of h0"),
        ([encode_ack(Ack(sequence=0))], "its first word was not the Hello of h0"),
        ([b"\xff"], "not a protobuf message"),
        ([encode_hello(Hello("h0", 1, ())), encode_ack(Ack(sequence=2))], "acks come once and in order"),
        ([encode_hello(Hello("h0", 1, ())), encode_hello(Hello("h0", 1, ()))], "a second Hello"),
        ([encode_hello(Hello("h0", 1, ())), encode_ack(Ack(sequence=1))[:-1]], "not a protobuf message"),
    ],
)
async def test_what_is_wrong_ends_the_session_with_a_reason(
    reports: list[bytes], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another's Hello, none, noise, acks out of order or repeated, truncated: nothing is believed, it is said and
    counted."""
    async with region() as it:
        agent = it.agents["h0"]
        greet = agent.greet

        def misbehave(line: Wire) -> None:
            agent.greet = greet  # type: ignore[method-assign]
            for report in reports:
                line.say(report)

        agent.greet = misbehave  # type: ignore[method-assign]
        await it.events.until(lambda: bool(it.events.of("acknowledged")))
    assert reason in caplog.text
    refused = it.delivery.endings[FAST, "refused"] if len(reports) > 1 else it.delivery.dials[FAST, "failed"]
    assert refused == 1


async def test_an_ack_for_a_session_that_moved_is_not_believed() -> None:
    """Whatever the old line still says belongs to nobody."""
    async with region() as it:
        it.fate("refused", FAST)
        await it.until_on(NORMAL)
        old = it.agents["h0"].line
        assert old is not None
        it.fate("up", FAST)
        await it.until_on(FAST)
        old.say(encode_ack(Ack(sequence=0)))
        await asyncio.sleep(0.01)
        assert ("h0", 0) not in it.events.of("acknowledged")


async def test_a_node_that_moves_is_dialled_where_it_is() -> None:
    """At once, whatever its back-off; a node that goes is left alone."""
    async with region() as it:
        it.fate("hole", FAST, NORMAL, RESCUE)
        await asyncio.sleep(0.05)
        it.fate("up", FAST, NORMAL, RESCUE)
        it.delivery.connect(node("h0", port=7))
        await it.until_on(FAST)
        it.delivery.disconnect("h0")
        assert it.delivery.connected() == []
        it.delivery.begin(it.events.sessions("h0")[-1], [own(1)])
        it.delivery.withdraw("h0", Id(b"v" * 16))
        it.delivery.hurry("h0")
        dials = it.paths[FAST].dials["h0"]
        await asyncio.sleep(0.05)
        assert it.paths[FAST].dials["h0"] == dials


async def test_unanswered_bundles_end_the_session() -> None:
    """The ack of each bundle has its time."""
    limits = DeliveryLimits(ladder=QUICK, session=SessionLimits(ack_s=0.05))
    async with region(limits=limits) as it:
        it.agents["h0"].answering = False
        await it.events.until(lambda: len(it.events.of("greeted")) >= 2)
        it.agents["h0"].answering = True
        await it.events.until(lambda: bool(it.events.of("acknowledged")))
