/* The load of the benches of the data plane: what a packet, a round trip and a stream cost between two sockets it is handed.
 *
 *   traffic udp SENDER RECEIVER CHUNKS PER_CHUNK BYTES   thread CPU ns per packet of every chunk, one per line
 *   traffic rr CLIENT SERVER COUNT                       ns of every round trip of one byte, one per line
 *   traffic stream CLIENT SERVER MILLISECONDS            bytes received, ns until the last, CPU ns of both ends
 *   traffic connect NETNS LISTENER CHUNKS PER_CHUNK ADDRESS PORT HELPER
 *                                                        CPU ns per TCP connection, opened and reset, of every chunk
 *
 * The sockets are connected and live in the namespaces of two containers. Across a veth the kernel does all work of a
 * packet, softirqs included, inside the sender's system call; so the sender's thread CPU time from send() to the
 * receiving socket's queue is the cost of the path. The queue is emptied between chunks, outside the clock. HELPER is a
 * process that a connection goes through (a proxy; 0: none): its CPU time counts, too.
 *
 * On a busy machine the kernel leaves a part of that work to a thread of its own, ksoftirqd. It would be on nobody's
 * clock, so chunks in which that thread ran say nothing and are made again.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_BYTES 65536
#define STREAM_BYTES (128 * 1024)
#define WARM_UP 2000
#define TRIES 20 /* for each chunk that counts */

static char buffer[STREAM_BYTES];
static clockid_t ksoftirqd; /* of our CPU; 0: not to be seen from here */

static long now(clockid_t clock)
{
	struct timespec at;
	clock_gettime(clock, &at);
	return at.tv_sec * 1000000000L + at.tv_nsec;
}

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 1;
}

/* CPU time of ksoftirqd. */
static long left_aside(void)
{
	return ksoftirqd ? now(ksoftirqd) : 0;
}

/* Of the chunks that were wanted these counted: a tenth at least, since that quantile is what is said. */
static int enough(int counted, int wanted)
{
	if (counted && counted >= wanted / 10)
		return 0;
	fprintf(stderr, "this machine is too busy: %d of %d chunks were whole\n", counted, wanted);
	return 1;
}

/* Takes `count` packets from the socket; how many came within a second each. */
static int drain(int socket, int count)
{
	struct pollfd one = {.fd = socket, .events = POLLIN};
	int taken = 0;

	while (taken < count) {
		if (recv(socket, buffer, sizeof(buffer), MSG_DONTWAIT) >= 0)
			taken++;
		else if (poll(&one, 1, 1000) <= 0)
			break;
	}
	return taken;
}

static int udp(int sender, int receiver, int chunks, int per_chunk, int bytes)
{
	int counted = 0;

	for (int tries = 0; counted < chunks && tries < chunks * TRIES; tries++) {
		long aside = left_aside();
		long before = now(CLOCK_THREAD_CPUTIME_ID);

		for (int i = 0; i < per_chunk; i++)
			if (send(sender, buffer, bytes, 0) != bytes)
				return fail("send");
		long spent = now(CLOCK_THREAD_CPUTIME_ID) - before;

		if (drain(receiver, per_chunk) != per_chunk) {
			fprintf(stderr, "packets were lost: the path does not carry the load\n");
			return 1;
		}
		if (left_aside() != aside)
			continue;
		printf("%ld\n", spent / per_chunk);
		counted++;
	}
	return enough(counted, chunks);
}

static int rr(int client, int server, int count)
{
	pid_t echo = fork();

	if (echo < 0)
		return fail("fork");
	if (echo == 0) {
		close(client);
		while (recv(server, buffer, 1, 0) == 1)
			if (send(server, buffer, 1, 0) != 1)
				break;
		_exit(0);
	}
	close(server);
	for (int i = 0; i < count + WARM_UP; i++) {
		long before = now(CLOCK_MONOTONIC);

		if (send(client, buffer, 1, 0) != 1 || recv(client, buffer, 1, 0) != 1)
			return fail("round trip");
		if (i >= WARM_UP)
			printf("%ld\n", now(CLOCK_MONOTONIC) - before);
	}
	shutdown(client, SHUT_RDWR);
	waitpid(echo, NULL, 0);
	return 0;
}

