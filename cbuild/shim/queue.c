/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The event queue: the worker pushes records, Python takes them in batches.
 *
 * Bounds, by class.  Trace and log records are dropped, oldest kept, and
 * counted once they exceed their budget.  Outcomes are never dropped; each
 * request makes one, so Python bounds them itself, save for PJSIP's own
 * refreshes: past the budget a client's newer refresh outcome stands for its
 * older one that nobody has read, and says for how many.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/eventfd.h>
#endif

#include "internal.h"

typedef struct event_node {
    struct event_node *next, **previous;
    client *owner;
    pjpy_event event;           /* its strings follow */
} event_node;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    event_node *head, **tail;
    size_t waiters;
    unsigned interrupts;
    int fd_used, fd_read, fd_write, fd_signalled;
    size_t droppable, outcomes; /* bytes queued of each class */
    size_t droppable_limit, outcome_limit;
    uint64_t seq, taken, merged;
    uint64_t dropped[2], reported[2];   /* trace, log */
} queue = {
    .lock = SPINNING_MUTEX, .tail = &queue.head, .fd_read = -1, .fd_write = -1
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void condition_init(void)
{
    condition_open(&queue.arrived);
}

/* The start of a refresh is one too: its outcome follows, and is not.  So is
   what becomes of connections that others make, as many as they like. */
static int is_droppable(const pjpy_event *event)
{
    return (event->kind == PJPY_EV_TRANSPORT &&
            event->flags & PJPY_F_INCOMING) ||
           event->kind == PJPY_EV_MESSAGE || event->kind == PJPY_EV_LOG ||
           (event->kind == PJPY_EV_REG_STARTED &&
            event->flags & PJPY_F_RENEWAL);
}

/* ------------------------------------------------- the descriptor, locked */

static int fd_open(void)
{
    if (queue.fd_read >= 0)
        return 0;
#if defined(__linux__)
    queue.fd_read = queue.fd_write = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return queue.fd_read < 0 ? -1 : 0;
#else
    int fds[2];
    if (pipe(fds))
        return -1;
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    queue.fd_read = fds[0];
    queue.fd_write = fds[1];
    return 0;
#endif
}

static void fd_signal(void)
{
    uint64_t one = 1;
#if defined(__linux__)
    size_t size = sizeof one;
#else
    size_t size = 1;
#endif
    if (queue.fd_used && !queue.fd_signalled &&
        write(queue.fd_write, &one, size) == (ssize_t)size)
        queue.fd_signalled = 1;
}

static void fd_clear(void)
{
    char buffer[8];

    if (queue.fd_signalled && read(queue.fd_read, buffer, sizeof buffer) > 0)
        queue.fd_signalled = 0;
}

/* Locked; unlocks, for who is woken needs the lock. */
static void announce(void)
{
    int waited_for = queue.waiters > 0;

    fd_signal();
    pthread_mutex_unlock(&queue.lock);
    if (waited_for)
        pthread_cond_signal(&queue.arrived);
}

/* --------------------------------------------------------------- worker */

/* What the worker pushes in one turn wakes Python once, at its end. */
static __thread int holding, held;

void queue_flush(void)
{
    if (!held)
        return;
    held = 0;
    pthread_mutex_lock(&queue.lock);
    if (queue.head)
        announce();
    else /* Python has come by itself */
        pthread_mutex_unlock(&queue.lock);
}

void queue_hold(int on)
{
    holding = on;
    queue_flush();
}

void queue_open(uint32_t droppable_limit, uint32_t outcome_limit)
{
    pthread_once(&once, condition_init);
    queue_close();
    pthread_mutex_lock(&queue.lock);
    queue.droppable_limit = droppable_limit;
    queue.outcome_limit = outcome_limit;
    queue.seq = queue.taken = queue.merged = 0;
    memset(queue.dropped, 0, sizeof queue.dropped);
    memset(queue.reported, 0, sizeof queue.reported);
    pthread_mutex_unlock(&queue.lock);
}

void queue_close(void)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.head) {
        event_node *next = queue.head->next;
        free(queue.head);
        queue.head = next;
    }
    queue.tail = &queue.head;
    queue.droppable = queue.outcomes = 0;
    fd_clear();
    if (queue.fd_read >= 0) {
        close(queue.fd_read);
        if (queue.fd_write != queue.fd_read)
            close(queue.fd_write);
        queue.fd_read = queue.fd_write = -1;
    }
    queue.fd_used = queue.fd_signalled = 0;
    pthread_mutex_unlock(&queue.lock);
}

/* Locked.  The drop report goes in just before the next record that has
   room, so it stands where the gap is. */
static void append(event_node *node)
{
    node->next = NULL;
    node->previous = queue.tail;
    node->event.seq = ++queue.seq;
    *queue.tail = node;
    queue.tail = &node->next;
    if (is_droppable(&node->event))
        queue.droppable += node->event.size;
    else
        queue.outcomes += node->event.size;
}

static void unlink_node(event_node *node)
{
    *node->previous = node->next;
    if (node->next)
        node->next->previous = node->previous;
    else
        queue.tail = node->previous;
    if (node->owner)
        node->owner->queued = NULL;
    if (is_droppable(&node->event))
        queue.droppable -= node->event.size;
    else
        queue.outcomes -= node->event.size;
    free(node);
}

