/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Listening transports, the state of connections, and the resolver: host
 * names go to Python as events, so that no DNS query ever holds up the
 * worker.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pjpy_build.h"
#include "internal.h"
#include "tls.h"

static void str_copy(char *out, size_t size, const pj_str_t *text)
{
    size_t n = (size_t)text->slen < size - 1 ? (size_t)text->slen : size - 1;
    memcpy(out, text->ptr, n);
    out[n] = '\0';
}

int transport_protocol(const pjsip_transport *tp)
{
    return (int)tp->key.type;
}

/* ----------------------------------------------------------- listening */

static pj_status_t listen_udp(int af, const pj_sockaddr *address, transport *t,
                              pj_sockaddr *bound, pj_str_t *published)
{
    pjsip_udp_transport_cfg cfg;
    pj_status_t status;

    pjsip_udp_transport_cfg_default(&cfg, af);
    pj_sockaddr_cp(&cfg.bind_addr, address);
    status = pjsip_udp_transport_start2(pjpy.endpoint, &cfg, &t->udp);
    if (status == PJ_SUCCESS) {
        pj_sockaddr_cp(bound, &t->udp->local_addr);
        *published = t->udp->local_name.host;
        /* The bound address stands in the socket; local_name holds the port
           that the kernel chose. */
        pj_sockaddr_set_port(bound, (pj_uint16_t)t->udp->local_name.port);
    }
    return status;
}

static pj_status_t listen_tcp(int af, const pj_sockaddr *address, transport *t)
{
    static int on = 1;
    pjsip_tcp_transport_cfg cfg;

    pjsip_tcp_transport_cfg_default(&cfg, af);
    /* As PJSIP does it for TLS: a small message must not wait for the
       acknowledgement of the one before. */
    cfg.sockopt_params.options[0].level = pj_SOL_TCP();
    cfg.sockopt_params.options[0].optname = pj_TCP_NODELAY();
    cfg.sockopt_params.options[0].optval = &on;
    cfg.sockopt_params.options[0].optlen = sizeof on;
    cfg.sockopt_params.cnt = 1;
    pj_sockaddr_cp(&cfg.bind_addr, address);
    return pjsip_tcp_transport_start3(pjpy.endpoint, &cfg, &t->factory);
}

#if PJSIP_HAS_TLS_TRANSPORT && PJPY_BUNDLED
/* PJSIP verifies as it always does; what it asks is our context. */
static void set_credentials(pjsip_tls_setting *s, const pjpy_tls *tls,
                            tls_box *box)
{
    PJ_UNUSED_ARG(tls);
    s->verify_server = PJ_TRUE;
    s->cert_direct.type = PJPY_CERT_BOX;
    s->cert_direct.cert = box;
    pjpy_tls_hold(box, &s->timeout);
}
#elif PJSIP_HAS_TLS_TRANSPORT
static void set_str(pj_str_t *out, const char *text)
{
    if (text && *text)
        *out = pj_str((char *)text);
}

/* An installed PJSIP knows nothing of our contexts, and makes its own of what
   it knows; tls_context_new() has refused the rest. */
static void set_credentials(pjsip_tls_setting *s, const pjpy_tls *tls,
                            tls_box *box)
{
    PJ_UNUSED_ARG(box);
    set_str(&s->ca_list_file, tls->ca_file);
    set_str(&s->ca_list_path, tls->ca_path);
    set_str(&s->cert_file, tls->cert_file);
    set_str(&s->privkey_file, tls->key_file);
    set_str(&s->password, tls->key_password);
    set_str(&s->ca_buf, tls->ca_data);
    set_str(&s->cert_buf, tls->cert_data);
    set_str(&s->privkey_buf, tls->key_data);
    s->verify_server = (pj_bool_t)tls->verify;
    s->proto = tls->protocols;
    s->timeout.sec = tls->timeout_ms / 1000;
    s->timeout.msec = tls->timeout_ms % 1000;
}
#endif

