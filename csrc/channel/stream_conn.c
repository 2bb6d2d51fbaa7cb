/* stream_conn.c - the receiver's end: bytes in, whole tensors out.
 *
 * What is small is read ahead into a buffer, so that a small tensor, or many that
 * came together, cost one system call. The payload of a large one goes straight
 * to where it stays, in one call with whatever follows it.
 *
 * Every byte is what another process wrote. It is copied once, checked there, and
 * no memory is taken for it before it was found to fit.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/fifo.h"
#include "../platform/io.h"
#include "../platform/rendezvous.h"
#include "../platform/socket.h"
#include "stream.h"

enum {
    BUFFER = 80 << 10,
    AHEAD = 64 << 10,    /* read at most this far ahead, */
    AHEAD_OF_BULK = 512, /* or this far where a large payload is likely to come */
    BULK = 128 << 10,
};
_Static_assert(PDI_FRAME_HEAD_MAX <= BUFFER, "any head fits the buffer");

struct pdi_conn *pdi_conn_new(int fd, enum pdi_conn_state state, const char *where)
{
    struct pdi_conn *c = calloc(1, sizeof *c);
    uint8_t *buffer = malloc(BUFFER);
    if (!c || !buffer) {
        free(c);
        free(buffer);
        return NULL;
    }
    c->fd = fd;
    c->state = state;
    c->where = where;
    c->buffer = buffer;
    return c;
}

void pdi_conn_free(struct pdi_conn *c, struct pdi_blocks *blocks, bool bye)
{
    if (bye) {
        struct pdi_frame_head head;
        pdi_frame_bye(c->taken, &head);
        const struct iovec iov = {.iov_base = &head, .iov_len = sizeof head};
        (void)pdi_write_socket(c->fd, &iov, 1);
    }
    if (c->fd >= 0)
        pdi_socket_hang_up(c->fd); /* a FIFO does not mind */
    pdi_close(&c->fd);
    if (c->block)
        pdi_blocks_take_back(blocks, c->block);
    free(c->buffer);
    free(c);
}

static size_t buffered(const struct pdi_conn *c)
{
    return c->end - c->begin;
}

/* One read. > 0, 0 at the end, -EAGAIN, -errno. */
static ssize_t receive(struct pdi_conn *c, struct iovec *iov, int n)
{
    if (c->drained)
        return -EAGAIN;
    ssize_t got = pdi_read(c->fd, iov, n);
    size_t wanted = iov[0].iov_len + (n > 1 ? iov[1].iov_len : 0);
    /* A stream that gave less than asked for has no more; epoll tells of news. But
     * of an end that was there before it was asked, it has told already. */
    c->drained = got == -EAGAIN || (got > 0 && (size_t)got < wanted && !c->hung_up);
    return got;
}

static size_t read_ahead(const struct pdi_conn *c)
{
    return c->bulk ? AHEAD_OF_BULK : AHEAD;
}

/* Makes `need` bytes stand in the buffer: 0, or what receive() returned (1: the end). */
static int fill(struct pdi_conn *c, size_t need, uint64_t *quota)
{
    while (buffered(c) < need) {
        if (c->begin == c->end) {
            c->begin = c->end = 0;
        } else if (BUFFER - c->begin < need) {
            memmove(c->buffer, c->buffer + c->begin, buffered(c));
            c->end -= c->begin;
            c->begin = 0;
        }
        size_t ask = need - buffered(c) > read_ahead(c) ? need - buffered(c) : read_ahead(c);
        if (ask > BUFFER - c->end)
            ask = BUFFER - c->end;
        struct iovec iov = {.iov_base = c->buffer + c->end, .iov_len = ask};
        ssize_t got = receive(c, &iov, 1);
        if (got <= 0)
            return got == 0 ? 1 : (int)got;
        c->end += (size_t)got;
        *quota -= *quota < (uint64_t)got ? *quota : (uint64_t)got;
    }
    return 0;
}

static int over(struct pdi_conn *c, int rc)
{
    c->over = true;
    return rc;
}

