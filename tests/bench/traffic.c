/*
 * traffic: one thread sends from the client's network namespace, receives in the server's, and says
 * what an item (packet or connection) cost.
 *
 *   traffic KIND CLIENT SERVER ADDRESS PORT LISTEN MILLISECONDS
 *
 *   KIND          established  18 bytes of UDP payload (a frame of 64 bytes), one flow that was answered
 *                 new          the same, each packet from another source port, so each is a new flow
 *                 connect      TCP: socket, connect, close with a reset
 *                 floor        `established` without anybody there: what sending alone costs
 *   CLIENT SERVER paths of network namespaces
 *   ADDRESS PORT  where the client sends to; LISTEN is the port that arrives at the server
 *
 * veth and bridges forward in the sender's own system call (the softirq runs when the call enables
 * bottom halves again), up to the receiving socket. So the wall time of a call is the cost of the whole
 * path, on one core. The clock stops while the server's sockets are emptied. The median over chunks is
 * printed, because a chunk in which another process got the core says nothing about packets:
 *
 *   NANOSECONDS-PER-ITEM SENT RECEIVED
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 32, PAYLOAD = 18, CHUNKS = 4096, FIRST_PORT = 2048, LAST_PORT = 65000 };
static const int PATIENCE_MS = 200;

struct packet {
	struct iphdr ip;
	struct udphdr udp;
	char payload[PAYLOAD];
} __attribute__((packed));

struct run {
	int client, server;            /* sockets; server is -1 for `floor` */
	struct sockaddr_in to;
	struct in_addr from;
	unsigned next_port;
	long sent, received;
};

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void enter(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) != 0)
		err(1, "%s", path);
	close(fd);
}

/* The highest CPU allowed: the lowest takes most interrupts. */
static void stay_on_one_cpu(void)
{
	cpu_set_t allowed, one;
	if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
		err(1, "sched_getaffinity");
	int cpu = CPU_SETSIZE - 1;
	while (cpu > 0 && !CPU_ISSET(cpu, &allowed))
		cpu--;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof one, &one) != 0)
		err(1, "sched_setaffinity");
}

static int open_socket(int type, int protocol)
{
	struct timeval patience = {.tv_usec = PATIENCE_MS * 1000};
	int room = 1 << 22, fd = socket(AF_INET, type | SOCK_CLOEXEC, protocol);
	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
	return fd;
}

static int listening(int type, int port)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
	int yes = 1, fd = open_socket(type, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(fd, (struct sockaddr *)&any, sizeof any) != 0)
		err(1, "bind to port %d", port);
	if (type == SOCK_STREAM && listen(fd, 4096) != 0)
		err(1, "listen");
	return fd;
}

/* The address that the client sends from. */
static struct in_addr own_address(const struct sockaddr_in *to)
{
	struct sockaddr_in own;
	socklen_t size = sizeof own;
	int fd = open_socket(SOCK_DGRAM, 0);
	if (connect(fd, (const struct sockaddr *)to, sizeof *to) != 0 ||
	    getsockname(fd, (struct sockaddr *)&own, &size) != 0)
		err(1, "no way to the destination");
	close(fd);
	return own.sin_addr;
}

/* One datagram there and one back: conntrack calls a flow established once it has seen an answer. */
static void establish(struct run *run)
{
	char byte = 0;
	struct sockaddr_in from;
	socklen_t size = sizeof from;
	if (send(run->client, &byte, 1, 0) != 1 ||
	    recvfrom(run->server, &byte, 1, 0, (struct sockaddr *)&from, &size) != 1)
		err(1, "the first datagram does not arrive");
	if (sendto(run->server, &byte, 1, 0, (struct sockaddr *)&from, size) != 1 ||
	    recv(run->client, &byte, 1, 0) != 1)
		err(1, "the first answer does not arrive");
}

static void send_established(struct run *run)
{
	static char payload[PAYLOAD];
	struct iovec part = {payload, sizeof payload};
	struct mmsghdr messages[CHUNK] = {0};
	for (int i = 0; i < CHUNK; i++)
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
	int sent = sendmmsg(run->client, messages, CHUNK, 0);
	if (sent < 0)
		err(1, "sendmmsg");
	run->sent += sent;
}

