"""What an agent puts into its table, announced by real BGP speakers to real routers: FRR to BIRD, and BIRD to FRR.

The router's kernel shows what it was told: its routes are what packets would go by.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.agent.test_bgp import HERE, ONE, OWN, THREE, TWO, WIRE, leads, port, shared

from alcor.agent.bgp import Bgp
from alcor.dataplane.base import Plan
from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.dataplane.kernel.speaker import KernelSpeakerTable
from alcor.lab import speakers
from alcor.model.addresses import Ip, format_ip, parse_ip
from alcor.sim.tables import DictionaryDriver, Tables

HOST, ROUTER, RANGE, LENGTH = "198.18.16.1", "198.18.0.1", "198.18.0.0/16", 16
TABLE = 179
FRR = Path("/usr/lib/frr")
NL_BUFSIZE = "90000000"
"""As in Debian's /etc/frr/daemons. Without it zebra loses routes of a burst, and never looks again."""
WAIT_S = 100.0
"""A bgpd that found no zebra yet tries again after 10 s, the fourth time after 60 s."""
pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: these tests drive the real kernel; run them as root"),
]

FRR_HOST = f"""\
router bgp {speakers.HOSTS_AS}
 bgp router-id {HOST}
 no bgp ebgp-requires-policy
 neighbor {ROUTER} remote-as {speakers.ROUTER_AS}
 neighbor {ROUTER} timers 3 9
 neighbor {ROUTER} timers connect 1
 address-family ipv4 unicast
  redistribute table {TABLE}
 exit-address-family
"""
FRR_ROUTER = f"""\
router bgp {speakers.ROUTER_AS}
 bgp router-id {ROUTER}
 no bgp ebgp-requires-policy
 neighbor hosts peer-group
 neighbor hosts remote-as {speakers.HOSTS_AS}
 bgp listen range {RANGE} peer-group hosts
"""


class Machine:
    """A namespace, and the programs that run in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fd = netns.on_own_thread(netns.make_here)
        self._running: list[subprocess.Popen[bytes]] = []
        shutil.chown(directory, "frr", "frr")  # as whom FRR runs

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.fd}", *words]

    def ip(self, *words: str) -> str:
        return subprocess.run(self.command("ip", *words), capture_output=True, text=True, check=True).stdout

    def bird(self, config: str) -> None:
        (self.directory / "bird.conf").write_text(config)
        self._run("/usr/sbin/bird", "-f", "-c", str(self.directory / "bird.conf"), "-s", str(self.directory / "ctl"))

    def frr(self, zebra: str, bgpd: str) -> None:
        place = str(self.directory)
        for name, config in (("zebra", zebra), ("bgpd", bgpd)):
            path = self.directory / f"{name}.conf"
            path.write_text(config)
            files = ["-f", str(path), "-i", f"{place}/{name}.pid", "-z", f"{place}/zserv.api", "--vty_socket", place]
            own = ["-s", NL_BUFSIZE] if name == "zebra" else []
            self._run(str(FRR / name), *files, *own, "--log", f"file:{place}/{name}.log")

    def _run(self, *words: str) -> None:
        with (self.directory / "output").open("ab") as output:
            self._running.append(subprocess.Popen(self.command(*words), stdout=output, stderr=output))

    def kill(self) -> None:
        """SIGKILL to all that runs here."""
        for one in self._running:
            one.kill()
            one.wait()
        self._running.clear()

    def close(self) -> None:
        self.kill()
        os.close(self.fd)

    def said(self) -> str:
        """What its programs logged."""
        return "\n".join(path.read_text(errors="replace") for path in self.directory.iterdir() if path.is_file())

    def learnt(self) -> dict[str, str]:
        """Destination -> next hop, of the routes that a speaker put into its kernel's main table."""
        routes = json.loads(self.ip("-j", "route", "show", "table", "main"))
        return {one["dst"]: one.get("gateway", "") for one in routes if one["protocol"] != "kernel"}


