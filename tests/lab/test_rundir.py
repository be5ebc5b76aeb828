"""The run directory: what a lab made can be found and removed by another process, and nothing else can."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alcor.lab.rundir import Process, RunDirectory, cleanup, end, kept_labs, mounts_below, start_time, this_process


def sleeper() -> subprocess.Popen[bytes]:
    """A process that does nothing until it is killed."""
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])


def orphaned(parent: Path) -> RunDirectory:
    """A run directory whose owner is dead."""
    run = RunDirectory.make(parent, mounts=False)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    (run.path / "owner").write_text(f"{dead.pid} 1\n")
    return run


def test_a_process_is_told_by_pid_and_start_time() -> None:
    """The same pid with another start time is somebody else, and a dead process is nobody."""
    me = this_process()
    assert me.alive
    assert not Process(me.pid, me.started + 1).alive
    with sleeper() as child:
        mine = Process(child.pid, start_time(child.pid) or 0)
        before = mine.alive
        end([mine])
        assert (True, False) == (before, mine.alive)
        assert child.wait() == -signal.SIGKILL


def test_cleanup_ends_only_the_recorded_processes(run_dir: Path) -> None:
    """A recorded process ends; one whose pid was recorded with another start time does not."""
    run = orphaned(run_dir)
    with sleeper() as recorded, sleeper() as other:
        run.record(Process(recorded.pid, start_time(recorded.pid) or 0, "recorded"))
        run.record(Process(other.pid, (start_time(other.pid) or 0) + 7, "reused pid"))
        assert cleanup(run_dir) == [run.id]
        assert recorded.wait() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
    assert not run.path.exists()


def test_cleanup_is_idempotent(run_dir: Path) -> None:
    """A second cleanup, and one where nothing ever was, find nothing to do."""
    run = orphaned(run_dir)
    assert cleanup(run_dir) == [run.id]
    assert cleanup(run_dir) == []
    assert cleanup(run_dir / "nothing") == []


def test_a_running_lab_is_left_alone(run_dir: Path) -> None:
    """A lab whose owner lives is not cleaned up by another one."""
    run = RunDirectory.make(run_dir, mounts=False)
    assert cleanup(run_dir, kept=True) == []
    assert run.path.exists()
    run.remove()


def test_a_kept_lab_goes_only_on_request(run_dir: Path) -> None:
    """`keep` protects a lab from later runs, not from `cleanup(kept=True)`."""
    run = orphaned(run_dir)
    run.keep()
    assert cleanup(run_dir) == []
    assert kept_labs(run_dir) == [run.id]
    assert cleanup(run_dir, kept=True) == [run.id]


def test_a_torn_record_is_passed_over(run_dir: Path) -> None:
    """A crash in the middle of writing a record does not keep the rest from being cleaned up."""
    run = orphaned(run_dir)
    with (run.path / "processes").open("a") as file:
        file.write("not a number\n12\n")
    assert run.processes() == []
    assert cleanup(run_dir) == [run.id]


@pytest.mark.privileged
def test_mounts_go_with_the_directory(run_dir: Path, needs_root: None) -> None:
    """The tmpfs and the bpffs are mounted below the directory, privately, and go with it."""
    run = RunDirectory.make(run_dir, mounts=True)
    assert sorted(mounts_below(run_dir)) == sorted([str(run.names.resolve()), str(run.pins.resolve())])
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert not any("shared:" in line for line in lines if f" {run.names.resolve()} " in line)
    run.remove()
    run.remove()
    assert mounts_below(run_dir) == []


@pytest.mark.privileged
def test_names_with_spaces_are_found(tmp_path: Path, needs_root: None) -> None:
    """Mount points with characters that the kernel escapes are found all the same."""
    parent = tmp_path / "a lab"
    run = RunDirectory.make(parent, mounts=True)
    assert len(mounts_below(parent)) == 2
    run.remove()
    assert list(parent.iterdir()) == []
