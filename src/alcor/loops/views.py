"""What the loops keep of desired state: networks, subnets, nodes, groups, roads, who needs which VPC. Never ports.

Owned by the publish loop, which alone changes it; the answer loop reads it. Both run on one event loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.goalstate.balancing import Balancers
from alcor.goalstate.delta import Commits
from alcor.goalstate.objects import ScopeUpdate
from alcor.goalstate.qos import Policies
from alcor.goalstate.snapshot import Groups, Roads, peering_goal, router_goal, vpc_snapshot
from alcor.goalstate.subscriptions import Subscriptions
from alcor.model.addresses import Ip
from alcor.model.balancing import BALANCING
from alcor.model.ids import Id
from alcor.model.nouns import Network, Node, Peering, Port, Router, Subnet
from alcor.services.claimants import Claimants
from alcor.store.base import Changes, Store


class Views:
    """See the module. `revision` is that of the last commit which was published."""

    def __init__(self, store: Store) -> None:
        """Reads the store, which nobody may write meanwhile."""
        self.revision = store.revision()
        self.networks: dict[Id, Network] = {network.id: network for network in store.networks()}
        self.subnets: dict[Id, dict[Id, Subnet]] = {}
        """By network."""
        for subnet in store.subnets():
            self.subnets.setdefault(subnet.network_id, {})[subnet.id] = subnet
        self.nodes: dict[str, Node] = {node.name: node for node in store.nodes()}
        self.groups = Groups(store.security_groups(), store.security_group_rules(), store.identities())
        self.qos = Policies(store.qos_policies(), store.qos_rules(), store.qos_bindings(), self.networks.values())
        self.balancers = Balancers(row for noun in BALANCING for row in store.rows(noun))
        self.claims = Claimants(store.claiming_ports())
        routers, peerings = store.rows(Router), store.rows(Peering)
        self.roads = Roads(routers, peerings)
        goals = [*map(router_goal, routers), *map(peering_goal, peerings)]
        roads = {goal.id: goal.vpcs for goal in goals if goal is not None}
        self.subscriptions = Subscriptions(store.hosts_of_networks(), roads)
        self.sharers: dict[Id, Router] = {}
        """Routers whose addresses outside hosts share."""
        self.sharers_of: dict[Id, set[Id]] = {}
        """Network -> those that have it."""
        self._share(routers, ())
        self.on_demand: set[Id] = {network.id for network in self.networks.values() if network.on_demand}
        self._places: dict[Id, _Places] = {}
        if store.revision() != self.revision:
            raise RuntimeError("the views must be made before the writer starts")

    def take_first(self, commits: Commits, revision: int, changes: Changes) -> None:
        """One commit's rows of security groups, of quality of service, routers and peerings, and its claims; what roads
        lead where goes into `commits`."""
        gone: tuple[Router | Peering, ...] = (*changes.deleted_routers, *changes.deleted_peerings)
        commits.add_roads(revision, self.roads, changes.routers, changes.peerings, gone)
        self.claims.apply(changes)
        self._share(changes.routers, changes.deleted_routers)
        self.groups.put(changes.security_groups, changes.rules, changes.identities)
        self.groups.drop(changes.deleted_security_groups, changes.deleted_rules, changes.deleted_identities)
        self.qos.put(changes.qos_policies, changes.qos_rules, changes.qos_bindings, changes.networks)
        self.qos.drop(changes.deleted_qos_policies, changes.deleted_qos_rules, changes.deleted_qos_bindings)

    def _share(self, routers: Iterable[Router], deleted: Iterable[Router]) -> None:
        for router in (*routers, *deleted):
            before = self.sharers.pop(router.id, None)
            for network_id in before.networks if before is not None else ():
                self.sharers_of[network_id].discard(router.id)
                if not self.sharers_of[network_id]:
                    del self.sharers_of[network_id]
        for router in routers:
            if router.admin_state_up and router.gateway is not None and router.gateway.shares:
                self.sharers[router.id] = router
                for network_id in router.networks:
                    self.sharers_of.setdefault(network_id, set()).add(router.id)

    def take_balancing(self, changes: Changes) -> None:
        """One commit's rows of load balancing."""
        rows, deleted = changes.balancing()
        self.balancers.put(rows)
        self.balancers.drop(deleted)

    def take(self, commits: Commits) -> set[Id]:
        """Everything else; returns the networks that are on demand now and were not, or the other way round."""
        crossed = set()
        for network in commits.networks.values():
            before = self.networks.get(network.id)
            if before is not None and before.on_demand != network.on_demand:
                crossed.add(network.id)
            self.networks[network.id] = network
            (self.on_demand.add if network.on_demand else self.on_demand.discard)(network.id)
        for subnet in commits.subnets.values():
            self.subnets.setdefault(subnet.network_id, {})[subnet.id] = subnet
            self._places.pop(subnet.network_id, None)
        for identifier, (network_id, _) in commits.deleted_subnets.items():
            self.subnets.get(network_id, {}).pop(identifier, None)
            self._places.pop(network_id, None)
        for identifier in commits.deleted_networks:
            self.networks.pop(identifier, None)
            self.groups.drop_network(identifier)
            self.qos.drop_network(identifier)
            self.subnets.pop(identifier, None)
            self.on_demand.discard(identifier)
            self._places.pop(identifier, None)
        for name in commits.deleted_nodes:
            self.nodes.pop(name, None)
        self.nodes.update((node.name, node) for node in commits.nodes.values())
        return crossed

    def snapshot(self, network: Network, rows: Iterable[Port]) -> ScopeUpdate:
        """The whole scope of a VPC as of `revision`, its ports being `rows`, read then or later."""
        return vpc_snapshot(
            *(self.revision, network, self.subnets.get(network.id, {}).values(), rows, self.nodes),
            *(self.groups, self.qos, self.roads, self.balancers),
        )

    def subnet_at(self, network_id: Id, ip: Ip) -> Id | None:
        """The subnet of the network that has the address; its cost does not grow with the number of subnets."""
        places = self._places.get(network_id)
        if places is None:
            places = self._places[network_id] = _Places(self.subnets.get(network_id, {}))
        return places.find(ip)


class _Places:
    """A network's subnets by their prefixes, which do not overlap."""

    def __init__(self, subnets: dict[Id, Subnet]) -> None:
        self._by_shift: dict[int, dict[int, Id]] = {}
        """Host bits of a prefix (of an IPv6 or v4-mapped address) -> its other bits -> the subnet."""
        for subnet in subnets.values():
            shift = (32 if subnet.ip_version == 4 else 128) - subnet.cidr.length
            self._by_shift.setdefault(shift, {})[int.from_bytes(subnet.cidr.base, "big") >> shift] = subnet.id

    def find(self, ip: Ip) -> Id | None:
        number = int.from_bytes(ip, "big")
        for shift, subnets in self._by_shift.items():
            found = subnets.get(number >> shift)
            if found is not None:
                return found
        return None
