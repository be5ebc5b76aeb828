"""The rtnetlink messages that Alcor needs, and readers for what the kernel lists. Called by wiring, bench and lab.

Builders are pure: they return a message (bytes) for `Netlink.send`. Interfaces are named by ifindex; choose your own
(`index` when creating) and the messages that refer to the interface can go in the same batch, with no look-up between.
Sources: linux/if_link.h, linux/rtnetlink.h, linux/pkt_cls.h, linux/if_tun.h of kernel 6.1.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from alcor.dataplane.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    attribute_text,
    attribute_u32,
    message,
    nest,
    parse_attributes,
    text_of,
)
from alcor.model.addresses import Ip, Mac, ip_version

MAX_NAME = 15
"""IFNAMSIZ without its NUL."""
MAX_ALIAS = 255
MIN_MTU = 68
MAX_MTU = 65535
LOOPBACK_INDEX = 1
"""Of `lo`, in every namespace."""

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH = 28
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

IFF_UP, IFF_ALLMULTI = 0x1, 0x200
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 16, 18, 20, 27, 28, 29
IF_OPER_UP = 6
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID = 31, 32, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_VXLAN_ID, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT = 1, 4, 7, 15
RTEXT_FILTER_SKIP_STATS = 8
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_F_NODAD = 1, 2, 8, 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST = 254, 4, 253, 1
NDA_DST, NDA_LLADDR, NUD_PERMANENT, NTF_SELF = 1, 2, 0x80, 2
TCA_KIND, TCA_OPTIONS, TCA_INGRESS_BLOCK = 1, 2, 13
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID, TCA_BPF_FLAG_ACT_DIRECT = 6, 7, 8, 11, 1
TC_H_CLSACT, CLSACT_HANDLE, TC_H_MIN_INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFF2
TCM_IFINDEX_MAGIC_BLOCK = 0xFFFFFFFF
ETH_P_ALL_BE = 0x0300
RTM_NEWNSID, NETNSA_NSID, NETNSA_FD = 88, 1, 3
TUNSETIFF, TUNSETPERSIST, TUNSETIFINDEX = 0x400454CA, 0x400454CB, 0x400454DA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x2, 0x1000, 0x4000, 0x8000

_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
_ADDR = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGH = struct.Struct("=BxxxiHBB")
_TC = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, ifindex, handle, parent, info."""
_U32 = struct.Struct("=I")
_ONE_QUEUE = attribute_u32(IFLA_NUM_TX_QUEUES, 1) + attribute_u32(IFLA_NUM_RX_QUEUES, 1)
"""A queue per CPU on each end would cost 0.3 ms a port, mostly sysfs objects (measured)."""
_CREATE = NLM_F_CREATE | NLM_F_EXCL


def _info(kind: str, data: bytes = b"") -> bytes:
    inner = attribute(IFLA_INFO_KIND, kind.encode())
    return nest(IFLA_LINKINFO, inner, nest(IFLA_INFO_DATA, data)) if data else nest(IFLA_LINKINFO, inner)


_VETH_KIND = attribute(IFLA_INFO_KIND, b"veth")


def veth(
    name: str,
    index: int,
    peer_name: str,
    peer_index: int = 0,
    *,
    peer_netns: int | None = None,
    mtu: int = 0,
    mac: Mac | None = None,
    peer_mac: Mac | None = None,
    group: int = 0,
    up: bool = False,
) -> bytes:
    """A veth pair with one queue each: `name` here, `peer_name` in the namespace of the descriptor `peer_netns`.

    Indexes, `mtu` (of both ends) and `group` of 0 are the kernel's choice. `up` brings this end up; the peer cannot be
    brought up by the same message (ENOTCONN).
    Refused with EEXIST when a name is taken, EBUSY when an index is.
    """
    common = _ONE_QUEUE + (attribute_u32(IFLA_MTU, mtu) if mtu else b"")
    peer = _LINK.pack(0, 0, peer_index, 0, 0) + attribute_text(IFLA_IFNAME, peer_name) + common
    if peer_mac is not None:
        peer += attribute(IFLA_ADDRESS, peer_mac)
    if peer_netns is not None:
        peer += attribute_u32(IFLA_NET_NS_FD, peer_netns)
    body = _LINK.pack(0, 0, index, IFF_UP if up else 0, IFF_UP if up else 0) + attribute_text(IFLA_IFNAME, name)
    body += common
    if mac is not None:
        body += attribute(IFLA_ADDRESS, mac)
    if group:
        body += attribute_u32(IFLA_GROUP, group)
    body += nest(IFLA_LINKINFO, _VETH_KIND, nest(IFLA_INFO_DATA, nest(VETH_INFO_PEER, peer)))
    return message(RTM_NEWLINK, _CREATE, body)


