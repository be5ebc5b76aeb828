"""Wiring without a kernel: names, records, steps, refusals and explanations; claims; sorting what is seen."""

import errno
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcor.dataplane.base import Address, EipLimit, LocalPort, RateLimit
from alcor.dataplane.ebpf import sorting, wiring
from alcor.dataplane.ebpf.eips import eip_rows, forwarding_rows
from alcor.dataplane.ebpf.planning import Claims, Numbers
from alcor.dataplane.ebpf.queues import shape_of
from alcor.dataplane.ebpf.sorting import Snapshot
from alcor.dataplane.ebpf.tables import (
    EndpointFlag,
    LocalRow,
    MacKey,
    Queues,
    port_endpoints,
    port_local,
    port_routers,
    port_row,
    unpack_key,
)
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.classes import Shape
from alcor.dataplane.kernel.links import Link
from alcor.dataplane.kernel.netlink import HEADER, Ack
from alcor.model.addresses import Ip, Mac, parse_ip, parse_prefix
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import AddressPair, Claim, Eip, Forwarding, PortKind
from alcor.services.claims import MAX_CLAIMS

UUID = "01234567-89ab-8def-8123-456789abcdef"
INDEX = wiring.FIRST_INDEX


def a_port(number: int = 1, **changes: object) -> LocalPort:
    port = LocalPort(
        id=Id(parse_id(UUID)[:15] + bytes((number,))),
        vni=7,
        mac=Mac(b"\x02\0\0\0\0" + bytes((number,))),
        addresses=(Address(parse_ip(f"10.0.0.{number}"), 24, parse_ip("10.0.0.254")),),
        mtu=1450,
        admin_state_up=True,
        routed=True,
        kind=PortKind.CONTAINER,
        netns="",
        interface="",
    )
    return msgspec.structs.replace(port, **changes)


def kinds(steps: tuple[wiring.Step, ...]) -> list[int]:
    return [HEADER.unpack_from(step.message)[1] for step in steps]


class TestNames:
    def test_interfaces_are_named_after_the_port(self) -> None:
        """11 characters of the id after `alc` or `tap`; an adopted one keeps its name. All fit IFNAMSIZ."""
        port = a_port(0xEF)
        assert "alc01234567-89" == wiring.host_name(port)
        assert "tap01234567-89" == wiring.host_name(msgspec.structs.replace(port, kind=PortKind.TAP))
        assert "eth5" == wiring.host_name(msgspec.structs.replace(port, kind=PortKind.ADOPTED, interface="eth5"))

    def test_an_alias_names_its_port(self) -> None:
        """And what is not Alcor's alias names none."""
        port = a_port()
        assert port.id == wiring.id_of_alias(wiring.alias_of(port.id))
        assert len(wiring.alias_of(port.id)) <= links.MAX_ALIAS
        assert [None] * 4 == [wiring.id_of_alias(alias) for alias in ("", "alcor", "alcor:x", "mine:" + UUID)]

    def test_inner_indexes_never_meet(self) -> None:
        """Constant in a namespace of ours; in a given one unlike any host index and unlike another port's."""
        given = a_port(netns="/run/netns/x")
        assert wiring.OWN_INNER_INDEX == wiring.inner_index(a_port(), INDEX)
        assert wiring.inner_index(given, INDEX) != wiring.inner_index(given, INDEX + 1)
        assert wiring.LAST_INDEX < wiring.inner_index(given, INDEX) <= 0x7FFFFFFF


