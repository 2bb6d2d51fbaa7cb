/* stream.h - the methods tcp, unix and fifo: one framing, three ways to connect.
 *
 * The receiver listens, the sender connects when it has something to send. The
 * parts, each with a header or a section here:
 *
 *   stream.c            the address, and what differs between the three
 *   stream_line.c       the sender's end of a connection
 *   stream_sender.c     podipc_sender on one line
 *   stream_conn.c       the receiver's end of a connection
 *   stream_greeter.c    the receiver's thread that answers new senders
 *   stream_receiver.c   podipc_receiver on many connections
 *
 * The greeter is a thread because a sender may only call a tensor sent once it
 * knows that a receiver of its own version has it; without the thread the first
 * send would wait until the receiver, deep in a computation, calls recv().
 *
 * Lines and connections are used under the lock of their endpoint and never wait.
 */
#ifndef PDI_STREAM_H
#define PDI_STREAM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/frame.h"
#include "../platform/fork.h"
#include "../platform/special.h"
#include "blocks.h"
#include "channel.h"

/* ---- stream.c: the address ---- */

struct pdi_stream_at {
    podipc_method method;
    uint32_t mode;
    uint16_t port;
    char *path;     /* of the socket or FIFO; the host for tcp */
    char name[160]; /* for messages, cut if long */
};

int pdi_stream_at_open(const podipc_options *options, struct pdi_stream_at *at, podipc_error *err);
void pdi_stream_at_close(struct pdi_stream_at *at);
/* Why a peer may be out of reach, as the end of a sentence. */
const char *pdi_stream_at_advice(const struct pdi_stream_at *at);
/* Receiver: starts to listen; on a FIFO *fd is the reading end. */
int pdi_stream_listen(const struct pdi_stream_at *at, int *fd, struct pdi_special_id *id,
                      podipc_error *err);
/* Sender: connects. 0, -EINPROGRESS, a reason to try again (see
 * pdi_stream_not_yet()), or an error that is in *err. */
int pdi_stream_connect(const struct pdi_stream_at *at, int *fd, podipc_error *err);
/* Whether this result of pdi_stream_connect() only means that nobody listens. */
bool pdi_stream_not_yet(int rc);

/* How long a call may go on as long as there is something to do. Keeps Ctrl-C
 * and close() prompt in the middle of gigabytes. */
#define PDI_STREAM_QUANTUM 20000000 /* ns */

/* ---- stream_line.c: the sender's end ---- */

enum pdi_line_state { PDI_LINE_DOWN, PDI_LINE_CONNECTING, PDI_LINE_GREETING, PDI_LINE_UP };

struct pdi_line {
    const struct pdi_stream_at *at;
    uint64_t id; /* of the sender */
    int fd;
    enum pdi_line_state state;

    /* Looking for a receiver. */
    int why;          /* the last result of pdi_stream_connect() */
    bool hung_up;     /* what listens there closed instead of greeting */
    int64_t retry_at; /* not before */
    int64_t backoff;
    struct pdi_greeting greeting;
    size_t greeted; /* bytes of it */

    /* The frame under way: head, payload, trailer. A small one is all in `head`. */
    uint8_t *head;
    size_t head_size, head_cap, trailer_size;
    uint64_t nbytes, done;
    bool active;
    bool bye;
    bool abandoned; /* its payload is gone: fill up and abort */

    uint64_t max_bytes; /* the largest tensor the receiver takes */
    uint64_t sequence, committed;
    struct pdi_frame_head inbox; /* its BYE */
    size_t inbox_size;
    uint64_t lost, died; /* tensors; receivers */
};

void pdi_line_init(struct pdi_line *line, const struct pdi_stream_at *at, uint64_t id);
/* Closes the descriptor and frees. */
void pdi_line_drop(struct pdi_line *line);
/* Gets on with connecting. 0: up. -EAGAIN: wait for line->fd, or if it is -1 until
 * line->retry_at. */
int pdi_line_connect(struct pdi_line *line, bool now, podipc_error *err);
/* Begins the frame of a tensor; no other may be active. */
int pdi_line_begin(struct pdi_line *line, const podipc_tensor *t, const void *payload,
                   podipc_error *err);
