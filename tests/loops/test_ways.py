"""The three ways to a host, for real: agents over TLS, a nats-server, relays by peers; and what is lost when one ends.

The management network of a host is a small TCP proxy here: the address that the controller dials. It can be cut, and
can be a hole that takes connections and answers nothing; the underlay, where peers reach the host, stays.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.bus.servers import open_server
from tests.loops.region import Host, Region, connect

from alcor.agent.feeds import FeedKey
from alcor.agent.relay import Relay
from alcor.bus.base import down_subject, news_subject, up_subject
from alcor.bus.embedded import EmbeddedBus
from alcor.goalstate.objects import EndpointGoal, ScopeUpdate
from alcor.model.addresses import parse_ip
from alcor.model.nouns import PortStatus
from alcor.paths.base import PathName
from alcor.paths.news import PATIENCE_S
from alcor.paths.normal import NormalDialer
from alcor.paths.session import Conversation
from alcor.services.commands import DeletePorts
from alcor.wire.codec import BundleHead, encode_bundle, encode_part
from alcor.wire.frames import BusNews, encode_news


class Management:
    """The way from the controller to one host's agent.

    It accepts by hand: asyncio's server, closed between accepting a caller and serving it, forgets that one half made
    (an AssertionError in its log, a socket for the garbage collector).
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._listener: socket.socket | None = None
        self._callers: dict[asyncio.Task[None], socket.socket] = {}
        self._passes = asyncio.Event()
        self._passes.set()
        self.address = f"127.0.2.{host.number}"

    async def start(self) -> None:
        self._listener = socket.create_server((self.address, self._host.port))
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def swallow(self) -> None:
        """Becomes a hole: what is open stays so, who comes is let in, nothing passes, and nobody is told."""
        self._passes.clear()

    async def cut(self) -> None:
        """Ends what is there and refuses what comes."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        callers, self._callers = self._callers, {}
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        for caller in callers.values():
            caller.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            caller, _ = listener.accept()
            self._callers[asyncio.create_task(self._serve(caller))] = caller

    async def _serve(self, caller: socket.socket) -> None:
        writers: list[asyncio.StreamWriter] = []
        with suppress(OSError, asyncio.CancelledError):
            try:
                reader, writer = await asyncio.open_connection(sock=caller)
                writers.append(writer)
                inner_reader, inner_writer = await asyncio.open_connection(self._host.address, self._host.port)
                writers.append(inner_writer)
                ways = ((reader, inner_writer), (inner_reader, writer))
                await asyncio.gather(*[_copy(*way, self._passes) for way in ways])
            finally:
                for one in writers:
                    one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            await passes.wait()
            writer.write(data)
            await writer.drain()
    writer.close()


class Ways:
    """A region with a bus, whose hosts' management networks can be cut."""

    def __init__(self, region: Region, bus: EmbeddedBus) -> None:
        self.region = region
        self.bus = bus
        self.management: dict[str, Management] = {}
        self.stranger = connect(bus.url, "stranger")
        """Somebody else on the bus, which lets anybody in here."""

    async def add_host(self, name: str, *, with_bus: bool = True) -> Host:
        host = self.region.make_host(name)
        host.bus_url = self.bus.url if with_bus else ""
        await host.start()
        way = self.management[name] = Management(host)
        await way.start()
        await self.region.register(host, at=way.address)
        return host

    async def until_on(self, host: str, path: PathName | None) -> None:
        delivery = self.region.path
        assert delivery is not None
        await self.region.until(lambda: delivery.paths().get(host) == path)


@pytest.fixture
async def ways(tmp_path: Path) -> AsyncIterator[Ways]:
    bus = open_server(tmp_path / "nats")
    await bus.start()
    region = Region(tmp_path)
    region.bus_url = bus.url
    await region.start()
    ways = Ways(region, bus)
    assert await ways.stranger.started(5.0)
    try:
        yield ways
    finally:
        for way in ways.management.values():
            await way.cut()
        await ways.stranger.close()
        await region.close()
        await bus.stop()


