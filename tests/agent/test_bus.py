"""The host's end of the bus: what is no message of its session is refused and counted, and never reaches the agent."""

from typing import NamedTuple

import pytest
from tests.paths.wires import MemoryBus

from alcor.agent import bus as agent_bus
from alcor.agent.bus import BusEnd
from alcor.agent.server import MAX_UNANSWERED, Stream
from alcor.bus.base import down_subject, up_subject
from alcor.wire.frames import Body, BusMessage, End, Hail, Piece, decode_bus_message, encode_bus_message

SESSION = 77
BUNDLE = Piece(b"\x08\x01")
LARGEST = 1000
"""Here, instead of 64 MiB."""


class Scene:
    """A host `a` on a bus on which anybody may say anything, and what reaches its agent. Fills server.Intake."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.end = BusEnd(self.bus, "a", (1,), self)
        self.greeted: list[Stream] = []
        self.bundles: list[bytes] = []
        self.over: list[Stream] = []

    def greet(self, stream: Stream) -> None:
        self.greeted.append(stream)

    def bundle(self, stream: Stream, data: bytes) -> None:
        self.bundles.append(data)

    def answers(self, stream: Stream, data: bytes) -> None:
        raise AssertionError("nobody sent answers")

    def gone(self, stream: Stream) -> None:
        self.over.append(stream)

    def say(self, number: int, body: Body, *, session: int = SESSION) -> None:
        """What a controller says, heard at once."""
        self.bus._deliver(down_subject(1, "a"), encode_bus_message(BusMessage(session, number, body)))

    def endings(self) -> list[str]:
        """What the host said of sessions that it ended."""
        said = [decode_bus_message(data) for subject, data in self.bus.published if subject == up_subject(1, "a")]
        return [one.body.reason for one in said if isinstance(one.body, End)]


class Lie(NamedTuple):
    """What is said behind a hail and one bundle: (session, number, body); and why that ends the session, if it does."""

    messages: list[tuple[int, int, Body]]
    ends: str = ""
    taken: int = 1
    """Bundles that reach the agent."""


LIES = {
    "repeated": Lie([(SESSION, 2, BUNDLE)], "message 2 came behind message 2: something came again"),
    "a gap": Lie([(SESSION, 4, BUNDLE)], "message 4 came behind message 2: something was lost"),
    "a hail again": Lie([(SESSION, 1, Hail(5))]),
    "a hail late": Lie([(SESSION + 1, 2, Hail(5))]),
    "a hail of no session": Lie([(0, 1, Hail(6))]),
    "another session": Lie([(SESSION + 1, 3, BUNDLE)]),
    "too large": Lie(
        [(SESSION, 3, Piece(bytes(LARGEST), more=True)), (SESSION, 4, Piece(b"x"))], f"more than {LARGEST} bytes"
    ),
    "too many": Lie(
        [(SESSION, 3 + at, BUNDLE) for at in range(MAX_UNANSWERED)],
        "more bundles than may be unanswered",
        taken=MAX_UNANSWERED,
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_what_is_no_message_of_the_session(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted once and not taken; what would break the order ends the session, and the controller is told why."""
    monkeypatch.setattr(agent_bus, "MAX_MESSAGE_BYTES", LARGEST)
    scene = Scene()
    await scene.end.start()
    scene.say(1, Hail(5))
    scene.say(2, BUNDLE)
    for session, number, body in lie.messages:
        scene.say(number, body, session=session)
    assert scene.bundles == [BUNDLE.data] * lie.taken
    assert scene.end.refused == 1
    assert len(scene.greeted) == 1
    assert len(scene.over) == bool(lie.ends)
    assert [lie.ends in ending for ending in scene.endings()] == [True] * bool(lie.ends)
    await scene.end.stop()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xff", encode_bus_message(BusMessage(SESSION, 3, BUNDLE))[:-1]],
    ids=["empty", "noise", "truncated"],
)
async def test_what_is_no_message(data: bytes) -> None:
    """It is counted, and the session goes on."""
    scene = Scene()
    await scene.end.start()
    scene.say(1, Hail(5))
    scene.bus._deliver(down_subject(1, "a"), data)
    assert scene.end.refused == 1
    scene.say(2, BUNDLE)
    assert (scene.bundles, scene.endings()) == ([BUNDLE.data], [])
    await scene.end.stop()


async def test_other_hosts_and_partitions_are_not_heard() -> None:
    """It listens on its own subject of its own partitions."""
    scene = Scene()
    await scene.end.start()
    hail = encode_bus_message(BusMessage(SESSION, 1, Hail(5)))
    for subject in (down_subject(2, "a"), down_subject(1, "b"), up_subject(1, "a")):
        scene.bus._deliver(subject, hail)
    assert (scene.greeted, scene.end.refused) == ([], 0)
    scene.bus._deliver(down_subject(1, "a"), hail)
    assert [(one.partition, one.epoch) for one in scene.greeted] == [(1, 5)]
    await scene.end.stop()


async def test_a_hail_is_said_again_to_be_heard() -> None:
    """The controller cannot know which of them found somebody: one session, nothing refused."""
    scene = Scene()
    await scene.end.start()
    scene.say(1, Hail(5))
    scene.say(1, Hail(5))
    scene.say(2, BUNDLE)
    assert (len(scene.greeted), scene.bundles, scene.over, scene.end.refused) == (1, [BUNDLE.data], [], 0)
    await scene.end.stop()


async def test_an_older_controller_does_not_end_the_session_of_a_newer_one() -> None:
    """It is told why; one of the same epoch, or a newer one, is greeted in its place."""
    scene = Scene()
    await scene.end.start()
    scene.say(1, Hail(5))
    scene.say(1, Hail(4), session=SESSION + 1)
    assert scene.endings() == ["epoch 4 is older than 5: another controller has taken over"]
    scene.say(2, BUNDLE)
    assert (len(scene.greeted), scene.bundles, scene.over, scene.end.refused) == (1, [BUNDLE.data], [], 1)
    scene.say(1, Hail(5), session=SESSION + 2)
    assert (len(scene.greeted), len(scene.over)) == (2, 1)
    await scene.end.stop()