def netns_id(netns: int, number: int) -> bytes:
    """Numbers another namespace (a descriptor) as seen from this one, before the kernel does by itself.

    The kernel looks a namespace's number up by walking through all of them, from the lowest, for each event of a veth
    that leads there: numbers given in falling order make the newest one the first it meets (144 us a port saved at
    5,000, by profile). Refused with EEXIST when the namespace or the number has been used.
    """
    body = bytes(4) + attribute_u32(NETNSA_NSID, number) + attribute_u32(NETNSA_FD, netns)
    return message(RTM_NEWNSID, 0, body)


def bridge(name: str, index: int = 0, mac: Mac | None = None, *, up: bool = True) -> bytes:
    """A Linux bridge. Give it a MAC, or it takes the lowest of its members' and changes with them."""
    flags = IFF_UP if up else 0
    body = _LINK.pack(0, 0, index, flags, flags) + attribute_text(IFLA_IFNAME, name)
    body += attribute(IFLA_ADDRESS, mac) if mac is not None else b""
    return message(RTM_NEWLINK, _CREATE, body + _info("bridge"))


def vxlan(name: str, index: int, vni: int, local: Ip, port: int, *, learning: bool = True, up: bool = True) -> bytes:
    """A VXLAN device (RFC 7348) from an IPv4 underlay address."""
    flags = IFF_UP if up else 0
    data = attribute_u32(IFLA_VXLAN_ID, vni) + attribute(IFLA_VXLAN_LOCAL, local[12:])
    data += attribute(IFLA_VXLAN_PORT, port.to_bytes(2, "big")) + attribute(IFLA_VXLAN_LEARNING, bytes((learning,)))
    body = _LINK.pack(0, 0, index, flags, flags) + attribute_text(IFLA_IFNAME, name) + _info("vxlan", data)
    return message(RTM_NEWLINK, _CREATE, body)


def set_link(
    index: int,
    *,
    up: bool | None = None,
    name: str | None = None,
    alias: str | None = None,
    mtu: int | None = None,
    mac: Mac | None = None,
    group: int | None = None,
    master: int | None = None,
    netns: int | None = None,
) -> bytes:
    """Changes an interface; what is None stays. `master` 0 frees it from its bridge; `netns`: a descriptor."""
    body = _LINK.pack(0, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
    if name is not None:
        body += attribute_text(IFLA_IFNAME, name)
    if alias is not None:
        body += attribute(IFLA_IFALIAS, alias.encode())
    if mtu is not None:
        body += attribute_u32(IFLA_MTU, mtu)
    if mac is not None:
        body += attribute(IFLA_ADDRESS, mac)
    if group is not None:
        body += attribute_u32(IFLA_GROUP, group)
    if master is not None:
        body += attribute_u32(IFLA_MASTER, master)
    if netns is not None:
        body += attribute_u32(IFLA_NET_NS_FD, netns)
    return message(RTM_SETLINK, 0, body)


def hear_groups(index: int) -> bytes:
    """An interface takes in the frames for every multicast group."""
    return message(RTM_SETLINK, 0, _LINK.pack(0, 0, index, IFF_ALLMULTI, IFF_ALLMULTI))


_LOOPBACK_UP = set_link(LOOPBACK_INDEX, up=True)


def loopback_up() -> bytes:
    """Brings `lo` up."""
    return _LOOPBACK_UP


def delete_link(index: int) -> bytes:
    """Removes an interface (and a veth's peer). Costs 15-20 ms each: for more than one use `delete_group`."""
    return message(RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))


