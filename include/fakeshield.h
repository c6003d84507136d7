/* FakeShield in C: explainable image forgery detection and localization (Xu et al., ICLR 2025).
 *
 *     #include <fakeshield.h>
 *     int main(void) {
 *         fs_error err;
 *         fs_options opt = fs_options_defaults();
 *         fs_detector *d = NULL;
 *         fs_result *r = NULL;
 *         if (fs_detector_create("fakeshield-v1-22b", &opt, &d, &err) || fs_detect(d, "photo.jpg", &r, &err))
 *             return fprintf(stderr, "%s\n", err.message), 1;
 *         printf("%s %.3f\n%s\n", fs_verdict_name(fs_result_verdict(r)), fs_result_score(r), fs_result_text(r));
 *         fs_result_write_mask(r, "mask.png", &err);
 *         fs_result_free(r), fs_detector_free(d);
 *     }
 *
 * Conventions. A function that can fail returns fs_status (FS_OK is 0) and, where it takes one, fills the caller's fs_error
 * with one line a user can act on. The library never prints, exits or aborts; text, progress and log lines come through
 * callbacks. `_create`/`_free` pair up and free functions take NULL. Strings are UTF-8. A handle is used by one thread at
 * a time; different handles may be used by different threads. */
#ifndef FAKESHIELD_H
#define FAKESHIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FS_API __attribute__((visibility("default")))
#else
#define FS_API
#endif

/* Version of the program and library, "major.minor.patch". Static storage. */
FS_API const char *fs_version(void);

/* ---- status and errors -------------------------------------------------------------------------------------------- */

/* What went wrong, in kind. The numbers are pinned: they are the program's exit codes too. */
typedef enum fs_status {
    FS_OK = 0,
    FS_E_FAILED = 1,       /* part of a batch failed; each failure was reported on its own */
    FS_E_USAGE = 2,        /* an argument or option that makes no sense */
    FS_E_NOT_FOUND = 3,    /* a file, directory, tensor or checkpoint part that is not there */
    FS_E_IO = 4,           /* reading or writing failed (permission, full disk, ...) */
    FS_E_FORMAT = 5,       /* bytes that are not what the format says */
    FS_E_UNSUPPORTED = 6,  /* well formed, but a feature this library does not have */
    FS_E_LIMIT = 7,        /* larger than a stated limit (pixels, bytes, tokens) */
    FS_E_MISMATCH = 8,     /* a tensor or config that does not fit the model: shape, dtype, vocabulary */
    FS_E_NO_MEMORY = 9,
    FS_E_NUMERIC = 10,     /* NaN or infinity where a number is needed */
    FS_E_CANCELLED = 11,   /* the cancel callback said stop */
    FS_E_INTERNAL = 12     /* a broken promise inside the library: please report it */
} fs_status;

/* Short name of a status, e.g. "not-found". Never NULL. */
FS_API const char *fs_status_name(fs_status status);

/* Filled by the function that failed; untouched on success. message: one line, no newline at the end. */
typedef struct fs_error {
    fs_status status;
    char message[1024];
} fs_error;

/* ---- enumerations of the domain ----------------------------------------------------------------------------------- */

typedef enum fs_verdict { FS_VERDICT_UNDETERMINED = 0, FS_VERDICT_AUTHENTIC = 1, FS_VERDICT_TAMPERED = 2 } fs_verdict;
typedef enum fs_domain { FS_DOMAIN_AIGC = 0, FS_DOMAIN_DEEPFAKE = 1, FS_DOMAIN_PHOTOSHOP = 2 } fs_domain;

/* Rounding of activations. F32: every operator's result is kept in f32. BF16, F16: every result is rounded to that type as
 * the original does (spec: DTE-FDM f16, MFLM bf16). UPSTREAM: F16 in stage 1 and BF16 in stage 2, the types the original uses. */
typedef enum fs_precision { FS_PRECISION_F32 = 0, FS_PRECISION_BF16 = 1, FS_PRECISION_F16 = 2, FS_PRECISION_UPSTREAM = 3 } fs_precision;

/* How stage 1's text becomes stage 2's question. TEST wraps it as in training (the default); DEMO passes it bare, as the
 * original's cli_demo does. */
/* What keys and values of earlier tokens are kept in. AUTO: 16 bits where the network itself rounds to them and beside block types (bundles of 4
 * or 8 bits), else F32. Without effect with another precision than F32, whose type it then is. Q8_0 needs heads
 * of a multiple of 32 values; else it is F16. */
typedef enum fs_kv_cache_type { FS_KV_AUTO = 0, FS_KV_F32 = 1, FS_KV_F16 = 2, FS_KV_Q8_0 = 3 } fs_kv_cache_type;
typedef enum fs_prompt_style { FS_PROMPT_TEST = 0, FS_PROMPT_DEMO = 1 } fs_prompt_style;

/* Why there is a mask, or why there is none. */
typedef enum fs_mask_status {
    FS_MASK_NONE = 0,        /* stage 2 has not run */
    FS_MASK_PRESENT = 1,
    FS_MASK_AUTHENTIC = 2,   /* the text says the picture has not been tampered with */
    FS_MASK_NO_SEG = 3       /* stage 2 answered without [SEG]: an all-black mask is given, with a warning */
} fs_mask_status;

/* How a score was calibrated. */
typedef enum fs_calibration_method {
    FS_CALIBRATION_UNRECORDED = 0, /* the bundle does not say */
    FS_CALIBRATION_PLATT = 1       /* a logistic over the score's log-odds (docs/evaluation.md) */
} fs_calibration_method;

FS_API const char *fs_verdict_name(fs_verdict v);           /* "undetermined", "authentic", "tampered" */
FS_API bool fs_verdict_from_name(const char *name, fs_verdict *out);
FS_API const char *fs_domain_name(fs_domain d);             /* "AIGC inpainting", "DeepFake", "Photoshop" */
FS_API bool fs_domain_from_name(const char *name, fs_domain *out);
FS_API const char *fs_precision_name(fs_precision p);       /* "f32", "bf16", "f16", "upstream" */
FS_API bool fs_precision_from_name(const char *name, fs_precision *out);
FS_API const char *fs_kv_cache_type_name(fs_kv_cache_type t); /* "auto", "f32", "f16", "q8_0" */
FS_API bool fs_kv_cache_type_from_name(const char *name, fs_kv_cache_type *out);
FS_API const char *fs_prompt_style_name(fs_prompt_style s); /* "test", "demo" */
FS_API bool fs_prompt_style_from_name(const char *name, fs_prompt_style *out);
FS_API const char *fs_mask_status_name(fs_mask_status s);   /* "none", "present", "authentic", "no-seg" */
FS_API bool fs_mask_status_from_name(const char *name, fs_mask_status *out);
FS_API const char *fs_calibration_method_name(fs_calibration_method m); /* "unrecorded", "platt" */
FS_API bool fs_calibration_method_from_name(const char *name, fs_calibration_method *out);

/* ---- options ------------------------------------------------------------------------------------------------------ */

typedef enum fs_log_level { FS_LOG_DEBUG = 0, FS_LOG_INFO = 1, FS_LOG_WARNING = 2 } fs_log_level;

