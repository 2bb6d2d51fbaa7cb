/* blocks.h - warm memory for tensors, lent and taken back, within a budget.
 *
 * Touching memory for the first time costs ten times what copying into warm
 * memory does, so a block that comes back is kept for the next tensor of its size
 * class (four classes to each doubling). Blocks of other classes are given back
 * to the system when the budget is needed.
 *
 * Any thread may call anything, except init and destroy.
 */
#ifndef PDI_BLOCKS_H
#define PDI_BLOCKS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "podipc.h"

enum { PDI_BLOCK_CLASSES = 4 * 64 };

struct pdi_block {
    struct pdi_block *below;       /* on the stack of its class */
    struct pdi_block *prev, *next; /* of all blocks */
    void *data;                    /* PODIPC_TENSOR_ALIGN-aligned */
    uint64_t cap;
    uint64_t charge; /* against the budget */
    uint32_t size_class;
    uint32_t type_cap;
    char *type; /* room for the type text: `near_type`, or allocated */
    char near_type[64];
};

struct pdi_blocks {
    pthread_mutex_t lock;
    struct pdi_block *free[PDI_BLOCK_CLASSES];
    struct pdi_block all; /* head of the list */
    uint64_t max_bytes, reserved;
    uint64_t lent;       /* blocks */
    uint64_t lent_bytes; /* their charge */
    uint64_t unseen;     /* bytes allocated since the container's memory was looked at */
    bool wanted;         /* somebody was refused and waits for the alarm */
    int alarm;
};

/* The budget for max_bytes = 0: a safe share of the container's memory limit. */
uint64_t pdi_blocks_default_budget(void);

/* `alarm` is raised when a block comes back after -EAGAIN; it stays the caller's
 * (-1: none; may be changed under the lock). */
int pdi_blocks_init(struct pdi_blocks *blocks, uint64_t max_bytes, int alarm);
/* Frees every block, lent or not. */
void pdi_blocks_destroy(struct pdi_blocks *blocks);
/* No more alarms; what is free goes back to the system now, what is lent when it
 * comes back. */
void pdi_blocks_retire(struct pdi_blocks *blocks);

/* Lends a block for n bytes of data and a type text of type_len bytes. -EAGAIN:
 * the budget is lent out. PODIPC_EMEMLIMIT: it does not fit the budget, or the
 * container's memory is used up; -ENOMEM. */
int pdi_blocks_lend(struct pdi_blocks *blocks, uint64_t n, uint32_t type_len,
                    struct pdi_block **out, podipc_error *err);
void pdi_blocks_take_back(struct pdi_blocks *blocks, struct pdi_block *block);
/* For stats: bytes reserved, and blocks lent. */
void pdi_blocks_count(struct pdi_blocks *blocks, uint64_t *reserved, uint64_t *lent);

#endif
