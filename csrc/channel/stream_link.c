/* stream_link.c - the sender's end: finding a receiver, writing frames to it,
 * noticing how it leaves. */
#include "stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/fifo.h"
#include "../platform/io.h"
#include "../platform/rendezvous.h"
#include "../platform/socket.h"
#include "../platform/tcp.h"

enum {
    BACKOFF_FIRST = 1000000, /* ns */
    BACKOFF_LAST = 20000000,
    PIPE_SIZE = 1 << 20,
    FILLER = 4096,
    FILLER_PARTS = 16,
};

void pdi_link_init(struct pdi_link *link, const struct pdi_stream_at *at, uint64_t id)
{
    *link = (struct pdi_link){.at = at, .id = id, .fd = -1, .backoff = BACKOFF_FIRST};
}

static void disconnect(struct pdi_link *link)
{
    pdi_close(&link->fd);
    link->state = PDI_LINK_DOWN;
    link->active = link->abandoned = false;
    link->sequence = link->committed = 0;
    link->greeted = link->inbox_size = 0;
}

void pdi_link_drop(struct pdi_link *link)
{
    disconnect(link);
    free(link->head);
    link->head = NULL;
    link->head_cap = 0;
}

/* Nobody there: look again a little later, each time a little later still. */
static int not_yet(struct pdi_link *link, int why)
{
    disconnect(link);
    link->why = why;
    link->retry_at = pdi_now() + link->backoff;
    link->backoff = link->backoff * 2 > BACKOFF_LAST ? BACKOFF_LAST : link->backoff * 2;
    return -EAGAIN;
}

static int greet(struct pdi_link *link)
{
    struct pdi_greeting g;
    pdi_greeting_make(&g, PDI_STREAM_SENDER, link->id, 0);
    const struct iovec iov = {.iov_base = &g, .iov_len = sizeof g};
    /* Nothing was written yet, so there is room for 64 bytes. */
    ssize_t put = link->at->method == PODIPC_FIFO ? pdi_write_pipe(link->fd, &iov, 1)
                                                  : pdi_write_socket(link->fd, &iov, 1);
    return put == (ssize_t)sizeof g ? 0 : put < 0 ? (int)put : -EPIPE;
}

/* What answered is no receiver: say what it said. */
static int stranger(struct pdi_link *link, podipc_error *err)
{
    char said[33];
    size_t n = link->greeted < sizeof said - 1 ? link->greeted : sizeof said - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = ((const unsigned char *)&link->greeting)[i];
        said[i] = (char)(c >= ' ' && c < 127 ? c : '.');
    }
    said[n] = '\0';
    (void)not_yet(link, -EPROTO);
    return pdi_fail(err, PODIPC_EADDRESS, "",
                    "what listens on %s is not a podipc receiver (it said \"%s\"): give both "
                    "sides another %s",
                    link->at->name, said, link->at->method == PODIPC_TCP ? "port" : "path");
}

static int await_greeting(struct pdi_link *link, podipc_error *err)
{
    const struct iovec iov = {.iov_base = (char *)&link->greeting + link->greeted,
                              .iov_len = sizeof link->greeting - link->greeted};
    ssize_t got = pdi_read(link->fd, &iov, 1);
    if (got == -EAGAIN)
        return -EAGAIN;
    if (got <= 0) {
        link->hung_up = true;
        return link->greeted ? stranger(link, err) : not_yet(link, -ECONNRESET);
    }
    link->greeted += (size_t)got;
    if (!pdi_greeting_plausible(&link->greeting, link->greeted))
        return stranger(link, err);
    if (link->greeted < sizeof link->greeting)
        return -EAGAIN;
    int rc = pdi_greeting_check(&link->greeting, PDI_STREAM_RECEIVER, link->at->name, err);
    if (rc == PODIPC_ECORRUPT)
        return stranger(link, err);
    if (rc < 0) {
        (void)not_yet(link, rc);
        return rc;
    }
    link->max_bytes = link->greeting.max_bytes;
    link->state = PDI_LINK_UP;
    return 0;
}

/* From connected to what the method needs before frames may be written. */
static int connected(struct pdi_link *link)
{
    if (link->at->method == PODIPC_TCP && pdi_tcp_is_itself(link->fd))
        return not_yet(link, -ECONNREFUSED);
    int rc = greet(link);
    if (rc < 0)
        return not_yet(link, rc);
    link->state = PDI_LINK_GREETING;
    if (link->at->method == PODIPC_FIFO) {
        pdi_fifo_make_room(link->fd, PIPE_SIZE);
        link->max_bytes = UINT64_MAX; /* a FIFO has no way back to tell */
        link->state = PDI_LINK_UP;
    }
    return 0;
}

