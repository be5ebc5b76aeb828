"""The publish loop: commits become goal state on its way to hosts. Wired by roles.

It keeps small views (networks, subnets, nodes, groups, roads, who needs which VPC), never ports. A commit wakes it;
everything that waits becomes one delta. Its other callers are the hosts: a Hello is compared with the truth and
answered with what differs, so that whatever was lost, on whichever path, is repaired by the same code. What hosts ask
about VPCs on demand is `answer`'s, which is told here of what changed.

Why nothing sent is ever wrong, whatever is committed meanwhile: one task does everything in order; it claims for a
snapshot only the revision of the last commit it has published (`Views.revision`), and reads rows after that, so they
include at least that much; what they include beyond is newer and wins by its revision; and the delta that covers it
comes later on the same stream. Objects that are read too new or told twice change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import msgspec

from alcor.goalstate.delta import Commits, Delta, delta, digest_shifts
from alcor.goalstate.digest import digest
from alcor.goalstate.objects import AS_OF_NOTHING, HOST_SCOPE, ScopeUpdate
from alcor.goalstate.snapshot import host_snapshot, port_goal
from alcor.loops.answer import Answers
from alcor.loops.catchup import CatchUp
from alcor.loops.drift import Drift
from alcor.loops.preload import AT_ONCE, Preloads
from alcor.loops.scopes import VpcScopes
from alcor.loops.views import Views
from alcor.model.ids import Id
from alcor.model.nouns import Network, Node, Port, PortStatus, Router
from alcor.paths.base import Parcel, Path, PathName, Session
from alcor.services.balancing_commands import MemberReport
from alcor.services.commands import ClaimReport, PortReport
from alcor.services.traffic import Counts, Service, Traffic
from alcor.store.base import Changes, Store
from alcor.wire.codec import encode_part
from alcor.wire.lookups import Lookup
from alcor.wire.reports import Ack, Heartbeat, Held, Hello

_log = logging.getLogger(__name__)

ROUND_GREETINGS = 64
"""Hosts that are compared before commits are looked at again: after a restart of the controller thousands greet."""
AUDIT_S = 0.2
"""Between reading two VPCs only to know their digests."""
LATER_COMMITS = 64
"""Committed and not yet published, while a VPC was read: so many are looked at for what left it."""
SMALL_WORK = 16
"""Hosts whose own ports change in one round: so many are worth the fast path."""
REPORT_REFUSAL_AFTER = 2
"""A host that refuses goal state this many times in a row is reported on the ports that wait for it."""

Reports: TypeAlias = Callable[[Iterable[PortReport]], None]
MemberReports: TypeAlias = Callable[[Iterable[MemberReport]], None]
ClaimReports: TypeAlias = Callable[[Iterable[ClaimReport]], None]


class Publisher:
    """See the module. Fills paths.base.Events.

    Made before the writer starts (it reads the store); its `committed` is the writer's listener; then `run` it.
    """

    def __init__(self, store: Store, *, at_once: int = AT_ONCE) -> None:
        """`at_once`: a VPC of more ports follows behind a host's first port of it."""
        self._store = store
        self._at_once = at_once
        self._reports: Reports = _nobody
        self._member_reports: MemberReports = _nobody
        self._claim_reports: ClaimReports = _nobody
        self.moved: Callable[[Iterable[Id]], None] = _nobody
        """Told of networks whose ports came to or left hosts, and of routers that changed (SharingLoop)."""
        self.traffic = Traffic()
        """What load balancers carried."""
        self._views = Views(store)
        self._answers = Answers(store, self._views)
        self._scopes = VpcScopes()
        self._catch_up = CatchUp(store, self._views)
        self._commits: deque[tuple[int, Changes]] = deque()
        self._greetings: deque[tuple[Session, Hello]] = deque()
        self._owed: dict[str, set[Id]] = {}
        self._drift = Drift(self._views.revision)
        self._preloads = Preloads()
        self._timer: asyncio.TimerHandle | None = None
        self._path: Path | None = None
        self._audited = 0.0
        """When a VPC was last read for its digest."""
        self._refusals: dict[str, str] = {}
        self._caught_up: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    # What is published: see loops.sharing.World.

    def sharers(self) -> dict[Id, Router]:
        """The routers whose addresses hosts share."""
        return self._views.sharers

    def sharers_of(self, identifier: Id) -> Iterable[Id]:
        """Those that have the network, or are that router."""
        return (identifier,) if identifier in self._views.sharers else self._views.sharers_of.get(identifier, ())

    def carriers(self, network_id: Id) -> dict[str, int]:
        """Host -> its ports of the network."""
        return self._views.subscriptions.carriers(network_id)

    def node(self, name: str) -> Node | None:
        """A host."""
        return self._views.nodes.get(name)

    def published(self) -> int:
        """The last commit that was."""
        return self._views.revision

    def caught_up(self, host: str) -> int:
        """The commit as of which the host said, in its session, that it carries what it should and nothing else; 0: it
        has not said."""
        return self._caught_up.get(host, 0)

    # What wakes it.

    def committed(self, revision: int, changes: Changes) -> None:
        """The writer's listener: called in commit order, from its thread."""
        self._commits.append((revision, changes))
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the process ends
                self._loop.call_soon_threadsafe(self._wake.set)

    def greeted(self, session: Session, hello: Hello) -> None:
        """See paths.base.Events."""
        self._drift.forget_host(session.host)
        self._answers.forget_host(session.host)
        self._preloads.forget_host(session.host)
        self._caught_up.pop(session.host, None)
        self._greetings.append((session, hello))
        self._wake.set()

    def acknowledged(self, session: Session, ack: Ack) -> None:
        """See paths.base.Events."""
        self._reports(
            PortReport(port.id, session.host, port.revision, port.error, session.path, session.attempts)
            for port in ack.ports
            if not port.deleted
        )
        if ack.members:
            self._member_reports([MemberReport(one.id, one.healthy) for one in ack.members])
        if ack.claims:
            self._claim_reports([ClaimReport(one.port, one.vpc, session.host, one.claim) for one in ack.claims])
        if ack.sequence and self._preloads.answered(session.host):
            self._wake.set()
        lacking = frozenset(held.scope for held in ack.scopes if not held.revision)
        if lacking:
            self.overflowed(session, lacking)

    def heard(self, host: str, path: PathName, heartbeat: Heartbeat) -> None:
        """See paths.base.Events."""
        for one in heartbeat.services:
            service = Service(one.vpc, one.ip, one.protocol, one.port)
            self.traffic.heard(host, service, Counts(one.connections, one.closed, one.bytes_in, one.bytes_out))
        if self._path is None or not self._path.listening(host):
            return  # its next Hello is compared
        if heartbeat.settled and self._drift.is_current(host, heartbeat.scopes, self._views.subscriptions.vpcs(host)):
            self._caught_up[host] = self._views.revision
        now = asyncio.get_running_loop().time()
        owed = self._drift.heard(host, heartbeat.scopes, partial(self._views.subscriptions.needs, host), now)
        if owed:
            _log.warning("host %s lags or differs in %d scopes: they are sent whole", host, len(owed))
            self._owe(host, owed)
        elif self._drift.wanted and now >= self._audited + AUDIT_S:
            self._wake.set()

    def asked(self, session: Session, lookup: Lookup) -> None:
        """See paths.base.Events."""
        if self._path is not None:
            self._answers.asked(self._path, session.host, lookup)

    def overflowed(self, session: Session, scopes: frozenset[Id]) -> None:
        """See paths.base.Events."""
        self._owe(session.host, scopes)

    def _owe(self, host: str, scopes: Iterable[Id]) -> None:
        self._owed.setdefault(host, set()).update(scopes)
        self._wake.set()

    def refused(self, session: Session, reason: str, attempts: int) -> None:
        """See paths.base.Events."""
        if attempts >= REPORT_REFUSAL_AFTER:
            self._refusals[session.host] = f"the host refuses its goal state: {reason}"
            self._wake.set()

    # The loop.

    async def run(
        self,
        path: Path,
        reports: Reports,
        member_reports: MemberReports | None = None,
        claim_reports: ClaimReports | None = None,
    ) -> None:
        """Publishes by that path until cancelled; `reports` takes hosts' words about ports (StatusLoop.add),
        `member_reports` those about pools' members, `claim_reports` those about announced addresses. Raises StoreError.
        """
        self._reports = reports
        self._member_reports = member_reports or _nobody
        self._claim_reports = claim_reports or _nobody
        self._loop = asyncio.get_running_loop()
        self._path = path
        for node in self._views.nodes.values():
            path.connect(node)
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._round(path)

    async def _round(self, path: Path) -> None:
        """Everything that waits: commits first, so that hosts are compared with the newest truth."""
        if self._commits:
            commits = Commits(revision=self._views.revision)
            hurried: set[str] = set()
            while self._commits:
                revision, changes = self._commits.popleft()
                _add(commits, revision, changes)
                self._views.take_first(commits, revision, changes)
                self._views.take_balancing(changes)
                hurried.update(_hurried(changes))
            await self._publish(path, commits)
            for host in sorted(hurried):
                path.hurry(host)
        for _ in range(min(len(self._greetings), ROUND_GREETINGS)):
            await self._greet(path, *self._greetings.popleft())
        if self._greetings:
            self._wake.set()
        while self._owed:
            name, scopes = self._owed.popitem()
            for scope in sorted(scopes):
                await self._repay(path, name, scope)
        while self._refusals:
            host, reason = self._refusals.popitem()
            await self._blame(host, reason)
        await self._preload(path)
        await self._audit()

    async def _audit(self) -> None:
        """Reads one VPC of which a heartbeat could be judged if its digest were known; not often."""
        now = asyncio.get_running_loop().time()
        if self._drift.wanted and now >= self._audited + AUDIT_S:
            self._audited = now
            vpc = next(iter(self._drift.wanted))
            del self._drift.wanted[vpc]
            await self._vpc_parcels(vpc, fresh=True)

    # Commits.

    async def _publish(self, path: Path, commits: Commits) -> None:
        views = self._views
        crossed = self._view(path, commits)
        moved: list[Port] = []
        for name in commits.nodes:
            if views.subscriptions.vpcs(name):
                moved += await asyncio.to_thread(self._store.ports_of_host, name)
        changed = delta(commits, views.nodes, moved, views.groups, views.on_demand, views.qos, views.balancers)
        started, ended = views.subscriptions.shift(changed.bound, changed.roads)
        views.revision = commits.revision
        self._answers.changed(path, changed.moves)
        for host, vpc in ended:
            path.withdraw(host, vpc)
            self._preloads.settle(vpc, host)
        anew: list[tuple[str, Id]] = []
        for vpc in crossed:
            # The scope as a whole is another one: all of its hosts get it anew, as if they started to carry the VPC.
            self._scopes.drop(vpc)
            anew += [(host, vpc) for host in views.subscriptions.hosts(vpc) if (host, vpc) not in started]
        outbox, news = self._encode(path, changed, frozenset([*started, *anew]))
        shifts = digest_shifts(commits, changed.vpcs, views.nodes, self._drift)
        self._drift.publish(commits.revision, {*changed.vpcs, *crossed}, changed.hosts, shifts)
        self._catch_up.publish(changed, crossed, commits.deleted_networks, commits.revision)
        now = asyncio.get_running_loop().time()
        self._preloads.ask([host for host, parcels in outbox.items() if parcels], now)
        partial = {vpc: self._partial(vpc) for vpc in {vpc for _, vpc in started}}
        for host, vpc in [*started, *anew]:
            if path.listening(host):
                parcel = partial.get(vpc)
                if parcel is not None:
                    outbox.setdefault(host, []).append(parcel)
                    self._preloads.owe(vpc, host, now)
                else:
                    outbox.setdefault(host, []).extend(await self._vpc_parcels(vpc))
        for parcel, hosts in news:
            path.spread(parcel.scope, parcel, hosts)
        for host, parcels in outbox.items():
            if parcels:
                path.offer(host, parcels)
        if views.sharers:
            self.moved([*(vpc for _, vpc in changed.bound), *changed.roads])
        if len(changed.hosts) <= SMALL_WORK:
            for host in changed.hosts:
                path.hurry(host)

    def _view(self, path: Path, commits: Commits) -> list[Id]:
        """Brings the views up to date; returns the VPCs that crossed the threshold of what is preloaded, sorted."""
        crossed = sorted(self._views.take(commits))
        for vpc in (*commits.deleted_networks, *crossed):
            self._answers.forget_vpc(vpc)
        for identifier in commits.deleted_networks:
            self._scopes.drop(identifier)
            self._drift.forget_vpc(identifier)
        for name in commits.deleted_nodes:
            path.disconnect(name)
            self._drift.forget_host(name)
            self._answers.forget_host(name)
        for node in commits.nodes.values():
            path.connect(node)
        return crossed

    def _encode(
        self, path: Path, changed: Delta, started: frozenset[tuple[str, Id]]
    ) -> tuple[dict[str, list[Parcel]], list[tuple[Parcel, list[str]]]]:
        """The deltas as parcels: by host, and those of VPCs with whom they are spread to; a VPC's is encoded once. Who
        starts to carry a VPC gets all of it later.

        A host whose own ports change is told of its VPCs in the same message. News may overtake that or come behind
        it, so only what is spread says what it follows (`previous`): the host that misses some asks for the whole.
        """
        outbox: dict[str, list[Parcel]] = {}
        news: list[tuple[Parcel, list[str]]] = []
        for host, update in changed.hosts.items():
            if path.listening(host):
                outbox[host] = [Parcel(HOST_SCOPE, encode_part(update), False)]
        for host, _ in sorted(started):
            # Why it needs another VPC must be there before that VPC is, or it would not be kept.
            if path.listening(host):
                outbox.setdefault(host, [])
        for vpc, update in changed.vpcs.items():
            hosts = [
                host
                for host in self._views.subscriptions.hosts(vpc)
                if path.listening(host) and (host, vpc) not in started
            ]
            if not hosts:
                self._scopes.drop(vpc)
                continue
            parcel = Parcel(vpc, encode_part(update), False)
            self._scopes.extend(parcel)
            others = [host for host in hosts if host not in outbox]
            if others:
                chained = msgspec.structs.replace(update, previous=self._drift.published(vpc))
                news.append((Parcel(vpc, encode_part(chained), False), others))
            for host in hosts:
                if host in outbox:
                    outbox[host].append(parcel)
        return outbox, news

    def _partial(self, vpc: Id) -> Parcel | None:
        """The VPC's scope without its endpoints; None where they are few, or there are none."""
        views = self._views
        network = views.networks.get(vpc)
        if network is None or network.on_demand or views.subscriptions.ports(vpc) <= self._at_once:
            return None
        return _parcel(
            msgspec.structs.replace(views.snapshot(network, ()), revision=AS_OF_NOTHING, snapshot=False, partial=True)
        )

    async def _preload(self, path: Path) -> None:
        """The endpoints of VPCs that hosts have only begun to carry."""
        loop = asyncio.get_running_loop()
        for vpc, hosts in self._preloads.take(loop.time()).items():
            for host in hosts:
                if path.listening(host) and self._views.subscriptions.needs(host, vpc):
                    path.offer(host, await self._vpc_parcels(vpc))
        due = self._preloads.due()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due, self._wake.set) if due is not None else None

    # Hosts.

    async def _greet(self, path: Path, session: Session, hello: Hello) -> None:
        """Compares what a host holds with the truth and sends what differs."""
        host = session.host
        rows = await asyncio.to_thread(self._store.ports_of_host, host)
        held = {state.scope: state for state in hello.scopes}
        future = self._from_the_future(hello.scopes)
        if future:
            _log.error("host %s: %s", host, future)
            self._report_unsettled(host, rows, future)
            path.reset(session, future)
            return
        parcels = self._host_answer(host, held.get(HOST_SCOPE), rows)
        for vpc in self._views.subscriptions.vpcs(host):
            parcels += await self._vpc_answer(vpc, held.get(vpc))
        path.begin(session, parcels)

    def _host_answer(self, host: str, held: Held | None, rows: Sequence[Port]) -> list[Parcel]:
        """What the host lacks of its own scope, and the ports that it has not answered for."""
        truth = host_snapshot(self._views.revision, rows)
        known = digest(truth.objects)
        unsettled = [row for row in rows if not _settled(row)]
        same = known == (held.digest if held is not None else 0)
        self._drift.greeted(host, truth.revision if not same else held.revision if held is not None else 0)
        if not same:
            since = None
            if held is not None and held.revision > AS_OF_NOTHING:
                since = self._catch_up.host(host, held.revision, rows, unsettled, known)
            return [since or _parcel(truth)]
        if not unsettled:
            return []
        # It holds them already: naming them makes it say how they are.
        objects = tuple(sorted((port_goal(row) for row in unsettled), key=lambda goal: goal.id))
        again = ScopeUpdate(scope=HOST_SCOPE, revision=self._views.revision, snapshot=False, objects=objects)
        return [_parcel(again)]

    async def _vpc_answer(self, vpc: Id, held: Held | None) -> list[Parcel]:
        """What the host lacks of the VPC's scope."""
        if held is None or held.revision <= AS_OF_NOTHING:
            return await self._vpc_parcels(vpc)
        if vpc not in self._drift:
            await self._vpc_parcels(vpc, fresh=True)
        exact = self._drift.digest(vpc)
        if held.digest != (self._scopes.digest(vpc) if exact is None else exact):
            since = await self._catch_up.vpc(vpc, held.revision, exact) if exact is not None else None
            return [since] if since is not None else await self._vpc_parcels(vpc)
        if held.revision < self._drift.published(vpc):
            # It lacks nothing, but would think so when the next delta says what it follows.
            confirmed = ScopeUpdate(
                scope=vpc, revision=self._views.revision, snapshot=False, objects=(), confirms=held.digest
            )
            return [_parcel(confirmed)]
        return []

    def _from_the_future(self, held: Iterable[Held]) -> str:
        """Why a host cannot be brought into sync: it has seen commits that this store never made. Empty: it can."""
        newest = max((state.revision for state in held), default=0)
        known = self._store.revision()
        if newest <= known:
            return ""
        return (
            f"the host holds goal state of revision {newest}, this store's newest is {known}: the database was replaced"
            " or restored. Delete the agent's journal and restart it to start over"
        )

    async def _repay(self, path: Path, host: str, scope: Id) -> None:
        """Sends a whole scope that is owed."""
        if scope == HOST_SCOPE:
            rows = await asyncio.to_thread(self._store.ports_of_host, host)
            path.offer(host, [_parcel(host_snapshot(self._views.revision, rows))])
        elif self._views.subscriptions.needs(host, scope):
            path.offer(host, await self._vpc_parcels(scope, fresh=True))  # deltas beside it might not fit again
        else:
            path.withdraw(host, scope)

    async def _blame(self, host: str, reason: str) -> None:
        """A host that refuses goal state: the ports that wait for it say so."""
        rows = await asyncio.to_thread(self._store.ports_of_host, host)
        self._report_unsettled(host, rows, reason)

    def _report_unsettled(self, host: str, rows: Sequence[Port], reason: str) -> None:
        self._reports(PortReport(row.id, host, row.revision, reason) for row in rows if not _settled(row))

    async def _vpc_parcels(self, vpc: Id, *, fresh: bool = False) -> list[Parcel]:
        """A VPC's whole scope; `fresh`: without deltas, so that its digest is known."""
        parcels = self._scopes.get(vpc)
        if parcels is not None and not (fresh and self._scopes.digest(vpc) is None):
            return parcels
        network = self._views.networks.get(vpc)
        if network is None:
            return []
        parcel, truth, exact = await asyncio.to_thread(self._read_vpc, network)
        self._scopes.put(parcel, truth)
        if exact:
            self._drift.learn(vpc, truth)
        return [parcel]

    def _read_vpc(self, network: Network) -> tuple[Parcel, int, bool]:
        """On a thread, while the loop's task waits: the views do not change under it. The scope, its digest, and
        whether that is of the last published commit, or of rows some of which are newer."""
        views = self._views
        read = self._store.named_ports if network.on_demand else self._store.ports_of_network
        rows = read(network.id)
        snapshot = views.snapshot(network, rows)
        later = self._store.changes_since(views.revision, LATER_COMMITS)
        exact = (
            all(row.revision <= views.revision for row in rows)
            and later is not None
            and len(later) < LATER_COMMITS
            and not any(one.network_id == network.id for record in later for one in record.departures)
        )
        return _parcel(snapshot), digest(snapshot.objects), exact


