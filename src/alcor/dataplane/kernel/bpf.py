"""The one door to bpf(2): maps in batches, pins, test runs, the BPF file system.

Called by the ebpf driver and by tests; knows no table of Alcor's. A batch costs one system call, and the interpreter's
lock is released during it, so batches of two maps may run in two threads. Every failure is a `BpfError` that names
the map or file. Loading of object files is libbpf.py's.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from alcor.dataplane.base import DataPlaneError

BYTES_LIKE = bytes | bytearray

# enum bpf_cmd of linux/bpf.h.
MAP_CREATE: Final = 0
MAP_LOOKUP_ELEM: Final = 1
MAP_UPDATE_ELEM: Final = 2
MAP_DELETE_ELEM: Final = 3
PROG_LOAD: Final = 5
OBJ_PIN: Final = 6
OBJ_GET: Final = 7
PROG_TEST_RUN: Final = 10
OBJ_GET_INFO_BY_FD: Final = 15
MAP_LOOKUP_BATCH: Final = 24
MAP_UPDATE_BATCH: Final = 26
MAP_DELETE_BATCH: Final = 27

# enum bpf_map_type, those that somebody asks for.
MAP_TYPE_HASH: Final = 1
MAP_TYPE_ARRAY: Final = 2
PER_CPU_TYPES: Final = frozenset({5, 6, 10})
"""PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH."""

DUMP_BATCH: Final = 4096
"""Entries fetched by one system call of `BpfMap.items`."""

BATCHES_AT_ONCE: Final = 2
"""Of `BpfMap.update_batches`, under way in the kernel: it locks a bucket at a time, so they hardly meet."""

REFILL_WAIT_S: Final = 0.001
REFILL_WAITS: Final = 100
"""How long `BpfMap.update_batch` waits without progress for the kernel to refill its reserve of entries."""

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_ELEMENT: Final = struct.Struct("=I4xQQQ")
_BATCH: Final = struct.Struct("=QQQQIIQQ")
_PIN: Final = struct.Struct("=QII")
_INFO: Final = struct.Struct("=IIQ")
_CREATE: Final = struct.Struct("=IIIII")
_LOAD: Final = struct.Struct("=IIQQIIQII16s")
_TEST: Final = struct.Struct("=IIIIQQIIIIQQIIII")
_MAP_INFO: Final = struct.Struct("=IIIIII16s")
_PROG_INFO: Final = struct.Struct("=II8sIIQQQIIQ16s")
_SK_BUFF_BYTES: Final = 192
_SK_BUFF_MARK: Final = 8
_SK_BUFF_PRIORITY: Final = 32
_SK_BUFF_IFINDEX: Final = 40
_SK_BUFF_CB: Final = struct.Struct("=5I")
_SK_BUFF_CB_AT: Final = 48
_CLOSED: Final = 0xFFFFFFFF
"""No file descriptor: the kernel answers EBADF."""
_BPF_FS_MAGIC: Final = 0xCAFE4A11

_ADVICE: Final = {
    errno.EPERM: "run as root, or with CAP_BPF and CAP_NET_ADMIN",
    errno.EACCES: "run as root; when a program was refused, its log says why",
    errno.E2BIG: "the map is full: load it with more entries, or delete what is not needed",
    errno.ENOMEM: "free memory on this host, or load the map with fewer entries",
    errno.EBADF: "it was closed: open the data plane anew",
    errno.ENOENT: "what was named does not exist: open the data plane anew",
    errno.ENODEV: "the interface does not exist in this network namespace",
    errno.ENOSYS: "this kernel has no BPF: use the driver 'fake' or 'ovs'",
    errno.EINVAL: "the kernel does not know this request: Linux 5.10 or newer is needed",
}


class BpfError(DataPlaneError):
    """The kernel, or libbpf, refused. `errno` is the number; the text names the object and what to do next."""

    def __init__(self, what: str, number: int, detail: str = "") -> None:
        advice = _ADVICE.get(number, "see the kernel's log (dmesg)")
        super().__init__(f"{what}: {os.strerror(number)} ({detail or advice})")
        self.errno = number


class MapInfo(NamedTuple):
    """What the kernel says of a map (struct bpf_map_info)."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


