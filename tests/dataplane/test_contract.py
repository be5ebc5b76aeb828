"""The driver contract: what `dataplane.base.Driver` promises, held against every driver. The fake is one of them."""

import os
import random
from collections.abc import Iterator

import msgspec
import pytest
from tests.dataplane import packets
from tests.dataplane.columns import as_columns
from tests.dataplane.contract_hosts import MISS_S, Host, ebpf_pair, fake_pair

from alcor.dataplane.base import Address, Applied, LocalPort, Plan
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import Mac, parse_ip
from alcor.model.ids import Id, make_id
from alcor.model.nouns import PortKind

VNI, OTHER_VNI = 4001, 4002
NEAR, FAR = "10.0.0.254", "10.0.1.254"
Pair = tuple[Host, Host]
State = tuple[dict[Id, LocalPort], dict[EndpointKey, Endpoint], frozenset[EndpointKey]]
"""What a host is to carry: ports, endpoints, gateways."""


@pytest.fixture(
    params=[
        "fake",
        pytest.param(
            "ebpf",
            marks=[
                pytest.mark.privileged,
                pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: the ebpf driver needs root and BPF"),
            ],
        ),
    ]
)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two hosts on one underlay."""
    with {"fake": fake_pair, "ebpf": ebpf_pair}[request.param]() as hosts:
        yield hosts


@pytest.fixture
def host(pair: Pair) -> Host:
    """One of them."""
    return pair[0]


def port(
    number: int,
    *ips: str,
    vni: int = VNI,
    kind: PortKind = PortKind.CONTAINER,
    up: bool = True,
    routed: bool = True,
    netns: str = "",
    interface: str = "",
    mtu: int = 1400,
) -> LocalPort:
    """A port in 10.0.0.0/23, whose two halves are subnets with a gateway each."""
    addresses = (
        Address(parse_ip(ip), 24, parse_ip(NEAR if ip.startswith("10.0.0.") else FAR))
        for ip in (ips or (f"10.0.0.{number}",))
    )
    return LocalPort(
        id=make_id(vni * 1000 + number, bytes(11)),
        vni=vni,
        mac=Mac(packets.mac(number)),
        addresses=tuple(addresses),
        mtu=mtu,
        admin_state_up=up,
        routed=routed,
        kind=kind,
        netns=netns,
        interface=interface,
    )


def gateways(vni: int = VNI) -> tuple[EndpointKey, ...]:
    """Both subnets' gateways."""
    return EndpointKey(vni, parse_ip(NEAR)), EndpointKey(vni, parse_ip(FAR))


def put(host: Host, *ports: LocalPort, **rest: object) -> None:
    """Applies, and everything succeeds."""
    plan = Plan(put_ports=ports, **rest)  # type: ignore[arg-type]
    applied = host.driver.apply(plan)
    assert dict.fromkeys((*plan.remove_ports, *(one.id for one in ports)), "") == errors(applied)
    assert applied.error == ""


def errors(applied: Applied) -> dict[Id, str]:
    """What became of each port."""
    return {result.id: result.error for result in applied.ports}


def as_endpoints(host: Host, *ports: LocalPort) -> tuple[tuple[EndpointKey, Endpoint], ...]:
    """How other hosts know these ports of this host."""
    return tuple(
        (EndpointKey(one.vni, address.ip), Endpoint(one.mac, host.underlay_ip))
        for one in ports
        for address in one.addresses
    )


def udp(source: LocalPort, target: LocalPort, data: bytes = b"hello") -> bytes:
    """An honest frame on the link, and none that a stack would answer."""
    ends = source.addresses[0].ip, target.addresses[0].ip
    return packets.ethernet(target.mac, source.mac, packets.ipv4(*ends, packets.udp(*ends, data), protocol=packets.UDP))


# ---- state ----


def test_a_fresh_host_carries_nothing(host: Host) -> None:
    """Nothing is observed, and the empty plan is carried out."""
    observed = host.driver.observe()
    assert ({}, {}, frozenset(), ()) == (observed.ports, observed.endpoints, observed.gateways, observed.orphans)
    assert {} == host.driver.counters()
    applied = host.driver.apply(Plan())
    assert ((), "") == (applied.ports, applied.error)


