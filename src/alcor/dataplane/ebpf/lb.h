/* SPDX-License-Identifier: Apache-2.0
 *
 * Load balancing on the client's own host: docs/pipeline.md, steps B and U. Included by alcor.bpf.c.
 *
 * A connection to a load balancer's address is given a backend by Maglev's table (maglev.py makes it), and keeps it: the
 * choice is a row of `balanced`, and so is the way back. When a service changes its epoch grows, and each connection asks
 * with its next packet whether its backend may keep it. Nothing here is on the way of a packet that is neither for such an
 * address nor for a port of a VPC that has one.
 */
#ifndef ALCOR_LB_H
#define ALCOR_LB_H

#define CSUM_IPV6 (1ULL << 7) /* BPF_F_IPV6: newer than the headers of some systems */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

/* Sizes, not types: the debug information of a type that only an inner map names is left out. */
struct maglev_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct maglev));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__array(values, struct maglev_table);
} maglev SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_BACKEND_ROWS);
	__type(key, struct backend_key);
	__type(value, struct backend_state);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, __u32);
} service_epochs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct service_traffic);
} service_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_BALANCED);
	__type(key, struct flow_key);
	__type(value, struct balanced);
} balanced SEC(".maps");

/* What `choose` answers beside a drop reason. */
#define CHOSEN 0
#define CHOSEN_PING 1

static __always_inline __u32 mix(__u32 mixed, __u32 word)
{
	mixed = (mixed ^ word) * 0x9e3779b1;
	return mixed ^ (mixed >> 15);
}

/* As place_of of maglev.py. */
static __always_inline __u32 place_of(const __be32 *source, __u32 port)
{
	__u32 mixed = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		mixed = mix(mixed, bpf_ntohl(source[i]));
	mixed = mix(mixed, port);
	mixed = (mixed ^ (mixed >> 16)) * 0x85ebca6b;
	return (mixed ^ (mixed >> 13)) % MAGLEV_SIZE;
}

