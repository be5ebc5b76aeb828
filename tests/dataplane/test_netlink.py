"""rtnetlink: the bytes of messages, batching, answers, dumps, and the builders against a real kernel."""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import (
    MAX_BYTES_PER_SEND,
    MAX_MESSAGES_PER_SEND,
    NLM_F_DUMP,
    Ack,
    Netlink,
    NetlinkError,
    attribute,
    attribute_text,
    batches,
    message,
    nest,
    parse_attributes,
)
from alcor.model.addresses import Mac, parse_ip, parse_mac

ETH_P_EXPERIMENTAL = socket.htons(0x88B5)
"""For local experiments (IEEE 802)."""


class TestEncoding:
    def test_a_message_is_header_and_body(self) -> None:
        """nlmsghdr: length, type, flags with NLM_F_REQUEST, sequence 0, port id 0 (RFC 3549 2.3.2)."""
        assert struct.pack("=IHHII", 20, 16, 0x601, 0, 0) + b"body" == message(16, 0x600, b"body")

    def test_attributes_are_padded_to_four_bytes(self) -> None:
        """The length counts header and value, not the padding."""
        assert bytes.fromhex("09000300 65746830 00000000") == attribute_text(3, "eth0")

    def test_a_nest_holds_attributes(self) -> None:
        """The nested flag is bit 15 of the type."""
        assert bytes.fromhex("0c001280 05000100 76000000") == nest(18, attribute(1, b"v"))

    def test_parsing_undoes_encoding(self) -> None:
        """Types come back without the nested flag; a cut-off tail is ignored."""
        packed = attribute(1, b"one") + nest(2, attribute(3, b"three")) + b"\x09\x00\x04\x00cut"
        found = parse_attributes(packed)
        assert {1, 2} == set(found)
        assert {3: b"three"} == parse_attributes(found[2])

    def test_batches_are_bounded_in_number_and_bytes(self) -> None:
        """No batch exceeds 64 messages or 128 KiB, none is empty, and all messages are in one."""
        small = [b"x" * 16] * (2 * MAX_MESSAGES_PER_SEND + 1)
        assert [(0, 64), (64, 128), (128, 129)] == list(batches(small))
        large = [b"x" * (MAX_BYTES_PER_SEND // 2)] * 3
        assert [(0, 2), (2, 3)] == list(batches(large))
        assert [] == list(batches([]))

    def test_a_veth_message_is_golden(self) -> None:
        """Both ends in one message: indexes, names, one queue each, MTU, the peer's MAC and namespace."""
        golden = (
            "a4000000 1000 0106 00000000 00000000"  # NEWLINK, request|create|excl
            "00000000 00001000 01000000 01000000"  # index 0x100000, up
            "08000300 61316200"  # IFLA_IFNAME "a1b"
            "08001f00 01000000 08002000 01000000 08000400 aa050000"  # queues, MTU 1450
            "08001b00 c0a10000"  # group
            "5c001280 08000100 76657468"  # LINKINFO, kind "veth"
            "50000280 4c000180"  # INFO_DATA, VETH_INFO_PEER
            "00000000 e8030000 00000000 00000000"
            "09000300 65746830 00000000"
            "08001f00 01000000 08002000 01000000 08000400 aa050000"
            "0a000100 020000000001 0000"
            "08001c00 07000000"
        )
        built = links.veth(
            "a1b",
            0x100000,
            "eth0",
            1000,
            peer_netns=7,
            mtu=1450,
            peer_mac=parse_mac("02:00:00:00:00:01"),
            group=0xA1C0,
            up=True,
        )
        assert bytes.fromhex(golden) == built

    def test_group_zero_is_never_deleted(self) -> None:
        """Group 0 holds every interface that nobody grouped."""
        with pytest.raises(ValueError, match="group 0"):
            links.delete_group(0)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[int]:
    """A namespace, as a descriptor."""
    path = tmp_path / "space"
    netns.create(path)
    fd = netns.open_path(path)
    yield fd
    os.close(fd)
    netns.delete(path)


@pytest.fixture
def netlink(space: int) -> Iterator[Netlink]:
    with netns.call(space, Netlink) as opened:
        yield opened


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: these tests drive the real kernel; run them as root")
class TestKernel:
    def test_every_message_has_its_own_answer(self, netlink: Netlink) -> None:
        """A refused message stops none after it, and the answers are in the order of the messages."""
        good = [links.veth(f"a{n}", 1000 + 2 * n, f"b{n}", 1001 + 2 * n) for n in range(100)]
        again = links.veth("a0", 5000, "b9")
        answers = netlink.send([*good[:70], again, *good[70:], again])
        assert [70, 101] == [at for at, one in enumerate(answers) if one.errno]
        assert errno.EEXIST == answers[70].errno
        assert 201 == len(links.links(netlink))

    def test_a_refusal_carries_the_kernels_words(self, netlink: Netlink) -> None:
        """The extended acknowledgement's text is in the answer and in the error."""
        netlink.check([links.veth("a", 10, "b", 11), links.clsact(10)])
        asked = links.default_route(10, parse_ip("192.0.2.1"))
        (answer,) = netlink.send([asked])
        assert Ack(errno.ENETUNREACH, "Nexthop has invalid gateway") == answer
        with pytest.raises(NetlinkError, match="Nexthop has invalid gateway"):
            netlink.check([asked])

    def test_an_allowed_errno_is_no_error(self, netlink: Netlink) -> None:
        """`check` passes over what the caller allows."""
        netlink.check([links.delete_link(4711)], frozenset({errno.ENODEV}))

    def test_lost_answers_are_told(self, space: int) -> None:
        """With a receive buffer too small for a batch's errors, those lost are ENOBUFS, and the socket works on."""
        with netns.call(space, lambda: Netlink(1)) as small:
            answers = small.send([links.delete_link(4711)] * MAX_MESSAGES_PER_SEND)
            assert {errno.ENODEV, errno.ENOBUFS} == {one.errno for one in answers}
            assert (errno.ENODEV, errno.ENOBUFS) == (answers[0].errno, answers[-1].errno)
            assert [Ack(0)] == small.send([links.loopback_up()])
            assert ["lo"] == [one.name for one in links.links(small)]

    def test_a_refused_dump_raises(self, netlink: Netlink) -> None:
        """A dump of what the kernel does not know ends with its errno."""
        with pytest.raises(NetlinkError) as caught:
            netlink.dump(message(links.RTM_GETLINK, NLM_F_DUMP, b"\0" * 16 + attribute(99, b"1")), bytes)
        assert errno.EINVAL == caught.value.errno

    def test_links_come_back_as_made(self, netlink: Netlink, space: int) -> None:
        """Index, name, kind, alias, MTU, MAC, group, state and peer are read back."""
        mac = Mac(bytes.fromhex("020000000003"))
        pair = links.veth("left", 10, "right", 20, mtu=1400, mac=mac, group=5, up=True)
        netlink.check(
            [pair, links.set_link(10, alias="alcor:x"), links.bridge("br", 30), links.set_link(20, master=30)]
        )
        left, right, bridge = links.links(netlink)[1:]
        assert (10, "left", "veth", "alcor:x", True, 1400, mac, 5, 0, 20) == left[:10]
        assert (20, "right", False, 30) == (right.ifindex, right.name, right.up, right.master)
        assert "bridge" == bridge.kind

    def test_who_is_not_silent_transmits(self, netlink: Netlink, space: int) -> None:
        """An end that is down, or up without the other, is silent. Once it is said not to be, nothing that it sends is
        lost, however soon after the other end came up that is (one in ten was)."""
        assert [] == links.silent(netlink, [4711])
        for at in range(100, 160):
            netlink.check([links.veth(f"a{at}", at, f"b{at}", 1000 + at), links.set_link(at, up=True)])
            sender = netns.call(space, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            receiver = netns.call(space, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ETH_P_EXPERIMENTAL))
            with sender, receiver:
                sender.bind((f"a{at}", 0))
                receiver.bind((f"b{at}", socket.ntohs(ETH_P_EXPERIMENTAL)))
                receiver.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # that its interface is still down
                receiver.settimeout(0.5)
                assert [at] == links.silent(netlink, [at])
                netlink.check([links.set_link(1000 + at, up=True)])
                deadline = time.monotonic() + 5
                while links.silent(netlink, [at, 1000 + at]):
                    assert time.monotonic() < deadline
                sender.send(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(46))
                assert b"\x88\xb5" == receiver.recv(64)[12:14]

    def test_addresses_and_routes_come_back(self, netlink: Netlink) -> None:
        """IPv4 and IPv6, and the default route that replaces another."""
        v4, v6, gateway = parse_ip("10.0.0.2"), parse_ip("fd00::2"), parse_ip("10.0.0.1")
        netlink.check(
            [
                links.veth("a", 10, "b", 11, up=True),
                links.address(10, v4, 24),
                links.address(10, v6, 64),
                links.default_route(10, parse_ip("10.0.0.9")),
                links.default_route(10, gateway),
            ]
        )
        found = {(one.ip, one.prefix_length) for one in links.addresses(netlink)}
        assert {(v4, 24), (v6, 64)} <= found
        assert [(10, None, 0, gateway)] == [one for one in links.routes(netlink) if not one.length]
        assert errno.EEXIST == netlink.send([links.default_route(10, gateway, replace=False)])[0].errno
        netlink.check([links.delete_default_route(10, gateway), links.delete_address(10, v4, 24)])
        assert v4 not in {one.ip for one in links.addresses(netlink)}

    def test_a_shared_block_is_seen_on_its_interfaces(self, netlink: Netlink) -> None:
        """The qdisc names the block; a second clsact is refused; removal takes it off."""
        netlink.check([links.veth("a", 10, "b", 11), links.clsact(10, 77)])
        assert [(10, 77)] == [(one.ifindex, one.ingress_block) for one in links.qdiscs(netlink) if one.kind == "clsact"]
        assert errno.EEXIST == netlink.send([links.clsact(10, 77)])[0].errno
        netlink.check([links.delete_clsact(10)])
        assert [] == [one for one in links.qdiscs(netlink) if one.kind == "clsact"]

    def test_a_group_goes_in_one_message(self, netlink: Netlink) -> None:
        """Interfaces of the group and their peers go; others stay."""
        netlink.check([links.veth(f"a{n}", 0, f"b{n}", group=9 if n else 0) for n in range(5)])
        netlink.check([links.delete_group(9)])
        assert ["lo", "a0", "b0"] == sorted((one.name for one in links.links(netlink)), key=["lo", "a0", "b0"].index)

    def test_a_tap_is_made_with_our_index(self, space: int, netlink: Netlink) -> None:
        """A persistent tap stays after its descriptor is closed; a taken name or index is refused."""
        netns.call(space, lambda: links.create_tap("tap0", 7000))
        assert (7000, "tap0", "tun") == links.links(netlink)[1][:3]
        for name, index in (("tap0", 7001), ("tap1", 7000)):
            with pytest.raises(OSError, match="busy"):
                netns.call(space, partial(links.create_tap, name, index))
        netlink.check([links.delete_link(7000)])
