/* SPDX-License-Identifier: Apache-2.0
 *
 * The compiled data plane: what docs/pipeline.md says, step by step. Loaded by program.py; attached by wiring.py:
 * `from_port` to the shared clsact ingress block of all ports, `from_overlay` to the ingress of the underlay device,
 * `from_external` to that of the external one.
 * fake/pipeline.py executes the same page; differential tests hold one against the other.
 *
 * A step returns a TC action, or a negative drop reason that the program counts in one place.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "alcor.h"
#include "packet.h"
#include "policy.h"
#include "frame.h"
#include "qos.h"
#include "miss.h"
#include "route.h"
#include "too_big.h"
#include "lb.h"
#include "target.h"
#include "service.h"

/* ---- steps ---- */

/* Step 11, once the packet needs not wait. */
static __always_inline int hand_in(struct __sk_buff *skb, __u32 ifindex, bool peer)
{
	count_received(skb, ifindex);
	verdict(skb, VERDICT_DELIVER, ifindex, 0);
	if (!peer)
		return bpf_redirect(ifindex, 0);
	/* The frame enters the peer's stack without eth_type_trans: say that it is for that stack. */
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

/* Step 11. */
static __always_inline int deliver(struct __sk_buff *skb, const struct local_endpoint *to)
{
	if (to->queue)
		return enqueue(skb, to->ifindex, to->queue, MARK_TO_PORT);
	return hand_in(skb, to->ifindex, to->flags & ENDPOINT_PEER);
}

/* The next hop is the host itself where the underlay's own prefix says so; that saves the kernel a route lookup,
 * a twentieth of the whole path. Else the kernel's routes say. */
static __always_inline int to_underlay(const struct host_config *host, __be32 to)
{
	struct bpf_redir_neigh next = {.nh_family = AF_INET, .ipv4_nh = to};

	if (host->onlink_mask && !((to ^ host->underlay_ip[3]) & host->onlink_mask))
		return bpf_redirect_neigh(host->underlay_ifindex, &next, sizeof(next), 0);
	return bpf_redirect_neigh(host->underlay_ifindex, NULL, 0, 0);
}

/* Step 12. `mark`: VXLAN_FROM_OUTSIDE and the like, or 0. */
static __always_inline int tunnel(struct __sk_buff *skb, __u8 dscp, __u32 vni, __u16 identity,
				  const struct ethhdr *eth, const struct remote_endpoint *to, __u8 mark)
{
	__u32 zero = 0;
	struct host_config *host = bpf_map_lookup_elem(&config, &zero);
	__u32 length = skb->len + OVERLAY_LENGTH - ETH_HLEN; /* outer IP total; GSO rewrites it per segment */
	struct overlay outer = {
		.ip.version = 4,
		.ip.ihl = 5,
		.ip.tos = (__u8)(dscp << 2), /* shifts the flag out */
		.ip.ttl = 64,
		.ip.protocol = IPPROTO_UDP,
		.ip.frag_off = bpf_htons(IP_DONT_FRAGMENT),
		.vxlan_flags = bpf_htonl(identity ? VXLAN_I_FLAG | VXLAN_G_FLAG | identity : VXLAN_I_FLAG),
		.vxlan_vni = bpf_htonl(vni << 8 | mark),
	};
	/* ENCAP_L2(14) names the inner Ethernet header alone: with the VXLAN header in it, GSO packets are dropped. */
	const __u64 how = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			  BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;

	if (!host || !is_v4_mapped(host->underlay_ip) || !is_v4_mapped(to->host_ip))
		return -DROP_NO_UNDERLAY;
	outer.ip.saddr = host->underlay_ip[3];
	outer.ip.daddr = to->host_ip[3];
	outer.ip.tot_len = bpf_htons(length);
	outer.ip.check = header_checksum(&outer.ip);
	outer.udp.source = bpf_htons(0xc000 | (bpf_get_hash_recalc(skb) & 0x3fff));
	outer.udp.dest = host->vxlan_port;
	outer.udp.len = bpf_htons(length - sizeof(struct iphdr));
	copy_mac(outer.inner.h_dest, eth->h_dest);
	copy_mac(outer.inner.h_source, eth->h_source);
	outer.inner.h_proto = eth->h_proto;
	if (bpf_skb_adjust_room(skb, OVERLAY_LENGTH, BPF_ADJ_ROOM_MAC, how))
		return -DROP_ENCAP_FAILED;
	/* Not a direct write: a forwarded packet with a checksum of all its bytes (CHECKSUM_COMPLETE) must learn of these. */
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &outer, OVERLAY_LENGTH, BPF_F_RECOMPUTE_CSUM))
		return -DROP_ENCAP_FAILED;
	verdict(skb, VERDICT_TUNNEL, 0, 0);
	return to_underlay(host, outer.ip.daddr);
}

