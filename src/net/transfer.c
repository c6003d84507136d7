/* Many requests at a time over libcurl's multi interface, all on the caller's thread: no locks, and callbacks come where they are expected.
 *
 * A file is fetched in parts, each by a range request; a part that breaks off goes on from its last byte. A server that answers a range
 * with the whole file (200) gets one plain request for it instead. The checksum follows the part of the file that is there from the
 * beginning on, read back from the page cache between network events, so it is known soon after the last byte; a file gets its name only if
 * it is right. What a reply claims (range, length, total) is compared with the listing before its first byte is written. */
#include "net/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HASH_STEP = 1 << 20, PROGRESS_BYTES = 1 << 16, MAX_JOBS = 32, MAX_OPEN = 64, MAX_LIES = 2 };
static const double save_seconds = 5, hash_seconds = 0.02, show_seconds = 0.1;

typedef struct item {
    const fs_net_entry *entry;
    fs_net_partial partial;
    bool opened, done, whole; /* whole: the server knows no ranges */
    int64_t hashed;
    fs_net_digest digest;
    int wrong; /* times its checksum was */
} item;

typedef enum answer { ANSWER_NONE, ANSWER_GOOD, ANSWER_WHOLE, ANSWER_LIE, ANSWER_ERROR } answer;

typedef struct slot { /* one connection's request */
    CURL *curl;       /* NULL = free */
    item *item;
    size_t part;
    int64_t first, got, skipped; /* offset asked for within the file; bytes written by this request; bytes of an error page */
    bool ranged;
    answer answer;
    fs_status failed; /* writing failed, or the server lied: *why says so */
    fs_error why;
    fs_net_reply reply;
    char *url, error_text[CURL_ERROR_SIZE];
} slot;

typedef struct transfer {
    const fs_net_hub *hub;
    const fs_pull_options *opt;
    const char *dir;
    CURLM *multi;
    item *items;
    size_t count, remaining, first, open; /* items before `first` are done; how many are open */
    slot slots[MAX_JOBS];
    size_t slot_count;
    uint8_t *buffer; /* [HASH_STEP] */
    int64_t total;
    double saved_at, shown_at;
} transfer;

/* ---- replies ------------------------------------------------------------------------------------------------------- */

/* Judges the headers before the first byte of a body is taken (or at the end, if there is none). */
static answer judge(slot *s) {
    const fs_net_reply *r = &s->reply;
    const fs_net_partial *p = &s->item->partial;
    const long long size = p->entry->size;
    const int64_t last = (int64_t)s->part * p->part_bytes + fs_net_part_size(p, s->part) - 1;
    if (r->code == 206 && s->ranged) {
        if (r->range_first == s->first && r->range_last >= s->first && r->range_last <= last &&
            (r->range_total == -1 || r->range_total == size))
            return ANSWER_GOOD;
        s->failed = fs_fail(&s->why, FS_E_FORMAT,
                            "%s: asked for bytes %lld-%lld of %lld, the server offers %lld-%lld of %lld; the file is not the listed one",
                            s->url, (long long)s->first, (long long)last, size, (long long)r->range_first, (long long)r->range_last,
                            (long long)r->range_total);
        return ANSWER_LIE;
    }
    if (r->code == 200) {
        if (r->length != -1 && r->length != size) {
            s->failed =
                fs_fail(&s->why, FS_E_FORMAT, "%s: the server has %lld bytes, the listing says %lld; the file is not the listed one",
                        s->url, (long long)r->length, size);
            return ANSWER_LIE;
        }
        return s->ranged ? ANSWER_WHOLE : ANSWER_GOOD;
    }
    if (r->code >= 300) return ANSWER_ERROR;
    s->failed = fs_fail(&s->why, FS_E_FORMAT, "%s: HTTP %ld was not asked for", s->url, r->code);
    return ANSWER_LIE;
}

