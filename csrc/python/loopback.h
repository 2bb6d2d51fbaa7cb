/* loopback.h - what LoopbackListener and LoopbackStream have in common. */
#ifndef PD_LOOPBACK_H
#define PD_LOOPBACK_H

#include "errors.h"

#include "../channel/loopback.h"

/* A LoopbackStream of a connection, which it takes over, also on failure. */
PyObject *pd_loopback_stream(pd_state *st, struct pdi_loopback *connection);

/* 0, or -1 with AddressError set. */
static inline int pd_check_port(pd_state *st, long long port, long long least)
{
    if (port >= least && port <= UINT16_MAX)
        return 0;
    pd_raise_text(st, PD_ADDRESS_ERROR, "a port is a number from %lld to 65535, not %lld", least,
                  port);
    return -1;
}

#endif
