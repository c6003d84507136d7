/* What a file of a public set is, told by its name and folders; the forms are those the sets are distributed in (docs/datasets.md says
 * where that is written). */
#include "data/convert.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const form_names[FS_FORMS] = {"casia", "columbia", "coverage", "nist16", "imd2020", "dso1", "korus"};
const char *fs_dataset_form_name(fs_dataset_form f) {
    return (unsigned)f < FS_FORMS ? form_names[f] : "unknown";
}
bool fs_dataset_form_from_name(const char *name, fs_dataset_form *out) {
    for (int i = 0; name && i < FS_FORMS; i++)
        if (strcmp(form_names[i], name) == 0) return *out = (fs_dataset_form)i, true;
    return false;
}

const char *convert_layout(fs_dataset_form form) {
    static const char *const layouts[FS_FORMS] = {
        "Au/Au_*.jpg, Tp/Tp_* (or Sp_* of version 1) and a folder of masks *_gt.png",
        "4cam_auth/*.tif, 4cam_splc/*.tif and 4cam_splc/edgemask/*_edgemask.jpg",
        "image/1.tif, image/1t.tif and mask/1forged.tif",
        "reference/manipulation/NC2016-manipulation-ref.csv beside the folders that it names",
        "folders with ID_orig.jpg, NAME.png and NAME_mask.png",
        "DSO-1/splicing-*.png, DSO-1/normal-*.png and DSO-1-Fake-Images-Masks/splicing-*.png",
        "CAMERA/pristine/*.TIF, CAMERA/tampered-realistic/*.TIF and CAMERA/ground-truth/*.PNG",
    };
    return layouts[form];
}

convert_rule convert_rule_of(fs_dataset_form form) {
    switch (form) {
    case FS_FORM_COLUMBIA:
        return CONVERT_GREEN;
    case FS_FORM_KORUS:
        return CONVERT_ANY;
    case FS_FORM_NIST16:
    case FS_FORM_DSO1:
        return CONVERT_BLACK;
    case FS_FORM_CASIA:
    case FS_FORM_COVERAGE:
    case FS_FORM_IMD2020:
        break;
    }
    return CONVERT_WHITE;
}

const char *convert_set_name(const convert_state *s, int version) {
    static const char *const names[FS_FORMS] = {"CASIAv2", "Columbia", "coverage", "NIST16",
                                                "IMD2020", "DSO",      "Korus"}; /* as upstream's README */
    if (s->opt->name) return s->opt->name;
    return s->form == FS_FORM_CASIA && version == 1 ? "CASIAv1" : names[s->form];
}

/* ---- parts of names ------------------------------------------------------------------------------------------------ */

static bool begins(const char *s, const char *with) {
    return strncasecmp(s, with, strlen(with)) == 0;
}

static bool ends(const char *s, size_t n, const char *with) {
    const size_t m = strlen(with);
    return n >= m && strncasecmp(s + n - m, with, m) == 0;
}

/* Is one of the folders above the file called so (whole name, or a part of it)? */
static bool in_folder(const convert_file *f, const char *name, bool part) {
    for (const char *p = f->rel; p < f->name;) {
        const size_t n = strcspn(p, "/"), m = strlen(name);
        if (!part && n == m && strncasecmp(p, name, n) == 0) return true;
        for (size_t i = 0; part && i + m <= n; i++)
            if (strncasecmp(p + i, name, m) == 0) return true;
        p += n + 1;
    }
    return false;
}

static fs_status set_key(convert_file *f, convert_kind kind, const char *prefix, size_t prefix_size, const char *text, size_t size,
                         fs_error *err) {
    f->kind = kind;
    f->key = fs_format("%.*s%.*s", (int)prefix_size, prefix, (int)size, text);
    return f->key ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", f->path);
}

static size_t count_digits(const char *s) {
    size_t n = 0;
    while (s[n] >= '0' && s[n] <= '9') n++;
    return n;
}

/* ---- CASIA --------------------------------------------------------------------------------------------------------- */

/* "Tp_..._gt3" -> length without "_gt3"; 0 if there is no such ending. */
static size_t without_gt(const char *name, size_t n) {
    size_t k = n;
    while (k && name[k - 1] >= '0' && name[k - 1] <= '9') k--;
    if (ends(name, k, "_gt")) return k - 3;
    return ends(name, n, "_mask") ? n - 5 : 0;
}

/* Au_ani_00001 has five digits in version 2 and four in version 1. */
static int authentic_version(const char *name, size_t n) {
    size_t digits = 0;
    while (digits < n && name[n - 1 - digits] >= '0' && name[n - 1 - digits] <= '9') digits++;
    return begins(name, "Au_") ? (digits == 5 ? 2 : digits == 4 ? 1 : 0) : 0;
}

static fs_status classify_casia(convert_file *f, fs_error *err) {
    const size_t n = fs_data_stem(f->name, false), bare = without_gt(f->name, n);
    const bool masks =
        in_folder(f, "groundtruth", true) || in_folder(f, "ground truth", true) || in_folder(f, "mask", true) || in_folder(f, "gt", false);
    const bool tampered = begins(f->name, "Tp_") || begins(f->name, "Sp_") || begins(f->name, "CM_");
    if (tampered) f->version = begins(f->name, "Tp_") ? 2 : 1;
    if (tampered && (bare || masks)) return set_key(f, CONVERT_MASK, "", 0, f->name, bare ? bare : n, err);
    if (tampered) return set_key(f, CONVERT_TAMPERED, "", 0, f->name, n, err);
    if (!masks && (begins(f->name, "Au_") || in_folder(f, "Au", false)))
        f->kind = CONVERT_AUTHENTIC, f->version = authentic_version(f->name, n);
    return FS_OK;
}

