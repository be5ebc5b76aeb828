/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses outside: docs/pipeline.md, "To the outside" and "From the outside". Included by alcor.bpf.c.
 *
 * An EIP stands for one address of one port, on the port's own host, both ways and without a memory: what leaves gets it
 * as its source, what comes for it gets the port's address as its destination. Policy sees the addresses inside.
 * Checksums are mended, not made (RFC 1624), so packets whose checksum is yet to be made stay as they are.
 */
#ifndef ALCOR_NAT_H
#define ALCOR_NAT_H

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct external_device);
} external SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_EIPS);
	__type(key, struct address_key);
	__type(value, struct eip);
} eips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FORWARDINGS);
	__type(key, struct forwarding_key);
	__type(value, struct forwarding);
} forwardings SEC(".maps");

#define IP_CHECK_AT (ETH_HLEN + offsetof(struct iphdr, check))
#define IP_SOURCE_AT (ETH_HLEN + offsetof(struct iphdr, saddr))
#define IP_DESTINATION_AT (ETH_HLEN + offsetof(struct iphdr, daddr))
#define NO_CHECKSUM 0

static __always_inline struct external_device *external_device(void)
{
	__u32 zero = 0;
	struct external_device *out = bpf_map_lookup_elem(&external, &zero);

	return out && out->ifindex ? out : NULL;
}

/* Where in the transport header the checksum is that covers the IP addresses too; NO_CHECKSUM: none does. */
static __always_inline __u32 checksum_offset(__u8 protocol)
{
	if (protocol == PROTOCOL_TCP)
		return 16;
	if (protocol == PROTOCOL_UDP || protocol == PROTOCOL_UDPLITE || protocol == PROTOCOL_DCCP)
		return 6;
	return NO_CHECKSUM;
}

/* Another source (`source` 1) or destination for the packet in `scratch`, in its bytes and there; another port too unless
 * `port` is 0. 0, or a negative drop reason. */
static __noinline int readdress(struct __sk_buff *skb, __u32 source, __be32 to, __be16 port)
{
	struct scratch *on = get_scratch();
	__be32 from;
	__u32 at;
	__be16 old;

	if (!on)
		return -DROP_FLOWS_FULL;
	from = source ? on->packet.source[3] : on->packet.destination[3];
	at = checksum_offset(on->packet.protocol);
	if (at && on->packet.fragment != FRAGMENT_LATER) {
		__u64 how = BPF_F_PSEUDO_HDR | sizeof(to);

		/* UDP: 0 says that there is none (RFC 768). */
		if (on->packet.protocol == PROTOCOL_UDP)
			how |= BPF_F_MARK_MANGLED_0;
		at += ETH_HLEN + on->packet.payload;
		if (bpf_l4_csum_replace(skb, at, from, to, how))
			return -DROP_MALFORMED;
		if (port) {
			old = source ? on->packet.source_port : on->packet.destination_port;
			how = on->packet.protocol == PROTOCOL_UDP ? BPF_F_MARK_MANGLED_0 | sizeof(port) : sizeof(port);
			if (bpf_l4_csum_replace(skb, at, old, port, how) ||
			    bpf_skb_store_bytes(skb, ETH_HLEN + on->packet.payload + (source ? 0 : 2), &port,
						sizeof(port), 0))
				return -DROP_MALFORMED;
			if (source)
				on->packet.source_port = port;
			else
				on->packet.destination_port = on->packet.selector = port;
		}
	}
	if (port && on->packet.protocol == PROTOCOL_ICMP && !is_icmp_error(&on->packet) &&
	    on->packet.fragment != FRAGMENT_LATER) {
		/* An echo's identifier. */
		at = ETH_HLEN + on->packet.payload;
		if (bpf_l4_csum_replace(skb, at + 2, on->packet.source_port, port, sizeof(port)) ||
		    bpf_skb_store_bytes(skb, at + 4, &port, sizeof(port), 0))
			return -DROP_MALFORMED;
		on->packet.source_port = on->packet.destination_port = port;
	}
	if (bpf_l3_csum_replace(skb, IP_CHECK_AT, from, to, sizeof(to)) ||
	    bpf_skb_store_bytes(skb, source ? IP_SOURCE_AT : IP_DESTINATION_AT, &to, sizeof(to), 0))
		return -DROP_MALFORMED;
	if (source)
		on->packet.source[3] = to;
	else
		on->packet.destination[3] = to;
	return 0;
}

