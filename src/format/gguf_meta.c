/* Asking a GGUF file for its metadata, and comparing its tensors with their checksums. The reader has checked every value's extent, so
 * nothing here can leave the file. */
#include "format/gguf_build.h"

#include <inttypes.h>
#include <string.h>

const fs_gguf *fs_archive_gguf(const fs_archive *a) { return a->gguf; }
int fs_gguf_version(const fs_gguf *g) { return g->version; }
size_t fs_gguf_count(const fs_gguf *g) { return g->count; }
fs_gguf_field fs_gguf_at(const fs_gguf *g, size_t i) { return i < g->count ? g->fields[i].field : (fs_gguf_field){0}; }

const char *fs_gguf_type_name(fs_gguf_type t) {
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    return (int)t >= 0 && (int)t <= (int)FS_GGUF_F64 ? names[t] : "unknown";
}

bool fs_gguf_text_is(fs_gguf_text t, const char *s) { return t.size == strlen(s) && memcmp(t.data, s, t.size) == 0; }

static const fs_gguf_entry *find(const fs_gguf *g, const char *key) {
    const size_t *i = fs_strmap_get(&g->keys, key, strlen(key));
    return i ? &g->fields[*i] : NULL;
}

bool fs_gguf_has(const fs_gguf *g, const char *key) { return find(g, key) != NULL; }

/* The field; NULL with FS_OK when it is optional and absent. */
static fs_status look(const fs_gguf *g, const char *key, bool required, const fs_gguf_entry **out, fs_error *err) {
    *out = find(g, key);
    if (*out || !required) return FS_OK;
    return fs_fail(err, FS_E_NOT_FOUND, "%s: metadata %s: expected such a field, found none; the file is not of the kind wanted here", g->file, key);
}

static fs_status fail_type(const fs_gguf *g, const char *key, const char *expected, const fs_gguf_entry *e, fs_error *err) {
    const bool array = e->field.type == FS_GGUF_ARRAY;
    return fs_fail(err, FS_E_FORMAT, "%s: metadata %s: expected %s, found %s%s", g->file, key, expected, array ? "an array of " : "",
                   fs_gguf_type_name(e->field.element));
}

