"""Quality of service, proved with real packets: a limited port keeps its rate, its neighbour does not notice.

Called by run. Streams are short: `alcor bench qos` says how exact a rate is over 10 s.
"""

from __future__ import annotations

from collections.abc import Callable

from alcor.lab.client import Client, await_true
from alcor.lab.proofs import World
from alcor.lab.results import Proof
from alcor.lab.transfers import echo
from alcor.lab.workloads import Workload

KBPS, FASTER_KBPS = 20_000, 100_000
STREAM_BYTES = 5_000_000
PAYLOAD_SHARE = 1398 / 1464
"""Of TCP in a frame of the lab's networks (1,450 bytes of IP)."""
TOLERANCE = 0.1
FREE_KBPS = 2 * FASTER_KBPS


def prove(client: Client, world: World, check: Callable[[], None]) -> list[Proof]:
    """One workload gets a policy and loses it again; everything is as before when it returns."""
    limited = world.vpc[0]
    far = next(one for one in world.vpc if one.host != limited.host)
    free = next(one for one in world.vpc[1:] if one.host == limited.host)
    body = {"policy": {"name": "lab limited"}}
    policy = client.request("POST", "/v2.0/qos/policies", body)["policy"]["id"]
    rules = f"/v2.0/qos/policies/{policy}/bandwidth_limit_rules"
    try:
        made = client.request("POST", rules, {"bandwidth_limit_rule": {"max_kbps": KBPS}})
        _give(client, limited, policy, check)
        proofs = [_keeps(limited, far, KBPS), _unhindered(free, far)]
        change = {"bandwidth_limit_rule": {"max_kbps": FASTER_KBPS}}
        client.request("PUT", f"{rules}/{made['bandwidth_limit_rule']['id']}", change)
        return [*proofs, _keeps(limited, far, FASTER_KBPS)]
    finally:
        _give(client, limited, None, check)
        client.delete("qos/policies", policy)


def _give(client: Client, port: Workload, policy: str | None, check: Callable[[], None]) -> None:
    """Gives the port the policy, and waits until its host carries that."""
    path = f"/v2.0/ports/{port.id}"
    client.request("PUT", path, {"port": {"qos_policy_id": policy}})
    await_true(lambda: client.get(path)["port"]["status"] == "ACTIVE", "a limited port to be ACTIVE", 60.0, 0.02, check)


def _kbps(source: Workload, target: Workload, size: int) -> float:
    done = echo(source.netns, target.netns, target.ip, size)
    return size * 8 / 1000 / done.seconds if done.equal else 0.0


def _keeps(limited: Workload, far: Workload, kbps: int) -> Proof:
    """A changed rule reaches the host by itself: a stream that begins too early shows both rates, and is sent again."""
    wanted = kbps * PAYLOAD_SHARE
    for _ in range(3):
        measured = _kbps(limited, far, STREAM_BYTES * kbps // KBPS)
        if abs(measured / wanted - 1) <= TOLERANCE:
            break
    return Proof(
        name=f"a port limited to {kbps // 1000} Mbit/s",
        expectation=f"TCP gets that, less its headers, within {TOLERANCE:.0%}: {wanted / 1000:.1f} Mbit/s",
        measured=f"{measured / 1000:.1f} Mbit/s",
        passed=abs(measured / wanted - 1) <= TOLERANCE,
    )


def _unhindered(free: Workload, far: Workload) -> Proof:
    measured = _kbps(free, far, 4 * STREAM_BYTES)
    return Proof(
        name="a port beside a limited one",
        expectation=f"is not limited: more than {FREE_KBPS // 1000} Mbit/s",
        measured=f"{measured / 1000:.0f} Mbit/s",
        passed=measured > FREE_KBPS,
    )
