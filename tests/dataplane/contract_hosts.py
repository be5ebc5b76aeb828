"""Hosts for the driver contract suite: the same few verbs over the fake driver and over the real one. Used by
test_contract.py.

A host has a driver that can be closed and opened again, workloads behind its ports that send and receive frames, and a
world around it (interfaces and namespaces that somebody else made). Leaving it, nothing is left on the machine.
"""

import fcntl
import os
import secrets
import select
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from tests.dataplane import packets

from alcor.dataplane.base import (
    Applied,
    Driver,
    LocalPort,
    Misses,
    Observed,
    Plan,
    PortCounters,
    Prober,
    Requests,
    ServiceCounters,
    ServiceKey,
)
from alcor.dataplane.ebpf.driver import EbpfConfig, EbpfDriver
from alcor.dataplane.fake.driver import FakeDriver
from alcor.dataplane.fake.switch import Switch
from alcor.dataplane.fake.walk import VerdictKind
from alcor.dataplane.kernel import bpf, links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.model.addresses import Ip, Mac, format_ip, ip_version, parse_ip
from alcor.model.ids import Id, format_id
from alcor.model.nouns import PortKind

T = TypeVar("T")
WAIT_S = 5.0
"""For what must arrive."""
MISS_S = 0.3
"""For what must not: a ping that nobody may answer."""


class Wire(Protocol):
    """The workload's end of a port."""

    def send(self, frame: bytes) -> None:
        """Sends the frame as it is."""

    def wait(self, frame: bytes) -> list[bytes]:
        """Every frame that arrived, up to and with this one; fails when it does not come."""


class World(Protocol):
    """What is behind a host's external device."""

    mac: Mac
    """The external device's."""

    def send(self, frame: bytes) -> None:
        """The external device receives the frame."""

    asked: set[Ip]
    """IPv6 neighbours that packets left to."""
    arp: list[bytes]
    """ARP frames that left, but for questions about neighbours: seen while it waits."""

    def wait(self, source: str, wait_s: float = WAIT_S) -> bytes | None:
        """The next IP packet with that source that leaves through it; None: none does."""


