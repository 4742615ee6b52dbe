/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Handles: kind, generation and slot in one integer.  A handle outlives its
 * object without harm; the generation makes it miss.  Also the small map
 * from integers to pointers that the worker uses.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct slot {
    void *object;
    uint32_t generation;        /* 24 bits are used */
    uint32_t next_free;
    uint8_t kind;
};

static struct {
    pthread_mutex_t lock;
    struct slot *slots; /* slot 0 is never used, so handles are not 0 */
    uint32_t size, capacity, first_free;
    uint32_t count[4];
} table = { .lock = SPINNING_MUTEX, .size = 1 };

#define GENERATION_MASK 0xffffffu

uint64_t handle_new(enum object_kind kind, void *object)
{
    uint64_t handle = 0;
    uint32_t i;

    pthread_mutex_lock(&table.lock);
    i = table.first_free;
    if (i != 0) {
        table.first_free = table.slots[i].next_free;
    } else {
        if (table.size >= table.capacity) {
            uint32_t capacity = table.capacity ? table.capacity * 2 : 64;
            struct slot *slots = realloc(table.slots, capacity * sizeof *slots);
            if (!slots)
                goto done;
            memset(slots + table.capacity, 0,
                   (capacity - table.capacity) * sizeof *slots);
            table.slots = slots;
            table.capacity = capacity;
        }
        i = table.size++;
    }
    table.slots[i].object = object;
    table.slots[i].kind = (uint8_t)kind;
    table.count[kind]++;
    handle = (uint64_t)kind << 56 |
             (uint64_t)(table.slots[i].generation & GENERATION_MASK) << 32 | i;
done:
    pthread_mutex_unlock(&table.lock);
    return handle;
}

static struct slot *find(uint64_t handle, enum object_kind kind)
{
    uint32_t i = (uint32_t)handle;
    struct slot *s;

    if (handle >> 56 != (uint64_t)kind || i == 0 || i >= table.size)
        return NULL;
    s = &table.slots[i];
    if (!s->object || s->kind != kind ||
        (s->generation & GENERATION_MASK) != ((handle >> 32) & GENERATION_MASK))
        return NULL;
    return s;
}

void *handle_get(uint64_t handle, enum object_kind kind)
{
    struct slot *s;
    void *object;

    pthread_mutex_lock(&table.lock);
    s = find(handle, kind);
    object = s ? s->object : NULL;
    pthread_mutex_unlock(&table.lock);
    return object;
}

void *handle_free(uint64_t handle, enum object_kind kind)
{
    void *object = NULL;
    struct slot *s;

    pthread_mutex_lock(&table.lock);
    s = find(handle, kind);
    if (s) {
        object = s->object;
        s->object = NULL;
        s->generation++;
        s->next_free = table.first_free;
        table.first_free = (uint32_t)handle;
        table.count[kind]--;
    }
    pthread_mutex_unlock(&table.lock);
    return object;
}

/* The visitor may free handles, its own included. */
void handle_each(enum object_kind kind, void (*visit)(void *object))
{
    for (uint32_t i = 1;; i++) {
        void *object = NULL;

        pthread_mutex_lock(&table.lock);
        if (i >= table.size) {
            pthread_mutex_unlock(&table.lock);
            return;
        }
        if (table.slots[i].object && table.slots[i].kind == kind)
            object = table.slots[i].object;
        pthread_mutex_unlock(&table.lock);
        if (object)
            visit(object);
    }
}

uint32_t handle_count(enum object_kind kind)
{
    uint32_t n;

    pthread_mutex_lock(&table.lock);
    n = table.count[kind];
    pthread_mutex_unlock(&table.lock);
    return n;
}

void handle_fork(int locked)
{
    if (locked)
        pthread_mutex_lock(&table.lock);
    else
        pthread_mutex_unlock(&table.lock);
}

/* ---------------------------------------------------------------- map */

struct map_slot {
    uint64_t key;
    void *value; /* NULL: empty */
};

static uint64_t mix(uint64_t key)
{
    key = (key ^ (key >> 33)) * 0xff51afd7ed558ccdu;
    key = (key ^ (key >> 33)) * 0xc4ceb9fe1a85ec53u;
    return key ^ (key >> 33);
}

/* FNV-1a; the keys are our own unpredictable Call-IDs. */
uint64_t map_hash(const char *text, size_t length)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return h;
}

static struct map_slot *map_slot_of(const map *m, uint64_t key)
{
    size_t mask = m->capacity - 1, i = (size_t)mix(key) & mask;

    while (m->slots[i].value && m->slots[i].key != key)
        i = (i + 1) & mask;
    return &m->slots[i];
}

int map_put(map *m, uint64_t key, void *value)
{
    struct map_slot *s;

    if (m->used * 2 >= m->capacity) {
        size_t capacity = m->capacity ? m->capacity * 2 : 64;
        map larger = { calloc(capacity, sizeof *m->slots), m->used, capacity };
        if (!larger.slots)
            return PJPY_ENOMEM;
        for (size_t i = 0; i < m->capacity; i++)
            if (m->slots[i].value)
                *map_slot_of(&larger, m->slots[i].key) = m->slots[i];
        free(m->slots);
        *m = larger;
    }
    s = map_slot_of(m, key);
    if (!s->value)
        m->used++;
    s->key = key;
    s->value = value;
    return 0;
}

void *map_get(const map *m, uint64_t key)
{
    return m->capacity ? map_slot_of(m, key)->value : NULL;
}

void *map_remove(map *m, uint64_t key)
{
    struct map_slot *s;
    size_t mask = m->capacity - 1, hole, i;
    void *value;

    if (!m->capacity || !(s = map_slot_of(m, key))->value)
        return NULL;
    value = s->value;
    m->used--;
    /* Close the hole, so that no later entry of the run becomes unfindable. */
    for (hole = i = (size_t)(s - m->slots);;) {
        size_t home;
        i = (i + 1) & mask;
        if (!m->slots[i].value)
            break;
        home = (size_t)mix(m->slots[i].key) & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole].value = NULL;
    return value;
}

void map_each(const map *m, void (*visit)(void *value))
{
    for (size_t i = 0; i < m->capacity; i++)
        if (m->slots[i].value)
            visit(m->slots[i].value);
}

void map_clear(map *m)
{
    free(m->slots);
    memset(m, 0, sizeof *m);
}
