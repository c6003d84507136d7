/* Text in and out: the LLaMA tokenizer with the added-token behaviour of both transformers generations, the conversation template and
 * prompts of the two stages, and drawing the next token. */
#ifndef FS_TEXT_H
#define FS_TEXT_H

#include "base/base.h"

/* Which transformers generation's special-token rules to follow (spec 4.2): 4.28 for MFLM, 4.37 for DTE-FDM. */
typedef enum fs_tokenizer_rules { FS_RULES_437 = 0, FS_RULES_428 = 1 } fs_tokenizer_rules;

typedef struct fs_tokenizer fs_tokenizer;
/* dir holds tokenizer.model and, optionally, tokenizer_config.json, special_tokens_map.json, added_tokens.json. Read-only once open:
 * may be shared by threads. */
fs_status fs_tokenizer_open(const char *dir, fs_tokenizer_rules rules, fs_tokenizer **out, fs_error *err);
/* The same from those files' bytes; data NULL = not there. `where` (not NULL) names their place in messages. Nothing is kept. */
typedef struct fs_bytes { const void *data; size_t size; } fs_bytes;
typedef struct fs_tokenizer_files { const char *where; fs_bytes model, config, special_map, added; } fs_tokenizer_files;
fs_status fs_tokenizer_create(const fs_tokenizer_files *files, fs_tokenizer_rules rules, fs_tokenizer **out, fs_error *err);
void fs_tokenizer_free(fs_tokenizer *t);
int32_t fs_tokenizer_size(const fs_tokenizer *t);                    /* ids 0 .. size-1, added tokens included */
int32_t fs_tokenizer_id(const fs_tokenizer *t, const char *token);   /* piece or added token -> id, -1 if none */
int32_t fs_tokenizer_bos(const fs_tokenizer *t);                     /* -1 if none */
int32_t fs_tokenizer_eos(const fs_tokenizer *t);
bool fs_tokenizer_legacy(const fs_tokenizer *t); /* of 4.37's two modes; always true under 4.28 */

typedef struct fs_ids { int32_t *data; size_t count, capacity; } fs_ids; /* zero-initialise */
fs_status fs_ids_push(fs_ids *ids, int32_t id, fs_error *err);
void fs_ids_free(fs_ids *ids);

/* As tokenizer(text).input_ids: BOS in front if the config says so. Appends to *out. Broken UTF-8 is read as U+FFFD. */
fs_status fs_tokenizer_encode(const fs_tokenizer *t, const char *text, fs_ids *out, fs_error *err);
/* LLaVA's tokenizer_image_token: text cut at every "<image>", each chunk tokenized on its own, FS_IMAGE_TOKEN between. */
enum { FS_IMAGE_TOKEN = -200 };
fs_status fs_tokenizer_encode_image(const fs_tokenizer *t, const char *text, fs_ids *out, fs_error *err);
/* As tokenizer.decode(ids, skip_special_tokens); *text is malloc'ed, valid UTF-8. Ids the tokenizer does not have, negative ones among
 * them, are an error. U+0000 becomes U+FFFD. */
fs_status fs_tokenizer_decode(const fs_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, char **text, fs_error *err);

/* Streaming decode: the text that one more id adds, held back while a UTF-8 character is incomplete. All pieces together, the one that
 * FS_TEXT_STREAM_END gives included (what was held back; the stream can then start anew), are fs_tokenizer_decode's text without special
 * tokens (before clean_up_tokenization_spaces, if the config asks for that). */
enum { FS_TEXT_STREAM_END = -1 };
typedef struct fs_text_stream fs_text_stream;
fs_status fs_text_stream_create(const fs_tokenizer *t, fs_text_stream **out, fs_error *err);
void fs_text_stream_free(fs_text_stream *s);
fs_status fs_text_stream_push(fs_text_stream *s, int32_t id, const char **piece, fs_error *err); /* piece valid until the next push */

/* ---- prompts (verbatim data of spec 4.4, 4.5) ---------------------------------------------------------------------- */

extern const char fs_prompt_detection_question[];
extern const char *const fs_prompt_domain[3];
extern const char *const fs_prompt_localize_question[3];

