#include "copy.h"

#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_STREAMED 1
#else
#define HAVE_STREAMED 0
#endif

/* What is written past the caches is read from memory: the reader, whose time is not
 * seen here, has to be paid for, and a little noise must not decide. */
#define WORTH 1.15f

/* Index of the size in the plan, or -1 if it is not watched. */
static int size_index(size_t n)
{
    if (!HAVE_STREAMED || n < (size_t)1 << PDI_COPY_FROM)
        return -1;
    int log = 63 - __builtin_clzll(n);
    int i = log - PDI_COPY_FROM;
    return i < PDI_COPY_SIZES ? i : PDI_COPY_SIZES - 1;
}

enum pdi_copy_way pdi_copy_choose(struct pdi_copy_plan *plan, size_t n)
{
    int i = size_index(n);
    if (i < 0)
        return PDI_COPY_CACHED;
    uint32_t turn = plan->size[i].copies++ % PDI_COPY_AGAIN;
    if (turn == 0)
        plan->size[i].best[PDI_COPY_CACHED] = plan->size[i].best[PDI_COPY_STREAMED] = 0;
    if (turn < PDI_COPY_TRIES * PDI_COPY_WAYS)
        return turn % PDI_COPY_WAYS == 0 ? PDI_COPY_CACHED : PDI_COPY_STREAMED;
    return plan->size[i].best[PDI_COPY_STREAMED] * WORTH < plan->size[i].best[PDI_COPY_CACHED]
               ? PDI_COPY_STREAMED
               : PDI_COPY_CACHED;
}

void pdi_copy_note(struct pdi_copy_plan *plan, size_t n, enum pdi_copy_way way, int64_t ns)
{
    int i = size_index(n);
    if (i < 0)
        return;
    float per_byte = (float)ns / (float)n;
    float *best = &plan->size[i].best[way];
    if (*best == 0 || per_byte < *best)
        *best = per_byte;
}

#if HAVE_STREAMED

/* Whole 64-byte lines to a 64-byte aligned destination. */
__attribute__((target("avx512f"))) static void lines_avx512(char *to, const char *from,
                                                            size_t lines)
{
    for (; lines >= 4; lines -= 4, to += 256, from += 256) {
        __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 64);
        __m512i c = _mm512_loadu_si512(from + 128), d = _mm512_loadu_si512(from + 192);
        _mm512_stream_si512((__m512i *)(void *)to, a);
        _mm512_stream_si512((__m512i *)(void *)(to + 64), b);
        _mm512_stream_si512((__m512i *)(void *)(to + 128), c);
        _mm512_stream_si512((__m512i *)(void *)(to + 192), d);
    }
    for (; lines > 0; lines--, to += 64, from += 64)
        _mm512_stream_si512((__m512i *)(void *)to, _mm512_loadu_si512(from));
}

__attribute__((target("avx"))) static void lines_avx(char *to, const char *from, size_t lines)
{
    for (; lines > 0; lines--, to += 64, from += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)from);
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(from + 32));
        _mm256_stream_si256((__m256i *)(void *)to, a);
        _mm256_stream_si256((__m256i *)(void *)(to + 32), b);
    }
}

static void lines_sse2(char *to, const char *from, size_t lines)
{
    for (; lines > 0; lines--, to += 64, from += 64)
        for (int i = 0; i < 64; i += 16)
            _mm_stream_si128((__m128i *)(void *)(to + i),
                             _mm_loadu_si128((const __m128i *)(const void *)(from + i)));
}

static void copy_streamed(char *to, const char *from, size_t n)
{
    size_t head = (size_t)(-(uintptr_t)to & 63);
    if (head > n)
        head = n;
    memcpy(to, from, head);
    to += head, from += head, n -= head;
    size_t lines = n / 64;
    if (__builtin_cpu_supports("avx512f"))
        lines_avx512(to, from, lines);
    else if (__builtin_cpu_supports("avx"))
        lines_avx(to, from, lines);
    else
        lines_sse2(to, from, lines);
    memcpy(to + lines * 64, from + lines * 64, n % 64);
    /* Non-temporal stores are not ordered by a later release store on their own. */
    _mm_sfence();
}

#endif

void pdi_copy(void *to, const void *from, size_t n, enum pdi_copy_way way)
{
#if HAVE_STREAMED
    if (way == PDI_COPY_STREAMED) {
        copy_streamed(to, from, n);
        return;
    }
#else
    (void)way;
#endif
    memcpy(to, from, n);
}
