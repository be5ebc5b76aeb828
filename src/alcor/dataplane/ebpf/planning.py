"""Which numbers new things get (interfaces, blocks), and which port has which MAC and address. Pure.

Called by the driver before anything is made, so that two ports that cannot both be are told apart by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.dataplane.base import OUTSIDE, LocalPort
from alcor.model.addresses import Ip, Mac, format_ip, format_mac
from alcor.model.ids import Id, format_id


class Numbers:
    """Numbers of a range of our own, given out in turn: one that was freed comes back last."""

    def __init__(self, first: int, last: int) -> None:
        """Both ends are included."""
        self._first, self._end = first, last
        self._last = first - 1
        self._used: set[int] = set()

    def reserve(self, numbers: Iterable[int]) -> None:
        """Says which numbers are in use now (others were freed), and goes on after the highest of the range."""
        self._used = {number for number in numbers if self._first <= number <= self._end}
        self._last = max(self._last, *self._used) if self._used else self._last

    def take(self) -> int:
        """A number that nobody uses."""
        while True:
            self._last = self._last + 1 if self._last < self._end else self._first
            if self._last not in self._used:
                return self._last


class Claims:
    """Who has which MAC and address, per VNI."""

    def __init__(self, ports: Iterable[LocalPort]) -> None:
        self._macs: dict[tuple[int, Mac], Id] = {}
        self._ips: dict[tuple[int, Ip], Id] = {}
        self._of: dict[Id, LocalPort] = {}
        for port in ports:
            self.claim(port)

    def withdraw(self, identifiers: Iterable[Id]) -> None:
        """Forgets what these ports have: they claim anew."""
        for identifier in identifiers:
            port = self._of.pop(identifier, None)
            if port is None:
                continue
            if self._macs.get((port.vni, port.mac)) == identifier:
                del self._macs[port.vni, port.mac]
            for key in _claimed(port):
                if self._ips.get(key) == identifier:
                    del self._ips[key]

    def owner(self, vni: int, ip: Ip) -> Id | None:
        """Who has the address (of VNI 0: outside); None: nobody."""
        return self._ips.get((vni, ip))

    def mac_owner(self, port: LocalPort) -> Id | None:
        """Who has the port's MAC in its VNI; None: nobody."""
        return self._macs.get((port.vni, port.mac))

    def others(self, ports: Iterable[LocalPort]) -> list[LocalPort]:
        """Who has an address of these ports now, if it is another."""
        owners = {(self.owner(*key), port.id) for port in ports for key in _claimed(port)}
        return [self._of[owner] for owner, port in sorted(owners, key=str) if owner is not None and owner != port]

    def claim(self, port: LocalPort) -> str:
        """Gives the port its MAC and addresses; "" or who has one of them already (then it gets none)."""
        owner = self._macs.get((port.vni, port.mac), port.id)
        if owner != port.id:
            return f"MAC {format_mac(port.mac)} is taken by port {format_id(owner)} in VNI {port.vni}: choose another"
        for vni, ip in _claimed(port):
            owner = self._ips.get((vni, ip), port.id)
            if owner != port.id:
                return f"address {format_ip(ip)} is taken by port {format_id(owner)} in VNI {vni}: choose another"
        self._of[port.id] = port
        self._macs[port.vni, port.mac] = port.id
        self._ips.update(dict.fromkeys(_claimed(port), port.id))
        return ""


def _claimed(port: LocalPort) -> list[tuple[int, Ip]]:
    """The addresses that are the port's alone, inside and outside."""
    return [*((port.vni, one.ip) for one in port.addresses), *((OUTSIDE, ip) for ip in port.outer_ips())]
