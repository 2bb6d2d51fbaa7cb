/* pidfd.h - processes by descriptor: a PID may be somebody else's by the time it
 * is used. As raw calls: C libraries have them late or not at all, and so have
 * the kernel headers that portable wheels are built with. The numbers are the
 * same on every architecture. Linux 5.3. */
#ifndef PDI_PIDFD_H
#define PDI_PIDFD_H

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

/* A descriptor (CLOEXEC, the caller's) that is readable once the process has
 * ended, or -errno. */
static inline int pdi_pidfd_open(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : fd;
}

/* 0, or -errno: -ESRCH if it has ended. */
static inline int pdi_pidfd_signal(int pidfd, int number)
{
    return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) == 0 ? 0 : -errno;
}

#endif
