/* The pickle machine (opcodes as documented in CPython's pickletools, protocols 2 to 5): a stack, a memo and a loop.
 *
 * Only the opcodes that torch.save and Python 2's pickler write for dictionaries of tensors are known. Nothing is ever imported or
 * run: GLOBAL looks a name up in a fixed list (unpickle_call.c), REDUCE turns that name and its arguments into a description.
 * Stack, memo and number of values are bounded; every read is checked against the end of the bytes. */
#include "format/unpickle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/archive_build.h"
#include "format/unpickle_call.h"

enum { STACK_MAX = 1 << 20, PICKLE_MAX = 64 << 20 };

typedef struct machine {
    fs_pickle_context c;
    fs_error error; /* c.err points here */
    const uint8_t *data;
    size_t size, at;
    fs_pickle_value **stack;
    size_t depth, stack_room;
    size_t *marks;
    size_t mark_count, mark_room;
    fs_pickle_value **memo;
    size_t memo_room, memo_next;
} machine;

/* ---- small helpers; each returns a status that is already in the error ---- */

static fs_status damaged(machine *m, const char *what) {
    return fs_fail(m->c.err, FS_E_FORMAT, "%s: %s at byte %zu; the file is damaged: download it again", m->c.what, what, m->at);
}

static fs_status no_memory(machine *m) { return fs_fail(m->c.err, FS_E_NO_MEMORY, "%s: out of memory", m->c.what); }

static fs_status take(machine *m, size_t n, const uint8_t **out) {
    if (n > m->size - m->at)
        return fs_fail(m->c.err, FS_E_FORMAT, "%s: the pickle is cut short after %zu bytes: download the file again", m->c.what, m->size);
    *out = m->data + m->at;
    m->at += n;
    return FS_OK;
}

/* A little-endian number of `bytes` bytes. */
static fs_status take_number(machine *m, size_t bytes, uint64_t *out) {
    const uint8_t *p = NULL;
    fs_status status = take(m, bytes, &p);
    if (status) return status;
    *out = 0;
    for (size_t i = bytes; i-- > 0;) *out = *out << 8 | p[i];
    return FS_OK;
}

static fs_status push(machine *m, fs_pickle_value *v) {
    if (!v) return m->c.err->status;
    if (m->depth == m->stack_room) {
        size_t room = m->stack_room ? 2 * m->stack_room : 256;
        if (room > STACK_MAX)
            return fs_fail(m->c.err, FS_E_LIMIT, "%s: more than %d values wait on the pickle's stack", m->c.what, (int)STACK_MAX);
        fs_pickle_value **grown = realloc(m->stack, room * sizeof *grown);
        if (!grown) return no_memory(m);
        m->stack = grown;
        m->stack_room = room;
    }
    m->stack[m->depth++] = v;
    return FS_OK;
}

static size_t floor_of(const machine *m) { return m->mark_count ? m->marks[m->mark_count - 1] : 0; }

/* The n-th value from the top (0 = top), above the last mark; NULL if there is none. */
static fs_pickle_value *peek(const machine *m, size_t n) { return m->depth - floor_of(m) > n ? m->stack[m->depth - 1 - n] : NULL; }

static fs_status push_text(machine *m, fs_pickle_kind kind, size_t length) {
    const uint8_t *p = NULL;
    fs_status status = take(m, length, &p);
    if (status) return status;
    if (kind == FS_PICKLE_STRING && length > 0 && !fs_is_utf8((const char *)p, length)) return damaged(m, "a string is no UTF-8 text");
    fs_pickle_value *v = fs_pickle_new(&m->c, kind);
    if (v) v->as.text.data = (const char *)p, v->as.text.size = length;
    return push(m, v);
}

/* A string, or bytes, whose length comes first in `bytes` bytes. Python 2's strings are text when they can be. */
static fs_status push_counted(machine *m, fs_pickle_kind kind, size_t bytes, bool python2) {
    uint64_t n = 0;
    fs_status status = take_number(m, bytes, &n);
    if (status) return status;
    if (n > m->size - m->at) return take(m, SIZE_MAX, &(const uint8_t *){NULL});
    if (python2) kind = n == 0 || fs_is_utf8((const char *)m->data + m->at, (size_t)n) ? FS_PICKLE_STRING : FS_PICKLE_BYTES;
    return push_text(m, kind, (size_t)n);
}

