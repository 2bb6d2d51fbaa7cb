/* test_loopback.c - both ends in one process: steps, giving up, closing from elsewhere. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "platform/clock.h"
#include "platform/io.h"

/* The unit once more under other names, with a socket that takes as little as the
 * thread that writes to it likes. */
static _Thread_local uint64_t room = UINT64_MAX;
static ssize_t commanded_write(int fd, const struct iovec *iov, int n)
{
    struct iovec cut[3];
    int used = 0;
    if (room == UINT64_MAX)
        return pdi_write_socket(fd, iov, n);
    for (; used < n && room > 0; used++) {
        cut[used] = iov[used];
        if (cut[used].iov_len > room)
            cut[used].iov_len = (size_t)room;
        room -= cut[used].iov_len;
    }
    return used ? pdi_write_socket(fd, cut, used) : -EAGAIN;
}
/* And one whose other end never stops to send. */
static _Thread_local uint64_t flood;
static ssize_t commanded_read(int fd, const struct iovec *iov, int n)
{
    uint64_t all = 0;
    if (flood == 0)
        return pdi_read(fd, iov, n);
    for (int i = 0; i < n; i++)
        all += iov[i].iov_len;
    flood -= all < flood ? all : flood;
    return (ssize_t)all;
}
#define pdi_write_socket         commanded_write
#define pdi_read                 commanded_read
#define pdi_loopback_new         tested_new
#define pdi_loopback_fd          tested_fd
#define pdi_loopback_forked      tested_forked
#define pdi_loopback_hang_up     tested_hang_up
#define pdi_loopback_free        tested_free
#define pdi_loopback_send        tested_send
#define pdi_loopback_send_cancel tested_cancel
#define pdi_loopback_recv        tested_recv
#define pdi_loopback_close       tested_close
#include "channel/loopback.c"

#define MS     INT64_C(1000000)
#define SOON   (pdi_now() + 50 * MS)
#define LATER  (pdi_now() + 60000 * MS)
#define LARGE  (24 << 20) /* more than the buffers of a socket hold */
#define ROUNDS 300

static struct pdi_loopback *a, *b;
static char *large;

static void connect_both(void)
{
    struct pdi_listener listener;
    CHECK(pdi_listener_open(&listener, NULL, 0, NULL) == 0);
    CHECK(listener.port != 0);
    struct pdi_connecting c = {.port = listener.port, .fd = -1};
    CHECK(pdi_listener_accept(&listener, 0, &b, NULL) == -EAGAIN);
    CHECK(pdi_loopback_connect(&c, LATER, &a, NULL) == 0);
    CHECK(pdi_listener_accept(&listener, LATER, &b, NULL) == 0);
    pdi_listener_close(&listener);
    pdi_listener_close(&listener);
}

static void free_both(void)
{
    pdi_loopback_close(a, 0);
    pdi_loopback_close(b, 0);
    pdi_loopback_free(a);
    pdi_loopback_free(b);
}

static podipc_tensor bytes(uint64_t n)
{
    return (podipc_tensor){
        .nbytes = n, .ndim = 1, .shape = {(int64_t)n}, .type = "|u1", .type_len = 3};
}

static int send_all(struct pdi_loopback *l, const void *data, uint64_t n)
{
    podipc_tensor t = bytes(n);
    podipc_sending s = {.tensor = &t, .data = data};
    int rc;
    do
        rc = pdi_loopback_send(l, &s, SOON, NULL);
    while (rc == -EAGAIN);
    if (rc < 0)
        pdi_loopback_send_cancel(l, &s);
    return rc;
}

/* 0 and the size, or an error. */
static int recv_all(struct pdi_loopback *l, uint64_t *n, int expected)
{
    podipc_message m;
    int rc;
    do
        rc = pdi_loopback_recv(l, SOON, &m, NULL);
    while (rc == -EAGAIN);
    if (rc < 0)
        return rc;
    const unsigned char *data = m.data;
    for (uint64_t i = 0; i < m.tensor.nbytes; i += 4093)
        CHECK(expected < 0 ? data[i] == (unsigned char)large[i] : data[i] == expected);
    CHECK(((uintptr_t)m.data & (PODIPC_TENSOR_ALIGN - 1)) == 0);
    *n = m.tensor.nbytes;
    free((void *)(uintptr_t)m.data);
    return 0;
}

