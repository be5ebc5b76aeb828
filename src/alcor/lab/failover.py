"""A member of a load balancer that fails, proved with real clients: how soon after the threshold of its health check
new connections go to the others only. Called by balancing.

Clients on several hosts open connections all the time. In turns, a member's program ends (its port is closed), or the
member is heard by nobody any more. The threshold is reached when `FALL` checks in a row have failed; the agent next to
the member makes them, and its log says when. A connection that nobody answers went to the member that failed.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from alcor.dataplane.kernel import netns
from alcor.lab.client import Client, await_true
from alcor.lab.harm import restore, swallow
from alcor.lab.results import Proof, percentile
from alcor.lab.workloads import Workload
from alcor.model.addresses import parse_ip

ROUNDS = 6
CLIENTS = 4
"""At most, each on a host of its own."""
EVERY_S = 0.01
"""Between two connections of a client."""
PATIENT_S = 0.5
"""So long a connection may wait for its answer."""
LEAD_S = 0.3
"""Of connections before the member fails."""
WATCH_S, QUIET_S = 3.5, 1.0
"""Of connections after the threshold; of those that were opened in the last second of it none may be lost."""
CHECK_S, CHECK_TIMEOUT_S, FALL = 1, 1, 2
PATIENCE_S = 30.0


class Call(NamedTuple):
    """A connection that was opened, at a time of the wall clock (s), and who answered it."""

    at: float
    by: str | None


class Round(NamedTuple):
    """One failure: how, when its health check's threshold was reached, what connections were opened around it, and how
    many members the API showed in ERROR in the end."""

    silent: bool
    threshold: float
    calls: tuple[Call, ...]
    in_error: int

    @property
    def lost(self) -> int:
        """Connections that nobody answered."""
        return sum(call.by is None for call in self.calls)

    @property
    def after_ms(self) -> float:
        """From the threshold until the last connection was opened that nobody answered; 0: none was opened after it."""
        return max([0.0, *(1000 * (call.at - self.threshold) for call in self.calls if call.by is None)])

    @property
    def proved(self) -> bool:
        """The member had connections and failed, in the end the others answer all, and the API knows."""
        end = self.threshold + WATCH_S - PATIENT_S
        tail = [call for call in self.calls if end - QUIET_S < call.at < end]
        return bool(self.lost and tail) and all(call.by is not None for call in tail) and self.in_error == 1


class Member(Protocol):
    """The program of a pool's member."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class _Line(msgspec.Struct):
    """Of an agent's log."""

    event: str = ""
    timestamp: datetime | None = None


def threshold_in(log: str, member: str, since: float) -> float | None:
    """When the agent says that the member failed its checks, the first time since then; wall clock, s. What is no line
    of a log (yet) is passed over."""
    for line in log.splitlines():
        with suppress(msgspec.DecodeError):
            one = msgspec.json.decode(line, type=_Line)
            if one.event.startswith(f"member {member} does not answer") and one.timestamp is not None:
                at = one.timestamp.timestamp()
                if at >= since:
                    return at
    return None


def watch(
    client: Client,
    vip: tuple[str, int],
    pool: str,
    members: Mapping[str, tuple[Workload, Member]],
    clients: Sequence[Workload],
    log_of: Callable[[str], Path],
    check: Callable[[], None],
) -> list[Round]:
    """Gives the pool a health monitor, and lets members fail, one after another; each is back before the next.
    `members` by address; `log_of`: of a host's agent."""
    body = {"pool_id": pool, "type": "TCP", "delay": CHECK_S, "timeout": CHECK_TIMEOUT_S, "max_retries": 1}
    client.request("POST", "/v2.0/lbaas/healthmonitors", {"healthmonitor": {**body, "max_retries_down": FALL}})
    path = f"/v2.0/lbaas/pools/{pool}/members"
    found = []
    for number in range(ROUNDS):
        _await_online(client, path, check)
        named = {one["address"]: one["id"] for one in client.get(path)["members"]}
        address = sorted(members)[number % len(members)]
        where, server = members[address]
        silent, since = bool(number % 2), time.time()
        with Callers(clients, *vip) as callers:
            time.sleep(LEAD_S)
            with _failing(where, server, [vip[0], *(one.ip for one in clients)] if silent else []):
                log = log_of(where.host.name)
                at = _await_threshold(log, named[address], since, check)
                time.sleep(max(0.0, at + WATCH_S - time.time()))
                statuses = [one["operating_status"] for one in client.get(path)["members"]]
        found.append(Round(silent, at, tuple(callers.calls), statuses.count("ERROR")))
    _await_online(client, path, check)
    return found


