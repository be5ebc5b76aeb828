"""The compiled data plane under real traffic: two hosts in namespaces, the kernel's own stacks at every end."""

import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.dataplane import packets
from tests.dataplane.bpf_hosts import (
    BLOCK,
    Container,
    Host,
    Namespace,
    Underlay,
    eventually,
    open_tap,
    packet_socket,
    publish,
    transfer,
    udp_socket,
)

from alcor.dataplane.drops import DropReason
from alcor.dataplane.ebpf import tables
from alcor.dataplane.ebpf.program import OBJECT_PATH, Program
from alcor.dataplane.ebpf.tables import EndpointFlag, HostConfig, LocalRow, PortFlag, PortRow
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import ROUTER_MAC, Mac, format_mac, parse_ip
from alcor.model.ids import Id

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: real traffic needs root, namespaces and BPF"),
]

UDP_SEGMENT = 103
IP_RECVTTL = 12


class Net(NamedTuple):
    """Two hosts; a1, a2 and b1 share a subnet, a3 and b2 another of the VPC; x and y are of another VPC, x with a1's
    address; flat is on a network that does not route."""

    underlay: Underlay
    a1: Container
    a2: Container
    a3: Container
    b1: Container
    b2: Container
    x: Container
    y: Container
    flat: Container

    @property
    def a(self) -> Host:
        return self.underlay.a

    @property
    def b(self) -> Host:
        return self.underlay.b


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Underlay() as underlay:
        a, b = underlay.a, underlay.b
        a1 = a.add_port("10.0.0.11", gateway="10.0.0.1")
        a2 = a.add_port("10.0.0.12", gateway="10.0.0.1")
        a3 = a.add_port("10.0.1.13", gateway="10.0.1.1")
        x = a.add_port("10.0.0.11", gateway="10.0.0.1", vni=200)
        flat = a.add_port("10.0.0.40", gateway="10.0.0.1", vni=300, routed=False)
        b1 = b.add_port("10.0.0.21", gateway="10.0.0.1")
        b2 = b.add_port("10.0.1.22", gateway="10.0.1.1")
        y = b.add_port("10.0.0.30", gateway="10.0.0.1", vni=200)
        publish((a, a1), (a, a2), (a, a3), (a, x), (a, flat), (b, b1), (b, b2), (b, y))
        yield Net(underlay, a1, a2, a3, b1, b2, x, y, flat)


# ---- sockets inside containers ----


def inject(container: Container, frame: bytes) -> None:
    """Sends a frame as the workload would, whatever its stack thinks of it."""
    with closing(packet_socket(container.namespace, "eth0")) as raw:
        raw.send(frame)


def dropped(host: Host, container: Container | None, reason: DropReason) -> int:
    return host.drops(container.ifindex if container else 0, reason)


def expect_drop(host: Host, container: Container, reason: DropReason, frame: bytes) -> None:
    """The frame is dropped for that reason, once."""
    before = dropped(host, container, reason)
    inject(container, frame)
    eventually(lambda: dropped(host, container, reason) == before + 1, f"one more {reason.name}")


# ---- reachability ----


@pytest.mark.parametrize("size", [56, 1400, 1472])
@pytest.mark.parametrize("target", ["a2", "a3", "b1", "b2"])
def test_pings_are_answered(net: Net, target: str, size: int) -> None:
    """Same host or another, same subnet or another, small or filling the MTU: every ping comes back, unfragmented."""
    assert net.a1.namespace.ping(getattr(net, target).ip, size=size)


def test_the_other_direction_too(net: Net) -> None:
    """From the far host back, within the subnet and across."""
    assert net.b1.namespace.ping(net.a1.ip, size=1400)
    assert net.b2.namespace.ping(net.a1.ip, size=1400)
    assert net.b2.namespace.ping(net.a3.ip, size=1400)


@pytest.mark.parametrize("size", [56, 1472])
def test_gateways_answer_pings(net: Net, size: int) -> None:
    """The own subnet's gateway, and the other subnet's when that subnet is on this host."""
    assert net.a1.namespace.ping("10.0.0.1", size=size)
    assert net.a1.namespace.ping("10.0.1.1", size=size)
    assert net.b2.namespace.ping("10.0.1.1", size=size)


