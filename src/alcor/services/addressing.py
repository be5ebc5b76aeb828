"""Which addresses and MACs a command's ports get: collects what they ask, then plans each allocator once. Pure.

Called by services.ports. A bulk is planned as a whole: addresses that are named come first, so one that Alcor chooses
never takes one that a later port of the same request names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alcor.model.addresses import ROUTER_MAC, Ip, Mac, format_ip, format_mac, ip_to_int, link_local
from alcor.model.allocation import (
    Allocation,
    Allocator,
    Exhausted,
    Taken,
    addresses_at,
    mac_from_int,
    mac_to_int,
)
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FixedIp, Network, Port, Subnet
from alcor.services.commands import FixedIpSpec
from alcor.services.errors import (
    AllocationOnAutoAddressSubnet,
    InvalidInput,
    InvalidIpForNetwork,
    InvalidIpForSubnet,
    IpAddressAlreadyAllocated,
    IpAddressGenerationFailure,
    MacAddressGenerationFailure,
    MacAddressInUse,
)
from alcor.services.indexes import Indexes
from alcor.services.subnets import usable

MAX_FIXED_IPS = 5
"""Addresses of one port, as Neutron's `max_fixed_ips_per_port`."""

ROUTER_OWNER = "network:router"
"""Ports of routers have whatever addresses they are given."""

Want = tuple[Subnet, int | None]
"""An address of that subnet: the one at that offset, or any."""


class SubnetDemand:
    """What one command asks of one subnet."""

    __slots__ = ("count", "exact", "release", "subnet")

    def __init__(self, subnet: Subnet) -> None:
        self.subnet = subnet
        self.exact: list[int] = []
        self.count = 0
        self.release: list[int] = []


class NetworkDemand:
    """What one command asks of one network: MACs, addresses in named subnets, and addresses anywhere."""

    __slots__ = ("anywhere", "exact_macs", "mac_count", "network", "released_macs", "subnets", "versions")

    def __init__(self, network: Network) -> None:
        self.network = network
        self.exact_macs: list[int] = []
        self.mac_count = 0
        self.released_macs: list[int] = []
        self.anywhere = 0
        self.versions: tuple[int, ...] = (4, 6)
        """Of what is anywhere: one address of each, if the network has subnets of it."""
        self.subnets: dict[Id, SubnetDemand] = {}

    def subnet(self, subnet: Subnet) -> SubnetDemand:
        """The demand on one subnet."""
        demand = self.subnets.get(subnet.id)
        if demand is None:
            demand = self.subnets[subnet.id] = SubnetDemand(subnet)
        return demand

    def take_mac(self, mac: Mac) -> None:
        """Asks for that very MAC. Raises InvalidInput for one that no interface can have."""
        if mac[0] & 1 or mac == b"\0\0\0\0\0\0" or mac == ROUTER_MAC:
            raise InvalidInput(
                f"Invalid input for operation: mac_address {format_mac(mac)} is not usable: it is a group address, "
                "zero, or the router's."
            )
        self.exact_macs.append(mac_to_int(mac))

    def take_addresses(self, wants: Sequence[Want]) -> None:
        """Asks for these addresses."""
        for subnet, offset in wants:
            demand = self.subnet(subnet)
            if offset is None:
                demand.count += 1
            else:
                demand.exact.append(offset)

    def release(self, indexes: Indexes, port: Port, *, mac: bool, kept: Sequence[FixedIp] = ()) -> None:
        """Gives back what the port has, except the addresses in `kept`, and its MAC only with `mac`."""
        if mac:
            self.released_macs.append(mac_to_int(port.mac))
        for fixed_ip in port.fixed_ips:
            if fixed_ip not in kept:
                subnet = indexes.subnets[fixed_ip.subnet_id]
                self.subnet(subnet).release.append(ip_to_int(fixed_ip.ip) - subnet.cidr.first)


