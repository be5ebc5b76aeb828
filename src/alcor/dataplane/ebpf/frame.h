/* SPDX-License-Identifier: Apache-2.0
 *
 * What every step works with: the maps of ports and endpoints, verdicts and counters, headers read and mended. Included by
 * alcor.bpf.c.
 */
#ifndef ALCOR_FRAME_H
#define ALCOR_FRAME_H

#define AF_INET 2 /* from sys/socket.h */
#define AF_INET6 10
/* From linux/if_arp.h and linux/icmp.h, which need the C library's headers. */
#define ARPHRD_ETHER 1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2
struct icmp_echo {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 id;
	__be16 sequence;
};

#define IP_FRAGMENT 0x3fff /* MF and offset; DF is no fragment */
#define IP_DONT_FRAGMENT 0x4000
#define VXLAN_I_FLAG 0x08000000
#define VXLAN_G_FLAG 0x80000000 /* Group Policy Option: the low 16 bits are the sender's identity */
#define VXLAN_GROUP 0xffff
/* In the header's last byte, which is reserved (RFC 7348) and ours alone: a load-balanced packet, where the EIP is. */
#define VXLAN_FROM_OUTSIDE 1
#define VXLAN_TO_OUTSIDE 2
/* Newer than the headers of some systems; in the kernel since Linux 6.3. */
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)

/* What encapsulation puts between the outer Ethernet header and the inner IP header. */
#define OVERLAY_LENGTH 50
struct overlay {
	struct iphdr ip;
	struct udphdr udp;
	__be32 vxlan_flags;
	__be32 vxlan_vni;
	struct ethhdr inner;
} __attribute__((packed, aligned(4)));

_Static_assert(offsetof(struct overlay, inner) + ETH_HLEN == OVERLAY_LENGTH, "overlay headers");

struct arp_ipv4 {
	struct ethhdr eth;
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 opcode;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender_ip;
	__u8 target_mac[ETH_ALEN];
	__be32 target_ip;
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LOCAL);
	__type(key, struct address_key);
	__type(value, struct local_endpoint);
} local SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_REMOTE);
	__type(key, struct address_key);
	__type(value, struct remote_endpoint);
} remote SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct traffic);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_DROPS);
	__type(key, struct drop_key);
	__type(value, __u64);
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host_config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LOCAL);
	__type(key, struct sender_key);
	__type(value, __u32);
} senders SEC(".maps");

/* ---- verdicts ---- */

static __always_inline int verdict(struct __sk_buff *skb, __u32 what, __u32 detail, int action)
{
	skb->cb[0] = what;
	skb->cb[1] = detail;
	return action;
}

/* Who is to blame for a drop, when it is not who sent the packet. */
static __always_inline int blame(struct __sk_buff *skb, __u32 ifindex, int refused)
{
	skb->cb[2] = ifindex;
	return refused;
}

static __noinline int count_drop(__u32 ifindex, __u32 reason)
{
	struct drop_key key = {.ifindex = ifindex, .reason = reason};
	__u64 one = 1;
	__u64 *count = bpf_map_lookup_elem(&drops, &key);

	/* Another CPU may make the row first: then ours is there to be counted in. */
	if (!count && bpf_map_update_elem(&drops, &key, &one, BPF_NOEXIST))
		count = bpf_map_lookup_elem(&drops, &key);
	if (count)
		*count += 1;
	return 0;
}

/* Counts and drops. Never inlined: one cold copy for both programs' every reason. */
static __noinline int drop(struct __sk_buff *skb, __u32 reason)
{
	count_drop(skb->cb[2], reason);
	return verdict(skb, VERDICT_DROP, reason, TC_ACT_SHOT);
}

static __always_inline void count_sent(struct __sk_buff *skb, __u32 ifindex)
{
	struct traffic *traffic = bpf_map_lookup_elem(&counters, &ifindex);

	if (traffic) {
		traffic->sent_packets += 1;
		traffic->sent_bytes += skb->len;
	}
}

