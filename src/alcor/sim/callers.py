"""What happens because somebody wants it, by dice: callers of the API change things, workloads send and announce.

Called by schedule, one step at a time. Each changes ports; in a wide schedule it also changes what connects VPCs and
leads outside (routers, shared addresses, floating IPs, load balancers), or workloads' addresses beside their own. What
is refused is refused: callers do not ask first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from alcor.dataplane.base import NO_ADDRESS, Miss
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.model.addresses import Ip, Mac, ip_from_int, ip_to_int, parse_ip, parse_prefix
from alcor.model.balancing import Algorithm, LoadBalancer, Member, MemberPool, Protocol
from alcor.model.ids import Id
from alcor.model.nouns import Claim, ExtraRoute, FloatingIp, Port, Router, Subnet
from alcor.services.balancing_commands import (
    CreateListener,
    CreateLoadBalancer,
    CreateMember,
    CreatePool,
    DeleteLoadBalancer,
    DeleteMember,
    MemberSpec,
)
from alcor.services.commands import (
    AddressPairSpec,
    AddRouterInterface,
    ChangeExtraRoutes,
    CreateFloatingIps,
    CreatePorts,
    CreateRouters,
    DeleteFloatingIp,
    DeletePorts,
    DeleteRouter,
    FixedIpSpec,
    FloatingIpSpec,
    GatewaySpec,
    PortSpec,
    RemoveRouterInterface,
    RouterSpec,
    UpdateFloatingIp,
    UpdatePort,
    UpdateRouter,
)
from alcor.sim.host import SimHost
from alcor.sim.world import World

MAX_PORTS = 14
MAX_ROUTERS, MAX_FLOATING_IPS, MAX_BALANCERS = 2, 3, 2
REPEAT_S = 1.0
"""Who has an address announces it that often, as VRRP's masters do."""
AWAY = parse_prefix("192.168.0.0/16")
"""Where extra routes lead."""
_T = TypeVar("_T")


async def begin(world: World) -> None:
    """What a wide schedule begins with, so that its steps have something to change."""
    if world.wide:
        for step in (_change_ports, _change_ports, _make_router, _connect, _connect, _floating_ip, _balancer, _pair):
            await step(world)


async def work(world: World) -> None:
    """One change, or a few."""
    _miss(world)
    if world.wide:
        await world.dice.choice(_WIDE)(world)
    await _change_ports(world)


async def _change_ports(world: World) -> None:
    """Ports come, move, change and go."""
    dice, ports = world.dice, world.ports()
    act = dice.random()
    if len(ports) < 3 or (act < 0.4 and len(ports) < MAX_PORTS):
        subnet = dice.choice(world.subnets)
        hosts = dice.sample(sorted(world.hosts), dice.choice((1, 1, 2)))
        fixed = (FixedIpSpec(subnet_id=subnet.id),)
        specs = tuple(PortSpec(network_id=subnet.network_id, host=host, fixed_ips=fixed) for host in hosts)
        await world.do(CreatePorts(specs=specs))
    elif act < 0.65:
        await world.do(DeletePorts(ids=tuple(port.id for port in dice.sample(ports, dice.choice((1, 1, 2))))))
    elif act < 0.9:
        await world.do(UpdatePort(id=dice.choice(ports).id, host=dice.choice(sorted(world.hosts))))
    else:
        await world.do(UpdatePort(id=dice.choice(ports).id, admin_state_up=dice.random() < 0.5))


def _miss(world: World) -> None:
    """Packets of a VPC on demand: for some address, or between two ports that may both begin."""
    dice, host = world.dice, world.hosts[world.dice.choice(sorted(world.hosts))]
    if host.agent is None or not host.tables.on_demand:
        return
    vni = dice.choice(sorted(host.tables.on_demand))
    networks = {network.id: network.vni for network in world.store.networks()}
    places = {port.fixed_ips[0].ip: port.host for port in world.ports() if networks[port.network_id] == vni}
    here = sorted(ip for ip, at in places.items() if at == host.name)
    there = sorted(ip for ip, at in places.items() if at not in ("", host.name))
    sought, source = _address(dice.choice(world.subnets), dice.randrange(16)), dice.choice(here or [NO_ADDRESS])
    if there and dice.random() < 0.5:
        sought = dice.choice(there)
        if dice.random() < 0.3:
            _send(world.hosts[places[sought]], vni, sought, source)
    _send(host, vni, source, sought)