static size_t on_data(char *data, size_t one, size_t size, void *user) {
    (void)one;
    slot *s = user;
    fs_net_partial *p = &s->item->partial;
    if (s->answer == ANSWER_NONE) s->answer = judge(s);
    if (s->answer == ANSWER_ERROR) return (s->skipped += (int64_t)size) > FS_NET_MAX_ERROR_PAGE ? 0 : size;
    if (s->answer != ANSWER_GOOD) return 0;
    if ((int64_t)size > fs_net_part_size(p, s->part) - p->parts[s->part].have) {
        s->answer = ANSWER_LIE;
        s->failed = fs_fail(&s->why, FS_E_FORMAT, "%s: the server sends more than the %lld bytes of the listing", s->url,
                            (long long)p->entry->size);
        return 0;
    }
    s->failed = fs_net_partial_write(p, s->part, data, size, &s->why);
    if (s->failed) return 0;
    s->got += (int64_t)size;
    return size;
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

static fs_status start(transfer *t, slot *s, item *it, size_t part, fs_error *err) {
    fs_net_partial *p = &it->partial;
    char range[64];
    *s = (slot){.item = it, .part = part};
    if (it->whole) p->parts[part].have = it->hashed = 0; /* no ranges, so always from the first byte */
    s->first = (int64_t)part * p->part_bytes + p->parts[part].have;
    s->ranged = !it->whole && (p->count > 1 || s->first > 0);
    s->url = fs_net_file_url(t->hub, it->entry->path);
    s->curl = s->url ? fs_net_request(t->hub, s->url, &s->reply, s->error_text) : NULL;
    CURLcode bad = s->curl ? CURLE_OK : CURLE_OUT_OF_MEMORY;
    if (!bad) bad = curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_data);
    if (!bad) bad = curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, s);
    if (!bad) bad = curl_easy_setopt(s->curl, CURLOPT_PRIVATE, s);
    if (!bad && s->ranged) {
        snprintf(range, sizeof range, "%lld-%lld", (long long)s->first,
                 (long long)((int64_t)part * p->part_bytes + fs_net_part_size(p, part) - 1));
        bad = curl_easy_setopt(s->curl, CURLOPT_RANGE, range);
    }
    if (bad || curl_multi_add_handle(t->multi, s->curl)) {
        curl_easy_cleanup(s->curl);
        free(s->url);
        *s = (slot){0};
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", it->entry->path);
    }
    p->parts[part].active = true;
    return FS_OK;
}

static void stop(transfer *t, slot *s) {
    if (!s->curl) return;
    curl_multi_remove_handle(t->multi, s->curl);
    curl_easy_cleanup(s->curl);
    fs_net_reply_clear(&s->reply);
    free(s->url);
    if (s->part < s->item->partial.count) s->item->partial.parts[s->part].active = false;
    *s = (slot){0};
}

static fs_status begin_item(transfer *t, item *it, fs_error *err) {
    fs_status status = fs_net_partial_open(&it->partial, t->dir, it->entry, t->opt->part_bytes, err);
    if (status) return status;
    it->opened = true;
    t->open++;
    it->hashed = 0;
    fs_net_digest_begin(&it->digest, it->entry);
    int64_t have = fs_net_partial_have(&it->partial);
    if (have > 0)
        fs_log(&t->opt->callbacks, FS_LOG_INFO, "%s: going on with %lld of %lld bytes", it->entry->path, (long long)have,
               (long long)it->entry->size);
    return FS_OK;
}

static fs_status start_over(item *it, int64_t part_bytes, fs_error *err) {
    it->hashed = 0;
    fs_net_digest_begin(&it->digest, it->entry);
    return fs_net_partial_reset(&it->partial, part_bytes, err);
}

/* Gives free connections the next parts that are due, files in order. *wait: seconds until another part is due. */
static fs_status fill(transfer *t, double *wait, fs_error *err) {
    const double now = fs_now();
    size_t next = 0;
    while (t->first < t->count && t->items[t->first].done) t->first++;
    for (size_t i = t->first; i < t->count; i++) {
        item *it = &t->items[i];
        while (next < t->slot_count && t->slots[next].curl) next++;
        if (next == t->slot_count) return FS_OK;
        if (it->done || (!it->opened && t->open >= MAX_OPEN)) continue;
        fs_status status = it->opened ? FS_OK : begin_item(t, it, err);
        for (size_t k = 0; !status && k < it->partial.count; k++) {
            fs_net_part *part = &it->partial.parts[k];
            if (part->active || part->have >= fs_net_part_size(&it->partial, k)) continue;
            if (part->not_before > now) {
                if (part->not_before - now < *wait) *wait = part->not_before - now;
                continue;
            }
            while (next < t->slot_count && t->slots[next].curl) next++;
            if (next == t->slot_count) break;
            status = start(t, &t->slots[next], it, k, err);
        }
        if (status) return status;
    }
    return FS_OK;
}

/* The server answered a range with the whole file: from now on one request without a range. */
static fs_status without_ranges(transfer *t, item *it, fs_error *err) {
    for (size_t i = 0; i < t->slot_count; i++)
        if (t->slots[i].curl && t->slots[i].item == it) stop(t, &t->slots[i]);
    fs_log(&t->opt->callbacks, FS_LOG_INFO, "%s: the server knows no ranges; one request from the beginning", it->entry->path);
    it->whole = true;
    return start_over(it, it->entry->size, err);
}

