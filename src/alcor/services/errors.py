"""The one tree of domain errors. Raised by services, mapped to HTTP once (api), shown to the caller as Neutron does.

Each class's name is the `type` of Neutron's error body; `status` is Neutron's code for it.
"""

from __future__ import annotations


class DomainError(Exception):
    """Something the caller can mend. `message` names the field and the value."""

    status = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(DomainError):
    """A value that cannot be."""


class NotFound(DomainError):
    """An id that nobody has (or nobody the caller may see)."""

    status = 404


class NetworkNotFound(NotFound): ...


class SubnetNotFound(NotFound): ...


class PortNotFound(NotFound): ...


class NodeNotFound(NotFound): ...


class Conflict(DomainError):
    """True of the value, but not of the present state."""

    status = 409


class NetworkInUse(Conflict): ...


class SubnetInUse(Conflict): ...


class NodeInUse(Conflict): ...


class AgentNotFound(NotFound): ...


class NodeDrained(Conflict): ...


class NodeNameInUse(Conflict): ...


class NodeUnderlayIpInUse(Conflict):
    """Two hosts with one tunnel end would take each other's packets."""


class PortBound(Conflict):
    """The MAC of a bound port is fixed: its workload has seen it (as in Neutron)."""


class IpAddressAlreadyAllocated(Conflict): ...


class IpAddressGenerationFailure(Conflict): ...


class MacAddressInUse(Conflict): ...


class MacAddressGenerationFailure(DomainError):
    """All 2^24 MACs of the network are in use."""

    status = 503


class VniInUse(Conflict): ...


class SecurityGroupNotFound(NotFound): ...


class SecurityGroupRuleNotFound(NotFound): ...


class SecurityGroupInUse(Conflict): ...


class SecurityGroupCannotRemoveDefault(Conflict): ...


class SecurityGroupCannotUpdateDefault(Conflict): ...


class SecurityGroupDefaultAlreadyExists(Conflict): ...


class SecurityGroupRuleExists(Conflict): ...


class OverQuota(Conflict): ...


class IdentitiesExhausted(Conflict):
    """A network's ports have too many different sets of security groups."""


class AddressPairAndPortSecurityRequired(Conflict): ...


class PortSecurityPortHasSecurityGroup(Conflict): ...


class PortSecurityAndIPRequiredForSecurityGroups(DomainError): ...


class AllowedAddressPairExhausted(DomainError): ...


class DuplicateAddressPairInRequest(DomainError): ...


class SecurityGroupInvalidPortRange(DomainError): ...


class SecurityGroupInvalidPortValue(DomainError): ...


class SecurityGroupInvalidIcmpValue(DomainError): ...


class SecurityGroupMissingIcmpType(DomainError): ...


class SecurityGroupInvalidProtocolForPort(DomainError): ...


class SecurityGroupProtocolRequiredWithPorts(DomainError): ...


class SecurityGroupRemoteGroupAndRemoteIpPrefix(DomainError): ...


class SecurityGroupRuleParameterConflict(DomainError): ...


class SecurityGroupEthertypeConflictWithProtocol(DomainError): ...


class SecurityGroupRuleInvalidProtocol(DomainError): ...


class QosPolicyNotFound(NotFound): ...


class QosRuleNotFound(NotFound): ...


class QosPolicyInUse(Conflict): ...


class QosPolicyDefaultAlreadyExists(Conflict): ...


class QoSRulesConflict(Conflict): ...


class QosRuleNotSupported(Conflict): ...


class RouterNotFound(NotFound): ...


class RouterInUse(Conflict): ...


class RouterInterfaceNotFound(NotFound): ...


class RouterInterfaceNotFoundForSubnet(NotFound): ...


class RouterInterfaceInUseByRoute(Conflict): ...


class SubnetMismatchForPort(Conflict): ...


class BadRequest(DomainError):
    """Neutron's word for a request that contradicts what there is."""


class InvalidRoutes(DomainError): ...


class RoutesExhausted(DomainError): ...


class PortInUse(Conflict): ...


class ServicePortInUse(Conflict):
    """A port that belongs to a router, a floating IP or a load balancer, which alone changes it."""


class GatewayIpInUse(Conflict): ...


class HostRoutesExhausted(DomainError): ...


class FloatingIPNotFound(NotFound): ...


class FloatingIPPortAlreadyAssociated(Conflict): ...


class PortForwardingNotFound(NotFound): ...


class FipInUseByPortForwarding(Conflict): ...


class PortHasBindingFloatingIP(Conflict): ...


class PortHasPortForwarding(DomainError): ...


class ExternalGatewayForFloatingIPNotFound(NotFound): ...


class ExternalIpAddressExhausted(DomainError): ...


class ExternalNetworkInUse(Conflict): ...


class RouterExternalGatewayInUseByFloatingIp(Conflict): ...


class RouterInterfaceInUseByFloatingIP(Conflict): ...


class VpcPeeringNotFound(NotFound): ...


class VpcPeeringExists(Conflict): ...


class VpcPeeringOverlap(Conflict):
    """Two networks with an address in common cannot route to each other."""


class BalancingNotFound(NotFound):
    """Of Octavia's resources."""


class LoadBalancerNotFound(BalancingNotFound): ...


class ListenerNotFound(BalancingNotFound): ...


class PoolNotFound(BalancingNotFound): ...


class MemberNotFound(BalancingNotFound): ...


class HealthMonitorNotFound(BalancingNotFound): ...


class BalancingValidation(DomainError): ...


class BalancerHasChildren(DomainError): ...


class BalancingUnsupported(DomainError):
    """Octavia has it, Alcor does not."""

    status = 501


class BalancingQuotaMet(DomainError):
    status = 403


class DuplicateListener(Conflict): ...


class ListenerHasPool(Conflict): ...


class DuplicateMember(Conflict): ...


class DuplicateHealthMonitor(Conflict): ...


class NoVniAvailable(Conflict): ...


class OverlappingAllocationPools(Conflict): ...


class GatewayConflictWithAllocationPools(Conflict): ...


class OutOfBoundsAllocationPool(DomainError): ...


class InvalidAllocationPool(DomainError): ...


class AllocationOnAutoAddressSubnet(DomainError): ...


class InvalidIpForSubnet(DomainError): ...


class InvalidIpForNetwork(DomainError): ...


class RevisionNumberConstraintFailed(DomainError):
    """`If-Match` named another revision."""

    status = 412


class ControlPlaneBusy(DomainError):
    """The queue of commands is full: nothing was done; try again after a moment."""

    status = 503


class ControlPlaneStopped(DomainError):
    """The control plane is stopping, or its store failed. Whether an unanswered command was done is unknown until the
    store is read again; nothing that was acknowledged is lost."""

    status = 503
