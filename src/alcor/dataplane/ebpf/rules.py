"""Policies as rows of the tables `policies`, `rules` and `prefixes`. Pure.

Called by the driver and by tests; alcor.h has the layouts, docs/pipeline.md ("Policy") says how they are looked up.

A rule's range of ports becomes the prefixes that cover it (at most 30), so that one longest-prefix look-up answers for
any number of rules. Addresses are looked up once too: every prefix that a policy names is a *class*, and the rules of a
class are those of its prefix and of every prefix around it. So the cost of a packet does not grow with the rules.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntFlag
from hashlib import blake2b
from typing import Final, NamedTuple

from alcor.dataplane.base import Policy, PolicyKey, Rule
from alcor.model.addresses import Prefix

POLICY_KEY: Final = struct.Struct("=II")
POLICY: Final = struct.Struct("=IIQ")
RULE_KEY: Final = struct.Struct("=IIHBBIH")
"""The selector is in network order: see `_rule_key`."""
RULE_VALUE: Final = b"\1"
PREFIX_KEY: Final = struct.Struct("=IIHBx16s")
CLASS: Final = struct.Struct("=I")
GENERATION: Final = struct.Struct("=I")

RULE_BITS: Final = 96
PREFIX_BITS: Final = 64
SIDE_EGRESS, SIDE_IPV6, SIDE_ANY_PROTOCOL = 1, 2, 4
REMOTE_ANYBODY, REMOTE_IDENTITY, REMOTE_PREFIX = 0, 0x40000000, 0x80000000
CLASS_BITS: Final = 30
ALL_PORTS: Final = (0, 0xFFFF)


class Kind(IntFlag):
    """Which kinds of rule a side of a policy has."""

    OPEN = 1
    ANYBODY = 2
    IDENTITY = 4
    IDENTITY_ANY = 8
    PREFIX = 16
    PREFIX_ANY = 32


class PolicyRow(NamedTuple):
    """A row of `policies`."""

    kinds: int
    entries: int
    digest: int


class Compiled(NamedTuple):
    """A policy as rows, keys and values packed."""

    row: PolicyRow
    rules: frozenset[bytes]
    prefixes: dict[bytes, bytes]


def compile_policy(policy: Policy) -> Compiled:
    """The rows of a policy. The same policy gives the same rows."""
    kinds = 0
    keys: set[bytes] = set()
    classes: dict[bytes, bytes] = {}
    for egress in (False, True):
        for version in (4, 6):
            rules = [rule for rule in policy.rules if rule.egress is egress and rule.version == version]
            side = (SIDE_EGRESS if egress else 0) | (SIDE_IPV6 if version == 6 else 0)
            found = _Side(policy.key, side)
            found.add(rules)
            kinds |= int(found.kinds) << (8 * (2 * egress + (version == 6)))
            keys |= found.keys
            classes |= found.classes
    row = PolicyRow(kinds, len(keys) + len(classes), policy.digest())
    return Compiled(row, frozenset(keys), classes)


class _Side:
    """The rows of one direction and family of a policy, while they are gathered."""

    def __init__(self, key: PolicyKey, side: int) -> None:
        self.kinds = Kind(0)
        self.keys: set[bytes] = set()
        self.classes: dict[bytes, bytes] = {}
        self._key = key
        self._side = side

    def add(self, rules: Sequence[Rule]) -> None:
        by_prefix: dict[Prefix, list[Rule]] = {}
        for rule in rules:
            if rule.identities is not None:
                for identity in rule.identities:
                    self._allow(rule, REMOTE_IDENTITY | identity, Kind.IDENTITY, Kind.IDENTITY_ANY)
            elif rule.prefix is None or rule.prefix.length == 0:
                self._allow(rule, REMOTE_ANYBODY, Kind.ANYBODY, Kind.OPEN)
            else:
                by_prefix.setdefault(rule.prefix, []).append(rule)
        numbers = _classes(sorted(by_prefix))
        around: list[Prefix] = []
        for prefix in sorted(by_prefix):
            while around and prefix.base not in around[-1]:
                around.pop()
            around.append(prefix)
            for outer in around:
                for rule in by_prefix[outer]:
                    self._allow(rule, REMOTE_PREFIX | numbers[prefix], Kind.PREFIX, Kind.PREFIX_ANY)
            bits = PREFIX_BITS + prefix.length + (96 if prefix.version == 4 else 0)
            where = PREFIX_KEY.pack(bits, *self._key, self._side, prefix.base)
            self.classes[where] = CLASS.pack(numbers[prefix])

    def _allow(self, rule: Rule, remote: int, kind: Kind, kind_any: Kind) -> None:
        if rule.protocol is None:
            self.kinds |= kind_any
            if kind_any is not Kind.OPEN:
                self.keys.add(self._rule_key(SIDE_ANY_PROTOCOL, 0, remote, 0, 16))
            return
        self.kinds |= kind
        for value, bits in cover(rule.first, rule.last):
            self.keys.add(self._rule_key(0, rule.protocol, remote, value, bits))

    def _rule_key(self, any_protocol: int, protocol: int, remote: int, selector: int, bits: int) -> bytes:
        side = self._side | any_protocol
        in_network_order = selector >> 8 | (selector & 0xFF) << 8 if _LITTLE else selector
        return RULE_KEY.pack(RULE_BITS + bits, *self._key, side, protocol, remote, in_network_order)


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def cover(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest (value, bits) prefixes of 16-bit numbers that cover first..last, both included."""
    while first <= last:
        size = first & -first or 1 << 16
        while size > last - first + 1:
            size >>= 1
        yield first, 17 - size.bit_length()
        first += size


def _classes(prefixes: Sequence[Prefix]) -> dict[Prefix, int]:
    """A number for each prefix that others' coming and going does not change (but for a rare collision)."""
    taken: set[int] = set()
    numbers = {}
    for prefix in prefixes:
        named = prefix.base + bytes((prefix.length, prefix.version))
        number = int.from_bytes(blake2b(named, digest_size=4).digest(), "little") >> (32 - CLASS_BITS)
        while number in taken:
            number = (number + 1) & ((1 << CLASS_BITS) - 1)
        taken.add(number)
        numbers[prefix] = number
    return numbers


# ---- packing, and what belongs to whom ----


def pack_policy_key(key: PolicyKey) -> bytes:
    """Key of `policies`."""
    return POLICY_KEY.pack(*key)


def unpack_policy_key(key: bytes) -> PolicyKey:
    """The policy that a key of `policies` names."""
    return PolicyKey(*POLICY_KEY.unpack(key))


def owner_of_rule(key: bytes) -> PolicyKey:
    """The policy that a row of `rules` belongs to."""
    _, vni, identity, *_ = RULE_KEY.unpack(key)
    return PolicyKey(vni, identity)


def owner_of_prefix(key: bytes) -> PolicyKey:
    """The policy that a row of `prefixes` belongs to."""
    _, vni, identity, *_ = PREFIX_KEY.unpack(key)
    return PolicyKey(vni, identity)
