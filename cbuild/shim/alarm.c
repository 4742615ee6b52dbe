/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Timers of the Python side, on PJSIP's timer heap: they keep one time with
 * the stack, and cost no thread.
 */
#include <stdlib.h>

#include "internal.h"

typedef struct alarm_clock {
    uint64_t request;
    pj_timer_entry timer;
} alarm_clock;

static void push(uint64_t request)
{
    pjpy_event event = { .kind = PJPY_EV_TIMER, .request = request };

    queue_push(&event, NULL, NULL);
}

static void on_timer(pj_timer_heap_t *heap, pj_timer_entry *entry)
{
    alarm_clock *a = entry->user_data;

    PJ_UNUSED_ARG(heap);
    push(a->request);
    map_remove(&pjpy.timers, a->request);
    free(a);
}

static int start(uint64_t request, uint32_t delay_ms)
{
    pj_time_val delay = { delay_ms / 1000, delay_ms % 1000 };
    alarm_clock *a = calloc(1, sizeof *a);

    if (!a || map_put(&pjpy.timers, request, a)) {
        free(a);
        push(request);          /* too early is better than never */
        return PJPY_ENOMEM;
    }
    a->request = request;
    pj_timer_entry_init(&a->timer, 0, a, on_timer);
    pjsip_endpt_schedule_timer(pjpy.endpoint, &a->timer, &delay);
    return 0;
}

static void stop(void *value)
{
    alarm_clock *a = value;

    pj_timer_heap_cancel_if_active(pjsip_endpt_get_timer_heap(pjpy.endpoint),
                                   &a->timer, 0);
    free(a);
}

int alarm_command(command *cmd)
{
    void *found;

    if (cmd->kind == CMD_TIMER)
        return start(cmd->request, cmd->timeout_ms);
    found = map_remove(&pjpy.timers, cmd->request);
    if (!found)
        return PJPY_ESTALE;
    stop(found);
    return 0;
}

void alarm_free_all(void)
{
    map_each(&pjpy.timers, stop);
    map_clear(&pjpy.timers);
}

/* -------------------------------------------------------- from Python */

static int push_now(void *request)
{
    push(*(uint64_t *)request);
    return 0;
}

int pjpy_call_later(uint64_t request, uint32_t delay_ms)
{
    command *cmd;

    if (delay_ms == 0)
        return engine_while_running(push_now, &request);
    cmd = command_new(CMD_TIMER, NULL, 0);
    if (cmd) {
        cmd->request = request;
        cmd->timeout_ms = delay_ms;
    }
    return command_post(cmd);
}

int pjpy_call_cancel(uint64_t request)
{
    command *cmd = command_new(CMD_TIMER_CANCEL, NULL, 0);

    if (cmd)
        cmd->request = request;
    return command_post(cmd);
}