class TestRecord:
    @given(st.integers(0, 12), st.text(max_size=60), st.booleans(), st.sampled_from(PortKind))
    def test_it_is_read_back(self, addresses: int, text: str, flag: bool, kind: PortKind) -> None:
        """Whatever fits is the same port when read."""
        one = Address(Ip(b"\xfe" * 16), 64, Ip(b"\xfd" * 16) if flag else None)
        port = a_port(addresses=(one,) * addresses, netns=text, kind=kind, routed=flag)
        record = wiring.encode_record(port)
        assert wiring.MAX_RECORD_BYTES == len(record)
        assert port == wiring.decode_record(record)

    @given(st.binary(min_size=wiring.MAX_RECORD_BYTES, max_size=wiring.MAX_RECORD_BYTES))
    def test_what_cannot_be_read_is_none(self, record: bytes) -> None:
        """Random bytes are no port, and no crash."""
        assert wiring.decode_record(record) is None

    def test_all_its_pairs_and_claims_fit(self) -> None:
        """What a workload announces is no reason to refuse its port."""
        own = tuple(Address(parse_ip(f"2001:db8::{n}"), 64, parse_ip("2001:db8::fe")) for n in range(1, 5))
        pairs = tuple(AddressPair(parse_prefix(f"2001:db8:1:{n}::7/128"), Mac(bytes(5) + b"\x07")) for n in range(10))
        claims = tuple(Claim(parse_ip(f"2001:db8:1:{n}::7"), Mac(bytes(5) + b"\x07")) for n in range(MAX_CLAIMS))
        port = a_port(addresses=own, pairs=pairs, claims=claims, netns="/run/netns/" + 60 * "n")
        assert port == wiring.decode_record(wiring.encode_record(port))

    def test_too_long_is_refused(self) -> None:
        """With what to do."""
        dice = random.Random(1)
        many = a_port(addresses=tuple(Address(Ip(dice.randbytes(16)), 24, None) for _ in range(80)))
        with pytest.raises(ValueError, match="fewer addresses"):
            wiring.encode_record(many)


class TestSteps:
    def test_the_qdisc_comes_before_up(self) -> None:
        """On an interface that is up it would stop all traffic and wait for a grace period."""
        for kind in (PortKind.CONTAINER, PortKind.TAP):
            steps = wiring.host_steps(a_port(kind=kind), INDEX, 9)
            ups = [at for at, step in enumerate(steps) if self.brings_up(step.message)]
            assert [len(steps) - 1] == ups
            assert links.RTM_NEWQDISC in kinds(steps)[: ups[0]]

    def brings_up(self, message: bytes) -> bool:
        kind = HEADER.unpack_from(message)[1]
        return kind in (links.RTM_NEWLINK, links.RTM_SETLINK) and bool(message[24] & links.IFF_UP)

    def test_an_adopted_interface_gets_a_qdisc_and_nothing_else(self) -> None:
        """Neither when it is adopted nor when its port changes."""
        old = a_port(kind=PortKind.ADOPTED, interface="x")
        new = msgspec.structs.replace(old, mtu=1300, mac=Mac(b"\x02" * 6), addresses=())
        assert [links.RTM_NEWQDISC] == kinds(wiring.host_steps(old, 50, -1))
        assert [links.RTM_NEWQDISC] == kinds(wiring.host_changes(old, new, 50))

    def test_a_default_route_per_family(self) -> None:
        """Through the gateway of the first address that has one."""
        v4, v6 = parse_ip("10.0.0.254"), parse_ip("fd00::1")
        addresses = (
            Address(parse_ip("10.0.0.1"), 24, None),
            Address(parse_ip("10.0.1.1"), 24, v4),
            Address(parse_ip("fd00::2"), 64, v6),
            Address(parse_ip("10.0.2.1"), 24, parse_ip("10.0.2.254")),
        )
        assert (v4, v6) == wiring.gateways(a_port(addresses=addresses))

    def test_host_routes_come_and_go(self) -> None:
        """Through the gateway of their subnet, one a destination; a default route is none of them."""
        near, far = parse_ip("10.0.0.254"), parse_ip("10.0.1.254")
        base, other = (parse_ip("192.0.2.0"), 24), (parse_ip("198.51.100.0"), 24)
        nothing = (parse_ip("0.0.0.0"), 0)
        addresses = (
            Address(parse_ip("10.0.0.1"), 24, near, (nothing, base)),
            Address(parse_ip("10.0.1.1"), 24, far, (base, other)),
        )
        told = a_port(addresses=addresses)
        assert ((*base, near), (*other, far)) == wiring.host_routes(told)
        untold = a_port(addresses=tuple(msgspec.structs.replace(one, routes=()) for one in addresses))
        assert 2 == kinds(wiring.inner_changes(told, untold, INDEX)).count(links.RTM_DELROUTE)
        assert 0 == kinds(wiring.inner_changes(untold, told, INDEX)).count(links.RTM_DELROUTE)

    def test_only_what_differs_is_changed_inside(self) -> None:
        """The same port again only repeats what is harmless; another address goes and comes."""
        port = a_port()
        assert kinds(wiring.inner_steps(port, INDEX)) == kinds(wiring.inner_changes(port, port, INDEX))
        moved = a_port(addresses=(Address(parse_ip("10.0.0.77"), 24, None),))
        found = kinds(wiring.inner_changes(port, moved, INDEX))
        assert {links.RTM_DELADDR, links.RTM_DELROUTE, links.RTM_NEWADDR} < set(found)
        assert found.index(links.RTM_DELADDR) < found.index(links.RTM_NEWADDR)

    def test_kind_namespace_and_name_need_a_new_interface(self) -> None:
        """Everything else changes in place."""
        port = a_port()
        for anew in ({"kind": PortKind.TAP}, {"netns": "/x"}, {"interface": "net1"}):
            assert not wiring.changes_in_place(port, a_port(**anew))
        same = a_port(vni=8, mac=Mac(b"\x02" * 6), mtu=1300, addresses=(), admin_state_up=False, routed=False)
        assert wiring.changes_in_place(port, same)


