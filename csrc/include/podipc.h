/* podipc.h - the public C interface of podipc.
 *
 * A sender moves tensors to receivers that opened the same channel, by one of
 * several methods (shared memory, TCP, Unix socket, FIFO, files). Handles are
 * opaque; what lies behind them differs by method, what they promise does not.
 *
 * Return values. 0 is success; a value from -1 to -4095 is -errno; a value
 * below that is one of PODIPC_E*. Every call that can fail takes a
 * `podipc_error *`, which may be NULL and is written only on failure.
 *
 * Time. `until` is an absolute CLOCK_MONOTONIC time in nanoseconds. A call that
 * has not finished by then returns -EAGAIN with its state kept: call it again
 * with the same arguments to go on. 0 means "do what can be done without
 * waiting". Callers slice long waits this way, so that they can look after
 * signals in between; no call here ever waits for ever.
 *
 * Concurrency. Unless a function says otherwise, any thread may call it on any
 * handle at any time, except that nothing may be called during or after the
 * free of that handle. After fork() a child may only free the handle; all else
 * returns PODIPC_EFORKED.
 */
#ifndef PODIPC_H
#define PODIPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Own error codes, below every -errno. */
enum {
    PODIPC_EPEERDIED = -5001, /* a peer went away without closing */
    PODIPC_ECLOSED = -5002,   /* every peer closed in order, or this handle is closed */
    PODIPC_EVERSION = -5003,  /* the peer speaks another version or has another layout */
    PODIPC_ECORRUPT = -5004,  /* what the peer wrote does not hold together */
    PODIPC_EMEMLIMIT = -5005, /* the memory limit or the byte budget is too small for this */
    PODIPC_EFORKED = -5006,   /* the handle belongs to the parent of this process */
    PODIPC_EADDRESS = -5007,  /* the address or one of its options is not valid */
    PODIPC_ETENSOR = -5008,   /* this tensor cannot be sent */
};

enum {
    PODIPC_MAX_DIMS = 64,        /* NumPy's own limit since 2.0 */
    PODIPC_MAX_TYPE = 64 * 1024, /* bytes of type text */
    PODIPC_TENSOR_ALIGN = 64,    /* data of a received or loaned tensor is aligned to this */
};

/* What failed, for a human (text) and for a program (the rest). */
typedef struct podipc_error {
    int code;            /* the value that was returned */
    int sys_errno;       /* errno of the failing call, or 0 */
    char call[32];       /* the failing call, e.g. "bind"; "" if none */
    char text[480];      /* what was needed, what there was, what to change */
    uint64_t need, have; /* bytes, where the error is about an amount; else 0 */
} podipc_error;

/* What a tensor is, apart from its bytes. `type` is the text that the binding
 * made of the dtype ("<f4", or JSON for a structured one); it is not
 * interpreted here. It is not NUL-terminated and is owned by whoever filled
 * the struct in. */
enum { PODIPC_FORTRAN = 1 }; /* flags: the bytes are in Fortran order, else C order */
typedef struct podipc_tensor {
    uint64_t nbytes;
    uint32_t flags;
    uint32_t ndim;
    uint32_t type_len;
    const char *type;
    int64_t shape[PODIPC_MAX_DIMS];
} podipc_tensor;

typedef enum podipc_method {
    PODIPC_SHM,
    PODIPC_TCP,
    PODIPC_UNIX,
    PODIPC_FIFO,
    PODIPC_FILE,
} podipc_method;

typedef enum podipc_wait {
    PODIPC_WAIT_ADAPTIVE,  /* spin a little, then sleep */
    PODIPC_WAIT_BLOCK,     /* sleep at once (futex) */
    PODIPC_WAIT_SPIN,      /* never sleep */
    PODIPC_WAIT_SEMAPHORE, /* sleep at once (POSIX semaphore) */
} podipc_wait;

/* How to open an endpoint. Strings are copied. */
typedef struct podipc_options {
    podipc_method method;
    podipc_wait wait; /* shm only */
    const char
        *path;     /* shm: directory of the channel; unix, fifo: path; file: directory; tcp: host */
    bool named;    /* shm: `path` and the directory above it are podipc's own: made if they
                      are not there, removed with the last endpoint. Else only `path` is
                      made, and is removed only if it was made here */
    uint16_t port; /* tcp only */
    uint32_t mode; /* permission bits of what is created: 0600, 0660 or 0666 */
    uint64_t max_bytes; /* budget for tensors in flight; 0: a safe share of the memory limit */
    bool broadcast;     /* publisher/subscriber instead of sender/receiver (shm only) */
    bool latest;        /* a subscriber that skips to the newest tensor */
} podipc_options;

typedef struct podipc_sender podipc_sender;
typedef struct podipc_receiver podipc_receiver;

/* Memory in which a tensor to be sent is being made. Owned by the caller from a
 * successful podipc_loan_get() until it is sent or discarded AND let go: sending
 * hands the bytes over but keeps them where they are, unchanged, until
 * podipc_loan_let_go(). Used by one thread at a time. */
typedef struct podipc_loan {
    void *data; /* PODIPC_TENSOR_ALIGN-aligned, `size` writable bytes */
    uint64_t size;
    uint64_t id; /* the channel's own */
} podipc_loan;

/* One sending, kept over several calls of podipc_send(). Zero it, set `tensor`
 * and either `data` (C- or Fortran-contiguous bytes, copied) or `loan` (its
 * bytes are sent as they are). Both must stay valid until podipc_send() has
 * returned something other than -EAGAIN or podipc_send_cancel() was called. */
