/* shm_memory.c - the sender's arenas: memfds under the books of core/arena.h. */
#include "shm.h"

#include <errno.h>
#include <stdlib.h>

#include "../platform/cgroup.h"
#include "../platform/huge.h"

/* The budget is cut into this many arenas or more, if tensors are small enough. */
#define ARENAS_AT_LEAST 16

#define COMMIT_AT_ONCE (UINT64_C(256) << 10) /* bytes; also where nobody may wait */
#define COMMIT_STEP    (UINT64_C(2) << 20)   /* the first two, then doubled up to */
#define COMMIT_LARGEST (UINT64_C(16) << 20)

static int grow_chunks(struct pdi_pool *pool, podipc_error *err)
{
    uint32_t cap = pool->chunk_cap ? pool->chunk_cap * 2 : 64;
    struct pdi_chunk *more = realloc(pool->chunks, cap * sizeof *more);
    if (!more)
        return pdi_fail(err, -ENOMEM, "realloc", "could not grow the table of chunks");
    pool->chunks = more;
    pool->chunk_cap = cap;
    return 0;
}

static void retire(struct pdi_shm_sender *tx, uint32_t slot)
{
    uint32_t id = tx->pool.arenas[slot].id;
    for (uint32_t i = 0; i < tx->ep.link_count; i++) {
        struct pdi_tx_link *link = pdi_tx(tx->ep.links[i]);
        if (link->link.state == PDI_JOINED && link->known[slot] == (uint64_t)id + 1)
            /* Should the peer not read: it drops the old arena of this slot when
             * the next one comes. */
            (void)pdi_link_packet(&link->link, PDI_GONE, id, 0, -1);
        link->known[slot] = 0;
    }
    pdi_pool_retire(&tx->pool, slot);
    pdi_memfd_close(&tx->memory[slot]);
}

/* Makes `need` more bytes fit the budget. -EAGAIN: not before something is let go. */
static int make_room(struct pdi_shm_sender *tx, uint64_t need)
{
    while (need > tx->max_bytes - tx->pool.committed || tx->pool.committed > tx->max_bytes) {
        uint32_t idle = pdi_pool_idle(&tx->pool);
        if (idle == PDI_NONE)
            return -EAGAIN;
        retire(tx, idle);
    }
    return 0;
}

/* What a refusal by the memory limit means: idle arenas can be given up (0: try
 * again), tensors in flight will be (-EAGAIN), or there is no hope. */
static int after_limit(struct pdi_shm_sender *tx, uint64_t need)
{
    uint32_t idle = pdi_pool_idle(&tx->pool);
    if (idle != PDI_NONE) {
        retire(tx, idle);
        return 0;
    }
    uint64_t available = pdi_memory_available();
    if (need > available && need - available <= tx->pool.committed)
        return -EAGAIN;
    return PODIPC_EMEMLIMIT;
}

/* The same for a lack of descriptors, of which every arena has one. */
static int after_files(struct pdi_shm_sender *tx, int rc)
{
    uint32_t idle = pdi_pool_idle(&tx->pool);
    if (idle == PDI_NONE)
        return tx->pool.committed > 0 ? -EAGAIN : rc;
    retire(tx, idle);
    return 0;
}

static int add_arena(struct pdi_shm_sender *tx, uint64_t n, podipc_error *err)
{
    uint64_t page = pdi_page_size();
    uint64_t size = pdi_pool_arena_size(&tx->pool, n, tx->max_bytes / ARENAS_AT_LEAST);
    bool whole = pdi_pool_is_small(n);
    size = (size + page - 1) & ~(page - 1);
    for (;;) {
        int rc = whole ? make_room(tx, size) : 0;
        if (rc < 0)
            return rc;
        uint32_t slot = pdi_pool_next_slot(&tx->pool);
        if (slot == PDI_NONE) {
            uint32_t idle = pdi_pool_idle(&tx->pool);
            if (idle == PDI_NONE)
                return -EAGAIN;
            retire(tx, idle);
            continue;
        }
        rc = pdi_memfd_create("podipc-arena", size, whole, false, &tx->memory[slot], err);
        if (rc == PODIPC_EMEMLIMIT)
            rc = after_limit(tx, size);
        else if (rc == -EMFILE || rc == -ENFILE)
            rc = after_files(tx, rc);
        else if (rc == 0)
            break;
        if (rc < 0)
            return rc;
    }
    (void)pdi_pool_add(&tx->pool, n, size, whole);
    return 0;
}

/* How much of `more` bytes at `offset` to commit next, after `done`. A small step
 * first, which shows what the kernel can do; each ends where a huge page does. */
static uint64_t step(uint64_t more, uint64_t done, uint64_t offset)
{
    uint64_t most = done < COMMIT_STEP ? COMMIT_STEP : done;
    if (most > COMMIT_LARGEST)
        most = COMMIT_LARGEST;
    return more > most ? most - offset % PDI_HUGE : more;
}

