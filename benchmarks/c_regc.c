/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The anchor of the benchmarks: N registrations by plain pjsip_regc, in one
 * thread, as a C program would do it.  What register.py does with pjsip_py,
 * phase by phase, and the same report: one JSON object on standard output.
 *
 *   open      pj_init() to a UDP transport
 *   warm      one registration more, not counted
 *   create    N regc with contact and credentials
 *   register  REGISTER, 401, REGISTER, 200 for each; `window` in flight
 *   settle    until PJSIP has forgotten the transactions (timer K, T4)
 *   trim      free memory given back
 *   refresh   all register again, `refreshes` times; refresh_settle
 *   renew     `renewals` times by PJSIP's own timer; renew_settle
 *   close
 *
 * With --in-flight nothing comes after `flight`, in which all are sent to a
 * registrar that does not answer.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <pjlib-util.h>
#include <pjlib.h>
#include <pjsip.h>
#include <pjsip-ua/sip_regc.h>

static struct {
    const char *registrar;
    unsigned count, window, first;
    double settle;              /* s */
    unsigned t4_ms;
    const char *password;
    unsigned expires, refreshes, renewals;
    int in_flight;
    unsigned spread; /* over so many addresses of the registrar */
    const char *ca_file;
} options = { NULL, 1000, 100, 0, 0, 5000, "bulk-password",
              300,  0,    0,   0, 0, NULL };

static pjsip_endpoint *endpoint;
static char protocol[8] = "udp"; /* as the registrar's URI asks for */
static int local_port;
static pjsip_regc **regcs;
static unsigned next, end, outcomes, failed, requests;

/* ------------------------------------------------------------- report */

typedef struct mark {
    double wall, user, system;
    long rss_kb;
} mark;

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static mark take_mark(void)
{
    struct timespec now;
    struct rusage usage;
    FILE *statm = fopen("/proc/self/statm", "r");
    long pages = 0;
    mark m;

    clock_gettime(CLOCK_MONOTONIC, &now);
    getrusage(RUSAGE_SELF, &usage);
    m.wall = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    m.user = seconds(usage.ru_utime);
    m.system = seconds(usage.ru_stime);
    if (statm && fscanf(statm, "%*d %ld", &pages) != 1)
        pages = 0;
    if (statm)
        fclose(statm);
    m.rss_kb = pages * (sysconf(_SC_PAGESIZE) / 1024);
    return m;
}

static void print_phase(const char *name, const mark *from, const mark *to)
{
    printf("\"%s\": {\"wall\": %.6f, \"user\": %.6f, \"system\": %.6f, "
           "\"rss_kb\": %ld}, ",
           name, to->wall - from->wall, to->user - from->user,
           to->system - from->system, to->rss_kb);
}

