/* The page about training runs: what it must hold for one run and for several, that it stands alone and no text gets out of its place, and
 * that a log that is none is one clear line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "train/chart.h"
#include "train/report.h"
#include "train/trainlog.h"

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}
static int make_folder(void **state) {
    char *dir = strdup("/tmp/fs-report-XXXXXX");
    *state = dir;
    return !dir || !mkdtemp(dir);
}
static int remove_folder(void **state) {
    nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

static void put_file(const char *dir, const char *name, const char *text) {
    char path[300];
    fs_error err = {0};
    assert_int_equal(fs_make_dirs(dir, &err), FS_OK);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (fs_write_file(path, text, strlen(text), &err)) fail_msg("%s", err.message);
}

/* A run of 300 steps as the log writes it. */
static void make_run(const char *dir, const char *settings, double tempo) {
    static const char *const columns[] = {"loss", "loss/ce", "loss/dice", "rate", "grad_norm", "val/giou", "extra", "empty"};
    fs_trainlog *log;
    fs_error err = {0};
    if (fs_trainlog_open(dir, columns, 8, settings, -1, &log, &err)) fail_msg("%s", err.message);
    for (int64_t step = 1; step <= 300; step++) {
        const double t = exp(-tempo * (double)step / 100), values[] = {2 * t, 1.5 * t, 0.5 * t, 3e-4 * t, 1 + t, 1 - t, -3};
        if (fs_trainlog_scalars(log, step, columns, values, step % 100 ? 5 : 7, &err)) fail_msg("%s", err.message);
    }
    fs_trainlog_close(log);
}

static char *page_of(const char *const *dirs, size_t n, const char *dir) {
    char path[300];
    uint8_t *text;
    size_t size;
    fs_error err = {0};
    snprintf(path, sizeof path, "%s/page.html", dir);
    if (fs_train_report(dirs, n, path, &err) || fs_read_file(path, 1 << 24, &text, &size, &err)) fail_msg("%s", err.message);
    return (char *)text;
}

static int occurrences(const char *text, const char *what) {
    int n = 0;
    for (; (text = strstr(text, what)); text++) n++;
    return n;
}

static void has(const char *page, const char *what) {
    if (!strstr(page, what)) fail_msg("the page does not hold %s", what);
}

static void one_run(void **state) {
    char dir[300];
    snprintf(dir, sizeof dir, "%s/my <run>/", (char *)*state);
    make_run(dir, "{\"rate\": 0.0003, \"lora\": {\"r\": 8}, \"data\": \"a<b & \\\"c\\\"\", \"resume\": true}", 1);
    char *page = page_of((const char *[]){dir}, 1, *state);
    has(page, "<h1>my &lt;run&gt;</h1>");
    static const char *const charts[] = {"Loss", "Parts of the loss", "Validation", "Learning rate", "Gradient norm", "extra"};
    for (size_t i = 0; i < 6; i++) {
        char caption[100];
        snprintf(caption, sizeof caption, "<figcaption>%s</figcaption>", charts[i]);
        has(page, caption);
    }
    assert_int_equal(occurrences(page, "<svg "), 6);         /* and none for the column without a number */
    assert_int_equal(occurrences(page, "class=\"raw c"), 4); /* loss, two parts, norm: smoothed; the rate is exact */
    has(page, "<span><i class=\"b0\"></i>Cross entropy</span><span><i class=\"b1\"></i>Mask: dice</span>");
    has(page, "&#215;10<tspan dy=\"-5\" class=\"small\">-4</tspan>"); /* the rate's axis */
    has(page, ">300</text>");
    /* the figures, from the same formula as the log */
    has(page, "<tr><th>Loss</th><td>0.09957</td>");
    has(page, "<td>0.09957 <small>step 300</small></td><td>1.98 <small>step 1</small></td>");
    has(page, "<tr><th>gIoU</th><td>0.9502</td><td></td>");
    /* settings, nested and escaped */
    has(page, "<tr><th>lora.r</th><td>8</td></tr>");
    has(page, "<tr><th>data</th><td>a&lt;b &amp; &quot;c&quot;</td></tr>");
    /* it stands alone: nothing is loaded from anywhere */
    assert_int_equal(occurrences(page, "http"), 0);
    assert_int_equal(occurrences(page, " src="), 0);
    assert_int_equal(occurrences(page, "@import"), 0);
    assert_int_equal(occurrences(page, "nan") + occurrences(page, "inf,"), 0);
    free(page);
}