class Bed:
    """A host with an agent's data plane, its speaker, and a router with one of the other make."""

    def __init__(self, host: Machine, router: Machine, maker: str) -> None:
        self.host, self.router, self._maker = host, router, maker
        self.tables = Tables()
        self.tables.host_ip = HERE
        if maker == "frr":
            router.bird(speakers.router_config(ROUTER, RANGE))
        else:
            router.frr("", FRR_ROUTER)
        self.start_speaker()
        if maker == "frr":
            self.await_session()  # docs/rooms/bgp.md: a zebra that starts loses what comes while it reads
        self.table = netns.call(host.fd, lambda: KernelSpeakerTable(TABLE))
        self.start_agent()

    def start_speaker(self) -> None:
        if self._maker == "frr":
            self.host.ip("route", "flush", "table", "main", "proto", "zebra")  # docs/rooms/bgp.md
            self.host.frr(f"ip import-table {TABLE}\n", FRR_HOST)
        else:
            self.host.bird(speakers.host_config(HOST, ROUTER, TABLE))

    def await_session(self) -> None:
        """Until the host's bgpd and the router talk."""
        words = ["vtysh", "--vty_socket", str(self.host.directory), "-c", "show bgp ipv4 unicast summary json"]
        deadline = time.monotonic() + WAIT_S
        while True:
            said = subprocess.run(self.host.command(*words), capture_output=True, text=True, check=False).stdout
            if '"state":"Established"' in said.replace(" ", ""):
                return
            if time.monotonic() > deadline:
                pytest.fail(f"no session: {said}\n{self.host.said()}\n{self.router.said()}")
            time.sleep(0.1)

    def start_agent(self) -> None:
        """An agent that knows nothing yet: it looks at its data plane, and at the table."""
        self.driver = DictionaryDriver(self.tables)
        self.bgp = Bgp(self.table, HERE)
        self.bgp.observed(self.driver.observe())
        self.bgp.settle()

    def apply(self, plan: Plan) -> None:
        self.bgp.applied(plan, self.driver.apply(plan))
        self.bgp.settle()

    def await_router(self, *ips: Ip) -> float:
        """Until the router sends to the host what is for these addresses, and nothing else; the seconds it took."""
        wanted = {format_ip(ip): HOST for ip in ips}
        started = time.monotonic()
        while (found := self.router.learnt()) != wanted:
            if time.monotonic() > started + WAIT_S:
                lack, more = sorted(wanted.items() - found.items()), sorted(found.items() - wanted.items())
                what = f"{len(lack)} lack: {lack[:9]}, {len(more)} too many: {more[:9]}"
                pytest.fail(f"{what}\n{self.host.said()}\n{self.router.said()}")
            time.sleep(0.02)
        return time.monotonic() - started


@contextmanager
def laid(maker: str) -> Iterator[Bed]:
    with ExitStack() as stack:
        # Not pytest's directory: FRR's user could not enter it.
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        root.chmod(0o755)
        machines = []
        for name in ("host", "router"):
            (root / name).mkdir()
            machines.append(Machine(root / name))
            stack.callback(machines[-1].close)
        host, router = machines
        wire(host.fd, router.fd)
        bed = Bed(host, router, maker)
        stack.callback(bed.table.close)
        yield bed


def wire(host: int, router: int) -> None:
    def outer() -> None:
        with Netlink() as netlink:
            pair = links.veth("w0", 5, "ext0", 6, peer_netns=host, up=True)
            netlink.check([links.loopback_up(), pair, links.address(5, parse_ip(ROUTER), LENGTH)])

    def inner() -> None:
        with Netlink() as netlink:
            own = links.address(6, parse_ip(HOST), LENGTH)
            netlink.check([links.loopback_up(), links.set_link(6, up=True), own])

    netns.call(router, outer)
    netns.call(host, inner)


