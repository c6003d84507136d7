/* What info says of an adapter's folder. */
#include "pipeline/adapter.h"
#include "pipeline/describe.h"

#include <string.h>

fs_status fs_describe_adapter(const char *path, json_t **out, fs_error *err) {
    fs_adapter *a = NULL;
    *out = NULL;
    fs_status status = fs_adapter_open(path, NULL, &a, err);
    if (status) return status;
    const fs_adapter_facts f = fs_adapter_facts_of(a);
    json_t *places = json_array();
    for (int k = 0; k < FS_LORA_PLACES; k++)
        if (f.places & 1U << k) json_array_append_new(places, json_string(strchr(fs_lora_place_names[k], '.') + 1));
    *out = json_pack("{s:i, s:s, s:I, s:f, s:I, s:I, s:o, s:I, s:I}", "stage", fs_adapter_told(a), "form", f.kind, "rank",
                     (json_int_t)f.rank, "alpha", f.alpha, "layers", (json_int_t)f.layers, "modules", (json_int_t)f.modules, "places",
                     places, "others", (json_int_t)f.others, "parameters", (json_int_t)f.parameters);
    fs_adapter_free(a);
    return *out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
}
