"""Who asked where an address of a VPC on demand is, and so must hear when that changes. Pure but for its own state.

Called by answer. An exact mirror of what hosts hold: they say what they forget, and start over with each session.
Bounded: what is more is taken back (`over`), oldest first, and the host that it is taken from is told.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.model.addresses import Ip
from alcor.model.ids import Id

MAX_OF_HOST = 65_536
"""Addresses that one host may hold."""
MAX_OF_ALL = 2_000_000
"""Addresses that all hosts together may hold; 300 bytes each."""
EVICTED_SHARE = 4
"""When all together are too many, the host with the most loses one in so many."""


class Interest:
    """See the module."""

    def __init__(self, max_of_host: int = MAX_OF_HOST, max_of_all: int = MAX_OF_ALL) -> None:
        self._hosts: dict[Id, dict[Ip, str | set[str]]] = {}
        """VPC -> address -> the host, nearly always one, or hosts."""
        self._held: dict[str, dict[tuple[Id, Ip], None]] = {}
        """Host -> what it holds, what it asked for last being last."""
        self._count = 0
        self._max_of_host, self._max_of_all = max_of_host, max_of_all

    def __len__(self) -> int:
        return self._count

    def add(self, host: str, vpc: Id, ips: Iterable[Ip]) -> None:
        """The host is told about these."""
        held = self._held.setdefault(host, {})
        hosts = self._hosts.setdefault(vpc, {})
        for ip in ips:
            if (vpc, ip) in held:
                del held[vpc, ip]
            else:
                self._count += 1
                others = hosts.get(ip)
                if others is None:
                    hosts[ip] = host
                elif isinstance(others, str):
                    hosts[ip] = {others, host}
                else:
                    others.add(host)
            held[vpc, ip] = None

    def holds(self, host: str, vpc: Id, ip: Ip) -> bool:
        """The host was told about it."""
        return (vpc, ip) in self._held.get(host, ())

    def hosts(self, vpc: Id, ip: Ip) -> Iterable[str]:
        """Who must hear of that address."""
        found = self._hosts.get(vpc, {}).get(ip, ())
        return (found,) if isinstance(found, str) else sorted(found)

    def watches(self, vpc: Id) -> bool:
        """Somebody holds an address of the VPC."""
        return vpc in self._hosts

    def forget(self, host: str, vpc: Id, ips: Iterable[Ip]) -> None:
        """The host holds these no more."""
        held = self._held.get(host, {})
        for ip in ips:
            if (vpc, ip) in held:
                del held[vpc, ip]
                self._drop(host, vpc, ip)
        if not held:
            self._held.pop(host, None)

    def forget_host(self, host: str) -> None:
        """It holds nothing."""
        for vpc, ip in self._held.pop(host, ()):
            self._drop(host, vpc, ip)

    def forget_vpc(self, vpc: Id) -> None:
        """Nobody holds anything of it."""
        for ip, hosts in self._hosts.pop(vpc, {}).items():
            for host in (hosts,) if isinstance(hosts, str) else hosts:
                held = self._held[host]
                del held[vpc, ip]
                self._count -= 1
                if not held:
                    del self._held[host]

    def over(self, host: str) -> dict[str, list[tuple[Id, Ip]]]:
        """What is too much now that this host asked: it is forgotten here, and the hosts must forget it too."""
        evicted: dict[str, list[tuple[Id, Ip]]] = {}
        held = self._held.get(host, {})
        if len(held) > self._max_of_host:
            evicted[host] = list(held)[: len(held) - self._max_of_host]
        elif self._count > self._max_of_all:
            most = max(self._held, key=lambda name: len(self._held[name]))
            evicted[most] = list(self._held[most])[: 1 + len(self._held[most]) // EVICTED_SHARE]
        for name, keys in evicted.items():
            for vpc, ip in keys:
                self.forget(name, vpc, (ip,))
        return evicted

    def _drop(self, host: str, vpc: Id, ip: Ip) -> None:
        self._count -= 1
        hosts = self._hosts[vpc]
        others = hosts[ip]
        if isinstance(others, set):
            others.discard(host)
            if len(others) == 1:
                hosts[ip] = others.pop()
        else:
            del hosts[ip]
            if not hosts:
                del self._hosts[vpc]
