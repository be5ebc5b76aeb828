"""A member that fails: what is made of connections and of an agent's log, and that clients see who answers."""

import time
from pathlib import Path

import pytest
from tests.lab.plain import bridge

from alcor.lab.balancing import MEMBER_PORT, Server
from alcor.lab.failover import Call, Callers, Round, judge, threshold_in
from alcor.lab.goals import goals
from alcor.lab.results import HostFigures, Provisioned

LOG = """\
{"level": "WARNING", "event": "member a does not answer: refused", "timestamp": "2026-11-27T20:02:46.500000+00:00"}
Traceback (most recent call last):
{"level": "WARNING", "event": "member b does not answer: refused", "timestamp": "2026-11-27T20:02:47+00:00"}
{"level": "WARNING", "event": "member a does not answer: timeout", "timestamp": "2026-11-27T20:02:48.250000+00:00"}
{"level": "WARNING", "event": "member a does not answer: timeout", "timest"""
BEGUN = 1795809766.0
"""2026-11-27T20:02:46Z."""


def test_the_threshold_is_the_agents_word() -> None:
    """The first one since, of that member; half a line and what is no event say nothing."""
    assert BEGUN + 0.5 == threshold_in(LOG, "a", BEGUN)
    assert BEGUN + 2.25 == threshold_in(LOG, "a", BEGUN + 0.6)
    assert threshold_in(LOG, "a", BEGUN + 3) is None
    assert threshold_in(LOG, "c", 0) is None


def test_the_last_connection_that_nobody_answered_counts() -> None:
    """By when it was opened; what was lost before the threshold is the health check's time."""

    def one(*calls: tuple[float, str | None]) -> Round:
        return Round(False, 10.0, tuple(Call(*call) for call in calls), 1)

    assert 0 == one((8.0, None), (9.0, None), (12.5, "b")).after_ms
    assert 250 == one((10.25, None), (9.0, None), (10.1, None), (12.5, "b")).after_ms
    assert one((9.0, None), (12.5, "b")).proved


def test_what_did_not_fail_proves_nothing() -> None:
    """A member that never had a connection to lose, that took the others with it, or of which the API knows nothing."""
    good = Round(True, 10.0, (Call(9.5, None), Call(12.5, "b")), 1)
    assert judge([good, good]).passed
    for bad in (
        good._replace(calls=(Call(9.5, "a"), Call(12.5, "b"))),
        good._replace(calls=(Call(9.5, None), Call(9.7, "b"))),
        good._replace(in_error=0),
        good._replace(calls=(Call(12.2, None), Call(12.5, "b"))),
    ):
        assert not judge([good, bad]).passed


@pytest.mark.parametrize(("worst", "reached"), [(1000.0, True), (1000.1, False)])
def test_the_worst_failure_counts(worst: float, reached: bool) -> None:
    """The goal is met by all of them; the median is told."""
    nothing = Provisioned(ports=0, active=0, created_ms=0, active_ms=0)
    (goal,) = goals(nothing, (), (), HostFigures(), failovers_ms=[0.0, 20.0, worst])
    assert ("median 20 ms, worst of 3: 1000 ms", reached) == (goal.measured, goal.reached)


@pytest.mark.privileged
@pytest.mark.usefixtures("needs_root")
def test_clients_see_who_answers(run_dir: Path) -> None:
    """Whoever is there; nobody while the program is not."""
    with bridge(run_dir, 3) as (server, *clients), Server(server) as program:
        with Callers(clients, server.ip, MEMBER_PORT) as callers:

            def settled(since: float, by: str | None) -> float:
                """Waits for connections opened since then that ended so; the time."""
                deadline = time.monotonic() + 20
                while sum(call.at > since and call.by == by for call in callers.calls) < 5:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                return time.time()

            settled(0, server.ip)
            program.stop()
            gone = time.time()
            starting = settled(gone, None)
            program.start()
            settled(starting, server.ip)
        assert not any(call.by for call in callers.calls if gone < call.at < starting - 0.05)
        assert {None, server.ip} == {call.by for call in callers.calls}
