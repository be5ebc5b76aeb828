"""Socket activation and readiness: the service manager's side of starting a role. Called by server and agent.

Protocols: sd_listen_fds(3) (`LISTEN_PID`, `LISTEN_FDS`) and sd_notify(3) (`NOTIFY_SOCKET`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

FIRST_FD = 3


def take_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets this process was handed, if it was; takes the variables out, as the protocol asks."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


def notify_ready(environment: MutableMapping[str, str]) -> None:
    """Tells the service manager that the role is ready; does nothing where nobody listens."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.sendto(b"READY=1", address)
