/* What tells two pictures to be the same: the file's bytes, the decoded pixels, and how it looks. */
#ifndef FS_DATA_FINGERPRINT_H
#define FS_DATA_FINGERPRINT_H

#include "base/base.h"
#include "image/image.h"

typedef struct fs_fingerprint {
    char file[65], pixels[65]; /* SHA-256; of the pixels with width and height in front */
    uint64_t look;             /* difference hash, fs_dhash */
    bool flat;                 /* too little structure for `look` to mean anything */
} fs_fingerprint;

/* Difference hash of 64 bits (dHash): the picture's grey is averaged to 9 x 8 cells, and each bit says whether a cell is brighter than its
 * left neighbour. It hardly changes with size, compression and small edits. *flat: the cells differ by less than two grey levels in most
 * places, as in a sky, and unrelated pictures may then have the same hash. */
uint64_t fs_dhash(const fs_image *im, bool *flat);
void fs_pixels_sha256(const fs_image *im, char out[65]);
static inline int fs_hamming(uint64_t a, uint64_t b) {
    return __builtin_popcountll(a ^ b);
}

#endif
