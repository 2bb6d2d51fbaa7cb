/* named.h - files that processes of a Pod find each other by: in /dev/shm, or on a volume.
 *
 * A new file gets its name last, when it has its bytes, its content and its mode, in
 * one step that fails if the name is taken. So nobody ever opens a half-made one, of
 * many creators exactly one wins, and a creator that is killed leaves nothing behind.
 * What another process may have put at a name is looked at before it is used: symbolic
 * links are not followed, and only regular files are opened.
 */
#ifndef PDI_NAMED_H
#define PDI_NAMED_H

#include <limits.h>

#include "podipc.h"

enum { PDI_PATH_CAP = PATH_MAX };

/* A file that has no name yet. */
struct pdi_named {
    int fd; /* read and write; the caller's after pdi_named_publish() */
    char path[PDI_PATH_CAP];
    char temp[PDI_PATH_CAP]; /* its name until then, where the file system needs one; or "" */
};

/* Turns a name into a path: "frames" is /dev/shm/PREFIXframes, an absolute path (if
 * `volumes`) is itself. 0 or PODIPC_EADDRESS. */
int pdi_named_path(const char *name, const char *prefix, bool volumes, char path[PDI_PATH_CAP],
                   podipc_error *err);

/* Begins a file that will be called `path`, with exactly `mode` whatever the umask.
 * Ends with one of the two below. -EEXIST if the name is taken already. */
int pdi_named_begin(struct pdi_named *n, const char *path, uint32_t mode, podipc_error *err);
/* Gives it its name. On failure (-EEXIST: another one won) call pdi_named_abandon(). */
int pdi_named_publish(struct pdi_named *n, podipc_error *err);
void pdi_named_abandon(struct pdi_named *n);

/* Opens a regular file and returns its descriptor, CLOEXEC, which the caller closes.
 * `owner` is the UID it must belong to, or -1 for any. Never blocks on a FIFO.
 * -ENOENT, -EACCES, PODIPC_EADDRESS (something else is there), with a text that says
 * what was found, whose it is and what to change. */
int pdi_named_open(const char *path, bool writable, int64_t owner, podipc_error *err);

/* Removes `path` if it still names the file with this identity; 0 also if it does not. */
int pdi_named_unlink(const char *path, uint64_t dev, uint64_t ino, podipc_error *err);

#endif
