"""Proofs that take something away: agents killed under a running ping, ports deleted. Called by run and tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.client import Client, await_true
from alcor.lab.live import LiveLab
from alcor.lab.pings import Ping, Stream, ping_all, visit
from alcor.lab.proofs import SILENCE_S, World
from alcor.lab.results import Proof
from alcor.lab.scenario import Vpc, port_bodies, reason
from alcor.lab.topology import Machine
from alcor.lab.workloads import Workload, ring

INTERVAL_S = 0.005
DEAD_S = 1.0
"""How long the agents stay dead under the ping."""
AFTER_S = 0.5
CONVERGE_TIMEOUT_S = 60.0
POLL_S = 0.02


def killed_agents(lab: LiveLab, world: World, vpc: Vpc) -> list[Proof]:
    """SIGKILL to the agents of both ends of a ping loses no packet; restarted, they converge on what they missed."""
    pairs = ring(world.vpc)[:1]
    if not pairs:
        return []
    ((here, there),) = pairs
    both = (here.host, there.host)
    stream = Stream(Ping(source=here.netns, target=there.ip), INTERVAL_S)
    try:
        time.sleep(AFTER_S)
        for host in both:
            lab.processes.kill(host.name)
        missed = lab.client.create_many("ports", port_bodies(vpc, both, 2, name="missed"))
        time.sleep(DEAD_S)
        waiting = [lab.client.get(f"/v2.0/ports/{port['id']}")["port"]["status"] for port in missed]
        started = time.perf_counter()
        for host in both:
            lab.start_agent(host)
        _await_status(lab.client, [port["id"] for port in missed], "ACTIVE", lab.check)
        converged_s = time.perf_counter() - started
        time.sleep(AFTER_S)
    finally:
        result = stream.stop()
    converged = [lab.client.get(f"/v2.0/ports/{port['id']}")["port"] for port in missed]
    active = sum(port["status"] == "ACTIVE" for port in converged)
    why = next((reason(port) for port in converged if port["status"] != "ACTIVE"), "")
    return [
        Proof(
            name="agents killed under a ping",
            expectation="SIGKILL to the agents of both ends: no packet lost",
            measured=f"{result.lost} of {result.sent:,} lost at {1 / INTERVAL_S:.0f} a second, "
            f"slowest {result.worst_rtt_ms:.1f} ms",
            passed=result.lost == 0 and result.sent > 0,
        ),
        Proof(
            name="agents restarted",
            expectation="ports created meanwhile stay in BUILD, then become ACTIVE by themselves",
            measured=f"{waiting.count('BUILD')}/{len(missed)} waited, {active}/{len(missed)} ACTIVE "
            f"{converged_s:.1f} s after the restart" + (f": {why}" if why else ""),
            passed=waiting.count("BUILD") == active == len(missed),
        ),
    ]


def deleted_ports(lab: LiveLab, world: World) -> list[Proof]:
    """Deleting ports undoes exactly what was made; the double with the same address in the other VPC stays."""
    if len(world.twin) < 2:
        return []
    *gone, left = world.twin
    before = [_traces(one) for one in gone]
    for one in gone:
        lab.client.delete("ports", one.id)

    def undone() -> bool:
        return not any(_traces(one) for one in gone)

    await_true(undone, "deleted ports to be undone", CONVERGE_TIMEOUT_S, POLL_S, lab.check)
    silent = ping_all([Ping(source=left.netns, target=one.ip) for one in gone], timeout_s=SILENCE_S)
    by_ip = {one.ip: one for one in world.vpc}
    doubles = [by_ip[one.ip] for one in gone if one.ip in by_ip]
    partner = next((one for one in world.vpc if one not in doubles), world.vpc[0])
    heard = ping_all([Ping(source=partner.netns, target=one.ip) for one in doubles])
    answered = sum(answer.answered for answer in silent)
    return [
        Proof(
            name="deleted ports",
            expectation="their namespaces and interfaces go and nobody answers; the other VPC's doubles stay",
            measured=f"{sum(before)} traces before, 0 after; {answered} still answer; "
            f"{sum(answer.answered for answer in heard)}/{len(doubles)} doubles answer",
            passed=sum(before) == 2 * len(gone) and answered == 0 and all(answer.answered for answer in heard),
        )
    ]


def _traces(one: Workload) -> int:
    """What is there of a workload: its namespace's name, and its interface on the host."""
    return int(one.netns.exists()) + int(_alias(one.id) in _aliases(one.host))


def _alias(port_id: str) -> str:
    return f"alcor:{port_id}"


def _aliases(host: Machine) -> set[str]:
    def listed(_: Path) -> set[str]:
        with Netlink() as netlink:
            return {link.alias for link in links.links(netlink)}

    return visit([host.netns], listed)[0] if host.netns else set()


def _await_status(client: Client, ids: list[str], status: str, check: Callable[[], None]) -> None:
    def there() -> bool:
        found = [client.get(f"/v2.0/ports/{one}")["port"]["status"] for one in ids]
        return all(one in (status, "ERROR") for one in found)

    await_true(there, f"{len(ids)} ports to become {status}", CONVERGE_TIMEOUT_S, POLL_S, check)
