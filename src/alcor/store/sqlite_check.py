"""Is what a SQLite store holds consistent? Reads everything; called by SqliteStore.check.

The database's own check comes first, then what its constraints cannot say: every address, MAC and VNI that a row
mentions is owned exactly once, by that row.
"""

from __future__ import annotations

import sqlite3

MAX_FINDINGS = 100

_QUERIES = (
    ("SELECT count(*) FROM ports p WHERE NOT EXISTS (SELECT 1 FROM networks w WHERE w.n = p.network)",
     "{} ports are of a network that does not exist"),
    ("SELECT count(*) FROM subnets s WHERE NOT EXISTS (SELECT 1 FROM networks w WHERE w.id = s.network_id)",
     "{} subnets are of a network that does not exist"),
    ("SELECT count(*) FROM addresses a WHERE NOT EXISTS (SELECT 1 FROM ports p WHERE p.n = a.port)",
     "{} addresses are owned by a port that does not exist (leaked)"),
    ("SELECT count(*) FROM addresses a WHERE NOT EXISTS (SELECT 1 FROM subnets s WHERE s.n = a.subnet)",
     "{} addresses are of a subnet that does not exist (leaked)"),
    ("SELECT count(*) FROM ports p WHERE p.host <> '' AND NOT EXISTS (SELECT 1 FROM nodes d WHERE d.name = p.host)",
     "{} ports are bound to a node that does not exist"),
    ("SELECT count(*) FROM ports p WHERE p.identity <> 0 AND NOT EXISTS (SELECT 1 FROM identities i "
     "WHERE i.network = p.network AND i.number = p.identity AND i.groups = p.security_groups)",
     "{} ports have an identity that does not stand for their security groups"),
    ("SELECT count(*) FROM identities i WHERE NOT EXISTS (SELECT 1 FROM networks w WHERE w.n = i.network)",
     "{} identities are of a network that does not exist (leaked)"),
    ("SELECT count(*) FROM security_group_rules r WHERE NOT EXISTS "
     "(SELECT 1 FROM security_groups g WHERE g.id = r.group_id)",
     "{} rules are of a security group that does not exist"),
    ("SELECT count(*) FROM qos_rules r WHERE NOT EXISTS (SELECT 1 FROM qos_policies q WHERE q.id = r.policy_id)",
     "{} rules are of a QoS policy that does not exist"),
    ("SELECT count(*) FROM qos_bindings b WHERE NOT EXISTS (SELECT 1 FROM networks w WHERE w.n = b.network) "
     "OR NOT EXISTS (SELECT 1 FROM qos_policies q WHERE q.id = b.policy_id) "
     "AND NOT EXISTS (SELECT 1 FROM networks o WHERE o.external <> 0 AND o.id = b.policy_id)",
     "{} QoS bindings are of a network or a policy that does not exist (leaked)"),
    ("SELECT count(*) FROM (SELECT network AS n, qos_policy_id AS q FROM ports UNION ALL "
     "SELECT n, qos_policy_id FROM networks) u WHERE q <> x'' AND NOT EXISTS "
     "(SELECT 1 FROM qos_bindings b WHERE b.network = u.n AND b.policy_id = u.q)",
     "{} ports and networks have a QoS policy that is not bound to their network"),
    ("SELECT count(*) FROM floating_ips f WHERE f.qos_policy_id <> x'' AND NOT EXISTS "
     "(SELECT 1 FROM qos_policies q WHERE q.id = f.qos_policy_id)",
     "{} floating IPs have a QoS policy that does not exist"),
    ("SELECT count(*) FROM peerings e WHERE NOT EXISTS (SELECT 1 FROM networks w WHERE w.id = e.network_id) "
     "OR NOT EXISTS (SELECT 1 FROM networks w WHERE w.id = e.peer_network_id)",
     "{} peerings are of a network that does not exist"),
    ("SELECT count(*) FROM ports WHERE host = '' AND status <> 'DOWN'",
     "{} unbound ports are not DOWN"),
    ("SELECT count(*) FROM ports WHERE revision > (SELECT revision FROM meta)",
     "{} ports are newer than the newest commit"),
    ("SELECT count(*) FROM (SELECT n FROM ports UNION ALL SELECT n FROM networks UNION ALL SELECT n FROM subnets "
     "UNION ALL SELECT n FROM nodes UNION ALL SELECT n FROM security_groups "
     "UNION ALL SELECT n FROM security_group_rules UNION ALL SELECT n FROM qos_policies "
     "UNION ALL SELECT n FROM qos_rules UNION ALL SELECT n FROM routers UNION ALL SELECT n FROM peerings "
     "UNION ALL SELECT n FROM load_balancers "
     "UNION ALL SELECT n FROM listeners UNION ALL SELECT n FROM member_pools UNION ALL SELECT n FROM members "
     "UNION ALL SELECT n FROM health_monitors) WHERE n > (SELECT last_ordinal FROM meta)",
     "{} rows have an ordinal that was never given out"),
)  # fmt: skip


def check_connection(connection: sqlite3.Connection) -> list[str]:
    """What is wrong, a sentence each, at most MAX_FINDINGS."""
    findings = [
        f"SQLite: {row[0]}" for row in connection.execute(f"PRAGMA integrity_check({MAX_FINDINGS})") if row[0] != "ok"
    ]
    for sql, sentence in _QUERIES:
        count = connection.execute(sql).fetchone()[0]
        if count:
            findings.append(sentence.format(count))
    findings += _check_addresses(connection)
    return findings[:MAX_FINDINGS]


def _check_addresses(connection: sqlite3.Connection) -> list[str]:
    """Every address of a port row is in `addresses`, owned by that port, and there are no others."""
    mentioned = 0
    findings: list[str] = []
    for number, blob in connection.execute("SELECT n, fixed_ips FROM ports"):
        for at in range(0, len(blob), 32):
            mentioned += 1
            subnet, place = (
                int.from_bytes(blob[at : at + 5], "big"),
                int.from_bytes(blob[at + 24 : at + 32], "big", signed=True),
            )
            owner = connection.execute(
                "SELECT port FROM addresses WHERE subnet = ? AND place = ?", (subnet, place)
            ).fetchone()
            if owner != (number,) and len(findings) < MAX_FINDINGS:
                findings.append(f"port {number} has an address in subnet {subnet} whose owner is {owner}")
    owned = connection.execute("SELECT count(*) FROM addresses").fetchone()[0]
    if owned != mentioned:
        findings.append(f"{owned} addresses are allocated, {mentioned} are referenced by ports")
    return findings
