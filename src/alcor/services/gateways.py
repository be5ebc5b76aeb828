"""Where routers leave for outside: their gateways on external networks. Pure: called by routers.

A gateway is in its router's row; it is a port of the external network as well, which has the addresses and shows them.
IPv4 addresses of subnets are translated on the way out. IPv6 ones are not: a router's subnets inside the external one
are open (services.open_subnets), the others stay inside. Words and messages are Neutron's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from alcor.model.addresses import format_ip, ip_from_int, ip_to_int, ip_version
from alcor.model.allocation import Allocation, Allocator, addresses_at
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FixedIp, Network, Outside6, Port, Router, RouterGateway, RouterInterface, Subnet
from alcor.services.addressing import NetworkDemand, Supply, Want, resolve, supply
from alcor.services.commands import GatewaySpec
from alcor.services.errors import BadRequest, RouterExternalGatewayInUseByFloatingIp
from alcor.services.floating_ips import service_port
from alcor.services.indexes import Indexes, Stamp
from alcor.services.networks import find_network
from alcor.store.base import Changes

OWNER = "network:router_gateway"
Allocations = tuple[tuple[Allocator, Allocation], ...]


def with_gateway(
    indexes: Indexes, ports: Mapping[Id, Port], router: Router, spec: GatewaySpec | None, stamp: Stamp, changes: Changes
) -> tuple[Router, Allocations]:
    """The router with that gateway (None: without one), the ports that this makes, changes and unmakes in `changes`."""
    old = router.gateway
    if spec is None:
        if old is None:
            return router, ()
        _check_unused(indexes, router, old)
        changes.deleted_ports.append(ports[old.port_id])
        return replace(router, gateway=None), _plan(indexes, {old.network_id: _given_back(indexes, ports, old)})
    network = find_network(indexes, spec.network_id)
    if not network.external:
        raise BadRequest(f"Bad router request: Network {format_id(network.id)} is not an external network.")
    asked = _asked(indexes, network, old, spec)
    if old is not None and old.network_id == network.id:
        if not asked.wants and not asked.anywhere and asked.kept == old.addresses:
            return replace(router, gateway=_sharing(indexes, old, spec.enable_snat)), ()
        if old.ip is None or any(one.ip == old.ip for one in asked.kept):
            gateway, allocations = _changed(indexes, ports[old.port_id], old, asked, stamp, changes)
            return _checked(indexes, router, _sharing(indexes, gateway, spec.enable_snat)), allocations
    demands: dict[Id, NetworkDemand] = {}
    if old is not None:
        _check_unused(indexes, router, old)
        changes.deleted_ports.append(ports[old.port_id])
        demands[old.network_id] = _given_back(indexes, ports, old)
    demand = demands.setdefault(network.id, NetworkDemand(network))
    demand.mac_count = 1
    source, planned = asked.supplied(indexes, demand, [_exactly(indexes, one) for one in asked.kept])
    found = asked.addresses(source)
    if not found:
        raise BadRequest(f"Bad router request: Network {format_id(network.id)} does not contain any subnet.")
    (identifier,) = stamp.spare(1)
    changes.new_ports.append(service_port(identifier, network.id, source.mac(), found, OWNER, router.id, stamp))
    gateway = _at(indexes, RouterGateway(identifier, network.id, None, None), found)
    others = {one: other for one, other in demands.items() if other is not demand}
    after = _checked(indexes, router, _sharing(indexes, gateway, spec.enable_snat))
    return after, (*planned, *_plan(indexes, others))


class _Asked(NamedTuple):
    """What a gateway is to have."""

    kept: tuple[FixedIp, ...]
    """Of what it has."""
    wants: list[Want]
    anywhere: tuple[int, ...]
    """Families of which it is to have any address that there is."""

    def supplied(
        self, indexes: Indexes, demand: NetworkDemand, again: list[Want]
    ) -> tuple[Supply, list[tuple[Allocator, Allocation]]]:
        """Plans what is new, and `again` what is given back and taken at once."""
        demand.take_addresses([*again, *self.wants])
        demand.anywhere, demand.versions = int(bool(self.anywhere)), self.anywhere
        return supply(indexes, demand)

    def addresses(self, source: Supply) -> tuple[FixedIp, ...]:
        """All, IPv4 first."""
        new = (*source.addresses(self.wants), *(source.default_addresses() if self.anywhere else ()))
        return tuple(sorted((*self.kept, *new), key=lambda one: ip_version(one.ip)))


def _asked(indexes: Indexes, network: Network, old: RouterGateway | None, spec: GatewaySpec) -> _Asked:
    """What it has of what is asked for it keeps; of a family that nothing is said of, too, unless something is said of
    the other."""
    wants = resolve(indexes, network, spec.addresses, bound=True)
    by_family = {subnet.ip_version: (subnet, offset) for subnet, offset in wants}
    if len(by_family) != len(wants):
        raise BadRequest("Bad router request: external_fixed_ips: a router has one address of each family.")
    has = {} if old is None or old.network_id != network.id else {ip_version(one.ip): one for one in old.addresses}
    kept, new, anywhere = [], [], []
    for version in (4, 6):
        one, want = has.get(version), by_family.get(version)
        if want is not None:
            subnet, offset = want
            if one is not None and one.subnet_id == subnet.id and offset in (None, _exactly(indexes, one)[1]):
                kept.append(one)
                continue
            if offset is not None and version == 6:
                _check_pooled(subnet, offset)
            new.append(want)
        elif one is not None and not wants:
            kept.append(one)
        elif not wants and any(subnet.ip_version == version for subnet in _subnets(indexes, network)):
            anywhere.append(version)
    return _Asked(tuple(kept), new, tuple(anywhere))


def _changed(
    indexes: Indexes, port: Port, old: RouterGateway, asked: _Asked, stamp: Stamp, changes: Changes
) -> tuple[RouterGateway, Allocations]:
    """The same gateway and port, with another address beside what it keeps."""
    demand = NetworkDemand(indexes.networks[old.network_id])
    demand.release(indexes, port, mac=False, kept=asked.kept)
    source, allocations = asked.supplied(indexes, demand, [])
    found = asked.addresses(source)
    after = replace(port, fixed_ips=found, updated_at=stamp.now, revision=stamp.revision)
    changes.changed_ports.append((port, after))
    return _at(indexes, old, found), tuple(allocations)


def _at(indexes: Indexes, gateway: RouterGateway, addresses: tuple[FixedIp, ...]) -> RouterGateway:
    """The gateway with these addresses."""
    subnet_id = ip = outside6 = None
    for one in addresses:
        if ip_version(one.ip) == 4:
            subnet_id, ip = one.subnet_id, one.ip
        else:
            subnet = indexes.subnets[one.subnet_id]
            outside6 = Outside6(subnet.id, one.ip, subnet.cidr, subnet.gateway)
    return replace(gateway, subnet_id=subnet_id, ip=ip, outside6=outside6)


def _checked(indexes: Indexes, router: Router, gateway: RouterGateway) -> Router:
    """The router with the gateway. Raises BadRequest when what is inside and what is outside share addresses."""
    for one in router.interfaces:
        check_apart(indexes, gateway, one)
    return replace(router, gateway=gateway)


def check_apart(indexes: Indexes, gateway: RouterGateway | None, interface: RouterInterface) -> None:
    """Raises BadRequest when a router could not tell inside from outside, or when addresses of an open subnet would be
    somebody else's outside."""
    if gateway is None:
        return
    where = f"Bad router request: Cidr {interface.cidr} of subnet {format_id(interface.subnet_id)} overlaps with"
    for one in gateway.addresses:
        subnet = indexes.subnets[one.subnet_id]
        if not subnet.cidr.overlaps(interface.cidr):
            continue
        whose = f"{subnet.cidr} of subnet {format_id(subnet.id)}"
        if interface.cidr.version == 4 or not subnet.cidr.covers(interface.cidr):
            raise BadRequest(f"{where} cidr {whose}.")
        _check_open(indexes, subnet, interface, where, whose)


