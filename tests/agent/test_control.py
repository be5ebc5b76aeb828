"""agent.control: one JSON line each way, and a clear word for every wrong one."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from alcor.agent import control


async def _double(arguments: control.Arguments) -> object:
    return control.number(arguments, "value", 1, most=10) * 2


async def _break(_arguments: control.Arguments) -> object:
    raise RuntimeError("broken on purpose")


@asynccontextmanager
async def _talk(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    serving = asyncio.create_task(control.serve(path, {"double": _double, "break": _break}))
    try:
        async with asyncio.timeout(10):
            while True:
                with suppress(FileNotFoundError, ConnectionRefusedError):
                    reader, writer = await asyncio.open_unix_connection(path)
                    break
                await asyncio.sleep(0)
            yield reader, writer
            writer.close()
            await writer.wait_closed()
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (b'{"op": "double", "value": 4}', {"result": 8.0}),
        (b'{"op": "double", "value": "4"}', {"error": "'value' must be a number from 0 to 10"}),
        (b'{"op": "halve"}', {"error": "unknown op 'halve'; known are: break, double"}),
        (b'{"op": "break"}', {"error": "RuntimeError: broken on purpose"}),
    ],
)
async def test_every_line_is_answered(tmp_path: Path, request_line: bytes, answer: dict[str, object]) -> None:
    """A known operation answers; an unknown one, a wrong argument and a failure say what is wrong."""
    async with _talk(tmp_path / "control.sock") as (reader, writer):
        for _ in range(2):
            writer.write(request_line + b"\n")
            assert answer == msgspec.json.decode(await reader.readline())


async def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    """A line that is no JSON object is an error, and the conversation goes on."""
    async with _talk(tmp_path / "control.sock") as (reader, writer):
        writer.write(b'[1]\n{"op": "double"}\n')
        assert "not a JSON object" in msgspec.json.decode(await reader.readline())["error"]
        assert {"result": 2.0} == msgspec.json.decode(await reader.readline())


async def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    """More than the limit without a newline ends the conversation with the reason."""
    async with _talk(tmp_path / "control.sock") as (reader, writer):
        writer.write(b"x" * (control.MAX_LINE_BYTES * 2))
        assert "at most" in msgspec.json.decode(await reader.readline())["error"]
        assert b"" == await reader.read()


async def test_only_the_owner_may_ask(tmp_path: Path) -> None:
    """The socket's mode shuts everybody else out, and it goes with its server."""
    path = tmp_path / "control.sock"
    async with _talk(path):
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert not path.exists()
