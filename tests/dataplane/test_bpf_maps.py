"""The door to bpf(2) against the real kernel: batches, per-CPU values, pins, the BPF file system, errors that help."""

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcor.dataplane.kernel import bpf
from alcor.dataplane.kernel.bpf import BpfError, BpfMap

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: needs root for bpf(2)"),
]

PERCPU_HASH = 5
NO_PREALLOC = 1
WORD = struct.Struct("=I")
PAIR = struct.Struct("=QQ")


@pytest.fixture
def words() -> Iterator[BpfMap]:
    made = bpf.create_map(bpf.MAP_TYPE_HASH, 4, 4, 20_000, "words", NO_PREALLOC)
    yield made
    made.close()


@pytest.fixture
def pin_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "bpf"
    bpf.mount_bpffs(directory)
    yield directory
    bpf.unmount_bpffs(directory)


def packed(numbers: range) -> bytes:
    return b"".join(map(WORD.pack, numbers))


def test_single_entries(words: BpfMap) -> None:
    """What is put is got; the absent is None, and deleting it is False."""
    key = WORD.pack(7)
    assert words.get(key) is None
    words.put(key, WORD.pack(1))
    words.put(key, WORD.pack(2))
    assert WORD.pack(2) == words.get(key)
    assert words.delete(key)
    assert not words.delete(key)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_batches_are_whole(words: BpfMap, kind: type[bytes] | type[bytearray]) -> None:
    """A batch of 10,000 is stored and dumped whole, over several dump buffers."""
    numbers = range(10_000)
    words.update_batch(kind(packed(numbers)), kind(packed(numbers)), len(numbers))
    assert {WORD.pack(n): WORD.pack(n) for n in numbers} == dict(words.items())


def test_batches_are_all_stored(words: BpfMap) -> None:
    """However many; of none nothing is."""
    words.update_batches([])
    assert [] == list(words.items())
    made = [range(at, at + 1_000) for at in range(0, 20_000, 1_000)]
    words.update_batches((packed(some), packed(some), len(some)) for some in made)
    assert {WORD.pack(n): WORD.pack(n) for n in range(20_000)} == dict(words.items())


def test_batches_end_with_one_that_fails() -> None:
    """Its error is the caller's; those under way are waited for, and no more are made than that."""
    made = bpf.create_map(bpf.MAP_TYPE_HASH, 4, 4, 4, "tiny")
    made.update_batch(packed(range(2)), bytes(8), 2)  # these may be stored again when it is full
    some = iter([range(2), range(2, 10), *[range(2)] * 9])
    with pytest.raises(BpfError, match=r"map 'tiny'.*the map is full"):
        made.update_batches((packed(one), bytes(4 * len(one)), len(one)) for one in some)
    assert 4 == len(list(made.items()))
    assert 9 - bpf.BATCHES_AT_ONCE == len(list(some))
    made.close()


def test_an_empty_map_dumps_nothing(words: BpfMap) -> None:
    """No entries, no items; an empty batch changes nothing."""
    words.update_batch(b"", b"", 0)
    assert 0 == words.delete_batch(b"", 0)
    assert [] == list(words.items())


@pytest.mark.parametrize("missing", [{0}, {99}, {0, 1, 2}, {3, 50, 98, 99}, set(range(100)), set()])
def test_delete_batch_passes_over_the_absent(words: BpfMap, missing: set[int]) -> None:
    """Every key that is there goes, wherever in the batch absent ones stand."""
    numbers = range(100)
    words.update_batch(packed(numbers), packed(numbers), 100)
    for number in missing:
        words.delete(WORD.pack(number))
    assert 100 - len(missing) == words.delete_batch(packed(numbers), 100)
    assert [] == list(words.items())


def test_a_crowded_bucket_is_dumped(monkeypatch: pytest.MonkeyPatch, words: BpfMap) -> None:
    """A dump buffer smaller than one bucket grows until the bucket fits."""
    monkeypatch.setattr(bpf, "DUMP_BATCH", 1)
    numbers = range(20_000)
    words.update_batch(packed(numbers), packed(numbers), len(numbers))
    assert 20_000 == len(dict(words.items()))


def test_per_cpu_values_are_summed() -> None:
    """A per-CPU map stores a value per possible CPU, padded to 8 bytes; the helper adds them up."""
    cpus = bpf.possible_cpus()
    made = bpf.create_map(PERCPU_HASH, 4, 16, 8, "per_cpu", NO_PREALLOC)
    assert 16 * cpus == made.stored_size
    made.update_batch(WORD.pack(1), b"".join(PAIR.pack(10, n) for n in range(cpus)), 1)
    stored = made.get(WORD.pack(1))
    assert stored is not None
    assert (10 * cpus, sum(range(cpus))) == bpf.sum_per_cpu(stored, PAIR)
    assert [(WORD.pack(1), stored)] == list(made.items())
    made.close()
    small = bpf.create_map(PERCPU_HASH, 4, 4, 8, "per_cpu", NO_PREALLOC)
    small.put(WORD.pack(1), struct.pack("=I4x", 5) * cpus)
    stored = small.get(WORD.pack(1))
    assert stored is not None
    assert (5 * cpus,) == bpf.sum_per_cpu(stored, WORD)
    small.close()


