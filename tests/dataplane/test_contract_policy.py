"""The driver contract, policy: security groups by identity, connections, address pairs, held against every driver."""

import os
import time

import msgspec
import pytest
from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, Host
from tests.dataplane.test_contract import VNI, Pair, as_endpoints, gateways, host, pair, port, put, udp

from alcor.dataplane.base import LocalPort, Plan, Policy, PolicyKey, Rule
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import Mac, Prefix, parse_ip, parse_prefix
from alcor.model.nouns import AddressPair

__all__ = ["host", "pair"]  # fixtures
WEB, DB, ALONE = 1, 2, 3


def rule(
    *,
    egress: bool = False,
    protocol: int | None = None,
    ports: tuple[int, int] = (0, 0xFFFF),
    prefix: Prefix | None = None,
    identities: tuple[int, ...] | None = None,
) -> Rule:
    """A rule of IPv4 that lets everything in, but for what is said."""
    return Rule(egress, 4, protocol, *ports, prefix, identities)


def policy(identity: int, *rules: Rule) -> Policy:
    """What ports of the identity may do; they may send anything."""
    return Policy(PolicyKey(VNI, identity), (rule(egress=True), *rules))


def member(number: int, identity: int, *ips: str) -> LocalPort:
    """A port of an identity."""
    return msgspec.structs.replace(port(number, *ips), identity=identity)


def known(host: Host, *ports: LocalPort) -> tuple[tuple[EndpointKey, Endpoint], ...]:
    """How other hosts know these ports, identity included."""
    return tuple(
        (key, msgspec.structs.replace(end, identity=one.identity))
        for one in ports
        for key, end in as_endpoints(host, one)
    )


def test_policies_are_observed_by_their_digests(host: Host) -> None:
    """What was put is there whole, also for a driver that starts anew; what was removed is not."""
    web, db = policy(WEB, rule(protocol=6, ports=(80, 443))), policy(DB, rule(identities=(WEB,)))
    put(host, put_policies=(web, db))
    host.reopen()
    assert {web.key: web.digest(), db.key: db.digest()} == host.driver.observe().policies
    changed = policy(WEB, rule(prefix=parse_prefix("10.0.0.0/24")), rule(protocol=1))
    host.driver.apply(Plan(put_policies=(changed,), remove_policies=(db.key, PolicyKey(VNI, 77))))
    assert {changed.key: changed.digest()} == host.driver.observe().policies
    host.driver.apply(Plan(remove_policies=(changed.key,)))
    assert {} == host.driver.observe().policies


def test_a_group_is_reached_from_its_group_only(pair: Pair) -> None:
    """Members reach each other on one host and across hosts; others, and those outside, do not reach them."""
    here, there = pair
    a, b, c = member(1, WEB), member(2, WEB), member(3, ALONE)
    far, stranger = member(4, WEB), member(5, 0)
    closed, open_ = policy(WEB, rule(identities=(WEB,))), policy(ALONE)
    put(here, a, b, c, put_policies=(closed, open_), put_endpoints=known(there, far, stranger))
    put(there, far, stranger, put_policies=(closed,), put_endpoints=known(here, a, b, c))
    assert here.ping(a, "10.0.0.2")
    assert here.ping(a, "10.0.0.4")
    assert there.ping(far, "10.0.0.2")
    assert not here.ping(c, "10.0.0.1", MISS_S)
    assert not there.ping(stranger, "10.0.0.1", MISS_S)
    assert not here.ping(c, "10.0.0.4", MISS_S)
    # What a member begins is answered, whoever it asks.
    assert here.ping(a, "10.0.0.5")
    assert 1 <= here.driver.counters()[a.id].dropped["policy_ingress"]
    assert 1 <= there.driver.counters()[far.id].dropped["policy_ingress"]


def test_a_port_without_its_policy_is_closed(host: Host) -> None:
    """Fail closed: an identity without a policy lets nothing in and nothing out."""
    put(host, member(1, WEB), member(2, 0), put_gateways=gateways())
    assert not host.ping(member(1, WEB), "10.0.0.254", MISS_S)
    assert not host.ping(member(2, 0), "10.0.0.1", MISS_S)
    assert {"policy_egress", "policy_ingress"} <= set(host.driver.counters()[member(1, WEB).id].dropped)


def test_rules_act_on_running_traffic(pair: Pair) -> None:
    """A rule that goes cuts the connections that it allowed, at once; put again, they go on."""
    here, there = pair
    a, far = member(1, WEB), member(4, DB)
    web, shut = policy(WEB), policy(DB)
    lets = policy(DB, rule(protocol=17, ports=(5000, 5000), identities=(WEB,)))
    put(here, a, put_policies=(web,), put_endpoints=known(there, far))
    put(there, far, put_policies=(lets,), put_endpoints=known(here, a))
    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(udp(a, far, b"one"))
        receiver.wait(udp(a, far, b"one"))
        there.driver.apply(Plan(put_policies=(shut,)))
        sender.send(udp(a, far, b"two"))
        deadline = time.monotonic() + 10
        while not there.driver.counters()[far.id].dropped and time.monotonic() < deadline:
            os.sched_yield()
        there.driver.apply(Plan(put_policies=(lets,)))
        sender.send(udp(a, far, b"three"))
        assert udp(a, far, b"two") not in receiver.wait(udp(a, far, b"three"))
    assert 1 == there.driver.counters()[far.id].dropped["policy_ingress"]


