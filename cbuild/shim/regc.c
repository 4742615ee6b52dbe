/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A registration client: one pjsip_regc, its queue of requests, and the rule
 * that each request has exactly one outcome.
 *
 * regc allows one transaction at a time, and pjsip_regc_register() cancels
 * the refresh timer even when the send that follows says busy.  So nothing
 * is asked of regc until the transaction before is over.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define NO_EXPIRES PJSIP_REGC_EXPIRATION_NOT_SPECIFIED
#define A_DAY      86400

/* ------------------------------------------------------- ready clients */

static void make_ready(client *c)
{
    if (c->is_ready)
        return;
    c->is_ready = 1;
    c->ready_next = pjpy.ready;
    pjpy.ready = c;
}

static void unmake_ready(client *c)
{
    if (!c->is_ready)
        return;
    for (client **p = &pjpy.ready; *p; p = &(*p)->ready_next) {
        if (*p == c) {
            *p = c->ready_next;
            break;
        }
    }
    c->is_ready = 0;
}

/* ------------------------------------------------------------ outcomes */

static void forget_tsx(client *c)
{
    if (c->tsx)
        pj_grp_lock_dec_ref(c->tsx->grp_lock);
    c->tsx = NULL;
    c->transport = NULL;
}

/* Ends what is in flight, request or refresh, with this one event. */
static void finish(client *c, pjpy_event *event, const event_text text[4])
{
    command *request = c->current;

    event->kind = PJPY_EV_REG_STATE;
    event->handle = c->handle;
    event->value[1] = (int32_t)(c->algorithm | (unsigned)c->offered << 8);
    event->value[2] = c->connection;
    event->value[6] = (int32_t)c->min_expires;
    event->value[7] = (int32_t)c->requests;
    c->min_expires = c->requests = 0;
    if (c->timed_out)
        event->flags |= PJPY_F_TIMEOUT;
    if (c->cancelled)
        event->flags |= PJPY_F_CANCELLED;
    if (request) {
        event->request = request->request;
        if (request->what != PJPY_REGISTER)
            event->flags |= PJPY_F_UNREGISTER;
    } else {
        event->flags |= PJPY_F_RENEWAL;
    }
    pj_timer_heap_cancel_if_active(pjsip_endpt_get_timer_heap(pjpy.endpoint),
                                   &c->timer, 0);
    if (c->query) /* its transaction is over; nobody else asks */
        query_fail(c->query, PJ_ERESOLVE);
    forget_tsx(c);
    c->current = NULL;
    c->renewing = c->timed_out = c->cancelled = 0;
    c->offered = c->asked = c->asked_again = 0;
    c->auth_status = PJ_SUCCESS;
    c->stash.used = 0;
    queue_push(event, text, request ? NULL : c);
    free(request);
    make_ready(c);
}

static void finish_local(client *c, int code, pj_status_t status,
                         uint32_t verify_status, int flags)
{
    char message[PJ_ERR_MSG_SIZE];
    const pj_str_t *known = pjsip_get_status_text(code);
    pj_str_t reason = *known;
    event_text text[4] = { { 0 } };
    pjpy_event event = {
        .flags = (uint16_t)(PJPY_F_LOCAL | flags),
        .status = status,
        .code = code,
        .value = { -1, 0, 0, 0, (int32_t)verify_status, -1 },
    };

    if (status != PJ_SUCCESS)
        reason = pj_strerror(status, message, sizeof message);
    text[0] = (event_text){ reason.ptr, (size_t)reason.slen };
    finish(c, &event, text);
}

/* What the connection's own end has to say about the failure. */
static void stash_connection(client *c)
{
    const connection *conn = connection_with(c->transport, c->connection);

    if (!conn || c->stash.status == PJSIP_ESHUTDOWN) /* our own doing */
        return;
    c->stash.verify_status = conn->verify_status;
    c->stash.flags &= ~PJPY_F_HANDSHAKE;
    if (conn->secure && !conn->established)
        c->stash.flags |= PJPY_F_HANDSHAKE;
    if (conn->status != PJ_SUCCESS && c->stash.code != PJSIP_SC_REQUEST_TIMEOUT)
        c->stash.status = conn->status;
}

static void stash_failure(client *c, int code, pj_status_t status)
{
    if (!c->stash.used) {
        c->stash = (stash){ .used = 1, .code = code };
        if (c->tsx)
            c->stash.status = c->tsx->transport_err;
        if (code == PJSIP_SC_REQUEST_TIMEOUT)
            c->stash.status = PJ_ETIMEDOUT;
        stash_connection(c);
    }
    if (status != PJ_SUCCESS && c->stash.status == PJ_SUCCESS)
        c->stash.status = status;
    make_ready(c);
}

