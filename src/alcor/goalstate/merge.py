"""What a party holds of one scope, and how updates merge into it. Pure: state in, changes out, no I/O.

Called by the agent. Updates may repeat, race, reorder and mix paths: for each object the newest revision wins, a
tombstone beats an object of the same revision, and a snapshot is a tombstone of its revision for whatever it lacks.
Whoever has merged the same updates, in any order, holds the same objects and digest.

`floor` is what makes forgetting safe. Every object up to that revision which is not held is known to be gone, so a
delta cannot bring it back and no tombstone up to it needs to be kept. A snapshot raises the floor; so does dropping
the oldest tombstones when there are too many. A snapshot that reaches at least as far as the floor is believed whole:
that is how a mistake is repaired.

A VPC that is on demand has no endpoints in its scope. It says so as of its own revision: endpoints up to that are none,
and a snapshot without them means nothing once a newer word has it preloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple, cast

from alcor.goalstate.digest import DIGEST_MODULUS, digest_of_many, object_digest
from alcor.goalstate.objects import (
    HOST_SCOPE,
    BalancerGoal,
    EndpointGoal,
    Goal,
    GroupGoal,
    IdentityGoal,
    Kind,
    MemberGoal,
    NameGoal,
    PeeringGoal,
    PoolGoal,
    PortGoal,
    QosGoal,
    RouterGoal,
    ScopeUpdate,
    SubnetGoal,
    Tombstone,
    VpcGoal,
)
from alcor.model.ids import Id

MAX_TOMBSTONES = 65_536
"""Per scope. Beyond it the older half is dropped and the floor rises."""

KIND_OF: dict[type[Goal], Kind] = {
    VpcGoal: Kind.VPC,
    SubnetGoal: Kind.SUBNET,
    PortGoal: Kind.PORT,
    EndpointGoal: Kind.ENDPOINT,
    IdentityGoal: Kind.IDENTITY,
    GroupGoal: Kind.GROUP,
    RouterGoal: Kind.ROUTER,
    PeeringGoal: Kind.PEERING,
    BalancerGoal: Kind.BALANCER,
    PoolGoal: Kind.POOL,
    MemberGoal: Kind.MEMBER,
    NameGoal: Kind.NAME,
    QosGoal: Kind.QOS,
}


_TABLES = {
    Kind.VPC: "vpcs",
    Kind.SUBNET: "subnets",
    Kind.PORT: "ports",
    Kind.ENDPOINT: "endpoints",
    Kind.IDENTITY: "identities",
    Kind.GROUP: "groups",
    Kind.ROUTER: "routers",
    Kind.PEERING: "peerings",
    Kind.BALANCER: "balancers",
    Kind.POOL: "pools",
    Kind.MEMBER: "members",
    Kind.NAME: "names",
    Kind.QOS: "qos",
}
"""Where a ScopeState has them."""


class Change(NamedTuple):
    """An object as it was held and as it is now; None: not held."""

    kind: Kind
    id: Id
    before: Goal | None
    after: Goal | None


class Merged(NamedTuple):
    """What an update did to a scope: `loaded`, then `changes`."""

    changes: list[Change]
    loaded: tuple[EndpointGoal, ...] = ()
    """New endpoints of a scope that had none: they may be a million, and are not told of one by one."""


class ScopeState:
    """The objects of one scope, and what is remembered of those that went."""

    __slots__ = (
        "_tombstones",
        "balancers",
        "complete",
        "digest",
        "endpoints",
        "floor",
        "groups",
        "identities",
        "members",
        "names",
        "partial",
        "peerings",
        "pools",
        "ports",
        "qos",
        "revision",
        "routers",
        "scope",
        "subnets",
        "vpcs",
    )

    def __init__(self, scope: Id) -> None:
        self.scope = scope
        self.revision = 0
        """How far the updates merged so far reach."""
        self.floor = 0
        self.digest = 0
        self.complete = False
        """A snapshot has been merged: what is not held is not there."""
        self.partial = False
        """All but the endpoints has come: the snapshot is on its way."""
        self.vpcs: dict[Id, VpcGoal] = {}
        self.subnets: dict[Id, SubnetGoal] = {}
        self.ports: dict[Id, PortGoal] = {}
        self.endpoints: dict[Id, EndpointGoal] = {}
        self.identities: dict[Id, IdentityGoal] = {}
        self.groups: dict[Id, GroupGoal] = {}
        self.routers: dict[Id, RouterGoal] = {}
        self.peerings: dict[Id, PeeringGoal] = {}
        self.balancers: dict[Id, BalancerGoal] = {}
        self.pools: dict[Id, PoolGoal] = {}
        self.members: dict[Id, MemberGoal] = {}
        self.names: dict[Id, NameGoal] = {}
        self.qos: dict[Id, QosGoal] = {}
        self._tombstones: dict[tuple[Kind, Id], int] = {}

    def merge(self, update: ScopeUpdate) -> Merged:
        """Takes in what is newer than what is held; returns what changed. Idempotent."""
        changes: list[Change] = []
        held_before = len(self)
        loaded = self._merge_objects(update, changes)
        if self.endpoints and changes and changes[0].kind is Kind.VPC:
            self._drop_endpoints(changes)
        for tombstone in update.tombstones:
            self._bury(tombstone, changes)
        if update.snapshot:
            if held_before:
                self._remove_missing(update, changes)
            self.complete, self.partial = True, False
            if update.revision > self.floor:
                self._raise_floor(update.revision)
        if update.partial and not self.complete:
            self.partial = True
        if update.revision > self.revision:
            self.revision = update.revision
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._raise_floor(sorted(self._tombstones.values())[len(self._tombstones) // 2])
        self._update_digest(changes)
        return Merged(changes, loaded)

    def after(self, update: ScopeUpdate) -> int:
        """The digest that merging it would lead to; nothing is changed. Costs a copy of the tables."""
        trial = ScopeState(self.scope)
        for name in (*_TABLES.values(), "_tombstones"):
            setattr(trial, name, dict(getattr(self, name)))
        trial.revision, trial.floor, trial.digest = self.revision, self.floor, self.digest
        trial.merge(update)
        return trial.digest

    def confirm(self, revision: int, digest: int) -> bool:
        """What has that digest is the scope as of `revision`: if that is what is held, what is not held is not there.
        False: something else is held. (A VPC's scope is held only if a snapshot came first.)"""
        if digest == self.digest and (self.complete or self.scope == HOST_SCOPE):
            self.restore(revision=revision, floor=revision, complete=True)
            return True
        return False

    def objects(self) -> Iterator[Goal]:
        """Everything held, sorted by key."""
        for kind in Kind:
            table = self._table(kind)
            for identifier in sorted(table):
                yield table[identifier]

    def tombstones(self) -> Iterator[Tombstone]:
        """Everything remembered as gone, sorted by key."""
        for kind, identifier in sorted(self._tombstones):
            yield Tombstone(kind, identifier, self._tombstones[kind, identifier])

    def restore(self, *, revision: int, floor: int, complete: bool) -> None:
        """Sets what objects and tombstones do not say, after they were merged from a journal."""
        self.revision = max(self.revision, revision)
        self.complete = complete
        self._raise_floor(max(self.floor, floor))

    def __len__(self) -> int:
        return sum(len(self._table(kind)) for kind in Kind)

    def _table(self, kind: Kind) -> dict[Id, Goal]:
        table: dict[Id, Goal] = getattr(self, _TABLES[kind])
        return table

    def _merge_objects(self, update: ScopeUpdate, changes: list[Change]) -> tuple[EndpointGoal, ...]:
        floor = 0 if update.snapshot and update.revision >= self.floor else self.floor
        loaded: tuple[EndpointGoal, ...] = ()
        goals: Iterable[Goal]
        for kind_of, goals in groupby(update.objects, type):  # they come sorted by kind
            kind = KIND_OF[kind_of]
            least = floor
            if kind is Kind.ENDPOINT:
                least = max(floor, self._on_demand_as_of())
                if not self.endpoints and not self._tombstones:
                    goals = endpoints = cast(tuple[EndpointGoal, ...], tuple(goals))
                    if self._load(endpoints, least):
                        loaded = endpoints
                        continue
            self._merge_some(kind, goals, least, changes)
        return loaded

    def _load(self, goals: tuple[EndpointGoal, ...], least: int) -> bool:
        """Takes all of them, whole columns at a time; False: they have to be looked at one by one."""
        identifiers = [goal.id for goal in goals]
        revisions = [goal.revision for goal in goals]
        if min(revisions) <= least:
            return False
        self.endpoints.update(zip(identifiers, goals, strict=True))
        if len(self.endpoints) != len(goals):
            self.endpoints.clear()
            return False
        self.digest = (self.digest + digest_of_many(Kind.ENDPOINT, identifiers, revisions)) % DIGEST_MODULUS
        return True

    def _merge_some(self, kind: Kind, goals: Iterable[Goal], least: int, changes: list[Change]) -> None:
        """Objects of one kind. Of what is not held, what is no newer than `least` is known to be gone."""
        tombstones, table = self._tombstones, self._table(kind)
        for goal in goals:
            identifier = goal.id
            held = table.get(identifier)
            if (goal.revision <= least) if held is None else (held.revision >= goal.revision):
                continue
            if tombstones:
                buried = tombstones.get((kind, identifier))
                if buried is not None:
                    if buried >= goal.revision:
                        continue
                    del tombstones[kind, identifier]
            table[identifier] = goal
            changes.append(Change(kind, identifier, held, goal))

    def _on_demand_as_of(self) -> int:
        """The revision as of which the VPC is on demand; 0: it is not."""
        vpc = self.vpcs.get(self.scope)
        return vpc.revision if vpc is not None and vpc.on_demand else 0

    def _drop_endpoints(self, changes: list[Change]) -> None:
        """The VPC changed: if it is on demand now, what it had is not there."""
        as_of = self._on_demand_as_of()
        for identifier in [one.id for one in self.endpoints.values() if one.revision <= as_of]:
            changes.append(Change(Kind.ENDPOINT, identifier, self.endpoints.pop(identifier), None))

    def _bury(self, tombstone: Tombstone, changes: list[Change]) -> None:
        table = self._table(tombstone.kind)
        held = table.get(tombstone.id)
        if held is not None:
            if held.revision > tombstone.revision:
                return
            del table[tombstone.id]
            changes.append(Change(tombstone.kind, tombstone.id, held, None))
        key = (tombstone.kind, tombstone.id)
        if tombstone.revision > self.floor and tombstone.revision > self._tombstones.get(key, 0):
            self._tombstones[key] = tombstone.revision

    def _remove_missing(self, update: ScopeUpdate, changes: list[Change]) -> None:
        present = {(KIND_OF[type(goal)], goal.id) for goal in update.objects}
        vpc = next((goal for goal in update.objects if isinstance(goal, VpcGoal)), None)
        outdated = vpc is not None and vpc.on_demand and not self._on_demand_as_of()
        for kind in Kind:
            if kind is Kind.ENDPOINT and outdated:
                continue
            table = self._table(kind)
            missing = [
                identifier
                for identifier, goal in table.items()
                if goal.revision <= update.revision and (kind, identifier) not in present
            ]
            for identifier in missing:
                changes.append(Change(kind, identifier, table.pop(identifier), None))

    def _raise_floor(self, floor: int) -> None:
        self.floor = floor
        if self._tombstones:
            self._tombstones = {key: revision for key, revision in self._tombstones.items() if revision > floor}

    def _update_digest(self, changes: list[Change]) -> None:
        total = self.digest
        for kind, identifier, before, after in changes:
            if after is not None:
                total += object_digest(kind, identifier, after.revision)
            if before is not None:
                total -= object_digest(kind, identifier, before.revision)
        self.digest = total % DIGEST_MODULUS
