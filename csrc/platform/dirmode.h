/* dirmode.h - the mode of a directory that podipc has made. */
#ifndef PDI_DIRMODE_H
#define PDI_DIRMODE_H

#include <errno.h>
#include <sys/stat.h>

/* Gives a directory of ours its mode, whatever the umask; 0 or -errno. What hands its
 * group on to what is made in it goes on doing so: a volume with an fsGroup is like
 * that, and it is by this group that containers with other groups meet there. */
static inline int pdi_set_directory_mode(const char *path, mode_t mode)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return -errno;
    return chmod(path, mode | (st.st_mode & S_ISGID)) < 0 ? -errno : 0;
}

#endif
