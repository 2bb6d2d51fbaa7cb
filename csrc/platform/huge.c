#include "huge.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE    ((uintptr_t)PDI_HUGE)
#define ROUNDED (~(HUGE - 1))

/* As long as the same memory takes in single pages, and what a call may take once to
 * wait for the other processors and to move what is in the way. */
#define PAGE_NS 1000000
#define CALL_NS 1500000

void *pdi_huge_map(size_t size, int prot, int flags, int fd)
{
    if (size < HUGE || size > SIZE_MAX - 2 * HUGE)
        return mmap(NULL, size, prot, flags, fd, 0);
    /* Only some kernels align by themselves, and those not shared memory. */
    char *place =
        mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED)
        return mmap(NULL, size, prot, flags, fd, 0);
    size_t before = -(uintptr_t)place & (HUGE - 1);
    char *map = mmap(place + before, size, prot, flags | MAP_FIXED, fd, 0);
    if (map == MAP_FAILED) {
        (void)munmap(place, size + HUGE);
        return MAP_FAILED;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t end = before + ((size + page - 1) & ~(page - 1));
    if (before > 0)
        (void)munmap(place, before);
    if (end < size + HUGE)
        (void)munmap(place + end, size + HUGE - end);
    return map;
}

bool pdi_huge_commit(int fd, void *map, uint64_t offset, uint64_t size)
{
    uint64_t from = (offset + HUGE - 1) & ROUNDED, to = (offset + size) & ROUNDED;
    if (from >= to)
        return true;
    /* With larger pages a huge one is another size. */
    if (sysconf(_SC_PAGESIZE) != 4096 || ((uintptr_t)map & ~ROUNDED) != 0)
        return false;
    int64_t start = pdi_now();
    /* A range without a single page is refused. */
    for (uint64_t at = from; at < to; at += HUGE)
        if (fallocate(fd, 0, (off_t)at, 4096) < 0)
            return true;
    /* All in one call: each waits for all processors once. */
    if (madvise((char *)map + from, to - from, MADV_COLLAPSE) < 0)
        return false;
    return pdi_now() - start < CALL_NS + (int64_t)((to - from) / HUGE) * PAGE_NS;
}
