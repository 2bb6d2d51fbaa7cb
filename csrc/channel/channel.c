/* channel.c - podipc.h in terms of channel.h: choose the method, dispatch. */
#include "channel.h"

#include <errno.h>
#include <string.h>

#include "../core/error.h"

int podipc_sender_open(const podipc_options *options, podipc_sender **out, podipc_error *err)
{
    switch (options->method) {
    case PODIPC_SHM:
        return pdi_shm_sender_open(options, out, err);
    case PODIPC_TCP:
    case PODIPC_UNIX:
    case PODIPC_FIFO:
        return pdi_stream_sender_open(options, out, err);
    case PODIPC_FILE:
        return pdi_volume_sender_open(options, out, err);
    }
    return pdi_fail(err, PODIPC_EADDRESS, "", "unknown method %d", (int)options->method);
}

int podipc_receiver_open(const podipc_options *options, podipc_receiver **out, podipc_error *err)
{
    switch (options->method) {
    case PODIPC_SHM:
        return pdi_shm_receiver_open(options, out, err);
    case PODIPC_TCP:
    case PODIPC_UNIX:
    case PODIPC_FIFO:
        return pdi_stream_receiver_open(options, out, err);
    case PODIPC_FILE:
        return pdi_volume_receiver_open(options, out, err);
    }
    return pdi_fail(err, PODIPC_EADDRESS, "", "unknown method %d", (int)options->method);
}

int podipc_loan_get(podipc_sender *tx, const podipc_tensor *tensor, int64_t until, podipc_loan *out,
                    podipc_error *err)
{
    return tx->ops->loan_get(tx, tensor, until, out, err);
}

void podipc_loan_discard(podipc_sender *tx, podipc_loan *loan)
{
    tx->ops->loan_discard(tx, loan);
}

void podipc_loan_let_go(podipc_sender *tx, podipc_loan *loan)
{
    tx->ops->loan_let_go(tx, loan);
}

int podipc_send(podipc_sender *tx, podipc_sending *s, int64_t until, uint32_t *reached,
                podipc_error *err)
{
    return tx->ops->send(tx, s, until, reached, err);
}

void podipc_send_cancel(podipc_sender *tx, podipc_sending *s)
{
    tx->ops->send_cancel(tx, s);
}

int podipc_recv(podipc_receiver *rx, int64_t until, podipc_message *out, podipc_error *err)
{
    return rx->ops->recv(rx, until, out, err);
}

void podipc_release(podipc_receiver *rx, podipc_message *message)
{
    rx->ops->release(rx, message);
}

int podipc_map_private(podipc_receiver *rx, const podipc_message *message, void **addr,
                       podipc_error *err)
{
    if (!rx->ops->map_private)
        return -ENOTSUP;
    return rx->ops->map_private(rx, message, addr, err);
}

void podipc_unmap_private(podipc_receiver *rx, const podipc_message *message, void *addr)
{
    rx->ops->unmap_private(message, addr);
}

void podipc_sender_explain(podipc_sender *tx, char *text, size_t cap)
{
    tx->ops->explain(tx, text, cap);
}

void podipc_receiver_explain(podipc_receiver *rx, char *text, size_t cap)
{
    rx->ops->explain(rx, text, cap);
}

void podipc_sender_stats(podipc_sender *tx, podipc_stats *out)
{
    memset(out, 0, sizeof *out);
    tx->ops->stats(tx, out);
}

void podipc_receiver_stats(podipc_receiver *rx, podipc_stats *out)
{
    memset(out, 0, sizeof *out);
    rx->ops->stats(rx, out);
}

uint64_t podipc_sender_close(podipc_sender *tx)
{
    return tx->ops->close(tx);
}

void podipc_receiver_close(podipc_receiver *rx)
{
    rx->ops->close(rx);
}

void podipc_sender_free(podipc_sender *tx)
{
    tx->ops->free(tx);
}

void podipc_receiver_free(podipc_receiver *rx)
{
    rx->ops->free(rx);
}