class Host(Protocol):
    """A host as the suite sees it."""

    underlay_ip: Ip

    @property
    def driver(self) -> Driver:
        """The one that is open now."""

    def reopen(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Closes the driver and makes another, as an agent's restart does; `meanwhile` runs when there is none."""

    def wire(self, port: LocalPort) -> AbstractContextManager[Wire]:
        """The workload's end of the port (a context)."""

    def ping(self, port: LocalPort, destination: str, wait_s: float = WAIT_S) -> bool:
        """True when the container's ping is answered."""

    def world(self) -> AbstractContextManager[World]:
        """The other end of the external device's wire."""

    def make_interface(self, name: str) -> None:
        """Somebody else makes an interface, to be adopted or not."""

    def make_namespace(self) -> str:
        """Somebody else makes a namespace; its path."""

    def foreign(self) -> frozenset[str]:
        """What somebody else made and is still there."""

    def leave_half_made(self, port: LocalPort) -> None:
        """What a crash in the middle of putting the port leaves."""

    def contents(self) -> object:
        """All that the data plane holds, to compare."""


def _frames_until(frame: bytes, receive: Callable[[float], tuple[bytes, ...]]) -> list[bytes]:
    seen: list[bytes] = []
    deadline = time.monotonic() + WAIT_S
    while frame not in seen:
        left = deadline - time.monotonic()
        assert left > 0, f"{frame.hex()} did not come, only {[one.hex() for one in seen]}"
        seen += receive(left)
    return seen[: seen.index(frame) + 1]


def _is_from(packet: bytes, source: str) -> bool:
    """An IP packet with that source."""
    if ":" in source:
        return packet[0] >> 4 == 6 and packet[8:24] == packets.ip6(source)
    return packet[0] >> 4 == 4 and packet[12:16] == packets.ip4(source)


# ---- the fake driver ----


class _FakeWire:
    def __init__(self, driver: FakeDriver, port_id: Id) -> None:
        self._driver = driver
        self._port_id = port_id
        driver.received(port_id)

    def send(self, frame: bytes) -> None:
        self._driver.inject(self._port_id, frame)

    def wait(self, frame: bytes) -> list[bytes]:
        return _frames_until(frame, lambda left: self._driver.received(self._port_id, left))


OUTSIDE_MAC = Mac(packets.mac(0xE0))
WORLD_MAC = Mac(packets.mac(0xE1))
SOLICITATION = 135


class _FakeWorld:
    mac = OUTSIDE_MAC

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self.asked: set[Ip] = set()
        self.arp: list[bytes] = []
        switch.sent_outside.clear()

    def send(self, frame: bytes) -> None:
        verdict = self._switch.receive_outside(frame)
        if verdict.kind is VerdictKind.REPLY and verdict.frame[12:14] == b"\x08\x06":
            self.arp.append(verdict.frame)

    def wait(self, source: str, wait_s: float = WAIT_S) -> bytes | None:
        deadline = time.monotonic() + wait_s
        while (one := self._switch.left(max(0.0, deadline - time.monotonic()))) is not None:
            if ip_version(one[0]) == 6:
                self.asked.add(one[0])
            if _is_from(one[1], source):
                return one[1]
        return None


class FakeHost:
    """A software switch; what somebody else made is a name on it."""

    def __init__(self, underlay_ip: str) -> None:
        self.underlay_ip = parse_ip(underlay_ip)
        self._switch = Switch(self.underlay_ip, external=OUTSIDE_MAC).open()
        self.driver: FakeDriver = FakeDriver(self._switch)

    def close(self) -> None:
        self.driver.close()
        self._switch.close()

    def reopen(self, meanwhile: Callable[[], None] | None = None) -> None:
        self.driver.close()
        if meanwhile:
            meanwhile()
        self.driver = FakeDriver(self._switch)

    @contextmanager
    def wire(self, port: LocalPort) -> Iterator[Wire]:
        yield _FakeWire(self.driver, port.id)

    def ping(self, port: LocalPort, destination: str, wait_s: float = WAIT_S) -> bool:
        return self.driver.ping(port.id, parse_ip(destination), timeout_s=wait_s).received == 1

    @contextmanager
    def world(self) -> Iterator[World]:
        yield _FakeWorld(self._switch)

    def make_interface(self, name: str) -> None:
        self._switch.add_foreign(name)

    def make_namespace(self) -> str:
        name = f"/run/netns/{secrets.token_hex(4)}"
        self._switch.add_foreign(name)
        return name

    def foreign(self) -> frozenset[str]:
        return self._switch.foreign()

    def leave_half_made(self, port: LocalPort) -> None:
        with self._switch.changing() as carried:
            carried.add_device(port)

    def contents(self) -> object:
        with self._switch.changing() as carried:
            state = carried.state()
        names = [device.name for device in state.devices.values()]
        return names, state.ports, state.local, state.remote, state.traffic, set(state.drops) - {0}, state.foreign


@contextmanager
def fake_pair() -> Iterator[tuple[Host, Host]]:
    """Two fake hosts at loopback addresses of a network of their own."""
    network = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
    with ExitStack() as stack:
        a, b = FakeHost(f"{network}.1"), FakeHost(f"{network}.2")
        stack.callback(a.close)
        stack.callback(b.close)
        yield a, b


# ---- the real driver ----

UNDERLAY = "underlay"
EXTERNAL, WORLD = "external", "world"
UNDERLAY_MTU = 1500
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x2, 0x1000
OTHER_END = "x"
"""Before an adopted interface's name: the other end of its veth, where the workload is."""


class _SocketWire:
    """An AF_PACKET socket, or a tap's own descriptor, at the workload's end."""

    def __init__(self, receive: Callable[[], bytes], send: Callable[[bytes], int], readable: int) -> None:
        self._receive = receive
        self._send = send
        self._readable = readable

    def send(self, frame: bytes) -> None:
        self._send(frame)

    def wait(self, frame: bytes) -> list[bytes]:
        def receive(left: float) -> tuple[bytes, ...]:
            return (self._receive(),) if select.select([self._readable], [], [], left)[0] else ()

        return _frames_until(frame, receive)


class _RealWorld:
    """A raw socket at the other end of the external device's veth, where every address is."""

    mac = OUTSIDE_MAC

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self.asked: set[Ip] = set()
        self.arp: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def wait(self, source: str, wait_s: float = WAIT_S) -> bytes | None:
        deadline = time.monotonic() + wait_s
        while select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            frame = self._socket.recv(65535)
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[28:32] != frame[38:42]:
                asked, asker = frame[38:42], frame[22:32]
                self._socket.send(packets.arp(WORLD_MAC, asked, asker[6:], opcode=2, target_mac=asker[:6]))
            elif frame[12:14] == b"\x08\x06":
                self.arp.append(frame)
            elif frame[12:14] == b"\x86\xdd" and frame[20] == packets.ICMPV6 and frame[54] == SOLICITATION:
                self._tell(frame)
            elif frame[12:14] in (b"\x08\0", b"\x86\xdd") and _is_from(frame[14:], source):
                return frame[14:]
        return None

    def _tell(self, question: bytes) -> None:
        """The host's kernel looks for a neighbour: it is here."""
        asker, target = Ip(question[22:38]), Ip(question[62:78])
        if asker == bytes(16):
            return  # duplicate address detection
        self.asked.add(target)
        told = packets.icmpv6(target, asker, 136, b"\x60\0\0\0" + target + b"\x02\x01" + WORLD_MAC)
        packet = packets.ipv6(target, asker, told, protocol=packets.ICMPV6, hops=255)
        self._socket.send(packets.ethernet(question[6:12], WORLD_MAC, packet, packets.IPV6))


class _OnThread:
    """The driver, called on the thread that lives in the host's namespace, as the agent's worker does."""

    name = "ebpf"

    def __init__(self, inside: ThreadPoolExecutor, config: EbpfConfig) -> None:
        self._inside = inside
        self._driver = inside.submit(EbpfDriver, config).result()

    @property
    def external(self) -> bool:
        return self._driver.external

    @property
    def misses(self) -> Misses:
        return self._driver.misses

    @property
    def requests(self) -> Requests:
        return self._driver.requests

    def observe(self) -> Observed:
        return self._inside.submit(self._driver.observe).result()

    def apply(self, plan: Plan) -> Applied:
        return self._inside.submit(self._driver.apply, plan).result()

    def sweep(self, orphans: tuple[str, ...]) -> None:
        self._inside.submit(self._driver.sweep, orphans).result()

    def counters(self) -> dict[Id, PortCounters]:
        return self._inside.submit(self._driver.counters).result()

    @property
    def prober(self) -> Prober:
        return self._driver.prober

    def interface_of(self, port_id: Id) -> int | None:
        return self._inside.submit(self._driver.interface_of, port_id).result()

    def service_counters(self) -> dict[ServiceKey, ServiceCounters]:
        return self._inside.submit(self._driver.service_counters).result()

    def close(self) -> None:
        self._inside.submit(self._driver.close).result()


class EbpfHost:
    """A network namespace without a name, with the compiled data plane; its containers' are named in a directory."""

    def __init__(self, underlay_ip: str, directory: Path, stack: ExitStack) -> None:
        self.underlay_ip = parse_ip(underlay_ip)
        self._directory = directory
        self._inside = stack.enter_context(ThreadPoolExecutor(1))
        self.namespace = self._inside.submit(netns.make_here).result()
        stack.callback(os.close, self.namespace)
        self.netns_dir = directory / "netns"
        self._given_dir = directory / "given"
        for one in (self.netns_dir, self._given_dir):
            one.mkdir(parents=True)
            stack.callback(_delete_all, one)
        self._foreign: set[str] = set()
        self._config = EbpfConfig(
            pin_dir=directory / "bpf",
            device=UNDERLAY,
            underlay_ip=self.underlay_ip,
            netns_dir=self.netns_dir,
            remote_entries=1024,
            translation_entries=4096,
            flow_entries=4096,
            external_device=EXTERNAL,
        )
        stack.callback(self._unmount)

    def _unmount(self) -> None:
        if self._config.pin_dir.exists():
            bpf.unmount_bpffs(self._config.pin_dir)

    def start(self, stack: ExitStack) -> None:
        """Once the underlay is there."""
        self.driver: Driver = _OnThread(self._inside, self._config)
        stack.callback(self._close)

    def _close(self) -> None:
        self.driver.close()

    def call(self, function: Callable[[], T]) -> T:
        """In the host's namespace."""
        return self._inside.submit(function).result()

    def reopen(self, meanwhile: Callable[[], None] | None = None) -> None:
        self.driver.close()
        if meanwhile:
            meanwhile()
        self.driver = _OnThread(self._inside, self._config)

    def in_workload(self, port: LocalPort, function: Callable[[], T]) -> T:
        """Where the port's workload is."""
        if port.kind is not PortKind.CONTAINER:
            return self.call(function)
        fd = netns.open_path(port.netns or self.netns_dir / format_id(port.id))
        try:
            return netns.call(fd, function)
        finally:
            os.close(fd)

    @contextmanager
    def wire(self, port: LocalPort) -> Iterator[Wire]:
        if port.kind is PortKind.TAP:
            name = ("tap" + format_id(port.id)[:11]).encode()
            tap = self.call(lambda: _plug(name))
            try:
                yield _SocketWire(lambda: os.read(tap, 65535), lambda frame: os.write(tap, frame), tap)
            finally:
                os.close(tap)
            return
        name_at_workload = OTHER_END + port.interface if port.kind is PortKind.ADOPTED else port.interface or "eth0"

        def open_socket() -> socket.socket:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            opened.bind((name_at_workload, 3))
            return opened

        with self.in_workload(port, open_socket) as opened:
            yield _SocketWire(lambda: opened.recv(65535), opened.send, opened.fileno())

    def ping(self, port: LocalPort, destination: str, wait_s: float = WAIT_S) -> bool:
        identifier = secrets.randbelow(0x10000)

        def open_socket() -> socket.socket:
            return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

        with self.in_workload(port, open_socket) as opened:
            try:
                opened.sendto(packets.icmp_echo(identifier=identifier), (destination, 0))
            except OSError:
                return False  # No route, or no answer to an earlier ARP question.
            deadline = time.monotonic() + wait_s
            while select.select([opened], [], [], max(0.0, deadline - time.monotonic()))[0]:
                packet, (source, _) = opened.recvfrom(2048)
                if source == destination and packet[20] == 0 and packet[24:26] == identifier.to_bytes(2, "big"):
                    return True
        return False

    @contextmanager
    def world(self) -> Iterator[World]:
        def open_socket() -> socket.socket:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            opened.bind((WORLD, 3))
            return opened

        with self.call(open_socket) as opened:
            yield _RealWorld(opened)

    def make_interface(self, name: str) -> None:
        def make() -> None:
            with Netlink() as netlink:
                netlink.check([links.veth(name, 0, OTHER_END + name, up=True)])
                netlink.check([links.set_link(socket.if_nametoindex(OTHER_END + name), up=True)])

        self.call(make)
        self._foreign.add(name)

    def make_namespace(self) -> str:
        path = self._given_dir / secrets.token_hex(4)
        netns.create(path)
        self._foreign.add(str(path))
        return str(path)

    def foreign(self) -> frozenset[str]:
        names = self._interfaces()
        return frozenset(one for one in self._foreign if one in names or netns.is_named(Path(one)))

    def _interfaces(self) -> list[str]:
        return sorted(name for _, name in self.call(socket.if_nameindex))

    def leave_half_made(self, port: LocalPort) -> None:
        """The port is made, then loses its row: so a crash just before that row leaves it."""
        assert self.driver.apply(Plan(put_ports=(port,))).ports[0].error == ""
        ports = bpf.BpfMap.open(self._config.pin_dir / "ports")
        try:
            for key, value in list(ports.items()):
                if value[:16] == port.id:
                    assert ports.delete(key)
        finally:
            ports.close()

    def contents(self) -> object:
        tables = {}
        for name in ("ports", "local", "remote", "counters", "records", "drops"):
            opened = bpf.BpfMap.open(self._config.pin_dir / name)
            tables[name] = sorted(key for key, _ in opened.items())
            opened.close()
        # What workloads chatter is dropped at any time; drops at interface 0 are the host's own. Others were forgotten.
        kept = {bytes(4), *tables["ports"]}
        tables["drops"] = [key for key in tables["drops"] if key[:4] not in kept]
        return self._interfaces(), sorted(one.name for one in self.netns_dir.iterdir()), tables


def _plug(name: bytes) -> int:
    """Takes the tap, as a VM does; returns the descriptor, which belongs to the namespace in which it was opened.

    The kernel starts to transmit to a tap within a second of its being taken (linkwatch). Down and up again makes it do
    so at once: a test need not wait for what nobody can be told of.
    """
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name, IFF_TAP | IFF_NO_PI))
    index = socket.if_nametoindex(name.decode())
    with Netlink() as netlink:
        netlink.check([links.set_link(index, up=False), links.set_link(index, up=True)])
    return tap


