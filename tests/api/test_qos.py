"""Quality of service over REST: Neutron's policies and rules, and who has them."""

from typing import Any

import httpx
import pytest
from tests.api.rest import error, make, make_vpc
from tests.api.test_floating_ips import outside

POLICIES = "/v2.0/qos/policies"
NOBODY = "00000000-0000-4000-8000-000000000000"


async def make_policy(client: httpx.AsyncClient, name: str = "p", **rest: Any) -> dict[str, Any]:
    """POSTs a policy."""
    response = await client.post(POLICIES, json={"policy": {"name": name, **rest}})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()["policy"]
    return made


async def make_rule(client: httpx.AsyncClient, policy: str, one: str, **body: Any) -> dict[str, Any]:
    """POSTs a rule of a policy."""
    response = await client.post(f"{POLICIES}/{policy}/{one}s", json={one: body})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()[one]
    return made


async def test_a_policy_and_its_rules(client: httpx.AsyncClient) -> None:
    """They are made, listed, shown, changed, deleted; the policy shows its rules, and its revision grows with them."""
    policy = await make_policy(client, "gold", description="d", shared=True)
    assert ("gold", True, False, []) == (policy["name"], policy["shared"], policy["is_default"], policy["rules"])
    rule = await make_rule(client, policy["id"], "bandwidth_limit_rule", max_kbps="1000", max_burst_kbps=100)
    assert (1000, 100, "egress") == (rule["max_kbps"], rule["max_burst_kbps"], rule["direction"])
    other = await make_rule(client, policy["id"], "bandwidth_limit_rule", max_kbps=5, direction="ingress")
    mark = await make_rule(client, policy["id"], "dscp_marking_rule", dscp_mark=46)
    where = f"{POLICIES}/{policy['id']}"
    shown = (await client.get(where)).json()["policy"]
    assert [rule, other, mark] == shown["rules"]
    assert shown["revision_number"] > policy["revision_number"]
    listed = (await client.get(f"{where}/bandwidth_limit_rules?direction=ingress")).json()
    assert {"bandwidth_limit_rules": [other]} == listed
    assert [mark] == (await client.get(f"{where}/dscp_marking_rules")).json()["dscp_marking_rules"]
    changed = await client.put(
        f"{where}/bandwidth_limit_rules/{rule['id']}", json={"bandwidth_limit_rule": {"max_kbps": 2000}}
    )
    assert {**rule, "max_kbps": 2000} == changed.json()["bandwidth_limit_rule"]
    assert 204 == (await client.delete(f"{where}/dscp_marking_rules/{mark['id']}")).status_code
    assert (404, "QosRuleNotFound") == error(await client.get(f"{where}/dscp_marking_rules/{mark['id']}"))[:2]
    renamed = (await client.put(where, json={"policy": {"name": "silver"}})).json()["policy"]
    assert ("silver", 2) == (renamed["name"], len(renamed["rules"]))
    assert [renamed] == (await client.get(f"{POLICIES}?name=silver")).json()["policies"]
    assert 204 == (await client.delete(where)).status_code
    assert (404, "QosPolicyNotFound") == error(await client.get(where))[:2]
    assert (404, "QosRuleNotFound") == error(await client.get(f"/v2.0/qos/alias-bandwidth-limit-rules/{rule['id']}"))[
        :2
    ]


async def test_rules_by_their_id_alone(client: httpx.AsyncClient) -> None:
    """Neutron's alias API: a rule is shown, changed, deleted without its policy; one of another kind is not there."""
    policy = await make_policy(client)
    rule = await make_rule(client, policy["id"], "bandwidth_limit_rule", max_kbps=1000)
    alias = f"/v2.0/qos/alias-bandwidth-limit-rules/{rule['id']}"
    assert {"alias_bandwidth_limit_rule": rule} == (await client.get(alias)).json()
    change = {"alias_bandwidth_limit_rule": {"max_kbps": 7, "direction": "ingress"}}
    changed = (await client.put(alias, json=change)).json()["alias_bandwidth_limit_rule"]
    assert {**rule, "max_kbps": 7, "direction": "ingress"} == changed
    wrong = f"/v2.0/qos/alias-dscp-marking-rules/{rule['id']}"
    assert (404, "QosRuleNotFound") == error(await client.delete(wrong))[:2]
    assert 204 == (await client.delete(alias)).status_code
    assert 404 == (await client.get(alias)).status_code


