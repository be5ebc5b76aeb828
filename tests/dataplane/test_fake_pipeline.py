"""The executable model does what docs/pipeline.md says, step by step, and keeps its promises on any bytes at all."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.dataplane import packets, worlds

from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.pipeline import from_overlay, from_port
from alcor.dataplane.fake.tables import HostConfig, LocalFlag, LocalRow, PortFlag, PortRow, RemoteRow, Tables
from alcor.dataplane.fake.walk import Count, Direction, Verdict, VerdictKind
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, parse_ip
from alcor.model.ids import Id

VNI, OTHER_VNI = 100, 200
HERE, THERE = "172.16.0.1", "172.16.0.2"
WEB, DB, FAR, V6_HOST, PLAIN = "10.0.0.1", "10.0.1.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"
GATEWAY = "10.0.0.254"
WEB_IF, DB_IF, PLAIN_IF, DOWN_IF, TWIN_IF = 11, 12, 13, 14, 21
WEB_MAC, DB_MAC, FAR_MAC, PLAIN_MAC = (packets.mac(n) for n in (1, 2, 3, 5))
ROUTED, UP = 1, 4


def _tables() -> Tables:
    """Two VPCs with the same addresses; in the first, WEB and DB are here, FAR on another host."""
    tables = Tables(config=HostConfig(parse_ip(HERE), 2, 4789))
    for ifindex, vni, address, mac, flags in (
        (WEB_IF, VNI, WEB, WEB_MAC, ROUTED | UP),
        (DB_IF, VNI, DB, DB_MAC, ROUTED | UP),
        (PLAIN_IF, VNI, PLAIN, PLAIN_MAC, UP),
        (DOWN_IF, VNI, "10.0.0.9", packets.mac(9), ROUTED),
        (TWIN_IF, OTHER_VNI, WEB, packets.mac(21), ROUTED | UP),
    ):
        tables.ports[ifindex] = PortRow(Id(bytes(16)), vni, 1450, Mac(mac), flags)
        tables.local[EndpointKey(vni, parse_ip(address))] = LocalRow(ifindex, 0, Mac(mac))
    tables.local[EndpointKey(VNI, parse_ip(GATEWAY))] = LocalRow(0, 1, ROUTER_MAC)
    tables.remote[EndpointKey(VNI, parse_ip(FAR))] = RemoteRow(parse_ip(THERE), Mac(FAR_MAC))
    tables.remote[EndpointKey(VNI, parse_ip(V6_HOST))] = RemoteRow(parse_ip("fd00::2"), Mac(packets.mac(4)))
    return tables


def _udp(source: str, destination: str, **bent: int) -> bytes:
    return packets.ipv4(source, destination, packets.udp(source, destination, b"hello"), **bent)  # type: ignore[arg-type]


def _frame(destination_mac: bytes, destination: str, **bent: int) -> bytes:
    """A UDP frame that WEB sends."""
    return packets.ethernet(destination_mac, WEB_MAC, _udp(WEB, destination, **bent))


ROUTER = packets.ROUTER
ECHO = packets.icmp_echo()
PING_GATEWAY = packets.ethernet(ROUTER, WEB_MAC, packets.ipv4(WEB, GATEWAY, ECHO, protocol=1, ttl=1))


@pytest.mark.parametrize(
    ("ifindex", "frame", "reason"),
    [
        (99, _frame(DB_MAC, DB), "no_port"),
        (DOWN_IF, _frame(DB_MAC, DB), "port_down"),
        (WEB_IF, b"\0" * 13, "malformed"),
        (WEB_IF, packets.ethernet(DB_MAC, DB_MAC, _udp(WEB, DB)), "spoofed_mac"),
        (WEB_IF, packets.ethernet(DB_MAC, WEB_MAC, _udp(WEB, DB), packets.IPV6), "malformed"),
        (WEB_IF, packets.ethernet(DB_MAC, WEB_MAC, b"\0\1\x08\0" + _udp(WEB, DB), packets.VLAN), "not_supported"),
        (WEB_IF, packets.arp(WEB_MAC, WEB, FAR)[:-1], "malformed"),
        (WEB_IF, packets.arp(WEB_MAC, WEB, FAR, head=b"\x00\x01\x08\x00\x06\x10"), "malformed"),
        (WEB_IF, packets.arp(DB_MAC, WEB, FAR, ethernet_source=WEB_MAC), "spoofed_mac"),
        (WEB_IF, packets.arp(WEB_MAC, DB, FAR), "spoofed_ip"),
        (WEB_IF, packets.arp(WEB_MAC, GATEWAY, FAR), "spoofed_ip"),
        (WEB_IF, packets.arp(WEB_MAC, WEB, FAR, opcode=2), "arp_ignored"),
        (WEB_IF, packets.arp(WEB_MAC, WEB, WEB), "arp_ignored"),
        (WEB_IF, packets.arp(WEB_MAC, "0.0.0.0", WEB), "arp_ignored"),
        (WEB_IF, packets.arp(WEB_MAC, "0.0.0.0", "0.0.0.0"), "arp_ignored"),
        (WEB_IF, packets.arp(WEB_MAC, WEB, "10.0.0.77"), "arp_unknown"),
        (PLAIN_IF, packets.arp(PLAIN_MAC, PLAIN, GATEWAY), "arp_unknown"),
        (WEB_IF, _frame(DB_MAC, DB)[:33], "malformed"),
        (WEB_IF, _frame(DB_MAC, DB, first_byte=0x65), "malformed"),
        (WEB_IF, _frame(DB_MAC, DB, first_byte=0x44), "malformed"),
        (WEB_IF, _frame(DB_MAC, DB, first_byte=0x4F), "malformed"),
        (WEB_IF, _frame(DB_MAC, DB, total_length=19), "malformed"),
        (WEB_IF, _frame(DB_MAC, DB, total_length=34), "malformed"),
        (WEB_IF, packets.ethernet(DB_MAC, WEB_MAC, _udp(DB, DB)), "spoofed_ip"),
        (WEB_IF, packets.ethernet(DB_MAC, WEB_MAC, _udp(GATEWAY, DB)), "spoofed_ip"),
        (WEB_IF, _frame(packets.BROADCAST, DB), "multicast"),
        (WEB_IF, _frame(b"\x01\x00\x5e\x00\x00\x01", "224.0.0.1"), "multicast"),
        (WEB_IF, _frame(packets.mac(77), "10.0.0.77"), "no_endpoint"),
        (WEB_IF, _frame(FAR_MAC, DB), "no_endpoint"),
        (WEB_IF, _frame(DB_MAC, GATEWAY), "no_endpoint"),
        (PLAIN_IF, packets.ethernet(ROUTER, PLAIN_MAC, _udp(PLAIN, DB)), "not_routed"),
        (WEB_IF, _frame(ROUTER, GATEWAY), "gateway"),
        (WEB_IF, packets.ethernet(ROUTER, WEB_MAC, packets.ipv4(WEB, GATEWAY, ECHO[:7], protocol=1)), "gateway"),
        (
            WEB_IF,
            packets.ethernet(ROUTER, WEB_MAC, packets.ipv4(WEB, GATEWAY, ECHO, protocol=1, fragment=1)),
            "gateway",
        ),
        (
            WEB_IF,
            packets.ethernet(ROUTER, WEB_MAC, packets.ipv4(WEB, GATEWAY, packets.icmp_echo(code=1), protocol=1)),
            "gateway",
        ),
        (WEB_IF, _frame(ROUTER, DB, ttl=1), "ttl_exceeded"),
        (WEB_IF, _frame(ROUTER, DB, ttl=0), "ttl_exceeded"),
        (WEB_IF, _frame(ROUTER, "10.0.0.77"), "no_endpoint"),
        (WEB_IF, _frame(ROUTER, V6_HOST), "no_underlay"),
        (WEB_IF, _frame(ROUTER, FAR) + bytes(0xFFFF), "encap_failed"),
    ],
)
def test_a_dropped_packet_says_which_reason(ifindex: int, frame: bytes, reason: str) -> None:
    """Every rule of the page that ends in a drop does so, counts at the port, and leaves the bytes as they came."""
    verdict = from_port(_tables(), ifindex, frame)
    assert reason == (verdict.reason and verdict.reason.word)
    assert (0 if reason == "no_port" else ifindex) == verdict.ifindex
    assert frame == verdict.frame
    assert verdict.why.endswith(f"drop {reason}")


def test_arp_is_answered_on_the_host() -> None:
    """A question for a local, a remote or a gateway's address comes back as the reply, padding kept."""
    for target, mac in ((DB, DB_MAC), (FAR, FAR_MAC), (GATEWAY, ROUTER)):
        verdict = from_port(_tables(), WEB_IF, packets.arp(WEB_MAC, WEB, target) + bytes(18))
        answer = packets.arp(mac, target, WEB, opcode=2, target_mac=WEB_MAC, ethernet_destination=WEB_MAC)
        assert answer + bytes(18) == verdict.frame
        assert (VerdictKind.REPLY, WEB_IF) == (verdict.kind, verdict.ifindex)
        sent_and_received = (Count(WEB_IF, Direction.SENT, 60), Count(WEB_IF, Direction.RECEIVED, 60))
        assert sent_and_received == verdict.counts