#include "nat.h"

/* Step 6. */
static __always_inline int from_port_arp(struct __sk_buff *skb, const struct port *port, __u32 ifindex)
{
	__u8 router_mac[ETH_ALEN] __attribute__((aligned(2)));
	struct arp_ipv4 *arp = frame(skb, sizeof(*arp));
	struct address_key key;
	struct local_endpoint *here;
	struct remote_endpoint *there;
	const __u8 *answer = NULL;
	__u8 mac[ETH_ALEN] __attribute__((aligned(2)));
	__be32 asker, asked;
	int refused;

	if (!arp || arp->hardware_type != bpf_htons(ARPHRD_ETHER) || arp->protocol_type != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != ETH_ALEN || arp->protocol_length != sizeof(__be32))
		return -DROP_MALFORMED;
	copy_mac(mac, arp->eth.h_source);
	if (!same_mac(arp->sender_mac, mac))
		return -DROP_SPOOFED_MAC;
	asker = arp->sender_ip;
	asked = arp->target_ip;
	key = address_of(port->vni, asker);
	if (asker) {
		refused = check_sender(port, ifindex, mac, &key);
		if (refused)
			return refused;
	} else if (!same_mac(mac, port->mac) && !(port->flags & (PORT_OPEN | PORT_PAIRS))) {
		return -DROP_SPOOFED_MAC;
	}
	if (arp->opcode != bpf_htons(ARPOP_REQUEST) || asked == asker) /* C */
		return asker && is_news(port, ifindex, mac, &key) ? -SERVE : -DROP_ARP_IGNORED;
	key = address_of(port->vni, asked);
	here = bpf_map_lookup_elem(&local, &key);
	if (asked == SERVICE_IP && port->flags & PORT_SERVED) {
		set_router_mac(router_mac);
		answer = router_mac;
	} else if (here && here->flags & ENDPOINT_GATEWAY) {
		if (port->flags & PORT_ROUTED)
			answer = here->mac;
	} else if (here) {
		if (!asker && here->ifindex == ifindex)
			return -DROP_ARP_IGNORED;
		answer = here->mac;
	}
	if (!answer) {
		there = find_remote(&key, DROP_ARP_UNKNOWN, &refused);
		if (!there)
			return asker ? refused : -DROP_ARP_UNKNOWN; /* a probe is not held */
		answer = there->mac;
	}
	copy_mac(arp->eth.h_dest, mac);
	copy_mac(arp->eth.h_source, answer);
	arp->opcode = bpf_htons(ARPOP_REPLY);
	copy_mac(arp->sender_mac, answer);
	arp->sender_ip = asked;
	copy_mac(arp->target_mac, mac);
	arp->target_ip = asker;
	return reply(skb, ifindex);
}

/* Step 9, for a gateway's address: it answers pings and nothing else. */
static __always_inline int to_gateway(struct __sk_buff *skb, struct ethhdr *eth, struct iphdr *ip,
				      const struct local_endpoint *gateway, __u32 ifindex)
{
	__u32 header = ip->ihl * 4;
	__u32 at = ETH_HLEN + header;
	struct icmp_echo icmp;
	__be32 asker = ip->saddr;

	if (ip->protocol != IPPROTO_ICMP || ip->frag_off & bpf_htons(IP_FRAGMENT) ||
	    bpf_ntohs(ip->tot_len) < header + sizeof(icmp))
		return -DROP_GATEWAY;
	if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)) || icmp.type != ICMP_ECHO || icmp.code)
		return -DROP_GATEWAY;
	copy_mac(eth->h_dest, eth->h_source);
	copy_mac(eth->h_source, gateway->mac);
	ip->saddr = ip->daddr;
	ip->daddr = asker;
	set_ttl(ip, 64);
	icmp.type = ICMP_ECHO_REPLY;
	icmp.checksum = checksum_replace(icmp.checksum, bpf_htons(ICMP_ECHO << 8), 0);
	if (bpf_skb_store_bytes(skb, at, &icmp, sizeof(icmp), 0))
		return -DROP_MALFORMED;
	return reply(skb, ifindex);
}

