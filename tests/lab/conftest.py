"""Where the labs of these tests live, and what must be as before when they are gone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.rundir import mounts_below


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A run directory of the test's own. Afterwards it is empty, and the machine's interfaces are as before."""
    parent = tmp_path / "lab"
    before = machine_links()
    yield parent
    assert mounts_below(parent) == []
    assert machine_links() == before
    assert not parent.exists() or list(parent.iterdir()) == []


@pytest.fixture
def needs_root() -> None:
    """Skips, loudly, without root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and BPF are not tested")


def machine_links() -> list[links.Link]:
    """The interfaces of the machine's own namespace."""
    with Netlink() as netlink:
        return links.links(netlink)
