"""The nouns of desired state, as frozen records. Pure.

Called by services, store, goalstate and api. `revision` is the number of the commit that last changed the desired
state of the resource; REST shows it as `revision_number`. Times are milliseconds since the epoch.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from alcor.model.addresses import Ip, Mac, Prefix
from alcor.model.ids import Id


class PortStatus(StrEnum):
    """Neutron's port states. ACTIVE only on the host's own word (promise P1)."""

    DOWN = "DOWN"
    """Not bound to a host, or administratively down and realised so."""
    BUILD = "BUILD"
    """Bound; the host has not acknowledged the present revision yet."""
    ACTIVE = "ACTIVE"
    """The host acknowledged that its kernel carries the present revision."""
    ERROR = "ERROR"
    """The host refused; `status_reason` says why."""


class PortKind(StrEnum):
    """What the agent does for the port's interface."""

    CONTAINER = "container"
    """Makes a veth, its inner end in a namespace that the agent makes, or in the one at `netns`."""
    TAP = "tap"
    """Makes a persistent tap device for a virtual machine."""
    ADOPTED = "adopted"
    """Takes the interface named `interface`, which somebody else made and keeps."""


class Ipv6Mode(StrEnum):
    """How a port of an IPv6 subnet comes to its address and to the rest (Neutron's ipv6_ra_mode, ipv6_address_mode)."""

    SLAAC = "slaac"
    """By router advertisements alone (RFC 4862): the address is the prefix and the MAC's modified EUI-64."""
    STATEFUL = "dhcpv6-stateful"
    """Both by DHCPv6."""
    STATELESS = "dhcpv6-stateless"
    """The address as with SLAAC, the rest by DHCPv6."""