class ProgramInfo(NamedTuple):
    """What the kernel says of a program (struct bpf_prog_info). `tag` is a hash of its instructions."""

    id: int
    type: int
    tag: bytes
    name: str
    map_ids: frozenset[int]


class TestRun(NamedTuple):
    """What became of one frame: the program's return value, the frame as it left, and what it left in the packet's
    `cb`, `mark` and `priority`.

    pytest collects names like this one: refer to it, and to `test_run`, through the module."""

    retval: int
    frame: bytes
    cb: tuple[int, int, int, int, int]
    duration_ns: int
    """Mean over the repetitions asked for."""
    mark: int
    priority: int


# ---- the system call ----


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
    libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
    libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
    libc.statfs.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    return libc


@lru_cache(maxsize=1)
def _syscall_number() -> int:
    machine = platform.machine()
    if machine not in _SYSCALL:
        raise BpfError(f"bpf(2) on a {machine}", errno.ENOSYS)
    return _SYSCALL[machine]


def _call(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2). The result, or the error number negated; fields that `attributes` leaves out are zero to the kernel."""
    result: int = _libc().syscall(_syscall_number(), command, attributes, len(attributes))
    return result if result >= 0 else -ctypes.get_errno()


def _address(data: BYTES_LIKE) -> tuple[int, object]:
    """Where the bytes are, and what must live while the kernel reads them. No copy."""
    if isinstance(data, bytearray):
        view = (ctypes.c_char * len(data)).from_buffer(data)
        return ctypes.addressof(view), view
    pointer = ctypes.c_char_p(data)
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0, pointer


# ---- maps ----


class BpfMap:
    """An open map. Keys and values are bytes of `key_size` and `stored_size`; safe to use from several threads.

    `stored_size` is `value_size`, or for a per-CPU map one value of a multiple of 8 bytes for each possible CPU.
    """

    __slots__ = ("fd", "info", "key_size", "name", "stored_size", "value_size")

    def __init__(self, fd: int, name: str) -> None:
        """Takes over `fd`; `name` is for messages."""
        self.fd = fd
        self.name = name
        self.info = map_info(fd, name)
        self.key_size = self.info.key_size
        self.value_size = self.info.value_size
        per_cpu = self.info.type in PER_CPU_TYPES
        self.stored_size = (self.value_size + 7) // 8 * 8 * possible_cpus() if per_cpu else self.value_size

    @classmethod
    def open(cls, path: Path) -> BpfMap:
        """The map pinned at `path`. Raises BpfError (ENOENT when nothing is pinned there)."""
        return cls(open_pin(path), path.name)

    def close(self) -> None:
        """Lets go of the map; what it holds stays while a pin or a program refers to it."""
        if self.fd != _CLOSED:
            os.close(self.fd)
            self.fd = _CLOSED

    def get(self, key: BYTES_LIKE) -> bytes | None:
        """The value stored under the key, or None."""
        value = ctypes.create_string_buffer(self.stored_size)
        result = self._element(MAP_LOOKUP_ELEM, key, ctypes.addressof(value))
        if result == -errno.ENOENT:
            return None
        self._check(result, "look up in")
        return value.raw

    def put(self, key: BYTES_LIKE, value: BYTES_LIKE) -> None:
        """Stores the value, over an old one if there is one."""
        self._sized(value, self.stored_size, "value")
        address, keep = _address(value)
        self._check(self._element(MAP_UPDATE_ELEM, key, address), "update")
        del keep

    def delete(self, key: BYTES_LIKE) -> bool:
        """Removes the entry; False when there was none."""
        result = self._element(MAP_DELETE_ELEM, key, 0)
        if result == -errno.ENOENT:
            return False
        self._check(result, "delete from")
        return True

    def update_batch(self, keys: BYTES_LIKE, values: BYTES_LIKE, count: int) -> None:
        """Stores `count` values under as many keys, each packed without gaps. Raises BpfError on the first that
        fails; those before it are stored, so repeating the call is the way to go on.

        The kernel makes the entries of a map without preallocation from a small reserve that it refills in the
        background: a burst may find it empty (ENOMEM), so that is waited out, as long as there is progress.
        """
        if not count:
            return
        self._sized(keys, count * self.key_size, f"{count} keys")
        self._sized(values, count * self.stored_size, f"{count} values")
        key_at, keep_keys = _address(keys)
        value_at, keep_values = _address(values)
        at = waits = 0
        while True:
            result, done = self._batch(
                MAP_UPDATE_BATCH, key_at + at * self.key_size, value_at + at * self.stored_size, count - at
            )
            at += done
            if result != -errno.ENOMEM or waits == REFILL_WAITS:
                break
            waits = 0 if done else waits + 1
            time.sleep(REFILL_WAIT_S)
        del keep_keys, keep_values
        self._check(result, f"update (after {at} of {count} entries)")

    def update_batches(self, batches: Iterable[tuple[BYTES_LIKE, BYTES_LIKE, int]]) -> None:
        """`update_batch` for each, in no particular order: while the kernel takes some in, on threads of their own, the
        next is made. Raises what the first that fails raises, once none is under way any more."""
        under_way: deque[Future[None]] = deque()
        with ThreadPoolExecutor(BATCHES_AT_ONCE, thread_name_prefix="bpf-update") as kernel:
            for batch in batches:
                if len(under_way) == BATCHES_AT_ONCE:
                    under_way.popleft().result()
                under_way.append(kernel.submit(self.update_batch, *batch))
            for one in under_way:
                one.result()

    def delete_batch(self, keys: BYTES_LIKE, count: int) -> int:
        """Removes `count` keys, packed without gaps; absent ones are passed over. Returns how many were there."""
        self._sized(keys, count * self.key_size, f"{count} keys")
        if not count:
            return 0
        key_at, keep = _address(keys)
        at = deleted = 0
        while at < count:
            result, done = self._batch(MAP_DELETE_BATCH, key_at + at * self.key_size, 0, count - at)
            deleted += done
            if result == -errno.ENOENT:
                # The kernel stops at the first missing key and counts those before it: step over it.
                at += done + 1
                continue
            self._check(result, f"delete from (after {at + done} of {count} keys)")
            break
        del keep
        return deleted

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value), fetched in batches. Entries that come or go meanwhile may be missed, never torn."""
        size = DUMP_BATCH
        token_in = ctypes.create_string_buffer(max(self.key_size, 8))
        token_out = ctypes.create_string_buffer(max(self.key_size, 8))
        first = True
        while True:
            keys = ctypes.create_string_buffer(size * self.key_size)
            values = ctypes.create_string_buffer(size * self.stored_size)
            result, count = self._batch(
                MAP_LOOKUP_BATCH,
                ctypes.addressof(keys),
                ctypes.addressof(values),
                size,
                0 if first else ctypes.addressof(token_in),
                ctypes.addressof(token_out),
            )
            if result == -errno.ENOSPC:
                # One bucket alone holds more than the buffer.
                size *= 2
                continue
            if result != -errno.ENOENT:
                self._check(result, "dump")
            # Of the entries alone: a whole buffer may be of megabytes that nobody touched.
            key_bytes = ctypes.string_at(keys, count * self.key_size)
            value_bytes = ctypes.string_at(values, count * self.stored_size)
            for i in range(count):
                yield (
                    key_bytes[i * self.key_size : (i + 1) * self.key_size],
                    value_bytes[i * self.stored_size : (i + 1) * self.stored_size],
                )
            if result == -errno.ENOENT:
                return
            token_in, token_out, first = token_out, token_in, False

    def _element(self, command: int, key: BYTES_LIKE, value_at: int) -> int:
        self._sized(key, self.key_size, "key")
        key_at, keep = _address(key)
        result = _call(command, _ELEMENT.pack(self.fd, key_at, value_at, 0))
        del keep
        return result

    def _batch(
        self, command: int, keys: int, values: int, count: int, token_in: int = 0, token_out: int = 0
    ) -> tuple[int, int]:
        """The result and how many entries were done."""
        attributes = ctypes.create_string_buffer(
            _BATCH.pack(token_in, token_out, keys, values, count, self.fd, 0, 0), _BATCH.size
        )
        result = _call(command, attributes)
        done: int = _BATCH.unpack(attributes.raw)[4]
        # EFAULT means that nothing was done, and that the kernel did not write the count back.
        return result, 0 if result == -errno.EFAULT else done

    def _sized(self, data: BYTES_LIKE, size: int, what: str) -> None:
        if len(data) != size:
            raise ValueError(f"map {self.name}: {what}: {size} bytes wanted, {len(data)} given")

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            raise BpfError(f"{what} map '{self.name}'", -result)


