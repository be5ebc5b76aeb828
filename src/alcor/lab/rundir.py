"""The run directory: everything a lab makes on the machine is under one directory, so that a later run can remove it.

Called by topology, processes and run. One directory per lab, `<run dir>/<lab id>/`:

    owner        pid and start time of the process that runs the lab; `kept` beside it once the lab is to stay
    processes    one line per process ever started: pid, start time, name
    mnt/         a private tmpfs: names of network namespaces (30 us each there, up to 770 us on a disk: measured)
    bpf/         a bpffs, one directory per host
    data/        configuration, certificates, journals, logs, the server's database: on the directory's own disk

Removing it: end the processes whose pid *and* start time match, detach the mounts (the namespaces go with the last of
both), delete the files. Idempotent; what is absent is gone already.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

DEFAULT_RUN_DIR = Path("/run/alcor/lab")
PREFIX = "alcor-lab-"
KILL_WAIT_S = 10.0
MS_PRIVATE, MS_NOSUID, MS_NODEV, MS_NOEXEC, MNT_DETACH = 1 << 18, 2, 4, 8, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


class Process(NamedTuple):
    """A process, named so that another one with the same pid is never taken for it."""

    pid: int
    started: int
    """Clock ticks from boot to start (field 22 of /proc/PID/stat, proc(5))."""
    name: str = ""

    @property
    def alive(self) -> bool:
        """True while this very process runs (a zombie does not)."""
        return start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Sends a signal if it still runs."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is not there or is a zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def cpu_ticks(pid: int) -> int:
    """CPU time the process has used, user and system, in clock ticks; 0 when it is not there."""
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; none for who is not there, or is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    fields = text[text.rindex(")") + 2 :].split()
    return [] if fields[0] in "ZX" else fields


def this_process(name: str = "lab") -> Process:
    """The calling process."""
    return Process(os.getpid(), start_time(os.getpid()) or 0, name)


class RunDirectory:
    """One lab's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.names = path / "mnt"
        self.pins = path / "bpf"
        self.data = path / "data"

    @classmethod
    def make(cls, parent: Path, *, mounts: bool) -> RunDirectory:
        """A fresh one below `parent`. `mounts`: with the tmpfs and the bpffs, for which it takes root."""
        parent.mkdir(parents=True, exist_ok=True)
        made = cls(parent / secrets.token_hex(3))
        made.path.mkdir(mode=0o755)
        for directory in (made.names, made.pins, made.data):
            directory.mkdir()
        owner = this_process()
        (made.path / "owner").write_text(f"{owner.pid} {owner.started}\n")
        if mounts:
            try:
                _mount("tmpfs", made.names, b"mode=0755,size=64m,nr_inodes=200000")
                _mount("bpf", made.pins, b"mode=0700")
            except OSError:
                made.remove()
                raise
        return made

    def netns(self, name: str) -> Path:
        """Where the namespace of that name is bound."""
        return self.names / f"{PREFIX}{self.id}-{name}"

    def small_disk(self, path: Path, size_mib: int) -> None:
        """Mounts a tmpfs of that size at `path` (made if need be), below the run directory: a disk that can be full."""
        path.mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", path, f"mode=0755,size={size_mib}m".encode())

    def keep(self) -> None:
        """From now on only `cleanup(..., kept=True)` removes it."""
        (self.path / "kept").touch()

    @property
    def kept(self) -> bool:
        """True once `keep` was called."""
        return (self.path / "kept").exists()

    @property
    def owner(self) -> Process | None:
        """Who runs the lab; None when that was never written."""
        return next(iter(_read_processes(self.path / "owner")), None)

    def record(self, process: Process) -> None:
        """Notes a process that must end with the lab. One write to an O_APPEND file: safe from several processes."""
        with (self.path / "processes").open("ab", buffering=0) as file:
            file.write(f"{process.pid} {process.started} {process.name}\n".encode())

    def processes(self) -> list[Process]:
        """Every process ever noted, dead ones too."""
        return _read_processes(self.path / "processes")

    def remove(self) -> None:
        """Ends its processes, detaches its mounts, deletes its files. Idempotent."""
        end([process for process in self.processes() if process.pid != os.getpid()])
        for mount_point in mounts_below(self.path):
            if _libc.umount2(os.fsencode(mount_point), MNT_DETACH) != 0:
                code = ctypes.get_errno()
                if code not in (errno.EINVAL, errno.ENOENT):  # gone with its parent
                    raise OSError(code, f"cannot unmount {mount_point}: {os.strerror(code)}")
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            raise OSError(errno.EBUSY, f"cannot remove {self.path}: look at what is still mounted or open below it")


def end(processes: Iterable[Process], wait_s: float = KILL_WAIT_S) -> None:
    """Kills those that still run and waits until they are gone. Raises TimeoutError when one will not go."""
    left = [process for process in processes if process.alive]
    for process in left:
        process.signal(signal.SIGKILL)
    deadline = time.monotonic() + wait_s
    while left := [process for process in left if process.alive]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {', '.join(str(process.pid) for process in left)} do not end")
        time.sleep(0.005)


def mounts_below(path: Path) -> list[str]:
    """Mount points at or below `path`: outermost first, because detaching one takes everything below along."""
    prefix = f"{path.resolve()}/"
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ", 5)[4].encode().decode("unicode_escape")
        if point.startswith(prefix):
            found.append(point)
    found.sort(key=lambda point: point.count("/"))
    outermost: list[str] = []
    for point in found:
        if not any(point.startswith(f"{other}/") for other in outermost[-64:]):
            outermost.append(point)
    return outermost


def usable_run_dir(asked: Path) -> Path:
    """`asked`; or, where the default is not ours to write, one of this user's own."""
    if asked != DEFAULT_RUN_DIR or os.geteuid() == 0:
        return asked
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"alcor-lab-{os.getuid()}"


def cleanup(run_dir: Path = DEFAULT_RUN_DIR, *, kept: bool = False) -> list[str]:
    """Removes what crashed runs left in `run_dir`: the ids of the labs removed. Idempotent.

    A lab whose owner still runs is left alone, and so is one that was kept, unless `kept`.
    """
    run_dir = usable_run_dir(run_dir)
    if not run_dir.is_dir():
        return []
    removed = []
    for path in sorted(run_dir.iterdir()):
        lab = RunDirectory(path)
        owner = lab.owner
        busy = owner is not None and owner.alive
        if not path.is_dir() or busy or (lab.kept and not kept):
            continue
        lab.remove()
        removed.append(lab.id)
    return removed


def kept_labs(run_dir: Path = DEFAULT_RUN_DIR) -> list[str]:
    """The ids of labs that were kept."""
    run_dir = usable_run_dir(run_dir)
    if not run_dir.is_dir():
        return []
    return sorted(path.name for path in run_dir.iterdir() if RunDirectory(path).kept)


def _mount(kind: str, target: Path, options: bytes) -> None:
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if _libc.mount(kind.encode(), os.fsencode(target), kind.encode(), flags, options) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot mount a {kind} on {target}: {os.strerror(code)}")
    # Private, or every mount namespace of the machine would get a copy of each namespace's name and hold it.
    if _libc.mount(None, os.fsencode(target), None, MS_PRIVATE, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot make {target} private: {os.strerror(code)}")


def _read_processes(path: Path) -> list[Process]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        parts = line.split(" ", 2)
        if len(parts) >= 2 and parts[0].isdigit() and parts[1].isdigit():
            found.append(Process(int(parts[0]), int(parts[1]), parts[2] if len(parts) > 2 else ""))
    return found
