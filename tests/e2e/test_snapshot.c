/* Checkpoints of a training run: what is read is what was written, to the bit; a kill at any moment, a full disk and rotten bytes leave an
 * earlier one to go on from; what does not fit is said in one line. Seeds are fixed; where a kill lands is up to the machine, and must not
 * matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
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

#include "train/snapshot.h"

static const int64_t shapes[][2] = {{61, 33}, {7, 0}, {128, 40}};
static const int dims[] = {2, 1, 2};
enum { TENSORS = 3, RUNNING = 19 };

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int make_folder(void **state) {
    char *dir = strdup("/tmp/fs-snapshot-XXXXXX");
    *state = dir;
    return !dir || !mkdtemp(dir);
}

static int remove_folder(void **state) {
    nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

/* Every number is a function of the step, so that a mix of two checkpoints shows. */
static float value(int64_t step, size_t tensor, int kind, int64_t i) {
    fs_rng r = fs_rng_seed((uint64_t)(step * 1000 + (int64_t)tensor * 10 + kind));
    return (float)fs_rng_uniform(&r) + (float)i * 0.25f;
}

static void add_params(fs_params *p) {
    fs_error err = {0};
    *p = (fs_params){0};
    for (int k = 0; k < TENSORS; k++) {
        char name[32];
        snprintf(name, sizeof name, "layers.%d.lora_A.weight", k);
        if (fs_params_add(p, name, dims[k], shapes[k], NULL, 0, NULL, &err)) fail_msg("%s", err.message);
    }
}

static void fill(fs_params *p, float *running, int64_t step) {
    for (size_t k = 0; k < p->count; k++)
        for (int kind = 0; kind < 3; kind++) {
            float *x = kind == 0 ? p->list[k]->data : kind == 1 ? p->list[k]->m : p->list[k]->v;
            const float first = value(step, k, kind, 0);
            for (int64_t i = 0; i < p->list[k]->count; i++) x[i] = first + (float)i * 0.25f;
        }
    for (int64_t i = 0; i < RUNNING; i++) running[i] = value(step, 99, 0, i);
}

static bool is_of_step(const fs_params *p, const float *running, int64_t step) {
    for (size_t k = 0; k < p->count; k++)
        for (int kind = 0; kind < 3; kind++) {
            const float *x = kind == 0 ? p->list[k]->data : kind == 1 ? p->list[k]->m : p->list[k]->v, first = value(step, k, kind, 0);
            for (int64_t i = 0; i < p->list[k]->count; i++)
                if (x[i] != first + (float)i * 0.25f) return false;
        }
    for (int64_t i = 0; i < RUNNING; i++)
        if (running[i] != value(step, 99, 0, i)) return false;
    return true;
}

typedef struct run {
    fs_params params;
    fs_train_state state;
    float running[RUNNING];
    fs_snapshot_buffer buffer;
    fs_snapshot_options options;
} run;

static void run_begin(run *r) {
    *r = (run){.options = fs_snapshot_options_defaults()};
    add_params(&r->params);
    r->buffer = (fs_snapshot_buffer){"bn1.running_mean", r->running, RUNNING};
    r->options.buffers = &r->buffer;
    r->options.buffer_count = 1;
}

static void run_end(run *r) {
    fs_params_free(&r->params);
    fs_train_state_free(&r->state);
}

static fs_status run_write(run *r, const char *dir, int64_t step, fs_error *err) {
    r->state.step = step;
    fill(&r->params, r->running, step);
    return fs_snapshot_write(dir, &r->params, &r->state, &r->options, err);
}

static void must_write(run *r, const char *dir, int64_t step) {
    fs_error err = {0};
    if (run_write(r, dir, step, &err)) fail_msg("%s", err.message);
}

/* The newest checkpoint's step, its numbers looked at; -1: there is none. */
static int64_t newest(const char *dir, const fs_callbacks *cb) {
    run r;
    char *path = NULL;
    fs_error err = {0};
    int64_t step = -1;
    run_begin(&r);
    if (fs_snapshot_find(dir, cb, &path, &err)) fail_msg("%s", err.message);
    if (path) {
        if (fs_snapshot_read(path, &r.params, &r.state, &r.options, &err)) fail_msg("%s", err.message);
        step = r.state.step;
        if (!is_of_step(&r.params, r.running, step)) fail_msg("%s: not the numbers of step %lld", path, (long long)step);
    }
    free(path);
    run_end(&r);
    return step;
}

