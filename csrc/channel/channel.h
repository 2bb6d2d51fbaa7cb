/* channel.h - what a method of communication must supply.
 *
 * A method embeds `struct podipc_sender` / `struct podipc_receiver` as the first
 * member of its own struct, fills in `ops`, and returns a pointer to it from its
 * open function. The public functions of podipc.h only check and dispatch
 * (channel.c); their contracts are the contracts of these functions, word for
 * word. An op a method cannot have may be NULL where the comment says so.
 */
#ifndef PDI_CHANNEL_H
#define PDI_CHANNEL_H

#include "podipc.h"

struct pdi_sender_ops {
    int (*loan_get)(podipc_sender *, const podipc_tensor *, int64_t until, podipc_loan *,
                    podipc_error *);
    void (*loan_discard)(podipc_sender *, podipc_loan *);
    void (*loan_let_go)(podipc_sender *, podipc_loan *);
    int (*send)(podipc_sender *, podipc_sending *, int64_t until, uint32_t *reached,
                podipc_error *);
    void (*send_cancel)(podipc_sender *, podipc_sending *);
    void (*explain)(podipc_sender *, char *, size_t);
    void (*stats)(podipc_sender *, podipc_stats *);
    uint64_t (*close)(podipc_sender *);
    void (*free)(podipc_sender *);
};

struct pdi_receiver_ops {
    int (*recv)(podipc_receiver *, int64_t until, podipc_message *, podipc_error *);
    void (*release)(podipc_receiver *, podipc_message *);
    int (*map_private)(podipc_receiver *, const podipc_message *, void **,
                       podipc_error *); /* NULL: -ENOTSUP */
    void (*unmap_private)(const podipc_message *, void *);
    void (*explain)(podipc_receiver *, char *, size_t);
    void (*stats)(podipc_receiver *, podipc_stats *);
    void (*close)(podipc_receiver *);
    void (*free)(podipc_receiver *);
};

struct podipc_sender {
    const struct pdi_sender_ops *ops;
};
struct podipc_receiver {
    const struct pdi_receiver_ops *ops;
};

/* One pair of open functions a method. */
int pdi_shm_sender_open(const podipc_options *, podipc_sender **, podipc_error *);
int pdi_shm_receiver_open(const podipc_options *, podipc_receiver **, podipc_error *);
int pdi_stream_sender_open(const podipc_options *, podipc_sender **, podipc_error *);
int pdi_stream_receiver_open(const podipc_options *, podipc_receiver **, podipc_error *);
int pdi_volume_sender_open(const podipc_options *, podipc_sender **, podipc_error *);
int pdi_volume_receiver_open(const podipc_options *, podipc_receiver **, podipc_error *);

#endif