def test_what_was_applied_is_observed(pair: Pair) -> None:
    """Ports of all three kinds, endpoints and gateways come back equal."""
    host, other = pair
    host.make_interface("given0")
    ports = (
        port(1),
        port(2, "10.0.0.2", "10.0.1.2", interface="net0", mtu=1300),
        port(3, netns=host.make_namespace(), routed=False),
        port(4, kind=PortKind.TAP, up=False),
        port(5, kind=PortKind.ADOPTED, interface="given0"),
        port(1, vni=OTHER_VNI),
    )
    far = as_endpoints(other, port(20), port(21, "10.0.0.21", "10.0.1.21"))
    more = as_endpoints(other, port(22), port(23))
    put(host, *ports, put_endpoints=far, put_columns=(as_columns(more),), put_gateways=gateways() + gateways(OTHER_VNI))
    observed = host.driver.observe()
    assert {one.id: one for one in ports} == observed.ports
    assert dict((*far, *more)) == observed.endpoints
    assert frozenset(gateways() + gateways(OTHER_VNI)) == observed.gateways
    assert () == observed.orphans


def test_applying_twice_changes_nothing(host: Host) -> None:
    """The same plan again succeeds, the data plane's contents stay, and so do the workload and its counters."""
    one, two = port(1), port(2)
    plan = Plan(put_ports=(one, two), put_gateways=gateways(), put_endpoints=as_endpoints(host, port(9)))
    host.driver.apply(plan)
    assert host.ping(one, "10.0.0.2")
    before, counted, observed = host.contents(), host.driver.counters(), host.driver.observe()
    with host.wire(two) as wire:
        applied = host.driver.apply(plan)
        assert {one.id: "", two.id: ""} == errors(applied)
        assert observed == host.driver.observe()
        assert counted[one.id].sent_packets <= host.driver.counters()[one.id].sent_packets
        with host.wire(one) as sender:
            sender.send(udp(one, two))
        wire.wait(udp(one, two))
    if host.driver.name != "fake":  # The fake's contents count packets too.
        assert before == host.contents()


def test_removing_the_absent_succeeds(host: Host) -> None:
    """Ports, endpoints and gateways that nobody put can be removed."""
    absent = port(1)
    keys = gateways()
    applied = host.driver.apply(Plan(remove_ports=(absent.id,), remove_endpoints=keys, remove_gateways=keys))
    assert {absent.id: ""} == errors(applied)
    assert applied.error == ""


def test_removal_leaves_nothing(pair: Pair) -> None:
    """After everything is removed the data plane holds what it held before, and what somebody else made is there."""
    host, other = pair
    host.make_interface("given0")
    given = host.make_namespace()
    before, foreign = host.contents(), host.foreign()
    ports = (
        port(1),
        port(2, "10.0.0.2", "10.0.1.2"),
        port(3, netns=given),
        port(4, kind=PortKind.TAP),
        port(5, kind=PortKind.ADOPTED, interface="given0"),
    )
    far = as_endpoints(other, port(20))
    put(host, *ports, put_endpoints=far, put_gateways=gateways())
    assert host.ping(ports[0], "10.0.0.2")
    with host.wire(ports[0]) as wire:
        wire.send(packets.ethernet(ports[1].mac, packets.mac(99), b"counted as spoofed"))
    removal = Plan(
        remove_ports=tuple(one.id for one in ports),
        remove_endpoints=tuple(key for key, _ in far),
        remove_gateways=gateways(),
    )
    for _ in range(2):
        assert {one.id: "" for one in ports} == errors(host.driver.apply(removal))
        assert before == host.contents()
        assert foreign == host.foreign()
        observed = host.driver.observe()
        assert ({}, {}, frozenset(), ()) == (observed.ports, observed.endpoints, observed.gateways, observed.orphans)
    assert {} == host.driver.counters()


def test_a_port_that_fails_does_not_touch_the_others(host: Host) -> None:
    """Each bad port says why; the good ones are carried; nothing half-made is left; the cause gone, a bad one works."""
    missing = port(2, kind=PortKind.ADOPTED, interface="given0")
    nowhere = port(3, netns="/run/netns/alcor-test-not-there")
    huge = port(4, mtu=65535)
    good = port(1), port(5), port(6, kind=PortKind.TAP)
    applied = host.driver.apply(Plan(put_ports=(good[0], missing, nowhere, huge, *good[1:])))
    failed = {identifier: error for identifier, error in errors(applied).items() if error}
    assert {missing.id, nowhere.id, huge.id} == set(failed)
    assert "given0" in failed[missing.id]
    assert nowhere.netns in failed[nowhere.id]
    assert "65535" in failed[huge.id]
    observed = host.driver.observe()
    assert {one.id: one for one in good} == observed.ports
    assert () == observed.orphans
    assert host.ping(good[0], "10.0.0.5")
    host.make_interface("given0")
    put(host, missing)
    assert missing == host.driver.observe().ports[missing.id]


