"""`alcor server`, killed in the middle of bulk creates, twenty times: nothing acknowledged is lost or given twice."""

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from alcor.kit import pki
from alcor.model.ids import Id, parse_id
from alcor.model.nouns import Port
from alcor.store.base import Query
from alcor.store.sqlite import SqliteStore

KILLS = 20
CLIENTS = 3
BULK = 200
COMMAND = """
import os
os.dup2(int(os.environ["SOCKET"]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
from alcor.roles.main import main
main()
"""


class Server:
    """The real server process on a database, listening on a socket that outlives it."""

    def __init__(self, directory: Path) -> None:
        pki.make_ca(directory / "ca")
        pki.issue(directory / "ca", directory / "tls", "crash", role="controller")
        self.database = directory / "alcor.db"
        self._command = [sys.executable, "-c", COMMAND, "server", "--database", str(self.database)]
        self._command += ["--tls-dir", str(directory / "tls"), "--log-level", "ERROR"]
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Requests sent before it is up wait in the socket's backlog."""
        self._process = subprocess.Popen(
            self._command,
            pass_fds=[self._listener.fileno()],
            env={
                **os.environ,
                "LISTEN_FDS": "1",
                "SOCKET": str(self._listener.fileno()),
                "ALCOR_SERVER_BUS": "none",
            },
        )

    def end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait()

    def close(self) -> None:
        self._listener.close()

    def post(self, path: str, body: object) -> Any:
        """The answer to a POST that must succeed. Raises OSError or HTTPException when the server dies under it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", path, msgspec.json.encode(body))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status == 201, data
        return msgspec.json.decode(data)


def _post(
    server: Server, network_id: str, acknowledged: set[str], first: threading.Event, killed: threading.Event
) -> None:
    body = {"ports": [{"network_id": network_id}] * BULK}
    with suppress(OSError, http.client.HTTPException):
        while not killed.is_set():
            acknowledged.update(port["id"] for port in server.post("/v2.0/ports", body)["ports"])
            first.set()


def _all_ports(store: SqliteStore) -> dict[Id, Port]:
    found: dict[Id, Port] = {}
    query = Query()
    while page := store.list_ports(query):
        found.update((port.id, port) for port in page)
        query = Query(marker=page[-1].id)
    return found


def _kill_and_kill_again(server: Server, acknowledged: set[str]) -> None:
    dice = random.Random(20261123)
    network_id = server.post("/v2.0/networks", {"network": {"name": "n", "cidr": "10.0.0.0/8"}})["network"]["id"]
    server.post("/v2.0/subnets", {"subnet": {"network_id": network_id, "cidr": "10.0.0.0/12", "ip_version": 4}})
    for _ in range(KILLS):
        first, killed = threading.Event(), threading.Event()
        clients = [
            threading.Thread(target=_post, args=(server, network_id, acknowledged, first, killed))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        assert first.wait(30)
        threading.Event().wait(dice.uniform(0, 0.1))  # the moment of death is the random input of this test
        server.end(signal.SIGKILL)
        killed.set()
        server.start()  # before the clients are waited for: a request may be in the socket's backlog already
        for client in clients:
            client.join(30)


def test_no_kill_of_the_server_loses_or_doubles_anything(tmp_path: Path) -> None:
    """Every port that a client was told of is there after every restart; no address and no MAC is given twice."""
    acknowledged: set[str] = set()
    server = Server(tmp_path)
    server.start()
    try:
        _kill_and_kill_again(server, acknowledged)
    finally:
        server.end(signal.SIGTERM)
        server.close()
    with closing(SqliteStore(server.database)) as store:
        assert not store.check()
        found = _all_ports(store)
    assert set() == {parse_id(text) for text in acknowledged} - found.keys()
    ips = Counter(fixed.ip for port in found.values() for fixed in port.fixed_ips)
    macs = Counter(port.mac for port in found.values())
    assert [] == [value for value, times in (ips + macs).items() if times > 1]
    assert len(acknowledged) >= KILLS * BULK
