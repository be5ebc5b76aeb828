"""From rows of desired state to goal-state objects, and to whole scopes. Pure.

Called by delta (object by object) and by the publish loop (whole scopes). Each object's revision is that of the commit
that made it what it is, so that truth and what agents merged from deltas have the same digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
from alcor.model.nouns import Network, Node, Port, Subnet


def vpc_goal(network: Network) -> VpcGoal:
    """The VPC of a network row; only a network with a `cidr` routes between its subnets."""
    return VpcGoal(
        network.id, network.revision, network.vni, network.mtu, network.cidr is not None, network.admin_state_up
    )


def subnet_goal(subnet: Subnet) -> SubnetGoal:
    """The subnet of a subnet row."""
    return SubnetGoal(subnet.id, subnet.revision, subnet.cidr, subnet.gateway)


def port_goal(port: Port) -> PortGoal:
    """What the port's host must carry."""
    return PortGoal(
        port.id,
        port.revision,
        port.network_id,
        port.mac,
        tuple([PortAddress(fixed.ip, fixed.subnet_id) for fixed in port.fixed_ips]),
        port.admin_state_up,
        port.kind,
        port.netns,
        port.interface,
    )


def endpoint_goal(port: Port, nodes: Mapping[str, Node], viewed: int) -> EndpointGoal | None:
    """Where the port is; None while it is unbound or its host is not registered.

    It changes with its port and with its node's tunnel end, so its revision is the newer of the two. `nodes` are as of
    commit `viewed`; a port row may have been read later. Then the node may have changed between, the two do not belong
    together, and no revision is true of them: the endpoint says `viewed`, so that what is published next replaces it.
    """
    node = nodes.get(port.host) if port.host else None
    if node is None:
        return None
    return EndpointGoal(
        port.id,
        min(max(port.revision, node.revision), viewed),
        port.mac,
        tuple([fixed.ip for fixed in port.fixed_ips]),
        node.underlay_ip,
    )


def host_snapshot(revision: int, ports: Iterable[Port]) -> ScopeUpdate:
    """The whole scope of the host that carries exactly `ports`; the rows include every commit up to `revision`."""
    objects = sorted((port_goal(port) for port in ports), key=_identifier)
    return ScopeUpdate(scope=HOST_SCOPE, revision=revision, snapshot=True, objects=tuple(objects))


def vpc_snapshot(
    revision: int, network: Network, subnets: Iterable[Subnet], ports: Iterable[Port], nodes: Mapping[str, Node]
) -> ScopeUpdate:
    """The whole scope of a VPC: network, subnets and nodes as of commit `revision`, all the network's ports as of then
    or later."""
    endpoints = [goal for port in ports if (goal := endpoint_goal(port, nodes, revision)) is not None]
    objects: list[Goal] = [vpc_goal(network)]
    objects += sorted((subnet_goal(subnet) for subnet in subnets), key=_identifier)
    objects += sorted(endpoints, key=_identifier)
    return ScopeUpdate(scope=network.id, revision=revision, snapshot=True, objects=tuple(objects))


def _identifier(goal: Goal) -> bytes:
    return goal.id
