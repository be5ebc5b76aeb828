"""Where addresses of VPCs on demand are: what hosts ask and are told, as protobuf bytes (alcor.proto), and back.

Called by loops.answer and paths (Lookup up, Answer down) and by the agent. Encoding trusts its caller; decoding trusts
nobody: what is malformed is a WireError that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import msgspec
from google.protobuf.message import DecodeError

from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_id, check_mac, check_revision, check_text, cut
from alcor.wire.groups import MAX_IDENTITY
from alcor.wire.probes import has_peers

MAX_LOOKUP = 4096
"""Addresses in one Lookup."""
MAX_ANSWER = 4 * MAX_LOOKUP
"""Addresses in one bundle of answers."""
_FIRST_BYTE = bytes(((8 << 3) | 2,))
"""The tag of Bundle.answers."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Addresses of a VPC that a host asks about, and those that it forgot."""

    vpc: Id
    ips: tuple[Ip, ...]
    forgotten: tuple[Ip, ...] = ()
    sources: tuple[Ip, ...] = ()
    """Of the first of `ips`, in their order: where the packet that waits comes from. All zero: unsaid."""


class Lookup(msgspec.Struct, frozen=True):
    """A host's question. The answer says where they are now, and further answers what changes."""

    vpcs: tuple[Wanted, ...]


class Found(NamedTuple):
    """Where an address is: its port's MAC, its host's tunnel end and its identity."""

    ip: Ip
    mac: Mac
    host_ip: Ip
    identity: int


class Answer(msgspec.Struct, frozen=True):
    """Where addresses of a VPC are, as of a commit. Newer ones win."""

    vpc: Id
    revision: int
    found: tuple[Found, ...] = ()
    absent: tuple[Ip, ...] = ()
    """Nobody has them."""
    unlearn: tuple[Ip, ...] = ()
    """To be forgotten: no word of their changes will come any more."""
    unasked: bool = False
    """A hint: nobody remembers that the host was told. If it keeps what it did not hold, it asks, too."""


class Answers(NamedTuple):
    """A bundle of them, as it came."""

    partition: int
    epoch: int
    host: str
    answers: tuple[Answer, ...]


def encode_lookup(lookup: Lookup) -> bytes:
    """A Report message with a Lookup."""
    message = pb.Report()
    message.lookup.SetInParent()
    for wanted in lookup.vpcs:
        message.lookup.vpcs.add(
            vpc=wanted.vpc,
            ips=b"".join(wanted.ips),
            forgotten=b"".join(wanted.forgotten),
            sources=b"".join(wanted.sources),
        )
    return message.SerializeToString()


def decode_lookup(message: pb.Lookup) -> Lookup:
    """A Report's Lookup. Raises WireError."""
    vpcs = []
    asked = 0
    for wanted in message.vpcs:
        vpc = check_id(wanted.vpc, "lookup.vpcs.vpc")
        ips = cast("list[Ip]", cut(wanted.ips, 16, "lookup.vpcs.ips"))
        forgotten = cast("list[Ip]", cut(wanted.forgotten, 16, "lookup.vpcs.forgotten"))
        sources = cast("list[Ip]", cut(wanted.sources, 16, "lookup.vpcs.sources"))
        if len(sources) > len(ips):
            raise WireError(f"lookup.vpcs.sources: of {len(sources)} addresses, and {len(ips)} are asked about")
        asked += len(ips) + len(forgotten)
        vpcs.append(Wanted(vpc, tuple(ips), tuple(forgotten), tuple(sources)))
    if asked > MAX_LOOKUP:
        raise WireError(f"lookup: {asked} addresses, at most {MAX_LOOKUP}")
    return Lookup(tuple(vpcs))


def encode_answers(partition: int, epoch: int, host: str, answers: Iterable[Answer]) -> bytes:
    """A Bundle message of answers: they come first, and its sequence is 0."""
    first = pb.Bundle()
    for answer in answers:
        _encode_answer(first.answers.add(), answer)
    rest = pb.Bundle(partition=partition, epoch=epoch, host=host)
    return first.SerializeToString() + rest.SerializeToString()


def _encode_answer(message: pb.Answer, answer: Answer) -> None:
    message.vpc, message.revision = answer.vpc, answer.revision
    message.absent, message.unlearn = b"".join(answer.absent), b"".join(answer.unlearn)
    message.unasked = answer.unasked
    found = answer.found
    if not found:
        return
    ips, macs, host_ips, identities = zip(*found, strict=True)
    places = {host_ip: place for place, host_ip in enumerate(dict.fromkeys(host_ips))}
    message.ips, message.macs, message.host_ips = b"".join(ips), b"".join(macs), b"".join(places)
    message.hosts.extend([places[host_ip] for host_ip in host_ips])
    if any(identities):
        message.identities.extend(identities)


def has_answers(bundle: bytes) -> bool:
    """The message is a bundle of answers: to be decoded by `decode_answers`, and not acknowledged."""
    return bundle[:1] == _FIRST_BYTE


def is_aside(bundle: bytes) -> bool:
    """The message is not goal state and not acknowledged: answers, or peers to probe."""
    return has_answers(bundle) or has_peers(bundle)


def decode_answers(bundle: bytes) -> Answers:
    """A bundle of answers, checked. Raises WireError."""
    try:
        message = pb.Bundle.FromString(bundle)
    except DecodeError as error:
        raise WireError(f"bundle: not a protobuf message ({error})") from None
    if message.sequence or message.scopes or message.feeds or message.synced:
        raise WireError("bundle.answers: nothing else may be in a bundle of answers")
    answers = tuple([_decode_answer(answer, "bundle.answers") for answer in message.answers])
    count = sum(len(answer.found) + len(answer.absent) + len(answer.unlearn) for answer in answers)
    if count > MAX_ANSWER:
        raise WireError(f"bundle.answers: {count} addresses, at most {MAX_ANSWER}")
    epoch = check_revision(message.epoch, "bundle.epoch")
    return Answers(message.partition, epoch, check_text(message.host, "bundle.host"), answers)


def _decode_answer(message: pb.Answer, where: str) -> Answer:
    ips = cut(message.ips, 16, f"{where}.ips")
    macs = cut(message.macs, 6, f"{where}.macs")
    for mac in macs:
        check_mac(mac, f"{where}.macs")
    ends = cut(message.host_ips, 16, f"{where}.host_ips")
    if message.hosts and max(message.hosts) >= len(ends):
        raise WireError(f"{where}.hosts: {max(message.hosts)} is not one of {len(ends)} tunnel ends")
    host_ips = [ends[place] for place in message.hosts]
    identities = list(message.identities) or [0] * len(ips)
    if identities and max(identities) > MAX_IDENTITY:
        raise WireError(f"{where}.identities: {max(identities)} is not in 0..{MAX_IDENTITY}")
    columns: Sequence[tuple[str, Sequence[object]]] = (("macs", macs), ("hosts", host_ips), ("identities", identities))
    for name, column in columns:
        if len(column) != len(ips):
            raise WireError(f"{where}.{name}: of {len(column)} addresses, and there are {len(ips)}")
    rows = cast("Iterable[tuple[Ip, Mac, Ip, int]]", zip(ips, macs, host_ips, identities, strict=True))
    return Answer(
        check_id(message.vpc, f"{where}.vpc"),
        check_revision(message.revision, f"{where}.revision"),
        tuple([Found(*row) for row in rows]),
        tuple(cast("list[Ip]", cut(message.absent, 16, f"{where}.absent"))),
        tuple(cast("list[Ip]", cut(message.unlearn, 16, f"{where}.unlearn"))),
        message.unasked,
    )