static pj_status_t listen_tls(const pj_sockaddr *address, const pjpy_tls *tls,
                              transport *t)
{
#if PJSIP_HAS_TLS_TRANSPORT
    pjsip_tls_setting s;

    pjsip_tls_setting_default(&s);
    set_credentials(&s, tls, t->tls);
    return pjsip_tls_transport_start2(pjpy.endpoint, &s, address, NULL, 1,
                                      &t->factory);
#else
    PJ_UNUSED_ARG(address);
    PJ_UNUSED_ARG(tls);
    PJ_UNUSED_ARG(t);
    return PJSIP_EUNSUPTRANSPORT;
#endif
}

/* What comes with CMD_LISTEN; the worker takes the context over. */
typedef struct listening {
    const pjpy_tls *tls;
    struct ssl_ctx_st *context;
} listening;

static void transport_free(transport *t);

static int do_listen(command *cmd, listening *in, pjpy_listening *out)
{
    int af = cmd->what & PJPY_PROTOCOL_IPV6 ? pj_AF_INET6() : pj_AF_INET();
    pj_str_t host = pj_str(cmd->text), published = { 0 };
    pj_sockaddr address, bound;
    transport *t;
    pj_status_t status = pj_sockaddr_init(af, &address, &host,
                                          (pj_uint16_t)cmd->value);

    if (status != PJ_SUCCESS)
        return status;
    t = calloc(1, sizeof *t);
    if (!t)
        return PJPY_ENOMEM;
    if (in->context && (t->tls = tls_box_new(in->context)))
        in->context = NULL;
    switch (cmd->what & ~PJPY_PROTOCOL_IPV6) {
    case PJPY_PROTOCOL_UDP:
        status = listen_udp(af, &address, t, &bound, &published);
        break;
    case PJPY_PROTOCOL_TCP: status = listen_tcp(af, &address, t); break;
    case PJPY_PROTOCOL_TLS: status = listen_tls(&address, in->tls, t); break;
    default: status = PJ_EINVAL;
    }
    if (status != PJ_SUCCESS) {
        if (t->tls)
            pjpy_tls_release(t->tls);
        free(t);
        return status;
    }
    if (t->factory) {
        pj_sockaddr_cp(&bound, &t->factory->local_addr);
        pj_sockaddr_set_port(&bound, (pj_uint16_t)t->factory->addr_name.port);
        published = t->factory->addr_name.host;
    }
    t->handle = handle_new(OBJ_TRANSPORT, t);
    if (!t->handle || (t->tls && map_put(&pjpy.listeners,
                                         (uint64_t)(uintptr_t)t->factory, t))) {
        if (t->handle)
            handle_free(t->handle, OBJ_TRANSPORT);
        transport_free(t);
        return PJPY_ENOMEM;
    }
    out->handle = t->handle;
    out->port = pj_sockaddr_get_port(&bound);
    /* As asked: for a listener on all addresses PJSIP notes just one. */
    pj_sockaddr_print(&address, out->host, sizeof out->host, 0);
    str_copy(out->published, sizeof out->published, &published);
    return PJ_SUCCESS;
}

/* Clients that are pinned to it, or hold a reference as the last one used,
   let go; else the socket would stay open behind the user's back. */
static const void *leaving;

static void leave(void *object)
{
    client_leave_transport(object, leaving);
}

static int queries_failed;

static void fail_if_leaving(void *value)
{
    query *q = value;

    if (q->tdata->tp_sel.type == PJSIP_TPSELECTOR_LISTENER &&
        q->tdata->tp_sel.u.listener == leaving) {
        query_fail(q, PJ_ERESOLVE);
        queries_failed = 1;
    }
}

static void fail_queries_towards(const pjsip_tpfactory *listener)
{
    leaving = listener;
    do { /* a removal may hide an entry from the walk */
        queries_failed = 0;
        map_each(&pjpy.queries, fail_if_leaving);
    } while (queries_failed);
}

