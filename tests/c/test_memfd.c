/* test_memfd.c - what a peer can do with memory that it was given: look at it. And
 * what it must not be able to pass off as such memory. */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "check.h"
#include "place.h"
#include "platform/cgroup.h"
#include "platform/memfd.h"

enum { SIZE = 1 << 16 };

static struct pdi_memfd made(bool commit, bool shared)
{
    struct pdi_memfd m;
    MUST(pdi_memfd_create("test", SIZE, commit, shared, &m, NULL) == 0);
    return m;
}

/* The peer's descriptor: the same file, as SCM_RIGHTS would give it. */
static int given(const struct pdi_memfd *m)
{
    int fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 0);
    MUST(fd >= 0);
    return fd;
}

static void test_what_a_receiver_cannot_do(void)
{
    struct pdi_memfd m = made(true, false);
    memset(m.map, 7, SIZE);
    char reopen[64];
    (void)snprintf(reopen, sizeof reopen, "/proc/self/fd/%d", m.fd);
    const int fds[] = {given(&m), open(reopen, O_RDWR | O_CLOEXEC)};
    for (int i = 0; i < 2; i++) {
        int fd = fds[i];
        MUST(fd >= 0);
        CHECK(write(fd, "x", 1) < 0 && errno == EPERM);
        CHECK(pwrite(fd, "x", 1, 100) < 0 && errno == EPERM);
        CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
        CHECK(ftruncate(fd, SIZE - 1) < 0 && errno == EPERM);
        CHECK(ftruncate(fd, SIZE + 1) < 0 && errno == EPERM);
        CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
        CHECK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096) < 0);
        CHECK(fallocate(fd, 0, SIZE, 4096) < 0);
        CHECK(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
        void *map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(map != MAP_FAILED);
        CHECK(mprotect(map, SIZE, PROT_READ | PROT_WRITE) < 0);
        CHECK(madvise(map, SIZE, MADV_REMOVE) < 0);
        CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
        CHECK(((const char *)map)[SIZE - 1] == 7);
        munmap(map, SIZE);
        close(fd);
    }
    /* The owner's own mapping goes on. */
    memset(m.map, 8, SIZE);
    int flags = fcntl(m.fd, F_GETFD);
    CHECK(flags >= 0 && (flags & FD_CLOEXEC));
    pdi_memfd_close(&m);
    pdi_memfd_close(&m);
    CHECK(m.fd == -1 && m.map == NULL);
}

static void test_attach(void)
{
    struct pdi_memfd m = made(true, false), peer;
    memset(m.map, 7, SIZE);
    CHECK(pdi_memfd_attach(given(&m), SIZE, false, &peer) == 0);
    CHECK(peer.size == SIZE && memcmp(peer.map, m.map, SIZE) == 0);
    memset(m.map, 9, SIZE);
    CHECK(((const char *)peer.map)[5] == 9);
    pdi_memfd_close_fd(&peer);
    pdi_memfd_close_fd(&peer);
    CHECK(((const char *)peer.map)[5] == 9);
    pdi_memfd_close(&peer);
    CHECK(pdi_memfd_attach(given(&m), SIZE / 2, false, &peer) == 0);
    pdi_memfd_close(&peer);
    /* Writable for both only if it was made so. */
    CHECK(pdi_memfd_attach(given(&m), SIZE, true, &peer) < 0);
    pdi_memfd_close(&m);
    m = made(true, true);
    CHECK(pdi_memfd_attach(given(&m), SIZE, true, &peer) == 0);
    memset(peer.map, 3, SIZE);
    CHECK(((const char *)m.map)[0] == 3);
    pdi_memfd_close(&peer);
    CHECK(pdi_memfd_attach(given(&m), SIZE, false, &peer) == PODIPC_ECORRUPT);
    pdi_memfd_close(&m);
}

