"""What a host must not take, on each of the three lines, from a controller or a peer that lies: refused, and counted.

The agent, its TLS, its bus and the peer that relays are real; the controller is whoever holds its certificate and says
what a test has it say.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace
from tests.bus.servers import open_server
from tests.goalstate.histories import network_id, play
from tests.goalstate.test_delta import of, whole
from tests.loops.region import PATIENCE_S, Region, connect
from tests.paths.wires import node

from alcor.agent import relay
from alcor.agent.core import Agent
from alcor.goalstate.objects import ScopeUpdate
from alcor.goalstate.snapshot import host_snapshot
from alcor.model.ids import Id
from alcor.model.nouns import Node
from alcor.paths import fast
from alcor.paths.base import Dialer, Line, LineEnded, PathName
from alcor.paths.fast import GrpcDialer
from alcor.paths.link import CONTROLLER, client_options, load_credentials
from alcor.paths.normal import NormalDialer
from alcor.paths.rescue import RescueDialer
from alcor.wire.codec import MAX_MESSAGE_BYTES, BundleHead, encode_bundle, encode_part
from alcor.wire.frames import MAX_CHUNK_BYTES, decode_chunk, encode_chunk
from alcor.wire.lookups import Answer, encode_answers
from alcor.wire.probes import Peers, encode_peers
from alcor.wire.reports import Ack, Hello, decode_report

FAST, NORMAL, RESCUE = PathName.FAST, PathName.NORMAL, PathName.RESCUE
EPOCH = 5
VPC = network_id(0)
FIRST, SECOND = play([[("port", 0, 0, 0), ("port", 2, 0, 1)], [("port", 4, 0, 2)]])
ROWS = FIRST.after
HEAD = BundleHead(partition=1, epoch=EPOCH, sequence=1, host="a", synced=True)
NEXT = replace(HEAD, sequence=2)
NEWS = (of(SECOND).hosts["a"], replace(of(SECOND).vpcs[VPC], previous=ROWS.revision))
"""A port more: what every lie would bring."""
ANSWERS = (Answer(VPC, SECOND.after.revision),)


def bundle(head: BundleHead, *updates: ScopeUpdate) -> bytes:
    return encode_bundle(head, [encode_part(update) for update in updates])


WHOLE = bundle(HEAD, host_snapshot(ROWS.revision, ROWS.of_host("a")), whole(ROWS, VPC))
"""What the host is sent first."""


class Scene:
    """Host `a`, host `b` beside it, a bus; and lines to `a` of a controller that is not there."""

    def __init__(self, directory: Path) -> None:
        self.region = Region(directory)
        self.server = open_server(directory / "nats")

    async def start(self) -> None:
        await self.server.start()
        self.region.bus_url = self.server.url
        self.host, self.peer = self.region.make_host("a"), self.region.make_host("b")
        for host in (self.host, self.peer):
            await host.start()
        self.nodes = [
            node(host.name, port=host.port, host=host.address, underlay=host.address) for host in (self.host, self.peer)
        ]

    async def stop(self) -> None:
        await self.region.close()
        await self.server.stop()

    @property
    def agent(self) -> Agent:
        assert self.host.agent is not None
        return self.host.agent

    @asynccontextmanager
    async def line(self, path: PathName, epoch: int = EPOCH) -> AsyncIterator[Line]:
        """A controller's line that way."""
        credentials = load_credentials(self.region.directory / "tls", CONTROLLER)
        direct = GrpcDialer(partition=1, epoch=epoch, credentials=credentials)
        bus = connect(self.server.url, "controller")
        assert await bus.started(PATIENCE_S)
        normal = NormalDialer(partition=1, epoch=epoch, bus=bus, heard=lambda *_: None, roll=random.random)
        await normal.start()

        def healthy() -> list[Node]:
            return self.nodes[1:]

        dialers: dict[PathName, Dialer] = {
            FAST: direct,
            NORMAL: normal,
            RESCUE: RescueDialer(dialer=direct, healthy=healthy, roll=random.random),
        }
        try:
            async with dialers[path].dial(self.nodes[0]) as line:
                yield line
        finally:
            await normal.stop()
            await bus.close()

    @asynccontextmanager
    async def session(self, path: PathName) -> AsyncIterator[Line]:
        """A line over which the host was sent everything, and took it."""
        async with self.line(path) as line:
            assert isinstance(decode_report(await line.read()), Hello)
            await line.write(WHOLE)
            assert await self.answer(line) == ""
            yield line

    async def answer(self, line: Line) -> str:
        """Of the next Ack the error, or why the line has ended."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    report = decode_report(await line.read())
                    if isinstance(report, Ack) and report.sequence:
                        return report.error
            except LineEnded as ended:
                return str(ended)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                await asyncio.sleep(0.005)

    async def carried(self) -> tuple[object, ...]:
        """All that the host holds and carries."""
        held = await self.agent._ask(self.agent._reconciler.held)
        return held, dict(self.host.tables.ports), dict(self.host.tables.endpoints)

    async def refused(self) -> dict[str, int]:
        """What was refused, by kind, but for none."""
        return {kind: count for kind, count in (await self.agent.status()).refused.items() if count}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    try:
        await scene.start()
        yield scene
    finally:
        await scene.stop()


class Lie(NamedTuple):
    """What is said, and the host's word on it."""

    data: bytes
    reason: str
    counted: str = "bundles"


