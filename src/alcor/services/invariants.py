"""Is what the control plane remembers what the store holds? Allocated == referenced, nothing leaked, nothing twice.

Called by services.dispatch for CheckInvariants, while nothing is applied and not committed. What holds inside the
database is the store's own `check`.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from alcor.model.allocation import Allocator
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FloatingIp, Identity, PortForwarding, Router
from alcor.services.claimants import Claimants
from alcor.services.indexes import Indexes
from alcor.services.open_subnets import OpenSubnets

MAX_FINDINGS = 100


def check(indexes: Indexes) -> tuple[str, ...]:
    """What is wrong, a sentence each, at most MAX_FINDINGS; empty when all is well."""
    store = indexes.store
    findings: list[str] = []
    for name, known, stored in (
        ("networks", indexes.networks, {network.id: network for network in store.networks()}),
        ("subnets", indexes.subnets, {subnet.id: subnet for subnet in store.subnets()}),
        ("nodes", indexes.nodes, {node.id: node for node in store.nodes()}),
    ):
        if known != stored:
            findings.append(f"{len(known)} {name} in memory are not the {len(stored)} of the store")
    findings += _differences("VNIs", None, indexes.vnis, [network.vni for network in indexes.networks.values()])
    addresses, macs = indexes.loaded()
    for subnet_id, allocator in addresses.items():
        findings += _differences("addresses of subnet", subnet_id, allocator, store.allocated_addresses(subnet_id))
    for network_id, allocator in macs.items():
        findings += _differences("MACs of network", network_id, allocator, store.allocated_macs(network_id))
    bound: Counter[str] = Counter()
    for _, host, count in store.hosts_of_networks():
        bound[host] += count
    if bound != indexes.ports_on:
        wrong = sorted(host for host in bound.keys() | indexes.ports_on.keys() if bound[host] != indexes.ports_on[host])
        findings.append(f"ports are counted wrong on {len(wrong)} hosts, the first is {wrong[0]}")
    for name, held, kept in (
        ("security groups", indexes.security_groups, {group.id: group for group in store.security_groups()}),
        ("security group rules", indexes.rules, {rule.id: rule for rule in store.security_group_rules()}),
        ("QoS policies", indexes.qos.policies, {policy.id: policy for policy in store.qos_policies()}),
        ("QoS rules", indexes.qos.rules, {rule.id: rule for rule in store.qos_rules()}),
        ("port forwardings", indexes.port_forwardings, {one.id: one for one in store.rows(PortForwarding)}),
        ("claims", indexes.claims.all(), Claimants(store.claiming_ports()).all()),
        ("floating IPs", indexes.floating_ips, {fip.id: fip for fip in store.rows(FloatingIp)}),
        ("open subnets", indexes.open_subnets.all(), OpenSubnets(store.rows(Router)).all()),
    ):
        if held != kept:
            findings.append(f"{len(held)} {name} in memory are not the {len(kept)} of the store")
    findings += _open(indexes)
    identities = [one for known in indexes.identities.values() for one in known.values()]
    if sorted(map(_named, identities)) != sorted(map(_named, store.identities())):
        findings.append(f"{len(identities)} identities in memory are not those of the store")
    ports_with = {(network_id, number): count for network_id, number, count in store.ports_of_identities()}
    if ports_with != dict(indexes.ports_with):
        findings.append("ports are counted wrong by their security groups")
    bindings = {(one.network_id, one.policy_id) for known in indexes.qos.bindings.values() for one in known.values()}
    if bindings != {(one.network_id, one.policy_id) for one in store.qos_bindings()}:
        findings.append(f"{len(bindings)} QoS bindings in memory are not those of the store")
    if dict(store.ports_of_qos_policies()) != dict(indexes.qos.ports_with):
        findings.append("ports are counted wrong by their QoS policies")
    return tuple(findings[:MAX_FINDINGS])


def _open(indexes: Indexes) -> list[str]:
    """Outside, no address of an open subnet is another's, or of a pool that routers have their addresses from."""
    ordered = indexes.open_subnets.ordered()
    findings = [
        f"open subnets {format_id(one.subnet_id)} and {format_id(other.subnet_id)} share addresses"
        for one, other in pairwise(ordered)
        if one.cidr.overlaps(other.cidr)
    ]
    for network_id in indexes.external:
        for subnet in indexes.subnets_of.get(network_id, {}).values():
            for pool in subnet.pools:
                if (found := indexes.open_subnets.sharing(pool.first, pool.last)) is not None:
                    findings.append(f"open subnet {format_id(found.subnet_id)} has addresses of {subnet.cidr}'s pools")
    return findings


def _named(identity: Identity) -> tuple[Id, int, tuple[Id, ...]]:
    return identity.network_id, identity.number, identity.groups


def _differences(what: str, owner: Id | None, allocator: Allocator, referenced: list[int]) -> list[str]:
    """Leaked: allocated, but of no row. Unowned: of a row, but free to be given out again. Twice: of two rows."""
    name = what if owner is None else f"{what} {format_id(owner)}"
    allocated, known = allocator.used(), set(referenced)
    findings = []
    if len(known) != len(referenced):
        findings.append(f"{name}: {len(referenced) - len(known)} are referenced twice")
    if leaked := allocated - known:
        findings.append(f"{name}: {len(leaked)} are leaked, the first is {min(leaked)}")
    if unowned := known - allocated:
        findings.append(f"{name}: {len(unowned)} could be given out twice, the first is {min(unowned)}")
    return findings
