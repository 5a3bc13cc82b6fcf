// The floor of a fan-out on this kernel: the same bytes to the same number of sockets, from a C loop.
//
//   floor PORT send|uring [BATCH]
//
// Plays just enough of a server that `crowd` connects and subscribes to it. One command a line on standard input,
// one answer line for each; between commands it serves its clients:
//   fan SIZE K     one after the other, send K `message` frames of SIZE bytes to every client
//                  -> fan clients N short S          (S: sends that did not take the whole frame)
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

enum { MOST = 100000, LARGEST = 65000 };

static int clients[MOST], count, listener, epoll_fd;
static char steps[MOST];  // by descriptor: 0 new, 1 upgraded, 2 connected, 3 subscribed
static char frame[LARGEST + 4];
static struct io_uring ring;
static long seq, short_sends;

static void put_text(int fd, const char *text) {
    char out[256];
    size_t size = strlen(text);
    out[0] = (char)0x81;
    out[1] = (char)size;
    memcpy(out + 2, text, size);
    if (send(fd, out, size + 2, MSG_NOSIGNAL) < 0) perror("send");
}

static void serve(int milliseconds) {
    struct epoll_event events[512];
    char bytes[65536];
    int one = 1, got = epoll_wait(epoll_fd, events, 512, milliseconds);
    for (int i = 0; i < got; i++) {
        int fd = events[i].data.fd;
        if (fd == listener) {
            int client;
            while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                struct epoll_event event = {EPOLLIN, {.fd = client}};
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, client, &event);
                steps[client] = 0;
            }
            continue;
        }
        if (recv(fd, bytes, sizeof bytes, 0) <= 0) {
            close(fd);
            for (int j = 0; j < count; j++)
                if (clients[j] == fd) clients[j--] = clients[--count];
            continue;
        }
        switch (steps[fd]++) {
        case 0: {
            static const char upgrade[] =
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            if (send(fd, upgrade, sizeof upgrade - 1, MSG_NOSIGNAL) < 0) perror("send");
            break;
        }
        case 1: put_text(fd, "{\"t\":\"connected\"}"); break;
        case 2:
            put_text(fd, "{\"t\":\"subscribed\"}");
            clients[count++] = fd;
            break;
        default: steps[fd] = 3;
        }
    }
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
    struct epoll_event event = {EPOLLIN, {.fd = listener}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    fcntl(0, F_SETFL, O_NONBLOCK);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char line[128];
    size_t length = 0;
    for (time_t end = time(NULL) + 900; time(NULL) < end;) {
        char byte;
        ssize_t got = read(0, &byte, 1);
        if (got == 0) break;
        if (got < 0) { serve(1); continue; }
        if (byte != '\n') { if (length < sizeof line - 1) line[length++] = byte; continue; }
        line[length] = 0;
        length = 0;
        int size, messages;
        if (!strcmp(line, "quit")) break;
        if (sscanf(line, "fan %d %d", &size, &messages) == 2 && size >= 96 && size <= LARGEST - 4) {
            for (int i = 0; i < messages; i++) fan(size, batch);
            printf("fan clients %d short %ld\n", count, short_sends);
        } else {
            printf("unknown command: %s\n", line);
        }
    }
    return 0;
}
