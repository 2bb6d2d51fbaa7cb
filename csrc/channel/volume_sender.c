/* volume_sender.c - the sending side of file://. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/cgroup.h"
#include "../platform/clock.h"
#include "../platform/memory.h"
#include "../platform/wholefile.h"
#include "blocks.h"
#include "channel.h"
#include "volume.h"

/* Up to here a tensor is written in one go; above, its space is reserved first and it
 * is written in pieces, so that a full volume is known at once and a wait can end. */
#define PIECE ((uint64_t)1 << 20)

/* What a file takes on the volume, at least. */
#define FILE_COST ((uint64_t)4096)

/* A tensor being written, over several calls. */
struct writing {
    struct writing *next;
    struct pdi_reservation space;
    uint64_t number; /* in its temporary name */
    uint64_t cost;
    uint64_t done; /* bytes of the payload */
};

/* A tensor in the directory that, as far as we know, nobody has taken. */
struct waiting {
    uint64_t number, cost;
};

struct sender {
    podipc_sender base;
    struct pdi_member e;
    struct pdi_blocks blocks; /* loans */
    uint64_t max_bytes;
    bool max_given;   /* by the user */
    bool in_ram;      /* what is written counts against this container's memory limit */
    uint64_t allowed; /* bytes of small tensors until the limit is looked at again */
    struct writing *writings;
    uint64_t next_writing, next_number;
    struct waiting *queue; /* a ring, oldest first */
    uint64_t queue_first, queue_count, queue_cap;
    uint64_t waiting_bytes; /* of the queue and of `writings` */
    uint64_t full_at;       /* the volume was full with this many waiting; 0: it was not */
    uint64_t lost_taken;
    uint64_t messages, bytes;
};

static struct sender *from(podipc_sender *tx)
{
    return (struct sender *)tx;
}

/* ---- the queue ---- */

/* Forgets tensors that were taken, from the oldest on, at most `most` of them. */
static void reap(struct sender *tx, uint64_t most)
{
    char name[PDI_FILE_NAME];
    for (; most > 0 && tx->queue_count > 0; most--) {
        const struct waiting *w = &tx->queue[tx->queue_first];
        pdi_file_name_write(
            name, &(struct pdi_file_name){PDI_NAME_TENSOR, .who = tx->e.id, .number = w->number});
        if (pdi_directory_has(&tx->e.dir, name))
            break;
        tx->waiting_bytes -= w->cost;
        tx->queue_first = (tx->queue_first + 1) % tx->queue_cap;
        tx->queue_count--;
    }
    if (tx->waiting_bytes < tx->full_at)
        tx->full_at = 0;
}

/* Room for one more in the queue. */
static int make_room(struct sender *tx)
{
    if (tx->queue_count < tx->queue_cap)
        return 0;
    uint64_t cap = tx->queue_cap ? tx->queue_cap * 2 : 64;
    struct waiting *queue = malloc(cap * sizeof *queue);
    if (!queue)
        return -ENOMEM;
    for (uint64_t i = 0; i < tx->queue_count; i++)
        queue[i] = tx->queue[(tx->queue_first + i) % tx->queue_cap];
    free(tx->queue);
    tx->queue = queue;
    tx->queue_first = 0;
    tx->queue_cap = cap;
    return 0;
}

/* ---- one tensor ---- */

static void writing_name(const struct sender *tx, const struct writing *w, char out[PDI_FILE_NAME])
{
    pdi_file_name_write(
        out, &(struct pdi_file_name){PDI_NAME_WRITING, .who = tx->e.id, .number = w->number});
}

