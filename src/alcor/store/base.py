"""The port of durable desired state: one writer, many readers. Filled by memory and sqlite; called by loops and api.

The writer commits a whole batch (rows and the change-log entry) in one transaction. Readers see committed state only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from alcor.model.addresses import Ip, Mac
from alcor.model.balancing import Balancing, HealthMonitor, Listener, LoadBalancer, Member, MemberPool
from alcor.model.ids import Id
from alcor.model.nouns import (
    FloatingIp,
    Identity,
    Network,
    Node,
    Peering,
    Port,
    PortForwarding,
    PortStatus,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
)
from alcor.model.qos import QosBinding, QosPolicy, QosRule

Noun = TypeVar("Noun")


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a listing. Filters are ANDed, a filter's values ORed; sorting ends with the id, so pages are stable."""

    filters: dict[str, tuple[object, ...]] = {}
    """Attribute of the noun -> values (typed as in the noun). Ports also: `ip`, `subnet_id` (of fixed addresses),
    `security_group` (in that group)."""
    sort: tuple[tuple[str, bool], ...] = ()
    """(attribute, ascending)."""
    limit: int = 1000
    marker: Id | None = None
    """The last id of the page before; unknown: MarkerNotFound."""
    reverse: bool = False
    """The page before the marker instead of the one after it, in the same order (Neutron's `page_reverse`)."""


class StatusChange(msgspec.Struct, frozen=True, gc=False):
    """A port's status row. Does not change the port's revision."""

    id: Id
    status: PortStatus
    reason: str
    realised_revision: int
    path: str = ""
    attempts: int = 0
    realised_at: int = 0


class Location(NamedTuple):
    """Where an address is: its port's MAC, host (empty: unbound) and identity."""

    ip: Ip
    mac: Mac
    host: str
    identity: int


class Changes(msgspec.Struct, kw_only=True):
    """What a command (or a batch of them) changes. Rows replace rows of the same id."""

    networks: list[Network] = []
    subnets: list[Subnet] = []
    nodes: list[Node] = []
    new_ports: list[Port] = []
    changed_ports: list[tuple[Port, Port]] = []
    """(before, after)."""
    deleted_ports: list[Port] = []
    deleted_networks: list[Network] = []
    deleted_subnets: list[Subnet] = []
    deleted_nodes: list[Node] = []
    security_groups: list[SecurityGroup] = []
    rules: list[SecurityGroupRule] = []
    """New ones: a rule never changes."""
    identities: list[Identity] = []
    """New ones: an identity never changes."""
    deleted_security_groups: list[SecurityGroup] = []
    deleted_rules: list[SecurityGroupRule] = []
    deleted_identities: list[Identity] = []
    qos_policies: list[QosPolicy] = []
    qos_rules: list[QosRule] = []
    qos_bindings: list[QosBinding] = []
    """New ones: a binding never changes."""
    deleted_qos_policies: list[QosPolicy] = []
    deleted_qos_rules: list[QosRule] = []
    deleted_qos_bindings: list[QosBinding] = []
    routers: list[Router] = []
    deleted_routers: list[Router] = []
    peerings: list[Peering] = []
    deleted_peerings: list[Peering] = []
    left_networks: list[Id] = []
    """Networks that a router among these had an interface in before, and has no more."""
    floating_ips: list[FloatingIp] = []
    deleted_floating_ips: list[FloatingIp] = []
    port_forwardings: list[PortForwarding] = []
    deleted_port_forwardings: list[PortForwarding] = []
    load_balancers: list[LoadBalancer] = []
    deleted_load_balancers: list[LoadBalancer] = []
    listeners: list[Listener] = []
    deleted_listeners: list[Listener] = []
    member_pools: list[MemberPool] = []
    deleted_member_pools: list[MemberPool] = []
    members: list[Member] = []
    deleted_members: list[Member] = []
    health_monitors: list[HealthMonitor] = []
    deleted_health_monitors: list[HealthMonitor] = []
    statuses: list[StatusChange] = []
    last_ordinal: int = 0
    """The largest ordinal given out so far: it survives the resource it was given to."""

    def extend(self, other: Changes) -> None:
        """Adds another command's changes behind these; the two touch no row in common."""
        for field in _CHANGE_LISTS:
            more = getattr(other, field)
            if more:
                getattr(self, field).extend(more)

    def balancing(self) -> tuple[list[Balancing], list[Balancing]]:
        """The rows of load balancing: new and changed ones, and deleted ones."""
        rows: list[Balancing] = [*self.load_balancers, *self.listeners, *self.member_pools]
        rows += [*self.members, *self.health_monitors]
        deleted: list[Balancing] = [*self.deleted_load_balancers, *self.deleted_listeners, *self.deleted_member_pools]
        return rows, [*deleted, *self.deleted_members, *self.deleted_health_monitors]

    def __bool__(self) -> bool:
        """True when there is anything to write."""
        return any(getattr(self, field) for field in _CHANGE_LISTS)


