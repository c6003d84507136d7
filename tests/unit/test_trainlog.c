/* The log of a training run: checksums by their known answers, event files byte for byte as TensorBoard's own classes write them
 * (tools/reference/make_events_golden.py), the CSV's rows, and what stays of both when a run goes on after a stop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "train/trainlog.h"

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}
static int make_folder(void **state) {
    char *dir = strdup("/tmp/fs-trainlog-XXXXXX");
    *state = dir;
    return !dir || !mkdtemp(dir);
}
static int remove_folder(void **state) {
    nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

static char *slurp(const char *dir, const char *name) {
    char path[300];
    uint8_t *data;
    size_t size;
    fs_error err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (fs_read_file(path, 1 << 20, &data, &size, &err)) fail_msg("%s", err.message);
    return (char *)data;
}

static void csv_is(const char *dir, const char *text) {
    char *got = slurp(dir, "log.csv");
    assert_string_equal(got, text);
    free(got);
}

static void spoil(const char *dir, const char *text) {
    char path[300];
    fs_error err = {0};
    snprintf(path, sizeof path, "%s/log.csv", dir);
    if (fs_write_file(path, text, strlen(text), &err)) fail_msg("%s", err.message);
}

static fs_trainlog *open_log(const char *dir, int64_t resumed_at) {
    static const char *const columns[] = {"loss", "loss/ce", "val/giou"};
    fs_trainlog *log;
    fs_error err = {0};
    if (fs_trainlog_open(dir, columns, 3, NULL, resumed_at, &log, &err)) fail_msg("%s", err.message);
    return log;
}

static void put(fs_trainlog *log, int64_t step, const char *name, double value) {
    fs_error err = {0};
    if (fs_trainlog_scalars(log, step, &name, &value, 1, &err)) fail_msg("%s", err.message);
}

static void checksums(void **state) {
    (void)state;
    uint8_t bytes[32];
    assert_true(fs_crc32c("", 0) == 0 && fs_crc32c("123456789", 9) == 0xE3069283u);
    memset(bytes, 0, 32); /* RFC 3720, B.4 */
    assert_true(fs_crc32c(bytes, 32) == 0x8A9136AAu);
    memset(bytes, 0xFF, 32);
    assert_true(fs_crc32c(bytes, 32) == 0x62A8AB43u);
    for (int i = 0; i < 32; i++) bytes[i] = (uint8_t)i;
    assert_true(fs_crc32c(bytes, 32) == 0x46DD794Eu);
    assert_true(fs_crc32c_masked("", 0) == 0xA282EAD8u);
}

static void events_are_tensorboards(void **state) {
    (void)state;
    fs_buffer b = {0};
    fs_mapping m;
    fs_error err = {0};
    char longer[201] = {0};
    memset(longer, 'x', 200);
    fs_event_add_version(&b, 1700000000.25);
    fs_event_add_restart(&b, 1700000000.5, 301);
    fs_event_add_scalars(&b, 1700000001.125, 0, (const char *[]){"val/giou"}, (double[]){0.5}, 1);
    fs_event_add_scalars(&b, 1700000002, 1, (const char *[]){"loss", "loss/ce", "rate"}, (double[]){0.75, 0, 3e-4}, 3);
    fs_event_add_scalars(&b, 1700000003, (int64_t)1 << 40, (const char *[]){"loss", longer}, (double[]){-(double)INFINITY, 1e-30}, 2);
    if (fs_map_file(FS_GOLDEN_DIR "/events.tfrecord", &m, &err)) fail_msg("%s", err.message);
    assert_false(b.failed);
    assert_int_equal(b.size, m.size);
    assert_memory_equal(b.data, m.data, m.size);
    fs_unmap(&m);
    fs_buffer_free(&b);
}

static void one_row_a_step(void **state) {
    fs_error err = {0};
    const char *loss = "loss";
    const double one = 1;
    fs_trainlog *log = open_log(*state, -1);
    csv_is(*state, "step,loss,loss/ce,val/giou\n");
    put(log, 0, "val/giou", 0.25); /* before the first step */
    if (fs_trainlog_scalars(log, 1, (const char *[]){"loss", "loss/ce"}, (double[]){0.1 + 0.2, 1e-20}, 2, &err))
        fail_msg("%s", err.message);
    csv_is(*state, "step,loss,loss/ce,val/giou\n0,,,0.25\n1,0.3,1e-20,\n"); /* at once, not when the file is closed */
    put(log, 1, "val/giou", 0.5);
    put(log, 1, "loss/ce", 2);
    put(log, 7, "loss", (double)NAN);
    csv_is(*state, "step,loss,loss/ce,val/giou\n0,,,0.25\n1,0.3,2,0.5\n7,nan,,\n");
    assert_int_equal(fs_trainlog_scalars(log, 6, &loss, &one, 1, &err), FS_E_INTERNAL);
    assert_int_equal(fs_trainlog_scalars(log, 8, (const char *[]){"loss/bce"}, &one, 1, &err), FS_E_INTERNAL);
    assert_non_null(strstr(err.message, "has no column loss/bce"));
    fs_trainlog_close(log);
}

