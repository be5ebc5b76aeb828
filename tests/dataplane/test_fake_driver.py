"""The fake driver beyond the contract: what survives a process, real datagrams between switches, its hooks."""

import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.dataplane import packets

from alcor.dataplane.base import Address, DataPlaneError, LocalPort, Plan
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.fake import state, workload
from alcor.dataplane.fake.driver import FakeDriver
from alcor.dataplane.fake.switch import Switch
from alcor.model.addresses import Mac, parse_ip
from alcor.model.ids import make_id
from alcor.model.nouns import PortKind

VNI = 7
GATEWAY = "10.0.0.254"
VXLAN_PORT = 4789


def port(number: int, gateway: str | None = GATEWAY) -> LocalPort:
    """10.0.0.<number>."""
    return LocalPort(
        id=make_id(number, bytes(11)),
        vni=VNI,
        mac=Mac(packets.mac(number)),
        addresses=(Address(parse_ip(f"10.0.0.{number}"), 24, parse_ip(gateway) if gateway else None),),
        mtu=1400,
        admin_state_up=True,
        routed=True,
        kind=PortKind.CONTAINER,
        netns="",
        interface="",
    )


ONE, TWO, FAR = port(1), port(2), port(3)
FAR_KEY = EndpointKey(VNI, parse_ip("10.0.0.3"))
GATEWAY_KEY = EndpointKey(VNI, parse_ip(GATEWAY))


@pytest.fixture
def network() -> str:
    """A loopback network of the test's own: 127.x.y."""
    return f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"


@pytest.fixture
def driver() -> FakeDriver:
    """A driver over a switch without a tunnel, carrying ONE and TWO."""
    made = FakeDriver(Switch(parse_ip("127.0.0.1")))
    made.apply(Plan(put_ports=(ONE, TWO), put_gateways=(GATEWAY_KEY,)))
    return made


@pytest.fixture
def pair(network: str) -> Iterator[tuple[FakeDriver, FakeDriver]]:
    """Two hosts: ONE and TWO on the first, FAR on the second."""
    with ExitStack() as stack:
        here = stack.enter_context(Switch(parse_ip(f"{network}.1")))
        there = stack.enter_context(Switch(parse_ip(f"{network}.2")))
        a, b = FakeDriver(here), FakeDriver(there)
        far = (FAR_KEY, Endpoint(FAR.mac, parse_ip(f"{network}.2")))
        near = (EndpointKey(VNI, parse_ip("10.0.0.1")), Endpoint(ONE.mac, parse_ip(f"{network}.1")))
        a.apply(Plan(put_ports=(ONE, TWO), put_endpoints=(far,)))
        b.apply(Plan(put_ports=(FAR,), put_endpoints=(near,)))
        yield a, b


# ---- what survives ----


def test_a_killed_process_is_followed_by_one_that_finds_everything(tmp_path: Path, network: str) -> None:
    """What was applied is in the directory at once; nothing need be closed for another switch to take it up."""
    switch = Switch(parse_ip(f"{network}.1"), directory=tmp_path)
    first = FakeDriver(switch)
    plan = Plan(
        put_ports=(ONE, TWO),
        put_gateways=(GATEWAY_KEY,),
        put_endpoints=((FAR_KEY, Endpoint(FAR.mac, parse_ip(f"{network}.9"))),),
    )
    first.apply(plan)
    with switch.changing() as carried:
        carried.add_device(FAR)
    switch.add_foreign("given0")
    first.apply(Plan(remove_ports=(TWO.id,)))

    second = FakeDriver(Switch(parse_ip(f"{network}.1"), directory=tmp_path))
    assert first.observe() == second.observe()
    assert ("fake102",) == second.observe().orphans
    second.sweep(second.observe().orphans)
    second.apply(plan)
    assert second.ping(ONE.id, parse_ip("10.0.0.2")).received == 1

    third = FakeDriver(Switch(parse_ip(f"{network}.1"), directory=tmp_path))
    assert second.observe() == third.observe()
    assert () == third.observe().orphans


def test_counters_are_saved_when_the_driver_closes(tmp_path: Path) -> None:
    """Traffic counts on over an orderly restart."""
    first = FakeDriver(Switch(parse_ip("127.0.0.1"), directory=tmp_path))
    first.apply(Plan(put_ports=(ONE, TWO)))
    first.ping(ONE.id, parse_ip("10.0.0.2"), 3)
    first.inject(ONE.id, packets.ethernet(TWO.mac, packets.mac(99), b""))
    first.close()
    second = FakeDriver(Switch(parse_ip("127.0.0.1"), directory=tmp_path))
    assert first.counters() == second.counters()
    assert {"spoofed_mac": 1} == second.counters()[ONE.id].dropped


