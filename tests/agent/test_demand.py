"""What a host learns of VPCs on demand: one question at a time, nothing lost within bounds, the newest answer wins."""

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from alcor.agent.demand import Demand, DemandLimits, Step
from alcor.agent.state import OnDemand, ScopeKey
from alcor.dataplane.base import NO_ADDRESS, Miss
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.fake import frames
from alcor.model.addresses import Ip, Mac, ip_from_int, parse_ip
from alcor.model.ids import Id
from alcor.wire.lookups import Answer, Found, Wanted

VPC = ScopeKey(1, Id(b"v" * 16))
VNI = 7
HOST = parse_ip("172.16.0.2")
NOBODY = Mac(bytes(6))


def ip(number: int) -> Ip:
    return ip_from_int(0x0A000000 + number, 4)


def key(number: int) -> EndpointKey:
    return EndpointKey(VNI, ip(number))


def miss(number: int, frame: bytes = b"frame") -> Miss:
    return Miss(key(number), 5, frame)


def found(number: int, mac: int = 1) -> Found:
    return Found(ip(number), Mac(bytes((2, 0, 0, 0, 0, mac))), HOST, 0)


def end(number: int, mac: int = 1) -> tuple[EndpointKey, Endpoint]:
    one = found(number, mac)
    return key(number), Endpoint(one.mac, one.host_ip, one.identity)


def demand(**limits: float) -> Demand:
    one = Demand(DemandLimits(**limits))  # type: ignore[arg-type]
    one.serve({VNI: OnDemand(VPC, 1)}, (), 0.0)
    return one


def sent(number: int, source: int) -> Miss:
    """A packet from an address."""
    packet = frames.ipv4(ip(source), ip(number), frames.PROTOCOL_UDP, b"")
    return miss(number, frames.ethernet(NOBODY, NOBODY, frames.TYPE_IPV4, packet))


def lookup(one: Demand) -> tuple[Wanted, ...]:
    """Its next question."""
    told = one.lookup(1, 0.0)
    assert told is not None
    return told.vpcs


def asked(one: Demand, now: float = 0.0) -> list[Ip]:
    """Everything that it asks now."""
    ips: list[Ip] = []
    while (told := one.lookup(1, now)) is not None:
        for wanted in told.vpcs:
            ips += wanted.ips
    return ips


def answer(one: Demand, *rows: Found, absent: tuple[Ip, ...] = (), revision: int = 5, now: float = 0.0) -> Step:
    return one.answered(1, [Answer(VPC.scope, revision, rows, absent)], now)


def hint(one: Demand, *rows: Found, revision: int = 5, now: float = 0.0) -> Step:
    return one.answered(1, [Answer(VPC.scope, revision, rows, unasked=True)], now)


def test_many_packets_are_one_question() -> None:
    """However many packets wait for an address it is asked for once, and all go on when it is known."""
    one = demand()
    misses = [miss(1, bytes((n,))) for n in range(5)]
    one.missed(misses[:3], 0.0)
    assert [ip(1)] == asked(one)
    one.missed(misses[3:], 0.0)
    assert not asked(one)
    step = answer(one, found(1))
    assert (misses, [end(1)]) == (step.release, step.found)


def test_a_packet_behind_the_answer_goes_on_at_once() -> None:
    """It was in the ring while the answer came: the data plane is told again, and nothing is asked."""
    one = demand()
    one.missed([miss(1)], 0.0)
    asked(one)
    answer(one, found(1))
    step = one.missed([miss(1)], 0.0)
    assert ([miss(1)], [end(1)]) == (step.release, step.found)
    assert not asked(one)


def test_nobody_is_believed_for_a_while() -> None:
    """An absent address is told to the data plane, and forgotten when its time is over."""
    one = demand(absent_s=30.0)
    one.missed([miss(1)], 0.0)
    asked(one)
    step = answer(one, absent=(ip(1),))
    assert ([key(1)], [miss(1)]) == (step.absent, step.release)
    assert not one.due(29.0)
    assert [key(1)] == one.aged(one.due(30.0), frozenset(), 30.0).forget
    assert (Wanted(VPC.scope, (), (ip(1),)),) == lookup(one)


def test_what_is_used_stays() -> None:
    """An entry that packets followed is looked at again later; one that none followed goes."""
    one = demand(idle_s=100.0)
    one.missed([miss(1), miss(2)], 0.0)
    asked(one)
    answer(one, found(1), found(2))
    due = one.due(100.0)
    assert [key(1), key(2)] == sorted(due)
    assert [key(2)] == one.aged(due, frozenset({key(1)}), 100.0).forget
    assert [key(1)] == one.due(200.0)