/* A refresh that is lost on the way needs time to be repeated: PJSIP's five
   seconds are too few for a long transaction, and too many for a short
   grant.  The refresh is scheduled already, and moves. */
static void set_margin(client *c, uint32_t granted)
{
    uint32_t margin = c->registration.refresh_margin;
    uint32_t asked = c->registration.expires, believed = A_DAY;

    if (granted == 0 || granted == NO_EXPIRES)
        return;
    if (asked != NO_EXPIRES && asked > believed)
        believed = asked;
    if (margin == UINT32_MAX) {
        margin = granted / 5;
        margin = margin < 5 ? 5 : margin > 32 ? 32 : margin;
    }
    if (granted > believed) /* nobody asked for a century */
        margin = granted - believed;
    if (margin >= granted) /* PJSIP would refresh all the time */
        margin = granted > 1 ? granted - 1 : 0;
    pjsip_regc_set_delay_before_refresh(c->regc, margin);
}

/* Our address, the one that the registrar sees (RFC 3581) and Flow-Timer
   (RFC 5626), with a space between and "-" for what there is not: accounts
   look at them each time, and need not read the whole response for it. */
static size_t print_addresses(char *out, size_t size, pjsip_rx_data *rdata)
{
    static const pj_str_t name = { "Flow-Timer", 10 };
    const pjsip_via_hdr *via = rdata->msg_info.via;
    const pjsip_generic_string_hdr *timer = pjsip_msg_find_hdr_by_name(
        rdata->msg_info.msg, &name, NULL);
    char local[PJ_INET6_ADDRSTRLEN + 10], seen[PJ_INET6_ADDRSTRLEN + 10] = "-";
    int n, port = via ? via->rport_param : 0;

    pj_sockaddr_print(&rdata->tp_info.transport->local_addr, local,
                      sizeof local, 3);
    if (via && via->recvd_param.slen > 0 &&
        via->recvd_param.slen < PJ_INET6_ADDRSTRLEN)
        pj_addr_str_print(&via->recvd_param, port > 0 ? port : 0, seen,
                          sizeof seen, 1);
    n = snprintf(out, size, "%s %s %lu", local, seen,
                 timer ? pj_strtoul(&timer->hvalue) : 0);
    return n > 0 && (size_t)n < size ? (size_t)n : 0;
}

static void finish_response(client *c, const struct pjsip_regc_cbparam *param)
{
    pjsip_rx_data *rdata = param->rdata;
    pjsip_regc_info info;
    char source[PJ_INET6_ADDRSTRLEN + 10];
    char addresses[2 * PJ_INET6_ADDRSTRLEN + 48];
    char copy[PJSIP_MAX_PKT_LEN];
    size_t length = (size_t)rdata->msg_info.len;
    pj_str_t host = pj_str(rdata->pkt_info.src_name);
    event_text text[4];
    pjpy_event event = { .status = param->status,
                         .code = param->code,
                         .value = { -1, 0, 0, 0, 0, -1 } };

    if (c->auth_status == PJPY_STATUS_DOWNGRADE)
        event.flags |= PJPY_F_DOWNGRADE;
    else if (c->auth_status != PJ_SUCCESS)
        event.status = c->auth_status;
    if (event.status == PJSIP_EFAILEDCREDENTIAL)
        auth_on_refusal(c);
    if (param->code / 100 == 2) {
        auth_on_success(c, rdata);
        set_margin(c, param->expiration);
        event.value[0] = (int32_t)(param->expiration > INT32_MAX
                                       ? INT32_MAX
                                       : param->expiration);
        pjsip_regc_get_info(c->regc, &info);
        if (info.auto_reg && event.value[0] > 0)
            event.value[5] = (int32_t)info.next_reg;
    }
    if (length > sizeof copy)
        length = sizeof copy;
    memcpy(copy, rdata->msg_info.msg_buf, length);
    pjpy_redact(copy, length);
    pj_addr_str_print(&host, rdata->pkt_info.src_port, source, sizeof source,
                      1);
    text[0] = (event_text){ param->reason.ptr, (size_t)param->reason.slen };
    text[1] = (event_text){ copy, length };
    text[2] = (event_text){ source, strlen(source) };
    text[3] = (event_text){
        addresses, print_addresses(addresses, sizeof addresses, rdata)
    };
    finish(c, &event, text);
}

