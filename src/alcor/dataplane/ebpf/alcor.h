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
#define MAX_RULES 1048576
#define MAX_FORWARDS 65536
#define MAX_ON_DEMAND 65536
#define MAX_ROUTES 1048576
#define MAX_TRANSLATIONS 1048576
#define MAX_EIPS 131072
#define MAX_FORWARDINGS 131072
#define MAX_SHARED 4096
#define MAX_BLOCKS 524288
/* Least recently used are forgotten first; these two are preallocated. A loader may choose another size for `flows`. */
#define MAX_FLOWS 262144
#define MAX_FRAGMENTS 4096
/* Load balancing: services of all VPCs of a host, their backends, and what is remembered of connections (two rows each; a
 * loader may choose another size). */
#define MAX_SERVICES 4096
#define MAX_BACKEND_ROWS 1048576
#define MAX_BALANCED 262144
/* Connections through shared external addresses, two rows each; likewise. */
#define MAX_BINDINGS 262144
#define MAX_BACKENDS 1024 /* of one service */
#define MAGLEV_SIZE 16381 /* a prime */

/* The ring of held packets, and what one of them may take of it: nearly all, or a packet yet to be segmented. */
#define MISSES_BYTES 4194304
#define MISS_SMALL 2008
#define MISS_LARGE 65552
/* The ring of requests to the host's services, which are no larger. */
#define REQUESTS_BYTES 1048576

/* Interfaces that exist once per host, with indexes of ours (attaching.py, queues.py): the two ends of the wire at which
 * packets wait in queues. */
#define QUEUE_IFINDEX 0xffffc
#define QUEUED_IFINDEX 0xffffb
#define QUEUE_HANDLE 0xa1c0
#define DSCP_MARKED 0x40

/* Every gateway's MAC: fe:16:11:00:00:00. */
#define ROUTER_MAC_BYTES {0xfe, 0x16, 0x11, 0x00, 0x00, 0x00}

enum port_flag {
	PORT_ROUTED = 1, /* frames to the router's MAC are routed */
	PORT_PEER = 2,   /* deliver into the peer's namespace with bpf_redirect_peer */
	PORT_UP = 4,     /* administratively up */
	PORT_OPEN = 8,   /* no port security: it may send from any address */
	PORT_PAIRS = 16, /* it may send from the addresses in `senders` too */
	PORT_ROUTES = 32, /* where its routed packets go is in `routes`; without, only its own VNI is routed in */
	PORT_SERVED = 256, /* its host answers DHCP, router solicitations, DNS and metadata */
	PORT_ANSWERS = 512, /* load-balanced connections from outside came to it (the programs say so, nobody else) */
};

enum endpoint_flag {
	ENDPOINT_GATEWAY = 1,
	ENDPOINT_PEER = 2,
	ENDPOINT_DOWN = 4, /* its port is administratively down: nothing is delivered */
	ENDPOINT_VIP = 8,  /* a load balancer's address: ifindex 0, and the MAC that is given for it */
	ENDPOINT_BALANCED = 16, /* its VPC has load balancers: a backend may be answering */
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
	DROP_ND_IGNORED = 16,
	DROP_ND_UNKNOWN = 17,
	DROP_POLICY_EGRESS = 18,
	DROP_POLICY_INGRESS = 19,
	DROP_INVALID_STATE = 20,
	DROP_FRAGMENT = 21,
	DROP_FLOWS_FULL = 22,
	DROP_MISS_LIMIT = 23,
	DROP_UNRESOLVED = 24,
	DROP_TOO_BIG = 25,
	DROP_NO_ROUTE = 26,
	DROP_BLACKHOLE = 27,
	DROP_NO_EXTERNAL = 32,
	DROP_NO_TRANSLATION = 33,
	DROP_NO_LISTENER = 38,
	DROP_NO_BACKEND = 39,
	DROP_DHCP_SERVER = 44,
	DROP_NO_SERVICE = 45,
	DROP_UNSERVED = 46,
	DROP_SERVICE_LIMIT = 47,
	DROP_SNAT_FULL = 50,
	DROP_NO_BLOCK = 51,
	DROP_UNSOLICITED = 52,
	DROP_RATE_LIMIT = 48, /* by a queue that is full: the kernel's to count, not the programs' */
	DROP_EIP_RATE_LIMIT = 49, /* likewise, by one of an EIP */
};

/* skb->cb[0]; cb[1] is an ifindex (deliver, reply, hold, serve, external, turn), a drop reason (drop) or a queue (queue),
 * cb[2] the ifindex that a drop counts at, cb[3] the next hop (external; be32; IPv6's last, its first in cb[4]). */