def _send(host: SimHost, vni: int, source: Ip, sought: Ip) -> None:
    key = EndpointKey(vni, sought)
    if host.agent is not None and vni in host.tables.on_demand and key not in host.tables.learnt:
        nobody, packet = Mac(bytes(6)), frames.ipv4(source, sought, frames.PROTOCOL_UDP, b"")
        host.agent.driver.misses.miss(Miss(key, 1, frames.ethernet(nobody, nobody, frames.TYPE_IPV4, packet)))


def _address(subnet: Subnet, number: int) -> Ip:
    return ip_from_int(ip_to_int(subnet.cidr.base) + 2 + number, 4)


def _one(world: World, of: list[_T]) -> _T | None:
    return world.dice.choice(of) if of else None


async def clear(world: World) -> None:
    """Everything goes but networks, subnets and hosts."""
    for fip in world.store.rows(FloatingIp):
        await world.do(DeleteFloatingIp(id=fip.id))
    for balancer in world.store.rows(LoadBalancer):
        await world.do(DeleteLoadBalancer(id=balancer.id, port_id=balancer.vip_port_id, cascade=True))
    for router in world.store.rows(Router):
        await world.do(UpdateRouter(id=router.id, routes=()))
        for one in router.interfaces:
            await world.do(RemoveRouterInterface(id=router.id, subnet_id=one.subnet_id))
        await world.do(DeleteRouter(id=router.id))
    await world.do(DeletePorts(ids=tuple(port.id for port in world.ports())))


# ---- routers ----


async def _make_router(world: World) -> None:
    if len(world.store.rows(Router)) < MAX_ROUTERS:
        gateway = _gateway(world) if world.dice.random() < 0.8 else None
        await world.do(CreateRouters(specs=(RouterSpec(gateway=gateway),)))
    else:
        await _connect(world)


def _gateway(world: World) -> GatewaySpec:
    return GatewaySpec(network_id=world.outside, enable_snat=world.dice.random() < 0.8)


async def _connect(world: World) -> None:
    router = _one(world, world.store.rows(Router))
    if router is not None:
        subnet = world.dice.choice([*world.subnets, *world.inside_outer])
        await world.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))


async def _disconnect(world: World) -> None:
    router = _one(world, world.store.rows(Router))
    if router is None:
        return
    for one in router.interfaces if world.dice.random() < 0.3 else router.interfaces[:1]:
        await world.do(RemoveRouterInterface(id=router.id, subnet_id=one.subnet_id))
    await world.do(DeleteRouter(id=router.id))


async def _change_router(world: World) -> None:
    router, dice = _one(world, world.store.rows(Router)), world.dice
    if router is None:
        return
    act, four = dice.random(), [one for one in router.interfaces if one.cidr.version == 4]
    if act < 0.3:
        await world.do(UpdateRouter(id=router.id, gateway=_gateway(world) if dice.random() < 0.8 else None))
    elif act < 0.5:
        await world.do(UpdateRouter(id=router.id, admin_state_up=dice.random() < 0.5))
    elif router.routes and dice.random() < 0.5:
        await world.do(ChangeExtraRoutes(id=router.id, remove=(dice.choice(router.routes),)))
    elif four:
        hop = ip_from_int(ip_to_int(dice.choice(four).cidr.base) + 2 + dice.randrange(8), 4)
        route = ExtraRoute(AWAY, hop if dice.random() < 0.8 else None)
        await world.do(ChangeExtraRoutes(id=router.id, add=(route,)))


# ---- what leads in from outside ----


async def _floating_ip(world: World) -> None:
    """Made, associated, moved, taken away or deleted."""
    fips, dice = world.store.rows(FloatingIp), world.dice
    fip = _one(world, fips)
    if fip is None or (len(fips) < MAX_FLOATING_IPS and dice.random() < 0.3):
        await world.do(CreateFloatingIps(specs=(FloatingIpSpec(network_id=world.outside, port_id=_target(world)),)))
    elif dice.random() < 0.75:
        await world.do(UpdateFloatingIp(id=fip.id, port_id=_target(world)))
    else:
        await world.do(DeleteFloatingIp(id=fip.id))


def _target(world: World) -> Id | None:
    """A port, or a load balancer's."""
    dice, routed = world.dice, {one.id for one in _routed(world)}
    vips = [balancer.vip_port_id for balancer in world.store.rows(LoadBalancer) if balancer.vip_subnet_id in routed]
    ports = [port.id for port in world.ports() if any(fixed.subnet_id in routed for fixed in port.fixed_ips)]
    return _one(world, vips if vips and dice.random() < 0.4 else ports) if dice.random() < 0.8 else None


