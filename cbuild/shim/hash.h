/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The hash of PJSIP's tables (substitution "hash-tables-keyed"). */
#ifndef PJSIP_PY_HASH_H
#define PJSIP_PY_HASH_H

#include <stddef.h>
#include <stdint.h>

/* SipHash-2-4 (Aumasson, Bernstein: SipHash, 2012); lower: of the text in
   lower case. */
uint64_t siphash(const uint64_t key[2], const void *data, size_t length,
                 int lower);

/* Before the first table is made, and not again while there is one. */
void hash_key(const uint64_t key[2]);

/* For PJSIP. */
uint32_t pjpy_hash(const void *data, size_t length, int lower);

#endif