/* The packet that an ICMP error quotes went the other way: the address in it becomes the same as outside of it, and so
 * does the port unless `port` is 0. The quoted header's own checksum takes the change of address up, so the sum over the
 * message stays as it is; that of the port is mended in it. */
static __noinline int readdress_quoted(struct __sk_buff *skb, __u32 source, __be32 from, __be32 to, __be16 port)
{
	struct scratch *on = get_scratch();
	__u32 at, port_at;
	struct iphdr ip;
	__u16 check;
	__be16 old;

	if (!on)
		return -DROP_FLOWS_FULL;
	at = ETH_HLEN + on->packet.payload + 8;
	if (!is_icmp_error(&on->packet) || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) ||
	    (source ? ip.saddr : ip.daddr) != from)
		return 0; /* about a packet that was not ours, or cut short: it goes on as it is */
	check = checksum_replace(ip.check, from & 0xffff, to & 0xffff);
	ip.check = checksum_replace(check, from >> 16, to >> 16);
	if (source)
		ip.saddr = to;
	else
		ip.daddr = to;
	if (bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), 0))
		return -DROP_MALFORMED;
	if (!port)
		return 0;
	if (ip.protocol == PROTOCOL_ICMP) {
		/* The identifier of an echo, and its checksum: the sum over the message stays. */
		port_at = at + ip.ihl * 4 + 4;
		if (bpf_skb_load_bytes(skb, port_at, &old, sizeof(old)) ||
		    bpf_skb_load_bytes(skb, port_at - 2, &check, sizeof(check)))
			return -DROP_MALFORMED;
		check = checksum_replace(check, old, port);
		if (bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0) ||
		    bpf_skb_store_bytes(skb, port_at - 2, &check, sizeof(check), 0))
			return -DROP_MALFORMED;
		return 0;
	}
	port_at = at + ip.ihl * 4 + (source ? 0 : 2);
	if (bpf_skb_load_bytes(skb, port_at, &old, sizeof(old)) ||
	    bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0) ||
	    bpf_l4_csum_replace(skb, ETH_HLEN + on->packet.payload + 2, old, port, sizeof(port)))
		return -DROP_MALFORMED;
	return 0;
}

/* Which forwarding the packet in `scratch`, or the one that it quotes as an ICMP error, belongs to; NULL: none.
 * `source`: by its source (it leaves), else by its destination (it comes). */
static __always_inline struct forwarding *find_forwarding(struct __sk_buff *skb, __u32 vni, bool source)
{
	struct scratch *on = get_scratch();
	struct forwarding_key key = {.vni = vni};
	const struct packet *of;

	if (!on || on->packet.fragment == FRAGMENT_LATER)
		return NULL;
	of = &on->packet;
	if (is_icmp_error(&on->packet)) {
		if (read_packet(skb, ETH_HLEN + on->packet.payload + 8, &on->quoted, 4, 1) ||
		    on->quoted.fragment == FRAGMENT_LATER)
			return NULL;
		of = &on->quoted;
		source = !source;
	}
	if (of->protocol != PROTOCOL_TCP && of->protocol != PROTOCOL_UDP)
		return NULL;
	__builtin_memcpy(key.ip, source ? of->source : of->destination, sizeof(key.ip));
	key.port = source ? of->source_port : of->destination_port;
	key.protocol = of->protocol;
	return bpf_map_lookup_elem(&forwardings, &key);
}

/* The gateways' MAC, in three halves (a constant array would become a map of its own). */
static __always_inline void from_router(__u8 *mac)
{
	*(__u16 *)mac = bpf_htons(0xfe16);
	*(__u16 *)(mac + 2) = bpf_htons(0x1100);
	*(__u16 *)(mac + 4) = 0;
}

/* The TTL counted down, in the header as it is now. */
static __always_inline struct ethhdr *hop(struct __sk_buff *skb)
{
	struct ethhdr *eth = frame(skb, ETH_HLEN + sizeof(struct iphdr));
	struct iphdr *ip;

	if (!eth)
		return NULL;
	ip = (struct iphdr *)(eth + 1);
	set_ttl(ip, ip->ttl - 1);
	return eth;
}