@lru_cache(maxsize=1)
def possible_cpus() -> int:
    """How many values a per-CPU map stores for each key."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    ends = [part.split("-") for part in text.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def sum_per_cpu(stored: bytes, fields: struct.Struct) -> tuple[int, ...]:
    """The values of all CPUs added up, field by field; `fields` unpacks one value into integers."""
    stride = (fields.size + 7) // 8 * 8
    columns = zip(*(fields.unpack_from(stored, at) for at in range(0, len(stored), stride)), strict=True)
    return tuple(map(sum, columns))


def create_map(map_type: int, key_size: int, value_size: int, max_entries: int, name: str, flags: int = 0) -> BpfMap:
    """A new map, gone with its last file descriptor unless pinned."""
    fd = _call(MAP_CREATE, _CREATE.pack(map_type, key_size, value_size, max_entries, flags))
    if fd < 0:
        raise BpfError(f"create map '{name}'", -fd)
    return BpfMap(fd, name)


def map_info(fd: int, name: str) -> MapInfo:
    """What the kernel says of the map behind `fd`; `name` is for messages."""
    buffer = ctypes.create_string_buffer(_MAP_INFO.size)
    result = _call(OBJ_GET_INFO_BY_FD, _INFO.pack(fd, _MAP_INFO.size, ctypes.addressof(buffer)))
    if result < 0:
        raise BpfError(f"inspect map '{name}'", -result)
    map_type, number, key_size, value_size, max_entries, flags, kernel_name = _MAP_INFO.unpack(buffer.raw)
    kernel_name = kernel_name.rstrip(b"\0").decode()
    return MapInfo(map_type, number, key_size, value_size, max_entries, flags, kernel_name)


# ---- programs ----


def program_info(fd: int, name: str) -> ProgramInfo:
    """What the kernel says of the program behind `fd`; `name` is for messages."""
    limit = 64
    ids = (ctypes.c_uint32 * limit)()
    buffer = ctypes.create_string_buffer(
        _PROG_INFO.pack(0, 0, b"", 0, 0, 0, 0, 0, 0, limit, ctypes.addressof(ids), b""), _PROG_INFO.size
    )
    result = _call(OBJ_GET_INFO_BY_FD, _INFO.pack(fd, _PROG_INFO.size, ctypes.addressof(buffer)))
    if result < 0:
        raise BpfError(f"inspect program '{name}'", -result)
    unpacked = _PROG_INFO.unpack(buffer.raw)
    map_ids = frozenset(ids[: min(unpacked[9], limit)])
    return ProgramInfo(unpacked[1], unpacked[0], unpacked[2], unpacked[11].rstrip(b"\0").decode(), map_ids)


def test_run(prog_fd: int, frame: bytes, ifindex: int = 0, repeat: int = 1, mark: int = 0) -> TestRun:
    """Runs a tc program on one frame (14 bytes at least) as if it had arrived at `ifindex`, which must exist in the
    current network namespace; 0 stands for its loopback interface. Nothing is sent, whatever the program decides; maps
    are the real ones. With `repeat` the program runs so often over the same frame, rewritten as it is."""
    source, keep = _address(frame)
    # Room for encapsulation.
    out = ctypes.create_string_buffer(len(frame) + 512)
    context = ctypes.create_string_buffer(_SK_BUFF_BYTES)
    struct.pack_into("=I", context, _SK_BUFF_MARK, mark)
    struct.pack_into("=I", context, _SK_BUFF_IFINDEX, ifindex)
    at = ctypes.addressof(context)
    attributes = ctypes.create_string_buffer(
        _TEST.pack(
            *(prog_fd, 0, len(frame), len(out), source, ctypes.addressof(out), repeat, 0),
            *(_SK_BUFF_BYTES, _SK_BUFF_BYTES, at, at, 0, 0, 0, 0),
        ),
        _TEST.size,
    )
    result = _call(PROG_TEST_RUN, attributes)
    del keep
    if result < 0:
        raise BpfError(f"test run over {len(frame)} bytes at interface {ifindex}", -result)
    answer = _TEST.unpack(attributes.raw)
    mark, priority = (struct.unpack_from("=I", context, at)[0] for at in (_SK_BUFF_MARK, _SK_BUFF_PRIORITY))
    cb = _SK_BUFF_CB.unpack_from(context, _SK_BUFF_CB_AT)
    return TestRun(answer[1], out.raw[: answer[3]], cb, answer[7], mark, priority)


def try_program() -> None:
    """Loads the smallest tc program and lets go of it. Raises BpfError when this process may not load any."""
    # r0 = 0; exit
    code, keep_code = _address(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))
    licence, keep_licence = _address(b"Apache-2.0\0")
    fd = _call(PROG_LOAD, _LOAD.pack(3, 2, code, licence, 0, 0, 0, 0, 0, b"alcor_probe"))
    del keep_code, keep_licence
    if fd < 0:
        raise BpfError("load a program", -fd)
    os.close(fd)


# ---- pins and the BPF file system ----


def pin(fd: int, path: Path) -> None:
    """Gives a map or program a name in a BPF file system. Raises BpfError (EEXIST when the name is taken)."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    result = _call(OBJ_PIN, _PIN.pack(ctypes.addressof(name), fd, 0))
    if result < 0:
        raise BpfError(
            f"pin {path}", -result, "is its directory in a BPF file system?" if -result == errno.EPERM else ""
        )