@pytest.mark.parametrize("damage", [b"", b"\xc1 not msgpack", b"\x81\xa5ports\x05"])
def test_a_damaged_state_is_refused_with_its_name(tmp_path: Path, damage: bytes) -> None:
    """Half a state is no state: better to say which file than to forward wrongly."""
    (tmp_path / state.FILE_NAME).write_bytes(damage)
    with pytest.raises(DataPlaneError, match=state.FILE_NAME):
        Switch(parse_ip("127.0.0.1"), directory=tmp_path)


def test_a_state_that_cannot_be_saved_is_an_error_of_the_host(tmp_path: Path) -> None:
    """No port is to blame, so apply raises."""
    (tmp_path / "file").write_text("in the way")
    driver = FakeDriver(Switch(parse_ip("127.0.0.1"), directory=tmp_path / "state"))
    (tmp_path / "state").symlink_to(tmp_path / "file")
    with pytest.raises(DataPlaneError, match="cannot save"):
        driver.apply(Plan(put_ports=(ONE,)))


# ---- the tunnel ----


def test_real_datagrams_run_between_switches(pair: tuple[FakeDriver, FakeDriver]) -> None:
    """A ping crosses as VXLAN over UDP, and is counted at both ends."""
    a, b = pair
    pings = a.ping(ONE.id, parse_ip("10.0.0.3"), 5)
    assert (5, 5, 5) == (pings.sent, pings.received, len(pings.round_trip_us))
    assert b.counters()[FAR.id].received_packets == 5
    assert b.ping(FAR.id, parse_ip("10.0.0.1")).received == 1


def test_foreign_datagrams_do_no_harm(pair: tuple[FakeDriver, FakeDriver], network: str) -> None:
    """Garbage, frames of another VNI and frames to the wrong MAC are dropped; what follows arrives."""
    _, b = pair
    honest = packets.ethernet(FAR.mac, ONE.mac, packets.ipv4("10.0.0.1", "10.0.0.3", b"x" * 20))
    wrong_mac = packets.ethernet(TWO.mac, ONE.mac, packets.ipv4("10.0.0.1", "10.0.0.3", b"y" * 20))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for datagram in (
            b"",
            b"x",
            secrets.token_bytes(100),
            packets.vxlan(VNI + 1, honest),
            packets.vxlan(VNI, wrong_mac),
            packets.vxlan(VNI, honest, flags=0),
            packets.vxlan(VNI, honest),
        ):
            stranger.sendto(datagram, (f"{network}.2", VXLAN_PORT))
    assert (honest,) == b.received(FAR.id, 5.0)


def test_a_host_that_is_away_costs_only_the_packets_to_it(network: str) -> None:
    """Nobody listens there: pings go unanswered, and the host goes on."""
    with Switch(parse_ip(f"{network}.1")) as switch:
        driver = FakeDriver(switch)
        away = (FAR_KEY, Endpoint(FAR.mac, parse_ip(f"{network}.9")))
        driver.apply(Plan(put_ports=(ONE, TWO), put_endpoints=(away,)))
        assert driver.ping(ONE.id, parse_ip("10.0.0.3"), 3, 0.02).received == 0
        assert driver.ping(ONE.id, parse_ip("10.0.0.2")).received == 1


def test_without_a_tunnel_remote_packets_are_dropped_and_counted(driver: FakeDriver) -> None:
    """A switch that was not opened says `encap_failed`; inside the host all works."""
    driver.apply(Plan(put_endpoints=((FAR_KEY, Endpoint(FAR.mac, parse_ip("127.0.0.9"))),)))
    assert driver.ping(ONE.id, parse_ip("10.0.0.3"), timeout_s=0.01).received == 0
    assert {"encap_failed": 1} == driver.counters()[ONE.id].dropped


def test_an_address_that_cannot_be_bound_is_named(network: str) -> None:
    """Two hosts cannot share a tunnel end; an IPv6 underlay is not there yet."""
    with (
        Switch(parse_ip(f"{network}.1")),
        pytest.raises(DataPlaneError, match=f"{network}.1:{VXLAN_PORT}"),
        Switch(parse_ip(f"{network}.1")),
    ):
        pass
    with pytest.raises(DataPlaneError, match="IPv4"):
        Switch(parse_ip("::1")).open()


def test_closing_ends_the_thread_and_may_be_repeated(network: str) -> None:
    """A closed switch forwards no more, keeps its state, and may be opened again."""
    switch = Switch(parse_ip(f"{network}.1")).open()
    driver = FakeDriver(switch)
    driver.apply(Plan(put_ports=(ONE,)))
    switch.close()
    switch.close()
    with switch:
        assert {ONE.id: ONE} == driver.observe().ports


# ---- hooks ----