def test_one_owner_per_address_and_mac(host: Host) -> None:
    """A second port with an address or MAC of the first in the VNI is refused by the first's name; the first stays."""
    first, same_ip = port(1), port(2, "10.0.0.1")
    same_mac = msgspec.structs.replace(port(3), mac=first.mac)
    elsewhere = port(1, vni=OTHER_VNI)
    put(host, first, elsewhere)
    failed = errors(host.driver.apply(Plan(put_ports=(same_ip, same_mac))))
    assert "10.0.0.1" in failed[same_ip.id]
    assert "MAC" in failed[same_mac.id]
    assert {first.id: first, elsewhere.id: elsewhere} == host.driver.observe().ports


def test_addresses_can_be_swapped_and_handed_on(host: Host) -> None:
    """One plan may swap two ports' addresses, and may give a removed port's address to a new one."""
    put(host, port(1), port(2), port(3))
    swapped = port(1, "10.0.0.2"), port(2, "10.0.0.1")
    heir = port(4, "10.0.0.3")
    put(host, *swapped, heir, remove_ports=(port(3).id,))
    assert {one.id: one for one in (*swapped, heir)} == host.driver.observe().ports
    assert host.ping(swapped[0], "10.0.0.1")
    assert host.ping(heir, "10.0.0.2")


def test_an_address_goes_from_a_port_made_anew_to_one_changed_in_place(host: Host) -> None:
    """One plan makes a port anew (another kind) without the address that another port is given: the heir has it."""
    put(host, port(1), port(2), port(3))
    anew, heir = port(1, "10.0.0.9", kind=PortKind.TAP), port(2, "10.0.0.1")
    put(host, anew, heir)
    observed = host.driver.observe()
    assert {one.id: one for one in (anew, heir, port(3))} == observed.ports
    assert () == observed.orphans
    assert host.ping(port(3), "10.0.0.1")


def test_a_port_is_put_as_a_whole(host: Host) -> None:
    """A port put again with other properties has those and no others: addresses, MTU, VNI, interface and state."""
    put(host, port(1), port(2), port(2, vni=OTHER_VNI))
    assert host.ping(port(1), "10.0.0.2")
    for changed in (
        port(1, "10.0.0.7"),
        port(1, "10.0.0.7", "10.0.1.7", mtu=1200),
        port(1, "10.0.1.7", routed=False),
        port(1, interface="net7"),
        port(1),
    ):
        put(host, changed)
        assert changed == host.driver.observe().ports[changed.id]
    assert host.ping(port(1), "10.0.0.2")
    assert not host.ping(port(2), "10.0.0.7", MISS_S)


def test_many_ports_in_one_plan_are_answered_one_by_one(host: Host) -> None:
    """Every port of a bulk has exactly one answer, and all are observed."""
    ports = tuple(port(number) for number in range(1, 101))
    applied = host.driver.apply(Plan(put_ports=ports))
    assert [(one.id, "") for one in ports] == [(result.id, result.error) for result in applied.ports]
    assert all(result.elapsed_us >= 0 for result in applied.ports)
    assert {one.id: one for one in ports} == host.driver.observe().ports


def _some_state(rng: random.Random, host: Host, netns: str) -> State:
    """A few of eight ports in one of many shapes, with some endpoints and gateways; no address or MAC is had twice."""
    free = [f"10.0.{net}.{last}" for net in (0, 1) for last in range(1, 9)]
    rng.shuffle(free)
    chosen = rng.sample(range(1, 9), rng.randrange(9))
    ports = [
        port(
            number,
            *(free.pop() for _ in range(rng.choice((1, 1, 2)))),
            vni=rng.choice((VNI, OTHER_VNI)) if number < 5 else VNI,
            up=rng.random() < 0.9,
            routed=rng.random() < 0.9,
            mtu=rng.choice((1400, 1300)),
            **rng.choice(
                ({}, {}, {"interface": "net0"}, {"kind": PortKind.TAP}, {"netns": netns, "interface": f"n{number}"})
            ),
        )
        for number in chosen
    ]
    far = [port(number) for number in rng.sample(range(20, 26), 3)]
    held = frozenset(rng.sample(gateways() + gateways(OTHER_VNI), rng.randrange(5)))
    return {one.id: one for one in ports}, dict(as_endpoints(host, *far)), held


