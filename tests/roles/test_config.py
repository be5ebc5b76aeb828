"""roles.config: where settings come from, and what is said when they are wrong."""

from pathlib import Path

import pytest

from alcor.roles.config import (
    AgentRoleConfig,
    ConfigError,
    ServerConfig,
    is_loopback,
    load,
    parse_listen,
    speaker_table,
)


def test_later_sources_win(tmp_path: Path) -> None:
    """A flag beats the environment, which beats the file, which beats the default."""
    file = tmp_path / "server.toml"
    file.write_text('listen = "127.0.0.1:1"\ndatabase = "/a"\nmax_mtu = 1500\n')
    environment = {"ALCOR_SERVER_LISTEN": "127.0.0.1:2", "ALCOR_SERVER_MAX_MTU": "9000"}
    config = load(ServerConfig, file, environment, {"listen": "127.0.0.1:3"}, prefix="ALCOR_SERVER_")
    assert ServerConfig(listen="127.0.0.1:3", database=Path("/a"), max_mtu=9000) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen = 1", "unknown setting 'lisen'"),
        ("max_mtu = 'many'", "max_mtu"),
        ("max_mtu = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    """An unknown key, a wrong type and a broken file each say what and where."""
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load(ServerConfig, file, {}, {}, prefix="ALCOR_SERVER_")
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A configuration file that is not there is an error, not silence."""
    with pytest.raises(ConfigError, match="cannot read"):
        load(AgentRoleConfig, tmp_path / "none.toml", {}, {}, prefix="ALCOR_AGENT_")


def test_listen_is_parsed() -> None:
    """IPv4, names and bracketed IPv6 are understood; anything else is refused."""
    assert ("127.0.0.1", 9696) == parse_listen("127.0.0.1:9696")
    assert ("::1", 9696) == parse_listen("[::1]:9696")
    for wrong in ("9696", "host:", "host:x", "host:70000"):
        with pytest.raises(ConfigError):
            parse_listen(wrong)


def test_loopback_is_known() -> None:
    """Only what no other machine can reach counts as loopback."""
    assert [True, True, True, False, False] == [
        is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1")
    ]


def test_a_speakers_table_is_nobody_elses() -> None:
    """Off by default; not the kernel's own tables, and not on a host that has no external addresses."""
    assert 0 == speaker_table(AgentRoleConfig())
    for number in (1, 179, 252, 256, (1 << 32) - 1):
        assert number == speaker_table(AgentRoleConfig(bgp_table=number, external_device="ext0"))
    for number in (-1, 253, 254, 255, 1 << 32):
        with pytest.raises(ConfigError, match=rf"bgp_table = {number} is no table for a speaker"):
            speaker_table(AgentRoleConfig(bgp_table=number, external_device="ext0"))
    with pytest.raises(ConfigError, match="external_device"):
        speaker_table(AgentRoleConfig(bgp_table=179))