class TestRefusal:
    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"mtu": 1451}, "mtu 1451"),
            ({"mtu": 67}, "mtu 67"),
            ({"mtu": 1279, "addresses": (Address(parse_ip("fd00::2"), 64, None),)}, "from 1280"),
            ({"interface": "sixteen_letters_"}, "'sixteen_letters_'"),
            ({"interface": "a/b"}, "'a/b'"),
            ({"interface": "a b"}, "'a b'"),
            ({"interface": ".."}, "'..'"),
            ({"netns": "blue"}, "netns 'blue' must be an absolute path"),
            ({"kind": PortKind.ADOPTED}, "must name the interface"),
            ({"netns": "/" + random.Random(1).randbytes(2000).hex()}, "shorter netns path"),
        ],
    )
    def test_it_names_the_thing(self, changes: dict[str, Any], word: str) -> None:
        """Before anything is made."""
        assert word in wiring.refuse(a_port(**changes), 1500)

    def test_a_good_port_is_not_refused(self) -> None:
        """Also when the underlay's MTU is not known."""
        assert "" == wiring.refuse(a_port(), 1500)
        assert "" == wiring.refuse(a_port(mtu=9000), 0)

    def test_refusals_of_the_kernel_are_explained(self) -> None:
        """By what was tried; the kernel's reason is there, and what to do where it is known."""
        port = a_port()
        make, route = wiring.host_steps(port, INDEX, 9)[1].message, wiring.inner_steps(port, INDEX)[-1].message
        assert "alc01234567-89" in wiring.explain(port, make, Ack(errno.EEXIST))
        assert "remove or rename" in wiring.explain(port, make, Ack(errno.EEXIST))
        assert "No buffer space available" in wiring.explain(port, make, Ack(errno.ENOBUFS))
        assert "10.0.0.254" in wiring.explain(port, route, Ack(errno.ENETUNREACH, "Nexthop has invalid gateway"))
        assert "Nexthop has invalid" in wiring.explain(
            port, route, Ack(errno.ENETUNREACH, "Nexthop has invalid gateway")
        )


class TestNumbers:
    def test_they_rise_and_come_round(self) -> None:
        """What is in use is passed over; what was freed comes back last."""
        numbers = Numbers(10, 13)
        numbers.reserve([5, 10, 99])
        assert [11, 12, 13] == [numbers.take() for _ in range(3)]
        numbers.reserve([12])
        assert [10, 11, 13, 10] == [numbers.take() for _ in range(4)]


class TestClaims:
    def test_one_owner_per_mac_and_address_in_a_vni(self) -> None:
        """Another VNI is another world; a refused claim gives nothing."""
        claims = Claims([a_port(1)])
        assert "MAC" in claims.claim(a_port(2, mac=a_port(1).mac))
        assert "address 10.0.0.1" in claims.claim(a_port(3, addresses=a_port(1).addresses))
        assert "" == claims.claim(a_port(4, vni=8, mac=a_port(1).mac, addresses=a_port(1).addresses))
        assert "" == claims.claim(a_port(3))

    def test_what_is_withdrawn_is_free(self) -> None:
        """Withdrawing twice, or what never claimed, changes nothing."""
        claims = Claims([a_port(1), a_port(2)])
        for _ in range(2):
            claims.withdraw([a_port(1).id, a_port(9).id])
        assert claims.owner(7, parse_ip("10.0.0.1")) is None
        assert a_port(2).id == claims.owner(7, parse_ip("10.0.0.2"))