def test_a_network_that_does_not_route_has_no_gateway(net: Net) -> None:
    """Its gateway is not even found by ARP."""
    before = dropped(net.a, net.flat, DropReason.ARP_UNKNOWN)
    assert not net.flat.namespace.ping("10.0.0.1", count=1, patience_s=0.3)
    assert dropped(net.a, net.flat, DropReason.ARP_UNKNOWN) > before


def test_a_gateway_takes_nothing_but_pings(net: Net) -> None:
    """A datagram to the gateway is dropped as such."""
    frame = packets.ethernet(
        ROUTER_MAC, net.a1.port.mac, packets.ipv4(net.a1.ip, "10.0.0.1", packets.udp(net.a1.ip, "10.0.0.1", b"?"))
    )
    expect_drop(net.a, net.a1, DropReason.GATEWAY, frame)


@pytest.mark.parametrize(("target", "ttl"), [("a2", 64), ("b1", 64), ("a3", 63), ("b2", 63)])
def test_a_routed_packet_loses_one_hop(net: Net, target: str, ttl: int) -> None:
    """TTL is 64 within the subnet and 63 across subnets, on one host or two."""
    receiver: Container = getattr(net, target)
    with closing(udp_socket(receiver)) as inbox, closing(udp_socket(net.a1)) as outbox:
        inbox.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        outbox.sendto(b"hop", inbox.getsockname())
        data, ancillary, _, sender = inbox.recvmsg(100, 100)
    assert (b"hop", net.a1.ip) == (data, sender[0])
    assert [ttl] == [struct.unpack("=i", value)[0] for _, kind, value in ancillary if kind == socket.IP_TTL]


def test_arp_is_answered_with_the_truth(net: Net) -> None:
    """Neighbours have their own MACs, near and far; the gateway has the router's."""
    for ip in (net.a2.ip, net.b1.ip, "10.0.0.1"):
        net.a1.namespace.ip("neigh", "flush", "to", ip)
        assert net.a1.namespace.ping(ip, count=1)
    table = net.a1.namespace.execute("ip", "neigh", "show", "dev", "eth0")
    found = {line.split()[0]: line.split()[2] for line in table.splitlines() if "lladdr" in line}
    wanted = {net.a2.ip: net.a2.port.mac, net.b1.ip: net.b1.port.mac, "10.0.0.1": ROUTER_MAC}
    assert {ip: format_mac(mac) for ip, mac in wanted.items()} == {ip: found.get(ip) for ip in wanted}


def test_an_address_nobody_has(net: Net) -> None:
    """No flooding: the question ends at the port, counted."""
    before = dropped(net.a, net.a1, DropReason.ARP_UNKNOWN)
    assert not net.a1.namespace.ping("10.0.0.99", count=1, patience_s=0.3)
    assert dropped(net.a, net.a1, DropReason.ARP_UNKNOWN) > before


def test_vpcs_do_not_meet(net: Net) -> None:
    """The same address in two VPCs: each VPC reaches its own, and addresses of the other are unknown."""
    with closing(udp_socket(net.x, 5005)) as own, closing(udp_socket(net.a1, 5005)) as other:
        with closing(udp_socket(net.y)) as outbox:
            outbox.sendto(b"to x", ("10.0.0.11", 5005))
        assert b"to x" == own.recv(100)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(100)
    for host, container, foreign in ((net.b, net.y, net.b1), (net.a, net.a1, net.y)):
        before = dropped(host, container, DropReason.ARP_UNKNOWN)
        assert not container.namespace.ping(foreign.ip, count=1, patience_s=0.3)
        assert dropped(host, container, DropReason.ARP_UNKNOWN) > before


# ---- what must not pass ----