static void transport_free(transport *t)
{
    leaving = t->udp ? (void *)t->udp : (void *)t->factory;
    handle_each(OBJ_CLIENT, leave);
    if (t->udp) {
        pjsip_transport_shutdown2(t->udp, PJ_TRUE);
    } else {
        fail_queries_towards(t->factory);
        map_remove(&pjpy.listeners, (uint64_t)(uintptr_t)t->factory);
        (*t->factory->destroy)(t->factory);
        leaving = NULL;
    }
    if (t->tls)
        pjpy_tls_release(t->tls);
    free(t);
}

static int do_close(uint64_t handle)
{
    transport *t = handle_free(handle, OBJ_TRANSPORT);

    if (!t)
        return PJPY_ESTALE;
    transport_free(t);
    /* PJSIP closes the socket by timers that are due at once, one for the
       transport and one for each transaction that still holds it: by the time
       the answer is back, the port is free. */
    for (int turns = 0; leaving && turns < 10; turns++)
        pj_timer_heap_poll(pjsip_endpt_get_timer_heap(pjpy.endpoint), NULL);
    return 0;
}

static int do_reload(command *cmd)
{
    transport *t = handle_get(cmd->handle, OBJ_TRANSPORT);
    struct ssl_ctx_st **context = cmd->sync->in;

    if (!t || !t->tls)
        return PJPY_ESTALE;
    tls_box_set(t->tls, *context);
    *context = NULL;
    return 0;
}

/* --------------------------------------------------------- connections */

static void let_go(void *object)
{
    client_leave_connection(object);
}

/* regc keeps a reference to the connection it used last, dead or alive, and
   with it the socket. */
void transport_let_go(void)
{
    if (!pjpy.lost)
        return;
    pjpy.lost = 0;
    handle_each(OBJ_CLIENT, let_go);
}

static int32_t connection_ids;

connection *connection_of(pjsip_transport *tp)
{
    return tp ? map_get(&pjpy.connections, (uint64_t)(uintptr_t)tp) : NULL;
}

static connection *ended;

const connection *connection_with(pjsip_transport *tp, int32_t id)
{
    const connection *c = connection_of(tp);

    if (!c || c->id != id)
        for (c = ended; c && c->id != id; c = c->next)
            ;
    return c;
}

/* Why it ended is asked for at the end of a turn, by when PJSIP may have
   destroyed it. */
void transport_forget_ended(void)
{
    while (ended) {
        connection *c = ended;

        ended = c->next;
        free(c);
    }
}

connection *connection_for(pjsip_transport *tp)
{
    connection *c = connection_of(tp);

    if (c)
        return c;
    c = calloc(1, sizeof *c);
    if (c && map_put(&pjpy.connections, (uint64_t)(uintptr_t)tp, c)) {
        free(c);
        c = NULL;
    }
    if (c) {
        c->tp = tp;
        c->incoming = tp->dir == PJSIP_TP_DIR_INCOMING;
        pjpy.incoming += (unsigned)c->incoming;
        c->refused = c->incoming && pjpy.incoming > PJPY_MAX_INCOMING;
        c->secure = (tp->flag & PJSIP_TRANSPORT_SECURE) != 0;
        connection_ids = connection_ids == INT32_MAX ? 1 : connection_ids + 1;
        c->id = connection_ids;
    }
    return c;
}

#if PJSIP_HAS_TLS_TRANSPORT
#define TLS_NAME_BITS (PJPY_TLS_NUL_IN_NAME | PJPY_TLS_WILDCARD)
#define TLS_CERTIFICATE_BITS                                            \
    (0x3FFu | PJ_SSL_CERT_EIDENTITY_NOT_MATCH | PJ_SSL_CERT_EUNKNOWN |  \
     PJPY_TLS_EXPIRED | PJPY_TLS_NOT_YET_VALID | PJPY_TLS_SELF_SIGNED | \
     PJPY_TLS_UNKNOWN_CA | PJPY_TLS_WEAK | TLS_NAME_BITS)

