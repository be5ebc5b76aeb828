"""A router's address outside, shared by the hosts of its ports: who has which ports of it, and who answers. Pure.

Called by services.dispatch, and by loops.sharing to see whether there is anything to change. What comes of it is in the
router's gateway, and so in its goal (decision 0021).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from alcor.model.blocks import assign
from alcor.model.nouns import PortBlock, RouterGateway
from alcor.services.commands import Carrier, ShareAddress
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.store.base import Changes

MAX_NAMED = 16
"""Hosts without a block that a router names; there may be thousands."""


def shared(gateway: RouterGateway, carriers: Sequence[Carrier]) -> RouterGateway:
    """The gateway as these hosts share its address. Who answers stays who it is while it can; else it is one that can,
    so that the addresses of many routers are spread; if none can, it stays."""
    held = {one.block: one.host for one in gateway.blocks}
    assignment = assign(held, {one.host: one.ports for one in carriers})
    ends = {one.host: one.host_ip for one in carriers}
    holders = set(assignment.holders.values())
    able = [one.host for one in carriers if one.answers and one.host in holders]
    answerer = gateway.answerer
    if answerer not in able and able and gateway.ip is not None:
        answerer = able[int.from_bytes(gateway.ip, "big") % len(able)]
    return replace(
        gateway,
        blocks=tuple([PortBlock(block, host, ends[host]) for block, host in assignment.holders.items()]),
        answerer=answerer if answerer in holders else "",
        without=assignment.without[:MAX_NAMED],
    )


def share_address(indexes: Indexes, command: ShareAddress, stamp: Stamp) -> Outcome:
    """Gives out the router's ports. Nothing different: nothing is written."""
    router = indexes.routers.get(command.id)
    gateway = router.gateway if router is not None else None
    if router is None or gateway is None or gateway.port_id != command.gateway_port_id or not gateway.shares:
        return Outcome(None, Changes())
    after = shared(gateway, command.carriers)
    if after == gateway:
        return Outcome(None, Changes())
    return Outcome(None, Changes(routers=[replace(router, gateway=after, revision=stamp.revision)]))
