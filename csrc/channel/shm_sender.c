/* shm_sender.c - podipc_sender over shared memory: take memory, copy, hand over. */
#include "shm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/descriptor.h"
#include "../platform/cgroup.h"

/* Up to here a copy is shorter than giving the lock up and taking it again. */
#define COPY_LOCKED 4096

enum { STAGE_TAKE, STAGE_PUBLISH };

struct attempt {
    struct pdi_shm_sender *tx;
    podipc_sending *s;
    const podipc_tensor *tensor; /* of a loan */
    podipc_loan *loan;
    int64_t until;
    uint32_t *reached;
    podipc_error *err;
};

/* What ends any sending, before anything of it is done. Lock held. */
static int check(struct pdi_shm_sender *tx, podipc_error *err)
{
    if (tx->ep.closed)
        return pdi_endpoint_closed_error(err);
    if (tx->deaths_to_report > 0) {
        tx->deaths_to_report--;
        return pdi_fail(err, PODIPC_EPEERDIED, "",
                        "a receiver of %s died; what it had not taken goes to the next one, this "
                        "tensor was not sent: send it again",
                        tx->ep.path);
    }
    return tx->ep.has_complaint ? pdi_endpoint_complaint(&tx->ep, err) : 0;
}

static int take(struct pdi_shm_sender *tx, const podipc_tensor *t, int64_t until, podipc_loan *loan,
                podipc_error *err)
{
    uint64_t room = pdi_descriptor_room(t);
    if (room == 0)
        return pdi_fail(err, PODIPC_ETENSOR, "",
                        "a tensor of %llu bytes, %u dimensions and %u bytes of dtype cannot be "
                        "sent",
                        (unsigned long long)t->nbytes, t->ndim, t->type_len);
    uint32_t chunk;
    int rc = pdi_sender_take(tx, room, until, &chunk, err);
    if (rc < 0)
        return rc;
    *loan = (podipc_loan){.data = pdi_chunk_data(tx, chunk), .size = t->nbytes, .id = chunk};
    return 0;
}

/* The lock is given up while a large tensor is copied: the chunk is ours alone. */
static void copy(struct pdi_shm_sender *tx, podipc_sending *s)
{
    uint64_t n = s->tensor->nbytes;
    if (n <= COPY_LOCKED) {
        memcpy(s->own.data, s->data, n);
        return;
    }
    enum pdi_copy_way way = pdi_copy_choose(&tx->copy, n);
    pthread_mutex_unlock(&tx->ep.lock);
    int64_t start = pdi_now();
    pdi_copy(s->own.data, s->data, n, way);
    int64_t ns = pdi_now() - start;
    pthread_mutex_lock(&tx->ep.lock);
    pdi_copy_note(&tx->copy, n, way, ns);
}

static void cancel(struct pdi_shm_sender *tx, podipc_sending *s)
{
    if (s->stage == STAGE_PUBLISH && s->data)
        pdi_pool_unref(&tx->pool, (uint32_t)s->own.id);
    s->stage = STAGE_TAKE;
}

static int send_attempt(void *arg)
{
    struct attempt *a = arg;
    struct pdi_shm_sender *tx = a->tx;
    podipc_sending *s = a->s;
    pthread_mutex_lock(&tx->ep.lock);
    int rc = check(tx, a->err);
    if (rc == 0 && s->loan &&
        pdi_descriptor_room(s->tensor) - 1 >= pdi_pool_room(&tx->pool, (uint32_t)s->loan->id))
        rc = pdi_fail(a->err, PODIPC_ETENSOR, "", "this tensor does not fit the loan it lies in");
    if (rc == 0 && s->stage == STAGE_TAKE && s->data) {
        rc = take(tx, s->tensor, a->until, &s->own, a->err);
        if (rc == 0) {
            s->stage = STAGE_PUBLISH;
            copy(tx, s);
        }
    }
    if (rc == 0)
        rc = pdi_sender_publish(tx, (uint32_t)(s->data ? s->own.id : s->loan->id), s->tensor,
                                a->reached);
    if (rc != -EAGAIN)
        cancel(tx, s); /* sent: the receivers' references are the ones that count now */
    pthread_mutex_unlock(&tx->ep.lock);
    return rc;
}

static int send_op(podipc_sender *base, podipc_sending *s, int64_t until, uint32_t *reached,
                   podipc_error *err)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    if (pdi_endpoint_forked(&tx->ep))
        return pdi_endpoint_forked_error(err);
    if (s->data && s->stage == STAGE_TAKE)
        pdi_sender_pace(tx, s->tensor->nbytes, until);
    struct attempt a = {.tx = tx, .s = s, .until = until, .reached = reached, .err = err};
    return pdi_endpoint_wait(&tx->ep, send_attempt, &a, until);
}

