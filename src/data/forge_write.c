/* fs_forge: records as files. */
#include "base/base.h"

fs_status fs_forge(const char *const *sources, size_t n_sources, const char *out_dir, const fs_forge_options *options, fs_error *err) {
    (void)sources, (void)n_sources, (void)out_dir, (void)options;
    return fs_fail(err, FS_E_UNSUPPORTED, "dataset forge is not built yet");
}
