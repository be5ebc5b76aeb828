"""The compiled data plane of one host: loads it, pins it, finds it again, upgrades it under traffic.

Called by the ebpf driver and by tests. Everything is pinned under one directory per host:

    ports local remote senders policies ...      the maps; they outlive agents and versions of the program
    from_port_<digest> from_overlay_<digest> ... the programs; <digest> is of the object file they came from

An agent that starts finds both and loads nothing (under a millisecond); a new version of the program loads over the
same maps, and the interfaces go over to it when wiring replaces their filters.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final

from alcor.dataplane.base import DataPlaneError
from alcor.dataplane.drops import DropReason
from alcor.dataplane.ebpf import routes, rules, services, tables
from alcor.dataplane.ebpf.tables import HostConfig, Traffic
from alcor.dataplane.kernel import bpf, libbpf
from alcor.dataplane.kernel.bpf import BpfError, BpfMap

OBJECT_PATH: Final = Path(__file__).with_name("alcor.bpf.o")
MAPS: Final = (
    "ports",
    "local",
    "remote",
    "senders",
    "policies",
    "rules",
    "prefixes",
    "flows",
    "fragments",
    "generation",
    "scratch",
    "forwards",
    "on_demand",
    "miss_rates",
    "misses",
    "routes",
    "translations",
    "macs",
    "services",
    "maglev",
    "backends",
    "service_epochs",
    "service_counters",
    "balanced",
    "requests",
    "request_rates",
    "routers",
    "told_rates",
    "counters",
    "drops",
    "config",
    "external",
    "eips",
    "forwardings",
    "shared",
    "blocks",
    "bindings",
)
PROGRAMS: Final = ("from_port", "from_overlay", "from_external")
REMOTE_ENTRIES: Final = 4_194_304
"""Endpoints on other hosts that one host can know. A map of that size takes 64 MiB for its buckets before the first."""
TRANSLATION_ENTRIES: Final = 1_048_576
"""What stands in one VNI for groups of another: a router with all its 1,024 interfaces on one host, each VPC with one
set of groups, needs as many."""
FLOW_ENTRIES: Final = 262_144
"""Connections that one host follows; half as many through load balancers, and through shared addresses. Beyond, the
least recently used is forgotten. All are allocated at once: some 150 bytes each, in three tables."""

_SHAPES: Final = {
    "ports": (tables.IFINDEX.size, tables.PORT.size),
    "local": (tables.ADDRESS_KEY.size, tables.LOCAL.size),
    "remote": (tables.ADDRESS_KEY.size, tables.REMOTE.size),
    "counters": (tables.IFINDEX.size, tables.TRAFFIC.size),
    "drops": (tables.DROP_KEY.size, tables.DROP_COUNT.size),
    "config": (len(tables.CONFIG_KEY), tables.CONFIG.size),
    "senders": (tables.SENDER_KEY.size, len(tables.SENDER_VALUE)),
    "policies": (rules.POLICY_KEY.size, rules.POLICY.size),
    "rules": (rules.RULE_KEY.size, len(rules.RULE_VALUE)),
    "prefixes": (rules.PREFIX_KEY.size, rules.CLASS.size),
    "flows": (tables.FLOW_KEY.size, tables.FLOW.size),
    "generation": (len(tables.CONFIG_KEY), rules.GENERATION.size),
    "forwards": (tables.ADDRESS_KEY.size, tables.REMOTE.size),
    "on_demand": (tables.IFINDEX.size, len(tables.SENDER_VALUE)),
    "miss_rates": (tables.IFINDEX.size, tables.MISS_RATE.size),
    "routes": (routes.ROUTE_KEY.size, routes.ROUTE.size),
    "translations": (routes.TRANSLATION_KEY.size, routes.TRANSLATION.size),
    "macs": (tables.MAC_KEY.size, tables.LOCAL.size),
    "services": (services.SERVICE_KEY.size, services.SERVICE.size),
    "maglev": (services.SLOT.size, services.SLOT.size),
    "backends": (services.BACKEND_KEY.size, services.BACKEND_STATE.size),
    "service_epochs": (services.SLOT.size, services.SLOT.size),
    "service_counters": (services.SLOT.size, services.SERVICE_TRAFFIC.size),
    "balanced": (tables.FLOW_KEY.size, services.BALANCED.size),
    "request_rates": (tables.IFINDEX.size, tables.MISS_RATE.size),
    "routers": (tables.IFINDEX.size, tables.ROUTER.size),
    "told_rates": (tables.IFINDEX.size, tables.MISS_RATE.size),
    "external": (len(tables.CONFIG_KEY), tables.EXTERNAL.size),
    "eips": (tables.ADDRESS_KEY.size, tables.EIP.size),
    "forwardings": (tables.FORWARDING_KEY.size, tables.FORWARDING.size),
    "shared": (tables.ADDRESS_KEY.size, tables.SHARED.size),
    "blocks": (tables.BLOCK_KEY.size, 16),
    "bindings": (tables.FLOW_KEY.size, tables.BINDING.size),
}
"""Of the maps that Python reads or writes; the others are the programs' own."""
_FLEETING: Final = ("scratch", "fragments")
"""Of the programs' own those that remember nothing, or for the blink of a packet's pieces: a version that has another
shape of one makes it anew, and the programs that still run go on with theirs."""


