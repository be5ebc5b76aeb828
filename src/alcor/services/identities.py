"""Which security groups a port has, and the number that stands for them in its network. Pure.

Called by services.ports. Numbers are given out in turn, freed ones last, and stay until one of their groups is deleted:
what hosts hold of a number is never true of another set of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from alcor.model.addresses import Mac
from alcor.model.ids import Id, format_id
from alcor.model.nouns import AddressPair, Identity
from alcor.services.commands import AddressPairSpec
from alcor.services.errors import (
    AddressPairAndPortSecurityRequired,
    AllowedAddressPairExhausted,
    DuplicateAddressPairInRequest,
    IdentitiesExhausted,
    PortSecurityAndIPRequiredForSecurityGroups,
)
from alcor.services.indexes import Indexes, Stamp
from alcor.services.security_groups import check_groups, default_group
from alcor.store.base import Changes

MAX_IDENTITY = 65_535
MAX_PAIRS = 10
"""Neutron's default."""
TRUSTED_OWNER = "network:"


class Memberships:
    """The groups and identities that one command's ports need; new ones go into its `changes`."""

    def __init__(self, indexes: Indexes, stamp: Stamp, changes: Changes) -> None:
        self._indexes = indexes
        self._stamp = stamp
        self._changes = changes
        self._known: dict[tuple[Id, str, tuple[Id, ...] | None], tuple[tuple[Id, ...], int]] = {}
        self._fresh: dict[Id, dict[tuple[Id, ...], int]] = {}

    def of(self, network_id: Id, project_id: str, wanted: tuple[Id, ...] | None) -> tuple[tuple[Id, ...], int]:
        """The groups (None: the project's default one) and their number. Raises SecurityGroupNotFound,
        IdentitiesExhausted."""
        key = network_id, project_id, wanted
        known = self._known.get(key)
        if known is None:
            if wanted is None:
                groups: tuple[Id, ...] = (default_group(self._indexes, project_id, self._stamp, self._changes).id,)
            else:
                groups = check_groups(self._indexes, wanted, project_id)
            known = self._known[key] = groups, self.number(network_id, groups)
            # Networks that routes lead to or from know every set of groups that such packets may be of.
            for near in self._indexes.neighbours(network_id):
                self.number(near, groups)
        return known

    def number(self, network_id: Id, groups: tuple[Id, ...]) -> int:
        """What stands for the set in the network. Raises IdentitiesExhausted."""
        known = self._indexes.identities.get(network_id, {}).get(groups)
        if known is not None:
            return known.number
        fresh = self._fresh.setdefault(network_id, {})
        if groups not in fresh:
            number = fresh[groups] = self._free_number(network_id, list(fresh.values()))
            identity = Identity(network_id=network_id, number=number, groups=groups, revision=self._stamp.revision)
            self._changes.identities.append(identity)
        return fresh[groups]

    def _free_number(self, network_id: Id, fresh: Sequence[int]) -> int:
        taken = {one.number for one in self._indexes.identities.get(network_id, {}).values()} | set(fresh)
        last: int = max(self._indexes.last_identity.get(network_id, 0), *fresh, 0)
        for number in chain(range(last + 1, MAX_IDENTITY + 1), range(1, last + 1)):
            if number not in taken:
                return number
        raise IdentitiesExhausted(
            f"Network {format_id(network_id)} has ports with {MAX_IDENTITY} different sets of security groups: "
            "give this one a set that another port has, or delete security groups that are not used."
        )


def connect(indexes: Indexes, stamp: Stamp, changes: Changes, network_id: Id, others: Sequence[Id]) -> None:
    """A network comes to be connected with others: each gets numbers for the sets of groups that ports of the other
    side have; new ones go into `changes`. Raises IdentitiesExhausted."""
    memberships = Memberships(indexes, stamp, changes)
    mine = _used(indexes, network_id)
    for other in others:
        if other != network_id:
            for groups in mine:
                memberships.number(other, groups)
            for groups in _used(indexes, other):
                memberships.number(network_id, groups)


def _used(indexes: Indexes, network_id: Id) -> list[tuple[Id, ...]]:
    """The sets of groups that ports of the network have, sorted."""
    known = indexes.identities.get(network_id, {})
    return sorted(groups for groups, one in known.items() if indexes.ports_with[network_id, one.number])


def check_port_security(
    *, enabled: bool, groups: tuple[Id, ...] | None, pairs: Sequence[AddressPairSpec] | Sequence[AddressPair]
) -> None:
    """Raises what cannot be without port security."""
    if enabled:
        return
    if groups:
        raise PortSecurityAndIPRequiredForSecurityGroups(
            "Port security must be enabled and port must have an IP address in order to use security groups."
        )
    if pairs:
        raise AddressPairAndPortSecurityRequired(
            "Port Security must be enabled in order to have allowed address pairs on a port."
        )


def address_pairs(specs: Sequence[AddressPairSpec], own: Mac) -> tuple[AddressPair, ...]:
    """The pairs, with the port's own MAC where none is named. Raises for too many, and for one twice."""
    if len(specs) > MAX_PAIRS:
        raise AllowedAddressPairExhausted(f"The number of allowed address pair exceeds the maximum {MAX_PAIRS}.")
    pairs = [AddressPair(spec.prefix, spec.mac or own) for spec in specs]
    for at, pair in enumerate(pairs):
        if pair in pairs[:at]:
            raise DuplicateAddressPairInRequest(
                f"Request contains duplicate address pair: mac_address {pair.mac.hex(':')} ip_address {pair.prefix}."
            )
    return tuple(pairs)