static fs_status push_int(machine *m, fs_pickle_kind kind, int64_t value) {
    fs_pickle_value *v = fs_pickle_new(&m->c, kind);
    if (v) v->as.integer = value;
    return push(m, v);
}

/* LONG1: n bytes, little-endian two's complement. */
static fs_status push_long(machine *m) {
    uint64_t n = 0, value = 0;
    const uint8_t *p = NULL;
    fs_status status = take_number(m, 1, &n);
    if (status) return status;
    if (n > 8) return push_text(m, FS_PICKLE_BIG, (size_t)n);
    if ((status = take(m, (size_t)n, &p))) return status;
    for (size_t i = 0; i < 8; i++) value |= (uint64_t)(i < n ? p[i] : n > 0 && p[n - 1] >= 0x80 ? 0xFF : 0) << (8 * i);
    return push_int(m, FS_PICKLE_INT, (int64_t)value);
}

static fs_status push_float(machine *m) {
    const uint8_t *p = NULL;
    uint64_t bits = 0;
    fs_status status = take(m, 8, &p);
    if (status) return status;
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    fs_pickle_value *v = fs_pickle_new(&m->c, FS_PICKLE_FLOAT);
    if (v) memcpy(&v->as.real, &bits, sizeof bits);
    return push(m, v);
}

static fs_status push_tuple(machine *m, size_t n) {
    if (m->depth - floor_of(m) < n) return damaged(m, "a tuple needs more values than there are");
    fs_pickle_value *v = fs_pickle_new(&m->c, FS_PICKLE_TUPLE);
    if (!v) return m->c.err->status;
    if (n > 0) {
        v->as.list.items = fs_arena_alloc(m->c.arena, n * sizeof *v->as.list.items);
        if (!v->as.list.items) return no_memory(m);
        memcpy(v->as.list.items, m->stack + m->depth - n, n * sizeof *v->as.list.items);
    }
    v->as.list.count = v->as.list.capacity = n;
    m->depth -= n;
    return push(m, v);
}

static fs_status push_mark(machine *m) {
    if (m->mark_count == m->mark_room) {
        size_t room = m->mark_room ? 2 * m->mark_room : 64;
        if (room > STACK_MAX)
            return fs_fail(m->c.err, FS_E_LIMIT, "%s: more than %d marks on the pickle's stack", m->c.what, (int)STACK_MAX);
        size_t *grown = realloc(m->marks, room * sizeof *grown);
        if (!grown) return no_memory(m);
        m->marks = grown;
        m->mark_room = room;
    }
    m->marks[m->mark_count++] = m->depth;
    return FS_OK;
}

/* Removes the last mark; *n: how many values stood above it (they stay on the stack). */
static fs_status pop_mark(machine *m, size_t *n) {
    if (m->mark_count == 0) return damaged(m, "a mark is missing");
    *n = m->depth - m->marks[--m->mark_count];
    return FS_OK;
}

/* ---- memo ---- */

static fs_status memo_put(machine *m, uint64_t index) {
    fs_pickle_value *top = peek(m, 0);
    if (!top) return damaged(m, "nothing is there to remember");
    if (index >= m->size) return damaged(m, "a memo number is larger than the pickle"); /* numbers count up, so this is no real one */
    if (index >= m->memo_room) {
        size_t room = m->memo_room ? m->memo_room : 256;
        while (room <= index) room *= 2;
        fs_pickle_value **grown = realloc(m->memo, room * sizeof *grown);
        if (!grown) return no_memory(m);
        memset(grown + m->memo_room, 0, (room - m->memo_room) * sizeof *grown);
        m->memo = grown;
        m->memo_room = room;
    }
    m->memo[index] = top;
    if (index >= m->memo_next) m->memo_next = (size_t)index + 1;
    return FS_OK;
}

static fs_status memo_get(machine *m, size_t bytes) {
    uint64_t index = 0;
    fs_status status = take_number(m, bytes, &index);
    if (status) return status;
    if (index >= m->memo_room || !m->memo[index]) return damaged(m, "something is recalled that was never remembered");
    return push(m, m->memo[index]);
}

/* ---- containers ---- */

/* The top n values go to the list or, in pairs, to the dict below them. */
static fs_status add_items(machine *m, size_t n, fs_pickle_kind kind) {
    fs_pickle_value *target = peek(m, n);
    if (!target || target->kind != kind || (kind == FS_PICKLE_DICT && n % 2)) return damaged(m, "items have no container of their kind");
    for (size_t i = m->depth - n; i < m->depth; i++) {
        fs_status status = fs_pickle_append(&m->c, target, m->stack[i]);
        if (status) return status;
    }
    m->depth -= n;
    return FS_OK;
}

