/* Quantization error, network by network, against the weights as they are (docs/bundle.md, "What the types cost"):
 *
 *     quant_error CHECKPOINT PICTURE...          a checkpoint as it is downloaded, on pictures
 *     quant_error --mid CHECKPOINT PICTURE...    the same with language models of a middle size made by formula, whose rows K-quants fit; all
 *                                                else is CHECKPOINT's (models/tiny)
 *     quant_error --full resnet|clip|projector|llama|sam|decoder|seg     one network at its released size, weights by formula
 *
 * Options: --types LIST (of f16,bf16,q8_0,q6_k,q4_k,q4_0,mixed), --roles (one kind of matrix at a time), --threads N, --tokens N (of an answer;
 * default 300), --text FILE (stage 1 reads its first N tokens in place of an answer of its own), --clip DIR, --sam FILE, --plain (uniform weights in --full and --mid instead of heavy tails). */
#include "quant_error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/midsize.h"

enum { MAX_TYPES = 16 };

static size_t split(char *list, const char *out[MAX_TYPES]) {
    size_t n = 0;
    for (char *p = strtok(list, ","); p && n < MAX_TYPES; p = strtok(NULL, ",")) out[n++] = p;
    return n;
}

static void measure_midsize(const char *from, const char *const *pictures, size_t n, const settings *s) {
    char dir[] = "/tmp/fs-quant-XXXXXX";
    fs_error err = {0};
    fs_midsize size = fs_midsize_defaults();
    size.tails = !s->plain;
    if (!mkdtemp(dir)) stop("cannot make a folder in /tmp");
    fs_status status = fs_midsize_write(from, dir, &size, &err);
    if (!status) measure_checkpoint(dir, pictures, n, s);
    fs_midsize_remove(dir);
    check(status, &err);
}

int main(int argc, char **argv) {
    static const char *const usual[] = {"f16", "bf16", "q8_0", "q6_k", "mixed", "q4_k", "q4_0"};
    const char *types[MAX_TYPES], *full = NULL, *checkpoint = NULL;
    bool mid = false;
    settings s = {.threads = 2, .tokens = 300, .types = usual, .n_types = sizeof usual / sizeof usual[0]};
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        const char *o = argv[i] + 2;
        if (strcmp(o, "roles") == 0) { s.roles = true; continue; }
        if (strcmp(o, "plain") == 0) { s.plain = true; continue; }
        if (strcmp(o, "mid") == 0) { mid = true; continue; }
        if (i + 1 >= argc) stop("--%s needs a value, or is no option; the head of bench/quant_error.c lists them", o);
        char *value = argv[++i];
        if (strcmp(o, "types") == 0) s.n_types = split(value, types), s.types = types;
        else if (strcmp(o, "threads") == 0) s.threads = atoi(value);
        else if (strcmp(o, "tokens") == 0) s.tokens = atoi(value);
        else if (strcmp(o, "clip") == 0) s.clip_dir = value;
        else if (strcmp(o, "sam") == 0) s.sam_file = value;
        else if (strcmp(o, "text") == 0) s.text = value;
        else if (strcmp(o, "full") == 0) full = value;
        else stop("no option --%s; the head of bench/quant_error.c lists them", o);
    }
    if (s.threads < 1 || s.tokens < 1) stop("--threads and --tokens are at least 1");
    if (full) {
        if (!measure_full(full, &s)) stop("no network \"%s\": resnet, clip, projector, llama, sam, decoder, seg", full);
        return 0;
    }
    if (i < argc) checkpoint = argv[i++];
    if (!checkpoint || i >= argc) stop("expected a checkpoint and pictures, or --full NETWORK");
    const char *const *pictures = (const char *const *)(argv + i);
    if (mid) measure_midsize(checkpoint, pictures, (size_t)(argc - i), &s);
    else measure_checkpoint(checkpoint, pictures, (size_t)(argc - i), &s);
    return 0;
}