/* A request has ended, well or not. */
static fs_status ended(transfer *t, slot *s, CURLcode code, fs_error *err) {
    item *it = s->item;
    fs_net_partial *p = &it->partial;
    fs_net_part *part = &p->parts[s->part];
    fs_error why = {0};
    bool again = false;
    fs_status status = FS_OK;
    if (s->answer == ANSWER_NONE && code == CURLE_OK) s->answer = judge(s);
    if (s->answer == ANSWER_WHOLE) {
        stop(t, s);
        return without_ranges(t, it, err);
    }
    if (s->failed) {
        status = s->failed;
        why = s->why;
        again = s->answer == ANSWER_LIE; /* a cache on the way may be wrong where the next answer is right */
    } else if (part->have < fs_net_part_size(p, s->part)) {
        if (code == CURLE_OK && s->answer == ANSWER_GOOD) {
            again = true;
            status = fs_fail(&why, FS_E_IO, "%s: the server stopped after %lld bytes of the request", s->url, (long long)s->got);
        } else {
            status = fs_net_explain(t->hub, s->curl, s->url, code, &s->reply, s->error_text, &again, &why);
        }
    }
    if (!status) {
        part->failures = 0;
    } else if (again) {
        part->failures = s->got >= PROGRESS_BYTES && !it->whole ? 1 : part->failures + 1;
        again = part->failures <= (s->answer == ANSWER_LIE ? (int)fs_min_i64(MAX_LIES, t->opt->retries) : t->opt->retries);
        double delay = fs_net_delay(t->hub, part->failures, &s->reply);
        part->not_before = fs_now() + delay;
        if (again)
            fs_log(&t->opt->callbacks, FS_LOG_INFO, "%s; trying again in %.0f s", why.message, delay);
        else
            fs_error_prefix(&why, "given up after %d attempts", part->failures);
    }
    stop(t, s);
    if (status && !again) {
        if (err) *err = why;
        return status;
    }
    return status ? FS_OK : fs_net_partial_save(p, err);
}

static fs_status drain(transfer *t, fs_error *err) {
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(t->multi, &left));) {
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        char *private = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &private);
        fs_status status = ended(t, (slot *)(void *)private, code, err);
        if (status) return status;
    }
    return FS_OK;
}

/* ---- checksums ----------------------------------------------------------------------------------------------------- */

static void report(const transfer *t, const fs_net_entry *e, fs_pull_state state) {
    if (!t->opt->file) return;
    fs_pull_file f = {.path = e->path, .size = e->size, .algorithm = e->git ? "git-sha1" : "sha256", .checksum = e->hash, .state = state};
    t->opt->file(t->opt->callbacks.user_data, &f);
}

/* All bytes are there and summed up. */
static fs_status finish(transfer *t, item *it, fs_error *err) {
    char hash[65];
    fs_net_digest_end(&it->digest, hash);
    if (strcmp(hash, it->entry->hash) == 0) {
        fs_status status = fs_net_partial_commit(&it->partial, err);
        if (status) return status;
        fs_net_partial_close(&it->partial);
        it->done = true;
        t->remaining--;
        t->open--;
        report(t, it->entry, FS_PULL_FETCHED);
        return FS_OK;
    }
    fs_status status = start_over(it, it->whole ? it->entry->size : t->opt->part_bytes, err);
    if (status) return status;
    if (++it->wrong > 1)
        return fs_fail(err, FS_E_FORMAT,
                       "%s: twice its %s was %.16s..., the listing says %.16s...; damaged on the way, or changed meanwhile: run again",
                       it->entry->path, it->entry->git ? "git SHA-1" : "SHA-256", hash, it->entry->hash);
    fs_log(&t->opt->callbacks, FS_LOG_WARNING, "%s: wrong checksum after the download; fetching it once more", it->entry->path);
    return FS_OK;
}

