/* SPDX-License-Identifier: Apache-2.0
 *
 * A load balancer's address behind an EIP: docs/pipeline.md, steps V and O. Included by alcor.bpf.c.
 *
 * The host that answers for the EIP is the client's host: it chooses, remembers, and gets the answers back. A backend's host
 * remembers who sent it the connection (a row of `balanced`, kind BALANCED_OUT), and its port's flag ANSWERS says that there
 * is something to look up: no other port pays for that.
 */
#ifndef ALCOR_VIP_H
#define ALCOR_VIP_H

/* Remembers where the answers go to what is in `scratch`, which `ifindex` is given: to the host `via`, or 0: this one. */
static __noinline int remember_way(__u32 ifindex, __be32 via)
{
	struct scratch *on = get_scratch();
	struct balanced row = {}, *known;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_key *key;
	struct port *port;

	if (!on || !is_balanceable(&on->packet) || on->packet.fragment == FRAGMENT_LATER)
		return 0;
	key = &on->balancing.pinned;
	make_key(key, &on->packet, ifindex, false);
	key->zero[0] = BALANCED_OUT;
	if (via) {
		row.ip[2] = bpf_htonl(0xffff);
		row.ip[3] = via;
	}
	row.flags = ends_connection(&on->packet) ? BALANCED_CLOSED : 0;
	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (port && !(port->flags & PORT_ANSWERS))
		port->flags |= PORT_ANSWERS;
	known = bpf_map_lookup_elem(&balanced, key);
	if (known && !(on->packet.protocol == PROTOCOL_TCP && on->packet.tcp_flags & TCP_SYN))
		row.flags |= known->flags;
	if (known && known->flags == row.flags && equal_ip(known->ip, row.ip) && now - known->seen_ns <= SECOND / 4)
		return 0;
	row.seen_ns = now;
	bpf_map_update_elem(&balanced, key, &row, BPF_ANY);
	return 0;
}

/* Step O: 1 when the port's packet answers what came from outside to a load balancer's address, with the host that it goes
 * back to in `scratch`; else 0. */
static __noinline int find_way_out(struct __sk_buff *skb, __u32 vni, __u32 ifindex)
{
	struct scratch *on = get_scratch();
	const struct packet *of;
	struct balanced *row;
	struct flow_key *key;
	bool egress = true;

	if (!on || read_packet(skb, ETH_HLEN, &on->packet, 4, 0))
		return 0;
	of = &on->packet;
	on->party.vni = vni;
	if (of->fragment && reassemble(&on->packet, &on->party))
		return 0;
	if (is_icmp_error(of)) {
		if (read_packet(skb, ETH_HLEN + on->packet.payload + 8, &on->quoted, 4, 1) ||
		    on->quoted.fragment == FRAGMENT_LATER)
			return 0;
		of = &on->quoted;
		egress = false;
	}
	if (!is_balanceable(of))
		return 0;
	key = &on->balancing.pinned;
	make_key(key, of, ifindex, egress);
	key->zero[0] = BALANCED_OUT;
	row = bpf_map_lookup_elem(&balanced, key);
	if (!row || is_idle(key, row, bpf_ktime_get_coarse_ns()))
		return 0;
	on->outside.next = row->ip[3];
	return 1;
}

/* The packet whose source is the VIP leaves with the EIP as its source. */
static __noinline int leave_as_eip(struct __sk_buff *skb, __u32 vni)
{
	struct external_device *out = external_device();
	struct scratch *on = get_scratch();
	struct address_key key;
	struct eip *as;
	int refused;

	if (!on || !out)
		return -DROP_NO_EXTERNAL;
	refused = read_packet(skb, ETH_HLEN, &on->packet, 4, 0);
	if (refused)
		return refused;
	key = address_of(vni, on->packet.source[3]);
	as = bpf_map_lookup_elem(&eips, &key);
	if (!as)
		return -DROP_NO_TRANSLATION;
	on->outside.source = as->ip[3];
	on->outside.queue = as->queue_out;
	on->outside.next = (on->packet.destination[3] ^ as->ip[3]) & as->mask ? as->gateway : on->packet.destination[3];
	if (!on->outside.next)
		return -DROP_NO_EXTERNAL;
	refused = readdress_quoted(skb, 0, on->packet.source[3], on->outside.source, 0);
	if (!refused)
		refused = readdress(skb, 1, on->outside.source, 0);
	return refused ? refused : leave(skb, out);
}

/* The other end of step O, where the connection came in: the answer in the frame gets the VIP as its source, then the EIP. */
static __always_inline int leave_balanced(struct __sk_buff *skb, __u32 vni)
{
	struct external_device *out = external_device();

	if (!out)
		return -DROP_NO_EXTERNAL;
	return unbalance(skb, vni, out->ifindex, 4) ? leave_as_eip(skb, vni) : -DROP_NO_TRANSLATION;
}

