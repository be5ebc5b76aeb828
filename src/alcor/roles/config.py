"""Configuration of a role: defaults, then a TOML file, then ALCOR_* environment variables, then flags. Called by roles.

One frozen record per role; an unknown or ill-typed key anywhere is an error that names the key and where it came from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from alcor.model.addresses import ip_version, parse_ip

DEFAULT_STATE = Path("/var/lib/alcor")
LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})
LogLevel = Annotated[str, msgspec.Meta(pattern="^(?i:debug|info|warning|error)$")]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`alcor server`: all roles of the control plane in one process, with an embedded store."""

    listen: str = "127.0.0.1:9696"
    """Address and port of the REST API. Other than loopback needs `insecure_listen`, until authentication is set up."""
    insecure_listen: bool = False
    """Allows `listen` beyond loopback although requests are not authenticated."""
    database: Path = DEFAULT_STATE / "alcor.db"
    tls_dir: Path = DEFAULT_STATE / "tls"
    """Holds ca.pem, controller.pem, controller-key.pem, bus.creds and bus-trust.json; made by `alcor pki`."""
    partition: int = 1
    """Number of the partition that this control plane owns."""
    bus: str = "embedded"
    """The message bus: `nats://` or `tls://` addresses of a cluster, comma-separated; `embedded`: a nats-server of its
    own, for small regions; `none`: hosts are reached directly or through each other only."""
    bus_listen: str = "127.0.0.1:4222"
    """Where an embedded bus listens. Agents on other machines need an address that they reach."""
    bus_credentials: Path | None = None
    """A .creds file; by default bus.creds of `tls_dir`, if it is there. With `tls://` its certificate is shown, too."""
    fast_channels: int = 4096
    """Hosts that are kept on the fast path at a time, the busiest first, while the others can be on the bus."""
    probe_s: float = 0.0
    """How often hosts probe each other, each three others (UDP, to the port of their agents): 0.02 to 60 s. A host that
    no peer reaches any more is found after three of these. 0: they do not; heartbeats alone show who is silent."""
    on_demand_above: int = 10_000
    """A network with more ports is not preloaded: its hosts ask where an address is when a packet for it comes. With a
    fifth fewer ports it is preloaded again."""
    max_mtu: int = 1450
    """Largest MTU a network may ask for, and what it gets if it does not: the underlay's less 50 bytes."""
    log_level: LogLevel = "INFO"


class AgentRoleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`alcor agent`: one host."""

    host: str = ""
    """The node's name; empty: the machine's host name."""
    listen: str = ""
    """Address and port of the gRPC server; empty: port 50001 of `underlay_ip`."""
    state_dir: Path = DEFAULT_STATE / "agent"
    tls_dir: Path = DEFAULT_STATE / "tls"
    """Holds ca.pem, agent.pem, agent-key.pem and bus.creds."""
    driver: str = "ebpf"
    """`ebpf`, or `fake`: the software model, for machines without BPF."""
    underlay_device: str = "eth0"
    underlay_ip: str = ""
    """The tunnel end's address, as registered in the node's `local_ip`."""
    external_device: str = ""
    """The device behind which external networks are: floating IPs of ports on this host answer there. Its own address
    is nobody's but the host's. Empty: there is none, and ports with floating IPs are refused."""
    bgp_table: int = 0
    """The kernel's routing table in which a BGP speaker of this host finds the external addresses that the host answers
    for; it must be the agent's and the speaker's alone. 0: nothing is announced by BGP."""
    vxlan_port: int = 4789
    pin_dir: Path = Path("/sys/fs/bpf/alcor")
    netns_dir: Path = Path("/run/netns")
    pool_size: int = 2
    """How many ready namespaces to keep for containers to come: a single port then waits for none to be made."""
    remote_entries: int = 4_194_304
    """How many endpoints on other hosts the data plane has room for; 16 bytes of kernel memory each, used or not."""
    translation_entries: int = 1_048_576
    """How many translations of security groups between VPCs that routers or peerings join; 16 bytes of kernel memory
    each, used or not."""
    flow_entries: int = 262_144
    """How many connections the data plane follows; beyond, the one used longest ago is forgotten. Some 150 bytes of
    kernel memory each, used or not."""
    control_socket: Path | None = None
    """A Unix socket for local tooling; none by default."""
    bus: str = ""
    """The message bus: `nats://` or `tls://` addresses, comma-separated; empty: none, the controller dials."""
    bus_credentials: Path | None = None
    """A .creds file; by default bus.creds of `tls_dir`, if it is there. With `tls://` its certificate is shown, too."""
    partitions: str = "1"
    """Whose controllers it listens to on the bus: numbers, comma-separated."""
    heartbeat_s: float = 10.0
    """How often controllers are told that this host is there. Three missed in a row: it is not."""
    relays: int = 16
    """For how many other hosts at a time this one carries bytes that a controller cannot bring them; 0: for none."""
    relay_ports: str = "50001"
    """Where agents listen that may be relayed to: numbers, comma-separated."""
    dns_resolvers: str = ""
    """Who is asked for names that are in no VPC: addresses, comma-separated, with a port (`address:port`, IPv6 in
    brackets) or without; empty: nobody, ports are refused."""
    metadata_url: str = ""
    """The region's metadata service (Nova's metadata API): `http://host:port`; empty: there is none."""
    metadata_secret_file: Path | None = None
    """Holds the secret that signs instance ids: Nova's `metadata_proxy_shared_secret`."""
    standby_dead_s: float = 0.5
    """A standby takes over when there has been no agent for so long..."""
    standby_hung_s: float = 5.0
    """...or when it has not answered for so long: then it is ended first."""
    log_level: LogLevel = "INFO"


