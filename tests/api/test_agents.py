"""Neutron's agents: nodes, and how they are; what happened to them; the page for Prometheus."""

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.api.rest import error, make

from alcor.api.app import create_app
from alcor.loops.commit import Committer
from alcor.services.health import HealthEvent, HostHealth, Reach
from alcor.store.memory import MemoryStore


class Watched:
    """What a monitor would say."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostHealth] = {}

    def health(self, host: str) -> HostHealth:
        return self.hosts.get(host, HostHealth())

    def events(self) -> list[HealthEvent]:
        return [HealthEvent(at=1_700_000_000_000, host="h1", was="up", now="suspect", detail="nothing heard for 1.5 s")]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
async def client(plane: tuple[Committer, MemoryStore], watched: Watched) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(*plane, health=watched, metrics=lambda: b"alcor_revision 1\n")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alcor") as client:
        yield client


async def test_an_agent_is_a_node_and_its_health(client: httpx.AsyncClient, watched: Watched) -> None:
    """Alive while it was heard lately; a host that its standby serves is up, its agent is not alive."""
    node = await make(client, "node", name="h1", local_ip="192.168.0.1", availability_zone="az1")
    url = f"/v2.0/agents/{node['id']}"
    agent = (await client.get(url)).json()["agent"]
    assert (agent["host"], agent["alive"], agent["heartbeat_timestamp"]) == ("h1", False, None)
    assert (agent["agent_type"], agent["binary"], agent["availability_zone"]) == ("Alcor agent", "alcor-agent", "az1")
    watched.hosts["h1"] = HostHealth(state=Reach.UP, since=5, heard_at=1_700_000_000_000, path="rescue", attempts=2)
    agent = (await client.get(url)).json()["agent"]
    assert (agent["alive"], agent["heartbeat_timestamp"]) == (True, "2023-11-14T22:13:20Z")
    assert (agent["configurations"]["path"], agent["configurations"]["attempts"]) == ("rescue", 2)
    watched.hosts["h1"] = HostHealth(state=Reach.UP, heard_at=1, standby=True)
    agent = (await client.get(url)).json()["agent"]
    assert (agent["alive"], agent["configurations"]["state"], agent["configurations"]["standby"]) == (False, "up", True)


async def test_agents_are_listed_and_filtered(client: httpx.AsyncClient) -> None:
    """By host, zone and type, in pages, with fields, as everything else."""
    for number in range(5):
        await make(client, "node", name=f"h{number}", local_ip=f"192.168.0.{number + 1}")
    assert 5 == len((await client.get("/v2.0/agents")).json()["agents"])
    assert ["h3"] == [one["host"] for one in (await client.get("/v2.0/agents?host=h3")).json()["agents"]]
    assert [] == (await client.get("/v2.0/agents?agent_type=DHCP+agent")).json()["agents"]
    assert 5 == len((await client.get("/v2.0/agents?binary=alcor-agent")).json()["agents"])
    page = (await client.get("/v2.0/agents?limit=2&fields=host")).json()
    assert [{"host"}] * 2 == [set(one) for one in page["agents"]]
    assert (404, "AgentNotFound") == error(await client.get(f"/v2.0/agents/{'0' * 8}-0000-0000-0000-{'0' * 12}"))[:2]


async def test_a_host_is_drained_through_its_agent(client: httpx.AsyncClient) -> None:
    """As Neutron's operators do it."""
    node = await make(client, "node", name="h1", local_ip="192.168.0.1")
    url = f"/v2.0/agents/{node['id']}"
    changed = await client.put(url, json={"agent": {"admin_state_up": False}})
    assert changed.json()["agent"]["admin_state_up"] is False
    assert (await client.get(f"/v2.0/nodes/{node['id']}")).json()["node"]["admin_state_up"] is False
    assert 400 == (await client.put(url, json={"agent": {"host": "other"}})).status_code


async def test_what_happened_lately(client: httpx.AsyncClient) -> None:
    """Alarms, as a list."""
    (event,) = (await client.get("/v2.0/health-events")).json()["health_events"]
    assert (event["host"], event["was"], event["now"], event["at"]) == ("h1", "up", "suspect", "2023-11-14T22:13:20Z")


async def test_the_page_for_prometheus(client: httpx.AsyncClient) -> None:
    """In its own format."""
    page = await client.get("/metrics")
    assert (page.status_code, page.text) == (200, "alcor_revision 1\n")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
