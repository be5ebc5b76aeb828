"""From a commit to a programmed host and back, over real sockets: what is promised to callers and to operators."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.loops.region import Region

from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.kit import pki
from alcor.model.addresses import parse_ip
from alcor.model.nouns import Port, PortStatus
from alcor.services.commands import CreateNodes, DeletePorts, NodeSpec, UpdateNetwork, UpdateNode, UpdatePort
from alcor.store.base import Changes, StatusChange


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


async def test_a_port_becomes_active_when_its_host_carries_it(region: Region) -> None:
    """BUILD at first; ACTIVE once the data plane has it, with its VPC's number, MTU, subnet and gateway."""
    host = await region.add_host("host-a")
    network, subnet = await region.add_vpc()
    (port,) = await region.add_ports(network, ["host-a"])
    assert port.status == PortStatus.BUILD
    await region.until_active(port)
    carried = host.tables.ports[port.id]
    assert (carried.vni, carried.mtu, carried.mac, carried.routed) == (network.vni, network.mtu, port.mac, True)
    assert [(address.ip, address.prefix_length, address.gateway) for address in carried.addresses] == [
        (port.fixed_ips[0].ip, 16, subnet.gateway)
    ]
    assert subnet.gateway is not None
    assert host.tables.gateways == {EndpointKey(network.vni, subnet.gateway)}


async def test_hosts_learn_where_the_others_are(region: Region) -> None:
    """Each host of a VPC gets the endpoints on other hosts, and none of its own."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    first, second = await region.add_ports(network, ["host-a", "host-b"])
    await region.until_active(first, second)
    nodes = {node.name: node for node in region.store.nodes()}

    def endpoint(port: Port) -> dict[EndpointKey, Endpoint]:
        return {
            EndpointKey(network.vni, port.fixed_ips[0].ip): Endpoint(
                port.mac, nodes[port.host].underlay_ip, port.identity
            )
        }

    assert a.tables.endpoints == endpoint(second)
    assert b.tables.endpoints == endpoint(first)


async def test_a_deleted_port_leaves_its_host_and_its_neighbours(region: Region) -> None:
    """The host that ran it drops the port, the others its endpoint; with a host's last port the VPC goes whole."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    first, second = await region.add_ports(network, ["host-a", "host-b"])
    await region.until_active(first, second)
    await region.do(DeletePorts(ids=(first.id,)))
    await region.until(lambda: not a.tables.ports and not b.tables.endpoints)
    await region.until(lambda: not a.tables.endpoints and not a.tables.gateways)
    assert set(b.tables.ports) == {second.id}


async def test_a_port_moves_between_hosts(region: Region) -> None:
    """A changed binding removes it at the old host, makes it at the new one, and everyone's endpoints follow."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    c = await region.add_host("host-c")
    network, _ = await region.add_vpc()
    moving, _ = await region.add_ports(network, ["host-a", "host-c"])
    await region.until_active()
    await region.do(UpdatePort(id=moving.id, host="host-b"))
    await region.until(lambda: moving.id in b.tables.ports and moving.id not in a.tables.ports)
    await region.until_active()
    key = EndpointKey(network.vni, moving.fixed_ips[0].ip)
    await region.until(lambda: key in c.tables.endpoints and c.tables.endpoints[key].host_ip == parse_ip("127.0.1.2"))
    assert key not in b.tables.endpoints


async def test_a_host_error_is_on_the_port_and_ends_with_its_cause(region: Region) -> None:
    """ERROR with the driver's own words; once the driver carries the port, ACTIVE, without anybody asking."""
    host = await region.add_host("host-a")
    network, _ = await region.add_vpc()
    host.tables.refused_interfaces["eth7"] = "eth7 exists already: choose another interface name"
    (port,) = await region.add_ports(network, ["host-a"], interface="eth7")
    await region.until(lambda: region.status()[port.id] == PortStatus.ERROR)
    assert region.store.get_ports([port.id])[0].status_reason == "eth7 exists already: choose another interface name"
    host.tables.refused_interfaces.clear()
    await region.until_active(port)


