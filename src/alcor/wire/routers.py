"""Routers and peerings as protobuf messages, and back.

Called by codec, which has the messages around them. Decoding trusts nobody: what is malformed is a WireError.
"""

from __future__ import annotations

from alcor.goalstate.objects import InterfaceGoal, PeeringGoal, RouterGoal
from alcor.model.nouns import ExtraRoute
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_id, check_ip, check_revision
from alcor.wire.groups import check_prefix
from alcor.wire.outside import decode_outside6, decode_shared, encode_outside6, encode_shared

MAX_INTERFACES = 10_000
"""Of one router."""
MAX_ROUTES = 100_000
"""Of one router."""


def encode_router(message: pb.Router, goal: RouterGoal) -> None:
    """Fills the message."""
    message.id = goal.id
    message.revision = goal.revision
    for one in goal.interfaces:
        message.interfaces.add(
            vpc=one.vpc_id,
            subnet_id=one.subnet_id,
            base=one.cidr.base,
            prefix_length=one.cidr.length,
            ip_version=one.cidr.version,
            ip=one.ip,
        )
    for route in goal.routes:
        encode_route(message.routes.add(), route)
    message.outside = goal.outside
    if goal.shared is not None:
        encode_shared(message.shared, goal.shared)
    if goal.outside6 is not None:
        encode_outside6(message.outside6, goal.outside6)


def decode_router(message: pb.Router, where: str) -> RouterGoal:
    """Raises WireError."""
    if len(message.interfaces) > MAX_INTERFACES:
        raise WireError(f"{where}.interfaces: {len(message.interfaces)}, at most {MAX_INTERFACES} of a router")
    if len(message.routes) > MAX_ROUTES:
        raise WireError(f"{where}.routes: {len(message.routes)}, at most {MAX_ROUTES} of a router")
    return RouterGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        tuple([_decode_interface(one, f"{where}.interfaces") for one in message.interfaces]),
        tuple([decode_route(one, f"{where}.routes") for one in message.routes]),
        message.outside,
        decode_shared(message.shared, f"{where}.shared") if message.HasField("shared") else None,
        decode_outside6(message.outside6, f"{where}.outside6") if message.HasField("outside6") else None,
    )


def encode_route(message: pb.Router.Route, route: ExtraRoute) -> None:
    """Fills the message."""
    message.base = route.destination.base
    message.prefix_length = route.destination.length
    message.ip_version = route.destination.version
    message.nexthop = route.nexthop or b""


def decode_route(message: pb.Router.Route, where: str) -> ExtraRoute:
    """Raises WireError."""
    destination = check_prefix(message.base, message.prefix_length, message.ip_version, where)
    return ExtraRoute(destination, check_ip(message.nexthop, f"{where}.nexthop") if message.nexthop else None)


def encode_peering(message: pb.Peering, goal: PeeringGoal) -> None:
    """Fills the message."""
    message.id = goal.id
    message.revision = goal.revision
    message.vpcs.extend(goal.vpcs)


def decode_peering(message: pb.Peering, where: str) -> PeeringGoal:
    """Raises WireError."""
    vpcs = tuple([check_id(vpc, f"{where}.vpcs") for vpc in message.vpcs])
    if len(vpcs) != 2 or vpcs[0] >= vpcs[1]:
        raise WireError(f"{where}.vpcs: {len(vpcs)}, a peering has two, sorted")
    return PeeringGoal(check_id(message.id, f"{where}.id"), check_revision(message.revision, f"{where}.revision"), vpcs)


def _decode_interface(message: pb.Router.Interface, where: str) -> InterfaceGoal:
    cidr = check_prefix(message.base, message.prefix_length, message.ip_version, where)
    ip = check_ip(message.ip, f"{where}.ip")
    if ip not in cidr:
        raise WireError(f"{where}.ip: not in the subnet")
    return InterfaceGoal(
        check_id(message.vpc, f"{where}.vpc"), check_id(message.subnet_id, f"{where}.subnet_id"), cidr, ip
    )
