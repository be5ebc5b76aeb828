"""Paths of any depth under one prefix, with errors in their own shape: Octavia's API beside Neutron's. Called by app.

A pattern is `/loadbalancers/{}/status`: what stands at a `{}` is handed over in order, as `scope["path_params"]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from starlette.types import Receive, Scope, Send

from alcor.api.errors import Reply
from alcor.api.exchange import Call, Disconnected, Handler, Limits, next_request_id, read_body, send_reply

Errors = Callable[[Exception, str, str], Reply]


class NoPath(Exception):
    """There is nothing at the path."""


class NoMethod(Exception):
    """The path does not take the method."""


class Tree:
    """An ASGI application of all paths under a prefix."""

    def __init__(self, patterns: Mapping[str, Mapping[str, Handler]], errors: Errors, limits: Limits) -> None:
        """`errors` makes the reply to a failure, given the request's id and what it was."""
        self._patterns = [(tuple(path.strip("/").split("/")), methods) for path, methods in patterns.items()]
        self._errors = errors
        self._limits = limits

    async def answer(self, prefix: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        request_id = next_request_id()
        try:
            handler, places = self._find(scope["path"].removeprefix(prefix), scope["method"])
            scope["path_params"] = {"places": places, "member": places[-1] if places else ""}
            wants_body = scope["method"] in ("POST", "PUT")
            body = await read_body(scope, receive, self._limits.body_bytes) if wants_body else b""
            reply = await handler(Call(scope, body, self._limits))
        except Disconnected:
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:  # The one place where every handler's failure ends.
            reply = self._errors(error, request_id, f"{scope['method']} {scope['path']}")
        await send_reply(reply, request_id, scope, send)

    def _find(self, path: str, method: str) -> tuple[Handler, tuple[str, ...]]:
        steps = tuple(path.strip("/").split("/"))
        for pattern, methods in self._patterns:
            if len(pattern) == len(steps) and all(a in ("{}", b) for a, b in zip(pattern, steps, strict=True)):
                handler = methods.get("GET" if method == "HEAD" else method)
                if handler is None:
                    raise NoMethod(", ".join(sorted(methods)))
                return handler, tuple(b for a, b in zip(pattern, steps, strict=True) if a == "{}")
        raise NoPath(path)
