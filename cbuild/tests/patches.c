/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One case for each substitution of vendor/patches.toml that can be shown
   from outside: `patches NAME` exits 0 when the fault is mended.
   Run by tests/test_patches.py. */
#include "support.h"

#include <fcntl.h>
#include <pjsip.h>
#include <shim/hash.h>
#include <unistd.h>

static pj_caching_pool pools;
static pjsip_endpoint *endpoint;
static pj_pool_t *pool;

static void open_endpoint(void)
{
    CHECK(pj_init() == PJ_SUCCESS);
    pj_log_set_level(0);
    CHECK(pjlib_util_init() == PJ_SUCCESS);
    pj_caching_pool_init(&pools, NULL, 0);
    CHECK(pjsip_endpt_create(&pools.factory, "test", &endpoint) == PJ_SUCCESS);
    CHECK(pjsip_tsx_layer_init_module(endpoint) == PJ_SUCCESS);
    pool = pj_pool_create(&pools.factory, "test%p", 4000, 4000, NULL);
}

static void close_endpoint(void)
{
    pj_pool_release(pool);
    pjsip_endpt_destroy(endpoint);
    CHECK(pools.used_count == 0);
    pj_caching_pool_destroy(&pools);
    pj_shutdown();
}

static pjsip_tx_data *new_register(const char *target)
{
    pj_str_t uri = pj_str((char *)target);
    pj_str_t aor = pj_str("sip:alice@example.com");
    pjsip_tx_data *tdata;
    CHECK(pjsip_endpt_create_request(endpoint, &pjsip_register_method, &uri,
                                     &aor, &aor, NULL, NULL, 1, NULL,
                                     &tdata) == PJ_SUCCESS);
    return tdata;
}

/* ------------------------------------------------------------ auth-nc-hex */

static void auth_nc_hex(void)
{
    char challenge[] =
        "SIP/2.0 401 Unauthorized\r\n"
        "Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\n"
        "From: <sip:alice@example.com>;tag=1\r\n"
        "To: <sip:alice@example.com>;tag=2\r\n"
        "Call-ID: 1\r\nCSeq: 1 REGISTER\r\n"
        "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\"\r\n"
        "Content-Length: 0\r\n\r\n";
    pjsip_cred_info credential = { 0 };
    pjsip_auth_clt_sess session;
    pjsip_rx_data rdata;
    pjsip_tx_data *tdata = new_register("sip:example.com"), *again;
    pjsip_parser_err_report errors;

    CHECK(pjsip_auth_clt_init(&session, endpoint, pool, 0) == PJ_SUCCESS);
    credential.realm = pj_str("*");
    credential.scheme = pj_str("digest");
    credential.username = pj_str("alice");
    credential.data = pj_str("secret");
    CHECK(pjsip_auth_clt_set_credentials(&session, 1, &credential) == 0);

    memset(&rdata, 0, sizeof rdata);
    pj_list_init(&errors);
    rdata.tp_info.pool = pool;
    rdata.msg_info.msg = pjsip_parse_msg(pool, challenge, strlen(challenge),
                                         &errors);
    CHECK(rdata.msg_info.msg);
    CHECK(pjsip_auth_clt_reinit_req(&session, &rdata, tdata, &again) == 0);
    pjsip_tx_data_dec_ref(again); /* the same, referenced once more */
    pjsip_tx_data_dec_ref(tdata);

    for (int count = 2; count <= 17; count++) {
        pjsip_authorization_hdr *header;
        char wanted[9];
        tdata = new_register("sip:example.com");
        CHECK(pjsip_auth_clt_init_req(&session, tdata) == PJ_SUCCESS);
        header = pjsip_msg_find_hdr(tdata->msg, PJSIP_H_AUTHORIZATION, NULL);
        CHECK(header);
        sprintf(wanted, "%08x", (unsigned)count);
        CHECK(pj_strcmp2(&header->credential.digest.nc, wanted) == 0);
        pjsip_tx_data_dec_ref(tdata);
    }
    pjsip_auth_clt_deinit(&session);
}

/* ------------------------------------------------------- printers' bounds */

/* A buffer of exactly `size` bytes, followed by bytes that must stay. */
static char *guarded(size_t size)
{
    char *buffer = malloc(size + 64);
    CHECK(buffer);
    memset(buffer, 0x5a, size + 64);
    return buffer;
}

static void check_guard(char *buffer, size_t size)
{
    for (int i = 0; i < 64; i++)
        CHECK(buffer[size + i] == 0x5a);
    free(buffer);
}

