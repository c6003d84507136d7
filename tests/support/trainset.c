/* See trainset.h. */
#include "support/trainset.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"
#include "text/text.h"

enum { W = 144, H = 104 };

static const char *const texts[FS_TRAINSET_MAX] = {
    "The picture has been tampered with, and the tampered area is the upper left.",
    "The picture has been tampered with, and the tampered area is the left of the upper middle.",
    "The picture has been tampered with, and the tampered area is the right of the upper middle.",
    "The picture has been tampered with, and the tampered area is the upper right.",
    "The picture has been tampered with, and the tampered area is the lower left.",
    "The picture has been tampered with, and the tampered area is the left of the lower middle.",
    "The picture has been tampered with, and the tampered area is the right of the lower middle.",
    "The picture has been tampered with, and the tampered area is the lower right."};

const char *fs_trainset_text(int i) { return texts[i]; }

char *fs_trainset_image(const char *dir, int i) { return fs_format("%s/ps/A/image/p%d.png", dir, i); }
char *fs_trainset_mask(const char *dir, int i) { return fs_format("%s/ps/A/mask/p%d.png", dir, i); }

static void fill(uint8_t *im, int x0, int y0, int x1, int y1, const uint8_t color[3]) {
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) memcpy(im + 3 * (y * W + x), color, 3);
}

static bool write_pair(const char *dir, int i) {
    uint8_t image[3 * W * H], mask[W * H] = {0}, color[3];
    fs_rng rng = fs_rng_seed(100 + (uint64_t)i);
    fs_error err;
    for (int k = 0; k < 9; k++) {
        const int x = k ? (int)(fs_rng_next(&rng) % 110) : 0, y = k ? (int)(fs_rng_next(&rng) % 80) : 0;
        for (int c = 0; c < 3; c++) color[c] = (uint8_t)(40 + fs_rng_next(&rng) % 150);
        fill(image, x, y, k ? x + 30 : W, k ? y + 20 : H, color);
    }
    const int x = 8 + 32 * (i % 4), y = i < 4 ? 8 : 56;
    for (int c = 0; c < 3; c++) color[c] = (uint8_t)(fs_rng_next(&rng) % 2 ? 250 : 5);
    fill(image, x, y, x + 30, y + 38, color);
    for (int r = y; r < y + 38; r++) memset(mask + r * W + x, 255, 30);
    char *a = fs_trainset_image(dir, i), *b = fs_trainset_mask(dir, i);
    const bool ok = a && b && !fs_png_write(a, image, W, H, 3, &err) && !fs_png_write(b, mask, W, H, 1, &err);
    free(a);
    free(b);
    return ok;
}

static bool write_json(const char *dir, const char *name, json_t *list) {
    char *path = fs_path_join(dir, name);
    const bool ok = path && json_dump_file(list, path, JSON_INDENT(1)) == 0;
    free(path);
    return ok;
}

bool fs_trainset_write(const char *dir, int n, const fs_domain *domains) {
    fs_error err;
    json_t *conversations = json_array(), *outputs = json_array();
    bool ok = n <= FS_TRAINSET_MAX;
    char *images = fs_path_join(dir, "ps/A/image"), *masks = fs_path_join(dir, "ps/A/mask");
    ok = ok && images && masks && !fs_make_dirs(images, &err) && !fs_make_dirs(masks, &err);
    for (int i = 0; i < n && ok; i++) {
        char *path = fs_trainset_image(dir, i), *question;
        question = fs_format("<image>\n%s%s", fs_prompt_domain[domains ? domains[i] : FS_DOMAIN_PHOTOSHOP], fs_prompt_detection_question);
        ok = write_pair(dir, i) && path && question;
        if (ok) {
            json_array_append_new(conversations, json_pack("{s:i, s:s, s:[{s:s, s:s}, {s:s, s:s}]}", "id", i, "image", path, "conversations", "from", "human",
                                                           "value", question, "from", "gpt", "value", texts[i]));
            json_array_append_new(outputs, json_pack("{s:s, s:s, s:s}", "image", fs_path_base(path), "query", "", "outputs", texts[i]));
        }
        free(path);
        free(question);
    }
    ok = ok && write_json(dir, "conversations.json", conversations) && write_json(dir, "ps/A/lisa_train_output.json", outputs) &&
         write_json(dir, "ps/A/lisa_val_output.json", outputs);
    json_decref(conversations);
    json_decref(outputs);
    free(images);
    free(masks);
    return ok;
}