/* Why a connection over TLS ended, told from how the network failed it. */
static pj_status_t judge_tls(connection *c,
                             const pjsip_transport_state_info *info)
{
    const pjsip_tls_state_info *tls = info->ext_info;
    const pj_ssl_sock_info *ssl = tls ? tls->ssl_sock_info : NULL;
    pj_status_t status = info->status;
    int of_tls = status >= PJ_ERRNO_START_USER + PJ_ERRNO_SPACE_SIZE * 6 &&
                 status < PJ_ERRNO_START_USER + PJ_ERRNO_SPACE_SIZE * 7;
    uint32_t why;

    if (!ssl || status == PJ_SUCCESS || status == PJ_ECANCELLED)
        return status;
    if (!ssl->native_ssl) {
        c->secure = 0;
        return status;
    }
    why = tls_why(ssl->native_ssl, c->established ? 0 : ssl->verify_status,
                  of_tls ? ssl->last_native_err : 0, c->established,
                  status != PJ_ETIMEDOUT);
    if (status == PJ_ETIMEDOUT && !c->established && !why)
        why = PJPY_TLS_TIMEOUT;
    c->verify_status |= why;
    return why & TLS_CERTIFICATE_BITS ? PJSIP_TLS_ECERTVERIF : status;
}

static char *describe_tls(const pjsip_transport_state_info *info,
                          size_t *length)
{
    const pjsip_tls_state_info *tls = info->ext_info;
    const pj_ssl_sock_info *ssl = tls ? tls->ssl_sock_info : NULL;

    return ssl && ssl->native_ssl ? tls_describe(ssl->native_ssl, length)
                                  : NULL;
}
#endif

static void push_state(int state, pjsip_transport *tp, connection *c,
                       pj_status_t status, const char *tls, size_t tls_length)
{
    char local[PJ_INET6_ADDRSTRLEN + 10], remote[PJ_INET6_ADDRSTRLEN + 10];
    char reason[PJ_ERR_MSG_SIZE];
    event_text text[4] = { { 0 } };
    pjpy_event event = {
        .kind = PJPY_EV_TRANSPORT,
        .flags = (uint16_t)((c && c->secure && !c->established
                                 ? PJPY_F_HANDSHAKE
                                 : 0) |
                            (c && c->incoming ? PJPY_F_INCOMING : 0)),
        .status = status,
        .value = { transport_protocol(tp), state, c ? c->id : 0, 0,
                   c ? (int32_t)c->verify_status : 0 },
    };

    pj_sockaddr_print(&tp->local_addr, local, sizeof local, 3);
    text[0] = (event_text){ local, strlen(local) };
    pj_addr_str_print(&tp->remote_name.host, tp->remote_name.port, remote,
                      sizeof remote, 1);
    text[1] = (event_text){ remote, strlen(remote) };
    if (status != PJ_SUCCESS) {
        pj_str_t s = pj_strerror(status, reason, sizeof reason);
        text[2] = (event_text){ s.ptr, (size_t)s.slen };
    }
    text[3] = (event_text){ tls, tls_length };
    queue_push(&event, text, NULL);
}

/* The transport manager's own, by which transactions hear that their
   connection died. */
static pjsip_tp_state_callback next_state_cb;