async def test_a_host_falls_to_the_bus_and_climbs_back(ways: Ways) -> None:
    """Its management network cut, a port there becomes ACTIVE by the bus; when it is back, by the fast path."""
    await ways.add_host("host-a")
    network, _ = await ways.region.add_vpc()
    await ways.until_on("host-a", PathName.FAST)
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.NORMAL)
    await ways.region.until_active(*await ways.region.add_ports(network, ["host-a"]))
    await ways.management["host-a"].start()
    await ways.until_on("host-a", PathName.FAST)
    await ways.region.until_active(*await ways.region.add_ports(network, ["host-a"]))


async def test_an_agent_that_died_without_a_word_on_the_bus_is_missed_when_the_next_speaks(ways: Ways) -> None:
    """Nothing breaks on a bus when an agent dies. The next one says that it lives, and of which session: of none."""
    host = await ways.add_host("host-a")
    network, _ = await ways.region.add_vpc()
    await ways.until_on("host-a", PathName.FAST)
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.NORMAL)
    await ways.region.until_active(*await ways.region.add_ports(network, ["host-a"]))
    delivery, agent = ways.region.path, host.agent
    assert delivery is not None
    assert agent is not None
    assert agent._bus_end is not None
    agent._say_there(1, ())
    await ways.region.add_ports(network, ["host-a"])  # whose session is known
    assert delivery.endings[PathName.NORMAL, "broken"] == 0
    agent._bus_end._sessions.clear()  # as after SIGKILL and a start
    agent._live.clear()
    agent._bus_changed(True)
    await ways.region.until(lambda: delivery.endings[PathName.NORMAL, "broken"] == 1)
    await ways.region.until_active(*await ways.region.add_ports(network, ["host-a"]))


async def test_an_agent_that_is_restarted_on_the_bus_is_hailed_when_it_is_there(
    ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hail that came while nobody listened is not waited for, however patient the controller is."""
    monkeypatch.setattr("alcor.paths.ladder.patience_s", lambda *_: 3600.0)
    host = await ways.add_host("host-a")
    network, _ = await ways.region.add_vpc()
    await ways.until_on("host-a", PathName.FAST)
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.NORMAL)
    delivery = ways.region.path
    assert delivery is not None
    await host.stop()
    dialer = delivery.dialers[PathName.NORMAL]
    assert isinstance(dialer, NormalDialer)
    await ways.region.until(lambda: "host-a" in dialer._hailed)
    await host.start()
    await ways.region.until_active(*await ways.region.add_ports(network, ["host-a"]))


async def test_a_host_without_bus_is_reached_through_a_peer(ways: Ways) -> None:
    """Neither management network nor bus: goal state and acknowledgements are carried by another host, end to end in
    TLS with the target; it climbs back, too."""
    target = await ways.add_host("host-a", with_bus=False)
    await ways.add_host("host-b")
    network, _ = await ways.region.add_vpc()
    await ways.until_on("host-b", PathName.FAST)
    await ways.until_on("host-a", PathName.FAST)
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.RESCUE)
    (port,) = await ways.region.add_ports(network, ["host-a"])
    await ways.region.until_active(port)
    assert set(target.tables.ports) == {port.id}
    await ways.management["host-a"].start()
    await ways.until_on("host-a", PathName.FAST)


async def test_a_host_that_is_cut_without_a_word_is_reached_through_a_peer(ways: Ways) -> None:
    """Its connection stands and nothing passes. With heartbeats every 10 s that would show after 30 s: a bundle that
    has no answer and a host that gives no sign of life show it sooner than this test is patient."""
    await ways.add_host("host-a", with_bus=False)
    await ways.add_host("host-b")
    network, _ = await ways.region.add_vpc()
    await ways.until_on("host-b", PathName.FAST)
    await ways.until_on("host-a", PathName.FAST)
    delivery = ways.region.path
    assert delivery is not None
    ways.management["host-a"].swallow()
    (port,) = await ways.region.add_ports(network, ["host-a"])
    await ways.region.until_active(port)
    assert delivery.dials[PathName.RESCUE, "greeted"] >= 1
    assert delivery.endings[PathName.FAST, "silent"] >= 1


async def test_a_peer_that_leads_elsewhere_is_found_out(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that joins the controller to another host's agent than it was asked for: that agent's certificate has
    another name, so nothing is sent to it; without the lie the target is reached."""
    target = await ways.add_host("host-a", with_bus=False)
    liar = await ways.add_host("host-b")
    network, _ = await ways.region.add_vpc()
    for host in (target, liar):
        await ways.until_on(host.name, PathName.FAST)
    delivery = ways.region.path
    assert delivery is not None
    monkeypatch.setattr(Relay, "_target", lambda self, asked: (liar.address, liar.port))
    await ways.management["host-a"].cut()
    (port,) = await ways.region.add_ports(network, ["host-a"])
    await ways.region.until(lambda: delivery.dials[PathName.RESCUE, "failed"] >= 2)
    assert ways.region.status()[port.id] == PortStatus.BUILD
    assert (liar.tables.ports, target.tables.ports) == ({}, {})
    monkeypatch.undo()
    await ways.region.until_active(port)
    assert set(target.tables.ports) == {port.id}


async def test_when_the_relaying_peer_dies_another_takes_over(ways: Ways) -> None:
    """The relay is nobody's single point of failure."""
    await ways.add_host("host-a", with_bus=False)
    peers = [await ways.add_host(name) for name in ("host-b", "host-c")]
    network, _ = await ways.region.add_vpc()
    for name in ("host-a", "host-b", "host-c"):
        await ways.until_on(name, PathName.FAST)
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.RESCUE)
    for peer in peers:
        await peer.stop()
        (port,) = await ways.region.add_ports(network, ["host-a"])
        await ways.region.until_active(port)
        await peer.start()
        await ways.until_on(peer.name, PathName.FAST)


