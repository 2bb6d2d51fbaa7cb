/* test_setup.c - setup lists are carried out to the operation that fails, and what a
 * Pod leaves on disk is removed whatever it looks like. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "platform/setup.h"
#include "platform/sweep.h"

static char base[64];

static char *in(const char *name)
{
    static char paths[8][256];
    static int next;
    char *path = paths[next++ % 8];
    (void)snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static bool there(const char *name)
{
    struct stat st;
    return lstat(in(name), &st) == 0;
}

static void make_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
}

static void test_lists(void)
{
    size_t failed = 99;
    char *none[] = {NULL};
    CHECK(pdi_setup_run(none, NULL, &failed) == 0 && failed == 0);

    char *a = in("a"), *deep = in("x/y/z"), *link = in("link");
    char *good[] = {"mkdir", a,     "0750",  "", "mkdir", deep,      "1777",
                    "",      "own", deep,    "", "0711",  "symlink", "to nowhere",
                    link,    "",    "mkdir", a,  "0700",  "",        NULL};
    mode_t mask = umask(077);
    CHECK(pdi_setup_run(good, NULL, &failed) == 0);
    CHECK(umask(mask) == 077);
    struct stat st;
    CHECK(stat(a, &st) == 0 && (st.st_mode & 07777) == 0750);
    CHECK(stat(in("x/y"), &st) == 0 && (st.st_mode & 07777) == 0755);
    CHECK(stat(deep, &st) == 0 && (st.st_mode & 07777) == 0711);
    CHECK(there("link"));

    char *bad[] = {"mkdir", in("b"), "0700", "", "mkdir", "/proc/self/nowhere/x", "0700", "",
                   "mkdir", in("c"), "0700", "", NULL};
    CHECK(pdi_setup_run(bad, NULL, &failed) < 0 && failed == 1);
    CHECK(there("b") && !there("c"));

    make_file(in("file"));
    char *over[] = {"mkdir", in("file/x"), "0700", "", NULL};
    CHECK(pdi_setup_run(over, NULL, &failed) == -EEXIST || there("file"));
    char *unknown[] = {"dance", "", "", "", NULL};
    CHECK(pdi_setup_run(unknown, NULL, &failed) == -EINVAL && failed == 0);
    char *gone[] = {"bind", in("nothing"), in("target"), "mt", NULL};
    CHECK(pdi_setup_run(gone, NULL, &failed) == 0 && !there("target"));
    gone[3] = "m";
    CHECK(pdi_setup_run(gone, NULL, &failed) == -ENOENT);
}

static void test_at_end(void)
{
    size_t failed;
    struct pdi_at_end end = {0};
    char *tree = in("tree");
    char *list[] = {"at-end", tree, "", "", "mkdir", in("tree/a/b"), "0700", "", NULL};
    CHECK(pdi_setup_run(list, NULL, &failed) == -ENOSPC);
    CHECK(pdi_setup_run(list, &end, &failed) == 0 && end.count == 1);
    CHECK(there("tree/a/b"));
    pdi_setup_end(&end);
    CHECK(!there("tree"));
    pdi_setup_end(&end);
    for (int i = 0; i < PDI_SETUP_AT_END - 1; i++)
        CHECK(pdi_setup_run(list, &end, &failed) == 0);
    CHECK(pdi_setup_run(list, &end, &failed) == -ENOSPC && failed == 0);
    CHECK(pdi_sweep(tree) == 0);
}

static void test_sweep(void)
{
    CHECK(pdi_sweep(in("not there")) == 0);
    make_file(in("one"));
    CHECK(pdi_sweep(in("one")) == 0 && !there("one"));

    /* What a symbolic link leads to stays. */
    CHECK(mkdir(in("kept"), 0700) == 0);
    make_file(in("kept/file"));
    CHECK(mkdir(in("t"), 0700) == 0 && symlink("../kept", in("t/link")) == 0);
    CHECK(symlink("kept", in("top")) == 0);
    CHECK(pdi_sweep(in("top")) == 0 && !there("top"));

    /* Many entries, the same names at every depth, directories closed to their owner. */
    CHECK(mkdir(in("t/wide"), 0700) == 0);
    for (int i = 0; i < 3000; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "t/wide/%d", i);
        if (i % 3)
            make_file(in(name));
        else
            CHECK(mkdir(in(name), 0700) == 0);
    }
    for (int i = 0; i < 40; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "t/wide/%d/same", i * 3);
        CHECK(mkdir(in(name), 0700) == 0);
        (void)snprintf(name, sizeof name, "t/wide/%d/same/.podipc-sweep-aaaaaaaaaa", i * 3);
        CHECK(mkdir(in(name), 0700) == 0);
        (void)snprintf(name, sizeof name, "t/wide/%d/same/.podipc-sweep-aaaaaaaaaa/f", i * 3);
        make_file(in(name));
    }
    int dir = open(in("t"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 3000; i++) {
        CHECK(mkdirat(dir, "deep", 0700) == 0);
        int next = openat(dir, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (i % 10 == 9)
            CHECK(fchmod(dir, 0) == 0);
        close(dir);
        dir = next;
    }
    close(dir);
    CHECK(pdi_sweep(in("t")) == 0 && !there("t"));
    CHECK(there("kept/file"));
    CHECK(pdi_sweep(in("kept")) == 0);
}

/* The same as somebody who may not simply do everything. */
static void test_sweep_as_a_user(void)
{
    if (geteuid() != 0)
        return;
    CHECK(chmod(base, 0777) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (setgid(1001) < 0 || setuid(1001) < 0)
            _exit(2);
        bool ok = mkdir(in("u"), 0700) == 0 && mkdir(in("u/shut"), 0700) == 0 &&
                  mkdir(in("u/shut/in"), 0700) == 0;
        make_file(in("u/shut/in/f"));
        ok = ok && chmod(in("u/shut/in"), 0) == 0 && chmod(in("u/shut"), 0) == 0 &&
             chmod(in("u"), 0500) == 0;
        _exit(ok && pdi_sweep(in("u")) == 0 && !there("u") ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

int main(void)
{
    (void)snprintf(base, sizeof base, "/tmp/podipc-test-setup-%d", (int)getpid());
    CHECK(mkdir(base, 0700) == 0);
    test_lists();
    test_at_end();
    test_sweep();
    test_sweep_as_a_user();
    CHECK(pdi_sweep(base) == 0);
    return checks_done();
}
