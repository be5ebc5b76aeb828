"""What a client asks first: versions, resources, extensions. Called by app.

An extension is listed only if Alcor keeps what its alias promises; clients change their behaviour by this list.
"""

from __future__ import annotations

import msgspec

from alcor.api.errors import Reply, error_reply
from alcor.api.exchange import Call

RESOURCES = (
    *(("network", "networks"), ("subnet", "subnets"), ("port", "ports"), ("node", "nodes"), ("agent", "agents")),
    *(("security-group", "security-groups"), ("security-group-rule", "security-group-rules")),
    *(("policy", "qos/policies"), ("rule_type", "qos/rule-types")),
    *(("router", "routers"), ("vpc-peering", "vpc-peerings")),
    ("floatingip", "floatingips"),
)
_EPOCH = "2026-11-23T00:00:00-00:00"
_encode = msgspec.json.Encoder().encode


class Link(msgspec.Struct, kw_only=True):
    """Where something is."""

    rel: str
    href: str


class Extension(msgspec.Struct, frozen=True, kw_only=True):
    """A set of attributes or behaviour beyond the core API, by its alias."""

    alias: str
    name: str
    description: str
    updated: str = _EPOCH
    links: tuple[str, ...] = ()


def _extension(alias: str, name: str, description: str) -> Extension:
    return Extension(alias=alias, name=name, description=description)


EXTENSIONS = {
    extension.alias: extension
    for extension in (
        _extension("allowed-address-pairs", "Allowed Address Pairs", "Lets ports send from more than their addresses."),
        _extension("agent", "agent", "Shows hosts' agents and whether they are alive; drains hosts."),
        _extension("alcor", "Alcor", "VPCs (networks with cidr), their peerings, ports with alcor:kind, nodes."),
        _extension("binding", "Port Binding", "Binds ports to hosts and says how the host plugs them."),
        _extension("dvr", "Distributed Virtual Router", "Routers are on every host."),
        _extension("dns-integration", "DNS Integration", "Names ports in their network's dns_domain."),
        _extension("extra_dhcp_opt", "Neutron Extra DHCP options", "Adds options to a port's DHCP answers."),
        _extension("empty-string-filtering", "Empty String Filtering", "Filters by attributes that are empty."),
        _extension("extraroute", "Neutron Extra Route", "Routes of a router by a next hop."),
        _extension("extraroute-atomic", "Atomically add/remove extra routes", "Adds and removes single routes."),
        _extension("external-net", "Neutron external network", "Marks networks as external: floating IPs are theirs."),
        _extension("fip-port-details", "Floating IP Port Details", "Shows the port that a floating IP stands for."),
        _extension("floating-ip-port-forwarding", "Floating IP Port Forwarding", "Forwards ports of floating IPs."),
        _extension("expose-port-forwarding-in-fip", "Expose Port Forwarding in FIP", "Shows them with their address."),
        _extension("filter-validation", "Filter parameters validation", "Refuses filters that no attribute answers."),
        _extension("net-mtu", "Network MTU", "Shows the MTU of a network."),
        _extension("net-mtu-writable", "Network MTU (writable)", "Sets the MTU of a network."),
        _extension("pagination", "Pagination support", "Lists in pages: limit, marker, page_reverse."),
        _extension("port-security", "Port Security", "Switches anti-spoofing and filtering of a port off."),
        _extension("project-id", "project_id field enabled", "Uses project_id beside tenant_id."),
        _extension("provider", "Provider Network", "Shows type and segmentation id of a network; sets the latter."),
        _extension("qos", "Quality of Service", "Limits the bandwidth of ports and marks their packets, by policies."),
        _extension("qos-bw-limit-direction", "Direction for QoS bandwidth limit rule", "Limits both ways."),
        _extension("qos-default", "QoS default policy", "Gives new networks of a project its default policy."),
        _extension("qos-fip", "Floating IP QoS", "Limits the bandwidth of floating IPs, by policies."),
        _extension("qos-fip-network-policy", "Floating IP QoS of its network", "Shows the external network's policy."),
        _extension("qos-rule-type-details", "Details of QoS rule types", "Shows what a type of rule can say."),
        _extension("qos-rules-alias", "Ability to modify QoS rules without parent ID", "Reaches rules by their ids."),
        _extension("revision-if-match", "If-Match constraints", "Changes only the revision that the client saw."),
        _extension("router", "Neutron L3 Router", "Routers between subnets."),
        _extension("security-group", "security-group", "Filters ports' traffic by groups of rules."),
        _extension("security-groups-normalized-cidr", "normalized_cidr", "Shows rules' prefixes without host bits."),
        _extension("sorting", "Sorting support", "Sorts lists: sort_key, sort_dir."),
        _extension("standard-attr-description", "standard-attr-description", "Describes resources."),
        _extension("standard-attr-revisions", "Resource revision numbers", "Numbers the revisions of resources."),
        _extension("standard-attr-timestamp", "Resource timestamps", "Says when a resource was made and changed."),
    )
}
"""By alias. Missing on purpose: ext-gw-mode, quotas, network_availability_zone, standard-attr-tag: nothing keeps them
yet."""


def _version(call: Call) -> dict[str, object]:
    return {"id": "v2.0", "status": "CURRENT", "links": [Link(rel="self", href=f"{call.host_url()}/v2.0/")]}


async def versions(call: Call) -> Reply:
    """GET /"""
    return Reply(200, _encode({"versions": [_version(call)]}))


async def resources(call: Call) -> Reply:
    """GET /v2.0/"""
    base = f"{call.host_url()}/v2.0"
    found = [
        {"name": one, "collection": many, "links": [Link(rel="self", href=f"{base}/{many}")]} for one, many in RESOURCES
    ]
    # Neutron's answer has no `version`; with it, a client whose endpoint already ends in /v2.0 can discover that.
    return Reply(200, _encode({"resources": found, "version": _version(call)}))


async def extensions(_call: Call) -> Reply:
    """GET /v2.0/extensions"""
    return Reply(200, _encode({"extensions": list(EXTENSIONS.values())}))


async def extension(call: Call) -> Reply:
    """GET /v2.0/extensions/{alias}"""
    found = EXTENSIONS.get(call.member)
    if found is None:
        return error_reply(404, "ExtensionNotFound", f"Extension with alias {call.member} does not exist.")
    return Reply(200, _encode({"extension": found}))
