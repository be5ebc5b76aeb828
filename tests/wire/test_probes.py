"""Probes on the wire: what is malformed is refused and named; an answer is never longer than its question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcor.model.addresses import parse_ip
from alcor.wire import alcor_pb2 as pb
from alcor.wire.codec import BundleHead, encode_bundle
from alcor.wire.fields import WireError
from alcor.wire.lookups import is_aside
from alcor.wire.probes import (
    DATAGRAM_BYTES,
    MAX_PEERS,
    Peers,
    Seen,
    Sighting,
    Target,
    answer_to,
    answered_nonce,
    decode_peers,
    encode_peers,
    has_peers,
    question,
)
from alcor.wire.reports import Heartbeat, decode_report, encode_heartbeat

PEERS = Peers(1, 7, "a", 200, (Target("b", parse_ip("10.0.0.2"), 50001), Target("c", parse_ip("10.0.0.3"), 1)))


@pytest.mark.parametrize("peers", [PEERS, Peers(2, 1, "x", 20, ())])
def test_peers_come_back(peers: Peers) -> None:
    """And are seen for what they are by their first bytes."""
    bundle = encode_peers(peers)
    assert has_peers(bundle)
    assert is_aside(bundle)
    assert decode_peers(bundle) == peers
    head = BundleHead(partition=1, epoch=1, sequence=1, host="a", synced=True)
    assert not has_peers(encode_bundle(head, []))


def spoilt(**changes: object) -> bytes:
    message = pb.Bundle.FromString(encode_peers(PEERS))
    for name, value in changes.items():
        target = (
            message.peers if name == "interval_ms" else message.peers.peers[0] if name in ("ip", "port") else message
        )
        setattr(target, name, value)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (b"\xb2\x09\xff", "not a protobuf message"),
        (spoilt(sequence=1), "nothing else"),
        (spoilt(synced=True), "nothing else"),
        (spoilt(epoch=0), "bundle.epoch"),
        (spoilt(interval_ms=19), "interval_ms"),
        (spoilt(interval_ms=60_001), "interval_ms"),
        (spoilt(ip=b"1234"), "bundle.peers.ip"),
        (spoilt(port=0), "bundle.peers.port"),
        (spoilt(port=65536), "bundle.peers.port"),
        (encode_peers(Peers(1, 1, "a", 200, PEERS.targets[:1] * (MAX_PEERS + 1))), "at most 16"),
    ],
)
def test_malformed_peers_are_refused(bundle: bytes, reason: str) -> None:
    """The field is named."""
    with pytest.raises(WireError, match=reason):
        decode_peers(bundle)


def test_sightings_travel_in_heartbeats() -> None:
    """As they are; others are refused."""
    seen = Sighting("b", Seen.SILENT), Sighting("c", Seen.REACHED)
    heartbeat = Heartbeat("a", 1, 1000, (), False, seen, settled=True)
    assert decode_report(encode_heartbeat(heartbeat)) == heartbeat
    for sightings in ([("b", 0)], [("b", 4)], [("b", 1), ("b", 2)], [(f"h{n}", 1) for n in range(MAX_PEERS + 1)]):
        report = pb.Report()
        report.heartbeat.host = "a"
        for host, word in sightings:
            report.heartbeat.sightings.add(host=host, seen=word)
        with pytest.raises(WireError, match=r"heartbeat\.sightings"):
            decode_report(report.SerializeToString())


def test_a_question_and_its_answer() -> None:
    """The same but for their kind, and as long."""
    asked = question(b"12345678")
    answered = answer_to(asked)
    assert answered is not None
    assert len(asked) == len(answered) == DATAGRAM_BYTES
    assert answered_nonce(answered) == b"12345678"
    assert answered_nonce(asked) is None
    assert answer_to(answered) is None  # two that answer each other would never end


@given(st.binary(max_size=40))
def test_nothing_else_is_answered(datagram: bytes) -> None:
    """Whatever it is."""
    answer = answer_to(datagram)
    assert answer is None or (len(answer) == len(datagram) and datagram.startswith(b"AlcorPrb\x01"))
