/* tsan */
/* test_ring.c - the two rings of a link: what is pushed comes out whole and once,
 * also where the counts wrap, and what cannot be is refused. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/ring.h"

/* Both sides of a link that has already carried `start` messages. */
struct pair {
    struct pdi_ring *ring;
    struct pdi_returns *returns;
    struct pdi_ring_tx tx;
    struct pdi_ring_rx rx;
};

static void *shared(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(p != MAP_FAILED);
    return p;
}

static struct pair pair_at(uint64_t start)
{
    struct pair p = {.ring = shared(sizeof *p.ring), .returns = shared(sizeof *p.returns)};
    if (start > 0)
        for (uint64_t i = 1; i <= PDI_RING_SLOTS; i++) {
            uint64_t position = start - i;
            pdi_publish64(&p.ring->slots[position % PDI_RING_SLOTS].position, position + 1);
        }
    pdi_publish64(&p.returns->taken, start);
    pdi_publish64(&p.returns->returned, start);
    p.tx = (struct pdi_ring_tx){
        .ring = p.ring, .returns = p.returns, .tail = start, .taken = start, .returned = start};
    p.rx = (struct pdi_ring_rx){
        .ring = p.ring, .returns = p.returns, .head = start, .returned = start};
    return p;
}

static void pair_end(struct pair *p)
{
    munmap(p->ring, sizeof *p->ring);
    munmap(p->returns, sizeof *p->returns);
}

/* A descriptor of which every byte follows from `n`. */
static struct pdi_descriptor message(uint64_t n)
{
    struct pdi_descriptor d;
    unsigned char *bytes = (unsigned char *)&d;
    uint64_t state = n;
    for (size_t i = 0; i < sizeof d; i += 8) {
        uint64_t value = check_random(&state);
        memcpy(bytes + i, &value, 8);
    }
    return d;
}

static bool same(const struct pdi_descriptor *a, const struct pdi_descriptor *b)
{
    size_t head = sizeof a->position;
    return memcmp((const char *)a + head, (const char *)b + head, sizeof *a - head) == 0;
}

static void push(struct pair *p, uint64_t n)
{
    struct pdi_descriptor d = message(n);
    pdi_ring_push(&p->tx, &d);
}

static bool pop(struct pair *p, uint64_t n)
{
    struct pdi_descriptor got, want = message(n);
    if (!pdi_ring_copy(&p->rx, &got))
        return false;
    pdi_ring_take(&p->rx);
    return same(&got, &want);
}

/* ---- one thread ---- */

static void test_fill_and_drain(uint64_t start)
{
    struct pair p = pair_at(start);
    struct pdi_descriptor d;
    CHECK(!pdi_ring_copy(&p.rx, &d));
    CHECK(!pdi_ring_ready(&p.rx));
    for (uint64_t i = 0; i < PDI_RING_SLOTS; i++) {
        CHECK(pdi_ring_untaken(&p.tx) == i);
        push(&p, start + i);
    }
    CHECK(pdi_ring_refresh(&p.tx));
    CHECK(pdi_ring_untaken(&p.tx) == PDI_RING_SLOTS);
    CHECK(pdi_ring_ready(&p.rx));
    for (uint64_t i = 0; i < PDI_RING_SLOTS; i++) {
        struct pdi_descriptor want = message(start + i);
        CHECK(same(pdi_ring_at(&p.tx, start + i), &want));
        CHECK(pdi_ring_copy(&p.rx, &d) && same(&d, &want)); /* copying alone takes nothing */
        CHECK(pop(&p, start + i));
        CHECK(pdi_ring_refresh(&p.tx));
        CHECK(pdi_ring_untaken(&p.tx) == PDI_RING_SLOTS - 1 - i);
    }
    CHECK(!pdi_ring_copy(&p.rx, &d));
    pair_end(&p);
}

