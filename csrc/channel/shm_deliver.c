/* shm_deliver.c - from a chunk to the receivers, and back: tickets, rings, who gets
 * what, and what becomes of the messages of a receiver that is gone. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../core/descriptor.h"
#include "../platform/socket.h"
#include "shm.h"

static struct pdi_shm_sender *sender_of(struct pdi_endpoint *ep)
{
    return (struct pdi_shm_sender *)(void *)((char *)ep - offsetof(struct pdi_shm_sender, ep));
}

/* ---- tickets: what a receiver has to give back ---- */

static uint32_t ticket_issue(struct pdi_tx_link *link, uint32_t chunk, uint64_t number)
{
    uint32_t t = link->ticket_free;
    if (t != PDI_NONE)
        link->ticket_free = link->tickets[t].next;
    else
        t = link->ticket_count++;
    link->tickets[t].chunk = chunk;
    link->tickets[t].position = link->ring.tail;
    link->tickets[t].number = number;
    link->out++;
    return t;
}

static bool ticket_left(const struct pdi_tx_link *link)
{
    return link->ticket_free != PDI_NONE || link->ticket_count < PDI_RETURN_SLOTS;
}

/* Ends a ticket; returns its chunk, whose reference is the caller's now. */
static uint32_t ticket_end(struct pdi_tx_link *link, uint32_t t)
{
    uint32_t chunk = link->tickets[t].chunk;
    link->tickets[t].chunk = PDI_NONE;
    link->tickets[t].generation++;
    link->tickets[t].next = link->ticket_free;
    link->ticket_free = t;
    link->out--;
    return chunk;
}

/* ---- links ---- */

static struct pdi_link *create(struct pdi_endpoint *ep)
{
    (void)ep;
    struct pdi_tx_link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->link.sock = link->link.door.fd = link->link.bell.fd = -1;
    link->ring_memory.fd = link->returns_memory.fd = -1;
    link->ticket_free = PDI_NONE;
    link->pending = PDI_NONE;
    return &link->link;
}

static void drop(struct pdi_link *l)
{
    struct pdi_tx_link *link = pdi_tx(l);
    pdi_link_clear(l);
    pdi_memfd_close(&link->ring_memory);
    pdi_memfd_close(&link->returns_memory);
    free(link);
}

static int own_fd(struct pdi_link *l)
{
    struct pdi_tx_link *link = pdi_tx(l);
    if (!link->ring_memory.map) {
        int rc = pdi_memfd_create("podipc-ring", sizeof(struct pdi_ring), true, false,
                                  &link->ring_memory, NULL);
        if (rc < 0)
            return rc;
    }
    link->ring.ring = link->ring_memory.map;
    return link->ring_memory.fd;
}

static int greet(struct pdi_endpoint *ep, struct pdi_link *l, int fd)
{
    (void)ep;
    struct pdi_tx_link *link = pdi_tx(l);
    int rc = pdi_memfd_attach(fd, sizeof(struct pdi_returns), false, &link->returns_memory);
    if (rc < 0)
        return rc;
    pdi_memfd_close_fd(&link->returns_memory);
    pdi_memfd_close_fd(&link->ring_memory);
    link->ring.returns = link->returns_memory.map;
    return 0;
}

static uint32_t slots(const struct pdi_tx_link *link)
{
    return pdi_is_latest(link) ? PDI_LATEST_SLOTS : PDI_RING_SLOTS;
}

/* Hangs up on a peer that wrote what cannot be; the control thread does the rest. */
static void disown(struct pdi_tx_link *link)
{
    link->link.state = PDI_LEAVING;
    pdi_link_bye(&link->link, 0);
    pdi_socket_hang_up(link->link.sock);
}

/* Did the receiver ever have the message of this ticket, and has it still? */
static bool ticket_is_out(struct pdi_tx_link *link, uint32_t t, uint32_t generation)
{
    if (t >= link->ticket_count || link->tickets[t].chunk == PDI_NONE ||
        link->tickets[t].generation != generation)
        return false;
    /* It says that it took before it says that it let go. */
    return link->tickets[t].position < link->ring.taken ||
           (pdi_ring_refresh(&link->ring) && link->tickets[t].position < link->ring.taken);
}

