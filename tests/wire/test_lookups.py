"""Lookups and answers as bytes: they come back, and what is malformed is refused with the field's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id
from alcor.wire import alcor_pb2 as pb
from alcor.wire.codec import BundleHead, encode_bundle
from alcor.wire.fields import WireError
from alcor.wire.lookups import (
    MAX_LOOKUP,
    Answer,
    Answers,
    Found,
    Lookup,
    Wanted,
    decode_answers,
    encode_answers,
    encode_lookup,
    has_answers,
)
from alcor.wire.reports import decode_report

IPS = st.binary(min_size=16, max_size=16).map(Ip)
IDS = st.binary(min_size=16, max_size=16).map(Id)
MACS = st.binary(min_size=5, max_size=5).map(lambda tail: Mac(b"\x02" + tail))
FOUND = st.builds(Found, IPS, MACS, IPS, st.integers(0, 0xFFFF))
ANSWERS = st.builds(
    Answer,
    IDS,
    st.integers(1, 1 << 60),
    st.lists(FOUND, max_size=5).map(tuple),
    st.lists(IPS, max_size=3).map(tuple),
    st.lists(IPS, max_size=3).map(tuple),
    st.booleans(),
)


@st.composite
def wanted(draw: st.DrawFn) -> Wanted:
    """The sources are of the first of what is asked about, or of all of it."""
    ips = draw(st.lists(IPS, max_size=5))
    forgotten, sources = draw(st.lists(IPS, max_size=5)), draw(st.lists(IPS, max_size=len(ips)))
    return Wanted(draw(IDS), tuple(ips), tuple(forgotten), tuple(sources))


@given(st.lists(wanted(), max_size=4))
def test_a_lookup_comes_back(vpcs: list[Wanted]) -> None:
    """Also an empty one."""
    lookup = Lookup(tuple(vpcs))
    assert lookup == decode_report(encode_lookup(lookup))


@given(st.lists(ANSWERS, min_size=1, max_size=4))
def test_answers_come_back(answers: list[Answer]) -> None:
    """And a host sees by the first byte what they are."""
    bundle = encode_answers(3, 9, "host-a", answers)
    assert has_answers(bundle)
    assert Answers(3, 9, "host-a", tuple(answers)) == decode_answers(bundle)


def test_goal_state_is_no_bundle_of_answers() -> None:
    """Its first byte is another, however empty it is."""
    head = BundleHead(partition=0, epoch=1, sequence=1, host="", synced=False)
    assert not has_answers(encode_bundle(head, []))
    assert not has_answers(b"")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_mean_something(data: bytes) -> None:
    """No decoder raises anything but WireError."""
    for decode in (decode_answers, decode_report):
        try:
            decode(data)
        except WireError:
            continue


def bundle(**fields: object) -> bytes:
    answer = {"vpc": bytes(16), "revision": 1, **fields}
    return pb.Bundle(epoch=1, answers=[pb.Answer(**answer)]).SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bundle(vpc=b"short"), "answers.vpc"),
        (bundle(revision=0), "answers.revision"),
        (bundle(ips=bytes(15)), "answers.ips"),
        (bundle(ips=bytes(16), macs=bytes(5), hosts=[0], host_ips=bytes(16)), "answers.macs"),
        (bundle(ips=bytes(16), macs=b"\x01" + bytes(5), hosts=[0], host_ips=bytes(16)), "group address"),
        (bundle(ips=bytes(16), macs=bytes(6), hosts=[1], host_ips=bytes(16)), "answers.hosts"),
        (bundle(ips=bytes(16), macs=bytes(6), host_ips=bytes(16)), "answers.hosts"),
        (bundle(ips=bytes(16), macs=bytes(6), hosts=[0], host_ips=bytes(16), identities=[70000]), "identities"),
        (bundle(absent=bytes(17)), "answers.absent"),
        (pb.Bundle(epoch=1, sequence=4, answers=[pb.Answer(vpc=bytes(16), revision=1)]).SerializeToString(), "nothing"),
        (pb.Bundle(answers=[pb.Answer(vpc=bytes(16), revision=1)]).SerializeToString(), "epoch"),
    ],
)
def test_malformed_answers_are_refused(data: bytes, reason: str) -> None:
    """Nothing of them is used."""
    with pytest.raises(WireError, match=reason):
        decode_answers(data)


def test_a_lookup_has_a_bound() -> None:
    """A host that asks for more at once is refused."""
    ips = tuple(Ip(number.to_bytes(16, "big")) for number in range(MAX_LOOKUP + 1))
    with pytest.raises(WireError, match="at most 4096"):
        decode_report(encode_lookup(Lookup((Wanted(Id(bytes(16)), ips),))))


def test_a_source_is_of_an_address_that_is_asked_about() -> None:
    """More of them are refused: whose are they?"""
    lookup = Lookup((Wanted(Id(bytes(16)), (), (), (Ip(bytes(16)),)),))
    with pytest.raises(WireError, match="sources: of 1 addresses, and 0"):
        decode_report(encode_lookup(lookup))