/* Forgets a tensor that was being written; its file goes too unless it was published. */
static void end_writing(struct sender *tx, podipc_sending *s, bool published)
{
    struct writing *w = s->own.data;
    for (struct writing **at = &tx->writings; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    if (!published) {
        char name[PDI_FILE_NAME];
        writing_name(tx, w, name);
        tx->waiting_bytes -= w->cost;
        if (tx->e.dir.fd >= 0)
            (void)pdi_directory_remove(&tx->e.dir, name);
    }
    pdi_wholefile_drop(w->space.fd);
    free(w);
    s->own.data = NULL;
    s->stage = 0;
}

static int no_space(const struct sender *tx, uint64_t need, const char *call, podipc_error *err)
{
    bool in_ram;
    uint64_t have = pdi_directory_space(&tx->e.dir, &in_ram);
    return pdi_fail_need(err, -ENOSPC, call, need, have,
                         "a tensor of %" PRIu64
                         " bytes does not fit into %.160s, which has %" PRIu64
                         " left: give the volume a larger size (`emptyDir.sizeLimit` in the Pod's "
                         "manifest) or remove what is no longer used",
                         need, tx->e.dir.path, have);
}

/* A full volume is an error, unless what fills it is our own and will be taken. */
static int out_of_space(struct sender *tx, int rc)
{
    reap(tx, UINT64_MAX);
    bool full = rc == -ENOSPC || rc == -EDQUOT || rc == PODIPC_EMEMLIMIT;
    if (!full || tx->queue_count == 0)
        return rc;
    tx->full_at = tx->waiting_bytes;
    return -EAGAIN;
}

/* The memory limit, for tensors that are written without a reservation: on a volume in
 * memory, looked at once a PIECE. */
static int allow_small(struct sender *tx, uint64_t cost, podipc_error *err)
{
    if (tx->allowed >= cost) {
        tx->allowed -= cost;
        return 0;
    }
    /* As much again is left for what the rest of the container takes meanwhile. */
    if (pdi_memory_allow(2 * PIECE, NULL) == 0) {
        tx->allowed = cost < PIECE ? PIECE - cost : 0;
        return 0;
    }
    int rc = pdi_memory_allow(cost + PIECE, err);
    return rc < 0 ? out_of_space(tx, rc) : 0;
}

static int open_file(struct sender *tx, podipc_sending *s, uint64_t cost, podipc_error *err)
{
    struct writing *w = calloc(1, sizeof *w);
    if (!w)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory to send");
    w->number = tx->next_writing++;
    w->cost = cost;
    char name[PDI_FILE_NAME];
    writing_name(tx, w, name);
    int fd = pdi_wholefile_make(tx->e.dir.fd, name, tx->e.dir.mode);
    if (fd < 0) {
        free(w);
        int rc = out_of_space(tx, fd);
        if (rc == -EAGAIN)
            return rc;
        if (rc == -ENOSPC || rc == -EDQUOT)
            return no_space(tx, cost, "open", err);
        return pdi_fail(err, rc, "open", "cannot make a file in %.200s", tx->e.dir.path);
    }
    w->space = (struct pdi_reservation){.fd = fd,
                                        .size = pdi_file_payload(s->tensor) + s->tensor->nbytes,
                                        .where = tx->e.dir.path,
                                        .fresh = true};
    w->next = tx->writings;
    tx->writings = w;
    tx->waiting_bytes += cost;
    s->own.data = w;
    s->stage = 1;
    return 0;
}

static int check_tensor(const struct sender *tx, const podipc_tensor *t, uint64_t *cost,
                        podipc_error *err)
{
    if (t->ndim > PODIPC_MAX_DIMS || t->type_len > PODIPC_MAX_TYPE ||
        t->nbytes > (uint64_t)INT64_MAX - PDI_FILE_HEAD_MAX - FILE_COST)
        return pdi_fail(err, PODIPC_ETENSOR, "",
                        "a tensor has at most %d dimensions, %d bytes of type text and 2^63 bytes",
                        PODIPC_MAX_DIMS, PODIPC_MAX_TYPE);
    uint64_t size = pdi_file_payload(t) + t->nbytes;
    *cost = (size + FILE_COST - 1) / FILE_COST * FILE_COST;
    if (tx->max_given && *cost > tx->max_bytes)
        return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", *cost, tx->max_bytes,
                             "this tensor takes %" PRIu64 " bytes of the volume, and max_bytes is "
                             "%" PRIu64 ": pass a larger max_bytes, or send it in parts",
                             *cost, tx->max_bytes);
    return 0;
}

