"""A network stack apart from the host's: a namespace without a name, and a tun device whose other side is this process.

Fills `dataplane.base.Stack`. It goes with the process: the namespace is held by descriptors only. Whoever gives it
packets puts its parties' addresses into them (100.64.0.0/10, RFC 6598, and a unique local prefix, RFC 4193, of its
own): nothing outside the namespace ever sees those.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress

from alcor.dataplane.base import DataPlaneError
from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.links import TUNSETIFF
from alcor.dataplane.kernel.netlink import Netlink
from alcor.model.addresses import Ip, format_ip, ip_from_int, ip_to_int, parse_ip

IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUNSETOFFLOAD = 0x400454D0
DEVICE = "services"
MTU = 65535
FIRST = {4: parse_ip("100.64.0.1"), 6: parse_ip("fd00:a9fe:a9fe::1")}
LENGTH = {4: 10, 6: 64}
PARTIES = 1 << 16
BACKLOG = 128
MAX_TAKEN = 256
_VNET = struct.Struct("=BBHHHH")
_NEEDS_CSUM, _GSO_NONE, _GSO_TCPV4, _GSO_TCPV6 = 1, 0, 1, 4
_TCP, _TCP_CHECKSUM_AT = 6, 16


class TunStack:
    """See the module. Any thread may work with it, one at a time."""

    def __init__(self) -> None:
        """Raises DataPlaneError when the kernel refuses (no root, no /dev/net/tun)."""
        try:
            self._namespace, self._tun = netns.on_own_thread(_make)
        except OSError as error:
            raise DataPlaneError(f"a network stack for the host's services cannot be made ({error})") from None

    def close(self) -> None:
        """See dataplane.base."""
        os.close(self._tun)
        os.close(self._namespace)

    @property
    def parties(self) -> int:
        """See dataplane.base."""
        return PARTIES

    def address(self, version: int) -> Ip:
        """See dataplane.base."""
        return FIRST[version]

    def party(self, version: int, number: int) -> Ip:
        """See dataplane.base."""
        return ip_from_int(ip_to_int(FIRST[version]) + number, version)

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._tun

    def take(self) -> list[bytes]:
        """What it sent; at most MAX_TAKEN packets at once."""
        taken: list[bytes] = []
        with suppress(BlockingIOError):
            while len(taken) < MAX_TAKEN:
                taken.append(os.read(self._tun, _VNET.size + MTU)[_VNET.size :])
        return taken

    def give(self, packet: bytes, gso_size: int) -> None:
        """See dataplane.base. What the device does not take is lost, as on any wire."""
        with suppress(OSError):
            os.writev(self._tun, unfinished_tcp(packet, gso_size))

    def listen(self, version: int, port: int) -> socket.socket:
        """See dataplane.base."""

        def make() -> socket.socket:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((format_ip(FIRST[version]), port))
            listener.listen(BACKLOG)
            return listener

        return netns.call(self._namespace, make)


def _make() -> tuple[int, int]:
    """The namespace and the device, on a thread of its own."""
    namespace = netns.make_here()
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
            fcntl.ioctl(tun, TUNSETOFFLOAD, 0)
            index = socket.if_nametoindex(DEVICE)
            with Netlink() as netlink:
                netlink.check([links.loopback_up(), links.set_link(index, mtu=MTU, up=True)])
                netlink.check([links.address(index, FIRST[version], LENGTH[version]) for version in (4, 6)])
        except BaseException:
            os.close(tun)
            raise
    except BaseException:
        os.close(namespace)
        raise
    return namespace, tun


def unfinished_tcp(packet: bytes, gso_size: int) -> list[bytes]:
    """A virtio_net_hdr (include/uapi/linux/virtio_net.h), then the packet with only the pseudo header in its checksum
    (RFC 9293 section 3.1): the kernel takes it as its own, finishes it and cuts it where it must. Pure."""
    version = packet[0] >> 4
    start = (packet[0] & 15) * 4 if version == 4 else 40
    end = int.from_bytes(packet[2:4], "big") if version == 4 else start + int.from_bytes(packet[4:6], "big")
    addresses = packet[12:20] if version == 4 else packet[8:40]
    total = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses)) + _TCP + end - start
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at = start + _TCP_CHECKSUM_AT
    kind = (_GSO_TCPV4 if version == 4 else _GSO_TCPV6) if gso_size else _GSO_NONE
    length = start + (packet[start + 12] >> 4) * 4
    header = _VNET.pack(_NEEDS_CSUM, kind, length, gso_size, start, _TCP_CHECKSUM_AT)
    return [header, packet[:at], total.to_bytes(2, "big"), packet[at + 2 : end]]
