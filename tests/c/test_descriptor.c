/* test_descriptor.c - a tensor's description comes back as it was; one that was
 * tampered with is refused or harmless. The arena always ends at the end of a
 * page behind which nothing is mapped: whoever reads too far does not live. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "core/descriptor.h"

static char text[UINT16_MAX + 1]; /* type texts */

/* `size` bytes, 64-byte aligned as far as their number allows, then a wall. */
struct walled {
    char *map, *data;
    size_t mapped;
};

static struct walled walled(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct walled w = {.mapped = (size + page - 1) / page * page + page};
    w.map = mmap(NULL, w.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(w.map != MAP_FAILED);
    MUST(mprotect(w.map + w.mapped - page, page, PROT_NONE) == 0);
    w.data = w.map + w.mapped - page - size;
    return w;
}

static void walled_end(struct walled *w)
{
    munmap(w->map, w->mapped);
}

static podipc_tensor tensor(uint32_t ndim, uint32_t type_len, uint64_t nbytes, uint64_t *seed)
{
    podipc_tensor t = {.nbytes = nbytes,
                       .ndim = ndim,
                       .type_len = type_len,
                       .type = text,
                       .flags = check_random(seed) % 2 ? PODIPC_FORTRAN : 0};
    for (uint32_t i = 0; i < ndim; i++)
        t.shape[i] = (int64_t)(check_random(seed) >> 1);
    return t;
}

static bool equal(const podipc_tensor *a, const podipc_tensor *b)
{
    return a->nbytes == b->nbytes && a->flags == b->flags && a->ndim == b->ndim &&
           a->type_len == b->type_len && memcmp(a->type, b->type, a->type_len) == 0 &&
           memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0;
}

/* Reads everything that a valid description promises to be there. */
static uint64_t touch(const podipc_tensor *t, const char *data)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->type_len; i++)
        sum += (unsigned char)t->type[i];
    if (t->nbytes > 0)
        sum += (unsigned char)data[0] + (uint64_t)(unsigned char)data[t->nbytes - 1];
    return sum;
}

/* ---- round trips ---- */

static void round_trip(uint32_t ndim, uint32_t type_len, uint64_t nbytes, uint64_t *seed)
{
    podipc_tensor in = tensor(ndim, type_len, nbytes, seed), out;
    uint64_t room = pdi_descriptor_room(&in);
    CHECK(room >= nbytes && room > 0);
    struct walled w = walled(room);
    struct pdi_descriptor d;
    memset(&d, 0xa5, sizeof d);
    d.offset = 0;
    memset(w.data, 0x5a, nbytes);
    pdi_descriptor_write(&d, &in, w.data);
    memset(&out, 0, sizeof out);
    bool good = pdi_descriptor_read(&d, w.data, room, &out) == 0 && equal(&in, &out);
    for (uint64_t i = 0; i < nbytes; i++)
        good &= w.data[i] == 0x5a;
    CHECK(good);
    /* A byte less than what is needed is too little. */
    if (room > 1)
        CHECK(pdi_descriptor_read(&d, w.data + 1, room - 1, &out) == PODIPC_ECORRUPT);
    walled_end(&w);
}

