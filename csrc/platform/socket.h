/* socket.h - what TCP and Unix stream sockets have in common. */
#ifndef PDI_SOCKET_H
#define PDI_SOCKET_H

/* Accepts a connection, non-blocking. -EAGAIN: none is waiting. */
int pdi_socket_accept(int listener, int *fd);
/* After a connect that returned -EINPROGRESS: 0 connected, -EINPROGRESS, -errno. */
int pdi_socket_connected(int fd);
/* Lets up to `bytes` be under way (as far as net.core.wmem_max allows), less what
 * pdi_socket_make_room() may then add for a last word. For Unix sockets; TCP finds
 * its own size, and loses that ability when told one. */
void pdi_socket_widen(int fd, int bytes);
void pdi_socket_make_room(int fd);
/* Ends the connection, or the listening, now: also if a child that was forked a
 * moment ago still has a copy of the descriptor. It is still to be closed; poll() on
 * it tells that it is over. */
void pdi_socket_hang_up(int fd);
/* No more will be written; what was still arrives. */
void pdi_socket_end(int fd);

#endif