def test_a_probe_for_a_taken_address_is_answered() -> None:
    """RFC 5227: sender 0.0.0.0 asks whether an address is free; the owner's MAC says that it is not."""
    verdict = from_port(_tables(), WEB_IF, packets.arp(WEB_MAC, "0.0.0.0", FAR))
    answer = packets.arp(FAR_MAC, FAR, "0.0.0.0", opcode=2, target_mac=WEB_MAC, ethernet_destination=WEB_MAC)
    assert answer == verdict.frame


def test_a_neighbour_on_the_same_host_gets_the_frame_unchanged() -> None:
    """L2 inside the VNI: no TTL, no MAC changes, counted at both ends; a port may write to itself."""
    for mac, address, ifindex in ((DB_MAC, DB, DB_IF), (WEB_MAC, WEB, WEB_IF)):
        frame = _frame(mac, address, ttl=0)
        verdict = from_port(_tables(), WEB_IF, frame)
        assert (VerdictKind.DELIVER, ifindex, frame) == (verdict.kind, verdict.ifindex, verdict.frame)
        assert Count(ifindex, Direction.RECEIVED, len(frame)) == verdict.counts[1]


def test_the_router_decrements_ttl_and_rewrites_macs() -> None:
    """A routed frame is what the tests' own builder makes with one hop less."""
    verdict = from_port(_tables(), WEB_IF, _frame(ROUTER, DB, ttl=2))
    assert packets.ethernet(DB_MAC, ROUTER, _udp(WEB, DB, ttl=1)) == verdict.frame
    assert (VerdictKind.DELIVER, DB_IF) == (verdict.kind, verdict.ifindex)


