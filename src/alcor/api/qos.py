"""Quality of service over REST: policies, their rules, the kinds of rules. Called by app.

Rules are reached under their policy, and (Neutron's alias API) by their own id alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import UNSET, UnsetType

from alcor.api.bodies import CreateReader, Input, UpdateReader, View
from alcor.api.collection import Collection
from alcor.api.context import Context
from alcor.api.convert import each, member, number, parent, project, time_text
from alcor.api.errors import BadRequest, Reply
from alcor.api.exchange import Call, Handler
from alcor.api.listing import (
    IDENTIFIER,
    OWNED,
    Filter,
    Listing,
    Page,
    boolean,
    cut,
    find_page,
    integer,
    page_reply,
    read_fields,
    read_page,
)
from alcor.api.qos_bodies import (
    DSCP_LIMIT,
    KBPS_LIMIT,
    BandwidthLimitCreate,
    BandwidthLimitUpdate,
    BandwidthLimitView,
    DscpMarkingCreate,
    DscpMarkingUpdate,
    DscpMarkingView,
    QosPolicyCreate,
    QosPolicyUpdate,
    QosPolicyView,
    QosRuleTypeView,
)
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import Direction
from alcor.model.qos import QosPolicy, QosRule, QosRuleKind
from alcor.services.commands import Command
from alcor.services.errors import QosPolicyNotFound, QosRuleNotFound, QosRuleNotSupported
from alcor.services.qos import DSCP_MARKS
from alcor.services.qos_commands import (
    CreateQosPolicies,
    CreateQosRule,
    DeleteQosPolicy,
    DeleteQosRule,
    QosPolicySpec,
    UpdateQosPolicy,
    UpdateQosRule,
)
from alcor.store.base import Query, Store

RULES_A_READ = 10_000
UNSUPPORTED = ("minimum_bandwidth", "minimum_packet_rate", "packet_rate_limit")
"""Neutron's other kinds of rules: no host can carry them out."""

POLICIES = Listing(
    "policies",
    QosPolicyNotFound,
    {**OWNED, "shared": Filter("shared", boolean), "is_default": Filter("is_default", boolean)},
)
LIMITS = Listing(
    "bandwidth_limit_rules",
    QosRuleNotFound,
    {
        "id": IDENTIFIER,
        "max_kbps": Filter("max_kbps", integer),
        "max_burst_kbps": Filter("max_burst_kbps", integer),
        "direction": Filter("direction"),
    },
)
MARKS = Listing("dscp_marking_rules", QosRuleNotFound, {"id": IDENTIFIER, "dscp_mark": Filter("dscp_mark", integer)})

_policy_creates = CreateReader(QosPolicyCreate, QosPolicyView, "policy", "policies")
_policy_updates = UpdateReader(QosPolicyUpdate, QosPolicyView, "policy")
_encode = msgspec.json.Encoder().encode
RuleView = BandwidthLimitView | DscpMarkingView


