// The floor of what a message costs on this kernel: the same bytes to the same number of sockets, from a C loop.
//
//   floor PORT send|uring [BATCH]
//
// Plays just enough of a server that `crowd` connects, subscribes and sends to it: a token is the name of a user, who
// has an inbox; what is sent to one is acked and passed on at once, by a send() each. Nothing is kept. Says
// `listening` when it does. One command a line on standard input, one answer line for each; between commands it
// serves its clients:
//   fan SIZE K        one after the other, send K `message` frames of SIZE bytes to every subscriber
//                     -> fan clients N short S       (S: sends that did not take the whole frame)
//   publish N SIZE    send a message of SIZE bytes of data to each of the next N users in turn, who must be there
//   count             -> count users N acked N messages N dropped N short S       (dropped: to nobody who is there)
//   quit
// Whoever measures reads the CPU time of this process before and after. Loopback only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <liburing.h>
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

#define EPOCH "0123456789ab.12345"  // as long as ours

enum { MOST = 100000, LARGEST = 65000, SLOTS = 1 << 17, NAME = 64, ROOM = 1024 };

typedef struct {
    char name[NAME];
    int fd;  // -1 while away
    long seq;
} user;

typedef struct {  // what is known of a descriptor
    user *who;
    char *partial;  // an incomplete frame, only while there is one
    int partial_size, upgraded, subscribed;
} connection;

static user slots[SLOTS], *users[MOST];  // by the hash of their names; as they came
static connection connections[MOST];     // by descriptor
static int clients[MOST], count, user_count, turn, listener, epoll_fd;
static char frame[LARGEST + 4], input[2 * LARGEST];
static struct io_uring ring;
static long seq, ids, acked, messages, dropped, short_sends;

// Send a frame with the text that begins at out + 4: there is room for the head before it.
static void put(int fd, char *out, int size) {
    char *head = out + 4 - (size < 126 ? 2 : 4);
    head[0] = (char)0x81;
    if (size < 126) head[1] = (char)size;
    else { head[1] = 126; head[2] = (char)(size >> 8); head[3] = (char)size; }
    size += out + 4 - head;
    if (send(fd, head, size, MSG_NOSIGNAL | MSG_DONTWAIT) != size) short_sends++;
}

// The user of that name: NULL if there is none, or with `add` no room for one more.
static user *user_of(const char *name, size_t size, int add) {
    if (size >= NAME) return NULL;
    unsigned hash = 2166136261u;  // FNV-1a
    for (size_t i = 0; i < size; i++) hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    user *found = &slots[hash % SLOTS];
    while (*found->name && (memcmp(found->name, name, size) || found->name[size]))
        if (++found == slots + SLOTS) found = slots;
    if (*found->name) return found;
    if (!add || !size || user_count == MOST) return NULL;
    memcpy(found->name, name, size);
    return users[user_count++] = found;
}

static void hang_up(int fd) {
    connection *c = &connections[fd];
    if (c->who && c->who->fd == fd) c->who->fd = -1;
    free(c->partial);
    for (int i = 0; c->subscribed && i < count; i++)
        if (clients[i] == fd) clients[i--] = clients[--count];
    *c = (connection){0};
    close(fd);
}

// Send a message to a user's inbox; `rest` are its members from `type` on, and its end. From NULL: by nobody.
static void message(user *to, const user *from, const char *rest, int size) {
    static char out[LARGEST + 2 * ROOM];
    struct timespec now;
    if (!to || to->fd < 0) { dropped++; return; }
    clock_gettime(CLOCK_REALTIME, &now);
    char *text = out + 4;
    int head = snprintf(text, ROOM,
        "{\"t\":\"message\",\"channel\":\"user:%s\",\"seq\":%ld,\"epoch\":\"" EPOCH "\",\"ts\":%ld,\"id\":\"%016lx",
        to->name, ++to->seq, now.tv_sec * 1000 + now.tv_nsec / 1000000, ids);
    head += snprintf(text + head, ROOM - head, from ? "-0\",\"from\":\"%s\"," : "\",\"from\":null,", from ? from->name : "");
    memcpy(text + head, rest, size);
    size += head;
    if (from) size += snprintf(text + size - 1, ROOM, ",\"cause\":\"%016lx\"}", ids) - 1;
    put(to->fd, out, size);
    messages++;
}