/* The stream ended, or broke, where no BYE was. */
static int died(struct pdi_conn *c, podipc_error *err)
{
    bool between = c->state == PDI_CONN_HEAD && buffered(c) == 0;
    return over(c, pdi_fail(err, PODIPC_EPEERDIED, "",
                            "a sender to %s went away without closing%s; the %llu tensors it had "
                            "completed were delivered",
                            c->where, between ? "" : ", in the middle of a tensor",
                            (unsigned long long)c->taken));
}

/* Before its first byte is read, a FIFO is marked; see fifo.h. */
static int first_bytes(struct pdi_conn *c, podipc_error *err)
{
    if (pdi_unread(c->fd) == 0) {
        c->drained = true;
        return -EAGAIN;
    }
    int rc = pdi_fifo_mark_used(c->fd, err);
    if (rc < 0)
        return over(c, rc);
    c->state = PDI_CONN_GREETING;
    return 0;
}

static int greeting(struct pdi_conn *c, uint64_t *quota, podipc_error *err)
{
    struct pdi_greeting g;
    int rc = fill(c, sizeof g, quota);
    if (!pdi_greeting_plausible(c->buffer + c->begin, buffered(c)) || rc == 1)
        return over(c, PDI_CONN_STRANGER);
    if (rc < 0)
        return rc;
    memcpy(&g, c->buffer + c->begin, sizeof g);
    c->begin += sizeof g;
    rc = pdi_greeting_check(&g, PDI_STREAM_SENDER, c->where, err);
    if (rc < 0)
        return over(c, rc == PODIPC_ECORRUPT ? PDI_CONN_STRANGER : rc);
    c->sender = g.id;
    c->state = PDI_CONN_HEAD;
    return 0;
}

static int head(struct pdi_conn *c, uint64_t *quota, podipc_error *err)
{
    int rc = fill(c, sizeof c->head, quota);
    if (rc != 0)
        return rc == -EAGAIN ? rc : died(c, err);
    memcpy(&c->head, c->buffer + c->begin, sizeof c->head);
    c->begin += sizeof c->head;
    rc = pdi_frame_check(&c->head, c->sequence, err);
    if (rc < 0)
        return over(c, rc);
    if (c->head.kind == PDI_FRAME_BYE)
        return over(c, PDI_CONN_LEFT);
    c->bulk = c->head.nbytes >= BULK;
    c->state = PDI_CONN_REST;
    return 0;
}

/* Shape and type, then memory. What does not fit the budget is skipped. */
static int rest(struct pdi_conn *c, struct pdi_blocks *blocks, uint64_t *quota, podipc_error *err)
{
    size_t size = pdi_frame_rest(&c->head);
    int rc = fill(c, size, quota);
    if (rc != 0)
        return rc == -EAGAIN ? rc : died(c, err);
    rc = pdi_frame_decode(&c->head, c->buffer + c->begin, &c->tensor, err);
    if (rc < 0)
        return over(c, rc);
    rc = pdi_blocks_lend(blocks, c->tensor.nbytes, c->tensor.type_len, &c->block, err);
    if (rc == -EAGAIN)
        return -ENOBUFS;
    if (rc < 0 && (rc != PODIPC_EMEMLIMIT || c->tensor.nbytes <= blocks->max_bytes))
        return rc; /* may pass: tried again by the next call */
    if (rc == 0) {
        memcpy(c->block->type, c->tensor.type, c->tensor.type_len);
        c->tensor.type = c->block->type;
    }
    c->begin += size;
    c->got = 0;
    c->state = PDI_CONN_PAYLOAD;
    return rc;
}

static void take_buffered(struct pdi_conn *c)
{
    uint64_t left = c->tensor.nbytes - c->got;
    size_t n = left < buffered(c) ? (size_t)left : buffered(c);
    if (c->block)
        memcpy((uint8_t *)c->block->data + c->got, c->buffer + c->begin, n);
    c->begin += n;
    c->got += n;
}

