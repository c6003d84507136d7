/* Downloading, against a hub of our own on the loopback interface that drops connections, cuts, lies and stalls (pull_server.h). What must
 * hold whatever the server does: a file gets its name only with the right bytes, nothing that is there is asked for again, what cannot work
 * ends with one line. */
#include "unit/pull_server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "format/json.h"

enum { PART = 65536, LARGE = 10 * PART + 1234 }; /* the large file has 11 parts */

typedef struct fixture {
    hub *hub;
    char dir[64];
    fs_pull_options opt;
    fs_error err;
    size_t states[6];  /* how many files came in each state */
    int64_t cancel_at; /* stop when so many bytes of the run are there; 0 = never */
    bool cancel;
    int64_t done, total;
    size_t warnings;
} fixture;

static void on_file(void *user, const fs_pull_file *f) {
    ((fixture *)user)->states[f->state]++;
}
static void on_progress(void *user, const char *step, int64_t done, int64_t total) {
    fixture *x = user;
    (void)step;
    x->done = done, x->total = total;
    if (x->cancel_at && done >= x->cancel_at) x->cancel = true;
}
static bool on_cancel(void *user) {
    return ((fixture *)user)->cancel;
}
static void on_log(void *user, fs_log_level level, const char *line) {
    (void)line;
    ((fixture *)user)->warnings += level == FS_LOG_WARNING;
}

static fs_pull_options quick_options(const char *base) {
    fs_pull_options opt = fs_pull_options_defaults();
    opt.base_url = base;
    opt.part_bytes = PART;
    opt.retry_delay = 0.001;
    return opt;
}

static int setup(void **state) {
    fixture *x = calloc(1, sizeof *x);
    strcpy(x->dir, "/tmp/fs-pull-XXXXXX");
    if (!mkdtemp(x->dir)) return -1;
    x->hub = hub_start();
    hub_add(x->hub, "config.json", 700, false);
    hub_add(x->hub, "sub/large.bin", LARGE, true);
    hub_add(x->hub, "sub/empty.txt", 0, false);
    hub_add(x->hub, "tf_model.h5", 5000, true); /* is left out unless everything is asked for */
    x->opt = quick_options(x->hub->base);
    x->opt.file = on_file;
    x->opt.callbacks = (fs_callbacks){.user_data = x, .log = on_log, .progress = on_progress, .cancel = on_cancel};
    *state = x;
    return 0;
}

static int teardown(void **state) {
    fixture *x = *state;
    static const char *const names[] = {"config.json", "sub/large.bin", "sub/empty.txt", "tf_model.h5", ".pull.json"};
    hub_free(x->hub);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 4; k++) {
            static const char *const ends[] = {"", ".part", ".part.json", ".part.new"};
            char path[200];
            snprintf(path, sizeof path, "%s/%s%s", x->dir, names[i], ends[k]);
            unlink(path);
        }
    char sub[80];
    snprintf(sub, sizeof sub, "%s/sub", x->dir);
    rmdir(sub);
    int left = rmdir(x->dir); /* anything else in there is a fault */
    free(x);
    return left;
}

static fs_status pull(fixture *x) {
    memset(x->states, 0, sizeof x->states);
    memset(&x->err, 0, sizeof x->err);
    x->cancel = false;
    x->done = x->total = 0;
    fs_status status = fs_pull("o/n", x->dir, &x->opt, &x->err);
    assert_int_equal(status == FS_OK ? FS_OK : x->err.status, status);
    return status;
}

static void pull_ok(fixture *x) {
    if (pull(x) != FS_OK) fail_msg("%s", x->err.message);
}

static void expect(fixture *x, fs_status status, const char *words) {
    if (pull(x) != status) fail_msg("expected %s, got %s: %s", fs_status_name(status), fs_status_name(x->err.status), x->err.message);
    if (!strstr(x->err.message, words)) fail_msg("expected \"%s\" in \"%s\"", words, x->err.message);
}

static char *path_of(fixture *x, const char *name) {
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", x->dir, name);
    return path;
}

static bool there(fixture *x, const char *name) {
    return fs_path_exists(path_of(x, name));
}

static void expect_file(fixture *x, size_t i) {
    const hub_file *f = &x->hub->files[i];
    uint8_t *data;
    size_t size;
    fs_error err;
    if (fs_read_file(path_of(x, f->path), 1 << 24, &data, &size, &err)) fail_msg("%s", err.message);
    assert_int_equal(size, f->size);
    assert_memory_equal(data, f->data, size);
    free(data);
}

