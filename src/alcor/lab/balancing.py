"""Load balancers, proved with real clients: who answers, who answers no more, what goes on meanwhile. Called by run.

Members are small TCP servers in containers of every host; each says its name and then repeats what it is sent. The
client is another container, which knows the balancer's address only.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from alcor.dataplane.kernel import netns
from alcor.lab import failover
from alcor.lab.client import Client, Resource, await_true
from alcor.lab.proofs import SILENCE_S, Drops, World
from alcor.lab.results import Proof
from alcor.lab.workloads import Workload, by_host

PORT, MEMBER_PORT = 80, 8080
CONNECTIONS = 200
MEMBERS = 8
"""At most; one for each host."""
PATIENCE_S = 30.0
DRAINED_S = 10.0
"""A hundred hosts on two cores take a second for as many new Maglev tables (decision 0034)."""


class Balanced(NamedTuple):
    """What was proved, and how long after the thresholds of their health checks members that failed still got
    connections."""

    proofs: Sequence[Proof] = ()
    failovers_ms: Sequence[float] = ()


def prove(
    client: Client, world: World, drops: Drops, log_of: Callable[[str], Path], check: Callable[[], None]
) -> Balanced:
    """One balancer over a member of every host, and what becomes of its connections. `log_of`: of a host's agent."""
    asking = world.vpc[0]
    members = [them[-1] for them in by_host(world.vpc).values() if them[-1].id != asking.id][:MEMBERS]
    if len(members) < 2:
        return Balanced()
    with ExitStack() as stack:
        servers = {one.ip: stack.enter_context(Server(one)) for one in members}
        balancer = _make(client, asking, members)
        stack.callback(client.request, "DELETE", f"/v2.0/lbaas/loadbalancers/{balancer['id']}?cascade=true")
        vip = balancer["vip_address"]
        await_true(lambda: ask(asking, vip) is not None, "the load balancer to answer", PATIENCE_S, 0.05, check)
        proofs = [
            _spread(asking, vip, servers),
            _nobody(asking, vip, drops),
            _affinity(client, asking, vip, balancer, check),
            _draining(client, asking, vip, balancer),
        ]
        clients = [them[0] for them in by_host(world.vpc).values() if them[0] not in members][: failover.CLIENTS]
        fragile = {one.ip: (one, servers[one.ip]) for one in members}
        rounds = failover.watch(client, (vip, PORT), balancer["pool"], fragile, clients, log_of, check)
        proofs += [failover.judge(rounds), _counted(client, balancer, check)]
        return Balanced(proofs, [one.after_ms for one in rounds])


def _make(client: Client, asking: Workload, members: Sequence[Workload]) -> Resource:
    def create(path: str, one: str, **body: object) -> Resource:
        made: Resource = client.request("POST", f"/v2.0/lbaas/{path}", {one: body})[one]
        return made

    balancer = create("loadbalancers", "loadbalancer", vip_subnet_id=asking.subnet_id, name="lab")
    listener = create("listeners", "listener", loadbalancer_id=balancer["id"], protocol="TCP", protocol_port=PORT)
    pool = create("pools", "pool", listener_id=listener["id"], protocol="TCP", lb_algorithm="ROUND_ROBIN")
    them = [{"address": one.ip, "protocol_port": MEMBER_PORT} for one in members]
    client.request("PUT", f"/v2.0/lbaas/pools/{pool['id']}/members", {"members": them})
    return {**balancer, "pool": pool["id"]}


def _spread(asking: Workload, vip: str, servers: dict[str, Server]) -> Proof:
    for server in servers.values():
        server.sources.clear()
    started = time.monotonic()
    answers = Counter(ask(asking, vip) for _ in range(CONNECTIONS))
    took_ms = 1000 * (time.monotonic() - started) / CONNECTIONS
    lost = answers.pop(None, 0)
    fewest, most = min(answers.values(), default=0), max(answers.values(), default=0)
    sources = {source for server in servers.values() for source in server.sources}
    return Proof(
        name="connections are spread",
        expectation="every member of the load balancer answers some, none is lost, members see the client's address",
        measured=f"{CONNECTIONS} connections to {len(answers)}/{len(servers)} members, {fewest} to {most} each, "
        f"{lost} lost, {took_ms:.1f} ms each; they come from {', '.join(sorted(sources))}",
        passed=not lost and len(answers) == len(servers) and sources == {asking.ip},
    )


def _nobody(asking: Workload, vip: str, drops: Drops) -> Proof:
    before = drops(asking).get("no_listener", 0)
    answered = ask(asking, vip, port=PORT + 1, timeout_s=SILENCE_S)
    counted = drops(asking).get("no_listener", 0) - before
    return Proof(
        name="no listener, no answer",
        expectation="another port of the load balancer's address answers nobody, and it is counted why",
        measured=f"{'an answer' if answered else 'no answer'}, {counted} counted as no_listener",
        passed=answered is None and counted > 0,
    )


