/* Writing what torch.save writes of a dict of tensors, so that torch.load reads it (torch/serialization.py,
 * caffe2/serialize/inline_container.cc): a zip of stored records, each at a multiple of 64 bytes, in one folder: data.pkl, a pickle of
 * protocol 2 in which every tensor is a call of torch._utils._rebuild_tensor_v2 on a storage; data/0, data/1, ... the storages'
 * little-endian bytes; version. Zip64 throughout, so that no size is special. Memory: one tensor's bytes. */
#include <stdlib.h>
#include <string.h>

#include "format/archive.h"

enum {
    ALIGNMENT = 64,
    LOCAL_HEADER = 30,
    CENTRAL_HEADER = 46,
    LOCAL_EXTRA = 20,
    CENTRAL_EXTRA = 28,
    ZIP64_END = 56,
    ZIP64_LOCATOR = 20,
    END = 22
};
enum { VERSION = 45, DOS_DATE = (1 << 5) | 1 }; /* needed to read zip64; 1980-01-01, so that the same tensors give the same bytes */

typedef struct record {
    uint64_t offset, size;
    uint32_t crc;
} record;

typedef struct writer {
    fs_output out;
    uint32_t crc[8][256]; /* tables for 8 bytes at a time */
    fs_buffer central;
    uint64_t records;
} writer;

/* ---- CRC-32 as zip and PNG have it ---- */

static void make_crc(uint32_t t[8][256]) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320U ^ (c >> 1) : c >> 1;
        t[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++) t[k][i] = t[0][t[k - 1][i] & 255] ^ (t[k - 1][i] >> 8);
}

static uint32_t crc_of(const uint32_t t[8][256], const uint8_t *p, size_t n) {
    uint32_t c = 0xffffffffU;
    for (; n >= 8; p += 8, n -= 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = t[7][c & 255] ^ t[6][c >> 8 & 255] ^ t[5][c >> 16 & 255] ^ t[4][c >> 24] ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
    }
    for (; n; p++, n--) c = t[0][(c ^ *p) & 255] ^ (c >> 8);
    return ~c;
}

/* ---- zip ---- */

static void put(fs_buffer *b, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) {
        const uint8_t byte = (uint8_t)(value >> (8 * i));
        fs_buffer_add(b, &byte, 1);
    }
}

/* What local and central header have in common, from "version needed" on: flags, method stored, time, date, CRC, sizes elsewhere, name's
 * length. */
static void put_common(fs_buffer *b, const record *r, const char *name) {
    put(b, VERSION, 2);
    put(b, 0, 2);
    put(b, 0, 2);
    put(b, 0, 2);
    put(b, DOS_DATE, 2);
    put(b, r->crc, 4);
    put(b, 0xffffffffU, 4);
    put(b, 0xffffffffU, 4);
    put(b, strlen(name), 2);
}

static fs_status add_record(writer *w, const char *name, const void *data, size_t size, fs_error *err) {
    const record r = {.offset = w->out.size, .size = size, .crc = crc_of(w->crc, data, size)};
    fs_buffer head = {0};
    const size_t bare = w->out.size + LOCAL_HEADER + strlen(name) + LOCAL_EXTRA + 4; /* 4: of the padding's own header */
    const size_t padding = (ALIGNMENT - bare % ALIGNMENT) % ALIGNMENT;
    put(&head, 0x04034b50, 4);
    put_common(&head, &r, name);
    put(&head, LOCAL_EXTRA + 4 + padding, 2);
    fs_buffer_puts(&head, name);
    put(&head, 1, 2); /* zip64: true sizes */
    put(&head, 16, 2);
    put(&head, r.size, 8);
    put(&head, r.size, 8);
    put(&head, 0x4246, 2); /* "FB", as PyTorch marks its padding */
    put(&head, padding, 2);
    for (size_t i = 0; i < padding; i++) put(&head, 'Z', 1);

    put(&w->central, 0x02014b50, 4);
    put(&w->central, VERSION, 2);
    put_common(&w->central, &r, name);
    put(&w->central, CENTRAL_EXTRA, 2);
    put(&w->central, 0, 2); /* comment */
    put(&w->central, 0, 2); /* disk */
    put(&w->central, 0, 2);
    put(&w->central, 0, 4);
    put(&w->central, 0xffffffffU, 4);
    fs_buffer_puts(&w->central, name);
    put(&w->central, 1, 2);
    put(&w->central, 24, 2);
    put(&w->central, r.size, 8);
    put(&w->central, r.size, 8);
    put(&w->central, r.offset, 8);
    w->records++;
    fs_status status = head.failed || w->central.failed ? fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", w->out.path) : FS_OK;
    if (!status) status = fs_output_put(&w->out, head.data, head.size, err);
    if (!status) status = fs_output_put(&w->out, data, size, err);
    fs_buffer_free(&head);
    return status;
}

