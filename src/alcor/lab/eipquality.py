"""A floating IP's rate limit, proved with real packets: TCP from the world keeps to it, traffic inside does not notice.

Called by outside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alcor.lab.client import Client, await_true
from alcor.lab.quality import FREE_KBPS, KBPS, PAYLOAD_SHARE, STREAM_BYTES, TOLERANCE
from alcor.lab.results import Proof
from alcor.lab.transfers import echo

Place = tuple[Path, str]
"""A container's namespace and address."""
WAYS = {"ingress": "what comes", "egress": "what leaves"}


def prove(
    client: Client, world: Path, eip: str, eip_id: str, limited: Place, near: Place, check: Callable[[], None]
) -> list[Proof]:
    """The floating IP of `limited` gets a policy, and loses it again; `near` is in the same network."""
    policies = "/v2.0/qos/policies"
    policy = client.request("POST", policies, {"policy": {"name": "lab limited outside"}})["policy"]["id"]
    rules = f"{policies}/{policy}/bandwidth_limit_rules"
    proofs: list[Proof] = []
    try:
        for way in WAYS:
            rule = {"bandwidth_limit_rule": {"max_kbps": KBPS, "direction": way}}
            made = client.request("POST", rules, rule)["bandwidth_limit_rule"]["id"]
            _give(client, eip_id, policy, check)
            proofs.append(_keeps(world, limited, eip, way))
            if len(proofs) == len(WAYS):
                proofs.append(_unhindered(near, limited))
            _give(client, eip_id, None, check)
            client.request("DELETE", f"{rules}/{made}")
    finally:
        _give(client, eip_id, None, check)
        client.delete("qos/policies", policy)
    return proofs


def _give(client: Client, eip_id: str, policy: str | None, check: Callable[[], None]) -> None:
    """Gives the floating IP the policy, and waits until its host carries that."""
    path = f"/v2.0/floatingips/{eip_id}"
    client.request("PUT", path, {"floatingip": {"qos_policy_id": policy}})
    carried = "a limited floating IP to be ACTIVE"
    await_true(lambda: client.get(path)["floatingip"]["status"] == "ACTIVE", carried, 60.0, 0.02, check)


def _keeps(world: Path, limited: Place, eip: str, way: str) -> Proof:
    """An echo goes both ways at once, of which one is limited."""
    done = echo(world, *limited, STREAM_BYTES, by=eip)
    wanted, measured = KBPS * PAYLOAD_SHARE, STREAM_BYTES * 8 / 1000 / done.seconds
    return Proof(
        name=f"a floating IP limited to {KBPS // 1000} Mbit/s of {WAYS[way]}",
        expectation=f"TCP gets that, less its headers, within {TOLERANCE:.0%}: {wanted / 1000:.1f} Mbit/s",
        measured=f"{measured / 1000:.1f} Mbit/s" + (f": {done.error}" if done.error else ""),
        passed=done.equal and abs(measured / wanted - 1) <= TOLERANCE,
    )


def _unhindered(near: Place, limited: Place) -> Proof:
    done = echo(near[0], *limited, 4 * STREAM_BYTES)
    measured = 4 * STREAM_BYTES * 8 / 1000 / done.seconds
    return Proof(
        name="traffic inside, of a port with a limited floating IP",
        expectation=f"is not limited: more than {FREE_KBPS // 1000} Mbit/s",
        measured=f"{measured / 1000:.0f} Mbit/s",
        passed=done.equal and measured > FREE_KBPS,
    )
