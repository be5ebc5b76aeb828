"""Two containers that reach each other in three ways: bare veth, Linux bridge + VXLAN, Alcor. Called by the benches of
the data plane.

Each is two (or four) network namespaces under one run directory: the containers, and the two hosts with a veth between
them as the underlay. Same addresses, same MTU, same everything but what is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from alcor.dataplane.base import Address, DataPlaneError, LocalPort, Plan
from alcor.dataplane.ebpf.driver import EbpfConfig, EbpfDriver
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.pings import Ping, ping_all
from alcor.lab.rundir import RunDirectory
from alcor.lab.topology import ipv6_off
from alcor.model.addresses import Ip, Mac, format_ip, parse_ip
from alcor.model.ids import format_id, make_id
from alcor.model.nouns import PortKind

T = TypeVar("T")

IPS = (parse_ip("10.9.0.11"), parse_ip("10.9.0.12"))
MACS = (Mac(bytes.fromhex("020000000011")), Mac(bytes.fromhex("020000000012")))
HOST_IPS = (parse_ip("192.0.2.1"), parse_ip("192.0.2.2"))
HOST_MACS = (Mac(bytes.fromhex("0200000000a1")), Mac(bytes.fromhex("0200000000a2")))
BRIDGE_MAC, GATEWAY_MAC = Mac(bytes.fromhex("0200000000b0")), Mac(bytes.fromhex("0200000000b1"))
"""Explicit: a bridge without one takes its lowest member's, and changes with it."""
GATEWAYS = (parse_ip("10.9.0.1"), parse_ip("10.9.1.1"))
"""Of the client's subnet and, where it is another, of the server's."""
PREFIX = 24
MTU, UNDERLAY_MTU = 1500, 1600
VNI, VXLAN_PORT = 77, 4789
UNDERLAY, INNER = 2, 2
EXTERNAL, EXTERNAL_NAME = 3, "ext0"
_OUTER, _BRIDGE, _VXLAN = 10, 11, 12
REMOTE_ENTRIES = 1 << 20
FLOW_ENTRIES = 262_144


class Bed(msgspec.Struct, frozen=True, kw_only=True):
    """Two containers: the namespace and the address of each."""

    name: str
    namespaces: tuple[Path, Path]
    server: Ip = IPS[1]

    @property
    def server_ip(self) -> str:
        """The second container's address."""
        return format_ip(self.server)


def inside(path: Path, work: Callable[[], T]) -> T:
    """What `work` returns inside a namespace, on a thread of its own."""
    fd = netns.open_path(path)
    try:
        return netns.call(fd, work)
    finally:
        os.close(fd)


def _tell(path: Path, messages: list[bytes]) -> None:
    def send() -> None:
        with Netlink() as netlink:
            netlink.check(messages)

    inside(path, send)


def beds(run: RunDirectory, stack: ExitStack) -> list[Bed]:
    """All three, standing side by side, each one checked by a ping."""
    made = [_direct(run), bridge_bed(run)[0], alcor_bed(run, stack)[0]]
    for bed in made:
        check(bed)
    return made


def check(bed: Bed) -> None:
    """Raises DataPlaneError unless one container reaches the other."""
    (answer,) = ping_all([Ping(source=bed.namespaces[0], target=bed.server_ip, size=MTU)])
    if not answer.answered:
        raise DataPlaneError(f"{bed.name}: the two containers do not reach each other")


def _pair(run: RunDirectory, name: str) -> tuple[Path, Path]:
    paths = (run.netns(f"{name}-1"), run.netns(f"{name}-2"))
    netns.create_many(paths)
    for path in paths:
        inside(path, ipv6_off)
    return paths


def _join(paths: tuple[Path, Path], mtu: int, macs: tuple[Mac, Mac]) -> None:
    """A veth between two namespaces, `eth0` at both ends."""
    fd = netns.open_path(paths[1])
    try:
        veth = links.veth(
            "eth0", UNDERLAY, "eth0", UNDERLAY, peer_netns=fd, mtu=mtu, mac=macs[0], peer_mac=macs[1], up=True
        )
        _tell(paths[0], [links.loopback_up(), veth])
        _tell(paths[1], [links.loopback_up(), links.set_link(UNDERLAY, up=True)])
    finally:
        os.close(fd)


