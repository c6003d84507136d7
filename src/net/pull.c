/* Downloading released weights: the hub's listing, compared with what the folder has; the disk's room; then the transfer. The listing is
 * kept in the folder (.pull.json), so that the files can be checked later without a network. */
#include "net/net.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "format/json.h"

enum { MAX_PAGES = 1000, MAX_PAGE_BYTES = 16 << 20, READ_STEP = 1 << 20 };
static const int64_t spare_bytes = 64 << 20; /* left free on the disk */
static const char saved_name[] = ".pull.json";

static const char *const mode_names[] = {"fetch", "list", "check"};
static const char *const state_names[] = {"listed", "missing", "partial", "wrong", "good", "fetched"};
enum { MODES = sizeof mode_names / sizeof *mode_names, STATES = sizeof state_names / sizeof *state_names };

const char *fs_pull_mode_name(fs_pull_mode m) {
    return (unsigned)m < MODES ? mode_names[m] : "unknown";
}
const char *fs_pull_state_name(fs_pull_state s) {
    return (unsigned)s < STATES ? state_names[s] : "unknown";
}

bool fs_pull_mode_from_name(const char *name, fs_pull_mode *out) {
    for (unsigned i = 0; i < MODES; i++)
        if (strcmp(name, mode_names[i]) == 0) return *out = (fs_pull_mode)i, true;
    return false;
}

bool fs_pull_state_from_name(const char *name, fs_pull_state *out) {
    for (unsigned i = 0; i < STATES; i++)
        if (strcmp(name, state_names[i]) == 0) return *out = (fs_pull_state)i, true;
    return false;
}

fs_pull_options fs_pull_options_defaults(void) {
    return (fs_pull_options){.revision = "main",
                             .base_url = "https://huggingface.co",
                             .jobs = 4,
                             .part_bytes = 64 << 20,
                             .retries = 6,
                             .retry_delay = 1,
                             .stall_seconds = 30};
}

/* ---- names --------------------------------------------------------------------------------------------------------- */

static bool is_repo_name(const char *s, size_t n) {
    if (n == 0 || n > 96 || s[0] == '.' || s[0] == '-') return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') || strchr("-_.", s[i])))
            return false;
    return true;
}

fs_status fs_pull_resolve(const char *what, char **repo, char **dir, fs_error *err) {
    const char *name = !what || strcmp(what, "fakeshield") == 0 ? "zhipeixu/fakeshield-v1-22b"
                       : strcmp(what, "clip") == 0              ? "openai/clip-vit-large-patch14-336"
                                                                : what;
    if (repo) *repo = NULL;
    if (dir) *dir = NULL;
    const char *slash = strchr(name, '/');
    if (!slash || !is_repo_name(name, (size_t)(slash - name)) || !is_repo_name(slash + 1, strlen(slash + 1)))
        return fs_fail(err, FS_E_USAGE, "\"%.200s\" is nothing to download; give fakeshield, clip or a repository OWNER/NAME", name);
    if (repo) *repo = fs_strdup(name);
    if (dir) *dir = fs_path_join("weight", slash + 1);
    if ((!repo || *repo) && (!dir || *dir)) return FS_OK;
    if (repo) free(*repo), *repo = NULL;
    if (dir) free(*dir), *dir = NULL;
    return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
}

/* ---- the listing --------------------------------------------------------------------------------------------------- */

static fs_status fetch_listing(const fs_net_hub *h, fs_net_listing *l, fs_error *err) {
    fs_status status = FS_OK;
    fs_buffer page = {0};
    char *next = NULL, *url = fs_net_tree_url(h);
    for (int pages = 0; url && !status; pages++) {
        if (pages == MAX_PAGES) {
            status = fs_fail(err, FS_E_LIMIT, "%s: the listing has more than %d pages", h->repo, (int)MAX_PAGES);
            break;
        }
        fs_progress(&h->opt->callbacks, "listing", pages, 0);
        status = fs_net_get(h, url, MAX_PAGE_BYTES, &page, &next, err);
        if (!status) status = fs_net_listing_add(l, h->repo, page.data, page.size, err);
        free(url);
        url = NULL;
        if (!status && next && !(url = fs_net_next_page(h->base, next)))
            status =
                fs_fail(err, FS_E_FORMAT, "%s: the listing's next page is at another host (%.200s); nothing is downloaded", h->repo, next);
        else if (!status && !next) {
            status = fs_net_listing_finish(l, h->repo, err);
            break;
        }
        free(next);
        next = NULL;
    }
    free(next);
    free(url);
    fs_buffer_free(&page);
    return status;
}

