"""`POST /v2.0/reachability`: would this packet arrive, and if not, why? Called by app."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from alcor.api.bodies import Input, TcpPort, UuidText
from alcor.api.context import Context
from alcor.api.convert import identifier, ip
from alcor.api.errors import BadRequest, FieldError, Reply
from alcor.api.exchange import Call
from alcor.model.ids import format_id
from alcor.services.reachability import Answer, Outcome, Question
from alcor.services.rules import PORTED, protocol_number


class ReachabilityQuestion(Input, kw_only=True):
    """The first packet of a connection: from a port, to a port or an address of its network."""

    source_port_id: UuidText
    destination_port_id: UuidText | UnsetType = UNSET
    destination_ip: str | UnsetType = UNSET
    protocol: str | int = "icmp"
    destination_port: TcpPort | None = None


class ReachabilityAnswer(msgspec.Struct, kw_only=True):
    """The verdict, the word for it, the step that decides, and all of them."""

    outcome: Outcome
    reason: str
    decided_by: str
    steps: tuple[str, ...]
    egress_rule_id: UuidText | None
    ingress_rule_id: UuidText | None


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
    if (body.destination_port_id is UNSET) == (body.destination_ip is UNSET):
        raise FieldError("destination_ip", "give destination_port_id or destination_ip, one of the two")
    protocol = protocol_number(str(body.protocol), 4)
    if protocol in PORTED and body.destination_port is None:
        raise FieldError("destination_port", f"protocol {body.protocol} has ports: say which")
    return Question(
        source=identifier(body.source_port_id, "source_port_id"),
        project_id=project_id,
        destination_port=None
        if body.destination_port_id is UNSET
        else identifier(body.destination_port_id, "destination_port_id"),
        destination_ip=None if body.destination_ip is UNSET else ip(body.destination_ip, "destination_ip"),
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
    )