#include "vip.h"

/* Steps 10 to 12, once the TTL is counted down. */
static __always_inline int hand_over(struct __sk_buff *skb, const struct port *port, struct ethhdr *eth, bool routed,
				     const struct target *target, __u32 version)
{
	const __u8 router_mac[ETH_ALEN] __attribute__((aligned(4))) = ROUTER_MAC_BYTES;

	if (routed)
		copy_mac(eth->h_source, router_mac);
	if (routed || target->vip) {
		if (target->here)
			copy_mac(eth->h_dest, target->here->mac);
		else if (target->there)
			copy_mac(eth->h_dest, target->there->mac);
	}
	if (target->vip) {
		/* B */
		int refused = balance(skb);

		if (refused)
			return refused;
		eth = frame(skb, ETH_HLEN);
		if (!eth)
			return -DROP_MALFORMED;
	} else if (target->here && target->here->flags & ENDPOINT_BALANCED) {
		/* U */
		unbalance(skb, target->vni, target->here->ifindex, version);
	}
	if (target->here)
		return deliver(skb, target->here);
	if (!target->there)
		return -DROP_NO_ENDPOINT;
	return tunnel(skb, port->dscp, target->vni, translate(port->vni, port->identity, target->vni), eth,
		      target->there, 0);
}

/* Steps 7 to 12, IPv4. */
static __always_inline int from_port_ipv4(struct __sk_buff *skb, const struct port *port, __u32 ifindex)
{
	const __u8 router_mac[ETH_ALEN] __attribute__((aligned(4))) = ROUTER_MAC_BYTES;
	struct ethhdr *eth = frame(skb, ETH_HLEN + sizeof(struct iphdr));
	struct iphdr *ip = (struct iphdr *)(eth + 1);
	struct target target = {};
	struct address_key key;
	__u32 total, room = skb->len - ETH_HLEN;
	bool routed, outside = false, answers = false;
	int refused;

	/* 7 */
	if (!eth || ip->version != 4 || ip->ihl < 5)
		return -DROP_MALFORMED;
	total = bpf_ntohs(ip->tot_len);
	if (total < ip->ihl * 4 || total > room)
		return -DROP_MALFORMED;
	/* S */
	if ((ip->protocol == IPPROTO_UDP &&
	     (ip->ihl != 5 || may_be_dhcp(skb, (struct ports16 *)(ip + 1), bpf_htons(DHCP_SERVER), bpf_htons(DHCP_CLIENT)))) ||
	    (ip->daddr == SERVICE_IP && port->flags & PORT_SERVED)) {
		refused = service4(skb, port, ifindex);
		if (refused)
			return refused;
	}
	key = address_of(port->vni, ip->saddr);
	refused = check_sender(port, ifindex, eth->h_source, &key);
	if (refused)
		return refused;
	key = address_of(port->vni, ip->daddr);
	routed = same_mac(eth->h_dest, router_mac);
	/* O */
	if (port->flags & PORT_ANSWERS && port->flags & PORT_ROUTED && routed)
		answers = find_way_out(skb, port->vni, ifindex);
	if (answers) {
		target.vni = port->vni;
		target.mtu = port->mtu;
		refused = ip->ttl <= 1 ? -DROP_TTL_EXCEEDED : 0;
	} else {
		refused = find_target(skb, port, eth, &key, 4, ip->ttl, routed, &target);
	}
	if (refused == -LEAVES) {
		outside = true;
		refused = find_outside(skb, port->vni, ifindex, key.ip[3]);
	}
	if (refused)
		return refused;
	eth = frame(skb, ETH_HLEN + sizeof(struct iphdr));
	if (!eth)
		return -DROP_MALFORMED;
	ip = (struct iphdr *)(eth + 1);
	/* B */
	if (target.vip) {
		refused = find_backend(skb, port->vni, ifindex, 4, &target);
		if (refused < 0)
			return refused;
		if (refused == CHOSEN_PING)
			return to_gateway(skb, eth, ip, target.vip, ifindex);
	}
	/* P */
	if (port->identity || (target.here && target.here->identity)) {
		refused = permit_sent(skb, port, ifindex, &target, 4);
		if (refused)
			return refused;
		eth = frame(skb, ETH_HLEN + sizeof(struct iphdr));
		if (!eth)
			return -DROP_MALFORMED;
		ip = (struct iphdr *)(eth + 1);
	}
	if (target.here && target.here->flags & ENDPOINT_GATEWAY)
		return to_gateway(skb, eth, ip, target.here, ifindex);
	/* M */
	if (segment_length(skb, total, ip->ihl * 4, ip->protocol) > target.mtu)
		return too_big(skb, target.mtu, ifindex);
	mark_ipv4(ip, port->dscp);
	if (answers)
		return answer_outside(skb, port->vni, port->dscp);
	if (outside)
		return to_external(skb, port->identity != 0, port->vni, ifindex);
	if (routed)
		set_ttl(ip, ip->ttl - 1);
	return hand_over(skb, port, eth, routed, &target, 4);
}

