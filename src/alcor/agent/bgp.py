"""Which external addresses this host answers for, told to a BGP speaker on it. Called by reconcile (what the data plane
carries) and core (which lets it write), on the worker's thread; wired by roles where it is asked for.

What is announced is what is carried: EIPs and forwarded addresses of this host's ports, their own addresses in open
subnets (IPv6), and the shared addresses that it is the answerer of. It is written into a table that the speaker reads
(dataplane.kernel.speaker), after the data plane and its answers: the session with the routers is the speaker's, and
nothing here waits for it.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from alcor.dataplane.base import OUTSIDE, Applied, LocalPort, Observed, Plan, Route, RouteKey
from alcor.kit.backoff import Backoff
from alcor.model.addresses import Ip, Prefix, ip_to_int, ip_version
from alcor.model.ids import Id

_log = logging.getLogger(__name__)

RETRY = Backoff(first_s=0.5, cap_s=30.0)


class SpeakerTable(Protocol):
    """Where a BGP speaker finds addresses to announce, each by itself (/32, /128)."""

    number: int
    """What it is called on the host."""

    def read(self) -> set[Ip]:
        """Those that are there and ours. Raises OSError."""
        ...

    def change(self, put: Sequence[Ip], remove: Sequence[Ip]) -> None:
        """An absent one is removed already. Raises OSError: then some may be as they were."""
        ...


class BgpStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a speaker on this host is given to announce."""

    table: int
    routes: int
    error: str
    """Why the table may not be as it should; it is tried again. Empty when it is."""