/* Makes the file once there is a receiver and room. -EAGAIN: not yet. */
static int begin(struct sender *tx, podipc_sending *s, podipc_error *err)
{
    uint64_t cost;
    int rc = check_tensor(tx, s->tensor, &cost, err);
    if (rc == 0 && pdi_member_census_due(&tx->e, pdi_member_live(&tx->e) == 0))
        rc = pdi_member_census(&tx->e, err);
    if (rc == 0)
        rc = pdi_member_report(&tx->e, &tx->lost_taken, err);
    if (rc < 0)
        return rc;
    if (pdi_member_live(&tx->e) == 0)
        return -EAGAIN;
    bool tight = cost > tx->max_bytes || tx->waiting_bytes > tx->max_bytes - cost;
    reap(tx, tight || tx->full_at ? UINT64_MAX : 2);
    /* Without a max_bytes of the user's, one tensor may be larger than the share. */
    tight = cost > tx->max_bytes ? tx->waiting_bytes > 0 : tx->waiting_bytes > tx->max_bytes - cost;
    if (tight || tx->full_at)
        return -EAGAIN;
    if (tx->in_ram && s->tensor->nbytes <= PIECE && (rc = allow_small(tx, cost, err)) < 0)
        return rc;
    return open_file(tx, s, cost, err);
}

static const void *payload_of(const podipc_sending *s)
{
    return s->loan ? s->loan->data : s->data;
}

/* The payload of a large tensor. Without the lock: nobody else knows the file. */
static int write_payload(const podipc_sending *s, int64_t until, podipc_error *err)
{
    struct writing *w = s->own.data;
    uint64_t nbytes = s->tensor->nbytes, offset = pdi_file_payload(s->tensor);
    if (nbytes <= PIECE)
        return 0;
    int rc = pdi_memory_reserve(&w->space, until, err);
    while (rc == 0 && w->done < nbytes) {
        uint64_t left = nbytes - w->done, n = left < PIECE ? left : PIECE;
        rc = pdi_wholefile_write(w->space.fd, (const char *)payload_of(s) + w->done, (size_t)n,
                                 offset + w->done);
        if (rc < 0)
            return pdi_fail(err, rc, "pwrite", "cannot write to a file in %.200s", w->space.where);
        w->done += n;
        if (w->done < nbytes && pdi_now() >= until)
            return -EAGAIN;
    }
    return rc;
}

/* The header, and a small payload with it; then the name. */
static int publish(struct sender *tx, podipc_sending *s, podipc_error *err)
{
    const podipc_tensor *t = s->tensor;
    const struct writing *w = s->own.data;
    unsigned char small[1024], *head = small;
    uint32_t head_len = pdi_file_payload(t);
    if (make_room(tx) < 0 || (head_len > sizeof small && !(head = malloc(head_len))))
        return pdi_fail(err, -ENOMEM, "malloc", "no memory to send");
    uint64_t number = tx->next_number;
    pdi_file_head_write(head, t, number, tx->e.id);
    int rc = pdi_wholefile_write_both(w->space.fd, head, head_len, payload_of(s),
                                      t->nbytes <= PIECE ? (size_t)t->nbytes : 0);
    if (head != small)
        free(head);
    const char *call = "pwrite";
    if (rc == 0) {
        char temporary[PDI_FILE_NAME], name[PDI_FILE_NAME];
        writing_name(tx, w, temporary);
        pdi_file_name_write(
            name, &(struct pdi_file_name){PDI_NAME_TENSOR, .who = tx->e.id, .number = number});
        call = "rename";
        rc = pdi_wholefile_publish(tx->e.dir.fd, temporary, name);
    }
    if (rc < 0)
        return pdi_fail(err, rc, call, "cannot write to a file in %.200s", tx->e.dir.path);
    tx->queue[(tx->queue_first + tx->queue_count++) % tx->queue_cap] =
        (struct waiting){number, w->cost};
    tx->next_number++;
    tx->messages++;
    tx->bytes += t->nbytes;
    end_writing(tx, s, true);
    return 0;
}

/* After an error: nothing is left of this sending. */
static int give_up(struct sender *tx, podipc_sending *s, int rc, podipc_error *err)
{
    uint64_t need = ((struct writing *)s->own.data)->space.size;
    bool full = rc == -ENOSPC || rc == -EDQUOT;
    end_writing(tx, s, false);
    rc = out_of_space(tx, rc);
    return full && rc != -EAGAIN ? no_space(tx, need, "fallocate", err) : rc;
}

/* As far as it goes without sleeping; with the lock held, released while a large
 * payload is written. */