/* Gives freed memory back, so that what is left is what is held. */
static void trim(void)
{
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

static void check(pj_status_t status, const char *what)
{
    char text[PJ_ERR_MSG_SIZE];

    if (status == PJ_SUCCESS)
        return;
    pj_strerror(status, text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

/* ----------------------------------------------------------- register */

static void start_one(void)
{
    pjsip_tx_data *tdata;
    pjsip_regc *regc = regcs[next++];

    check(pjsip_regc_register(regc, PJ_TRUE, &tdata), "pjsip_regc_register");
    check(pjsip_regc_send(regc, tdata), "pjsip_regc_send");
}

static void on_reg_state(struct pjsip_regc_cbparam *param)
{
    outcomes++;
    if (param->status != PJ_SUCCESS || param->code / 100 != 2)
        failed++;
    if (next < end)
        start_one();
}

/* Each REGISTER that was answered, the ones that are challenged included. */
static void on_reg_tsx(struct pjsip_regc_tsx_cb_param *param)
{
    PJ_UNUSED_ARG(param);
    requests++;
}

/* With --spread each has a connection of its own: to so many addresses of the
   registrar's, 127.1.0.1, 127.1.0.2 ..., from as many listeners as it takes. */
static void registrar_uri(unsigned number, char *out, size_t size)
{
    unsigned n = options.spread ? number % options.spread : 0;

    if (options.spread)
        snprintf(out, size, "sip:127.1.%u.%u%s", n / 250, 1 + n % 250,
                 strrchr(options.registrar, ':'));
    else
        snprintf(out, size, "%s", options.registrar);
}

static pjsip_tpfactory *listen_stream(void);

static void choose_listener(pjsip_regc *regc, unsigned number)
{
    static pjsip_tpfactory **listeners;
    static unsigned count;
    pjsip_tpselector selector;
    unsigned n;

    if (!options.spread)
        return;
    n = number / options.spread;
    if (n >= count) {
        listeners = realloc(listeners, (n + 1) * sizeof *listeners);
        while (count <= n)
            listeners[count++] = listen_stream();
    }
    pj_bzero(&selector, sizeof selector);
    selector.type = PJSIP_TPSELECTOR_LISTENER;
    selector.u.listener = listeners[n];
    check(pjsip_regc_set_transport(regc, &selector),
          "pjsip_regc_set_transport");
}

static pjsip_regc *create_one(unsigned number)
{
    char aor[64], contact[96], uri[128];
    pj_str_t registrar, id, contacts[1];
    pjsip_cred_info credential;
    pjsip_regc *regc;
    char user[32];

    pj_ansi_snprintf(user, sizeof user, "bulk%u", number);
    pj_ansi_snprintf(aor, sizeof aor, "<sip:%s@example.com>", user);
    pj_ansi_snprintf(contact, sizeof contact, "<sip:%s@127.0.0.1:%d%s%s>", user,
                     local_port, strcmp(protocol, "udp") ? ";transport=" : "",
                     strcmp(protocol, "udp") ? protocol : "");
    registrar_uri(number, uri, sizeof uri);
    registrar = pj_str(uri);
    id = pj_str(aor);
    contacts[0] = pj_str(contact);
    pj_bzero(&credential, sizeof credential);
    credential.realm = pj_str("*");
    credential.scheme = pj_str("digest");
    credential.username = pj_str(user);
    credential.data_type = PJSIP_CRED_DATA_PLAIN_PASSWD;
    credential.data = pj_str((char *)options.password);

    check(pjsip_regc_create(endpoint, NULL, on_reg_state, &regc),
          "pjsip_regc_create");
    check(pjsip_regc_init(regc, &registrar, &id, &id, 1, contacts,
                          options.expires),
          "pjsip_regc_init");
    check(pjsip_regc_set_credentials(regc, 1, &credential),
          "pjsip_regc_set_credentials");
    check(pjsip_regc_set_reg_tsx_cb(regc, on_reg_tsx), "set_reg_tsx_cb");
    choose_listener(regc, number - options.first);
    return regc;
}

static void poll_once(unsigned milliseconds)
{
    pj_time_val timeout = { 0, (long)milliseconds };
    pjsip_endpt_handle_events(endpoint, &timeout);
}

static void register_all(unsigned from, unsigned to)
{
    unsigned wanted = outcomes + (to - from);

    next = from;
    end = to;
    while (next < end && next - from < options.window)
        start_one();
    while (outcomes < wanted)
        poll_once(10);
}

static void settle(void)
{
    double until = take_mark().wall + options.settle;

    while (take_mark().wall < until)
        poll_once(100);
}

/* ------------------------------------------------------- open and close */

static void loopback(pj_sockaddr *address)
{
    pj_str_t host = pj_str("127.0.0.1");

    pj_sockaddr_init(pj_AF_INET(), address, &host, 0);
}

static pjsip_tpfactory *listen_stream(void)
{
    pj_sockaddr address;
    pjsip_tpfactory *factory = NULL;

    loopback(&address);
    if (strcmp(protocol, "tcp") == 0)
        check(pjsip_tcp_transport_start(endpoint, &address.ipv4, 1, &factory),
              "pjsip_tcp_transport_start");
#if PJSIP_HAS_TLS_TRANSPORT
    if (strcmp(protocol, "tls") == 0) {
        pjsip_tls_setting s;

        pjsip_tls_setting_default(&s);
        s.verify_server = PJ_TRUE;
        s.ca_list_file = pj_str((char *)options.ca_file);
        s.proto = PJ_SSL_SOCK_PROTO_TLS1_2 | PJ_SSL_SOCK_PROTO_TLS1_3;
        check(pjsip_tls_transport_start2(endpoint, &s, &address, NULL, 1,
                                         &factory),
              "pjsip_tls_transport_start2");
    }
#endif
    if (!factory)
        check(PJSIP_EUNSUPTRANSPORT, protocol);
    return factory;
}

static int listen_udp(void)
{
    pj_sockaddr address;
    pjsip_transport *udp;

    loopback(&address);
    check(pjsip_udp_transport_start(endpoint, &address.ipv4, NULL, 1, &udp),
          "pjsip_udp_transport_start");
    return udp->local_name.port;
}

static void open_endpoint(pj_caching_pool *pools)
{
    pj_log_set_level(1);
    check(pj_init(), "pj_init");
    pj_srand((unsigned)(time(NULL) ^ (getpid() << 8)));
    check(pjlib_util_init(), "pjlib_util_init");
    pj_caching_pool_init(pools, NULL, 16 * 1024 * 1024);
    pjsip_cfg()->tsx.t4 = options.t4_ms;
    check(pjsip_endpt_create(&pools->factory, "c_regc", &endpoint),
          "pjsip_endpt_create");
    check(pjsip_tsx_layer_init_module(endpoint), "pjsip_tsx_layer");
    local_port = strcmp(protocol, "udp") ? listen_stream()->addr_name.port
                                         : listen_udp();
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        { "registrar", 1, NULL, 'r' },
        { "count", 1, NULL, 'n' },
        { "window", 1, NULL, 'w' },
        { "first", 1, NULL, 'f' },
        { "settle", 1, NULL, 's' },
        { "t4-ms", 1, NULL, 't' },
        { "password", 1, NULL, 'p' },
        { "expires", 1, NULL, 'e' },
        { "refreshes", 1, NULL, 'R' },
        { "renewals", 1, NULL, 'T' },
        { "ca-file", 1, NULL, 'c' },
        { "in-flight", 0, &options.in_flight, 1 },
        { "spread", 1, NULL, 'S' },
        { 0 }
    };
    const char *parameter;
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case 'r': options.registrar = optarg; break;
        case 'n': options.count = (unsigned)atoi(optarg); break;
        case 'w': options.window = (unsigned)atoi(optarg); break;
        case 'f': options.first = (unsigned)atoi(optarg); break;
        case 's': options.settle = atof(optarg); break;
        case 't': options.t4_ms = (unsigned)atoi(optarg); break;
        case 'p': options.password = optarg; break;
        case 'e': options.expires = (unsigned)atoi(optarg); break;
        case 'R': options.refreshes = (unsigned)atoi(optarg); break;
        case 'T': options.renewals = (unsigned)atoi(optarg); break;
        case 'c': options.ca_file = optarg; break;
        case 'S': options.spread = (unsigned)atoi(optarg); break;
        case 0: break;
        default: exit(2);
        }
    }
    if (!options.registrar || !options.count || !options.window ||
        !options.expires || !strchr(options.registrar, ':')) {
        fprintf(stderr, "usage: c_regc --registrar URI [--count N] "
                        "[--window W] [--first K] [--settle S] "
                        "[--t4-ms MS] [--password P] [--expires S] "
                        "[--refreshes N] [--renewals N] [--ca-file FILE] "
                        "[--in-flight] [--spread N]\n");
        exit(2);
    }
    if (strstr(options.registrar, "transport=tls") && !options.ca_file) {
        fprintf(stderr, "c_regc: TLS needs --ca-file\n");
        exit(2);
    }
    parameter = strstr(options.registrar, ";transport=");
    if (parameter)
        snprintf(protocol, sizeof protocol, "%s", parameter + 11);
}

