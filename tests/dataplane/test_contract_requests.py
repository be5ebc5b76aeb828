"""The driver contract, requests: what ports ask of their host and what they are answered, held against every driver."""

import select
import time

import msgspec
from tests.dataplane import packets
from tests.dataplane.contract_hosts import WAIT_S, Host
from tests.dataplane.test_contract import host, pair, port, put

from alcor.dataplane.base import LocalPort, Plan, Request
from alcor.model.addresses import ROUTER_MAC, SERVICE_IPS
from alcor.model.nouns import PortKind

__all__ = ["host", "pair"]


def served(one: LocalPort) -> LocalPort:
    return msgspec.structs.replace(one, served=True)


def dhcp(one: LocalPort, data: bytes = b"discover") -> bytes:
    packet = packets.ipv4(b"\0\0\0\0", "255.255.255.255", packets.ports(packets.UDP, 68, 67, data=data))
    return packets.ethernet(packets.BROADCAST, one.mac, packet)


def taken(host: Host, frame: bytes) -> Request:
    """The request with that frame, once it is there."""
    deadline = time.monotonic() + WAIT_S
    while select.select([host.driver.requests], [], [], max(0.0, deadline - time.monotonic()))[0]:
        found = [one for one in host.driver.requests.take() if one.frame == frame]
        if found:
            return found[0]
    raise AssertionError("no request came")


def dropped(host: Host, one: LocalPort, reason: str) -> int:
    """How many packets of the port were dropped for it, once there are any, or after a while."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = host.driver.counters()[one.id].dropped.get(reason, 0)
        if found:
            return found
        time.sleep(0.02)
    return 0


def test_a_request_comes_up_and_its_answer_goes_down(host: Host) -> None:
    """Whole, with who asked; the answer reaches the port that it is for, and is counted as received."""
    one = served(port(1))
    put(host, one)
    frame, answer = dhcp(one), packets.ethernet(one.mac, ROUTER_MAC, packets.ipv4("10.0.0.1", "10.0.0.9", b"offer"))
    with host.wire(one) as wire:
        wire.send(frame)
        request = taken(host, frame)
        assert request.port == one.id
        assert host.driver.requests.interfaces() == {one.id: request.ifindex}
        before = host.driver.counters()[one.id].received_packets
        host.driver.requests.answer(request.ifindex, answer)
        wire.wait(answer)
    assert host.driver.counters()[one.id].received_packets > before


def test_a_request_without_an_answer_is_counted(host: Host) -> None:
    """It is dropped as `unserved` at its port, and never comes up again."""
    one = served(port(1))
    put(host, one)
    with host.wire(one) as wire:
        wire.send(dhcp(one))
        host.driver.requests.refuse(taken(host, dhcp(one)))
        assert dropped(host, one, "unserved") == 1
    assert [request for request in host.driver.requests.take() if request.frame == dhcp(one)] == []


def test_a_port_that_is_not_served_asks_nothing(host: Host) -> None:
    """Its packets are what they were: from nobody's address. Served from now on, in place, it asks."""
    one = port(1)
    put(host, one)
    assert host.driver.requests.interfaces() == {}
    with host.wire(one) as wire:
        wire.send(dhcp(one))
        assert dropped(host, one, "spoofed_ip") >= 1
        put(host, served(one))
        wire.send(dhcp(one, b"again"))
        assert taken(host, dhcp(one, b"again")).port == one.id


def test_an_answer_for_nobody_goes_nowhere(host: Host) -> None:
    """The port went while it was answered: nothing happens."""
    one, other = served(port(1)), served(port(2))
    put(host, one, other)
    with host.wire(one) as wire:
        wire.send(dhcp(one))
        request = taken(host, dhcp(one))
    host.driver.apply(Plan(remove_ports=(one.id,)))
    host.driver.requests.answer(request.ifindex, dhcp(one))
    host.driver.requests.refuse(request)
    with host.wire(other) as wire:
        wire.send(dhcp(other))
        assert taken(host, dhcp(other)).port == other.id


def test_requests_survive_another_agent(host: Host) -> None:
    """What waits in the data plane is there for the next one; the way back is, too."""
    one = served(port(1, kind=PortKind.CONTAINER))
    put(host, one)
    host.reopen()
    with host.wire(one) as wire:
        wire.send(dhcp(one))
        request = taken(host, dhcp(one))
        answer = packets.ethernet(one.mac, ROUTER_MAC, packets.ipv4("10.0.0.1", "10.0.0.9", b"offer"))
        host.driver.requests.answer(request.ifindex, answer)
        wire.wait(answer)


def test_the_router_answers_for_the_service_address(host: Host) -> None:
    """ARP for 169.254.169.254 finds the router's MAC, without any gateway."""
    one = served(port(1, routed=False))
    put(host, one)
    own = one.addresses[0].ip
    with host.wire(one) as wire:
        wire.send(packets.arp(one.mac, packets.ip4(own), packets.ip4(SERVICE_IPS[0])))
        told = packets.arp(
            ROUTER_MAC,
            packets.ip4(SERVICE_IPS[0]),
            packets.ip4(own),
            opcode=2,
            target_mac=one.mac,
            ethernet_destination=one.mac,
        )
        wire.wait(told)
