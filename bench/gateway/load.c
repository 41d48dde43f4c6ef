/* The load generator of the benchmark: one process, epoll, keep-alive. It checks every answer.
 *
 *     load PORT REQUEST_FILE closed|open CONNECTIONS_OR_RATE WARM_S SECONDS WORDS stream|whole GRACE_S LANES_FILE
 *
 * closed: so many connections, each asks again as soon as it has its answer.
 * open:   so many requests a second on a fixed timetable, whatever comes back; times count from the timetable.
 *
 * REQUEST_FILE holds one whole HTTP request; "lane=0000" in it becomes the connection's own number, and how many words
 * have come on each is kept in LANES_FILE, memory that the upstream reads. An answer is good when its status is 200, its body is complete, has exactly
 * WORDS times "#w" and, as a stream, "[DONE]". Prints `begin` and `end` around the measured time, then one JSON line.
 * A kept connection that the server had closed before a byte of an answer is opened again, and counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNS = 2048, HEADERS = 16384, MOST_SAMPLES = 4000000, RAW = 6000, MOST_ERRORS = 200 };
enum { HEAD, BY_LENGTH, TO_END, CHUNK_SIZE, CHUNK_DATA, CHUNK_CRLF, TRAILER };

typedef struct {
    int fd, busy, writing, used, state, status, closes, words, hash, done, line;
    size_t sent, head, left;
    double asked, first;
    char in[HEADERS];
    char bytes[161]; /* the beginning of the body, to show when it is wrong */
    int shown;
} Conn;

static Conn conns[MOST_CONNS];
static int idle[MOST_CONNS], idles, opened, poller, words_due, stream, is_open, port;
static char *request, *lane_digits; /* where the number of the lane stands; NULL: nowhere */
static size_t request_size;
static _Atomic int *lanes;
static double t0, begin_at, end_at;
static long in_window, total, errors, reconnects, words_in_window, asked_in_window;
static float *latency, *first_token;
static long latencies, firsts;
static char first_error[512];
static int inflight;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void open_conn(Conn *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(c->fd, (void *)&there, sizeof there) && errno != EINPROGRESS) { perror("connect"); exit(1); }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    c->used = 0;
    c->writing = 0;
}

static void watch(Conn *c, int out) {
    if (c->writing == out) return;
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    c->writing = out;
}

static void put(Conn *c) {
    if (lane_digits) { /* the number has four digits wherever it goes */
        char digits[8];
        snprintf(digits, sizeof digits, "%04d", (int)(c - conns));
        memcpy(lane_digits, digits, 4);
    }
    while (c->sent < request_size) {
        ssize_t n = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS) watch(c, 1);
            return; /* anything else shows when it is read */
        }
        c->sent += n;
    }
    watch(c, 0);
}

static void ask(Conn *c, double at) {
    if (!c->busy) inflight++;
    c->busy = 1;
    c->state = HEAD;
    c->head = c->sent = c->left = 0;
    c->words = c->hash = c->done = c->line = c->shown = c->closes = 0;
    c->asked = at;
    c->first = 0;
    lanes[c - conns] = 0;
    put(c);
}

static void reopen(Conn *c) {
    close(c->fd);
    open_conn(c);
}

static void finish(Conn *c, const char *wrong) {
    double t = now();
    if (!wrong && c->status != 200) wrong = "status";
    if (!wrong && c->words != words_due) wrong = "words";
    if (!wrong && stream && c->done < 6) wrong = "no [DONE]";
    inflight--;
    c->busy = 0;
    if (wrong) {
        if (!errors++) {
            c->bytes[c->shown] = 0;
            snprintf(first_error, sizeof first_error, "%s: status %d, %d of %d words: %s", wrong, c->status, c->words, words_due, c->bytes);
        }
    } else {
        total++;
        double counts = is_open ? c->asked : t;
        if (counts >= begin_at && counts < end_at && latencies < MOST_SAMPLES) {
            in_window++;
            latency[latencies++] = (t - c->asked) * 1e6;
            if (stream) first_token[firsts++] = (c->first - c->asked) * 1e6;
        }
    }
    c->used = 1;
    if (wrong || c->closes) reopen(c);
}

static void scan(Conn *c, const char *p, size_t n, double t) {
    static const char done[] = "[DONE]";
    int before = c->words;
    size_t room = sizeof c->bytes - 1 - c->shown, keep = n < room ? n : room;
    memcpy(c->bytes + c->shown, p, keep);
    c->shown += keep;
    const char *end = p + n, *q = p;
    if (c->hash && n && *p == 'w') c->words++;
    c->hash = 0;
    while ((q = memchr(q, '#', end - q))) {
        if (q + 1 == end) { c->hash = 1; break; }
        if (q[1] == 'w') c->words++;
        q++;
    }
    if (stream) {
        if (c->done && c->done < 6) { /* it began at the end of the piece before */
            for (q = p; q < end && c->done && c->done < 6; q++) c->done = *q == done[c->done] ? c->done + 1 : 0;
        }
        for (q = p; c->done < 6 && (q = memchr(q, '[', end - q)); q++) {
            int k = 0;
            while (q + k < end && k < 6 && q[k] == done[k]) k++;
            if (k == 6 || q + k == end) { c->done = k; break; }
        }
    }
    if (c->words > before) {
        lanes[c - conns] = c->words;
        if (!c->first) c->first = t;
        if (t >= begin_at && t < end_at) words_in_window += c->words - before;
    }
}