class Program:
    """The programs and maps of one host, open. A context; closing lets go of them and changes nothing in the kernel.

    The maps that the driver works with are attributes; `from_port`, `from_overlay` and `from_external` are file
    descriptors of the programs, `from_port_pin` and so on where they are pinned.
    """

    def __init__(self, pin_dir: Path, maps: dict[str, BpfMap], programs: dict[str, tuple[int, Path]]) -> None:
        """Takes over maps and programs. Use `open`."""
        self.pin_dir = pin_dir
        self.maps = maps
        self.ports = maps["ports"]
        self.local = maps["local"]
        self.remote = maps["remote"]
        self.senders = maps["senders"]
        self.policies = maps["policies"]
        self.rules = maps["rules"]
        self.prefixes = maps["prefixes"]
        self.flows = maps["flows"]
        self.fragments = maps["fragments"]
        self.generation = maps["generation"]
        self.forwards = maps["forwards"]
        self.on_demand = maps["on_demand"]
        self.miss_rates = maps["miss_rates"]
        self.misses = maps["misses"]
        self.routes = maps["routes"]
        self.translations = maps["translations"]
        self.macs = maps["macs"]
        self.services = maps["services"]
        self.maglev = maps["maglev"]
        self.backends = maps["backends"]
        self.service_epochs = maps["service_epochs"]
        self.service_counters = maps["service_counters"]
        self.balanced = maps["balanced"]
        self.requests = maps["requests"]
        self.request_rates = maps["request_rates"]
        self.routers = maps["routers"]
        self.told_rates = maps["told_rates"]
        self.counters = maps["counters"]
        self.drops = maps["drops"]
        self.config = maps["config"]
        self.external = maps["external"]
        self.eips = maps["eips"]
        self.forwardings = maps["forwardings"]
        self.shared = maps["shared"]
        self.blocks = maps["blocks"]
        self.bindings = maps["bindings"]
        self.from_port, self.from_port_pin = programs["from_port"]
        self.from_overlay, self.from_overlay_pin = programs["from_overlay"]
        self.from_external, self.from_external_pin = programs["from_external"]

    @classmethod
    def open(
        cls,
        object_path: Path | None,
        pin_dir: Path,
        config: HostConfig,
        *,
        remote_entries: int = REMOTE_ENTRIES,
        translation_entries: int = TRANSLATION_ENTRIES,
        flow_entries: int = FLOW_ENTRIES,
    ) -> Program:
        """Finds what is pinned in `pin_dir` (made, with a BPF file system on it, if need be), loads what is missing or
        of another version, and writes `config`. Idempotent; the maps keep what they hold.

        `object_path` None means the one beside this file. `remote_entries` sizes `remote`,
        `translation_entries` `translations`, `flow_entries` `flows`, `balanced` and `bindings`, when they are made; a
        map that exists keeps its size. Raises BpfError or DataPlaneError, nothing half-pinned that a second call would
        trip on.
        """
        path = object_path or OBJECT_PATH
        digest = _digest(path)
        bpf.mount_bpffs(pin_dir)
        with _locked(pin_dir):
            maps = _pinned_maps(pin_dir)
            try:
                programs = _pinned_programs(pin_dir, digest, maps) if len(maps) == len(MAPS) else None
                if programs is None:
                    connections = dict.fromkeys(("flows", "balanced", "bindings"), flow_entries)
                    sizes = {"remote": remote_entries, "translations": translation_entries, **connections}
                    programs = _load(path, digest, pin_dir, maps, sizes)
            except BaseException:
                for opened in maps.values():
                    opened.close()
                raise
        program = cls(pin_dir, maps, programs)
        program.config.put(tables.CONFIG_KEY, tables.pack_config(config))
        return program

    def close(self) -> None:
        """Closes every file descriptor. What is pinned or attached stays."""
        for opened in self.maps.values():
            opened.close()
        for name in PROGRAMS:
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def traffic(self) -> dict[int, Traffic]:
        """Counters by ifindex, all CPUs added up."""
        return {
            tables.unpack_ifindex(key): Traffic(*bpf.sum_per_cpu(value, tables.TRAFFIC))
            for key, value in self.counters.items()
        }

    def dropped(self) -> dict[int, dict[DropReason, int]]:
        """Drops by ifindex (0: no port is to blame) and reason, all CPUs added up."""
        found: dict[int, dict[DropReason, int]] = {}
        for key, value in self.drops.items():
            ifindex, reason = tables.unpack_drop_key(key)
            found.setdefault(ifindex, {})[reason] = bpf.sum_per_cpu(value, tables.DROP_COUNT)[0]
        return found

    def zero_counters(self, ifindexes: list[int]) -> None:
        """Makes (or zeroes) the rows of `counters` of new ports: without a row nothing is counted."""
        self.counters.update_batch(
            tables.pack_ifindexes(ifindexes), bytes(self.counters.stored_size * len(ifindexes)), len(ifindexes)
        )

    def forget_counters(self, ifindexes: list[int]) -> None:
        """Removes what is kept by the interfaces of ports that are gone: counts, and where their routers are. An
        ifindex without rows is passed over."""
        self.counters.delete_batch(tables.pack_ifindexes(ifindexes), len(ifindexes))
        for one in (self.miss_rates, self.request_rates, self.told_rates, self.routers):
            one.delete_batch(tables.pack_ifindexes(ifindexes), len(ifindexes))
        keys = [tables.pack_drop_key(ifindex, reason) for ifindex in ifindexes for reason in DropReason]
        self.drops.delete_batch(b"".join(keys), len(keys))


