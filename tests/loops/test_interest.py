"""Who must hear of which address: an exact mirror of what hosts hold, and bounded."""

from hypothesis import given
from hypothesis import strategies as st

from alcor.loops.interest import Interest
from alcor.model.addresses import Ip, ip_from_int
from alcor.model.ids import Id

VPCS = (Id(b"v" * 16), Id(b"w" * 16))
HOSTS = ("a", "b", "c")


def ip(number: int) -> Ip:
    return ip_from_int(number, 4)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("add", "add", "add", "forget", "forget_host", "forget_vpc")),
        st.sampled_from(HOSTS),
        st.sampled_from(VPCS),
        st.lists(st.integers(0, 5), min_size=1, max_size=4),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_it_mirrors_what_hosts_hold(actions: list[tuple[str, str, Id, list[int]]]) -> None:
    """After any history: exactly those hosts hear of an address that asked and did not forget."""
    interest, held = Interest(), set[tuple[str, Id, int]]()
    for what, host, vpc, numbers in actions:
        ips = [ip(number) for number in numbers]
        if what == "add":
            interest.add(host, vpc, ips)
            held |= {(host, vpc, number) for number in numbers}
        elif what == "forget":
            interest.forget(host, vpc, ips)
            held -= {(host, vpc, number) for number in numbers}
        elif what == "forget_host":
            interest.forget_host(host)
            held = {one for one in held if one[0] != host}
        else:
            interest.forget_vpc(vpc)
            held = {one for one in held if one[1] != vpc}
    for vpc in VPCS:
        for number in range(6):
            expected = sorted(host for host in HOSTS if (host, vpc, number) in held)
            assert expected == list(interest.hosts(vpc, ip(number)))
        assert interest.watches(vpc) == any(one[1] == vpc for one in held)
    assert len(interest) == len(held)


def test_a_host_that_holds_too_much_gives_back_its_oldest() -> None:
    """What it asked for again lately is young."""
    interest = Interest(max_of_host=3)
    interest.add("a", VPCS[0], [ip(1), ip(2), ip(3)])
    assert interest.over("a") == {}
    interest.add("a", VPCS[0], [ip(1), ip(4)])
    assert {"a": [(VPCS[0], ip(2))]} == interest.over("a")
    assert not list(interest.hosts(VPCS[0], ip(2)))
    assert interest.over("a") == {}


def test_when_all_hold_too_much_the_greediest_gives_back() -> None:
    """A share of what the host with the most holds, oldest first; the others keep theirs."""
    interest = Interest(max_of_all=10)
    interest.add("a", VPCS[0], [ip(number) for number in range(8)])
    interest.add("b", VPCS[0], [ip(1), ip(2), ip(3)])
    assert {"a": [(VPCS[0], ip(0)), (VPCS[0], ip(1)), (VPCS[0], ip(2))]} == interest.over("b")
    assert len(interest) == 8
