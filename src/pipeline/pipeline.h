/* The two stages over the networks: what is shared between them. Private to this room. */
#ifndef FS_PIPELINE_H
#define FS_PIPELINE_H

#include "format/archive.h"
#include "image/image.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "text/text.h"

/* ---- configs, read from config.json and generation_config.json (spec 2.2) ------------------------------------------ */

typedef struct fs_overlay fs_overlay; /* below */

typedef struct fs_lm_config {
    fs_llama_config llama;
    int64_t mm_hidden;         /* width of the vision features */
    int select_layer;          /* mm_vision_select_layer */
    bool im_start_end;         /* mm_use_im_start_end */
    bool pad_image;            /* image_aspect_ratio == "pad" */
    int64_t max_length;        /* tokenizer_model_max_length, 0 = none */
    char *vision_tower;        /* name or path as written, owned; NULL if absent */
    fs_dtype stored;           /* torch_dtype: what the original computes in */
    float generation_top_p;    /* generation_config.json; 1 if absent */
    int generation_top_k;      /* likewise; 50, transformers' default, if absent */
} fs_lm_config;
/* dir: DTE-FDM or MFLM, or a bundle's language model file. */
fs_status fs_lm_config_read(const char *dir, fs_lm_config *out, fs_error *err);
void fs_lm_config_free(fs_lm_config *c);
/* The bytes of its config.json, from the folder or the bundle's file; nothing is added where there is none (a language model of llama.cpp's). */
fs_status fs_lm_config_text(const char *dir, fs_buffer *out, fs_error *err);
fs_status fs_clip_config_read(const char *dir, fs_clip_config *out, fs_error *err);
/* The same from the files' bytes (a bundle holds them); `where` is for error lines. generation_json.data NULL: there is none. */
fs_status fs_lm_config_parse(const char *where, fs_bytes config_json, fs_bytes generation_json, fs_lm_config *out, fs_error *err);
fs_status fs_clip_config_parse(const char *where, fs_bytes json, fs_clip_config *out, fs_error *err);

/* ---- where the parts of a checkpoint are --------------------------------------------------------------------------- */

typedef struct fs_layout {
    char *root, *dte_fdm, *mflm, *dtg; /* paths; NULL = not there */
    char *clip;                        /* directory, NULL = none found (then embedded tensors, if any) */
    char *sam;                         /* sam_vit_h_4b8939.pth, NULL = none found */
    bool bundle;                       /* root is a bundle: dte_fdm and mflm are GGUF files, and vision is the third */
    char *vision;
    bool pair;                         /* dte_fdm is a language model and vision an mmproj file of llama.cpp's world; there is no stage 2 */
} fs_layout;
/* Looks for the parts; a missing one is no error yet. Options override. tower: the name config.json gives, or NULL. */
fs_status fs_layout_find(const char *root, const fs_options *opt, fs_layout *out, fs_error *err);
fs_status fs_layout_find_clip(fs_layout *l, const char *explicit_dir, const char *tower, fs_error *err);
void fs_layout_free(fs_layout *l);

/* ---- a bundle (docs/bundle.md): one language model with what belongs to it in the vision file --------------------- */