@pytest.mark.parametrize(
    ("one", "body", "answer"),
    [
        ("bandwidth_limit_rule", {"max_kbps": 0}, (400, "HTTPBadRequest", "max_kbps")),
        ("bandwidth_limit_rule", {"max_kbps": "0"}, (400, "InvalidInput", "max_kbps")),
        ("bandwidth_limit_rule", {"max_kbps": 2**31}, (400, "HTTPBadRequest", "max_kbps")),
        ("bandwidth_limit_rule", {}, (400, "HTTPBadRequest", "max_kbps")),
        ("bandwidth_limit_rule", {"max_kbps": 1, "direction": "up"}, (400, "HTTPBadRequest", "direction")),
        ("bandwidth_limit_rule", {"max_kbps": 1, "min_kbps": 1}, (400, "HTTPBadRequest", "min_kbps")),
        ("bandwidth_limit_rule", {"max_kbps": 1}, (409, "QoSRulesConflict", "already exists")),
        ("dscp_marking_rule", {"dscp_mark": 1}, (400, "InvalidInput", "dscp_mark 1")),
        ("dscp_marking_rule", {"dscp_mark": 64}, (400, "HTTPBadRequest", "dscp_mark")),
        ("minimum_bandwidth_rule", {"min_kbps": 1}, (409, "QosRuleNotSupported", "minimum_bandwidth")),
        ("minimum_packet_rate_rule", {"min_kpps": 1}, (409, "QosRuleNotSupported", "minimum_packet_rate")),
        ("packet_rate_limit_rule", {"max_kpps": 1}, (409, "QosRuleNotSupported", "packet_rate_limit")),
    ],
)
async def test_what_cannot_be_is_refused(
    client: httpx.AsyncClient, one: str, body: dict[str, Any], answer: tuple[int, str, str]
) -> None:
    """By name, and nothing is left of it."""
    policy = await make_policy(client)
    await make_rule(client, policy["id"], "bandwidth_limit_rule", max_kbps=1000)
    before = (await client.get(f"{POLICIES}/{policy['id']}")).json()
    status, kind, message = error(await client.post(f"{POLICIES}/{policy['id']}/{one}s", json={one: body}))
    assert answer[:2] == (status, kind)
    assert answer[2] in message
    assert before == (await client.get(f"{POLICIES}/{policy['id']}")).json()


async def test_a_change_that_makes_two_of_a_kind_is_refused(client: httpx.AsyncClient) -> None:
    """Turning a limit round onto the other one."""
    policy = await make_policy(client)
    await make_rule(client, policy["id"], "bandwidth_limit_rule", max_kbps=1000)
    other = await make_rule(client, policy["id"], "bandwidth_limit_rule", max_kbps=1000, direction="ingress")
    where = f"{POLICIES}/{policy['id']}/bandwidth_limit_rules/{other['id']}"
    turned = await client.put(where, json={"bandwidth_limit_rule": {"direction": "egress"}})
    assert (409, "QoSRulesConflict") == error(turned)[:2]


