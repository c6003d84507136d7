/* NumPy's .npy: "\x93NUMPY", version, length of the header, the header as a Python dictionary {'descr': '<f4', 'fortran_order': False,
 * 'shape': (480, 640), } and the bare numbers. The dictionary is not interpreted: its three values are looked for by name. */
#include "format/npy.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 1 << 16, FILE_MAX_GIB = 4 };

typedef struct header {
    char kind;    /* 'f', 'i', 'u', 'b' */
    size_t width; /* bytes of a number */
    bool swapped, fortran;
    int64_t rows, columns;
    size_t begin; /* of the numbers */
} header;

static bool little_machine(void) {
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 1;
}

/* What stands behind 'key': in the dictionary. */
static const char *value_of(const char *dictionary, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *at = strstr(dictionary, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    return at + strspn(at, " ");
}

static fs_status read_type(const char *name, const char *v, header *h, fs_error *err) {
    static const char *const known[] = {"f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "b1"};
    const char quote = v ? *v : 0, order = quote ? v[1] : 0;
    if ((quote == '\'' || quote == '"') && order && strchr("<>|=", order) && v[2] && v[3] && v[4] == quote)
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strncmp(v + 2, known[i], 2) == 0) {
                h->kind = v[2];
                h->width = (size_t)(v[3] - '0');
                h->swapped = (order == '>') == little_machine() && order != '|' && order != '=' && h->width > 1;
                return FS_OK;
            }
    return fs_fail(err, FS_E_UNSUPPORTED, "%s: numbers of type %.24s; expected floats of 2, 4 or 8 bytes or whole numbers", name,
                   v ? v : "unknown");
}

static fs_status read_shape(const char *name, const char *v, header *h, fs_error *err) {
    int64_t sides[2] = {1, 1}, dimensions = 0, kept = 0;
    if (!v || *v != '(') return fs_fail(err, FS_E_FORMAT, "%s: no shape in its header; is it a .npy file?", name);
    for (const char *p = v + 1; *p && *p != ')';) {
        char *end;
        const long long n = strtoll(p, &end, 10);
        if (end == p || n < 0 || ++dimensions > 8) return fs_fail(err, FS_E_FORMAT, "%s: cannot read the shape %.40s", name, v);
        if (n != 1) {
            if (kept == 2)
                return fs_fail(err, FS_E_UNSUPPORTED, "%s: an array of shape %.40s; expected two dimensions (others of size 1)", name, v);
            sides[kept++] = n;
        }
        p = end + strspn(end, ", L");
    }
    h->rows = kept == 2 ? sides[0] : 1;
    h->columns = kept == 2 ? sides[1] : sides[0];
    /* a column of one number each, shape (n, 1), is n rows */
    if (kept == 1 && dimensions == 2 && strncmp(v, "(1,", 3) != 0) h->rows = sides[0], h->columns = 1;
    return FS_OK;
}

static fs_status read_header(const char *name, const uint8_t *data, size_t size, header *h, fs_error *err) {
    if (size < 10 || memcmp(data, "\x93NUMPY", 6) != 0)
        return fs_fail(err, FS_E_FORMAT, "%s: is no .npy file (it does not begin as one)", name);
    const bool wide = data[6] >= 2;
    const size_t lead = wide ? 12 : 10;
    if (data[6] < 1 || data[6] > 3) return fs_fail(err, FS_E_UNSUPPORTED, "%s: .npy version %d; 1 to 3 are known", name, data[6]);
    if (size < lead) return fs_fail(err, FS_E_FORMAT, "%s: ends in its header", name);
    size_t length = data[8] | (size_t)data[9] << 8;
    if (wide) length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    if (length > HEADER_MAX || length > size - lead)
        return fs_fail(err, FS_E_FORMAT, "%s: a header of %zu bytes in a file of %zu; get the file again", name, length, size);
    char *text = fs_alloc(length + 1, 1);
    if (!text) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", name);
    memcpy(text, data + lead, length);
    text[length] = 0;
    const char *order = value_of(text, "fortran_order");
    h->fortran = order && strncmp(order, "True", 4) == 0;
    h->begin = lead + length;
    fs_status status = read_type(name, value_of(text, "descr"), h, err);
    if (!status) status = read_shape(name, value_of(text, "shape"), h, err);
    free(text);
    return status;
}

static float number_at(const header *h, const uint8_t *p) {
    uint8_t b[8] = {0};
    for (size_t i = 0; i < h->width; i++) b[i] = p[h->swapped ? h->width - 1 - i : i];
    union {
        uint16_t u2;
        uint32_t u4;
        uint64_t u8;
        int8_t i1;
        int16_t i2;
        int32_t i4;
        int64_t i8;
        float f4;
        double f8;
    } v = {0};
    memcpy(&v, b, h->width);
    if (h->kind == 'f') return h->width == 2 ? fs_f16_to_f32(v.u2) : h->width == 4 ? v.f4 : (float)v.f8;
    if (h->kind == 'i') return h->width == 1 ? (float)v.i1 : h->width == 2 ? (float)v.i2 : h->width == 4 ? (float)v.i4 : (float)v.i8;
    if (h->kind == 'b') return b[0] ? 1.0f : 0.0f;
    return h->width == 1 ? (float)b[0] : h->width == 2 ? (float)v.u2 : h->width == 4 ? (float)v.u4 : (float)v.u8;
}

fs_status fs_npy_parse(const char *name, const uint8_t *data, size_t size, fs_npy *out, fs_error *err) {
    header h = {0};
    size_t count, bytes;
    *out = (fs_npy){0};
    fs_status status = read_header(name, data, size, &h, err);
    if (status) return status;
    if (!fs_mul_size((size_t)h.rows, (size_t)h.columns, &count) || !fs_mul_size(count, h.width, &bytes) || bytes > size - h.begin)
        return fs_fail(err, FS_E_FORMAT, "%s: its header promises %lld x %lld numbers of %zu bytes, the file has %zu bytes behind it", name,
                       (long long)h.rows, (long long)h.columns, h.width, size - h.begin);
    if (!count) return fs_fail(err, FS_E_FORMAT, "%s: an empty array, %lld x %lld", name, (long long)h.rows, (long long)h.columns);
    float *v = fs_alloc(count, sizeof *v);
    if (!v) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %zu numbers", name, count);
    for (int64_t r = 0; r < h.rows; r++)
        for (int64_t c = 0; c < h.columns; c++) {
            const int64_t at = h.fortran ? c * h.rows + r : r * h.columns + c;
            v[r * h.columns + c] = number_at(&h, data + h.begin + (size_t)at * h.width);
        }
    *out = (fs_npy){h.rows, h.columns, v};
    return FS_OK;
}

fs_status fs_npy_read(const char *path, fs_npy *out, fs_error *err) {
    uint8_t *data = NULL;
    size_t size = 0;
    *out = (fs_npy){0};
    fs_status status = fs_read_file(path, (size_t)FILE_MAX_GIB << 30, &data, &size, err);
    if (!status) status = fs_npy_parse(path, data, size, out, err);
    free(data);
    return status;
}

void fs_npy_free(fs_npy *a) {
    free(a->data);
    *a = (fs_npy){0};
}
