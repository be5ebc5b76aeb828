"""The units of deploy/systemd: what they start is what the command line takes, and they may do what agents do."""

import shlex
from configparser import RawConfigParser
from pathlib import Path

import pytest
from tests.test_tidy import ROOT

from alcor.roles.config import AgentRoleConfig
from alcor.roles.main import app

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


class _Unit(RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        """Names as they are written."""
        return optionstr


def read(unit: Path) -> RawConfigParser:
    parser = _Unit(strict=True, delimiters=("=",), comment_prefixes=("#",))
    parser.read_string(unit.read_text())
    return parser


def test_there_are_the_agents_and_the_standbys() -> None:
    """The agent's unit wants the standby's, by its name."""
    assert [unit.name for unit in UNITS] == ["alcor-agent-standby.service", "alcor-agent.service"]
    assert UNITS[0].name in read(UNITS[1])["Unit"]["Wants"].split()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_command_line_takes_what_the_unit_starts(unit: Path) -> None:
    """Options that were renamed fail here, not on a host."""
    what, alcor, role, *options = shlex.split(read(unit)["Service"]["ExecStart"])
    assert (what, alcor) == ("/usr/bin/env", "alcor")
    context = app.commands[role].make_context(role, options)
    assert context.params["standby"] is ("standby" in unit.stem)
    assert context.params["config"] == Path("/etc/alcor/agent.toml")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_keeps_what_the_agent_relies_on(unit: Path) -> None:
    """It says when it is ready; its namespaces outlive it; its state is where the configuration has it."""
    service = read(unit)["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "process"
    assert Path("/var/lib", service["StateDirectory"]) in AgentRoleConfig().state_dir.parents
    capabilities = set(service["CapabilityBoundingSet"].split())
    assert {"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"} <= capabilities
    assert ("CAP_KILL" in capabilities) is ("standby" in unit.stem)
