"""Allocators: what is given out, in which order, and when there is nothing left."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from alcor.model.addresses import Ip, format_ip, parse_ip, parse_prefix
from alcor.model.allocation import (
    MAX_VNI,
    Allocator,
    Exhausted,
    Range,
    Taken,
    address_allocator,
    addresses_at,
    mac_allocator,
    mac_from_int,
    vni_allocator,
)
from alcor.model.ids import Id
from alcor.model.nouns import Pool


def _take(
    allocator: Allocator, count: int = 0, *, exact: tuple[int, ...] = (), release: tuple[int, ...] = ()
) -> list[int]:
    allocation = allocator.plan(count, exact=exact, release=release)
    allocator.apply(allocation)
    return allocation.chosen


def test_fresh_numbers_ascend() -> None:
    """Without anything freed, numbers come in ascending order from the start of the range."""
    allocator = Allocator([Range(10, 19)])
    assert [10, 11, 12] == _take(allocator, 3)
    assert [13] == _take(allocator, 1)


def test_a_plan_changes_nothing() -> None:
    """A plan that is not applied leaves the allocator as it was: the same plan comes out again."""
    allocator = Allocator([Range(0, 9)])
    before = allocator.plan(4, exact=[7])
    assert before == allocator.plan(4, exact=[7])
    assert 0 == len(allocator)


def test_freed_numbers_come_last() -> None:
    """A freed number waits until every number that was never given out is gone."""
    allocator = Allocator([Range(0, 4)])
    assert [0, 1, 2] == _take(allocator, 3)
    _take(allocator, release=(1,))
    assert [3, 4] == _take(allocator, 2)
    assert [1] == _take(allocator, 1)


def test_a_number_freed_in_a_plan_is_not_chosen_by_it() -> None:
    """An update that gives back an address and asks for any other gets another."""
    allocator = Allocator([Range(0, 9)])
    _take(allocator, 1)
    assert [1] == _take(allocator, 1, release=(0,))
    assert [2] == _take(allocator, 1)


def test_a_number_freed_in_a_plan_can_be_named_by_it() -> None:
    """Releasing and naming the same number keeps it."""
    allocator = Allocator([Range(0, 9)])
    _take(allocator, exact=(5,))
    _take(allocator, exact=(5,), release=(5,))
    assert {5} == allocator.used()


def test_named_numbers_are_refused_when_owned() -> None:
    """The first Alcor compared a String with Integers here and gave the same fixed IP twice."""
    allocator = Allocator([Range(0, 9)])
    _take(allocator, exact=(5,))
    with pytest.raises(Taken) as caught:
        allocator.plan(exact=[5])
    assert 5 == caught.value.value


def test_a_number_named_twice_in_one_plan_is_refused() -> None:
    """A bulk cannot name one number for two owners."""
    with pytest.raises(Taken):
        Allocator([Range(0, 9)]).plan(exact=[5, 5])


def test_chosen_numbers_avoid_those_named_beside_them() -> None:
    """What a bulk names is not chosen for another of the same bulk."""
    allocator = Allocator([Range(0, 4)])
    assert [1, 3] == _take(allocator, 2, exact=(0, 2))


def test_numbers_outside_the_ranges_can_be_named_but_are_not_chosen() -> None:
    """A fixed IP may lie outside the allocation pools; the pools alone feed the choice."""
    allocator = Allocator([Range(10, 11)])
    _take(allocator, exact=(50,))
    assert 2 == allocator.free
    assert [10, 11] == _take(allocator, 2)
    with pytest.raises(Exhausted) as caught:
        allocator.plan(1)
    assert 0 == caught.value.free


def test_exhaustion_is_exact() -> None:
    """The last number is given out; one more is refused, saying how many there are."""
    allocator = Allocator([Range(0, 99)])
    _take(allocator, 98)
    with pytest.raises(Exhausted) as caught:
        allocator.plan(3)
    assert 2 == caught.value.free
    assert [98, 99] == _take(allocator, 2)


def test_the_search_wraps_and_crosses_ranges() -> None:
    """Ranges are searched from the cursor to the end, then from the beginning."""
    allocator = Allocator([Range(20, 22), Range(0, 1)], start=21)
    assert [21, 22, 0, 1, 20] == _take(allocator, 5)


def test_restored_numbers_stay_owned_and_holes_come_last() -> None:
    """After a restart the cursor is behind the last number in use."""
    allocator = Allocator([Range(0, 9)])
    allocator.restore([0, 1, 4])
    assert [5, 6, 7, 8, 9] == _take(allocator, 5)
    assert [2, 3] == _take(allocator, 2)


def test_reshaped_ranges_keep_owners() -> None:
    """Narrower pools keep the addresses of their ports; wider ones are used at once."""
    allocator = Allocator([Range(0, 1)])
    _take(allocator, 2)
    allocator.reshape([Range(1, 3)])
    assert [2, 3] == _take(allocator, 2)
    assert {0, 1, 2, 3} == allocator.used()


def test_networks_start_their_macs_at_different_places() -> None:
    """MACs are OpenStack's fa:16:3e, unicast, and differ between networks from the first port on."""
    first, second = ([mac_from_int(value) for value in _take(mac_allocator(Id(bytes([n]) * 16)), 3)] for n in (1, 2))
    assert not set(first) & set(second)
    assert all(mac[:3] == bytes.fromhex("fa163e") for mac in first + second)


