"""Shared addresses outside, from the API's commands to the hosts, over real sockets: who shares, and who answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.loops.region import PATIENCE_S, Host, Region

from alcor.dataplane.base import Hop, Route, RouteKey, RouteKind, SharedAddress
from alcor.loops.sharing import SharingLoop
from alcor.model.addresses import Ip, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Network, Node, Router, Subnet
from alcor.services.commands import (
    AddRouterInterface,
    Command,
    CreateNetworks,
    CreateRouters,
    CreateSubnets,
    DeletePorts,
    GatewaySpec,
    NetworkSpec,
    RouterSpec,
    SubnetSpec,
    UpdateRouter,
)
from alcor.services.health import HealthEvent, HostHealth, Reach
from alcor.store.base import Query

POOL = parse_prefix("203.0.113.0/24")
ROUTER = parse_ip("203.0.113.1")


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


async def make_host(region: Region, name: str, *, external: bool = True, heartbeat_s: float = 10.0) -> Host:
    """A registered host with a running agent, and an external device or none."""
    host = region.make_host(name)
    host.tables.external, host.heartbeat_s = external, heartbeat_s
    await host.start()
    await region.register(host)
    return host


async def make_router(region: Region) -> tuple[Router, Network, Ip]:
    """A router with a gateway outside, a VPC inside, and the router's address."""
    (outer,) = await region.do(CreateNetworks(specs=(NetworkSpec(external=True),)))
    pool = SubnetSpec(network_id=outer.id, cidr=POOL, gateway=ROUTER, enable_dhcp=False)
    await region.do(CreateSubnets(specs=(pool,)))
    network, subnet = await region.add_vpc()
    router = await connect(region, outer, subnet)
    assert router.gateway is not None and router.gateway.ip is not None
    return router, network, router.gateway.ip


async def connect(region: Region, outer: Network, subnet: Subnet) -> Router:
    """A router between them."""
    spec = RouterSpec(gateway=GatewaySpec(network_id=outer.id))
    router: Router
    (router,) = await region.do(CreateRouters(specs=(spec,)))
    await region.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))
    return router