/* By the tunnel, back to the host that find_way_out found. */
static __noinline int tunnel_back(struct __sk_buff *skb, __u32 vni, __u8 dscp)
{
	struct scratch *on = get_scratch();
	struct remote_endpoint via = {};
	struct ethhdr *eth = frame(skb, ETH_HLEN);

	if (!on || !eth)
		return -DROP_MALFORMED;
	from_router(eth->h_source);
	via.host_ip[2] = bpf_htonl(0xffff);
	via.host_ip[3] = on->outside.next;
	return tunnel(skb, dscp, vni, 0, eth, &via, VXLAN_TO_OUTSIDE);
}

static __noinline int count_hop(struct __sk_buff *skb)
{
	return hop(skb) ? 0 : -DROP_MALFORMED;
}

/* Step O, once policy and length are seen to: back to where the connection came in. */
static __always_inline int answer_outside(struct __sk_buff *skb, __u32 vni, __u8 dscp)
{
	struct scratch *on = get_scratch();

	if (!on || count_hop(skb))
		return -DROP_MALFORMED;
	return on->outside.next ? tunnel_back(skb, vni, dscp) : leave_balanced(skb, vni);
}

/* Steps V to B, for a packet that was read: who gets it. 0 with that in `target`, a TC action, or a negative drop reason. */
static __noinline int place_outside(struct __sk_buff *skb, const struct eip *to, struct target *target)
{
	struct external_device *out = external_device();
	struct scratch *on = get_scratch();
	struct local_endpoint answerer = {};
	struct port *anchor;
	struct ethhdr *eth;
	struct iphdr *ip;
	__u32 ifindex = to->ifindex;
	int refused;

	if (!on || !out)
		return -DROP_NO_EXTERNAL;
	anchor = bpf_map_lookup_elem(&ports, &ifindex);
	if (!anchor)
		return -DROP_NO_ENDPOINT;
	eth = frame(skb, ETH_HLEN + sizeof(*ip));
	if (!eth)
		return -DROP_MALFORMED;
	ip = (struct iphdr *)(eth + 1);
	if (is_icmp(&on->packet) && !on->packet.fragment && is_echo(&on->packet, true) &&
	    !(on->packet.selector & bpf_htons(0xff))) {
		copy_mac(answerer.mac, out->mac);
		return to_gateway(skb, eth, ip, &answerer, out->ifindex);
	}
	/* M */
	if (segment_length(skb, bpf_ntohs(ip->tot_len), ip->ihl * 4, ip->protocol) > anchor->mtu)
		return too_big(skb, anchor->mtu, skb->ifindex);
	refused = readdress_quoted(skb, 1, on->packet.destination[3], to->ip[3], 0);
	if (!refused)
		refused = readdress(skb, 0, to->ip[3], 0);
	/* B */
	if (!refused)
		refused = find_backend(skb, to->vni, out->ifindex, 4, target);
	if (refused <= -MISSED)
		return hold(skb, ifindex, refused, false);
	/* Nobody outside has a backend's address: it would be let past the backend's security groups. */
	if (!refused && on->balancing.chosen.flags & (BALANCED_HAIRPIN | BALANCED_HAIRPIN_BACK))
		return -DROP_SPOOFED_IP;
	return refused;
}

/* On to who was chosen. */
static __noinline int send_balanced(struct __sk_buff *skb, __u32 vni, const struct target *target)
{
	struct ethhdr *eth = hop(skb);

	if (!eth)
		return -DROP_MALFORMED;
	from_router(eth->h_source);
	if (target->here) {
		copy_mac(eth->h_dest, target->here->mac);
		remember_way(target->here->ifindex, 0);
		return deliver(skb, target->here);
	}
	if (!target->there)
		return -DROP_NO_ENDPOINT;
	copy_mac(eth->h_dest, target->there->mac);
	return tunnel(skb, 0, vni, 0, eth, target->there, VXLAN_FROM_OUTSIDE);
}

/* Step V: a packet from outside for an EIP that stands for a load balancer's address. It was read. */
static __noinline int balance_outside(struct __sk_buff *skb, const struct eip *to)
{
	struct scratch *on = get_scratch();
	struct target target = {};
	int done = place_outside(skb, to, &target);

	if (done)
		return done;
	if (!on)
		return -DROP_FLOWS_FULL;
	/* P */
	if (target.here && !on->balancing.related) {
		done = admit(skb, on, to->vni, target.here, 0);
		if (done)
			return done;
	}
	if (balance(skb))
		return -DROP_MALFORMED;
	return send_balanced(skb, to->vni, &target);
}

#endif
