"""The model's frame tools agree with packets that were built without them."""

import os

from hypothesis import assume, given
from hypothesis import strategies as st
from tests.dataplane import packets

from alcor.dataplane.fake import frames
from alcor.model.addresses import Mac, parse_ip

A, B = "10.0.0.1", "10.0.0.2"


@given(st.binary(max_size=200))
def test_the_checksum_is_the_internet_checksum(data: bytes) -> None:
    """The sum over words equals the sum done the slow way, odd lengths included."""
    assert packets.internet_checksum(data) == frames.checksum(data)


@given(st.integers(0, 9), st.integers(0, 0xFFFF), st.binary(min_size=20, max_size=20))
def test_an_updated_checksum_is_the_checksum_computed_anew(at: int, word: int, data: bytes) -> None:
    """RFC 1624: changing one word updates the checksum to what the changed data sums to, to the very zero."""
    old = int.from_bytes(data[2 * at : 2 * at + 2], "big")
    changed = data[: 2 * at] + word.to_bytes(2, "big") + data[2 * at + 2 :]
    assume(any(changed))  # Ones' complement has two zeros, and only data that is all zero may meet the other one.
    assert frames.checksum(changed) == frames.update_checksum(frames.checksum(data), old, word)


def test_builders_and_parsers_agree_with_the_tests_own() -> None:
    """ARP, IPv4 and ICMP come out byte-equal to the tests' builders and are read back whole."""
    question = packets.arp(packets.mac(1), A, B)
    parsed = frames.parse_arp(question)
    assert parsed == frames.Arp(1, Mac(packets.mac(1)), parse_ip(A), Mac(bytes(6)), parse_ip(B))
    assert question[14:] == frames.arp(1, Mac(packets.mac(1)), parse_ip(A), Mac(bytes(6)), parse_ip(B))
    data = os.urandom(33)
    echo = frames.icmp_echo(8, 7, 1, data)
    assert packets.icmp_echo(data=data) == echo
    packet = frames.ipv4(parse_ip(A), parse_ip(B), 1, echo, ttl=9)
    assert packets.ipv4(A, B, echo, protocol=1, ttl=9) == packet
    assert frames.parse_ipv4(packet) == frames.Header(4, 20, 61, 0, 9, 1, parse_ip(A), parse_ip(B))


@given(st.binary(max_size=80))
def test_parsers_take_any_bytes(data: bytes) -> None:
    """Bytes that are no packet are None, never an error."""
    for parse in (frames.parse_ethernet, frames.parse_arp, frames.parse_ipv4):
        parse(data)