static fs_status save_listing(const char *dir, const fs_net_hub *h, const fs_net_listing *l, fs_error *err) {
    char *path = fs_path_join(dir, saved_name), *text = NULL;
    json_t *files = fs_net_listing_array(l);
    json_t *root = files ? json_pack("{s:i, s:s, s:s, s:s, s:o}", "version", 1, "repo", h->repo, "revision", h->revision, "hub", h->base,
                                     "files", files)
                         : NULL;
    text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    fs_status status = path && text ? fs_write_file(path, text, strlen(text), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    free(text);
    json_decref(root);
    free(path);
    return status;
}

/* The listing an earlier run has left, if it is of this repository and revision. */
static fs_status saved_listing(const char *dir, const fs_net_hub *h, fs_net_listing *l, fs_error *err) {
    char *path = fs_path_join(dir, saved_name);
    fs_json j = {0};
    const char *repo = "", *revision = "";
    fs_status status = path ? fs_json_open(path, &j, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    if (!status) status = fs_json_string(&j, "repo", FS_JSON_REQUIRED, &repo, err);
    if (!status) status = fs_json_string(&j, "revision", FS_JSON_REQUIRED, &revision, err);
    if (!status && (strcmp(repo, h->repo) != 0 || strcmp(revision, h->revision) != 0))
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: is of %.100s %.100s", path, repo, revision);
    if (!status) status = fs_net_listing_add_array(l, path, json_object_get(j.root, "files"), err);
    if (!status) status = fs_net_listing_finish(l, path, err);
    fs_json_close(&j);
    free(path);
    return status;
}

/* ---- what is there ------------------------------------------------------------------------------------------------- */

typedef struct survey {
    const fs_net_hub *hub;
    const char *dir;
    const fs_net_listing *listing;
    int64_t done; /* bytes looked at */
    size_t missing, wrong;
    uint8_t *buffer;
} survey;

static void report(const survey *v, const fs_net_entry *e, fs_pull_state state) {
    const fs_pull_options *o = v->hub->opt;
    fs_pull_file f = {.path = e->path, .size = e->size, .algorithm = e->git ? "git-sha1" : "sha256", .checksum = e->hash, .state = state};
    if (o->file) o->file(o->callbacks.user_data, &f);
}

/* Is the checksum of this file, which has the right size, the listed one? */
static fs_status sum_file(survey *v, const char *path, const fs_net_entry *e, bool *good, fs_error *err) {
    fs_net_digest d;
    char hash[65];
    fs_status status = FS_OK;
    int64_t at = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fs_fail(err, FS_E_IO, "%s: cannot open it: %s", path, strerror(errno));
    fs_net_digest_begin(&d, e);
    for (;;) {
        ssize_t n = read(fd, v->buffer, READ_STEP);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            status = fs_fail(err, FS_E_IO, "%s: cannot read it: %s", path, strerror(errno));
            break;
        }
        if (n == 0) break;
        fs_net_digest_add(&d, v->buffer, (size_t)n);
        at += n;
        v->done += n;
        fs_progress(&v->hub->opt->callbacks, e->path, v->done, v->listing->total);
        if (fs_cancelled(&v->hub->opt->callbacks)) {
            status = fs_fail(err, FS_E_CANCELLED, "stopped");
            break;
        }
    }
    close(fd);
    fs_net_digest_end(&d, hash);
    *good = !status && at == e->size && strcmp(hash, e->hash) == 0;
    return status;
}

/* How one listed file stands in the folder. on_disk: bytes an unfinished download holds already. */
static fs_status look(survey *v, const fs_net_entry *e, fs_pull_state *state, int64_t *on_disk, fs_error *err) {
    struct stat st;
    bool good = false;
    fs_status status = FS_OK;
    char *path = fs_path_join(v->dir, e->path), *part = path ? fs_format("%s%s", path, fs_net_partial_suffix) : NULL;
    *on_disk = 0;
    *state = FS_PULL_MISSING;
    if (!part) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", e->path);
        goto done;
    }
    if (stat(part, &st) == 0) {
        *on_disk = fs_min_i64((int64_t)st.st_blocks * 512, e->size);
        *state = FS_PULL_PARTIAL;
    }
    if (stat(path, &st) == 0) {
        if (!S_ISREG(st.st_mode)) {
            status = fs_fail(err, FS_E_USAGE, "%s: a file belongs here, and something else is in its place; remove it", path);
            goto done;
        }
        if (st.st_size == e->size) status = sum_file(v, path, e, &good, err);
        *state = good ? FS_PULL_GOOD : FS_PULL_WRONG;
    } else if (errno != ENOENT && errno != ENOTDIR) {
        status = fs_fail(err, FS_E_IO, "%s: %s", path, strerror(errno));
    }
done:
    free(path);
    free(part);
    return status;
}

static fs_status check_room(const char *dir, int64_t needed, fs_error *err) {
    struct statvfs fs;
    if (statvfs(dir, &fs) != 0) return fs_fail(err, FS_E_IO, "%s: cannot ask for its free space: %s", dir, strerror(errno));
    double there = (double)fs.f_bavail * (double)fs.f_frsize;
    if (needed == 0 || (double)needed + (double)spare_bytes <= there) return FS_OK;
    return fs_fail(err, FS_E_IO, "%s: %.2f GB are needed, %.2f GB are free; free some space, or choose another folder with -o", dir,
                   (double)(needed + spare_bytes) / 1e9, there / 1e9);
}

