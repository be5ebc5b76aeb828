"""What must hold once all is calm: what every host carries follows from the rows alone. Called by schedule.

`differences` computes what should be with none of the code under test, but for routes, gateways and services: of those
`drift` asks that the agent's own plan has nothing left to do, and that what it holds is what it would be told whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from alcor.agent.plan import full_plan
from alcor.dataplane.base import Plan
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.goalstate.digest import digest
from alcor.goalstate.merge import ScopeState
from alcor.goalstate.objects import HOST_SCOPE, ScopeUpdate
from alcor.goalstate.snapshot import host_snapshot
from alcor.loops.views import Views
from alcor.model.addresses import Ip, Prefix, with_link_local
from alcor.model.ids import Id
from alcor.model.nouns import FloatingIp, Network, Port, PortStatus, Router
from alcor.sim.host import SimHost
from alcor.sim.world import World
from alcor.store.base import Query

LEFT = (
    *("ports", "endpoints", "gateways", "policies", "vips", "services", "on_demand", "learnt"),
    *("routes", "translations", "shared"),
)
"""Tables that are empty where there is no port."""


class Rows:
    """What the store says, put together for the hosts."""

    def __init__(self, world: World) -> None:
        store = world.store
        self.ports: dict[Id, Port] = {port.id: port for port in store.list_ports(Query(limit=10_000))}
        self.networks: dict[Id, Network] = {network.id: network for network in store.networks()}
        self.underlay: dict[str, Ip] = {node.name: node.underlay_ip for node in store.nodes()}
        self.routers: list[Router] = [router for router in store.rows(Router) if router.admin_state_up]
        self.large = {network.vni for network in self.networks.values() if network.on_demand}
        self.eips: dict[Id, set[Ip]] = {}
        """Port -> the external addresses that are with it."""
        for fip in store.rows(FloatingIp):
            at = fip.port_id if fip.port_id is not None and self.ports[fip.port_id].host else fip.anchor_id
            if at is not None:
                self.eips.setdefault(at, set()).add(fip.ip)
        self.endpoints: dict[EndpointKey, tuple[Endpoint, str]] = {}
        """Address -> where it is, and on which host."""
        for port in self.ports.values():
            if port.host:
                vni, end = self.networks[port.network_id].vni, self.underlay[port.host]
                own = with_link_local(tuple([fixed.ip for fixed in port.fixed_ips]), port.mac)
                places = [(ip, port.mac) for ip in own]
                for ip, mac in (*places, *((claim.ip, claim.mac) for claim in port.claims)):
                    self.endpoints[EndpointKey(vni, ip)] = Endpoint(mac, end, port.identity), port.host

    def carried(self, host: str) -> dict[Id, Port]:
        """The host's ports."""
        return {port.id: port for port in self.ports.values() if port.host == host}

    def needed(self, host: str) -> set[Id]:
        """The networks of the host's ports, and those that routers connect with them."""
        own = {port.network_id for port in self.carried(host).values()}
        return own.union(*(router.networks for router in self.routers if not own.isdisjoint(router.networks)))

    def sharing(self) -> list[Router]:
        """The routers whose addresses hosts share."""
        return [router for router in self.routers if router.gateway is not None and router.gateway.shares]


def differences(world: World) -> list[str]:
    """What is not as the store wants it."""
    rows = Rows(world)
    wrong = [f"{one.id.hex()} is {one.status} {one.status_reason}" for one in rows.ports.values() if not _settled(one)]
    for host in world.hosts.values():
        wrong += _ports(rows, host)
        wrong += _endpoints(rows, host)
        wrong += _shared(rows, host)
        wrong += _open(rows, host)
    wrong += _blocks(rows, world)
    wrong += _answering(rows, world)
    wrong += _claims(rows, world)
    return wrong


def _settled(port: Port) -> bool:
    if not port.host:
        return True
    want = PortStatus.ACTIVE if port.admin_state_up else PortStatus.DOWN
    return port.status is want and port.realised_revision == port.revision


