/* Binding a model's weight table to a source of named tensors: each weight is asked for by name and checked against the shape
 * that the config implies, so that a wrong, mixed-up or incomplete checkpoint stops here, in one line that names file and
 * tensor, and never inside a network. The first failure is kept; later calls do nothing, so a model binds all its weights and
 * looks at the status once. */
#include "tensor/packed.h"

#include <inttypes.h>
#include <string.h>

enum { NAME_SIZE = 512 };

/* prefix + name into out; false when it does not fit. */
static bool full_name(const fs_binder *b, const char *format, va_list args, char out[NAME_SIZE]) {
    const char *prefix = b->prefix ? b->prefix : "";
    size_t n = strlen(prefix);
    if (n >= NAME_SIZE) return false;
    memcpy(out, prefix, n + 1);
    int m = vsnprintf(out + n, NAME_SIZE - n, format, args);
    return m >= 0 && (size_t)m < NAME_SIZE - n;
}

static void expected_text(int ndim, const int64_t *shape, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (int d = 0; d < ndim && used + 1 < size; d++) {
        int n = shape[d] < 0 ? snprintf(out + used, size - used, "%sany", d ? "," : "[")
                             : snprintf(out + used, size - used, "%s%" PRId64, d ? "," : "[", shape[d]);
        if (n < 0) return;
        used += (size_t)n;
    }
    if (used + 1 < size) snprintf(out + used, size - used, "%s]", ndim > 0 ? "" : "[");
}

static bool shape_fits(const fs_tensor *t, int ndim, const int64_t *shape) {
    if (t->ndim != ndim) return false;
    for (int d = 0; d < ndim; d++)
        if (shape[d] >= 0 && shape[d] != t->shape[d]) return false;
    return true;
}

static bool is_float(fs_dtype t) { return t == FS_DTYPE_F32 || t == FS_DTYPE_F16 || t == FS_DTYPE_BF16 || t == FS_DTYPE_F64; }

static const fs_tensor *bind(fs_binder *b, bool required, int ndim, const int64_t *shape, const char *format, va_list args) {
    char name[NAME_SIZE], expected[160], found[160];
    if (b->status != FS_OK) return NULL;
    if (!full_name(b, format, args, name)) {
        b->status = fs_fail(b->err, FS_E_INTERNAL, "a tensor name longer than %d bytes was asked for: %.100s...", NAME_SIZE - 1, name);
        return NULL;
    }
    expected_text(ndim, shape, expected, sizeof expected);
    const fs_tensor *t = b->source->find(b->source->user, name);
    if (!t) {
        if (required)
            b->status = fs_fail(b->err, FS_E_NOT_FOUND,
                                "%s: tensor %s: expected shape %s, found no tensor of that name; the file is incomplete or belongs to "
                                "another model",
                                b->source->origin(b->source->user, name), name, expected);
        return NULL;
    }
    if (!shape_fits(t, ndim, shape)) {
        fs_shape_text(t, found, sizeof found);
        b->status =
            fs_fail(b->err, FS_E_MISMATCH, "%s: tensor %s: expected shape %s, found %s; the weights and config.json do not belong together",
                    b->source->origin(b->source->user, name), name, expected, found);
        return NULL;
    }
    if (!is_float(t->dtype) && !(ndim == 2 && (fs_dtype_is_block(t->dtype) || fs_dtype_is_packed(t->dtype)))) {
        b->status = fs_fail(b->err, FS_E_MISMATCH,
                            "%s: tensor %s: expected dtype F32, F16, BF16 or F64%s, found %s; the file belongs to another model or is damaged",
                            b->source->origin(b->source->user, name), name, ndim == 2 ? " or a block type" : "", fs_dtype_name(t->dtype));
        return NULL;
    }
    return t;
}

const fs_tensor *fs_bind(fs_binder *b, int ndim, const int64_t *shape, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    const fs_tensor *t = bind(b, true, ndim, shape, name_format, args);
    va_end(args);
    return t;
}

const fs_tensor *fs_bind_optional(fs_binder *b, int ndim, const int64_t *shape, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    const fs_tensor *t = bind(b, false, ndim, shape, name_format, args);
    va_end(args);
    return t;
}

bool fs_binder_has(const fs_binder *b, const char *name_format, ...) {
    char name[NAME_SIZE];
    va_list args;
    va_start(args, name_format);
    bool fits = full_name(b, name_format, args, name);
    va_end(args);
    return fits && b->source->find(b->source->user, name) != NULL;
}
