#include "pages.h"

#include <stdint.h>
#include <sys/mman.h>

#define HUGE ((size_t)2 << 20)

void *pdi_pages_map(size_t size)
{
    size_t slack = size >= HUGE ? HUGE : 0;
    if (size > SIZE_MAX - slack)
        return NULL;
    char *at = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (!slack)
        return at;
    /* Not every kernel aligns large mappings to huge pages by itself. */
    size_t before = (HUGE - (uintptr_t)at % HUGE) % HUGE;
    size = (size + 4095) & ~(size_t)4095;
    if (before)
        (void)munmap(at, before);
    if (slack - before)
        (void)munmap(at + before + size, slack - before);
    at += before;
    (void)madvise(at, size, MADV_HUGEPAGE);
    return at;
}

void pdi_pages_unmap(void *pages, size_t size)
{
    (void)munmap(pages, size);
}
