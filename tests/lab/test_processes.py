"""The lab's processes: configuration, the fork server, and what happens when one of them ends."""

import signal
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcor.lab.processes import API_PORT, Processes, listen_for_api, to_toml
from alcor.lab.results import LabError
from alcor.lab.rundir import RunDirectory


@pytest.fixture
def run(run_dir: Path) -> Iterator[RunDirectory]:
    """A run directory without mounts."""
    made = RunDirectory.make(run_dir, mounts=False)
    yield made
    made.remove()


@pytest.fixture
def processes(run: RunDirectory) -> Iterator[Processes]:
    """A fork server."""
    with Processes(run) as made:
        yield made


def test_configuration_is_toml() -> None:
    """Whatever a value holds, TOML reads it back; None is left out."""
    values = {"text": 'a "quoted" \\ \n path', "number": 3, "flag": True, "path": Path("/a b"), "none": None}
    expected = {"text": 'a "quoted" \\ \n path', "number": 3, "flag": True, "path": "/a b"}
    assert tomllib.loads(to_toml(values)) == expected


def test_a_child_runs_the_command_line(processes: Processes) -> None:
    """A forked child is `alcor`, with its output in its log."""
    processes.start_nowait("version", ["--version"], netns_path=None)
    processes.await_end("version", 30, lambda: None)
    assert processes.log_of("version").read_text().startswith("alcor ")


def test_a_fresh_child_runs_the_command_line(processes: Processes) -> None:
    """So is one in an interpreter of its own."""
    processes.start_nowait("version", ["--version"], netns_path=None, fresh=True)
    processes.await_end("version", 30, lambda: None)
    assert processes.log_of("version").read_text().startswith("alcor ")


def test_a_child_that_fails_says_why(processes: Processes) -> None:
    """The error names the process, its code and the end of its log."""
    processes.start_nowait("wrong", ["agent", "--config", "/nowhere.toml"], netns_path=None)
    with pytest.raises(LabError, match=r"wrong failed with code 2\n.*cannot read /nowhere.toml"):
        processes.await_end("wrong", 30, lambda: None)


def test_an_end_that_nobody_asked_for_is_noticed(run: RunDirectory, processes: Processes) -> None:
    """A process that dies by itself fails the next look; one that was killed on purpose does not."""
    one = processes.start("one", ["0"], netns_path=None, module="http.server")
    two = processes.start("two", ["0"], netns_path=None, module="http.server")
    assert [process.pid for process in run.processes()[-2:]] == [one.pid, two.pid]
    processes.kill("one")
    processes.check()
    two.signal(signal.SIGTERM)
    with pytest.raises(LabError, match="two ended by itself with code -15"):
        processes.await_end("never", 30, processes.check)


def test_closing_ends_every_child(run: RunDirectory) -> None:
    """No child outlives the lab, however many there are."""
    with Processes(run) as processes:
        children = [processes.start(f"p{n}", ["0"], netns_path=None, module="http.server") for n in range(3)]
    assert [child.alive for child in children] == [False] * 3


def test_detached_children_live_on(run: RunDirectory) -> None:
    """A kept lab's processes go on until they are cleaned up."""
    with Processes(run) as processes:
        child = processes.start("kept", ["0"], netns_path=None, module="http.server")
        processes.detach()
    assert child.alive
    run.remove()
    assert not child.alive


def test_sockets_are_handed_over(processes: Processes) -> None:
    """A listening socket arrives as descriptor 3, announced as systemd does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        program = (
            "import os, socket; assert os.environ['LISTEN_PID'] == str(os.getpid());"
            "assert os.environ['LISTEN_FDS'] == '1';"
            "socket.socket(fileno=3).accept()[0].sendall(b'here')"
        )
        processes.start("taker", ["-n1", "-r1", program], netns_path=None, fds=[listener.fileno()], module="timeit")
        with socket.create_connection(listener.getsockname(), timeout=30) as client:
            assert client.recv(4) == b"here"


def test_the_api_takes_its_usual_port_or_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken already, the usual port gives way to another; a port that was asked for does not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("alcor.lab.processes.API_PORT", port)
        with listen_for_api(None) as listener:
            assert listener.getsockname()[1] not in (0, port)
        with pytest.raises(LabError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen_for_api(port)
    assert API_PORT == 9696
