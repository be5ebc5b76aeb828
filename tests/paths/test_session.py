"""How long a session bears silence, on virtual time."""

import asyncio
import random
import time
import weakref

import pytest
import uvloop
from tests.paths.wires import Agent, Recorder, Wire

from alcor.goalstate.objects import HOST_SCOPE
from alcor.kit.memory import no_collection
from alcor.paths.base import LineEnded, Parcel, PathName, Session
from alcor.paths.session import SMALL_BYTES, Conversation, Ending, Pace, SessionEnded, SessionLimits, Terms
from alcor.sim.clock import VirtualLoop
from alcor.wire.codec import Part
from alcor.wire.reports import Ack, Heartbeat, Hello, encode_ack, encode_heartbeat

ACK_S = 120.0


class Nobody:
    """Keeps no sessions."""

    def synced(self) -> None:
        return

    def refused(self) -> int:
        return 1


def parcel(data: bytes) -> Parcel:
    """Of the host's scope; nobody here reads what it carries."""
    return Parcel(HOST_SCOPE, Part(data), snapshot=False)


def open_session(heartbeat_ms: int, sign_ms: int = 1000, pace: Pace | None = None) -> tuple[Wire, Conversation]:
    """With a host that answers nothing by itself."""
    agent = Agent("h")
    agent.answering = False
    wire = Wire(agent)
    terms = Terms(1, 1, Recorder(), SessionLimits(ack_s=ACK_S), lambda: 0.0, lambda _: None, b"", pace or Pace())
    hello = Hello("h", 1, (), heartbeat_ms=heartbeat_ms, sign_ms=sign_ms)
    return wire, Conversation(terms, Nobody(), Session("h", 1, PathName.FAST, 1), hello, wire)


async def until_it_ends(
    heartbeat_s: float, sign_s: float, size: int, signs_until_s: float, answer_at_s: float | None
) -> tuple[float, Ending]:
    """Sends an update of that size, if any; the host gives signs of life until then, and answers then. When the
    session ended, and how."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    wire, session = open_session(int(heartbeat_s * 1000), int(sign_s * 1000))
    if size:
        session.begin((parcel(b"x" * size),))

    async def live() -> None:
        while (after_s := loop.time() - began) < signs_until_s:
            wire.say(encode_heartbeat(Heartbeat("h", 1, int(heartbeat_s * 1000), ())))
            if answer_at_s is not None and after_s >= answer_at_s:
                wire.say(encode_ack(Ack(sequence=1)))
                return
            await asyncio.sleep(1.0)

    living = asyncio.create_task(live())
    try:
        await session.run()
    except SessionEnded as ended:
        return loop.time() - began, ended.ending
    finally:
        await asyncio.gather(living)
    raise AssertionError


@pytest.mark.parametrize(
    ("heartbeat_s", "sign_s", "size", "signs_until_s", "answer_at_s", "ends_at_s", "ending"),
    [
        (10.0, 1.0, 0, 0.0, None, 30.0, Ending.SILENT),
        (10.0, 1.0, 100, 0.0, None, 3.0, Ending.SILENT),
        (10.0, 0.2, 100, 0.0, None, 0.6, Ending.SILENT),
        (10.0, 1.0, 2 * SMALL_BYTES, 0.0, None, 30.0, Ending.SILENT),
        (10.0, 1.0, 100, 10.5, None, 13.0, Ending.SILENT),
        (10.0, 1.0, 100, 1000.0, None, ACK_S, Ending.BROKEN),
        (10.0, 1.0, 100, 1000.0, 5.0, 35.0, Ending.SILENT),
        (0.3, 1.0, 0, 0.0, None, 0.9, Ending.SILENT),
        (0.3, 1.0, 100, 0.0, None, 0.9, Ending.SILENT),
        (10.0, 0.0, 100, 0.0, None, 30.0, Ending.SILENT),
        (0.0, 1.0, 100, 0.0, None, 3.0, Ending.SILENT),
        (0.0, 0.0, 100, 0.0, None, ACK_S, Ending.BROKEN),
    ],
    ids=[
        "nothing to say: three heartbeats",
        "a bundle is not answered: three signs",
        "signs as often as it promised",
        "a large one takes time on a slow line",
        "the signs stop",
        "signs, but never the answer",
        "the answer comes: heartbeats again",
        "frequent heartbeats",
        "frequent heartbeats and a bundle",
        "it promised no signs",
        "it promised signs alone",
        "it promised nothing",
    ],
)
def test_silence(
    heartbeat_s: float,
    sign_s: float,
    size: int,
    signs_until_s: float,
    answer_at_s: float | None,
    ends_at_s: float,
    ending: Ending,
) -> None:
    loop = VirtualLoop(random.Random(1))
    try:
        found = loop.run_until_complete(until_it_ends(heartbeat_s, sign_s, size, signs_until_s, answer_at_s))
    finally:
        loop.close()
    assert found[0] == pytest.approx(ends_at_s, abs=0.01)
    assert found[1] == ending


async def beside_slow_ones(quiet_s: float) -> float:
    """Others took two seconds to answer, until so long ago; when a host is given up that says nothing."""
    loop = asyncio.get_running_loop()
    pace = Pace()
    for _ in range(200):
        pace.heard(2.0, loop.time())
    await asyncio.sleep(quiet_s)
    _, session = open_session(10_000, pace=pace)
    session.begin((parcel(b"x" * 100),))
    began = loop.time()
    with pytest.raises(SessionEnded):
        await session.run()
    return loop.time() - began


@pytest.mark.parametrize(
    ("quiet_s", "ends_at_s"),
    [(0.0, 6.6), (5.0, 5.7), (60.0, 3.0)],
    ids=["all are slow", "they were", "that is long ago"],
)
def test_when_all_are_slow_nobody_is_dead_for_it(quiet_s: float, ends_at_s: float) -> None:
    """A storm of ten thousand hosts waits for itself; ending the sessions of those who wait would feed it."""
    loop = VirtualLoop(random.Random(1))
    try:
        assert loop.run_until_complete(beside_slow_ones(quiet_s)) == pytest.approx(ends_at_s, abs=0.1)
    finally:
        loop.close()


class Broken(Wire):
    """Ends by itself."""

    async def read(self) -> bytes:
        await asyncio.sleep(0.1)
        raise LineEnded("it broke")


@pytest.mark.parametrize("broken", [False, True], ids=["ended from here", "ended from there"])
def test_what_is_over_is_gone(broken: bool) -> None:
    """A session that waits for the garbage collector keeps its connection open."""

    async def ended() -> weakref.ref[Conversation]:
        agent = Agent("h")
        wire = Broken(agent) if broken else Wire(agent)
        terms = Terms(1, 1, Recorder(), SessionLimits(), lambda: 0.0, lambda _: None, b"", Pace())
        session = Conversation(terms, Nobody(), Session("h", 1, PathName.FAST, 1), Hello("h", 1, ()), wire)
        asyncio.get_running_loop().call_later(0.2, session.end, "enough")
        with pytest.raises(LineEnded if broken else SessionEnded):
            await session.run()
        return weakref.ref(session)

    async def work() -> bool:
        session = await ended()
        await asyncio.sleep(1.0)
        return session() is None

    loop = VirtualLoop(random.Random(1))
    with no_collection():
        try:
            assert loop.run_until_complete(work())
        finally:
            loop.close()


async def after_an_answer() -> float:
    """A large bundle is answered after a second, then the host is gone: when that is noticed, as a small one waits."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    wire, session = open_session(10_000)
    session.begin((parcel(b"x" * (2 * SMALL_BYTES)),))
    speaking = asyncio.create_task(session.run())
    await asyncio.sleep(0.5)
    session.offer((parcel(b"x" * 100),))
    await asyncio.sleep(0.5)
    wire.say(encode_ack(Ack(sequence=1)))
    with pytest.raises(SessionEnded):
        await speaking
    return loop.time() - began


