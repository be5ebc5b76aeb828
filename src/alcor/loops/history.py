"""What changed in each scope of late, by key: where it reaches back, a host that was away is sent what it missed.

Called by catchup. Filled with every delta that is published, and at the start from the store's change log, so that it
outlives a controller. Bounded for each scope and over all: what is too old is dropped, and its scope then reaches back
less far. Nothing is ever scanned: a question costs what changed since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, repeat

from alcor.goalstate.merge import KIND_OF
from alcor.goalstate.objects import Kind, ScopeUpdate, identity_id
from alcor.loops.views import Views
from alcor.model.ids import Id
from alcor.store.base import ChangeRecord, Store

MAX_MISSED = 4096
"""Changes of one scope that are remembered, and told at most: who missed more is sent the scope whole."""
MAX_KEPT = 131_072
"""Changes of all scopes; some 10 MB."""
SEED_COMMITS = 1024
"""Of the store's log, that are read at the start."""
SEED_RECORDS = 64
"""Records read at once."""

ScopeName = Id | str
"""A VPC, or a host by its name."""
Changed = tuple[Kind, Id]


class _Scope:
    """A scope's changes, oldest first, each with its revision."""

    __slots__ = ("changes", "reach", "weight")

    def __init__(self, reach: int) -> None:
        self.changes: deque[tuple[int, tuple[Changed, ...]]] = deque()
        self.reach = reach
        """Everything that changed after this revision is here."""
        self.weight = 0


class History:
    """See the module."""

    def __init__(self, reach: int) -> None:
        """`reach`: the revision from which on everything is noted."""
        self._reach = reach
        self._scopes: dict[ScopeName, _Scope] = {}
        self._order: deque[ScopeName] = deque()
        """Whose the changes are, oldest first, over all."""
        self._weight = 0

    def note(self, scope: ScopeName, revision: int, changed: Iterable[Changed]) -> None:
        """These changed with that revision, which is not older than any noted before."""
        keys = tuple(changed)
        if not keys:
            return
        known = self._scope(scope)
        known.changes.append((revision, keys))
        known.weight += len(keys)
        self._weight += len(keys)
        self._order.append(scope)
        while known.weight > MAX_MISSED:
            self._drop_oldest(known)
        while self._weight > MAX_KEPT:
            oldest = self._scopes.get(self._order.popleft())
            if oldest is not None and oldest.changes:
                self._drop_oldest(oldest)
        if len(self._order) > 2 * MAX_KEPT:  # mostly of changes that are gone already
            self._order = deque(
                chain.from_iterable(repeat(name, len(one.changes)) for name, one in self._scopes.items())
            )

    def cut(self, scope: ScopeName, revision: int) -> None:
        """With that revision the scope became another one: nobody who holds less is told less than all of it."""
        known = self._scope(scope)
        self._weight -= known.weight
        known.changes.clear()
        known.reach, known.weight = max(known.reach, revision), 0

    def forget(self, vpc: Id) -> None:
        """It is gone, and its id does not come back."""
        known = self._scopes.pop(vpc, None)
        if known is not None:
            self._weight -= known.weight

    def since(self, scope: ScopeName, revision: int) -> dict[Changed, int] | None:
        """What changed after that revision -> with which revision last; None: more than is remembered."""
        known = self._scopes.get(scope)
        if revision < (known.reach if known is not None else self._reach):
            return None
        found: dict[Changed, int] = {}
        for changed_at, keys in reversed(known.changes) if known is not None else ():
            if changed_at <= revision:
                break
            for key in keys:
                found.setdefault(key, changed_at)
        return found

    def _scope(self, scope: ScopeName) -> _Scope:
        known = self._scopes.get(scope)
        if known is None:
            known = self._scopes[scope] = _Scope(self._reach)
        return known

    def _drop_oldest(self, known: _Scope) -> None:
        revision, keys = known.changes.popleft()
        known.reach = revision
        known.weight -= len(keys)
        self._weight -= len(keys)


def keys_of(update: ScopeUpdate) -> Iterator[Changed]:
    """What a delta changes."""
    for goal in update.objects:
        yield KIND_OF[type(goal)], goal.id
    for tombstone in update.tombstones:
        yield tombstone.kind, tombstone.id


def read_history(store: Store, views: Views) -> History:
    """From the store's log as far as it goes; `views` are of the same moment."""
    since = max(0, views.revision - SEED_COMMITS)
    history = History(since)
    while True:
        records = store.changes_since(since, SEED_RECORDS)
        if not records:
            return history if records is not None else History(views.revision)
        for record in records:
            if not _legible(record):
                history = History(record.revision)
            else:
                _replay(history, record, views)
        since = records[-1].revision


_OF_PORT = (Kind.ENDPOINT, Kind.NAME)
"""What a VPC's scope has of a port; the record does not say whether it has a name."""


def _legible(record: ChangeRecord) -> bool:
    """It says which networks it is about; those of older versions do not."""
    ports = sum(count for _, count in record.port_networks)
    return ports == len(record.ports) and len(record.subnet_networks) == len(record.deleted_subnets)


def _replay(history: History, record: ChangeRecord, views: Views) -> None:
    """Notes what the commit changed, if by more than it did: what is told needlessly changes nothing."""
    changed: dict[ScopeName, list[Changed]] = {}
    ports = iter(record.ports)
    for network, count in record.port_networks:
        some = [next(ports) for _ in range(count)]
        changed.setdefault(network, []).extend((kind, port) for port in some for kind in _OF_PORT)
    for departure in record.departures:
        changed.setdefault(departure.network_id, []).extend((kind, departure.port_id) for kind in _OF_PORT)
        if departure.host:
            changed.setdefault(departure.host, []).append((Kind.PORT, departure.port_id))
    for network, subnet in zip(record.subnet_networks, record.deleted_subnets, strict=True):
        changed.setdefault(network, []).append((Kind.SUBNET, subnet))
    for group in record.security_groups:
        for network in views.groups.networks_of(group):
            changed.setdefault(network, []).append((Kind.GROUP, group))
    for network, number in record.identities:
        changed.setdefault(network, []).append((Kind.IDENTITY, identity_id(number)))
        changed[network].extend((Kind.GROUP, group) for group in views.groups.groups_in(network))
    for policy in record.qos_policies:
        for network, named in sorted(views.qos.places_of(policy)):
            changed.setdefault(network, []).append((Kind.QOS, named))
    for outside in record.networks:
        for network in views.qos.networks_of(outside):
            changed.setdefault(network, []).append((Kind.QOS, outside))
    for network, policy in record.qos_bindings:
        changed.setdefault(network, []).append((Kind.QOS, policy))
    subnets = set(record.subnets)
    for network in {one.network_id for some in views.subnets.values() for one in some.values() if one.id in subnets}:
        changed.setdefault(network, []).extend((Kind.SUBNET, one) for one in subnets & views.subnets[network].keys())
    for scope, keys in changed.items():
        history.note(scope, record.revision, dict.fromkeys(keys))
    # What is not in the record, or would be all of the scope.
    nodes = set(record.nodes)
    cut = {vpc for node in views.nodes.values() if node.id in nodes for vpc in views.subscriptions.vpcs(node.name)}
    cut.update(record.networks)
    cut.update(network for network, _ in record.deleted_identities)
    cut.update(record.road_networks)
    cut.update(record.balancing_networks)
    for network in cut & views.networks.keys():
        history.cut(network, record.revision)
