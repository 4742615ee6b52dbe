/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * All that Python sees of C.  The shim includes this very file (through
 * pjsip_py.h) and cffi parses it, so the two cannot drift apart.
 *
 * Every function may be called from any Python thread.  None of them enters
 * PJSIP: they put a command on the worker's queue, or take events from it.
 * A return value below zero is one of pjpy_error; above zero a pj_status_t.
 */

enum pjpy_error {
    PJPY_ECLOSED = -1,          /* no engine is running */
    PJPY_EFORKED = -2,          /* the engine belongs to the parent process */
    PJPY_EBUSY = -3,            /* an engine is already running */
    PJPY_ESTALE = -4,           /* the handle's object is gone */
    PJPY_ETIMEDOUT = -5,        /* the worker did not answer in time */
    PJPY_ENOMEM = -6,
    PJPY_EINVAL = -7,
    PJPY_EPLATFORM = -8,        /* a system call failed, see errno */
    PJPY_ETLS = -9              /* see pjpy_tls_error */
};

/* ------------------------------------------------------------- events */

enum pjpy_event_kind {
    PJPY_EV_REG_STARTED = 1,    /* a REGISTER goes out */
    PJPY_EV_REG_STATE = 2,      /* the one outcome of a request or refresh */
    PJPY_EV_DONE = 3,           /* the outcome of a request without REGISTER */
    PJPY_EV_TRANSPORT = 4,
    PJPY_EV_RESOLVE = 5,        /* a host name waits for pjpy_resolved() */
    PJPY_EV_MESSAGE = 6,        /* trace: may be dropped */
    PJPY_EV_LOG = 7,            /* may be dropped */
    PJPY_EV_DROPPED = 8,        /* how many of the two kinds above were lost */
    PJPY_EV_TIMER = 9,          /* pjpy_call_later()'s time has come */
    PJPY_EV_PONG = 10,          /* a keep-alive was answered */
    PJPY_EV_CHALLENGE = 11      /* waits for pjpy_client_answer() */
};

enum pjpy_event_flag {
    PJPY_F_RENEWAL = 1,         /* PJSIP's own refresh, not a request */
    PJPY_F_UNREGISTER = 2,
    PJPY_F_LOCAL = 4,           /* no response came off the wire */
    PJPY_F_TIMEOUT = 8,         /* the request's own timeout ended it */
    PJPY_F_CANCELLED = 16,
    PJPY_F_DOWNGRADE = 32,      /* the challenge was below min_algorithm */
    PJPY_F_OUTGOING = 64,       /* trace: sent by us */
    PJPY_F_HANDSHAKE = 128,     /* its TLS connection never got through */
    PJPY_F_INCOMING = 256       /* a connection that the other end made */
};

/*
 * One event, followed by its strings (UTF-8 or whatever the wire held).
 *
 *               value[]                                    strings
 *  REG_STATE    0 granted expires (s, -1 none)             0 reason
 *               1 algorithm (pjpy_algorithm), and the      1 response, whole
 *                 offered ones from bit 8 on
 *               2 connection id                            2 source address
 *               3 earlier refresh outcomes it stands for   3 local address,
 *                                                            where the
 *                                                            registrar sees
 *                                                            us, Flow-Timer
 *               4 why TLS failed (PJ_SSL_CERT_E... and
 *                 pjpy_tls_why)
 *               5 next refresh (s from now, -1 none)
 *               6 Min-Expires of a 423 on the way (s, 0 none)
 *               7 REGISTERs sent, each answer to a challenge one more
 *  TRANSPORT    0 protocol  1 state  2 connection id       0 local address
 *               4 why TLS failed                           1 remote address
 *                                                          2 reason  3 TLS:
 *                                                            "name=value"
 *                                                            lines, NUL, the
 *                                                            certificate
 *                                                            (DER)
 *  RESOLVE      0 protocol  1 port (0: default)            0 host
 *               (handle: the client that asks, 0: none)
 *  PONG         2 connection id
 *  CHALLENGE    (request: its id)                          0 for each realm:
 *                                                            "proxy algorithm
 *                                                            offered refused",
 *                                                            realm
 *                                                          1 response, whole
 *  MESSAGE      0 protocol                                 0 local  1 remote
 *                                                          2 message
 *  LOG          0 level                                    0 text
 *  DROPPED      0 trace records  1 log records
 */
