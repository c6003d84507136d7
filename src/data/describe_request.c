/* dataset describe: a question made of picture, mask and instructions, in the form of OpenAI's chat completions with pictures as data:
 * addresses; and what asking will cost. */
#include "data/describe.h"
#include "data/mask.h"
#include "image/image.h"
#include "text/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SENT = 4 << 20, MEASURED = 10000 };

/* ---- pictures ------------------------------------------------------------------------------------------------------ */

static void add_base64(fs_buffer *b, const uint8_t *p, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        const uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0u);
        const char four[4] = {digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=',
                              i + 2 < n ? digits[v & 63] : '='};
        fs_buffer_add(b, four, 4);
    }
}

/* {"type": "image_url", "image_url": {"url": "data:..."}}; NULL when out of memory. */
static json_t *picture_part(const char *kind, const uint8_t *data, size_t size, bool hide) {
    fs_buffer b = {0};
    fs_buffer_printf(&b, "data:image/%s;base64,", kind);
    if (hide)
        fs_buffer_printf(&b, "... (%zu bytes)", size);
    else
        add_base64(&b, data, size);
    json_t *part = b.failed ? NULL : json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", b.data);
    fs_buffer_free(&b);
    return part;
}

static json_t *encoded_part(const fs_image *im, bool hide, fs_error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    const char *kind = "png";
    fs_status status = fs_png_encode(im->data, im->width, im->height, 3, &bytes, &size, err);
    if (!status && size > MAX_SENT) {
        free(bytes);
        kind = "jpeg";
        status = fs_jpeg_encode(im->data, im->width, im->height, 3, &bytes, &size, err);
    }
    json_t *part = status ? NULL : picture_part(kind, bytes, size, hide);
    free(bytes);
    return part;
}

typedef struct view { /* a picture as it is sent, and its mask */
    fs_image *im;
    uint8_t *mask; /* [height][width] 0 or 255; NULL without */
    json_t *picture, *second;
    double share, left, right, top, bottom; /* percent */
} view;

static void clear_view(view *v) {
    fs_image_free(v->im);
    free(v->mask);
    json_decref(v->picture), json_decref(v->second);
}

static void fit(int64_t *w, int64_t *h, int max_side) {
    const int64_t longer = fs_max_i64(*w, *h);
    if (longer <= max_side) return;
    *w = fs_max_i64(1, (*w * max_side + longer / 2) / longer);
    *h = fs_max_i64(1, (*h * max_side + longer / 2) / longer);
}

/* The file itself where a service reads it as it is: no loss that would look like a trace of editing. */
static fs_status load_picture(const describe_question *q, int max_side, bool hide, view *v, fs_error *err) {
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_image_info info;
    uint8_t *data = NULL;
    size_t size = 0;
    fs_image *smaller = NULL;
    const char *path = q->record->image;
    fs_status status = fs_read_file(path, opt.max_file_bytes, &data, &size, err);
    if (!status) status = fs_image_decode(path, data, size, &opt, &v->im, &info, err);
    if (status) goto done;
    if (!v->im) { /* never, with FS_OK */
        status = FS_E_INTERNAL;
        goto done;
    }
    int64_t w = v->im->width, h = v->im->height;
    fit(&w, &h, max_side);
    const bool known = strcmp(info.format, "JPEG") == 0 || strcmp(info.format, "PNG") == 0 || strcmp(info.format, "WebP") == 0;
    if (w == v->im->width && h == v->im->height && known && info.orientation <= 1 && size <= MAX_SENT) {
        v->picture = picture_part(info.format[0] == 'J' ? "jpeg" : info.format[0] == 'P' ? "png" : "webp", data, size, hide);
        goto done;
    }
    status = fs_image_resize(v->im, w, h, FS_FILTER_BICUBIC, &smaller, err);
    if (status) goto done;
    fs_image_free(v->im);
    v->im = smaller;
    v->picture = encoded_part(v->im, hide, err);
done:
    if (!status && !v->picture) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for a request", path);
    free(data);
    return status;
}