_CHANGE_LISTS = tuple(field for field in Changes.__struct_fields__ if field != "last_ordinal")


class Departure(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where a port was, before it was deleted or moved: whoever sends goal state owes a tombstone there."""

    port_id: Id
    network_id: Id
    host: str


class ChangeRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One commit in the change log: what it touched, by id. State is read from the rows, never from the log."""

    revision: int
    networks: tuple[Id, ...] = ()
    subnets: tuple[Id, ...] = ()
    nodes: tuple[Id, ...] = ()
    ports: tuple[Id, ...] = ()
    """New and changed."""
    deleted_networks: tuple[Id, ...] = ()
    deleted_subnets: tuple[Id, ...] = ()
    deleted_nodes: tuple[Id, ...] = ()
    departures: tuple[Departure, ...] = ()
    """Ports that were deleted, or left a host."""
    security_groups: tuple[Id, ...] = ()
    """New, changed, or with rules that came or went."""
    deleted_security_groups: tuple[Id, ...] = ()
    identities: tuple[tuple[Id, int], ...] = ()
    """New ones: (network, number)."""
    deleted_identities: tuple[tuple[Id, int], ...] = ()
    port_networks: tuple[tuple[Id, int], ...] = ()
    """The networks of `ports`, run by run: (network, how many in a row). Records of older versions have none."""
    subnet_networks: tuple[Id, ...] = ()
    """The networks of `deleted_subnets`, one each. Records of older versions have none."""
    qos_policies: tuple[Id, ...] = ()
    """New, changed, or with rules that came, changed or went."""
    deleted_qos_policies: tuple[Id, ...] = ()
    qos_bindings: tuple[tuple[Id, Id], ...] = ()
    """New and deleted ones: (network, policy)."""
    resources: tuple[tuple[str, Id], ...] = ()
    """New and changed rows of every other table (schema.RESOURCES): (table, id)."""
    deleted_resources: tuple[tuple[str, Id], ...] = ()
    road_networks: tuple[Id, ...] = ()
    """The networks that routers and peerings among those connect, or connected before."""
    balancing_networks: tuple[Id, ...] = ()
    """Whose load balancers, or what belongs to them, came, changed or went."""


class Store(Protocol):
    """One writer thread calls `commit`; any thread reads. Opening a store runs its migrations.

    Every method may raise StoreError.
    """

    def commit(self, revision: int, changes: Changes) -> None:
        """Durable when it returns. Raises StoreError: the caller must stop, loudly."""
        ...

    def next_epoch(self) -> int:
        """Claims the store for a new controller: one more than any epoch before."""
        ...

    def revision(self) -> int:
        """The newest commit (0 for an empty store)."""
        ...

    def last_ordinal(self) -> int:
        """The largest id ordinal given out."""
        ...

    def networks(self) -> list[Network]: ...

    def subnets(self) -> list[Subnet]: ...

    def nodes(self) -> list[Node]: ...

    def security_groups(self) -> list[SecurityGroup]: ...

    def security_group_rules(self) -> list[SecurityGroupRule]: ...

    def identities(self) -> list[Identity]: ...

    def ports_of_identities(self) -> Sequence[tuple[Id, int, int]]:
        """(network, identity, ports), without those of identity 0: to rebuild which groups are in use. Reads every
        port: at start, not on the way."""
        ...

    def qos_policies(self) -> list[QosPolicy]: ...

    def qos_rules(self) -> list[QosRule]: ...

    def qos_bindings(self) -> list[QosBinding]: ...

    def ports_of_qos_policies(self) -> Sequence[tuple[Id, int]]:
        """(policy, ports that have it as their own): to rebuild which policies are in use."""
        ...

    def get_ports(self, ids: Iterable[Id]) -> list[Port]:
        """Those that exist, in the order asked."""
        ...

    def list_ports(self, query: Query) -> list[Port]: ...

    def list_networks(self, query: Query) -> list[Network]: ...

    def list_subnets(self, query: Query) -> list[Subnet]: ...

    def list_nodes(self, query: Query) -> list[Node]: ...

    def list_security_groups(self, query: Query) -> list[SecurityGroup]: ...

    def list_security_group_rules(self, query: Query) -> list[SecurityGroupRule]: ...

    def list_qos_policies(self, query: Query) -> list[QosPolicy]: ...

    def list_qos_rules(self, query: Query) -> list[QosRule]: ...

    def rows(self, noun: type[Noun]) -> list[Noun]:
        """All rows of one of schema.RESOURCES, in the order of creation."""
        ...

    def list_rows(self, noun: type[Noun], query: Query) -> list[Noun]:
        """A page of one of schema.RESOURCES."""
        ...

    def ports_of_host(self, host: str) -> list[Port]: ...

    def ports_of_network(self, network_id: Id) -> list[Port]:
        """Bound or not."""
        ...

    def named_ports(self, network_id: Id) -> list[Port]:
        """The network's ports that have a dns_name, in the order of creation."""
        ...

    def claiming_ports(self) -> list[Port]:
        """The ports that claim addresses, in the order of creation: to rebuild who claims what."""
        ...

    def locate(self, subnet_id: Id, ips: Sequence[Ip]) -> list[Location]:
        """Of these addresses, those that ports have; in any order, each once. Cost: of the addresses asked for."""
        ...

    def locate_macs(self, network_id: Id, macs: Sequence[Mac]) -> list[Location]:
        """The link-local addresses of the ports that have IPv6 and these MACs in the network, likewise."""
        ...

    def allocated_addresses(self, subnet_id: Id) -> list[int]:
        """Offsets from the subnet's first address, ascending."""
        ...

    def allocated_macs(self, network_id: Id) -> list[int]:
        """As 48-bit integers, ascending."""
        ...

    def hosts_of_networks(self) -> Sequence[tuple[Id, str, int]]:
        """(network, host, bound ports), to rebuild who carries what."""
        ...

    def changes_since(self, revision: int, limit: int) -> list[ChangeRecord] | None:
        """Up to `limit` commits after that revision, oldest first; None when the log does not reach back so far (it is
        bounded): start over from the rows. Commits that changed nothing but statuses are not in the log."""
        ...

    def check(self) -> list[str]:
        """What is wrong inside the store, a sentence each; empty when all is well. Reads everything: for operators,
        tests, and idle hours."""
        ...

    def close(self) -> None: ...


class StoreError(Exception):
    """The database cannot be read or written: path, reason, what to do next."""


class QueryError(ValueError):
    """A listing that cannot be: an attribute nobody has, or one that would scan more rows than `SCAN_BOUND`. The
    message says what to ask instead. The caller's mistake: 400."""


class MarkerNotFound(QueryError):
    """The marker of a page names no resource (any more)."""


SCAN_BOUND = 100_000
"""A filter without an index, or a sort by anything but id, is answered while the indexed filters beside it leave at
most so many rows (the small cloud works as in Neutron); beyond it is refused (the large one stays up)."""
