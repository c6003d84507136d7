/* PyTorch's container before 1.6 (and with _use_new_zipfile_serialization=False): five pickles one behind the other - a magic number,
 * the protocol version 1001, facts about the machine, the object, the list of storage keys - then for each key an int64 element
 * count and the raw elements (torch/serialization.py, _legacy_save). Storages lie at odd offsets, so most are copied. */
#include "format/torch_tensors.h"

#include <inttypes.h>
#include <string.h>

/* 0x1950a86a20f9469cfc6c as LONG1 writes it, behind PROTO */
static const uint8_t magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
enum { PROTOCOL = 1001 };

bool fs_torch_legacy_sniff(const uint8_t *data, size_t size) {
    return size >= 2 + sizeof magic && data[0] == 0x80 && memcmp(data + 2, magic, sizeof magic) == 0;
}

/* What the object says of each key, and where the file has it. */
typedef struct stored { const fs_pickle_storage *described; const uint8_t *data; size_t bytes; bool there; } stored;
typedef struct reader {
    fs_archive *archive;
    const char *file;
    const uint8_t *data;
    size_t size, at;
    fs_arena *arena;
    fs_strmap keys; /* -> index in storages */
    stored *storages;
    size_t count;
} reader;

static fs_status next_pickle(reader *r, const char *part, fs_pickle *out, fs_error *err) {
    char what[600];
    snprintf(what, sizeof what, "%.500s: %s", r->file, part);
    fs_status status = fs_unpickle(what, r->data + r->at, r->size - r->at, r->arena, out, err);
    r->at += out->used;
    return status;
}

static fs_status read_head(reader *r, fs_error *err) {
    fs_pickle p;
    if (!fs_torch_legacy_sniff(r->data, r->size))
        return fs_fail(err, FS_E_FORMAT, "%s: expected a PyTorch file, found none; download it again", r->file);
    fs_status status = next_pickle(r, "magic number", &p, err);
    if (!status) status = next_pickle(r, "protocol version", &p, err);
    if (status) return status;
    if (p.value->kind != FS_PICKLE_INT || p.value->as.integer != PROTOCOL)
        return fs_fail(err, FS_E_UNSUPPORTED,
                       "%s: expected protocol version %d, found another one; save the weights again with a newer PyTorch", r->file,
                       (int)PROTOCOL);
    status = next_pickle(r, "system description", &p, err);
    if (status) return status;
    const fs_pickle_value *little = fs_pickle_dict_get(p.value, "little_endian");
    if (little && !(little->kind == FS_PICKLE_BOOL && little->as.integer == 1))
        return fs_fail(err, FS_E_UNSUPPORTED,
                       "%s: expected little-endian numbers, found big-endian: save it again on a little-endian machine", r->file);
    return FS_OK;
}

/* Notes every storage that the object mentions, those of an optimizer beside the state_dict too: they must be stepped over. */
static fs_status note_storages(reader *r, const fs_pickle *object, fs_error *err) {
    r->storages = fs_arena_alloc(r->arena, (object->storage_count + 1) * sizeof *r->storages);
    if (!r->storages) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", r->file);
    for (const fs_pickle_storage *s = object->storages; s; s = s->next) {
        bool added;
        size_t *at = fs_strmap_put(&r->keys, s->key, s->key_length, r->count, &added);
        if (!at) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", r->file);
        if (added) r->storages[r->count++] = (stored){.described = s};
        else if (r->storages[*at].described->dtype != s->dtype || r->storages[*at].described->count != s->count)
            return fs_fail(err, FS_E_FORMAT, "%s: storage %.*s is described in two ways; the file is damaged: download it again", r->file,
                           (int)(s->key_length < 100 ? s->key_length : 100), s->key);
    }
    return FS_OK;
}

static fs_status fail_short(const reader *r, uint64_t missing, fs_error *err) {
    return fs_fail(err, FS_E_FORMAT, "%s: the file is at least %" PRIu64 " bytes short: download it again", r->file, missing);
}

/* One storage: its count and elements, at r->at. */
static fs_status read_storage(reader *r, const fs_pickle_value *key, fs_error *err) {
    const size_t *at = key->kind == FS_PICKLE_STRING ? fs_strmap_get(&r->keys, key->as.text.data, key->as.text.size) : NULL;
    if (!at)
        return fs_fail(err, FS_E_FORMAT, "%s: holds a storage that no tensor of it uses; the file is damaged: download it again", r->file);
    stored *s = &r->storages[*at];
    uint64_t count = 0;
    if (r->size - r->at < 8) return fail_short(r, 8 - (r->size - r->at), err);
    for (int i = 7; i >= 0; i--) count = count << 8 | r->data[r->at + (size_t)i];
    r->at += 8;
    if (s->there || count != (uint64_t)s->described->count || !fs_torch_storage_bytes(s->described, &s->bytes))
        return fs_fail(err, FS_E_FORMAT,
                       "%s: storage %.*s: expected %" PRId64 " elements, found %" PRIu64 "; the file is damaged: download it again",
                       r->file, (int)(key->as.text.size < 100 ? key->as.text.size : 100), key->as.text.data, s->described->count, count);
    if (s->bytes > r->size - r->at) return fail_short(r, s->bytes - (r->size - r->at), err);
    const void *aligned;
    fs_status status = fs_archive_align(r->archive, r->file, r->data + r->at, s->bytes,
                                        s->described->untyped ? 8 : fs_dtype_size(s->described->dtype), &aligned, err);
    s->data = aligned;
    s->there = true;
    r->at += s->bytes;
    return status;
}

static fs_status resolve(void *user, const fs_pickle_storage *s, const char *name, fs_torch_storage *out, fs_error *err) {
    const reader *r = user;
    const size_t *at = fs_strmap_get(&r->keys, s->key, s->key_length);
    if (!at || !r->storages[*at].there)
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: its storage is not in the file: download it again", r->file, name);
    *out = (fs_torch_storage){r->storages[*at].data, r->storages[*at].bytes};
    return FS_OK;
}

fs_status fs_torch_legacy_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err) {
    reader r = {.archive = a, .file = file, .data = data, .size = size, .arena = fs_arena_create((size_t)64 << 10)};
    fs_pickle object, keys;
    const fs_pickle_value *dict;
    fs_status status = r.arena ? read_head(&r, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", file);
    if (status) goto done;
    status = next_pickle(&r, "object", &object, err);
    if (status) goto done;
    dict = fs_torch_state_dict(object.value);
    if (!dict) {
        status = fs_fail(err, FS_E_FORMAT,
                         "%s: expected a state_dict (names and tensors), found none; save model.state_dict() with torch.save", file);
        goto done;
    }
    status = note_storages(&r, &object, err);
    if (!status) status = next_pickle(&r, "storage keys", &keys, err);
    if (status) goto done;
    if (keys.value->kind != FS_PICKLE_LIST) {
        status = fs_fail(err, FS_E_FORMAT, "%s: its list of storages is missing; the file is damaged: download it again", file);
        goto done;
    }
    for (size_t i = 0; i < keys.value->as.list.count && !status; i++) status = read_storage(&r, keys.value->as.list.items[i], err);
    if (!status) status = fs_torch_add_tensors(a, file, dict, resolve, &r, err);
    if (!status && !a->kind) a->kind = "pytorch-legacy";
done:
    fs_strmap_free(&r.keys);
    fs_arena_free(r.arena);
    return status;
}