def _routed(world: World) -> list[Subnet]:
    """The subnets that routers lead out of; if there are none, all."""
    attached = {one.subnet_id for router in world.store.rows(Router) for one in router.interfaces}
    return [subnet for subnet in world.subnets if subnet.id in attached] or world.subnets


async def _balancer(world: World) -> None:
    """Made whole, changed or deleted."""
    balancers, dice = world.store.rows(LoadBalancer), world.dice
    balancer = _one(world, balancers)
    if balancer is None or (len(balancers) < MAX_BALANCERS and dice.random() < 0.3):
        subnet = dice.choice(_routed(world))
        made = await world.do(CreateLoadBalancer(subnet_id=subnet.id))
        if isinstance(made, LoadBalancer):
            listener = await world.do(CreateListener(load_balancer_id=made.id, protocol=Protocol.TCP, port=80))
            if listener is not None:
                create = CreatePool(protocol=Protocol.TCP, algorithm=Algorithm.ROUND_ROBIN, listener_id=listener.id)
                await world.do(create)
    elif dice.random() < 0.8:
        for _ in range(3):
            await _change_members(world)
    else:
        await world.do(DeleteLoadBalancer(id=balancer.id, port_id=balancer.vip_port_id, cascade=True))


async def _change_members(world: World) -> None:
    pool, dice = _one(world, world.store.rows(MemberPool)), world.dice
    member = _one(world, world.store.rows(Member))
    if member is not None and dice.random() < 0.4:
        await world.do(DeleteMember(pool_id=member.pool_id, id=member.id))
    elif pool is not None:
        spec = MemberSpec(ip=_address(dice.choice(world.subnets), dice.randrange(8)), port=8080)
        await world.do(CreateMember(pool_id=pool.id, spec=spec))


# ---- addresses that are had by announcing them ----

SHARED = tuple(parse_ip(text) for text in ("10.0.0.60", "10.0.0.61"))
"""In all VPCs' common subnet."""


async def _pair(world: World) -> None:
    """Ports of a network may use the addresses, or may not any more."""
    network_id, dice = world.dice.choice(world.vpcs), world.dice
    ports = [port for port in world.ports() if port.network_id == network_id]
    for port in dice.sample(ports, min(len(ports), 3)):
        pairs = tuple(AddressPairSpec(prefix=parse_prefix("10.0.0.60/31")) for _ in range(dice.random() < 0.9))
        await world.do(UpdatePort(id=port.id, address_pairs=pairs))


async def _take_over(world: World) -> None:
    """A workload has an address from now on; whoever had it has it no more."""
    able = [port for port in world.ports() if port.address_pairs and port.host]
    port = _one(world, able)
    if port is None:
        await _pair(world)
        return
    ip = world.dice.choice(SHARED)
    world.masters[port.network_id, ip] = port.id
    _announce(world, port, ip)


def repeat(world: World) -> None:
    """Every REPEAT_S: who has an address says so. One whose port went, or may not use it any more, has it no more."""
    now = asyncio.get_running_loop().time()
    if not world.masters or now < world.repeat_at:
        return
    world.repeat_at = now + REPEAT_S
    known = {port.id: port for port in world.ports()}
    for (network_id, ip), identifier in list(world.masters.items()):
        port = known.get(identifier)
        if port is None or not port.host or not port.address_pairs:
            del world.masters[network_id, ip]
        else:
            _announce(world, port, ip)


def _announce(world: World, port: Port, ip: Ip) -> None:
    """What the data plane of the port's host makes of it (pipeline step C): the agent hears of what is not there."""
    host = world.hosts[port.host]
    carried = host.tables.ports.get(port.id)
    if host.agent is None or carried is None:
        return
    claim = Claim(ip, port.mac)
    if claim not in carried.claims and any(pair.mac == port.mac and ip in pair.prefix for pair in carried.pairs):
        host.agent.hear(port.id, claim)


_WIDE: tuple[Callable[[World], Awaitable[None]], ...] = (
    *(_make_router, _connect, _connect, _disconnect, _change_router),
    *(_floating_ip, _floating_ip, _floating_ip, _balancer),
    *(_pair, _take_over, _take_over),
)