def open_pin(path: Path) -> int:
    """A file descriptor of what is pinned at `path`."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    fd = _call(OBJ_GET, _PIN.pack(ctypes.addressof(name), 0, 0))
    if fd < 0:
        raise BpfError(f"open pin {path}", -fd)
    return fd


def is_bpffs(directory: Path) -> bool:
    """True when the directory exists and is in a BPF file system."""
    buffer = ctypes.create_string_buffer(256)
    if _libc().statfs(os.fsencode(directory), buffer):
        return False
    return int.from_bytes(buffer.raw[:4], "little" if struct.pack("=H", 1)[0] else "big") == _BPF_FS_MAGIC


def mount_bpffs(directory: Path) -> None:
    """Makes the directory and mounts a BPF file system on it, unless it is in one already. Idempotent."""
    directory.mkdir(parents=True, exist_ok=True)
    # Two that mount at once would stack two file systems: the lock is on the directory underneath.
    beneath = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(beneath, fcntl.LOCK_EX)
        if is_bpffs(directory):
            return
        if _libc().mount(b"alcor", os.fsencode(directory), b"bpf", 0, b"mode=0700"):
            raise BpfError(f"mount a BPF file system on {directory}", ctypes.get_errno())
    finally:
        os.close(beneath)


def unmount_bpffs(directory: Path) -> None:
    """Takes off what `mount_bpffs` mounted there; every pin in it is gone. Nothing mounted: nothing to do."""
    if _libc().umount2(os.fsencode(directory), 0):
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOENT):
            raise BpfError(f"unmount {directory}", number)
