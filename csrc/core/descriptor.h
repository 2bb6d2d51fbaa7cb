/* descriptor.h - between a podipc_tensor and what stands in shared memory.
 *
 * Up to PDI_INLINE_DIMS dimensions and PDI_INLINE_TYPE bytes of type text travel
 * in the descriptor. What is longer lies behind the data, at the next multiple of
 * 8: the whole shape if it did not fit, then the whole type text if it did not.
 */
#ifndef PDI_DESCRIPTOR_H
#define PDI_DESCRIPTOR_H

#include "layout.h"
#include "podipc.h"

/* Bytes a tensor takes in an arena, data and overflow. 0: more than can be. */
uint64_t pdi_descriptor_room(const podipc_tensor *t);

/* Fills in *d, except position, arena, offset, ticket and generation, and writes
 * the overflow behind the data at `data`. */
void pdi_descriptor_write(struct pdi_descriptor *d, const podipc_tensor *t, void *data);

/* Fills in *t from *d, a private copy, whose arena is mapped at `arena` with
 * `size` bytes. 0, or PODIPC_ECORRUPT if anything in it cannot be. t->type points
 * into *d or, for a long text, into the arena, where its bytes may still change:
 * copy before use. */
int pdi_descriptor_read(const struct pdi_descriptor *d, const void *arena, uint64_t size,
                        podipc_tensor *t);

#endif
