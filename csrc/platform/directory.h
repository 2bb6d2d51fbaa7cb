/* directory.h - a directory that several endpoints share, and the lock at its gate.
 *
 * The gate is a file in the directory. Whoever joins, leaves or tidies up after the
 * dead holds its lock meanwhile, and the last one to leave removes it, and the
 * directory if it was made here.
 */
#ifndef PDI_DIRECTORY_H
#define PDI_DIRECTORY_H

#include "podipc.h"

struct pdi_directory {
    int fd;
    int gate;
    char *path;    /* as given; owned */
    uint32_t mode; /* of the files in it */
};

/* Opens the directory, made if there is none (its parent must exist): with `mode` and
 * the x bits that go with it, whatever the umask. On success the gate's lock is held
 * and *d is the caller's until pdi_directory_close().
 * PODIPC_EADDRESS: something else is there, or no parent. -EACCES: says who may.
 * -EBUSY: the gate was locked by somebody else all of a second. */
int pdi_directory_open(struct pdi_directory *d, const char *path, uint32_t mode, podipc_error *err);
/* Closes the descriptors only; that also unlocks. In a forked child, too. */
void pdi_directory_close(struct pdi_directory *d);
void pdi_directory_free(struct pdi_directory *d);

/* Locks the gate, trying for at most `ns`. 0, -EAGAIN or -errno. One thread at a time. */
int pdi_directory_lock(struct pdi_directory *d, int64_t ns);
void pdi_directory_unlock(struct pdi_directory *d);

/* Calls each(arg, name) for every entry that is a regular file, in no order. What
 * comes or goes meanwhile may be seen or not. 0 or -errno. */
int pdi_directory_list(const struct pdi_directory *d, void (*each)(void *arg, const char *name),
                       void *arg);
/* Makes an empty file; one that is there already is left alone. 0 or -errno. */
int pdi_directory_touch(const struct pdi_directory *d, const char *name);
/* 0 or -errno; -ENOENT is for the caller to judge. */
int pdi_directory_remove(const struct pdi_directory *d, const char *name);
/* Whether there is something of that name. */
bool pdi_directory_has(const struct pdi_directory *d, const char *name);
/* With the gate locked and nobody left: removes the gate, then the directory if
 * pdi_directory_open() made it, here or elsewhere, and nothing else is in it. */
void pdi_directory_retire(struct pdi_directory *d);

/* Bytes that can still be written to its file system; UINT64_MAX if that is not known. */
uint64_t pdi_directory_space(const struct pdi_directory *d, bool *in_ram);

/* Fills *err for a file of the directory that may not be used: both UIDs, the modes,
 * and what to pass. `name` may be NULL for the directory itself. Returns `code`. */
int pdi_directory_refused(const char *path, int dirfd, const char *name, int code, const char *call,
                          uint32_t mode, podipc_error *err);

#endif