static int memfd_with(unsigned seals, off_t size)
{
    int fd = memfd_create("raw", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(fd >= 0 && ftruncate(fd, size) == 0 && fcntl(fd, F_ADD_SEALS, (int)seals) == 0);
    return fd;
}

static void test_what_is_not_such_memory(void)
{
    int before = descriptors();
    char *path = place_path("plain");
    int plain = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), pipes[2];
    MUST(plain >= 0 && ftruncate(plain, SIZE) == 0 && pipe2(pipes, O_CLOEXEC) == 0);
    const unsigned future = 0x10; /* F_SEAL_FUTURE_WRITE, not in every libc */
    const struct {
        int fd;
        uint64_t size;
    } cases[] = {
        {memfd_with(0, SIZE), SIZE}, /* not sealed */
        {memfd_with(F_SEAL_SHRINK | F_SEAL_GROW, SIZE), SIZE},
        {memfd_with(future, SIZE), SIZE},                     /* may be shortened */
        {memfd_with(F_SEAL_SHRINK | future, SIZE), SIZE + 1}, /* too small */
        {memfd_with(F_SEAL_SHRINK | future, SIZE), UINT64_MAX},
        {memfd_with(F_SEAL_SHRINK | future, SIZE), UINT64_C(1) << 63},
        {memfd_with(F_SEAL_SHRINK | future, SIZE), 0},
        {memfd_with(F_SEAL_SHRINK | future, 0), 1},
        {plain, SIZE},
        {pipes[0], SIZE},
        {pipes[1], SIZE},
        {open("/dev/zero", O_RDWR | O_CLOEXEC), SIZE},
        {open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), SIZE},
        {-1, SIZE},
        {987654, SIZE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pdi_memfd m;
        int rc = pdi_memfd_attach(cases[i].fd, cases[i].size, false, &m);
        CHECK(rc == PODIPC_ECORRUPT);
        CHECK(m.fd == -1 && m.map == NULL);
        if (rc != PODIPC_ECORRUPT)
            fprintf(stderr, "case %d: %d\n", (int)i, rc);
    }
    CHECK(descriptors() == before); /* taken over in any case */
    /* More than there is address space: refused by the kernel, no more. */
    struct pdi_memfd m;
    int huge = memfd_with(F_SEAL_SHRINK | future, (off_t)1 << 62);
    CHECK(pdi_memfd_attach(huge, UINT64_C(1) << 62, false, &m) < 0);
    CHECK(m.fd == -1 && m.map == NULL);
    unlink(path);
    free(path);
}

static void test_private_copies(void)
{
    struct pdi_memfd m = made(true, false), peer;
    for (int i = 0; i < SIZE; i++)
        ((char *)m.map)[i] = (char)(i * 7);
    MUST(pdi_memfd_attach(given(&m), SIZE, false, &peer) == 0);
    static const uint64_t offsets[] = {0, 64, 4032, 4096, 5056, SIZE - 64};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        void *copy;
        uint64_t size = i % 2 ? 64 : SIZE - offsets[i];
        CHECK(pdi_memfd_map_private(&peer, offsets[i], size, &copy) == 0);
        CHECK(memcmp(copy, (char *)m.map + offsets[i], size) == 0);
        memset(copy, 1, size);
        CHECK(((char *)m.map)[offsets[i] + 3] == (char)((offsets[i] + 3) * 7));
        pdi_memfd_unmap_private(copy, size);
    }
    pdi_memfd_close(&peer);
    pdi_memfd_close(&m);
}

static void test_committing(void)
{
    struct pdi_memfd m = made(false, false);
    struct stat st;
    MUST(fstat(m.fd, &st) == 0);
    CHECK(st.st_blocks == 0);
    CHECK(pdi_memfd_commit(&m, 8192, 8192, NULL) == 0);
    MUST(fstat(m.fd, &st) == 0);
    CHECK(st.st_blocks == 16);
    CHECK(pdi_memfd_commit(&m, 0, SIZE, NULL) == 0);
    MUST(fstat(m.fd, &st) == 0);
    CHECK(st.st_blocks == SIZE / 512);
    pdi_memfd_close(&m);
    podipc_error err;
    uint64_t more = pdi_memory_available() + (UINT64_C(64) << 30);
    CHECK(pdi_memfd_create("huge", more, true, false, &m, &err) == PODIPC_EMEMLIMIT);
    CHECK(m.fd == -1 && m.map == NULL);
    CHECK(err.need == more && err.have < more && strstr(err.text, "memory"));
    CHECK(pdi_memfd_create("huge", SIZE_MAX, false, false, &m, &err) < 0);
    CHECK(m.fd == -1 && m.map == NULL);
}

static void tick(int number)
{
    (void)number;
}

/* A signal a fraction of a millisecond, in which no large step gets to its end. */
static void test_committing_under_a_fast_timer(void)
{
    struct sigaction action = {.sa_handler = tick};
    struct itimerval fast = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    const uint64_t size = UINT64_C(64) << 20;
    struct pdi_memfd m;
    struct stat st;
    MUST(pdi_memfd_create("test", size, false, false, &m, NULL) == 0);
    pdi_poke32(&m.no_huge, 1);
    MUST(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &fast, NULL) == 0);
    int rc = pdi_memfd_commit(&m, 0, size, NULL);
    MUST(setitimer(ITIMER_REAL, &off, NULL) == 0);
    CHECK(rc == 0);
    MUST(fstat(m.fd, &st) == 0);
    CHECK((uint64_t)st.st_blocks == size / 512);
    pdi_memfd_close(&m);
}

int main(void)
{
    int before = descriptors();
    place_begin("memfd");
    test_what_a_receiver_cannot_do();
    test_attach();
    test_what_is_not_such_memory();
    test_private_copies();
    test_committing();
    test_committing_under_a_fast_timer();
    place_end();
    CHECK(descriptors() == before);
    return checks_done();
}