/* Gives the active frame up: what is left of it is filled, and it is aborted. */
void pdi_line_abandon(struct pdi_line *line);
/* Whether the receiver is still there: 0 or -EPIPE. */
int pdi_line_check(struct pdi_line *line);
/* Writes as much of the active frame as goes. 0: all. -EAGAIN: no room.
 * -EINPROGRESS: `stop` has passed. -EPIPE: the receiver is gone. */
int pdi_line_push(struct pdi_line *line, const void *payload, int64_t stop);
/* After -EPIPE: closes, and finds out how the receiver left. 0: in order, with
 * all that was sent to it. PODIPC_EPEERDIED: otherwise. */
int pdi_line_lost(struct pdi_line *line, podipc_error *err);
/* Lets a last word be said to a receiver that has not yet read the rest. */
void pdi_line_make_room(struct pdi_line *line);
/* Says goodbye, as far as that goes without waiting: 0 or -EAGAIN. */
int pdi_line_goodbye(struct pdi_line *line);
void pdi_line_explain(const struct pdi_line *line, char *text, size_t cap);

/* ---- stream_conn.c: the receiver's end ---- */

enum pdi_conn_state {
    PDI_CONN_UNUSED,   /* a FIFO that nobody has written to */
    PDI_CONN_GREETING, /* a FIFO */
    PDI_CONN_HEAD,
    PDI_CONN_REST, /* shape and type */
    PDI_CONN_PAYLOAD,
    PDI_CONN_TRAILER,
};

struct pdi_conn {
    struct pdi_conn *next; /* in the receiver's queue */
    const char *where;     /* name of the address */
    uint64_t tag, sender;
    int fd;
    enum pdi_conn_state state;
    bool queued;  /* there may be something to read */
    bool blocked; /* waits for memory */
    bool drained; /* all there was has been read; wait for news */
    bool hung_up; /* there is an end to be read, of which no news will come */
    bool bulk;    /* the last tensor was large: do not read beyond a head */
    bool over;    /* to be dropped; how it ended was returned */

    uint64_t sequence, taken;
    struct pdi_frame_head head;
    podipc_tensor tensor;
    struct pdi_block *block; /* NULL: the payload is skipped */
    uint64_t got;
    uint8_t *buffer;
    size_t begin, end;
};

/* How a connection can end, besides errors. */
enum { PDI_CONN_LEFT = 1, PDI_CONN_STRANGER = 2 };

struct pdi_conn *pdi_conn_new(int fd, enum pdi_conn_state state, const char *where);
/* Closes and frees; with `bye` tells the sender first what was taken. */
void pdi_conn_free(struct pdi_conn *c, struct pdi_blocks *blocks, bool bye);
/* Reads on, at most `quota` bytes and until `stop`. 0: a tensor is whole, in
 * c->tensor and c->block, which is the caller's. -EAGAIN: nothing more there.
 * -EINPROGRESS: quota or time used up. -ENOBUFS: waits for memory. PDI_CONN_*,
 * or an error, after which it is over or not (c->over). */
int pdi_conn_read(struct pdi_conn *c, struct pdi_blocks *blocks, uint64_t quota, int64_t stop,
                  podipc_error *err);
/* Whether nothing that was read is a whole tensor. */
bool pdi_conn_is_clean(const struct pdi_conn *c);

/* ---- stream_greeter.c: answering new senders ---- */

enum { PDI_GREETER_PENDING = 32 };

struct pdi_greeter {
    pthread_t thread;
    bool running;
    int listener, stop;
    pthread_mutex_t *lock; /* guards what follows */
    const char *where;
    uint64_t id, max_bytes;
    struct {
        int fd;
        size_t n;
        int64_t deadline;
        struct pdi_greeting greeting;
    } pending[PDI_GREETER_PENDING];
    int count;
    int accept_error;
    uint64_t strangers;
    /* Takes a connection over, or the error of one that was turned away; called
     * with the lock held. */
    int (*joined)(void *arg, int fd, uint64_t sender);
    void (*turned_away)(void *arg, const podipc_error *why);
    void *arg;
};

/* Starts the thread; `listener` is the greeter's from now on. 0 or -errno. */
int pdi_greeter_start(struct pdi_greeter *g);
/* Ends it. Not with the lock held. Idempotent. */
void pdi_greeter_stop(struct pdi_greeter *g);
/* Closes the descriptors, in a forked child or after the end of the thread. */
void pdi_greeter_close(struct pdi_greeter *g);

#endif