async def test_a_restarted_agent_touches_nothing_that_is_right(region: Region) -> None:
    """It reads its journal, observes, greets; nothing is written again, and new ports come through."""
    host = await region.add_host("host-a")
    network, _ = await region.add_vpc()
    await region.add_ports(network, ["host-a", "host-a"])
    await region.until_active()
    written = dict(host.tables.written)
    await host.stop()
    await host.start()
    (port,) = await region.add_ports(network, ["host-a"])
    await region.until_active(port)
    assert {identifier: host.tables.written[identifier] for identifier in written} == written
    assert host.driver is not None
    assert all(not plan.remove_ports and not plan.remove_endpoints for plan in host.driver.plans)


async def test_an_agent_that_was_away_converges(region: Region) -> None:
    """Commits go on without it; when it is back it is sent what differs, and nobody else waited for it."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    gone, stays, other = await region.add_ports(network, ["host-a", "host-a", "host-b"])
    await region.until_active()
    await a.stop()
    await region.do(DeletePorts(ids=(gone.id,)))
    fresh, elsewhere = await region.add_ports(network, ["host-a", "host-b"])
    await region.until_active(elsewhere)
    assert region.status()[fresh.id] == PortStatus.BUILD
    await a.start()
    await region.until_active()
    assert set(a.tables.ports) == {stays.id, fresh.id}
    assert {key.ip for key in a.tables.endpoints} == {other.fixed_ips[0].ip, elsewhere.fixed_ips[0].ip}
    assert {key.ip for key in b.tables.endpoints} == {stays.fixed_ips[0].ip, fresh.fixed_ips[0].ip}


async def test_an_agent_without_its_journal_converges(region: Region) -> None:
    """Amnesia costs a snapshot: what the kernel carries is recognised, what is not desired goes once in sync."""
    host = await region.add_host("host-a")
    network, _ = await region.add_vpc()
    stays, gone = await region.add_ports(network, ["host-a", "host-a"])
    await region.until_active()
    written = host.tables.written[stays.id]
    await host.stop()
    (host.directory / "state" / "journal").unlink()
    await region.do(DeletePorts(ids=(gone.id,)))
    host.tables.orphans = ("half-made",)
    await host.start()
    await region.until(lambda: set(host.tables.ports) == {stays.id} and not host.tables.orphans)
    assert host.tables.written[stays.id] == written


async def test_a_restarted_controller_asks_for_what_it_was_not_told(region: Region) -> None:
    """Ports whose acknowledgement was lost are asked for again, even when the host holds all it should."""
    host = await region.add_host("host-a")
    network, _ = await region.add_vpc()
    (port,) = await region.add_ports(network, ["host-a"])
    await region.until_active(port)
    written = dict(host.tables.written)
    await region.stop()
    lost = StatusChange(port.id, PortStatus.BUILD, "", 0)
    region.store.commit(region.store.revision() + 1, Changes(statuses=[lost]))
    await region.start()
    await region.until_active(port)
    assert dict(host.tables.written) == written


async def test_a_moved_tunnel_end_reaches_every_host(region: Region) -> None:
    """A node's new underlay address is in the endpoints of its ports everywhere."""
    await region.add_host("host-a")
    b = await region.add_host("host-b")
    network, _ = await region.add_vpc()
    first, _ = await region.add_ports(network, ["host-a", "host-b"])
    await region.until_active()
    node = next(node for node in region.store.nodes() if node.name == "host-a")
    await region.do(UpdateNode(id=node.id, underlay_ip=parse_ip("172.16.9.9"), agent_host="127.0.0.1"))
    key = EndpointKey(network.vni, first.fixed_ips[0].ip)
    await region.until(lambda: b.tables.endpoints[key].host_ip == parse_ip("172.16.9.9"))


async def test_a_vpc_that_changes_changes_its_ports(region: Region) -> None:
    """A network's MTU, and its becoming a VPC, reach ports that are already carried."""
    host = await region.add_host("host-a")
    network, _ = await region.add_vpc()
    (port,) = await region.add_ports(network, ["host-a"])
    await region.until_active()
    await region.do(UpdateNetwork(id=network.id, mtu=1300))
    await region.until(lambda: host.tables.ports[port.id].mtu == 1300)


