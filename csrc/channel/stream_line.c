/* stream_line.c - the sender's end: finding a receiver, writing frames to it,
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
    /* Measured: below these, large tensors move up to 1.6 times slower. An
     * unprivileged process may double the pipe once more, for a last word. */
    PIPE_SIZE = 512 << 10,
    SOCKET_SIZE = 4 << 20,
    WHOLE = 4096, /* payloads up to here are copied behind the head: one piece to write */
    FILLER = 4096,
    FILLER_PARTS = 16,
};

void pdi_line_init(struct pdi_line *line, const struct pdi_stream_at *at, uint64_t id)
{
    *line = (struct pdi_line){.at = at, .id = id, .fd = -1, .backoff = BACKOFF_FIRST};
}

static void disconnect(struct pdi_line *line)
{
    if (line->fd >= 0)
        pdi_socket_hang_up(line->fd); /* a FIFO does not mind */
    pdi_close(&line->fd);
    line->state = PDI_LINE_DOWN;
    line->active = line->abandoned = line->bye = false;
    line->sequence = line->committed = 0;
    line->greeted = line->inbox_size = 0;
}

void pdi_line_drop(struct pdi_line *line)
{
    disconnect(line);
    free(line->head);
    line->head = NULL;
    line->head_cap = 0;
}

/* Nobody there: look again a little later, each time a little later still. */
static int not_yet(struct pdi_line *line, int why)
{
    disconnect(line);
    line->why = why;
    line->retry_at = pdi_now() + line->backoff;
    line->backoff = line->backoff * 2 > BACKOFF_LAST ? BACKOFF_LAST : line->backoff * 2;
    return -EAGAIN;
}

static int greet(struct pdi_line *line)
{
    struct pdi_greeting g;
    pdi_greeting_make(&g, PDI_STREAM_SENDER, line->id, 0);
    const struct iovec iov = {.iov_base = &g, .iov_len = sizeof g};
    /* Nothing was written yet, so there is room for 64 bytes. */
    ssize_t put = line->at->method == PODIPC_FIFO ? pdi_write_pipe(line->fd, &iov, 1)
                                                  : pdi_write_socket(line->fd, &iov, 1);
    return put == (ssize_t)sizeof g ? 0 : put < 0 ? (int)put : -EPIPE;
}

/* What answered is no receiver: say what it said. */
static int stranger(struct pdi_line *line, podipc_error *err)
{
    char said[33];
    size_t n = line->greeted < sizeof said - 1 ? line->greeted : sizeof said - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = ((const unsigned char *)&line->greeting)[i];
        said[i] = (char)(c >= ' ' && c < 127 ? c : '.');
    }
    said[n] = '\0';
    (void)not_yet(line, -EPROTO);
    return pdi_fail(err, PODIPC_EADDRESS, "",
                    "what listens on %s is not a podipc receiver (it said \"%s\"): give both "
                    "sides another %s",
                    line->at->name, said, line->at->method == PODIPC_TCP ? "port" : "path");
}

static int await_greeting(struct pdi_line *line, podipc_error *err)
{
    const struct iovec iov = {.iov_base = (char *)&line->greeting + line->greeted,
                              .iov_len = sizeof line->greeting - line->greeted};
    ssize_t got = pdi_read(line->fd, &iov, 1);
    if (got == -EAGAIN)
        return -EAGAIN;
    if (got <= 0) {
        line->hung_up = true;
        return line->greeted ? stranger(line, err) : not_yet(line, -ECONNRESET);
    }
    line->greeted += (size_t)got;
    if (!pdi_greeting_plausible(&line->greeting, line->greeted))
        return stranger(line, err);
    if (line->greeted < sizeof line->greeting)
        return -EAGAIN;
    int rc = pdi_greeting_check(&line->greeting, PDI_STREAM_RECEIVER, line->at->name, err);
    if (rc == PODIPC_ECORRUPT)
        return stranger(line, err);
    if (rc < 0) {
        (void)not_yet(line, rc);
        return rc;
    }
    line->max_bytes = line->greeting.max_bytes;
    line->state = PDI_LINE_UP;
    return 0;
}

/* From connected to what the method needs before frames may be written. */
static int connected(struct pdi_line *line)
{
    if (line->at->method == PODIPC_TCP && pdi_tcp_is_itself(line->fd))
        return not_yet(line, -ECONNREFUSED);
    if (line->at->method == PODIPC_UNIX)
        pdi_socket_widen(line->fd, SOCKET_SIZE);
    int rc = greet(line);
    if (rc < 0)
        return not_yet(line, rc);
    line->state = PDI_LINE_GREETING;
    if (line->at->method == PODIPC_FIFO) {
        pdi_fifo_make_room(line->fd, PIPE_SIZE);
        line->max_bytes = UINT64_MAX; /* a FIFO has no way back to tell */
        line->state = PDI_LINE_UP;
    }
    return 0;
}