def test_a_full_map_says_so() -> None:
    """The error names the map, how far the batch came, and what to do."""
    made = bpf.create_map(bpf.MAP_TYPE_HASH, 4, 4, 4, "tiny")
    with pytest.raises(BpfError, match=r"map 'tiny'.*the map is full") as caught:
        made.update_batch(packed(range(1000)), packed(range(1000)), 1000)
    assert errno.E2BIG == caught.value.errno
    made.close()


def test_sizes_are_checked_before_the_kernel_reads(words: BpfMap) -> None:
    """Too few bytes for the count are the caller's error: the kernel would read past them."""
    with pytest.raises(ValueError, match="2 keys: 8 bytes wanted, 4 given"):
        words.update_batch(b"1234", b"12345678", 2)
    with pytest.raises(ValueError, match="2 values: 8 bytes wanted, 4 given"):
        words.update_batch(b"12345678", b"1234", 2)
    with pytest.raises(ValueError, match="key: 4 bytes wanted, 5 given"):
        words.get(b"12345")


def test_a_closed_map_is_refused(words: BpfMap) -> None:
    """A closed map answers with the kernel's error, never with another file's content; closing twice is fine."""
    words.close()
    words.close()
    with pytest.raises(BpfError, match="look up in map 'words'"):
        words.get(WORD.pack(1))


def test_pins_outlive_descriptors(words: BpfMap, pin_dir: Path) -> None:
    """A pinned map is found again with its content after its descriptor is closed."""
    words.put(WORD.pack(1), WORD.pack(2))
    bpf.pin(words.fd, pin_dir / "words")
    words.close()
    found = BpfMap.open(pin_dir / "words")
    assert WORD.pack(2) == found.get(WORD.pack(1))
    assert ("words", 4, 4) == (found.name, found.key_size, found.value_size)
    found.close()


def test_pin_errors_name_the_path(words: BpfMap, pin_dir: Path, tmp_path: Path) -> None:
    """A missing pin, a taken name and a place outside a BPF file system are told apart."""
    with pytest.raises(BpfError, match=r"open pin .*/absent") as missing:
        BpfMap.open(pin_dir / "absent")
    assert errno.ENOENT == missing.value.errno
    bpf.pin(words.fd, pin_dir / "taken")
    with pytest.raises(BpfError, match=r"pin .*/taken") as taken:
        bpf.pin(words.fd, pin_dir / "taken")
    assert errno.EEXIST == taken.value.errno
    with pytest.raises(BpfError, match="is its directory in a BPF file system"):
        bpf.pin(words.fd, tmp_path / "elsewhere")


def test_mounting_is_idempotent(tmp_path: Path) -> None:
    """Mounting twice mounts once: one unmount takes it off; unmounting what is not mounted is no error."""
    directory = tmp_path / "made" / "here"
    bpf.mount_bpffs(directory)
    bpf.mount_bpffs(directory)
    assert bpf.is_bpffs(directory)
    bpf.mount_bpffs(directory / "host-1")
    bpf.unmount_bpffs(directory)
    assert not bpf.is_bpffs(directory)
    bpf.unmount_bpffs(directory)
    bpf.unmount_bpffs(tmp_path / "absent")


def test_a_test_run_needs_a_real_interface() -> None:
    """A program cannot be run at an interface that does not exist, and the error says so."""
    with pytest.raises(BpfError, match="at interface 2000000000"):
        bpf.test_run(bpf.create_map(bpf.MAP_TYPE_ARRAY, 4, 4, 1, "no_program").fd, bytes(64), 2_000_000_000)


def test_without_the_right_the_error_says_what_to_do() -> None:
    """An ordinary user's attempt ends in advice, not in a bare errno."""
    script = """
import os
from alcor.dataplane.kernel import bpf
os.setresuid(65534, 65534, 65534)
for attempt in (lambda: bpf.create_map(1, 4, 4, 1, "mine"), bpf.try_program):
    try:
        attempt()
    except bpf.BpfError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    advice = "Operation not permitted (run as root, or with CAP_BPF and CAP_NET_ADMIN)"
    assert [f"create map 'mine': {advice}", f"load a program: {advice}"] == done.stdout.splitlines()