typedef struct pjpy_event {
    uint32_t size;              /* of the record, a multiple of 8 */
    uint16_t kind;
    uint16_t flags;
    uint64_t seq;               /* counts every record ever queued */
    uint64_t handle;
    uint64_t request;           /* id given with the command; 0: none */
    int64_t monotonic_ns;
    int64_t wall_ns;
    int32_t status;             /* pj_status_t, or 0 */
    int32_t code;               /* SIP status code */
    int32_t value[8];
    uint32_t length[4];
} pjpy_event;

enum pjpy_algorithm {
    PJPY_ALG_NONE = 0,
    PJPY_ALG_MD5 = 1,
    PJPY_ALG_SHA256 = 2,
    PJPY_ALG_SHA512_256 = 3,
    PJPY_ALG_OTHER = 4,
    PJPY_ALG_BEARER = 5
};

/* ------------------------------------------------------------- engine */

typedef struct pjpy_config {
    const char *user_agent;
    uint32_t tick_ms;           /* longest sleep of the worker */
    uint32_t t1_ms, t2_ms, t4_ms, td_ms;
    uint32_t log_level;         /* PJSIP's: 0 none .. 5 */
    uint32_t trace;             /* 1: MESSAGE events */
    uint32_t seeded;            /* 1: identifiers follow from seed */
    uint64_t seed;
    uint32_t droppable_limit;   /* bytes of trace and log that may wait */
    uint32_t outcome_limit;     /* bytes of the rest before refresh outcomes
                                   of one client are merged */
    uint32_t virtual_clock;     /* 1: time begins as below, and moves by
                                   pjpy_clock_turn() only */
    int64_t monotonic_ns, wall_ns;
} pjpy_config;

typedef struct pjpy_stats {
    uint64_t events_queued, events_taken, outcomes_merged;
    uint64_t dropped_trace, dropped_log;
    uint64_t late_events;       /* callbacks for objects already closed */
    uint64_t retransmissions;   /* of REGISTERs, over UDP */
    uint64_t assertions;        /* PJSIP assertions that did not hold */
    uint64_t commands, wakeups;
    uint32_t clients, transports, connections, resolving;
    uint32_t tls_contexts;
    uint64_t pools;             /* memory pools that PJSIP has in use */
} pjpy_stats;

int pjpy_start(const pjpy_config *config);
int pjpy_stop(int timeout_ms);
int pjpy_running(void);
int pjpy_set_trace(int on);
int pjpy_set_started(int on);   /* REG_STARTED events; off: nobody looks */
int pjpy_get_stats(pjpy_stats *stats);
const char *pjpy_last_assertion(void);

/*
 * An engine on a virtual clock looks at its sockets and timers only here: it
 * is now_ns, the worker does all there is to do, and tells what that was.
 * PJPY_EINVAL: the engine runs in real time.
 */
typedef struct pjpy_turn {
    int64_t next_ns;            /* when the next timer is due; -1: none */
    uint64_t worked;            /* commands, packets and timers so far */
    uint64_t sent, received;    /* SIP messages so far */
    uint64_t events;            /* records queued so far */
    uint64_t posted;            /* pjpy_posted() when all that had been was
                                   done */
    uint32_t in_flight;         /* REGISTERs without an answer */
} pjpy_turn;

int pjpy_clock_turn(int64_t now_ns, pjpy_turn *turn);
/* Commands and records queued so far. */
uint64_t pjpy_posted(void);

/* Copies whole records and writes their length to taken; 0: none within
   timeout_ms; below 0: the first record needs a buffer of that many bytes.
   The length is memory of the caller's, so that it is not lost when a signal
   handler raises on the way back. */
