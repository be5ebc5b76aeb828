"""What a running lab measures: single ports through the fast path, and serial against batch. Called by run and bench.

End to end, as a client sees it: from sending the POST until the API says ACTIVE.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from alcor.lab.client import Client, Resource
from alcor.lab.processes import AGENT_PORT
from alcor.lab.results import LabError, Scale, repeats_of
from alcor.lab.scenario import Check, Progress, Vpc, port_bodies, provision, reason
from alcor.lab.topology import Machine

SINGLE_TIMEOUT_S = 30.0
CLOSED_PORT = 9
"""Nobody listens there, in a lab."""
ASK_EVERY_S = 0.0005
"""Between two questions for a single port's status: what the answer is exact to, beside the request itself."""
REST_S = 0.2
"""Between two samples, so that the lab is idle when the next begins: news of a port reaches the other hosts of its VPC
just after it is ACTIVE, and 100 agents on two cores take 100 ms to hear it."""
FAST_POLL_S = 0.001


def single(client: Client, body: Resource, check: Check) -> float:
    """POST of one port -> ACTIVE, in milliseconds. Raises LabError when it ends otherwise, or not at all."""
    started = time.perf_counter()
    port = client.create("ports", body)
    path = f"/v2.0/ports/{port['id']}"
    while port["status"] != "ACTIVE":
        elapsed = time.perf_counter() - started
        if port["status"] == "ERROR" or elapsed > SINGLE_TIMEOUT_S:
            check()
            raise LabError(f"port {port['id']} is {port['status']} after {elapsed:.1f} s: {reason(port) or 'no word'}")
        time.sleep(ASK_EVERY_S)
        port = client.get(path)["port"]
    return (time.perf_counter() - started) * 1000


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

    def batch(ports: int) -> float:
        nonlocal done
        bodies = port_bodies(make_vpc(f"batch-{ports}"), hosts, ports, name="batch")
        _, result = provision(client, bodies, progress=lambda _: None, check=check, poll_s=FAST_POLL_S)
        if result.active != ports:
            raise LabError(f"only {result.active} of {ports} ports became ACTIVE: {'; '.join(result.errors)}")
        done += ports
        progress(done)
        return result.active_ms

    for ports in scales:
        repeats = range(repeats_of(ports))
        serial_ms = statistics.median(serial(ports) for _ in repeats)
        batch_ms = statistics.median(batch(ports) for _ in repeats)
        found.append(Scale(ports=ports, serial_ms=serial_ms, batch_ms=batch_ms))
    return found
