"""Desired state in plain dicts: the store of tests and simulations, lost with the process. Fills store.base.Store.

Enforces what SQLite's constraints enforce, so that a test that passes here does not break there. `fail` makes the next
commits raise StoreError, for tests of what happens then.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from msgspec.structs import replace

from alcor.model.addresses import Ip, Mac, ip_to_int, link_local
from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import Identity, Network, Node, Port, SecurityGroup, SecurityGroupRule, Subnet
from alcor.model.qos import QosBinding, QosPolicy, QosRule
from alcor.store.base import (
    ChangeRecord,
    Changes,
    Location,
    MarkerNotFound,
    Noun,
    Query,
    QueryError,
    StatusChange,
    StoreError,
)
from alcor.store.record import record_of
from alcor.store.schema import NETWORKS, NODES, PORTS, RESOURCES, SUBNETS
from alcor.store.table import Table
from alcor.store.tables_qos import QOS_POLICIES, QOS_RULES
from alcor.store.tables_security import RULES, SECURITY_GROUPS

KEPT_COMMITS = 4096


class MemoryStore:
    """See the module. Safe for one writer and many readers: reads copy under the same lock as a commit."""

    def __init__(self) -> None:
        self.fail: str | None = None
        """Set: every commit raises StoreError with that reason."""
        self._lock = threading.Lock()
        self._networks: dict[Id, Network] = {}
        self._subnets: dict[Id, Subnet] = {}
        self._nodes: dict[Id, Node] = {}
        self._ports: dict[Id, Port] = {}
        self._macs: dict[tuple[Id, bytes], Id] = {}
        self._addresses: dict[tuple[Id, bytes], Id] = {}
        self._groups: dict[Id, SecurityGroup] = {}
        self._rules: dict[Id, SecurityGroupRule] = {}
        self._identities: dict[tuple[Id, int], Identity] = {}
        self._qos_policies: dict[Id, QosPolicy] = {}
        self._qos_rules: dict[Id, QosRule] = {}
        self._qos_bindings: dict[tuple[Id, Id], QosBinding] = {}
        self._others: dict[str, dict[Id, Any]] = {table.name: {} for table in RESOURCES.values()}
        """By table, of schema.RESOURCES."""
        self._log: list[ChangeRecord] = []
        self._epoch = 0
        self._revision = 0
        self._last_ordinal = 0

    def commit(self, revision: int, changes: Changes) -> None:
        """See store.base."""
        with self._lock:
            if self.fail is not None:
                raise StoreError(f"memory: {self.fail}")
            for port in chain(changes.deleted_ports, (before for before, _ in changes.changed_ports)):
                self._release(port)
            for port in changes.deleted_ports:
                self._ports.pop(port.id, None)
            for deleted, table in (
                (changes.deleted_subnets, self._subnets),
                (changes.deleted_networks, self._networks),
                (changes.deleted_nodes, self._nodes),
                (changes.deleted_security_groups, self._groups),
                (changes.deleted_rules, self._rules),
                (changes.deleted_qos_policies, self._qos_policies),
                (changes.deleted_qos_rules, self._qos_rules),
            ):
                for noun in deleted:
                    table.pop(noun.id, None)
            for name, rows in self._others.items():
                for row in getattr(changes, f"deleted_{name}"):
                    rows.pop(row.id, None)
            for identity in changes.deleted_identities:
                self._identities.pop((identity.network_id, identity.number), None)
            for binding in changes.deleted_qos_bindings:
                self._qos_bindings.pop((binding.network_id, binding.policy_id), None)
            gone = {network.id for network in changes.deleted_networks}
            for key in [key for key in self._identities if key[0] in gone]:
                del self._identities[key]
            for pair in [pair for pair in self._qos_bindings if pair[0] in gone]:
                del self._qos_bindings[pair]
            for port in chain((after for _, after in changes.changed_ports), changes.new_ports):
                self._claim(port)
                self._ports[port.id] = port
            self._networks.update((network.id, network) for network in changes.networks)
            self._subnets.update((subnet.id, subnet) for subnet in changes.subnets)
            self._nodes.update((node.id, node) for node in changes.nodes)
            self._groups.update((group.id, group) for group in changes.security_groups)
            self._rules.update((rule.id, rule) for rule in changes.rules)
            self._identities.update(((one.network_id, one.number), one) for one in changes.identities)
            self._qos_policies.update((policy.id, policy) for policy in changes.qos_policies)
            self._qos_rules.update((rule.id, rule) for rule in changes.qos_rules)
            self._qos_bindings.update(((one.network_id, one.policy_id), one) for one in changes.qos_bindings)
            for name, rows in self._others.items():
                rows.update((row.id, row) for row in getattr(changes, name))
            for change in changes.statuses:
                if change.id in self._ports:
                    self._ports[change.id] = _with_status(self._ports[change.id], change)
            record = record_of(revision, changes)
            if record is not None:
                self._log = [*self._log, record][-KEPT_COMMITS:]
            self._revision = revision
            made = chain(
                *(changes.new_ports, changes.networks, changes.subnets, changes.nodes),
                *(changes.security_groups, changes.rules, changes.qos_policies, changes.qos_rules),
                *(getattr(changes, name) for name in self._others),
            )
            ordinals = [ordinal_of(noun.id) for noun in made]
            self._last_ordinal = max(self._last_ordinal, changes.last_ordinal, *ordinals, 0)

    def next_epoch(self) -> int:
        """See store.base."""
        with self._lock:
            self._epoch += 1
            return self._epoch

    def close(self) -> None:
        """Nothing to close."""

    def revision(self) -> int:
        """See store.base."""
        return self._revision

    def last_ordinal(self) -> int:
        """See store.base."""
        return self._last_ordinal

    def networks(self) -> list[Network]:
        """All of them, in the order of creation."""
        return self._sorted(self._networks)

    def subnets(self) -> list[Subnet]:
        """All of them, in the order of creation."""
        return self._sorted(self._subnets)

    def nodes(self) -> list[Node]:
        """All of them, in the order of creation."""
        return self._sorted(self._nodes)

    def security_groups(self) -> list[SecurityGroup]:
        """All of them, in the order of creation."""
        return self._sorted(self._groups)

    def security_group_rules(self) -> list[SecurityGroupRule]:
        """All of them, in the order of creation."""
        return self._sorted(self._rules)

    def identities(self) -> list[Identity]:
        """All of them, by network and number."""
        with self._lock:
            return [self._identities[key] for key in sorted(self._identities)]

    def ports_of_identities(self) -> Sequence[tuple[Id, int, int]]:
        """See store.base."""
        counts = Counter((port.network_id, port.identity) for port in self._sorted(self._ports) if port.identity)
        return [(network_id, identity, count) for (network_id, identity), count in counts.items()]

    def qos_policies(self) -> list[QosPolicy]:
        """All of them, in the order of creation."""
        return self._sorted(self._qos_policies)

    def qos_rules(self) -> list[QosRule]:
        """All of them, in the order of creation."""
        return self._sorted(self._qos_rules)

    def qos_bindings(self) -> list[QosBinding]:
        """All of them, by network and policy."""
        with self._lock:
            return [self._qos_bindings[key] for key in sorted(self._qos_bindings)]

    def ports_of_qos_policies(self) -> Sequence[tuple[Id, int]]:
        """See store.base."""
        return list(Counter(port.qos_policy_id for port in self._sorted(self._ports) if port.qos_policy_id).items())

    def get_ports(self, ids: Iterable[Id]) -> list[Port]:
        """See store.base."""
        with self._lock:
            return [self._ports[identifier] for identifier in ids if identifier in self._ports]

    def list_ports(self, query: Query) -> list[Port]:
        """See store.base."""
        return _page(PORTS, self._sorted(self._ports), query)

    def list_networks(self, query: Query) -> list[Network]:
        """See store.base."""
        return _page(NETWORKS, self.networks(), query)

    def list_subnets(self, query: Query) -> list[Subnet]:
        """See store.base."""
        return _page(SUBNETS, self.subnets(), query)

    def list_nodes(self, query: Query) -> list[Node]:
        """See store.base."""
        return _page(NODES, self.nodes(), query)

    def list_security_groups(self, query: Query) -> list[SecurityGroup]:
        """See store.base."""
        return _page(SECURITY_GROUPS, self.security_groups(), query)

    def list_security_group_rules(self, query: Query) -> list[SecurityGroupRule]:
        """See store.base."""
        return _page(RULES, self.security_group_rules(), query)

    def list_qos_policies(self, query: Query) -> list[QosPolicy]:
        """See store.base."""
        return _page(QOS_POLICIES, self.qos_policies(), query)

    def list_qos_rules(self, query: Query) -> list[QosRule]:
        """See store.base."""
        return _page(QOS_RULES, self.qos_rules(), query)

    def rows(self, noun: type[Noun]) -> list[Noun]:
        """See store.base."""
        return self._sorted(self._others[RESOURCES[noun].name])

    def list_rows(self, noun: type[Noun], query: Query) -> list[Noun]:
        """See store.base."""
        return _page(RESOURCES[noun], self.rows(noun), query)

    def ports_of_host(self, host: str) -> list[Port]:
        """In the order of creation."""
        return [port for port in self._sorted(self._ports) if host and port.host == host]

    def ports_of_network(self, network_id: Id) -> list[Port]:
        """In the order of creation."""
        return [port for port in self._sorted(self._ports) if port.network_id == network_id]

    def named_ports(self, network_id: Id) -> list[Port]:
        """See store.base."""
        return [port for port in self.ports_of_network(network_id) if port.dns_name]

    def claiming_ports(self) -> list[Port]:
        """See store.base."""
        return [port for port in self._sorted(self._ports) if port.claims]

    def locate(self, subnet_id: Id, ips: Sequence[Ip]) -> list[Location]:
        """See store.base."""
        with self._lock:
            found = [(ip, self._addresses.get((subnet_id, ip))) for ip in dict.fromkeys(ips)]
            return [_location(ip, self._ports[port]) for ip, port in found if port is not None]

    def locate_macs(self, network_id: Id, macs: Sequence[Mac]) -> list[Location]:
        """See store.base."""
        with self._lock:
            found = [(mac, self._macs.get((network_id, mac))) for mac in dict.fromkeys(macs)]
            ports = [(link_local(mac), self._ports[port]) for mac, port in found if port is not None]
            return [_location(ip, port) for ip, port in ports if any(fixed_ip.ip[0] for fixed_ip in port.fixed_ips)]

    def allocated_addresses(self, subnet_id: Id) -> list[int]:
        """See store.base."""
        with self._lock:
            subnet = self._subnets.get(subnet_id)
            if subnet is None:
                return []
            return sorted(ip_to_int(ip) - subnet.cidr.first for owner, ip in self._addresses if owner == subnet_id)  # type: ignore[arg-type]

    def allocated_macs(self, network_id: Id) -> list[int]:
        """See store.base."""
        with self._lock:
            return sorted(int.from_bytes(mac, "big") for owner, mac in self._macs if owner == network_id)

    def hosts_of_networks(self) -> Sequence[tuple[Id, str, int]]:
        """See store.base."""
        counts = Counter((port.network_id, port.host) for port in self._sorted(self._ports) if port.host)
        return [(network_id, host, count) for (network_id, host), count in counts.items()]

    def changes_since(self, revision: int, limit: int) -> list[ChangeRecord] | None:
        """See store.base."""
        with self._lock:
            if revision < self._revision - KEPT_COMMITS:
                return None
            return [record for record in self._log if record.revision > revision][:limit]

    def check(self) -> list[str]:
        """See store.base."""
        with self._lock:
            macs = {(port.network_id, port.mac): port.id for port in self._ports.values()}
            addresses = {
                (fixed_ip.subnet_id, fixed_ip.ip): port.id
                for port in self._ports.values()
                for fixed_ip in port.fixed_ips
            }
            findings = []
            if macs != self._macs:
                findings.append(f"{len(self._macs)} MACs are allocated, {len(macs)} are referenced by ports")
            if addresses != self._addresses:
                findings.append(
                    f"{len(self._addresses)} addresses are allocated, {len(addresses)} are referenced by ports"
                )
            return findings

    def _sorted(self, rows: dict[Id, Any]) -> list[Any]:
        with self._lock:
            return [rows[identifier] for identifier in sorted(rows)]

    def _claim(self, port: Port) -> None:
        _own(self._macs, (port.network_id, port.mac), port.id)
        for fixed_ip in port.fixed_ips:
            _own(self._addresses, (fixed_ip.subnet_id, fixed_ip.ip), port.id)

    def _release(self, port: Port) -> None:
        self._macs.pop((port.network_id, port.mac), None)
        for fixed_ip in port.fixed_ips:
            self._addresses.pop((fixed_ip.subnet_id, fixed_ip.ip), None)


def _location(ip: Ip, port: Port) -> Location:
    return Location(ip, port.mac, port.host, port.identity)


def _own(owners: dict[tuple[Id, bytes], Id], key: tuple[Id, bytes], owner: Id) -> None:
    if owners.setdefault(key, owner) != owner:
        raise StoreError(f"memory: {key[1].hex()} is owned twice, which the indexes should have refused: report this")


def _with_status(port: Port, change: StatusChange) -> Port:
    return replace(
        port,
        status=change.status,
        status_reason=change.reason,
        realised_revision=change.realised_revision,
        path=change.path,
        attempts=change.attempts,
        realised_at=change.realised_at,
    )


def _page(table: Table, nouns: list[Any], query: Query) -> list[Any]:
    """Filter, sort and cut, by the same columns as SQLite."""
    for name in chain(query.filters, (name for name, _ in query.sort)):
        if name not in table.attributes:
            raise QueryError(f"{table.word} have no attribute {name} to filter or sort by")
    if query.limit < 1:
        raise QueryError(f"limit {query.limit} must be at least 1")
    sort = [*query.sort, ("id", True)]
    if table is PORTS and any(name in ("ip", "subnet_id", "security_group") for name, _ in sort):
        raise QueryError("ports cannot be sorted by an address, of which a port may have several")
    for name, up in reversed(sort):
        convert = table.attributes[name]
        nouns.sort(key=lambda noun: convert(getattr(noun, name)), reverse=up == query.reverse)
    if query.marker is not None:
        place = next((index for index, noun in enumerate(nouns) if noun.id == query.marker), None)
        if place is None:
            raise MarkerNotFound(f"marker {query.marker.hex()} is none of the {table.word}: start again without it")
        nouns = nouns[place + 1 :]
    page = [noun for noun in nouns if _matches(table, noun, query)][: query.limit]
    return page[::-1] if query.reverse else page


def _matches(table: Table, noun: Any, query: Query) -> bool:
    wanted = {name: {table.attributes[name](value) for value in values} for name, values in query.filters.items()}
    if table is PORTS:
        ips, subnets = wanted.pop("ip", None), wanted.pop("subnet_id", None)
        groups = wanted.pop("security_group", None)
        if groups is not None and groups.isdisjoint(noun.security_groups):
            return False
        if (ips is not None or subnets is not None) and not any(
            (ips is None or fixed_ip.ip in ips) and (subnets is None or fixed_ip.subnet_id in subnets)
            for fixed_ip in noun.fixed_ips
        ):
            return False
    return all(table.attributes[name](getattr(noun, name)) in values for name, values in wanted.items())