int pdi_link_connect(struct pdi_link *link, bool now, podipc_error *err)
{
    int rc = 0;
    if (link->state == PDI_LINK_DOWN) {
        if (!now && pdi_now() < link->retry_at)
            return -EAGAIN;
        rc = pdi_stream_connect(link->at, &link->fd, err);
        if (rc == -EINPROGRESS)
            link->state = PDI_LINK_CONNECTING;
        else if (rc == 0)
            rc = connected(link);
        else if (pdi_stream_not_yet(rc))
            rc = not_yet(link, rc);
    }
    if (link->state == PDI_LINK_CONNECTING) {
        rc = pdi_socket_connected(link->fd);
        if (rc == -EINPROGRESS)
            return -EAGAIN;
        rc = rc == 0 ? connected(link) : not_yet(link, rc);
    }
    if (link->state == PDI_LINK_GREETING)
        rc = await_greeting(link, err);
    if (link->state == PDI_LINK_UP) {
        link->backoff = BACKOFF_FIRST;
        link->hung_up = false;
        rc = 0;
    }
    return rc;
}

static int head_room(struct pdi_link *link, size_t n, podipc_error *err)
{
    if (n <= link->head_cap)
        return 0;
    uint8_t *head = realloc(link->head, n + 256);
    if (!head)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for the head of a frame");
    link->head = head;
    link->head_cap = n + 256;
    return 0;
}

int pdi_link_begin(struct pdi_link *link, const podipc_tensor *t, podipc_error *err)
{
    if (t->nbytes > link->max_bytes)
        return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", t->nbytes, link->max_bytes,
                             "a tensor of %llu bytes does not fit the budget of the receiver at "
                             "%s, %llu bytes: open the receiver with a larger max_bytes, or raise "
                             "its container's memory limit",
                             (unsigned long long)t->nbytes, link->at->name,
                             (unsigned long long)link->max_bytes);
    link->head_size = pdi_frame_head_size(t);
    int rc = head_room(link, link->head_size, err);
    if (rc < 0)
        return rc;
    pdi_frame_encode(t, link->sequence, link->head);
    link->nbytes = t->nbytes;
    link->trailer_size = PDI_TRAILER;
    link->done = 0;
    link->active = true;
    return 0;
}

/* Reads what a receiver may have to say, which is only BYE. */
int pdi_link_check(struct pdi_link *link)
{
    int resets = 0;
    if (link->at->method == PODIPC_FIFO)
        return 0;
    for (;;) {
        const struct iovec iov = {.iov_base = (char *)&link->inbox + link->inbox_size,
                                  .iov_len = sizeof link->inbox - link->inbox_size};
        if (iov.iov_len == 0)
            return -EPIPE;
        ssize_t got = pdi_read(link->fd, &iov, 1);
        if (got > 0)
            link->inbox_size += (size_t)got;
        /* A Unix socket closed with data unread says so once, before what it sent. */
        else if (got != -ECONNRESET || resets++ == 4)
            return got == -EAGAIN ? 0 : -EPIPE;
    }
}

static int filler(struct iovec *iov, uint64_t n)
{
    static const uint8_t zeros[FILLER];
    int parts = 0;
    while (n > 0 && parts < FILLER_PARTS) {
        size_t len = n < FILLER ? (size_t)n : FILLER;
        iov[parts++] = (struct iovec){.iov_base = (void *)(uintptr_t)zeros, .iov_len = len};
        n -= len;
    }
    return parts;
}

/* What is left of the active frame; an abandoned payload is left to filler(). */
static int remaining(const struct pdi_link *link, const uint8_t *payload, struct iovec *iov)
{
    int n = 0;
    uint64_t at = link->done;
    if (at < link->head_size)
        iov[n++] = (struct iovec){.iov_base = link->head + at, .iov_len = link->head_size - at};
    at = at < link->head_size ? 0 : at - link->head_size;
    if (at < link->nbytes) {
        uint64_t left = link->nbytes - at;
        if (link->abandoned) {
            n += filler(iov + n, left);
            if (left > (uint64_t)FILLER * FILLER_PARTS)
                return n;
        } else {
            iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)(payload + at),
                                      .iov_len = (size_t)left};
        }
    }
    at = at < link->nbytes ? 0 : at - link->nbytes;
    const uint8_t *trailer = link->abandoned ? pdi_trailer_abort : pdi_trailer_commit;
    if (at < link->trailer_size)
        iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)(trailer + at),
                                  .iov_len = link->trailer_size - (size_t)at};
    return n;
}