def judge(rounds: Sequence[Round]) -> Proof:
    """Every member that failed lost its connections in time."""
    taken = [one.after_ms for one in rounds]
    proved = sum(one.proved for one in rounds)
    return Proof(
        name="a member that fails",
        expectation=f"after its health check's threshold ({FALL} failed checks in a row) new connections go to the "
        "others only",
        measured=f"{len(rounds)} failures, every second one silent, {proved} proved; the last connection "
        f"that nobody answered was opened {percentile(taken, 0.5):.0f} ms after the threshold, {max(taken):.0f} ms "
        f"at worst; of {sum(len(one.calls) for one in rounds):,} connections {sum(one.lost for one in rounds):,} were "
        "lost, most before it",
        passed=proved == len(rounds),
    )


def _await_online(client: Client, path: str, check: Callable[[], None]) -> None:
    def online() -> bool:
        return {one["operating_status"] for one in client.get(path)["members"]} == {"ONLINE"}

    await_true(online, "members to be ONLINE", PATIENCE_S, 0.05, check)


def _await_threshold(log: Path, member: str, since: float, check: Callable[[], None]) -> float:
    found: list[float] = []

    def logged() -> bool:
        at = threshold_in(log.read_text(errors="replace"), member, since)
        found.extend([at] if at is not None else [])
        return bool(found)

    await_true(logged, "an agent to say that a member fails", PATIENCE_S, 0.05, check)
    return found[0]


@contextmanager
def _failing(where: Workload, server: Member, deaf_to: Sequence[str]) -> Iterator[None]:
    """The member's program is not there; or (`deaf_to` are given) nothing that it sends to these arrives."""
    if not deaf_to:
        server.stop()
        yield
        server.start()
        return
    targets = [parse_ip(one) for one in deaf_to if one != where.ip]
    swallow(where.netns, targets)
    try:
        yield
    finally:
        restore(where.netns, targets)


class Callers:
    """Clients that open connections to one address, and what became of these. A context."""

    def __init__(self, clients: Sequence[Workload], address: str, port: int) -> None:
        self._clients = clients
        self._target = address, port
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.calls: list[Call] = []
        """In the order in which they were settled. Those that still wait in the end are not among them."""

    def __enter__(self) -> Callers:
        for one in self._clients:
            thread = threading.Thread(target=self._run, args=(one.netns,), name=f"calls from {one.ip}")
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, where: Path) -> None:
        fd = netns.open_path(where)
        try:
            netns.call(fd, self._call)
        finally:
            os.close(fd)

    def _call(self) -> None:
        """On a thread in the client's namespace, until it is ended."""
        waiting: dict[socket.socket, float] = {}
        with selectors.DefaultSelector() as selector:
            due = time.monotonic()
            while not self._ended.is_set():
                now = time.monotonic()
                if now >= due:
                    due = now + EVERY_S
                    self._open(selector, waiting)
                for key, _ in selector.select(max(0.0, due - now)):
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    self._settle(selector, waiting, one, _answer(one))
                late = time.time() - PATIENT_S
                for one in [one for one, at in waiting.items() if at < late]:
                    self._settle(selector, waiting, one, None)
            for one in waiting:
                one.close()

    def _open(self, selector: selectors.BaseSelector, waiting: dict[socket.socket, float]) -> None:
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setblocking(False)
        waiting[one] = time.time()
        refused = one.connect_ex(self._target) not in (0, errno.EINPROGRESS)
        selector.register(one, selectors.EVENT_READ)
        if refused:
            self._settle(selector, waiting, one, None)

    def _settle(
        self, selector: selectors.BaseSelector, waiting: dict[socket.socket, float], one: socket.socket, by: str | None
    ) -> None:
        self.calls.append(Call(waiting.pop(one), by))
        selector.unregister(one)
        one.close()


def _answer(one: socket.socket) -> str | None:
    """Who says its name on the connection: it comes in one piece."""
    with suppress(OSError):
        return one.recv(256).decode().strip() or None
    return None
