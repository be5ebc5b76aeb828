"""The DNS of a VPC: names both ways, what is denied, EDNS, truncation, and garbage."""

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.hostsvc.people import CLIENT, ZONE, Names

from alcor.hostsvc.dns import LARGEST_UDP, Elsewhere, answer_dns, is_answer, truncated


def ask(name: str, kind: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    raw = answer_dns(query.to_wire(), CLIENT, ZONE)
    assert raw is not None
    answer = dns.message.from_wire(raw)
    assert query.is_response(answer)
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    return [str(item) for rrset in answer.answer for item in rrset]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.tenant.example.", "A", ["10.0.0.5"]),
        ("WEB.Tenant.Example.", "A", ["10.0.0.5"]),
        ("web.tenant.example.", "AAAA", ["2001:db8::5"]),
        ("web.tenant.example.", "ANY", ["10.0.0.5", "2001:db8::5"]),
        ("host-10-0-0-77.tenant.example.", "A", ["10.0.0.77"]),
        ("host-2001-db8--77.tenant.example.", "AAAA", ["2001:db8::77"]),
        ("5.0.0.10.in-addr.arpa.", "PTR", ["web.tenant.example."]),
        ("77.0.0.10.in-addr.arpa.", "PTR", ["host-10-0-0-77.tenant.example."]),
        ("5." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa.", "PTR", ["web.tenant.example."]),
    ],
)
def test_names_and_addresses_are_found(name: str, kind: str, expected: list[str]) -> None:
    """Both ways, in any case, with authority."""
    answer = ask(name, kind)
    assert (expected, dns.rcode.NOERROR) == (texts(answer), answer.rcode())
    assert answer.flags & dns.flags.AA


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("nobody.tenant.example.", "A", dns.rcode.NXDOMAIN),
        ("host-192-0-2-1.tenant.example.", "A", dns.rcode.NXDOMAIN),
        ("host-10-0-0-300.tenant.example.", "A", dns.rcode.NXDOMAIN),
        ("db.tenant.example.", "AAAA", dns.rcode.NOERROR),
        ("tenant.example.", "A", dns.rcode.NOERROR),
        ("5.0.0.10.in-addr.arpa.", "A", dns.rcode.NOERROR),
    ],
)
def test_what_is_not_there_is_denied(name: str, kind: str, code: dns.rcode.Rcode) -> None:
    """With the zone's SOA, so that the answer may be kept for a while (RFC 2308)."""
    answer = ask(name, kind)
    assert ([], code) == (texts(answer), answer.rcode())
    assert [rrset.rdtype for rrset in answer.authority] == [dns.rdatatype.SOA]


@pytest.mark.parametrize("name", ["example.org.", "tenant.example.org.", "9.9.9.9.in-addr.arpa.", "x.ip6.arpa."])
def test_what_is_somebody_elses_is_for_a_resolver(name: str) -> None:
    """Names outside the domain, addresses outside the subnets; without a resolver the answer is a refusal."""
    query = dns.message.make_query(name, "PTR" if name.endswith("arpa.") else "A")
    with pytest.raises(Elsewhere) as found:
        answer_dns(query.to_wire(), CLIENT, ZONE)
    assert dns.message.from_wire(found.value.answer()).rcode() == dns.rcode.REFUSED
    assert dns.message.from_wire(found.value.failure()).rcode() == dns.rcode.SERVFAIL


def test_many_addresses_fit_the_datagram() -> None:
    """Without EDNS 512 bytes, with it what the client says, at most 1232; TCP has them all."""
    zone = Names({"many": [f"10.0.0.{number}" for number in range(1, 61)]})
    for how, limit in (
        ({}, 512),
        ({"use_edns": 0, "payload": 800}, 800),
        ({"use_edns": 0, "payload": 4096}, LARGEST_UDP),
    ):
        raw = answer_dns(dns.message.make_query("many.tenant.example.", "A", **how).to_wire(), CLIENT, zone)  # type: ignore[arg-type]
        assert raw is not None
        answer = dns.message.from_wire(raw)
        assert len(raw) <= limit
        assert bool(answer.flags & dns.flags.TC) == (limit < 1000)
    raw = answer_dns(dns.message.make_query("many.tenant.example.", "A").to_wire(), CLIENT, zone, tcp=True)
    assert raw is not None
    assert len(texts(dns.message.from_wire(raw))) == 60


def test_what_is_no_query_is_not_answered() -> None:
    """A response, a message cut short, nothing; strange operations and classes are refused in their own words."""
    query = dns.message.make_query("web.tenant.example.", "A")
    raw = query.to_wire()
    assert answer_dns(raw[:2] + b"\x80" + raw[3:], CLIENT, ZONE) is None
    assert answer_dns(raw[:11], CLIENT, ZONE) is None
    assert answer_dns(b"", CLIENT, ZONE) is None
    notify = answer_dns(raw[:2] + b"\x20" + raw[3:], CLIENT, ZONE)
    chaos = answer_dns(dns.message.make_query("version.bind.", "TXT", "CH").to_wire(), CLIENT, ZONE)
    assert [dns.message.from_wire(one).rcode() for one in (notify or b"", chaos or b"")] == [
        dns.rcode.NOTIMP,
        dns.rcode.REFUSED,
    ]


def test_only_the_answer_to_the_question_is_taken() -> None:
    """Another number, another question, or a query: not taken from a resolver (RFC 5452)."""
    query = dns.message.make_query("example.org.", "A")
    answer = dns.message.make_response(query)
    other = dns.message.make_response(dns.message.make_query("example.com.", "A", id=query.id))
    assert is_answer(answer.to_wire(), query.to_wire())
    assert not is_answer(other.to_wire(), query.to_wire())
    assert not is_answer(b"\0\0" + answer.to_wire()[2:], b"\1\1" + query.to_wire()[2:])
    assert not is_answer(query.to_wire(), query.to_wire())
    assert not is_answer(b"\0" * 5, query.to_wire())
    cut = dns.message.from_wire(truncated(answer.to_wire()))
    assert cut.flags & dns.flags.TC and cut.question == query.question


HONEST = dns.message.make_query("web.tenant.example.", "AAAA", use_edns=0).to_wire()


@given(st.lists(st.tuples(st.integers(0, len(HONEST) - 1), st.integers(0, 255)), max_size=8), st.binary(max_size=60))
def test_bent_queries_never_raise_and_never_amplify(changes: list[tuple[int, int]], tail: bytes) -> None:
    """Whatever is flipped, cut or added: an answer that fits a datagram, or none."""
    bent = bytearray(HONEST)
    for at, value in changes:
        bent[at] = value
    for raw in (bytes(bent), bytes(bent[: len(tail)]), bytes(bent) + tail, tail):
        try:
            told = answer_dns(raw, replace(CLIENT, domain="tenant.example."), ZONE)
        except Elsewhere as elsewhere:
            told = elsewhere.answer()
        assert told is None or len(told) <= LARGEST_UDP
        is_answer(raw, HONEST)
        truncated(raw)
