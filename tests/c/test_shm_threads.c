/* tsan */
/* test_shm_threads.c - both ends in one process, many threads at each: sending,
 * lending, receiving, letting go and closing at random. The sanitizer sees who
 * does not hold the lock; the checksums see the rest. */
#include <pthread.h>

#include "check.h"
#include "core/atomics.h"
#include "place.h"
#include "podipc.h"

enum { THREADS = 8, BAG = 64, NUMBERS = 1 << 16 };

struct head {
    uint64_t thread, number, size, sum;
};

struct channel {
    podipc_sender *tx;
    podipc_receiver *rx[2];
    int receivers;
    bool broadcast;
    pthread_mutex_t lock;
    struct {
        podipc_message message;
        podipc_receiver *of;
    } bag[BAG]; /* received by one thread, let go by another */
    uint32_t bagged;
    uint8_t seen[2][THREADS][NUMBERS];
    _Atomic uint64_t sent, received, torn, twice, unexpected;
    uint64_t seed;
    _Atomic int stop;
};

struct worker {
    struct channel *c;
    uint64_t number, seed;
    int which; /* receiver */
};

static uint64_t sum_of(const struct head *h)
{
    const uint64_t *words = (const uint64_t *)(const void *)(h + 1);
    uint64_t sum = h->thread ^ h->number ^ h->size;
    for (uint64_t i = 0; i < (h->size - sizeof *h) / 8; i++)
        sum = (sum ^ words[i]) * UINT64_C(0x100000001b3);
    return sum;
}

static void make(void *at, uint64_t thread, uint64_t number, uint64_t size)
{
    struct head *h = at;
    uint64_t *words = (uint64_t *)(void *)(h + 1), seed = thread << 40 ^ number;
    for (uint64_t i = 0; i < (size - sizeof *h) / 8; i++)
        words[i] = check_random(&seed);
    *h = (struct head){.thread = thread, .number = number, .size = size};
    h->sum = sum_of(h);
}

static void odd(struct channel *c, int rc)
{
    if (rc != PODIPC_ECLOSED && rc != -EAGAIN && rc != PODIPC_EPEERDIED) {
        fprintf(stderr, "unexpected: %d\n", rc);
        c->unexpected++;
    }
}

static void *send_some(void *arg)
{
    struct worker *w = arg;
    struct channel *c = w->c;
    static const uint64_t sizes[] = {32, 40, 1000, 5000, 70000};
    char *own = malloc(70000);
    MUST(own);
    for (uint64_t n = 0; n < NUMBERS;) {
        uint64_t r = check_random(&w->seed), size = sizes[r % 64 < 60 ? r % 3 : r % 5];
        podipc_tensor t = {
            .nbytes = size, .ndim = 1, .type = "|u1", .type_len = 3, .shape = {(int64_t)size}};
        podipc_loan loan;
        podipc_sending s = {.tensor = &t};
        int64_t until = r >> 60 == 0 ? 0 : pdi_now() + (int64_t)(r >> 40 & 0xfffff);
        bool lent = r >> 32 & 1;
        int rc = lent ? podipc_loan_get(c->tx, &t, until, &loan, NULL) : 0;
        if (rc == 0) {
            make(lent ? loan.data : own, w->number, n, size);
            s.data = lent ? NULL : own;
            s.loan = lent ? &loan : NULL;
            if (lent && (r >> 33 & 7) == 0) {
                podipc_loan_discard(c->tx, &loan);
                continue;
            }
            rc = podipc_send(c->tx, &s, until, NULL, NULL);
            if (rc == -EAGAIN)
                podipc_send_cancel(c->tx, &s);
            if (rc == 0)
                n++, c->sent++;
            if (lent)
                podipc_loan_let_go(c->tx, &loan);
        }
        if (rc == PODIPC_ECLOSED)
            break;
        if (rc != 0)
            odd(c, rc);
        if ((r >> 50 & 63) == 0) {
            podipc_stats st;
            char text[512];
            podipc_sender_stats(c->tx, &st);
            podipc_sender_explain(c->tx, text, sizeof text);
        }
    }
    free(own);
    return NULL;
}

static void look(struct channel *c, int which, const podipc_message *m)
{
    const struct head *h = m->data;
    bool whole = m->tensor.nbytes >= sizeof *h && h->size == m->tensor.nbytes &&
                 h->thread < THREADS && h->number < NUMBERS && h->sum == sum_of(h);
    if (!whole) {
        c->torn++;
        return;
    }
    pthread_mutex_lock(&c->lock);
    uint8_t *seen = &c->seen[c->broadcast ? which : 0][h->thread][h->number];
    c->twice += *seen;
    *seen = 1;
    pthread_mutex_unlock(&c->lock);
}

