"""Goal state as protobuf bytes (alcor.proto), and back. protobuf enters through this room only.

Called by loops and paths, which encode, and by the agent, which decodes. Encoding trusts its
caller; decoding trusts nobody: what is malformed is a WireError that names the field, and nothing of it is used.

A scope's update is encoded once, as a *part*: the bytes that it is as a field of a Bundle (tag, length, message).
Messages of protobuf may be concatenated field by field, so a bundle is a few bytes of header and then parts, placed
in as many bundles as there are hosts to tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from operator import lt
from typing import NewType, TypeAlias, cast

import msgspec
from google.protobuf.message import DecodeError

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
    PortAddress,
    PortGoal,
    QosGoal,
    RouterGoal,
    ScopeUpdate,
    SubnetGoal,
    Tombstone,
    VpcGoal,
)
from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id
from alcor.model.nouns import PortKind
from alcor.wire import alcor_pb2 as pb
from alcor.wire.balancing import (
    decode_balancer,
    decode_member,
    decode_pool,
    encode_balancer,
    encode_member,
    encode_pool,
)
from alcor.wire.claims import decode_claims, encode_claim, encode_claimed, with_claims
from alcor.wire.fields import WireError, check_id, check_ip, check_mac, check_revision, check_text, cut, varint
from alcor.wire.groups import (
    MAX_IDENTITY,
    MAX_PAIRS,
    check_identity,
    check_prefix,
    decode_group,
    decode_identity,
    decode_pair,
    encode_group,
    encode_identity,
    encode_pair,
)
from alcor.wire.outside import MAX_FORWARDINGS, decode_eip, decode_forwarding, encode_eip, encode_forwarding
from alcor.wire.qos import decode_qos, encode_qos
from alcor.wire.routers import (
    decode_peering,
    decode_route,
    decode_router,
    encode_peering,
    encode_route,
    encode_router,
)
from alcor.wire.services import MODE_NUMBERS, decode_mode, decode_name, decode_nameservers, decode_options, encode_name

SYNC_METHOD = "/alcor.v1.Agent/Sync"
RELAY_METHOD = "/alcor.v1.Agent/Relay"
SERVICE, METHOD, RELAY = "alcor.v1.Agent", "Sync", "Relay"

MAX_MESSAGE_BYTES = 64 << 20
"""Of one bundle or report; both ends set gRPC's limits to it. About 1,500,000 endpoints."""
FEED_KEY_BYTES = 32
MAX_ADDRESSES = 256
"""Of one port or endpoint."""
MAX_VNI = (1 << 24) - 1
MIN_MTU, MAX_MTU = 68, 65_535

Part = NewType("Part", bytes)
"""An encoded ScopeUpdate as a field of a Bundle: tag, length, message."""

UncheckedScopes = NewType("UncheckedScopes", pb.Bundle)
"""A decoded bundle's scopes, their contents not looked at yet."""

_Ips: TypeAlias = list[tuple[Ip, ...]]

_SCOPES_TAG = bytes(((4 << 3) | 2,))
_STATIONS = bytes(range(0, 256, 2))
"""What the first byte of a MAC may be."""
_KINDS = (PortKind.CONTAINER, PortKind.TAP, PortKind.ADOPTED)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


class Feed(msgspec.Struct, frozen=True, gc=False):
    """A VPC's news is on the bus too: `key` (32 bytes) opens it, `verifier` (32 bytes) shows whose it is."""

    vpc: Id
    key: bytes
    verifier: bytes

    def __repr__(self) -> str:
        return f"Feed({self.vpc.hex()})"  # the key must never reach a log


class BundleHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says besides its scopes. News from a feed has no sequence and no host."""

    partition: int
    epoch: int
    sequence: int
    host: str
    synced: bool
    feeds: tuple[Feed, ...] = ()


# Goal state down.


def encode_update(update: ScopeUpdate) -> bytes:
    """The update as a ScopeUpdate message."""
    message = pb.ScopeUpdate(
        scope=update.scope,
        revision=update.revision,
        snapshot=update.snapshot,
        previous=update.previous,
        confirms=update.confirms,
        partial=update.partial,
    )
    vpcs, subnets, ports = message.vpcs, message.subnets, message.ports
    endpoints: list[EndpointGoal] = []
    for goal in update.objects:
        if isinstance(goal, EndpointGoal):
            endpoints.append(goal)
        elif isinstance(goal, PortGoal):
            _encode_port(ports.add(), goal)
        elif isinstance(goal, SubnetGoal):
            _encode_subnet(subnets.add(), goal)
        elif isinstance(goal, IdentityGoal):
            encode_identity(message.identities.add(), goal)
        elif isinstance(goal, GroupGoal):
            encode_group(message.groups.add(), goal)
        elif isinstance(goal, RouterGoal):
            encode_router(message.routers.add(), goal)
        elif isinstance(goal, PeeringGoal):
            encode_peering(message.peerings.add(), goal)
        elif isinstance(goal, MemberGoal):
            encode_member(message.members.add(), goal)
        elif isinstance(goal, PoolGoal):
            encode_pool(message.pools.add(), goal)
        elif isinstance(goal, BalancerGoal):
            encode_balancer(message.balancers.add(), goal)
        elif isinstance(goal, NameGoal):
            encode_name(message.names.add(), goal)
        elif isinstance(goal, QosGoal):
            encode_qos(message.qos.add(), goal)
        else:
            vpcs.add(
                id=goal.id,
                revision=goal.revision,
                vni=goal.vni,
                mtu=goal.mtu,
                routed=goal.routed,
                admin_state_up=goal.admin_state_up,
                on_demand=goal.on_demand,
                dns_domain=goal.dns_domain,
                qos_id=goal.qos_id or b"",
            )
    if endpoints:
        _encode_endpoints(message.endpoints, endpoints)
    for tombstone in update.tombstones:
        encoded = message.tombstones.add(kind=tombstone.kind, id=tombstone.id, revision=tombstone.revision)
        if tombstone.successor is not None:
            _encode_endpoints(encoded.successor, [tombstone.successor])
    return message.SerializeToString()


def encode_part(update: ScopeUpdate) -> Part:
    """The update, ready to be placed in any number of bundles."""
    encoded = encode_update(update)
    return Part(b"".join((_SCOPES_TAG, varint(len(encoded)), encoded)))


def encode_bundle(head: BundleHead, parts: Sequence[Part]) -> bytes:
    """A Bundle message. The size is the caller's to bound."""
    header = pb.Bundle(
        partition=head.partition,
        epoch=head.epoch,
        sequence=head.sequence,
        host=head.host,
        synced=head.synced,
        feeds=[pb.Feed(vpc=feed.vpc, key=feed.key, verifier=feed.verifier) for feed in head.feeds],
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
        epoch=check_revision(message.epoch, "bundle.epoch"),
        sequence=check_revision(message.sequence, "bundle.sequence"),
        host=check_text(message.host, "bundle.host"),
        synced=message.synced,
        feeds=tuple([_decode_feed(feed, "bundle.feeds") for feed in message.feeds]),
    )
    return head, UncheckedScopes(message)


def _decode_feed(message: pb.Feed, where: str) -> Feed:
    if len(message.key) != FEED_KEY_BYTES:
        raise WireError(f"{where}.key: {len(message.key)} bytes, a key has {FEED_KEY_BYTES}")
    if len(message.verifier) != FEED_KEY_BYTES:
        raise WireError(f"{where}.verifier: {len(message.verifier)} bytes, a key has {FEED_KEY_BYTES}")
    return Feed(check_id(message.vpc, f"{where}.vpc"), message.key, message.verifier)


def decode_scopes(message: UncheckedScopes) -> tuple[ScopeUpdate, ...]:
    """A decoded bundle's scopes, checked, in their order. Raises WireError."""
    return tuple([_decode_update(update, f"scopes[{index}]") for index, update in enumerate(message.scopes)])


def without_feeds(message: UncheckedScopes) -> bytes:
    """A decoded bundle as bytes again, without its feeds: keys are not for keeping."""
    bare = pb.Bundle()
    bare.CopyFrom(message)
    bare.ClearField("feeds")
    return bare.SerializeToString()


def decode_update(data: bytes) -> ScopeUpdate:
    """A ScopeUpdate message, checked. Raises WireError."""
    try:
        return _decode_update(pb.ScopeUpdate.FromString(data), "update")
    except DecodeError as error:
        raise WireError(f"update: not a protobuf message ({error})") from None


def _encode_subnet(message: pb.Subnet, goal: SubnetGoal) -> None:
    message.id = goal.id
    message.revision = goal.revision
    message.base = goal.cidr.base
    message.prefix_length = goal.cidr.length
    message.ip_version = goal.cidr.version
    message.gateway = goal.gateway or b""
    message.dhcp = goal.dhcp
    message.nameservers = b"".join(goal.nameservers)
    message.ra_mode = MODE_NUMBERS[goal.ra_mode]
    message.address_mode = MODE_NUMBERS[goal.address_mode]
    for route in goal.host_routes:
        encode_route(message.host_routes.add(), route)


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
    message.identity = goal.identity
    message.sends_anything = not goal.port_security
    for pair in goal.pairs:
        encode_pair(message.pairs.add(), pair)
    message.project_id = goal.project_id
    message.device_id = goal.device_id
    message.dns_name = goal.dns_name
    for option in goal.dhcp_options:
        message.dhcp_options.add(ip_version=option.version, name=option.name, value=option.value)
    message.qos_id = goal.qos_id or b""
    for eip in goal.eips:
        encode_eip(message.eips.add(), eip)
    for forwarding in goal.forwardings:
        encode_forwarding(message.forwardings.add(), forwarding)
    for claim in goal.claims:
        message.claims.append(encode_claim(claim))


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
    identities = [goal.identity for goal in goals]
    if any(identities):
        message.identities.extend(identities)
    encode_claimed(message, goals)


