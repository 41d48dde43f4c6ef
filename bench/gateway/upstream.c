/* The upstream of the benchmark: OpenAI's chat completions from prepared bytes. One process, epoll, keep-alive.
 *
 *     upstream PORT LANES_FILE
 *
 * A whole answer has about 1 kB. A stream has one event for each word (a word starts with "#w", so that it can be
 * counted), then finish, usage and [DONE]. Each event is a write of its own, one stream after the other in turn.
 * "chunks=N" anywhere in the request's body sets the number of words. With "lane=NNNN" the stream goes in step: its next
 * event is written when the load generator has got the one before, which it says in LANES_FILE, memory that both share.
 * So no event can meet another on the way. It understands nothing else, and nothing malformed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_LANES = 4096, MOST_FDS = 8192, IN = 1 << 17, MOST_WORDS = 2000, OUT = 2048 };

typedef struct {
    int fd, words, at, active, blocked; /* at: the next event of a stream */
    _Atomic int *got; /* how many words have arrived, of a stream in step */
    size_t have, left;
    char *in;
    char out[OUT];
    const char *from;
} Conn;

static Conn *conns[MOST_FDS];
static int active[MOST_FDS], actives, poller;
static char whole[4096], *events[MOST_WORDS];
static size_t whole_size, event_size[MOST_WORDS];
static const int plain_words = 16;
static _Atomic int *lanes;

static void watch(Conn *c, int out) {
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    c->blocked = out;
}

static void drop(Conn *c) {
    if (c->active)
        for (int i = 0; i < actives; i++)
            if (active[i] == c->fd) { active[i] = active[--actives]; break; }
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->in);
    free(c);
}

static int flush_out(Conn *c) { /* 1: all gone, 0: blocked, -1: dropped */
    while (c->left) {
        ssize_t n = send(c->fd, c->from, c->left, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) { if (!c->blocked) watch(c, 1); return 0; }
            drop(c);
            return -1;
        }
        c->from += n;
        c->left -= n;
    }
    if (c->blocked) watch(c, 0);
    return 1;
}

static int frame(char *to, const char *text) { /* one HTTP chunk; `to` holds OUT bytes */
    return snprintf(to, OUT, "%zx\r\n%s\r\n", strlen(text), text);
}

#define HEAD "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"bench\","

static void prepare(void) {
    char text[1024], body[3000], content[2048] = "";
    for (int i = 0; i < plain_words; i++)
        sprintf(content + strlen(content), "#w%04d and the words that stand for an answer.. ", i);
    sprintf(body, "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1790000000,\"model\":\"bench\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":250,\"completion_tokens\":180,\"total_tokens\":430}}", content);
    whole_size = sprintf(whole, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
        strlen(body), body);
    for (int i = 0; i < MOST_WORDS; i++) {
        sprintf(text, "data: " HEAD "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"#w%04d \"},\"finish_reason\":null}]}\n\n",
            i ? "" : "\"role\":\"assistant\",", i);
        events[i] = malloc(OUT);
        event_size[i] = frame(events[i], text);
    }
}

