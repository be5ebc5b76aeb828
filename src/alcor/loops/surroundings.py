"""What a network is connected with, from rows. Called by reachability: "why did this packet not arrive?".

Reads the routers and peerings of the partition, which are few beside its ports.
"""

from __future__ import annotations

from typing import NamedTuple

from alcor.dataplane import roads
from alcor.dataplane.base import OUTSIDE, Hop, RouteKey, RouteKind, TranslationKey
from alcor.dataplane.fake.packet import Packet
from alcor.dataplane.fake.routing import choose, longest
from alcor.dataplane.fake.tables import Tables
from alcor.goalstate.snapshot import identity_goal, peering_goal, router_goal, subnet_goal, vpc_goal
from alcor.model.addresses import Ip
from alcor.model.ids import Id
from alcor.model.nouns import Network, Peering, Port, Router
from alcor.services.routers import INTERFACE_OWNER
from alcor.store.base import Query, Store


class Place(NamedTuple):
    """Whom a packet is handed to: an address of a network. `behind`: the packet is for somebody else."""

    network_id: Id
    ip: Ip
    behind: bool = False


def open_port(store: Store, ip: Ip) -> Port | None:
    """The port whose own address (IPv6) that is outside; None: nobody's."""
    routers = [one for one in store.rows(Router) if one.admin_state_up]
    networks = {one.network_id for router in routers for one in router.open_interfaces if ip in one.cidr}
    if not networks:
        return None
    query = Query(filters={"network_id": tuple(sorted(networks)), "ip": (ip,)}, limit=1)
    # What routers have is answered by hosts themselves, and goes nowhere.
    return next((port for port in store.list_ports(query) if port.device_owner != INTERFACE_OWNER), None)


class Surroundings:
    """See the module."""

    def __init__(self, store: Store, network: Network) -> None:
        routers = [one for one in store.rows(Router) if one.admin_state_up and network.id in one.networks]
        peerings = [one for one in store.rows(Peering) if network.id in one.networks]
        connected: tuple[Router | Peering, ...] = (*routers, *peerings)
        ids = {network.id, *(near for road in connected for near in road.networks)}
        asked = tuple(sorted(ids))
        self.networks = {one.id: one for one in store.list_networks(Query(filters={"id": asked}, limit=len(asked)))}
        self.subnets = store.list_subnets(Query(filters={"network_id": asked}, limit=100_000))
        self.identities = [one for one in store.identities() if one.network_id in ids]
        self.vpcs = {
            one.id: roads.Vpc(
                vpc_goal(one),
                [subnet_goal(subnet) for subnet in self.subnets if subnet.network_id == one.id],
                [goal for router in routers if one.id in router.networks and (goal := router_goal(router)) is not None],
                [peering_goal(peering) for peering in peerings if one.id in peering.networks],
                [identity_goal(identity) for identity in self.identities if identity.network_id == one.id],
            )
            for one in self.networks.values()
        }
        self.own = self.vpcs[network.id]
        self.has_roads = bool(connected)

    def leaves(self, port: Port) -> bool:
        """The port's routed packets may leave its network."""
        vpc = self.vpcs.get(port.network_id)
        return vpc is not None and not roads.attached(vpc).isdisjoint(fixed.subnet_id for fixed in port.fixed_ips)

    def fill(self, tables: Tables) -> None:
        """Puts routes and translations of the network, and what it shares outside, into the tables of a host."""
        if self.has_roads:
            routes = roads.routes_of(self.own, self.vpcs)
            tables.routes.update((RouteKey(self.own.goal.vni, prefix), route) for prefix, route in routes.items())
            tables.translations.update(self.translations())
            tables.sharing.shared.update(roads.shared_of(self.own, self.vpcs))
            outer = roads.open_routes([self.own])
            tables.routes.update((RouteKey(OUTSIDE, prefix), route) for prefix, route in outer.items())

    def translations(self) -> dict[TranslationKey, int]:
        """What stands for whose groups elsewhere."""
        found: dict[TranslationKey, int] = {}
        for identifier, vpc in self.vpcs.items():
            if identifier != self.own.goal.id:
                found |= roads.translations_of(self.own, vpc)
        return found

    def place(self, tables: Tables, ip: Ip, packet: Packet | None) -> Place:
        """Where the routes of the tables lead; where none does, the address is the network's own."""
        own = Place(self.own.goal.id, ip)
        route = longest(tables, self.own.goal.vni, ip)
        if route is None or route.kind in (RouteKind.BLACKHOLE, RouteKind.OUTSIDE):
            return own
        hop: Hop = route.hops[0] if len(route.hops) == 1 or packet is None else choose(route, packet)
        there = next((one.goal.id for one in self.vpcs.values() if one.goal.vni == hop.vni), own.network_id)
        return Place(there, hop.ip, True) if route.kind is RouteKind.HOPS else Place(there, ip)
