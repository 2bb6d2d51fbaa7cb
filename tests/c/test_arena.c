/* test_arena.c - the sender's books against a model that is too simple to be wrong. */
#include "core/arena.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "podipc.h"

enum { PAGE = 4096, LIVE = 4000 };

static struct pdi_pool pool;

static void start(void)
{
    free(pool.chunks);
    pdi_pool_init(&pool);
}

static uint64_t class_bytes(uint32_t chunk)
{
    /* What the chunk may take without touching its neighbour, seen from outside. */
    const struct pdi_chunk *c = &pool.chunks[chunk];
    const struct pdi_arena *a = &pool.arenas[c->arena];
    return a->size / a->chunks;
}

/* Takes a chunk for n bytes as the sender does: grows what has to be grown. */
static uint32_t take(uint64_t n)
{
    uint32_t chunk = PDI_NONE;
    for (;;) {
        int rc = pdi_pool_take(&pool, n, &chunk);
        if (rc == 0)
            return chunk;
        if (rc == -ENOBUFS) {
            pool.chunk_cap = pool.chunk_cap ? pool.chunk_cap * 2 : 4;
            pool.chunks = realloc(pool.chunks, pool.chunk_cap * sizeof *pool.chunks);
            MUST(pool.chunks);
            continue;
        }
        MUST(rc == -ENOSPC);
        uint64_t size = (pdi_pool_arena_size(&pool, n, UINT64_MAX) + PAGE - 1) / PAGE * PAGE;
        uint32_t slot = pdi_pool_next_slot(&pool);
        MUST(slot != PDI_NONE);
        MUST(pdi_pool_add(&pool, n, size, n <= PDI_SMALL_CHUNK) == slot);
    }
}

/* ---- size classes ---- */

static uint64_t chunk_size(uint64_t n)
{
    start();
    uint32_t first = take(n), second;
    CHECK(pool.chunks[first].offset == 0);
    if (pool.arenas[pool.chunks[first].arena].chunks == 1)
        return pool.arenas[pool.chunks[first].arena].size;
    second = take(n);
    CHECK(pool.chunks[second].arena == pool.chunks[first].arena);
    return pool.chunks[second].offset;
}

static void test_size_classes(void)
{
    uint64_t before = 0;
    for (uint64_t n = 1; n < 70000; n += n < 2000 ? 1 : 61) {
        uint64_t size = chunk_size(n);
        bool good = size >= n && size >= before && size % PODIPC_TENSOR_ALIGN == 0 &&
                    (size - n < PODIPC_TENSOR_ALIGN || (size - n) * 4 <= size);
        if (!good)
            CHECK(good);
        before = size;
    }
    for (int log = 16; log < 40; log++)
        for (int k = -2; k <= 2; k++)
            for (uint64_t part = 4; part < 8; part++) {
                uint64_t n = (part << log) / 4 + (uint64_t)(int64_t)k;
                uint64_t size = chunk_size(n);
                bool good = size >= n && (size - n) * 4 <= size + 4 * PAGE;
                if (!good)
                    CHECK(good);
            }
    /* The largest that can be asked for. */
    const uint64_t huge[] = {(uint64_t)INT64_MAX, (uint64_t)INT64_MAX - 63, UINT64_C(1) << 62,
                             (UINT64_C(1) << 62) + 1, UINT64_C(1) << 47};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        start();
        CHECK(pdi_pool_arena_size(&pool, huge[i], UINT64_MAX) >= huge[i]);
        uint32_t chunk = take(huge[i]);
        CHECK(pool.arenas[pool.chunks[chunk].arena].chunks == 1);
    }
    CHECK(true);
}

/* ---- a random life against a model ---- */

struct live {
    uint32_t chunk, refs, arena_id;
    uint64_t n;
};

static struct {
    struct live live[LIVE];
    uint32_t count;
    uint32_t last_id;
    bool any_id;
    uint8_t present[PDI_ARENAS];
    uint32_t id[PDI_ARENAS];
} model;

