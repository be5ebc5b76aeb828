"""Puts policies into the tables `policies`, `rules` and `prefixes`, and takes them out. Called by the driver.

Who reads the tables never sees less than the old and the new rules together: new rows first, then the policy's own row,
then the old rows go; at last the generation grows, and every flow is looked up again with its next packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alcor.dataplane.base import Policy, PolicyKey
from alcor.dataplane.ebpf import rules
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.rules import GENERATION, POLICY, RULE_VALUE
from alcor.dataplane.ebpf.tables import CONFIG_KEY


class _Rows(NamedTuple):
    """What the tables hold of one policy."""

    digest: int
    rules: frozenset[bytes]
    prefixes: dict[bytes, bytes]


class Policing:
    """The policies of a host as the kernel has them, read once and then followed."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[PolicyKey, _Rows] | None = None

    def observe(self) -> dict[PolicyKey, int]:
        """Reads the tables: each policy's digest, 0 for one that is not whole."""
        program = self._program
        own: dict[PolicyKey, set[bytes]] = {}
        for key, _ in program.rules.items():
            own.setdefault(rules.owner_of_rule(key), set()).add(key)
        classes: dict[PolicyKey, dict[bytes, bytes]] = {}
        for key, value in program.prefixes.items():
            classes.setdefault(rules.owner_of_prefix(key), {})[key] = value
        known: dict[PolicyKey, _Rows] = {}
        for raw, value in program.policies.items():
            named = rules.unpack_policy_key(raw)
            _, entries, digest = POLICY.unpack(value)
            mine, mine_classes = own.pop(named, set()), classes.pop(named, {})
            whole = entries == len(mine) + len(mine_classes)
            known[named] = _Rows(digest if whole else 0, frozenset(mine), mine_classes)
        for named in own.keys() | classes.keys():
            known[named] = _Rows(0, frozenset(own.get(named, ())), classes.get(named, {}))
        self._known = known
        return {named: row.digest for named, row in known.items()}

    def put(self, policies: Sequence[Policy]) -> None:
        """Makes these policies so. Raises BpfError; what was done is known then, and the rest can be tried again."""
        if not policies:
            return
        known = self._read()
        wanted = {policy.key: rules.compile_policy(policy) for policy in policies}
        before = {key: known.pop(key, _Rows(0, frozenset(), {})) for key in wanted}
        # Until all is written nothing of them is known: a failure in between makes the next call read them again.
        self._known = None
        program = self._program
        fresh = sorted(row for key, one in wanted.items() for row in one.rules - before[key].rules)
        classes = [
            row
            for key, one in wanted.items()
            for row in one.prefixes.items()
            if row not in before[key].prefixes.items()
        ]
        program.rules.update_batch(b"".join(fresh), RULE_VALUE * len(fresh), len(fresh))
        keys, values = b"".join(key for key, _ in classes), b"".join(value for _, value in classes)
        program.prefixes.update_batch(keys, values, len(classes))
        keys = b"".join(map(rules.pack_policy_key, wanted))
        values = b"".join(POLICY.pack(*one.row) for one in wanted.values())
        program.policies.update_batch(keys, values, len(wanted))
        self._forget(
            [row for key, one in wanted.items() for row in before[key].rules - one.rules],
            [row for key, one in wanted.items() for row in before[key].prefixes.keys() - one.prefixes.keys()],
        )
        for key, one in wanted.items():
            known[key] = _Rows(one.row.digest, one.rules, one.prefixes)
        self._known = known
        self.renew()

    def remove(self, keys: Iterable[PolicyKey]) -> None:
        """Takes policies out; an absent one is passed over. Raises BpfError."""
        known = self._read()
        gone = [(key, known[key]) for key in keys if key in known]
        if not gone:
            return
        self._known = None
        packed = b"".join(rules.pack_policy_key(key) for key, _ in gone)
        self._program.policies.delete_batch(packed, len(gone))
        self._forget([row for _, one in gone for row in one.rules], [row for _, one in gone for row in one.prefixes])
        for key, _ in gone:
            del known[key]
        self._known = known
        self.renew()

    def renew(self) -> None:
        """Every flow is held against the rules again, with its next packet. Raises BpfError."""
        kept = self._program.generation.get(CONFIG_KEY)
        number = GENERATION.unpack(kept)[0] if kept is not None else 0
        self._program.generation.put(CONFIG_KEY, GENERATION.pack((number + 1) & 0xFFFFFFFF))

    def _read(self) -> dict[PolicyKey, _Rows]:
        if self._known is None:
            self.observe()
        assert self._known is not None
        return self._known

    def _forget(self, gone: Sequence[bytes], classes: Sequence[bytes]) -> None:
        self._program.rules.delete_batch(b"".join(gone), len(gone))
        self._program.prefixes.delete_batch(b"".join(classes), len(classes))
