/* Reading GGUF: bytes -> fields and tensors. Format description: github.com/ggml-org/ggml, docs/gguf.md.
 *
 *     "GGUF" version:u32 tensors:u64 fields:u64
 *     per field: key:string type:u32 value          string: length:u64 bytes; array: type:u32 count:u64 elements
 *     per tensor: name:string ndim:u32 dims:u64[ndim], innermost first; type:u32 offset:u64
 *     zeros up to a multiple of general.alignment (32 if absent); the data, each tensor at its offset
 *
 * Every count is held against the bytes that are left before anything is allocated for it. Ranges of tensors may neither leave the file nor
 * overlap. Little-endian only, as all files in circulation are. */
#include "format/gguf_build.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NESTING = 4, MIN_FIELD = 8 + 4 + 1, MIN_TENSOR = 8 + 4 + 4 + 8 };

typedef struct reader { const char *file; const uint8_t *data; size_t size, at; fs_error *err; } reader;
typedef struct info { size_t name_length; const char *name; fs_dtype dtype; int ndim; int64_t shape[FS_MAX_DIMS]; uint64_t offset; size_t bytes; } info;

static fs_status fail_cut(const reader *r, const char *what) {
    return fs_fail(r->err, FS_E_FORMAT, "%s: the file ends inside %s (after %zu bytes): download or convert it again", r->file, what, r->size);
}

static fs_status take(reader *r, size_t n, const char *what, const uint8_t **out) {
    if (n > r->size - r->at) return fail_cut(r, what);
    *out = r->data + r->at;
    r->at += n;
    return FS_OK;
}

static uint64_t little(const uint8_t *p, int n) {
    uint64_t v = 0;
    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

static fs_status take_u32(reader *r, const char *what, uint32_t *out) {
    const uint8_t *p = NULL;
    fs_status status = take(r, 4, what, &p);
    if (!status) *out = (uint32_t)little(p, 4);
    return status;
}

static fs_status take_u64(reader *r, const char *what, uint64_t *out) {
    const uint8_t *p = NULL;
    fs_status status = take(r, 8, what, &p);
    if (!status) *out = little(p, 8);
    return status;
}

static fs_status take_text(reader *r, const char *what, fs_gguf_text *out) {
    const uint8_t *p = NULL;
    uint64_t n = 0;
    fs_status status = take_u64(r, what, &n);
    if (!status && n > r->size - r->at) status = fail_cut(r, what);
    if (!status) status = take(r, (size_t)n, what, &p);
    if (!status) *out = (fs_gguf_text){(const char *)p, (size_t)n};
    return status;
}

/* ---- types ---- */

typedef struct ggml_type { const char *name; int dtype; } ggml_type; /* dtype -1: not read here */
static const ggml_type ggml_types[] = {
    {"F32", FS_DTYPE_F32},   {"F16", FS_DTYPE_F16},   {"Q4_0", FS_DTYPE_Q4_0}, {"Q4_1", FS_DTYPE_Q4_1}, {"Q4_2", -1},
    {"Q4_3", -1},            {"Q5_0", FS_DTYPE_Q5_0}, {"Q5_1", FS_DTYPE_Q5_1}, {"Q8_0", FS_DTYPE_Q8_0}, {"Q8_1", -1},
    {"Q2_K", -1},            {"Q3_K", -1},            {"Q4_K", FS_DTYPE_Q4_K}, {"Q5_K", FS_DTYPE_Q5_K}, {"Q6_K", FS_DTYPE_Q6_K},
    {"Q8_K", -1},            {"IQ2_XXS", -1},         {"IQ2_XS", -1},          {"IQ3_XXS", -1},         {"IQ1_S", -1},
    {"IQ4_NL", -1},          {"IQ3_S", -1},           {"IQ2_S", -1},           {"IQ4_XS", -1},          {"I8", FS_DTYPE_I8},
    {"I16", FS_DTYPE_I16},   {"I32", FS_DTYPE_I32},   {"I64", FS_DTYPE_I64},   {"F64", FS_DTYPE_F64},   {"IQ1_M", -1},
    {"BF16", FS_DTYPE_BF16}, {"Q4_0_4_4", -1},        {"Q4_0_4_8", -1},        {"Q4_0_8_8", -1},        {"TQ1_0", -1},
    {"TQ2_0", -1},           {"IQ4_NL_4_4", -1},      {"IQ4_NL_4_8", -1},      {"IQ4_NL_8_8", -1},      {"MXFP4", -1},
};
enum { GGML_TYPES = (int)(sizeof ggml_types / sizeof ggml_types[0]) };

int fs_gguf_type_of_dtype(fs_dtype t) {
    for (int i = 0; i < GGML_TYPES; i++)
        if (ggml_types[i].dtype == (int)t) return i;
    return -1;
}

bool fs_gguf_dtype_of_type(uint32_t type, fs_dtype *out, const char **name) {
    *name = type < (uint32_t)GGML_TYPES ? ggml_types[type].name : NULL;
    if (!*name || ggml_types[type].dtype < 0) return false;
    *out = (fs_dtype)ggml_types[type].dtype;
    return true;
}

size_t fs_gguf_scalar_size(fs_gguf_type t) {
    switch (t) {
    case FS_GGUF_U8:
    case FS_GGUF_I8:
    case FS_GGUF_BOOL: return 1;
    case FS_GGUF_U16:
    case FS_GGUF_I16: return 2;
    case FS_GGUF_U32:
    case FS_GGUF_I32:
    case FS_GGUF_F32: return 4;
    case FS_GGUF_U64:
    case FS_GGUF_I64:
    case FS_GGUF_F64: return 8;
    case FS_GGUF_STRING:
    case FS_GGUF_ARRAY: break;
    }
    return 0;
}

/* ---- fields ---- */

static fs_status fail_field(const reader *r, fs_gguf_text key, const char *what) {
    return fs_fail(r->err, FS_E_FORMAT, "%s: metadata %.*s: %s; the file is damaged", r->file, (int)(key.size < 200 ? key.size : 200), key.data, what);
}

static fs_status check_bools(const reader *r, fs_gguf_text key, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] > 1) return fail_field(r, key, "a truth value is neither 0 nor 1");
    return FS_OK;
}

