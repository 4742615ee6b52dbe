/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The module next to the wire: trace records, the watch over outgoing
 * REGISTERs, and PJSIP's log.
 * Secrets are blotted out in the copy, before it leaves C.
 */
#include <string.h>
#include <strings.h>
#include <time.h>

#include "internal.h"

/* ---------------------------------------------------------- redaction */

static int in(const char *set, char c)
{
    return c && strchr(set, c);
}

static int is_name(const char *p, size_t length, const char *name)
{
    return length == strlen(name) && strncasecmp(p, name, length) == 0;
}

/* Parameters of a Digest value that give nothing away; all others might. */
static int is_public(const char *p, size_t length)
{
    static const char *const names[] = { "username",  "realm",  "nonce",
                                         "nextnonce", "uri",    "algorithm",
                                         "opaque",    "qop",    "nc",
                                         "stale",     "domain", NULL };
    for (int i = 0; names[i]; i++)
        if (is_name(p, length, names[i]))
            return 1;
    return 0;
}

static void blot(char *p, const char *end)
{
    for (; p < end; p++)
        if (*p != '\r' && *p != '\n' && *p != ' ' && *p != '\t')
            *p = '*';
}

/* p..end: a header's value, folded lines included. */
static void redact_value(char *p, char *end, int scheme)
{
    while (p < end && in(" \t\r\n", *p))
        p++;
    if (scheme) {
        char *word = p;
        while (p < end && !in(" \t\r\n,=", *p))
            p++;
        if (!is_name(word, (size_t)(p - word), "Digest")) {
            /* Bearer and Basic: all that follows.  Anything else may be the
               secret itself, without a scheme. */
            if (!is_name(word, (size_t)(p - word), "Bearer") &&
                !is_name(word, (size_t)(p - word), "Basic"))
                p = word;
            blot(p, end);
            return;
        }
    }
    while (p < end) {
        char *name, *value;
        size_t length;

        while (p < end && in(" \t\r\n,", *p))
            p++;
        name = p;
        while (p < end && !in(" \t\r\n,=", *p))
            p++;
        length = (size_t)(p - name);
        while (p < end && in(" \t\r\n", *p))
            p++;
        if (p == end || *p != '=') {
            blot(name, end); /* not name=value: trust nothing after it */
            return;
        }
        for (p++; p < end && in(" \t\r\n", *p); p++)
            ;
        value = p;
        if (p < end && *p == '"') {
            for (p++; p < end && *p != '"'; p++)
                if (*p == '\\' && p + 1 < end)
                    p++;
            if (p < end)
                p++;
            if (!is_public(name, length) && p - value >= 2)
                blot(value + 1, p - 1);
        } else {
            while (p < end && !in(" \t\r\n;,", *p))
                p++;
            if (!is_public(name, length))
                blot(value, p);
        }
    }
}

/* What an echo, or a log line, may hold outside of its header. */
static void redact_strays(char *p, char *end)
{
    static const char *const names[] = { "response", "rspauth", "cnonce" };
    char *start = p;

    while ((p = memchr(p, '=', (size_t)(end - p)))) {
        char *name_end = p, *value = ++p;

        while (name_end > start && in(" \t", name_end[-1]))
            name_end--;
        for (int i = 0; i < 3; i++) {
            size_t length = strlen(names[i]);

            if ((size_t)(name_end - start) < length ||
                strncasecmp(name_end - length, names[i], length) != 0)
                continue;
            while (value < end && in(" \t\"", *value))
                value++;
            for (p = value; p < end && !in(" \t\r\n;,\"", *p); p++)
                ;
            blot(value, p);
            break;
        }
    }
}

/* Blots out, in place and without a change of length, what proves knowledge
   of a secret.  Works on any text: lines that are not headers stay. */
size_t pjpy_redact(char *message, size_t length)
{
    char *p = message, *end = message + length;

    while (p < end) {
        char *line = p, *colon, *stop;
        size_t name;
        int scheme;

        for (stop = line; stop < end && *stop != '\r' && *stop != '\n'; stop++)
            ;
        colon = memchr(line, ':', (size_t)(stop - line));
        p = stop < end ? stop + 1 : end;
        if (!colon)
            continue;
        while (line < colon && (*line == ' ' || *line == '\t'))
            line++;
        for (name = (size_t)(colon - line); name && in(" \t", line[name - 1]);
             name--)
            ;
        scheme = is_name(line, name, "Authorization") ||
                 is_name(line, name, "Proxy-Authorization");
        if (!scheme && !is_name(line, name, "Authentication-Info") &&
            !is_name(line, name, "Proxy-Authentication-Info"))
            continue;
        if (stop < end && *stop == '\r' && p < end && *p == '\n')
            p++;
        while (p < end && (*p == ' ' || *p == '\t')) { /* folded */
            while (p < end && *p++ != '\n')
                ;
        }
        redact_value(colon + 1, p, scheme);
    }
    redact_strays(message, end);
    return length;
}

/* ---------------------------------------------------------------- log */

/* What anybody's packet or handshake can put into the log, as often as he
   likes: a full log serves nobody. */
#define LOG_RATE  100 /* a second */
#define LOG_BURST 1000

