/* Weights by formula, the twin of tools/reference/weightgen.py (which explains it).
 *
 * Element i of tensor `name`:  z = mix(fnv1a64(name) + (i + 1) * golden),  u = (z >> 40) / 2^23 - 1,
 * value = (float)(offset + scale * u). The product of two float32 values is exact in double, so neither
 * fused multiply-add nor its absence changes a bit. */
#include "weightgen.h"

#include <math.h>
#include <string.h>

static uint64_t fnv1a64(const char *text)
{
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (; *text != '\0'; text++)
        h = (h ^ (uint64_t)(unsigned char)*text) * UINT64_C(0x100000001B3);
    return h;
}

static int starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static int ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static int is_embedding(const char *name)
{
    static const char *const suffixes[] = {"embed_tokens.weight",       "class_embedding",
                                           "position_embedding.weight", "pos_embed",
                                           "_token.weight",             "_tokens.weight",
                                           "_embed.weight"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++)
        if (ends_with(name, suffixes[i]))
            return 1;
    return strstr(name, "point_embeddings.") != NULL;
}

/* The first line that fits decides; keep in step with rule() in weightgen.py. */
static void rule(const char *name, size_t ndim, const int64_t *shape, float *offset, float *scale)
{
    double o = 0.0, s;
    if (starts_with(name, "input"))
        s = sqrt(3.0);
    else if (ends_with(name, "running_var"))
        o = 1.0, s = 0.3;
    else if (ends_with(name, "running_mean"))
        s = 0.1;
    else if (ends_with(name, "bias"))
        s = 0.05;
    else if (ends_with(name, "gaussian_matrix"))
        s = sqrt(3.0);
    else if (strstr(name, "rel_pos") != NULL)
        s = 0.1;
    else if (is_embedding(name))
        s = 0.5;
    else if (ndim <= 1)
        o = 1.0, s = 0.1;
    else if (strstr(name, "output_upscaling") != NULL && ndim == 4)
        s = sqrt(3.0 / (double)shape[0]);
    else {
        double fan_in = 1.0;
        for (size_t d = 1; d < ndim; d++)
            fan_in *= (double)shape[d];
        s = sqrt(3.0 / fan_in);
    }
    *offset = (float)o;
    *scale = (float)s;
}

void fs_test_weight(const char *name, size_t ndim, const int64_t *shape, float *out)
{
    float offset, scale;
    rule(name, ndim, shape, &offset, &scale);
    size_t count = 1;
    for (size_t d = 0; d < ndim; d++)
        count *= (size_t)shape[d];
    const uint64_t h = fnv1a64(name);
#pragma omp parallel for schedule(static) if (count > 65536)
    for (size_t i = 0; i < count; i++) {
        uint64_t z = h + ((uint64_t)i + 1) * UINT64_C(0x9E3779B97F4A7C15);
        z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
        z ^= z >> 31;
        double u = (double)(z >> 40) * 0x1p-23 - 1.0;
        out[i] = (float)((double)offset + (double)scale * u);
    }
}
