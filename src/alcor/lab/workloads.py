"""A workload: a port of the lab as the proofs need it, with the namespace its container is in. Pure.

Called by scenario, proofs and measures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from alcor.lab.client import Resource
from alcor.lab.topology import Machine


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A container with one address in one subnet of a VPC."""

    id: str
    host: Machine
    netns: Path
    network_id: str
    subnet_id: str
    ip: str
    mac: str
    gateway: str


def workloads(ports: Iterable[Resource], hosts: Iterable[Machine], gateways: Mapping[str, str]) -> list[Workload]:
    """The workloads of ports as the API shows them; `gateways` by subnet id."""
    by_name = {host.name: host for host in hosts}
    found = []
    for port in ports:
        host = by_name[port["binding:host_id"]]
        (fixed,) = port["fixed_ips"]
        found.append(
            Workload(
                id=port["id"],
                host=host,
                netns=host.netns_dir / port["id"],
                network_id=port["network_id"],
                subnet_id=fixed["subnet_id"],
                ip=fixed["ip_address"],
                mac=port["mac_address"],
                gateway=gateways[fixed["subnet_id"]],
            )
        )
    return found


def by_host(them: Iterable[Workload]) -> dict[str, list[Workload]]:
    """The workloads of each host, in the order given."""
    found: dict[str, list[Workload]] = defaultdict(list)
    for one in them:
        found[one.host.name].append(one)
    return dict(found)


Pair = tuple[Workload, Workload]


def ring(them: Iterable[Workload]) -> list[Pair]:
    """From a workload of every host to one of the next host, in the same subnet; the last host closes the ring.

    A host without a partner in the same subnet takes any of the next host. With one host there is no pair.
    """
    hosts = list(by_host(them).values())
    if len(hosts) < 2:
        return []
    pairs = []
    for here, there in zip(hosts, [*hosts[1:], hosts[0]], strict=True):
        same = [(a, b) for a in here for b in there if a.subnet_id == b.subnet_id]
        pairs.append(same[0] if same else (here[0], there[0]))
    return pairs


def neighbours(them: Iterable[Workload]) -> list[Pair]:
    """Two workloads of the same host and subnet, for every host that has such."""
    pairs = []
    for here in by_host(them).values():
        same = [(a, b) for i, a in enumerate(here) for b in here[i + 1 :] if a.subnet_id == b.subnet_id]
        pairs += same[:1]
    return pairs


def across_subnets(them: Iterable[Workload]) -> list[Pair]:
    """For every host, a workload and one of another subnet: on the next host, and on the same host if it has one."""
    hosts = list(by_host(them).values())
    pairs: list[Pair] = []
    for here, there in zip(hosts, [*hosts[1:], hosts[0]], strict=True):
        for beyond in (there, here):
            other = [(a, b) for a in here for b in beyond if a.subnet_id != b.subnet_id]
            if other and other[0] not in pairs:
                pairs.append(other[0])
    return pairs


def everybody(them: Iterable[Workload]) -> list[Pair]:
    """From every workload to another, so that each one sends once and is sent to once: half a turn around the list."""
    everyone = list(them)
    shift = max(1, len(everyone) // 2)
    return [(one, everyone[(i + shift) % len(everyone)]) for i, one in enumerate(everyone)] if len(everyone) > 1 else []
