"""What a campaign of faults found: a record per strike, a line per kind. Pure. Written by campaign, shown by report."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: what became of it."""

    number: int
    kind: str
    victims: tuple[str, ...]
    note: str
    held_s: float
    recovered: bool
    recovery_ms: float
    """From the end of the fault until everything was as it must be, ports made during and after it ACTIVE."""
    lost: int = 0
    """Acknowledged ports that were gone, elsewhere or not carried."""
    stale: int = 0
    """Ports, namespaces and endpoints that were there and should not have been."""
    leaked: int = 0
    pings: int = 0
    pings_lost: int = 0
    """While the fault lasted and while it was recovered from; on ways that the fault does not cut."""
    violations: tuple[str, ...] = ()
    """What else must not have been, a sentence each."""
    around_ms: float | None = None
    """From the strike until a port made on the struck host was ACTIVE, by another path; None: no path leads around."""

    noticed_ms: float | None = None
    """From the strike until the struck host's agent was shown not to be well; None: that was not looked at."""

    @property
    def held(self) -> bool:
        """Every promise was kept."""
        return self.recovered and not (self.lost or self.stale or self.leaked or self.pings_lost or self.violations)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of fault, summed up."""

    kind: str
    times: int
    recovered: int
    p50_ms: float
    max_ms: float
    lost: int
    stale: int
    leaked: int
    pings: int
    pings_lost: int
    violations: int
    around_p50_ms: float | None
    around_max_ms: float | None

    @property
    def held(self) -> bool:
        """Every promise was kept, every time."""
        bad = self.lost or self.stale or self.leaked or self.pings_lost or self.violations
        return self.recovered == self.times and not bad


class Restart(msgspec.Struct, frozen=True):
    """An agent was ended and another started, in a new interpreter."""

    away_ms: float
    """From the signal that ended the one until the other was in sync: stopped, loaded, and synchronised."""
    resync_ms: float
    """Of this, from when the other one, loaded, had its turn on the host."""


class Upgrade(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that carries many objects, restarted."""

    objects: int
    upgraded: tuple[Restart, ...]
    """With its journal."""
    rebuilt: tuple[Restart, ...]
    """Its journal lost."""
    pings: int
    pings_lost: int


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """All faults of a lab."""

    seed: int
    ports: int
    strikes: tuple[Strike, ...]
    requests: int
    """Changes that the API acknowledged meanwhile."""
    in_doubt: int
    """Changes whose answer never came."""
    seconds: float
    problems: tuple[str, ...] = ()
    upgrade: Upgrade | None = None

    @property
    def passed(self) -> bool:
        """There were faults, and every promise was kept."""
        return bool(self.strikes) and not self.problems and all(strike.held for strike in self.strikes)

    @property
    def last_line(self) -> str:
        """For the end of the console."""
        bad = [strike for strike in self.strikes if not strike.held]
        lost = sum(strike.lost for strike in self.strikes)
        stale = sum(strike.stale for strike in self.strikes)
        leaked = sum(strike.leaked for strike in self.strikes)
        pings = sum(strike.pings_lost for strike in self.strikes)
        words = (
            f"{len(self.strikes)} faults: {lost} acknowledged ports lost, {stale} stale, {leaked} addresses leaked, "
            f"{pings} pings lost"
        )
        if bad:
            words += f"; {len(bad)} NOT as promised: " + ", ".join(f"{one.number} {one.kind}" for one in bad[:5])
        return words + "".join(f"; {problem}" for problem in self.problems)


def lines(strikes: Sequence[Strike]) -> list[Line]:
    """A line for every kind that struck, in the order of their names."""
    found = []
    for kind in sorted({strike.kind for strike in strikes}):
        them = [strike for strike in strikes if strike.kind == kind]
        times = sorted(strike.recovery_ms for strike in them if strike.recovered) or [0.0]
        around = sorted(strike.around_ms for strike in them if strike.around_ms is not None)
        found.append(
            Line(
                kind=kind,
                times=len(them),
                recovered=sum(strike.recovered for strike in them),
                p50_ms=times[(len(times) - 1) // 2],
                max_ms=times[-1],
                lost=sum(strike.lost for strike in them),
                stale=sum(strike.stale for strike in them),
                leaked=sum(strike.leaked for strike in them),
                pings=sum(strike.pings for strike in them),
                pings_lost=sum(strike.pings_lost for strike in them),
                violations=sum(len(strike.violations) for strike in them),
                around_p50_ms=around[(len(around) - 1) // 2] if around else None,
                around_max_ms=around[-1] if around else None,
            )
        )
    return found