static bool there(const char *dir, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

static void says(const char *dir, const char *name, const char *text) {
    char path[256];
    uint8_t *data;
    size_t size;
    fs_error err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (fs_read_file(path, 1000, &data, &size, &err)) fail_msg("%s", err.message);
    assert_string_equal((char *)data, text);
    free(data);
}

/* ---- the tests ---------------------------------------------------------------------------------------------------------- */

static void state_comes_back(void **state) {
    run r, q;
    fs_error err = {0};
    char *path = NULL;
    run_begin(&r);
    run_begin(&q);
    assert_null((fs_snapshot_find(*state, NULL, &path, &err), path)); /* nothing yet is no error */
    r.state = (fs_train_state){.epoch = 3,
                               .position = 17,
                               .samples = 991,
                               .tokens = (int64_t)1 << 40,
                               .seconds = 0.1 + 0.2,
                               .seed = UINT64_MAX,
                               .rng = fs_rng_seed(5),
                               .has_best = true,
                               .best = 1.0 / 3,
                               .best_step = 8};
    for (int i = 0; i < FS_LOSS_TAIL + 5; i++)
        fs_train_state_add_loss(&r.state, i == 103 ? (double)NAN : i == 104 ? -(double)INFINITY : 1 / (1.0 + i));
    assert_int_equal(fs_train_state_settings(&r.state, "{\"rate\": 0.0002, \"lora\": {\"r\": 8}, \"data\": \"a \\\"b\\\"\"}", &err), FS_OK);
    must_write(&r, *state, 12);
    if (fs_snapshot_find(*state, NULL, &path, &err)) fail_msg("%s", err.message);
    assert_non_null(strstr(path, "/checkpoint-12"));
    if (fs_snapshot_read(path, &q.params, &q.state, &q.options, &err)) fail_msg("%s", err.message);
    assert_true(is_of_step(&q.params, q.running, 12));
    const fs_train_state *a = &r.state, *b = &q.state;
    assert_true(b->step == 12 && b->epoch == 3 && b->position == 17 && b->samples == 991 && b->tokens == a->tokens &&
                b->seconds == a->seconds);
    assert_true(b->seed == UINT64_MAX && memcmp(&a->rng, &b->rng, sizeof a->rng) == 0 && b->has_best && b->best == a->best &&
                b->best_step == 8);
    assert_true(b->loss_count == FS_LOSS_TAIL && memcmp(a->losses, b->losses, 98 * sizeof(double)) == 0);
    assert_true(isnan(b->losses[98]) && b->losses[99] == -(double)INFINITY);

    /* the same settings, written in another way; one that differs; one that may */
    static const char *const ignore[] = {"data", NULL};
    assert_int_equal(fs_train_state_check(b, "{\"lora\":{\"r\":8.0},\"data\":\"a \\\"b\\\"\",\"rate\":2e-4}", NULL, &err), FS_OK);
    assert_int_equal(fs_train_state_check(b, "{\"lora\":{\"r\":8},\"data\":7,\"rate\":2e-4}", ignore, &err), FS_OK);
    assert_int_equal(fs_train_state_check(b, "{\"lora\":{\"r\":16},\"data\":\"a \\\"b\\\"\",\"rate\":2e-4}", NULL, &err), FS_E_MISMATCH);
    assert_string_equal(err.message,
                        "lora.r is 16, but the checkpoint was trained with 8; resume with the same settings, or train into another folder");
    assert_int_equal(fs_train_state_check(b, "{\"lora\":{\"r\":8},\"rate\":2e-4}", NULL, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "data is not set, but the checkpoint was trained with \"a "));
    free(path);
    run_end(&r);
    run_end(&q);
}

static fs_status write_adapter(void *user, const char *folder, fs_error *err) {
    char path[256];
    snprintf(path, sizeof path, "%s/adapter", folder);
    fs_status status = fs_make_dirs(path, err);
    snprintf(path, sizeof path, "%s/adapter/adapter_config.json", folder);
    if (!status) status = fs_write_file(path, user, strlen(user), err);
    return status;
}

static void the_last_and_the_best_are_kept(void **state) {
    run r;
    char path[256];
    fs_error err = {0};
    run_begin(&r);
    r.options.also = write_adapter;
    r.options.user = "{}";
    for (int64_t step = 10; step <= 60; step += 10) {
        if (step == 20) r.state.has_best = true, r.state.best = 0.5, r.state.best_step = step;
        must_write(&r, *state, step);
    }
    assert_true(there(*state, "checkpoint-20") && there(*state, "checkpoint-50") && there(*state, "checkpoint-60"));
    assert_false(there(*state, "checkpoint-10") || there(*state, "checkpoint-30") || there(*state, "checkpoint-40"));
    says(*state, "last", "checkpoint-60\n");
    says(*state, "best", "checkpoint-20\n");
    says(*state, "checkpoint-60/adapter/adapter_config.json", "{}");
    assert_int_equal(newest(*state, NULL), 60);

    /* what the hook wrote is checked too */
    snprintf(path, sizeof path, "%s/checkpoint-60/adapter/adapter_config.json", (char *)*state);
    assert_int_equal(fs_write_file(path, "[]", 2, &err), FS_OK);
    assert_int_equal(newest(*state, NULL), 50);

    /* a run that was set back: what is of its future goes, what has this name is replaced */
    must_write(&r, *state, 50);
    assert_false(there(*state, "checkpoint-60"));
    assert_int_equal(newest(*state, NULL), 50);
    r.options.keep_best = false;
    r.options.keep_last = 1;
    must_write(&r, *state, 70);
    assert_false(there(*state, "checkpoint-20") || there(*state, "checkpoint-50"));
    run_end(&r);
}

typedef struct warnings {
    int count;
    char last[512];
} warnings;
static void keep_warning(void *user, fs_log_level level, const char *line) {
    warnings *w = user;
    w->count += level == FS_LOG_WARNING;
    snprintf(w->last, sizeof w->last, "%s", line);
}

static void damage(const char *dir, const char *name, long at) {
    char path[256], c = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    const int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &c, 1, at) == 1);
    c ^= 1;
    assert_true(pwrite(fd, &c, 1, at) == 1 && close(fd) == 0);
}