/* Steps over the elements of an array, checking them; strings and nested arrays one by one. */
static fs_status skip_elements(reader *r, fs_gguf_text key, fs_gguf_type element, uint64_t count, int depth) {
    const size_t each = fs_gguf_scalar_size(element);
    const size_t least = each ? each : element == FS_GGUF_STRING ? 8 : 12;
    const uint8_t *p = NULL;
    fs_status status = FS_OK;
    if (count > (r->size - r->at) / least) return fail_cut(r, "an array of the metadata");
    if (each) {
        status = take(r, (size_t)count * each, "an array of the metadata", &p);
        return status || element != FS_GGUF_BOOL ? status : check_bools(r, key, p, (size_t)count);
    }
    if (element == FS_GGUF_ARRAY && depth >= MAX_NESTING) return fail_field(r, key, "arrays are nested too deeply");
    for (uint64_t i = 0; i < count && !status; i++) {
        if (element == FS_GGUF_STRING) {
            fs_gguf_text text;
            status = take_text(r, "a string of the metadata", &text);
            continue;
        }
        uint32_t inner = 0;
        uint64_t n = 0;
        status = take_u32(r, "an array of the metadata", &inner);
        if (!status) status = take_u64(r, "an array of the metadata", &n);
        if (!status && inner > FS_GGUF_F64) status = fail_field(r, key, "its type is unknown");
        if (!status) status = skip_elements(r, key, (fs_gguf_type)inner, n, depth + 1);
    }
    return status;
}

static fs_status parse_field(reader *r, fs_gguf_entry *e) {
    uint32_t type = 0, element = 0;
    fs_status status = take_text(r, "the metadata", &e->field.key);
    if (status) return status;
    if (e->field.key.size == 0 || e->field.key.size > 65535 || !fs_is_utf8(e->field.key.data, e->field.key.size))
        return fs_fail(r->err, FS_E_FORMAT, "%s: a metadata key is empty, too long or no UTF-8 text; the file is damaged", r->file);
    status = take_u32(r, "the metadata", &type);
    if (status) return status;
    if (type > FS_GGUF_F64) return fail_field(r, e->field.key, "its type is unknown");
    e->field.type = e->field.element = (fs_gguf_type)type;
    e->field.count = 1;
    if (type == FS_GGUF_ARRAY) {
        status = take_u32(r, "the metadata", &element);
        if (!status) status = take_u64(r, "the metadata", &e->field.count);
        if (!status && element > FS_GGUF_F64) status = fail_field(r, e->field.key, "its elements' type is unknown");
        e->field.element = (fs_gguf_type)element;
    }
    e->value = r->data + r->at;
    if (!status) status = skip_elements(r, e->field.key, e->field.element, e->field.count, 0);
    e->size = (size_t)(r->data + r->at - e->value);
    return status;
}