static fs_status finish(writer *w, fs_error *err) {
    const uint64_t at = w->out.size, size = w->central.size;
    fs_buffer *b = &w->central;
    put(b, 0x06064b50, 4);
    put(b, ZIP64_END - 12, 8);
    put(b, VERSION, 2);
    put(b, VERSION, 2);
    put(b, 0, 4);
    put(b, 0, 4);
    put(b, w->records, 8);
    put(b, w->records, 8);
    put(b, size, 8);
    put(b, at, 8);
    put(b, 0x07064b50, 4);
    put(b, 0, 4);
    put(b, at + size, 8);
    put(b, 1, 4);
    put(b, 0x06054b50, 4);
    put(b, 0, 4);
    put(b, 0xffff, 2);
    put(b, 0xffff, 2);
    put(b, 0xffffffffU, 4);
    put(b, 0xffffffffU, 4);
    put(b, 0, 2);
    if (b->failed) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", w->out.path);
    fs_status status = fs_output_put(&w->out, b->data, b->size, err);
    return status ? status : fs_output_commit(&w->out, err);
}

/* ---- pickle ---- */

static void pickle_text(fs_buffer *b, const char *s) {
    put(b, 'X', 1); /* BINUNICODE */
    put(b, strlen(s), 4);
    fs_buffer_puts(b, s);
}

static void pickle_int(fs_buffer *b, int64_t v) {
    if (v >= 0 && v <= INT32_MAX) {
        put(b, 'J', 1); /* BININT */
        put(b, (uint64_t)v, 4);
    } else {
        put(b, 0x8a, 1); /* LONG1 */
        put(b, 8, 1);
        put(b, (uint64_t)v, 8);
    }
}

static void pickle_shape(fs_buffer *b, int n, const int64_t *values) {
    put(b, '(', 1); /* MARK ... TUPLE */
    for (int d = 0; d < n; d++) pickle_int(b, values[d]);
    put(b, 't', 1);
}

/* _rebuild_tensor_v2(storage `key`, offset 0, shape, stride, requires_grad False, OrderedDict()) */
static void pickle_tensor(fs_buffer *b, const fs_tensor *t, size_t key) {
    int64_t stride[FS_MAX_DIMS] = {0}, count = 1;
    char number[32];
    for (int d = t->ndim - 1; d >= 0; d--) {
        stride[d] = count;
        count *= t->shape[d];
    }
    snprintf(number, sizeof number, "%zu", key);
    fs_buffer_puts(b, "ctorch._utils\n_rebuild_tensor_v2\n(("); /* GLOBAL, MARK for the arguments, MARK for the storage's id */
    pickle_text(b, "storage");
    fs_buffer_printf(b, "ctorch\n%s\n",
                     t->dtype == FS_DTYPE_F32   ? "FloatStorage"
                     : t->dtype == FS_DTYPE_F16 ? "HalfStorage"
                                                : "BFloat16Storage");
    pickle_text(b, number);
    pickle_text(b, "cpu");
    pickle_int(b, count);
    fs_buffer_puts(b, "tQ"); /* TUPLE, BINPERSID */
    pickle_int(b, 0);
    pickle_shape(b, t->ndim, t->shape);
    pickle_shape(b, t->ndim, stride);
    put(b, 0x89, 1);                                      /* NEWFALSE */
    fs_buffer_puts(b, "ccollections\nOrderedDict\n)RtR"); /* EMPTY_TUPLE, REDUCE; TUPLE, REDUCE */
}

static fs_status add_pickle(writer *w, const fs_tensor *const *tensors, const char *const *names, size_t n, fs_error *err) {
    fs_buffer b = {0};
    put(&b, 0x80, 1); /* PROTO */
    put(&b, 2, 1);
    fs_buffer_puts(&b, "}("); /* EMPTY_DICT, MARK */
    for (size_t i = 0; i < n; i++) {
        pickle_text(&b, names[i]);
        pickle_tensor(&b, tensors[i], i);
    }
    fs_buffer_puts(&b, "u."); /* SETITEMS, STOP */
    fs_status status =
        b.failed ? fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", w->out.path) : add_record(w, "archive/data.pkl", b.data, b.size, err);
    fs_buffer_free(&b);
    return status;
}

fs_status fs_torch_write(const char *path, const fs_tensor *const *tensors, const char *const *names, size_t n, fs_tensor_bytes_fn bytes_of,
                         void *user, fs_error *err) {
    writer *w = calloc(1, sizeof *w);
    if (!w) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    fs_status status = fs_output_open(path, &w->out, err);
    if (status) goto done;
    make_crc(w->crc);
    status = add_pickle(w, tensors, names, n, err);
    for (size_t i = 0; i < n && !status; i++) {
        const void *data = tensors[i]->data;
        size_t bytes;
        char name[48];
        const fs_dtype t = tensors[i]->dtype;
        if ((t != FS_DTYPE_F32 && t != FS_DTYPE_F16 && t != FS_DTYPE_BF16) ||
            !fs_dtype_bytes(t, tensors[i]->ndim, tensors[i]->shape, &bytes)) {
            status = fs_fail(err, FS_E_USAGE, "%s: tensor %s: its type or shape cannot be written", path, names[i]);
            break;
        }
        snprintf(name, sizeof name, "archive/data/%zu", i);
        if (bytes_of) status = bytes_of(user, i, &data, err);
        if (!status) status = add_record(w, name, data, bytes, err);
    }
    if (!status) status = add_record(w, "archive/version", "3\n", 2, err);
    if (!status) status = finish(w, err);
done:
    fs_output_drop(&w->out);
    fs_buffer_free(&w->central);
    free(w);
    return status;
}
