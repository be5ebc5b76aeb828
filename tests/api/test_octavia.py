"""openstacksdk's load balancing, unmodified, against a real server on loopback."""

from typing import Any
from uuid import uuid4

import openstack as sdk
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::Warning:openstack", "ignore::Warning:keystoneauth1")


def test_openstacksdk(server: str) -> None:
    """The SDK's proxy: made, found by name, waited for, deleted."""
    name = f"sdk-{uuid4()}"
    url = f"{server}/v2.0"
    endpoints: dict[str, Any] = {"network_endpoint_override": url, "load_balancer_endpoint_override": url}
    with sdk.connect(auth_type="none", endpoint=server, **endpoints) as cloud:
        network = cloud.network.create_network(name=name)
        subnet = cloud.network.create_subnet(network_id=network.id, cidr="10.6.0.0/24", ip_version=4)
        proxy = cloud.load_balancer
        made = proxy.create_load_balancer(name=name, vip_subnet_id=subnet.id)
        balancer = proxy.wait_for_load_balancer(made.id)
        assert balancer is not None
        listener = proxy.create_listener(name=name, load_balancer_id=balancer.id, protocol="UDP", protocol_port=53)
        pool = proxy.create_pool(name=name, listener_id=listener.id, protocol="UDP", lb_algorithm="SOURCE_IP")
        member = proxy.create_member(pool, address="10.6.0.7", protocol_port=53, name=name)
        assert member.id == proxy.find_member(name, pool, ignore_missing=False).id
        assert balancer.id == proxy.find_load_balancer(name, ignore_missing=False).id
        proxy.delete_load_balancer(balancer, cascade=True)
        assert proxy.find_load_balancer(name) is None
        assert [] == list(proxy.pools(name=name))
