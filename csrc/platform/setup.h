/* setup.h - the file system of a container, and what it is put under, as a list
 * of small operations that podipc/pod/local/mounts.py writes and a new process
 * carries out.
 *
 * An operation is four strings: a word and three arguments, unused ones empty.
 *
 *  - tmpfs TARGET OPTIONS: an empty tmpfs, with the mount options
 *  - bind SOURCE TARGET FLAGS: SOURCE and all below it; m: make TARGET, r: read-only,
 *    s: make SOURCE, t: go on if SOURCE has gone
 *  - mkdir PATH MODE: with its parents; MODE is octal
 *  - own PATH GID MODE: the group and the mode; an empty GID leaves the group
 *  - symlink TEXT PATH
 *  - pivot ROOT OLD: ROOT becomes /, what was / becomes /OLD, or goes if that is empty
 *  - join CGROUP: this process moves there
 *  - at-end PATH: not done now: removed, with all in it, when the Pod ends
 *
 * The list is the parent's own, so that it is not input to be checked. All of it
 * is async-signal-safe and allocates nothing.
 */
#ifndef PDI_SETUP_H
#define PDI_SETUP_H

#include <stddef.h>

enum {
    PDI_SETUP_WORDS = 4,   /* strings of one operation */
    PDI_SETUP_AT_END = 64, /* paths to remove that a Pod can have */
};

/* What is removed when a Pod ends. The strings are those of the list. */
struct pdi_at_end {
    size_t count;
    const char *paths[PDI_SETUP_AT_END];
};

/* Carries out a NULL-terminated list. `at_end` may be NULL if it has no such
 * operation. 0; or -errno, and *failed is the number of the operation. */
int pdi_setup_run(char *const *list, struct pdi_at_end *at_end, size_t *failed);

/* Removes them, last first. What cannot be removed stays. */
void pdi_setup_end(const struct pdi_at_end *at_end);

#endif