static void send_new(struct run *run)
{
	static struct packet packets[CHUNK];
	struct iovec parts[CHUNK];
	struct mmsghdr messages[CHUNK] = {0};
	for (int i = 0; i < CHUNK; i++) {
		packets[i] = (struct packet){
			.ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
			       .saddr = run->from.s_addr, .daddr = run->to.sin_addr.s_addr},
			.udp = {.source = htons(run->next_port++), .dest = run->to.sin_port,
				.len = htons(sizeof(struct udphdr) + PAYLOAD)},
		};
		parts[i] = (struct iovec){&packets[i], sizeof packets[i]};
		messages[i].msg_hdr = (struct msghdr){.msg_name = &run->to, .msg_namelen = sizeof run->to,
						      .msg_iov = &parts[i], .msg_iovlen = 1};
	}
	int sent = sendmmsg(run->client, messages, CHUNK, 0);
	if (sent < 0)
		err(1, "sendmmsg");
	run->sent += sent;
}

static void connect_and_close(struct run *run)
{
	struct linger reset = {.l_onoff = 1}; /* no TIME_WAIT: ports would run out */
	struct timeval patience = {.tv_usec = PATIENCE_MS * 1000};
	for (int i = 0; i < CHUNK; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* for connect */
		if (connect(fd, (struct sockaddr *)&run->to, sizeof run->to) != 0)
			err(1, "connect");
		close(fd);
		run->sent++;
	}
}

/* Everything that has arrived; what is late gets PATIENCE_MS. */
static void take_datagrams(struct run *run)
{
	char byte;
	while (run->received < run->sent && recv(run->server, &byte, 1, MSG_TRUNC) >= 0)
		run->received++;
}

static void take_connections(struct run *run)
{
	while (run->received < run->sent) {
		int fd = accept4(run->server, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return;
		close(fd);
		run->received++;
	}
}

struct kind {
	const char *name;
	int type;                      /* of the server's socket; 0: none */
	int client_type;               /* 0: none of its own */
	void (*send)(struct run *);
	void (*take)(struct run *);
};

static const struct kind kinds[] = {
	{"established", SOCK_DGRAM, SOCK_DGRAM, send_established, take_datagrams},
	{"new", SOCK_DGRAM, SOCK_RAW, send_new, take_datagrams},
	{"connect", SOCK_STREAM, 0, connect_and_close, take_connections},
	{"floor", 0, SOCK_DGRAM, send_established, NULL},
};

static const struct kind *kind_named(const char *name)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	errx(2, "no such kind: %s", name);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Nanoseconds per item, the median over chunks. */
static double measure(const struct kind *kind, struct run *run, int milliseconds)
{
	static double costs[CHUNKS];
	int chunks = 0;
	long long spent = 0, budget = milliseconds * 1000000LL;
	while (chunks < CHUNKS && (chunks < 3 || spent < budget) && run->next_port < LAST_PORT) {
		long before = run->sent;
		long long start = now();
		kind->send(run);
		long long took = now() - start;
		spent += took;
		costs[chunks++] = (double)took / (run->sent - before);
		if (kind->take != NULL)
			kind->take(run);
	}
	qsort(costs, chunks, sizeof *costs, by_size);
	return costs[chunks / 2];
}

int main(int argc, char **argv)
{
	if (argc != 8)
		errx(2, "usage: traffic KIND CLIENT SERVER ADDRESS PORT LISTEN MILLISECONDS");
	const struct kind *kind = kind_named(argv[1]);
	struct run run = {.client = -1, .server = -1, .next_port = FIRST_PORT,
			  .to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[5]))}};
	if (inet_pton(AF_INET, argv[4], &run.to.sin_addr) != 1)
		errx(2, "no IPv4 address: %s", argv[4]);
	stay_on_one_cpu();
	if (kind->type != 0) {
		enter(argv[3]);
		run.server = listening(kind->type, atoi(argv[6]));
	}
	enter(argv[2]);
	run.from = own_address(&run.to);
	if (kind->client_type != 0)
		run.client = open_socket(kind->client_type, kind->client_type == SOCK_RAW ? IPPROTO_RAW : 0);
	if (kind->client_type == SOCK_DGRAM) {
		if (connect(run.client, (struct sockaddr *)&run.to, sizeof run.to) != 0)
			err(1, "connect");
		if (run.server >= 0)
			establish(&run);
	}
	double cost = measure(kind, &run, atoi(argv[7]));
	printf("%.1f %ld %ld\n", cost, run.sent, run.received);
	return 0;
}
