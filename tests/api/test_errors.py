"""What went wrong below becomes HTTP: busy, stopped, broken."""

import logging
from pathlib import Path

import httpx
import pytest
from tests.api.conftest import control_plane
from tests.api.rest import error

from alcor.api.app import create_app
from alcor.services.commands import Command
from alcor.services.errors import ControlPlaneBusy
from alcor.store.base import StoreError


class Refusing:
    """A control plane that answers every command with one error."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    async def submit(self, command: Command) -> object:
        raise self._failure


async def answer_to(failure: Exception, directory: Path) -> httpx.Response:
    """What a client gets when a command ends with that failure."""
    with control_plane(directory) as (_, store):
        transport = httpx.ASGITransport(create_app(Refusing(failure), store))
        async with httpx.AsyncClient(transport=transport, base_url="http://alcor") as client:
            return await client.post("/v2.0/networks", json={"network": {}})


async def test_a_full_queue_asks_to_come_again(tmp_path: Path) -> None:
    """503 with Retry-After, and the words of the control plane."""
    response = await answer_to(ControlPlaneBusy("300000 changes wait already"), tmp_path)
    assert (503, "ControlPlaneBusy", "300000 changes wait already") == error(response)
    assert 0 < int(response.headers["retry-after"])


@pytest.mark.parametrize("failure", [ValueError("secret /path"), StoreError("secret /path: disk full")])
async def test_the_unforeseen_is_500_without_its_text(
    failure: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets an id and no internals; the log has the same id and the traceback."""
    with caplog.at_level(logging.ERROR, "alcor.api.errors"):
        response = await answer_to(failure, tmp_path)
    status, kind, message = error(response)
    assert (500, "HTTPInternalServerError") == (status, kind)
    assert "secret" not in response.text
    (record,) = caplog.records
    assert response.headers["x-openstack-request-id"] in message
    assert response.headers["x-openstack-request-id"] == record.__dict__["request_id"]
    assert record.exc_info is not None and record.exc_info[1] is failure


async def test_a_stopped_control_plane_is_503(tmp_path: Path) -> None:
    """What comes after the writer has stopped is refused, not lost in a queue."""
    with control_plane(tmp_path) as (committer, store):
        transport = httpx.ASGITransport(create_app(committer, store))
        committer.close()
        async with httpx.AsyncClient(transport=transport, base_url="http://alcor") as client:
            refused = await client.post("/v2.0/networks", json={"network": {}})
            assert (503, "ControlPlaneStopped") == error(refused)[:2]


async def test_the_lifespan_ends_the_readers(tmp_path: Path) -> None:
    """After shutdown no reader thread is left to keep the process alive."""
    with control_plane(tmp_path) as (committer, store):
        app = create_app(committer, store)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://alcor") as client:
                assert 200 == (await client.get("/v2.0/ports")).status_code
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alcor") as client:
            assert 500 == (await client.get("/v2.0/ports")).status_code