static void rotten_bytes_are_passed_over(void **state) {
    run r;
    warnings w = {0};
    char *path = NULL, name[256];
    fs_error err = {0};
    const fs_callbacks cb = {.user_data = &w, .log = keep_warning};
    run_begin(&r);
    r.options.keep_last = 10;
    for (int64_t step = 1; step <= 5; step++) must_write(&r, *state, step);
    damage(*state, "checkpoint-5/training.safetensors", 9000);
    assert_int_equal(newest(*state, &cb), 4);
    assert_int_equal(w.count, 1);
    assert_non_null(strstr(w.last, "checkpoint-5 is passed over: "));
    assert_non_null(strstr(w.last, "not the bytes that were written"));
    damage(*state, "checkpoint-4/state.json", 20);
    assert_int_equal(newest(*state, NULL), 3);
    snprintf(name, sizeof name, "%s/checkpoint-3/SHA256SUMS", (char *)*state);
    assert_int_equal(truncate(name, 30), 0);
    assert_int_equal(newest(*state, NULL), 2);
    assert_int_equal(fs_write_file(name, "../x\n", 5, &err), FS_OK);
    assert_int_equal(newest(*state, NULL), 2);
    snprintf(name, sizeof name, "%s/checkpoint-2/training.safetensors", (char *)*state);
    assert_int_equal(truncate(name, 5000), 0);
    assert_int_equal(newest(*state, NULL), 1);
    snprintf(name, sizeof name, "%s/checkpoint-1/state.json", (char *)*state);
    assert_int_equal(remove(name), 0);
    assert_int_equal(fs_snapshot_find(*state, &cb, &path, &err), FS_E_FORMAT);
    assert_non_null(strstr(err.message, "none of its 5 checkpoints is whole"));
    assert_null(path);
    run_end(&r);
}

static void other_tensors_are_refused(void **state) {
    run r, q;
    char path[256];
    fs_error err = {0};
    const int64_t shape[] = {4};
    run_begin(&r);
    run_begin(&q);
    must_write(&r, *state, 1);
    snprintf(path, sizeof path, "%s/checkpoint-1", (char *)*state);
    fill(&q.params, q.running, 77);
    q.state.step = 77;

    q.options.buffer_count = 0; /* one too many in the file */
    assert_int_equal(fs_snapshot_read(path, &q.params, &q.state, &q.options, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "holds buffer/bn1.running_mean, which is not trained now"));
    q.options.buffer_count = 1;
    assert_int_equal(fs_params_add(&q.params, "more", 1, shape, NULL, 0, NULL, &err), FS_OK); /* one too few */
    assert_int_equal(fs_snapshot_read(path, &q.params, &q.state, &q.options, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "has no param/more"));
    q.params.count--; /* as before; freed below */
    fs_param *more = q.params.list[q.params.count];
    q.params.list[0]->tensor.shape[0] = 60; /* another shape */
    assert_int_equal(fs_snapshot_read(path, &q.params, &q.state, &q.options, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "param/layers.0.lora_A.weight has another shape"));
    assert_true(q.state.step == 77 && is_of_step(&q.params, q.running, 77)); /* untouched by all that */
    q.params.list[0]->tensor.shape[0] = 61;
    assert_int_equal(fs_snapshot_read(path, &q.params, &q.state, &q.options, &err), FS_OK);
    assert_true(q.state.step == 1 && is_of_step(&q.params, q.running, 1));
    q.params.list[q.params.count++] = more;
    run_end(&r);
    run_end(&q);
}