/* Callbacks; any may be NULL. They are called on the thread that called the library. */
typedef struct fs_callbacks {
    void *user_data;
    void (*log)(void *user_data, fs_log_level level, const char *line);
    /* A piece of stage 1's explanation as it is written (UTF-8, whole characters). */
    void (*text)(void *user_data, const char *piece);
    /* step: what is being done ("stage 1: image encoder"); done/total in units of that step, total 0 = unknown. */
    void (*progress)(void *user_data, const char *step, int64_t done, int64_t total);
    /* Return true to stop; the running call then ends with FS_E_CANCELLED. */
    bool (*cancel)(void *user_data);
} fs_callbacks;

/* How text is drawn from the model. temperature 0 is greedy (the default: forensic results must repeat).
 * fs_sampling_upstream() gives the original's: temperature 0.2, top_k and top_p from generation_config.json. */
typedef struct fs_sampling {
    float temperature;
    int top_k;      /* 0 = off; negative = generation_config.json's, or 50 as transformers has it */
    float top_p;    /* 1 = off; negative = generation_config.json's, or off */
    uint64_t seed;
} fs_sampling;

typedef struct fs_options {
    const char *clip_dir;        /* CLIP ViT-L/14-336 directory; NULL = search (docs/model.md, "Where CLIP comes from") */
    const char *sam_file;        /* sam_vit_h_4b8939.pth; NULL = the copy in MFLM, or beside the checkpoint */
    const char *dtg_file;        /* DTG.pth; NULL = the one in the checkpoint directory */
    fs_precision precision;      /* default FS_PRECISION_F32 */
    int threads;                 /* 0 = one per available core; one for a bundle of less than 64 MiB, where more are a hindrance */
    fs_sampling sampling;        /* default greedy, seed 0 */
    int max_new_tokens;          /* stage 1; default 1024 */
    bool verdict_only;           /* verdict and score without writing out the explanation; no mask */
    bool exif_both;              /* apply EXIF orientation in stage 1 too (the original: only stage 2) */
    fs_kv_cache_type kv_cache;   /* default AUTO */
    int batch;                   /* fs_explain_many: pictures whose answers are written at a time, 1..12; 0 = up to 8, as memory allows */
    fs_prompt_style prompt_style;
    int question_index;          /* 0..2: which of the three stage-2 questions; -1 = drawn from the seed. Default 0 */
    bool keep_stages;            /* keep both stages loaded; default false: peak memory is the larger of the two */
    bool trim_text;              /* drop the leading space of the original's CLI text; default true */
    int64_t max_pixels;          /* decode limit, default 178956970 (Pillow's) */
    int64_t max_file_bytes;      /* default 1 GiB */
    const char *question;        /* stage-1 question; NULL = the original's detection question */
    /* A LLaVA 1.5 of llama.cpp's world in place of DTE-FDM, for stage 1 alone; NULL = none. Without mmproj_file it is looked for beside lm_file.
     * Given as model_dir, a folder with the two files or the language model's file does the same. */
    const char *lm_file, *mmproj_file;
    /* Adapter folders as training or peft writes them, put over the checkpoint or bundle without merging: at most one for each stage. Which it belongs
     * to is told by the folder's own files, else by what it fits (docs/training.md). NULL, 0: none. */
    const char *const *adapters;
    size_t n_adapters;
    bool domain_given;           /* the domain tag is `domain` and not DTG's; DTG is then not needed */
    fs_domain domain;
    bool lock_memory;            /* keep the weights in memory (mlock); where the system forbids it, a warning in the log and nothing more */
    bool prefetch;               /* read the stage's files ahead in the background, and stage 2's while stage 1 works, as memory allows */
    bool overwrite;              /* fs_convert, fs_requantize, fs_assemble: write files anew that are finished already; default false */
    fs_callbacks callbacks;
} fs_options;

FS_API fs_options fs_options_defaults(void);
FS_API fs_sampling fs_sampling_upstream(void);

/* ---- detector: both stages over one checkpoint -------------------------------------------------------------------- */

typedef struct fs_detector fs_detector;
typedef struct fs_result fs_result;

/* Opens a checkpoint directory laid out as users download it (DTE-FDM/, MFLM/, DTG.pth), or a bundle that fs_convert made of one. Reads
 * configs, checks that the parts are there; weights are mapped when a stage first runs. The strings in `options` are copied. */
FS_API fs_status fs_detector_create(const char *model_dir, const fs_options *options, fs_detector **out, fs_error *err);
FS_API void fs_detector_free(fs_detector *d);

/* The title that a bundle bears ("FakeShield nano, the small demonstration model"); the caller's: fs_string_free. NULL: it has none, or is no bundle. */
FS_API char *fs_model_title(const char *model_dir);

/* Both stages on one picture file. *out is the caller's. */
FS_API fs_status fs_detect(fs_detector *d, const char *image_path, fs_result **out, fs_error *err);

/* The stages one by one, for folders: explain every picture first, then localize every result, and each stage is loaded once. */
FS_API fs_status fs_explain(fs_detector *d, const char *image_path, fs_result **out, fs_error *err);
FS_API fs_status fs_localize(fs_detector *d, fs_result *r, fs_error *err);

/* fs_explain with a question of its own for this picture; question NULL = options.question. */
FS_API fs_status fs_explain_question(fs_detector *d, const char *image_path, const char *question, fs_result **out, fs_error *err);

/* fs_explain on many pictures. The answers of several are written at a time (options.batch), which takes little more time than one; each comes out
 * the same as alone. Call it once with all pictures rather than often with a few. */
typedef struct fs_explain_job {
    const char *image_path, *question; /* question NULL = options.question */
    fs_result *result;                 /* out: the caller's; NULL if it failed */
    fs_status status;                  /* out: FS_E_CANCELLED: not done, because the run ended before */
    fs_error error;
} fs_explain_job;
/* started, finished: called as a picture begins and as its job is filled, the latter in whatever order pictures end; may be NULL. The text
 * callback is used only while a single picture is in the making. Returns an error only if the run could not go on (the stage does not load, no memory,
 * stopped by the caller); a picture's own failure stands in its job. */
FS_API fs_status fs_explain_many(fs_detector *d, fs_explain_job *jobs, size_t n, void (*started)(void *user_data, size_t index),
                                 void (*finished)(void *user_data, size_t index), void *user_data, fs_error *err);

/* Are the files of a stage (1 or 2) there and their configs readable? Reads no weights. FS_E_NOT_FOUND names the part and where to get it.
 * fs_detector_create itself only asks for one whole stage, so that each can be used without the other's files. */
FS_API fs_status fs_detector_check(fs_detector *d, int stage, fs_error *err);

/* Loads a stage (1 or 2) now instead of at its first use, and frees the other one unless keep_stages. What is wrong with the weights is
 * reported here, apart from what is wrong with a picture. Nothing happens if the stage is loaded already. */
FS_API fs_status fs_detector_load(fs_detector *d, int stage, fs_error *err);

/* Takes up what an earlier run wrote with fs_result_to_json about this picture. *out is that result, with image_path as its picture, if
 * picture (by SHA-256), model and settings (threads excepted) are those of `d`; else *out is NULL and the status still FS_OK. A result
 * whose mask status is FS_MASK_NONE can go on to fs_localize. One of fs_localize_text is taken up too: it has no score. The mask's pixels are not read
 * back. */
