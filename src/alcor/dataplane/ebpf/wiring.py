"""From a LocalPort to names and netlink messages: what is made for a port, changed on it, and why it failed. Pure.

Called by `hands`, which sends the messages. A *container* gets a veth whose inner end is made in its namespace, a *tap*
a persistent tap device, an *adopted* interface only our clsact qdisc. Everything that Alcor makes on the host carries
`alcor:<port id>` as its alias: so it is known again after amnesia.
"""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from alcor.dataplane.base import Address, LocalPort
from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.netlink import HEADER, Ack
from alcor.model.addresses import Ip, Mac, format_ip, ip_version
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import PortKind

MAIN_BLOCK, LAST_BLOCK = 0xA1C00000, 0xA1CFFFFF
"""Ingress blocks that ports share: the program is attached once per block. Ports that are made one by one join the main
block; many at once get a block of their own, which saves each a wait for the kernel (`hands`)."""
PORT_GROUP = 0xA1C0
"""The link group of the interfaces that Alcor makes."""
ALIAS_PREFIX = "alcor:"
DEFAULT_INTERFACE = "eth0"
FIRST_INDEX, LAST_INDEX = 0x100000, 0x3FFFFFFF
"""Host interfaces' indexes are ours to choose; the kernel itself counts up from 1."""
OWN_INNER_INDEX = 1000
"""In a namespace of our own: above the fallback devices (sit0, tunl0, ...) that some kernels put into every one."""
GIVEN_INNER_BIT = 0x40000000
"""In a namespace that we are given, the host end's index with this bit: unlike anything already there."""
UNDERLAY_OVERHEAD = 50
"""Outer IPv4, UDP, VXLAN and inner Ethernet header (docs/pipeline.md, MTU)."""
MAX_RECORD_BYTES = 1024
"""A port with its longest names and about 20 addresses; deflated, with all its pairs, claims and forwardings."""
DEFLATED = 0x8000
"""In a record's length."""
MAX_INFLATED_BYTES = 65_536

NONE: frozenset[int] = frozenset()
ANY = frozenset(range(1, 134))
"""What is only there for speed may fail."""
ALREADY = frozenset({errno.EEXIST})
ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EINVAL})


class Step(NamedTuple):
    """A message and the errnos that mean "it is so already"."""

    message: bytes
    allow: frozenset[int] = NONE


def host_name(port: LocalPort) -> str:
    """The name of the port's interface on the host. Nova makes a tap's name of the same 11 characters."""
    if port.kind is PortKind.ADOPTED:
        return port.interface
    return ("tap" if port.kind is PortKind.TAP else "alc") + format_id(port.id)[:11]


def inner_name(port: LocalPort) -> str:
    """The name of a container's interface inside its namespace."""
    return port.interface or DEFAULT_INTERFACE


def inner_index(port: LocalPort, index: int) -> int:
    """The index of a container's inner interface, from that of its host end."""
    return index | GIVEN_INNER_BIT if port.netns else OWN_INNER_INDEX


def owns_netns(port: LocalPort) -> bool:
    """True when the namespace is ours to make and to remove."""
    return port.kind is PortKind.CONTAINER and not port.netns


def netns_path(port: LocalPort, directory: Path) -> Path:
    """Where the container's namespace has its name."""
    return Path(port.netns) if port.netns else directory / format_id(port.id)


def alias_of(identifier: Id) -> str:
    """The alias of the interfaces made for a port."""
    return ALIAS_PREFIX + format_id(identifier)


def id_of_alias(alias: str) -> Id | None:
    """The port for which the interface of that alias was made; None when it is not ours."""
    if not alias.startswith(ALIAS_PREFIX):
        return None
    try:
        return parse_id(alias[len(ALIAS_PREFIX) :])
    except ValueError:
        return None


def is_our_block(block: int) -> bool:
    """True when the block is one that Alcor's ports share."""
    return MAIN_BLOCK <= block <= LAST_BLOCK


def is_ours(link: links.Link, port: LocalPort) -> bool:
    """True when the interface was made for that port, or is the one it adopts. It has no alias yet if a crash came
    right after it was made; then its name tells (and its index, by which the port was looked up)."""
    if port.kind is PortKind.ADOPTED:
        return link.name == port.interface
    return link.alias == alias_of(port.id) or (not link.alias and link.name == host_name(port))


# ---- what is remembered in the kernel ----

_LENGTH = struct.Struct("=H")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LocalPort).decode


