"""One HTTP exchange as Alcor sees it: Call in, Reply out, the ASGI endpoint between. Called by app and every resource.

An endpoint is one path with a handler per method. It is plain ASGI, not a Starlette request/response pair, because that
is where the time of a small request goes. All errors of all handlers become HTTP here, by `errors`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import NamedTuple
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from alcor.api import errors
from alcor.api.errors import BadRequest, BodyTooLarge, Reply
from alcor.services.waiting import MAX_WAIT_S

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a request body, by default: some 150,000 ports in one POST."""

_PROCESS = os.urandom(10).hex()
_NUMBERS = count(1)
_IF_MATCH = re.compile(r'(?:W/)?"?revision_number=([^",]*)"?')
_LARGEST_REVISION = 2**63 - 1
_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=[;,]|$)', re.IGNORECASE)
"""RFC 7240, 4.3, among a `Prefer` header's other preferences."""


class Limits(NamedTuple):
    """What one request may cost."""

    body_bytes: int = BODY_LIMIT
    page_items: int = 1000
    """Items of a page when the client asks for more or does not say; the rest follows by links."""


class Call:
    """A request whose body has been read."""

    __slots__ = ("body", "limits", "scope")

    def __init__(self, scope: Scope, body: bytes, limits: Limits) -> None:
        self.scope = scope
        self.body = body
        self.limits = limits

    @property
    def member(self) -> str:
        """The last step of a member's path: an id, or whatever the client put there."""
        return str(self.scope["path_params"]["member"])

    @property
    def parent(self) -> str:
        """The step before the collection, in the path of a collection inside a member."""
        return str(self.scope["path_params"]["parent"])

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    def header(self, name: bytes) -> str | None:
        """The first header of that (lower-case) name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    def project_id(self) -> str:
        """Whose request it is, by authentication `none`: the word of the X-Project-Id header, or nobody's."""
        return self.header(b"x-project-id") or ""

    def query(self) -> list[tuple[str, str]]:
        """The query's parameters, in order, blank values kept."""
        raw: bytes = self.scope["query_string"]
        try:
            return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict") if raw else []
        except ValueError:
            raise BadRequest("The query string is not percent-encoded UTF-8.") from None

    def host_url(self) -> str:
        """`scheme://host:port`, as the client wrote it."""
        host = self.header(b"host")
        if not host:
            address, port = self.scope["server"] or ("localhost", None)
            host = f"{address}:{port}" if port else address
        return f"{self.scope.get('scheme', 'http')}://{host}"

    def path_url(self) -> str:
        """The URL without its query."""
        return f"{self.host_url()}{self.scope['path']}"

    def if_match(self) -> int | None:
        """The revision that `If-Match` demands, or None. Raises BadRequest.

        Neutron's form is `revision_number=N`, quoted or not. `*` holds for whatever exists. Neutron ignores any other
        entity tag; Alcor refuses it, since a condition that is silently dropped loses somebody's update.
        """
        text = self.header(b"if-match")
        if text is None or text.strip() in ("", "*"):
            return None
        tags = [tag.strip() for tag in text.split(",")]
        if len(tags) > 1:
            raise BadRequest("Multiple revision_number constraints are not supported.")
        match = _IF_MATCH.fullmatch(tags[0])
        if match is None:
            raise BadRequest(f"If-Match must be revision_number=N or *, not '{tags[0]}'.")
        if not (match[1].isascii() and match[1].isdigit()) or int(match[1][:20]) > _LARGEST_REVISION:
            raise BadRequest("Revision number must be an integer.")
        return int(match[1])

    def wait_s(self) -> int:
        """How long the client would have its answer wait (RFC 7240's `Prefer: wait=N`), at most MAX_WAIT_S; 0: not at
        all. What is not understood is ignored, as the RFC has it."""
        for key, value in self.scope["headers"]:
            if key == b"prefer" and (match := _WAIT.search(str(value, "latin-1"))):
                return min(int(match[1]), MAX_WAIT_S)
        return 0


Handler = Callable[[Call], Awaitable[Reply]]


class Endpoint:
    """The ASGI application of one path."""

    def __init__(self, handlers: Mapping[str, Handler], limits: Limits) -> None:
        self.handlers = dict(handlers)
        if "GET" in handlers:
            self.handlers["HEAD"] = handlers["GET"]
        self._allow = ", ".join(sorted(self.handlers))
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = next_request_id()
        try:
            reply = await self._answer(scope, receive)
        except Disconnected:
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:  # The one place where every handler's failure ends.
            reply = errors.to_reply(error, request_id, f"{scope['method']} {scope['path']}")
        await send_reply(reply, request_id, scope, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        method = scope["method"]
        handler = self.handlers.get(method)
        if handler is None:
            return errors.method_not_allowed(method, self._allow)
        body = await read_body(scope, receive, self._limits.body_bytes) if method in ("POST", "PUT") else b""
        return await handler(Call(scope, body, self._limits))


def next_request_id() -> str:
    """A request id in OpenStack's form, unique over processes; also the id of a 500 in the log."""
    digits = f"{_PROCESS}{next(_NUMBERS):012x}"
    return f"req-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"


async def send_reply(reply: Reply, request_id: str, scope: Scope, send: Send) -> None:
    """Writes a reply; a HEAD gets the headers of the GET."""
    headers = [
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-openstack-request-id", request_id.encode("ascii")),
        *reply.headers,
    ]
    if reply.body:
        headers.append((b"content-type", reply.content_type))
    elif reply.status == 204:
        headers = headers[1:]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})


class Disconnected(Exception):
    """The client left before its body was whole."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge, Disconnected."""
    for key, value in scope["headers"]:
        if key == b"content-length" and value.isdigit() and int(value) > limit:
            raise BodyTooLarge(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(limit)
        return body
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