/* PJSIP's on_reg_state, for requests and refreshes alike. */
static void on_reg_state(struct pjsip_regc_cbparam *param)
{
    client *c = param->token;

    if (auth_is_over(c))
        return; /* told by whoever gave it up */
    if (c->abandoned) {
        c->abandoned = 0;
        pjpy.late_events++;
        make_ready(c);
    } else if (param->rdata) {
        finish_response(c, param);
    } else {
        stash_failure(c, param->code, param->status);
    }
}

void client_refused(client *c, pjsip_rx_data *rdata, pj_status_t status)
{
    const pjsip_status_line *line = &rdata->msg_info.msg->line.status;
    struct pjsip_regc_cbparam param = {
        .code = line->code,
        .reason = line->reason,
        .status = status,
        .rdata = rdata,
    };

    finish_response(c, &param);
}

/* Before PJSIP asks again by itself, with the interval that the registrar
   insists on; once: one that grows each time is not followed. */
static void on_reg_tsx(struct pjsip_regc_tsx_cb_param *param)
{
    client *c = param->cbparam.token;
    pjsip_min_expires_hdr *least;

    if (param->cbparam.code != PJSIP_SC_INTERVAL_TOO_BRIEF ||
        !param->cbparam.rdata)
        return;
    least = pjsip_msg_find_hdr(param->cbparam.rdata->msg_info.msg,
                               PJSIP_H_MIN_EXPIRES, NULL);
    if (least && c->min_expires)
        least->ivalue = 0; /* which ends the request */
    else if (least)
        c->min_expires = least->ivalue > INT32_MAX ? INT32_MAX
                                                   : (uint32_t)least->ivalue;
}

static void start_timer(client *c, uint32_t timeout_ms)
{
    pj_time_val delay = { timeout_ms / 1000, timeout_ms % 1000 };

    if (timeout_ms)
        pjsip_endpt_schedule_timer(pjpy.endpoint, &c->timer, &delay);
}

static void push_started(pjpy_event *event)
{
    if (__atomic_load_n(&pjpy.started, __ATOMIC_RELAXED))
        queue_push(event, NULL, NULL);
}

/* A sign of life without a request of ours is PJSIP's own refresh. */
static void note_renewal(client *c)
{
    pjpy_event event = { .kind = PJPY_EV_REG_STARTED,
                         .flags = PJPY_F_RENEWAL,
                         .handle = c->handle };

    if (c->current || c->renewing)
        return;
    c->renewing = 1;
    start_timer(c, c->refresh_timeout_ms);
    push_started(&event);
}

/* ------------------------------------------------- watch over REGISTERs */

client *client_of(const pjsip_msg *msg)
{
    const pjsip_cid_hdr *id = pjsip_msg_find_hdr((pjsip_msg *)msg,
                                                 PJSIP_H_CALL_ID, NULL);
    client *c;

    if (!id)
        return NULL;
    c = map_get(&pjpy.calls, map_hash(id->id.ptr, (size_t)id->id.slen));
    return c && pj_strcmp2(&id->id, c->call_id) == 0 ? c : NULL;
}

/* Notes the transaction, so that a timeout can end it, and what it proves
   our password with. */
pj_status_t client_on_tx(pjsip_tx_data *tdata)
{
    pjsip_transaction *tsx = tdata->mod_data[pjsip_tsx_layer_instance()->id];
    client *c = client_of(tdata->msg);

    if (!c)
        return PJ_SUCCESS;
    if (c->transport_gone)
        return PJSIP_ESHUTDOWN; /* never by another door */
    c->algorithm = auth_algorithm(c, tdata->msg) & 15;
    note_renewal(c);
    if (tsx && tsx != c->tsx) {
        c->requests++;
        forget_tsx(c);
        pj_grp_lock_add_ref(tsx->grp_lock);
        c->tsx = tsx;
    } else { /* PJSIP names the transaction the first time only */
        pjpy.retransmissions++;
    }
    c->transport = tdata->tp_info.transport;
    if (c->transport->flag & PJSIP_TRANSPORT_RELIABLE) {
        connection *conn = connection_for(c->transport);
        c->connection = conn ? conn->id : 0;
        if (conn)
            conn->used = 1;
    } else {
        c->connection = 0;
    }
    return PJ_SUCCESS;
}

/* The request, or PJSIP's refresh, waits for a name from here on. */
void client_resolving(client *c, query *q)
{
    c->query = q;
    note_renewal(c);
}

