"""From a command to the service that answers it. Pure.

Called by loops.commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import UNSET

from alcor.model.ids import Id
from alcor.model.nouns import Port
from alcor.services import (
    claims,
    floating_ips,
    health_monitors,
    invariants,
    listeners,
    load_balancers,
    members,
    networks,
    nodes,
    peerings,
    pools,
    port_forwardings,
    ports,
    qos,
    routers,
    security_groups,
    sharing,
    status,
    subnets,
)
from alcor.services.balancing_commands import (
    CreateHealthMonitor,
    CreateListener,
    CreateLoadBalancer,
    CreateMember,
    CreatePool,
    DeleteHealthMonitor,
    DeleteListener,
    DeleteLoadBalancer,
    DeleteMember,
    DeletePool,
    RecordMemberReports,
    ReplaceMembers,
    UpdateHealthMonitor,
    UpdateListener,
    UpdateLoadBalancer,
    UpdateMember,
    UpdatePool,
)
from alcor.services.commands import (
    AddRouterInterface,
    AnchorFloatingIp,
    ChangeExtraRoutes,
    CheckInvariants,
    Command,
    CreateFloatingIps,
    CreateNetworks,
    CreateNodes,
    CreatePeerings,
    CreatePortForwardings,
    CreatePorts,
    CreateRouters,
    CreateSecurityGroupRules,
    CreateSecurityGroups,
    CreateSubnets,
    DeleteFloatingIp,
    DeleteNetwork,
    DeleteNode,
    DeletePeering,
    DeletePortForwarding,
    DeletePorts,
    DeleteRouter,
    DeleteSecurityGroup,
    DeleteSecurityGroupRule,
    DeleteSubnet,
    EnsureDefaultGroup,
    RecordClaims,
    RecordPortReports,
    RemoveRouterInterface,
    ShareAddress,
    UpdateFloatingIp,
    UpdateNetwork,
    UpdateNode,
    UpdatePeering,
    UpdatePort,
    UpdatePortForwarding,
    UpdateRouter,
    UpdateSecurityGroup,
    UpdateSubnet,
)
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.qos_commands import (
    CreateQosPolicies,
    CreateQosRule,
    DeleteQosPolicy,
    DeleteQosRule,
    UpdateQosPolicy,
    UpdateQosRule,
)
from alcor.store.base import Changes


def compute(indexes: Indexes, named: Mapping[Id, Port], command: Command, stamp: Stamp) -> Outcome:
    """What the command comes to; changes nothing. `named`: the ports of `ports_named`, as far as they exist.

    Raises DomainError.
    """
    match command:
        case CreatePorts():
            return ports.create_ports(indexes, command, stamp)
        case RecordPortReports():
            return status.record_port_reports(named, command, stamp.now)
        case RecordClaims():
            return claims.record_claims(indexes, named, command, stamp)
        case UpdatePort():
            return ports.update_port(indexes, named, command, stamp)
        case DeletePorts():
            return ports.delete_ports(indexes, named, command, stamp)
        case CreateNetworks():
            return networks.create_networks(indexes, command, stamp)
        case UpdateNetwork():
            return networks.update_network(indexes, command, stamp)
        case DeleteNetwork():
            return networks.delete_network(indexes, command, stamp)
        case CreateSubnets():
            return subnets.create_subnets(indexes, command, stamp)
        case UpdateSubnet():
            return subnets.update_subnet(indexes, command, stamp)
        case DeleteSubnet():
            return subnets.delete_subnet(indexes, command, stamp)
        case CreateNodes():
            return nodes.create_nodes(indexes, command, stamp)
        case UpdateNode():
            return nodes.update_node(indexes, command, stamp)
        case DeleteNode():
            return nodes.delete_node(indexes, command, stamp)
        case CheckInvariants():
            return Outcome(invariants.check(indexes), Changes())
        case _:
            return _compute_more(indexes, named, command, stamp)


def _compute_more(indexes: Indexes, named: Mapping[Id, Port], command: Command, stamp: Stamp) -> Outcome:
    """Security groups, quality of service, routers, peerings and load balancers."""
    match command:
        case CreateSecurityGroups():
            return security_groups.create_security_groups(indexes, command, stamp)
        case EnsureDefaultGroup():
            return security_groups.ensure_default_group(indexes, command, stamp)
        case UpdateSecurityGroup():
            return security_groups.update_security_group(indexes, command, stamp)
        case DeleteSecurityGroup():
            return security_groups.delete_security_group(indexes, command, stamp)
        case CreateSecurityGroupRules():
            return security_groups.create_security_group_rules(indexes, command, stamp)
        case DeleteSecurityGroupRule():
            return security_groups.delete_security_group_rule(indexes, command, stamp)
        case CreateQosPolicies():
            return qos.create_qos_policies(indexes, command, stamp)
        case UpdateQosPolicy():
            return qos.update_qos_policy(indexes, command, stamp)
        case DeleteQosPolicy():
            return qos.delete_qos_policy(indexes, command)
        case CreateQosRule():
            return qos.create_qos_rule(indexes, command, stamp)
        case UpdateQosRule():
            return qos.update_qos_rule(indexes, command, stamp)
        case DeleteQosRule():
            return qos.delete_qos_rule(indexes, command, stamp)
        case CreateRouters():
            return routers.create_routers(indexes, command, stamp)
        case UpdateRouter():
            return routers.update_router(indexes, named, command, stamp)
        case DeleteRouter():
            return routers.delete_router(indexes, named, command, stamp)
        case AddRouterInterface():
            return routers.add_interface(indexes, named, command, stamp)
        case RemoveRouterInterface():
            return routers.remove_interface(indexes, named, command, stamp)
        case ShareAddress():
            return sharing.share_address(indexes, command, stamp)
        case ChangeExtraRoutes():
            return routers.change_extra_routes(indexes, command, stamp)
        case CreatePeerings():
            return peerings.create_peerings(indexes, command, stamp)
        case UpdatePeering():
            return peerings.update_peering(indexes, command, stamp)
        case DeletePeering():
            return peerings.delete_peering(indexes, command)
        case CreateFloatingIps() | UpdateFloatingIp() | DeleteFloatingIp() | AnchorFloatingIp():
            return _floating_ips(indexes, named, command, stamp)
        case CreatePortForwardings() | UpdatePortForwarding() | DeletePortForwarding():
            return _port_forwardings(indexes, named, command, stamp)
        case CreateLoadBalancer():
            return load_balancers.create_load_balancer(indexes, named, command, stamp)
        case DeleteLoadBalancer():
            return load_balancers.delete_load_balancer(indexes, named, command, stamp)
        case _:
            return _compute_balancing(indexes, command, stamp)


def _compute_balancing(indexes: Indexes, command: Command, stamp: Stamp) -> Outcome:
    match command:
        case UpdateLoadBalancer():
            return load_balancers.update_load_balancer(indexes, command, stamp)
        case CreateListener():
            return listeners.create_listener(indexes, command, stamp)
        case UpdateListener():
            return listeners.update_listener(indexes, command, stamp)
        case DeleteListener():
            return listeners.delete_listener(indexes, command, stamp)
        case CreatePool():
            return pools.create_pool(indexes, command, stamp)
        case UpdatePool():
            return pools.update_pool(indexes, command, stamp)
        case DeletePool():
            return pools.delete_pool(indexes, command, stamp)
        case CreateMember():
            return members.create_member(indexes, command, stamp)
        case UpdateMember():
            return members.update_member(indexes, command, stamp)
        case DeleteMember():
            return members.delete_member(indexes, command)
        case ReplaceMembers():
            return members.replace_members(indexes, command, stamp)
        case RecordMemberReports():
            return members.record_member_reports(indexes, command, stamp)
        case CreateHealthMonitor():
            return health_monitors.create_health_monitor(indexes, command, stamp)
        case UpdateHealthMonitor():
            return health_monitors.update_health_monitor(indexes, command, stamp)
        case DeleteHealthMonitor():
            return health_monitors.delete_health_monitor(indexes, command, stamp)
        case _:
            raise TypeError(f"no service answers {type(command).__name__}")


def _floating_ips(
    indexes: Indexes,
    named: Mapping[Id, Port],
    command: CreateFloatingIps | UpdateFloatingIp | DeleteFloatingIp | AnchorFloatingIp,
    stamp: Stamp,
) -> Outcome:
    match command:
        case CreateFloatingIps():
            return floating_ips.create_floating_ips(indexes, named, command, stamp)
        case UpdateFloatingIp():
            return floating_ips.update_floating_ip(indexes, named, command, stamp)
        case AnchorFloatingIp():
            return floating_ips.anchor_floating_ip(indexes, named, command, stamp)
        case DeleteFloatingIp():
            return floating_ips.delete_floating_ip(indexes, named, command, stamp)


def _port_forwardings(
    indexes: Indexes,
    named: Mapping[Id, Port],
    command: CreatePortForwardings | UpdatePortForwarding | DeletePortForwarding,
    stamp: Stamp,
) -> Outcome:
    match command:
        case CreatePortForwardings():
            return port_forwardings.create_port_forwardings(indexes, named, command, stamp)
        case UpdatePortForwarding():
            return port_forwardings.update_port_forwarding(indexes, named, command, stamp)
        case DeletePortForwarding():
            return port_forwardings.delete_port_forwarding(indexes, named, command, stamp)


def rows_named(indexes: Indexes, command: Command) -> Sequence[Id]:
    """The existing ports that the command reads, and other rows that it must not see changed in the same commit."""
    match command:
        case AddRouterInterface() | RemoveRouterInterface():
            return routers.ports_of_interface(indexes, command)
        case ShareAddress():
            return (command.id,)
        case UpdateRouter() | DeleteRouter():
            return routers.ports_of_gateway(indexes, command)
        case UpdateFloatingIp():
            new = () if command.port_id is UNSET or command.port_id is None else (command.port_id,)
            forwarded = () if command.qos_policy_id is UNSET else port_forwardings.rows_of(indexes, command.id)
            return (*floating_ips.ports_of_floating_ip(indexes, command.id), *new, *forwarded)
        case AnchorFloatingIp():
            new = () if command.anchor_id is None else (command.anchor_id,)
            return (*floating_ips.ports_of_floating_ip(indexes, command.id), *new)
        case DeleteFloatingIp():
            return floating_ips.ports_of_floating_ip(indexes, command.id)
        case CreatePortForwardings():
            known = port_forwardings.rows_of(indexes, command.floating_ip_id)
            return (*known, *(spec.port_id for spec in command.specs))
        case RecordClaims():
            return claims.rows_of(indexes, command)
        case UpdatePortForwarding() | DeletePortForwarding():
            return (command.id, *port_forwardings.rows_of(indexes, command.floating_ip_id))
        case _:
            return ports_named(command)


def ports_named(command: Command) -> Sequence[Id]:
    """The existing ports that the command names."""
    match command:
        case UpdatePort():
            return (command.id,)
        case DeletePorts():
            return command.ids
        case RecordPortReports():
            return [report.id for report in command.reports]
        case RecordClaims():
            return [report.port for report in command.reports]
        case CreateFloatingIps():
            return [spec.port_id for spec in command.specs if spec.port_id is not None]
        case CreateLoadBalancer():
            return () if command.port_id is None else (command.port_id,)
        case DeleteLoadBalancer():
            return (command.port_id,)
        case _:
            return ()


def needs_rest(command: Command) -> bool:
    """True when the command compares memory with the store: it must be the first of its batch."""
    return isinstance(command, CheckInvariants)


def ids_needed(command: Command) -> int:
    """How many new ids the command needs."""
    match command:
        case (
            CreatePorts()
            | CreateNetworks()
            | CreateSubnets()
            | CreateNodes()
            | CreateSecurityGroups()
            | CreateSecurityGroupRules()
            | CreateQosPolicies()
            | CreateRouters()
            | CreatePeerings()
            | CreateFloatingIps()
            | CreatePortForwardings()
        ):
            return len(command.specs)
        case CreateQosRule():
            return 1
        case CreateLoadBalancer() | CreateListener() | CreatePool() | CreateMember() | CreateHealthMonitor():
            return 1
        case ReplaceMembers():
            return len(command.specs)
        case _:
            return 0


def weight(command: Command) -> int:
    """About how many rows the command writes: what queues and batches are bounded by."""
    return max(1, ids_needed(command) or len(ports_named(command)))
