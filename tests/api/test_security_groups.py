"""Security groups over REST: Neutron's shapes, defaults, validation, and what ports do with them."""

import httpx
import pytest
from tests.api.rest import error, make, make_many, make_vpc

ANY = {"protocol": None, "port_range_min": None, "port_range_max": None, "remote_ip_prefix": None}


async def rule(client: httpx.AsyncClient, group: str, **body: object) -> httpx.Response:
    """POST of a rule: TCP in, unless told otherwise."""
    wanted = {"security_group_id": group, "direction": "ingress", "protocol": "tcp", **body}
    return await client.post("/v2.0/security-group-rules", json={"security_group_rule": wanted})


async def test_a_project_has_a_default_group(client: httpx.AsyncClient) -> None:
    """It is there for whoever looks, lets everything out, and in what comes from itself; each project has its own."""
    (group,) = (await client.get("/v2.0/security-groups")).json()["security_groups"]
    assert ("default", "", True, False) == (group["name"], group["project_id"], group["stateful"], group["shared"])
    rules = group["security_group_rules"]
    assert [("egress", "IPv4"), ("egress", "IPv6"), ("ingress", "IPv4"), ("ingress", "IPv6")] == [
        (one["direction"], one["ethertype"]) for one in rules
    ]
    assert [None, None, group["id"], group["id"]] == [one["remote_group_id"] for one in rules]
    assert all(ANY.items() <= one.items() for one in rules)
    other = (await client.get("/v2.0/security-groups?name=default", headers={"X-Project-Id": "p1"})).json()
    assert {"", "p1"} == {one["project_id"] for one in other["security_groups"]}


async def test_a_group_comes_with_rules_that_let_everything_out(client: httpx.AsyncClient) -> None:
    """POST answers 201; the group is shown, listed, changed, and deleted with its rules."""
    group = await make(client, "security_group", name="web", description="front")
    assert [("egress", "IPv4"), ("egress", "IPv6")] == [
        (one["direction"], one["ethertype"]) for one in group["security_group_rules"]
    ]
    path = f"/v2.0/security-groups/{group['id']}"
    assert group == (await client.get(path)).json()["security_group"]
    changed = (await client.put(path, json={"security_group": {"name": "www"}})).json()["security_group"]
    assert "www" == changed["name"]
    assert changed["revision_number"] > group["revision_number"]
    assert 204 == (await client.delete(path)).status_code
    assert (404, "SecurityGroupNotFound") == error(await client.get(path))[:2]
    assert (
        []
        == (await client.get(f"/v2.0/security-group-rules?security_group_id={group['id']}")).json()[
            "security_group_rules"
        ]
    )


async def test_a_rule_comes_and_goes_and_its_group_is_newer(client: httpx.AsyncClient) -> None:
    """A rule is shown as it was given, listed in its group and by itself; each change makes the group newer."""
    group = await make(client, "security_group", name="web")
    made = await rule(client, group["id"], port_range_min=80, port_range_max="443", remote_ip_prefix="10.1.2.3/16")
    assert 201 == made.status_code, made.text
    one = made.json()["security_group_rule"]
    assert ("tcp", 80, 443, "IPv4", "10.1.0.0/16") == tuple(
        one[name] for name in ("protocol", "port_range_min", "port_range_max", "ethertype", "normalized_cidr")
    )
    shown = (await client.get(f"/v2.0/security-groups/{group['id']}")).json()["security_group"]
    assert one in shown["security_group_rules"]
    assert shown["revision_number"] > group["revision_number"]
    path = f"/v2.0/security-group-rules/{one['id']}"
    assert one == (await client.get(path)).json()["security_group_rule"]
    assert 405 == (await client.put(path, json={"security_group_rule": {}})).status_code
    assert 204 == (await client.delete(path)).status_code
    assert (404, "SecurityGroupRuleNotFound") == error(await client.delete(path))[:2]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"port_range_min": 443, "port_range_max": 80}, 400, "SecurityGroupInvalidPortRange"),
        ({"port_range_min": 443}, 400, "SecurityGroupInvalidPortRange"),
        ({"port_range_min": 0, "port_range_max": 80}, 400, "SecurityGroupInvalidPortValue"),
        ({"port_range_min": 80, "port_range_max": 70000}, 400, "SecurityGroupInvalidPortValue"),
        ({"protocol": None, "port_range_min": 80, "port_range_max": 80}, 400, "SecurityGroupProtocolRequiredWithPorts"),
        ({"protocol": "gre", "port_range_min": 1, "port_range_max": 2}, 400, "SecurityGroupInvalidProtocolForPort"),
        ({"protocol": "icmp", "port_range_min": 256}, 400, "SecurityGroupInvalidIcmpValue"),
        ({"protocol": "icmp", "port_range_max": 0}, 400, "SecurityGroupMissingIcmpType"),
        ({"protocol": "icmpv6"}, 400, "SecurityGroupEthertypeConflictWithProtocol"),
        ({"protocol": "nonsense"}, 400, "SecurityGroupRuleInvalidProtocol"),
        ({"protocol": 256}, 400, "SecurityGroupRuleInvalidProtocol"),
        ({"remote_ip_prefix": "2001:db8::/64"}, 400, "SecurityGroupRuleParameterConflict"),
        ({"remote_ip_prefix": "10.0.0.0/33"}, 400, "InvalidInput"),
        ({"remote_group_id": "00000000-0000-0000-0000-000000000000"}, 404, "SecurityGroupNotFound"),
        ({"security_group_id": "00000000-0000-0000-0000-000000000000"}, 404, "SecurityGroupNotFound"),
        ({"direction": "sideways"}, 400, "HTTPBadRequest"),
        ({"ethertype": "IPv5"}, 400, "HTTPBadRequest"),
        ({"remote_address_group_id": "x"}, 400, "HTTPBadRequest"),
    ],
)
async def test_what_no_rule_may_say(client: httpx.AsyncClient, body: dict[str, object], status: int, kind: str) -> None:
    """Neutron's status and type; nothing is made, the group is as it was."""
    group = await make(client, "security_group", name="web")
    answer = await rule(client, group["id"], **body)
    assert (status, kind) == error(answer)[:2], answer.text
    assert group == (await client.get(f"/v2.0/security-groups/{group['id']}")).json()["security_group"]


