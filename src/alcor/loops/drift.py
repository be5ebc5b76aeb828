"""Drift: what hosts say in heartbeats that they hold, against what was published. Pure. Called by publish.

A host may lag for as long as news is under way; what lags or differs for longer than PATIENCE_S, in two heartbeats, is
owed to it. Digests are compared at equal revisions only, and of VPCs whose digest is known; the publisher is told which
are wanted, and reads those at its leisure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from alcor.goalstate.digest import DIGEST_MODULUS
from alcor.goalstate.objects import HOST_SCOPE
from alcor.model.ids import Id
from alcor.wire.reports import Held

PATIENCE_S = 2.0
MAX_DIGESTS = 65_536
"""Kept; beyond it the least recently used are forgotten."""
MAX_WANTED = 1024
"""VPCs that wait to be read for their digests."""


class Known(NamedTuple):
    """A VPC's digest as of a published revision."""

    revision: int
    digest: int


class Drift:
    """See the module. Bounded by hosts and the VPCs that they carry."""

    def __init__(self, revision: int) -> None:
        """`revision`: the store's, when publishing began: all scopes are at least that old."""
        self.wanted: dict[Id, None] = {}
        """VPCs whose digest would be of use, longest wanted first."""
        self._start = revision
        self._published: dict[Id, int] = {}
        """VPC -> its last published change."""
        self._published_hosts: dict[str, int] = {}
        self._digests: OrderedDict[Id, Known] = OrderedDict()
        self._since: dict[tuple[str, Id], tuple[float, int]] = {}
        """(host, scope) -> since when it lags, and behind which revision."""

    def published(self, vpc: Id) -> int:
        """The VPC's last change that was published."""
        return self._published.get(vpc, self._start)

    def __contains__(self, vpc: object) -> bool:
        """The VPC's digest is known."""
        return vpc in self._digests

    def digest(self, vpc: Id) -> int | None:
        """Of the VPC as of its last published change; None: not known."""
        known = self._digests.get(vpc)
        return known.digest if known is not None else None

    def publish(self, revision: int, vpcs: Iterable[Id], hosts: Iterable[str], shifts: Mapping[Id, int]) -> None:
        """These scopes change with that revision; `shifts`: by how much the digests of some do."""
        for vpc in vpcs:
            self._published[vpc] = revision
            known = self._digests.pop(vpc, None)
            if known is not None and vpc in shifts:
                self._digests[vpc] = Known(revision, (known.digest + shifts[vpc]) % DIGEST_MODULUS)
        for host in hosts:
            self._published_hosts[host] = revision

    def learn(self, vpc: Id, digest: int) -> None:
        """The VPC's digest as of its last published change, and of nothing newer."""
        self.wanted.pop(vpc, None)
        self._digests[vpc] = Known(self.published(vpc), digest)
        self._digests.move_to_end(vpc)
        if len(self._digests) > MAX_DIGESTS:
            self._digests.popitem(last=False)

    def greeted(self, host: str, due: int) -> None:
        """The host greets: of its own scope it is to hold that revision."""
        self._published_hosts[host] = due

    def is_current(self, host: str, held: Iterable[Held], vpcs: Iterable[Id]) -> bool:
        """A host that says it holds this, and needs these VPCs, lacks nothing that was published."""
        known = {state.scope: state for state in held}
        due = self._published_hosts.get(host)
        own = known.get(HOST_SCOPE)
        if due is None or (own.revision if own is not None else 0) < due:
            return False
        for vpc in vpcs:
            state, due = known.get(vpc), self.published(vpc)
            if state is None or state.revision < due or self._differs(state, due):
                return False
        return True

    def forget_vpc(self, vpc: Id) -> None:
        """It was deleted."""
        self._published.pop(vpc, None)
        self._digests.pop(vpc, None)
        self.wanted.pop(vpc, None)

    def forget_host(self, host: str) -> None:
        """It is gone, or greets anew: what it said before counts no more."""
        for key in [key for key in self._since if key[0] == host]:
            del self._since[key]

    def heard(self, host: str, held: Iterable[Held], carries: Callable[[Id], bool], now: float) -> list[Id]:
        """The scopes that the host is owed, given what it says that it holds."""
        owed = []
        for state in held:
            scope = state.scope
            if scope == HOST_SCOPE:
                due = self._published_hosts.get(host, 0)
            elif carries(scope):
                due = self.published(scope)
            else:
                continue
            behind = state.revision < due or (scope != HOST_SCOPE and self._differs(state, due))
            since = self._since.get((host, scope))
            if not behind:
                if since is not None:
                    del self._since[host, scope]
            elif since is None or since[1] != state.revision:
                self._since[host, scope] = now, state.revision  # it moves, if slowly
            elif now - since[0] >= PATIENCE_S:
                owed.append(scope)
                self._since[host, scope] = now, state.revision  # once more, if that is lost too
        return owed

    def _differs(self, state: Held, due: int) -> bool:
        known = self._digests.get(state.scope)
        if known is None:
            if len(self.wanted) < MAX_WANTED:
                self.wanted.setdefault(state.scope)
            return False
        return known.revision == due and state.digest != known.digest
