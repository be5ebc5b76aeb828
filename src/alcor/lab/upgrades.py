"""How long an agent that carries many objects takes to be in sync again: upgraded, and with its journal lost. Called by
underfault.

The objects are endpoints on a node that nobody runs: to the other hosts they are as good as any.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from alcor.lab import fakeproofs
from alcor.lab.client import Client, await_true
from alcor.lab.ground import Ground
from alcor.lab.measures import CLOSED_PORT
from alcor.lab.pings import Ping, Stream
from alcor.lab.processes import standby_of
from alcor.lab.results import LabError
from alcor.lab.scenario import Vpc
from alcor.lab.tally import Restart, Upgrade
from alcor.lab.topology import Machine
from alcor.lab.workloads import Workload
from alcor.model.addresses import format_ip, ip_from_int, ip_to_int

ELSEWHERE = "elsewhere"
FAR = 1 << 15
"""Its address is so far from the controller's that no host has it."""
BATCH = 1000
TIMES = 3
PATIENCE_S = 60.0
POLL_S = 0.005
INTERVAL_S = 0.002


def measure(ground: Ground, vpc: Vpc, ports: Sequence[Workload], objects: int, check: Callable[[], None]) -> Upgrade:
    """Makes the objects, then restarts the agent of one host, a few times each way. Raises LabError when it never is in
    sync again."""
    host = ports[0].host
    ground.preload_all()
    _make(ground, vpc, objects)
    await_true(lambda: _in_sync(host, objects), f"{host.name} to know {objects} endpoints", PATIENCE_S, POLL_S, check)
    standby = standby_of(host.name)
    ground.kill(standby)  # or it might take the agent's place meanwhile, which is another measurement
    pings = _stream(ground, ports)
    try:
        upgraded = [_restart(ground, host, objects, check, lose=False) for _ in range(TIMES)]
        rebuilt = [_restart(ground, host, objects, check, lose=True) for _ in range(TIMES)]
    finally:
        found = pings.stop() if pings else None
        ground.start(standby)
    return Upgrade(
        objects=objects,
        upgraded=tuple(upgraded),
        rebuilt=tuple(rebuilt),
        pings=found.sent if found else 0,
        pings_lost=found.lost if found else 0,
    )


def _make(ground: Ground, vpc: Vpc, objects: int) -> None:
    client = Client(ground.lab.api_port)  # the lab's own connection is to a server that was killed since
    controller = ground.lab.topology.controller
    address = format_ip(ip_from_int(ip_to_int(controller.ip) + FAR, 4))
    with closing(client):
        _register(client, vpc, address, objects)


def _register(client: Client, vpc: Vpc, address: str, objects: int) -> None:
    node = {"name": ELSEWHERE, "local_ip": address, "agent_host": address, "agent_port": CLOSED_PORT}
    client.create("nodes", node)
    for first in range(0, objects, BATCH):
        bodies = [
            {
                "network_id": vpc.id,
                "name": f"{ELSEWHERE}-{number}",
                "binding:host_id": ELSEWHERE,
                "fixed_ips": [{"subnet_id": vpc.subnets[0]}],
            }
            for number in range(first, min(first + BATCH, objects))
        ]
        client.create_many("ports", bodies)


def _restart(ground: Ground, host: Machine, objects: int, check: Callable[[], None], *, lose: bool) -> Restart:
    started = time.perf_counter()
    ground.kill(host.name, number=signal.SIGKILL if lose else signal.SIGTERM)
    if lose:
        ground.journal(host).unlink()
    ground.start(host.name, fresh=True)  # as new code would be
    await_true(lambda: _in_sync(host, objects), f"{host.name} to be in sync again", PATIENCE_S, POLL_S, check)
    return Restart((time.perf_counter() - started) * 1000, (time.time() - ground.serves_since(host)) * 1000)


def _in_sync(host: Machine, objects: int) -> bool:
    try:
        status = fakeproofs.ask(host, {"op": "status"})
    except LabError:  # it is not there yet
        return False
    whole = status["desired_ports"] == status["carried_ports"] and not status["broken"]
    return bool(status["in_sync"] and whole and status["endpoints"] >= objects)


def _stream(ground: Ground, ports: Sequence[Workload]) -> Stream | None:
    """Pings from the host to another, if packets are real."""
    if ground.lab.driver != "ebpf":
        return None
    there = next((one for one in ports if one.host.name != ports[0].host.name), ports[-1])
    return Stream(Ping(source=ports[0].netns, target=there.ip), INTERVAL_S)