def test_a_remote_endpoint_is_reached_through_the_tunnel() -> None:
    """Outer IPv4, UDP and VXLAN are as RFC 7348 has them; the port that carries the flow hash starts with 0b11."""
    frame = _frame(FAR_MAC, FAR)
    verdict = from_port(_tables(), WEB_IF, frame)
    outer = bytearray(packets.overlay(HERE, THERE, packets.vxlan(VNI, frame))[14:])
    assert verdict.frame[20] & 0xC0 == 0xC0
    outer[20:22] = verdict.frame[20:22]
    assert bytes(outer) == verdict.frame
    assert (VerdictKind.TUNNEL, parse_ip(THERE)) == (verdict.kind, verdict.host_ip)


def test_a_gateway_answers_a_ping() -> None:
    """Addresses and MACs swapped, TTL 64, type 0; both checksums, updated in place, are right."""
    verdict = from_port(_tables(), WEB_IF, PING_GATEWAY)
    reply = packets.ipv4(GATEWAY, WEB, packets.icmp_echo(kind=0), protocol=1, ttl=64)
    assert packets.ethernet(WEB_MAC, ROUTER, reply) == verdict.frame
    assert (VerdictKind.REPLY, WEB_IF) == (verdict.kind, verdict.ifindex)


def _arriving(inner: bytes, **bent: int) -> bytes:
    return packets.overlay(THERE, HERE, packets.vxlan(VNI, inner), **bent)  # type: ignore[arg-type]


INNER = packets.ethernet(WEB_MAC, FAR_MAC, _udp(FAR, WEB))


