/* Pictures for robustness sweeps. A step depends on the picture's pixels, its amount, and for noise on seed and file name: never on the
 * machine, the order of pictures or the number of threads. */
#include "eval/sweep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

static const char *const kinds[] = {"none", "jpeg", "resize", "blur", "noise"};
static const double low[] = {0, 1, 0.05, 0.1, 0.1}, high[] = {0, 100, 4, 20, 100};
enum { KINDS = sizeof kinds / sizeof *kinds, MAX_STEPS = 64 };

const char *fs_sweep_kind_name(fs_sweep_kind k) {
    return (int)k >= 0 && (int)k < KINDS ? kinds[k] : "unknown";
}

bool fs_sweep_kind_from_name(const char *name, fs_sweep_kind *out) {
    for (int k = 0; k < KINDS; k++)
        if (strcmp(kinds[k], name) == 0) return *out = (fs_sweep_kind)k, true;
    return false;
}

static fs_status bad(const char *text, fs_error *err) {
    return fs_fail(
        err, FS_E_USAGE,
        "sweep \"%s\": expected e.g. \"jpeg=90,70,50 resize=0.5 blur=1 noise=5\": jpeg 1 to 100 (whole), resize 0.05 to 4, blur 0.1 to 20, "
        "noise 0.1 to 100",
        text);
}

fs_status fs_sweep_parse(const char *text, fs_sweep *out, fs_error *err) {
    *out = (fs_sweep){.steps = fs_alloc_zero(MAX_STEPS, sizeof *out->steps), .count = 1};
    if (!out->steps) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_status status = FS_OK;
    for (const char *p = text ? text : ""; !status && *(p += strspn(p, " "));) {
        const size_t n = strcspn(p, "=");
        fs_sweep_kind kind = FS_SWEEP_NONE;
        for (int k = 1; k < KINDS; k++)
            if (strlen(kinds[k]) == n && strncmp(p, kinds[k], n) == 0) kind = (fs_sweep_kind)k;
        if (kind == FS_SWEEP_NONE || p[n] != '=') {
            status = bad(text, err);
            break;
        }
        p += n;
        do {
            char *end;
            p++;
            const double v = strtod(p, &end);
            if (end == p || !(v >= low[kind] && v <= high[kind]) || (kind == FS_SWEEP_JPEG && v != floor(v)) || !strchr(", ", *end) ||
                out->count == MAX_STEPS) {
                status = bad(text, err);
                break;
            }
            fs_sweep_step *s = &out->steps[out->count++];
            *s = (fs_sweep_step){.kind = kind, .amount = v};
            snprintf(s->name, sizeof s->name, "%s=%g", kinds[kind], v);
            p = end;
        } while (*p == ',');
    }
    if (status) fs_sweep_free(out);
    return status;
}

void fs_sweep_free(fs_sweep *s) {
    free(s->steps);
    *s = (fs_sweep){0};
}

const char *fs_sweep_extension(const fs_sweep_step *step) {
    return step->kind == FS_SWEEP_JPEG ? ".jpg" : ".png";
}

/* ---- the steps ---- */

static uint8_t level(double v) {
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : floor(v + 0.5));
}

/* Along one axis: pixels `stride` bytes apart, n of them, edges repeated. */
static void blur_line(const uint8_t *in, uint8_t *out, int64_t n, int64_t stride, const double *kernel, int64_t reach) {
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t k = -reach; k <= reach; k++) {
            const int64_t at = i + k < 0 ? 0 : i + k >= n ? n - 1 : i + k;
            sum += kernel[k + reach] * in[at * stride];
        }
        out[i * stride] = level(sum);
    }
}

static fs_status blur(fs_image *im, double sigma, fs_error *err) {
    enum { MOST = 60 }; /* three of the largest deviations */
    const int64_t reach = fs_min_i64(MOST, fs_max_i64(1, (int64_t)ceil(3 * sigma))), w = im->width, h = im->height;
    double kernel[2 * MOST + 1] = {0}, sum = 0;
    for (int64_t k = -reach; k <= reach; k++) sum += kernel[k + reach] = exp(-(double)(k * k) / (2 * sigma * sigma));
    for (int64_t k = 0; k <= 2 * reach; k++) kernel[k] /= sum;
    uint8_t *rows = fs_alloc((size_t)(w * h), 3);
    if (!rows) return fs_fail(err, FS_E_NO_MEMORY, "no memory to blur %lld x %lld pixels", (long long)w, (long long)h);
    for (int64_t y = 0; y < h; y++)
        for (int64_t c = 0; c < 3; c++) blur_line(im->data + y * w * 3 + c, rows + y * w * 3 + c, w, 3, kernel, reach);
    for (int64_t x = 0; x < 3 * w; x++) blur_line(rows + x, im->data + x, h, 3 * w, kernel, reach);
    free(rows);
    return FS_OK;
}

/* Box and Muller's pair of normal numbers. */
static void add_noise(fs_image *im, double sigma, const char *name, uint64_t seed) {
    char hex[65];
    fs_sha256_hex(name, strlen(name), hex);
    hex[16] = 0;
    fs_rng rng = fs_rng_seed(seed ^ strtoull(hex, NULL, 16));
    const int64_t n = im->width * im->height * 3;
    for (int64_t i = 0; i < n; i += 2) {
        const double radius = sigma * sqrt(-2 * log(1 - fs_rng_uniform(&rng))), angle = 2 * 3.14159265358979323846 * fs_rng_uniform(&rng);
        im->data[i] = level(im->data[i] + radius * cos(angle));
        if (i + 1 < n) im->data[i + 1] = level(im->data[i + 1] + radius * sin(angle));
    }
}

static fs_status resize(fs_image **im, double factor, fs_error *err) {
    fs_image *small = NULL;
    const int64_t w = fs_max_i64(1, (int64_t)floor((double)(*im)->width * factor + 0.5)),
                  h = fs_max_i64(1, (int64_t)floor((double)(*im)->height * factor + 0.5));
    fs_status status = fs_image_resize(*im, w, h, FS_FILTER_BICUBIC, &small, err);
    if (status) return status;
    fs_image_free(*im);
    *im = small;
    return FS_OK;
}

fs_status fs_sweep_write(const fs_sweep_step *step, const char *image, const char *name, uint64_t seed, const char *path, fs_error *err) {
    const fs_decode_options how = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_image *im = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    fs_status status = fs_image_load(image, &how, &im, NULL, err);
    if (status) return status;
    switch (step->kind) {
    case FS_SWEEP_RESIZE:
        status = resize(&im, step->amount, err);
        break;
    case FS_SWEEP_BLUR:
        status = blur(im, step->amount, err);
        break;
    case FS_SWEEP_NOISE:
        add_noise(im, step->amount, name, seed);
        break;
    case FS_SWEEP_JPEG:
    case FS_SWEEP_NONE:
        break;
    }
    if (!status && step->kind == FS_SWEEP_JPEG)
        status = fs_jpeg_encode_quality(im->data, im->width, im->height, 3, (int)step->amount, false, &bytes, &size, err);
    else if (!status)
        status = fs_png_encode(im->data, im->width, im->height, 3, &bytes, &size, err);
    if (!status) status = fs_write_file(path, bytes, size, err);
    free(bytes);
    fs_image_free(im);
    return status;
}