static void on_text(int fd, char *text, int size) {  // one JSON frame as `crowd` writes it, ended by a NUL
    char out[ROOM];
    connection *c = &connections[fd];
    if (!strncmp(text, "{\"t\":\"send\"", 11)) {
        char *id = strstr(text, "\"id\":"), *to = strstr(text, "\"to\":\""), *type = strstr(text, "\"type\":");
        if (!c->who || !id || !to || !type) { dropped++; return; }
        put(fd, out, snprintf(out + 4, sizeof out - 4,
            "{\"t\":\"ack\",\"id\":%ld,\"message\":\"%016lx\"}", atol(id + 5), ++ids));
        acked++;
        to = strncmp(to + 6, "user:", 5) ? "" : to + 11;
        message(user_of(to, strcspn(to, "\""), 0), c->who, type, text + size - type);
    } else if (!strncmp(text, "{\"t\":\"connect\"", 14)) {
        char *name = strstr(text, "\"token\":\"");
        if (!name || c->who || !(c->who = user_of(name + 9, strcspn(name + 9, "\""), 1))) { hang_up(fd); return; }
        c->who->fd = fd;
        put(fd, out, snprintf(out + 4, sizeof out - 4,
            "{\"t\":\"connected\",\"channels\":{\"user:%s\":{\"epoch\":\"" EPOCH "\",\"seq\":%ld,\"recovered\":false}}}",
            c->who->name, c->who->seq));
    } else if (!strncmp(text, "{\"t\":\"subscribe\"", 16)) {
        put(fd, out, snprintf(out + 4, sizeof out - 4, "{\"t\":\"subscribed\"}"));
        if (!c->subscribed++) clients[count++] = fd;
    }
}

static void on_input(int fd) {
    connection *c = &connections[fd];
    int size = c->partial_size;
    if (size) memcpy(input, c->partial, size);
    free(c->partial);
    c->partial = NULL;
    c->partial_size = 0;
    ssize_t got = recv(fd, input + size, sizeof input - size - 1, 0);
    if (got <= 0) { hang_up(fd); return; }
    if (!c->upgraded) {
        static const char upgrade[] =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        if (send(fd, upgrade, sizeof upgrade - 1, MSG_NOSIGNAL) < 0) perror("send");
        c->upgraded = 1;
        return;
    }
    char *at = input, *end = input + size + got;
    while (end - at >= 8) {  // no frame of ours is shorter; masked, with zeros
        int length = at[1] & 127, head = length == 126 ? 8 : 6;
        if (length == 126) length = (unsigned char)at[2] << 8 | (unsigned char)at[3];
        else if (length == 127) length = LARGEST + 1;
        if (length > LARGEST) { hang_up(fd); return; }
        if (end - at < head + length) break;
        char *next = at + head + length, kept = *next;
        *next = 0;
        if ((at[0] & 15) == 1) on_text(fd, at + head, length);
        if (!c->upgraded) return;  // it was hung up
        *next = kept;
        at = next;
    }
    if (at == end) return;
    c->partial_size = end - at;
    c->partial = malloc(c->partial_size);
    memcpy(c->partial, at, c->partial_size);
}

// Serve whoever has something; return whether there is a command.
static int serve(int milliseconds) {
    struct epoll_event events[512];
    int one = 1, told = 0, got = epoll_wait(epoll_fd, events, 512, milliseconds);
    for (int i = 0; i < got; i++) {
        int fd = events[i].data.fd, client;
        if (fd == 0) { told = 1; continue; }
        if (fd != listener) { on_input(fd); continue; }
        while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
            struct epoll_event event = {EPOLLIN, {.fd = client}};
            if (client >= MOST) { close(client); continue; }
            setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            epoll_ctl(epoll_fd, EPOLL_CTL_ADD, client, &event);
        }
    }
    return told;
}

