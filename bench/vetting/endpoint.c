/* The endpoint of the benchmark: chat completions, each after the same time. One process, epoll, keep-alive.
 *
 *     endpoint PORT LATENCY_MS
 *
 * Answers "n=N" with N modulo 7, where N is the number behind the last "n=" of the request's body. "GET" tells how many
 * were answered since the last GET, and the microseconds from the first request to the last answer. It understands nothing else, and nothing malformed. Since all wait equally long, those that wait
 * are a queue and need no timers.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FDS = 4096, IN = 1 << 16, QUEUE = 1 << 13 };

typedef struct { int fd; unsigned life; long value; size_t have; char in[IN]; } Conn;
typedef struct { int fd; unsigned life; long due; } Waiting;

static Conn *conns[MOST_FDS];
static unsigned lives;
static Waiting queue[QUEUE];
static unsigned first, last; /* of the queue; both only grow */
static long latency_us, answered, began_us, ended_us;
static int timer;

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void drop(Conn *c) { conns[c->fd] = NULL; close(c->fd); free(c); }

static void set_timer(void) { /* for the oldest that waits; off where none does */
    long due = first == last ? 0 : queue[first % QUEUE].due;
    struct itimerspec at = {.it_value = {due / 1000000, due % 1000000 * 1000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void say(Conn *c, const char *body) {
    char out[1024];
    int n = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
        strlen(body), body);
    if (send(c->fd, out, n, MSG_NOSIGNAL) != n) drop(c);
}

static void answer(Conn *c) {
    char body[512];
    snprintf(body, sizeof body, "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1790000000,\"model\":\"bench\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%ld\"},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":1,\"total_tokens\":21}}", c->value % 7);
    answered++;
    ended_us = now_us();
    say(c, body);
}

static void take(Conn *c) { /* one request off the buffer, if it is all there */
    char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!end) return;
    *end = 0;
    size_t head = end + 4 - c->in, size = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    if (length) size = strtoul(length + 17, NULL, 10);
    *end = '\r';
    if (head + size > IN) { drop(c); return; }
    if (c->have < head + size) return;
    if (c->in[0] == 'G') {
        char text[128];
        sprintf(text, "{\"answered\":%ld,\"took_us\":%ld}", answered, ended_us - began_us);
        answered = began_us = ended_us = 0;
        c->have = 0;
        say(c, text);
        return;
    }
    const char *at = c->in + head, *found = NULL, *stop = at + size;
    while ((at = memmem(at, stop - at, "n=", 2))) { found = at + 2; at += 2; }
    c->value = found ? atol(found) : -1;
    c->have = 0; /* nobody pipelines here */
    if (!began_us) began_us = now_us();
    queue[last++ % QUEUE] = (Waiting){c->fd, c->life, now_us() + latency_us};
    if (last - first == 1) set_timer();
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: endpoint PORT LATENCY_MS\n"); return 2; }
    latency_us = atol(argv[2]) * 1000;
    signal(SIGPIPE, SIG_IGN);
    int one = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(server, (void *)&here, sizeof here) || listen(server, 1024)) { perror("endpoint"); return 1; }
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = server}, got[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, server, &e);
    e.data.fd = timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);
    for (;;) {
        int n = epoll_wait(poller, got, 256, -1);
        for (int k = 0; k < n; k++) {
            int fd = got[k].data.fd;
            if (fd == server) {
                while ((fd = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= MOST_FDS) { close(fd); continue; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    Conn *c = malloc(sizeof *c);
                    c->fd = fd, c->life = ++lives, c->have = 0;
                    conns[fd] = c;
                    e.data.fd = fd;
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
                }
            } else if (fd == timer) {
                unsigned long ticks;
                if (read(timer, &ticks, sizeof ticks) < 0) continue;
                long now = now_us();
                for (; first != last && queue[first % QUEUE].due <= now; first++) {
                    Waiting *w = &queue[first % QUEUE];
                    Conn *c = conns[w->fd];
                    if (c && c->life == w->life) answer(c); /* else its client has left */
                }
                set_timer();
            } else if (conns[fd]) {
                Conn *c = conns[fd];
                ssize_t size = recv(fd, c->in + c->have, IN - c->have, 0);
                if (size == 0 || (size < 0 && errno != EAGAIN)) { drop(c); continue; }
                if (size > 0) { c->have += size; take(c); }
            }
        }
    }
}
