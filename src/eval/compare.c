#include "eval/eval.h"
fs_status fs_eval_compare(const char *dir_a, const char *dir_b, const fs_eval_options *options, char **text, fs_error *err) { (void)dir_a, (void)dir_b, (void)options, (void)text; return fs_fail(err, FS_E_UNSUPPORTED, "not yet"); }
