"""The exhaustive search of merge, ack and resync: it visits everything, and every rule that is left out is missed."""

import pytest

from alcor.sim.model import Rules, Violation, search

SESSION_ONLY, BUS_ONLY, BOTH = Rules(bus=False), Rules(session=False), Rules()


@pytest.mark.parametrize(("rules", "states"), [(SESSION_ONLY, 6_000), (BUS_ONLY, 200_000), (BOTH, 300_000)])
def test_no_order_of_events_breaks_a_promise(rules: Rules, states: int) -> None:
    """Three commits: every interleaving of commits, publications, arrivals, losses, repeats, cuts, restarts."""
    assert search(3, rules) >= states


@pytest.mark.parametrize(
    ("left_out", "among", "what"),
    [
        ("gaps", BUS_ONLY, "claims revision"),
        ("beats", BUS_ONLY, "calm, and the host holds"),
        ("beats", BOTH, "calm, and the host holds"),
        ("newest_wins", SESSION_ONLY, "went back"),
        ("modest", SESSION_ONLY, "claims revision"),
        ("compare", SESSION_ONLY, "claims revision"),
        ("confirm", BUS_ONLY, "claims revision"),
        ("prove", BOTH, "claims revision"),
    ],
)
def test_a_rule_that_is_left_out_is_missed(left_out: str, among: Rules, what: str) -> None:
    """Each with the shortest way to where it is missed."""
    with pytest.raises(Violation, match=what):
        search(2, among._replace(**{left_out: False}))