static int advance(struct sender *tx, podipc_sending *s, int64_t until, podipc_error *err)
{
    int rc = pdi_member_usable(&tx->e, err);
    if (rc == 0 && s->stage == 0)
        rc = begin(tx, s, err);
    if (rc < 0)
        return rc;
    if (s->tensor->nbytes > PIECE) {
        pthread_mutex_unlock(&tx->e.lock);
        rc = write_payload(s, until, err);
        pthread_mutex_lock(&tx->e.lock);
        if (rc == -EAGAIN)
            return rc;
        if (rc == 0)
            rc = pdi_member_usable(&tx->e, err);
    }
    if (rc == 0)
        rc = publish(tx, s, err);
    return rc < 0 ? give_up(tx, s, rc, err) : 0;
}

static int sender_send(podipc_sender *base, podipc_sending *s, int64_t until, uint32_t *reached,
                       podipc_error *err)
{
    struct sender *tx = from(base);
    bool armed = false;
    pthread_mutex_lock(&tx->e.lock);
    int rc;
    for (;;) {
        rc = advance(tx, s, until, err);
        if (rc != -EAGAIN || pdi_now() >= until)
            break;
        if (s->stage != 0)
            continue; /* a signal came while space was being reserved */
        if (armed) {
            pdi_member_sleep(&tx->e, until);
        } else {
            /* Look once more after the watch is on: what came before makes no event. */
            pdi_watch_arm(&tx->e.watch, tx->e.dir.path, PDI_WATCH_ARRIVALS | PDI_WATCH_DEPARTURES);
            tx->e.census_again = true;
            armed = true;
        }
    }
    if (rc == 0) {
        pdi_watch_disarm(&tx->e.watch);
        if (reached)
            *reached = 1;
    }
    if (rc < 0 && rc != -EAGAIN && s->stage != 0)
        end_writing(tx, s, false);
    pthread_mutex_unlock(&tx->e.lock);
    return rc;
}

static void sender_cancel(podipc_sender *base, podipc_sending *s)
{
    struct sender *tx = from(base);
    if (s->stage == 0)
        return;
    pthread_mutex_lock(&tx->e.lock);
    end_writing(tx, s, false);
    pthread_mutex_unlock(&tx->e.lock);
}

/* ---- loans: private memory, written to the file when sent ---- */

static int sender_loan_get(podipc_sender *base, const podipc_tensor *t, int64_t until,
                           podipc_loan *out, podipc_error *err)
{
    struct sender *tx = from(base);
    uint64_t cost;
    struct pdi_block *block;
    pthread_mutex_lock(&tx->e.lock);
    int rc = check_tensor(tx, t, &cost, err);
    while (rc == 0) {
        rc = pdi_member_usable(&tx->e, err);
        if (rc == 0)
            rc = pdi_blocks_lend(&tx->blocks, t->nbytes, 0, &block, err);
        if (rc != -EAGAIN || pdi_now() >= until)
            break;
        tx->e.stirred = true; /* no event tells that a loan came back */
        pdi_member_sleep(&tx->e, until);
        rc = 0;
    }
    pthread_mutex_unlock(&tx->e.lock);
    if (rc == 0)
        *out =
            (podipc_loan){.data = block->data, .size = t->nbytes, .id = (uint64_t)(uintptr_t)block};
    return rc;
}

static void sender_loan_let_go(podipc_sender *base, podipc_loan *loan)
{
    struct sender *tx = from(base);
    struct pdi_block *block = (struct pdi_block *)(uintptr_t)loan->id;
    /* What the blocks were at a fork is anybody's guess; in a child they stay. */
    if (!block || pdi_member_forked(&tx->e))
        return;
    *loan = (podipc_loan){0};
    pdi_blocks_take_back(&tx->blocks, block);
}

/* ---- the rest ---- */

static void sender_explain(podipc_sender *base, char *text, size_t cap)
{
    struct sender *tx = from(base);
    pthread_mutex_lock(&tx->e.lock);
    const char *path = tx->e.dir.path;
    if (pdi_member_live(&tx->e) == 0)
        (void)snprintf(text, cap,
                       "No receiver has opened %s. The other container must mount the same volume "
                       "there and open the same address.",
                       path);
    else if (tx->full_at)
        (void)snprintf(text, cap,
                       "The volume of %s is full, with %" PRIu64
                       " tensors waiting in it that no receiver has taken yet.",
                       path, tx->queue_count);
    else
        (void)snprintf(text, cap,
                       "%" PRIu64 " tensors (%" PRIu64 " bytes) wait in %s for a receiver to take "
                       "them, and max_bytes is %" PRIu64 ".",
                       tx->queue_count, tx->waiting_bytes, path, tx->max_bytes);
    pthread_mutex_unlock(&tx->e.lock);
}

