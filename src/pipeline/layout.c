/* Finding the parts of a checkpoint as users download them (spec section 2): DTE-FDM/, MFLM/, DTG.pth, and beside them CLIP and SAM;
 * a bundle's three files; or the two files of a LLaVA. */
#include "pipeline/pipeline.h"

#include "pipeline/bundle.h"
#include "pipeline/llava_gguf.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* dir/name if it exists (and is a directory, where one is wanted); else NULL. */
static char *if_there(const char *dir, const char *name, bool want_dir) {
    char *path = fs_path_join(dir, name);
    if (path && fs_path_exists(path) && fs_path_is_dir(path) == want_dir) return path;
    free(path);
    return NULL;
}

static fs_status find_file(const char *path, const char *what, char **out, fs_error *err) {
    if (!fs_path_exists(path)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such file (%s)", path, what);
    *out = fs_strdup(path);
    return *out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
}

/* A language model and an mmproj file: as the options name them, else the only ones of the folder. *found false: no folder of such files. */
static fs_status find_pair(const char *dir, const fs_options *opt, fs_layout *out, bool *found, fs_error *err) {
    char *lm = NULL, *mmproj = NULL;
    fs_status status = opt->lm_file && opt->mmproj_file ? FS_OK : fs_llava_search(dir, &lm, &mmproj, err);
    *found = opt->lm_file || lm;
    if (!status && *found && !opt->mmproj_file && !mmproj)
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no mmproj file (CLIP and projector, general.architecture \"clip\") beside the language model; give --mmproj FILE", dir);
    if (!status && *found) status = find_file(opt->lm_file ? opt->lm_file : lm, "the language model", &out->dte_fdm, err);
    if (!status && *found) status = find_file(opt->mmproj_file ? opt->mmproj_file : mmproj, "CLIP and projector", &out->vision, err);
    if (!status && *found) free(out->dtg), out->dtg = NULL; /* a checkpoint may have been looked for before */
    if (!status && *found && opt->dtg_file) status = find_file(opt->dtg_file, "the domain tag generator", &out->dtg, err);
    if (!status && *found && !opt->dtg_file) out->dtg = if_there(dir, "DTG.pth", false);
    out->pair = *found;
    free(lm);
    free(mmproj);
    return status;
}

/* A pair whose language model is named, by --lm or as the model itself. */
static fs_status find_named_pair(const char *file, const fs_options *opt, fs_layout *out, fs_error *err) {
    fs_options named = *opt;
    bool found;
    named.lm_file = file;
    const char *base = fs_path_base(file);
    out->root = base > file ? fs_format("%.*s", (int)(base - file), file) : fs_strdup(".");
    return out->root ? find_pair(out->root, &named, out, &found, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
}

static bool is_language_model(const char *path) {
    fs_archive *a = NULL;
    const bool is = fs_archive_open(path, &a, NULL) == FS_OK && fs_llava_kind_of(a) == FS_LLAVA_LM;
    fs_archive_free(a);
    return is;
}

fs_status fs_layout_find(const char *root, const fs_options *opt, fs_layout *out, fs_error *err) {
    *out = (fs_layout){0};
    if (opt->lm_file) return find_named_pair(opt->lm_file, opt, out, err);
    if (opt->mmproj_file) return fs_fail(err, FS_E_USAGE, "%s: an mmproj file goes with a language model; give --lm FILE too", opt->mmproj_file);
    if (fs_path_exists(root) && !fs_path_is_dir(root) && is_language_model(root)) return find_named_pair(root, opt, out, err);
    if (!fs_path_exists(root))
        return fs_fail(err, FS_E_NOT_FOUND, "%s: no such directory; give the checkpoint's (it holds DTE-FDM, MFLM and DTG.pth)", root);
    if (!fs_path_is_dir(root))
        return fs_fail(err, FS_E_USAGE, "%s: is a file; give the checkpoint directory that holds DTE-FDM, MFLM and DTG.pth", root);
    if (opt->dtg_file && !fs_path_exists(opt->dtg_file)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such file (the domain tag generator)", opt->dtg_file);
    if (opt->sam_file && !fs_path_exists(opt->sam_file)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such file (SAM)", opt->sam_file);
    out->root = fs_strdup(root);
    out->vision = if_there(root, FS_BUNDLE_VISION, false);
    if (out->vision) {
        out->bundle = true;
        out->dte_fdm = if_there(root, FS_BUNDLE_DTE, false);
        out->mflm = if_there(root, FS_BUNDLE_MFLM, false);
        return out->root ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    out->dte_fdm = if_there(root, "DTE-FDM", true);
    out->mflm = if_there(root, "MFLM", true);
    out->dtg = opt->dtg_file ? fs_strdup(opt->dtg_file) : if_there(root, "DTG.pth", false);
    static const char sam_name[] = "sam_vit_h_4b8939.pth";
    if (opt->sam_file) {
        out->sam = fs_strdup(opt->sam_file);
    } else if (!(out->sam = if_there(root, sam_name, false))) { /* upstream keeps it beside the checkpoint directory */
        char *parent = fs_path_join(root, "..");
        if (parent) out->sam = if_there(parent, sam_name, false);
        free(parent);
    }
    if (!out->root) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    bool found;
    return out->dte_fdm || out->mflm ? FS_OK : find_pair(root, opt, out, &found, err);
}

/* The snapshot directory in Hugging Face's download cache, where upstream itself would look; the newest name if there are several. */
static char *hub_cache(const char *tower) {
    const char *home = getenv("HF_HOME"), *user = getenv("HOME");
    char *hub = home ? fs_path_join(home, "hub") : user ? fs_path_join(user, ".cache/huggingface/hub") : NULL;
    char *name = fs_format("models--%s/snapshots", tower), *best = NULL;
    for (char *p = name; p && *p && strncmp(p, "/snapshots", 10) != 0; p++)
        if (*p == '/') {
            /* the hub writes '/' of the name as "--" */
            char *joined = fs_format("%.*s--%s", (int)(p - name), name, p + 1);
            free(name);
            name = joined;
            break;
        }
    char *dir = hub && name ? if_there(hub, name, true) : NULL;
    DIR *d = dir ? opendir(dir) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char *path = fs_path_join(dir, e->d_name);
        char *config = path ? if_there(path, "config.json", false) : NULL;
        if (config && (!best || strcmp(path, best) > 0)) {
            free(best);
            best = path;
            path = NULL;
        }
        free(config);
        free(path);
    }
    if (d) closedir(d);
    free(dir);
    free(hub);
    free(name);
    return best;
}

fs_status fs_layout_find_clip(fs_layout *l, const char *explicit_dir, const char *tower, fs_error *err) {
    if (l->clip) return FS_OK;
    if (explicit_dir) {
        if (!fs_path_is_dir(explicit_dir)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such directory (CLIP)", explicit_dir);
        l->clip = fs_strdup(explicit_dir);
        return l->clip ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    if (!tower || !*tower) tower = "openai/clip-vit-large-patch14-336";
    const char *base = fs_path_base(tower);
    char *parent = fs_path_join(l->root, "..");
    /* as a path of its own, below or beside the checkpoint, by full name or last component, then the hub's cache */
    l->clip = tower[0] == '/' && fs_path_is_dir(tower) ? fs_strdup(tower) : NULL;
    const char *const names[] = {tower, base};
    for (int i = 0; i < 2 && !l->clip && tower[0] != '/'; i++) l->clip = if_there(l->root, names[i], true);
    for (int i = 0; i < 2 && !l->clip && parent && tower[0] != '/'; i++) l->clip = if_there(parent, names[i], true);
    if (!l->clip && *base) l->clip = if_there(l->root, base, true);
    if (!l->clip && tower[0] != '/') l->clip = hub_cache(tower);
    free(parent);
    return FS_OK;
}

void fs_layout_free(fs_layout *l) {
    free(l->root);
    free(l->dte_fdm);
    free(l->mflm);
    free(l->dtg);
    free(l->clip);
    free(l->sam);
    free(l->vision);
    *l = (fs_layout){0};
}
