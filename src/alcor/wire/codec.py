"""Goal state and reports as protobuf bytes (alcor.proto), and back. protobuf enters through this file only.

Called by loops and paths (to encode goal state, to decode reports) and by the agent (the reverse). Encoding trusts its
caller; decoding trusts nobody: what is malformed is a WireError that names the field, and nothing of it is used.

A scope's update is encoded once, as a *part*: the bytes that it is as a field of a Bundle (tag, length, message).
Messages of protobuf may be concatenated field by field, so a bundle is a few bytes of header and then parts, placed
in as many bundles as there are hosts to tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NewType, TypeAlias, cast

import msgspec
from google.protobuf.message import DecodeError

from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    Goal,
    Kind,
    PortAddress,
    PortGoal,
    ScopeUpdate,
    SubnetGoal,
    Tombstone,
    VpcGoal,
)
from alcor.model.addresses import Ip, Mac, Prefix, ip_to_int, ip_version
from alcor.model.ids import Id
from alcor.model.nouns import PortKind
from alcor.wire import alcor_pb2 as pb

SYNC_METHOD = "/alcor.v1.Agent/Sync"
SERVICE, METHOD = "alcor.v1.Agent", "Sync"

MAX_MESSAGE_BYTES = 64 << 20
"""Of one bundle or report; both ends set gRPC's limits to it. About 1,500,000 endpoints."""
MAX_TEXT = 4096
"""Characters of a name, a path or an error; longer errors are cut when encoded."""
MAX_ADDRESSES = 256
"""Of one port or endpoint."""
MAX_VNI = (1 << 24) - 1
MIN_MTU, MAX_MTU = 68, 65_535
MAX_REVISION = (1 << 63) - 1

Part = NewType("Part", bytes)
"""An encoded ScopeUpdate as a field of a Bundle: tag, length, message."""

UncheckedScopes = NewType("UncheckedScopes", pb.Bundle)
"""A decoded bundle's scopes, their contents not looked at yet."""

_Ips: TypeAlias = list[tuple[Ip, ...]]

_SCOPES_TAG = bytes(((4 << 3) | 2,))
_KINDS = (PortKind.CONTAINER, PortKind.TAP, PortKind.ADOPTED)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


class WireError(ValueError):
    """Bytes that are no message of ours: which field, and what is wrong with it."""


class BundleHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says besides its scopes."""

    partition: int
    epoch: int
    sequence: int
    host: str
    synced: bool


class Held(msgspec.Struct, frozen=True, gc=False):
    """What an agent holds of a scope. Revision 0: nothing, although it was told of it."""

    scope: Id
    revision: int
    digest: int


class Hello(msgspec.Struct, frozen=True):
    """The first report of a stream."""

    host: str
    epoch: int
    scopes: tuple[Held, ...]


class PortAck(msgspec.Struct, frozen=True, gc=False):
    """A host's word about one port. `error` empty: the kernel carries `revision` (or, `deleted`, no longer)."""

    id: Id
    revision: int
    deleted: bool
    error: str
    elapsed_us: int


