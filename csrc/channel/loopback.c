#include "loopback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../core/atomics.h"
#include "../core/error.h"
#include "../core/frame.h"
#include "../platform/cgroup.h"
#include "../platform/clock.h"
#include "../platform/io.h"
#include "../platform/random.h"
#include "../platform/rendezvous.h"
#include "../platform/socket.h"

#define WHERE "this loopback connection"

enum stage { GREETING, HEAD, REST, MEMORY, PAYLOAD, TRAILER };

struct incoming {
    enum stage stage;
    uint64_t got; /* bytes of this stage */
    uint64_t sequence;
    pdi_word32 goodbye; /* the other end closed in order; also looked at by the sender */
    bool broken;
    union {
        struct pdi_greeting greeting;
        struct pdi_frame_head head;
    } u;
    char *rest; /* shape and type */
    size_t rest_cap;
    podipc_tensor tensor;
    char *data;
    uint64_t unseen; /* bytes allocated since the container's memory was looked at */
    uint8_t trailer[PDI_TRAILER];
};

struct outgoing {
    uint64_t sequence;
    struct pdi_greeting greeting;
    size_t greeted;
    char *head; /* of the frame under way */
    size_t head_cap;
    /* A frame that was given up and must still be completed: its size, of which how much
     * has left. */
    uint64_t owed, paid;
    size_t owed_head;
};

struct pdi_loopback {
    int fd;
    pdi_word32 closed;
    struct pdi_fork_hook fork;
    struct incoming in;
    struct outgoing out;
};

/* ---- both ends of it ---- */

static void close_in_child(void *arg)
{
    pdi_close(arg); /* an int * */
}

static int check(struct pdi_loopback *l, podipc_error *err)
{
    if (pdi_forked(&l->fork))
        return pdi_fail(err, PODIPC_EFORKED, "",
                        "this stream belongs to the parent of this process: connect anew after "
                        "fork()");
    if (pdi_peek32(&l->closed))
        return pdi_fail(err, PODIPC_ECLOSED, "", "this stream is closed");
    return 0;
}

static int pay_debts(struct pdi_loopback *l, int64_t until, podipc_error *err);

int pdi_loopback_new(int fd, struct pdi_loopback **out, podipc_error *err)
{
    struct pdi_loopback *l = calloc(1, sizeof *l);
    int rc = l ? 0 : -ENOMEM;
    if (l) {
        l->fd = fd;
        pdi_greeting_make(&l->out.greeting, PDI_STREAM_LOOPBACK, pdi_random64(), 0);
        rc = pdi_fork_watch(&l->fork, close_in_child, &l->fd, NULL);
    }
    if (rc < 0) {
        free(l);
        pdi_close(&fd);
        return pdi_fail(err, rc, "", "no memory for a connection");
    }
    /* Now, so that also an end that only receives is known for what it is. */
    (void)pay_debts(l, 0, NULL);
    *out = l;
    return 0;
}

int pdi_loopback_fd(const struct pdi_loopback *l)
{
    return l->fd;
}

bool pdi_loopback_forked(struct pdi_loopback *l)
{
    return pdi_forked(&l->fork);
}

void pdi_loopback_hang_up(struct pdi_loopback *l)
{
    pdi_poke32(&l->closed, 1);
}

void pdi_loopback_free(struct pdi_loopback *l)
{
    if (!l)
        return;
    pdi_fork_forget(&l->fork);
    pdi_close(&l->fd);
    free(l->in.rest);
    free(l->in.data);
    free(l->out.head);
    free(l);
}

/* ---- sending ---- */

/* Appends [at, size) of a piece whose first `*done` bytes, counted from the beginning of
 * all pieces, have left already. */
static int add_piece(struct iovec *iov, int n, const void *piece, uint64_t size, uint64_t *done)
{
    uint64_t skip = *done < size ? *done : size;
    *done -= skip;
    if (skip == size)
        return n;
    iov[n].iov_base = (char *)(uintptr_t)piece + skip;
    iov[n].iov_len = (size_t)(size - skip);
    return n + 1;
}

