/* sweep.h - remove a directory with all that is in it. */
#ifndef PDI_SWEEP_H
#define PDI_SWEEP_H

/* Removes `path`, whatever it is, and all below it; follows no symbolic link and
 * enters no other file system. 0 when it is gone, also if it was not there; else
 * -errno, with what could be removed gone. A cgroup is removed like a directory.
 * Async-signal-safe, allocates nothing, needs little stack however deep it goes. */
int pdi_sweep(const char *path);

#endif
