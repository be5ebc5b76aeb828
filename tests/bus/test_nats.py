"""The bus on real nats-servers: it carries, reconnects, survives a node of a cluster, and keeps hosts apart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from msgspec import structs
from tests.bus.servers import (
    client,
    connection,
    end_for_good,
    free_port,
    guarded_cluster,
    guarded_server,
    make_region,
    open_server,
)

from alcor.bus import credentials
from alcor.bus.base import BusError, down_subject, news_subject, up_subject, word
from alcor.bus.embedded import EmbeddedBus, EmbeddedOptions, configuration
from alcor.bus.nats import NatsBus, NatsOptions, options_of
from alcor.bus.tls import client_context

VPC = bytes(range(16))


class Inbox:
    """A handler that keeps what came."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._came = asyncio.Event()

    def __call__(self, subject: str, data: bytes) -> None:
        self.messages.append((subject, data))
        self._came.set()

    async def wait(self, count: int) -> list[tuple[str, bytes]]:
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self._came.clear()
                await self._came.wait()
        return self.messages


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedBus]:
    bus = open_server(tmp_path / "nats")
    await bus.start()
    yield bus
    await bus.stop()


def test_words_are_one_to_one() -> None:
    """Every name has a word of its own, and it is safe in a subject."""
    names = ["host-1", "rack.1.host", "*", ">", "a b", "=61", "a", "ä", ""]
    words = [word(name) for name in names]
    assert words[:1] == ["host-1"]
    assert len(set(words)) == len(names)
    assert all(not set(one) & set(".*> ") and one for one in words)


async def test_what_is_published_arrives_in_order(server: EmbeddedBus) -> None:
    """All of it, to everybody who asked, before and after it is there."""
    inboxes = Inbox(), Inbox()
    async with connection(server.url) as publisher, connection(server.url) as one, connection(server.url) as other:
        await one.subscribe(up_subject(1, "*"), inboxes[0])
        await other.subscribe(up_subject(1, "h.1"), inboxes[1])
        sent = [(up_subject(1, "h.1"), str(number).encode()) for number in range(1000)]
        assert all(publisher.publish(*message) for message in sent)
        for inbox in inboxes:
            assert await inbox.wait(1000) == sent


async def test_a_client_may_end_before_it_begins(server: EmbeddedBus) -> None:
    """As when something else of its process could not start: that is what is to be heard of."""
    bus = NatsBus(NatsOptions(servers=[server.url], name="brief"))
    bus.start()
    await bus.close()
    assert not bus.connected


async def test_a_cancelled_subscription_is_silent(server: EmbeddedBus) -> None:
    """And cancelling twice is fine."""
    quiet, still = Inbox(), Inbox()
    async with connection(server.url) as publisher, connection(server.url) as reader:
        subscription = await reader.subscribe("a.b", quiet)
        await subscription.cancel()
        await subscription.cancel()
        await reader.subscribe("a.b", still)
        publisher.publish("a.b", b"x")
        assert await still.wait(1) == [("a.b", b"x")]
        assert quiet.messages == []


async def test_too_large_is_refused_here(server: EmbeddedBus) -> None:
    """A message beyond what the bus carries is not sent, and the connection lives on."""
    inbox = Inbox()
    async with connection(server.url) as bus, connection(server.url) as reader:
        await reader.subscribe("a", inbox)
        assert bus.max_payload == 8 << 20
        assert not bus.publish("a", bytes(bus.max_payload + 1))
        assert bus.publish("a", bytes(bus.max_payload))
        assert len((await inbox.wait(1))[0][1]) == bus.max_payload


async def test_a_killed_server_comes_back_and_so_do_subscriptions(server: EmbeddedBus) -> None:
    """The embedded server is started again; clients notice both, drop what they are told meanwhile, and go on."""
    inbox, states = Inbox(), []
    changed = asyncio.Event()

    def state(up: bool) -> None:
        states.append(up)
        changed.set()

    async with connection(server.url) as reader, connection(server.url) as publisher:
        reader.on_state(state)
        await reader.subscribe("a", inbox)
        before = server.pid
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(10):
            while states != [False, True] or not publisher.connected:
                changed.clear()
                await asyncio.wait_for(changed.wait(), 10) if states != [False, True] else await asyncio.sleep(0.01)
        assert server.pid not in (0, before)
        publisher.publish("a", b"again")
        assert await inbox.wait(1) == [("a", b"again")]


