/* test_cgroup.c - what this machine says it allows must hold together. The files
 * are at fixed places, so other machines can only be tested there. */
#include "platform/cgroup.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "check.h"
#include "place.h"

int main(void)
{
    int before = descriptors();
    struct sysinfo info;
    MUST(sysinfo(&info) == 0);
    uint64_t total = (uint64_t)info.totalram * info.mem_unit;
    uint64_t limit = pdi_memory_limit(), available = pdi_memory_available();
    CHECK(limit > 0 && limit <= total);
    CHECK(available > 0 && available <= total);
    CHECK(limit == pdi_memory_limit());

    /* It moves with what is used: 64 MiB are seen to go. Others use the machine as well,
     * and the kernel counts in batches, hence as many tries as it takes. */
    enum { SIZE = 64 << 20 };
    bool seen = false;
    int64_t end = pdi_now() + PATIENCE;
    while (!seen && pdi_now() < end) {
        uint64_t first = pdi_memory_available();
        char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        MUST(memory != MAP_FAILED);
        uint64_t then = pdi_memory_available();
        munmap(memory, SIZE);
        seen = then < first && first - then > SIZE / 2 && first - then < 2 * (uint64_t)SIZE;
    }
    CHECK(seen);

    double cpus = pdi_cpus();
    CHECK(cpus > 0 && cpus <= (double)sysconf(_SC_NPROCESSORS_CONF));
    pid_t child = fork_child();
    if (child == 0) { /* the affinity mask counts */
        cpu_set_t all, one;
        CPU_ZERO(&one);
        MUST(sched_getaffinity(0, sizeof all, &all) == 0);
        for (size_t i = 0; i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, &all)) {
                CPU_SET(i, &one);
                break;
            }
        MUST(sched_setaffinity(0, sizeof one, &one) == 0);
        _exit(pdi_cpus() <= 1 ? 0 : 1);
    }
    CHECK(end_of(child) == 0);
    CHECK(descriptors() == before);
    return checks_done();
}