async def test_nobody_is_left_to_relay(ways: Ways) -> None:
    """A host that nothing reaches keeps its ports in BUILD and delays no other; it converges when it is back."""
    lost = await ways.add_host("host-a", with_bus=False)
    await ways.add_host("host-b")
    network, _ = await ways.region.add_vpc()
    await ways.until_on("host-a", PathName.FAST)
    await lost.stop()
    first, second = await ways.region.add_ports(network, ["host-a", "host-b"])
    await ways.region.until_active(second)
    assert ways.region.status()[first.id] == PortStatus.BUILD
    await lost.start()
    await ways.region.until_active(first)


async def test_the_news_of_a_vpc_is_published_once(ways: Ways) -> None:
    """Hosts that carry a VPC learn of a new port elsewhere by one message on its subject, which is sealed."""
    region = ways.region
    names = ["host-a", "host-b", "host-c", "host-d"]
    hosts = [await ways.add_host(name) for name in names]
    network, _ = await region.add_vpc()
    await region.until_active(*await region.add_ports(network, names))
    delivery = region.path
    assert delivery is not None
    news = delivery._news
    assert news is not None
    await region.until(lambda: not news._waiting)  # of the first ports
    heard: list[bytes] = []
    await ways.stranger.subscribe(news_subject(1, network.id), lambda _, data: heard.append(data))
    takers = [delivery._conversation(name) for name in names]
    key = delivery._key(network.id)
    assert key is not None
    await region.until(lambda: all(one is not None and one.feeds(network.id, key) for one in takers))
    (port,) = await region.add_ports(network, ["host-a"])
    await region.until(lambda: all(len(host.tables.endpoints) == 4 for host in hosts[1:]))
    await region.until(lambda: len(heard) == 1)
    assert bytes(port.mac) not in heard[0]
    assert bytes(port.fixed_ips[0].ip) not in heard[0]