enum verdict {
	VERDICT_DELIVER = 1,
	VERDICT_TUNNEL = 2,
	VERDICT_REPLY = 3,
	VERDICT_DROP = 4,
	VERDICT_PASS = 5,
	VERDICT_HOLD = 6,
	VERDICT_SERVE = 7,
	VERDICT_QUEUE = 8,
	VERDICT_EXTERNAL = 9, /* sent through the external device */
	VERDICT_TURN = 10,    /* for an external address of this very host: it comes in again at the external device */
};

/* ports: ifindex -> this. What leads to the port, local and macs, is written after. */
struct port {
	__u8 id[16];
	__u32 vni;
	__u32 mtu;
	__u8 mac[6];
	__u16 flags;
	__u16 identity; /* 0: its traffic is not filtered */
	__u16 queue_out; /* where what it sends waits; 0: it does not */
	__u16 queue_in;  /* where what is for it waits: as its rows of `local` say */
	__u8 dscp;       /* DSCP_MARKED | what its packets are marked with; 0: they are not */
	__u8 zero;
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
	__u16 identity;
	__u16 queue; /* where what is for it waits; 0: it does not */
};

enum endpoint_use {
	USE_PRELOADED = 0,
	USE_IDLE = 1,   /* asked for; nothing was sent there since somebody looked */
	USE_RECENT = 2, /* asked for, and used */
	USE_ABSENT = 3, /* asked for: nobody has the address */
};

/* remote: who has the address on another host. forwards: where the port that had it here went. */
struct remote_endpoint {
	__be32 host_ip[4];
	__u8 mac[6];
	__u16 identity;
	__u32 use;
};

/* A record of misses: this, then the frame. */
struct miss {
	struct address_key sought;
	__u32 ifindex; /* the port that sent it */
	__u32 length;
	__u32 gso_size; /* bytes of payload of each segment; 0: it is one */
};

/* A record of requests: this, then the frame. */
struct request {
	__u8 id[16]; /* of the port that sent it */
	__u32 ifindex;
	__u32 length;
	__u32 gso_size;
	__u32 zero;
};

/* The mark of a frame that comes back: the port's ifindex; with this bit the frame is for the port, not from it. */
#define MARK_TO_PORT 0x80000000
/* With this one it waited for an EIP, and the rest is the external device's ifindex: it leaves there, or with both bits it
 * came in there. */
#define MARK_OUTSIDE 0x40000000
#define MARK_CAME_IN (MARK_OUTSIDE | MARK_TO_PORT) /* it waited, and comes in again at the external device */

/* routers: ifindex -> where the port's routers are, as it sees them: its first gateway of each family; 0: none. */
struct router {
	__be32 ip[4]; /* v4-mapped */
	__be32 ip6[4];
};

/* miss_rates, request_rates and told_rates: ifindex -> this. */
struct miss_rate {
	__u64 since_ns;
	__u32 count;
	__u32 zero;
};

/* Key of macs: a port of this host by its MAC, for packets whose destination is behind it. The value is as in local. */
struct mac_key {
	__u32 vni;
	__u8 mac[6];
	__u8 zero[2];
};

/* Key of routes, a longest-prefix table. */
#define ROUTE_BITS 32
#define ROUTE_IPV6 0x80000000
struct route_key {
	__u32 prefix_length; /* ROUTE_BITS, then the prefix's, counted in 128 bits */
	__u32 vni;           /* whose ports' packets; with ROUTE_IPV6, for ::/0 has no IPv4 address in it */
	__be32 ip[4];
};

enum route_kind {
	ROUTE_CONNECTED = 1, /* the destination itself is in the first hop's VNI */
	ROUTE_HOPS = 2,      /* to the port that has the address of one of the hops */
	ROUTE_BLACKHOLE = 3,
	ROUTE_OUTSIDE = 4, /* to external networks (nat.h) */
};

#define MAX_HOPS 8
struct hop {
	__u32 vni;
	__u32 mtu; /* of that VNI's network */
	__be32 ip[4];
};

struct route {
	__u32 kind;
	__u32 count; /* hops that are there */
	struct hop hops[MAX_HOPS];
};

/* Key of translations: what stands in another VNI for the groups of an identity. */
struct translation_key {
	__u32 vni;
	__u32 identity;
	__u32 to; /* VNI */
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
	__u32 held_ifindex; /* where packets that were held come back, marked with their port's ifindex; 0: nowhere */
	__u32 miss_rate;    /* packets of a port that are held in a second; 0: any number */
};

