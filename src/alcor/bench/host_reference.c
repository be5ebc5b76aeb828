/* SPDX-License-Identifier: Apache-2.0
 *
 * The yardstick of `alcor bench host`: makes the namespaces and veth pairs of N container ports, as the ebpf driver makes
 * them, and nothing else (no addresses, no routes, no qdisc, no tables). Batched rtnetlink, 64 messages to a sendmsg;
 * namespaces are made by `threads` helper threads ahead of it, or in turn with it when there are none.
 *
 *   host_reference PORTS DIRECTORY THREADS     prints the nanoseconds it took
 *
 * Compiled by host.py at run time: gcc -O2 -pthread. Runs in the namespace that is the host.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 64
#define AHEAD 4
#define FIRST_INDEX 0x100000
#define INNER_INDEX 1000
#define GROUP 0xA1C0
#define MTU 1450

struct chunk {
	int fds[CHUNK];
	int count;
	int ready;
};

static int ports, chunks, next_chunk, used_chunks;
static const char *directory;
static struct chunk *all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int make_namespace(int number)
{
	char own[64], name[512], source[64];

	if (unshare(CLONE_NEWNET))
		die("unshare");
	snprintf(own, sizeof own, "/proc/self/task/%ld/ns/net", syscall(SYS_gettid));
	int fd = open(own, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(own);
	snprintf(name, sizeof name, "%s/00000000-0000-8000-8000-%012x", directory, number);
	int file = open(name, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (file < 0)
		die(name);
	close(file);
	snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
	if (mount(source, name, "none", MS_BIND, NULL))
		die("mount");
	return fd;
}

static void make_chunk(int number)
{
	struct chunk *one = &all[number];
	int left = ports - number * CHUNK;

	one->count = left < CHUNK ? left : CHUNK;
	for (int i = 0; i < one->count; i++)
		one->fds[i] = make_namespace(number * CHUNK + i);
}

static void *helper(void *unused)
{
	(void)unused;
	for (;;) {
		pthread_mutex_lock(&lock);
		while (next_chunk < chunks && next_chunk - used_chunks >= AHEAD)
			pthread_cond_wait(&changed, &lock);
		int number = next_chunk < chunks ? next_chunk++ : -1;
		pthread_mutex_unlock(&lock);
		if (number < 0)
			return NULL;
		make_chunk(number);
		pthread_mutex_lock(&lock);
		all[number].ready = 1;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
}

static char buffer[CHUNK * 512];
static size_t used;

static struct rtattr *put(unsigned short type, const void *value, size_t size)
{
	struct rtattr *attribute = (struct rtattr *)(buffer + used);

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(size);
	if (size)
		memcpy(RTA_DATA(attribute), value, size);
	used += RTA_SPACE(size);
	return attribute;
}

static void put_u32(unsigned short type, uint32_t value)
{
	put(type, &value, sizeof value);
}

static void end(struct rtattr *nest)
{
	nest->rta_len = buffer + used - (char *)nest;
}

static void put_veth(int number, int fd, unsigned sequence, int last)
{
	struct nlmsghdr *header = (struct nlmsghdr *)(buffer + used);
	struct ifinfomsg *link = NLMSG_DATA(header);
	char name[IFNAMSIZ];
	unsigned char mac[6] = {2, 0, number >> 24, number >> 16, number >> 8, number};

	memset(header, 0, NLMSG_SPACE(sizeof *link));
	header->nlmsg_type = RTM_NEWLINK;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | (last ? NLM_F_ACK : 0);
	header->nlmsg_seq = sequence;
	link->ifi_index = FIRST_INDEX + number;
	link->ifi_flags = link->ifi_change = IFF_UP;
	used += NLMSG_SPACE(sizeof *link);
	snprintf(name, sizeof name, "alc%08x-00", number);
	put(IFLA_IFNAME, name, strlen(name) + 1);
	put_u32(IFLA_NUM_TX_QUEUES, 1);
	put_u32(IFLA_NUM_RX_QUEUES, 1);
	put_u32(IFLA_MTU, MTU);
	put_u32(IFLA_GROUP, GROUP);
	struct rtattr *info = put(IFLA_LINKINFO | NLA_F_NESTED, NULL, 0);
	put(IFLA_INFO_KIND, "veth", 4);
	struct rtattr *data = put(IFLA_INFO_DATA | NLA_F_NESTED, NULL, 0);
	struct rtattr *peer = put(VETH_INFO_PEER | NLA_F_NESTED, NULL, 0);
	struct ifinfomsg *inner = (struct ifinfomsg *)(buffer + used);
	memset(inner, 0, sizeof *inner);
	inner->ifi_index = INNER_INDEX;
	used += sizeof *inner;
	put(IFLA_IFNAME, "eth0", 5);
	put_u32(IFLA_NUM_TX_QUEUES, 1);
	put_u32(IFLA_NUM_RX_QUEUES, 1);
	put_u32(IFLA_MTU, MTU);
	put(IFLA_ADDRESS, mac, 6);
	put_u32(IFLA_NET_NS_FD, fd);
	end(peer);
	end(data);
	end(info);
	header->nlmsg_len = buffer + used - (char *)header;
}

static void send_chunk(int netlink, int number)
{
	struct chunk *one = &all[number];
	char answer[8192];

	used = 0;
	for (int i = 0; i < one->count; i++)
		put_veth(number * CHUNK + i, one->fds[i], number * CHUNK + i + 1, i == one->count - 1);
	if (send(netlink, buffer, used, 0) < 0)
		die("send");
	ssize_t size = recv(netlink, answer, sizeof answer, 0);
	if (size < 0)
		die("recv");
	struct nlmsgerr *error = NLMSG_DATA((struct nlmsghdr *)answer);
	if (error->error) {
		errno = -error->error;
		die("veth");
	}
	for (int i = 0; i < one->count; i++)
		close(one->fds[i]);
}

int main(int argc, char **argv)
{
	struct timespec begun, done;
	pthread_t helpers[16];

	if (argc != 4) {
		fprintf(stderr, "usage: host_reference PORTS DIRECTORY THREADS\n");
		return 2;
	}
	ports = atoi(argv[1]);
	directory = argv[2];
	int threads = atoi(argv[3]);
	if (ports < 1 || threads < 0 || threads > 16)
		return 2;
	chunks = (ports + CHUNK - 1) / CHUNK;
	all = calloc(chunks, sizeof *all);
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (!all || home < 0 || netlink < 0)
		die("set-up");
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&helpers[i], NULL, helper, NULL))
			die("thread");
	for (int number = 0; number < chunks; number++) {
		if (threads) {
			pthread_mutex_lock(&lock);
			while (!all[number].ready)
				pthread_cond_wait(&changed, &lock);
			used_chunks = number + 1;
			pthread_cond_broadcast(&changed);
			pthread_mutex_unlock(&lock);
		} else {
			make_chunk(number);
			if (setns(home, CLONE_NEWNET))
				die("setns");
		}
		send_chunk(netlink, number);
	}
	clock_gettime(CLOCK_MONOTONIC, &done);
	for (int i = 0; i < threads; i++)
		pthread_join(helpers[i], NULL);
	printf("%lld\n", (done.tv_sec - begun.tv_sec) * 1000000000LL + done.tv_nsec - begun.tv_nsec);
	return 0;
}
