"""Waiting until the kernel has removed what was let go of. Called by hostload and by the benchmarks of one host."""

from __future__ import annotations

import os
import time

from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.results import LabError

TIMEOUT_S = 300.0
POLL_S = 0.02


def settle() -> None:
    """Waits until the kernel has removed every namespace that was let go of before. Needs root.

    Removal runs in the background, in order, a batch at a time, and would weigh on the next measurement. A veth whose
    other end is in a namespace goes with it; the second of two in turn can only go after the batch of the first.
    Raises LabError after TIMEOUT_S.
    """

    def rounds() -> None:
        netns.unshare_net()
        _one_round()
        _one_round()

    netns.on_own_thread(rounds)


def _one_round() -> None:
    home = netns.open_own()
    try:
        inner = netns.make_here()
        netns.set_net(home)
        with Netlink() as netlink:
            try:
                netlink.check([links.veth("sentinel", 0, "eth0", peer_netns=inner)])
            finally:
                os.close(inner)
            deadline = time.monotonic() + TIMEOUT_S
            while any(link.name == "sentinel" for link in links.links(netlink)):
                if time.monotonic() > deadline:
                    raise LabError(f"the kernel did not remove old namespaces in {TIMEOUT_S:.0f} s")
                time.sleep(POLL_S)
    finally:
        os.close(home)