/* Step 4, and reading for step 5: an IPv4 packet for an address of ours is in scratch then. 0, or a negative drop reason. */
static __noinline int check_outside(struct __sk_buff *skb)
{
	struct scratch *on = get_scratch();
	struct iphdr ip;
	__u32 total;

	if (!on)
		return -DROP_FLOWS_FULL;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.ihl < 5)
		return -DROP_MALFORMED;
	total = bpf_ntohs(ip.tot_len);
	if (total < ip.ihl * 4 || total > skb->len - ETH_HLEN)
		return -DROP_MALFORMED;
	if (ip.ttl <= 1)
		return -DROP_TTL_EXCEEDED;
	on->snatting.length = segment_length(skb, total, ip.ihl * 4, ip.protocol);
	return read_packet(skb, ETH_HLEN, &on->packet, 4, 0);
}

/* The rest of step 5, and 6: the packet is for the port that `inner` says, which is here, or it is dropped. `overlay`: it
 * came by another host, who would have told its sender of an MTU. */
static __noinline int inward(struct __sk_buff *skb, __u32 overlay)
{
	struct scratch *on = get_scratch();
	struct local_endpoint *here;
	struct address_key key;
	struct binding *to;
	struct port *port;
	struct ethhdr *eth;
	__u32 ifindex;
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	to = &on->snatting.inner;
	key.vni = to->vni;
	__builtin_memcpy(key.ip, to->ip, sizeof(key.ip));
	here = bpf_map_lookup_elem(&local, &key);
	if (!here || here->flags & ENDPOINT_GATEWAY)
		return -DROP_NO_ENDPOINT;
	if (here->flags & ENDPOINT_DOWN)
		return -DROP_PORT_DOWN;
	ifindex = here->ifindex;
	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return -DROP_NO_ENDPOINT;
	/* M */
	if (on->snatting.length > port->mtu)
		return overlay ? -DROP_TOO_BIG : too_big(skb, port->mtu, skb->ifindex);
	/* 6 */
	refused = readdress_quoted(skb, 1, on->packet.destination[3], to->ip[3], to->port);
	if (!refused)
		refused = readdress(skb, 0, to->ip[3], to->port);
	if (refused)
		return refused;
	/* P */
	refused = admit(skb, on, to->vni, here, 0);
	if (refused)
		return refused;
	eth = hop(skb);
	if (!eth)
		return -DROP_MALFORMED;
	copy_mac(eth->h_dest, here->mac);
	from_router(eth->h_source);
	return deliver(skb, here);
}

#include "snat.h"

/* Step X1: what stands outside for the source of a port's IPv4 packet, and where the packet goes. `shares`: the address that
 * its router shares out; 0: none. 0 with both in scratch, or a negative drop reason. */
static __noinline int find_outside(struct __sk_buff *skb, __u32 vni, __u32 ifindex, __be32 shares)
{
	struct shared_address *address;
	struct external_device *out = external_device();
	struct scratch *on = get_scratch();
	struct forwarding *forwarding;
	struct address_key key;
	struct eip *as;
	struct iphdr ip;
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	on->outside.port = 0;
	on->outside.shared = 0;
	on->outside.queue = 0;
	if (!out)
		return -DROP_NO_EXTERNAL;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_MALFORMED;
	key = address_of(vni, ip.saddr);
	as = bpf_map_lookup_elem(&eips, &key);
	if (!as) {
		refused = read_packet(skb, ETH_HLEN, &on->packet, 4, 0);
		if (refused)
			return refused;
		forwarding = find_forwarding(skb, vni, true);
		if (!forwarding && shares) {
			address = find_shared(shares);
			if (!address || !address->count)
				return -DROP_NO_BLOCK;
			on->outside.shared = 1;
			on->outside.source = shares;
			on->outside.next = (ip.daddr ^ shares) & address->mask ? address->gateway : ip.daddr;
			return on->outside.next ? 0 : -DROP_NO_EXTERNAL;
		}
		if (!forwarding)
			return -DROP_NO_TRANSLATION;
		as = &forwarding->other;
		on->outside.port = forwarding->port;
	}
	if (as->ifindex != ifindex)
		return -DROP_NO_TRANSLATION;
	on->outside.source = as->ip[3];
	on->outside.queue = as->queue_out;
	on->outside.next = (ip.daddr ^ as->ip[3]) & as->mask ? as->gateway : ip.daddr;
	return on->outside.next ? 0 : -DROP_NO_EXTERNAL;
}