def delete_group(group: int) -> bytes:
    """Removes every interface of the group in one go (0.35 ms each). ENODEV when it has none. Never group 0."""
    if not group:
        raise ValueError("group 0 holds every interface that nobody grouped: refusing to delete it")
    return message(RTM_DELLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + attribute_u32(IFLA_GROUP, group))


def _family(ip: Ip) -> tuple[int, bytes]:
    return (socket.AF_INET, ip[12:]) if ip_version(ip) == 4 else (socket.AF_INET6, ip)


def address(index: int, ip: Ip, prefix_length: int) -> bytes:
    """Gives an interface an address; IPv6 without duplicate detection (the control plane knows). EEXIST: has it."""
    family, raw = _family(ip)
    body = _ADDR.pack(family, prefix_length, 0, 0, index) + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    if family == socket.AF_INET6:
        body += attribute_u32(IFA_FLAGS, IFA_F_NODAD)
    return message(RTM_NEWADDR, _CREATE, body)


def delete_address(index: int, ip: Ip, prefix_length: int) -> bytes:
    """Takes an address away; EADDRNOTAVAIL when the interface does not have it."""
    family, raw = _family(ip)
    return message(RTM_DELADDR, 0, _ADDR.pack(family, prefix_length, 0, 0, index) + attribute(IFA_LOCAL, raw))


def _route(index: int, destination: Ip | None, length: int, gateway: Ip | None, version: int) -> bytes:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    scope = RT_SCOPE_LINK if gateway is None and version == 4 else 0
    body = _ROUTE.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0)
    if destination is not None and length:
        body += attribute(RTA_DST, _family(destination)[1])
    if gateway is not None:
        body += attribute(RTA_GATEWAY, _family(gateway)[1])
    return body + attribute_u32(RTA_OIF, index)


def route(index: int, destination: Ip, length: int, gateway: Ip | None = None) -> bytes:
    """A route through an interface, replacing the one to the same destination. `length` 0: the default route."""
    body = _route(index, destination, length, gateway, ip_version(gateway or destination))
    return message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_route(index: int, destination: Ip, length: int, gateway: Ip) -> bytes:
    """Removes a route through that gateway; ESRCH when there is none."""
    return message(RTM_DELROUTE, 0, _route(index, destination, length, gateway, ip_version(gateway)))


def default_route(index: int, gateway: Ip, *, replace: bool = True) -> bytes:
    """The default route of the gateway's family. The interface must be up and reach the gateway.

    It replaces another default route; without `replace` it is refused with EEXIST when there is one.
    """
    body = _route(index, None, 0, gateway, ip_version(gateway))
    return message(RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), body)


def delete_default_route(index: int, gateway: Ip) -> bytes:
    """Removes the default route through that gateway; ESRCH when there is none."""
    return message(RTM_DELROUTE, 0, _route(index, None, 0, gateway, ip_version(gateway)))


def neighbour(index: int, ip: Ip, mac: Mac) -> bytes:
    """A permanent neighbour (ARP/ND) entry, replacing any."""
    family, raw = _family(ip)
    body = _NEIGH.pack(family, index, NUD_PERMANENT, 0, 0) + attribute(NDA_DST, raw) + attribute(NDA_LLADDR, mac)
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def forwarding(index: int, mac: Mac, remote: Ip) -> bytes:
    """A static forwarding entry of a VXLAN device: frames to `mac` go to the tunnel end `remote`."""
    body = _NEIGH.pack(socket.AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, 0)
    body += attribute(NDA_LLADDR, mac) + attribute(NDA_DST, _family(remote)[1])
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


_CLSACT_KIND = attribute(TCA_KIND, b"clsact\0")


def clsact(index: int, ingress_block: int = 0) -> bytes:
    """The clsact qdisc; with a block, what is attached to the block runs at this interface's ingress.

    Attaching a port to a shared block costs 94 us, a filter of its own 120 us, a tcx link 15 ms (measured).
    EEXIST when the interface has a clsact or ingress qdisc already.
    """
    body = _TC.pack(0, index, CLSACT_HANDLE, TC_H_CLSACT, 0) + _CLSACT_KIND
    if ingress_block:
        body += attribute_u32(TCA_INGRESS_BLOCK, ingress_block)
    return message(RTM_NEWQDISC, _CREATE, body)


