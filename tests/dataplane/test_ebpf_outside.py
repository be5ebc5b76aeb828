"""The ebpf driver and who is outside: it announces IPv4 addresses that come (the fake's world has no ARP table)."""

import os

import pytest
from tests.dataplane import packets
from tests.dataplane.contract_hosts import MISS_S, World, ebpf_pair
from tests.dataplane.test_contract import port, put
from tests.dataplane.test_contract_nat import EIP, OTHER_EIP, WAYS, with_eip

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: the ebpf driver needs root and BPF"),
]


def announced(world: World) -> list[bytes]:
    """The ARP frames of the last moment that were no questions about neighbours."""
    world.arp.clear()
    assert world.wait("198.51.100.1", MISS_S) is None  # nobody's: it only listens
    return list(world.arp)


def test_an_eip_that_comes_is_announced() -> None:
    """To everybody, as RFC 5227 section 3 has it (a question of the address about itself), once; one that was there is
    not announced again, but on the host that it moves to."""
    with ebpf_pair() as (one, other):
        put(one, port(1), **WAYS)
        put(other, **WAYS)
        with one.world() as near, other.world() as far:
            put(one, with_eip(port(1), EIP))
            assert [packets.arp(near.mac, EIP, EIP)] == announced(near)
            put(one, with_eip(port(1), EIP, OTHER_EIP))
            assert [packets.arp(near.mac, OTHER_EIP, OTHER_EIP)] == announced(near)
            put(one, with_eip(port(1), EIP, OTHER_EIP))
            assert [] == announced(near)
            put(one, with_eip(port(1), OTHER_EIP))
            put(other, with_eip(port(2), EIP))
            assert [packets.arp(far.mac, EIP, EIP)] == announced(far)
            assert [] == announced(near)
