"""Migrations that must read rows to write them. Called by sqlite, inside the transaction of the step."""

from __future__ import annotations

import sqlite3
from itertools import groupby

import msgspec
from msgspec.structs import replace

from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import Eip, Forwarding
from alcor.store.base import ChangeRecord

_ENCODER = msgspec.msgpack.Encoder()
_EIPS = msgspec.msgpack.Decoder(tuple[Eip, ...])
_FORWARDINGS = msgspec.msgpack.Decoder(tuple[Forwarding, ...])


def inherit_policies(connection: sqlite3.Connection) -> None:
    """Addresses outside that have no QoS policy name their external network (FloatingIp.qos_id), which the networks of
    their ports then know: what one commit would have done to all of them, without its time."""
    networks = {
        (ordinal_of(Id(port)), ip): Id(network)
        for network, ip, *ports in connection.execute(
            "SELECT network_id, ip, port_id, anchor_id FROM floating_ips WHERE qos_policy_id = x'' UNION "
            "SELECT i.network_id, i.ip, f.port_id, x'' FROM floating_ips i JOIN port_forwardings f "
            "ON f.floating_ip_id = i.id WHERE i.qos_policy_id = x''"
        )
        for port in ports
        if port
    }
    if not networks:
        return
    revision = connection.execute("SELECT revision FROM meta").fetchone()[0] + 1
    touched: list[tuple[int, int]] = []
    for number in sorted({number for number, _ in networks}):
        found = connection.execute("SELECT network, eips, forwardings FROM ports WHERE n = ?", (number,)).fetchone()
        if found is None:
            continue
        network, eips, forwardings = found
        own: tuple[Eip, ...] = _EIPS.decode(eips) if eips else ()
        forwarded: tuple[Forwarding, ...] = _FORWARDINGS.decode(forwardings) if forwardings else ()
        if not own and not forwarded:
            continue
        blobs = [
            _ENCODER.encode(
                [one if one.qos_id else replace(one, qos_id=networks.get((number, one.ip))) for one in some]
            )
            if some
            else b""
            for some in (own, forwarded)
        ]
        connection.execute(
            "UPDATE ports SET eips = ?, forwardings = ?, revision = ?, path = '', attempts = 0, realised_at = 0, "
            "status = CASE host WHEN '' THEN 'DOWN' ELSE 'BUILD' END, status_reason = '' WHERE n = ?",
            (*blobs, revision, number),
        )
        touched.append((network, number))
    home = {number: network for network, number in touched}
    bound = sorted({(home[number], outside) for (number, _), outside in networks.items() if number in home})
    connection.executemany(
        "INSERT INTO qos_bindings VALUES (?, ?, ?)", [(network, outside, revision) for network, outside in bound]
    )
    connection.execute("UPDATE meta SET revision = ?", (revision,))
    connection.execute("INSERT INTO changes VALUES (?, ?)", (revision, _record(connection, revision, touched, bound)))


def _record(
    connection: sqlite3.Connection, revision: int, touched: list[tuple[int, int]], bound: list[tuple[int, Id]]
) -> bytes:
    """The row of the change log. `touched` are (network, port), by number."""
    touched.sort()
    ids = {
        number: Id(connection.execute("SELECT id FROM networks WHERE n = ?", (number,)).fetchone()[0])
        for number in {network for network, _ in touched}
    }
    ports = [Id(connection.execute("SELECT id FROM ports WHERE n = ?", (one,)).fetchone()[0]) for _, one in touched]
    return _ENCODER.encode(
        ChangeRecord(
            revision=revision,
            ports=tuple(ports),
            port_networks=tuple(
                [(ids[network], sum(1 for _ in run)) for network, run in groupby(network for network, _ in touched)]
            ),
            qos_bindings=tuple([(ids[network], outside) for network, outside in bound]),
        )
    )