async def test_who_is_told_of_ports_holds_news_back(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it answers, or for a tenth of a second, or until its node goes."""
    region = ways.region
    for name in ("host-a", "host-b"):
        await ways.add_host(name)
    network, _ = await region.add_vpc()
    await region.until_active(*await region.add_ports(network, ["host-a", "host-b"]))
    delivery = region.path
    assert delivery is not None
    await region.until(lambda: not delivery._is_wiring())
    monkeypatch.setattr(Conversation, "idle", False)  # as if nobody ever answered
    await region.add_ports(network, ["host-a"])
    await region.until(delivery._is_wiring)
    await asyncio.sleep(PATIENCE_S)
    assert not delivery._is_wiring()
    await region.add_ports(network, ["host-b"])
    await region.until(delivery._is_wiring)
    delivery.disconnect("host-b")
    assert not delivery._is_wiring()


async def test_news_waits_until_the_answer_of_a_port_is_old(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made the port is to see it ACTIVE before its peers are busy with the news."""
    region = ways.region
    await ways.add_host("host-a")
    network, _ = await region.add_vpc()
    await region.until_active(*await region.add_ports(network, ["host-a"]))  # there is a session
    delivery = region.path
    assert delivery is not None
    monkeypatch.setattr("alcor.paths.delivery.PATIENCE_S", 3600.0)
    monkeypatch.setattr("alcor.paths.delivery.SETTLE_S", 3600.0)
    await region.until_active(*await region.add_ports(network, ["host-a"]))
    conversation = delivery._conversation("host-a")
    assert conversation is not None
    await region.until(lambda: conversation.idle)
    assert delivery._is_wiring()
    monkeypatch.setattr("alcor.paths.delivery.SETTLE_S", 0.0)
    assert not delivery._is_wiring()


async def test_a_lying_peer_that_holds_the_key_changes_nothing(ways: Ways) -> None:
    """A host of the VPC has its key, and here a bus on which it may say anything: it tells the others that an endpoint
    is elsewhere. They notice who did not sign, and go on."""
    region = ways.region
    names = ["host-a", "host-b", "host-c"]
    _, liar, victim = [await ways.add_host(name) for name in names]
    network, _ = await region.add_vpc()
    ports = await region.add_ports(network, names)
    await region.until_active(*ports)
    assert liar.agent is not None
    assert victim.agent is not None
    theirs, ours = liar.agent._feeds, victim.agent._feeds
    assert theirs is not None
    assert ours is not None
    await region.until(lambda: network.id in ours.taken(1, 1) and network.id in theirs.taken(1, 1))
    truth = dict(victim.tables.endpoints)
    goal = EndpointGoal(ports[0].id, 1 << 40, ports[0].mac, (ports[0].fixed_ips[0].ip,), parse_ip(liar.address))
    lie = ScopeUpdate(scope=network.id, revision=1 << 40, snapshot=False, objects=(goal,))
    head = BundleHead(partition=1, epoch=1, sequence=9, host="", synced=False)
    subject, nonce = news_subject(1, network.id), b"n" * 12
    cipher = theirs._keys[FeedKey(1, network.id)].cipher
    sealed = nonce + cipher.encrypt(nonce, encode_bundle(head, [encode_part(lie)]), subject.encode())
    ways.stranger.publish(subject, encode_news(BusNews(1, sealed, bytes(64))))
    await region.until(lambda: ours.dropped == 1)
    await region.until_active(*await region.add_ports(network, ["host-a"]))
    await region.until(lambda: len(victim.tables.endpoints) == len(truth) + 1)
    assert truth.items() <= victim.tables.endpoints.items()


async def test_a_key_that_comes_while_the_host_looks_at_itself_stays(
    ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a heartbeat finds held is older than a bundle that comes before it is told: the VPC's feed stays."""
    region = ways.region
    host = await ways.add_host("host-a")
    network, _ = await region.add_vpc()
    agent = host.agent
    assert agent is not None
    feeds = agent._feeds
    assert feeds is not None
    own, looked, go = agent._ask, asyncio.Event(), asyncio.Event()

    async def slow(function: Callable[[], object]) -> object:
        answer = await own(function)
        looked.set()
        await go.wait()
        return answer

    monkeypatch.setattr(agent, "_tell_heartbeat", lambda: None)
    monkeypatch.setattr(agent, "_ask", slow)
    looking = asyncio.create_task(agent._look())
    await looked.wait()
    await region.until_active(*await region.add_ports(network, ["host-a"]))
    await region.until(lambda: network.id in feeds.taken(1, 1))
    go.set()
    await looking
    assert network.id in feeds.taken(1, 1)
    assert FeedKey(1, network.id) in feeds._keys


async def test_lost_news_is_noticed_and_made_good(ways: Ways) -> None:
    """News that is lost on the bus shows at the next news, or at the next heartbeats, and the VPC is sent whole."""
    region = ways.region
    names = ["host-a", "host-b", "host-c"]
    hosts = [await ways.add_host(name) for name in names]
    network, _ = await region.add_vpc()
    await region.until_active(*await region.add_ports(network, names))
    delivery, key = region.path, region.path._key(network.id) if region.path else None
    assert delivery is not None
    assert key is not None
    assert delivery._news is not None
    takers = [delivery._conversation(name) for name in names]
    await region.until(lambda: all(one is not None and one.feeds(network.id, key) for one in takers))
    send, dropped = delivery._news._send, []
    delivery._news._send = lambda *news: dropped.append(news)  # type: ignore[method-assign]
    await region.add_ports(network, ["host-a"])
    await region.until_active()
    await region.until(lambda: bool(dropped))
    delivery._news._send = send  # type: ignore[method-assign]
    await region.until(lambda: all(len(host.tables.endpoints) == 3 for host in hosts[1:]))


async def test_the_bus_dies_and_comes_back(ways: Ways) -> None:
    """Nothing is lost when nats-server is killed: hosts on it fall to the rescue path or wait, and converge."""
    region = ways.region
    a, b = [await ways.add_host(name) for name in ("host-a", "host-b")]
    network, _ = await region.add_vpc()
    await region.until_active(*await region.add_ports(network, ["host-a", "host-b"]))
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.NORMAL)
    os.kill(ways.bus.pid, signal.SIGKILL)
    await region.until_active(*await region.add_ports(network, ["host-a", "host-b"]))
    await region.until(lambda: len(a.tables.endpoints) == len(b.tables.endpoints) == 2)
    await region.do(DeletePorts(ids=tuple(port.id for port in region.ports() if port.host == "host-a")))
    await region.until(lambda: not a.tables.ports and not b.tables.endpoints)


async def test_strange_words_on_the_bus_change_nothing(ways: Ways) -> None:
    """Noise, replays, another host's name, another session's number: refused and counted; the session goes on."""
    region = ways.region
    host = await ways.add_host("host-a")
    network, _ = await region.add_vpc()
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.NORMAL)
    said: list[tuple[str, bytes]] = []
    for subject in (up_subject(1, "*"), down_subject(1, "host-a")):
        await ways.stranger.subscribe(subject, lambda subject, data: said.append((subject, data)))
    await region.until_active(*await region.add_ports(network, ["host-a"]))
    normal = region.path.dialers[PathName.NORMAL] if region.path is not None else None
    before = dict(host.tables.ports)
    assert said
    up = [data for subject, data in said if ".up." in subject]
    for data in (b"", b"\xff" * 64, *up, *[data[:-1] for data in up]):
        for name in ("host-a", "host-z"):
            ways.stranger.publish(up_subject(1, name), data)
    refused = normal.refused  # type: ignore[union-attr]
    await region.until(lambda: bool(refused["malformed"] and refused["of another host's session"]))
    assert refused["in another host's name"] or refused["repeated"]
    await region.until_active(*await region.add_ports(network, ["host-a"]))
    assert before.keys() < host.tables.ports.keys()
    assert ways.region.path is not None
    assert ways.region.path.listening("host-a")


async def test_a_bundle_that_the_bus_repeats_ends_the_session_not_the_order(ways: Ways) -> None:
    """What goes down is numbered, too: a repeated or late bundle is never taken in; a new session makes good."""
    region = ways.region
    host = await ways.add_host("host-a")
    network, _ = await region.add_vpc()
    await ways.management["host-a"].cut()
    await ways.until_on("host-a", PathName.NORMAL)
    said: list[bytes] = []
    await ways.stranger.subscribe(down_subject(1, "host-a"), lambda _, data: said.append(data))
    (first,) = await region.add_ports(network, ["host-a"])
    await region.until_active(first)
    await region.do(DeletePorts(ids=(first.id,)))
    await region.until(lambda: not host.tables.ports)
    for data in said:
        ways.stranger.publish(down_subject(1, "host-a"), data)
    (second,) = await region.add_ports(network, ["host-a"])
    await region.until_active(second)
    assert set(host.tables.ports) == {second.id}