def test_what_leaves_one_host_arrives_at_the_other() -> None:
    """The frame that went into the tunnel comes out byte-equal and goes to the endpoint's interface."""
    verdict = from_overlay(_tables(), _arriving(INNER))
    assert (VerdictKind.DELIVER, WEB_IF, INNER) == (verdict.kind, verdict.ifindex, verdict.frame)
    assert (Count(WEB_IF, Direction.RECEIVED, len(INNER)),) == verdict.counts


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (_arriving(INNER)[: 14 + 20 + 4], "malformed"),
        (_arriving(INNER)[: 14 + 20 + 8 + 7], "malformed"),
        (packets.overlay(THERE, HERE, packets.vxlan(VNI, INNER, flags=0xF7)), "malformed"),
        (_arriving(INNER[:13]), "malformed"),
        (_arriving(INNER[:33]), "malformed"),
        (_arriving(packets.ethernet(WEB_MAC, FAR_MAC, _udp(FAR, WEB, first_byte=0x65))), "malformed"),
        (_arriving(packets.arp(FAR_MAC, FAR, WEB)), "not_supported"),
        (_arriving(packets.ethernet(WEB_MAC, FAR_MAC, _udp(FAR, "10.0.0.77"))), "no_endpoint"),
        (_arriving(packets.ethernet(DB_MAC, FAR_MAC, _udp(FAR, WEB))), "no_endpoint"),
        (_arriving(packets.ethernet(ROUTER, FAR_MAC, _udp(FAR, GATEWAY))), "no_endpoint"),
        (packets.overlay(THERE, HERE, packets.vxlan(300, INNER)), "no_endpoint"),
    ],
)
def test_a_packet_from_the_tunnel_that_is_wrong_is_dropped(frame: bytes, reason: str) -> None:
    """Nobody here is to blame: such drops count at interface 0."""
    verdict = from_overlay(_tables(), frame)
    assert (reason, 0, frame) == (verdict.reason and verdict.reason.word, verdict.ifindex, verdict.frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        _arriving(INNER)[:37],
        _arriving(INNER, port=53),
        _arriving(INNER, protocol=6),
        _arriving(INNER, fragment=0x2000),
        _arriving(INNER, ethertype=packets.IPV6),
        packets.overlay(THERE, "172.16.0.7", packets.vxlan(VNI, INNER)),
        packets.overlay(THERE, HERE, packets.vxlan(VNI, INNER), options=b"\x01" * 4),
    ],
)
def test_what_is_not_ours_passes_untouched(frame: bytes) -> None:
    """The host's own traffic on the underlay goes to its stack."""
    verdict = from_overlay(_tables(), frame)
    assert (VerdictKind.PASS, frame, ()) == (verdict.kind, verdict.frame, verdict.counts)


# ---- what holds for any packet ----


def _random_verdict(seed: int) -> tuple[Tables, worlds.Packet, Verdict]:
    rng = random.Random(seed)
    ifindexes = list(range(10, 20))
    tables = worlds.random_tables(rng, ifindexes, 2)
    (packet,) = worlds.random_packets(rng, tables, ifindexes, 1)
    come_in = from_port(tables, packet.ifindex, packet.frame) if packet.ifindex else from_overlay(tables, packet.frame)
    return tables, packet, come_in


SEEDS = st.integers(min_value=0)
MANY = settings(max_examples=1000, deadline=None)


@given(st.binary(max_size=200), st.sampled_from((WEB_IF, PLAIN_IF, DOWN_IF, 99)))
def test_any_bytes_get_a_verdict_and_a_why(frame: bytes, ifindex: int) -> None:
    """The model never raises, and always says why."""
    honest_head = ROUTER + WEB_MAC + b"\x08\x00"
    for verdict in (
        from_port(_tables(), ifindex, frame),
        from_port(_tables(), WEB_IF, honest_head + frame),
        from_overlay(_tables(), frame),
        from_overlay(_tables(), _arriving(frame)),
    ):
        assert verdict.steps
        assert (verdict.kind is VerdictKind.DROP) == (verdict.reason is not None)


@MANY
@given(SEEDS)
def test_a_drop_changes_no_bytes(seed: int) -> None:
    """What is not let through is left as it came, and nobody is counted to have received it."""
    _, packet, verdict = _random_verdict(seed)
    if verdict.kind in (VerdictKind.DROP, VerdictKind.PASS):
        assert packet.frame == verdict.frame
        assert all(count.direction is Direction.SENT for count in verdict.counts)


