"""What agents say, as protobuf bytes (alcor.proto), and back. Called by paths and agent.

Encoding trusts its caller; decoding trusts nobody: what is malformed is a WireError that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec
from google.protobuf.message import DecodeError

from alcor.goalstate.objects import HOST_SCOPE
from alcor.model.addresses import Ip
from alcor.model.ids import Id
from alcor.model.nouns import Claim
from alcor.wire import alcor_pb2 as pb
from alcor.wire.claims import decode_claim, encode_claim
from alcor.wire.fields import MAX_TEXT, WireError, check_id, check_ip, check_text
from alcor.wire.lookups import Lookup, decode_lookup
from alcor.wire.probes import Sighting, decode_sightings

MAX_HEARTBEAT_SCOPES = 256
"""In one heartbeat; a host with more tells of them in turn."""

MAX_HEARTBEAT_SERVICES = 256
"""In one heartbeat; a host with more tells of them in turn."""


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
    standby: bool = False
    """The standby speaks: the agent is dead or hung."""
    heartbeat_ms: int = 0
    """How often it will send heartbeats; 0: it will not."""
    outside: bool = False
    """It has an external device."""
    sign_ms: int = 0
    """How often it will say something while a bundle is unanswered, a sign of life; 0: it will not."""


class ServiceCounts(msgspec.Struct, frozen=True, gc=False):
    """What clients on this host exchanged with a load balancer's listener since the host has it."""

    vpc: Id
    ip: Ip
    protocol: int
    port: int
    connections: int
    closed: int
    bytes_in: int
    bytes_out: int


class Heartbeat(msgspec.Struct, frozen=True):
    """The host is there, and holds this of (some of) its scopes."""

    host: str
    epoch: int
    interval_ms: int
    scopes: tuple[Held, ...] = ()
    standby: bool = False
    sightings: tuple[Sighting, ...] = ()
    """Of the peers that it probes, those of which it has a word."""
    services: tuple[ServiceCounts, ...] = ()
    settled: bool = False
    """It is in sync, and its data plane carries what it holds, and nothing else."""


class Feeding(msgspec.Struct, frozen=True):
    """The VPCs whose news the host takes from the bus from now on: all of them."""

    vpcs: frozenset[Id]


class PortAck(msgspec.Struct, frozen=True, gc=False):
    """A host's word about one port. `error` empty: the kernel carries `revision` (or, `deleted`, no longer)."""

    id: Id
    revision: int
    deleted: bool
    error: str
    elapsed_us: int


class MemberAck(msgspec.Struct, frozen=True, gc=False):
    """A host's word about a pool's member that it probes."""

    id: Id
    healthy: bool


class ClaimAck(msgspec.Struct, frozen=True, gc=False):
    """A host's word that a port's workload announced an address of its pairs."""

    port: Id
    vpc: Id
    claim: Claim


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
    members: tuple[MemberAck, ...] = ()
    claims: tuple[ClaimAck, ...] = ()


Report: TypeAlias = Hello | Ack | Heartbeat | Feeding | Lookup


def encode_hello(hello: Hello) -> bytes:
    """A Report message with a Hello."""
    message = pb.Report()
    message.hello.host = hello.host
    message.hello.epoch = hello.epoch
    message.hello.standby = hello.standby
    message.hello.heartbeat_ms = hello.heartbeat_ms
    message.hello.outside = hello.outside
    message.hello.sign_ms = hello.sign_ms
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
    for member in ack.members:
        body.members.add(id=member.id, healthy=member.healthy)
    for one in ack.claims:
        body.claims.add(port=one.port, vpc=one.vpc, claim=encode_claim(one.claim))
    timings = ack.timings
    body.timings.merge_us = timings.merge_us
    body.timings.journal_us = timings.journal_us
    body.timings.plan_us = timings.plan_us
    body.timings.wiring_us = timings.wiring_us
    body.timings.tables_us = timings.tables_us
    body.timings.total_us = timings.total_us
    return message.SerializeToString()


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """A Report message with a Heartbeat."""
    message = pb.Report()
    body = message.heartbeat
    body.host, body.epoch = heartbeat.host, heartbeat.epoch
    body.interval_ms, body.standby, body.settled = heartbeat.interval_ms, heartbeat.standby, heartbeat.settled
    for one in heartbeat.services:
        body.services.add(**{name: getattr(one, name) for name in ServiceCounts.__struct_fields__})
    for held in heartbeat.scopes:
        body.scopes.add(scope=held.scope, revision=held.revision, digest=held.digest)
    for sighting in heartbeat.sightings:
        body.sightings.add(host=sighting.host, seen=sighting.seen)
    return message.SerializeToString()


