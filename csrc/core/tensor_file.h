/* tensor_file.h - a tensor as one file, byte by byte, and the names in the directory.
 *
 * A file is
 *
 *   0          struct pdi_file_header
 *   64         int64 shape[ndim]
 *   ...        the type text
 *   payload    the tensor's bytes, at the next multiple of 64; they end the file
 *
 * in the byte order of the machine that wrote it. The file appears under its name
 * by a rename, whole. Whoever reads it has a private copy of all of it first.
 *
 * Names in the directory of a channel (%016x is the number of an endpoint):
 *
 *   .podipc             the gate: locked by whoever joins, leaves or tidies up
 *   tx.%016x rx.%016x   an endpoint; locked as long as it lives
 *   m.%020u.%016x       a tensor: its number, its sender
 *   .t.%016x.%016x      a tensor being written by that sender
 *   .new.%016x          an endpoint or gate being made
 *   bye.%016x.%016x     a note to the first: the second closed in order
 *   died.%016x.%016x.%016x  a note to the first: the second died, holding that many
 *                       of its tensors
 *
 * No system call and no allocation here. Any thread.
 */
#ifndef PDI_TENSOR_FILE_H
#define PDI_TENSOR_FILE_H

#include "podipc.h"

#define PDI_FILE_MAGIC   UINT64_C(0x454c494643504450) /* "PDPCFILE" */
#define PDI_FILE_ORDER   UINT32_C(0x01020304)
#define PDI_FILE_GATE    ".podipc"
#define PDI_FILE_VERSION 1u

/* `magic`, `version` and `byte_order` stay where they are for ever. */
struct pdi_file_header {
    uint64_t magic;
    uint32_t version;
    uint32_t byte_order;
    uint32_t flags; /* PODIPC_FORTRAN */
    uint32_t ndim;
    uint32_t type_len;
    uint32_t payload; /* where the tensor's bytes begin */
    uint64_t nbytes;
    uint64_t sequence;
    uint64_t sender;
    uint64_t reserved; /* 0 */
};
_Static_assert(sizeof(struct pdi_file_header) == 64, "no hidden padding");

/* A receiver's lock file holds these, one for each sender: what it has taken and not
 * let go yet, for the sender to count if the receiver dies. */
struct pdi_file_holding {
    uint64_t sender; /* 0: unused */
    uint64_t count;
};
_Static_assert(sizeof(struct pdi_file_holding) == 16, "no hidden padding");

enum {
    PDI_FILE_HOLDINGS = 1024, /* senders beyond this are not counted */
    PDI_FILE_HEAD_MAX = 64 + PODIPC_MAX_DIMS * 8 + PODIPC_MAX_TYPE, /* a multiple of 64 */
    PDI_FILE_NAME = 64,                                             /* room for any of the names */
};
_Static_assert(PDI_FILE_HEAD_MAX % PODIPC_TENSOR_ALIGN == 0, "the payload is aligned");

/* Where the payload begins in the file of this tensor. */
uint32_t pdi_file_payload(const podipc_tensor *t);

/* Writes the first pdi_file_payload(t) bytes of the file. */
void pdi_file_head_write(void *to, const podipc_tensor *t, uint64_t sequence, uint64_t sender);

enum pdi_file_kind {
    PDI_NAME_OTHER, /* not ours */
    PDI_NAME_GATE,
    PDI_NAME_SENDER,   /* who */
    PDI_NAME_RECEIVER, /* who */
    PDI_NAME_TENSOR,   /* who, number */
    PDI_NAME_WRITING,  /* who, number */
    PDI_NAME_MAKING,   /* who */
    PDI_NAME_BYE,      /* to, who */
    PDI_NAME_DIED,     /* to, who, number */
};

struct pdi_file_name {
    enum pdi_file_kind kind;
    uint64_t who, to, number;
};

void pdi_file_name_write(char out[PDI_FILE_NAME], const struct pdi_file_name *name);
/* Exactly what pdi_file_name_write() writes is understood; all else is PDI_NAME_OTHER. */
struct pdi_file_name pdi_file_name_read(const char *text);

/* Checks what can be checked without the rest of the file: `head` is a private copy of
 * its first bytes (NULL if it has fewer than a header), `size` that of the whole. 0,
 * PODIPC_EVERSION or PODIPC_ECORRUPT; `path` is for the error text. */
int pdi_file_check(const struct pdi_file_header *head, uint64_t size,
                   const struct pdi_file_name *name, const char *path, podipc_error *err);
/* Checks `image`, a private copy of the whole file, and fills in *t (t->type points into
 * the image) and *payload, where the bytes begin. Returns the same. */
int pdi_file_read(const void *image, uint64_t size, const struct pdi_file_name *name,
                  const char *path, podipc_tensor *t, uint32_t *payload, podipc_error *err);

#endif
