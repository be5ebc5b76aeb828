"""Loading, finding again and upgrading the compiled data plane."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.dataplane import packets

from alcor.dataplane.base import DataPlaneError
from alcor.dataplane.drops import DropReason
from alcor.dataplane.ebpf import program, tables
from alcor.dataplane.ebpf.program import MAPS, OBJECT_PATH, PROGRAMS, Program
from alcor.dataplane.ebpf.tables import HostConfig, Traffic, Verdict
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.kernel import bpf
from alcor.dataplane.kernel.bpf import BpfError, BpfMap
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, parse_ip
from alcor.model.ids import Id

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: the compiled data plane needs root and BPF"),
]

CONFIG = HostConfig(parse_ip("192.0.2.1"), 1)
KEY = EndpointKey(7, parse_ip("10.0.0.9"))
ENDPOINT = Endpoint(Mac(b"\x02\0\0\0\0\x09"), parse_ip("192.0.2.9"))


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "bpf"
    yield directory
    bpf.unmount_bpffs(directory)


def opened(pins: Path, object_path: Path | None = None, config: HostConfig = CONFIG) -> Program:
    return Program.open(object_path, pins, config, remote_entries=1024, translation_entries=1024, flow_entries=1024)


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """The same program in a file with other content, as a new version would be."""
    path = tmp_path / "next.bpf.o"
    path.write_bytes(OBJECT_PATH.read_bytes() + b"\0")
    return path


def program_ids(found: Program) -> tuple[int, int]:
    return bpf.program_info(found.from_port, "from_port").id, bpf.program_info(found.from_overlay, "from_overlay").id


def names(found: Program) -> tuple[str, ...]:
    """The pins of its programs."""
    return found.from_port_pin.name, found.from_overlay_pin.name, found.from_external_pin.name


def pinned(pins: Path) -> set[str]:
    """What is pinned; names with a dot are the kernel's own iterators, there in every BPF file system."""
    return {path.name for path in pins.iterdir() if "." not in path.name}


def test_this_machine_can_run_it() -> None:
    """The probe finds nothing against the driver where these tests run."""
    assert program.probe() is None


