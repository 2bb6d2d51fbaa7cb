/* stream_greeter.c - the thread of a receiver that accepts, exchanges greetings,
 * and hands over who is a sender. It owns nothing but connections that have not
 * yet said who they are, and those for two seconds at most. */
#include <errno.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/io.h"
#include "../platform/poller.h"
#include "../platform/rendezvous.h"
#include "../platform/socket.h"
#include "../platform/thread.h"
#include "stream.h"

#define PATIENCE INT64_C(2000000000) /* ns, for a greeting to arrive whole */
#define NO_FILES INT64_C(100000000)  /* ns, before accepting again after EMFILE */

static void remove_pending(struct pdi_greeter *g, int i, bool do_close)
{
    if (do_close)
        pdi_close(&g->pending[i].fd);
    g->count--;
    memmove(&g->pending[i], &g->pending[i + 1], (size_t)(g->count - i) * sizeof g->pending[0]);
}

static bool answer(const struct pdi_greeter *g, int fd)
{
    struct pdi_greeting mine;
    pdi_greeting_make(&mine, PDI_STREAM_RECEIVER, g->id, g->max_bytes);
    const struct iovec iov = {.iov_base = &mine, .iov_len = sizeof mine};
    return pdi_write_socket(fd, &iov, 1) == (ssize_t)sizeof mine;
}

/* Whether pending[i] is done with, one way or the other. */
static bool listen_to(struct pdi_greeter *g, int i)
{
    struct pdi_greeting *theirs = &g->pending[i].greeting;
    int fd = g->pending[i].fd;
    const struct iovec iov = {.iov_base = (char *)theirs + g->pending[i].n,
                              .iov_len = sizeof *theirs - g->pending[i].n};
    ssize_t got = pdi_read(fd, &iov, 1);
    if (got == -EAGAIN)
        return false;
    if (got > 0)
        g->pending[i].n += (size_t)got;
    /* One that looks whether somebody listens says nothing at all. */
    if (got <= 0 && g->pending[i].n == 0) {
        remove_pending(g, i, true);
        return true;
    }
    bool plausible = got > 0 && pdi_greeting_plausible(theirs, g->pending[i].n);
    if (plausible && g->pending[i].n < sizeof *theirs)
        return false;
    podipc_error err;
    int rc =
        plausible ? pdi_greeting_check(theirs, PDI_STREAM_SENDER, g->where, &err) : PODIPC_ECORRUPT;
    if (rc == PODIPC_EVERSION) {
        (void)answer(g, fd);
        g->turned_away(g->arg, &err);
    } else if (rc < 0) {
        g->strangers++;
    }
    bool handed_over = false;
    if (rc == 0 && answer(g, fd)) {
        rc = g->joined(g->arg, fd, theirs->id);
        handed_over = rc == 0;
        if (rc < 0 && rc != PODIPC_ECLOSED) {
            pdi_fail(&err, rc, "epoll_ctl", "a sender of %s had to be turned away", g->where);
            g->turned_away(g->arg, &err);
        }
    }
    remove_pending(g, i, !handed_over);
    return true;
}

static void accept_all(struct pdi_greeter *g)
{
    for (int fd;;) {
        g->accept_error = pdi_socket_accept(g->listener, &fd);
        if (g->accept_error < 0)
            return;
        /* Whoever says nothing must not keep others out. */
        if (g->count == PDI_GREETER_PENDING) {
            remove_pending(g, 0, true);
            g->strangers++;
        }
        int i = g->count++;
        g->pending[i].fd = fd;
        g->pending[i].n = 0;
        g->pending[i].deadline = pdi_now() + PATIENCE;
        (void)listen_to(g, i);
    }
}

static void work(struct pdi_greeter *g)
{
    for (int i = 0; i < g->count;)
        if (!listen_to(g, i))
            i++;
    for (int i = 0; i < g->count;) {
        if (pdi_now() < g->pending[i].deadline) {
            i++;
        } else {
            remove_pending(g, i, true);
            g->strangers++;
        }
    }
    accept_all(g);
}

static void *run(void *arg)
{
    struct pdi_greeter *g = arg;
    struct pollfd polls[2 + PDI_GREETER_PENDING];
    for (;;) {
        int64_t until = INT64_MAX;
        uint32_t n = 0;
        pthread_mutex_lock(g->lock);
        bool can_accept = g->accept_error == 0 || g->accept_error == -EAGAIN;
        polls[n++] = (struct pollfd){.fd = g->stop, .events = POLLIN};
        polls[n++] = (struct pollfd){.fd = can_accept ? g->listener : -1, .events = POLLIN};
        if (!can_accept)
            until = pdi_now() + NO_FILES;
        for (int i = 0; i < g->count; i++) {
            polls[n++] = (struct pollfd){.fd = g->pending[i].fd, .events = POLLIN};
            if (g->pending[i].deadline < until)
                until = g->pending[i].deadline;
        }
        pthread_mutex_unlock(g->lock);
        int ready = pdi_poll(polls, n, until == INT64_MAX ? -1 : pdi_poll_ms(until));
        if (ready > 0 && polls[0].revents)
            return NULL;
        pthread_mutex_lock(g->lock);
        work(g);
        pthread_mutex_unlock(g->lock);
    }
}

int pdi_greeter_start(struct pdi_greeter *g)
{
    int rc = pdi_alarm_open(&g->stop);
    if (rc == 0)
        rc = pdi_thread_start(&g->thread, run, g);
    g->running = rc == 0;
    return rc;
}

void pdi_greeter_stop(struct pdi_greeter *g)
{
    if (!g->running)
        return;
    g->running = false;
    pdi_alarm(g->stop);
    (void)pthread_join(g->thread, NULL);
    pdi_socket_hang_up(g->listener);
}

void pdi_greeter_close(struct pdi_greeter *g)
{
    for (int i = 0; i < g->count; i++)
        pdi_close(&g->pending[i].fd);
    g->count = 0;
    pdi_close(&g->listener);
    pdi_close(&g->stop);
}
