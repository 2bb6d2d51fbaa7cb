/* stream_receiver.c - podipc_receiver on many connections.
 *
 * Connections that may have something to read stand in a queue; each gives one
 * tensor and goes to its end, so nobody is starved. One that has nothing leaves
 * the queue until epoll tells of news (edge-triggered: once). The lock is not held
 * while waiting.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../core/skips.h"
#include "../platform/cgroup.h"
#include "../platform/clock.h"
#include "../platform/fifo.h"
#include "../platform/io.h"
#include "../platform/random.h"
#include "../platform/rendezvous.h"
#include "stream.h"

enum {
    QUOTA_AT_ONCE = 256 << 10, /* bytes read by a call that must not wait */
    NEWS_EVERY = 8,            /* tensors, before looking for news of other senders */
    EVENTS = 32,
};
#define SPIN_NS   50000 /* as long as a wake-up takes, and the answer of the woken */
#define ALARM_TAG UINT64_MAX

struct stream_rx {
    podipc_receiver base;
    struct pdi_stream_at at;
    struct pdi_special_id place; /* of the socket or FIFO */
    pthread_mutex_t lock;
    struct pdi_fork_hook fork;
    struct pdi_greeter greeter;
    struct pdi_blocks blocks;
    int epoll;
    int alarm; /* raised by close(), when memory comes back, and for other waiting threads */
    unsigned waiting;
    bool closed;
    bool can_spin;                    /* not with less than two processors */
    uint32_t spin_pause, spin_pauses; /* waits to come that do not, of how many */

    struct pdi_conn **conns; /* index: low half of the tag */
    uint32_t conn_cap, conn_count, generation;
    struct pdi_conn *first, **last; /* the queue */
    uint32_t since_news, blocked;

    bool joined; /* some sender, ever */
    bool ended;  /* a sender closed in order since that was last said, */
    bool said;   /* or it was said, and until another joins is said again */
    uint64_t strangers;
    bool has_news; /* somebody was turned away: `news` says why */
    podipc_error news;
    uint64_t messages, bytes, died;
};

static struct stream_rx *rx_of(podipc_receiver *base)
{
    return (struct stream_rx *)base;
}

static bool is_forked(struct stream_rx *rx)
{
    return pdi_forked(&rx->fork);
}

static void enqueue(struct stream_rx *rx, struct pdi_conn *c)
{
    if (c->queued)
        return;
    c->queued = true;
    c->next = NULL;
    *rx->last = c;
    rx->last = &c->next;
}

static struct pdi_conn *dequeue(struct stream_rx *rx)
{
    struct pdi_conn *c = rx->first;
    if (!c)
        return NULL;
    rx->first = c->next;
    if (!rx->first)
        rx->last = &rx->first;
    c->queued = false;
    return c;
}

/* ---- joining and leaving ---- */

static int conn_slot(struct stream_rx *rx, uint32_t *slot)
{
    for (*slot = 0; *slot < rx->conn_cap; ++*slot)
        if (!rx->conns[*slot])
            return 0;
    uint32_t cap = rx->conn_cap ? rx->conn_cap * 2 : 8;
    struct pdi_conn **conns = realloc(rx->conns, cap * sizeof(struct pdi_conn *));
    if (!conns)
        return -ENOMEM;
    memset(conns + rx->conn_cap, 0, (cap - rx->conn_cap) * sizeof(struct pdi_conn *));
    rx->conns = conns;
    rx->conn_cap = cap;
    return 0;
}

/* Takes `fd` over if it succeeds. */
static int add_conn(struct stream_rx *rx, int fd, enum pdi_conn_state state, uint64_t sender)
{
    uint32_t slot;
    int rc = conn_slot(rx, &slot);
    if (rc < 0)
        return rc;
    struct pdi_conn *c = pdi_conn_new(fd, state, rx->at.name);
    if (!c)
        return -ENOMEM;
    c->sender = sender;
    c->tag = (uint64_t)rx->generation++ << 32 | slot;
    rc = pdi_epoll_add(rx->epoll, fd, c->tag, true);
    if (rc < 0) {
        c->fd = -1;
        pdi_conn_free(c, &rx->blocks, false);
        return rc;
    }
    rx->conns[slot] = c;
    rx->conn_count++;
    return 0;
}

static void drop_conn(struct stream_rx *rx, struct pdi_conn *c, bool bye)
{
    rx->conns[(uint32_t)c->tag] = NULL;
    rx->conn_count--;
    rx->blocked -= c->blocked;
    pdi_conn_free(c, &rx->blocks, bye);
}

