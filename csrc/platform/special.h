/* special.h - a socket or FIFO at a path, put there whole.
 *
 * It is made under another name in the same directory, gets its permissions
 * whatever the umask is, and is renamed: whoever finds it finds it ready. What a
 * dead owner left is replaced, what lives is left alone. A short flock(2) on the
 * directory keeps two who arrive together from replacing each other; it is only
 * asked for, since a stranger may hold it.
 */
#ifndef PDI_SPECIAL_H
#define PDI_SPECIAL_H

#include <stdint.h>
#include <sys/types.h>

#include "podipc.h"

struct pdi_special_id {
    dev_t dev;
    ino_t ino;
};

/* How to make one kind of special file. */
struct pdi_special {
    mode_t type; /* S_IFSOCK or S_IFIFO */
    /* Whether somebody lives at `path`: 0 nobody, -EADDRINUSE, or another -errno. */
    int (*probe)(const char *path);
    /* Makes it at `path`, ready to be found; *fd is the caller's. */
    int (*make)(const char *path, int *fd, podipc_error *err);
};

/* Puts one at `path`. On success *fd is the caller's and *id says which it is.
 * With `ours`, what has that id may be replaced although it lives.
 * -EADDRINUSE: somebody lives there; PODIPC_EADDRESS: something else is there. */
int pdi_special_put(const struct pdi_special *kind, const char *path, uint32_t mode,
                    const struct pdi_special_id *ours, int *fd, struct pdi_special_id *id,
                    podipc_error *err);
/* Removes it if it is still the one with this id. */
void pdi_special_remove(const char *path, const struct pdi_special_id *id);
/* What is at `path`, for whoever wants to open it: 0 if of this type, -ENOENT,
 * PODIPC_EADDRESS saying what is there instead, or -errno. */
int pdi_special_look(const char *path, mode_t type, podipc_error *err);
/* Fills in the error for a peer's file that this process may not use. */
int pdi_special_denied(const char *path, int code, const char *call, podipc_error *err);

#endif
