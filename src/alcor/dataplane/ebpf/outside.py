"""Where a host meets external networks: its external device, and the rows of `eips`. Called by the driver.

The device is the operator's: it gets our program at its ingress, and nothing else is changed of it, but that it takes
in frames for all multicast groups once IPv6 addresses are answered for, whose neighbours ask groups. What it hears for
addresses of ours the program answers; that an address came here (or that it is here, and not where it was) is told to
everybody by an announcement (RFC 5227 section 3, RFC 4861 section 7.2.6), so that they send here at once.

IPv6 addresses of ports that are their own outside have no rows: routes of the VNI OUTSIDE say whose they are.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

from alcor.dataplane.base import OUTSIDE, DataPlaneError, LocalPort, Route, RouteKey, RouteKind
from alcor.dataplane.ebpf import attaching, routes, tables
from alcor.dataplane.ebpf.eips import UNLIMITED, eip_rows, forwarding_rows
from alcor.dataplane.ebpf.hands import Job
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.tables import Queues
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.bpf import BpfMap
from alcor.dataplane.kernel.links import Link
from alcor.dataplane.kernel.netlink import Netlink, NetlinkError
from alcor.model.addresses import Ip, Mac, Prefix, format_ip, ip_version
from alcor.model.ids import Id


def _keys(port: LocalPort) -> set[bytes]:
    return {*forwarding_rows(port, 0), *eip_rows(port, 0)}


class Outside:
    """The external side of a host, perhaps without a device. Use it from the driver's thread."""

    def __init__(self, program: Program, netlink: Netlink, device: str, underlay: Link) -> None:
        """Attaches the program to the device; "": there is none. Raises DataPlaneError."""
        self._program = program
        self._netlink = netlink
        self.ifindex = 0
        self._socket: socket.socket | None = None
        mac = Mac(bytes(6))
        if device:
            if device == underlay.name:
                raise DataPlaneError(
                    f"external device '{device}' is the underlay device: name another in `external_device`, such as a "
                    f"VLAN of it"
                )
            found = [link for link in links.links(netlink) if link.name == device]
            if not found:
                raise DataPlaneError(f"external device '{device}' is not there: name one in `external_device`")
            self.ifindex, mac = found[0].ifindex, found[0].mac
            attaching.attach_external(netlink, program, found[0])
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._socket.bind((device, 0))
        self._mac = mac
        program.external.put(tables.CONFIG_KEY, tables.pack_external(self.ifindex, mac))
        keys = ((routes.unpack_route_key(key), value) for key, value in program.routes.items() if _is_outside6(key))
        if any(_is_tenants(key, routes.unpack_route(value)) for key, value in keys):
            self._hear_groups()

    def close(self) -> None:
        """Lets go of the device, which translates on."""
        if self._socket is not None:
            self._socket.close()

    def refuse(self, port: LocalPort) -> str:
        """Why the port's external addresses cannot be here; "" when they can, or when it has none."""
        outer = port.outer_ips()
        if outer and not self.ifindex:
            return (
                f"address {format_ip(outer[0])}: this host has no external device; name one in "
                f"`external_device` of its agent, or move the port to a host that has one"
            )
        return ""

    def put(self, jobs: Sequence[Job], queues: Mapping[Id, Mapping[Ip, Queues]]) -> None:
        """Writes the rows of these ports' EIPs and forwardings, with the queues of those that are limited. Raises
        BpfError."""
        for opened, make in ((self._program.forwardings, forwarding_rows), (self._program.eips, eip_rows)):
            rows = dict[bytes, bytes]()
            for job in jobs:
                rows |= make(job.port, job.ifindex, queues.get(job.port.id, UNLIMITED))
            opened.update_batch(b"".join(rows), b"".join(rows.values()), len(rows))

    def withdraw(self, gone: Iterable[LocalPort], kept: Iterable[LocalPort] = ()) -> None:
        """Removes the rows of ports as they were, but for what these have. Raises BpfError."""
        stay = set[bytes]().union(*(_keys(port) for port in kept))
        forwardings, eips = set[bytes](), set[bytes]()
        for port in gone:
            forwardings.update(forwarding_rows(port, 0))
            eips.update(eip_rows(port, 0))
        self._delete(self._program.forwardings, forwardings - stay)
        self._delete(self._program.eips, eips - stay)

    def sweep(self, eips: Iterable[EndpointKey], forwardings: Iterable[bytes]) -> None:
        """Removes rows that are no port's. Raises BpfError."""
        self._delete(self._program.eips, {tables.pack_key(key) for key in eips})
        self._delete(self._program.forwardings, set(forwardings))

    def _delete(self, opened: BpfMap, keys: set[bytes]) -> None:
        opened.delete_batch(b"".join(sorted(keys)), len(keys))

    def announce(self, ips: Iterable[Ip]) -> None:
        """Tells everybody on the external network that these addresses are here. What cannot be sent is not: they
        will ask."""
        if self._socket is None:
            return
        for ip in sorted(set(ips)):
            try:
                self._socket.send(frames.announcement(ip, self._mac))
            except OSError:
                return

    # ---- IPv6 ----

    def outer_ips(self, port: LocalPort) -> list[Ip]:
        """The addresses of the port that are answered for outside: external ones, and its own there. Raises
        BpfError."""
        own = [ip for ip in tables.port_ips(port) if ip_version(ip) == 6] if self.ifindex else []
        return [*port.outer_ips(), *(ip for ip in own if self._owner(ip) == port.vni)]

    def coming(self, wanted: Iterable[tuple[RouteKey, Route]]) -> list[RouteKey]:
        """Which prefixes these routes, not in the table yet, make a VNI's own outside, with that VNI. Raises
        BpfError."""
        tenants = [RouteKey(one.hops[0].vni, key.prefix) for key, one in wanted if _is_tenants(key, one)]
        return [key for key in tenants if self._owner(key.prefix.base) != key.vni]

    def begin(self, prefixes: Sequence[RouteKey], ports: Iterable[LocalPort]) -> None:
        """These prefixes are their VNIs' own outside now: who asks for addresses in them is heard, and those that these
        ports have are announced. Raises DataPlaneError."""
        if prefixes:
            self._hear_groups()
            owned = [(port.vni, ip) for port in ports for ip in tables.port_ips(port)]
            self.announce(ip for vni, ip in owned if any(key.vni == vni and ip in key.prefix for key in prefixes))

    def _hear_groups(self) -> None:
        if self._socket is None:
            return
        try:
            self._netlink.check([links.hear_groups(self.ifindex)])
        except NetlinkError as error:
            raise DataPlaneError(
                f"the external device refuses to take in multicast frames ({error.strerror}), by which IPv6 neighbours "
                f"ask for ports: is it there?"
            ) from None

    def _owner(self, ip: Ip) -> int:
        """The VNI whose the address is outside, by the longest route; OUTSIDE: nobody's."""
        found = self._program.routes.get(routes.pack_route_key(RouteKey(OUTSIDE, Prefix(ip, 128, 6))))
        route = routes.unpack_route(found) if found is not None else None
        return route.hops[0].vni if route is not None and route.kind is RouteKind.CONNECTED else OUTSIDE


def _is_outside6(key: bytes) -> bool:
    """A key of `routes` is of the VNI OUTSIDE, IPv6. One look, for there may be very many."""
    return bool(routes.ROUTE_KEY.unpack(key)[1] == OUTSIDE | routes.ROUTE_IPV6)


def _is_tenants(key: RouteKey, route: Route) -> bool:
    """It says that a prefix is a VNI's own outside (IPv6)."""
    outside = key.vni == OUTSIDE and key.prefix.version == 6
    return outside and route.kind is RouteKind.CONNECTED and route.hops[0].vni != OUTSIDE
