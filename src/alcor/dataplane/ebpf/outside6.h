/* SPDX-License-Identifier: Apache-2.0
 *
 * IPv6 outside: docs/pipeline.md, "To the outside" and "From the outside", for packets that keep their addresses. Included
 * by ipv6.h.
 *
 * Whose an address is out there is in the routes of the VNI OUTSIDE: a tenant's subnet leads to its VNI, an external
 * network's to OUTSIDE itself. Who on this host has it is in `local`, as for any packet. So nothing is kept per port.
 */
#ifndef ALCOR_OUTSIDE6_H
#define ALCOR_OUTSIDE6_H

/* The longest route outside for the address, or NULL. */
static __always_inline struct route *outside_route(const void *ip)
{
	struct route_key key = {.prefix_length = ROUTE_BITS + 128, .vni = OUTSIDE | ROUTE_IPV6};

	__builtin_memcpy(key.ip, ip, sizeof(key.ip));
	return bpf_map_lookup_elem(&routes, &key);
}

/* Whose the address is outside: the VNI, and the gateway that packets from it take. NULL: nobody's that is known here, or
 * an external network's own. */
static __always_inline struct hop *outside_owner(const void *ip)
{
	struct route *route = outside_route(ip);

	if (!route || route->kind != ROUTE_CONNECTED || route->hops[0].vni == OUTSIDE)
		return NULL;
	return &route->hops[0];
}

/* Who on this host has the address outside, or NULL. */
static __always_inline struct local_endpoint *at_home(const void *ip)
{
	struct hop *owner = outside_owner(ip);
	struct local_endpoint *here;
	struct address_key key;

	if (!owner)
		return NULL;
	key = address6_of(owner->vni, ip);
	here = bpf_map_lookup_elem(&local, &key);
	return here && !(here->flags & (ENDPOINT_GATEWAY | ENDPOINT_VIP)) ? here : NULL;
}

/* A link-local address or a group: no router passes on what is for one, or from one (RFC 4291 sections 2.5.6 and 2.7). */
static __always_inline bool stays(const struct in6_addr *ip)
{
	return ip->s6_addr[0] == 0xff || (ip->s6_addr[0] == 0xfe && (ip->s6_addr[1] & 0xc0) == 0x80);
}

/* Step X1. 0 with the next hop in scratch, or a negative drop reason. */
static __noinline int find_outside6(struct __sk_buff *skb, __u32 vni)
{
	struct scratch *on = get_scratch();
	struct ipv6hdr ip;
	struct hop *owner;

	if (!on)
		return -DROP_FLOWS_FULL;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_MALFORMED;
	owner = outside_owner(&ip.saddr);
	if (!owner || owner->vni != vni)
		return -DROP_NO_TRANSLATION;
	if (!external_device() || stays(&ip.daddr))
		return -DROP_NO_EXTERNAL;
	__builtin_memcpy(on->outside.next6, outside_route(&ip.daddr) ? (void *)&ip.daddr : owner->ip, 16);
	return is_unspecified(on->outside.next6) ? -DROP_NO_EXTERNAL : 0;
}

/* Steps X2 and X3, once policy and length are seen to. */
static __noinline int to_external6(struct __sk_buff *skb)
{
	struct external_device *out = external_device();
	struct ethhdr *eth = frame(skb, ETH_HLEN + sizeof(struct ipv6hdr));
	struct bpf_redir_neigh neighbour = {};
	struct scratch *on = get_scratch();
	struct in6_addr destination;
	struct ipv6hdr *ip;

	if (!on || !out)
		return -DROP_NO_EXTERNAL;
	if (!eth)
		return -DROP_MALFORMED;
	ip = (struct ipv6hdr *)(eth + 1);
	ip->hop_limit--;
	destination = ip->daddr;
	if (at_home(&destination))
		return turn(skb, eth, out);
	neighbour.nh_family = AF_INET6;
	__builtin_memcpy(neighbour.ipv6_nh, on->outside.next6, 16);
	verdict(skb, VERDICT_EXTERNAL, out->ifindex, 0);
	skb->cb[3] = on->outside.next6[3];
	skb->cb[4] = on->outside.next6[0];
	return bpf_redirect_neigh(out->ifindex, &neighbour, sizeof(neighbour), 0);
}