def _plan_between(now: State, wanted: State) -> Plan:
    return Plan(
        remove_ports=tuple(sorted(set(now[0]) - set(wanted[0]))),
        remove_endpoints=tuple(sorted(set(now[1]) - set(wanted[1]))),
        remove_gateways=tuple(sorted(now[2] - wanted[2])),
        put_gateways=tuple(sorted(wanted[2] - now[2])),
        put_endpoints=tuple(sorted(set(wanted[1].items()) - set(now[1].items()), key=lambda one: one[0])),
        put_ports=tuple(one for identifier, one in sorted(wanted[0].items()) if now[0].get(identifier) != one),
    )


@pytest.mark.parametrize("seed", (0, 1, 2, 7, 10, 14))
def test_any_walk_of_states_ends_where_a_straight_way_does(pair: Pair, seed: int) -> None:
    """State after state, restarts between: each is observed as wanted; a host that came straight holds the same."""
    walker, straight = pair
    rng = random.Random(seed)
    given = walker.make_namespace(), straight.make_namespace()
    fresh = walker.contents()
    now: State = ({}, {}, frozenset())
    for _ in range(8):
        wanted = _some_state(rng, straight, given[0])
        plan = _plan_between(now, wanted)
        applied = walker.driver.apply(plan)
        assert set(errors(applied).values()) <= {""}, f"seed {seed}"
        if rng.random() < 0.3:
            walker.reopen()
        observed = walker.driver.observe()
        assert wanted == (observed.ports, observed.endpoints, observed.gateways), f"seed {seed}"
        assert () == observed.orphans, f"seed {seed}"
        now = wanted
    elsewhere = {one.id: moved(one, given[1]) if one.netns else one for one in now[0].values()}
    put(straight, *elsewhere.values(), put_endpoints=tuple(now[1].items()), put_gateways=tuple(now[2]))
    observed = straight.driver.observe()
    assert (elsewhere, now[1], now[2]) == (observed.ports, observed.endpoints, observed.gateways)
    walker.driver.apply(_plan_between(now, ({}, {}, frozenset())))
    assert fresh == walker.contents()


def moved(one: LocalPort, netns: str) -> LocalPort:
    """The port in another namespace."""
    return msgspec.structs.replace(one, netns=netns)


# ---- restarts and leftovers ----


def test_a_second_driver_observes_what_the_first_made(pair: Pair) -> None:
    """P4: closed, everything forwards on; opened again, all of it is recognised, and removing works as ever."""
    host, other = pair
    near, neighbour, far = port(1), port(2, kind=PortKind.TAP), port(3)
    put(host, near, neighbour, put_gateways=gateways(), put_endpoints=as_endpoints(other, far))
    put(other, far, put_endpoints=as_endpoints(host, near))
    before = host.driver.observe()

    def meanwhile() -> None:
        assert host.ping(near, "10.0.0.3")
        assert host.ping(near, NEAR)

    host.reopen(meanwhile)
    assert before == host.driver.observe()
    sent = host.driver.counters()[near.id].sent_packets
    assert sent >= 2
    put(host, near, neighbour)
    assert host.driver.counters()[near.id].sent_packets >= sent
    assert host.ping(near, "10.0.0.3")
    host.driver.apply(Plan(remove_ports=(near.id,)))
    assert {neighbour.id: neighbour} == host.driver.observe().ports


def test_orphans_are_found_and_swept(host: Host) -> None:
    """What a crash left half-made is no port; it is named, by another driver too; swept, it is gone, and it alone."""
    host.make_interface("given0")
    whole = port(1), port(2)
    put(host, *whole)
    before, foreign = host.contents(), host.foreign()
    half = port(3)
    host.leave_half_made(half)
    host.reopen()
    observed = host.driver.observe()
    assert {one.id: one for one in whole} == observed.ports
    assert observed.orphans
    places = [host.driver.interface_of(one.id) for one in whole]
    host.driver.sweep((*observed.orphans, "given0", "underlay", "eth0", "no such thing"))
    assert None not in places
    assert places == [host.driver.interface_of(one.id) for one in whole]
    assert () == host.driver.observe().orphans
    assert before == host.contents()
    assert foreign == host.foreign()
    assert host.ping(whole[0], "10.0.0.2")


