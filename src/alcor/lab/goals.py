"""The table "what it must reach", as far as a lab measures it. Pure. Called by run and bench."""

from __future__ import annotations

from collections.abc import Sequence

from alcor.lab.results import Goal, HostFigures, Provisioned, Scale, percentile
from alcor.lab.tally import Campaign, Upgrade

OVER_HOST = 1.5
SINGLE_P50_MS, SINGLE_P99_MS = 20.0, 100.0
RULE_CHANGE_MS = 500.0
FIRST_PACKET_MS = 10.0
FAILOVER_MS = 1000.0
HOST_RATE = 35_000
AGENT_MIB = 100
STANDBY_S, RELAY_S, FAULTS = 3.0, 5.0, 200
NOTICE_S = 1.0
UPGRADE_MS = 1000.0
"""For 10,000 objects."""
NOISE = 1.05
"""Two measurements of the same thing differ by so much here."""


def goals(
    provisioned: Provisioned,
    scales: Sequence[Scale],
    singles_ms: Sequence[float],
    host: HostFigures,
    normal_ms: Sequence[float] = (),
    rule_changes_ms: Sequence[float] = (),
    first_packets_ms: Sequence[float] = (),
    failovers_ms: Sequence[float] = (),
) -> tuple[Goal, ...]:
    """One line per goal that was measured."""
    found = []
    if host.scales:
        found += _of_host(provisioned, host)
    if singles_ms:
        found.append(single_goal(singles_ms))
    if normal_ms:
        median, tail = percentile(list(normal_ms), 0.5), percentile(list(normal_ms), 0.99)
        measured = f"p50 {median:.1f} ms, p99 {tail:.1f} ms"
        name = "single port by the normal path (bus), POST to ACTIVE"
        found.append(Goal(name=name, goal="-", measured=measured, reached=None))
    if rule_changes_ms:
        median, tail = percentile(list(rule_changes_ms), 0.5), percentile(list(rule_changes_ms), 0.99)
        found.append(
            Goal(
                name="a rule changed, until every host acts by it",
                goal=f"p99 at most {RULE_CHANGE_MS:.0f} ms",
                measured=f"p50 {median:.0f} ms, p99 {tail:.0f} ms, over {len(rule_changes_ms):,} hosts and changes",
                reached=tail <= RULE_CHANGE_MS,
            )
        )
    if first_packets_ms:
        median, tail = percentile(list(first_packets_ms), 0.5), percentile(list(first_packets_ms), 0.99)
        found.append(
            Goal(
                name="the first packet between strangers, on demand",
                goal=f"none lost, p99 at most {FIRST_PACKET_MS:.0f} ms more than the second",
                measured=f"p50 {median:.1f} ms, p99 {tail:.1f} ms more, over {len(first_packets_ms):,} pairs",
                reached=tail <= FIRST_PACKET_MS and max(first_packets_ms) < float("inf"),
            )
        )
    if failovers_ms:
        found.append(failover_goal(failovers_ms))
    if scales:
        found.append(never_slower("batch never slower than serial, end to end", scales))
    return tuple(found)


def single_goal(singles_ms: Sequence[float]) -> Goal:
    """Single ports through the fast path."""
    median, tail = percentile(list(singles_ms), 0.5), percentile(list(singles_ms), 0.99)
    return Goal(
        name="single port, POST to ACTIVE",
        goal=f"p50 at most {SINGLE_P50_MS:.0f} ms, p99 at most {SINGLE_P99_MS:.0f} ms",
        measured=f"p50 {median:.1f} ms, p99 {tail:.1f} ms",
        reached=median <= SINGLE_P50_MS and tail <= SINGLE_P99_MS,
    )


def failover_goal(failovers_ms: Sequence[float]) -> Goal:
    """Members of a load balancer that failed."""
    median, worst = percentile(list(failovers_ms), 0.5), max(failovers_ms)
    return Goal(
        name="a load balancer's member fails, new connections elsewhere",
        goal=f"at most {FAILOVER_MS / 1000:g} s after its health check's threshold",
        measured=f"median {median:.0f} ms, worst of {len(failovers_ms)}: {worst:.0f} ms",
        reached=worst <= FAILOVER_MS,
    )


def never_slower(name: str, scales: Sequence[Scale]) -> Goal:
    """All at once against one after another, at every scale of more than one port."""
    many = [scale for scale in scales if scale.ports > 1]
    gains = [scale.serial_ms / scale.batch_ms for scale in many]
    return Goal(
        name=name,
        goal="at every number of ports",
        measured=", ".join(f"{scale.ports:,}: {gain:.1f}x" for scale, gain in zip(many, gains, strict=True)),
        reached=all(gain * NOISE >= 1 for gain in gains),
    )


