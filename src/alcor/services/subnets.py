"""Subnets: create, change, delete, and the rules of CIDRs, gateways and allocation pools. Pure.

Called by services.dispatch. Messages are Neutron's where Neutron has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from msgspec import UnsetType
from msgspec.structs import replace

from alcor.model.addresses import Ip, Prefix, format_ip, ip_from_int, ip_to_int, ip_version, parse_prefix
from alcor.model.ids import Id, format_id
from alcor.model.nouns import ExtraRoute, Ipv6Mode, Network, Pool, Router, Subnet
from alcor.services.commands import CreateSubnets, DeleteSubnet, SubnetSpec, UpdateSubnet
from alcor.services.errors import (
    GatewayConflictWithAllocationPools,
    GatewayIpInUse,
    HostRoutesExhausted,
    InvalidAllocationPool,
    InvalidInput,
    IpAddressAlreadyAllocated,
    OutOfBoundsAllocationPool,
    OverlappingAllocationPools,
    SubnetInUse,
    SubnetNotFound,
)
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.networks import LINK_LENGTH, check_external_subnet, find_network
from alcor.services.reach import find_clash, near
from alcor.services.revisions import changed_fields, check_if_match
from alcor.store.base import Changes

MAX_HOST_ROUTES = 20
"""Of one subnet, as Neutron's default."""
_OUTSIDE_SHORTEST = 16
"""Of an external IPv6 subnet: more than the world gives to anybody."""
_EUI64_LENGTH = 64
_NOT_FOR_HOSTS = tuple(parse_prefix(text) for text in ("::/64", "fe80::/10", "ff00::/8"))
"""IPv6: unspecified, loopback and v4-mapped; link-local, which every port has by itself; groups (RFC 4291)."""
_FIELDS = ("name", "description", "gateway", "pools", "enable_dhcp", "dns_nameservers", "host_routes")
_LINK_LOCAL = parse_prefix("fe80::/10")
_DHCP_LONGEST = 30
"""A DHCP server needs room for itself and a client beside network and broadcast (Neutron's rule)."""


def find_subnet(indexes: Indexes, subnet_id: Id) -> Subnet:
    """The subnet of an id. Raises SubnetNotFound."""
    subnet = indexes.subnets.get(subnet_id)
    if subnet is None:
        raise SubnetNotFound(f"Subnet {format_id(subnet_id)} could not be found.")
    return subnet


def create_subnets(indexes: Indexes, command: CreateSubnets, stamp: Stamp) -> Outcome:
    """Makes the subnets; they must not overlap inside a network, those of the same command included."""
    made: list[Subnet] = []
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        network = find_network(indexes, spec.network_id)
        siblings = indexes.subnets_of.get(network.id, {}).values()
        _check_cidr(network, spec, siblings, (subnet for subnet in made if subnet.network_id == network.id))
        if network.external:
            automatic = spec.ra_mode or spec.address_mode
            outer = [subnet for subnet in made if indexes.networks[subnet.network_id].external]
            check_external_subnet(indexes, network.id, spec.cidr, automatic=automatic, made=outer)
        gateway = _gateway_of(network, spec.cidr, spec.gateway)
        pools = default_pools(spec.cidr, gateway) if spec.pools is None else spec.pools
        check_pools(spec.cidr, gateway, pools)
        made.append(
            Subnet(
                id=identifier,
                network_id=network.id,
                project_id=spec.project_id,
                name=spec.name,
                description=spec.description,
                cidr=spec.cidr,
                gateway=gateway,
                pools=pools,
                enable_dhcp=spec.enable_dhcp,
                dns_nameservers=spec.dns_nameservers,
                host_routes=check_host_routes(spec.cidr, gateway, spec.host_routes),
                ra_mode=spec.ra_mode,
                address_mode=spec.address_mode,
                created_at=stamp.now,
                updated_at=stamp.now,
                revision=stamp.revision,
            )
        )
    networks = {near_id for subnet in made for near_id in near(indexes, subnet.network_id)}
    clash = find_clash(indexes, sorted(networks), subnets=made)
    if clash is not None:
        raise InvalidInput(
            f"Invalid input for operation: Requested subnet with cidr: {clash.one_cidr} overlaps with "
            f"{clash.other_cidr}: network {format_id(clash.network_id)} would reach both, by a router or a peering."
        )
    return Outcome(tuple(made), Changes(subnets=made))


