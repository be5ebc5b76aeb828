"""What every store promises, run over each of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.store.nouns import make, network, node, port, subnet, write

from alcor.model.addresses import Mac, parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Claim, DhcpOption, Ipv6Mode, Network, PortKind, PortStatus, Subnet
from alcor.store.base import (
    ChangeRecord,
    Changes,
    Departure,
    MarkerNotFound,
    Query,
    QueryError,
    StatusChange,
    Store,
    StoreError,
)
from alcor.store.memory import MemoryStore
from alcor.store.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind; whatever the test did, it must be consistent in the end."""
    opened: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "alcor.db")
    yield opened
    assert [] == opened.check()
    opened.close()


def _cloud(store: Store) -> tuple[Network, Subnet]:
    owner = network(1)
    inside = subnet(2, owner, "10.0.0.0/16")
    write(store, networks=[owner], subnets=[inside], nodes=[node(3, "h1", "192.0.2.1"), node(4, "h2", "192.0.2.2")])
    return owner, inside


def test_an_empty_store(store: Store) -> None:
    """Revision 0, ordinal 0, nothing in it."""
    assert (0, 0) == (store.revision(), store.last_ordinal())
    assert ([], [], [], []) == (store.networks(), store.subnets(), store.nodes(), store.list_ports(Query()))
    assert [] == store.changes_since(0, 10)


def test_nouns_come_back_as_they_were(store: Store) -> None:
    """Every field, extreme values included."""
    text = "Ünïcode ' \" ; -- \x01 \U0001f600"
    full = network(1, name=text, description=text, project_id="p", cidr=parse_prefix("10.0.0.0/8"), shared=True)
    bare = network(2, vni=(1 << 24) - 1, admin_state_up=False, revision=1 << 62)
    inside = subnet(3, full, "10.0.0.0/8", name=text, gateway=None, pools=(), dns_nameservers=(), enable_dhcp=False)
    six = subnet(4, full, "2001:db8::/64", description=text)
    host = node(5, text, "192.0.2.1", agent_host="h.example", agent_port=65535)
    many = port(
        6,
        full,
        (inside, "10.255.255.254"),
        (six, "2001:db8::ffff:ffff:ffff:fffe"),
        name=text,
        host=text,
        device_id=text,
        device_owner="compute:nova",
        admin_state_up=False,
        kind=PortKind.ADOPTED,
        netns="/run/x",
        interface="eth0",
        mac=Mac(b"\xfe\xff\xff\xff\xff\xff"),
        status=PortStatus.ERROR,
        status_reason=text,
        realised_revision=5,
        created_at=1 << 50,
    )
    plain = port(7, bare)
    write(store, networks=[full, bare], subnets=[inside, six], nodes=[host], new_ports=[many, plain])
    assert [full, bare] == store.networks() == store.list_networks(Query())
    assert [inside, six] == store.subnets() == store.list_subnets(Query())
    assert [host] == store.nodes() == store.list_nodes(Query())
    assert [many, plain] == store.list_ports(Query())
    assert [(1 << 64) - 2] == store.allocated_addresses(six.id)
    assert [(1 << 24) - 2] == store.allocated_addresses(inside.id)


def test_rows_replace_rows_of_the_same_id(store: Store) -> None:
    """A change is a whole new row; the rest stays."""
    owner, inside = _cloud(store)
    before = port(5, owner, (inside, "10.0.0.5"), host="h1")
    write(store, new_ports=[before])
    after = replace(before, fixed_ips=port(5, owner, (inside, "10.0.0.6")).fixed_ips, host="h2", name="x", revision=3)
    renamed = replace(owner, name="y")
    write(store, changed_ports=[(before, after)], networks=[renamed])
    assert [after] == store.get_ports([before.id])
    assert [renamed] == store.networks()
    assert [6] == store.allocated_addresses(inside.id)
    assert [(owner.id, "h2", 1)] == list(store.hosts_of_networks())
    assert ([], [after]) == (store.ports_of_host("h1"), store.ports_of_host("h2"))


def test_get_ports_answers_in_the_order_asked(store: Store) -> None:
    """Unknown ids are left out, also one with the ordinal of a port."""
    owner, _ = _cloud(store)
    ports = [port(ordinal, owner) for ordinal in range(10, 20)]
    write(store, new_ports=ports)
    impostor = type(ports[0].id)(ports[0].id[:5] + bytes(11))
    asked = [ports[7].id, make(999), ports[2].id, impostor]
    assert [ports[7], ports[2]] == store.get_ports(asked)
    assert [] == store.get_ports([])