async def test_a_dead_host_delays_nobody(region: Region) -> None:
    """A node without an agent costs its own task only."""
    await region.do(
        CreateNodes(
            specs=(NodeSpec(name="dead", underlay_ip=parse_ip("172.16.7.7"), agent_host="127.0.0.1", agent_port=1),)
        )
    )
    await region.add_host("host-a")
    network, _ = await region.add_vpc()
    stuck, fine = await region.add_ports(network, ["dead", "host-a"])
    await region.until_active(fine)
    assert region.status()[stuck.id] == PortStatus.BUILD


async def test_a_host_cannot_pass_for_another(region: Region, tmp_path: Path) -> None:
    """An agent whose certificate names another host is not spoken to."""
    host = region.make_host("host-a")
    pki.issue(tmp_path / "ca", host.directory / "tls", "host-b", role="agent")
    await host.start()
    await region.register(host)
    network, _ = await region.add_vpc()
    (port,) = await region.add_ports(network, ["host-a"])
    assert region.path is not None
    assert await attempts(region) >= 2
    assert region.path.connected() == []
    assert region.status()[port.id] == PortStatus.BUILD
    pki.issue(tmp_path / "ca", host.directory / "tls", "host-a", role="agent")
    await host.stop()
    await host.start()
    await region.until_active(port)


async def test_only_controllers_may_speak_to_agents(tmp_path: Path) -> None:
    """A certificate of the same CA with another role, and one of another CA, are both refused."""
    region, refused = Region(tmp_path), list[int]()
    pki.issue(tmp_path / "ca", tmp_path / "agent-role", "host-z", role="agent")
    for name in ("", "-key"):
        (tmp_path / "agent-role" / f"agent{name}.pem").rename(tmp_path / "agent-role" / f"controller{name}.pem")
    pki.make_ca(tmp_path / "other-ca")
    pki.issue(tmp_path / "other-ca", tmp_path / "other-tls", "controller-1", role="controller")
    try:
        for tls_dir in (tmp_path / "agent-role", tmp_path / "other-tls"):
            await region.start(tls_dir=tls_dir)
            if not region.hosts:
                await region.add_host("host-a")
            assert await attempts(region) >= 2
            assert region.path is not None
            assert region.path.connected() == []
            await region.stop()
            agent = region.hosts["host-a"].agent
            assert agent is not None
            refused.append((await agent.status()).refused["streams"])
        assert refused[0] == refused[1] >= 2  # TLS keeps another CA's from the agent
        await region.start()
        await region.until(lambda: region.path is not None and region.path.connected() == ["host-a"])
    finally:
        await region.close()


async def test_a_host_that_saw_the_future_says_so_on_its_ports(tmp_path: Path) -> None:
    """After the database was replaced, agents hold newer revisions: ports show why they are not carried."""
    before = Region(tmp_path)
    await before.start()
    host = await before.add_host("host-a")
    network, _ = await before.add_vpc()
    await before.add_ports(network, ["host-a"] * 3)
    await before.until_active()
    for _ in range(9):
        network = await before.do(UpdateNetwork(id=network.id, mtu=network.mtu - 1))
    await before.until(lambda: {port.mtu for port in host.tables.ports.values()} == {network.mtu})
    await before.stop()
    after = Region(tmp_path)
    await after.start()
    try:
        await after.register(host)
        network, _ = await after.add_vpc()
        (port,) = await after.add_ports(network, ["host-a"])
        await after.until(lambda: after.status()[port.id] == PortStatus.ERROR)
        reason = after.store.get_ports([port.id])[0].status_reason
        assert "the database was replaced" in reason
        assert "Delete the agent's journal" in reason
        assert len(host.tables.ports) == 3
    finally:
        await after.close()
        await before.close()


async def attempts(region: Region) -> int:
    """Waits for two failed attempts to reach a host, by what was logged of it; returns how many there were."""
    assert region.path is not None
    await region.until(lambda: region.path is not None and max(region.path.failures().values(), default=0) >= 2)
    return max(region.path.failures().values())