def test_the_probe_names_a_missing_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the compiled object the probe says how to make it."""
    monkeypatch.setattr(program, "OBJECT_PATH", tmp_path / "absent.o")
    assert "run `make setup`" in (program.probe() or "")


def test_first_opening_pins_everything(pins: Path) -> None:
    """All maps and two programs are pinned, and the programs use exactly those maps."""
    with opened(pins) as found:
        assert {*MAPS, *names(found)} == pinned(pins)
        ids = {found.maps[name].info.id for name in MAPS}
        used = bpf.program_info(found.from_port, "").map_ids | bpf.program_info(found.from_overlay, "").map_ids
        used |= bpf.program_info(found.from_external, "").map_ids
        assert ids == used
        stored = found.config.get(tables.CONFIG_KEY)
        assert stored is not None
        assert CONFIG == tables.unpack_config(stored)


def test_opening_again_loads_nothing(pins: Path) -> None:
    """A restarted agent finds the very same programs, and its maps with what they held; only `config` is written."""
    with opened(pins) as first:
        first.remote.put(tables.pack_key(KEY), tables.pack_endpoint(ENDPOINT))
        ids = program_ids(first)
    moved = HostConfig(parse_ip("192.0.2.77"), 2, 8472, 16)
    with opened(pins, config=moved) as second:
        assert ids == program_ids(second)
        assert tables.pack_endpoint(ENDPOINT) == second.remote.get(tables.pack_key(KEY))
        stored = second.config.get(tables.CONFIG_KEY)
        assert stored is not None
        assert moved == tables.unpack_config(stored)


def test_another_version_loads_over_the_same_maps(pins: Path, next_version: Path) -> None:
    """An upgrade changes the programs and their pins, and leaves the maps as they are; a downgrade likewise."""
    with opened(pins) as first, opened(pins, next_version) as second:
        assert not set(program_ids(first)) & set(program_ids(second))
        assert first.remote.info.id == second.remote.info.id
        assert {*MAPS, *names(second)} == pinned(pins)
        first.remote.put(tables.pack_key(KEY), tables.pack_endpoint(ENDPOINT))
        assert tables.pack_endpoint(ENDPOINT) == second.remote.get(tables.pack_key(KEY))
    with opened(pins) as back:
        assert {*MAPS, *names(back)} == pinned(pins)


@pytest.mark.parametrize("lost", [*MAPS, *PROGRAMS])
def test_a_lost_pin_is_made_again(pins: Path, lost: str) -> None:
    """Whatever pin is gone (a crash while loading), opening ends with programs and maps that belong together."""
    with opened(pins) as first:
        (pins / lost if lost in MAPS else getattr(first, f"{lost}_pin")).unlink()
    with opened(pins) as second:
        ids = {second.maps[name].info.id for name in MAPS}
        assert bpf.program_info(second.from_port, "").map_ids <= ids
        assert bpf.program_info(second.from_overlay, "").map_ids <= ids
        assert bpf.program_info(second.from_external, "").map_ids <= ids
        assert {*MAPS, *names(second)} == pinned(pins)


def test_a_map_of_another_shape_is_refused(pins: Path) -> None:
    """Rows of another layout are never read as ours: the error names the pin, the sizes and the ways out."""
    bpf.mount_bpffs(pins)
    foreign = bpf.create_map(bpf.MAP_TYPE_HASH, 8, 8, 16, "foreign")
    bpf.pin(foreign.fd, pins / "local")
    foreign.close()
    with pytest.raises(DataPlaneError, match=r"bpf/local has keys of 8 and values of 8 bytes.* needs 20 and 16: move"):
        opened(pins)
    assert {"local"} == pinned(pins)


@pytest.mark.parametrize("name", ["scratch", "fragments"])
@pytest.mark.parametrize("bytes_less", [4, -4], ids=["smaller", "larger"])
def test_a_fleeting_map_of_another_version_is_made_anew(
    pins: Path, next_version: Path, name: str, bytes_less: int
) -> None:
    """An upgrade, or a downgrade, over one of another size: the new programs get one of their own, every other map
    stays, and what runs still has the one that it came with."""
    with opened(pins) as first:
        before = {one: first.maps[one].info for one in MAPS}
    old = before[name]
    (pins / name).unlink()
    other = bpf.create_map(old.type, old.key_size, old.value_size - bytes_less, old.max_entries, "old")
    bpf.pin(other.fd, pins / name)
    with opened(pins, next_version) as second:
        after = {one: second.maps[one].info for one in MAPS}
        changed = {one for one in MAPS if before[one].id != after[one].id}
        assert ({name}, old.value_size) == (changed, after[name].value_size)
        used = bpf.program_info(second.from_port, "").map_ids
        assert after[name].id in used
        assert other.info.id not in used
        assert {*MAPS, *names(second)} == pinned(pins)
    with opened(pins, next_version) as again:
        assert after[name].id == again.maps[name].info.id
    other.close()


def test_a_missing_object_says_make_setup(pins: Path, tmp_path: Path) -> None:
    """Without the compiled object the error says how to make it."""
    with pytest.raises(DataPlaneError, match=r"absent\.o is missing: run `make setup`"):
        opened(pins, tmp_path / "absent.o")


@pytest.mark.parametrize("content", [b"", b"not an object", b"\x7fELF" + bytes(60)], ids=["empty", "text", "cut"])
def test_a_broken_object_is_refused(pins: Path, tmp_path: Path, content: bytes) -> None:
    """What is no BPF object leaves no pins behind."""
    path = tmp_path / "broken.o"
    path.write_bytes(content)
    with pytest.raises(BpfError, match=r"broken\.o"):
        opened(pins, path)
    assert set() == pinned(pins)


def test_two_openers_at_once_agree(pins: Path) -> None:
    """An agent and its standby that start together end with the same programs and maps."""
    found: list[Program] = []
    threads = [threading.Thread(target=lambda: found.append(opened(pins))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 4 == len(found)
    assert 1 == len({program_ids(each) for each in found})
    assert 1 == len({each.ports.info.id for each in found})
    for each in found:
        each.close()


def test_a_map_keeps_its_size(pins: Path) -> None:
    """`remote` has the size it was made with, whatever a later opening asks for."""
    opened(pins).close()
    with Program.open(None, pins, CONFIG, remote_entries=2048) as second:
        assert 1024 == second.remote.info.max_entries


def test_closing_twice_is_fine(pins: Path) -> None:
    """Closing lets go once; what is pinned stays."""
    found = opened(pins)
    found.close()
    found.close()
    assert len(MAPS) + len(PROGRAMS) == len(pinned(pins))


def test_counters_come_and_go_with_ports(pins: Path) -> None:
    """Rows are made at zero, counted in by the program, read as sums, and removed with their drops."""
    with opened(pins) as found:
        row = tables.PortRow(Id(bytes(16)), 7, 1500, Mac(b"\x02\0\0\0\0\x01"), tables.PortFlag.UP, 0, 0)
        found.ports.update_batch(*tables.pack_ports([(1, row)]), 1)
        found.zero_counters([1, 2])
        run = bpf.test_run(found.from_port, bytes(60), 1)
        assert (Verdict.DROP, DropReason.SPOOFED_MAC) == run.cb[:2]
        assert {1: Traffic(1, 60, 0, 0), 2: Traffic(0, 0, 0, 0)} == found.traffic()
        assert {1: {DropReason.SPOOFED_MAC: 1}} == found.dropped()
        found.forget_counters([1, 2, 3])
        assert {} == found.traffic()
        assert {} == found.dropped()
        found.zero_counters([])
        found.forget_counters([])


def test_drops_are_counted_once_each(pins: Path) -> None:
    """Every run of the program over a frame without a port is one drop at ifindex 0."""
    with opened(pins) as found:
        for size in (14, 60, 1514):
            run = bpf.test_run(found.from_port, bytes(size), 1)
            assert (2, bytes(size)) == (run.retval, run.frame)
        assert {0: {DropReason.NO_PORT: 3}} == found.dropped()


def test_a_router_tells_a_port_so_much_in_a_second(pins: Path) -> None:
    """Beyond it packets are dropped in silence, for the same reason; all are counted."""
    mac, own = Mac(packets.mac(1)), parse_ip("10.0.0.9")
    packet = packets.ipv4("10.0.0.9", "10.0.1.9", packets.ports(packets.UDP, 1, 2), ttl=1)
    frame = packets.ethernet(ROUTER_MAC, mac, packet)
    with opened(pins) as found:
        row = tables.PortRow(Id(bytes(16)), 7, 1500, mac, tables.PortFlag.UP | tables.PortFlag.ROUTED, 0, 0)
        found.ports.update_batch(*tables.pack_ports([(1, row)]), 1)
        local = tables.LocalRow(1, tables.EndpointFlag(0), mac, 0, 0)
        found.local.update_batch(*tables.pack_locals([(EndpointKey(7, own), local)]), 1)
        found.routers.put(tables.pack_ifindex(1), tables.ROUTER.pack(parse_ip("10.0.0.1"), bytes(16)))
        begun = time.monotonic()
        verdicts = [bpf.test_run(found.from_port, frame, 1).cb[0] for _ in range(150)]
        assert time.monotonic() < begun + 1, "too slow a machine to tell"
        assert [Verdict.REPLY] * 100 + [Verdict.DROP] * 50 == verdicts
        assert {1: {DropReason.TTL_EXCEEDED: 150}} == found.dropped()


def test_a_full_map_of_endpoints_says_so(pins: Path) -> None:
    """More endpoints than `remote` holds is an error that names the map."""
    with opened(pins) as found:
        keys = tables.pack_keys([EndpointKey(7, Ip(n.to_bytes(16, "big"))) for n in range(4096)])
        with pytest.raises(BpfError, match=r"map 'remote'.*full"):
            found.remote.update_batch(keys, tables.pack_endpoint(ENDPOINT) * 4096, 4096)
        BpfMap.open(pins / "remote").close()
