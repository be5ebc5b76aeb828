"""Load balancers in the histories: one for each VPC, with a listener, a pool, its monitor and some members."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from alcor.model.addresses import parse_ip
from alcor.model.balancing import (
    Algorithm,
    Balancing,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    MemberPool,
    MemberStatus,
    MonitorType,
    Protocol,
)
from alcor.model.ids import Id
from alcor.store.schema import RESOURCES

Rows = dict[Id, Balancing]
VERBS = ("balance", "balance", "unbalance", "member", "member", "unmember", "monitor")


def act(
    rows: Rows, network: Id, revision: int, verb: str, index: int, number: int
) -> tuple[list[Balancing], list[Balancing]]:
    """Does what the verb says to the rows; returns what changed and what was deleted."""
    vpc = network[-1]
    common: dict[str, Any] = {"project_id": "", "name": "", "network_id": network, "created_at": 0, "updated_at": 0}
    balancer, pool = rows.get(_id(b"b", vpc)), rows.get(_id(b"q", vpc))
    fresh: list[Balancing]
    if verb == "balance":
        fresh = _balance(common, vpc, revision, number, make_pool=pool is None)
    elif balancer is None or pool is None or pool.revision == revision or balancer.revision == revision:
        return [], []
    elif verb == "unbalance":
        gone = [row for row in rows.values() if row.network_id == network]
        if any(row.revision == revision for row in gone):
            return [], []
        for row in gone:
            del rows[row.id]
        return [], gone
    elif verb == "monitor":
        fresh = [_monitor(common, vpc, revision, number), replace(pool, revision=revision)]
    else:
        name = _id(b"m", vpc, index)
        known = rows.get(name)
        if known is not None and known.revision == revision:
            return [], []
        if verb == "unmember":
            return [], [rows.pop(name)] if known is not None else []
        fresh = [_member(common, vpc, revision, index, number)]
    rows.update((row.id, row) for row in fresh)
    return fresh, []


def _balance(common: dict[str, Any], vpc: int, revision: int, number: int, *, make_pool: bool) -> list[Balancing]:
    found: list[Balancing] = [
        LoadBalancer(
            **common,
            id=_id(b"b", vpc),
            description="",
            vip_subnet_id=common["network_id"],
            vip_port_id=common["network_id"],
            vip_ip=parse_ip(f"10.{vpc}.0.200"),
            vip_mac=bytes((2, 0, 0, 0, 0, vpc)),
            admin_state_up=True,
            revision=revision,
        ),
        Listener(
            **common,
            id=_id(b"l", vpc),
            description="",
            load_balancer_id=_id(b"b", vpc),
            protocol=Protocol.TCP if number & 1 else Protocol.UDP,
            port=80 + number,
            pool_id=_id(b"q", vpc) if number & 2 else None,
            admin_state_up=number != 1,
            revision=revision,
        ),
    ]
    if make_pool:
        pool = MemberPool(
            **common,
            id=_id(b"q", vpc),
            description="",
            load_balancer_id=_id(b"b", vpc),
            protocol=Protocol.TCP,
            algorithm=Algorithm.SOURCE_IP if number else Algorithm.ROUND_ROBIN,
            persistence=False,
            admin_state_up=True,
            revision=revision,
        )
        found.append(pool)
    return found


def _monitor(common: dict[str, Any], vpc: int, revision: int, number: int) -> HealthMonitor:
    return HealthMonitor(
        **common,
        id=_id(b"h", vpc),
        pool_id=_id(b"q", vpc),
        type=MonitorType.TCP,
        delay_s=2 + number,
        timeout_s=1,
        rise=1,
        fall=1,
        http_method="",
        url_path="",
        expected_codes="",
        admin_state_up=bool(number),
        revision=revision,
    )


def _member(common: dict[str, Any], vpc: int, revision: int, index: int, number: int) -> Member:
    return Member(
        **common,
        id=_id(b"m", vpc, index),
        pool_id=_id(b"q", vpc),
        ip=parse_ip(f"10.{vpc}.0.{2 + index}"),
        port=80,
        weight=number,
        subnet_id=None,
        admin_state_up=True,
        status=MemberStatus.ERROR if number == 2 else MemberStatus.NO_MONITOR,
        revision=revision,
    )


def changes(rows: list[Balancing], deleted: list[Balancing]) -> dict[str, Any]:
    """As fields of store.base.Changes."""
    found: dict[str, list[Any]] = {}
    for prefix, some in (("", rows), ("deleted_", deleted)):
        for row in some:
            found.setdefault(f"{prefix}{RESOURCES[type(row)].name}", []).append(row)
    return found


def _id(kind: bytes, vpc: int, index: int = 0) -> Id:
    return Id(kind * 14 + bytes((vpc, index)))