/* ---- the others ---------------------------------------------------------------------------------------------------- */

static fs_status classify_columbia(convert_file *f, fs_error *err) {
    const size_t n = fs_data_stem(f->name, false);
    const bool spliced = in_folder(f, "4cam_splc", false), authentic = in_folder(f, "4cam_auth", false);
    if (in_folder(f, "edgemask", false)) {
        f->kind = CONVERT_SKIP; /* of authentic pictures, and NAME_edgemask_3.jpg, which has the border in blue besides */
        if (spliced && ends(f->name, n, "_edgemask")) return set_key(f, CONVERT_MASK, "", 0, f->name, n - 9, err);
    } else if (spliced) {
        return set_key(f, CONVERT_TAMPERED, "", 0, f->name, n, err);
    } else if (authentic) {
        f->kind = CONVERT_AUTHENTIC;
    }
    return FS_OK;
}

/* 7.tif authentic, 7t.tif tampered, 7forged.tif its mask; 7copy.tif and 7paste.tif are the regions before and after the move. */
static fs_status classify_coverage(convert_file *f, fs_error *err) {
    const size_t n = fs_data_stem(f->name, false), digits = count_digits(f->name), rest = n - digits;
    const char *tail = f->name + digits;
    if (!digits) return FS_OK;
    if (rest == 0)
        f->kind = CONVERT_AUTHENTIC;
    else if (rest == 1 && (*tail == 't' || *tail == 'T'))
        return set_key(f, CONVERT_TAMPERED, "", 0, f->name, digits, err);
    else if (rest == 6 && strncasecmp(tail, "forged", 6) == 0)
        return set_key(f, CONVERT_MASK, "", 0, f->name, digits, err);
    else if ((rest == 4 && strncasecmp(tail, "copy", 4) == 0) || (rest == 5 && strncasecmp(tail, "paste", 5) == 0))
        f->kind = CONVERT_SKIP;
    return FS_OK;
}

static fs_status classify_imd2020(convert_file *f, fs_error *err) {
    const size_t n = fs_data_stem(f->name, false), above = (size_t)(f->name - f->rel);
    if (ends(f->name, n, "_orig"))
        f->kind = CONVERT_AUTHENTIC;
    else if (ends(f->name, n, "_mask"))
        return set_key(f, CONVERT_MASK, f->rel, above, f->name, n - 5, err);
    else if (above)
        return set_key(f, CONVERT_TAMPERED, f->rel, above, f->name, n, err);
    return FS_OK;
}

static fs_status classify_dso1(convert_file *f, fs_error *err) {
    const size_t n = fs_data_stem(f->name, false);
    const bool mask = in_folder(f, "mask", true);
    if (in_folder(f, "DSI-1", true))
        f->kind = CONVERT_SKIP; /* comes in the same archive, has no masks */
    else if (begins(f->name, "splicing"))
        return set_key(f, mask ? CONVERT_MASK : CONVERT_TAMPERED, "", 0, f->name, n, err);
    else if (begins(f->name, "normal"))
        f->kind = mask ? CONVERT_SKIP : CONVERT_AUTHENTIC;
    return FS_OK;
}

static fs_status classify_korus(convert_file *f, fs_error *err) {
    const size_t n = fs_data_stem(f->name, false);
    size_t end = (size_t)(f->name - f->rel), folder;
    if (!end) return FS_OK;
    for (folder = end - 1; folder && f->rel[folder - 1] != '/';)
        folder--; /* the last folder's name begins here; the camera's is in front */
    const char *name = f->rel + folder;
    const size_t size = end - 1 - folder;
    const struct {
        const char *name;
        convert_kind kind;
    } folders[] = {
        {"pristine", CONVERT_AUTHENTIC}, {"tampered-realistic", CONVERT_TAMPERED},
        {"tampered", CONVERT_TAMPERED},  {"ground-truth", CONVERT_MASK},
        {"masks", CONVERT_MASK},
    };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (strlen(folders[i].name) == size && strncasecmp(name, folders[i].name, size) == 0)
            return set_key(f, folders[i].kind, f->rel, folder, f->name, n, err);
    return FS_OK;
}

fs_status convert_classify(fs_dataset_form form, convert_file *f, fs_error *err) {
    switch (form) {
    case FS_FORM_CASIA:
        return classify_casia(f, err);
    case FS_FORM_COLUMBIA:
        return classify_columbia(f, err);
    case FS_FORM_COVERAGE:
        return classify_coverage(f, err);
    case FS_FORM_IMD2020:
        return classify_imd2020(f, err);
    case FS_FORM_DSO1:
        return classify_dso1(f, err);
    case FS_FORM_KORUS:
        return classify_korus(f, err);
    case FS_FORM_NIST16:
        break;
    }
    return FS_OK;
}