async def test_a_rule_has_one_remote(client: httpx.AsyncClient) -> None:
    """A prefix or a group, not both."""
    group = await make(client, "security_group", name="web")
    answer = await rule(client, group["id"], remote_group_id=group["id"], remote_ip_prefix="10.0.0.0/8")
    assert (400, "SecurityGroupRemoteGroupAndRemoteIpPrefix") == error(answer)[:2]


async def test_the_same_rule_twice_is_a_conflict(client: httpx.AsyncClient) -> None:
    """Also within a bulk, of which then nothing is made; spelled otherwise it is the same rule."""
    group = await make(client, "security_group", name="web")
    same = {"security_group_id": group["id"], "direction": "ingress", "protocol": "tcp"}
    bulk = await client.post(
        "/v2.0/security-group-rules", json={"security_group_rules": [same, {**same, "protocol": "6"}]}
    )
    assert (409, "SecurityGroupRuleExists") == error(bulk)[:2]
    assert 201 == (await rule(client, group["id"])).status_code
    assert (409, "SecurityGroupRuleExists") == error(await rule(client, group["id"]))[:2]


async def test_groups_in_use_and_defaults_stay(client: httpx.AsyncClient) -> None:
    """A group with a port, and the default group, cannot be deleted; the name is the default group's alone."""
    network_id, _ = await make_vpc(client)
    group = await make(client, "security_group", name="web")
    port = await make(client, "port", network_id=network_id, security_groups=[group["id"]])
    path = f"/v2.0/security-groups/{group['id']}"
    assert (409, "SecurityGroupInUse") == error(await client.delete(path))[:2]
    assert 204 == (await client.delete(f"/v2.0/ports/{port['id']}")).status_code
    assert 204 == (await client.delete(path)).status_code
    (default,) = (await client.get("/v2.0/security-groups?name=default")).json()["security_groups"]
    path = f"/v2.0/security-groups/{default['id']}"
    assert (409, "SecurityGroupCannotRemoveDefault") == error(await client.delete(path))[:2]
    renamed = await client.put(path, json={"security_group": {"name": "mine"}})
    assert (409, "SecurityGroupCannotUpdateDefault") == error(renamed)[:2]
    again = await client.post("/v2.0/security-groups", json={"security_group": {"name": "default"}})
    assert (409, "SecurityGroupDefaultAlreadyExists") == error(again)[:2]


async def test_a_deleted_group_takes_the_rules_that_name_it(client: httpx.AsyncClient) -> None:
    """Rules of other groups with it as remote group go too."""
    web = await make(client, "security_group", name="web")
    db = await make(client, "security_group", name="db")
    made = (await rule(client, db["id"], remote_group_id=web["id"])).json()["security_group_rule"]
    assert 204 == (await client.delete(f"/v2.0/security-groups/{web['id']}")).status_code
    assert 404 == (await client.get(f"/v2.0/security-group-rules/{made['id']}")).status_code


