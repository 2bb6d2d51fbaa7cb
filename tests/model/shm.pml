/* shm.pml - the protocol of the shm method for spin(1): ring, returns and bells of a
 * sender and a receiver, with the death of either at any step, and a second receiver
 * after the first has died. Steps are named as in the C code.
 *
 * Claimed in every interleaving:
 *   - what is received is whole, in order, once; a gap only for the message that a
 *     dead receiver had just taken; all that was committed comes if no receiver died
 *   - no chunk is written while a receiver may look at it, no slot before `taken` has
 *     passed it, nothing comes back that was not out
 *   - nobody sleeps for ever (spin: no invalid end state)
 *
 * Memory. A store that the other side waits for becomes visible late: it lies in a
 * store buffer, which drains by chance, at a fence, before the next such store, and
 * when its process dies. What was stored before it is visible before it (release).
 * So store-before-load is missing exactly where pdi_store_load_fence() is: with
 * -DNO_FENCE spin finds the lost wake-up. -DTAKE_LATE (an entry returned before its
 * message counts as taken) is a mistake that it must find, too; run.sh sees to it.
 * -DRX_DIES, -DTX_DIES: that side may die, at any step.
 *
 * Assumed: a new receiver is joined after the hang-up of the dead one was handled.
 */

#ifndef MESSAGES
#define MESSAGES 4
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef CHUNKS
#define CHUNKS 3
#endif
#define LINKS 2
#define NONE  255

/* ---- shared memory, by its writer ---- */
byte position[4], slot_chunk[4], slot_number[4]; /* sender; SLOTS to a link */
byte data[CHUNKS];                               /* sender: the tensor in each chunk */
byte taken[LINKS], returned[LINKS];              /* receiver */
byte entries[8];                                 /* receiver; 4 to a link */
bit tx_asleep, rx_asleep[LINKS];                 /* doors */
bit tx_rung, rx_rung[LINKS]; /* bells, by all: has the count moved since `seen`? */

/* ---- store buffers ---- */
byte b_position = NONE, b_value;                 /* sender: slot, its position */
bit b_tx_asleep;
byte b_taken[LINKS], b_returned[LINKS];          /* receiver: NONE, or the new value */
bit b_rx_asleep[LINKS];

/* ---- what the sockets tell ---- */
bit alive[LINKS], hung_up[LINKS], tx_gone, tx_dead;

/* ---- for the claims ---- */
byte expected, committed, deaths;
bit kill_rx, kill_tx, reading[CHUNKS]; /* reading: a live receiver has it */

#define slot(l, p) ((l) * SLOTS + (p) % SLOTS)

inline drain_tx()
{
    d_step {
        if
        :: b_position != NONE -> position[b_position] = b_value; b_position = NONE
        :: else
        fi;
        if
        :: b_tx_asleep -> tx_asleep = 1; b_tx_asleep = 0
        :: else
        fi
    }
}

inline drain_rx(l)
{
    d_step {
        if
        :: b_taken[l] != NONE -> taken[l] = b_taken[l]; b_taken[l] = NONE
        :: else
        fi;
        if
        :: b_returned[l] != NONE -> returned[l] = b_returned[l]; b_returned[l] = NONE
        :: else
        fi;
        if
        :: b_rx_asleep[l] -> rx_asleep[l] = 1; b_rx_asleep[l] = 0
        :: else
        fi
    }
}

#ifdef NO_FENCE
#define store_load_fence_tx() skip
#define store_load_fence_rx(l) skip
#else
#define store_load_fence_tx() drain_tx()
#define store_load_fence_rx(l) drain_rx(l)
#endif

active proctype store_buffers()
{
end:
    do
    :: b_position != NONE || b_tx_asleep -> drain_tx()
    :: b_taken[0] != NONE || b_returned[0] != NONE || b_rx_asleep[0] -> drain_rx(0)
    :: b_taken[1] != NONE || b_returned[1] != NONE || b_rx_asleep[1] -> drain_rx(1)
    od
}

/* ---- the sender ---- */