static void going_on_drops_what_came_after(void **state) {
    fs_trainlog *log = open_log(*state, -1), *more;
    fs_error err = {0};
    for (int step = 1; step <= 5; step++) put(log, step, "loss", 1.0 / step);
    fs_trainlog_close(log);
    log = open_log(*state, 3);
    csv_is(*state, "step,loss,loss/ce,val/giou\n1,1,,\n2,0.5,,\n3,0.3333333333,,\n");
    put(log, 3, "val/giou", 0.75); /* a validation of the step before the stop joins its row */
    put(log, 4, "loss", 0.125);
    fs_trainlog_close(log);
    csv_is(*state, "step,loss,loss/ce,val/giou\n1,1,,\n2,0.5,,\n3,0.3333333333,,0.75\n4,0.125,,\n");

    /* other columns: the old ones stay, new ones are empty where they were not known */
    assert_int_equal(fs_trainlog_open(*state, (const char *[]){"rate", "loss"}, 2, "{\"a\": 1}", 3, &more, &err), FS_OK);
    put(more, 4, "rate", 2);
    fs_trainlog_close(more);
    csv_is(*state, "step,loss,loss/ce,val/giou,rate\n1,1,,,\n2,0.5,,,\n3,0.3333333333,,0.75,\n4,,,,2\n");
    char *settings = slurp(*state, "settings.json");
    assert_string_equal(settings, "{\"a\": 1}");
    free(settings);

    /* a line cut by a kill is no line */
    spoil(*state, "step,loss\n1,0.5\n2,0.2");
    fs_trainlog_close(open_log(*state, 9));
    csv_is(*state, "step,loss,loss/ce,val/giou\n1,0.5,,\n");
    /* a new run begins anew */
    fs_trainlog_close(open_log(*state, -1));
    csv_is(*state, "step,loss,loss/ce,val/giou\n");
}

static void bad_files_are_one_line(void **state) {
    static const struct {
        const char *text, *line;
    } bad[] = {
        {"time,loss\n", "line 1 does not begin with \"step\""},
        {"step,loss,loss\n", "line 1 is no header"},
        {"step,lo ss\n", "line 1 is no header"},
        {"step,loss\nx,1\n", "line 2 has no step"},
        {"step,loss\n2,1\n2,1\n", "line 3 has no step, or not a later"},
        {"step,loss\n1,1,2\n", "line 2 has more fields"},
        {"step,loss,rate\n1,1\n", "line 2 has fewer fields"},
        {"step,loss\n1,one\n", "line 2 holds something that is no number"},
    };
    fs_trainlog *log;
    fs_error err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        spoil(*state, bad[i].text);
        assert_int_equal(fs_trainlog_open(*state, (const char *[]){"loss"}, 1, NULL, 5, &log, &err), FS_E_FORMAT);
        if (!strstr(err.message, bad[i].line) || !strstr(err.message, "log.csv")) fail_msg("\"%s\" says: %s", bad[i].text, err.message);
        assert_null(log);
        csv_is(*state, bad[i].text); /* as it was */
    }
    assert_int_equal(fs_trainlog_open(*state, (const char *[]){"a,b"}, 1, NULL, -1, &log, &err), FS_E_INTERNAL);
}

/* The framing, with a reader of its own; resuming says so in the new file. */
static void event_files_are_framed(void **state) {
    fs_trainlog *log = open_log(*state, -1);
    size_t files = 0, records = 0, restarts = 0;
    for (int step = 1; step <= 3; step++) put(log, step, "loss", step);
    fs_trainlog_close(log);
    fs_trainlog_close(open_log(*state, 2));
    DIR *d = opendir(*state);
    for (struct dirent *e; (e = readdir(d));) {
        char path[600];
        fs_mapping m;
        fs_error err = {0};
        if (!strstr(e->d_name, "tfevents")) continue;
        files++;
        snprintf(path, sizeof path, "%s/%s", (char *)*state, e->d_name);
        assert_int_equal(fs_map_file(path, &m, &err), FS_OK);
        for (size_t at = 0; at < m.size; records++) {
            uint64_t length;
            uint32_t sum[2];
            assert_true(m.size - at >= 16);
            memcpy(&length, m.data + at, 8);
            memcpy(&sum[0], m.data + at + 8, 4);
            assert_true(length <= m.size - at - 16);
            memcpy(&sum[1], m.data + at + 12 + length, 4);
            assert_true(sum[0] == fs_crc32c_masked(m.data + at, 8) && sum[1] == fs_crc32c_masked(m.data + at + 12, length));
            restarts += length == 15 && memcmp(m.data + at + 12 + 9, "\x10\x03\x3A\x02\x08\x01", 6) == 0; /* step 3, session_log START */
            at += 16 + length;
        }
        fs_unmap(&m);
    }
    closedir(d);
    assert_true(files == 2 && records == 2 + 3 + 2 && restarts == 1);
}

/* A limit on the size of a file stands in for a full disk. */
static void a_full_disk_leaves_whole_rows(void **state) {
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit limit = {1000, 1000};
        const char *name = "loss";
        fs_error err = {0};
        fs_trainlog *log = open_log(*state, -1);
        fs_status status = FS_OK;
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        for (int64_t step = 1; step <= 1000 && !status; step++) {
            const double value = 1.0 / 3;
            status = fs_trainlog_scalars(log, step, &name, &value, 1, &err);
        }
        fs_trainlog_close(log);
        _exit(status == FS_E_IO ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    char *text = slurp(*state, "log.csv");
    assert_true(strlen(text) > 100 && text[strlen(text) - 1] == '\n');
    free(text);
    fs_trainlog_close(open_log(*state, 5));
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums),
        cmocka_unit_test(events_are_tensorboards),
        TEST(one_row_a_step),
        TEST(going_on_drops_what_came_after),
        TEST(bad_files_are_one_line),
        TEST(event_files_are_framed),
        TEST(a_full_disk_leaves_whole_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
