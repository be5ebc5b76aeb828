"""DHCP for IPv4, message by message, and garbage."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.hostsvc.people import CLIENT, MAC, V4, People

from alcor.hostsvc import dhcp4
from alcor.hostsvc.answering import answer
from alcor.hostsvc.base import Client
from alcor.hostsvc.packets import Datagram, read_datagram, read_header, write_datagram
from alcor.model.addresses import BROADCAST_IP, SERVICE_IPS, Ip, parse_ip, parse_prefix
from alcor.model.nouns import DhcpOption


def request(
    kind: int,
    *options: bytes,
    ciaddr: str = "0.0.0.0",
    flags: int = 0,
    mac: bytes = MAC,
    giaddr: str = "0.0.0.0",
    to: Ip = BROADCAST_IP,
) -> bytes:
    """A client's frame."""
    head = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x1234, 0, flags) + parse_ip(ciaddr)[12:] + bytes(8)
    body = head + parse_ip(giaddr)[12:] + mac + bytes(10 + 192) + b"\x63\x82\x53\x63"
    body += bytes((53, 1, kind)) + b"".join(options) + b"\xff"
    return write_datagram(Datagram(MAC, parse_ip(ciaddr), to, 68, 67, body), MAC)


def option(code: int, raw: bytes) -> bytes:
    return bytes((code, len(raw))) + raw


def told(frame: bytes) -> tuple[Datagram, dict[int, bytes]]:
    """An answer, and its options."""
    ip = read_header(frame)
    assert ip is not None
    datagram = read_datagram(frame, ip)
    assert datagram is not None
    found, at = {}, 240
    while datagram.payload[at] != 255:
        code, length = datagram.payload[at : at + 2]
        found[code] = datagram.payload[at + 2 : at + 2 + length]
        at += 2 + length
    return datagram, found


def ask(frame: bytes, client: Client = CLIENT) -> tuple[Datagram, dict[int, bytes]]:
    """The one answer to a frame."""
    found = answer(frame, client, People(client))
    assert isinstance(found, list), found
    (one,) = found
    return told(one)


def test_a_discover_is_offered_the_ports_address() -> None:
    """The address, its network, the router, the servers, how long, and the names; to the address, at the port's MAC."""
    datagram, options = ask(request(dhcp4.DISCOVER))
    assert (datagram.source, datagram.destination) == (parse_ip("10.0.0.1"), parse_ip("10.0.0.5"))
    assert datagram.payload[16:20] == parse_ip("10.0.0.5")[12:]
    assert options[53] == bytes((dhcp4.OFFER,))
    assert options[54] == options[3] == parse_ip("10.0.0.1")[12:]
    assert options[1] == b"\xff\xff\xff\0"
    assert options[28] == parse_ip("10.0.0.255")[12:]
    assert options[6] == SERVICE_IPS[0][12:]
    assert options[26] == (1450).to_bytes(2, "big")
    assert (options[12], options[15]) == (b"web", b"tenant.example")
    assert options[51] == (86_400).to_bytes(4, "big")
    assert options[121] == bytes.fromhex("20 a9fea9fe 0a000001 00 0a000001")


def test_without_its_own_gateway_the_service_address_is_on_the_link() -> None:
    """A network that is not routed: the answers come from the service address, which needs no gateway."""
    datagram, options = ask(request(dhcp4.DISCOVER), replace(CLIENT, routed=False))
    assert datagram.source == SERVICE_IPS[0]
    assert options[121] == bytes.fromhex("20 a9fea9fe 00000000 00 0a000001")


def test_without_a_name_the_address_is_the_name() -> None:
    """As in Neutron."""
    assert ask(request(dhcp4.DISCOVER), replace(CLIENT, hostname=""))[1][12] == b"host-10-0-0-5"


def test_a_request_for_the_address_is_acknowledged() -> None:
    """By option while it is new, by ciaddr when it is renewed; renewed ones are answered where they come from."""
    _, options = ask(request(dhcp4.REQUEST, option(50, parse_ip("10.0.0.5")[12:]), option(54, b"\x0a\0\0\1")))
    assert options[53] == bytes((dhcp4.ACK,))
    datagram, options = ask(request(dhcp4.REQUEST, ciaddr="10.0.0.5", to=parse_ip("10.0.0.1")))
    assert (options[53], datagram.destination) == (bytes((dhcp4.ACK,)), parse_ip("10.0.0.5"))


def test_a_request_for_another_address_is_refused() -> None:
    """A client that moved networks, or lies: NAK, to everybody on the link (RFC 2131 section 4.3.2)."""
    datagram, options = ask(request(dhcp4.REQUEST, option(50, parse_ip("10.0.0.9")[12:])))
    assert (options[53], datagram.destination) == (bytes((dhcp4.NAK,)), BROADCAST_IP)
    assert options.keys() == {53, 54}
    assert datagram.payload[16:20] == bytes(4)


def test_a_request_for_another_server_is_left_alone() -> None:
    """It took somebody else's offer."""
    frame = request(dhcp4.REQUEST, option(50, parse_ip("10.0.0.5")[12:]), option(54, b"\x0a\0\0\x63"))
    assert answer(frame, CLIENT, People(CLIENT)) == []


def test_a_client_that_has_an_address_is_informed() -> None:
    """INFORM: everything but an address and a lease."""
    datagram, options = ask(request(dhcp4.INFORM, ciaddr="10.0.0.5"))
    assert (options[53], datagram.payload[16:20]) == (bytes((dhcp4.ACK,)), bytes(4))
    assert 51 not in options
    assert 6 in options


