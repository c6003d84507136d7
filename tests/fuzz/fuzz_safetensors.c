/* Any bytes as a safetensors file: an error or an archive all of whose tensors can be read. */
#include <stdlib.h>

#include "format/archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_archive *a = NULL;
    fs_error err = {0};
    if (fs_safetensors_read("fuzz.safetensors", data, size, &a, &err) != FS_OK) {
        if (a || err.status == FS_OK || err.message[0] == '\0') abort(); /* a failure says why */
        return 0;
    }
    volatile unsigned sum = 0;
    for (size_t i = 0; i < fs_archive_count(a); i++) {
        fs_archive_entry e = fs_archive_get(a, i);
        const uint8_t *p = e.tensor->data;
        size_t bytes = (size_t)fs_tensor_count(e.tensor) * fs_dtype_size(e.tensor->dtype);
        if (bytes > size || (uintptr_t)p % fs_dtype_size(e.tensor->dtype) || fs_archive_find(a, e.name) != e.tensor) abort();
        for (size_t k = 0; k < bytes; k++) sum += p[k];
    }
    (void)sum;
    fs_archive_free(a);
    return 0;
}
