#include "arena.h"

#include <errno.h>
#include <string.h>

#define UNIT UINT64_C(64) /* smallest chunk, and the alignment of all */

/* Classes in units: 1 2 3 4, then 5 6 7 8, 10 12 14 16, 20 24 28 32, ... */
static uint32_t class_of(uint64_t n)
{
    uint64_t units = (n + UNIT - 1) / UNIT;
    if (units <= 4)
        return (uint32_t)units - 1;
    uint32_t log = 63 - (uint32_t)__builtin_clzll(units - 1);
    uint32_t step = (uint32_t)((units - 1) >> (log - 2)) - 4;
    return 4 + 4 * (log - 2) + step;
}

static uint64_t class_size(uint32_t c)
{
    if (c < 4)
        return (c + 1) * UNIT;
    return ((uint64_t)(5 + (c - 4) % 4) << ((c - 4) / 4)) * UNIT;
}

void pdi_pool_init(struct pdi_pool *pool)
{
    memset(pool, 0, sizeof *pool);
    pool->chunk_unused = PDI_NONE;
    memset(pool->top, 0xff, sizeof pool->top);
    memset(pool->carving, 0xff, sizeof pool->carving);
}

static uint32_t new_chunk(struct pdi_pool *pool)
{
    uint32_t c = pool->chunk_unused;
    if (c != PDI_NONE) {
        pool->chunk_unused = pool->chunks[c].next;
        return c;
    }
    return pool->chunk_count < pool->chunk_cap ? pool->chunk_count++ : PDI_NONE;
}

static void hand_out(struct pdi_pool *pool, uint32_t c)
{
    pool->chunks[c].refs = 1;
    pool->arenas[pool->chunks[c].arena].live++;
}

int pdi_pool_take(struct pdi_pool *pool, uint64_t n, uint32_t *chunk)
{
    uint32_t k = class_of(n);
    uint32_t c = pool->top[k];
    if (c != PDI_NONE) {
        pool->top[k] = pool->chunks[c].next;
    } else {
        uint32_t slot = pool->carving[k];
        if (slot == PDI_NONE)
            return -ENOSPC;
        c = new_chunk(pool);
        if (c == PDI_NONE)
            return -ENOBUFS;
        struct pdi_arena *arena = &pool->arenas[slot];
        uint64_t size = class_size(k);
        pool->chunks[c] = (struct pdi_chunk){
            .offset = arena->carved * size,
            .committed = size <= PDI_SMALL_CHUNK ? size : 0,
            .arena = slot,
            .size_class = k,
        };
        if (++arena->carved == arena->chunks)
            pool->carving[k] = PDI_NONE;
    }
    hand_out(pool, c);
    *chunk = c;
    return 0;
}

int pdi_pool_take_larger(struct pdi_pool *pool, uint64_t n, uint32_t *chunk)
{
    for (uint32_t k = class_of(n); k < PDI_CLASSES; k++) {
        for (uint32_t *link = &pool->top[k]; *link != PDI_NONE; link = &pool->chunks[*link].next) {
            uint32_t c = *link;
            if (pool->chunks[c].committed < n)
                continue;
            *link = pool->chunks[c].next;
            hand_out(pool, c);
            *chunk = c;
            return 0;
        }
    }
    return -ENOSPC;
}

bool pdi_pool_has(const struct pdi_pool *pool, uint64_t n)
{
    return pool->top[class_of(n)] != PDI_NONE;
}

bool pdi_pool_is_small(uint64_t n)
{
    return class_size(class_of(n)) <= PDI_SMALL_CHUNK;
}

uint64_t pdi_pool_least(uint64_t n, uint64_t page)
{
    uint64_t size = pdi_pool_is_small(n) ? class_size(class_of(n)) : n;
    return (size + page - 1) & ~(page - 1);
}

uint64_t pdi_pool_arena_size(const struct pdi_pool *pool, uint64_t n, uint64_t most)
{
    uint32_t k = class_of(n);
    uint64_t size = class_size(k);
    bool small = size <= PDI_SMALL_CHUNK;
    uint64_t largest = small ? PDI_SMALL_ARENA_MAX : PDI_ARENA_MAX;
    if (most > largest)
        most = largest;
    if (size >= most)
        return (size + 4095) & ~UINT64_C(4095);
    uint32_t grown = pool->grown[k] < 8 ? pool->grown[k] : 8;
    uint64_t wish = (small ? PDI_SMALL_ARENA : 8 * size) << grown;
    if (wish > most)
        wish = most;
    return (wish / size * size + 4095) & ~UINT64_C(4095);
}

