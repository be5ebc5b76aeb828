"""Ports over REST: single and bulk, addresses, binding, status, what is refused."""

import httpx
import pytest
from tests.api.conftest import NOW_TEXT
from tests.api.rest import error, make, make_many, make_vpc

from alcor.loops.commit import Committer
from alcor.model.ids import parse_id
from alcor.services.commands import PortReport, RecordPortReports


async def test_a_created_port_shows_every_attribute(client: httpx.AsyncClient) -> None:
    """POST answers 201 with the whole port, in Neutron's words and Alcor's."""
    network_id, subnet_id = await make_vpc(client)
    port = await make(client, "port", network_id=network_id, name="p", mac_address="FA-16-3E-00-00-01", device_id="d")
    (default,) = (await client.get("/v2.0/security-groups")).json()["security_groups"]
    assert 36 == len(port.pop("id"))
    assert {
        "network_id": network_id,
        "name": "p",
        "description": "",
        "project_id": "",
        "tenant_id": "",
        "mac_address": "fa:16:3e:00:00:01",
        "fixed_ips": [{"subnet_id": subnet_id, "ip_address": "10.0.0.2"}],
        "status": "DOWN",
        "admin_state_up": True,
        "device_id": "d",
        "device_owner": "",
        "binding:host_id": "",
        "binding:vif_type": "unbound",
        "binding:vif_details": {},
        "binding:vnic_type": "normal",
        "binding:profile": {},
        "alcor:kind": "container",
        "alcor:netns": "",
        "alcor:interface": "",
        "alcor:fast_path": False,
        "alcor:provisioning": {
            "path": None,
            "attempts": 0,
            "requested_at": None,
            "realised_at": None,
            "elapsed_ms": None,
        },
        "port_security_enabled": True,
        "security_groups": [default["id"]],
        "allowed_address_pairs": [],
        "extra_dhcp_opts": [],
        "qos_policy_id": None,
        "dns_name": "",
        "dns_assignment": [
            {"ip_address": "10.0.0.2", "hostname": "host-10-0-0-2", "fqdn": "host-10-0-0-2.openstacklocal."}
        ],
        "created_at": NOW_TEXT,
        "updated_at": NOW_TEXT,
        "revision_number": 3,
    } == port


async def test_one_post_makes_a_thousand_ports(client: httpx.AsyncClient) -> None:
    """A bulk of 1,000: one commit, its own order, addresses and MACs all different."""
    network_id, _ = await make_vpc(client)
    ports = await make_many(client, "port", [{"network_id": network_id, "name": f"p{at}"} for at in range(1000)])
    assert [f"p{at}" for at in range(1000)] == [port["name"] for port in ports]
    assert {3} == {port["revision_number"] for port in ports}
    for attribute in ("id", "mac_address"):
        assert 1000 == len({port[attribute] for port in ports})
    assert 1000 == len({port["fixed_ips"][0]["ip_address"] for port in ports})


async def test_a_bulk_of_one_answers_as_a_bulk(client: httpx.AsyncClient) -> None:
    """`ports` in, `ports` out, whatever the number."""
    network_id, _ = await make_vpc(client)
    assert 1 == len(await make_many(client, "port", [{"network_id": network_id}]))


async def test_the_port_that_does_not_fit_undoes_the_bulk(client: httpx.AsyncClient) -> None:
    """The last port finds no address: 409, and none is made."""
    network_id, _ = await make_vpc(client, "10.0.0.0/29")
    body = {"ports": [{"network_id": network_id}] * 6}
    assert (409, "IpAddressGenerationFailure") == error(await client.post("/v2.0/ports", json=body))[:2]
    assert [] == (await client.get("/v2.0/ports")).json()["ports"]
    await make_many(client, "port", body["ports"][:5])


