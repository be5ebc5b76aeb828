"""The OpenAPI document: committed, complete, and true of the application."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jsonschema_rs
from tests.api.conftest import control_plane
from tests.api.rest import make, make_vpc

from alcor.api import lbaas
from alcor.api.app import handlers
from alcor.api.context import Context
from alcor.api.openapi import document
from alcor.loops.reachability import Reachability

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_committed_document_is_the_codes() -> None:
    """docs/openapi.json is what the code says now."""
    assert document() == json.loads(COMMITTED.read_text()), (
        "the API changed: read the difference, then run `python -m alcor.api.openapi > docs/openapi.json`"
    )


async def test_it_is_served(client: httpx.AsyncClient) -> None:
    """GET /v2.0/openapi.json answers with the same document."""
    assert document() == (await client.get("/v2.0/openapi.json")).json()


def test_every_path_and_method_is_in_it(tmp_path: Path) -> None:
    """What the application serves and what the document says are the same, HEAD and slashes apart."""
    with control_plane(tmp_path) as (committer, store), ThreadPoolExecutor(1) as readers:
        context = Context(committer, store, readers, reachability=Reachability(store))
        served = {path.replace("{parent}", "{member}"): set(some) for path, some in handlers(context).items()}
        balancing = lbaas.patterns(context).items()
        served |= {f"/v2.0/lbaas{path.replace('{}', '{member}')}": set(some) for path, some in balancing}
    described = {
        re.sub(r"\{\w+\}", "{member}", path): {method.upper() for method in item if method != "parameters"}
        for path, item in document()["paths"].items()
    }
    assert served == described


def test_every_schema_is_one(tmp_path: Path) -> None:
    """Each component is valid JSON Schema 2020-12, and every reference leads somewhere."""
    found = document()
    for schema in found["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    references = set(re.findall(r'"#/components/(\w+)/(\w+)"', json.dumps(found)))
    assert references
    for kind, name in references:
        assert name in found["components"][kind]


async def test_what_is_made_keeps_to_its_schema(client: httpx.AsyncClient) -> None:
    """One of each resource, as its POST, its list and its PUT answer, is valid by the schema of its view."""
    found = document()
    network_id, subnet_id = await make_vpc(client)
    node = await make(client, "node", name="h1", local_ip="192.168.0.1")
    port = await make(client, "port", network_id=network_id, **{"binding:host_id": "h1"})
    for one, identifier, view in (
        ("network", network_id, "NetworkView"),
        ("subnet", subnet_id, "SubnetView"),
        ("node", node["id"], "NodeView"),
        ("port", port["id"], "PortView"),
    ):
        schema = {"$ref": f"#/components/schemas/{view}", "components": found["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        shown = (await client.get(f"/v2.0/{one}s/{identifier}")).json()[one]
        listed = (await client.get(f"/v2.0/{one}s")).json()[f"{one}s"]
        change = {"agent_port": 7} if one == "node" else {"name": "n"}
        updated = (await client.put(f"/v2.0/{one}s/{identifier}", json={one: change})).json()[one]
        for answer in (shown, *listed, updated):
            validator.validate(answer)
            assert set(found["components"]["schemas"][view]["properties"]) == answer.keys()