typedef struct podipc_sending {
    const podipc_tensor *tensor;
    const void *data;
    podipc_loan *loan;
    podipc_loan own; /* the channel's: memory it took for `data` */
    uint64_t done;   /* the channel's: how far it got */
    uint32_t stage;  /* the channel's; 0 at the start */
} podipc_sending;

/* A received tensor. Owned by the caller until podipc_release(). If `scarce`, the
 * caller holds so many that it should copy this one and release it at once: what
 * a sender can have outstanding is limited. May be copied as a struct when
 * `tensor.type` is then set to the copy's own `short_type` where it was there. */
typedef struct podipc_message {
    podipc_tensor
        tensor;       /* `type` is valid until release, its bytes may change: copy, then check */
    const void *data; /* read-only, PODIPC_TENSOR_ALIGN-aligned */
    bool scarce;
    uint64_t sender; /* which sender it came from; one number a sender */
    void *owner;     /* the channel's, as all below */
    uint64_t id;
    uint32_t place;
    char short_type[28]; /* where `tensor.type` may point */
} podipc_message;

/* Counters since the handle was opened. */
typedef struct podipc_stats {
    uint64_t messages;    /* tensors sent, or received */
    uint64_t bytes;       /* their bytes */
    uint64_t peers;       /* joined now */
    uint64_t peers_died;  /* gone without closing */
    uint64_t queued;      /* sent, not yet taken by a receiver */
    uint64_t held;        /* taken, not yet let go */
    uint64_t redelivered; /* taken back from a dead receiver and queued again */
    uint64_t lost_taken;  /* taken by a receiver that then died */
    uint64_t skipped;     /* passed over on purpose by latest=True */
    uint64_t unheard;     /* published while nobody subscribed */
    uint64_t reserved;    /* bytes of memory reserved for tensors */
    uint64_t max_bytes;   /* the budget */
} podipc_stats;

/* Opens one side of a channel. On success *out is the caller's, who closes and
 * frees it. Does not wait for a peer. Blocks only for local system calls. */
int podipc_sender_open(const podipc_options *options, podipc_sender **out, podipc_error *err);
int podipc_receiver_open(const podipc_options *options, podipc_receiver **out, podipc_error *err);

/* Borrows memory for a tensor. Waits (until `until`) while the budget is used
 * up. -EAGAIN: not yet. PODIPC_EMEMLIMIT: it can never fit. */
int podipc_loan_get(podipc_sender *tx, const podipc_tensor *tensor, int64_t until, podipc_loan *out,
                    podipc_error *err);
/* Gives a loan up without sending it. Never fails. Also lets it go. */
void podipc_loan_discard(podipc_sender *tx, podipc_loan *loan);
/* After a loan was sent: its bytes are no longer looked at by the caller. */
void podipc_loan_let_go(podipc_sender *tx, podipc_loan *loan);

/* Sends one tensor; goes on where the last call with the same `s` stopped.
 * 0: committed; it will be delivered, whole and once, even if this process dies.
 * -EAGAIN: not yet (no receiver, ring or budget full).
 * PODIPC_EPEERDIED: reported once for each receiver that died; nothing of `s`
 *   was sent, start it anew to send it to the next receiver.
 * For a broadcasting sender, *reached (may be NULL) is the number of subscribers. */
int podipc_send(podipc_sender *tx, podipc_sending *s, int64_t until, uint32_t *reached,
                podipc_error *err);
/* Gives up a sending that returned -EAGAIN; the receiver will never see it. */
void podipc_send_cancel(podipc_sender *tx, podipc_sending *s);

/* Receives the next tensor into *out.
 * -EAGAIN: nothing yet. PODIPC_EPEERDIED: reported once for each sender that
 * died, after everything it committed was delivered. PODIPC_ECLOSED: every
 * sender that had joined closed in order and nothing is left. */
int podipc_recv(podipc_receiver *rx, int64_t until, podipc_message *out, podipc_error *err);
/* Gives the memory of a message back. Any thread, also after close (not after
 * free: a message counts as a use of the handle). Never waits, never fails. */
void podipc_release(podipc_receiver *rx, podipc_message *message);
/* Maps the message's bytes once more, private and writable (copy on write).
 * *addr is the caller's until podipc_unmap_private(); the message must outlive it.
 * -ENOTSUP where the method's bytes are already private. */
int podipc_map_private(podipc_receiver *rx, const podipc_message *message, void **addr,
                       podipc_error *err);
void podipc_unmap_private(podipc_receiver *rx, const podipc_message *message, void *addr);

/* Why there is nothing: one or more sentences for the text of a timeout, naming
 * where peers are looked for and what to change. Writes at most `cap` bytes,
 * always NUL-terminated. */
void podipc_sender_explain(podipc_sender *tx, char *text, size_t cap);
void podipc_receiver_explain(podipc_receiver *rx, char *text, size_t cap);

void podipc_sender_stats(podipc_sender *tx, podipc_stats *out);
void podipc_receiver_stats(podipc_receiver *rx, podipc_stats *out);

/* Says goodbye to the peers, ends waits of other threads with PODIPC_ECLOSED.
 * Idempotent; never waits longer than it takes to say goodbye. What receivers
 * still hold stays valid. Returns the number of tensors that were sent but that
 * no receiver will ever get (left by dead receivers). */
uint64_t podipc_sender_close(podipc_sender *tx);
void podipc_receiver_close(podipc_receiver *rx);
/* Frees the handle; closes first. The handle and every loan or message must no
 * longer be in use by any thread. */
void podipc_sender_free(podipc_sender *tx);
void podipc_receiver_free(podipc_receiver *rx);

#ifdef __cplusplus
}
#endif
#endif
