"""Which workloads the proofs let talk to which."""

from tests.lab.plain import workload

from alcor.lab.workloads import across_subnets, by_host, everybody, neighbours, ring

WORLD = [workload(n, f"host-{n % 4}", subnet="ab"[n // 4 % 2]) for n in range(16)]


def test_the_ring_takes_every_host_once_as_source_and_once_as_target() -> None:
    """Every host takes part, and neighbours in the ring share a subnet."""
    pairs = ring(WORLD)
    assert [a.host.name for a, _ in pairs] == [f"host-{n}" for n in range(4)]
    assert [b.host.name for _, b in pairs] == ["host-1", "host-2", "host-3", "host-0"]
    assert all(a.subnet_id == b.subnet_id for a, b in pairs)


def test_one_host_makes_no_ring() -> None:
    """Nothing crosses hosts where there is one."""
    assert ring(WORLD[:1]) == []


def test_neighbours_share_host_and_subnet() -> None:
    """One pair for every host."""
    pairs = neighbours(WORLD)
    assert len(pairs) == 4
    assert all(a.host == b.host and a.subnet_id == b.subnet_id and a != b for a, b in pairs)


def test_pairs_across_subnets_are_on_the_same_host_and_on_others() -> None:
    """Routing is proved on a host by itself and between hosts."""
    pairs = across_subnets(WORLD)
    assert all(a.subnet_id != b.subnet_id for a, b in pairs)
    assert {a.host == b.host for a, b in pairs} == {True, False}
    assert {a.host.name for a, _ in pairs} == set(by_host(WORLD))


def test_everybody_sends_once_and_is_sent_to_once() -> None:
    """No workload is left out, none pings itself."""
    pairs = everybody(WORLD)
    assert sorted(a.id for a, _ in pairs) == sorted(b.id for _, b in pairs) == sorted(one.id for one in WORLD)
    assert all(a != b for a, b in pairs)
    assert everybody(WORLD[:1]) == []
