"""Which host answers for the EIP of a load balancer's address, as hosts and members come and go."""

import asyncio
from time import process_time
from typing import Any

import pytest
from tests.loops.test_reachability_outside import Cloud
from tests.services.world import World

from alcor.loops.anchors import Anchors
from alcor.loops.reachability import Reachability
from alcor.model.addresses import format_ip, parse_ip
from alcor.model.balancing import MonitorType
from alcor.model.nouns import Eip, FloatingIp, Port, PortStatus
from alcor.services.balancing_commands import (
    CreateHealthMonitor,
    DeleteLoadBalancer,
    MemberReport,
    RecordMemberReports,
)
from alcor.services.commands import (
    AnchorFloatingIp,
    Command,
    CreateFloatingIps,
    CreatePortForwardings,
    DeleteFloatingIp,
    DeletePorts,
    FloatingIpSpec,
    PortForwardingSpec,
    UpdateFloatingIp,
    UpdatePort,
)
from alcor.services.errors import BadRequest, FloatingIPPortAlreadyAssociated
from alcor.services.health import HealthEvent, HostHealth, Reach
from alcor.services.reachability import Outcome, Question
from alcor.store.base import Changes, Query


class Region:
    """A load balancer with members on hosts a and b, and an EIP; hosts that are up and have an external device."""

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.world: World = self.cloud.world
        self.down: set[str] = set()
        self.bare: set[str] = set()
        self.silent: set[str] = set()
        self.unmet: set[str] = set()
        """Heard, but not in session yet: whether they have a device is not known."""
        self.members = {host: self.cloud.port(host, self.cloud.vpc) for host in ("a", "b")}
        ends = [(format_ip(port.fixed_ips[0].ip), 80) for port in self.members.values()]
        self.balancer, self.pool_id, self.rows = self.cloud.balance(*ends)
        self.anchors = Anchors(self.world.store)

    def health(self, host: str) -> HostHealth:
        if host in self.silent:
            return HostHealth()
        state = Reach.DOWN if host in self.down else Reach.UP
        return HostHealth(state=state, heard_at=1, outside=None if host in self.unmet else host not in self.bare)

    def events(self) -> list[HealthEvent]:
        return []

    def do(self, command: Command) -> Any:
        outcome = self.world.compute(command)
        answer = self.world.do(command)
        self.anchors.committed(outcome.changes)
        return answer

    def eip(self) -> FloatingIp:
        spec = FloatingIpSpec(network_id=self.cloud.outer.id, port_id=self.balancer.vip_port_id, project_id="p")
        made: FloatingIp = self.do(CreateFloatingIps(specs=(spec,)))[0]
        return made

    def settle(self, fip: FloatingIp) -> Port | None:
        """The port that the EIP is with once the loop has had its say."""
        for command in self.anchors.wanted(self):
            self.do(command)
        assert [] == self.anchors.wanted(self)
        self.world.check()
        return self.anchor(fip)

    def anchor(self, fip: FloatingIp) -> Port | None:
        (now,) = self.world.store.list_rows(FloatingIp, Query(filters={"id": (fip.id,)}))
        holders = [one for one in self.world.store.list_ports(Query()) if one.host and fip.ip in _outer(one)]
        assert [one.id for one in holders] == ([] if now.anchor_id is None else [now.anchor_id])
        return holders[0] if holders else None


def _outer(port: Port) -> list[Any]:
    return [eip.ip for eip in port.eips]


@pytest.fixture
def region() -> Region:
    return Region()


def host_of(port: Port | None) -> str:
    assert port is not None
    return port.host


def test_it_is_with_a_member_and_moves_when_its_host_dies(region: Region) -> None:
    """It stays where it is while that is fit; it goes when the host is down, and does not come back by itself."""
    fip = region.eip()
    assert region.anchor(fip) is None
    first = region.settle(fip)
    assert first is not None and first.id in {port.id for port in region.members.values()}
    assert (Eip(fip.ip, region.balancer.vip_ip, 24, parse_ip("203.0.113.1"), fip.network_id),) == first.eips
    assert PortStatus.BUILD is first.status
    region.down.add(first.host)
    second = region.settle(fip)
    assert {first.host, host_of(second)} == {"a", "b"}
    region.down.clear()
    assert second == region.settle(fip)


def test_a_host_needs_an_external_device_and_a_word(region: Region) -> None:
    """One without a device is not chosen; one that lost it is left; of one never heard nothing is changed."""
    fip = region.eip()
    region.bare.add("a")
    assert "b" == host_of(region.settle(fip))
    region.bare = {"b"}
    assert "a" == host_of(region.settle(fip))
    region.silent = {"a", "b"}
    assert "a" == host_of(region.settle(fip))
    region.silent, region.unmet, region.bare = set(), {"a"}, set()
    assert "a" == host_of(region.settle(fip)), "a heartbeat comes before the session"
    region.unmet, region.bare = {"b"}, {"a"}
    assert region.settle(fip) is None
    region.unmet, region.bare = set(), {"a", "b"}
    assert region.settle(fip) is None


def test_where_no_member_answers_any_port_will_do(region: Region) -> None:
    """Members that failed are passed over while there are others; with none left it is with any port of the network."""
    region.do(CreateHealthMonitor(pool_id=region.pool_id, type=MonitorType.TCP, delay_s=1, timeout_s=1, rise=1))
    words = [MemberReport(row.id, row.ip == region.members["b"].fixed_ips[0].ip) for row in region.rows]
    region.do(RecordMemberReports(reports=tuple(words)))
    fip = region.eip()
    assert region.members["b"].id == getattr(region.settle(fip), "id", None)
    region.do(DeletePorts(ids=(region.members["b"].id,)))
    assert region.anchor(fip) is None
    assert "a" == host_of(region.settle(fip))


