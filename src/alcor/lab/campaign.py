"""A campaign of faults on a lab that is up: one after the other, under churn, each followed by an audit. Called by run.

strike -> hold (churn and pings go on) -> undo -> probe -> until the audit is clean -> leaks, proofs -> next
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress

from alcor.lab.audit import Auditor, Carried, Findings
from alcor.lab.churn import Churn, Place, body
from alcor.lab.client import ApiError, Client
from alcor.lab.faults import Planned
from alcor.lab.ground import Ground
from alcor.lab.ledger import Ledger
from alcor.lab.pulse import Pulse
from alcor.lab.results import LabError
from alcor.lab.strangers import Meeting, Strangers
from alcor.lab.tally import Strike

ASK_S = 2.0
"""How long the campaign waits for an answer of the API."""
RECOVER_S = 45.0
"""A fault that is not recovered from by then was not."""
POLL_S = 0.02
PROBES = 2
AROUND_S = 10.0
"""A path around a fault that was not found by then was not."""
NOTICE_S = 3.0
"""A host that was not noticed to be unwell by then was not."""


class Campaign:
    """See the module."""

    def __init__(
        self,
        ground: Ground,
        auditor: Auditor,
        ledger: Ledger,
        churn: Churn,
        pulse: Pulse,
        places: Sequence[Place],
        check: Callable[[], None],
        strangers: Strangers | None = None,
    ) -> None:
        """`strangers`: a VPC on demand; without, what becomes of packets to unknown addresses is not looked at."""
        self._ground = ground
        self._auditor = auditor
        self._ledger = ledger
        self._churn = churn
        self._pulse = pulse
        self._places = places
        self._check = check
        self._strangers = strangers
        self._asker = Client(ground.lab.api_port, ASK_S)
        self._names = 0

    def close(self) -> None:
        """Lets go of the connection. Idempotent."""
        self._asker.close()

    def strike(self, number: int, planned: Planned) -> Strike:
        """One fault, from a lab that is whole to a lab that is whole (or is not)."""
        kind, ground = planned.kind, self._ground
        hosts = [ground.machine(name) for name in planned.victims]
        violations: list[str] = []
        ground.restarts.clear()
        meeting = self._strangers.meet() if kind.deaf and self._strangers else None
        started = time.monotonic()
        with ExitStack() as stack:
            self._pulse.start(planned.cuts)
            stack.callback(self._pulse.stop)
            if not kind.quiet:
                self._churn.resume()
            stack.callback(self._churn.halt)
            before = self._auditor.carried() if kind.refuses else []
            struck_at = time.monotonic()
            struck = kind.strike(ground, hosts)
            around_ms = noticed_ms = None
            with ExitStack() as undone:
                undone.callback(struck.undo)
                probes = [] if kind.quiet else self._probe(planned.victims or self._some(1))
                if kind.seen:
                    noticed_ms = self._notice(planned.victims[0], struck_at)
                    violations += [] if noticed_ms is not None else [f"not noticed within {NOTICE_S:g} s"]
                if kind.around:
                    violations += self._around(probes)
                    around_ms = (time.monotonic() - struck_at) * 1000
                self._adopt(probes)
                violations += self._hold(planned, before, meeting)
                violations += [f"it struck nothing: {words}" for words in [struck.idle()] if words]
            ended = time.monotonic()
            self._churn.halt()
            findings = self._recover(planned.victims or self._some(PROBES))
            recovery_ms = (time.monotonic() - ended) * 1000
            sent, lost = self._pulse.stop()
        leaked: tuple[str, ...] = ()
        if findings.clean:
            leaked = self._auditor.leaks()
            violations += self._pulse.whole()
        if meeting:
            violations += meeting.close() if findings.clean else meeting.stop()
        note = ", ".join(filter(None, [struck.note, *(f"{name} restarted" for name in ground.restarts)]))
        return Strike(
            number=number,
            kind=kind.name,
            victims=planned.victims,
            note=note,
            held_s=ended - started,
            recovered=findings.clean,
            recovery_ms=recovery_ms,
            lost=len(findings.lost) + len(findings.missing) + len(findings.unsettled),
            stale=len(findings.stale),
            leaked=len(leaked),
            pings=sent,
            pings_lost=lost,
            violations=(*violations, *findings.words, *leaked),
            around_ms=around_ms,
            noticed_ms=noticed_ms,
        )

    def clear(self, keep: Collection[str]) -> list[str]:
        """Deletes all ports but these, and waits until no host carries more; what is wrong in the end."""
        deadline = time.monotonic() + RECOVER_S
        findings = Findings(unsettled=("the API does not answer",))
        while time.monotonic() < deadline:
            self._check()
            with suppress(LabError):
                for port in sorted(self._auditor.rows().keys() - set(keep)):
                    self._asker.delete("ports", port)
                    self._ledger.deleted(port)
                findings = self._auditor.look()
                if findings.clean:
                    break
            time.sleep(POLL_S)
        return [f"after all ports of the churn were deleted: {word}" for word in findings.words]

    def _some(self, count: int) -> tuple[str, ...]:
        hosts = self._ground.hosts
        return tuple(host.name for host in self._ground.dice.sample(list(hosts), min(count, len(hosts))))

    def _around(self, ports: Sequence[str]) -> list[str]:
        """Waits until these ports are ACTIVE, the fault notwithstanding; what is wrong if they are not."""
        waiting = set(ports)
        deadline = time.monotonic() + AROUND_S
        while waiting and time.monotonic() < deadline:
            self._check()
            with suppress(LabError):
                waiting = {port for port in waiting if self._status(port) != "ACTIVE"}
            time.sleep(POLL_S)
        if not ports:
            return ["the API took no port while it lasted"]
        return [f"port {port}, made while it lasted, was not ACTIVE within {AROUND_S:g} s" for port in sorted(waiting)]

    def _notice(self, host: str, struck_at: float) -> float | None:
        """Milliseconds from then until the API shows that the host's agent is not well, or that none of its peers hears
        of it; None: it does not."""
        while (now := time.monotonic()) < struck_at + NOTICE_S:
            self._check()
            with suppress(LabError):
                for agent in self._asker.get("/v2.0/agents", {"host": host})["agents"]:
                    shown = agent["configurations"]
                    cut_off = shown["peers"]["silent"] and not shown["peers"]["reached"]
                    if not agent["alive"] or shown["state"] != "up" or cut_off:
                        return (now - struck_at) * 1000
            time.sleep(POLL_S)
        return None

    def _status(self, port: str) -> str:
        return str(self._asker.get(f"/v2.0/ports/{port}")["port"]["status"])

    def _probe(self, victims: Sequence[str]) -> list[str]:
        """Asks for a port on every one of these hosts; their ids when the API took it. No answer: in doubt."""
        names = []
        place = self._places[0]
        for _ in victims:
            self._names += 1
            names.append(f"probe-{self._names}")
        bodies = [body(place, host, name) for host, name in zip(victims, names, strict=True)]
        try:
            rows = self._asker.create_many("ports", bodies)
        except LabError as error:
            if not isinstance(error, ApiError) or error.status >= 500:
                self._ledger.perhaps_created(names)
            return []
        self._ledger.created(rows)
        return [row["id"] for row in rows]

    def _adopt(self, ports: Sequence[str]) -> bool:
        """Hands them to the churn; True: there are any."""
        for port in ports:
            self._churn.adopt(port, self._places[0])
        return bool(ports)

    def _hold(self, planned: Planned, before: Sequence[Carried], meeting: Meeting | None) -> list[str]:
        """Lets the fault last; what was wrong meanwhile. New pings must get through."""
        kind, deadline = planned.kind, time.monotonic() + planned.hold_s
        wrong = [f"while it lasted: {word}" for word in self._pulse.fresh(planned.cuts)]
        wrong += self._pulse.across(planned.severed([host.name for host in self._ground.hosts]))
        wrong += meeting.judge() if meeting else []
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            if kind.refuses:
                wrong += self._lies()
            time.sleep(min(left, 0.1))
        if kind.refuses and self._auditor.carried() != list(before):
            wrong.append("hosts were changed by a server that should have refused")
        return wrong[:5]

    def _lies(self) -> list[str]:
        """What the API says that is not true. An error, or no answer, is the truth."""
        try:
            rows = {row["id"]: row for row in self._asker.pages("ports")}
        except LabError:
            return []
        return [f"served: {word}" for word in self._ledger.judge(rows).words]

    def _manned(self) -> Findings:
        """Every process runs, and every host is served by its agent."""
        away = [f"{host} is not served by its agent" for host in self._ground.displaced()]
        return Findings(unsettled=(*away, *(f"{name} does not run" for name in self._ground.absent())))

    def _recover(self, victims: Sequence[str]) -> Findings:
        """Until a new port on every victim was acknowledged and the audit is clean; or what is wrong in the end."""
        deadline = time.monotonic() + RECOVER_S
        probed = False
        findings = Findings(unsettled=("the API does not answer",))
        while time.monotonic() < deadline:
            self._check()
            self._ground.tend()
            with suppress(LabError):
                probed = probed or self._adopt(self._probe(victims))
                if probed:
                    findings = self._auditor.look()
                    if findings.clean:
                        findings = self._manned()
                    if findings.clean and self._churn.idle:
                        self._churn.forget(set(self._ledger.sure()))
                        return findings
            time.sleep(POLL_S)
        return findings