def encode_feeding(feeding: Feeding) -> bytes:
    """A Report message with a Feeding."""
    message = pb.Report()
    message.feeding.vpcs.extend(sorted(feeding.vpcs))
    message.feeding.SetInParent()  # an empty one is a message too
    return message.SerializeToString()


def decode_report(data: bytes) -> Report:
    """What an agent says. Raises WireError."""
    try:
        message = pb.Report.FromString(data)
    except DecodeError as error:
        raise WireError(f"report: not a protobuf message ({error})") from None
    which = message.WhichOneof("report")
    if which == "hello":
        hello = message.hello
        return Hello(
            check_text(hello.host, "hello.host"),
            hello.epoch,
            _decode_held(hello.scopes, "hello.scopes"),
            hello.standby,
            hello.heartbeat_ms,
            hello.outside,
            hello.sign_ms,
        )
    if which == "ack":
        return _decode_ack(message.ack)
    if which == "heartbeat":
        return _decode_heartbeat(message.heartbeat)
    if which == "feeding":
        return Feeding(frozenset([check_id(vpc, "feeding.vpcs") for vpc in message.feeding.vpcs]))
    if which == "lookup":
        return decode_lookup(message.lookup)
    raise WireError("report: neither a hello, an ack, a heartbeat, a feeding nor a lookup")


def _decode_heartbeat(message: pb.Heartbeat) -> Heartbeat:
    if len(message.scopes) > MAX_HEARTBEAT_SCOPES:
        raise WireError(f"heartbeat.scopes: more than {MAX_HEARTBEAT_SCOPES}")
    if len(message.services) > MAX_HEARTBEAT_SERVICES:
        raise WireError(f"heartbeat.services: more than {MAX_HEARTBEAT_SERVICES}")
    return Heartbeat(
        check_text(message.host, "heartbeat.host"),
        message.epoch,
        message.interval_ms,
        _decode_held(message.scopes, "heartbeat.scopes"),
        message.standby,
        decode_sightings(message.sightings),
        tuple([_decode_service(one, "heartbeat.services") for one in message.services]),
        message.settled,
    )


def _decode_service(message: pb.ServiceCounts, where: str) -> ServiceCounts:
    return ServiceCounts(
        check_id(message.vpc, f"{where}.vpc"),
        check_ip(message.ip, f"{where}.ip"),
        message.protocol,
        message.port,
        message.connections,
        message.closed,
        message.bytes_in,
        message.bytes_out,
    )


def _decode_ack(message: pb.Ack) -> Ack:
    timings = message.timings
    return Ack(
        sequence=message.sequence,
        error=check_text(message.error, "ack.error"),
        ports=tuple(
            [
                PortAck(
                    check_id(port.id, "ack.ports.id"),
                    port.revision,
                    port.deleted,
                    check_text(port.error, "ack.ports.error"),
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
        members=tuple([MemberAck(check_id(one.id, "ack.members.id"), one.healthy) for one in message.members]),
        claims=tuple(
            [
                ClaimAck(
                    check_id(one.port, "ack.claims.port"),
                    check_id(one.vpc, "ack.claims.vpc"),
                    decode_claim(one.claim, "ack.claims"),
                )
                for one in message.claims
            ]
        ),
    )


def _decode_held(messages: Iterable[pb.ScopeState], where: str) -> tuple[Held, ...]:
    held = []
    for message in messages:
        if message.scope != HOST_SCOPE:
            check_id(message.scope, f"{where}.scope")
        held.append(Held(Id(message.scope), message.revision, message.digest))
    if len({state.scope for state in held}) != len(held):
        raise WireError(f"{where}: the same scope twice")
    return tuple(held)