static __always_inline void count_received(struct __sk_buff *skb, __u32 ifindex)
{
	struct traffic *traffic = bpf_map_lookup_elem(&counters, &ifindex);

	if (traffic) {
		traffic->received_packets += 1;
		traffic->received_bytes += skb->len;
	}
}

/* Back out of the port that asked. */
static __always_inline int reply(struct __sk_buff *skb, __u32 ifindex)
{
	count_received(skb, ifindex);
	return verdict(skb, VERDICT_REPLY, ifindex, bpf_redirect(ifindex, 0));
}

/* ---- reading ---- */

/* The frame with its first `need` bytes readable and writable in one piece, or NULL when it is shorter.
 * Headers may sit in fragments (some drivers, some taps); pulling them in is rare. */
static __always_inline void *frame(struct __sk_buff *skb, __u32 need)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (data + need > end) {
		if (skb->len < need || bpf_skb_pull_data(skb, need))
			return NULL;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + need > end)
			return NULL;
	}
	return data;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return *(const __u32 *)a == *(const __u32 *)b && *(const __u16 *)(a + 4) == *(const __u16 *)(b + 4);
}

/* Three halves: the stack takes no word at an odd half, and there are MACs at such places. */
static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	*(__u16 *)to = *(const __u16 *)from;
	*(__u16 *)(to + 2) = *(const __u16 *)(from + 2);
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

static __always_inline struct address_key address_of(__u32 vni, __be32 ip)
{
	return (struct address_key){.vni = vni, .ip = {0, 0, bpf_htonl(0xffff), ip}};
}

static __always_inline struct address_key address6_of(__u32 vni, const void *ip)
{
	struct address_key key = {.vni = vni};

	__builtin_memcpy(key.ip, ip, sizeof(key.ip));
	return key;
}

static __always_inline bool is_v4_mapped(const __be32 *ip)
{
	return !ip[0] && !ip[1] && ip[2] == bpf_htonl(0xffff);
}

/* The address belongs to this very port. */
static __always_inline bool owns(__u32 ifindex, const struct address_key *key)
{
	struct local_endpoint *own = bpf_map_lookup_elem(&local, key);

	return own && own->ifindex == ifindex;
}

/* The port may send from a MAC and address that are not its own. */
static __always_inline bool may_send(const struct port *port, __u32 ifindex, const __u8 *mac,
				     const struct address_key *from)
{
	struct sender_key key = {.prefix_length = 96 + 128, .ifindex = ifindex};

	if (port->flags & PORT_OPEN)
		return true;
	if (!(port->flags & PORT_PAIRS))
		return false;
	copy_mac(key.mac, mac);
	__builtin_memcpy(key.ip, from->ip, sizeof(key.ip));
	return bpf_map_lookup_elem(&senders, &key);
}

/* Anti-spoofing. 0, or a negative drop reason. */
static __always_inline int check_sender(const struct port *port, __u32 ifindex, const __u8 *mac,
					const struct address_key *from)
{
	bool own_mac = same_mac(mac, port->mac);

	if ((own_mac && owns(ifindex, from)) || may_send(port, ifindex, mac, from))
		return 0;
	return own_mac ? -DROP_SPOOFED_IP : -DROP_SPOOFED_MAC;
}

/* ---- checksums ---- */

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* RFC 1624, equation 3: the checksum after one 16-bit word changed. */
static __always_inline __u16 checksum_replace(__u16 checksum, __u16 from, __u16 to)
{
	return ~fold((__u16)~checksum + (__u32)(__u16)~from + to);
}

static __always_inline __u16 ttl_word(const struct iphdr *ip)
{
	return *(const __u16 *)&ip->ttl;
}

static __always_inline void set_ttl(struct iphdr *ip, __u8 ttl)
{
	__u16 before = ttl_word(ip);

	ip->ttl = ttl;
	ip->check = checksum_replace(ip->check, before, ttl_word(ip));
}

/* Header checksum of an IPv4 header without options whose checksum field is zero. */
static __always_inline __u16 header_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < (int)sizeof(*ip) / 2; i++)
		sum += words[i];
	return ~fold(sum);
}

#endif