def _join_external(hosts: tuple[Path, Path]) -> None:
    fd = netns.open_path(hosts[1])
    try:
        wire = links.veth(EXTERNAL_NAME, EXTERNAL, EXTERNAL_NAME, EXTERNAL, peer_netns=fd, mtu=MTU, up=True)
        _tell(hosts[0], [wire])
        _tell(hosts[1], [links.set_link(EXTERNAL, up=True)])
    finally:
        os.close(fd)


def _direct(run: RunDirectory) -> Bed:
    paths = _pair(run, "direct")
    _join(paths, MTU, MACS)
    for path, ip in zip(paths, IPS, strict=True):
        _tell(path, [links.address(INNER, ip, PREFIX)])
    return Bed(name="bare veth", namespaces=paths)


def _hosts(run: RunDirectory, name: str) -> tuple[Path, Path]:
    """Two hosts that know each other's addresses on the underlay."""
    paths = _pair(run, f"{name}-host")
    _join(paths, UNDERLAY_MTU, HOST_MACS)
    for number, path in enumerate(paths):
        other = 1 - number
        _tell(
            path,
            [
                links.address(UNDERLAY, HOST_IPS[number], PREFIX),
                links.neighbour(UNDERLAY, HOST_IPS[other], HOST_MACS[other]),
            ],
        )
    return paths


def bridge_bed(run: RunDirectory, name: str = "bridge") -> tuple[Bed, tuple[Path, Path]]:
    """And its two hosts. Bridge and VXLAN device know where every MAC is, the containers every neighbour: nothing is
    flooded."""
    hosts = _hosts(run, name)
    containers = _pair(run, name)
    for number, (host, container) in enumerate(zip(hosts, containers, strict=True)):
        other = 1 - number
        fd = netns.open_path(container)
        try:
            _tell(
                host,
                [
                    links.bridge("br0", _BRIDGE, BRIDGE_MAC),
                    links.vxlan("vx0", _VXLAN, VNI, HOST_IPS[number], VXLAN_PORT, learning=False),
                    links.set_link(_VXLAN, master=_BRIDGE),
                    links.forwarding(_VXLAN, MACS[other], HOST_IPS[other]),
                    links.veth("c0", _OUTER, "eth0", INNER, peer_netns=fd, mtu=MTU, peer_mac=MACS[number], up=True),
                    links.set_link(_OUTER, master=_BRIDGE),
                ],
            )
        finally:
            os.close(fd)
        _tell(
            container,
            [
                links.loopback_up(),
                links.set_link(INNER, up=True),
                links.address(INNER, IPS[number], PREFIX),
                links.neighbour(INNER, IPS[other], MACS[other]),
            ],
        )
    return Bed(name="Linux bridge + VXLAN", namespaces=containers), hosts


def routed_bed(run: RunDirectory, servers: Sequence[Ip], vip: Ip | None = None) -> tuple[Bed, Path]:
    """Bridge + VXLAN again, but the server has these addresses, of another subnet, and the client's host routes between
    the two; it has the address `vip`, too. And that host."""
    bed, (router, beyond) = bridge_bed(run, "routed")
    client, server = bed.namespaces
    inside(router, _forward)
    _tell(
        router,
        [
            links.set_link(_BRIDGE, mac=GATEWAY_MAC),
            *(links.address(_BRIDGE, gateway, PREFIX) for gateway in GATEWAYS),
            *([links.address(_BRIDGE, vip, 32)] if vip is not None else []),
            links.neighbour(_BRIDGE, IPS[0], MACS[0]),
            *(links.neighbour(_BRIDGE, ip, MACS[1]) for ip in servers),
        ],
    )
    _tell(beyond, [links.forwarding(_VXLAN, GATEWAY_MAC, HOST_IPS[0])])
    _tell(server, [links.delete_address(INNER, IPS[1], PREFIX), *(links.address(INNER, ip, PREFIX) for ip in servers)])
    if vip is not None:
        _tell(client, [links.neighbour(INNER, vip, GATEWAY_MAC)])
    for container, gateway in zip((client, server), GATEWAYS, strict=True):
        _tell(container, [links.neighbour(INNER, gateway, GATEWAY_MAC), links.default_route(INNER, gateway)])
    return msgspec.structs.replace(bed, name=f"{bed.name}, routed", server=servers[0]), router


