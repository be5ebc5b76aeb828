"""Port forwardings of floating IPs: what they come to on ports, what needs them, what is refused."""

from typing import Any

import pytest
from tests.services.test_floating_ips import Cloud
from tests.services.world import NOBODY

from alcor.model.addresses import format_ip, parse_ip
from alcor.model.nouns import FloatingIp, Port, PortForwarding, PortStatus
from alcor.services.commands import (
    CreateFloatingIps,
    CreatePortForwardings,
    DeleteFloatingIp,
    DeletePortForwarding,
    DeletePorts,
    FixedIpSpec,
    FloatingIpSpec,
    PortForwardingSpec,
    RemoveRouterInterface,
    UpdateFloatingIp,
    UpdatePort,
    UpdatePortForwarding,
)
from alcor.services.errors import (
    BadRequest,
    ExternalGatewayForFloatingIPNotFound,
    FipInUseByPortForwarding,
    FloatingIPNotFound,
    OverQuota,
    PortForwardingNotFound,
    PortHasBindingFloatingIP,
    PortHasPortForwarding,
    PortNotFound,
    RouterInterfaceInUseByFloatingIP,
)


@pytest.fixture
def cloud() -> Cloud:
    """The router's gateway has the first address outside."""
    return Cloud()


def _spec(cloud: Cloud, **fields: Any) -> PortForwardingSpec:
    plain = {"port_id": cloud.port.id, "protocol": 6, "external_port": 80, "internal_port": 8080}
    return PortForwardingSpec(**{**plain, **fields})


def _forward(cloud: Cloud, fip: FloatingIp, **fields: Any) -> PortForwarding:
    command = CreatePortForwardings(floating_ip_id=fip.id, specs=(_spec(cloud, **fields),))
    made: PortForwarding = cloud.world.do(command)[0]
    return made


def _of(cloud: Cloud, port: Port) -> list[tuple[str, int, int, int]]:
    found = cloud.world.stored(port).forwardings
    return [(format_ip(one.ip), one.protocol, one.port, one.inside_port) for one in found]


def test_they_are_the_ports_until_they_are_deleted(cloud: Cloud) -> None:
    """Each change makes the port BUILD; the floating IP names its router meanwhile."""
    fip = cloud.eip()
    one = _forward(cloud, fip)
    other = _forward(cloud, fip, protocol=17, external_port=53, internal_port=53)
    assert [("203.0.113.3", 6, 80, 8080), ("203.0.113.3", 17, 53, 53)] == _of(cloud, cloud.port)
    assert (PortStatus.BUILD, cloud.router.id) == (cloud.world.stored(cloud.port).status, cloud.now(fip).router_id)
    cloud.world.do(UpdatePortForwarding(id=one.id, floating_ip_id=fip.id, external_port=443))
    assert [("203.0.113.3", 6, 443, 8080), ("203.0.113.3", 17, 53, 53)] == _of(cloud, cloud.port)
    before = cloud.world.revision
    cloud.world.do(UpdatePortForwarding(id=one.id, floating_ip_id=fip.id, external_port=443))
    assert before == cloud.world.revision
    for gone in (one, other):
        cloud.world.do(DeletePortForwarding(id=gone.id, floating_ip_id=fip.id))
    assert ([], None) == (_of(cloud, cloud.port), cloud.now(fip).router_id)
    cloud.world.check()


def test_they_go_with_their_port_and_their_address(cloud: Cloud) -> None:
    """The floating IP is free again."""
    fip = cloud.eip()
    _forward(cloud, fip)
    cloud.world.do(UpdatePort(id=cloud.port.id, fixed_ips=(FixedIpSpec(ip=parse_ip("10.0.0.77")),)))
    assert ([], None) == (_of(cloud, cloud.port), cloud.now(fip).router_id)
    _forward(cloud, fip)
    cloud.world.do(DeletePorts(ids=(cloud.port.id,)))
    assert (None, {}) == (cloud.now(fip).router_id, cloud.world.indexes.port_forwardings)
    cloud.world.check()
    cloud.world.do(DeleteFloatingIp(id=fip.id))
    cloud.world.check()


def test_what_cannot_be_is_refused(cloud: Cloud) -> None:
    """With Neutron's errors; nothing is half-done."""
    fip = cloud.eip()
    other = cloud.world.port(cloud.inner)
    far = cloud.world.network()
    cloud.world.subnet(far, "10.9.0.0/24")
    unreached = cloud.world.port(far)
    _forward(cloud, fip)
    for error, match, fields in (
        (BadRequest, "A duplicate port forwarding entry", {"internal_port": 81}),
        (BadRequest, "A duplicate port forwarding entry", {"external_port": 81}),
        (BadRequest, "lead to one port", {"port_id": other.id, "external_port": 81}),
        (PortNotFound, "could not be found", {"port_id": NOBODY}),
        (BadRequest, "does not have fixed ip", {"external_port": 81, "fixed_ip": parse_ip("10.0.0.9")}),
    ):
        cloud.refused(error, match, CreatePortForwardings(floating_ip_id=fip.id, specs=(_spec(cloud, **fields),)))
    fresh = cloud.eip()
    command = CreatePortForwardings(floating_ip_id=fresh.id, specs=(_spec(cloud, port_id=unreached.id),))
    cloud.refused(ExternalGatewayForFloatingIPNotFound, "is not reachable", command)
    command = CreatePortForwardings(floating_ip_id=fresh.id, specs=(_spec(cloud),))
    cloud.refused(BadRequest, "is forwarded to by another floating IP", command)
    command = CreatePortForwardings(floating_ip_id=NOBODY, specs=(_spec(cloud),))
    cloud.refused(FloatingIPNotFound, "could not be found", command)
    missing = DeletePortForwarding(id=NOBODY, floating_ip_id=fip.id)
    cloud.refused(PortForwardingNotFound, "could not be found", missing)
    many = tuple(_spec(cloud, external_port=100 + n, internal_port=100 + n) for n in range(8))
    cloud.refused(OverQuota, "at most 8", CreatePortForwardings(floating_ip_id=fip.id, specs=many))


def test_an_eip_and_forwardings_do_not_share_an_address(cloud: Cloud) -> None:
    """Neither the one outside nor the one inside."""
    forwarded, bound = cloud.eip(), cloud.eip(port_id=cloud.port.id)
    command = CreatePortForwardings(floating_ip_id=bound.id, specs=(_spec(cloud),))
    cloud.refused(BadRequest, "take it off first", command)
    command = CreatePortForwardings(floating_ip_id=forwarded.id, specs=(_spec(cloud),))
    cloud.refused(PortHasBindingFloatingIP, "already has a binding floating IP", command)
    cloud.world.do(UpdateFloatingIp(id=bound.id, port_id=None))
    _forward(cloud, forwarded)
    cloud.refused(PortHasPortForwarding, "already has a Port", UpdateFloatingIp(id=bound.id, port_id=cloud.port.id))
    spec = FloatingIpSpec(network_id=cloud.outer.id, port_id=cloud.port.id)
    cloud.refused(PortHasPortForwarding, "already has a Port", CreateFloatingIps(specs=(spec,)))
    other = cloud.world.port(cloud.inner)
    cloud.refused(FipInUseByPortForwarding, "in use by", UpdateFloatingIp(id=forwarded.id, port_id=other.id))
    cloud.refused(FipInUseByPortForwarding, "in use by", DeleteFloatingIp(id=forwarded.id))
    interface = RemoveRouterInterface(id=cloud.router.id, subnet_id=cloud.subnet.id)
    cloud.refused(RouterInterfaceInUseByFloatingIP, "required by one", interface)
