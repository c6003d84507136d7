/* A report on a checkpoint as a JSON tree, and the same as text. Private to this room.
 *
 * {path, kind: "checkpoint" | "bundle" | "llava" | "adapter" | "part" | "file", complete, parts: [part], memory: [stage], licence: {name, file} | null, problems: [line]}
 * and of a bundle that synth made also synthetic: true
 * part found:   {name, role, found: true, path, format, files: [{name, bytes}], tensors, parameters, bytes, dtypes: [{dtype, tensors, parameters,
 *                bytes}], components: [{name, tensors, parameters, bytes, dtypes}], config: {...}, tensor_list: [{name, dtype, shape, file}]}
 * part missing: {name, role, found: false, needed, get}
 * stage:        {stage, weights, mapped, packed, text_tokens, text_bytes, activations, total, peak}: weights = mapped + packed (in the kernels'
 *               order), total = weights + text_bytes, peak = total + activations
 * machine:      {available, fits, fits_both, type_that_fits | null}, of a checkpoint or bundle, where the system says what memory is free */
#ifndef FS_DESCRIBE_H
#define FS_DESCRIBE_H

#include <jansson.h>

#include "base/base.h"

/* {stage: 0 | 1 | 2, form, rank, alpha, layers, modules, places: [name], others, parameters}: the "adapter" of a report of kind "adapter". */
fs_status fs_describe_adapter(const char *path, json_t **out, fs_error *err);
/* The report on a tree made by describe.c. malloc'ed; NULL when out of memory. */
char *fs_describe_text(const json_t *report);

#endif
