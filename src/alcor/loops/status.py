"""The status loop: what hosts say about ports becomes commands, and so port status. Wired by roles, fed by publish.

Reports gather while the command before them is being committed, so a thousand hosts' acks cost a few commits. The
newest report of each port counts; a full command queue is waited for. What is lost when the process ends is asked for
again: a port without an answer is sent anew at its host's next Hello.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from alcor.kit.backoff import Backoff
from alcor.model.addresses import Ip
from alcor.model.ids import Id
from alcor.services.balancing_commands import MemberReport, RecordMemberReports
from alcor.services.commands import ClaimReport, Control, PortReport, RecordClaims, RecordPortReports
from alcor.services.errors import ControlPlaneBusy

_log = logging.getLogger(__name__)

MAX_BATCH_REPORTS = 4096
"""In one command."""
MAX_WAITING_CLAIMS = 65_536
"""Beyond it the oldest is forgotten: its workload announces the address again, or somebody else has it."""
BACKOFF = Backoff(first_s=0.02, cap_s=1.0)


class StatusLoop:
    """See the module. `run` it in a task group; `add` is called on the same event loop."""

    def __init__(self, control: Control, roll: Callable[[], float]) -> None:
        """`roll` answers a random number in [0, 1), for jitter."""
        self._control = control
        self._roll = roll
        self._waiting: dict[tuple[Id, str], PortReport] = {}
        """(port, host) -> the newest word. Bounded by the number of ports."""
        self._members: dict[Id, MemberReport] = {}
        """Member -> the newest word. Bounded by the number of members."""
        self._claims: dict[tuple[Id, Ip], ClaimReport] = {}
        """(VPC, address) -> the newest word, the oldest first."""
        self._wake = asyncio.Event()

    def add_members(self, reports: Iterable[MemberReport]) -> None:
        """Takes reports about pools' members in; quick."""
        self._members.update((report.id, report) for report in reports)
        if self._members:
            self._wake.set()

    def add_claims(self, reports: Iterable[ClaimReport]) -> None:
        """Takes in what hosts saw announced; quick."""
        for report in reports:
            key = (report.vpc, report.claim.ip)
            self._claims.pop(key, None)
            self._claims[key] = report
        while len(self._claims) > MAX_WAITING_CLAIMS:
            del self._claims[next(iter(self._claims))]
        if self._claims:
            self._wake.set()

    def add(self, reports: Iterable[PortReport]) -> None:
        """Takes reports in; quick."""
        for report in reports:
            key = (report.id, report.host)
            self._waiting.pop(key, None)
            self._waiting[key] = report
        if self._waiting:
            self._wake.set()

    async def run(self) -> None:
        """Submits until cancelled. Raises what ends the control plane (ControlPlaneStopped)."""
        failures = 0
        while True:
            await self._wake.wait()
            members, self._members = self._members, {}
            claims, self._claims = self._claims, {}
            batch = {key: self._waiting[key] for key, _ in zip(self._waiting, range(MAX_BATCH_REPORTS), strict=False)}
            for key in batch:
                del self._waiting[key]
            try:
                if members:
                    await self._control.submit(RecordMemberReports(reports=tuple(members.values())))
                if claims:
                    await self._control.submit(RecordClaims(reports=tuple(claims.values())))
                if batch:
                    await self._control.submit(RecordPortReports(reports=tuple(batch.values())))
                failures = 0
            except ControlPlaneBusy as busy:
                if not failures:
                    _log.warning("port reports wait: %s", busy)
                self._waiting = batch | self._waiting  # what came since is newer
                self._members = members | self._members
                self._claims = claims | self._claims
                await asyncio.sleep(BACKOFF.delay_s(failures, self._roll()))
                failures += 1
            if not self._waiting and not self._members and not self._claims:
                self._wake.clear()
