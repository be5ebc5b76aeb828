"""Puts the programs where packets pass: blocks that ports share, the underlay's ingress. Called by the driver.

Everything here is found again by a later agent and left alone when it is right; an upgrade replaces a program by one
message per block, under traffic. A block lives only while an interface uses it, so an interface of ours that is always
down (a bridge without members, ANCHOR) holds the main one: the program is there before the first port, and after the
last.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

from alcor.dataplane.base import DataPlaneError
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.wiring import MAIN_BLOCK, PORT_GROUP, is_our_block
from alcor.dataplane.kernel import bpf, links, netns
from alcor.dataplane.kernel.links import Link
from alcor.dataplane.kernel.netlink import Netlink, NetlinkError

PORT_FILTER = "alcor_port"
ANCHOR = "alcor-block"
ANCHOR_ALIAS = "alcor"
ANCHOR_INDEX = 0xFFFFF
"""Just below the ports' indexes."""
PRIORITY = 0xA1C
"""Of our filter on the underlay: after those of others that take the usual low numbers."""
WIRE_MTU = 65535
"""Packets that are yet to be segmented pass."""


class Wire(NamedTuple):
    """A pair of interfaces of ours through which packets come back to the ports' program."""

    name: str
    ifindex: int
    """Where they come out, and the program runs."""
    far_name: str
    far_ifindex: int
    lost: str
    """What cannot be without it."""


HELD_WIRE = Wire("alcor-held", 0xFFFFE, "alcor-hold", 0xFFFFD, "held packets could not go on")
QUEUE_WIRE = Wire("alcor-queued", 0xFFFFB, "alcor-queue", 0xFFFFC, "packets of limited ports could not wait")
HELD_INDEX, HOLD = HELD_WIRE.ifindex, HELD_WIRE.far_name
IPV6_DEFAULT = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


def find_underlay(netlink: Netlink, device: str) -> Link:
    """The underlay device. Raises DataPlaneError when it is not there."""
    for link in links.links(netlink):
        if link.name == device:
            return link
    raise DataPlaneError(f"underlay device '{device}' is not there: name this host's device in `underlay_device`")


def quiet_host_ports() -> None:
    """Turns IPv6 off for interfaces made from now on in the calling thread's namespace, unless it is the machine's own.

    Otherwise every port that comes up makes the kernel walk its whole IPv6 table under RTNL: 4.5 ms a port at 5,000
    ports instead of 1.7 (measured). Host ends carry no addresses, so nothing is lost.
    """
    if netns.in_machines_own() or not IPV6_DEFAULT.exists():
        return
    if IPV6_DEFAULT.read_text(encoding="ascii").strip() != "1":
        IPV6_DEFAULT.write_text("1", encoding="ascii")


def attach(netlink: Netlink, program: Program, underlay: Link) -> None:
    """Makes sure that both programs are attached. Idempotent: what is right is not touched. Raises DataPlaneError."""
    try:
        _hold_block(netlink)
        qdiscs = links.qdiscs(netlink)
        for block in sorted({one.ingress_block for one in qdiscs if is_our_block(one.ingress_block)}):
            _filter(netlink, program.from_port, PORT_FILTER, block=block, priority=1)
        if not any(one.ifindex == underlay.ifindex and one.kind == "clsact" for one in qdiscs):
            netlink.check([links.clsact(underlay.ifindex)])
        _filter(netlink, program.from_overlay, "alcor_overlay", index=underlay.ifindex, priority=PRIORITY)
    except NetlinkError as error:
        raise DataPlaneError(
            f"attaching the data plane to the ports and to underlay device '{underlay.name}' failed "
            f"({error.strerror}): run as root, and remove an `ingress` qdisc from the device if it has one"
        ) from None


def attach_external(netlink: Netlink, program: Program, device: Link) -> None:
    """Makes sure that the program runs at the external device. Idempotent. Raises DataPlaneError."""
    try:
        if not any(one.ifindex == device.ifindex and one.kind == "clsact" for one in links.qdiscs(netlink)):
            netlink.check([links.clsact(device.ifindex)])
        _filter(netlink, program.from_external, "alcor_external", index=device.ifindex, priority=PRIORITY)
    except NetlinkError as error:
        raise DataPlaneError(
            f"attaching the data plane to external device '{device.name}' failed ({error.strerror}): run as root, and "
            f"remove an `ingress` qdisc from the device if it has one"
        ) from None


def block_filter(program: int, block: int) -> bytes:
    """Attaches the ports' program to a block."""
    return links.bpf_filter(program, PORT_FILTER, block=block, priority=1)


def _hold_block(netlink: Netlink) -> None:
    held = [link for link in links.links(netlink) if link.name == ANCHOR]
    if held and held[0].alias != ANCHOR_ALIAS:
        raise DataPlaneError(f"interface '{ANCHOR}' is there and not Alcor's: remove or rename it")
    index = held[0].ifindex if held else ANCHOR_INDEX
    if not held:
        netlink.check(
            [links.bridge(ANCHOR, index, up=False), links.set_link(index, alias=ANCHOR_ALIAS, group=PORT_GROUP)]
        )
    if not any(one.ifindex == index and one.ingress_block == MAIN_BLOCK for one in links.qdiscs(netlink)):
        netlink.check([links.clsact(index, MAIN_BLOCK)])


def make_wire(netlink: Netlink, program: Program, wire: Wire) -> None:
    """Makes sure of the wire and of the program at its end. Idempotent. Raises DataPlaneError."""
    try:
        there = {link.name: link for link in links.links(netlink)}
        end = there.get(wire.name)
        if end is not None and (end.ifindex, end.alias) != (wire.ifindex, ANCHOR_ALIAS):
            raise DataPlaneError(f"interface '{wire.name}' is there and not Alcor's: remove or rename it")
        if end is None:
            pair = links.veth(wire.name, wire.ifindex, wire.far_name, wire.far_ifindex, mtu=WIRE_MTU, group=PORT_GROUP)
            netlink.check([pair, links.set_link(wire.ifindex, alias=ANCHOR_ALIAS)])
        if not any(one.ifindex == wire.ifindex and one.kind == "clsact" for one in links.qdiscs(netlink)):
            netlink.check([links.clsact(wire.ifindex)])
        _filter(netlink, program.from_port, PORT_FILTER, index=wire.ifindex, priority=1)
        netlink.check([links.set_link(wire.ifindex, up=True), links.set_link(wire.far_ifindex, up=True)])
    except NetlinkError as error:
        raise DataPlaneError(
            f"making interfaces '{wire.name}' and '{wire.far_name}' failed ({error.strerror}): {wire.lost}"
        ) from None


def _filter(netlink: Netlink, program: int, name: str, *, index: int = 0, block: int = 0, priority: int) -> None:
    wanted = bpf.program_info(program, name).id
    there = {one.priority: one.program_id for one in links.filters(netlink, index=index, block=block)}
    if there.get(priority) != wanted:
        netlink.check([links.bpf_filter(program, name, index=index, block=block, priority=priority)])


def detach(netlink: Netlink, *devices: Link) -> None:
    """Takes the programs off the underlay and external devices and off this host's ports: for tests and for taking
    Alcor off a machine. Idempotent."""
    ours = [(name, ANCHOR_ALIAS) for name in (ANCHOR, HELD_WIRE.name, QUEUE_WIRE.name)]
    anchors = [link.ifindex for link in links.links(netlink) if (link.name, link.alias) in ours]
    netlink.send([links.delete_link(index) for index in anchors])
    absent = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV})
    netlink.check([links.delete_filter(index=one.ifindex, priority=PRIORITY) for one in devices], absent)
