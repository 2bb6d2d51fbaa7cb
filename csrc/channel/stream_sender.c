/* stream_sender.c - podipc_sender on one line.
 *
 * One thread at a time has the line (`current`); others that want to send wait on
 * `turn`. A frame that was begun stays its sending's until it is finished or
 * cancelled, over any number of calls. The lock is not held while waiting.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/clock.h"
#include "../platform/io.h"
#include "../platform/random.h"
#include "../platform/rendezvous.h"
#include "stream.h"

enum { STAGE_NEW, STAGE_BEGUN };

#define GOODBYE_NS INT64_C(1000000000) /* what close() waits at most for room */

struct stream_tx {
    podipc_sender base;
    struct pdi_stream_at at;
    pthread_mutex_t lock;
    pthread_cond_t turn;
    struct pdi_fork_hook fork;
    const podipc_sending *current;
    struct pdi_line line;
    struct pdi_blocks blocks;
    int alarm; /* raised by close() */
    unsigned waiting, waiting_for_memory;
    bool closed;
    uint64_t messages, bytes;
};

static struct stream_tx *tx_of(podipc_sender *base)
{
    return (struct stream_tx *)base;
}

static bool is_forked(struct stream_tx *tx)
{
    return pdi_forked(&tx->fork);
}

static int forked(const struct stream_tx *tx, podipc_error *err)
{
    return pdi_fail(err, PODIPC_EFORKED, "",
                    "this sender of %s belongs to the parent process: open one in this process",
                    tx->at.name);
}

static int closed(const struct stream_tx *tx, podipc_error *err)
{
    return pdi_fail(err, PODIPC_ECLOSED, "", "this sender of %s is closed", tx->at.name);
}

static bool is_past(int64_t until)
{
    return until == 0 || pdi_now() >= until;
}

static void wait_turn(struct stream_tx *tx, int64_t until)
{
    struct timespec at = pdi_timespec(until);
    (void)pthread_cond_timedwait(&tx->turn, &tx->lock, &at);
}

/* Waits with the lock given up; whoever waits last on a closed sender tidies up. */
static void wait_io(struct stream_tx *tx, int fd, bool writable, int64_t until)
{
    tx->waiting++;
    pthread_mutex_unlock(&tx->lock);
    pdi_wait_io(fd, writable, tx->alarm, until);
    pthread_mutex_lock(&tx->lock);
    if (--tx->waiting == 0 && tx->closed)
        pdi_close(&tx->alarm);
}

static int loan_get(podipc_sender *base, const podipc_tensor *tensor, int64_t until,
                    podipc_loan *out, podipc_error *err)
{
    struct stream_tx *tx = tx_of(base);
    if (is_forked(tx))
        return forked(tx, err);
    int rc = pdi_tensor_check(tensor, PODIPC_ETENSOR, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&tx->lock);
    for (;;) {
        struct pdi_block *block;
        rc = tx->closed ? closed(tx, err)
                        : pdi_blocks_lend(&tx->blocks, tensor->nbytes, 0, &block, err);
        if (rc == 0)
            *out =
                (podipc_loan){.data = block->data, .size = tensor->nbytes, .id = (uintptr_t)block};
        if (rc != -EAGAIN || is_past(until))
            break;
        tx->waiting_for_memory++;
        wait_turn(tx, until);
        tx->waiting_for_memory--;
    }
    pthread_mutex_unlock(&tx->lock);
    return rc;
}

static void loan_let_go(podipc_sender *base, podipc_loan *loan)
{
    struct stream_tx *tx = tx_of(base);
    if (!loan->id || is_forked(tx))
        return;
    pdi_blocks_take_back(&tx->blocks, (struct pdi_block *)(uintptr_t)loan->id);
    *loan = (podipc_loan){0};
    pthread_mutex_lock(&tx->lock);
    if (tx->waiting_for_memory)
        pthread_cond_broadcast(&tx->turn);
    pthread_mutex_unlock(&tx->lock);
}

/* Goes on with the sending that has the line, without waiting. */
static int advance(struct stream_tx *tx, podipc_sending *s, bool now, int64_t stop,
                   podipc_error *err)
{
    struct pdi_line *line = &tx->line;
    const void *payload = s->loan ? s->loan->data : s->data;
    for (;;) {
        int rc = 0;
        if (line->state != PDI_LINE_UP) {
            s->stage = STAGE_NEW;
            rc = pdi_line_connect(line, now, err);
            if (rc < 0)
                return rc;
        }
        if (s->stage == STAGE_NEW && !line->active) {
            /* TCP takes bytes for a receiver that is gone; the others refuse. */
            rc = tx->at.method == PODIPC_TCP ? pdi_line_check(line) : 0;
            if (rc == 0) {
                rc = pdi_line_begin(line, s->tensor, payload, err);
                if (rc < 0)
                    return rc;
                s->stage = STAGE_BEGUN;
            }
        }
        /* What an earlier sending owes goes first. */
        bool own = s->stage == STAGE_BEGUN;
        if (rc == 0)
            rc = pdi_line_push(line, payload, stop);
        if (rc == 0 && own)
            return 0;
        if (rc == -EPIPE) {
            s->stage = STAGE_NEW;
            rc = pdi_line_lost(line, err);
        }
        if (rc < 0)
            return rc;
    }
}

