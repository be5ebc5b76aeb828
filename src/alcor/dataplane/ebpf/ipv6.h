/* SPDX-License-Identifier: Apache-2.0
 *
 * IPv6 from a port: neighbour discovery answered on the host (RFC 4861), routing inside the VPC, gateways that answer
 * pings (RFC 4443). Included by alcor.bpf.c, of whose steps these are the IPv6 half.
 */
#ifndef ALCOR_IPV6_H
#define ALCOR_IPV6_H

#define ND_FIRST 133 /* router solicitation */
#define ND_LAST 137  /* redirect */
#define ND_ADVERTISEMENT 136
#define ND_ROUTER 0x80000000
#define ND_SOLICITED 0x40000000
#define ND_OVERRIDE 0x20000000
#define ND_TARGET_MAC 2 /* option: target link-layer address */
#define ND_HOPS 255

struct nd_frame {
	struct ethhdr eth;
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 flags;
	__be32 target[4];
	__u8 option;
	__u8 option_length; /* in 8 bytes */
	__u8 option_mac[ETH_ALEN];
} __attribute__((packed, aligned(4)));

#define ND_SOLICITATION_LENGTH offsetof(struct nd_frame, option)
#define ND_FRAME_LENGTH (offsetof(struct nd_frame, option_mac) + ETH_ALEN)
#define ND_MESSAGE_LENGTH (ND_FRAME_LENGTH - offsetof(struct nd_frame, type))

_Static_assert(ND_FRAME_LENGTH == 86 && ND_MESSAGE_LENGTH == 32, "neighbour advertisement");

static __always_inline bool is_unspecified(const __be32 *ip)
{
	return !(ip[0] | ip[1] | ip[2] | ip[3]);
}