def fault_goals(campaign: Campaign) -> tuple[Goal, ...]:
    """What a campaign of faults must reach."""
    lost = sum(strike.lost for strike in campaign.strikes)
    stale = sum(strike.stale for strike in campaign.strikes)
    leaked = sum(strike.leaked for strike in campaign.strikes)
    pings = sum(strike.pings_lost for strike in campaign.strikes)
    whole = sum(strike.recovered for strike in campaign.strikes) == len(campaign.strikes)
    return (
        *_around(campaign, "agent killed", "agent SIGKILL, until a port made there is ACTIVE", STANDBY_S),
        *_around(campaign, "management cut", "management network cut, until a port made there is ACTIVE", RELAY_S),
        *_noticed(campaign),
        Goal(
            name="acknowledged ports lost, stale endpoints, addresses leaked",
            goal=f"0, 0, 0 over at least {FAULTS} faults",
            measured=f"{lost}, {stale}, {leaked} over {len(campaign.strikes)}; pings lost: {pings}",
            reached=whole and not (lost or stale or leaked) if len(campaign.strikes) >= FAULTS else None,
        ),
        *(_upgrade(campaign.upgrade) if campaign.upgrade else ()),
    )


def _upgrade(upgrade: Upgrade) -> tuple[Goal, Goal]:
    limit_ms = UPGRADE_MS * max(1.0, upgrade.objects / 10_000)
    worst = max(one.resync_ms for one in upgrade.upgraded)
    away = max(one.away_ms for one in upgrade.upgraded)
    median = percentile([one.resync_ms for one in upgrade.rebuilt], 0.5)
    return (
        Goal(
            name=f"agent upgraded, resync of {upgrade.objects:,} objects",
            goal=f"at most {limit_ms / 1000:g} s, no packet lost",
            measured=f"worst of {len(upgrade.upgraded)}: {worst / 1000:.2f} s ({away / 1000:.2f} s since the old one "
            f"was told to stop), {upgrade.pings_lost} of {upgrade.pings} pings lost",
            reached=worst <= limit_ms and not upgrade.pings_lost,
        ),
        Goal(
            name="the same, its journal lost",
            goal="for information",
            measured=f"median of {len(upgrade.rebuilt)}: {median / 1000:.2f} s",
            reached=None,
        ),
    )


def _around(campaign: Campaign, kind: str, name: str, limit_s: float) -> list[Goal]:
    taken = [strike.around_ms for strike in campaign.strikes if strike.kind == kind and strike.around_ms is not None]
    if not taken:
        return []
    return [
        Goal(
            name=name,
            goal=f"at most {limit_s:g} s, detection included",
            measured=f"{percentile(taken, 0.5) / 1000:.2f} s, worst of {len(taken)}: {max(taken) / 1000:.2f} s",
            reached=max(taken) <= limit_s * 1000,
        )
    ]


def _noticed(campaign: Campaign) -> list[Goal]:
    """Hosts probe each other in a lab for faults."""
    found = []
    for kind in sorted({strike.kind for strike in campaign.strikes if strike.noticed_ms is not None}):
        taken = [one.noticed_ms for one in campaign.strikes if one.kind == kind and one.noticed_ms is not None]
        found.append(
            Goal(
                name=f"{kind}, until it is noticed (hosts probe each other)",
                goal=f"at most {NOTICE_S:g} s",
                measured=f"{percentile(taken, 0.5) / 1000:.2f} s, worst of {len(taken)}: {max(taken) / 1000:.2f} s",
                reached=max(taken) <= NOTICE_S * 1000,
            )
        )
    return found


def _of_host(provisioned: Provisioned, host: HostFigures) -> list[Goal]:
    largest = max(host.scales, key=lambda scale: scale.ports)
    rate = largest.ports * 60_000 / largest.batch_ms
    predicted_ms = provisioned.ports * largest.batch_ms / largest.ports
    ratio = provisioned.active_ms / predicted_ms
    share = host.wiring_ms / host.total_ms if host.total_ms else 0.0
    return [
        Goal(
            name=f"{provisioned.ports:,} ports, POST to all ACTIVE",
            goal=f"at most {OVER_HOST}x what one host needs for as many",
            measured=f"{provisioned.active_ms / 1000:.2f} s, {ratio:.2f}x of {predicted_ms / 1000:.2f} s",
            reached=ratio <= OVER_HOST,
        ),
        Goal(
            name=f"one host, {largest.ports:,} container ports",
            goal=f"at least {HOST_RATE:,} ports a minute, namespaces on demand",
            measured=f"{rate:,.0f} a minute; {share:.0%} of it in the kernel's namespaces and interfaces",
            reached=rate >= HOST_RATE,
        ),
        never_slower("parallel never slower than serial, on one host", host.scales),
        Goal(
            name=f"memory of an agent with {host.ports:,} ports",
            goal=f"at most {AGENT_MIB} MiB private",
            measured=f"{host.private_mib:.1f} MiB private, {host.rss_mib:.1f} MiB resident",
            reached=host.private_mib <= AGENT_MIB,
        ),
    ]