def test_spoofed_frames_are_dropped(net: Net) -> None:
    """Another source MAC, another source address, another's ARP: none of them leaves the port."""
    honest = packets.ipv4(net.a1.ip, net.b1.ip, packets.udp(net.a1.ip, net.b1.ip, b"spoof"))
    forged = packets.ipv4(net.a2.ip, net.b1.ip, packets.udp(net.a2.ip, net.b1.ip, b"spoof"))
    mac = net.a1.port.mac
    received = net.b.program.traffic()[net.b1.ifindex]
    expect_drop(net.a, net.a1, DropReason.SPOOFED_MAC, packets.ethernet(net.b1.port.mac, net.a2.port.mac, honest))
    expect_drop(net.a, net.a1, DropReason.SPOOFED_IP, packets.ethernet(net.b1.port.mac, mac, forged))
    expect_drop(net.a, net.a1, DropReason.SPOOFED_IP, packets.arp(mac, net.a2.ip, net.b1.ip))
    lying = packets.arp(net.a2.port.mac, net.a1.ip, net.b1.ip, ethernet_source=mac)
    expect_drop(net.a, net.a1, DropReason.SPOOFED_MAC, lying)
    assert received == net.b.program.traffic()[net.b1.ifindex]


def test_vlan_tags_do_not_slip_through(net: Net) -> None:
    """The kernel takes a tag out of the frame before the program sees it; the program still refuses the frame."""
    packet = packets.ipv4(net.a1.ip, net.b1.ip, packets.udp(net.a1.ip, net.b1.ip, b"tagged"))
    tagged = packets.ethernet(net.b1.port.mac, net.a1.port.mac, b"\x00\x05\x08\x00" + packet, packets.VLAN)
    expect_drop(net.a, net.a1, DropReason.NOT_SUPPORTED, tagged)


def test_a_port_that_is_down_sends_nothing(net: Net) -> None:
    """Without the UP flag every frame is dropped as port_down; with it the port is back, its digest another."""
    row = tables.port_row(net.a3.port, peer=True)
    key = tables.pack_ifindex(net.a3.ifindex)
    net.a.program.ports.put(key, tables.pack_port(row._replace(flags=row.flags & ~PortFlag.UP)))
    frame = packets.arp(net.a3.port.mac, net.a3.ip, "10.0.1.1")
    expect_drop(net.a, net.a3, DropReason.PORT_DOWN, frame)
    net.a.program.ports.put(key, tables.pack_port(row))
    assert net.a3.namespace.ping("10.0.1.1", count=1)


def test_strangers_in_the_tunnel_are_dropped(net: Net) -> None:
    """A tunnelled frame for a VNI that is not here, or for the wrong MAC, is dropped at ifindex 0."""
    inner = packets.ipv4(net.a1.ip, net.b1.ip, packets.udp(net.a1.ip, net.b1.ip, b"x"))
    outbox = net.a.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with closing(outbox):
        for vni, mac in ((999, net.b1.port.mac), (100, net.a1.port.mac), (100, ROUTER_MAC)):
            before = dropped(net.b, None, DropReason.NO_ENDPOINT)
            outbox.sendto(packets.vxlan(vni, packets.ethernet(mac, ROUTER_MAC, inner)), ("192.0.2.2", 4789))
            eventually(lambda: dropped(net.b, None, DropReason.NO_ENDPOINT) > before, "one more no_endpoint")  # noqa: B023
        before = dropped(net.b, None, DropReason.MALFORMED)
        outbox.sendto(b"short", ("192.0.2.2", 4789))
        eventually(lambda: dropped(net.b, None, DropReason.MALFORMED) > before, "one more malformed")


def test_the_underlays_own_traffic_passes(net: Net) -> None:
    """What is not VXLAN to this host reaches the host's own stack: pings and datagrams to other ports."""
    assert net.a.namespace.ping("192.0.2.2", size=1400)

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("192.0.2.2", 4790))
        made.settimeout(10)
        return made

    with closing(net.b.namespace.call(make)) as inbox:
        outbox = net.a.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with closing(outbox):
            outbox.sendto(b"own", inbox.getsockname())
        assert b"own" == inbox.recv(100)


# ---- content: checksums and segmentation ----


