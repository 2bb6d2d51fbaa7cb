#include "frame.h"

#include <string.h>

#include "error.h"

/* CR LF, as in PNG: whatever rewrites line ends is found out at once. */
static const uint8_t greeting_magic[8] = {'p', 'o', 'd', 'i', 'p', 'c', '\r', '\n'};
#define FRAME_MAGIC UINT32_C(0x46494450) /* "PDIF" */
/* No machine has that much; what claims more is not a size. */
#define NBYTES_MAX (UINT64_C(1) << 56)

const uint8_t pdi_trailer_commit[PDI_TRAILER] = {'p', 'd', 'i', 'e', 'n', 'd', ':', 'C'};
const uint8_t pdi_trailer_abort[PDI_TRAILER] = {'p', 'd', 'i', 'e', 'n', 'd', ':', 'A'};

void pdi_greeting_make(struct pdi_greeting *g, enum pdi_stream_role role, uint64_t id,
                       uint64_t max_bytes)
{
    *g = (struct pdi_greeting){
        .byte_order = PDI_STREAM_ORDER,
        .version = PDI_STREAM_VERSION,
        .head_size = sizeof(struct pdi_frame_head),
        .role = role,
        .id = id,
        .max_bytes = max_bytes,
    };
    memcpy(g->magic, greeting_magic, sizeof g->magic);
}

bool pdi_greeting_plausible(const void *bytes, size_t n)
{
    return memcmp(bytes, greeting_magic, n < sizeof greeting_magic ? n : sizeof greeting_magic) ==
           0;
}

int pdi_greeting_check(const struct pdi_greeting *g, enum pdi_stream_role role, const char *where,
                       podipc_error *err)
{
    const char *peer = role == PDI_STREAM_SENDER     ? "sender"
                       : role == PDI_STREAM_RECEIVER ? "receiver"
                                                     : "LoopbackStream";
    if (memcmp(g->magic, greeting_magic, sizeof g->magic) != 0)
        return pdi_fail(err, PODIPC_ECORRUPT, "",
                        "what is at the other end of %s is not a podipc %s", where, peer);
    bool same_order = g->byte_order == PDI_STREAM_ORDER;
    if (!same_order || g->version != PDI_STREAM_VERSION ||
        g->head_size != sizeof(struct pdi_frame_head)) {
        uint16_t theirs = same_order ? g->version : __builtin_bswap16(g->version);
        return pdi_fail(err, PODIPC_EVERSION, "",
                        "the %s at the other end of %s speaks stream version %u%s (heads of %u "
                        "bytes), this side speaks version %u (heads of %u bytes): install the "
                        "same podipc in both containers",
                        peer, where, (unsigned)theirs, same_order ? "" : " in another byte order",
                        (unsigned)(same_order ? g->head_size : __builtin_bswap16(g->head_size)),
                        (unsigned)PDI_STREAM_VERSION, (unsigned)sizeof(struct pdi_frame_head));
    }
    if (g->role != (uint32_t)role)
        return pdi_fail(err, PODIPC_ECORRUPT, "",
                        "what is at the other end of %s is not a podipc %s (role %u)", where, peer,
                        (unsigned)g->role);
    return 0;
}

int pdi_tensor_check(const podipc_tensor *t, int code, podipc_error *err)
{
    if (t->ndim > PODIPC_MAX_DIMS)
        return pdi_fail(err, code, "", "a tensor of %u dimensions; at most %d are possible",
                        (unsigned)t->ndim, PODIPC_MAX_DIMS);
    if (t->type_len > PODIPC_MAX_TYPE)
        return pdi_fail(err, code, "", "a type described by %u bytes; at most %d are possible",
                        (unsigned)t->type_len, PODIPC_MAX_TYPE);
    if (t->flags & ~(uint32_t)PODIPC_FORTRAN)
        return pdi_fail(err, code, "", "unknown flags %#x of a tensor", (unsigned)t->flags);
    uint64_t elements = 1;
    bool overflow = false, empty = false;
    for (uint32_t i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 0)
            return pdi_fail(err, code, "", "dimension %u of a tensor is negative (%lld)",
                            (unsigned)i, (long long)t->shape[i]);
        empty |= t->shape[i] == 0;
        overflow |= __builtin_mul_overflow(elements, (uint64_t)t->shape[i], &elements);
    }
    if (empty)
        elements = 0;
    bool fits = elements == 0 ? t->nbytes == 0 : !overflow && t->nbytes % elements == 0;
    if (!fits || t->nbytes > NBYTES_MAX)
        return pdi_fail(err, code, "",
                        "a tensor of %llu bytes whose shape of %u dimensions has %llu%s elements",
                        (unsigned long long)t->nbytes, (unsigned)t->ndim,
                        (unsigned long long)elements, !empty && overflow ? " (and more)" : "");
    return 0;
}

