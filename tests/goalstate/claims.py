"""Ports of a history claim addresses of their pairs. Called by histories."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from alcor.model.addresses import Mac, parse_ip
from alcor.model.nouns import Claim, Port


def act(commit: Any, verb: str, index: int, host: int, address: int) -> None:
    """The port has one of two addresses now (0: none); who of the other ports of its VPC had it has it no more.
    Nothing, when one of them changed in this commit already."""
    revision = commit.after.revision
    live = [port for port in commit.after.ports.values() if port.id[13] == index]
    for port in live[:1]:
        ip = parse_ip(f"10.{port.network_id[15]}.0.{200 + address % 2}")
        fresh = (Claim(ip, Mac(b"\0\0\x5e\0\1" + bytes((address,)))),) if address else ()
        found: list[tuple[Port, Port]] = [(port, replace(port, claims=fresh, revision=revision))]
        for other in commit.after.of_network(port.network_id):
            left = tuple(claim for claim in other.claims if claim.ip != ip)
            if fresh and other.id != port.id and left != other.claims:
                found.append((other, replace(other, claims=left, revision=revision)))
        if all(before.revision < revision for before, _ in found):
            commit.changed.extend(found)
            commit.after.ports.update((after.id, after) for _, after in found)