void pjpy_take(void *buffer, size_t size, int timeout_ms, long *taken);
/* Readable while events wait. */
int pjpy_event_fd(void);
/* A TIMER event with this request id after delay_ms, on PJSIP's own timer
   heap; 0: at once, in its turn behind the events queued so far. */
int pjpy_call_later(uint64_t request, uint32_t delay_ms);
int pjpy_call_cancel(uint64_t request);
/* Makes every pjpy_take() that waits return. */
void pjpy_interrupt(void);

/* ---------------------------------------------------------- transports */

enum pjpy_protocol {
    PJPY_PROTOCOL_UDP = 1, PJPY_PROTOCOL_TCP = 2, PJPY_PROTOCOL_TLS = 3,   /* PJSIP's transport types */
    PJPY_PROTOCOL_IPV6 = 128
};

enum pjpy_transport_state {
    PJPY_TP_LISTENING = 1, PJPY_TP_CONNECTED = 2, PJPY_TP_DISCONNECTED = 3,
    PJPY_TP_SHUTDOWN = 4, PJPY_TP_DESTROYED = 5, PJPY_TP_CLOSED = 6
};

/* Bits that PJ_SSL_CERT_E... leaves free. */
enum pjpy_tls_why {
    PJPY_TLS_EXPIRED = 1 << 10,
    PJPY_TLS_NOT_YET_VALID = 1 << 11,
    PJPY_TLS_SELF_SIGNED = 1 << 12,
    PJPY_TLS_UNKNOWN_CA = 1 << 13,
    PJPY_TLS_WEAK = 1 << 14,            /* key or signature */
    PJPY_TLS_NUL_IN_NAME = 1 << 15,
    PJPY_TLS_WILDCARD = 1 << 16,        /* would have been the name */
    PJPY_TLS_CLIENT_CERT_MISSING = 1 << 17,
    PJPY_TLS_CLIENT_CERT_REVOKED = 1 << 18,
    PJPY_TLS_CLIENT_CERT_REFUSED = 1 << 19,
    PJPY_TLS_NO_VERSION = 1 << 20,
    PJPY_TLS_NO_CIPHER = 1 << 21,
    PJPY_TLS_PLAIN_TEXT = 1 << 22,
    PJPY_TLS_TIMEOUT = 1 << 23,
    PJPY_TLS_CLOSED = 1 << 24,          /* by the peer, in the handshake */
    PJPY_TLS_SERVER_NAME = 1 << 25,     /* the peer does not know ours */
    PJPY_TLS_PROTOCOL = 1 << 26         /* anything else that TLS forbids */
};

/* Strings; NULL for what is not wanted.  data: PEM. */
typedef struct pjpy_tls {
    const char *ca_file, *ca_path, *ca_data;
    const char *cert_file, *cert_data;
    const char *key_file, *key_data, *key_password;
    const char *crl_file;
    const char *ciphers;        /* names, a space between two */
    const char *server_name;    /* in place of the host of the URI */
    const char *keylog_file;
    uint32_t verify;            /* 1: verify the server we connect to */
    uint32_t protocols;         /* PJ_SSL_SOCK_PROTO_... bits */
    uint32_t timeout_ms;        /* of the handshake */
} pjpy_tls;

typedef struct pjpy_tls_error {
    int32_t argument;           /* 1: wrong in itself; 0: does not serve */
    char field[32];             /* of pjpy_tls; two with a comma between */
    char reason[200];
} pjpy_tls_error;

typedef struct pjpy_listening {
    uint64_t handle;
    int32_t port;
    char host[64];              /* the address bound */
    char published[256];        /* the address PJSIP would put in Contact */
    pjpy_tls_error error;       /* PJPY_ETLS */
} pjpy_listening;

int pjpy_listen(int protocol, const char *host, int port, const pjpy_tls *tls,
                pjpy_listening *result);
