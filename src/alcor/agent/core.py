"""The agent of one host: a gRPC server on an event loop, and one worker thread that owns the driver.

Wired by roles: `await Agent(config, driver).run()`. Streams put bundles on the worker's queue; the worker takes
everything that waits at once, merges it, programs it and hands the answers back to the loop. Nothing blocks the loop,
and a bundle waits for at most the round before it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from alcor.agent.config import AgentConfig
from alcor.agent.reconcile import AgentStatus, Received, Reconciler, Refused
from alcor.agent.server import AgentServer, Stream
from alcor.dataplane.base import Driver, PortCounters
from alcor.model.ids import Id
from alcor.paths.link import AGENT, load_credentials
from alcor.wire.reports import encode_ack, encode_hello

_log = logging.getLogger(__name__)

MAX_ROUND_BUNDLES = 256
"""Bundles that the worker takes at once."""

Answered = TypeVar("Answered")


class AgentBusy(Exception):
    """Another agent runs on this state directory: which, and what to do."""


class _Greet(NamedTuple):
    stream: Stream


class _Bundle(NamedTuple):
    stream: Stream
    data: bytes
    received_at: float


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


_Work = _Greet | _Bundle | _Call | None
"""None: stop."""


class Agent:
    """See the module. The driver stays its maker's, who closes it after `run` has ended."""

    def __init__(self, config: AgentConfig, driver: Driver) -> None:
        self._config = config
        self._driver = driver
        self._reconciler = Reconciler(config, driver, time.monotonic, random.random)
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._live: dict[int, Stream] = {}
        """Partition -> the stream its later words go to."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = asyncio.Event()
        self.port = 0
        """Where it listens, once `started`."""

    async def started(self) -> None:
        """Returns once the server listens and `port` is known."""
        await self._started.wait()

    async def run(self) -> None:
        """Serves until cancelled. Raises AgentBusy, JournalError, CredentialsError, OSError (address taken), and
        whatever mistake ends the worker."""
        config = self._config
        credentials = load_credentials(config.tls_dir, AGENT)
        config.state_dir.mkdir(parents=True, exist_ok=True)
        self._loop = asyncio.get_running_loop()
        failure: asyncio.Future[None] = self._loop.create_future()
        host = f"[{config.listen}]" if ":" in config.listen else config.listen
        lock = _lock(config.state_dir / "lock")
        try:
            server = AgentServer(f"{host}:{config.port}", credentials, self)
            worker = threading.Thread(target=self._run_worker, args=(failure,), name="alcor-agent", daemon=True)
            worker.start()
            try:
                self.port = await server.start()
                _log.info("agent of host %s listens at %s:%d", config.host, host, self.port)
                self._started.set()
                await failure
            finally:
                await server.stop()
                self._work.put(None)
                await asyncio.to_thread(worker.join)
        finally:
            os.close(lock)

    async def status(self) -> AgentStatus:
        """How the host does."""
        return await self._ask(self._reconciler.status)

    async def counters(self) -> Mapping[Id, PortCounters]:
        """Traffic per local port. Raises DataPlaneError."""
        return await self._ask(self._driver.counters)

    # Intake, on the event loop.

    def greet(self, stream: Stream) -> None:
        """See server.Intake."""
        self._work.put(_Greet(stream))

    def bundle(self, stream: Stream, data: bytes) -> None:
        """See server.Intake."""
        self._work.put(_Bundle(stream, data, time.monotonic()))

    def gone(self, stream: Stream) -> None:
        """See server.Intake."""
        if self._live.get(stream.partition) is stream:
            del self._live[stream.partition]

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

    async def _ask(self, function: Callable[[], Answered]) -> Answered:
        answer: Future[Answered] = Future()
        self._work.put(_Call(function, answer))
        return await asyncio.wrap_future(answer)

    # On the worker thread.

    def _run_worker(self, failure: asyncio.Future[None]) -> None:
        try:
            self._reconciler.start()
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
        timeout_s = max(0.0, self._reconciler.due() - time.monotonic())
        with suppress(queue.Empty):
            work.append(self._work.get(timeout=timeout_s))
            while len(work) < MAX_ROUND_BUNDLES:
                work.append(self._work.get_nowait())
        bundles: list[_Bundle] = []
        for item in work:
            if isinstance(item, _Bundle):
                bundles.append(item)
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
        if self._reconciler.due() <= time.monotonic():
            acks = self._reconciler.tick()
            if acks:
                self._on_loop(
                    self._deliver, [_Report(None, partition, encode_ack(ack), False, "") for partition, ack in acks]
                )
        return True

    def _handle(self, bundles: list[_Bundle]) -> None:
        if not bundles:
            return
        streams = {bundle.stream.number: bundle.stream for bundle in bundles}
        received = [Received(bundle.data, bundle.received_at, bundle.stream.number) for bundle in bundles]
        reports = []
        for answer in self._reconciler.handle(received):
            stream = streams[answer.stream]
            data = encode_ack(answer.ack) if answer.ack is not None else b""
            reports.append(_Report(stream, stream.partition, data, True, answer.reason))
        self._on_loop(self._deliver, reports)

    def _admit(self, stream: Stream) -> None:
        try:
            hello = encode_hello(self._reconciler.greet(stream.partition, stream.epoch))
        except Refused as refusal:
            self._on_loop(stream.end, str(refusal))
        else:
            self._on_loop(self._enliven, stream, hello)

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)


def _answer_call(call: _Call) -> None:
    try:
        call.answer.set_result(call.function())
    except Exception as error:
        call.answer.set_exception(error)


def _set_exception(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _lock(path: Path) -> int:
    """Takes the lock file for this process's life. Raises AgentBusy."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise AgentBusy(
            f"another agent holds {path}: stop it first, or give this one a state directory of its own"
        ) from None
    return descriptor
