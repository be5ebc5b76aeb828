"""Table rows: the Python layouts are the C structs' own, and what is packed is read back."""

import re
import shutil
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dataplane.columns import as_columns

from alcor.dataplane.base import Address, EipLimit, LocalPort, RateLimit, RouteKind
from alcor.dataplane.drops import DropReason
from alcor.dataplane.ebpf import routes, rules, tables
from alcor.dataplane.ebpf.tables import (
    EndpointFlag,
    EndpointUse,
    HostConfig,
    LocalRow,
    PortFlag,
    PortRow,
    Queues,
    Traffic,
    Verdict,
)
from alcor.dataplane.endpoints import Endpoint, EndpointColumns, EndpointKey
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import AddressPair, Claim, Eip, Forwarding, PortKind

HEADER = Path(tables.__file__).with_name("alcor.h")
FIELDS = {
    "port": (
        tables.PORT,
        ("id", "vni", "mtu", "mac", "flags", "identity", "queue_out", "queue_in", "dscp", "zero", "digest"),
    ),
    "address_key": (tables.ADDRESS_KEY, ("vni", "ip")),
    "local_endpoint": (tables.LOCAL, ("ifindex", "flags", "mac", "identity", "queue")),
    "remote_endpoint": (tables.REMOTE, ("host_ip", "mac", "identity", "use")),
    "miss": (tables.MISS, ("sought.vni", "sought.ip", "ifindex", "length", "gso_size")),
    "miss_rate": (tables.MISS_RATE, ("since_ns", "count", "zero")),
    "traffic": (tables.TRAFFIC, ("sent_packets", "sent_bytes", "received_packets", "received_bytes")),
    "drop_key": (tables.DROP_KEY, ("ifindex", "reason")),
    "host_config": (
        tables.CONFIG,
        ("underlay_ip", "underlay_ifindex", "vxlan_port", "zero", "onlink_mask", "held_ifindex", "miss_rate"),
    ),
    "sender_key": (tables.SENDER_KEY, ("prefix_length", "ifindex", "mac", "zero", "ip")),
    "flow_key": (
        tables.FLOW_KEY,
        ("local", "remote", "ifindex", "local_port", "remote_port", "protocol", "zero"),
    ),
    "flow": (
        tables.FLOW,
        ("seen_ns", "generation", "identity", "selector", "state", "egress", "fins", "zero"),
    ),
    "policy_key": (rules.POLICY_KEY, ("vni", "identity")),
    "policy": (rules.POLICY, ("kinds", "entries", "digest")),
    "rule_key": (
        rules.RULE_KEY,
        ("prefix_length", "vni", "identity", "side", "protocol", "remote", "selector"),
    ),
    "prefix_key": (rules.PREFIX_KEY, ("prefix_length", "vni", "identity", "side", "zero", "ip")),
    "router": (tables.ROUTER, ("ip", "ip6")),
    "mac_key": (tables.MAC_KEY, ("vni", "mac", "zero")),
    "route_key": (routes.ROUTE_KEY, ("prefix_length", "vni", "ip")),
    "route": (routes.ROUTE, ("kind", "count", "hops")),
    "hop": (routes.HOP, ("vni", "mtu", "ip")),
    "eip": (tables.EIP, ("ip", "vni", "ifindex", "queue_in", "mask")),
    "translation_key": (routes.TRANSLATION_KEY, ("vni", "identity", "to")),
}

NUMBERS = (
    (DropReason, "DROP"),
    (Verdict, "VERDICT"),
    (PortFlag, "PORT"),
    (EndpointFlag, "ENDPOINT"),
    (EndpointUse, "USE"),
    (RouteKind, "ROUTE"),
)

