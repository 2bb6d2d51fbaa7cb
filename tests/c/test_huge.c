/* test_huge.c - mappings where huge pages fit, and memory committed in them: whether
 * the kernel gives any or not, what is there afterwards is the same. */
#include "platform/huge.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "platform/memfd.h"

#define MIB ((size_t)1 << 20)

static size_t mapped_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    size_t pages = 0;
    MUST(f && fscanf(f, "%zu", &pages) == 1);
    (void)fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void test_mapping(void)
{
    static const size_t sizes[] = {1,           4096,           2 * MIB - 1,   2 * MIB,
                                   2 * MIB + 1, 5 * MIB + 4096, 7 * MIB + 123, 64 * MIB};
    (void)mapped_bytes(); /* what stdio maps for itself */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t before = mapped_bytes();
        char *map = pdi_huge_map(sizes[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        MUST(map != MAP_FAILED);
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        CHECK(mapped_bytes() - before == (sizes[i] + page - 1) / page * page);
        CHECK(sizes[i] < PDI_HUGE || (uintptr_t)map % PDI_HUGE == 0);
        map[0] = map[sizes[i] - 1] = 1;
        CHECK(munmap(map, sizes[i]) == 0);
        CHECK(mapped_bytes() == before);
    }
    size_t before = mapped_bytes();
    CHECK(pdi_huge_map(SIZE_MAX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1) == MAP_FAILED);
    CHECK(pdi_huge_map(SIZE_MAX / 2, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1) == MAP_FAILED);
    CHECK(pdi_huge_map(4 * MIB, PROT_READ, MAP_SHARED, -1) == MAP_FAILED); /* no such file */
    CHECK(mapped_bytes() == before);
}

static uint64_t stored(const struct pdi_memfd *m)
{
    struct stat st;
    MUST(fstat(m->fd, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

static int all_are(const char *at, size_t n, char value)
{
    return n == 0 || (at[0] == value && memcmp(at, at + 1, n - 1) == 0);
}

/* A range with others' bytes on both sides, which a peer has mapped and read. */
static void test_committing(size_t from, size_t n)
{
    struct pdi_memfd m, peer;
    size_t size = 16 * MIB;
    MUST(pdi_memfd_create("test", size, false, false, &m, NULL) == 0);
    MUST(pdi_memfd_attach(dup(m.fd), size, false, &peer) == 0);
    char *map = m.map;
    CHECK(from == 0 || pdi_memfd_commit(&m, 0, from, NULL) == 0);
    CHECK(from + n == size || pdi_memfd_commit(&m, from + n, size - from - n, NULL) == 0);
    memset(map, 1, from);
    memset(map + from + n, 2, size - from - n);
    CHECK(all_are(peer.map, from, 1));
    CHECK(stored(&m) == size - n);

    CHECK(pdi_memfd_commit(&m, from, n, NULL) == 0);
    CHECK(stored(&m) == size);
    CHECK(all_are(map, from, 1) && all_are(map + from, n, 0));
    CHECK(all_are(map + from + n, size - from - n, 2));
    memset(map + from, 3, n);
    CHECK(all_are((char *)peer.map + from, n, 3));
    CHECK(all_are(peer.map, from, 1) && all_are((char *)peer.map + from + n, size - from - n, 2));
    pdi_memfd_close(&peer);
    pdi_memfd_close(&m);
}

/* A map at an odd place cannot have them; nothing is wrong with that. */
static void test_what_does_not_fit(void)
{
    struct pdi_memfd m;
    MUST(pdi_memfd_create("test", 4 * MIB, false, false, &m, NULL) == 0);
    CHECK(pdi_huge_commit(m.fd, m.map, 4096, 2 * MIB));
    CHECK(pdi_huge_commit(m.fd, m.map, 0, 2 * MIB - 1));
    CHECK(stored(&m) == 0); /* no whole one lies in there */
    CHECK(!pdi_huge_commit(m.fd, (char *)m.map + 4096, 0, 2 * MIB));
    CHECK(stored(&m) == 0);
    pdi_memfd_close(&m);
}

int main(void)
{
    test_mapping();
    test_committing(4 * MIB, 8 * MIB);
    test_committing(3 * MIB, 8 * MIB);
    test_committing(3 * MIB + 4096, 5 * MIB - 8192);
    test_committing(0, 16 * MIB);
    test_what_does_not_fit();
    return checks_done();
}