def probe() -> str | None:
    """None when this process can run the ebpf driver on this machine; else why not and what to do. Leaves nothing."""
    try:
        with libbpf.ObjectFile(_existing(OBJECT_PATH)):
            pass
        bpf.create_map(bpf.MAP_TYPE_HASH, 4, 4, 1, "probe").close()
        bpf.try_program()
    except DataPlaneError as error:
        return str(error)
    return None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataPlaneError(f"the compiled data plane {path} is missing: run `make setup`")
    return path


def _digest(path: Path) -> str:
    return blake2b(_existing(path).read_bytes(), digest_size=8).hexdigest()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One loader at a time per host: an agent and its standby may start together."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _pinned_maps(pin_dir: Path) -> dict[str, BpfMap]:
    """The maps that are pinned, checked to be of the shape this version reads and writes."""
    found: dict[str, BpfMap] = {}
    for name in MAPS:
        try:
            opened = BpfMap.open(pin_dir / name)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        found[name] = opened
        if name in _SHAPES and (opened.key_size, opened.value_size) != _SHAPES[name]:
            for other in found.values():
                other.close()
            raise DataPlaneError(
                f"the map pinned at {pin_dir / name} has keys of {opened.key_size} and values of {opened.value_size} "
                f"bytes, this version of Alcor needs {_SHAPES[name][0]} and {_SHAPES[name][1]}: move this host's ports "
                f"away, remove {pin_dir}/* and restart the agent, or go back to the version that made it"
            )
    return found


def _program_pin(pin_dir: Path, name: str, digest: str) -> Path:
    return pin_dir / f"{name}_{digest}"


def _pinned_programs(pin_dir: Path, digest: str, maps: dict[str, BpfMap]) -> dict[str, tuple[int, Path]] | None:
    """The programs of that object file, or None unless all are there and use the very maps that are pinned."""
    ids = {opened.info.id for opened in maps.values()}
    found: dict[str, tuple[int, Path]] = {}
    for name in PROGRAMS:
        pin = _program_pin(pin_dir, name, digest)
        try:
            fd = bpf.open_pin(pin)
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            break
        found[name] = fd, pin
        if not bpf.program_info(fd, name).map_ids <= ids:
            break
    else:
        return found
    for fd, _ in found.values():
        os.close(fd)
    return None


def _forget_outgrown(loaded: libbpf.ObjectFile, pin_dir: Path, maps: dict[str, BpfMap]) -> None:
    """Takes fleeting maps of another shape than the object's out of `maps`, and their pins away."""
    for name in _FLEETING:
        wanted, opened = loaded.maps[name], maps.get(name)
        if opened is not None and (opened.key_size, opened.value_size) != (wanted.key_size, wanted.value_size):
            (pin_dir / name).unlink()
            maps.pop(name).close()


def _load(
    path: Path, digest: str, pin_dir: Path, maps: dict[str, BpfMap], sizes: Mapping[str, int]
) -> dict[str, tuple[int, Path]]:
    """Loads the object over the maps that exist, adds the others to `maps` and pins what is new.

    Programs of other versions lose their pins, not their attachments: interfaces forward with them until wiring
    replaces the filter.
    """
    with libbpf.ObjectFile(path) as loaded:
        if set(loaded.maps) != set(MAPS) or set(loaded.programs) != set(PROGRAMS):
            raise DataPlaneError(f"{path} is not this version's data plane: run `make setup`")
        _forget_outgrown(loaded, pin_dir, maps)
        for name, opened in maps.items():
            loaded.reuse(name, opened.fd)
        for name, entries in sizes.items():
            if name not in maps:
                loaded.resize(name, entries)
        loaded.load()
        for name in MAPS:
            if name not in maps:
                maps[name] = loaded.map(name)
                bpf.pin(maps[name].fd, pin_dir / name)
        programs: dict[str, tuple[int, Path]] = {}
        for name in PROGRAMS:
            pin = _program_pin(pin_dir, name, digest)
            with suppress(FileNotFoundError):
                pin.unlink()
            programs[name] = loaded.program(name), pin
            bpf.pin(programs[name][0], pin)
    for old in pin_dir.iterdir():
        if old.name.startswith(PROGRAMS) and not old.name.endswith(f"_{digest}"):
            old.unlink()
    return programs