static void test_round_trips(uint64_t seed)
{
    static const uint32_t lengths[] = {0,  1,  2,   22,  23,  24,   25,   26,    31,    32,
                                       33, 63, 255, 256, 257, 4095, 4096, 32767, 65534, 65535};
    static const uint64_t sizes[] = {0, 1, 7, 8, 9, 63, 64, 65, 4096};
    for (uint32_t ndim = 0; ndim <= PODIPC_MAX_DIMS; ndim++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            round_trip(ndim, lengths[l], sizes[check_random(&seed) % 9], &seed);
    for (uint32_t ndim = 7; ndim <= 10; ndim++)
        for (uint32_t len = 20; len <= 30; len++)
            for (size_t s = 0; s < 9; s++)
                round_trip(ndim, len, sizes[s], &seed);
}

static void test_what_cannot_be_sent(uint64_t seed)
{
    podipc_tensor t = tensor(64, 65535, INT64_MAX, &seed);
    CHECK(pdi_descriptor_room(&t) > (uint64_t)INT64_MAX);
    t.nbytes = (uint64_t)INT64_MAX + 1;
    CHECK(pdi_descriptor_room(&t) == 0);
    t.nbytes = UINT64_MAX;
    CHECK(pdi_descriptor_room(&t) == 0);
    t = tensor(64, 65535, 0, &seed);
    t.ndim = 65;
    CHECK(pdi_descriptor_room(&t) == 0);
    t.ndim = UINT32_MAX;
    CHECK(pdi_descriptor_room(&t) == 0);
    t = tensor(1, 65535, 0, &seed);
    t.type_len = 65536;
    CHECK(pdi_descriptor_room(&t) == 0);
    t.type_len = UINT32_MAX;
    CHECK(pdi_descriptor_room(&t) == 0);
    t = tensor(0, 0, 0, &seed);
    CHECK(pdi_descriptor_room(&t) > 0); /* even nothing has a place */
}

/* ---- tampering ---- */

enum { ARENA = 8192 };

static void refused_or_harmless(const struct pdi_descriptor *d, const struct walled *w)
{
    podipc_tensor t;
    int rc = pdi_descriptor_read(d, w->data, ARENA, &t);
    if (rc != 0) {
        if (rc != PODIPC_ECORRUPT)
            CHECK(rc == PODIPC_ECORRUPT);
        return;
    }
    bool good = t.ndim <= PODIPC_MAX_DIMS && t.nbytes <= ARENA && d->offset <= ARENA - t.nbytes &&
                d->offset % PODIPC_TENSOR_ALIGN == 0 && (t.flags & ~(uint32_t)PODIPC_FORTRAN) == 0;
    for (uint32_t i = 0; i < t.ndim && i < PODIPC_MAX_DIMS; i++)
        good &= t.shape[i] >= 0;
    if (!good)
        CHECK(good);
    else if (touch(&t, w->data + d->offset) == UINT64_MAX)
        printf("never, but the reading must not be left out\n");
}

static struct pdi_descriptor valid(const struct walled *w, uint32_t ndim, uint32_t type_len,
                                   uint64_t nbytes, uint64_t *seed)
{
    podipc_tensor t = tensor(ndim, type_len, nbytes, seed);
    struct pdi_descriptor d;
    memset(&d, 0, sizeof d);
    uint64_t room = pdi_descriptor_room(&t);
    MUST(room <= ARENA);
    d.offset = (ARENA - room) & ~UINT64_C(63);
    pdi_descriptor_write(&d, &t, w->data + d.offset);
    MUST(pdi_descriptor_read(&d, w->data, ARENA, &t) == 0);
    return d;
}

static void test_each_field(uint64_t seed)
{
    static const uint64_t extremes[] = {0,
                                        1,
                                        7,
                                        8,
                                        63,
                                        64,
                                        65,
                                        127,
                                        128,
                                        255,
                                        4096,
                                        ARENA - 64,
                                        ARENA - 1,
                                        ARENA,
                                        ARENA + 1,
                                        ARENA + 64,
                                        UINT16_MAX,
                                        UINT32_MAX,
                                        INT64_MAX - 63,
                                        INT64_MAX,
                                        UINT64_C(1) << 63,
                                        UINT64_MAX - 127,
                                        UINT64_MAX - 63,
                                        UINT64_MAX - 7,
                                        UINT64_MAX};
    static const uint32_t dims[] = {0, 1, 8, 9, 64}, lengths[] = {0, 3, 24, 25, 4000};
    struct walled w = walled(ARENA);
    for (int k = 0; k < 25; k++) {
        const struct pdi_descriptor good =
            valid(&w, dims[k / 5], lengths[k % 5], (uint64_t)k * 100, &seed);
        for (size_t e = 0; e < sizeof extremes / sizeof *extremes; e++) {
            struct pdi_descriptor d;
#define WITH(field, type)                                                                          \
    memcpy((void *)&d, (const void *)&good, sizeof d);                                             \
    d.field = (type)extremes[e];                                                                   \
    refused_or_harmless(&d, &w)
            WITH(offset, uint64_t);
            WITH(nbytes, uint64_t);
            WITH(arena, uint32_t);
            WITH(ticket, uint32_t);
            WITH(generation, uint32_t);
            WITH(ndim, uint8_t);
            WITH(flags, uint8_t);
            WITH(type_len, uint16_t);
            WITH(shape[0], int64_t);
            WITH(shape[7], int64_t);
            for (size_t f = 0; f < sizeof extremes / sizeof *extremes; f++) {
                WITH(offset, uint64_t);
                d.nbytes = extremes[f];
                refused_or_harmless(&d, &w);
            }
#undef WITH
        }
        for (size_t bit = 0; bit < 8 * sizeof good; bit++) {
            struct pdi_descriptor d;
            memcpy((void *)&d, (const void *)&good, sizeof d);
            ((unsigned char *)&d)[bit / 8] ^= (unsigned char)(1u << bit % 8);
            refused_or_harmless(&d, &w);
        }
    }
    CHECK(true);
    walled_end(&w);
}

static void test_noise(uint64_t seed)
{
    struct walled w = walled(ARENA);
    for (int i = 0; i < ARENA; i += 8) {
        uint64_t value = check_random(&seed);
        memcpy(w.data + i, &value, 8);
    }
    for (int i = 0; i < 1000000; i++) {
        struct pdi_descriptor d;
        for (size_t at = 0; at < sizeof d; at += 8) {
            uint64_t value = check_random(&seed);
            memcpy((char *)&d + at, &value, 8);
        }
        /* All noise is refused at the first look: leave more and more in order. */
        uint64_t plain = check_random(&seed);
        if (plain & 1)
            d.offset = d.offset % (2 * ARENA) & ~UINT64_C(63);
        if (plain & 2)
            d.nbytes %= 2 * ARENA;
        if (plain & 4)
            d.ndim %= 80;
        if (plain & 8)
            d.flags &= PODIPC_FORTRAN;
        if (plain & 16)
            d.type_len %= 256;
        if (plain & 32)
            for (int k = 0; k < PDI_INLINE_DIMS; k++)
                d.shape[k] &= INT64_MAX;
        refused_or_harmless(&d, &w);
    }
    CHECK(true);
    walled_end(&w);
}

/* ---- somebody writes the shape while it is read ---- */

struct adversary {
    _Atomic int stop;
    int64_t *shape;
    uint64_t seed;
};

/* Its writes race with the reader's on purpose: only what is private counts. */
static void *flip(void *arg)
{
    struct adversary *a = arg;
    while (!atomic_load_explicit(&a->stop, memory_order_relaxed)) {
        uint64_t r = check_random(&a->seed);
        volatile int64_t *word = &a->shape[r % PODIPC_MAX_DIMS];
        *word = r & 64 ? -1 : (int64_t)(r >> 1);
    }
    return NULL;
}

static void test_shape_changes_under_the_reader(uint64_t seed)
{
    struct walled w = walled(ARENA);
    struct pdi_descriptor d = valid(&w, PODIPC_MAX_DIMS, 100, 1000, &seed);
    struct adversary a = {.shape = (int64_t *)(void *)(w.data + d.offset + 1000), .seed = seed};
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, flip, &a) == 0);
    int read = 0, refused = 0;
    bool good = true;
    for (int i = 0; i < 300000; i++) {
        podipc_tensor t;
        if (i % 64 == 0) /* so that a whole one is among them */
            memset((void *)a.shape, 0, PODIPC_MAX_DIMS * 8);
        int rc = pdi_descriptor_read(&d, w.data, ARENA, &t);
        good &= rc == 0 || rc == PODIPC_ECORRUPT;
        for (uint32_t k = 0; rc == 0 && k < t.ndim; k++)
            good &= t.shape[k] >= 0;
        *(rc == 0 ? &read : &refused) += 1;
    }
    atomic_store(&a.stop, 1);
    pthread_join(thread, NULL);
    CHECK(good);
    CHECK(refused > 0);
    printf("under an adversary: %d read, %d refused\n", read, refused);
    walled_end(&w);
}

int main(void)
{
    uint64_t seed = check_seed();
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)check_random(&seed);
    test_round_trips(seed);
    test_what_cannot_be_sent(seed);
    test_each_field(seed);
    test_noise(seed);
    test_shape_changes_under_the_reader(seed);
    return checks_done();
}