/* Becomes the one who has the line. 0, -EAGAIN, PODIPC_ECLOSED. */
static int take_turn(struct stream_tx *tx, podipc_sending *s, int64_t until, podipc_error *err)
{
    while (!tx->closed && tx->current && tx->current != s) {
        if (is_past(until))
            return -EAGAIN;
        wait_turn(tx, until);
    }
    if (tx->closed)
        return closed(tx, err);
    if (tx->current != s)
        s->stage = STAGE_NEW;
    else if (s->stage == STAGE_NEW)
        pdi_line_abandon(&tx->line);
    tx->current = s;
    return 0;
}

static void give_turn(struct stream_tx *tx)
{
    tx->current = NULL;
    pthread_cond_broadcast(&tx->turn);
}

static int send_locked(struct stream_tx *tx, podipc_sending *s, int64_t until, podipc_error *err)
{
    int rc = take_turn(tx, s, until, err);
    if (rc < 0)
        return rc;
    int64_t stop = until ? pdi_now() + PDI_STREAM_QUANTUM : 0;
    if (stop < until)
        stop = until;
    for (;;) {
        rc = advance(tx, s, until == 0, stop, err);
        if (rc != -EAGAIN || is_past(until)) /* -EINPROGRESS: its share of the time is over */
            break;
        struct pdi_line *line = &tx->line;
        int64_t wake = line->fd < 0 && line->retry_at < until ? line->retry_at : until;
        wait_io(tx, line->fd, line->state != PDI_LINE_GREETING, wake);
        if (tx->closed) {
            s->stage = STAGE_NEW;
            return closed(tx, err);
        }
    }
    if (rc == -EINPROGRESS)
        rc = -EAGAIN;
    if (rc == 0) {
        tx->messages++;
        tx->bytes += s->tensor->nbytes;
    }
    if (rc != -EAGAIN)
        s->stage = STAGE_NEW;
    if (s->stage == STAGE_NEW)
        give_turn(tx);
    return rc;
}

static int tx_send(podipc_sender *base, podipc_sending *s, int64_t until, uint32_t *reached,
                   podipc_error *err)
{
    struct stream_tx *tx = tx_of(base);
    if (is_forked(tx))
        return forked(tx, err);
    int rc = pdi_tensor_check(s->tensor, PODIPC_ETENSOR, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&tx->lock);
    rc = send_locked(tx, s, until, err);
    pthread_mutex_unlock(&tx->lock);
    if (rc == 0 && reached)
        *reached = 1;
    return rc;
}

static void send_cancel(podipc_sender *base, podipc_sending *s)
{
    struct stream_tx *tx = tx_of(base);
    if (is_forked(tx))
        return;
    pthread_mutex_lock(&tx->lock);
    if (tx->current == s) {
        pdi_line_abandon(&tx->line);
        give_turn(tx);
    }
    s->stage = STAGE_NEW;
    pthread_mutex_unlock(&tx->lock);
}

static void explain(podipc_sender *base, char *text, size_t cap)
{
    struct stream_tx *tx = tx_of(base);
    uint64_t reserved, lent;
    if (is_forked(tx)) {
        (void)snprintf(text, cap, "This sender belongs to the parent process");
        return;
    }
    pthread_mutex_lock(&tx->lock);
    pdi_line_explain(&tx->line, text, cap);
    pdi_blocks_count(&tx->blocks, &reserved, &lent);
    size_t n = strlen(text);
    if (lent)
        (void)snprintf(text + n, cap - n,
                       "; %llu loans are out, with %llu of the budget of %llu bytes reserved",
                       (unsigned long long)lent, (unsigned long long)reserved,
                       (unsigned long long)tx->blocks.max_bytes);
    pthread_mutex_unlock(&tx->lock);
}

