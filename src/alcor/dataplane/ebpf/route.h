/* SPDX-License-Identifier: Apache-2.0
 *
 * Routes out of a VNI: docs/pipeline.md, step R. Included by alcor.bpf.c. Only packets of ports with PORT_ROUTES that are
 * sent to the router come here.
 */
#ifndef ALCOR_ROUTE_H
#define ALCOR_ROUTE_H

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ROUTES);
	__type(key, struct route_key);
	__type(value, struct route);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_TRANSLATIONS);
	__type(key, struct translation_key);
	__type(value, __u32);
} translations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, struct mac_key);
	__type(value, struct local_endpoint);
} macs SEC(".maps");

/* What stands in VNI `to` for the groups that an identity of VNI `from` stands for; 0: nothing does. */
static __always_inline __u16 translate(__u32 from, __u16 identity, __u32 to)
{
	struct translation_key key = {.vni = from, .identity = identity, .to = to};
	__u32 *found;

	if (from == to || !identity)
		return identity;
	found = bpf_map_lookup_elem(&translations, &key);
	return found ? *found : 0;
}

static __always_inline __u32 hash_end(const __be32 *ip, __be16 port)
{
	__u32 hash = 0x811c9dc5; /* FNV-1a, a word at a time */

	for (int i = 0; i < 4; i++)
		hash = (hash ^ bpf_ntohl(ip[i])) * 0x01000193;
	return (hash ^ bpf_ntohs(port)) * 0x01000193;
}

/* MurmurHash3's finalizer: every bit of the sum reaches every bit of the hash. */
static __always_inline __u32 finalize(__u32 hash)
{
	hash = (hash ^ hash >> 16) * 0x85ebca6b;
	hash = (hash ^ hash >> 13) * 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* The same for both directions of a connection, and for all of its packets: fragments go without ports. */
static __always_inline __u32 hash_flow(const struct packet *packet)
{
	bool whole = packet->fragment == FRAGMENT_NONE;
	__u32 hash = hash_end(packet->source, whole ? packet->source_port : 0) +
		     hash_end(packet->destination, whole ? packet->destination_port : 0);

	return finalize(hash ^ packet->protocol);
}

/* What find_route returns for a packet to an external network: no drop reason. `to` is then the address that its router
 * shares out there (IPv4; 0: none). */
#define LEAVES 512

/* Step R: turns the destination `to` into the address that the packet is to be handed to, and its VNI. `via`: that is
 * another's. 0, or a negative drop reason. */
static __noinline int find_route(struct __sk_buff *skb, struct address_key *to, __u32 version, __u32 *mtu, bool *via)
{
	struct route_key key = {.prefix_length = ROUTE_BITS + 128};
	struct scratch *on;
	struct route *route;
	struct hop *hop;
	__u32 at = 0;
	int refused;

	if (!to || !mtu || !via)
		return -DROP_NO_ROUTE;
	key.vni = to->vni | (version == 6 ? ROUTE_IPV6 : 0);
	__builtin_memcpy(key.ip, to->ip, sizeof(key.ip));
	route = bpf_map_lookup_elem(&routes, &key);
	if (!route)
		return -DROP_NO_ROUTE;
	if (route->kind == ROUTE_BLACKHOLE)
		return -DROP_BLACKHOLE;
	if (route->kind == ROUTE_OUTSIDE) {
		to->vni = OUTSIDE;
		__builtin_memcpy(to->ip, route->hops[0].ip, sizeof(to->ip));
		return -LEAVES;
	}
	if (route->count > 1) {
		on = get_scratch();
		if (!on)
			return -DROP_NO_ROUTE;
		refused = read_packet(skb, ETH_HLEN, &on->packet, version, 0);
		if (refused)
			return refused;
		at = ((__u64)hash_flow(&on->packet) * route->count) >> 32;
		if (at >= MAX_HOPS)
			return -DROP_NO_ROUTE;
	}
	hop = &route->hops[at];
	to->vni = hop->vni;
	*mtu = hop->mtu;
	if (route->kind == ROUTE_HOPS) {
		__builtin_memcpy(to->ip, hop->ip, sizeof(to->ip));
		*via = true;
	}
	return 0;
}

#endif
