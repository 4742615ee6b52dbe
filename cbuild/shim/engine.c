/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The engine: one worker thread that owns PJSIP from pj_init() to
 * pj_shutdown(), and the command queue through which everybody else speaks
 * to it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"
#include "tls.h"

engine pjpy;

/* Commands run between two polls of the network; a long row of them must not
   let the sockets' buffers run over. */
#define COMMANDS_PER_TURN 64

/* Timers that come close one after the other share one waking of the worker;
   one that comes alone is not late. */
#define TIMER_GRAIN_NS 20000000

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* of state, or a sync call's answer */
    enum { CLOSED, STARTING, RUNNING, STOPPING, STOPPED } state;
    int forked;
    pthread_t thread;
    pj_status_t start_status;
    pjpy_config config;
    char user_agent[256];
    command *head, **tail;
    command *taken;             /* by the worker, and not yet run */
    int sleeping;
    uint64_t commands, wakeups;
    int wake_read, wake_write;
    pj_ioqueue_key_t *wake_key;
    pj_ioqueue_op_key_t wake_op;
    char wake_buffer[64];
} control = { .lock = SPINNING_MUTEX, .tail = &control.head };

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* PJSIP is not fork-safe: the child shares the parent's epoll set and has no
   worker.  It gets an error from every call and touches nothing.  The locks
   are held over the fork, in the order in which the code nests them, so that
   the child never finds one locked by a thread that it does not have. */
static void before_fork(void)
{
    pthread_mutex_lock(&control.lock);
    queue_fork(1);
    handle_fork(1);
}

static void after_fork(void)
{
    handle_fork(0);
    queue_fork(0);
    pthread_mutex_unlock(&control.lock);
}

static void after_fork_in_child(void)
{
    control.forked = control.state != CLOSED;
    after_fork();
}

