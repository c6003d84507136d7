/* Runs a fuzz harness over every file of the directories given: the regression corpus in the normal suite, without libFuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return perror(path), 1;
    uint8_t *data = NULL;
    size_t size = 0, room = 0;
    for (;;) {
        if (size == room) {
            room = room ? 2 * room : 65536;
            data = realloc(data, room);
            if (!data) return fclose(f), 1;
        }
        size_t n = fread(data + size, 1, room - size, f);
        if (n == 0) break;
        size += n;
    }
    fclose(f);
    /* an exact-size copy, so that a sanitizer sees the first byte read too far */
    uint8_t *exact = malloc(size ? size : 1);
    if (exact && size) memcpy(exact, data, size);
    free(data);
    if (!exact) return 1;
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 0;
}

int main(int argc, char **argv) {
    size_t ran = 0;
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        if (!d) {
            perror(argv[i]);
            return 1;
        }
        for (struct dirent *e; (e = readdir(d));) {
            if (e->d_name[0] == '.') continue;
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            failed |= run_file(path);
            ran++;
        }
        closedir(d);
    }
    printf("%zu inputs replayed\n", ran);
    return failed || ran == 0;
}