class Network(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A network; with `cidr` it is a VPC, whose subnets route to each other."""

    id: Id
    project_id: str
    name: str
    description: str
    cidr: Prefix | None
    vni: int
    mtu: int
    admin_state_up: bool
    shared: bool
    created_at: int
    updated_at: int
    revision: int
    on_demand: bool = False
    """Too large to be preloaded: hosts ask where an address is when a packet for it comes."""
    dns_domain: str = ""
    """In which its ports' names are, with a dot at its end; empty: DEFAULT_DOMAIN."""
    qos_policy_id: Id | None = None
    """Of its ports that have none of their own."""
    external: bool = False
    """Outside: its addresses are those of what is behind hosts' external devices (Neutron's router:external)."""


class Pool(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An allocation pool: first and last address, both included."""

    first: Ip
    last: Ip


class ExtraRoute(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """Where a router sends what is for a prefix. Several with one destination share its traffic by flow."""

    destination: Prefix
    nexthop: Ip | None
    """None: nowhere (a blackhole)."""


class Subnet(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A subnet of a network. `gateway` is None when it has none."""

    id: Id
    network_id: Id
    project_id: str
    name: str
    description: str
    cidr: Prefix
    gateway: Ip | None
    pools: tuple[Pool, ...]
    enable_dhcp: bool
    dns_nameservers: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int
    ra_mode: Ipv6Mode | None = None
    """What router advertisements say; None: there are none."""
    address_mode: Ipv6Mode | None = None
    """How addresses are given out; None: they are not."""
    host_routes: tuple[ExtraRoute, ...] = ()
    """Sorted. What workloads of the subnet are told to have beside the default route; each has a next hop."""

    @property
    def automatic(self) -> bool:
        """The ports' addresses are made of their MACs."""
        return any(mode in (Ipv6Mode.SLAAC, Ipv6Mode.STATELESS) for mode in (self.address_mode, self.ra_mode))

    @property
    def ip_version(self) -> int:
        """4 or 6."""
        return self.cidr.version

    @property
    def wire_length(self) -> int:
        """Of an external subnet: the length of the prefix that is on hosts' external wire. None of it is where the
        gateway is not in the subnet, whose addresses are then only routed there."""
        return self.cidr.length if self.gateway is None or self.gateway in self.cidr else 32


class FixedIp(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One address of a port, in one subnet."""

    subnet_id: Id
    ip: Ip


class AddressPair(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Addresses that a port may send from beside its own (Neutron's allowed address pair)."""

    prefix: Prefix
    mac: Mac
    """The port's own, unless another was asked for."""


class Claim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An address of a port's allowed pairs that its workload announced: it is at the port now, at that MAC."""

    ip: Ip
    mac: Mac


class DhcpOption(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a port's DHCP answers say beside the rest (Neutron's extra_dhcp_opts): model.dhcp encodes it."""

    version: int
    """4 or 6."""
    name: str
    value: str


class Eip(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """An address of an external network that stands for one of a port's, both ways (IPv4)."""

    ip: Ip
    inside: Ip
    """The port's own address, or that of a load balancer whose EIP is with the port (FloatingIp.anchor_id)."""
    prefix_length: int
    gateway: Ip | None
    """Of the external subnet: what is not in it is sent there."""
    qos_id: Id | None = None
    """Whose bandwidth limits its packets have, beside those of the port: a policy's, or an external network's, which
    are those of the policy that it has (FloatingIp.qos_id)."""


class Forwarding(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """A port of an external address that stands for a port of one of a port's addresses, both ways (IPv4)."""

    ip: Ip
    protocol: int
    """TCP or UDP."""
    port: int
    inside: Ip
    inside_port: int
    prefix_length: int
    gateway: Ip | None
    """Of the external subnet, as of an Eip."""
    qos_id: Id | None = None
    """Of the external address, as of an Eip: the same in all its forwardings."""


class Direction(StrEnum):
    """Of traffic, as its port sees it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class SecurityGroupRule(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a group's ports may do. Rules only allow; what none allows is dropped.

    `port_min` and `port_max` bound the destination port (TCP, UDP, SCTP, DCCP, UDP-Lite), both included; for ICMP they
    are the type and the code, as in Neutron. None: any.
    """

    id: Id
    group_id: Id
    project_id: str
    description: str
    direction: Direction
    version: int
    """4 or 6: of the ethertype."""
    protocol: int | None
    """IP protocol number; None: any."""
    protocol_name: str
    """As the client wrote it (tcp, 6, ...): it gets that back. Empty: any."""
    port_min: int | None
    port_max: int | None
    remote_prefix: Prefix | None
    remote_group: Id | None
    """At most one of the two. Neither: anybody."""
    created_at: int
    updated_at: int
    revision: int


class SecurityGroup(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A group of ports with the same rules. `revision` also grows when a rule comes or goes."""

    id: Id
    project_id: str
    name: str
    description: str
    created_at: int
    updated_at: int
    revision: int


class Identity(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The number that stands for a set of groups within a network: what packets and endpoints carry of it.

    Given out when the first port with that set comes; given back with the last of its groups' deletion.
    """

    network_id: Id
    number: int
    """1..65535 (VXLAN-GBP's group policy id)."""
    groups: tuple[Id, ...]
    """Sorted. Empty is a set too: such a port is allowed nothing."""
    revision: int


class Port(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A port. `host` is the name of the node that runs it, empty when unbound.

    `status`, `status_reason`, `realised_revision`, `path`, `attempts` and `realised_at` are status, written by the
    status loop; they do not change `revision`.
    """

    id: Id
    network_id: Id
    project_id: str
    name: str
    description: str
    mac: Mac
    fixed_ips: tuple[FixedIp, ...]
    host: str
    device_id: str
    device_owner: str
    admin_state_up: bool
    kind: PortKind
    netns: str
    """A namespace to enter, as a path; empty: the agent makes one (containers only)."""
    interface: str
    """Interface name: inside the namespace for a container (default eth0), on the host for an adopted port."""
    created_at: int
    updated_at: int
    revision: int
    status: PortStatus
    status_reason: str
    realised_revision: int
    security_groups: tuple[Id, ...] = ()
    """Sorted."""
    port_security_enabled: bool = True
    """False: it may send from any address, and nothing is filtered."""
    address_pairs: tuple[AddressPair, ...] = ()
    identity: int = 0
    """The number of `security_groups` in the network (Identity); 0 without port security."""
    fast_path: bool = False
    """Its host is to be on the fast path when it changes, whatever else there is to do."""
    path: str = ""
    """Status: by which way the host's last word came (paths.base.PathName); empty: there was none."""
    attempts: int = 0
    """Status: dials that the session took in which it came."""
    realised_at: int = 0
    """Status: when it came; 0: it has not."""
    dns_name: str = ""
    """Its name in the network's dns_domain, in lower case; empty: only that of its addresses."""
    dhcp_options: tuple[DhcpOption, ...] = ()
    qos_policy_id: Id | None = None
    """None: its network's."""
    eips: tuple[Eip, ...] = ()
    """What stands for its addresses outside, sorted: what its floating IPs come to."""
    forwardings: tuple[Forwarding, ...] = ()
    """What stands for ports of its addresses outside, sorted: what its port forwardings come to."""
    claims: tuple[Claim, ...] = ()
    """What of its `address_pairs` is at the port now, the oldest first. No two ports of a network claim one address."""


class FloatingIp(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An address of an external network that a project has, and the port's address that it stands for, if any."""

    id: Id
    project_id: str
    description: str
    network_id: Id
    """The external network."""
    subnet_id: Id
    ip: Ip
    external_port_id: Id
    """The port of the external network that has the address: nobody's but this floating IP's."""
    port_id: Id | None
    fixed_ip: Ip | None
    router_id: Id | None
    """The router between the port's subnet and the external network. All three or none of them."""
    created_at: int
    updated_at: int
    revision: int
    anchor_id: Id | None = None
    """The port whose host answers for it, while it stands for a load balancer's address, which has no host of its own;
    None: nobody does."""
    qos_policy_id: Id | None = None
    """Whose bandwidth limits its packets have; marks are for ports. None: those of its external network's policy."""

    @property
    def qos_id(self) -> Id:
        """What its Eip or Forwardings have as theirs: a change of the network's policy changes none of them."""
        return self.qos_policy_id or self.network_id


class PortForwarding(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A port of a floating IP that stands for a port of one address of a port. All of a floating IP are of one port."""

    id: Id
    floating_ip_id: Id
    project_id: str
    description: str
    protocol: int
    external_port: int
    port_id: Id
    fixed_ip: Ip
    internal_port: int
    created_at: int
    updated_at: int
    revision: int


class Node(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A compute host. `name` is what ports name in `binding:host_id`."""

    id: Id
    name: str
    underlay_ip: Ip
    """Where its tunnel end listens (VXLAN)."""
    agent_host: str
    """Where its agent's gRPC server listens: an address or a name."""
    agent_port: int
    created_at: int
    updated_at: int
    revision: int
    availability_zone: str = ""
    failure_domain: str = ""
    """What it shares its fate with: a rack, a power feed."""
    admin_state_up: bool = True
    """False: drained. It keeps its ports and takes no others."""


class RouterInterface(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A router's address in a subnet, and the port that has it."""

    port_id: Id
    network_id: Id
    subnet_id: Id
    cidr: Prefix
    ip: Ip


class PortBlock(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A block of ports of a router's address outside (model.blocks), the host that has it, and its tunnel end."""

    block: int
    host: str
    host_ip: Ip


class Outside6(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A router's address in an external network's IPv6 subnet, and what hosts need of that: the router's subnets inside
    its `cidr` are outside with their own addresses."""

    subnet_id: Id
    ip: Ip
    cidr: Prefix
    gateway: Ip | None
    """Of the external subnet: what is on no host is sent there."""


class RouterGateway(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where a router leaves for outside: its address in each family that the external network has (or that was asked
    for), and the port that has them.

    With `enable_snat` hosts share the IPv4 address for those of their ports that have none of their own there: how they
    do is services.sharing's.
    """

    port_id: Id
    network_id: Id
    subnet_id: Id | None
    """The IPv4 one, and `ip` the address in it. None: there is none; then nothing is shared."""
    ip: Ip | None
    enable_snat: bool = False
    prefix_length: int = 32
    next_hop: Ip | None = None
    """The subnet's gateway."""
    blocks: tuple[PortBlock, ...] = ()
    """Sorted."""
    answerer: str = ""
    """The host that answers for the address; empty: none can."""
    without: tuple[str, ...] = ()
    """Hosts for which no block is left, sorted, the first few: their ports do not reach outside."""
    outside6: Outside6 | None = None
    """None: IPv6 does not leave by this router."""

    @property
    def shares(self) -> bool:
        """Hosts share its address."""
        return self.enable_snat and self.ip is not None

    @property
    def addresses(self) -> tuple[FixedIp, ...]:
        """Those that it has, IPv4 first."""
        four = () if self.subnet_id is None or self.ip is None else (FixedIp(self.subnet_id, self.ip),)
        six = () if self.outside6 is None else (FixedIp(self.outside6.subnet_id, self.outside6.ip),)
        return four + six


class Router(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A router: its subnets reach each other, on every host. `revision` also grows with its interfaces."""

    id: Id
    project_id: str
    name: str
    description: str
    admin_state_up: bool
    routes: tuple[ExtraRoute, ...]
    """Sorted."""
    interfaces: tuple[RouterInterface, ...]
    """In the order in which they were added."""
    created_at: int
    updated_at: int
    revision: int
    gateway: RouterGateway | None = None

    @property
    def networks(self) -> tuple[Id, ...]:
        """Those that it has interfaces in, sorted, each once."""
        return tuple(sorted({one.network_id for one in self.interfaces}))

    @property
    def open_interfaces(self) -> tuple[RouterInterface, ...]:
        """Those in subnets that are open by its gateway: their addresses are their ports' own outside."""
        outer = self.gateway.outside6 if self.gateway is not None else None
        return () if outer is None else tuple([one for one in self.interfaces if outer.cidr.covers(one.cidr)])


class Peering(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Two VPCs whose subnets reach each other."""

    id: Id
    project_id: str
    name: str
    description: str
    network_id: Id
    peer_network_id: Id
    created_at: int
    updated_at: int
    revision: int

    @property
    def networks(self) -> tuple[Id, ...]:
        """The two, sorted."""
        return tuple(sorted((self.network_id, self.peer_network_id)))