static void note_join(struct stream_rx *rx)
{
    rx->joined = true;
    rx->ended = rx->ended && !rx->said;
    rx->said = false;
}

/* From the greeter. */
static int joined(void *arg, int fd, uint64_t sender)
{
    struct stream_rx *rx = arg;
    int rc = rx->closed ? PODIPC_ECLOSED : add_conn(rx, fd, PDI_CONN_HEAD, sender);
    if (rc == 0)
        note_join(rx);
    return rc;
}

static void turned_away(void *arg, const podipc_error *why)
{
    struct stream_rx *rx = arg;
    rx->news = *why;
    if (!rx->has_news)
        pdi_alarm(rx->alarm);
    rx->has_news = true;
}

/* A FIFO has one sender in its life; the next one gets a new FIFO. */
static int renew_fifo(struct stream_rx *rx, podipc_error *err)
{
    int fd;
    int rc = pdi_fifo_make(rx->at.path, rx->at.mode, &rx->place, &fd, &rx->place, err);
    if (rc < 0)
        return rc;
    rc = add_conn(rx, fd, PDI_CONN_UNUSED, 0);
    if (rc < 0) {
        pdi_close(&fd);
        rc = pdi_fail(err, rc, "epoll_ctl", "could not go on with the FIFO %s", rx->at.name);
    }
    return rc;
}

/* After a FIFO could not be renewed: tries again, so that the error is told, and is
 * not the end. */
static int find_again(struct stream_rx *rx, podipc_error *err)
{
    return rx->at.method == PODIPC_FIFO && rx->conn_count == 0 ? renew_fifo(rx, err) : 0;
}

/* A connection is over with result rc of pdi_conn_read(). What recv() returns, 0 to
 * go on. */
static int leave(struct stream_rx *rx, struct pdi_conn *c, int rc)
{
    rx->strangers += rc == PDI_CONN_STRANGER;
    if (c->state > PDI_CONN_GREETING) {
        rx->ended |= rc == PDI_CONN_LEFT;
        rx->died += rc != PDI_CONN_LEFT;
    }
    /* The new one first: without a reader the name would be free to take. */
    if (rx->at.method == PODIPC_FIFO)
        (void)renew_fifo(rx, NULL);
    drop_conn(rx, c, false);
    return rc < 0 ? rc : 0;
}

/* ---- receiving ---- */

static void note_events(struct stream_rx *rx, const struct pdi_event *events, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t tag = events[i].tag;
        uint32_t slot = (uint32_t)tag;
        if (tag == ALARM_TAG) {
            if (!rx->closed)
                pdi_alarm_clear(rx->alarm);
        } else if (slot < rx->conn_cap && rx->conns[slot] && rx->conns[slot]->tag == tag) {
            rx->conns[slot]->drained = false;
            rx->conns[slot]->hung_up |= events[i].hung_up;
            enqueue(rx, rx->conns[slot]);
        }
    }
}

static void wait_news(struct stream_rx *rx, int64_t until)
{
    struct pdi_event events[EVENTS];
    int epoll = rx->epoll;
    rx->waiting++;
    if (until)
        pthread_mutex_unlock(&rx->lock);
    int n = pdi_epoll_wait(epoll, events, EVENTS, until);
    if (until)
        pthread_mutex_lock(&rx->lock);
    rx->waiting--;
    note_events(rx, events, n);
    rx->since_news = 0;
}

/* Looks for news without sleeping: to be woken costs both sides more than many
 * looks. Where that was in vain, the next ones sleep at once, twice as many each
 * time, so that it costs nothing where news is rare. Whether there is any. */
static bool spin(struct stream_rx *rx, int64_t until)
{
    if (!rx->can_spin || rx->spin_pause > 0) {
        rx->spin_pause -= rx->spin_pause > 0;
        return false;
    }
    int64_t end = pdi_now() + SPIN_NS;
    do {
        wait_news(rx, 0);
        if (rx->first || rx->closed) {
            rx->spin_pauses = 0;
            return true;
        }
    } while (pdi_now() < (end < until ? end : until));
    rx->spin_pause = rx->spin_pauses = pdi_skips_after(rx->spin_pauses);
    return false;
}

static void unblock(struct stream_rx *rx)
{
    for (uint32_t i = 0; rx->blocked > 0 && i < rx->conn_cap; i++)
        if (rx->conns[i] && rx->conns[i]->blocked) {
            rx->conns[i]->blocked = false;
            rx->blocked--;
            enqueue(rx, rx->conns[i]);
        }
}