int pdi_link_push(struct pdi_link *link, const void *payload, int64_t stop)
{
    uint64_t total = link->head_size + link->nbytes + link->trailer_size;
    while (link->done < total) {
        struct iovec iov[FILLER_PARTS + 2];
        int n = remaining(link, payload, iov);
        ssize_t put = link->at->method == PODIPC_FIFO ? pdi_write_pipe(link->fd, iov, n)
                                                      : pdi_write_socket(link->fd, iov, n);
        if (put == -EAGAIN || put == -ENOBUFS || put == -ENOMEM) {
            /* A receiver that said BYE will never make room. */
            int rc = pdi_link_check(link);
            return rc < 0 ? rc : -EAGAIN;
        }
        if (put < 0)
            return -EPIPE;
        link->done += (uint64_t)put;
        if (link->done < total && pdi_now() >= stop)
            return -EINPROGRESS;
    }
    link->active = false;
    link->sequence++;
    if (!link->abandoned)
        link->committed++;
    link->abandoned = false;
    return 0;
}

/* Fills in how many of the tensors sent were not taken; false if that cannot be known. */
static bool left_in_order(struct pdi_link *link, uint64_t *untaken)
{
    *untaken = 0;
    if (link->at->method == PODIPC_FIFO) {
        uint64_t partial = link->active ? link->done : 0;
        return pdi_fifo_was_closed(link->fd) && pdi_unread(link->fd) <= partial;
    }
    (void)pdi_link_check(link);
    if (link->inbox_size < sizeof link->inbox ||
        pdi_frame_check(&link->inbox, link->inbox.sequence, NULL) < 0 ||
        link->inbox.kind != PDI_FRAME_BYE || link->inbox.sequence > link->committed)
        return false;
    *untaken = link->committed - link->inbox.sequence;
    return true;
}

int pdi_link_lost(struct pdi_link *link, podipc_error *err)
{
    uint64_t untaken, sent = link->committed;
    bool in_order = left_in_order(link, &untaken);
    disconnect(link);
    link->backoff = BACKOFF_FIRST;
    link->retry_at = 0;
    if (in_order && untaken == 0)
        return 0;
    link->lost += untaken;
    if (in_order)
        return pdi_fail(err, PODIPC_EPEERDIED, "",
                        "the receiver at %s closed without taking the last %llu of %llu tensors "
                        "sent to it; a stream keeps no copy of them",
                        link->at->name, (unsigned long long)untaken, (unsigned long long)sent);
    link->died++;
    return pdi_fail(err, PODIPC_EPEERDIED, "",
                    "the receiver at %s went away without closing; of the %llu tensors sent to it, "
                    "those it had not received are lost (a stream keeps no copy); the next send "
                    "goes to the next receiver",
                    link->at->name, (unsigned long long)sent);
}

int pdi_link_goodbye(struct pdi_link *link)
{
    if (link->state != PDI_LINK_UP)
        return 0;
    if (link->active && link->trailer_size)
        link->abandoned = true;
    for (;;) {
        bool bye = link->active && !link->trailer_size;
        if (!link->active) {
            struct pdi_frame_head head;
            if (head_room(link, sizeof head, NULL) < 0)
                return 0;
            pdi_frame_bye(link->sequence, &head);
            memcpy(link->head, &head, sizeof head);
            link->head_size = sizeof head;
            link->nbytes = link->done = 0;
            link->trailer_size = 0;
            link->active = bye = true;
        }
        int rc = pdi_link_push(link, NULL, INT64_MAX);
        if (rc == -EAGAIN)
            return rc;
        if (rc < 0 || bye) {
            link->committed -= rc == 0; /* the BYE itself */
            return 0;
        }
    }
}

void pdi_link_explain(const struct pdi_link *link, char *text, size_t cap)
{
    const char *where = link->at->name;
    if (link->state == PDI_LINK_UP)
        (void)snprintf(text, cap,
                       "the receiver at %s is connected but does not receive, and what the kernel "
                       "buffers for it is full",
                       where);
    else if (link->state == PDI_LINK_GREETING || link->state == PDI_LINK_CONNECTING)
        (void)snprintf(text, cap,
                       "something listens on %s but has not answered; is it a podipc receiver, and "
                       "not stopped?",
                       where);
    else if (link->hung_up)
        (void)snprintf(text, cap,
                       "what listens on %s hangs up without a greeting; is it a podipc receiver?",
                       where);
    else if (link->at->method == PODIPC_FIFO && link->why == -EAGAIN)
        (void)snprintf(text, cap,
                       "the receiver of the FIFO %s has not yet received all of an earlier sender",
                       where);
    else
        (void)snprintf(text, cap, "no receiver listens on %s: start it, or %s", where,
                       pdi_stream_at_advice(link->at));
}
