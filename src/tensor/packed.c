/* Packing: rows of blocks into tiles of 16 interleaved rows, and back by single rows. The nibbles of ggml's 4-bit blocks already pair the
 * values that a packed word pairs, so packing moves whole 32-bit words and never touches a nibble; only Q4_K's 6-bit scales are taken
 * apart. */
#include "tensor/packed.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tensor/block.h"
#include "tensor/block_layout.h"

enum { ROWS = FS_PACKED_ROWS, Q8_BYTES = 34, Q4_BYTES = 18, Q4K_BYTES = 144, HUGE_PAGE = 2 << 20 };

bool fs_dtype_is_block(fs_dtype t) {
    size_t bytes;
    return fs_dtype_block(t) > 1 && fs_dtype_row_bytes(t, fs_dtype_block(t), &bytes);
}

bool fs_packed_type(fs_dtype block_type, fs_dtype *packed) {
    switch (block_type) {
    case FS_DTYPE_Q8_0: *packed = FS_DTYPE_Q8_0X16; return true;
    case FS_DTYPE_Q4_0: *packed = FS_DTYPE_Q4_0X16; return true;
    case FS_DTYPE_Q4_K: *packed = FS_DTYPE_Q4_KX16; return true;
    default: return false;
    }
}

/* ---- packing one tile: `from` are the blocks of 16 rows, NULL for rows behind the matrix; out starts as zeros ---- */

static void copy_half(uint8_t *out, const uint8_t *block) { memcpy(out, block, 2); } /* f16, little-endian in both */

static void pack_q8(const uint8_t *const from[ROWS], int64_t cols, uint8_t *out) {
    for (int64_t g = 0; g < cols / FS_PACKED_GROUP; g++) {
        uint8_t *chunk = out + (size_t)(g / 2) * FS_Q8_CHUNK, *d = chunk + 32 * (g % 2), *q = chunk + 64 + 512 * (g % 2);
        for (int r = 0; r < ROWS; r++) {
            if (!from[r]) continue;
            const uint8_t *block = from[r] + (size_t)g * Q8_BYTES;
            copy_half(d + 2 * r, block);
            for (int z = 0; z < 8; z++) {
                uint32_t word;
                memcpy(&word, block + 2 + 4 * z, 4);
                word ^= 0x80808080u; /* + 128 */
                memcpy(q + 64 * z + 4 * r, &word, 4);
            }
        }
    }
}

static void pack_q4(const uint8_t *const from[ROWS], int64_t cols, uint8_t *out) {
    for (int64_t g = 0; g < cols / FS_PACKED_GROUP; g++) {
        uint8_t *chunk = out + (size_t)(g / 2) * FS_Q4_CHUNK, *d = chunk + 32 * (g % 2), *q = chunk + 64 + 256 * (g % 2);
        for (int r = 0; r < ROWS; r++) {
            if (!from[r]) continue;
            const uint8_t *block = from[r] + (size_t)g * Q4_BYTES;
            copy_half(d + 2 * r, block);
            for (int v = 0; v < 4; v++) memcpy(q + 64 * v + 4 * r, block + 2 + 4 * v, 4);
        }
    }
}

static void pack_q4k(const uint8_t *const from[ROWS], int64_t cols, uint8_t *out) {
    for (int64_t b = 0; b < cols / 256; b++) {
        uint8_t *chunk = out + (size_t)b * FS_Q4K_CHUNK, *scales = chunk + 64, *q = chunk + 256;
        for (int r = 0; r < ROWS; r++) {
            if (!from[r]) continue;
            const uint8_t *block = from[r] + (size_t)b * Q4K_BYTES;
            uint8_t sc[8], mn[8];
            fs_k_scales_unpack(block + 4, sc, mn);
            copy_half(chunk + 2 * r, block);
            copy_half(chunk + 32 + 2 * r, block + 2);
            for (int p = 0; p < 4; p++) {
                const int e = 2 * p, o = 2 * p + 1;
                scales[48 * p + r] = (uint8_t)((sc[e] & 15) | (mn[e] & 15) << 4);
                scales[48 * p + 16 + r] = (uint8_t)((sc[o] & 15) | (mn[o] & 15) << 4);
                scales[48 * p + 32 + r] = (uint8_t)(sc[e] >> 4 | mn[e] >> 4 << 2 | sc[o] >> 4 << 4 | mn[o] >> 4 << 6);
                for (int z = 0; z < 8; z++) memcpy(q + 512 * p + 64 * z + 4 * r, block + 16 + 32 * p + 4 * z, 4);
            }
        }
    }
}

static void pack_tile(const fs_tensor *w, size_t row_bytes, int64_t tile, uint8_t *out) {
    const uint8_t *from[ROWS];
    for (int r = 0; r < ROWS; r++) {
        const int64_t row = tile * ROWS + r;
        from[r] = row < w->shape[0] ? (const uint8_t *)w->data + (size_t)row * row_bytes : NULL;
    }
    if (w->dtype == FS_DTYPE_Q8_0)
        pack_q8(from, w->shape[1], out);
    else if (w->dtype == FS_DTYPE_Q4_0)
        pack_q4(from, w->shape[1], out);
    else
        pack_q4k(from, w->shape[1], out);
}