/* ------------------------------------------------------------ creation */

pj_str_t client_take(const char **text)
{
    pj_str_t s = pj_str((char *)*text);

    *text += s.slen + 1;
    return s;
}

static pj_status_t set_routes(pjsip_regc *regc, const char **text,
                              uint32_t count)
{
    static const pj_str_t name = { "Route", 5 };
    pj_pool_t *pool = pjsip_regc_get_pool(regc);
    pjsip_route_hdr set;

    if (!count)
        return PJ_SUCCESS;
    pj_list_init(&set);
    while (count--) {
        pj_str_t route = client_take(text), copy;
        pjsip_hdr *h;

        pj_strdup_with_null(pool, &copy, &route);
        h = pjsip_parse_hdr(pool, &name, copy.ptr, (pj_size_t)copy.slen, NULL);
        if (!h)
            return PJSIP_EINVALIDURI;
        pj_list_push_back(&set, h);
    }
    return pjsip_regc_set_route_set(regc, &set);
}

static pj_status_t add_headers(pjsip_regc *regc, const char **text,
                               uint32_t count)
{
    pj_pool_t *pool = pjsip_regc_get_pool(regc);
    pjsip_hdr list;

    if (!count)
        return PJ_SUCCESS;
    pj_list_init(&list);
    while (count--) {
        pj_str_t name = client_take(text), value = client_take(text);
        pj_list_push_back(&list,
                          pjsip_generic_string_hdr_create(pool, &name, &value));
    }
    return pjsip_regc_add_headers(regc, &list);
}

static pj_status_t set_transport(client *c, uint64_t handle)
{
    pjsip_tpselector selector = { 0 };
    transport *t;

    if (!handle)
        return PJ_SUCCESS;
    t = handle_get(handle, OBJ_TRANSPORT);
    if (!t)
        return PJSIP_ESHUTDOWN;
    if (t->udp) {
        selector.type = PJSIP_TPSELECTOR_TRANSPORT;
        selector.u.transport = t->udp;
    } else {
        selector.type = PJSIP_TPSELECTOR_LISTENER;
        selector.u.listener = t->factory;
    }
    c->pinned = t->udp ? (void *)t->udp : (void *)t->factory;
    return pjsip_regc_set_transport(c->regc, &selector);
}

static pj_status_t create(client *c)
{
    const registration *r = &c->registration;
    pj_str_t contacts[PJSIP_REGC_MAX_CONTACT];
    const char *text = c->registration.text;
    pj_str_t registrar = client_take(&text), to = client_take(&text),
             from = client_take(&text);
    pj_status_t status;

    if (r->contacts > PJ_ARRAY_SIZE(contacts))
        return PJ_ETOOMANY;
    status = pjsip_regc_create(pjpy.endpoint, c, on_reg_state, &c->regc);
    if (status != PJ_SUCCESS)
        return status;
    for (uint32_t i = 0; i < r->contacts; i++)
        contacts[i] = client_take(&text);
    status = pjsip_regc_init(c->regc, &registrar, &from, &to, (int)r->contacts,
                             contacts, r->expires);
    if (status == PJ_SUCCESS)
        status = set_routes(c->regc, &text, r->routes);
    if (status == PJ_SUCCESS)
        status = add_headers(c->regc, &text, r->headers);
    if (status == PJ_SUCCESS)
        status = auth_set_credentials(
            c, &text, r->credentials, r->ask_credentials,
            handle_get(r->credentials_of, OBJ_CLIENT));
    if (status == PJ_SUCCESS)
        status = set_transport(c, r->transport);
    if (status == PJ_SUCCESS)
        status = pjsip_regc_set_reg_tsx_cb(c->regc, on_reg_tsx);
    return status;
}

/* Holds passwords, so it is overwritten before it is freed. */
static void free_text(char *text, size_t length)
{
    if (!text)
        return;
    wipe(text, length);
    free(text);
}

static void on_timeout(pj_timer_heap_t *heap, pj_timer_entry *entry);

static void do_create(client *c)
{
    pj_timer_entry_init(&c->timer, 0, c, on_timeout);
    c->create_status = create(c);
    free_text(c->registration.text, c->registration.length);
    c->registration.text = NULL;
}

/* ------------------------------------------------------------ requests */

