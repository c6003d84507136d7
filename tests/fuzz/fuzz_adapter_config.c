/* Any bytes as adapter_config.json: what is accepted has a rank and scales that can be computed with, what is refused has a line that says why. */
#include <math.h>
#include <stdlib.h>

#include "pipeline/adapter_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_patterns(const fs_adapter_pattern *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!list[i].suffix || !list[i].suffix[0] || !(list[i].value > 0) || !isfinite(list[i].value)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_error err = {0};
    fs_adapter_config c;
    if (fs_adapter_config_parse("adapter_config.json", data, size, &c, NULL, &err) != FS_OK) {
        if (c.targets || c.ranks || c.alphas || err.status == FS_OK || err.message[0] == '\0') abort();
        return 0;
    }
    if (c.rank < 1 || c.rank > 65536 || !(c.alpha > 0) || !isfinite(c.alpha)) abort();
    for (size_t i = 0; i < c.n_targets; i++)
        if (!c.targets[i] || !c.targets[i][0]) abort();
    check_patterns(c.ranks, c.n_ranks);
    check_patterns(c.alphas, c.n_alphas);
    fs_adapter_config_free(&c);
    return 0;
}
