/* socket.h - what TCP and Unix stream sockets have in common. */
#ifndef PDI_SOCKET_H
#define PDI_SOCKET_H

/* Accepts a connection, non-blocking. -EAGAIN: none is waiting. */
int pdi_socket_accept(int listener, int *fd);
/* After a connect that returned -EINPROGRESS: 0 connected, -EINPROGRESS, -errno. */
int pdi_socket_connected(int fd);
/* Makes room for `bytes` more to be sent without waiting, if the system allows. */
void pdi_socket_make_room(int fd, int bytes);
/* No more will be written; what was still arrives. */
void pdi_socket_end(int fd);

#endif