static void add_header(pjsip_msg *msg, const char *name, const char *value)
{
    pj_str_t n = pj_str((char *)name), v = pj_str((char *)value);
    pjsip_msg_add_hdr(msg, pjsip_parse_hdr(pool, &n, v.ptr, v.slen, NULL));
}

static void header_printer(void)
{
    pjsip_supported_hdr *list = pjsip_supported_hdr_create(pool);
    pjsip_ctype_hdr *type = pjsip_ctype_hdr_create(pool);
    pjsip_param parameter = { .name = pj_str("charset"),
                              .value = pj_str("utf-8") };
    list->count = 3;
    list->values[0] = pj_str("path");
    list->values[1] = pj_str("outbound");
    list->values[2] = pj_str("gruu");
    type->media.type = pj_str("text");
    type->media.subtype = pj_str("plain");
    pj_list_push_back(&type->media.param, &parameter);
    for (size_t size = 0; size < 64; size++) {
        char *buffer = guarded(size);
        pjsip_hdr_print_on(list, buffer, size);
        check_guard(buffer, size);
        buffer = guarded(size);
        int length = pjsip_hdr_print_on(type, buffer, size);
        CHECK(length == (size > 38 ? 38 : -1));
        check_guard(buffer, size);
        buffer = guarded(size);
        pjsip_media_type_print(buffer, size, &type->media);
        check_guard(buffer, size);
    }
}

static pjsip_msg_body *new_text(unsigned length)
{
    pj_str_t type = pj_str("text"), subtype = pj_str("plain");
    char *text = pj_pool_alloc(pool, length);
    pj_str_t data = { text, length };
    memset(text, 'x', length);
    return pjsip_msg_body_create(pool, &type, &subtype, &data);
}

static void message_printer(void)
{
    /* Every length of the last header and of the body around a full buffer:
       all the places where the end can fall. */
    for (unsigned fill = 1; fill < 200; fill++) {
        pjsip_tx_data *tdata = new_register("sip:example.com");
        char value[256] = { 0 };
        memset(value, 'v', fill);
        add_header(tdata->msg, "X-Fill", value);
        for (int with_body = 0; with_body < 3; with_body++) {
            tdata->msg->body = with_body ? new_text(fill) : NULL;
            if (with_body == 2) /* the caller wrote its own Content-Type */
                tdata->msg->body->content_type.type.slen = 0;
            size_t size = 400;
            char *buffer = guarded(size);
            pj_ssize_t length = pjsip_msg_print(tdata->msg, buffer, size);
            CHECK(length < (pj_ssize_t)size);
            check_guard(buffer, size);
        }
        pjsip_tx_data_dec_ref(tdata);
    }

    /* A request line and a status line longer than the buffer. */
    static char longer[1024];
    memset(longer, 'M', sizeof longer);
    pjsip_tx_data *tdata = new_register("sip:example.com");
    tdata->msg->line.req.method.name = (pj_str_t){ longer, sizeof longer };
    char *buffer = guarded(300);
    CHECK(pjsip_msg_print(tdata->msg, buffer, 300) < 0);
    check_guard(buffer, 300);
    pjsip_tx_data_dec_ref(tdata);

    pjsip_msg *response = pjsip_msg_create(pool, PJSIP_RESPONSE_MSG);
    response->line.status.code = 200;
    response->line.status.reason = (pj_str_t){ longer, sizeof longer };
    buffer = guarded(300);
    CHECK(pjsip_msg_print(response, buffer, 300) < 0);
    check_guard(buffer, 300);
}

static void multipart_printer(void)
{
    pjsip_msg_body *body = pjsip_multipart_create(pool, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        /* A header with a parameter may fill its space to the last byte. */
        pj_str_t name = pj_str("Contact"), value = pj_str("<sip:a@b>;c=d");
        pjsip_multipart_part *part = pjsip_multipart_create_part(pool);
        for (int k = 0; k < 3; k++)
            pj_list_push_back(
                &part->hdr,
                pjsip_parse_hdr(pool, &name, value.ptr, value.slen, NULL));
        part->body = new_text(10);
        if (i == 1) /* then nothing stands between headers and blank line */
            part->body->content_type.type.slen = 0;
        CHECK(pjsip_multipart_add_part(pool, body, part) == PJ_SUCCESS);
    }
    for (size_t size = 0; size < 600; size++) {
        char *buffer = guarded(size);
        int length = body->print_body(body, buffer, size);
        CHECK(length <= (int)size);
        check_guard(buffer, size);
    }
}

/* -------------------------------------------------- names-are-not-formats */

