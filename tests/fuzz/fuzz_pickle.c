/* Any bytes as a pickle: an error or a tree that holds only data. The zip around it would hide most changes from the fuzzer. */
#include <stdlib.h>

#include "format/unpickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look(const fs_pickle_value *v, int depth) { /* lists may contain themselves: the walk is bounded */
    volatile unsigned sum = 0;
    if (depth > 4) return;
    switch (v->kind) {
    case FS_PICKLE_STRING:
    case FS_PICKLE_BYTES:
    case FS_PICKLE_BIG:
        for (size_t i = 0; i < v->as.text.size; i++) sum += (unsigned char)v->as.text.data[i];
        break;
    case FS_PICKLE_TUPLE:
    case FS_PICKLE_LIST:
    case FS_PICKLE_DICT:
        for (size_t i = 0; i < v->as.list.count && i < 16; i++) look(v->as.list.items[i], depth + 1);
        break;
    case FS_PICKLE_TENSOR:
        if (v->as.tensor->ndim < 0 || v->as.tensor->ndim > FS_MAX_DIMS || v->as.tensor->storage->key_length > (1u << 30)) abort();
        break;
    default: break;
    }
    (void)sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_arena *arena = fs_arena_create(4096);
    fs_pickle p = {0};
    fs_error err = {0};
    if (!arena) return 0;
    if (fs_unpickle("fuzz.bin: data.pkl", data, size, arena, &p, &err) == FS_OK) {
        if (p.used > size || !p.value) abort();
        look(p.value, 0);
    } else if (err.status == FS_OK || err.message[0] == '\0') {
        abort();
    }
    fs_arena_free(arena);
    return 0;
}