/* Step X3, for an address of this host: the packet comes in again at the external device. */
static __always_inline int turn(struct __sk_buff *skb, struct ethhdr *eth, const struct external_device *out)
{
	copy_mac(eth->h_dest, out->mac);
	from_router(eth->h_source);
	skb->mark = 0;
	verdict(skb, VERDICT_TURN, out->ifindex, 0);
	return bpf_redirect(out->ifindex, BPF_F_INGRESS);
}

/* Step X3, for the packet in `scratch`, whose source is what it is outside. */
static __always_inline int leave(struct __sk_buff *skb, const struct external_device *out)
{
	struct scratch *on = get_scratch();
	struct ethhdr *eth = frame(skb, ETH_HLEN);
	struct bpf_redir_neigh neighbour = {}; /* a constant one would become a map of its own */
	struct address_key key;

	if (!on || !eth || !out)
		return -DROP_MALFORMED;
	/* Q */
	if (on->outside.queue) {
		__builtin_memcpy(eth->h_source, &on->outside.next, sizeof(on->outside.next));
		return enqueue(skb, out->ifindex, on->outside.queue, MARK_OUTSIDE);
	}
	key = address_of(OUTSIDE, on->packet.destination[3]);
	if (bpf_map_lookup_elem(&eips, &key) || answers_for(on->packet.destination[3]))
		return turn(skb, eth, out);
	neighbour.nh_family = AF_INET;
	neighbour.ipv4_nh = on->outside.next;
	verdict(skb, VERDICT_EXTERNAL, out->ifindex, 0);
	skb->cb[3] = on->outside.next;
	return bpf_redirect_neigh(out->ifindex, &neighbour, sizeof(neighbour), 0);
}

/* Steps X2 and X3, once policy and length are seen to. `read`: the packet is in scratch already. */
static __noinline int to_external(struct __sk_buff *skb, bool read, __u32 vni, __u32 ifindex)
{
	struct external_device *out = external_device();
	struct scratch *on = get_scratch();
	struct ethhdr *eth;
	int refused;

	if (!on || !out)
		return -DROP_NO_EXTERNAL;
	/* X2 */
	refused = read ? 0 : read_packet(skb, ETH_HLEN, &on->packet, 4, 0);
	if (!refused && on->outside.shared)
		refused = bind(skb, vni, ifindex);
	if (!refused)
		refused = readdress_quoted(skb, 0, on->packet.source[3], on->outside.source, on->outside.port);
	if (!refused)
		refused = readdress(skb, 1, on->outside.source, on->outside.port);
	if (refused)
		return refused;
	eth = hop(skb);
	return eth ? leave(skb, out) : -DROP_MALFORMED;
}

/* What waited for an EIP goes on: out as it is (step X3), or it comes in again at the external device. */
static __noinline int from_eip_queue(struct __sk_buff *skb, __u32 mark)
{
	struct external_device *out = external_device();
	struct scratch *on = get_scratch();
	struct ethhdr *eth = frame(skb, ETH_HLEN + sizeof(struct iphdr));

	if (!on || !out)
		return -DROP_NO_EXTERNAL;
	skb->cb[2] = out->ifindex;
	if (!eth)
		return -DROP_MALFORMED;
	if (mark & MARK_TO_PORT) {
		skb->mark = MARK_CAME_IN;
		return verdict(skb, VERDICT_TURN, out->ifindex, bpf_redirect(out->ifindex, BPF_F_INGRESS));
	}
	__builtin_memcpy(&on->outside.next, eth->h_source, sizeof(on->outside.next));
	on->outside.queue = 0;
	on->packet.destination[3] = ((struct iphdr *)(eth + 1))->daddr;
	return leave(skb, out);
}

