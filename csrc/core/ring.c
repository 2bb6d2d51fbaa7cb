#include "ring.h"

#include <string.h>

bool pdi_ring_refresh(struct pdi_ring_tx *tx)
{
    /* Acquire: the receiver has done reading a slot before it says so, and we
     * overwrite the slot after we have heard it. */
    uint64_t taken = pdi_observe64(&tx->returns->taken);
    if (taken - tx->taken > tx->tail - tx->taken) /* counts may wrap */
        return false;
    tx->taken = taken;
    return true;
}

void pdi_ring_push(struct pdi_ring_tx *tx, const struct pdi_descriptor *d)
{
    struct pdi_descriptor *slot = &tx->ring->slots[tx->tail % PDI_RING_SLOTS];
    memcpy((char *)slot + sizeof slot->position, (const char *)d + sizeof d->position,
           sizeof *d - sizeof d->position);
    tx->tail++;
    /* Release: descriptor and tensor bytes are written before the flag. */
    pdi_publish64(&slot->position, tx->tail);
}

const struct pdi_descriptor *pdi_ring_at(const struct pdi_ring_tx *tx, uint64_t p)
{
    return &tx->ring->slots[p % PDI_RING_SLOTS];
}

int pdi_ring_next_return(struct pdi_ring_tx *tx, uint64_t *entry)
{
    /* Acquire: the entry is written before it is counted, and the receiver's
     * last look at the tensor is before that. */
    uint64_t returned = pdi_observe64(&tx->returns->returned);
    if (returned == tx->returned)
        return 0;
    if (returned - tx->returned > PDI_RETURN_SLOTS)
        return -1;
    *entry = pdi_peek64(&tx->returns->entries[tx->returned % PDI_RETURN_SLOTS]);
    tx->returned++;
    return 1;
}

bool pdi_ring_copy(const struct pdi_ring_rx *rx, struct pdi_descriptor *out)
{
    const struct pdi_descriptor *slot = &rx->ring->slots[rx->head % PDI_RING_SLOTS];
    /* Acquire: pairs with the release in pdi_ring_push(). */
    if (pdi_observe64(&slot->position) != rx->head + 1)
        return false;
    memcpy((char *)out + sizeof out->position, (const char *)slot + sizeof slot->position,
           sizeof *out - sizeof out->position);
    return true;
}

void pdi_ring_take(struct pdi_ring_rx *rx)
{
    rx->head++;
    /* Release: we have read the slot before the sender may write it again. */
    pdi_publish64(&rx->returns->taken, rx->head);
}

void pdi_ring_return(struct pdi_ring_rx *rx, uint32_t ticket, uint32_t generation)
{
    pdi_poke64(&rx->returns->entries[rx->returned % PDI_RETURN_SLOTS],
               (uint64_t)generation << 32 | ticket);
    rx->returned++;
    /* Release: every read of the tensor, and the entry, are before this. */
    pdi_publish64(&rx->returns->returned, rx->returned);
}