def _ports(rows: Rows, host: SimHost) -> Iterator[str]:
    mine, there = rows.carried(host.name), host.tables.ports
    if there.keys() != mine.keys():
        stale, missing = len(there.keys() - mine.keys()), len(mine.keys() - there.keys())
        yield f"{host.name} carries {stale} ports too many, {missing} too few"
    for identifier in there.keys() & mine.keys():
        port, row = there[identifier], mine[identifier]
        if {eip.ip for eip in port.eips} != rows.eips.get(identifier, set()):
            yield f"{host.name} has floating IPs {port.eips} at {identifier.hex()}"
        if port.claims != row.claims or {pair.mac for pair in port.pairs} != {pair.mac for pair in row.address_pairs}:
            yield f"{host.name} has {port.claims} at {identifier.hex()}, which has {row.claims}"
    wanted = {(rows.networks[port.network_id].vni, port.identity) for port in mine.values() if port.identity}
    if set(host.tables.policies) != wanted:
        yield f"{host.name} has policies of {len(host.tables.policies)} identities, its ports {len(wanted)}"


def _endpoints(rows: Rows, host: SimHost) -> Iterator[str]:
    tables = host.tables
    needed = {rows.networks[network_id].vni for network_id in rows.needed(host.name)}
    if tables.on_demand != needed & rows.large:
        yield f"{host.name} asks for endpoints of VNIs {sorted(tables.on_demand)}"
    for key, learnt in tables.learnt.items():
        if learnt != rows.endpoints.get(key, (None, ""))[0]:
            yield f"{host.name} learnt {learnt} of {key}, which is {rows.endpoints.get(key)}"
    preloaded = needed - rows.large
    known = {key: where for key, (where, at) in rows.endpoints.items() if at != host.name and key.vni in preloaded}
    if tables.endpoints != known:
        stale, missing = len(tables.endpoints.keys() - known.keys()), len(known.keys() - tables.endpoints.keys())
        yield f"{host.name} has {stale} stale endpoints and lacks {missing}, or some are wrong"


def _shared(rows: Rows, host: SimHost) -> Iterator[str]:
    """The host has what its ports share, as the routers say."""
    own = {port.network_id for port in rows.carried(host.name).values()}
    wanted = {}
    for router in rows.sharing():
        gateway = router.gateway
        if gateway is not None and gateway.ip is not None and not own.isdisjoint(router.networks):
            blocks = tuple([(one.block, rows.underlay[one.host]) for one in gateway.blocks])
            wanted[gateway.ip] = blocks, rows.underlay.get(gateway.answerer)
    if {ip: (one.blocks, one.answerer) for ip, one in host.tables.shared.items()} != wanted:
        yield f"{host.name} shares {host.tables.shared}, which is to be {wanted}"


def _open(rows: Rows, host: SimHost) -> Iterator[str]:
    """Outside are the IPv6 subnets of the host's VPCs that a router leads there, and the external wire."""
    own = {port.network_id for port in rows.carried(host.name).values()}
    wanted: dict[Prefix, int] = {}
    for router in rows.routers:
        outer = router.gateway.outside6 if router.gateway is not None else None
        for one in router.interfaces if outer is not None else ():
            if outer is not None and one.network_id in own:
                wanted[outer.cidr] = 0
                if outer.cidr.covers(one.cidr):
                    wanted[one.cidr] = rows.networks[one.network_id].vni
    there = {key.prefix: route.hops[0].vni for key, route in host.tables.routes.items() if not key.vni}
    if there != wanted:
        yield f"{host.name} leads {sorted(there.items())} outside, which is to be {sorted(wanted.items())}"