static void names(void)
{
    pj_thread_desc description;
    pj_thread_t *thread;
    pj_mutex_t *mutex;
    pj_sem_t *semaphore;

    memset(description, 0, sizeof description);
    CHECK(pj_thread_register("a%s%n", description, &thread) == PJ_SUCCESS);
    CHECK(strcmp(pj_thread_get_name(thread), "a%s%n") == 0);
    CHECK(pj_mutex_create_simple(pool, "%p%s%n", &mutex) == PJ_SUCCESS);
    CHECK(pj_mutex_destroy(mutex) == PJ_SUCCESS);
    CHECK(pj_sem_create(pool, "%n", 0, 1, &semaphore) == PJ_SUCCESS);
    CHECK(pj_sem_destroy(semaphore) == PJ_SUCCESS);
}

/* ------------------------------------------------------ epoll-add-failure */

static void epoll_add_failure(void)
{
    pj_ioqueue_callback callbacks = { 0 };
    pj_ioqueue_key_t *key;
    pj_ioqueue_t *queue;
    pj_grp_lock_t *lock;
    pj_sock_t sock;
    int file = open("/proc/self/exe", O_RDONLY);

    CHECK(file >= 0); /* a regular file: epoll_ctl() says EPERM */
    CHECK(pj_ioqueue_create(pool, 4, &queue) == PJ_SUCCESS);
    CHECK(pj_grp_lock_create(pool, NULL, &lock) == PJ_SUCCESS);
    pj_grp_lock_add_ref(lock);
    for (int i = 0; i < 10; i++)
        CHECK(pj_ioqueue_register_sock2(pool, queue, file, lock, NULL,
                                        &callbacks, &key) != PJ_SUCCESS);
    CHECK(pj_grp_lock_get_ref(lock) == 1);
    CHECK(pj_sock_socket(pj_AF_INET(), pj_SOCK_DGRAM(), 0, &sock) == 0);
    CHECK(pj_ioqueue_register_sock2(pool, queue, sock, lock, NULL, &callbacks,
                                    &key) == PJ_SUCCESS);
    CHECK(pj_ioqueue_unregister(key) == PJ_SUCCESS);
    CHECK(pj_ioqueue_destroy(queue) == PJ_SUCCESS);
    pj_grp_lock_dec_ref(lock);
    close(file);
}

/* ----------------------------------------- send-request-keeps-transaction */

static unsigned outcomes;

static void on_outcome(void *token, pjsip_event *event)
{
    PJ_UNUSED_ARG(token);
    CHECK(event->type == PJSIP_EVENT_TSX_STATE);
    CHECK(event->body.tsx_state.tsx->status_code == 503);
    outcomes++;
}

/* That the reference is held can be seen only by a second thread at the right
   instant; that it is given back is seen here: every transaction and message
   is freed (close_endpoint() counts the pools). */
static void send_request(void)
{
    pj_time_val tick = { 0, 10 };
    for (int i = 0; i < 20; i++) {
        /* no TCP transport was started: sending fails at once */
        pjsip_tx_data *tdata = new_register("sip:127.0.0.1:9;transport=tcp");
        CHECK(pjsip_endpt_send_request(endpoint, tdata, -1, NULL, on_outcome) !=
              PJ_SUCCESS);
        CHECK(pjsip_endpt_handle_events(endpoint, &tick) == PJ_SUCCESS);
    }
    CHECK(outcomes == 20);
    CHECK(pjsip_tsx_layer_get_tsx_count() == 0);
}

/* ------------------------------------------------------ hash-tables-keyed */

/* 2^10 texts of one length that are all the same to pj_hash_calc():
   33 * 'b' + 'A' is 33 * 'a' + 'b'. */
static void collide(char *text, unsigned i)
{
    for (int bit = 0; bit < 10; bit++)
        memcpy(text + 2 * bit, i >> bit & 1 ? "bA" : "ab", 2);
}

static int smaller(const void *a, const void *b)
{
    pj_uint32_t x = *(const pj_uint32_t *)a, y = *(const pj_uint32_t *)b;
    return (x > y) - (x < y);
}

