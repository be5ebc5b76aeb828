"""QoS policies of floating IPs: they go with the port that answers, its network knows them, what uses them stays.

Without one of its own a floating IP has what its external network has, whatever that is: its port names that network.
"""

import pytest
from tests.services.test_floating_ips import Cloud

from alcor.goalstate.qos import Policies
from alcor.model.ids import Id
from alcor.model.nouns import FloatingIp, PortStatus
from alcor.model.qos import QosPolicy, QosRuleKind
from alcor.services.commands import (
    CreateFloatingIps,
    CreatePortForwardings,
    DeleteFloatingIp,
    DeleteNetwork,
    DeletePortForwarding,
    FloatingIpSpec,
    PortForwardingSpec,
    UpdateFloatingIp,
    UpdateNetwork,
    UpdatePort,
    UpdateRouter,
)
from alcor.services.errors import QosPolicyInUse, QosPolicyNotFound
from alcor.services.qos_commands import CreateQosPolicies, CreateQosRule, DeleteQosPolicy, QosPolicySpec

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
    """The policies that hosts of the inner network know, beside the external network's."""
    known = {one.policy_id for one in cloud.world.store.qos_bindings() if one.network_id == cloud.inner.id}
    return known - {cloud.outer.id}


def policies_of(cloud: Cloud) -> list[Id | None]:
    """Those of the port's external addresses; None: their external network's."""
    port = cloud.world.stored(cloud.port)
    named = [one.qos_id for one in port.eips] + [one.qos_id for one in port.forwardings]
    return [None if one == cloud.outer.id else one for one in named]


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
    assert ([], [policy.id]) == (policies_of(cloud), [one.qos_id for one in cloud.world.stored(other).eips])
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


def test_a_networks_policy_is_its_floating_ips(cloud: Cloud) -> None:
    """Given, changed and taken away it is in effect for those without one of their own and for their forwardings, and
    no row of theirs changes; an own one wins, and comes and goes by the port."""
    policy, other = make_policy(cloud), make_policy(cloud)
    fip, forwarded = cloud.eip(port_id=cloud.port.id), cloud.eip()
    second = cloud.world.port(cloud.inner, host="h1")
    spec = PortForwardingSpec(port_id=second.id, protocol=6, external_port=80, internal_port=80)
    cloud.world.do(CreatePortForwardings(floating_ip_id=forwarded.id, specs=(spec,)))
    before = [cloud.world.stored(one) for one in (cloud.port, second)]
    assert [cloud.outer.id] * 2 == [
        one.qos_id for port in before for some in (port.eips, port.forwardings) for one in some
    ]
    rows = cloud.now(fip), cloud.now(forwarded)
    for wanted in (policy.id, other.id, None):
        cloud.world.do(UpdateNetwork(id=cloud.outer.id, qos_policy_id=wanted))
        assert wanted == effective(cloud, fip)
    assert before == [cloud.world.stored(one) for one in (cloud.port, second)]
    assert rows == (cloud.now(fip), cloud.now(forwarded))
    cloud.world.do(UpdateNetwork(id=cloud.outer.id, qos_policy_id=policy.id))
    cloud.world.do(UpdateFloatingIp(id=fip.id, qos_policy_id=other.id))
    assert other.id == effective(cloud, fip)
    cloud.world.do(UpdateFloatingIp(id=fip.id, qos_policy_id=None))
    assert policy.id == effective(cloud, fip)
    cloud.world.check()


def effective(cloud: Cloud, fip: FloatingIp) -> Id | None:
    """Whose limits the inner network's hosts give the floating IP of the port: told apart by their rates."""
    store, world = cloud.world.store, cloud.world
    rules = store.qos_rules()
    for number, policy in enumerate(store.qos_policies(), 1):
        if not any(rule.policy_id == policy.id for rule in rules):
            world.do(CreateQosRule(policy_id=policy.id, kind=QosRuleKind.BANDWIDTH_LIMIT, max_kbps=number))
    named = next(one.qos_id for one in world.stored(cloud.port).eips if one.ip == fip.ip)
    view = Policies(store.qos_policies(), store.qos_rules(), store.qos_bindings(), store.networks())
    goal = view.goal(cloud.inner.id, named) if named is not None else None
    assert goal is not None
    if goal.egress is None:
        return None
    return next(rule.policy_id for rule in store.qos_rules() if rule.max_kbps == goal.egress.kbps)


def test_what_an_external_network_has_is_in_use(cloud: Cloud) -> None:
    """Its policy stays while it is there, with floating IPs or without."""
    policy = make_policy(cloud)
    cloud.world.do(UpdateNetwork(id=cloud.outer.id, qos_policy_id=policy.id))
    cloud.eip(port_id=cloud.port.id)
    cloud.refused(QosPolicyInUse, "is used by network", DeleteQosPolicy(id=policy.id))
    cloud.world.do(UpdateNetwork(id=cloud.outer.id, qos_policy_id=None))
    cloud.world.do(DeleteQosPolicy(id=policy.id))
    cloud.world.check()


@pytest.mark.parametrize("how", ["deleted", "inside"])
def test_no_network_knows_one_that_is_not_outside(cloud: Cloud, how: str) -> None:
    """An external network that goes, or comes inside, is forgotten by all others."""
    fip = cloud.eip(port_id=cloud.port.id)
    cloud.world.do(DeleteFloatingIp(id=fip.id))
    assert cloud.outer.id in {one.policy_id for one in cloud.world.store.qos_bindings()}
    cloud.world.do(UpdateRouter(id=cloud.router.id, gateway=None))
    cloud.world.do(
        DeleteNetwork(id=cloud.outer.id) if how == "deleted" else UpdateNetwork(id=cloud.outer.id, external=False)
    )
    assert [] == cloud.world.store.qos_bindings()
    cloud.world.check()


def test_a_network_is_nobodys_policy(cloud: Cloud) -> None:
    """It stands for its policy where no caller can name it."""
    cloud.refused(QosPolicyNotFound, "could not be found", UpdatePort(id=cloud.port.id, qos_policy_id=cloud.outer.id))
    fip = cloud.eip(port_id=cloud.port.id)
    for command in (
        UpdatePort(id=cloud.port.id, qos_policy_id=cloud.outer.id),
        UpdateFloatingIp(id=fip.id, qos_policy_id=cloud.outer.id),
    ):
        cloud.refused(QosPolicyNotFound, "could not be found", command)
