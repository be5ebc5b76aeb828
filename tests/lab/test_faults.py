"""The fault suite: a short campaign for real, and that its judges can find fault."""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.lab.canned import canned

from alcor.lab import report
from alcor.lab.client import Resource
from alcor.lab.faults import KINDS, kinds_for, plan
from alcor.lab.goals import fault_goals
from alcor.lab.ledger import Ledger, Want
from alcor.lab.results import LabError, LabOptions
from alcor.lab.run import run
from alcor.lab.tally import Campaign, Strike, lines


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


UPGRADED_MS = 5000.0
"""For 1,000 objects, on whatever machine: five times the goal for 10,000."""
SHORT = (
    "agent killed",
    "agent hung",
    "agent and standby killed",
    "standby killed as it serves",
    "standby hung as it serves",
    "server killed",
    "server, bus, agents, standbys dead",
    "bus killed",
    "fast path closed",
    "management cut",
    "underlay of a host cut",
    "bus cut",
    "host's network delays",
    "journal damaged",
    "database damaged",
    "store's disk full",
    "clock jumps",
)


@pytest.mark.alone
@pytest.mark.privileged
async def test_a_short_campaign_on_a_real_lab(run_dir: Path, tmp_path: Path, needs_root: None) -> None:
    """Processes killed and hung, networks cut, disks full, files damaged: nothing acknowledged is lost, nothing stale
    is left, pings go on, and where a path leads around a fault it is found."""
    kinds = [kind for kind in kinds_for("ebpf") if kind.name.startswith(SHORT)]
    options = LabOptions(
        hosts=4,
        ports=16,
        driver="ebpf",
        run_dir=run_dir,
        report=tmp_path / "report",
        faults=len(kinds),
        fault_kinds=SHORT,
        upgrade_objects=1000,
        seed=7,
    )
    result = await run(options, console())
    assert result.faults is not None
    assert [(strike.kind, strike.violations) for strike in result.faults.strikes if not strike.held] == []
    assert result.problems == ()
    assert result.faults.upgrade is not None
    assert result.faults.upgrade.pings_lost == 0 < result.faults.upgrade.pings
    for one in (*result.faults.upgrade.upgraded, *result.faults.upgrade.rebuilt):
        assert 0 < one.resync_ms < one.away_ms < UPGRADED_MS
    assert result.passed
    assert len(result.faults.strikes) == len(kinds)
    assert result.faults.requests > 30
    assert sum(strike.pings for strike in result.faults.strikes) > 1000
    assert report.read(tmp_path / "report" / report.JSON_NAME) == result


@pytest.mark.alone
async def test_a_short_campaign_with_the_software_switch(run_dir: Path) -> None:
    """The kinds that take neither root nor BPF."""
    options = LabOptions(
        hosts=3,
        ports=9,
        driver="fake",
        run_dir=run_dir,
        faults=3,
        fault_kinds=("agent killed", "server killed"),
        upgrade_objects=0,
        seed=1,
    )
    result = await run(options, console())
    assert result.faults is not None
    assert [(strike.kind, strike.violations) for strike in result.faults.strikes if not strike.held] == []


def test_a_plan_is_fair_and_can_be_repeated() -> None:
    """Every kind comes equally often; the same seed strikes the same hosts in the same order."""
    hosts = [f"host-{number}" for number in range(10)]
    planned = plan(5, 3 * len(KINDS), KINDS, hosts)
    assert {kind.name: 3 for kind in KINDS} == {kind.name: sum(one.kind is kind for one in planned) for kind in KINDS}
    assert planned == plan(5, 3 * len(KINDS), KINDS, hosts)
    assert planned != plan(6, 3 * len(KINDS), KINDS, hosts)
    assert all(len(one.victims) == one.kind.hosts for one in planned)


def test_an_unknown_kind_is_refused() -> None:
    """With the names that are known."""
    with pytest.raises(LabError, match="known are: agent killed"):
        kinds_for("ebpf", ("meteor",))


def row(port: str, host: str = "host-1", ip: str = "10.0.0.5", name: str = "p") -> Resource:
    return {"id": port, "name": name, "binding:host_id": host, "fixed_ips": [{"ip_address": ip}]}