/* "{system} USER: {message} ASSISTANT:" (llava_v1). malloc'ed. */
char *fs_prompt_render(const char *user_message);
/* Text that would be read as a token is defused: its brackets become round ones, so that "<image>" is "(image)", "[SEG]" is "(SEG)" and
 * "</p>" is "(/p)". These are <image> <im_start> <im_end> <bbox> <point> [SEG] <p> </p> <s> </s> <unk>; all other text stays as it is.
 * *count (may be NULL) is raised by the number of places; allow_bbox leaves <bbox> alone. malloc'ed. */
char *fs_prompt_defuse(const char *text, bool allow_bbox, int *count);
/* Stage 1: "<image>\n" + domain sentence + question (with <im_start>/<im_end> if im_start_end). The question is defused. malloc'ed
 * full prompt. */
char *fs_prompt_stage1(fs_domain domain, const char *question, bool im_start_end);
/* Stage 2 full prompt from stage 1's text, "&lt;" and "&gt;" in it read as brackets and the text then defused (spec section 10, row 36):
 * *defused (may be NULL) is the number of places. question_index: 0..2, used by FS_PROMPT_TEST. malloc'ed; NULL when out of memory or for
 * an index that is none. */
char *fs_prompt_stage2(const char *text, fs_prompt_style style, int question_index, bool allow_bbox, int *defused);

/* Who the system text says is asking: the models are asked as "human" (template llava_v1), and DTE-FDM was trained as "user" (v1, vicuna). */
typedef enum fs_prompt_system { FS_SYSTEM_HUMAN = 0, FS_SYSTEM_USER = 1 } fs_prompt_system;
const char *fs_prompt_system_name(fs_prompt_system s); /* "llava_v1", "v1" */
bool fs_prompt_system_from_name(const char *name, fs_prompt_system *out);
/* A conversation as it is trained on: turns alternate and begin with the user's; "{system} USER: {turn} ASSISTANT: {turn}</s>USER: ...". An empty
 * turn leaves only its role and a colon. malloc'ed. */
char *fs_prompt_conversation(fs_prompt_system system, const char *const *turns, size_t n);
/* Stage 2's question and answer as it is trained on. text: what stage 1 wrote (defused), or NULL: then one of two questions that do without.
 * answer: 0..4. malloc'ed; NULL when out of memory or for an index that is none. */
enum { FS_LOCALIZE_QUESTIONS = 3, FS_LOCALIZE_BARE_QUESTIONS = 2, FS_LOCALIZE_ANSWERS = 5 };
char *fs_prompt_stage2_training(const char *text, int question, int answer, int *defused);

/* ---- reading stage 1's answer (spec 4.6, 4.7) ---------------------------------------------------------------------- */

/* The original's rule: "has not been tampered with" anywhere, case-sensitive. */
bool fs_answer_says_authentic(const char *text);
/* A tolerant reading of the first item: what its first statement on the matter says, or FS_VERDICT_UNDETERMINED. */
fs_verdict fs_answer_verdict(const char *text);
typedef struct fs_answer { char *area; char **basis; size_t n_basis; } fs_answer; /* malloc'ed parts */
/* Splits "1. <heading>: <area> 2. Judgment basis: <basis>" into the area text and the basis's numbered or dashed points, or its sentences
 * if it has no such points. Never fails on odd text: without a second item all of it is the area. Broken UTF-8 becomes U+FFFD. */
fs_status fs_answer_parse(const char *text, fs_answer *out, fs_error *err);
void fs_answer_free(fs_answer *a);
/* Python json.dumps with default settings of {"image":..., "outputs":...}: one line, ASCII, broken UTF-8 as \ufffd. malloc'ed. */
char *fs_record_json(const char *image, const char *outputs);
/* The same of {"image":..., "text":...}: a line of the original's question file. */
char *fs_question_json(const char *image, const char *text);

/* ---- drawing a token (spec 5.6) ------------------------------------------------------------------------------------ */

/* logits: [n] f32, changed in place. temperature 0: the first largest. Else, in this order: temperature, top-k (keep all >= the k-th
 * largest), top-p (transformers' rule), softmax, one draw. NaN and +inf logits are an error; -inf means "never". */
fs_status fs_draw_token(float *logits, int32_t n, const fs_sampling *s, fs_rng *rng, int32_t *id, fs_error *err);

#endif
