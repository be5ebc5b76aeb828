"""The agent's core: bundles in, a data plane brought up to date, answers out. Synchronous, on one thread, which owns
the driver and the journal.

Called by core (the worker thread) and by tests. It is level-triggered: bundles only say where to look. What a partial
plan could not do, or somebody undid, a full one repairs: after a failure, with back-off, and at every audit.

Nothing is removed merely for not being desired before every partition known here has brought the host into sync in
this life: a journal may be old, and what it does not know may be in use.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from alcor.agent.bgp import Bgp
from alcor.agent.config import AgentConfig
from alcor.agent.intake import News, Received, older, refused
from alcor.agent.journal import Journal, JournalError
from alcor.agent.lacking import Lacking, words
from alcor.agent.plan import full_plan, local_port, partial_plan
from alcor.agent.probing import Watched, watched
from alcor.agent.state import Desired, OnDemand, ScopeKey, Touched
from alcor.agent.status import AgentStatus
from alcor.agent.sync import Sync
from alcor.dataplane.base import (
    Applied,
    DataPlaneError,
    Driver,
    LocalPort,
    Plan,
    PolicyKey,
    Route,
    RouteKey,
    ServiceKey,
    TranslationKey,
)
from alcor.dataplane.endpoints import EndpointKey
from alcor.kit.memory import no_collection
from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Claim
from alcor.wire.codec import BundleHead, Feed, decode_bundle, decode_scopes, without_feeds
from alcor.wire.fields import WireError
from alcor.wire.reports import Ack, Held, Hello, PortAck, ServiceCounts, Timings

_log = logging.getLogger(__name__)
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

FORWARD_S = 60.0
"""Packets for a port that left are sent after it for so long: by then everybody has heard where it is."""
ASK_AGAIN_S = 2.0
"""A scope that is lacking is asked for at most this often."""
MANY_BYTES = 1 << 20
"""Of bundles: what they make is kept, so that looking for garbage in between only costs (a third of a large VPC)."""
MAX_REPORTED_ERROR = 1000
"""Characters of a port's error that travel up."""


class Answer(NamedTuple):
    """What to send on a stream: an Ack, or None and why the stream must end."""

    stream: int
    ack: Ack | None
    reason: str = ""
    feeds: tuple[Feed, ...] = ()
    """Came with the bundle: for whoever listens to the bus."""


class Refused(Exception):
    """A controller that must not speak to this host, and why."""


class _Retry(msgspec.Struct):
    """A port that failed: how often, and when to try again."""

    attempts: int
    due: float
    reason: str


class _Outcome(msgspec.Struct):
    """What one round of planning and applying came to."""

    errors: dict[Id, str]
    """Of every port looked at, but those that wait for their VPC or subnet; "" when it is as desired."""
    elapsed_us: dict[Id, int] = {}
    plan_us: int = 0
    wiring_us: int = 0
    tables_us: int = 0
    failed: bool = False
    """The tables as a whole could not be programmed."""


Serve: TypeAlias = Callable[[Mapping[int, OnDemand], Sequence[EndpointKey]], None]


def _nobody(vpcs: Mapping[int, OnDemand], learnt: Sequence[EndpointKey]) -> None:
    """Nobody asks for endpoints."""


Announce: TypeAlias = Callable[[ScopeKey, Iterable[Claim]], None]


def _silent(vpc: ScopeKey, claims: Iterable[Claim]) -> None:
    """Nobody is told of claims."""


