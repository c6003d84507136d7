/* One question to a language model's service, over libcurl. What a failure means is told apart here: what may pass, what is this question's
 * own, and what will meet every other question too. */
#include "net/chat.h"
#include "net/net.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_WAIT = 300 };

fs_status fs_chat_check(const fs_chat *c, fs_error *err) {
    const char *fault = fs_net_base_fault(c->url);
    if (fault) return fs_fail(err, FS_E_USAGE, "%s: this address of a service %s; expected one like https://host/v1", c->url, fault);
    for (const char *p = c->key; p && *p; p++)
        if (*p <= 0x20 || *p >= 0x7f) return fs_fail(err, FS_E_USAGE, "the key holds blanks or characters that no key has");
    if (c->key && strncmp(c->url, "http://", 7) == 0 && !fs_net_is_loopback(c->url))
        return fs_fail(err, FS_E_USAGE, "%s: the key would travel readable for all; use https://", c->url);
    return FS_OK;
}

char *fs_chat_address(const fs_chat *c) {
    size_t n = strlen(c->url);
    while (n && c->url[n - 1] == '/') n--;
    return fs_format("%.*s/chat/completions", (int)n, c->url);
}

typedef struct exchange {
    const fs_chat *chat;
    fs_buffer *out;
    bool too_large;
    int wait;
    char location[256];
} exchange;

static size_t on_body(char *data, size_t one, size_t size, void *user) {
    (void)one;
    exchange *x = user;
    if (size > FS_CHAT_MAX_REPLY - x->out->size) {
        x->too_large = true;
        return 0;
    }
    fs_buffer_add(x->out, data, size);
    return x->out->failed ? 0 : size;
}

static size_t on_header(char *data, size_t one, size_t size, void *user) {
    (void)one;
    exchange *x = user;
    char line[512];
    if (size >= sizeof line) return size;
    memcpy(line, data, size);
    line[size] = 0;
    line[strcspn(line, "\r\n")] = 0;
    if (strncasecmp(line, "retry-after:", 12) == 0) {
        const long n = strtol(line + 12, NULL, 10); /* the form with a date gives 0 */
        x->wait = n < 0 ? 0 : n > MAX_WAIT ? MAX_WAIT : (int)n;
    } else if (strncasecmp(line, "location:", 9) == 0) {
        snprintf(x->location, sizeof x->location, "%.200s", line + 9 + strspn(line + 9, " \t"));
    }
    return size;
}

static int on_wait(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    const exchange *x = user;
    (void)a, (void)b, (void)c, (void)d;
    return x->chat->stop && x->chat->stop(x->chat->user_data);
}

/* {"error": {"message": "..."}} or {"error": "..."} or the beginning of what came; made safe to print by fs_fail. */
static void read_complaint(const fs_buffer *body, char out[200]) {
    json_t *root = body->size ? json_loadb(body->data, body->size, 0, NULL) : NULL;
    const json_t *e = json_object_get(root, "error");
    const char *text = json_string_value(json_is_object(e) ? json_object_get(e, "message") : e);
    if (!text) text = json_string_value(json_object_get(root, "message"));
    snprintf(out, 200, "%.190s", text ? text : body->size ? body->data : "");
    json_decref(root);
}

static fs_status explain_code(const char *address, long code, const exchange *x, fs_chat_trouble *trouble, fs_error *err) {
    char said[200];
    read_complaint(x->out, said);
    const char *mark = *said ? ": " : "";
    *trouble = FS_CHAT_THIS;
    if (code >= 300 && code < 400) {
        *trouble = FS_CHAT_ALL;
        return fs_fail(err, FS_E_USAGE, "%s: HTTP %ld: redirects to %s, which is not followed; give that address with --url", address, code,
                       *x->location ? x->location : "another place");
    }
    if (code == 401 || code == 403) {
        *trouble = FS_CHAT_ALL;
        return fs_fail(err, FS_E_USAGE, "%s: HTTP %ld: %s%s%s", address, code,
                       x->chat->key ? "the key is refused" : "a key is needed (--key-env NAME)", mark, said);
    }
    if (code == 404) {
        *trouble = FS_CHAT_ALL;
        return fs_fail(err, FS_E_NOT_FOUND, "%s: HTTP 404: no such service or model; check --url (it often ends in /v1) and --model%s%s",
                       address, mark, said);
    }
    if (code == 408 || code == 425 || code == 429 || code >= 500) *trouble = FS_CHAT_AGAIN;
    return fs_fail(err, FS_E_IO, "%s: HTTP %ld%s%s%s", address, code, code == 429 ? ": too many requests, or the account is used up" : "",
                   mark, said);
}