/* Key of senders, a longest-prefix table: what a port may send from beside its own. The value says nothing. */
struct sender_key {
	__u32 prefix_length; /* 12 bytes, then the prefix's bits */
	__u32 ifindex;
	__u8 mac[6];
	__u8 zero[2];
	__be32 ip[4];
};

/* ---- addresses outside ---- */

/* external[0]: the device at which this host meets external networks; ifindex 0: it has none. */
struct external_device {
	__u32 ifindex;
	__u8 mac[6];
	__u8 zero[2];
};

#define OUTSIDE 0 /* the VNI of an external address, in a key of eips */

/* eips, both ways: (OUTSIDE, external address) -> what it stands for inside; (VNI, address of a port) -> what stands for
 * it outside, and where packets from it go. A limited EIP's packets wait in a queue each way; 0: they do not. */
struct eip {
	__be32 ip[4]; /* the other one */
	union {
		__u32 vni;	 /* of the other one, inside; OUTSIDE: of an address with forwardings */
		__u32 queue_out; /* of a port's address */
	};
	__u32 ifindex; /* of the port whose it is */
	union {
		__be32 gateway; /* of a port's address: that of the external subnet; 0: none */
		__u32 queue_in; /* of an external address */
	};
	__be32 mask; /* of a port's address: that of the external subnet */
};

/* Key of forwardings, both ways: an address, and a port of TCP or UDP. That there are some of an external address is said
 * by a row of eips whose other side is OUTSIDE too. */
