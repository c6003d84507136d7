/* One request to the hub: how it is asked, what its headers say, and what a failure means. The token goes to the hub's own host only:
 * libcurl drops it where a redirect leads to another host or port. Certificates are always checked; from https no redirect leads to plain
 * http. */
#include "net/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { MAX_RETRY_AFTER = 120, MAX_DELAY = 60 };

/* Not isdigit and isalnum, which depend on the locale of the program around us. */
static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_plain(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("-_.~", c);
}

static char *percent_encode(const char *s, const char *keep) {
    fs_buffer b = {0};
    fs_buffer_puts(&b, "");
    for (const char *p = s; *p; p++) {
        if (is_plain(*p) || strchr(keep, *p))
            fs_buffer_add(&b, p, 1);
        else
            fs_buffer_printf(&b, "%%%02X", (unsigned char)*p);
    }
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}

bool fs_net_is_loopback(const char *base) {
    const char *host = strstr(base, "://") + 3;
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i]);
        if (strncasecmp(host, names[i], n) == 0 && strchr(":/", host[n])) return true; /* strchr finds the end too */
    }
    return false;
}

const char *fs_net_base_fault(const char *base) {
    if (strncmp(base, "https://", 8) != 0 && strncmp(base, "http://", 7) != 0) return "does not begin with https:// or http://";
    if (strlen(base) > 2000) return "is too long";
    if (strchr("/:", *(strstr(base, "://") + 3))) return "names no host"; /* the end too */
    for (const unsigned char *p = (const unsigned char *)base; *p; p++)
        if (*p <= 0x20 || *p >= 0x7f || strchr("?#@\"<>\\", *p))
            return "holds characters that do not belong there (a name and password, a query, blanks)";
    return NULL;
}

fs_status fs_net_hub_open(fs_net_hub *h, const char *repo, const fs_pull_options *opt, fs_error *err) {
    *h = (fs_net_hub){.opt = opt};
    const char *base = opt->base_url ? opt->base_url : "https://huggingface.co", *revision = opt->revision ? opt->revision : "main";
    const char *fault = fs_net_base_fault(base);
    if (fault) return fs_fail(err, FS_E_USAGE, "%s: this address of a hub %s", base, fault);
    if (opt->token && strncmp(base, "http://", 7) == 0 && !fs_net_is_loopback(base))
        return fs_fail(err, FS_E_USAGE, "%s: a token would travel readable for all; use https://, or no token", base);
    for (const char *p = opt->token; p && *p; p++)
        if (*p <= 0x20 || *p >= 0x7f) return fs_fail(err, FS_E_USAGE, "the token holds blanks or characters that no token has");
    if (!*revision || strlen(revision) > 250)
        return fs_fail(err, FS_E_USAGE, "\"%.40s\" is no revision: give a branch, a tag or a commit", revision);
    for (const unsigned char *p = (const unsigned char *)revision; *p; p++)
        if (*p <= 0x20 || *p == 0x7f) return fs_fail(err, FS_E_USAGE, "\"%s\" is no revision: give a branch, a tag or a commit", revision);
    int length = (int)strlen(base); /* at most 2000 */
    while (length > 0 && base[length - 1] == '/') length--;
    h->base = fs_format("%.*s", length, base);
    h->repo = fs_strdup(repo);
    h->revision = percent_encode(revision, "");
    h->headers = curl_slist_append(NULL, "Accept-Encoding: identity"); /* ranges and checksums are of the file, not of a packed form */
    if (!h->base || !h->repo || !h->revision || !h->headers) {
        fs_net_hub_close(h);
        return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    return FS_OK;
}

void fs_net_hub_close(fs_net_hub *h) {
    free(h->base);
    free(h->repo);
    free(h->revision);
    curl_slist_free_all(h->headers);
    *h = (fs_net_hub){0};
}

char *fs_net_file_url(const fs_net_hub *h, const char *path) {
    char *encoded = percent_encode(path, "/");
    char *url = encoded ? fs_format("%s/%s/resolve/%s/%s", h->base, h->repo, h->revision, encoded) : NULL;
    free(encoded);
    return url;
}

char *fs_net_tree_url(const fs_net_hub *h) {
    return fs_format("%s/api/models/%s/tree/%s?recursive=true&expand=false", h->base, h->repo, h->revision);
}

/* ---- headers ------------------------------------------------------------------------------------------------------- */

void fs_net_reply_clear(fs_net_reply *r) {
    free(r->next);
    *r = (fs_net_reply){.length = -1, .range_first = -1, .range_last = -1, .range_total = -1};
}

/* The value behind "name:" without blanks around it, into out; false if this line is another header. */
static bool header_is(const char *line, const char *name, char *out, size_t room) {
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) != 0 || line[n] != ':') return false;
    line += n + 1 + strspn(line + n + 1, " \t");
    size_t length = strcspn(line, "\r\n");
    while (length && (line[length - 1] == ' ' || line[length - 1] == '\t')) length--;
    if (length >= room) return false;
    memcpy(out, line, length);
    out[length] = 0;
    return true;
}

