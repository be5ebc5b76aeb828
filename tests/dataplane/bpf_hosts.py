"""Throw-away hosts for the compiled data plane: namespaces, a veth underlay, the programs attached by iproute2.

Used by tests/dataplane/test_bpf_*.py. Needs root. `Underlay` is a context: on leaving it nothing is left behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import itertools
import os
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from alcor.dataplane.base import Address, LocalPort
from alcor.dataplane.drops import DropReason
from alcor.dataplane.ebpf import tables
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.tables import HostConfig
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.kernel import bpf
from alcor.model.addresses import Ip, Mac, format_ip, format_mac, parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import PortKind

T = TypeVar("T")

BLOCK = 22
TRANSFER = 8 << 20
ETH_P_ALL = 3
OFFLOADS = ("tx", "rx", "gso", "tso", "gro", "sg")
_serial = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str) -> str:
    """Runs a command to its end; what it printed. Its error output is in the exception when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def eventually(condition: Callable[[], bool], what: str, within_s: float = 10) -> None:
    """Returns as soon as the condition holds; fails after a generous while."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.005)


class Namespace:
    """A named network namespace."""

    def __init__(self, role: str) -> None:
        self.name = f"alcor-test-bpf-{os.getpid()}-{next(_serial)}-{role}"
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def ip(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments)

    def tc(self, *arguments: str) -> None:
        run("tc", "-n", self.name, *arguments)

    def execute(self, *command: str) -> str:
        return run("ip", "netns", "exec", self.name, *command)

    def call(self, function: Callable[[], T]) -> T:
        """The function's result, run in this namespace by a thread of its own. Sockets made there stay there."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with Path("/run/netns", self.name).open(encoding="ascii") as handle:
                    assert _libc.setns(handle.fileno(), 0x40000000) == 0, os.strerror(ctypes.get_errno())
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def ifindex(self, interface: str) -> int:
        return self.call(lambda: socket.if_nametoindex(interface))

    def ping(self, target: str, *, size: int = 56, count: int = 3, patience_s: float = 5) -> bool:
        """True when every ping is answered. Fragmentation is forbidden."""
        done = subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                self.name,
                "ping",
                "-q",
                "-n",
                "-i",
                "0.01",
                "-W",
                str(patience_s),
                "-M",
                "do",
                "-c",
                str(count),
                "-s",
                str(size),
                target,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode == 0 and f"{count} received" in done.stdout

    def delete(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


class Container:
    """A port: its record, its namespace, and the host-side interface."""

    def __init__(self, port: LocalPort, namespace: Namespace, interface: str, ifindex: int, ip: str = "") -> None:
        self.port = port
        self.namespace = namespace
        self.interface = interface
        self.ifindex = ifindex
        self.ip = ip or format_ip(port.addresses[0].ip)


class Host:
    """A host: underlay device, BPF directory, programs attached."""

    def __init__(self, number: int, stack: ExitStack) -> None:
        self.number = number
        self.underlay_ip = parse_ip(f"192.0.2.{number}")
        self.namespace = Namespace(f"h{number}")
        stack.callback(self.namespace.delete)
        self._stack = stack
        self._ports = itertools.count(1)
        # What a production host has too: without it every packet of a port costs a lookup in an empty IPv6 table.
        self.namespace.execute(
            "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"
        )

    def start(self) -> None:
        """Attaches the programs. The underlay device is there by now."""
        self.pin_dir = Path(tempfile.mkdtemp(prefix="alcor-test-"))
        self._stack.callback(self.pin_dir.rmdir)
        self._stack.callback(bpf.unmount_bpffs, self.pin_dir)
        config = HostConfig(self.underlay_ip, self.namespace.ifindex("under"), onlink_length=24)
        self.program = Program.open(
            None, self.pin_dir, config, remote_entries=4096, translation_entries=4096, flow_entries=4096
        )
        self._stack.callback(self.close)
        self.namespace.tc("qdisc", "add", "dev", "under", "clsact")
        self.namespace.tc(
            *("filter", "add", "dev", "under", "ingress", "prio", "1", "handle", "1", "bpf", "da"),
            *("object-pinned", str(self.program.from_overlay_pin)),
        )

    def close(self) -> None:
        """Closes the program that is open now: an upgrade may have replaced the first."""
        self.program.close()

    def attach_ports(self, how: str = "add") -> None:
        """Attaches (or replaces) the program of all ports."""
        self.namespace.tc(
            *("filter", how, "block", str(BLOCK), "prio", "1", "handle", "1", "bpf", "da"),
            *("object-pinned", str(self.program.from_port_pin)),
        )

    def add_port(
        self, ip: str, *, gateway: str | None = None, vni: int = 100, mtu: int = 1500, routed: bool = True
    ) -> Container:
        """A container with that address, wired and programmed; peers reach it after `Underlay.publish`."""
        number = next(self._ports)
        namespace = Namespace(f"h{self.number}c{number}")
        self._stack.callback(namespace.delete)
        # Its stack would send router solicitations of its own, at any time, and each counts as not_supported.
        namespace.execute("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        interface = f"v{number}"
        mac = Mac(bytes((2, 0, 0, 0, self.number, number)))
        address = Address(parse_ip(ip), 24, parse_ip(gateway) if gateway else None)
        port = LocalPort(
            id=Id(os.urandom(16)),
            vni=vni,
            mac=mac,
            addresses=(address,),
            mtu=mtu,
            admin_state_up=True,
            routed=routed,
            kind=PortKind.CONTAINER,
            netns="",
            interface="eth0",
        )
        self.namespace.ip(
            *("link", "add", interface, "mtu", str(mtu), "type", "veth"),
            *("peer", "name", "eth0", "netns", namespace.name, "address", format_mac(mac), "mtu", str(mtu)),
        )
        self.namespace.tc("qdisc", "add", "dev", interface, "ingress_block", str(BLOCK), "clsact")
        if number == 1:
            self.attach_ports()
        self.namespace.ip("link", "set", interface, "up")
        namespace.ip("addr", "add", f"{ip}/24", "dev", "eth0")
        namespace.ip("link", "set", "eth0", "up")
        if gateway:
            namespace.ip("route", "add", "default", "via", gateway)
        container = Container(port, namespace, interface, self.namespace.ifindex(interface))
        self.program_port(container)
        return container

    def program_port(self, container: Container) -> None:
        """The table rows of a port, in the order of wiring: the row of `ports` last."""
        port, ifindex = container.port, container.ifindex
        self.program.zero_counters([ifindex])
        locals_ = tables.port_endpoints(port, ifindex, peer=True)
        self.program.local.update_batch(*tables.pack_locals(locals_), len(locals_))
        gateways = [EndpointKey(port.vni, address.gateway) for address in port.addresses if address.gateway]
        self.program.local.update_batch(*tables.pack_gateways(gateways), len(gateways))
        self.program.ports.update_batch(*tables.pack_ports([(ifindex, tables.port_row(port, peer=True))]), 1)

    def know(self, container: Container, host_ip: Ip) -> None:
        """Learns where another host's port is."""
        rows = [
            (EndpointKey(container.port.vni, address.ip), Endpoint(container.port.mac, host_ip))
            for address in container.port.addresses
        ]
        self.program.remote.update_batch(*tables.pack_endpoints(rows), len(rows))

    def drops(self, ifindex: int, reason: DropReason) -> int:
        return self.program.dropped().get(ifindex, {}).get(reason, 0)


class Underlay:
    """Two hosts on one wire."""

    def __init__(self, mtu: int = 1550) -> None:
        self.mtu = mtu
        self._stack = ExitStack()

    def __enter__(self) -> Underlay:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _make(self) -> None:
        self.a, self.b = Host(1, self._stack), Host(2, self._stack)
        self.a.namespace.ip(
            *("link", "add", "under", "mtu", str(self.mtu), "type", "veth"),
            *("peer", "name", "under", "netns", self.b.namespace.name, "mtu", str(self.mtu)),
        )
        for host in (self.a, self.b):
            host.namespace.ip("addr", "add", f"{format_ip(host.underlay_ip)}/24", "dev", "under")
            host.namespace.ip("link", "set", "under", "up")
            host.start()
        self.offloads("on")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not os.environ.get("KEEP"):
            self._stack.close()

    def offloads(self, state: str) -> None:
        """Turns checksum and segmentation offload of the underlay on or off, at both ends."""
        words = [word for name in OFFLOADS for word in (name, state)]
        # docs/pipeline.md, "MTU and offloads": segmented UDP must not cross a virtual underlay whole.
        words += ["tx-udp-segmentation", "off"]
        for host in (self.a, self.b):
            host.namespace.execute("ethtool", "-K", "under", *words)


def publish(*placed: tuple[Host, Container]) -> None:
    """Tells every host where the other hosts' ports are."""
    for host in {host for host, _ in placed}:
        for other, container in placed:
            if other is not host:
                host.know(container, other.underlay_ip)


# ---- what workloads do ----


def udp_socket(container: Container, port: int = 0) -> socket.socket:
    """A socket bound to the container's address; gives up reading after 10 s."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((container.ip, port))
        made.settimeout(10)
        return made

    return container.namespace.call(make)


def packet_socket(namespace: Namespace, interface: str) -> socket.socket:
    """Every frame of an interface, before any program sees it; what is sent leaves as it is."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((interface, ETH_P_ALL))
        made.settimeout(10)
        return made

    return namespace.call(make)


def transfer(sender: Container, receiver: Container) -> None:
    """8 MiB by TCP; both ends hash what passes through their hands."""
    content = os.urandom(TRANSFER)

    def listening() -> socket.socket:
        return socket.create_server((receiver.ip, 0))

    with receiver.namespace.call(listening) as server:
        server.settimeout(20)
        address = server.getsockname()

        def send() -> None:
            client = sender.namespace.call(lambda: socket.create_connection(address, timeout=20))
            with client:
                client.sendall(content)

        thread = threading.Thread(target=send)
        thread.start()
        accepted, _ = server.accept()
        digest = hashlib.sha256()
        with accepted:
            accepted.settimeout(20)
            while chunk := accepted.recv(1 << 18):
                digest.update(chunk)
        thread.join()
    assert hashlib.sha256(content).digest() == digest.digest()


def open_tap(name: bytes) -> int:
    """A tap device in this namespace, by the descriptor that its hypervisor would hold."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    # TUNSETIFF; IFF_TAP | IFF_NO_PI
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name, 0x1002))
    return fd