#define FREE   0
#define OWN    1 /* the sending under way */
#define ORPHAN 2 /* left untaken by a dead receiver */
#define OUT    3 /* has a ticket of the link */

byte state[CHUNKS], number_of[CHUNKS], position_of[CHUNKS];

/* pdi_sender_collect() */
inline collect(l)
{
    do
    :: tx_returned < returned[l] ->
       d_step {
           c = entries[l * 4 + tx_returned % 4];
           assert(state[c] == OUT);
           assert(position_of[c] < taken[l]); /* ticket_is_out() */
           state[c] = FREE;
           c = 0;
           tx_returned++
       }
    :: else -> break
    od;
    skip
}

/* lost(): what it had not taken goes to the next one, what it had comes back */
inline take_back(l)
{
    collect(l);
    d_step {
        c = 0;
        do
        :: c < CHUNKS ->
            if
            :: state[c] == OUT && position_of[c] >= taken[l] ->
                state[c] = ORPHAN
            :: state[c] == OUT && position_of[c] < taken[l] -> state[c] = FREE
            :: else
            fi;
            c++
        :: else -> break
        od;
        c = 0;
        tail = 0;
        tx_taken = 0;
        tx_returned = 0
    }
}

/* The message to be sent next, in `best`: the oldest orphan, else our own. */
inline choose()
{
    d_step {
        best = NONE;
        c = 0;
        do
        :: c < CHUNKS ->
            if
            :: state[c] == ORPHAN &&
               (best == NONE || number_of[c] < number_of[best]) ->
                best = c
            :: else
            fi;
            c++
        :: else -> break
        od;
        c = 0;
        if
        :: best == NONE && own != NONE -> best = own
        :: else
        fi
    }
}

active proctype sender()
{
    byte link, tail, tx_taken, tx_returned, number, own = NONE, best, c;
    bit joined, sleeping;

    {
    do
    :: /* an attempt; the lock is held, so the control thread comes before or after it */
        atomic {
        if
        :: hung_up[link] && joined ->
            take_back(link);
            joined = 0;
            link++
        :: else
        fi;
        if
        :: !joined && link < LINKS && alive[link] -> joined = 1
        :: else
        fi;
        if
        :: joined -> collect(link)
        :: else
        fi;
        /* pdi_pool_take(), then copy() */
        if
        :: own == NONE && number < MESSAGES ->
            d_step {
                c = 0;
                do
                :: c < CHUNKS && state[c] != FREE -> c++
                :: else -> break
                od;
                if
                :: c < CHUNKS -> state[c] = OWN; number_of[c] = number; own = c
                :: else
                fi;
                c = 0
            }
            if
            :: own != NONE ->
                assert(!reading[own]);
                data[own] = NONE /* half of it */
            :: else
            fi
        :: else
        fi
        }
        atomic {
        if
        :: own != NONE -> data[own] = number
        :: else
        fi;
        choose();
        if
        :: joined && best != NONE -> tx_taken = taken[link] /* pdi_ring_refresh() */
        :: else
        fi
        }
        if
        :: joined && best != NONE && tail - tx_taken < SLOTS ->
            /* pdi_ring_push() */
            slot_number[slot(link, tail)] = NONE; /* half of it */
            d_step {
                slot_chunk[slot(link, tail)] = best;
                slot_number[slot(link, tail)] = number_of[best];
                state[best] = OUT;
                position_of[best] = tail
            }
            drain_tx();
            atomic {
                b_position = slot(link, tail);
                b_value = tail + 1;
                tail++;
                if
                :: best == own -> own = NONE; number++; committed = number
                :: else
                fi;
                best = NONE
            }
            /* pdi_bell_call() */
            atomic {
                store_load_fence_tx();
                if
                :: rx_asleep[link] -> rx_rung[link] = 1
                :: else
                fi;
                if
                :: sleeping -> sleeping = 0; tx_asleep = 0; b_tx_asleep = 0
                :: else
                fi
            }
        :: else ->
            if
            :: number == MESSAGES && best == NONE -> break
            :: else
            fi;
            if
            :: !sleeping -> sleeping = 1; b_tx_asleep = 1 /* count_sleeper() */
            :: else -> tx_rung /* pdi_bell_sleep() */
            fi;
            tx_rung = 0; /* seen = rings */
            store_load_fence_tx()
            /* and look once more */
        fi
    od;
    skip;
    /* close(): BYE */
    d_step { tx_gone = 1; rx_rung[0] = 1; rx_rung[1] = 1 }
    } unless { kill_tx };

    if
    :: kill_tx && !tx_gone ->
        drain_tx();
        d_step { tx_dead = 1; tx_gone = 1; rx_rung[0] = 1; rx_rung[1] = 1 }
    :: else
    fi
}