def judged(ledger: Ledger, *rows: Resource) -> tuple[Sequence[str], Sequence[str]]:
    verdict = ledger.judge({one["id"]: one for one in rows})
    return verdict.lost, verdict.stale


def test_the_ledger_finds_what_was_lost_or_should_not_be_there() -> None:
    """Gone, moved or readdressed without being asked; there again after an acknowledged deletion; never asked for."""
    ledger = Ledger()
    ledger.created([row("a"), row("b")])
    assert judged(ledger, row("a"), row("b")) == ((), ())
    assert judged(ledger, row("a")) == (("b",), ())
    assert judged(ledger, row("a"), row("b", host="host-2")) == (("b",), ())
    assert judged(ledger, row("a"), row("b", ip="10.0.0.6")) == (("b",), ())
    assert judged(ledger, row("a"), row("b"), row("c")) == ((), ("c",))
    ledger.deleted("b")
    assert judged(ledger, row("a"), row("b")) == ((), ("b",))


def test_the_ledger_allows_what_was_never_answered() -> None:
    """A request without an answer may have been done, or not; nothing else."""
    ledger = Ledger()
    ledger.created([row("a")])
    ledger.perhaps_deleted("a")
    ledger.perhaps_created(["maybe"])
    assert judged(ledger) == ((), ())
    assert judged(ledger, row("a"), row("x", name="maybe")) == ((), ())
    assert judged(ledger, row("a", host="host-9")) == (("a",), ())
    ledger.perhaps_updated("a", Want("host-9", "10.0.0.5"))
    assert judged(ledger, row("a", host="host-9")) == ((), ())


def strike(number: int, kind: str = "agent killed", **changes: object) -> Strike:
    values: dict[str, object] = {
        "number": number,
        "kind": kind,
        "victims": ("host-1",),
        "note": "",
        "held_s": 1.0,
        "recovered": True,
        "recovery_ms": 80.0 + number,
        "around_ms": 700.0,
        "pings": 400,
    }
    return Strike(**{**values, **changes})  # type: ignore[arg-type]


def campaign(*strikes: Strike) -> Campaign:
    return Campaign(seed=1, ports=60, strikes=strikes, requests=100, in_doubt=1, seconds=9.0)


@pytest.mark.parametrize(
    "change",
    [
        {"recovered": False},
        {"lost": 1},
        {"stale": 1},
        {"leaked": 1},
        {"pings_lost": 1},
        {"violations": ("10.0.0.2 reached 10.0.0.3",)},
    ],
)
def test_anything_bad_fails_a_campaign(change: dict[str, Any]) -> None:
    """And the console names the fault."""
    assert campaign(strike(1)).passed
    bad = campaign(strike(1), strike(2, **change))
    assert not bad.passed
    assert not lines(bad.strikes)[0].held
    assert "1 NOT as promised: 2 agent killed" in bad.last_line


def test_the_goals_of_a_campaign() -> None:
    """The worst counts; fewer faults than are due prove nothing."""
    some = [strike(number, around_ms=500.0 + number) for number in range(100)]
    some += [strike(number, "management cut", around_ms=1000.0 + number) for number in range(100)]
    assert [goal.reached for goal in fault_goals(campaign(*some))] == [True, True, True]
    assert [goal.reached for goal in fault_goals(campaign(*some[:50]))] == [True, None]
    seen = [*some, strike(200, noticed_ms=300.0), strike(201, "agent hung", noticed_ms=1001.0)]
    noticed = [goal.reached for goal in fault_goals(campaign(*seen)) if "noticed" in goal.name]
    assert noticed == [False, True]
    late = [*some, strike(200, around_ms=3001.0)]
    assert fault_goals(campaign(*late))[0].reached is False
    stale = [*some, strike(200, stale=1)]
    assert fault_goals(campaign(*stale))[-1].reached is False


def test_a_page_of_faults() -> None:
    """A line and a row of dots per kind."""
    dice = random.Random(1)
    strikes = [strike(number, kind.name, recovery_ms=dice.uniform(40, 900)) for number, kind in enumerate(KINDS)]
    page = report.render(canned(faults=campaign(*strikes)))
    assert page.count("✓ held") == len(KINDS)
    assert "Time to recover" in page