async def test_a_client_waits_for_its_server(tmp_path: Path) -> None:
    """Started before there is a server, it says that nothing goes out; then it connects by itself."""
    inbox = Inbox()
    server = open_server(tmp_path)
    early = NatsBus(NatsOptions(servers=[server.url], name="early", reconnect_s=0.05))
    early.start()
    try:
        await early.subscribe("a", inbox)
        assert not await early.started(0.1)
        assert not early.publish("a", b"lost")
        await server.start()
        assert await early.started(5)
        async with connection(server.url) as publisher:
            publisher.publish("a", b"kept")
            assert await inbox.wait(1) == [("a", b"kept")]
    finally:
        await early.close()
        await server.stop()


async def test_a_cluster_of_two_survives_one(tmp_path: Path) -> None:
    """A node is killed (SIGKILL): clients of it go to the other, and everything published after that arrives."""
    ports = free_port(), free_port()
    nodes = [
        open_server(tmp_path / "one", cluster=ports[0], routes=[ports[1]]),
        open_server(tmp_path / "two", cluster=ports[1], routes=[ports[0]]),
    ]
    for node in nodes:
        await node.start()
    inbox = Inbox()
    try:
        async with connection(nodes[1].url) as publisher, connection(nodes[0].url, nodes[1].url) as reader:
            await reader.subscribe("a", inbox)
            async with asyncio.timeout(10):
                while not inbox.messages:  # the route between them takes a moment
                    publisher.publish("a", b"first")
                    await asyncio.sleep(0.05)
            gone = asyncio.Event()
            back = asyncio.Event()
            reader.on_state(lambda up: (back if up else gone).set())
            await end_for_good(nodes[0])
            if reader._client.connected_url is None or not publisher.connected:
                await asyncio.wait_for(gone.wait(), 5)
            async with asyncio.timeout(10):
                while ("a", b"after") not in inbox.messages:
                    publisher.publish("a", b"after")
                    await asyncio.sleep(0.05)
    finally:
        for node in nodes:
            await node.stop()


async def test_hosts_reach_their_own_subjects_only(tmp_path: Path) -> None:
    """What a host may do is in its credentials: it hears and says what is its own, and nothing of another's."""
    make_region(tmp_path, "h1", "h.2")
    server = guarded_server(tmp_path)
    await server.start()
    buses = [
        client(tmp_path, server.url, *who) for who in (("controller", "controller"), ("h1", "agent"), ("h.2", "agent"))
    ]
    controller, one, two = buses
    try:
        for bus in buses:
            bus.start()
            assert await bus.started(5), "it is let in"
        up, down, news = Inbox(), Inbox(), Inbox()
        await controller.subscribe(up_subject(1, "*"), up)
        await two.subscribe(down_subject(1, "h.2"), down)
        await two.subscribe(news_subject(1, VPC), news)
        controller.publish(down_subject(1, "h.2"), b"down")
        controller.publish(news_subject(1, VPC), b"news")
        two.publish(up_subject(1, "h.2"), b"up")
        assert await down.wait(1) == [(down_subject(1, "h.2"), b"down")]
        assert await news.wait(1) == [(news_subject(1, VPC), b"news")]
        assert await up.wait(1) == [(up_subject(1, "h.2"), b"up")]

        for subject in (down_subject(1, "h.2"), "alcor.1.down.*", "alcor.1.up.*", ">", "alcor.>"):
            with pytest.raises(BusError, match="does not let h1 subscribe"):
                await one.subscribe(subject, Inbox())
        one.publish(up_subject(1, "h.2"), b"forged")
        one.publish(down_subject(1, "h.2"), b"forged")
        one.publish(news_subject(1, VPC), b"forged")
        await one.subscribe(down_subject(1, "h1"), Inbox())  # in order behind them, and answered
        assert one.violations == 8
        controller.publish(down_subject(1, "h.2"), b"last")
        assert await down.wait(2) == [(down_subject(1, "h.2"), b"down"), (down_subject(1, "h.2"), b"last")]
        assert (len(up.messages), len(news.messages)) == (1, 1)
    finally:
        for bus in buses:
            await bus.close()
        await server.stop()


async def test_strangers_are_not_let_in(tmp_path: Path) -> None:
    """Without credentials, with another authority's, or with a certificate of another CA: no connection."""
    make_region(tmp_path / "ours", "h1")
    make_region(tmp_path / "theirs", "h1")
    ours, theirs = tmp_path / "ours" / "h1", tmp_path / "theirs" / "h1"
    server = guarded_server(tmp_path / "ours")
    await server.start()
    url, tls = [server.url], client_context(ours, "agent")
    other = client_context(theirs, "agent")
    strangers = [
        NatsOptions(servers=url, name="no credentials", tls=tls),
        NatsOptions(servers=url, name="credentials of another region", tls=tls, credentials=theirs / "bus.creds"),
        NatsOptions(servers=url, name="certificate of another region", tls=other, credentials=ours / "bus.creds"),
    ]
    try:
        for options in strangers:
            bus = NatsBus(options)
            bus.start()
            assert not await bus.started(0.5), options.name
            await bus.close()
    finally:
        await server.stop()