def delete_clsact(index: int) -> bytes:
    """Removes the clsact qdisc with what is attached to it. EINVAL or ENOENT when there is none."""
    return message(RTM_DELQDISC, 0, _TC.pack(0, index, CLSACT_HANDLE, TC_H_CLSACT, 0) + _CLSACT_KIND)


def _filter(target: int, parent: int, priority: int) -> bytes:
    return _TC.pack(0, target, 1, parent, priority << 16 | ETH_P_ALL_BE)


def _block_or_ingress(index: int, block: int) -> tuple[int, int]:
    if bool(index) == bool(block):
        raise ValueError("name either an interface or a block")
    # In struct tcmsg a block takes the place of the parent, under a magic ifindex (-1).
    return (-1, block) if block else (index, CLSACT_HANDLE | TC_H_MIN_INGRESS)


def bpf_filter(program: int, name: str, *, index: int = 0, block: int = 0, priority: int = 1) -> bytes:
    """Attaches a program (descriptor) in direct-action mode to a block, or to the ingress of an interface with clsact.

    Replaces the program of the same priority atomically: every packet meets the old one or the new one.
    """
    target, parent = _block_or_ingress(index, block)
    options = attribute_u32(TCA_BPF_FD, program) + attribute_text(TCA_BPF_NAME, name)
    options += attribute_u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
    body = _filter(target, parent, priority) + attribute_text(TCA_KIND, "bpf") + nest(TCA_OPTIONS, options)
    return message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_filter(*, index: int = 0, block: int = 0, priority: int = 1) -> bytes:
    """Detaches the program of that priority. ENOENT or EINVAL when there is none."""
    target, parent = _block_or_ingress(index, block)
    return message(RTM_DELTFILTER, 0, _filter(target, parent, priority) + attribute_text(TCA_KIND, "bpf"))


# ---- what there is ----


class Link(NamedTuple):
    """An interface. `kind` is "" for hardware, `link` the peer's or lower interface's index (0: none).

    `link_netnsid` is the id, in the reader's namespace, of the namespace where `link` is; -1 when it is the same.
    """

    ifindex: int
    name: str
    kind: str
    alias: str
    up: bool
    mtu: int
    mac: Mac
    group: int
    master: int
    link: int
    link_netnsid: int


def _u32(found: dict[int, bytes], kind: int, default: int = 0) -> int:
    value = found.get(kind)
    return default if value is None else int(_U32.unpack(value)[0])


def parse_link(body: bytes) -> Link:
    """A link from the body of RTM_NEWLINK."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = parse_attributes(body, _LINK.size)
    info = parse_attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index,
        text_of(found.get(IFLA_IFNAME, b"")),
        text_of(info.get(IFLA_INFO_KIND, b"")),
        text_of(found.get(IFLA_IFALIAS, b"")),
        bool(flags & IFF_UP),
        _u32(found, IFLA_MTU),
        Mac(found.get(IFLA_ADDRESS, b"")),
        _u32(found, IFLA_GROUP),
        _u32(found, IFLA_MASTER),
        _u32(found, IFLA_LINK),
        struct.unpack("=i", found[IFLA_LINK_NETNSID])[0] if IFLA_LINK_NETNSID in found else -1,
    )


_LINKS = message(
    RTM_GETLINK, NLM_F_DUMP, _LINK.pack(0, 0, 0, 0, 0) + attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
)


def links(netlink: Netlink) -> list[Link]:
    """Every interface of the socket's namespace, by index."""
    return sorted(netlink.dump(_LINKS, parse_link))


def silent(netlink: Netlink, indexes: Sequence[int]) -> list[int]:
    """Those of the interfaces (of kinds that have a carrier: veth) that are there and not operational, RFC 2863's `up`:
    the kernel drops without a word what is sent by them.

    An interface that is brought up before its other end has no carrier; when that comes the kernel gives it its queue
    later, from a worker that waits for RTNL and, after a hundred such events, for up to a second (net/core/
    link_watch.c). Since Linux 6.8 asking for an interface makes it so at once (linkwatch_sync_dev in rtnl_getlink).
    """
    flags = attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    requests = [message(RTM_GETLINK, 0, _LINK.pack(0, 0, index, 0, 0) + flags) for index in indexes]
    found = netlink.get(requests, _operational)
    return [index for index, one in zip(indexes, found, strict=True) if one is False]


