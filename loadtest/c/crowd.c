// A crowd of WebSocket clients of holdfast.v1 in one thread, cheap enough not to be what is measured.
//
//   crowd PORT CLIENTS [CHANNEL] [SOURCE] [WINDOW] [centrifugo]
//
// CLIENTS has a line for each connection: its token, and after tabs, all optional: the channel it sends to, how many
// of all crowds get what is sent there, and a channel to subscribe to. CHANNEL ("-" for none) is subscribed to by
// those whose line names none. Connections leave from 127.0.SOURCE.x (default 0), 15,000 from each address. WINDOW
// connections (default 64) are on their way in at a time. With `centrifugo` they speak that server's JSON protocol
// (https://centrifugal.dev/docs/transports/client_protocol), and do not resume. Loopback only.
//
// Commands on standard input, one answer line of "name number" pairs for each:
//   open N        open connections, or open them again, until N are                  -> opened .. failed .. seconds ..
//   drop N        cut N open connections, without a word
//   leave         close all open connections as a program that ends does: no reset
//   again         let `open` try those that failed or were closed by the server
//   port P        where `open` connects to from now on
//   load R SIZE   send R messages of SIZE bytes of data a second from now on, each from another connection
//   flight K SIZE keep K messages on their way: send another one when one came (all of this crowd's own)
//   stall N       read nothing on the first N open connections;  `stall 0`: read again
//   run S         serve for S seconds
//   wait M S      serve until M messages came in all, or for S seconds                -> wait .. seconds ..
//   count         the counters
//   reset         set them to 0
//   times WHAT    counts by bucket of how long `connect`, `ack` or `message` took     -> times b:c b:c ..
//   quit
//
// Every message must follow the one before it in its channel, over reconnects too (which resume): others are `gaps`
// or `doubles`. Sends have their times before they are made, and how long something took counts from there: a server
// that is slow does not slow the load down, nor hide how long it was. The process ends after an hour.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
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

enum state { CLOSED, CONNECTING, UPGRADING, AUTHENTICATING, SUBSCRIBING, OPEN, FAILED };
enum { PER_ADDRESS = 15000, SUB_BITS = 6, BUCKETS = 64 << SUB_BITS, LARGEST = 16384 };
enum { ID_MASK = 0x7fffffff };  // Centrifugo's ids have 32 bits: µs modulo 36 minutes

typedef struct {  // where a connection stands in a channel
    char *name, *epoch;
    long seq;
} place;

typedef struct {
    int fd;
    unsigned char state, place_count, stalled;
    unsigned partial_size;
    char *partial;  // an incomplete frame, only while there is one
    place *places;
    long n, begun;  // its own count of sends; when it began to connect, µs
} connection;

typedef struct {
    char *token, *to, *channel;
    int audience;
} client;

static connection *crowd;
static client *clients;
static int limit, ready, failed, coming, epoll_fd, port, source, window = 64, scan, sender, centrifugo;
static long messages, gaps, doubles, pings, bytes, sent, acked, errors, expected, resets, recovered, unrecovered;
static double rate;
static long next_send;
static int send_size, flight;
static long on_way;
static char filler[8192];
static long times[3][BUCKETS];
enum { CONNECT, ACK, MESSAGE };
static char input[1 << 20];