static int head_done(Conn *c) { /* reads the headers; 0 when they are not understood */
    if (sscanf(c->in, "HTTP/1.%*d %d", &c->status) != 1) return 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:"), *coding = strcasestr(c->in, "\r\ntransfer-encoding: chunked");
    c->closes = strcasestr(c->in, "\r\nconnection: close") != NULL;
    if (coding) c->state = CHUNK_SIZE, c->left = 0, c->line = 0;
    else if (length) c->state = BY_LENGTH, c->left = strtoul(length + 17, NULL, 10);
    else c->state = TO_END, c->closes = 1;
    return 1;
}

static void take(Conn *c, const char *p, size_t n) {
    double t = now();
    while (n && c->busy) {
        if (c->state == HEAD) {
            size_t room = HEADERS - 1 - c->head, more = n < room ? n : room, before = c->head;
            memcpy(c->in + c->head, p, more);
            c->head += more;
            c->in[c->head] = 0;
            char *end = memmem(c->in, c->head, "\r\n\r\n", 4);
            if (!end) {
                if (c->head == HEADERS - 1) finish(c, "headers too long");
                return;
            }
            size_t used = end + 4 - c->in - before;
            end[2] = 0;
            if (!head_done(c)) { finish(c, "not HTTP"); return; }
            p += used;
            n -= used;
            if (c->state == BY_LENGTH && !c->left) { finish(c, NULL); return; }
        } else if (c->state == BY_LENGTH || c->state == CHUNK_DATA) {
            size_t more = n < c->left ? n : c->left;
            scan(c, p, more, t);
            c->left -= more;
            p += more;
            n -= more;
            if (!c->left) {
                if (c->state == BY_LENGTH) { finish(c, NULL); return; }
                c->state = CHUNK_CRLF;
                c->left = 2;
            }
        } else if (c->state == TO_END) {
            scan(c, p, n, t);
            return;
        } else if (c->state == CHUNK_CRLF) {
            size_t more = n < c->left ? n : c->left;
            c->left -= more;
            p += more;
            n -= more;
            if (!c->left) c->state = CHUNK_SIZE, c->line = 0;
        } else if (c->state == CHUNK_SIZE) {
            char ch = *p++;
            n--;
            if (ch == '\n') {
                if (c->line == 0) { finish(c, "no chunk size"); return; }
                c->state = c->left ? CHUNK_DATA : TRAILER;
                c->line = 0;
            } else if (ch == ';') c->line = 1000;
            else if (ch != '\r' && c->line < 1000) {
                int digit = ch >= '0' && ch <= '9' ? ch - '0' : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10 : -1;
                if (digit < 0 || c->line > 7) { finish(c, "not a chunk size"); return; }
                c->left = c->left * 16 + digit;
                c->line++;
            }
        } else { /* TRAILER: lines up to an empty one */
            char ch = *p++;
            n--;
            if (ch == '\n') {
                if (!c->line) { finish(c, NULL); return; }
                c->line = 0;
            } else if (ch != '\r') c->line++;
        }
    }
}

