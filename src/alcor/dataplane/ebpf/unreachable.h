/* SPDX-License-Identifier: Apache-2.0
 *
 * What a router tells the sender of a packet that it cannot pass on (RFC 792, RFC 4443): docs/pipeline.md, step T. Included
 * by alcor.bpf.c. Nothing here is on the way of a packet that goes on.
 */
#ifndef ALCOR_UNREACHABLE_H
#define ALCOR_UNREACHABLE_H

#define ICMPV6_UNREACHABLE 1
#define ICMPV6_TIME_EXCEEDED 3
#define ICMPV6_NOBODY 3 /* code of ICMPV6_UNREACHABLE: address unreachable */
/* Of a packet that is too short for the usual quote: its IP header without options, and 8 bytes. */
#define SHORT_IPV4 28
#define SHORT_IPV6 48
/* Errors that a port is told in a second. */
#define TOLD_RATE 100

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct router);
} routers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct miss_rate);
} told_rates SEC(".maps");

static __always_inline bool is_told_of(int refused)
{
	return refused == -DROP_TTL_EXCEEDED || refused == -DROP_NO_ROUTE || refused == -DROP_NO_ENDPOINT ||
	       refused == -DROP_BLACKHOLE;
}

/* Not to groups, and not to who is no single host (RFC 1122 section 3.2.2). */
static __always_inline bool is_single4(__be32 ip)
{
	__u8 first = bpf_ntohl(ip) >> 24;

	return first && first < 224;
}

static __noinline int unreachable4(struct __sk_buff *skb, __u32 ifindex, __u32 reason, const struct router *router)
{
	struct scratch *on = get_scratch();
	struct told told = {.type = ICMP_UNREACHABLE, .code = reason == DROP_NO_ENDPOINT}; /* host, or net */
	struct iphdr quoted;
	__u32 length;
	int failed;

	if (!on || !router || !router->ip[3] || bpf_skb_load_bytes(skb, ETH_HLEN, &quoted, sizeof(quoted)) ||
	    !is_single4(quoted.saddr) || !is_single4(quoted.daddr) || !may_tell(skb, &on->packet, 4))
		return -1;
	length = bpf_ntohs(quoted.tot_len);
	if (length < SHORT_IPV4 || (length < QUOTE_IPV4 && quoted.ihl != 5) || !count_rate(&told_rates, ifindex, TOLD_RATE))
		return -1;
	if (reason == DROP_TTL_EXCEEDED)
		told = (struct told){.type = ICMP_TIME_EXCEEDED};
	if (length < QUOTE_IPV4)
		failed = tell4(skb, &quoted, router->ip[3], told, SHORT_IPV4);
	else
		failed = tell4(skb, &quoted, router->ip[3], told, QUOTE_IPV4);
	return failed ? -1 : 0;
}

static __noinline int unreachable6(struct __sk_buff *skb, __u32 ifindex, __u32 reason, const struct router *router)
{
	struct scratch *on = get_scratch();
	struct told told = {.type = ICMPV6_UNREACHABLE, .code = reason == DROP_NO_ENDPOINT ? ICMPV6_NOBODY : 0};
	struct ipv6hdr quoted;
	__u32 length;
	int failed;

	if (!on || !router || is_unspecified(router->ip6) || bpf_skb_load_bytes(skb, ETH_HLEN, &quoted, sizeof(quoted)) ||
	    quoted.saddr.s6_addr[0] == 0xff || quoted.daddr.s6_addr[0] == 0xff ||
	    is_unspecified((const __be32 *)&quoted.saddr) || !may_tell(skb, &on->packet, 6))
		return -1;
	length = sizeof(quoted) + bpf_ntohs(quoted.payload_len);
	if (length < SHORT_IPV6 || !count_rate(&told_rates, ifindex, TOLD_RATE))
		return -1;
	if (reason == DROP_TTL_EXCEEDED)
		told = (struct told){.type = ICMPV6_TIME_EXCEEDED};
	if (length < QUOTE_IPV6)
		failed = tell6(skb, &quoted, router->ip6, told, SHORT_IPV6);
	else
		failed = tell6(skb, &quoted, router->ip6, told, QUOTE_IPV6);
	return failed ? -1 : 0;
}

/* Step T: a packet that was sent to the router and is dropped. Its verdict, or the negative drop reason. */
static __noinline int unreachable(struct __sk_buff *skb, __u32 ifindex, __u32 reason)
{
	const __u8 router_mac[ETH_ALEN] __attribute__((aligned(4))) = ROUTER_MAC_BYTES;
	struct router *router = bpf_map_lookup_elem(&routers, &ifindex);
	struct ethhdr eth __attribute__((aligned(4)));
	int failed;

	if (!router || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) || !same_mac(eth.h_dest, router_mac))
		return -reason;
	if (eth.h_proto == bpf_htons(ETH_P_IP))
		failed = unreachable4(skb, ifindex, reason, router);
	else if (eth.h_proto == bpf_htons(ETH_P_IPV6))
		failed = unreachable6(skb, ifindex, reason, router);
	else
		return -reason;
	if (failed)
		return -reason;
	count_drop(ifindex, reason);
	return reply(skb, ifindex);
}

#endif
