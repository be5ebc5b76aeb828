"""The rows of `eips` and `forwardings`: a port's external addresses, both ways, and the queues of limited ones. Pure.

Called by outside, sorting and the driver. A row of a port's address has in the place of its other side's VNI (which is
outside) the queue of what leaves; a row of an external address, which needs no gateway, has there that of what comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alcor.dataplane.base import OUTSIDE, LocalPort
from alcor.dataplane.ebpf.tables import EIP, FORWARDING, FORWARDING_KEY, IFINDEX, NO_QUEUES, Queues, pack_key
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.addresses import Ip

UNLIMITED: Mapping[Ip, Queues] = {}
NOTHING = bytes(4)


def eip_rows(port: LocalPort, ifindex: int, queues: Mapping[Ip, Queues] = UNLIMITED) -> dict[bytes, bytes]:
    """The rows of `eips` of a port behind `ifindex`: two for each, and one for each address with forwardings."""
    rows: dict[bytes, bytes] = {}
    for eip in port.eips:
        sent, received = queues.get(eip.ip, NO_QUEUES)
        inside, outside = EndpointKey(port.vni, eip.inside), EndpointKey(OUTSIDE, eip.ip)
        rows[pack_key(outside)] = EIP.pack(eip.inside, port.vni, ifindex, IFINDEX.pack(received), NOTHING)
        rows[pack_key(inside)] = EIP.pack(eip.ip, sent, ifindex, *_way_out(eip.gateway, eip.prefix_length))
    for ip in {one.ip for one in port.forwardings}:
        _, received = queues.get(ip, NO_QUEUES)
        rows[pack_key(EndpointKey(OUTSIDE, ip))] = EIP.pack(
            bytes(16), OUTSIDE, ifindex, IFINDEX.pack(received), NOTHING
        )
    return rows


def eip_keys(port: LocalPort) -> list[EndpointKey]:
    """Of what the rows of `eips` of a port are."""
    inside = [EndpointKey(port.vni, one.inside) for one in port.eips]
    return [*inside, *(EndpointKey(OUTSIDE, ip) for ip in port.outer_ips())]


def forwarding_rows(port: LocalPort, ifindex: int, queues: Mapping[Ip, Queues] = UNLIMITED) -> dict[bytes, bytes]:
    """The rows of `forwardings` of a port behind `ifindex`: two for each."""
    rows: dict[bytes, bytes] = {}
    for one in port.forwardings:
        sent, _ = queues.get(one.ip, NO_QUEUES)
        outer, inner = (number.to_bytes(2, "big") for number in (one.port, one.inside_port))
        outside = FORWARDING_KEY.pack(OUTSIDE, one.ip, outer, one.protocol)
        inside = FORWARDING_KEY.pack(port.vni, one.inside, inner, one.protocol)
        way_out = _way_out(one.gateway, one.prefix_length)
        rows[outside] = FORWARDING.pack(one.inside, port.vni, ifindex, NOTHING, NOTHING, inner)
        rows[inside] = FORWARDING.pack(one.ip, sent, ifindex, *way_out, outer)
    return rows


def _way_out(gateway: Ip | None, prefix_length: int) -> tuple[bytes, bytes]:
    mask = (0xFFFFFFFF << (32 - prefix_length)) & 0xFFFFFFFF
    return gateway[12:] if gateway is not None else NOTHING, mask.to_bytes(4, "big")


def eip_queues(
    port: LocalPort, ifindex: int, eips: Mapping[EndpointKey, bytes], forwardings: Mapping[bytes, bytes]
) -> dict[Ip, Queues]:
    """The queues that the rows of a port behind `ifindex` name, by external address; those that name none are left
    out."""
    inside = {eip.ip: eips.get(EndpointKey(port.vni, eip.inside)) for eip in port.eips}
    for one in port.forwardings:
        key = FORWARDING_KEY.pack(port.vni, one.inside, one.inside_port.to_bytes(2, "big"), one.protocol)
        inside[one.ip] = forwardings.get(key)
    found = {}
    for ip, value in inside.items():
        outside = eips.get(EndpointKey(OUTSIDE, ip))
        queues = Queues(_queue(port.vni, value, ifindex), _queue(OUTSIDE, outside, ifindex))
        if queues != NO_QUEUES:
            found[ip] = queues
    return found


def queues_by_ifindex(rows: Iterable[tuple[bytes, bytes]]) -> dict[int, set[int]]:
    """The queues that rows of `eips` and `forwardings` name, by the interface of the port whose they are."""
    found: dict[int, set[int]] = {}
    for key, value in rows:
        ifindex = EIP.unpack_from(value)[2]
        queue = _queue(IFINDEX.unpack_from(key)[0], value, ifindex)
        if queue:
            found.setdefault(ifindex, set()).add(queue)
    return found


def _queue(vni: int, value: bytes | None, ifindex: int) -> int:
    """The queue that a row under a key of that VNI names; 0: none, or it is another port's."""
    if value is None:
        return 0
    _, queue_out, whose, queue_in, _ = EIP.unpack_from(value)
    queue = int(IFINDEX.unpack(queue_in)[0]) if vni == OUTSIDE else int(queue_out)
    return queue if whose == ifindex else 0
