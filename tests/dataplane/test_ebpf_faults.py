"""The ebpf driver on a real kernel when things go wrong: crashes half-way, damage, errors of one port among many."""

import os
import random
from collections.abc import Iterator

import pytest
from tests.dataplane.throwaway import UNDERLAY_MTU, Host, Region, a_port
from tests.dataplane.wired import all_well, footprint, replaced

from alcor.dataplane.base import Address, DataPlaneError, LocalPort
from alcor.dataplane.ebpf import attaching, tables, wiring
from alcor.dataplane.ebpf.driver import EbpfConfig, EbpfDriver
from alcor.dataplane.ebpf.hands import Job
from alcor.dataplane.ebpf.planning import Numbers
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.kernel import links, netns
from alcor.model.addresses import Ip, Mac, format_ip, format_mac, parse_ip
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


class TestCrash:
    """What a crash leaves at any point is found, named, and either finished by putting the port or swept."""

    def leave_half_made(self, host: Host, port: LocalPort, steps: int) -> None:
        """Does what the driver does for a new container up to a point, and stops."""
        driver = host.driver
        assert driver is not None

        def work() -> None:
            indexes = Numbers(wiring.FIRST_INDEX, wiring.LAST_INDEX)
            indexes.reserve(link.ifindex for link in links.links(driver.hands.netlink))
            ifindex = indexes.take()
            driver._records.keep([Job(port, ifindex)])
            if steps >= 1:
                netns.create(host.namespace(port))
            if steps >= 2:
                fd = netns.open_path(host.namespace(port))
                messages = [one.message for one in wiring.host_steps(port, ifindex, fd)]
                driver.hands.netlink.check(messages[:steps])
                os.close(fd)
            if steps >= 5:
                driver._program.routers.put(tables.pack_ifindex(ifindex), tables.port_routers(port))

        host.call(work)
        host.restart()

    @pytest.mark.parametrize("steps", range(6))
    def test_it_is_swept(self, host: Host, steps: int) -> None:
        """Observed as an orphan, never as a port; gone after a sweep, with everything else in place."""
        whole = a_port()
        host.put(whole)
        before = footprint(host)
        half = a_port()
        self.leave_half_made(host, half, steps)
        seen = host.observe()
        assert {whole.id: whole} == seen.ports
        assert f"port {format_id(half.id)}" in seen.orphans
        host.sweep()
        assert before == footprint(host)
        driver = host.driver
        assert driver is not None
        assert len(list(driver._program.routers.items())) == 1
        assert () == host.observe().orphans

    @pytest.mark.parametrize("steps", range(6))
    def test_it_is_finished_by_putting_it(self, host: Host, steps: int) -> None:
        """The next agent puts the port as if it were new."""
        half, peer = a_port(), a_port()
        self.leave_half_made(host, half, steps)
        assert all_well(half, peer) == host.put(half, peer)
        assert host.ping(half, peer.addresses[0].ip)
        assert {half.id: half, peer.id: peer} == host.observe().ports
        assert () == host.observe().orphans

    def test_a_sweep_looks_again(self, host: Host) -> None:
        """An orphan that has become a whole port meanwhile is left alone."""
        half = a_port()
        self.leave_half_made(host, half, 3)
        driver = host.driver
        assert driver is not None
        orphans = host.observe().orphans
        host.put(half)
        host.call(lambda: driver.sweep(orphans))
        assert {half.id: half} == host.observe().ports

    def test_without_its_record_a_port_is_unknown_and_made_anew(self, host: Host) -> None:
        """A row without a readable record is not believed."""
        port = a_port()
        host.put(port)
        driver = host.driver
        assert driver is not None
        ifindex = host.links()[wiring.host_name(port)].ifindex
        host.call(lambda: driver._records._map.put(tables.pack_ifindex(ifindex), b"\xff" * wiring.MAX_RECORD_BYTES))
        host.restart()
        orphans = (
            f"port {format_id(port.id)}",
            f"address {format_ip(port.addresses[0].ip)} of VNI 77",
            f"MAC {format_mac(port.mac)} of VNI 77",
        )
        assert ({}, orphans) == (host.observe().ports, host.observe().orphans)
        assert all_well(port) == host.put(port)
        assert ({port.id: port}, ()) == (host.observe().ports, host.observe().orphans)


