"""Hosts and fabric: planned as values, made in the kernel, gone without a trace."""

from pathlib import Path

import pytest

from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.pings import Ping, ping_all
from alcor.lab.rundir import RunDirectory
from alcor.lab.topology import MAX_HOSTS, UNDERLAY_MTU, plan, raise_topology


def test_a_plan_gives_everybody_a_name_and_an_address_of_its_own(tmp_path: Path) -> None:
    """Names, addresses, namespaces and directories of a large lab are all different."""
    topology = plan(RunDirectory(tmp_path / "abc123"), MAX_HOSTS)
    machines = (topology.controller, *topology.hosts)
    assert len({one.name for one in machines}) == MAX_HOSTS + 1
    assert len({one.ip for one in machines}) == MAX_HOSTS + 1
    assert len({one.netns for one in machines}) == MAX_HOSTS + 1
    assert all(one.netns and one.netns.name.startswith("alcor-lab-abc123-") for one in machines)
    assert topology.hosts[0].address == "10.200.1.1"


def test_a_plan_without_namespaces_stays_on_loopback(tmp_path: Path) -> None:
    """A lab of the fake driver has addresses of 127.0.0.0/8 and no namespace."""
    topology = plan(RunDirectory(tmp_path / "abc123"), 3, real=False)
    assert [host.address for host in topology.hosts] == ["127.200.1.1", "127.200.1.2", "127.200.1.3"]
    assert [host.netns for host in topology.hosts] == [None, None, None]


@pytest.mark.parametrize("hosts", [0, -1, MAX_HOSTS + 1])
def test_a_lab_has_bounds(tmp_path: Path, hosts: int) -> None:
    """Numbers of hosts that cannot be are refused."""
    with pytest.raises(ValueError, match="hosts"):
        plan(RunDirectory(tmp_path), hosts)


@pytest.mark.privileged
def test_every_host_reaches_every_other_at_full_size(run_dir: Path, needs_root: None) -> None:
    """Around the fabric and to the controller, packets of the underlay's MTU pass whole, larger ones do not."""
    run = RunDirectory.make(run_dir, mounts=True)
    try:
        topology = plan(run, 5)
        raise_topology(topology)
        machines = [topology.controller, *topology.hosts]
        pairs = list(zip(machines, [*machines[1:], machines[0]], strict=True))
        whole = [Ping(source=a.netns, target=b.address, size=UNDERLAY_MTU) for a, b in pairs if a.netns]
        assert [answer.answered for answer in ping_all(whole)] == [True] * 6
        (a, b), *_ = pairs
        assert a.netns
        (answer,) = ping_all([Ping(source=a.netns, target=b.address, size=UNDERLAY_MTU + 1)], timeout_s=0.3)
        assert not answer.answered
    finally:
        run.remove()


@pytest.mark.privileged
def test_neighbours_of_the_fabric_are_permanent(run_dir: Path, needs_root: None) -> None:
    """Traffic between hosts leaves no neighbour entry that counts against the machine's one small table."""
    run = RunDirectory.make(run_dir, mounts=True)
    try:
        topology = plan(run, 3)
        raise_topology(topology)
        first, *_, last = topology.hosts
        assert first.netns
        ping_all([Ping(source=first.netns, target=last.address)])
        fd = netns.open_path(first.netns)

        def found() -> list[links.Link]:
            with Netlink() as netlink:
                return links.links(netlink)

        assert [link.name for link in netns.call(fd, found)] == ["lo", "eth0", "ext0"]
        states = (Path("/proc/thread-self/net/arp"), fd)
        rows = netns.call(fd, lambda: states[0].read_text().splitlines()[1:])
        assert [row.split()[2] for row in rows] == ["0x6"]  # ATF_COM | ATF_PERM
    finally:
        run.remove()
