"""Claimed addresses as protobuf messages, and back. Called by codec and reports.

Decoding trusts nobody: what is malformed is a WireError that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from alcor.goalstate.objects import EndpointGoal
from alcor.model.nouns import Claim
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_ip, check_mac

MAX_CLAIMS = 256
"""Of one port or endpoint."""


def encode_claim(claim: Claim) -> pb.Claim:
    """The message."""
    return pb.Claim(ip=claim.ip, mac=claim.mac)


def decode_claim(message: pb.Claim, where: str) -> Claim:
    """Raises WireError."""
    return Claim(check_ip(message.ip, f"{where}.ip"), check_mac(message.mac, f"{where}.mac"))


def decode_claims(messages: Sequence[pb.Claim], where: str) -> tuple[Claim, ...]:
    """Those of one port. Raises WireError."""
    if len(messages) > MAX_CLAIMS:
        raise WireError(f"{where}: more than {MAX_CLAIMS}")
    claims = tuple([decode_claim(one, where) for one in messages])
    if len({claim.ip for claim in claims}) != len(claims):
        raise WireError(f"{where}: the same address twice")
    return claims


def encode_claimed(message: pb.Endpoints, goals: Iterable[EndpointGoal]) -> None:
    """Fills in what endpoints claim: nearly all of them nothing."""
    for at, goal in enumerate(goals):
        for claim in goal.claims:
            message.claims.add(endpoint=at, claim=encode_claim(claim))


def with_claims(
    goals: Iterable[EndpointGoal], messages: Sequence[pb.Endpoints.Claimed], where: str
) -> Iterable[EndpointGoal]:
    """The endpoints with what they claim. Raises WireError."""
    if not messages:
        return goals
    found = list(goals)
    by_endpoint: dict[int, list[pb.Claim]] = {}
    for one in messages:
        if one.endpoint >= len(found):
            raise WireError(f"{where}.endpoint: {one.endpoint} is not one of {len(found)} endpoints")
        by_endpoint.setdefault(one.endpoint, []).append(one.claim)
    for at, some in by_endpoint.items():
        found[at] = replace(found[at], claims=decode_claims(some, where))
    return found
