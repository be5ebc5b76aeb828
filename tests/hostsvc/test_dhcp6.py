"""DHCP for IPv6, message by message, and garbage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.hostsvc.people import CLIENT, MAC, V6, People

from alcor.hostsvc import dhcp6
from alcor.hostsvc.answering import answer
from alcor.hostsvc.base import ROUTER_LINK_LOCAL, Client
from alcor.hostsvc.packets import Datagram, read_datagram, read_header, write_datagram
from alcor.model.addresses import link_local, parse_ip
from alcor.model.nouns import DhcpOption, Ipv6Mode

SERVERS = parse_ip("ff02::1:2")
WHO = b"\0\3\0\1" + MAC
OURS, ANOTHERS = dhcp6.DUID, b"\0\3\0\1\2\2\2\2\2\2"
ADDRESS = parse_ip("2001:db8::5")


def option(code: int, raw: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(raw).to_bytes(2, "big") + raw


def association(iaid: int = 1, *addresses: str, code: int = dhcp6.IA_NA) -> bytes:
    inside = b"".join([option(dhcp6.IA_ADDRESS, parse_ip(ip) + bytes(8)) for ip in addresses])
    return option(code, iaid.to_bytes(4, "big") + bytes(8) + inside)


def request(kind: int, *options: bytes, server: bytes | None = None, who: bytes = WHO) -> bytes:
    """A client's frame."""
    body = bytes((kind, 1, 2, 3)) + (option(1, who) if who else b"") + (option(2, server) if server else b"")
    return write_datagram(Datagram(MAC, link_local(MAC), SERVERS, 546, 547, body + b"".join(options)), MAC)


