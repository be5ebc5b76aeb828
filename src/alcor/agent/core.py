"""The agent of one host: a gRPC server on an event loop, and one worker thread that owns the driver.

Wired by roles: `await Agent(config, driver).run()`. Streams put bundles on the worker's queue; the worker takes
everything that waits at once, merges it, programs it and hands the answers back to the loop. Nothing blocks the loop,
and a bundle waits for at most the round before it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import msgspec

from alcor.agent.bgp import Bgp
from alcor.agent.bus import BusEnd
from alcor.agent.claiming import Claiming, interested
from alcor.agent.config import AgentConfig
from alcor.agent.directory import Directory
from alcor.agent.feeds import FeedKey, Feeds
from alcor.agent.intake import News, Received
from alcor.agent.probe import Prober, UdpProbes
from alcor.agent.probing import Probing, Watched
from alcor.agent.reconcile import Reconciler, Refused
from alcor.agent.rehearsal import rehearse
from alcor.agent.relay import Relay
from alcor.agent.resolver import Resolver
from alcor.agent.server import AgentServer, Stream
from alcor.agent.state import OnDemand, ScopeKey
from alcor.agent.status import AgentStatus
from alcor.bus.base import Bus
from alcor.dataplane.base import DataPlaneError, Driver, PortCounters, Stack
from alcor.dataplane.endpoints import EndpointKey
from alcor.hostsvc.serving import HostServices
from alcor.model.ids import Id
from alcor.model.nouns import Claim
from alcor.paths.link import AGENT, load_credentials
from alcor.wire.fields import WireError
from alcor.wire.probes import decode_peers, has_peers
from alcor.wire.reports import (
    MAX_HEARTBEAT_SCOPES,
    MAX_HEARTBEAT_SERVICES,
    Ack,
    Feeding,
    Heartbeat,
    Held,
    MemberAck,
    ServiceCounts,
    encode_ack,
    encode_feeding,
    encode_heartbeat,
    encode_hello,
)

_log = logging.getLogger(__name__)

MAX_ROUND_BUNDLES = 256
"""Bundles that the worker takes at once."""
MAX_WAITING_NEWS = 4096
"""Beyond it news is dropped; the scope's next news, or a heartbeat, shows what is missing."""
STUCK_S = 60.0
"""A worker that has been at one thing for longer is not healthy: no heartbeats, and the standby may take over."""

Answered = TypeVar("Answered")


class _Greet(NamedTuple):
    stream: Stream


class _Bundle(NamedTuple):
    stream: Stream
    data: bytes
    received_at: float
    sequence: int
    """That is due."""


class _Call(NamedTuple):
    """A question for the worker thread, which alone may touch driver and state."""

    function: Callable[[], object]
    answer: Future[Any]


class _Report(NamedTuple):
    """Something to send: to one stream, or (stream None) to the partition's live one."""

    stream: Stream | None
    partition: int
    data: bytes
    answers: bool
    reason: str


_Work = _Greet | _Bundle | News | _Call | None
"""None: stop."""


