"""What clients ask first."""

import httpx
from tests.api.rest import error


async def test_the_root_names_the_version(client: httpx.AsyncClient) -> None:
    """GET / in Neutron's shape, with the host that the client used."""
    expected = {"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": "http://alcor/v2.0/"}]}
    assert {"versions": [expected]} == (await client.get("/")).json()


async def test_the_version_names_the_resources(client: httpx.AsyncClient) -> None:
    """With and without the slash; every link leads to a list."""
    found = (await client.get("/v2.0")).json()["resources"]
    assert found == (await client.get("/v2.0/")).json()["resources"]
    expected = ["networks", "subnets", "ports", "nodes", "agents", "security-groups", "security-group-rules"]
    expected += ["qos/policies", "qos/rule-types"]
    expected += ["routers", "vpc-peerings", "floatingips"]
    assert expected == [resource["collection"] for resource in found]
    for resource in found:
        assert 200 == (await client.get(resource["links"][0]["href"])).status_code


async def test_extensions_are_listed_and_shown(client: httpx.AsyncClient) -> None:
    """Each of the list is shown by its alias; one that Alcor does not keep is 404."""
    found = (await client.get("/v2.0/extensions")).json()["extensions"]
    for extension in found:
        assert extension == (await client.get(f"/v2.0/extensions/{extension['alias']}")).json()["extension"]
    aliases = {extension["alias"] for extension in found}
    assert {
        "security-group",
        "port-security",
        "allowed-address-pairs",
        "alcor",
        "binding",
        "revision-if-match",
        "pagination",
    } <= aliases
    assert not aliases & {"ext-gw-mode", "quotas"}
    assert (404, "ExtensionNotFound") == error(await client.get("/v2.0/extensions/quotas"))[:2]
