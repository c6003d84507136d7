/* Binding and checking shared by the networks: see parts.h. */
#include "model/parts.h"

#include <string.h>

enum { NAME_SIZE = 256 };

static const fs_tensor *bind_part(fs_binder *b, int ndim, const int64_t *shape, const char *part, const char *format, va_list args) {
    char name[NAME_SIZE];
    vsnprintf(name, sizeof name, format, args);
    const fs_tensor *t = fs_bind(b, ndim, shape, "%s.%s", name, part);
    /* "Any size" does not include none: sizes are divided by further on. */
    if (t && fs_tensor_count(t) == 0) {
        snprintf(name + strlen(name), sizeof name - strlen(name), ".%s", part);
        fs_bind_fail(b, name, "expected at least one element, found none");
        return NULL;
    }
    return t;
}

/* Weight of the given shape, and a bias as long as the weight's first dimension. */
static fs_affine bind_pair(fs_binder *b, int ndim, const int64_t *shape, const char *format, va_list args) {
    fs_affine a = {0};
    va_list again;
    va_copy(again, args);
    a.w = bind_part(b, ndim, shape, "weight", format, args);
    if (a.w) a.b = bind_part(b, 1, a.w->shape, "bias", format, again);
    va_end(again);
    return a;
}

fs_affine fs_bind_affine(fs_binder *b, int64_t out, int64_t in, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    fs_affine a = bind_pair(b, 2, (const int64_t[]){out, in}, name_format, args);
    va_end(args);
    return a;
}

fs_affine fs_bind_norm(fs_binder *b, int64_t channels, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    fs_affine a = bind_pair(b, 1, &channels, name_format, args);
    va_end(args);
    return a;
}

fs_affine fs_bind_conv(fs_binder *b, int64_t out, int64_t in, int64_t kernel, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    fs_affine a = bind_pair(b, 4, (const int64_t[]){out, in, kernel, kernel}, name_format, args);
    va_end(args);
    return a;
}

const fs_tensor *fs_bind_kernel(fs_binder *b, int64_t out, int64_t in, int64_t kernel, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    const fs_tensor *w = bind_part(b, 4, (const int64_t[]){out, in, kernel, kernel}, "weight", name_format, args);
    va_end(args);
    return w;
}

int fs_bind_count(const fs_binder *b, const char *before, const char *after) {
    int n = 0;
    while (n < 100000 && fs_binder_has(b, "%s%d%s", before, n, after)) n++;
    return n;
}

void fs_bind_fail(fs_binder *b, const char *name, const char *format, ...) {
    if (b->status) return;
    char full[NAME_SIZE], reason[512];
    snprintf(full, sizeof full, "%s%s", b->prefix ? b->prefix : "", name);
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    b->status = fs_fail(b->err, FS_E_MISMATCH, "%s: tensor %s: %s", b->source->origin(b->source->user, full), full, reason);
}

bool fs_expect_shape(fs_exec *c, const fs_tensor *x, int ndim, const int64_t *shape, const char *what) {
    if (c->error.status) return false;
    if (!x) {
        fs_exec_fail(c, FS_E_INTERNAL, "%s: no tensor", what);
        return false;
    }
    bool same = x->ndim == ndim && x->dtype == FS_DTYPE_F32;
    for (int d = 0; same && d < ndim; d++) same = shape[d] < 0 || x->shape[d] == shape[d];
    if (same) return true;
    char found[128], expected[128] = "[";
    fs_shape_text(x, found, sizeof found);
    for (int d = 0; d < ndim; d++) {
        size_t n = strlen(expected);
        if (shape[d] < 0) snprintf(expected + n, sizeof expected - n, "%sany", d ? "," : "");
        else snprintf(expected + n, sizeof expected - n, "%s%lld", d ? "," : "", (long long)shape[d]);
    }
    fs_exec_fail(c, FS_E_MISMATCH, "%s: expected F32 %s], found %s %s", what, expected, fs_dtype_name(x->dtype), found);
    return false;
}