struct forwarding_key {
	__u32 vni;
	__be32 ip[4];
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct forwarding {
	struct eip other;
	__be16 port; /* the other one */
	__u16 zero;
};

/* Blocks of ports of a shared external address. */
#define BLOCK_BITS 9
#define BLOCK_PORTS 512
#define MAX_OWN_BLOCKS 16 /* of one address, on one host */
#define PORT_TRIES 32

enum shared_flag {
	SHARED_ANSWERS = 1, /* this host answers for it on the external network */
};

/* shared: (OUTSIDE, external address) -> this. */
struct shared_address {
	__be32 gateway; /* of the external subnet; 0: none */
	__be32 mask;	/* of the external subnet */
	__u32 mtu;	/* the smallest of those that share it */
	__u32 flags;
	__u32 count;		    /* of this host's blocks */
	__u16 own[MAX_OWN_BLOCKS]; /* them */
	__u32 zero;
	__u64 digest; /* of the whole desired address: the program ignores it, the driver compares it */
};

/* Key of blocks: which host has that block of the address's ports. */
struct block_key {
	__be32 ip[4];
	__u32 block;
};

struct block_holder {
	__be32 host_ip[4];
};

/* flow_key.zero[0] of a row of bindings; a row back has the shared address as its local side, and ifindex 0. Of an ICMP echo
 * the identifier is the local port, the remote one is 0. */
#define BINDING_BACK 1

enum binding_flag {
	BINDING_ANSWERED = 1, /* the remote has spoken */
	BINDING_CLOSED = 2,   /* TCP: a FIN or RST went either way */
};

/* bindings: the other side of a connection through a shared address; clock and flags are kept in the row back. */
struct binding {
	__be32 ip[4];
	__u32 vni;
	__u32 ifindex; /* of the port whose connection it is */
	__u64 seen_ns; /* CLOCK_MONOTONIC, to a quarter of a second */
	__be16 port;
	__u8 flags;
	__u8 zero[5];
};

/* ---- policy ---- */

struct policy_key {
	__u32 vni;
	__u32 identity;
};

/* policies: what rules there are, one byte of enum kind for each side (ingress IPv4, IPv6, egress IPv4, IPv6), the lowest
 * first. A row means that the rules are there whole. */
struct policy {
	__u32 kinds;
	__u32 entries; /* rows of rules and prefixes: what the driver compares, as `digest` */
	__u64 digest;
};

enum kind {
	KIND_OPEN = 1,         /* everything is allowed */
	KIND_ANYBODY = 2,      /* rules for a protocol, whoever the other side is */
	KIND_IDENTITY = 4,     /* for a protocol and an identity */
	KIND_IDENTITY_ANY = 8, /* for any protocol and an identity */
	KIND_PREFIX = 16,
	KIND_PREFIX_ANY = 32,
};

#define SIDE_EGRESS 1
#define SIDE_IPV6 2
#define SIDE_ANY_PROTOCOL 4
#define SIDE(egress, version) (((egress) ? SIDE_EGRESS : 0) | ((version) == 6 ? SIDE_IPV6 : 0))

#define REMOTE_ANYBODY 0
#define REMOTE_IDENTITY 0x40000000
#define REMOTE_PREFIX 0x80000000

/* Key of rules, a longest-prefix table: a row allows every selector that begins with its bits. */
#define RULE_BITS 96
struct rule_key {
	__u32 prefix_length; /* RULE_BITS, then 0 to 16 bits of the selector */
	__u32 vni;
	__u16 identity;
	__u8 side;
	__u8 protocol;
	__u32 remote;
	__be16 selector; /* destination port; for ICMP type and code */
} __attribute__((packed));

/* Key of prefixes, a longest-prefix table: which class of rules an address is in. */
#define PREFIX_BITS 64
struct prefix_key {
	__u32 prefix_length; /* PREFIX_BITS, then the prefix's, counted in 128 bits */
	__u32 vni;
	__u16 identity;
	__u8 side;
	__u8 zero;
	__be32 ip[4];
};

/* Key of flows: a connection as one of its ports sees it. */
struct flow_key {
	__be32 local[4];
	__be32 remote[4];
	__u32 ifindex;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 zero[3];
};

enum flow_state {
	FLOW_NEW = 1,
	FLOW_ESTABLISHED = 2,
	FLOW_CLOSING = 3,
	FLOW_CLOSED = 4,
};

struct flow {
	__u64 seen_ns;    /* CLOCK_MONOTONIC, to a quarter of a second */
	__u32 generation; /* of the rules that allowed it */
	__u16 identity;   /* of the other side then */
	__be16 selector;  /* of its first packet */
	__u8 state;
	__u8 egress; /* its first packet left the port */
	__u8 fins;   /* 1: from who began it, 2: from the other side */
	__u8 zero[5];
};

/* Key of fragments: (source, destination, protocol, id) name a datagram (RFC 791, RFC 8200). */
struct fragment_key {
	__be32 source[4];
	__be32 destination[4];
	__u32 vni;
	__be32 id;
	__u8 protocol;
	__u8 zero[3];
};

struct fragment_ports {
	__be16 source_port;
	__be16 destination_port;
	__be16 selector;
	__u16 zero;
};

/* ---- load balancing ---- */

/* Key of services: a load balancer's address, and a port of it. */
struct service_key {
	__u32 vni;
	__be32 ip[4];
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

enum service_flag {
	SERVICE_AFFINITY = 1, /* a source address has one backend */
};

/* services: a row means that its table and its backends are there whole. */
struct service {
	__u32 slot; /* its place in maglev, service_epochs and service_counters */
	__u32 flags;
	__u64 digest; /* of the whole desired service: the program ignores it, the driver compares it */
};

struct backend {
	__be32 ip[4];
	__be16 port;
	__u16 zero;
};

/* The one row of each table of maglev: which backend has which place. */
struct maglev {
	__u32 count; /* of backends that new connections go to; 0: none */
	__u16 table[MAGLEV_SIZE];
	__u16 zero;
	struct backend backends[MAX_BACKENDS];
};

/* Key of backends: who may keep connections of a service. */
struct backend_key {
	__u32 slot;
	__be32 ip[4];
	__be16 port;
	__u16 zero;
};

struct backend_state {
	__u64 until_ns; /* CLOCK_MONOTONIC: it was taken out, and keeps its connections until then; 0: it was not */
	__u32 failed;
	__u32 zero;
};

/* flow_key.zero[0] of a row of balanced. */
#define BALANCED_FORTH 0
#define BALANCED_BACK 1
#define BALANCED_OUT 2 /* a backend's answers to what came from outside: `ip` is the host that they go to */

enum balanced_flag {
	BALANCED_CLOSED = 1,	  /* a FIN or RST went this way */
	BALANCED_HAIRPIN = 2,	  /* the backend is the client itself: it gets the VIP as the source */
	BALANCED_HAIRPIN_BACK = 4, /* and answers to it */
};

/* balanced: what a connection's packets are readdressed to: forth the backend, back the VIP. */
struct balanced {
	__be32 ip[4];
	__be16 port;
	__u8 flags;
	__u8 zero;
	__u32 slot;
	__u32 epoch; /* of its service when it was looked at last */
	__u32 zeros;
	__u64 seen_ns; /* CLOCK_MONOTONIC, to a quarter of a second */
	__u64 until_ns; /* as its backend's */
};

/* service_counters[slot], per CPU. */
struct service_traffic {
	__u64 connections;
	__u64 closed;
	__u64 packets_in;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 bytes_out;
};

#endif
