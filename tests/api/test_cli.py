"""The `openstack` command, as a real process, against a real server on loopback. Few calls: each costs a second."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OPENSTACK = Path(sys.executable).with_name("openstack")
TIMEOUT_S = 120


def openstack(server: str, *words: str) -> Any:
    """What the command prints, as JSON; fails with what it says on standard error."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    done = subprocess.run(
        [OPENSTACK, "--os-auth-type", "none", "--os-endpoint", server, *words],
        env=clean,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def test_a_session(server: str) -> None:
    """network, subnet and port: create, list, show, delete."""
    as_json = ("-f", "json")
    network = openstack(server, "network", "create", "cli-net", "--mtu", "1400", *as_json)
    assert ("cli-net", 1400) == (network["name"], network["mtu"])
    subnet = openstack(
        server, "subnet", "create", "cli-subnet", "--network", "cli-net", "--subnet-range", "10.8.0.0/24", *as_json
    )
    assert (network["id"], "10.8.0.1") == (subnet["network_id"], subnet["gateway_ip"])
    port = openstack(
        server, "port", "create", "cli-port", "--network", "cli-net", "--fixed-ip", "subnet=cli-subnet", *as_json
    )
    assert ("DOWN", "10.8.0.2") == (port["status"], port["fixed_ips"][0]["ip_address"])
    listed = openstack(server, "port", "list", "--network", "cli-net", *as_json)
    assert [port["id"]] == [row["ID"] for row in listed]
    shown = openstack(server, "network", "show", "cli-net", *as_json)
    assert [subnet["id"]] == shown["subnets"]
    openstack(server, "port", "delete", "cli-port")
    openstack(server, "network", "delete", "cli-net")
    assert "cli-net" not in {row["Name"] for row in openstack(server, "network", "list", *as_json)}


def test_security_groups(server: str) -> None:
    """A group, a rule by another group and one by prefix, a port in it, as the openstack command has them; IPv6 too."""
    as_json = ("-f", "json")
    group = openstack(server, "security", "group", "create", "cli-web", *as_json)
    assert ["egress", "egress"] == [rule["direction"] for rule in group["rules"]]
    words = ("--protocol", "tcp", "--dst-port", "80:443", "--remote-ip", "2001:db8::/32", "--ethertype", "IPv6")
    rule = openstack(server, "security", "group", "rule", "create", "cli-web", *words, *as_json)
    assert ("IPv6", 80, 443) == (rule["ether_type"], rule["port_range_min"], rule["port_range_max"])
    openstack(server, "network", "create", "cli-dual", *as_json)
    subnet = ("--network", "cli-dual", "--ip-version", "6", "--subnet-range", "2001:db8:77::/64")
    openstack(server, "subnet", "create", "cli-six", *subnet, *as_json)
    port = openstack(
        server, "port", "create", "cli-member", "--network", "cli-dual", "--security-group", "cli-web", *as_json
    )
    assert ([group["id"]], "2001:db8:77::2") == (port["security_group_ids"], port["fixed_ips"][0]["ip_address"])
    openstack(server, "port", "delete", "cli-member")
    openstack(server, "network", "delete", "cli-dual")
    openstack(server, "security", "group", "delete", "cli-web")


def test_quality_of_service(server: str) -> None:
    """A policy, a limit and a mark, a port and a network that have it, as the openstack command has them."""
    as_json = ("-f", "json")
    policy = openstack(server, "network", "qos", "policy", "create", "cli-gold", "--share", *as_json)
    assert ("cli-gold", True) == (policy["name"], policy["shared"])
    limit = ("--type", "bandwidth-limit", "--max-kbps", "1000", "--max-burst-kbits", "100", "--egress")
    rule = openstack(server, "network", "qos", "rule", "create", *limit, "cli-gold", *as_json)
    assert (1000, 100, "egress") == (rule["max_kbps"], rule["max_burst_kbps"], rule["direction"])
    mark = ("--type", "dscp-marking", "--dscp-mark", "46")
    openstack(server, "network", "qos", "rule", "create", *mark, "cli-gold", *as_json)
    openstack(server, "network", "qos", "rule", "set", "--max-kbps", "2000", "cli-gold", rule["id"])
    listed = openstack(server, "network", "qos", "rule", "list", "cli-gold", *as_json)
    assert {("bandwidth_limit", 2000), ("dscp_marking", "")} == {(row["Type"], row["Max Kbps"]) for row in listed}
    openstack(server, "network", "create", "cli-limited", "--qos-policy", "cli-gold", *as_json)
    openstack(
        server, "subnet", "create", "cli-slow", "--network", "cli-limited", "--subnet-range", "10.9.0.0/24", *as_json
    )
    port = openstack(
        server, "port", "create", "cli-slow-port", "--network", "cli-limited", "--qos-policy", "cli-gold", *as_json
    )
    assert policy["id"] == port["qos_policy_id"]
    openstack(server, "port", "unset", "--qos-policy", "cli-slow-port")
    openstack(server, "network", "set", "--no-qos-policy", "cli-limited")
    openstack(server, "network", "qos", "policy", "delete", "cli-gold")