typedef struct fs_bundle fs_bundle;
/* part: "dte" or "mflm". Block types are packed for the kernels as they are asked for. */
fs_status fs_bundle_open(const char *lm_path, const char *vision_path, const char *part, int threads, fs_bundle **out, fs_error *err);
/* The same of the two files of a LLaVA (llava_gguf.h), which have no domain tag generator. */
fs_status fs_bundle_open_pair(const char *lm_path, const char *mmproj_path, int threads, fs_bundle **out, fs_error *err);
void fs_bundle_lock(fs_bundle *b); /* keep what is used in memory, as far as the system allows; before anything is bound */
void fs_bundle_close(fs_bundle *b);
const fs_tensor_source *fs_bundle_tensors(const fs_bundle *b); /* under upstream's names, the vision parts of this model included */
fs_tensor_source fs_bundle_dtg(fs_bundle *b);
fs_status fs_bundle_read_config(const char *lm_path, fs_lm_config *out, fs_error *err); /* without opening the rest */
fs_status fs_bundle_config_text(const char *lm_path, fs_buffer *out, fs_error *err); /* config.json as it was */
fs_status fs_bundle_lm_config(const fs_bundle *b, fs_lm_config *out, fs_error *err);
fs_status fs_bundle_read_calibration(const fs_bundle *b, fs_calibration *out, fs_error *err);
fs_status fs_bundle_tokenizer(const fs_bundle *b, fs_tokenizer_rules rules, fs_tokenizer **out, fs_error *err);
/* *out: are these random weights that synth made? False for a checkpoint. */
fs_status fs_bundle_is_synthetic(const fs_layout *l, bool *out, fs_error *err);
fs_status fs_bundle_clip(const fs_bundle *b, const fs_overlay *overlay, fs_clip *clip, fs_error *err); /* binds it */

/* ---- what is put over a checkpoint's tensors: an adapter, or what training changes --------------------------------------- */

typedef enum fs_overlay_part { FS_OVERLAY_LM = 0, FS_OVERLAY_CLIP = 1 } fs_overlay_part; /* LM: the whole stage but CLIP and DTG */
struct fs_overlay {
    void *user;
    /* *source: a part's tensors by upstream's names; may be replaced by another source that stands in front of it. *alpha, if set above 0 for
     * LM: the source holds low-rank adapters by peft's names, with this lora_alpha. Both sources live as long as the stage. */
    fs_status (*wrap)(void *user, fs_overlay_part part, const fs_lm_config *config, fs_tensor_source *source, double *alpha, fs_error *err);
};
/* The LLaMA of a stage through an overlay (NULL: none): `source` is replaced, m bound with its adapters. */
fs_status fs_overlay_llama(const fs_overlay *o, const fs_lm_config *config, fs_tensor_source *source, fs_llama *m, fs_error *err);

/* ---- a vision tower with its weights ------------------------------------------------------------------------------- */

typedef struct fs_tower {
    fs_archive *archive;        /* NULL if the tensors came embedded in the language model's archive */
    fs_clip clip;
} fs_tower;
/* embedded: the archive that may hold "model.vision_tower.vision_tower.vision_model.*". */
fs_status fs_tower_open(fs_tower *t, const char *clip_dir, fs_archive *embedded, const char *wanted, const fs_overlay *overlay, fs_error *err);
void fs_tower_close(fs_tower *t);

/* ---- generation ---------------------------------------------------------------------------------------------------- */

/* Embeddings of a prompt: token rows, with `image` [patches, hidden] in place of FS_IMAGE_TOKEN and, for every bbox_id, the next row of
 * `regions` (NULL without boxes). -> [n + patches - 1, hidden] */
fs_tensor *fs_prompt_embed(fs_exec *c, const fs_llama *m, const int32_t *ids, size_t n, const fs_tensor *image, int32_t bbox_id,
                           const fs_tensor *regions);

/* What a generation step hands out: the new id and the final state that predicted it [hidden]. Return an error to stop. */
typedef fs_status (*fs_token_fn)(void *user, int32_t id, const float *state, fs_error *err);
typedef struct fs_generation {
    int max_new_tokens;
    int32_t eos;
    fs_sampling sampling;
    const char *step;          /* for the progress callback; NULL: none */
    fs_token_fn on_token;      /* may be NULL */
    void *user;
    /* Text in which to look for guesses of what comes next: usually the prompt and whatever answers are known to look like. NULL: no guessing.
     * The outcome is the same, token for token; it only comes sooner. */
    const int32_t *context;
    size_t n_context;
    int64_t *accepted;         /* if not NULL: guesses that came true are added to it */
    /* For measuring: the first n_script ids are these, whatever the model finds likeliest; all the work of finding it is done. NULL: none. */
    const int32_t *script;
    size_t n_script;
} fs_generation;
/* Continues from `last` [hidden], the state of the newest position in `state`. Appends the new ids (EOS included when reached) to *out.
 * The arena is released to where it stood after every step. */