static void check_all(void)
{
    uint64_t total = 0;
    uint32_t lives[PDI_ARENAS] = {0};
    bool good = true;
    for (uint32_t i = 0; i < model.count; i++) {
        const struct live *l = &model.live[i];
        const struct pdi_chunk *c = &pool.chunks[l->chunk];
        const struct pdi_arena *a = &pool.arenas[c->arena];
        lives[c->arena]++;
        good &= c->refs == l->refs && a->present && a->id == l->arena_id;
        good &= c->committed >= l->n && c->offset <= a->size && l->n <= a->size - c->offset;
        for (uint32_t k = 0; k < i; k++) {
            const struct pdi_chunk *o = &pool.chunks[model.live[k].chunk];
            good &= o->arena != c->arena || o->offset + model.live[k].n <= c->offset ||
                    c->offset + l->n <= o->offset;
        }
    }
    for (uint32_t s = 0; s < PDI_ARENAS; s++) {
        const struct pdi_arena *a = &pool.arenas[s];
        if (!a->present)
            continue;
        total += a->committed;
        good &= a->live == lives[s] && a->id % PDI_ARENAS == s && a->committed <= a->size &&
                a->carved <= a->chunks;
    }
    good &= total == pool.committed;
    CHECK(good);
}

/* Sees new arenas come: an id never comes twice. */
static void look_for_arenas(void)
{
    for (uint32_t s = 0; s < PDI_ARENAS; s++) {
        const struct pdi_arena *a = &pool.arenas[s];
        if (!a->present) {
            model.present[s] = 0;
            continue;
        }
        if (model.present[s]) {
            MUST(model.id[s] == a->id);
            continue;
        }
        bool newer = !model.any_id || a->id > model.last_id;
        if (!newer)
            CHECK(newer);
        model.any_id = true;
        model.last_id = a->id;
        model.present[s] = 1;
        model.id[s] = a->id;
    }
}

static void model_take(uint64_t n)
{
    uint32_t c = take(n);
    look_for_arenas();
    uint64_t offset = UINT64_MAX, before = pool.chunks[c].committed;
    uint64_t more = pdi_pool_uncommitted(&pool, c, n, PAGE, &offset);
    if (more > 0) {
        const struct pdi_chunk *chunk = &pool.chunks[c];
        bool good = offset == chunk->offset + before && offset % PAGE == 0 && more % PAGE == 0 &&
                    before + more >= n && before + more < n + PAGE &&
                    offset + more <= pool.arenas[chunk->arena].size &&
                    before + more <= class_bytes(c);
        if (!good)
            CHECK(good);
        pdi_pool_committed(&pool, c, more);
    } else {
        MUST(before >= n);
    }
    MUST(pdi_pool_uncommitted(&pool, c, n, PAGE, &offset) == 0);
    model.live[model.count++] = (struct live){
        .chunk = c, .refs = 1, .arena_id = pool.arenas[pool.chunks[c].arena].id, .n = n};
}

static void test_random_life(uint64_t seed)
{
    start();
    memset(&model, 0, sizeof model);
    for (int step = 0; step < 60000; step++) {
        uint64_t r = check_random(&seed) % 100;
        uint64_t wave = (uint64_t)(step / 5000) % 2 ? 30 : 60; /* more come, then more go */
        if (r < wave && model.count < 300) {
            uint64_t n = check_random(&seed) >> (check_random(&seed) % 24 + 40);
            model_take(n ? n : 1);
        } else if (r < 90 && model.count > 0) {
            uint32_t i = (uint32_t)(check_random(&seed) % model.count);
            struct live *l = &model.live[i];
            if (check_random(&seed) % 4 == 0) {
                pdi_pool_ref(&pool, l->chunk);
                l->refs++;
            } else {
                pdi_pool_unref(&pool, l->chunk);
                if (--l->refs == 0)
                    *l = model.live[--model.count];
            }
        } else if (r >= 97) {
            uint32_t idle = pdi_pool_idle(&pool);
            uint64_t oldest = UINT64_MAX;
            for (uint32_t s = 0; s < PDI_ARENAS; s++)
                if (pool.arenas[s].present && pool.arenas[s].live == 0 &&
                    pool.arenas[s].used_at < oldest)
                    oldest = pool.arenas[s].used_at;
            MUST((idle == PDI_NONE) == (oldest == UINT64_MAX));
            if (idle != PDI_NONE) {
                MUST(pool.arenas[idle].used_at == oldest);
                uint64_t committed = pool.committed, of_it = pool.arenas[idle].committed;
                pdi_pool_retire(&pool, idle);
                MUST(pool.committed == committed - of_it && !pool.arenas[idle].present);
            }
        }
        if (step % 100 == 0)
            check_all();
    }
    while (model.count > 0) {
        struct live *l = &model.live[model.count - 1];
        pdi_pool_unref(&pool, l->chunk);
        if (--l->refs == 0)
            model.count--;
    }
    uint32_t idle;
    while ((idle = pdi_pool_idle(&pool)) != PDI_NONE)
        pdi_pool_retire(&pool, idle);
    CHECK(pool.committed == 0);
    for (uint32_t k = 0; k < PDI_CLASSES; k++)
        CHECK(pool.top[k] == PDI_NONE && pool.carving[k] == PDI_NONE);
    /* Every entry of the table is on the list of unused ones: none leaked. */
    uint32_t unused = 0;
    for (uint32_t c = pool.chunk_unused; c != PDI_NONE; c = pool.chunks[c].next)
        unused++;
    uint32_t lost = pool.chunk_count - unused;
    CHECK(lost == 0);
}