static void stats(podipc_sender *base, podipc_stats *out)
{
    struct stream_tx *tx = tx_of(base);
    if (is_forked(tx))
        return;
    pthread_mutex_lock(&tx->lock);
    out->messages = tx->messages;
    out->bytes = tx->bytes;
    out->peers = tx->line.state == PDI_LINE_UP;
    out->peers_died = tx->line.died;
    pdi_blocks_count(&tx->blocks, &out->reserved, &out->held);
    out->max_bytes = tx->blocks.max_bytes;
    pthread_mutex_unlock(&tx->lock);
}

/* The receiver must learn that this was in order, so a full buffer is waited for a
 * little. Everybody else finds the sender closed and leaves the line alone. */
static void say_goodbye(struct stream_tx *tx)
{
    int64_t until = pdi_now() + GOODBYE_NS;
    int rc = pdi_line_goodbye(&tx->line);
    if (rc == -EAGAIN) {
        pdi_line_make_room(&tx->line);
        rc = pdi_line_goodbye(&tx->line);
    }
    while (rc == -EAGAIN && pdi_now() < until) {
        int fd = tx->line.fd, never = -1;
        pthread_mutex_unlock(&tx->lock);
        pdi_wait_io(fd, true, never, until);
        pthread_mutex_lock(&tx->lock);
        rc = pdi_line_goodbye(&tx->line);
    }
}

static uint64_t tx_close(podipc_sender *base)
{
    struct stream_tx *tx = tx_of(base);
    if (is_forked(tx))
        return 0;
    pthread_mutex_lock(&tx->lock);
    if (!tx->closed) {
        tx->closed = true;
        tx->current = NULL;
        pdi_alarm(tx->alarm);
        pthread_cond_broadcast(&tx->turn);
        say_goodbye(tx);
        if (tx->line.state == PDI_LINE_UP && pdi_line_check(&tx->line) < 0)
            (void)pdi_line_lost(&tx->line, NULL);
        pdi_line_drop(&tx->line);
        pdi_blocks_retire(&tx->blocks);
        if (tx->waiting == 0)
            pdi_close(&tx->alarm);
    }
    uint64_t lost = tx->line.lost;
    pthread_mutex_unlock(&tx->lock);
    return lost;
}

static void in_child(void *arg)
{
    struct stream_tx *tx = arg;
    pdi_close(&tx->line.fd);
    pdi_close(&tx->alarm);
}

static void tx_free(podipc_sender *base)
{
    struct stream_tx *tx = tx_of(base);
    (void)tx_close(base);
    pdi_fork_forget(&tx->fork);
    if (is_forked(tx)) {
        /* What the blocks were at fork() is anybody's guess; they stay. */
        pdi_line_drop(&tx->line);
    } else {
        pdi_blocks_destroy(&tx->blocks);
        (void)pthread_cond_destroy(&tx->turn);
        (void)pthread_mutex_destroy(&tx->lock);
    }
    pdi_stream_at_close(&tx->at);
    free(tx);
}

static const struct pdi_sender_ops stream_sender_ops = {
    .loan_get = loan_get,
    .loan_discard = loan_let_go,
    .loan_let_go = loan_let_go,
    .send = tx_send,
    .send_cancel = send_cancel,
    .explain = explain,
    .stats = stats,
    .close = tx_close,
    .free = tx_free,
};

static int init_locks(struct stream_tx *tx)
{
    pthread_condattr_t attr;
    int rc = pthread_mutex_init(&tx->lock, NULL);
    if (rc == 0)
        rc = pthread_condattr_init(&attr);
    if (rc == 0) {
        (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        rc = pthread_cond_init(&tx->turn, &attr);
        (void)pthread_condattr_destroy(&attr);
    }
    return -rc;
}

int pdi_stream_sender_open(const podipc_options *options, podipc_sender **out, podipc_error *err)
{
    struct stream_tx *tx = calloc(1, sizeof *tx);
    if (!tx)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for a sender");
    tx->base.ops = &stream_sender_ops;
    tx->alarm = -1;
    int rc = pdi_stream_at_open(options, &tx->at, err);
    if (rc < 0)
        goto err;
    pdi_line_init(&tx->line, &tx->at, pdi_random64());
    rc = pdi_alarm_open(&tx->alarm);
    if (rc == 0)
        rc = init_locks(tx);
    if (rc == 0)
        rc = pdi_blocks_init(&tx->blocks, options->max_bytes, -1);
    if (rc == 0)
        rc = pdi_fork_watch(&tx->fork, in_child, tx, &tx->lock);
    if (rc < 0) {
        rc = pdi_fail(err, rc, "", "could not open a sender to %s", tx->at.name);
        goto err;
    }
    *out = &tx->base;
    return 0;
err:
    pdi_close(&tx->alarm);
    pdi_stream_at_close(&tx->at);
    free(tx);
    return rc;
}