FS_API fs_status fs_detector_resume(fs_detector *d, const char *json, const char *image_path, fs_result **out, fs_error *err);

/* Stage 2 alone: a picture and a description from elsewhere. boxes: [n_boxes][4] x0,y0,x1,y1 in pixels for the region encoder, or
 * NULL; the text must then hold one <bbox> per box. */
FS_API fs_status fs_localize_text(fs_detector *d, const char *image_path, const char *text, const float *boxes, size_t n_boxes,
                                  fs_result **out, fs_error *err);

/* Frees the weights and state of both stages; the next call loads again. */
FS_API void fs_detector_unload(fs_detector *d);

/* ---- results ------------------------------------------------------------------------------------------------------ */

FS_API void fs_result_free(fs_result *r);
FS_API const char *fs_result_image(const fs_result *r);          /* the path as given */
FS_API fs_verdict fs_result_verdict(const fs_result *r);
FS_API double fs_result_score(const fs_result *r);               /* probability of "tampered" in 0..1; NaN if stage 1 has not run */
typedef struct fs_calibration_info {
    double raw_score;             /* before calibration */
    double low, high;             /* between them the verdict is undetermined */
    fs_calibration_method method;
    int64_t pictures;             /* it was fitted to; 0: not recorded */
    double ece_before, ece_after; /* expected calibration error on those pictures, without and with it; NaN: not recorded */
} fs_calibration_info;
/* False: the model's scores are not calibrated. */
FS_API bool fs_result_calibration(const fs_result *r, fs_calibration_info *out);
FS_API fs_domain fs_result_domain(const fs_result *r);
FS_API const float *fs_result_domain_probabilities(const fs_result *r); /* [3], owned by r */
FS_API const char *fs_result_text(const fs_result *r);           /* stage 1's whole answer; "" if none */
FS_API const char *fs_result_area(const fs_result *r);           /* its first item */
FS_API size_t fs_result_basis_count(const fs_result *r);         /* its second item, one entry per cue */
FS_API const char *fs_result_basis(const fs_result *r, size_t i);
FS_API fs_mask_status fs_result_mask_status(const fs_result *r);
/* Size of the picture as stage 2 sees it (EXIF applied). */
FS_API int64_t fs_result_width(const fs_result *r);
FS_API int64_t fs_result_height(const fs_result *r);
/* [height][width], 255 = tampered, 0 = not; NULL without mask. Owned by r. */
FS_API const uint8_t *fs_result_mask(const fs_result *r);
/* [height][width] logits, > 0 = tampered; NULL without mask. Owned by r. */
FS_API const float *fs_result_mask_logits(const fs_result *r);
FS_API double fs_result_mask_area(const fs_result *r);           /* fraction of tampered pixels */
/* Connected tampered regions (8-connected), largest first. box: x0,y0,x1,y1 in pixels, x1 and y1 exclusive. area_fraction: of the picture.
 * At most 256 are kept; fs_result_region_total counts all. */
FS_API size_t fs_result_region_count(const fs_result *r);
FS_API size_t fs_result_region_total(const fs_result *r);
FS_API void fs_result_region(const fs_result *r, size_t i, int64_t box[4], double *area_fraction);
FS_API const char *fs_result_sha256(const fs_result *r);         /* of the picture file, 64 hex digits */
/* Base name of the adapter's folder that was over a stage (1, 2); NULL: there was none. */
FS_API const char *fs_result_adapter(const fs_result *r, int stage);
FS_API size_t fs_result_warning_count(const fs_result *r);
FS_API const char *fs_result_warning(const fs_result *r, size_t i);

/* One JSON object (docs/result-schema.json). mask_path/overlay_path: what to name in it, or NULL. with_times: include stage times
 * (the only part that differs between runs). pretty: indented. The string is the caller's: fs_string_free. */
FS_API fs_status fs_result_to_json(const fs_result *r, const char *mask_path, const char *overlay_path, bool with_times, bool pretty,
                                   char **out, fs_error *err);
/* Reads back what fs_result_to_json wrote (the mask itself excepted), to go on with stage 2 in another run. */
FS_API fs_status fs_result_from_json(const char *json, fs_result **out, fs_error *err);
FS_API void fs_string_free(char *s);

/* Upstream's stage-1 record: {"image": ..., "outputs": ...} as Python's json.dumps writes it, without a newline. */
FS_API fs_status fs_result_to_record(const fs_result *r, char **out, fs_error *err);
/* Reads one line of upstream's JSON Lines: *image is the value of "image", *text that of `key` ("outputs" of stage 1, "text" of a question
 * file). As upstream does, a missing key gives "". The strings are the caller's: fs_string_free. */
FS_API fs_status fs_record_parse(const char *line, const char *key, char **image, char **text, fs_error *err);

/* 8-bit grey PNG at the picture's size, 255 = tampered. Written beside the target and renamed: never half a file. */
FS_API fs_status fs_result_write_mask(const fs_result *r, const char *path, fs_error *err);
/* 8-bit grey PNG of the sigmoid of the logits. */
FS_API fs_status fs_result_write_soft_mask(const fs_result *r, const char *path, fs_error *err);
/* The mask as the original saves it: the extension of `path` decides the format (.png; .jpg and .jpeg with Pillow's defaults, quality 75
 * and 4:2:0; .bmp and others may be FS_E_UNSUPPORTED), rgb: three channels (cli_demo) instead of one (test). */
FS_API fs_status fs_result_write_upstream_mask(const fs_result *r, const char *path, bool rgb, fs_error *err);
/* The picture with the tampered region tinted and outlined. Needs the picture file to be still there. */
FS_API fs_status fs_result_write_overlay(const fs_result *r, const char *path, fs_error *err);

/* Is this the name of a file we try when walking a folder? By extension, case-insensitive. */
FS_API bool fs_is_picture_name(const char *name);

/* ---- what a checkpoint or weight file holds ----------------------------------------------------------------------- */

/* A report on PATH (checkpoint directory, one of its parts, or one weight file): parts, shapes, dtypes, parameters, memory needed,
 * licence. json: as JSON, else as text for people; tensors: list every tensor. The string is the caller's. */
FS_API fs_status fs_describe(const char *path, bool json, bool tensors, char **out, fs_error *err);

/* ---- downloading released weights (docs/pull.md) ------------------------------------------------------------------ */

/* FETCH: downloads what the folder lacks or has wrong. LIST: only tells what the hub has. CHECK: compares the folder with the hub's listing
 * byte for byte and changes nothing; without a network, with the listing that an earlier FETCH has left in the folder. */
typedef enum fs_pull_mode { FS_PULL_FETCH = 0, FS_PULL_LIST = 1, FS_PULL_CHECK = 2 } fs_pull_mode;
typedef enum fs_pull_state {
    FS_PULL_LISTED = 0,  /* LIST: not compared with anything */
    FS_PULL_MISSING = 1,
    FS_PULL_PARTIAL = 2, /* missing, but an unfinished download is there */
    FS_PULL_WRONG = 3,   /* there, with another size or checksum */
    FS_PULL_GOOD = 4,    /* there, and its checksum is right */
    FS_PULL_FETCHED = 5  /* downloaded now, and its checksum is right */
} fs_pull_state;
FS_API const char *fs_pull_mode_name(fs_pull_mode m);   /* "fetch", "list", "check" */
FS_API bool fs_pull_mode_from_name(const char *name, fs_pull_mode *out);
FS_API const char *fs_pull_state_name(fs_pull_state s); /* "listed", "missing", "partial", "wrong", "good", "fetched" */
FS_API bool fs_pull_state_from_name(const char *name, fs_pull_state *out);