def test_routers(server: str) -> None:
    """router create, add subnet, add route and the way back, as the openstack command has them."""
    as_json = ("-f", "json")
    openstack(server, "network", "create", "cli-routed", *as_json)
    subnet = ("--network", "cli-routed", "--subnet-range", "10.77.0.0/24")
    openstack(server, "subnet", "create", "cli-routed-subnet", *subnet, *as_json)
    router = openstack(server, "router", "create", "cli-router", "--description", "d", *as_json)
    assert ("cli-router", True, "ACTIVE") == (router["name"], router["distributed"], router["status"])
    openstack(server, "router", "add", "subnet", "cli-router", "cli-routed-subnet")
    shown = openstack(server, "router", "show", "cli-router", *as_json)
    assert ["10.77.0.1"] == [one["ip_address"] for one in shown["interfaces_info"]]
    route = ("--route", "destination=192.0.2.0/24,gateway=10.77.0.9")
    changed = openstack(server, "router", "add", "route", "cli-router", *route, *as_json)
    assert [{"destination": "192.0.2.0/24", "nexthop": "10.77.0.9"}] == changed["routes"]
    openstack(server, "router", "set", "cli-router", *route[:1], "destination=198.51.100.0/24,gateway=10.77.0.8")
    listed = openstack(server, "router", "show", "cli-router", *as_json)
    assert 2 == len(listed["routes"])
    openstack(server, "router", "unset", "cli-router", *route)
    openstack(server, "router", "set", "cli-router", "--no-route", "--name", "cli-renamed")
    openstack(server, "router", "remove", "subnet", "cli-renamed", "cli-routed-subnet")
    openstack(server, "router", "delete", "cli-renamed")
    openstack(server, "network", "delete", "cli-routed")


def test_floating_ips(server: str) -> None:
    """network create --external, router set, floating ip create, set and unset, as the openstack command has them."""
    as_json = ("-f", "json")
    external = openstack(server, "network", "create", "cli-ext", "--external", *as_json)
    assert external["router:external"] is True
    pool = ("--network", "cli-ext", "--subnet-range", "203.0.113.0/24", "--no-dhcp")
    openstack(server, "subnet", "create", "cli-pool", *pool, *as_json)
    openstack(server, "network", "create", "cli-in", *as_json)
    openstack(server, "subnet", "create", "cli-sub", "--network", "cli-in", "--subnet-range", "10.78.0.0/24", *as_json)
    port = openstack(server, "port", "create", "cli-eip-port", "--network", "cli-in", *as_json)
    openstack(server, "router", "create", "cli-gw", *as_json)
    openstack(server, "router", "add", "subnet", "cli-gw", "cli-sub")
    openstack(server, "router", "set", "cli-gw", "--external-gateway", "cli-ext", "--disable-snat")
    made = openstack(server, "floating", "ip", "create", "cli-ext", *as_json)
    openstack(server, "floating", "ip", "set", made["id"], "--port", "cli-eip-port")
    shown = openstack(server, "floating", "ip", "show", made["floating_ip_address"], *as_json)
    assert (port["id"], "10.78.0.2") == (shown["port_id"], shown["fixed_ip_address"])
    openstack(server, "floating", "ip", "unset", made["id"], "--port")
    openstack(server, "floating", "ip", "delete", made["id"])
    openstack(server, "router", "unset", "cli-gw", "--external-gateway")
    openstack(server, "router", "remove", "subnet", "cli-gw", "cli-sub")
    openstack(server, "router", "delete", "cli-gw")


def test_port_forwardings(server: str) -> None:
    """floating ip port forwarding create, list and delete, as the openstack command has them."""
    as_json = ("-f", "json")
    openstack(server, "network", "create", "cli-pf-ext", "--external", *as_json)
    pool = ("--network", "cli-pf-ext", "--subnet-range", "198.51.100.0/24", "--no-dhcp")
    openstack(server, "subnet", "create", "cli-pf-pool", *pool, *as_json)
    openstack(server, "network", "create", "cli-pf-in", *as_json)
    inner = ("--network", "cli-pf-in", "--subnet-range", "10.79.0.0/24")
    openstack(server, "subnet", "create", "cli-pf-sub", *inner, *as_json)
    port = openstack(server, "port", "create", "cli-pf-port", "--network", "cli-pf-in", *as_json)
    openstack(server, "router", "create", "cli-pf-gw", "--external-gateway", "cli-pf-ext", "--disable-snat", *as_json)
    openstack(server, "router", "add", "subnet", "cli-pf-gw", "cli-pf-sub")
    fip = openstack(server, "floating", "ip", "create", "cli-pf-ext", *as_json)
    verb = ("floating", "ip", "port", "forwarding")
    ends = ("--internal-protocol-port", "8080", "--external-protocol-port", "80", "--protocol", "tcp")
    where = ("--internal-ip-address", "10.79.0.2", "--port", port["id"])
    made = openstack(server, *verb, "create", *where, *ends, fip["id"], *as_json)
    assert (80, 8080, "tcp") == (made["external_port"], made["internal_port"], made["protocol"])
    listed = openstack(server, *verb, "list", fip["id"], *as_json)
    assert [made["id"]] == [row["ID"] for row in listed]
    openstack(server, *verb, "delete", fip["id"], made["id"])
