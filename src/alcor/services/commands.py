"""What a caller may ask of the control plane: commands, as values. Made by api and loops, answered by services.

A field that is UNSET in a change is left as it is; a field that is None in a spec is chosen by Alcor. `if_match` is the
`revision_number` that the caller saw, or None. A command is applied whole or not at all.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from alcor.model.addresses import Ip, Mac, Prefix
from alcor.model.ids import Id
from alcor.model.nouns import Claim, DhcpOption, Direction, ExtraRoute, Ipv6Mode, Pool, PortKind, RouterInterface


class Command(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The root of every command."""


class NetworkSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    project_id: str = ""
    name: str = ""
    description: str = ""
    cidr: Prefix | None = None
    vni: int | None = None
    mtu: int | None = None
    admin_state_up: bool = True
    shared: bool = False
    dns_domain: str = ""
    qos_policy_id: Id | None = None
    """None: the project's default policy, if it has one."""
    external: bool = False


class CreateNetworks(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[Network, ...], in the order of the specs."""

    specs: tuple[NetworkSpec, ...]


class UpdateNetwork(Command, frozen=True, gc=False, kw_only=True):
    """-> Network. `cidr` may be set only while no subnet contradicts it."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    cidr: Prefix | UnsetType | None = UNSET
    mtu: int | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    shared: bool | UnsetType = UNSET
    dns_domain: str | UnsetType = UNSET
    qos_policy_id: Id | UnsetType | None = UNSET
    external: bool | UnsetType = UNSET
    if_match: int | None = None


class DeleteNetwork(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Refused while it has ports; its subnets go with it (as in Neutron); its VNI is released."""

    id: Id
    if_match: int | None = None


class SubnetSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    network_id: Id
    cidr: Prefix
    project_id: str = ""
    name: str = ""
    description: str = ""
    gateway: Ip | UnsetType | None = UNSET
    """UNSET: the first address of the CIDR; None: no gateway."""
    pools: tuple[Pool, ...] | None = None
    enable_dhcp: bool = True
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[ExtraRoute, ...] = ()
    ra_mode: Ipv6Mode | None = None
    address_mode: Ipv6Mode | None = None


class CreateSubnets(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[Subnet, ...]."""

    specs: tuple[SubnetSpec, ...]


class UpdateSubnet(Command, frozen=True, gc=False, kw_only=True):
    """-> Subnet."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    gateway: Ip | UnsetType | None = UNSET
    pools: tuple[Pool, ...] | UnsetType = UNSET
    enable_dhcp: bool | UnsetType = UNSET
    dns_nameservers: tuple[str, ...] | UnsetType = UNSET
    host_routes: tuple[ExtraRoute, ...] | UnsetType = UNSET
    if_match: int | None = None


class DeleteSubnet(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Refused while ports have addresses in it."""

    id: Id
    if_match: int | None = None


class FixedIpSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An address to have: in that subnet, or that very one, or both."""

    subnet_id: Id | None = None
    ip: Ip | None = None


class AddressPairSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a port may send from beside its own. `mac` None: with its own MAC."""

    prefix: Prefix
    mac: Mac | None = None


class DhcpOptionChange(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An option to set; `value` None: to take away."""

    version: int
    name: str
    value: str | None


class PortSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    network_id: Id
    project_id: str = ""
    name: str = ""
    description: str = ""
    mac: Mac | None = None
    fixed_ips: tuple[FixedIpSpec, ...] | None = None
    """None: one address of each family that the network has subnets of, from the first with room. Empty: no address."""
    host: str = ""
    device_id: str = ""
    device_owner: str = ""
    admin_state_up: bool = True
    kind: PortKind | None = None
    """None: TAP for a device_owner that starts with `compute:`, else CONTAINER."""
    netns: str = ""
    interface: str = ""
    fast_path: bool = False
    security_groups: tuple[Id, ...] | None = None
    """None: the project's default group; without port security, none."""
    port_security_enabled: bool | None = None
    """None: True, but for a device_owner that starts with `network:`."""
    address_pairs: tuple[AddressPairSpec, ...] = ()
    dns_name: str = ""
    dhcp_options: tuple[DhcpOption, ...] = ()
    qos_policy_id: Id | None = None


class CreatePorts(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[Port, ...]. All or nothing."""

    specs: tuple[PortSpec, ...]


class UpdatePort(Command, frozen=True, gc=False, kw_only=True):
    """-> Port."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    mac: Mac | UnsetType = UNSET
    fixed_ips: tuple[FixedIpSpec, ...] | UnsetType = UNSET
    host: str | UnsetType = UNSET
    device_id: str | UnsetType = UNSET
    device_owner: str | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    kind: PortKind | UnsetType = UNSET
    netns: str | UnsetType = UNSET
    interface: str | UnsetType = UNSET
    fast_path: bool | UnsetType = UNSET
    security_groups: tuple[Id, ...] | UnsetType | None = UNSET
    """None: the project's default group."""
    port_security_enabled: bool | UnsetType = UNSET
    address_pairs: tuple[AddressPairSpec, ...] | UnsetType = UNSET
    dns_name: str | UnsetType = UNSET
    dhcp_options: tuple[DhcpOptionChange, ...] | UnsetType = UNSET
    """What changes of them; the others stay."""
    qos_policy_id: Id | UnsetType | None = UNSET
    if_match: int | None = None


class DeletePorts(Command, frozen=True, gc=False, kw_only=True):
    """-> None. All or nothing; its addresses are free at once, its host is told by goal state."""

    ids: tuple[Id, ...]
    if_match: int | None = None


class SecurityGroupSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    project_id: str = ""
    name: str = ""
    description: str = ""


class CreateSecurityGroups(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[SecurityGroup, ...], each with rules that let everything out."""

    specs: tuple[SecurityGroupSpec, ...]


class EnsureDefaultGroup(Command, frozen=True, gc=False, kw_only=True):
    """-> SecurityGroup: the project's default one, made when it has none."""

    project_id: str


class UpdateSecurityGroup(Command, frozen=True, gc=False, kw_only=True):
    """-> SecurityGroup."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    if_match: int | None = None


class DeleteSecurityGroup(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Refused while a port is in it; rules of other groups that name it go with it."""

    id: Id
    if_match: int | None = None


class SecurityGroupRuleSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    group_id: Id
    direction: Direction
    version: int = 4
    project_id: str = ""
    description: str = ""
    protocol: int | None = None
    protocol_name: str = ""
    port_min: int | None = None
    port_max: int | None = None
    remote_prefix: Prefix | None = None
    remote_group: Id | None = None


class CreateSecurityGroupRules(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[SecurityGroupRule, ...]. All or nothing."""

    specs: tuple[SecurityGroupRuleSpec, ...]


class DeleteSecurityGroupRule(Command, frozen=True, gc=False, kw_only=True):
    """-> None."""

    id: Id
    if_match: int | None = None


class RouterSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    project_id: str = ""
    name: str = ""
    description: str = ""
    admin_state_up: bool = True
    gateway: GatewaySpec | None = None


class CreateRouters(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[Router, ...], without interfaces."""

    specs: tuple[RouterSpec, ...]


class UpdateRouter(Command, frozen=True, gc=False, kw_only=True):
    """-> Router."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    routes: tuple[ExtraRoute, ...] | UnsetType = UNSET
    gateway: GatewaySpec | UnsetType | None = UNSET
    if_match: int | None = None


class DeleteRouter(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Refused while it has interfaces."""

    id: Id
    if_match: int | None = None


class AddRouterInterface(Command, frozen=True, gc=False, kw_only=True):
    """-> RouterInterfaces: those of the port. Exactly one of the two is given: with a subnet, a port with its gateway
    address is made."""

    id: Id
    subnet_id: Id | None = None
    port_id: Id | None = None
    if_match: int | None = None


class RemoveRouterInterface(Command, frozen=True, gc=False, kw_only=True):
    """-> RouterInterfaces: those that went. The port goes with them."""

    id: Id
    subnet_id: Id | None = None
    port_id: Id | None = None
    if_match: int | None = None


class RouterInterfaces(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became of a router's port."""

    router_id: Id
    project_id: str
    interfaces: tuple[RouterInterface, ...]


class ChangeExtraRoutes(Command, frozen=True, gc=False, kw_only=True):
    """-> Router. Adding one that is there, and removing one that is not, changes nothing."""

    id: Id
    add: tuple[ExtraRoute, ...] = ()
    remove: tuple[ExtraRoute, ...] = ()
    if_match: int | None = None


class PeeringSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    network_id: Id
    peer_network_id: Id
    project_id: str = ""
    name: str = ""
    description: str = ""


class CreatePeerings(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[Peering, ...]. All or nothing."""

    specs: tuple[PeeringSpec, ...]


class UpdatePeering(Command, frozen=True, gc=False, kw_only=True):
    """-> Peering."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    if_match: int | None = None


class DeletePeering(Command, frozen=True, gc=False, kw_only=True):
    """-> None."""

    id: Id
    if_match: int | None = None


class FloatingIpSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    network_id: Id
    """The external network."""
    project_id: str = ""
    description: str = ""
    subnet_id: Id | None = None
    ip: Ip | None = None
    port_id: Id | None = None
    """The port that it is to stand for."""
    fixed_ip: Ip | None = None
    """None: the port's only IPv4 address."""
    qos_policy_id: Id | None = None


class CreateFloatingIps(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[FloatingIp, ...]. All or nothing."""

    specs: tuple[FloatingIpSpec, ...]


class UpdateFloatingIp(Command, frozen=True, gc=False, kw_only=True):
    """-> FloatingIp. `port_id` None takes it from its port."""

    id: Id
    description: str | UnsetType = UNSET
    port_id: Id | UnsetType | None = UNSET
    fixed_ip: Ip | UnsetType | None = UNSET
    qos_policy_id: Id | UnsetType | None = UNSET
    if_match: int | None = None


class AnchorFloatingIp(Command, frozen=True, gc=False, kw_only=True):
    """-> FloatingIp. Which port's host answers for a load balancer's EIP; None: nobody's. From the loop of anchors."""

    id: Id
    anchor_id: Id | None


class DeleteFloatingIp(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Its address is free at once."""

    id: Id
    if_match: int | None = None


class PortForwardingSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    port_id: Id
    """The port that it leads to."""
    protocol: int
    external_port: int
    internal_port: int
    fixed_ip: Ip | None = None
    """None: the port's only IPv4 address."""
    description: str = ""


class CreatePortForwardings(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[PortForwarding, ...]. All or nothing."""

    floating_ip_id: Id
    specs: tuple[PortForwardingSpec, ...]


class UpdatePortForwarding(Command, frozen=True, gc=False, kw_only=True):
    """-> PortForwarding."""

    id: Id
    floating_ip_id: Id
    description: str | UnsetType = UNSET
    protocol: int | UnsetType = UNSET
    external_port: int | UnsetType = UNSET
    internal_port: int | UnsetType = UNSET
    fixed_ip: Ip | UnsetType = UNSET
    if_match: int | None = None


class DeletePortForwarding(Command, frozen=True, gc=False, kw_only=True):
    """-> None."""

    id: Id
    floating_ip_id: Id
    if_match: int | None = None


class Carrier(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A host that is to share a router's address: how many ports it has of the router's networks, and whether it can
    answer for the address."""

    host: str
    host_ip: Ip
    ports: int
    answers: bool


class ShareAddress(Command, frozen=True, gc=False, kw_only=True):
    """-> None. These hosts, sorted, share the address of that router; nothing is done once its gateway is another."""

    id: Id
    gateway_port_id: Id
    carriers: tuple[Carrier, ...]


class GatewaySpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Where a router is to leave for outside."""

    network_id: Id
    """An external network."""
    addresses: tuple[FixedIpSpec, ...] = ()
    """At most one of each family; none: one of each that the network has subnets of."""
    enable_snat: bool = True
    """Ports without an address of their own there have its IPv4 address."""


class NodeSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    name: str
    underlay_ip: Ip
    agent_host: str = ""
    """Empty: the underlay address."""
    agent_port: int = 50001
    availability_zone: str = ""
    failure_domain: str = ""
    admin_state_up: bool = True


class CreateNodes(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[Node, ...]."""

    specs: tuple[NodeSpec, ...]


class UpdateNode(Command, frozen=True, gc=False, kw_only=True):
    """-> Node."""

    id: Id
    underlay_ip: Ip | UnsetType = UNSET
    agent_host: str | UnsetType = UNSET
    agent_port: int | UnsetType = UNSET
    availability_zone: str | UnsetType = UNSET
    failure_domain: str | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    if_match: int | None = None


class DeleteNode(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Refused while ports are bound to it."""

    id: Id
    if_match: int | None = None


class PortReport(msgspec.Struct, frozen=True, gc=False):
    """A host's word about a port: it carries `revision` (or refused it, with `error`)."""

    id: Id
    host: str
    revision: int
    error: str
    path: str = ""
    """By which way it came."""
    attempts: int = 0
    """Dials that this took."""


class RecordPortReports(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Reports of unknown ports, of another host than the port's or of an older revision change nothing."""

    reports: tuple[PortReport, ...]


class ClaimReport(msgspec.Struct, frozen=True, gc=False):
    """A host's word: the workload of a port of that VPC announced an address of the port's pairs."""

    port: Id
    vpc: Id
    host: str
    claim: Claim


class RecordClaims(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Oldest first: of several about one address the last counts. Of ports that are elsewhere, and of
    addresses that the port may not have, nothing changes."""

    reports: tuple[ClaimReport, ...]


class CheckInvariants(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[str, ...]: what is wrong with the control plane's memory against the store, a sentence each; empty when
    all is well. Nothing is written meanwhile, so it is for tests, operators and idle hours."""


class Control(Protocol):
    """The control plane as its callers see it: one queue of commands. loops.commit fills it, roles wires it."""

    async def submit(self, command: Command) -> object:
        """Answers once the command is durable, with what the command's docstring names. Raises DomainError."""
        ...
