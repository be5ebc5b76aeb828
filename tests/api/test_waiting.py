"""`Prefer: wait` (RFC 7240): an answer that shows ports waits until their hosts have said how they are."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.rest import make, make_vpc

from alcor.api.app import create_app
from alcor.loops import waiting
from alcor.loops.commit import Committer
from alcor.loops.waiting import PortWaits
from alcor.model.ids import parse_id
from alcor.services.commands import PortReport, RecordPortReports
from alcor.store.base import Changes
from alcor.store.sqlite import SqliteStore

HOST = "h"
LONG = {"Prefer": "wait=30"}


class Region:
    """A control plane whose hosts are this test."""

    def __init__(self, directory: Path) -> None:
        self.store = SqliteStore(directory / "alcor.db")
        self.waits = PortWaits()
        self.committer = Committer(
            self.store, clock=lambda: 1_700_000_000_000, entropy=os.urandom, on_commit=self._committed
        )
        app = create_app(self.committer, self.store, waits=self.waits)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alcor")

    def _committed(self, revision: int, changes: Changes) -> None:
        self.waits.committed(changes)

    async def carry(self, *, error: str = "", count: int = 1) -> None:
        """Once there are so many ports in BUILD, their host's word for each, one commit after the other."""
        async with asyncio.timeout(20):
            while len(ports := (await self.client.get("/v2.0/ports?status=BUILD")).json()["ports"]) < count:
                await asyncio.sleep(0.005)
        for port in ports:
            report = PortReport(parse_id(port["id"]), HOST, port["revision_number"], error)
            await self.committer.submit(RecordPortReports(reports=(report,)))

    async def waiting_for(self, count: int) -> None:
        """Until so many ports are waited for."""
        async with asyncio.timeout(20):
            while len(self.waits._waits) != count:
                await asyncio.sleep(0.005)


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    region.committer.start()
    try:
        async with region.client:
            await make(region.client, "node", name=HOST, local_ip="10.9.0.1")
            yield region
    finally:
        region.committer.close()
        region.store.close()


async def post(region: Region, count: int, headers: dict[str, str] = LONG) -> "asyncio.Task[httpx.Response]":
    """A POST of so many bound ports, under way."""
    network_id, _ = await make_vpc(region.client)
    body: dict[str, Any] = {"network_id": network_id, "binding:host_id": HOST}
    content = {"port": body} if count == 1 else {"ports": [body] * count}
    return asyncio.create_task(region.client.post("/v2.0/ports", json=content, headers=headers))


async def test_a_port_is_answered_when_its_host_carries_it(region: Region) -> None:
    """201 with the port ACTIVE, and the header that says that it waited; nothing is waited for any more."""
    answer = await post(region, 1)
    await region.carry()
    response = await answer
    assert (201, "wait=30") == (response.status_code, response.headers["preference-applied"])
    assert "ACTIVE" == response.json()["port"]["status"]
    await region.waiting_for(0)


async def test_a_bulk_is_answered_when_the_last_is_carried(region: Region) -> None:
    """In the order of the request, each as its host says."""
    answer = await post(region, 20)
    await region.carry(count=20)
    ports = (await answer).json()["ports"]
    assert ["ACTIVE"] * 20 == [port["status"] for port in ports]
    assert len({port["id"] for port in ports}) == 20
    await region.waiting_for(0)


async def test_a_host_that_refuses_is_an_answer_too(region: Region) -> None:
    """ERROR, with the reason."""
    answer = await post(region, 1)
    await region.carry(error="no such namespace")
    port = (await answer).json()["port"]
    assert ("ERROR", "no such namespace") == (port["status"], port["binding:vif_details"]["error"])


async def test_patience_ends(region: Region) -> None:
    """The port is made all the same: it is shown in BUILD when the time is over, and may be waited for again."""
    response = await (await post(region, 1, {"Prefer": "wait=1"}))
    port = response.json()["port"]
    assert (201, "BUILD", "wait=1") == (
        response.status_code,
        port["status"],
        response.headers["preference-applied"],
    )
    again = asyncio.create_task(region.client.get(f"/v2.0/ports/{port['id']}", headers=LONG))
    await region.waiting_for(1)
    await region.carry()
    assert "ACTIVE" == (await again).json()["port"]["status"]


async def test_a_change_is_waited_for(region: Region) -> None:
    """A PUT that has the host do something is answered when it is done; one that does not, at once."""
    answer = await post(region, 1)
    await region.carry()
    port = (await answer).json()["port"]
    path = f"/v2.0/ports/{port['id']}"
    change = asyncio.create_task(region.client.put(path, json={"port": {"admin_state_up": False}}, headers=LONG))
    await region.carry()
    assert "DOWN" == (await change).json()["port"]["status"]
    unbound = await region.client.put(path, json={"port": {"binding:host_id": ""}}, headers=LONG)
    assert ("DOWN", "wait=30") == (unbound.json()["port"]["status"], unbound.headers["preference-applied"])


