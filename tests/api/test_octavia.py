"""python-octaviaclient's `openstack loadbalancer` and openstacksdk, unmodified, against a real server on loopback."""

from uuid import uuid4

import openstack as sdk
import pytest
from tests.api.test_cli import openstack

pytestmark = pytest.mark.filterwarnings("ignore::Warning:openstack", "ignore::Warning:keystoneauth1")
AS_JSON = ("-f", "json")


def loadbalancer(server: str, *words: str) -> dict[str, object]:
    """`openstack loadbalancer ...`, as JSON."""
    found = openstack(server, "loadbalancer", *words, *AS_JSON)
    assert isinstance(found, dict)
    return found


def test_the_openstack_command(server: str) -> None:
    """Everything is made, listed, changed and deleted by the command, by names."""
    openstack(server, "network", "create", "lb-net", *AS_JSON)
    openstack(server, "subnet", "create", "lb-sub", "--network", "lb-net", "--subnet-range", "10.7.0.0/24", *AS_JSON)
    subnet = openstack(server, "subnet", "show", "lb-sub", *AS_JSON)["id"]
    made = loadbalancer(server, "create", "--name", "cli-lb", "--vip-subnet-id", subnet, "--wait")
    assert ("ACTIVE", "10.7.0.2") == (made["provisioning_status"], made["vip_address"])
    words = ("--name", "cli-web", "--protocol", "TCP", "--protocol-port", "80", "cli-lb")
    listener = loadbalancer(server, "listener", "create", *words)
    words = ("--name", "cli-pool", "--listener", "cli-web", "--protocol", "TCP", "--lb-algorithm", "ROUND_ROBIN")
    pool = loadbalancer(server, "pool", "create", *words, "--session-persistence", "type=SOURCE_IP")
    assert [{"id": listener["id"]}] == pool["listeners"]
    words = ("--name", "cli-one", "--address", "10.7.0.9", "--protocol-port", "8080", "--weight", "3", "cli-pool")
    member = loadbalancer(server, "member", "create", *words)
    assert ("NO_MONITOR", 3) == (member["operating_status"], member["weight"])
    words = ("--delay", "5", "--timeout", "2", "--max-retries", "2", "--type", "TCP", "--name", "cli-hm", "cli-pool")
    monitor = loadbalancer(server, "healthmonitor", "create", *words)
    assert monitor["id"] == loadbalancer(server, "pool", "show", "cli-pool")["healthmonitor_id"]
    openstack(server, "loadbalancer", "member", "set", "cli-pool", "cli-one", "--weight", "0")
    assert "DRAINING" == loadbalancer(server, "member", "show", "cli-pool", "cli-one")["operating_status"]
    listed = openstack(server, "loadbalancer", "list", "--name", "cli-lb", *AS_JSON)
    assert [made["id"]] == [row["id"] for row in listed]
    tree = openstack(server, "loadbalancer", "status", "show", "cli-lb")
    assert "cli-web" in str(tree)
    openstack(server, "loadbalancer", "delete", "cli-lb", "--cascade")
    assert [] == openstack(server, "loadbalancer", "list", *AS_JSON)


def test_openstacksdk(server: str) -> None:
    """The SDK's proxy: made, found by name, waited for, deleted."""
    name = f"sdk-{uuid4()}"
    endpoints = {"network_endpoint_override": f"{server}/v2.0", "load_balancer_endpoint_override": f"{server}/v2.0"}
    with sdk.connect(auth_type="none", endpoint=server, **endpoints) as cloud:
        network = cloud.network.create_network(name=name)
        subnet = cloud.network.create_subnet(network_id=network.id, cidr="10.6.0.0/24", ip_version=4)
        proxy = cloud.load_balancer
        balancer = proxy.create_load_balancer(name=name, vip_subnet_id=subnet.id)
        balancer = proxy.wait_for_load_balancer(balancer.id)
        listener = proxy.create_listener(name=name, load_balancer_id=balancer.id, protocol="UDP", protocol_port=53)
        pool = proxy.create_pool(name=name, listener_id=listener.id, protocol="UDP", lb_algorithm="SOURCE_IP")
        member = proxy.create_member(pool, address="10.6.0.7", protocol_port=53, name=name)
        assert member.id == proxy.find_member(name, pool).id
        assert balancer.id == proxy.find_load_balancer(name).id
        proxy.delete_load_balancer(balancer, cascade=True)
        assert proxy.find_load_balancer(name) is None
        assert [] == list(proxy.pools(name=name))
