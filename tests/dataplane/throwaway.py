"""Throw-away hosts with an ebpf driver each, for tests of wiring and driver: namespaces, an underlay, bpffs, cleanup.

Needs root. A `Host` runs its driver on a thread of its own inside the host's namespace, as an agent does. Everything a
`Region` made is gone when it is left, unless the environment says KEEP=1.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from alcor.dataplane.base import Address, Applied, LocalPort, Observed, Plan
from alcor.dataplane.ebpf.driver import EbpfConfig, EbpfDriver
from alcor.dataplane.kernel import bpf, links, netns
from alcor.dataplane.kernel.links import Link
from alcor.dataplane.kernel.netlink import Netlink
from alcor.model.addresses import Ip, Mac, format_ip, parse_ip
from alcor.model.ids import Id, format_id, make_id
from alcor.model.nouns import PortKind

UNDERLAY_MTU = 1600
FABRIC_FIRST_INDEX = 100

T = TypeVar("T")
_ordinals = itertools.count(1)


def a_port(**changes: Any) -> LocalPort:
    """A container port in 10.1.0.0/16 of VNI 77, unlike any other."""
    ordinal = next(_ordinals)
    ip = parse_ip(f"10.1.{ordinal >> 8}.{(ordinal & 255)}")
    fields: dict[str, Any] = {
        "id": make_id(ordinal, os.urandom(11)),
        "vni": 77,
        "mac": Mac(b"\x02\x11" + ordinal.to_bytes(4, "big")),
        "addresses": (Address(ip, 16, parse_ip("10.1.255.254")),),
        "mtu": 1450,
        "admin_state_up": True,
        "routed": True,
        "kind": PortKind.CONTAINER,
        "netns": "",
        "interface": "",
    }
    return LocalPort(**{**fields, **changes})


class Host:
    """A host: its namespace, its underlay device `eth0`, and a driver that can be killed and started anew."""

    def __init__(self, directory: Path, number: int) -> None:
        self.directory = directory / f"h{number}"
        self.netns_dir = self.directory / "netns"
        self.netns_dir.mkdir(parents=True)
        self.path = self.directory / "host"
        self.underlay_ip = parse_ip(f"192.0.2.{number}")
        netns.create(self.path)
        self.worker = ThreadPoolExecutor(1)
        self.worker.submit(self._enter).result()
        self.driver: EbpfDriver | None = None

    def _enter(self) -> None:
        fd = netns.open_path(self.path)
        netns.set_net(fd)
        os.close(fd)

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, on the driver's thread."""
        return self.worker.submit(work).result(60)

    def start(self, **changes: Any) -> None:
        """Starts a driver."""
        fields: dict[str, Any] = {
            "pin_dir": self.directory / "bpf",
            "device": "eth0",
            "underlay_ip": self.underlay_ip,
            "netns_dir": self.netns_dir,
            "remote_entries": 1024,
            "translation_entries": 4096,
            "flow_entries": 4096,
        }
        self.driver = self.call(lambda: EbpfDriver(EbpfConfig(**{**fields, **changes})))

    def restart(self, **changes: Any) -> None:
        """The agent goes and another comes."""
        self.stop()
        self.start(**changes)

    def stop(self) -> None:
        if self.driver is not None:
            self.call(self.driver.close)
            self.driver = None

    def apply(self, **fields: Any) -> Applied:
        driver = self.driver
        assert driver is not None
        return self.call(lambda: driver.apply(Plan(**fields)))

    def put(self, *ports: LocalPort) -> dict[Id, str]:
        """Puts the ports; the error of each, "" for none."""
        return {one.id: one.error for one in self.apply(put_ports=ports).ports}

    def observe(self) -> Observed:
        driver = self.driver
        assert driver is not None
        return self.call(driver.observe)

    def sweep(self) -> None:
        driver = self.driver
        assert driver is not None
        self.call(lambda: driver.sweep(driver.observe().orphans))

    def links(self) -> dict[str, Link]:
        """The host's interfaces by name."""
        with self.netlink() as netlink:
            return {one.name: one for one in links.links(netlink)}

    def netlink(self) -> Netlink:
        return self.call(Netlink)

    def namespace(self, port: LocalPort) -> Path:
        return self.netns_dir / format_id(port.id)

    def ping(self, source: LocalPort, target: Ip, *more: str) -> bool:
        """True when three pings from inside the port's namespace are answered."""
        inside = source.netns or str(self.namespace(source))
        command = ["nsenter", f"--net={inside}", "ping", "-nq", "-c3", "-i0.01", "-W2", *more, format_ip(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return " 3 received" in done.stdout

    def close(self) -> None:
        with suppress(Exception):
            self.stop()
        self.worker.shutdown()
        for name in netns.names(self.netns_dir):
            netns.delete(self.netns_dir / name)
        bpf.unmount_bpffs(self.directory / "bpf")
        netns.delete(self.path)


class Region:
    """Some hosts whose underlay devices meet on a bridge. A context."""

    def __init__(self, hosts: int = 1) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="alcor-test-wiring-"))
        self.fabric = self.directory / "fabric"
        self.hosts: list[Host] = []
        self._count = hosts

    def __enter__(self) -> Region:
        netns.create(self.fabric)
        self.hosts = [Host(self.directory, number) for number in range(1, self._count + 1)]
        fd = netns.open_path(self.fabric)
        try:
            netns.call(fd, self._wire)
        finally:
            os.close(fd)
        for host in self.hosts:
            host.call(partial(_ready, host.underlay_ip))
            host.start()
        return self

    def _wire(self) -> None:
        with Netlink() as netlink:
            netlink.check([links.bridge("fabric", 99, Mac(b"\x02\x99" + bytes(4)))])
            for number, host in enumerate(self.hosts):
                inside = netns.open_path(host.path)
                index = FABRIC_FIRST_INDEX + number
                pair = links.veth(f"f{number}", index, "eth0", 10, peer_netns=inside, mtu=UNDERLAY_MTU, up=True)
                netlink.check([pair, links.set_link(index, master=99)])
                os.close(inside)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.environ.get("KEEP"):
            return
        for host in self.hosts:
            host.close()
        netns.delete(self.fabric)
        shutil.rmtree(self.directory)


def _ready(ip: Ip) -> None:
    with Netlink() as netlink:
        netlink.check([links.loopback_up(), links.address(10, ip, 24), links.set_link(10, up=True)])
