/* test_named.c - names appear last and whole, on file systems that can do less too. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "platform/rename.h"

/* The unit once more under other names, on a file system that this test commands. */
static int no_tmpfile, no_rename, no_linkat;
static int commanded_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    unsigned mode = va_arg(ap, unsigned);
    va_end(ap);
    if (no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = no_tmpfile;
        return -1;
    }
    return open(path, flags, (mode_t)mode);
}
static int commanded_rename(const char *from, const char *to)
{
    return no_rename ? -no_rename : pdi_rename_new(from, to);
}
static int commanded_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    if (no_linkat && !(flags & AT_EMPTY_PATH)) {
        errno = no_linkat;
        return -1;
    }
    return linkat(from_dir, from, to_dir, to, flags);
}
#define open(path, ...)            commanded_open(path, __VA_ARGS__, 0u)
#define pdi_rename_new(from, to)   commanded_rename(from, to)
#define linkat(fd, from, d, to, f) commanded_linkat(fd, from, d, to, f)
#define pdi_named_path             tested_path
#define pdi_named_begin            tested_begin
#define pdi_named_publish          tested_publish
#define pdi_named_abandon          tested_abandon
#define pdi_named_open             tested_open
#define pdi_named_unlink           tested_unlink
#include "platform/named.c"
#undef open
#undef linkat

static char base[] = "/dev/shm/podipc-test-XXXXXX";

static const char *at(const char *name)
{
    static char path[4][PDI_PATH_CAP];
    static int i;
    i = (i + 1) % 4;
    (void)snprintf(path[i], sizeof path[i], "%s/%s", base, name);
    return path[i];
}

