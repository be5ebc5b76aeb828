"""Does every host carry exactly what the API shows, and does the API show exactly what it has acknowledged?

Called by campaign, after (and during) every fault. What a host carries is read from the kernel itself: the pinned maps,
the names of namespaces; for the software switch from its file. No agent is asked: it may be the one that is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from alcor.dataplane.ebpf import tables
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import state as switch
from alcor.dataplane.fake.tables import LocalFlag
from alcor.dataplane.kernel.bpf import BpfMap
from alcor.lab.client import ApiError, Client, Resource
from alcor.lab.ledger import FILL, Ledger, address_of
from alcor.lab.scenario import reason
from alcor.lab.topology import Machine
from alcor.model.addresses import Ip, Mac, parse_ip, parse_mac
from alcor.model.ids import format_id
from alcor.store.sqlite_check import check_connection

MAX_WORDS = 12
NOBODY = (Mac(bytes(6)), Ip(bytes(16)))
"""In a VPC on demand: an address that nobody has."""


class Carried(NamedTuple):
    """What a host carries."""

    ports: frozenset[str]
    namespaces: frozenset[str]
    local: Mapping[EndpointKey, Mac]
    remote: Mapping[EndpointKey, tuple[Mac, Ip]]


class Findings(NamedTuple):
    """What is wrong; all empty (`clean`) when nothing is."""

    lost: tuple[str, ...] = ()
    """Acknowledged ports that the API does not show as acknowledged."""
    unsettled: tuple[str, ...] = ()
    """Bound ports that are not ACTIVE."""
    missing: tuple[str, ...] = ()
    """ACTIVE ports, or endpoints, that a host does not carry."""
    stale: tuple[str, ...] = ()
    """Ports, namespaces and endpoints that a host or the API has and should not."""
    leaked: tuple[str, ...] = ()
    """Addresses that nobody has and nobody can get, or that two have."""

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not any(self)

    @property
    def words(self) -> tuple[str, ...]:
        """The first few, for people."""
        named = [f"{kind}: {word}" for kind, found in zip(self._fields, self, strict=True) for word in found]
        return tuple(named[:MAX_WORDS])


class Reader:
    """Reads what hosts carry. Use as a context: it keeps the maps open."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._maps: dict[Path, BpfMap] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._maps.values():
            one.close()

    def read(self, host: Machine) -> Carried:
        """What the host carries, this moment."""
        return self._kernel(host) if self._driver == "ebpf" else _switch(host)

    def _kernel(self, host: Machine) -> Carried:
        rows = [tables.unpack_port(value) for _, value in self._open(host.pin_dir / "ports").items()]
        local = {tables.unpack_key(k): tables.unpack_local(v) for k, v in self._open(host.pin_dir / "local").items()}
        ends = {tables.unpack_key(k): tables.unpack_endpoint(v) for k, v in self._open(host.pin_dir / "remote").items()}
        return Carried(
            ports=frozenset(format_id(row.id) for row in rows),
            namespaces=frozenset(path.name for path in host.netns_dir.iterdir()),
            local={key: row.mac for key, row in local.items() if not row.flags & tables.EndpointFlag.GATEWAY},
            remote={key: (end.mac, end.host_ip) for key, end in ends.items()},
        )

    def _open(self, path: Path) -> BpfMap:
        if path not in self._maps:
            self._maps[path] = BpfMap.open(path)
        return self._maps[path]


def _switch(host: Machine) -> Carried:
    kept = switch.load(host.data_dir / "state" / "fake")
    ports = frozenset(format_id(row.id) for row in kept.ports.values())
    gateway = int(LocalFlag.GATEWAY)
    return Carried(
        ports=ports,
        namespaces=ports,
        local={EndpointKey(vni, ip): row.mac for vni, ip, row in kept.local if not row.flags & gateway},
        remote={EndpointKey(vni, ip): (row.mac, row.host_ip) for vni, ip, row in kept.remote},
    )


def expected(rows: Mapping[str, Resource], vnis: Mapping[str, int], hosts: Sequence[Machine]) -> dict[str, Carried]:
    """What every host must carry, by its name, given the ports that the API shows. Pure."""
    machine = {host.name: host for host in hosts}
    bound = {port: row for port, row in rows.items() if row["binding:host_id"] in machine}
    vpcs: dict[str, set[str]] = {host.name: set() for host in hosts}
    for row in bound.values():
        vpcs[row["binding:host_id"]].add(row["network_id"])
    ports: dict[str, set[str]] = {host.name: set() for host in hosts}
    local: dict[str, dict[EndpointKey, Mac]] = {host.name: {} for host in hosts}
    remote: dict[str, dict[EndpointKey, tuple[Mac, Ip]]] = {host.name: {} for host in hosts}
    for port, row in bound.items():
        own, vpc = row["binding:host_id"], row["network_id"]
        key, mac = EndpointKey(vnis[vpc], parse_ip(address_of(row))), parse_mac(row["mac_address"])
        ports[own].add(port)
        local[own][key] = mac
        for other in vpcs:
            if other != own and vpc in vpcs[other]:
                remote[other][key] = (mac, machine[own].ip)
    return {
        host: Carried(frozenset(ports[host]), frozenset(ports[host]), local[host], remote[host])
        for host in sorted(vpcs)
    }