typedef struct fs_pull_file { /* valid during the callback */
    const char *path;      /* below the folder */
    int64_t size;
    const char *algorithm; /* "sha256", or "git-sha1" for small files */
    const char *checksum;  /* hex */
    fs_pull_state state;
} fs_pull_file;

typedef struct fs_pull_options {
    fs_pull_mode mode;
    const char *revision;  /* branch, tag or commit; default "main" */
    const char *base_url;  /* the hub, or a mirror that speaks as it does; default "https://huggingface.co" */
    const char *token;     /* for private repositories; sent to base_url's host alone. Default NULL */
    bool everything;       /* also what FakeShield has no use for: other frameworks' copies of the weights, git's own files */
    int jobs;              /* connections at a time, 1..32; default 4 */
    int64_t part_bytes;    /* what one request asks for; default 64 MiB */
    int retries;           /* new attempts after failures without progress; default 6 */
    double retry_delay;    /* seconds before the first of them, doubled each time up to a minute; default 1 */
    int stall_seconds;     /* a connection that brings less than 1 KiB/s for so long is given up; default 30 */
    void (*file)(void *user_data, const fs_pull_file *file); /* once a file, with callbacks.user_data; may be NULL */
    fs_callbacks callbacks; /* progress: step is the file's path, done and total are bytes of the whole run */
} fs_pull_options;
FS_API fs_pull_options fs_pull_options_defaults(void);

/* what: "fakeshield" (the released weights), "clip" (the vision tower both stages need), or a repository OWNER/NAME. *repo is its repository,
 * *dir the folder it goes to by default ("weight/NAME"); either pointer may be NULL. The strings are the caller's: fs_string_free. */
FS_API fs_status fs_pull_resolve(const char *what, char **repo, char **dir, fs_error *err);
/* Brings the repository's files into dir (NULL = the default one). Can be stopped at any moment, by a kill too: the next call goes on. A
 * file has its name only when its checksum is right; a file that is right already is left alone. FS_E_NOT_FOUND or FS_E_FORMAT in mode
 * CHECK: something is missing, or something is wrong. */
FS_API fs_status fs_pull(const char *what, const char *dir, const fs_pull_options *options, fs_error *err);

/* ---- bundles: the checkpoint as GGUF files (docs/bundle.md) -------------------------------------------------------- */

/* Writes dte-fdm.gguf, mflm.gguf and vision.gguf of the checkpoint in model_dir into out_dir, which is made if need be. type: "f32", "f16",
 * "bf16", "q8_0", "q4_0", "q4_k" or "mixed". Of the options clip_dir, sam_file, dtg_file, adapters (which are merged), threads, overwrite and callbacks
 * are used; progress counts bytes of all files. Each file is whole or not there; disk space is checked before the first is begun. A file that an earlier run
 * finished, for the same checkpoint and type and with right checksums, is kept: after a kill the same call goes on with the next file.
 * Memory: a few megabytes and the largest tensor's pages. */
FS_API fs_status fs_convert(const char *model_dir, const char *out_dir, const char *type, const fs_options *options, fs_error *err);
/* The same from a bundle: another, coarser type of what is in bundle_dir. From an f32 bundle the files are those fs_convert makes of the
 * checkpoint, byte for byte. The source's checksums are compared on the way. A finer type than the source's is FS_E_USAGE; a source of 8 bits
 * is said in the log (FS_LOG_WARNING), since what it lost stays lost. */
FS_API fs_status fs_requantize(const char *bundle_dir, const char *out_dir, const char *type, const fs_options *options, fs_error *err);
/* The same with parts of other bundles in place of bundle_dir's own, as trainings leave them that began with one bundle and ran side by side. NULL: its own.
 * stage1: dte-fdm.gguf and its projector. stage2: mflm.gguf, its projector, the [SEG] projection, SAM, the region encoder. tag: the domain tag generator.
 * They may be of other sizes than what they replace; CLIP is bundle_dir's, and a stage whose bundle has another one is FS_E_MISMATCH. Here the type may
 * also be the one the bundles have. With another stage 1 or tag generator a calibration is left out, which the log says (FS_LOG_WARNING). */
typedef struct fs_bundle_parts { const char *stage1, *stage2, *tag; } fs_bundle_parts;
FS_API fs_status fs_assemble(const char *bundle_dir, const fs_bundle_parts *parts, const char *out_dir, const char *type, const fs_options *options, fs_error *err);
/* Multiplies options.adapters into the checkpoint in model_dir, W + alpha / rank * B A rounded to the base's type, and writes what comes of it into out_dir:
 * a checkpoint in the original's layout (type NULL; parts without an adapter are linked where the disk allows that, else copied), or a bundle of that
 * type. The base stays as it is. Each stage's folder is whole or not there. Memory: one tensor. */
FS_API fs_status fs_merge(const char *model_dir, const char *out_dir, const char *type, const fs_options *options, fs_error *err);
/* Compares every tensor of a bundle's folder, or of one of its files, with its checksum, and the files with one another. */
FS_API fs_status fs_verify(const char *path, const fs_callbacks *callbacks, fs_error *err);

/* ---- data: forgeries with exact masks (docs/forge.md) --------------------------------------------------------------- */

/* What was done to a picture. Numbers are pinned: they index fs_forge_options.weight. */
typedef enum fs_forge_type {
    FS_FORGE_AUTHENTIC = 0,
    FS_FORGE_SPLICE = 1,    /* an object or region of another photo is put in */
    FS_FORGE_COPY_MOVE = 2, /* a part of the photo itself, moved, perhaps scaled, turned or mirrored */
    FS_FORGE_REMOVAL = 3,   /* something is taken out and the hole filled from its surroundings */
    FS_FORGE_COLOR = 4,     /* hue, saturation, brightness or contrast of a part */
    FS_FORGE_BLUR = 5,      /* a part is blurred, smoothed or pixelated */
    FS_FORGE_RESAMPLE = 6   /* a part is enlarged in place, pushed about, or made coarser */
} fs_forge_type;
enum { FS_FORGE_TYPES = 7 };
typedef enum fs_forge_split { FS_FORGE_TRAIN = 0, FS_FORGE_VAL = 1, FS_FORGE_TEST = 2 } fs_forge_split;
typedef enum fs_forge_format { FS_FORGE_JPEG = 0, FS_FORGE_PNG = 1 } fs_forge_format;
FS_API const char *fs_forge_type_name(fs_forge_type t);     /* "authentic", "splice", "copy-move", "removal", "color", "blur", "resample" */
FS_API bool fs_forge_type_from_name(const char *name, fs_forge_type *out);
FS_API const char *fs_forge_split_name(fs_forge_split s);   /* "train", "val", "test" */
FS_API bool fs_forge_split_from_name(const char *name, fs_forge_split *out);
FS_API const char *fs_forge_format_name(fs_forge_format f); /* "jpg", "png" */
FS_API bool fs_forge_format_from_name(const char *name, fs_forge_format *out);

