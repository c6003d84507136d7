/* PyTorch's zip container (torch.save since 1.6; torch/serialization.py and caffe2/serialize/inline_container): one top folder of any name
 * with data.pkl, data/<key> for each storage, version, and in newer files byteorder. Storages are stored, aligned to 64 bytes and
 * used in place; other records (.format_version, .storage_alignment, .data/serialization_id, code/) carry nothing that is needed. */
#include "format/torch_tensors.h"
#include "format/zip.h"

#include <string.h>

typedef struct reader {
    fs_archive *archive;
    const char *file;
    fs_zip zip;
    const char *folder;   /* with its '/', or "" */
    size_t folder_length;
    fs_strmap copied;     /* key -> index: storages that had to be copied for alignment, once */
    const void **copies;
    size_t copy_count, copy_room;
    fs_arena *arena;
} reader;

/* The record folder + name; NULL when absent. */
static const fs_zip_entry *record(const reader *r, const char *name, size_t length) {
    char buffer[1024];
    if (length >= sizeof buffer || r->folder_length >= sizeof buffer - length) return NULL;
    memcpy(buffer, r->folder, r->folder_length);
    memcpy(buffer + r->folder_length, name, length);
    return fs_zip_find(&r->zip, buffer, r->folder_length + length);
}

/* The top folder is the one that holds data.pkl. */
static fs_status find_folder(reader *r, fs_error *err) {
    static const char pickle[] = "data.pkl";
    const size_t n = sizeof pickle - 1;
    size_t found = 0;
    for (size_t i = 0; i < r->zip.count; i++) {
        const fs_zip_entry *e = &r->zip.entries[i];
        if (e->name_length < n || memcmp(e->name + e->name_length - n, pickle, n) != 0) continue;
        size_t folder = e->name_length - n;
        if (folder > 0 && (e->name[folder - 1] != '/' || memchr(e->name, '/', folder - 1))) continue;
        r->folder = e->name;
        r->folder_length = folder;
        found++;
    }
    if (found == 1) return FS_OK;
    if (found > 1)
        return fs_fail(err, FS_E_FORMAT, "%s: expected one data.pkl, found %zu; this is no file that torch.save wrote", r->file, found);
    return fs_fail(err, FS_E_FORMAT, "%s: is a zip archive without data.pkl, so no PyTorch weight file; unpack it if it holds one",
                   r->file);
}

static fs_status check_records(const reader *r, fs_error *err) {
    const fs_zip_entry *order = record(r, "byteorder", 9);
    if (record(r, "constants.pkl", 13))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: is a TorchScript program, not weights: save its state_dict with torch.save", r->file);
    if (order && !(order->size == 6 && memcmp(order->data, "little", 6) == 0))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: expected byte order 'little', found '%.*s': save it again on a little-endian machine",
                       r->file, (int)(order->size < 16 ? order->size : 16), (const char *)order->data);
    return FS_OK;
}

/* The storage's bytes where they lie or, if they lie badly, in a copy that all its tensors share. */
static fs_status align_once(reader *r, const fs_zip_entry *e, size_t element, const uint8_t **out, fs_error *err) {
    bool added;
    *out = e->data;
    if ((uintptr_t)e->data % element == 0) return FS_OK;
    if (r->copy_count == r->copy_room) {
        size_t room = r->copy_room ? 2 * r->copy_room : 64;
        const void **grown = fs_arena_alloc(r->arena, room * sizeof *grown);
        if (!grown) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", r->file);
        if (r->copy_count) memcpy(grown, r->copies, r->copy_count * sizeof *grown);
        r->copies = grown;
        r->copy_room = room;
    }
    size_t *at = fs_strmap_put(&r->copied, e->name, e->name_length, r->copy_count, &added);
    if (!at) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", r->file);
    if (added) {
        fs_status status = fs_archive_align(r->archive, r->file, e->data, e->size, 8, &r->copies[r->copy_count++], err);
        if (status) return status;
    }
    *out = r->copies[*at];
    return FS_OK;
}

static fs_status resolve(void *user, const fs_pickle_storage *s, const char *name, fs_torch_storage *out, fs_error *err) {
    reader *r = user;
    char key[256] = "data/";
    size_t bytes;
    const fs_zip_entry *e = NULL;
    if (s->key_length < sizeof key - 5) {
        memcpy(key + 5, s->key, s->key_length);
        e = record(r, key, 5 + s->key_length);
    }
    if (!e)
        return fs_fail(
            err, FS_E_FORMAT,
            "%s: tensor %s: expected its bytes in the record data/%.*s, found no such record; the file is damaged: download it again",
            r->file, name, (int)(s->key_length < 100 ? s->key_length : 100), s->key);
    if (!fs_torch_storage_bytes(s, &bytes) || bytes != e->size)
        return fs_fail(err, FS_E_FORMAT,
                       "%s: tensor %s: expected %zu bytes in its record data/%.*s, found %zu; the file is damaged: download it again",
                       r->file, name, bytes, (int)(s->key_length < 100 ? s->key_length : 100), s->key, e->size);
    out->bytes = e->size;
    /* an untyped storage may serve any type */
    return align_once(r, e, s->untyped ? 8 : fs_dtype_size(s->dtype), &out->data, err);
}

fs_status fs_torch_zip_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err) {
    reader r = {.archive = a, .file = file, .folder = ""};
    char what[600];
    fs_pickle object;
    const fs_pickle_value *dict;
    fs_status status = fs_zip_open(file, data, size, &r.zip, err);
    if (status) goto done;
    r.arena = fs_arena_create((size_t)64 << 10);
    if (!r.arena) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", file);
        goto done;
    }
    status = find_folder(&r, err);
    if (!status) status = check_records(&r, err);
    if (status) goto done;
    const fs_zip_entry *pickle = record(&r, "data.pkl", 8);
    if (!pickle) {
        status = fs_fail(err, FS_E_UNSUPPORTED, "%s: the name of its top folder is too long", file);
        goto done;
    }
    snprintf(what, sizeof what, "%.500s: data.pkl", file);
    status = fs_unpickle(what, pickle->data, pickle->size, r.arena, &object, err);
    if (status) goto done;
    dict = fs_torch_state_dict(object.value);
    if (!dict)
        status = fs_fail(err, FS_E_FORMAT,
                         "%s: expected a state_dict (names and tensors), found none; save model.state_dict() with torch.save", file);
    else status = fs_torch_add_tensors(a, file, dict, resolve, &r, err);
    if (!status && !a->kind) a->kind = "pytorch-zip";
done:
    fs_strmap_free(&r.copied);
    fs_arena_free(r.arena);
    fs_zip_close(&r.zip);
    return status;
}
