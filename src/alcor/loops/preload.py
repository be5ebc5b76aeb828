"""Whose endpoints are still to be sent: behind what makes ports ACTIVE. Pure. Called by publish.

A host's first port of a VPC needs the VPC, its subnets and its groups, not where the thousand other ports are. So a
host that starts to carry a VPC of more than AT_ONCE ports is sent a partial scope with its port, and the endpoints once
no host has ports to acknowledge, or PATIENCE_S later; meanwhile its packets ask (docs/rooms/paths.md). The work of
taking in a large VPC then never stands before a port: neither its own nor that of another host on the same processor.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.model.ids import Id

AT_ONCE = 256
"""Ports of a VPC that is sent whole at once: taking these in costs a host less than wiring one port."""
PATIENCE_S = 5.0
"""For hosts that do not answer."""


class Preloads:
    """See the module. Bounded by hosts and the VPCs that they carry. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._under_way: dict[str, float] = {}
        """Host -> since when it has ports to acknowledge."""
        self._owed: dict[Id, dict[str, float]] = {}
        """VPC -> the hosts that lack its endpoints, and since when."""

    def ask(self, hosts: Iterable[str], now: float) -> None:
        """Ports of these hosts are on their way."""
        if self._owed or self._under_way:
            self._under_way = {host: since for host, since in self._under_way.items() if not _over(since, now)}
        self._under_way.update(dict.fromkeys(hosts, now))

    def answered(self, host: str) -> bool:
        """It acknowledged. True: something may be due now."""
        self._under_way.pop(host, None)
        return bool(self._owed) and not self._under_way

    def owe(self, vpc: Id, host: str, now: float) -> None:
        """The host was sent a partial scope."""
        self._owed.setdefault(vpc, {}).setdefault(host, now)

    def forget_host(self, host: str) -> None:
        """It is gone, or in another session, in which it is compared."""
        self._under_way.pop(host, None)
        for vpc in [vpc for vpc, hosts in self._owed.items() if host in hosts]:
            self.settle(vpc, host)

    def settle(self, vpc: Id, host: str) -> None:
        """The host carries the VPC no more, or was sent all of it."""
        hosts = self._owed.get(vpc, {})
        hosts.pop(host, None)
        if not hosts:
            self._owed.pop(vpc, None)

    def take(self, now: float) -> dict[Id, list[str]]:
        """VPC -> hosts to send its endpoints to now; they are owed no more."""
        waiting = any(not _over(since, now) for since in self._under_way.values())
        due: dict[Id, list[str]] = {}
        for vpc, hosts in self._owed.items():
            some = [host for host, since in hosts.items() if not waiting or _over(since, now)]
            if some:
                due[vpc] = sorted(some)
        for vpc, some in due.items():
            for host in some:
                self.settle(vpc, host)
        return dict(sorted(due.items()))

    def due(self) -> float | None:
        """When `take` has something at the latest; None: nothing is owed."""
        since = min((min(hosts.values()) for hosts in self._owed.values()), default=None)
        return since + PATIENCE_S if since is not None else None


def _over(since: float, now: float) -> bool:
    """Patience is; as `due` has it, to the last bit."""
    return since + PATIENCE_S <= now