/* Ends the transaction in flight; its outcome comes as a local failure. */
static void abort_current(client *c)
{
    if (c->query) { /* before tsx, which is then the one before */
        query_fail(c->query, PJ_ERESOLVE);
    } else if (c->asking) {
        auth_abandon(c);
        stash_failure(c, PJSIP_SC_REQUEST_TIMEOUT, PJ_SUCCESS);
    } else if (c->tsx) {
        pjsip_tsx_terminate(c->tsx, PJSIP_SC_REQUEST_TIMEOUT);
    } else {
        c->abandoned = 1;
        if (!c->stash.used)
            c->stash = (stash){ .used = 1, .code = PJSIP_SC_REQUEST_TIMEOUT };
        make_ready(c);
    }
}

static void on_timeout(pj_timer_heap_t *heap, pj_timer_entry *entry)
{
    client *c = entry->user_data;

    PJ_UNUSED_ARG(heap);
    if ((c->current || c->renewing) && !c->stash.used) {
        c->timed_out = 1;
        abort_current(c);
    }
}

static void note_call_id(client *c, const pjsip_tx_data *tdata)
{
    const pjsip_cid_hdr *id;

    if (c->call_id[0])
        return;
    id = pjsip_msg_find_hdr(tdata->msg, PJSIP_H_CALL_ID, NULL);
    if (!id || id->id.slen >= (pj_ssize_t)sizeof c->call_id)
        return;
    memcpy(c->call_id, id->id.ptr, (size_t)id->id.slen);
    map_put(&pjpy.calls, map_hash(id->id.ptr, (size_t)id->id.slen), c);
}

/* SET_... have no REGISTER of their own; DONE is their outcome. */
static void apply(client *c, command *cmd)
{
    const char *text = cmd->text;
    pj_str_t contacts[PJSIP_REGC_MAX_CONTACT];
    pjpy_event event = { .kind = PJPY_EV_DONE,
                         .handle = c->handle,
                         .request = cmd->request,
                         .status = c->create_status };
    char message[PJ_ERR_MSG_SIZE];
    event_text strings[4] = { { 0 } };

    if (event.status != PJ_SUCCESS) {
        /* nothing to apply it to */
    } else if (cmd->what == PJPY_SET_EXPIRES) {
        c->registration.expires = cmd->value;
        event.status = pjsip_regc_update_expires(c->regc, cmd->value);
    } else if (cmd->what == PJPY_SET_TRANSPORT) {
        pjsip_regc_release_transport(c->regc);
        event.status = set_transport(c, strtoull(text, NULL, 10));
        if (event.status == PJ_SUCCESS)
            c->transport_gone = 0;
    } else if (cmd->what == PJPY_SET_CREDENTIALS) {
        event.status = auth_set_credentials(c, &text, cmd->count, cmd->value,
                                            NULL);
    } else if (cmd->count > PJ_ARRAY_SIZE(contacts)) {
        event.status = PJ_ETOOMANY;
    } else {
        for (uint32_t i = 0; i < cmd->count; i++)
            contacts[i] = client_take(&text);
        event.status = pjsip_regc_update_contact(c->regc, (int)cmd->count,
                                                 contacts);
    }
    if (event.status != PJ_SUCCESS) {
        pj_str_t s = pj_strerror(event.status, message, sizeof message);
        strings[0] = (event_text){ s.ptr, (size_t)s.slen };
    }
    queue_push(&event, strings, NULL);
    command_free(cmd);
}

static void start(client *c, command *cmd)
{
    pjsip_tx_data *tdata = NULL;
    pj_status_t status = c->create_status;
    pjpy_event event = { .kind = PJPY_EV_REG_STARTED,
                         .handle = c->handle,
                         .request = cmd->request };

    c->current = cmd;
    c->algorithm = PJPY_ALG_NONE;
    c->connection = 0;
    if (status == PJ_SUCCESS && c->transport_gone)
        status = PJSIP_ESHUTDOWN;
    if (status != PJ_SUCCESS) {
        finish_local(c, PJSIP_SC_SERVICE_UNAVAILABLE, status, 0, 0);
        return;
    }
    if (cmd->what == PJPY_REGISTER)
        status = pjsip_regc_register(c->regc, (pj_bool_t)cmd->value, &tdata);
    else if (cmd->what == PJPY_UNREGISTER)
        status = pjsip_regc_unregister(c->regc, &tdata);
    else
        status = pjsip_regc_unregister_all(c->regc, &tdata);
    if (status != PJ_SUCCESS) {
        finish_local(c, PJSIP_SC_SERVICE_UNAVAILABLE, status, 0, 0);
        return;
    }
    if (cmd->what != PJPY_REGISTER)
        event.flags |= PJPY_F_UNREGISTER;
    push_started(&event);
    note_call_id(c, tdata);
    if (cmd->timeout_ms) {
        int64_t left = (cmd->deadline_ns - clock_monotonic_ns()) / 1000000;
        start_timer(c, left > 0 ? (uint32_t)left : 1);
    }
    if (cmd->what == PJPY_REGISTER)
        c->refresh_timeout_ms = cmd->timeout_ms;
    status = pjsip_regc_send(c->regc, tdata);
    if (status != PJ_SUCCESS && c->current == cmd)
        stash_failure(c, PJSIP_SC_SERVICE_UNAVAILABLE, status);
}

