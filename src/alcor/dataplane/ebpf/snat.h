/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared external addresses: docs/pipeline.md, "A shared address". Included by nat.h.
 *
 * Hosts share an address by blocks of its ports. A port's connection gets one of its own host's ports there, and is
 * remembered on that host alone, both ways (`bindings`); what comes back at another host is sent on by its block, without
 * a memory. The mapping is the same for all remotes while the port is free towards each (RFC 7857 section 3: port
 * overlapping); only the remote that was spoken to may answer.
 */
#ifndef ALCOR_SNAT_H
#define ALCOR_SNAT_H

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SHARED);
	__type(key, struct address_key);
	__type(value, struct shared_address);
} shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_BLOCKS);
	__type(key, struct block_key);
	__type(value, struct block_holder);
} blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_BINDINGS);
	__type(key, struct flow_key);
	__type(value, struct binding);
} bindings SEC(".maps");

static __always_inline struct shared_address *find_shared(__be32 ip)
{
	struct address_key key = address_of(OUTSIDE, ip);

	return bpf_map_lookup_elem(&shared, &key);
}

/* This host answers for the address on the external network. */
static __always_inline bool answers_for(__be32 ip)
{
	struct shared_address *row = find_shared(ip);

	return row && row->flags & SHARED_ANSWERS;
}

/* TCP, UDP, and ICMP echoes that go that way. */
static __always_inline bool is_bindable(const struct packet *packet, bool leaves)
{
	return packet->protocol == PROTOCOL_TCP || packet->protocol == PROTOCOL_UDP ||
	       (packet->protocol == PROTOCOL_ICMP && is_echo(packet, leaves));
}

/* RFC 5382 REQ-5 (TCP), RFC 4787 REQ-5 (UDP), RFC 5508 REQ-2 (ICMP queries). */
static __always_inline bool is_over(const struct flow_key *key, const struct binding *row, __u64 now)
{
	__u64 life = 300;

	if (key->protocol == PROTOCOL_TCP)
		life = (row->flags & (BINDING_ANSWERED | BINDING_CLOSED)) == BINDING_ANSWERED ? 7440 : 240;
	else if (key->protocol == PROTOCOL_ICMP)
		life = 60;
	return now - row->seen_ns > life * SECOND;
}

static __always_inline void refresh(struct binding *row, const struct packet *packet, __u64 now)
{
	if (ends_connection(packet))
		row->flags |= BINDING_CLOSED;
	if (now - row->seen_ns > SECOND / 4)
		row->seen_ns = now;
}

/* The binding of which a port's packet (or the one that its ICMP error quotes) says the inner side; then its outer side. */
static __always_inline void key_forth(struct snatting *s, const struct packet *packet, __u32 ifindex, bool leaves)
{
	make_key(&s->forth, packet, ifindex, leaves);
	if (s->forth.protocol == PROTOCOL_ICMP)
		s->forth.remote_port = 0;
}

static __always_inline void key_back(struct snatting *s, __be32 ip, __be16 port)
{
	s->back = s->forth;
	s->back.local[3] = ip;
	s->back.local_port = port;
	s->back.ifindex = 0;
	s->back.zero[0] = BINDING_BACK;
}

static __always_inline bool is_bound_to(const struct binding *row, const struct snatting *s)
{
	return row->vni == s->inner.vni && row->ip[3] == s->inner.ip[3] && row->port == s->inner.port;
}

/* Whether the port of the address, in `back`, can be had for `inner`; it is, then. */
static __always_inline bool take(struct snatting *s, __u64 now)
{
	struct binding *row = bpf_map_lookup_elem(&bindings, &s->back);

	if (!row)
		return !bpf_map_update_elem(&bindings, &s->back, &s->inner, BPF_NOEXIST);
	if (is_bound_to(row, s)) {
		row->ifindex = s->inner.ifindex;
		return true;
	}
	return is_over(&s->back, row, now) && !bpf_map_update_elem(&bindings, &s->back, &s->inner, BPF_ANY);
}