async def test_fixed_ips_by_address_by_subnet_and_none(client: httpx.AsyncClient) -> None:
    """An address, a subnet, both, or no address at all; a second port cannot have the first one's."""
    network_id, subnet_id = await make_vpc(client)
    by_address = await make(client, "port", network_id=network_id, fixed_ips=[{"ip_address": "10.0.0.9"}])
    by_subnet = await make(client, "port", network_id=network_id, fixed_ips=[{"subnet_id": subnet_id}])
    both = [{"subnet_id": subnet_id, "ip_address": "10.0.1.1"}]
    by_both = await make(client, "port", network_id=network_id, fixed_ips=both)
    none = await make(client, "port", network_id=network_id, fixed_ips=[])
    assert ["10.0.0.9", "10.0.0.2", "10.0.1.1"] == [
        port["fixed_ips"][0]["ip_address"] for port in (by_address, by_subnet, by_both)
    ]
    assert [] == none["fixed_ips"]
    taken = await client.post("/v2.0/ports", json={"port": {"network_id": network_id, "fixed_ips": both}})
    assert (409, "IpAddressAlreadyAllocated") == error(taken)[:2]
    assert "10.0.1.1" in error(taken)[2]


async def test_a_bound_port_tells_how_its_host_fares(client: httpx.AsyncClient, committer: Committer) -> None:
    """BUILD until the host has spoken; then ACTIVE with the revision, or ERROR with the reason."""
    await make(client, "node", name="h1", local_ip="192.168.0.1")
    network_id, _ = await make_vpc(client)
    port = await make(client, "port", network_id=network_id, device_owner="compute:nova", **{"binding:host_id": "h1"})

    async def shown() -> tuple[str, str, dict[str, object]]:
        found = (await client.get(f"/v2.0/ports/{port['id']}")).json()["port"]
        return found["status"], found["binding:vif_type"], found["binding:vif_details"]

    async def report(failure: str) -> None:
        report = PortReport(parse_id(port["id"]), "h1", port["revision_number"], failure)
        await committer.submit(RecordPortReports(reports=(report,)))

    assert ("BUILD", "tap", {}) == await shown()
    await report("no such device")
    assert ("ERROR", "binding_failed", {"error": "no such device"}) == await shown()
    await report("")
    assert ("ACTIVE", "tap", {"realised_revision": port["revision_number"]}) == await shown()


async def test_a_port_tells_how_it_was_provisioned(client: httpx.AsyncClient, committer: Committer) -> None:
    """The path and the dials of the host's last word, when it was asked for, when it came, and what lies between."""
    await make(client, "node", name="h1", local_ip="192.168.0.1")
    network_id, _ = await make_vpc(client)
    port = await make(client, "port", network_id=network_id, **{"binding:host_id": "h1", "alcor:fast_path": True})
    assert port["alcor:fast_path"] is True
    nothing = {"path": None, "attempts": 0, "requested_at": None, "realised_at": None, "elapsed_ms": None}
    assert nothing == port["alcor:provisioning"]
    word = PortReport(parse_id(port["id"]), "h1", port["revision_number"], "", "rescue", 3)
    await committer.submit(RecordPortReports(reports=(word,)))
    url = f"/v2.0/ports/{port['id']}"
    found = (await client.get(url)).json()["port"]["alcor:provisioning"]
    assert ("rescue", 3, 0) == (found["path"], found["attempts"], found["elapsed_ms"])
    assert found["requested_at"] == found["realised_at"] == port["created_at"]
    moved = (await client.put(url, json={"port": {"admin_state_up": False, "alcor:fast_path": False}})).json()["port"]
    assert (False, nothing) == (moved["alcor:fast_path"], moved["alcor:provisioning"])