static int payload(struct pdi_conn *c, uint64_t *quota, podipc_error *err)
{
    take_buffered(c);
    uint64_t left = c->tensor.nbytes - c->got;
    if (left == 0) {
        c->state = PDI_CONN_TRAILER;
        return 0;
    }
    c->begin = c->end = 0;
    if (!c->block) {
        int rc = fill(c, 1, quota);
        return rc == 0 || rc == -EAGAIN ? rc : died(c, err);
    }
    struct iovec iov[2] = {
        {.iov_base = (uint8_t *)c->block->data + c->got, .iov_len = (size_t)left},
        {.iov_base = c->buffer, .iov_len = read_ahead(c)},
    };
    ssize_t got = receive(c, iov, 2);
    if (got <= 0)
        return got == -EAGAIN ? -EAGAIN : died(c, err);
    *quota -= *quota < (uint64_t)got ? *quota : (uint64_t)got;
    if ((uint64_t)got <= left) {
        c->got += (uint64_t)got;
    } else {
        c->got += left;
        c->end = (size_t)((uint64_t)got - left);
    }
    return 0;
}

/* 0: a whole tensor. -EINPROGRESS: none, but go on. */
static int trailer(struct pdi_conn *c, struct pdi_blocks *blocks, uint64_t *quota,
                   podipc_error *err)
{
    int rc = fill(c, PDI_TRAILER, quota);
    if (rc != 0)
        return rc == -EAGAIN ? rc : died(c, err);
    const uint8_t *at = c->buffer + c->begin;
    bool commit = memcmp(at, pdi_trailer_commit, PDI_TRAILER) == 0;
    if (!commit && memcmp(at, pdi_trailer_abort, PDI_TRAILER) != 0)
        return over(c, pdi_fail(err, PODIPC_ECORRUPT, "",
                                "a tensor of %llu bytes from a sender to %s does not end as it "
                                "should; the sender was dropped",
                                (unsigned long long)c->tensor.nbytes, c->where));
    c->begin += PDI_TRAILER;
    c->sequence++;
    c->state = PDI_CONN_HEAD;
    if (commit && c->block) {
        c->taken++;
        return 0;
    }
    c->taken += commit; /* skipped, which was told when it began */
    if (c->block)
        pdi_blocks_take_back(blocks, c->block);
    c->block = NULL;
    return -EINPROGRESS;
}

int pdi_conn_read(struct pdi_conn *c, struct pdi_blocks *blocks, uint64_t quota, int64_t stop,
                  podipc_error *err)
{
    for (uint32_t steps = 1;; steps++) {
        int rc;
        switch (c->state) {
        case PDI_CONN_UNUSED:
            rc = first_bytes(c, err);
            break;
        case PDI_CONN_GREETING:
            rc = greeting(c, &quota, err);
            break;
        case PDI_CONN_HEAD:
            rc = head(c, &quota, err);
            break;
        case PDI_CONN_REST:
            rc = rest(c, blocks, &quota, err);
            break;
        case PDI_CONN_PAYLOAD:
            rc = payload(c, &quota, err);
            if (rc == 0 && (quota == 0 || (steps % 16 == 0 && stop && pdi_now() >= stop)))
                return -EINPROGRESS;
            break;
        default:
            rc = trailer(c, blocks, &quota, err);
            if (rc == 0)
                return 0;
            if (rc == -EINPROGRESS)
                rc = 0;
            break;
        }
        if (rc != 0)
            return rc;
    }
}

/* Bytes of the frame under way that are still to be consumed. */
static uint64_t missing(const struct pdi_conn *c)
{
    struct pdi_frame_head next = c->head;
    switch (c->state) {
    case PDI_CONN_TRAILER:
        return PDI_TRAILER;
    case PDI_CONN_PAYLOAD:
        return c->tensor.nbytes - c->got + PDI_TRAILER;
    case PDI_CONN_REST:
        return pdi_frame_rest(&next) + next.nbytes + PDI_TRAILER;
    case PDI_CONN_HEAD:
        if (buffered(c) < sizeof next)
            return UINT64_MAX;
        memcpy(&next, c->buffer + c->begin, sizeof next);
        if (next.kind != PDI_FRAME_TENSOR || pdi_frame_check(&next, c->sequence, NULL) < 0)
            return UINT64_MAX;
        return sizeof next + pdi_frame_rest(&next) + next.nbytes + PDI_TRAILER;
    default:
        return UINT64_MAX;
    }
}

bool pdi_conn_is_clean(const struct pdi_conn *c)
{
    return buffered(c) < missing(c);
}
