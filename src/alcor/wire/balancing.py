"""Load balancers, pools and members as protobuf messages, and back.

Called by codec, which has the messages around them. Decoding trusts nobody: what is malformed is a WireError.
"""

from __future__ import annotations

from alcor.goalstate.objects import BalancerGoal, ListenerGoal, MemberGoal, MonitorGoal, PoolGoal
from alcor.model.balancing import MonitorType
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_id, check_ip, check_mac, check_revision, check_text

MAX_LISTENERS = 1024
"""Of one balancer."""
MAX_WEIGHT = 256
MAX_SECONDS = 86_400
MAX_COUNT = 100
PROTOCOLS = frozenset((6, 17))
_TYPES = frozenset(one.value for one in MonitorType)


def encode_balancer(message: pb.Balancer, goal: BalancerGoal) -> None:
    """Fills the message."""
    message.id = goal.id
    message.revision = goal.revision
    message.vip = goal.vip
    message.mac = goal.mac
    for one in goal.listeners:
        message.listeners.add(protocol=one.protocol, port=one.port, pool=one.pool or b"")


def decode_balancer(message: pb.Balancer, where: str) -> BalancerGoal:
    """Raises WireError."""
    if len(message.listeners) > MAX_LISTENERS:
        raise WireError(f"{where}.listeners: {len(message.listeners)}, at most {MAX_LISTENERS} of a balancer")
    listeners = tuple([_decode_listener(one, f"{where}.listeners") for one in message.listeners])
    names = [(one.protocol, one.port) for one in listeners]
    if names != sorted(set(names)):
        raise WireError(f"{where}.listeners: not sorted, or the same twice")
    return BalancerGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        check_ip(message.vip, f"{where}.vip"),
        check_mac(message.mac, f"{where}.mac"),
        listeners,
    )


def _decode_listener(message: pb.Balancer.Listener, where: str) -> ListenerGoal:
    if message.protocol not in PROTOCOLS:
        raise WireError(f"{where}.protocol: {message.protocol} is neither 6 nor 17")
    pool = check_id(message.pool, f"{where}.pool") if message.pool else None
    return ListenerGoal(message.protocol, _check_port(message.port, f"{where}.port"), pool)


def encode_pool(message: pb.Pool, goal: PoolGoal) -> None:
    """Fills the message."""
    message.id = goal.id
    message.revision = goal.revision
    message.disabled = not goal.enabled
    message.affinity = goal.affinity
    one = goal.monitor
    if one is not None:
        message.monitor.type = one.type
        message.monitor.delay_s, message.monitor.timeout_s = one.delay_s, one.timeout_s
        message.monitor.rise, message.monitor.fall = one.rise, one.fall
        message.monitor.http_method, message.monitor.url_path = one.http_method, one.url_path
        message.monitor.expected_codes = one.expected_codes


def decode_pool(message: pb.Pool, where: str) -> PoolGoal:
    """Raises WireError."""
    return PoolGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        not message.disabled,
        message.affinity,
        _decode_monitor(message.monitor, f"{where}.monitor") if message.HasField("monitor") else None,
    )


def _decode_monitor(message: pb.Pool.Monitor, where: str) -> MonitorGoal:
    if message.type not in _TYPES:
        raise WireError(f"{where}.type: '{message.type[:40]}' is no way to probe")
    for name in ("delay_s", "timeout_s"):
        if not 1 <= getattr(message, name) <= MAX_SECONDS:
            raise WireError(f"{where}.{name}: {getattr(message, name)} is not in 1..{MAX_SECONDS}")
    for name in ("rise", "fall"):
        if not 1 <= getattr(message, name) <= MAX_COUNT:
            raise WireError(f"{where}.{name}: {getattr(message, name)} is not in 1..{MAX_COUNT}")
    return MonitorGoal(
        message.type,
        message.delay_s,
        message.timeout_s,
        message.rise,
        message.fall,
        check_text(message.http_method, f"{where}.http_method"),
        check_text(message.url_path, f"{where}.url_path"),
        check_text(message.expected_codes, f"{where}.expected_codes"),
    )


def encode_member(message: pb.Member, goal: MemberGoal) -> None:
    """Fills the message."""
    message.id = goal.id
    message.revision = goal.revision
    message.pool = goal.pool
    message.ip = goal.ip
    message.port = goal.port
    message.weight = goal.weight
    message.failed = goal.failed


def decode_member(message: pb.Member, where: str) -> MemberGoal:
    """Raises WireError."""
    if message.weight > MAX_WEIGHT:
        raise WireError(f"{where}.weight: {message.weight} is not in 0..{MAX_WEIGHT}")
    return MemberGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        check_id(message.pool, f"{where}.pool"),
        check_ip(message.ip, f"{where}.ip"),
        _check_port(message.port, f"{where}.port"),
        message.weight,
        message.failed,
    )


def _check_port(value: int, where: str) -> int:
    if not 1 <= value <= 0xFFFF:
        raise WireError(f"{where}: {value} is not in 1..65535")
    return value