static void sender_stats(podipc_sender *base, podipc_stats *out)
{
    struct sender *tx = from(base);
    pthread_mutex_lock(&tx->e.lock);
    if (tx->e.own >= 0) {
        reap(tx, UINT64_MAX);
        if (pdi_member_census_due(&tx->e, true))
            (void)pdi_member_census(&tx->e, NULL);
    }
    out->messages = tx->messages;
    out->bytes = tx->bytes;
    out->peers = pdi_member_live(&tx->e);
    out->peers_died = tx->e.died;
    out->queued = tx->queue_count;
    out->lost_taken = tx->lost_taken;
    pdi_blocks_count(&tx->blocks, &out->reserved, &out->held);
    out->held = 0;
    out->max_bytes = tx->max_bytes;
    pthread_mutex_unlock(&tx->e.lock);
}

static uint64_t sender_close(podipc_sender *base)
{
    struct sender *tx = from(base);
    if (pdi_member_forked(&tx->e))
        return 0;
    pdi_watch_wake(&tx->e.watch);
    pthread_mutex_lock(&tx->e.lock);
    uint64_t dropped = tx->e.closed ? 0 : pdi_member_leave(&tx->e);
    pdi_blocks_retire(&tx->blocks);
    pthread_mutex_unlock(&tx->e.lock);
    return dropped;
}

static void sender_free(podipc_sender *base)
{
    struct sender *tx = from(base);
    (void)sender_close(base);
    while (tx->writings) {
        struct writing *w = tx->writings;
        tx->writings = w->next;
        pdi_wholefile_drop(w->space.fd);
        free(w);
    }
    bool forked = pdi_member_forked(&tx->e);
    pdi_member_free(&tx->e);
    if (!forked)
        pdi_blocks_destroy(&tx->blocks);
    free(tx->queue);
    free(tx);
}

static const struct pdi_sender_ops sender_ops = {
    .loan_get = sender_loan_get,
    .loan_discard = sender_loan_let_go,
    .loan_let_go = sender_loan_let_go,
    .send = sender_send,
    .send_cancel = sender_cancel,
    .explain = sender_explain,
    .stats = sender_stats,
    .close = sender_close,
    .free = sender_free,
};

static void in_child(void *arg)
{
    struct sender *tx = arg;
    pdi_member_in_child(&tx->e);
    for (struct writing *w = tx->writings; w; w = w->next) {
        pdi_wholefile_drop(w->space.fd);
        w->space.fd = -1;
    }
}

/* Half of what the volume has left; of memory, half of what this container may take. */
static uint64_t default_budget(uint64_t space, bool in_ram)
{
    uint64_t budget = space / 2;
    if (in_ram) {
        uint64_t memory = pdi_memory_available() / 2;
        budget = memory < budget ? memory : budget;
    }
    return budget > FILE_COST ? budget : FILE_COST;
}

int pdi_volume_sender_open(const podipc_options *o, podipc_sender **out, podipc_error *err)
{
    struct sender *tx = calloc(1, sizeof *tx);
    if (!tx)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for a sender");
    int rc = pdi_blocks_init(&tx->blocks, o->max_bytes, -1);
    if (rc < 0) {
        free(tx);
        return pdi_fail(err, rc, "pthread_mutex_init", "cannot open a sender");
    }
    rc = pdi_member_open(&tx->e, o, false, in_child, tx, err);
    if (rc < 0) {
        pdi_blocks_destroy(&tx->blocks);
        free(tx);
        return rc;
    }
    tx->base.ops = &sender_ops;
    tx->max_given = o->max_bytes > 0;
    uint64_t space = pdi_directory_space(&tx->e.dir, &tx->in_ram);
    tx->max_bytes = tx->max_given ? o->max_bytes : default_budget(space, tx->in_ram);
    *out = &tx->base;
    return 0;
}
