"""The lab's machines: one network namespace per host, one for the controller, one that is the fabric between them.

Called by run, bench and tests. The fabric routes, as a Clos underlay does: every host has a /32 address on `eth0` and
one default route to the fabric (`GATEWAY`, the same for all), the fabric one route per host. So neighbour entries grow
with the hosts, not with their square: the kernel keeps one neighbour table of 1,024 entries for all namespaces of the
machine (net.ipv4.neigh.default.gc_thresh3, not ours to change), and the lab's entries are permanent, which it does not
count. No broadcast ever crosses the fabric.

Nothing is made in the machine's own namespace. Everything is made on one thread that walks through the namespaces: the
kernel's RTNL lock would make several wait for each other anyway.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.rundir import RunDirectory
from alcor.model.addresses import Ip, Mac, format_ip, ip_from_int, ip_to_int, parse_ip

UNDERLAY = parse_ip("10.200.0.0")
LOOPBACK = parse_ip("127.200.0.0")
GATEWAY = parse_ip("169.254.1.1")
CONTROLLER_OFFSET = 10
FIRST_HOST_OFFSET = 257
MAX_HOSTS = 4000
UNDERLAY_MTU = 1600
"""Leaves workloads a full 1500: the tunnel takes 50."""
DEVICE = "eth0"
FABRIC_MAC = Mac(bytes.fromhex("020000000001"))
EXTERNAL_DEVICE = "ext0"
"""Of every host: behind it is the world."""
BGP_TABLE = 179
"""Where a BGP speaker finds what a host's agent wants announced."""
WORLD = parse_ip("198.18.0.1")
"""Where the world is a router, in WORLD_LENGTH (RFC 2544's addresses: nobody else has them)."""
WORLD_LENGTH = 16
WORLD_MTU = 1500
FAR_AWAY = parse_ip("198.19.0.1")
"""An address of the world behind that router."""
_HOST_INDEX = 2
_EXTERNAL_INDEX = 3
_FIRST_FABRIC_INDEX = 16
_FIRST_HOSTS_OUTER = 0x1000
"""Hosts' own addresses in the world, from WORLD's prefix on."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A host, or the controller: its name, its namespace and its address on the fabric."""

    name: str
    netns: Path | None
    """None: this process's own, on loopback (`fake` labs)."""
    ip: Ip
    pin_dir: Path
    netns_dir: Path
    """Where the namespaces of its containers get their names."""
    data_dir: Path

    @property
    def address(self) -> str:
        """Its underlay address in text."""
        return format_ip(self.ip)


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """A lab's machines, as values: `raise_topology` makes them."""

    run: RunDirectory
    real: bool
    """Namespaces and links; otherwise only addresses of the 127.0.0.0/8 loopback, for the `fake` driver."""
    controller: Machine
    hosts: tuple[Machine, ...]
    mtu: int


def plan(run: RunDirectory, hosts: int, mtu: int = UNDERLAY_MTU, *, real: bool = True) -> Topology:
    """Names and addresses of a lab with so many hosts. Pure. Raises ValueError beyond MAX_HOSTS."""
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"a lab has 1 to {MAX_HOSTS} hosts, not {hosts}")
    base = int.from_bytes((UNDERLAY if real else LOOPBACK)[12:], "big")

    def machine(name: str, offset: int) -> Machine:
        return Machine(
            name=name,
            netns=run.netns(name) if real else None,
            ip=ip_from_int(base + offset, 4),
            pin_dir=run.pins / name,
            netns_dir=run.names / name,
            data_dir=run.data / name,
        )

    width = max(3, len(str(hosts)))
    return Topology(
        run=run,
        real=real,
        controller=machine("controller", CONTROLLER_OFFSET),
        hosts=tuple(machine(f"host-{i + 1:0{width}}", FIRST_HOST_OFFSET + i) for i in range(hosts)),
        mtu=mtu,
    )


def raise_topology(topology: Topology) -> None:
    """Makes the directories and, if real, the namespaces and the links between them. A failure's leavings go with the
    run directory."""
    machines = (topology.controller, *topology.hosts)
    for one in machines:
        for directory in (one.pin_dir, one.netns_dir, one.data_dir):
            directory.mkdir(parents=True, exist_ok=True)
    if not topology.real:
        return
    paths = [topology.run.netns("fabric"), *(one.netns for one in machines if one.netns)]
    netns.create_many([*paths, world(topology)])
    netns.on_own_thread(lambda: _wire(paths, machines, topology.mtu))
    netns.on_own_thread(lambda: _wire_world(world(topology), topology.hosts))


