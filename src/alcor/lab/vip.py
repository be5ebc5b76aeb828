"""A load balancer behind a floating IP, proved with real clients from the world outside. Called by outside.

Its members are on several hosts, with floating IPs of their own or without; only one host answers for the address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from alcor.lab.balancing import MEMBER_PORT, PATIENCE_S, PORT, Place, Server, ask
from alcor.lab.client import Client, Resource, await_true
from alcor.lab.proofs import SILENCE_S
from alcor.lab.results import Proof

CONNECTIONS = 60


class Outsider(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody in the world outside."""

    netns: Path
    ip: str = ""


def prove(
    client: Client,
    world: Path,
    subnet_id: str,
    external_id: str,
    members: Sequence[Place],
    check: Callable[[], None],
) -> list[Proof]:
    """Makes a load balancer over the members with a floating IP, proves, and removes it again."""
    asking = Outsider(netns=world)

    def make(path: str, one: str, **body: object) -> Resource:
        made: Resource = client.request("POST", f"/v2.0/{path}", {one: body})[one]
        return made

    with ExitStack() as stack:
        servers = {one.ip: stack.enter_context(Server(one)) for one in members}
        balancer = make("lbaas/loadbalancers", "loadbalancer", vip_subnet_id=subnet_id, name="from outside")
        stack.callback(client.request, "DELETE", f"/v2.0/lbaas/loadbalancers/{balancer['id']}?cascade=true")
        end = {"protocol": "TCP", "protocol_port": PORT}
        listener = make("lbaas/listeners", "listener", loadbalancer_id=balancer["id"], **end)
        pool = make("lbaas/pools", "pool", listener_id=listener["id"], protocol="TCP", lb_algorithm="ROUND_ROBIN")
        them = [{"address": one.ip, "protocol_port": MEMBER_PORT} for one in members]
        path = f"/v2.0/lbaas/pools/{pool['id']}/members"
        client.request("PUT", path, {"members": them})
        port_id = balancer["vip_port_id"]
        fip = make("floatingips", "floatingip", floating_network_id=external_id, port_id=port_id)
        stack.callback(client.request, "DELETE", f"/v2.0/floatingips/{fip['id']}")
        where = f"/v2.0/floatingips/{fip['id']}"
        await_true(
            lambda: bool(client.get(where)["floatingip"]["status"] == "ACTIVE"),
            "the load balancer's floating IP to be ACTIVE",
            *(PATIENCE_S, 0.05, check),
        )
        eip = fip["floating_ip_address"]
        await_true(lambda: ask(asking, eip) is not None, "it to answer the world", PATIENCE_S, 0.05, check)
        found = [_spread(asking, eip, servers), _closed(client, asking, eip, path, check)]
        client.request("PUT", where, {"floatingip": {"port_id": None}})
        await_true(lambda: ask(asking, eip, timeout_s=SILENCE_S) is None, "it to be silent", PATIENCE_S, 0.05, check)
        return found


def _spread(asking: Place, eip: str, servers: dict[str, Server]) -> Proof:
    for server in servers.values():
        server.sources.clear()
    answers = Counter(ask(asking, eip) for _ in range(CONNECTIONS))
    lost = answers.pop(None, 0)
    sources = {source for server in servers.values() for source in server.sources}
    inside = {source for source in sources if source in servers}
    return Proof(
        name="a load balancer answers to the world",
        expectation="behind its floating IP every member answers some, none is lost, members see the client's address",
        measured=f"{CONNECTIONS} connections to {len(answers)}/{len(servers)} members on several hosts, {lost} lost; "
        f"they come from {', '.join(sorted(sources))}",
        passed=not lost and len(answers) == len(servers) and len(sources) == 1 and not inside,
    )


def _closed(client: Client, asking: Place, eip: str, path: str, check: Callable[[], None]) -> Proof:
    other = ask(asking, eip, port=PORT + 1, timeout_s=SILENCE_S)
    kept = client.get(path)["members"]
    client.request("PUT", path, {"members": []})
    # Hosts hear of it a moment after the API has answered.
    await_true(lambda: ask(asking, eip, timeout_s=SILENCE_S) is None, "members to be gone", PATIENCE_S, 0.05, check)
    without = ask(asking, eip, timeout_s=SILENCE_S)
    again = [{"address": one["address"], "protocol_port": one["protocol_port"]} for one in kept]
    client.request("PUT", path, {"members": again})
    await_true(lambda: ask(asking, eip) is not None, "members to answer again", PATIENCE_S, 0.05, check)
    back = ask(asking, eip)
    return Proof(
        name="no listener or no member, no answer to the world",
        expectation="another port of the floating IP is silent, and so are all without members; with them it answers",
        measured=f"another port: {other or 'silent'}; without members: {without or 'silent'}; then: "
        f"{'answers' if back else 'silent'}",
        passed=other is None and without is None and back is not None,
    )
