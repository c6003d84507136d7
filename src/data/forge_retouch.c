/* Retouching. */
#include "data/forge_work.h"
fs_status fs_edit_color(fs_workshop *w, fs_edit *e, fs_error *err) { return fs_edit_copy_move(w, e, err); }
fs_status fs_edit_blur(fs_workshop *w, fs_edit *e, fs_error *err) { return fs_edit_copy_move(w, e, err); }
fs_status fs_edit_resample(fs_workshop *w, fs_edit *e, fs_error *err) { return fs_edit_copy_move(w, e, err); }
