"""Which port claims an address of its allowed pairs, in memory. Part of Indexes and of the loops' views. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from alcor.model.addresses import Ip
from alcor.model.ids import Id
from alcor.model.nouns import Port
from alcor.store.base import Changes


class Claimants:
    """(network, address) -> the port that claims it. Kept up to date by `apply`."""

    def __init__(self, ports: Iterable[Port] = ()) -> None:
        """`ports`: all that claim something."""
        self._owners: dict[tuple[Id, Ip], Id] = {}
        for port in ports:
            self._put(port)

    def __bool__(self) -> bool:
        """Somebody claims something."""
        return bool(self._owners)

    def owner(self, network_id: Id, ip: Ip) -> Id | None:
        """Who claims the address; None: nobody."""
        return self._owners.get((network_id, ip))

    def all(self) -> dict[tuple[Id, Ip], Id]:
        """A copy."""
        return dict(self._owners)

    def apply(self, changes: Changes) -> None:
        """Takes in what a command changed. New ports claim nothing."""
        for before, after in changes.changed_ports:
            if before.claims != after.claims:
                self._drop(before)
                self._put(after)
        for port in changes.deleted_ports:
            self._drop(port)

    def _put(self, port: Port) -> None:
        for claim in port.claims:
            self._owners[port.network_id, claim.ip] = port.id

    def _drop(self, port: Port) -> None:
        for claim in port.claims:
            key = (port.network_id, claim.ip)
            if self._owners.get(key) == port.id:  # else it is another's already: they changed together
                del self._owners[key]
