/* check.h - for the C tests: count checks, say which failed, go on; numbers that
 * are random and can be had again. */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Threads of a test may check as well. */
static _Atomic int checks_passed, checks_failed;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (condition) {                                                                           \
            checks_passed++;                                                                       \
        } else {                                                                                   \
            checks_failed++;                                                                       \
            if (checks_failed <= 20)                                                               \
                fprintf(stderr, "%s:%d: in %s: not so: %s\n", __FILE__, __LINE__, __func__,        \
                        #condition);                                                               \
        }                                                                                          \
    } while (0)

/* Where going on makes no sense. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: in %s: must be so: %s\n", __FILE__, __LINE__, __func__,        \
                    #condition);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static inline int checks_done(void)
{
    printf("%d passed, %d failed\n", checks_passed, checks_failed);
    return checks_failed ? 1 : 0;
}

/* The same numbers at each run, unless PODIPC_SEED is set; printed either way. */
static inline uint64_t check_seed(void)
{
    const char *given = getenv("PODIPC_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 20240607;
    printf("PODIPC_SEED=%" PRIu64 "\n", seed);
    return seed;
}

/* The next number (splitmix64). */
static inline uint64_t check_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

#endif