def _wire(paths: list[Path], machines: tuple[Machine, ...], mtu: int) -> None:
    fabric, *fds = [netns.open_path(path) for path in paths]
    try:
        for fd in (*fds, fabric):
            netns.set_net(fd)
            ipv6_off()
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        with Netlink() as netlink:
            netlink.check([links.loopback_up(), links.address(links.LOOPBACK_INDEX, GATEWAY, 32)])
            ends = [_fabric_end(*one, mtu) for one in zip(range(len(fds)), machines, fds, strict=True)]
            netlink.check([message for end in ends for message in end])
        for one, fd in zip(machines, fds, strict=True):
            netns.set_net(fd)
            with Netlink() as netlink:
                netlink.check(_machine_end(one))
    finally:
        for fd in (*fds, fabric):
            os.close(fd)


def world(topology: Topology) -> Path:
    """The namespace of the world behind all hosts' external devices: one bridge, a router and what is behind it."""
    return topology.run.netns("world")


def _wire_world(path: Path, hosts: tuple[Machine, ...]) -> None:
    outer, *fds = [netns.open_path(one) for one in (path, *(host.netns for host in hosts if host.netns))]
    bridge = _FIRST_FABRIC_INDEX - 1
    try:
        netns.set_net(outer)
        ipv6_off()
        _router()
        with Netlink() as netlink:
            netlink.check([links.loopback_up(), links.address(links.LOOPBACK_INDEX, FAR_AWAY, 32)])
            netlink.check([links.bridge("world", bridge, _mac(0xE0000)), links.address(bridge, WORLD, WORLD_LENGTH)])
            ends = [
                end
                for number, fd in enumerate(fds)
                for end in (
                    links.veth(
                        *(f"w{number}", _FIRST_FABRIC_INDEX + number, EXTERNAL_DEVICE, _EXTERNAL_INDEX),
                        peer_netns=fd,
                        mtu=WORLD_MTU,
                        up=True,
                        peer_mac=_mac(0xE1000 + number),
                    ),
                    links.set_link(_FIRST_FABRIC_INDEX + number, master=bridge),
                )
            ]
            netlink.check(ends)
        for number, fd in enumerate(fds):
            netns.set_net(fd)
            with Netlink() as netlink:
                own = links.address(_EXTERNAL_INDEX, _outer(number), WORLD_LENGTH)
                netlink.check([links.set_link(_EXTERNAL_INDEX, up=True), own])
    finally:
        for fd in (outer, *fds):
            os.close(fd)


def external_address(topology: Topology, host: Machine) -> Ip:
    """A host's own address in the world."""
    return _outer(topology.hosts.index(host))


def _outer(number: int) -> Ip:
    return ip_from_int(ip_to_int(WORLD) - 1 + _FIRST_HOSTS_OUTER + number, 4)


def _router() -> None:
    """The calling thread's namespace forwards, and does not tell hosts that they could send past it."""
    settings = Path("/proc/sys/net/ipv4")
    (settings / "ip_forward").write_text("1")
    for which in ("all", "default"):
        (settings / "conf" / which / "send_redirects").write_text("0")


def _fabric_end(number: int, one: Machine, fd: int, mtu: int) -> list[bytes]:
    index = _FIRST_FABRIC_INDEX + number
    mac = _mac(number)
    return [
        links.veth(
            f"f{number}", index, DEVICE, _HOST_INDEX, peer_netns=fd, mtu=mtu, mac=FABRIC_MAC, peer_mac=mac, up=True
        ),
        links.route(index, one.ip, 32),
        links.neighbour(index, one.ip, mac),
    ]


def _machine_end(one: Machine) -> list[bytes]:
    return [
        links.loopback_up(),
        links.set_link(_HOST_INDEX, up=True),
        links.address(_HOST_INDEX, one.ip, 32),
        links.route(_HOST_INDEX, GATEWAY, 32),
        links.default_route(_HOST_INDEX, GATEWAY),
        links.neighbour(_HOST_INDEX, GATEWAY, FABRIC_MAC),
    ]


def fabric_device(topology: Topology, host: Machine) -> str:
    """The fabric's end of the link to a host."""
    return f"f{1 + topology.hosts.index(host)}"


def _mac(number: int) -> Mac:
    return Mac(b"\x02\x00" + (0x100 + number).to_bytes(4, "big"))


def ipv6_off() -> None:
    """In the calling thread's namespace, for interfaces to come: the underlay speaks none, and with it on the
    kernel walks its whole IPv6 table per interface (O(N^2), measured)."""
    for which in ("all", "default"):
        path = Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6")
        if path.exists():
            path.write_text("1")