static int up(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double at(float *sorted, long n, double part) {
    return n ? sorted[(long)(part * (n - 1) + 0.5)] : 0;
}

static void raw(const char *name, float *samples, long n) {
    printf(",\"%s\":[", name);
    for (long i = 0; i < n && n <= RAW; i++) printf("%s%.1f", i ? "," : "", samples[i]);
    printf("]");
}

int main(int argc, char **argv) {
    if (argc != 11) { fprintf(stderr, "usage: load PORT REQUEST_FILE closed|open CONNECTIONS_OR_RATE WARM_S SECONDS WORDS stream|whole GRACE_S LANES_FILE\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    port = atoi(argv[1]);
    FILE *file = fopen(argv[2], "rb");
    if (!file) { perror(argv[2]); return 1; }
    request = malloc(1 << 20);
    request_size = fread(request, 1, 1 << 20, file);
    fclose(file);
    lane_digits = memmem(request, request_size, "lane=0000", 9);
    if (lane_digits) lane_digits += 5;
    int lanes_file = open(argv[10], O_RDWR);
    lanes = lanes_file < 0 ? MAP_FAILED : mmap(NULL, MOST_CONNS * sizeof *lanes, PROT_READ | PROT_WRITE, MAP_SHARED, lanes_file, 0);
    if (lanes == MAP_FAILED) { perror(argv[10]); return 1; }
    is_open = !strcmp(argv[3], "open");
    double amount = atof(argv[4]), warm = atof(argv[5]), seconds = atof(argv[6]), grace = atof(argv[9]);
    words_due = atoi(argv[7]);
    stream = !strcmp(argv[8], "stream");
    latency = malloc(MOST_SAMPLES * sizeof *latency);
    first_token = malloc(MOST_SAMPLES * sizeof *first_token);
    poller = epoll_create1(0);
    int timer = -1;
    t0 = now() + 0.01;
    begin_at = t0 + warm;
    end_at = begin_at + seconds;
    long tick = 0;
    if (is_open) {
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        struct itimerspec when = {0};
        when.it_value.tv_sec = (time_t)t0;
        when.it_value.tv_nsec = (t0 - (time_t)t0) * 1e9;
        when.it_interval.tv_sec = (time_t)(1 / amount);
        when.it_interval.tv_nsec = (1 / amount - (time_t)(1 / amount)) * 1e9;
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);
    } else {
        if (amount < 1 || amount > MOST_CONNS) { fprintf(stderr, "error: 1 to %d connections\n", MOST_CONNS); return 2; }
        opened = amount;
        for (int i = 0; i < opened; i++) { open_conn(&conns[i]); ask(&conns[i], now()); }
    }
    int said_begin = 0, said_end = 0;
    static char buffer[1 << 18];
    struct epoll_event got[256];
    for (;;) {
        double t = now();
        if (!said_begin && t >= begin_at) { printf("begin\n"); fflush(stdout); said_begin = 1; }
        if (!said_end && t >= end_at) { printf("end\n"); fflush(stdout); said_end = 1; }
        if (t >= end_at && (!inflight || t >= end_at + grace)) break;
        if (errors > MOST_ERRORS) break;
        double until = !said_begin ? begin_at : !said_end ? end_at : end_at + grace;
        int wait = (until - t) * 1e3 + 1;
        int n = epoll_wait(poller, got, 256, wait < 0 ? 0 : wait);
        for (int k = 0; k < n; k++) {
            Conn *c = got[k].data.ptr;
            if (!c) {
                unsigned long long ticks = 0;
                if (read(timer, &ticks, sizeof ticks) < 0) ticks = 0;
                while (ticks--) {
                    double due = t0 + tick++ / amount;
                    if (due >= end_at) continue;
                    if (due >= begin_at) asked_in_window++;
                    Conn *free_one = NULL;
                    if (idles) free_one = &conns[idle[--idles]];
                    else if (opened < MOST_CONNS) { free_one = &conns[opened++]; open_conn(free_one); }
                    if (free_one) ask(free_one, due); /* else it stays unanswered, and shows as such */
                }
                continue;
            }
            if (got[k].events & EPOLLOUT) put(c);
            if (!(got[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            int was_busy = c->busy;
            ssize_t size = recv(c->fd, buffer, sizeof buffer, 0);
            if (size < 0 && errno == EAGAIN) continue;
            if (size <= 0) {
                if (!c->busy) { reopen(c); continue; } /* an idle one was closed */
                if (c->state == TO_END && size == 0) finish(c, NULL);
                else if (c->state == HEAD && !c->head && c->used) { /* closed as we asked: again, on a new one */
                    reconnects++;
                    reopen(c);
                    ask(c, c->asked);
                    continue;
                } else finish(c, "closed in the middle");
            } else if (c->busy) take(c, buffer, size);
            if (was_busy && !c->busy) {
                double t1 = now();
                if (is_open) idle[idles++] = c - conns;
                else if (t1 < end_at) ask(c, t1);
            }
        }
    }
    if (!said_begin) printf("begin\n");
    if (!said_end) printf("end\n");
    double length = now() >= end_at ? seconds : now() > begin_at ? now() - begin_at : 0;
    printf("{\"requests\":%ld,\"total\":%ld,\"errors\":%ld,\"unfinished\":%d,\"asked\":%ld,\"reconnects\":%ld,\"seconds\":%.4f,\"words\":%ld",
        in_window, total, errors, inflight, asked_in_window, reconnects, length, words_in_window);
    raw("latency_us", latency, latencies);
    raw("first_us", first_token, firsts);
    qsort(latency, latencies, sizeof *latency, up);
    qsort(first_token, firsts, sizeof *first_token, up);
    printf(",\"p50_us\":%.1f,\"p99_us\":%.1f,\"first_p50_us\":%.1f,\"first_p99_us\":%.1f,\"error\":\"", at(latency, latencies, 0.5),
        at(latency, latencies, 0.99), at(first_token, firsts, 0.5), at(first_token, firsts, 0.99));
    for (char *p = first_error; *p; p++)
        if (*p == '"' || *p == '\\') printf("\\%c", *p);
        else if ((unsigned char)*p >= 32 && (unsigned char)*p < 127) putchar(*p);
        else putchar(' ');
    printf("\"}\n");
    return 0;
}
