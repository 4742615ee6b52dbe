/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Every switch of pjlib, pjlib-util and pjsip that differs from upstream's default, with its reason.
 *
 * Limits change the layout of structures, so the library, the shim and cffi's glue all read this one
 * file.  pjpy_config.h is written by meson.build from the options of the build (meson.options). */
#ifndef PJPY_CONFIG_SITE_H
#define PJPY_CONFIG_SITE_H

#include <pjpy_config.h>

/* --- Checks --------------------------------------------------------------------------------- */

/* A release build in every part: PJ_DEBUG changes structures (pool names, lock bookkeeping). */
#define PJ_DEBUG 0

/* A violated assertion is counted and reported by the shim, and the caller of PJ_ASSERT_RETURN and
 * PJ_ASSERT_ON_FAIL goes its error path; upstream would abort the process, or only log. */
void pjpy_assert_failed(const char *expression, const char *file, int line);
#define pj_assert(expr)                                                                            \
    do {                                                                                           \
        if (!(expr))                                                                               \
            pjpy_assert_failed(#expr, __FILE__, __LINE__);                                         \
    } while (0)
#define PJ_ASSERT_LOG(expr, ...) pj_assert(expr)

/* With a sanitizer each pool allocation becomes a malloc, else pools would hide overruns. */
#define PJ_POOL_DEBUG PJPY_POOL_DEBUG

/* Off: at shutdown it would print the timer heap to the log. */
#define PJ_TIMER_DEBUG 0

/* Upstream's reminders to its own authors are no warnings of ours. */
#define PJ_TODO(id)

/* --- Secrets -------------------------------------------------------------------------------- */

/* A released pool is overwritten: passwords and digests do not stay behind in free memory. */
#define PJ_POOL_RELEASE_WIPE_DATA 1

/* --- Network -------------------------------------------------------------------------------- */

#define PJ_HAS_IPV6 1

/* TLS by OpenSSL, which SHA-256 and SHA-512-256 digests need as well; PJSIP_PY_TLS=off leaves both
 * out. */
#if PJPY_WITH_TLS
#   define PJ_HAS_SSL_SOCK 1
#   define PJ_SSL_SOCK_IMP PJ_SSL_SOCK_IMP_OPENSSL
#else
#   define PJ_HAS_SSL_SOCK 0
#   define PJ_SSL_SOCK_IMP PJ_SSL_SOCK_IMP_NONE
#endif

/* Sockets of one endpoint (upstream: 64).  One client needs few, a TCP or TLS load test one for each
 * connection.  With epoll a slot costs nothing before it is used (vendor/patches.toml); elsewhere
 * 0.7 kB and 0.5 us when the endpoint is created. */
#define PJ_IOQUEUE_MAX_HANDLES PJPY_MAX_HANDLES

/* Plain level-triggered epoll.  Upstream's EPOLLEXCLUSIVE is for several polling threads and costs
 * two more epoll_ctl calls for each packet; here one thread polls. */
#define PJ_IOQUEUE_DEFAULT_EPOLL_FLAGS 0

/* What one poll may do (upstream: 1 packet, 10 timers), so that bursts are handled as bursts. */
#define PJSIP_MAX_NET_EVENTS 16
#define PJSIP_MAX_TIMED_OUT_ENTRIES 256

/* Buckets of the transport table (2^n - 1; upstream: 31), for thousands of connections. */
#define PJSIP_TPMGR_HTABLE_SIZE 1023

/* Bursts of registrations: a large receive buffer (the kernel cuts it to net.core.rmem_max without
 * an error) and a longer queue of connections (upstream: 5; for TLS, PJSIP's own name for it is read by
 * nobody, and pjlib's counts). */
#define PJSIP_UDP_SO_RCVBUF_SIZE (4 * 1024 * 1024)
#define PJSIP_TCP_TRANSPORT_BACKLOG 128
#define PJ_SOMAXCONN 128

/* Seconds that a connection which somebody made to us may take to send a first SIP message (upstream:
 * no limit, so that silent ones stay for ever); idle later on, it lives for upstream's 600 s. */
#define PJSIP_TRANSPORT_SERVER_IDLE_TIME_FIRST 32

/* Addresses of one host name that are tried (upstream: 32 with IPv6).  Each message in flight
 * carries the whole list. */
#define PJSIP_MAX_RESOLVED_ADDRESSES 8

/* --- Messages ------------------------------------------------------------------------------- */

/* Longest URI (upstream: 256, too short for GRUUs and pushed tokens). */
#define PJSIP_MAX_URL_SIZE 1024

/* Longest message (upstream: 4000, tight with several Path, Route and certificate headers). */
#define PJSIP_MAX_PKT_LEN 8000

/* Contacts of one registration; upstream's default, named because pjsip_py checks against it. */
#define PJSIP_REGC_MAX_CONTACT 10

/* --- Digest authentication ------------------------------------------------------------------ */

/* A refresh carries a fresh answer to the last challenge (its nonce, the next nonce count) and costs
 * one round trip.  The other switch of that kind, PJSIP_AUTH_HEADER_CACHING, stays off: it repeats an
 * old answer word for word, and its pool grows as long as the registration lives. */
#define PJSIP_AUTH_AUTO_SEND_NEXT 1
#define PJSIP_AUTH_HEADER_CACHING 0

/* Nonces in a row that a registrar may call stale (upstream: 3; a patch counts the first one, too). */
#define PJSIP_MAX_STALE_COUNT 4

/* --- Log ------------------------------------------------------------------------------------ */

/* Everything is compiled in; EndpointConfig.log_level chooses at run time. */
#define PJ_LOG_MAX_LEVEL 5

#endif /* PJPY_CONFIG_SITE_H */
