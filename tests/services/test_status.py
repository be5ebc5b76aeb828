"""Port status: only the port's host, about the present revision, changes it."""

from tests.services.world import NOBODY, World

from alcor.model.nouns import Port, PortStatus
from alcor.services.commands import PortReport, RecordPortReports, UpdatePort
from alcor.services.status import MAX_REASON


def _bound(**fields: object) -> tuple[World, Port]:
    world = World()
    world.node("h1", "192.0.2.1")
    world.node("h2", "192.0.2.2")
    return world, world.port(world.network(), host="h1", **fields)


def test_a_report_makes_a_port_active() -> None:
    """ACTIVE on the host's word; the desired revision stays, the realised one is named."""
    world, port = _bound()
    after = world.report(port)
    assert (PortStatus.ACTIVE, port.revision, port.revision) == (after.status, after.revision, after.realised_revision)


def test_a_port_that_is_administratively_down_is_down() -> None:
    """Realised, and down."""
    world, port = _bound(admin_state_up=False)
    assert PortStatus.BUILD is port.status
    assert PortStatus.DOWN is world.report(port).status


def test_a_refusal_is_on_the_port() -> None:
    """ERROR with the reason, cut to a bound; the next report without error clears it."""
    world, port = _bound()
    after = world.report(port, error="no such namespace")
    assert (PortStatus.ERROR, "no such namespace", 0) == (after.status, after.status_reason, after.realised_revision)
    assert MAX_REASON == len(world.report(port, error="x" * 5000).status_reason)
    after = world.report(port)
    assert (PortStatus.ACTIVE, "") == (after.status, after.status_reason)


def test_an_older_report_changes_nothing() -> None:
    """What the host did before the last change does not count, nor does what it cannot have done."""
    world, port = _bound()
    changed = world.do(UpdatePort(id=port.id, admin_state_up=False))
    for revision in (port.revision, 0, changed.revision + 1):
        assert changed == world.report(changed, revision=revision)


def test_a_foreign_report_changes_nothing() -> None:
    """Another host, an unbound port, an unknown port."""
    world, port = _bound()
    assert port == world.report(port, host="h2")
    unbound = world.port(world.network())
    assert unbound == world.report(unbound, host="h1")
    assert unbound == world.report(unbound, host="")
    world.do(RecordPortReports(reports=(PortReport(NOBODY, "h1", 1, ""),)))


def test_a_name_change_keeps_a_port_active_until_the_host_answers() -> None:
    """The new revision is realised at the next report; meanwhile the port works, and says so."""
    world, port = _bound()
    port = world.report(port)
    renamed = world.do(UpdatePort(id=port.id, name="x"))
    assert (PortStatus.ACTIVE, port.revision) == (renamed.status, renamed.realised_revision)
    after = world.report(renamed)
    assert (PortStatus.ACTIVE, renamed.revision) == (after.status, after.realised_revision)


def test_what_is_known_is_not_written_again() -> None:
    """A repeated report is no commit; of several about one port the last counts."""
    world, port = _bound()
    port = world.report(port)
    revision = world.revision
    assert port == world.report(port)
    assert revision == world.revision
    reports = (PortReport(port.id, "h1", port.revision, "bad"), PortReport(port.id, "h1", port.revision, ""))
    world.do(RecordPortReports(reports=reports))
    assert port == world.stored(port)
