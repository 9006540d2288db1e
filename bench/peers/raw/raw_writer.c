/* The floor of a fan-out: in each turn it reads all that publishers sent and makes one `send` of it
 * to each of N sockets.
 *
 * A client whose path begins with `/pub` is a publisher, anyone else a subscriber; both get the
 * bare answer to a WebSocket upgrade (no accept is computed). Publishers hand over finished,
 * unmasked frames, which are passed on as they are. A subscriber whose socket is full ends the run:
 * the loads it serves never fill one. */
#include "net.h"

enum role { NEW, PUBLISHER, SUBSCRIBER };

static enum role roles[FDS_MAX];
static int places[FDS_MAX];      /* of a subscriber's descriptor in `subscribers` */
static int subscribers[FDS_MAX];
static int count;
static char batch[BATCH_MAX];

static const char ANSWER[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

static void forget(int fd) {
    if (roles[fd] == SUBSCRIBER) {
        int last = subscribers[--count];
        subscribers[places[fd]] = last;
        places[last] = places[fd];
    }
    roles[fd] = NEW;
    close(fd);
}

/* The generator sends a head in one segment, so a head that came in parts is refused. */
static void greet(int fd) {
    char head[4096];
    ssize_t got = recv(fd, head, sizeof head - 1, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        forget(fd);
        return;
    }
    head[got] = 0;
    if (!strstr(head, "\r\n\r\n")) {
        fprintf(stderr, "raw writer: a head came in parts\n");
        exit(1);
    }
    if (strncmp(head, "GET /pub", 8) == 0) {
        roles[fd] = PUBLISHER;
    } else {
        roles[fd] = SUBSCRIBER;
        places[fd] = count;
        subscribers[count++] = fd;
    }
    if (send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) < 0) forget(fd);
}

int main(void) {
    int listener = listen_and_tell();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) die("epoll_create1");
    watch(epoll, listener);
    static struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        size_t len = 0;
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int client;
                while ((client = accept_one(listener)) >= 0) watch(epoll, client);
            } else if (roles[fd] == NEW) {
                greet(fd);
            } else if (roles[fd] == PUBLISHER) {
                ssize_t got = recv(fd, batch + len, BATCH_MAX - len, 0);
                if (got > 0) len += (size_t)got;
                else if (got == 0 || errno != EAGAIN) forget(fd);
            } else {
                char byte[64];
                ssize_t got = recv(fd, byte, sizeof byte, 0);
                if (got == 0 || (got < 0 && errno != EAGAIN)) forget(fd);
            }
        }
        if (len == 0) continue;
        for (int i = 0; i < count; i++) {
            ssize_t sent = send(subscribers[i], batch, len, MSG_NOSIGNAL);
            if (sent == (ssize_t)len || (sent < 0 && (errno == EPIPE || errno == ECONNRESET))) continue;
            fprintf(stderr, "raw writer: a subscriber's socket is full\n");
            exit(1);
        }
    }
}
