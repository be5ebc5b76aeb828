"""Which hosts are direct neighbours of this one on the underlay, so that the program need not ask the routes. Pure.

Called by the driver when it starts. A route lookup is a twentieth of the cost of a packet between hosts; within one
segment it always gives the destination itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.dataplane.kernel.links import InterfaceAddress, Route
from alcor.model.addresses import Ip, ip_to_int, ip_version


def onlink_length(ifindex: int, underlay_ip: Ip, addresses: Iterable[InterfaceAddress], routes: Iterable[Route]) -> int:
    """The prefix length around `underlay_ip` within which the main table sends everything straight out of that
    interface; 0 (ask the routes, always right) when there is none or when a route inside the prefix says otherwise.
    Rules that choose other tables are not looked at: tunnel packets of a host with such rules need 0 too."""
    lengths = [found.prefix_length for found in addresses if (found.ifindex, found.ip) == (ifindex, underlay_ip)]
    if ip_version(underlay_ip) != 4 or len(lengths) != 1 or not 0 < lengths[0] < 32:
        return 0
    length = lengths[0]
    network = ip_to_int(underlay_ip) >> (32 - length)
    inside = [
        route
        for route in routes
        if route.destination is not None
        and route.length >= length
        and ip_version(route.destination) == 4
        and ip_to_int(route.destination) >> (32 - length) == network
    ]
    straight = all(route.ifindex == ifindex and route.gateway is None for route in inside)
    return length if straight and any(route.length == length for route in inside) else 0