typedef struct fs_forge_options {
    int64_t count;               /* fs_forge: pictures in all; default 100 */
    uint64_t seed;               /* the same seed, sources and options give the same bytes, whatever the number of threads */
    int size_min, size_max;      /* longer side of the finished pictures, in pixels; default 256 and 1024 */
    bool square;                 /* pictures are squares */
    float authentic;             /* share of untouched pictures, 0..1; default 0.5 */
    bool pairs;                  /* in place of that share: picture 2 k is tampered, 2 k + 1 the same part of the same photo, untouched, through the same chain */
    bool mirror;                 /* half of the photos' parts are mirrored, left to right, before anything is done: twice the scenes */
    float weight[FS_FORGE_TYPES]; /* how often each kind of edit is made, against each other; that of AUTHENTIC is not used */
    float val, test;             /* share of the source photos, and of the pictures, that goes to each of these splits; default 0.1 */
    fs_forge_format format;      /* default JPEG */
    bool vary;                   /* every picture, once edited, is turned or mirrored in one of eight ways and gets other colours: more scenes, for training */
    bool no_chain;               /* leave the post-processing out (and write PNG): the picture as edited; for checks */
    float clean;                 /* leave it out of this share of the pictures, 0..1; default 0 */
    int threads;                 /* fs_forge: 0 = one per available core */
    int64_t cache_bytes;         /* memory for decoded source photos; default 1 GiB */
    const char *texts_file;      /* the texts' grammar; NULL = the built-in one (share/forge_texts.json) */
    bool overwrite;              /* fs_forge: a folder that was made with other settings is emptied of what forge wrote, and made anew */
    fs_callbacks callbacks;      /* progress counts pictures; log tells of sources that cannot be used */
} fs_forge_options;
FS_API fs_forge_options fs_forge_options_defaults(void);
/* "splice=3,removal=1" or "splice,removal": the weights of these, and 0 for all others. */
FS_API fs_status fs_forge_types_parse(const char *text, float weight[FS_FORGE_TYPES], fs_error *err);

/* Makes options.count pictures of the photos in `sources` (files and folders; object masks beside them are used, docs/forge.md) and writes them with
 * masks and texts into out_dir: the tree that the original's training reads, conversations, and a manifest. Goes on where an earlier run with the same
 * settings was stopped. A photo that cannot be read is left out, with a line in the log. */
FS_API fs_status fs_forge(const char *const *sources, size_t n_sources, const char *out_dir, const fs_forge_options *options, fs_error *err);

/* The same in memory, for training while forging. fs_forge_make may be called by several threads at a time on one handle; its result depends on
 * seed, split and index alone. */
typedef struct fs_forger fs_forger;
typedef struct fs_forge_record {
    fs_forge_type type;
    fs_domain domain;
    fs_forge_split split;
    uint64_t index;
    int64_t width, height;
    uint8_t *rgb;           /* [height][width][3], as a reader of the finished file sees it */
    uint8_t *mask;          /* [height][width], 255 = changed, 0 = not */
    uint8_t *file;          /* the finished picture's bytes, JPEG or PNG */
    size_t file_size;
    char *question;         /* the human turn, "<image>" and the domain's sentence included */
    char *answer;           /* both items, as the original's answers are built */
    char *parameters;       /* a JSON object: sources, places, what was done, the chain of post-processing */
    uint8_t *before, *after; /* [before_height][before_width][3]: around the edit, before post-processing; only if asked for (fs_forge_make_traced) */
    uint8_t *edit_mask;      /* [before_height][before_width] */
    int64_t before_width, before_height;
} fs_forge_record;
FS_API fs_status fs_forge_open(const char *const *sources, size_t n_sources, const fs_forge_options *options, fs_forger **out, fs_error *err);
FS_API void fs_forge_close(fs_forger *f);
FS_API size_t fs_forge_sources(const fs_forger *f, fs_forge_split split); /* photos of this split */
FS_API fs_status fs_forge_make(fs_forger *f, fs_forge_split split, uint64_t index, fs_forge_record *out, fs_error *err);
/* With the picture around the edit, for checks. */
FS_API fs_status fs_forge_make_traced(fs_forger *f, fs_forge_split split, uint64_t index, fs_forge_record *out, fs_error *err);
FS_API void fs_forge_record_clear(fs_forge_record *r); /* frees what it holds */

/* ---- data sets: check, questions, convert, describe (docs/datasets.md) ---------------------------------------------- */

/* A folder with the original's tree: <type>/<set>/image/ and mask/, or one type, or one set. */
typedef struct fs_dataset_check_options {
    const char *against;   /* a second tree: a picture that is in both is leakage; NULL = none */
    const char *test_sets; /* names of the sets that are for testing, "CASIA1+,Columbia"; NULL = told by names and JSON files */
    bool names_only;       /* names and JSON files alone; no picture is opened */
    int near_bits;         /* pictures whose 64-bit difference hashes differ in at most so many bits are near duplicates, 0..16; -1 = none are
                              looked for. Default 3 */
    bool all;              /* *text lists every finding, not only the first few of a kind */
    int threads;           /* 0 = one per available core */
    fs_callbacks callbacks; /* progress counts pictures */
} fs_dataset_check_options;
FS_API fs_dataset_check_options fs_dataset_check_options_defaults(void);
/* Reads every picture and mask. *json, *text: the report for programs and for people; either pointer may be NULL, the strings are the caller's:
 * fs_string_free. *errors: findings that make training or an evaluation wrong; the status is FS_OK all the same. */
FS_API fs_status fs_dataset_check(const char *dir, const fs_dataset_check_options *options, char **json, char **text, size_t *errors, fs_error *err);

typedef struct fs_dataset_questions_options {
    int64_t limit;         /* at most so many pictures a folder; 0 = all */
    bool absolute;         /* paths from the root, which the original's test script needs */
    const char *question;  /* NULL = the original's detection question */
    size_t *count;         /* out: questions written; may be NULL */
    fs_callbacks callbacks; /* log tells of files that are no pictures */
} fs_dataset_questions_options;
FS_API fs_dataset_questions_options fs_dataset_questions_options_defaults(void);
/* The original's question file (playground/eval_jsonl.py), JSON Lines of {"image", "text"}, for the pictures of `folders`: each a folder of pictures or a
 * tree. Within a folder the order is that of the names' bytes (the original takes the file system's). */
FS_API fs_status fs_dataset_questions(const char *const *folders, size_t n_folders, const char *out_path,
                                      const fs_dataset_questions_options *options, fs_error *err);

typedef struct fs_dataset_places_options {
    const char *sets;      /* "photoshop|train;aigc|train"; NULL = all there are */
    int side;              /* cells across and down; default 128 */
    bool invert_masks;     /* black is tampered */
    size_t *count;         /* out: masks read; may be NULL */
    double *most;          /* out: share of the masks that the most frequent cell is in; may be NULL */
    fs_callbacks callbacks; /* progress counts pictures */
} fs_dataset_places_options;
FS_API fs_dataset_places_options fs_dataset_places_options_defaults(void);
/* The mean of a tree's masks as a grey PNG of side x side, white where most are: where its edits lie, and, as the answer for every picture of another set
 * (fs_eval_options.masks), the figure that a localizer has to beat. */
