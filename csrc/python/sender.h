/* sender.h - what the sender and its loans know of each other. */
#ifndef PD_SENDER_H
#define PD_SENDER_H

#include "array.h"

typedef struct {
    PyObject_HEAD pd_state *st;
    podipc_sender *tx;
    PyObject *address;
    pd_type_cache types;
    bool closed;
    bool busy; /* see pd_block() */
} SenderObject;

/* The base of an array in a sender's memory: keeps the memory as long as there is
 * an array or a view over it, sent or not. */
typedef struct {
    PyObject_HEAD SenderObject *sender;
    podipc_loan loan;
    uint32_t ndim, type_len; /* what room was made for */
    bool sent;
    bool given_up; /* its block raised: never to be sent */
} LoanedObject;

/* tx.empty(): a new array in the sender's memory. NULL: an exception. */
PyObject *pd_sender_empty(SenderObject *self, PyArray_Descr *descr, int ndim, const npy_intp *shape,
                          int64_t deadline);
/* tx.send(). The number of receivers reached, or -1. */
int64_t pd_sender_send(SenderObject *self, PyObject *object, int64_t deadline);
/* The loan under an array or a view of one, or NULL. Borrowed. */
LoanedObject *pd_loaned_of(pd_state *st, PyArrayObject *array);
/* A Loan, the context manager. Takes references of its own. */
PyObject *pd_loan_new(SenderObject *sender, PyArray_Descr *descr, int ndim, const npy_intp *shape,
                      PyObject *timeout);

#endif
