"""Rows of load balancing as hosts are told them."""

from typing import Any

import pytest

from alcor.goalstate.balancing import Balancers
from alcor.goalstate.objects import PoolGoal
from alcor.model.balancing import Algorithm, MemberPool, Protocol
from alcor.model.ids import Id

COMMON: dict[str, Any] = {"project_id": "", "name": "", "description": "", "created_at": 0, "updated_at": 0}


@pytest.mark.parametrize(
    ("algorithm", "persistence", "affinity"),
    [
        (Algorithm.ROUND_ROBIN, False, False),
        (Algorithm.ROUND_ROBIN, True, True),
        (Algorithm.SOURCE_IP, False, True),
        (Algorithm.SOURCE_IP, True, True),
    ],
)
def test_a_source_sticks_by_algorithm_or_by_persistence(
    algorithm: Algorithm, *, persistence: bool, affinity: bool
) -> None:
    """Hosts are told one thing for both: the choice is by the client's address alone."""
    pool = MemberPool(
        **COMMON,
        id=Id(b"q" * 16),
        network_id=Id(b"v" * 16),
        load_balancer_id=Id(b"b" * 16),
        protocol=Protocol.TCP,
        algorithm=algorithm,
        persistence=persistence,
        admin_state_up=True,
        revision=7,
    )
    goal = Balancers([pool]).goal(pool)
    assert isinstance(goal, PoolGoal)
    assert goal.affinity is affinity