static uint64_t little(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

/* *big: a u64 above INT64_MAX, which *out cannot hold. */
static bool as_int(const fs_gguf_entry *e, int64_t *out, bool *big) {
    const size_t n = fs_gguf_scalar_size(e->field.type);
    const uint64_t v = little(e->value, n < 8 ? n : 8);
    *big = false;
    switch (e->field.type) {
    case FS_GGUF_U8:
    case FS_GGUF_U16:
    case FS_GGUF_U32: *out = (int64_t)v; return true;
    case FS_GGUF_I8: *out = v < 128 ? (int64_t)v : (int64_t)v - 256; return true;
    case FS_GGUF_I16: *out = (int16_t)v; return true;
    case FS_GGUF_I32: *out = (int32_t)v; return true;
    case FS_GGUF_I64: *out = (int64_t)v; return true;
    case FS_GGUF_U64:
        *big = v > INT64_MAX;
        *out = *big ? INT64_MAX : (int64_t)v;
        return true;
    default: return false;
    }
}

fs_status fs_gguf_int(const fs_gguf *g, const char *key, bool required, int64_t min, int64_t max, int64_t *out, fs_error *err) {
    const fs_gguf_entry *e;
    int64_t v;
    bool big;
    fs_status status = look(g, key, required, &e, err);
    if (status || !e) return status;
    if (!as_int(e, &v, &big)) return fail_type(g, key, "a whole number", e, err);
    if (big || v < min || v > max)
        return fs_fail(err, FS_E_FORMAT, "%s: metadata %s: expected %" PRId64 " to %" PRId64 ", found %s%" PRId64, g->file, key, min, max, big ? "more than " : "", v);
    *out = v;
    return FS_OK;
}

fs_status fs_gguf_float(const fs_gguf *g, const char *key, bool required, double min, double max, double *out, fs_error *err) {
    const fs_gguf_entry *e;
    int64_t whole;
    bool big;
    double v;
    fs_status status = look(g, key, required, &e, err);
    if (status || !e) return status;
    if (e->field.type == FS_GGUF_F32) {
        float f;
        const uint32_t bits = (uint32_t)little(e->value, 4);
        memcpy(&f, &bits, sizeof f);
        v = (double)f;
    } else if (e->field.type == FS_GGUF_F64) {
        const uint64_t bits = little(e->value, 8);
        memcpy(&v, &bits, sizeof v);
    } else if (as_int(e, &whole, &big)) {
        v = (double)whole;
    } else {
        return fail_type(g, key, "a number", e, err);
    }
    if (!(v >= min && v <= max)) return fs_fail(err, FS_E_FORMAT, "%s: metadata %s: expected %g to %g, found %g", g->file, key, min, max, v);
    *out = v;
    return FS_OK;
}

fs_status fs_gguf_bool(const fs_gguf *g, const char *key, bool required, bool *out, fs_error *err) {
    const fs_gguf_entry *e;
    fs_status status = look(g, key, required, &e, err);
    if (status || !e) return status;
    if (e->field.type != FS_GGUF_BOOL) return fail_type(g, key, "true or false", e, err);
    *out = e->value[0] != 0;
    return FS_OK;
}

fs_status fs_gguf_string(const fs_gguf *g, const char *key, bool required, fs_gguf_text *out, fs_error *err) {
    const fs_gguf_entry *e;
    fs_status status = look(g, key, required, &e, err);
    if (status || !e) return status;
    if (e->field.type != FS_GGUF_STRING) return fail_type(g, key, "a string", e, err);
    *out = (fs_gguf_text){(const char *)e->value + 8, e->size - 8};
    return FS_OK;
}

fs_status fs_gguf_array_of(const fs_gguf *g, const char *key, bool required, fs_gguf_type element, fs_gguf_array *out, fs_error *err) {
    const fs_gguf_entry *e;
    char expected[48];
    fs_status status = look(g, key, required, &e, err);
    if (status || !e) return status;
    snprintf(expected, sizeof expected, "an array of %s", fs_gguf_type_name(element));
    if (e->field.type != FS_GGUF_ARRAY || e->field.element != element) return fail_type(g, key, expected, e, err);
    *out = (fs_gguf_array){element, e->field.count, e->value, e->size};
    return FS_OK;
}

bool fs_gguf_next(fs_gguf_array *a, fs_gguf_text *out) {
    if (a->element != FS_GGUF_STRING || a->count == 0) return false;
    const size_t n = (size_t)little(a->data, 8);
    *out = (fs_gguf_text){(const char *)a->data + 8, n};
    a->data += 8 + n;
    a->size -= 8 + n;
    a->count--;
    return true;
}

/* ---- checksums ---- */

size_t fs_gguf_tensor_count(const fs_gguf *g) { return g->tensor_count; }
const char *fs_gguf_tensor_name(const fs_gguf *g, size_t i) { return i < g->tensor_count ? g->tensors[i].name : NULL; }

fs_status fs_gguf_tensor_sums(const fs_gguf *g, fs_gguf_array *out, fs_error *err) {
    if (!fs_gguf_has(g, FS_GGUF_TENSOR_SUMS))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: carries no checksums to compare with (expected metadata %s, which only bundles made here have)", g->file,
                       FS_GGUF_TENSOR_SUMS);
    fs_status status = fs_gguf_array_of(g, FS_GGUF_TENSOR_SUMS, true, FS_GGUF_STRING, out, err);
    if (status) return status;
    if (out->count != g->tensor_count)
        return fs_fail(err, FS_E_FORMAT, "%s: metadata %s: expected %zu checksums, found %" PRIu64, g->file, FS_GGUF_TENSOR_SUMS, g->tensor_count, out->count);
    return FS_OK;
}

fs_status fs_gguf_verify(const fs_gguf *g, const fs_callbacks *cb, fs_error *err) {
    enum { PIECE = 1 << 24 }; /* bytes between two looks at the cancel callback */
    fs_gguf_array sums = {0};
    size_t total = 0, done = 0;
    fs_status status = fs_gguf_tensor_sums(g, &sums, err);
    if (status) return status;
    for (size_t i = 0; i < g->tensor_count; i++) total += g->tensors[i].bytes;
    for (size_t i = 0; i < g->tensor_count; i++) {
        const fs_gguf_tensor *t = &g->tensors[i];
        fs_gguf_text sum = {0};
        fs_sha256 s;
        char found[65];
        fs_sha256_begin(&s);
        for (size_t at = 0; at < t->bytes;) {
            const size_t some = t->bytes - at < PIECE ? t->bytes - at : PIECE;
            fs_sha256_add(&s, t->data + at, some);
            at += some;
            done += some;
            fs_progress(cb, "verify", (int64_t)done, (int64_t)total);
            if (fs_cancelled(cb)) return fs_fail(err, FS_E_CANCELLED, "%s: stopped at tensor %s", g->file, t->name);
        }
        fs_sha256_end(&s, found);
        if (!fs_gguf_next(&sums, &sum) || !fs_gguf_text_is(sum, found))
            return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: expected SHA-256 %.*s, found %s; the file is damaged: download or convert it again", g->file, t->name,
                           (int)(sum.size < 64 ? sum.size : 64), sum.data, found);
    }
    return FS_OK;
}