static bool whole_number(const char **s, int64_t *out) {
    int64_t n = 0;
    if (!is_digit(**s)) return false;
    for (; is_digit(**s); ++*s)
        if (!fs_mul_i64(n, 10, &n) || __builtin_add_overflow(n, **s - '0', &n)) return false;
    *out = n;
    return true;
}

static size_t on_header(char *data, size_t one, size_t size, void *user) {
    (void)one;
    fs_net_reply *r = user;
    char line[8400], value[8300] = "";
    if (size >= sizeof line) return size; /* longer than anything we ask for */
    memcpy(line, data, size);
    line[size] = 0;
    const char *s = value;
    int64_t first, last, total = -1;
    if (strncmp(line, "HTTP/", 5) == 0) {
        fs_net_reply_clear(r);
        const char *blank = strchr(line, ' ');
        r->code = blank ? strtol(blank, NULL, 10) : 0;
    } else if (header_is(line, "content-length", value, sizeof value)) {
        if (whole_number(&s, &total) && !*s) r->length = total;
    } else if (header_is(line, "content-range", value, sizeof value)) { /* bytes 0-99/1234, or .../ * */
        if (strncasecmp(s, "bytes ", 6) != 0) return size;
        s += 6;
        if (!whole_number(&s, &first) || *s++ != '-' || !whole_number(&s, &last) || *s++ != '/') return size;
        if (strcmp(s, "*") != 0 && (!whole_number(&s, &total) || *s)) return size;
        r->range_first = first;
        r->range_last = last;
        r->range_total = total;
    } else if (header_is(line, "retry-after", value, sizeof value)) { /* the form with a date is not used by hubs */
        if (whole_number(&s, &total) && !*s) r->retry_after = (int)fs_min_i64(total, MAX_RETRY_AFTER);
    } else if (header_is(line, "link", value, sizeof value)) {
        free(r->next);
        r->next = fs_net_link_next(value);
    }
    return size;
}

/* ---- a request ----------------------------------------------------------------------------------------------------- */

CURL *fs_net_request(const fs_net_hub *h, const char *url, fs_net_reply *reply, char *error_text) {
    const bool secure = strncmp(url, "https://", 8) == 0;
    CURL *c = curl_easy_init();
    if (!c) return NULL;
    error_text[0] = 0;
    fs_net_reply_clear(reply);
    CURLcode bad = curl_easy_setopt(c, CURLOPT_URL, url);
    bad |= curl_easy_setopt(c, CURLOPT_ERRORBUFFER, error_text);
    bad |= curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
    bad |= curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_MAXREDIRS, 5L);
    /* HTTP/2 would put all ranges on one connection, and one connection is what ranges are to get around. */
    bad |= curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    bad |= curl_easy_setopt(c, CURLOPT_USERAGENT, "fakeshield/" FS_VERSION_TEXT);
    bad |= curl_easy_setopt(c, CURLOPT_HTTPHEADER, h->headers);
    bad |= curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)fs_max_i64(h->opt->stall_seconds, 1));
    bad |= curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1024L);
    bad |= curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)fs_max_i64(h->opt->stall_seconds, 1));
    bad |= curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 262144L);
    bad |= curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    bad |= curl_easy_setopt(c, CURLOPT_HEADERDATA, reply);
    if (h->opt->token) {
        bad |= curl_easy_setopt(c, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        bad |= curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, h->opt->token);
    }
    if (!bad) return c;
    curl_easy_cleanup(c);
    return NULL;
}

fs_status fs_net_explain(const fs_net_hub *h, CURL *c, const char *url, CURLcode code, const fs_net_reply *r, const char *error_text,
                         bool *again, fs_error *err) {
    long redirects = 0;
    *again = false;
    if (r->code >= 400 || (code == CURLE_OK && r->code >= 300)) {
        curl_easy_getinfo(c, CURLINFO_REDIRECT_COUNT, &redirects);
        /* A redirect's address is signed and gets old: 403 from there is answered by asking the hub for a new one. */
        *again = r->code == 408 || r->code == 425 || r->code == 429 || r->code >= 500 || (r->code == 403 && redirects > 0);
        if (r->code == 401 || r->code == 403)
            return fs_fail(err, FS_E_NOT_FOUND, "%s: HTTP %ld: it is private, gated or not there; %s", url, r->code,
                           h->opt->token ? "may this token read it?" : "a token may help (--token-env NAME)");
        if (r->code == 404) return fs_fail(err, FS_E_NOT_FOUND, "%s: HTTP 404: not there; check name and revision", url);
        if (r->code == 416) return fs_fail(err, FS_E_FORMAT, "%s: HTTP 416: the file is shorter than the listing says", url);
        return fs_fail(err, FS_E_IO, "%s: HTTP %ld%s", url, r->code, r->code == 429 ? ": too many requests; try again later" : "");
    }
    const char *text = error_text && *error_text ? error_text : curl_easy_strerror(code);
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
        *again = true;
        return fs_fail(err, FS_E_IO, "%s: %s; is there a network? A mirror can be given with --mirror", url, text);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return fs_fail(err, FS_E_IO, "%s: %s; without a valid certificate nothing is downloaded", url, text);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_TOO_MANY_REDIRECTS:
        return fs_fail(err, FS_E_FORMAT, "%s: %s", url, text);
    case CURLE_OUT_OF_MEMORY:
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", url);
    default:
        *again = true;
        return fs_fail(err, FS_E_IO, "%s: %s", url, text);
    }
}