static __always_inline bool same_ip(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* Turns the solicitation, whose frame is in `nd` too, into the advertisement that its target is at that MAC (RFC 4861
 * section 7.2.4). A TC action, or a negative drop reason. */
static __always_inline int advertise(struct __sk_buff *skb, struct nd_frame *nd, const __u8 *mac, __u32 flags,
				     __u32 ifindex)
{
	__be32 asker[4]; /* in the frame it is at an odd half */
	__s64 sum;

	__builtin_memcpy(asker, &nd->ip.saddr, sizeof(asker));
	copy_mac(nd->eth.h_dest, nd->eth.h_source);
	copy_mac(nd->eth.h_source, mac);
	nd->ip.payload_len = bpf_htons(ND_MESSAGE_LENGTH);
	if (is_unspecified(asker)) {
		/* A probe is answered to all nodes: ff02::1. */
		asker[0] = bpf_htonl(0xff020000);
		asker[3] = bpf_htonl(1);
	} else {
		flags |= ND_SOLICITED;
	}
	__builtin_memcpy(&nd->ip.saddr, nd->target, 16);
	__builtin_memcpy(&nd->ip.daddr, asker, 16);
	nd->type = ND_ADVERTISEMENT;
	nd->checksum = 0;
	nd->flags = bpf_htonl(flags | ND_OVERRIDE);
	nd->option = ND_TARGET_MAC;
	nd->option_length = 1;
	copy_mac(nd->option_mac, mac);
	/* RFC 8200 section 8.1: the sum starts with both addresses, the length and the protocol. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&nd->ip.saddr, 32, bpf_htonl(ND_MESSAGE_LENGTH + IPPROTO_ICMPV6));
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&nd->type, ND_MESSAGE_LENGTH, sum);
	nd->checksum = ~fold(sum);
	if (bpf_skb_change_tail(skb, ND_FRAME_LENGTH, 0) || bpf_skb_store_bytes(skb, 0, nd, ND_FRAME_LENGTH, 0))
		return -DROP_MALFORMED;
	return reply(skb, ifindex);
}

/* Step 6b: who has an address is answered here, on the asker's own host. */
static __noinline int from_port_nd(struct __sk_buff *skb, const struct port *port, __u32 ifindex)
{
	__u8 router_mac[ETH_ALEN] __attribute__((aligned(2)));
	struct nd_frame nd;
	struct address_key asker, asked;
	struct local_endpoint *here;
	struct remote_endpoint *there;
	__u8 asker_mac[ETH_ALEN] __attribute__((aligned(2)));
	const __u8 *answer = NULL;
	__u32 flags = 0;
	bool probe;
	int refused;

	if (bpf_skb_load_bytes(skb, 0, &nd, ND_SOLICITATION_LENGTH))
		return -DROP_MALFORMED;
	copy_mac(asker_mac, nd.eth.h_source);
	if (nd.type == ND_ADVERTISEMENT && !nd.code && nd.ip.hop_limit == ND_HOPS &&
	    bpf_ntohs(nd.ip.payload_len) >= ND_SOLICITATION_LENGTH - ETH_HLEN - sizeof(nd.ip)) {
		/* C */
		asked = address6_of(port->vni, nd.target);
		if (is_news(port, ifindex, asker_mac, &asked) && !check_sender(port, ifindex, asker_mac, &asked))
			return -SERVE;
	}
	if (nd.type != ICMPV6_SOLICITATION || nd.code || nd.ip.hop_limit != ND_HOPS)
		return -DROP_ND_IGNORED;
	if (bpf_ntohs(nd.ip.payload_len) < ND_SOLICITATION_LENGTH - ETH_HLEN - sizeof(nd.ip))
		return -DROP_MALFORMED;
	asker = address6_of(port->vni, &nd.ip.saddr);
	asked = address6_of(port->vni, nd.target);
	probe = is_unspecified(asker.ip);
	if (!probe) {
		refused = check_sender(port, ifindex, asker_mac, &asker);
		if (refused)
			return refused;
	}
	if (same_ip(asker.ip, asked.ip))
		return -DROP_ND_IGNORED;
	here = bpf_map_lookup_elem(&local, &asked);
	if (port->flags & PORT_SERVED && is_service6(asked.ip)) {
		set_router_mac(router_mac);
		answer = router_mac;
	} else if (here && here->flags & ENDPOINT_GATEWAY) {
		if (port->flags & PORT_ROUTED) {
			answer = here->mac;
			flags |= ND_ROUTER;
		}
	} else if (here) {
		if (probe && here->ifindex == ifindex)
			return -DROP_ND_IGNORED;
		answer = here->mac;
	}
	if (!answer) {
		there = find_remote(&asked, DROP_ND_UNKNOWN, &refused);
		if (!there)
			return probe ? -DROP_ND_UNKNOWN : refused; /* a probe is not held */
		answer = there->mac;
	}
	return advertise(skb, &nd, answer, flags, ifindex);
}

/* Step 9, for a gateway's IPv6 address. */
static __always_inline int to_gateway6(struct __sk_buff *skb, struct ethhdr *eth, struct ipv6hdr *ip,
				       const struct local_endpoint *gateway, __u32 ifindex)
{
	const __u32 at = ETH_HLEN + sizeof(*ip);
	struct icmp_echo icmp;
	struct in6_addr asker = ip->saddr;

	if (ip->nexthdr != IPPROTO_ICMPV6 || bpf_ntohs(ip->payload_len) < sizeof(icmp))
		return -DROP_GATEWAY;
	if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)) || icmp.type != ICMPV6_ECHO || icmp.code)
		return -DROP_GATEWAY;
	copy_mac(eth->h_dest, eth->h_source);
	copy_mac(eth->h_source, gateway->mac);
	ip->saddr = ip->daddr;
	ip->daddr = asker;
	ip->hop_limit = 64;
	icmp.type = ICMPV6_ECHO_REPLY;
	icmp.checksum =
		checksum_replace(icmp.checksum, bpf_htons(ICMPV6_ECHO << 8), bpf_htons(ICMPV6_ECHO_REPLY << 8));
	if (bpf_skb_store_bytes(skb, at, &icmp, sizeof(icmp), 0))
		return -DROP_MALFORMED;
	return reply(skb, ifindex);
}

