"""A network without Alcor for the lab's own tests: workloads on a plain Linux bridge, which keeps nothing apart."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.rundir import RunDirectory
from alcor.lab.topology import Machine, ipv6_off
from alcor.lab.workloads import Workload
from alcor.model.addresses import Mac, format_ip, format_mac, ip_from_int, parse_ip

T = TypeVar("T")
MTU = 1500
FIRST = parse_ip("10.5.0.11")


def machine(name: str, run: RunDirectory | None = None) -> Machine:
    """A host by name only."""
    root = run.path if run else Path("/nowhere")
    return Machine(name=name, netns=None, ip=parse_ip("192.0.2.1"), pin_dir=root, netns_dir=root, data_dir=root / name)


def workload(
    number: int, host: str, *, subnet: str = "a", network: str = "vpc", ip: str = "", netns_path: str = ""
) -> Workload:
    """A workload as the planning of proofs sees it."""
    return Workload(
        id=f"{network}-{number}",
        host=machine(host),
        netns=Path(netns_path or f"/nowhere/{number}"),
        network_id=network,
        subnet_id=subnet,
        ip=ip or format_ip(ip_from_int(0x0A050000 + 11 + number, 4)),
        mac=format_mac(Mac(bytes((2, 0, 0, 0, 5, number)))),
        gateway="10.5.0.1",
    )


@contextmanager
def bridge(parent: Path, count: int) -> Iterator[list[Workload]]:
    """So many workloads on one bridge, each said to be on a host of its own; gone afterwards."""
    run = RunDirectory.make(parent, mounts=True)
    try:
        switch = run.netns("switch")
        made = [workload(n, f"host-{n}", netns_path=str(run.netns(f"w{n}"))) for n in range(count)]
        netns.create_many([switch, *(one.netns for one in made)])
        for path in (switch, *(one.netns for one in made)):
            inside(path, ipv6_off)
        gateway = links.address(5, parse_ip("10.5.0.1"), 24)
        tell(switch, [links.bridge("br0", 5, Mac(bytes.fromhex("0200000005ff"))), gateway])
        for number, one in enumerate(made):
            fd = netns.open_path(one.netns)
            try:
                mac = Mac(bytes.fromhex(one.mac.replace(":", "")))
                pair = links.veth(f"w{number}", 10 + number, "eth0", 2, peer_netns=fd, mtu=MTU, peer_mac=mac, up=True)
                tell(switch, [pair, links.set_link(10 + number, master=5)])
            finally:
                os.close(fd)
            address = links.address(2, parse_ip(one.ip), 24)
            tell(one.netns, [links.loopback_up(), links.set_link(2, up=True), address])
        yield made
    finally:
        run.remove()


def inside(path: Path, work: Callable[[], T]) -> T:
    """What `work` returns inside a namespace."""
    fd = netns.open_path(path)
    try:
        return netns.call(fd, work)
    finally:
        os.close(fd)


def tell(path: Path, messages: list[bytes]) -> None:
    """Netlink messages to a namespace."""

    def send() -> None:
        with Netlink() as netlink:
            netlink.check(messages)

    inside(path, send)
