"""The OpenAPI document: committed, complete, and true of the application."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jsonschema_rs
from tests.api.conftest import control_plane

from alcor.api.app import handlers
from alcor.api.context import Context
from alcor.api.openapi import document

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
        served = {path: set(methods) for path, methods in handlers(Context(committer, store, readers)).items()}
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