class Reconciler:
    """See the module. `start` first; then `handle` and `tick`, from one thread."""

    def __init__(
        self,
        config: AgentConfig,
        driver: Driver,
        clock: Callable[[], float],
        roll: Callable[[], float],
        serve: Serve = _nobody,
        announce: Announce = _silent,
        bgp: Bgp | None = None,
    ) -> None:
        """`clock` answers monotonic seconds, `roll` a random number in [0, 1). `serve` is told which VPCs (by VNI) the
        data plane holds packets of from now on, and what it was seen to have learnt of them; `announce` what addresses
        were claimed, once the data plane has it; `bgp` what the data plane carries."""
        self.desired = Desired()
        self._config = config
        self._driver = driver
        self._clock = clock
        self._roll = roll
        self._journal = Journal(config.state_dir / "journal")
        self._ports: dict[Id, LocalPort] = {}
        """What the data plane carries, as last observed and changed since."""
        self._gateways: set[EndpointKey] = set()
        self._policies: dict[PolicyKey, int] = {}
        """Digests."""
        self._vips: dict[EndpointKey, Mac] = {}
        self._services: dict[ServiceKey, int] = {}
        """Digests."""
        self._on_demand: set[int] = set()
        """VNIs."""
        self._routes: dict[RouteKey, Route] = {}
        self._shared: dict[Ip, int] = {}
        """Digests."""
        self._translations: dict[TranslationKey, int] = {}
        self._serve = serve
        self._announce = announce
        self._bgp = bgp
        self._forwards: dict[EndpointKey, float] = {}
        """Addresses of ports that left -> until when their packets are sent after them."""
        self._refused = Counter[str](bundles=0, news=0, streams=0)
        """What came and was not taken."""
        self._failed: dict[Id, _Retry] = {}
        self._broken = ""
        """Why the tables as a whole could not be programmed; empty when they could."""
        self._broken_attempts = 0
        self._asked: dict[ScopeKey, float] = {}
        """Lacking scope -> when it may be asked for again. Bounded: emptied when in sync anew."""
        self._lacking = Lacking()
        self._sync = Sync()
        self._spoilt: dict[int, int] = {}
        """Partition -> its stream of which a bundle was refused: nothing that follows there is taken."""
        self._full_due = 0.0

    # Life.

    def start(self) -> None:
        """Reads the journal, observes the data plane, and puts what is missing. Raises JournalError."""
        self.desired = self._journal.load()
        self._full(Touched())

    def close(self) -> None:
        """Lets go of the journal; what is programmed stays."""
        self._journal.close()

    @property
    def in_sync(self) -> bool:
        """Every partition known here has said, in this life, that the host holds all it should."""
        return self._sync.complete(self.desired.epochs)

    @property
    def settled(self) -> bool:
        """In sync, and as far as is known the data plane carries nothing but what it should."""
        stays = any(port not in self.desired.ports for port in self._failed)
        whole = self.in_sync and not self.desired.doubtful
        return whole and not self._broken and not stays and self._full_due > self._clock()

    @property
    def idle(self) -> bool:
        """Nothing is carried, and nothing was to be carried when the last agent ended."""
        return not self._ports and not self.desired.scopes

    def greet(self, partition: int, epoch: int) -> Hello:
        """What to say to a controller that opens a stream: what this host holds of its partition. Raises Refused for
        a controller that another one has taken over from."""
        newest = self.desired.epochs.get(partition, 0)
        if epoch < newest:
            self._refused["streams"] += 1
            raise Refused(older(epoch, newest))
        self.desired.epochs[partition] = epoch
        self.desired.begin(partition)
        self._asked.clear()
        self._sync.begin(partition)
        config, held = self._config, self.desired.held(partition)
        heartbeat_ms, sign_ms = int(config.heartbeat_s * 1000), int(config.sign_s * 1000)
        return Hello(config.host, epoch, held, config.standby, heartbeat_ms, self._driver.external, sign_ms)

    def status(self) -> AgentStatus:
        """How the host does, for local tooling."""
        ports = self.desired.ports
        return AgentStatus(
            host=self._config.host,
            in_sync=self.in_sync,
            desired_ports=len(ports),
            carried_ports=len(self._ports),
            waiting_ports=tuple(format_id(port) for port in sorted(ports) if local_port(self.desired, port) is None),
            failing_ports={format_id(port): retry.reason for port, retry in sorted(self._failed.items())},
            endpoints=sum(len(state.endpoints) for state in self.desired.scopes.values()),
            broken=self._broken,
            refused=dict(self._refused),
            bgp=self._bgp.status() if self._bgp is not None else None,
        )

    def traffic(self) -> dict[int, tuple[ServiceCounts, ...]]:
        """What clients here exchanged with load balancers, by partition. Raises DataPlaneError."""
        if not self._services:
            return {}
        vpcs = {vpc.vni: key for key in self.desired.vpcs() if (vpc := self.desired.vpc(key)) is not None}
        found: dict[int, list[ServiceCounts]] = {}
        for key, one in sorted(self._driver.service_counters().items()):
            where = vpcs.get(key.vni)
            if where is not None and one.connections:
                counts = one.connections, one.closed, one.bytes_in, one.bytes_out
                told = ServiceCounts(where.scope, key.ip, key.protocol, key.port, *counts)
                found.setdefault(where.partition, []).append(told)
        return {partition: tuple(some) for partition, some in found.items()}

    def watched(self) -> dict[Id, Watched]:
        """The pool members that are probed from this host."""
        return watched(self.desired, self._driver)

    def due(self) -> float:
        """When `tick` has something to do, by the clock."""
        if self._journal.grown:
            return 0.0
        due = min(self._full_due, *self._forwards.values()) if self._forwards else self._full_due
        asks_at = self._lacking.due()
        due = due if asks_at is None else min(due, asks_at)
        if self._broken or not self._failed:
            return due
        return min(due, *(retry.due for retry in self._failed.values()))

    # Work.

    def handle(self, bundles: Sequence[Received]) -> list[Answer]:
        """Takes in bundles that waited and answers each, in order; all of them are planned and applied as one."""
        with no_collection(sum(len(bundle.data) for bundle in bundles) > MANY_BYTES):
            return self._handle(bundles)

    def _handle(self, bundles: Sequence[Received]) -> list[Answer]:
        touched = Touched()
        answers: list[Answer] = []
        accepted: dict[int, tuple[int, BundleHead, tuple[ScopeKey, ...]]] = {}
        merge_s = journal_s = 0.0
        for bundle in bundles:
            started = self._clock()
            try:
                head, unchecked = decode_bundle(bundle.data)
            except WireError as error:
                self._refused["bundles"] += 1
                self._spoilt[bundle.partition] = bundle.stream
                answers.append(Answer(bundle.stream, None, str(error)))
                continue
            refusal = refused(head, bundle, self._config.host, self.desired.epochs.get(head.partition, 0))
            if self._spoilt.get(bundle.partition) == bundle.stream:
                refusal = "one before it on its stream was refused"
            if not refusal:
                try:
                    updates = decode_scopes(unchecked)
                    decoded = self._clock()
                    self._journal.append(without_feeds(unchecked) if head.feeds else bundle.data)
                    journal_s += self._clock() - decoded
                    synced = self.desired.take(head.partition, head.epoch, updates, synced=head.synced, touched=touched)
                    head = msgspec.structs.replace(head, synced=synced)
                    keys = tuple(dict.fromkeys(ScopeKey(head.partition, update.scope) for update in updates))
                    accepted[len(answers)] = (head.partition, head, keys)
                except (WireError, JournalError) as error:
                    refusal = str(error)
            if refusal:
                self._refused["bundles"] += 1
                self._spoilt[bundle.partition] = bundle.stream
                _log.warning("bundle %d refused: %s", head.sequence, refusal)
            answers.append(Answer(bundle.stream, Ack(sequence=head.sequence, error=refusal)))
            merge_s += self._clock() - started
        if accepted:
            times = Timings(merge_us=_us(merge_s - journal_s), journal_us=_us(journal_s))
            self._answer(answers, accepted, touched, bundles[0].received_at, times)
        return answers

    def news(self, came: Sequence[News]) -> list[tuple[int, Ack]]:
        """Takes in what was published about VPCs, in order. Nobody waits for an answer: what is malformed or stale is
        dropped. Returns later word, by partition: scopes of which something is missing, ports that can be carried now.
        """
        touched = Touched()
        for one in came:
            try:
                head, unchecked = decode_bundle(one.data)
                updates = decode_scopes(unchecked)
                if any(update.scope != one.vpc for update in updates) or head.partition != one.partition or head.host:
                    raise WireError("it is not news of its subject's VPC")
                if head.epoch < self.desired.epochs.get(one.partition, 0):
                    self._refused["news"] += 1
                    continue
                self._journal.append(one.data)
            except (WireError, JournalError) as error:
                self._refused["news"] += 1
                _log.warning("news of VPC %s is dropped: %s", one.vpc.hex(), error)
                continue
            if self.desired.take(head.partition, head.epoch, updates, synced=False, touched=touched):
                self._note_synced(head.partition)  # what was in doubt is needed no more
        now = self._clock()
        lacking: dict[int, list[Held]] = {}
        for key in sorted(touched.missed):
            if now >= self._asked.get(key, 0.0):
                self._asked[key] = now + ASK_AGAIN_S
                lacking.setdefault(key.partition, []).append(Held(key.scope, 0, 0))
        outcome = self._full(touched) if self._broken else self._partial(touched)
        return words(lacking, self._later_words(outcome))

    def tick(self) -> list[tuple[int, Ack]]:
        """Does what is due: retries, repairs, the audit, a rewrite of the journal, questions about what is lacking.
        Returns later word, by partition."""
        now = self._clock()
        lacking: dict[int, list[Held]] = {}
        for key in self._lacking.take(now, self._sync.current):
            lacking.setdefault(key.partition, []).append(Held(key.scope, 0, 0))
        return words(lacking, self._mend(now))

    def _mend(self, now: float) -> list[tuple[int, Ack]]:
        if self._journal.grown:
            self._rewrite_journal()
        touched = Touched()
        touched.followed.update(key for key, due in self._forwards.items() if due <= now)
        if self._full_due <= now:
            touched.ports.update(self._failed)
            outcome = self._full(touched)
        else:
            if not self._broken:
                touched.ports.update(port for port, retry in self._failed.items() if retry.due <= now)
            if not touched.ports and not touched.followed:
                return []
            outcome = self._partial(touched)
        return self._later_words(outcome)

    def held(self) -> dict[int, tuple[Held, ...]]:
        """What this host holds, by partition."""
        return {partition: self.desired.held(partition) for partition in sorted(self.desired.epochs)}

    def _later_words(self, outcome: _Outcome) -> list[tuple[int, Ack]]:
        """About ports that no bundle named."""
        acks: dict[int, list[PortAck]] = {}
        for identifier in sorted(outcome.errors):
            partition = self.desired.ports.get(identifier)
            if partition is not None:
                acks.setdefault(partition, []).append(self._port_ack(identifier, 0, outcome, 0))
        return [(partition, Ack(sequence=0, ports=tuple(ports))) for partition, ports in sorted(acks.items())]

    def _answer(
        self,
        answers: list[Answer],
        accepted: dict[int, tuple[int, BundleHead, tuple[ScopeKey, ...]]],
        touched: Touched,
        received_at: float,
        times: Timings,
    ) -> None:
        """Plans, applies, and completes the accepted bundles' acks: the last one of a partition carries its ports."""
        waited_us = _us(self._clock() - received_at)
        outcome = self._full(touched) if self._broken else self._partial(touched)
        ports: dict[int, list[PortAck]] = {}
        for identifier in sorted(outcome.errors):
            partition, named = touched.mentioned.get(identifier, (self.desired.ports.get(identifier), 0))
            if partition is not None:
                ports.setdefault(partition, []).append(self._port_ack(identifier, named, outcome, waited_us))
        last = {partition: index for index, (partition, _, _) in accepted.items()}
        times = msgspec.structs.replace(
            times,
            plan_us=outcome.plan_us,
            wiring_us=outcome.wiring_us,
            tables_us=outcome.tables_us,
            total_us=_us(self._clock() - received_at),
        )
        for index, (partition, head, keys) in accepted.items():
            ack = Ack(
                sequence=head.sequence,
                ports=tuple(ports.get(partition, ())) if last[partition] == index else (),
                scopes=tuple(
                    Held(key.scope, 0, 0) if key in touched.missed else self.desired.held_of(key) for key in keys
                ),
                timings=times,
            )
            answers[index] = Answer(answers[index].stream, ack, feeds=head.feeds)
            if head.synced:
                self._note_synced(partition)

    def _note_synced(self, partition: int) -> None:
        if self._sync.say(partition, self.desired.epochs):
            self._full_due = self._clock()  # now what nobody asked for may go

    def _port_ack(self, identifier: Id, named: int, outcome: _Outcome, waited_us: int) -> PortAck:
        goal = self.desired.port(identifier)
        return PortAck(
            identifier,
            goal.revision if goal is not None else named,
            goal is None,
            outcome.errors[identifier],
            waited_us + outcome.elapsed_us.get(identifier, 0),
        )

    # Planning and applying.

    def _partial(self, touched: Touched) -> _Outcome:
        """Brings what was touched up to date."""
        started = self._clock()
        touched.ports.update(touched.mentioned)
        if touched.roads:
            self._lacking.look(self.desired, started)
        plan = partial_plan(
            *(self.desired, touched, self._ports, self._gateways, self._policies, self._on_demand),
            *(self._routes, self._translations, self._vips, self._services, self._shared),
        )
        outcome = self._apply(self._without_shares(plan), touched.ports, started)
        if (touched.vpcs or touched.gone_vnis) and not outcome.failed:
            self._serve(self.desired.on_demand(), ())
        for key, claims in touched.claims.items():
            self._announce(key, claims.values())
        return outcome

    def _full(self, touched: Touched) -> _Outcome:
        """Observes, and brings everything up to date; answers for the touched ports and for what it mended."""
        started = self._clock()
        touched.ports.update(touched.mentioned)
        self._lacking.look(self.desired, started)
        try:
            observed = self._driver.observe()
        except DataPlaneError as error:
            return self._fail(str(error), touched.ports)
        self._ports = dict(observed.ports)
        self._gateways = set(observed.gateways)
        self._policies = dict(observed.policies)
        self._vips = dict(observed.vips)
        self._services = dict(observed.services)
        self._on_demand = set(observed.on_demand)
        self._routes = dict(observed.routes)
        self._shared = dict(observed.shared)
        self._translations = dict(observed.translations)
        self._forwards = {key: self._forwards.get(key, started + FORWARD_S) for key in observed.forwards}
        if self._bgp is not None:
            self._bgp.observed(observed)
        learnt = observed.learnt
        plan = self._without_shares(full_plan(self.desired, observed, may_remove=self.in_sync))
        told = touched.ports - self.desired.ports.keys()  # gone on somebody's word: no need to be in sync for that
        plan = msgspec.structs.replace(
            plan,
            remove_ports=tuple(sorted(told | set(plan.remove_ports))),
            put_forwards=tuple(touched.forwards.items()),
            remove_forwards=tuple(sorted(touched.followed - touched.forwards.keys())),
        )
        orphans = observed.orphans
        del observed
        outcome = self._apply(plan, touched.ports, started)
        if outcome.failed:
            return outcome
        self._serve(self.desired.on_demand(), learnt)
        if not plan.empty and not touched.mentioned:
            _log.warning("the data plane was not as desired: %s", _summary(plan))
        if orphans and self.in_sync:
            try:
                self._driver.sweep(orphans)
            except DataPlaneError as error:
                _log.warning("cannot sweep: %s", error)
        self._broken, self._broken_attempts = "", 0
        self._full_due = self._clock() + self._config.audit_interval_s * (0.75 + self._roll() / 2)
        return outcome

    def _without_shares(self, plan: Plan) -> Plan:
        """By an old journal a block may be this host's that was given to another since (0029)."""
        return plan if self._sync.reached else msgspec.structs.replace(plan, put_shared=())

    def _apply(self, plan: Plan, looked_at: Iterable[Id], started: float) -> _Outcome:
        """Carries the plan out and takes note of what came of it."""
        outcome = _Outcome(errors={}, plan_us=_us(self._clock() - started))
        table_error = ""
        if not plan.empty:
            try:
                applied = self._driver.apply(plan)
            except DataPlaneError as error:
                return self._fail(str(error), looked_at)
            self._note(plan, applied, outcome)
            table_error = applied.error[:MAX_REPORTED_ERROR]
        for identifier in sorted(looked_at):  # in whatever order a set has them, the dice would differ
            if identifier in outcome.errors:
                continue
            if identifier not in self.desired.ports:
                outcome.errors[identifier] = ""
            elif local_port(self.desired, identifier) is not None:
                outcome.errors[identifier] = table_error
        for identifier, reason in outcome.errors.items():
            if reason:
                self._retry(identifier, reason)
            elif self._failed:
                self._failed.pop(identifier, None)
        return outcome

    def _note(self, plan: Plan, applied: Applied, outcome: _Outcome) -> None:
        puts = {port.id: port for port in plan.put_ports}
        outcome.wiring_us, outcome.tables_us = applied.wiring_us, applied.tables_us
        if self._bgp is not None:
            self._bgp.applied(plan, applied)
        for result in applied.ports:
            error = result.error or (applied.error if result.id in puts else "")
            outcome.errors[result.id] = error[:MAX_REPORTED_ERROR]
            outcome.elapsed_us[result.id] = result.elapsed_us
            if result.id not in puts or error:
                self._ports.pop(result.id, None)
            else:
                self._ports[result.id] = puts[result.id]
        if applied.error:
            self._break(applied.error)
            outcome.failed = True
        else:
            self._gateways.difference_update(plan.remove_gateways)
            self._gateways.update(plan.put_gateways)
            self._policies.update({policy.key: policy.digest() for policy in plan.put_policies})
            for named in plan.remove_policies:
                self._policies.pop(named, None)
            _renew(self._routes, plan.put_routes, plan.remove_routes)
            shared = [(ip, one.digest()) for ip, one in plan.put_shared]
            _renew(self._shared, shared, plan.remove_shared)
            _renew(self._translations, plan.put_translations, plan.remove_translations)
            _renew(self._vips, plan.put_vips, plan.remove_vips)
            digests = [(service.key, service.digest()) for service in plan.put_services]
            _renew(self._services, digests, plan.remove_services)
            self._on_demand.difference_update(plan.remove_on_demand)
            self._on_demand.update(plan.put_on_demand)
            until = self._clock() + FORWARD_S
            self._forwards.update((key, until) for key, _ in plan.put_forwards)
            for key in plan.remove_forwards:
                self._forwards.pop(key, None)

    def _fail(self, reason: str, ports: Iterable[Id]) -> _Outcome:
        """The data plane as a whole refused: every port looked at has failed, and a full round is due."""
        self._break(reason)
        outcome = _Outcome(errors=dict.fromkeys(sorted(ports), reason[:MAX_REPORTED_ERROR]), failed=True)
        for identifier in outcome.errors:
            self._retry(identifier, reason)
        return outcome

    def _break(self, reason: str) -> None:
        if not self._broken:
            _log.error("the data plane refused: %s", reason)
        self._broken = reason
        self._full_due = self._clock() + self._config.retry.delay_s(self._broken_attempts, self._roll())
        self._broken_attempts += 1

    def _retry(self, identifier: Id, reason: str) -> None:
        retry = self._failed.setdefault(identifier, _Retry(0, 0.0, ""))
        retry.reason = reason
        retry.due = self._clock() + self._config.retry.delay_s(retry.attempts, self._roll())
        retry.attempts += 1

    def _rewrite_journal(self) -> None:
        try:
            self._journal.rewrite(self.desired)
        except JournalError as error:
            _log.warning("%s", error)


def _renew(known: dict[_Key, _Value], put: Iterable[tuple[_Key, _Value]], removed: Iterable[_Key]) -> None:
    known.update(put)
    for key in removed:
        known.pop(key, None)


def _us(seconds: float) -> int:
    return max(0, int(seconds * 1e6))


def _summary(plan: Plan) -> str:
    """How much a plan changes, for people."""
    return ", ".join(
        f"{field.replace('_', ' ')} {len(rows)}" for field in plan.__struct_fields__ if (rows := getattr(plan, field))
    )
