"""A few ports made and removed before the first real ones: that a host can carry ports is known before one is promised.

Called by core's worker on a host that carries nothing. What is done for the first time costs up to twice as much (code
that has not run, libraries that load, threads that begin): here nobody waits for it. The ports are of a VPC that
nobody else has, and go the way of all: bundles, merge, plan, data plane. What a crash leaves of them is removed like
any port that nobody asks for.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from alcor.agent.config import AgentConfig
from alcor.agent.intake import Received
from alcor.agent.reconcile import Answer, Reconciler
from alcor.dataplane.base import Driver
from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    Goal,
    GroupGoal,
    IdentityGoal,
    PortAddress,
    PortGoal,
    RuleGoal,
    ScopeUpdate,
    SubnetGoal,
    VpcGoal,
    identity_id,
)
from alcor.model.addresses import Ip, Mac, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import PortKind
from alcor.wire.codec import MAX_VNI, BundleHead, encode_bundle, encode_part
from alcor.wire.reports import encode_ack

_log = logging.getLogger(__name__)

VNI, MTU, IDENTITY = MAX_VNI, 1280, 1
PORTS = 4
"""As many as the data plane does with one piece of work for all of them."""


def rehearse(config: AgentConfig, driver: Driver, clock: Callable[[], float], roll: Callable[[], float]) -> str:
    """Makes the ports and removes them; the first problem, or "" when all is well. Raises JournalError, OSError."""
    begun = time.monotonic()
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=config.state_dir) as directory:
        apart = msgspec.structs.replace(config, state_dir=Path(directory))
        reconciler = Reconciler(apart, driver, clock, roll)
        try:
            reconciler.start()
            for sequence, updates in enumerate(_story(), 1):
                head = BundleHead(partition=0, epoch=1, sequence=sequence, host=config.host, synced=False)
                bundle = encode_bundle(head, [encode_part(update) for update in updates])
                problems += _problems(reconciler.handle([Received(bundle, clock(), 0, 0, 1)]))
        finally:
            reconciler.close()
    _log.info("%d ports were made and removed in %.0f ms", PORTS, (time.monotonic() - begun) * 1000)
    return problems[0] if problems else ""


def _problems(answers: Sequence[Answer]) -> list[str]:
    found = []
    for answer in answers:
        if answer.ack is None:
            found.append(answer.reason)
        else:
            encode_ack(answer.ack)
            found += [one for one in (answer.ack.error, *(port.error for port in answer.ack.ports)) if one]
    return found


def _story() -> list[list[ScopeUpdate]]:
    """The bundles: ports of a VPC whose endpoints follow, the endpoints, and no port at all."""
    vpc, subnet, group, far, *near = (Id(secrets.token_bytes(16)) for _ in range(4 + PORTS))
    gateway, elsewhere, *addresses = (parse_ip(f"192.0.2.{number}") for number in range(1, 3 + PORTS))
    ports = sorted((_port(one, vpc, subnet, ip) for one, ip in zip(near, addresses, strict=True)), key=_key)
    everyone = RuleGoal(True, 4, None, 0, 65535, None, None)
    inside: list[Goal] = [
        VpcGoal(vpc, 1, VNI, MTU, routed=True),
        SubnetGoal(subnet, 1, parse_prefix("192.0.2.0/24"), gateway, dhcp=True),
        IdentityGoal(identity_id(IDENTITY), 1, (group,)),
        GroupGoal(group, 1, (everyone, msgspec.structs.replace(everyone, egress=False, group=group))),
    ]
    endpoint = EndpointGoal(far, 1, _mac(far), (elsewhere,), parse_ip("192.0.2.254"), IDENTITY)
    return [
        [
            ScopeUpdate(scope=HOST_SCOPE, revision=1, snapshot=True, objects=tuple(ports)),
            ScopeUpdate(scope=vpc, revision=1, snapshot=False, objects=tuple(inside), partial=True),
        ],
        [ScopeUpdate(scope=vpc, revision=2, snapshot=True, objects=tuple(sorted([*inside, endpoint], key=_key)))],
        [ScopeUpdate(scope=HOST_SCOPE, revision=3, snapshot=True, objects=())],
    ]


def _port(identifier: Id, vpc: Id, subnet: Id, ip: Ip) -> PortGoal:
    where = (PortAddress(ip, subnet),)
    return PortGoal(identifier, 1, vpc, _mac(identifier), where, True, PortKind.CONTAINER, "", "", IDENTITY)


def _mac(identifier: Id) -> Mac:
    return Mac(b"\x02" + identifier[:5])


def _key(goal: Goal) -> tuple[int, Id]:
    return goal.key
