/* pages.h - large private memory straight from the kernel.
 *
 * In huge pages where the kernel gives them: a tensor of 64 MiB is then 32 page
 * faults instead of 16384, and moves faster when warm too.
 */
#ifndef PDI_PAGES_H
#define PDI_PAGES_H

#include <stddef.h>

/* Zeroed memory aligned to at least 4 KiB, or NULL. The caller's. Any thread. */
void *pdi_pages_map(size_t size);
void pdi_pages_unmap(void *pages, size_t size);

#endif
