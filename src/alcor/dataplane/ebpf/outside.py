"""Where a host meets external networks: its external device, and the rows of `eips`. Called by the driver.

The device is the operator's: it gets our program at its ingress, and nothing else is changed of it. What it hears for
addresses of ours the program answers; that an address came here (or that it is here, and not where it was) is told to
everybody by an announcement (RFC 5227 section 3), so that they send here at once.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

from alcor.dataplane.base import DataPlaneError, EndpointKey, LocalPort
from alcor.dataplane.ebpf import attaching, tables
from alcor.dataplane.ebpf.eips import UNLIMITED, eip_rows, forwarding_rows
from alcor.dataplane.ebpf.hands import Job
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.tables import Queues
from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.bpf import BpfMap
from alcor.dataplane.kernel.links import Link
from alcor.dataplane.kernel.netlink import Netlink
from alcor.model.addresses import Ip, Mac, format_ip
from alcor.model.ids import Id

BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = b"\x08\x06"
ARP_HEAD = b"\x00\x01\x08\x00\x06\x04\x00\x01"
"""Ethernet, IPv4, and a request."""


def _keys(port: LocalPort) -> set[bytes]:
    return {*forwarding_rows(port, 0), *eip_rows(port, 0)}


class Outside:
    """The external side of a host, perhaps without a device. Use it from the driver's thread."""

    def __init__(self, program: Program, netlink: Netlink, device: str, underlay: Link) -> None:
        """Attaches the program to the device; "": there is none. Raises DataPlaneError."""
        self._program = program
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
            body = ARP_HEAD + self._mac + ip[12:] + bytes(6) + ip[12:]
            try:
                self._socket.send(BROADCAST + self._mac + ETHERTYPE_ARP + body)
            except OSError:
                return
