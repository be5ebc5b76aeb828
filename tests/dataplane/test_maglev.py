"""Maglev's table: even, as weights say, the same everywhere, and little moved when a backend comes or goes."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alcor.dataplane.base import Backend, Service, ServiceKey
from alcor.dataplane.maglev import TABLE_SIZE, maglev_table, place_of, places, usable
from alcor.model.addresses import parse_ip


def backends(count: int) -> tuple[Backend, ...]:
    """So many of weight 1, sorted."""
    found = [Backend(parse_ip(f"10.0.{at // 250}.{at % 250 + 1}"), 80) for at in range(count)]
    return tuple(sorted(found, key=lambda one: (one.ip, one.port)))


@given(st.integers(2, 1024), st.data())
@settings(max_examples=15, deadline=None)
def test_one_of_n_moves_one_in_n(count: int, data: st.DataObject) -> None:
    """When one of N goes (or comes: the same two tables), its places change hands, and of the others' at most 1 in 25:
    the others' connections that move are about 1 in N at most, and never more than a few in a hundred."""
    some = backends(count)
    gone = data.draw(st.integers(0, count - 1))
    before, after = maglev_table(some), maglev_table(some[:gone] + some[gone + 1 :])
    others = [(old, new) for old, new in zip(before, after, strict=True) if old != gone]
    moved = sum(new != (old if old < gone else old - 1) for old, new in others)
    assert TABLE_SIZE - len(others) <= TABLE_SIZE / count + 1
    assert moved <= max(TABLE_SIZE / count, TABLE_SIZE / 25)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1024])
def test_backends_have_equally_many_places(count: int) -> None:
    """To one."""
    places = Counter(maglev_table(backends(count)))
    assert count == len(places)
    assert max(places.values()) - min(places.values()) <= 1


def test_weights_share_the_places() -> None:
    """As they say, to 1 in 100; the smallest has some in any case."""
    ip = parse_ip("10.0.0.1")
    places = Counter(maglev_table((Backend(ip, 1, 10), Backend(ip, 2, 1), Backend(ip, 3, 5), Backend(ip, 4, 10))))
    for index, weight in enumerate((10, 1, 5, 10)):
        assert abs(places[index] - TABLE_SIZE * weight / 26) < TABLE_SIZE / 100
    many = tuple(Backend(ip, port, 256 if port else 1) for port in range(1024))
    assert 1 <= Counter(maglev_table(many))[0]


def named(some: tuple[Backend, ...], *failed: int) -> tuple[str, ...]:
    """Who gets the connections of each place when these have failed."""
    changed = [msgspec.structs.replace(one, failed=at in failed) for at, one in enumerate(some)]
    service = Service(ServiceKey(1, parse_ip("10.0.0.1"), 6, 80), tuple(changed))
    chosen = [_name(one) for one in usable(service)]
    return tuple([chosen[at] for at in places(service)])


def _name(one: Backend) -> str:
    return f"{one.ip.hex()}:{one.port}"


@given(st.integers(2, 1024), st.data())
@settings(max_examples=15, deadline=None)
def test_who_fails_moves_nobody_else(count: int, data: st.DataObject) -> None:
    """Its places go to the others, which keep theirs; also when more fail; and it gets them back."""
    some = backends(count)
    failed = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=min(count - 1, 5), unique=True))
    before = named(some)
    gone = {_name(some[at]) for at in failed}
    after = named(some, *failed)
    assert len(after) == TABLE_SIZE and gone.isdisjoint(after)
    assert all(old == new for old, new in zip(before, after, strict=True) if old not in gone)
    fewer = named(some, *failed[1:])
    back = [(old, new) for old, new in zip(fewer, after, strict=True) if old != new]
    assert {old for old, _ in back} <= {_name(some[failed[0]])}
    assert before == named(some)


def test_what_the_failed_had_is_shared() -> None:
    """Evenly, or as weights say; of many of whom few are left, too; and nobody has it when nobody is left."""
    ten = Counter(named(backends(10), 3))
    assert 9 == len(ten)
    assert max(ten.values()) < 1.1 * min(ten.values())
    ip = parse_ip("10.0.0.1")
    weighted = Counter(named((Backend(ip, 1, 10), Backend(ip, 2, 1), Backend(ip, 3, 5), Backend(ip, 4, 10)), 0))
    for port, weight in ((2, 1), (3, 5), (4, 10)):
        assert abs(weighted[f"{ip.hex()}:{port}"] - TABLE_SIZE * weight / 16) < TABLE_SIZE / 50
    few = Counter(named(backends(100), *range(2, 100)))
    assert 2 == len(few) and max(few.values()) < 1.2 * min(few.values())
    assert () == named(backends(2), 0, 1)


def test_the_table_is_nobodys_memory() -> None:
    """The same backends make the same table; none make none."""
    assert maglev_table(backends(5)) == maglev_table.__wrapped__(backends(5))
    assert 0 == len(maglev_table(()))


def test_connections_spread_over_the_places() -> None:
    """Of one client with many ports, of many clients with one: no tenth of the table gets a quarter more or less."""
    one = Counter(place_of(parse_ip("10.0.0.9"), port) * 10 // TABLE_SIZE for port in range(32_768, 61_000))
    many = Counter(place_of(parse_ip(f"10.0.{at // 256}.{at % 256}"), 0) * 10 // TABLE_SIZE for at in range(10_000))
    six = Counter(place_of(parse_ip(f"2001:db8::{at:x}"), 0) * 10 // TABLE_SIZE for at in range(10_000))
    for found in (one, many, six):
        mean = sum(found.values()) / 10
        assert all(0.75 * mean < found[tenth] < 1.25 * mean for tenth in range(10))