static __always_inline bool equal_ip(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline bool is_balanceable(const struct packet *packet)
{
	return packet->protocol == PROTOCOL_TCP || packet->protocol == PROTOCOL_UDP;
}

static __always_inline bool ends_connection(const struct packet *packet)
{
	return packet->protocol == PROTOCOL_TCP && packet->fragment != FRAGMENT_LATER &&
	       packet->tcp_flags & (TCP_FIN | TCP_RST);
}

static __always_inline bool opens_connection(const struct packet *packet)
{
	return packet->protocol == PROTOCOL_TCP && packet->fragment != FRAGMENT_LATER &&
	       (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* The headers that are rewritten are in the frame. */
static __always_inline bool has_checksum(struct __sk_buff *skb, const struct packet *packet)
{
	return packet->fragment == FRAGMENT_LATER ||
	       skb->len >= ETH_HLEN + packet->payload + (packet->protocol == PROTOCOL_TCP ? 20 : 8);
}

/* Long idle: the connection is chosen for anew. */
static __always_inline bool is_idle(const struct flow_key *key, const struct balanced *row, __u64 now)
{
	__u64 life = 120;

	if (key->protocol == PROTOCOL_TCP && !(row->flags & BALANCED_CLOSED))
		life = 432000;
	return now - row->seen_ns > life * SECOND;
}

static __always_inline __u32 epoch_of(__u32 slot)
{
	__u32 *epoch = bpf_map_lookup_elem(&service_epochs, &slot);

	return epoch ? *epoch : 0;
}

/* May the connection keep its backend? Asked again after each change of the service. */
static __always_inline bool may_keep(const struct service_key *named, struct balanced *row, __u64 now)
{
	__u32 latest = epoch_of(row->slot);

	if (row->epoch != latest) {
		struct backend_key key = {.slot = row->slot, .port = row->port};
		struct service *service = bpf_map_lookup_elem(&services, named);
		struct backend_state *state;

		if (!service || service->slot != row->slot)
			return false;
		__builtin_memcpy(key.ip, row->ip, sizeof(key.ip));
		state = bpf_map_lookup_elem(&backends, &key);
		if (!state || (state->failed && named->protocol == PROTOCOL_UDP))
			return false;
		row->until_ns = state->until_ns;
		row->epoch = latest;
	}
	return !row->until_ns || now <= row->until_ns;
}

/* A backend for a new connection. 0, or a negative drop reason. */
static __always_inline int pick(struct balancing *b, const struct packet *packet)
{
	struct service *service = bpf_map_lookup_elem(&services, &b->service);
	struct balanced *chosen = &b->chosen;
	struct maglev *table;
	struct backend *one;
	__u32 zero = 0;
	__u64 index;
	void *inner;

	if (!service)
		return -DROP_NO_LISTENER;
	inner = bpf_map_lookup_elem(&maglev, &service->slot);
	table = inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
	if (!table || !table->count)
		return -DROP_NO_BACKEND;
	index = place_of(packet->source, service->flags & SERVICE_AFFINITY ? 0 : bpf_ntohs(packet->source_port));
	asm volatile("" : "+r"(index)); /* the verifier does not believe what the compiler knows */
	if (index >= MAGLEV_SIZE)
		return -DROP_NO_BACKEND;
	index = table->table[index];
	if (index >= MAX_BACKENDS)
		return -DROP_NO_BACKEND;
	one = &table->backends[index];
	__builtin_memcpy(chosen->ip, one->ip, sizeof(chosen->ip));
	chosen->port = one->port;
	chosen->flags = equal_ip(one->ip, packet->source) ? BALANCED_HAIRPIN : 0;
	chosen->zero = 0;
	chosen->zeros = 0;
	chosen->slot = service->slot;
	chosen->epoch = epoch_of(service->slot);
	chosen->until_ns = 0;
	return 0;
}

/* An ICMP error for the VIP goes to the backend whose answer it quotes. 0, or a negative drop reason. */
static __always_inline int choose_related(struct __sk_buff *skb, struct scratch *on, __u32 ifindex)
{
	struct balancing *b = &on->balancing;
	struct packet *quoted = &on->quoted;
	struct balanced *row;

	if (read_packet(skb, ETH_HLEN + on->packet.payload + 8, quoted, on->packet.version, 1) ||
	    quoted->fragment == FRAGMENT_LATER || !is_balanceable(quoted) ||
	    !equal_ip(quoted->source, on->packet.destination))
		return -DROP_NO_LISTENER;
	make_key(&b->pinned, quoted, ifindex, false);
	row = bpf_map_lookup_elem(&balanced, &b->pinned);
	if (!row || row->flags & (BALANCED_HAIRPIN | BALANCED_HAIRPIN_BACK))
		return -DROP_NO_LISTENER;
	b->chosen = *row;
	b->known = 1;
	b->related = 1;
	return CHOSEN;
}

/* Step B: which backend gets a packet for a load balancer's address. The packet as it will be is in `scratch` afterwards.
 * CHOSEN, CHOSEN_PING (it is answered as by a gateway), or a negative drop reason. */
__noinline int choose(struct __sk_buff *skb, __u32 vni, __u32 ifindex, __u32 version)
{
	struct scratch *on = get_scratch();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct balancing *b;
	struct packet *packet;
	struct balanced *row;
	bool opening;
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	b = &on->balancing;
	packet = &on->packet;
	refused = read_packet(skb, ETH_HLEN, packet, version, 0);
	if (refused)
		return refused;
	on->party.vni = vni;
	if (packet->fragment) {
		refused = reassemble(packet, &on->party);
		if (refused)
			return refused;
	}
	b->known = b->related = 0;
	b->service = (struct service_key){.vni = vni, .port = packet->destination_port, .protocol = packet->protocol};
	__builtin_memcpy(b->service.ip, packet->destination, sizeof(b->service.ip));
	if (is_icmp(packet)) {
		if (!packet->fragment && is_echo(packet, true) && !(packet->selector & bpf_htons(0xff)))
			return CHOSEN_PING;
		if (!is_icmp_error(packet))
			return -DROP_NO_LISTENER;
		refused = choose_related(skb, on, ifindex);
		if (refused)
			return refused;
		__builtin_memcpy(packet->destination, b->chosen.ip, sizeof(packet->destination));
		return CHOSEN;
	}
	if (!is_balanceable(packet))
		return -DROP_NO_LISTENER;
	if (!has_checksum(skb, packet))
		return -DROP_MALFORMED;
	make_key(&b->pinned, packet, ifindex, true);
	row = bpf_map_lookup_elem(&balanced, &b->pinned);
	opening = opens_connection(packet);
	if (row && !opening && !is_idle(&b->pinned, row, now) &&
	    (row->flags & BALANCED_HAIRPIN_BACK || may_keep(&b->service, row, now))) {
		b->chosen = *row;
		b->known = 1;
	} else {
		refused = pick(b, packet);
		if (refused)
			return refused;
		/* A segment that is sent again begins nothing new. */
		b->known = row && equal_ip(row->ip, b->chosen.ip) && row->port == b->chosen.port &&
			   row->slot == b->chosen.slot && !(row->flags & BALANCED_CLOSED) && !is_idle(&b->pinned, row, now);
		if (b->known)
			b->chosen = *row;
	}
	__builtin_memcpy(packet->destination, b->chosen.ip, sizeof(packet->destination));
	if (!(b->chosen.flags & BALANCED_HAIRPIN_BACK))
		packet->destination_port = packet->selector = b->chosen.port;
	return CHOSEN;
}

/* Policy has nothing to say of a port that talks to itself, nor of an error about a connection that it let be. */
static __always_inline bool is_exempt(const struct balancing *b)
{
	return b->related || b->chosen.flags & (BALANCED_HAIRPIN | BALANCED_HAIRPIN_BACK);
}

/* Puts an address and a port into the packet, as `scratch` has it, and keeps checksums right (RFC 1624). 0 when done. */
__noinline int rebalance(struct __sk_buff *skb)
{
	struct scratch *on = get_scratch();
	struct edit *edit;
	__u64 udp, how, how6;
	__s64 diff;

	if (!on)
		return -DROP_FLOWS_FULL;
	edit = &on->balancing.edit;
	diff = bpf_csum_diff(edit->from, 16, edit->to, 16, 0);
	udp = edit->mangled ? BPF_F_MARK_MANGLED_0 : 0;
	how = udp | (edit->pseudo ? BPF_F_PSEUDO_HDR : 0);
	how6 = edit->pseudo && edit->version == 6 ? how | CSUM_IPV6 : how; /* refused by kernels that know no better */
	/* The sum of an IPv4 header that is quoted stays what it is: its own checksum takes the change up. */
	if (edit->check_at && (edit->pseudo || edit->version == 6) &&
	    bpf_l4_csum_replace(skb, edit->check_at, 0, diff, how6) &&
	    bpf_l4_csum_replace(skb, edit->check_at, 0, diff, how))
		return -DROP_MALFORMED;
	if (edit->check_at && edit->port_at && edit->from_port != edit->to_port &&
	    bpf_l4_csum_replace(skb, edit->check_at, edit->from_port, edit->to_port, 2 | udp))
		return -DROP_MALFORMED;
	if (edit->version == 4) {
		if (bpf_l3_csum_replace(skb, edit->ip_at + offsetof(struct iphdr, check), 0, diff, 0) ||
		    bpf_skb_store_bytes(skb, edit->address_at, &edit->to[3], 4, 0))
			return -DROP_MALFORMED;
	} else if (bpf_skb_store_bytes(skb, edit->address_at, edit->to, 16, 0)) {
		return -DROP_MALFORMED;
	}
	if (edit->port_at && bpf_skb_store_bytes(skb, edit->port_at, &edit->to_port, 2, 0))
		return -DROP_MALFORMED;
	return 0;
}

/* Where things are in the packet whose IP header is at `ip_at`, for an edit of its source or destination. */
static __always_inline void aim(struct edit *edit, const struct packet *packet, __u32 ip_at, bool source)
{
	__u32 transport = ip_at + packet->payload;

	edit->version = packet->version;
	edit->ip_at = ip_at;
	if (packet->version == 4)
		edit->address_at = ip_at + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	else
		edit->address_at = ip_at + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
	edit->port_at = edit->check_at = 0;
	edit->mangled = packet->protocol == PROTOCOL_UDP;
	edit->pseudo = 1;
	if (packet->fragment == FRAGMENT_LATER)
		return;
	if (is_icmp(packet)) {
		edit->check_at = packet->version == 6 ? transport + 2 : 0;
		return;
	}
	edit->port_at = transport + (source ? 0 : 2);
	edit->check_at = transport + (packet->protocol == PROTOCOL_TCP ? 16 : 6);
}

/* The same, for the packet that an ICMP error quotes: the error's checksum covers all of it. */
static __always_inline void aim_quoted(struct edit *edit, const struct packet *packet, const struct packet *quoted,
				       bool source)
{
	aim(edit, quoted, ETH_HLEN + packet->payload + 8, source);
	edit->check_at = ETH_HLEN + packet->payload + 2;
	edit->pseudo = 0;
	edit->mangled = 0;
}

static __always_inline struct service_traffic *traffic_of(__u32 slot)
{
	return bpf_map_lookup_elem(&service_counters, &slot);
}

/* Remembers the choice, both ways. Once known it is refreshed four times a second; that a backend has ended its way stays
 * remembered until a SYN begins anew. */
static __always_inline void pin(struct __sk_buff *skb, struct scratch *on)
{
	struct balancing *b = &on->balancing;
	struct balanced *chosen = &b->chosen, *before, back = {};
	struct service_traffic *traffic = traffic_of(chosen->slot);
	__u64 now = bpf_ktime_get_coarse_ns();
	bool ends = ends_connection(&on->packet) && !(chosen->flags & BALANCED_CLOSED);
	bool opens = opens_connection(&on->packet);
	struct flow_key *key = &b->pinned;
	__be16 port = key->local_port;

	if (traffic && !(chosen->flags & BALANCED_HAIRPIN_BACK)) {
		traffic->packets_in += 1;
		traffic->bytes_in += skb->len;
		traffic->connections += !b->known;
		traffic->closed += ends;
	}
	if (b->known && !ends && !opens && now - chosen->seen_ns <= SECOND / 4)
		return;
	if (ends)
		chosen->flags |= BALANCED_CLOSED;
	chosen->seen_ns = now;
	bpf_map_update_elem(&balanced, key, chosen, BPF_ANY);
	if (chosen->flags & BALANCED_HAIRPIN_BACK)
		return;
	__builtin_memcpy(back.ip, b->service.ip, sizeof(back.ip));
	back.port = b->service.port;
	back.slot = chosen->slot;
	back.seen_ns = now;
	back.flags = chosen->flags & BALANCED_CLOSED;
	if (chosen->flags & BALANCED_HAIRPIN) {
		/* The backend answers the VIP: that is a connection forth, to the client's address and port. */
		__builtin_memcpy(back.ip, chosen->ip, sizeof(back.ip));
		back.flags |= BALANCED_HAIRPIN_BACK;
		key->local_port = chosen->port;
		key->remote_port = port;
	} else {
		__builtin_memcpy(key->remote, chosen->ip, sizeof(key->remote));
		key->remote_port = chosen->port;
		key->zero[0] = BALANCED_BACK;
	}
	before = b->known && !opens ? bpf_map_lookup_elem(&balanced, key) : NULL;
	if (before)
		back.flags |= before->flags & BALANCED_CLOSED;
	bpf_map_update_elem(&balanced, key, &back, BPF_ANY);
}

/* Sends the packet to who was chosen, and remembers it. 0, or a negative drop reason. */
__noinline int balance(struct __sk_buff *skb)
{
	struct scratch *on = get_scratch();
	struct balancing *b;
	struct edit *edit;

	if (!on)
		return -DROP_FLOWS_FULL;
	b = &on->balancing;
	edit = &b->edit;
	if (b->related) {
		aim_quoted(edit, &on->packet, &on->quoted, true);
		__builtin_memcpy(edit->from, b->service.ip, sizeof(edit->from));
		__builtin_memcpy(edit->to, b->chosen.ip, sizeof(edit->to));
		edit->from_port = on->quoted.source_port;
		edit->to_port = b->chosen.port;
		if (rebalance(skb))
			return -DROP_MALFORMED;
	} else {
		pin(skb, on);
	}
	aim(edit, &on->packet, ETH_HLEN, false);
	__builtin_memcpy(edit->from, b->service.ip, sizeof(edit->from));
	__builtin_memcpy(edit->to, b->chosen.ip, sizeof(edit->to));
	edit->from_port = b->service.port;
	edit->to_port = b->chosen.flags & BALANCED_HAIRPIN_BACK ? b->service.port : b->chosen.port;
	if (rebalance(skb))
		return -DROP_MALFORMED;
	if (!(b->chosen.flags & (BALANCED_HAIRPIN | BALANCED_HAIRPIN_BACK)))
		return 0;
	aim(edit, &on->packet, ETH_HLEN, true);
	__builtin_memcpy(edit->from, on->packet.source, sizeof(edit->from));
	__builtin_memcpy(edit->to, b->service.ip, sizeof(edit->to));
	edit->from_port = on->packet.source_port;
	edit->to_port = b->chosen.flags & BALANCED_HAIRPIN_BACK ? b->chosen.port : on->packet.source_port;
	return rebalance(skb) ? -DROP_MALFORMED : 0;
}

/* Step U, for an ICMP error about a packet that was sent to a backend. True: it came from there, and now from the VIP. */
static __always_inline bool unbalance_error(struct __sk_buff *skb, struct scratch *on, __u32 ifindex)
{
	struct balancing *b = &on->balancing;
	struct packet *quoted = &on->quoted;
	struct edit *edit = &b->edit;
	struct balanced *row;

	if (read_packet(skb, ETH_HLEN + on->packet.payload + 8, quoted, on->packet.version, 1) ||
	    quoted->fragment == FRAGMENT_LATER || !is_balanceable(quoted) ||
	    !equal_ip(quoted->source, on->packet.destination))
		return false;
	make_key(&b->pinned, quoted, ifindex, true);
	b->pinned.zero[0] = BALANCED_BACK;
	row = bpf_map_lookup_elem(&balanced, &b->pinned);
	if (!row)
		return false;
	aim_quoted(edit, &on->packet, quoted, false);
	__builtin_memcpy(edit->from, quoted->destination, sizeof(edit->from));
	__builtin_memcpy(edit->to, row->ip, sizeof(edit->to));
	edit->from_port = quoted->destination_port;
	edit->to_port = row->port;
	if (rebalance(skb) || !equal_ip(on->packet.source, quoted->destination))
		return false;
	aim(edit, &on->packet, ETH_HLEN, true);
	return !rebalance(skb);
}

/* Step U: what a backend answers comes from the VIP. The frame is as it will be delivered to the interface. 1: it was
 * such an answer, else 0. */
__noinline int unbalance(struct __sk_buff *skb, __u32 vni, __u32 ifindex, __u32 version)
{
	struct scratch *on = get_scratch();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct service_traffic *traffic;
	struct balancing *b;
	struct packet *packet;
	struct balanced *row;
	struct edit *edit;

	if (!on)
		return 0;
	b = &on->balancing;
	packet = &on->packet;
	edit = &b->edit;
	if (read_packet(skb, ETH_HLEN, packet, version, 0))
		return 0;
	on->party.vni = vni;
	if (packet->fragment && reassemble(packet, &on->party))
		return 0;
	if (is_icmp_error(packet))
		return unbalance_error(skb, on, ifindex);
	if (!is_balanceable(packet) || !has_checksum(skb, packet))
		return 0;
	make_key(&b->pinned, packet, ifindex, false);
	b->pinned.zero[0] = BALANCED_BACK;
	row = bpf_map_lookup_elem(&balanced, &b->pinned);
	if (!row || is_idle(&b->pinned, row, now))
		return 0;
	traffic = traffic_of(row->slot);
	if (traffic) {
		traffic->packets_out += 1;
		traffic->bytes_out += skb->len;
	}
	if (ends_connection(packet)) {
		if (traffic && packet->tcp_flags & TCP_RST && !(row->flags & BALANCED_CLOSED))
			traffic->closed += 1;
		row->flags |= BALANCED_CLOSED;
	}
	if (now - row->seen_ns > SECOND / 4)
		row->seen_ns = now;
	aim(edit, packet, ETH_HLEN, true);
	__builtin_memcpy(edit->from, packet->source, sizeof(edit->from));
	__builtin_memcpy(edit->to, row->ip, sizeof(edit->to));
	edit->from_port = packet->source_port;
	edit->to_port = row->port;
	return !rebalance(skb);
}

#endif