def test_what_ends_it(region: Region) -> None:
    """Taking the EIP off, deleting it, or the load balancer: no port keeps it. The anchor may change its addresses."""
    fip = region.eip()
    anchor = region.settle(fip)
    assert anchor is not None
    region.do(UpdatePort(id=anchor.id, fixed_ips=()))
    assert anchor.eips == getattr(region.settle(fip), "eips", None)
    region.do(UpdateFloatingIp(id=fip.id, port_id=None))
    assert region.anchor(fip) is None
    region.do(UpdateFloatingIp(id=fip.id, port_id=region.balancer.vip_port_id))
    assert region.settle(fip) is not None
    region.do(DeleteLoadBalancer(id=region.balancer.id, port_id=region.balancer.vip_port_id, cascade=True))
    assert region.settle(fip) is None
    region.do(UpdateFloatingIp(id=fip.id, port_id=region.cloud.sender.id))
    assert 1 == len(region.world.stored(region.cloud.sender).eips)


def test_deleting_the_eip_takes_it_from_its_anchor(region: Region) -> None:
    """At once: its address may be another's with the next command."""
    fip = region.eip()
    anchor = region.settle(fip)
    assert anchor is not None
    region.do(DeleteFloatingIp(id=fip.id))
    assert () == region.world.stored(anchor).eips
    region.world.check()


async def test_the_loop_acts_on_signal_and_on_timer(region: Region) -> None:
    """A commit wakes it; a host that dies is noticed at a tick; what is refused meanwhile does not end it."""
    moved = asyncio.Event()
    refusals = [BadRequest("it changed meanwhile")]

    class Controller:
        async def submit(self, command: Command) -> Any:
            if refusals:
                raise refusals.pop()
            answer = region.do(command)
            moved.set()
            return answer

    async with asyncio.TaskGroup() as group:
        running = group.create_task(region.anchors.run(Controller(), region))
        fip = region.eip()
        for _ in range(3):
            await asyncio.wait_for(moved.wait(), 10)
            moved.clear()
            host = host_of(region.anchor(fip))
            assert host not in region.down
            region.down = {host}
        running.cancel()


async def test_the_loop_sleeps_while_a_command_is_committed(region: Region) -> None:
    """What is committed meanwhile is noted at once: a descriptor that stays readable keeps the event loop busy."""
    asked, answered = asyncio.Event(), asyncio.Event()

    class Slow:
        async def submit(self, command: Command) -> Any:
            asked.set()
            await answered.wait()
            return region.do(command)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(region.anchors.run(Slow(), region))
        fip = region.eip()
        await asyncio.wait_for(asked.wait(), 10)
        region.anchors.committed(Changes(floating_ips=[fip]))
        began = process_time()
        await asyncio.sleep(0.3)
        assert process_time() - began < 0.1
        answered.set()
        running.cancel()


def test_what_is_refused(region: Region) -> None:
    """A second EIP, port forwardings to the address, an anchor for what is no load balancer's or in another network."""
    fip = region.eip()
    with pytest.raises(FloatingIPPortAlreadyAssociated):
        region.eip()
    loose = region.cloud.eip()
    spec = PortForwardingSpec(port_id=region.balancer.vip_port_id, protocol=6, external_port=80, internal_port=80)
    with pytest.raises(BadRequest, match="load balancer's address"):
        region.do(CreatePortForwardings(floating_ip_id=loose.id, specs=(spec,)))
    with pytest.raises(BadRequest, match="cannot be with port"):
        region.do(AnchorFloatingIp(id=loose.id, anchor_id=region.members["a"].id))
    elsewhere = region.cloud.port("a", region.cloud.other)
    with pytest.raises(BadRequest, match="not in the load balancer's network"):
        region.do(AnchorFloatingIp(id=fip.id, anchor_id=elsewhere.id))


def test_reachability_follows(region: Region) -> None:
    """From outside through the EIP's host to a member, wherever that is; no listener, no member, nobody who answers."""
    fip = region.eip()

    def ask(port: int = 80, protocol: int = 6, source: str = "198.51.100.7") -> Any:
        question = Question(source_ip=parse_ip(source), destination_ip=fip.ip, protocol=protocol, port=port)
        return Reachability(region.world.store).ask(question)

    lost = ask()
    assert (Outcome.IMPOSSIBLE, "not_answered") == (lost.outcome, lost.reason)
    anchor = region.settle(fip)
    found = [ask(source=f"198.51.100.{number}") for number in range(1, 9)]
    assert {(Outcome.DELIVERED, "")} == {(one.outcome, one.reason) for one in found}
    assert {"a", "b"} == {one.decided_by.split(":")[0] for one in found}
    assert all(one.steps[0].startswith(f"{host_of(anchor)}: V: ") for one in found)
    assert all([True, True] == [member.takes for member in one.members] for one in found)
    assert ("no_listener", "no_listener") == (ask(port=81).reason, ask(port=443).reason)
    assert Outcome.ANSWERED is ask(protocol=1).outcome
    region.do(CreateHealthMonitor(pool_id=region.pool_id, type=MonitorType.TCP, delay_s=1, timeout_s=1, rise=1))
    region.do(RecordMemberReports(reports=tuple(MemberReport(row.id, False) for row in region.rows)))
    assert (Outcome.DROPPED, "no_backend") == (ask().outcome, ask().reason)
