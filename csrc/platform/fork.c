#include "fork.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_result;
static struct pdi_fork_hook head = {.next = &head, .prev = &head};

/* The registry must not be half changed in the child: hold its lock over fork(). */
static void prepare(void)
{
    pthread_mutex_lock(&lock);
    for (struct pdi_fork_hook *h = head.next; h != &head; h = h->next)
        if (h->lock)
            pthread_mutex_lock(h->lock);
}

static void unlock_all(void)
{
    for (struct pdi_fork_hook *h = head.next; h != &head; h = h->next)
        if (h->lock)
            pthread_mutex_unlock(h->lock);
    pthread_mutex_unlock(&lock);
}

static void child(void)
{
    for (struct pdi_fork_hook *h = head.next; h != &head; h = h->next) {
        pdi_poke32(&h->forked, 1);
        h->in_child(h->arg);
    }
    unlock_all();
}

static void install(void)
{
    once_result = pthread_atfork(prepare, unlock_all, child);
}

int pdi_fork_watch(struct pdi_fork_hook *hook, void (*in_child)(void *), void *arg,
                   pthread_mutex_t *held)
{
    pthread_once(&once, install);
    if (once_result != 0)
        return -once_result;
    hook->in_child = in_child;
    hook->arg = arg;
    hook->lock = held;
    pthread_mutex_lock(&lock);
    hook->next = &head;
    hook->prev = head.prev;
    head.prev->next = hook;
    head.prev = hook;
    pthread_mutex_unlock(&lock);
    return 0;
}

void pdi_fork_forget(struct pdi_fork_hook *hook)
{
    pthread_mutex_lock(&lock);
    if (hook->next) {
        hook->prev->next = hook->next;
        hook->next->prev = hook->prev;
        hook->next = hook->prev = NULL;
    }
    pthread_mutex_unlock(&lock);
}