int pdi_line_connect(struct pdi_line *line, bool now, podipc_error *err)
{
    int rc = 0;
    if (line->state == PDI_LINE_DOWN) {
        if (!now && pdi_now() < line->retry_at)
            return -EAGAIN;
        rc = pdi_stream_connect(line->at, &line->fd, err);
        if (rc == -EINPROGRESS)
            line->state = PDI_LINE_CONNECTING;
        else if (rc == 0)
            rc = connected(line);
        else if (pdi_stream_not_yet(rc))
            rc = not_yet(line, rc);
    }
    if (line->state == PDI_LINE_CONNECTING) {
        rc = pdi_socket_connected(line->fd);
        if (rc == -EINPROGRESS)
            return -EAGAIN;
        rc = rc == 0 ? connected(line) : not_yet(line, rc);
    }
    if (line->state == PDI_LINE_GREETING)
        rc = await_greeting(line, err);
    if (line->state == PDI_LINE_UP) {
        line->backoff = BACKOFF_FIRST;
        line->hung_up = false;
        rc = 0;
    }
    return rc;
}

static int head_room(struct pdi_line *line, size_t n, podipc_error *err)
{
    if (n <= line->head_cap)
        return 0;
    uint8_t *head = realloc(line->head, n + 256);
    if (!head)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for the head of a frame");
    line->head = head;
    line->head_cap = n + 256;
    return 0;
}

int pdi_line_begin(struct pdi_line *line, const podipc_tensor *t, const void *payload,
                   podipc_error *err)
{
    if (t->nbytes > line->max_bytes)
        return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", t->nbytes, line->max_bytes,
                             "a tensor of %llu bytes does not fit the budget of the receiver at "
                             "%s, %llu bytes: open the receiver with a larger max_bytes, or raise "
                             "its container's memory limit",
                             (unsigned long long)t->nbytes, line->at->name,
                             (unsigned long long)line->max_bytes);
    size_t size = pdi_frame_head_size(t);
    bool whole = t->nbytes <= WHOLE;
    int rc = head_room(line, size + (whole ? WHOLE + PDI_TRAILER : 0), err);
    if (rc < 0)
        return rc;
    pdi_frame_encode(t, line->sequence, line->head);
    line->nbytes = t->nbytes;
    line->trailer_size = PDI_TRAILER;
    if (whole) {
        if (t->nbytes)
            memcpy(line->head + size, payload, (size_t)t->nbytes);
        memcpy(line->head + size + t->nbytes, pdi_trailer_commit, PDI_TRAILER);
        size += (size_t)t->nbytes + PDI_TRAILER;
        line->nbytes = line->trailer_size = 0;
    }
    line->head_size = size;
    line->done = 0;
    line->active = true;
    line->bye = false;
    return 0;
}

void pdi_line_abandon(struct pdi_line *line)
{
    if (!line->active || line->bye)
        return;
    line->abandoned = true;
    if (line->trailer_size == 0)
        memcpy(line->head + line->head_size - PDI_TRAILER, pdi_trailer_abort, PDI_TRAILER);
}

/* Reads what a receiver may have to say, which is only BYE. */
int pdi_line_check(struct pdi_line *line)
{
    int resets = 0;
    if (line->at->method == PODIPC_FIFO)
        return 0;
    for (;;) {
        const struct iovec iov = {.iov_base = (char *)&line->inbox + line->inbox_size,
                                  .iov_len = sizeof line->inbox - line->inbox_size};
        if (iov.iov_len == 0)
            return -EPIPE;
        ssize_t got = pdi_read(line->fd, &iov, 1);
        if (got > 0)
            line->inbox_size += (size_t)got;
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
static int remaining(const struct pdi_line *line, const uint8_t *payload, struct iovec *iov)
{
    int n = 0;
    uint64_t at = line->done;
    if (at < line->head_size)
        iov[n++] = (struct iovec){.iov_base = line->head + at, .iov_len = line->head_size - at};
    at = at < line->head_size ? 0 : at - line->head_size;
    if (at < line->nbytes) {
        uint64_t left = line->nbytes - at;
        if (line->abandoned) {
            n += filler(iov + n, left);
            if (left > (uint64_t)FILLER * FILLER_PARTS)
                return n;
        } else {
            iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)(payload + at),
                                      .iov_len = (size_t)left};
        }
    }
    at = at < line->nbytes ? 0 : at - line->nbytes;
    const uint8_t *trailer = line->abandoned ? pdi_trailer_abort : pdi_trailer_commit;
    if (at < line->trailer_size)
        iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)(trailer + at),
                                  .iov_len = line->trailer_size - (size_t)at};
    return n;
}

