// A crowd of WebSocket clients of holdfast.v1 in one thread, cheap enough not to be what is measured.
//
//   crowd PORT TOKENS [CHANNEL] [SOURCE] [WINDOW]
//
// TOKENS is a file with one JWT a line: connection i uses line i. With CHANNEL ("-" for none) each connection
// subscribes to it. Connections leave from 127.0.SOURCE.x (default 0), 15,000 from each address. WINDOW
// connections (default 64) are on their way in at a time. Loopback only.
// Commands on standard input, one answer line for each:
//   open N     open connections until N are connected      -> open N failed F seconds S
//   wait M S   until M messages came in all, or S seconds  -> wait M seconds S
//   count      -> count messages M gaps G pings P failed F bytes B    (B: of their frames' payloads)
//   reset      forget the counted messages                 -> reset
//   quit
// Every `message` frame's seq must follow the one before on its connection; others are counted as gaps.
// Pings are answered. The process ends by itself after 15 minutes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { CONNECTING, UPGRADING, AUTHENTICATING, SUBSCRIBING, OPEN, FAILED };
enum { PER_ADDRESS = 15000 };

typedef struct {
    int fd;
    enum state state;
    unsigned partial_size;
    char *partial;  // an incomplete frame, only while there is one
    long seq;
} connection;