PORT = LocalPort(
    id=Id(bytes(range(16))),
    vni=70_000,
    mac=Mac(b"\x02\x00\x00\x00\x00\x01"),
    addresses=(
        Address(parse_ip("10.0.0.4"), 24, parse_ip("10.0.0.1")),
        Address(parse_ip("2001:db8::4"), 64, None),
    ),
    mtu=1450,
    admin_state_up=True,
    routed=True,
    kind=PortKind.CONTAINER,
    netns="",
    interface="eth0",
)
ips = st.one_of(
    st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4).map(lambda b: b"\0" * 10 + b"\xff\xff" + b)
)
macs = st.binary(min_size=6, max_size=6)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


def sizes(layout: struct.Struct) -> list[int]:
    """The size of every field of a layout, padding included, in order."""
    found: list[int] = []
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format.lstrip("=")):
        repeat = 1 if code in "sx" or not count else int(count)
        found += [struct.calcsize(f"={count}{code}" if code in "sx" else f"={code}")] * repeat
    return found


def test_layouts_are_the_compilers() -> None:
    """Size and offset of every field in tables.py are what the compiler makes of alcor.h, and so are the numbers."""
    claims = []
    for name, (layout, fields) in FIELDS.items():
        claims.append(f"sizeof(struct {name}) == {layout.size}")
        at = 0
        for field, size in zip(fields, sizes(layout), strict=True):
            claims.append(f"__builtin_offsetof(struct {name}, {field}) == {at}")
            claims.append(f"sizeof(((struct {name} *)0)->{field}) == {size}")
            at += size
    for kind, prefix in NUMBERS:
        claims += [f"{prefix}_{member.name} == {member.value}" for member in kind]
    source = f'#include "{HEADER}"\n' + "".join(f'_Static_assert({c}, "{c}");\n' for c in claims)
    source += "static const __u8 router_mac[6] = ROUTER_MAC_BYTES;\n"
    if shutil.which("clang") is None:
        pytest.skip("SKIPPED LOUDLY: clang is missing: run `make setup`")
    done = subprocess.run(
        ["clang", "-fsyntax-only", "-target", "bpf", f"-I/usr/include/{platform_triplet()}", "-xc", "-"],
        input=source,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stderr


def platform_triplet() -> str:
    """Where Debian keeps asm/types.h."""
    return (
        subprocess.run(["clang", "-print-target-triple"], capture_output=True, text=True, timeout=60, check=True)
        .stdout.strip()
        .replace("-pc-", "-")
    )


def test_every_reason_of_the_header_is_known() -> None:
    """A reason, verdict or flag that is added to alcor.h must be added to tables.py."""
    text = HEADER.read_text(encoding="ascii")
    for kind, prefix in NUMBERS:
        named = dict(re.findall(rf"^\t{prefix}_(\w+) = (\d+),", text, re.MULTILINE))
        assert {member.name: str(member.value) for member in kind} == named


def test_the_router_has_one_mac() -> None:
    """alcor.h and the model name the same router MAC."""
    text = HEADER.read_text(encoding="ascii")
    digits = re.search(r"ROUTER_MAC_BYTES \{(.*)\}", text)
    assert digits is not None
    assert bytes(int(part, 16) for part in digits[1].split(",")) == ROUTER_MAC


@given(
    st.builds(
        PortRow,
        st.binary(min_size=16, max_size=16).map(Id),
        *(u32, u32, macs.map(Mac), st.sampled_from(list(PortFlag)), u16, u64),
        st.builds(Queues, u16, u16),
        st.integers(0, 127),
    )
)
def test_port_rows_survive(row: PortRow) -> None:
    """A row of `ports` is read back as it was packed."""
    assert row == tables.unpack_port(tables.pack_port(row))


@given(
    st.builds(EndpointKey, u32, ips.map(Ip)),
    st.builds(LocalRow, u32, st.sampled_from([EndpointFlag(0), *EndpointFlag]), macs.map(Mac), u16, u16),
)
def test_local_rows_survive(key: EndpointKey, row: LocalRow) -> None:
    """A row of `local` is read back as it was packed."""
    assert key == tables.unpack_key(tables.pack_key(key))
    assert row == tables.unpack_local(tables.pack_local(row))


@given(macs, ips, u16)
def test_remote_rows_survive(mac: bytes, ip: bytes, identity: int) -> None:
    """A row of `remote` is read back as it was packed."""
    endpoint = Endpoint(Mac(mac), Ip(ip), identity)
    assert endpoint == tables.unpack_endpoint(tables.pack_endpoint(endpoint))


@given(ips, u32, st.integers(0, 65535), st.integers(0, 32))
def test_config_survives(ip: bytes, ifindex: int, port: int, length: int) -> None:
    """The row of `config` is read back as it was packed."""
    config = HostConfig(Ip(ip), ifindex, port, length)
    assert config == tables.unpack_config(tables.pack_config(config))


@given(u32, st.sampled_from(DropReason))
def test_drop_keys_survive(ifindex: int, reason: DropReason) -> None:
    """A key of `drops` is read back as it was packed."""
    assert (ifindex, reason) == tables.unpack_drop_key(tables.pack_drop_key(ifindex, reason))


def test_the_wire_orders_what_it_must() -> None:
    """The VXLAN port and the on-link mask are in network order."""
    value = tables.pack_config(HostConfig(parse_ip("192.0.2.1"), 3, 4789, 24))
    assert b"\x12\xb5" == value[20:22]
    assert b"\xff\xff\xff\x00" == value[24:28]


def test_batches_are_the_rows_one_after_another() -> None:
    """A batch holds exactly what packing row by row gives."""
    keys = [EndpointKey(7, parse_ip(f"10.0.0.{n}")) for n in range(5)]
    ends = [Endpoint(Mac(bytes((2, 0, 0, 0, 0, n))), parse_ip(f"192.0.2.{n}"), n % 3) for n in range(5)]
    locals_ = [LocalRow(n + 1, EndpointFlag.PEER, ends[n].mac) for n in range(5)]
    ports = [(n + 1, tables.port_row(PORT, peer=n % 2 == 0)) for n in range(5)]
    expected_keys = b"".join(map(tables.pack_key, keys))
    remote_batch = tables.pack_endpoints(list(zip(keys, ends, strict=True)))
    assert (expected_keys, b"".join(map(tables.pack_endpoint, ends))) == remote_batch
    columns = as_columns(list(zip(keys, ends, strict=True)))
    assert remote_batch == tables.pack_columns(columns)
    assert (b"", b"") == tables.pack_columns(EndpointColumns(7, (), (), (), ()))
    assert list(zip(keys, ends, strict=True)) == list(columns.rows())
    local_batch = tables.pack_locals(list(zip(keys, locals_, strict=True)))
    assert (expected_keys, b"".join(map(tables.pack_local, locals_))) == local_batch
    gateway = tables.pack_local(LocalRow(0, EndpointFlag.GATEWAY, ROUTER_MAC))
    assert (expected_keys, gateway * 5) == tables.pack_gateways(keys)
    expected_ports = b"".join(tables.pack_ifindex(n) for n, _ in ports), b"".join(tables.pack_port(r) for _, r in ports)
    assert expected_ports == tables.pack_ports(ports)
    assert (b"", b"") == tables.pack_ports([])


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 9))
def test_batches_are_gathered_and_none_of_their_rows_is_lost(counts: list[int], most: int) -> None:
    """In order; none has more rows than asked for unless it came so, and no two neighbours could be one."""
    batches = [(bytes([n]) * count, bytes([n, 1]) * count, count) for n, count in enumerate(counts)]
    found = list(tables.gathered(batches, most))
    assert b"".join([one[0] for one in batches]) == b"".join([one[0] for one in found])
    assert b"".join([one[1] for one in batches]) == b"".join([one[1] for one in found])
    assert all((len(keys), len(values)) == (count, 2 * count) for keys, values, count in found)
    assert all(count <= max(most, *counts) for _, _, count in found)
    assert all(one[2] + other[2] > most for one, other in pairwise(found))


