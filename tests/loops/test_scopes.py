"""The kept scopes of VPCs: whole at any time, bounded, honest about their digest."""

from alcor.loops import scopes as scopes_module
from alcor.loops.scopes import VpcScopes
from alcor.model.ids import Id
from alcor.paths.base import Parcel
from alcor.wire.codec import Part


def vpc(number: int) -> Id:
    return Id(bytes((number,)) * 16)


def parcel(number: int, size: int, *, snapshot: bool = False) -> Parcel:
    return Parcel(vpc(number), Part(bytes(size)), snapshot)


def test_a_scope_is_its_snapshot_and_the_deltas_since() -> None:
    """In that order; the digest is known only of the snapshot alone."""
    scopes = VpcScopes()
    whole = parcel(1, 100, snapshot=True)
    scopes.put(whole, 42)
    assert (scopes.get(vpc(1)), scopes.digest(vpc(1))) == ([whole], 42)
    deltas = [parcel(1, 1), parcel(1, 2)]
    for delta in deltas:
        scopes.extend(delta)
    assert (scopes.get(vpc(1)), scopes.digest(vpc(1))) == ([whole, *deltas], None)
    scopes.drop(vpc(1))
    assert (scopes.get(vpc(1)), scopes.digest(vpc(1))) == (None, None)


def test_a_delta_of_what_is_not_kept_is_nothing() -> None:
    """Without a snapshot before it, a delta is not a scope."""
    scopes = VpcScopes()
    scopes.extend(parcel(1, 5))
    assert scopes.get(vpc(1)) is None


def test_deltas_do_not_outgrow_their_snapshot() -> None:
    """Beyond half of it (and a floor for small VPCs) reading anew is cheaper to send."""
    scopes = VpcScopes()
    scopes.put(parcel(1, 10, snapshot=True), 1)
    scopes.extend(parcel(1, scopes_module.MIN_DELTA_BYTES))
    assert scopes.get(vpc(1)) is not None
    scopes.extend(parcel(1, 1))
    assert scopes.get(vpc(1)) is None


def test_the_least_recently_used_goes() -> None:
    """Memory is bounded, whatever the number of VPCs; the newest is always kept."""
    scopes = VpcScopes(max_bytes=250)
    for number in (1, 2):
        scopes.put(parcel(number, 100, snapshot=True), number)
    scopes.get(vpc(1))
    scopes.put(parcel(3, 100, snapshot=True), 3)
    assert [scopes.digest(vpc(number)) for number in (1, 2, 3)] == [1, None, 3]
    scopes.put(parcel(4, 1000, snapshot=True), 4)
    assert [scopes.digest(vpc(number)) for number in (1, 2, 3, 4)] == [None, None, None, 4]
    assert scopes._bytes == 1000
