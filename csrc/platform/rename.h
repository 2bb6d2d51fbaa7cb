/* rename.h - renaming without replacing, which not every C library has. */
#ifndef PDI_RENAME_H
#define PDI_RENAME_H

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* 0; -EEXIST: `to` is there; -EINVAL or -ENOSYS: not on this file system or kernel. */
static inline int pdi_rename_new(const char *from, const char *to)
{
    const unsigned noreplace = 1; /* RENAME_NOREPLACE, which needs <linux/fs.h> elsewhere */
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, noreplace) < 0 ? -errno : 0;
}

#endif