double fs_net_delay(const fs_net_hub *h, int failures, const fs_net_reply *r) {
    double delay = h->opt->retry_delay;
    for (int i = 1; i < failures && delay < MAX_DELAY; i++) delay *= 2;
    if (delay > MAX_DELAY) delay = MAX_DELAY;
    return r && r->retry_after > delay ? r->retry_after : delay;
}

/* ---- a small document ---------------------------------------------------------------------------------------------- */

typedef struct document {
    fs_buffer *out;
    size_t max_bytes, skipped; /* skipped: bytes of error pages */
    bool too_large;
    const fs_net_reply *reply;
    const fs_callbacks *callbacks;
} document;

static size_t on_body(char *data, size_t one, size_t size, void *user) {
    (void)one;
    document *d = user;
    if (d->reply->code >= 300) return (d->skipped += size) > FS_NET_MAX_ERROR_PAGE ? 0 : size;
    if (d->out->size + size > d->max_bytes) {
        d->too_large = true;
        return 0;
    }
    fs_buffer_add(d->out, data, size);
    return d->out->failed ? 0 : size;
}

static int on_wait(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t e) {
    (void)a, (void)b, (void)c, (void)e;
    return fs_cancelled(((document *)user)->callbacks);
}

static bool cancelled_while_waiting(const fs_callbacks *cb, double seconds) {
    for (double end = fs_now() + seconds; fs_now() < end;) {
        if (fs_cancelled(cb)) return true;
        double left = end - fs_now(), nap = left < 0.05 ? left : 0.05;
        if (nap > 0) nanosleep(&(struct timespec){.tv_nsec = (long)(nap * 1e9)}, NULL);
    }
    return fs_cancelled(cb);
}

fs_status fs_net_get(const fs_net_hub *h, const char *url, size_t max_bytes, fs_buffer *out, char **next, fs_error *err) {
    const fs_callbacks *cb = &h->opt->callbacks;
    char text[CURL_ERROR_SIZE];
    fs_net_reply reply = {0};
    document d = {.out = out, .max_bytes = max_bytes, .reply = &reply, .callbacks = cb};
    *next = NULL;
    for (int failures = 0;;) {
        bool again = false;
        fs_error why = {0};
        out->size = d.skipped = 0;
        CURL *c = fs_net_request(h, url, &reply, text);
        if (!c || curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body) || curl_easy_setopt(c, CURLOPT_WRITEDATA, &d) ||
            curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_wait) || curl_easy_setopt(c, CURLOPT_XFERINFODATA, &d) ||
            curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L)) {
            curl_easy_cleanup(c);
            return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", url);
        }
        CURLcode code = curl_easy_perform(c);
        fs_status status = FS_OK;
        if (d.too_large)
            status = fs_fail(&why, FS_E_LIMIT, "%s: a listing of more than %zu bytes", url, max_bytes);
        else if (code == CURLE_ABORTED_BY_CALLBACK)
            status = fs_fail(&why, FS_E_CANCELLED, "stopped");
        else if (out->failed)
            status = fs_fail(&why, FS_E_NO_MEMORY, "%s: out of memory", url);
        else if (code != CURLE_OK || reply.code >= 300)
            status = fs_net_explain(h, c, url, code, &reply, text, &again, &why);
        curl_easy_cleanup(c);
        /* Without any network, waiting a minute helps nobody. */
        int most = code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_CONNECT ? 1 : h->opt->retries;
        if (!status) *next = reply.next, reply.next = NULL;
        if (status && again && ++failures <= most) {
            double delay = fs_net_delay(h, failures, &reply);
            fs_log(cb, FS_LOG_INFO, "%s; trying again in %.0f s", why.message, delay);
            if (!cancelled_while_waiting(cb, delay)) continue;
            status = fs_fail(&why, FS_E_CANCELLED, "stopped");
        }
        fs_net_reply_clear(&reply);
        if (status && err) *err = why;
        return status;
    }
}