class Supply:
    """What the allocators answered, to be dealt out port by port in the order of the specs."""

    def __init__(
        self, macs: Iterator[int], anywhere: Sequence[Iterator[FixedIp]], chosen: dict[Id, Iterator[FixedIp]]
    ) -> None:
        """`anywhere`: one source for each family that the network has."""
        self._macs = macs
        self._anywhere = anywhere
        self._chosen = chosen

    def mac(self) -> Mac:
        """The next MAC."""
        return mac_from_int(next(self._macs))

    def default_addresses(self) -> tuple[FixedIp, ...]:
        """One address of each family, from any subnet; none if the network has no subnet."""
        if len(self._anywhere) == 1:
            return (next(self._anywhere[0]),)
        return tuple([next(source) for source in self._anywhere])

    def addresses(self, wants: Sequence[Want]) -> tuple[FixedIp, ...]:
        """The addresses wanted."""
        found = []
        for subnet, offset in wants:
            if offset is None:
                found.append(next(self._chosen[subnet.id]))
            else:
                found.append(FixedIp(subnet.id, addresses_at(subnet.cidr, (offset,))[0]))
        return tuple(found)


def resolve(indexes: Indexes, network: Network, specs: Sequence[FixedIpSpec], *, bound: bool) -> list[Want]:
    """The subnet and offset that each spec means. A port that is bound to a host has no gateway's address: that is a
    router's. Raises InvalidInput, InvalidIpForNetwork, InvalidIpForSubnet."""
    if len(specs) > MAX_FIXED_IPS:
        raise InvalidInput(
            f"Invalid input for operation: Exceeded maximum amount of fixed ips per port: fixed_ips has {len(specs)}, "
            f"at most {MAX_FIXED_IPS} are possible."
        )
    return [_resolve_one(indexes, network, spec, bound) for spec in specs]


def supply(indexes: Indexes, demand: NetworkDemand) -> tuple[Supply, list[tuple[Allocator, Allocation]]]:
    """Plans every allocator that the demand touches. Raises the errors of exhaustion and of duplicates."""
    macs = indexes.macs(demand.network.id)
    allocations = [(macs, _plan_macs(demand, macs))]
    spread = [_spread(indexes, demand, version) for version in demand.versions]
    chosen: dict[Id, Iterator[FixedIp]] = {}
    for subnet_demand in demand.subnets.values():
        subnet = subnet_demand.subnet
        allocator = indexes.addresses(subnet)
        allocation = _plan_addresses(subnet_demand, allocator)
        allocations.append((allocator, allocation))
        identifier = subnet.id
        chosen[identifier] = iter([FixedIp(identifier, ip) for ip in addresses_at(subnet.cidr, allocation.chosen)])
    anywhere = [_deal(shares, chosen) for shares in spread if shares]
    return Supply(iter(allocations[0][1].chosen), anywhere, chosen), allocations


def automatic_subnets(indexes: Indexes, network_id: Id) -> list[Subnet]:
    """The subnets in which every port has the address that its MAC makes."""
    return [subnet for subnet in indexes.subnets_of.get(network_id, {}).values() if subnet.automatic]


def draw_macs(indexes: Indexes, demand: NetworkDemand) -> Iterator[int]:
    """The MACs that `supply` is going to choose, in their order. Raises its errors."""
    return iter(_plan_macs(demand, indexes.macs(demand.network.id)).chosen)


def settle(wants: Sequence[Want], mac: Mac, device_owner: str) -> list[Want]:
    """The wants with the addresses that the MAC makes, where subnets give out no others. Raises
    AllocationOnAutoAddressSubnet."""
    own = int.from_bytes(link_local(mac)[8:], "big")
    settled: list[Want] = []
    for subnet, offset in wants:
        if subnet.automatic and not device_owner.startswith(ROUTER_OWNER):
            if offset not in (None, own):
                raise AllocationOnAutoAddressSubnet(
                    f"IPv6 address {_text(subnet, offset or 0)} cannot be directly assigned to a port on subnet "
                    f"{format_id(subnet.id)} as the subnet is configured for automatic addresses."
                )
            offset = own
        settled.append((subnet, offset))
    return settled


