/* atomics.h - every ordering that podipc relies on, by name.
 *
 * Shared memory is read and written with these alone. Plain accesses to data
 * that a release/acquire pair orders (descriptor fields, tensor bytes) need no
 * atomics: the pair is on the word that publishes them.
 *
 *   publish / observe   A writes data, then publishes a word; B observes the
 *                       word and then reads the data. Release and acquire.
 *   peek / poke         A word whose value is only a hint: relaxed.
 *   store_load_fence    "I wrote mine, now I look at yours", on both sides: the
 *                       one ordering that release/acquire do not give, needed
 *                       where a sleeper and a waker must not miss each other.
 */
#ifndef PDI_ATOMICS_H
#define PDI_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint32_t pdi_word32;
typedef _Atomic uint64_t pdi_word64;
_Static_assert(sizeof(pdi_word32) == 4 && ATOMIC_INT_LOCK_FREE == 2, "lock-free 32-bit words");
_Static_assert(sizeof(pdi_word64) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "lock-free 64-bit words");

static inline void pdi_publish64(pdi_word64 *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static inline void pdi_publish32(pdi_word32 *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static inline uint64_t pdi_observe64(const pdi_word64 *word)
{
    return atomic_load_explicit((pdi_word64 *)(uintptr_t)word, memory_order_acquire);
}

static inline uint32_t pdi_observe32(const pdi_word32 *word)
{
    return atomic_load_explicit((pdi_word32 *)(uintptr_t)word, memory_order_acquire);
}

static inline void pdi_poke32(pdi_word32 *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void pdi_poke64(pdi_word64 *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline uint32_t pdi_peek32(const pdi_word32 *word)
{
    return atomic_load_explicit((pdi_word32 *)(uintptr_t)word, memory_order_relaxed);
}

static inline uint64_t pdi_peek64(const pdi_word64 *word)
{
    return atomic_load_explicit((pdi_word64 *)(uintptr_t)word, memory_order_relaxed);
}

/* The one word that several may write: a bell's. */
static inline void pdi_bump32(pdi_word32 *word)
{
    atomic_fetch_add_explicit(word, 1, memory_order_release);
}

static inline void pdi_store_load_fence(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}

/* Tells the core that this is a spin loop. */
static inline void pdi_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#else
    __asm__ __volatile__("" ::: "memory");
#endif
}

#endif
