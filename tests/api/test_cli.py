"""The `openstack` command with python-octaviaclient, as real processes, against a real server on loopback.

Starting the command costs some seconds, so its shell is given many commands at once (`openstack < commands`): what
makes and looks, then what needs ids of that, changes and deletes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OPENSTACK = Path(sys.executable).with_name("openstack")
TIMEOUT_S = 180


def openstack(server: str, commands: str) -> dict[str, Any]:
    """What commands print, as JSON, by the name before their `=`; `_` is for what nobody looks at, and a line without
    one prints nothing. Fails with what any of them says on standard error (the shell's own exit code is always 1)."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    lines = [line.strip().partition(" = ") for line in commands.strip().splitlines()]
    typed = [words if "status show" in words else f"{words} -f json" if named else name for name, named, words in lines]
    done = subprocess.run(
        [OPENSTACK],
        env={**clean, "OS_AUTH_TYPE": "none", "OS_ENDPOINT": server},
        input="\n".join(typed) + "\n",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "" == done.stderr
    decoder, found, rest = json.JSONDecoder(), [], done.stdout.lstrip()
    while rest:
        one, end = decoder.raw_decode(rest)
        found.append(one)
        rest = rest[end:].lstrip()
    return dict(zip([name for name, named, _ in lines if named], found, strict=True))


def test_networks_groups_and_qos(server: str) -> None:
    """Networks, subnets, ports (DHCP options, names), security groups and quality of service: made, shown, changed,
    deleted."""
    found = openstack(
        server,
        """
        network = network create cli-net --mtu 1400 --dns-domain cli.example.
        subnet = subnet create cli-subnet --network cli-net --subnet-range 10.8.0.0/24 --dns-nameserver 192.0.2.53
        port = port create cli-port --network cli-net --fixed-ip subnet=cli-subnet --dns-name web \
            --extra-dhcp-option name=ntp-server,value=192.0.2.7
        listed = port list --network cli-net
        shown = network show cli-net
        group = security group create cli-web
        rule = security group rule create cli-web --protocol tcp --dst-port 80:443 --remote-ip 2001:db8::/32 \
            --ethertype IPv6
        within = security group rule create cli-web --protocol tcp --dst-port 22 --remote-group cli-web
        _ = network create cli-dual
        _ = subnet create cli-six --network cli-dual --ip-version 6 --subnet-range 2001:db8:77::/64
        member = port create cli-member --network cli-dual --security-group cli-web
        policy = network qos policy create cli-gold --share
        limit = network qos rule create --type bandwidth-limit --max-kbps 1000 --max-burst-kbits 100 --egress cli-gold
        _ = network qos rule create --type dscp-marking --dscp-mark 46 cli-gold
        rules = network qos rule list cli-gold
        _ = network create cli-limited --qos-policy cli-gold
        _ = subnet create cli-slow --network cli-limited --subnet-range 10.9.0.0/24
        slow = port create cli-slow-port --network cli-limited --qos-policy cli-gold
        """,
    )
    network, subnet, port = found["network"], found["subnet"], found["port"]
    assert ("cli-net", 1400, "cli.example.") == (network["name"], network["mtu"], network["dns_domain"])
    assert (network["id"], "10.8.0.1", ["192.0.2.53"]) == (
        *(subnet["network_id"], subnet["gateway_ip"]),
        subnet["dns_nameservers"],
    )
    assert ("DOWN", "10.8.0.2", "web") == (port["status"], port["fixed_ips"][0]["ip_address"], port["dns_name"])
    assert [("ntp-server", "192.0.2.7")] == [(one["opt_name"], one["opt_value"]) for one in port["extra_dhcp_opts"]]
    assert [port["id"]] == [row["ID"] for row in found["listed"]]
    assert [subnet["id"]] == found["shown"]["subnets"]
    group, rule, member = found["group"], found["rule"], found["member"]
    assert ["egress", "egress"] == [one["direction"] for one in group["rules"]]
    assert ("IPv6", 80, 443) == (rule["ether_type"], rule["port_range_min"], rule["port_range_max"])
    assert group["id"] == found["within"]["remote_group_id"]
    assert ([group["id"]], "2001:db8:77::2") == (member["security_group_ids"], member["fixed_ips"][0]["ip_address"])
    policy, limit = found["policy"], found["limit"]
    assert ("cli-gold", True) == (policy["name"], policy["shared"])
    assert (1000, 100, "egress") == (limit["max_kbps"], limit["max_burst_kbps"], limit["direction"])
    listed = {(row["Type"], row["Max Kbps"]) for row in found["rules"]}
    assert {("bandwidth_limit", 1000), ("dscp_marking", "")} == listed
    assert policy["id"] == found["slow"]["qos_policy_id"]
    found = openstack(
        server,
        f"""
        network qos rule set --max-kbps 2000 cli-gold {limit["id"]}
        changed = network qos rule show cli-gold {limit["id"]}
        port unset --qos-policy cli-slow-port
        network set --no-qos-policy cli-limited
        network qos policy delete cli-gold
        port delete cli-port cli-member cli-slow-port
        network delete cli-net cli-dual cli-limited
        security group delete cli-web
        left = network list
        policies = network qos policy list
        """,
    )
    assert 2000 == found["changed"]["max_kbps"]
    assert not {"cli-net", "cli-dual", "cli-limited"} & {row["Name"] for row in found["left"]}
    assert "cli-gold" not in {row["Name"] for row in found["policies"]}


def test_subnets_tell_ports_how_they_get_addresses(server: str) -> None:
    """SLAAC, DHCPv6, and host routes."""
    found = openstack(
        server,
        """
        _ = network create cli-told
        _ = subnet create cli-routes --network cli-told --subnet-range 10.8.0.0/24
        slaac = subnet create cli-slaac --network cli-told --ip-version 6 --subnet-range 2001:db8:78::/64 \
            --ipv6-ra-mode slaac --ipv6-address-mode slaac
        stateful = subnet create cli-stateful --network cli-told --ip-version 6 --subnet-range 2001:db8:79::/64 \
            --ipv6-ra-mode dhcpv6-stateful --ipv6-address-mode dhcpv6-stateful
        subnet set cli-routes --host-route destination=198.51.100.0/24,gateway=10.8.0.1
        told = subnet show cli-routes
        network delete cli-told
        """,
    )
    modes = [(found[name]["ipv6_ra_mode"], found[name]["ipv6_address_mode"]) for name in ("slaac", "stateful")]
    assert [("slaac", "slaac"), ("dhcpv6-stateful", "dhcpv6-stateful")] == modes
    assert [{"destination": "198.51.100.0/24", "nexthop": "10.8.0.1"}] == found["told"]["host_routes"]


def _hops(router: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["destination"], one["nexthop"]) for one in router["routes"]}


def test_routers_and_the_outside(server: str) -> None:
    """Routers with interfaces and extra routes, external networks and gateways, floating IPs, port forwardings."""
    found = openstack(
        server,
        """
        _ = network create cli-routed
        _ = subnet create cli-routed-subnet --network cli-routed --subnet-range 10.77.0.0/24
        router = router create cli-router --description d
        router add subnet cli-router cli-routed-subnet
        interfaces = router show cli-router
        _ = router add route cli-router --route destination=192.0.2.0/24,gateway=10.77.0.9
        router set cli-router --route destination=198.51.100.0/24,gateway=10.77.0.8
        router set cli-router --route destination=198.51.100.0/24,gateway=10.77.0.7
        routed = router show cli-router
        external = network create cli-ext --external
        _ = subnet create cli-pool --network cli-ext --subnet-range 203.0.113.0/24 --no-dhcp
        router set cli-router --external-gateway cli-ext --enable-snat
        shared = router show cli-router
        router set cli-router --external-gateway cli-ext --disable-snat
        port = port create cli-eip-port --network cli-routed
        _ = port create cli-pf-port --network cli-routed --fixed-ip ip-address=10.77.0.50
        policy = network qos policy create cli-outside
        made = floating ip create cli-ext --floating-ip-address 203.0.113.50 --qos-policy cli-outside
        floating ip set 203.0.113.50 --no-qos-policy
        unlimited = floating ip show 203.0.113.50
        floating ip set 203.0.113.50 --qos-policy cli-outside
        floating ip set 203.0.113.50 --port cli-eip-port
        shown = floating ip show 203.0.113.50
        _ = floating ip create cli-ext --floating-ip-address 203.0.113.60
        forwarded = floating ip port forwarding create --internal-ip-address 10.77.0.50 --port cli-pf-port \
            --internal-protocol-port 8080 --external-protocol-port 80 --protocol tcp 203.0.113.60
        listed = floating ip port forwarding list 203.0.113.60
        """,
    )
    router, shown, forwarded = found["router"], found["shown"], found["forwarded"]
    assert ("cli-router", True, "ACTIVE") == (router["name"], router["distributed"], router["status"])
    assert ["10.77.0.1"] == [one["ip_address"] for one in found["interfaces"]["interfaces_info"]]
    two = {("198.51.100.0/24", "10.77.0.7"), ("198.51.100.0/24", "10.77.0.8")}
    assert {("192.0.2.0/24", "10.77.0.9"), *two} == _hops(found["routed"])
    assert found["shared"]["external_gateway_info"]["enable_snat"] is True
    assert found["external"]["router:external"] is True
    port = found["port"]["id"], found["port"]["fixed_ips"][0]["ip_address"]
    assert (found["made"]["id"], *port) == (shown["id"], shown["port_id"], shown["fixed_ip_address"])
    limits = [one["qos_policy_id"] for one in (found["made"], found["unlimited"], shown)]
    assert [found["policy"]["id"], None, found["policy"]["id"]] == limits
    assert (80, 8080, "tcp") == (forwarded["external_port"], forwarded["internal_port"], forwarded["protocol"])
    assert [forwarded["id"]] == [row["ID"] for row in found["listed"]]
    found = openstack(
        server,
        f"""
        floating ip port forwarding delete 203.0.113.60 {forwarded["id"]}
        floating ip unset 203.0.113.50 --port --qos-policy
        network qos policy delete cli-outside
        floating ip delete 203.0.113.50 203.0.113.60
        router unset cli-router --route destination=192.0.2.0/24,gateway=10.77.0.9
        one = router show cli-router
        router set cli-router --no-route --name cli-renamed
        router unset cli-renamed --external-gateway
        router remove subnet cli-renamed cli-routed-subnet
        router delete cli-renamed
        port delete cli-eip-port cli-pf-port
        network delete cli-routed cli-ext
        routers = router list
        addresses = floating ip list
        """,
    )
    assert two == _hops(found["one"])
    assert not {"cli-router", "cli-renamed"} & {row["Name"] for row in found["routers"]}
    gone = {"203.0.113.50", "203.0.113.60"}
    assert not gone & {row["Floating IP Address"] for row in found["addresses"]}


def test_load_balancers(server: str) -> None:
    """Balancer, listener, pool, member, health monitor, status tree and statistics, by names; behind a floating IP."""
    found = openstack(
        server,
        """
        _ = network create lb-net
        _ = subnet create lb-sub --network lb-net --subnet-range 10.7.0.0/24
        _ = port create lb-vip --network lb-net --fixed-ip ip-address=10.7.0.100
        made = loadbalancer create --name cli-lb --vip-port-id lb-vip --wait
        listener = loadbalancer listener create --name cli-web --protocol TCP --protocol-port 80 cli-lb
        pool = loadbalancer pool create --name cli-pool --listener cli-web --protocol TCP \
            --lb-algorithm ROUND_ROBIN --session-persistence type=SOURCE_IP
        member = loadbalancer member create --name cli-one --address 10.7.0.9 --protocol-port 8080 --weight 3 cli-pool
        monitor = loadbalancer healthmonitor create --delay 5 --timeout 2 --max-retries 2 --type TCP \
            --name cli-hm cli-pool
        _ = loadbalancer listener create --name cli-dns --protocol UDP --protocol-port 53 cli-lb
        udp = loadbalancer pool create --name cli-udp --listener cli-dns --protocol UDP --lb-algorithm SOURCE_IP
        connect = loadbalancer healthmonitor create --delay 5 --timeout 2 --max-retries 2 --type UDP-CONNECT cli-udp
        _ = loadbalancer pool create --name cli-http --loadbalancer cli-lb --protocol TCP --lb-algorithm ROUND_ROBIN
        http = loadbalancer healthmonitor create --delay 5 --timeout 2 --max-retries 2 --type HTTP \
            --url-path /health --expected-codes 200-204 cli-http
        of_listener = loadbalancer listener stats show cli-web
        shown = loadbalancer pool show cli-pool
        loadbalancer member set cli-pool cli-one --weight 0
        draining = loadbalancer member show cli-pool cli-one
        listed = loadbalancer list --name cli-lb
        tree = loadbalancer status show cli-lb
        stats = loadbalancer stats show cli-lb
        _ = network create lb-ext --external
        _ = subnet create lb-pool --network lb-ext --subnet-range 203.0.113.0/24 --no-dhcp
        _ = router create lb-router --external-gateway lb-ext --disable-snat
        router add subnet lb-router lb-sub
        eip = floating ip create lb-ext --port lb-vip --floating-ip-address 203.0.113.80
        """,
    )
    made = found["made"]
    assert ("ACTIVE", "10.7.0.100") == (made["provisioning_status"], made["vip_address"])
    assert [{"id": found["listener"]["id"]}] == found["pool"]["listeners"]
    assert ("NO_MONITOR", 3) == (found["member"]["operating_status"], found["member"]["weight"])
    assert found["monitor"]["id"] == found["shown"]["healthmonitor_id"]
    assert "DRAINING" == found["draining"]["operating_status"]
    assert [made["id"]] == [row["id"] for row in found["listed"]]
    assert ("SOURCE_IP", "UDP-CONNECT") == (found["udp"]["lb_algorithm"], found["connect"]["type"])
    assert ("HTTP", "/health", "200-204") == tuple(found["http"][key] for key in ("type", "url_path", "expected_codes"))
    assert 0 == found["of_listener"]["total_connections"]
    (listener,) = [one for one in found["tree"]["loadbalancer"]["listeners"] if one["name"] == "cli-web"]
    assert ("cli-web", "cli-pool") == (listener["name"], listener["pools"][0]["name"])
    assert 0 == found["stats"]["total_connections"]
    assert (made["vip_port_id"], "10.7.0.100") == (found["eip"]["port_id"], found["eip"]["fixed_ip_address"])
    found = openstack(
        server,
        """
        floating ip delete 203.0.113.80
        loadbalancer healthmonitor delete cli-hm
        loadbalancer member delete cli-pool cli-one
        loadbalancer pool delete cli-pool
        loadbalancer listener delete cli-web
        loadbalancer delete cli-lb --cascade
        listed = loadbalancer list --name cli-lb
        """,
    )
    assert [] == found["listed"]
