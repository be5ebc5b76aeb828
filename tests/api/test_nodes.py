"""Nodes over REST: register one, register many, change, remove."""

import httpx
import pytest
from tests.api.conftest import NOW_TEXT
from tests.api.rest import error, make, make_many, make_vpc


async def test_a_node_is_reached_at_its_tunnel_end_by_default(client: httpx.AsyncClient) -> None:
    """agent_host is local_ip and agent_port 50001 unless the body says otherwise."""
    node = await make(client, "node", name="h1", local_ip="192.168.0.1")
    node_id = node.pop("id")
    expected = {
        "name": "h1",
        "local_ip": "192.168.0.1",
        "agent_host": "192.168.0.1",
        "agent_port": 50001,
        "availability_zone": "",
        "failure_domain": "",
        "admin_state_up": True,
        "created_at": NOW_TEXT,
        "updated_at": NOW_TEXT,
        "revision_number": 1,
    }
    assert expected == node
    assert {"id": node_id, **expected} == (await client.get(f"/v2.0/nodes/{node_id}")).json()["node"]


async def test_nodes_come_in_bulk(client: httpx.AsyncClient) -> None:
    """A bulk registers in its own order, all or none."""
    bodies = [{"name": f"h{at}", "local_ip": f"192.168.0.{at + 1}"} for at in range(100)]
    assert [body["name"] for body in bodies] == [node["name"] for node in await make_many(client, "node", bodies)]
    again = [{"name": "new", "local_ip": "192.168.1.1"}, bodies[5]]
    assert (409, "NodeNameInUse") == error(await client.post("/v2.0/nodes", json={"nodes": again}))[:2]
    assert [] == (await client.get("/v2.0/nodes?name=new")).json()["nodes"]


async def test_a_node_changes_and_goes(client: httpx.AsyncClient) -> None:
    """PUT changes where it is reached; DELETE is refused while ports are bound to it."""
    node = await make(client, "node", name="h1", local_ip="192.168.0.1")
    url = f"/v2.0/nodes/{node['id']}"
    changed = await client.put(url, json={"node": {"agent_host": "h1.example", "agent_port": 50002}})
    assert ("h1.example", 50002, 2) == tuple(
        changed.json()["node"][name] for name in ("agent_host", "agent_port", "revision_number")
    )
    network_id, _ = await make_vpc(client)
    port = await make(client, "port", network_id=network_id, **{"binding:host_id": "h1"})
    assert (409, "NodeInUse") == error(await client.delete(url))[:2]
    await client.delete(f"/v2.0/ports/{port['id']}")
    assert 204 == (await client.delete(url)).status_code
    assert (404, "NodeNotFound") == error(await client.get(url))[:2]


async def test_a_drained_node_keeps_its_ports_and_takes_no_others(client: httpx.AsyncClient) -> None:
    """admin_state_up false: new ports and moves there are refused, what is there stays and may change; then it goes."""
    node = await make(client, "node", name="h1", local_ip="192.168.0.1", availability_zone="az1", failure_domain="r7")
    assert ("az1", "r7", True) == (node["availability_zone"], node["failure_domain"], node["admin_state_up"])
    network_id, _ = await make_vpc(client)
    here = await make(client, "port", network_id=network_id, **{"binding:host_id": "h1"})
    elsewhere = await make(client, "port", network_id=network_id)
    url = f"/v2.0/nodes/{node['id']}"
    assert (await client.put(url, json={"node": {"admin_state_up": False}})).json()["node"]["admin_state_up"] is False
    body = {"port": {"network_id": network_id, "binding:host_id": "h1"}}
    assert (409, "NodeDrained") == error(await client.post("/v2.0/ports", json=body))[:2]
    move = {"port": {"binding:host_id": "h1"}}
    assert (409, "NodeDrained") == error(await client.put(f"/v2.0/ports/{elsewhere['id']}", json=move))[:2]
    assert 200 == (await client.put(f"/v2.0/ports/{here['id']}", json={"port": {"name": "stays"}})).status_code
    assert ["h1"] == [one["name"] for one in (await client.get("/v2.0/nodes?admin_state_up=false")).json()["nodes"]]
    assert [] == (await client.get("/v2.0/nodes?availability_zone=az2")).json()["nodes"]
    await client.delete(f"/v2.0/ports/{here['id']}")
    assert 204 == (await client.delete(url)).status_code


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"local_ip": "1.1.1.1"}, "'name' not specified"),
        ({"name": "", "local_ip": "1.1.1.1"}, "node.name"),
        ({"name": "h", "local_ip": "x"}, "local_ip"),
        ({"name": "h", "local_ip": "1.1.1.1", "agent_port": 0}, "node.agent_port"),
        ({"name": "h", "local_ip": "1.1.1.1", "agent_port": 65536}, "node.agent_port"),
        ({"name": "h", "local_ip": "1.1.1.1", "project_id": "p"}, "project_id"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, attributes: dict[str, object], words: str
) -> None:
    """400, and the message names the attribute."""
    status, _, message = error(await client.post("/v2.0/nodes", json={"node": attributes}))
    assert 400 == status
    assert words in message
