/* SPDX-License-Identifier: Apache-2.0
 *
 * Security groups by identity, and connection tracking: docs/pipeline.md, "Policy". Included by alcor.bpf.c.
 *
 * A port's first packet of a connection is looked up in the rules of its policy; what follows, both ways, finds the flow.
 * A flow remembers under which generation of the rules and for which identity of the other side it was allowed: when
 * one of them differs it is looked up again, so a change of rules acts at once and costs nothing where nothing flows.
 */
#ifndef ALCOR_POLICY_H
#define ALCOR_POLICY_H

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, struct policy_key);
	__type(value, struct policy);
} policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_RULES);
	__type(key, struct rule_key);
	__type(value, __u8);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_RULES);
	__type(key, struct prefix_key);
	__type(value, __u32);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, struct fragment_ports);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} generation SEC(".maps");

/* Who asks: a port, about a packet that it sends (egress) or is to be given. */
struct party {
	__u32 vni;
	__u32 ifindex;
	__u16 identity;
	__u16 remote_identity;
	__u8 egress;
	__u8 zero[3];
};

/* What a rule compares. */
struct question {
	__be32 remote[4];
	__u32 vni;
	__u16 identity;
	__u16 remote_identity;
	__be16 selector;
	__u8 protocol;
	__u8 version;
	__u8 egress;
	__u8 zero[3];
};

/* What becomes of a packet for a load balancer's address, or of an answer to one (lb.h). */
struct balancing {
	struct service_key service;
	struct flow_key pinned; /* the connection's row of balanced */
	struct balanced chosen;
	struct edit {
		__be32 from[4], to[4];
		__be16 from_port, to_port;
		__u32 ip_at;	  /* where the IP header begins */
		__u32 address_at; /* where the address is */
		__u32 port_at;	  /* where the port is; 0: in another fragment, or it stays */
		__u32 check_at;	  /* the checksum that covers them; 0: in another fragment */
		__u32 pseudo;	  /* the address is in that checksum's pseudo header */
		__u32 mangled;	  /* UDP: a checksum of 0 is none, and one that comes to 0 is written 0xffff */
		__u32 version;
	} edit;
	__u8 known;   /* its row was there */
	__u8 related; /* it is an ICMP error about the connection */
	__u8 zero[6];
};

/* How a packet to the outside goes on (nat.h). */
struct outside {
	__be32 source; /* what it has as its source there */
	__be32 next;   /* the neighbour that it is sent to */
	__be16 port;   /* its source port there; 0: as it is */
	__u16 shared;  /* the source is an address that others have, too (snat.h) */
	__u16 queue;   /* where it waits before it leaves; 0: it does not */
	__u16 zero;
	__be32 next6[4]; /* the neighbour that an IPv6 packet is sent to (outside6.h) */
};

/* A packet through a shared address (snat.h). */
struct snatting {
	struct flow_key forth, back;   /* the connection's rows of bindings */
	struct binding inner, outer; /* and what they say */
	__u32 length;		       /* of what comes from outside, or of each segment of it */
	__u32 zero;
};

/* Too large for the stack, and known to every step. One user at a time on a CPU: the programs run with bottom halves off
 * and never inside one another. */
