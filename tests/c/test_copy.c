/* test_copy.c - both ways of copying do what memcpy does, no byte more, and the
 * plan goes by the times it is told. */
#include "core/copy.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

enum { SPACE = 1 << 16, AROUND = 128 };

static unsigned char from[SPACE], to[SPACE], want[SPACE];

static bool copies(size_t to_at, size_t from_at, size_t n, enum pdi_copy_way way)
{
    MUST(to_at >= AROUND && to_at + n + AROUND <= SPACE && from_at + n <= SPACE);
    memset(to + to_at - AROUND, 0xee, n + 2 * AROUND);
    pdi_copy(to + to_at, from + from_at, n, way);
    for (size_t i = 1; i <= AROUND; i++)
        if (to[to_at - i] != 0xee || to[to_at + n + i - 1] != 0xee)
            return false;
    return memcmp(to + to_at, from + from_at, n) == 0;
}

static void test_alignments_and_sizes(uint64_t seed)
{
    static const size_t sizes[] = {0,   1,   2,   7,   8,   15,  16,  17,  31,  32,   33,   47,
                                   48,  63,  64,  65,  66,  127, 128, 129, 191, 192,  193,  255,
                                   256, 257, 319, 320, 511, 512, 513, 575, 576, 4095, 4096, 4097};
    for (int way = 0; way < PDI_COPY_WAYS; way++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            bool good = true;
            for (size_t a = 0; a < 64; a++)
                for (size_t b = 0; b < 64; b += b < 4 ? 1 : 7)
                    good &= copies(AROUND + a, b, sizes[s], (enum pdi_copy_way)way);
            CHECK(good);
        }
        bool good = true;
        for (int i = 0; i < 20000; i++) {
            size_t n = check_random(&seed) % (check_random(&seed) % 2 ? 300 : 20000);
            good &= copies(AROUND + check_random(&seed) % 1000, check_random(&seed) % 1000, n,
                           (enum pdi_copy_way)way);
        }
        CHECK(good);
    }
}

/* Source and destination end where their page ends, or begin where it begins. */
static void test_between_walls(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, 6 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(map != MAP_FAILED);
    MUST(mprotect(map, page, PROT_NONE) == 0 && mprotect(map + 5 * page, page, PROT_NONE) == 0);
    char *a = map + page, *b = map + 3 * page;
    bool good = true;
    for (int way = 0; way < PDI_COPY_WAYS; way++)
        for (size_t n = 0; n <= 700; n++) {
            memset(a, (int)n, 2 * page);
            pdi_copy(b + 2 * page - n, a, n, (enum pdi_copy_way)way); /* up to the wall */
            good &= memcmp(b + 2 * page - n, a, n) == 0;
            memset(b, (int)n + 1, 2 * page);
            pdi_copy(a, b + 2 * page - n, n, (enum pdi_copy_way)way);
            good &= memcmp(a, b + 2 * page - n, n) == 0;
        }
    CHECK(good);
    munmap(map, 6 * page);
}

static void test_large(uint64_t seed)
{
    size_t n = (size_t)9 << 20;
    unsigned char *x = malloc(n + 64), *y = malloc(n + 64);
    MUST(x && y);
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t value = check_random(&seed);
        memcpy(x + i, &value, 8);
    }
    for (int way = 0; way < PDI_COPY_WAYS; way++)
        for (size_t off = 0; off < 3; off++) {
            memset(y, 0, n);
            pdi_copy(y + 7 * off, x + off, n - 100, (enum pdi_copy_way)way);
            CHECK(memcmp(y + 7 * off, x + off, n - 100) == 0);
        }
    free(x);
    free(y);
}

/* ---- the plan ---- */

/* One round of trying and choosing, where a byte costs these times. Returns how
 * often each way was chosen once trying was over. */
static void live(struct pdi_copy_plan *plan, size_t n, int64_t cached, int64_t streamed,
                 uint32_t chosen[PDI_COPY_WAYS], uint32_t tried[PDI_COPY_WAYS], uint64_t *seed)
{
    memset(chosen, 0, PDI_COPY_WAYS * sizeof *chosen);
    memset(tried, 0, PDI_COPY_WAYS * sizeof *tried);
    for (uint32_t i = 0; i < PDI_COPY_AGAIN; i++) {
        enum pdi_copy_way way = pdi_copy_choose(plan, n);
        (i < PDI_COPY_TRIES * PDI_COPY_WAYS ? tried : chosen)[way]++;
        /* Some copies are slowed down by something else. */
        int64_t noise = i % 4 >= 2 ? (int64_t)(check_random(seed) % 900000) : 0;
        pdi_copy_note(plan, n, way, (way == PDI_COPY_CACHED ? cached : streamed) + noise);
    }
}

static void test_the_plan(uint64_t seed)
{
#if defined(__x86_64__)
    static struct pdi_copy_plan plan;
    uint32_t chosen[PDI_COPY_WAYS], tried[PDI_COPY_WAYS];
    for (int log = PDI_COPY_FROM; log < PDI_COPY_FROM + PDI_COPY_SIZES; log++) {
        size_t n = ((size_t)1 << log) + (size_t)(check_random(&seed) % 1000);
        bool fast = log % 2 == 0;
        live(&plan, n, fast ? 100000 : 130000, fast ? 130000 : 100000, chosen, tried, &seed);
        CHECK(tried[PDI_COPY_CACHED] == PDI_COPY_TRIES);
        CHECK(tried[PDI_COPY_STREAMED] == PDI_COPY_TRIES);
        CHECK(chosen[fast ? PDI_COPY_STREAMED : PDI_COPY_CACHED] == 0);
        /* The machine changes its mind: so does the plan, with its next look. */
        live(&plan, n, fast ? 130000 : 100000, fast ? 100000 : 130000, chosen, tried, &seed);
        CHECK(tried[PDI_COPY_STREAMED] == PDI_COPY_TRIES);
        CHECK(chosen[fast ? PDI_COPY_CACHED : PDI_COPY_STREAMED] == 0);
    }
    /* The largest share the last place. */
    live(&plan, SIZE_MAX, 130000, 90000, chosen, tried, &seed);
    CHECK(chosen[PDI_COPY_CACHED] == 0);
#endif
    struct pdi_copy_plan small = {0}, zero = {0};
    for (size_t n = 0; n < (size_t)1 << PDI_COPY_FROM; n = n * 2 + 1) {
        CHECK(pdi_copy_choose(&small, n) == PDI_COPY_CACHED);
        pdi_copy_note(&small, n, PDI_COPY_CACHED, 5);
    }
    CHECK(memcmp(&small, &zero, sizeof zero) == 0);
}

int main(void)
{
    uint64_t seed = check_seed();
    for (size_t i = 0; i < SPACE; i++)
        from[i] = (unsigned char)check_random(&seed);
    memcpy(want, from, sizeof want);
    test_alignments_and_sizes(seed);
    test_between_walls();
    test_large(seed);
    test_the_plan(seed);
    CHECK(memcmp(want, from, sizeof want) == 0);
    return checks_done();
}
