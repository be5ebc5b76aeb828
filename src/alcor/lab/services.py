"""Host services, proved by the clients that workloads run: addresses, names and metadata, and who gets none. Called by
run.

Two VPCs with the same prefix, domain and addresses, and a network whose subnet has DHCP off; one container of each on
the first host, one more on the last. The metadata service is a small one beside the controller.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from alcor.dataplane.kernel import netns
from alcor.lab.client import Client, Resource, await_true
from alcor.lab.processes import METADATA_PORT
from alcor.lab.results import Proof
from alcor.lab.topology import Machine

CLIENT_S = 20.0
"""For a client, its own tries and timeouts included."""
DOMAIN = "lab.example."
SERVICE = "169.254.169.254"
SLAAC = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}

Dropped = Callable[[Machine], Mapping[str, int]]
"""Packets dropped so far on a host, by reason."""


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A container, and what its port says."""

    host: Machine
    netns: Path
    ips: tuple[str, ...]
    device_id: str

    def run(self, *command: str) -> tuple[int, str]:
        """Exit code and all that the command says inside the container; 124 when it does not end."""
        if shutil.which(command[0]) is None:
            return 127, f"{command[0]} is not installed: run scripts/system-packages"
        try:
            done = subprocess.run(
                ("nsenter", f"--net={self.netns}", *command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=CLIENT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, "no answer"
        return done.returncode, done.stdout.decode(errors="replace")


def prove(
    client: Client,
    controller: Machine,
    hosts: Sequence[Machine],
    dropped: Dropped,
    scratch: Path,
    check: Callable[[], None],
) -> list[Proof]:
    """Makes the networks, lets clients ask, and removes everything again. `scratch`: a directory for their files."""
    made: list[tuple[str, str]] = []
    first, last = hosts[0], hosts[-1]
    try:
        with _metadata_service(controller):
            here, there = _guests(client, made, "services", (("web", first), ("db", last)), check, dhcp=True)
            (twin,) = _guests(client, made, "services twin", (("secret", first),), check, dhcp=True)
            (silent,) = _guests(client, made, "no services", (("mute", first),), check, dhcp=False)
            return [
                *_addresses(here, silent, scratch),
                *_names(here, there, twin),
                *_metadata(here, there, twin),
                _rogue(here, dropped),
            ]
    finally:
        for collection, identifier in reversed(made):
            client.delete(collection, identifier)


def _guests(
    client: Client,
    made: list[tuple[str, str]],
    name: str,
    wanted: Sequence[tuple[str, Machine]],
    check: Callable[[], None],
    *,
    dhcp: bool,
) -> list[Guest]:
    """Containers of a VPC of their own, one for each (name, host); ACTIVE."""
    network = client.create("networks", {"name": name, "cidr": "10.77.0.0/16", "dns_domain": DOMAIN})
    made.append(("networks", network["id"]))
    subnet = {"network_id": network["id"], "name": name, "enable_dhcp": dhcp}
    client.create("subnets", {**subnet, "cidr": "10.77.0.0/24"})
    if dhcp:
        client.create("subnets", {**subnet, "cidr": "fd77::/64", "ip_version": 6, **SLAAC})
    bodies = [
        {
            "network_id": network["id"],
            "dns_name": word,
            "device_id": f"instance-{name.replace(' ', '-')}-{word}",
            "binding:host_id": host.name,
        }
        for word, host in wanted
    ]
    ports: list[Resource] = client.create_many("ports", bodies)
    made += [("ports", port["id"]) for port in ports]

    def active() -> bool:
        return all(client.get(f"/v2.0/ports/{port['id']}")["port"]["status"] == "ACTIVE" for port in ports)

    await_true(active, "ports with services to be ACTIVE", 30.0, 0.02, check)
    return [
        Guest(
            host=host,
            netns=host.netns_dir / port["id"],
            ips=tuple(one["ip_address"] for one in port["fixed_ips"]),
            device_id=port["device_id"],
        )
        for (_, host), port in zip(wanted, ports, strict=True)
    ]


def _addresses(here: Guest, silent: Guest, scratch: Path) -> list[Proof]:
    """DHCP and router advertisements, and a subnet that has neither."""
    script = scratch / "udhcpc-says"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && env\nexit 0\n')
    script.chmod(0o755)
    udhcpc = ("udhcpc", "-i", "eth0", "-n", "-q", "-s", str(script))
    code, said = here.run(*udhcpc, "-t", "5", "-T", "1", "-O", "121")
    lines = said.splitlines()
    wanted = {f"ip={here.ips[0]}", "router=10.77.0.1", f"dns={SERVICE}", "domain=lab.example", "hostname=web"}
    _, solicited = here.run("rdisc6", "-1", "-r", "5", "eth0")
    _, routes = here.run("ip", "-6", "route")
    by_router = "default via fe80::fc16:11ff:fe00:0" in routes
    quiet, _ = silent.run(*udhcpc, "-t", "2", "-T", "1")
    deaf, _ = silent.run("rdisc6", "-1", "-r", "1", "-w", "500", "eth0")
    return [
        _proof(
            "DHCP",
            "udhcpc gets the port's address, router, DNS, domain and name from its own host",
            code == 0 and wanted <= set(lines),
            f"{len(wanted & set(lines))}/{len(wanted)} as the port says",
            said,
        ),
        _proof(
            "router advertisements",
            "rdisc6 is told the prefix; the kernel has its default route from it",
            "fd77::/64" in solicited and by_router,
            f"prefix {'told' if 'fd77::/64' in solicited else 'not told'}, route {'there' if by_router else 'missing'}",
            solicited + routes,
        ),
        _proof(
            "a subnet with enable_dhcp off is silent",
            "no address and no advertisement, where others get both",
            quiet != 0 and deaf != 0,
            "silent" if quiet and deaf else "answered",
            "",
        ),
    ]


def _dig(guest: Guest, *words: str) -> str:
    return guest.run("dig", f"@{SERVICE}", "+tries=3", "+time=2", *words)[1]


def _names(here: Guest, there: Guest, twin: Guest) -> list[Proof]:
    """DNS of the VPC, and of another one."""
    domain = DOMAIN.rstrip(".")
    asked = {
        "A": _dig(here, "+short", f"db.{domain}").strip() == there.ips[0],
        "AAAA": _dig(here, "+short", f"db.{domain}", "AAAA").strip() == there.ips[1],
        "PTR": _dig(here, "+short", "-x", there.ips[0]).strip() == f"db.{DOMAIN}",
        "TCP": _dig(here, "+short", "+tcp", f"db.{domain}").strip() == there.ips[0],
    }
    own = _dig(twin, "+short", f"secret.{domain}").strip() == twin.ips[0]
    crossed = [_dig(here, f"secret.{domain}"), _dig(twin, f"db.{domain}")]
    denied = sum("status: NXDOMAIN" in one for one in crossed)
    return [
        _proof(
            "names of ports",
            "dig finds a port on another host by its name and by its addresses, by UDP and TCP",
            all(asked.values()),
            f"{sum(asked.values())}/{len(asked)}: {', '.join(kind for kind, found in asked.items() if found)}",
            "",
        ),
        _proof(
            "names of another VPC do not resolve",
            "the same domain in both: each finds its own names only",
            own and denied == len(crossed),
            f"{denied}/{len(crossed)} denied, its own {'found' if own else 'not found'}",
            "".join(crossed),
        ),
    ]


def _metadata(here: Guest, there: Guest, twin: Guest) -> list[Proof]:
    """Metadata, under the name that the port has and no other."""
    right = 0
    words = []
    for guest in (here, there, twin):
        forged = ("-H", "X-Instance-ID: instance-of-somebody-else")
        _, said = guest.run("curl", "-sS", "--max-time", "10", *forged, f"http://{SERVICE}/latest/meta-data")
        told = {line.lower() for line in said.splitlines()}
        right += {f"x-instance-id: {guest.device_id}", f"x-forwarded-for: {guest.ips[0]}"} <= told
        right -= "somebody-else" in said
        words.append(said)
    return [
        _proof(
            "metadata",
            "curl on two hosts and in two VPCs with one address: each is who it is, whatever it says itself",
            right == len(words),
            f"{right}/{len(words)} known as themselves",
            "".join(words),
        )
    ]


def _rogue(guest: Guest, dropped: Dropped) -> Proof:
    """A container that plays DHCP server."""
    before = dropped(guest.host).get("dhcp_server", 0)

    def play() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            server.bind(("", 67))
            for _ in range(10):
                server.sendto(b"offer", ("255.255.255.255", 68))

    fd = netns.open_path(guest.netns)
    try:
        netns.call(fd, play)
    finally:
        os.close(fd)
    found = dropped(guest.host).get("dhcp_server", 0) - before
    return _proof(
        "DHCP servers of tenants", "10 offers from a port: none passes", found == 10, f"{found}/10 dropped", ""
    )


def _proof(name: str, expectation: str, passed: bool, measured: str, said: str) -> Proof:
    tail = "" if passed or not said else f": {' '.join(said.split())[-200:]}"
    return Proof(name=name, expectation=expectation, measured=measured + tail, passed=passed)


class _Echo(BaseHTTPRequestHandler):
    """Says what it was asked."""

    def do_GET(self) -> None:
        body = "".join(f"{name}: {value}\n" for name, value in self.headers.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        """Not on the lab's screen."""


@contextmanager
def _metadata_service(controller: Machine) -> Iterator[None]:
    """Listens beside the controller, where the agents' `metadata_url` says."""

    def listen() -> ThreadingHTTPServer:
        return ThreadingHTTPServer((controller.address, METADATA_PORT), _Echo)

    assert controller.netns is not None, "packets are real"
    fd = netns.open_path(controller.netns)
    try:
        server = netns.call(fd, listen)
    finally:
        os.close(fd)
    serving = threading.Thread(target=server.serve_forever, name="metadata", daemon=True)
    serving.start()
    try:
        yield
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