static void let_one_go(struct channel *c, uint64_t r)
{
    pthread_mutex_lock(&c->lock);
    if (c->bagged == 0) {
        pthread_mutex_unlock(&c->lock);
        return;
    }
    uint32_t i = (uint32_t)(r % c->bagged);
    podipc_message m = c->bag[i].message;
    podipc_receiver *of = c->bag[i].of;
    c->bag[i] = c->bag[--c->bagged];
    pthread_mutex_unlock(&c->lock);
    if (((const struct head *)m.data)->sum != sum_of(m.data))
        c->torn++;
    podipc_release(of, &m);
}

static void *receive_some(void *arg)
{
    struct worker *w = arg;
    struct channel *c = w->c;
    for (;;) {
        uint64_t r = check_random(&w->seed);
        podipc_message m;
        int rc = podipc_recv(c->rx[w->which], pdi_now() + (int64_t)(r >> 40 & 0xffffff), &m, NULL);
        if (rc == PODIPC_ECLOSED)
            return NULL;
        if (rc != 0) {
            odd(c, rc);
            continue;
        }
        c->received++;
        look(c, w->which, &m);
        if ((r & 15) == 0) {
            void *copy;
            if (podipc_map_private(c->rx[w->which], &m, &copy, NULL) == 0) {
                memset(copy, 0, sizeof(struct head));
                podipc_unmap_private(c->rx[w->which], &m, copy);
            }
        }
        pthread_mutex_lock(&c->lock);
        bool keep = c->bagged < BAG && (r & 3);
        if (keep) {
            c->bag[c->bagged].of = c->rx[w->which];
            c->bag[c->bagged++].message = m;
        }
        pthread_mutex_unlock(&c->lock);
        if (!keep)
            podipc_release(c->rx[w->which], &m);
        if (r & 16)
            let_one_go(c, r >> 8);
        if ((r >> 20 & 63) == 0) {
            podipc_stats st;
            char text[512];
            podipc_receiver_stats(c->rx[w->which], &st);
            podipc_receiver_explain(c->rx[w->which], text, sizeof text);
        }
    }
}

static void life(struct channel *c, podipc_options o, uint64_t *seed, bool sender_first)
{
    podipc_options rx_options = o;
    pthread_t threads[2 * THREADS];
    struct worker workers[2 * THREADS];
    MUST(podipc_sender_open(&o, &c->tx, NULL) == 0);
    for (int i = 0; i < c->receivers; i++) {
        rx_options.latest = o.broadcast && i == 1;
        MUST(podipc_receiver_open(&rx_options, &c->rx[i], NULL) == 0);
    }
    for (int i = 0; i < 2 * THREADS; i++) {
        workers[i] = (struct worker){.c = c,
                                     .number = (uint64_t)i % THREADS,
                                     .seed = check_random(seed),
                                     .which = i % c->receivers};
        MUST(pthread_create(&threads[i], NULL, i < THREADS ? send_some : receive_some,
                            &workers[i]) == 0);
    }
    nap((int64_t)(check_random(seed) % 100000000));
    /* While all of them wait, send and receive. */
    if (sender_first)
        (void)podipc_sender_close(c->tx);
    nap((int64_t)(check_random(seed) % 3000000));
    for (int i = 0; i < c->receivers; i++)
        podipc_receiver_close(c->rx[i]);
    (void)podipc_sender_close(c->tx);
    for (int i = 0; i < 2 * THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    while (c->bagged > 0)
        let_one_go(c, 0);
    podipc_sender_free(c->tx);
    for (int i = 0; i < c->receivers; i++)
        podipc_receiver_free(c->rx[i]);
}

static void test_sixteen_threads(uint64_t seed)
{
    struct channel *c = malloc(sizeof *c);
    MUST(c);
    uint64_t sent = 0, received = 0;
    for (int round = 0; round < 16; round++) {
        memset(c, 0, sizeof *c);
        pthread_mutex_init(&c->lock, NULL);
        char *path = place_path("threads");
        static const podipc_wait waits[] = {PODIPC_WAIT_ADAPTIVE, PODIPC_WAIT_BLOCK,
                                            PODIPC_WAIT_SEMAPHORE, PODIPC_WAIT_SPIN};
        c->broadcast = round % 8 >= 5;
        c->receivers = 1 + (c->broadcast || round % 3 == 2);
        podipc_options o = {.method = PODIPC_SHM,
                            .path = path,
                            .mode = 0600,
                            .max_bytes = 8 << 20,
                            .broadcast = c->broadcast,
                            .wait = waits[round % 4]};
        life(c, o, &seed, round % 2);
        CHECK(c->torn == 0);
        CHECK(c->twice == 0);
        CHECK(c->unexpected == 0);
        CHECK(access(path, F_OK) < 0);
        sent += c->sent;
        received += c->received;
        pthread_mutex_destroy(&c->lock);
        free(path);
    }
    CHECK(received > 0);
    printf("%d sent, %d received\n", (int)sent, (int)received);
    free(c);
}

int main(void)
{
    uint64_t seed = check_seed();
    place_begin("threads");
    int before = descriptors();
    test_sixteen_threads(seed);
    CHECK(descriptors() == before);
    place_end();
    return checks_done();
}