static __always_inline bool has_block(const struct shared_address *row, __u32 block)
{
	for (__u32 i = 0; i < MAX_OWN_BLOCKS; i++)
		if (i < row->count && row->own[i] == block)
			return true;
	return false;
}

/* A port of the address for a connection that has none (any more): the first that is free towards its remote, from a place
 * that its inner side says. 0 with it in `back`, or a negative drop reason. */
__noinline int choose_port(__be32 ip)
{
	struct shared_address *row = find_shared(ip);
	struct scratch *on = get_scratch();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct snatting *s;
	__u32 hash, total;

	if (!on || !row || !row->count || row->count > MAX_OWN_BLOCKS)
		return -DROP_NO_BLOCK;
	s = &on->snatting;
	hash = hash_end(s->forth.local, s->forth.local_port) ^ s->forth.protocol;
	hash = finalize(hash);
	total = row->count * BLOCK_PORTS;
	hash = ((__u64)hash * total) >> 32;
	for (__u32 i = 0; i < PORT_TRIES; i++) {
		__u32 at = (hash + i) % total, block = at >> BLOCK_BITS;

		if (block >= MAX_OWN_BLOCKS)
			break;
		key_back(s, ip, bpf_htons(row->own[block] << BLOCK_BITS | (at & (BLOCK_PORTS - 1))));
		if (take(s, now))
			return 0;
	}
	return -DROP_SNAT_FULL;
}

/* An error that a port sends about a packet of a connection: 0 with its port outside in scratch. */
static __always_inline int bind_related(struct __sk_buff *skb, struct scratch *on, __u32 ifindex)
{
	struct snatting *s = &on->snatting;
	struct binding *row;

	if (read_packet(skb, ETH_HLEN + on->packet.payload + 8, &on->quoted, 4, 1) ||
	    on->quoted.fragment == FRAGMENT_LATER || on->quoted.protocol == PROTOCOL_ICMP ||
	    !is_bindable(&on->quoted, true) || on->quoted.destination[3] != on->packet.source[3])
		return -DROP_NO_TRANSLATION;
	key_forth(s, &on->quoted, ifindex, false);
	row = bpf_map_lookup_elem(&bindings, &s->forth);
	if (!row || row->ip[3] != on->outside.source)
		return -DROP_NO_TRANSLATION;
	on->outside.port = row->port;
	return 0;
}