def _decode_update(message: pb.ScopeUpdate, where: str) -> ScopeUpdate:
    scope = message.scope
    if scope != HOST_SCOPE:
        check_id(scope, f"{where}.scope")
        if message.ports:
            raise WireError(f"{where}.ports: ports belong in a host's scope, not in a VPC's")
    elif any(
        (
            *(message.vpcs, message.subnets, message.HasField("endpoints"), message.identities, message.groups),
            *(message.names, message.routers, message.peerings, message.qos),
            *(message.balancers, message.pools, message.members),
        )
    ):
        raise WireError(f"{where}: all things but ports belong in a VPC's scope, not in a host's")
    if message.partial and (scope == HOST_SCOPE or message.snapshot or message.HasField("endpoints")):
        raise WireError(f"{where}.partial: only a VPC can be, and then without endpoints, and is no snapshot")
    objects: list[Goal] = []
    objects += [_decode_vpc(vpc, scope, f"{where}.vpcs") for vpc in message.vpcs]
    objects += [_decode_subnet(subnet, f"{where}.subnets") for subnet in message.subnets]
    objects += [_decode_port(port, f"{where}.ports") for port in message.ports]
    if message.HasField("endpoints"):
        objects += _decode_endpoints(message.endpoints, f"{where}.endpoints")
    objects += [decode_identity(identity, f"{where}.identities") for identity in message.identities]
    objects += [decode_group(group, f"{where}.groups") for group in message.groups]
    objects += [decode_router(router, f"{where}.routers") for router in message.routers]
    objects += [decode_peering(peering, f"{where}.peerings") for peering in message.peerings]
    objects += [decode_balancer(one, f"{where}.balancers") for one in message.balancers]
    objects += [decode_pool(one, f"{where}.pools") for one in message.pools]
    objects += [decode_member(one, f"{where}.members") for one in message.members]
    objects += [decode_name(name, f"{where}.names") for name in message.names]
    objects += [decode_qos(policy, f"{where}.qos") for policy in message.qos]
    for kind, some in (
        ("vpcs", message.vpcs),
        ("subnets", message.subnets),
        ("ports", message.ports),
        ("groups", message.groups),
        ("routers", message.routers),
        ("peerings", message.peerings),
        ("balancers", message.balancers),
        ("pools", message.pools),
        ("members", message.members),
        ("names", message.names),
        ("qos", message.qos),
    ):
        if len(some) > 1 and len({item.id for item in some}) != len(some):
            raise WireError(f"{where}.{kind}: the same id twice")
    if len({identity.number for identity in message.identities}) != len(message.identities):
        raise WireError(f"{where}.identities: the same number twice")
    tombstones = tuple([_decode_tombstone(tombstone, f"{where}.tombstones") for tombstone in message.tombstones])
    if len({tombstone.key for tombstone in tombstones}) != len(tombstones):
        raise WireError(f"{where}.tombstones: the same object twice")
    return ScopeUpdate(
        scope=Id(scope),
        revision=check_revision(message.revision, f"{where}.revision"),
        snapshot=message.snapshot,
        objects=tuple(objects),
        tombstones=tombstones,
        previous=message.previous,
        confirms=message.confirms if message.HasField("confirms") else None,
        partial=message.partial,
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
        check_revision(message.revision, f"{where}.revision"),
        message.vni,
        message.mtu,
        message.routed,
        message.admin_state_up,
        message.on_demand,
        check_text(message.dns_domain, f"{where}.dns_domain"),
        check_id(message.qos_id, f"{where}.qos_id") if message.qos_id else None,
    )


def _decode_subnet(message: pb.Subnet, where: str) -> SubnetGoal:
    cidr = check_prefix(message.base, message.prefix_length, message.ip_version, where)
    gateway = check_ip(message.gateway, f"{where}.gateway") if message.gateway else None
    if gateway is not None and gateway not in cidr:
        raise WireError(f"{where}.gateway: not in the subnet")
    if len(message.host_routes) > MAX_ADDRESSES:
        raise WireError(f"{where}.host_routes: more than {MAX_ADDRESSES}")
    return SubnetGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        cidr,
        gateway,
        message.dhcp,
        decode_nameservers(message.nameservers, f"{where}.nameservers"),
        decode_mode(message.ra_mode, f"{where}.ra_mode"),
        decode_mode(message.address_mode, f"{where}.address_mode"),
        tuple([decode_route(route, f"{where}.host_routes") for route in message.host_routes]),
    )


