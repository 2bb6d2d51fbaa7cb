/* watch.h - sleeping until something changes in a directory, or somebody wakes us.
 *
 * inotify tells of changes made by processes of this kernel. Where it does not reach
 * (some network volumes) or cannot be had (fs.inotify.max_user_instances), the caller
 * looks again after a slice of time anyway.
 */
#ifndef PDI_WATCH_H
#define PDI_WATCH_H

#include "podipc.h"

struct pdi_watch {
    int inotify; /* -1: none */
    int event;   /* written to by pdi_watch_wake() */
    int mark;    /* -1: not armed */
};

enum {
    PDI_WATCH_ARRIVALS = 1,   /* a file got its name, or one open for writing was closed */
    PDI_WATCH_DEPARTURES = 2, /* a file was removed */
};

/* 0 or -errno. inotify is not insisted upon. */
int pdi_watch_open(struct pdi_watch *w);
void pdi_watch_close(struct pdi_watch *w);
/* From now on changes are noticed; what was before may have gone unnoticed. */
void pdi_watch_arm(struct pdi_watch *w, const char *path, int what);
/* Events are no longer collected. */
void pdi_watch_disarm(struct pdi_watch *w);
/* Sleeps until a change, a wake or `until`. Returns whether there was a change; if
 * several threads sleep, one of them gets to see it. */
bool pdi_watch_wait(const struct pdi_watch *w, int64_t until);
/* Ends the wait of every thread, now and ever after. */
void pdi_watch_wake(const struct pdi_watch *w);

#endif
