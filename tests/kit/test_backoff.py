"""Back-off: doubling, capped, spread."""

from hypothesis import given
from hypothesis import strategies as st

from alcor.kit.backoff import Backoff


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_between_half_and_all_of_its_nominal(attempt: int, roll: float) -> None:
    """Nominal: first, doubled by each attempt, never beyond the cap, for any number of attempts."""
    nominal = min(5.0, 0.1 * 2.0 ** min(attempt, 100))
    assert nominal / 2 <= Backoff(first_s=0.1, cap_s=5.0).delay_s(attempt, roll) <= nominal