@pytest.fixture(params=["frr", "bird"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    with laid(request.param) as made:
        yield made


@contextmanager
def watching(machine: Machine) -> Iterator[Callable[[], str]]:
    """What is said of the routes that come to the machine's kernel and go, so far."""
    with tempfile.TemporaryFile("w+") as said:
        monitor = subprocess.Popen(machine.command("ip", "monitor", "route"), stdout=said)

        def read() -> str:
            said.seek(0)
            return said.read()

        try:
            # It is there once it says something.
            deadline = time.monotonic() + WAIT_S
            while "blackhole 192.0.2.77" not in read():
                assert time.monotonic() < deadline
                machine.ip("route", "add", "blackhole", "192.0.2.77")
                machine.ip("route", "del", "blackhole", "192.0.2.77")
                time.sleep(0.02)
            yield read
        finally:
            monitor.kill()
            monitor.wait()


def test_the_router_sends_to_the_host_what_it_answers_for(bed: Bed) -> None:
    """EIPs and shared addresses come, move to another port, and go; next hop is the host's external address."""
    bed.await_router()
    bed.apply(Plan(put_ports=(port(1, ONE), port(2, TWO)), put_shared=((THREE, shared(HERE)),)))
    bed.await_router(ONE, TWO, THREE)
    with watching(bed.router) as said:
        bed.apply(Plan(put_ports=(port(1, TWO), port(2)), put_shared=((THREE, shared(parse_ip("192.0.2.2"))),)))
        bed.await_router(TWO)
        assert format_ip(TWO) not in said()
        assert f"Deleted {format_ip(ONE)} " in said()
    bed.apply(Plan(remove_ports=(port(1).id, port(2).id)))
    bed.await_router()
    assert "" == bed.bgp.status().error


def test_a_speaker_that_was_killed_announces_all_again(bed: Bed) -> None:
    """As it is by then. The agent has no part in it. (Meanwhile the router goes on sending, or not: FRR and BIRD differ
    in whether they ask for a graceful restart by default, RFC 4724.)"""
    bed.apply(Plan(put_ports=(port(1, ONE), port(2, TWO))))
    bed.await_router(ONE, TWO)
    bed.host.kill()
    bed.apply(Plan(put_ports=(port(2), port(3, THREE))))
    bed.start_speaker()
    bed.await_router(ONE, THREE)


def test_an_agent_that_is_gone_withdraws_nothing_and_one_that_starts_what_is_stale(bed: Bed) -> None:
    """What the data plane still carries is not withdrawn for a moment; what it does not is; what lacks comes."""
    bed.apply(Plan(put_ports=(port(1, ONE), port(2, TWO))))
    bed.await_router(ONE, TWO)
    with watching(bed.router) as said:
        del bed.bgp
        bed.driver.apply(Plan(remove_ports=(port(2).id,), put_ports=(port(3, THREE),)))
        time.sleep(1.0)
        assert {format_ip(ONE), format_ip(TWO)} == bed.router.learnt().keys()
        bed.start_agent()
        bed.await_router(ONE, THREE)
        assert format_ip(ONE) not in said()
        assert f"Deleted {format_ip(TWO)} " in said()


def test_a_thousand_addresses_are_announced_and_one_more(bed: Bed) -> None:
    """All of them come, and each change after that is by itself."""
    many = [parse_ip(f"198.51.{100 + number // 250}.{number % 250 + 1}") for number in range(1000)]
    bed.await_router()
    bed.apply(Plan(put_ports=tuple(port(number, ip) for number, ip in enumerate(many[:250], 1))))
    bed.apply(Plan(put_ports=(port(300, *many[250:]),)))
    bed.await_router(*many)
    bed.apply(Plan(put_ports=(port(301, ONE), port(1))))
    bed.await_router(*many[1:], ONE)


HOST6, ROUTER6, LENGTH6 = "2001:db8:ff::2", "2001:db8:ff::1", 64
BIRD6_HOST = f"""\
router id {HOST};
log stderr all;
ipv6 table announced6;
protocol device {{ }}
protocol kernel {{
  kernel table {TABLE};
  learn;
  netlink rx buffer {speakers.RX_BUFFER};
  ipv6 {{ table announced6; import all; export none; }};
}}
protocol bgp uplink6 {{
  local {HOST6} as {speakers.HOSTS_AS};
  neighbor {ROUTER6} as {speakers.ROUTER_AS};
  connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9;
  ipv6 {{ table announced6; import none; export all; next hop self; }};
}}
"""
BIRD6_ROUTER = f"""\
router id {ROUTER};
log stderr all;
protocol device {{ }}
protocol kernel {{ ipv6 {{ import none; export all; }}; }}
protocol bgp host6 {{
  local {ROUTER6} as {speakers.ROUTER_AS};
  neighbor {HOST6} as {speakers.HOSTS_AS};
  connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9;
  ipv6 {{ import where net.len = 128; export none; }};
}}
"""


def test_ipv6_addresses_are_announced_over_ipv6() -> None:
    """By BIRD, from the same table's IPv6 half, beside the IPv4 one: docs/rooms/bgp.md's configuration."""
    own, lead = OWN[0], leads("2001:db8:100:1::/64")
    with laid("bird") as bed:
        bed.host.kill()
        bed.router.kill()
        for machine, address in ((bed.host, HOST6), (bed.router, ROUTER6)):
            device = "ext0" if machine is bed.host else "w0"
            machine.ip("-6", "address", "add", f"{address}/{LENGTH6}", "dev", device, "nodad")
        bed.router.bird(BIRD6_ROUTER)
        bed.host.bird(BIRD6_HOST)
        bed.apply(Plan(put_ports=(port(1, ONE, own=(own,)),), put_routes=(WIRE, lead)))

        def await_router(*ips: Ip) -> None:
            wanted = {format_ip(ip): HOST6 for ip in ips}
            deadline = time.monotonic() + WAIT_S
            while True:
                routes = json.loads(bed.router.ip("-6", "-j", "route", "show", "table", "main"))
                found = {one["dst"]: one.get("gateway", "") for one in routes if one["protocol"] == "bird"}
                if found == wanted:
                    return
                assert time.monotonic() < deadline, f"{found}\n{bed.host.said()}\n{bed.router.said()}"
                time.sleep(0.02)

        await_router(own)
        bed.apply(Plan(remove_routes=(lead[0],)))
        await_router()
        assert {ONE} == bed.table.read()