int pjpy_transport_close(uint64_t handle);
/* Reads all of it as pjpy_listen() would, and opens nothing. */
int pjpy_tls_check(const pjpy_tls *tls, pjpy_tls_error *error);
/* For connections from now on. */
int pjpy_tls_reload(uint64_t transport, const pjpy_tls *tls,
                    pjpy_tls_error *error);
/* Our address, as the routing table has it, towards this IP literal, whose
   own memory takes it; 0 or errno.  A socket is connected, nothing is sent. */
int pjpy_local_address(char address[64]);
/* addresses: "host:port" with an IP literal for host, an IPv6 one in
   brackets, and 0 for the default port; each ended by NUL; none: the name is
   unknown */
int pjpy_resolved(uint64_t query, const char *addresses, size_t length);
/* A keep-alive of two line breaks (RFC 5626, 3.5.1): over a connection, or,
   with connection 0, from a UDP transport to "host:port". */
int pjpy_ping(uint64_t transport, int32_t connection, const char *address);
/* Lets nobody use this connection any more; who does loses it. */
int pjpy_connection_close(int32_t connection);

/* -------------------------------------------------------- registration */

enum pjpy_request {
    PJPY_REGISTER = 1, PJPY_UNREGISTER = 2, PJPY_UNREGISTER_ALL = 3,
    PJPY_SET_CONTACTS = 4, PJPY_SET_EXPIRES = 5, PJPY_SET_CREDENTIALS = 6,
    PJPY_SET_TRANSPORT = 7
};

typedef struct pjpy_info {
    int32_t create_status, busy, auto_refresh;
    int32_t interval, next_refresh;     /* s, -1 none */
    int32_t connection;
    uint32_t waiting;
    char call_id[64];
} pjpy_info;

/*
 * The handle, or a negative error.  The worker makes the regc with the first
 * request, so that a client and its REGISTER cost one wake-up.
 *
 * text: the strings below, each ended by NUL, in this order:
 *   registrar, AOR (To), From, contacts, routes,
 *   headers (name, value each),
 *   credentials (realm, user name, secret, kind, minimum each; kind: "" for
 *   a password, the algorithm of an HA1, "Bearer" for a token, "bearer" for
 *   one that needs no TLS; minimum: the weakest algorithm that may prove a
 *   password, or "")
 * expires: s; UINT32_MAX: no Expires header
 * ask_credentials: 1: CHALLENGE events
 * refresh_margin: s before expiry; UINT32_MAX: a fifth of the grant, 5 to 32
 * transport: handle; 0: any that fits
 * credentials_of: handle of a client that was given them; 0
 */
int64_t pjpy_client_create(const char *text, size_t length, uint32_t contacts,
                           uint32_t routes, uint32_t headers,
                           uint32_t credentials, uint32_t expires,
                           uint32_t ask_credentials, uint32_t refresh_margin,
                           uint64_t transport, uint64_t credentials_of);
/*
 * Requests of one client run one at a time, in order.
 * value: REGISTER 1 to refresh on its own; SET_EXPIRES the seconds;
 *        SET_CREDENTIALS as ask_credentials.
 * text:  SET_CONTACTS and SET_CREDENTIALS, as in pjpy_client_create();
 *        SET_TRANSPORT the handle in decimal.
 */
int pjpy_client_request(uint64_t handle, uint64_t request, int what,
                        uint32_t value, uint32_t timeout_ms,
                        const char *text, size_t length, uint32_t count);
/* text: credentials as in pjpy_client_create(); none: there are none. */
int pjpy_client_answer(uint64_t handle, uint64_t challenge, const char *text,
                       size_t length, uint32_t count);
/* request 0: PJSIP's own refresh */
int pjpy_client_cancel(uint64_t handle, uint64_t request);
int pjpy_client_info(uint64_t handle, pjpy_info *info);
int pjpy_client_destroy(uint64_t handle);

/* --------------------------------------------------------------- texts */

int pjpy_strerror(int status, char *buffer, size_t size);
size_t pjpy_redact(char *message, size_t length);
const char *pjpy_version(void);
const char *pjpy_build_info(void);
