/* tcp.h - loopback TCP: both ends in one Pod, that is in one network namespace. */
#ifndef PDI_TCP_H
#define PDI_TCP_H

#include <stdbool.h>
#include <stdint.h>

#include "podipc.h"

/* Checks that `host` (NULL: 127.0.0.1) is a loopback address and the port not 0.
 * 0 or PODIPC_EADDRESS. */
int pdi_tcp_check(const char *host, uint16_t port, podipc_error *err);
/* Listens; *fd is the caller's. -EADDRINUSE: another process of the Pod does. */
int pdi_tcp_listen(const char *host, uint16_t port, int *fd, podipc_error *err);
/* The port that a listening socket got. 0 or -errno. */
int pdi_tcp_port(int fd, uint16_t *port);
/* Connects; *fd is the caller's unless this failed otherwise than with
 * -EINPROGRESS (see pdi_socket_connected()). -ECONNREFUSED: nobody listens. */
int pdi_tcp_connect(const char *host, uint16_t port, int *fd);
/* Whether a connected socket is connected to itself, as happens on loopback to a
 * port that nobody listens on when the kernel chose that port for this end too. */
bool pdi_tcp_is_itself(int fd);

#endif