static void expect_all(fixture *x) {
    for (size_t i = 0; i < 3; i++) expect_file(x, i);
    assert_false(there(x, "tf_model.h5"));
    assert_false(there(x, "sub/large.bin.part"));
    assert_false(there(x, "sub/large.bin.part.json"));
    assert_false(there(x, "sub/large.bin.part.new"));
}

static void expect_no_large(fixture *x) {
    assert_false(there(x, "sub/large.bin"));
}

static int64_t bytes_in_state(const char *path) { /* the sum of "have"; -1 = no such file */
    fs_json j;
    int64_t sum = 0;
    if (fs_json_open(path, &j, NULL)) return -1;
    size_t i;
    json_t *n;
    json_array_foreach(json_object_get(j.root, "have"), i, n) sum += json_integer_value(n);
    fs_json_close(&j);
    return sum;
}

/* ---- the ordinary case --------------------------------------------------------------------------------------------- */

static void test_plain(void **state) {
    fixture *x = *state;
    int64_t sent;
    struct stat before, after;
    pull_ok(x);
    expect_all(x);
    assert_int_equal(x->states[FS_PULL_FETCHED], 3);
    assert_int_equal(x->done, LARGE + 700);
    assert_int_equal(x->total, LARGE + 700);
    assert_int_equal(hub_requests(x->hub, "large", &sent), 11);
    assert_int_equal(sent, LARGE); /* every byte once */
    assert_int_equal(hub_requests(x->hub, "empty", NULL), 0);
    assert_int_equal(stat(path_of(x, "sub/large.bin"), &before), 0);
    hub_forget(x->hub);
    pull_ok(x); /* again: nothing to do */
    assert_int_equal(hub_requests(x->hub, "/resolve/", NULL), 0);
    assert_int_equal(x->states[FS_PULL_GOOD], 3);
    assert_int_equal(stat(path_of(x, "sub/large.bin"), &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    unlink(path_of(x, "config.json")); /* one is missing: only that one is asked for */
    pull_ok(x);
    expect_all(x);
    assert_int_equal(hub_requests(x->hub, "large", NULL), 0);
    assert_int_equal(hub_requests(x->hub, "config", NULL), 1);
    assert_int_equal(stat(path_of(x, "sub/large.bin"), &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
}

static void test_everything_and_list(void **state) {
    fixture *x = *state;
    x->opt.mode = FS_PULL_LIST;
    pull_ok(x);
    assert_int_equal(x->states[FS_PULL_LISTED], 3);
    assert_int_equal(hub_requests(x->hub, "/resolve/", NULL), 0);
    assert_false(there(x, ".pull.json"));
    x->opt.mode = FS_PULL_FETCH;
    x->opt.everything = true;
    pull_ok(x);
    expect_file(x, 3);
}

static void test_pages(void **state) {
    fixture *x = *state;
    static const char *const hubs[] = {NULL, "https://huggingface.co", ""}; /* as itself, as the hub it mirrors, without a host */
    x->opt.mode = FS_PULL_LIST;
    x->hub->page = 1;
    for (size_t i = 0; i < 3; i++) {
        x->hub->next_base = hubs[i];
        pull_ok(x);
        assert_int_equal(x->states[FS_PULL_LISTED], 3);
    }
    x->hub->next_base = "http://127.0.0.1:1";
    expect(x, FS_E_FORMAT, "at another host");
}

/* ---- bad connections ----------------------------------------------------------------------------------------------- */

static void test_drops(void **state) {
    fixture *x = *state;
    int64_t sent;
    const mischief kinds[] = {DROP, CUT};
    for (size_t i = 0; i < 2; i++) {
        hub_forget(x->hub);
        hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = kinds[i], .arg = 20000, .times = -1});
        pull_ok(x);
        expect_all(x);
        hub_requests(x->hub, "large", &sent);
        assert_int_equal(sent, LARGE); /* each request went on where the one before had ended */
        unlink(path_of(x, "sub/large.bin"));
    }
    hub_forget(x->hub);
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = DROP, .arg = 0, .times = -1});
    x->opt.jobs = 1;
    expect(x, FS_E_IO, "given up after 7 attempts");
    assert_int_equal(hub_requests(x->hub, "large", NULL), 7);
    expect_no_large(x);
}

static void test_stall(void **state) {
    fixture *x = *state;
    x->opt.stall_seconds = 1;
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = STALL, .arg = 30000, .times = 1, .first = 3 * PART});
    pull_ok(x);
    expect_all(x);
    assert_true(hub_requests(x->hub, "large", NULL) >= 12); /* more if the machine is so busy that others seem to stall */
}

