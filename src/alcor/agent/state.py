"""What a host wants its data plane to be: the merged scopes, and the indexes that planning needs. Pure: no I/O.

Called by reconcile (updates in, what they touched out) and plan (which reads). Scopes are kept per partition; a VPC's
scope is taken only whole (a snapshot first), and forgotten whole once no local port is of the VPC, or of one that a
router or a peering connects with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

from msgspec.structs import replace

from alcor.agent.names import Names
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.goalstate.merge import Change, Merged, ScopeState
from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    Goal,
    Kind,
    NameGoal,
    PeeringGoal,
    PortGoal,
    RouterGoal,
    ScopeUpdate,
    Tombstone,
    VpcGoal,
)
from alcor.model.addresses import V4_MAPPED, Ip
from alcor.model.ids import Id
from alcor.model.nouns import Claim
from alcor.wire.reports import Held

Owners = dict[Ip, Id | tuple[Id, ...]]
"""Who claims an address of a VPC: one endpoint nearly always, several while updates are still on their way."""


class ScopeKey(NamedTuple):
    """Names a scope on this host."""

    partition: int
    scope: Id


class OnDemand(NamedTuple):
    """A VPC whose endpoints are asked for."""

    vpc: ScopeKey
    revision: int
    """Of its goal. Another one: meanwhile it may have been preloaded, when nobody notes who holds what."""


_CLAIMS = attrgetter("claims")


class Touched:
    """What some updates may have changed in the data plane: what a partial plan has to look at."""

    __slots__ = (
        "addresses",
        "balancing",
        "claims",
        "followed",
        "forwards",
        "gone",
        "gone_vnis",
        "members",
        "mentioned",
        "missed",
        "policies",
        "ports",
        "roads",
        "vpcs",
    )

    def __init__(self) -> None:
        self.ports: set[Id] = set()
        """Local ports, there or gone."""
        self.mentioned: dict[Id, tuple[int, int]] = {}
        """Ports that updates named -> (partition, revision named): each is answered."""
        self.vpcs: set[ScopeKey] = set()
        """Whose gateways may differ."""
        self.policies: set[ScopeKey] = set()
        """Whose identities or groups may differ."""
        self.members: set[ScopeKey] = set()
        """Where a local port came, went or has other groups: a policy may be needed, or needed no more."""
        self.roads = False
        """Routes or translations may differ."""
        self.balancing: set[ScopeKey] = set()
        """Whose load balancers, pools or members may differ."""
        self.claims: dict[ScopeKey, dict[Ip, Claim]] = {}
        """Claims that are new, by VPC: local ports may remember another MAC."""
        self.addresses: dict[ScopeKey, dict[Ip, object]] = {}
        """Whose endpoints may differ, by VPC, in the order in which they were named; False: somebody may have had it
        before, so that there may be something to remove."""
        self.gone: set[EndpointKey] = set()
        """Endpoints of VPCs, or VNIs, that are no longer there."""
        self.gone_vnis: set[int] = set()
        self.forwards: dict[EndpointKey, Endpoint] = {}
        """Addresses of ports that left this host, and where they went."""
        self.followed: set[EndpointKey] = set()
        """Addresses that were followed for long enough."""
        self.missed: set[ScopeKey] = set()
        """Scopes of which something before these updates never came: they are needed whole."""


class Desired:
    """See the module."""

    def __init__(self) -> None:
        self.scopes: dict[ScopeKey, ScopeState] = {}
        self.epochs: dict[int, int] = {}
        """Partition -> newest epoch seen."""
        self.ports: dict[Id, int] = {}
        """Local port -> its partition."""
        self._doubted: dict[int, set[Id]] = {}
        """Partition -> scopes of which it is known that they are not as they should be, until they come whole. Until
        then the host is not in sync, whatever is said: what is held here may lack what is in use."""
        self._said: set[int] = set()
        """Partitions that said `synced` meanwhile: it counts from when the last of these scopes has come."""
        self._owners: dict[ScopeKey, Owners] = {}
        self._ports_of: dict[ScopeKey, set[Id]] = {}
        self._identities: dict[ScopeKey, Counter[int]] = {}
        self._names: dict[ScopeKey, Names] = {}

    # Reading.

    def port(self, identifier: Id) -> PortGoal | None:
        """A local port's goal."""
        partition = self.ports.get(identifier)
        if partition is None:
            return None
        return self.scopes[ScopeKey(partition, HOST_SCOPE)].ports.get(identifier)

    def vpc(self, key: ScopeKey) -> VpcGoal | None:
        """A VPC's goal; None while it has not arrived."""
        state = self.scopes.get(key)
        return state.vpcs.get(key.scope) if state is not None else None

    def vpcs(self) -> Iterator[ScopeKey]:
        """The VPCs held, sorted."""
        return iter(sorted(self._owners))

    def on_demand(self) -> dict[int, OnDemand]:
        """The VPCs whose endpoints are asked for, by their VNIs: those on demand, and those whose endpoints follow."""
        found = ((key, self.vpc(key)) for key in self._owners)
        asked = ((key, vpc) for key, vpc in found if vpc is not None and (vpc.on_demand or self.scopes[key].partial))
        return {vpc.vni: OnDemand(key, vpc.revision) for key, vpc in asked}

    def owners(self, key: ScopeKey) -> Owners:
        """The addresses of a VPC's endpoints."""
        return self._owners.get(key, {})

    def ports_of(self, key: ScopeKey) -> Iterable[Id]:
        """The local ports of a VPC."""
        return self._ports_of.get(key, ())

    def neighbours(self, key: ScopeKey) -> list[ScopeKey]:
        """The VPCs, held or not, that routers and peerings connect with the VPC, sorted."""
        state = self.scopes.get(key)
        if state is None or not (state.routers or state.peerings):
            return []
        roads: tuple[RouterGoal | PeeringGoal, ...] = (*state.routers.values(), *state.peerings.values())
        vpcs = {vpc for road in roads for vpc in road.vpcs}
        return [ScopeKey(key.partition, vpc) for vpc in sorted(vpcs - {key.scope})]

    def carried(self) -> list[ScopeKey]:
        """The VPCs that local ports are of, sorted."""
        return sorted(self._ports_of)

    def needed(self) -> set[ScopeKey]:
        """The VPCs that local ports are of, and those that are connected with these."""
        return {*self._ports_of, *(near for key in self._ports_of for near in self.neighbours(key))}

    def names(self, key: ScopeKey) -> Names:
        """The names of a VPC's ports."""
        return self._names.get(key) or Names()

    def identities(self, key: ScopeKey) -> list[int]:
        """The identities of a VPC's local ports, sorted."""
        return sorted(self._identities.get(key, ()))

    def held(self, partition: int) -> tuple[Held, ...]:
        """What to tell a partition's controller that this host holds, sorted."""
        return tuple(
            Held(key.scope, state.revision, state.digest)
            for key, state in sorted(self.scopes.items())
            if key.partition == partition and (state.complete or state.partial or key.scope == HOST_SCOPE)
        )

    def held_of(self, key: ScopeKey) -> Held:
        """What is held of one scope; revision 0 for nothing."""
        state = self.scopes.get(key)
        return Held(key.scope, state.revision, state.digest) if state is not None else Held(key.scope, 0, 0)

    # Merging.

    def take(
        self, partition: int, epoch: int, updates: Iterable[ScopeUpdate], *, synced: bool, touched: Touched
    ) -> bool:
        """Merges one bundle's updates and forgets the VPCs that have no port here any more.

        A delta of a VPC that is not held is ignored: it is late, or its snapshot is to come. One whose endpoints are
        still to come misses nothing: the snapshot has it all. Returns whether the host is in sync with this: `synced`,
        or what was said before while its own scope was in doubt.
        """
        self.epochs[partition] = max(epoch, self.epochs.get(partition, 0))
        left: set[ScopeKey] = set()
        for update in updates:
            key = ScopeKey(partition, update.scope)
            state = self.scopes.get(key)
            if state is None and (update.snapshot or update.partial or update.scope == HOST_SCOPE):
                state = self.make_scope(key)
            if state is None:
                continue
            if update.scope == HOST_SCOPE and not update.snapshot and HOST_SCOPE in self._doubted.get(partition, ()):
                continue  # it comes whole, with this
            if update.confirms is not None:
                self._prove(key, state, update, touched, left)
                continue
            if state.partial and not update.snapshot:
                # Until it is whole it is as of nothing, whatever comes of it.
                update = replace(update, revision=state.revision)
            elif not update.snapshot and update.previous > state.revision and update.scope != HOST_SCOPE:
                # What came is true; that nothing lies between is not.
                touched.missed.add(key)
                update = replace(update, revision=max(1, state.revision))
            self._merge_one(key, state, update, touched, left)
            if update.snapshot:
                touched.missed.discard(key)
                self._trust(key)
        for key in [key for key in left if key in self._owners]:
            # What was needed because of a VPC may go with it.
            left.update(self.neighbours(key))
        self._forget_idle(partition, left, touched)
        if synced and self._doubted.get(partition):
            self._said.add(partition)
            return False
        if partition in self._said and not self._doubted.get(partition):
            self._said.discard(partition)
            synced = True
        if synced:
            self._forget_idle(partition, self._owners, touched)
        return synced

    @property
    def doubtful(self) -> bool:
        """Something that is held is known not to be as it should be."""
        return any(self._doubted.values())

    def begin(self, partition: int) -> None:
        """A session of that partition's controller begins, by comparing everything: nothing is in doubt any more."""
        self._doubted.pop(partition, None)
        self._said.discard(partition)

    def _trust(self, key: ScopeKey) -> None:
        """The scope is as it should be, or is not needed."""
        self._doubted.get(key.partition, set()).discard(key.scope)

    def _forget_idle(self, partition: int, keys: Iterable[ScopeKey], touched: Touched) -> None:
        """Those of these VPCs that nothing here needs."""
        candidates = {key for key in keys if key.partition == partition}
        if candidates:
            for key in sorted((candidates & self._owners.keys()) - self.needed()):
                self._forget(key, touched)

    def _prove(
        self, key: ScopeKey, state: ScopeState, update: ScopeUpdate, touched: Touched, left: set[ScopeKey]
    ) -> None:
        """Takes what a Hello showed to be missing, if what comes of it is what should be; else nothing of it: what a
        wrong base lacks may be in use, and a tombstone beside it would take the rest of it out."""
        missing = replace(update, revision=max(1, state.revision))
        if state.after(missing) != update.confirms or not (state.complete or key.scope == HOST_SCOPE):
            # The host held something else than it said; or something late came in between.
            touched.missed.add(key)
            self._doubted.setdefault(key.partition, set()).add(key.scope)
            return
        if update.objects or update.tombstones:
            self.merge(key, state, missing, touched, left)
        state.confirm(update.revision, update.confirms or 0)
        self._trust(key)

    def _merge_one(
        self, key: ScopeKey, state: ScopeState, update: ScopeUpdate, touched: Touched, left: set[ScopeKey]
    ) -> None:
        before = state.partial
        self.merge(key, state, update, touched, left)
        if state.partial != before:  # what came of its endpoints meanwhile was not put
            touched.vpcs.add(key)
            _touch(touched, key, self._owners[key])

    def make_scope(self, key: ScopeKey) -> ScopeState:
        """The scope's state, made when it is not there."""
        state = self.scopes.get(key)
        if state is None:
            state = self.scopes[key] = ScopeState(key.scope)
            if key.scope != HOST_SCOPE:
                self._owners[key] = {}
                self._names[key] = Names()
        return state

    def merge(
        self, key: ScopeKey, state: ScopeState, update: ScopeUpdate, touched: Touched, left: set[ScopeKey]
    ) -> None:
        """Merges one update; `left` gathers the VPCs that lost a port here."""
        if update.scope == HOST_SCOPE:
            for goal in update.objects:
                touched.mentioned[goal.id] = (key.partition, goal.revision)
            for tombstone in update.tombstones:
                touched.mentioned[tombstone.id] = (key.partition, tombstone.revision)
                self._follow(key.partition, state, tombstone, touched)
        for change in self._changes(key, state.merge(update), touched):
            if change.kind is Kind.ENDPOINT:
                self._endpoint(key, change, touched)
            elif change.kind is Kind.PORT:
                self._port(key.partition, change, touched, left)
            elif change.kind is Kind.VPC:
                self._vpc(key, change, touched)
            elif change.kind in (Kind.IDENTITY, Kind.GROUP):
                touched.policies.add(key)
                touched.roads = touched.roads or change.kind is Kind.IDENTITY
            elif change.kind in (Kind.ROUTER, Kind.PEERING):
                self._road(key, change, touched, left)
            elif change.kind in (Kind.BALANCER, Kind.POOL, Kind.MEMBER):
                touched.balancing.add(key)
                if change.kind is Kind.BALANCER and (change.before is None or change.after is None):
                    touched.ports.update(self.ports_of(key))  # they may have been the first, or the last
            elif change.kind is Kind.NAME:
                self._names[key].change(_name(change.before), _name(change.after))
            else:
                touched.vpcs.add(key)
                touched.roads = True
                touched.ports.update(self.ports_of(key))

    def _changes(self, key: ScopeKey, merged: Merged, touched: Touched) -> Iterator[Change]:
        """What has to be looked at one by one, kind by kind: of a VPC's first endpoints nothing, if they are taken
        whole columns at a time."""
        changes, loaded = merged
        at = next((n for n, one in enumerate(changes) if one.kind >= Kind.ENDPOINT or one.after is None), len(changes))
        yield from changes[:at]
        if loaded and not self._load(key, loaded, touched):
            yield from (Change(Kind.ENDPOINT, goal.id, None, goal) for goal in loaded)
        yield from changes[at:]

    def _load(self, key: ScopeKey, goals: tuple[EndpointGoal, ...], touched: Touched) -> bool:
        """A VPC's first endpoints, if each has one address, IPv4, that nobody else has, as nearly always."""
        places = [goal.ips for goal in goals]
        if set(map(len, places)) != {1} or any(map(_CLAIMS, goals)):
            return False
        ips = [ip for (ip,) in places]
        if not min(ips).startswith(V4_MAPPED) or not max(ips).startswith(V4_MAPPED):  # and so all between them
            return False
        if self._owners[key] or touched.addresses.get(key):
            return False
        owners: Owners = dict(zip(ips, [goal.id for goal in goals], strict=True))
        if len(owners) != len(ips):
            return False
        self._owners[key] = owners
        touched.addresses[key] = {**owners}  # a fifth of what naming each again would cost
        return True

    def _follow(self, partition: int, state: ScopeState, tombstone: Tombstone, touched: Touched) -> None:
        """A port that is still here leaves for another host: what still comes for it is to be sent after it."""
        goal, successor = state.ports.get(tombstone.id), tombstone.successor
        if goal is None or successor is None or goal.revision > tombstone.revision:
            return
        vpc = self.vpc(ScopeKey(partition, goal.vpc_id))
        if vpc is not None:
            for ip in successor.places():
                where = Endpoint(successor.mac_at(ip), successor.host_ip, successor.identity)
                touched.forwards[EndpointKey(vpc.vni, ip)] = where

    def _endpoint(self, key: ScopeKey, change: Change, touched: Touched) -> None:
        owners, addresses = self._owners[key], touched.addresses.setdefault(key, {})
        before, after = change.before, change.after
        if isinstance(before, EndpointGoal):
            ips = before.places()
            for ip in ips:
                _disown(owners, ip, change.id)
                addresses.setdefault(ip, False)
        if isinstance(after, EndpointGoal):
            ips = after.places()
            for ip in ips:
                held = owners.get(ip)
                addresses.setdefault(ip, held is None)
                owners[ip] = change.id if held is None else tuple(sorted({*_all(held), change.id}))
            if after.claims:
                known = before.claims if isinstance(before, EndpointGoal) else ()
                new = {claim.ip: claim for claim in after.claims if claim not in known}
                touched.claims.setdefault(key, {}).update(new)

    def _port(self, partition: int, change: Change, touched: Touched, left: set[ScopeKey]) -> None:
        touched.ports.add(change.id)
        before, after = change.before, change.after
        old = ScopeKey(partition, before.vpc_id) if isinstance(before, PortGoal) else None
        new = ScopeKey(partition, after.vpc_id) if isinstance(after, PortGoal) else None
        if new is None:
            self.ports.pop(change.id, None)
        else:
            self.ports[change.id] = partition
        self._count_identity(old, before, -1, touched)
        self._count_identity(new, after, 1, touched)
        if old == new:
            return
        if old is not None:
            ports = self._ports_of[old]
            ports.discard(change.id)
            if not ports:
                del self._ports_of[old]
                touched.roads = True
            left.add(old)
        if new is not None:
            touched.roads = touched.roads or new not in self._ports_of
            self._ports_of.setdefault(new, set()).add(change.id)
        for key in (old, new):  # a local port's endpoint is not a remote one, and the other way round
            if key is not None and (state := self.scopes.get(key)) is not None:
                endpoint = state.endpoints.get(change.id)
                if endpoint is not None:
                    _touch(touched, key, endpoint.places())

    def _count_identity(self, key: ScopeKey | None, goal: Goal | None, step: int, touched: Touched) -> None:
        if key is None or not isinstance(goal, PortGoal) or not goal.identity:
            return
        touched.members.add(key)
        counts = self._identities.setdefault(key, Counter())
        counts[goal.identity] += step
        if not counts[goal.identity]:
            del counts[goal.identity]
        if not counts:
            del self._identities[key]

    def _road(self, key: ScopeKey, change: Change, touched: Touched, left: set[ScopeKey]) -> None:
        """A router or peering of the VPC: its gateways, and whether ports of the VPC are routed, may differ."""
        touched.roads = True
        touched.vpcs.add(key)
        touched.ports.update(self.ports_of(key))
        for road in (change.before, change.after):
            if isinstance(road, RouterGoal | PeeringGoal):
                # What it connected may be needed no more.
                left.update(ScopeKey(key.partition, vpc) for vpc in road.vpcs)

    def _vpc(self, key: ScopeKey, change: Change, touched: Touched) -> None:
        touched.vpcs.add(key)
        touched.roads = True
        touched.ports.update(self.ports_of(key))
        old_vni = change.before.vni if isinstance(change.before, VpcGoal) else None
        new_vni = change.after.vni if isinstance(change.after, VpcGoal) else None
        if old_vni != new_vni:
            _touch(touched, key, self._owners[key])
            touched.policies.add(key)
            touched.balancing.add(key)
            if old_vni is not None:
                self._lose_vni(key, old_vni, touched)

    def _lose_vni(self, key: ScopeKey, vni: int, touched: Touched) -> None:
        touched.gone_vnis.add(vni)
        touched.roads = True
        touched.gone.update(EndpointKey(vni, ip) for ip in self._owners[key])
        touched.gone.update(EndpointKey(vni, ip) for ip in touched.addresses.get(key, ()))

    def _forget(self, key: ScopeKey, touched: Touched) -> None:
        vpc = self.vpc(key)
        if vpc is not None:
            self._lose_vni(key, vpc.vni, touched)
        self._trust(key)
        self.scopes.pop(key, None)
        self._owners.pop(key, None)
        self._names.pop(key, None)
        touched.addresses.pop(key, None)
        touched.vpcs.discard(key)
        touched.policies.discard(key)
        touched.members.discard(key)
        touched.balancing.discard(key)


def _name(goal: Goal | None) -> NameGoal | None:
    return goal if isinstance(goal, NameGoal) else None


def _touch(touched: Touched, key: ScopeKey, ips: Iterable[Ip]) -> None:
    """Somebody has them, or had."""
    addresses = touched.addresses.setdefault(key, {})
    for ip in ips:
        addresses.setdefault(ip, False)


def _all(held: Id | tuple[Id, ...]) -> tuple[Id, ...]:
    return held if isinstance(held, tuple) else (held,)


def _disown(owners: Owners, ip: Ip, identifier: Id) -> None:
    held = owners.get(ip)
    if held is None:
        return
    rest = tuple(other for other in _all(held) if other != identifier)
    if not rest:
        del owners[ip]
    else:
        owners[ip] = rest[0] if len(rest) == 1 else rest
