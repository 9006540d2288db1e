/* The floor of an echo: every byte that came from a client goes back to it, with one `recv` and one
 * `send` per turn. It knows no frames and no handshake. What a socket does not take at once waits in
 * a buffer of its own, and nothing more is read from that client until it has gone. */
#include "net.h"

static struct { char *rest; size_t len; } waiting[FDS_MAX];
static char buffer[256 << 10];

static void forget(int fd) {
    free(waiting[fd].rest);
    waiting[fd].rest = NULL;
    waiting[fd].len = 0;
    close(fd);
}

static void await(int epoll, int fd, unsigned what) {
    struct epoll_event event = {.events = what, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) < 0) die("epoll_ctl");
}

static void echo(int epoll, int fd) {
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) forget(fd);
        return;
    }
    ssize_t sent = send(fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        forget(fd);
        return;
    }
    if (sent < 0) sent = 0;
    if (sent == got) return;
    waiting[fd].len = (size_t)(got - sent);
    waiting[fd].rest = malloc(waiting[fd].len);
    if (!waiting[fd].rest) die("malloc");
    memcpy(waiting[fd].rest, buffer + sent, waiting[fd].len);
    await(epoll, fd, EPOLLOUT);
}

static void flush(int epoll, int fd) {
    ssize_t sent = send(fd, waiting[fd].rest, waiting[fd].len, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) forget(fd);
        return;
    }
    waiting[fd].len -= (size_t)sent;
    if (waiting[fd].len) {
        memmove(waiting[fd].rest, waiting[fd].rest + sent, waiting[fd].len);
        return;
    }
    free(waiting[fd].rest);
    waiting[fd].rest = NULL;
    await(epoll, fd, EPOLLIN);
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
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int client;
                while ((client = accept_one(listener)) >= 0) watch(epoll, client);
            } else if (waiting[fd].rest) {
                flush(epoll, fd);
            } else {
                echo(epoll, fd);
            }
        }
    }
}
