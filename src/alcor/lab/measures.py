"""What a running lab measures: single ports through the fast path, and serial against batch. Called by run and bench.

End to end, as a client sees it: from sending the POST until the API says ACTIVE, in an answer that waits for it
(`Prefer: wait`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from alcor.lab.client import Client, Resource
from alcor.lab.processes import AGENT_PORT
from alcor.lab.results import LabError, Scale, repeats_of
from alcor.lab.scenario import Check, Progress, Vpc, port_bodies, reason
from alcor.lab.topology import Machine

WAIT_S = 30
"""For the answer to a POST that waits until its ports are ACTIVE; it comes at once when they are."""
CLOSED_PORT = 9
"""Nobody listens there, in a lab."""
REST_S = 0.2
"""Between two samples, so that the lab is idle when the next begins: news of a port reaches the other hosts of its VPC
just after it is ACTIVE, and 100 agents on two cores take 100 ms to hear it."""


def single(client: Client, body: Resource, check: Check) -> float:
    """POST of one port -> ACTIVE, in milliseconds. Raises LabError when it ends otherwise, or not at all."""
    started = time.perf_counter()
    port = client.create("ports", body, wait_s=WAIT_S)
    elapsed_ms = (time.perf_counter() - started) * 1000
    _demand_active([port], elapsed_ms, check)
    return elapsed_ms


def batch(client: Client, bodies: list[Resource], check: Check) -> float:
    """As `single`, of all of them in one POST."""
    started = time.perf_counter()
    ports = client.create_many("ports", bodies, wait_s=WAIT_S)
    elapsed_ms = (time.perf_counter() - started) * 1000
    _demand_active(ports, elapsed_ms, check)
    return elapsed_ms


def _demand_active(ports: Sequence[Resource], elapsed_ms: float, check: Check) -> None:
    others = [port for port in ports if port["status"] != "ACTIVE"]
    if others:
        check()
        port = others[0]
        raise LabError(
            f"{len(others)} of {len(ports)} ports are not ACTIVE after {elapsed_ms / 1000:.1f} s, "
            f"{port['id']} is {port['status']}: {reason(port) or 'no word'}"
        )


def singles(
    client: Client, vpc: Vpc, hosts: Sequence[Machine], samples: int, *, progress: Progress, check: Check
) -> list[float]:
    """So many single ports, one at a time, on the hosts in turn, each begun on an idle lab: milliseconds each."""
    times = []
    for number, body in enumerate(port_bodies(vpc, hosts, samples, name="single"), 1):
        times.append(single(client, body, check))
        progress(number)
        time.sleep(REST_S)
    return times


def by_the_bus(
    client: Client, vpc: Vpc, hosts: Sequence[Machine], samples: int, *, progress: Progress, check: Check
) -> list[float]:
    """As `singles`, on hosts whose agents cannot be dialled: their nodes are registered with a port where nobody
    listens, and so they are on the normal path. Raises LabError when a port came by another."""
    nodes = {one["name"]: one["id"] for one in client.get("/v2.0/nodes")["nodes"]}
    try:
        for host in hosts:
            client.request("PUT", f"/v2.0/nodes/{nodes[host.name]}", {"node": {"agent_port": CLOSED_PORT}})
        for host in hosts:  # the first of each brings it there
            single(client, port_bodies(vpc, [host], 1, name="to the bus")[0], check)
        times = singles(client, vpc, hosts, samples, progress=progress, check=check)
        ports = client.get("/v2.0/ports", {"network_id": vpc.id, "binding:host_id": hosts[0].name})["ports"]
        paths = {port["alcor:provisioning"]["path"] for port in ports}
        if "normal" not in paths:
            raise LabError(f"the ports were to come by the normal path, and came by: {', '.join(sorted(paths))}")
        return times
    finally:
        for host in hosts:
            client.request("PUT", f"/v2.0/nodes/{nodes[host.name]}", {"node": {"agent_port": AGENT_PORT}})


def serial_and_batch(
    client: Client,
    make_vpc: Callable[[str], Vpc],
    hosts: Sequence[Machine],
    scales: Sequence[int],
    *,
    progress: Progress,
    check: Check,
) -> list[Scale]:
    """For every scale, that many ports one after another (each ACTIVE before the next) and all in one POST.

    Every try has a VPC of its own, so that none pays for another's ports. `progress` counts ports.
    """
    found, done = [], 0

    def serial(ports: int) -> float:
        nonlocal done
        bodies = port_bodies(make_vpc(f"serial-{ports}"), hosts, ports, name="serial")
        started = time.perf_counter()
        for body in bodies:
            single(client, body, check)
            done += 1
            progress(done)
        return (time.perf_counter() - started) * 1000

    def together(ports: int) -> float:
        nonlocal done
        bodies = port_bodies(make_vpc(f"batch-{ports}"), hosts, ports, name="batch")
        took_ms = batch(client, bodies, check)
        done += ports
        progress(done)
        return took_ms

    for ports in scales:
        repeats = range(repeats_of(ports))
        serial_ms = statistics.median(serial(ports) for _ in repeats)
        batch_ms = statistics.median(together(ports) for _ in repeats)
        found.append(Scale(ports=ports, serial_ms=serial_ms, batch_ms=batch_ms))
    return found