static void test_a_million_at(uint64_t start, uint64_t seed)
{
    struct pair p = pair_at(start);
    uint64_t sent = start, got = start, returned = start, freed = start;
    bool good = true;
    while (got - start < 1000000) {
        for (uint64_t n = check_random(&seed) % 200; n > 0; n--) {
            good &= pdi_ring_refresh(&p.tx);
            if (pdi_ring_untaken(&p.tx) < PDI_RING_SLOTS)
                push(&p, sent++);
        }
        for (uint64_t n = check_random(&seed) % 200; n > 0 && got != sent; n--)
            good &= pop(&p, got++);
        for (uint64_t n = check_random(&seed) % 200; n > 0 && returned != got; n--, returned++)
            pdi_ring_return(&p.rx, (uint32_t)returned, (uint32_t)(returned >> 7));
        uint64_t entry;
        int rc;
        while ((rc = pdi_ring_next_return(&p.tx, &entry)) > 0) {
            good &= entry == ((uint64_t)(uint32_t)(freed >> 7) << 32 | (uint32_t)freed);
            freed++;
        }
        good &= rc == 0 && freed == returned;
        if (!good)
            break;
    }
    CHECK(good);
    CHECK(got - start >= 1000000);
    pair_end(&p);
}

static void test_returns_hold_every_ticket(uint64_t start)
{
    struct pair p = pair_at(start);
    uint64_t entry;
    CHECK(pdi_ring_next_return(&p.tx, &entry) == 0);
    for (uint32_t i = 0; i < PDI_RETURN_SLOTS; i++)
        pdi_ring_return(&p.rx, i, ~i);
    bool good = true;
    for (uint32_t i = 0; i < PDI_RETURN_SLOTS; i++)
        good &= pdi_ring_next_return(&p.tx, &entry) == 1 && entry == ((uint64_t)~i << 32 | i);
    CHECK(good);
    CHECK(pdi_ring_next_return(&p.tx, &entry) == 0);
    pair_end(&p);
}

static void test_counts_that_cannot_be(uint64_t start)
{
    struct pair p = pair_at(start);
    for (uint64_t i = 0; i < 10; i++)
        push(&p, i);
    for (uint64_t i = 0; i < 4; i++)
        CHECK(pop(&p, i));
    CHECK(pdi_ring_refresh(&p.tx));
    const uint64_t bad[] = {start + 3,
                            start + 11,
                            start - 1,
                            start + 1000,
                            start + 4 - 256,
                            ~start,
                            start + (UINT64_C(1) << 32) + 5,
                            start ^ UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pdi_publish64(&p.returns->taken, bad[i]);
        CHECK(!pdi_ring_refresh(&p.tx));
        CHECK(p.tx.taken == start + 4);
    }
    pdi_publish64(&p.returns->taken, start + 10);
    CHECK(pdi_ring_refresh(&p.tx));

    uint64_t entry;
    for (uint32_t i = 0; i < 3; i++)
        pdi_ring_return(&p.rx, i, 0);
    CHECK(pdi_ring_next_return(&p.tx, &entry) == 1);
    const uint64_t wrong[] = {start, start - 1, start + 2 + PDI_RETURN_SLOTS,
                              start + (UINT64_C(1) << 40), start ^ UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        pdi_publish64(&p.returns->returned, wrong[i]);
        CHECK(pdi_ring_next_return(&p.tx, &entry) == -1);
        CHECK(p.tx.returned == start + 1);
    }
    pdi_publish64(&p.returns->returned, start + 3);
    CHECK(pdi_ring_next_return(&p.tx, &entry) == 1);
    pair_end(&p);
}

/* ---- the sender dies ---- */

static void test_half_a_slot_is_not_there(void)
{
    struct pair p = pair_at(0);
    for (uint64_t n = 0; n < 3 * PDI_RING_SLOTS; n++) {
        struct pdi_descriptor d = message(n), got;
        struct pdi_descriptor *slot = &p.ring->slots[n % PDI_RING_SLOTS];
        memcpy((char *)slot + 8, (const char *)&d + 8, sizeof d - 8);
        CHECK(!pdi_ring_copy(&p.rx, &got));
        pdi_ring_push(&p.tx, &d);
        CHECK(pop(&p, n));
    }
    pair_end(&p);
}

/* Nothing to do. The other side may have no processor: to sleep lets it have ours, and
 * gives it back to us sooner than if we had only spun. */
static void idle(void)
{
    static _Thread_local unsigned times;
    if (++times % 1000 == 0)
        (void)usleep(20);
    else
        pdi_relax();
}

