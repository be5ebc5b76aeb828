"""`POST /v2.0/reachability`: would this packet arrive, and if not, why? Called by app."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from alcor.api.bodies import Input, TcpPort, UuidText
from alcor.api.context import Context
from alcor.api.convert import identifier, ip
from alcor.api.errors import BadRequest, FieldError, Reply
from alcor.api.exchange import Call
from alcor.model.addresses import format_ip, ip_version
from alcor.model.ids import format_id
from alcor.services.reachability import Answer, Outcome, Question
from alcor.services.rules import PORTED, protocol_number


class ReachabilityQuestion(Input, kw_only=True):
    """The first packet of a connection: from a port, or from an address outside to a floating IP's or to a port's own
    IPv6 address there."""

    source_port_id: UuidText | UnsetType = UNSET
    source_ip: str | UnsetType = UNSET
    destination_port_id: UuidText | UnsetType = UNSET
    destination_ip: str | UnsetType = UNSET
    protocol: str | int = "icmp"
    destination_port: TcpPort | None = None


class MemberInAnswer(msgspec.Struct):
    """What would become of the packet at a member of the load balancer that it is for."""

    address: str
    protocol_port: int
    weight: int
    takes_connections: bool
    outcome: Outcome
    reason: str


class ReachabilityAnswer(msgspec.Struct, kw_only=True):
    """The verdict, the word for it, the step that decides, and all of them."""

    outcome: Outcome
    reason: str
    decided_by: str
    steps: tuple[str, ...]
    egress_rule_id: UuidText | None
    ingress_rule_id: UuidText | None
    members: list[MemberInAnswer]


_decoder = msgspec.json.Decoder(
    msgspec.defstruct("ReachabilityEnvelope", [("reachability", ReachabilityQuestion)], forbid_unknown_fields=True)
)
_encode = msgspec.json.Encoder().encode


class ReachabilityHandler:
    """The handler; there is one while somebody can answer."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ask(self, call: Call) -> Reply:
        """Answers; changes nothing."""
        try:
            body: ReachabilityQuestion = _decoder.decode(call.body).reachability  # type: ignore[attr-defined]
        except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"Invalid input for reachability. Reason: {error}.") from None
        question = _question(body, call.project_id())
        view = self._context.reachability
        assert view is not None
        answer = await self._context.read(lambda: view.ask(question))
        return Reply(200, _encode({"reachability": _shown(answer)}))


def _question(body: ReachabilityQuestion, project_id: str) -> Question:
    if (body.source_port_id is UNSET) == (body.source_ip is UNSET):
        raise FieldError("source_ip", "give source_port_id or source_ip, one of the two")
    source_ip = None if body.source_ip is UNSET else ip(body.source_ip, "source_ip")
    if source_ip is not None and body.destination_ip is UNSET:
        raise FieldError("destination_ip", "from outside a packet comes to an address there: give it")
    if (body.destination_port_id is UNSET) == (body.destination_ip is UNSET):
        raise FieldError("destination_ip", "give destination_port_id or destination_ip, one of the two")
    protocol = protocol_number(str(body.protocol), 4)
    if protocol in PORTED and body.destination_port is None:
        raise FieldError("destination_port", f"protocol {body.protocol} has ports: say which")
    destination_ip = None if body.destination_ip is UNSET else ip(body.destination_ip, "destination_ip")
    if source_ip is not None and destination_ip is not None and ip_version(source_ip) != ip_version(destination_ip):
        raise FieldError("source_ip", "is not of the destination's family")
    return Question(
        source=None if body.source_port_id is UNSET else identifier(body.source_port_id, "source_port_id"),
        source_ip=source_ip,
        project_id=project_id,
        destination_port=None
        if body.destination_port_id is UNSET
        else identifier(body.destination_port_id, "destination_port_id"),
        destination_ip=destination_ip,
        protocol=protocol,
        port=body.destination_port or 0,
    )


def _shown(answer: Answer) -> ReachabilityAnswer:
    return ReachabilityAnswer(
        outcome=answer.outcome,
        reason=answer.reason,
        decided_by=answer.decided_by,
        steps=answer.steps,
        egress_rule_id=None if answer.egress_rule is None else format_id(answer.egress_rule),
        ingress_rule_id=None if answer.ingress_rule is None else format_id(answer.ingress_rule),
        members=[
            MemberInAnswer(format_ip(one.ip), one.port, one.weight, one.takes, one.outcome, one.reason)
            for one in answer.members
        ],
    )
