"""Whatever bytes or JSON arrive: an answer in Neutron's shape, never a 500, and nothing half-done."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.conftest import control_plane
from tests.api.rest import error

from alcor.api.app import create_app
from alcor.api.bodies import NetworkCreate, NodeCreate, PortCreate, SubnetCreate

ATTRIBUTES = {
    "network": NetworkCreate.__struct_encode_fields__,
    "subnet": SubnetCreate.__struct_encode_fields__,
    "port": PortCreate.__struct_encode_fields__,
    "node": NodeCreate.__struct_encode_fields__,
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["10.0.0.0/16", "10.0.0.5", "fa:16:3e:00:00:01", "00000000-0000-0000-0000-000000000000", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


Client = tuple[httpx.AsyncClient, asyncio.Runner]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A collection, and a body for it with known and unknown attributes of any type."""
    one = draw(st.sampled_from(sorted(ATTRIBUTES)))
    names = st.sampled_from(ATTRIBUTES[one]) | st.text(max_size=10)
    item = st.dictionaries(names, VALUES, max_size=5)
    envelope = st.fixed_dictionaries({one: item}) | st.fixed_dictionaries({f"{one}s": st.lists(item, max_size=3)})
    return one, draw(envelope | VALUES)


@pytest.fixture(scope="module")
def client() -> Iterator[tuple[httpx.AsyncClient, asyncio.Runner]]:
    """One application for all examples, on a loop of its own."""
    with tempfile.TemporaryDirectory() as directory, control_plane(Path(directory)) as plane:
        transport = httpx.ASGITransport(create_app(*plane))
        with asyncio.Runner() as runner:
            yield httpx.AsyncClient(transport=transport, base_url="http://alcor"), runner


def post(client: Client, one: str, content: bytes) -> httpx.Response:
    """One POST, waited for."""
    return client[1].run(client[0].post(f"/v2.0/{one}s", content=content))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(requests())
def test_any_json_is_made_or_refused(client: Client, request: tuple[str, Any]) -> None:
    """201 with what was asked for, or a refusal below 500 that says why."""
    one, body = request
    response = post(client, one, json.dumps(body).encode())
    if response.status_code == 201:
        made = response.json()
        assert body.keys() == made.keys()
    else:
        status, kind, message = error(response)
        assert 400 <= status < 500, response.text
        assert kind and message


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda raw: b'{"port": {"name": "' + raw + b'"}}'))
def test_any_bytes_are_refused(client: Client, raw: bytes) -> None:
    """What is no JSON, or no port, is 400: a port needs a network."""
    assert 400 == error(post(client, "port", raw))[0]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=4), st.text(max_size=20))
def test_any_question_is_answered(client: Client, query: list[tuple[str, str]], member: str) -> None:
    """Any query string and any member's path: 200 or a refusal below 500."""
    for url in ("/v2.0/ports", f"/v2.0/networks/{quote(member, safe='')}"):
        response = client[1].run(client[0].get(url, params=tuple(query)))
        assert response.status_code == 200 or 400 <= error(response)[0] < 500