FS_API fs_status fs_dataset_places(const char *dir, const char *out_path, const fs_dataset_places_options *options, fs_error *err);

/* The public sets fs_dataset_convert knows. */
typedef enum fs_dataset_form {
    FS_FORM_CASIA = 0,
    FS_FORM_COLUMBIA = 1,
    FS_FORM_COVERAGE = 2,
    FS_FORM_NIST16 = 3,
    FS_FORM_IMD2020 = 4,
    FS_FORM_DSO1 = 5,
    FS_FORM_KORUS = 6
} fs_dataset_form;
enum { FS_FORMS = 7 };
FS_API const char *fs_dataset_form_name(fs_dataset_form f); /* "casia", "columbia", "coverage", "nist16", "imd2020", "dso1", "korus" */
FS_API bool fs_dataset_form_from_name(const char *name, fs_dataset_form *out);

typedef struct fs_dataset_convert_options {
    const char *name;      /* of the sets made: NAME_Tp and NAME_Au; NULL = the form's ("CASIAv2", "Columbia", ...) */
    bool copy;             /* copy pictures even where a hard link would do */
    bool resize_masks;     /* a mask of another size than its picture is resampled (nearest) and not left out */
    bool no_invert;        /* this copy of DSO-1 or NIST16 has its masks the right way round already */
    bool dry_run;          /* only the report; nothing is written */
    bool all;              /* *text lists everything left out, not only the first few of a kind */
    int threads;           /* 0 = one per available core */
    size_t *tampered, *authentic, *left_out; /* out; may be NULL */
    fs_callbacks callbacks;
} fs_dataset_convert_options;
FS_API fs_dataset_convert_options fs_dataset_convert_options_defaults(void);
/* Brings a public set, as it is unpacked, into the original's tree below out_dir: photoshop/NAME_Tp/{image,mask}/ and photoshop/NAME_Au/image/.
 * Pictures stay as they are, byte for byte; masks become PNG of 0 and 255, the right way round. *text: what was paired and what was left out. */
FS_API fs_status fs_dataset_convert(fs_dataset_form form, const char *src_dir, const char *out_dir, const fs_dataset_convert_options *options,
                                    char **text, fs_error *err);

/* How the mask is shown to the model: a second picture, or the picture with the region tinted and outlined. */
typedef enum fs_describe_view { FS_VIEW_MASK = 0, FS_VIEW_OVERLAY = 1 } fs_describe_view;
FS_API const char *fs_describe_view_name(fs_describe_view v); /* "mask", "overlay" */
FS_API bool fs_describe_view_from_name(const char *name, fs_describe_view *out);

typedef struct fs_dataset_describe_options {
    const char *url;       /* of the service, up to what /chat/completions is put behind, as "https://host/v1" */
    const char *key;       /* sent to that host alone; NULL = none. https is demanded except on this machine */
    const char *model;
    const char *out_dir;   /* answers.jsonl, conversations_train.json and the sets' lisa_train_*.json go here; NULL = the data set's own folder */
    const char *instructions_file; /* NULL = the built-in ones (share/describe_instructions.json) */
    fs_describe_view view; /* default MASK */
    bool val;              /* ..._val... in place of ..._train... */
    int64_t limit;         /* at most so many new questions; 0 = all */
    int max_side;          /* pictures are sent with their longer side at most this, 64..4096; default 1024 */
    int max_tokens;        /* of an answer; default 600 */
    double temperature;    /* default 0.2 */
    double rpm;            /* requests a minute, at most; 0 = no limit. Default 60 */
    int jobs;              /* requests at a time, 1..32; default 4 */
    int retries;           /* new attempts after a failure that may pass; default 5 */
    double retry_delay;    /* seconds before the first, doubled each time up to a minute; default 2 */
    int timeout_seconds;   /* of one request; default 120 */
    double price_in, price_out; /* per million tokens, for the estimate; negative = not known (the default) */
    double price_limit;    /* refuse to begin where the estimate is higher; 0 = no limit */
    bool estimate_only;    /* *text is the estimate; nothing is sent */
    bool dry_run;          /* *text is the estimate and the first request, without the key; nothing is sent */
    size_t *asked, *kept, *failed; /* out: answers that came now, were there already, did not come; may be NULL */
    fs_callbacks callbacks; /* progress counts pictures; log tells of each picture without an answer */
} fs_dataset_describe_options;
FS_API fs_dataset_describe_options fs_dataset_describe_options_defaults(void);
/* Asks a vision model for the text of each picture of a tree, as MMTD-Set was made: picture, mask and instructions go to an OpenAI-compatible service. Answers
 * are kept in answers.jsonl as they come and not asked for again. FS_E_FAILED: some did not come or were no good, after all others were written. */
FS_API fs_status fs_dataset_describe(const char *dir, const fs_dataset_describe_options *options, char **text, fs_error *err);

/* ---- measuring (docs/speed.md) ------------------------------------------------------------------------------------- */

/* A bundle of random weights at the true size, for measuring speed and memory; detect warns that what it says means nothing. */
typedef struct fs_synth_options {
    const char *arch;  /* "22b" (both stages, the default), "13b" (stage 1), "7b" (stage 2), "tiny"; each with its vision parts */
    const char *type;  /* as fs_convert's; default "mixed" */
    uint64_t seed;     /* the same options give the same bytes, whatever the number of threads */
    int layers;        /* of the language models, in place of the true number; 0 = that */
    int threads;       /* 0 = one per available core */
    fs_callbacks callbacks; /* progress counts bytes of all files */
} fs_synth_options;
FS_API fs_synth_options fs_synth_options_defaults(void);
/* Writes into out_dir, which is made if need be. Weights that synth did not make are never written over; on failure nothing stays. */
FS_API fs_status fs_synth(const char *out_dir, const fs_synth_options *options, fs_error *err);

typedef struct fs_bench_options {
    const char *stages;  /* "decode,sam": of dtg, clip, prefill, decode, decode8, score, sam, mask, picture; NULL = all but picture */
    int runs;            /* default 5 */
    int prompt_tokens;   /* default 704 */
    int tokens;          /* of the answer; default 300. decode writes at most 32 of them */
    const char *image;   /* for picture; NULL = one made up */
} fs_bench_options;
FS_API fs_bench_options fs_bench_options_defaults(void);
/* Times the stages of a checkpoint or bundle, and what the machine gives in the same run. Of the options the places of parts, precision, threads and
 * callbacks are used. *json: one JSON object (docs/speed.md), *text: the same as a table; either pointer may be NULL, the strings are the
 * caller's: fs_string_free. */
FS_API fs_status fs_bench(const char *model_dir, const fs_bench_options *bench, const fs_options *options, char **json, char **text, fs_error *err);

/* ---- training (docs/training.md) ------------------------------------------------------------------------------------ */

/* DTE_FDM: stage 1's language model by adapters and its projector. MFLM: stage 2 by adapters, its embeddings, head and mask decoder. DTG: the
 * domain tag generator, all of it. */
typedef enum fs_recipe { FS_RECIPE_DTE_FDM = 0, FS_RECIPE_MFLM = 1, FS_RECIPE_DTG = 2 } fs_recipe;
FS_API const char *fs_recipe_name(fs_recipe r); /* "dte-fdm", "mflm", "dtg" */
FS_API bool fs_recipe_from_name(const char *name, fs_recipe *out);