def encode_record(port: LocalPort) -> bytes:
    """The port as the value of the map `records`: length, msgpack, zeros; one that is long is deflated (RFC 1950), and
    its length says so. ValueError when it is too long even so."""
    raw, marked = _encode(port), 0
    if len(raw) > MAX_RECORD_BYTES - _LENGTH.size:
        raw, marked = zlib.compress(raw), DEFLATED
    if len(raw) > MAX_RECORD_BYTES - _LENGTH.size:
        raise ValueError(
            f"the port's description has {len(raw)} bytes: give it fewer addresses or a shorter netns path"
        )
    return (_LENGTH.pack(len(raw) | marked) + raw).ljust(MAX_RECORD_BYTES, b"\0")


def decode_record(value: bytes) -> LocalPort | None:
    """The port in a record; None when it cannot be read (another version's, or torn)."""
    (length,) = _LENGTH.unpack_from(value)
    raw = value[_LENGTH.size : _LENGTH.size + (length & ~DEFLATED)]
    try:
        return _decode(zlib.decompressobj().decompress(raw, MAX_INFLATED_BYTES) if length & DEFLATED else raw)
    except (msgspec.DecodeError, msgspec.ValidationError, zlib.error):
        return None


# ---- making ----


def host_steps(port: LocalPort, index: int, netns_fd: int, block: int = MAIN_BLOCK) -> tuple[Step, ...]:
    """What makes the port's host side, in order. A tap and an adopted interface are there already; `netns_fd` is for
    containers.

    The qdisc comes before the interface is up: on one that is up the kernel first stops all traffic and waits for
    every CPU to have seen that (synchronize_rcu_expedited under RTNL, 0.1 ms and more, by profile).
    """
    attach = Step(links.clsact(index, block))
    if port.kind is PortKind.ADOPTED:
        return (attach,)
    alias = alias_of(port.id)
    if port.kind is PortKind.TAP:
        # A tap must not have the guest's own MAC; libvirt's custom is its first byte replaced by fe.
        mac = Mac(b"\xfe" + port.mac[1:])
        name = Step(links.set_link(index, group=PORT_GROUP, alias=alias))
        return (name, Step(links.set_link(index, mtu=port.mtu, mac=mac)), attach, Step(links.set_link(index, up=True)))
    make = links.veth(
        host_name(port),
        index,
        inner_name(port),
        inner_index(port, index),
        peer_netns=netns_fd,
        mtu=port.mtu,
        peer_mac=port.mac,
        group=PORT_GROUP,
    )
    number = Step(links.netns_id(netns_fd, LAST_INDEX - index), ANY)
    return (number, Step(make), attach, Step(links.set_link(index, alias=alias, up=True)))


def inner_steps(port: LocalPort, index: int) -> tuple[Step, ...]:
    """What readies a container from inside its namespace; `index` is the host end's. Repeating it changes nothing."""
    inner = inner_index(port, index)
    steps = [Step(links.loopback_up())]
    steps += [Step(links.address(inner, one.ip, one.prefix_length), ALREADY) for one in port.addresses]
    steps.append(Step(links.set_link(inner, up=True)))
    steps += [Step(links.default_route(inner, gateway, replace=False), ALREADY) for gateway in gateways(port)]
    steps += [Step(links.route(inner, *one)) for one in host_routes(port)]
    return tuple(steps)


def host_routes(port: LocalPort) -> tuple[tuple[Ip, int, Ip], ...]:
    """Destination, length and gateway of what a container is told beside the default routes; of two the first holds."""
    found: dict[tuple[Ip, int], Ip] = {}
    for one in port.addresses:
        for destination in one.routes:
            if one.gateway is not None and destination[1]:
                found.setdefault(destination, one.gateway)
    return tuple([(*destination, gateway) for destination, gateway in found.items()])


def gateways(port: LocalPort) -> tuple[Ip, ...]:
    """The gateway of the first address that has one, per family: where the default routes go."""
    found: dict[int, Ip] = {}
    for one in port.addresses:
        if one.gateway is not None:
            found.setdefault(ip_version(one.gateway), one.gateway)
    return tuple(found.values())


# ---- changing ----


def changes_in_place(old: LocalPort, new: LocalPort) -> bool:
    """True when `old` becomes `new` without being made anew."""
    return (old.kind, old.netns, old.interface) == (new.kind, new.netns, new.interface)


def only_tables(old: LocalPort, new: LocalPort, right: bool) -> bool:
    """True when external and claimed addresses alone change, and (`right`) nothing about the interface was seen to need
    mending. A port that is put as it is, is mended."""
    outside = {"eips": new.eips, "forwardings": new.forwardings, "eip_limits": new.eip_limits}
    return right and old != new and msgspec.structs.replace(old, claims=new.claims, **outside) == new


