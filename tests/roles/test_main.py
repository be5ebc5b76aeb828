"""roles.main: how a command line ends, and what it imports."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from alcor import __version__
from alcor.roles import bench, sim
from alcor.roles.main import app, main

NOT_AN_AGENTS = {"alcor.api", "alcor.bench", "alcor.lab", "alcor.services", "alcor.store"}
NOT_AN_AGENTS |= {"cryptography.x509", "jinja2", "matplotlib", "rich", "sqlite3", "starlette", "uvicorn"}
"""What the other roles are made of."""


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit code of that command line."""
    monkeypatch.setattr(sys, "argv", ["alcor", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("arguments", [[], ["bench"], ["nobody"], ["agent", "--nothing"], ["sim", "--hosts", "1"]])
def test_a_command_line_that_says_nothing_runnable_ends_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How to say it right goes to standard error."""
    assert ended(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Usage: ")


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 as well, and no usage: the command line was right."""
    assert ended(monkeypatch, "agent", "--config", "/nowhere") == 2
    assert capsys.readouterr().err == "alcor: cannot read /nowhere: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["agent", "--log-level", "LOUD"], "$.log_level` (flags)"),
        (["pki", "/nowhere", "host-a", "--address", "host-a.example"], "--address: 'host-a.example'"),
        (["pki", "/nowhere", "host-a", "--role", "king"], "role 'king'"),
    ],
)
def test_a_wrong_value_is_named(
    arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is made."""
    assert ended(monkeypatch, *arguments) == 2
    assert named in capsys.readouterr().err
    assert not Path("/nowhere").exists()


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """As shells have it for Ctrl-C."""

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sim, "run", interrupted)
    assert ended(monkeypatch, "sim") == 130


def test_the_version_is_one_line() -> None:
    """And nothing is run, whatever comes after."""
    result = CliRunner().invoke(app, ["--version", "agent"])
    assert (result.exit_code, result.output) == (0, f"alcor {__version__}\n")


def test_all_is_every_bench_in_the_order_of_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each with its defaults, and the same directory for its JSON."""
    measured: list[tuple[str, Path | None]] = []

    def measure(name: str, out: Path | None, _run: Callable[[Callable[[str], None]], bench.Bench]) -> None:
        measured.append((name, out))

    monkeypatch.setattr(bench, "_measure", measure)
    assert CliRunner().invoke(app, ["bench", "all", "--out", str(tmp_path)]).exit_code == 0
    assert measured == [(name, tmp_path) for name in bench.app.commands if name != "all"]


@pytest.mark.parametrize("driver", ["ebpf", "fake"])
def test_an_agent_is_made_of_what_it_needs(driver: str) -> None:
    """Half a million hosts start it, each with a standby: nothing of the other roles is imported."""
    script = "import sys\nfrom alcor.roles.main import main\ntry: main()\nexcept SystemExit: print(*sys.modules)\n"
    arguments = ["agent", "--driver", driver, "--underlay-ip", "127.0.0.1", "--config", "/dev/null"]
    environment = os.environ | {"ALCOR_AGENT_STATE_DIR": "/dev/null/no", "ALCOR_AGENT_TLS_DIR": "/dev/null/no"}
    found = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    modules = set(found.stdout.split())
    assert "alcor.roles.agent" in modules
    assert ("alcor.dataplane.ebpf.driver" in modules) is (driver == "ebpf")
    assert [] == sorted(NOT_AN_AGENTS & modules)