class TestDamage:
    """Somebody took part of a port away: it is not observed, and putting it mends it."""

    @pytest.mark.parametrize("damage", ["link", "qdisc", "down", "address row", "port row"])
    def test_it_is_mended(self, host: Host, damage: str) -> None:
        """After the mending packets pass again."""
        port, peer = a_port(), a_port()
        host.put(port, peer)
        index = host.links()[wiring.host_name(port)].ifindex
        driver = host.driver
        assert driver is not None
        messages = {
            "link": links.delete_link(index),
            "qdisc": links.delete_clsact(index),
            "down": links.set_link(index, up=False),
        }
        key = tables.pack_key(EndpointKey(port.vni, port.addresses[0].ip))
        if damage in messages:
            with host.netlink() as netlink:
                netlink.check([messages[damage]])
        elif damage == "address row":
            driver._program.local.delete(key)
        else:
            driver._program.ports.delete(tables.pack_ifindex(index))
        assert {peer.id: peer} == host.observe().ports
        assert all_well(port) == host.put(port)
        assert {port.id: port, peer.id: peer} == host.observe().ports
        assert host.ping(port, peer.addresses[0].ip)
        assert () == host.observe().orphans

    @pytest.mark.parametrize("rows", [("local", "macs"), ("macs",), ("local",)], ids=",".join)
    def test_what_a_crash_left_and_nobody_wants_can_be_removed(self, host: Host, rows: tuple[str, ...]) -> None:
        """The row in `ports` was written, those behind it were not: neither a port nor an orphan, but named."""
        whole = a_port()
        host.put(whole)
        before = footprint(host)
        left = a_port()
        host.put(left)
        driver = host.driver
        assert driver is not None
        if "local" in rows:
            driver._program.local.delete(tables.pack_key(EndpointKey(left.vni, left.addresses[0].ip)))
        if "macs" in rows:
            driver._program.macs.delete(tables.pack_mac_keys([tables.MacKey(left.vni, left.mac)]))
        host.restart()
        seen = host.observe()
        assert (seen.ports, seen.damaged, seen.orphans) == ({whole.id: whole}, frozenset({left.id}), ())
        host.apply(remove_ports=tuple(seen.damaged))
        seen = host.observe()
        assert (seen.ports, seen.damaged, seen.orphans) == ({whole.id: whole}, frozenset(), ())
        assert before == footprint(host)

    def test_it_is_mended_without_being_observed(self, host: Host) -> None:
        """The interface vanished since the driver last looked: putting the port makes it anew all the same."""
        port, peer = a_port(), a_port()
        host.put(port, peer)
        with host.netlink() as netlink:
            netlink.check([links.delete_link(host.links()[wiring.host_name(port)].ifindex)])
        assert all_well(port) == host.put(port)
        assert host.ping(port, peer.addresses[0].ip)

    def test_a_stale_address_is_swept(self, host: Host) -> None:
        """A row of `local` that leads to no port is an orphan; a gateway's is not."""
        gateway, stale = EndpointKey(77, GATEWAY), EndpointKey(77, parse_ip("10.1.250.1"))
        host.apply(put_gateways=(gateway,))
        driver = host.driver
        assert driver is not None
        row = tables.LocalRow(4711, tables.EndpointFlag(0), Mac(bytes(6)))
        driver._program.local.put(tables.pack_key(stale), tables.pack_local(row))
        assert ("address 10.1.250.1 of VNI 77",) == host.observe().orphans
        host.sweep()
        assert ((), frozenset({gateway})) == (host.observe().orphans, host.observe().gateways)