static int is_busy(client *c)
{
    pjsip_regc_info info;

    if (c->current || c->asking || c->stash.used)
        return 1;
    if (!c->regc)
        return 0;
    pjsip_regc_get_info(c->regc, &info);
    return info.is_busy; /* a refresh, or an abandoned request */
}

/* Takes a waiting request out of its client's queue. */
static void leave_queue(command *cmd)
{
    client *c = cmd->client;
    command **p = &c->waiting;

    while (*p != cmd)
        p = &(*p)->next;
    *p = cmd->next;
    if (!*p)
        c->waiting_tail = p;
    pj_timer_heap_cancel_if_active(pjsip_endpt_get_timer_heap(pjpy.endpoint),
                                   &cmd->timer, 0);
}

static void on_waited_too_long(pj_timer_heap_t *heap, pj_timer_entry *entry)
{
    command *cmd = entry->user_data;
    pjpy_event event = {
        .kind = cmd->what < PJPY_SET_CONTACTS ? PJPY_EV_REG_STATE
                                              : PJPY_EV_DONE,
        .flags = PJPY_F_LOCAL | PJPY_F_TIMEOUT,
        .handle = cmd->handle,
        .request = cmd->request,
        .status = PJ_ETIMEDOUT,
        .code = PJSIP_SC_REQUEST_TIMEOUT,
        .value = { -1, 0, 0, 0, 0, -1 },
    };

    PJ_UNUSED_ARG(heap);
    if (cmd->what == PJPY_UNREGISTER || cmd->what == PJPY_UNREGISTER_ALL)
        event.flags |= PJPY_F_UNREGISTER;
    leave_queue(cmd);
    queue_push(&event, NULL, NULL);
    command_free(cmd);
}

static void bound_waiting(client *c)
{
    for (command *cmd = c->waiting; cmd; cmd = cmd->next) {
        int64_t left = (cmd->deadline_ns - clock_monotonic_ns()) / 1000000;
        pj_time_val delay = { 0, 1 };

        if (!cmd->timeout_ms || cmd->timer.user_data)
            continue;
        if (left > 0) {
            delay.sec = (long)(left / 1000);
            delay.msec = (long)(left % 1000);
        }
        pj_timer_entry_init(&cmd->timer, 0, cmd, on_waited_too_long);
        pjsip_endpt_schedule_timer(pjpy.endpoint, &cmd->timer, &delay);
    }
}

static void run_ready(client *c)
{
    if (c->stash.used) {
        stash s;

        stash_connection(c); /* it may know more by now */
        s = c->stash;
        finish_local(c, s.code, s.status, s.verify_status, s.flags);
    }
    while (c->waiting && !is_busy(c)) {
        command *cmd = c->waiting;

        leave_queue(cmd);
        if (cmd->what >= PJPY_SET_CONTACTS)
            apply(c, cmd);
        else
            start(c, cmd);
    }
    bound_waiting(c);
}

void client_run_ready(void)
{
    while (pjpy.ready) {
        client *c = pjpy.ready;

        pjpy.ready = c->ready_next;
        c->is_ready = 0;
        run_ready(c);
    }
}

static int do_request(command *cmd)
{
    client *c = handle_get(cmd->handle, OBJ_CLIENT);

    if (!c) {
        pjpy.late_events++;
        command_free(cmd);
        return PJPY_ESTALE;
    }
    if (c->registration.text)
        do_create(c);
    cmd->next = NULL;
    cmd->client = c;
    *c->waiting_tail = cmd;
    c->waiting_tail = &cmd->next;
    make_ready(c);
    return 0;
}