struct scratch {
	struct packet packet;
	struct packet quoted; /* by an ICMP error */
	struct party party;
	struct flow_key key;
	struct question question;
	struct outside outside;
	struct address_key sought; /* what a step did not find (miss.h) */
	__u8 error[192] __attribute__((aligned(8))); /* an ICMP error in the making (too_big.h) */
	struct balancing balancing; /* a packet for a load balancer's address (lb.h) */
	struct snatting snatting;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *get_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* Functions that are not static are verified once, not at every call. */

static __always_inline bool has_rule(const struct question *q, __u8 any_protocol, __u32 remote)
{
	struct rule_key key = {
		.prefix_length = RULE_BITS + 16,
		.vni = q->vni,
		.identity = q->identity,
		.side = SIDE(q->egress, q->version) | any_protocol,
		.protocol = any_protocol ? 0 : q->protocol,
		.remote = remote,
		.selector = any_protocol ? 0 : q->selector,
	};

	return bpf_map_lookup_elem(&rules, &key);
}

/* 1 when a rule of the policy allows a new connection, 0 when none does. A policy that is not there allows nothing. */
__noinline int allows(struct question *q)
{
	struct policy_key whose = {};
	struct policy *policy;
	__u32 here, *class;

	if (!q)
		return 0;
	whose.vni = q->vni;
	whose.identity = q->identity;
	policy = bpf_map_lookup_elem(&policies, &whose);
	if (!policy)
		return 0;
	/* Which kinds of rule there are on this side: the others need no looking up. */
	here = policy->kinds >> ((q->egress ? 16 : 0) + (q->version == 6 ? 8 : 0));
	if (here & KIND_OPEN)
		return 1;
	if (here & KIND_ANYBODY && has_rule(q, 0, REMOTE_ANYBODY))
		return 1;
	if (q->remote_identity) {
		if (here & KIND_IDENTITY && has_rule(q, 0, REMOTE_IDENTITY | q->remote_identity))
			return 1;
		if (here & KIND_IDENTITY_ANY && has_rule(q, SIDE_ANY_PROTOCOL, REMOTE_IDENTITY | q->remote_identity))
			return 1;
	}
	if (here & (KIND_PREFIX | KIND_PREFIX_ANY)) {
		struct prefix_key key = {
			.prefix_length = PREFIX_BITS + 128,
			.vni = q->vni,
			.identity = q->identity,
			.side = SIDE(q->egress, q->version),
		};

		__builtin_memcpy(key.ip, q->remote, sizeof(key.ip));
		class = bpf_map_lookup_elem(&prefixes, &key);
		if (class && here & KIND_PREFIX && has_rule(q, 0, REMOTE_PREFIX | *class))
			return 1;
		if (class && here & KIND_PREFIX_ANY && has_rule(q, SIDE_ANY_PROTOCOL, REMOTE_PREFIX | *class))
			return 1;
	}
	return 0;
}

#define SECOND 1000000000ULL

/* The kernel's own defaults (net.netfilter.nf_conntrack_*_timeout*). */
static __always_inline __u64 lifetime(const struct flow_key *key, const struct flow *flow)
{
	if (key->protocol == PROTOCOL_TCP) {
		if (flow->state == FLOW_ESTABLISHED)
			return 432000 * SECOND;
		return (flow->state == FLOW_CLOSED ? 10 : 120) * SECOND;
	}
	if (key->protocol == PROTOCOL_ICMP || key->protocol == PROTOCOL_ICMPV6)
		return 30 * SECOND;
	if (has_ports(key->protocol))
		return (flow->state == FLOW_ESTABLISHED ? 120 : 30) * SECOND;
	return 600 * SECOND;
}

static __always_inline void make_key(struct flow_key *key, const struct packet *packet, __u32 ifindex, bool egress)
{
	__builtin_memcpy(key->local, egress ? packet->source : packet->destination, 16);
	__builtin_memcpy(key->remote, egress ? packet->destination : packet->source, 16);
	key->ifindex = ifindex;
	key->local_port = egress ? packet->source_port : packet->destination_port;
	key->remote_port = egress ? packet->destination_port : packet->source_port;
	key->protocol = packet->protocol;
	key->zero[0] = key->zero[1] = key->zero[2] = 0;
}

static __always_inline void ask(struct question *q, const struct packet *packet, const struct party *party, __u8 egress,
				__be16 selector)
{
	__builtin_memcpy(q->remote, party->egress ? packet->destination : packet->source, 16);
	q->vni = party->vni;
	q->identity = party->identity;
	q->remote_identity = party->remote_identity;
	q->selector = selector;
	q->protocol = packet->protocol;
	q->version = packet->version;
	q->egress = egress;
	q->zero[0] = q->zero[1] = q->zero[2] = 0;
}

static __always_inline __u32 current_generation(void)
{
	__u32 zero = 0;
	__u32 *value = bpf_map_lookup_elem(&generation, &zero);

	return value ? *value : 0;
}

/* A flow that is alive and allowed by the rules as they are. */
static __always_inline bool is_valid(struct scratch *on, struct flow *flow, __u64 now)
{
	__u32 latest = current_generation();

	if (now - flow->seen_ns > lifetime(&on->key, flow))
		return false;
	if (flow->generation != latest || flow->identity != on->party.remote_identity) {
		ask(&on->question, &on->packet, &on->party, flow->egress, flow->selector);
		if (!allows(&on->question))
			return false;
		flow->generation = latest;
		flow->identity = on->party.remote_identity;
	}
	return true;
}

/* Later fragments have no ports: the first one's are remembered for them. 0, or a negative drop reason. */
static __always_inline int reassemble(struct packet *packet, const struct party *party)
{
	struct fragment_key key = {.vni = party->vni, .id = packet->fragment_id, .protocol = packet->protocol};
	struct fragment_ports fresh, *known;

	__builtin_memcpy(key.source, packet->source, 16);
	__builtin_memcpy(key.destination, packet->destination, 16);
	if (packet->fragment == FRAGMENT_FIRST) {
		fresh = (struct fragment_ports){packet->source_port, packet->destination_port, packet->selector, 0};
		bpf_map_update_elem(&fragments, &key, &fresh, BPF_ANY);
		return 0;
	}
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known)
		return -DROP_FRAGMENT;
	packet->source_port = known->source_port;
	packet->destination_port = known->destination_port;
	packet->selector = known->selector;
	return 0;
}

