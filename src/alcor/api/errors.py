"""The one map from what went wrong to HTTP, in Neutron's shape. Called by exchange (every handler) and app.

`{"NeutronError": {"type", "message", "detail"}}`: the type is the error's class, the message names the field. What
nobody foresaw is a 500 whose id is in the log; its text stays there.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec

from alcor.services.errors import DomainError

RETRY_AFTER_S = 1
"""What a client is told to wait when the queue of commands is full: a commit takes milliseconds."""

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


Headers = tuple[tuple[bytes, bytes], ...]
"""Names, in lower case, and values."""


class Reply(NamedTuple):
    """What goes back."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    content_type: bytes = b"application/json"


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Neutron's error: `type` is stable and for programs, `message` is for people."""

    type: str
    message: str
    detail: str = ""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error."""

    error: ErrorDetail = msgspec.field(name="NeutronError")


class ApiError(Exception):
    """A request that HTTP itself refuses: its `type` is the name of the HTTP error, as in Neutron."""

    status = 400
    type = "HTTPBadRequest"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(ApiError):
    """Not what the API reads: syntax, types, unknown names."""


class BodyTooLarge(ApiError):
    status = 413
    type = "HTTPRequestEntityTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes. Send several requests.")


class FieldError(Exception):
    """A value that cannot be; the loop over a bulk adds where it stands."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def error_reply(status: int, kind: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """An error in Neutron's shape."""
    return Reply(status, _encode(ErrorBody(error=ErrorDetail(type=kind, message=message))), headers)


def method_not_allowed(method: str, allow: str) -> Reply:
    """405, with what the path does allow."""
    message = f"{method} is not allowed here; allowed are: {allow}."
    return error_reply(405, "HTTPMethodNotAllowed", message, ((b"allow", allow.encode("ascii")),))


def path_not_found(path: str) -> Reply:
    """404 for a path that no resource has."""
    return error_reply(404, "HTTPNotFound", f"There is nothing at '{path}'; /v2.0/openapi.json lists every path.")


def to_reply(error: Exception, request_id: str, what: str) -> Reply:
    """The reply to any failure. `what` (method and path) goes to the log with an unexpected one."""
    if isinstance(error, DomainError):
        retry = ((b"retry-after", b"%d" % RETRY_AFTER_S),) if error.status == 503 else ()
        return error_reply(error.status, type(error).__name__, error.message, retry)
    if isinstance(error, FieldError):
        return error_reply(400, "InvalidInput", f"Invalid input for {error.field}. Reason: {error.reason}.")
    if isinstance(error, ApiError):
        return error_reply(error.status, error.type, error.message)
    _log.error("request failed: %s", what, exc_info=error, extra={"request_id": request_id})
    message = f"Request Failed: internal server error while processing your request. The server's log has {request_id}."
    return error_reply(500, "HTTPInternalServerError", message)
