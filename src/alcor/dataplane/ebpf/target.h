/* SPDX-License-Identifier: Apache-2.0
 *
 * Who a packet from a port is for, and whether it may go there: docs/pipeline.md, steps 8 to 10, R, B and P. Included by
 * alcor.bpf.c.
 */
#ifndef ALCOR_TARGET_H
#define ALCOR_TARGET_H

/* Who a packet is for, and in which VNI. */
struct target {
	struct local_endpoint *here;
	struct remote_endpoint *there;
	__u32 vni;
	__u32 mtu;
	struct local_endpoint *vip; /* it was for a load balancer's address: the others are about who was chosen */
};

/* Who has the address: a port of this host, or one on another. 0, or a negative drop reason. */
static __always_inline int find_chosen(const struct address_key *to, struct target *target)
{
	struct local_endpoint *here = bpf_map_lookup_elem(&local, to);
	int refused = 0;

	if (here && here->flags & (ENDPOINT_GATEWAY | ENDPOINT_VIP))
		here = NULL;
	if (!here && !(target->there = find_remote(to, DROP_NO_ENDPOINT, &refused)))
		return refused;
	if (here && here->flags & ENDPOINT_DOWN)
		return -DROP_PORT_DOWN;
	target->here = here;
	return 0;
}

/* Step B, up to the first rewriting. CHOSEN, CHOSEN_PING, or a negative drop reason. */
static __noinline int find_backend(struct __sk_buff *skb, __u32 vni, __u32 ifindex, __u32 version, struct target *target)
{
	struct scratch *on = get_scratch();
	struct address_key key;
	int chosen = choose(skb, vni, ifindex, version);

	if (chosen != CHOSEN)
		return chosen;
	if (!on)
		return -DROP_FLOWS_FULL;
	key = address6_of(vni, on->balancing.chosen.ip);
	return find_chosen(&key, target);
}

/* Steps 8 to 10, up to the first rewriting: who it is for. `to` becomes the address that it is handed to. 0, or a negative
 * drop reason. */
static __always_inline int find_target(struct __sk_buff *skb, const struct port *port, const struct ethhdr *eth,
				       struct address_key *to, __u32 version, __u8 hops, bool routed,
				       struct target *target)
{
	struct local_endpoint *here = bpf_map_lookup_elem(&local, to);
	struct remote_endpoint *there = NULL;
	int refused = 0;
	bool via = false;

	target->vni = port->vni;
	target->mtu = port->mtu;
	if (routed) {
		/* 9 */
		if (!(port->flags & PORT_ROUTED))
			return -DROP_NOT_ROUTED;
		if (here && here->flags & ENDPOINT_GATEWAY) {
			target->here = here;
			return 0;
		}
		/* 10 */
		if (hops <= 1)
			return -DROP_TTL_EXCEEDED;
		if (here && here->flags & ENDPOINT_VIP) {
			target->vip = here;
			return 0;
		}
		/* R */
		if (port->flags & PORT_ROUTES) {
			__u32 mtu = 0;

			refused = find_route(skb, to, version, &mtu, &via);
			if (refused)
				return refused;
			target->vni = to->vni;
			if (mtu < target->mtu)
				target->mtu = mtu;
			here = bpf_map_lookup_elem(&local, to);
			if (here && here->flags & ENDPOINT_GATEWAY) {
				/* A gateway of another VNI answers pings as one's own does. */
				target->here = here;
				return via ? -DROP_NO_ENDPOINT : 0;
			}
			if (here && here->flags & ENDPOINT_VIP)
				return -DROP_NO_ENDPOINT; /* clients of a load balancer are of its own VNI */
		}
	} else {
		/* 8 */
		if (eth->h_dest[0] & 1)
			return -DROP_MULTICAST;
		if (here && here->flags & ENDPOINT_GATEWAY)
			here = NULL;
	}
	if (!here && !(there = find_remote(to, DROP_NO_ENDPOINT, &refused)))
		return refused;
	if (!routed && !same_mac(eth->h_dest, here ? here->mac : there->mac))
		return -DROP_NO_ENDPOINT;
	if (here && here->flags & ENDPOINT_VIP) {
		target->vip = here;
		return 0;
	}
	if (here && here->flags & ENDPOINT_DOWN)
		return -DROP_PORT_DOWN;
	target->here = here;
	target->there = there;
	return 0;
}

/* Policy of the port of this host that the packet, which was read, is for. `remote`: its sender's identity; 0: that has none.
 * 0, or a negative drop reason. */
static __always_inline int admit(struct __sk_buff *skb, struct scratch *on, __u32 vni, const struct local_endpoint *here,
				 __u32 remote)
{
	int refused;

	if (!here->identity)
		return 0;
	on->party.vni = vni;
	on->party.ifindex = here->ifindex;
	on->party.identity = here->identity;
	on->party.remote_identity = remote;
	on->party.egress = 0;
	refused = permit(skb, ETH_HLEN);
	return refused ? blame(skb, here->ifindex, refused) : 0;
}

/* Policy of the sender, then of a receiver on this host. 0, or a negative drop reason. */
static __always_inline int permit_sent(struct __sk_buff *skb, const struct port *port, __u32 ifindex,
				       const struct target *target, __u32 version)
{
	const struct local_endpoint *here = target->here;
	struct scratch *on = get_scratch();
	int refused;

	if (!on)
		return -DROP_FLOWS_FULL;
	if (target->vip) {
		/* It was read, and is judged as the packet that it will be. */
		if (is_exempt(&on->balancing))
			return 0;
	} else {
		refused = read_packet(skb, ETH_HLEN, &on->packet, version, 0);
		if (refused)
			return refused;
	}
	on->party.vni = port->vni;
	if (port->identity) {
		on->party.ifindex = ifindex;
		on->party.identity = port->identity;
		on->party.remote_identity = translate(
			target->vni, here ? here->identity : target->there ? target->there->identity : 0, port->vni);
		on->party.egress = 1;
		refused = permit(skb, ETH_HLEN);
		if (refused)
			return refused;
	}
	if (!here || !here->identity)
		return 0;
	return admit(skb, on, target->vni, here, translate(port->vni, port->identity, target->vni));
}

#endif