/* ---- rules of their own ---- */

static void test_the_warmest_comes_first(void)
{
    start();
    uint32_t a = take(1000), b = take(1000);
    pdi_pool_unref(&pool, a);
    pdi_pool_unref(&pool, b);
    CHECK(pdi_pool_has(&pool, 1000));
    CHECK(take(1000) == b);
    CHECK(take(1000) == a);
    CHECK(!pdi_pool_has(&pool, 1000));
    CHECK(pool.chunks[a].refs == 1);
}

static void test_retire_while_cutting(void)
{
    /* An arena that is not wholly cut yet is retired: nothing may be cut from it. */
    start();
    uint32_t a = take(100000);
    uint32_t slot = pool.chunks[a].arena, id = pool.arenas[slot].id;
    CHECK(pool.arenas[slot].chunks > 1);
    CHECK(pdi_pool_idle(&pool) == PDI_NONE);
    pdi_pool_unref(&pool, a);
    CHECK(pdi_pool_idle(&pool) == slot);
    pdi_pool_retire(&pool, slot);
    CHECK(pdi_pool_idle(&pool) == PDI_NONE);
    CHECK(!pdi_pool_has(&pool, 100000));
    uint32_t b = take(100000);
    CHECK(pool.arenas[pool.chunks[b].arena].id != id);
    CHECK(pool.chunks[b].committed == 0);
}

static void test_as_many_arenas_as_there_are_slots(void)
{
    start();
    static uint32_t chunk[PDI_ARENAS];
    static uint8_t seen[PDI_ARENAS];
    uint64_t n = UINT64_C(1) << 30; /* one to an arena */
    for (uint32_t i = 0; i < PDI_ARENAS; i++) {
        chunk[i] = take(n);
        uint32_t slot = pool.chunks[chunk[i]].arena;
        CHECK(!seen[slot] && pool.arenas[slot].id % PDI_ARENAS == slot);
        seen[slot] = 1;
    }
    CHECK(pdi_pool_next_slot(&pool) == PDI_NONE);
    uint32_t none;
    CHECK(pdi_pool_take(&pool, n, &none) == -ENOSPC);
    pdi_pool_unref(&pool, chunk[77]);
    uint32_t slot = pdi_pool_idle(&pool);
    CHECK(slot == pool.chunks[chunk[77]].arena);
    uint32_t id = pool.arenas[slot].id;
    pdi_pool_retire(&pool, slot);
    CHECK(pdi_pool_next_slot(&pool) == slot);
    uint32_t again = take(n);
    CHECK(pool.chunks[again].arena == slot);
    CHECK(pool.arenas[slot].id > id && pool.arenas[slot].id % PDI_ARENAS == slot);
}

int main(void)
{
    uint64_t seed = check_seed();
    test_size_classes();
    for (int i = 0; i < 4; i++)
        test_random_life(seed + (uint64_t)i);
    test_the_warmest_comes_first();
    test_retire_while_cutting();
    test_as_many_arenas_as_there_are_slots();
    free(pool.chunks);
    return checks_done();
}