def seen(*ports: LocalPort, first: int = INDEX) -> Snapshot:
    """A kernel that carries these ports, whole."""
    at = {first + number: port for number, port in enumerate(ports)}
    return Snapshot(
        rows={index: port_row(port, peer=True) for index, port in at.items()},
        records=dict(at),
        local={key: row for index, port in at.items() for key, row in port_endpoints(port, index, peer=True)},
        macs={MacKey(port.vni, port.mac): port_local(port, index, peer=True) for index, port in at.items()},
        links={index: a_link(index, port) for index, port in at.items()},
        attached=frozenset(at),
        queues={},
        routers={index: port_routers(port) for index, port in at.items()},
    )


def a_link(index: int, port: LocalPort, **changes: Any) -> Link:
    alias = wiring.alias_of(port.id)
    link = Link(index, wiring.host_name(port), "veth", alias, True, port.mtu, Mac(bytes(6)), 0, 0, 0, 0)
    return link._replace(**changes)


class TestSorting:
    def test_what_is_whole_is_carried(self) -> None:
        """And nothing is left over; a gateway's row is no stale address."""
        gateway = EndpointKey(7, parse_ip("10.0.0.254"))
        snapshot = seen(a_port(1), a_port(2))
        local = {**snapshot.local, gateway: LocalRow(0, EndpointFlag.GATEWAY, Mac(bytes(6)))}
        found = sorting.sort_out(snapshot._replace(local=local))
        assert [(a_port(1), True), (a_port(2), True)] == [(one.port, one.right) for one in found.carried.values()]
        assert ((), frozenset({gateway})) == (found.orphans, found.gateways)

    @pytest.mark.parametrize(
        "changes",
        [
            {"attached": frozenset()},
            {"local": {}},
            {"links": {INDEX: a_link(INDEX, a_port(), up=False)}},
            {"rows": {INDEX: port_row(a_port(mtu=1300), peer=True)}},
            {"routers": {}},
        ],
    )
    def test_what_is_damaged_is_to_mend(self, changes: dict[str, Any]) -> None:
        """Its interface is there and known: it is carried, not right, and no orphan."""
        found = sorting.sort_out(seen(a_port())._replace(**changes))
        assert [False] == [one.right for one in found.carried.values()]
        assert {} == found.leftovers

    @pytest.mark.parametrize(
        ("changes", "ours"),
        [
            ({"rows": {}}, (INDEX,)),
            ({"records": {}}, (INDEX,)),
            ({"records": {INDEX: None}}, (INDEX,)),
            ({"rows": {}, "records": {}}, (INDEX,)),
            ({"links": {}}, ()),
            ({"links": {INDEX: a_link(INDEX, a_port(), alias="", name="other")}}, ()),
            ({"links": {INDEX: a_link(INDEX, a_port(), alias="")}, "rows": {}}, (INDEX,)),
        ],
    )
    def test_what_is_not_whole_is_left_over(self, changes: dict[str, Any], ours: tuple[int, ...]) -> None:
        """By record, row or alias; only an interface that is seen to be ours is deleted."""
        found = sorting.sort_out(seen(a_port())._replace(**changes))
        (left,) = found.leftovers.values()
        assert ({}, a_port().id, (INDEX,), ours) == (found.carried, left.id, left.ifindexes, left.links)
        assert f"port {format_id(a_port().id)}" == left.name

    def test_a_namespace_that_was_given_is_never_ours(self) -> None:
        """With the record it is known; without it only the name by the port's id can be ours."""
        given = a_port(netns="/run/netns/x")
        assert [False] == [one.own_netns for one in sorting.sort_out(seen(given)._replace(rows={})).leftovers.values()]
        assert [True] == [
            one.own_netns for one in sorting.sort_out(seen(a_port())._replace(rows={})).leftovers.values()
        ]

    def test_a_port_that_is_there_twice_is_kept_once(self) -> None:
        """The newest; the older interface goes, the namespace stays."""
        old, new = seen(a_port()), seen(a_port(), first=INDEX + 5)
        both = Snapshot(
            rows={**old.rows, **new.rows},
            records={**old.records, **new.records},
            local={**old.local, **new.local},
            macs={**old.macs, **new.macs},
            links={**old.links, **new.links},
            attached=old.attached | new.attached,
            queues={},
        )
        found = sorting.sort_out(both)
        assert [INDEX + 5] == [one.ifindex for one in found.carried.values()]
        assert [((INDEX,), (INDEX,), False)] == [
            (one.ifindexes, one.links, one.own_netns) for one in found.leftovers.values()
        ]

    @pytest.mark.parametrize(
        ("rows", "there", "right"),
        [
            (Queues(5, 0), {5: shape_of(RateLimit(1000))}, True),
            (Queues(5, 0), {5: shape_of(RateLimit(1000)), 6: shape_of(RateLimit(1))}, True),
            (Queues(5, 0), {5: shape_of(RateLimit(1001))}, False),
            (Queues(5, 0), {5: shape_of(RateLimit(1000, 500))}, False),
            (Queues(5, 0), {}, False),
            (Queues(0, 0), {}, False),
            (Queues(5, 6), {5: shape_of(RateLimit(1000)), 6: shape_of(RateLimit(1000))}, False),
        ],
    )
    def test_a_limit_is_kept_by_its_queue(self, rows: Queues, there: dict[int, Shape], right: bool) -> None:
        """A port whose rows name another queue than the one that keeps its limit is to be mended; a queue of nobody's
        is left over."""
        port = msgspec.structs.replace(a_port(), egress_limit=RateLimit(1000))
        kernel = seen(port)._replace(
            rows={INDEX: port_row(port, peer=True, queues=rows)},
            local=dict(port_endpoints(port, INDEX, peer=True, queues=rows)),
            queues=there,
        )
        found = sorting.sort_out(kernel)
        assert right is found.carried[port.id].right
        assert tuple(f"queue {one}" for one in sorted(there.keys() - set(rows))) == found.orphans

    @pytest.mark.parametrize(
        ("named", "there", "right"),
        [
            (Queues(0, 6), {6: shape_of(RateLimit(1000))}, True),
            (Queues(5, 6), {5: shape_of(RateLimit(1000)), 6: shape_of(RateLimit(1000))}, False),
            (Queues(0, 6), {6: shape_of(RateLimit(2000))}, False),
            (Queues(0, 6), {}, False),
            (Queues(0, 0), {}, False),
        ],
    )
    @pytest.mark.parametrize("forwarded", [False, True])
    def test_so_is_that_of_an_external_address(
        self, named: Queues, there: dict[int, Shape], right: bool, forwarded: bool
    ) -> None:
        """Its rows name the queue; another port's row for the address does not say whose queue it is."""
        ip, inside = parse_ip("203.0.113.5"), a_port().addresses[0].ip
        port = msgspec.structs.replace(
            a_port(),
            eips=() if forwarded else (Eip(ip, inside, 24, None),),
            forwardings=(Forwarding(ip, 6, 80, inside, 80, 24, None),) if forwarded else (),
            eip_limits=(EipLimit(ip, None, RateLimit(1000)),),
        )

        def kernel(ifindex: int) -> Snapshot:
            rows = eip_rows(port, ifindex, {ip: named})
            return seen(port)._replace(
                eips={unpack_key(key): value for key, value in rows.items()},
                forwardings=forwarding_rows(port, ifindex, {ip: named}),
                queues=there,
            )

        found = sorting.sort_out(kernel(INDEX))
        assert right is found.carried[port.id].right
        assert {number for number in named if number} == found.carried[port.id].queues.numbers()
        foreign = sorting.sort_out(kernel(INDEX + 1)).carried[port.id]
        assert (False, set()) == (foreign.right, foreign.queues.numbers())

    def test_foreign_things_are_not_seen(self) -> None:
        """Interfaces without our alias or record are nobody's business."""
        foreign = {1: a_link(1, a_port(), alias="", name="lo"), 2: a_link(2, a_port(), alias="vm:1")}
        found = sorting.sort_out(Snapshot({}, {}, {}, {}, foreign, frozenset({2}), {}))
        assert ({}, {}, ()) == (found.carried, found.leftovers, found.orphans)
