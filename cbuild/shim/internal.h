/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the shim's own files share.  "worker" marks what only the worker
   thread may call: it is the one thread that ever enters PJSIP. */
#ifndef PJSIP_PY_INTERNAL_H
#define PJSIP_PY_INTERNAL_H

#include <pjlib-util.h>
#include <pjlib.h>
#include <pjsip.h>
#include <pjsip-ua/sip_regc.h>
#include <pthread.h>

#include "clock.h"
#include "pjsip_py.h"

/* Locks that are held for less time than it takes to sleep and be woken. */
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
#define SPINNING_MUTEX PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
#else
#define SPINNING_MUTEX PTHREAD_MUTEX_INITIALIZER
#endif

/* ------------------------------------------------------------ handles */

enum object_kind { OBJ_CLIENT = 1, OBJ_TRANSPORT = 2 };

uint64_t handle_new(enum object_kind kind, void *object);
void *handle_get(uint64_t handle, enum object_kind kind);
void *handle_free(uint64_t handle, enum object_kind kind);
void handle_each(enum object_kind kind, void (*visit)(void *object));
uint32_t handle_count(enum object_kind kind);
void handle_fork(int locked);   /* around fork(): 1 before, 0 after */

/* ------------------------------------------------------------- memory */

extern const pj_pool_factory_policy block_policy;
void blocks_close(void);

/* ---------------------------------------------------------- int -> ptr */

typedef struct map {
    struct map_slot *slots;
    size_t used, capacity;
} map;

int map_put(map *m, uint64_t key, void *value);
void *map_get(const map *m, uint64_t key);
void *map_remove(map *m, uint64_t key);
void map_each(const map *m, void (*visit)(void *value));
void map_clear(map *m);
uint64_t map_hash(const char *text, size_t length);

/* ----------------------------------------------------------- commands */

enum command_kind {
    CMD_CLIENT_REQUEST = 1,
    CMD_CLIENT_CANCEL,
    CMD_CLIENT_DESTROY,
    CMD_CLIENT_ANSWER,
    CMD_CLIENT_INFO,
    CMD_LISTEN,
    CMD_TRANSPORT_CLOSE,
    CMD_RESOLVED,
    CMD_PING,
    CMD_CONNECTION_CLOSE,
    CMD_TLS_RELOAD,
    CMD_TIMER,
    CMD_TIMER_CANCEL,
    CMD_STRERROR,
    CMD_STATS,
    CMD_CLOCK_TURN
};

/* A request of a client is its command, which moves to the client's own
   queue and is freed with its outcome. */
typedef struct command {
    struct command *next;
    int kind;
    int what;
    struct client *client;      /* the queue it waits in */
    pj_timer_entry timer;       /* runs while it waits */
    int64_t deadline_ns;
    uint64_t handle, request;
    uint32_t value, timeout_ms, count;
    struct sync_call *sync;
    size_t length;
    char text[];
} command;

/* A command whose poster waits for the worker's answer. */
typedef struct sync_call {
    int done, status;
    void *in, *out;
} sync_call;

command *command_new(int kind, const char *text, size_t length);
int command_post(command *cmd);
void command_free(command *cmd);
int command_call(command *cmd, void *in, void *out);

/* ------------------------------------------------------------- events */

typedef struct event_text {
    const char *ptr;
    size_t length;
} event_text;

struct client;

void queue_open(uint32_t droppable_limit, uint32_t outcome_limit);
void queue_close(void);
/* Copies the record; owner: the client whose refresh outcome this is, so
   that a later one can stand for it when Python does not keep up. */
void queue_push(pjpy_event *event, const event_text text[4],
                struct client *owner);
void queue_drop_log(void); /* one that is not even pushed */
void queue_hold(int on); /* what this thread pushes until queue_flush() */
void queue_flush(void);
void queue_forget(struct client *owner);
void queue_stats(pjpy_stats *stats);
void queue_fork(int locked);

/* ------------------------------------------------------------- engine */

typedef struct engine {
    pj_caching_pool pools;
    pjsip_endpoint *endpoint;
    pj_pool_t *pool;
    pjsip_module watch;         /* next to the wire: trace, REGISTER watch */
    pjsip_module answer;        /* requests that nobody else took */
    int lost;                   /* a connection ended in this turn */
    unsigned incoming;          /* connections that others made */
    int trace, started;         /* which events are wanted */
    int tokens;                 /* some client has a Bearer token in use */
    uint64_t late_events, retransmissions;
    uint64_t sent, received;    /* SIP messages */
    uint64_t commands, worked;  /* done; worked: and packets, and timers */
    map connections;            /* pjsip_transport* -> connection */
    map timers;                 /* request id -> alarm */
    map calls;                  /* Call-ID hash -> client */
    struct client *ready;       /* clients that may start a request */
    map queries;                /* id -> query: names that Python resolves */
    map listeners;              /* pjsip_tpfactory* -> transport, of TLS */
} engine;

extern engine pjpy;

/* Calls work while the state is "running" and it cannot change under it. */
int engine_while_running(int (*work)(void *argument), void *argument);

/* Overwrites, and the compiler may not leave it out. */
void wipe(void *memory, size_t size);
/* A condition whose deadlines count on a clock that nobody sets, and such a
   deadline. */
void condition_open(pthread_cond_t *condition);
void deadline_in(struct timespec *deadline, int timeout_ms);
void entropy_open(int seeded, uint64_t seed);
uint64_t assertion_count(void);

/* ------------------------------------------------------------- client */

/* An outcome without a response, kept until the worker is out of PJSIP:
   PJSIP may report one failure twice, from inside its own send and again
   when that returns. */
typedef struct stash {
    int used, code;
    pj_status_t status;
    uint32_t verify_status;
    int flags;
} stash;