static fs_status parse_fields(reader *r, fs_gguf *g) {
    for (size_t i = 0; i < g->count; i++) {
        bool added;
        fs_status status = parse_field(r, &g->fields[i]);
        if (status) return status;
        const fs_gguf_text key = g->fields[i].field.key;
        if (!fs_strmap_put(&g->keys, key.data, key.size, i, &added)) return fs_fail(r->err, FS_E_NO_MEMORY, "%s: no memory for its metadata", r->file);
        if (!added) return fail_field(r, key, "it is there twice");
    }
    return FS_OK;
}

/* ---- tensors ---- */

static fs_status fail_tensor(const reader *r, const info *t, fs_status status, const char *what) {
    return fs_fail(r->err, status, "%s: tensor %.*s: %s", r->file, (int)(t->name_length < 200 ? t->name_length : 200), t->name, what);
}

static fs_status parse_tensor(reader *r, info *t) {
    fs_gguf_text name = {0};
    uint32_t ndim = 0, type = 0;
    const char *known;
    fs_status status = take_text(r, "the table of tensors", &name);
    if (!status) status = take_u32(r, "the table of tensors", &ndim);
    if (status) return status;
    *t = (info){.name = name.data, .name_length = name.size};
    if (name.size == 0 || !fs_is_utf8(name.data, name.size))
        return fs_fail(r->err, FS_E_FORMAT, "%s: a tensor's name is empty or no UTF-8 text; the file is damaged", r->file);
    if (ndim > FS_MAX_DIMS) return fail_tensor(r, t, FS_E_FORMAT, "it has more dimensions than the format knows (4); the file is damaged");
    t->ndim = (int)ndim;
    for (int d = t->ndim - 1; d >= 0 && !status; d--) {
        uint64_t n = 0;
        status = take_u64(r, "the table of tensors", &n);
        if (!status && n > INT64_MAX) status = fail_tensor(r, t, FS_E_FORMAT, "its shape is impossible; the file is damaged");
        t->shape[d] = (int64_t)n;
    }
    if (!status) status = take_u32(r, "the table of tensors", &type);
    if (!status) status = take_u64(r, "the table of tensors", &t->offset);
    if (status) return status;
    if (!fs_gguf_dtype_of_type(type, &t->dtype, &known))
        return fs_fail(r->err, FS_E_UNSUPPORTED,
                       "%s: tensor %.*s: expected a type out of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K, found %s (number %" PRIu32
                       "); quantize it to one of these",
                       r->file, (int)(name.size < 200 ? name.size : 200), name.data, known ? known : "an unknown one", type);
    if (!fs_dtype_bytes(t->dtype, t->ndim, t->shape, &t->bytes))
        return fail_tensor(r, t, FS_E_FORMAT, "its shape is impossible or its rows are no whole number of blocks; the file is damaged");
    return FS_OK;
}

