/* cgroup.h - what this container may use: memory and processors.
 *
 * cgroup v2 (memory.max, cpu.max) and v1 (memory.limit_in_bytes,
 * cpu.cfs_quota_us), whichever is mounted, this process's group and all above it
 * that can be seen. Read anew at each call; any thread.
 */
#ifndef PDI_CGROUP_H
#define PDI_CGROUP_H

#include <stdint.h>

/* The smallest memory limit that applies, at most the machine's memory. Bytes. */
uint64_t pdi_memory_limit(void);
/* What is left under it, counting page cache that can be dropped as free. Bytes. */
uint64_t pdi_memory_available(void);
/* The same before n more bytes are taken, for many small things: looked at once in each
 * MiB. *unseen is what was taken since, the caller's, 0 at first. UINT64_MAX: no look. */
uint64_t pdi_memory_available_each(uint64_t *unseen, uint64_t n);
/* How many processors' worth of time there is: affinity mask and cpu quota. */
double pdi_cpus(void);

#endif