/* Step X2 of a shared address: which port of it the packet in scratch gets. 0 with that there, or a negative drop reason. */
static __noinline int bind(struct __sk_buff *skb, __u32 vni, __u32 ifindex)
{
	struct scratch *on = get_scratch();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct shared_address *address;
	struct packet *packet;
	struct binding *row;
	struct snatting *s;
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	packet = &on->packet;
	s = &on->snatting;
	on->party.vni = vni;
	if (packet->fragment) {
		refused = reassemble(packet, &on->party);
		if (refused)
			return refused;
	}
	if (is_icmp_error(packet))
		return bind_related(skb, on, ifindex);
	if (!is_bindable(packet, true))
		return -DROP_NO_TRANSLATION;
	if (!has_checksum(skb, packet))
		return -DROP_MALFORMED;
	address = find_shared(on->outside.source);
	if (!address)
		return -DROP_NO_BLOCK;
	key_forth(s, packet, ifindex, true);
	s->inner = (struct binding){.ip = {0, 0, bpf_htonl(0xffff), packet->source[3]},
				    .vni = vni,
				    .ifindex = ifindex,
				    .seen_ns = now,
				    .port = packet->source_port};
	row = bpf_map_lookup_elem(&bindings, &s->forth);
	if (row)
		key_back(s, row->ip[3], row->port);
	if (!row || row->ip[3] != on->outside.source ||
	    !has_block(address, bpf_ntohs(row->port) >> BLOCK_BITS) || !take(s, now)) {
		refused = choose_port(on->outside.source);
		if (refused)
			return refused;
		s->outer = s->inner;
		s->outer.ip[3] = on->outside.source;
		s->outer.port = s->back.local_port;
		s->outer.vni = OUTSIDE;
		if (bpf_map_update_elem(&bindings, &s->forth, &s->outer, BPF_ANY))
			return -DROP_SNAT_FULL;
	}
	row = bpf_map_lookup_elem(&bindings, &s->back);
	if (!row)
		return -DROP_SNAT_FULL; /* forgotten by another CPU, just now */
	if (packet->protocol == PROTOCOL_TCP && packet->fragment != FRAGMENT_LATER &&
	    (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		row->flags = 0; /* anew */
	refresh(row, packet, now);
	on->outside.port = s->back.local_port;
	return 0;
}

/* To the host that has the block, as it came: VNI 0 is outside. */
static __noinline int send_on(struct __sk_buff *skb, __be32 host_ip)
{
	struct remote_endpoint to = {.host_ip = {0, 0, bpf_htonl(0xffff), host_ip}};
	struct ethhdr *eth = frame(skb, ETH_HLEN);

	return eth ? tunnel(skb, 0, OUTSIDE, 0, eth, &to, 0) : -DROP_MALFORMED;
}

/* A packet for a shared address, which came from outside, or (`overlay`) was sent on by the host that answers for it. An
 * action, or a negative drop reason. */
static __noinline int from_shared(struct __sk_buff *skb, __u32 overlay)
{
	struct scratch *on = get_scratch();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct shared_address *address;
	struct host_config *host;
	struct block_holder *holder;
	struct block_key block = {};
	struct packet *of;
	struct binding *row;
	struct snatting *s;
	__u32 zero = 0;
	int refused;
	bool error;

	if (!on)
		return -DROP_FLOWS_FULL;
	s = &on->snatting;
	/* 4, 5 */
	refused = check_outside(skb);
	if (refused)
		return refused;
	address = find_shared(on->packet.destination[3]);
	if (!address)
		return -DROP_NO_ENDPOINT;
	on->party.vni = OUTSIDE;
	if (on->packet.fragment) {
		refused = reassemble(&on->packet, &on->party);
		if (refused)
			return refused;
	}
	of = &on->packet;
	error = is_icmp_error(of);
	if (error) {
		if (read_packet(skb, ETH_HLEN + on->packet.payload + 8, &on->quoted, 4, 1) ||
		    on->quoted.fragment == FRAGMENT_LATER || on->quoted.source[3] != on->packet.destination[3])
			return -DROP_UNSOLICITED;
		of = &on->quoted;
	}
	/* What is quoted went the other way. */
	if (!is_bindable(of, error))
		return -DROP_UNSOLICITED;
	if (!error && !has_checksum(skb, of))
		return -DROP_MALFORMED;
	key_forth(s, of, 0, error);
	s->forth.zero[0] = BINDING_BACK;
	__builtin_memcpy(block.ip, s->forth.local, sizeof(block.ip));
	block.block = bpf_ntohs(s->forth.local_port) >> BLOCK_BITS;
	holder = bpf_map_lookup_elem(&blocks, &block);
	host = bpf_map_lookup_elem(&config, &zero);
	if (!holder || !host)
		return -DROP_NO_BLOCK;
	if (holder->host_ip[3] != host->underlay_ip[3]) {
		if (overlay)
			return -DROP_NO_BLOCK; /* one of the two hosts is behind: not round and round */
		/* M */
		if (s->length > address->mtu)
			return too_big(skb, address->mtu, skb->ifindex);
		return send_on(skb, holder->host_ip[3]);
	}
	row = bpf_map_lookup_elem(&bindings, &s->forth);
	if (!row || is_over(&s->forth, row, now))
		return -DROP_UNSOLICITED;
	if (!error) {
		row->flags |= BINDING_ANSWERED;
		refresh(row, &on->packet, now);
	}
	s->inner = *row;
	return inward(skb, overlay);
}

#endif
