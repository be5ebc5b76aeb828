"""The one door to libbpf: reads an object file, makes or reuses maps, loads programs, reads rings.

Called by program.py and misses.py of the ebpf driver. ctypes over libbpf.so.1, a dependency of iproute2, so it is
there; needs no compiler and no kernel headers on the host.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from alcor.dataplane.base import DataPlaneError
from alcor.dataplane.kernel.bpf import BpfError, BpfMap, MapInfo


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts of libbpf 1.x."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("reserved", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", ctypes.c_void_p),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", ctypes.c_uint32),
    )


_ON_RECORD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@lru_cache(maxsize=1)
def _libbpf() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise DataPlaneError(f"libbpf.so.1 cannot be opened ({error}): install the package libbpf1") from None
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in (
        ("libbpf_set_print", pointer, (pointer,)),
        ("bpf_object__open_file", pointer, (text, pointer)),
        ("bpf_object__load", number, (pointer,)),
        ("bpf_object__close", None, (pointer,)),
        ("bpf_object__next_map", pointer, (pointer, pointer)),
        ("bpf_object__next_program", pointer, (pointer, pointer)),
        ("bpf_map__name", text, (pointer,)),
        ("bpf_map__type", number, (pointer,)),
        ("bpf_map__key_size", ctypes.c_uint32, (pointer,)),
        ("bpf_map__value_size", ctypes.c_uint32, (pointer,)),
        ("bpf_map__max_entries", ctypes.c_uint32, (pointer,)),
        ("bpf_map__map_flags", ctypes.c_uint32, (pointer,)),
        ("bpf_map__fd", number, (pointer,)),
        ("bpf_map__reuse_fd", number, (pointer, number)),
        ("bpf_map__set_max_entries", number, (pointer, ctypes.c_uint32)),
        ("bpf_program__name", text, (pointer,)),
        ("bpf_program__fd", number, (pointer,)),
        ("ring_buffer__new", pointer, (number, _ON_RECORD, pointer, pointer)),
        ("ring_buffer__consume", number, (pointer,)),
        ("ring_buffer__epoll_fd", number, (pointer,)),
        ("ring_buffer__free", None, (pointer,)),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    # libbpf writes to standard error; what matters comes back as an error number and the verifier's log.
    lib.libbpf_set_print(None)
    return lib


class ObjectFile:
    """A compiled object, to look at, adjust and load. A context: what is not taken out with `map` / `program` goes
    with it."""

    def __init__(self, path: Path) -> None:
        """Reads the file; touches nothing in the kernel. Raises BpfError when it is missing or no BPF object."""
        self.path = path
        self._log = ctypes.create_string_buffer(1 << 16)
        options = _OpenOptions(
            sz=ctypes.sizeof(_OpenOptions),
            kernel_log_buf=ctypes.cast(self._log, ctypes.c_void_p),
            kernel_log_size=len(self._log),
        )
        self._lib = _libbpf()
        self._object: int | None = self._lib.bpf_object__open_file(os.fsencode(path), ctypes.byref(options))
        if not self._object:
            raise BpfError(f"read {path}", ctypes.get_errno(), "compile it anew: `make setup`")
        self._maps = {self._lib.bpf_map__name(m).decode(): m for m in self._each("bpf_object__next_map")}
        self._programs = {self._lib.bpf_program__name(p).decode(): p for p in self._each("bpf_object__next_program")}

    def __enter__(self) -> ObjectFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.bpf_object__close(self._object)
        self._object = None

    def _each(self, function: str) -> Iterator[int]:
        item = getattr(self._lib, function)(self._object, None)
        while item:
            yield item
            item = getattr(self._lib, function)(self._object, item)

    @property
    def maps(self) -> dict[str, MapInfo]:
        """The maps that the object asks for, by name (id 0)."""
        lib = self._lib
        return {
            name: MapInfo(
                lib.bpf_map__type(m),
                0,
                lib.bpf_map__key_size(m),
                lib.bpf_map__value_size(m),
                lib.bpf_map__max_entries(m),
                lib.bpf_map__map_flags(m),
                name,
            )
            for name, m in self._maps.items()
        }

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of its programs."""
        return tuple(self._programs)

    def resize(self, name: str, max_entries: int) -> None:
        """Makes the map with another size. Before `load`."""
        self._ok(self._lib.bpf_map__set_max_entries(self._maps[name], max_entries), f"resize map '{name}'")

    def reuse(self, name: str, fd: int) -> None:
        """Uses an existing map instead of making one; `fd` stays the caller's. Before `load`."""
        self._ok(self._lib.bpf_map__reuse_fd(self._maps[name], fd), f"reuse map '{name}'")

    def load(self) -> None:
        """Makes the maps and loads the programs. Raises BpfError with the end of the verifier's log."""
        result = self._lib.bpf_object__load(self._object)
        if result < 0:
            log = self._log.value.decode(errors="replace").strip().splitlines()
            detail = "\n".join(log[-12:])
            raise BpfError(f"load {self.path.name}", -result, detail and f"the verifier's last words:\n{detail}")

    def map(self, name: str) -> BpfMap:
        """The loaded map, on a file descriptor of its own."""
        return BpfMap(os.dup(self._lib.bpf_map__fd(self._maps[name])), name)

    def program(self, name: str) -> int:
        """The loaded program's file descriptor, the caller's to close."""
        return os.dup(self._lib.bpf_program__fd(self._programs[name]))

    def _ok(self, result: int, what: str) -> None:
        if result < 0:
            raise BpfError(what, -result)


class RingBuffer:
    """The reader of a ring that programs write records into. One thread at a time."""

    def __init__(self, fd: int) -> None:
        """Reads the ring of that map, which stays the caller's. Raises BpfError."""
        self._lib = _libbpf()
        self._taken: list[bytes] = []
        self._callback = _ON_RECORD(self._on_record)
        self._ring: int | None = self._lib.ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise BpfError("read the ring", ctypes.get_errno())

    def close(self) -> None:
        """Lets go of it; records that wait stay in it."""
        self._lib.ring_buffer__free(self._ring)
        self._ring = None

    def fileno(self) -> int:
        """Readable when there is a record."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def take(self) -> list[bytes]:
        """Every record that waits, in the order of writing. Raises BpfError."""
        result = self._lib.ring_buffer__consume(self._ring)
        taken, self._taken = self._taken, []
        if result < 0:
            raise BpfError("read the ring", -result)
        return taken

    def _on_record(self, _context: int | None, data: int, size: int) -> int:
        self._taken.append(ctypes.string_at(data, size))
        return 0
