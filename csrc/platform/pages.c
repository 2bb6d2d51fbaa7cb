#include "pages.h"

#include <sys/mman.h>

#include "huge.h"

void *pdi_pages_map(size_t size)
{
    void *at = pdi_huge_map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    if (at == MAP_FAILED)
        return NULL;
    (void)madvise(at, size, MADV_HUGEPAGE);
    return at;
}

void pdi_pages_unmap(void *pages, size_t size)
{
    (void)munmap(pages, size);
}