class QosPolicies(Collection[QosPolicy]):
    """Handlers of /v2.0/qos/policies and /v2.0/qos/policies/{id}."""

    listing, one, noun = POLICIES, "policy", "QoS policy"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _policy_creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _policy_spec(body, owner), self.listing.collection, bulk=bulk)
        return await self._created(CreateQosPolicies(specs=tuple(specs)), bulk=bulk)

    async def update(self, call: Call) -> Reply:
        identifier, body = self._member(call), _policy_updates.read(call.body)
        command = UpdateQosPolicy(
            id=identifier,
            name=body.name,
            description=body.description,
            shared=body.shared,
            is_default=body.is_default,
            if_match=call.if_match(),
        )
        return await self._updated(command)

    def _find(self, query: Query) -> Sequence[QosPolicy]:
        return self._context.store.list_qos_policies(query)

    async def _views(self, rows: Sequence[QosPolicy]) -> Sequence[View]:
        ids = [policy.id for policy in rows]
        rules = await self._context.read(lambda: _rules_of(self._context.store, ids))
        return [policy_view(policy, rules.get(policy.id, ())) for policy in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteQosPolicy(id=identifier, if_match=if_match)


class Words(NamedTuple):
    """What the rules of one kind are called and look like."""

    kind: QosRuleKind
    one: str
    listing: Listing
    create: type[Input]
    update: type[Input]
    view: type[View]


RULES = (
    Words(
        *(QosRuleKind.BANDWIDTH_LIMIT, "bandwidth_limit_rule", LIMITS),
        *(BandwidthLimitCreate, BandwidthLimitUpdate, BandwidthLimitView),
    ),
    Words(
        *(QosRuleKind.DSCP_MARKING, "dscp_marking_rule", MARKS),
        *(DscpMarkingCreate, DscpMarkingUpdate, DscpMarkingView),
    ),
)


class QosRules:
    """Handlers of /v2.0/qos/policies/{id}/..._rules and of the alias of one kind."""

    def __init__(self, context: Context, words: Words) -> None:
        self._context = context
        self._words = words
        self._creates = CreateReader(words.create, words.view, words.one, words.listing.collection)
        self._updates = UpdateReader(words.update, words.view, words.one)
        self._alias_updates = UpdateReader(words.update, words.view, f"alias_{words.one}")

    async def create(self, call: Call) -> Reply:
        policy_id = parent(call, QosPolicyNotFound, "QoS policy")
        bodies, bulk = self._creates.read(call.body)
        if bulk:
            raise BadRequest(f"Give '{self._words.one}': a policy has one rule of a kind and direction.")
        command = CreateQosRule(policy_id=policy_id, kind=self._words.kind, **_given(bodies[0]))
        rule = cast(QosRule, await self._context.control.submit(command))
        return Reply(201, _encode({self._words.one: rule_view(rule)}))

    async def list(self, call: Call) -> Reply:
        policy = _policy(self._context.store, parent(call, QosPolicyNotFound, "QoS policy"))
        page = read_page(call, self._words.listing)
        rules = await find_page(
            self._context, self._words.listing, self._inside(page, policy.id), self._context.store.list_qos_rules
        )
        return page_reply(call, self._words.listing, page, [rule_view(rule) for rule in rules])

    def _inside(self, page: Page, policy_id: Id) -> Page:
        if page.query is None:
            return page
        filters = {**page.query.filters, "policy_id": (policy_id,), "kind": (self._words.kind,)}
        return page._replace(query=msgspec.structs.replace(page.query, filters=filters))

    async def show(self, call: Call) -> Reply:
        return self._show(call, parent(call, QosPolicyNotFound, "QoS policy"), self._words.one)

    async def update(self, call: Call) -> Reply:
        policy_id = parent(call, QosPolicyNotFound, "QoS policy")
        return await self._update(call, policy_id, self._updates.read(call.body), self._words.one)

    async def delete(self, call: Call) -> Reply:
        return await self._delete(call, parent(call, QosPolicyNotFound, "QoS policy"))

    async def alias_show(self, call: Call) -> Reply:
        return self._show(call, None, f"alias_{self._words.one}")

    async def alias_update(self, call: Call) -> Reply:
        return await self._update(call, None, self._alias_updates.read(call.body), f"alias_{self._words.one}")

    async def alias_delete(self, call: Call) -> Reply:
        return await self._delete(call, None)

    def _show(self, call: Call, policy_id: Id | None, name: str) -> Reply:
        rule_id = member(call, QosRuleNotFound, "QoS rule")
        if policy_id is not None:
            _policy(self._context.store, policy_id)
        found = self._context.store.list_qos_rules(Query(filters={"id": (rule_id,)}, limit=1))
        if not found or found[0].kind is not self._words.kind or policy_id not in (None, found[0].policy_id):
            raise QosRuleNotFound(f"QoS rule of type {self._words.kind} {format_id(rule_id)} could not be found.")
        view, fields = rule_view(found[0]), read_fields(call)
        return Reply(200, _encode({name: cut(view, fields) if fields else view}))

    async def _update(self, call: Call, policy_id: Id | None, body: Input, name: str) -> Reply:
        rule_id = member(call, QosRuleNotFound, "QoS rule")
        command = UpdateQosRule(
            id=rule_id, policy_id=policy_id, kind=self._words.kind, if_match=call.if_match(), **_given(body)
        )
        rule = cast(QosRule, await self._context.control.submit(command))
        return Reply(200, _encode({name: rule_view(rule)}))

    async def _delete(self, call: Call, policy_id: Id | None) -> Reply:
        rule_id = member(call, QosRuleNotFound, "QoS rule")
        command = DeleteQosRule(id=rule_id, policy_id=policy_id, kind=self._words.kind, if_match=call.if_match())
        await self._context.control.submit(command)
        return Reply(204)


def handlers(context: Context) -> Mapping[str, Mapping[str, Handler]]:
    """Path -> method -> handler, of everything below /v2.0/qos."""
    policies = QosPolicies(context)
    inside = "/v2.0/qos/policies/{parent}"
    found: dict[str, dict[str, Handler]] = {
        "/v2.0/qos/policies": {"GET": policies.list, "POST": policies.create},
        "/v2.0/qos/policies/{member}": {"GET": policies.show, "PUT": policies.update, "DELETE": policies.delete},
        "/v2.0/qos/rule-types": {"GET": list_rule_types},
        "/v2.0/qos/rule-types/{member}": {"GET": show_rule_type},
    }
    for words in RULES:
        rules = QosRules(context, words)
        collection = words.listing.collection
        found[f"{inside}/{collection}"] = {"GET": rules.list, "POST": rules.create}
        found[f"{inside}/{collection}/{{member}}"] = {"GET": rules.show, "PUT": rules.update, "DELETE": rules.delete}
        alias = f"/v2.0/qos/alias-{collection.replace('_', '-')}/{{member}}"
        found[alias] = {"GET": rules.alias_show, "PUT": rules.alias_update, "DELETE": rules.alias_delete}
    for kind in UNSUPPORTED:
        found[f"{inside}/{kind}_rules"] = {"POST": _refuse(kind)}
    return found


def _refuse(kind: str) -> Handler:
    async def refuse(_call: Call) -> Reply:
        known = " and ".join(words.kind for words in RULES)
        raise QosRuleNotSupported(f"Rule {kind} is not supported by any host; {known} are.")

    return refuse


async def list_rule_types(_call: Call) -> Reply:
    """GET /v2.0/qos/rule-types"""
    return Reply(200, _encode({"rule_types": [QosRuleTypeView(type=words.kind) for words in RULES]}))


async def show_rule_type(call: Call) -> Reply:
    """GET /v2.0/qos/rule-types/{type}"""
    if call.member not in _PARAMETERS:
        raise QosRuleNotFound(f"QoS rule type {call.member} could not be found.")
    drivers = [{"name": "alcor", "supported_parameters": _PARAMETERS[call.member]}]
    return Reply(200, _encode({"rule_type": QosRuleTypeView(type=call.member, drivers=drivers)}))


def _range(name: str, start: int) -> dict[str, Any]:
    values = {"start": start, "end": KBPS_LIMIT}
    return {"parameter_name": name, "parameter_type": "range", "parameter_values": values}


def _choices(name: str, values: Sequence[object]) -> dict[str, Any]:
    return {"parameter_name": name, "parameter_type": "choices", "parameter_values": values}


_PARAMETERS: dict[str, list[dict[str, Any]]] = {
    QosRuleKind.BANDWIDTH_LIMIT: [
        _range("max_kbps", 1),
        _range("max_burst_kbps", 0),
        _choices("direction", list(Direction)),
    ],
    QosRuleKind.DSCP_MARKING: [_choices("dscp_mark", sorted(DSCP_MARKS))],
}


def _rules_of(store: Store, ids: Sequence[Id]) -> Mapping[Id, Sequence[QosRule]]:
    found: dict[Id, list[QosRule]] = defaultdict(list)
    for identifier in ids:
        # A policy has three rules at most.
        found[identifier] = store.list_qos_rules(Query(filters={"policy_id": (identifier,)}, limit=RULES_A_READ))
    return found


def _policy(store: Store, policy_id: Id) -> QosPolicy:
    found = store.list_qos_policies(Query(filters={"id": (policy_id,)}, limit=1))
    if not found:
        raise QosPolicyNotFound(f"QoS policy {format_id(policy_id)} could not be found.")
    return found[0]


def policy_view(policy: QosPolicy, rules: Sequence[QosRule]) -> QosPolicyView:
    """The policy as REST shows it."""
    return QosPolicyView(
        id=format_id(policy.id),
        name=policy.name,
        description=policy.description,
        project_id=policy.project_id,
        tenant_id=policy.project_id,
        shared=policy.shared,
        is_default=policy.is_default,
        rules=[rule_view(rule) for rule in rules],
        created_at=time_text(policy.created_at),
        updated_at=time_text(policy.updated_at),
        revision_number=policy.revision,
    )


def rule_view(rule: QosRule) -> RuleView:
    """The rule as REST shows it."""
    if rule.kind is QosRuleKind.DSCP_MARKING:
        return DscpMarkingView(id=format_id(rule.id), qos_policy_id=format_id(rule.policy_id), dscp_mark=rule.dscp_mark)
    return BandwidthLimitView(
        id=format_id(rule.id),
        qos_policy_id=format_id(rule.policy_id),
        max_kbps=rule.max_kbps,
        max_burst_kbps=rule.max_burst_kbps,
        direction=rule.direction,
    )


def _policy_spec(body: QosPolicyCreate, owner: str) -> QosPolicySpec:
    return QosPolicySpec(
        project_id=project(body.project_id, body.tenant_id, owner),
        name=body.name,
        description=body.description,
        shared=body.shared,
        is_default=body.is_default,
    )


_BOUNDS = {"max_kbps": (1, KBPS_LIMIT), "max_burst_kbps": (0, KBPS_LIMIT), "dscp_mark": (0, DSCP_LIMIT)}


def _given(body: Input) -> dict[str, Any]:
    """What a rule's body says, numbers as such."""
    given: dict[str, Any] = {name: getattr(body, name) for name in body.__struct_fields__}
    return {
        name: number(value, name, *_BOUNDS[name]) if name in _BOUNDS else value
        for name, value in given.items()
        if value is not UNSET
    }


Absent = TypeVar("Absent", None, UnsetType | None)


def qos_policy_id(text: str | Absent) -> Id | Absent:
    """The `qos_policy_id` of a port, network or floating IP. What is no id is nobody's: QosPolicyNotFound."""
    if not isinstance(text, str):
        return text
    try:
        return parse_id(text)
    except ValueError:
        raise QosPolicyNotFound(f"QoS policy {text} could not be found.") from None