typedef struct fs_train_progress fs_train_progress;
typedef struct fs_train_options {
    fs_recipe recipe;
    const char *model_dir;      /* checkpoint or bundle to start from */
    const char *from_scratch;   /* instead: a config of a new model, all of whose weights are trained (docs/training.md) */
    const char *output_dir;     /* adapter, checkpoints, logs; a run that is there already is resumed */
    const char *data;           /* DTE-FDM: conversation JSON; MFLM: root of the data set tree; DTG: root of aigc/, deepfake/, photoshop/ */
    const char *image_folder;   /* DTE-FDM: in front of the JSON's paths; default "/" as the original's script has it */
    const char *val_data;       /* DTE-FDM: conversation JSON; DTG: root; NULL = no validation */
    const char *train_sets, *val_sets; /* MFLM: "type|split1,split2" */
    const char *forge;          /* in place of data: a folder of authentic photos; every picture is forged as it is needed and none comes twice */
    int forge_size_min, forge_size_max; /* longer side of forged pictures; default 256 and 256 */
    bool forge_square;
    bool forge_mirror;          /* as fs_forge_options.mirror */
    bool forge_vary;            /* as fs_forge_options.vary */
    double forge_clean;         /* as fs_forge_options.clean: edits that are plain to see, to begin with; default 0 */
    bool forge_pairs;           /* DTE-FDM, DTG: every forged picture with its untouched twin in one step */
    const char *forge_types;    /* as fs_forge_types_parse takes them; NULL = the default */
    int64_t forge_count;        /* forged pictures of an epoch; default 10000 */
    int64_t forge_val;          /* forged pictures of a validation, from photos that training does not see; default 200, 0 = no validation */
    double text_dropout;        /* MFLM: how often a text is replaced by one that says "tampered" and no more, 0..1; default 0 */
    bool gt_train, gt_val;      /* MFLM: lisa_*_gt.json in place of lisa_*_output.json */
    bool all_weights;           /* train every weight of the stage in place of the recipe's choice; starts from a bundle and makes one, DIR/model */
    const char *begin_with;     /* all weights: a bundle whose weights those of the same name and shape begin with; a stem of "stem_step" 16 takes one of 8,
                                   and layers that the other has fewer of begin with adding nothing (docs/training.md); NULL = none */
    bool clip_from_sam;         /* DTE-FDM, with begin_with: CLIP's tower, of the same shape, begins with what the other model's SAM knows */
    bool sam_from_clip;         /* MFLM, all weights: SAM's encoder, of the same shape, begins with what CLIP's tower knows (docs/training.md) */
    const char *freeze;         /* parts that stay as they are: "clip,sam,lm"; NULL = none */
    double epochs;
    int64_t max_steps;          /* 0 = as the epochs say */
    int64_t steps_per_epoch;    /* MFLM; 0 = records / global batch */
    int batch, accumulation;    /* records a micro-batch; micro-batches a step, over all processes */
    int lora_rank;
    double lora_alpha, lora_dropout;
    const char *lora_targets;   /* "q_proj,v_proj"; NULL = the recipe's */
    double rate, projector_rate; /* learning rates; projector_rate 0 = rate */
    double weight_decay, beta1, beta2, eps;
    double clip;                /* largest gradient norm; 0 = no limit */
    /* "cosine": linear warm-up from 0, then half a cosine to 0 (transformers); "warmup-decay": linearly up from 0, then to 0;
     * "warmup-decay-upstream": the same as DeepSpeed runs it for the original, first step at the full rate, second at 0; "constant". */
    const char *schedule;
    double warmup_ratio;        /* of all steps, rounded up; used if warmup_steps is 0 */
    int64_t warmup_steps;
    double ce_weight, bce_weight, dice_weight; /* MFLM, all weights, ce_weight 0: the mask branch alone */
    int focus;                  /* DTE-FDM, forged data: in the cross entropy, verdict, place and size count so often as any other word; default 1 */
    /* DTE-FDM, all weights, forged data: beside its words CLIP learns the mask, patch by patch, through a linear layer of its own that is left out of
     * the result; this times the weighted BCE and dice is added to the loss. With ce_weight 0 the language model is not run. Default 0 */
    double dense_weight;
    int64_t max_length;         /* tokens of a record, its picture included */
    bool group_by_length;       /* records of like length in a batch */
    bool upstream_order;        /* MFLM: the same order in every epoch, as the original has it */
    bool inference_prompt;      /* DTE-FDM: the system prompt of inference ("human") in place of training's ("user") */
    bool recompute;             /* layers are computed again in the backward pass: memory of one layer instead of all */
    bool skip_bad;              /* a record that cannot be used is left out with a warning; else it ends the run */
    int workers;                /* threads that prepare records; 0 = one per core, at most 4 */
    uint64_t seed;
    int64_t save_every;         /* steps between checkpoints; 0 = at the end of each epoch */
    int keep;                   /* latest checkpoints to keep, beside the best; default 2 */
    int64_t val_every;          /* steps between validations; 0 = at the end of each epoch */
    bool fresh;                 /* begin anew although output_dir holds a run */
    fs_options base;            /* clip_dir, sam_file, dtg_file, threads, callbacks */
    /* After every step; may be NULL. user_data is base.callbacks.user_data. */
    void (*step)(void *user_data, const fs_train_progress *p);
} fs_train_options;

struct fs_train_progress {
    int64_t step, steps;        /* done, of how many */
    double epoch, loss, rate, grad_norm;
    double tokens_per_second, seconds_left;
    int64_t memory_bytes;       /* resident */
    int64_t skipped;            /* records so far */
    double metric;              /* the last validation's: gIoU (MFLM), accuracy (DTG), loss (DTE-FDM); NaN = none yet */
    double best;
};

/* The original's settings for a recipe. */
FS_API fs_train_options fs_train_options_defaults(fs_recipe recipe);
/* Trains until the last step, or until the cancel callback says stop: then a checkpoint is written and FS_E_CANCELLED returned. The same call with the
 * same output_dir goes on where a run ended, however it ended. *summary (may be NULL): one JSON object; the caller's: fs_string_free. */
FS_API fs_status fs_train(const fs_train_options *options, char **summary, fs_error *err);

/* ---- evaluation (docs/evaluation.md) -------------------------------------------------------------------------------- */

/* Whose answers are looked at. MODEL: a checkpoint is run on the data. RESULTS: what `detect` wrote, a folder or JSON Lines. UPSTREAM: the original's JSON
 * Lines of stage 1 and its folder of masks. MAPS: any program's folder of masks or score maps (PNG of 8 or 16 bits, .npy), by name. */
