"""The codec: what is encoded comes back, parts splice, and what is malformed is refused by the field's name."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    InterfaceGoal,
    Kind,
    LimitGoal,
    Outside6Goal,
    PeeringGoal,
    PortAddress,
    PortGoal,
    QosGoal,
    RouterGoal,
    ScopeUpdate,
    SharedGoal,
    SubnetGoal,
    Tombstone,
    VpcGoal,
)
from alcor.model.addresses import V4_MAPPED, Ip, Mac, Prefix, ip_from_int, ip_version
from alcor.model.ids import Id
from alcor.model.nouns import Claim, Eip, ExtraRoute, Forwarding, PortKind
from alcor.wire import alcor_pb2 as pb
from alcor.wire.codec import (
    BundleHead,
    decode_bundle,
    decode_scopes,
    decode_update,
    encode_bundle,
    encode_part,
    encode_update,
)
from alcor.wire.fields import MAX_REVISION, MAX_TEXT, WireError
from alcor.wire.qos import MAX_KBPS
from alcor.wire.reports import Ack, ClaimAck, Held, Hello, PortAck, Timings, decode_report, encode_ack, encode_hello

IDS = st.binary(min_size=16, max_size=16).map(Id)
REVISIONS = st.integers(1, MAX_REVISION)
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: Mac(bytes((raw[0] & 0xFE,)) + raw[1:]))
IPS_V4 = st.binary(min_size=4, max_size=4).map(lambda raw: Ip(b"\0" * 10 + b"\xff\xff" + raw))
IPS = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda raw: Ip(V4_MAPPED + raw)),
    st.binary(min_size=16, max_size=16).map(Ip),
)
UINT32 = st.integers(0, 2**32 - 1)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


@st.composite
def prefixes(draw: Any) -> Prefix:
    version = draw(st.sampled_from([4, 6]))
    bits = 32 if version == 4 else 128
    length = draw(st.integers(1, bits))
    value = draw(st.integers(1 << (bits - 2), (1 << bits) - 1)) >> (bits - length) << (bits - length)
    return Prefix(ip_from_int(value, version), length, version)


@st.composite
def subnets(draw: Any) -> SubnetGoal:
    cidr = draw(prefixes())
    gateway = draw(st.none() | st.just(cidr.base))
    routes = draw(st.lists(ROUTES, max_size=1).map(tuple))
    return SubnetGoal(draw(IDS), draw(REVISIONS), cidr, gateway, host_routes=routes)


@st.composite
def interfaces(draw: Any) -> InterfaceGoal:
    cidr = draw(prefixes())
    return InterfaceGoal(draw(IDS), draw(IDS), cidr, cidr.base)


@st.composite
def shared(draw: Any) -> SharedGoal:
    ends = IPS.filter(lambda ip: ip_version(ip) == 4)
    blocks = draw(st.dictionaries(st.integers(2, 127), ends, max_size=3))
    length = draw(st.integers(0, 32))
    return SharedGoal(draw(ends), length, draw(st.none() | ends), draw(st.none() | ends), tuple(sorted(blocks.items())))


@st.composite
def outside6(draw: Any) -> Outside6Goal:
    cidr = draw(prefixes().filter(lambda prefix: prefix.version == 6))
    return Outside6Goal(cidr, draw(st.none() | IPS.filter(lambda ip: ip_version(ip) == 6)))


ROUTES = st.builds(ExtraRoute, prefixes(), st.none() | IPS)
ROUTERS = st.builds(
    RouterGoal,
    IDS,
    REVISIONS,
    st.lists(interfaces(), max_size=2).map(tuple),
    st.lists(ROUTES, max_size=2).map(tuple),
    st.booleans(),
    st.none() | shared(),
    st.none() | outside6(),
)
PEERINGS = st.builds(
    PeeringGoal, IDS, REVISIONS, st.lists(IDS, min_size=2, max_size=2, unique=True).map(lambda ids: tuple(sorted(ids)))
)


CLAIMS = st.lists(st.builds(Claim, IPS, MACS), max_size=2, unique_by=lambda claim: claim.ip).map(tuple)
PORTS = st.builds(
    PortGoal,
    IDS,
    REVISIONS,
    IDS,
    MACS,
    st.lists(st.builds(PortAddress, IPS, IDS), max_size=3).map(tuple),
    st.booleans(),
    st.sampled_from(PortKind),
    TEXTS,
    TEXTS,
    qos_id=st.none() | IDS,
    claims=CLAIMS,
    eips=st.lists(
        st.builds(Eip, IPS_V4, IPS_V4, st.integers(0, 32), st.none() | IPS_V4, st.none() | IDS), max_size=3
    ).map(tuple),
    forwardings=st.lists(
        st.builds(
            Forwarding,
            *(IPS_V4, st.sampled_from((6, 17)), st.integers(1, 0xFFFF), IPS_V4, st.integers(1, 0xFFFF)),
            *(st.integers(0, 32), st.none() | IPS_V4, st.none() | IDS),
        ),
        max_size=3,
    ).map(tuple),
)
LIMITS = st.builds(LimitGoal, st.integers(1, MAX_KBPS), st.integers(0, MAX_KBPS))
QOS = st.builds(QosGoal, IDS, REVISIONS, st.none() | LIMITS, st.none() | LIMITS, st.none() | st.integers(0, 63))
ENDPOINTS = st.builds(EndpointGoal, IDS, REVISIONS, MACS, st.lists(IPS, max_size=3).map(tuple), IPS, claims=CLAIMS)
TOMBSTONES = st.lists(
    st.builds(Tombstone, st.sampled_from(Kind), IDS, REVISIONS), max_size=3, unique_by=lambda grave: grave.key
).map(tuple)


def _id(goal: PortGoal | SubnetGoal | EndpointGoal | QosGoal) -> Id:
    return goal.id


@st.composite
def updates(draw: Any) -> ScopeUpdate:
    if draw(st.booleans()):
        scope, objects = HOST_SCOPE, draw(st.lists(PORTS, max_size=4, unique_by=_id))
    else:
        scope = draw(IDS)
        vpc = VpcGoal(
            scope,
            draw(REVISIONS),
            draw(st.integers(1, 2**24 - 1)),
            draw(st.integers(68, 65535)),
            True,
            draw(st.booleans()),
            qos_id=draw(st.none() | IDS),
        )
        objects = draw(st.lists(st.just(vpc), max_size=1))
        objects += draw(st.lists(subnets(), max_size=3, unique_by=_id))
        objects += draw(st.lists(ENDPOINTS, max_size=4, unique_by=_id))
        objects += draw(st.lists(ROUTERS, max_size=1))
        objects += draw(st.lists(PEERINGS, max_size=1))
        objects += draw(st.lists(QOS, max_size=3, unique_by=_id))
    return ScopeUpdate(
        scope=scope,
        revision=draw(REVISIONS),
        snapshot=draw(st.booleans()),
        objects=tuple(objects),
        tombstones=draw(TOMBSTONES),
    )


HEADS = st.builds(
    BundleHead,
    partition=st.integers(0, 2**32 - 1),
    epoch=REVISIONS,
    sequence=REVISIONS,
    host=TEXTS,
    synced=st.booleans(),
)


@given(updates())
def test_an_update_comes_back(update: ScopeUpdate) -> None:
    """Every field of every kind of object survives."""
    assert decode_update(encode_update(update)) == update


@given(HEADS, st.lists(updates(), max_size=4))
def test_spliced_parts_are_a_bundle(head: BundleHead, some: list[ScopeUpdate]) -> None:
    """Parts encoded once and put behind a head are what protobuf would have written."""
    data = encode_bundle(head, [encode_part(update) for update in some])
    decoded, scopes = decode_bundle(data)
    assert (decoded, decode_scopes(scopes)) == (head, tuple(some))
    assert pb.Bundle.FromString(data) == pb.Bundle(
        partition=head.partition,
        epoch=head.epoch,
        sequence=head.sequence,
        host=head.host,
        synced=head.synced,
        scopes=[pb.ScopeUpdate.FromString(encode_update(update)) for update in some],
    )


HELD = st.lists(
    st.builds(Held, IDS | st.just(HOST_SCOPE), st.integers(0, MAX_REVISION), st.integers(0, 2**64 - 1)),
    max_size=3,
    unique_by=lambda held: held.scope,
).map(tuple)


@given(st.builds(Hello, TEXTS, st.integers(0, MAX_REVISION), HELD, st.booleans(), UINT32, st.booleans(), UINT32))
def test_a_hello_comes_back(hello: Hello) -> None:
    """Host, epoch and the scopes held."""
    assert decode_report(encode_hello(hello)) == hello


@given(
    st.builds(
        Ack,
        sequence=st.integers(0, MAX_REVISION),
        error=TEXTS,
        ports=st.lists(st.builds(PortAck, IDS, REVISIONS, st.booleans(), TEXTS, UINT32), max_size=3).map(tuple),
        scopes=HELD,
        timings=st.builds(Timings, merge_us=UINT32, journal_us=UINT32, plan_us=UINT32, total_us=UINT32),
        claims=st.lists(st.builds(ClaimAck, IDS, IDS, st.builds(Claim, IPS, MACS)), max_size=2).map(tuple),
    )
)
def test_an_ack_comes_back(ack: Ack) -> None:
    """Sequence, error, ports, scopes, timings and claims."""
    assert decode_report(encode_ack(ack)) == ack


def test_long_errors_are_cut() -> None:
    """An error of any length can be reported; what is beyond the bound is lost."""
    ack = Ack(sequence=1, error="x" * 10_000, ports=(PortAck(Id(bytes(16)), 1, False, "y" * 10_000, 0),))
    decoded = decode_report(encode_ack(ack))
    assert isinstance(decoded, Ack)
    assert (len(decoded.error), len(decoded.ports[0].error)) == (MAX_TEXT, MAX_TEXT)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_means_something(noise: bytes) -> None:
    """Whatever comes, decoding answers with a value or a WireError, never with anything else."""
    for decode in (lambda raw: decode_scopes(decode_bundle(raw)[1]), decode_report, decode_update):
        try:
            decode(noise)
        except WireError as error:
            assert str(error)


@given(updates(), st.data())
def test_a_flipped_byte_is_refused_or_means_something(update: ScopeUpdate, data: st.DataObject) -> None:
    """The same for messages that are nearly right."""
    raw = bytearray(encode_update(update))
    if raw:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert decode_update(bytes(raw)).scope is not None
    except WireError as error:
        assert str(error)


ID, VPC, IP4 = b"i" * 16, b"v" * 16, V4_MAPPED + bytes((10, 0, 0, 1))


def valid_vpc_scope() -> pb.ScopeUpdate:
    message = pb.ScopeUpdate(scope=VPC, revision=3)
    message.vpcs.add(id=VPC, revision=1, vni=5, mtu=1450, routed=True)
    message.subnets.add(
        id=ID, revision=1, base=V4_MAPPED + bytes((10, 0, 0, 0)), prefix_length=24, ip_version=4, gateway=IP4
    )
    message.endpoints.MergeFrom(
        pb.Endpoints(ids=ID, revisions=[1], macs=bytes(6), ips=IP4, ip_counts=[1], host_ips=IP4, hosts=[0])
    )
    message.tombstones.add(kind=4, id=b"t" * 16, revision=2)
    router = message.routers.add(id=ID, revision=1)
    router.interfaces.add(vpc=VPC, subnet_id=ID, base=IP4[:15] + bytes(1), prefix_length=24, ip_version=4, ip=IP4)
    router.routes.add(base=IP4, prefix_length=32, ip_version=4, nexthop=IP4)
    router.outside6.base, router.outside6.prefix_length = b"\x20\x01" + bytes(14), 40
    message.peerings.add(id=ID, revision=1, vpcs=[ID, VPC])
    return message


def valid_host_scope() -> pb.ScopeUpdate:
    message = pb.ScopeUpdate(scope=b"", revision=3)
    port = message.ports.add(id=ID, revision=1, vpc_id=VPC, mac=bytes(6), interface="eth0")
    port.addresses.add(ip=IP4, subnet_id=ID)
    return message


def corrupt(path: str, value: object) -> Callable[[pb.ScopeUpdate], None]:
    def change(message: Any) -> None:
        *steps, last = path.split(".")
        for step in steps:
            message = getattr(message, step)
            message = message[0] if hasattr(message, "add") else message
        if hasattr(getattr(message, last), "append") and isinstance(value, list):
            del getattr(message, last)[:]
            getattr(message, last).extend(value)
        else:
            setattr(message, last, value)

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scope", b"short"),
        ("revision", 0),
        ("vpcs.id", ID),
        ("vpcs.revision", 0),
        ("vpcs.vni", 0),
        ("vpcs.vni", 1 << 24),
        ("vpcs.mtu", 67),
        ("vpcs.mtu", 65_536),
        ("subnets.id", b""),
        ("subnets.base", b"123"),
        ("subnets.prefix_length", 33),
        ("subnets.prefix_length", 4),
        ("subnets.ip_version", 6),
        ("subnets.ip_version", 5),
        ("subnets.gateway", b"123"),
        ("subnets.gateway", V4_MAPPED + bytes((10, 0, 1, 0))),
        ("endpoints.ids", bytes(15)),
        ("endpoints.revisions", [1 << 63]),
        ("endpoints.revisions", []),
        ("endpoints.macs", bytes(7)),
        ("endpoints.macs", bytes(12)),
        ("endpoints.macs", b"\x01" + bytes(5)),
        ("endpoints.ips", bytes(4)),
        ("endpoints.ip_counts", [2]),
        ("endpoints.ip_counts", [257]),
        ("endpoints.ip_counts", [1 << 31]),
        ("endpoints.host_ips", bytes(4)),
        ("endpoints.hosts", [1]),
        ("endpoints.hosts", [0, 0]),
        ("routers.id", b""),
        ("routers.revision", 0),
        ("routers.interfaces.vpc", b"1"),
        ("routers.interfaces.subnet_id", b"1"),
        ("routers.interfaces.prefix_length", 33),
        ("routers.interfaces.ip", V4_MAPPED + bytes((10, 9, 9, 9))),
        ("routers.routes.prefix_length", 33),
        ("routers.routes.ip_version", 6),
        ("routers.routes.nexthop", b"1"),
        ("routers.outside6.base", b"123"),
        ("routers.outside6.base", IP4),
        ("routers.outside6.prefix_length", 8),
        ("routers.outside6.prefix_length", 129),
        ("routers.outside6.gateway", b"1"),
        ("routers.outside6.gateway", IP4),
        ("peerings.id", b""),
        ("peerings.vpcs", [VPC]),
        ("peerings.vpcs", [VPC, ID]),
        ("peerings.vpcs", [VPC, VPC]),
        ("tombstones.kind", 0),
        ("tombstones.kind", 9),
        ("tombstones.id", bytes(17)),
        ("tombstones.revision", 0),
        ("ports.id", bytes(17)),
        ("ports.vpc_id", b""),
        ("ports.mac", b"\xff" * 6),
        ("ports.kind", 3),
        ("ports.addresses.ip", b"1"),
        ("ports.addresses.subnet_id", b"1"),
        ("ports.netns", "x" * 5000),
        ("ports.interface", "a\0b"),
    ],
)
def test_a_bad_field_is_named(field: str, value: object) -> None:
    """The message is refused whole, and says which field and what is wrong with it."""
    message = valid_host_scope() if field.startswith("ports") else valid_vpc_scope()
    assert decode_update(message.SerializeToString()).revision == 3
    corrupt(field, value)(message)
    with pytest.raises(WireError, match=f"update.{field}: "):
        decode_update(message.SerializeToString())


def test_objects_are_in_the_scope_they_belong_to() -> None:
    """Ports in a host's scope only, all else in a VPC's only."""
    message = valid_vpc_scope()
    message.ports.add().CopyFrom(valid_host_scope().ports[0])
    with pytest.raises(WireError, match="ports belong in a host's scope"):
        decode_update(message.SerializeToString())
    message = valid_host_scope()
    message.endpoints.CopyFrom(valid_vpc_scope().endpoints)
    with pytest.raises(WireError, match="belong in a VPC's scope"):
        decode_update(message.SerializeToString())


@pytest.mark.parametrize("field", ["subnets", "tombstones"])
def test_duplicates_are_refused(field: str) -> None:
    """An object is in an update once."""
    message = valid_vpc_scope()
    getattr(message, field).add().CopyFrom(getattr(message, field)[0])
    with pytest.raises(WireError, match=f"update.{field}: .*twice"):
        decode_update(message.SerializeToString())


def test_a_duplicate_endpoint_is_refused() -> None:
    """The same for endpoints, whose columns simply go on."""
    message = valid_vpc_scope()
    message.endpoints.MergeFrom(valid_vpc_scope().endpoints)  # protobuf: the later bytes replace, the lists go on
    message.endpoints.ids, message.endpoints.macs, message.endpoints.ips = ID * 2, bytes(12), IP4 * 2
    with pytest.raises(WireError, match=r"update.endpoints.ids: .*twice"):
        decode_update(message.SerializeToString())


def test_columns_of_unequal_length_are_refused() -> None:
    """Each column says as much as the others: an address too many or too few is nobody's."""
    message = valid_vpc_scope()
    del message.endpoints.ip_counts[:]
    assert decode_update(message.SerializeToString()).revision == 3
    message.endpoints.ips = IP4 * 2
    with pytest.raises(WireError, match=r"endpoints\.ips: of 2 endpoints, and there are 1 ids"):
        decode_update(message.SerializeToString())


def test_a_report_is_a_hello_or_an_ack() -> None:
    """An empty message is neither; a scope is reported once."""
    with pytest.raises(WireError, match="neither"):
        decode_report(b"")
    message = pb.Report()
    message.hello.scopes.add(scope=VPC)
    message.hello.scopes.add(scope=VPC)
    with pytest.raises(WireError, match=r"hello.scopes: the same scope twice"):
        decode_report(message.SerializeToString())
