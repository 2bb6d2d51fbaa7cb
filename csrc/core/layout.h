/* layout.h - what lies in shared memory and on the rendezvous sockets, byte by byte.
 *
 * Every word has exactly one writer; the writer is named at each struct. Nothing
 * here holds a pointer, a libc object or a type whose size depends on the
 * platform, and every struct is asserted to be as large as it looks.
 *
 * Who maps what, for one link (one sender, one receiver):
 *
 *   memfd      made by   writable for      holds
 *   ring       sender    sender            pdi_ring: descriptors, sender to receiver
 *   returns    receiver  receiver          pdi_returns: what was taken, what was let go
 *   door       each      the one who made  pdi_door: "I am asleep"
 *   bell       each      both              pdi_bell: the word its owner sleeps on
 *   arena      sender    sender            tensor bytes, nothing else
 *
 * All but the bell are sealed F_SEAL_FUTURE_WRITE after the owner mapped them, so
 * that the kernel, not good behaviour, keeps the other side from writing. A wrong
 * value in a bell can only wake somebody early, or late by one wait slice.
 */
#ifndef PDI_LAYOUT_H
#define PDI_LAYOUT_H

#include "atomics.h"

enum {
    PDI_PROTOCOL = 1, /* goes up with every change in this file */
    PDI_CACHE_LINE = 64,
    PDI_RING_SLOTS = 256,     /* descriptors that may wait untaken on a link */
    PDI_LATEST_SLOTS = 2,     /* the same on a link to a latest=True subscriber */
    PDI_RETURN_SLOTS = 16384, /* tensors a receiver may hold from one sender */
    PDI_INLINE_DIMS = 8,  /* a shape up to here travels in the descriptor, else behind the data */
    PDI_INLINE_TYPE = 24, /* the same for the type text */
};

/* One message. Written by the sender; `position` last. 128 bytes: two cache
 * lines, which the prefetcher of most cores brings together. */
struct pdi_descriptor {
    pdi_word64 position; /* the message's number on this link plus one: its publication flag */
    uint64_t offset;     /* of the data in the arena */
    uint64_t nbytes;
    uint32_t arena;
    uint32_t ticket;     /* what the receiver gives back when it lets go, */
    uint32_t generation; /* with this, so that an old ticket is told from a new one */
    uint8_t ndim;
    uint8_t flags; /* PODIPC_FORTRAN */
    uint16_t type_len;
    uint8_t type[PDI_INLINE_TYPE];
    int64_t shape[PDI_INLINE_DIMS];
};
_Static_assert(sizeof(struct pdi_descriptor) == 128, "two cache lines");

/* Written by the sender. */
struct pdi_ring {
    _Alignas(PDI_CACHE_LINE)
        pdi_word32 pending; /* a newer tensor waits behind a full ring (latest) */
    _Alignas(128) struct pdi_descriptor slots[PDI_RING_SLOTS];
};
_Static_assert(sizeof(struct pdi_ring) == 128 + PDI_RING_SLOTS * 128, "no hidden padding");

/* Written by the receiver. `taken` and `returned` only ever grow. */
struct pdi_returns {
    _Alignas(PDI_CACHE_LINE) pdi_word64 taken;    /* descriptors copied out of the ring */
    _Alignas(PDI_CACHE_LINE) pdi_word64 returned; /* entries written below */
    _Alignas(PDI_CACHE_LINE) pdi_word64 entries[PDI_RETURN_SLOTS]; /* generation << 32 | ticket */
};
_Static_assert(sizeof(struct pdi_returns) == 128 + PDI_RETURN_SLOTS * 8, "no hidden padding");

/* Written by its owner alone: how many of its threads sleep or are about to. */
struct pdi_door {
    _Alignas(PDI_CACHE_LINE) pdi_word32 asleep;
};
_Static_assert(sizeof(struct pdi_door) == 64, "a line of its own");

/* Written by everybody. With ?wait=semaphore the second line holds a sem_t,
 * which is why both sides must then have the same libc. */
struct pdi_bell {
    _Alignas(PDI_CACHE_LINE) pdi_word32 rings;
    _Alignas(PDI_CACHE_LINE) uint8_t semaphore[PDI_CACHE_LINE];
};
_Static_assert(sizeof(struct pdi_bell) == 128, "two lines");

/* ---- packets of the rendezvous socket (SOCK_SEQPACKET: a packet is whole) ---- */

#define PDI_MAGIC UINT64_C(0x0043504944504f50) /* "POPDIPC" */

enum pdi_packet_kind {
    PDI_HELLO = 1,  /* both ways, first; fds: ring or returns, door, bell */
    PDI_REFUSE = 2, /* instead of HELLO, then hang-up */
    PDI_ARENA = 3,  /* sender: here is arena `arena` of `size` bytes; fd: it */
    PDI_GONE = 4,   /* sender: forget arena `arena` */
    PDI_BYE = 5,    /* both ways: closed in order */
    PDI_NUDGE = 6,  /* receiver: I have room for what is pending (latest) */
    PDI_HERE = 7,   /* sender: I have your HELLO; before anything else */
};

enum pdi_role {
    PDI_ROLE_SENDER = 1,
    PDI_ROLE_RECEIVER = 2,
    PDI_ROLE_PROBE = 3, /* only wants to know who is there: answered by HELLO without fds */
};

/* hello.flags */
enum {
    PDI_BROADCAST = 1,
    PDI_LATEST = 2,
};

/* The head of every packet. */
struct pdi_packet {
    uint64_t magic;
    uint16_t protocol;
    uint16_t kind;
    uint32_t arena; /* ARENA, GONE */
    uint64_t size;  /* ARENA: bytes */
};
_Static_assert(sizeof(struct pdi_packet) == 24, "no hidden padding");

/* Fields that a peer of another version must be able to read come first and
 * stay where they are for ever: `head`, `byte_order`, `page_size`. */
struct pdi_hello {
    struct pdi_packet head;
    uint32_t byte_order; /* PDI_BYTE_ORDER as the sender of the packet sees it */
    uint32_t page_size;
    uint32_t libc; /* enum pdi_libc */
    uint32_t wait; /* podipc_wait */
    uint32_t role;
    uint32_t flags;
    uint32_t uid, gid, mode; /* for the text of a refusal */
    uint32_t reserved;
    uint64_t id;
};
_Static_assert(sizeof(struct pdi_hello) == 72, "no hidden padding");
#define PDI_BYTE_ORDER UINT32_C(0x01020304)

enum pdi_libc { PDI_LIBC_GLIBC = 1, PDI_LIBC_OTHER = 2 };

struct pdi_refusal {
    struct pdi_hello hello; /* who refuses */
    int32_t code;           /* PODIPC_EVERSION, -EACCES, ...; -EUSERS: try again */
    uint32_t reserved;
    char text[256]; /* why, for the refused; NUL-terminated */
};
_Static_assert(sizeof(struct pdi_refusal) == 72 + 8 + 256, "no hidden padding");

#endif