async def test_unknown_policies_are_not_found(client: httpx.AsyncClient) -> None:
    """Wherever they are named: in a path, on a port, on a network; what is no id is nobody's."""
    network_id, _ = await make_vpc(client)
    for name in (NOBODY, "gold"):
        for answer in (
            await client.get(f"{POLICIES}/{name}"),
            await client.get(f"{POLICIES}/{name}/dscp_marking_rules"),
            await client.post(f"{POLICIES}/{name}/dscp_marking_rules", json={"dscp_marking_rule": {"dscp_mark": 8}}),
            await client.post("/v2.0/ports", json={"port": {"network_id": network_id, "qos_policy_id": name}}),
            await client.put(f"/v2.0/networks/{network_id}", json={"network": {"qos_policy_id": name}}),
        ):
            assert (404, "QosPolicyNotFound") == error(answer)[:2]
    for path in ("/v2.0/qos", "/v2.0/qos/policies/x/y", "/v2.0/qos/policies/x/y/z", "/v2.0/qos/nothing"):
        assert 404 == (await client.get(path)).status_code


async def test_ports_and_networks_have_policies(client: httpx.AsyncClient) -> None:
    """A policy is given and taken; while somebody has it it stays; ports are found by it."""
    policy = await make_policy(client)
    network_id, _ = await make_vpc(client)
    port = await make(client, "port", network_id=network_id, qos_policy_id=policy["id"])
    plain = await make(client, "port", network_id=network_id)
    assert (policy["id"], None) == (port["qos_policy_id"], plain["qos_policy_id"])
    found = (await client.get(f"/v2.0/ports?qos_policy_id={policy['id']}&fields=id")).json()["ports"]
    assert [{"id": port["id"]}] == found
    deleted = await client.delete(f"{POLICIES}/{policy['id']}")
    assert (409, "QosPolicyInUse") == error(deleted)[:2]
    taken = await client.put(f"/v2.0/ports/{port['id']}", json={"port": {"qos_policy_id": None}})
    assert taken.json()["port"]["qos_policy_id"] is None
    given = await client.put(f"/v2.0/networks/{network_id}", json={"network": {"qos_policy_id": policy["id"]}})
    assert policy["id"] == given.json()["network"]["qos_policy_id"]
    status, kind, message = error(await client.delete(f"{POLICIES}/{policy['id']}"))
    assert (409, "QosPolicyInUse") == (status, kind)
    assert network_id in message
    await client.put(f"/v2.0/networks/{network_id}", json={"network": {"qos_policy_id": None}})
    assert 204 == (await client.delete(f"{POLICIES}/{policy['id']}")).status_code


async def test_floating_ips_have_policies(client: httpx.AsyncClient) -> None:
    """Given when it is made and later, shown, found by it, taken away; while a floating IP has it it stays. Of nobody's
    nothing is made."""
    policy, other = await make_policy(client), await make_policy(client)
    network, _ = await outside(client)
    made = await make(client, "floatingip", floating_network_id=network["id"], qos_policy_id=policy["id"])
    plain = await make(client, "floatingip", floating_network_id=network["id"])
    assert (policy["id"], None) == (made["qos_policy_id"], plain["qos_policy_id"])
    found = (await client.get(f"/v2.0/floatingips?qos_policy_id={policy['id']}&fields=id")).json()["floatingips"]
    assert [{"id": made["id"]}] == found
    where = f"/v2.0/floatingips/{made['id']}"
    status, kind, message = error(await client.delete(f"{POLICIES}/{policy['id']}"))
    assert (409, "QosPolicyInUse") == (status, kind)
    assert made["id"] in message
    for wanted in (other["id"], None):
        changed = await client.put(where, json={"floatingip": {"qos_policy_id": wanted}})
        assert wanted == changed.json()["floatingip"]["qos_policy_id"]
        assert wanted == (await client.get(where)).json()["floatingip"]["qos_policy_id"]
    for one in (policy, other):
        assert 204 == (await client.delete(f"{POLICIES}/{one['id']}")).status_code
    for answer in (
        await client.put(where, json={"floatingip": {"qos_policy_id": policy["id"]}}),
        await client.post(
            "/v2.0/floatingips",
            json={"floatingip": {"floating_network_id": network["id"], "qos_policy_id": policy["id"]}},
        ),
    ):
        assert (404, "QosPolicyNotFound") == error(answer)[:2]
    assert 2 == len((await client.get("/v2.0/floatingips")).json()["floatingips"])
    extensions = (await client.get("/v2.0/extensions")).json()["extensions"]
    assert {"qos-fip", "qos-fip-network-policy"} <= {one["alias"] for one in extensions}


