"""Sorts what the kernel holds into ports that are right, ports to mend, and leftovers of a crash. Pure.

Called by the driver with the tables and interfaces that it read; the port records in the map `records` are believed
only as far as the kernel confirms them: the row in `ports` carries the digest of the record, the interface with that
index carries our alias, our qdisc is on it, and its addresses lead to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alcor.dataplane.base import LocalPort
from alcor.dataplane.ebpf import wiring
from alcor.dataplane.ebpf.eips import eip_keys, eip_queues, eip_rows, forwarding_rows
from alcor.dataplane.ebpf.queues import PortQueues, fits
from alcor.dataplane.ebpf.tables import (
    EndpointFlag,
    LocalRow,
    MacKey,
    PortRow,
    port_digest,
    port_endpoints,
    port_ips,
    port_local,
    port_routers,
    port_row,
    unpack_key,
)
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.kernel.classes import Shape
from alcor.dataplane.kernel.links import Link
from alcor.model.addresses import Mac, format_ip, format_mac
from alcor.model.ids import Id, format_id
from alcor.model.nouns import PortKind


class Snapshot(NamedTuple):
    """What was read from the kernel. A record that cannot be read is None."""

    rows: Mapping[int, PortRow]
    records: Mapping[int, LocalPort | None]
    local: Mapping[EndpointKey, LocalRow]
    macs: Mapping[MacKey, LocalRow]
    links: Mapping[int, Link]
    attached: frozenset[int]
    """Interfaces whose ingress runs our block."""
    queues: Mapping[int, Shape]
    eips: Mapping[EndpointKey, bytes] = {}
    forwardings: Mapping[bytes, bytes] = {}
    routers: Mapping[int, bytes] = {}


class Carried(NamedTuple):
    """A port whose interface is there and known. `right`: nothing about it needs mending."""

    port: LocalPort
    ifindex: int
    attached: bool
    right: bool
    queues: PortQueues = PortQueues()


class Leftover(NamedTuple):
    """What is left of a port that is not whole: table rows and records by ifindex, interfaces, perhaps a namespace."""

    id: Id
    ifindexes: tuple[int, ...]
    links: tuple[int, ...]
    """Of `ifindexes`, the interfaces that are ours to delete."""
    own_netns: bool

    @property
    def name(self) -> str:
        """How `observe` reports it and `sweep` is told of it."""
        return f"port {format_id(self.id)}"


class Sorted(NamedTuple):
    """The host's ports, by whether they are whole. `stale`, `stale_macs` and `stale_eips` lead to no port that is
    carried."""

    carried: dict[Id, Carried]
    leftovers: dict[Id, Leftover]
    gateways: frozenset[EndpointKey]
    vips: dict[EndpointKey, Mac]
    stale: tuple[EndpointKey, ...]
    stale_macs: tuple[MacKey, ...]
    idle: tuple[int, ...] = ()
    """Queues that belong to no port that is carried."""
    stale_eips: tuple[EndpointKey, ...] = ()
    stale_forwardings: tuple[bytes, ...] = ()

    @property
    def orphans(self) -> tuple[str, ...]:
        """The names of everything that `sweep` would remove."""
        left = (self.leftovers[key].name for key in sorted(self.leftovers))
        named = (*map(address_name, self.stale), *map(mac_name, self.stale_macs), *map(eip_name, self.stale_eips))
        named = (*named, *map(forwarding_name, self.stale_forwardings))
        return (*left, *named, *map(queue_name, self.idle))


def address_name(key: EndpointKey) -> str:
    """How `observe` reports a stale address."""
    return f"address {format_ip(key.ip)} of VNI {key.vni}"


def queue_name(number: int) -> str:
    """How `observe` reports a queue of no port."""
    return f"queue {number}"


def mac_name(key: MacKey) -> str:
    """How `observe` reports a stale MAC."""
    return f"MAC {format_mac(key.mac)} of VNI {key.vni}"


def eip_name(key: EndpointKey) -> str:
    """How `observe` reports a stale row of `eips`."""
    return f"translation of {address_name(key)}"


def forwarding_name(key: bytes) -> str:
    """How `observe` reports a stale row of `forwardings`."""
    return f"forwarding {key.hex()}"


def is_peer(port: LocalPort) -> bool:
    """True when packets are delivered into the namespace behind the port's veth."""
    return port.kind is PortKind.CONTAINER