#include "outside6.h"

/* Steps 7 to 12, IPv6. */
static __always_inline int from_port_ipv6(struct __sk_buff *skb, const struct port *port, __u32 ifindex)
{
	const __u8 router_mac[ETH_ALEN] __attribute__((aligned(4))) = ROUTER_MAC_BYTES;
	struct ethhdr *eth = frame(skb, ETH_HLEN + sizeof(struct ipv6hdr));
	struct ipv6hdr *ip = (struct ipv6hdr *)(eth + 1);
	struct target target = {};
	struct address_key key;
	__u32 room = skb->len - ETH_HLEN;
	__u8 type = 0;
	bool routed, outside = false;
	int refused;

	/* 7 */
	if (!eth || ip->version != 6 || sizeof(*ip) + bpf_ntohs(ip->payload_len) > room)
		return -DROP_MALFORMED;
	if (ip->nexthdr == IPPROTO_ICMPV6 && ip->payload_len) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &type, sizeof(type)))
			return -DROP_MALFORMED;
		if (type == ND_FIRST && port->flags & PORT_SERVED)
			return solicit(skb, port, ifindex);
		if (type >= ND_FIRST && type <= ND_LAST)
			return from_port_nd(skb, port, ifindex);
	}
	/* S */
	if ((ip->nexthdr == IPPROTO_UDP &&
	     may_be_dhcp(skb, (struct ports16 *)(ip + 1), bpf_htons(DHCP6_SERVER), bpf_htons(DHCP6_CLIENT))) ||
	    (port->flags & PORT_SERVED && is_service6((const __be32 *)&ip->daddr))) {
		refused = service6(skb, port, ifindex);
		if (refused)
			return refused;
	}
	/* Groups first: what a stack sends to them by itself, before it has an address, is no spoofing. */
	if (eth->h_dest[0] & 1)
		return -DROP_MULTICAST;
	key = address6_of(port->vni, &ip->saddr);
	refused = check_sender(port, ifindex, eth->h_source, &key);
	if (refused)
		return refused;
	key = address6_of(port->vni, &ip->daddr);
	routed = same_mac(eth->h_dest, router_mac);
	refused = find_target(skb, port, eth, &key, 6, ip->hop_limit, routed, &target);
	if (refused == -LEAVES) {
		outside = true;
		refused = find_outside6(skb, port->vni);
	}
	if (refused)
		return refused;
	eth = frame(skb, ETH_HLEN + sizeof(struct ipv6hdr));
	if (!eth)
		return -DROP_MALFORMED;
	ip = (struct ipv6hdr *)(eth + 1);
	/* B */
	if (target.vip) {
		refused = find_backend(skb, port->vni, ifindex, 6, &target);
		if (refused < 0)
			return refused;
		if (refused == CHOSEN_PING)
			return to_gateway6(skb, eth, ip, target.vip, ifindex);
	}
	/* P */
	if (port->identity || (target.here && target.here->identity)) {
		refused = permit_sent(skb, port, ifindex, &target, 6);
		if (refused)
			return refused;
		eth = frame(skb, ETH_HLEN + sizeof(struct ipv6hdr));
		if (!eth)
			return -DROP_MALFORMED;
		ip = (struct ipv6hdr *)(eth + 1);
	}
	if (target.here && target.here->flags & ENDPOINT_GATEWAY)
		return to_gateway6(skb, eth, ip, target.here, ifindex);
	/* M */
	if (segment_length(skb, sizeof(*ip) + bpf_ntohs(ip->payload_len), sizeof(*ip), ip->nexthdr) > target.mtu)
		return too_big6(skb, target.mtu, ifindex);
	mark_ipv6(ip, port->dscp);
	if (outside)
		return to_external6(skb);
	if (routed)
		ip->hop_limit--;
	return hand_over(skb, port, eth, routed, &target, 6);
}

#endif
