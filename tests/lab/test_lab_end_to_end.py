"""The lab as a whole, small: with real packets, with the software switch, stopped, and killed."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from alcor.dataplane.ebpf import program
from alcor.lab import failover, report
from alcor.lab.live import choose_driver, why_not_ebpf
from alcor.lab.results import LabError, LabOptions
from alcor.lab.run import run
from alcor.lab.rundir import RunDirectory, cleanup, mounts_below

pytestmark = pytest.mark.alone


def console() -> Console:
    """Where nobody looks."""
    return Console(file=io.StringIO(), width=200)


@pytest.mark.privileged
async def test_a_small_lab_with_real_packets(
    run_dir: Path, tmp_path: Path, needs_root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 hosts, 12 ports, every proof and every measurement, a report, and nothing left behind."""
    monkeypatch.setattr(failover, "ROUNDS", 2)  # one member that ends, one that falls silent
    shown = console()
    result = await run(
        LabOptions(
            hosts=3,
            ports=12,
            driver="ebpf",
            run_dir=run_dir,
            report=tmp_path / "report",
            samples=5,
            scales=(1, 4),
            host_scales=(4,),
        ),
        shown,
    )
    assert result.problems == ()
    assert [proof for proof in result.proofs if not proof.passed] == []
    assert len(result.proofs) == 95
    assert result.passed
    assert isinstance(shown.file, io.StringIO)
    assert shown.file.getvalue().splitlines()[-1] == "12/12 ports ACTIVE, all proofs passed"
    assert len(result.singles_ms) == 5
    assert [scale.ports for scale in result.scales] == [1, 4]
    assert result.host.ports == 4
    assert report.read(tmp_path / "report" / report.JSON_NAME) == result


async def test_a_small_lab_with_the_software_switch(run_dir: Path) -> None:
    """The same scenario where there is neither root nor BPF: processes, REST and gRPC are real, packets are not."""
    result = await run(
        LabOptions(hosts=3, ports=9, driver="fake", run_dir=run_dir, samples=0, scales=(), host_scales=()), console()
    )
    assert result.problems == ()
    assert [proof for proof in result.proofs if not proof.passed] == []
    assert result.passed
    assert result.driver == "fake"
    assert "software switch" in result.driver_note


async def test_ctrl_c_cleans_up(run_dir: Path) -> None:
    """A lab that is cancelled on its way ends its processes, removes its files and says it was cancelled."""
    task = asyncio.create_task(run(LabOptions(hosts=3, ports=9, driver="fake", run_dir=run_dir), console()))
    while not any(lab.processes() for lab in _labs(run_dir)):
        await asyncio.sleep(0.01)
    (lab,) = _labs(run_dir)
    started = lab.processes()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [process for process in started if process.alive] == []
    assert list(run_dir.iterdir()) == []


def test_a_killed_lab_is_found_and_removed_by_the_next(run_dir: Path) -> None:
    """SIGKILL to the lab itself: its processes end by themselves, the next run removes the rest."""
    driver = "fake" if why_not_ebpf() else "ebpf"
    code = (
        "import threading, sys\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from alcor.lab.live import LiveLab\n"
        "from alcor.lab.results import LabOptions\n"
        "from alcor.lab.stages import Stages\n"
        f"options = LabOptions(hosts=2, ports=2, driver={driver!r}, run_dir=Path({str(run_dir)!r}))\n"
        f"with LiveLab(options, {driver!r}, Stages(Console(quiet=True), threading.Event())):\n"
        "    print('up', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == "up\n"
        (left,) = _labs(run_dir)
        processes = left.processes()
        assert all(process.alive for process in processes)
        lab.send_signal(signal.SIGKILL)
        lab.wait()
    assert len(processes) == 4  # fork server, server, two agents
    assert bool(mounts_below(run_dir)) == (driver == "ebpf")
    assert cleanup(run_dir) == [left.id]
    assert [process for process in processes if process.alive] == []


async def test_a_driver_that_cannot_be_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for and cannot run is an error that says why; `auto` says why it takes the other."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="cannot run the ebpf driver: it takes root"):
        await run(LabOptions(driver="ebpf", run_dir=run_dir), console())
    driver, note = choose_driver("auto")
    assert driver == "fake"
    assert "it takes root" in note
    with pytest.raises(LabError, match="known are: auto, ebpf, fake"):
        choose_driver("ovs")


@pytest.mark.privileged
def test_a_machine_without_bpf_is_noticed(monkeypatch: pytest.MonkeyPatch, needs_root: None) -> None:
    """Root alone does not do."""
    monkeypatch.setattr(program, "probe", lambda: "no BPF here")
    assert why_not_ebpf() == "no BPF here"


def _labs(run_dir: Path) -> list[RunDirectory]:
    return [RunDirectory(path) for path in run_dir.iterdir()] if run_dir.is_dir() else []


def test_threads_of_a_lab_end_with_it() -> None:
    """No thread of an earlier test's lab lives on."""
    assert [one.name for one in threading.enumerate() if one.name in ("ping", "echo", "send")] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_the_command_stops_in_order(run_dir: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end `alcor lab` with its exit code, no traceback, and nothing left."""
    program = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        # A shell's background job is born with SIGINT ignored, and the suite may be one.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from alcor.lab.results import LabOptions\n"
        "from alcor.roles.lab import run\n"
        f"sys.exit(run(LabOptions(hosts=5, ports=50, driver='fake', run_dir=Path({str(run_dir)!r}))))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as lab:
        while not any(run.processes() for run in _labs(run_dir)):
            assert lab.poll() is None
        lab.send_signal(number)
        text, _ = lab.communicate(timeout=60)
    assert lab.returncode == code
    assert "cleaned up" in text
    assert "Traceback" not in text
    assert list(run_dir.iterdir()) == []