/* By who says it. */
static int is_of_strangers(const char *text, int length)
{
    static const char *const senders[] = { "sip_transport.c ",
                                           "sip_endpoint.c ", "sip_parser.c ",
                                           "SSL " };
    static const char accepting[] = " in accepting ";

    while (length > 0 && *text == ' ') {
        text++;
        length--;
    }
    for (size_t i = 0; i < sizeof senders / sizeof *senders; i++)
        if ((size_t)length >= strlen(senders[i]) &&
            memcmp(text, senders[i], strlen(senders[i])) == 0)
            return 1;
    return memmem(text, (size_t)length, accepting, sizeof accepting - 1) !=
           NULL;
}

static int log_is_full(int level, const char *text, int length)
{
    static struct timespec last;
    static double left = LOG_BURST;
    struct timespec now;

    if (level > 3 || !is_of_strangers(text, length)) /* 4, 5: for debugging */
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &now); /* never the virtual one */
    left += ((double)(now.tv_sec - last.tv_sec) +
             1e-9 * (double)(now.tv_nsec - last.tv_nsec)) *
            LOG_RATE;
    last = now;
    if (left > LOG_BURST)
        left = LOG_BURST;
    if (left < 1)
        return 1;
    left -= 1;
    return 0;
}

void trace_log(int level, const char *text, int length)
{
    char copy[PJ_LOG_MAX_SIZE];
    pjpy_event event = { .kind = PJPY_EV_LOG };
    event_text strings[4] = { { copy, 0 } };

    if (log_is_full(level, text, length)) {
        queue_drop_log();
        return;
    }
    while (length > 0 && in("\r\n", text[length - 1]))
        length--;
    if (length > (int)sizeof copy)
        length = sizeof copy;
    memcpy(copy, text, (size_t)length);
    strings[0].length = pjpy_redact(copy, (size_t)length);
    event.value[0] = level;
    queue_push(&event, strings, NULL);
}

/* -------------------------------------------------------------- trace */

static void push_message(int flags, pjsip_transport *tp, const char *message,
                         size_t length, const char *remote, int port)
{
    char copy[PJSIP_MAX_PKT_LEN], local[PJ_INET6_ADDRSTRLEN + 10];
    char peer[PJ_INET6_ADDRSTRLEN + 10];
    pj_str_t host = pj_str((char *)remote);
    pjpy_event event = { .kind = PJPY_EV_MESSAGE,
                         .flags = (uint16_t)flags,
                         .value = { transport_protocol(tp) } };
    event_text strings[4] = { { 0 } };

    if (length > sizeof copy)
        length = sizeof copy;
    memcpy(copy, message, length);
    pjpy_redact(copy, length);
    pj_sockaddr_print(&tp->local_addr, local, sizeof local, 3);
    pj_addr_str_print(&host, port, peer, sizeof peer, 1);
    strings[0] = (event_text){ local, strlen(local) };
    strings[1] = (event_text){ peer, strlen(peer) };
    strings[2] = (event_text){ copy, length };
    queue_push(&event, strings, NULL);
}

static int tracing(void)
{
    return __atomic_load_n(&pjpy.trace, __ATOMIC_RELAXED);
}

static pj_bool_t on_rx(pjsip_rx_data *rdata)
{
    pjpy.received++;
    transport_heard(rdata->tp_info.transport);
    if (tracing())
        push_message(0, rdata->tp_info.transport, rdata->msg_info.msg_buf,
                     (size_t)rdata->msg_info.len, rdata->pkt_info.src_name,
                     rdata->pkt_info.src_port);
    return PJ_FALSE;
}

static pj_status_t on_tx(pjsip_tx_data *tdata)
{
    if (tdata->msg->type == PJSIP_REQUEST_MSG &&
        tdata->msg->line.req.method.id == PJSIP_REGISTER_METHOD) {
        pj_status_t status = client_on_tx(tdata);
        if (status != PJ_SUCCESS)
            return status; /* it does not go out */
    }
    pjpy.sent++;
    if (tracing())
        push_message(PJPY_F_OUTGOING, tdata->tp_info.transport,
                     tdata->buf.start,
                     (size_t)(tdata->buf.cur - tdata->buf.start),
                     tdata->tp_info.dst_name, tdata->tp_info.dst_port);
    return PJ_SUCCESS;
}

static void name_module(pjsip_module *module, char *name, int priority)
{
    pj_bzero(module, sizeof *module);
    module->name = pj_str(name);
    module->id = -1;
    module->priority = priority;
}

/* ------------------------------------------------------------- modules */

/* Before traffic: PJSIP sleeps when a module comes later. */
pj_status_t trace_open(void)
{
    pj_status_t status;

    name_module(&pjpy.watch, "mod-pjsip-py-watch",
                PJSIP_MOD_PRIORITY_TRANSPORT_LAYER - 1);
    pjpy.watch.on_rx_request = on_rx;
    pjpy.watch.on_rx_response = on_rx;
    pjpy.watch.on_tx_request = on_tx;
    pjpy.watch.on_tx_response = on_tx;
    status = pjsip_endpt_register_module(pjpy.endpoint, &pjpy.watch);
    if (status != PJ_SUCCESS)
        return status;
    answer_open();
    name_module(&pjpy.answer, "mod-pjsip-py-answer",
                PJSIP_MOD_PRIORITY_APPLICATION + 64);
    pjpy.answer.on_rx_request = answer_request;
    pjpy.answer.on_tx_request = auth_on_tx; /* before it is printed */
    return pjsip_endpt_register_module(pjpy.endpoint, &pjpy.answer);
}