static void test_no_ranges(void **state) {
    fixture *x = *state;
    size_t n;
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = NO_RANGES, .times = -1});
    pull_ok(x);
    expect_all(x);
    n = hub_requests(x->hub, "large", NULL);
    assert_in_range(n, 2, 5); /* up to four parts find out at once, then one request for all */
    /* a break in that mode begins anew, and does not mix */
    unlink(path_of(x, "sub/large.bin"));
    hub_rule(x->hub, 1, (rule){.part_of_path = "nothing", .kind = NO_RANGES, .times = -1});
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = NO_RANGES, .times = 4});
    hub_rule(x->hub, 1, (rule){.part_of_path = "large", .kind = DROP, .arg = 500000, .times = 2});
    x->opt.jobs = 4;
    pull_ok(x);
    expect_all(x);
}

static void test_status_codes(void **state) {
    fixture *x = *state;
    static const long passing[] = {429, 500, 503, 408};
    for (size_t i = 0; i < 4; i++) {
        hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = STATUS, .arg = passing[i], .times = 5});
        hub_rule(x->hub, 1, (rule){.part_of_path = "/tree/", .kind = STATUS, .arg = passing[i], .times = 2});
        pull_ok(x);
        expect_all(x);
        unlink(path_of(x, "sub/large.bin"));
    }
    static const struct {
        long code;
        fs_status status;
        const char *words;
    } lasting[] = {{404, FS_E_NOT_FOUND, "HTTP 404"},
                   {401, FS_E_NOT_FOUND, "token"},
                   {403, FS_E_NOT_FOUND, "token"},
                   {416, FS_E_FORMAT, "shorter"},
                   {500, FS_E_IO, "HTTP 500"}};
    static const char *const where[] = {"large", "/tree/"};
    for (size_t i = 0; i < 10; i++) {
        hub_forget(x->hub);
        hub_rule(x->hub, 0, (rule){.part_of_path = where[i % 2], .kind = STATUS, .arg = lasting[i / 2].code, .times = -1});
        expect(x, lasting[i / 2].status, lasting[i / 2].words);
        expect_no_large(x);
        assert_false(there(x, "sub/large.bin.part"));
        /* No use in trying again: up to four parts ask at once, and as many of the round before may still be on their way to a busy server.
         * Trying again would ask many times more, as 500 does. */
        const size_t asked = hub_requests(x->hub, where[i % 2], NULL);
        if (lasting[i / 2].code != 500) assert_in_range(asked, 1, 8);
        else assert_true(asked > 1);
    }
}

static void test_redirects(void **state) {
    fixture *x = *state;
    hub *store = hub_start();
    store->files[0] = x->hub->files[1];
    store->file_count = 1;
    x->opt.token = "secret";
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = REDIRECT, .times = -1, .text = store->base});
    hub_rule(store, 0, (rule){.part_of_path = "large", .kind = STATUS, .arg = 403, .times = 1}); /* a signed address that has expired */
    pull_ok(x);
    expect_all(x);
    assert_int_equal(store->record_count, 12);
    for (size_t i = 0; i < store->record_count; i++) {
        assert_false(store->records[i].token); /* the token stays with the hub */
        assert_true(store->records[i].first >= 0);
    }
    for (size_t i = 0; i < x->hub->record_count; i++) assert_true(x->hub->records[i].token);
    unlink(path_of(x, "sub/large.bin"));
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = REDIRECT, .times = -1, .text = x->hub->base}); /* round and round */
    expect(x, FS_E_FORMAT, "redirects");
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = REDIRECT, .times = -1, .text = "file:///etc"});
    expect(x, FS_E_FORMAT, "file");
    expect_no_large(x);
    store->file_count = 0; /* the bytes are the other hub's */
    hub_free(store);
}

/* ---- lies ---------------------------------------------------------------------------------------------------------- */

