/* shm_pace.c - a sender of large tensors does not run ahead of its receivers.
 *
 * A sender that is faster for a moment piles up messages, and with them chunks in
 * use. When both go on at one pace they never become fewer again: each tensor is
 * written into memory, and read from memory, that has left the caches since, or
 * that even has to be committed first, which costs ten times the copy. So while
 * each receiver has WARM bytes waiting, a sender gives them a moment: as long as
 * the copy may take, and no longer than a wake-up or two would.
 *
 * A receiver that has other things to do is not worth waiting for. A vain look is
 * followed by sends without one (core/skips.h). */
#include "../core/atomics.h"
#include "../core/skips.h"
#include "shm.h"

#define WARM     (UINT64_C(2) << 20) /* bytes; one message is never too much */
#define LOOK_MAX UINT64_C(200000)    /* ns */

#define BYTES_PER_NS 8 /* of a slow copy */

/* Has every receiver enough of these waiting? One that takes the newest only never
 * has more than it should. Lock held. */
static bool is_ahead(struct pdi_shm_sender *tx, uint64_t n)
{
    uint32_t joined = 0;
    for (uint32_t i = 0; i < tx->ep.link_count; i++) {
        struct pdi_tx_link *link = pdi_tx(tx->ep.links[i]);
        if (link->link.state != PDI_JOINED)
            continue;
        (void)pdi_ring_refresh(&link->ring);
        uint64_t waiting = pdi_ring_untaken(&link->ring);
        if (waiting <= 1 || n < WARM / waiting || pdi_is_latest(link))
            return false;
        joined++;
    }
    return joined > 0;
}

/* Is it, and should it look whether that changes? */
static bool begin(struct pdi_shm_sender *tx, uint64_t n)
{
    pthread_mutex_lock(&tx->ep.lock);
    bool ahead = is_ahead(tx, n);
    bool look = ahead && tx->pace_skip == 0;
    if (ahead && !look)
        tx->pace_skip--;
    pthread_mutex_unlock(&tx->ep.lock);
    return look;
}

/* Is it still? What has been learnt is noted when the look is over. */
static bool look(struct pdi_shm_sender *tx, uint64_t n, bool last)
{
    pthread_mutex_lock(&tx->ep.lock);
    bool ahead = !tx->ep.closed && is_ahead(tx, n);
    if (!ahead) {
        tx->pace_vain = 0;
    } else if (last) {
        tx->pace_skip = tx->pace_vain = pdi_skips_after(tx->pace_vain);
    }
    pthread_mutex_unlock(&tx->ep.lock);
    return ahead && !last;
}

void pdi_sender_pace(struct pdi_shm_sender *tx, uint64_t n, int64_t until)
{
    if (n <= PDI_SMALL_CHUNK || until == 0 || !tx->ep.can_spin || !begin(tx, n))
        return;
    int64_t end = pdi_now() + (int64_t)(n < LOOK_MAX * BYTES_PER_NS ? n / BYTES_PER_NS : LOOK_MAX);
    if (end > until)
        end = until;
    do {
        for (int i = 0; i < 32; i++)
            pdi_relax();
    } while (look(tx, n, pdi_now() >= end));
}
