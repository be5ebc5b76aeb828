"""What load balancers carried: counters of hosts, added up. Pure.

Called by loops.publish, which hears hosts, and shown by api. A host's counters grow from when it carries a service;
where they fall it began anew, and what it had counted before is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from alcor.model.addresses import Ip
from alcor.model.ids import Id

MAX_SERVICES = 65_536
"""Services of which counters are kept; beyond, those not heard of for longest are forgotten."""


class Service(NamedTuple):
    """A listener, as hosts name it."""

    network_id: Id
    ip: Ip
    protocol: int
    port: int


class Counts(NamedTuple):
    """What was carried."""

    connections: int = 0
    closed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def active(self) -> int:
        """Connections that were not seen to end."""
        return max(0, self.connections - self.closed)


class Traffic:
    """See the module."""

    def __init__(self) -> None:
        self._hosts: dict[Service, dict[str, tuple[Counts, Counts]]] = {}
        """By service and host: what it counted in earlier lives, and what it counts now."""

    def heard(self, host: str, service: Service, counts: Counts) -> None:
        """A host's counters of a service, as they are."""
        hosts = self._hosts.pop(service, {})
        self._hosts[service] = hosts
        before, now = hosts.get(host, (Counts(), Counts()))
        if counts.connections < now.connections:
            before = before.plus(now)
        hosts[host] = before, counts
        if len(self._hosts) > MAX_SERVICES:
            del self._hosts[next(iter(self._hosts))]

    def of(self, service: Service) -> Counts:
        """Of all hosts."""
        total = Counts()
        for before, now in self._hosts.get(service, {}).values():
            total = total.plus(before).plus(now)
        return total
