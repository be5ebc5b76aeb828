"""The clients that workloads run, against a host with the compiled data plane: udhcpc, dhclient, rdisc6, dig, curl.

Each client runs inside a container's namespace; the host answers on an event loop, as the agent does.
"""

import asyncio
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from msgspec.structs import replace
from tests.dataplane import packets
from tests.dataplane.contract_hosts import EbpfHost, ebpf_pair
from tests.hostsvc.people import CLIENT, V4, V6, ZONE, Names, People

from alcor.dataplane.base import Address, LocalPort, Plan
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.kernel.stack import TunStack
from alcor.hostsvc.base import ROUTER_LINK_LOCAL, Client, Lease
from alcor.hostsvc.metadata import MetadataConfig
from alcor.hostsvc.serving import HostServices, ServiceConfig
from alcor.model.addresses import format_ip, link_local, parse_ip, parse_mac, parse_prefix
from alcor.model.ids import Id, format_id
from alcor.model.nouns import DhcpOption, Ipv6Mode, PortKind

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: the compiled data plane needs root and BPF"),
]
CLIENTS = ("udhcpc", "dhclient", "rdisc6", "dig", "curl")
SECRET = b"shared"
TOOK_S = 15


class Bed(NamedTuple):
    """A host, the ports on it that are answered, and a metadata service."""

    host: EbpfHost
    people: People
    ports: dict[Id, LocalPort]

    def put(self, client: Client, vni: int = 7, *, served: bool = True, static: bool = True) -> None:
        """Carries the port of a client. Not `static`: its container has no address yet."""
        addresses = tuple(Address(one.ip, one.cidr.length, one.gateway) for one in client.leases)
        port = LocalPort(
            id=client.id,
            vni=vni,
            mac=client.mac,
            addresses=addresses,
            mtu=client.mtu,
            admin_state_up=True,
            routed=client.routed,
            kind=PortKind.CONTAINER,
            netns="",
            interface="",
            served=served,
        )
        gateways = (ROUTER_LINK_LOCAL, *(one.gateway for one in client.leases if one.gateway is not None))
        answered = tuple(EndpointKey(vni, ip) for ip in gateways)
        applied = self.host.driver.apply(Plan(put_gateways=answered, put_ports=(port,)))
        assert [one.error for one in applied.ports] == [""], applied
        self.people.clients[client.id] = client
        self.ports[client.id] = port
        if not static:
            flush = ("ip", "addr", "flush", "dev", "eth0", "scope", "global")
            subprocess.run(["nsenter", self._where(client), *flush], check=True)

    def _where(self, client: Client) -> str:
        return f"--net={self.host.netns_dir / format_id(client.id)}"

    def port(self, client: Client) -> LocalPort:
        return self.ports[client.id]

    async def run(self, client: Client, *command: str) -> tuple[int, str]:
        """Exit code and all that the command says, run where the client's workload is."""
        for word in command[:1]:
            assert shutil.which(word), f"{word} is missing: scripts/system-packages installs it"
        process = await asyncio.create_subprocess_exec(
            *("nsenter", self._where(client), *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), TOOK_S)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        return process.returncode or 0, out.decode(errors="replace")

    async def settle(self, client: Client) -> None:
        """Waits until the kernel has found that nobody else has the link-local address (RFC 4862)."""
        deadline = time.monotonic() + TOOK_S
        while True:
            _, said = await self.run(client, "ip", "-6", "addr", "show", "dev", "eth0", "scope", "link")
            if "fe80" in said and "tentative" not in said:
                return
            assert time.monotonic() < deadline, said
            await asyncio.sleep(0.05)

    def dropped(self, client: Client) -> dict[str, int]:
        return self.host.driver.counters()[client.id].dropped


@asynccontextmanager
async def bed(resolvers: tuple[tuple[str, int], ...] = ()) -> AsyncIterator[Bed]:
    """One host with its services at work, and a metadata service behind them."""
    with ebpf_pair() as (host, _):
        assert isinstance(host, EbpfHost)
        upstream = await asyncio.start_server(_metadata, "127.0.0.1", 0)
        port = upstream.sockets[0].getsockname()[1]
        config = ServiceConfig(resolvers=resolvers, metadata=MetadataConfig(host="127.0.0.1", port=port, secret=SECRET))
        people = People()
        stack = TunStack()
        services = HostServices(
            host.driver.requests, people, config, clock=time.monotonic, roll=lambda: 0.5, stack=stack
        )
        task = asyncio.create_task(services.run())
        try:
            yield Bed(host, people, {})
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            stack.close()
            upstream.close()