def test_the_alarm_follows_what_is_answered() -> None:
    loop = VirtualLoop(random.Random(1))
    try:
        assert loop.run_until_complete(after_an_answer()) == pytest.approx(4.0, abs=0.01)
    finally:
        loop.close()


async def after_standing_still(news: bool) -> tuple[float, bool]:
    """This process stands still for longer than its patience; the host's sign of life waits to be read; meanwhile
    there may be something new to be sent. When the session ended, and whether it was over at once."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    wire, session = open_session(10_000)
    session.begin((parcel(b"x" * 100),))
    speaking = asyncio.create_task(session.run())
    await asyncio.sleep(1.0)
    loop._virtual.now += 5.0  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    if news:
        session.offer((parcel(b"x" * 100),))
    await asyncio.sleep(0.1)
    over = speaking.done()
    wire.say(encode_heartbeat(Heartbeat("h", 1, 10_000, ())))
    with pytest.raises(SessionEnded):
        await speaking
    return loop.time() - began, over


@pytest.mark.parametrize("news", [False, True])
def test_who_stood_still_itself_reads_first(news: bool) -> None:
    """No session ends for what its other end said in time; one whose host is silent does, a moment later."""
    loop = VirtualLoop(random.Random(1))
    try:
        found, over = loop.run_until_complete(after_standing_still(news))
    finally:
        loop.close()
    assert not over
    assert found == pytest.approx(6.2 + 3.0, abs=0.05)


def test_an_alarm_for_a_time_that_has_passed() -> None:
    """On the loop that servers run on, whose handle of such a timer is another kind."""

    async def scene() -> Ending:
        _, session = open_session(1, 50)
        session.begin((parcel(b"x" * 100),))
        time.sleep(0.02)
        with pytest.raises(SessionEnded) as ended:
            await session.run()
        return ended.value.ending

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scene()) is Ending.SILENT