async def test_nova_binds_and_unbinds(client: httpx.AsyncClient) -> None:
    """host_id and an empty profile are taken as Nova sends them; null unbinds."""
    await make(client, "node", name="h1", local_ip="192.168.0.1")
    network_id, _ = await make_vpc(client)
    port = await make(client, "port", network_id=network_id)
    url = f"/v2.0/ports/{port['id']}"
    bind = {"binding:host_id": "h1", "binding:profile": {}, "device_id": "vm", "device_owner": "compute:nova"}
    bound = (await client.put(url, json={"port": bind})).json()["port"]
    assert ("h1", "BUILD") == (bound["binding:host_id"], bound["status"])
    unbind: dict[str, object] = {"binding:host_id": None, "binding:profile": {}, "device_id": "", "device_owner": ""}
    unbound = (await client.put(url, json={"port": unbind})).json()["port"]
    assert ("", "DOWN", "unbound") == tuple(unbound[key] for key in ("binding:host_id", "status", "binding:vif_type"))


async def test_an_update_changes_what_it_names(client: httpx.AsyncClient) -> None:
    """Name, MAC, addresses, kind and interface change; the rest stays."""
    network_id, subnet_id = await make_vpc(client)
    port = await make(client, "port", network_id=network_id, description="kept")
    change = {
        "name": "n",
        "mac_address": "fa:16:3e:aa:bb:cc",
        "fixed_ips": [{"subnet_id": subnet_id, "ip_address": "10.0.7.7"}],
        "admin_state_up": False,
        "alcor:kind": "adopted",
        "alcor:interface": "eth7",
    }
    response = await client.put(f"/v2.0/ports/{port['id']}", json={"port": change})
    assert 200 == response.status_code
    named = {"ip_address": "10.0.7.7", "hostname": "host-10-0-7-7", "fqdn": "host-10-0-7-7.openstacklocal."}
    assert port | change | {"revision_number": 4, "dns_assignment": [named]} == response.json()["port"]