fs_status fs_generate(fs_exec *c, const fs_llama *m, fs_llama_state *state, const float *last, const fs_generation *g, fs_ids *out,
                      fs_error *err);
/* The same step by step, for several answers at a time that share each pass over the weights. An answer comes out the same, token for token,
 * with and without others beside it. */
enum { FS_MAX_GUESSES = 3, FS_MAX_WRITERS = FS_FEW_ROWS };
typedef struct fs_writer {
    fs_generation g;
    fs_llama_state *state;
    fs_ids *out;
    fs_rng rng;
    int32_t batch[1 + FS_MAX_GUESSES]; /* the newest token and guesses for what follows it */
    size_t guesses;
    int written;
    bool done;
    fs_status status;                  /* why this one ended early; the others go on */
    fs_error error;
} fs_writer;
/* state, out and what g points to stay the caller's, and must live until done. An error returned is one of the context, fatal for all. */
fs_status fs_writer_begin(fs_exec *c, const fs_llama *m, const fs_generation *g, fs_llama_state *state, const float *last, fs_ids *out,
                          fs_writer *w, fs_error *err);
/* One pass for those of n <= FS_MAX_WRITERS that are not done. */
fs_status fs_writers_step(fs_exec *c, const fs_llama *m, fs_writer *const *writers, size_t n, fs_error *err);
/* What the key/value cache is kept in: fs_options.kv_cache. */
fs_dtype fs_kv_type(const fs_exec *c, const fs_llama *m, const fs_options *opt);
/* log p(ids[i] | everything before) for i = 0..n-1, where `last` predicts ids[0]; the state is left as it was. out: [n]. */
fs_status fs_log_likelihood(fs_exec *c, const fs_llama *m, fs_llama_state *state, const float *last, const int32_t *ids, size_t n,
                            double *out, fs_error *err);

/* ---- results ------------------------------------------------------------------------------------------------------- */

/* For measuring, and never set otherwise: what a run writes whatever its models say, so that random weights do the work of a real answer. */
typedef struct fs_force {
    const char *explanation, *segmentation; /* what stage 1 writes behind its prompt, and stage 2, which then stops */
    int tokens;                             /* of stage 1: exactly so many; past the explanation the model chooses, and EOS does not end it */
} fs_force;

typedef struct fs_times { double decode, domain, vision, prefill, score, generate, sam; } fs_times; /* seconds */
enum { FS_MAX_REGIONS = 256 };

struct fs_result {
    char *image, sha256[65], format[16];
    int64_t width, height;       /* orientation applied */
    int orientation;
    bool explained, has_score;
    fs_domain domain;
    float domain_probability[3];
    fs_verdict verdict;
    double score;
    fs_calibration calibration;  /* what score was made with; on false: none */
    double raw_score;            /* before it */
    char *text;                  /* stage 1's answer, trimmed by option */
    bool truncated;              /* stage 1 ran into max_new_tokens */
    fs_answer answer;            /* area and basis of text */
    fs_mask_status mask_status;
    int64_t mask_width, mask_height;
    uint8_t *mask;
    float *logits;
    double mask_area;
    fs_region *regions;
    size_t n_regions, n_regions_total;
    char *segmentation_text;     /* stage 2's answer */
    char **warnings;
    size_t n_warnings;
    fs_times times1, times2;
    /* settings, so that a result says how it was made */
    char *model;                 /* base name of the checkpoint directory */
    char fingerprint[65];        /* of the checkpoint: see fs_fingerprint */
    char *adapters[2];           /* base names of their folders, per stage; NULL = none. They are part of the fingerprint */
    char *question;              /* where it is not the original's; else NULL */
    int threads;
    fs_precision precision;
    fs_sampling sampling;
    int max_new_tokens;
    fs_prompt_style prompt_style;
    fs_kv_cache_type kv_cache;
    int question_index;
    bool exif_both, verdict_only;
    int64_t prompt_tokens, new_tokens, guessed_tokens; /* guessed: of the new ones, those that came by guessing ahead */
    const fs_force *force;       /* not owned; NULL outside of measuring */
};
fs_result *fs_result_create(const char *image); /* NULL when out of memory */
/* SHA-256 over name, size and first 64 KiB of every file of DTE-FDM, MFLM and DTG (or of the bundle): tells checkpoints apart without
 * reading 45 GB. A domain tag that was given counts as part of it. */
