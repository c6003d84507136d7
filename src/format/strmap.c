/* Open addressing with linear probing, at most half full; FNV-1a (Fowler, Noll, Vo) as hash. */
#include "format/strmap.h"

#include <stdlib.h>
#include <string.h>

static size_t hash(const char *key, size_t length) {
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)key[i]) * UINT64_C(0x100000001B3);
    return (size_t)(h ^ (h >> 32));
}

static fs_strmap_slot *slot_of(const fs_strmap *m, const char *key, size_t length) {
    size_t i = hash(key, length) & (m->capacity - 1);
    while (m->slots[i].key && !(m->slots[i].length == length && memcmp(m->slots[i].key, key, length) == 0))
        i = (i + 1) & (m->capacity - 1);
    return &m->slots[i];
}

static bool grow(fs_strmap *m) {
    fs_strmap bigger = {.capacity = m->capacity ? 2 * m->capacity : 64, .count = m->count};
    bigger.slots = fs_alloc_zero(bigger.capacity, sizeof *bigger.slots);
    if (!bigger.slots) return false;
    for (size_t i = 0; i < m->capacity; i++)
        if (m->slots[i].key) *slot_of(&bigger, m->slots[i].key, m->slots[i].length) = m->slots[i];
    free(m->slots);
    *m = bigger;
    return true;
}

size_t *fs_strmap_put(fs_strmap *m, const char *key, size_t length, size_t value, bool *added) {
    *added = false;
    if (m->count >= m->capacity / 2 && !grow(m)) return NULL;
    fs_strmap_slot *s = slot_of(m, key, length);
    if (!s->key) {
        *s = (fs_strmap_slot){key, length, value};
        m->count++;
        *added = true;
    }
    return &s->value;
}

const size_t *fs_strmap_get(const fs_strmap *m, const char *key, size_t length) {
    if (m->count == 0) return NULL;
    const fs_strmap_slot *s = slot_of(m, key, length);
    return s->key ? &s->value : NULL;
}

void fs_strmap_free(fs_strmap *m) {
    free(m->slots);
    *m = (fs_strmap){0};
}