def _nobody(reports: Iterable[object]) -> None:
    """Before `run` no host is spoken to, so there is nothing to report."""


def _add(commits: Commits, revision: int, changes: Changes) -> None:
    commits.add_networks(revision, changes.networks, changes.subnets, changes.nodes)
    commits.remove_networks(revision, changes.deleted_networks, changes.deleted_subnets, changes.deleted_nodes)
    commits.add_groups(revision, changes.security_groups, changes.rules, changes.identities)
    commits.remove_groups(revision, changes.deleted_security_groups, changes.deleted_rules, changes.deleted_identities)
    commits.add_qos(revision, changes.qos_policies, (*changes.qos_bindings, *changes.deleted_qos_bindings))
    commits.add_balancing(revision, *changes.balancing())
    commits.add_ports(revision, changes.new_ports, changes.changed_ports, changes.deleted_ports)


def _hurried(changes: Changes) -> Iterable[str]:
    """The hosts of changed ports that ask for the fast path."""
    for port in changes.new_ports:
        if port.fast_path and port.host:
            yield port.host
    for _, port in changes.changed_ports:
        if port.fast_path and port.host:
            yield port.host


def _parcel(update: ScopeUpdate) -> Parcel:
    return Parcel(update.scope, encode_part(update), update.snapshot)


def _settled(port: Port) -> bool:
    """Its host has answered for the present revision, and well."""
    return port.status in (PortStatus.ACTIVE, PortStatus.DOWN) and port.realised_revision == port.revision