static void collect_link(struct pdi_shm_sender *tx, struct pdi_tx_link *link)
{
    uint64_t entry;
    int rc;
    while ((rc = pdi_ring_next_return(&link->ring, &entry)) > 0) {
        uint32_t t = (uint32_t)entry;
        if (!ticket_is_out(link, t, (uint32_t)(entry >> 32))) {
            rc = -1;
            break;
        }
        pdi_pool_unref(&tx->pool, ticket_end(link, t));
    }
    if (rc < 0)
        disown(link);
}

void pdi_sender_collect(struct pdi_shm_sender *tx)
{
    for (uint32_t i = 0; i < tx->ep.link_count; i++) {
        enum pdi_link_state state = tx->ep.links[i]->state;
        if (state == PDI_JOINED || state == PDI_LEAVING)
            collect_link(tx, pdi_tx(tx->ep.links[i]));
    }
}

/* ---- pushing ---- */

static bool has_room(struct pdi_shm_sender *tx, struct pdi_tx_link *link)
{
    if (link->link.state == PDI_JOINED && !ticket_left(link))
        collect_link(tx, link);
    if (link->link.state != PDI_JOINED || !ticket_left(link))
        return false;
    if (pdi_ring_untaken(&link->ring) < slots(link))
        return true;
    if (!pdi_ring_refresh(&link->ring)) {
        disown(link);
        return false;
    }
    return pdi_ring_untaken(&link->ring) < slots(link);
}

/* Gives the message in `chunk`, described by *d, to one receiver that has room.
 * -EAGAIN: the receiver does not read its socket. */
static int push(struct pdi_shm_sender *tx, struct pdi_tx_link *link, uint32_t chunk,
                uint64_t number, struct pdi_descriptor *d)
{
    int rc = pdi_sender_announce(tx, link, chunk);
    if (rc < 0)
        return rc;
    const struct pdi_chunk *c = &tx->pool.chunks[chunk];
    pdi_pool_ref(&tx->pool, chunk);
    d->arena = tx->pool.arenas[c->arena].id;
    d->offset = c->offset;
    d->ticket = ticket_issue(link, chunk, number);
    d->generation = link->tickets[d->ticket].generation;
    pdi_ring_push(&link->ring, d);
    pdi_link_call(&tx->ep, &link->link);
    return 0;
}

/* The receiver with room that has the fewest messages waiting. */
static struct pdi_tx_link *choose(struct pdi_shm_sender *tx)
{
    struct pdi_tx_link *best = NULL;
    uint32_t n = tx->ep.link_count;
    if (n == 1) {
        best = pdi_tx(tx->ep.links[0]);
        return has_room(tx, best) ? best : NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct pdi_tx_link *link = pdi_tx(tx->ep.links[(tx->turn + i) % n]);
        if (link->link.state == PDI_JOINED)
            (void)pdi_ring_refresh(&link->ring);
        if (has_room(tx, link) &&
            (!best || pdi_ring_untaken(&link->ring) < pdi_ring_untaken(&best->ring)))
            best = link;
    }
    tx->turn++;
    return best;
}

/* Messages left by receivers that are gone come before any new one. */
static int flush_orphans(struct pdi_shm_sender *tx)
{
    while (tx->orphan_count > 0) {
        struct pdi_tx_link *link = choose(tx);
        if (!link)
            return -EAGAIN;
        struct pdi_orphan *first = &tx->orphans[0];
        if (push(tx, link, first->chunk, first->number, &first->descriptor) < 0)
            return -EAGAIN;
        pdi_pool_unref(&tx->pool, first->chunk);
        tx->stats.redelivered++;
        memmove(first, first + 1, --tx->orphan_count * sizeof *first);
    }
    return 0;
}

static void set_pending(struct pdi_shm_sender *tx, struct pdi_tx_link *link, uint32_t chunk,
                        const struct pdi_descriptor *d)
{
    if (link->pending != PDI_NONE) {
        tx->stats.skipped++;
        pdi_pool_unref(&tx->pool, link->pending);
    }
    pdi_pool_ref(&tx->pool, chunk);
    link->pending = chunk;
    link->pending_descriptor = *d;
    pdi_poke32(&link->ring.ring->pending, 1);
}

static void push_pending(struct pdi_shm_sender *tx, struct pdi_tx_link *link)
{
    if (link->pending == PDI_NONE)
        return;
    /* Cleared first: who sees the message must not ask for it once more. */
    pdi_poke32(&link->ring.ring->pending, 0);
    if (push(tx, link, link->pending, tx->next_number, &link->pending_descriptor) < 0) {
        pdi_poke32(&link->ring.ring->pending, 1);
        return;
    }
    pdi_pool_unref(&tx->pool, link->pending);
    link->pending = PDI_NONE;
}