def _resolve_one(indexes: Indexes, network: Network, spec: FixedIpSpec, bound: bool) -> Want:
    subnets = indexes.subnets_of.get(network.id, {})
    if spec.subnet_id is not None:
        subnet = subnets.get(spec.subnet_id)
        if subnet is None:
            raise InvalidInput(
                f"Invalid input for operation: Failed to create port on network {format_id(network.id)}, because "
                f"fixed_ips included invalid subnet {format_id(spec.subnet_id)}."
            )
        if spec.ip is None:
            return subnet, None
        if not usable(subnet.cidr, spec.ip):
            raise InvalidIpForSubnet(
                f"IP address {format_ip(spec.ip)} is not a valid IP for the specified subnet "
                f"{format_id(subnet.id)} ({subnet.cidr})."
            )
    else:
        if spec.ip is None:
            raise InvalidInput("Invalid input for operation: an entry of fixed_ips needs subnet_id or ip_address.")
        subnet = next((subnet for subnet in subnets.values() if usable(subnet.cidr, spec.ip)), None)
        if subnet is None:
            raise InvalidIpForNetwork(
                f"IP address {format_ip(spec.ip)} is not a valid IP for any of the subnets on the specified network "
                f"{format_id(network.id)}."
            )
    if bound and spec.ip == subnet.gateway:
        raise gateway_error(subnet)
    return subnet, ip_to_int(spec.ip) - subnet.cidr.first


def gateway_error(subnet: Subnet) -> InvalidIpForSubnet:
    """A port on a host cannot have the subnet's gateway address."""
    text = format_ip(subnet.gateway) if subnet.gateway is not None else ""
    return InvalidIpForSubnet(
        f"IP address {text} is the gateway_ip of subnet {format_id(subnet.id)}: no port on a host can have it."
    )


def _plan_macs(demand: NetworkDemand, macs: Allocator) -> Allocation:
    try:
        return macs.plan(demand.mac_count, exact=demand.exact_macs, release=demand.released_macs)
    except Taken as taken:
        raise MacAddressInUse(
            f"Unable to complete operation for network {format_id(demand.network.id)}. "
            f"The mac address {format_mac(mac_from_int(taken.value))} is in use."
        ) from None
    except Exhausted:
        raise MacAddressGenerationFailure(
            f"Unable to generate unique mac on network {format_id(demand.network.id)}."
        ) from None


def _plan_addresses(demand: SubnetDemand, allocator: Allocator) -> Allocation:
    try:
        return allocator.plan(demand.count, exact=demand.exact, release=demand.release)
    except Taken as taken:
        ip = _text(demand.subnet, taken.value)
        raise IpAddressAlreadyAllocated(
            f"IP address {ip} already allocated in subnet {format_id(demand.subnet.id)}."
        ) from None
    except Exhausted as exhausted:
        raise IpAddressGenerationFailure(
            f"No more IP addresses available on network {format_id(demand.subnet.network_id)}: subnet "
            f"{format_id(demand.subnet.id)} ({demand.subnet.cidr}) has {exhausted.free} left in its allocation pools, "
            f"{demand.count} are needed."
        ) from None


def _spread(indexes: Indexes, demand: NetworkDemand, version: int) -> list[tuple[Id, int]]:
    """Shares the addresses that may be anywhere out over the network's subnets of a family, first subnet first."""
    if not demand.anywhere:
        return []
    known = indexes.subnets_of.get(demand.network.id, {}).values()
    subnets = [subnet for subnet in known if subnet.cidr.version == version and not subnet.automatic]
    if not subnets:
        return []
    shares: list[tuple[Id, int]] = []
    missing = demand.anywhere
    for subnet in subnets:
        subnet_demand = demand.subnet(subnet)
        try:
            indexes.addresses(subnet).plan(subnet_demand.count + missing, exact=subnet_demand.exact)
            share = missing
        except Exhausted as exhausted:
            share = max(0, exhausted.free - subnet_demand.count)
        except Taken:
            share = 0  # _plan_addresses refuses the command, with the words for it.
        subnet_demand.count += share
        shares.append((subnet.id, share))
        missing -= share
        if not missing:
            return shares
    raise IpAddressGenerationFailure(
        f"No more IP addresses available on network {format_id(demand.network.id)}: its {len(subnets)} IPv{version} "
        f"subnets lack {missing} of the {demand.anywhere} that are needed. Add a subnet."
    )


def _deal(spread: list[tuple[Id, int]], chosen: dict[Id, Iterator[FixedIp]]) -> Iterator[FixedIp]:
    for subnet_id, share in spread:
        source = chosen[subnet_id]
        for _ in range(share):
            yield next(source)


def _text(subnet: Subnet, offset: int) -> str:
    return format_ip(Ip(addresses_at(subnet.cidr, (offset,))[0]))
