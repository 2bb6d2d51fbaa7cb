#include "descriptor.h"

#include <string.h>

static uint64_t overflow(uint32_t ndim, uint32_t type_len)
{
    return (ndim > PDI_INLINE_DIMS ? (uint64_t)ndim * sizeof(int64_t) : 0) +
           (type_len > PDI_INLINE_TYPE ? type_len : 0);
}

/* Where the overflow begins; nbytes is at most 2^63. */
static uint64_t after_data(uint64_t nbytes)
{
    return (nbytes + 7) & ~UINT64_C(7);
}

uint64_t pdi_descriptor_room(const podipc_tensor *t)
{
    if (t->nbytes > (uint64_t)INT64_MAX || t->ndim > PODIPC_MAX_DIMS || t->type_len > UINT16_MAX ||
        (t->flags & ~(uint32_t)PODIPC_FORTRAN) != 0)
        return 0;
    for (uint32_t i = 0; i < t->ndim; i++)
        if (t->shape[i] < 0)
            return 0;
    uint64_t room = overflow(t->ndim, t->type_len);
    room = room ? after_data(t->nbytes) + room : t->nbytes;
    return room ? room : 1;
}

void pdi_descriptor_write(struct pdi_descriptor *d, const podipc_tensor *t, void *data)
{
    d->nbytes = t->nbytes;
    d->ndim = (uint8_t)t->ndim;
    d->flags = (uint8_t)t->flags;
    d->type_len = (uint16_t)t->type_len;
    char *behind = (char *)data + after_data(t->nbytes);
    if (t->ndim <= PDI_INLINE_DIMS) {
        for (uint32_t i = 0; i < t->ndim; i++)
            d->shape[i] = t->shape[i];
    } else {
        memcpy(behind, t->shape, t->ndim * sizeof(int64_t));
        behind += t->ndim * sizeof(int64_t);
    }
    if (t->type_len <= PDI_INLINE_TYPE)
        memcpy(d->type, t->type, t->type_len);
    else
        memcpy(behind, t->type, t->type_len);
}

int pdi_descriptor_read(const struct pdi_descriptor *d, const void *arena, uint64_t size,
                        podipc_tensor *t)
{
    if (d->offset % PODIPC_TENSOR_ALIGN != 0 || d->offset > size || d->nbytes > size - d->offset ||
        d->ndim > PODIPC_MAX_DIMS || (d->flags & ~PODIPC_FORTRAN) != 0)
        return PODIPC_ECORRUPT;
    const char *behind = NULL;
    uint64_t more = overflow(d->ndim, d->type_len);
    if (more) {
        uint64_t at = after_data(d->nbytes);
        if (at > size - d->offset || more > size - d->offset - at)
            return PODIPC_ECORRUPT;
        behind = (const char *)arena + d->offset + at;
    }
    t->nbytes = d->nbytes;
    t->flags = d->flags;
    t->ndim = d->ndim;
    t->type_len = d->type_len;
    if (d->ndim <= PDI_INLINE_DIMS) {
        for (uint32_t i = 0; i < d->ndim; i++)
            t->shape[i] = d->shape[i];
    } else {
        memcpy(t->shape, behind, d->ndim * sizeof(int64_t));
        behind += d->ndim * sizeof(int64_t);
    }
    for (uint32_t i = 0; i < t->ndim; i++)
        if (t->shape[i] < 0)
            return PODIPC_ECORRUPT;
    t->type = d->type_len <= PDI_INLINE_TYPE ? (const char *)d->type : behind;
    return 0;
}