class TestErrors:
    def test_one_bad_port_among_many(self, host: Host) -> None:
        """Each says what is wrong; the others are carried; of the bad ones nothing is left."""
        empty = footprint(host)
        netns.create(host.directory / "given")
        dice = random.Random(1)
        good = [a_port() for _ in range(80)]
        taken_name, taken_netns = a_port(), a_port()
        bad = {
            a_port(netns="/nowhere/x").id: "netns '/nowhere/x' is not there",
            taken_name.id: f"interface {wiring.host_name(taken_name)}",
            taken_netns.id: "namespace name",
            a_port().id: "mtu 1551 does not fit",
        }
        gone, far, broken = next(iter(bad)), a_port(), a_port()
        wrong = [
            a_port(id=gone, netns="/nowhere/x"),
            taken_name,
            taken_netns,
            a_port(id=list(bad)[3], mtu=UNDERLAY_MTU - 49),
            replaced(far, mac=good[0].mac),
            replaced(broken, addresses=good[1].addresses),
            a_port(kind=PortKind.ADOPTED, interface="nope"),
            a_port(addresses=(Address(parse_ip("10.1.250.9"), 24, parse_ip("10.9.9.9")),)),
            a_port(netns=str(host.directory / "given"), interface="lo"),
            a_port(interface="a name"),
            a_port(addresses=tuple(Address(Ip(dice.randbytes(16)), 64, None) for _ in range(80))),
        ]
        reasons = [
            *bad.values(),
            "MAC",
            "address 10.1.",
            "interface 'nope' is not there",
            "route through 10.9.9.9",
            "lo (inside the namespace)",
            "no interface name",
            "fewer addresses",
        ]
        netns.create(host.namespace(taken_netns))
        with host.netlink() as netlink:
            netlink.check([links.veth(wiring.host_name(taken_name), 60, "foreign", 61)])
        errors = host.put(*good[:40], *wrong, *good[40:])
        assert all_well(*good) == {port.id: errors[port.id] for port in good}
        for port, reason in zip(wrong, reasons, strict=True):
            assert reason in errors[port.id], errors[port.id]
        assert {port.id: port for port in good} == host.observe().ports
        assert () == host.observe().orphans
        assert netns.is_named(host.namespace(taken_netns))
        assert host.links()[wiring.host_name(taken_name)].ifindex == 60
        with host.netlink() as netlink:
            netlink.check([links.delete_link(60)])
        netns.delete(host.namespace(taken_netns))
        netns.delete(host.directory / "given")
        host.apply(remove_ports=tuple(port.id for port in good))
        assert empty == footprint(host)

    def test_a_full_table_is_an_error_not_a_crash(self, host: Host) -> None:
        """Endpoints beyond the table's size: the plan says so, its ports are carried."""
        host.stop()
        port = a_port()
        keys = [EndpointKey(1, Ip(parse_ip("10.0.0.0")[:12] + number.to_bytes(4, "big"))) for number in range(2000)]
        host.start()
        ends = tuple((key, Endpoint(Mac(bytes(6)), parse_ip("192.0.2.7"))) for key in keys)
        applied = host.apply(put_endpoints=ends, put_ports=(port,))
        assert "remote" in applied.error
        assert [""] == [one.error for one in applied.ports]

    def test_without_its_underlay_it_does_not_start(self, host: Host) -> None:
        """The error names the device and where to say which."""
        config = EbpfConfig(
            pin_dir=host.directory / "bpf",
            netns_dir=host.netns_dir,
            device="eth9",
            underlay_ip=host.underlay_ip,
        )
        with pytest.raises(DataPlaneError, match="'eth9' is not there"):
            host.call(lambda: EbpfDriver(config))

    def test_a_foreign_anchor_is_not_taken(self, host: Host) -> None:
        """An interface that happens to have the anchor's name stops the start, and stays."""
        host.stop()
        with host.netlink() as netlink:
            netlink.check([links.delete_link(attaching.ANCHOR_INDEX), links.bridge(attaching.ANCHOR, 70)])
        with pytest.raises(DataPlaneError, match="not Alcor's"):
            host.start()
        assert 70 == host.links()[attaching.ANCHOR].ifindex