def test_release_and_decline_change_nothing() -> None:
    """There is no lease to give back: silence, and no drop."""
    for kind in (dhcp4.RELEASE, dhcp4.DECLINE):
        assert answer(request(kind, ciaddr="10.0.0.5"), CLIENT, People(CLIENT)) == []


def test_the_broadcast_flag_is_honoured() -> None:
    """Some clients hear nothing else before they have an address."""
    assert ask(request(dhcp4.DISCOVER, flags=0x8000))[0].destination == BROADCAST_IP


def test_what_is_not_this_ports_is_not_answered() -> None:
    """Another MAC in chaddr, a relay, a message that servers send, a port without IPv4."""
    nobody = People(CLIENT)
    assert answer(request(dhcp4.DISCOVER, mac=b"\xfa\x16\x3e\0\0\x99"), CLIENT, nobody) is None
    assert answer(request(dhcp4.DISCOVER, giaddr="10.0.0.3"), CLIENT, nobody) is None
    assert answer(request(dhcp4.OFFER), CLIENT, nobody) is None
    assert answer(request(dhcp4.DISCOVER), replace(CLIENT, leases=CLIENT.leases[1:]), nobody) is None


def test_extra_options_override_and_add() -> None:
    """By name and by number; the next server goes into its field; what is of IPv6 stays out."""
    extra = (
        DhcpOption(4, "mtu", "1300"),
        DhcpOption(4, "server-ip-address", "192.0.2.9"),
        DhcpOption(4, "224", "10:20:ff"),
        DhcpOption(4, "option:150", "192.0.2.1,192.0.2.2"),
        DhcpOption(6, "59", "tftp://x"),
    )
    datagram, options = ask(request(dhcp4.DISCOVER), replace(CLIENT, options=extra))
    assert options[26] == (1300).to_bytes(2, "big")
    assert datagram.payload[20:24] == bytes((192, 0, 2, 9))
    assert options[224] == b"\x10\x20\xff"
    assert options[150] == bytes((192, 0, 2, 1, 192, 0, 2, 2))
    assert 59 in options and options[59] != b"tftp://x"


def test_host_routes_are_told() -> None:
    """Between the services' route and the default one."""
    lease = replace(V4, routes=((parse_prefix("192.168.0.0/16"), parse_ip("10.0.0.254")),))
    options = ask(request(dhcp4.DISCOVER), replace(CLIENT, leases=(lease,)))[1]
    assert options[121] == bytes.fromhex("20 a9fea9fe 0a000001 10 c0a8 0a0000fe 00 0a000001")


def test_an_answer_fits_what_the_client_takes() -> None:
    """576 bytes when it does not say; what it asked for comes first."""
    extra = tuple(DhcpOption(4, str(code), "x" * 100) for code in range(200, 206))
    client = replace(CLIENT, options=extra)
    small, options = ask(request(dhcp4.DISCOVER, option(55, bytes((205,)))), client)
    assert 28 + len(small.payload) <= 576
    assert 205 in options and not {200, 201, 202, 203} <= options.keys()
    large, options = ask(request(dhcp4.DISCOVER, option(57, (1400).to_bytes(2, "big"))), client)
    assert options.keys() >= set(range(200, 206))
    assert 28 + len(large.payload) <= 1400


def test_a_second_address_may_be_asked_for() -> None:
    """A port with two addresses gets the first, or the one that it names."""
    other = replace(V4, ip=parse_ip("10.0.0.8"))
    client = replace(CLIENT, leases=(V4, other))
    assert ask(request(dhcp4.DISCOVER), client)[0].payload[16:20] == parse_ip("10.0.0.5")[12:]
    named = request(dhcp4.REQUEST, option(50, parse_ip("10.0.0.8")[12:]))
    assert ask(named, client)[0].payload[16:20] == parse_ip("10.0.0.8")[12:]


HONEST = request(dhcp4.DISCOVER, option(55, bytes((1, 3, 6))), option(61, b"\1" + MAC))


CHANGES = st.lists(st.tuples(st.integers(0, len(HONEST) - 1), st.integers(0, 255)), max_size=12)


@given(CHANGES, st.integers(0, len(HONEST)))
def test_bent_requests_never_raise_and_never_amplify(changes: list[tuple[int, int]], length: int) -> None:
    """Whatever is flipped or cut: at most one answer, of bounded size, to the port's own MAC or everybody."""
    frame = bytearray(HONEST)
    for at, value in changes:
        frame[at] = value
    for bent in (bytes(frame), bytes(frame[:length])):
        found = answer(bent, CLIENT, People(CLIENT))
        if isinstance(found, list):
            assert len(found) <= 1
            for one in found:
                assert len(one) <= 14 + 1400


@given(st.binary(max_size=400))
def test_random_bytes_never_raise(raw: bytes) -> None:
    """As a frame, as a UDP payload to each of the services' ports, as an IPv6 packet."""
    frames = [raw, bytes(12) + b"\x08\x00" + raw, bytes(12) + b"\x86\xdd" + raw]
    for to, port in ((SERVICE_IPS[0], 67), (SERVICE_IPS[0], 53), (SERVICE_IPS[1], 547), (SERVICE_IPS[1], 53)):
        source = parse_ip("10.0.0.5") if port in (67, 53) and to == SERVICE_IPS[0] else parse_ip("2001:db8::5")
        frames.append(write_datagram(Datagram(MAC, source, to, 68, port, raw), MAC))
    for one in frames:
        answer(one, CLIENT, People(CLIENT))