static void on_first_start(void)
{
    condition_open(&control.changed);
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

/* ----------------------------------------------------------- commands */

command *command_new(int kind, const char *text, size_t length)
{
    command *cmd = malloc(sizeof *cmd + length + 1);

    if (!cmd)
        return NULL;
    memset(cmd, 0, sizeof *cmd);
    cmd->kind = kind;
    cmd->length = length;
    if (length)
        memcpy(cmd->text, text, length);
    cmd->text[length] = '\0';
    return cmd;
}

/* Its text may hold a password. */
void command_free(command *cmd)
{
    wipe(cmd->text, cmd->length);
    free(cmd);
}

/* Locked. */
static int enqueue(command *cmd)
{
    int status = control.forked             ? PJPY_EFORKED
                 : control.state != RUNNING ? PJPY_ECLOSED
                                            : 0;
    if (status)
        return status;
    cmd->next = NULL;
    *control.tail = cmd;
    control.tail = &cmd->next;
    control.commands++;
    if (control.sleeping) {
        control.sleeping = 0;
        control.wakeups++;
        /* The worker drains the socket; when it is full, it is awake. */
        while (send(control.wake_write, "", 1, MSG_DONTWAIT) < 0 &&
               errno == EINTR)
            ;
    }
    return 0;
}

/* Owns cmd from here on, whatever it returns. */
int command_post(command *cmd)
{
    int status;

    if (!cmd)
        return PJPY_ENOMEM;
    pthread_mutex_lock(&control.lock);
    status = enqueue(cmd);
    pthread_mutex_unlock(&control.lock);
    if (status)
        command_free(cmd);
    return status;
}

int command_call(command *cmd, void *in, void *out)
{
    sync_call call = { 0, PJPY_ECLOSED, in, out };
    int status;

    if (!cmd)
        return PJPY_ENOMEM;
    cmd->sync = &call;
    pthread_mutex_lock(&control.lock);
    status = enqueue(cmd);
    if (status) {
        pthread_mutex_unlock(&control.lock);
        free(cmd);
        return status;
    }
    while (!call.done)
        pthread_cond_wait(&control.changed, &control.lock);
    pthread_mutex_unlock(&control.lock);
    return call.status;
}

int engine_while_running(int (*work)(void *argument), void *argument)
{
    int status;

    pthread_mutex_lock(&control.lock);
    status = control.forked             ? PJPY_EFORKED
             : control.state != RUNNING ? PJPY_ECLOSED
                                        : work(argument);
    pthread_mutex_unlock(&control.lock);
    return status;
}

static void answer(sync_call *call, int status)
{
    pthread_mutex_lock(&control.lock);
    call->status = status;
    call->done = 1;
    pthread_cond_broadcast(&control.changed);
    pthread_mutex_unlock(&control.lock);
}

/* Taken from the queue all at once: a lock for each would be waited for. */
static command *next_command(void)
{
    command *cmd;

    if (!control.taken) {
        pthread_mutex_lock(&control.lock);
        control.taken = control.head;
        control.head = NULL;
        control.tail = &control.head;
        pthread_mutex_unlock(&control.lock);
    }
    cmd = control.taken;
    if (cmd)
        control.taken = cmd->next;
    return cmd;
}

/* After each look at the network or the timers. */
static void settle(void)
{
    transport_let_go();
    client_run_ready();
    transport_forget_ended();
}

/* Waits for the first packet; how many there were. */
static int poll_network(pj_time_val *timeout)
{
    int n, events = 0;

    do {
        n = pj_ioqueue_poll(pjsip_endpt_get_ioqueue(pjpy.endpoint), timeout);
        timeout->sec = timeout->msec = 0;
        events += n > 0 ? n : 0;
    } while (n > 0 && events < PJSIP_MAX_NET_EVENTS);
    pjpy.worked += (unsigned)events;
    return events;
}

static int fill_stats(pjpy_stats *stats)
{
    queue_stats(stats);
    stats->late_events = pjpy.late_events;
    stats->assertions = assertion_count();
    pthread_mutex_lock(&control.lock);
    stats->commands = control.commands;
    stats->wakeups = control.wakeups;
    pthread_mutex_unlock(&control.lock);
    stats->clients = handle_count(OBJ_CLIENT);
    stats->transports = handle_count(OBJ_TRANSPORT);
    stats->connections = (uint32_t)pjpy.connections.used;
    stats->resolving = (uint32_t)pjpy.queries.used;
    stats->tls_contexts = tls_context_count();
    stats->pools = pjpy.pools.used_count;
    stats->retransmissions = pjpy.retransmissions;
    return 0;
}

static int strerror_of(command *cmd, char *out)
{
    pj_str_t text = pj_strerror((pj_status_t)cmd->what, out, cmd->count);

    out[text.slen < (pj_ssize_t)cmd->count ? text.slen : cmd->count - 1] = 0;
    return 0;
}

static uint32_t in_flight;

static void count_in_flight(void *object)
{
    const client *c = object;

    in_flight += c->current != NULL || c->renewing;
}

/* All that can be done while the clock stands. */
static int clock_turn(const int64_t *now, pjpy_turn *out)
{
    pj_timer_heap_t *heap = pjsip_endpt_get_timer_heap(pjpy.endpoint);
    pj_time_val none = { 0, 0 }, next, tick;
    pjpy_stats stats;
    int n, left = 100000; /* a socket that is always ready ends it, too */

    if (!clock_is_virtual())
        return PJPY_EINVAL;
    clock_set(*now);
    do {
        client_run_ready();
        n = (int)pj_timer_heap_poll(heap, NULL);
        pjpy.worked += (unsigned)n;
        n += poll_network(&none);
        settle();
    } while (n > 0 && --left > 0);

    queue_stats(&stats);
    *out = (pjpy_turn){ .next_ns = -1,
                        .worked = pjpy.worked,
                        .sent = pjpy.sent,
                        .received = pjpy.received,
                        .events = stats.events_queued,
                        .posted = stats.events_queued + pjpy.commands };
    if (pj_timer_heap_count(heap) > 0) {
        pj_timer_heap_earliest_time(heap, &next);
        pj_gettickcount(&tick);
        PJ_TIME_VAL_SUB(next, tick);
        out->next_ns = *now + (int64_t)PJ_TIME_VAL_MSEC(next) * 1000000;
    }
    in_flight = 0;
    handle_each(OBJ_CLIENT, count_in_flight);
    out->in_flight = in_flight;
    return 0;
}

static void run(command *cmd)
{
    sync_call *call = cmd->sync;
    int status = PJPY_EINVAL, keep = 0;

    pjpy.commands++;
    /* Not who only asks. */
    pjpy.worked += cmd->kind < CMD_STRERROR && cmd->kind != CMD_CLIENT_INFO;
    switch (cmd->kind) {
    case CMD_CLIENT_REQUEST:
        keep = 1; /* it becomes the client's */
        /* fall through */
    case CMD_CLIENT_CANCEL:
    case CMD_CLIENT_DESTROY:
    case CMD_CLIENT_ANSWER:
    case CMD_CLIENT_INFO: status = client_command(cmd); break;
    case CMD_LISTEN:
    case CMD_TRANSPORT_CLOSE:
    case CMD_RESOLVED:
    case CMD_PING:
    case CMD_CONNECTION_CLOSE:
    case CMD_TLS_RELOAD: status = transport_command(cmd); break;
    case CMD_TIMER:
    case CMD_TIMER_CANCEL: status = alarm_command(cmd); break;
    case CMD_STRERROR: status = strerror_of(cmd, call->out); break;
    case CMD_STATS: status = fill_stats(call->out); break;
    case CMD_CLOCK_TURN: status = clock_turn(call->in, call->out); break;
    }
    if (!keep)
        free(cmd);
    if (call)
        answer(call, status);
}

/* ------------------------------------------------------------- worker */

static void on_wake(pj_ioqueue_key_t *key, pj_ioqueue_op_key_t *op,
                    pj_ssize_t bytes)
{
    pj_ssize_t size = sizeof control.wake_buffer;

    PJ_UNUSED_ARG(bytes);
    /* Reads until the socket is empty, then waits in the ioqueue again. */
    while (pj_ioqueue_recv(key, op, control.wake_buffer, &size, 0) ==
           PJ_SUCCESS) {
        if (size <= 0)
            break;
        size = sizeof control.wake_buffer;
    }
}

static pj_status_t wake_open(void)
{
    pj_ioqueue_callback callback;
    int fds[2];
    pj_status_t status;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
        return PJ_RETURN_OS_ERROR(errno);
    control.wake_read = fds[0];
    control.wake_write = fds[1];
    if (clock_is_virtual())
        return PJ_SUCCESS; /* wait_for_commands() reads it */
    pj_bzero(&callback, sizeof callback);
    callback.on_read_complete = on_wake;
    status = pj_ioqueue_register_sock(
        pjpy.pool, pjsip_endpt_get_ioqueue(pjpy.endpoint), control.wake_read,
        NULL, &callback, &control.wake_key);
    if (status != PJ_SUCCESS)
        return status;
    pj_ioqueue_op_key_init(&control.wake_op, sizeof control.wake_op);
    on_wake(control.wake_key, &control.wake_op, 0);
    return PJ_SUCCESS;
}

static void wake_close(void)
{
    if (control.wake_key)
        pj_ioqueue_unregister(control.wake_key); /* closes its socket */
    else if (control.wake_read >= 0)
        close(control.wake_read);
    if (control.wake_write >= 0)
        close(control.wake_write);
    control.wake_key = NULL;
    control.wake_read = control.wake_write = -1;
}

/* The first of the two ways there will be to make an endpoint; the second
   goes through pjsua-lib, which cannot adopt one that exists. */
static pj_status_t create_endpoint(const pjpy_config *config)
{
    pjsip_cfg_t *sip = pjsip_cfg();
    pj_status_t status;

    sip->tsx.t1 = config->t1_ms;
    sip->tsx.t2 = config->t2_ms;
    sip->tsx.t4 = config->t4_ms;
    sip->tsx.td = config->td_ms;
    /* Sizes the hash of transactions, which live on for T4: with the default
       of 1023 a burst spends a quarter of its time in the buckets' lists. */
    sip->tsx.max_count = 65535;
    sip->regc.check_contact = PJ_TRUE;
    sip->regc.add_xuid_param = PJ_FALSE;
    status = pjsip_endpt_create(&pjpy.pools.factory, "pjsip_py",
                                &pjpy.endpoint);
    if (status == PJ_SUCCESS)
        status = pjsip_tsx_layer_init_module(pjpy.endpoint);
    if (status == PJ_SUCCESS)
        pjsip_tsx_set_timers(config->t1_ms, config->t2_ms, config->t4_ms,
                             config->td_ms);
    return status;
}

static void add_user_agent(const char *text)
{
    static const pj_str_t name = { "User-Agent", 10 };
    pj_str_t value = pj_str((char *)text);
    pjsip_hdr *headers = (pjsip_hdr *)pjsip_endpt_get_request_headers(
        pjpy.endpoint);

    if (value.slen)
        pj_list_push_back(
            headers, pjsip_generic_string_hdr_create(pjpy.pool, &name, &value));
}

/* Says so in every request: without it a registrar may refuse what came
   through a proxy that added itself to the Path (RFC 3327, 5.1). */
static void add_supported(void)
{
    static const pj_str_t name = { "Supported", 9 }, value = { "path", 4 };
    pjsip_hdr *headers = (pjsip_hdr *)pjsip_endpt_get_request_headers(
        pjpy.endpoint);

    pj_list_push_back(
        headers, pjsip_generic_string_hdr_create(pjpy.pool, &name, &value));
}

static pj_status_t worker_open(void)
{
    const pjpy_config *config = &control.config;
    pj_status_t status;

    pjpy.trace = (int)config->trace;
    entropy_open((int)config->seeded, config->seed);
    /* Before pj_init(), or its first lines go to standard output. */
    pj_log_set_log_func(trace_log);
    pj_log_set_decor(PJ_LOG_HAS_SENDER);
    pj_log_set_level((int)config->log_level);
    status = pj_init();
    if (status != PJ_SUCCESS)
        return status;
    status = pjlib_util_init();
    if (status != PJ_SUCCESS)
        return status;
    pj_caching_pool_init(&pjpy.pools, &block_policy, 16 * 1024 * 1024);
    status = create_endpoint(config);
    if (status != PJ_SUCCESS)
        return status;
    pjpy.pool = pjsip_endpt_create_pool(pjpy.endpoint, "pjsip_py", 4000, 4000);
    add_user_agent(control.user_agent);
    add_supported();
    status = trace_open();
    if (status == PJ_SUCCESS)
        status = transport_open();
    if (status == PJ_SUCCESS)
        status = wake_open();
    return status;
}

static void worker_close(void)
{
    if (pjpy.endpoint) {
        client_free_all();
        alarm_free_all();
        transport_free_all();
        wake_close();
        pjsip_endpt_release_pool(pjpy.endpoint, pjpy.pool);
        pjsip_endpt_destroy(pjpy.endpoint);
        pj_caching_pool_destroy(&pjpy.pools);
        blocks_close();
    }
    tls_free_all();
    map_clear(&pjpy.listeners);
    map_clear(&pjpy.connections);
    map_clear(&pjpy.calls);
    pj_shutdown();
    memset(&pjpy, 0, sizeof pjpy);
}

/* What pjsip_endpt_handle_events2() does, with a look between timers and
   network: a client that a timer made ready must not wait for the network. */
static void poll_pjsip(void)
{
    static int64_t last_timer;
    pj_time_val next = { 0, 0 }, timeout = { 0, 0 };
    int64_t now;
    int n;

    n = (int)pj_timer_heap_poll(pjsip_endpt_get_timer_heap(pjpy.endpoint),
                                &next);
    now = clock_monotonic_ns();
    if (n > 0)
        last_timer = now;
    if (next.sec == 0 &&
        next.msec * 1000000 < last_timer + TIMER_GRAIN_NS - now)
        next.msec = (long)((last_timer + TIMER_GRAIN_NS - now) / 1000000) + 1;

    pthread_mutex_lock(&control.lock);
    control.sleeping = !control.head && !control.taken && !pjpy.ready &&
                       control.state == RUNNING;
    if (control.sleeping) {
        timeout.sec = control.config.tick_ms / 1000;
        timeout.msec = control.config.tick_ms % 1000;
        if (PJ_TIME_VAL_LT(next, timeout))
            timeout = next;
    }
    pthread_mutex_unlock(&control.lock);
    if (timeout.sec || timeout.msec)
        queue_flush();
    poll_network(&timeout);
    pthread_mutex_lock(&control.lock);
    control.sleeping = 0;
    pthread_mutex_unlock(&control.lock);
}

/* In virtual time sockets and timers wait for clock_turn(). */
static void wait_for_commands(void)
{
    struct pollfd wake = { .fd = control.wake_read, .events = POLLIN };
    int sleeping;

    queue_flush();
    pthread_mutex_lock(&control.lock);
    sleeping = control.sleeping = !control.head && !control.taken &&
                                  control.state == RUNNING;
    pthread_mutex_unlock(&control.lock);
    if (sleeping)
        poll(&wake, 1, (int)control.config.tick_ms);
    while (recv(control.wake_read, control.wake_buffer,
                sizeof control.wake_buffer, MSG_DONTWAIT) > 0)
        ;
    pthread_mutex_lock(&control.lock);
    control.sleeping = 0;
    pthread_mutex_unlock(&control.lock);
}

static void worker_turn(void)
{
    command *cmd;
    int n;

    for (n = 0; n < COMMANDS_PER_TURN && (cmd = next_command()); n++) {
        run(cmd);
        if (clock_is_virtual()) /* in one order, however many come at a time */
            client_run_ready();
    }
    client_run_ready();
    if (clock_is_virtual())
        wait_for_commands();
    else
        poll_pjsip();
    settle();
    queue_flush();
}

static void set_state(int state)
{
    pthread_mutex_lock(&control.lock);
    control.state = state;
    pthread_cond_broadcast(&control.changed);
    pthread_mutex_unlock(&control.lock);
}

static void *worker_main(void *unused)
{
    command *cmd;

#if defined(__linux__)
    pthread_setname_np(pthread_self(), "pjsip_py-worker"); /* 15 at most */
#endif
    control.start_status = worker_open();
    if (control.start_status == PJ_SUCCESS) {
        int state = RUNNING;
        set_state(RUNNING);
        queue_hold(1);
        while (state == RUNNING) {
            worker_turn();
            pthread_mutex_lock(&control.lock);
            state = control.state;
            pthread_mutex_unlock(&control.lock);
        }
        /* What was posted before the stop still runs: its poster may wait. */
        while ((cmd = next_command()))
            run(cmd);
        client_run_ready();
        queue_hold(0);
    }
    worker_close();
    set_state(STOPPED);
    return unused;
}

/* -------------------------------------------------------- from Python */

int pjpy_start(const pjpy_config *config)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int status;

    pthread_once(&once, on_first_start);
    pthread_mutex_lock(&control.lock);
    if (control.state == STOPPED && !control.forked) {
        pthread_join(control.thread, NULL); /* pjpy_stop() gave up on it */
        control.state = CLOSED;
    }
    if (control.forked || control.state != CLOSED) {
        status = control.forked ? PJPY_EFORKED : PJPY_EBUSY;
        pthread_mutex_unlock(&control.lock);
        return status;
    }
    control.config = *config;
    snprintf(control.user_agent, sizeof control.user_agent, "%s",
             config->user_agent);
    clock_open((int)config->virtual_clock, config->monotonic_ns,
               config->wall_ns);
    control.commands = control.wakeups = 0;
    control.wake_read = control.wake_write = -1;
    control.state = STARTING;
    queue_open(config->droppable_limit, config->outcome_limit);

    /* Signals belong to Python's threads.  The stack holds several of
       PJSIP's packet-sized buffers; musl's default would not. */
    sigfillset(&all);
    for (int i = 0; i < 5; i++) /* a crash must not be silent */
        sigdelset(&all, (int[]){ SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT }[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 1024 * 1024);
    status = pthread_create(&control.thread, &attr, worker_main, NULL);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (status) {
        control.state = CLOSED;
        pthread_mutex_unlock(&control.lock);
        return PJ_RETURN_OS_ERROR(status);
    }
    while (control.state == STARTING)
        pthread_cond_wait(&control.changed, &control.lock);
    status = control.start_status;
    if (status != PJ_SUCCESS) {
        pthread_join(control.thread, NULL);
        control.state = CLOSED;
    }
    pthread_mutex_unlock(&control.lock);
    return status;
}

int pjpy_stop(int timeout_ms)
{
    struct timespec until;
    int status = 0;

    if (control.forked)
        return PJPY_EFORKED;
    pthread_once(&once, on_first_start);
    pthread_mutex_lock(&control.lock);
    if (control.state == RUNNING) {
        control.state = STOPPING;
        send(control.wake_write, "", 1, MSG_DONTWAIT);
    }
    deadline_in(&until, timeout_ms);
    while (control.state == STOPPING && status == 0)
        status = pthread_cond_timedwait(&control.changed, &control.lock,
                                        &until);
    if (control.state == STOPPED) {
        pthread_join(control.thread, NULL);
        control.state = CLOSED;
        pthread_cond_broadcast(&control.changed);
    }
    status = control.state == CLOSED ? 0 : PJPY_ETIMEDOUT;
    pthread_mutex_unlock(&control.lock);
    return status;
}

int pjpy_running(void)
{
    return control.forked ? PJPY_EFORKED : control.state == RUNNING;
}

int pjpy_set_trace(int on)
{
    if (pjpy_running() <= 0)
        return control.forked ? PJPY_EFORKED : PJPY_ECLOSED;
    __atomic_store_n(&pjpy.trace, on, __ATOMIC_RELAXED);
    return 0;
}

int pjpy_set_started(int on)
{
    if (pjpy_running() <= 0)
        return control.forked ? PJPY_EFORKED : PJPY_ECLOSED;
    __atomic_store_n(&pjpy.started, on, __ATOMIC_RELAXED);
    return 0;
}

int pjpy_get_stats(pjpy_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    return command_call(command_new(CMD_STATS, NULL, 0), NULL, stats);
}

int pjpy_clock_turn(int64_t now_ns, pjpy_turn *turn)
{
    memset(turn, 0, sizeof *turn);
    return command_call(command_new(CMD_CLOCK_TURN, NULL, 0), &now_ns, turn);
}

uint64_t pjpy_posted(void)
{
    pjpy_stats stats;
    uint64_t commands;

    pthread_mutex_lock(&control.lock);
    commands = control.commands;
    pthread_mutex_unlock(&control.lock);
    queue_stats(&stats);
    return stats.events_queued + commands;
}

/* PJSIP's own words; the tables are there while an engine runs. */
int pjpy_strerror(int status, char *buffer, size_t size)
{
    command *cmd = command_new(CMD_STRERROR, NULL, 0);

    if (cmd) {
        cmd->what = status;
        cmd->count = (uint32_t)size;
    }
    return command_call(cmd, NULL, buffer);
}
