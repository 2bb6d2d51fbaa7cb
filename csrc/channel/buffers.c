#include "buffers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../core/error.h"
#include "../platform/cgroup.h"

/* Below this the allocator itself is fast, and the memory limit is not asked. */
#define LARGE ((uint64_t)64 << 10)

void pdi_buffers_init(struct pdi_buffers *b, uint64_t kept_max)
{
    memset(b, 0, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    b->kept_max = kept_max;
}

void pdi_buffers_destroy(struct pdi_buffers *b)
{
    for (uint32_t i = 0; i < b->count; i++)
        free(b->kept[i]);
    pthread_mutex_destroy(&b->lock);
}

/* Takes number i out of those kept. */
static struct pdi_buffer *unkeep(struct pdi_buffers *b, uint32_t i)
{
    struct pdi_buffer *buffer = b->kept[i];
    b->count--;
    memmove(&b->kept[i], &b->kept[i + 1], (b->count - i) * sizeof *b->kept);
    b->kept_bytes -= buffer->room;
    return buffer;
}

/* The warmest kept one that fits without wasting more than half of it. */
static struct pdi_buffer *reuse(struct pdi_buffers *b, uint64_t n)
{
    for (uint32_t i = b->count; i-- > 0;)
        if (b->kept[i]->room >= n && b->kept[i]->room / 2 <= n)
            return unkeep(b, i);
    return NULL;
}

static int allocate(uint64_t n, struct pdi_buffer **out, podipc_error *err)
{
    uint64_t room = n;
    if (n >= LARGE) {
        uint64_t have = pdi_memory_available();
        if (n > have)
            return pdi_fail_need(err, PODIPC_EMEMLIMIT, "", n, have,
                                 "a tensor needs %llu bytes of this container's memory, which may "
                                 "take %llu more before it is killed: raise "
                                 "`resources.limits.memory` or send smaller tensors",
                                 (unsigned long long)n, (unsigned long long)have);
        room = n + n / 8; /* a sequence of slightly different sizes shares buffers */
        if (room > have)
            room = n;
    }
    if (room > SIZE_MAX - sizeof(struct pdi_buffer) - PODIPC_TENSOR_ALIGN)
        return pdi_fail(err, -ENOMEM, "malloc", "no memory for a tensor");
    void *p;
    if (posix_memalign(&p, PODIPC_TENSOR_ALIGN, sizeof(struct pdi_buffer) + (size_t)room) != 0)
        return pdi_fail_need(err, -ENOMEM, "malloc", n, 0, "no memory for a tensor of %llu bytes",
                             (unsigned long long)n);
    *out = p;
    (*out)->room = room;
    return 0;
}

int pdi_buffers_get(struct pdi_buffers *b, uint64_t n, struct pdi_buffer **out, podipc_error *err)
{
    pthread_mutex_lock(&b->lock);
    *out = n >= LARGE ? reuse(b, n) : NULL;
    pthread_mutex_unlock(&b->lock);
    int rc = *out ? 0 : allocate(n, out, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&b->lock);
    b->out++;
    b->out_bytes += (*out)->room;
    pthread_mutex_unlock(&b->lock);
    return 0;
}

void pdi_buffers_put(struct pdi_buffers *b, struct pdi_buffer *buffer)
{
    struct pdi_buffer *spare[PDI_BUFFERS_KEPT + 1];
    uint32_t n = 0;
    pthread_mutex_lock(&b->lock);
    b->out--;
    b->out_bytes -= buffer->room;
    if (buffer->room < LARGE || buffer->room > b->kept_max) {
        spare[n++] = buffer;
    } else {
        while (b->count == PDI_BUFFERS_KEPT || b->kept_bytes > b->kept_max - buffer->room)
            spare[n++] = unkeep(b, 0);
        b->kept[b->count++] = buffer;
        b->kept_bytes += buffer->room;
    }
    pthread_mutex_unlock(&b->lock);
    while (n > 0)
        free(spare[--n]);
}

void pdi_buffers_count(struct pdi_buffers *b, uint64_t *out, uint64_t *bytes)
{
    pthread_mutex_lock(&b->lock);
    *out = b->out;
    *bytes = b->out_bytes + b->kept_bytes;
    pthread_mutex_unlock(&b->lock);
}
