/* types.h - the spec of each Python type, one file a type; the functions. */
#ifndef PD_TYPES_H
#define PD_TYPES_H

#include "state.h"

extern PyType_Spec pd_sender_spec;            /* sender.c */
extern PyType_Spec pd_receiver_spec;          /* receiver.c */
extern PyType_Spec pd_loan_spec;              /* loan.c */
extern PyType_Spec pd_loaned_spec;            /* loan.c */
extern PyType_Spec pd_received_spec;          /* receiver.c */
extern PyType_Spec pd_segment_spec;           /* segment.c */
extern PyType_Spec pd_semaphore_spec;         /* semaphore.c */
extern PyType_Spec pd_loopback_listener_spec; /* loopback_listener.c */
extern PyType_Spec pd_loopback_stream_spec;   /* loopback_stream.c */
extern PyType_Spec pd_infra_spec;             /* infra.c */

/* The functions of the module. */
PyObject *pd_limits(PyObject *module, PyObject *ignored);    /* limits.c */
PyObject *pd_pidfd_signal(PyObject *module, PyObject *args); /* infra.c */

#endif