/* A limit on the size of a file stands in for a full disk: write() fails in the middle of the tensors. */
static void a_full_disk_spares_what_is_there(void **state) {
    run r;
    run_begin(&r);
    must_write(&r, *state, 1);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit limit = {20000, 20000};
        fs_error err = {0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        const fs_status status = run_write(&r, *state, 2, &err);
        _exit(status == FS_E_IO && strstr(err.message, "training.safetensors") ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_false(there(*state, ".checkpoint-2.tmp") || there(*state, "checkpoint-2"));
    assert_int_equal(newest(*state, NULL), 1);
    must_write(&r, *state, 2); /* there is room again */
    assert_int_equal(newest(*state, NULL), 2);
    run_end(&r);
}

static void leftovers_are_cleared(void **state) {
    run r;
    char from[256], to[256];
    run_begin(&r);
    must_write(&r, *state, 3);
    must_write(&r, *state, 4);
    snprintf(from, sizeof from, "%s/checkpoint-4", (char *)*state);
    snprintf(to, sizeof to, "%s/.checkpoint-4.old", (char *)*state); /* killed between the two renames */
    assert_int_equal(rename(from, to), 0);
    snprintf(from, sizeof from, "%s/.checkpoint-4.tmp", (char *)*state);
    assert_int_equal(mkdir(from, 0777), 0);
    snprintf(from, sizeof from, "%s/.checkpoint-2.gone", (char *)*state);
    assert_int_equal(mkdir(from, 0777), 0);
    snprintf(from, sizeof from, "%s/.checkpoint-mine", (char *)*state); /* not ours */
    assert_int_equal(mkdir(from, 0777), 0);
    assert_int_equal(newest(*state, NULL), 4);
    assert_false(there(*state, ".checkpoint-4.old") || there(*state, ".checkpoint-4.tmp") || there(*state, ".checkpoint-2.gone"));
    assert_true(there(*state, ".checkpoint-mine"));
    run_end(&r);
}

static fs_status die(void *user, const char *folder, fs_error *err) {
    (void)folder, (void)err;
    if (*(int *)user) raise(SIGKILL);
    return FS_OK;
}

/* Writes checkpoint after checkpoint from `from` on, and says each one's step into the pipe once it is safe. */
static void write_many(const char *dir, int64_t from, int out, int deadly) {
    run r;
    fs_error err = {0};
    run_begin(&r);
    for (int64_t step = from; step < from + 50; step++) {
        int now = deadly && step == from + 2;
        r.options.also = die;
        r.options.user = &now;
        if (step % 3 == 0) r.state.has_best = true, r.state.best = (double)step, r.state.best_step = step;
        if (run_write(&r, dir, step, &err) || write(out, &step, sizeof step) != sizeof step) _exit(1);
    }
    _exit(0);
}

static void kills_lose_nothing(void **state) {
    fs_rng random = fs_rng_seed(20261123);
    int64_t acknowledged = -1, killed = 0;
    for (int round = 0; round < 120; round++) {
        int ends[2], status = 0;
        int64_t step;
        const int64_t found = newest(*state, NULL);
        if (found < acknowledged)
            fail_msg("round %d: step %lld was acknowledged, %lld is found", round, (long long)acknowledged, (long long)found);
        if (found > acknowledged + 1)
            fail_msg("round %d: step %lld is found, %lld was the last", round, (long long)found, (long long)acknowledged);
        acknowledged = found; /* what was whole once is not lost either */
        assert_int_equal(pipe(ends), 0);
        /* now and then a run is set back, so that a checkpoint of the same name has to give way */
        const int64_t from = round % 4 == 2 && found > 1 ? found : found + 1;
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(ends[0]);
            write_many(*state, from, ends[1], round % 10 == 9);
        }
        close(ends[1]);
        const useconds_t delay = (useconds_t)(fs_rng_uniform(&random) * fs_rng_uniform(&random) * 30000);
        if (round % 2 && read(ends[0], &step, sizeof step) == sizeof step) acknowledged = step; /* half of them within the first one */
        usleep(delay);
        kill(child, SIGKILL);
        while (read(ends[0], &step, sizeof step) == sizeof step) acknowledged = step;
        close(ends[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status) && WEXITSTATUS(status)) fail_msg("round %d: the writer failed", round);
        killed += WIFSIGNALED(status);
    }
    assert_true(killed >= 100);
    assert_true(newest(*state, NULL) >= acknowledged);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(state_comes_back),          TEST(the_last_and_the_best_are_kept),   TEST(rotten_bytes_are_passed_over),
        TEST(other_tensors_are_refused), TEST(a_full_disk_spares_what_is_there), TEST(leftovers_are_cleared),
        TEST(kills_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
