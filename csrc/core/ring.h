/* ring.h - the two rings of a link.
 *
 * The story. A sender numbers the messages of a link 0, 1, 2, ... Message p lies
 * in slot p mod PDI_RING_SLOTS. The sender fills the slot and then publishes
 * position = p + 1 in it: the flag that the slot is whole is part of the slot, so
 * a receiver that polls for p reads one line and finds flag and message together.
 * The receiver copies the descriptor and then publishes `taken` = p + 1. The
 * sender reuses a slot only when `taken` has passed it, so nobody reads what is
 * being written.
 *
 * A sender that dies while it fills a slot has not published it: the message was
 * never sent. A receiver that dies has either published `taken` past a message
 * (it had it) or not (nobody had it, and the sender, whose ring still holds the
 * descriptor, gives it to somebody else). There is no third state.
 *
 * What a receiver lets go, in any order, it writes into `entries`, then
 * publishes `returned`. The sender reads entries up to there. The ring cannot
 * overflow: a link has PDI_RETURN_SLOTS tickets, each is in at most one place.
 *
 * Each side keeps its own counts in private memory and never reads them back
 * from where the other could have written them; what it reads from the other is
 * checked against what can be (see the return values).
 *
 * One thread at a time on each side (the endpoint's lock).
 */
#ifndef PDI_RING_H
#define PDI_RING_H

#include <stdbool.h>

#include "layout.h"

/* ---- sender ---- */
struct pdi_ring_tx {
    struct pdi_ring *ring;             /* own, writable */
    const struct pdi_returns *returns; /* the receiver's, read-only */
    uint64_t tail;                     /* messages pushed */
    uint64_t taken;                    /* last value seen */
    uint64_t returned;                 /* entries read */
};

/* Looks at `taken`. False if the value cannot be (the peer is broken). */
bool pdi_ring_refresh(struct pdi_ring_tx *tx);
/* Messages pushed and, as far as known, not taken. */
static inline uint64_t pdi_ring_untaken(const struct pdi_ring_tx *tx)
{
    return tx->tail - tx->taken;
}
/* Publishes *d (its `position` is ignored). The caller has seen that there is room. */
void pdi_ring_push(struct pdi_ring_tx *tx, const struct pdi_descriptor *d);
/* The descriptor of untaken message p, for giving it to another receiver. */
const struct pdi_descriptor *pdi_ring_at(const struct pdi_ring_tx *tx, uint64_t p);
/* 1: *entry is the next thing let go; 0: nothing; -1: the value cannot be. */
int pdi_ring_next_return(struct pdi_ring_tx *tx, uint64_t *entry);

/* ---- receiver ---- */
struct pdi_ring_rx {
    const struct pdi_ring *ring; /* the sender's, read-only */
    struct pdi_returns *returns; /* own, writable */
    uint64_t head;               /* messages taken */
    uint64_t returned;           /* entries written */
};

/* Is there a message? A hint for spinning: no lock needed. */
static inline bool pdi_ring_ready(const struct pdi_ring_rx *rx)
{
    const struct pdi_descriptor *slot = &rx->ring->slots[rx->head % PDI_RING_SLOTS];
    return pdi_observe64(&slot->position) == rx->head + 1;
}
/* Copies the next descriptor; true if there was one. It stays untaken. */
bool pdi_ring_copy(const struct pdi_ring_rx *rx, struct pdi_descriptor *out);
/* The message copied last is now taken. */
void pdi_ring_take(struct pdi_ring_rx *rx);
/* Lets one message go. */
void pdi_ring_return(struct pdi_ring_rx *rx, uint32_t ticket, uint32_t generation);

#endif