LIES = {
    "noise": Lie(b"\xff\xff", "bundle: not a protobuf message"),
    "truncated": Lie(bundle(NEXT, *NEWS)[:-1], "not a protobuf message"),
    "a bad field": Lie(
        bundle(NEXT, *NEWS, ScopeUpdate(scope=Id(b"short"), revision=9, snapshot=True, objects=())),
        "scopes[2].scope: 5 bytes, an id has 16",
    ),
    "another partition's": Lie(bundle(replace(NEXT, partition=2), *NEWS), "bundle.partition: 2, its stream is"),
    "an older epoch's": Lie(bundle(replace(NEXT, epoch=4), *NEWS), "epoch 4 is older than 5"),
    "a newer epoch's": Lie(bundle(replace(NEXT, epoch=6), *NEWS), "bundle.epoch: 6, its stream's is 5"),
    "another host's": Lie(bundle(replace(NEXT, host="b"), *NEWS), "it is for host 'b', this is 'a'"),
    "replayed": Lie(WHOLE, "bundle.sequence: 1, 2 is due"),
    "one is missing": Lie(bundle(replace(NEXT, sequence=3), *NEWS), "bundle.sequence: 3, 2 is due"),
    "another host's peers": Lie(encode_peers(Peers(1, EPOCH, "b", 1000, ())), "bundle.peers: for host 'b'"),
    "another host's answers": Lie(encode_answers(1, EPOCH, "b", ANSWERS), "bundle.answers: for host 'b'"),
    "truncated answers": Lie(encode_answers(1, EPOCH, "a", ANSWERS)[:-1], "not a protobuf message"),
}


@pytest.mark.parametrize("path", [FAST, NORMAL, RESCUE])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_what_a_controller_must_not_say(scene: Scene, path: PathName, lie: Lie) -> None:
    """The reason is named, it is counted once, and the host is as it was; the same, said as it should be, is taken."""
    async with scene.session(path) as line:
        before = await scene.carried()
        await line.write(lie.data)
        assert lie.reason in await scene.answer(line)
        assert await scene.refused() == {lie.counted: 1}
        assert await scene.carried() == before
    async with scene.session(path) as line:
        await line.write(bundle(NEXT, *NEWS))
        assert await scene.answer(line) == ""
        assert await scene.carried() != before


@pytest.mark.parametrize("present_path", [FAST, NORMAL])
@pytest.mark.parametrize("path", [FAST, NORMAL, RESCUE])
async def test_a_controller_that_was_taken_over_from(scene: Scene, path: PathName, present_path: PathName) -> None:
    """An older epoch gets no session, whatever line it comes by, and does not end the present one."""
    async with scene.session(present_path) as present:
        before = await scene.carried()
        with pytest.raises(LineEnded, match="epoch 4 is older than 5: another controller has taken over"):
            async with scene.line(path, epoch=4) as line:
                await line.read()
        # Of two on the bus the host's end of it knows both.
        assert await scene.refused() == {"messages" if path is present_path is NORMAL else "streams": 1}
        assert await scene.carried() == before
        await present.write(bundle(NEXT, *NEWS))
        assert await scene.answer(present) == ""


