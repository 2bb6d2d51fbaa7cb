/* test_memory.c - reserving: all of it or an error, whatever the kernel answers. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

/* The unit once more under other names, with a fallocate() that this test commands. */
static int fallocate_fails, fallocate_after, fallocate_calls;
static int commanded_fallocate(int fd, int mode, off_t offset, off_t size)
{
    fallocate_calls++;
    if (fallocate_fails && fallocate_after-- <= 0) {
        errno = fallocate_fails;
        if (fallocate_fails == EINTR)
            fallocate_fails = 0;
        return -1;
    }
    return fallocate(fd, mode, offset, size);
}
#define fallocate(fd, mode, offset, size) commanded_fallocate(fd, mode, offset, size)
#define pdi_memory_reserve                tested_reserve
#define pdi_memory_allow                  tested_allow
#define pdi_memory_look                   tested_look
#define pdi_memory_map                    tested_map
#define pdi_memory_unmap                  tested_unmap
#define pdi_memory_dup                    tested_dup
#define pdi_memory_close                  tested_close
#include "platform/memory.c"
#undef fallocate

enum { MIB = 1 << 20 };

static int file(void)
{
    int fd = memfd_create("podipc-test", MFD_CLOEXEC);
    if (fd < 0)
        exit(99);
    fallocate_fails = fallocate_after = fallocate_calls = 0;
    return fd;
}

static uint64_t missing(int fd)
{
    struct pdi_memory_info info;
    CHECK(tested_look(fd, &info, NULL) == 0);
    return info.missing;
}

static void test_reserves_in_steps(void)
{
    int fd = file();
    struct pdi_reservation r = {.fd = fd, .size = 100 * MIB + 5, .where = ""};
    int calls = 0;
    /* An `until` in the past does one step a call. */
    while (tested_reserve(&r, 0, NULL) == -EAGAIN && calls < 100)
        calls++;
    CHECK(calls == 3);
    CHECK(r.done == r.size);
    struct pdi_memory_info info;
    CHECK(tested_look(fd, &info, NULL) == 0);
    CHECK(info.size == r.size);
    CHECK(info.missing == 0);
    CHECK(info.regular && info.in_ram && !info.sealed);
    close(fd);
}

static void test_interrupted(void)
{
    int fd = file();
    struct pdi_reservation r = {.fd = fd, .size = 64 * MIB, .where = ""};
    int again = 0, rc;
    for (fallocate_fails = EINTR;; fallocate_fails = again < 20 ? EINTR : 0) {
        rc = tested_reserve(&r, INT64_MAX, NULL);
        if (rc != -EAGAIN)
            break;
        again++;
        CHECK(r.step >= STEP_MIN);
    }
    CHECK(rc == 0);
    CHECK(again == 20);
    CHECK(missing(fd) == 0);
    close(fd);
}

static void test_full_in_the_middle(void)
{
    int fd = file();
    podipc_error err;
    struct pdi_reservation r = {.fd = fd, .size = 100 * MIB, .where = "/dev/shm/x"};
    fallocate_fails = ENOSPC;
    fallocate_after = 2;
    CHECK(tested_reserve(&r, INT64_MAX, &err) == -ENOSPC);
    CHECK(err.sys_errno == ENOSPC);
    CHECK(strcmp(err.call, "fallocate") == 0);
    CHECK(err.need == 36 * MIB);
    CHECK(strstr(err.text, "medium: Memory") != NULL);
    close(fd);
}

static void test_no_fallocate_on_a_new_file(void)
{
    int fd = file();
    struct pdi_reservation r = {.fd = fd, .size = 3 * MIB + 17, .where = "", .fresh = true};
    fallocate_fails = EOPNOTSUPP;
    CHECK(tested_reserve(&r, INT64_MAX, NULL) == 0);
    CHECK(missing(fd) == 0);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size == 3 * MIB + 17);
    CHECK(fallocate_calls == 1);
    close(fd);
}

static void test_no_fallocate_on_a_file_with_content(void)
{
    int fd = file();
    char byte = 0;
    CHECK(pwrite(fd, "kept", 4, 0) == 4);
    CHECK(ftruncate(fd, MIB) == 0);
    struct pdi_reservation r = {.fd = fd, .size = MIB, .where = ""};
    fallocate_fails = EOPNOTSUPP;
    CHECK(tested_reserve(&r, INT64_MAX, NULL) == 0);
    CHECK(pread(fd, &byte, 1, 0) == 1 && byte == 'k');
    close(fd);
}

static void test_what_is_there_is_left_alone(void)
{
    int fd = file();
    char bytes[MIB / 16];
    memset(bytes, 1, sizeof bytes);
    CHECK(pwrite(fd, bytes, sizeof bytes, 0) == sizeof bytes);
    struct pdi_reservation r = {.fd = fd, .size = sizeof bytes, .where = ""};
    CHECK(tested_reserve(&r, INT64_MAX, NULL) == 0);
    CHECK(fallocate_calls == 0);
    close(fd);
}

static void test_more_than_there_is(void)
{
    int fd = file();
    podipc_error err;
    struct pdi_reservation r = {.fd = fd, .size = UINT64_C(1) << 50, .where = ""};
    CHECK(tested_reserve(&r, INT64_MAX, &err) == PODIPC_EMEMLIMIT);
    CHECK(err.need == UINT64_C(1) << 50);
    CHECK(err.have > 0 && err.have < err.need);
    CHECK(fallocate_calls == 0);
    close(fd);
}

static void test_maps(void)
{
    int fd = file();
    void *a, *b;
    struct pdi_reservation r = {.fd = fd, .size = 4096, .where = ""};
    CHECK(tested_reserve(&r, INT64_MAX, NULL) == 0);
    int copy = tested_dup(fd, NULL);
    CHECK(copy >= 3);
    CHECK(fcntl(copy, F_GETFD) == FD_CLOEXEC);
    CHECK(tested_map(fd, 4096, true, &a, NULL) == 0);
    CHECK(tested_map(copy, 4096, false, &b, NULL) == 0);
    tested_close(copy);
    *(char *)a = 7;
    CHECK(*(char *)b == 7);
    tested_unmap(a, 4096);
    tested_unmap(b, 4096);
    tested_close(fd);
    tested_close(-1);
    podipc_error err;
    CHECK(tested_dup(fd, &err) == -EBADF);
    CHECK(tested_map(fd, 4096, true, &a, &err) == -EBADF);
}

int main(void)
{
    test_reserves_in_steps();
    test_interrupted();
    test_full_in_the_middle();
    test_no_fallocate_on_a_new_file();
    test_no_fallocate_on_a_file_with_content();
    test_what_is_there_is_left_alone();
    test_more_than_there_is();
    test_maps();
    return checks_done();
}