async def test_floating_ips_show_their_networks_policy(client: httpx.AsyncClient) -> None:
    """Beside their own, as it is now, to read only; while the network has it it stays."""
    policy = await make_policy(client)
    network, _ = await outside(client)
    made = await make(client, "floatingip", floating_network_id=network["id"])
    assert (None, None) == (made["qos_policy_id"], made["qos_network_policy_id"])
    where = f"/v2.0/floatingips/{made['id']}"
    for wanted in (policy["id"], None, policy["id"]):
        await client.put(f"/v2.0/networks/{network['id']}", json={"network": {"qos_policy_id": wanted}})
        shown = (await client.get(where)).json()["floatingip"]
        assert (None, wanted) == (shown["qos_policy_id"], shown["qos_network_policy_id"])
        assert made["revision_number"] == shown["revision_number"]
    listed = (await client.get("/v2.0/floatingips?fields=qos_network_policy_id")).json()["floatingips"]
    assert [{"qos_network_policy_id": policy["id"]}] == listed
    own = await make_policy(client, "own")
    changed = (await client.put(where, json={"floatingip": {"qos_policy_id": own["id"]}})).json()["floatingip"]
    assert (own["id"], policy["id"]) == (changed["qos_policy_id"], changed["qos_network_policy_id"])
    for refused in (
        await client.put(where, json={"floatingip": {"qos_network_policy_id": own["id"]}}),
        await client.put(where, json={"floatingip": {"qos_policy_id": network["id"]}}),
    ):
        assert refused.status_code in (400, 404)
    assert (409, "QosPolicyInUse") == error(await client.delete(f"{POLICIES}/{policy['id']}"))[:2]


async def test_a_projects_default_policy(client: httpx.AsyncClient) -> None:
    """New networks of the project have it, unless they name another; there is one at most."""
    own = {"X-Project-Id": "p1"}
    made = await client.post(POLICIES, json={"policy": {"name": "d", "is_default": True}}, headers=own)
    policy = made.json()["policy"]
    second = {"policy": {"name": "e", "is_default": True}}
    assert (409, "QosPolicyDefaultAlreadyExists") == error(await client.post(POLICIES, json=second, headers=own))[:2]
    network = (await client.post("/v2.0/networks", json={"network": {}}, headers=own)).json()["network"]
    assert policy["id"] == network["qos_policy_id"]
    foreign = (await client.post("/v2.0/networks", json={"network": {}})).json()["network"]
    assert foreign["qos_policy_id"] is None
    other = await make_policy(client, "f")
    named = {"network": {"qos_policy_id": other["id"]}}
    chosen = (await client.post("/v2.0/networks", json=named, headers=own)).json()["network"]
    assert other["id"] == chosen["qos_policy_id"]


async def test_the_kinds_of_rules(client: httpx.AsyncClient) -> None:
    """Those that hosts carry out, and what each can say."""
    kinds = (await client.get("/v2.0/qos/rule-types")).json()["rule_types"]
    assert [{"type": "bandwidth_limit"}, {"type": "dscp_marking"}] == kinds
    (driver,) = (await client.get("/v2.0/qos/rule-types/dscp_marking")).json()["rule_type"]["drivers"]
    assert ("alcor", "dscp_mark") == (driver["name"], driver["supported_parameters"][0]["parameter_name"])
    assert 404 == (await client.get("/v2.0/qos/rule-types/minimum_bandwidth")).status_code
