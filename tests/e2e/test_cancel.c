/* Stopping: the cancel callback says stop at its k-th call, for k spread over a whole run. Every call must then end with FS_E_CANCELLED, leave
 * nothing behind (the sanitizers look), and the same detector must afterwards give the same result as if nothing had happened. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "image/image.h"

typedef struct stop_at {
    int64_t calls, limit; /* limit < 0: never */
} stop_at;

static bool cancel(void *user) {
    stop_at *s = user;
    return s->calls++ >= s->limit && s->limit >= 0;
}

static fs_detector *open_detector(stop_at *stop) {
    fs_options o = fs_options_defaults();
    fs_error err = {0};
    fs_detector *d = NULL;
    o.callbacks = (fs_callbacks){.user_data = stop, .cancel = cancel};
    o.threads = 1;
    o.keep_stages = true; /* loading again and again is not what is tested */
    if (fs_detector_create(FS_TINY_DIR, &o, &d, &err)) fail_msg("%s", err.message);
    return d;
}

/* A dark picture: the tiny checkpoint answers that it was tampered with, so both stages run. */
static void write_picture(char path[32]) {
    enum { W = 40, H = 30 };
    static uint8_t pixels[W * H * 3];
    fs_error err = {0};
    memset(pixels, 20, sizeof pixels / 2);
    memset(pixels + sizeof pixels / 2, 60, sizeof pixels / 2);
    strcpy(path, "/tmp/fs-cancel-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    if (fs_png_write(path, pixels, W, H, 3, &err)) fail_msg("%s", err.message);
}

static char *detect(fs_detector *d, const char *path, fs_status *status) {
    fs_result *r = NULL;
    fs_error err = {0};
    char *json = NULL;
    *status = fs_detect(d, path, &r, &err);
    if (*status) {
        assert_null(r);
        assert_int_equal(err.status, *status);
        assert_true(err.message[0] != 0);
        return NULL;
    }
    assert_int_equal(fs_result_mask_status(r), FS_MASK_PRESENT);
    assert_int_equal(fs_result_to_json(r, NULL, NULL, false, false, &json, &err), FS_OK);
    fs_result_free(r);
    return json;
}

static void test_stop_anywhere(void **state) {
    (void)state;
    enum { STOPS = 60 };
    char path[32];
    stop_at stop = {.limit = -1};
    fs_status status;
    write_picture(path);
    fs_detector *d = open_detector(&stop);
    char *whole = detect(d, path, &status);
    assert_int_equal(status, FS_OK);
    const int64_t calls = stop.calls;
    assert_true(calls >= STOPS); /* or nobody asks often enough */
    for (int64_t k = 0; k < STOPS; k++) {
        /* close together at first, where the parts follow each other quickly, then spread; an odd stride meets every place of a layer */
        const int64_t limit = k < STOPS / 3 ? k : k * calls / STOPS;
        stop = (stop_at){.limit = limit};
        detect(d, path, &status);
        if (status != FS_E_CANCELLED) fail_msg("stopped at call %d of %d: status %s", (int)limit, (int)calls, fs_status_name(status));
    }
    stop = (stop_at){.limit = -1};
    char *again = detect(d, path, &status);
    assert_int_equal(status, FS_OK);
    assert_string_equal(again, whole);
    fs_string_free(again);
    fs_string_free(whole);
    fs_detector_free(d);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stop_anywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
