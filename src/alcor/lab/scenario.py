"""The scenario: nodes, a VPC, one POST with all ports, and a twin VPC with the same addresses. Called by run and tests.

Everything goes through the REST API, as any client would do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from alcor.lab.client import Client, Resource
from alcor.lab.processes import AGENT_PORT
from alcor.lab.results import LabError, Provisioned
from alcor.lab.topology import Machine, Topology
from alcor.lab.workloads import Workload, workloads

VPC_CIDR = "10.0.0.0/8"
SUBNETS = ("10.0.0.0/16", "10.1.0.0/16")
TWIN_PORTS = 8
ACTIVE_TIMEOUT_S = 60.0
ACTIVE_TIMEOUT_PER_PORT_S = 0.05
"""Patience: far more than any machine that can run the lab needs."""
SHOW_S = 1
"""How long a question waits for its answer, at most: then it is shown how many ports there are."""
SHOWN_ERRORS = 5

Progress = Callable[[int], None]
Check = Callable[[], None]


class Vpc(msgspec.Struct, frozen=True, kw_only=True):
    """A VPC made by the scenario: its id and its subnets, with the gateway of each."""

    id: str
    gateways: dict[str, str]

    @property
    def subnets(self) -> list[str]:
        """Subnet ids, in the order they were made."""
        return list(self.gateways)


def register_nodes(client: Client, hosts: Sequence[Machine]) -> None:
    """All hosts in one request."""
    bodies = [
        {"name": host.name, "local_ip": host.address, "agent_host": host.address, "agent_port": AGENT_PORT}
        for host in hosts
    ]
    client.create_many("nodes", bodies)


def make_vpc(client: Client, name: str, topology: Topology) -> Vpc:
    """A network with `cidr` and its subnets, as large as the underlay lets workloads have it."""
    mtu = min(1500, topology.mtu - 50)
    network = client.create("networks", {"name": name, "cidr": VPC_CIDR, "mtu": mtu})
    subnets = client.create_many(
        "subnets",
        [
            {"name": f"{name}-{number}", "network_id": network["id"], "cidr": cidr, "ip_version": 4}
            for number, cidr in enumerate(SUBNETS, 1)
        ],
    )
    return Vpc(id=network["id"], gateways={subnet["id"]: subnet["gateway_ip"] for subnet in subnets})


def port_bodies(vpc: Vpc, hosts: Sequence[Machine], count: int, *, name: str = "lab") -> list[Resource]:
    """`count` ports, spread over the hosts as evenly as it goes; a host's ports take the subnets in turn."""
    subnets = vpc.subnets
    return [
        {
            "network_id": vpc.id,
            "name": f"{name}-{number}",
            "binding:host_id": hosts[number % len(hosts)].name,
            "device_owner": "container:lab",
            "fixed_ips": [{"subnet_id": subnets[number // len(hosts) % len(subnets)]}],
        }
        for number in range(count)
    ]


def provision(
    client: Client, bodies: list[Resource], *, progress: Progress, check: Check
) -> tuple[list[Resource], Provisioned]:
    """One POST with all of `bodies`, then waits until none of that network's ports is in BUILD.

    Answers the ports as they then are, and the times. `progress` is told how many are ACTIVE so far, now and then.
    Raises LabError when it takes far too long.
    """
    network = bodies[0]["network_id"]
    started = time.perf_counter()
    created = client.create_many("ports", bodies)
    created_ms = (time.perf_counter() - started) * 1000
    ids = {port["id"] for port in created}

    # One of those that are left at a time: whoever answers for it answers for its host's others, too, so that a few
    # small questions are enough, where a page of a thousand would be work for the server.
    building = {"network_id": network, "status": "BUILD", "fields": "id", "limit": 1}
    patience_s = ACTIVE_TIMEOUT_S + ACTIVE_TIMEOUT_PER_PORT_S * len(bodies)
    while client.get("/v2.0/ports", building, wait_s=SHOW_S)["ports"]:
        check()
        if time.perf_counter() - started > patience_s:
            raise LabError(f"waited {patience_s:.0f} s for {len(bodies)} ports to leave BUILD")
        progress(count_active(client, network))
    active_ms = (time.perf_counter() - started) * 1000
    ports = {port["id"]: port for port in client.pages("ports", network_id=network) if port["id"] in ids}
    if missing := ids - ports.keys():
        raise LabError(f"{len(missing)} ports that were created are not listed, {min(missing)} first")
    final = [ports[port["id"]] for port in created]
    failed = [port for port in final if port["status"] != "ACTIVE"]
    progress(len(final) - len(failed))
    return final, Provisioned(
        ports=len(final),
        active=len(final) - len(failed),
        created_ms=created_ms,
        active_ms=active_ms,
        errors=tuple(f"{port['name']}: {port['status']} {reason(port)}" for port in failed[:SHOWN_ERRORS]),
    )


def reason(port: Resource) -> str:
    """Why a port is not ACTIVE, as it says itself."""
    return str((port.get("binding:vif_details") or {}).get("error", ""))


def count_active(client: Client, network: str) -> int:
    """How many of a network's ports are ACTIVE."""
    return sum(1 for _ in client.pages("ports", network_id=network, status="ACTIVE", fields="id"))


def make_twin(
    client: Client, topology: Topology, hosts: Sequence[Machine], model: Sequence[Workload], *, check: Check
) -> list[Workload]:
    """Another VPC with the same CIDR and subnets, in which some ports have addresses of `model`'s: half of them on the
    very host of their double, half on another."""
    vpc = make_vpc(client, "twin", topology)
    first = next(iter(vpc.gateways))
    of_first = [one for one in model if one.subnet_id == model[0].subnet_id][:TWIN_PORTS]
    names = [host.name for host in hosts]
    bodies = []
    for number, double in enumerate(of_first):
        place = names.index(double.host.name)
        bodies.append(
            {
                "network_id": vpc.id,
                "name": f"twin-{number}",
                "binding:host_id": names[(place + number % 2) % len(names)],
                "device_owner": "container:lab",
                "fixed_ips": [{"subnet_id": first, "ip_address": double.ip}],
            }
        )
    ports, result = provision(client, bodies, progress=lambda _: None, check=check)
    if result.active != result.ports:
        raise LabError(f"the twin VPC's ports are not ACTIVE: {'; '.join(result.errors)}")
    return workloads(ports, hosts, vpc.gateways)
