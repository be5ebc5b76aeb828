"""The agent's control socket: a Unix socket where tools on the same host ask it things. Wired by roles.

One JSON object per line each way: `{"op": "status"}` is answered by `{"result": ...}` or `{"error": "why"}`. What may
be asked is a table of operations, handed in; the socket is readable and writable by its owner only.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

MAX_LINE_BYTES = 64 * 1024
MAX_CLIENTS = 64

_log = logging.getLogger(__name__)

Arguments: TypeAlias = Mapping[str, object]
Operation: TypeAlias = Callable[[Arguments], Awaitable[object]]


class BadRequest(Exception):
    """The request makes no sense: what is missing or wrong in it."""


async def serve(path: Path, operations: Mapping[str, Operation]) -> None:
    """Serves until cancelled; replaces a socket that a dead agent left, and removes its own. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    clients = asyncio.Semaphore(MAX_CLIENTS)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with clients:
            try:
                await _converse(reader, writer, operations)
            finally:
                writer.close()

    before = os.umask(0o177)  # the socket must not exist with a wider mode, not even for a moment
    try:
        server = await asyncio.start_unix_server(client, path, limit=MAX_LINE_BYTES)
    finally:
        os.umask(before)
    try:
        async with server:
            await server.serve_forever()
    finally:
        path.unlink(missing_ok=True)


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, operations: Mapping[str, Operation]
) -> None:
    with suppress(ConnectionError):
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than the limit: what follows cannot be told apart any more
                writer.write(_encode({"error": f"a request is at most {MAX_LINE_BYTES} bytes"}))
                await writer.drain()
                return
            if not line:
                return
            writer.write(_encode(await _answer(line, operations)))
            await writer.drain()


async def _answer(line: bytes, operations: Mapping[str, Operation]) -> dict[str, object]:
    try:
        request = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError as error:
        return {"error": f"not a JSON object: {error}"}
    operation = operations.get(str(request.get("op")))
    if operation is None:
        return {"error": f"unknown op {request.get('op')!r}; known are: {', '.join(sorted(operations))}"}
    try:
        return {"result": await operation(request)}
    except BadRequest as error:
        return {"error": str(error)}
    except Exception as error:
        _log.exception("control operation %s failed", request.get("op"))
        return {"error": f"{type(error).__name__}: {error}"}


def text(arguments: Arguments, key: str) -> str:
    """The argument as text. Raises BadRequest."""
    value = arguments.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"'{key}' must be a string")
    return value


def number(arguments: Arguments, key: str, default: float, *, most: float) -> float:
    """The argument as a number from 0 to `most`. Raises BadRequest."""
    value = arguments.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise BadRequest(f"'{key}' must be a number from 0 to {most:g}")
    return float(value)


def _encode(answer: dict[str, object]) -> bytes:
    return msgspec.json.encode(answer) + b"\n"
