"""The server process under measurement. Called by the benches of the API and of the bus."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from alcor.kit.pki import issue, make_ca

STOP_TIMEOUT_S = 30
_ACTIVATED = """
import os, sys
os.dup2(int(sys.argv.pop(1)), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
from alcor.roles.main import main
main()
"""


class Server:
    """`alcor server` on a socket that outlives it."""

    def __init__(self, arguments: list[str], listener: socket.socket, environment: Mapping[str, str]) -> None:
        self.port: int = listener.getsockname()[1]
        self._arguments = arguments
        self._listener = listener
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It is handed its listening socket (sd_listen_fds(3)), so its port is the kernel's choice, and a request may
        be sent before it is up."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ACTIVATED, str(self._listener.fileno()), *self._arguments],
            pass_fds=[self._listener.fileno()],
            env={**os.environ, "ALCOR_SERVER_LOG_LEVEL": "ERROR", "ALCOR_SERVER_BUS": "none", **self._environment},
        )

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends it and waits until it has ended; SIGKILL after STOP_TIMEOUT_S."""
        process = self._running
        process.send_signal(number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def cpu_seconds(self) -> float:
        """What it has used so far, in all threads (proc_pid_stat(5), fields 14 and 15)."""
        fields = Path(f"/proc/{self._running.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_memory(self) -> int:
        """Bytes, the most it was resident with so far (proc_pid_status(5), VmHWM)."""
        status = Path(f"/proc/{self._running.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


@contextmanager
def serve(directory: Path, name: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server with a new database, its certificates made here; ended when the block ends. It has no bus unless
    `environment` (ALCOR_SERVER_*) says otherwise."""
    make_ca(directory / "ca")
    issue(directory / "ca", directory / "tls", "bench", role="controller", addresses=["127.0.0.1"])
    arguments = ["server", "--database", str(directory / f"{name}.db"), "--tls-dir", str(directory / "tls")]
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        server = Server(arguments, listener, environment or {})
        server.start()
        try:
            yield server
        finally:
            server.end()
