#include "shm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/skips.h"
#include "../platform/cgroup.h"
#include "../platform/random.h"
#include "../platform/thread.h"

/* Spinning pays as long as it is not much longer than what a sleep and a wake-up
 * cost, about 50 us. Where it did not pay lately, only a fraction is tried; where
 * a sleep turns out to have been that short, all of it again. */
#define SPIN_MAX 100000
#define SPIN_MIN 2000
#define WAKE_UP  35000 /* of a wait, what waking up is */

#define SOCKET_FULL_NS 1000000

/* In a forked child: the parent's death must not be hidden by our copies. */
static void in_child(void *arg)
{
    struct pdi_endpoint *ep = arg;
    pdi_close(&ep->listener);
    pdi_close(&ep->inotify);
    pdi_close(&ep->stop);
    for (uint32_t i = 0; i < ep->link_count; i++)
        pdi_close(&ep->links[i]->sock);
    for (struct pdi_link *link = ep->settled; link; link = link->next_settled)
        pdi_close(&link->sock);
}

static int join_directory(struct pdi_endpoint *ep, podipc_error *err)
{
    int rc = 0;
    pdi_socket_name(ep->role->role, ep->id, ep->name);
    /* The last one to leave removes the directory, perhaps just now: then again. */
    for (int tries = 0; tries < 16; tries++) {
        rc = pdi_place_open(ep->path, ep->mode, ep->named, &ep->dir, err);
        if (rc < 0)
            return rc;
        rc = pdi_place_watch(ep->dir, &ep->inotify);
        if (rc < 0)
            return pdi_fail(err, rc, "inotify_init1",
                            "could not watch the channel directory %s: see the limits in "
                            "/proc/sys/fs/inotify and RLIMIT_NOFILE",
                            ep->path);
        rc = pdi_place_listen(ep->path, ep->dir, ep->name, ep->mode, &ep->listener, err);
        if (rc != -ENOENT)
            return rc;
        pdi_close(&ep->inotify);
        pdi_close(&ep->dir);
    }
    return rc;
}

static int start_control(struct pdi_endpoint *ep, podipc_error *err)
{
    int rc = pdi_thread_start(&ep->control, pdi_control_main, ep);
    if (rc < 0)
        return pdi_fail(err, rc, "pthread_create", "could not start the control thread");
    ep->control_runs = true;
    return 0;
}

int pdi_endpoint_open(struct pdi_endpoint *ep, const struct pdi_role_ops *role,
                      const podipc_options *options, podipc_error *err)
{
    int rc;
    ep->role = role;
    ep->dir = ep->listener = ep->inotify = ep->stop = -1;
    ep->door_memory.fd = ep->bell_memory.fd = -1;
    ep->mode = options->mode;
    ep->named = options->named;
    ep->wait = options->wait;
    ep->flags = (options->broadcast ? PDI_BROADCAST : 0u) | (options->latest ? PDI_LATEST : 0u);
    ep->id = pdi_random64();
    ep->rescan = true;
    ep->can_spin = options->wait == PODIPC_WAIT_SPIN ||
                   (options->wait == PODIPC_WAIT_ADAPTIVE && pdi_cpus() >= 2);
    ep->spin_ns = SPIN_MAX;
    pthread_mutex_init(&ep->lock, NULL);
    bool semaphore = options->wait == PODIPC_WAIT_SEMAPHORE;
    ep->path = strdup(options->path);
    if (!ep->path) {
        rc = pdi_fail(err, -ENOMEM, "malloc", "could not copy the path of the channel");
        goto err;
    }
    rc = pdi_memfd_create("podipc-door", sizeof *ep->door, true, false, &ep->door_memory, err);
    if (rc < 0)
        goto err;
    rc = pdi_memfd_create("podipc-bell", sizeof *ep->bell, true, true, &ep->bell_memory, err);
    if (rc < 0)
        goto err;
    ep->door = ep->door_memory.map;
    ep->bell = ep->bell_memory.map;
    rc = pdi_bell_init(ep->bell, semaphore);
    if (rc < 0) {
        (void)pdi_fail(err, rc, "sem_init", "could not make a semaphore");
        goto err;
    }
    rc = pdi_fork_watch(&ep->fork, in_child, ep, &ep->lock);
    if (rc < 0) {
        (void)pdi_fail(err, rc, "pthread_atfork", "could not watch for fork()");
        goto err;
    }
    rc = pdi_alarm_open(&ep->stop);
    if (rc < 0) {
        (void)pdi_fail(err, rc, "eventfd", "could not make an event descriptor");
        goto err;
    }
    rc = join_directory(ep, err);
    if (rc < 0)
        goto err;
    rc = start_control(ep, err);
    if (rc < 0)
        goto err;
    return 0;
err:
    (void)pdi_endpoint_close(ep);
    pdi_endpoint_free(ep);
    return rc;
}