@pytest.mark.parametrize(
    ("path", "reason", "counted"),
    [
        # By gRPC, before the agent hears of it; the second is what grpc.aio makes of it when a write was under way.
        (FAST, "RESOURCE_EXHAUSTED|INTERNAL", {}),
        (NORMAL, f"a bundle of more than {MAX_MESSAGE_BYTES} bytes", {"messages": 1}),
        (RESCUE, "RESOURCE_EXHAUSTED|INTERNAL", {}),
    ],
)
async def test_a_message_that_is_too_large(
    scene: Scene, path: PathName, reason: str, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 64 MiB, whole or in pieces, ends the line; the host is there for the next one."""
    monkeypatch.setattr(
        fast, "client_options", lambda name: [*client_options(name), ("grpc.max_send_message_length", -1)]
    )
    async with scene.session(path) as line:
        before = await scene.carried()
        with suppress(LineEnded):
            await line.write(bytes(MAX_MESSAGE_BYTES + 1))
        assert re.search(reason, await scene.answer(line))
    assert await scene.refused() == counted
    assert await scene.carried() == before
    async with scene.session(path):
        pass


def _altered(said: list[bytes]) -> bytes:
    data = bytearray(said[-1])  # of the first record in it: behind that, some may be whole
    data[min(5, len(data) - 1)] ^= 1
    return bytes(data)


def _replayed(said: list[bytes]) -> bytes:
    return said[-2]


def _cut(said: list[bytes]) -> bytes:
    return said[-1][1:]


class Meddler:
    """A peer that does something to the bytes that it carries, from when it is told to. `said`: what went before it."""

    def __init__(self, what: Callable[[list[bytes]], bytes]) -> None:
        self._what = what
        self._said: list[bytes] = []
        self.lies = False

    def __call__(self, data: bytes) -> bytes:
        self._said.append(data)
        return self._what(self._said) if self.lies else data


MEDDLING = pytest.mark.parametrize("meddle", [_altered, _replayed, _cut])
TLS_BROKE = {"UNAVAILABLE", "UNKNOWN"}
"""What gRPC makes of it."""


@MEDDLING
async def test_a_peer_that_changes_what_it_carries_down(
    scene: Scene, meddle: Callable[[list[bytes]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes altered, said again instead of others, or left out, on their way to the host: TLS ends the line, and
    nothing of it is taken."""
    meddler = Meddler(meddle)
    monkeypatch.setattr(relay, "decode_chunk", lambda data: meddler(decode_chunk(data)))
    async with scene.session(RESCUE) as line:
        before = await scene.carried()
        meddler.lies = True
        for sequence in (2, 3):  # what was cut shows at what follows
            with suppress(LineEnded):
                await line.write(bundle(replace(NEXT, sequence=sequence), *NEWS))
        assert (await scene.answer(line)).partition(":")[0] in TLS_BROKE
        assert await scene.carried() == before


@MEDDLING
async def test_a_peer_that_changes_what_it_carries_up(
    scene: Scene, meddle: Callable[[list[bytes]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on the way back: no acknowledgement is believed, and the line ends."""
    meddler = Meddler(meddle)
    monkeypatch.setattr(relay, "encode_chunk", lambda data: encode_chunk(meddler(data)))
    async with scene.session(RESCUE) as line:
        meddler.lies = True
        await line.write(bundle(NEXT, *NEWS))
        assert (await scene.answer(line)).partition(":")[0] in TLS_BROKE


async def test_a_peer_that_says_too_much_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk beyond 1 MiB ends the line, and the reason names it."""
    async with scene.session(RESCUE) as line:
        monkeypatch.setattr(relay, "encode_chunk", lambda data: encode_chunk(data.ljust(MAX_CHUNK_BYTES + 1)))
        await line.write(bundle(NEXT, *NEWS))
        assert f"chunk.data: {MAX_CHUNK_BYTES + 1} bytes" in await scene.answer(line)
