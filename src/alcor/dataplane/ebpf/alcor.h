/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables and constants of the compiled data plane, as docs/pipeline.md names them. Included by alcor.bpf.c;
 * tables.py packs the same layouts from Python (tests/dataplane/test_bpf_tables.py holds one against the other).
 * Plain C with fixed-size types. Integers are host order unless typed __be16 / __be32.
 */
#ifndef ALCOR_H
#define ALCOR_H

#include <linux/types.h>

/* Sizes of the maps. Nothing is preallocated: an entry costs memory when it is made, a bucket (16 bytes) always.
 * A loader may choose another size for `remote` (program.py does, from its configuration). */
#define MAX_PORTS 65536
#define MAX_LOCAL 262144
#define MAX_REMOTE 4194304
#define MAX_DROPS 262144

/* Every gateway's MAC: fe:16:11:00:00:00. */
#define ROUTER_MAC_BYTES {0xfe, 0x16, 0x11, 0x00, 0x00, 0x00}

enum port_flag {
	PORT_ROUTED = 1, /* frames to the router's MAC are routed */
	PORT_PEER = 2,   /* deliver into the peer's namespace with bpf_redirect_peer */
	PORT_UP = 4,     /* administratively up */
};

enum endpoint_flag {
	ENDPOINT_GATEWAY = 1,
	ENDPOINT_PEER = 2,
	ENDPOINT_DOWN = 4, /* its port is administratively down: nothing is delivered */
};

enum drop_reason {
	DROP_NO_PORT = 1,
	DROP_PORT_DOWN = 2,
	DROP_MALFORMED = 3,
	DROP_SPOOFED_MAC = 4,
	DROP_SPOOFED_IP = 5,
	DROP_NOT_SUPPORTED = 6,
	DROP_ARP_IGNORED = 7,
	DROP_ARP_UNKNOWN = 8,
	DROP_MULTICAST = 9,
	DROP_NO_ENDPOINT = 10,
	DROP_NOT_ROUTED = 11,
	DROP_GATEWAY = 12,
	DROP_TTL_EXCEEDED = 13,
	DROP_NO_UNDERLAY = 14,
	DROP_ENCAP_FAILED = 15,
};

/* skb->cb[0]; cb[1] is an ifindex (deliver, reply) or a drop reason (drop). */
enum verdict {
	VERDICT_DELIVER = 1,
	VERDICT_TUNNEL = 2,
	VERDICT_REPLY = 3,
	VERDICT_DROP = 4,
	VERDICT_PASS = 5,
};

/* ports: ifindex -> this. A row means that the port is wired whole. */
struct port {
	__u8 id[16];
	__u32 vni;
	__u32 mtu;
	__u8 mac[6];
	__u16 flags;
	__u64 digest; /* of the whole desired port: program and kernel ignore it, the driver compares it */
};

/* Key of local and remote: an address in a VPC; IPv4 is v4-mapped. */
struct address_key {
	__u32 vni;
	__be32 ip[4];
};

/* local: who has the address on this host; ifindex 0 for a gateway. */
struct local_endpoint {
	__u32 ifindex;
	__u16 flags;
	__u8 mac[6];
};

/* remote: who has the address on another host. */
struct remote_endpoint {
	__be32 host_ip[4];
	__u8 mac[6];
	__u8 zero[2];
};

/* counters: ifindex -> this, per CPU. */
struct traffic {
	__u64 sent_packets;
	__u64 sent_bytes;
	__u64 received_packets;
	__u64 received_bytes;
};

/* Key of drops; ifindex 0 where no port is to blame. */
struct drop_key {
	__u32 ifindex;
	__u32 reason;
};

/* config[0]. */
struct host_config {
	__be32 underlay_ip[4];
	__u32 underlay_ifindex;
	__be16 vxlan_port;
	__u8 zero[2];
	__be32 onlink_mask; /* of the underlay prefix whose hosts are neighbours; 0: ask the routes */
};

#endif
