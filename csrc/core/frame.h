/* frame.h - what travels on a stream (tcp, unix, fifo), byte by byte.
 *
 *   greeting                     once at the start: by both sides of a socket, by
 *                                the sender alone on a FIFO
 *   { head, shape, type, payload, trailer }   one tensor
 *   head of kind BYE             last: closed in order
 *
 * The trailer comes after the payload because only then is it known whether the
 * tensor is meant: a sender that gives up in mid-frame (timeout, Ctrl-C) fills
 * the rest with zeros and ends it with ABORT instead of COMMIT, and the stream
 * goes on. The two trailers differ in their last byte alone, so that even one
 * that has partly left can still become the other.
 *
 * Numbers are in the byte order of the sender; both sides run on one machine, and
 * a greeting in another order is refused. Nothing here makes a system call or
 * allocates.
 */
#ifndef PDI_FRAME_H
#define PDI_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "podipc.h"

enum {
    PDI_STREAM_VERSION = 1, /* goes up with every change in this file */
    PDI_TRAILER = 8,        /* bytes */
};

enum pdi_stream_role {
    PDI_STREAM_SENDER = 1,
    PDI_STREAM_RECEIVER = 2,
    PDI_STREAM_LOOPBACK = 3, /* a LoopbackStream: both */
};

/* The first 16 bytes stay where they are for ever, so that any version can read
 * which version it meets. */
struct pdi_greeting {
    uint8_t magic[8];
    uint32_t byte_order; /* PDI_STREAM_ORDER as its writer sees it */
    uint16_t version;
    uint16_t head_size; /* sizeof(struct pdi_frame_head) */
    uint32_t role;      /* enum pdi_stream_role */
    uint32_t reserved;
    uint64_t id;        /* of the endpoint; random */
    uint64_t max_bytes; /* receiver: the largest tensor it takes; sender: 0 */
    uint64_t unused[3];
};
_Static_assert(sizeof(struct pdi_greeting) == 64, "no hidden padding");
#define PDI_STREAM_ORDER UINT32_C(0x01020304)

enum pdi_frame_kind {
    PDI_FRAME_TENSOR = 1,
    PDI_FRAME_BYE = 2, /* only a head; receiver to sender: `sequence` tensors were taken */
};

struct pdi_frame_head {
    uint32_t magic;
    uint16_t kind;
    uint16_t flags; /* PODIPC_FORTRAN */
    uint32_t ndim;
    uint32_t type_len;
    uint64_t nbytes;
    uint64_t sequence; /* frames of this stream before this one */
};
_Static_assert(sizeof(struct pdi_frame_head) == 32, "no hidden padding");

/* A head with all that may follow it before the payload. */
#define PDI_FRAME_HEAD_MAX                                                                         \
    (sizeof(struct pdi_frame_head) + PODIPC_MAX_DIMS * sizeof(int64_t) + PODIPC_MAX_TYPE)

extern const uint8_t pdi_trailer_commit[PDI_TRAILER];
extern const uint8_t pdi_trailer_abort[PDI_TRAILER];

void pdi_greeting_make(struct pdi_greeting *g, enum pdi_stream_role role, uint64_t id,
                       uint64_t max_bytes);
/* Whether the first n bytes (any n) can be the start of a greeting. */
bool pdi_greeting_plausible(const void *bytes, size_t n);
/* Checks a whole greeting that came from `where`, whose writer should be a `role`.
 * 0; PODIPC_EVERSION, naming both sides; PODIPC_ECORRUPT: not from podipc. */
int pdi_greeting_check(const struct pdi_greeting *g, enum pdi_stream_role role, const char *where,
                       podipc_error *err);

/* Whether a tensor can be framed, and its bytes, shape and order fit together:
 * 0 or `code`. */
int pdi_tensor_check(const podipc_tensor *t, int code, podipc_error *err);

/* Bytes before the payload. */
size_t pdi_frame_head_size(const podipc_tensor *t);
/* Writes them to `out`. */
void pdi_frame_encode(const podipc_tensor *t, uint64_t sequence, void *out);
void pdi_frame_bye(uint64_t sequence, struct pdi_frame_head *out);

/* Checks a head on its own. 0 or PODIPC_ECORRUPT. */
int pdi_frame_check(const struct pdi_frame_head *head, uint64_t sequence, podipc_error *err);
/* Bytes of shape and type that follow a checked head. */
size_t pdi_frame_rest(const struct pdi_frame_head *head);
/* Fills in *t from a checked head and the bytes that followed it; t->type points
 * into `rest`. 0 or PODIPC_ECORRUPT. */
int pdi_frame_decode(const struct pdi_frame_head *head, const void *rest, podipc_tensor *t,
                     podipc_error *err);

#endif
