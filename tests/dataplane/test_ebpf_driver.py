"""The ebpf driver on a real kernel: kinds of port, exact removal, changes, restarts."""

import fcntl
import os
import select
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.dataplane.columns import as_columns
from tests.dataplane.throwaway import UNDERLAY_MTU, Host, Region, a_port
from tests.dataplane.wired import all_well, footprint, inside, replaced

from alcor.dataplane.base import Address, Observed
from alcor.dataplane.ebpf import attaching, driver, wiring
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.bpf import BpfMap
from alcor.dataplane.kernel.netlink import Netlink
from alcor.model.addresses import Mac, format_ip, parse_ip
from alcor.model.ids import format_id
from alcor.model.nouns import PortKind

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: these tests drive the real kernel; run them as root"),
]
GATEWAY = parse_ip("10.1.255.254")


@pytest.fixture
def host() -> Iterator[Host]:
    """One host with a driver."""
    with Region() as region:
        yield region.hosts[0]


class TestContainer:
    def test_one_can_send_before_it_is_reached(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """What leads to a port is written after what it needs to send: else the ARP request that its first answer
        begins with were dropped, and repeated a second later. And its interface transmits."""
        written: list[str] = []
        update = BpfMap.update_batch

        def watch(table: BpfMap, keys: bytes, values: bytes, count: int) -> None:
            written.extend([table.name] * (count > 0))
            update(table, keys, values, count)

        monkeypatch.setattr(BpfMap, "update_batch", watch)
        port = a_port()
        assert all_well(port) == host.put(port)
        at = {name: written.index(name) for name in written}
        with host.netlink() as netlink:
            indexes = [one.ifindex for one in links.links(netlink) if one.alias == wiring.alias_of(port.id)]
            assert (len(indexes), links.silent(netlink, indexes)) == (1, [])
        assert at["routers"] < at["ports"] < at["local"] < at["macs"]

    def test_it_is_made_whole(self, host: Host) -> None:
        """Namespace named by the port's id, `eth0` with MAC, MTU, addresses and default route, loopback up."""
        v6 = Address(parse_ip("fd00::5"), 64, parse_ip("fd00::1"))
        port = a_port()
        port = replaced(port, addresses=(*port.addresses, v6))
        assert all_well(port) == host.put(port)
        here, addresses, gateways = inside(host, port)
        assert (port.mac, 1450, True) == (here["eth0"].mac, here["eth0"].mtu, here["eth0"].up)
        assert here["lo"].up
        assert {(one.ip, one.prefix_length) for one in port.addresses} == addresses
        assert [GATEWAY, parse_ip("fd00::1")] == gateways
        outer = host.links()["alc" + format_id(port.id)[:11]]
        assert (wiring.alias_of(port.id), 1450, True) == (outer.alias, outer.mtu, outer.up)
        assert Observed(ports={port.id: port}, endpoints={}, gateways=frozenset()) == host.observe()

    def test_many_endpoints_are_put_in_parts(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whole parts, and the rest."""
        monkeypatch.setattr(driver, "ENDPOINTS_AT_A_TIME", 4)
        port, mac = a_port(), Mac(b"\x02\0\0\0\0\x09")
        host.put(port)
        for count in (1, 4, 5, 8, 11):
            ends = {
                EndpointKey(port.vni, parse_ip(f"10.77.{count}.{number}")): Endpoint(mac, parse_ip("192.0.2.9"), number)
                for number in range(count)
            }
            before = host.observe().endpoints
            more = as_columns([(EndpointKey(port.vni + 1, key.ip), end) for key, end in ends.items()])
            assert "" == host.apply(put_endpoints=tuple(ends.items()), put_columns=(more, more)).error
            assert {**before, **ends, **dict(more.rows())} == host.observe().endpoints

    def test_two_on_one_host_reach_each_other(self, host: Host) -> None:
        """ARP and ICMP pass, and are counted."""
        one, other = a_port(), a_port()
        assert all_well(one, other) == host.put(one, other)
        assert host.ping(one, other.addresses[0].ip)
        driver = host.driver
        assert driver is not None
        counted = host.call(driver.counters)
        assert counted[one.id].sent_packets >= 4
        assert counted[other.id].received_packets >= 3

    def test_its_gateway_answers(self, host: Host) -> None:
        """The implicit router's address is pinged once it is put, and no more once it is removed."""
        port = a_port()
        key = EndpointKey(port.vni, GATEWAY)
        host.apply(put_gateways=(key,), put_ports=(port,))
        assert host.ping(port, GATEWAY)
        assert frozenset({key}) == host.observe().gateways
        host.apply(remove_gateways=(key,))
        assert not host.ping(port, GATEWAY)
        assert frozenset() == host.observe().gateways

    def test_a_given_namespace_is_entered_and_stays(self, host: Host) -> None:
        """The interface has the name asked for; removal takes the interface and leaves the rest as it was."""
        given = host.directory / "given"
        netns.create(given)
        port = a_port(netns=str(given), interface="net7")
        peer = a_port()
        try:
            before = given.stat().st_ino
            assert all_well(port, peer) == host.put(port, peer)
            assert host.ping(port, peer.addresses[0].ip)
            assert [GATEWAY] == inside(host, port)[2]
            assert [format_id(peer.id)] == netns.names(host.netns_dir)
            host.apply(remove_ports=(port.id,))
            fd = netns.open_path(given)
            with netns.call(fd, Netlink) as netlink:
                assert ["lo"] == [one.name for one in links.links(netlink)]
            os.close(fd)
            assert before == given.stat().st_ino
        finally:
            netns.delete(given)

    def test_two_may_share_a_given_namespace(self, host: Host) -> None:
        """The first keeps the default route; both have their addresses."""
        given = host.directory / "given"
        netns.create(given)
        first = a_port(netns=str(given), interface="a", vni=1)
        second = a_port(netns=str(given), interface="b", vni=2)
        try:
            assert all_well(first, second) == host.put(first, second)
            here, addresses, gateways = inside(host, second)
            assert {"lo", "a", "b"} == set(here)
            assert {(one.ip, one.prefix_length) for one in second.addresses} == addresses
            assert [GATEWAY] == gateways
        finally:
            host.apply(remove_ports=(first.id, second.id))
            netns.delete(given)

    def test_it_comes_from_the_pool(self) -> None:
        """With a pool, namespaces are named that were ready; beyond it they are made."""
        with Region() as region:
            host = region.hosts[0]
            host.restart(pool_size=2)
            assert host.driver is not None
            assert host.driver.hands.pool.wait_full(30)
            ports = [a_port() for _ in range(3)]
            assert all_well(*ports) == host.put(*ports)
            assert host.ping(ports[0], ports[2].addresses[0].ip)
            assert sorted(format_id(port.id) for port in ports) == netns.names(host.netns_dir)


class TestTap:
    def test_it_is_made_and_removed(self, host: Host) -> None:
        """A persistent tap, up, not with the guest's own MAC, named as Nova names it."""
        port = a_port(kind=PortKind.TAP)
        assert all_well(port) == host.put(port)
        name = "tap" + format_id(port.id)[:11]
        tap = host.links()[name]
        assert ("tun", True, 1450, Mac(b"\xfe" + port.mac[1:])) == (tap.kind, tap.up, tap.mtu, tap.mac)
        assert {port.id: port} == host.observe().ports
        host.apply(remove_ports=(port.id,))
        assert name not in host.links()

    def test_a_guest_reaches_a_container(self, host: Host) -> None:
        """A frame written to the tap, as QEMU would, arrives; the answer can be read."""
        guest, peer = a_port(kind=PortKind.TAP), a_port()
        assert all_well(guest, peer) == host.put(guest, peer)
        ask = (
            b"\xff" * 6 + guest.mac + bytes.fromhex("0806 0001 0800 06 04 0001")
            + guest.mac + guest.addresses[0].ip[12:] + bytes(6) + peer.addresses[0].ip[12:]
        )  # fmt: skip
        answer = host.call(lambda: _exchange(wiring.host_name(guest), ask))
        assert guest.mac + peer.mac == answer[:12]
        assert peer.mac + peer.addresses[0].ip[12:] == answer[22:32]


def _exchange(tap: str, frame: bytes) -> bytes:
    """Writes a frame to a tap as its owner, again and again as a guest does, until an ARP answer comes: the kernel
    gives a tap that was just opened its carrier with a delay, and drops what is sent to it before."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(fd, links.TUNSETIFF, struct.pack("16sH22x", tap.encode(), links.IFF_TAP | links.IFF_NO_PI))
        for _ in range(1000):
            os.write(fd, frame)
            while select.select([fd], [], [], 0.02)[0]:
                got = os.read(fd, 2048)
                if got[12:14] == b"\x08\x06":
                    return got
        raise AssertionError("no answer")
    finally:
        os.close(fd)


class TestAdopted:
    @pytest.fixture
    def adoptable(self, host: Host) -> Path:
        """A veth that somebody else made: `mine` on the host, `eth0` in a namespace."""
        path = host.directory / "other"
        netns.create(path)
        fd = netns.open_path(path)
        with host.netlink() as netlink:
            netlink.check([links.veth("mine", 50, "eth0", 51, peer_netns=fd, mtu=1400, up=True)])
        os.close(fd)
        return path

    def test_it_is_attached_only(self, host: Host, adoptable: Path) -> None:
        """The interface keeps name, alias, MTU and index; traffic passes; removal leaves it as it was found."""
        before = footprint(host)
        port = a_port(kind=PortKind.ADOPTED, interface="mine")
        peer = a_port()
        assert all_well(port, peer) == host.put(port, peer)
        assert before[0]["mine"] == host.links()["mine"]
        fd = netns.open_path(adoptable)
        with netns.call(fd, Netlink) as netlink:
            one = port.addresses[0]
            mac = links.set_link(51, mac=port.mac, up=True)
            netlink.check([mac, links.address(51, one.ip, one.prefix_length)])
        os.close(fd)
        assert host.ping(replaced(port, netns=str(adoptable)), peer.addresses[0].ip)
        host.apply(remove_ports=(port.id, peer.id))
        assert before == footprint(host)
        netns.delete(adoptable)

    def test_a_foreign_qdisc_is_not_replaced(self, host: Host, adoptable: Path) -> None:
        """An interface with somebody's clsact is an error that says so, and the qdisc stays."""
        with host.netlink() as netlink:
            netlink.check([links.clsact(50)])
        before = footprint(host)
        port = a_port(kind=PortKind.ADOPTED, interface="mine")
        assert "qdisc of somebody else" in host.put(port)[port.id]
        assert before == footprint(host)
        assert Observed(ports={}, endpoints={}, gateways=frozenset()) == host.observe()
        netns.delete(adoptable)

    def test_it_belongs_to_one_port(self, host: Host, adoptable: Path) -> None:
        """A second port that adopts the same interface is refused, naming the first; so is the underlay."""
        first, second = (a_port(kind=PortKind.ADOPTED, interface="mine") for _ in range(2))
        underlay = a_port(kind=PortKind.ADOPTED, interface="eth0")
        errors = host.put(first, second, underlay)
        assert "" == errors[first.id]
        assert format_id(first.id) in errors[second.id]
        assert "underlay" in errors[underlay.id]
        assert {first.id: first} == host.observe().ports
        netns.delete(adoptable)


class TestTwoHosts:
    def test_ports_on_two_hosts_reach_each_other(self) -> None:
        """With each told of the other's endpoint, containers ping across the tunnel, with full-size packets too."""
        with Region(2) as region:
            left, right = region.hosts
            one, other = a_port(mtu=UNDERLAY_MTU - 50), a_port(mtu=UNDERLAY_MTU - 50)
            for host, port, far, far_host in ((left, one, other, right), (right, other, one, left)):
                key = EndpointKey(far.vni, far.addresses[0].ip)
                end = Endpoint(far.mac, far_host.underlay_ip)
                applied = host.apply(put_ports=(port,), put_endpoints=((key, end),))
                assert "" == applied.error
                assert {key: end} == host.observe().endpoints
            assert left.ping(one, other.addresses[0].ip)
            assert left.ping(one, other.addresses[0].ip, "-s", str(UNDERLAY_MTU - 50 - 28), "-M", "do")
            left.apply(remove_endpoints=(EndpointKey(other.vni, other.addresses[0].ip),))
            assert not left.ping(one, other.addresses[0].ip)


class TestRemoval:
    def test_nothing_is_left(self, host: Host) -> None:
        """Interfaces, qdiscs, namespaces and table rows are as before the ports; doing it again succeeds."""
        empty = footprint(host)
        ports = [a_port() for _ in range(70)] + [a_port(kind=PortKind.TAP) for _ in range(3)]
        assert all_well(*ports) == host.put(*ports)
        assert {port.id for port in ports} == set(host.observe().ports)
        gone = tuple(port.id for port in ports)
        for _ in range(2):
            assert all_well(*ports) == {one.id: one.error for one in host.apply(remove_ports=gone).ports}
        assert empty == footprint(host)
        assert Observed(ports={}, endpoints={}, gateways=frozenset()) == host.observe()
        driver = host.driver
        assert driver is not None
        for table in (driver._program.ports, driver._program.local, driver._program.counters, driver._program.drops):
            assert [] == [key for key, _ in table.items() if key[:4] != bytes(4)]
        assert {} == driver._records.all()

    def test_an_address_may_move_within_a_plan(self, host: Host) -> None:
        """A port is removed and another takes its address and MAC, in one plan."""
        old, peer = a_port(), a_port()
        new = replaced(old, id=a_port().id)
        host.put(old, peer)
        applied = host.apply(remove_ports=(old.id,), put_ports=(new,))
        assert [(old.id, ""), (new.id, "")] == [(one.id, one.error) for one in applied.ports]
        assert host.ping(new, peer.addresses[0].ip)


class TestChange:
    def test_in_place(self, host: Host) -> None:
        """MAC, MTU, addresses, gateway, state and routing change with the same interface in the same namespace."""
        port, peer = a_port(), a_port()
        host.put(port, peer)
        before = footprint(host)[2], host.links()[wiring.host_name(port)].ifindex
        fresh = a_port()
        changed = replaced(
            port,
            mac=Mac(b"\x02\x22\0\0\0\1"),
            mtu=1300,
            addresses=(Address(fresh.addresses[0].ip, 16, parse_ip("10.1.255.1")),),
            routed=False,
        )
        assert all_well(changed) == host.put(changed)
        assert before == (footprint(host)[2], host.links()[wiring.host_name(port)].ifindex)
        here, addresses, gateways = inside(host, changed)
        assert (changed.mac, 1300) == (here["eth0"].mac, here["eth0"].mtu)
        assert {(changed.addresses[0].ip, 16)} == addresses
        assert [parse_ip("10.1.255.1")] == gateways
        assert {changed.id: changed, peer.id: peer} == host.observe().ports
        assert () == host.observe().orphans
        assert host.ping(changed, peer.addresses[0].ip)

    def test_down_and_up(self, host: Host) -> None:
        """An administratively down port is wired and carries nothing; up again it does."""
        port, peer = a_port(), a_port()
        host.put(port, peer)
        host.put(replaced(port, admin_state_up=False))
        assert not host.ping(port, peer.addresses[0].ip)
        host.put(port)
        # The first tries may still wait for the answer to an ARP request that was dropped.
        assert any(host.ping(port, peer.addresses[0].ip) for _ in range(5))

    def test_two_ports_swap_addresses(self, host: Host) -> None:
        """In one plan, without a conflict."""
        one, other, peer = a_port(), a_port(), a_port()
        host.put(one, other, peer)
        swapped = replaced(one, addresses=other.addresses), replaced(other, addresses=one.addresses)
        assert all_well(*swapped) == host.put(*swapped)
        assert host.ping(peer, one.addresses[0].ip)
        assert {port.id: port for port in (*swapped, peer)} == host.observe().ports

    def test_another_kind_is_made_anew(self, host: Host) -> None:
        """A container becomes a tap and comes back: nothing of the former is left."""
        port = a_port()
        host.put(port)
        tap = replaced(port, kind=PortKind.TAP)
        assert all_well(tap) == host.put(tap)
        assert [] == netns.names(host.netns_dir)
        assert wiring.host_name(port) not in host.links()
        assert all_well(port) == host.put(port)
        assert wiring.host_name(tap) not in host.links()
        assert {port.id: port} == host.observe().ports

    def test_what_is_put_again_stays(self, host: Host) -> None:
        """The same plan twice changes nothing."""
        ports = [a_port(), a_port(kind=PortKind.TAP)]
        host.put(*ports)
        before = footprint(host)
        assert all_well(*ports) == host.put(*ports)
        assert before == footprint(host)


class TestRestart:
    def test_everything_is_found_and_nothing_is_touched(self, host: Host) -> None:
        """A second agent sees the same ports, endpoints and gateways; no interface, qdisc, filter or namespace changes,
        and the kernel announces nothing."""
        ports = [a_port(), a_port(kind=PortKind.TAP), a_port(admin_state_up=False)]
        end = (EndpointKey(77, parse_ip("10.1.200.1")), Endpoint(Mac(b"\x02\x33\0\0\0\1"), parse_ip("192.0.2.9")))
        gateway = EndpointKey(77, GATEWAY)
        host.apply(put_ports=tuple(ports), put_endpoints=(end,), put_gateways=(gateway,))
        seen, before = host.observe(), footprint(host)
        assert {port.id: port for port in ports} == seen.ports
        host.stop()
        monitor = subprocess.Popen(
            ["nsenter", f"--net={host.path}", "ip", "monitor", "link", "address", "route", "nsid"],
            stdout=subprocess.PIPE,
            text=True,
        )
        tc_monitor = subprocess.Popen(
            ["nsenter", f"--net={host.path}", "tc", "monitor"], stdout=subprocess.PIPE, text=True
        )
        try:
            host.start()
            assert seen == host.observe()
            host.sweep()
            assert seen == host.observe()
            assert before == footprint(host)
        finally:
            monitor.terminate()
            tc_monitor.terminate()
        assert "" == monitor.communicate(timeout=10)[0]
        assert "" == tc_monitor.communicate(timeout=10)[0]

    def test_no_packet_is_lost(self, host: Host) -> None:
        """A ping runs on while the agent goes and comes back."""
        one, other = a_port(), a_port()
        host.put(one, other)
        command = ["nsenter", f"--net={host.namespace(one)}", "ping", "-nq", "-c200", "-i0.002", "-W2"]
        ping = subprocess.Popen([*command, format_ip(other.addresses[0].ip)], stdout=subprocess.PIPE, text=True)
        host.restart()
        host.restart()
        assert " 0% packet loss" in ping.communicate(timeout=60)[0]


class TestHost:
    def test_the_program_is_there_before_the_first_port(self, host: Host) -> None:
        """The block and the underlay carry our filters; another filter of the underlay stays."""
        with host.netlink() as netlink:
            assert ["alcor_port"] == [one.name for one in links.filters(netlink, block=wiring.MAIN_BLOCK)]
            assert ["alcor_overlay"] == [one.name for one in links.filters(netlink, index=10)]

    def test_ipv6_is_off_for_ports_made_on_the_host(self, host: Host) -> None:
        """In the host's namespace only; containers have theirs."""
        port = a_port()
        host.put(port)
        setting = "net.ipv6.conf.{}.disable_ipv6"
        names = (setting.format("default"), setting.format(wiring.host_name(port)))
        for where, expected in ((host.path, "1"), (host.namespace(port), "0")):
            for name in names[: 2 if expected == "1" else 1]:
                found = subprocess.run(
                    ["nsenter", f"--net={where}", "cat", "/proc/sys/" + name.replace(".", "/")],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                assert expected == found.stdout.strip()

    def test_programs_come_off_again(self, host: Host) -> None:
        """`detach` leaves neither filter nor anchor; doing it twice succeeds."""
        driver = host.driver
        assert driver is not None
        for _ in range(2):
            host.call(lambda: attaching.detach(driver.hands.netlink, driver._underlay))
        assert attaching.ANCHOR not in host.links()
        with host.netlink() as netlink:
            assert [] == links.filters(netlink, index=10)
            assert [] == links.filters(netlink, block=wiring.MAIN_BLOCK)
