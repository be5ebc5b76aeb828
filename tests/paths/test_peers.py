"""Who carries for a host that cannot be reached: near it, of another fate, not overloaded."""

import pytest

from alcor.paths.peers import WINDOW, Peer, choose, window

TARGET = Peer("target", "zone-1", "rack-1")
NEIGHBOUR = Peer("neighbour", "zone-1", "rack-1")
NEAR = Peer("near", "zone-1", "rack-2")
FAR = Peer("far", "zone-2", "rack-1")


@pytest.mark.parametrize(
    ("peers", "chosen"),
    [
        ([FAR, NEIGHBOUR, NEAR], ["near", "neighbour", "far"]),
        ([FAR, Peer("busy", "zone-1", "rack-2", load=3), NEAR], ["near", "busy", "far"]),
        ([Peer("full", "zone-1", "rack-2", load=4), FAR], ["far"]),
        ([TARGET, FAR], ["far"]),
        ([Peer("full", load=4)], []),
        ([], []),
    ],
    ids=["another fate first", "the least loaded", "a full one never", "not the target itself", "all full", "nobody"],
)
def test_the_best_come_first(peers: list[Peer], chosen: list[str]) -> None:
    assert choose(TARGET, peers, count=3, max_load=4) == chosen


def test_no_more_than_were_asked_for() -> None:
    """Equals stay in their order."""
    equals = [Peer(name, "zone-1", "rack-2") for name in ("b", "a", "c")]
    assert choose(TARGET, equals, count=2, max_load=4) == ["b", "a"]


def test_without_failure_domains_the_zone_decides() -> None:
    """An empty domain is nobody's: two hosts that do not say theirs share no fate."""
    peers = [Peer("far", "zone-2"), Peer("near", "zone-1")]
    assert choose(Peer("target", "zone-1"), peers, count=2, max_load=1) == ["near", "far"]


def test_a_window_of_a_large_region() -> None:
    """It begins anywhere, goes round the end, and names nobody twice."""
    hosts = list(range(1000))
    assert window(hosts, 0.0) == list(range(WINDOW))
    late = window(hosts, 0.999)
    assert (late[0], late[1], len(set(late))) == (999, 0, WINDOW)
    assert window([7, 8], 0.5) == [8, 7]
    assert window([], 0.5) == []