def update_subnet(indexes: Indexes, command: UpdateSubnet, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_subnet(indexes, command.id)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, _FIELDS)
    if not fields:
        return Outcome(before, Changes())
    if fields.get("enable_dhcp"):
        _check_dhcp(before.cidr)
    if "enable_dhcp" in fields:
        check_modes(before.cidr, before.ra_mode, before.address_mode, enable_dhcp=fields["enable_dhcp"])
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    if "gateway" in fields and indexes.networks[before.network_id].external and len(indexes.addresses(before)):
        raise SubnetInUse(
            f"Unable to complete operation on subnet {format_id(before.id)}: hosts send through its gateway_ip what "
            "comes from floating IPs and routers that have an address in it."
        )
    if "gateway" in fields and after.gateway is not None:
        _check_gateway(indexes.networks[before.network_id], after.cidr, after.gateway)
        own = after.gateway in after.cidr
        if own and ip_to_int(after.gateway) - after.cidr.first in indexes.addresses(before):
            raise IpAddressAlreadyAllocated(
                f"IP address {format_ip(after.gateway)} already allocated in subnet {format_id(after.id)}: "
                "gateway_ip cannot be a port's address."
            )
    if "gateway" in fields:
        _check_router(indexes, before)
    if "gateway" in fields or "host_routes" in fields:
        check_host_routes(after.cidr, after.gateway, after.host_routes)
    if "gateway" in fields or "pools" in fields:
        check_pools(after.cidr, after.gateway, after.pools)
        _check_open(indexes, after)
    return Outcome(after, Changes(subnets=[after]))


def delete_subnet(indexes: Indexes, command: DeleteSubnet, stamp: Stamp) -> Outcome:
    """Deletes a subnet in which no port has an address."""
    subnet = find_subnet(indexes, command.id)
    check_if_match(subnet, command.if_match)
    if len(indexes.addresses(subnet)):
        raise SubnetInUse(
            f"Unable to complete operation on subnet {format_id(subnet.id)}: "
            "One or more ports have an IP allocation from this subnet."
        )
    return Outcome(None, Changes(deleted_subnets=[subnet]))


def check_host_routes(cidr: Prefix, gateway: Ip | None, routes: tuple[ExtraRoute, ...]) -> tuple[ExtraRoute, ...]:
    """The routes that workloads of the subnet are told. Raises InvalidInput for what they could not follow."""
    if len(routes) > MAX_HOST_ROUTES:
        raise HostRoutesExhausted(
            f"Unable to complete operation. The number of host routes exceeds the limit {MAX_HOST_ROUTES}."
        )
    for route in routes:
        text = f"{route.destination} via {'nowhere' if route.nexthop is None else format_ip(route.nexthop)}"
        if (
            route.nexthop is None
            or ip_version(route.nexthop) != cidr.version
            or route.destination.version != cidr.version
        ):
            raise InvalidInput(f"Invalid input for operation: host route {text} is not of {cidr}'s family.")
        if route.nexthop != gateway:
            raise InvalidInput(
                f"Invalid input for operation: host route {text}: its nexthop must be the subnet's gateway_ip. A way "
                "through a port is a route of a router."
            )
    return routes


def _check_open(indexes: Indexes, subnet: Subnet) -> None:
    """Raises InvalidInput for pools of an external subnet that would have addresses of an open one."""
    for pool in subnet.pools if indexes.networks[subnet.network_id].external else ():
        taken = indexes.open_subnets.sharing(pool.first, pool.last)
        if taken is not None:
            raise InvalidInput(
                f"Invalid input for operation: allocation pool {_text(pool)} of subnet {format_id(subnet.id)} "
                f"({subnet.cidr}) overlaps with cidr {taken.cidr}, which a router leads outside."
            )