/* From the client's namespace: SYN, SYN+ACK, ACK, then a reset, so that no port waits before it is used again. */
static int connections(int namespace, int listener, int chunks, int per_chunk, const struct sockaddr_in *to, pid_t helper)
{
	struct linger reset = {.l_onoff = 1};
	clockid_t helping;
	int counted = 0;

	if (setns(namespace, CLONE_NEWNET))
		return fail("the client's namespace");
	if (helper && (errno = clock_getcpuclockid(helper, &helping)))
		return fail("the helper's clock");
	for (int tries = 0; counted < chunks && tries < chunks * TRIES; tries++) {
		long aside = left_aside();
		long before = now(CLOCK_THREAD_CPUTIME_ID) + (helper ? now(helping) : 0);

		for (int i = 0; i < per_chunk; i++) {
			int client = socket(AF_INET, SOCK_STREAM, 0);
			int server;

			if (client < 0 || connect(client, (const struct sockaddr *)to, sizeof(*to)))
				return fail("connect");
			server = accept(listener, NULL, NULL);
			if (server < 0 || setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)))
				return fail("accept");
			close(client);
			close(server);
		}
		long spent = now(CLOCK_THREAD_CPUTIME_ID) + (helper ? now(helping) : 0) - before;

		if (left_aside() != aside)
			continue;
		printf("%ld\n", spent / per_chunk);
		counted++;
	}
	return enough(counted, chunks);
}

static long cpu_of(int who)
{
	struct rusage used;

	getrusage(who, &used);
	return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000L +
	       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000L;
}

static int stream(int client, int server, int milliseconds)
{
	int report[2];
	long told[2] = {0, 0};

	if (pipe(report))
		return fail("pipe");
	long start = now(CLOCK_MONOTONIC);
	pid_t sink = fork();

	if (sink < 0)
		return fail("fork");
	if (sink == 0) {
		ssize_t got;

		close(client);
		while ((got = recv(server, buffer, sizeof(buffer), 0)) > 0)
			told[0] += got;
		told[1] = now(CLOCK_MONOTONIC) - start;
		_exit(write(report[1], told, sizeof(told)) != sizeof(told));
	}
	close(server);
	while (now(CLOCK_MONOTONIC) - start < milliseconds * 1000000L)
		if (send(client, buffer, sizeof(buffer), 0) <= 0)
			return fail("send");
	shutdown(client, SHUT_WR);
	if (read(report[0], told, sizeof(told)) != sizeof(told))
		return fail("the receiving end");
	waitpid(sink, NULL, 0);
	printf("%ld %ld %ld\n", told[0], told[1], cpu_of(RUSAGE_SELF) + cpu_of(RUSAGE_CHILDREN));
	return 0;
}

/* Whose process id has that name; 0: nobody's. */
static pid_t find(const char *name)
{
	DIR *all = opendir("/proc");
	struct dirent *one;
	pid_t found = 0;

	while (all && !found && (one = readdir(all))) {
		char path[64], comm[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%d/comm", atoi(one->d_name));
		file = atoi(one->d_name) ? fopen(path, "r") : NULL;
		if (!file)
			continue;
		if (fscanf(file, "%31s", comm) == 1 && !strcmp(comm, name))
			found = atoi(one->d_name);
		fclose(file);
	}
	if (all)
		closedir(all);
	return found;
}

/* One CPU for the whole of a packet's way: what crosses to another would not be on this thread's clock, and a round trip
 * between two would mostly measure how long an idle CPU takes to wake. A stream over one is what a core can carry. */
static void pin(void)
{
	cpu_set_t all, one;
	char name[32];
	pid_t thread;

	CPU_ZERO(&one);
	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--)
		if (CPU_ISSET(cpu, &all)) {
			CPU_SET(cpu, &one);
			sched_setaffinity(0, sizeof(one), &one);
			snprintf(name, sizeof(name), "ksoftirqd/%d", cpu);
			thread = find(name);
			if (!thread || clock_getcpuclockid(thread, &ksoftirqd))
				ksoftirqd = 0;
			return;
		}
}

int main(int argc, char **argv)
{
	if (argc == 7 && !strcmp(argv[1], "udp") && atoi(argv[6]) <= MAX_BYTES) {
		pin();
		return udp(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6]));
	}
	if (argc == 5 && !strcmp(argv[1], "rr")) {
		pin();
		return rr(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
	}
	if (argc == 5 && !strcmp(argv[1], "stream")) {
		pin();
		return stream(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
	}
	if (argc == 9 && !strcmp(argv[1], "connect")) {
		struct sockaddr_in to = {.sin_family = AF_INET};

		to.sin_addr.s_addr = htonl(strtoul(argv[6], NULL, 10));
		to.sin_port = htons(atoi(argv[7]));
		pin();
		return connections(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), &to, atoi(argv[8]));
	}
	fprintf(stderr, "usage: traffic udp|rr|stream|connect FD FD NUMBER...\n");
	return 2;
}