static fs_status add_marked(machine *m, fs_pickle_kind kind) {
    size_t n = 0;
    fs_status status = pop_mark(m, &n);
    return status ? status : add_items(m, n, kind);
}

/* BUILD gives an object its attributes. Only dictionaries get any (an OrderedDict's _metadata), and those say nothing about tensors. */
static fs_status build(machine *m) {
    fs_pickle_value *object = peek(m, 1);
    if (!object) return damaged(m, "attributes have no object");
    if (object->kind != FS_PICKLE_DICT)
        return fs_fail(m->c.err, FS_E_UNSUPPORTED, "%s: holds a Python object with attributes: save the state_dict alone", m->c.what);
    m->depth--;
    return FS_OK;
}

/* ---- globals ---- */

static fs_status take_line(machine *m, const char **text, size_t *length) {
    const uint8_t *end = m->at < m->size ? memchr(m->data + m->at, '\n', m->size - m->at) : NULL;
    *text = (const char *)m->data + m->at;
    if (!end) return take(m, SIZE_MAX, &(const uint8_t *){NULL});
    *length = (size_t)(end - (m->data + m->at));
    m->at += *length + 1;
    return FS_OK;
}

static fs_status global(machine *m) {
    const char *module, *name;
    size_t module_length = 0, name_length = 0;
    fs_pickle_value *v = NULL;
    fs_status status = take_line(m, &module, &module_length);
    if (!status) status = take_line(m, &name, &name_length);
    if (!status) status = fs_pickle_global(&m->c, module, module_length, name, name_length, &v);
    return status ? status : push(m, v);
}

static fs_status stack_global(machine *m) {
    fs_pickle_value *name = peek(m, 0), *module = peek(m, 1), *v = NULL;
    if (!module || name->kind != FS_PICKLE_STRING || module->kind != FS_PICKLE_STRING) return damaged(m, "a callable has no name");
    fs_status status = fs_pickle_global(&m->c, module->as.text.data, module->as.text.size, name->as.text.data, name->as.text.size, &v);
    if (status) return status;
    m->depth -= 2;
    return push(m, v);
}

static fs_status reduce(machine *m) {
    fs_pickle_value *args = peek(m, 0), *callable = peek(m, 1), *v = NULL;
    if (!callable) return damaged(m, "a call has no arguments");
    fs_status status = fs_pickle_call(&m->c, callable, args, &v);
    if (status) return status;
    m->depth -= 2;
    return push(m, v);
}

static fs_status persistent(machine *m) {
    fs_pickle_value *id = peek(m, 0), *v = NULL;
    if (!id) return damaged(m, "a reference is missing");
    fs_status status = fs_pickle_persistent(&m->c, id, &v);
    if (status) return status;
    m->depth--;
    return push(m, v);
}

/* ---- the loop ---- */

static fs_status refuse_opcode(machine *m, unsigned op) {
    return fs_fail(m->c.err, FS_E_UNSUPPORTED,
                   "%s: pickle opcode 0x%02x at byte %zu is none that torch.save writes for weights: the file is damaged or "
                   "holds more than weights",
                   m->c.what, op, m->at - 1);
}

static fs_status step_number(machine *m, unsigned op) {
    uint64_t n = 0;
    fs_status status;
    switch (op) {
    case 'J': status = take_number(m, 4, &n); return status ? status : push_int(m, FS_PICKLE_INT, (int32_t)(uint32_t)n); /* BININT */
    case 'K': status = take_number(m, 1, &n); return status ? status : push_int(m, FS_PICKLE_INT, (int64_t)n);           /* BININT1 */
    case 'M': status = take_number(m, 2, &n); return status ? status : push_int(m, FS_PICKLE_INT, (int64_t)n);           /* BININT2 */
    case 'q': status = take_number(m, 1, &n); return status ? status : memo_put(m, n);                                   /* BINPUT */
    case 'r': status = take_number(m, 4, &n); return status ? status : memo_put(m, n);                                   /* LONG_BINPUT */
    case 0x80: /* PROTO */
        status = take_number(m, 1, &n);
        if (!status && (n < 2 || n > 5))
            return fs_fail(m->c.err, FS_E_UNSUPPORTED, "%s: expected pickle protocol 2 to 5, found %" PRIu64, m->c.what, n);
        return status;
    default: return take_number(m, 8, &n); /* FRAME: its length helps buffering only */
    }
}

