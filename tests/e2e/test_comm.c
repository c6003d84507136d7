/* Processes of a data-parallel run: this program starts itself by mpirun, with a case for every process to play, and looks at what comes
 * out: sums in the stated order to the bit; a process that is killed, stuck, or says that it ends, is noticed by the others. Skipped where
 * MPI is not in the build or mpirun is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/comm.h"

static volatile sig_atomic_t stopped;
static void on_signal(int s) {
    stopped = s;
}
static bool cancel(void *user) {
    return (void)user, stopped != 0;
}

/* ---- what a process plays: 0 is well ------------------------------------------------------------------------------------- */

static int complain(fs_comm *c, const fs_error *err) {
    printf("[%d] %s\n", fs_comm_rank(c), err->message);
    fflush(stdout);
    fs_comm_free(c);
    return err->status;
}

static float number(int rank, int64_t i) {
    const uint32_t counter[4] = {(uint32_t)i, (uint32_t)rank, 0, 0}, key[2] = {1, 2};
    uint32_t out[4];
    fs_philox(counter, key, out);
    const float exponent[] = {1e-8f, 1e-3f, 1, 3e4f};
    return ((float)out[0] / 4294967296.0f - 0.5f) * exponent[out[1] % 4]; /* so that the order of a sum in f32 would show */
}

/* Sizes around the number of processes and around the piece that goes at a time (4 Mi numbers). */
static int play_sums(fs_comm *c) {
    const int64_t sizes[] = {0, 1, 2, 3, 5, 1000, (4 << 20) - 1, (4 << 20) + 7};
    const int size = fs_comm_size(c), rank = fs_comm_rank(c);
    fs_error err = {0};
    int wrong = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        float *x = fs_alloc((size_t)sizes[k] + 1, sizeof *x);
        if (!x) return 1;
        for (int64_t i = 0; i < sizes[k]; i++) x[i] = number(rank, i);
        x[sizes[k]] = 12345;
        if (fs_comm_all_reduce(c, x, sizes[k], &err)) return complain(c, &err);
        for (int64_t i = 0; i < sizes[k]; i++) {
            double sum = 0;
            for (int r = 0; r < size; r++) sum += (double)number(r, i);
            wrong += x[i] != (float)sum;
        }
        wrong += x[sizes[k]] != 12345;
        free(x);
    }
    printf("[%d] of %d: %d wrong sums\n", rank, size, wrong);
    fs_comm_free(c);
    return wrong != 0;
}

static int play_figures(fs_comm *c) {
    const int size = fs_comm_size(c), rank = fs_comm_rank(c);
    double mine[2] = {rank, 0.5 * rank}, all[16];
    char text[200] = {0};
    fs_error err = {0};
    int wrong = size > 8;
    if (rank == 1) memset(text, 'x', 199);
    if (fs_comm_gather(c, mine, 2, all, &err) || fs_comm_broadcast(c, text, sizeof text, 1, &err) || fs_comm_barrier(c, &err))
        return complain(c, &err);
    for (int r = 0; r < size; r++) wrong += all[2 * r] != r || all[2 * r + 1] != 0.5 * r;
    wrong += strlen(text) != 199 || strspn(text, "x") != 199;
    printf("[%d] of %d: %d wrong figures\n", rank, size, wrong);
    fs_comm_free(c);
    return wrong != 0;
}

static int meet(fs_comm *c) {
    fs_error err = {0};
    float x[4] = {0};
    if (fs_comm_all_reduce(c, x, 4, &err)) return complain(c, &err);
    if (fs_comm_all_reduce(c, x, 4, &err)) return complain(c, &err);
    fs_comm_free(c);
    return 0;
}

static int play_killed(fs_comm *c) {
    fs_error err = {0};
    if (fs_comm_barrier(c, &err)) return complain(c, &err);
    if (fs_comm_rank(c) == 1) raise(SIGKILL);
    return meet(c);
}

static int play_stuck(fs_comm *c) {
    fs_error err = {0};
    if (fs_comm_barrier(c, &err)) return complain(c, &err);
    if (fs_comm_rank(c) == 1)
        for (int i = 0; i < 200 && !stopped; i++) usleep(100000);
    return meet(c);
}

static int play_farewell(fs_comm *c) {
    fs_error err = {0};
    if (fs_comm_rank(c) != 1) return meet(c);
    fs_comm_abort(c, "the disk is full");
    if (fs_comm_barrier(c, &err) == FS_OK) return 0;
    return complain(c, &err);
}

static int play(const char *what) {
    static const struct {
        const char *name;
        int (*play)(fs_comm *c);
        double timeout;
    } cases[] = {{"sums", play_sums, 200},
                 {"figures", play_figures, 200},
                 {"killed", play_killed, 200},
                 {"stuck", play_stuck, 1},
                 {"farewell", play_farewell, 200}};
    const fs_callbacks cb = {.cancel = cancel};
    fs_comm_options o = fs_comm_options_defaults();
    fs_comm *c;
    fs_error err = {0};
    signal(SIGTERM, on_signal);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(cases[i].name, what) != 0) continue;
        o.timeout = cases[i].timeout;
        o.callbacks = &cb;
        if (fs_comm_create(&o, &c, &err)) return printf("%s\n", err.message), 1;
        return cases[i].play(c);
    }
    return 1;
}