def _forward() -> None:
    """Makes a router of this namespace, that tells nobody of shorter ways; what is bridged does not meet its rules."""
    net = Path("/proc/sys/net")
    (net / "ipv4/ip_forward").write_text("1")
    for name in ("all", "br0"):
        (net / "ipv4/conf" / name / "send_redirects").write_text("0")
    with suppress(FileNotFoundError):  # the module is not loaded: there is nothing to turn off
        (net / "bridge/bridge-nf-call-iptables").write_text("0")


class Host(NamedTuple):
    """A driver, and the one thread that may call it."""

    worker: ThreadPoolExecutor
    driver: EbpfDriver

    def apply(self, plan: Plan) -> None:
        """Raises DataPlaneError unless all of it was carried out."""
        applied = self.worker.submit(self.driver.apply, plan).result()
        failed = applied.error or next((port.error for port in applied.ports if port.error), "")
        if failed:
            raise DataPlaneError(f"the driver refused the bench's plan: {failed}")


def alcor_bed(run: RunDirectory, stack: ExitStack, *, external: bool = False) -> tuple[Bed, tuple[Host, Host]]:
    """Two EbpfDrivers, each on a thread that lives in its host's namespace, with one port each. `external`: with an
    external device each, joined to each other."""
    hosts = _hosts(run, "alcor")
    if external:
        _join_external(hosts)
    containers = []
    made = []
    for number, host in enumerate(hosts):
        worker = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix=f"host-{number}"))
        config = EbpfConfig(
            pin_dir=run.pins / f"host-{number}",
            device="eth0",
            underlay_ip=HOST_IPS[number],
            netns_dir=run.names / f"containers-{number}",
            vxlan_port=VXLAN_PORT,
            remote_entries=REMOTE_ENTRIES,
            flow_entries=FLOW_ENTRIES,
            external_device=EXTERNAL_NAME if external else "",
        )
        driver = worker.submit(_open, host, config).result()
        stack.callback(_close, worker, driver)
        made.append(Host(worker, driver))
        made[-1].apply(_plan(number))
        containers.append(config.netns_dir / format_id(port_of(number).id))
    return Bed(name="Alcor", namespaces=(containers[0], containers[1])), (made[0], made[1])


def _open(host: Path, config: EbpfConfig) -> EbpfDriver:
    fd = netns.open_path(host)
    try:
        netns.set_net(fd)
    finally:
        os.close(fd)
    return EbpfDriver(config)


def _close(worker: ThreadPoolExecutor, driver: EbpfDriver) -> None:
    worker.submit(driver.close).result()


def _plan(number: int) -> Plan:
    return Plan(put_endpoints=(endpoint_of(1 - number),), put_ports=(port_of(number),))


def endpoint_of(number: int, identity: int = 0) -> tuple[EndpointKey, Endpoint]:
    """Where one of the two containers is, for the other's host."""
    return EndpointKey(VNI, IPS[number]), Endpoint(MACS[number], HOST_IPS[number], identity)


def port_of(number: int, identity: int = 0) -> LocalPort:
    """The port of one of the two containers."""
    return LocalPort(
        id=make_id(number + 1, bytes(11)),
        vni=VNI,
        mac=MACS[number],
        addresses=(Address(IPS[number], PREFIX, None),),
        mtu=MTU,
        admin_state_up=True,
        routed=True,
        kind=PortKind.CONTAINER,
        netns="",
        interface="",
        identity=identity,
    )