def _decode_port(message: pb.Port, where: str) -> PortGoal:
    if not 0 <= message.kind < len(_KINDS):
        raise WireError(f"{where}.kind: {message.kind} is not a kind of port")
    if len(message.addresses) > MAX_ADDRESSES:
        raise WireError(f"{where}.addresses: more than {MAX_ADDRESSES}")
    if len(message.pairs) > MAX_PAIRS:
        raise WireError(f"{where}.pairs: more than {MAX_PAIRS}")
    if len(message.eips) > MAX_ADDRESSES:
        raise WireError(f"{where}.eips: more than {MAX_ADDRESSES}")
    if len(message.forwardings) > MAX_FORWARDINGS:
        raise WireError(f"{where}.forwardings: more than {MAX_FORWARDINGS}")
    return PortGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        check_id(message.vpc_id, f"{where}.vpc_id"),
        check_mac(message.mac, f"{where}.mac"),
        tuple(
            [
                PortAddress(
                    check_ip(address.ip, f"{where}.addresses.ip"),
                    check_id(address.subnet_id, f"{where}.addresses.subnet_id"),
                )
                for address in message.addresses
            ]
        ),
        message.admin_state_up,
        _KINDS[message.kind],
        check_text(message.netns, f"{where}.netns"),
        check_text(message.interface, f"{where}.interface"),
        check_identity(message.identity, f"{where}.identity"),
        not message.sends_anything,
        tuple([decode_pair(pair, f"{where}.pairs") for pair in message.pairs]),
        check_text(message.project_id, f"{where}.project_id"),
        check_text(message.device_id, f"{where}.device_id"),
        check_text(message.dns_name, f"{where}.dns_name"),
        decode_options(message.dhcp_options, f"{where}.dhcp_options"),
        check_id(message.qos_id, f"{where}.qos_id") if message.qos_id else None,
        tuple([decode_eip(eip, f"{where}.eips") for eip in message.eips]),
        tuple([decode_forwarding(one, f"{where}.forwardings") for one in message.forwardings]),
        decode_claims(message.claims, f"{where}.claims"),
    )


def _decode_endpoints(message: pb.Endpoints, where: str) -> Iterable[EndpointGoal]:
    """Whole columns at a time: VPCs have many. Equal tunnel ends and revisions become one object each (memory)."""
    ids = cut(message.ids, 16, f"{where}.ids")
    macs = cut(message.macs, 6, f"{where}.macs")
    if message.macs[::6].translate(None, _STATIONS):
        for mac in macs:
            check_mac(mac, f"{where}.macs")
    one_each = cut(message.ips, 16, f"{where}.ips")
    ips: list[tuple[bytes, ...]] = list(zip(one_each))
    if message.ip_counts:
        ips = _grouped(one_each, message.ip_counts, where)
    known = {revision: check_revision(revision, f"{where}.revisions") for revision in set(message.revisions)}
    revisions = list(map(known.__getitem__, message.revisions))
    host_ips = cut(message.host_ips, 16, f"{where}.host_ips")
    try:
        hosts = list(map(host_ips.__getitem__, message.hosts))
    except IndexError:
        raise WireError(f"{where}.hosts: {max(message.hosts)} is not one of {len(host_ips)} tunnel ends") from None
    identities = list(message.identities) or [0] * len(ids)
    if identities and max(identities) > MAX_IDENTITY:
        raise WireError(f"{where}.identities: {max(identities)} is not in 0..{MAX_IDENTITY}")
    lengths = {"revisions": len(revisions), "macs": len(macs), "ips": len(ips), "hosts": len(hosts)}
    for name, length in (*lengths.items(), ("identities", len(identities))):
        if length != len(ids):
            raise WireError(f"{where}.{name}: of {length} endpoints, and there are {len(ids)} ids")
    if not all(map(lt, ids, islice(ids, 1, None))) and len(set(ids)) != len(ids):  # they come sorted
        raise WireError(f"{where}.ids: the same id twice")
    named, at = cast("list[Id]", ids), cast("list[Ip]", hosts)
    goals = map(EndpointGoal, named, revisions, cast("list[Mac]", macs), cast("_Ips", ips), at, identities)
    return with_claims(goals, message.claims, f"{where}.claims")


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
    successor = None
    if message.HasField("successor"):
        if len(message.successor.ids) != 16 or kind is not Kind.PORT:
            raise WireError(f"{where}.successor: it is of a port, and one endpoint")
        (successor,) = _decode_endpoints(message.successor, f"{where}.successor")
    identifier = check_id(message.id, f"{where}.id")
    return Tombstone(kind, identifier, check_revision(message.revision, f"{where}.revision"), successor)


# Reports up.
