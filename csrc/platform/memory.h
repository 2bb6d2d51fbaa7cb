/* memory.h - shared mappings of a descriptor, of which every byte is reserved first.
 *
 * The order that can never end in SIGBUS: get a descriptor (memfd.h, named.h, or
 * from elsewhere), reserve all of its bytes, then touch them.
 */
#ifndef PDI_MEMORY_H
#define PDI_MEMORY_H

#include "podipc.h"

/* What a descriptor stands for, as far as it concerns whoever maps it. */
struct pdi_memory_info {
    uint64_t size;
    uint64_t missing;  /* bytes that have no storage yet: touching them may fail */
    uint64_t dev, ino; /* the file's identity */
    uint32_t uid, mode;
    bool regular; /* a regular file; a memfd is one */
    bool in_ram;  /* its bytes count against memory limits: memfd, tmpfs */
    bool sealed;  /* nobody can make it shorter: reading it cannot fault */
};

/* One reservation, kept over several calls of pdi_memory_reserve(). Zero it and set
 * what is above the line. */
struct pdi_reservation {
    int fd;
    uint64_t size;
    const char *where; /* for error texts: a path, or "" for anonymous memory */
    bool fresh;        /* nobody has written to the file: zeros may be written to it */
    bool read_only;    /* cannot be reserved; only checks that there is room for it */
    /* ---- */
    uint64_t done;
    uint64_t step;
    bool by_writing;
};

/* Gives every byte of the file storage, growing it to `size` if need be.
 * -EAGAIN: not all yet by `until`, or a signal came; call again to go on.
 * -ENOSPC: the file system is too small. PODIPC_EMEMLIMIT: the memory limit is.
 * Both are found before anything is touched, so that a failure does not take from
 * others for a moment what it cannot get. */
int pdi_memory_reserve(struct pdi_reservation *r, int64_t until, podipc_error *err);

/* Whether `need` more bytes can be had without being killed for them: 0 or
 * PODIPC_EMEMLIMIT. */
int pdi_memory_allow(uint64_t need, podipc_error *err);

int pdi_memory_look(int fd, struct pdi_memory_info *info, podipc_error *err);

/* Maps [0, size) shared. *addr is the caller's until pdi_memory_unmap(). Only for
 * reserved memory. 0 or -errno. */
int pdi_memory_map(int fd, uint64_t size, bool writable, void **addr, podipc_error *err);
void pdi_memory_unmap(void *addr, uint64_t size);

/* A second, CLOEXEC descriptor of the same open file; or -errno. */
int pdi_memory_dup(int fd, podipc_error *err);
void pdi_memory_close(int fd);

#endif
