"""An agent on a host of a bench, without a server: how long does it take to take something in?

Called by the benches of the data plane, last of all: it takes out what the bench itself put into the host's tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from alcor.agent.config import AgentConfig
from alcor.agent.intake import Received
from alcor.agent.reconcile import Reconciler
from alcor.bench.dataplane_beds import HOST_IPS, MTU, VNI, Host
from alcor.dataplane.base import DataPlaneError
from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    Goal,
    PortAddress,
    PortGoal,
    ScopeUpdate,
    SubnetGoal,
    VpcGoal,
)
from alcor.model.addresses import Ip, Mac, Prefix
from alcor.model.ids import Id
from alcor.model.nouns import PortKind
from alcor.wire.codec import BundleHead, encode_bundle, encode_part

VPC, SUBNET, PORT = (Id(bytes((number,)) * 16) for number in (7, 8, 9))
_MAC = Mac(bytes.fromhex("020000000098"))
_HOST = "bench"


class Taken(NamedTuple):
    """Seconds from the bundle until the host carries what it says; and of these the tables'."""

    seconds: float
    tables_s: float


class Agent:
    """Takes in one VPC after another version of it."""

    def __init__(self, host: Host, reconciler: Reconciler) -> None:
        self._host = host
        self._reconciler = reconciler
        self._sequence = 0

    def take(self, objects: Sequence[Goal]) -> Taken:
        """All that the host is to know: a VPC and a port of it. Raises DataPlaneError unless it carries all of it."""
        self._sequence += 1
        revision = self._sequence
        scopes: dict[Id, list[Goal]] = {HOST_SCOPE: [], VPC: []}
        for goal in sorted(objects, key=lambda goal: goal.key):
            scopes[HOST_SCOPE if isinstance(goal, PortGoal) else VPC].append(goal)
        updates = [
            ScopeUpdate(scope=scope, revision=revision, snapshot=True, objects=tuple(some))
            for scope, some in scopes.items()
        ]
        head = BundleHead(partition=1, epoch=1, sequence=revision, host=_HOST, synced=True)
        bundle = encode_bundle(head, [encode_part(update) for update in updates])
        return self._host.worker.submit(self._take, bundle).result()

    def _take(self, bundle: bytes) -> Taken:
        started = time.monotonic()
        (answer,) = self._reconciler.handle([Received(bundle, started, 1, 1, 1)])
        took = time.monotonic() - started
        if answer.ack is None or answer.ack.error or any(one.error for one in answer.ack.ports):
            raise DataPlaneError(f"the agent refused the bench's bundle: {answer}")
        return Taken(took, answer.ack.timings.tables_us / 1e6)


@contextmanager
def agent_on(host: Host, directory: Path) -> Iterator[Agent]:
    """Its journal is below the directory."""
    config = AgentConfig(host=_HOST, state_dir=directory, listen="127.0.0.1", port=0, tls_dir=directory)

    def start() -> Reconciler:
        reconciler = Reconciler(config, host.driver, time.monotonic, lambda: 0.5)
        reconciler.start()
        return reconciler

    reconciler = host.worker.submit(start).result()
    try:
        yield Agent(host, reconciler)
    finally:
        host.worker.submit(reconciler.close).result()


def vpc_with_port(ip: Ip, cidr: Prefix) -> list[Goal]:
    """A VPC with one subnet, of which the host runs a port: what it is to know of both."""
    place = PortAddress(ip, SUBNET)
    return [
        PortGoal(PORT, 1, VPC, _MAC, (place,), True, PortKind.CONTAINER, "", ""),
        VpcGoal(VPC, 1, VNI + 1, MTU, True),
        SubnetGoal(SUBNET, 1, cidr, None),
        EndpointGoal(PORT, 1, _MAC, (ip,), HOST_IPS[0], 0),
    ]