static void test_killed_at_any_point(uint64_t seed)
{
    for (int round = 0; round < 40; round++) {
        uint64_t start = check_random(&seed);
        struct pair p = pair_at(start);
        uint64_t got = start;
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0)
            for (uint64_t n = start;;) {
                if (!pdi_ring_refresh(&p.tx))
                    _exit(1);
                if (pdi_ring_untaken(&p.tx) < PDI_RING_SLOTS)
                    push(&p, n++);
                else
                    idle();
            }
        uint64_t until = check_random(&seed) % 2000;
        while (got - start < until)
            if (pdi_ring_ready(&p.rx)) {
                MUST(pop(&p, got));
                got++;
            } else {
                idle();
            }
        kill(child, SIGKILL);
        int status;
        MUST(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        bool whole = true;
        while (whole && pdi_ring_ready(&p.rx))
            whole = pop(&p, got++);
        CHECK(whole);
        CHECK(got - start <= until + PDI_RING_SLOTS);
        pair_end(&p);
    }
}

/* ---- two threads: TSan sees whether each access is ordered ---- */

enum { STRESS = 200000, BUFFERS = 64, WORDS = 16 };

struct stress {
    struct pair p;
    uint64_t buffers[BUFFERS][WORDS]; /* plain memory: the rings alone order its use */
    uint64_t start, seed;
    uint64_t torn;
};

static void *stress_receiver(void *arg)
{
    struct stress *s = arg;
    uint64_t seed = s->seed, held[BUFFERS];
    uint32_t count = 0;
    for (uint64_t n = s->start; n - s->start < STRESS;) {
        struct pdi_descriptor d;
        if (count < BUFFERS / 2 && pdi_ring_copy(&s->p.rx, &d)) {
            pdi_ring_take(&s->p.rx);
            const uint64_t *words = s->buffers[d.ticket];
            for (uint64_t w = 0; w < WORDS; w++)
                s->torn += words[w] != n * WORDS + w;
            s->torn += d.nbytes != n || d.offset != ~n;
            held[count++] = (uint64_t)d.generation << 32 | d.ticket;
            n++;
        } else if (count > 0) {
            uint32_t i = (uint32_t)(check_random(&seed) % count);
            pdi_ring_return(&s->p.rx, (uint32_t)held[i], (uint32_t)(held[i] >> 32));
            held[i] = held[--count];
        } else {
            idle();
        }
    }
    return NULL;
}

static void test_two_threads(uint64_t start, uint64_t seed)
{
    struct stress *s = calloc(1, sizeof *s);
    MUST(s);
    s->p = pair_at(start);
    s->start = start;
    s->seed = seed;
    uint32_t unused[BUFFERS], generation[BUFFERS] = {0}, count = BUFFERS;
    for (uint32_t i = 0; i < BUFFERS; i++)
        unused[i] = i;
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, stress_receiver, s) == 0);
    bool good = true;
    for (uint64_t n = start; n - start < STRESS;) {
        uint64_t entry;
        int rc;
        while ((rc = pdi_ring_next_return(&s->p.tx, &entry)) > 0) {
            uint32_t t = (uint32_t)entry;
            MUST(t < BUFFERS && generation[t] == (uint32_t)(entry >> 32));
            generation[t]++;
            unused[count++] = t;
        }
        good &= rc == 0 && pdi_ring_refresh(&s->p.tx);
        MUST(good);
        if (count == 0 || pdi_ring_untaken(&s->p.tx) == PDI_RING_SLOTS) {
            idle();
            continue;
        }
        uint32_t t = unused[--count];
        for (uint64_t w = 0; w < WORDS; w++)
            s->buffers[t][w] = n * WORDS + w;
        struct pdi_descriptor d = {
            .nbytes = n, .offset = ~n, .ticket = t, .generation = generation[t]};
        pdi_ring_push(&s->p.tx, &d);
        n++;
    }
    MUST(pthread_join(thread, NULL) == 0);
    CHECK(s->torn == 0);
    pair_end(&s->p);
    free(s);
}

int main(void)
{
    const uint64_t starts[] = {0, (UINT64_C(1) << 32) - 2, UINT64_MAX - 1, UINT64_MAX - 200};
    uint64_t seed = check_seed();
    test_half_a_slot_is_not_there();
    test_killed_at_any_point(seed);
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        test_fill_and_drain(starts[i]);
        test_returns_hold_every_ticket(starts[i]);
        test_counts_that_cannot_be(starts[i]);
        test_a_million_at(starts[i], seed);
        test_two_threads(starts[i], seed);
    }
    return checks_done();
}
