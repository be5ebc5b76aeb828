"""A small client of the REST API over the standard library. Called by scenario, measures and bench.

It speaks what any client would: JSON over HTTP/1.1, one connection kept open. Not thread-safe: one per thread.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from alcor.lab.results import LabError

Resource = dict[str, Any]
"""A resource as the API shows it."""

PAGE = 1000
REQUEST_TIMEOUT_S = 120.0
IDLE_S = 30.0
"""A connection that was idle for longer may be closed at the other end any moment: another is made."""
PATIENCE = 0.01
"""Part of the time gone by that a long wait leaves between two questions."""


class ApiError(LabError):
    """The API answered with an error: status, type and message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the API answered {status}: {text}")
        self.status = status


class Client:
    """The API at 127.0.0.1:`port`."""

    def __init__(self, port: int, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._used_at = time.monotonic()

    def close(self) -> None:
        """Closes the connection. Idempotent."""
        self._connection.close()

    def request(self, method: str, path: str, body: object = None, *, wait_s: int = 0) -> Any:
        """The decoded answer (None when it has no body). Raises ApiError, or LabError when nobody answers.

        `wait_s`: the answer is to wait so long for hosts (RFC 7240's `Prefer: wait`). A GET on a connection that the
        server closed meanwhile is tried again, once; nothing else ever is.
        """
        content = None if body is None else json.dumps(body).encode()
        # http.client sets TCP_NODELAY itself: the body does not wait for the delayed ACK of the headers.
        headers = {"Content-Type": "application/json"} if content is not None else {}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        if time.monotonic() - self._used_at > IDLE_S:
            self._connection.close()
        for attempt in (1, 2):
            try:
                self._connection.request(method, path, content, headers)
                answer = self._connection.getresponse()
                data = answer.read()
                self._used_at = time.monotonic()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt == 2 or method != "GET" or isinstance(error, TimeoutError):
                    raise LabError(f"no answer to {method} {path}: {type(error).__name__} {error}") from error
        if answer.status >= 400:
            raise ApiError(answer.status, data.decode(errors="replace")[:500])
        return json.loads(data) if data else None

    def get(self, path: str, query: Mapping[str, object] | None = None, *, wait_s: int = 0) -> Any:
        """GET with a query."""
        return self.request("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path, wait_s=wait_s)

    def create(self, collection: str, body: Resource, *, wait_s: int = 0) -> Resource:
        """POST of one resource; `collection` is its plural."""
        singular = collection.removesuffix("s")
        answer = self.request("POST", f"/v2.0/{collection}", {singular: body}, wait_s=wait_s)
        created: Resource = answer[singular]
        return created

    def create_many(self, collection: str, bodies: list[Resource], *, wait_s: int = 0) -> list[Resource]:
        """POST of many resources, all or nothing."""
        answer = self.request("POST", f"/v2.0/{collection}", {collection: bodies}, wait_s=wait_s)
        created: list[Resource] = answer[collection]
        return created

    def delete(self, collection: str, identifier: str) -> None:
        """DELETE of one resource."""
        self.request("DELETE", f"/v2.0/{collection}/{identifier}")

    def pages(self, collection: str, **query: object) -> Iterator[Resource]:
        """Every resource that matches, a page of PAGE at a time."""
        marker: dict[str, object] = {}
        while True:
            found = self.get(f"/v2.0/{collection}", {**query, "limit": PAGE, **marker})[collection]
            yield from found
            if len(found) < PAGE:
                return
            marker = {"marker": found[-1]["id"]}


def await_true(ask: Callable[[], bool], what: str, timeout_s: float, poll_s: float, check: Callable[[], None]) -> None:
    """Asks until the answer is yes; `check` may raise in between. Raises LabError after `timeout_s`.

    It waits `poll_s` between questions, later PATIENCE of the time gone by: the answer is late by a hundredth at most,
    and a long wait is not made longer by the questions.
    """
    started = time.monotonic()
    while not ask():
        check()
        elapsed_s = time.monotonic() - started
        if elapsed_s > timeout_s:
            raise LabError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(max(poll_s, PATIENCE * elapsed_s))
