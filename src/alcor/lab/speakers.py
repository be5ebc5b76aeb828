"""BGP speakers of a lab: BIRD beside the agents of some hosts, and BIRD as the router of the world. Called by bgp.

Both are what an operator would run (docs/rooms/bgp.md): a host's learns the agent's table and announces it, the
router's accepts that and puts it into the kernel, which then forwards by it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from alcor.lab.processes import Processes
from alcor.lab.results import LabError
from alcor.lab.topology import BGP_TABLE, WORLD, WORLD_LENGTH
from alcor.model.addresses import format_ip, ip_from_int, ip_to_int

HOSTS_AS, ROUTER_AS = 64512, 64513
BIRD, ENV = "bird", "/usr/bin/env"
RX_BUFFER = 16 << 20
"""Bytes of what the kernel told and BIRD has not read; a route takes 750. Linux's own 212,992 are full after 280
routes, and what does not fit is lost until the next scan (60 s)."""


def host_config(own: str, router: str, table: int = BGP_TABLE) -> str:
    """BIRD 2, of the host with that external address: what the agent puts into the table is announced to the router,
    with the host as next hop."""
    return f"""\
router id {own};
log stderr all;
ipv4 table announced;
protocol device {{ }}
protocol kernel {{
  kernel table {table};
  learn;
  netlink rx buffer {RX_BUFFER};
  ipv4 {{ table announced; import all; export none; }};
}}
protocol bgp uplink {{
  local {own} as {HOSTS_AS};
  neighbor {router} as {ROUTER_AS};
  connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9;
  ipv4 {{ table announced; import none; export all; next hop self; }};
}}
"""


def router_config(own: str, hosts: str) -> str:
    """BIRD 2, of a router: what the hosts (a prefix) announce, one address at a time, is in its kernel's main table."""
    return f"""\
router id {own};
log stderr all;
protocol device {{ }}
protocol kernel {{ netlink rx buffer {RX_BUFFER}; ipv4 {{ import none; export all; }}; }}
protocol bgp hosts {{
  local {own} as {ROUTER_AS};
  neighbor range {hosts} as {HOSTS_AS};
  dynamic name "host";
  hold time 9;
  ipv4 {{ import where net.len = 32; export none; }};
}}
"""


def start(processes: Processes, name: str, netns: Path, directory: Path, config: str) -> None:
    """Starts BIRD with that configuration in the namespace. Raises LabError when it is not installed."""
    binary = shutil.which(BIRD, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if binary is None:
        raise LabError(f"{BIRD} is not installed: run scripts/system-packages")
    (directory / f"{name}.conf").write_text(config)
    # From within: a socket's path has 108 bytes at most (unix(7)).
    argv = [f"--chdir={directory}", binary, "-f", "-c", f"{name}.conf", "-s", f"{name}.ctl"]
    processes.start(name, argv, netns_path=netns, program=ENV)


def hosts_of_the_world() -> str:
    """The prefix that hosts' external addresses are in."""
    base = ip_to_int(WORLD) >> (32 - WORLD_LENGTH) << (32 - WORLD_LENGTH)
    return f"{format_ip(ip_from_int(base, 4))}/{WORLD_LENGTH}"