async def _metadata(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A small metadata service: says what it was asked."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = head if b"/large" not in head else b"x" * 300_000
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


def script(directory: Path) -> str:
    """What udhcpc runs with its answer: it says all of it."""
    path = directory / "say"
    path.write_text('#!/bin/sh\n[ "$1" = bound ] && env\nexit 0\n')
    path.chmod(0o755)
    return str(path)


async def test_udhcpc_gets_its_address_and_everything_else(tmp_path: Path) -> None:
    """The address, the router, the servers, the routes, the MTU, the names, and what extra_dhcp_opts say."""
    client = replace(
        CLIENT,
        leases=(replace(V4, nameservers=(parse_ip("192.0.2.53"),)),),
        options=(DhcpOption(4, "tftp-server", "boot.example"), DhcpOption(4, "42", "192.0.2.123")),
    )
    async with bed() as one:
        one.put(client)
        options = [word for name in ("26", "121", "66", "42") for word in ("-O", name)]
        code, said = await one.run(client, "udhcpc", "-i", "eth0", "-n", "-q", "-t3", "-s", script(tmp_path), *options)
        assert code == 0, said
        for line in (
            *("ip=10.0.0.5", "mask=24", "router=10.0.0.1", "dns=192.0.2.53", "domain=tenant.example", "hostname=web"),
            *("mtu=1450", "lease=86400", "serverid=10.0.0.1", "tftp=boot.example", "ntpsrv=192.0.2.123"),
            "staticroutes=169.254.169.254/32 10.0.0.1 0.0.0.0/0 10.0.0.1",
        ):
            assert line in said.splitlines(), said


async def test_dhclient_gets_its_address_and_gives_it_back(tmp_path: Path) -> None:
    """The whole of RFC 2131 as ISC's client speaks it: discover, request, release."""
    async with bed() as one:
        client = replace(CLIENT, leases=(V4,))
        one.put(client)
        lease, pid = tmp_path / "leases", tmp_path / "pid"
        common = ("-sf", "/bin/true", "-lf", str(lease), "-pf", str(pid), "-cf", "/dev/null", "eth0")
        code, said = await one.run(client, "dhclient", "-4", "-1", "-v", *common)
        assert code == 0, said
        assert "DHCPACK of 10.0.0.5 from 10.0.0.1" in said
        code, said = await one.run(client, "dhclient", "-4", "-r", "-v", *common)
        assert "DHCPRELEASE" in said


async def test_dhclient_gets_its_ipv6_address(tmp_path: Path) -> None:
    """Stateful DHCPv6: the port's address; and stateless: servers and domain without an address."""
    async with bed() as one:
        lease = replace(V6, nameservers=(parse_ip("2001:db8::53"),))
        client = replace(CLIENT, leases=(lease,))
        one.put(client)
        await one.settle(client)
        file, pid = tmp_path / "leases", tmp_path / "pid"
        common = ("-sf", "/bin/true", "-lf", str(file), "-pf", str(pid), "-cf", "/dev/null", "eth0")
        code, said = await one.run(client, "dhclient", "-6", "-1", "-v", *common)
        assert code == 0, said
        assert "iaaddr 2001:db8::5" in file.read_text()
        assert "2001:db8::53" in file.read_text()
        code, said = await one.run(client, "dhclient", "-6", "-r", "-v", *common)
        other = replace(client, leases=(replace(lease, ra_mode=Ipv6Mode.STATELESS, address_mode=Ipv6Mode.STATELESS),))
        one.people.clients[client.id] = other
        code, said = await one.run(client, "dhclient", "-6", "-S", "-1", "-v", *common)
        assert code == 0, said
        assert "RCV: Reply message" in said or "Reply" in said


async def test_the_kernel_configures_itself_from_advertisements() -> None:
    """rdisc6 sees what is advertised; the kernel makes its address and its default route of it, without being told."""
    lease = Lease(
        ip=parse_ip("2001:db8:9:0:f816:3eff:fe00:5"),
        cidr=parse_prefix("2001:db8:9::/64"),
        gateway=parse_ip("2001:db8:9::1"),
        ra_mode=Ipv6Mode.SLAAC,
        address_mode=Ipv6Mode.SLAAC,
    )
    client = replace(CLIENT, leases=(lease,))
    async with bed() as one:
        one.put(client, static=False)
        await one.settle(client)
        code, said = await one.run(client, "rdisc6", "-1", "-r", "3", "eth0")
        assert code == 0, said
        assert "2001:db8:9::/64" in said and "1450 bytes" in said and "fe80::a9fe:a9fe" in said, said
        deadline = time.monotonic() + TOOK_S
        while "2001:db8:9:0:f816:3eff:fe00:5/64" not in (said := (await one.run(client, "ip", "-6", "addr"))[1]):
            assert time.monotonic() < deadline, said
            await one.run(client, "rdisc6", "-1", "-r", "1", "eth0")
        _, routes = await one.run(client, "ip", "-6", "route")
        assert "default via fe80::fc16:11ff:fe00:0 dev eth0 proto ra" in routes, routes


async def test_dig_finds_ports_by_name() -> None:
    """A, AAAA and PTR, by UDP and by TCP, at both service addresses; what is nobody's is denied or refused."""
    client = CLIENT
    async with bed() as one:
        one.put(client)
        await one.settle(client)
        server, short = "@169.254.169.254", ("+short", "+tries=2", "+time=3")

        async def ask(*words: str) -> str:
            return (await one.run(client, "dig", *words))[1]

        assert await ask(server, "db.tenant.example", *short) == "10.0.0.6\n"
        assert await ask(server, "web.tenant.example", "AAAA", *short) == "2001:db8::5\n"
        assert await ask(server, "-x", "10.0.0.6", *short) == "db.tenant.example.\n"
        assert await ask(server, "-x", "10.0.0.77", *short) == "host-10-0-0-77.tenant.example.\n"
        assert await ask(server, "host-10-0-0-77.tenant.example", *short) == "10.0.0.77\n"
        assert await ask(server, "db.tenant.example", "+tcp", *short) == "10.0.0.6\n"
        assert await ask("@fe80::a9fe:a9fe%eth0", "db.tenant.example", *short) == "10.0.0.6\n"
        assert "status: NXDOMAIN" in await ask(server, "nobody.tenant.example", "+tries=2", "+time=3")
        assert "status: REFUSED" in await ask(server, "example.org", "+tries=2", "+time=3")


async def test_names_of_another_vpc_do_not_resolve() -> None:
    """Two VPCs with the same addresses: each port finds its own VPC's names, by UDP and by TCP, and no others."""
    other = replace(CLIENT, id=Id(b"q" * 16), vpc=Id(b"m" * 16), mac=parse_mac("fa:16:3e:00:00:06"))
    async with bed() as one:
        one.people.zones = {CLIENT.vpc: ZONE, other.vpc: Names({"secret": ("10.0.0.9",)})}
        one.put(CLIENT, 7)
        one.put(other, 8)
        for how in ("+notcp", "+tcp"):
            found = {}
            for client in (CLIENT, other):
                for name in ("db", "secret"):
                    _, said = await one.run(
                        client, "dig", "@169.254.169.254", f"{name}.tenant.example", "+short", "+time=3", how
                    )
                    found[client.vpc[:1], name] = said.strip()
            expected = {(b"n", "db"): "10.0.0.6", (b"n", "secret"): "", (b"m", "db"): "", (b"m", "secret"): "10.0.0.9"}
            assert expected == found


async def test_names_elsewhere_are_forwarded() -> None:
    """With a resolver, names of nobody's VPC are asked of it; one that does not answer is a failure, in time."""
    heard: list[bytes] = []

    class Upstream(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.DatagramTransport", transport)

        def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
            heard.append(data)
            if b"silent" not in data:
                end = data.index(b"\0", 12) + 5
                answer = data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:end]
                answer += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes((192, 0, 2, 80))
                self.transport.sendto(answer, source)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    try:
        async with bed((transport.get_extra_info("sockname")[:2],)) as one:
            one.put(CLIENT)
            dig = ("dig", "@169.254.169.254", "+tries=1", "+time=5")
            assert (await one.run(CLIENT, *dig, "+short", "www.example.org"))[1] == "192.0.2.80\n"
            assert "status: SERVFAIL" in (await one.run(CLIENT, *dig, "silent.example.org"))[1]
            assert len(heard) == 2
    finally:
        transport.close()


async def test_curl_gets_metadata_under_its_own_name() -> None:
    """The headers say who asks, whatever the port says itself: over IPv4 and IPv6, for two VPCs with one address."""
    other = replace(
        CLIENT, id=Id(b"q" * 16), vpc=Id(b"m" * 16), mac=parse_mac("fa:16:3e:00:00:06"), device_id="instance-2"
    )
    async with bed() as one:
        one.put(CLIENT, 7)
        one.put(other, 8)
        await one.settle(CLIENT)
        curl = ("curl", "-sS", "--max-time", "8")
        for client, device in ((CLIENT, "instance-1"), (other, "instance-2")):
            forged = ("-H", "X-Instance-ID: forged", "-H", "X-Forwarded-For: 192.0.2.1")
            code, said = await one.run(client, *curl, *forged, "http://169.254.169.254/latest/meta-data")
            assert code == 0, said
            signature = hmac.new(SECRET, device.encode(), hashlib.sha256).hexdigest()
            lines = {line.lower() for line in said.splitlines()}
            assert said.startswith("GET /latest/meta-data HTTP/1.1")
            assert lines >= {
                f"x-instance-id: {device}",
                "x-tenant-id: project-a",
                "x-forwarded-for: 10.0.0.5",
                f"x-instance-id-signature: {signature}",
            }
            assert "forged" not in said and "192.0.2.1" not in said
        local = format_ip(link_local(CLIENT.mac))
        code, said = await one.run(CLIENT, *curl, "http://[fe80::a9fe:a9fe%25eth0]/openstack")
        assert code == 0, said
        assert f"x-forwarded-for: {local}" in said.lower()
        code, said = await one.run(
            CLIENT, *curl, "-o", "/dev/null", "-w", "%{size_download}", "http://169.254.169.254/large"
        )
        assert (code, said) == (0, "300000")
        code, said = await one.run(CLIENT, *curl, "--data", "x" * 100_000, "http://169.254.169.254/password")
        assert (code, said.startswith("POST /password")) == (0, True), said


async def test_a_port_that_is_not_served_gets_no_answer(tmp_path: Path) -> None:
    """A subnet without DHCP is silent: no address, no advertisement, no name, no metadata."""
    async with bed() as one:
        one.put(CLIENT, served=False)
        quick = ("-n", "-q", "-t1", "-T1", "-s", script(tmp_path))
        assert (await one.run(CLIENT, "udhcpc", "-i", "eth0", *quick))[0] != 0
        assert (await one.run(CLIENT, "rdisc6", "-1", "-r", "1", "-w", "500", "eth0"))[0] != 0
        dig = ("dig", "@169.254.169.254", "db.tenant.example", "+tries=1", "+time=1")
        assert (await one.run(CLIENT, *dig))[0] != 0
        assert (await one.run(CLIENT, "curl", "-sS", "--max-time", "1", "http://169.254.169.254/"))[0] != 0


async def test_a_port_cannot_play_dhcp_server() -> None:
    """What a DHCP server would say is dropped at the port that says it, and counted there."""
    async with bed() as one:
        one.put(CLIENT)
        await one.settle(CLIENT)

        def play() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                server.bind(("", 67))
                server.sendto(b"offer", ("255.255.255.255", 68))
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
                server.bind(("", 547))
                server.sendto(b"advertise", ("ff02::1", 546, 0, socket.if_nametoindex("eth0")))

        await asyncio.to_thread(one.host.in_workload, one.port(CLIENT), play)
        deadline = time.monotonic() + 5
        while one.dropped(CLIENT).get("dhcp_server", 0) < 2:
            assert time.monotonic() < deadline, one.dropped(CLIENT)
            await asyncio.sleep(0.05)


async def test_garbage_is_counted_and_answered_with_nothing() -> None:
    """What the host cannot make sense of is dropped at its port: `unserved`."""
    async with bed() as one:
        one.put(CLIENT)
        with one.host.wire(one.port(CLIENT)) as wire:
            packet = packets.ipv4(b"\0\0\0\0", "255.255.255.255", packets.ports(17, 68, 67, data=b"garbage"))
            wire.send(packets.ethernet(packets.BROADCAST, CLIENT.mac, packet))
            deadline = time.monotonic() + 5
            while one.dropped(CLIENT).get("unserved") != 1:
                assert time.monotonic() < deadline, one.dropped(CLIENT)
                await asyncio.sleep(0.05)


async def test_a_port_that_asks_too_much_is_slowed() -> None:
    """Beyond 1,024 requests in a second the host does not look: `service_limit`; a second later it does again."""
    async with bed() as one:
        one.put(CLIENT)
        packet = packets.ipv4(b"\0\0\0\0", "255.255.255.255", packets.ports(17, 68, 67, data=b"garbage"))
        frame = packets.ethernet(packets.BROADCAST, CLIENT.mac, packet)

        def flood() -> None:
            with one.host.wire(one.port(CLIENT)) as wire:
                for _ in range(4000):
                    wire.send(frame)

        await asyncio.to_thread(flood)
        deadline = time.monotonic() + 10
        while not (found := one.dropped(CLIENT)).get("service_limit") or not found.get("unserved"):
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.1)
        dig = ("dig", "@169.254.169.254", "db.tenant.example", "+short", "+tries=3", "+time=2")
        assert (await one.run(CLIENT, *dig))[1] == "10.0.0.6\n"


def test_the_clients_are_there() -> None:
    """scripts/system-packages installs every client that these tests run."""
    assert [name for name in CLIENTS if shutil.which(name) is None] == []