static void report_drops(void)
{
    event_node *node;

    if (queue.dropped[0] == queue.reported[0] &&
        queue.dropped[1] == queue.reported[1])
        return;
    node = calloc(1, sizeof *node);
    if (!node)
        return;
    node->event.size = sizeof node->event;
    node->event.kind = PJPY_EV_DROPPED;
    node->event.monotonic_ns = clock_monotonic_ns();
    node->event.wall_ns = clock_wall_ns();
    for (int i = 0; i < 2; i++) {
        node->event.value[i] = (int32_t)(queue.dropped[i] - queue.reported[i]);
        queue.reported[i] = queue.dropped[i];
    }
    append(node);
}

void queue_push(pjpy_event *event, const event_text text[4], client *owner)
{
    int droppable = is_droppable(event);
    size_t size = sizeof *event;
    event_node *node;
    char *p;

    for (int i = 0; i < 4; i++) {
        event->length[i] = text ? (uint32_t)text[i].length : 0;
        size += event->length[i];
    }
    size = (size + 7) & ~(size_t)7;
    event->size = (uint32_t)size;
    event->monotonic_ns = clock_monotonic_ns();
    event->wall_ns = clock_wall_ns();

    pthread_mutex_lock(&queue.lock);
    if (droppable && queue.droppable + size > queue.droppable_limit)
        goto drop;
    node = malloc(offsetof(event_node, event) + size);
    if (!node)
        goto drop;
    node->owner = NULL;
    node->event = *event;
    p = (char *)(&node->event + 1);
    for (int i = 0; i < 4; i++) {
        if (event->length[i])
            memcpy(p, text[i].ptr, event->length[i]);
        p += event->length[i];
    }
    report_drops();
    if (owner) {
        if (owner->queued && queue.outcomes > queue.outcome_limit) {
            node->event.value[3] = owner->queued->event.value[3] + 1;
            unlink_node(owner->queued);
            queue.merged++;
        } else if (owner->queued) {
            owner->queued->owner = NULL;
        }
        owner->queued = node;
        node->owner = owner;
    }
    append(node);
    if (!holding) {
        announce();
        return;
    }
    held = 1;
    pthread_mutex_unlock(&queue.lock);
    return;
drop:
    queue.dropped[event->kind == PJPY_EV_LOG]++;
    pthread_mutex_unlock(&queue.lock);
}

void queue_drop_log(void)
{
    pthread_mutex_lock(&queue.lock);
    queue.dropped[1]++;
    pthread_mutex_unlock(&queue.lock);
}

void queue_forget(client *owner)
{
    pthread_mutex_lock(&queue.lock);
    if (owner->queued)
        owner->queued->owner = NULL;
    owner->queued = NULL;
    pthread_mutex_unlock(&queue.lock);
}

void queue_stats(pjpy_stats *stats)
{
    pthread_mutex_lock(&queue.lock);
    stats->events_queued = queue.seq;
    stats->events_taken = queue.taken;
    stats->outcomes_merged = queue.merged;
    stats->dropped_trace = queue.dropped[0];
    stats->dropped_log = queue.dropped[1];
    pthread_mutex_unlock(&queue.lock);
}

void queue_fork(int locked)
{
    if (locked)
        pthread_mutex_lock(&queue.lock);
    else
        pthread_mutex_unlock(&queue.lock);
}

/* --------------------------------------------------------------- Python */

void pjpy_take(void *buffer, size_t size, int timeout_ms, long *taken)
{
    char *out = buffer;
    long copied = 0;

    pthread_once(&once, condition_init);
    pthread_mutex_lock(&queue.lock);
    if (!queue.head && timeout_ms > 0) {
        unsigned interrupts = queue.interrupts;
        struct timespec until;
        deadline_in(&until, timeout_ms);
        queue.waiters++;
        while (!queue.head && queue.interrupts == interrupts &&
               pthread_cond_timedwait(&queue.arrived, &queue.lock, &until) !=
                   ETIMEDOUT)
            ;
        queue.waiters--;
    }
    report_drops();
    while (queue.head) {
        event_node *node = queue.head;
        size_t length = node->event.size;

        if ((size_t)copied + length > size) {
            if (copied == 0)
                copied = -(long)length;
            break;
        }
        memcpy(out + copied, &node->event, length);
        copied += (long)length;
        queue.taken++;
        unlink_node(node);
    }
    *taken = copied;
    if (!queue.head)
        fd_clear();
    pthread_mutex_unlock(&queue.lock);
}

int pjpy_event_fd(void)
{
    int fd;

    pthread_mutex_lock(&queue.lock);
    if (fd_open() == 0) {
        queue.fd_used = 1;
        if (queue.head)
            fd_signal();
    }
    fd = queue.fd_read;
    pthread_mutex_unlock(&queue.lock);
    return fd < 0 ? PJPY_EPLATFORM : fd;
}

void pjpy_interrupt(void)
{
    pthread_once(&once, condition_init);
    pthread_mutex_lock(&queue.lock);
    queue.interrupts++;
    pthread_cond_broadcast(&queue.arrived);
    pthread_mutex_unlock(&queue.lock);
}
