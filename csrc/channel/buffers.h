/* buffers.h - private memory for tensors, given back warm.
 *
 * Touching new pages costs several times as much as copying into old ones, so freed
 * buffers are kept for the next tensor of about the same size, within limits.
 */
#ifndef PDI_BUFFERS_H
#define PDI_BUFFERS_H

#include <pthread.h>

#include "podipc.h"

enum { PDI_BUFFERS_KEPT = 8 };

/* What stands before the bytes. */
struct pdi_buffer {
    uint64_t room;  /* bytes that fit */
    uint64_t label; /* the user's own */
    _Alignas(PODIPC_TENSOR_ALIGN) unsigned char bytes[];
};

struct pdi_buffers {
    pthread_mutex_t lock;                      /* a leaf: nothing else is locked while it is held */
    struct pdi_buffer *kept[PDI_BUFFERS_KEPT]; /* the one freed last comes last */
    uint32_t count;
    uint64_t kept_bytes, kept_max;
    uint64_t out, out_bytes; /* handed out now */
};

/* Keeps at most `kept_max` bytes of freed buffers. */
void pdi_buffers_init(struct pdi_buffers *b, uint64_t kept_max);
/* Frees what is kept. Nothing may be handed out any more. */
void pdi_buffers_destroy(struct pdi_buffers *b);

/* A buffer for n bytes, the caller's until pdi_buffers_put(). 0; PODIPC_EMEMLIMIT if
 * the memory limit of the container does not allow it; -ENOMEM. Any thread. */
int pdi_buffers_get(struct pdi_buffers *b, uint64_t n, struct pdi_buffer **out, podipc_error *err);
/* Any thread; never waits for long. */
void pdi_buffers_put(struct pdi_buffers *b, struct pdi_buffer *buffer);
/* Buffers handed out, and the bytes of all, kept ones included. */
void pdi_buffers_count(struct pdi_buffers *b, uint64_t *out, uint64_t *bytes);

#endif
