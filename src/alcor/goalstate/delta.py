"""From commits to what each host and each VPC must be told. Pure.

Called by the publish loop: `fold` makes one net change of whatever commits were waiting, `delta` derives the scopes'
updates from it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from alcor.goalstate.balancing import Balancers
from alcor.goalstate.digest import object_digest
from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    Goal,
    Kind,
    PeeringGoal,
    RouterGoal,
    ScopeUpdate,
    Tombstone,
    identity_id,
)
from alcor.goalstate.qos import Policies
from alcor.goalstate.snapshot import (
    Groups,
    Roads,
    endpoint_goal,
    identity_goal,
    name_goal,
    peering_goal,
    port_goal,
    router_goal,
    subnet_goal,
    vpc_goal,
)
from alcor.model.addresses import Ip, with_link_local
from alcor.model.balancing import Balancing, LoadBalancer, Member, MemberPool
from alcor.model.ids import Id
from alcor.model.nouns import Identity, Network, Node, Peering, Port, Router, SecurityGroup, SecurityGroupRule, Subnet
from alcor.model.qos import QosBinding, QosPolicy


class PortChange(msgspec.Struct, frozen=True, gc=False):
    """A port before and after, net of whatever happened in between. None: it did not, or does not, exist."""

    id: Id
    network_id: Id
    before: Port | None
    after: Port | None
    revision: int
    """Of the last commit that touched it."""
    visited: frozenset[str]
    """Every host that it was on, even for one commit only: rows read in between may have told that host of it."""
    named: bool = False
    """It had a name, even for one commit only."""


class RoadChange(msgspec.Struct, frozen=True, gc=False):
    """A router or peering after some commits (None: gone, or down), and every VPC that it connected before or in
    between."""

    kind: Kind
    goal: RouterGoal | PeeringGoal | None
    left: frozenset[Id]
    revision: int


class Commits(msgspec.Struct, kw_only=True):
    """The net change of some commits in a row, by id."""

    revision: int = 0
    """Of the last one."""
    ports: dict[Id, PortChange] = {}
    networks: dict[Id, Network] = {}
    subnets: dict[Id, Subnet] = {}
    nodes: dict[str, Node] = {}
    deleted_networks: dict[Id, int] = {}
    """Id -> revision."""
    deleted_subnets: dict[Id, tuple[Id, int]] = {}
    """Id -> network and revision."""
    deleted_nodes: set[str] = set()
    changed_groups: set[Id] = set()
    """Whose rules, or whose place in a network's scope, may differ: new, changed or deleted."""
    changed_qos: set[Id] = set()
    """Policies of quality of service: new, changed, or with other rules."""
    bound_qos: set[tuple[Id, Id]] = set()
    """(network, policy) that are in the network's scope now and were not, or the other way round."""
    identities: dict[tuple[Id, int], tuple[Identity, int]] = {}
    """(network, number) -> the identity, and the revision of its deletion; 0 when it is there."""
    roads: dict[Id, RoadChange] = {}
    """Routers and peerings."""
    balancing: dict[Id, tuple[LoadBalancer | MemberPool | Member, int]] = {}
    """Id -> the row of load balancing, and the revision of its deletion; 0 when it is there."""

    def add_ports(
        self, revision: int, new: Iterable[Port], changed: Iterable[tuple[Port, Port]], deleted: Iterable[Port]
    ) -> None:
        """Takes in one commit's ports. `revision` must not be older than that of any commit before."""
        for port in new:
            self._change(revision, port, None, port)
        for before, after in changed:
            self._change(revision, before, before, after)
        for port in deleted:
            self._change(revision, port, port, None)
        self.revision = revision

    def add_networks(
        self, revision: int, networks: Iterable[Network], subnets: Iterable[Subnet], nodes: Iterable[Node]
    ) -> None:
        """Takes in one commit's new and changed rows of the other kinds."""
        for network in networks:
            self.networks[network.id] = network
            self.deleted_networks.pop(network.id, None)
        for subnet in subnets:
            self.subnets[subnet.id] = subnet
            self.deleted_subnets.pop(subnet.id, None)
        for node in nodes:
            self.nodes[node.name] = node
            self.deleted_nodes.discard(node.name)
        self.revision = revision

    def remove_networks(
        self, revision: int, networks: Iterable[Network], subnets: Iterable[Subnet], nodes: Iterable[Node]
    ) -> None:
        """Takes in one commit's deleted rows of the other kinds."""
        for network in networks:
            self.networks.pop(network.id, None)
            self.deleted_networks[network.id] = revision
        for subnet in subnets:
            self.subnets.pop(subnet.id, None)
            self.deleted_subnets[subnet.id] = (subnet.network_id, revision)
        for node in nodes:
            self.nodes.pop(node.name, None)
            self.deleted_nodes.add(node.name)
        self.revision = revision

    def add_groups(
        self,
        revision: int,
        groups: Iterable[SecurityGroup],
        rules: Iterable[SecurityGroupRule],
        identities: Iterable[Identity],
    ) -> None:
        """Takes in one commit's new and changed rows of security groups."""
        self.changed_groups.update(group.id for group in groups)
        self.changed_groups.update(rule.group_id for rule in rules)
        for identity in identities:
            self.identities[identity.network_id, identity.number] = identity, 0
        self.revision = revision

    def remove_groups(
        self,
        revision: int,
        groups: Iterable[SecurityGroup],
        rules: Iterable[SecurityGroupRule],
        identities: Iterable[Identity],
    ) -> None:
        """Takes in one commit's deleted rows of security groups."""
        self.changed_groups.update(group.id for group in groups)
        self.changed_groups.update(rule.group_id for rule in rules)
        for identity in identities:
            self.identities[identity.network_id, identity.number] = identity, revision
        self.revision = revision

    def add_qos(self, revision: int, policies: Iterable[QosPolicy], bindings: Iterable[QosBinding]) -> None:
        """Takes in one commit's new and changed policies of quality of service, and bindings that came or went."""
        self.changed_qos.update(policy.id for policy in policies)
        self.bound_qos.update((binding.network_id, binding.policy_id) for binding in bindings)
        self.revision = revision

    def add_roads(
        self,
        revision: int,
        view: Roads,
        routers: Iterable[Router],
        peerings: Iterable[Peering],
        deleted: Iterable[Router | Peering],
    ) -> None:
        """Takes in one commit's routers and peerings, and brings `view` up to date with it."""
        for router in routers:
            self._road(revision, view, router.id, Kind.ROUTER, router_goal(router))
        for peering in peerings:
            self._road(revision, view, peering.id, Kind.PEERING, peering_goal(peering))
        for gone in deleted:
            self._road(revision, view, gone.id, Kind.ROUTER if isinstance(gone, Router) else Kind.PEERING, None)
        self.revision = revision

    def _road(
        self, revision: int, view: Roads, identifier: Id, kind: Kind, goal: RouterGoal | PeeringGoal | None
    ) -> None:
        before, _ = view.put(identifier, goal)
        earlier = self.roads.get(identifier)
        left = frozenset(before) | (earlier.left if earlier is not None else frozenset())
        self.roads[identifier] = RoadChange(kind, goal, left, revision)

    def add_balancing(self, revision: int, rows: Iterable[Balancing], deleted: Iterable[Balancing]) -> None:
        """Takes in one commit's rows of load balancing."""
        for some, gone in ((rows, 0), (deleted, revision)):
            for row in some:
                if isinstance(row, LoadBalancer | MemberPool | Member):
                    self.balancing[row.id] = row, gone
        self.revision = revision

    def _change(self, revision: int, port: Port, before: Port | None, after: Port | None) -> None:
        earlier = self.ports.get(port.id)
        visited = {one.host for one in (before, after) if one is not None and one.host}
        named = any(one is not None and one.dns_name for one in (before, after))
        if earlier is not None:
            before = earlier.before
            visited |= earlier.visited
            named = named or earlier.named
        self.ports[port.id] = PortChange(port.id, port.network_id, before, after, revision, frozenset(visited), named)


