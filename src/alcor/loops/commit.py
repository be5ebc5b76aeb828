"""The writer: one thread that turns waiting commands into commits. Fills services.commands.Control; wired by roles.

The thread drains the queue, computes each command against the indexes, applies what holds, writes the batch in one
transaction, answers all of it, then calls the listener. A command that fails, fails alone and leaves nothing. Under
load batches grow by themselves; alone, a command waits for nobody.

Two commands that touch the same row never share a commit (the later one opens the next): a row changes at most once a
commit, so its revision names one state of it, and `If-Match` means what it says.

A store that fails ends everything: nothing unanswered is acknowledged, `wait_failed` raises, and the process must stop;
its next start reads what is durable.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn, Protocol

from alcor.model.ids import Id, make_ids
from alcor.services.claims import settle
from alcor.services.commands import Command
from alcor.services.demand import DemandPolicy, review
from alcor.services.dispatch import compute, ids_needed, needs_rest, rows_named, weight
from alcor.services.errors import ControlPlaneBusy, ControlPlaneStopped, DomainError
from alcor.services.indexes import DEFAULT_MAX_MTU, Indexes, Stamp
from alcor.store.base import Changes, Store, StoreError

MAX_BATCH_COMMANDS = 1024
MAX_BATCH_WEIGHT = 8192
"""Rows of one commit, about. Measured: throughput is flat from 4,000; more only makes the first in it wait."""
MAX_QUEUED_WEIGHT = 262_144
"""Rows that may wait, about: some seconds of work. A command beyond is refused unless nothing waits."""
ENTROPY_PER_ID = 11

Listener = Callable[[int, Changes], None]


class _Loop(Protocol):
    """What the writer needs of an event loop."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object: ...


_log = logging.getLogger(__name__)


class _Pending(NamedTuple):
    """A command and who waits for its answer."""

    command: Command
    answer: asyncio.Future[object]
    loop: _Loop
    weight: int


class _Answer(NamedTuple):
    """What to tell: a result, or an error."""

    pending: _Pending
    result: object
    error: BaseException | None