def test_names_options_and_modes_are_kept(store: Store) -> None:
    """What a host's services need; the ports with a name are found by their network."""
    owner, _ = _cloud(store)
    other = network(40, dns_domain="other.example.")
    modes = {"ra_mode": Ipv6Mode.SLAAC, "address_mode": Ipv6Mode.STATELESS}
    automatic = subnet(41, other, "2001:db8::/64", **modes)
    options = (DhcpOption(4, "mtu", "1300"), DhcpOption(6, "59", "tftp://x"))
    named, plain = port(42, other, dns_name="web", dhcp_options=options), port(43, other)
    write(store, networks=[other], subnets=[automatic], new_ports=[named, plain, port(44, owner, dns_name="web")])
    assert [named] == store.named_ports(other.id)
    assert [named, plain] == store.get_ports([named.id, plain.id])
    assert [other] == store.list_networks(Query(filters={"id": (other.id,)}))
    assert [automatic] == store.list_subnets(Query(filters={"ra_mode": (Ipv6Mode.SLAAC,)}))
    renamed = replace(named, dns_name="", dhcp_options=())
    write(store, changed_ports=[(named, renamed)])
    assert [] == store.named_ports(other.id)
    assert [renamed] == store.get_ports([named.id])


def test_claims_are_kept(store: Store) -> None:
    """The ports that claim something are found without the others; one that claims no more is not."""
    owner, _ = _cloud(store)
    claims = (Claim(parse_ip("10.0.0.100"), Mac(make(1)[:6])), Claim(parse_ip("2001:db8::1"), Mac(make(2)[:6])))
    claiming, plain = port(50, owner, claims=claims), port(51, owner)
    write(store, new_ports=[claiming, plain])
    assert [claiming] == store.claiming_ports()
    assert [claiming, plain] == store.get_ports([claiming.id, plain.id])
    write(store, changed_ports=[(claiming, replace(claiming, claims=()))])
    assert [] == store.claiming_ports()


def test_what_is_deleted_is_gone(store: Store) -> None:
    """With its addresses and MACs; deleting what is not there changes nothing."""
    owner, inside = _cloud(store)
    first, second = port(5, owner, (inside, "10.0.0.5"), host="h1"), port(6, owner, (inside, "10.0.0.6"))
    write(store, new_ports=[first, second])
    write(store, deleted_ports=[first])
    write(store, deleted_ports=[first])
    assert [second] == store.list_ports(Query()) == store.ports_of_network(owner.id)
    assert [6] == store.allocated_addresses(inside.id)
    assert [0xFA163E000006] == store.allocated_macs(owner.id)
    write(store, deleted_ports=[second], deleted_subnets=[inside], deleted_networks=[owner])
    write(store, deleted_nodes=store.nodes())
    assert ([], [], []) == (store.networks(), store.subnets(), store.nodes())
    assert ([], []) == (store.allocated_addresses(inside.id), store.allocated_macs(owner.id))


def test_what_one_gives_back_another_may_take_in_the_same_commit(store: Store) -> None:
    """Deletions come first, then changes, then what is new."""
    owner, inside = _cloud(store)
    gone, moved = port(5, owner, (inside, "10.0.0.5")), port(6, owner, (inside, "10.0.0.6"))
    write(store, new_ports=[gone, moved])
    after = replace(moved, mac=gone.mac, fixed_ips=gone.fixed_ips)
    fresh = replace(port(7, owner), mac=moved.mac, fixed_ips=moved.fixed_ips)
    write(store, new_ports=[fresh], changed_ports=[(moved, after)], deleted_ports=[gone])
    assert [after, fresh] == store.list_ports(Query())
    other = network(8, vni=owner.vni)
    write(store, deleted_ports=[after, fresh], deleted_subnets=[inside], deleted_networks=[owner], networks=[other])
    assert [other] == store.networks()


