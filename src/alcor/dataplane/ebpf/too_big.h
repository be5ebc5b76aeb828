/* SPDX-License-Identifier: Apache-2.0
 *
 * Packets that are larger than their port's MTU: dropped, and the sender is told the size that fits (RFC 1191, RFC 8201).
 * Included by alcor.bpf.c.
 */
#ifndef ALCOR_TOO_BIG_H
#define ALCOR_TOO_BIG_H

#define ICMP_FRAGMENTATION_NEEDED 4 /* code of ICMP_UNREACHABLE */
#define ICMPV6_TOO_BIG 2
#define ICMP_LENGTH 8
/* How much of the packet is quoted. The largest IPv4 header and 8 bytes: no MTU is smaller. */
#define QUOTE_IPV4 68
#define QUOTE_IPV6 128

struct too_big_ipv4 {
	struct ethhdr eth;
	struct iphdr ip;
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 zero;
	__be16 mtu;
	__u8 quote[QUOTE_IPV4];
} __attribute__((packed, aligned(4)));

struct too_big_ipv6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 mtu;
	__u8 quote[QUOTE_IPV6];
} __attribute__((packed, aligned(4)));

/* The length of the IP packets that leave: of each segment, where the kernel has yet to cut. */
static __always_inline __u32 segment_length(const struct __sk_buff *skb, __u32 length, __u32 header, __u8 protocol)
{
	if (!skb->gso_size)
		return length;
	return skb->gso_size + header + (protocol == PROTOCOL_UDP ? 8 : 20);
}

/* An error about an error, or about a fragment that is not the first, is not sent (RFC 1122 section 3.2.2). */
static __always_inline bool may_tell(struct __sk_buff *skb, struct packet *packet, __u32 version)
{
	return !read_packet(skb, ETH_HLEN, packet, version, 0) && packet->fragment != FRAGMENT_LATER &&
	       !is_icmp_error(packet);
}

/* The rest of the frame is cut off, and so are the marks of a packet yet to be segmented; then there is room for the
 * error's headers. */
static __always_inline int make_room(struct __sk_buff *skb, __u32 quote, __u32 headers)
{
	return bpf_skb_change_tail(skb, ETH_HLEN + quote, 0) ||
	       bpf_skb_adjust_room(skb, headers, BPF_ADJ_ROOM_MAC, 0);
}

/* The Ethernet header of the answer: back to where the packet came from. */
static __always_inline int turn_back(struct __sk_buff *skb, struct ethhdr *eth)
{
	return bpf_skb_load_bytes(skb, 0, eth->h_source, ETH_ALEN) ||
	       bpf_skb_load_bytes(skb, ETH_ALEN, eth->h_dest, ETH_ALEN) ||
	       bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &eth->h_proto, sizeof(eth->h_proto));
}

/* What an error says. */
struct told {
	__u8 type;
	__u8 code;
	__u32 mtu;
};

/* The packet becomes an error about itself, from that address, that quotes so much of it. Not 0: it could not be. */
static __always_inline int tell4(struct __sk_buff *skb, const struct iphdr *quoted, __be32 source, struct told told,
				 const __u32 quote)
{
	struct scratch *on = get_scratch();
	struct too_big_ipv4 *frame;

	if (!on)
		return -1;
	frame = (struct too_big_ipv4 *)on->error;
	if (turn_back(skb, &frame->eth) || bpf_skb_load_bytes(skb, ETH_HLEN, frame->quote, quote))
		return -1;
	frame->ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.ttl = 64,
		.protocol = IPPROTO_ICMP,
		.frag_off = bpf_htons(IP_DONT_FRAGMENT),
		.tot_len = bpf_htons(sizeof(frame->ip) + ICMP_LENGTH + quote),
		.saddr = source,
		.daddr = quoted->saddr,
	};
	frame->ip.check = header_checksum(&frame->ip);
	frame->type = told.type;
	frame->code = told.code;
	frame->checksum = 0;
	frame->zero = 0;
	frame->mtu = bpf_htons(told.mtu);
	frame->checksum = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)&frame->type, ICMP_LENGTH + quote, 0));
	return make_room(skb, quote, sizeof(frame->ip) + ICMP_LENGTH) ||
	       bpf_skb_store_bytes(skb, 0, frame, offsetof(struct too_big_ipv4, quote) + quote, 0);
}

static __always_inline int tell6(struct __sk_buff *skb, const struct ipv6hdr *quoted, const void *source,
				 struct told told, const __u32 quote)
{
	struct scratch *on = get_scratch();
	struct too_big_ipv6 *frame;
	__s64 sum;

	if (!on)
		return -1;
	frame = (struct too_big_ipv6 *)on->error;
	if (turn_back(skb, &frame->eth) || bpf_skb_load_bytes(skb, ETH_HLEN, frame->quote, quote))
		return -1;
	frame->ip = (struct ipv6hdr){
		.version = 6,
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = 64,
		.payload_len = bpf_htons(ICMP_LENGTH + quote),
		.daddr = quoted->saddr,
	};
	__builtin_memcpy(&frame->ip.saddr, source, 16);
	frame->type = told.type;
	frame->code = told.code;
	frame->checksum = 0;
	frame->mtu = bpf_htonl(told.mtu);
	/* RFC 8200 section 8.1: the sum starts with both addresses, the length and the protocol. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&frame->ip.saddr, 32, bpf_htonl(ICMP_LENGTH + quote + IPPROTO_ICMPV6));
	frame->checksum = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)&frame->type, ICMP_LENGTH + quote, sum));
	return make_room(skb, quote, sizeof(frame->ip) + ICMP_LENGTH) ||
	       bpf_skb_store_bytes(skb, 0, frame, offsetof(struct too_big_ipv6, quote) + quote, 0);
}

/* Step M, IPv4. */
static __noinline int too_big(struct __sk_buff *skb, __u32 mtu, __u32 ifindex)
{
	struct scratch *on = get_scratch();
	struct told told = {.type = ICMP_UNREACHABLE, .code = ICMP_FRAGMENTATION_NEEDED, .mtu = mtu};
	struct iphdr quoted;

	if (!on || bpf_skb_load_bytes(skb, ETH_HLEN, &quoted, sizeof(quoted)) ||
	    !(quoted.frag_off & bpf_htons(IP_DONT_FRAGMENT)) || !may_tell(skb, &on->packet, 4) ||
	    tell4(skb, &quoted, quoted.daddr, told, QUOTE_IPV4))
		return -DROP_TOO_BIG;
	count_drop(ifindex, DROP_TOO_BIG);
	return reply(skb, ifindex);
}

/* Step M, IPv6. */
static __noinline int too_big6(struct __sk_buff *skb, __u32 mtu, __u32 ifindex)
{
	struct scratch *on = get_scratch();
	struct told told = {.type = ICMPV6_TOO_BIG, .mtu = mtu};
	struct ipv6hdr quoted;

	if (!on || bpf_skb_load_bytes(skb, ETH_HLEN, &quoted, sizeof(quoted)) || !may_tell(skb, &on->packet, 6) ||
	    tell6(skb, &quoted, &quoted.daddr, told, QUOTE_IPV6))
		return -DROP_TOO_BIG;
	count_drop(ifindex, DROP_TOO_BIG);
	return reply(skb, ifindex);
}

#endif