def _blocks(rows: Rows, world: World) -> Iterator[str]:
    """Hosts that can lead outside have blocks, if they have ports of the router; and one of them answers."""
    for router in rows.sharing():
        assert router.gateway is not None
        hosts = {port.host for port in rows.ports.values() if port.host and port.network_id in router.networks}
        able = {name for name in hosts if world.hosts[name].tables.external}
        holders = {one.host for one in router.gateway.blocks}
        if holders != able or (router.gateway.answerer in able) != bool(able):
            yield f"{sorted(holders)} share for {sorted(able)}, {router.gateway.answerer or 'nobody'} answers"


def _answering(rows: Rows, world: World) -> Iterator[str]:
    """No external address has two hosts that answer for it."""
    answers: Counter[Ip] = Counter()
    for host in world.hosts.values():
        answers.update({eip.ip for port in host.tables.ports.values() for eip in port.eips})
        answers.update(ip for ip, one in host.tables.shared.items() if one.answerer == host.underlay)
    yield from (f"{number} hosts answer for {ip.hex()}" for ip, number in answers.items() if number > 1)


def _claims(rows: Rows, world: World) -> Iterator[str]:
    """Who has an address, and says so, has it; nobody claims what is another's own."""
    own = {(port.network_id, fixed.ip) for port in rows.ports.values() for fixed in port.fixed_ips}
    claimed = {(port.network_id, claim.ip): port for port in rows.ports.values() for claim in port.claims}
    if len(claimed) != sum(len(port.claims) for port in rows.ports.values()):
        yield "two ports claim one address"
    for (network_id, ip), port in claimed.items():
        if (network_id, ip) in own or not any(ip in pair.prefix for pair in port.address_pairs):
            yield f"{port.id.hex()} claims {ip.hex()}, which is not its to claim"
    for key, identifier in world.masters.items():
        master = rows.ports.get(identifier)
        able = master is not None and master.host and master.address_pairs and key not in own
        if able and claimed.get(key) != master:
            yield f"{identifier.hex()} announces {key[1].hex()} and does not get it"


# ---- what does not change any more, and what is left ----


def leaks(world: World) -> list[str]:
    """What is still there though every port, router, floating IP and balancer was deleted. (What is sent after a port
    that left goes a minute later.)"""
    wrong = [f"{len(left)} ports are left" for left in [world.store.list_ports(Query(limit=10_000))] if left]
    for host in world.hosts.values():
        for name in LEFT:
            if left := getattr(host.tables, name):
                wrong.append(f"{host.name} has {len(left)} {name} left")
    return wrong


def drift(world: World) -> list[str]:
    """Hosts that hold something else than they would be told whole, or that carry something else than they hold."""
    views, wrong = Views(world.store), []
    for host in world.hosts.values():
        assert host.agent is not None
        desired = host.agent.reconciler.desired
        held = {key.scope: state for key, state in desired.scopes.items()}
        truth = _whole(world, views, host.name)
        if truth.keys() != held.keys() | {HOST_SCOPE}:
            wrong.append(f"{host.name} holds {len(held)} scopes of {len(truth)}")
        for scope, update in truth.items():
            state = held.get(scope, ScopeState(scope))
            objects = sorted(update.objects, key=lambda goal: goal.key)
            if list(state.objects()) != objects or state.digest != digest(objects):
                wrong.append(f"{host.name} holds something else of {scope.hex() or 'itself'} than it would be told")
        plan = full_plan(desired, host.agent.driver.observe(), may_remove=True)
        if plan != Plan():
            wrong.append(f"{host.name} does not carry what it holds: {plan}")
    return wrong


def _whole(world: World, views: Views, host: str) -> dict[Id, ScopeUpdate]:
    """What the host would be told whole, from the rows alone."""
    rows = world.store.ports_of_host(host)
    whole = {HOST_SCOPE: host_snapshot(views.revision, rows)}
    for network_id in views.subscriptions.vpcs(host):
        network = views.networks[network_id]
        read = world.store.named_ports if network.on_demand else world.store.ports_of_network
        whole[network_id] = views.snapshot(network, read(network_id))
    return whole
