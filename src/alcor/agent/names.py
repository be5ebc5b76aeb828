"""The names of a VPC's ports, both ways. Pure. Kept by state; read by directory, on another thread: what a look-up
finds is never changed afterwards, only replaced."""

from __future__ import annotations

from alcor.goalstate.objects import NameGoal
from alcor.model.addresses import Ip
from alcor.model.ids import Id


class Names:
    """See the module."""

    __slots__ = ("_by_ip", "_by_name")

    def __init__(self) -> None:
        self._by_name: dict[str, dict[Id, tuple[Ip, ...]]] = {}
        """Name -> the ports that have it -> their addresses."""
        self._by_ip: dict[Ip, tuple[Id, str]] = {}

    def addresses(self, name: str) -> tuple[Ip, ...]:
        """Of the ports with that name, by port; none: there is no such port."""
        found = self._by_name.get(name)
        return tuple([ip for _, ips in sorted(found.items()) for ip in ips]) if found else ()

    def name(self, ip: Ip) -> str:
        """Of the port with that address; empty: it has none."""
        found = self._by_ip.get(ip)
        return found[1] if found is not None else ""

    def change(self, before: NameGoal | None, after: NameGoal | None) -> None:
        """A name came, went or changed."""
        if before is not None:
            rest = {port: ips for port, ips in self._by_name.get(before.name, {}).items() if port != before.id}
            self._put(before.name, rest)
            for ip in before.ips:
                if self._by_ip.get(ip, (None, ""))[0] == before.id:
                    del self._by_ip[ip]
        if after is not None:
            self._put(after.name, {**self._by_name.get(after.name, {}), after.id: after.ips})
            self._by_ip.update((ip, (after.id, after.name)) for ip in after.ips)

    def _put(self, name: str, ports: dict[Id, tuple[Ip, ...]]) -> None:
        if ports:
            self._by_name[name] = ports
        else:
            self._by_name.pop(name, None)
