"""Endpoints: who has an address of a VPC, and where that is, one by one and as columns.

Named by plans (base) and packed by drivers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import NamedTuple

import msgspec

from alcor.model.addresses import Ip, Mac


class EndpointKey(NamedTuple):
    """An address in a VPC."""

    vni: int
    ip: Ip


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """Who has an address of a VPC that is on another host: the port's MAC and that host's tunnel end."""

    mac: Mac
    host_ip: Ip
    identity: int = 0
    """What stands for its security groups; 0: none."""


class EndpointColumns(msgspec.Struct, frozen=True, gc=False):
    """Endpoints of one VPC, a column each: as many may come at once as a VPC has, and a row of Python each costs more
    than a row of the data plane's."""

    vni: int
    ips: tuple[Ip, ...]
    macs: tuple[Mac, ...]
    host_ips: tuple[Ip, ...]
    identities: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ips)

    def keys(self) -> Iterator[EndpointKey]:
        """Who they are, in order."""
        return map(EndpointKey, repeat(self.vni), self.ips)

    def rows(self) -> Iterator[tuple[EndpointKey, Endpoint]]:
        """The same, one by one."""
        return zip(self.keys(), map(Endpoint, self.macs, self.host_ips, self.identities), strict=True)

    def parts(self, size: int) -> Iterator[EndpointColumns]:
        """The same in pieces, all but the last of `size` rows."""
        for at in range(0, len(self), size):
            some = slice(at, at + size)
            yield EndpointColumns(self.vni, self.ips[some], self.macs[some], self.host_ips[some], self.identities[some])