/* To every subscriber, or to none as long as one that wants all has no room. */
static int publish_all(struct pdi_shm_sender *tx, uint32_t chunk, struct pdi_descriptor *d,
                       uint32_t *reached)
{
    uint32_t joined = 0;
    for (uint32_t i = 0; i < tx->ep.link_count; i++) {
        struct pdi_tx_link *link = pdi_tx(tx->ep.links[i]);
        if (link->link.state != PDI_JOINED)
            continue;
        if (!pdi_is_latest(link) &&
            (!has_room(tx, link) || pdi_sender_announce(tx, link, chunk) < 0))
            return -EAGAIN;
        joined++;
    }
    for (uint32_t i = 0; i < tx->ep.link_count; i++) {
        struct pdi_tx_link *link = pdi_tx(tx->ep.links[i]);
        if (link->link.state != PDI_JOINED)
            continue;
        if (pdi_is_latest(link) && (link->pending != PDI_NONE || !has_room(tx, link) ||
                                    pdi_sender_announce(tx, link, chunk) < 0))
            set_pending(tx, link, chunk, d);
        else
            (void)push(tx, link, chunk, tx->next_number, d);
        if (pdi_is_latest(link) && has_room(tx, link))
            push_pending(tx, link);
    }
    tx->stats.unheard += joined == 0;
    if (reached)
        *reached = joined;
    return 0;
}

int pdi_sender_publish(struct pdi_shm_sender *tx, uint32_t chunk, const podipc_tensor *t,
                       uint32_t *reached)
{
    /* Zeroed: what is unused of it goes to the other container, too. */
    struct pdi_descriptor d = {0};
    struct pdi_tx_link *link = NULL;
    if (!(tx->ep.flags & PDI_BROADCAST)) {
        if (tx->orphan_count > 0 && flush_orphans(tx) < 0)
            return -EAGAIN;
        link = choose(tx);
        if (!link)
            return -EAGAIN;
    }
    pdi_descriptor_write(&d, t, pdi_chunk_data(tx, chunk));
    int rc =
        link ? push(tx, link, chunk, tx->next_number, &d) : publish_all(tx, chunk, &d, reached);
    if (rc < 0)
        return -EAGAIN;
    if (link && reached)
        *reached = 1;
    tx->next_number++;
    tx->stats.messages++;
    tx->stats.bytes += t->nbytes;
    return 0;
}

/* ---- what the control thread tells us; lock held ---- */

static void add_orphan(struct pdi_shm_sender *tx, const struct pdi_descriptor *d, uint32_t chunk,
                       uint64_t number)
{
    if (tx->orphan_count == tx->orphan_cap) {
        uint32_t cap = tx->orphan_cap ? tx->orphan_cap * 2 : PDI_RING_SLOTS;
        struct pdi_orphan *more = realloc(tx->orphans, cap * sizeof *more);
        if (!more) {
            pdi_pool_unref(&tx->pool, chunk);
            tx->stats.lost_taken++;
            return;
        }
        tx->orphans = more;
        tx->orphan_cap = cap;
    }
    /* In the order in which they were sent, whoever had them before. */
    uint32_t at = tx->orphan_count++;
    for (; at > 0 && tx->orphans[at - 1].number > number; at--)
        tx->orphans[at] = tx->orphans[at - 1];
    struct pdi_orphan *o = &tx->orphans[at];
    memcpy((char *)&o->descriptor, (const char *)d, sizeof *d);
    o->chunk = chunk;
    o->number = number;
}

/* A receiver takes no more: what it had not taken goes to the others. */
static void take_back(struct pdi_shm_sender *tx, struct pdi_tx_link *link)
{
    collect_link(tx, link);
    (void)pdi_ring_refresh(&link->ring);
    for (uint64_t p = link->ring.taken; p != link->ring.tail; p++) {
        const struct pdi_descriptor *d = pdi_ring_at(&link->ring, p);
        uint64_t number = link->tickets[d->ticket].number;
        uint32_t chunk = ticket_end(link, d->ticket);
        if (tx->ep.flags & PDI_BROADCAST)
            pdi_pool_unref(&tx->pool, chunk);
        else
            add_orphan(tx, d, chunk, number);
    }
    link->ring.taken = link->ring.tail;
    if (link->pending != PDI_NONE) {
        pdi_pool_unref(&tx->pool, link->pending);
        link->pending = PDI_NONE;
    }
}