def read(raw: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(raw):
        code, length = int.from_bytes(raw[at : at + 2], "big"), int.from_bytes(raw[at + 2 : at + 4], "big")
        found[code] = raw[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def ask(frame: bytes, client: Client = CLIENT) -> tuple[int, dict[int, bytes]]:
    """Kind and options of the one answer."""
    found = answer(frame, client, People(client))
    assert isinstance(found, list), found
    (one,) = found
    ip = read_header(one)
    datagram = read_datagram(one, ip) if ip is not None else None
    assert datagram is not None
    assert (datagram.source, datagram.destination) == (ROUTER_LINK_LOCAL, link_local(MAC))
    assert datagram.payload[1:4] == b"\1\2\3"
    return datagram.payload[0], read(datagram.payload[4:])


def test_solicit_is_advertised_and_requested() -> None:
    """The port's address, for a day; preferred over any other server."""
    kind, options = ask(request(dhcp6.SOLICIT, association()))
    assert (kind, options[1], options[2], options[7]) == (dhcp6.ADVERTISE, WHO, OURS, b"\xff")
    assert read(options[dhcp6.IA_NA][12:])[dhcp6.IA_ADDRESS][:16] == ADDRESS
    kind, options = ask(request(dhcp6.REQUEST, association(9), server=OURS))
    assert (kind, options[dhcp6.IA_NA][:4]) == (dhcp6.REPLY, b"\0\0\0\x09")
    assert options[dhcp6.DOMAIN_LIST] == b"\x06tenant\x07example\0"


def test_rapid_commit_saves_a_round() -> None:
    """RFC 8415 section 18.3.1."""
    kind, options = ask(request(dhcp6.SOLICIT, option(14, b""), association()))
    assert (kind, options[14]) == (dhcp6.REPLY, b"")


def test_a_renewal_lets_go_of_foreign_addresses() -> None:
    """The own one is prolonged, any other has no time left."""
    _, options = ask(request(dhcp6.RENEW, association(1, "2001:db8::5", "2001:db8::66"), server=OURS))
    raw = options[dhcp6.IA_NA][12:]
    assert option(dhcp6.IA_ADDRESS, parse_ip("2001:db8::66") + bytes(8)) in raw
    assert raw.startswith(option(dhcp6.IA_ADDRESS, ADDRESS + (86_400).to_bytes(4, "big") * 2))


def test_there_are_no_more_addresses_than_the_port_has() -> None:
    """A second association, a temporary one and a prefix are told so."""
    body = (association(1), association(2), association(3, code=dhcp6.IA_TA), association(4, code=dhcp6.IA_PD))
    found = answer(request(dhcp6.SOLICIT, *body), CLIENT, People(CLIENT))
    assert isinstance(found, list)
    for status in (dhcp6.NO_ADDRESSES, dhcp6.NO_PREFIX):
        assert option(dhcp6.STATUS, status.to_bytes(2, "big")) in found[0]


@pytest.mark.parametrize(("address", "status"), [("2001:db8::5", dhcp6.SUCCESS), ("2001:db8:5::1", dhcp6.NOT_ON_LINK)])
def test_a_client_that_moved_is_told(address: str, status: int) -> None:
    """CONFIRM: the address is of this link, or it is not."""
    _, options = ask(request(dhcp6.CONFIRM, association(1, address)))
    assert options[dhcp6.STATUS] == status.to_bytes(2, "big")


def test_release_is_acknowledged() -> None:
    """There is no lease: it succeeds."""
    _, options = ask(request(dhcp6.RELEASE, association(1, "2001:db8::5"), server=OURS))
    assert options[dhcp6.STATUS] == b"\0\0"


def test_information_comes_without_an_address() -> None:
    """Stateless: servers, domain, extra options; no client id is needed."""
    lease = replace(
        V6, address_mode=Ipv6Mode.STATELESS, ra_mode=Ipv6Mode.STATELESS, nameservers=(parse_ip("2001:db8::53"),)
    )
    client = replace(CLIENT, leases=(lease,), options=(DhcpOption(6, "bootfile-url", "tftp://[2001:db8::1]/x"),))
    _, options = ask(request(dhcp6.INFORMATION_REQUEST, who=b""), client)
    assert options[dhcp6.DNS_SERVERS] == parse_ip("2001:db8::53")
    assert options[59] == b"tftp://[2001:db8::1]/x"
    assert dhcp6.IA_NA not in options
    _, options = ask(request(dhcp6.SOLICIT, association()), client)
    assert option(dhcp6.STATUS, dhcp6.NO_ADDRESSES.to_bytes(2, "big")) in options[dhcp6.IA_NA]


def test_who_is_spoken_to() -> None:
    """Another server's client is left alone; SLAAC subnets have no DHCPv6; messages without their ids are none."""
    everyone = People(CLIENT)
    assert answer(request(dhcp6.REQUEST, association(), server=ANOTHERS), CLIENT, everyone) == []
    slaac = replace(CLIENT, leases=(replace(V6, address_mode=Ipv6Mode.SLAAC, ra_mode=Ipv6Mode.SLAAC),))
    assert answer(request(dhcp6.SOLICIT, association()), slaac, everyone) is None
    assert answer(request(dhcp6.SOLICIT, association(), who=b""), CLIENT, everyone) is None
    assert answer(request(dhcp6.SOLICIT, association(), server=OURS), CLIENT, everyone) is None
    assert answer(request(dhcp6.REQUEST, association()), CLIENT, everyone) is None
    assert answer(request(12, association()), CLIENT, everyone) is None


HONEST = request(dhcp6.RENEW, association(1, "2001:db8::5", "2001:db8::66"), option(6, b"\0\x17"), server=OURS)


CHANGES = st.lists(st.tuples(st.integers(54, len(HONEST) - 1), st.integers(0, 255)), max_size=12)


@given(CHANGES, st.integers(0, len(HONEST)))
def test_bent_requests_never_raise_and_never_amplify(changes: list[tuple[int, int]], length: int) -> None:
    """Whatever is flipped or cut: at most one answer, of bounded size."""
    frame = bytearray(HONEST)
    for at, value in changes:
        frame[at] = value
    for bent in (bytes(frame), bytes(frame[:length])):
        found = answer(bent, CLIENT, People(CLIENT))
        if isinstance(found, list):
            assert len(found) <= 1
            assert sum(map(len, found)) <= 1500
