"""The ebpf driver and its external device, IPv6: what it changes of the operator's interface, and what it leaves."""

import fcntl
import os
import socket
import struct

import pytest
from tests.dataplane.contract_hosts import EXTERNAL, EbpfHost, ebpf_pair
from tests.dataplane.test_contract import VNI, put
from tests.dataplane.test_contract_outside6 import lead_out, owned, ways

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: the ebpf driver needs root and BPF"),
]
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_ALLMULTI = 0x8913, 0x8914, 0x200


def _flags(host: EbpfHost, without: int = 0) -> int:
    """Of the external device, after these were taken away."""

    def ask() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            name = EXTERNAL.encode()
            (flags,) = struct.unpack_from("=16xH", fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16s24x", name)))
            if without:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("=16sH22x", name, flags & ~without))
            return int(flags) & ~without

    return host.call(ask)


def test_the_external_device_hears_groups_once_ipv6_is_answered_for() -> None:
    """Neighbours ask solicited-node groups, which a network card filters out; before, and for IPv4 alone, nothing is
    changed. A driver that starts anew sees to it."""
    with ebpf_pair() as (host, _):
        assert isinstance(host, EbpfHost)
        put(host, **ways(VNI))
        assert not _flags(host) & IFF_ALLMULTI
        put(host, put_routes=(owned(VNI),))
        assert _flags(host) & IFF_ALLMULTI
        host.reopen(lambda: assert_quiet(host))
        assert _flags(host) & IFF_ALLMULTI
        lead_out(host, VNI)


def assert_quiet(host: EbpfHost) -> None:
    """Somebody turns it off."""
    assert not _flags(host, without=IFF_ALLMULTI) & IFF_ALLMULTI
