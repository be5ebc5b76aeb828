"""The lab's fork server: starts the same `alcor` code as the command line, in milliseconds instead of half a second.

Run by processes as `python -m alcor.lab.spawner FD`; it imports the program once and forks one process per request,
each with its own namespace, log, environment and descriptors. Only imports happen before a fork: grpc starts its
threads with the first channel or server, so a child is as if started by itself. A `fresh` request executes a new
interpreter instead, for what must not share memory with its brothers.

Requests and answers are one JSON object per packet on a SOCK_SEQPACKET socket; descriptors ride along (SCM_RIGHTS) and
appear in the child from 3 on, as systemd hands over sockets (sd_listen_fds(3)). With `module`, the child is
`python -m MODULE ARGV...` instead of `alcor ARGV...`, with `program` that. When the lab's end closes, for whatever
reason, every child is killed: a lab that dies takes its processes along, unless it said `detach`.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import importlib.metadata
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import NoReturn

from alcor.dataplane.kernel import netns
from alcor.lab.rundir import Process, RunDirectory, start_time

MAX_PACKET = 65536
MAX_FDS = 8
LISTEN_FDS_START = 3
FD_CEILING = 1 << 20
PRELOAD = ("alcor.roles.agent", "alcor.dataplane.ebpf.driver", "alcor.dataplane.fake.driver")
"""Imported before the first fork, when they are there."""


class Spawner:
    """The server's side: one lab, any number of children."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._children: dict[int, str] = {}
        self._main = load_main()
        warm_up(self._main)
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Until the lab's end closes, or says detach."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the lab's to answer
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # keeps the collector from writing to, and so copying, what the children share
        self._send({"event": "ready"})
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._reader, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is not self._channel:
                        self._reap()
                    elif not self._receive():
                        return

    def _receive(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._channel, MAX_PACKET, MAX_FDS)
        try:
            if not data:
                for pid in self._children:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return False
            request = json.loads(data)
            if request["op"] == "detach":
                return False
            self._start(request, fds)
            return True
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, request: dict[str, object], fds: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            become(request, fds, self._main)
        name = str(request["name"])
        self._children[pid] = name
        started = start_time(pid) or 0
        RunDirectory(Path(str(request["run"]))).record(Process(pid, started, name))
        self._send({"event": "started", "name": name, "pid": pid, "started": started})

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                name = self._children.pop(pid, "")
                self._send({"event": "ended", "name": name, "pid": pid, "code": os.waitstatus_to_exitcode(status)})

    def _send(self, event: dict[str, object]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the lab is gone: the next receive sees it
            self._channel.send(json.dumps(event).encode())


def become(request: dict[str, object], fds: list[int], main: Callable[[], object]) -> NoReturn:
    """In the child: the process that was asked for. Never returns."""
    code = 1
    try:
        _settle(request, fds)
        arguments = [str(one) for one in _list(request["argv"])]
        if program := str(request.get("program") or ""):
            os.execv(program, [program, *arguments])
        if request.get("module"):
            os.execv(sys.executable, [sys.executable, "-m", str(request["module"]), *arguments])
        if request.get("fresh"):
            os.execv(sys.executable, [sys.executable, "-c", FRESH, *arguments])
        sys.argv = ["alcor", *arguments]
        gc.unfreeze()
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


FRESH = "import sys; from alcor.lab.spawner import load_main; sys.argv[0] = 'alcor'; sys.exit(load_main()())"


def _settle(request: dict[str, object], fds: list[int]) -> None:
    """Session, log, namespace, descriptors of the child."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    if request.get("netns"):
        fd = netns.open_path(str(request["netns"]))
        netns.set_net(fd)
    # Above everything that is needed, so that no copy lands on one; then down to where they belong.
    lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD, LISTEN_FDS_START + MAX_FDS) for fd in (null, log, log, *fds)]
    for target, fd in enumerate(lifted):
        os.dup2(fd, target, inheritable=True)
    os.closerange(len(lifted), FD_CEILING)
    for name, value in _pairs(request.get("environment")):
        os.environ[name] = value
    if fds:
        os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid()))


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"argv is {value!r}, not a list")
    return value


def _pairs(value: object) -> list[tuple[str, str]]:
    return [(str(name), str(text)) for name, text in value.items()] if isinstance(value, dict) else []


def load_main() -> Callable[[], object]:
    """What the `alcor` command runs, found as its script finds it; the lab itself may not import roles."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="alcor")
    main: Callable[[], object] = entry.load()
    return main


def warm_up(main: Callable[[], object]) -> None:
    """Imports now what the command line imports only when it is used: half of an agent's start, otherwise.

    The command is one that is refused as soon as its options are read.
    """
    for name in PRELOAD:
        importlib.import_module(name)
    sys.argv = ["alcor", "agent", "--config", os.devnull + "/none"]
    with open(os.devnull, "w") as null, redirect_stderr(null), suppress(SystemExit):  # noqa: PTH123 - a device
        main()


def run(fd: int) -> None:
    """The fork server's program."""
    with socket.socket(fileno=fd) as channel:
        Spawner(channel).serve()


if __name__ == "__main__":
    run(int(sys.argv[1]))