static int fail_write(struct pdi_loopback *l, int rc, podipc_error *err)
{
    if (pdi_peek32(&l->in.goodbye))
        return pdi_fail(err, PODIPC_ECLOSED, "", "the other end has closed " WHERE);
    if (rc == -EPIPE || rc == -ECONNRESET)
        return pdi_fail(err, PODIPC_EPEERDIED, "",
                        "the other end of " WHERE " is gone: it closed it or died");
    return pdi_fail(err, rc, "sendmsg", "cannot write to " WHERE);
}

/* Writes some of `iov`. Bytes written, at least 1; -EAGAIN after waiting until `until`. */
static int64_t write_some(struct pdi_loopback *l, const struct iovec *iov, int n, int64_t until,
                          podipc_error *err)
{
    ssize_t put = pdi_write_socket(l->fd, iov, n);
    if (put == -EAGAIN && until != 0) {
        pdi_wait_one(l->fd, true, until);
        put = pdi_write_socket(l->fd, iov, n);
    }
    if (put == -EAGAIN)
        return -EAGAIN;
    return put < 0 ? fail_write(l, (int)put, err) : put;
}

/* The next piece of what is due before any other frame: the greeting, then the rest of
 * a frame that was given up. False: nothing is due. */
static bool next_debt(const struct outgoing *o, struct iovec *iov)
{
    static const char zeros[64 * 1024];
    const uint64_t tail = o->owed - PDI_TRAILER;
    uint64_t done;
    if (o->greeted < sizeof o->greeting) {
        done = o->greeted;
        return add_piece(iov, 0, &o->greeting, sizeof o->greeting, &done);
    }
    if (o->paid == o->owed)
        return false;
    done = o->paid;
    if (done < o->owed_head)
        return add_piece(iov, 0, o->head, o->owed_head, &done);
    if (done < tail) {
        iov->iov_base = (char *)(uintptr_t)zeros;
        iov->iov_len = tail - done < sizeof zeros ? (size_t)(tail - done) : sizeof zeros;
        return true;
    }
    done -= tail;
    return add_piece(iov, 0, pdi_trailer_abort, PDI_TRAILER, &done);
}

static int pay_debts(struct pdi_loopback *l, int64_t until, podipc_error *err)
{
    struct outgoing *o = &l->out;
    struct iovec iov;
    while (next_debt(o, &iov)) {
        int64_t put = write_some(l, &iov, 1, until, err);
        if (put < 0)
            return (int)put;
        if (o->greeted < sizeof o->greeting)
            o->greeted += (size_t)put;
        else
            o->paid += (uint64_t)put;
    }
    return 0;
}

static int prepare_head(struct outgoing *o, const podipc_tensor *t, podipc_error *err)
{
    int rc = pdi_tensor_check(t, PODIPC_ETENSOR, err);
    size_t size = pdi_frame_head_size(t);
    if (rc < 0)
        return rc;
    if (size > o->head_cap) {
        char *head = realloc(o->head, size);
        if (!head)
            return pdi_fail(err, -ENOMEM, "", "no memory for the head of a frame");
        o->head = head;
        o->head_cap = size;
    }
    pdi_frame_encode(t, o->sequence, o->head);
    return 0;
}

int pdi_loopback_send(struct pdi_loopback *l, podipc_sending *s, int64_t until, podipc_error *err)
{
    struct outgoing *o = &l->out;
    int rc = check(l, err);
    if (rc == 0)
        rc = pay_debts(l, until, err);
    if (rc == 0 && s->stage == 0)
        rc = prepare_head(o, s->tensor, err);
    if (rc < 0)
        return rc;
    s->stage = 1;
    size_t head = pdi_frame_head_size(s->tensor);
    uint64_t total = head + s->tensor->nbytes + PDI_TRAILER;
    while (s->done < total) {
        struct iovec iov[3];
        uint64_t done = s->done;
        int n = add_piece(iov, 0, o->head, head, &done);
        n = add_piece(iov, n, s->data, s->tensor->nbytes, &done);
        n = add_piece(iov, n, pdi_trailer_commit, PDI_TRAILER, &done);
        int64_t put = write_some(l, iov, n, until, err);
        if (put < 0)
            return (int)put;
        s->done += (uint64_t)put;
        rc = check(l, err);
        if (rc < 0 && s->done < total)
            return rc;
        if (s->done < total && pdi_now() >= until)
            return -EAGAIN;
    }
    o->sequence++;
    return 0;
}