def _delete_all(directory: Path) -> None:
    for path in directory.iterdir():
        netns.delete(path)


@contextmanager
def ebpf_pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts on one wire."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alcor-test-")))
        a = EbpfHost("192.0.2.1", directory / "a", stack)
        b = EbpfHost("192.0.2.2", directory / "b", stack)

        def join() -> None:
            with Netlink() as netlink:
                netlink.check([links.veth(UNDERLAY, 0, UNDERLAY, peer_netns=b.namespace, mtu=UNDERLAY_MTU)])

        def ready(host: EbpfHost) -> None:
            # This namespace alone; IPv6's own chatter would be counted among the ports' packets.
            for scope in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
            with Netlink() as netlink:
                index = socket.if_nametoindex(UNDERLAY)
                netlink.check([links.set_link(index, up=True), links.address(index, host.underlay_ip, 24)])
                netlink.check([links.veth(EXTERNAL, 0, WORLD)])
                outside, world = socket.if_nametoindex(EXTERNAL), socket.if_nametoindex(WORLD)
                # IPv6 neighbours are looked for from a link-local address.
                Path(f"/proc/sys/net/ipv6/conf/{EXTERNAL}/dad_transmits").write_text("0")
                Path(f"/proc/sys/net/ipv6/conf/{EXTERNAL}/disable_ipv6").write_text("0")
                netlink.check([links.set_link(outside, mac=OUTSIDE_MAC, up=True), links.set_link(world, up=True)])

        a.call(join)
        for host in (a, b):
            host.call(partial(ready, host))
            host.start(stack)
        yield a, b


def text(ip: Ip) -> str:
    """An address as `ping` takes it."""
    return format_ip(ip)