static void deliver(struct stream_rx *rx, struct pdi_conn *c, podipc_message *out)
{
    const podipc_tensor *t = &c->tensor;
    out->tensor.nbytes = t->nbytes;
    out->tensor.flags = t->flags;
    out->tensor.ndim = t->ndim;
    out->tensor.type_len = t->type_len;
    out->tensor.type = t->type;
    memcpy(out->tensor.shape, t->shape, t->ndim * sizeof(int64_t));
    out->data = c->block->data;
    out->scarce = false;
    out->place = 0;
    out->owner = c->block;
    out->id = c->taken;
    out->sender = c->sender;
    c->block = NULL;
    rx->messages++;
    rx->bytes += t->nbytes;
    if (!c->drained || c->begin != c->end)
        enqueue(rx, c);
}

/* Goes through the queue. 0: *out is filled in. -EAGAIN: nothing more to be had.
 * -EINPROGRESS: the time is used up. Or an error. */
static int read_queue(struct stream_rx *rx, podipc_message *out, uint64_t quota, int64_t stop,
                      podipc_error *err)
{
    for (;;) {
        if (rx->conn_count > 1 && ++rx->since_news >= NEWS_EVERY)
            wait_news(rx, 0);
        struct pdi_conn *c = dequeue(rx);
        if (!c)
            return -EAGAIN;
        bool was_in = c->state > PDI_CONN_GREETING;
        int rc = pdi_conn_read(c, &rx->blocks, quota, stop, err);
        if (!was_in && c->state > PDI_CONN_GREETING)
            note_join(rx);
        if (rc == 0) {
            deliver(rx, c, out);
            return 0;
        }
        if (c->over) {
            rc = leave(rx, c, rc);
            if (rc < 0)
                return rc;
        } else if (rc == -ENOBUFS) {
            c->blocked = true;
            rx->blocked++;
        } else if (rc != -EAGAIN) {
            enqueue(rx, c);
            return rc;
        }
    }
}

static int closed(const struct stream_rx *rx, podipc_error *err)
{
    return pdi_fail(err, PODIPC_ECLOSED, "", "this receiver at %s is closed", rx->at.name);
}

/* Senders that are connected, or on a FIFO has written. */
static uint64_t peers(const struct stream_rx *rx)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < rx->conn_cap; i++)
        n += rx->conns[i] && rx->conns[i]->state > PDI_CONN_GREETING;
    return n;
}

/* What is to be said when there is nothing to read. 0: nothing. */
static int no_tensor(struct stream_rx *rx, podipc_error *err)
{
    if (rx->has_news) {
        rx->has_news = false;
        if (err)
            *err = rx->news;
        return rx->news.code;
    }
    /* Whatever the order they left in: nobody is there, and every death was told. */
    if (rx->ended && peers(rx) == 0) {
        rx->said = true;
        return pdi_fail(err, PODIPC_ECLOSED, "",
                        "every sender to %s has closed and nothing is left", rx->at.name);
    }
    return 0;
}

static int recv_locked(struct stream_rx *rx, int64_t until, podipc_message *out, podipc_error *err)
{
    int64_t stop = until ? pdi_now() + PDI_STREAM_QUANTUM : 0;
    if (stop < until)
        stop = until;
    unblock(rx);
    /* With one sender, reading is the quickest way to see whether there is anything. */
    if (until == 0 && rx->conn_count == 1)
        for (uint32_t i = 0; i < rx->conn_cap; i++)
            if (rx->conns[i]) {
                rx->conns[i]->drained = false;
                enqueue(rx, rx->conns[i]);
            }
    if (until == 0 && rx->conn_count > 1 && !rx->first)
        wait_news(rx, 0);
    for (;;) {
        if (rx->closed)
            return closed(rx, err);
        int rc = find_again(rx, err);
        if (rc < 0)
            return rc;
        rc = read_queue(rx, out, until ? UINT64_MAX : QUOTA_AT_ONCE, stop, err);
        if (rc == -EINPROGRESS)
            return -EAGAIN;
        if (rc == -EAGAIN)
            rc = no_tensor(rx, err);
        else
            return rc;
        if (rc < 0)
            return rc;
        if (until == 0 || pdi_now() >= until)
            return -EAGAIN;
        if (!spin(rx, until))
            wait_news(rx, until);
        unblock(rx);
    }
}