/* The mask brought to the size of the picture that is sent, and where it lies. */
static fs_status load_mask(const describe_question *q, view *v, fs_error *err) {
    fs_mask m;
    if (!v->im) return FS_E_INTERNAL; /* load_picture goes first */
    fs_status status = fs_mask_load(q->record->mask, &m, err);
    if (status) return status;
    const int64_t w = v->im->width, h = v->im->height;
    int64_t n = 0, x0 = w, x1 = -1, y0 = h, y1 = -1;
    v->mask = fs_alloc((size_t)w * (size_t)h, 1);
    for (int64_t y = 0; v->mask && y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            const bool on = m.data[(2 * y + 1) * m.height / (2 * h) * m.width + (2 * x + 1) * m.width / (2 * w)] > 127;
            v->mask[y * w + x] = on ? 255 : 0;
            if (!on) continue;
            n++;
            x0 = fs_min_i64(x0, x), x1 = fs_max_i64(x1, x), y0 = fs_min_i64(y0, y), y1 = fs_max_i64(y1, y);
        }
    fs_mask_clear(&m);
    if (!v->mask) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", q->record->mask);
    if (!n)
        return fs_fail(err, FS_E_FORMAT, "%s: this mask marks nothing (no pixel above 127); there is nothing to describe", q->record->mask);
    v->share = 100.0 * (double)n / (double)(w * h);
    v->left = 100.0 * (double)x0 / (double)w, v->right = 100.0 * (double)(x1 + 1) / (double)w;
    v->top = 100.0 * (double)y0 / (double)h, v->bottom = 100.0 * (double)(y1 + 1) / (double)h;
    return FS_OK;
}

static fs_status add_second(const describe_question *q, fs_describe_view how, bool hide, view *v, fs_error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    fs_image *drawn = NULL;
    fs_status status = load_mask(q, v, err);
    if (!status && how == FS_VIEW_MASK) {
        status = fs_png_encode(v->mask, v->im->width, v->im->height, 1, &bytes, &size, err);
        if (!status && !(v->second = picture_part("png", bytes, size, hide)))
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", q->record->mask);
    } else if (!status) {
        status = fs_draw_overlay(v->im, v->mask, &drawn, err);
        if (!status && !(v->second = encoded_part(drawn, hide, err)))
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", q->record->mask);
    }
    fs_image_free(drawn);
    free(bytes);
    return status;
}

/* ---- words --------------------------------------------------------------------------------------------------------- */

typedef struct filling {
    const char *name, *value;
} filling;

/* The text with every {name} replaced; other braces stay. malloc'ed. */
static char *fill(const char *text, const filling *f, size_t n) {
    fs_buffer b = {0};
    fs_buffer_puts(&b, "");
    for (const char *p = text; *p;) {
        size_t i = 0, size = 0;
        for (; *p == '{' && i < n; i++) {
            size = strlen(f[i].name);
            if (strncmp(p + 1, f[i].name, size) == 0 && p[size + 1] == '}') break;
        }
        if (*p == '{' && i < n)
            fs_buffer_puts(&b, f[i].value), p += size + 2;
        else
            fs_buffer_add(&b, p++, 1);
    }
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}

static char *percent(double x, char room[32]) {
    snprintf(room, 32, x < 1 && x > 0 ? "%.1f %%" : "%.0f %%", x);
    return room;
}

static char *question_words(const fs_dataset_describe_options *opt, const describe_instructions *d, const describe_question *q,
                            const view *v) {
    char share[32], left[32], right[32], top[32], bottom[32];
    const filling f[] = {{"domain", d->domains[q->record->domain]}, {"view", d->views[opt->view]},
                         {"share", percent(v->share, share)},       {"left", percent(v->left, left)},
                         {"right", percent(v->right, right)},       {"top", percent(v->top, top)},
                         {"bottom", percent(v->bottom, bottom)}};
    return fill(v->mask ? d->tampered : d->authentic, f, sizeof f / sizeof *f);
}

/* ---- the request --------------------------------------------------------------------------------------------------- */

static bool push(json_t *list, json_t *value) {
    return value && json_array_append_new(list, value) == 0;
}

