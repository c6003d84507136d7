/* A guard in front of libheif: items of a HEIF file may be made from other items ("dimg": grids, overlays, copies) and have auxiliary ones
 * ("auxl": alpha), and libheif 1.15 follows such references by recursion without asking whether they end (found by fuzzing: a picture that is
 * made from itself). Here all references of the file are collected as libheif reads them (ISO/IEC 14496-12, 8.11.12) and refused if a chain
 * is longer than any honest file needs. */
#include "image/codec.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_EDGES = 65536, MAX_DEPTH = 8, ITEMS = 65536 };

typedef struct edge { uint32_t from, to; } edge;
typedef struct edges { edge *list; size_t count; } edges;

static uint32_t big_endian(const uint8_t *p, size_t n) {
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++) v = v << 8 | p[i];
    return v;
}

/* The references of one box whose contents begin at p. They stand one behind the other; each one's own size field is not asked, as in
 * libheif. Returns false when there are more than MAX_EDGES. */
static bool read_references(const uint8_t *p, const uint8_t *end, edges *out) {
    if (end - p < 4) return true;
    const size_t id = p[0] == 0 ? 2 : 4; /* version 0: 16-bit item ids */
    for (p += 4; (size_t)(end - p) >= 8 + id + 2;) {
        const bool made_of = memcmp(p + 4, "dimg", 4) == 0, auxiliary = memcmp(p + 4, "auxl", 4) == 0;
        const uint32_t from = big_endian(p + 8, id);
        size_t n = big_endian(p + 8 + id, 2);
        for (p += 8 + id + 2; n > 0 && (size_t)(end - p) >= id; n--, p += id) {
            if (!made_of && !auxiliary) continue;
            if (out->count == MAX_EDGES) return false;
            const uint32_t to = big_endian(p, id);
            /* the direction in which decoding goes: from a picture to its parts, and to what is auxiliary to it */
            out->list[out->count++] = made_of ? (edge){from, to} : (edge){to, from};
        }
    }
    return true;
}

/* Is there a chain of more than MAX_DEPTH edges? Items are told apart by their lower 16 bits, which can only find more. */
static bool too_deep(const edges *e, uint8_t *depth) {
    for (int round = 0; round <= MAX_DEPTH; round++) {
        bool grew = false;
        for (size_t i = 0; i < e->count; i++) {
            const uint8_t next = (uint8_t)(depth[e->list[i].from % ITEMS] + 1);
            uint8_t *to = &depth[e->list[i].to % ITEMS];
            if (next <= *to) continue;
            if (next > MAX_DEPTH) return true;
            *to = next;
            grew = true;
        }
        if (!grew) return false;
    }
    return true;
}

/* Every "iref" within one meta box, wherever libheif may find it. budget: bytes that may still be looked at, so that a box full of overlapping
 * ones costs no more than one. */
static bool read_meta(const uint8_t *p, const uint8_t *end, edges *out, size_t *budget) {
    while ((p = memmem(p, (size_t)(end - p), "iref", 4))) {
        p += 4;
        const size_t rest = (size_t)(end - p);
        if (2 * rest > *budget) return false;
        *budget -= 2 * rest;
        if (!read_references(p, end, out)) return false;
        if (rest >= 8 && big_endian(p - 8, 4) == 1 && !read_references(p + 8, end, out)) return false; /* a 64-bit size came first */
    }
    return true;
}

/* The outermost boxes, by their sizes as libheif walks them. */
static bool read_file(const uint8_t *p, const uint8_t *end, edges *out) {
    size_t budget = (size_t)64 << 20;
    while (end - p >= 8) {
        size_t size = big_endian(p, 4), header = 8;
        if (size == 1 && end - p >= 16) {
            size = (size_t)big_endian(p + 8, 4) << 32 | big_endian(p + 12, 4);
            header = 16;
        }
        if (size == 0 || size > (size_t)(end - p)) size = (size_t)(end - p); /* to the end of the file */
        if (size < header) return true;                                       /* libheif stops here too */
        if (memcmp(p + 4, "meta", 4) == 0 && !read_meta(p + header, p + size, out, &budget)) return false;
        p += size;
    }
    return true;
}

fs_status fs_heif_check_references(const fs_codec_job *job) {
    edges e = {.list = fs_alloc(MAX_EDGES, sizeof *e.list)};
    uint8_t *depth = fs_alloc_zero(ITEMS, 1);
    fs_status status = FS_OK;
    if (!e.list || !depth)
        status = fs_fail(job->err, FS_E_NO_MEMORY, "%s: out of memory", job->name);
    else if (!read_file(job->data, job->data + job->size, &e) || too_deep(&e, depth))
        status = fs_fail(job->err, FS_E_FORMAT, "%s: the HEIF picture's items refer to each other without end; get the file again", job->name);
    free(e.list);
    free(depth);
    return status;
}
