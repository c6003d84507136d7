/* Removal. */
#include "data/forge_work.h"
fs_status fs_edit_removal(fs_workshop *w, fs_edit *e, fs_error *err) { return fs_edit_copy_move(w, e, err); }