static void several_runs(void **state) {
    char a[300], b[300], c[300];
    snprintf(a, sizeof a, "%s/first", (char *)*state);
    snprintf(b, sizeof b, "%s/second</script>", (char *)*state); /* folders within folders; their name is "script>" */
    snprintf(c, sizeof c, "%s/other/first", (char *)*state);
    make_run(a, "{\"rate\": 1, \"batch\": 6}", 1);
    make_run(b, "{\"rate\": 2, \"batch\": 6}", 2);
    make_run(c, NULL, 3);
    char *page = page_of((const char *[]){a, b, c}, 3, *state);
    assert_int_equal(occurrences(page, "<svg "), 7); /* a chart a column */
    has(page, "<tr class=\"differs\"><th>rate</th><td>1</td><td>2</td><td></td></tr>");
    assert_int_equal(occurrences(page, "class=\"line c2\""), 7);
    assert_int_equal(occurrences(page, "<caption>"), 4);
    has(page, "other/first <small>"); /* two of one name are told apart by their paths */
    has(page, "script&gt;</span>");
    has(page, "\"label\":\"script\\u003e\"");
    assert_int_equal(occurrences(page, "<script"), 7 + 1);
    assert_int_equal(occurrences(page, "</script"), 7 + 1);
    free(page);
}

/* Little, odd and extreme numbers: every chart still has finite places. */
static void odd_numbers(void **state) {
    char dir[300];
    snprintf(dir, sizeof dir, "%s/run", (char *)*state);
    put_file(dir, "log.csv", "step,loss,a,b,c\n0,0,1e308,-5,\n7,0,-1e308,nan,inf\n8,0,,-5,1e-300\n9,torn");
    char *page = page_of((const char *[]){dir}, 1, *state);
    assert_int_equal(occurrences(page, "<svg "), 4);
    for (const char *p = page; (p = strstr(p, " d=\"")); p++) {
        const size_t n = strcspn(p + 4, "\"");
        if (strcspn(p + 4, "ni") < n) fail_msg("a path holds no number: %.*s", (int)n, p + 4);
    }
    free(page);
    put_file(dir, "log.csv", "step,loss\n12,0.5\n"); /* a single step */
    page = page_of((const char *[]){dir}, 1, *state);
    has(page, ">12</text>");
    free(page);
}

static void smoothing(void **state) {
    (void)state;
    enum { N = 1000 };
    double x[N], y[N];
    for (int i = 0; i < N; i++) x[i] = 3 + 0.5 * i;
    assert_true(fs_smooth(x, N, y));
    for (int i = 30; i < N - 30; i++) assert_true(fabs(y[i] - x[i]) < 1e-9); /* a straight line stays, and does not lag behind */
    fs_rng r = fs_rng_seed(3);
    double before = 0, after = 0;
    for (int i = 0; i < N; i++) x[i] = fs_rng_uniform(&r) - 0.5;
    assert_true(fs_smooth(x, N, y));
    for (int i = 0; i < N; i++) before += x[i] * x[i], after += y[i] * y[i];
    assert_true(after < before / 15); /* means over 21 of a white noise have a variance of 1/21, and twice is less */
}

static void bad_logs_are_one_line(void **state) {
    static const struct {
        const char *csv, *says;
    } bad[] = {
        {"", "has no step yet"},
        {"step,loss\n", "has no step yet"},
        {"Step,loss\n1,1\n", "line 1 does not begin with \"step\""},
        {"step,,loss\n", "line 1 names no column"},
        {"step,loss\n1,2\n1,2\n", "line 3 is of an earlier step"},
        {"step,loss\n1,2\n-1,2\n", "line 3 does not begin with a step"},
        {"step,loss\n1,2\nx,2\n", "line 3 does not begin with a step"},
        {"step,loss\n1,2\n9223372036854775807,2\n", "line 3 does not begin with a step"},
        {"step,loss\n1,two\n", "line 2 holds something that is no number"},
        {"step,loss\n1\n", "line 2 has fewer fields"},
        {"step,loss\n1,2,3\n", "line 2 has more fields"},
    };
    char dir[300], out[300];
    fs_error err;
    snprintf(dir, sizeof dir, "%s/run", (char *)*state);
    snprintf(out, sizeof out, "%s/page.html", (char *)*state);
    const char *const dirs[] = {dir};
    assert_int_equal(fs_train_report(dirs, 1, out, &err), FS_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "there is no such folder"));
    assert_int_equal(fs_make_dirs(dir, &err), FS_OK);
    assert_int_equal(fs_train_report(dirs, 1, out, &err), FS_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "log.csv: is not there"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_file(dir, "log.csv", bad[i].csv);
        assert_int_equal(fs_train_report(dirs, 1, out, &err), FS_E_FORMAT);
        if (!strstr(err.message, bad[i].says) || !strstr(err.message, "log.csv")) fail_msg("\"%s\" says: %s", bad[i].csv, err.message);
    }
    put_file(dir, "log.csv", "step,loss\n1,2\n");
    put_file(dir, "settings.json", "[1]");
    assert_int_equal(fs_train_report(dirs, 1, out, &err), FS_E_FORMAT);
    assert_non_null(strstr(err.message, "settings.json: is no JSON object"));
    assert_int_equal(fs_train_report(dirs, 0, out, &err), FS_E_USAGE);
    assert_false(fs_path_exists(out));
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(one_run), TEST(several_runs), TEST(odd_numbers), cmocka_unit_test(smoothing), TEST(bad_logs_are_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
