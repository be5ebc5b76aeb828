/* SPDX-License-Identifier: Apache-2.0
 *
 * Quality of service: packets of limited ports wait in a queue of the kernel's (an HTB class each, queues.py), and what a
 * marked port sends carries its DSCP. Included by alcor.bpf.c.
 *
 * A queue is an entry of one qdisc, at the device QUEUE_IFINDEX: the packet's priority names its class. What the class lets
 * through comes out of the other end of that wire, QUEUED_IFINDEX, with the mark that it went in with: the port's ifindex,
 * and which way it goes. An EIP's packets have the external device in the port's place: what came in there waits as it
 * came, and comes in again; what leaves waits as it will be outside, its next hop written over its Ethernet source (the
 * destination stays, for the kernel sends nothing on that is for a group).
 */
#ifndef ALCOR_QOS_H
#define ALCOR_QOS_H

/* Step Q: the packet waits. `towards`: MARK_TO_PORT and MARK_OUTSIDE, as far as they are so. */
static __always_inline int enqueue(struct __sk_buff *skb, __u32 ifindex, __u32 queue, __u32 towards)
{
	skb->mark = ifindex | towards;
	skb->priority = QUEUE_HANDLE << 16 | queue;
	blame(skb, ifindex, 0);
	return verdict(skb, VERDICT_QUEUE, queue, bpf_redirect(QUEUE_IFINDEX, 0));
}

/* The IPv4 header's DSCP (RFC 2474); what is beside it in the byte, ECN, stays. */
static __always_inline void mark_ipv4(struct iphdr *ip, __u8 dscp)
{
	__u16 before = *(const __u16 *)ip;

	if (!dscp)
		return;
	ip->tos = (__u8)(dscp << 2) | (ip->tos & 3);
	ip->check = checksum_replace(ip->check, before, *(const __u16 *)ip);
}

/* The IPv6 header's: the upper six bits of the traffic class, which begins in the middle of the first byte. */
static __always_inline void mark_ipv6(struct ipv6hdr *ip, __u8 dscp)
{
	__u8 *bytes = (__u8 *)ip;

	if (!dscp)
		return;
	bytes[0] = (bytes[0] & 0xf0) | ((dscp & 0x3f) >> 2);
	bytes[1] = (bytes[1] & 0x3f) | (__u8)(dscp << 6);
}

#endif
