#include "blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/cgroup.h"
#include "../platform/pages.h"
#include "../platform/rendezvous.h"

enum {
    SMALLEST = 256,
    MAPPED_FROM = 256 << 10, /* larger blocks are mappings of their own */
    PAGE = 4096,
};

#define INLINE_OFFSET ((sizeof(struct pdi_block) + 63) / 64 * 64)

uint64_t pdi_blocks_default_budget(void)
{
    return pdi_memory_limit() / 2;
}

int pdi_blocks_init(struct pdi_blocks *blocks, uint64_t max_bytes, int alarm)
{
    memset(blocks, 0, sizeof *blocks);
    blocks->max_bytes = max_bytes ? max_bytes : pdi_blocks_default_budget();
    blocks->alarm = alarm;
    blocks->all.prev = blocks->all.next = &blocks->all;
    return -pthread_mutex_init(&blocks->lock, NULL);
}

/* The class of n bytes, and how large its blocks are: n rounded up to a quarter
 * of the power of two below it. */
static uint32_t class_of(uint64_t n, uint64_t *cap)
{
    if (n <= SMALLEST) {
        *cap = SMALLEST;
        return 0;
    }
    unsigned top = 63 - (unsigned)__builtin_clzll(n - 1); /* 2^top <= n - 1 */
    uint64_t step = UINT64_C(1) << (top - 2);
    *cap = (n + step - 1) / step * step;
    return top * 4 + (uint32_t)((n - 1) >> (top - 2) & 3);
}

static void destroy(struct pdi_blocks *blocks, struct pdi_block *b)
{
    b->prev->next = b->next;
    b->next->prev = b->prev;
    blocks->reserved -= b->charge;
    if (b->type != b->near_type)
        free(b->type);
    if (b->data != (char *)b + INLINE_OFFSET)
        pdi_pages_unmap(b->data, b->cap);
    free(b);
}

static void destroy_free(struct pdi_blocks *blocks, uint64_t until_reserved)
{
    for (int i = PDI_BLOCK_CLASSES; i-- > 0;)
        while (blocks->free[i] && blocks->reserved > until_reserved) {
            struct pdi_block *b = blocks->free[i];
            blocks->free[i] = b->below;
            destroy(blocks, b);
        }
}

void pdi_blocks_destroy(struct pdi_blocks *blocks)
{
    while (blocks->all.next != &blocks->all)
        destroy(blocks, blocks->all.next);
    (void)pthread_mutex_destroy(&blocks->lock);
}

void pdi_blocks_retire(struct pdi_blocks *blocks)
{
    pthread_mutex_lock(&blocks->lock);
    blocks->alarm = -1;
    blocks->max_bytes = 0;
    destroy_free(blocks, 0);
    pthread_mutex_unlock(&blocks->lock);
}

static int refuse(uint64_t n, uint64_t have, podipc_error *err)
{
    return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", n, have,
                         "a tensor of %llu bytes needs memory of which this container has %llu "
                         "bytes left: raise its memory limit in the Pod's manifest, or let go of "
                         "tensors that are held",
                         (unsigned long long)n, (unsigned long long)have);
}

static int make(struct pdi_blocks *blocks, uint64_t n, uint64_t cap, uint32_t size_class,
                struct pdi_block **out, podipc_error *err)
{
    if (cap >= MAPPED_FROM)
        cap = (cap + PAGE - 1) / PAGE * PAGE;
    uint64_t have = pdi_memory_available_each(&blocks->unseen, cap);
    if (have < cap) {
        destroy_free(blocks, 0);
        have = pdi_memory_available();
        if (have < cap)
            return refuse(n, have, err);
    }
    struct pdi_block *b;
    void *pages = NULL;
    if (cap < MAPPED_FROM) {
        b = aligned_alloc(64, INLINE_OFFSET + cap);
    } else {
        pages = pdi_pages_map(cap);
        b = pages ? aligned_alloc(64, INLINE_OFFSET) : NULL;
    }
    if (!b) {
        if (pages)
            pdi_pages_unmap(pages, cap);
        return pdi_fail(err, -ENOMEM, "mmap", "no memory for a tensor of %llu bytes",
                        (unsigned long long)n);
    }
    *b = (struct pdi_block){
        .prev = &blocks->all,
        .next = blocks->all.next,
        .data = pages ? pages : (char *)b + INLINE_OFFSET,
        .cap = cap,
        .charge = cap,
        .size_class = size_class,
        .type_cap = sizeof b->near_type,
    };
    b->type = b->near_type;
    b->next->prev = b;
    blocks->all.next = b;
    blocks->reserved += cap;
    *out = b;
    return 0;
}