def _check_router(indexes: Indexes, subnet: Subnet) -> None:
    """Raises GatewayIpInUse while a router has the gateway's address."""
    for road in indexes.roads(subnet.network_id):
        for one in road.interfaces if isinstance(road, Router) else ():
            if one.subnet_id == subnet.id and one.ip == subnet.gateway:
                raise GatewayIpInUse(
                    f"Current gateway ip {format_ip(one.ip)} already in use by port {format_id(one.port_id)}. Unable "
                    "to update."
                )


def usable(cidr: Prefix, ip: Ip) -> bool:
    """True when a port or gateway may have the address: in the CIDR, neither its network nor broadcast address. Of an
    IPv6 CIDR shorter than /64 its first /64 is for that, the rest for tenants' subnets."""
    if ip not in cidr:
        return False
    offset = ip_to_int(ip) - cidr.first
    if cidr.version == 6:
        return cidr.size <= 2 or 0 < offset < 1 << (128 - LINK_LENGTH)
    return cidr.size <= 2 or 0 < offset < cidr.size - 1


def default_pools(cidr: Prefix, gateway: Ip | None) -> tuple[Pool, ...]:
    """Every usable address but the gateway, as Neutron has it."""
    margin = 0 if cidr.size <= 2 else 1
    first, last = cidr.first + margin, cidr.first + cidr.size - 1 - (margin if cidr.version == 4 else 0)
    if cidr.version == 6:
        last = min(last, cidr.first + (1 << (128 - LINK_LENGTH)) - 1)
    spans = [(first, last)]
    if gateway is not None and gateway in cidr:
        at = ip_to_int(gateway)
        spans = [(first, at - 1), (at + 1, last)]
    return tuple(
        Pool(ip_from_int(low, cidr.version), ip_from_int(high, cidr.version)) for low, high in spans if low <= high
    )


def check_pools(cidr: Prefix, gateway: Ip | None, pools: Sequence[Pool]) -> None:
    """Raises unless the pools lie inside the CIDR, apart from each other and from the gateway."""
    spans: list[tuple[int, int, Pool]] = []
    for pool in pools:
        if ip_version(pool.first) != cidr.version or ip_version(pool.last) != cidr.version:
            raise InvalidAllocationPool(
                f"The allocation pool {_text(pool)} is not valid: it is not of {cidr}'s family."
            )
        low, high = ip_to_int(pool.first), ip_to_int(pool.last)
        if low > high:
            raise InvalidAllocationPool(f"The allocation pool {_text(pool)} is not valid: it ends before it starts.")
        if not usable(cidr, pool.first) or not usable(cidr, pool.last):
            raise OutOfBoundsAllocationPool(f"The allocation pool {_text(pool)} spans beyond the subnet cidr {cidr}.")
        spans.append((low, high, pool))
    spans.sort(key=lambda span: span[:2])
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start <= end:
            raise OverlappingAllocationPools(
                f"Found overlapping allocation pools: {_text(one)} {_text(other)} for subnet {cidr}."
            )
    if gateway is not None:
        at = ip_to_int(gateway)
        for low, high, pool in spans:
            if low <= at <= high:
                raise GatewayConflictWithAllocationPools(
                    f"Gateway ip {format_ip(gateway)} conflicts with allocation pool {_text(pool)}."
                )


def _gateway_of(network: Network, cidr: Prefix, wanted: Ip | UnsetType | None) -> Ip | None:
    if isinstance(wanted, UnsetType):
        # A point-to-point link (RFC 3021) has no address to spare for a gateway.
        return None if cidr.size <= 2 else ip_from_int(cidr.first + 1, cidr.version)
    if wanted is not None:
        _check_gateway(network, cidr, wanted)
    return wanted


def _check_gateway(network: Network, cidr: Prefix, gateway: Ip) -> None:
    """It is in the subnet; an external subnet that is only routed to hosts has one elsewhere on their wire."""
    elsewhere = network.external and ip_version(gateway) == cidr.version and gateway not in cidr
    if elsewhere and gateway not in _LINK_LOCAL:
        alone = Prefix(gateway, 32) if cidr.version == 4 else Prefix(gateway, 128, 6)
        _check_range(alone, f"Gateway is not valid on subnet: gateway_ip {format_ip(gateway)}")
    elif not elsewhere and not usable(cidr, gateway):
        raise InvalidInput(
            f"Invalid input for operation: Gateway is not valid on subnet: gateway_ip {format_ip(gateway)} is not a "
            f"usable address of {cidr}."
        )