static void on_transport_state(pjsip_transport *tp, pjsip_transport_state state,
                               const pjsip_transport_state_info *info)
{
    static const int states[] = { PJPY_TP_CONNECTED, PJPY_TP_DISCONNECTED,
                                  PJPY_TP_SHUTDOWN, PJPY_TP_DESTROYED };
    pj_status_t status = info->status;
    connection *c;
    char *tls = NULL;
    size_t tls_length = 0;

    if (tp == leaving && state == PJSIP_TP_STATE_DESTROY)
        leaving = NULL;
    if (!(tp->flag & PJSIP_TRANSPORT_RELIABLE)) {
        if (next_state_cb) /* UDP has no state of its own to tell */
            next_state_cb(tp, state, info);
        return;
    }
    c = connection_for(tp);
    if (c && state == PJSIP_TP_STATE_CONNECTED)
        c->established = 1;
    if (c && (state == PJSIP_TP_STATE_DISCONNECTED ||
              state == PJSIP_TP_STATE_SHUTDOWN)) {
        c->lost = 1;
        /* Looking through all clients is not for strangers to cause. */
        pjpy.lost |= c->used;
    }
#if PJSIP_HAS_TLS_TRANSPORT
    if (tp->flag & PJSIP_TRANSPORT_SECURE && state < PJSIP_TP_STATE_SHUTDOWN) {
        if (c && state == PJSIP_TP_STATE_DISCONNECTED)
            status = judge_tls(c, info);
        tls = describe_tls(info, &tls_length);
    }
#endif
    /* The first reason is the real one; "cancelled" is none. */
    if (c && (c->status == PJ_SUCCESS || c->status == PJ_ECANCELLED) &&
        status != PJ_SUCCESS)
        c->status = status;
    if (c && status == PJ_ECANCELLED)
        status = c->status;
    if (!c || !c->refused)
        push_state(states[state], tp, c, status, tls, tls_length);
    free(tls);
    if (next_state_cb)
        next_state_cb(tp, state, info);
    if (c && c->refused && state == PJSIP_TP_STATE_CONNECTED)
        pjsip_transport_shutdown2(tp, PJ_TRUE);
    if (state == PJSIP_TP_STATE_DESTROY &&
        (c = map_remove(&pjpy.connections, (uint64_t)(uintptr_t)tp))) {
        pjpy.incoming -= (unsigned)c->incoming;
        c->next = ended;
        ended = c;
    }
}

/* PJSIP ends an incoming connection that is idle once an answer was sent over
   it: so that it may be one that never asks for an answer, it counts from any
   message on. */
void transport_heard(pjsip_transport *tp)
{
    if (tp->dir == PJSIP_TP_DIR_INCOMING) {
        pjsip_transport_add_ref(tp);
        pjsip_transport_dec_ref(tp);
    }
}

/* ------------------------------------------------------------ resolver */

/* Never starts again: an answer may come after a stop and a start. */
static uint64_t query_ids;

static void give_addresses(const pjsip_host_info *target, void *token,
                           pjsip_resolver_callback *done, const char *addresses,
                           size_t length)
{
    pjsip_server_addresses found = { 0 };
    const char *p = addresses, *end = addresses + length;

    while (p < end && found.count < PJSIP_MAX_RESOLVED_ADDRESSES) {
        pj_str_t text = pj_str((char *)p);
        pj_sockaddr *address = &found.entry[found.count].addr;
        int type = target->type & ~PJSIP_TRANSPORT_IPV6;
        int port;

        p += text.slen + 1;
        if (pj_sockaddr_parse(pj_AF_UNSPEC(), 0, &text, address) != PJ_SUCCESS)
            continue;
        port = pj_sockaddr_get_port(address);
        if (!port)
            port = target->addr.port;
        if (type == PJSIP_TRANSPORT_UNSPECIFIED)
            type = target->flag & PJSIP_TRANSPORT_SECURE ? PJSIP_TRANSPORT_TLS
                   : target->flag & PJSIP_TRANSPORT_RELIABLE
                       ? PJSIP_TRANSPORT_TCP
                       : PJSIP_TRANSPORT_UDP;
        if (address->addr.sa_family == pj_AF_INET6())
            type |= PJSIP_TRANSPORT_IPV6;
        if (!port)
            port = pjsip_transport_get_default_port_for_type(
                (pjsip_transport_type_e)type);
        pj_sockaddr_set_port(address, (pj_uint16_t)port);
        found.entry[found.count].type = (pjsip_transport_type_e)type;
        found.entry[found.count].addr_len = (int)pj_sockaddr_get_len(address);
        found.entry[found.count].name = target->addr.host;
        found.count++;
    }
    done(found.count ? PJ_SUCCESS : PJ_ERESOLVE, token, &found);
}

static int is_address(const pj_str_t *host)
{
    pj_in6_addr unused;

    return pj_inet_pton(pj_AF_INET(), host, &unused) == PJ_SUCCESS ||
           pj_inet_pton(pj_AF_INET6(), host, &unused) == PJ_SUCCESS;
}