def _check_open(indexes: Indexes, subnet: Subnet, interface: RouterInterface, where: str, whose: str) -> None:
    """Of an interface's subnet inside an external one: nobody else has addresses of it outside."""
    first = interface.cidr.base
    last = ip_from_int(interface.cidr.first + interface.cidr.size - 1, 6)
    for pool in subnet.pools:
        if pool.first <= last and first <= pool.last:
            raise BadRequest(
                f"{where} allocation pool {format_ip(pool.first)}-{format_ip(pool.last)} of cidr {whose}, from which "
                "routers have their addresses."
            )
    if subnet.gateway is not None and subnet.gateway in interface.cidr:
        raise BadRequest(f"{where} the gateway_ip {format_ip(subnet.gateway)} of cidr {whose}.")
    taken = indexes.open_subnets.sharing(first, last, but=interface.subnet_id)
    if taken is not None:
        raise BadRequest(f"{where} cidr {taken.cidr}, which another router leads outside, to cidr {whose}.")


def _check_unused(indexes: Indexes, router: Router, gateway: RouterGateway) -> None:
    if indexes.floating_ips_via.get(router.id):
        raise RouterExternalGatewayInUseByFloatingIp(
            f"Gateway cannot be updated for router {format_id(router.id)}, since a gateway to external network "
            f"{format_id(gateway.network_id)} is required by one or more floating IPs."
        )


def _check_pooled(subnet: Subnet, offset: int) -> None:
    """What is in no pool may be in a tenant's subnet."""
    (ip,) = addresses_at(subnet.cidr, (offset,))
    if not any(pool.first <= ip <= pool.last for pool in subnet.pools):
        raise BadRequest(
            f"Bad router request: IP address {format_ip(ip)} is in no allocation pool of subnet "
            f"{format_id(subnet.id)}: what is not, of an IPv6 subnet, is for subnets inside of it."
        )


def _exactly(indexes: Indexes, one: FixedIp) -> Want:
    subnet = indexes.subnets[one.subnet_id]
    return subnet, ip_to_int(one.ip) - subnet.cidr.first


def _subnets(indexes: Indexes, network: Network) -> Iterable[Subnet]:
    return indexes.subnets_of.get(network.id, {}).values()


def _given_back(indexes: Indexes, ports: Mapping[Id, Port], gateway: RouterGateway) -> NetworkDemand:
    """What a gateway's port has."""
    demand = NetworkDemand(indexes.networks[gateway.network_id])
    demand.release(indexes, ports[gateway.port_id], mac=True)
    return demand


def _sharing(indexes: Indexes, gateway: RouterGateway, enable: bool) -> RouterGateway:
    """Whether hosts share its address. Which do comes when it is known (services.sharing)."""
    if not enable or gateway.subnet_id is None:
        return replace(gateway, enable_snat=enable)  # hosts that have not heard of it yet have their blocks
    subnet = indexes.subnets[gateway.subnet_id]
    return replace(gateway, enable_snat=True, prefix_length=subnet.wire_length, next_hop=subnet.gateway)


def _plan(indexes: Indexes, demands: Mapping[Id, NetworkDemand]) -> Allocations:
    return tuple(one for demand in demands.values() for one in supply(indexes, demand)[1])