uint32_t pdi_pool_next_slot(const struct pdi_pool *pool)
{
    for (uint32_t i = 0; i < PDI_ARENAS; i++) {
        uint32_t slot = (pool->next_id + i) % PDI_ARENAS;
        if (!pool->arenas[slot].present)
            return slot;
    }
    return PDI_NONE;
}

uint32_t pdi_pool_add(struct pdi_pool *pool, uint64_t n, uint64_t size, bool committed)
{
    uint32_t slot = pdi_pool_next_slot(pool);
    while (pool->next_id % PDI_ARENAS != slot)
        pool->next_id++;
    uint32_t k = class_of(n);
    pool->arenas[slot] = (struct pdi_arena){
        .size = size,
        .committed = committed ? size : 0,
        .id = pool->next_id++,
        .size_class = k,
        .chunks = (uint32_t)(size / class_size(k)),
        .used_at = pool->clock,
        .present = true,
    };
    pool->committed += pool->arenas[slot].committed;
    pool->carving[k] = slot;
    pool->grown[k]++;
    return slot;
}

uint64_t pdi_pool_uncommitted(const struct pdi_pool *pool, uint32_t chunk, uint64_t n,
                              uint64_t page, uint64_t *offset)
{
    const struct pdi_chunk *c = &pool->chunks[chunk];
    if (n <= c->committed)
        return 0;
    uint64_t size = class_size(c->size_class);
    uint64_t want = (n + page - 1) & ~(page - 1);
    if (want > size)
        want = size;
    *offset = c->offset + c->committed;
    return want - c->committed;
}

void pdi_pool_committed(struct pdi_pool *pool, uint32_t chunk, uint64_t more)
{
    struct pdi_chunk *c = &pool->chunks[chunk];
    c->committed += more;
    pool->arenas[c->arena].committed += more;
    pool->committed += more;
}

void pdi_pool_uncommit(struct pdi_pool *pool, uint32_t chunk, uint64_t less)
{
    struct pdi_chunk *c = &pool->chunks[chunk];
    c->committed -= less;
    pool->arenas[c->arena].committed -= less;
    pool->committed -= less;
}

uint64_t pdi_pool_room(const struct pdi_pool *pool, uint32_t chunk)
{
    return class_size(pool->chunks[chunk].size_class);
}

void pdi_pool_unref(struct pdi_pool *pool, uint32_t chunk)
{
    struct pdi_chunk *c = &pool->chunks[chunk];
    if (--c->refs > 0)
        return;
    struct pdi_arena *arena = &pool->arenas[c->arena];
    arena->live--;
    arena->used_at = ++pool->clock;
    c->next = pool->top[c->size_class];
    pool->top[c->size_class] = chunk;
}

uint32_t pdi_pool_idle(const struct pdi_pool *pool)
{
    uint32_t best = PDI_NONE;
    for (uint32_t s = 0; s < PDI_ARENAS; s++) {
        const struct pdi_arena *a = &pool->arenas[s];
        if (a->present && a->live == 0 &&
            (best == PDI_NONE || a->used_at < pool->arenas[best].used_at))
            best = s;
    }
    return best;
}

void pdi_pool_retire(struct pdi_pool *pool, uint32_t slot)
{
    struct pdi_arena *arena = &pool->arenas[slot];
    uint32_t k = arena->size_class;
    uint32_t *link = &pool->top[k];
    while (*link != PDI_NONE) {
        uint32_t c = *link;
        if (pool->chunks[c].arena != slot) {
            link = &pool->chunks[c].next;
            continue;
        }
        *link = pool->chunks[c].next;
        pool->chunks[c].next = pool->chunk_unused;
        pool->chunk_unused = c;
    }
    if (pool->carving[k] == slot)
        pool->carving[k] = PDI_NONE;
    if (pool->grown[k] > 0)
        pool->grown[k]--;
    pool->committed -= arena->committed;
    arena->present = false;
}
