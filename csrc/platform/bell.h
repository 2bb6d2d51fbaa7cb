/* bell.h - sleeping until another process has something to say.
 *
 * Every endpoint owns a bell, on which it sleeps, and a door, which says whether
 * it does. The sleeper: says "asleep" (door), notes the bell's count, looks once
 * more whether there is something to do, and only then sleeps while the count is
 * what it was. The waker: writes what it has to say, then looks at the door, and
 * rings only if somebody is asleep, which keeps the common case free of system
 * calls. Both must put a store before a load, hence a full fence on both sides
 * (pdi_store_load_fence): without it the sleeper may miss the news and the waker
 * miss the sleeper. The classic proof is Dekker's; the same shape is in futex(2),
 * "the waiter's side".
 *
 * FUTEX_WAIT on a count cannot be lost between looking and sleeping, because the
 * kernel compares the count once more under its own lock.
 */
#ifndef PDI_BELL_H
#define PDI_BELL_H

#include <stdbool.h>

#include "../core/layout.h"
#include "podipc.h"

/* Prepares a zeroed bell. With `semaphore` it is slept on by sem_t. */
int pdi_bell_init(struct pdi_bell *bell, bool semaphore);
/* Sleeps while bell->rings is `seen`, at most until `until`; may return early.
 * -EINTR after a signal, else 0. */
int pdi_bell_sleep(struct pdi_bell *bell, bool semaphore, uint32_t seen, int64_t until);
/* Wakes whoever sleeps, `sleepers` threads at most. Any thread, any process. */
void pdi_bell_ring(struct pdi_bell *bell, bool semaphore, uint32_t sleepers);

/* Rings if the owner of the door is asleep. Call after publishing. */
static inline void pdi_bell_call(const struct pdi_door *door, struct pdi_bell *bell, bool semaphore)
{
    pdi_store_load_fence();
    uint32_t asleep = pdi_peek32(&door->asleep);
    if (asleep)
        pdi_bell_ring(bell, semaphore, asleep);
}

enum pdi_libc pdi_libc(void);

#endif