static void test_lies(void **state) {
    fixture *x = *state;
    static const struct {
        rule r;
        const char *words;
    } lies[] = {{{"large", WRONG_TOTAL, 1, 0, 0, NULL}, "not the listed one"},
                {{"large", SHIFTED, 1, 0, 0, NULL}, "not the listed one"},
                {{"large", SHIFTED, -1, 0, PART, NULL}, "not the listed one"},
                {{"large", TOO_MUCH, 1, 0, 0, NULL}, "sends more"},
                {{"config", WRONG_LENGTH, 1, 0, 0, NULL}, "not the listed one"},
                {{"config", TOO_MUCH, 100000, 0, 0, NULL}, "sends more"},
                {{"large", WRONG_LENGTH, 9, 0, 0, NULL}, "not the listed one"},
                {{"large", BODY, 0, 0, 0, "<html>log in</html>"}, "not the listed one"},
                {{"config", BODY, 0, 0, 0, "<html>log in</html>"}, "not the listed one"}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        rule r = lies[i].r;
        hub_forget(x->hub);
        r.times = -1;
        hub_rule(x->hub, 0, r);
        expect(x, FS_E_FORMAT, lies[i].words);
        assert_false(there(x, r.part_of_path[0] == 'l' ? "sub/large.bin" : "config.json"));
        r.times = 1; /* once, as a bad cache may */
        hub_rule(x->hub, 0, r);
        pull_ok(x);
        expect_all(x);
        unlink(path_of(x, "sub/large.bin"));
        unlink(path_of(x, "config.json"));
    }
}

static void test_wrong_bytes(void **state) {
    fixture *x = *state;
    int64_t sent;
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = SPOILT, .times = 1, .first = 2 * PART});
    pull_ok(x);
    expect_all(x);
    assert_int_equal(x->warnings, 1);
    hub_requests(x->hub, "large", &sent);
    assert_int_equal(sent, 2 * LARGE); /* which part was wrong cannot be known */
    static const char *const names[] = {"sub/large.bin", "config.json"};
    for (size_t i = 0; i < 2; i++) { /* SHA-256 and git's SHA-1 */
        unlink(path_of(x, names[i]));
        hub_rule(x->hub, 0, (rule){.part_of_path = names[i], .kind = SPOILT, .times = -1});
        expect(x, FS_E_FORMAT, i ? "git SHA-1" : "SHA-256");
        assert_false(there(x, names[i]));
        hub_forget(x->hub);
        pull_ok(x);
        expect_all(x);
    }
}

/* ---- going on ------------------------------------------------------------------------------------------------------ */

static void test_resume(void **state) {
    fixture *x = *state;
    int64_t sent, have;
    x->opt.jobs = 3;
    x->cancel_at = 4 * PART;
    hub_rule(x->hub, 0,
             (rule){.part_of_path = "large", .kind = STALL, .arg = 1000, .times = -1, .first = 6 * PART}); /* so that it cannot end */
    hub_rule(x->hub, 1, (rule){.part_of_path = "large", .kind = DROP, .arg = 20000, .times = -1}); /* so that parts are cut in the middle */
    expect(x, FS_E_CANCELLED, "run again");
    expect_no_large(x);
    have = bytes_in_state(path_of(x, "sub/large.bin.part.json"));
    assert_in_range(have, 4 * PART - 700, LARGE - 1);
    hub_forget(x->hub);
    x->opt.mode = FS_PULL_CHECK; /* changes nothing */
    expect(x, FS_E_NOT_FOUND, "missing");
    assert_int_equal(x->states[FS_PULL_PARTIAL], 1);
    x->opt.mode = FS_PULL_FETCH;
    x->cancel_at = 0;
    x->opt.part_bytes = 3 * PART; /* other parts than before: those of the state hold */
    pull_ok(x);
    expect_all(x);
    hub_requests(x->hub, "large", &sent);
    assert_int_equal(sent, LARGE - have);
}

/* The program's other face: pulls until it is killed. */
static int pull_child(const char *base, const char *dir) {
    fs_pull_options opt = quick_options(base);
    fs_error err;
    return (int)fs_pull("o/n", dir, &opt, &err);
}

static void test_kill(void **state) {
    if (getenv("FS_TEST_EMULATED")) skip(); /* cannot start itself */
    fixture *x = *state;
    int64_t have = 0, sent;
    hub_rule(x->hub, 0, (rule){.part_of_path = "large", .kind = STALL, .arg = 1000, .times = -1, .first = 5 * PART});
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_pull", "--pull", x->hub->base, x->dir, (char *)NULL);
        _exit(99);
    }
    char *state_path = strdup(path_of(x, "sub/large.bin.part.json"));
    for (int i = 0; i < 2000 && have < 5 * PART; i++) { /* all parts that can be had are saved; at most 20 s */
        usleep(10000);
        have = bytes_in_state(state_path);
    }
    kill(child, SIGKILL);
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how));
    assert_true(have >= 5 * PART);
    have = bytes_in_state(state_path);
    free(state_path);
    expect_no_large(x);
    hub_forget(x->hub);
    pull_ok(x);
    expect_all(x);
    hub_requests(x->hub, "large", &sent);
    assert_int_equal(sent, LARGE - have); /* what the killed one had saved was not asked for again */
}

