"""The lab's processes: one server, one agent per host, each a process of its own. Called by run, bench and tests.

Starts them through the fork server (spawner), writes their configuration, waits until they answer, notices when one
dies that should not. What each one is started with is what anybody would write by hand: `alcor server --config FILE`,
`alcor agent --config FILE`.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from alcor.bus import credentials
from alcor.dataplane.kernel import netns
from alcor.kit import pki
from alcor.lab.results import LabError
from alcor.lab.rundir import Process, RunDirectory, start_time
from alcor.lab.spawner import MAX_PACKET
from alcor.lab.topology import BGP_TABLE, DEVICE, EXTERNAL_DEVICE, Machine, Topology

AGENT_PORT = 50001
BUS_PORT = 4222
METADATA_PORT = 8775
"""Where the lab's metadata service is, beside the controller (`services`)."""
API_PORT = 9696
REMOTE_ENTRIES = 1 << 17
TRANSLATION_ENTRIES = 1 << 14
FLOW_ENTRIES = 1 << 13
"""Room for every port of a lab. The default, for a region, costs 64 MiB of kernel memory and 0.2 s of CPU a host."""
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 90.0
LOG_TAIL_LINES = 40
WINDOW = 32
"""Requests on their way to the fork server at a time: their answers must fit the socket's buffer."""
POLL_S = 0.005
TICK_S = 0.1


class _Waited(LabError):
    """It took too long."""