/* Compares the folder with the listing; fills wanted[] with what is to be fetched. */
static fs_status compare(survey *v, bool *wanted, fs_error *err) {
    const bool fetch = v->hub->opt->mode == FS_PULL_FETCH;
    int64_t needed = 0, skipped = 0;
    for (size_t i = 0; i < v->listing->count; i++) {
        const fs_net_entry *e = &v->listing->items[i];
        fs_pull_state state;
        int64_t on_disk;
        v->done = skipped;
        fs_status status = look(v, e, &state, &on_disk, err);
        if (status) return status;
        skipped += e->size;
        wanted[i] = state != FS_PULL_GOOD;
        v->missing += state == FS_PULL_MISSING || state == FS_PULL_PARTIAL;
        v->wrong += state == FS_PULL_WRONG;
        if (wanted[i]) needed += e->size - on_disk;
        if (!fetch || state == FS_PULL_GOOD) report(v, e, state);
        if (fetch && state == FS_PULL_WRONG)
            fs_log(&v->hub->opt->callbacks, FS_LOG_WARNING, "%s: differs from the hub's; it is replaced when the new one is complete",
                   e->path);
    }
    return fetch ? check_room(v->dir, needed, err) : FS_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------------------- */

static fs_status with_listing(const fs_net_hub *h, const char *dir, const fs_net_listing *l, fs_error *err) {
    survey v = {.hub = h, .dir = dir, .listing = l};
    fs_status status = FS_OK;
    bool *wanted = NULL;
    if (h->opt->mode == FS_PULL_LIST) {
        for (size_t i = 0; i < l->count; i++) report(&v, &l->items[i], FS_PULL_LISTED);
        return FS_OK;
    }
    wanted = fs_alloc_zero(l->count, sizeof *wanted);
    v.buffer = fs_alloc(READ_STEP, 1);
    if (!wanted || !v.buffer) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    if (h->opt->mode == FS_PULL_FETCH && (status = fs_make_dirs(dir, err))) goto done;
    if (h->opt->mode == FS_PULL_CHECK && !fs_path_is_dir(dir)) {
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no such folder", dir);
        goto done;
    }
    if ((status = compare(&v, wanted, err))) goto done;
    if (h->opt->mode == FS_PULL_FETCH) {
        status = save_listing(dir, h, l, err);
        if (!status && v.missing + v.wrong > 0) status = fs_net_transfer(h, dir, l, wanted, err);
    } else if (v.missing + v.wrong > 0) {
        status = fs_fail(err, v.wrong ? FS_E_FORMAT : FS_E_NOT_FOUND,
                         "%s: of %zu files %zu are missing and %zu are wrong; pull again to get them", dir, l->count, v.missing, v.wrong);
    }
done:
    free(wanted);
    free(v.buffer);
    return status;
}

fs_status fs_pull(const char *what, const char *dir, const fs_pull_options *options, fs_error *err) {
    fs_pull_options opt = options ? *options : fs_pull_options_defaults();
    fs_net_hub hub = {0};
    fs_net_listing listing = {0};
    fs_error offline = {0};
    char *repo = NULL, *usual = NULL;
    fs_status status = fs_pull_resolve(what, &repo, &usual, err);
    if (status) return status;
    if (!dir) dir = usual ? usual : "";
    if (!*dir || (unsigned)opt.mode >= MODES || opt.jobs < 1 || opt.jobs > 32 || opt.part_bytes < 1 || opt.retries < 0 ||
        !(opt.retry_delay >= 0) || opt.stall_seconds < 1) {
        status =
            fs_fail(err, FS_E_USAGE, "fs_pull: an option is out of its range (mode, folder, jobs 1 to 32, part_bytes, retries, delays)");
        goto done;
    }
    if (curl_global_init(CURL_GLOBAL_DEFAULT)) {
        status = fs_fail(err, FS_E_INTERNAL, "libcurl cannot be started");
        goto done;
    }
    status = fs_net_hub_open(&hub, repo, &opt, err);
    if (!status) {
        status = fetch_listing(&hub, &listing, &offline);
        if (status == FS_E_IO && opt.mode == FS_PULL_CHECK) {
            fs_net_listing_free(&listing);
            if (saved_listing(dir, &hub, &listing, NULL) == FS_OK) {
                fs_log(&opt.callbacks, FS_LOG_WARNING, "%s; checking against the listing of the last pull", offline.message);
                status = FS_OK;
            }
        }
        if (status && err) *err = offline;
    }
    if (!status && !opt.everything) fs_net_listing_trim(&listing);
    if (!status) status = with_listing(&hub, dir, &listing, err);
    fs_net_listing_free(&listing);
    fs_net_hub_close(&hub);
    curl_global_cleanup();
done:
    free(repo);
    free(usual);
    return status;
}