void pdi_loopback_send_cancel(struct pdi_loopback *l, podipc_sending *s)
{
    struct outgoing *o = &l->out;
    if (s->done > 0) {
        o->owed_head = pdi_frame_head_size(s->tensor);
        o->owed = o->owed_head + s->tensor->nbytes + PDI_TRAILER;
        o->paid = s->done;
        o->sequence++;
    }
    s->done = 0;
    s->stage = 0;
}

/* ---- receiving ---- */

/* Reads until `size` bytes of this stage are at `to`. 0; -EAGAIN after waiting until
 * `until`; or why there will not be more. */
static int read_stage(struct pdi_loopback *l, void *to, uint64_t size, int64_t until,
                      podipc_error *err)
{
    struct incoming *in = &l->in;
    bool waited = until == 0;
    while (in->got < size) {
        struct iovec iov = {.iov_base = (char *)to + in->got, .iov_len = (size_t)(size - in->got)};
        ssize_t n = pdi_read(l->fd, &iov, 1);
        if (n > 0) {
            in->got += (uint64_t)n;
            if (in->got < size && pdi_now() >= until)
                return -EAGAIN;
            continue;
        }
        if (n == -EAGAIN && waited)
            return -EAGAIN;
        if (n == -EAGAIN) {
            pdi_wait_one(l->fd, false, until);
            waited = true;
            continue;
        }
        if (n < 0 && n != -ECONNRESET && n != -EPIPE)
            return pdi_fail(err, (int)n, "read", "cannot read from " WHERE);
        bool between = (in->stage == GREETING || in->stage == HEAD) && in->got == 0;
        return pdi_fail(err, PODIPC_EPEERDIED, "",
                        "the other end of " WHERE " went away without closing it%s",
                        between ? "" : ", in the middle of a tensor");
    }
    in->got = 0;
    return 0;
}

static int take_head(struct incoming *in, podipc_error *err)
{
    int rc = pdi_frame_check(&in->u.head, in->sequence, err);
    if (rc < 0)
        return rc;
    if (in->u.head.kind == PDI_FRAME_BYE) {
        pdi_poke32(&in->goodbye, 1);
        return 0;
    }
    size_t size = pdi_frame_rest(&in->u.head);
    if (size > in->rest_cap) {
        char *rest = realloc(in->rest, size);
        if (!rest)
            return pdi_fail(err, -ENOMEM, "", "no memory for the head of a frame");
        in->rest = rest;
        in->rest_cap = size;
    }
    in->stage = REST;
    return 0;
}

/* What a frame claims costs nothing until it was checked against what there is. */
static int take_memory(struct incoming *in, podipc_error *err)
{
    uint64_t need = in->tensor.nbytes;
    uint64_t have = pdi_memory_available_each(&in->unseen, need);
    const uint64_t align = PODIPC_TENSOR_ALIGN;
    if (need <= have)
        in->data = aligned_alloc(align, (size_t)((need / align + 1) * align));
    if (!in->data)
        return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", need, have,
                             "a tensor of %llu bytes is waiting on " WHERE ", this container may "
                             "take %llu more: raise its `resources.limits.memory`, or free "
                             "memory and receive again",
                             (unsigned long long)need, (unsigned long long)have);
    in->stage = PAYLOAD;
    return 0;
}

/* 1: a tensor is complete; 0: go on; or an error. */
static int take_trailer(struct incoming *in, podipc_error *err)
{
    in->sequence++;
    in->stage = HEAD;
    if (memcmp(in->trailer, pdi_trailer_commit, PDI_TRAILER) == 0)
        return 1;
    free(in->data);
    in->data = NULL;
    if (memcmp(in->trailer, pdi_trailer_abort, PDI_TRAILER) == 0)
        return 0;
    return pdi_fail(err, PODIPC_ECORRUPT, "", "a tensor on " WHERE " does not end where it should");
}