def test_an_orphan_is_finished_or_removed_by_its_id(host: Host) -> None:
    """A plan that puts the half-made port makes it whole; one that removes it leaves nothing of it."""
    before = host.contents()
    half = port(3)
    host.leave_half_made(half)
    assert host.driver.observe().orphans
    put(host, half)
    observed = host.driver.observe()
    assert ({half.id: half}, ()) == (observed.ports, observed.orphans)
    assert {half.id: ""} == errors(host.driver.apply(Plan(remove_ports=(half.id,))))
    assert before == host.contents()
    host.leave_half_made(half)
    assert host.driver.observe().orphans
    assert {half.id: ""} == errors(host.driver.apply(Plan(remove_ports=(half.id,))))
    host.driver.sweep(host.driver.observe().orphans)
    assert ((), before) == (host.driver.observe().orphans, host.contents())


# ---- connectivity ----


def test_kinds_of_ports_reach_each_other(host: Host) -> None:
    """A frame between a container, a tap and an adopted interface arrives byte-equal, in every direction."""
    host.make_interface("given0")
    given = host.make_namespace()
    ports = (
        port(1),
        port(2, kind=PortKind.TAP),
        port(3, kind=PortKind.ADOPTED, interface="given0"),
        port(4, netns=given, interface="net0"),
    )
    put(host, *ports)
    for source in ports:
        for target in ports:
            if source is not target:
                with host.wire(source) as sender, host.wire(target) as receiver:
                    sender.send(udp(source, target))
                    receiver.wait(udp(source, target))


def test_hosts_reach_each_other_through_the_tunnel(pair: Pair) -> None:
    """On the link and through the router; an endpoint that moved is followed, one that was removed is not reached."""
    a, b = pair
    near, link, routed = port(1), port(2), port(3, "10.0.1.3")
    put(a, near, put_gateways=gateways(), put_endpoints=as_endpoints(b, link, routed))
    put(b, link, routed, put_gateways=gateways(), put_endpoints=as_endpoints(a, near))
    assert a.ping(near, "10.0.0.2")
    assert a.ping(near, "10.0.1.3")
    assert b.ping(routed, "10.0.0.1")
    frame = udp(near, link)
    with a.wire(near) as sender, b.wire(link) as receiver:
        sender.send(frame)
        receiver.wait(frame)
    moved = as_endpoints(a, link)
    assert a.driver.apply(Plan(put_endpoints=moved)).error == ""
    assert moved[0][1] == a.driver.observe().endpoints[moved[0][0]]
    assert not a.ping(near, "10.0.0.2", MISS_S)
    assert a.driver.apply(Plan(remove_endpoints=tuple(key for key, _ in as_endpoints(b, routed)))).error == ""
    assert not a.ping(near, "10.0.1.3", MISS_S)


def test_gateways_answer_where_the_network_is_routed(host: Host) -> None:
    """A gateway answers pings and routes between subnets; without its row, or without a router, it does not answer."""
    near, other_subnet, unrouted = port(1), port(2, "10.0.1.2"), port(3, routed=False)
    put(host, near, other_subnet, unrouted, put_gateways=gateways())
    assert host.ping(near, NEAR)
    assert host.ping(near, FAR)
    assert host.ping(near, "10.0.1.2")
    assert not host.ping(unrouted, NEAR, MISS_S)
    assert host.driver.apply(Plan(remove_gateways=gateways()[1:])).error == ""
    assert not host.ping(near, FAR, MISS_S)
    assert host.ping(near, NEAR)
    assert host.ping(near, "10.0.1.2")


def test_the_same_addresses_in_two_vpcs_never_meet(pair: Pair) -> None:
    """P7: a frame for 10.0.0.2 goes to the 10.0.0.2 of the sender's VPC, on this host and on the other, and nowhere
    else."""
    a, b = pair
    for vni, host in ((VNI, a), (OTHER_VNI, a)):
        put(host, port(1, vni=vni), port(2, vni=vni), put_endpoints=as_endpoints(b, port(3, vni=vni)))
        put(b, port(3, vni=vni), put_endpoints=as_endpoints(a, port(1, vni=vni)))
    for target, at in ((2, a), (3, b)):
        with (
            a.wire(port(1)) as mine,
            a.wire(port(1, vni=OTHER_VNI)) as theirs,
            at.wire(port(target)) as here,
            at.wire(port(target, vni=OTHER_VNI)) as there,
        ):
            first = udp(port(1), port(target), b"of the first VPC")
            second = udp(port(1), port(target), b"of the second VPC")
            mine.send(first)
            theirs.send(second)
            mine.send(first)
            assert second not in here.wait(first)
            assert first not in there.wait(second)


