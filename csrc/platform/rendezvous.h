/* rendezvous.h - how the two sides of a channel find each other.
 *
 * A channel is a directory. Each endpoint has a listening SOCK_SEQPACKET Unix
 * socket in it, whose name begins with "rx." or "tx."; inotify(7) tells of new
 * ones, so the order of starting does not matter. Descriptors travel with the
 * packets (SCM_RIGHTS, unix(7)). A socket appears under its name only when it
 * already listens (it is bound under a hidden name and renamed), so a refused
 * connection always means that its owner is dead.
 *
 * No function here waits for a peer.
 */
#ifndef PDI_RENDEZVOUS_H
#define PDI_RENDEZVOUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "podipc.h"

enum {
    PDI_NAME = 40,      /* of a socket in the directory, with the NUL */
    PDI_PACKET_FDS = 4, /* descriptors a packet may carry */
};

/* Opens the channel's directory; makes it, and if `named` the one above it, if need
 * be, with the permissions that `mode` implies whatever the umask is. *dir is the
 * caller's. */
int pdi_place_open(const char *path, uint32_t mode, bool named, int *dir, podipc_error *err);
/* Makes a listening socket with permissions `mode` appear as `name`. -ENOENT: the
 * directory has just been removed; open it again. */
int pdi_place_listen(const char *path, int dir, const char *name, uint32_t mode, int *sock,
                     podipc_error *err);
/* Removes `name`, then the directory, and if `named` the one above it, if empty. A
 * directory that is not `named` only if pdi_place_open() made it, here or elsewhere. */
void pdi_place_leave(const char *path, int dir, const char *name, bool named);
/* Connects to `name`. -ECONNREFUSED: its owner is dead. -ENOENT: not there. */
int pdi_place_connect(int dir, const char *name, int *sock);
/* Removes the socket `name` if its owner is dead. One that is still hidden may be
 * in the making and not yet listening; its maker then finds it gone (-ENOENT) and
 * makes another. */
void pdi_place_sweep(int dir, const char *name);
/* An inotify descriptor that becomes readable when names appear or vanish. */
int pdi_place_watch(int dir, int *inotify);
/* Empties the inotify descriptor. */
void pdi_place_watched(int inotify);
/* Calls `each` for every name in the directory. -errno. */
int pdi_place_list(int dir, void (*each)(const char *name, void *arg), void *arg);

/* Sends a packet with up to PDI_PACKET_FDS descriptors, which stay the caller's.
 * 0; -EAGAIN: the peer does not read; -EPIPE: it is gone. */
int pdi_packet_send(int sock, const void *data, size_t size, const int *fds, int n);
/* Receives a packet. Its length; 0: the peer hung up; -EAGAIN: nothing there. The
 * descriptors in fds[0..*n) are the caller's; more than PDI_PACKET_FDS are closed
 * and make the result -EPROTO, as does a packet longer than `cap`. */
ssize_t pdi_packet_recv(int sock, void *data, size_t cap, int fds[PDI_PACKET_FDS], int *n);

struct pdi_peer {
    uid_t uid;
    gid_t gid;
    bool in_group; /* the group that was asked about is among its groups */
};
uid_t pdi_uid(void);
gid_t pdi_gid(void);
/* The group of what this process makes in a directory: its own, or that of a directory
 * that hands its group on. */
gid_t pdi_place_group(int dir);
/* Who is at the other end (SO_PEERCRED, SO_PEERGROUPS), and whether in `group`. */
int pdi_packet_peer(int sock, gid_t group, struct pdi_peer *peer);

/* A descriptor that poll() finds readable after pdi_alarm(): to stop a thread. */
int pdi_alarm_open(int *fd);
void pdi_alarm(int fd);
void pdi_close(int *fd);

#endif