def test_the_newest_answer_wins() -> None:
    """A correction that comes before the answer which it corrects is what counts."""
    one = demand()
    one.missed([miss(1)], 0.0)
    asked(one)
    answer(one, found(1, mac=9), revision=8)
    assert not answer(one, found(1, mac=1), revision=5).found
    assert one.entries[key(1)].endpoint == end(1, mac=9)[1]


def test_what_nobody_asked_for_is_not_learnt() -> None:
    """Word of an address that was forgotten meanwhile, or of a VPC that is not on demand, changes nothing."""
    one = demand()
    assert answer(one, found(1)) == Step()
    assert one.answered(1, [Answer(Id(b"x" * 16), 5, (found(1),))], 0.0) == Step()
    assert not one.entries


def test_a_packet_waits_only_so_long() -> None:
    """Without an answer the question is asked again, and in the end its packets are let go."""
    one = demand(hold_s=3.0, ask_again_s=1.0)
    one.missed([miss(1)], 0.0)
    assert [ip(1)] == asked(one, 0.5)
    assert one.tick(1.0) == Step()
    assert not asked(one, 1.0)
    one.tick(1.6)
    assert [ip(1)] == asked(one, 1.6)
    assert [miss(1)] == one.tick(3.0).release
    assert not one.waiting


def test_the_bounds_let_go_what_is_too_much() -> None:
    """Packets beyond a bound are released at once: the data plane drops and counts them."""
    one = demand(packets_each=2, waiting=2, packets=3, bytes=1000)
    step = one.missed([miss(1), miss(1), miss(1), miss(2), miss(2), miss(3)], 0.0)
    assert [miss(1), miss(2), miss(3)] == step.release
    assert [miss(9, bytes(1001))] == demand(bytes=1000).missed([miss(9, bytes(1001))], 0.0).release


def test_the_oldest_entry_makes_room() -> None:
    """More entries than may be: what is due first goes, and the controller hears of it."""
    one = demand(entries=2)
    one.missed([miss(number) for number in range(3)], 0.0)
    asked(one)
    for number in range(3):
        step = answer(one, found(number), now=float(number))
    assert [key(0)] == step.forget
    assert [key(1), key(2)] == sorted(one.entries)


def test_a_new_session_asks_for_everything_anew() -> None:
    """First for what packets wait for, then a part at a time for what is held."""
    one = demand(refresh=2)
    one.missed([miss(number) for number in range(5)], 0.0)
    asked(one)
    answer(one, *[found(number) for number in range(5)])
    one.missed([miss(9)], 0.0)
    asked(one)
    one.restart(1)
    assert [ip(9), ip(0), ip(1)] == asked(one)
    answer(one, found(0), found(1))
    assert [ip(2), ip(3)] == asked(one)


def test_an_earlier_life_is_taken_over() -> None:
    """What the data plane holds after a restart is asked for, and corrected by the answer."""
    one = Demand()
    one.serve({VNI: OnDemand(VPC, 1)}, [key(1), key(2), EndpointKey(8, ip(3))], 0.0)
    assert [ip(1), ip(2)] == sorted(asked(one))
    step = answer(one, found(1), absent=(ip(2),))
    assert ([end(1)], [key(2)]) == (step.found, step.absent)


def test_a_vpc_that_is_preloaded_again_lets_everything_go() -> None:
    """Its entries are forgotten here (the data plane does it by itself), its packets go on: now they find their way."""
    one = demand()
    one.missed([miss(1), miss(2)], 0.0)
    asked(one)
    answer(one, found(1))
    step = one.serve({}, (), 1.0)
    assert [miss(2)] == step.release
    assert not one.entries
    assert not one.waiting


def test_packets_before_the_vpc_is_known_wait() -> None:
    """The data plane may hold a packet before this end was told that its VPC is on demand."""
    one = Demand()
    one.missed([miss(1)], 0.0)
    assert not asked(one)
    one.serve({VNI: OnDemand(VPC, 1)}, (), 0.0)
    assert [ip(1)] == asked(one)


def test_what_is_to_be_unlearnt_goes() -> None:
    """The controller keeps track of it no more: the next packet asks again."""
    one = demand()
    one.missed([miss(1)], 0.0)
    asked(one)
    answer(one, found(1))
    step = one.answered(1, [Answer(VPC.scope, 6, unlearn=(ip(1),))], 0.0)
    assert [key(1)] == step.forget
    one.missed([miss(1)], 0.0)
    assert [ip(1)] == asked(one)