def _check_dhcp(cidr: Prefix) -> None:
    if cidr.version == 4 and cidr.length > _DHCP_LONGEST:
        raise InvalidInput(
            f"Invalid input for operation: Invalid CIDR {cidr} for subnet: its prefix length is incompatible with "
            f"enable_dhcp, which needs /{_DHCP_LONGEST} or shorter."
        )


def check_modes(cidr: Prefix, ra_mode: Ipv6Mode | None, address_mode: Ipv6Mode | None, *, enable_dhcp: bool) -> None:
    """Raises InvalidInput for IPv6 modes that do not go together (Neutron's rules)."""
    if ra_mode is None and address_mode is None:
        return
    if cidr.version == 4:
        name = "ipv6_ra_mode" if ra_mode is not None else "ipv6_address_mode"
        raise InvalidInput(f"Invalid input for operation: {name} is not valid when ip_version is 4.")
    if not enable_dhcp:
        raise InvalidInput(
            "Invalid input for operation: ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to "
            "False."
        )
    if ra_mode is not None and address_mode is not None and ra_mode is not address_mode:
        raise InvalidInput(
            f"Invalid input for operation: ipv6_ra_mode set to '{ra_mode}' with ipv6_address_mode set to "
            f"'{address_mode}' is not valid. If both attributes are set, they must be the same value."
        )
    if Ipv6Mode.STATEFUL not in (ra_mode, address_mode) and cidr.length != _EUI64_LENGTH:
        raise InvalidInput(
            f"Invalid input for operation: Invalid CIDR {cidr} for IPv6 address mode. OpenStack uses the EUI-64 "
            f"address format, which requires the prefix to be /{_EUI64_LENGTH}."
        )


def _check_range(cidr: Prefix, problem: str, shortest: int = LINK_LENGTH) -> None:
    """Raises InvalidInput, which begins with the problem, for addresses that hosts cannot have, and for IPv6 prefixes
    that are shorter than that."""
    if cidr.version == 4:
        top = cidr.first >> 24
        if cidr.length == 0 or top == 0 or top == 127 or top >= 224:
            raise InvalidInput(
                f"Invalid input for operation: {problem}: hosts cannot have addresses of "
                "0.0.0.0/8, 127.0.0.0/8, or 224.0.0.0 and above."
            )
        return
    if cidr.length < shortest:
        raise InvalidInput(f"Invalid input for operation: {problem}: an IPv6 subnet is /{shortest} or longer.")
    if any(cidr.overlaps(other) for other in _NOT_FOR_HOSTS):
        raise InvalidInput(
            f"Invalid input for operation: {problem}: hosts cannot have addresses of "
            f"{', '.join(map(str, _NOT_FOR_HOSTS))}."
        )


def _check_cidr(network: Network, spec: SubnetSpec, siblings: Iterable[Subnet], made: Iterable[Subnet]) -> None:
    cidr = spec.cidr
    shortest = _OUTSIDE_SHORTEST if network.external else LINK_LENGTH
    _check_range(cidr, f"Invalid CIDR {cidr} for subnet", shortest)
    if spec.enable_dhcp:
        _check_dhcp(cidr)
    check_modes(cidr, spec.ra_mode, spec.address_mode, enable_dhcp=spec.enable_dhcp)
    if network.cidr is not None and cidr.version == network.cidr.version and not network.cidr.covers(cidr):
        raise InvalidInput(
            f"Invalid input for operation: Requested subnet with cidr: {cidr} is not inside cidr {network.cidr} of "
            f"network: {format_id(network.id)}."
        )
    for others in (siblings, made):
        for other in others:
            if other.cidr.overlaps(cidr):
                raise InvalidInput(
                    f"Invalid input for operation: Requested subnet with cidr: {cidr} for network: "
                    f"{format_id(network.id)} overlaps with another subnet."
                )


def _text(pool: Pool) -> str:
    return f"{format_ip(pool.first)}-{format_ip(pool.last)}"