/* Sums up what is there, for a short while. *busy: there is more to do. */
static fs_status sum_up(transfer *t, bool *busy, fs_error *err) {
    const double end = fs_now() + hash_seconds;
    *busy = false;
    for (size_t i = t->first; i < t->count; i++) {
        item *it = &t->items[i];
        if (!it->opened || it->done) continue;
        if (it->whole && it->partial.parts[0].active) continue; /* may begin anew: wait for its end */
        int64_t ready = fs_net_partial_ready(&it->partial);
        if (it->hashed == 0) fs_net_digest_begin(&it->digest, it->entry);
        while (it->hashed < ready) {
            if (fs_now() >= end) return *busy = true, FS_OK;
            ssize_t n = pread(it->partial.fd, t->buffer, (size_t)fs_min_i64(ready - it->hashed, HASH_STEP), (off_t)it->hashed);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0)
                return fs_fail(err, FS_E_IO, "%s: cannot read it back: %s", it->partial.data_path, n ? strerror(errno) : "it was cut");
            fs_net_digest_add(&it->digest, t->buffer, (size_t)n);
            it->hashed += n;
        }
        if (it->hashed == it->entry->size) {
            fs_status status = finish(t, it, err);
            if (status) return status;
            *busy = true;
        }
    }
    return FS_OK;
}

/* ---- the loop ------------------------------------------------------------------------------------------------------ */

static void show_progress(transfer *t) {
    if (t->remaining > 0 && fs_now() - t->shown_at < show_seconds) return;
    t->shown_at = fs_now();
    const char *name = NULL;
    int64_t done = 0;
    for (size_t i = 0; i < t->count; i++) {
        const item *it = &t->items[i];
        done += it->done ? it->entry->size : it->opened ? fs_net_partial_have(&it->partial) : 0;
        if (!it->done && !name) name = it->entry->path;
    }
    fs_progress(&t->opt->callbacks, name ? name : t->items[t->count - 1].entry->path, done, t->total);
}

static fs_status save_all(transfer *t, fs_error *err) {
    fs_status first = FS_OK;
    for (size_t i = 0; i < t->count; i++) {
        item *it = &t->items[i];
        if (!it->opened || it->done) continue;
        fs_status status = fs_net_partial_save(&it->partial, first ? NULL : err);
        if (!first) first = status;
    }
    t->saved_at = fs_now();
    return first;
}

static fs_status run(transfer *t, fs_error *err) {
    fs_status status = FS_OK;
    t->saved_at = fs_now();
    while (t->remaining > 0) {
        double wait = 0.1;
        int running;
        bool busy;
        if (fs_cancelled(&t->opt->callbacks)) return fs_fail(err, FS_E_CANCELLED, "stopped; run again to go on");
        if ((status = fill(t, &wait, err))) return status;
        if (curl_multi_perform(t->multi, &running)) return fs_fail(err, FS_E_INTERNAL, "libcurl: the transfer loop failed");
        if ((status = drain(t, err))) return status;
        if ((status = sum_up(t, &busy, err))) return status;
        if (fs_now() - t->saved_at > save_seconds && (status = save_all(t, err))) return status;
        show_progress(t);
        if (!busy && t->remaining > 0 && curl_multi_poll(t->multi, NULL, 0, wait < 0.001 ? 1 : (int)(wait * 1000), NULL))
            return fs_fail(err, FS_E_INTERNAL, "libcurl: waiting for the network failed");
    }
    return FS_OK;
}

fs_status fs_net_transfer(const fs_net_hub *h, const char *dir, const fs_net_listing *l, const bool *wanted, fs_error *err) {
    fs_status status = FS_OK;
    transfer *t = fs_alloc_zero(1, sizeof *t);
    if (!t) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    t->hub = h;
    t->opt = h->opt;
    t->dir = dir;
    t->slot_count = (size_t)fs_min_i64(fs_max_i64(h->opt->jobs, 1), MAX_JOBS);
    t->items = fs_alloc_zero(l->count ? l->count : 1, sizeof *t->items);
    t->buffer = fs_alloc(HASH_STEP, 1);
    t->multi = curl_multi_init();
    if (!t->items || !t->buffer || !t->multi) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    for (size_t i = 0; i < l->count; i++) {
        if (!wanted[i]) continue;
        t->items[t->count++] = (item){.entry = &l->items[i], .partial = {.fd = -1}};
        t->total += l->items[i].size;
    }
    t->remaining = t->count;
    status = run(t, err);
    for (size_t i = 0; i < t->slot_count; i++) stop(t, &t->slots[i]);
    if (status) save_all(t, NULL); /* what is there is kept; the first error is the one to tell */
done:
    for (size_t i = 0; t->items && i < t->count; i++) {
        fs_net_partial *p = &t->items[i].partial;
        if (p->fd >= 0 && fs_net_partial_have(p) == 0) fs_net_partial_drop(p); /* nothing worth keeping */
        fs_net_partial_close(p);
    }
    if (t->multi) curl_multi_cleanup(t->multi);
    free(t->items);
    free(t->buffer);
    free(t);
    return status;
}