static void write_file(fixture *x, const char *name, const void *data, size_t size) {
    fs_error err;
    if (fs_write_file(path_of(x, name), data, size, &err)) fail_msg("%s", err.message);
}

static void test_stale_state(void **state) {
    fixture *x = *state;
    int64_t sent;
    uint8_t *junk = calloc(LARGE, 1);
    char good[2048];
    mkdir(path_of(x, "sub"), 0777);
    int n = snprintf(good, sizeof good, "{\"version\": 1, \"size\": %d, \"checksum\": \"%s\", \"part_bytes\": %d, \"have\": [%d]}", LARGE,
                     x->hub->files[1].hash, LARGE, LARGE);
    const struct {
        const char *text;
        size_t data;
    } cases[] = {
        {"", LARGE},
        {"{", LARGE},
        {"[]", LARGE},
        {good, LARGE - 1},
        {good, 0}, /* not JSON; the part file has another size */
        {"{\"version\": 1, \"size\": 656594, \"checksum\": \"00\", \"part_bytes\": 656594, \"have\": [656594]}",
         LARGE}, /* of another file */
    };
    char wild[4][2048];
    snprintf(wild[0], 2048,
             "{\"version\": 1, \"size\": %d, \"checksum\": \"%s\", \"part_bytes\": 65536, \"have\": [65537,0,0,0,0,0,0,0,0,0,0]}", LARGE,
             x->hub->files[1].hash);
    snprintf(wild[1], 2048,
             "{\"version\": 1, \"size\": %d, \"checksum\": \"%s\", \"part_bytes\": 65536, \"have\": [-1,0,0,0,0,0,0,0,0,0,0]}", LARGE,
             x->hub->files[1].hash);
    snprintf(wild[2], 2048, "{\"version\": 1, \"size\": %d, \"checksum\": \"%s\", \"part_bytes\": 65536, \"have\": [0,0]}", LARGE,
             x->hub->files[1].hash);
    snprintf(wild[3], 2048, "{\"version\": 1, \"size\": %d, \"checksum\": \"%s\", \"part_bytes\": 0, \"have\": []}", LARGE,
             x->hub->files[1].hash);
    for (size_t i = 0; i < 10; i++) {
        const char *text = i < 6 ? cases[i].text : wild[i - 6];
        write_file(x, "sub/large.bin.part", junk, i < 6 ? cases[i].data : LARGE);
        write_file(x, "sub/large.bin.part.json", text, strlen(text));
        hub_forget(x->hub);
        pull_ok(x);
        expect_all(x);
        hub_requests(x->hub, "large", &sent);
        assert_int_equal(sent, LARGE);
        assert_int_equal(x->warnings, 0); /* not taken up and found wrong, but never taken up */
        unlink(path_of(x, "sub/large.bin"));
    }
    /* a state that fits bytes which are wrong: found by the checksum, fetched anew */
    write_file(x, "sub/large.bin.part", junk, LARGE);
    write_file(x, "sub/large.bin.part.json", good, (size_t)n);
    x->warnings = 0;
    pull_ok(x);
    expect_all(x);
    assert_int_equal(x->warnings, 1);
    free(junk);
}

/* ---- what is there ------------------------------------------------------------------------------------------------- */