static void fan(int size, int batch) {
    int head = size < 126 ? 2 : 4, text = snprintf(frame + head, LARGEST,
        "{\"t\":\"message\",\"channel\":\"room:x\",\"seq\":%ld,\"epoch\":\"x\",\"data\":\"", ++seq);
    memset(frame + head + text, 'x', size - text - 2);
    memcpy(frame + head + size - 2, "\"}", 2);
    frame[0] = (char)0x81;
    if (head == 2) frame[1] = (char)size;
    else { frame[1] = 126; frame[2] = (char)(size >> 8); frame[3] = (char)size; }
    if (!batch) {
        for (int i = 0; i < count; i++)
            if (send(clients[i], frame, head + size, MSG_NOSIGNAL | MSG_DONTWAIT) != head + size) short_sends++;
        return;
    }
    for (int i = 0; i < count;) {
        for (int queued = 0; i < count && queued < batch; queued++) {
            struct io_uring_sqe *entry = io_uring_get_sqe(&ring);
            if (!entry) break;
            io_uring_prep_send(entry, clients[i++], frame, head + size, MSG_NOSIGNAL | MSG_DONTWAIT);
            entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
        }
        io_uring_submit_and_get_events(&ring);
        struct io_uring_cqe *done;
        while (!io_uring_peek_cqe(&ring, &done)) {
            if (done->res != head + size) short_sends++;
            io_uring_cqe_seen(&ring, done);
        }
    }
}

static void publish(int number, int size) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(frame, ROOM, "\"type\":\"text\",\"data\":{\"at\":%ld,\"text\":\"",
        now.tv_sec * 1000000 + now.tv_nsec / 1000);
    memset(frame + length, 'x', size);
    memcpy(frame + length + size, "\"}}", 3);
    for (; number > 0 && user_count; number--) {
        ids++;
        message(users[turn], NULL, frame, length + size + 3);
        turn = (turn + 1) % user_count;
    }
}

int main(int argument_count, char **arguments) {
    if (argument_count < 3) { fprintf(stderr, "usage: floor PORT send|uring [BATCH]\n"); return 2; }
    int one = 1, batch = 0;
    if (!strcmp(arguments[2], "uring")) {
        struct io_uring_params parameters = {
            .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE, .cq_entries = 32768};
        batch = argument_count > 3 ? atoi(arguments[3]) : 1024;
        int error = io_uring_queue_init_params(batch, &ring, &parameters);
        if (error) { fprintf(stderr, "io_uring: %s\n", strerror(-error)); return 4; }
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) { perror("listen"); return 1; }
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.fd = listener}}, command = {EPOLLIN, {.fd = 0}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &command);
    fcntl(0, F_SETFL, O_NONBLOCK);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("listening\n");
    char line[128];
    size_t length = 0;
    for (time_t end = time(NULL) + 900; time(NULL) < end;) {
        char byte;
        ssize_t got = read(0, &byte, 1);
        if (got == 0) break;
        if (got < 0) { while (time(NULL) < end && !serve(1000)) {} continue; }
        if (byte != '\n') { if (length < sizeof line - 1) line[length++] = byte; continue; }
        line[length] = 0;
        length = 0;
        int size, number;
        if (!strcmp(line, "quit")) break;
        if (sscanf(line, "fan %d %d", &size, &number) == 2 && size >= 96 && size <= LARGEST - 4) {
            for (int i = 0; i < number; i++) fan(size, batch);
            printf("fan clients %d short %ld\n", count, short_sends);
        } else if (sscanf(line, "publish %d %d", &number, &size) == 2 && size >= 0 && size <= LARGEST - ROOM) {
            publish(number, size);
            printf("publish short %ld\n", short_sends);
        } else if (!strcmp(line, "count")) {
            printf("count users %d acked %ld messages %ld dropped %ld short %ld\n",
                user_count, acked, messages, dropped, short_sends);
        } else {
            printf("unknown command: %s\n", line);
        }
    }
    return 0;
}