bool pdi_endpoint_close(struct pdi_endpoint *ep)
{
    pthread_mutex_lock(&ep->lock);
    bool first = !ep->closed;
    ep->closed = true;
    pthread_mutex_unlock(&ep->lock);
    if (!first)
        return false;
    if (pdi_endpoint_forked(ep))
        return true;
    if (ep->bell)
        pdi_endpoint_wake(ep);
    if (ep->control_runs) {
        pdi_alarm(ep->stop);
        pthread_join(ep->control, NULL);
        ep->control_runs = false;
    }
    if (ep->dir >= 0) {
        pdi_control_sweep(ep);
        pdi_place_leave(ep->path, ep->dir, ep->name, ep->named);
    }
    pthread_mutex_lock(&ep->lock);
    pdi_close(&ep->listener);
    pdi_close(&ep->inotify);
    pdi_close(&ep->stop);
    pdi_close(&ep->dir);
    pthread_mutex_unlock(&ep->lock);
    return true;
}

void pdi_endpoint_free(struct pdi_endpoint *ep)
{
    pdi_fork_forget(&ep->fork);
    pdi_close(&ep->dir);
    pdi_memfd_close(&ep->door_memory);
    pdi_memfd_close(&ep->bell_memory);
    free(ep->path);
    ep->path = NULL;
    pthread_mutex_destroy(&ep->lock);
}

void pdi_endpoint_wake(struct pdi_endpoint *ep)
{
    pdi_bell_ring(ep->bell, ep->wait == PODIPC_WAIT_SEMAPHORE, UINT32_MAX);
}

static int spin(struct pdi_endpoint *ep, int (*attempt)(void *), void *arg, int64_t length,
                int64_t until)
{
    int64_t end = ep->wait == PODIPC_WAIT_SPIN ? until : pdi_now() + length;
    if (end > until)
        end = until;
    do {
        for (int i = 0; i < 32; i++) {
            int rc = attempt(arg);
            if (rc != -EAGAIN) {
                pdi_poke64(&ep->spin_ns, SPIN_MAX);
                pdi_poke32(&ep->spin_vain, 0);
                return rc;
            }
            pdi_relax();
        }
    } while (pdi_now() < end);
    length /= 2;
    pdi_poke64(&ep->spin_ns, (uint64_t)(length < SPIN_MIN ? SPIN_MIN : length));
    return -EAGAIN;
}

/* After a short sleep, which spinning might have spared: all of it is tried again. Not
 * where just that was in vain: then the other side came to run because we slept, as it
 * does where others have the processors, and spinning only keeps it away. Then short
 * sleeps come and go before the next try (core/skips.h). */
static void spin_again(struct pdi_endpoint *ep, bool in_vain)
{
    uint32_t vain = pdi_peek32(&ep->spin_vain), skip = pdi_peek32(&ep->spin_skip);
    if (in_vain) {
        vain = pdi_skips_after(vain);
        pdi_poke32(&ep->spin_vain, vain);
        pdi_poke32(&ep->spin_skip, vain);
        pdi_poke64(&ep->spin_ns, SPIN_MIN);
    } else if (skip > 0) {
        pdi_poke32(&ep->spin_skip, skip - 1);
    } else {
        pdi_poke64(&ep->spin_ns, SPIN_MAX);
    }
}