static int do_cancel(uint64_t handle, uint64_t request)
{
    client *c = handle_get(handle, OBJ_CLIENT);

    if (!c)
        return PJPY_ESTALE;
    if (request == 0 && !c->renewing)
        return PJPY_ESTALE;
    if (request == 0 || (c->current && c->current->request == request)) {
        if (!c->stash.used) {
            c->cancelled = 1;
            abort_current(c);
        }
        return 0;
    }
    for (command *cmd = c->waiting; cmd; cmd = cmd->next) {
        if (cmd->request == request) {
            pjpy_event event = { .kind = PJPY_EV_DONE,
                                 .flags = PJPY_F_CANCELLED,
                                 .handle = handle,
                                 .request = request };
            leave_queue(cmd);
            queue_push(&event, NULL, NULL);
            command_free(cmd);
            return 0;
        }
    }
    return PJPY_ESTALE;
}

static int fill_info(uint64_t handle, pjpy_info *out)
{
    client *c = handle_get(handle, OBJ_CLIENT);
    pjsip_regc_info info;

    if (!c)
        return PJPY_ESTALE;
    memset(out, 0, sizeof *out);
    out->create_status = c->create_status;
    out->interval = out->next_refresh = -1;
    out->connection = c->connection;
    memcpy(out->call_id, c->call_id, sizeof c->call_id);
    for (command *cmd = c->waiting; cmd; cmd = cmd->next)
        out->waiting++;
    if (!c->regc)
        return 0;
    pjsip_regc_get_info(c->regc, &info);
    out->busy = info.is_busy || c->current;
    /* After an unregister (0) or a failure nothing is refreshed, though regc
       keeps the flag. */
    out->auto_refresh = info.auto_reg && info.interval != 0 &&
                        info.interval != NO_EXPIRES;
    if (info.interval != NO_EXPIRES)
        out->interval = (int32_t)info.interval;
    if (out->auto_refresh && info.next_reg != NO_EXPIRES)
        out->next_refresh = (int32_t)info.next_reg;
    return 0;
}

/* A REGISTER in flight is ended, not left to PJSIP: the transport it is bound
   to may go next. */
static void client_free(client *c)
{
    pjsip_transaction *tsx = c->tsx;
    query *q = c->query;

    unmake_ready(c);
    queue_forget(c);
    if (c->call_id[0])
        map_remove(&pjpy.calls, map_hash(c->call_id, strlen(c->call_id)));
    pj_timer_heap_cancel_if_active(pjsip_endpt_get_timer_heap(pjpy.endpoint),
                                   &c->timer, 0);
    auth_close(c);
    if (c->regc)
        pjsip_regc_destroy(c->regc); /* no callback from here on */
    if (q)
        query_fail(q, PJ_ERESOLVE);
    if (tsx)
        pjsip_tsx_terminate(tsx, PJSIP_SC_REQUEST_TIMEOUT);
    forget_tsx(c);
    free_text(c->registration.text, c->registration.length);
    free(c->current);
    while (c->waiting) {
        command *cmd = c->waiting;
        leave_queue(cmd);
        command_free(cmd);
    }
    free(c);
}

static int do_destroy(uint64_t handle)
{
    client *c = handle_free(handle, OBJ_CLIENT);

    if (!c)
        return PJPY_ESTALE;
    client_free(c);
    return 0;
}

static void destroy_each(void *object)
{
    do_destroy(((client *)object)->handle);
}

void client_free_all(void)
{
    handle_each(OBJ_CLIENT, destroy_each);
}

void client_leave_connection(client *c)
{
    pjsip_regc_info info;
    connection *conn;

    if (!c->regc || !c->connection)
        return;
    pjsip_regc_get_info(c->regc, &info);
    conn = connection_of(info.transport);
    if (conn && conn->lost && !info.is_busy)
        pjsip_regc_release_transport(c->regc);
}

/* PJSIP has no call for it; building an unregister cancels the timer.  The
   end of the refresh is told as a refresh that failed. */
static void stop_refresh(client *c)
{
    pjsip_regc_info info;
    pjsip_tx_data *tdata;

    pjsip_regc_get_info(c->regc, &info);
    if (!info.auto_reg || info.interval == NO_EXPIRES || info.interval == 0)
        return;
    if (pjsip_regc_unregister(c->regc, &tdata) == PJ_SUCCESS)
        pjsip_tx_data_dec_ref(tdata);
    if (!info.is_busy && !c->current && !c->stash.used)
        stash_failure(c, PJSIP_SC_SERVICE_UNAVAILABLE, PJSIP_ESHUTDOWN);
}

/* The transport is about to close: let go of it, for PJSIP counts no
   references to a listener.  A client that was pinned
   to it fails from now on, rather than leave by another door. */