#include "ipv6.h"
#include "unreachable.h"

/* Where a packet was before it came to the port's program. */
enum came_from {
	FROM_PORT,
	FROM_QUEUE,
	FROM_AGENT, /* it was held */
};

/* Steps 2 to 5. */
static __always_inline int from_known_port(struct __sk_buff *skb, const struct port *port, __u32 ifindex,
					   enum came_from from)
{
	struct ethhdr *eth;

	/* 2 */
	if (!(port->flags & PORT_UP))
		return -DROP_PORT_DOWN;
	/* Q */
	if (port->queue_out && from == FROM_PORT)
		return enqueue(skb, ifindex, port->queue_out, 0);
	/* 3 */
	eth = frame(skb, ETH_HLEN);
	if (!eth)
		return -DROP_MALFORMED;
	if (from != FROM_AGENT)
		count_sent(skb, ifindex);
	/* 4 */
	if (!same_mac(eth->h_source, port->mac) && !(port->flags & (PORT_OPEN | PORT_PAIRS)))
		return -DROP_SPOOFED_MAC;
	/* 5: the kernel takes a VLAN tag out of the frame before it gets here, so the ethertype alone does not tell. */
	if (skb->vlan_present)
		return -DROP_NOT_SUPPORTED;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return from_port_ipv4(skb, port, ifindex);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return from_port_ipv6(skb, port, ifindex);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return from_port_arp(skb, port, ifindex);
	return -DROP_NOT_SUPPORTED;
}

/* What waited for a port, or a service's answer to it, goes there. */
static __noinline int to_port(struct __sk_buff *skb, __u32 ifindex)
{
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);

	if (!port)
		return -DROP_NO_PORT;
	skb->cb[2] = ifindex;
	if (!(port->flags & PORT_UP))
		return -DROP_PORT_DOWN;
	return hand_in(skb, ifindex, port->flags & PORT_PEER);
}

SEC("tc")
int from_port(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	enum came_from from = FROM_PORT;
	int action;

	/* 1 */
	skb->cb[2] = 0;
	if (!port) {
		__u32 zero = 0;
		struct host_config *host = bpf_map_lookup_elem(&config, &zero);

		if (ifindex == QUEUED_IFINDEX)
			from = FROM_QUEUE;
		else if (host && ifindex == host->held_ifindex)
			from = FROM_AGENT;
		else
			return drop(skb, DROP_NO_PORT);
		ifindex = skb->mark;
		skb->mark = 0;
		if (from == FROM_QUEUE && ifindex & MARK_OUTSIDE) {
			action = from_eip_queue(skb, ifindex);
			return action < 0 ? drop(skb, -action) : action;
		}
		if (ifindex & MARK_TO_PORT) {
			action = to_port(skb, ifindex & ~MARK_TO_PORT);
			return action < 0 ? drop(skb, -action) : action;
		}
		port = bpf_map_lookup_elem(&ports, &ifindex);
		if (!port)
			return drop(skb, DROP_NO_PORT);
	}
	skb->cb[2] = ifindex;
	action = from_known_port(skb, port, ifindex, from);
	if (action == -SERVE)
		action = serve(skb, ifindex, from == FROM_AGENT);
	else if (action <= -MISSED)
		action = hold(skb, ifindex, action, from == FROM_AGENT);
	if (is_told_of(action))
		action = unreachable(skb, ifindex, -action);
	return action < 0 ? drop(skb, -action) : action;
}