class Committer:
    """See the module. `start` it once; `submit` from any event loop; `close` it to finish what waits and stop.

    `clock` answers milliseconds since the epoch, `entropy(n)` n random bytes. `on_commit(revision, changes)` is called
    on the writer thread, after the commit is durable and its commands are answered, in the order of commits; it must
    be quick (wake a loop) and leave `changes` unaltered.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        max_mtu: int = DEFAULT_MAX_MTU,
        demand: DemandPolicy | None = None,
        on_commit: Listener | None = None,
    ) -> None:
        self.epoch = store.next_epoch()
        """The number of this controller among all that ever held the store."""
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._on_commit = on_commit
        self._demand = demand or DemandPolicy()
        self._indexes = Indexes(store, max_mtu=max_mtu)
        self._revision = store.revision()
        self._ordinal = store.last_ordinal()
        self._queue: deque[_Pending] = deque()
        self._queued_weight = 0
        self._wake = threading.Condition()
        self._closing = False
        self._failure: StoreError | None = None
        self._watchers: list[tuple[_Loop, asyncio.Future[None]]] = []
        self._thread = threading.Thread(target=self._run, name="alcor-commit", daemon=True)

    def start(self) -> None:
        """Starts the writer thread."""
        self._thread.start()

    def drain(self) -> None:
        """Does what waits, on the caller's thread: instead of `start`, where there is to be no thread (sim). Raises
        what ends the control plane."""
        while self._queue:
            batch = self._take()
            while batch:
                batch = batch[self._commit_some(batch) :]

    def close(self) -> None:
        """Finishes what waits, then stops. Blocks until the thread is gone; the store stays open."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def submit(self, command: Command) -> object:
        """See services.commands.Control. Raises also ControlPlaneBusy (too much waits) and ControlPlaneStopped."""
        loop = asyncio.get_running_loop()
        pending = _Pending(command, loop.create_future(), loop, weight(command))
        with self._wake:
            if self._closing or self._failure is not None:
                raise ControlPlaneStopped(
                    "The control plane is stopping: nothing was done. Try again after its restart."
                )
            if self._queue and self._queued_weight + pending.weight > MAX_QUEUED_WEIGHT:
                raise ControlPlaneBusy(
                    f"{self._queued_weight} changes wait already: nothing was done. Try again in a second."
                )
            self._queue.append(pending)
            self._queued_weight += pending.weight
            self._wake.notify()
        return await pending.answer

    async def wait_failed(self) -> NoReturn:
        """Never returns; raises the StoreError that ended the writer. Run it in the task group that must end too."""
        loop = asyncio.get_running_loop()
        watcher: asyncio.Future[None] = loop.create_future()
        with self._wake:
            if self._failure is None:
                self._watchers.append((loop, watcher))
            else:
                watcher.set_result(None)
        await watcher
        assert self._failure is not None
        raise self._failure

    # On the writer thread.

    def _run(self) -> None:
        batch: list[_Pending] = []
        try:
            while batch := self._take():
                while batch:
                    batch = batch[self._commit_some(batch) :]
        except BaseException as error:
            # A store that cannot write, or a mistake in our own code: either way memory and store may differ now.
            _log.critical("the control plane stops: %s", error, exc_info=not isinstance(error, StoreError))
            failure = error if isinstance(error, StoreError) else StoreError(f"the writer failed: {error!r}")
            self._fail(failure, batch)

    def _take(self) -> list[_Pending]:
        """What waits, up to the limits of a batch; waits for the first. Empty: closed, and all is done."""
        with self._wake:
            while not self._queue:
                if self._closing:
                    return []
                self._wake.wait()
            batch: list[_Pending] = []
            rows = 0
            while self._queue and len(batch) < MAX_BATCH_COMMANDS:
                rows += self._queue[0].weight
                if batch and rows > MAX_BATCH_WEIGHT:
                    break
                batch.append(self._queue.popleft())
                self._queued_weight -= batch[-1].weight
            return batch

    def _commit_some(self, batch: list[_Pending]) -> int:
        """Commits commands from the front of the batch, and says how many: all, unless two touch the same row."""
        indexes = self._indexes
        names = [rows_named(indexes, pending.command) for pending in batch]
        wanted = dict.fromkeys(identifier for group in names for identifier in group)
        named = {port.id: port for port in self._store.get_ports(wanted)} if wanted else {}
        revision, now = self._revision + 1, self._clock()
        changes = Changes()
        touched: set[Id] = set()
        answers: list[_Answer] = []
        for pending, own_names in zip(batch, names, strict=True):
            if touched and not touched.isdisjoint(own_names):
                break
            if needs_rest(pending.command) and changes:
                break
            count = ids_needed(pending.command)
            ids = make_ids(self._ordinal + 1, count, self._entropy(ENTROPY_PER_ID * count)) if count else ()
            more = self._ordinal + count

            def spare(wanted: int) -> Sequence[Id]:
                nonlocal more
                more += wanted
                return make_ids(more - wanted + 1, wanted, self._entropy(ENTROPY_PER_ID * wanted))

            try:
                outcome = compute(indexes, named, pending.command, Stamp(revision, now, ids, spare))
            except (DomainError, StoreError) as error:
                if isinstance(error, StoreError):
                    raise
                answers.append(_Answer(pending, None, error))
                continue
            except Exception as error:  # A mistake in a service: its command fails, and nothing of it was applied.
                _log.exception("a service failed: command %s", type(pending.command).__name__)
                answers.append(_Answer(pending, None, error))
                continue
            rows = set(_touched(outcome.changes))
            if not touched.isdisjoint(rows):
                break
            indexes.apply(outcome)
            touched |= rows
            self._ordinal = more
            changes.extend(outcome.changes)
            answers.append(_Answer(pending, outcome.answer, None))
        if changes:
            crossed = {network.id: network for network in review(indexes, changes, self._demand, revision)}
            if crossed:
                changes.networks = [one for one in changes.networks if one.id not in crossed] + list(crossed.values())
                indexes.networks.update(crossed)
            settle(indexes, changes, self._store.get_ports, revision, now)
            changes.last_ordinal = self._ordinal
            self._store.commit(revision, changes)
            self._revision = revision
            indexes.trim()
        _tell(answers)
        if changes and self._on_commit is not None:
            self._on_commit(revision, changes)
        return len(answers)

    def _fail(self, failure: StoreError, batch: list[_Pending]) -> None:
        with self._wake:
            self._failure = failure
            unanswered = [*batch, *self._queue]
            self._queue.clear()
            self._queued_weight = 0
            watchers, self._watchers = self._watchers, []
        stopped = ControlPlaneStopped(f"The control plane stopped: {failure}")
        _tell([_Answer(pending, None, stopped) for pending in unanswered])
        for loop, watcher in watchers:
            _call(loop, _finish, watcher)


def _touched(changes: Changes) -> Iterable[Id]:
    """The rows that a later command may know by id. New ports are not among them: their ids are not told yet."""
    for nouns in (
        changes.networks,
        changes.subnets,
        changes.nodes,
        changes.deleted_networks,
        changes.deleted_subnets,
        changes.deleted_nodes,
        changes.deleted_ports,
        changes.statuses,
        changes.security_groups,
        changes.deleted_security_groups,
        changes.deleted_rules,
        changes.qos_policies,
        changes.deleted_qos_policies,
        *(changes.routers, changes.deleted_routers, changes.peerings, changes.deleted_peerings),
        *(changes.floating_ips, changes.deleted_floating_ips),
        *(changes.port_forwardings, changes.deleted_port_forwardings),
        *(changes.load_balancers, changes.deleted_load_balancers, changes.listeners, changes.deleted_listeners),
        *(changes.member_pools, changes.deleted_member_pools, changes.members, changes.deleted_members),
        *(changes.health_monitors, changes.deleted_health_monitors),
    ):
        for noun in nouns:
            yield noun.id
    for _, after in changes.changed_ports:
        yield after.id


def _tell(answers: list[_Answer]) -> None:
    """One call into each event loop, however many answers."""
    by_loop: dict[_Loop, list[_Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer.pending.loop, []).append(answer)
    for loop, some in by_loop.items():
        _call(loop, _deliver, some)


def _call(loop: _Loop, function: Callable[..., None], argument: object) -> None:
    with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
        loop.call_soon_threadsafe(function, argument)


def _deliver(answers: list[_Answer]) -> None:
    for answer in answers:
        future = answer.pending.answer
        if future.done():
            continue  # Whoever asked went away.
        if answer.error is not None:
            future.set_exception(answer.error)
        else:
            future.set_result(answer.result)


def _finish(watcher: asyncio.Future[None]) -> None:
    if not watcher.done():
        watcher.set_result(None)
