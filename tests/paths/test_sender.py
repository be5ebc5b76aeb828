"""The mailbox: everything that waits in one message, bounded, and never a lie about being in sync."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcor.goalstate.objects import HOST_SCOPE
from alcor.model.ids import Id
from alcor.paths import sender
from alcor.paths.base import Parcel
from alcor.paths.sender import Mailbox, TooLarge
from alcor.wire.codec import Part

V, W = Id(b"v" * 16), Id(b"w" * 16)


def delta(scope: Id, text: bytes = b"delta") -> Parcel:
    return Parcel(scope, Part(text), False)


def snapshot(scope: Id, text: bytes = b"snapshot") -> Parcel:
    return Parcel(scope, Part(text), True)


def take(box: Mailbox) -> tuple[list[Part], bool] | None:
    """The parts of the next load, and whether it says `synced`."""
    load = box.take()
    return (load.parts, load.synced) if load is not None else None


@pytest.fixture
def box() -> Mailbox:
    box = Mailbox()
    box.begin([])
    assert take(box) == ([], True)
    return box


def test_nothing_is_taken_before_the_host_was_answered() -> None:
    """What is offered before `begin`, or after `clear`, is dropped."""
    box = Mailbox()
    box.offer([delta(V)])
    assert box.take() is None
    box.begin([snapshot(V)])
    box.clear()
    box.offer([delta(V)])
    assert box.take() is None


def test_the_first_emptying_says_synced_and_only_that() -> None:
    """Even when there was nothing to send; later bundles do not say it again."""
    box = Mailbox()
    box.begin([])
    assert take(box) == ([], True)
    assert box.take() is None
    box.offer([delta(V)])
    assert take(box) == ([Part(b"delta")], False)


def test_what_waits_leaves_as_one_host_scope_first(box: Mailbox) -> None:
    """In order within a scope; the host's own before VPCs, so that ports are known when their VPC comes."""
    box.offer([delta(V, b"1"), delta(HOST_SCOPE, b"2"), delta(V, b"3")])
    box.offer([delta(HOST_SCOPE, b"4")])
    assert take(box) == ([Part(b"2"), Part(b"4"), Part(b"1"), Part(b"3")], False)


def test_a_snapshot_replaces_what_waits_of_its_scope(box: Mailbox) -> None:
    """Older deltas are in it; newer ones follow it."""
    box.offer([delta(V, b"1"), delta(W, b"2"), snapshot(V, b"3"), delta(V, b"4")])
    assert take(box) == ([Part(b"2"), Part(b"3"), Part(b"4")], False)


def test_a_withdrawn_scope_does_not_leave(box: Mailbox) -> None:
    """The host's last port of the VPC is gone."""
    box.offer([snapshot(V), delta(V), delta(W)])
    box.withdraw(V)
    assert take(box) == ([Part(b"delta")], False)


def test_bundles_are_closed_at_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update is never split; one that is larger than a bundle travels alone; `synced` comes with the last."""
    monkeypatch.setattr(sender, "BUNDLE_BYTES", 10)
    box = Mailbox()
    parts = [b"a" * 6, b"b" * 4, b"c" * 30, b"d"]
    box.begin([snapshot(Id(bytes((number,)) * 16), part) for number, part in enumerate(parts)])
    loads = [take(box) for _ in range(4)]
    assert loads == [
        ([Part(parts[0]), Part(parts[1])], False),
        ([Part(parts[2])], False),
        ([Part(parts[3])], True),
        None,
    ]


def test_an_update_beyond_a_message_is_an_error(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the scope and what to do."""
    monkeypatch.setattr(sender, "MAX_MESSAGE_BYTES", sender.BUNDLE_HEADROOM + 100)
    box.offer([snapshot(V, b"x" * 101)])
    with pytest.raises(TooLarge, match=r"VPC 7676.*: split the VPC"):
        box.take()


@pytest.mark.parametrize("bound", ["MAX_WAITING_DELTAS", "MAX_WAITING_BYTES"])
def test_too_much_becomes_an_owed_snapshot(box: Mailbox, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """The deltas go; each scope is asked for once, when there is room; its deltas are dropped until it comes."""
    monkeypatch.setattr(sender, bound, 2)
    box.offer([delta(V, b"x"), delta(W, b"x"), delta(V, b"x")])
    assert box.take() is None
    box.offer([delta(V, b"x")])
    assert box.ask() == frozenset({V, W})
    assert box.ask() == frozenset()
    box.offer([snapshot(V)])
    box.withdraw(W)
    assert take(box) == ([Part(b"snapshot")], False)
    box.offer([delta(V, b"y"), delta(W, b"z")])
    assert take(box) == ([Part(b"y"), Part(b"z")], False)


def test_a_host_that_is_owed_a_snapshot_is_not_in_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """`synced` waits for what was thrown away."""
    monkeypatch.setattr(sender, "MAX_WAITING_DELTAS", 1)
    box = Mailbox()
    box.begin([delta(V), delta(V)])
    assert box.take() is None
    assert box.ask() == frozenset({V})
    box.offer([snapshot(V)])
    assert take(box) == ([Part(b"snapshot")], True)


PARCELS = st.builds(Parcel, st.sampled_from([HOST_SCOPE, V, W]), st.binary(max_size=8).map(Part), st.booleans())


@given(st.lists(st.one_of(PARCELS, st.sampled_from([V, W]), st.none()), max_size=40))
def test_the_bound_holds(steps: list[Parcel | Id | None]) -> None:
    """Whatever is offered, withdrawn and taken, the waiting bytes are what they are counted to be."""
    box = Mailbox()
    box.begin([])
    for step in steps:
        if isinstance(step, Parcel):
            box.offer([step])
        elif step is None:
            box.take()
        else:
            box.withdraw(step)
        deltas = [len(parcel.part) for parcel in box._waiting if not parcel.snapshot]
        assert (box._deltas, box._bytes) == (len(deltas), sum(deltas))
