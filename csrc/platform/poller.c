#include "poller.h"

int pdi_poll(struct pollfd *polls, uint32_t n, int ms)
{
    int ready = poll(polls, n, ms);
    return ready > 0 ? ready : 0;
}