@pytest.mark.parametrize(
    ("attributes", "status", "words"),
    [
        ({"mac_address": "xx"}, 400, "mac_address"),
        ({"mac_address": "01:00:00:00:00:01"}, 400, "mac_address"),
        ({"mac_address": None}, 400, "port.mac_address"),
        ({"fixed_ips": "10.0.0.5"}, 400, "port.fixed_ips"),
        ({"fixed_ips": [{}]}, 400, "fixed_ips[0]"),
        ({"fixed_ips": [{"ip_address": "10.0.0.300"}]}, 400, "fixed_ips[0].ip_address"),
        ({"fixed_ips": [{"ip_address": "11.0.0.1"}]}, 400, "11.0.0.1"),
        ({"fixed_ips": [{"subnet_id": "nope"}]}, 400, "fixed_ips[0].subnet_id"),
        ({"fixed_ips": [{"ip": "10.0.0.5"}]}, 400, "Unrecognized attribute(s) 'ip' in port.fixed_ips[0]"),
        ({"binding:host_id": "nowhere"}, 400, "nowhere"),
        ({"binding:vnic_type": "direct"}, 400, "binding:vnic_type"),
        ({"binding:profile": {"pci_slot": "1"}}, 400, "binding:profile"),
        ({"security_groups": ["00000000-0000-0000-0000-000000000000"]}, 404, "Security group 00000000"),
        ({"security_groups": ["x"]}, 400, "security_groups"),
        ({"allowed_address_pairs": [{"ip_address": "10.0.0.0/33"}]}, 400, "allowed_address_pairs[0].ip_address"),
        ({"allowed_address_pairs": ["x"]}, 400, "allowed_address_pairs"),
        ({"extra_dhcp_opts": ["x"]}, 400, "extra_dhcp_opts"),
        ({"port_security_enabled": 0}, 400, "port_security_enabled"),
        ({"alcor:kind": "vm"}, 400, "alcor:kind"),
        ({"alcor:kind": "adopted"}, 400, "interface"),
        ({"alcor:netns": "relative"}, 400, "netns"),
        ({"alcor:interface": "a-name-too-long-x"}, 400, "alcor:interface"),
        ({"device_id": "x" * 256}, 400, "port.device_id"),
        ({"binding:vif_type": "ovs"}, 400, "Attribute 'binding:vif_type' not allowed in POST"),
        ({"dns_domain": "x."}, 400, "Unrecognized attribute(s) 'dns_domain'"),
        ({"dns_name": "a_b"}, 400, "dns_name"),
        ({"dns_name": "x" * 64}, 400, "dns_name"),
        ({"extra_dhcp_opts": [{"opt_name": "no-such-option", "opt_value": "1"}]}, 400, "extra_dhcp_opts[0]"),
        ({"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "x"}]}, 400, "extra_dhcp_opts[0]"),
        ({"extra_dhcp_opts": [{"opt_name": "54", "opt_value": "10.0.0.9"}]}, 400, "server's own"),
        ({"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1"}] * 2}, 400, "twice"),
        ({"extra_dhcp_opts": [{"opt_name": "23", "opt_value": "10.0.0.9", "ip_version": 6}]}, 400, "IPv6"),
        ({"extra_dhcp_opts": [{"opt_name": str(n), "opt_value": "x" * 200} for n in range(224, 228)]}, 400, "600"),
        ({"admin_state_up": 1}, 400, "port.admin_state_up"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, attributes: dict[str, object], status: int, words: str
) -> None:
    """A value that cannot be, or that Alcor does not honour, is refused and named; nothing is made."""
    network_id, _ = await make_vpc(client)
    response = await client.post("/v2.0/ports", json={"port": {"network_id": network_id, **attributes}})
    assert status == error(response)[0], response.text
    assert words in error(response)[2]
    assert [] == (await client.get("/v2.0/ports")).json()["ports"]


async def test_a_bad_port_of_a_bulk_is_named_by_its_place(client: httpx.AsyncClient) -> None:
    """The message says which of the bulk, whether the type or the value is wrong."""
    network_id, _ = await make_vpc(client)
    good = {"network_id": network_id}
    for bad, words in (({"mac_address": "x"}, "ports[2].mac_address"), ({"name": 5}, "ports[2].name")):
        response = await client.post("/v2.0/ports", json={"ports": [good, good, good | bad]})
        assert words in error(response)[2]


async def test_ids_that_nobody_has(client: httpx.AsyncClient) -> None:
    """An unknown id, or what is no id, is 404 PortNotFound in a path; a bad id in a body is 400."""
    for text in ("00000000-0000-0000-0000-000000000000", "web-1", "%2e%2e"):
        for method in ("GET", "DELETE"):
            assert (404, "PortNotFound") == error(await client.request(method, f"/v2.0/ports/{text}"))[:2]
    assert 400 == error(await client.post("/v2.0/ports", json={"port": {"network_id": "x"}}))[0]
    unknown = {"port": {"network_id": "00000000-0000-0000-0000-000000000000"}}
    assert (404, "NetworkNotFound") == error(await client.post("/v2.0/ports", json=unknown))[:2]


async def test_a_duplicate_mac_is_409(client: httpx.AsyncClient) -> None:
    """A MAC is used once in a network."""
    network_id, _ = await make_vpc(client)
    body = {"port": {"network_id": network_id, "mac_address": "fa:16:3e:00:00:07"}}
    assert 201 == (await client.post("/v2.0/ports", json=body)).status_code
    status, kind, message = error(await client.post("/v2.0/ports", json=body))
    assert (409, "MacAddressInUse") == (status, kind)
    assert "fa:16:3e:00:00:07" in message


async def test_a_bulk_larger_than_a_slice_keeps_its_order(client: httpx.AsyncClient) -> None:
    """Conversion lets other requests in between slices of 2,000, and the answer is still in order."""
    network_id, _ = await make_vpc(client)
    ports = await make_many(client, "port", [{"network_id": network_id, "name": f"p{at}"} for at in range(4500)])
    assert [f"p{at}" for at in range(4500)] == [port["name"] for port in ports]
