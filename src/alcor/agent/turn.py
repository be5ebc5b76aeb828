"""Whose turn it is on a host: the agent's, or the standby's while the agent is dead or hung. Called by roles and tests.

Two locks (flock(2), which the kernel drops when a process dies, however it dies) in the agent's state directory:
`claim` is held by the agent from its first moment, `lock` by whoever owns journal, driver and address now. A standby
takes `lock` when nobody has had it for a while, and gives it back when it sees `claim` taken. An agent that holds
`lock` but does not answer on the socket `alive` for long, or holds `claim` and does not take a free `lock`, is hung:
the standby ends it (SIGKILL) before it takes over, because a hung agent that wakes up must not program beside it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

_log = logging.getLogger(__name__)

POLL_S = 0.05
CLAIM_S = 0.5
"""How long a claim is tried: a standby that looks at it holds it for a moment."""
YIELD_S = 4.0
"""How long an agent waits for the standby to yield; then it is hung, and ended."""
ALIVE, STUCK = b"alive\n", b"stuck\n"


class AgentBusy(Exception):
    """Another agent runs on this state directory: which, and what to do."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """When a standby takes over, in seconds."""

    dead_s: float = 0.5
    """The lock was free for so long: an agent that is merely restarted comes first."""
    hung_s: float = 5.0
    """The agent holds the lock and has not answered for so long."""


@asynccontextmanager
async def agent_turn(state_dir: Path) -> AsyncIterator[None]:
    """The agent's turn, as soon as a standby has yielded. Raises AgentBusy."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / "lock"
    claim = await _take(state_dir / "claim", CLAIM_S)
    if claim is None:
        raise AgentBusy(f"another agent holds {path}: stop it first, or give this one a state directory of its own")
    try:
        _sign(claim)
        lock = await _take(path, YIELD_S)
        if lock is None:
            _log.error("the standby (%s) has not yielded for %g s: ending it", _holder(path), YIELD_S)
            _end_holder(path)
            lock = await _take(path, YIELD_S)
        if lock is None:
            raise AgentBusy(f"the standby ({_holder(path)}) does not give {path} back: stop it")
        try:
            _sign(lock)
            yield
        finally:
            os.close(lock)
    finally:
        os.close(claim)


@asynccontextmanager
async def standby_turn(state_dir: Path, patience: Patience) -> AsyncIterator[Callable[[], bool]]:
    """The standby's turn: entered when the agent is dead, or was hung and is ended. Yields a question: does the agent
    want its place back? Then leave."""
    state_dir.mkdir(parents=True, exist_ok=True)
    lock = await _await_dead(state_dir, patience)
    try:
        _sign(lock)
        yield lambda: _claimed(state_dir)
    finally:
        os.close(lock)


@asynccontextmanager
async def answering(state_dir: Path, stuck: Callable[[], bool]) -> AsyncIterator[None]:
    """Answers whoever asks on the socket `alive` that this process is well, while `stuck` says no."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(STUCK if stuck() else ALIVE)
            await writer.drain()
        writer.close()

    path = state_dir / "alive"
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(answer, path)
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _await_dead(state_dir: Path, patience: Patience) -> int:
    """Returns the lock's descriptor once it is the standby's turn."""
    loop = asyncio.get_running_loop()
    path, claim = state_dir / "lock", state_dir / "claim"
    well = loop.time()
    """When somebody was last seen who serves, or is about to, or may still be waited for."""
    free_since: float | None = None
    while True:
        lock = _try(path)
        if lock is not None:
            claimed = _claimed(state_dir)
            if not claimed and free_since is not None and loop.time() - free_since >= patience.dead_s:
                return lock
            if claimed:
                free_since = None  # the agent is about to take it
            else:
                well = loop.time()
                free_since = well if free_since is None else free_since
            os.close(lock)
        else:
            free_since = None
            if await _alive(state_dir / "alive", patience.hung_s / 2):
                well = loop.time()
        if loop.time() - well >= patience.hung_s:
            hung = claim if lock is not None else path
            _log.error("the agent (%s) has not answered for %.1f s: ending it", _holder(hung), patience.hung_s)
            _end_holder(hung)
            well = loop.time()
        await asyncio.sleep(POLL_S if lock is not None or free_since else min(POLL_S * 4, patience.hung_s / 10))


async def _alive(path: Path, timeout_s: float) -> bool:
    """The holder of the lock answers, and is well."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.readline() == ALIVE
            finally:
                writer.close()
    return False


async def _take(path: Path, timeout_s: float) -> int | None:
    """A lock, tried for so long."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while (descriptor := _try(path)) is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_S / 5)
    return descriptor


def _try(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _claimed(state_dir: Path) -> bool:
    claim = _try(state_dir / "claim")
    if claim is None:
        return True
    os.close(claim)
    return False


def _sign(lock: int) -> None:
    """Writes who holds it: pid, and its start time in clock ticks since boot (proc(5)), so that a pid used again is
    not taken for it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} {_started(os.getpid())}\n".encode(), 0)


def _holder(path: Path) -> str:
    return f"process {(path.read_text().split() or ['?'])[0]}"


def _started(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _end_holder(path: Path) -> None:
    words = path.read_text().split()
    if len(words) != 2 or not words[0].isdigit():
        return
    pid = int(words[0])
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _started(pid) == words[1]:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