static int rx_recv(podipc_receiver *base, int64_t until, podipc_message *out, podipc_error *err)
{
    struct stream_rx *rx = rx_of(base);
    if (is_forked(rx))
        return pdi_fail(err, PODIPC_EFORKED, "",
                        "this receiver at %s belongs to the parent process: open one in this "
                        "process",
                        rx->at.name);
    pthread_mutex_lock(&rx->lock);
    int rc = recv_locked(rx, until, out, err);
    /* There may be more for the others who wait, or the same end; epoll has told us alone. */
    if (rx->waiting > 0 && (rx->first || rc == PODIPC_ECLOSED) && !rx->closed)
        pdi_alarm(rx->alarm);
    if (rx->closed && rx->waiting == 0) {
        pdi_close(&rx->epoll);
        pdi_close(&rx->alarm);
    }
    pthread_mutex_unlock(&rx->lock);
    return rc;
}

static void release(podipc_receiver *base, podipc_message *message)
{
    struct stream_rx *rx = rx_of(base);
    if (!message->owner || is_forked(rx))
        return;
    pdi_blocks_take_back(&rx->blocks, message->owner);
    message->owner = NULL;
    message->data = NULL;
}

/* ---- the rest ---- */

static const char *explain_partial(const struct stream_rx *rx)
{
    for (uint32_t i = 0; i < rx->conn_cap; i++)
        if (rx->conns[i] && rx->conns[i]->state > PDI_CONN_HEAD)
            return ", one in the middle of a tensor";
    return "";
}

static void explain(podipc_receiver *base, char *text, size_t cap)
{
    struct stream_rx *rx = rx_of(base);
    uint64_t reserved, lent;
    if (is_forked(rx)) {
        (void)snprintf(text, cap, "This receiver belongs to the parent process");
        return;
    }
    pthread_mutex_lock(&rx->lock);
    uint64_t n = peers(rx), strangers = rx->strangers + rx->greeter.strangers;
    pdi_blocks_count(&rx->blocks, &reserved, &lent);
    if (rx->blocked)
        (void)snprintf(text, cap,
                       "%llu received tensors are held and the budget of %llu bytes is used up: "
                       "let go of some, or pass a larger max_bytes",
                       (unsigned long long)lent, (unsigned long long)rx->blocks.max_bytes);
    else if (n > 0)
        (void)snprintf(text, cap, "%llu sender%s connected to %s, but nothing whole has come%s",
                       (unsigned long long)n, n == 1 ? " is" : "s are", rx->at.name,
                       explain_partial(rx));
    else
        (void)snprintf(text, cap, "No sender is connected to %s%s: start one, or %s", rx->at.name,
                       rx->joined ? " any more" : "", pdi_stream_at_advice(&rx->at));
    size_t at = strlen(text);
    if (strangers)
        (void)snprintf(text + at, cap - at, "; %llu who were not podipc senders were turned away",
                       (unsigned long long)strangers);
    pthread_mutex_unlock(&rx->lock);
}

static void stats(podipc_receiver *base, podipc_stats *out)
{
    struct stream_rx *rx = rx_of(base);
    if (is_forked(rx))
        return;
    pthread_mutex_lock(&rx->lock);
    out->messages = rx->messages;
    out->bytes = rx->bytes;
    out->peers = peers(rx);
    out->peers_died = rx->died;
    pdi_blocks_count(&rx->blocks, &out->reserved, &out->held);
    out->max_bytes = rx->blocks.max_bytes;
    pthread_mutex_unlock(&rx->lock);
}

static void farewell(struct stream_rx *rx)
{
    bool fifo = rx->at.method == PODIPC_FIFO;
    if (rx->at.method != PODIPC_TCP)
        pdi_special_remove(rx->at.path, &rx->place);
    for (uint32_t i = 0; i < rx->conn_cap; i++) {
        struct pdi_conn *c = rx->conns[i];
        if (!c)
            continue;
        /* The name is gone by now, so nobody is refused by the permissions. */
        if (fifo && pdi_conn_is_clean(c))
            pdi_fifo_mark_closed(c->fd);
        drop_conn(rx, c, !fifo);
    }
    rx->first = NULL;
    rx->last = &rx->first;
}

static void rx_close(podipc_receiver *base)
{
    struct stream_rx *rx = rx_of(base);
    if (is_forked(rx))
        return;
    pthread_mutex_lock(&rx->lock);
    bool first = !rx->closed;
    rx->closed = true;
    if (first) {
        /* Before anybody wakes: the last one closes the alarm, and a tensor that is let
         * go must not raise what that number then is. */
        pdi_blocks_retire(&rx->blocks);
        pdi_alarm(rx->alarm);
    }
    pthread_mutex_unlock(&rx->lock);
    if (!first)
        return;
    pdi_greeter_stop(&rx->greeter);
    pthread_mutex_lock(&rx->lock);
    pdi_greeter_close(&rx->greeter);
    farewell(rx);
    if (rx->waiting == 0) {
        pdi_close(&rx->epoll);
        pdi_close(&rx->alarm);
    }
    pthread_mutex_unlock(&rx->lock);
}