async def until(true: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Waits for it."""
    async with asyncio.timeout(patience_s):
        while not true():
            await asyncio.sleep(0.01)


def end(host: Host) -> Ip:
    """Its tunnel end."""
    return parse_ip(host.address)


NOBODYS = SharedAddress(32, None, 0, None, ())


def shared(host: Host, ip: Ip) -> SharedAddress:
    """As the host has it; NOBODYS: it has not."""
    return host.tables.shared.get(ip, NOBODYS)


def blocks(host: Host, ip: Ip) -> dict[Ip, int]:
    """Tunnel end -> how many blocks, as the host has it."""
    ends = [holder for _, holder in shared(host, ip).blocks]
    return {one: ends.count(one) for one in ends}


async def test_hosts_share_the_routers_address(region: Region) -> None:
    """Each that has ports and an external device has a block, and all of them know all; the route leads there. A host
    without a device has none. Who has no port any more gives its block back."""
    a, b = [await make_host(region, name, heartbeat_s=0.1) for name in ("host-a", "host-b")]
    plain = await make_host(region, "host-c", external=False)
    _, network, ip = await make_router(region)
    ports = await region.add_ports(network, ["host-a", "host-b", "host-c"])
    both = {end(a): 1, end(b): 1}
    await until(lambda: all(blocks(one, ip) == both for one in (a, b, plain)))
    address = shared(a, ip)
    assert address == shared(b, ip)
    assert (24, ROUTER, network.mtu) == (address.prefix_length, address.gateway, address.mtu)
    assert address.answerer in both
    everywhere = RouteKey(network.vni, parse_prefix("0.0.0.0/0"))
    assert Route(RouteKind.OUTSIDE, (Hop(0, 0, ip),)) == a.tables.routes[everywhere]
    await region.do(DeletePorts(ids=(ports[0].id,)))
    await until(lambda: blocks(b, ip) == {end(b): 1} and not a.tables.shared)
    assert end(b) == shared(b, ip).answerer


async def test_many_ports_have_more_blocks(region: Region) -> None:
    """One for each sixteen."""
    a = await make_host(region, "host-a")
    _, network, ip = await make_router(region)
    await region.add_ports(network, ["host-a"] * 40)
    await until(lambda: blocks(a, ip) == {end(a): 3})


async def test_a_host_that_dies_answers_no_more(region: Region) -> None:
    """Another one does, and its own ports keep their block; when it is back, nothing moves."""
    a, b = [await make_host(region, name, heartbeat_s=0.1) for name in ("host-a", "host-b")]
    _, network, ip = await make_router(region)
    await region.add_ports(network, ["host-a", "host-b"])
    both = {end(a): 1, end(b): 1}
    await until(lambda: all(blocks(one, ip) == both for one in (a, b)))
    first = next(one for one in (a, b) if end(one) == shared(a, ip).answerer)
    second = b if first is a else a
    await first.stop()
    await until(lambda: shared(second, ip).answerer == end(second))
    assert both == blocks(second, ip)
    await first.start()
    await until(lambda: shared(first, ip) == shared(second, ip))
    assert end(second) == shared(first, ip).answerer


async def test_a_block_is_nobodys_until_its_host_has_let_go(region: Region) -> None:
    """A host that is away may still send from it, though its port was deleted: who comes gets another one."""
    a, b = [await make_host(region, name, heartbeat_s=0.1) for name in ("host-a", "host-b")]
    _, network, ip = await make_router(region)
    (port,) = await region.add_ports(network, ["host-a"])
    await until(lambda: blocks(a, ip) == {end(a): 1})
    held = shared(a, ip).blocks
    await a.stop()
    await region.do(DeletePorts(ids=(port.id,)))
    await region.add_ports(network, ["host-b"])
    await until(lambda: end(b) in blocks(b, ip))
    await asyncio.sleep(0.5)  # the loop looks at everything some times
    assert held == shared(a, ip).blocks
    assert {end(a): 1, end(b): 1} == blocks(b, ip)
    await a.start()
    await until(lambda: blocks(b, ip) == {end(b): 1} and not a.tables.shared)


async def test_a_controller_that_starts_anew_changes_nothing(region: Region) -> None:
    """Before it has heard of hosts as after."""
    a, b = [await make_host(region, name) for name in ("host-a", "host-b")]
    router, network, ip = await make_router(region)
    await region.add_ports(network, ["host-a", "host-b"])
    await until(lambda: blocks(a, ip) == {end(a): 1, end(b): 1} == blocks(b, ip))
    before = shared(a, ip)
    known = region.store.revision()
    await region.stop()
    await region.start()
    ports = await region.add_ports(network, ["host-a"])
    await until(lambda: ports[0].id in a.tables.ports)
    await asyncio.sleep(0.5)  # the loop looks at everything some times
    assert before == shared(a, ip) == shared(b, ip)
    (row,) = [one for one in region.store.rows(Router) if one.id == router.id]
    assert row.revision <= known


class Start:
    """A controller's first moments: what is stored is known, of hosts only what `health` says. Fills Control, World
    and HealthView."""

    def __init__(self, region: Region, router: Router, network: Network) -> None:
        self.of_hosts: dict[str, HostHealth] = {}
        self.submitted: list[object] = []
        self._region = region
        self._router = router
        self._network = network

    def sharers(self) -> dict[Id, Router]:
        return {self._router.id: self._router}

    def sharers_of(self, identifier: Id) -> list[Id]:
        return [self._router.id]

    def carriers(self, network_id: Id) -> dict[str, int]:
        return {"host-a": 1, "host-b": 1} if network_id == self._network.id else {}

    def node(self, name: str) -> Node | None:
        (found,) = self._region.store.list_nodes(Query(filters={"name": (name,)}))
        return found

    def published(self) -> int:
        return self._region.store.revision()

    def caught_up(self, host: str) -> int:
        return 0

    def health(self, host: str) -> HostHealth:
        return self.of_hosts.get(host, HostHealth())

    def events(self) -> list[HealthEvent]:
        return []

    async def submit(self, command: Command) -> None:
        self.submitted.append(command)


async def test_a_heartbeat_before_the_first_session_takes_no_block(region: Region) -> None:
    """It says that the host is there, not that it has no external device (the simulator's seed 70001558)."""
    a, b = [await make_host(region, name) for name in ("host-a", "host-b")]
    router, network, ip = await make_router(region)
    await region.add_ports(network, ["host-a", "host-b"])
    await until(lambda: blocks(a, ip) == {end(a): 1, end(b): 1} == blocks(b, ip))
    (router,) = [one for one in region.store.rows(Router) if one.id == router.id]
    start = Start(region, router, network)
    task = asyncio.create_task(SharingLoop(start, start, start).run())
    try:
        start.of_hosts = {name: HostHealth(state=Reach.UP, heard_at=1) for name in ("host-a", "host-b")}
        await asyncio.sleep(0.5)
        assert (task.done(), start.submitted) == (False, [])
        start.of_hosts["host-a"] = HostHealth(state=Reach.UP, heard_at=1, outside=False)
        await until(lambda: start.submitted != [])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_sharing_is_switched_off_and_on(region: Region) -> None:
    """Off, hosts have no such address, and the route says only that outside is outside."""
    a = await make_host(region, "host-a")
    router, network, ip = await make_router(region)
    await region.add_ports(network, ["host-a"])
    await until(lambda: bool(blocks(a, ip)))
    assert router.gateway is not None
    outer = router.gateway.network_id
    await region.do(UpdateRouter(id=router.id, gateway=GatewaySpec(network_id=outer, enable_snat=False)))
    everywhere = RouteKey(network.vni, parse_prefix("0.0.0.0/0"))
    await until(lambda: not a.tables.shared and Route(RouteKind.OUTSIDE) == a.tables.routes[everywhere])
    await region.do(UpdateRouter(id=router.id, gateway=GatewaySpec(network_id=outer)))
    await until(lambda: blocks(a, ip) == {end(a): 1})