fs_status fs_fingerprint(const fs_layout *l, const fs_options *opt, char out[65], fs_error *err);
void fs_result_warn(fs_result *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- the stages ---------------------------------------------------------------------------------------------------- */

typedef struct fs_dte_fdm fs_dte_fdm; /* stage 1: DTG + CLIP + LLaMA 13B */
fs_status fs_dte_fdm_open(fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_dte_fdm **out, fs_error *err);
void fs_dte_fdm_close(fs_dte_fdm *s);
/* Fills domain, score, text, verdict of r. pil: the picture as stage 1 sees it. question: NULL = the original's. */
fs_status fs_dte_fdm_run(fs_dte_fdm *s, const fs_image *pil, const char *question, const fs_options *opt, fs_result *r, fs_error *err);

/* Bytes of the key/value cache for one token of one picture. */
int64_t fs_dte_fdm_token_bytes(const fs_dte_fdm *s, const fs_options *opt);
/* The same step by step, to have several answers written in the same passes. begin: everything up to the answer's first token; r, opt and their
 * strings must live until the end. silent: neither text nor progress callbacks while writing. end: reads the answer into r, and frees it. */
typedef struct fs_dte_answer fs_dte_answer;
fs_status fs_dte_fdm_begin(fs_dte_fdm *s, const fs_image *pil, const char *question, const fs_options *opt, bool silent, fs_result *r,
                           fs_dte_answer **out, fs_error *err);
fs_status fs_dte_fdm_step(fs_dte_fdm *s, fs_dte_answer *const *answers, size_t n, fs_error *err); /* n <= FS_MAX_WRITERS */
bool fs_dte_answer_done(const fs_dte_answer *a);
fs_status fs_dte_fdm_end(fs_dte_answer *a, fs_error *err);
void fs_dte_answer_free(fs_dte_answer *a);

typedef struct fs_mflm fs_mflm; /* stage 2: CLIP + LLaMA 7B + SAM */
fs_status fs_mflm_open(fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_mflm **out, fs_error *err);
void fs_mflm_close(fs_mflm *s);
/* Fills the mask of r from `text`. boxes: [n_boxes][4] in pixels of `im`, or NULL. */
fs_status fs_mflm_run(fs_mflm *s, const fs_image *im, const char *text, const float *boxes, size_t n_boxes, const fs_options *opt,
                      fs_result *r, fs_error *err);

/* What an open stage is made of, to time it part by part; NULL where a stage has no such part. Valid until the stage is closed. */
typedef struct fs_stage_parts {
    fs_exec *vision, *exec; /* of the vision parts, of the language model; one and the same in stage 2 */
    const fs_lm_config *config;
    const fs_resnet *dtg;
    const fs_clip *clip;
    const fs_projector *projector;
    const fs_llama *llama;
    const fs_tokenizer *tokenizer;
    const fs_seg_head *seg_head;
    const fs_sam_encoder *sam;
    const fs_sam_prompt *sam_prompt;
    const fs_sam_decoder *sam_decoder;
} fs_stage_parts;
fs_stage_parts fs_dte_fdm_parts(fs_dte_fdm *s);
fs_stage_parts fs_mflm_parts(fs_mflm *s);
/* From now on results of `d` are forced; NULL ends it. `force` must live as long. */
void fs_detector_force(fs_detector *d, const fs_force *force);

/* The tensors of `a` that no model asked for and that `known` (a NULL-terminated list of substrings) does not explain: one line through
 * the log, and into *first if not NULL. Returns how many. */
size_t fs_report_extra(const fs_archive *a, const char *const *known, const fs_callbacks *cb, const char **first);

#endif
