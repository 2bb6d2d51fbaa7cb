/* arena.h - which piece of which arena holds which tensor: the sender's books.
 *
 * The books are private memory of the sender; the receivers see only offsets. An
 * arena is one memfd, cut into chunks of one size class (four classes to each
 * doubling, so at most a quarter of a chunk is unused address space). A freed
 * chunk goes on top of its class's stack, and the next tensor of that class gets
 * the chunk that was used last: the warmest memory there is.
 *
 * Memory is committed (really allocated) only for what tensors of that chunk
 * needed so far. Arenas whose chunks are all free can be retired when the budget
 * is wanted for another class.
 *
 * Nothing here makes a system call or allocates: the caller supplies the tables
 * and the arenas. One thread at a time (the endpoint's lock).
 */
#ifndef PDI_ARENA_H
#define PDI_ARENA_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PDI_ARENAS = 1024, /* alive at one time; a power of two */
    PDI_CLASSES = 4 * 60,
};
#define PDI_NONE        UINT32_MAX
#define PDI_SMALL_CHUNK (UINT64_C(64) << 10) /* up to here, arenas are committed whole */
#define PDI_ARENA_MAX   (UINT64_C(64) << 20) /* of more than one chunk */

#define PDI_SMALL_ARENA     (UINT64_C(256) << 10) /* the first of a class */
#define PDI_SMALL_ARENA_MAX (UINT64_C(4) << 20)

struct pdi_chunk {
    uint64_t offset;
    uint64_t committed; /* bytes of it, from its start */
    uint32_t arena;     /* slot in `arenas` */
    uint32_t refs;      /* 0: on the stack of its class, or unused */
    uint32_t next;      /* below it on that stack, or in the list of unused entries */
    uint32_t size_class;
};

struct pdi_arena {
    uint64_t size;
    uint64_t committed; /* bytes, of all its chunks */
    uint64_t used_at;   /* pool.clock when a chunk was last freed */
    uint32_t id;        /* never given twice; id mod PDI_ARENAS is its slot */
    uint32_t size_class;
    uint32_t chunks; /* that fit */
    uint32_t carved; /* handed out at least once */
    uint32_t live;   /* with refs > 0 */
    bool present;
};

struct pdi_pool {
    struct pdi_chunk *chunks; /* the caller's; may be moved by it between calls */
    uint32_t chunk_cap, chunk_count, chunk_unused;
    struct pdi_arena arenas[PDI_ARENAS];
    uint32_t next_id;
    uint64_t committed, clock;
    uint32_t top[PDI_CLASSES];     /* stack of free chunks */
    uint32_t carving[PDI_CLASSES]; /* arena slot that still has uncut chunks, or PDI_NONE */
    uint32_t grown[PDI_CLASSES];   /* arenas made for this class: each is larger */
};

void pdi_pool_init(struct pdi_pool *pool);

/* A free chunk of at least n bytes (n > 0), with one reference. 0; -ENOSPC: add an
 * arena for n first; -ENOBUFS: give `chunks` more room first. */
int pdi_pool_take(struct pdi_pool *pool, uint64_t n, uint32_t *chunk);
/* A free chunk of at least n committed bytes of any larger class: what is left to
 * try when there is no memory for another arena. 0 or -ENOSPC. */
int pdi_pool_take_larger(struct pdi_pool *pool, uint64_t n, uint32_t *chunk);
/* Is there a freed chunk for n bytes? */
bool pdi_pool_has(const struct pdi_pool *pool, uint64_t n);
/* Are arenas for n bytes committed whole? */
bool pdi_pool_is_small(uint64_t n);
/* The least memory that a tensor of n bytes takes: a small one's chunk is committed
 * whole, a large one's as far as it is needed, both in pages. */
uint64_t pdi_pool_least(uint64_t n, uint64_t page);
/* How large an arena for tensors of n bytes should be: larger with each of its
 * class, but not above `most` if that holds one chunk, because one tensor that is
 * held keeps a whole arena. */
uint64_t pdi_pool_arena_size(const struct pdi_pool *pool, uint64_t n, uint64_t most);
/* The slot an added arena will have, or PDI_NONE if all are taken. */
uint32_t pdi_pool_next_slot(const struct pdi_pool *pool);
/* Adds an arena of `size` bytes for tensors of n bytes; returns its slot.
 * `committed`: the caller has committed all of it. */
uint32_t pdi_pool_add(struct pdi_pool *pool, uint64_t n, uint64_t size, bool committed);

/* Bytes of the chunk that are still to be committed for n bytes to fit:
 * [*offset, *offset + result) of its arena, in whole pages. */
uint64_t pdi_pool_uncommitted(const struct pdi_pool *pool, uint32_t chunk, uint64_t n,
                              uint64_t page, uint64_t *offset);
void pdi_pool_committed(struct pdi_pool *pool, uint32_t chunk, uint64_t more);
void pdi_pool_uncommit(struct pdi_pool *pool, uint32_t chunk, uint64_t less);

static inline void pdi_pool_ref(struct pdi_pool *pool, uint32_t chunk)
{
    pool->chunks[chunk].refs++;
}
/* Bytes that fit the chunk. */
uint64_t pdi_pool_room(const struct pdi_pool *pool, uint32_t chunk);
/* Drops one reference; the last one frees the chunk. */
void pdi_pool_unref(struct pdi_pool *pool, uint32_t chunk);

/* The arena with no live chunk that has been idle longest, or PDI_NONE. */
uint32_t pdi_pool_idle(const struct pdi_pool *pool);
/* Forgets an idle arena; the caller unmaps it. */
void pdi_pool_retire(struct pdi_pool *pool, uint32_t slot);

#endif
