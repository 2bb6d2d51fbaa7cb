/* wholefile.h - files that are written, then get their name; and are taken once.
 *
 * Who takes a file locks it, reads all of it, and removes its name, in that order.
 * Removing is the moment from which it counts as delivered; until then the death of
 * the one who takes frees the lock and leaves the file to the next.
 */
#ifndef PDI_WHOLEFILE_H
#define PDI_WHOLEFILE_H

#include "podipc.h"

/* A new empty file that nobody else has. A descriptor, the caller's, or -errno. */
int pdi_wholefile_make(int dirfd, const char *name, uint32_t mode);
/* Gives it its final name. 0 or -errno. */
int pdi_wholefile_publish(int dirfd, const char *from, const char *to);

/* All n bytes at `offset`. 0 or -errno; reading past the end is -ENODATA. */
int pdi_wholefile_write(int fd, const void *bytes, size_t n, uint64_t offset);
int pdi_wholefile_read(int fd, void *bytes, size_t n, uint64_t offset);

/* Writes head and body, one after the other, from the file's start. 0 or -errno. */
int pdi_wholefile_write_both(int fd, const void *head, size_t head_len, const void *body,
                             size_t body_len);

/* Opens for reading what is a regular file. A descriptor, the caller's, or -errno. */
int pdi_wholefile_look(int dirfd, const char *name);
/* Closes a descriptor. */
void pdi_wholefile_drop(int fd);

/* Opens and locks `name`. A descriptor (the caller's: closing it gives the file back)
 * and its size. -ENOENT: gone; -EAGAIN: somebody else is taking it; -EINVAL: not a
 * regular file; -EMLINK: one with several names; -EPERM: of another UID, though `mode` is for one
 * alone; or another -errno. Never waits. */
int pdi_wholefile_take(int dirfd, const char *name, uint32_t mode, uint64_t *size);

#endif