static void test_never_spoils(void **state) {
    fixture *x = *state;
    char *text = NULL;
    size_t size;
    write_file(x, "config.json", "mine", 4);
    hub_rule(x->hub, 0, (rule){.part_of_path = "config", .kind = STATUS, .arg = 404, .times = -1});
    expect(x, FS_E_NOT_FOUND, "404");
    assert_int_equal(fs_read_file(path_of(x, "config.json"), 100, (uint8_t **)&text, &size, NULL), FS_OK);
    assert_string_equal(text, "mine"); /* a file that differs is kept until the right one is complete */
    free(text);
    hub_forget(x->hub);
    pull_ok(x);
    expect_all(x);
    /* what is no file is not touched */
    unlink(path_of(x, "config.json"));
    mkdir(path_of(x, "config.json"), 0777);
    expect(x, FS_E_USAGE, "something else is in its place");
    rmdir(path_of(x, "config.json"));
    /* a link in the place of the unfinished file is not followed */
    write_file(x, "tf_model.h5", "victim", 6);
    assert_int_equal(symlink("tf_model.h5", path_of(x, "config.json.part")), 0);
    expect(x, FS_E_IO, "config.json.part");
    assert_int_equal(fs_read_file(path_of(x, "tf_model.h5"), 100, (uint8_t **)&text, &size, NULL), FS_OK);
    assert_string_equal(text, "victim");
    free(text);
    unlink(path_of(x, "config.json.part"));
    /* two runs do not write one file */
    int fd = open(path_of(x, "config.json.part"), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    expect(x, FS_E_IO, "another run");
    close(fd);
}

static void test_check(void **state) {
    fixture *x = *state;
    x->opt.mode = FS_PULL_CHECK;
    expect(x, FS_E_NOT_FOUND, "of 3 files 3 are missing");
    assert_false(there(x, ".pull.json"));
    x->opt.mode = FS_PULL_FETCH;
    pull_ok(x);
    x->opt.mode = FS_PULL_CHECK;
    hub_forget(x->hub);
    pull_ok(x);
    assert_int_equal(x->states[FS_PULL_GOOD], 3);
    assert_int_equal(hub_requests(x->hub, "/resolve/", NULL), 0);
    hub_stop(x->hub); /* no network any more: the listing of the pull is used */
    pull_ok(x);
    assert_int_equal(x->warnings, 1);
    int fd = open(path_of(x, "sub/large.bin"), O_WRONLY);
    assert_int_equal(pwrite(fd, "?", 1, 3 * PART), 1);
    close(fd);
    assert_int_equal(truncate(path_of(x, "config.json"), 699), 0);
    expect(x, FS_E_FORMAT, "0 are missing and 2 are wrong");
    assert_int_equal(x->states[FS_PULL_WRONG], 2);
    x->opt.revision = "other"; /* the listing kept is of another revision */
    expect(x, FS_E_IO, "is there a network?");
    x->opt.revision = "main";
    x->opt.mode = FS_PULL_FETCH;
    expect(x, FS_E_IO, "is there a network?");
}

static void test_disk(void **state) {
    fixture *x = *state;
    fs_buffer b = {0};
    fs_buffer_puts(&b, "[");
    for (int i = 0; i < 4000; i++) /* 4000 TiB */
        fs_buffer_printf(&b, "%s{\"type\":\"file\",\"path\":\"f%d\",\"size\":1099511627776,\"oid\":\"%040d\"}", i ? "," : "", i, 0);
    fs_buffer_puts(&b, "]");
    hub_rule(x->hub, 0, (rule){.part_of_path = "/tree/", .kind = BODY, .times = -1, .text = b.data});
    expect(x, FS_E_IO, "free some space");
    assert_int_equal(hub_requests(x->hub, "/resolve/", NULL), 0);
    fs_buffer_free(&b);
}

/* ---- arguments ----------------------------------------------------------------------------------------------------- */

static void test_arguments(void **state) {
    fixture *x = *state;
    char *repo, *dir;
    fs_error err;
    static const char *const known[][3] = {{"fakeshield", "zhipeixu/fakeshield-v1-22b", "weight/fakeshield-v1-22b"},
                                           {"clip", "openai/clip-vit-large-patch14-336", "weight/clip-vit-large-patch14-336"},
                                           {"A-b.c/D_e", "A-b.c/D_e", "weight/D_e"}};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(fs_pull_resolve(known[i][0], &repo, &dir, &err), FS_OK);
        assert_string_equal(repo, known[i][1]);
        assert_string_equal(dir, known[i][2]);
        fs_string_free(repo), fs_string_free(dir);
    }
    static const char *const bad[] = {"", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a/b?c", "a b/c", "a/b\n", "a/b#", "x", "-o/n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(fs_pull_resolve(bad[i], &repo, NULL, &err), FS_E_USAGE);
    static const char *const bases[] = {"",           "127.0.0.1",     "ftp://h",     "file:///etc", "https://",  "http:///x",
                                        "http://:80", "https://u:p@h", "https://h?x", "https://h/#", "http://a b"};
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        x->opt.base_url = bases[i];
        expect(x, FS_E_USAGE, "this address of a hub");
    }
    static const char *const open[] = {"http://example.invalid", "http://localhost.example.invalid", "http://127.0.0.1.example.invalid"};
    x->opt.token = "secret";
    for (size_t i = 0; i < 3; i++) {
        x->opt.base_url = open[i];
        expect(x, FS_E_USAGE, "readable for all");
    }
    x->opt.base_url = x->hub->base;
    x->opt.token = "two words";
    expect(x, FS_E_USAGE, "the token");
    x->opt.token = NULL;
    x->opt.revision = "a b";
    expect(x, FS_E_USAGE, "no revision");
    x->opt.revision = "refs/pr/1"; /* slashes are part of the name, not of the path */
    expect(x, FS_E_NOT_FOUND, "tree/refs%2Fpr%2F1");
    x->opt.revision = "main";
    x->opt.jobs = 0;
    expect(x, FS_E_USAGE, "out of its range");
    fs_pull_state s;
    fs_pull_mode m;
    assert_true(fs_pull_state_from_name("wrong", &s) && s == FS_PULL_WRONG && fs_pull_mode_from_name("check", &m) && m == FS_PULL_CHECK);
    assert_string_equal(fs_pull_state_name(FS_PULL_FETCHED), "fetched");
    assert_string_equal(fs_pull_mode_name(FS_PULL_LIST), "list");
    assert_false(fs_pull_state_from_name("", &s));
}