def test_statuses_change_nothing_else(store: Store) -> None:
    """Status, reason and realised revision; not the revision, not the log; unknown ports are passed over."""
    owner, _ = _cloud(store)
    ports = [port(ordinal, owner, host="h1", revision=2) for ordinal in range(5, 9)]
    revision = write(store, new_ports=ports)
    statuses = [StatusChange(one.id, PortStatus.ACTIVE, "", one.revision) for one in ports[:2]]
    statuses.append(StatusChange(ports[2].id, PortStatus.ERROR, "it broke", 0))
    write(store, statuses=[*statuses, StatusChange(make(999), PortStatus.ACTIVE, "", 1)])
    assert [
        replace(ports[0], status=PortStatus.ACTIVE, realised_revision=2),
        replace(ports[1], status=PortStatus.ACTIVE, realised_revision=2),
        replace(ports[2], status=PortStatus.ERROR, status_reason="it broke"),
        ports[3],
    ] == store.list_ports(Query())
    assert revision + 1 == store.revision()
    assert [] == store.changes_since(revision, 10)


def test_ordinals_and_epochs_only_grow(store: Store) -> None:
    """An ordinal survives what it was given to; an epoch is claimed once."""
    _cloud(store)
    assert 4 == store.last_ordinal()
    ephemeral = network(9)
    write(store, networks=[ephemeral], last_ordinal=12)
    write(store, deleted_networks=[ephemeral])
    assert 12 == store.last_ordinal()
    assert [1, 2, 3] == [store.next_epoch() for _ in range(3)]


def test_the_change_log_names_what_a_commit_touched(store: Store) -> None:
    """By id; a port that was deleted or left a host is a departure from there."""
    owner, inside = _cloud(store)
    one, two, three = (port(ordinal, owner, host="h1") for ordinal in (5, 6, 7))
    write(store, new_ports=[one, two, three])
    moved, renamed = replace(one, host="h2"), replace(two, name="x")
    write(store, changed_ports=[(one, moved), (two, renamed)], deleted_ports=[three], subnets=[inside])
    write(store, deleted_subnets=[inside])
    assert store.changes_since(1, 10) == [
        ChangeRecord(2, ports=(one.id, two.id, three.id), port_networks=((owner.id, 3),)),
        ChangeRecord(
            3,
            subnets=(inside.id,),
            ports=(one.id, two.id),
            departures=(Departure(three.id, owner.id, "h1"), Departure(one.id, owner.id, "h1")),
            port_networks=((owner.id, 2),),
        ),
        ChangeRecord(4, deleted_subnets=(inside.id,), subnet_networks=(inside.network_id,)),
    ]
    assert [2] == [record.revision for record in store.changes_since(1, 1) or []]


def test_the_change_log_is_bounded(store: Store) -> None:
    """Who is too far behind is told to start over."""
    owner = network(1)
    for _ in range(3):
        write(store, networks=[owner])
    store.commit(6000, Changes(networks=[owner]))
    assert store.changes_since(1, 10) is None
    assert [6000] == [record.revision for record in store.changes_since(5000, 10) or []]


def test_a_number_with_two_owners_is_refused_whole(store: Store) -> None:
    """The constraints hold even if the indexes erred; nothing of the commit is there afterwards."""
    owner, inside = _cloud(store)
    write(store, new_ports=[port(5, owner, (inside, "10.0.0.5"))])
    before = (store.list_ports(Query()), store.revision())
    good = port(6, owner, (inside, "10.0.0.6"))
    same_ip = port(7, owner, (inside, "10.0.0.5"))
    same_mac = replace(port(8, owner), mac=port(5, owner).mac)
    if isinstance(store, MemoryStore):
        for bad in (same_ip, same_mac):
            with pytest.raises(StoreError, match="owned twice"):
                MemoryStore.commit(_copy(store), 99, Changes(new_ports=[good, bad]))
    else:
        for bad in (same_ip, same_mac):
            with pytest.raises(StoreError, match="UNIQUE"):
                store.commit(99, Changes(new_ports=[good, bad]))
    assert before == (store.list_ports(Query()), store.revision())


def _copy(store: MemoryStore) -> MemoryStore:
    """A memory store does not roll back (the process ends), so the test spoils a copy."""
    copied = MemoryStore()
    everything = Changes(
        networks=store.networks(), subnets=store.subnets(), nodes=store.nodes(), new_ports=store.list_ports(Query())
    )
    copied.commit(store.revision(), everything)
    return copied


# Listing.