@pytest.mark.parametrize("asks", [True, False])
async def test_who_asks_for_tls_says_nothing_without(tmp_path: Path, *, asks: bool) -> None:
    """TLS begins when the server says in clear that it speaks it; who is between and leaves that out hears nothing.
    Who does not ask for it says its name there."""
    make_region(tmp_path, "h1")
    heard = bytearray()
    hung_up = asyncio.Event()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"X","version":"2.10.0","max_payload":1048576,"headers":true}\r\n')
        with suppress(OSError):
            while data := await reader.read(4096):
                heard.extend(data)
                if b"CONNECT" in heard:
                    break
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(between, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tls = client_context(tmp_path / "h1", "agent") if asks else None
    bus = NatsBus(NatsOptions(servers=[f"nats://127.0.0.1:{port}"], name="h1", tls=tls))
    bus.start()
    try:
        await asyncio.wait_for(hung_up.wait(), 20)
        assert (b"h1" in heard) is not asks
        assert bool(heard) is not asks
    finally:
        await bus.close()
        server.close()


async def test_a_host_is_no_server_of_the_cluster(tmp_path: Path) -> None:
    """Such a server may say anything in anybody's name: the certificate that clients show is not enough for it."""
    make_region(tmp_path, "h1")
    node, other = guarded_cluster(tmp_path)
    liar = structs.replace(other._options, cluster_tls_dir=tmp_path / "h1", tls_role="agent", tls_dir=None)
    forged, log = EmbeddedBus(liar), node._options.directory / "nats.log"
    await node.start()
    try:
        await forged.start()
        async with asyncio.timeout(20):
            while "TLS route handshake error" not in log.read_text():
                await asyncio.sleep(0.01)
    finally:
        await forged.stop()
        await node.stop()


def test_servers_of_a_cluster_ask_each_other_too(tmp_path: Path) -> None:
    """Credentials for clients and none for servers would be a back door."""
    make_region(tmp_path)
    trust = credentials.trust(tmp_path / "ca")
    with pytest.raises(BusError, match="cluster_tls_dir"):
        configuration(EmbeddedOptions(directory=tmp_path, trust=trust, cluster="127.0.0.1:6222"))


@pytest.mark.parametrize(
    ("addresses", "servers", "guarded"),
    [
        ("", [], False),
        ("nats://a:1", ["nats://a:1"], False),
        ("nats://a, b:2,c", ["nats://a", "nats://b:2", "nats://c"], False),
        ("tls://a:1,b:2,", ["tls://a:1", "tls://b:2"], True),
        ("nats://a,tls://b", ["nats://a", "tls://b"], True),
        ("a:1", ["nats://a:1"], False),
    ],
)
def test_addresses_of_a_cluster(tmp_path: Path, addresses: str, servers: list[str], guarded: bool) -> None:
    """One without a scheme has that of the one before; one with TLS asks it of all."""
    make_region(tmp_path, "h1")
    options = options_of(addresses, "h1", tmp_path / "h1", "agent")
    assert options.servers == servers
    assert (options.tls is not None) is guarded
    assert options.credentials == tmp_path / "h1" / "bus.creds"


async def test_a_port_that_is_taken_is_said(server: EmbeddedBus, tmp_path: Path) -> None:
    """The error has the server's own reason, and where to read more."""
    port = int(server.url.rpartition(":")[2])
    second = EmbeddedBus(EmbeddedOptions(directory=tmp_path / "second", port=port))
    with pytest.raises(BusError, match="did not start"):
        await second.start()


def test_an_open_bus_stays_on_loopback(tmp_path: Path) -> None:
    """Without credentials nobody else may reach it."""
    with pytest.raises(BusError, match="loopback only"):
        configuration(EmbeddedOptions(directory=tmp_path, host="0.0.0.0"))


def test_who_is_cut_off_in_the_middle_of_a_word_speaks_again(tmp_path: Path) -> None:
    """Clients that say much while their server is killed, several times, all hear and are heard in the end, on the
    event loop of the real programs, too: uvloop has errors of its own for a socket that is closed."""

    async def clients() -> None:
        server = open_server(tmp_path)
        await server.start()
        inbox, over = Inbox(), asyncio.Event()
        buses = [NatsBus(NatsOptions(servers=[server.url], name=f"{n}", reconnect_s=0.02)) for n in range(20)]

        async def talk(bus: NatsBus) -> None:
            while not over.is_set():
                for _ in range(50):
                    bus.publish("noise", bytes(2000))
                await asyncio.sleep(0.001)

        for number, bus in enumerate(buses):
            bus.start()
            assert await bus.started(5)
            await bus.subscribe(f"to.{number}", inbox)
        talking = [asyncio.create_task(talk(bus)) for bus in buses]
        try:
            for _ in range(6):
                await asyncio.sleep(0.2)
                while not (pid := server.pid):
                    await asyncio.sleep(0.01)
                os.kill(pid, signal.SIGKILL)
            over.set()
            await asyncio.gather(*talking)
            for bus in buses:
                assert await bus.started(10)
            for number, bus in enumerate(buses):
                bus.publish(f"to.{(number + 1) % len(buses)}", b"%d" % number)
            assert {data for _, data in await inbox.wait(len(buses))} == {b"%d" % one for one in range(len(buses))}
        finally:
            over.set()
            for bus in buses:
                await bus.close()
            await server.stop()

    uvloop.run(clients())


class Moody:
    """A server of NATS' protocol (INFO, CONNECT, PING) that says to its first client what nats-py does not expect."""

    def __init__(self, *, word: bytes = b"", silent_s: float = 0.0) -> None:
        self.word, self.silent_s = word, silent_s
        """Said after the first subscription; and how late its PINGs are answered from then on."""
        self.clients = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        self._writers.append(writer)
        first, late_s = self.clients == 1, 0.0
        writer.write(b'INFO {"max_payload": 1048576}\r\n')
        with suppress(OSError):
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    await asyncio.sleep(late_s)
                    writer.write(b"PONG\r\n")
                elif line.startswith(b"SUB"):
                    _, subject, number = line.split()
                    if first:
                        late_s = self.silent_s
                        writer.write(self.word)
                    writer.write(b"MSG %s %s 2\r\nhi\r\n" % (subject, number))


async def test_a_client_that_is_given_up_is_made_anew() -> None:
    """The server says an error of which nats-py closes the client for good; the bus comes back, and is told of its
    subscriptions again."""
    inbox, moody = Inbox(), Moody(word=b"-ERR 'Out Of Sorts'\r\n")
    states: list[bool] = []
    async with moody as url:
        bus = NatsBus(NatsOptions(servers=[url], name="patient", reconnect_s=0.02))
        bus.on_state(states.append)
        bus.start()
        try:
            assert await bus.started(5)
            await bus.subscribe("a", inbox)
            async with asyncio.timeout(5):
                while states != [True, False, True]:
                    await asyncio.sleep(0.01)
            assert {("a", b"hi")} == set(await inbox.wait(1))
            assert moody.clients == 2
        finally:
            await bus.close()


async def test_a_late_answer_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription that was not confirmed in time is one; the late confirmation does not end the reading."""
    monkeypatch.setattr("alcor.bus.nats.FLUSH_S", 0.05)
    inbox, moody = Inbox(), Moody(silent_s=0.2)
    async with moody as url:
        bus = NatsBus(NatsOptions(servers=[url], name="hasty", reconnect_s=0.02))
        bus.start()
        try:
            assert await bus.started(5)
            for subject in ("a", "b", "c"):
                await bus.subscribe(subject, inbox)
                await asyncio.sleep(0.3)
            assert {"a", "b", "c"} == {subject for subject, _ in await inbox.wait(3)}
            assert bus.connected
            assert moody.clients == 1
        finally:
            await bus.close()


async def test_a_client_that_hears_nothing_is_made_anew(server: EmbeddedBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py's reading has ended, and it says that it is connected."""
    monkeypatch.setattr("alcor.bus.nats.WATCH_S", 0.2)
    inbox = Inbox()
    states: list[bool] = []
    async with connection(server.url) as deaf, connection(server.url) as publisher:
        deaf.on_state(states.append)
        await deaf.subscribe("a", inbox)
        for task in (deaf._client._reading_task, deaf._client._ping_interval_task):
            assert task is not None
            task.cancel()
        async with asyncio.timeout(5):
            while states != [False, True]:
                await asyncio.sleep(0.01)
        publisher.publish("a", b"again")
        assert ("a", b"again") in await inbox.wait(1)