/* One stage. 1: a tensor is complete; 0: go on; or an error. */
static int receive_stage(struct pdi_loopback *l, int64_t until, podipc_error *err)
{
    struct incoming *in = &l->in;
    int rc;
    switch (in->stage) {
    case GREETING:
        rc = read_stage(l, &in->u.greeting, sizeof in->u.greeting, until, err);
        if (rc == 0)
            rc = pdi_greeting_check(&in->u.greeting, PDI_STREAM_LOOPBACK, WHERE, err);
        if (rc == 0)
            in->stage = HEAD;
        return rc;
    case HEAD:
        rc = read_stage(l, &in->u.head, sizeof in->u.head, until, err);
        return rc < 0 ? rc : take_head(in, err);
    case REST:
        rc = read_stage(l, in->rest, pdi_frame_rest(&in->u.head), until, err);
        if (rc == 0)
            rc = pdi_frame_decode(&in->u.head, in->rest, &in->tensor, err);
        if (rc == 0)
            in->stage = MEMORY;
        return rc;
    case MEMORY:
        return take_memory(in, err);
    case PAYLOAD:
        rc = read_stage(l, in->data, in->tensor.nbytes, until, err);
        if (rc == 0)
            in->stage = TRAILER;
        return rc;
    default:
        rc = read_stage(l, in->trailer, PDI_TRAILER, until, err);
        return rc < 0 ? rc : take_trailer(in, err);
    }
}

int pdi_loopback_recv(struct pdi_loopback *l, int64_t until, podipc_message *out, podipc_error *err)
{
    struct incoming *in = &l->in;
    for (;;) {
        int rc = check(l, err);
        if (rc < 0)
            return rc;
        if (pdi_peek32(&in->goodbye))
            return pdi_fail(err, PODIPC_ECLOSED, "", "the other end has closed " WHERE);
        if (in->broken)
            return pdi_fail(err, PODIPC_ECORRUPT, "",
                            "what came before on " WHERE " did not hold together: connect anew");
        rc = receive_stage(l, until, err);
        if (rc < 0) {
            in->broken = rc == PODIPC_ECORRUPT || rc == PODIPC_EVERSION;
            return rc;
        }
        if (rc == 0)
            continue;
        *out = (podipc_message){.tensor = in->tensor, .data = in->data};
        in->data = NULL;
        return 0;
    }
}

/* ---- the end ---- */

/* Bytes that nobody has read when a socket is closed make the kernel break off the
 * connection, with what was sent and has not arrived yet. Read is what had come by now,
 * which is less than this: the other end may go on sending for as long as we read. */
static void drain(int fd)
{
    enum { KEPT = 64 << 20 };
    char bytes[16384];
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
    ssize_t got;
    for (ssize_t all = 0; all < KEPT && (got = pdi_read(fd, &iov, 1)) > 0; all += got)
        ;
}

void pdi_loopback_close(struct pdi_loopback *l, int64_t until)
{
    struct pdi_frame_head bye;
    pdi_loopback_hang_up(l);
    pdi_fork_forget(&l->fork);
    if (l->fd < 0)
        return;
    pdi_frame_bye(l->out.sequence, &bye);
    uint64_t said = 0;
    for (;;) {
        struct iovec iov;
        uint64_t done = said;
        int64_t put = pay_debts(l, until, NULL);
        if (put == 0 && add_piece(&iov, 0, &bye, sizeof bye, &done) == 0)
            break;
        if (put == 0)
            put = write_some(l, &iov, 1, until, NULL);
        if (put > 0)
            said += (uint64_t)put;
        else if (put != -EAGAIN || pdi_now() >= until)
            break;
    }
    pdi_socket_end(l->fd);
    drain(l->fd);
    pdi_close(&l->fd);
}
