"""Cases take turns, and what is said of them: medians, ratios, goals."""

from itertools import count

import pytest

from alcor.bench.rounds import ANSWER, PACKET, Case, Cost, Way, compare, ratio_goal, take_turns, within_goal


def test_cases_take_turns_within_a_round_and_are_prepared_each_time() -> None:
    """Round by round, in their order; a figure is the median of its rounds, all of which are kept."""
    done: list[str] = []
    said: list[str] = []
    clock = count(10, 10)

    def case(name: str, *figures: str) -> Case:
        def measure() -> float:
            return float(next(clock))

        return Case(name, lambda: done.append(name), dict.fromkeys(figures, measure))

    plain, balanced = take_turns([case("plain", PACKET), case("balanced", PACKET, ANSWER)], 3, said.append)
    assert ["plain", "balanced"] * 3 == done
    assert ["round 1 of 3: plain", "round 3 of 3: balanced"] == [said[0], said[-1]]
    assert (10.0, 40.0, 70.0) == plain.costs[PACKET].rounds_ns
    assert (20.0, 50.0, 80.0) == balanced.costs[PACKET].rounds_ns
    assert (40.0, 50.0, 60.0) == (plain[PACKET], balanced[PACKET], balanced[ANSWER])
    with pytest.raises(KeyError):
        plain[ANSWER]


def way(name: str, *rounds_ns: float) -> Way:
    """Whose answers cost 10 ns more than its packets."""
    costs = {PACKET: rounds_ns, ANSWER: tuple(ns + 10 for ns in rounds_ns)}
    return Way(name=name, costs={what: Cost(median_ns=0, rounds_ns=some) for what, some in costs.items()})


def test_rounds_are_compared_with_themselves() -> None:
    """The machine was twice as fast from the second round on for one way, from the third on for the other."""
    before, after = way("overlay", 200, 100, 100), way("routed", 220, 220, 110)
    assert (1.1, 200, 220) == compare(before, after)
    assert (225 / 205, 205, 225) == compare(before, after, (PACKET, ANSWER))


@pytest.mark.parametrize(("after", "reached"), [(130.0, True), (130.1, False)])
def test_a_ratio_reaches_its_goal_or_not(after: float, reached: bool) -> None:
    """At most means at most; both costs are said."""
    goal = ratio_goal("packet", 1.3, "the overlay", (way("", 100.0), way("", after)), more=", both ways")
    assert reached is goal.reached
    assert ("at most 1.3x of the overlay", "1.30x (100 -> 130 ns), both ways") == (goal.goal, goal.measured)


@pytest.mark.parametrize(("took_s", "reached"), [(1.0, True), (1.01, False)])
def test_a_time_reaches_its_goal_or_not(took_s: float, reached: bool) -> None:
    """Likewise."""
    assert reached is within_goal("routes", 1.0, took_s).reached