static fs_status explain_curl(const char *address, CURLcode code, const char *text, const exchange *x, fs_chat_trouble *trouble,
                              fs_error *err) {
    *trouble = FS_CHAT_AGAIN;
    if (x->too_large) {
        *trouble = FS_CHAT_THIS;
        return fs_fail(err, FS_E_LIMIT, "%s: a reply of more than %d bytes", address, (int)FS_CHAT_MAX_REPLY);
    }
    if (!*text) text = curl_easy_strerror(code);
    switch (code) {
    case CURLE_ABORTED_BY_CALLBACK:
        *trouble = FS_CHAT_ALL;
        return fs_fail(err, FS_E_CANCELLED, "stopped");
    case CURLE_OUT_OF_MEMORY:
        *trouble = FS_CHAT_ALL;
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", address);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        *trouble = FS_CHAT_ALL;
        return fs_fail(err, FS_E_IO, "%s: %s; without a valid certificate nothing is sent", address, text);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        *trouble = FS_CHAT_ALL;
        return fs_fail(err, FS_E_USAGE, "%s: %s", address, text);
    default:
        return fs_fail(err, FS_E_IO, "%s: %s", address, text);
    }
}

static bool set_up(CURL *c, const fs_chat *chat, const char *address, const char *body, size_t size, struct curl_slist *headers,
                   exchange *x, char *text) {
    CURLcode bad = curl_easy_setopt(c, CURLOPT_URL, address);
    bad |= curl_easy_setopt(c, CURLOPT_ERRORBUFFER, text);
    bad |= curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    bad |= curl_easy_setopt(c, CURLOPT_USERAGENT, "fakeshield/" FS_VERSION_TEXT);
    bad |= curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    bad |= curl_easy_setopt(c, CURLOPT_POST, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    bad |= curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size);
    bad |= curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 30L);
    bad |= curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)chat->timeout_seconds);
    bad |= curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
    bad |= curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    bad |= curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
    bad |= curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_wait);
    bad |= curl_easy_setopt(c, CURLOPT_XFERINFODATA, x);
    bad |= curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    if (chat->key) {
        bad |= curl_easy_setopt(c, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        bad |= curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, chat->key);
    }
    return bad == CURLE_OK;
}

fs_status fs_chat_post(const fs_chat *c, const char *body, size_t size, fs_buffer *out, fs_chat_trouble *trouble, int *wait,
                       fs_error *err) {
    char text[CURL_ERROR_SIZE] = "";
    exchange x = {.chat = c, .out = out};
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json"), *more = curl_slist_append(headers, "Expect:");
    char *address = fs_chat_address(c);
    CURL *curl = curl_easy_init();
    fs_status status = FS_OK;
    *trouble = FS_CHAT_FINE;
    *wait = 0;
    out->size = 0;
    fs_buffer_puts(out, "");
    if (!address || !curl || !more || !set_up(curl, c, address, body, size, headers, &x, text)) {
        *trouble = FS_CHAT_ALL;
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for a request");
    } else {
        long code = 0;
        const CURLcode result = curl_easy_perform(curl);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
        if (out->failed)
            *trouble = FS_CHAT_ALL, status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", address);
        else if (result != CURLE_OK)
            status = explain_curl(address, result, text, &x, trouble, err);
        else if (code < 200 || code >= 300)
            status = explain_code(address, code, &x, trouble, err);
        *wait = x.wait;
    }
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    free(address);
    return status;
}