static void send_cancel(podipc_sender *base, podipc_sending *s)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    pthread_mutex_lock(&tx->ep.lock);
    cancel(tx, s);
    pthread_mutex_unlock(&tx->ep.lock);
}

static int loan_attempt(void *arg)
{
    struct attempt *a = arg;
    pthread_mutex_lock(&a->tx->ep.lock);
    int rc = a->tx->ep.closed ? pdi_endpoint_closed_error(a->err)
                              : take(a->tx, a->tensor, a->until, a->loan, a->err);
    pthread_mutex_unlock(&a->tx->ep.lock);
    return rc;
}

static int loan_get(podipc_sender *base, const podipc_tensor *tensor, int64_t until,
                    podipc_loan *out, podipc_error *err)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    if (pdi_endpoint_forked(&tx->ep))
        return pdi_endpoint_forked_error(err);
    pdi_sender_pace(tx, tensor->nbytes, until);
    struct attempt a = {.tx = tx, .tensor = tensor, .loan = out, .until = until, .err = err};
    return pdi_endpoint_wait(&tx->ep, loan_attempt, &a, until);
}

static void loan_let_go(podipc_sender *base, podipc_loan *loan)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    if (pdi_endpoint_forked(&tx->ep))
        return;
    pthread_mutex_lock(&tx->ep.lock);
    pdi_pool_unref(&tx->pool, (uint32_t)loan->id);
    pthread_mutex_unlock(&tx->ep.lock);
}

/* ---- opening and closing ---- */

static void explain(podipc_sender *base, char *text, size_t cap)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    pdi_endpoint_explain(&tx->ep, text, cap);
    podipc_stats st;
    podipc_sender_stats(base, &st);
    size_t used = strlen(text);
    if (st.peers > 0)
        (void)snprintf(text + used, cap - used,
                       " Receivers have %llu tensors waiting and hold %llu; %llu of %llu bytes of "
                       "the budget are in use. A receiver frees memory when the arrays it received "
                       "are gone (recv(copy=True) frees it at once); max_bytes raises the budget.",
                       (unsigned long long)st.queued, (unsigned long long)st.held,
                       (unsigned long long)st.reserved, (unsigned long long)st.max_bytes);
}

static void stats(podipc_sender *base, podipc_stats *out)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    pthread_mutex_lock(&tx->ep.lock);
    *out = tx->stats;
    pdi_sender_count(tx, out);
    out->peers_died = tx->ep.died;
    out->reserved = tx->pool.committed;
    out->max_bytes = tx->max_bytes;
    pthread_mutex_unlock(&tx->ep.lock);
}

static uint64_t close_op(podipc_sender *base)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    if (!pdi_endpoint_close(&tx->ep))
        return 0;
    pthread_mutex_lock(&tx->ep.lock);
    uint64_t undelivered = pdi_sender_part(tx);
    pdi_sender_unmap(tx, false);
    pthread_mutex_unlock(&tx->ep.lock);
    return undelivered;
}

static void free_op(podipc_sender *base)
{
    struct pdi_shm_sender *tx = (struct pdi_shm_sender *)base;
    (void)close_op(base);
    pdi_sender_unmap(tx, true);
    pdi_endpoint_free(&tx->ep);
    free(tx->pool.chunks);
    free(tx->orphans);
    free(tx);
}

static const struct pdi_sender_ops sender_ops = {
    .loan_get = loan_get,
    .loan_discard = loan_let_go,
    .loan_let_go = loan_let_go,
    .send = send_op,
    .send_cancel = send_cancel,
    .explain = explain,
    .stats = stats,
    .close = close_op,
    .free = free_op,
};

int pdi_shm_sender_open(const podipc_options *options, podipc_sender **out, podipc_error *err)
{
    struct pdi_shm_sender *tx = calloc(1, sizeof *tx);
    if (!tx)
        return pdi_fail(err, -ENOMEM, "calloc", "could not allocate a sender");
    tx->base.ops = &sender_ops;
    pdi_pool_init(&tx->pool);
    for (uint32_t i = 0; i < PDI_ARENAS; i++)
        tx->memory[i].fd = -1;
    /* Half of what the container may use: the other half is for the program. */
    tx->max_bytes = options->max_bytes ? options->max_bytes : pdi_memory_limit() / 2;
    uint64_t page = pdi_page_size();
    if (tx->max_bytes < UINT64_MAX - page)
        tx->max_bytes = (tx->max_bytes + page - 1) & ~(page - 1);
    int rc = pdi_endpoint_open(&tx->ep, &pdi_sender_role, options, err);
    if (rc < 0) {
        free(tx);
        return rc;
    }
    *out = &tx->base;
    return 0;
}