static long now(void) {  // µs
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void took(int what, long since) {  // exact to 1/64: the octave, then 64 parts of it
    unsigned long value = now() - since;
    if ((long)value < 0) value = 0;
    int octave = value >> SUB_BITS ? 64 - __builtin_clzl(value) - SUB_BITS : 0;
    long bucket = ((long)octave << SUB_BITS) + (octave ? (value >> (octave - 1)) - (1 << SUB_BITS) : value);
    times[what][bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

static void let_go(connection *c, enum state state) {
    if (c->state == OPEN) ready--;
    else if (c->state != CLOSED && c->state != FAILED) coming--;
    c->state = state;
    close(c->fd);
    free(c->partial);
    c->partial = NULL;
    c->partial_size = 0;
}

static void fail(connection *c, const char *why) {
    if (failed++ < 5) fprintf(stderr, "connection %ld failed in state %d: %s\n", (long)(c - crowd), c->state, why);
    let_go(c, FAILED);
}

static void send_frame(connection *c, const char *text, size_t size) {  // masked with a mask of zeros
    char frame[LARGEST + 8];
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

static void start_one(connection *c) {
    int one = 1, number = c - crowd;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { perror("socket"); exit(3); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct linger hard = {1, 0};  // no TIME_WAIT: the next run needs the ports
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    from.sin_addr.s_addr = htonl(0x7f000002u + ((unsigned)source << 8) + number / PER_ADDRESS);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    if (bind(c->fd, (void *)&from, sizeof from)) { perror("bind"); exit(3); }
    if (connect(c->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) { perror("connect"); exit(3); }
    c->state = CONNECTING;
    c->begun = now();
    c->stalled = 0;
    coming++;
    struct epoll_event event = {EPOLLOUT, {.ptr = c}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

static place *place_of(connection *c, const char *name, size_t size) {
    for (int i = 0; i < c->place_count; i++)
        if (!strncmp(c->places[i].name, name, size) && !c->places[i].name[size]) return &c->places[i];
    return NULL;
}

static int put_place(connection *c, const char *name, size_t size, const char *epoch, long seq) {
    place *p = place_of(c, name, size);
    if (!p) {
        if (c->place_count == 255) return 0;
        c->places = realloc(c->places, (c->place_count + 1) * sizeof *c->places);
        p = &c->places[c->place_count++];
        *p = (place){strndup(name, size), NULL, 0};
    }
    free(p->epoch);
    p->epoch = strndup(epoch, strcspn(epoch, "\""));
    p->seq = seq;
    return 1;
}

// Note where a channel goes on, from text that begins after `"channel":"` or a key: NAME" .. "epoch":"E","seq":N
static char *placed(connection *c, char *name) {
    char *end = strchr(name, '"');
    char *epoch = end ? strstr(end, "\"epoch\":\"") : NULL;
    char *seq = epoch ? strstr(epoch, "\"seq\":") : NULL;
    return seq && put_place(c, name, end - name, epoch + 9, atol(seq + 6)) ? seq : NULL;
}

static void on_connected(connection *c, char *text) {
    char *at = strstr(text, "\"channels\":{");
    at = at ? at + 12 : text + strlen(text);
    while (*at == '"') {
        int known = c->place_count && place_of(c, at + 1, strcspn(at + 1, "\"")) != NULL;
        at = placed(c, at + 1);
        if (!at) break;
        char *last = strstr(at, "\"recovered\":");
        if (known) last && !strncmp(last + 12, "true", 4) ? recovered++ : unrecovered++;
        at = strchr(at, '}');
        if (!at) break;
        at += at[1] == ',' ? 2 : 1;
    }
}

static void opened(connection *c) {
    c->state = OPEN;
    coming--;
    ready++;
    took(CONNECT, c->begun);
}

static void on_message(connection *c, char *text, size_t size) {
    char *name = strstr(text, "\"channel\":\""), *seq = strstr(text, centrifugo ? "\"offset\":" : "\"seq\":");
    messages++;
    on_way--;
    bytes += size;
    if (!name || !seq) { gaps++; return; }
    name += 11;
    long value = atol(strchr(seq, ':') + 1);
    place *p = place_of(c, name, strcspn(name, "\""));
    if (!p) { gaps++; return; }  // nobody said where it begins
    if (value > p->seq + 1 && p->seq >= 0) gaps++;
    if (value <= p->seq) doubles++;
    char *epoch = *p->epoch ? NULL : strstr(seq, "\"epoch\":\"");
    if (epoch) {  // the channel's first message: its epoch begins with it
        free(p->epoch);
        p->epoch = strndup(epoch + 9, strcspn(epoch + 9, "\""));
    }
    p->seq = value;
    char *at = strstr(name, "\"at\":");
    if (at) took(MESSAGE, atol(at + 5));
}

static void subscribe(connection *c) {  // to the channel that it does not have yet, if there is one
    char text[LARGEST];
    const char *channel = clients[c - crowd].channel;
    if (!channel || place_of(c, channel, strlen(channel))) { opened(c); return; }
    c->state = SUBSCRIBING;
    send_frame(c, text, snprintf(text, sizeof text, centrifugo ? "{\"id\":2,\"subscribe\":{\"channel\":\"%s\"}}"
        : "{\"t\":\"subscribe\",\"id\":1,\"channel\":\"%s\"}", channel));
}

static void failed_with(connection *c, const char *text) {
    if (c->state != OPEN) fail(c, text);
    else if (errors++ < 5) fprintf(stderr, "connection %ld: %s\n", (long)(c - crowd), text);
}

static void put_position(connection *c, const char *name, size_t size, const char *reply) {
    char *epoch = strstr(reply, "\"epoch\":\""), *offset = strstr(reply, "\"offset\":");  // left out where it is 0
    put_place(c, name, size, epoch ? epoch + 9 : "", offset ? atol(offset + 9) : 0);
}

static void on_reply(connection *c, char *text, size_t size) {  // Centrifugo's, or one of its pushes
    if (!strncmp(text, "{\"push\":{\"channel\"", 18)) {
        on_message(c, text, size);
    } else if (size == 2) {
        pings++;
        send_frame(c, "{}", 2);
    } else if (strstr(text, "\"error\":{")) {
        failed_with(c, text);
    } else if (c->state == AUTHENTICATING) {
        char *subs = strstr(text, "\"subs\":{\"");
        if (subs) put_position(c, subs + 9, strcspn(subs + 9, "\""), subs);
        subscribe(c);
    } else if (c->state == SUBSCRIBING) {
        const char *channel = clients[c - crowd].channel;
        put_position(c, channel, strlen(channel), text);
        opened(c);
    } else if (!strncmp(text, "{\"id\":", 6)) {
        long since = now();
        acked++;
        took(ACK, since - ((since - atol(text + 6)) & ID_MASK));
    }
}

static void on_text(connection *c, char *text, size_t size) {  // one JSON frame
    text[size] = 0;  // room for it: see on_bytes
    if (centrifugo) {
        on_reply(c, text, size);
    } else if (!strncmp(text, "{\"t\":\"message\"", 14)) {
        on_message(c, text, size);
    } else if (!strncmp(text, "{\"t\":\"ack\"", 10)) {
        char *id = strstr(text, "\"id\":");
        acked++;
        if (id) took(ACK, atol(id + 5));
    } else if (!strncmp(text, "{\"t\":\"ping\"", 11)) {
        pings++;
        send_frame(c, "{\"t\":\"pong\"}", 12);
    } else if (c->state == AUTHENTICATING && !strncmp(text, "{\"t\":\"connected\"", 16)) {
        on_connected(c, text);
        subscribe(c);
    } else if (!strncmp(text, "{\"t\":\"subscribed\"", 17)) {
        char *name = strstr(text, "\"channel\":\"");
        if (name) placed(c, name + 11);
        if (c->state == SUBSCRIBING) opened(c);
    } else if (!strncmp(text, "{\"t\":\"reset\"", 12)) {
        char *name = strstr(text, "\"channel\":\"");
        if (name) placed(c, name + 11);
        resets++;
    } else if (!strncmp(text, "{\"t\":\"error\"", 12)) {
        failed_with(c, text);
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
        else if ((data[0] & 15) == 8) {
            char why[160];
            int code = length >= 2 ? (unsigned char)data[head] << 8 | (unsigned char)data[head + 1] : 0;
            snprintf(why, sizeof why, "closed by the server: %d %.*s", code, length > 2 ? (int)length - 2 : 0, data + head + 2);
            fail(c, why);
            return;
        }
        data[head + length] = kept;
        data += head + length;
        size -= head + length;
    }
    if (c->state == FAILED || !size) return;
    c->partial = malloc(size);
    memcpy(c->partial, data, size);
    c->partial_size = size;
}

static void send_connect(connection *c) {
    char text[LARGEST];
    const client *who = &clients[c - crowd];
    if (centrifugo) {
        send_frame(c, text, snprintf(text, sizeof text, "{\"id\":1,\"connect\":{\"token\":\"%s\"}}", who->token));
        return;
    }
    int size = snprintf(text, sizeof text, "{\"t\":\"connect\",\"token\":\"%s\",\"device\":\"bench\"", who->token);
    if (who->to) size += snprintf(text + size, sizeof text - size, ",\"client\":\"crowd\"");
    for (int i = 0; i < c->place_count && size < LARGEST / 2; i++)
        size += snprintf(text + size, sizeof text - size, "%s\"%s\":{\"epoch\":\"%s\",\"seq\":%ld}",
            i ? "," : ",\"resume\":{", c->places[i].name, c->places[i].epoch, c->places[i].seq);
    size += snprintf(text + size, sizeof text - size, c->place_count ? "}}" : "}");
    send_frame(c, text, size);
}

static void on_event(connection *c) {
    if (c->state == CONNECTING) {
        char request[512];
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) { fail(c, strerror(error)); return; }
        int size = snprintf(request, sizeof request,
            "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            centrifugo ? "/connection/websocket" : "/ws", port);
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
    c->state = AUTHENTICATING;
    send_connect(c);
    end += 4;
    if (c->state != FAILED && end < input + size) on_frames(c, end, input + size - end);
}

static void send_one(long at) {
    for (int tries = 0; tries < limit; tries++) {
        int number = sender;
        connection *c = &crowd[number];
        sender = (sender + 1) % limit;
        if (c->state != OPEN || c->stalled || !clients[number].to) continue;
        char text[LARGEST];
        int size = centrifugo
            ? snprintf(text, sizeof text, "{\"id\":%ld,\"publish\":{\"channel\":\"%s\",\"data\":{\"at\":%ld,\"text\":\"%.*s\"}}}",
                at & ID_MASK, clients[number].to, at, send_size, filler)
            : snprintf(text, sizeof text,
                "{\"t\":\"send\",\"id\":%ld,\"n\":%ld,\"to\":\"%s\",\"type\":\"text\",\"data\":{\"at\":%ld,\"text\":\"%.*s\"}}",
                at, ++c->n, clients[number].to, at, send_size, filler);
        sent++;
        expected += clients[number].audience;
        on_way += clients[number].audience;
        send_frame(c, text, size);
        return;
    }
}

static void pump(int milliseconds) {
    static struct epoll_event events[1024];
    long most = milliseconds * 1000L;  // µs: sends are due to the µs
    if (flight) {
        long at = now();
        for (int burst = 0; on_way < flight && burst < 256; burst++) send_one(at);
        if (on_way < flight) most = 0;
    } else if (rate > 0) {
        for (int burst = 0; next_send <= now() && burst < 256; burst++) {
            send_one(next_send);
            next_send += (long)(-log(1 - drand48()) / rate * 1e6);  // as independent people would
        }
        long left = next_send - now();
        if (left < most) most = left > 0 ? left : 0;
    }
    struct timespec limit = {most / 1000000, most % 1000000 * 1000};
    int count = epoll_pwait2(epoll_fd, events, 1024, &limit, NULL);
    for (int i = 0; i < count; i++) {
        connection *c = events[i].data.ptr;
        if (c->state != FAILED && c->state != CLOSED) on_event(c);
    }
}

static void stall(int count) {
    for (int i = 0; i < limit; i++) {
        connection *c = &crowd[i];
        if (c->state != OPEN || c->stalled == (count > 0)) continue;
        if (count < 0) break;
        struct epoll_event event = {count ? 0 : EPOLLIN, {.ptr = c}};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
        c->stalled = count > 0;
        if (count && !--count) break;
    }
}

static void say_times(const char *what) {
    int which = !strcmp(what, "connect") ? CONNECT : !strcmp(what, "ack") ? ACK : MESSAGE;
    printf("times");
    for (int i = 0; i < BUCKETS; i++)
        if (times[which][i]) printf(" %d:%ld", i, times[which][i]);
    printf("\n");
}

static void say_count(void) {
    printf("count messages %ld gaps %ld doubles %ld pings %ld failed %d bytes %ld open %d sent %ld acked %ld errors %ld "
        "expected %ld resets %ld recovered %ld unrecovered %ld\n", messages, gaps, doubles, pings, failed, bytes, ready,
        sent, acked, errors, expected, resets, recovered, unrecovered);
}

static void command(const char *line) {
    long begin = now(), target;
    double seconds;
    char word[32];
    if (sscanf(line, "open %ld", &target) == 1) {
        if (target > limit) target = limit;
        int before = failed;
        for (scan = 0; ready + (failed - before) < target && now() - begin < 120000000L;) {
            while (scan < limit && ready + coming < target && coming < window) {
                if (crowd[scan].state == CLOSED) start_one(&crowd[scan]);
                scan++;
            }
            if (scan >= limit && !coming) break;
            pump(50);
        }
        printf("open opened %d failed %d seconds %.6f\n", ready, failed - before, (now() - begin) * 1e-6);
    } else if (sscanf(line, "drop %ld", &target) == 1) {
        for (int i = 0; i < limit && target > 0; i++)
            if (crowd[i].state == OPEN) { let_go(&crowd[i], CLOSED); target--; }
        say_count();
    } else if (!strcmp(line, "leave")) {
        struct linger soft = {0, 0};
        for (int i = 0; i < limit; i++)
            if (crowd[i].state == OPEN) setsockopt(crowd[i].fd, SOL_SOCKET, SO_LINGER, &soft, sizeof soft);
        pump(5);  // what came meanwhile is read: a socket that is closed with something unread is reset
        for (int i = 0; i < limit; i++)
            if (crowd[i].state == OPEN) let_go(&crowd[i], CLOSED);
        say_count();
    } else if (!strcmp(line, "again")) {
        for (int i = 0; i < limit; i++)
            if (crowd[i].state == FAILED) { crowd[i].state = CLOSED; failed--; }
        say_count();
    } else if (sscanf(line, "port %ld", &target) == 1) {
        port = target;
        say_count();
    } else if (sscanf(line, "load %lf %ld", &seconds, &target) == 2) {
        rate = seconds;
        flight = 0;
        send_size = target < 8000 ? target : 8000;
        next_send = begin;
        say_count();
    } else if (sscanf(line, "flight %d %ld", &flight, &target) == 2) {
        send_size = target < 8000 ? target : 8000;
        on_way = 0;
        say_count();
    } else if (sscanf(line, "stall %ld", &target) == 1) {
        stall(target);
        say_count();
    } else if (sscanf(line, "run %lf", &seconds) == 1) {
        while (now() - begin < seconds * 1e6) pump(10);
        say_count();
    } else if (sscanf(line, "wait %ld %lf", &target, &seconds) == 2) {
        while (messages < target && now() - begin < seconds * 1e6) pump(50);
        printf("wait %ld seconds %.6f\n", messages, (now() - begin) * 1e-6);
    } else if (!strcmp(line, "count")) {
        say_count();
    } else if (!strcmp(line, "reset")) {
        messages = gaps = doubles = bytes = sent = acked = errors = expected = resets = recovered = unrecovered = 0;
        memset(times, 0, sizeof times);
        printf("reset\n");
    } else if (sscanf(line, "times %31s", word) == 1) {
        say_times(word);
    } else {
        printf("unknown command: %s\n", line);
    }
}

static char *column(char **rest) {
    char *text = strsep(rest, "\t");
    return text && *text && strcmp(text, "-") ? strdup(text) : NULL;
}

static void read_clients(const char *path, const char *channel) {
    FILE *file = fopen(path, "r");
    if (!file) { perror(path); exit(2); }
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    int space = 0;
    while ((size = getline(&line, &room, file)) > 0) {
        while (size && (line[size - 1] == '\n' || line[size - 1] == '\r')) line[--size] = 0;
        if (size > LARGEST / 4) { fprintf(stderr, "line %d is too long\n", limit); exit(2); }
        if (limit == space) clients = realloc(clients, (space = space ? 2 * space : 1024) * sizeof *clients);
        char *rest = line;
        client *c = &clients[limit++];
        c->token = column(&rest);
        c->to = column(&rest);
        char *audience = column(&rest);
        c->audience = audience ? atoi(audience) : 0;
        c->channel = column(&rest);
        if (!c->channel && channel) c->channel = (char *)channel;
    }
    fclose(file);
}

int main(int count, char **arguments) {
    if (count < 3) { fprintf(stderr, "usage: crowd PORT CLIENTS [CHANNEL|-] [SOURCE] [WINDOW] [centrifugo]\n"); return 2; }
    port = atoi(arguments[1]);
    read_clients(arguments[2], count > 3 && strcmp(arguments[3], "-") ? arguments[3] : NULL);
    if (count > 4) source = atoi(arguments[4]);
    if (count > 5) window = atoi(arguments[5]);
    centrifugo = count > 6 && !strcmp(arguments[6], "centrifugo");
    srand48(source);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    memset(filler, 'x', sizeof filler);
    crowd = calloc(limit + 1, sizeof *crowd);
    epoll_fd = epoll_create1(0);
    fcntl(0, F_SETFL, O_NONBLOCK);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char line[256];
    size_t length = 0;
    long end = now() + 3600L * 1000000;
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