/* 1 for an ICMP error about a packet of a flow, which belongs to that flow; else 0. */
__noinline int is_related(struct __sk_buff *skb, __u32 at)
{
	struct scratch *on = get_scratch();
	struct flow *flow;

	if (!on || read_packet(skb, at + on->packet.payload + 8, &on->quoted, on->packet.version, 1) ||
	    on->quoted.fragment == FRAGMENT_LATER)
		return 0;
	/* What is quoted went the other way. */
	make_key(&on->key, &on->quoted, on->party.ifindex, !on->party.egress);
	flow = bpf_map_lookup_elem(&flows, &on->key);
	return flow && flow->generation == current_generation() &&
	       bpf_ktime_get_coarse_ns() - flow->seen_ns <= lifetime(&on->key, flow);
}

/* What a TCP segment makes of its flow; `forth`: it goes the way of the first one. */
static __always_inline void step_tcp(struct flow *flow, __u8 flags, bool forth)
{
	if (flags & TCP_RST) {
		flow->state = FLOW_CLOSED;
	} else if (flags & TCP_FIN) {
		flow->fins |= forth ? 1 : 2;
		flow->state = flow->fins == 3 ? FLOW_CLOSED : FLOW_CLOSING;
	} else if (flow->state == FLOW_NEW && !forth) {
		flow->state = FLOW_ESTABLISHED;
	}
}

/* A packet that no flow knows. 0, or a negative drop reason. */
__noinline int open_flow(__u64 now)
{
	struct scratch *on = get_scratch();
	struct flow flow = {.seen_ns = now, .state = FLOW_NEW};
	bool tcp;
	__u8 flags;

	if (!on)
		return -DROP_FLOWS_FULL;
	tcp = on->packet.protocol == PROTOCOL_TCP && on->packet.fragment != FRAGMENT_LATER;
	flags = on->packet.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN);
	/* A SYN opens; the middle of a connection may be picked up (its port moved here); nothing else begins one. */
	if (tcp && flags != TCP_SYN && (!(flags & TCP_ACK) || flags & (TCP_SYN | TCP_RST)))
		return -DROP_INVALID_STATE;
	ask(&on->question, &on->packet, &on->party, on->party.egress, on->packet.selector);
	if (!allows(&on->question))
		return on->party.egress ? -DROP_POLICY_EGRESS : -DROP_POLICY_INGRESS;
	if (is_icmp(&on->packet) && !is_echo(&on->packet, true))
		return 0; /* rules alone decide: there is nothing to follow */
	flow.generation = current_generation();
	flow.identity = on->party.remote_identity;
	flow.selector = on->packet.selector;
	flow.egress = on->party.egress;
	if (tcp && flags & TCP_ACK)
		flow.state = FLOW_ESTABLISHED;
	if (tcp)
		step_tcp(&flow, flags, true);
	return bpf_map_update_elem(&flows, &on->key, &flow, BPF_ANY) ? -DROP_FLOWS_FULL : 0;
}

/* May the packet in `scratch`, whose IP header is at `at`, pass the party's port? 0, or a negative drop reason. */
__noinline int permit(struct __sk_buff *skb, __u32 at)
{
	struct scratch *on = get_scratch();
	struct flow *flow;
	__u64 now;
	bool forth, tcp;
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	if (on->packet.fragment) {
		refused = reassemble(&on->packet, &on->party);
		if (refused)
			return refused;
	}
	if (is_icmp_error(&on->packet) && is_related(skb, at))
		return 0;
	make_key(&on->key, &on->packet, on->party.ifindex, on->party.egress);
	now = bpf_ktime_get_coarse_ns();
	flow = bpf_map_lookup_elem(&flows, &on->key);
	if (!flow)
		return open_flow(now);
	forth = flow->egress == on->party.egress;
	tcp = on->packet.protocol == PROTOCOL_TCP && on->packet.fragment != FRAGMENT_LATER;
	/* The ports of a connection that ended are used again; who did not begin one may not begin another in it. */
	if (tcp && (on->packet.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && (!forth || flow->state >= FLOW_CLOSING))
		return open_flow(now);
	if (!is_valid(on, flow, now)) {
		bpf_map_delete_elem(&flows, &on->key);
		return open_flow(now);
	}
	if (tcp)
		step_tcp(flow, on->packet.tcp_flags, forth);
	else if (!forth && flow->state == FLOW_NEW)
		flow->state = FLOW_ESTABLISHED;
	if (now - flow->seen_ns > SECOND / 4)
		flow->seen_ns = now;
	return 0;
}

#endif