def test_a_port_cannot_spoof(host: Host) -> None:
    """P7: a frame with another's MAC or address is dropped and counted by reason; the honest one after it arrives."""
    one, two = port(1), port(2)
    put(host, one, two)
    stranger = port(77)
    bad_mac = packets.ethernet(two.mac, stranger.mac, udp(one, two)[14:])
    bad_ip = packets.ethernet(two.mac, one.mac, udp(stranger, two)[14:])
    with host.wire(one) as sender, host.wire(two) as receiver:
        for frame in (bad_mac, bad_ip, bad_ip, udp(one, two)):
            sender.send(frame)
        arrived = receiver.wait(udp(one, two))
    assert not {bad_mac, bad_ip} & set(arrived)
    dropped = host.driver.counters()[one.id].dropped
    assert (1, 2) == (dropped["spoofed_mac"], dropped["spoofed_ip"])


def test_a_port_that_is_down_does_not_send(host: Host) -> None:
    """admin_state_up false stops its traffic, counted as such; true again lets it through."""
    two = port(2)
    put(host, port(1, up=False), two)
    with host.wire(port(1)) as sender, host.wire(two) as receiver:
        sender.send(udp(port(1), two, b"while down"))
        assert host.driver.counters()[port(1).id].dropped["port_down"] >= 1
        put(host, port(1))
        sender.send(udp(port(1), two, b"up again"))
        assert udp(port(1), two, b"while down") not in receiver.wait(udp(port(1), two, b"up again"))


def test_a_port_that_is_down_does_not_receive(pair: Pair) -> None:
    """Nor does anything reach it, from its own host or from another, bridged or routed; up again, all of it does."""
    a, b = pair
    one, two, far = port(1), port(2), port(3)
    put(a, one, port(2, up=False), put_endpoints=as_endpoints(b, far))
    put(b, far, put_endpoints=as_endpoints(a, one, two))
    with a.wire(one) as near, b.wire(far) as remote, a.wire(two) as receiver:
        for sender, source in ((near, one), (remote, far)):
            sender.send(udp(source, two, b"while down"))
        assert a.driver.counters()[one.id].dropped["port_down"] >= 1
        remote.send(udp(far, one, b"behind it"))
        near.wait(udp(far, one, b"behind it"))  # so what came before has met its fate
        put(a, two)
        for sender, source in ((near, one), (remote, far)):
            sender.send(udp(source, two, b"up again"))
            arrived = receiver.wait(udp(source, two, b"up again"))
            assert udp(source, two, b"while down") not in arrived


def test_counters_count(pair: Pair) -> None:
    """Packets and bytes are the frames', at both ends, tunnelled or not; a port made anew starts from nothing."""
    a, b = pair
    # Taps: nobody chatters behind them.
    one, two, far = (port(number, kind=PortKind.TAP) for number in (1, 2, 3))
    put(a, one, two, put_endpoints=as_endpoints(b, far))
    put(b, far)
    frame, farther = udp(one, two, bytes(100)), udp(one, far, bytes(300))
    before = a.driver.counters()[one.id]
    with a.wire(one) as sender, a.wire(two) as receiver, b.wire(far) as far_receiver:
        for _ in range(3):
            sender.send(frame)
            receiver.wait(frame)
        sender.send(farther)
        far_receiver.wait(farther)
    counted = a.driver.counters()
    assert (4, 3 * len(frame) + len(farther)) == (
        counted[one.id].sent_packets - before.sent_packets,
        counted[one.id].sent_bytes - before.sent_bytes,
    )
    assert (3, 3 * len(frame)) == (counted[two.id].received_packets, counted[two.id].received_bytes)
    assert (1, len(farther)) == (
        b.driver.counters()[far.id].received_packets,
        b.driver.counters()[far.id].received_bytes,
    )
    a.driver.apply(Plan(remove_ports=(two.id,)))
    assert {one.id} == set(a.driver.counters())
    put(a, two)
    assert (0, 0) == (a.driver.counters()[two.id].received_packets, a.driver.counters()[two.id].received_bytes)
