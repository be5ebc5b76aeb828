"""Security groups and their rules over REST. Called by app.

A project's default group is there as soon as somebody looks (as in Neutron): its lists make it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from alcor.api.bodies import CreateReader, UpdateReader, View
from alcor.api.collection import Collection
from alcor.api.convert import each, id_text, identifier, only, project, time_text
from alcor.api.errors import FieldError, Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    OWNED,
    Constant,
    Filter,
    Listing,
    integer,
)
from alcor.api.security_bodies import (
    RangeEnd,
    SecurityGroupCreate,
    SecurityGroupRuleCreate,
    SecurityGroupRuleView,
    SecurityGroupUpdate,
    SecurityGroupView,
)
from alcor.model.addresses import Prefix, network_of
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import SecurityGroup, SecurityGroupRule
from alcor.services.commands import (
    Command,
    CreateSecurityGroupRules,
    CreateSecurityGroups,
    DeleteSecurityGroup,
    DeleteSecurityGroupRule,
    EnsureDefaultGroup,
    SecurityGroupRuleSpec,
    SecurityGroupSpec,
    UpdateSecurityGroup,
)
from alcor.services.errors import SecurityGroupNotFound, SecurityGroupRuleNotFound
from alcor.services.rules import protocol_number
from alcor.store.base import Query, Store

RULES_A_READ = 10_000


def _version(text: str) -> int:
    versions = {"ipv4": 4, "ipv6": 6}
    if text.lower() not in versions:
        raise ValueError(f"'{text}' is neither IPv4 nor IPv6")
    return versions[text.lower()]


GROUPS = Listing(
    "security_groups", SecurityGroupNotFound, {**OWNED, "stateful": Constant(True), "shared": Constant(False)}
)
RULES = Listing(
    "security_group_rules",
    SecurityGroupRuleNotFound,
    {
        **{name: column for name, column in OWNED.items() if name != "name"},
        "security_group_id": Filter("group_id", parse_id),
        "direction": Filter("direction"),
        "ethertype": Filter("version", _version),
        "protocol": Filter("protocol_name"),
        "port_range_min": Filter("port_min", integer),
        "port_range_max": Filter("port_max", integer),
        "remote_ip_prefix": Filter("remote_prefix", network_of),
        "remote_group_id": Filter("remote_group", parse_id),
    },
)

_group_creates = CreateReader(SecurityGroupCreate, SecurityGroupView, "security_group", "security_groups")
_group_updates = UpdateReader(SecurityGroupUpdate, SecurityGroupView, "security_group")
_rule_creates = CreateReader(
    SecurityGroupRuleCreate, SecurityGroupRuleView, "security_group_rule", "security_group_rules"
)


Views = list[SecurityGroupView]


class SecurityGroups(Collection[SecurityGroup]):
    """Handlers of /v2.0/security-groups and /v2.0/security-groups/{id}."""

    listing, one, noun = GROUPS, "security_group", "Security group"
    absent = "does not exist"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _group_creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _group_spec(body, owner), self.listing.collection, bulk=bulk)
        for project_id in sorted({spec.project_id for spec in specs}):
            await self._context.control.submit(EnsureDefaultGroup(project_id=project_id))
        return await self._created(CreateSecurityGroups(specs=tuple(specs)), bulk=bulk)

    async def list(self, call: Call) -> Reply:
        await self._context.control.submit(EnsureDefaultGroup(project_id=call.project_id()))
        return await super().list(call)

    async def update(self, call: Call) -> Reply:
        identifier, body = self._member(call), _group_updates.read(call.body)
        _check_stateful(body)
        return await self._updated(
            UpdateSecurityGroup(id=identifier, name=body.name, description=body.description, if_match=call.if_match())
        )

    def _find(self, query: Query) -> Sequence[SecurityGroup]:
        return self._context.store.list_security_groups(query)

    async def _views(self, rows: Sequence[SecurityGroup]) -> Sequence[View]:
        ids = [group.id for group in rows]
        rules = await self._context.read(lambda: rules_of(self._context.store, ids))
        return [group_view(group, rules.get(group.id, ())) for group in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteSecurityGroup(id=identifier, if_match=if_match)


class SecurityGroupRules(Collection[SecurityGroupRule]):
    """Handlers of /v2.0/security-group-rules and /v2.0/security-group-rules/{id}."""

    listing, one, noun = RULES, "security_group_rule", "Security group rule"
    absent = "does not exist"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _rule_creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _rule_spec(body, owner), self.listing.collection, bulk=bulk)
        return await self._created(CreateSecurityGroupRules(specs=tuple(specs)), bulk=bulk)

    async def list(self, call: Call) -> Reply:
        await self._context.control.submit(EnsureDefaultGroup(project_id=call.project_id()))
        return await super().list(call)

    def _find(self, query: Query) -> Sequence[SecurityGroupRule]:
        return self._context.store.list_security_group_rules(query)

    async def _views(self, rows: Sequence[SecurityGroupRule]) -> Sequence[View]:
        return [rule_view(row) for row in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteSecurityGroupRule(id=identifier, if_match=if_match)


def rules_of(store: Store, ids: Sequence[Id]) -> Mapping[Id, Sequence[SecurityGroupRule]]:
    """The rules of those groups, in the order of their ids."""
    found: dict[Id, list[SecurityGroupRule]] = defaultdict(list)
    marker: Id | None = None
    while ids:
        query = Query(filters={"group_id": tuple(ids)}, limit=RULES_A_READ, marker=marker)
        page = store.list_security_group_rules(query)
        for rule in page:
            found[rule.group_id].append(rule)
        if len(page) < RULES_A_READ:
            break
        marker = page[-1].id
    return found


def group_view(group: SecurityGroup, rules: Sequence[SecurityGroupRule]) -> SecurityGroupView:
    """The group as REST shows it."""
    return SecurityGroupView(
        id=format_id(group.id),
        name=group.name,
        description=group.description,
        project_id=group.project_id,
        tenant_id=group.project_id,
        security_group_rules=[rule_view(rule) for rule in rules],
        created_at=time_text(group.created_at),
        updated_at=time_text(group.updated_at),
        revision_number=group.revision,
    )


def rule_view(rule: SecurityGroupRule) -> SecurityGroupRuleView:
    """The rule as REST shows it."""
    prefix = None if rule.remote_prefix is None else str(rule.remote_prefix)
    return SecurityGroupRuleView(
        id=format_id(rule.id),
        security_group_id=id_text(rule.group_id),
        project_id=rule.project_id,
        tenant_id=rule.project_id,
        description=rule.description,
        direction=rule.direction,
        ethertype="IPv4" if rule.version == 4 else "IPv6",
        protocol=rule.protocol_name or None,
        port_range_min=rule.port_min,
        port_range_max=rule.port_max,
        remote_ip_prefix=prefix,
        normalized_cidr=prefix,
        remote_group_id=None if rule.remote_group is None else id_text(rule.remote_group),
        created_at=time_text(rule.created_at),
        updated_at=time_text(rule.updated_at),
        revision_number=rule.revision,
    )


def _group_spec(body: SecurityGroupCreate, owner: str) -> SecurityGroupSpec:
    _check_stateful(body)
    return SecurityGroupSpec(
        project_id=project(body.project_id, body.tenant_id, owner), name=body.name, description=body.description
    )


def _check_stateful(body: SecurityGroupCreate | SecurityGroupUpdate) -> None:
    only("stateful", body.stateful, "rules are stateful, always; leave it out or give true")


def _rule_spec(body: SecurityGroupRuleCreate, owner: str) -> SecurityGroupRuleSpec:
    version = _version(body.ethertype)
    name = "" if body.protocol is None or str(body.protocol).lower() == "any" else str(body.protocol)
    prefix = None if not body.remote_ip_prefix else _prefix(body.remote_ip_prefix)
    return SecurityGroupRuleSpec(
        group_id=identifier(body.security_group_id, "security_group_id"),
        direction=body.direction,
        version=version,
        project_id=project(body.project_id, body.tenant_id, owner),
        description=body.description,
        protocol=protocol_number(name, version) if name else None,
        protocol_name=name.lower(),
        port_min=_range_end(body.port_range_min),
        port_max=_range_end(body.port_range_max),
        remote_prefix=prefix,
        remote_group=None if body.remote_group_id is None else identifier(body.remote_group_id, "remote_group_id"),
    )


def _prefix(text: str) -> Prefix:
    try:
        return network_of(text)
    except ValueError as error:
        raise FieldError("remote_ip_prefix", str(error)) from None


def _range_end(value: RangeEnd) -> int | None:
    return None if value is None else int(value)
