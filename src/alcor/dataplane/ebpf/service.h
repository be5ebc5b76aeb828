/* SPDX-License-Identifier: Apache-2.0
 *
 * What a port asks of its own host: addresses (DHCP, router advertisements), names (DNS) and metadata. Included by
 * alcor.bpf.c. A request goes to the agent whole, and its answer comes back marked for the port. Nobody else may answer
 * DHCP here.
 */
#ifndef ALCOR_SERVICE_H
#define ALCOR_SERVICE_H

#define DHCP_SERVER 67
#define DHCP_CLIENT 68
#define DHCP6_SERVER 547
#define DHCP6_CLIENT 546
#define DNS 53
#define HTTP 80
#define SERVICE_IP bpf_htonl(0xa9fea9fe) /* 169.254.169.254; fe80::a9fe:a9fe ends in the same bytes */
#define LINK_LOCAL bpf_htonl(0xfe800000)

/* Requests of one port that are taken in a second: enough to fetch a megabyte of metadata. */
#define SERVICE_RATE 1024

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, REQUESTS_BYTES);
} requests SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct miss_rate);
} request_rates SEC(".maps");

/* A step returns -SERVE when the agent is to answer: `serve` decides. */
#define SERVE 512

struct ports16 {
	__be16 source;
	__be16 destination;
};

static __always_inline bool is_service6(const __be32 *ip)
{
	return ip[0] == LINK_LOCAL && !ip[1] && !ip[2] && ip[3] == SERVICE_IP;
}

/* Not a constant array, of which the compiler would make a map. */
static __always_inline void set_router_mac(__u8 *mac)
{
	*(__u16 *)mac = bpf_htons(0xfe16);
	*(__u16 *)(mac + 2) = bpf_htons(0x1100);
	*(__u16 *)(mac + 4) = 0;
}

/* What answers at the service address. */
static __always_inline bool is_offered(__u8 protocol, __be16 port)
{
	if (protocol == IPPROTO_TCP && port == bpf_htons(HTTP))
		return true;
	return (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) && port == bpf_htons(DNS);
}

/* A datagram may be DHCP's, of either family: what service4 and service6 look at. `ports` may not be readable; then it may.
 * Nearly none is: what they read by copies, the others are spared. */
static __always_inline bool may_be_dhcp(const struct __sk_buff *skb, const struct ports16 *ports, __be16 server,
					__be16 client)
{
	if ((const void *)(ports + 1) > (const void *)(long)skb->data_end)
		return true;
	return ports->destination == server || ports->destination == client;
}