@MANY
@given(SEEDS)
def test_a_frame_never_leaves_its_vni(seed: int) -> None:
    """P7: a frame comes out at a port of the VNI it was sent in, or in the tunnel under that VNI; or, sent to the
    router by a port that has routes, in a VNI that one of its own VNI's routes leads to."""
    tables, packet, verdict = _random_verdict(seed)
    port = tables.ports.get(packet.ifindex)
    allowed = {port.vni} if port is not None else {int.from_bytes(packet.frame[46:49], "big")}
    if port is not None and port.flags & PortFlag.ROUTES and packet.frame[:6] == ROUTER_MAC:
        allowed = {hop.vni for key, route in tables.routes.items() if key.vni == port.vni for hop in route.hops}
        if any(step.startswith("B:") for step in verdict.steps):  # a load balancer's address is of the port's own VNI
            allowed.add(port.vni)
    if verdict.kind is VerdictKind.DELIVER:
        assert tables.ports[verdict.ifindex].vni in allowed
    elif verdict.kind is VerdictKind.TUNNEL:
        # From a port, or sent on after a port that left: under the VNI that it came with.
        assert int.from_bytes(verdict.frame[32:35], "big") in allowed
    elif verdict.kind is VerdictKind.REPLY:
        assert packet.ifindex == verdict.ifindex


@MANY
@given(SEEDS)
def test_no_spoofed_source_ever_leaves(seed: int) -> None:
    """P7: what a port's frame carries as it comes out is the port's own address, from its own MAC or the router's; or
    one of its pairs; or it has no port security. Only an answer, on the client's host, comes from a load balancer's."""
    tables, packet, verdict = _random_verdict(seed)
    if packet.ifindex and verdict.kind in (VerdictKind.DELIVER, VerdictKind.TUNNEL):
        port = tables.ports[packet.ifindex]
        inner = verdict.frame if verdict.kind is VerdictKind.DELIVER else verdict.frame[36:]
        source = Ip(inner[22:38]) if inner[12:14] == b"\x86\xdd" else parse_ip(".".join(map(str, inner[26:30])))
        own = tables.local.get(EndpointKey(port.vni, source))
        if own is not None and own.flags & LocalFlag.VIP:
            # A load balancer's: what its backend answers to a port of this host, or what a port sends to itself by it.
            assert verdict.kind is VerdictKind.DELIVER
            assert "U: " in verdict.why or verdict.ifindex == packet.ifindex
        elif own is not None and own.ifindex == packet.ifindex and packet.frame[6:12] == port.mac:
            assert inner[6:12] in (port.mac, ROUTER_MAC)
        elif not port.flags & PortFlag.OPEN:
            pairs = tables.senders[packet.ifindex]
            assert any(one.mac == packet.frame[6:12] and source in one.prefix for one in pairs)


@MANY
@given(SEEDS)
def test_rewriting_keeps_a_right_checksum_right(seed: int) -> None:
    """RFC 1624 in place: when the IPv4 header summed up before, it does after, in the tunnel's outer header too."""
    _, packet, verdict = _random_verdict(seed)
    if not packet.ifindex or verdict.kind in (VerdictKind.DROP, VerdictKind.PASS) or packet.frame[12:14] != b"\x08\x00":
        return
    inner = verdict.frame[36:] if verdict.kind is VerdictKind.TUNNEL else verdict.frame
    length = (packet.frame[14] & 15) * 4
    if packets.internet_checksum(packet.frame[14 : 14 + length]) == 0:
        length = (inner[14] & 15) * 4  # an ICMP error has a header of its own
        assert packets.internet_checksum(inner[14 : 14 + length]) == 0
    if verdict.kind is VerdictKind.TUNNEL:
        assert packets.internet_checksum(verdict.frame[:20]) == 0


def test_the_random_worlds_reach_every_step() -> None:
    """The generators behind the properties (and the differential tests) meet every verdict and every drop reason."""
    # A kernel alone refuses to encapsulate a packet of ordinary size, and has no memory.
    # A model has no clock to count misses and requests by; what was held comes back in the differential tests. Queues
    # that are full are the switch's.
    rare = {DropReason.ENCAP_FAILED, DropReason.FLOWS_FULL, DropReason.MISS_LIMIT, DropReason.UNRESOLVED}
    rare |= {DropReason.SERVICE_LIMIT, DropReason.UNSERVED, DropReason.RATE_LIMIT}
    rare |= {DropReason.EIP_RATE_LIMIT}
    kinds, reasons, seeds = set(VerdictKind), set(DropReason) - rare, iter(range(8000))
    while kinds or reasons:
        verdict = _random_verdict(next(seeds))[2]
        kinds.discard(verdict.kind)
        assert verdict.reason not in rare
        reasons.discard(verdict.reason)
