"""roles.activation: sockets handed in, readiness handed out."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from alcor.roles.activation import notify_ready, take_sockets

CHILD = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.dup2(int(sys.argv[1]), 3)
from alcor.roles.activation import take_sockets
print(take_sockets(os.environ)[0].getsockname()[1], "LISTEN_FDS" in os.environ)
"""


def test_a_socket_is_taken_over() -> None:
    """A process that was handed a listening socket has it, and does not hand the variables on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        said = subprocess.run(
            [sys.executable, "-c", CHILD, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"{listener.getsockname()[1]} False" == said.strip()


def test_another_process_variables_are_not_ours() -> None:
    """Sockets meant for another process are left alone."""
    assert [] == take_sockets({"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"})


def test_readiness_reaches_the_manager(tmp_path: Path) -> None:
    """READY=1 arrives at NOTIFY_SOCKET; without one nothing happens."""
    notify_ready({})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify_ready({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert b"READY=1" == manager.recv(64)