/* The tunnel's step 5: a port that left is followed to where it went. 0, or a negative drop reason. */
static __noinline int forward(struct __sk_buff *skb, const struct address_key *key)
{
	struct remote_endpoint *to = key ? bpf_map_lookup_elem(&forwards, key) : NULL;
	__u32 zero = 0;
	struct host_config *host = bpf_map_lookup_elem(&config, &zero);
	struct iphdr ip;

	if (!to)
		return -DROP_NO_ENDPOINT;
	if (!host || !is_v4_mapped(to->host_ip))
		return -DROP_NO_UNDERLAY;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_MALFORMED;
	if (ip.ttl <= 1)
		return -DROP_TTL_EXCEEDED;
	ip.ttl--;
	ip.saddr = host->underlay_ip[3];
	ip.daddr = to->host_ip[3];
	ip.check = 0;
	ip.check = header_checksum(&ip);
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
		return -DROP_ENCAP_FAILED;
	verdict(skb, VERDICT_TUNNEL, 0, 0);
	return to_underlay(host, ip.daddr);
}

/* Policy of the receiver of a packet out of the tunnel. 0, or a negative drop reason. */
static __always_inline int permit_received(struct __sk_buff *skb, const struct local_endpoint *here, __u32 vni,
					   __u32 group, __u32 version)
{
	const __u32 at = ETH_HLEN + OVERLAY_LENGTH;
	struct scratch *on = get_scratch();
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	on->party.vni = vni;
	on->party.ifindex = here->ifindex;
	on->party.identity = here->identity;
	on->party.remote_identity = group;
	on->party.egress = 0;
	refused = read_packet(skb, at, &on->packet, version, 0);
	if (!refused)
		refused = permit(skb, at);
	return blame(skb, here->ifindex, refused);
}