/* Step S, IPv4: 0 when it is nobody's request, -SERVE, or a negative drop reason. */
static __noinline int service4(struct __sk_buff *skb, const struct port *port, __u32 ifindex)
{
	struct ports16 ports16 = {};
	struct address_key from;
	__u8 mac[ETH_ALEN] __attribute__((aligned(4)));
	struct iphdr ip;
	bool known;
	int refused;

	if (bpf_skb_load_bytes(skb, ETH_ALEN, mac, sizeof(mac)) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_MALFORMED;
	known = !(ip.frag_off & bpf_htons(IP_FRAGMENT)) && bpf_ntohs(ip.tot_len) >= ip.ihl * 4 + sizeof(ports16) &&
		!bpf_skb_load_bytes(skb, ETH_HLEN + ip.ihl * 4, &ports16, sizeof(ports16));
	from = address_of(port->vni, ip.saddr);
	if (known && ip.protocol == IPPROTO_UDP) {
		if (ports16.source == bpf_htons(DHCP_SERVER) && ports16.destination == bpf_htons(DHCP_CLIENT) &&
		    !(port->flags & PORT_OPEN))
			return -DROP_DHCP_SERVER;
		if (ports16.source == bpf_htons(DHCP_CLIENT) && ports16.destination == bpf_htons(DHCP_SERVER) &&
		    port->flags & PORT_SERVED && same_mac(mac, port->mac)) {
			refused = ip.saddr ? check_sender(port, ifindex, mac, &from) : 0;
			return refused ? refused : -SERVE;
		}
	}
	if (ip.daddr != SERVICE_IP || !(port->flags & PORT_SERVED))
		return 0;
	if (!known || !is_offered(ip.protocol, ports16.destination))
		return -DROP_NO_SERVICE;
	refused = check_sender(port, ifindex, mac, &from);
	return refused ? refused : -SERVE;
}

/* Step S, IPv6, as service4. */
static __noinline int service6(struct __sk_buff *skb, const struct port *port, __u32 ifindex)
{
	struct ports16 ports16 = {};
	struct address_key from;
	__u8 mac[ETH_ALEN] __attribute__((aligned(4)));
	struct ipv6hdr ip;
	bool known;
	int refused;

	if (bpf_skb_load_bytes(skb, ETH_ALEN, mac, sizeof(mac)) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -DROP_MALFORMED;
	known = bpf_ntohs(ip.payload_len) >= sizeof(ports16) &&
		!bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &ports16, sizeof(ports16));
	from = address6_of(port->vni, &ip.saddr);
	if (known && ip.nexthdr == IPPROTO_UDP) {
		if (ports16.source == bpf_htons(DHCP6_SERVER) && ports16.destination == bpf_htons(DHCP6_CLIENT) &&
		    !(port->flags & PORT_OPEN))
			return -DROP_DHCP_SERVER;
		if (ports16.source == bpf_htons(DHCP6_CLIENT) && ports16.destination == bpf_htons(DHCP6_SERVER) &&
		    port->flags & PORT_SERVED && same_mac(mac, port->mac)) {
			refused = check_sender(port, ifindex, mac, &from);
			return refused ? refused : -SERVE;
		}
	}
	if (!(port->flags & PORT_SERVED) || !is_service6((const __be32 *)&ip.daddr))
		return 0;
	if (!known || !is_offered(ip.nexthdr, ports16.destination))
		return -DROP_NO_SERVICE;
	refused = check_sender(port, ifindex, mac, &from);
	return refused ? refused : -SERVE;
}

/* Step 6b, a router solicitation of a port that is served (RFC 4861 section 6.1.1). */
static __noinline int solicit(struct __sk_buff *skb, const struct port *port, __u32 ifindex)
{
	struct {
		struct ipv6hdr ip;
		__u8 type;
		__u8 code;
		__u8 rest[6];
	} asked;
	__u8 mac[ETH_ALEN] __attribute__((aligned(4)));
	struct address_key from;
	int refused;

	if (bpf_skb_load_bytes(skb, ETH_ALEN, mac, sizeof(mac)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &asked, sizeof(asked)) || bpf_ntohs(asked.ip.payload_len) < 8)
		return -DROP_MALFORMED;
	if (asked.code || asked.ip.hop_limit != 255)
		return -DROP_ND_IGNORED;
	from = address6_of(port->vni, &asked.ip.saddr);
	if (!(from.ip[0] | from.ip[1] | from.ip[2] | from.ip[3]))
		return same_mac(mac, port->mac) ? -SERVE : -DROP_SPOOFED_MAC;
	refused = check_sender(port, ifindex, mac, &from);
	return refused ? refused : -SERVE;
}

/* Step C: it is a port with pairs that announces the address, which is not at it, at that MAC, yet. */
static __always_inline bool is_news(const struct port *port, __u32 ifindex, const __u8 *mac,
				    const struct address_key *ip)
{
	struct local_endpoint *own;

	if ((port->flags & (PORT_PAIRS | PORT_OPEN)) != PORT_PAIRS)
		return false;
	own = bpf_map_lookup_elem(&local, ip);
	return !own || own->ifindex != ifindex || !same_mac(own->mac, mac);
}

static __always_inline int bring(struct __sk_buff *skb, const struct port *port, __u32 ifindex, const __u32 room)
{
	struct request *request = bpf_ringbuf_reserve(&requests, sizeof(*request) + room, 0);
	__u64 length = skb->len; /* 64 bits: the verifier follows the register that was compared */

	if (!request)
		return -DROP_SERVICE_LIMIT;
	asm volatile("" : "+r"(length));
	if (length < 1 || length > room || bpf_skb_load_bytes(skb, 0, request + 1, length)) {
		bpf_ringbuf_discard(request, 0);
		return -DROP_SERVICE_LIMIT;
	}
	__builtin_memcpy(request->id, port->id, sizeof(request->id));
	request->ifindex = ifindex;
	request->length = length;
	request->gso_size = skb->gso_size;
	request->zero = 0;
	bpf_ringbuf_submit(request, 0);
	return 0;
}

/* Step S, the end of it. A request that comes back has no answer. */
static __noinline int serve(struct __sk_buff *skb, __u32 ifindex, bool held)
{
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	int refused;

	if (held || !port)
		return -DROP_UNSERVED;
	if (!count_rate(&request_rates, ifindex, SERVICE_RATE))
		return -DROP_SERVICE_LIMIT;
	refused = skb->len <= MISS_SMALL ? bring(skb, port, ifindex, MISS_SMALL) : bring(skb, port, ifindex, MISS_LARGE);
	return refused ? refused : verdict(skb, VERDICT_SERVE, ifindex, TC_ACT_STOLEN);
}

#endif