static mark last;

static void phase(const char *name)
{
    mark now = take_mark();

    print_phase(name, &last, &now);
    last = take_mark();
}

static void register_phases(unsigned total)
{
    unsigned i, wanted;

    register_all(1, total);
    phase("register");
    settle();
    phase("settle");
    trim();
    phase("trim");
    if (options.refreshes) {
        for (i = 0; i < options.refreshes; i++)
            register_all(1, total);
        phase("refresh");
        settle();
        phase("refresh_settle");
    }
    if (options.renewals) {
        wanted = outcomes + options.renewals * options.count;
        while (outcomes < wanted)
            poll_once(1000);
        phase("renew");
        settle();
        phase("renew_settle");
    }
}

int main(int argc, char **argv)
{
    pj_caching_pool pools;
    unsigned i, total;
    struct rusage usage;

    read_options(argc, argv);
    total = options.count + 1;
    last = take_mark();
    printf("{\"peer\": \"c_regc " BUILD "\", \"count\": %u, ", options.count);
    open_endpoint(&pools);
    phase("open");

    regcs = calloc(total, sizeof *regcs);
    regcs[0] = create_one(options.first);
    if (!options.in_flight)
        register_all(0, 1);
    pjsip_regc_destroy(regcs[0]); /* or its refreshes would count */
    failed = requests = 0;
    phase("warm");

    for (i = 1; i < total; i++)
        regcs[i] = create_one(options.first + i);
    phase("create");

    if (options.in_flight) {
        for (next = 1, end = total; next < end;)
            start_one();
        phase("flight");
    } else {
        register_phases(total);
    }

    for (i = 1; i < total; i++)
        pjsip_regc_destroy(regcs[i]);
    pjsip_endpt_destroy(endpoint);
    pj_caching_pool_destroy(&pools);
    pj_shutdown();
    phase("close");

    getrusage(RUSAGE_SELF, &usage);
    printf("\"ok\": %u, \"requests\": %u, \"peak_rss_kb\": %ld}\n",
           options.count - (failed < options.count ? failed : options.count),
           requests, usage.ru_maxrss);
    return failed ? 1 : 0;
}