/* Which transport it is was settled, by NAPTR perhaps, before the REGISTER
   was bound to one: the URI alone may not name it. */
static void fit_to_transport(query *q)
{
    const pjsip_tpselector *bound = &q->tdata->tp_sel;

    if (bound->type == PJSIP_TPSELECTOR_LISTENER)
        q->target.type = bound->u.listener->type;
    else if (bound->type == PJSIP_TPSELECTOR_TRANSPORT)
        q->target.type = bound->u.transport->key.type;
}

/* By whose name a TLS connection is found again and its certificate judged:
   the listener's server_name, or the host of the URI, whose final dot is no
   part of the name (RFC 6066, 3). */
static void name_destination(pjsip_tx_data *tdata)
{
    const pjsip_tpselector *bound = &tdata->tp_sel;
    pj_str_t *name = &tdata->dest_info.name;
    const transport *t = bound->type == PJSIP_TPSELECTOR_LISTENER
                             ? map_get(&pjpy.listeners,
                                       (uint64_t)(uintptr_t)bound->u.listener)
                             : NULL;

    if (!t)
        return;
    if (*tls_box_server_name(t->tls))
        pj_strdup2_with_null(tdata->pool, name, tls_box_server_name(t->tls));
    else if (name->slen > 1 && name->ptr[name->slen - 1] == '.')
        name->slen--;
}

static void on_resolve(pjsip_resolver_t *resolver, pj_pool_t *pool,
                       const pjsip_host_info *target, void *token,
                       pjsip_resolver_callback *done)
{
    const pj_str_t *host = &target->addr.host;
    pjpy_event event = { .kind = PJPY_EV_RESOLVE,
                         .value = { (int32_t)target->type,
                                    target->addr.port } };
    event_text text[4] = { { host->ptr, (size_t)host->slen } };
    pjsip_transaction *tsx;
    query *q;

    PJ_UNUSED_ARG(resolver);
    PJ_UNUSED_ARG(pool);
    /* Whoever resolves in this library does it to send this. */
    name_destination(((pjsip_send_state *)token)->tdata);
    if (is_address(host)) {
        char literal[PJ_INET6_ADDRSTRLEN + 10];
        pj_addr_str_print(host, 0, literal, sizeof literal, 3);
        give_addresses(target, token, done, literal, strlen(literal));
        return;
    }
    q = calloc(1, sizeof *q + (size_t)host->slen + 1);
    if (!q || map_put(&pjpy.queries, ++query_ids, q)) {
        pjsip_server_addresses none = { 0 };
        free(q);
        done(PJ_ENOMEM, token, &none);
        return;
    }
    q->id = query_ids;
    q->target = *target;
    q->token = token;
    q->done = done;
    str_copy(q->host, (size_t)host->slen + 1, host);
    q->target.addr.host = pj_str(q->host);
    q->tdata = ((pjsip_send_state *)token)->tdata;
    tsx = q->tdata->mod_data[pjsip_tsx_layer_instance()->id];
    if (tsx) {
        q->lock = tsx->grp_lock;
        pj_grp_lock_add_ref(q->lock);
    }
    q->client = client_of(q->tdata->msg);
    if (q->client) {
        client_resolving(q->client, q);
        event.handle = q->client->handle;
    }
    fit_to_transport(q);
    event.request = q->id;
    queue_push(&event, text, NULL);
}

static void query_free(query *q)
{
    if (q->lock)
        pj_grp_lock_dec_ref(q->lock);
    free(q);
}

static query *query_unlink(uint64_t id)
{
    query *q = map_remove(&pjpy.queries, id);

    if (q && q->client && q->client->query == q)
        q->client->query = NULL;
    return q;
}

void query_fail(query *q, pj_status_t status)
{
    pjsip_server_addresses none = { 0 };

    query_unlink(q->id);
    q->done(status, q->token, &none);
    query_free(q);
}

