/* SPDX-License-Identifier: Apache-2.0
 *
 * What of a packet policy and connection tracking look at: addresses, protocol, ports. Included by alcor.bpf.c.
 *
 * Headers are read by copies, at an offset: the same code reads a frame, the frame inside a tunnel and the packet that
 * an ICMP error quotes. IPv4 is RFC 791, IPv6 and its extension headers RFC 8200, ICMP RFC 792 and 4443.
 */
#ifndef ALCOR_PACKET_H
#define ALCOR_PACKET_H

#define IP_MORE_FRAGMENTS 0x2000
#define IP_OFFSET 0x1fff
#define MAX_EXTENSIONS 6 /* IPv6 extension headers that are looked past; a longer chain is malformed */

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_DCCP 33
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP 132
#define PROTOCOL_UDPLITE 136

#define HEADER_HOP_BY_HOP 0
#define HEADER_ROUTING 43
#define HEADER_FRAGMENT 44
#define HEADER_AUTHENTICATION 51
#define HEADER_DESTINATION 60

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMPV6_LAST_ERROR 4 /* 1 to 4: RFC 4443 section 2.1, those that are assigned */
#define ICMPV6_ECHO 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_SOLICITATION 135

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER, /* without ports */
};

struct packet {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port; /* of an ICMP echo: both are its identifier; 0 where the protocol has none */
	__be16 destination_port;
	__be16 selector; /* what rules compare: the destination port; for ICMP type and code */
	__u8 version;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 fragment;
	__u16 payload; /* where the transport header begins, from the start of the IP header */
	__be32 fragment_id;
};

static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->version == 4 ? packet->protocol == PROTOCOL_ICMP : packet->protocol == PROTOCOL_ICMPV6;
}

static __always_inline __u8 icmp_type(const struct packet *packet)
{
	return bpf_ntohs(packet->selector) >> 8;
}

/* An ICMP error quotes the packet that it is about. */
static __always_inline bool is_icmp_error(const struct packet *packet)
{
	__u8 type = icmp_type(packet);

	if (!is_icmp(packet) || packet->fragment == FRAGMENT_LATER)
		return false;
	if (packet->version == 6)
		return type && type <= ICMPV6_LAST_ERROR;
	return type == ICMP_UNREACHABLE || type == ICMP_QUENCH || type == ICMP_REDIRECT || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER;
}

static __always_inline bool is_echo(const struct packet *packet, bool request)
{
	__u8 type = icmp_type(packet);

	if (packet->version == 6)
		return type == (request ? ICMPV6_ECHO : ICMPV6_ECHO_REPLY);
	return type == (request ? ICMP_ECHO : ICMP_ECHO_REPLY);
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || protocol == PROTOCOL_SCTP ||
	       protocol == PROTOCOL_DCCP || protocol == PROTOCOL_UDPLITE;
}

/* The transport header at `at`, of which `room` bytes belong to the packet. 0, or a negative drop reason.
 * A quoted packet need not have more than 8 bytes of it (RFC 792), so no TCP flags. */
static __always_inline int read_transport(struct __sk_buff *skb, __u32 at, __u32 room, struct packet *packet, bool quoted)
{
	__be16 head[4];

	if (packet->fragment == FRAGMENT_LATER)
		return 0;
	if (has_ports(packet->protocol)) {
		if (room < 4 || bpf_skb_load_bytes(skb, at, head, 4))
			return -DROP_MALFORMED;
		packet->source_port = head[0];
		packet->destination_port = head[1];
		packet->selector = head[1];
		if (packet->protocol == PROTOCOL_TCP && !quoted &&
		    (room < 20 || bpf_skb_load_bytes(skb, at + 13, &packet->tcp_flags, 1)))
			return -DROP_MALFORMED;
	} else if (is_icmp(packet)) {
		if (room < 8 || bpf_skb_load_bytes(skb, at, head, 8))
			return -DROP_MALFORMED;
		packet->selector = head[0];
		if (is_echo(packet, true) || is_echo(packet, false)) {
			packet->source_port = head[2];
			packet->destination_port = head[2];
		}
	}
	return 0;
}

static __always_inline int read_ipv4(struct __sk_buff *skb, __u32 at, struct packet *packet, bool quoted)
{
	struct iphdr ip;
	__u32 total, header;
	__u16 offset;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -DROP_MALFORMED;
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	if (total < header || (!quoted && total > skb->len - at))
		return -DROP_MALFORMED;
	packet->version = 4;
	packet->source[0] = packet->source[1] = packet->destination[0] = packet->destination[1] = 0;
	packet->source[2] = packet->destination[2] = bpf_htonl(0xffff);
	packet->source[3] = ip.saddr;
	packet->destination[3] = ip.daddr;
	packet->protocol = ip.protocol;
	packet->payload = header;
	packet->fragment_id = ip.id;
	offset = bpf_ntohs(ip.frag_off);
	if (offset & IP_OFFSET)
		packet->fragment = FRAGMENT_LATER;
	else if (offset & IP_MORE_FRAGMENTS)
		packet->fragment = FRAGMENT_FIRST;
	return read_transport(skb, at + header, total - header, packet, quoted);
}

static __always_inline int read_ipv6(struct __sk_buff *skb, __u32 at, struct packet *packet, bool quoted)
{
	struct ipv6hdr ip;
	__u32 end, here = sizeof(ip);
	__u8 next;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return -DROP_MALFORMED;
	end = sizeof(ip) + bpf_ntohs(ip.payload_len);
	if (!quoted && end > skb->len - at)
		return -DROP_MALFORMED;
	packet->version = 6;
	__builtin_memcpy(packet->source, &ip.saddr, 16);
	__builtin_memcpy(packet->destination, &ip.daddr, 16);
	next = ip.nexthdr;
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		__be32 head[2];
		__u32 length;

		if (next != HEADER_HOP_BY_HOP && next != HEADER_ROUTING && next != HEADER_FRAGMENT &&
		    next != HEADER_AUTHENTICATION && next != HEADER_DESTINATION)
			break;
		if (i == MAX_EXTENSIONS || end - here < 8 || end < here || bpf_skb_load_bytes(skb, at + here, head, 8))
			return -DROP_MALFORMED;
		length = 8 * (1 + ((__u8 *)head)[1]);
		if (next == HEADER_FRAGMENT) {
			__u16 offset = bpf_ntohl(head[0]);

			length = 8;
			packet->fragment_id = head[1];
			if (offset & 0xfff8)
				packet->fragment = FRAGMENT_LATER;
			else if (offset & 1)
				packet->fragment = FRAGMENT_FIRST;
		} else if (next == HEADER_AUTHENTICATION) {
			length = 4 * (2 + ((__u8 *)head)[1]);
		}
		next = ((__u8 *)head)[0];
		here += length;
		if (here > end)
			return -DROP_MALFORMED;
		if (packet->fragment == FRAGMENT_LATER)
			break;
	}
	packet->protocol = next;
	packet->payload = here;
	return read_transport(skb, at + here, end - here, packet, quoted);
}

/* The packet whose IP header is at `at`. 0, or a negative drop reason. */
__noinline int read_packet(struct __sk_buff *skb, __u32 at, struct packet *packet, __u32 version, __u32 quoted)
{
	if (!packet)
		return -DROP_MALFORMED;
	__builtin_memset(packet, 0, sizeof(*packet));
	return version == 4 ? read_ipv4(skb, at, packet, quoted) : read_ipv6(skb, at, packet, quoted);
}

#endif
