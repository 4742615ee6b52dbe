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
 *   close
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
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
} options = { NULL, 1000, 100, 0, 0, 5000, "bulk-password" };

static pjsip_endpoint *endpoint;
static pjsip_transport *udp;
static pjsip_regc **regcs;
static unsigned next, end, outcomes, succeeded;

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
    if (param->status == PJ_SUCCESS && param->code / 100 == 2)
        succeeded++;
    if (next < end)
        start_one();
}

static pjsip_regc *create_one(unsigned number)
{
    char aor[64], contact[96];
    pj_str_t registrar = pj_str((char *)options.registrar);
    pj_str_t id, contacts[1];
    pjsip_cred_info credential;
    pjsip_regc *regc;
    char user[32];

    pj_ansi_snprintf(user, sizeof user, "bulk%u", number);
    pj_ansi_snprintf(aor, sizeof aor, "<sip:%s@example.com>", user);
    pj_ansi_snprintf(contact, sizeof contact, "<sip:%s@127.0.0.1:%d>", user,
                     udp->local_name.port);
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
    check(pjsip_regc_init(regc, &registrar, &id, &id, 1, contacts, 300),
          "pjsip_regc_init");
    check(pjsip_regc_set_credentials(regc, 1, &credential),
          "pjsip_regc_set_credentials");
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

/* ------------------------------------------------------- open and close */

static void open_endpoint(pj_caching_pool *pools)
{
    pj_sockaddr_in address;
    pj_str_t loopback = pj_str("127.0.0.1");

    pj_log_set_level(1);
    check(pj_init(), "pj_init");
    pj_srand((unsigned)(time(NULL) ^ (getpid() << 8)));
    check(pjlib_util_init(), "pjlib_util_init");
    pj_caching_pool_init(pools, NULL, 16 * 1024 * 1024);
    pjsip_cfg()->tsx.t4 = options.t4_ms;
    check(pjsip_endpt_create(&pools->factory, "c_regc", &endpoint),
          "pjsip_endpt_create");
    check(pjsip_tsx_layer_init_module(endpoint), "pjsip_tsx_layer");
    pj_sockaddr_in_init(&address, &loopback, 0);
    check(pjsip_udp_transport_start(endpoint, &address, NULL, 1, &udp),
          "pjsip_udp_transport_start");
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        { "registrar", 1, NULL, 'r' }, { "count", 1, NULL, 'n' },
        { "window", 1, NULL, 'w' },    { "first", 1, NULL, 'f' },
        { "settle", 1, NULL, 's' },    { "t4-ms", 1, NULL, 't' },
        { "password", 1, NULL, 'p' },  { 0 }
    };
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
        default: exit(2);
        }
    }
    if (!options.registrar || !options.count || !options.window) {
        fprintf(stderr, "usage: c_regc --registrar URI [--count N] "
                        "[--window W] [--first K] [--settle S] "
                        "[--t4-ms MS] [--password P]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    pj_caching_pool pools;
    mark start, opened, warm, created, registered, settled, trimmed, closed;
    unsigned i, total;
    struct rusage usage;

    read_options(argc, argv);
    total = options.count + 1;
    start = take_mark();
    open_endpoint(&pools);
    opened = take_mark();

    regcs = calloc(total, sizeof *regcs);
    regcs[0] = create_one(options.first);
    register_all(0, 1);
    succeeded = 0;
    warm = take_mark();

    for (i = 1; i < total; i++)
        regcs[i] = create_one(options.first + i);
    created = take_mark();

    register_all(1, total);
    registered = take_mark();

    for (settled = registered; settled.wall - registered.wall < options.settle;
         settled = take_mark())
        poll_once(100);
    trim();
    trimmed = take_mark();

    for (i = 0; i < total; i++)
        pjsip_regc_destroy(regcs[i]);
    pjsip_endpt_destroy(endpoint);
    pj_caching_pool_destroy(&pools);
    pj_shutdown();
    closed = take_mark();

    getrusage(RUSAGE_SELF, &usage);
    printf("{\"peer\": \"c_regc " BUILD "\", \"count\": %u, \"ok\": %u, ",
           options.count, succeeded);
    print_phase("open", &start, &opened);
    print_phase("warm", &opened, &warm);
    print_phase("create", &warm, &created);
    print_phase("register", &created, &registered);
    print_phase("settle", &registered, &settled);
    print_phase("trim", &settled, &trimmed);
    print_phase("close", &trimmed, &closed);
    printf("\"peak_rss_kb\": %ld}\n", usage.ru_maxrss);
    return succeeded == options.count ? 0 : 1;
}