int pdi_line_push(struct pdi_line *line, const void *payload, int64_t stop)
{
    uint64_t total = line->head_size + line->nbytes + line->trailer_size;
    while (line->done < total) {
        struct iovec iov[FILLER_PARTS + 2];
        int n = remaining(line, payload, iov);
        ssize_t put = line->at->method == PODIPC_FIFO ? pdi_write_pipe(line->fd, iov, n)
                                                      : pdi_write_socket(line->fd, iov, n);
        if (put == -EAGAIN || put == -ENOBUFS || put == -ENOMEM) {
            /* A receiver that said BYE will never make room. */
            int rc = pdi_line_check(line);
            return rc < 0 ? rc : -EAGAIN;
        }
        if (put < 0)
            return -EPIPE;
        line->done += (uint64_t)put;
        if (line->done < total && pdi_now() >= stop)
            return -EINPROGRESS;
    }
    line->active = false;
    line->sequence++;
    line->committed += !line->abandoned && !line->bye;
    line->abandoned = false;
    return 0;
}

/* Fills in how many of the tensors sent were not taken; false if that cannot be known. */
static bool left_in_order(struct pdi_line *line, uint64_t *untaken)
{
    *untaken = 0;
    if (line->at->method == PODIPC_FIFO) {
        uint64_t partial = line->active ? line->done : 0;
        return pdi_fifo_was_closed(line->fd) && pdi_unread(line->fd) <= partial;
    }
    (void)pdi_line_check(line);
    if (line->inbox_size < sizeof line->inbox ||
        pdi_frame_check(&line->inbox, line->inbox.sequence, NULL) < 0 ||
        line->inbox.kind != PDI_FRAME_BYE || line->inbox.sequence > line->committed)
        return false;
    *untaken = line->committed - line->inbox.sequence;
    return true;
}

int pdi_line_lost(struct pdi_line *line, podipc_error *err)
{
    uint64_t untaken, sent = line->committed;
    bool in_order = left_in_order(line, &untaken);
    disconnect(line);
    line->backoff = BACKOFF_FIRST;
    line->retry_at = 0;
    if (in_order && untaken == 0)
        return 0;
    line->lost += untaken;
    if (in_order)
        return pdi_fail(err, PODIPC_EPEERDIED, "",
                        "the receiver at %s closed without taking the last %llu of %llu tensors "
                        "sent to it; a stream keeps no copy of them",
                        line->at->name, (unsigned long long)untaken, (unsigned long long)sent);
    line->died++;
    return pdi_fail(err, PODIPC_EPEERDIED, "",
                    "the receiver at %s went away without closing; of the %llu tensors sent to it, "
                    "those it had not received are lost (a stream keeps no copy); the next send "
                    "goes to the next receiver",
                    line->at->name, (unsigned long long)sent);
}

static int begin_bye(struct pdi_line *line)
{
    struct pdi_frame_head head;
    int rc = head_room(line, sizeof head, NULL);
    if (rc < 0)
        return rc;
    pdi_frame_bye(line->sequence, &head);
    memcpy(line->head, &head, sizeof head);
    line->head_size = sizeof head;
    line->nbytes = line->done = line->trailer_size = 0;
    line->active = line->bye = true;
    return 0;
}

void pdi_line_make_room(struct pdi_line *line)
{
    if (line->at->method == PODIPC_FIFO)
        pdi_fifo_make_room(line->fd, 2 * PIPE_SIZE);
    else if (line->at->method == PODIPC_UNIX)
        pdi_socket_make_room(line->fd);
}

int pdi_line_goodbye(struct pdi_line *line)
{
    if (line->state != PDI_LINE_UP)
        return 0;
    pdi_line_abandon(line);
    int rc = line->active ? pdi_line_push(line, NULL, INT64_MAX) : 0;
    if (rc == 0 && !line->bye)
        rc = begin_bye(line);
    if (rc == 0 && line->active)
        rc = pdi_line_push(line, NULL, INT64_MAX);
    return rc == -EAGAIN ? rc : 0;
}

void pdi_line_explain(const struct pdi_line *line, char *text, size_t cap)
{
    const char *where = line->at->name;
    if (line->state == PDI_LINE_UP)
        (void)snprintf(text, cap,
                       "The receiver at %s is connected but does not receive, and what the kernel "
                       "buffers for it is full",
                       where);
    else if (line->state == PDI_LINE_GREETING || line->state == PDI_LINE_CONNECTING)
        (void)snprintf(text, cap,
                       "Something listens on %s but has not answered; is it a podipc receiver, and "
                       "not stopped?",
                       where);
    else if (line->hung_up)
        (void)snprintf(text, cap,
                       "What listens on %s hangs up without a greeting; is it a podipc receiver?",
                       where);
    else if (line->at->method == PODIPC_FIFO && line->why == -EAGAIN)
        (void)snprintf(text, cap,
                       "The receiver of the FIFO %s has not yet received all of an earlier sender",
                       where);
    else if (line->at->method == PODIPC_FIFO && line->why == -EBUSY)
        (void)snprintf(text, cap,
                       "Another sender has the FIFO %s, which carries one at a time: close it, or "
                       "give this one a FIFO of its own (unix:// and tcp:// take many senders)",
                       where);
    else
        (void)snprintf(text, cap, "No receiver listens on %s: start it, or %s", where,
                       pdi_stream_at_advice(line->at));
}
