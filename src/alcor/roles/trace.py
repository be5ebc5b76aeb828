"""`alcor trace`: why a packet arrives or not, beside what the host's own counters say. Called by main.

The verdict is the API's (`POST /v2.0/reachability`), computed from desired state. With an agent's control socket the
drops that its data plane has counted for the two ports stand beside it: where they disagree, the host is not (yet) what
it should be.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 << 20


class TraceError(Exception):
    """Nobody answered, or refused: who, and why."""


def run(api: str, question: dict[str, Any], control_socket: Path | None) -> int:
    """Prints the steps, and the counters if there is a socket. Exit code: 0 it arrives, 1 it does not, 2 unanswered."""
    console = Console()
    try:
        answer = _ask(api, question)
        counted = _counters(control_socket) if control_socket is not None else None
    except TraceError as error:
        print(f"alcor trace: {error}", file=sys.stderr)  # noqa: T201 - the user's answer, not a log
        return 2
    table = Table("step", title="what desired state says", title_justify="left", title_style="bold")
    for step in answer["steps"]:
        table.add_row(step)
    console.print(table)
    for name, rule in (("let out by rule", answer["egress_rule_id"]), ("let in by rule", answer["ingress_rule_id"])):
        if rule:
            console.print(f"{name} {rule}", markup=False)
    if answer["members"]:
        console.print(_member_table(answer["members"]))
    if counted is not None:
        ends = [question.get("source_port_id"), question.get("destination_port_id")]
        console.print(_counter_table(counted, [one for one in ends if one]))
    arrives = answer["outcome"] in ("delivered", "answered", "left")
    verdict = answer["outcome"] if arrives else f"{answer['outcome']}: {answer['reason']}"
    console.print(verdict, style="bold green" if arrives else "bold red")
    return 0 if arrives else 1


def _member_table(members: list[dict[str, Any]]) -> Table:
    table = Table(
        *("member", "port", "weight", "takes connections", "would be"),
        title="who the load balancer may choose",
        title_justify="left",
        title_style="bold",
    )
    for one in members:
        verdict = f"{one['outcome']}: {one['reason']}" if one["reason"] else one["outcome"]
        takes = "yes" if one["takes_connections"] else "no"
        table.add_row(one["address"], str(one["protocol_port"]), str(one["weight"]), takes, verdict)
    return table


def _ask(api: str, question: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{api.rstrip('/')}/v2.0/reachability",
        json.dumps({"reachability": question}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            found: dict[str, Any] = json.loads(reply.read(MAX_ANSWER_BYTES))["reachability"]
            return found
    except urllib.error.HTTPError as error:
        raise TraceError(json.loads(error.read(MAX_ANSWER_BYTES))["NeutronError"]["message"]) from None
    except (OSError, ValueError, KeyError) as error:
        raise TraceError(
            f"{api} does not answer ({error}): is `alcor server` running, and --api its address?"
        ) from None


def _counters(path: Path) -> dict[str, Any]:
    """What the agent's data plane has counted, by port."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent, agent.makefile("rwb") as lines:
            agent.settimeout(TIMEOUT_S)
            agent.connect(str(path))
            lines.write(b'{"op": "counters"}\n')
            lines.flush()
            answer = json.loads(lines.readline(MAX_ANSWER_BYTES))
    except (OSError, ValueError) as error:
        raise TraceError(
            f"the agent's socket {path} does not answer ({error}): set control_socket, run as its user"
        ) from None
    if "error" in answer:
        raise TraceError(f"the agent refused: {answer['error']}")
    result: dict[str, Any] = answer["result"]
    return result


def _counter_table(counted: dict[str, Any], ports: list[str]) -> Table:
    table = Table(
        *("port on this host", "sent", "received", "dropped"),
        title="what the data plane has counted",
        title_justify="left",
        title_style="bold",
    )
    for port in ports:
        one = counted.get(port)
        if one is None:
            table.add_row(port, "-", "-", "not on this host")
            continue
        drops = ", ".join(f"{reason} {count:,}" for reason, count in one["dropped"].items()) or "nothing"
        table.add_row(port, f"{one['sent_packets']:,}", f"{one['received_packets']:,}", drops)
    return table