static void hashes(void)
{
    static const uint64_t key[2] = { 0x0706050403020100u, 0x0f0e0d0c0b0a0908u };
    static char texts[1024][20];
    static pj_uint32_t values[1024];
    pj_hash_table_t *table = pj_hash_create(pool, 1023);
    unsigned char message[15];
    unsigned distinct = 1;

    /* the example of the paper, appendix A */
    for (int i = 0; i < 15; i++)
        message[i] = (unsigned char)i;
    CHECK(siphash(key, message, 15, 0) == 0xa129ca6149be45e5u);
    CHECK(siphash(key, "Branch.OF.a.Via", 15, 1) ==
          siphash(key, "branch.of.a.via", 15, 0));
    for (int c = 0; c < 256; c++) {
        char text[9], small[9];
        memset(text, c, 9);
        memset(small, c >= 'A' && c <= 'Z' ? c + 32 : c, 9);
        CHECK(siphash(key, text, 9, 1) == siphash(key, small, 9, 0));
    }

    hash_key(key);
    for (unsigned i = 0; i < 1024; i++) {
        collide(texts[i], i);
        CHECK(pj_hash_calc(0, texts[i], 20) == pj_hash_calc(0, texts[0], 20));
        /* what the caller brings along decides no bucket */
        pj_hash_set(pool, table, texts[i], 20, pj_hash_calc(0, texts[i], 20),
                    texts[i]);
    }
    for (unsigned i = 0; i < 1024; i++) {
        CHECK(pj_hash_get(table, texts[i], 20, &values[i]) == texts[i]);
        CHECK(pj_hash_get(table, texts[i], 20, NULL) == texts[i]);
    }
    qsort(values, 1024, sizeof *values, smaller);
    for (unsigned i = 1; i < 1024; i++)
        distinct += values[i] != values[i - 1];
    CHECK(distinct > 1000);
    for (unsigned i = 0; i < 1024; i++)
        pj_hash_set(NULL, table, texts[i], 20, 0, NULL);
    CHECK(pj_hash_count(table) == 0);
}

/* --------------------------------------------- completed-request-is-freed */

static pjsip_transaction *waiting;

static void on_final(void *token, pjsip_event *event)
{
    PJ_UNUSED_ARG(token);
    waiting = event->body.tsx_state.tsx;
    CHECK(event->body.tsx_state.type == PJSIP_EVENT_RX_MSG);
    CHECK(event->body.tsx_state.tsx->last_tx); /* regc looks at it here */
    outcomes++;
}

static void completed(void)
{
    pj_str_t loopback = pj_str("127.0.0.1");
    pj_time_val tick = { 0, 10 };
    pjsip_transport *transport;
    pj_sockaddr_in here, peer;
    char target[64], request[2000], response[2000];
    int size = sizeof here;
    pj_ssize_t length = sizeof request - 1;
    pj_sock_t server;
    pjsip_tx_data *tdata;

    CHECK(pj_sockaddr_in_init(&here, &loopback, 0) == PJ_SUCCESS);
    CHECK(pjsip_udp_transport_start(endpoint, &here, NULL, 1, &transport) == 0);
    CHECK(pj_sock_socket(pj_AF_INET(), pj_SOCK_DGRAM(), 0, &server) == 0);
    CHECK(pj_sock_bind(server, &here, sizeof here) == PJ_SUCCESS);
    CHECK(pj_sock_getsockname(server, &here, &size) == PJ_SUCCESS);

    sprintf(target, "sip:127.0.0.1:%d", pj_sockaddr_get_port(&here));
    tdata = new_register(target);
    CHECK(pjsip_endpt_send_request(endpoint, tdata, -1, NULL, on_final) == 0);

    size = sizeof peer;
    CHECK(pj_sock_recvfrom(server, request, &length, 0, &peer, &size) == 0);
    request[length] = '\0';
    char *headers = strstr(request, "Via:");
    CHECK(headers);
    sprintf(response, "SIP/2.0 200 OK\r\n%s", headers);
    length = strlen(response);
    CHECK(pj_sock_sendto(server, response, &length, 0, &peer, size) == 0);

    unsigned before = pools.used_count; /* the request's pool among them */
    for (int i = 0; i < 300 && !outcomes; i++)
        pjsip_endpt_handle_events(endpoint, &tick);
    CHECK(outcomes == 1);
    CHECK(pjsip_tsx_layer_get_tsx_count() == 1);
    CHECK(waiting->last_tx == NULL);
    CHECK(PJ_POOL_DEBUG || pools.used_count == before - 1);
    pj_sock_close(server);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        { "auth-nc-hex", auth_nc_hex },
        { "send-request-keeps-transaction", send_request },
        { "message-printer-bounds", message_printer },
        { "header-printer-bounds", header_printer },
        { "multipart-printer-bounds", multipart_printer },
        { "names-are-not-formats", names },
        { "epoll-add-failure", epoll_add_failure },
        { "hash-tables-keyed", hashes },
        { "completed-request-is-freed", completed },
    };
    for (size_t i = 0; argc == 2 && i < PJ_ARRAY_SIZE(cases); i++) {
        if (strcmp(argv[1], cases[i].name) == 0) {
            open_endpoint();
            cases[i].run();
            close_endpoint();
            CHECK(violated == 0);
            return 0;
        }
    }
    fprintf(stderr, "no such case\n");
    return 2;
}