/* ---- the tests ----------------------------------------------------------------------------------------------------------- */

static const char *program;

/* Plays a case with n processes; *text: what they have printed. Returns mpirun's exit code. */
static int launch(int n, const char *what, char text[8192]) {
    char command[1024];
    size_t used = 0;
    /* memory is copied through a shared buffer, as a container may forbid the other way */
    snprintf(
        command, sizeof command,
        "timeout 300 mpirun --allow-run-as-root --oversubscribe --mca btl_vader_single_copy_mechanism none -n %d '%s' %s 2>&1 </dev/null",
        n, program, what);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    while (used < 8191) {
        const size_t r = fread(text + used, 1, 8191 - used, f);
        if (r == 0) break;
        used += r;
    }
    text[used] = '\0';
    const int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void needs_mpirun(void) {
    if (!fs_comm_available() || getenv("FS_TEST_EMULATED") || system("command -v mpirun >/dev/null 2>&1") != 0) skip();
}

static void must_say(const char *text, const char *what) {
    if (!strstr(text, what)) fail_msg("\"%s\" is not in:\n%s", what, text);
}

static void alone_there_is_nothing_to_do(void **state) {
    (void)state;
    fs_comm *c;
    fs_error err = {0};
    float x[3] = {1, 2, 3};
    double mine[2] = {4, 5}, all[2] = {0};
    assert_int_equal(fs_comm_create(NULL, &c, &err), FS_OK);
    assert_true(fs_comm_rank(c) == 0 && fs_comm_size(c) == 1 && fs_comm_rank(NULL) == 0 && fs_comm_size(NULL) == 1);
    assert_int_equal(fs_comm_all_reduce(c, x, 3, &err), FS_OK);
    assert_true(x[0] == 1 && x[1] == 2 && x[2] == 3);
    assert_int_equal(fs_comm_gather(c, mine, 2, all, &err), FS_OK);
    assert_true(all[0] == 4 && all[1] == 5);
    assert_true(!fs_comm_broadcast(c, x, sizeof x, 0, &err) && !fs_comm_barrier(c, &err) && !fs_comm_barrier(NULL, &err));
    fs_comm_abort(c, "nobody hears it");
    fs_comm_free(c);
    fs_comm_free(NULL);
}

static void without_mpi_mpirun_is_refused(void **state) {
    (void)state;
    fs_comm *c;
    fs_error err = {0};
    if (fs_comm_available()) skip();
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    assert_int_equal(fs_comm_create(NULL, &c, &err), FS_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "built without MPI"));
    unsetenv("OMPI_COMM_WORLD_SIZE");
}

static void sums_are_serial_sums(void **state) {
    (void)state;
    char text[8192], line[64];
    needs_mpirun();
    for (int n = 1; n <= 3; n++) {
        if (launch(n, "sums", text)) fail_msg("%s", text);
        for (int r = 0; r < n; r++) {
            snprintf(line, sizeof line, "[%d] of %d: 0 wrong sums", r, n);
            must_say(text, line);
        }
    }
}

static void figures_go_round(void **state) {
    (void)state;
    char text[8192];
    needs_mpirun();
    if (launch(3, "figures", text)) fail_msg("%s", text);
    must_say(text, "[2] of 3: 0 wrong figures");
}

static void a_killed_process_is_noticed(void **state) {
    (void)state;
    char text[8192];
    needs_mpirun();
    assert_int_not_equal(launch(2, "killed", text), 0);
    must_say(text, "[0] process 0 of 2 was told to end while summing gradients: the run was stopped, or another process is lost");
}

static void a_stuck_process_is_noticed(void **state) {
    (void)state;
    char text[8192];
    needs_mpirun();
    assert_int_not_equal(launch(2, "stuck", text), 0);
    must_say(text, "[0] process 0 of 2 waited 1 s for the others while summing gradients: one of them is lost or stuck");
}

static void a_farewell_is_heard(void **state) {
    (void)state;
    char text[8192];
    needs_mpirun();
    assert_int_not_equal(launch(3, "farewell", text), 0);
    must_say(text, "process 1 of 3 ended: the disk is full");
    must_say(text, "[1] process 1 of 3 does not talk to the others any more");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_there_is_nothing_to_do), cmocka_unit_test(without_mpi_mpirun_is_refused),
        cmocka_unit_test(sums_are_serial_sums),         cmocka_unit_test(figures_go_round),
        cmocka_unit_test(a_killed_process_is_noticed),  cmocka_unit_test(a_stuck_process_is_noticed),
        cmocka_unit_test(a_farewell_is_heard),
    };
    program = argv[0];
    if (argc > 1) return play(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