class EndpointMove(NamedTuple):
    """An endpoint of a VPC on demand: the addresses that it had, and what it is now."""

    before: tuple[Ip, ...]
    after: EndpointGoal | None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What to tell whom. Updates are sorted by key, as every update is."""

    hosts: dict[str, ScopeUpdate]
    """Host -> update of its own scope."""
    vpcs: dict[Id, ScopeUpdate]
    """VPC -> update of its scope, the same for all its hosts."""
    bound: dict[tuple[str, Id], int]
    """(host, VPC) -> by how much the number of its ports there changed; without zeros."""
    moves: dict[Id, list[EndpointMove]]
    """VPC on demand -> its endpoints that changed: for who asked about them."""
    roads: dict[Id, tuple[Id, ...]] = {}
    """Router or peering that changed -> the VPCs that it connects now."""


def delta(
    commits: Commits,
    nodes: Mapping[str, Node],
    ports_of_changed_nodes: Sequence[Port] = (),
    groups: Groups | None = None,
    on_demand: Container[Id] = (),
    qos: Policies | None = None,
    balancers: Balancers | None = None,
) -> Delta:
    """What the commits change in the scopes.

    `nodes` (by name), `groups`, `qos` and `balancers` are the views after the commits. `ports_of_changed_nodes` are the
    ports of every host in `commits.nodes`, read at or after the last commit: their endpoints move with their host's
    tunnel end. `on_demand` are the VPCs of whose endpoints only those are told who asked.
    """
    hosts: dict[str, _Update] = {}
    vpcs: dict[Id, _Update] = {}
    bound: dict[tuple[str, Id], int] = {}
    moves: dict[Id, list[EndpointMove]] = {}
    for change in commits.ports.values():
        after = endpoint_goal(change.after, nodes, commits.revision) if change.after is not None else None
        _port(change, after, hosts, bound)
        if change.visited:
            if change.network_id in on_demand:
                moves.setdefault(change.network_id, []).append(EndpointMove(_addresses(change.before), after))
            elif after is not None:
                vpcs.setdefault(change.network_id, _Update()).objects.append(after)
            else:
                gone = Tombstone(Kind.ENDPOINT, change.id, change.revision)
                vpcs.setdefault(change.network_id, _Update()).tombstones.append(gone)
        if change.named:
            _name(change, vpcs.setdefault(change.network_id, _Update()))
    for network in commits.networks.values():
        vpcs.setdefault(network.id, _Update()).objects.append(vpc_goal(network))
    for subnet in commits.subnets.values():
        vpcs.setdefault(subnet.network_id, _Update()).objects.append(subnet_goal(subnet))
    for identifier, (network_id, revision) in commits.deleted_subnets.items():
        vpcs.setdefault(network_id, _Update()).tombstones.append(Tombstone(Kind.SUBNET, identifier, revision))
    for identifier, revision in commits.deleted_networks.items():
        vpcs.setdefault(identifier, _Update()).tombstones.append(Tombstone(Kind.VPC, identifier, revision))
    for port in ports_of_changed_nodes:
        if port.id not in commits.ports and (endpoint := endpoint_goal(port, nodes, commits.revision)) is not None:
            if port.network_id in on_demand:
                moves.setdefault(port.network_id, []).append(EndpointMove((), endpoint))
            else:
                vpcs.setdefault(port.network_id, _Update()).objects.append(endpoint)
    if groups is not None:
        _groups(commits, groups, vpcs)
    if qos is not None:
        _qos(commits, qos, vpcs)
    for identifier, road in sorted(commits.roads.items()):
        _road(identifier, road, vpcs)
    if balancers is not None:
        _balancing(commits, balancers, vpcs)
    return Delta(
        hosts={host: update.finish(HOST_SCOPE, commits.revision) for host, update in sorted(hosts.items())},
        vpcs={vpc: update.finish(vpc, commits.revision) for vpc, update in sorted(vpcs.items())},
        bound={pair: change for pair, change in sorted(bound.items()) if change},
        moves=moves,
        roads={
            identifier: road.goal.vpcs if road.goal is not None else ()
            for identifier, road in sorted(commits.roads.items())
        },
    )


def digest_shifts(
    commits: Commits, changed: Mapping[Id, ScopeUpdate], nodes: Mapping[str, Node], wanted: Container[Id]
) -> dict[Id, int]:
    """Of the wanted VPCs in `changed` (a Delta's) of which nothing but ports changed: by how much their digests did,
    before they are taken modulo. `nodes` as for `delta`."""
    if commits.nodes or commits.deleted_nodes:
        return {}
    shifts = {vpc: 0 for vpc, update in changed.items() if vpc in wanted and _only_endpoints(update)}
    for change in commits.ports.values() if shifts else ():
        if change.network_id in shifts:
            for port, sign in ((change.after, 1), (change.before, -1)):
                goal = endpoint_goal(port, nodes, commits.revision) if port is not None else None
                if goal is not None:
                    shifts[change.network_id] += sign * object_digest(Kind.ENDPOINT, goal.id, goal.revision)
    return shifts


def _only_endpoints(update: ScopeUpdate) -> bool:
    """Both are sorted by kind."""
    return all(
        some[0].key.kind is some[-1].key.kind is Kind.ENDPOINT for some in (update.objects, update.tombstones) if some
    )


class _Update:
    """A scope's update while it is being gathered."""

    __slots__ = ("objects", "tombstones")

    def __init__(self) -> None:
        self.objects: list[Goal] = []
        self.tombstones: list[Tombstone] = []

    def finish(self, scope: Id, revision: int) -> ScopeUpdate:
        return ScopeUpdate(
            scope=scope,
            revision=revision,
            snapshot=False,
            objects=tuple(sorted(self.objects, key=_key)),
            tombstones=tuple(sorted(self.tombstones, key=_key)),
        )


def _key(item: Goal | Tombstone) -> tuple[int, bytes]:
    return item.key


def _groups(commits: Commits, groups: Groups, vpcs: dict[Id, _Update]) -> None:
    """Identities that came and went; groups, as they are now, in every network that has or had them."""
    touched = {
        (network_id, group_id) for group_id in commits.changed_groups for network_id in groups.networks_of(group_id)
    }
    for (network_id, number), (identity, gone_at) in commits.identities.items():
        if network_id in commits.deleted_networks:
            continue
        update = vpcs.setdefault(network_id, _Update())
        if gone_at:
            update.tombstones.append(Tombstone(Kind.IDENTITY, identity_id(number), gone_at))
        else:
            update.objects.append(identity_goal(identity))
        # A group may have come into the network's scope with it, or gone from it, or be older or newer there now.
        touched.update((network_id, group_id) for group_id in identity.groups)
    for network_id, group_id in touched:
        update = vpcs.setdefault(network_id, _Update())
        goal = groups.group_goal(network_id, group_id)
        if goal is not None:
            update.objects.append(goal)
        else:
            update.tombstones.append(Tombstone(Kind.GROUP, group_id, commits.revision))


def _name(change: PortChange, update: _Update) -> None:
    """A named port's share of its VPC's scope."""
    goal = name_goal(change.after) if change.after is not None else None
    if goal is not None:
        update.objects.append(goal)
    else:
        update.tombstones.append(Tombstone(Kind.NAME, change.id, change.revision))


def _qos(commits: Commits, qos: Policies, vpcs: dict[Id, _Update]) -> None:
    """Policies of quality of service, as they are now, in every network that has or had them."""
    touched = {place for policy in commits.changed_qos for place in qos.places_of(policy)}
    touched.update((user, outside) for outside in commits.networks for user in qos.networks_of(outside))
    for network_id, policy_id in touched | commits.bound_qos:
        if network_id in commits.deleted_networks:
            continue
        update = vpcs.setdefault(network_id, _Update())
        goal = qos.goal(network_id, policy_id)
        if goal is not None:
            update.objects.append(goal)
        else:
            update.tombstones.append(Tombstone(Kind.QOS, policy_id, commits.revision))


def _road(identifier: Id, road: RoadChange, vpcs: dict[Id, _Update]) -> None:
    """The router or peering in the scope of every VPC that it connects, and gone from those that it does not."""
    now = road.goal.vpcs if road.goal is not None else ()
    for vpc in now:
        assert road.goal is not None
        vpcs.setdefault(vpc, _Update()).objects.append(road.goal)
    for vpc in sorted(road.left - set(now)):
        vpcs.setdefault(vpc, _Update()).tombstones.append(Tombstone(road.kind, identifier, road.revision))


def _balancing(commits: Commits, balancers: Balancers, vpcs: dict[Id, _Update]) -> None:
    """Balancers, pools and members that came, changed and went."""
    kinds = {LoadBalancer: Kind.BALANCER, MemberPool: Kind.POOL, Member: Kind.MEMBER}
    for row, gone_at in commits.balancing.values():
        if row.network_id in commits.deleted_networks:
            continue
        update = vpcs.setdefault(row.network_id, _Update())
        if gone_at:
            update.tombstones.append(Tombstone(kinds[type(row)], row.id, gone_at))
        else:
            update.objects.append(balancers.goal(row))


def _addresses(port: Port | None) -> tuple[Ip, ...]:
    """At which a port was found."""
    if port is None:
        return ()
    own = with_link_local(tuple([fixed.ip for fixed in port.fixed_ips]), port.mac)
    return own + tuple([claim.ip for claim in port.claims])


def _port(
    change: PortChange,
    successor: EndpointGoal | None,
    hosts: dict[str, _Update],
    bound: dict[tuple[str, Id], int],
) -> None:
    """One port's share of its host's scope, and of the count of ports there."""
    before, after = change.before, change.after
    host = after.host if after is not None else ""
    old_host = before.host if before is not None else ""
    if after is not None and host:
        hosts.setdefault(host, _Update()).objects.append(port_goal(after))
        bound[host, change.network_id] = bound.get((host, change.network_id), 0) + 1
    if old_host:
        bound[old_host, change.network_id] = bound.get((old_host, change.network_id), 0) - 1
    for other in sorted(change.visited - {host}):
        gone = Tombstone(Kind.PORT, change.id, change.revision, successor)
        hosts.setdefault(other, _Update()).tombstones.append(gone)