static int do_resolved(command *cmd)
{
    query *q = query_unlink(cmd->request);

    if (!q)
        return PJPY_ESTALE;
    give_addresses(&q->target, q->token, q->done, cmd->text, cmd->length);
    query_free(q);
    return 0;
}

/* ---------------------------------------------------------- keep-alive */

static int32_t wanted_id;
static connection *found_connection;

static void match_connection(void *value)
{
    connection *c = value;

    if (c->id == wanted_id)
        found_connection = c;
}

static connection *connection_by_id(int32_t id)
{
    wanted_id = id;
    found_connection = NULL;
    map_each(&pjpy.connections, match_connection);
    return found_connection && !found_connection->lost ? found_connection
                                                       : NULL;
}

static int do_ping(command *cmd)
{
    static const char breaks[] = "\r\n\r\n";
    pjsip_tpselector through = { .type = PJSIP_TPSELECTOR_TRANSPORT };
    pj_str_t text = pj_str(cmd->text);
    pj_sockaddr address;
    pj_status_t status = PJ_SUCCESS;

    if (cmd->value) {
        connection *c = connection_by_id((int32_t)cmd->value);
        if (!c)
            return PJPY_ESTALE;
        through.u.transport = c->tp;
        c->pinged = 1;
        pj_sockaddr_cp(&address, &c->tp->key.rem_addr);
    } else {
        transport *t = handle_get(cmd->handle, OBJ_TRANSPORT);
        if (!t || !t->udp)
            return PJPY_ESTALE;
        through.u.transport = t->udp;
        status = pj_sockaddr_parse(pj_AF_UNSPEC(), 0, &text, &address);
    }
    if (status == PJ_SUCCESS)
        status = pjsip_tpmgr_send_raw(
            pjsip_endpt_get_tpmgr(pjpy.endpoint), through.u.transport->key.type,
            &through, NULL, breaks, sizeof breaks - 1, &address,
            pj_sockaddr_get_len(&address), NULL, NULL);
    return status == PJ_EPENDING ? PJ_SUCCESS : status;
}

/* One line break by itself answers a keep-alive; two are the other end's
   own, and anything more is nobody's. */
static void on_dropped(pjsip_tp_dropped_data *dropped)
{
    connection *c = connection_of(dropped->tp);
    pjpy_event event = { .kind = PJPY_EV_PONG };

    if (!c || !c->pinged || dropped->status != PJ_EIGNORED || dropped->len != 2)
        return;
    c->pinged = 0;
    event.value[2] = c->id;
    queue_push(&event, NULL, NULL);
}

static int do_connection_close(int32_t id)
{
    connection *c = connection_by_id(id);

    return c ? pjsip_transport_shutdown(c->tp) : PJPY_ESTALE;
}

/* -------------------------------------------------------------- worker */

pj_status_t transport_open(void)
{
    static pjsip_ext_resolver resolver = { on_resolve };
    pjsip_tpmgr *manager = pjsip_endpt_get_tpmgr(pjpy.endpoint);
    pj_status_t status;

    next_state_cb = pjsip_tpmgr_get_state_cb(manager);
    status = pjsip_tpmgr_set_state_cb(manager, on_transport_state);
    if (status == PJ_SUCCESS)
        status = pjsip_tpmgr_set_drop_data_cb(manager, on_dropped);
    if (status == PJ_SUCCESS)
        status = pjsip_endpt_set_ext_resolver(pjpy.endpoint, &resolver);
    return status;
}

static void close_each(void *object)
{
    transport *t = object;

    handle_free(t->handle, OBJ_TRANSPORT);
    transport_free(t);
}

static void free_query(void *value)
{
    query_free(value);
}

static void connection_free(void *value)
{
    free(value);
}

void transport_free_all(void)
{
    handle_each(OBJ_TRANSPORT, close_each);
    pjsip_tpmgr_set_state_cb(pjsip_endpt_get_tpmgr(pjpy.endpoint),
                             next_state_cb);
    map_each(&pjpy.connections, connection_free);
    pjpy.incoming = 0;
    transport_forget_ended();
    map_each(&pjpy.queries, free_query);
    map_clear(&pjpy.queries);
}

