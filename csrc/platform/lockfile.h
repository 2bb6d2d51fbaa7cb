/* lockfile.h - files whose lock says that their maker lives.
 *
 * flock() locks belong to the open file, and the kernel drops them when its last
 * descriptor is closed, however the process ended. No PID is involved, which would
 * mean nothing in another container.
 */
#ifndef PDI_LOCKFILE_H
#define PDI_LOCKFILE_H

#include "podipc.h"

/* Makes `name` in the directory, locked before it has that name; `making` is the name
 * it has until then. The lock lasts until the descriptor is closed. A descriptor, the
 * caller's, or -errno. */
int pdi_lockfile_make(int dirfd, const char *making, const char *name, uint32_t mode);

/* Whether somebody holds it: 1 yes; 0 no, its maker is dead; -ENOENT: no such regular
 * file (any more); -EACCES: not for this UID. Never waits. */
int pdi_lockfile_held(int dirfd, const char *name);

/* Takes the lock of an open file for this descriptor: 0, -EAGAIN if somebody has it. */
int pdi_lockfile_take(int fd);

#endif