def test_a_port_becomes_its_rows() -> None:
    """Flags come from the port's state; each address, the link-local one too with IPv6, gets a row on its interface."""
    row = tables.port_row(PORT, peer=True)
    assert PortFlag.UP | PortFlag.ROUTED | PortFlag.PEER == row.flags
    assert (PORT.id, PORT.vni, PORT.mtu, PORT.mac) == row[:4]
    down = msgspec.structs.replace(PORT, admin_state_up=False, routed=False)
    assert PortFlag(0) == tables.port_row(down, peer=False).flags
    ((_, shut), *_) = tables.port_endpoints(down, 9, peer=True)
    assert shut == LocalRow(9, EndpointFlag.PEER | EndpointFlag.DOWN, PORT.mac)
    expected = LocalRow(9, EndpointFlag.PEER, PORT.mac)
    assert (
        (EndpointKey(PORT.vni, PORT.addresses[0].ip), expected),
        (EndpointKey(PORT.vni, PORT.addresses[1].ip), expected),
        (EndpointKey(PORT.vni, parse_ip("fe80::ff:fe00:1")), expected),
    ) == tables.port_endpoints(PORT, 9, peer=True)


@pytest.mark.parametrize(
    "change",
    [
        {"id": Id(bytes(16))},
        {"vni": 1},
        {"mac": Mac(bytes(6))},
        {"addresses": PORT.addresses[:1]},
        {"mtu": 1400},
        {"admin_state_up": False},
        {"routed": False},
        {"kind": PortKind.ADOPTED},
        {"netns": "/run/netns/x"},
        {"interface": "eth1"},
        {"identity": 3},
        {"port_security": False},
        {"served": True},
        {"pairs": (AddressPair(parse_prefix("10.9.0.0/16"), PORT.mac),)},
        {"egress_limit": RateLimit(1000)},
        {"ingress_limit": RateLimit(1000, 10)},
        {"dscp": 0},
        {"routes": True},
        {"eips": (Eip(parse_ip("203.0.113.5"), PORT.addresses[0].ip, 24, None),)},
        {"forwardings": (Forwarding(parse_ip("203.0.113.5"), 6, 80, PORT.addresses[0].ip, 80, 24, None),)},
        {"eip_limits": (EipLimit(parse_ip("203.0.113.5"), RateLimit(1000), None),)},
        {"balanced": True},
        {"claims": (Claim(parse_ip("10.9.0.9"), PORT.mac),)},
    ],
)
def test_the_digest_sees_every_field(change: dict[str, object]) -> None:
    """Ports that differ in any field have different digests; equal ports have equal ones."""
    assert tables.port_digest(PORT) == tables.port_digest(msgspec.structs.replace(PORT))
    assert tables.port_digest(PORT) != tables.port_digest(msgspec.structs.replace(PORT, **change))


def test_the_digest_cases_are_complete() -> None:
    """A field that is added to LocalPort must be added to the cases above."""
    named = {"id", "vni", "mac", "addresses", "mtu", "admin_state_up", "routed", "kind", "netns", "interface"}
    named |= {"identity", "port_security", "pairs", "served", "egress_limit", "ingress_limit", "dscp"}
    named |= {"routes", "eips", "forwardings", "eip_limits", "balanced", "claims"}
    assert named == set(LocalPort.__struct_fields__)


def test_counters_name_reasons_as_the_page_does() -> None:
    """Drops are told by the names of docs/pipeline.md, in their order."""
    counters = tables.port_counters(Traffic(1, 2, 3, 4), {DropReason.SPOOFED_IP: 5, DropReason.MALFORMED: 6})
    assert ["malformed", "spoofed_ip"] == list(counters.dropped)
    assert (1, 2, 3, 4) == (
        counters.sent_packets,
        counters.sent_bytes,
        counters.received_packets,
        counters.received_bytes,
    )