@pytest.fixture(params=["on", "off"])
def offloads(net: Net, request: pytest.FixtureRequest) -> Iterator[str]:
    """The underlay with its offloads on, and with all of them off: the kernel then does in software what a plain
    network card cannot."""
    net.underlay.offloads(request.param)
    yield request.param
    net.underlay.offloads("on")


@pytest.mark.parametrize(("sender", "receiver"), [("a1", "b1"), ("b1", "a1"), ("a1", "b2"), ("b2", "a3"), ("a1", "a2")])
def test_tcp_arrives_whole(net: Net, offloads: str, sender: str, receiver: str) -> None:
    """8 MiB arrive as they were sent, in either direction, switched and routed, near and far."""
    transfer(getattr(net, sender), getattr(net, receiver))


def test_tcp_between_stacks_without_offloads(net: Net) -> None:
    """The workloads' own offloads off: segments are cut and summed before they reach the port."""
    for container in (net.a1, net.b1):
        container.namespace.execute("ethtool", "-K", "eth0", "tx", "off", "gso", "off", "tso", "off")
    try:
        transfer(net.a1, net.b1)
        transfer(net.b1, net.a1)
    finally:
        for container in (net.a1, net.b1):
            container.namespace.execute("ethtool", "-K", "eth0", "tx", "on", "gso", "on", "tso", "on")


@pytest.mark.parametrize("target", ["a2", "b1", "b2"])
@pytest.mark.parametrize("size", [1, 1472, 9000])
def test_datagrams_arrive_whole(net: Net, offloads: str, target: str, size: int) -> None:
    """One byte, a full frame, and a datagram that the sender's stack cuts into fragments."""
    content = os.urandom(size)
    with closing(udp_socket(getattr(net, target))) as inbox, closing(udp_socket(net.a1)) as outbox:
        outbox.sendto(content, inbox.getsockname())
        assert content == inbox.recv(65535)


@pytest.mark.parametrize("target", ["a2", "b1", "b2"])
def test_bursts_of_segmented_datagrams_arrive_whole(net: Net, offloads: str, target: str) -> None:
    """64 KB handed over at once with UDP_SEGMENT arrive as 45 datagrams, in order."""
    segments = [os.urandom(1400) for _ in range(45)]
    with closing(udp_socket(getattr(net, target))) as inbox, closing(udp_socket(net.a1)) as outbox:
        outbox.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1400)
        outbox.sendto(b"".join(segments), inbox.getsockname())
        assert segments == [inbox.recv(65535) for _ in segments]


def test_the_outer_headers_are_right(net: Net) -> None:
    """On the wire: addresses, DF, TTL, checksum, lengths, VXLAN header, and the inner frame with a full checksum."""
    net.underlay.offloads("off")
    try:
        with (
            closing(packet_socket(net.b.namespace, "under")) as wire,
            closing(udp_socket(net.b1, 7777)),
            closing(udp_socket(net.a1, 8888)) as outbox,
        ):
            outbox.sendto(b"on the wire", (net.b1.ip, 7777))
            frame = wire.recv(65535)
            while b"on the wire" not in frame:
                frame = wire.recv(65535)
    finally:
        net.underlay.offloads("on")
    assert net.b.namespace.execute("cat", "/sys/class/net/under/address").strip() == frame[:6].hex(":")
    outer, udp, inner = frame[14:34], frame[34:42], frame[50:]
    assert 0 == packets.internet_checksum(outer)
    source_port, port, length, checksum = struct.unpack("!4H", udp)
    assert (4789, len(frame) - 34, 0) == (port, length, checksum)
    assert source_port >= 0xC000
    expected = packets.ipv4("192.0.2.1", "192.0.2.2", frame[34:], fragment=0x4000, ttl=64)
    assert expected == frame[14:]
    assert packets.vxlan(100, inner) == frame[42:]
    datagram = packets.udp(net.a1.ip, net.b1.ip, b"on the wire", sport=8888, dport=7777)
    assert packets.ethernet(net.b1.port.mac, net.a1.port.mac, b"") == inner[:14]
    assert datagram == inner[34:]


# ---- counters, restarts, taps, routes ----


