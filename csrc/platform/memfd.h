/* memfd.h - anonymous shared memory that another process is given by descriptor.
 *
 * memfd_create(2), sealed (F_ADD_SEALS, fcntl(2)): nobody can shrink or grow it
 * under a reader, and after FUTURE_WRITE nobody but the owner of the existing
 * mapping can write it, punch holes in it or map it writable.
 */
#ifndef PDI_MEMFD_H
#define PDI_MEMFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/atomics.h"
#include "podipc.h"

struct pdi_memfd {
    void *map; /* NULL: not mapped */
    size_t size;
    int fd;             /* -1: none */
    pdi_word32 no_huge; /* huge pages are not to be had, or not worth it: a hint, unguarded */
};

/* Makes one of `size` bytes, mapped writable. With `commit` its memory is
 * allocated now (after a look at the memory limit: PODIPC_EMEMLIMIT), else by
 * pdi_memfd_commit(). With `shared` peers may write it too. On success *m is the
 * caller's, to be given to pdi_memfd_close(). */
int pdi_memfd_create(const char *name, size_t size, bool commit, bool shared, struct pdi_memfd *m,
                     podipc_error *err);
/* Allocates the memory of a range, so that touching it cannot fail later. Of ranges
 * that do not overlap, several threads may. */
int pdi_memfd_commit(struct pdi_memfd *m, uint64_t offset, uint64_t size, podipc_error *err);
/* What to say when `need` bytes are more than the limit leaves. */
int pdi_memfd_limit(uint64_t need, uint64_t available, podipc_error *err);
/* Maps a descriptor that a peer sent: checks that it is a memfd of at least
 * `size` bytes that nobody can shrink (and, unless `writable`, nobody else than
 * its owner can write). Takes `fd` over in any case. 0, PODIPC_ECORRUPT or -errno. */
int pdi_memfd_attach(int fd, uint64_t size, bool writable, struct pdi_memfd *m);
/* Maps [offset, offset + size) privately, writable, copy on write; *addr is where
 * `offset` is. -errno. */
int pdi_memfd_map_private(const struct pdi_memfd *m, uint64_t offset, uint64_t size, void **addr);
void pdi_memfd_unmap_private(void *addr, uint64_t size);
/* Closes the descriptor, keeps the mapping. Idempotent. */
void pdi_memfd_close_fd(struct pdi_memfd *m);
/* Unmaps and closes. Idempotent. */
void pdi_memfd_close(struct pdi_memfd *m);

uint64_t pdi_page_size(void);

#endif