def test_inject_says_why(driver: FakeDriver) -> None:
    """P9: every step a frame took, in words."""
    frame = packets.ethernet(packets.ROUTER, ONE.mac, packets.ipv4("10.0.0.1", "10.0.0.77"))
    verdict = driver.inject(ONE.id, frame)
    assert (
        "1-4: port of VNI 7, up, a MAC that it may use\n"
        "7: 10.0.0.1 -> 10.0.0.77, the source is the port's\n"
        "10: nobody in VNI 7 has 10.0.0.77: drop no_endpoint"
    ) == verdict.why


def test_injected_faults_are_the_ports_own() -> None:
    """A refusal reaches the result of that port, for putting and for removing; the rest of the plan is carried out."""
    switch = Switch(parse_ip("127.0.0.1"))
    driver = FakeDriver(switch)
    switch.refusals[ONE.id] = "no memory: make room"
    applied = driver.apply(Plan(put_ports=(ONE, TWO)))
    assert {ONE.id: "no memory: make room", TWO.id: ""} == {result.id: result.error for result in applied.ports}
    assert {TWO.id: TWO} == driver.observe().ports
    switch.refusals[TWO.id] = "stuck: try again"
    assert "stuck: try again" == driver.apply(Plan(remove_ports=(TWO.id,))).ports[0].error
    assert {TWO.id: TWO} == driver.observe().ports


def test_what_a_workload_cannot_do_is_said(driver: FakeDriver) -> None:
    """A port that is not here, and a destination without a route."""
    with pytest.raises(DataPlaneError, match="not on this host"):
        driver.ping(FAR.id, parse_ip("10.0.0.1"))
    driver.apply(Plan(put_ports=(port(1, gateway=None),)))
    with pytest.raises(DataPlaneError, match="no route"):
        driver.ping(ONE.id, parse_ip("10.9.9.9"))


def test_received_frames_are_bounded_and_taken_once(driver: FakeDriver) -> None:
    """The newest are kept; a second look finds nothing."""
    frames = [
        packets.ethernet(TWO.mac, ONE.mac, packets.ipv4("10.0.0.1", "10.0.0.2", number.to_bytes(2, "big")))
        for number in range(workload.MAX_RECEIVED + 5)
    ]
    for frame in frames:
        driver.inject(ONE.id, frame)
    assert tuple(frames[5:]) == driver.received(TWO.id)
    assert () == driver.received(TWO.id)


# ---- the workload ----


def test_a_workload_asks_once_and_sends_what_waited() -> None:
    """Packets wait for ARP, the newest few of them; the answer releases them in order, and later ones go at once."""
    one = workload.Workload(ONE)
    destination = parse_ip("10.0.0.9")
    for number in range(workload.MAX_WAITING + 3):
        (question,) = one.send(destination, packets.UDP, bytes((number,)))
        assert packets.arp(ONE.mac, "10.0.0.1", "10.0.0.9") == question
    answer = packets.arp(
        packets.mac(9), "10.0.0.9", "10.0.0.1", opcode=2, target_mac=ONE.mac, ethernet_destination=ONE.mac
    )
    released = one.receive(answer)
    assert list(range(3, workload.MAX_WAITING + 3)) == [frame[34] for frame in released]
    (sent,) = one.send(destination, packets.UDP, b"now")
    expected = packets.ipv4("10.0.0.1", "10.0.0.9", b"now", protocol=packets.UDP)
    assert packets.ethernet(packets.mac(9), ONE.mac, expected) == sent


def test_a_workload_answers_for_itself_only() -> None:
    """ARP and echo requests to its own address and MAC are answered, anything else is only kept."""
    one = workload.Workload(ONE)
    asked = packets.arp(TWO.mac, "10.0.0.2", "10.0.0.1")
    answer = packets.arp(ONE.mac, "10.0.0.1", "10.0.0.2", opcode=2, target_mac=TWO.mac, ethernet_destination=TWO.mac)
    assert [answer] == one.receive(asked)
    echo = packets.icmp_echo()
    request = packets.ethernet(ONE.mac, TWO.mac, packets.ipv4("10.0.0.2", "10.0.0.1", echo, protocol=packets.ICMP))
    reply = packets.ipv4("10.0.0.1", "10.0.0.2", packets.icmp_echo(kind=0), protocol=packets.ICMP)
    assert [packets.ethernet(TWO.mac, ONE.mac, reply)] == one.receive(request)
    broken = request[:-1] + bytes((request[-1] ^ 1,))
    others = (
        packets.arp(TWO.mac, "10.0.0.2", "10.0.0.3"),
        packets.ethernet(TWO.mac, ONE.mac, request[14:]),
        packets.ethernet(ONE.mac, TWO.mac, packets.ipv4("10.0.0.2", "10.0.0.3", echo, protocol=packets.ICMP)),
        broken,
        b"",
    )
    assert [[]] * len(others) == [one.receive(frame) for frame in others]
    assert len(others) + 2 == len(one.received)
