/* poller.h - waiting for descriptors: poll(2), where EINTR and a time-out look alike. */
#ifndef PDI_POLLER_H
#define PDI_POLLER_H

#include <poll.h>
#include <stdint.h>

/* How many of the n descriptors are ready, with their `revents` set; 0 (and no
 * `revents` to be looked at) after `ms` milliseconds or a signal. ms < 0: no end. */
int pdi_poll(struct pollfd *polls, uint32_t n, int ms);

#endif
