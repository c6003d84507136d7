/* Fuzzes the reading of a training run's log.csv, and the charts of what was read. */
#include <stdlib.h>
#include <string.h>

#include "train/chart.h"
#include "train/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_run r = {0};
    fs_error err;
    char *text = malloc(size + 1);
    if (!text) return 0;
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    if (fs_run_parse("log.csv", text, &r, &err) == FS_OK) {
        for (size_t c = 0; c < r.columns; c++) {
            fs_buffer out = {0};
            const fs_chart chart = {.title = r.names[c],
                                    .scale = 1,
                                    .from_zero = c % 2 == 0,
                                    .first = r.steps[0],
                                    .last = r.steps[r.rows - 1],
                                    .series = {{r.names[c], 0, r.steps, r.values[c], r.rows}},
                                    .count = 1};
            fs_chart_html(&out, &chart);
            fs_buffer_free(&out);
        }
    }
    fs_run_free(&r);
    free(text);
    return 0;
}