static void in_child(void *arg)
{
    struct stream_rx *rx = arg;
    for (uint32_t i = 0; i < rx->conn_cap; i++)
        if (rx->conns[i])
            pdi_close(&rx->conns[i]->fd);
    pdi_greeter_close(&rx->greeter);
    pdi_close(&rx->epoll);
    pdi_close(&rx->alarm);
}

static void rx_free(podipc_receiver *base)
{
    struct stream_rx *rx = rx_of(base);
    rx_close(base);
    pdi_fork_forget(&rx->fork);
    if (!is_forked(rx)) {
        pdi_blocks_destroy(&rx->blocks);
        (void)pthread_mutex_destroy(&rx->lock);
    }
    /* In a child, blocks and connections stay as they were at fork(). */
    free(rx->conns);
    pdi_stream_at_close(&rx->at);
    free(rx);
}

static const struct pdi_receiver_ops stream_receiver_ops = {
    .recv = rx_recv,
    .release = release,
    .explain = explain,
    .stats = stats,
    .close = rx_close,
    .free = rx_free,
};

/* Starts to listen, last of all: from here on senders come. */
static int start(struct stream_rx *rx, podipc_error *err)
{
    int fd;
    int rc = pdi_stream_listen(&rx->at, &fd, &rx->place, err);
    if (rc < 0)
        return rc;
    if (rx->at.method == PODIPC_FIFO) {
        rc = add_conn(rx, fd, PDI_CONN_UNUSED, 0);
        if (rc < 0)
            pdi_close(&fd);
    } else {
        rx->greeter = (struct pdi_greeter){
            .listener = fd,
            .stop = -1,
            .lock = &rx->lock,
            .where = rx->at.name,
            .id = pdi_random64(),
            .max_bytes = rx->blocks.max_bytes,
            .joined = joined,
            .turned_away = turned_away,
            .arg = rx,
        };
        rc = pdi_greeter_start(&rx->greeter);
        if (rc < 0)
            pdi_greeter_close(&rx->greeter);
    }
    if (rc == 0)
        return 0;
    if (rx->at.method != PODIPC_TCP)
        pdi_special_remove(rx->at.path, &rx->place);
    return pdi_fail(err, rc, "", "could not open a receiver at %s", rx->at.name);
}

static int prepare(struct stream_rx *rx, uint64_t max_bytes, podipc_error *err)
{
    int rc = pdi_alarm_open(&rx->alarm);
    if (rc == 0)
        rc = pdi_epoll_open(&rx->epoll);
    if (rc == 0)
        rc = pdi_epoll_add(rx->epoll, rx->alarm, ALARM_TAG, false);
    if (rc == 0)
        rc = -pthread_mutex_init(&rx->lock, NULL);
    if (rc == 0)
        rc = pdi_blocks_init(&rx->blocks, max_bytes, rx->alarm);
    if (rc == 0)
        rc = pdi_fork_watch(&rx->fork, in_child, rx, &rx->lock);
    return rc < 0 ? pdi_fail(err, rc, "", "could not open a receiver at %s", rx->at.name) : 0;
}

int pdi_stream_receiver_open(const podipc_options *options, podipc_receiver **out,
                             podipc_error *err)
{
    struct stream_rx *rx = calloc(1, sizeof *rx);
    if (!rx)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for a receiver");
    rx->base.ops = &stream_receiver_ops;
    rx->epoll = rx->alarm = -1;
    rx->greeter.listener = rx->greeter.stop = -1;
    rx->last = &rx->first;
    rx->can_spin = pdi_cpus() >= 2;
    int rc = pdi_stream_at_open(options, &rx->at, err);
    if (rc < 0)
        goto err;
    rc = prepare(rx, options->max_bytes, err);
    if (rc < 0)
        goto err;
    rc = start(rx, err);
    if (rc < 0) {
        pdi_fork_forget(&rx->fork);
        goto err;
    }
    *out = &rx->base;
    return 0;
err:
    pdi_close(&rx->alarm);
    pdi_close(&rx->epoll);
    pdi_stream_at_close(&rx->at);
    free(rx->conns);
    free(rx);
    return rc;
}
