"""Which prefix of the underlay needs no route lookup."""

import pytest

from alcor.dataplane.ebpf.neighbours import onlink_length
from alcor.dataplane.kernel.links import InterfaceAddress, Route
from alcor.model.addresses import parse_ip

HERE = parse_ip("192.0.2.9")
ADDRESS = InterfaceAddress(3, HERE, 24)
CONNECTED = Route(3, parse_ip("192.0.2.0"), 24, None)
DEFAULT = Route(3, None, 0, parse_ip("192.0.2.1"))


def test_a_segment_is_on_link() -> None:
    """The connected prefix of the underlay address, whatever other routes lead elsewhere."""
    other = Route(4, parse_ip("198.51.100.0"), 24, parse_ip("192.0.2.1"))
    assert 24 == onlink_length(3, HERE, [ADDRESS], [DEFAULT, CONNECTED, other])


@pytest.mark.parametrize(
    "exception",
    [
        Route(3, parse_ip("192.0.2.128"), 25, parse_ip("192.0.2.1")),
        Route(4, parse_ip("192.0.2.77"), 32, None),
        Route(4, parse_ip("192.0.2.0"), 24, None),
    ],
)
def test_a_route_inside_the_prefix_decides(exception: Route) -> None:
    """A detour, or another interface, for a part of the prefix or all of it: the routes are asked."""
    assert 0 == onlink_length(3, HERE, [ADDRESS], [CONNECTED, exception])


def test_a_straight_part_changes_nothing() -> None:
    """A longer prefix by the same interface without a gateway is as on-link as the rest."""
    part = Route(3, parse_ip("192.0.2.64"), 26, None)
    assert 24 == onlink_length(3, HERE, [ADDRESS], [CONNECTED, part])


@pytest.mark.parametrize(
    ("addresses", "routes"),
    [
        ([], [CONNECTED]),
        ([InterfaceAddress(4, HERE, 24)], [CONNECTED]),
        ([InterfaceAddress(3, HERE, 32)], [Route(3, HERE, 32, None)]),
        ([ADDRESS], []),
        ([ADDRESS], [DEFAULT]),
    ],
    ids=["no address", "another interface", "host route", "no route", "default route alone"],
)
def test_otherwise_the_routes_are_asked(addresses: list[InterfaceAddress], routes: list[Route]) -> None:
    """Without an address with a connected prefix on that interface nothing is assumed."""
    assert 0 == onlink_length(3, HERE, addresses, routes)


def test_an_ipv6_underlay_asks_the_routes() -> None:
    """For now the program carries IPv4 outside."""
    ip = parse_ip("2001:db8::9")
    route = Route(3, parse_ip("2001:db8::"), 64, None)
    assert 0 == onlink_length(3, ip, [InterfaceAddress(3, ip, 64)], [route])