/* ---- listings and checksums, without a server ---------------------------------------------------------------------- */

#define SHA "\"oid\":\"0123456789abcdef0123456789abcdef01234567\""
#define ENTRY(path) "[{\"type\":\"file\",\"path\":\"" path "\",\"size\":5," SHA "}]"

static fs_status read_listing(const char *json, fs_error *err) {
    fs_net_listing l = {0};
    fs_status status = fs_net_listing_add(&l, "hub", json, strlen(json), err);
    if (!status) status = fs_net_listing_finish(&l, "hub", err);
    fs_net_listing_free(&l);
    return status;
}

static void test_hostile_listings(void **state) {
    (void)state;
    fs_error err;
    static const struct {
        const char *json, *words;
    } bad[] = {
        {"", "no valid JSON"},
        {"{}", "expected a JSON list"},
        {"[", "no valid JSON"},
        {"[1]", "has no type"},
        {"[{}]", "has no type"},
        {"[]", "holds no files"},
        {"[{\"type\":\"file\"}]", "has no path"},
        {"[{\"type\":\"file\",\"path\":7}]", "has no path"},
        {ENTRY(""), "is empty"},
        {ENTRY("/etc/passwd"), "is absolute"},
        {ENTRY("../x"), "out of the folder"},
        {ENTRY("a/../x"), "out of the folder"},
        {ENTRY("a/.."), "out of the folder"},
        {ENTRY("."), "out of the folder"},
        {ENTRY("a/./b"), "out of the folder"},
        {ENTRY("a//b"), "empty name"},
        {ENTRY("a/"), "empty name"},
        {ENTRY("a\\\\b"), "backslash"},
        {ENTRY("a\\u001bb"), "control"},
        {ENTRY("a\\nb"), "control"},
        {ENTRY("a\\u007f"), "control"},
        {ENTRY("a\\u0085"), "control"},
        {ENTRY("a\\u0000b"), "no valid JSON"},
        {ENTRY("a.part"), "unfinished"},
        {ENTRY("b/a.part.json"), "unfinished"},
        {ENTRY("a.part.new"), "unfinished"},
        {ENTRY(".pull.json"), "unfinished"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":-1," SHA "}]", "no size"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":1e3," SHA "}]", "no size"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":1099511627777," SHA "}]", "no size"},
        {"[{\"type\":\"file\",\"path\":\"a\"," SHA "}]", "no size"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":99999999999999999999," SHA "}]", "no valid JSON"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":\"5\"," SHA "}]", "no size"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":5}]", "no checksum"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":5,\"oid\":\"zz\"}]", "no checksum"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":5," SHA ",\"lfs\":{}}]", "no SHA-256"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":5," SHA ",\"lfs\":{\"oid\":\"0123\"}}]", "no SHA-256"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":5," SHA ",\"lfs\":{\"size\":6}}]", "two different sizes"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"path\":\"b\",\"size\":5," SHA "}]", "no valid JSON"},
        {"[{\"type\":\"file\",\"path\":\"a\",\"size\":5," SHA "},{\"type\":\"file\",\"path\":\"a\",\"size\":5," SHA "}]", "twice"},
        {"[{\"type\":\"file\",\"path\":\"a/b/c\",\"size\":5," SHA "},{\"type\":\"file\",\"path\":\"a/b\",\"size\":5," SHA "}]",
         "both a file and a folder"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (read_listing(bad[i].json, &err) == FS_OK) fail_msg("%s was taken", bad[i].json);
        if (!strstr(err.message, bad[i].words)) fail_msg("expected \"%s\" in \"%s\"", bad[i].words, err.message);
    }
    static const char *const good[] = {ENTRY("a"),   ENTRY("a b/c..d"),      ENTRY("..."), ENTRY("\\u00e4/\\u4e2d"),
                                       ENTRY("-rf"), ENTRY(".gitattributes")};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (read_listing(good[i], &err)) fail_msg("%s: %s", good[i], err.message);
    char path[FS_NET_MAX_NAME + 2], *json;
    memset(path, 'x', sizeof path);
    path[FS_NET_MAX_NAME + 1] = 0;
    json = fs_format("[{\"type\":\"file\",\"path\":\"%s\",\"size\":5," SHA "}]", path);
    assert_int_equal(read_listing(json, &err), FS_E_FORMAT);
    json[strlen("[{\"type\":\"file\",\"path\":\"")] = '/'; /* still too long, and absolute */
    assert_int_equal(read_listing(json, &err), FS_E_FORMAT);
    free(json);
}

static void test_links(void **state) {
    (void)state;
    static const struct {
        const char *value, *next;
    } links[] = {{"<http://h/x?c=1>; rel=\"next\"", "http://h/x?c=1"},
                 {"<http://h/1>; rel=\"prev\", <http://h/2>; rel=\"next\"", "http://h/2"},
                 {"<a>; rel=next", "a"},
                 {"<a>; rel=\"last\"", NULL},
                 {"", NULL},
                 {"<", NULL},
                 {"<a", NULL},
                 {"<>; rel=\"next\"", NULL},
                 {"rel=\"next\"", NULL}};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        char *next = fs_net_link_next(links[i].value);
        if (links[i].next)
            assert_string_equal(next, links[i].next);
        else
            assert_null(next);
        free(next);
    }
    static const struct {
        const char *base, *link, *page;
    } pages[] = {{"https://m/hub", "https://m/hub/api?c=1", "https://m/hub/api?c=1"},
                 {"https://m/hub", "https://huggingface.co/api?c=1", "https://m/hub/api?c=1"},
                 {"https://m/hub", "/hub/api", "https://m/hub/api"},
                 {"https://m", "https://m.evil/api", NULL},
                 {"https://m", "https://m@evil/api", NULL},
                 {"https://m", "//evil/api", NULL},
                 {"https://m", "api", NULL},
                 {"https://m", "https://m/a b", NULL},
                 {"https://m", "http://m/api", NULL}};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        char *page = fs_net_next_page(pages[i].base, pages[i].link);
        if (pages[i].page)
            assert_string_equal(page, pages[i].page);
        else
            assert_null(page);
        free(page);
    }
}

