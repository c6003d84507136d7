/* Filters over whole pictures, in place. Private to src/data. */
#ifndef FS_DATA_FORGE_FILTER_H
#define FS_DATA_FORGE_FILTER_H

#include "data/forge_work.h"

fs_status fs_filter_gauss(fs_image *im, double sigma, fs_error *err);
/* Adds amount times what a Gaussian of `sigma` takes away. */
fs_status fs_filter_sharpen(fs_image *im, double amount, double sigma, fs_error *err);
void fs_filter_noise(fs_image *im, double deviation, bool grey, fs_rng *rng);
void fs_filter_tone(fs_image *im, double gamma, double contrast);
/* Hue (radians) and saturation (a factor) in one matrix: chroma (what is left when grey is taken away) is turned about the grey axis and stretched. */
void fs_tint_matrix(double hue, double saturation, double m[3][3]);
void fs_filter_tint(fs_image *im, double hue, double saturation);
/* Each channel's median in a window of (2 radius + 1)^2, where `where` ([height][width]) is not 0. */
fs_status fs_filter_median(fs_image *im, int radius, const uint8_t *where, fs_error *err);

#endif