def host_changes(old: LocalPort, new: LocalPort, index: int, *, attached: bool = True) -> tuple[Step, ...]:
    """What the host side needs, given that `changes_in_place`. Also mends what somebody took away: not `attached`,
    a clsact qdisc that is there all the same is somebody else's, and an error."""
    attach = Step(links.clsact(index, MAIN_BLOCK), ALREADY if attached else NONE)
    if new.kind is PortKind.ADOPTED:
        return (attach,)
    mtu = new.mtu if new.mtu != old.mtu else None
    mac = Mac(b"\xfe" + new.mac[1:]) if new.kind is PortKind.TAP and new.mac != old.mac else None
    return (Step(links.set_link(index, mtu=mtu, mac=mac, alias=alias_of(new.id), up=True)), attach)


def inner_changes(old: LocalPort, new: LocalPort, index: int) -> tuple[Step, ...]:
    """What a container needs inside, given that `changes_in_place`."""
    inner = inner_index(new, index)
    steps = []
    if (old.mtu, old.mac) != (new.mtu, new.mac):
        mtu = new.mtu if new.mtu != old.mtu else None
        mac = new.mac if new.mac != old.mac else None
        steps.append(Step(links.set_link(inner, mtu=mtu, mac=mac)))
    kept_gateways = set(gateways(new))
    for gateway in gateways(old):
        if gateway not in kept_gateways:
            steps.append(Step(links.delete_default_route(inner, gateway), ABSENT))
    told = {one[:2] for one in host_routes(new)}
    steps += [Step(links.delete_route(inner, *one), ABSENT) for one in host_routes(old) if one[:2] not in told]
    kept = {_place(one) for one in new.addresses}
    for one in old.addresses:
        if _place(one) not in kept:
            steps.append(Step(links.delete_address(inner, one.ip, one.prefix_length), ABSENT))
    return (*steps, *inner_steps(new, index))


def _place(address: Address) -> tuple[Ip, int]:
    return address.ip, address.prefix_length


# ---- refusing, and explaining ----


def refuse(port: LocalPort, underlay_mtu: int) -> str:
    """Why the port cannot be carried, whatever the kernel says; "" when it can. `underlay_mtu` 0: not known."""
    name = host_name(port)
    inner = inner_name(port) if port.kind is PortKind.CONTAINER else name
    if not name:
        return "interface: an adopted port must name the interface to adopt"
    if len(inner.encode()) > links.MAX_NAME or "/" in inner or inner in (".", "..") or any(c.isspace() for c in inner):
        return f"interface '{inner}' is no interface name: at most {links.MAX_NAME} bytes, no space, no slash"
    if port.kind is PortKind.CONTAINER and port.netns and not port.netns.startswith("/"):
        return f"netns '{port.netns}' must be an absolute path"
    floor = 1280 if any(ip_version(one.ip) == 6 for one in port.addresses) else links.MIN_MTU
    ceiling = underlay_mtu - UNDERLAY_OVERHEAD if underlay_mtu else links.MAX_MTU
    if not floor <= port.mtu <= ceiling:
        return f"mtu {port.mtu} does not fit: from {floor} to {ceiling} (the underlay's less {UNDERLAY_OVERHEAD})"
    try:
        encode_record(port)
    except ValueError as error:
        return str(error)
    return ""


_NAME_TAKEN = "interface {host} or {inner} (inside the namespace) is there already and not Alcor's: remove or rename it"


def explain(port: LocalPort, message: bytes, answer: Ack) -> str:
    """An error for the port's owner: what was tried, the kernel's reason and what to do next."""
    kind = HEADER.unpack_from(message)[1]
    code = answer.errno
    inner = inner_name(port)
    if kind == links.RTM_NEWLINK and code == errno.EEXIST:
        return _NAME_TAKEN.format(host=host_name(port), inner=inner)
    if kind == links.RTM_NEWQDISC and code == errno.EEXIST:
        return f"interface {host_name(port)} has an ingress or clsact qdisc of somebody else: remove it"
    if kind == links.RTM_NEWROUTE:
        shown = ", ".join(format_ip(gateway) for gateway in gateways(port))
        return f"route through {shown} refused ({answer}): the gateway must be inside the port's subnet"
    if kind == links.RTM_NEWADDR:
        shown = ", ".join(f"{format_ip(one.ip)}/{one.prefix_length}" for one in port.addresses)
        return f"address refused ({answer}); the port has {shown}"
    what = {
        links.RTM_NEWLINK: f"making interface {host_name(port)}",
        links.RTM_SETLINK: f"setting up interface {host_name(port)} (inside: {inner}), mtu {port.mtu}",
        links.RTM_NEWQDISC: f"attaching the data plane to {host_name(port)}",
        links.RTM_NEWTFILTER: f"attaching the program to the block of {host_name(port)}",
    }.get(kind, f"netlink message {kind}")
    return f"{what} refused ({answer})"