def test_counters_count_frames_and_bytes(net: Net) -> None:
    """Ten datagrams of 100 bytes: ten frames of 142 bytes, sent here and received there."""
    assert net.a1.namespace.ping(net.b1.ip, count=1)
    before = net.a.program.traffic()[net.a1.ifindex], net.b.program.traffic()[net.b1.ifindex]
    with closing(udp_socket(net.b1)) as inbox, closing(udp_socket(net.a1)) as outbox:
        for _ in range(10):
            outbox.sendto(bytes(100), inbox.getsockname())
        for _ in range(10):
            inbox.recv(200)
    after = net.a.program.traffic()[net.a1.ifindex], net.b.program.traffic()[net.b1.ifindex]
    assert (10, 1420) == (
        after[0].sent_packets - before[0].sent_packets,
        after[0].sent_bytes - before[0].sent_bytes,
    )
    assert (10, 1420) == (
        after[1].received_packets - before[1].received_packets,
        after[1].received_bytes - before[1].received_bytes,
    )


def test_an_upgrade_drops_no_packet(net: Net, tmp_path: Path) -> None:
    """While pings run, the agent goes away, comes back with another version, and replaces the filter: none is lost."""
    newer = tmp_path / "newer.o"
    newer.write_bytes(OBJECT_PATH.read_bytes() + b"\0")
    assert net.a1.namespace.ping(net.b1.ip)
    pings = subprocess.Popen(
        ["ip", "netns", "exec", net.a1.namespace.name, "ping", "-q", "-n", "-i", "0.002", "-c", "500", net.b1.ip],
        stdout=subprocess.PIPE,
        text=True,
    )
    config = HostConfig(net.a.underlay_ip, net.a.namespace.ifindex("under"), onlink_length=24)
    versions = 0
    while pings.poll() is None:
        net.a.program.close()
        net.a.program = Program.open(newer if versions % 2 == 0 else None, net.a.pin_dir, config)
        net.a.attach_ports("replace")
        versions += 1
    assert pings.stdout is not None
    with pings.stdout:
        assert "500 received" in pings.stdout.read()
    assert versions >= 2


def test_hosts_beyond_a_router_are_reached_by_routes(net: Net) -> None:
    """Without an on-link prefix the kernel's routes choose the next hop."""
    ifindex = net.a.namespace.ifindex("under")
    net.a.program.config.put(tables.CONFIG_KEY, tables.pack_config(HostConfig(net.a.underlay_ip, ifindex)))
    try:
        assert net.a1.namespace.ping(net.b1.ip, size=1400)
        transfer(net.a1, net.b1)
        # A host that no interface's prefix holds: by way of b, which has that address too.
        net.b.namespace.ip("addr", "add", "198.51.100.7/32", "dev", "under")
        net.a.namespace.ip("route", "add", "198.51.100.7/32", "via", "192.0.2.2")
        far = Endpoint(Mac(b"\x02\0\0\0\0\x77"), parse_ip("198.51.100.7"))
        key = EndpointKey(100, parse_ip("10.0.0.77"))
        net.a.program.remote.update_batch(*tables.pack_endpoints([(key, far)]), 1)
        with closing(packet_socket(net.b.namespace, "under")) as wire, closing(udp_socket(net.a1)) as outbox:
            outbox.sendto(b"far away", ("10.0.0.77", 9))
            frame = wire.recv(65535)
            while b"far away" not in frame:
                frame = wire.recv(65535)
        assert packets.ip4("198.51.100.7") == frame[30:34]
    finally:
        config = HostConfig(net.a.underlay_ip, ifindex, onlink_length=24)
        net.a.program.config.put(tables.CONFIG_KEY, tables.pack_config(config))


class Machine(NamedTuple):
    """A virtual machine's side of a tap port on host a: the descriptor that its hypervisor holds."""

    fd: int
    ip: str
    mac: Mac

    def read(self, wanted: bytes) -> bytes:
        """The next frame that has these bytes in it."""
        frame = os.read(self.fd, 65535)
        while wanted not in frame:
            frame = os.read(self.fd, 65535)
        return frame