void client_leave_transport(client *c, const void *gone)
{
    pjsip_tpselector none = { 0 };
    pjsip_regc_info info;

    if (!c->regc)
        return;
    pjsip_regc_get_info(c->regc, &info);
    if (info.transport == gone)
        pjsip_regc_release_transport(c->regc);
    if (c->pinned == gone) {
        if ((c->current || c->renewing || c->query) && !c->stash.used) {
            c->stash = (stash){ .used = 1,
                                .code = PJSIP_SC_SERVICE_UNAVAILABLE,
                                .status = PJSIP_ESHUTDOWN };
            abort_current(c);
        }
        pjsip_regc_set_transport(c->regc, &none);
        c->pinned = NULL;
        c->transport_gone = 1;
        stop_refresh(c);
    }
}

int client_command(command *cmd)
{
    switch (cmd->kind) {
    case CMD_CLIENT_REQUEST: return do_request(cmd);
    case CMD_CLIENT_CANCEL: return do_cancel(cmd->handle, cmd->request);
    case CMD_CLIENT_ANSWER: return auth_answer(cmd);
    case CMD_CLIENT_INFO: return fill_info(cmd->handle, cmd->sync->out);
    default: return do_destroy(cmd->handle);
    }
}

/* -------------------------------------------------------- from Python */

struct adoption {
    client *client;
    uint64_t handle; /* the client may be gone by the return */
};

static int adopt(void *argument)
{
    struct adoption *a = argument;

    a->handle = a->client->handle = handle_new(OBJ_CLIENT, a->client);
    return a->handle ? 0 : PJPY_ENOMEM;
}

/* Complete before the worker can see it, and never adopted by a worker that
   has freed its clients. */
int64_t pjpy_client_create(const char *text, size_t length, uint32_t contacts,
                           uint32_t routes, uint32_t headers,
                           uint32_t credentials, uint32_t expires,
                           uint32_t ask_credentials, uint32_t refresh_margin,
                           uint64_t transport, uint64_t credentials_of)
{
    client *c = calloc(1, sizeof *c);
    struct adoption a = { c, 0 };
    char *copy = malloc(length + 1);
    int status;

    if (!c || !copy) {
        free(c);
        free(copy);
        return PJPY_ENOMEM;
    }
    memcpy(copy, text, length);
    copy[length] = '\0';
    c->waiting_tail = &c->waiting;
    c->registration = (registration){
        copy,           length,      contacts,      routes,
        headers,        credentials, expires,       ask_credentials,
        refresh_margin, transport,   credentials_of
    };
    status = engine_while_running(adopt, &a);
    if (status) {
        free_text(copy, length);
        free(c);
        return status;
    }
    return (int64_t)a.handle;
}

static command *client_cmd(int kind, uint64_t handle, uint64_t request)
{
    command *cmd = command_new(kind, NULL, 0);

    if (cmd) {
        cmd->handle = handle;
        cmd->request = request;
    }
    return cmd;
}

int pjpy_client_request(uint64_t handle, uint64_t request, int what,
                        uint32_t value, uint32_t timeout_ms, const char *text,
                        size_t length, uint32_t count)
{
    command *cmd = command_new(CMD_CLIENT_REQUEST, text, length);

    if (cmd) {
        cmd->handle = handle;
        cmd->request = request;
        cmd->what = what;
        cmd->value = value;
        cmd->timeout_ms = timeout_ms;
        cmd->deadline_ns = clock_monotonic_ns() + (int64_t)timeout_ms * 1000000;
        cmd->count = count;
    }
    return command_post(cmd);
}

int pjpy_client_cancel(uint64_t handle, uint64_t request)
{
    return command_post(client_cmd(CMD_CLIENT_CANCEL, handle, request));
}

int pjpy_client_answer(uint64_t handle, uint64_t challenge, const char *text,
                       size_t length, uint32_t count)
{
    command *cmd = command_new(CMD_CLIENT_ANSWER, text, length);

    if (cmd) {
        cmd->handle = handle;
        cmd->request = challenge;
        cmd->count = count;
    }
    return command_post(cmd);
}

int pjpy_client_info(uint64_t handle, pjpy_info *info)
{
    return command_call(client_cmd(CMD_CLIENT_INFO, handle, 0), NULL, info);
}

int pjpy_client_destroy(uint64_t handle)
{
    return command_post(client_cmd(CMD_CLIENT_DESTROY, handle, 0));
}
