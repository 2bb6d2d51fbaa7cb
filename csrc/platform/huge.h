/* huge.h - mappings that can be, and shared memory that is, made of huge pages.
 *
 * Of memory that is touched for the first time, nearly all of the cost is the
 * single page: taken, charged, cleared and entered in a page table, on each side.
 * A huge page (2 MiB) is that once instead of 512 times: a tenth of the time for
 * the sender, a hundredth for the receiver. The kernel gives them to shared memory
 * by itself only where the host is set so (`shmem_enabled`, which is "never" by
 * default); MADV_COLLAPSE (madvise(2), Linux 6.1) asks for them.
 */
#ifndef PDI_HUGE_H
#define PDI_HUGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PDI_HUGE (UINT64_C(2) << 20)

/* As mmap(NULL, size, prot, flags, fd, 0), at an address where huge pages fit if
 * there is room for one. MAP_FAILED with errno. */
void *pdi_huge_map(size_t size, int prot, int flags, int fd);

/* Allocates what it can of [offset, offset + size), a part of `fd` that nobody has
 * written to, in huge pages; `map` is where `fd` is mapped, writable. False: it is
 * not worth trying again, because the kernel does not do it or takes too long to
 * find that much memory in one piece. Never past a memory limit. */
bool pdi_huge_commit(int fd, void *map, uint64_t offset, uint64_t size);

#endif