static fs_status step(machine *m, unsigned op) {
    size_t n = 0;
    fs_status status;
    switch (op) {
    case 'J': case 'K': case 'M': case 'q': case 'r': case 0x80: case 0x95: return step_number(m, op);
    case 'N': return push_int(m, FS_PICKLE_NONE, 0);
    case 0x88: return push_int(m, FS_PICKLE_BOOL, 1);                     /* NEWTRUE */
    case 0x89: return push_int(m, FS_PICKLE_BOOL, 0);                     /* NEWFALSE */
    case 0x8a: return push_long(m);                                       /* LONG1 */
    case 'G': return push_float(m);                                       /* BINFLOAT */
    case 'X': return push_counted(m, FS_PICKLE_STRING, 4, false);         /* BINUNICODE */
    case 0x8c: return push_counted(m, FS_PICKLE_STRING, 1, false);        /* SHORT_BINUNICODE */
    case 0x8d: return push_counted(m, FS_PICKLE_STRING, 8, false);        /* BINUNICODE8 */
    case 'T': return push_counted(m, FS_PICKLE_STRING, 4, true);          /* BINSTRING */
    case 'U': return push_counted(m, FS_PICKLE_STRING, 1, true);          /* SHORT_BINSTRING */
    case 'B': return push_counted(m, FS_PICKLE_BYTES, 4, false);          /* BINBYTES */
    case 'C': return push_counted(m, FS_PICKLE_BYTES, 1, false);          /* SHORT_BINBYTES */
    case '}': return push(m, fs_pickle_new(&m->c, FS_PICKLE_DICT));       /* EMPTY_DICT */
    case ']': return push(m, fs_pickle_new(&m->c, FS_PICKLE_LIST));       /* EMPTY_LIST */
    case ')': return push_tuple(m, 0);                                    /* EMPTY_TUPLE */
    case 0x85: return push_tuple(m, 1);
    case 0x86: return push_tuple(m, 2);
    case 0x87: return push_tuple(m, 3);
    case '(': return push_mark(m);
    case 't': status = pop_mark(m, &n); return status ? status : push_tuple(m, n);
    case 'a': return add_items(m, 1, FS_PICKLE_LIST);                     /* APPEND */
    case 'e': return add_marked(m, FS_PICKLE_LIST);                       /* APPENDS */
    case 's': return add_items(m, 2, FS_PICKLE_DICT);                     /* SETITEM */
    case 'u': return add_marked(m, FS_PICKLE_DICT);                       /* SETITEMS */
    case 'h': return memo_get(m, 1);                                      /* BINGET */
    case 'j': return memo_get(m, 4);                                      /* LONG_BINGET */
    case 0x94: return memo_put(m, m->memo_next);                          /* MEMOIZE */
    case 'c': return global(m);
    case 0x93: return stack_global(m);
    case 'R': return reduce(m);
    case 'b': return build(m);
    case 'Q': return persistent(m);                                       /* BINPERSID */
    default: return refuse_opcode(m, op);
    }
}

fs_status fs_unpickle(const char *what, const uint8_t *data, size_t size, fs_arena *arena, fs_pickle *out, fs_error *err) {
    machine m = {.c = {.what = what, .arena = arena}, .data = data, .size = size};
    fs_status status = FS_OK;
    m.c.err = &m.error;
    *out = (fs_pickle){0};
    for (;;) {
        const uint8_t *op = NULL;
        if (m.at > PICKLE_MAX) {
            status = fs_fail(m.c.err, FS_E_LIMIT,
                             "%s: its pickle is longer than %d bytes; a state_dict's is far shorter: save the weights alone", what,
                             (int)PICKLE_MAX);
            break;
        }
        status = take(&m, 1, &op);
        if (status || *op == '.') break; /* STOP */
        status = step(&m, *op);
        if (status) break;
    }
    if (!status && (m.depth != 1 || m.mark_count != 0)) status = damaged(&m, "the pickle ends in the middle");
    if (!status) {
        *out = (fs_pickle){m.stack[0], m.c.storages, m.c.storage_count, m.at};
    } else if (err) {
        *err = m.error;
    }
    free(m.stack);
    free(m.marks);
    free(m.memo);
    return status;
}
