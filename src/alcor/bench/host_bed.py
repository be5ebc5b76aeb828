"""A throw-away host to measure in: a network namespace with an underlay device, a driver in it, names on a tmpfs.

Called by the benchmarks of one host. Everything is under one temporary directory and goes with it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from alcor.dataplane.base import Address, DataPlaneError, LocalPort, Plan
from alcor.dataplane.ebpf.driver import EbpfConfig, EbpfDriver
from alcor.dataplane.ebpf.pool import RESERVED_DESCRIPTORS
from alcor.dataplane.kernel import bpf, links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.settling import settle
from alcor.model.addresses import Mac, ip_from_int, parse_ip
from alcor.model.ids import make_id
from alcor.model.nouns import PortKind

PORT_LIMIT = 16000
UNDERLAY_MTU = 1500

T = TypeVar("T")


def container_ports(count: int, first: int = 1) -> tuple[LocalPort, ...]:
    """Ports with one address each in 10.0.0.0/8, of one VPC."""
    gateway = parse_ip("10.0.0.1")
    return tuple(
        LocalPort(
            id=make_id(number, number.to_bytes(11, "big")),
            vni=4096,
            mac=Mac(b"\x02\x00" + number.to_bytes(4, "big")),
            addresses=(Address(ip_from_int((10 << 24) + 16 + number, 4), 8, gateway),),
            mtu=UNDERLAY_MTU - 50,
            admin_state_up=True,
            routed=True,
            kind=PortKind.CONTAINER,
            netns="",
            interface="",
        )
        for number in range(first, first + count)
    )


class Bed:
    """A host with its driver, both living on one thread of their own."""

    def __init__(self, directory: Path, pool_size: int) -> None:
        """Use `bed`."""
        self._directory = directory
        self.netns_dir = directory / "netns"
        self.netns_dir.mkdir()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="bench-host")
        self._driver = self._worker.submit(self._open, pool_size).result()

    def _open(self, pool_size: int) -> EbpfDriver:
        netns.unshare_net()
        with Netlink() as netlink:
            pair = links.veth("underlay", 10, "fabric", 11, mtu=UNDERLAY_MTU, up=True)
            netlink.check([links.loopback_up(), pair, links.set_link(11, up=True)])
        return EbpfDriver(
            EbpfConfig(
                pin_dir=self._directory / "bpf",
                device="underlay",
                underlay_ip=parse_ip("192.0.2.1"),
                netns_dir=self.netns_dir,
                pool_size=pool_size,
                remote_entries=65536,
                flow_entries=65536,
            )
        )

    def with_driver(self, work: Callable[[EbpfDriver], T]) -> T:
        """What `work` returns; it runs on the driver's thread, in the host's namespace."""
        return self.in_host(lambda: work(self._driver))

    def in_host(self, work: Callable[[], T]) -> T:
        """What `work` returns; it runs in the host's namespace, garbage collected before."""
        gc.collect()
        return self._worker.submit(work).result()

    def wait_pool(self, timeout_s: float) -> bool:
        """Waits until the namespace pool is full."""
        pool = self._driver.hands.pool
        return not pool.size or pool.wait_full(timeout_s)

    def close(self) -> None:
        """Removes every port, and what the C program left; then the host."""
        try:
            self._worker.submit(self._empty).result()
        finally:
            self._worker.shutdown()

    def _empty(self) -> None:
        try:
            carried = self._driver.observe().ports
            self._driver.apply(Plan(remove_ports=tuple(carried)))
            rest = [one.ifindex for one in links.links(self._driver.hands.netlink) if one.name.startswith("alc0")]
            self._driver.hands.delete_links(rest)
        finally:
            self._driver.close()
            for name in netns.names(self.netns_dir):
                netns.delete(self.netns_dir / name)


@contextmanager
def bed(pool_size: int = 0) -> Iterator[Bed]:
    """A host for one measurement, begun once the kernel has removed what was there before."""
    settle()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alcor-bench-")))
        mount_tmpfs(directory)
        stack.callback(unmount, directory)
        stack.callback(bpf.unmount_bpffs, directory / "bpf")
        one = Bed(directory, pool_size)
        stack.callback(one.close)
        yield one


@contextmanager
def room_for_descriptors(ports: int) -> Iterator[None]:
    """The limit of open files raised, inside the block, to what a pool for so many ports needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ports + 2 * RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted, max(hard, wanted) if hard != resource.RLIM_INFINITY else hard)
        )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_libc = ctypes.CDLL(None, use_errno=True)


def mount_tmpfs(directory: Path) -> None:
    """Mounts a tmpfs on the directory: on a disk, making the name of a namespace costs up to 0.8 ms of its own."""
    if _libc.mount(b"alcor-bench", os.fsencode(directory), b"tmpfs", 0, b"mode=0700"):
        code = ctypes.get_errno()
        raise DataPlaneError(f"mounting a tmpfs on {directory} failed ({os.strerror(code)}): run as root")


def unmount(directory: Path) -> None:
    """Takes the tmpfs off, with everything in it."""
    _libc.umount2(os.fsencode(directory), netns.MNT_DETACH)