static void *send_large(void *l)
{
    CHECK(send_all(l, large, LARGE) == 0);
    return NULL;
}

static void test_large_both_ways(void)
{
    pthread_t one, two;
    uint64_t n = 0;
    connect_both();
    pthread_create(&one, NULL, send_large, a);
    pthread_create(&two, NULL, send_large, b);
    CHECK(recv_all(a, &n, -1) == 0 && n == LARGE);
    CHECK(recv_all(b, &n, -1) == 0 && n == LARGE);
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    free_both();
}

static void test_steps_without_waiting(void)
{
    podipc_tensor t = bytes(LARGE);
    podipc_sending s = {.tensor = &t, .data = large};
    podipc_message m;
    int sent = -EAGAIN, got = -EAGAIN, steps = 0;
    connect_both();
    CHECK(pdi_loopback_recv(b, 0, &m, NULL) == -EAGAIN);
    while (got == -EAGAIN && steps++ < 10000000) {
        if (sent == -EAGAIN)
            sent = pdi_loopback_send(a, &s, 0, NULL);
        got = pdi_loopback_recv(b, 0, &m, NULL);
    }
    CHECK(sent == 0 && got == 0 && steps > 1);
    if (got == 0) {
        CHECK(m.tensor.nbytes == LARGE && memcmp(m.data, large, LARGE) == 0);
        CHECK(m.tensor.ndim == 1 && m.tensor.type_len == 3 && !memcmp(m.tensor.type, "|u1", 3));
        free((void *)(uintptr_t)m.data);
    }
    free_both();
}

/* After every number of bytes that can have left: in the head, the payload, the trailer. */
static void test_given_up_anywhere(void)
{
    enum { SIZE = 100, TOTAL = sizeof(struct pdi_frame_head) + 8 + 3 + SIZE + PDI_TRAILER };
    podipc_tensor t = bytes(SIZE);
    uint64_t n = 0;
    connect_both();
    for (uint64_t stop = 0; stop < TOTAL; stop++) {
        podipc_sending s = {.tensor = &t, .data = large};
        room = stop;
        CHECK(pdi_loopback_send(a, &s, 0, NULL) == -EAGAIN);
        CHECK(s.done == stop);
        pdi_loopback_send_cancel(a, &s);
        room = stop / 3; /* and what is owed does not leave at once either */
        podipc_sending next = {.tensor = &t, .data = large};
        CHECK(pdi_loopback_send(a, &next, 0, NULL) == -EAGAIN);
        pdi_loopback_send_cancel(a, &next);
        room = UINT64_MAX;
        CHECK(send_all(a, large, 3000 + stop) == 0);
        CHECK(recv_all(b, &n, -1) == 0);
        CHECK(n == 3000 + stop);
    }
    free_both();
}

static void test_given_up_in_a_large_one(void)
{
    uint64_t n = 0;
    connect_both();
    for (int i = 0; i < 20; i++) {
        podipc_tensor big = bytes(LARGE - (uint64_t)i * 1237);
        podipc_sending s = {.tensor = &big, .data = large};
        CHECK(pdi_loopback_send(a, &s, pdi_now() + 5 * MS, NULL) == -EAGAIN);
        CHECK(s.done > 0);
        pdi_loopback_send_cancel(a, &s);
        CHECK(s.done == 0);
        pthread_t thread;
        pthread_create(&thread, NULL, send_large, a);
        CHECK(recv_all(b, &n, -1) == 0 && n == LARGE);
        pthread_join(thread, NULL);
    }
    free_both();
}

static void *send_many(void *l)
{
    for (int i = 0; i < ROUNDS; i++) {
        char block[5000];
        memset(block, i & 0x7f, sizeof block);
        CHECK(send_all(l, block, (uint64_t)(i * 13)) == 0);
    }
    return NULL;
}