static int next_event(Conn *c) { /* puts one event out; as flush_out */
    char text[1024];
    int i = c->at++;
    if (i == 0) {
        int n = sprintf(c->out, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
            "transfer-encoding: chunked\r\n\r\n");
        memcpy(c->out + n, events[0], event_size[0]);
        c->from = c->out;
        c->left = n + event_size[0];
    } else if (i < c->words) {
        c->from = events[i];
        c->left = event_size[i];
    } else if (i == c->words) {
        c->from = c->out;
        c->left = frame(c->out, "data: " HEAD "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    } else if (i == c->words + 1) {
        sprintf(text, "data: " HEAD "\"choices\":[],\"usage\":{\"prompt_tokens\":250,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
            c->words, 250 + c->words);
        c->from = c->out;
        c->left = frame(c->out, text);
    } else {
        int n = frame(c->out, "data: [DONE]\n\n");
        c->left = n + sprintf(c->out + n, "0\r\n\r\n");
        c->from = c->out;
        for (int k = 0; k < actives; k++)
            if (active[k] == c->fd) { active[k] = active[--actives]; break; }
        c->active = 0;
    }
    return flush_out(c);
}

static long number_after(const char *body, size_t size, const char *word, long otherwise) {
    const char *at = memmem(body, size, word, strlen(word));
    return at ? atol(at + strlen(word)) : otherwise;
}

static int serve(Conn *c) { /* takes one request off the buffer; 1: took one, 0: not all here, -1: dropped */
    char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!end || c->active || c->left) return 0;
    *end = 0;
    size_t head = end + 4 - c->in, size = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:"), *chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked");
    int get = c->in[0] == 'G';
    if (length) size = strtoul(length + 17, NULL, 10);
    if (head + size >= IN) { drop(c); return -1; }
    *end = '\r';
    if (chunked) {
        char *last = memmem(c->in + head, c->have - head, "0\r\n\r\n", 5);
        if (!last) return 0;
        size = last + 5 - (c->in + head);
    }
    if (c->have < head + size) return 0;
    const char *body = c->in + head;
    int stream = memmem(body, size, "\"stream\":true", 13) || memmem(body, size, "\"stream\": true", 14);
    c->words = number_after(body, size, "chunks=", 64);
    if (c->words < 1 || c->words > MOST_WORDS) c->words = 64;
    long lane = number_after(body, size, "lane=", -1);
    c->got = lane >= 0 && lane < MOST_LANES ? &lanes[lane] : NULL;
    memmove(c->in, c->in + head + size, c->have - head - size);
    c->have -= head + size;
    if (get) {
        c->from = c->out;
        c->left = sprintf(c->out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 27\r\n\r\n{\"object\":\"list\",\"data\":[]}");
        return flush_out(c) < 0 ? -1 : 1;
    }
    if (!stream) {
        c->from = whole;
        c->left = whole_size;
        return flush_out(c) < 0 ? -1 : 1;
    }
    c->at = 0;
    c->active = 1;
    active[actives++] = c->fd;
    return next_event(c) < 0 ? -1 : 1;
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: upstream PORT LANES_FILE\n"); return 2; }
    int file = open(argv[2], O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, MOST_LANES * sizeof *lanes)) { perror(argv[2]); return 1; }
    lanes = mmap(NULL, MOST_LANES * sizeof *lanes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (lanes == MAP_FAILED) { perror(argv[2]); return 1; }
    signal(SIGPIPE, SIG_IGN);
    prepare();
    int one = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(server, (void *)&here, sizeof here) || listen(server, 4096)) { perror("upstream"); return 1; }
    poller = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = server}, got[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, server, &e);
    for (;;) {
        int blocked = 0, stepping = 0;
        for (int i = 0; i < actives; i++) {
            blocked += conns[active[i]]->left > 0;
            stepping += conns[active[i]]->got != NULL;
        }
        /* while a stream is in step its memory has to be looked at; the core goes to whoever else needs it */
        int n = epoll_wait(poller, got, 256, blocked == actives ? -1 : 0);
        if (!n && stepping) sched_yield();
        for (int k = 0; k < n; k++) {
            int fd = got[k].data.fd;
            if (fd == server) {
                int one_fd;
                while ((one_fd = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (one_fd >= MOST_FDS) { close(one_fd); continue; }
                    setsockopt(one_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    Conn *c = calloc(1, sizeof *c);
                    c->fd = one_fd;
                    c->in = malloc(IN);
                    conns[one_fd] = c;
                    struct epoll_event add = {.events = EPOLLIN, .data.fd = one_fd};
                    epoll_ctl(poller, EPOLL_CTL_ADD, one_fd, &add);
                }
                continue;
            }
            Conn *c = conns[fd];
            if (!c) continue;
            if (got[k].events & EPOLLOUT && flush_out(c) < 0) continue;
            if (got[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                ssize_t size = recv(fd, c->in + c->have, IN - c->have, 0);
                if (size == 0 || (size < 0 && errno != EAGAIN)) { drop(c); continue; }
                if (size > 0) c->have += size;
            }
            while (serve(c) == 1 && c->have) { }
        }
        for (int i = actives - 1; i >= 0; i--) { /* downwards: the last takes the place of one that ends */
            if (i >= actives) continue;
            Conn *c = conns[active[i]];
            if (c->left || (c->got && c->at < c->words && *c->got < c->at)) continue;
            int fd = c->fd;
            if (next_event(c) == 1 && conns[fd] == c && !c->active && c->have) serve(c);
        }
    }
}