class Processes:
    """Starts and ends processes of one lab. Use as a context; leaving ends what was started, unless `detach`ed."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._running: dict[str, Process] = {}
        self._ended: dict[str, int] = {}
        self._may_end: set[str] = set()
        self.environment: dict[str, str] = {}
        """What every process started from now on finds in its environment, beside what this one has."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, (run.data / "spawner.log").open("ab") as log:
            self._spawner = subprocess.Popen(
                [sys.executable, "-m", "alcor.lab.spawner", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        run.record(Process(self._spawner.pid, start_time(self._spawner.pid) or 0, "spawner"))
        self._ready = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything that was started. Idempotent."""
        self._channel.close()  # the fork server kills its children when it sees this
        try:
            self._spawner.wait(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._spawner.kill()
            self._spawner.wait()

    def detach(self) -> None:
        """Lets everything run on after this process."""
        self._channel.send(json.dumps({"op": "detach"}).encode())
        self._spawner.wait(timeout=START_TIMEOUT_S)
        self._channel.close()

    def running(self, name: str) -> Process:
        """The process of that name. Raises LabError when it is not running."""
        self.check()
        if name not in self._running:
            raise LabError(f"{name} is not running")
        return self._running[name]

    def start(
        self,
        name: str,
        argv: Iterable[str],
        *,
        netns_path: Path | None,
        fds: Iterable[int] = (),
        fresh: bool = False,
        module: str = "",
        program: str = "",
    ) -> Process:
        """Starts `alcor ARGV...` as `name`, inside a namespace; `fresh`: in an interpreter that shares no memory.

        With `module`, starts `python -m MODULE ARGV...` instead, in an interpreter of its own; with `program`, that.
        """
        self.start_nowait(name, argv, netns_path=netns_path, fds=fds, fresh=fresh, module=module, program=program)
        self._pump(lambda: name in self._running or name in self._ended, f"{name} to start")
        return self.running(name)

    def start_nowait(
        self,
        name: str,
        argv: Iterable[str],
        *,
        netns_path: Path | None,
        fds: Iterable[int] = (),
        fresh: bool = False,
        module: str = "",
        program: str = "",
    ) -> None:
        """Like `start`, not waiting for the fork. Raises LabError when the fork server is gone."""
        self.await_spawner()
        self._running.pop(name, None)
        self._ended.pop(name, None)
        request = {
            "op": "start",
            "name": name,
            "argv": list(argv),
            "netns": str(netns_path) if netns_path else None,
            "log": str(self.log_of(name)),
            "fresh": fresh,
            "module": module,
            "program": program,
            "environment": self.environment,
            "run": str(self._run.path),
        }
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode()], list(fds))
        except OSError as error:
            raise LabError(f"the fork server is gone ({error}): see {self._run.data / 'spawner.log'}") from None

    def start_many(self, requests: Iterable[tuple[str, list[str], Path | None]]) -> None:
        """Starts `alcor ARGV...` for every (name, argv, namespace)."""
        waiting: list[str] = []
        for name, argv, path in requests:
            self.start_nowait(name, argv, netns_path=path)
            waiting.append(name)
            if len(waiting) >= WINDOW:
                self._settled(waiting)
        self._settled(waiting)

    def _settled(self, waiting: list[str]) -> None:
        names = set(waiting)
        self._pump(lambda: names <= self._running.keys() | self._ended.keys(), "processes to start")
        waiting.clear()
        self.check()

    def await_spawner(self) -> None:
        """Until the fork server has imported the program."""
        if not self._ready:
            self._pump(lambda: self._ready, "the fork server")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Ends a process by signal and waits until it is gone; its end is then no failure."""
        process = self.running(name)
        process.signal(number)
        self._pump(lambda: name in self._ended, f"{name} to end")
        del self._ended[name]

    def await_end(self, name: str, timeout_s: float, tick: Callable[[], None]) -> None:
        """Until a process that ends by itself has done so; `tick` is called meanwhile. Raises LabError if it fails."""
        deadline = time.monotonic() + timeout_s
        self._may_end.add(name)
        while name not in self._ended:
            with suppress(_Waited):
                self._pump(lambda: name in self._ended, f"{name} to end", TICK_S)
            tick()
            if time.monotonic() > deadline:
                raise LabError(f"{name} did not end in {timeout_s:.0f} s\n{self.log_tail(name)}")
        self._may_end.discard(name)
        if code := self._ended.pop(name):
            raise LabError(f"{name} failed with code {code}\n{self.log_tail(name)}")

    def may_end(self, name: str) -> None:
        """From now on an end of that process, whatever its code, is no failure of the lab: `alive` tells."""
        self._may_end.add(name)

    def alive(self, name: str) -> bool:
        """It runs (stopped by a signal or not)."""
        self._pump(lambda: True, "")
        return name in self._running

    def signal(self, name: str, number: int) -> None:
        """Sends a signal that does not end it."""
        self.running(name).signal(number)

    def ended(self, name: str, timeout_s: float) -> int | None:
        """The code it ended with, once; None when it still runs after `timeout_s`."""
        with suppress(_Waited):
            self._pump(lambda: name not in self._running, f"{name} to end", timeout_s)
        return self._ended.pop(name, None)

    def check(self) -> None:
        """Raises LabError when a process ended that was not told to, with the end of its log."""
        self._pump(lambda: True, "")
        for name, code in sorted(self._ended.items()):
            if name in self._may_end:
                continue
            raise LabError(f"{name} ended by itself with code {code}\n{self.log_tail(name)}")

    def log_of(self, name: str) -> Path:
        """Where a process of that name writes its output."""
        return self._run.data / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """The last lines that the process wrote."""
        path = self.log_of(name)
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(lines[-LOG_TAIL_LINES:]) or f"(nothing in {path})"

    def _pump(self, done: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Takes in events until `done`; what has already arrived is always taken in."""
        deadline = time.monotonic() + timeout_s
        while True:
            finished = done()
            wait = 0 if finished else max(0.0, min(1.0, deadline - time.monotonic()))
            if self._channel.fileno() < 0 or not select.select([self._channel], [], [], wait)[0]:
                if finished:
                    return
                if time.monotonic() >= deadline:
                    raise _Waited(f"waited {timeout_s:.0f} s for {what}: see the logs in {self._run.data}")
                continue
            data = self._channel.recv(MAX_PACKET)
            if not data:
                log = (self._run.data / "spawner.log").read_text(errors="replace").splitlines()
                raise LabError("the fork server ended\n" + "\n".join(log[-LOG_TAIL_LINES:]))
            self._take(json.loads(data))

    def _take(self, event: dict[str, object]) -> None:
        name, pid = str(event.get("name")), event.get("pid")
        if event["event"] == "ready":
            self._ready = True
        elif event["event"] == "started":
            self._running[name] = Process(int(str(pid)), int(str(event["started"])), name)
        elif name in self._running and self._running[name].pid == pid:
            del self._running[name]
            self._ended[name] = int(str(event["code"]))


# ---- configuration ----


def to_toml(values: Mapping[str, object]) -> str:
    """A flat TOML document: strings, numbers, booleans, paths (TOML 1.0; a JSON string is a TOML basic string)."""

    def value(one: object) -> str:
        return json.dumps(one) if isinstance(one, bool | int | float) else json.dumps(str(one))

    return "".join(f"{key} = {value(one)}\n" for key, one in values.items() if one is not None)


def write_server_config(
    run: RunDirectory, *, listen: str, mtu: int, controller: str, on_demand_above: int, probe_s: float
) -> Path:
    """The server's configuration and certificate."""
    tls = run.data / "controller" / "tls"
    pki.issue(run.data / "ca", tls, "controller", role="controller", addresses=[controller])
    credentials.enrol(run.data / "ca", tls, "controller", role=credentials.CONTROLLER)
    path = run.data / "controller" / "server.toml"
    values = {
        "listen": listen,
        "database": run.data / "controller" / "alcor.db",
        "tls_dir": tls,
        "bus_listen": f"{controller}:{BUS_PORT}",
        "max_mtu": mtu - 50,
        "on_demand_above": on_demand_above,
        "probe_s": probe_s,
        "log_level": "WARNING",
    }
    path.write_text(to_toml(values))
    return path


def write_agent_config(
    run: RunDirectory, host: Machine, *, driver: str, pool: int, bus: str, patience: Mapping[str, float] | None = None
) -> Path:
    """A host's configuration and certificate. `patience`: settings of time that differ from the defaults."""
    tls = host.data_dir / "tls"
    pki.issue(run.data / "ca", tls, host.name, role="agent", addresses=[host.address])
    credentials.enrol(run.data / "ca", tls, host.name, role=credentials.HOST)
    path = host.data_dir / "agent.toml"
    values = {
        "host": host.name,
        "listen": f"{host.address}:{AGENT_PORT}",
        "state_dir": host.data_dir / "state",
        "tls_dir": tls,
        "driver": driver,
        "underlay_device": DEVICE,
        "external_device": EXTERNAL_DEVICE if driver == "ebpf" else "",
        "bgp_table": BGP_TABLE if driver == "ebpf" else 0,
        "underlay_ip": host.address,
        "pin_dir": host.pin_dir,
        "netns_dir": host.netns_dir,
        "pool_size": pool,
        "remote_entries": REMOTE_ENTRIES,
        "translation_entries": TRANSLATION_ENTRIES,
        "flow_entries": FLOW_ENTRIES,
        "control_socket": control_socket(host),
        "metadata_url": f"http://{urlsplit(bus).hostname}:{METADATA_PORT}" if bus else "",
        "bus": bus,
        "log_level": "WARNING",
        **(patience or {}),
    }
    path.write_text(to_toml(values))
    return path


def control_socket(host: Machine) -> Path:
    """The Unix socket where the host's agent answers local tooling."""
    return host.data_dir / "control.sock"


# ---- being there ----


def listen_for_api(port: int | None) -> socket.socket:
    """The API's listening socket on 127.0.0.1 of this machine: `port`, or 9696 when free, or any.

    Raises LabError when `port` was asked for and is taken.
    """
    for candidate in (API_PORT, 0) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(1024)
        except OSError as error:
            listener.close()
            if port is not None or error.errno != errno.EADDRINUSE:
                raise LabError(f"cannot listen on 127.0.0.1:{candidate}: {error.strerror}") from None
            continue
        return listener
    raise LabError("no port is free on 127.0.0.1")


def await_listening(
    processes: Processes,
    targets: Iterable[tuple[str, int]],
    *,
    from_netns: Path | None,
    progress: Callable[[int], None],
) -> None:
    """Until something accepts TCP connections at every (address, port), as seen from a namespace.

    `progress` is told how many answer so far. Raises LabError when a process dies or after ANSWER_TIMEOUT_S.
    """
    waiting = list(targets)
    total = len(waiting)
    fd = netns.open_path(from_netns) if from_netns else None
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    try:
        while waiting:
            before = len(waiting)
            probe = waiting

            def refused(probe: list[tuple[str, int]] = probe) -> list[tuple[str, int]]:
                return [target for target in probe if not _accepts(target)]

            waiting = netns.call(fd, refused) if fd is not None else refused()
            processes.check()
            progress(total - len(waiting))
            if waiting and time.monotonic() > deadline:
                address, port = waiting[0]
                raise LabError(f"nothing answers at {address}:{port} (and {len(waiting) - 1} more)")
            if len(waiting) == before:
                time.sleep(POLL_S)
    finally:
        if fd is not None:
            os.close(fd)


def _accepts(target: tuple[str, int]) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(1.0)
        return attempt.connect_ex(target) == 0


def start_server(
    processes: Processes,
    topology: Topology,
    listener: socket.socket,
    *,
    on_demand_above: int = 10_000,
    probe_s: float = 0.0,
) -> Process:
    """The server, in the controller's namespace, its API on `listener`. Call again after it was killed: it is then
    configured as it was."""
    host, port = listener.getsockname()
    run, controller = topology.run, topology.controller
    config = controller.data_dir / "server.toml"
    if not config.exists():
        write_server_config(
            run,
            listen=f"{host}:{port}",
            mtu=topology.mtu,
            controller=controller.address,
            on_demand_above=on_demand_above,
            probe_s=probe_s,
        )
    return processes.start(
        "server",
        ["server", "--config", str(config)],
        netns_path=controller.netns,
        fds=[listener.fileno()],
        fresh=True,
    )


def bus_url(topology: Topology) -> str:
    """Where the server's message bus is."""
    return f"tls://{topology.controller.address}:{BUS_PORT}"


def start_agents(
    processes: Processes,
    hosts: Sequence[Machine],
    topology: Topology,
    *,
    driver: str,
    pool: int,
    patience: Mapping[str, float] | None = None,
) -> None:
    """One agent per host, in its namespace. They may not answer yet: `await_listening`."""
    run, bus = topology.run, bus_url(topology)
    processes.start_many(
        (
            host.name,
            [
                "agent",
                "--config",
                str(write_agent_config(run, host, driver=driver, pool=pool, bus=bus, patience=patience)),
            ],
            host.netns,
        )
        for host in hosts
    )


def standby_of(host: str) -> str:
    """The name of a host's standby process."""
    return f"{host}-standby"


def start_standby(processes: Processes, host: Machine) -> None:
    """The standby of a host whose agent was configured."""
    argv = ["agent", "--standby", "--config", str(host.data_dir / "agent.toml")]
    processes.start(standby_of(host.name), argv, netns_path=host.netns)
