"""Blocks of ports of an address: who gets which, who keeps which, and when there are none."""

from hypothesis import given
from hypothesis import strategies as st

from alcor.model.blocks import BLOCKS, FIRST_BLOCK, LAST_BLOCK, MAX_OF_HOST, PORTS_PER_BLOCK, assign, wanted_of

HOSTS = st.dictionaries(st.integers(0, 150).map("h{:03}".format), st.integers(1, 600), max_size=150)


def test_a_host_gets_the_lowest_free_block() -> None:
    """And more with its ports; the well-known ports are nobody's."""
    assert ({2: "a", 3: "b"}, ()) == assign({}, {"a": 1, "b": PORTS_PER_BLOCK})
    assert {2: "b", 3: "a", 4: "b"} == assign({2: "b", 7: "gone"}, {"a": 1, "b": PORTS_PER_BLOCK + 1}).holders
    assert FIRST_BLOCK * 512 == 1024
    assert LAST_BLOCK * 512 + 511 == 65535


def test_first_blocks_come_before_second_ones() -> None:
    """Of a full address everybody has one before anybody has two; who comes too late has none, and is named."""
    hosts = {f"h{number:03}": 600 for number in range(BLOCKS + 2)}
    found = assign({}, hosts)
    assert (BLOCKS, ("h126", "h127")) == (len(set(found.holders.values())), found.without)
    later = assign(found.holders, {name: count for name, count in hosts.items() if name != "h000"})
    assert ("h126", 2) == (later.holders[2], min(later.holders))
    assert ("h127",) == later.without


@given(st.lists(HOSTS, max_size=4))
def test_whatever_comes_and_goes(steps: list[dict[str, int]]) -> None:
    """Blocks are within bounds, nobody has more than the most, who had one keeps it while it has ports, and nobody is
    without while one is free."""
    held: dict[int, str] = {}
    for hosts in steps:
        holders, without = assign(held, hosts)
        assert set(holders) <= set(range(FIRST_BLOCK, LAST_BLOCK + 1))
        assert set(holders.values()) | set(without) == set(hosts)
        assert {block: host for block, host in held.items() if host in hosts}.items() <= holders.items()
        counts = {host: list(holders.values()).count(host) for host in hosts}
        assert all(count <= MAX_OF_HOST for count in counts.values())
        if len(holders) < BLOCKS:
            assert all(counts[host] >= wanted_of(ports) for host, ports in hosts.items())
        held = holders