@pytest.fixture
def machine(net: Net) -> Iterator[Machine]:
    fd = net.a.namespace.call(lambda: open_tap(b"tap0"))
    net.a.namespace.tc("qdisc", "add", "dev", "tap0", "ingress_block", str(BLOCK), "clsact")
    net.a.namespace.ip("link", "set", "tap0", "up")
    ifindex, ip, mac = net.a.namespace.ifindex("tap0"), "10.0.0.50", Mac(b"\x02\0\0\0\0\x50")
    key = EndpointKey(100, parse_ip(ip))
    net.a.program.zero_counters([ifindex])
    net.a.program.local.update_batch(*tables.pack_locals([(key, LocalRow(ifindex, EndpointFlag(0), mac))]), 1)
    port = PortRow(Id(bytes(16)), 100, 1500, mac, PortFlag.UP | PortFlag.ROUTED, 0, 0)
    net.a.program.ports.update_batch(*tables.pack_ports([(ifindex, port)]), 1)
    net.b.program.remote.update_batch(*tables.pack_endpoints([(key, Endpoint(mac, net.a.underlay_ip))]), 1)
    yield Machine(fd, ip, mac)
    os.close(fd)
    net.a.program.ports.delete(tables.pack_ifindex(ifindex))
    net.a.program.local.delete(tables.pack_key(key))


@pytest.mark.parametrize("peer", ["a2", "b1"])
def test_a_tap_gets_frames_with_full_checksums(net: Net, machine: Machine, peer: str) -> None:
    """Without a peer the frame leaves by the interface: a machine that knows no offload reads it whole, and what it
    writes arrives."""
    ip, mac = machine.ip, machine.mac
    container: Container = getattr(net, peer)
    with closing(udp_socket(container, 6000)) as box:
        box.sendto(b"to the machine", (ip, 6001))
        frame = machine.read(b"to the machine")
        datagram = packets.udp(container.ip, ip, b"to the machine", sport=6000, dport=6001)
        assert packets.ethernet(mac, container.port.mac, b"") == frame[:14]
        assert datagram == frame[34:]
        answer = packets.ipv4(ip, container.ip, packets.udp(ip, container.ip, b"answer", sport=6001, dport=6000))
        os.write(machine.fd, packets.ethernet(container.port.mac, mac, answer))
        assert (b"answer", (ip, 6001)) == box.recvfrom(100)


def test_a_tap_gets_arp_replies(machine: Machine) -> None:
    """The answer goes back out of the port it came from."""
    os.write(machine.fd, packets.arp(machine.mac, machine.ip, "10.0.0.1"))
    reply = packets.arp(
        *(ROUTER_MAC, "10.0.0.1", machine.ip), opcode=2, target_mac=machine.mac, ethernet_destination=machine.mac
    )
    assert reply == machine.read(b"\x08\x06\x00\x01")


@pytest.mark.parametrize("peer", ["a2", "b1"])
def test_a_machine_behind_a_tap_speaks_tcp(net: Net, machine: Machine, peer: str) -> None:
    """8 MiB each way between a container and a machine: what came whole is cut and summed for the tap."""
    inside = Namespace("vm")
    try:
        nic = inside.call(lambda: open_tap(b"eth0"))
        inside.ip("link", "set", "eth0", "address", format_mac(machine.mac), "up")
        inside.ip("addr", "add", f"{machine.ip}/24", "dev", "eth0")
        stop_read, stop_write = os.pipe()

        def cable() -> None:
            while True:
                ready, _, _ = select.select([machine.fd, nic, stop_read], [], [])
                if stop_read in ready:
                    return
                for fd in ready:
                    os.write(nic if fd == machine.fd else machine.fd, os.read(fd, 65535))

        thread = threading.Thread(target=cable)
        thread.start()
        try:
            there = Container(net.a1.port, inside, "tap0", 0, machine.ip)
            transfer(getattr(net, peer), there)
            transfer(there, getattr(net, peer))
        finally:
            os.write(stop_write, b"x")
            thread.join()
            for fd in (nic, stop_read, stop_write):
                os.close(fd)
    finally:
        inside.delete()