class Bgp:
    """See the module."""

    def __init__(
        self,
        table: SpeakerTable,
        host_ip: Ip,
        clock: Callable[[], float] = time.monotonic,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """`host_ip` is this host's tunnel end, by which an answerer is named; `clock` answers monotonic seconds, `roll`
        a random number in [0, 1)."""
        self._table = table
        self._host_ip = host_ip
        self._clock = clock
        self._roll = roll
        self._here: dict[Id, LocalPort] = {}
        """Ports that are or may be announced: with addresses outside, or of IPv6."""
        self._open = OpenPrefixes()
        self._outer: dict[Id, frozenset[Ip]] = {}
        """Of ports that have any."""
        self._ports: Counter[Ip] = Counter()
        """How many ports each address is with: two, for a moment, when it moves on this host."""
        self._answers: set[Ip] = set()
        """Shared addresses that this host answers for."""
        self._there: set[Ip] = set()
        """In the table, as last seen and changed since."""
        self._changed: set[Ip] = set()
        self._whole = False
        """The table is to be read, and all of it to be looked at."""
        self._attempts = 0
        self._due = 0.0
        self._error = ""

    def observed(self, observed: Observed) -> None:
        """The data plane carries this, and nothing else."""
        self._open = OpenPrefixes(observed.routes)
        self._here = {port.id: port for port in observed.ports.values() if _may_be_outside(port)}
        self._outer = {port.id: outer for port in self._here.values() if (outer := self._outer_of(port))}
        self._ports = Counter(ip for some in self._outer.values() for ip in some)
        self._answers = set(observed.answers)
        self._whole = True

    def applied(self, plan: Plan, applied: Applied) -> None:
        """This was changed. What failed is taken for what it was: it is observed before it is tried again."""
        puts = {port.id: port for port in plan.put_ports}
        for result in applied.ports:
            port = puts.get(result.id)
            if result.error or (applied.error and port is not None):
                continue
            if port is not None and _may_be_outside(port):
                self._here[port.id] = port
                self._put(port.id, self._outer_of(port))
            elif self._here.pop(result.id, None) is not None:
                self._put(result.id, frozenset())
        if not applied.error and self._open.change(plan.put_routes, plan.remove_routes):
            for port in self._here.values():
                self._put(port.id, self._outer_of(port))
        if not applied.error:
            mine = {ip for ip, one in plan.put_shared if one.answerer == self._host_ip}
            named = {*(ip for ip, _ in plan.put_shared), *plan.remove_shared}
            self._changed |= mine ^ (self._answers & named)
            self._answers = (self._answers - named) | mine

    def _put(self, port: Id, outer: frozenset[Ip]) -> None:
        before = self._outer.pop(port, frozenset())
        if outer:
            self._outer[port] = outer
        self._ports.update(outer - before)
        for ip in before - outer:
            self._ports[ip] -= 1
            if not self._ports[ip]:
                del self._ports[ip]
        self._changed |= before ^ outer

    def due(self) -> float:
        """When `settle` has something to do, by the clock."""
        return self._due if self._whole or self._changed else float("inf")

    def settle(self) -> None:
        """Makes the table right, when that is due: what changed, or, at first and after a failure, all of it."""
        if self.due() > self._clock():
            return
        try:
            if self._whole:
                self._there = self._table.read()
                wanted = self._answers | self._ports.keys()
                self._write(wanted - self._there, self._there - wanted)
            else:
                here = {ip for ip in self._changed if ip in self._answers or ip in self._ports}
                self._write(here - self._there, (self._changed - here) & self._there)
        except OSError as error:
            self._fail(error)
            return
        self._changed.clear()
        self._whole, self._attempts, self._due = False, 0, 0.0
        if self._error:
            _log.warning("table %d is as it should be again: %d routes", self._table.number, len(self._there))
        self._error = ""

    def _write(self, put: Iterable[Ip], remove: Iterable[Ip]) -> None:
        put, remove = sorted(put), sorted(remove)
        if put or remove:
            self._table.change(put, remove)
            self._there.update(put)
            self._there.difference_update(remove)

    def _fail(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason != self._error:
            _log.error(
                "what the BGP speaker is to announce cannot be written: %s; look at `ip route show table %d`, and "
                "whether the agent may change routes (CAP_NET_ADMIN). It is tried again",
                *(reason, self._table.number),
            )
        self._error = reason
        self._whole = True
        self._due = self._clock() + RETRY.delay_s(self._attempts, self._roll())
        self._attempts += 1

    def status(self) -> BgpStatus:
        """For local tooling."""
        return BgpStatus(table=self._table.number, routes=len(self._there), error=self._error)

    def _outer_of(self, port: LocalPort) -> frozenset[Ip]:
        own = (ip for ip in _own(port) if self._open.leads(ip, port.vni)) if self._open else ()
        return frozenset((*port.outer_ips(), *own))


class OpenPrefixes:
    """Where the addresses of open subnets are: what of the routes of VNI OUTSIDE leads to VPCs."""

    def __init__(self, routes: Mapping[RouteKey, Route] | None = None) -> None:
        self._vnis: dict[int, dict[int, int]] = {}
        """Prefix length -> the prefix's bits -> VNI."""
        self.change((routes or {}).items(), ())

    def __bool__(self) -> bool:
        return bool(self._vnis)

    def change(self, put: Iterable[tuple[RouteKey, Route]], remove: Iterable[RouteKey]) -> bool:
        """Takes in routes; says whether anything is different."""
        now: dict[Prefix, int | None] = {key.prefix: None for key in remove if key.vni == OUTSIDE}
        now |= {key.prefix: route.hops[0].vni for key, route in put if key.vni == OUTSIDE and route.hops}
        different = False
        for prefix, vni in now.items():
            known = self._vnis.setdefault(prefix.length, {})
            bits = prefix.first >> (128 - prefix.length)
            different = different or known.get(bits) != vni
            if vni is None:
                known.pop(bits, None)
            else:
                known[bits] = vni
            if not known:
                del self._vnis[prefix.length]
        return different

    def leads(self, ip: Ip, vni: int) -> bool:
        """The longest route to the address leads to that VPC."""
        for length in sorted(self._vnis, reverse=True):
            found = self._vnis[length].get(ip_to_int(ip) >> (128 - length))
            if found is not None:
                return found == vni
        return False


def _own(port: LocalPort) -> list[Ip]:
    """The port's IPv6 addresses, those that it claims, too."""
    every = [*(one.ip for one in port.addresses), *(one.ip for one in port.claims)]
    return [ip for ip in every if ip_version(ip) == 6]


def _may_be_outside(port: LocalPort) -> bool:
    return bool(port.eips or port.forwardings or _own(port))
