"""HTTP itself: methods, paths, bodies and their limits, If-Match."""

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.api.conftest import BODY_LIMIT
from tests.api.rest import error, make, make_vpc


async def test_a_method_that_a_path_lacks_is_405(client: httpx.AsyncClient) -> None:
    """405 says in Allow what the path has."""
    for method, path, allow in (
        ("PATCH", "/v2.0/ports", "GET, HEAD, POST"),
        ("DELETE", "/v2.0/networks", "GET, HEAD, POST"),
        ("POST", "/v2.0/ports/x", "DELETE, GET, HEAD, PUT"),
        ("POST", "/", "GET, HEAD"),
    ):
        response = await client.request(method, path)
        assert (405, "HTTPMethodNotAllowed") == error(response)[:2]
        assert allow == response.headers["allow"]


async def test_a_path_that_is_nowhere_is_404(client: httpx.AsyncClient) -> None:
    """Unknown paths, deeper paths, and Neutron's old .json suffix."""
    for path in (
        "/v2.0/address-groups",
        "/v3",
        "/v2.0/routers/a/b",
        "/v2.0/ports/a/b",
        "/v2.0/ports.json",
        "/v2.0x",
        "//v2.0/ports",
    ):
        assert (404, "HTTPNotFound") == error(await client.get(path))[:2], path


async def test_a_trailing_slash_is_the_same_path(client: httpx.AsyncClient) -> None:
    """For reading and for writing, without a redirect."""
    assert 200 == (await client.get("/v2.0/networks/")).status_code
    made = await client.post("/v2.0/networks/", json={"network": {}})
    assert 201 == made.status_code
    assert 200 == (await client.get(f"/v2.0/networks/{made.json()['network']['id']}/")).status_code


async def test_head_is_get_without_the_body(server: str) -> None:
    """HEAD has the headers of the GET; checked over the wire, where a stray body would be the next answer."""
    async with httpx.AsyncClient(base_url=server) as client:
        head = await client.head("/v2.0/extensions")
        get = await client.get("/v2.0/extensions")
    assert (200, b"") == (head.status_code, head.content)
    assert len(get.content) == int(head.headers["content-length"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"port": {"network_id": "x"}} x', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"port": {"name": "\xff"}}', "not valid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`"),
        (b"{}", "Unable to find 'port' or 'ports' in request body"),
        (b'{"ports": []}', "Resources required"),
        (b'{"ports": {}}', "ports"),
        (b'{"port": {"network_id": "x"}, "ports": []}', "not both"),
        (b'{"network": {}}', "Unrecognized attribute(s) 'network'"),
        (b'{"port": []}', "port"),
        (b'{"port": ' + b"[" * 100_000, "port"),
        (b'{"port": {"network_id": NaN}}', "not valid JSON"),
    ],
)
async def test_a_body_that_cannot_be_read_is_400(client: httpx.AsyncClient, body: bytes, words: str) -> None:
    """Whatever the content type says, the body is JSON or it is refused with the reason."""
    status, kind, message = error(await client.post("/v2.0/ports", content=body))
    assert (400, "HTTPBadRequest") == (status, kind)
    assert words in message


async def test_a_body_that_is_too_large_is_413(client: httpx.AsyncClient) -> None:
    """By its Content-Length, or by its chunks; the limit is in the message. At the limit it is read."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * (BODY_LIMIT // 10)

    for content in (b" " * (BODY_LIMIT + 1), chunks()):
        status, kind, message = error(await client.post("/v2.0/ports", content=content))
        assert (413, "HTTPRequestEntityTooLarge") == (status, kind)
        assert str(BODY_LIMIT) in message
    assert 400 == (await client.post("/v2.0/ports", content=b" " * BODY_LIMIT)).status_code


async def test_a_body_in_chunks_is_one_body(client: httpx.AsyncClient) -> None:
    """A body that comes in pieces is read whole."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in (b'{"netw', b'ork": {"na', b'me": "x"}}'):
            yield piece

    assert "x" == (await client.post("/v2.0/networks", content=chunks())).json()["network"]["name"]


async def test_if_match_guards_every_change(client: httpx.AsyncClient) -> None:
    """PUT and DELETE of every resource: 412 for another revision, done for the present one."""
    network_id, subnet_id = await make_vpc(client)
    port = await make(client, "port", network_id=network_id)
    node = await make(client, "node", name="h", local_ip="192.168.0.1")
    changes = {"port": {"name": "n"}, "subnet": {"name": "n"}, "network": {"name": "n"}, "node": {"agent_port": 7}}
    ids = {"port": port["id"], "subnet": subnet_id, "network": network_id, "node": node["id"]}
    for one, change in changes.items():
        url = f"/v2.0/{one}s/{ids[one]}"
        revision = (await client.get(url)).json()[one]["revision_number"]
        stale = {"If-Match": f"revision_number={revision - 1}"}
        assert (412, "RevisionNumberConstraintFailed") == error(
            await client.put(url, json={one: change}, headers=stale)
        )[:2]
        present = {"If-Match": f'"revision_number={revision}"'}
        changed = await client.put(url, json={one: change}, headers=present)
        assert 200 == changed.status_code
        assert 412 == (await client.delete(url, headers=present)).status_code
        present = {"If-Match": f"revision_number={changed.json()[one]['revision_number']}"}
        assert 204 == (await client.delete(url, headers=present)).status_code


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("*", 200),
        ("", 200),
        ("revision_number=", 400),
        ("revision_number=x", 400),
        ("revision_number=-1", 400),
        ("revision_number=99999999999999999999999999", 400),
        ("revision_number=1, revision_number=2", 400),
        ('"abc"', 400),
        ("1", 400),
    ],
)
async def test_if_match_is_read_or_refused(client: httpx.AsyncClient, text: str, status: int) -> None:
    """`*` holds for what exists; a tag that is no revision is refused, never ignored."""
    network = await make(client, "network")
    url = f"/v2.0/networks/{network['id']}"
    response = await client.put(url, json={"network": {}}, headers={"If-Match": text})
    assert status == response.status_code
    if status == 400:
        error(response)


async def test_every_answer_has_its_own_request_id(client: httpx.AsyncClient) -> None:
    """x-openstack-request-id is on successes and refusals, and never twice the same."""
    found = [
        (await client.get(path)).headers["x-openstack-request-id"] for path in ("/", "/v2.0/ports", "/nope", "/v2.0/x")
    ]
    assert 4 == len(set(found))
    assert all(text.startswith("req-") and len(text) == 40 for text in found)
