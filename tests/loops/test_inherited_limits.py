"""Limits of floating IPs that come from their external network, from a commit to a programmed host."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.loops.region import Region

from alcor.dataplane.base import EipLimit, RateLimit
from alcor.model.addresses import parse_prefix
from alcor.model.nouns import Direction
from alcor.model.qos import QosRuleKind
from alcor.services.commands import (
    AddRouterInterface,
    CreateFloatingIps,
    CreateNetworks,
    CreatePortForwardings,
    CreateRouters,
    CreateSubnets,
    FloatingIpSpec,
    GatewaySpec,
    NetworkSpec,
    PortForwardingSpec,
    RouterSpec,
    SubnetSpec,
    UpdateFloatingIp,
    UpdateNetwork,
)
from alcor.services.qos_commands import CreateQosPolicies, CreateQosRule, QosPolicySpec, UpdateQosRule


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


async def test_a_networks_limits_are_programmed(region: Region) -> None:
    """For an address of a port and for one of forwardings: given, changed by a rule and by another policy, gone, and
    no port is another for it. An own policy wins. A host that was away, and one whose controller is new, is told."""
    host = await region.add_host("host-a")
    outer = (await region.do(CreateNetworks(specs=(NetworkSpec(external=True),))))[0]
    spec = SubnetSpec(network_id=outer.id, cidr=parse_prefix("203.0.113.0/24"))
    await region.do(CreateSubnets(specs=(spec,)))
    network, subnet = await region.add_vpc()
    router = (await region.do(CreateRouters(specs=(RouterSpec(gateway=GatewaySpec(network_id=outer.id)),))))[0]
    await region.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))
    ports = await region.add_ports(network, ["host-a", "host-a"])
    specs = (FloatingIpSpec(network_id=outer.id, port_id=ports[0].id), FloatingIpSpec(network_id=outer.id))
    fips = await region.do(CreateFloatingIps(specs=specs))
    forward = PortForwardingSpec(port_id=ports[1].id, protocol=6, external_port=80, internal_port=80)
    await region.do(CreatePortForwardings(floating_ip_id=fips[1].id, specs=(forward,)))
    await region.until_active(*ports)
    revisions = [one.revision for one in region.store.get_ports([port.id for port in ports])]

    def limits() -> list[tuple[EipLimit, ...]]:
        return [host.tables.ports[port.id].eip_limits for port in ports]

    async def until(*wanted: int) -> None:
        """Each address has this rate both ways; 0: none."""
        rates = [RateLimit(kbps) if kbps else None for kbps in wanted]
        both = zip(fips, rates, strict=True)
        expected = [(EipLimit(fip.ip, rate, rate),) if rate else () for fip, rate in both]
        await region.until(lambda: limits() == expected)

    async def policy(kbps: int) -> tuple[Any, ...]:
        (made,) = await region.do(CreateQosPolicies(specs=(QosPolicySpec(name="p"),)))
        rules = [
            await region.do(
                CreateQosRule(policy_id=made.id, kind=QosRuleKind.BANDWIDTH_LIMIT, direction=direction, max_kbps=kbps)
            )
            for direction in Direction
        ]
        return made, *rules

    assert [(), ()] == limits()
    first, *rules = await policy(1000)
    second, *_ = await policy(2000)
    await region.do(UpdateNetwork(id=outer.id, qos_policy_id=first.id))
    await until(1000, 1000)
    for rule in rules:
        await region.do(UpdateQosRule(id=rule.id, policy_id=first.id, kind=rule.kind, max_kbps=3000))
    await until(3000, 3000)
    await region.do(UpdateNetwork(id=outer.id, qos_policy_id=second.id))
    await until(2000, 2000)
    assert revisions == [one.revision for one in region.store.get_ports([port.id for port in ports])]
    await region.do(UpdateFloatingIp(id=fips[0].id, qos_policy_id=first.id))
    await until(3000, 2000)
    await host.stop()
    await region.do(UpdateNetwork(id=outer.id, qos_policy_id=None))
    await host.start()
    await until(3000, 0)
    await region.stop()
    await region.start()
    await region.do(UpdateFloatingIp(id=fips[0].id, qos_policy_id=None))
    await until(0, 0)
    await region.do(UpdateNetwork(id=outer.id, qos_policy_id=second.id))
    await until(2000, 2000)