def test_vnis_start_at_one_and_end_at_24_bits() -> None:
    """The first Alcor gave out VNI 0 and 2^24."""
    allocator = vni_allocator()
    assert [1] == _take(allocator, 1)
    _take(allocator, exact=(MAX_VNI,))
    assert MAX_VNI - 2 == allocator.free


def test_addresses_of_a_large_block() -> None:
    """A /8 gives 1,000 addresses behind five million owned ones, in order."""
    cidr = parse_prefix("10.0.0.0/8")
    allocator = address_allocator(cidr, [Pool(parse_ip("10.0.0.2"), parse_ip("10.255.255.254"))])
    allocator.restore(range(2, 5_000_002))
    chosen = _take(allocator, 1000)
    assert list(range(5_000_002, 5_001_002)) == chosen
    assert "10.76.75.66" == format_ip(addresses_at(cidr, chosen)[0])


def test_addresses_of_ipv6() -> None:
    """A /64 works with the same structure."""
    cidr = parse_prefix("2001:db8::/64")
    allocator = address_allocator(cidr, [Pool(parse_ip("2001:db8::2"), parse_ip("2001:db8::ffff:ffff:ffff:ffff"))])
    _take(allocator, exact=((1 << 64) - 1,))
    assert [Ip(parse_ip("2001:db8::2")), Ip(parse_ip("2001:db8::3"))] == addresses_at(cidr, _take(allocator, 2))


_SPACE = [Range(3, 9), Range(12, 20), Range(22, 22)]
_NUMBERS = [number for first, last in _SPACE for number in range(first, last + 1)]


class AllocatorMachine(RuleBasedStateMachine):
    """An allocator beside a plain model: who owns what, and what was freed in this generation."""

    @initialize(start=st.sampled_from([0, 3, 15, 22, 99]))
    def make(self, start: int) -> None:
        self.allocator = Allocator(_SPACE, start=start)
        self.owned: set[int] = set()
        self.freed: set[int] = set()

    @rule(count=st.integers(0, 6), exact=st.lists(st.integers(0, 25), max_size=3))
    def take(self, count: int, exact: list[int]) -> None:
        free = set(_NUMBERS) - self.owned - set(exact)
        if len(set(exact)) < len(exact) or set(exact) & self.owned:
            with pytest.raises(Taken):
                self.allocator.plan(count, exact=exact)
            return
        if count > len(free):
            with pytest.raises(Exhausted) as caught:
                self.allocator.plan(count, exact=exact)
            assert len(free) == caught.value.free
            return
        chosen = _take(self.allocator, count, exact=tuple(exact))
        assert len(set(chosen)) == count
        assert set(chosen) <= free, "never twice"
        fresh = free - self.freed
        assert len(set(chosen) & fresh) == min(count, len(fresh)), "freed last"
        self.owned |= {*chosen, *exact}
        if set(chosen) & self.freed:
            self.freed = set()
        self.freed -= self.owned

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.owned:
            number = data.draw(st.sampled_from(sorted(self.owned)))
            _take(self.allocator, release=(number,))
            self.owned.discard(number)
            self.freed.add(number)

    @invariant()
    def owners_agree(self) -> None:
        if hasattr(self, "allocator"):
            assert self.owned == self.allocator.used()
            assert len(set(_NUMBERS) - self.owned) == self.allocator.free


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(used=st.sets(st.integers(0, 300)), count=st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_what_was_restored_is_never_chosen(used: set[int], count: int) -> None:
    """Whatever a store brings back, a choice is new, in range, and complete."""
    allocator = Allocator([Range(0, 400)])
    allocator.restore(used)
    chosen = _take(allocator, count)
    assert count == len(set(chosen))
    assert not set(chosen) & used
