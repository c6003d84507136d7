/* The callables of PyTorch's checkpoints, as descriptions: torch._utils._rebuild_tensor* say how a tensor lies in a storage,
 * _rebuild_parameter* wrap one, collections.OrderedDict makes an empty dictionary (or, from Python 2, one of pairs), torch.Size is a
 * tuple. Names and argument orders follow torch/_utils.py and torch/serialization.py, 0.3 to 2.x. Nothing here runs anything. */
#include "format/unpickle_call.h"

#include <string.h>

typedef enum role {
    ROLE_DICT, ROLE_TENSOR_V1, ROLE_TENSOR_V2, ROLE_TENSOR_V3, ROLE_PARAMETER, ROLE_PARAMETER_STATE, ROLE_FROM_TYPE, ROLE_SIZE,
    ROLE_TENSOR_CLASS, ROLE_STORAGE, ROLE_UNTYPED, ROLE_DTYPE
} role;

struct fs_pickle_callable { const char *module, *name; role role; fs_dtype dtype; };
typedef struct fs_pickle_callable callable;

static const callable callables[] = {
    {"collections", "OrderedDict", ROLE_DICT, 0},
    {"torch._utils", "_rebuild_tensor", ROLE_TENSOR_V1, 0},
    {"torch._utils", "_rebuild_tensor_v2", ROLE_TENSOR_V2, 0},
    {"torch._utils", "_rebuild_tensor_v3", ROLE_TENSOR_V3, 0},
    {"torch._utils", "_rebuild_parameter", ROLE_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", ROLE_PARAMETER_STATE, 0},
    {"torch._tensor", "_rebuild_from_type_v2", ROLE_FROM_TYPE, 0},
    {"torch", "Size", ROLE_SIZE, 0},
    {"torch", "Tensor", ROLE_TENSOR_CLASS, 0},
    {"torch.nn.parameter", "Parameter", ROLE_TENSOR_CLASS, 0},
    {"torch", "FloatStorage", ROLE_STORAGE, FS_DTYPE_F32},
    {"torch", "HalfStorage", ROLE_STORAGE, FS_DTYPE_F16},
    {"torch", "BFloat16Storage", ROLE_STORAGE, FS_DTYPE_BF16},
    {"torch", "DoubleStorage", ROLE_STORAGE, FS_DTYPE_F64},
    {"torch", "LongStorage", ROLE_STORAGE, FS_DTYPE_I64},
    {"torch", "IntStorage", ROLE_STORAGE, FS_DTYPE_I32},
    {"torch", "ShortStorage", ROLE_STORAGE, FS_DTYPE_I16},
    {"torch", "CharStorage", ROLE_STORAGE, FS_DTYPE_I8},
    {"torch", "ByteStorage", ROLE_STORAGE, FS_DTYPE_U8},
    {"torch", "BoolStorage", ROLE_STORAGE, FS_DTYPE_BOOL},
    {"torch.storage", "UntypedStorage", ROLE_UNTYPED, FS_DTYPE_U8},
    {"torch", "UntypedStorage", ROLE_UNTYPED, FS_DTYPE_U8},
    {"torch", "float32", ROLE_DTYPE, FS_DTYPE_F32},
    {"torch", "float16", ROLE_DTYPE, FS_DTYPE_F16},
    {"torch", "bfloat16", ROLE_DTYPE, FS_DTYPE_BF16},
    {"torch", "float64", ROLE_DTYPE, FS_DTYPE_F64},
    {"torch", "int64", ROLE_DTYPE, FS_DTYPE_I64},
    {"torch", "int32", ROLE_DTYPE, FS_DTYPE_I32},
    {"torch", "int16", ROLE_DTYPE, FS_DTYPE_I16},
    {"torch", "int8", ROLE_DTYPE, FS_DTYPE_I8},
    {"torch", "uint8", ROLE_DTYPE, FS_DTYPE_U8},
    {"torch", "bool", ROLE_DTYPE, FS_DTYPE_BOOL},
};

/* Element types that PyTorch has and this library has not: named as such rather than as something dangerous. */
static const char *const other_types[] = {
    "ComplexFloatStorage", "ComplexDoubleStorage", "QUInt8Storage", "QInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "uint16", "uint32", "uint64", "complex64", "complex128", "complex32"};

enum { POOL = 512, VALUES_MAX = 1 << 22 };

static bool same(const char *a, const char *text, size_t length) { return strlen(a) == length && memcmp(a, text, length) == 0; }

static fs_status no_memory(fs_pickle_context *c) { return fs_fail(c->err, FS_E_NO_MEMORY, "%s: out of memory", c->what); }

fs_pickle_value *fs_pickle_new(fs_pickle_context *c, fs_pickle_kind kind) {
    if (c->pool_left == 0) {
        if (c->made >= VALUES_MAX) {
            fs_fail(c->err, FS_E_LIMIT, "%s: more than %d values; a state_dict has far fewer: save the weights alone", c->what,
                    (int)VALUES_MAX);
            return NULL;
        }
        c->pool = fs_arena_alloc(c->arena, POOL * sizeof *c->pool);
        if (!c->pool) {
            no_memory(c);
            return NULL;
        }
        c->pool_left = POOL;
        c->made += POOL;
    }
    fs_pickle_value *v = c->pool++;
    c->pool_left--;
    *v = (fs_pickle_value){.kind = kind};
    return v;
}

fs_status fs_pickle_append(fs_pickle_context *c, fs_pickle_value *v, fs_pickle_value *item) {
    if (v->as.list.count == v->as.list.capacity) {
        size_t capacity = v->as.list.capacity ? 2 * v->as.list.capacity : 8, bytes;
        fs_pickle_value **items = fs_mul_size(capacity, sizeof *items, &bytes) ? fs_arena_alloc(c->arena, bytes) : NULL;
        if (!items) return no_memory(c);
        if (v->as.list.count) memcpy(items, v->as.list.items, v->as.list.count * sizeof *items);
        v->as.list.items = items;
        v->as.list.capacity = capacity;
    }
    v->as.list.items[v->as.list.count++] = item;
    return FS_OK;
}

fs_status fs_pickle_global(fs_pickle_context *c, const char *module, size_t module_length, const char *name, size_t name_length,
                           fs_pickle_value **out) {
    /* files saved from a GPU by old versions name torch.cuda's storages */
    bool cuda = same("torch.cuda", module, module_length);
    for (size_t i = 0; i < sizeof callables / sizeof callables[0]; i++) {
        const callable *k = &callables[i];
        if (!same(k->name, name, name_length)) continue;
        if (!same(k->module, module, module_length) && !(cuda && k->role == ROLE_STORAGE)) continue;
        *out = fs_pickle_new(c, FS_PICKLE_CALLABLE);
        if (!*out) return c->err->status;
        (*out)->as.callable = k;
        return FS_OK;
    }
    int m = (int)(module_length < 200 ? module_length : 200), n = (int)(name_length < 200 ? name_length : 200);
    for (size_t i = 0; (cuda || same("torch", module, module_length)) && i < sizeof other_types / sizeof other_types[0]; i++)
        if (same(other_types[i], name, name_length))
            return fs_fail(c->err, FS_E_UNSUPPORTED,
                           "%s: elements of type '%.*s.%.*s' are not supported: save the weights as float32, float16 or bfloat16", c->what,
                           m, module, n, name);
    return fs_fail(c->err, FS_E_UNSUPPORTED,
                   "%s: refuses to run '%.*s.%.*s': weights need no such call, so the file holds more than weights or is malicious; "
                   "get it from its publisher, or save the state_dict alone",
                   c->what, m, module, n, name);
}

static fs_status bad_call(fs_pickle_context *c, const callable *k) {
    return fs_fail(c->err, FS_E_FORMAT, "%s: '%s.%s' is called with arguments it does not take; the file is damaged: download it again",
                   c->what, k->module, k->name);
}

/* ---- calls ---- */

static bool is_list(const fs_pickle_value *v) { return v->kind == FS_PICKLE_LIST || v->kind == FS_PICKLE_TUPLE; }

/* Whole numbers of a tuple into out; false if there are too many, or others. */
static bool get_numbers(const fs_pickle_value *v, int64_t out[FS_MAX_DIMS], size_t *count) {
    if (!is_list(v) || v->as.list.count > FS_MAX_DIMS) return false;
    for (size_t i = 0; i < v->as.list.count; i++) {
        const fs_pickle_value *n = v->as.list.items[i];
        if (n->kind != FS_PICKLE_INT || n->as.integer < 0) return false;
        out[i] = n->as.integer;
    }
    *count = v->as.list.count;
    return true;
}

static fs_status make_dict(fs_pickle_context *c, const callable *k, const fs_pickle_value *args, fs_pickle_value **out) {
    fs_pickle_value *d = fs_pickle_new(c, FS_PICKLE_DICT);
    if (!d) return c->err->status;
    if (args->as.list.count > 1) return bad_call(c, k);
    const fs_pickle_value *pairs = args->as.list.count == 1 ? args->as.list.items[0] : NULL;
    if (pairs && !is_list(pairs)) return bad_call(c, k);
    for (size_t i = 0; pairs && i < pairs->as.list.count; i++) {
        const fs_pickle_value *pair = pairs->as.list.items[i];
        if (!is_list(pair) || pair->as.list.count != 2) return bad_call(c, k);
        fs_status status = fs_pickle_append(c, d, pair->as.list.items[0]);
        if (!status) status = fs_pickle_append(c, d, pair->as.list.items[1]);
        if (status) return status;
    }
    *out = d;
    return FS_OK;
}

/* (storage, offset, size, stride[, requires_grad, hooks[, metadata]]); version 3 has the dtype after the hooks. */
static fs_status make_tensor(fs_pickle_context *c, const callable *k, const fs_pickle_value *args, fs_pickle_value **out) {
    fs_pickle_value **arg = args->as.list.items;
    size_t n = args->as.list.count, dims, strides;
    size_t least = k->role == ROLE_TENSOR_V1 ? 4 : k->role == ROLE_TENSOR_V2 ? 6 : 7, most = k->role == ROLE_TENSOR_V1 ? 4 : least + 1;
    if (n < least || n > most || arg[0]->kind != FS_PICKLE_STORAGE || arg[1]->kind != FS_PICKLE_INT || arg[1]->as.integer < 0)
        return bad_call(c, k);
    if (is_list(arg[2]) && arg[2]->as.list.count > FS_MAX_DIMS)
        return fs_fail(c->err, FS_E_UNSUPPORTED, "%s: a tensor has %zu dimensions, expected at most %d", c->what, arg[2]->as.list.count,
                       (int)FS_MAX_DIMS);
    fs_pickle_tensor *t = fs_arena_alloc(c->arena, sizeof *t);
    fs_pickle_value *v = t ? fs_pickle_new(c, FS_PICKLE_TENSOR) : NULL;
    if (!t) return no_memory(c);
    if (!v) return c->err->status;
    *t = (fs_pickle_tensor){.storage = arg[0]->as.storage, .offset = arg[1]->as.integer, .dtype = arg[0]->as.storage->dtype};
    if (!get_numbers(arg[2], t->shape, &dims) || !get_numbers(arg[3], t->stride, &strides) || dims != strides) return bad_call(c, k);
    t->ndim = (int)dims;
    for (size_t d = 0; d < dims; d++)
        if (t->shape[d] == 1) t->stride[d] = 0; /* never taken, and may be any number */
    if (k->role == ROLE_TENSOR_V3) {
        if (arg[6]->kind != FS_PICKLE_CALLABLE || arg[6]->as.callable->role != ROLE_DTYPE) return bad_call(c, k);
        t->dtype = arg[6]->as.callable->dtype;
    }
    v->as.tensor = t;
    *out = v;
    return FS_OK;
}

/* (function, class, its arguments, attributes): a tensor to which Python code had tied attributes. */
static fs_status make_from_type(fs_pickle_context *c, const callable *k, const fs_pickle_value *args, fs_pickle_value **out) {
    fs_pickle_value **arg = args->as.list.items;
    if (args->as.list.count != 4 || arg[0]->kind != FS_PICKLE_CALLABLE || arg[0]->as.callable->role == ROLE_FROM_TYPE ||
        arg[1]->kind != FS_PICKLE_CALLABLE || arg[1]->as.callable->role != ROLE_TENSOR_CLASS || arg[2]->kind != FS_PICKLE_TUPLE)
        return bad_call(c, k);
    return fs_pickle_call(c, arg[0], arg[2], out);
}

fs_status fs_pickle_call(fs_pickle_context *c, const fs_pickle_value *f, fs_pickle_value *args, fs_pickle_value **out) {
    if (f->kind != FS_PICKLE_CALLABLE || args->kind != FS_PICKLE_TUPLE)
        return fs_fail(c->err, FS_E_FORMAT, "%s: something is called that is no function; the file is damaged: download it again", c->what);
    const callable *k = f->as.callable;
    size_t n = args->as.list.count;
    switch (k->role) {
    case ROLE_DICT: return make_dict(c, k, args, out);
    case ROLE_TENSOR_V1:
    case ROLE_TENSOR_V2:
    case ROLE_TENSOR_V3: return make_tensor(c, k, args, out);
    case ROLE_PARAMETER:
    case ROLE_PARAMETER_STATE:
        if (n != (k->role == ROLE_PARAMETER ? 3 : 4) || args->as.list.items[0]->kind != FS_PICKLE_TENSOR) return bad_call(c, k);
        *out = args->as.list.items[0];
        return FS_OK;
    case ROLE_FROM_TYPE: return make_from_type(c, k, args, out);
    case ROLE_SIZE:
        if (n != 1 || !is_list(args->as.list.items[0])) return bad_call(c, k);
        *out = args->as.list.items[0];
        return FS_OK;
    case ROLE_TENSOR_CLASS:
    case ROLE_STORAGE:
    case ROLE_UNTYPED:
    case ROLE_DTYPE: break;
    }
    return fs_fail(c->err, FS_E_UNSUPPORTED, "%s: refuses to run '%s.%s': expected it to be named, not called; save the state_dict alone",
                   c->what, k->module, k->name);
}

fs_status fs_pickle_persistent(fs_pickle_context *c, const fs_pickle_value *id, fs_pickle_value **out) {
    fs_pickle_value **part = id->as.list.items;
    size_t n = id->kind == FS_PICKLE_TUPLE ? id->as.list.count : 0;
    if (n < 5 || n > 6 || !fs_pickle_text_is(part[0], "storage") || part[1]->kind != FS_PICKLE_CALLABLE ||
        (part[1]->as.callable->role != ROLE_STORAGE && part[1]->as.callable->role != ROLE_UNTYPED) || part[2]->kind != FS_PICKLE_STRING ||
        part[4]->kind != FS_PICKLE_INT || part[4]->as.integer < 0)
        return fs_fail(c->err, FS_E_UNSUPPORTED,
                       "%s: refers to something outside that is no storage of a tensor: save the state_dict alone", c->what);
    fs_pickle_storage *s = fs_arena_alloc(c->arena, sizeof *s);
    if (!s) return no_memory(c);
    *s = (fs_pickle_storage){.key = part[2]->as.text.data,
                             .key_length = part[2]->as.text.size,
                             .dtype = part[1]->as.callable->dtype,
                             .untyped = part[1]->as.callable->role == ROLE_UNTYPED,
                             .count = part[4]->as.integer,
                             .view_count = part[4]->as.integer};
    if (n == 6 && part[5]->kind != FS_PICKLE_NONE) { /* (key of the view, offset, count) */
        int64_t end = 0;
        const fs_pickle_value *view = part[5];
        if (!is_list(view) || view->as.list.count != 3 || view->as.list.items[1]->kind != FS_PICKLE_INT ||
            view->as.list.items[2]->kind != FS_PICKLE_INT)
            return fs_fail(c->err, FS_E_FORMAT, "%s: a view of a storage is not described as one; the file is damaged", c->what);
        s->view_offset = view->as.list.items[1]->as.integer;
        s->view_count = view->as.list.items[2]->as.integer;
        if (s->view_offset < 0 || s->view_count < 0 || __builtin_add_overflow(s->view_offset, s->view_count, &end) || end > s->count)
            return fs_fail(c->err, FS_E_FORMAT, "%s: a view reaches beyond its storage; the file is damaged", c->what);
    }
    *out = fs_pickle_new(c, FS_PICKLE_STORAGE);
    if (!*out) return c->err->status;
    (*out)->as.storage = s;
    s->next = c->storages;
    c->storages = s;
    c->storage_count++;
    return FS_OK;
}

/* ---- looking at values ---- */

bool fs_pickle_text_is(const fs_pickle_value *v, const char *text) {
    return v->kind == FS_PICKLE_STRING && same(text, v->as.text.data, v->as.text.size);
}

const fs_pickle_value *fs_pickle_dict_get(const fs_pickle_value *dict, const char *key) {
    if (dict->kind != FS_PICKLE_DICT) return NULL;
    for (size_t i = dict->as.list.count; i >= 2; i -= 2)
        if (fs_pickle_text_is(dict->as.list.items[i - 2], key)) return dict->as.list.items[i - 1];
    return NULL;
}