def test_a_question_says_where_its_packet_comes_from() -> None:
    """The first of those that wait; what is asked for anew has none, and comes behind."""
    one = demand()
    one.missed([miss(3)], 0.0)
    asked(one)
    answer(one, found(3))
    one.restart(1)
    one.missed([sent(1, 8), sent(1, 9), miss(2)], 0.0)
    assert (Wanted(VPC.scope, (ip(1), ip(2), ip(3)), (), (ip(8), NO_ADDRESS)),) == lookup(one)


def test_a_packet_comes_from_its_source() -> None:
    """Of ARP it is the sender, of IP the source; what is too short has none."""
    six, other = parse_ip("2001:db8::1"), parse_ip("2001:db8::2")
    packets = [
        (frames.TYPE_ARP, frames.arp(frames.ARP_REQUEST, NOBODY, ip(1), NOBODY, ip(2)), ip(1)),
        (frames.TYPE_IPV4, frames.ipv4(ip(1), ip(2), frames.PROTOCOL_UDP, b""), ip(1)),
        (frames.TYPE_IPV6, frames.ipv6(six, other, frames.PROTOCOL_UDP, b""), six),
    ]
    for ethertype, packet, source in packets:
        frame = frames.ethernet(NOBODY, NOBODY, ethertype, packet)
        assert (source, NO_ADDRESS) == (miss(2, frame).source, miss(2, frame[:-1]).source)
        assert NO_ADDRESS == miss(2, frame[:12] + b"\x88\xcc" + frame[14:]).source


def test_a_hint_is_followed_at_once_and_asked_about_later() -> None:
    """With the next tick: the controller does not know that it is held."""
    one = demand()
    step = hint(one, found(1))
    assert ([end(1)], []) == (step.found, step.absent)
    assert not asked(one)
    one.tick(0.25)
    assert [ip(1)] == asked(one)
    assert answer(one, found(1)) == Step()
    one.tick(0.5)
    assert not asked(one)


def test_a_hint_lets_go_what_waits() -> None:
    """The question is under way, or not yet asked; it is asked in any case."""
    for early in (True, False):
        one = demand()
        one.missed([miss(1)], 0.0)
        if early:
            asked(one)
        step = hint(one, found(1))
        assert ([end(1)], [miss(1)]) == (step.found, step.release)
        one.tick(0.25)
        assert [ip(1)] == asked(one)


def test_a_hint_is_an_answer_to_what_is_held() -> None:
    """The newest wins, and nothing is asked: the controller knows that it is held."""
    one = demand()
    one.missed([miss(1), miss(2)], 0.0)
    asked(one)
    answer(one, found(1, mac=9), absent=(ip(2),), revision=8)
    assert hint(one, found(1, mac=1), revision=5) == Step()
    assert [end(2)] == hint(one, found(2), revision=9).found
    one.tick(0.25)
    assert not asked(one)


def test_a_hint_pushes_nothing_out() -> None:
    """Who holds as much as may be does not take it, unless a packet waits for it."""
    one = demand(entries=1)
    one.missed([miss(1)], 0.0)
    asked(one)
    answer(one, found(1))
    assert hint(one, found(2)) == Step()
    one.missed([miss(2)], 0.0)
    step = hint(one, found(2), now=1.0)
    assert ([end(2)], [key(1)], [miss(2)]) == (step.found, step.forget, step.release)


def test_a_hint_of_what_is_not_on_demand_is_nothing() -> None:
    """The VPC is not here, or preloaded: as of answers that come late."""
    one = Demand()
    assert hint(one, found(1)) == Step()
    one.serve({VNI: OnDemand(VPC, 1)}, (), 0.0)
    hint(one, found(1))
    one.serve({}, (), 0.0)
    one.serve({VNI: OnDemand(VPC, 1)}, (), 0.0)
    one.tick(0.25)
    assert not asked(one)


def test_what_was_learnt_of_a_vpc_that_changed_is_asked_for_anew() -> None:
    """It may have been preloaded meanwhile, and the host heard only of what came after: the controller does not know
    what is held here (the simulator's seed 80000103)."""
    one = demand()
    one.missed([miss(1)], 0.0)
    assert asked(one) == [ip(1)]
    answer(one, found(1))
    one.serve({VNI: OnDemand(VPC, 1)}, (), 1.0)
    assert asked(one) == []
    one.serve({VNI: OnDemand(VPC, 2)}, (), 1.0)
    assert asked(one) == [ip(1)]