fs_status fs_pack_weight(const fs_tensor *w, int threads, fs_packed **out, fs_error *err) {
    fs_dtype packed;
    size_t tile_bytes, bytes, row_bytes;
    *out = NULL;
    const char *name = w->name ? w->name : "a weight";
    if (w->ndim != 2 || !fs_packed_type(w->dtype, &packed))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: expected a matrix of type Q8_0, Q4_0 or Q4_K to pack, found %s of %d dimensions", name,
                       fs_dtype_name(w->dtype), w->ndim);
    if (!fs_packed_bytes(packed, w->shape[0], w->shape[1], &tile_bytes, &bytes) || !fs_dtype_row_bytes(w->dtype, w->shape[1], &row_bytes))
        return fs_fail(err, FS_E_LIMIT, "%s: its rows are no whole number of blocks of %s, or it is too large", name,
                       fs_dtype_name(w->dtype));

    fs_packed *p = fs_alloc_zero(1, sizeof *p);
    /* Whole huge pages where it is large: a stream of gigabytes through 4 KiB pages spends time looking them up. */
    void *data = NULL;
    if (p && posix_memalign(&data, bytes >= HUGE_PAGE ? (size_t)HUGE_PAGE : 64, bytes ? bytes : 1) != 0) data = NULL;
    if (!p || !data) {
        free(p);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for %zu bytes of packed weights", name, bytes);
    }
    if (bytes >= HUGE_PAGE) madvise(data, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* advice; refusing it is no error */
    *p = (fs_packed){.tensor = *w, .bytes = bytes};
    p->tensor.dtype = packed;
    p->tensor.data = data;
    const int64_t tiles = tile_bytes ? (int64_t)(bytes / tile_bytes) : 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (bytes >= HUGE_PAGE)
    for (int64_t t = 0; t < tiles; t++) {
        uint8_t *to = (uint8_t *)data + (size_t)t * tile_bytes;
        memset(to, 0, tile_bytes);
        pack_tile(w, row_bytes, t, to);
    }
    *out = p;
    return FS_OK;
}

void fs_packed_free(fs_packed *p) {
    if (!p) return;
    free(p->tensor.data);
    free(p);
}

/* ---- one row back ---- */

static float half_at(const uint8_t *p) { return fs_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

void fs_packed_row(const fs_tensor *w, int64_t row, float *out) {
    size_t tile_bytes, bytes;
    if (!fs_packed_bytes(w->dtype, w->shape[0], w->shape[1], &tile_bytes, &bytes)) return;
    const uint8_t *tile = (const uint8_t *)w->data + (size_t)(row / ROWS) * tile_bytes;
    const int r = (int)(row % ROWS);
    for (int64_t g = 0; g < w->shape[1] / FS_PACKED_GROUP; g++, out += FS_PACKED_GROUP) {
        if (w->dtype == FS_DTYPE_Q8_0X16) {
            const uint8_t *chunk = tile + (size_t)(g / 2) * FS_Q8_CHUNK, *q = chunk + 64 + 512 * (g % 2) + 4 * r;
            const float d = half_at(chunk + 32 * (g % 2) + 2 * r);
            for (int i = 0; i < 32; i++) out[i] = (float)(q[64 * (i / 4) + i % 4] - 128) * d;
        } else if (w->dtype == FS_DTYPE_Q4_0X16) {
            const uint8_t *chunk = tile + (size_t)(g / 2) * FS_Q4_CHUNK, *q = chunk + 64 + 256 * (g % 2) + 4 * r;
            const float d = half_at(chunk + 32 * (g % 2) + 2 * r);
            for (int i = 0; i < 32; i++) out[i] = d * (float)((q[64 * (i % 16 / 4) + i % 4] >> (i / 16 * 4) & 15) - 8);
        } else {
            const int pair = (int)(g % 8 / 2), odd = (int)(g % 2);
            const uint8_t *chunk = tile + (size_t)(g / 8) * FS_Q4K_CHUNK, *q = chunk + 256 + 512 * pair + 4 * r;
            const uint8_t *scales = chunk + 64 + 48 * pair + r;
            const int low = scales[16 * odd], high = scales[32] >> (4 * odd);
            const float s = half_at(chunk + 2 * r) * (float)((low & 15) | (high & 3) << 4);
            const float m = half_at(chunk + 32 + 2 * r) * (float)(low >> 4 | (high >> 2 & 3) << 4);
            for (int i = 0; i < 32; i++) out[i] = s * (float)(q[64 * (i / 4) + i % 4] >> (4 * odd) & 15) - m;
        }
    }
}