/* "From the outside", step 2: who has an address is asked. A TC action. */
static __noinline int external_nd(struct __sk_buff *skb, const struct external_device *out)
{
	struct nd_frame nd;
	__be32 asker[4], asked[4]; /* in the frame they are at odd halves */

	if (bpf_skb_load_bytes(skb, 0, &nd, ND_SOLICITATION_LENGTH) || nd.code || nd.ip.hop_limit != ND_HOPS ||
	    bpf_ntohs(nd.ip.payload_len) < ND_SOLICITATION_LENGTH - ETH_HLEN - sizeof(nd.ip))
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	__builtin_memcpy(asker, &nd.ip.saddr, sizeof(asker));
	__builtin_memcpy(asked, nd.target, sizeof(asked));
	if (same_ip(asker, asked) || !at_home(asked))
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	return advertise(skb, &nd, out->mac, 0, out->ifindex);
}

/* Steps 4 to 6: an IPv6 packet for an address that is here. */
static __noinline int inward6(struct __sk_buff *skb, const struct local_endpoint *here)
{
	struct ethhdr *eth = frame(skb, ETH_HLEN + sizeof(struct ipv6hdr));
	struct scratch *on = get_scratch();
	__u32 length, ifindex;
	struct ipv6hdr *ip;
	struct port *port;
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	if (!eth || !here)
		return -DROP_MALFORMED;
	/* 4 */
	ip = (struct ipv6hdr *)(eth + 1);
	length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (length > skb->len - ETH_HLEN)
		return -DROP_MALFORMED;
	if (ip->hop_limit <= 1)
		return -DROP_TTL_EXCEEDED;
	if (stays(&ip->saddr) || is_unspecified((const __be32 *)&ip->saddr))
		return -DROP_SPOOFED_IP;
	length = segment_length(skb, length, sizeof(*ip), ip->nexthdr);
	/* 5 */
	refused = read_packet(skb, ETH_HLEN, &on->packet, 6, 0);
	if (refused)
		return refused;
	ifindex = here->ifindex;
	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return -DROP_NO_ENDPOINT;
	if (here->flags & ENDPOINT_DOWN)
		return -DROP_PORT_DOWN;
	/* M */
	if (length > port->mtu)
		return too_big6(skb, port->mtu, skb->ifindex);
	/* P */
	refused = admit(skb, on, port->vni, here, 0);
	if (refused)
		return refused;
	/* 6 */
	eth = frame(skb, ETH_HLEN + sizeof(struct ipv6hdr));
	if (!eth)
		return -DROP_MALFORMED;
	ip = (struct ipv6hdr *)(eth + 1);
	ip->hop_limit--;
	copy_mac(eth->h_dest, here->mac);
	from_router(eth->h_source);
	return deliver(skb, here);
}

/* "From the outside", from step 2 on, for an IPv6 frame. A TC action, or a negative drop reason. */
static __noinline int from_external6(struct __sk_buff *skb, const struct external_device *out)
{
	struct ethhdr *eth = frame(skb, ETH_HLEN + sizeof(struct ipv6hdr));
	struct local_endpoint *here;
	struct in6_addr destination;
	struct ipv6hdr *ip = (struct ipv6hdr *)(eth + 1);
	__u8 type = 0;
	bool ours;

	if (!eth || ip->version != 6)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	ours = same_mac(eth->h_dest, out->mac);
	destination = ip->daddr;
	/* 2 */
	if (ip->nexthdr == IPPROTO_ICMPV6 && !bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &type, sizeof(type)) &&
	    type == ICMPV6_SOLICITATION)
		return external_nd(skb, out);
	/* 3 */
	here = ours ? at_home(&destination) : NULL;
	if (!here)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	skb->cb[2] = skb->ifindex;
	return inward6(skb, here);
}

#endif