def test_a_hint_only_says_where_something_is() -> None:
    """That nobody has an address, or that it is to be forgotten, is not for a hint to say."""
    one = demand()
    one.missed([miss(1), miss(2)], 0.0)
    asked(one)
    answer(one, found(1))
    told = Answer(VPC.scope, 9, absent=(ip(1), ip(2)), unlearn=(ip(1),), unasked=True)
    assert one.answered(1, [told], 0.0) == Step()


def test_what_is_asked_for_anew_is_asked_again() -> None:
    """A controller that had too much to do dropped the question."""
    one = demand(refresh_again_s=10.0)
    hint(one, found(1))
    one.tick(1.0)
    assert [ip(1)] == asked(one, 1.0)
    one.tick(10.5)
    assert not asked(one, 10.5)
    one.tick(11.0)
    assert [ip(1)] == asked(one, 11.0)


def test_a_vpc_that_comes_back_is_asked_about() -> None:
    """What was under way when it went is not waited for."""
    one = Demand()
    for _ in range(2):
        one.serve({VNI: OnDemand(VPC, 1)}, [key(1)], 0.0)
        assert [ip(1)] == asked(one)
        one.serve({}, (), 0.0)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("miss"), st.integers(0, 5)),
        st.tuples(st.just("ask"), st.just(0)),
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("absent"), st.integers(0, 5)),
        st.tuples(st.just("hint"), st.integers(0, 5)),
        st.tuples(st.just("unlearn"), st.integers(0, 5)),
        st.tuples(st.just("age"), st.integers(0, 5)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("time"), st.integers(1, 50)),
        st.tuples(st.just("serve"), st.integers(0, 1)),
    ),
    max_size=60,
)


def assert_rests(one: Demand, now: float) -> None:
    """Once it has asked, time brings nothing while it says so."""
    one = deepcopy(one)
    asked(one, now)
    rest = one.rest(now)
    if rest != 0.0:
        soon = now + (1000.0 if rest is None else 0.99 * rest)
        assert Step() == one.tick(soon)
        assert not one.due(soon)
        assert not asked(one, soon)


def test_it_rests_until_something_is_due() -> None:
    """For ever while it knows nothing, until its first entry is due when it does, and never while a packet waits or
    something is to be asked again."""
    one = demand(idle_s=100.0, absent_s=30.0)
    assert one.rest(0.0) is None
    one.missed([miss(1)], 0.0)
    assert 0.0 == one.rest(0.0)
    asked(one)
    assert 0.0 == one.rest(0.0)
    answer(one, found(1))
    assert (100.0, 60.0, 0.0) == (one.rest(0.0), one.rest(40.0), one.rest(101.0))
    hint(one, found(2), now=1.0)
    assert 0.0 == one.rest(1.0)
    one.tick(1.0)
    assert 100.0 == one.rest(0.0)
    asked(one)
    assert 0.0 == one.rest(1.0), "until it is answered"


@given(EVENTS)
def test_every_packet_is_let_go_exactly_once(events: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order: no packet is lost here or doubled, and the bookkeeping comes out even."""
    one, now, revision = demand(entries=3, waiting=3, packets_each=2, packets=5), 0.0, 1
    taken: list[Miss] = []
    released: list[Miss] = []
    for number, (what, which) in enumerate(events):
        step = Step()
        if what == "miss":
            packet = miss(which, number.to_bytes(2, "big"))
            taken.append(packet)
            step = one.missed([packet], now)
        elif what == "ask":
            asked(one, now)
        elif what == "answer":
            revision += 1
            step = answer(one, found(which), revision=revision, now=now)
        elif what == "absent":
            step = answer(one, absent=(ip(which),), revision=revision, now=now)
        elif what == "hint":
            step = hint(one, found(which), revision=revision, now=now)
        elif what == "unlearn":
            step = one.answered(1, [Answer(VPC.scope, revision, unlearn=(ip(which),))], now)
        elif what == "age":
            step = one.aged(one.due(now), frozenset({key(which)}), now)
        elif what == "restart":
            one.restart(1)
        elif what == "time":
            now += which
            step = one.tick(now)
        else:
            step = one.serve({VNI: OnDemand(VPC, 1)} if which else {}, (), now)
        released += step.release
        assert len(one.entries) <= 3
        assert_rests(one, now)
    now += 1000.0
    released += one.tick(now).release
    assert sorted(taken) == sorted(released)
    assert not one.waiting