def sort_out(seen: Snapshot) -> Sorted:
    """What there is. A port that is whole twice (a crash while it was made anew) is kept once, the newest."""
    carried: dict[Id, Carried] = {}
    parts: dict[Id, set[int]] = {}
    for ifindex, record in sorted(seen.records.items()):
        row = seen.rows.get(ifindex)
        link = seen.links.get(ifindex)
        if record is None or row is None or row.id != record.id or link is None or not wiring.is_ours(link, record):
            continue
        if record.id in carried:
            parts.setdefault(record.id, set()).add(carried[record.id].ifindex)
        carried[record.id] = _judge(seen, record, ifindex, row, link)
    kept = {one.ifindex for one in carried.values()}
    for ifindex, row in seen.rows.items():
        if ifindex not in kept:
            parts.setdefault(row.id, set()).add(ifindex)
    for ifindex, record in seen.records.items():
        if ifindex not in kept and record is not None:
            parts.setdefault(record.id, set()).add(ifindex)
    for ifindex, link in seen.links.items():
        identifier = wiring.id_of_alias(link.alias)
        if identifier is not None and ifindex not in kept:
            parts.setdefault(identifier, set()).add(ifindex)
    leftovers = {key: _leftover(seen, key, sorted(parts[key]), key in carried) for key in sorted(parts)}
    expected = {EndpointKey(one.port.vni, ip): one.ifindex for one in carried.values() for ip in port_ips(one.port)}
    gateways = frozenset(key for key, row in seen.local.items() if row.flags & EndpointFlag.GATEWAY)
    vips = {key: row.mac for key, row in seen.local.items() if row.flags & EndpointFlag.VIP}
    stale = sorted(
        key
        for key, row in seen.local.items()
        if key not in gateways and key not in vips and expected.get(key, 0) != row.ifindex
    )
    expected_macs = {MacKey(one.port.vni, one.port.mac): one.ifindex for one in carried.values()}
    stale_macs = sorted(key for key, row in seen.macs.items() if expected_macs.get(key, 0) != row.ifindex)
    used = {number for one in carried.values() for number in one.queues.numbers()}
    idle = sorted(number for number in seen.queues if number not in used)
    stale_eips = sorted(seen.eips.keys() - {key for one in carried.values() for key in eip_keys(one.port)})
    forwarded = {key for one in carried.values() for key in forwarding_rows(one.port, 0)}
    left = (tuple(stale), tuple(stale_macs), tuple(idle))
    outside = (tuple(stale_eips), tuple(sorted(seen.forwardings.keys() - forwarded)))
    return Sorted(carried, leftovers, gateways, vips, *left, *outside)


def _judge(seen: Snapshot, port: LocalPort, ifindex: int, row: PortRow, link: Link) -> Carried:
    attached = ifindex in seen.attached
    peer = is_peer(port)
    ends = port_endpoints(port, ifindex, peer=peer, queues=row.queues)
    reached = all(seen.local.get(key) == one for key, one in ends)
    end = port_local(port, ifindex, peer=peer, queues=row.queues)
    reached = reached and seen.macs.get(MacKey(port.vni, port.mac)) == end
    same = row.digest == port_digest(port) and row == port_row(port, peer=peer, queues=row.queues)
    queues = PortQueues(row.queues, eip_queues(port, ifindex, seen.eips, seen.forwardings))
    limited = fits(port, queues, seen.queues)
    up = link.up or port.kind is PortKind.ADOPTED
    eips, forwardings = (make(port, ifindex, queues.eips) for make in (eip_rows, forwarding_rows))
    reached = reached and all(seen.eips.get(unpack_key(key)) == value for key, value in eips.items())
    reached = reached and seen.routers.get(ifindex) == port_routers(port)
    reached = reached and forwardings.items() <= seen.forwardings.items()
    return Carried(port, ifindex, attached, attached and reached and same and limited and up, queues)


def _leftover(seen: Snapshot, identifier: Id, ifindexes: Sequence[int], carried: bool) -> Leftover:
    ours = []
    own_netns = False
    for ifindex in ifindexes:
        link = seen.links.get(ifindex)
        record = seen.records.get(ifindex)
        by_alias = link is not None and wiring.id_of_alias(link.alias) == identifier
        made = record is not None and record.id == identifier and record.kind is not PortKind.ADOPTED
        if link is not None and (by_alias or (made and record is not None and wiring.is_ours(link, record))):
            ours.append(ifindex)
        # Without a record it cannot be told whether the namespace was given to us: only ours has the port's id as name.
        own_netns |= wiring.owns_netns(record) if record is not None and record.id == identifier else by_alias
    return Leftover(identifier, tuple(ifindexes), tuple(ours), own_netns and not carried)