/* Commits the chunk's memory in steps, without the lock: clearing pages takes a
 * second for a gigabyte, and the control thread must see a death meanwhile. The
 * chunk is ours alone, and what was committed of it stays so: called again after
 * -EAGAIN this goes on where it stopped. */
static int commit(struct pdi_shm_sender *tx, uint32_t chunk, uint64_t n, int64_t until,
                  podipc_error *err)
{
    for (;;) {
        uint64_t offset = 0;
        uint64_t more = pdi_pool_uncommitted(&tx->pool, chunk, n, pdi_page_size(), &offset);
        if (more == 0)
            return 0;
        if (more > COMMIT_AT_ONCE && (until == 0 || pdi_now() >= until))
            return -EAGAIN;
        int rc = make_room(tx, more);
        if (rc < 0)
            return rc;
        /* The whole need is compared with the limit before the first step. */
        uint64_t available = pdi_memory_available();
        if (more <= available) {
            more = step(more, tx->pool.chunks[chunk].committed, offset);
            struct pdi_memfd *memory = &tx->memory[tx->pool.chunks[chunk].arena];
            pdi_pool_committed(&tx->pool, chunk, more);
            pthread_mutex_unlock(&tx->ep.lock);
            rc = pdi_memfd_commit(memory, offset, more, err);
            pthread_mutex_lock(&tx->ep.lock);
            if (rc == 0)
                continue;
            pdi_pool_uncommit(&tx->pool, chunk, more);
        } else {
            rc = pdi_memfd_limit(more, available, err);
        }
        if (rc == PODIPC_EMEMLIMIT)
            rc = after_limit(tx, more);
        if (rc < 0)
            return rc;
    }
}

/* A chunk of the class of n, with its memory. */
static int take_fitting(struct pdi_shm_sender *tx, uint64_t n, int64_t until, uint32_t *chunk,
                        podipc_error *err)
{
    int rc;
    while ((rc = pdi_pool_take(&tx->pool, n, chunk)) < 0) {
        rc = rc == -ENOBUFS ? grow_chunks(&tx->pool, err) : add_arena(tx, n, err);
        if (rc < 0)
            return rc;
    }
    rc = commit(tx, *chunk, n, until, err);
    if (rc < 0)
        pdi_pool_unref(&tx->pool, *chunk);
    return rc;
}

int pdi_sender_take(struct pdi_shm_sender *tx, uint64_t n, int64_t until, uint32_t *chunk,
                    podipc_error *err)
{
    uint64_t least = pdi_pool_least(n, pdi_page_size());
    if (least > tx->max_bytes)
        return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", least, tx->max_bytes,
                             "a tensor of %llu bytes takes %llu bytes of memory, more than the "
                             "budget of this channel, max_bytes=%llu: pass a larger max_bytes to "
                             "the sender, and see that resources.limits.memory of its container "
                             "leaves room for it",
                             (unsigned long long)n, (unsigned long long)least,
                             (unsigned long long)tx->max_bytes);
    /* Small chunks are many: look for returned ones only when none is left. A
     * large one should be the one that was used last, while it is warm. */
    if (!pdi_pool_is_small(n) || !pdi_pool_has(&tx->pool, n))
        pdi_sender_collect(tx);
    int rc = take_fitting(tx, n, until, chunk, err);
    /* An arena of another class may be held by one tensor while the rest of it is
     * free: a place too large is better than waiting for that one. */
    if (rc == -EAGAIN && pdi_pool_take_larger(&tx->pool, n, chunk) == 0)
        return 0;
    return rc;
}

int pdi_sender_announce(struct pdi_shm_sender *tx, struct pdi_tx_link *link, uint32_t chunk)
{
    uint32_t slot = tx->pool.chunks[chunk].arena;
    const struct pdi_arena *arena = &tx->pool.arenas[slot];
    if (link->known[slot] == (uint64_t)arena->id + 1)
        return 0;
    int rc = pdi_link_packet(&link->link, PDI_ARENA, arena->id, arena->size, tx->memory[slot].fd);
    if (rc == 0)
        link->known[slot] = (uint64_t)arena->id + 1;
    pdi_poke32(&tx->ep.socket_full, rc == -EAGAIN);
    return rc;
}

void pdi_sender_unmap(struct pdi_shm_sender *tx, bool all)
{
    for (uint32_t slot = 0; slot < PDI_ARENAS; slot++) {
        if (!tx->pool.arenas[slot].present || (!all && tx->pool.arenas[slot].live > 0))
            continue;
        pdi_pool_retire(&tx->pool, slot);
        pdi_memfd_close(&tx->memory[slot]);
    }
}
