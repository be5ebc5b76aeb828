"""The port of durable desired state: one writer, many readers. Filled by memory and sqlite; called by loops and api.

The writer commits a whole batch (rows and the change-log entry) in one transaction. Readers see committed state only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id
from alcor.model.nouns import Network, Node, Port, PortStatus, Subnet


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a listing. Filters are ANDed, a filter's values ORed; sorting ends with the id, so pages are stable."""

    filters: dict[str, tuple[object, ...]] = {}
    """Attribute of the noun -> values (typed as in the noun). Ports also: `ip`, `subnet_id` (of fixed addresses)."""
    sort: tuple[tuple[str, bool], ...] = ()
    """(attribute, ascending)."""
    limit: int = 1000
    marker: Id | None = None
    """The last id of the page before; unknown: NotFound."""
    reverse: bool = False


class StatusChange(msgspec.Struct, frozen=True, gc=False):
    """A port's status row. Does not change the port's revision."""

    id: Id
    status: PortStatus
    reason: str
    realised_revision: int


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
    statuses: list[StatusChange] = []


class ChangeRecord(NamedTuple):
    """One commit in the change log."""

    revision: int
    changes: Changes


class Store(Protocol):
    """One writer thread calls `commit`; any thread reads. Opening a store runs its migrations."""

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

    def get_ports(self, ids: Iterable[Id]) -> list[Port]:
        """Those that exist, in the order asked."""
        ...

    def list_ports(self, query: Query) -> list[Port]: ...

    def list_networks(self, query: Query) -> list[Network]: ...

    def list_subnets(self, query: Query) -> list[Subnet]: ...

    def list_nodes(self, query: Query) -> list[Node]: ...

    def ports_of_host(self, host: str) -> list[Port]: ...

    def ports_of_network(self, network_id: Id) -> list[Port]:
        """Bound or not."""
        ...

    def allocated_ips(self, subnet_id: Id) -> list[Ip]: ...

    def allocated_macs(self, network_id: Id) -> list[Mac]: ...

    def hosts_of_networks(self) -> Sequence[tuple[Id, str, int]]:
        """(network, host, bound ports), to rebuild who carries what."""
        ...

    def close(self) -> None: ...


class StoreError(Exception):
    """The database cannot be read or written: path, reason, what to do next."""
