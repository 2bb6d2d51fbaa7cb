/* endpoint.h - what Sender and Receiver have in common. */
#ifndef PD_ENDPOINT_H
#define PD_ENDPOINT_H

#include "state.h"

/* Reads the arguments of _core.Sender() and _core.Receiver(). The strings of
 * *options live as long as `args`. *address is a new reference. -1 on error. */
int pd_options(pd_state *st, PyObject *args, PyObject *kwargs, bool receiver,
               podipc_options *options, PyObject **address);

/* stats() as a dict. */
PyObject *pd_stats_dict(const podipc_stats *stats);

#endif
