"""Quality of service as protobuf messages, and back.

Called by codec, which has the messages around them. Decoding trusts nobody: what is malformed is a WireError.
"""

from __future__ import annotations

from alcor.goalstate.objects import LimitGoal, QosGoal
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_id, check_revision

MAX_KBPS = (1 << 31) - 1
"""Neutron's bound of a rate and of a burst."""
MAX_DSCP = 63


def encode_qos(message: pb.Qos, goal: QosGoal) -> None:
    """Fills the message."""
    message.id = goal.id
    message.revision = goal.revision
    for limit, into in ((goal.egress, message.egress), (goal.ingress, message.ingress)):
        if limit is not None:
            into.kbps, into.burst_kbit = limit.kbps, limit.burst_kbit
    if goal.dscp is not None:
        message.dscp = goal.dscp


def decode_qos(message: pb.Qos, where: str) -> QosGoal:
    """Raises WireError."""
    if message.dscp > MAX_DSCP:
        raise WireError(f"{where}.dscp: {message.dscp} is not in 0..{MAX_DSCP}")
    return QosGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        _limit(message.egress, f"{where}.egress") if message.HasField("egress") else None,
        _limit(message.ingress, f"{where}.ingress") if message.HasField("ingress") else None,
        message.dscp if message.HasField("dscp") else None,
    )


def _limit(message: pb.Qos.Limit, where: str) -> LimitGoal:
    if not 1 <= message.kbps <= MAX_KBPS:
        raise WireError(f"{where}.kbps: {message.kbps} is not in 1..{MAX_KBPS}")
    if message.burst_kbit > MAX_KBPS:
        raise WireError(f"{where}.burst_kbit: {message.burst_kbit} is not in 0..{MAX_KBPS}")
    return LimitGoal(message.kbps, message.burst_kbit)
