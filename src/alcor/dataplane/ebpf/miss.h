/* SPDX-License-Identifier: Apache-2.0
 *
 * What becomes of a packet for an address that this host knows nothing of: forwarded after who left, held for who is
 * asked, or dropped. Included by alcor.bpf.c. Nothing here is on the way of a packet whose address is known.
 */
#ifndef ALCOR_MISS_H
#define ALCOR_MISS_H

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FORWARDS);
	__type(key, struct address_key);
	__type(value, struct remote_endpoint);
} forwards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ON_DEMAND);
	__type(key, __u32);
	__type(value, __u32);
} on_demand SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct miss_rate);
} miss_rates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, MISSES_BYTES);
} misses SEC(".maps");

/* A step returns -(MISSED | reason) when it depends on an address that is not known: `hold` decides. */
#define MISSED 256
#define SECOND_NS 1000000000ULL

/* Remembers what was sought, for `hold`. */
static __noinline int missed(const struct address_key *key, __u32 reason)
{
	struct scratch *on = get_scratch();

	if (!on || !key)
		return -(int)reason;
	on->sought = *key;
	return -(int)(MISSED | reason);
}

/* Who on another host has the address, or NULL with why in *refused. */
static __always_inline struct remote_endpoint *find_remote(const struct address_key *key, __u32 reason, int *refused)
{
	struct remote_endpoint *there = bpf_map_lookup_elem(&remote, key);

	if (!there) {
		there = bpf_map_lookup_elem(&forwards, key);
		if (!there)
			*refused = missed(key, reason);
		return there;
	}
	if (there->use) {
		if (there->use == USE_ABSENT) {
			*refused = -(int)reason;
			return NULL;
		}
		if (there->use == USE_IDLE)
			there->use = USE_RECENT;
	}
	return there;
}

/* Counts one more of a port in this second; false: they are more than that. */
static __always_inline bool count_rate(void *rates, __u32 ifindex, __u32 most)
{
	struct miss_rate *rate = bpf_map_lookup_elem(rates, &ifindex);
	struct miss_rate first = {.since_ns = bpf_ktime_get_ns(), .count = 1};

	if (!rate) {
		bpf_map_update_elem(rates, &ifindex, &first, BPF_ANY);
		return true;
	}
	if (first.since_ns - rate->since_ns >= SECOND_NS) {
		rate->since_ns = first.since_ns;
		rate->count = 0;
	}
	rate->count++; /* a port sends on one CPU, nearly always */
	return rate->count <= most;
}

/* So many packets of a port may be held in a second. */
static __always_inline bool may_miss(__u32 ifindex)
{
	__u32 zero = 0;
	struct host_config *host = bpf_map_lookup_elem(&config, &zero);

	return !host || !host->miss_rate || count_rate(&miss_rates, ifindex, host->miss_rate);
}

/* Hands the packet to the agent. 0, or a negative drop reason. */
static __always_inline int punt(struct __sk_buff *skb, const struct address_key *sought, __u32 ifindex,
				const __u32 room)
{
	struct miss *miss = bpf_ringbuf_reserve(&misses, sizeof(*miss) + room, 0);
	__u64 length = skb->len; /* 64 bits: the verifier follows the register that was compared */

	if (!miss)
		return -DROP_MISS_LIMIT;
	asm volatile("" : "+r"(length));
	if (length < 1 || length > room || bpf_skb_load_bytes(skb, 0, miss + 1, length)) {
		bpf_ringbuf_discard(miss, 0);
		return -DROP_MISS_LIMIT;
	}
	miss->sought = *sought;
	miss->ifindex = ifindex;
	miss->length = length;
	miss->gso_size = skb->gso_size;
	bpf_ringbuf_submit(miss, 0);
	return 0;
}

/* Step H. `action` is what a step returned. A packet comes here once: held before, it is dropped. */
static __noinline int hold(struct __sk_buff *skb, __u32 ifindex, int action, bool held)
{
	struct scratch *on = get_scratch();
	int reason = -action & ~MISSED;

	if (!on || !bpf_map_lookup_elem(&on_demand, &on->sought.vni))
		return -reason;
	if (held)
		return -DROP_UNRESOLVED;
	if (!may_miss(ifindex))
		return -DROP_MISS_LIMIT;
	reason = skb->len <= MISS_SMALL ? punt(skb, &on->sought, ifindex, MISS_SMALL)
					: punt(skb, &on->sought, ifindex, MISS_LARGE);
	return reason ? reason : verdict(skb, VERDICT_HOLD, ifindex, TC_ACT_STOLEN);
}

#endif
