"""What tests of the ebpf driver ask of a host: changed records, and what is there to see in the kernel."""

import os

import msgspec
from tests.dataplane.throwaway import Host

from alcor.dataplane.base import LocalPort
from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.links import Link
from alcor.dataplane.kernel.netlink import Netlink
from alcor.model.addresses import Ip


def replaced(port: LocalPort, **changes: object) -> LocalPort:
    return msgspec.structs.replace(port, **changes)


def all_well(*ports: LocalPort) -> dict[bytes, str]:
    return {port.id: "" for port in ports}


def inside(host: Host, port: LocalPort) -> tuple[dict[str, Link], set[tuple[Ip, int]], list[Ip | None]]:
    """A container's interfaces, addresses and default gateways."""
    fd = netns.open_path(port.netns or host.namespace(port))
    try:
        with netns.call(fd, Netlink) as netlink:
            here = {one.name: one for one in links.links(netlink)}
            index = here[port.interface or "eth0"].ifindex
            addresses = {(one.ip, one.prefix_length) for one in links.addresses(netlink) if one.ifindex == index}
            gateways = [one.gateway for version in (4, 6) for one in links.routes(netlink, version) if not one.length]
            return here, {one for one in addresses if one[0][:2] != b"\xfe\x80"}, gateways
    finally:
        os.close(fd)


def footprint(host: Host) -> tuple[dict[str, Link], list[tuple[int, str, int]], list[tuple[str, int]]]:
    """What a change would show in: interfaces, qdiscs, namespaces with their inode numbers."""
    with host.netlink() as netlink:
        qdiscs = [(one.ifindex, one.kind, one.ingress_block) for one in links.qdiscs(netlink)]
    return host.links(), qdiscs, [(name, (host.netns_dir / name).stat().st_ino) for name in netns.names(host.netns_dir)]