fs_status describe_request(const fs_dataset_describe_options *opt, const describe_instructions *d, const describe_question *q,
                           const char *previous, const char *problem, bool hide, char **out, fs_error *err) {
    view v = {0};
    char *words = NULL, *again = NULL;
    json_t *parts = json_array(), *messages = json_array(), *root = NULL;
    *out = NULL;
    fs_status status =
        parts && messages ? load_picture(q, opt->max_side, hide, &v, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory for a request");
    if (!status && q->record->label == FS_VERDICT_TAMPERED) status = add_second(q, opt->view, hide, &v, err);
    if (status) goto done;
    words = question_words(opt, d, q, &v);
    bool made = words && push(parts, json_pack("{s:s, s:s}", "type", "text", "text", words)) && push(parts, json_incref(v.picture));
    if (v.second) made = made && push(parts, json_incref(v.second));
    made = made && push(messages, json_pack("{s:s, s:s}", "role", "system", "content", d->system)) &&
           push(messages, json_pack("{s:s, s:O}", "role", "user", "content", parts));
    if (previous) {
        const filling f = {"problem", problem};
        again = fill(d->again, &f, 1);
        made = made && again && push(messages, json_pack("{s:s, s:s}", "role", "assistant", "content", previous)) &&
               push(messages, json_pack("{s:s, s:s}", "role", "user", "content", again));
    }
    if (made)
        root = json_pack("{s:s, s:f, s:i, s:O}", "model", opt->model, "temperature", opt->temperature, "max_tokens", opt->max_tokens,
                         "messages", messages);
    if (root) *out = json_dumps(root, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6) | (hide ? JSON_INDENT(2) : JSON_COMPACT));
    if (!*out) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for a request", q->record->image);
done:
    clear_view(&v);
    json_decref(parts), json_decref(messages), json_decref(root);
    free(words), free(again);
    return status;
}

/* ---- cost ---------------------------------------------------------------------------------------------------------- */

int64_t describe_picture_tokens(int64_t width, int64_t height, int max_side) {
    fit(&width, &height, max_side);
    double w = (double)width, h = (double)height;
    const double longer = w > h ? w : h;
    if (longer > 2048) w *= 2048 / longer, h *= 2048 / longer;
    const double shorter = w < h ? w : h;
    if (shorter > 768) w *= 768 / shorter, h *= 768 / shorter;
    return 85 + 170 * (int64_t)(ceil(w / 512 - 1e-9) * ceil(h / 512 - 1e-9));
}

/* A token is about four letters of English. */
static double word_tokens(const describe_instructions *d, bool tampered) {
    return (double)(strlen(d->system) + strlen(tampered ? d->tampered : d->authentic)) / 4;
}

fs_status describe_estimate_cost(const fs_dataset_describe_options *opt, const describe_instructions *d, const describe_question *q,
                                 size_t n, size_t to_ask, describe_estimate *out, fs_error *err) {
    const fs_decode_options decode = fs_decode_options_defaults(FS_DECODE_CV2);
    double tokens = 0;
    *out = (describe_estimate){.questions = to_ask};
    for (size_t i = 0; i < n && out->measured < MEASURED && out->measured < to_ask; i++) {
        fs_image_info info;
        fs_error ignored = {0};
        if (q[i].text) continue;
        if (fs_cancelled(&opt->callbacks)) return fs_fail(err, FS_E_CANCELLED, "stopped");
        const bool tampered = q[i].record->label == FS_VERDICT_TAMPERED;
        int64_t w = opt->max_side, h = opt->max_side;
        if (fs_image_probe(q[i].record->image, &decode, &info, &ignored) == FS_OK) w = info.width, h = info.height;
        tokens += (double)describe_picture_tokens(w, h, opt->max_side) * (tampered ? 2 : 1) + word_tokens(d, tampered);
        out->measured++;
        fs_progress(&opt->callbacks, "estimating the cost", (int64_t)out->measured, (int64_t)(to_ask < MEASURED ? to_ask : MEASURED));
    }
    out->tokens_in = out->measured ? tokens / (double)out->measured * (double)to_ask : 0;
    out->tokens_out = (double)opt->max_tokens * (double)to_ask;
    out->priced = opt->price_in >= 0 && opt->price_out >= 0;
    if (out->priced) out->price = (out->tokens_in * opt->price_in + out->tokens_out * opt->price_out) / 1e6;
    return FS_OK;
}

char *describe_estimate_text(const describe_estimate *e, size_t kept) {
    fs_buffer b = {0};
    fs_buffer_printf(&b, "%zu pictures to ask about, %zu answers there already; about %.0f tokens to send and at most %.0f to receive",
                     e->questions, kept, e->tokens_in, e->tokens_out);
    if (e->measured < e->questions) fs_buffer_printf(&b, " (from the sizes of the first %zu)", e->measured);
    if (e->priced) fs_buffer_printf(&b, "; at most about %.2f in the currency of the prices", e->price);
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}
