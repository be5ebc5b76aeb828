"""Who is answered, and with what: records that the agent makes of goal state. Pure.

Called by the agent, which keeps a Directory of them, and by the answering functions of this room.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS, Ip, Mac, Prefix, link_local
from alcor.model.ids import Id
from alcor.model.nouns import DhcpOption, Ipv6Mode

ROUTER_LINK_LOCAL = link_local(ROUTER_MAC)
"""Where router advertisements and DHCPv6 answers come from, on every host."""
LEASE_S = 86_400
"""Neutron's dhcp_lease_duration."""


class Lease(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An address of a port in a subnet whose ports are answered."""

    ip: Ip
    cidr: Prefix
    gateway: Ip | None
    nameservers: tuple[Ip, ...] = ()
    """Empty: the host itself."""
    ra_mode: Ipv6Mode | None = None
    address_mode: Ipv6Mode | None = None
    routes: tuple[tuple[Prefix, Ip], ...] = ()
    """(destination, next hop): the subnet's host routes."""


class Client(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A port of this host that is answered."""

    id: Id
    vpc: Id
    partition: int
    mac: Mac
    mtu: int
    routed: bool
    """Gateways are the host's own."""
    domain: str
    """With a dot at its end."""
    hostname: str
    """Its dns_name; empty: it has none."""
    project_id: str
    device_id: str
    leases: tuple[Lease, ...]
    options: tuple[DhcpOption, ...] = ()

    def of_version(self, version: int) -> list[Lease]:
        """Its leases of a family."""
        return [lease for lease in self.leases if lease.cidr.version == version]

    def gateway_of(self, lease: Lease) -> Ip:
        """Where the port finds its host: the gateway, when that is the host's own, else the service address."""
        return lease.gateway if lease.gateway is not None and self.routed else SERVICE_IPS[lease.cidr.version == 6]


class Zone(Protocol):
    """The names of a VPC. Any thread may ask."""

    def addresses(self, name: str) -> tuple[Ip, ...]:
        """Of the ports with that name (lower case, without the domain); none: there is no such port."""
        ...

    def name(self, ip: Ip) -> str:
        """Of the port with that address; empty: it has none, or there is no such port."""
        ...

    def contains(self, ip: Ip) -> bool:
        """The address is in one of the VPC's subnets."""
        ...


class Clients(Protocol):
    """The ports that are answered, and their VPCs' names. Any thread may ask."""

    def client(self, port: Id) -> Client | None:
        """None: the port is not here, or is not answered."""
        ...

    def zone(self, client: Client) -> Zone:
        """The names of the port's VPC."""
        ...

    def advertised(self) -> list[Client]:
        """Those that get router advertisements, sorted by id."""
        ...
