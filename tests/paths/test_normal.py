"""The controller's end of the bus: what a host must not say is refused, counted by reason, and never read."""

import asyncio
import random
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from tests.paths.wires import MemoryBus, node

from alcor.bus.base import down_subject, up_subject
from alcor.paths import normal
from alcor.paths.base import Line, LineEnded
from alcor.paths.normal import MAX_UNREAD, NormalDialer
from alcor.wire.frames import Body, BusMessage, End, Hail, Piece, decode_bus_message, encode_bus_message
from alcor.wire.reports import Ack, Heartbeat, encode_ack, encode_heartbeat

ACK = Piece(encode_ack(Ack(sequence=1)))
LARGEST = 1000
"""Here, instead of 64 MiB."""


class Scene:
    """Two lines, to h1 and to h2, over a bus on which anybody may say anything."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.heard: list[str] = []
        self.dialer = NormalDialer(
            partition=1, epoch=5, bus=self.bus, heard=lambda host, _: self.heard.append(host), roll=random.random
        )

    def session(self, host: str) -> int:
        return next(number for number, line in self.dialer._lines.items() if line.host == host)

    def say(self, data: bytes, *, subject: str = up_subject(1, "h1")) -> None:
        self.bus.publish(subject, data)

    def message(self, number: int, body: Body, *, host: str = "h1") -> bytes:
        return encode_bus_message(BusMessage(self.session(host), number, body))


class Lie(NamedTuple):
    """What is said behind one good report; how it is counted; why the line ends, if it does."""

    bodies: list[tuple[int, Body]]
    counted: dict[str, int]
    ends: str = ""


LIES = {
    "repeated": Lie([(1, ACK)], {"repeated": 1}),
    "number 0": Lie([(0, ACK)], {"repeated": 1}),
    "a gap": Lie([(3, ACK)], {"lost": 1}, "the bus lost messages: number 3 came after 1"),
    "a hail": Lie([(2, Hail(5))], {"malformed": 1}, "only controllers do"),
    "too large": Lie(
        [(2, Piece(bytes(LARGEST), more=True)), (3, Piece(b"x"))], {"too large": 1}, f"more than {LARGEST} bytes"
    ),
    "too many": Lie([(2 + at, ACK) for at in range(MAX_UNREAD)], {"too many": 1}, f"more than {MAX_UNREAD} messages"),
    "an end": Lie([(2, End("enough"))], {}, "the host ended the session: enough"),
}


async def _reports(line: Line) -> Iterable[bytes]:
    """What can be read of the line now, in order; raises LineEnded when it is over."""
    read = []
    while True:
        try:
            async with asyncio.timeout(0.01):
                read.append(await line.read())
        except TimeoutError:
            return read


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_what_ends_a_line_and_what_is_dropped(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is wrong is read; another host's line does not notice."""
    monkeypatch.setattr(normal, "MAX_MESSAGE_BYTES", LARGEST)
    scene = Scene()
    await scene.dialer.start()
    async with scene.dialer.dial(node("h1")) as line, scene.dialer.dial(node("h2")) as other:
        scene.say(scene.message(1, ACK))
        for number, body in lie.bodies:
            scene.say(scene.message(number, body))
        scene.say(scene.message(1, ACK, host="h2"), subject=up_subject(1, "h2"))
        await asyncio.sleep(0)
        if lie.ends:
            with pytest.raises(LineEnded, match=lie.ends):
                while True:
                    assert await line.read() == ACK.data
        else:
            assert await _reports(line) == [ACK.data]
        assert await _reports(other) == [ACK.data]
        assert +scene.dialer.refused == lie.counted


@pytest.mark.parametrize(
    ("subject", "data", "counted"),
    [
        (up_subject(1, "h1"), b"\xff\xff", {"malformed": 1}),
        (up_subject(1, "h1"), b"", {"malformed": 1}),
        (up_subject(1, "h1"), encode_bus_message(BusMessage(7, 1, ACK))[:-1], {"malformed": 1}),
        (up_subject(1, "h1"), encode_bus_message(BusMessage(0, 0, ACK)), {"malformed": 1}),
        (up_subject(1, "h1"), encode_bus_message(BusMessage(0, 0, Piece(b"x", more=True))), {"malformed": 1}),
        (up_subject(1, "h1"), encode_bus_message(BusMessage(7, 1, ACK)), {"of no session": 1}),
        (
            up_subject(1, "h1"),
            encode_bus_message(BusMessage(0, 0, Piece(encode_heartbeat(Heartbeat("h2", 5, 1000, ()))))),
            {"in another host's name": 1},
        ),
        (up_subject(2, "h1"), encode_bus_message(BusMessage(7, 1, ACK)), {}),  # of another partition: not heard at all
    ],
    ids=["noise", "empty", "truncated", "no heartbeat", "in pieces", "no session", "another's name", "partition"],
)
async def test_what_belongs_to_no_line(subject: str, data: bytes, counted: dict[str, int]) -> None:
    """It is counted, no host is taken to be there, and the line goes on."""
    scene = Scene()
    await scene.dialer.start()
    async with scene.dialer.dial(node("h1")) as line:
        scene.say(data, subject=subject)
        scene.say(scene.message(1, ACK))
        assert await line.read() == ACK.data
        assert (+scene.dialer.refused, scene.heard) == (counted, [])


async def test_another_hosts_session() -> None:
    """A host that knows the number of another's session speaks for itself only."""
    scene = Scene()
    await scene.dialer.start()
    async with scene.dialer.dial(node("h1")) as line, scene.dialer.dial(node("h2")):
        scene.say(scene.message(1, ACK), subject=up_subject(1, "h2"))
        assert await _reports(line) == []
        assert scene.dialer.refused == {"of another host's session": 1}


async def test_who_is_there_and_was_not_is_hailed_again() -> None:
    """A hail is lost when nobody listens. A heartbeat of a host of no session shows that somebody does: the same hail,
    until something is heard on the line."""
    scene = Scene()
    await scene.dialer.start()

    def hails() -> list[BusMessage]:
        said = [decode_bus_message(data) for subject, data in scene.bus.published if subject == down_subject(1, "h1")]
        return [one for one in said if isinstance(one.body, Hail)]

    async def heartbeat(epoch: int) -> None:
        report = encode_heartbeat(Heartbeat("h1", epoch, 1000, ()))
        scene.say(encode_bus_message(BusMessage(0, 0, Piece(report))))
        await asyncio.sleep(0)

    async with scene.dialer.dial(node("h1")) as line:
        await heartbeat(5)  # it is in session with this controller, by another way
        await heartbeat(6)  # or with a newer one
        assert len(hails()) == 1
        await heartbeat(0)
        assert hails() == [BusMessage(scene.session("h1"), 1, Hail(5))] * 2
        scene.say(scene.message(1, ACK))
        await asyncio.sleep(0)
        await heartbeat(0)
        assert len(hails()) == 2
        await line.write(b"x")
        assert await line.read() == ACK.data
    await heartbeat(0)
    assert len(hails()) == 2