static int entries(void)
{
    int n = 0;
    DIR *dir = opendir(base);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void test_paths(void)
{
    char path[PDI_PATH_CAP], longest[NAME_MAX + 1];
    podipc_error err;
    CHECK(tested_path("frames", "", true, path, NULL) == 0);
    CHECK(strcmp(path, "/dev/shm/frames") == 0);
    CHECK(tested_path("frames", "sem.", false, path, NULL) == 0);
    CHECK(strcmp(path, "/dev/shm/sem.frames") == 0);
    CHECK(tested_path("/shared/frames", "", true, path, NULL) == 0);
    CHECK(strcmp(path, "/shared/frames") == 0);
    memset(longest, 'x', NAME_MAX);
    longest[NAME_MAX] = '\0';
    CHECK(tested_path(longest, "", true, path, NULL) == 0);
    CHECK(tested_path(longest, "sem.", false, path, &err) == PODIPC_EADDRESS);
    CHECK(tested_path("/shared/frames", "sem.", false, path, &err) == PODIPC_EADDRESS);
    static const char *const bad[] = {"",      ".",  "..",         "a/b",     "/frames",  "/",
                                      "/a/b/", "//", "/shared/..", "sem.any", "/shared/."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(tested_path(bad[i], "", true, path, &err) == PODIPC_EADDRESS);
}

static void test_whole_and_with_its_mode(void)
{
    struct pdi_named n;
    struct stat st;
    mode_t before = umask(0777);
    CHECK(tested_begin(&n, at("a"), 0664, NULL) == 0);
    umask(before);
    CHECK(entries() == (no_tmpfile ? 1 : 0));
    CHECK(access(at("a"), F_OK) < 0);
    CHECK(write(n.fd, "whole", 5) == 5);
    CHECK(tested_publish(&n, NULL) == 0);
    CHECK(entries() == 1);
    CHECK(stat(at("a"), &st) == 0);
    CHECK(st.st_size == 5 && (st.st_mode & 07777) == 0664 && st.st_nlink == 1);
    CHECK(fcntl(n.fd, F_GETFD) == FD_CLOEXEC);
    CHECK(tested_unlink(at("a"), st.st_dev, st.st_ino + 1, NULL) == 0);
    CHECK(entries() == 1);
    CHECK(tested_unlink(at("a"), st.st_dev, st.st_ino, NULL) == 0);
    CHECK(tested_unlink(at("a"), st.st_dev, st.st_ino, NULL) == 0);
    CHECK(entries() == 0);
    close(n.fd);
}

static void test_one_wins(void)
{
    struct pdi_named first, second, third;
    podipc_error err;
    CHECK(tested_begin(&first, at("a"), 0600, NULL) == 0);
    CHECK(tested_begin(&second, at("a"), 0600, NULL) == 0);
    CHECK(write(second.fd, "second", 6) == 6);
    CHECK(tested_publish(&second, NULL) == 0);
    CHECK(tested_publish(&first, &err) == -EEXIST);
    CHECK(strstr(err.text, "already there: a file of 6 bytes") != NULL);
    tested_abandon(&first);
    CHECK(first.fd == -1);
    CHECK(tested_begin(&third, at("a"), 0600, &err) == -EEXIST);
    CHECK(entries() == 1);
    close(second.fd);
    unlink(at("a"));
}

static void test_given_up(void)
{
    struct pdi_named n;
    CHECK(tested_begin(&n, at("a"), 0600, NULL) == 0);
    tested_abandon(&n);
    tested_abandon(&n);
    CHECK(entries() == 0);
}

static void on_every_file_system(void)
{
    static const int tmpfile_errors[] = {0, EOPNOTSUPP, EISDIR, EINVAL};
    static const int rename_errors[] = {0, EINVAL, ENOSYS};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < (i ? 3 : 1); j++) {
            no_tmpfile = tmpfile_errors[i];
            no_rename = rename_errors[j];
            test_whole_and_with_its_mode();
            test_one_wins();
            test_given_up();
        }
    no_tmpfile = no_rename = 0;
    if (geteuid() == 0) { /* or Linux 6.10 */
        no_linkat = ENOENT;
        test_whole_and_with_its_mode();
        test_one_wins();
        no_linkat = 0;
    }
}

static void test_errors_of_the_file_system_come_out(void)
{
    struct pdi_named n;
    podipc_error err;
    no_tmpfile = EMFILE;
    CHECK(tested_begin(&n, at("a"), 0600, &err) == -EMFILE);
    CHECK(strcmp(err.call, "open") == 0);
    no_tmpfile = EROFS;
    CHECK(tested_begin(&n, at("a"), 0600, &err) == -EROFS);
    CHECK(strstr(err.text, "readOnlyRootFilesystem") != NULL);
    no_tmpfile = EACCES;
    CHECK(tested_begin(&n, at("a"), 0600, &err) == -EACCES);
    CHECK(strstr(err.text, "fsGroup") != NULL);
    no_tmpfile = EOPNOTSUPP;
    no_rename = EPERM;
    CHECK(tested_begin(&n, at("a"), 0600, NULL) == 0);
    CHECK(tested_publish(&n, &err) == -EPERM);
    tested_abandon(&n);
    no_tmpfile = no_rename = 0;
    CHECK(entries() == 0);
    CHECK(tested_begin(&n, at("no/where"), 0600, &err) == -ENOENT);
}

static void test_opening(void)
{
    podipc_error err;
    struct pdi_named n;
    CHECK(tested_begin(&n, at("a"), 0600, NULL) == 0 && tested_publish(&n, NULL) == 0);
    close(n.fd);
    int fd = tested_open(at("a"), false, -1, NULL);
    CHECK(fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
    close(fd);
    fd = tested_open(at("a"), true, (int64_t)geteuid(), NULL);
    CHECK(fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    close(fd);
    CHECK(tested_open(at("a"), true, (int64_t)geteuid() + 1, &err) == -EACCES);
    CHECK(tested_open(at("b"), false, -1, &err) == -ENOENT);
    CHECK(tested_open(at("a/b"), false, -1, &err) == -ENOTDIR);
    CHECK(mkfifo(at("fifo"), 0600) == 0);
    CHECK(tested_open(at("fifo"), false, -1, &err) == PODIPC_EADDRESS);
    CHECK(tested_open(at("fifo"), true, -1, &err) == PODIPC_EADDRESS);
    CHECK(symlink(at("a"), at("link")) == 0);
    CHECK(tested_open(at("link"), false, -1, &err) == PODIPC_EADDRESS);
    CHECK(link(at("a"), at("hard")) == 0);
    CHECK(tested_open(at("a"), false, -1, &err) == PODIPC_EADDRESS);
    CHECK(tested_open(base, false, -1, &err) == PODIPC_EADDRESS);
    unlink(at("a"));
    unlink(at("fifo"));
    unlink(at("link"));
    unlink(at("hard"));
    CHECK(entries() == 0);
}

int main(void)
{
    if (!mkdtemp(base))
        return 99;
    test_paths();
    on_every_file_system();
    test_errors_of_the_file_system_come_out();
    test_opening();
    CHECK(rmdir(base) == 0);
    return checks_done();
}