/* ---- the receivers ---- */

/* pdi_bell_call() */
inline call_sender()
{
    atomic {
        store_load_fence_rx(me);
        if
        :: tx_asleep -> tx_rung = 1
        :: else
        fi
    }
}

inline give_back(i)
{
    assert(data[held[i]] == held_number[i]); /* nobody wrote it */
    d_step {
        entries[me * 4 + rx_returned % 4] = held[i];
        reading[held[i]] = 0;
        rx_returned++;
        if
        :: i == 0 -> held[0] = held[1]; held_number[0] = held_number[1]
        :: else
        fi;
        held[1] = NONE;
        count--
    }
    drain_rx(me);
    b_returned[me] = rx_returned;
    call_sender()
}

proctype receiver(byte me)
{
    byte head, rx_returned, count, c, x;
    byte held[2] = NONE, held_number[2];
    bit sleeping, gone;

    atomic { /* the handshake wakes the sender */
        b_taken[me] = NONE;
        b_returned[me] = NONE;
        alive[me] = 1;
        tx_rung = 1
    }
    {
    do
    :: gone = tx_gone; /* seen by the control thread before this attempt */
        if
        :: count < 2 && position[slot(me, head)] == head + 1 ->
            /* pdi_ring_copy() */
            d_step {
                c = slot_chunk[slot(me, head)];
                x = slot_number[slot(me, head)];
                assert(x != NONE && data[c] == x);
                reading[c] = 1
            }
#ifdef TAKE_LATE
            held[count] = c; held_number[count] = x; count++;
            give_back(count - 1);
#endif
            /* pdi_ring_take() */
            head++;
            drain_rx(me);
            b_taken[me] = head;
            d_step { /* delivered */
                assert(x >= expected && x - expected <= deaths);
                expected = x + 1;
#ifndef TAKE_LATE
                held[count] = c;
                held_number[count] = x;
                count++
#endif
            }
            call_sender();
            atomic {
                c = 0;
                x = 0;
                if
                :: sleeping -> sleeping = 0; rx_asleep[me] = 0; b_rx_asleep[me] = 0
                :: else
                fi
            }
        :: count > 0 -> give_back(0)
        :: count > 1 -> give_back(1)
        :: count == 0 && position[slot(me, head)] != head + 1 && gone -> break /* farewell() */
        :: count == 0 && position[slot(me, head)] != head + 1 && !gone ->
            if
            :: !sleeping -> sleeping = 1; b_rx_asleep[me] = 1
            :: else -> rx_rung[me]
            fi;
            rx_rung[me] = 0;
            store_load_fence_rx(me)
        fi
    od;
    assert(deaths > 0 || expected == committed);
    } unless { kill_rx && me == 0 };

    if
    :: kill_rx && me == 0 ->
        drain_rx(me);
        d_step {
            deaths++;
            c = 0;
            do
            :: c < CHUNKS -> reading[c] = 0; c++
            :: else -> break
            od;
            hung_up[me] = 1;
            tx_rung = 1
        }
        run receiver(1)
    :: else
    fi
}

active proctype killer()
{
    run receiver(0);
#ifdef RX_DIES
    kill_rx = 1;
#endif
#ifdef TX_DIES
    kill_tx = 1;
#endif
    skip
}