async def test_ports_have_the_groups_that_they_are_given(client: httpx.AsyncClient) -> None:
    """The default one, those named, or none; ports are found by a group; a change is shown and filtered."""
    network_id, _ = await make_vpc(client)
    web = await make(client, "security_group", name="web")
    db = await make(client, "security_group", name="db")
    (default,) = (await client.get("/v2.0/security-groups?name=default")).json()["security_groups"]
    plain, both, none = await make_many(
        client,
        "port",
        [
            {"network_id": network_id},
            {"network_id": network_id, "security_groups": [web["id"], db["id"], web["id"]]},
            {"network_id": network_id, "security_groups": []},
        ],
    )
    assert [default["id"]] == plain["security_groups"]
    assert sorted([web["id"], db["id"]]) == both["security_groups"]
    assert [] == none["security_groups"]
    found = (await client.get(f"/v2.0/ports?security_groups={web['id']}")).json()["ports"]
    assert [both["id"]] == [port["id"] for port in found]
    path = f"/v2.0/ports/{none['id']}"
    changed = (await client.put(path, json={"port": {"security_groups": [web["id"]]}})).json()["port"]
    assert [web["id"]] == changed["security_groups"]
    found = (await client.get(f"/v2.0/ports?security_groups={web['id']}")).json()["ports"]
    assert {both["id"], none["id"]} == {port["id"] for port in found}


async def test_foreign_groups_are_not_found(client: httpx.AsyncClient) -> None:
    """A port, or a rule, of one project cannot use another project's group."""
    network_id, _ = await make_vpc(client)
    foreign = await make(client, "security_group", name="theirs", project_id="p2")
    port = {"port": {"network_id": network_id, "security_groups": [foreign["id"]]}}
    assert (404, "SecurityGroupNotFound") == error(await client.post("/v2.0/ports", json=port))[:2]
    mine = await make(client, "security_group", name="mine")
    answer = await rule(client, mine["id"], remote_group_id=foreign["id"])
    assert (404, "SecurityGroupNotFound") == error(answer)[:2]
    assert (404, "SecurityGroupNotFound") == error(await rule(client, foreign["id"]))[:2]


async def test_port_security_off_means_no_groups(client: httpx.AsyncClient) -> None:
    """Off there are neither groups nor pairs; off and on again gives the default group; `network:` owners are off."""
    network_id, _ = await make_vpc(client)
    open_ = await make(client, "port", network_id=network_id, port_security_enabled=False)
    assert (False, []) == (open_["port_security_enabled"], open_["security_groups"])
    trusted = await make(client, "port", network_id=network_id, device_owner="network:dhcp")
    assert not trusted["port_security_enabled"]
    (default,) = (await client.get("/v2.0/security-groups?name=default")).json()["security_groups"]
    both = {"network_id": network_id, "port_security_enabled": False, "security_groups": [default["id"]]}
    answer = await client.post("/v2.0/ports", json={"port": both})
    assert (400, "PortSecurityAndIPRequiredForSecurityGroups") == error(answer)[:2]
    pairs = {"network_id": network_id, "port_security_enabled": False}
    answer = await client.post(
        "/v2.0/ports", json={"port": pairs | {"allowed_address_pairs": [{"ip_address": "10.0.0.9"}]}}
    )
    assert (409, "AddressPairAndPortSecurityRequired") == error(answer)[:2]
    path = f"/v2.0/ports/{open_['id']}"
    on = (await client.put(path, json={"port": {"port_security_enabled": True}})).json()["port"]
    assert [default["id"]] == on["security_groups"]
    off = await client.put(path, json={"port": {"port_security_enabled": False}})
    assert (409, "PortSecurityPortHasSecurityGroup") == error(off)[:2]
    off = await client.put(path, json={"port": {"port_security_enabled": False, "security_groups": []}})
    assert (200, []) == (off.status_code, off.json()["port"]["security_groups"])


async def test_address_pairs_are_kept(client: httpx.AsyncClient) -> None:
    """An address or a CIDR, with the port's MAC unless another is given; the same twice, or too many, are refused."""
    network_id, _ = await make_vpc(client)
    given = [{"ip_address": "10.0.0.9"}, {"ip_address": "192.0.2.7/24", "mac_address": "fa:16:3e:00:00:99"}]
    port = await make(client, "port", network_id=network_id, allowed_address_pairs=given)
    assert [
        {"ip_address": "10.0.0.9", "mac_address": port["mac_address"]},
        {"ip_address": "192.0.2.0/24", "mac_address": "fa:16:3e:00:00:99"},
    ] == port["allowed_address_pairs"]
    path = f"/v2.0/ports/{port['id']}"
    twice = [{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.9/32"}]
    answer = await client.put(path, json={"port": {"allowed_address_pairs": twice}})
    assert (400, "DuplicateAddressPairInRequest") == error(answer)[:2]
    many = [{"ip_address": f"10.0.9.{at}"} for at in range(11)]
    answer = await client.put(path, json={"port": {"allowed_address_pairs": many}})
    assert (400, "AllowedAddressPairExhausted") == error(answer)[:2]
    gone = (await client.put(path, json={"port": {"allowed_address_pairs": []}})).json()["port"]
    assert [] == gone["allowed_address_pairs"]