def _listing(store: Store) -> None:
    one, two = network(1, name="a", project_id="p"), network(2, name="b")
    inside, other = subnet(3, one, "10.0.0.0/16"), subnet(4, two, "10.0.0.0/16")
    ports = [
        port(10, one, (inside, "10.0.0.5"), name="c", host="h1", device_id="d1", project_id="p"),
        port(11, two, (other, "10.0.0.5"), name="a", host="h2", status=PortStatus.ERROR),
        port(12, one, (inside, "10.0.0.6"), name="b", host="h1", device_owner="compute:nova"),
        port(13, one, (inside, "10.0.0.7"), (inside, "10.0.0.8"), name="a", admin_state_up=False),
        port(14, two, name="", mac=Mac(b"\x02" * 6)),
    ]
    write(
        store,
        networks=[one, two],
        subnets=[inside, other],
        nodes=[node(5, "h1", "192.0.2.1"), node(6, "h2", "192.0.2.2")],
        new_ports=ports,
    )


@pytest.mark.parametrize(
    ("filters", "ordinals"),
    [
        ({}, [10, 11, 12, 13, 14]),
        ({"id": (make(13), make(10), make(77))}, [10, 13]),
        ({"network_id": (make(1),)}, [10, 12, 13]),
        ({"network_id": (make(1), make(2))}, [10, 11, 12, 13, 14]),
        ({"name": ("a",)}, [11, 13]),
        ({"name": ("a", "c")}, [10, 11, 13]),
        ({"name": ("",)}, [14]),
        ({"name": ("nobody",)}, []),
        ({"name": ()}, []),
        ({"name": ("a",), "network_id": (make(1),)}, [13]),
        ({"host": ("h1",)}, [10, 12]),
        ({"host": ("",)}, [13, 14]),
        ({"device_id": ("d1",)}, [10]),
        ({"device_owner": ("compute:nova",)}, [12]),
        ({"project_id": ("p",)}, [10]),
        ({"mac": (Mac(b"\x02" * 6),)}, [14]),
        ({"mac": (Mac(b"\x02" * 6),), "network_id": (make(1),)}, []),
        ({"status": (PortStatus.ERROR,)}, [11]),
        ({"status": (PortStatus.ERROR, PortStatus.DOWN)}, [10, 11, 12, 13, 14]),
        ({"admin_state_up": (False,)}, [13]),
        ({"ip": (parse_ip("10.0.0.5"),)}, [10, 11]),
        ({"ip": (parse_ip("10.0.0.5"),), "network_id": (make(2),)}, [11]),
        ({"ip": (parse_ip("10.0.0.5"), parse_ip("10.0.0.8"))}, [10, 11, 13]),
        ({"ip": (parse_ip("10.0.0.5"),), "subnet_id": (make(3),)}, [10]),
        ({"ip": (parse_ip("10.9.9.9"),)}, []),
        ({"subnet_id": (make(3),)}, [10, 12, 13]),
        ({"subnet_id": (make(3), make(4))}, [10, 11, 12, 13]),
        ({"subnet_id": (make(99),)}, []),
        ({"subnet_id": (make(4),), "host": ("h2",)}, [11]),
        ({"description": ("",), "kind": (PortKind.CONTAINER,)}, [10, 11, 12, 13, 14]),
    ],
)
def test_filters(store: Store, filters: dict[str, tuple[object, ...]], ordinals: list[int]) -> None:
    """ANDed between attributes, ORed between values."""
    _listing(store)
    assert [make(ordinal) for ordinal in ordinals] == [one.id for one in store.list_ports(Query(filters=filters))]


@pytest.mark.parametrize(
    ("sort", "ordinals"),
    [
        ((), [10, 11, 12, 13, 14]),
        ((("id", False),), [14, 13, 12, 11, 10]),
        ((("name", True),), [14, 11, 13, 12, 10]),
        ((("name", False),), [10, 12, 11, 13, 14]),
        ((("name", True), ("id", False)), [14, 13, 11, 12, 10]),
        ((("network_id", True), ("name", False)), [10, 12, 13, 11, 14]),
        ((("created_at", True),), [10, 11, 12, 13, 14]),
        ((("mac", True),), [14, 10, 11, 12, 13]),
    ],
)
def test_sorting_and_paging(store: Store, sort: tuple[tuple[str, bool], ...], ordinals: list[int]) -> None:
    """Pages of any size, walked forwards and backwards, make the whole list."""
    _listing(store)
    expected = [make(ordinal) for ordinal in ordinals]
    for limit in (1, 2, 4, 5, 9):
        forwards: list[Id] = []
        backwards: list[Id] = []
        marker = None
        while page := store.list_ports(Query(sort=sort, limit=limit, marker=marker)):
            forwards += [one.id for one in page]
            marker = page[-1].id
        marker = None
        while page := store.list_ports(Query(sort=sort, limit=limit, marker=marker, reverse=True)):
            backwards = [one.id for one in page] + backwards
            marker = page[0].id
        assert expected == forwards
        assert expected == backwards


