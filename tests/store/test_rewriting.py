"""Migrations that read rows: what they make of a database of before."""

import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace
from tests.store.nouns import floating_ip, make, network, node, port, subnet, write

from alcor.model.addresses import parse_ip
from alcor.model.nouns import Eip, Forwarding, PortForwarding, PortStatus
from alcor.model.qos import QosBinding
from alcor.store.base import Query
from alcor.store.sqlite import SqliteStore


def test_floating_ips_of_before_name_their_network(tmp_path: Path) -> None:
    """A database of version 13 opens with what one commit would have done: ports with an external address that has no
    policy of its own name its network, which theirs knows; they are to be realised again, and the log says so."""
    path = tmp_path / "old.db"
    store = SqliteStore(path)
    outer, inner, policy = network(1, external=True), network(2), make(30)
    inside, host = subnet(3, inner, "10.0.0.0/24"), node(4, "h1", "192.0.2.1")
    ips = [parse_ip(f"203.0.113.{number}") for number in range(9)]
    eips = [Eip(ip, parse_ip("10.0.0.5"), 24, None) for ip in ips]
    forwarding = Forwarding(ips[2], 6, 80, parse_ip("10.0.0.6"), 80, 24, None)
    ports = [
        port(5, inner, (inside, "10.0.0.5"), host="h1", status=PortStatus.ACTIVE, eips=(eips[1],)),
        port(6, inner, (inside, "10.0.0.6"), forwardings=(forwarding,)),
        port(7, inner, (inside, "10.0.0.7"), host="h1", eips=(eips[3], replace(eips[4], qos_id=policy))),
        port(8, inner, (inside, "10.0.0.8")),
    ]
    fips = [replace(floating_ip(number, None), id=make(10 + number), ip=ips[number]) for number in range(1, 5)]
    fips[0] = replace(fips[0], port_id=ports[0].id)
    fips[2] = replace(fips[2], port_id=ports[3].id, anchor_id=ports[2].id)
    fips[3] = replace(fips[3], port_id=ports[2].id, qos_policy_id=policy)
    leads = PortForwarding(
        id=make(20),
        floating_ip_id=fips[1].id,
        project_id="",
        description="",
        protocol=6,
        external_port=80,
        port_id=ports[1].id,
        fixed_ip=forwarding.inside,
        internal_port=80,
        created_at=1,
        updated_at=2,
        revision=1,
    )
    write(
        store,
        networks=[outer, inner],
        subnets=[inside],
        nodes=[host],
        new_ports=ports,
        floating_ips=fips,
        port_forwardings=[leads],
    )
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=13")
        connection.commit()
    for _ in range(2):
        store = SqliteStore(path)
        assert 2 == store.revision()
        again = {"revision": 2, "path": "", "realised_at": 0}
        expected = [
            replace(ports[0], eips=(replace(eips[1], qos_id=outer.id),), status=PortStatus.BUILD, **again),
            replace(ports[1], forwardings=(replace(forwarding, qos_id=outer.id),), **again),
            replace(
                ports[2],
                eips=(replace(eips[3], qos_id=outer.id), ports[2].eips[1]),
                status=PortStatus.BUILD,
                **again,
            ),
            ports[3],
        ]
        assert expected == sorted(store.list_ports(Query()), key=lambda one: one.id)
        assert [QosBinding(network_id=inner.id, policy_id=outer.id, revision=2)] == store.qos_bindings()
        found = store.changes_since(1, 10)
        assert found is not None
        (record,) = found
        assert tuple(one.id for one in ports[:3]) == record.ports
        assert (((inner.id, 3),), ((inner.id, outer.id),)) == (record.port_networks, record.qos_bindings)
        store.close()