typedef enum fs_eval_source { FS_EVAL_MODEL = 0, FS_EVAL_RESULTS = 1, FS_EVAL_UPSTREAM = 2, FS_EVAL_MAPS = 3 } fs_eval_source;
/* How marked pixels become a figure. */
typedef enum fs_eval_protocol {
    FS_EVAL_FIXED = 0,         /* score > 0.5, mean over pictures */
    FS_EVAL_POOLED = 1,        /* score > 0.5, pixels of all pictures in one heap */
    FS_EVAL_UPSTREAM_IOU = 2,  /* gIoU and cIoU as the original's validation computes them */
    FS_EVAL_BEST_SET = 3,      /* the threshold that is best for the whole set: an oracle's */
    FS_EVAL_BEST_IMAGE = 4,    /* each picture's own best threshold: an oracle's */
    FS_EVAL_PERMUTED = 5,      /* TruFor's: map or its inverse, edges left out, score > 0.5 */
    FS_EVAL_PERMUTED_BEST = 6  /* the same at each picture's best threshold */
} fs_eval_protocol;
/* How an answer becomes tampered or authentic. LITERAL: the original's, authentic if the text has "has not been tampered with". TOLERANT: by what the first
 * statement on the matter means. SCORE: score > 0.5. */
typedef enum fs_eval_reading { FS_READING_LITERAL = 0, FS_READING_TOLERANT = 1, FS_READING_SCORE = 2 } fs_eval_reading;
/* What is done about a picture whose score is NaN, or that has no answer at all: an error naming it, or left out and counted. */
typedef enum fs_eval_policy { FS_EVAL_ERROR = 0, FS_EVAL_EXCLUDE = 1 } fs_eval_policy;
/* MAPS: where a picture's own score comes from. */
typedef enum fs_eval_image_score { FS_IMAGE_SCORE_NONE = 0, FS_IMAGE_SCORE_MAX = 1, FS_IMAGE_SCORE_MEAN = 2 } fs_eval_image_score;

FS_API const char *fs_eval_source_name(fs_eval_source s);         /* "model", "results", "upstream", "maps" */
FS_API bool fs_eval_source_from_name(const char *name, fs_eval_source *out);
FS_API const char *fs_eval_protocol_name(fs_eval_protocol p);     /* "fixed", "pooled", "upstream", "best-set", "best-image", "permuted", "permuted-best" */
FS_API bool fs_eval_protocol_from_name(const char *name, fs_eval_protocol *out);
FS_API const char *fs_eval_reading_name(fs_eval_reading r);       /* "literal", "tolerant", "score" */
FS_API bool fs_eval_reading_from_name(const char *name, fs_eval_reading *out);
FS_API const char *fs_eval_policy_name(fs_eval_policy p);         /* "error", "exclude" */
FS_API bool fs_eval_policy_from_name(const char *name, fs_eval_policy *out);
FS_API const char *fs_eval_image_score_name(fs_eval_image_score s); /* "none", "max", "mean" */
FS_API bool fs_eval_image_score_from_name(const char *name, fs_eval_image_score *out);

typedef struct fs_eval_options {
    const char *data;          /* root, type or set of upstream's tree: <type>/<set>/{image,mask}; sets without mask/ are authentic */
    const char *sets;          /* "ps|CASIA1_Tp,CASIA1_Au;aigc|X", or NULL = all there are */
    const char *join;          /* "CASIA1+=CASIA1_Tp,CASIA1_Au;...": sets that are one in the tables. NULL: NAME_Tp and NAME_Au become NAME */
    const char *out;           /* folder for images.jsonl, images.csv, summary.json, report.html; made if need be */
    const char *name;          /* of the run, in tables; NULL = "this run" */
    fs_eval_source source;
    const char *model_dir;     /* MODEL */
    fs_options detector;       /* MODEL: as fs_detector_create's */
    bool resume;               /* MODEL: keep what an earlier run into `out` has finished */
    const char *text;          /* MODEL: stage 2 alone, told this about every picture in place of stage 1's answer; no detection figures. NULL = both */
    const char *results;       /* RESULTS: folder or JSON Lines; UPSTREAM: JSON Lines */
    const char *masks;         /* RESULTS: NULL = beside the results; UPSTREAM, MAPS: folder; MAPS: or one file, the answer for every picture, brought to its size */
    const char *scores;        /* MAPS: "name,score" lines, a score per picture; or NULL */
    fs_eval_image_score image_score; /* MAPS without scores; default NONE: no detection figures */
    bool logits;               /* MAPS: .npy holds logits */
    bool resize_mask;          /* a map of another size than the mask is resized to it; default: an error with both sizes */
    bool invert_truth;         /* black is tampered in the data's masks (DSO-1 as published) */
    fs_eval_policy nan, missing; /* both default ERROR */
    const char *references;    /* texts to compare explanations with: JSON Lines {"image", "outputs"}; NULL = those of the data's tree, if any */
    const char *encoder;       /* folder of a sentence encoder of the BERT kind, for CSS; or NULL */
    const char *embeddings, *reference_embeddings; /* .npy [pictures][width], in the order of images.csv, or JSON Lines {"image", "embedding"}; or NULL */
    int encoder_tokens;        /* 0 = what the encoder's folder says (sentence_bert_config.json), else its positions */
    int resamples;             /* for confidence intervals; default 1000, 0 = none */
    double level;              /* default 0.95 */
    bool stratified;           /* tampered and authentic pictures are drawn apart; default true */
    uint64_t seed;             /* default 0 */
    const char *sweep;         /* MODEL: "jpeg=90,70,50 resize=0.5 blur=1 noise=5", or NULL */
    int shard, shards;         /* this machine's part, 1..shards; default 1 of 1. Joined by fs_eval_merge */
    bool html;                 /* default true */
    int gallery;               /* best and worst cases in the report, each; default 6 */
    int sheet;                 /* so many pictures, at even distances, side by side with truth and answer in sheet.png; default 0, none; at most 100 */
    fs_callbacks callbacks;
} fs_eval_options;
FS_API fs_eval_options fs_eval_options_defaults(void);

/* Evaluates and writes the files into options.out. *text (may be NULL): the tables for a terminal; the caller's. */
FS_API fs_status fs_eval_run(const fs_eval_options *options, char **text, fs_error *err);
/* Joins the output folders of all shards of a run: the files are those that one run over everything writes. Of the options out, name, resamples, level,
 * stratified, seed, html, gallery, sheet and callbacks are used. n 1: makes the tables of a run anew. */
FS_API fs_status fs_eval_merge(const char *const *dirs, size_t n, const fs_eval_options *options, char **text, fs_error *err);
/* Two runs over the same pictures: differences with paired tests. Of the options those of fs_eval_merge but sheet; out NULL: no files are written. */
FS_API fs_status fs_eval_compare(const char *dir_a, const char *dir_b, const fs_eval_options *options, char **text, fs_error *err);

/* Fits a calibration of scores to an evaluation of validation data (eval_dir: what fs_eval_run wrote of this very bundle) and writes the bundle anew
 * with it, into another folder. Both classes weigh the same, however many pictures each has. band: half the width of the band around 0.5 in which
 * verdicts are left undetermined, 0..0.5. *text (may be NULL): what came out, for a terminal; the caller's. */
FS_API fs_status fs_calibrate(const char *bundle_dir, const char *eval_dir, const char *out_dir, double band, const fs_options *options, char **text, fs_error *err);

/* ---- training (docs/training.md) ---------------------------------------------------------------------------------- */

/* One self-contained HTML page of curves, figures and settings from the folder that a training run writes to (log.csv, settings.json), also while it
 * runs; of several (at most 8) to compare. */
FS_API fs_status fs_train_report(const char *const *run_dirs, size_t n, const char *html_path, fs_error *err);

#ifdef __cplusplus
}
#endif
#endif