class Timings(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Where the agent's time for a bundle went."""

    merge_us: int = 0
    journal_us: int = 0
    plan_us: int = 0
    wiring_us: int = 0
    tables_us: int = 0
    total_us: int = 0


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one bundle; sequence 0: later word, to no bundle in particular."""

    sequence: int
    error: str = ""
    ports: tuple[PortAck, ...] = ()
    scopes: tuple[Held, ...] = ()
    timings: Timings = Timings()


# Goal state down.


def encode_update(update: ScopeUpdate) -> bytes:
    """The update as a ScopeUpdate message."""
    message = pb.ScopeUpdate(scope=update.scope, revision=update.revision, snapshot=update.snapshot)
    vpcs, subnets, ports = message.vpcs, message.subnets, message.ports
    endpoints: list[EndpointGoal] = []
    for goal in update.objects:
        if isinstance(goal, EndpointGoal):
            endpoints.append(goal)
        elif isinstance(goal, PortGoal):
            _encode_port(ports.add(), goal)
        elif isinstance(goal, SubnetGoal):
            subnets.add(
                id=goal.id,
                revision=goal.revision,
                base=goal.cidr.base,
                prefix_length=goal.cidr.length,
                ip_version=goal.cidr.version,
                gateway=goal.gateway or b"",
            )
        else:
            vpcs.add(
                id=goal.id,
                revision=goal.revision,
                vni=goal.vni,
                mtu=goal.mtu,
                routed=goal.routed,
                admin_state_up=goal.admin_state_up,
            )
    if endpoints:
        _encode_endpoints(message.endpoints, endpoints)
    for tombstone in update.tombstones:
        message.tombstones.add(kind=tombstone.kind, id=tombstone.id, revision=tombstone.revision)
    return message.SerializeToString()


def encode_part(update: ScopeUpdate) -> Part:
    """The update, ready to be placed in any number of bundles."""
    encoded = encode_update(update)
    return Part(b"".join((_SCOPES_TAG, _varint(len(encoded)), encoded)))


def encode_bundle(head: BundleHead, parts: Sequence[Part]) -> bytes:
    """A Bundle message. The size is the caller's to bound."""
    header = pb.Bundle(
        partition=head.partition, epoch=head.epoch, sequence=head.sequence, host=head.host, synced=head.synced
    ).SerializeToString()
    return b"".join((header, *parts))


def decode_bundle(data: bytes) -> tuple[BundleHead, UncheckedScopes]:
    """A bundle's head, checked, and its scopes for `decode_scopes`. Raises WireError.

    In two steps, so that a bundle with a bad scope can still be answered by its sequence.
    """
    try:
        message = pb.Bundle.FromString(data)
    except DecodeError as error:
        raise WireError(f"bundle: not a protobuf message ({error})") from None
    head = BundleHead(
        partition=message.partition,
        epoch=_revision(message.epoch, "bundle.epoch"),
        sequence=_revision(message.sequence, "bundle.sequence"),
        host=_text(message.host, "bundle.host"),
        synced=message.synced,
    )
    return head, UncheckedScopes(message)


def decode_scopes(message: UncheckedScopes) -> tuple[ScopeUpdate, ...]:
    """A decoded bundle's scopes, checked, in their order. Raises WireError."""
    return tuple([_decode_update(update, f"scopes[{index}]") for index, update in enumerate(message.scopes)])


def decode_update(data: bytes) -> ScopeUpdate:
    """A ScopeUpdate message, checked. Raises WireError."""
    try:
        return _decode_update(pb.ScopeUpdate.FromString(data), "update")
    except DecodeError as error:
        raise WireError(f"update: not a protobuf message ({error})") from None


def _encode_port(message: pb.Port, goal: PortGoal) -> None:
    message.id = goal.id
    message.revision = goal.revision
    message.vpc_id = goal.vpc_id
    message.mac = goal.mac
    message.admin_state_up = goal.admin_state_up
    message.kind = _KIND_NUMBERS[goal.kind]  # type: ignore[assignment]
    message.netns = goal.netns
    message.interface = goal.interface
    for address in goal.addresses:
        message.addresses.add(ip=address.ip, subnet_id=address.subnet_id)


def _encode_endpoints(message: pb.Endpoints, goals: Sequence[EndpointGoal]) -> None:
    message.ids = b"".join([goal.id for goal in goals])
    message.revisions.extend([goal.revision for goal in goals])
    message.macs = b"".join([goal.mac for goal in goals])
    message.ips = b"".join([ip for goal in goals for ip in goal.ips])
    counts = [len(goal.ips) for goal in goals]
    if any(count != 1 for count in counts):
        message.ip_counts.extend(counts)
    places = {host_ip: place for place, host_ip in enumerate(dict.fromkeys([goal.host_ip for goal in goals]))}
    message.host_ips = b"".join(places)
    message.hosts.extend([places[goal.host_ip] for goal in goals])


def _decode_update(message: pb.ScopeUpdate, where: str) -> ScopeUpdate:
    scope = message.scope
    if scope != HOST_SCOPE:
        _id(scope, f"{where}.scope")
        if message.ports:
            raise WireError(f"{where}.ports: ports belong in a host's scope, not in a VPC's")
    elif message.vpcs or message.subnets or message.HasField("endpoints"):
        raise WireError(f"{where}: VPCs, subnets and endpoints belong in a VPC's scope, not in a host's")
    objects: list[Goal] = []
    objects += [_decode_vpc(vpc, scope, f"{where}.vpcs") for vpc in message.vpcs]
    objects += [_decode_subnet(subnet, f"{where}.subnets") for subnet in message.subnets]
    objects += [_decode_port(port, f"{where}.ports") for port in message.ports]
    if message.HasField("endpoints"):
        objects += _decode_endpoints(message.endpoints, f"{where}.endpoints")
    for kind, some in (
        ("vpcs", message.vpcs),
        ("subnets", message.subnets),
        ("ports", message.ports),
    ):
        if len(some) > 1 and len({item.id for item in some}) != len(some):
            raise WireError(f"{where}.{kind}: the same id twice")
    tombstones = tuple([_decode_tombstone(tombstone, f"{where}.tombstones") for tombstone in message.tombstones])
    if len({tombstone.key for tombstone in tombstones}) != len(tombstones):
        raise WireError(f"{where}.tombstones: the same object twice")
    return ScopeUpdate(
        scope=Id(scope),
        revision=_revision(message.revision, f"{where}.revision"),
        snapshot=message.snapshot,
        objects=tuple(objects),
        tombstones=tombstones,
    )


def _decode_vpc(message: pb.Vpc, scope: bytes, where: str) -> VpcGoal:
    if message.id != scope:
        raise WireError(f"{where}.id: '{message.id.hex()}' is not the scope's VPC")
    if not 1 <= message.vni <= MAX_VNI:
        raise WireError(f"{where}.vni: {message.vni} is not in 1..{MAX_VNI}")
    if not MIN_MTU <= message.mtu <= MAX_MTU:
        raise WireError(f"{where}.mtu: {message.mtu} is not in {MIN_MTU}..{MAX_MTU}")
    return VpcGoal(
        Id(message.id),
        _revision(message.revision, f"{where}.revision"),
        message.vni,
        message.mtu,
        message.routed,
        message.admin_state_up,
    )


def _decode_subnet(message: pb.Subnet, where: str) -> SubnetGoal:
    base = _ip(message.base, f"{where}.base")
    version, length = message.ip_version, message.prefix_length
    if version not in (4, 6) or (version == 4) != (ip_version(base) == 4):
        raise WireError(f"{where}.ip_version: {version} is not the version of the base address")
    bits = 32 if version == 4 else 128
    if length > bits or ip_to_int(base) & ((1 << (bits - length)) - 1):
        raise WireError(f"{where}.prefix_length: {length} is not a prefix length of the base address")
    cidr = Prefix(base, length, version)
    gateway = _ip(message.gateway, f"{where}.gateway") if message.gateway else None
    if gateway is not None and gateway not in cidr:
        raise WireError(f"{where}.gateway: not in the subnet")
    return SubnetGoal(_id(message.id, f"{where}.id"), _revision(message.revision, f"{where}.revision"), cidr, gateway)


def _decode_port(message: pb.Port, where: str) -> PortGoal:
    if not 0 <= message.kind < len(_KINDS):
        raise WireError(f"{where}.kind: {message.kind} is not a kind of port")
    if len(message.addresses) > MAX_ADDRESSES:
        raise WireError(f"{where}.addresses: more than {MAX_ADDRESSES}")
    return PortGoal(
        _id(message.id, f"{where}.id"),
        _revision(message.revision, f"{where}.revision"),
        _id(message.vpc_id, f"{where}.vpc_id"),
        _mac(message.mac, f"{where}.mac"),
        tuple(
            [
                PortAddress(
                    _ip(address.ip, f"{where}.addresses.ip"), _id(address.subnet_id, f"{where}.addresses.subnet_id")
                )
                for address in message.addresses
            ]
        ),
        message.admin_state_up,
        _KINDS[message.kind],
        _text(message.netns, f"{where}.netns"),
        _text(message.interface, f"{where}.interface"),
    )


def _decode_endpoints(message: pb.Endpoints, where: str) -> Iterable[EndpointGoal]:
    """Whole columns at a time: VPCs have many. Equal tunnel ends and revisions become one object each (memory)."""
    ids = _cut(message.ids, 16, f"{where}.ids")
    macs = _cut(message.macs, 6, f"{where}.macs")
    for mac, first in zip(macs, message.macs[::6], strict=True):
        if first & 1:
            _mac(mac, f"{where}.macs")
    one_each = _cut(message.ips, 16, f"{where}.ips")
    ips: list[tuple[bytes, ...]] = list(zip(one_each))
    if message.ip_counts:
        ips = _grouped(one_each, message.ip_counts, where)
    known = {revision: _revision(revision, f"{where}.revisions") for revision in set(message.revisions)}
    revisions = [known[revision] for revision in message.revisions]
    host_ips = _cut(message.host_ips, 16, f"{where}.host_ips")
    try:
        hosts = [host_ips[place] for place in message.hosts]
    except IndexError:
        raise WireError(f"{where}.hosts: {max(message.hosts)} is not one of {len(host_ips)} tunnel ends") from None
    for name, column in (("revisions", revisions), ("macs", macs), ("ips", ips), ("hosts", hosts)):
        if len(column) != len(ids):
            raise WireError(f"{where}.{name}: of {len(column)} endpoints, and there are {len(ids)} ids")
    if len(set(ids)) != len(ids):
        raise WireError(f"{where}.ids: the same id twice")
    columns = cast("list[Id]", ids), revisions, cast("list[Mac]", macs), cast("_Ips", ips), cast("list[Ip]", hosts)
    return map(EndpointGoal, *columns)


def _cut(column: bytes, size: int, where: str) -> list[bytes]:
    """A column of entries of `size` bytes, entry by entry."""
    if len(column) % size:
        raise WireError(f"{where}: {len(column)} bytes are not entries of {size}")
    return [column[at : at + size] for at in range(0, len(column), size)]


def _grouped(ips: Sequence[bytes], counts: Sequence[int], where: str) -> list[tuple[bytes, ...]]:
    """The addresses of each endpoint, of which it has so many."""
    if max(counts) > MAX_ADDRESSES:
        raise WireError(f"{where}.ip_counts: {max(counts)}, at most {MAX_ADDRESSES} of one endpoint")
    if sum(counts) != len(ips):
        raise WireError(f"{where}.ip_counts: of {sum(counts)} addresses, and there are {len(ips)}")
    rest = iter(ips)
    return [tuple(islice(rest, count)) for count in counts]


def _decode_tombstone(message: pb.Tombstone, where: str) -> Tombstone:
    try:
        kind = Kind(message.kind)
    except ValueError:
        raise WireError(f"{where}.kind: {message.kind} is not a kind of object") from None
    return Tombstone(kind, _id(message.id, f"{where}.id"), _revision(message.revision, f"{where}.revision"))


# Reports up.


def encode_hello(hello: Hello) -> bytes:
    """A Report message with a Hello."""
    message = pb.Report()
    message.hello.host = hello.host
    message.hello.epoch = hello.epoch
    for held in hello.scopes:
        message.hello.scopes.add(scope=held.scope, revision=held.revision, digest=held.digest)
    return message.SerializeToString()


def encode_ack(ack: Ack) -> bytes:
    """A Report message with an Ack. Errors are cut to MAX_TEXT characters."""
    message = pb.Report()
    body = message.ack
    body.sequence = ack.sequence
    body.error = ack.error[:MAX_TEXT]
    for port in ack.ports:
        body.ports.add(
            id=port.id,
            revision=port.revision,
            deleted=port.deleted,
            error=port.error[:MAX_TEXT],
            elapsed_us=port.elapsed_us,
        )
    for held in ack.scopes:
        body.scopes.add(scope=held.scope, revision=held.revision, digest=held.digest)
    timings = ack.timings
    body.timings.merge_us = timings.merge_us
    body.timings.journal_us = timings.journal_us
    body.timings.plan_us = timings.plan_us
    body.timings.wiring_us = timings.wiring_us
    body.timings.tables_us = timings.tables_us
    body.timings.total_us = timings.total_us
    return message.SerializeToString()


def decode_report(data: bytes) -> Hello | Ack:
    """What an agent says. Raises WireError."""
    try:
        message = pb.Report.FromString(data)
    except DecodeError as error:
        raise WireError(f"report: not a protobuf message ({error})") from None
    which = message.WhichOneof("report")
    if which == "hello":
        hello = message.hello
        return Hello(_text(hello.host, "hello.host"), hello.epoch, _decode_held(hello.scopes, "hello.scopes"))
    if which == "ack":
        return _decode_ack(message.ack)
    raise WireError("report: neither a hello nor an ack")


def _decode_ack(message: pb.Ack) -> Ack:
    timings = message.timings
    return Ack(
        sequence=message.sequence,
        error=_text(message.error, "ack.error"),
        ports=tuple(
            [
                PortAck(
                    _id(port.id, "ack.ports.id"),
                    port.revision,
                    port.deleted,
                    _text(port.error, "ack.ports.error"),
                    port.elapsed_us,
                )
                for port in message.ports
            ]
        ),
        scopes=_decode_held(message.scopes, "ack.scopes"),
        timings=Timings(
            merge_us=timings.merge_us,
            journal_us=timings.journal_us,
            plan_us=timings.plan_us,
            wiring_us=timings.wiring_us,
            tables_us=timings.tables_us,
            total_us=timings.total_us,
        ),
    )


def _decode_held(messages: Iterable[pb.ScopeState], where: str) -> tuple[Held, ...]:
    held = []
    for message in messages:
        if message.scope != HOST_SCOPE:
            _id(message.scope, f"{where}.scope")
        held.append(Held(Id(message.scope), message.revision, message.digest))
    if len({state.scope for state in held}) != len(held):
        raise WireError(f"{where}: the same scope twice")
    return tuple(held)


# Fields.


def _varint(value: int) -> bytes:
    """Base-128, least significant group first (protobuf's encoding of lengths)."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _id(value: bytes, where: str) -> Id:
    if len(value) != 16:
        raise WireError(f"{where}: {len(value)} bytes, an id has 16")
    return Id(value)


def _ip(value: bytes, where: str) -> Ip:
    if len(value) != 16:
        raise WireError(f"{where}: {len(value)} bytes, an address has 16")
    return Ip(value)


def _mac(value: bytes, where: str) -> Mac:
    if len(value) != 6:
        raise WireError(f"{where}: {len(value)} bytes, a MAC has 6")
    if value[0] & 1:
        raise WireError(f"{where}: {value.hex(':')} is a group address")
    return Mac(value)


def _revision(value: int, where: str) -> int:
    if not 1 <= value <= MAX_REVISION:
        raise WireError(f"{where}: {value} is not in 1..2^63-1")
    return value


def _text(value: str, where: str) -> str:
    if len(value) > MAX_TEXT:
        raise WireError(f"{where}: more than {MAX_TEXT} characters")
    if "\0" in value:
        raise WireError(f"{where}: has a NUL character")
    return value