/* Room in the budget for `cap` more bytes: 0, or -EAGAIN while others hold it. A
 * single block may exceed it by its rounding up. */
static int make_room(struct pdi_blocks *blocks, uint64_t cap)
{
    uint64_t max = blocks->max_bytes > cap ? blocks->max_bytes - cap : 0;
    if (blocks->reserved > max)
        destroy_free(blocks, max);
    return blocks->reserved > max && blocks->lent > 0 ? -EAGAIN : 0;
}

static int long_type(struct pdi_block *b, uint32_t type_len, podipc_error *err)
{
    char *type = malloc(type_len);
    if (!type)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for a type text of %u bytes",
                        (unsigned)type_len);
    if (b->type != b->near_type)
        free(b->type);
    b->type = type;
    b->type_cap = type_len;
    return 0;
}

static int lend(struct pdi_blocks *blocks, uint64_t n, struct pdi_block **out, podipc_error *err)
{
    uint64_t cap;
    uint32_t size_class = class_of(n, &cap);
    struct pdi_block *b = blocks->free[size_class];
    if (b && b->cap >= n) {
        blocks->free[size_class] = b->below;
        *out = b;
        return 0;
    }
    int rc = make_room(blocks, cap);
    return rc < 0 ? rc : make(blocks, n, cap, size_class, out, err);
}

int pdi_blocks_lend(struct pdi_blocks *blocks, uint64_t n, uint32_t type_len,
                    struct pdi_block **out, podipc_error *err)
{
    pthread_mutex_lock(&blocks->lock);
    int rc;
    if (n > blocks->max_bytes)
        rc = pdi_fail_need(err, PODIPC_EMEMLIMIT, "", n, blocks->max_bytes,
                           "a tensor of %llu bytes does not fit the budget of %llu bytes: pass a "
                           "larger max_bytes, or raise the container's memory limit",
                           (unsigned long long)n, (unsigned long long)blocks->max_bytes);
    else
        rc = lend(blocks, n, out, err);
    if (rc == 0 && type_len > (*out)->type_cap) {
        rc = long_type(*out, type_len, err);
        if (rc < 0)
            destroy(blocks, *out);
    }
    if (rc == 0) {
        blocks->lent++;
        blocks->lent_bytes += (*out)->charge;
    } else if (rc == -EAGAIN) {
        blocks->wanted = true;
    }
    pthread_mutex_unlock(&blocks->lock);
    return rc;
}

void pdi_blocks_take_back(struct pdi_blocks *blocks, struct pdi_block *b)
{
    pthread_mutex_lock(&blocks->lock);
    blocks->lent--;
    blocks->lent_bytes -= b->charge;
    if (blocks->reserved > blocks->max_bytes) {
        destroy(blocks, b);
    } else {
        b->below = blocks->free[b->size_class];
        blocks->free[b->size_class] = b;
    }
    if (blocks->wanted && blocks->alarm >= 0) {
        blocks->wanted = false;
        pdi_alarm(blocks->alarm);
    }
    pthread_mutex_unlock(&blocks->lock);
}

void pdi_blocks_count(struct pdi_blocks *blocks, uint64_t *reserved, uint64_t *lent)
{
    pthread_mutex_lock(&blocks->lock);
    *reserved = blocks->reserved;
    *lent = blocks->lent;
    pthread_mutex_unlock(&blocks->lock);
}
