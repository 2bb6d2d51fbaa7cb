/* thread.h - threads of podipc's own. */
#ifndef PDI_THREAD_H
#define PDI_THREAD_H

#include <pthread.h>

/* Starts a thread that no signal is delivered to: those are for the threads of
 * the program. 0 or -errno. To be joined. */
int pdi_thread_start(pthread_t *thread, void *(*run)(void *), void *arg);

#endif