def test_other_nouns_are_listed_alike(store: Store) -> None:
    """Networks, subnets and nodes: filters, order, pages."""
    _listing(store)
    assert [make(2), make(1)] == [one.id for one in store.list_networks(Query(sort=(("name", False),)))]
    assert [make(1)] == [one.id for one in store.list_networks(Query(filters={"project_id": ("p",)}))]
    assert [make(2)] == [one.id for one in store.list_networks(Query(marker=make(1), limit=1))]
    assert [make(2)] == [one.id for one in store.list_networks(Query(filters={"vni": (2,)}))]
    assert [make(4)] == [one.id for one in store.list_subnets(Query(filters={"network_id": (make(2),)}))]
    cidr: dict[str, tuple[object, ...]] = {"cidr": (parse_prefix("10.0.0.0/16"),)}
    assert [make(3), make(4)] == [one.id for one in store.list_subnets(Query(filters=cidr))]
    assert [make(6)] == [one.id for one in store.list_nodes(Query(filters={"name": ("h2",)}))]
    assert [make(5)] == [one.id for one in store.list_nodes(Query(filters={"underlay_ip": (parse_ip("192.0.2.1"),)}))]


def test_queries_that_cannot_be(store: Store) -> None:
    """An unknown attribute, order, marker or a limit of nothing: QueryError that names it."""
    _listing(store)
    for query, word in (
        (Query(filters={"colour": ("red",)}), "colour"),
        (Query(sort=(("colour", True),)), "colour"),
        (Query(sort=(("ip", True),)), "sorted"),
        (Query(limit=0), "limit 0"),
    ):
        with pytest.raises(QueryError, match=word):
            store.list_ports(query)
    with pytest.raises(MarkerNotFound, match="marker"):
        store.list_ports(Query(marker=make(99)))


_NAMES = st.sampled_from(["", "a", "b"])
_FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.lists(_NAMES, min_size=1, max_size=2).map(tuple),
        "host": st.lists(st.sampled_from(["", "h1", "h2"]), min_size=1, max_size=2).map(tuple),
        "network_id": st.lists(st.sampled_from([make(1), make(2)]), min_size=1, max_size=2).map(tuple),
        "subnet_id": st.just((make(3),)),
        "ip": st.just((parse_ip("10.0.0.5"),)),
        "admin_state_up": st.just((True,)),
        "status": st.sampled_from([(PortStatus.ERROR,), (PortStatus.DOWN,)]),
    },
)
_SORTS = st.lists(
    st.tuples(st.sampled_from(["name", "host", "id", "status", "network_id", "mac"]), st.booleans()), max_size=3
).map(tuple)


@given(filters=_FILTERS, sort=_SORTS, limit=st.integers(1, 4), marker=st.integers(9, 14), reverse=st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sqlite_lists_what_memory_lists(
    both: tuple[Store, Store],
    filters: dict[str, tuple[object, ...]],
    sort: tuple[tuple[str, bool], ...],
    limit: int,
    marker: int,
    reverse: bool,
) -> None:
    """Any filters, any order, any page: the SQL answers as the plain loop does."""
    memory, sqlite = both
    query = Query(filters=filters, sort=sort, limit=limit, marker=make(marker) if marker > 9 else None, reverse=reverse)
    assert memory.list_ports(query) == sqlite.list_ports(query)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    """The same rows in both stores."""
    memory, sqlite = MemoryStore(), SqliteStore(tmp_path_factory.mktemp("both") / "alcor.db")
    for one in (memory, sqlite):
        _listing(one)
    yield memory, sqlite
    sqlite.close()