static void bye(struct pdi_endpoint *ep, struct pdi_link *link)
{
    take_back(sender_of(ep), pdi_tx(link));
}

static void lost(struct pdi_endpoint *ep, struct pdi_link *l)
{
    struct pdi_shm_sender *tx = sender_of(ep);
    struct pdi_tx_link *link = pdi_tx(l);
    take_back(tx, link);
    for (uint32_t t = 0; t < link->ticket_count; t++)
        if (link->tickets[t].chunk != PDI_NONE) {
            pdi_pool_unref(&tx->pool, ticket_end(link, t));
            tx->stats.lost_taken += !l->said_bye;
        }
    if (!l->said_bye) {
        ep->died++;
        tx->deaths_to_report++;
    }
    pdi_link_remove(ep, l);
    drop(l);
}

static int packet(struct pdi_endpoint *ep, struct pdi_link *l, const struct pdi_packet *p, int *fd)
{
    (void)fd;
    if (p->kind != PDI_NUDGE)
        return PODIPC_ECORRUPT;
    struct pdi_shm_sender *tx = sender_of(ep);
    if (has_room(tx, pdi_tx(l)))
        push_pending(tx, pdi_tx(l));
    return 0;
}

static bool tick(struct pdi_endpoint *ep)
{
    struct pdi_shm_sender *tx = sender_of(ep);
    if (tx->orphan_count == 0)
        return false;
    (void)flush_orphans(tx);
    bool joined = false;
    for (uint32_t i = 0; i < ep->link_count; i++)
        joined |= ep->links[i]->state == PDI_JOINED;
    return tx->orphan_count > 0 && joined;
}

static void joined(struct pdi_endpoint *ep, struct pdi_link *link)
{
    (void)link;
    (void)tick(ep);
}

const struct pdi_role_ops pdi_sender_role = {
    .role = PDI_ROLE_SENDER,
    .create = create,
    .own_fd = own_fd,
    .greet = greet,
    .joined = joined,
    .packet = packet,
    .bye = bye,
    .lost = lost,
    .drop = drop,
    .tick = tick,
};

/* ---- at the end ---- */

static void part_with(struct pdi_shm_sender *tx, struct pdi_link *link, int64_t until, bool forked)
{
    struct pdi_tx_link *t = pdi_tx(link);
    /* The newest must arrive; the ring is larger than such a link may use. */
    if (!forked && link->state == PDI_JOINED)
        push_pending(tx, t);
    /* Also to a receiver whose answer we have not read: for it we may have joined. */
    if (!forked)
        pdi_link_bye(link, until);
    /* What the receiver has is safe in its own mapping; our books close. */
    for (uint32_t i = 0; i < t->ticket_count; i++)
        if (t->tickets[i].chunk != PDI_NONE)
            pdi_pool_unref(&tx->pool, ticket_end(t, i));
    if (t->pending != PDI_NONE)
        pdi_pool_unref(&tx->pool, t->pending);
    pdi_link_remove(&tx->ep, link);
    drop(link);
}

uint64_t pdi_sender_part(struct pdi_shm_sender *tx)
{
    bool forked = pdi_endpoint_forked(&tx->ep);
    if (!forked && tx->orphan_count > 0)
        (void)flush_orphans(tx);
    int64_t until = pdi_now() + PDI_GOODBYE_NS;
    while (tx->ep.link_count > 0)
        part_with(tx, tx->ep.links[0], until, forked);
    uint64_t undelivered = forked ? 0 : tx->orphan_count; /* the parent still has them */
    while (tx->orphan_count > 0)
        pdi_pool_unref(&tx->pool, tx->orphans[--tx->orphan_count].chunk);
    return undelivered;
}

void pdi_sender_count(struct pdi_shm_sender *tx, podipc_stats *out)
{
    out->queued = tx->orphan_count;
    for (uint32_t i = 0; i < tx->ep.link_count; i++) {
        struct pdi_tx_link *link = pdi_tx(tx->ep.links[i]);
        if (link->link.state == PDI_GREETING)
            continue;
        collect_link(tx, link);
        (void)pdi_ring_refresh(&link->ring);
        out->peers += link->link.state == PDI_JOINED;
        out->queued += pdi_ring_untaken(&link->ring);
        out->held += link->out - pdi_ring_untaken(&link->ring);
    }
}
