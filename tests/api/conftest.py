"""A whole control plane under the REST face: SQLite file, commit loop, application. Used by every test of the api."""

import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from alcor.api.app import create_app
from alcor.api.exchange import Limits
from alcor.loops.commit import Committer
from alcor.loops.reachability import Reachability
from alcor.store.base import SCAN_BOUND
from alcor.store.sqlite import SqliteStore

BODY_LIMIT = 1_000_000
NOW_MS = 1_700_000_000_000
NOW_TEXT = "2023-11-14T22:13:20Z"


@contextmanager
def control_plane(directory: Path, *, scan_bound: int = SCAN_BOUND) -> Iterator[tuple[Committer, SqliteStore]]:
    """A store in that directory and a running writer, its clock standing still."""
    store = SqliteStore(directory / "alcor.db", scan_bound=scan_bound)
    committer = Committer(store, clock=lambda: NOW_MS, entropy=os.urandom, max_mtu=8950)
    committer.start()
    try:
        yield committer, store
    finally:
        committer.close()
        store.close()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[tuple[Committer, SqliteStore]]:
    with control_plane(tmp_path) as plane:
        yield plane


@pytest.fixture
def committer(plane: tuple[Committer, SqliteStore]) -> Committer:
    """The writer under `client`, for what comes from below."""
    return plane[0]


@pytest.fixture
def app(plane: tuple[Committer, SqliteStore]) -> Starlette:
    limits = Limits(body_bytes=BODY_LIMIT, page_items=1000)
    return create_app(*plane, limits=limits, reachability=Reachability(plane[1]))


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Requests straight into the application."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alcor") as client,
    ):
        yield client


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server on loopback, at a port that the kernel chose; one for the whole session."""
    with control_plane(tmp_path_factory.mktemp("server")) as (committer, store):
        config = uvicorn.Config(
            create_app(committer, store, reachability=Reachability(store)),
            loop="uvloop",
            http="httptools",
            log_config=None,
            access_log=False,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, name="test-server")
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            deadline = time.monotonic() + 30
            while not running.started:
                assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
                time.sleep(0.01)
            yield address
        finally:
            running.should_exit = True
            thread.join(30)
            listener.close()