def _affinity(client: Client, asking: Workload, vip: str, balancer: Resource, check: Callable[[], None]) -> Proof:
    path = f"/v2.0/lbaas/pools/{balancer['pool']}"
    client.request("PUT", path, {"pool": {"lb_algorithm": "SOURCE_IP"}})
    await_true(
        lambda: len({ask(asking, vip) for _ in range(10)}) == 1, "one member for a client", PATIENCE_S, 0.05, check
    )
    answers = Counter(ask(asking, vip) for _ in range(CONNECTIONS // 4))
    client.request("PUT", path, {"pool": {"lb_algorithm": "ROUND_ROBIN"}})
    await_true(lambda: len({ask(asking, vip) for _ in range(10)}) > 1, "several members again", PATIENCE_S, 0.05, check)
    return Proof(
        name="source address affinity",
        expectation="with SOURCE_IP all connections of a client go to one member",
        measured=f"{sum(answers.values())} connections to {len(answers)} members",
        passed=len(answers) == 1 and None not in answers,
    )


def _draining(client: Client, asking: Workload, vip: str, balancer: Resource) -> Proof:
    with _connect(asking, vip) as kept:
        held = _line(kept)
        path = _member_path(client, balancer, held)
        client.request("PUT", path, {"member": {"weight": 0}})
        changed = latest = time.monotonic()
        lost = elsewhere = 0  # connections in a row that others have: as many by chance never happen
        while not lost and elsewhere < CONNECTIONS and latest < changed + DRAINED_S:
            opened = time.monotonic()
            answerer = ask(asking, vip)
            lost += answerer is None
            if answerer == held:
                latest, elsewhere = opened, 0
            else:
                elsewhere += 1
        client.request("DELETE", path)
        kept.sendall(b"still there\n")
        echoed = _line(kept)
    address = {"address": held, "protocol_port": MEMBER_PORT}
    client.request("PUT", f"/v2.0/lbaas/pools/{balancer['pool']}/members?additive_only=true", {"members": [address]})
    return Proof(
        name="draining",
        expectation=f"a member of weight 0, then deleted, keeps its connection, and in {DRAINED_S:.0f} s "
        "gets no new one",
        measured=f"its last new one {1000 * (latest - changed):.0f} ms after the change, {elsewhere} elsewhere since; "
        f"{lost} lost; the old one {'lives' if echoed == 'still there' else 'is dead'}",
        passed=elsewhere >= CONNECTIONS and not lost and echoed == "still there",
    )


def _counted(client: Client, balancer: Resource, check: Callable[[], None]) -> Proof:
    path = f"/v2.0/lbaas/loadbalancers/{balancer['id']}/stats"

    def stats() -> Resource:
        found: Resource = client.get(path)["stats"]
        return found

    await_true(lambda: stats()["total_connections"] >= CONNECTIONS, "statistics", PATIENCE_S, 0.2, check)
    found = stats()
    return Proof(
        name="statistics",
        expectation="connections and bytes of all hosts are added up",
        measured=", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in sorted(found.items())),
        passed=found["bytes_in"] > 0 and found["bytes_out"] > 0,
    )


def _member_path(client: Client, balancer: Resource, ip: str) -> str:
    path = f"/v2.0/lbaas/pools/{balancer['pool']}/members"
    found = next(one["id"] for one in client.get(path)["members"] if one["address"] == ip)
    return f"{path}/{found}"


# ---- clients and servers ----


class Place(Protocol):
    """Where a program is: a network namespace, and the address that it has there."""

    @property
    def netns(self) -> Path: ...

    @property
    def ip(self) -> str: ...


def _inside(where: Path, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket of that namespace."""
    fd = netns.open_path(where)
    try:
        return netns.call(fd, make)
    finally:
        os.close(fd)


def _connect(asking: Place, vip: str, port: int = PORT, timeout_s: float = 2.0) -> socket.socket:
    one = _inside(asking.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    try:
        one.settimeout(timeout_s)
        one.connect((vip, port))
    except BaseException:
        one.close()
        raise
    return one


def _line(one: socket.socket) -> str:
    found = b""
    while not found.endswith(b"\n"):
        more = one.recv(256)
        if not more:
            break
        found += more
    return found.decode().strip()


def ask(asking: Place, vip: str, port: int = PORT, timeout_s: float = 2.0) -> str | None:
    """Who answers a new connection; None: nobody."""
    with suppress(OSError), _connect(asking, vip, port, timeout_s) as one:
        return _line(one) or None
    return None


class Server:
    """A TCP server in a container. A context."""

    def __init__(self, where: Place) -> None:
        self._where = where
        self.sources: set[str] = set()
        """Whose connections came."""
        self._ended = False

    def __enter__(self) -> Server:
        self.start()
        return self

    def start(self) -> None:
        """Listens; also again, after `stop`."""
        self._ended = False

        def listen() -> socket.socket:
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", MEMBER_PORT))
            one.listen(128)
            one.settimeout(0.1)
            return one

        self._listener = _inside(self._where.netns, listen)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it: its port is closed."""
        self._ended = True
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, (source, *_) = self._listener.accept()
            except TimeoutError:
                continue
            with suppress(OSError):
                connection.sendall(f"{self._where.ip}\n".encode())
            self.sources.add(source)
            threading.Thread(target=self._repeat, args=(connection,), daemon=True).start()

    def _repeat(self, connection: socket.socket) -> None:
        connection.settimeout(0.2)
        with connection:
            while not self._ended:
                try:
                    data = connection.recv(4096)
                    if not data:
                        return
                    connection.sendall(data)
                except TimeoutError:
                    continue
                except OSError:
                    return