static int by_offset(const void *x, const void *y) {
    const info *const *p = x, *const *q = y;
    const info *a = *p, *b = *q;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

/* Ranges within the data, in steps of the alignment, free of overlap. *end: of the last. */
static fs_status check_ranges(const reader *r, const fs_gguf *g, const info *tensors, const info **sorted, size_t *end) {
    const size_t room = r->size - g->data_start;
    *end = 0;
    for (size_t i = 0; i < g->tensor_count; i++) {
        sorted[i] = &tensors[i];
        if (tensors[i].offset % g->alignment != 0)
            return fail_tensor(r, &tensors[i], FS_E_FORMAT, "its data does not stand at a multiple of general.alignment; the file is damaged");
    }
    qsort((void *)sorted, g->tensor_count, sizeof *sorted, by_offset);
    for (size_t i = 0; i < g->tensor_count; i++) {
        const info *t = sorted[i];
        if (t->offset < *end) return fail_tensor(r, t, FS_E_FORMAT, "its data overlaps another tensor's; the file is damaged");
        if (t->offset > room || t->bytes > room - t->offset)
            return fs_fail(r->err, FS_E_FORMAT, "%s: tensor %.*s: its %zu bytes at %zu + %" PRIu64 " reach beyond the end of the file (%zu bytes): download or convert it again",
                           r->file, (int)(t->name_length < 200 ? t->name_length : 200), t->name, t->bytes, g->data_start, t->offset, r->size);
        *end = (size_t)t->offset + t->bytes;
    }
    return FS_OK;
}

static fs_status put_tensors(fs_archive *a, const reader *r, fs_gguf *g, const info *tensors) {
    for (size_t i = 0; i < g->tensor_count; i++) {
        const info *t = &tensors[i];
        const uint8_t *data = r->data + g->data_start + t->offset;
        const size_t element = fs_dtype_size(t->dtype);
        const void *aligned;
        fs_status status = fs_archive_align(a, r->file, data, t->bytes, element ? element : 2, &aligned, r->err);
        if (!status) status = fs_archive_put(a, r->file, t->name, t->name_length, t->dtype, t->ndim, t->shape, aligned, r->err);
        if (status) return status;
        g->tensors[i] = (fs_gguf_tensor){a->items[a->count - 1].tensor.name, data, t->bytes};
    }
    return FS_OK;
}

/* ---- the whole ---- */

static fs_status parse_head(reader *r, fs_gguf *g) {
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    uint64_t tensors = 0, fields = 0;
    fs_status status = take(r, 4, "its header", &magic);
    if (!status) status = take_u32(r, "its header", &version);
    if (status) return status;
    if (memcmp(magic, "GGUF", 4) != 0) return fs_fail(r->err, FS_E_FORMAT, "%s: is no GGUF file", r->file);
    if (version != 0 && (version & 0xFFFF) == 0)
        return fs_fail(r->err, FS_E_UNSUPPORTED, "%s: is a GGUF file for big-endian machines; convert it to little-endian first", r->file);
    if (version < 2 || version > 3)
        return fs_fail(r->err, FS_E_UNSUPPORTED, "%s: expected GGUF version 2 or 3, found %" PRIu32 "; convert it with a current program", r->file, version);
    status = take_u64(r, "its header", &tensors);
    if (!status) status = take_u64(r, "its header", &fields);
    if (status) return status;
    const size_t left = r->size - r->at;
    if (fields > left / MIN_FIELD || tensors > (left - (size_t)fields * MIN_FIELD) / MIN_TENSOR)
        return fs_fail(r->err, FS_E_FORMAT, "%s: announces %" PRIu64 " metadata fields and %" PRIu64 " tensors, more than its %zu bytes can hold: download or convert it again",
                       r->file, fields, tensors, r->size);
    g->version = (int)version;
    g->count = (size_t)fields;
    g->tensor_count = (size_t)tensors;
    return FS_OK;
}

/* The alignment and, for a model cut into several files, a refusal: the other parts' tensors would be missing without a word. */
static fs_status check_general(const reader *r, fs_gguf *g) {
    int64_t parts = 1, alignment = FS_GGUF_ALIGNMENT;
    fs_status status = fs_gguf_int(g, "general.alignment", false, 1, (int64_t)1 << 30, &alignment, r->err);
    if (!status) status = fs_gguf_int(g, "split.count", false, 0, 65535, &parts, r->err);
    if (status) return status;
    if ((alignment & (alignment - 1)) != 0)
        return fs_fail(r->err, FS_E_FORMAT, "%s: general.alignment is %" PRId64 ": expected a power of two; the file is damaged", r->file, alignment);
    if (parts > 1)
        return fs_fail(r->err, FS_E_UNSUPPORTED, "%s: is one of %" PRId64 " parts of a split model; merge them into one file first (llama-gguf-split --merge)", r->file, parts);
    g->alignment = (uint64_t)alignment;
    return FS_OK;
}

/* Our own files: header checksum and exact length. `end` is where the last tensor ends. */
static fs_status check_own(const reader *r, const fs_gguf *g, size_t end) {
    static const char prefix[] = "fakeshield.";
    bool own = false;
    fs_gguf_text sum = {0};
    char zeros[FS_GGUF_SUM_SIZE], found[65];
    for (size_t i = 0; i < g->count && !own; i++) {
        const fs_gguf_text key = g->fields[i].field.key;
        own = key.size >= sizeof prefix - 1 && memcmp(key.data, prefix, sizeof prefix - 1) == 0;
    }
    if (!own) return FS_OK;
    fs_status status = fs_gguf_string(g, FS_GGUF_HEADER_SUM, true, &sum, r->err);
    if (status) return status;
    if (sum.size != FS_GGUF_SUM_SIZE) return fs_fail(r->err, FS_E_FORMAT, "%s: metadata %s: expected 64 hex digits; the file is damaged", r->file, FS_GGUF_HEADER_SUM);
    const uint8_t *at = (const uint8_t *)sum.data;
    fs_sha256 s;
    memset(zeros, '0', sizeof zeros);
    fs_sha256_begin(&s);
    fs_sha256_add(&s, r->data, (size_t)(at - r->data));
    fs_sha256_add(&s, zeros, sizeof zeros);
    fs_sha256_add(&s, at + sizeof zeros, g->data_start - (size_t)(at - r->data) - sizeof zeros);
    fs_sha256_end(&s, found);
    if (memcmp(found, sum.data, sizeof zeros) != 0)
        return fs_fail(r->err, FS_E_FORMAT, "%s: its header does not have the checksum it carries; the file is damaged: download or convert it again", r->file);
    const size_t rest = end % FS_GGUF_ALIGNMENT ? FS_GGUF_ALIGNMENT - end % FS_GGUF_ALIGNMENT : 0;
    if (r->size - g->data_start - end != rest)
        return fs_fail(r->err, FS_E_FORMAT, "%s: expected %zu bytes, found %zu: download or convert it again", r->file, g->data_start + end + rest, r->size);
    return FS_OK;
}

static fs_status read_all(fs_archive *a, reader *r, fs_gguf *g) {
    const info **sorted = NULL;
    size_t end = 0, rest;
    fs_status status = parse_head(r, g);
    if (status) return status;
    g->fields = fs_alloc_zero(g->count, sizeof *g->fields);
    g->tensors = fs_alloc_zero(g->tensor_count, sizeof *g->tensors);
    info *tensors = fs_alloc(g->tensor_count, sizeof *tensors);
    sorted = fs_alloc(g->tensor_count, sizeof *sorted);
    if (!g->fields || !g->tensors || !tensors || !sorted) {
        status = fs_fail(r->err, FS_E_NO_MEMORY, "%s: no memory for its header", r->file);
        goto done;
    }
    status = parse_fields(r, g);
    if (!status) status = check_general(r, g);
    for (size_t i = 0; i < g->tensor_count && !status; i++) status = parse_tensor(r, &tensors[i]);
    if (status) goto done;
    rest = (size_t)(r->at % g->alignment);
    /* a file without tensor data may end with its header */
    g->data_start = rest == 0 ? r->at : r->size - r->at < g->alignment - rest ? r->size : r->at + (size_t)g->alignment - rest;
    status = check_ranges(r, g, tensors, sorted, &end);
    if (!status) status = check_own(r, g, end);
    if (!status) status = put_tensors(a, r, g, tensors);
done:
    free((void *)sorted);
    free(tensors);
    return status;
}

bool fs_gguf_sniff(const uint8_t *data, size_t size) { return size >= 4 && memcmp(data, "GGUF", 4) == 0; }

fs_status fs_gguf_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err) {
    if (a->gguf) return fs_fail(err, FS_E_UNSUPPORTED, "%s: a second GGUF file behind one index is not read", file);
    reader r = {file, data, size, 0, err};
    a->gguf = calloc(1, sizeof *a->gguf);
    if (!a->gguf) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", file);
    a->gguf->file = file;
    fs_status status = read_all(a, &r, a->gguf);
    if (!status && !a->kind) a->kind = "gguf";
    return status;
}

void fs_gguf_free(fs_gguf *g) {
    if (!g) return;
    free(g->fields);
    free(g->tensors);
    fs_strmap_free(&g->keys);
    free(g);
}
