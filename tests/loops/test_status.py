"""The status loop: hosts' words become commands, few of them, and none is lost to a busy control plane."""

import asyncio
from contextlib import suppress

import pytest

from alcor.loops import status as status_module
from alcor.loops.status import StatusLoop
from alcor.model.ids import Id
from alcor.services.commands import Command, PortReport, RecordPortReports
from alcor.services.errors import ControlPlaneBusy, ControlPlaneStopped


class Control:
    """A control plane that answers when told to, and may be busy or stopped at first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[list[tuple[int, int]]] = []
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def submit(self, command: Command) -> object:
        assert isinstance(command, RecordPortReports)
        self.asked.set()
        await self.go.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append([(report.id[0], report.revision) for report in command.reports])
        return None

    async def until(self, batches: int) -> None:
        async with asyncio.timeout(20):
            while len(self.taken) < batches:
                await asyncio.sleep(0)


def report(number: int, revision: int, host: str = "a", error: str = "") -> PortReport:
    return PortReport(Id(bytes((number,)) * 16), host, revision, error)


async def run(control: Control, loop: StatusLoop) -> "asyncio.Task[None]":
    return asyncio.create_task(loop.run())


async def stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_what_gathers_during_a_commit_leaves_as_one() -> None:
    """The newest word of each port by each host; in the order they came."""
    control = Control()
    loop = StatusLoop(control, lambda: 0.0)
    task = await run(control, loop)
    loop.add([report(1, 1)])
    await control.asked.wait()
    loop.add([report(2, 1), report(3, 1)])
    loop.add([report(2, 2), report(2, 1, host="b")])
    control.go.set()
    await control.until(2)
    await stop(task)
    assert control.taken == [[(1, 1)], [(3, 1), (2, 2), (2, 1)]]


async def test_a_busy_control_plane_is_waited_for() -> None:
    """Nothing is lost, and what came since is not overwritten by what is older."""
    control = Control(ControlPlaneBusy("busy"), ControlPlaneBusy("busy"))
    loop = StatusLoop(control, lambda: 0.0)
    task = await run(control, loop)
    loop.add([report(1, 1), report(2, 1)])
    await control.asked.wait()
    loop.add([report(1, 2)])
    control.go.set()
    await control.until(1)
    await stop(task)
    assert sorted(control.taken[0]) == [(1, 2), (2, 1)]


async def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand hosts' words are several commands."""
    monkeypatch.setattr(status_module, "MAX_BATCH_REPORTS", 2)
    control = Control()
    control.go.set()
    loop = StatusLoop(control, lambda: 0.0)
    loop.add([report(number, 1) for number in range(5)])
    task = await run(control, loop)
    await control.until(3)
    await stop(task)
    assert [len(batch) for batch in control.taken] == [2, 2, 1]


async def test_a_stopped_control_plane_ends_the_loop() -> None:
    """There is nobody left to tell."""
    control = Control(ControlPlaneStopped("stopped"))
    control.go.set()
    loop = StatusLoop(control, lambda: 0.0)
    loop.add([report(1, 1)])
    with pytest.raises(ControlPlaneStopped):
        await loop.run()