int transport_command(command *cmd)
{
    switch (cmd->kind) {
    case CMD_LISTEN: return do_listen(cmd, cmd->sync->in, cmd->sync->out);
    case CMD_TRANSPORT_CLOSE: return do_close(cmd->handle);
    case CMD_PING: return do_ping(cmd);
    case CMD_CONNECTION_CLOSE: return do_connection_close((int32_t)cmd->value);
    case CMD_TLS_RELOAD: return do_reload(cmd);
    default: return do_resolved(cmd);
    }
}

/* -------------------------------------------------------- from Python */

int pjpy_listen(int protocol, const char *host, int port, const pjpy_tls *tls,
                pjpy_listening *result)
{
    listening in = { tls, NULL };
    command *cmd;
    int status = tls ? tls_context_new(tls, &result->error, &in.context) : 0;

    if (status)
        return status;
    cmd = command_new(CMD_LISTEN, host, strlen(host));
    if (cmd) {
        cmd->what = protocol;
        cmd->value = (uint32_t)port;
    }
    status = command_call(cmd, &in, result);
    tls_context_free(in.context);
    return status;
}

int pjpy_tls_check(const pjpy_tls *tls, pjpy_tls_error *error)
{
    struct ssl_ctx_st *context;
    int status = tls_context_new(tls, error, &context);

    tls_context_free(context);
    return status;
}

int pjpy_tls_reload(uint64_t handle, const pjpy_tls *tls, pjpy_tls_error *error)
{
    struct ssl_ctx_st *context;
    command *cmd;
    int status = PJPY_BUNDLED ? tls_context_new(tls, error, &context)
                              : tls_needs_bundled(error, "reload_tls");

    if (status)
        return status;
    cmd = command_new(CMD_TLS_RELOAD, NULL, 0);
    if (cmd)
        cmd->handle = handle;
    status = command_call(cmd, &context, NULL);
    tls_context_free(context);
    return status;
}

int pjpy_transport_close(uint64_t handle)
{
    command *cmd = command_new(CMD_TRANSPORT_CLOSE, NULL, 0);

    if (cmd)
        cmd->handle = handle;
    return command_call(cmd, NULL, NULL);
}

int pjpy_resolved(uint64_t id, const char *addresses, size_t length)
{
    command *cmd = command_new(CMD_RESOLVED, addresses, length);

    if (cmd)
        cmd->request = id;
    return command_post(cmd);
}

int pjpy_ping(uint64_t transport, int32_t connection, const char *address)
{
    command *cmd = command_new(CMD_PING, address, strlen(address));

    if (cmd) {
        cmd->handle = transport;
        cmd->value = (uint32_t)connection;
    }
    return command_post(cmd);
}

int pjpy_connection_close(int32_t connection)
{
    command *cmd = command_new(CMD_CONNECTION_CLOSE, NULL, 0);

    if (cmd)
        cmd->value = (uint32_t)connection;
    return command_post(cmd);
}

/* Enters no PJSIP: any thread may wait for the kernel. */
int pjpy_local_address(char address[64])
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a = { 0 };
    socklen_t size;
    int s, error = 0;

    if (inet_pton(AF_INET, address, &a.v4.sin_addr) == 1) {
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = htons(9);
        size = sizeof a.v4;
    } else if (inet_pton(AF_INET6, address, &a.v6.sin6_addr) == 1) {
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = htons(9);
        size = sizeof a.v6;
    } else {
        return EINVAL;
    }
    s = socket(a.any.sa_family, SOCK_DGRAM, 0); /* for microseconds */
    if (s < 0)
        return errno;
    if (connect(s, &a.any, size) || getsockname(s, &a.any, &size) ||
        !inet_ntop(a.any.sa_family,
                   a.any.sa_family == AF_INET ? (void *)&a.v4.sin_addr
                                              : (void *)&a.v6.sin6_addr,
                   address, 64))
        error = errno;
    close(s);
    return error;
}