TABLES_OF_THE_KERNEL = range(253, 256)
"""default, main, local (linux/rtnetlink.h)."""
Config = TypeVar("Config", ServerConfig, AgentRoleConfig)


def numbers(text: str, setting: str) -> tuple[int, ...]:
    """Comma-separated numbers. Raises ConfigError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ConfigError(f"{setting} = '{text}' must be numbers, separated by commas")
    return tuple(int(word) for word in words)


def resolvers(text: str) -> tuple[tuple[str, int], ...]:
    """Comma-separated addresses of DNS servers, with their ports. Raises ConfigError."""
    found = []
    for word in [word.strip() for word in text.split(",") if word.strip()]:
        plain = word.count(":") != 1 and not word.startswith("[")
        address, port = (word, 53) if plain else parse_listen(word if "]:" in word or "." in word else f"{word}:53")
        try:
            parse_ip(address)
        except ValueError as error:
            raise ConfigError(f"dns_resolvers = '{text}': {error}") from None
        found.append((address, port))
    return tuple(found)


def speaker_table(config: AgentRoleConfig) -> int:
    """The kernel routing table that a BGP speaker reads; 0: nothing is announced by BGP. Raises ConfigError."""
    number = config.bgp_table
    if not 0 <= number < 1 << 32 or number in TABLES_OF_THE_KERNEL:
        raise ConfigError(
            f"bgp_table = {number} is no table for a speaker: give the number of one that nobody else uses, such as "
            "179; 253 to 255 are the kernel's own (and FRR reads 1 to 252 only)"
        )
    if number and not config.external_device:
        raise ConfigError("bgp_table: a host without `external_device` has no external addresses to announce")
    return number


class ConfigError(Exception):
    """A setting is wrong: names it, says where it came from and what would be right."""


def load(
    kind: type[Config], path: Path | None, environment: Mapping[str, str], flags: Mapping[str, object], *, prefix: str
) -> Config:
    """The role's configuration. `flags` that are None were not given. Raises ConfigError."""
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for source, found in (
        (str(path), _read(path) if path else {}),
        ("environment", _from_environment(kind, environment, prefix)),
        ("flags", {key: value for key, value in flags.items() if value is not None}),
    ):
        for key, value in found.items():
            values[key] = value
            sources[key] = source
    known = {field.name for field in msgspec.structs.fields(kind)}
    for key in sorted(values):
        if key not in known:
            raise ConfigError(f"unknown setting '{key}' ({sources[key]}); known are: {', '.join(sorted(known))}")
    try:
        return msgspec.convert(values, kind, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        where = next((f" ({sources[key]})" for key in sources if f"$.{key}`" in str(error)), "")
        raise ConfigError(f"{error}{where}") from None


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _from_environment(kind: type[Config], environment: Mapping[str, str], prefix: str) -> dict[str, object]:
    return {
        field.name: environment[f"{prefix}{field.name.upper()}"]
        for field in msgspec.structs.fields(kind)
        if f"{prefix}{field.name.upper()}" in environment
    }


def _decode_path(kind: type, value: object) -> object:
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    if isinstance(value, kind):
        return value
    raise NotImplementedError(f"cannot make {kind.__name__} of {value!r}")


def parse_listen(listen: str) -> tuple[str, int]:
    """`address:port` (IPv6 in brackets) as a pair. Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"'{listen}' is not address:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """True when only this machine can reach that listening address."""
    try:
        ip = parse_ip(host)
    except ValueError:
        return host in LOOPBACK_NAMES
    return ip[12] == 127 if ip_version(ip) == 4 else ip == parse_ip("::1")