def compare(host: str, wanted: Carried, found: Carried, on_demand: Collection[int] = ()) -> tuple[list[str], list[str]]:
    """(what is missing, what is stale) on a host, a sentence each. Of VNIs on demand it need not know any remote
    endpoint, but what it knows must be true. Pure."""
    missing = [f"{host} does not carry port {one}" for one in sorted(wanted.ports - found.ports)]
    missing += [f"{host} has no namespace {one}" for one in sorted(wanted.namespaces - found.namespaces)]
    stale = [f"{host} still carries port {one}" for one in sorted(found.ports - wanted.ports)]
    stale += [f"{host} still has namespace {one}" for one in sorted(found.namespaces - wanted.namespaces)]
    for what, should, there in (("local", wanted.local, found.local), ("remote", wanted.remote, found.remote)):
        for key in sorted(should.keys() | there.keys()):
            if key not in there:
                if what == "remote" and key.vni in on_demand:
                    continue
                missing.append(f"{host} lacks a {what} endpoint of VNI {key.vni}")
            elif should.get(key, NOBODY if key.vni in on_demand else None) != there[key]:
                stale.append(f"{host} has a stale {what} endpoint of VNI {key.vni}")
    return missing, stale


class Auditor:
    """See the module."""

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        hosts: Sequence[Machine],
        reader: Reader,
        database: Path,
        tight: tuple[str, str, int],
    ) -> None:
        """`tight`: network, subnet and number of addresses of a small subnet, where leaks are looked for."""
        self._client = client
        self._ledger = ledger
        self._hosts = list(hosts)
        self._reader = reader
        self._database = database
        self._tight = tight
        self._on_demand: set[int] = set()
        """VNIs, as of the last look."""

    def rows(self) -> dict[str, Resource]:
        """Every port that the API shows, by id. Raises LabError when it does not answer."""
        return {row["id"]: row for row in self._client.pages("ports")}

    def look(self) -> Findings:
        """API against ledger, hosts against API. Raises LabError when the API does not answer."""
        rows = self.rows()
        verdict = self._ledger.judge(rows)
        bound = [row for row in rows.values() if row["binding:host_id"]]
        unsettled = [
            f"{row['name']} on {row['binding:host_id']} is {row['status']}" + _why(row)
            for row in bound
            if row["status"] != "ACTIVE"
        ]
        if verdict.words or unsettled:
            stale = [word for word in verdict.words if word.endswith("is there")]
            lost = [word for word in verdict.words if not word.endswith("is there")]
            return Findings(lost=tuple(lost), stale=tuple(stale), unsettled=tuple(unsettled))
        networks = list(self._client.pages("networks"))
        vnis = {one["id"]: int(one["provider:segmentation_id"]) for one in networks}
        self._on_demand = {vnis[one["id"]] for one in networks if one["on_demand"]}
        missing, stale = [], []
        for host, wanted in zip(self._hosts, self._wanted(rows, vnis), strict=True):
            lacks, has = compare(host.name, wanted, self._reader.read(host), self._on_demand)
            missing += lacks
            stale += has
        if not missing and not stale:
            self._ledger.settle(rows)
        return Findings(missing=tuple(missing), stale=tuple(stale))

    def carried(self) -> list[Carried]:
        """What every host carries now, whatever the API says; but for what it learnt on demand, and may forget."""
        found = [self._reader.read(host) for host in self._hosts]
        return [
            one._replace(remote={key: there for key, there in one.remote.items() if key.vni not in self._on_demand})
            for one in found
        ]

    def leaks(self) -> tuple[str, ...]:
        """Addresses that leaked: in the store by its own rules, in the server's memory by taking all that are free."""
        uri = f"{self._database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as store:
            findings = check_connection(store)
        network, subnet, size = self._tight
        held = [row for row in self._client.pages("ports", network_id=network) if _in(row, subnet)]
        for row in held:
            if row["name"].startswith(FILL):
                self._client.delete("ports", row["id"])
        free = size - sum(not row["name"].startswith(FILL) for row in held)
        bodies = [
            {"network_id": network, "name": f"{FILL}{number}", "fixed_ips": [{"subnet_id": subnet}]}
            for number in range(free + 1)
        ]
        if free:
            try:
                made = self._client.create_many("ports", bodies[:free])
            except ApiError as error:
                return (*findings, f"{free} of {size} addresses should be free and are not to be had: {error}")
            for row in made:
                self._client.delete("ports", row["id"])
        try:
            extra = self._client.create_many("ports", bodies)
        except ApiError:
            return tuple(findings)
        for row in extra:
            self._client.delete("ports", row["id"])
        return (*findings, f"{free + 1} addresses could be had where {free} are free")

    def _wanted(self, rows: Mapping[str, Resource], vnis: Mapping[str, int]) -> list[Carried]:
        by_name = expected(rows, vnis, self._hosts)
        return [by_name[host.name] for host in self._hosts]


def _in(row: Resource, subnet: str) -> bool:
    return any(fixed["subnet_id"] == subnet for fixed in row["fixed_ips"])


def _why(row: Resource) -> str:
    said = reason(row)
    return f" ({said})" if said else ""
