"""Short words for the tests of the api: make a resource, read an error. Used by the test files beside it."""

from typing import Any

import httpx


async def make(client: httpx.AsyncClient, one: str, **attributes: Any) -> dict[str, Any]:
    """POSTs one resource and answers with it."""
    response = await client.post(_path(one), json={one: attributes})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()[one]
    return made


async def make_many(client: httpx.AsyncClient, one: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """POSTs a bulk and answers with it."""
    response = await client.post(_path(one), json={f"{one}s": bodies})
    assert response.status_code == 201, response.text
    made: list[dict[str, Any]] = response.json()[f"{one}s"]
    return made


async def make_vpc(client: httpx.AsyncClient, cidr: str = "10.0.0.0/16") -> tuple[str, str]:
    """A VPC and one subnet over all of it; their ids."""
    network = await make(client, "network", name="vpc", cidr=cidr)
    subnet = await make(client, "subnet", network_id=network["id"], cidr=cidr, ip_version=4)
    return network["id"], subnet["id"]


def _path(one: str) -> str:
    return f"/v2.0/{one.replace('_', '-')}s"


def error(response: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message of a refusal, whose shape must be Neutron's."""
    body = response.json()
    assert {"NeutronError"} == body.keys()
    assert {"type", "message", "detail"} == body["NeutronError"].keys()
    assert "" == body["NeutronError"]["detail"]
    return response.status_code, body["NeutronError"]["type"], body["NeutronError"]["message"]
