"""Where routers leave for outside: their gateways on external networks. Pure: called by routers.

A gateway is in its router's row; it is a port of the external network as well, which has the address and shows it.
Words and messages are Neutron's.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from alcor.model.allocation import Allocation, Allocator
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Port, Router, RouterGateway, RouterInterface
from alcor.services.addressing import NetworkDemand, resolve, supply
from alcor.services.commands import FixedIpSpec, GatewaySpec
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
    """The router with that gateway (None: without one), the ports that this makes and unmakes in `changes`."""
    old = router.gateway
    if old is None and spec is None:
        return router, ()
    if old is not None and spec is not None and _same(old, spec):
        return replace(router, gateway=_sharing(indexes, old, spec.enable_snat)), ()
    if old is not None and indexes.floating_ips_via.get(router.id):
        raise RouterExternalGatewayInUseByFloatingIp(
            f"Gateway cannot be updated for router {format_id(router.id)}, since a gateway to external network "
            f"{format_id(old.network_id)} is required by one or more floating IPs."
        )
    demands: dict[Id, NetworkDemand] = {}
    if old is not None:
        changes.deleted_ports.append(ports[old.port_id])
        demands[old.network_id] = NetworkDemand(indexes.networks[old.network_id])
        demands[old.network_id].release(indexes, ports[old.port_id], mac=True)
    if spec is None:
        return replace(router, gateway=None), _plan(indexes, demands)
    network = find_network(indexes, spec.network_id)
    if not network.external:
        raise BadRequest(f"Bad router request: Network {format_id(network.id)} is not an external network.")
    demand = demands.setdefault(network.id, NetworkDemand(network))
    demand.mac_count = 1
    if spec.ip is None and spec.subnet_id is None:
        demand.anywhere = 1
        wants = None
    else:
        wants = resolve(indexes, network, (FixedIpSpec(subnet_id=spec.subnet_id, ip=spec.ip),), bound=True)
        demand.take_addresses(wants)
    source, allocations = supply(indexes, demand)
    others = {one: other for one, other in demands.items() if other is not demand}
    found = source.default_addresses() if wants is None else source.addresses(wants)
    if not found:
        raise BadRequest(f"Bad router request: Network {format_id(network.id)} does not contain any IPv4 subnet.")
    (identifier,) = stamp.spare(1)
    changes.new_ports.append(service_port(identifier, network.id, source.mac(), found[0], OWNER, router.id, stamp))
    gateway = RouterGateway(identifier, network.id, found[0].subnet_id, found[0].ip)
    gateway = _sharing(indexes, gateway, spec.enable_snat)
    for one in router.interfaces:
        check_apart(indexes, gateway, one)
    return replace(router, gateway=gateway), (*allocations, *_plan(indexes, others))


def check_apart(indexes: Indexes, gateway: RouterGateway | None, interface: RouterInterface) -> None:
    """Raises BadRequest when a router could not tell inside from outside."""
    if gateway is None:
        return
    subnet = indexes.subnets[gateway.subnet_id]
    if subnet.cidr.overlaps(interface.cidr):
        raise BadRequest(
            f"Bad router request: Cidr {interface.cidr} of subnet {format_id(interface.subnet_id)} overlaps with cidr "
            f"{subnet.cidr} of subnet {format_id(subnet.id)}."
        )


def _same(old: RouterGateway, spec: GatewaySpec) -> bool:
    wanted = (spec.subnet_id or old.subnet_id, spec.ip or old.ip)
    return old.network_id == spec.network_id and wanted == (old.subnet_id, old.ip)


def _sharing(indexes: Indexes, gateway: RouterGateway, enable: bool) -> RouterGateway:
    """Whether hosts share its address. Which do comes when it is known (services.sharing)."""
    if enable == gateway.enable_snat:
        return gateway
    if not enable:
        return replace(gateway, enable_snat=False)  # hosts that have not heard of it yet have their blocks
    subnet = indexes.subnets[gateway.subnet_id]
    return replace(gateway, enable_snat=True, prefix_length=subnet.wire_length, next_hop=subnet.gateway)


def _plan(indexes: Indexes, demands: Mapping[Id, NetworkDemand]) -> Allocations:
    return tuple(one for demand in demands.values() for one in supply(indexes, demand)[1])
