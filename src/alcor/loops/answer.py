"""The answer loop: where an address of a VPC on demand is, for the hosts that ask, and again when it changes.

Owned by publish, on its event loop. What waits is answered together: one read of the store for all of it, and one
message to each host. Reading is done on the loop, a slice at a time: a row costs some microseconds, a thread more.

Why no host is left with an old answer: it is noted before the store is read that the host must hear of changes
(`interest`), and the answer claims the revision of the last published commit only. A commit after that is published
later, to whoever is noted then, with a newer revision; the host lets the newest win, in whatever order they come.

Whoever is asked about will answer the packet that asked: its host is told unasked where that comes from, a hint. Hints
are not noted, because a host that forgets may just be saying so; who keeps one asks, and is noted then. A host's hints
are about its own ports only, and whom it asks about hears of each of them once a second at most.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from alcor.goalstate.delta import EndpointMove
from alcor.loops.interest import Interest
from alcor.loops.views import Views
from alcor.model.addresses import Ip, Mac, mac_of_link_local
from alcor.model.ids import Id
from alcor.paths.base import Path
from alcor.store.base import Location, Store
from alcor.wire.lookups import MAX_LOOKUP, Answer, Found, Lookup

SLICE = 512
"""Addresses that are read at once, about: a few milliseconds of the loop."""
MAX_WAITING = 1_000_000
"""Addresses that may wait; a Lookup beyond is dropped, and the host asks again."""
MAX_HINTS = 4096
"""In HINTS_S, of all hosts; those beyond must ask."""
MAX_HOST_HINTS = 256
"""Of these, because of what one host asks."""
HINTS_S = 1.0
"""The same hint is not given to a host more often."""


class _Asked(NamedTuple):
    host: str
    vpc: Id
    ips: tuple[Ip, ...]
    sources: tuple[Ip, ...]
    """Of the first of them."""


class _There(NamedTuple):
    host: str
    found: Found


class Answers:
    """See the module."""

    def __init__(self, store: Store, views: Views) -> None:
        self._store = store
        self._views = views
        self._interest = Interest()
        self._waiting: deque[_Asked] = deque()
        self._weight = 0
        self.answered = 0
        """Addresses that hosts were told of because they asked."""
        self._hinted: set[tuple[str, Id, Ip]] = set()
        """Hints of this HINTS_S."""
        self._hints_of = Counter[str]()
        """How many of them are because of whom."""
        self._hints_until = 0.0

    @property
    def held(self) -> int:
        """Addresses that hosts hold, all together."""
        return len(self._interest)

    # What hosts ask.

    def asked(self, path: Path, host: str, lookup: Lookup) -> None:
        """A host asks, and tells what it forgot. It is answered soon."""
        for wanted in lookup.vpcs:
            self._interest.forget(host, wanted.vpc, wanted.forgotten)
            if wanted.ips and self._weight + len(wanted.ips) <= MAX_WAITING:
                if not self._waiting:
                    asyncio.get_running_loop().call_soon(self._answer, path)
                self._waiting.append(_Asked(host, wanted.vpc, wanted.ips, wanted.sources))
                self._weight += len(wanted.ips)

    def _answer(self, path: Path) -> None:
        """Answers a slice of what waits."""
        views, weight = self._views, 0
        some: list[_Asked] = []
        while self._waiting and weight < SLICE:
            some.append(self._waiting.popleft())
            weight += len(some[-1].ips)
        self._weight -= weight
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer, path)
            # Who asks comes before who did not: a hint is a message, and answers to many questions are one.
            some = [one._replace(sources=()) for one in some]
        for one in some:
            if self._answerable(one) and one.vpc in views.on_demand:
                self._interest.add(one.host, one.vpc, one.ips)
        revision = views.revision
        found = self._read(some)
        replies: dict[str, list[Answer]] = {}
        for one in some:
            replies.setdefault(one.host, []).append(self._reply(one, found, revision))
        for host, answers in replies.items():
            path.answer(host, answers)
            self._take_back(path, host)
        for host, hints in self._hints(path, some, found, revision).items():
            path.answer(host, hints)
        self.answered += weight

    def _answerable(self, asked: _Asked) -> bool:
        """The host needs the VPC. A host may ask for nothing else. Of one that is preloaded all endpoints are on their
        way to it: nobody need remember what it was told."""
        return self._views.subscriptions.needs(asked.host, asked.vpc)

    def _hints(
        self, path: Path, some: Iterable[_Asked], found: Mapping[Id, Mapping[Ip, _There]], revision: int
    ) -> dict[str, list[Answer]]:
        """What the hosts that are asked about are told unasked: where their replies will go."""
        now = asyncio.get_running_loop().time()
        if now >= self._hints_until:
            self._hinted.clear()
            self._hints_of.clear()
            self._hints_until = now + HINTS_S
        hints: dict[tuple[str, Id], list[Found]] = {}
        for one in some:
            there = found.get(one.vpc, {})
            for ip, source in zip(one.ips, one.sources, strict=False):
                sought, asking = there.get(ip), there.get(source)
                if sought is None or sought.host == one.host:
                    continue
                if asking is None or asking.host != one.host:
                    continue  # a host may speak of its own ports only
                key = sought.host, one.vpc, source
                if self._hints_of[one.host] < MAX_HOST_HINTS and self._may_hint(path, key):
                    self._hinted.add(key)
                    self._hints_of[one.host] += 1
                    hints.setdefault((sought.host, one.vpc), []).append(asking.found)
        told: dict[str, list[Answer]] = {}
        for (host, vpc), rows in hints.items():
            told.setdefault(host, []).append(Answer(vpc, revision, tuple(rows), unasked=True))
        return told

    def _may_hint(self, path: Path, key: tuple[str, Id, Ip]) -> bool:
        """The host can use it, and does not have it."""
        host, vpc, source = key
        return (
            key not in self._hinted
            and len(self._hinted) < MAX_HINTS
            and vpc in self._views.on_demand
            and self._views.subscriptions.needs(host, vpc)
            and not self._interest.holds(host, vpc, source)
            and path.listening(host)
        )

    def _reply(self, asked: _Asked, found: Mapping[Id, Mapping[Ip, _There]], revision: int) -> Answer:
        if not self._answerable(asked):
            return Answer(asked.vpc, revision, unlearn=asked.ips)
        there = found.get(asked.vpc, {})
        return Answer(
            asked.vpc,
            revision,
            tuple([there[ip].found for ip in asked.ips if ip in there]),
            tuple([ip for ip in asked.ips if ip not in there]),
        )

    def _read(self, some: Iterable[_Asked]) -> dict[Id, dict[Ip, _There]]:
        """Where these addresses are, and their packets' sources, by VPC; each is read once, whoever asks."""
        subnets: dict[tuple[Id, Id], dict[Ip, None]] = {}
        macs: dict[Id, dict[Mac, None]] = {}
        for one in some:
            if not self._answerable(one):
                continue
            for ip in (*one.ips, *one.sources):
                subnet = self._views.subnet_at(one.vpc, ip)
                mac = mac_of_link_local(ip) if subnet is None else None
                if subnet is not None:
                    subnets.setdefault((one.vpc, subnet), {})[ip] = None
                elif mac is not None:
                    macs.setdefault(one.vpc, {})[mac] = None
        found: dict[Id, dict[Ip, _There]] = {}
        for (vpc, subnet), ips in subnets.items():
            self._place(found.setdefault(vpc, {}), self._store.locate(subnet, list(ips)))
        for vpc, some_macs in macs.items():
            self._place(found.setdefault(vpc, {}), self._store.locate_macs(vpc, list(some_macs)))
        for one in some if self._views.claims else ():
            if self._answerable(one):
                self._place_claimed(one.vpc, (*one.ips, *one.sources), found.setdefault(one.vpc, {}))
        return found

    def _place_claimed(self, vpc: Id, ips: Iterable[Ip], found: dict[Ip, _There]) -> None:
        """What no port has as its own (or an unbound one) may be claimed."""
        owners = {ip: self._views.claims.owner(vpc, ip) for ip in ips if ip not in found}
        ports = {port.id: port for port in self._store.get_ports({one for one in owners.values() if one is not None})}
        for ip, owner in owners.items():
            port = ports.get(owner) if owner is not None else None
            if port is not None:
                macs = (claim.mac for claim in port.claims if claim.ip == ip)
                self._place(found, [Location(ip, mac, port.host, port.identity) for mac in macs])

    def _place(self, found: dict[Ip, _There], located: Iterable[Location]) -> None:
        nodes = self._views.nodes
        for ip, mac, host, identity in located:
            node = nodes.get(host)
            if node is not None:
                found[ip] = _There(host, Found(ip, mac, node.underlay_ip, identity))

    def _take_back(self, path: Path, host: str) -> None:
        """Tells hosts to forget what is too much to be kept track of."""
        for name, keys in self._interest.over(host).items():
            by_vpc: dict[Id, list[Ip]] = {}
            for vpc, ip in keys:
                by_vpc.setdefault(vpc, []).append(ip)
            for vpc, ips in by_vpc.items():
                for at in range(0, len(ips), MAX_LOOKUP):
                    path.answer(name, [Answer(vpc, self._views.revision, unlearn=tuple(ips[at : at + MAX_LOOKUP]))])

    # What changes.

    def changed(self, path: Path, moves: Mapping[Id, Iterable[EndpointMove]]) -> None:
        """Tells those who hold these endpoints where they are now."""
        replies: dict[str, list[Answer]] = {}
        for vpc, some in moves.items():
            if not self._interest.watches(vpc):
                continue
            now: dict[Ip, Found | None] = {}
            for move in some:
                for ip in move.before:
                    now.setdefault(ip, None)
                if move.after is not None:
                    goal = move.after
                    for ip in goal.places():
                        now[ip] = Found(ip, goal.mac_at(ip), goal.host_ip, goal.identity)
            news: dict[str, list[Ip]] = {}
            for ip in now:
                for host in self._interest.hosts(vpc, ip):
                    news.setdefault(host, []).append(ip)
            for host, ips in news.items():
                for at in range(0, len(ips), MAX_LOOKUP):
                    part = ips[at : at + MAX_LOOKUP]
                    here = tuple([found for ip in part if (found := now[ip]) is not None])
                    gone = tuple([ip for ip in part if now[ip] is None])
                    replies.setdefault(host, []).append(Answer(vpc, self._views.revision, here, gone))
        for host, answers in replies.items():
            for answer in answers:
                path.answer(host, [answer])

    def forget_host(self, host: str) -> None:
        """It is gone, or in another session: it will ask again."""
        self._interest.forget_host(host)

    def forget_vpc(self, vpc: Id) -> None:
        """It is gone, or on demand no more."""
        self._interest.forget_vpc(vpc)
