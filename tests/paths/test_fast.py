"""The fast path against agents that do as they are told here: late, wrong, hostile."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from alcor.goalstate.objects import HOST_SCOPE, ScopeUpdate
from alcor.kit import pki
from alcor.kit.backoff import Backoff
from alcor.model.addresses import parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import Node
from alcor.paths.base import Parcel, PathName, Session
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.fast import GrpcDialer
from alcor.paths.ladder import LadderLimits
from alcor.paths.link import (
    CONTROLLER,
    SERVER_OPTIONS,
    CredentialsError,
    load_credentials,
    roles_of,
)
from alcor.paths.session import SessionLimits
from alcor.wire.codec import METHOD, SERVICE, BundleHead, Part, decode_bundle, decode_scopes, encode_part
from alcor.wire.lookups import Lookup
from alcor.wire.reports import Ack, Heartbeat, Hello, encode_ack, encode_hello

V = Id(b"v" * 16)
PATIENCE_S = 20.0
EMPTY = Part(b"")
EAGER = LadderLimits(backoff=Backoff(first_s=0.001, cap_s=0.01))
Behaviour = Callable[["Script"], Awaitable[None]]


class Script:
    """What a scripted agent can do with one stream."""

    def __init__(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._context = context

    async def hello(self, host: str = "host-a") -> None:
        await self._context.write(encode_hello(Hello(host, 1, ())))

    async def read_raw(self) -> bytes | None:
        data: object = await self._context.read()
        return data if isinstance(data, bytes) else None

    async def read(self) -> BundleHead | None:
        data = await self.read_raw()
        return decode_bundle(data)[0] if data is not None else None

    async def ack(self, sequence: int, error: str = "") -> None:
        await self._context.write(encode_ack(Ack(sequence=sequence, error=error)))

    async def raw(self, data: bytes) -> None:
        await self._context.write(data)

    async def forever(self) -> None:
        while (head := await self.read()) is not None:
            await self.ack(head.sequence)


class Recorder:
    """Hears what the path tells, and answers every Hello with nothing."""

    def __init__(self) -> None:
        self.path: Delivery | None = None
        self.heard_of: list[tuple[str, object]] = []
        self.news = asyncio.Event()
        self.answer: tuple[Parcel, ...] | None = ()

    def _hear(self, what: str, detail: object) -> None:
        self.heard_of.append((what, detail))
        self.news.set()

    def greeted(self, session: Session, hello: Hello) -> None:
        if self.path is not None and self.answer is not None:
            self.path.begin(session, self.answer)
        self._hear("greeted", session)

    def acknowledged(self, session: Session, ack: Ack) -> None:
        self._hear("acknowledged", ack.sequence)

    def heard(self, host: str, path: PathName, heartbeat: Heartbeat) -> None:
        self._hear("heard", (host, path))

    def asked(self, session: Session, lookup: Lookup) -> None:
        self._hear("asked", lookup)

    def overflowed(self, session: Session, scopes: frozenset[Id]) -> None:
        self._hear("overflowed", scopes)

    def refused(self, session: Session, reason: str, attempts: int) -> None:
        self._hear("refused", (reason, attempts))

    def of(self, what: str) -> list[object]:
        return [detail for kind, detail in self.heard_of if kind == what]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                self.news.clear()
                await self.news.wait()


class Stage:
    """A path, what it tells, and a scripted agent behind real TLS."""

    def __init__(self, directory: Path) -> None:
        self.events = Recorder()
        self.behaviours: list[Behaviour] = []
        self.streams = 0
        self._directory = directory
        pki.make_ca(directory / "ca")
        pki.issue(directory / "ca", directory / "tls", "controller-1", role=CONTROLLER)
        pki.issue(directory / "ca", directory / "agent", "host-a", role="agent")

    async def start(self, *behaviours: Behaviour, limits: DeliveryLimits | None = None) -> None:
        """The first stream gets the first behaviour, and so on; further streams the last."""
        self.behaviours = list(behaviours)
        await self.listen(0)
        credentials = load_credentials(self._directory / "tls", CONTROLLER)
        self.path = Delivery(
            partition=1,
            epoch=1,
            dialers={PathName.FAST: GrpcDialer(partition=1, epoch=1, credentials=credentials)},
            events=self.events,
            roll=random.random,
            limits=limits or DeliveryLimits(ladder=EAGER),
        )
        self.events.path = self.path
        self.task = asyncio.create_task(self.path.run())
        self.path.connect(self.node())

    async def listen(self, port: int) -> None:
        """The agent, at that port or the kernel's choice."""
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._serve)
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})])
        of_server = load_credentials(self._directory / "agent", "agent").for_server()
        self.port = self.server.add_secure_port(f"127.0.0.1:{port}", of_server)
        await self.server.start()

    def node(self) -> Node:
        return Node(
            id=Id(bytes(16)),
            name="host-a",
            underlay_ip=parse_ip("172.16.0.1"),
            agent_host="127.0.0.1",
            agent_port=self.port,
            created_at=0,
            updated_at=0,
            revision=1,
        )

    async def _serve(self, _requests: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        behaviour = self.behaviours[min(self.streams, len(self.behaviours) - 1)]
        self.streams += 1
        await behaviour(Script(context))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.server.stop(0)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        await stage.stop()


async def good(script: Script) -> None:
    await script.hello()
    await script.forever()


async def test_a_session_begins_with_a_hello_and_a_synced_bundle(stage: Stage) -> None:
    """Even an empty answer is sent: the agent must learn that it is in sync."""
    heads: list[BundleHead] = []

    async def watch(script: Script) -> None:
        await script.hello()
        while (head := await script.read()) is not None:
            heads.append(head)
            await script.ack(head.sequence)

    await stage.start(watch)
    await stage.events.until(lambda: stage.events.of("acknowledged") == [1])
    assert heads == [BundleHead(partition=1, epoch=1, sequence=1, host="host-a", synced=True)]
    assert stage.path.connected() == ["host-a"]
    assert stage.path.failures() == {}


async def test_what_comes_while_the_window_is_full_leaves_as_one(stage: Stage) -> None:
    """No more than `window` bundles are under way; the rest waits and is bundled."""
    heads: list[BundleHead] = []
    go = asyncio.Event()
    full = asyncio.Event()

    async def slow(script: Script) -> None:
        await script.hello()
        for _ in range(2):
            head = await script.read()
            assert head is not None
            heads.append(head)
            stage.path.offer("host-a", [Parcel(V, EMPTY, False)])
        full.set()
        await go.wait()
        await script.ack(1)
        await script.ack(2)
        while (head := await script.read()) is not None:
            heads.append(head)
            await script.ack(head.sequence)

    await stage.start(slow, limits=DeliveryLimits(session=SessionLimits(window=2), ladder=EAGER))
    await asyncio.wait_for(full.wait(), PATIENCE_S)
    stage.path.offer("host-a", [Parcel(V, EMPTY, False)] * 50)
    go.set()
    await stage.events.until(lambda: stage.events.of("acknowledged") == [1, 2, 3])
    assert [head.sequence for head in heads] == [1, 2, 3]


async def another_name(script: Script) -> None:
    await script.hello("host-b")
    await script.forever()


async def ack_first(script: Script) -> None:
    await script.ack(0)
    await script.forever()


async def wrong_sequence(script: Script) -> None:
    await script.hello()
    await script.read()
    await script.ack(9)
    await script.forever()


async def unasked(script: Script) -> None:
    await script.hello()
    await script.read()
    await script.ack(1)
    await script.ack(2)
    await script.forever()


async def second_hello(script: Script) -> None:
    await script.hello()
    await script.hello()
    await script.forever()


async def noise(script: Script) -> None:
    await script.hello()
    await script.raw(b"\xff\xff\xff")
    await script.forever()


async def hangs_up(script: Script) -> None:
    await script.hello()


async def crashes(script: Script) -> None:
    await script.hello()
    raise RuntimeError("the agent's own mistake")


@pytest.mark.parametrize(
    "behaviour", [another_name, ack_first, wrong_sequence, unasked, second_hello, noise, hangs_up, crashes]
)
async def test_an_agent_that_misbehaves_is_dialled_anew(stage: Stage, behaviour: Behaviour) -> None:
    """The stream ends, nothing is believed, and a stream that behaves is welcome."""
    await stage.start(behaviour, good)
    await stage.events.until(lambda: stage.streams == 2 and 1 in stage.events.of("acknowledged")[-1:])
    await stage.events.until(lambda: stage.path.failures() == {})


async def silent(script: Script) -> None:
    await asyncio.Event().wait()


async def deaf(script: Script) -> None:
    await script.hello()
    await asyncio.Event().wait()


@pytest.mark.parametrize("behaviour", [silent, deaf])
async def test_an_agent_that_says_nothing_is_given_up(stage: Stage, behaviour: Behaviour) -> None:
    """Without a Hello, or without an Ack, in good time."""
    limits = DeliveryLimits(
        session=SessionLimits(ack_s=0.3),
        ladder=LadderLimits(connect_s=0.3, backoff=Backoff(first_s=0.001, cap_s=0.01)),
    )
    await stage.start(behaviour, good, limits=limits)
    await stage.events.until(lambda: stage.events.of("acknowledged") == [1])
    assert stage.streams >= 2


async def test_refusals_are_counted_until_one_sync_succeeds(stage: Stage) -> None:
    """Each ends the stream; the number grows until the host takes all it is sent."""

    async def refuses(script: Script) -> None:
        await script.hello()
        await script.read()
        await script.ack(1, "disk full")
        await script.forever()

    await stage.start(refuses, refuses, good, refuses, refuses)
    await stage.events.until(lambda: stage.streams == 3 and stage.events.of("acknowledged") == [1])
    assert stage.events.of("refused") == [("disk full", 1), ("disk full", 2)]
    (session,) = [one for one in stage.events.of("greeted") if isinstance(one, Session)][-1:]
    stage.path.reset(session, "the test says so")
    await stage.events.until(lambda: len(stage.events.of("refused")) == 4)
    assert stage.events.of("refused")[2:] == [("disk full", 1), ("disk full", 2)]


async def test_words_for_an_earlier_session_do_not_reach_a_later_one(stage: Stage) -> None:
    """An answer to an old Hello is dropped: its reader is gone."""
    stage.events.answer = None
    await stage.start(hangs_up, good)
    await stage.events.until(lambda: len(stage.events.of("greeted")) == 2)
    first, second = stage.events.of("greeted")
    assert isinstance(first, Session)
    assert isinstance(second, Session)
    stage.path.begin(first, [])
    stage.path.reset(first, "long ago")
    assert not stage.path.listening("host-a")
    stage.path.begin(second, [Parcel(HOST_SCOPE, EMPTY, True)])
    assert stage.path.listening("host-a")
    await stage.events.until(lambda: stage.events.of("acknowledged") == [1])


async def test_a_forgotten_host_is_left_alone(stage: Stage) -> None:
    """Disconnecting ends the stream; offers to it are dropped; connecting again starts over."""
    await stage.start(good)
    await stage.events.until(lambda: stage.events.of("acknowledged") == [1])
    stage.path.connect(stage.node())
    assert stage.path.connected() == ["host-a"]
    stage.path.disconnect("host-a")
    stage.path.disconnect("host-a")
    stage.path.offer("host-a", [Parcel(V, EMPTY, False)])
    stage.path.withdraw("host-a", V)
    assert (stage.path.connected(), stage.path.listening("host-a")) == ([], False)
    stage.path.connect(stage.node())
    await stage.events.until(lambda: stage.events.of("acknowledged") == [1, 1])


async def test_a_host_that_is_not_there_costs_no_channel(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a first dial that failed it is only knocked at; once somebody listens again it is in session."""
    channels, real = 0, GrpcDialer.channel

    def count(dialer: GrpcDialer, target: str, name: str) -> grpc.aio.Channel:
        nonlocal channels
        channels += 1
        return real(dialer, target, name)

    monkeypatch.setattr(GrpcDialer, "channel", count)
    await stage.start(good)
    await stage.events.until(lambda: stage.path.failures() == {} and stage.path.connected() == ["host-a"])
    await stage.server.stop(0)
    async with asyncio.timeout(PATIENCE_S):
        while stage.path.failures().get("host-a", 0) < 6:
            await asyncio.sleep(0.01)
    assert channels <= 3  # the session's, one that failed, and one that was under way as the server stopped
    await stage.listen(stage.port)
    await stage.events.until(lambda: len(stage.events.of("greeted")) == 2)
    assert stage.path.connected() == ["host-a"]


def test_roles_are_read_from_spiffe_ids() -> None:
    """Only from them: a DNS name that looks like a role is none."""
    names = {
        "x509_subject_alternative_name": [b"controller", b"spiffe://alcor/agent/host-a", b"https://alcor/controller/x"]
    }
    assert roles_of(names) == {"agent"}
    assert roles_of({}) == frozenset()


def test_missing_certificates_say_which(tmp_path: Path) -> None:
    """The file, the reason, and what makes one."""
    with pytest.raises(CredentialsError, match=r"ca\.pem: No such file.*alcor pki"):
        load_credentials(tmp_path, CONTROLLER)


def test_credentials_do_not_show_their_key(tmp_path: Path) -> None:
    """A record that is logged by accident tells nothing."""
    pki.make_ca(tmp_path)
    pki.issue(tmp_path, tmp_path, "host-a", role="agent")
    assert repr(load_credentials(tmp_path, "agent")) == "Credentials(...)"


async def test_news_of_a_vpc_waits_for_something_urgent(stage: Stage) -> None:
    """It lingers, whatever is acknowledged meanwhile, and leaves with the host's own news."""
    vpc = ScopeUpdate(scope=V, revision=1, snapshot=False, objects=())
    own = ScopeUpdate(scope=HOST_SCOPE, revision=1, snapshot=False, objects=())
    bundles: list[tuple[ScopeUpdate, ...]] = []

    async def watch(context: Script) -> None:
        await context.hello()
        while (data := await context.read_raw()) is not None:
            head, scopes = decode_bundle(data)
            bundles.append(decode_scopes(scopes))
            stage.path.offer("host-a", [Parcel(V, encode_part(vpc), False)])
            await context.ack(head.sequence)

    await stage.start(watch, limits=DeliveryLimits(session=SessionLimits(linger_s=3600.0)))
    for sequence in (1, 2, 3):
        await stage.events.until(lambda: len(stage.events.of("acknowledged")) == sequence)  # noqa: B023
        stage.path.offer("host-a", [Parcel(HOST_SCOPE, encode_part(own), False)])
    await stage.events.until(lambda: len(stage.events.of("acknowledged")) == 4)
    assert bundles == [(), (own, vpc), (own, vpc), (own, vpc)]