class Agent:
    """See the module. The driver stays its maker's, who closes it after `run` has ended."""

    def __init__(
        self,
        config: AgentConfig,
        driver: Driver,
        bus: Bus | None = None,
        partitions: Iterable[int] = (1,),
        *,
        clock: Callable[[], float] = time.monotonic,
        roll: Callable[[], float] = random.random,
        stack: Stack | None = None,
        bgp: Bgp | None = None,
    ) -> None:
        """`bus` and `stack`, if there are any, are their makers' to close (the bus to start, too). On the bus the agent
        listens to these partitions' controllers; the stack serves TCP to ports; `bgp` tells a speaker of external
        addresses. `clock` answers monotonic seconds, `roll` a random number in [0, 1)."""
        self._clock = clock
        self._roll = roll
        self._config = config
        self._driver = driver
        self._resolver = Resolver(config.host, driver.misses, clock, self._say, self._tell_moved)
        self._prober = Prober(self._tell_sightings, clock, roll)
        self._bgp = bgp
        self._reconciler = Reconciler(config, driver, clock, roll, self._serve, self._announce, bgp)
        self.claiming = Claiming(lambda: self._reconciler.desired, self._say, clock)
        """Hears what workloads announce."""
        self._services = HostServices(
            driver.requests,
            Directory(lambda: self._reconciler.desired),
            config.services,
            clock=clock,
            roll=roll,
            stack=stack,
            claimed=self.claiming.announced,
        )
        self._probing = Probing(driver.prober, clock, self._watched, self._tell_members)
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._live: dict[int, Stream] = {}
        """Partition -> the stream its later words go to."""
        self._admitted: dict[int, Stream] = {}
        """Partition -> its newest stream that was let in, as the worker has it: what others still bring is void."""
        self._held: dict[int, tuple[Held, ...]] = {}
        """What the host held when the worker last had time to say."""
        self._settled = False
        """Whether the data plane carried just that."""
        self._traffic: dict[int, tuple[ServiceCounts, ...]] = {}
        """What load balancers carried for ports here, likewise."""
        self._turn = 0
        """Where the next heartbeat goes on, when there are more scopes than fit."""
        self._bus = bus
        self._bus_end = BusEnd(bus, config.host, partitions, self) if bus is not None else None
        self._feeds = Feeds(bus, self._take_news, self._tell_feeding) if bus is not None else None
        self._server: AgentServer | None = None
        self._asides_refused = 0
        self._busy_since = 0.0
        """Since when the worker has been at work; 0: it waits."""
        self._sign: asyncio.TimerHandle | None = None
        """The next sign of life, while bundles are unanswered."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = asyncio.Event()
        self.port = 0
        """Where it listens, once `started`."""

    async def started(self) -> None:
        """Returns once the server listens and `port` is known."""
        await self._started.wait()

    async def run(self) -> None:
        """Serves until cancelled; it must be this process's turn (turn.py). Raises BusError, JournalError,
        CredentialsError, OSError (address taken), and whatever mistake ends the worker."""
        config = self._config
        credentials = load_credentials(config.tls_dir, AGENT)
        config.state_dir.mkdir(parents=True, exist_ok=True)
        self._loop = asyncio.get_running_loop()
        failure: asyncio.Future[None] = self._loop.create_future()
        host = f"[{config.listen}]" if ":" in config.listen else config.listen
        server = self._server = AgentServer(f"{host}:{config.port}", credentials, self, Relay(config.relay))
        worker = threading.Thread(target=self._run_worker, args=(failure,), name="alcor-agent", daemon=True)
        worker.start()
        probes: UdpProbes | None = None
        try:
            self.port = await server.start()
            probes = self._prober.pinger = UdpProbes(self._prober, config.listen, self.port)
            _log.info("agent of host %s listens at %s:%d", config.host, host, self.port)
            self._started.set()
            await self._speak(failure)
        finally:
            if self._sign is not None:
                self._sign.cancel()
            if self._bus_end is not None:
                await self._bus_end.stop()
            await server.stop()
            if probes is not None:  # last: who is not answered any more has no session either
                probes.close()
            self._work.put(None)
            await asyncio.to_thread(worker.join)

    async def _speak(self, failure: asyncio.Future[None]) -> None:
        """Heartbeats and the bus, until the worker fails."""
        tasks = [
            asyncio.create_task(self._beat(), name="heartbeats"),
            asyncio.create_task(self._resolve(), name="resolver"),
            asyncio.create_task(self._prober.run(), name="prober"),
            asyncio.create_task(self._probe(), name="probes"),
            asyncio.create_task(self._answer_ports(), name="services"),
        ]
        if self._bus is not None and self._bus_end is not None and self._feeds is not None:
            await self._bus_end.start()
            self._bus.on_state(self._bus_changed)
            if self._bus.connected:
                self._bus_changed(True)
            tasks.append(asyncio.create_task(self._feeds.run(), name="feeds"))
        try:
            done, _ = await asyncio.wait([failure, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def status(self) -> AgentStatus:
        """How the host does."""
        status = await self._ask(self._reconciler.status)
        refused = dict(status.refused)
        refused["bundles"] += self._asides_refused
        if self._server is not None:
            refused["streams"] += self._server.refused
        if self._bus_end is not None and self._feeds is not None:
            refused["news"] += self._feeds.dropped
            refused |= {"repeated": self._feeds.repeated, "messages": self._bus_end.refused}
        return msgspec.structs.replace(status, refused=refused)

    async def counters(self) -> Mapping[Id, PortCounters]:
        """Traffic per local port. Raises DataPlaneError."""
        return await self._ask(self._driver.counters)

    # Intake, on the event loop.

    def greet(self, stream: Stream) -> None:
        """See server.Intake."""
        self._work.put(_Greet(stream))

    def bundle(self, stream: Stream, data: bytes) -> None:
        """See server.Intake."""
        self._work.put(_Bundle(stream, data, self._clock(), stream.bundles))
        if self._sign is None:
            self._sign = asyncio.get_running_loop().call_later(self._config.sign_s, self._give_sign)

    def answers(self, stream: Stream, data: bytes) -> None:
        """See server.Intake."""
        if self._live.get(stream.partition) is not stream:
            return  # of a session that is over, or not yet begun
        try:
            if has_peers(data):
                self._take_peers(stream, data)
            else:
                self._resolver.answers(stream.partition, data)
        except WireError as error:
            self._asides_refused += 1
            stream.end(str(error))

    def _take_peers(self, stream: Stream, data: bytes) -> None:
        """Probes these from now on, and says that it is there. Raises WireError."""
        peers = decode_peers(data)
        if peers.host != self._config.host or peers.partition != stream.partition:
            raise WireError(f"bundle.peers: for host '{peers.host}' and partition {peers.partition}")
        self._prober.serve(peers)
        self._tell_sightings()

    @property
    def stuck(self) -> bool:
        """The worker has been at one thing for too long."""
        since = self._busy_since
        return since > 0 and self._clock() - since > STUCK_S

    def gone(self, stream: Stream) -> None:
        """See server.Intake."""
        if self._live.get(stream.partition) is stream:
            del self._live[stream.partition]
            self._resolver.gone(stream.partition)
            self._prober.gone(stream.partition)

    def _deliver(self, reports: list[_Report]) -> None:
        for report in reports:
            stream = report.stream if report.stream is not None else self._live.get(report.partition)
            if stream is None:
                continue  # nobody listens: the next Hello brings the controller to ask
            if report.reason:
                stream.end(report.reason)
            else:
                stream.send(report.data, answers=report.answers)

    def _enliven(self, stream: Stream, hello: bytes) -> None:
        """The stream was let in: an older one of its partition ends."""
        older = self._live.get(stream.partition)
        if older is not None and older is not stream:
            older.end("a newer stream of the partition took over")
        self._live[stream.partition] = stream
        stream.send(hello, answers=False)
        self._tell_feeding(stream.partition)
        self._resolver.live(stream.partition)

    async def _resolve(self) -> None:
        await self._resolver.run()

    async def _probe(self) -> None:
        await self._probing.run()

    def _watched(self) -> asyncio.Future[Mapping[Id, Watched]]:
        return asyncio.ensure_future(self._ask(self._reconciler.watched))

    def _tell_members(self, partition: int, members: tuple[MemberAck, ...]) -> None:
        self._say(partition, encode_ack(Ack(sequence=0, members=members)))

    async def _answer_ports(self) -> None:
        await self._services.run()

    def _say(self, partition: int, report: bytes) -> bool:
        """To the partition's controller; False: none listens."""
        stream = self._live.get(partition)
        if stream is not None:
            stream.send(report, answers=False)
        return stream is not None

    # Heartbeats and the bus, on the event loop.

    async def _beat(self) -> None:
        """The first at any time within an interval: agents that started together are not heard together."""
        interval_s = self._config.heartbeat_s
        wait_s = interval_s * self._roll()
        while True:
            await asyncio.sleep(wait_s)
            wait_s = interval_s
            if self.stuck:
                continue
            with suppress(TimeoutError):  # busy: what was held last is told
                async with asyncio.timeout(interval_s / 4):
                    await self._look()
            self._tell_heartbeat()

    async def _look(self) -> None:
        self._held, self._settled = await self._ask(self._look_at_held)
        with suppress(DataPlaneError):  # the next heartbeat tells
            self._traffic = await self._ask(self._reconciler.traffic)

    def _look_at_held(self) -> tuple[dict[int, tuple[Held, ...]], bool]:
        """On the worker thread, so that keys that come with later bundles are behind what is kept here."""
        held = self._reconciler.held()
        if self._feeds is not None:
            keys = frozenset(FeedKey(partition, one.scope) for partition, some in held.items() for one in some)
            self._on_loop(self._feeds.keep, keys)
        return held, self._reconciler.settled

    def _tell_heartbeat(self) -> None:
        partitions = set(self._live)
        if self._bus_end is not None:
            partitions.update(self._bus_end.partitions)
        for partition in sorted(partitions):
            held = self._held.get(partition, ())
            if len(held) > MAX_HEARTBEAT_SCOPES:
                start = self._turn % len(held)
                held = (held[start:] + held[:start])[:MAX_HEARTBEAT_SCOPES]
            services = self._traffic.get(partition, ())
            if len(services) > MAX_HEARTBEAT_SERVICES:
                start = self._turn % len(services)
                services = (services[start:] + services[:start])[:MAX_HEARTBEAT_SERVICES]
            self._say_there(partition, held, services, settled=self._settled)
        self._turn += MAX_HEARTBEAT_SCOPES

    def _tell_sightings(self) -> None:
        """How peers are seen, between two heartbeats. Nothing of scopes: what is held was not asked for now."""
        if not self.stuck:
            for partition in sorted(self._live):
                self._say_there(partition, ())

    def _give_sign(self) -> None:
        """Of life, to controllers that wait for an answer."""
        self._sign = None
        if any(stream.busy for stream in self._live.values()):
            self._tell_sightings()
            self._sign = asyncio.get_running_loop().call_later(self._config.sign_s, self._give_sign)

    def _say_there(
        self,
        partition: int,
        held: tuple[Held, ...],
        services: tuple[ServiceCounts, ...] = (),
        *,
        settled: bool = False,
    ) -> None:
        """On every path that is open."""
        config, stream = self._config, self._live.get(partition)
        epoch = stream.epoch if stream is not None else 0
        seen = self._prober.sightings(partition)
        report = encode_heartbeat(
            Heartbeat(
                *(config.host, epoch, int(config.heartbeat_s * 1000), held, config.standby, seen, services, settled)
            )
        )
        if stream is not None:
            stream.send(report, answers=False)
        if self._bus_end is not None:
            self._bus_end.beat(partition, report)

    def _tell_feeding(self, partition: int) -> None:
        stream = self._live.get(partition)
        if stream is not None and self._feeds is not None:
            stream.send(encode_feeding(Feeding(self._feeds.taken(partition, stream.epoch))), answers=False)

    def _bus_changed(self, _connected: bool) -> None:
        for partition in sorted(self._live):
            self._tell_feeding(partition)
        self._tell_heartbeat()

    def _take_news(self, key: FeedKey, bundle: bytes) -> None:
        if self._work.qsize() < MAX_WAITING_NEWS:
            self._work.put(News(key.partition, key.vpc, bundle))

    async def _ask(self, function: Callable[[], Answered]) -> Answered:
        answer: Future[Answered] = Future()
        self._work.put(_Call(function, answer))
        return await asyncio.wrap_future(answer)

    # On the worker thread.

    def _serve(self, vpcs: Mapping[int, OnDemand], learnt: Sequence[EndpointKey]) -> None:
        self._on_loop(self._resolver.serve, vpcs, learnt)

    def _announce(self, vpc: ScopeKey, claims: Iterable[Claim]) -> None:
        """Local ports of the VPC hear where these addresses are now, as on a wire."""
        told = interested(self._reconciler.desired, vpc, claims, self._driver.interface_of)
        if told:
            self._on_loop(self._send, told)

    def _send(self, told: list[tuple[int, bytes]]) -> None:
        for ifindex, frame in told:
            self._driver.requests.answer(ifindex, frame)

    def _tell_moved(self, vpc: ScopeKey, claims: Sequence[Claim]) -> None:
        """On the event loop: who has which interface is the worker's to know."""
        self._work.put(_Call(lambda: self._announce(vpc, claims), Future()))

    def _look_again(self) -> None:
        """On the event loop: the host may carry something else now."""
        self._probing.changed()
        self._services.changed()

    def _run_worker(self, failure: asyncio.Future[None]) -> None:
        try:
            self._reconciler.start()
            self._on_loop(self._look_again)
            if self._reconciler.idle:
                problem = rehearse(self._config, self._driver, self._clock, self._roll)
                if problem:
                    _log.error("this host will not carry ports: %s", problem)
            while self._round():
                pass
        except BaseException as error:
            _log.critical("the agent's worker ends: %s", error)
            self._on_loop(_set_exception, failure, error)
        finally:
            self._reconciler.close()

    def _round(self) -> bool:
        """Waits for work or for the time to do some; does it. False: stop."""
        work: list[_Work] = []
        self._busy_since = 0.0
        timeout_s = max(0.0, self._due() - self._clock())
        with suppress(queue.Empty):
            work.append(self._work.get(timeout=timeout_s))
            while len(work) < MAX_ROUND_BUNDLES:
                work.append(self._work.get_nowait())
        self._busy_since = self._clock()
        goes_on = self._do(work)
        if self._bgp is not None:  # behind the answers, which it is not to delay
            self._bgp.settle()
        return goes_on

    def _due(self) -> float:
        """When there is something to do, whatever comes."""
        due = self._reconciler.due()
        if self._bgp is not None:
            due = min(due, self._bgp.due())
        return due

    def _do(self, work: list[_Work]) -> bool:
        """That, in order, and what is due. False: stop."""
        bundles: list[_Bundle] = []
        news: list[News] = []
        for item in work:
            if isinstance(item, _Bundle):
                bundles.append(item)
                continue
            if isinstance(item, News):
                news.append(item)
                continue
            self._handle(bundles)
            bundles = []
            if item is None:
                return False
            if isinstance(item, _Greet):
                self._admit(item.stream)
            else:
                _answer_call(item)
        self._handle(bundles)
        if news:
            self._say_later(self._reconciler.news(news))
        due = self._reconciler.due() <= self._clock()
        if due:
            self._say_later(self._reconciler.tick())
        if due or news or any(isinstance(item, _Bundle) for item in work):
            self._on_loop(self._look_again)
        return True

    def _say_later(self, acks: list[tuple[int, Ack]]) -> None:
        if acks:
            reports = [_Report(None, partition, encode_ack(ack), False, "") for partition, ack in acks]
            self._on_loop(self._deliver, reports)

    def _handle(self, bundles: list[_Bundle]) -> None:
        bundles = [one for one in bundles if self._admitted.get(one.stream.partition) is one.stream]
        if not bundles:
            return
        streams = {bundle.stream.number: bundle.stream for bundle in bundles}
        received = [
            Received(one.data, one.received_at, one.stream.number, one.stream.partition, one.stream.epoch, one.sequence)
            for one in bundles
        ]
        reports = []
        for answer in self._reconciler.handle(received):
            stream = streams[answer.stream]
            data = encode_ack(answer.ack) if answer.ack is not None else b""
            if answer.feeds and self._feeds is not None:
                self._on_loop(self._feeds.offer, stream.partition, stream.epoch, answer.feeds)
            reports.append(_Report(stream, stream.partition, data, True, answer.reason))
        self._on_loop(self._deliver, reports)

    def _admit(self, stream: Stream) -> None:
        try:
            hello = encode_hello(self._reconciler.greet(stream.partition, stream.epoch))
        except Refused as refusal:
            self._on_loop(stream.end, str(refusal))
        else:
            self._admitted[stream.partition] = stream
            self._on_loop(self._enliven, stream, hello)

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)


def _answer_call(call: _Call) -> None:
    if not call.answer.set_running_or_notify_cancel():
        return  # who asked has given up
    try:
        call.answer.set_result(call.function())
    except Exception as error:
        call.answer.set_exception(error)


def _set_exception(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