typedef struct secrets secrets;

/* What pjpy_client_create() was given. */
typedef struct registration {
    char *text; /* until the regc is created */
    size_t length;
    uint32_t contacts, routes, headers, credentials;
    uint32_t expires, ask_credentials, refresh_margin;
    uint64_t transport, credentials_of;
} registration;

typedef struct client {
    uint64_t handle;
    pjsip_regc *regc;
    pj_status_t create_status;
    registration registration;
    command *waiting, **waiting_tail;
    command *current;           /* the request in flight */
    struct client *ready_next;
    struct event_node *queued;  /* a refresh outcome not yet taken */
    pjsip_transaction *tsx;     /* the one in flight, referenced */
    const void *pinned;         /* to this transport or listener */
    pjsip_transport *transport; /* it was sent on: only compared, never used */
    int32_t connection;
    uint32_t refresh_timeout_ms; /* PJSIP's refreshes are bounded like the
                                    REGISTER that asked for them */
    struct query *query; /* the name it waits for */
    pj_timer_entry timer; /* of the request's own timeout */
    stash stash;
    secrets *secrets;
    const pjsip_cred_info *proof[2]; /* Bearer tokens in use: the registrar's,
                                        a proxy's */
    struct asking *asking; /* the challenge that Python has to answer */
    pj_status_t auth_status; /* why a challenge was not answered */
    unsigned offered : 8; /* in challenges, a bit for each pjpy_algorithm */
    unsigned algorithm : 4; /* of the last Authorization sent */
    unsigned asked : 4; /* times, for this outcome */
    unsigned asked_again : 8; /* after a refusal: a bit for a realm */
    unsigned asks : 1; /* Python for credentials */
    unsigned renewing : 1; /* PJSIP's own refresh is in flight */
    unsigned is_ready : 1;
    unsigned timed_out : 1;
    unsigned cancelled : 1;
    unsigned transport_gone : 1;
    unsigned abandoned : 1; /* the next callback comes too late */
    uint32_t min_expires; /* of a 423 on the way */
    uint32_t requests; /* REGISTERs sent for this outcome */
    char call_id[40];
} client;

/* worker */
int client_command(command *cmd);
void client_run_ready(void);
client *client_of(const pjsip_msg *msg); /* by its Call-ID */
pj_status_t client_on_tx(pjsip_tx_data *tdata);
void client_leave_connection(client *c);
void client_leave_transport(client *c, const void *transport);
void client_resolving(client *c, struct query *q);
void client_free_all(void);
/* Takes the next string of a text whose strings end in NUL. */
pj_str_t client_take(const char **text);
/* The outcome is this response, which nobody will answer. */
void client_refused(client *c, pjsip_rx_data *rdata, pj_status_t status);

/* ----------------------------------------------------- authentication */

/* A challenge that is answered by nothing above the weakest algorithm that
   is allowed. */
#define PJPY_STATUS_DOWNGRADE (PJ_ERRNO_START_USER + 1)

/* worker */
pj_status_t auth_set_credentials(client *c, const char **text, uint32_t count,
                                 uint32_t asks, const client *like);
pj_bool_t auth_on_challenge(pjsip_auth_clt_sess *session, void *token,
                            const pjsip_auth_clt_async_on_chal_param *param);
int auth_answer(command *cmd);
void auth_abandon(client *c);
int auth_is_over(const client *c);
void auth_on_refusal(client *c);
void auth_on_success(client *c, const pjsip_rx_data *rdata);
pj_status_t auth_on_tx(pjsip_tx_data *tdata);
unsigned auth_algorithm(const client *c, pjsip_msg *request);
void auth_close(client *c);

/* ---------------------------------------------------------- transport */

struct tls_box;

typedef struct transport {
    uint64_t handle;
    pjsip_transport *udp;
    pjsip_tpfactory *factory;
    struct tls_box *tls;
} transport;

typedef struct connection {
    struct connection *next; /* of those that ended in this turn */
    int32_t id;
    pjsip_transport *tp;
    pj_status_t status; /* why it failed */
    uint32_t verify_status; /* … in bits of TLS */
    int secure, established, lost; /* secure: TLS has begun */
    int pinged; /* a keep-alive of ours has no answer yet */
    int incoming, refused;
    int used; /* by a registration */
    unsigned answers_unsent; /* to requests that nobody took */
} connection;

typedef struct query {
    uint64_t id;
    pjsip_host_info target;
    void *token;
    pjsip_resolver_callback *done;
    client *client;
    pjsip_tx_data *tdata; /* held by PJSIP until done() */
    pj_grp_lock_t *lock; /* of its transaction: the message points into
                            that one's pool, and must not outlive it */
    char host[];
} query;

/* worker */
pj_status_t transport_open(void);
int transport_command(command *cmd);
connection *connection_of(pjsip_transport *tp);
connection *connection_for(pjsip_transport *tp); /* makes it if need be */
/* Also one that was destroyed in this turn of the worker. */
const connection *connection_with(pjsip_transport *tp, int32_t id);
void transport_forget_ended(void);
void query_fail(query *q, pj_status_t status);
void transport_free_all(void);
void transport_let_go(void); /* of connections that have ended */
int transport_protocol(const pjsip_transport *tp);
void transport_heard(pjsip_transport *tp); /* a message came */

/* ------------------------------------------- requests that nobody took */

/* worker */
void answer_open(void);
pj_bool_t answer_request(pjsip_rx_data *rdata);

/* ------------------------------------------------------------- timers */

/* worker */
int alarm_command(command *cmd);
void alarm_free_all(void);

/* -------------------------------------------------------------- trace */

/* worker */
pj_status_t trace_open(void);
void trace_log(int level, const char *text, int length);

#endif
