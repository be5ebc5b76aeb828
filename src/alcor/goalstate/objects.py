"""The objects of goal state and the scopes they travel in. Pure.

Called by loops (to publish), wire (to encode) and the agent (to merge). Two kinds of scope, so that a change costs
O(hosts that need it) and a VPC's state is encoded once for all its hosts:

- the **host scope** holds the ports of one host;
- a **VPC scope** holds what every host that needs the VPC must know: the VPC itself, its subnets, its endpoints, the
  security groups that its ports are in, its ports' names, the policies of quality of service that they have, its load
  balancers, and the routers and peerings that it has. That of a VPC which is on demand is without the endpoints. A host
  needs a VPC while it runs a port of it, or of a VPC that a router or a peering connects with it, and then forgets it
  whole.

Every object carries the revision (commit number) that last changed it; a deletion is a tombstone with a revision.
Whoever holds a scope merges by "newest revision of each object wins", so updates may repeat, race and reorder.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec

from alcor.model.addresses import Ip, Mac, Prefix, with_link_local
from alcor.model.ids import Id
from alcor.model.nouns import AddressPair, Claim, DhcpOption, Eip, ExtraRoute, Forwarding, Ipv6Mode, PortKind

HOST_SCOPE = Id(b"")
"""The key of a host's own scope; a VPC scope's key is the network's id."""
AS_OF_NOTHING = 1
"""The revision of what reaches nowhere: a scope that is partial, or that was put together from what a damaged journal
left. Who holds such a scope is sent it whole, not what changed since."""


class Kind(IntEnum):
    """What an object is. The numbers are on the wire and in digests: never reuse one."""

    VPC = 1
    SUBNET = 2
    PORT = 3
    ENDPOINT = 4
    IDENTITY = 5
    GROUP = 6
    ROUTER = 7
    PEERING = 8
    BALANCER = 14
    POOL = 15
    MEMBER = 16
    NAME = 18
    QOS = 21


class Key(NamedTuple):
    """Names an object within its scope."""

    kind: Kind
    id: Id


class VpcGoal(msgspec.Struct, frozen=True, gc=False):
    """A VPC's tunnel number and rules. `routed`: its subnets reach each other through the implicit router. Not
    `admin_state_up`: all its ports are down. `on_demand`: its scope has no endpoints, hosts ask for them (Lookup)."""

    id: Id
    revision: int
    vni: int
    mtu: int
    routed: bool
    admin_state_up: bool = True
    on_demand: bool = False
    dns_domain: str = ""
    """In which its ports' names are, with a dot at its end; empty: the default one."""
    qos_id: Id | None = None
    """Of the policy of quality of service of its ports that have none of their own."""

    @property
    def key(self) -> Key:
        return Key(Kind.VPC, self.id)


class SubnetGoal(msgspec.Struct, frozen=True, gc=False):
    """A subnet of the VPC; hosts answer for its gateway."""

    id: Id
    revision: int
    cidr: Prefix
    gateway: Ip | None
    dhcp: bool = False
    """Hosts answer its ports: DHCP, router advertisements, DNS, metadata."""
    nameservers: tuple[Ip, ...] = ()
    ra_mode: Ipv6Mode | None = None
    address_mode: Ipv6Mode | None = None
    host_routes: tuple[ExtraRoute, ...] = ()
    """What workloads are told to have beside the default route."""

    @property
    def key(self) -> Key:
        return Key(Kind.SUBNET, self.id)


class EndpointGoal(msgspec.Struct, frozen=True, gc=False):
    """Where a port of the VPC is. `id` is the port's."""

    id: Id
    revision: int
    mac: Mac
    ips: tuple[Ip, ...]
    host_ip: Ip
    identity: int = 0
    """What stands for its security groups (IdentityGoal); 0: none."""
    claims: tuple[Claim, ...] = ()
    """Other addresses that are there, each at a MAC of its own."""

    @property
    def key(self) -> Key:
        return Key(Kind.ENDPOINT, self.id)

    def places(self) -> tuple[Ip, ...]:
        """All the addresses that are there: its own, the link-local one of its MAC, what it claims."""
        ips = with_link_local(self.ips, self.mac)
        return ips + tuple([claim.ip for claim in self.claims]) if self.claims else ips

    def mac_at(self, ip: Ip) -> Mac:
        """The MAC at one of its addresses."""
        for claim in self.claims:
            if claim.ip == ip:
                return claim.mac
        return self.mac


