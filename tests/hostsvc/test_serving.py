"""The services at work over the software switch: the same answers as over the compiled program."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace
from tests.dataplane import packets
from tests.dataplane.contract_hosts import FakeHost
from tests.hostsvc.people import CLIENT, MAC, V4, People
from tests.hostsvc.test_dhcp4 import request, told
from tests.hostsvc.test_dns import HONEST

from alcor.dataplane.base import Address, LocalPort, Plan
from alcor.hostsvc import dhcp4, dns
from alcor.hostsvc.packets import Datagram, read_datagram, read_header, write_datagram
from alcor.hostsvc.resolvers import Resolvers
from alcor.hostsvc.serving import HostServices, ServiceConfig
from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS
from alcor.model.nouns import PortKind

WAIT_S = 5.0
PORT = LocalPort(
    id=CLIENT.id,
    vni=7,
    mac=MAC,
    addresses=(Address(V4.ip, 24, V4.gateway),),
    mtu=1450,
    admin_state_up=True,
    routed=True,
    kind=PortKind.CONTAINER,
    netns="",
    interface="",
    served=True,
)


@asynccontextmanager
async def serving(people: People) -> AsyncIterator[FakeHost]:
    """A fake host that carries the client's port, with services at work."""
    network = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
    host = FakeHost(f"{network}.1")
    host.driver.apply(Plan(put_ports=(PORT,)))
    services = HostServices(host.driver.requests, people, ServiceConfig(), clock=time.monotonic, roll=lambda: 0.5)
    task = asyncio.create_task(services.run())
    try:
        await asyncio.sleep(0)
        yield host
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        host.close()


async def received(host: FakeHost) -> bytes:
    """The next frame that the workload is given, and that comes from the router."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for frame in host.driver.received(PORT.id):
            if frame[6:12] == ROUTER_MAC:
                return frame
        await asyncio.sleep(0.01)
    raise AssertionError("no answer came")


async def test_the_software_switch_answers_alike() -> None:
    """DHCP, and DNS by UDP; TCP has no stack there: dropped and counted, like garbage."""
    client = replace(CLIENT, leases=(V4,))
    async with serving(People(client)) as host:
        host.driver.inject(PORT.id, request(dhcp4.DISCOVER))
        offer, options = told(await received(host))
        assert (offer.destination, options[53]) == (V4.ip, bytes((dhcp4.OFFER,)))
        asked = Datagram(MAC, V4.ip, SERVICE_IPS[0], 4000, dns.PORT, HONEST)
        host.driver.inject(PORT.id, write_datagram(asked, ROUTER_MAC))
        answer = plain(await received(host))
        assert (answer.source, answer.source_port, answer.destination_port) == (SERVICE_IPS[0], dns.PORT, 4000)
        assert answer.payload[:2] == HONEST[:2]
        syn = packets.ipv4(V4.ip, SERVICE_IPS[0], packets.ports(packets.TCP, 4000, 80), protocol=packets.TCP)
        host.driver.inject(PORT.id, packets.ethernet(ROUTER_MAC, MAC, syn))
        host.driver.inject(PORT.id, request(dhcp4.OFFER))
        deadline = time.monotonic() + WAIT_S
        while host.driver.counters()[PORT.id].dropped.get("unserved") != 2:
            assert time.monotonic() < deadline, host.driver.counters()[PORT.id]
            await asyncio.sleep(0.01)


def plain(frame: bytes) -> Datagram:
    """A datagram that is no DHCP."""
    ip = read_header(frame)
    found = read_datagram(frame, ip) if ip is not None else None
    assert found is not None
    return found


async def test_a_port_that_went_is_answered_no_more() -> None:
    """Its request comes too late: refused, and nothing else."""
    people = People()
    async with serving(people) as host:
        host.driver.inject(PORT.id, request(dhcp4.DISCOVER))
        deadline = time.monotonic() + WAIT_S
        while host.driver.counters()[PORT.id].dropped.get("unserved") != 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_the_second_resolver_is_asked_when_the_first_is_away() -> None:
    """Over TCP too; a resolver that answers another question is no answer."""

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\0\x0c" + b"\x99" * 12)
        await writer.drain()
        writer.close()

    async def know(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = query[:2] + b"\x81" + query[3:]
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()

    liar = await asyncio.start_server(lie, "127.0.0.1", 0)
    knower = await asyncio.start_server(know, "127.0.0.1", 0)
    try:
        ends = [one.sockets[0].getsockname()[:2] for one in (liar, knower)]
        resolvers = Resolvers(ends, timeout_s=1.0)
        assert resolvers.available and not Resolvers(()).available
        answer = await resolvers.ask(HONEST, tcp=True)
        assert answer == HONEST[:2] + b"\x81" + HONEST[3:]
        assert await Resolvers(ends[:1], timeout_s=1.0).ask(HONEST, tcp=True) is None
    finally:
        liar.close()
        knower.close()
