"""DNS names and DHCP options over REST."""

import httpx
import pytest
from tests.api.rest import error, make


async def test_a_port_is_named_in_its_networks_domain(client: httpx.AsyncClient) -> None:
    """dns_assignment follows the port's dns_name and the network's dns_domain, in lower case; both change by PUT."""
    network = await make(client, "network", cidr="10.0.0.0/16", dns_domain="Tenant.Example.")
    assert network["dns_domain"] == "tenant.example."
    await make(client, "subnet", network_id=network["id"], cidr="10.0.0.0/24")
    port = await make(client, "port", network_id=network["id"], dns_name="Web")
    name = {"ip_address": "10.0.0.2", "hostname": "web", "fqdn": "web.tenant.example."}
    assert ("web", [name]) == (port["dns_name"], port["dns_assignment"])
    url = f"/v2.0/ports/{port['id']}"
    assert [name] == (await client.get(url)).json()["port"]["dns_assignment"]
    assert [name] == (await client.get("/v2.0/ports")).json()["ports"][0]["dns_assignment"]
    body = {"network": {"dns_domain": "other.example."}}
    assert (await client.put(f"/v2.0/networks/{network['id']}", json=body)).status_code == 200
    changed = (await client.put(url, json={"port": {"dns_name": ""}})).json()["port"]
    assert changed["dns_assignment"][0]["fqdn"] == "host-10-0-0-2.other.example."


@pytest.mark.parametrize("domain", ["no.dot.at.the.end", "two..dots.", "-dash.example.", "x" * 64 + ".", "example.1."])
async def test_what_is_no_domain_is_refused(client: httpx.AsyncClient, domain: str) -> None:
    """In Neutron's words: a FQDN, of labels."""
    status, _, message = error(await client.post("/v2.0/networks", json={"network": {"dns_domain": domain}}))
    assert status == 400
    assert "dns_domain" in message


async def test_dhcp_options_are_merged_by_name(client: httpx.AsyncClient) -> None:
    """As in Neutron: PUT sets what it names, null takes away, the rest stays; the same names exist per family."""
    network = await make(client, "network")
    options: list[dict[str, object]] = [
        {"opt_name": "tftp-server", "opt_value": "boot.example"},
        {"opt_name": "bootfile-name", "opt_value": "pxelinux.0"},
        {"opt_name": "dns-server", "opt_value": "2001:db8::1", "ip_version": 6},
    ]
    port = await make(client, "port", network_id=network["id"], extra_dhcp_opts=options)
    shown: list[dict[str, object]] = [{"ip_version": 4, **one} for one in options]
    assert sorted(shown, key=_name) == sorted(port["extra_dhcp_opts"], key=_name)
    change = [{"opt_name": "tftp-server", "opt_value": None}, {"opt_name": "mtu", "opt_value": "1400"}]
    url = f"/v2.0/ports/{port['id']}"
    changed = (await client.put(url, json={"port": {"extra_dhcp_opts": change}})).json()["port"]
    assert {"bootfile-name", "dns-server", "mtu"} == {one["opt_name"] for one in changed["extra_dhcp_opts"]}
    assert changed["revision_number"] > port["revision_number"]
    again = (await client.put(url, json={"port": {"extra_dhcp_opts": change[1:]}})).json()["port"]
    assert again["revision_number"] == changed["revision_number"]


def _name(option: dict[str, object]) -> str:
    return f"{option['opt_name']} {option['ip_version']}"


async def test_a_slaac_subnet_names_its_modes(client: httpx.AsyncClient) -> None:
    """The modes are shown, filtered by, and never changed; a port has the address that its MAC makes."""
    network = await make(client, "network")
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    subnet = await make(client, "subnet", network_id=network["id"], cidr="2001:db8::/64", ip_version=6, **modes)
    assert modes == {name: subnet[name] for name in modes}
    found = (await client.get("/v2.0/subnets?ipv6_ra_mode=slaac")).json()["subnets"]
    assert [subnet["id"]] == [one["id"] for one in found]
    change = await client.put(f"/v2.0/subnets/{subnet['id']}", json={"subnet": {"ipv6_ra_mode": "dhcpv6-stateful"}})
    assert (400, "Attribute 'ipv6_ra_mode' not allowed in PUT") == (error(change)[0], error(change)[2][:43])
    port = await make(client, "port", network_id=network["id"], mac_address="fa:16:3e:00:00:07")
    assert ["2001:db8::f816:3eff:fe00:7"] == [one["ip_address"] for one in port["fixed_ips"]]
    fixed = [{"subnet_id": subnet["id"], "ip_address": "2001:db8::5"}]
    refused = await client.post("/v2.0/ports", json={"port": {"network_id": network["id"], "fixed_ips": fixed}})
    assert (400, "AllocationOnAutoAddressSubnet") == error(refused)[:2]
