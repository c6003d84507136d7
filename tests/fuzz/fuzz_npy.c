/* Any bytes as a .npy file: an error that says why, or numbers that can all be read. */
#include <stdlib.h>

#include "format/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_npy a;
    fs_error err = {0};
    if (fs_npy_parse("fuzz.npy", data, size, &a, &err) != FS_OK) {
        if (a.data || err.status == FS_OK || err.message[0] == '\0') abort();
        return 0;
    }
    volatile float sum = 0;
    if (a.rows < 0 || a.columns < 0 || (size_t)(a.rows * a.columns) > size) abort();
    for (int64_t i = 0; i < a.rows * a.columns; i++) sum += a.data[i];
    (void)sum;
    fs_npy_free(&a);
    return 0;
}