static void test_digests(void **state) { /* `git hash-object` of these, and FIPS 180-4's "abc" */
    (void)state;
    char *long_text = malloc(100000), out[65];
    assert_non_null(long_text);
    memset(long_text, 'a', 100000);
    const struct {
        const char *text;
        size_t size;
        bool git;
        const char *hex;
    } known[] = {{"", 0, true, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"},
                 {"hello\n", 6, true, "ce013625030ba8dba906f756967f9e9ca394464a"},
                 {long_text, 100000, true, "94bc76618de566c4e568aaf031cce7cef592d868"},
                 {"abc", 3, false, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (size_t step = 1; step < 200; step += 33) {
            fs_net_digest d;
            fs_net_digest_begin(&d, &(fs_net_entry){.git = known[i].git, .size = (int64_t)known[i].size});
            for (size_t at = 0; at < known[i].size; at += step)
                fs_net_digest_add(&d, known[i].text + at, at + step < known[i].size ? step : known[i].size - at);
            fs_net_digest_end(&d, out);
            assert_string_equal(out, known[i].hex);
        }
    free(long_text);
}

int main(int argc, char **argv) {
    static const char *const proxies[] = {"http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"};
    for (size_t i = 0; i < sizeof proxies / sizeof *proxies; i++) unsetenv(proxies[i]); /* all is on the loopback interface */
    if (argc == 4 && strcmp(argv[1], "--pull") == 0) return pull_child(argv[2], argv[3]);
#define PULL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {PULL_TEST(test_plain),        PULL_TEST(test_everything_and_list),
                                       PULL_TEST(test_pages),        PULL_TEST(test_drops),
                                       PULL_TEST(test_stall),        PULL_TEST(test_no_ranges),
                                       PULL_TEST(test_status_codes), PULL_TEST(test_redirects),
                                       PULL_TEST(test_lies),         PULL_TEST(test_wrong_bytes),
                                       PULL_TEST(test_resume),       PULL_TEST(test_kill),
                                       PULL_TEST(test_stale_state),  PULL_TEST(test_never_spoils),
                                       PULL_TEST(test_check),        PULL_TEST(test_disk),
                                       PULL_TEST(test_arguments),    cmocka_unit_test(test_hostile_listings),
                                       cmocka_unit_test(test_links), cmocka_unit_test(test_digests)};
    return cmocka_run_group_tests_name("pull", tests, NULL, NULL);
}