async def test_a_list_is_answered_when_its_page_is_carried(region: Region) -> None:
    """What was in BUILD when it was asked has left it, and the list is as it then is; ports beyond the page wait."""
    await (await post(region, 3, {}))
    query = "/v2.0/ports?status=BUILD&fields=id"
    whole = asyncio.create_task(region.client.get(query, headers=LONG))
    page = asyncio.create_task(region.client.get("/v2.0/ports?fields=status&limit=2", headers=LONG))
    await region.waiting_for(3)
    await region.carry(count=3)
    assert ("wait=30", []) == ((await whole).headers["preference-applied"], (await whole).json()["ports"])
    assert [{"status": "ACTIVE"}] * 2 == (await page).json()["ports"]
    nothing = await region.client.get(query, headers=LONG)
    assert ("wait=30", []) == (nothing.headers["preference-applied"], nothing.json()["ports"])


async def test_what_goes_meanwhile_ends_the_wait(region: Region) -> None:
    """A POST shows its port as it was made; a GET finds nothing; a port that is unbound is no more waited for."""
    answer = await post(region, 1)
    await region.waiting_for(1)
    (port,) = (await region.client.get("/v2.0/ports")).json()["ports"]
    path = f"/v2.0/ports/{port['id']}"
    look = asyncio.create_task(region.client.get(path, headers=LONG))
    await asyncio.sleep(0.02)
    assert 204 == (await region.client.delete(path)).status_code
    assert "BUILD" == (await answer).json()["port"]["status"]
    assert 404 == (await look).status_code
    answer = await post(region, 1)
    await region.waiting_for(1)
    (port,) = (await region.client.get("/v2.0/ports")).json()["ports"]
    await region.client.put(f"/v2.0/ports/{port['id']}", json={"port": {"binding:host_id": ""}})
    assert "DOWN" == (await answer).json()["port"]["status"]


@pytest.mark.parametrize(
    "said",
    ["", "wait", "wait=", "wait=x", "wait=-1", "wait=0", "respond-async", "await=5", "wait=1.5", 'wait="'],
)
async def test_what_is_not_understood_is_ignored(region: Region, said: str) -> None:
    """As RFC 7240 has it: the answer comes at once, and does not say that it waited."""
    response = await (await post(region, 1, {"Prefer": said}))
    assert (201, "BUILD") == (response.status_code, response.json()["port"]["status"])
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize(
    ("said", "applied"),
    [("wait=7", "7"), ('respond-async, WAIT = "7"; x=y', "7"), ("wait=7, return=minimal", "7"), ("wait=86400", "60")],
)
async def test_the_ways_to_say_it(region: Region, said: str, applied: str) -> None:
    """Among other preferences, quoted, with parameters; no longer than a minute."""
    answer = await post(region, 1, {"Prefer": said})
    await region.carry()
    assert f"wait={applied}" == (await answer).headers["preference-applied"]


async def test_a_word_during_the_read_is_not_missed(region: Region) -> None:
    """The ports are read before a commit and told of before the read ends: they are read again, and nobody waits."""
    answer = await post(region, 2, {})
    ids = [parse_id(port["id"]) for port in (await answer).json()["ports"]]
    reads = 0

    async def read() -> Any:
        nonlocal reads
        reads += 1
        found = region.store.get_ports(ids)
        if reads == 1:
            await region.carry(count=2)
            await asyncio.sleep(0.05)
        return found

    async with asyncio.timeout(10):
        ports = await region.waits.until_built(ids, read, 30)
    assert (2, ["ACTIVE"] * 2) == (reads, [port.status for port in ports])


async def test_too_much_is_not_waited_for(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound an answer comes at once; what was waited for still is."""
    monkeypatch.setattr(waiting, "MAX_WAITED_FOR", 2)
    first = await post(region, 2)
    await region.waiting_for(2)
    same = await region.client.get("/v2.0/ports", headers=LONG)  # of the same ports: they count for each caller
    assert ["BUILD"] * 2 == [port["status"] for port in same.json()["ports"]]
    third = await (await post(region, 1))
    assert "BUILD" == third.json()["port"]["status"]
    await region.carry(count=3)
    assert ["ACTIVE"] * 2 == [port["status"] for port in (await first).json()["ports"]]


async def test_a_server_that_stops_answers_who_waits(region: Region) -> None:
    """With the port as it is; and whoever would wait then does not."""
    answer = await post(region, 1)
    await region.waiting_for(1)
    region.waits.close()
    response = await answer
    assert (201, "BUILD") == (response.status_code, response.json()["port"]["status"])
    look = await region.client.get(f"/v2.0/ports/{response.json()['port']['id']}", headers=LONG)
    assert "BUILD" == look.json()["port"]["status"]


async def test_who_leaves_is_forgotten(region: Region) -> None:
    """A caller that gives up leaves nothing behind, and the others go on."""
    answer = await post(region, 1)
    await region.waiting_for(1)
    (port,) = (await region.client.get("/v2.0/ports")).json()["ports"]
    other = asyncio.create_task(region.client.get(f"/v2.0/ports/{port['id']}", headers=LONG))
    await asyncio.sleep(0.02)
    answer.cancel()
    await asyncio.sleep(0.02)
    assert [1] == [len(waits) for waits in region.waits._waits.values()]
    await region.carry()
    assert "ACTIVE" == (await other).json()["port"]["status"]