size_t pdi_frame_head_size(const podipc_tensor *t)
{
    return sizeof(struct pdi_frame_head) + t->ndim * sizeof(int64_t) + t->type_len;
}

void pdi_frame_encode(const podipc_tensor *t, uint64_t sequence, void *out)
{
    struct pdi_frame_head head = {
        .magic = FRAME_MAGIC,
        .kind = PDI_FRAME_TENSOR,
        .flags = (uint16_t)t->flags,
        .ndim = t->ndim,
        .type_len = t->type_len,
        .nbytes = t->nbytes,
        .sequence = sequence,
    };
    char *at = out;
    memcpy(at, &head, sizeof head);
    memcpy(at + sizeof head, t->shape, t->ndim * sizeof(int64_t));
    if (t->type_len)
        memcpy(at + sizeof head + t->ndim * sizeof(int64_t), t->type, t->type_len);
}

void pdi_frame_bye(uint64_t sequence, struct pdi_frame_head *out)
{
    *out =
        (struct pdi_frame_head){.magic = FRAME_MAGIC, .kind = PDI_FRAME_BYE, .sequence = sequence};
}

int pdi_frame_check(const struct pdi_frame_head *head, uint64_t sequence, podipc_error *err)
{
    if (head->magic != FRAME_MAGIC)
        return pdi_fail(err, PODIPC_ECORRUPT, "",
                        "a frame should begin with %#010x but begins with %#010x",
                        (unsigned)FRAME_MAGIC, (unsigned)head->magic);
    if (head->sequence != sequence)
        return pdi_fail(err, PODIPC_ECORRUPT, "", "frame number %llu came where %llu was due",
                        (unsigned long long)head->sequence, (unsigned long long)sequence);
    if (head->kind == PDI_FRAME_BYE && !head->ndim && !head->type_len && !head->nbytes)
        return 0;
    if (head->kind != PDI_FRAME_TENSOR)
        return pdi_fail(err, PODIPC_ECORRUPT, "", "unknown kind of frame %u", (unsigned)head->kind);
    if (head->ndim > PODIPC_MAX_DIMS || head->type_len > PODIPC_MAX_TYPE ||
        head->nbytes > NBYTES_MAX || (head->flags & ~PODIPC_FORTRAN))
        return pdi_fail(err, PODIPC_ECORRUPT, "",
                        "a frame claims %u dimensions, %u bytes of type, %llu bytes of data and "
                        "flags %#x; at most %d, %d and 2^56 are possible",
                        (unsigned)head->ndim, (unsigned)head->type_len,
                        (unsigned long long)head->nbytes, (unsigned)head->flags, PODIPC_MAX_DIMS,
                        PODIPC_MAX_TYPE);
    return 0;
}

size_t pdi_frame_rest(const struct pdi_frame_head *head)
{
    return head->ndim * sizeof(int64_t) + head->type_len;
}

int pdi_frame_decode(const struct pdi_frame_head *head, const void *rest, podipc_tensor *t,
                     podipc_error *err)
{
    t->nbytes = head->nbytes;
    t->flags = head->flags;
    t->ndim = head->ndim;
    t->type_len = head->type_len;
    memcpy(t->shape, rest, head->ndim * sizeof(int64_t));
    t->type = (const char *)rest + head->ndim * sizeof(int64_t);
    return pdi_tensor_check(t, PODIPC_ECORRUPT, err);
}
