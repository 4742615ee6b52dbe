/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What PJLIB leaves to the platform and this build supplies itself: random
 * numbers, unique strings (Call-ID, tags, branches) and the assertion hook;
 * the time is clock.c's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/random.h>
#endif

#include "hash.h"
#include "internal.h"
#include "pjpy_build.h"
#include "tls.h"

/* ------------------------------------------------------------ entropy */

/* Worker only, so no lock.  Seeded, the numbers follow from the seed and two
   runs print the same identifiers; else they come from the kernel. */
static struct {
    int seeded;
    uint64_t state;
    size_t left;
    unsigned char bytes[1024];
} entropy;

/* SplitMix64: a full-period step and a mix of its bits. */
static uint64_t seeded_next(void)
{
    uint64_t z = (entropy.state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void kernel_random(unsigned char *out, size_t size)
{
#if defined(__linux__)
    while (size > 0) {
        ssize_t n = getrandom(out, size, 0);
        if (n > 0) {
            out += n;
            size -= (size_t)n;
        } else if (n < 0 && errno != EINTR) {
            /* Never on a kernel since 3.17.  Predictable identifiers would
               be worse than an identifier from the clock's low bits. */
            entropy.state ^= (uint64_t)clock_monotonic_ns();
            for (; size > 0; size--)
                *out++ = (unsigned char)seeded_next();
        }
    }
#else
    arc4random_buf(out, size);
#endif
}

void entropy_open(int seeded, uint64_t seed)
{
    uint64_t key[2] = { seed, ~seed };

    memset(&entropy, 0, sizeof entropy);
    entropy.seeded = seeded;
    entropy.state = seed;
    if (!seeded)
        kernel_random((unsigned char *)key, sizeof key);
    hash_key(key);
}

static void entropy_take(void *out, size_t size)
{
    if (entropy.left < size) {
        if (entropy.seeded) {
            for (size_t i = 0; i < sizeof entropy.bytes; i += 8) {
                uint64_t n = seeded_next();
                memcpy(entropy.bytes + i, &n, 8);
            }
        } else {
            kernel_random(entropy.bytes, sizeof entropy.bytes);
        }
        entropy.left = sizeof entropy.bytes;
    }
    entropy.left -= size;
    memcpy(out, entropy.bytes + entropy.left, size);
    memset(entropy.bytes + entropy.left, 0, size);
}

PJ_DEF(void) pj_srand(unsigned int seed)
{
    PJ_UNUSED_ARG(seed); /* entropy_open() has the last word */
}

PJ_DEF(int) pj_rand(void)
{
    uint32_t n;
    entropy_take(&n, sizeof n);
    return (int)(n & 0x7fffffff);
}

PJ_DEF_DATA(const unsigned) PJ_GUID_STRING_LENGTH = 32;

PJ_DEF(unsigned) pj_GUID_STRING_LENGTH(void)
{
    return PJ_GUID_STRING_LENGTH;
}

/* 32 of 64 characters that RFC 3261 allows in a token: 192 bits. */
PJ_DEF(pj_str_t *) pj_generate_unique_string(pj_str_t *str)
{
    static const char alphabet[] = "0123456789abcdefghijklmnopqrstuvwxyz"
                                   "ABCDEFGHIJKLMNOPQRSTUVWXYZ-.";
    unsigned char random[32];

    entropy_take(random, sizeof random);
    for (unsigned i = 0; i < sizeof random; i++)
        str->ptr[i] = alphabet[random[i] & 63];
    str->slen = sizeof random;
    return str;
}

/* --------------------------------------------------------- assertions */

static struct {
    uint64_t count;
    char last[256];
} assertion;

/* config_site.h makes every pj_assert() of the library call this instead of
   abort(): the caller then gets its error code. */
void pjpy_assert_failed(const char *expression, const char *file, int line)
{
    const char *name = strrchr(file, '/');

    if (__atomic_add_fetch(&assertion.count, 1, __ATOMIC_RELAXED) == 1)
        snprintf(assertion.last, sizeof assertion.last, "%s:%d: %s",
                 name ? name + 1 : file, line, expression);
}

uint64_t assertion_count(void)
{
    return __atomic_load_n(&assertion.count, __ATOMIC_RELAXED);
}

const char *pjpy_last_assertion(void)
{
    return assertion.last;
}

/* ------------------------------------------------------------- memory */

void wipe(void *memory, size_t size)
{
    memset(memory, 0, size);
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}

/* ---------------------------------------------------------- deadlines */

/* macOS waits on the wall clock only. */
#if defined(__APPLE__)
#define DEADLINE_CLOCK CLOCK_REALTIME
#else
#define DEADLINE_CLOCK CLOCK_MONOTONIC
#endif

void condition_open(pthread_cond_t *condition)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attr, DEADLINE_CLOCK);
#endif
    pthread_cond_init(condition, &attr);
    pthread_condattr_destroy(&attr);
}

void deadline_in(struct timespec *deadline, int timeout_ms)
{
    clock_gettime(DEADLINE_CLOCK, deadline);
    deadline->tv_sec += timeout_ms / 1000;
    deadline->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (deadline->tv_nsec >= 1000000000) {
        deadline->tv_sec++;
        deadline->tv_nsec -= 1000000000;
    }
}

/* -------------------------------------------------------------- build */

const char *pjpy_version(void)
{
    return pj_get_version();
}

#if PJPY_WITH_TLS
#include <openssl/crypto.h>
#define OPENSSL_TEXT OpenSSL_version(OPENSSL_VERSION)
#else
#define OPENSSL_TEXT ""
#endif

static char build_info[4096];

static void build_info_write(void)
{
    snprintf(build_info, sizeof build_info,
             "version=%s\nsource=%s\n"
             "pjproject_version=%s\npjproject_sha256=%s\n"
             "tls=%s\nalgorithms=MD5%s\nioqueue=%s\n"
             "compiler=%s\nlimit.url=%d\nlimit.packet=%d\n"
             "limit.contacts=%d\nlimit.contact=%d\n"
             "limit.resolved_addresses=%d\nlimit.sockets=%d\n"
             "limit.incoming=%d\n"
             "patches=%s",
             PJPY_VERSION, PJPY_SOURCE, PJPY_PJPROJECT_VERSION,
             PJPY_PJPROJECT_SHA, PJPY_WITH_TLS ? OPENSSL_TEXT : "none",
             PJPY_WITH_TLS ? " SHA-256 SHA-512-256" : "", pj_ioqueue_name(),
             __VERSION__, PJSIP_MAX_URL_SIZE, PJSIP_MAX_PKT_LEN,
             PJSIP_REGC_MAX_CONTACT, PJSIP_REGC_CONTACT_BUF_SIZE,
             PJSIP_MAX_RESOLVED_ADDRESSES, PJ_IOQUEUE_MAX_HANDLES,
             PJPY_MAX_INCOMING, PJPY_PATCHES);
}

/* "name=value" lines; the patches come last, a line each. */
const char *pjpy_build_info(void)
{
    static pthread_once_t written = PTHREAD_ONCE_INIT;

    pthread_once(&written, build_info_write);
    return build_info;
}