def _operational(body: bytes) -> bool:
    return parse_attributes(body, _LINK.size).get(IFLA_OPERSTATE, b"") == bytes([IF_OPER_UP])


class Qdisc(NamedTuple):
    """A queueing discipline. `ingress_block` is 0 when it shares none."""

    ifindex: int
    kind: str
    parent: int
    ingress_block: int


def _parse_qdisc(body: bytes) -> Qdisc:
    _, index, _, parent, _ = _TC.unpack_from(body)
    found = parse_attributes(body, _TC.size)
    return Qdisc(index, text_of(found.get(TCA_KIND, b"")), parent, _u32(found, TCA_INGRESS_BLOCK))


def qdiscs(netlink: Netlink) -> list[Qdisc]:
    """Every qdisc of the socket's namespace (but the kernel's invisible defaults), by interface."""
    return sorted(netlink.dump(message(RTM_GETQDISC, NLM_F_DUMP, _TC.pack(0, 0, 0, 0, 0)), _parse_qdisc))


class Filter(NamedTuple):
    """A BPF filter: its priority, name and the id of the program that runs."""

    priority: int
    name: str
    program_id: int


def filters(netlink: Netlink, *, index: int = 0, block: int = 0) -> list[Filter]:
    """The BPF filters of a block, or of an interface's ingress."""
    target, parent = _block_or_ingress(index, block)

    def parse(body: bytes) -> Filter | None:
        found = parse_attributes(body, _TC.size)
        options = parse_attributes(found.get(TCA_OPTIONS, b""))
        if TCA_BPF_ID not in options:
            return None  # the entry that stands for the whole priority
        priority = _TC.unpack_from(body)[4] >> 16
        return Filter(priority, text_of(options.get(TCA_BPF_NAME, b"")), _u32(options, TCA_BPF_ID))

    return sorted(netlink.dump(message(RTM_GETTFILTER, NLM_F_DUMP, _TC.pack(0, target, 0, parent, 0)), parse))


class InterfaceAddress(NamedTuple):
    """An address of an interface."""

    ifindex: int
    ip: Ip
    prefix_length: int


def _to_ip(family: int, raw: bytes) -> Ip:
    return Ip(b"\0" * 10 + b"\xff\xff" + raw) if family == socket.AF_INET else Ip(raw)


def addresses(netlink: Netlink) -> list[InterfaceAddress]:
    """Every address of the socket's namespace."""

    def parse(body: bytes) -> InterfaceAddress | None:
        family, length, _, _, index = _ADDR.unpack_from(body)
        found = parse_attributes(body, _ADDR.size)
        raw = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
        return None if raw is None else InterfaceAddress(index, _to_ip(family, raw), length)

    return sorted(netlink.dump(message(RTM_GETADDR, NLM_F_DUMP, _ADDR.pack(0, 0, 0, 0, 0)), parse))


class Route(NamedTuple):
    """A route of the main table. The default route has `destination` None and `length` 0."""

    ifindex: int
    destination: Ip | None
    length: int
    gateway: Ip | None


def routes(netlink: Netlink, version: int = 4) -> list[Route]:
    """The routes of the main table of the socket's namespace."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6

    def parse(body: bytes) -> Route | None:
        _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(body)
        if table != RT_TABLE_MAIN:
            return None
        found = parse_attributes(body, _ROUTE.size)
        destination = _to_ip(family, found[RTA_DST]) if RTA_DST in found else None
        gateway = _to_ip(family, found[RTA_GATEWAY]) if RTA_GATEWAY in found else None
        return Route(_u32(found, RTA_OIF), destination, length, gateway)

    request = message(RTM_GETROUTE, NLM_F_DUMP, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    return netlink.dump(request, parse)


# ---- tap devices ----


def create_tap(name: str, index: int = 0) -> None:
    """Makes a persistent tap device in the calling thread's namespace; taps are made by ioctl, not by netlink.

    Raises OSError: EBUSY when the name or the index is taken, ENOENT when /dev/net/tun is not there.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        if index:
            fcntl.ioctl(fd, TUNSETIFINDEX, _U32.pack(index))
        request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL)
        fcntl.ioctl(fd, TUNSETIFF, request)
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)
