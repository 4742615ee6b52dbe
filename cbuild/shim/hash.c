/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A hash with a key that nobody outside knows: whoever chooses the keys of a
 * table, addresses and ports for instance, cannot choose the bucket.
 */
#include <string.h>

#include "hash.h"

static uint64_t table_key[2];

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* Of eight bytes at once; a SIP token has no other letters. */
static uint64_t ascii_lower(uint64_t m)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t seven = m & 0x7f * ones;
    uint64_t from_a = seven + (0x80 - 'A') * ones;
    uint64_t past_z = seven + (0x7f - 'Z') * ones;

    return m | ((from_a ^ past_z) & ~m & 0x80 * ones) >> 2;
}

/* Up to eight bytes, the first one lowest. */
static uint64_t word(const unsigned char *p, size_t length, int lower)
{
    uint64_t m = 0;

    memcpy(&m, p, length);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    m = __builtin_bswap64(m);
#endif
    return lower ? ascii_lower(m) : m;
}

uint64_t siphash(const uint64_t key[2], const void *data, size_t length,
                 int lower)
{
    const unsigned char *p = data, *end = p + (length & ~(size_t)7);
    uint64_t v[4] = { key[0] ^ 0x736f6d6570736575u,
                      key[1] ^ 0x646f72616e646f6du,
                      key[0] ^ 0x6c7967656e657261u,
                      key[1] ^ 0x7465646279746573u };

    for (;; p += 8) {
        uint64_t m = p == end
                         ? word(p, length & 7, lower) | (uint64_t)length << 56
                         : word(p, 8, lower);

        v[3] ^= m;
        sip_round(v);
        sip_round(v);
        v[0] ^= m;
        if (p == end)
            break;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void hash_key(const uint64_t key[2])
{
    table_key[0] = key[0];
    table_key[1] = key[1];
}

uint32_t pjpy_hash(const void *data, size_t length, int lower)
{
    uint64_t h = siphash(table_key, data, length, lower);

    return (uint32_t)(h ^ h >> 32);
}
