"""QoS policies of floating IPs: they go with the port that answers, its network knows them, what uses them stays."""

import pytest
from tests.services.test_floating_ips import Cloud

from alcor.model.ids import Id
from alcor.model.nouns import PortStatus
from alcor.model.qos import QosPolicy
from alcor.services.commands import (
    CreateFloatingIps,
    CreatePortForwardings,
    DeleteFloatingIp,
    DeletePortForwarding,
    FloatingIpSpec,
    PortForwardingSpec,
    UpdateFloatingIp,
)
from alcor.services.errors import QosPolicyInUse, QosPolicyNotFound
from alcor.services.qos_commands import CreateQosPolicies, DeleteQosPolicy, QosPolicySpec

NOBODY = Id(bytes(15) + b"\x77")


@pytest.fixture
def cloud() -> Cloud:
    """Two ports of a network with a way outside."""
    return Cloud()


def make_policy(cloud: Cloud) -> QosPolicy:
    """A policy without rules."""
    made: QosPolicy = cloud.world.do(CreateQosPolicies(specs=(QosPolicySpec(name="p"),)))[0]
    return made


def bound(cloud: Cloud) -> set[Id]:
    """The policies that hosts of the inner network know."""
    return {one.policy_id for one in cloud.world.store.qos_bindings() if one.network_id == cloud.inner.id}


def policies_of(cloud: Cloud) -> list[Id | None]:
    """Those of the port's external addresses."""
    port = cloud.world.stored(cloud.port)
    return [one.qos_policy_id for one in port.eips] + [one.qos_policy_id for one in port.forwardings]


def test_a_policy_goes_with_its_port(cloud: Cloud) -> None:
    """Only a network where it is in use knows it. A changed policy is the port's change: its host must realise it."""
    policy, other = make_policy(cloud), make_policy(cloud)
    fip = cloud.eip(qos_policy_id=policy.id)
    assert set() == bound(cloud)
    cloud.world.do(UpdateFloatingIp(id=fip.id, port_id=cloud.port.id))
    assert ([policy.id], {policy.id}) == (policies_of(cloud), bound(cloud))
    cloud.world.report(cloud.port)
    cloud.world.do(UpdateFloatingIp(id=fip.id, qos_policy_id=other.id))
    assert ([other.id], {policy.id, other.id}) == (policies_of(cloud), bound(cloud))
    assert PortStatus.BUILD is cloud.world.stored(cloud.port).status
    before = cloud.world.revision
    cloud.world.do(UpdateFloatingIp(id=fip.id, qos_policy_id=other.id))
    assert before == cloud.world.revision
    cloud.world.do(UpdateFloatingIp(id=fip.id, qos_policy_id=None))
    assert ([None], None) == (policies_of(cloud), cloud.now(fip).qos_policy_id)
    cloud.world.check()


def test_it_may_change_together_with_the_port(cloud: Cloud) -> None:
    """The port that loses the floating IP has nothing of it, the other has it with the new policy."""
    policy, other = make_policy(cloud), cloud.world.port(cloud.inner, host="h1")
    fip = cloud.eip(port_id=cloud.port.id)
    cloud.world.do(UpdateFloatingIp(id=fip.id, port_id=other.id, qos_policy_id=policy.id))
    assert ([], [policy.id]) == (policies_of(cloud), [one.qos_policy_id for one in cloud.world.stored(other).eips])
    cloud.world.check()


def test_forwardings_have_the_policy_of_their_address(cloud: Cloud) -> None:
    """Those that are there, and new ones; no other floating IP's."""
    policy = make_policy(cloud)
    fip, plain = cloud.eip(), cloud.eip()

    def forward(of: Id, port: int) -> Id:
        spec = PortForwardingSpec(port_id=cloud.port.id, protocol=6, external_port=port, internal_port=port)
        made: Id = cloud.world.do(CreatePortForwardings(floating_ip_id=of, specs=(spec,)))[0].id
        return made

    first = forward(fip.id, 80)
    forward(plain.id, 81)
    cloud.world.do(UpdateFloatingIp(id=fip.id, qos_policy_id=policy.id))
    assert ([policy.id, None], {policy.id}) == (policies_of(cloud), bound(cloud))
    forward(fip.id, 443)
    assert [policy.id, policy.id, None] == policies_of(cloud)
    cloud.world.do(DeletePortForwarding(id=first, floating_ip_id=fip.id))
    cloud.world.do(UpdateFloatingIp(id=fip.id, qos_policy_id=None))
    assert [None, None] == policies_of(cloud)
    cloud.world.check()


def test_a_policy_in_use_stays(cloud: Cloud) -> None:
    """Also of a floating IP that stands for nothing."""
    policy = make_policy(cloud)
    fip = cloud.eip(qos_policy_id=policy.id)
    cloud.refused(QosPolicyInUse, "is used by floating IP", DeleteQosPolicy(id=policy.id))
    cloud.world.do(DeleteFloatingIp(id=fip.id))
    cloud.world.do(DeleteQosPolicy(id=policy.id))
    cloud.world.check()


def test_nobodys_policy_is_refused(cloud: Cloud) -> None:
    """When it is made, and later."""
    fip = cloud.eip()
    spec = FloatingIpSpec(network_id=cloud.outer.id, qos_policy_id=NOBODY)
    cloud.refused(QosPolicyNotFound, "could not be found", CreateFloatingIps(specs=(spec,)))
    cloud.refused(QosPolicyNotFound, "could not be found", UpdateFloatingIp(id=fip.id, qos_policy_id=NOBODY))