def test_a_peer_that_leaves_its_group_is_cut(pair: Pair) -> None:
    """The sender's identity travels with the packet: its change acts on a connection that runs."""
    here, there = pair
    a, far = member(1, WEB), member(4, DB)
    lets = policy(DB, rule(identities=(WEB,)))
    put(here, a, put_policies=(policy(WEB), policy(ALONE)), put_endpoints=known(there, far))
    put(there, far, put_policies=(lets,), put_endpoints=known(here, a))
    with here.wire(a) as sender, there.wire(far) as receiver:
        sender.send(udp(a, far, b"one"))
        receiver.wait(udp(a, far, b"one"))
        put(here, member(1, ALONE))
        sender.send(udp(a, far, b"two"))
        put(here, a)
        sender.send(udp(a, far, b"three"))
        assert udp(a, far, b"two") not in receiver.wait(udp(a, far, b"three"))


@pytest.mark.parametrize(
    ("allowed", "arrives"),
    [
        (rule(protocol=17, ports=(5000, 5000)), True),
        (rule(protocol=17, ports=(4990, 5010)), True),
        (rule(protocol=17, ports=(5001, 65535)), False),
        (rule(protocol=6, ports=(5000, 5000)), False),
        (rule(prefix=parse_prefix("10.0.0.0/30")), True),
        (rule(prefix=parse_prefix("10.0.0.2/31")), False),
        (rule(protocol=17, ports=(5000, 5000), prefix=parse_prefix("10.0.0.1/32")), True),
        (rule(protocol=17, ports=(1, 4999), prefix=parse_prefix("10.0.0.1/32")), False),
        (rule(identities=(WEB, DB)), True),
        (rule(identities=(DB,)), False),
        (rule(identities=()), False),
        (rule(protocol=17, identities=(WEB,)), True),
    ],
)
def test_a_rule_allows_what_it_says(host: Host, allowed: Rule, arrives: bool) -> None:
    """Protocol, ports, prefix and identity all have to match; the source port does not matter."""
    a, b = member(1, WEB), member(2, ALONE)
    put(host, a, b, put_policies=(policy(WEB), policy(ALONE, allowed)))
    with host.wire(a) as sender, host.wire(b) as receiver:
        sender.send(udp(a, b))
        if arrives:
            receiver.wait(udp(a, b))
    assert (0 if arrives else 1) == host.driver.counters()[b.id].dropped.get("policy_ingress", 0)


def test_a_port_may_send_from_its_pairs(host: Host) -> None:
    """An allowed address pair lifts the check of its addresses, with its MAC, and of no others."""
    a, b = port(1), port(2)
    mac = Mac(packets.mac(77))
    allowed = AddressPair(parse_prefix("10.0.0.64/28"), a.mac), AddressPair(parse_prefix("10.0.0.96/32"), mac)
    put(host, msgspec.structs.replace(a, pairs=allowed), b)

    def frame(source: str, source_mac: bytes, data: bytes) -> bytes:
        ends = parse_ip(source), b.addresses[0].ip
        return packets.ethernet(b.mac, source_mac, packets.ipv4(*ends, packets.udp(*ends, data)))

    with host.wire(a) as sender, host.wire(b) as receiver:
        for source, source_mac in (("10.0.0.80", a.mac), ("10.0.0.64", mac), ("10.0.0.97", mac)):
            sender.send(frame(source, source_mac, b"bad"))
        sender.send(frame("10.0.0.70", a.mac, b"good"))
        receiver.wait(frame("10.0.0.70", a.mac, b"good"))
        sender.send(frame("10.0.0.96", mac, b"better"))
        seen = receiver.wait(frame("10.0.0.96", mac, b"better"))
    assert not any(one.endswith(b"bad") for one in seen)
    dropped = host.driver.counters()[a.id].dropped
    assert (1, 2) == (dropped["spoofed_ip"], dropped["spoofed_mac"])
    put(host, a)
    with host.wire(a) as sender:
        sender.send(frame("10.0.0.70", a.mac, b"no more"))
    assert 2 == host.driver.counters()[a.id].dropped["spoofed_ip"]


def test_a_port_without_port_security_sends_from_anywhere(host: Host) -> None:
    """`port_security` off: any source address and MAC pass, and nothing is filtered."""
    a, b = msgspec.structs.replace(port(1), port_security=False), port(2)
    put(host, a, b)
    ends = parse_ip("192.0.2.7"), b.addresses[0].ip
    forged = packets.ethernet(b.mac, packets.mac(50), packets.ipv4(*ends, packets.udp(*ends, b"forged")))
    with host.wire(a) as sender, host.wire(b) as receiver:
        sender.send(forged)
        receiver.wait(forged)