/* The tunnel's steps 2 to 4, once the frame is known to be ours. */
static __always_inline int from_tunnel(struct __sk_buff *skb)
{
	__u64 how = BPF_F_ADJ_ROOM_FIXED_GSO;
	struct overlay *outer;
	struct address_key key;
	struct local_endpoint *here;
	struct ethhdr inner;
	__u32 vni, group = 0;
	void *data;
	int refused;
	bool v6;

	/* 2 */
	data = frame(skb, ETH_HLEN + OVERLAY_LENGTH);
	if (!data)
		return -DROP_MALFORMED;
	outer = data + ETH_HLEN;
	if (!(outer->vxlan_flags & bpf_htonl(VXLAN_I_FLAG)))
		return -DROP_MALFORMED;
	vni = bpf_ntohl(outer->vxlan_vni) >> 8;
	skb->cb[3] = bpf_ntohl(outer->vxlan_vni) & 0xff; /* there is little room on the stack */
	skb->cb[4] = outer->ip.saddr;
	if (outer->vxlan_flags & bpf_htonl(VXLAN_G_FLAG))
		group = bpf_ntohl(outer->vxlan_flags) & VXLAN_GROUP;
	v6 = outer->inner.h_proto == bpf_htons(ETH_P_IPV6);
	if (!v6 && outer->inner.h_proto != bpf_htons(ETH_P_IP))
		return -DROP_NOT_SUPPORTED;
	if (v6) {
		struct ipv6hdr *ip;

		data = frame(skb, ETH_HLEN + OVERLAY_LENGTH + sizeof(*ip));
		if (!data)
			return -DROP_MALFORMED;
		ip = data + ETH_HLEN + OVERLAY_LENGTH;
		if (ip->version != 6)
			return -DROP_MALFORMED;
		key = address6_of(vni, &ip->daddr);
		how |= ADJ_ROOM_DECAP_L3_IPV6;
	} else {
		struct iphdr *ip;

		data = frame(skb, ETH_HLEN + OVERLAY_LENGTH + sizeof(*ip));
		if (!data)
			return -DROP_MALFORMED;
		ip = data + ETH_HLEN + OVERLAY_LENGTH;
		if (ip->version != 4)
			return -DROP_MALFORMED;
		key = address_of(vni, ip->daddr);
	}
	outer = data + ETH_HLEN;
	copy_mac(inner.h_dest, outer->inner.h_dest);
	copy_mac(inner.h_source, outer->inner.h_source);
	if (!v6 && (vni == OUTSIDE || skb->cb[3] == VXLAN_TO_OUTSIDE)) {
		if (bpf_skb_adjust_room(skb, -OVERLAY_LENGTH, BPF_ADJ_ROOM_MAC, how) ||
		    bpf_skb_store_bytes(skb, 0, &inner, 2 * ETH_ALEN, 0))
			return -DROP_ENCAP_FAILED;
		/* 6, or O */
		return vni == OUTSIDE ? from_shared(skb, 1) : leave_balanced(skb, vni);
	}
	/* 3 */
	here = bpf_map_lookup_elem(&local, &key);
	if (!here || here->flags & (ENDPOINT_GATEWAY | ENDPOINT_VIP) || !same_mac(inner.h_dest, here->mac)) {
		/* A route to a port: its MAC alone says who it is for. */
		struct mac_key behind = {.vni = vni};
		struct local_endpoint *via;

		copy_mac(behind.mac, inner.h_dest);
		via = bpf_map_lookup_elem(&macs, &behind);
		if (!via)
			return here ? -DROP_NO_ENDPOINT : forward(skb, &key); /* 5 */
		here = via;
	}
	if (here->flags & ENDPOINT_DOWN)
		return -DROP_PORT_DOWN;
	/* P */
	if (here->identity) {
		refused = permit_received(skb, here, vni, group, v6 ? 6 : 4);
		if (refused)
			return refused;
	}
	/* 4: the outer Ethernet header stays in front; it becomes the inner one. */
	if (bpf_skb_adjust_room(skb, -OVERLAY_LENGTH, BPF_ADJ_ROOM_MAC, how) ||
	    bpf_skb_store_bytes(skb, 0, &inner, 2 * ETH_ALEN, 0))
		return -DROP_ENCAP_FAILED;
	if (v6) {
		__be16 type = bpf_htons(ETH_P_IPV6);

		if (bpf_skb_store_bytes(skb, 2 * ETH_ALEN, &type, sizeof(type), 0))
			return -DROP_ENCAP_FAILED;
	}
	if (skb->cb[3] == VXLAN_FROM_OUTSIDE && !v6) {
		/* O */
		struct scratch *on = get_scratch();

		if (on && !read_packet(skb, ETH_HLEN, &on->packet, 4, 0))
			remember_way(here->ifindex, skb->cb[4]);
	} else if (here->flags & ENDPOINT_BALANCED) {
		/* U */
		unbalance(skb, vni, here->ifindex, v6 ? 6 : 4);
	}
	return deliver(skb, here);
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	const __u32 need = ETH_HLEN + offsetof(struct overlay, udp.len); /* up to both UDP ports */
	__u32 zero = 0;
	struct host_config *host = bpf_map_lookup_elem(&config, &zero);
	struct overlay *outer;
	void *data;
	int action;

	/* 1 */
	if (!host || skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	data = frame(skb, need);
	if (!data)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	outer = data + ETH_HLEN;
	if (outer->ip.version != 4 || outer->ip.ihl != 5 || outer->ip.protocol != IPPROTO_UDP ||
	    outer->ip.frag_off & bpf_htons(IP_FRAGMENT) || outer->ip.daddr != host->underlay_ip[3] ||
	    !is_v4_mapped(host->underlay_ip) || outer->udp.dest != host->vxlan_port)
		return verdict(skb, VERDICT_PASS, 0, TC_ACT_OK);
	skb->cb[2] = 0;
	action = from_tunnel(skb);
	return action < 0 ? drop(skb, -action) : action;
}

char _license[] SEC("license") = "Apache-2.0";