static connection *crowd;
static int limit, started, ready, failed, epoll_fd, port, source, window = 64;
static long messages, gaps, pings, bytes;
static const char *channel;
static char **tokens;
static char input[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(connection *c, const char *why) {
    if (failed++ < 5) fprintf(stderr, "connection %ld failed in state %d: %s\n", (long)(c - crowd), c->state, why);
    c->state = FAILED;
    close(c->fd);
    free(c->partial);
    c->partial = NULL;
}

static void send_frame(connection *c, const char *text, size_t size) {  // masked with a mask of zeros
    char frame[16384 + 8];
    size_t head = 0;
    frame[head++] = (char)0x81;
    if (size < 126) {
        frame[head++] = (char)(0x80 | size);
    } else {
        frame[head++] = (char)(0x80 | 126);
        frame[head++] = (char)(size >> 8);
        frame[head++] = (char)size;
    }
    memset(frame + head, 0, 4);
    memcpy(frame + head + 4, text, size);
    if (send(c->fd, frame, head + 4 + size, MSG_NOSIGNAL) != (ssize_t)(head + 4 + size)) fail(c, "short send");
}

static void start_one(void) {
    connection *c = &crowd[started];
    int one = 1;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { perror("socket"); exit(3); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct linger hard = {1, 0};  // no TIME_WAIT: the next run needs the ports
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    from.sin_addr.s_addr = htonl(0x7f000002u + ((unsigned)source << 8) + started / PER_ADDRESS);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    if (bind(c->fd, (void *)&from, sizeof from)) { perror("bind"); exit(3); }
    if (connect(c->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) { perror("connect"); exit(3); }
    c->state = CONNECTING;
    started++;
    struct epoll_event event = {EPOLLOUT, {.ptr = c}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

static void on_text(connection *c, char *text, size_t size) {  // one JSON frame
    char reply[16384];
    text[size] = 0;  // room for it: see on_bytes
    if (!strncmp(text, "{\"t\":\"message\"", 14)) {
        char *seq = strstr(text, "\"seq\":");
        long value = seq ? atol(seq + 6) : -1;
        if (c->seq && value != c->seq + 1) gaps++;
        c->seq = value;
        messages++;
        bytes += size;
    } else if (!strncmp(text, "{\"t\":\"ping\"", 11)) {
        pings++;
        send_frame(c, "{\"t\":\"pong\"}", 12);
    } else if (c->state == AUTHENTICATING && !strncmp(text, "{\"t\":\"connected\"", 16)) {
        if (channel) {
            c->state = SUBSCRIBING;
            send_frame(c, reply, snprintf(reply, sizeof reply, "{\"t\":\"subscribe\",\"id\":1,\"channel\":\"%s\"}", channel));
        } else {
            c->state = OPEN;
            ready++;
        }
    } else if (c->state == SUBSCRIBING && !strncmp(text, "{\"t\":\"subscribed\"", 17)) {
        c->state = OPEN;
        ready++;
    } else if (!strncmp(text, "{\"t\":\"error\"", 12)) {
        if (c->state != OPEN) fail(c, text);
    }
}

static void on_payload(connection *c, char *payload, size_t size) {
    while (size && c->state != FAILED) {
        char *end = memchr(payload, '\n', size);
        size_t length = end ? (size_t)(end - payload) : size;
        char kept = payload[length];
        on_text(c, payload, length);
        payload[length] = kept;
        length += end != NULL;
        payload += length;
        size -= length;
    }
}

static void on_frames(connection *c, char *data, size_t size) {  // data has one byte of room after it
    while (size >= 2 && c->state != FAILED) {
        size_t length = data[1] & 127, head = 2;
        if (length == 126) {
            if (size < 4) break;
            length = (unsigned char)data[2] << 8 | (unsigned char)data[3];
            head = 4;
        } else if (length == 127) {
            fail(c, "a frame too large for this program");
            return;
        }
        if (size < head + length) break;
        char kept = data[head + length];
        if ((data[0] & 15) == 1) on_payload(c, data + head, length);
        else if ((data[0] & 15) == 8) { fail(c, "closed by the server"); return; }
        data[head + length] = kept;
        data += head + length;
        size -= head + length;
    }
    if (c->state == FAILED || !size) return;
    c->partial = malloc(size);
    memcpy(c->partial, data, size);
    c->partial_size = size;
}

static void on_event(connection *c) {
    if (c->state == CONNECTING) {
        char request[512];
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) { fail(c, strerror(error)); return; }
        int size = snprintf(request, sizeof request,
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n", port);
        if (send(c->fd, request, size, MSG_NOSIGNAL) != size) { fail(c, "request"); return; }
        c->state = UPGRADING;
        struct epoll_event event = {EPOLLIN, {.ptr = c}};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
        return;
    }
    size_t kept = c->partial_size;
    if (kept) {
        memcpy(input, c->partial, kept);
        free(c->partial);
        c->partial = NULL;
        c->partial_size = 0;
    }
    ssize_t got = recv(c->fd, input + kept, sizeof input - kept - 1, 0);
    if (got < 0 && errno == EAGAIN) got = 0;
    else if (got <= 0) { fail(c, got ? strerror(errno) : "end of file"); return; }
    size_t size = kept + got;
    if (c->state != UPGRADING) { on_frames(c, input, size); return; }
    char *end = memmem(input, size, "\r\n\r\n", 4);
    if (!end) {
        c->partial = malloc(size);
        memcpy(c->partial, input, size);
        c->partial_size = size;
        return;
    }
    if (size < 12 || memcmp(input + 9, "101", 3)) { input[size] = 0; fail(c, input); return; }
    char connect_frame[16384];
    c->state = AUTHENTICATING;
    send_frame(c, connect_frame, snprintf(connect_frame, sizeof connect_frame,
        "{\"t\":\"connect\",\"token\":\"%s\",\"device\":\"bench\"}", tokens[c - crowd]));
    end += 4;
    if (c->state != FAILED && end < input + size) on_frames(c, end, input + size - end);
}

static void pump(int milliseconds) {
    static struct epoll_event events[1024];
    int count = epoll_wait(epoll_fd, events, 1024, milliseconds);
    for (int i = 0; i < count; i++) {
        connection *c = events[i].data.ptr;
        if (c->state != FAILED) on_event(c);
    }
}

static void command(const char *line) {
    double begin = now();
    long target;
    double seconds;
    if (sscanf(line, "open %ld", &target) == 1) {
        if (target > limit) target = limit;
        while (ready + failed < target && now() - begin < 120) {
            while (started < target && started - ready - failed < window) start_one();
            pump(50);
        }
        printf("open %d failed %d seconds %.6f\n", ready, failed, now() - begin);
    } else if (sscanf(line, "wait %ld %lf", &target, &seconds) == 2) {
        while (messages < target && now() - begin < seconds) pump(50);
        printf("wait %ld seconds %.6f\n", messages, now() - begin);
    } else if (!strcmp(line, "count")) {
        printf("count messages %ld gaps %ld pings %ld failed %d bytes %ld\n", messages, gaps, pings, failed, bytes);
    } else if (!strcmp(line, "reset")) {
        messages = gaps = bytes = 0;
        printf("reset\n");
    } else {
        printf("unknown command: %s\n", line);
    }
}

static void read_tokens(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) { perror(path); exit(2); }
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    int space = 0;
    while ((size = getline(&line, &room, file)) > 0) {
        while (size && (line[size - 1] == '\n' || line[size - 1] == '\r')) line[--size] = 0;
        if (size > 8000) { fprintf(stderr, "token %d is too long\n", limit); exit(2); }
        if (limit == space) tokens = realloc(tokens, (space = space ? 2 * space : 1024) * sizeof *tokens);
        tokens[limit++] = strdup(line);
    }
    fclose(file);
}

int main(int count, char **arguments) {
    if (count < 3) { fprintf(stderr, "usage: crowd PORT TOKENS [CHANNEL|-] [SOURCE] [WINDOW]\n"); return 2; }
    port = atoi(arguments[1]);
    read_tokens(arguments[2]);
    if (count > 3 && strcmp(arguments[3], "-")) channel = arguments[3];
    if (count > 4) source = atoi(arguments[4]);
    if (count > 5) window = atoi(arguments[5]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    crowd = calloc(limit + 1, sizeof *crowd);
    epoll_fd = epoll_create1(0);
    fcntl(0, F_SETFL, O_NONBLOCK);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char line[256];
    size_t length = 0;
    double end = now() + 900;
    while (now() < end) {
        char byte;
        ssize_t got = read(0, &byte, 1);
        if (got == 0) break;
        if (got < 0) { pump(5); continue; }
        if (byte != '\n') { if (length < sizeof line - 1) line[length++] = byte; continue; }
        line[length] = 0;
        length = 0;
        if (!strcmp(line, "quit")) break;
        command(line);
    }
    return 0;
}
