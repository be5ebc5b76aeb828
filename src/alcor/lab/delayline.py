"""A line that loses, delays and reorders: packets of a namespace to some addresses take a detour through this process.

Called by faults. A route sends them into a TUN device (linux/if_tun.h); a thread reads them, throws dice, and sends
what is left through the true interface by a raw socket bound to it, for which the route does not count. No kernel
module beyond tun is needed (netem is often not there), nothing outside the namespace changes.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.links import IFF_NO_PI, TUNSETIFF
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.pings import visit
from alcor.lab.topology import DEVICE, UNDERLAY_MTU
from alcor.model.addresses import Ip

NAME = "detour"
IFF_TUN = 0x1
MTU_BYTES = 65535
MAX_WAITING = 10_000
SETTLED_S = 0.01
"""After it, what was on its way to the detour when the route went is in it: nothing is lost by its end."""
SO_BINDTODEVICE = 25


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to packets."""

    loss: float = 0.0
    """Part that is lost."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Each packet is late by `delay_s`, and by up to this more: they overtake each other."""
    twice: float = 0.0
    """Part that arrives twice."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What takes the detour: packets that leave `namespace` by `device` to any of `targets`."""

    namespace: Path
    targets: tuple[Ip, ...]
    device: str = DEVICE
    name: str = NAME
    """Of the TUN device: another for each detour in a namespace."""


class DelayLine:
    """See the module. Use as a context; leaving restores the way as it was."""

    def __init__(self, way: Way, weather: Weather, seed: int) -> None:
        self._way = way
        self._weather = weather
        self._dice = random.Random(seed)
        self._stop = threading.Event()
        self._before: list[links.Route] = []
        self._waiting: list[tuple[float, int, bytes]] = []
        self._number = 0
        self._newest = 0
        self.carried = self.lost = self.overtaken = 0

    def __enter__(self) -> DelayLine:
        ((self._tun, self._out),) = visit([self._way.namespace], self._open)
        self._thread = threading.Thread(target=self._run, name="detour", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        visit([self._way.namespace], self._restore)
        time.sleep(SETTLED_S)
        self._stop.set()
        self._thread.join()
        os.close(self._tun)  # the device goes, and its routes with it
        self._out.close()

    def _open(self, _: Path) -> tuple[int, socket.socket]:
        way = self._way
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", way.name.encode(), IFF_TUN | IFF_NO_PI))
            out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            out.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, way.device.encode() + b"\0")
            out.setblocking(False)
            for which in ("all", way.device):
                with suppress(OSError):
                    Path(f"/proc/sys/net/ipv4/conf/{which}/rp_filter").write_text("0")
            with Netlink() as netlink:
                found = {link.name: link.ifindex for link in links.links(netlink)}
                known = {(one.destination, one.length): one for one in links.routes(netlink)}
                self._before = [known[ip, 32] for ip in way.targets if (ip, 32) in known]
                index = found[way.name]
                netlink.check([links.set_link(index, up=True, mtu=UNDERLAY_MTU)])
                netlink.check([links.route(index, ip, 32) for ip in way.targets])
        except BaseException:
            os.close(tun)
            raise
        return tun, out

    def _restore(self, _: Path) -> None:
        """What had routes of its own gets them back; the others go with the device."""
        with Netlink() as netlink:
            netlink.check([links.route(one.ifindex, ip, 32) for one in self._before if (ip := one.destination)])

    def _run(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic()
            left = max(0.0, min(0.05, self._waiting[0][0] - now)) if self._waiting else 0.05
            if select.select([self._tun], [], [], left)[0]:
                with suppress(BlockingIOError):
                    while True:
                        self._take(os.read(self._tun, MTU_BYTES))
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                self._send(*heapq.heappop(self._waiting)[1:])
        with suppress(BlockingIOError):
            while True:
                self._take(os.read(self._tun, MTU_BYTES))
        for _, number, packet in sorted(self._waiting):
            self._send(number, packet)

    def _take(self, packet: bytes) -> None:
        if packet[0] >> 4 != 4:
            return
        weather, roll = self._weather, self._dice.random
        if roll() < weather.loss or len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            return
        for _ in range(1 + (roll() < weather.twice)):
            self._number += 1
            due = time.monotonic() + weather.delay_s + weather.jitter_s * roll()
            heapq.heappush(self._waiting, (due, self._number, packet))

    def _send(self, number: int, packet: bytes) -> None:
        self.overtaken += number < self._newest
        self._newest = max(self._newest, number)
        with suppress(OSError):
            self._out.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
            self.carried += 1
