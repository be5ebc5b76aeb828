"""Port status: what a host's word makes of it. Pure.

Called by services.dispatch. A report counts only if it comes from the port's host and answers the port's present
revision; status never changes a revision.
"""

from __future__ import annotations

from collections.abc import Mapping

from alcor.model.ids import Id
from alcor.model.nouns import Port, PortStatus
from alcor.services.commands import PortReport, RecordPortReports
from alcor.services.indexes import Outcome
from alcor.store.base import Changes, StatusChange

MAX_REASON = 1024
"""Characters of `status_reason` that are kept."""


def record_port_reports(ports: Mapping[Id, Port], command: RecordPortReports, now: int) -> Outcome:
    """Applies the reports; the last of several about one port counts. What changes nothing is not written."""
    changed: dict[Id, StatusChange] = {}
    for report in command.reports:
        port = ports.get(report.id)
        if port is None or not port.host or report.host != port.host or report.revision != port.revision:
            continue
        changed[report.id] = status_of(port, report, now)
    statuses = [
        change
        for identifier, change in changed.items()
        if (change.status, change.reason, change.realised_revision)
        != (ports[identifier].status, ports[identifier].status_reason, ports[identifier].realised_revision)
    ]
    return Outcome(None, Changes(statuses=statuses))


def status_of(port: Port, report: PortReport, now: int) -> StatusChange:
    """The status that a report of the present revision gives a port, now. A refusal keeps what was last realised."""
    if report.error:
        reason = report.error[:MAX_REASON]
        return StatusChange(
            port.id, PortStatus.ERROR, reason, port.realised_revision, report.path, report.attempts, port.realised_at
        )
    status = PortStatus.ACTIVE if port.admin_state_up else PortStatus.DOWN
    return StatusChange(port.id, status, "", report.revision, report.path, report.attempts, now)
