"""How long to wait before the next attempt: exponential, capped, with jitter. Pure. Called by paths, loops and agent.

Jitter spreads the callers that failed together (a thousand agents whose controller restarted) over the whole interval.
"""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule of delays. Attempt 0 waits about `first_s`; each further one twice as long, up to `cap_s`."""

    first_s: float
    cap_s: float

    def delay_s(self, attempt: int, roll: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 0). `roll` in [0, 1) is the die.

        Between half of the nominal delay and all of it.
        """
        nominal = min(self.cap_s, self.first_s * (1 << min(attempt, 32)))
        return nominal * (0.5 + roll / 2)