static void count_sleeper(struct pdi_endpoint *ep, bool more)
{
    pthread_mutex_lock(&ep->lock);
    ep->sleepers += more ? 1u : UINT32_MAX;
    pdi_poke32(&ep->door->asleep, ep->sleepers);
    pthread_mutex_unlock(&ep->lock);
}

int pdi_endpoint_wait(struct pdi_endpoint *ep, int (*attempt)(void *), void *arg, int64_t until)
{
    int rc = attempt(arg);
    if (rc != -EAGAIN || until == 0)
        return rc;
    int64_t start = pdi_now(), length = 0;
    if (ep->can_spin) {
        length = (int64_t)pdi_peek64(&ep->spin_ns);
        rc = spin(ep, attempt, arg, length, until);
        if (rc != -EAGAIN)
            return rc;
    }
    /* The sleeper's side of bell.h. */
    count_sleeper(ep, true);
    for (;;) {
        uint32_t seen = pdi_observe32(&ep->bell->rings);
        pdi_store_load_fence();
        rc = attempt(arg);
        if (rc != -EAGAIN || pdi_now() >= until)
            break;
        /* Nobody rings when a full socket has room again. */
        int64_t wake = pdi_peek32(&ep->socket_full) ? pdi_now() + SOCKET_FULL_NS : until;
        int64_t again = (int64_t)pdi_peek64(&ep->again);
        if (again != 0 && again < wake)
            wake = again;
        if (pdi_bell_sleep(ep->bell, ep->wait == PODIPC_WAIT_SEMAPHORE, seen,
                           wake < until ? wake : until) == -EINTR)
            break;
    }
    count_sleeper(ep, false);
    if (rc == 0 && pdi_now() - start < SPIN_MAX + WAKE_UP)
        spin_again(ep, length == SPIN_MAX);
    return rc;
}

int pdi_endpoint_forked_error(podipc_error *err)
{
    return pdi_fail(err, PODIPC_EFORKED, "",
                    "this handle was opened before fork() and belongs to the parent: open the "
                    "channel anew in the child");
}

int pdi_endpoint_closed_error(podipc_error *err)
{
    return pdi_fail(err, PODIPC_ECLOSED, "", "this handle is closed");
}

int pdi_endpoint_complaint(struct pdi_endpoint *ep, podipc_error *err)
{
    if (!ep->has_complaint)
        return 0;
    ep->has_complaint = false;
    if (err)
        *err = ep->complaint;
    return ep->complaint.code;
}

void pdi_endpoint_explain(struct pdi_endpoint *ep, char *text, size_t cap)
{
    bool sender = ep->role->role == PDI_ROLE_SENDER;
    pthread_mutex_lock(&ep->lock);
    const char *peer = sender ? "receiver" : "sender";
    uint32_t joined = 0, silent = 0;
    for (uint32_t i = 0; i < ep->link_count; i++) {
        joined += ep->links[i]->state == PDI_JOINED;
        silent += ep->links[i]->state == PDI_GREETING || ep->links[i]->state == PDI_ANSWERED;
    }
    if (joined > 0)
        (void)snprintf(text, cap, "%u %s%s joined.", joined, peer, joined == 1 ? " has" : "s have");
    else if (ep->last_failure[0])
        (void)snprintf(text, cap, "No %s has joined: %s.", peer, ep->last_failure);
    else if (ep->last_refusal[0])
        (void)snprintf(text, cap, "No %s has joined. Refused: %s.", peer, ep->last_refusal);
    else if (silent > 0)
        (void)snprintf(text, cap,
                       "No %s has joined. One is there and does not answer: is it stopped, or has "
                       "it no descriptors left (ulimit -n)?",
                       peer);
    else
        (void)snprintf(
            text, cap,
            "No %s has joined. It is looked for in %.60s%s: is the other container running, does "
            "it use the same name, and do both see the same directory? Containers of one Pod "
            "share /dev/shm; where they do not, use a directory on a volume that both mount: "
            "shm:///shared/NAME.",
            peer, ep->path, strlen(ep->path) > 60 ? "..." : "");
    pthread_mutex_unlock(&ep->lock);
}