class PortAddress(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One address of a port and the subnet it is in."""

    ip: Ip
    subnet_id: Id


class PortGoal(msgspec.Struct, frozen=True, gc=False):
    """A port that the host must carry."""

    id: Id
    revision: int
    vpc_id: Id
    mac: Mac
    addresses: tuple[PortAddress, ...]
    admin_state_up: bool
    kind: PortKind
    netns: str
    interface: str
    identity: int = 0
    """What stands for its security groups: its traffic is filtered by their rules. 0: it is not filtered."""
    port_security: bool = True
    """It sends from its own addresses and `pairs` only."""
    pairs: tuple[AddressPair, ...] = ()
    project_id: str = ""
    device_id: str = ""
    dns_name: str = ""
    dhcp_options: tuple[DhcpOption, ...] = ()
    qos_id: Id | None = None
    """Of its policy of quality of service; None: its VPC's."""
    eips: tuple[Eip, ...] = ()
    """What stands for its addresses outside, sorted."""
    forwardings: tuple[Forwarding, ...] = ()
    """What stands for ports of its addresses outside, sorted."""
    claims: tuple[Claim, ...] = ()
    """What of `pairs` is at the port now."""

    @property
    def key(self) -> Key:
        return Key(Kind.PORT, self.id)


class IdentityGoal(msgspec.Struct, frozen=True, gc=False):
    """The security groups that a number stands for in the VPC. `id` is the number, as 16 bytes, big-endian."""

    id: Id
    revision: int
    groups: tuple[Id, ...]

    @property
    def key(self) -> Key:
        return Key(Kind.IDENTITY, self.id)

    @property
    def number(self) -> int:
        return int.from_bytes(self.id, "big")


def identity_id(number: int) -> Id:
    """The id of the IdentityGoal of that number."""
    return Id(number.to_bytes(16, "big"))


class RuleGoal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one rule of a security group allows."""

    egress: bool
    version: int
    """4 or 6."""
    protocol: int | None
    first: int
    last: int
    """Destination ports, both included; for ICMP type << 8 | code. 0 and 65535: any."""
    prefix: Prefix | None
    group: Id | None
    """At most one of the two. Neither: anybody."""


class GroupGoal(msgspec.Struct, frozen=True, gc=False):
    """A security group that ports of the VPC are in, and its rules, in a fixed order.

    `revision` is that of the group, or of the oldest identity in the VPC that names it if that is newer: then it came
    into the VPC's scope.
    """

    id: Id
    revision: int
    rules: tuple[RuleGoal, ...]

    @property
    def key(self) -> Key:
        return Key(Kind.GROUP, self.id)


class NameGoal(msgspec.Struct, frozen=True, gc=False):
    """The name that a port of the VPC has in its domain, and the port's addresses. `id` is the port's."""

    id: Id
    revision: int
    name: str
    ips: tuple[Ip, ...]

    @property
    def key(self) -> Key:
        return Key(Kind.NAME, self.id)


class LimitGoal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A rate, in thousands of bits a second, and the thousands of bits that may go at once (0: chosen by the host)."""

    kbps: int
    burst_kbit: int


class QosGoal(msgspec.Struct, frozen=True, gc=False):
    """A policy of quality of service that ports of the VPC may have, or (`id` is a network's) that an external network
    has: then all is None while it has none.

    `revision` is that of the policy (which grows with its rules), or that of its binding to the VPC or of the external
    network if it is newer.
    """

    id: Id
    revision: int
    egress: LimitGoal | None
    """Of what a port sends."""
    ingress: LimitGoal | None
    dscp: int | None

    @property
    def key(self) -> Key:
        return Key(Kind.QOS, self.id)


class InterfaceGoal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A router's address in a subnet of a VPC."""

    vpc_id: Id
    subnet_id: Id
    cidr: Prefix
    ip: Ip


class SharedGoal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A router's address outside (IPv4), which hosts share by blocks of its ports (dataplane.base.SharedAddress)."""

    ip: Ip
    prefix_length: int
    gateway: Ip | None
    """Of the external subnet."""
    answerer: Ip | None
    """The tunnel end of the host that answers for it outside."""
    blocks: tuple[tuple[int, Ip], ...]
    """Block -> tunnel end of the host that has it; sorted."""


class Outside6Goal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where IPv6 leaves: the router's subnets inside `cidr` are open, outside with their own addresses."""

    cidr: Prefix
    """Of the external subnet."""
    gateway: Ip | None
    """Of the external subnet: where what is on no host is sent."""


class RouterGoal(msgspec.Struct, frozen=True, gc=False):
    """A router that is up, in the scope of every VPC that it has an interface in."""

    id: Id
    revision: int
    interfaces: tuple[InterfaceGoal, ...]
    routes: tuple[ExtraRoute, ...]
    outside: bool = False
    """It has a gateway: what is nowhere else is outside."""
    shared: SharedGoal | None = None
    """What ports without an address of their own outside have there."""
    outside6: Outside6Goal | None = None
    """None: IPv6 does not leave by it."""

    @property
    def key(self) -> Key:
        return Key(Kind.ROUTER, self.id)

    @property
    def vpcs(self) -> tuple[Id, ...]:
        """The VPCs that it connects, sorted."""
        return tuple(sorted({one.vpc_id for one in self.interfaces}))


class PeeringGoal(msgspec.Struct, frozen=True, gc=False):
    """Two VPCs whose subnets reach each other, in the scopes of both."""

    id: Id
    revision: int
    vpcs: tuple[Id, ...]
    """Sorted."""

    @property
    def key(self) -> Key:
        return Key(Kind.PEERING, self.id)


class ListenerGoal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A protocol (6 or 17) and port of a balancer's address, and who answers there (None: nobody)."""

    protocol: int
    port: int
    pool: Id | None


class BalancerGoal(msgspec.Struct, frozen=True, gc=False):
    """A load balancer: its address, the MAC that is given for it, and its listeners that are up, sorted."""

    id: Id
    revision: int
    vip: Ip
    mac: Mac
    listeners: tuple[ListenerGoal, ...]

    @property
    def key(self) -> Key:
        return Key(Kind.BALANCER, self.id)


class MonitorGoal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How the members of a pool are probed, by the host that each is on (model.balancing.HealthMonitor)."""

    type: str
    delay_s: int
    timeout_s: int
    rise: int
    fall: int
    http_method: str
    url_path: str
    expected_codes: str


class PoolGoal(msgspec.Struct, frozen=True, gc=False):
    """Members that answer for listeners. Not `enabled`: none of them does. `affinity`: a client has one member."""

    id: Id
    revision: int
    enabled: bool
    affinity: bool
    monitor: MonitorGoal | None

    @property
    def key(self) -> Key:
        return Key(Kind.POOL, self.id)


class MemberGoal(msgspec.Struct, frozen=True, gc=False):
    """A member of a pool. `weight` 0: it keeps its connections and gets no new ones; so does one that `failed`."""

    id: Id
    revision: int
    pool: Id
    ip: Ip
    port: int
    weight: int
    failed: bool

    @property
    def key(self) -> Key:
        return Key(Kind.MEMBER, self.id)


Goal = (
    VpcGoal
    | SubnetGoal
    | EndpointGoal
    | PortGoal
    | IdentityGoal
    | GroupGoal
    | RouterGoal
    | PeeringGoal
    | BalancerGoal
    | PoolGoal
    | MemberGoal
    | NameGoal
    | QosGoal
)


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """The object was deleted, or no longer belongs in this scope, as of `revision`."""

    kind: Kind
    id: Id
    revision: int
    successor: EndpointGoal | None = None
    """Of a port that went to another host: where it is now."""

    @property
    def key(self) -> Key:
        return Key(self.kind, self.id)


class ScopeUpdate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A change to one scope, or with `snapshot` the whole of it.

    `revision` says how far the update reaches: a snapshot replaces every object whose revision is not newer.
    Objects and tombstones are sorted by key.
    """

    scope: Id
    revision: int
    snapshot: bool
    objects: tuple[Goal, ...]
    tombstones: tuple[Tombstone, ...] = ()
    previous: int = 0
    """Of a delta: the revision of the scope's last change before it. Who holds less has missed something. 0: unsaid."""
    confirms: int | None = None
    """Of a delta that answers a Hello: who has merged it and then holds what has this digest holds the scope as of
    `revision`. Who holds something else needs the scope whole."""
    partial: bool = False
    """A VPC's scope but for its endpoints, which follow in a snapshot: for a host that holds nothing of it yet. Until
    then the host asks for endpoints, as in a VPC that is on demand."""
