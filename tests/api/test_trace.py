"""`alcor trace`: the verdict of a real server, beside the counters of a real control socket."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from alcor.agent import control


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from alcor.roles.main import main; main()", "trace", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def two_ports(server: str) -> tuple[str, str]:
    """On two hosts, in the default group."""
    with httpx.Client(base_url=server) as client:
        network = client.post("/v2.0/networks", json={"network": {"cidr": "10.77.0.0/16"}}).json()["network"]["id"]
        body = {"network_id": network, "cidr": "10.77.0.0/24", "ip_version": 4}
        client.post("/v2.0/subnets", json={"subnet": body})
        nodes = [{"name": f"trace-{at}", "local_ip": f"198.51.100.{at}"} for at in (1, 2)]
        client.post("/v2.0/nodes", json={"nodes": nodes})
        ports = [{"network_id": network, "binding:host_id": node["name"]} for node in nodes]
        one, other = client.post("/v2.0/ports", json={"ports": ports}).json()["ports"]
        return one["id"], other["id"]


def test_a_trace_says_what_decides(server: str, tmp_path: Path) -> None:
    """Exit code 0 and the steps when it arrives, 1 and the reason when not, 2 and one line when nobody can say; the
    agent's counters stand beside it."""
    one, other = two_ports(server)
    arrives = run(one, other, "--protocol", "tcp", "--port", "22", "--api", server)
    assert 0 == arrives.returncode, arrives.stderr
    assert "delivered" in arrives.stdout
    assert "trace-2: 11: deliver" in arrives.stdout
    refused = run(one, "10.77.0.1", "--protocol", "tcp", "--port", "22", "--api", server)
    assert (1, True) == (refused.returncode, "dropped: gateway" in refused.stdout)
    outside = run("198.51.100.9", "10.77.0.1", "--protocol", "tcp", "--port", "22", "--api", server)
    assert (2, True) == (outside.returncode, "Floating IP 10.77.0.1 could not be found" in outside.stderr)
    assert 2 == run("nonsense", other, "--api", server).returncode
    assert 2 == run(one, other, "--api", "http://127.0.0.1:1").returncode
    counted = {
        "sent_packets": 5,
        "sent_bytes": 0,
        "received_packets": 7,
        "received_bytes": 0,
        "dropped": {"gateway": 3},
    }

    async def counters(_arguments: control.Arguments) -> object:
        return {one: counted}

    path = tmp_path / "agent.sock"
    loop = asyncio.new_event_loop()
    serving = loop.create_task(control.serve(path, {"counters": counters}))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        beside = run(one, other, "--api", server, "--control-socket", str(path))
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert 0 == beside.returncode, beside.stderr
    assert "gateway 3" in beside.stdout
    assert "not on this host" in beside.stdout