static void test_goodbye_after_everything(void)
{
    pthread_t thread;
    uint64_t n;
    connect_both();
    pthread_create(&thread, NULL, send_many, b); /* never read: must not break the rest off */
    send_many(a);
    pthread_join(thread, NULL);
    pdi_loopback_close(a, LATER);
    CHECK(pdi_loopback_fd(a) == -1);
    for (int i = 0; i < ROUNDS; i++)
        CHECK(recv_all(b, &n, i & 0x7f) == 0 && n == (uint64_t)(i * 13));
    CHECK(recv_all(b, &n, 0) == PODIPC_ECLOSED);
    CHECK(recv_all(b, &n, 0) == PODIPC_ECLOSED);
    CHECK(send_all(a, large, 1) == PODIPC_ECLOSED);
    int rc = 0;
    for (int i = 0; i < 100 && rc == 0; i++)
        rc = send_all(b, large, 1 << 20);
    CHECK(rc == PODIPC_ECLOSED);
    free_both();
}

static void *recv_until_closed(void *l)
{
    uint64_t n;
    int rc;
    while ((rc = recv_all(l, &n, -1)) == 0)
        ;
    CHECK(rc == PODIPC_ECLOSED);
    return NULL;
}

static void *send_until_closed(void *l)
{
    int rc;
    while ((rc = send_all(l, large, LARGE)) == 0)
        ;
    CHECK(rc == PODIPC_ECLOSED);
    return NULL;
}

static void test_hung_up_while_busy(void)
{
    connect_both();
    pthread_t reader, writer;
    pthread_create(&reader, NULL, recv_until_closed, a);
    pthread_create(&writer, NULL, send_until_closed, a);
    poll(NULL, 0, 50);
    int64_t start = pdi_now();
    pdi_loopback_hang_up(a);
    pthread_join(reader, NULL);
    pthread_join(writer, NULL);
    CHECK(pdi_now() - start < 20000 * MS);
    free_both();
}

static void test_closed_under_a_flood(void)
{
    connect_both();
    flood = UINT64_C(4) << 30;
    pdi_loopback_close(a, 0);
    CHECK(flood > 0);
    flood = 0;
    free_both();
}

static void test_death_in_the_middle(void)
{
    podipc_tensor t = bytes(LARGE);
    podipc_sending s = {.tensor = &t, .data = large};
    podipc_error err;
    podipc_message m;
    connect_both();
    CHECK(pdi_loopback_send(a, &s, 0, NULL) == -EAGAIN);
    pdi_loopback_send_cancel(a, &s);
    pdi_loopback_free(a); /* as the kernel does it for the dead */
    int rc;
    do
        rc = pdi_loopback_recv(b, LATER, &m, &err);
    while (rc == -EAGAIN);
    CHECK(rc == PODIPC_EPEERDIED);
    CHECK(strstr(err.text, "in the middle") != NULL);
    pdi_loopback_free(b);
}

static void test_nobody_listens(void)
{
    struct pdi_listener listener;
    podipc_error err;
    CHECK(pdi_listener_open(&listener, "127.0.0.1", 0, NULL) == 0);
    struct pdi_listener same;
    CHECK(pdi_listener_open(&same, "127.0.0.1", listener.port, &err) == -EADDRINUSE);
    uint16_t port = listener.port;
    pdi_listener_close(&listener);
    struct pdi_connecting c = {.port = port, .fd = -1};
    struct pdi_loopback *l;
    CHECK(pdi_loopback_connect(&c, 0, &l, NULL) == -EAGAIN);
    CHECK(pdi_loopback_connect(&c, SOON, &l, NULL) == -EAGAIN);
    pdi_loopback_connect_cancel(&c);
    c.host = "192.168.0.1";
    CHECK(pdi_loopback_connect(&c, SOON, &l, &err) == PODIPC_EADDRESS);
}

int main(void)
{
    large = malloc(LARGE);
    if (!large)
        return 99;
    for (size_t i = 0; i < LARGE; i++)
        large[i] = (char)(i * 2654435761u >> 13);
    test_large_both_ways();
    test_steps_without_waiting();
    test_given_up_anywhere();
    test_given_up_in_a_large_one();
    test_goodbye_after_everything();
    test_hung_up_while_busy();
    test_closed_under_a_flood();
    test_death_in_the_middle();
    test_nobody_listens();
    free(large);
    return checks_done();
}