/* "From the outside", step 2: who has an external address of ours. */
static __always_inline int external_arp(struct __sk_buff *skb, const struct external_device *out)
{
	struct arp_ipv4 *arp = frame(skb, sizeof(*arp));
	struct address_key key;
	__u8 asker_mac[ETH_ALEN] __attribute__((aligned(2)));
	__be32 asker, asked;

	if (!arp || arp->hardware_type != bpf_htons(ARPHRD_ETHER) || arp->protocol_type != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != ETH_ALEN || arp->protocol_length != sizeof(__be32) ||
	    arp->opcode != bpf_htons(ARPOP_REQUEST) || arp->target_ip == arp->sender_ip)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	asker = arp->sender_ip;
	asked = arp->target_ip;
	key = address_of(OUTSIDE, asked);
	if (!bpf_map_lookup_elem(&eips, &key) && !answers_for(asked))
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	copy_mac(asker_mac, arp->sender_mac);
	copy_mac(arp->eth.h_dest, asker_mac);
	copy_mac(arp->eth.h_source, out->mac);
	arp->opcode = bpf_htons(ARPOP_REPLY);
	copy_mac(arp->sender_mac, out->mac);
	arp->sender_ip = asked;
	copy_mac(arp->target_mac, asker_mac);
	arp->target_ip = asker;
	return reply(skb, out->ifindex);
}

/* No TC action: the EIP stands for a load balancer's address. */
#define BEHIND_VIP 256
static __noinline int balance_outside(struct __sk_buff *skb, const struct eip *to); /* vip.h */
static __noinline int from_external6(struct __sk_buff *skb, const struct external_device *out); /* outside6.h */

/* Steps 4 to 6: an IPv4 packet for an EIP of this host, which stands for `to`. */
static __noinline int from_outside(struct __sk_buff *skb, const struct eip *to)
{
	struct scratch *on = get_scratch();
	struct forwarding *forwarding;
	struct local_endpoint *here;
	struct address_key key;
	struct binding *inner;
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	refused = check_outside(skb);
	if (refused)
		return refused;
	inner = &on->snatting.inner;
	inner->port = 0;
	if (to->vni == OUTSIDE) {
		forwarding = find_forwarding(skb, OUTSIDE, false);
		if (!forwarding)
			return -DROP_NO_TRANSLATION;
		to = &forwarding->other;
		inner->port = forwarding->port;
	}
	key.vni = to->vni;
	__builtin_memcpy(key.ip, to->ip, sizeof(key.ip));
	here = bpf_map_lookup_elem(&local, &key);
	if (here && here->flags & ENDPOINT_VIP && !inner->port)
		return BEHIND_VIP;
	inner->vni = to->vni;
	__builtin_memcpy(inner->ip, to->ip, sizeof(inner->ip));
	return inward(skb, 0);
}

SEC("tc")
int from_external(struct __sk_buff *skb)
{
	struct external_device *out = external_device();
	struct address_key key;
	struct ethhdr *eth;
	struct iphdr *ip;
	struct eip *to;
	int action;

	/* 1 */
	eth = frame(skb, ETH_HLEN);
	if (!out || !eth || skb->vlan_present)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	/* 2 */
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return external_arp(skb, out);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		action = from_external6(skb, out);
		return action < 0 ? drop(skb, -action) : action;
	}
	/* 3 */
	if (eth->h_proto != bpf_htons(ETH_P_IP) || !same_mac(eth->h_dest, out->mac))
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	eth = frame(skb, ETH_HLEN + sizeof(*ip));
	if (!eth)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	ip = (struct iphdr *)(eth + 1);
	key = address_of(OUTSIDE, ip->daddr);
	to = ip->version == 4 ? bpf_map_lookup_elem(&eips, &key) : NULL;
	if (!to && (ip->version != 4 || !find_shared(ip->daddr)))
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	/* Q */
	if (skb->mark == MARK_CAME_IN)
		skb->mark = 0;
	else if (to && to->queue_in)
		return enqueue(skb, skb->ifindex, to->queue_in, MARK_CAME_IN);
	skb->cb[2] = skb->ifindex;
	action = to ? from_outside(skb, to) : from_shared(skb, 0);
	if (to && action == BEHIND_VIP)
		action = balance_outside(skb, to);
	return action < 0 ? drop(skb, -action) : action;
}

#endif
