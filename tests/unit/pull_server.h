/* A model hub for tests: HTTP/1.1 on the loopback interface, one thread a connection, with files in memory and rules by which it
 * misbehaves. It keeps a record of what was asked and how many bytes of bodies it sent. One request a connection. */
#ifndef PULL_SERVER_H
#define PULL_SERVER_H

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/net.h"

enum { MAX_HUB_FILES = 8, MAX_RULES = 8, MAX_RECORDS = 4096, MAX_THREADS = 64 };

typedef enum mischief {
    NOTHING,
    DROP,         /* close after arg bytes of the body, whose full length was announced */
    CUT,          /* the same without an announced length */
    STALL,        /* send arg bytes, then nothing until the client leaves or the hub stops */
    NO_RANGES,    /* 200 and the whole file whatever was asked */
    WRONG_TOTAL,  /* Content-Range of a file that is arg bytes longer */
    SHIFTED,      /* the range begins arg bytes later than asked */
    WRONG_LENGTH, /* 200 with arg bytes more announced and sent */
    TOO_MUCH,     /* without an announced length, arg bytes more than asked */
    SPOILT,       /* one bit of the body is wrong */
    STATUS,       /* answers arg, with Retry-After: 0 */
    REDIRECT,     /* 302 to the address in text, with the path appended */
    BODY          /* 200 with text as the body */
} mischief;

typedef struct rule {
    const char *part_of_path;
    mischief kind;
    long arg;
    int times;     /* how often; -1 = always */
    int64_t first; /* only for requests from this offset on; 0 = all */
    const char *text;
} rule;

typedef struct record {
    char path[256];
    int64_t first, last, sent; /* range asked for (-1 = none); bytes of body sent */
    bool token;
} record;

typedef struct hub_file {
    const char *path;
    uint8_t *data;
    size_t size;
    bool lfs;
    char hash[65];
} hub_file;

typedef struct hub {
    int fd, port;
    pthread_t acceptor;
    size_t workers; /* still running, at most MAX_THREADS */
    pthread_mutex_t lock;
    bool stopping;
    hub_file files[MAX_HUB_FILES];
    size_t file_count, page; /* page: files a page of the listing; 0 = all */
    const char *next_base;   /* how next pages are addressed; NULL = the hub itself */
    rule rules[MAX_RULES];
    record records[MAX_RECORDS];
    size_t record_count;
    char base[64];
} hub;

typedef struct connection {
    hub *hub;
    int fd;
} connection;

static bool send_all(int fd, const void *data, size_t size) {
    for (const char *p = data; size;) {
        ssize_t n = send(fd, p, size, MSG_NOSIGNAL);
        if (n <= 0) return false;
        p += n, size -= (size_t)n;
    }
    return true;
}

static bool send_text(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool send_text(int fd, const char *format, ...) {
    char text[2048];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return n > 0 && send_all(fd, text, (size_t)n);
}

static void answer_listing(hub *h, int fd, const char *target) {
    const char *at = strstr(target, "cursor=");
    size_t begin = at ? (size_t)atoi(at + 7) : 0, end = h->page ? begin + h->page : h->file_count;
    fs_buffer b = {0};
    fs_buffer_puts(&b, "[{\"type\": \"directory\", \"oid\": \"0\", \"size\": 0, \"path\": \"sub\"}");
    for (size_t i = begin; i < end && i < h->file_count; i++) {
        const hub_file *f = &h->files[i];
        fs_buffer_printf(&b, ", {\"type\": \"file\", \"path\": \"%s\", \"size\": %zu, \"oid\": \"%s\"", f->path, f->size,
                         f->lfs ? "0123456789012345678901234567890123456789" : f->hash);
        if (f->lfs) fs_buffer_printf(&b, ", \"lfs\": {\"oid\": \"%s\", \"size\": %zu, \"pointerSize\": 134}", f->hash, f->size);
        fs_buffer_puts(&b, "}");
    }
    fs_buffer_puts(&b, "]");
    send_text(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n", b.size);
    if (end < h->file_count)
        send_text(fd, "Link: <%s/api/models/o/n/tree/main?recursive=true&cursor=%zu>; rel=\"next\"\r\n",
                  h->next_base ? h->next_base : h->base, end);
    send_text(fd, "\r\n");
    send_all(fd, b.data, b.size);
    fs_buffer_free(&b);
}

/* The rule for this request, used up by one. */
static rule take_rule(hub *h, const char *target, int64_t first) {
    rule r = {.kind = NOTHING};
    pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < MAX_RULES && r.kind == NOTHING; i++) {
        rule *k = &h->rules[i];
        if (k->kind == NOTHING || k->times == 0 || !strstr(target, k->part_of_path) || (k->first > 0 && first < k->first)) continue;
        r = *k;
        if (k->times > 0) k->times--;
    }
    pthread_mutex_unlock(&h->lock);
    return r;
}

static bool stopping(hub *h) {
    pthread_mutex_lock(&h->lock);
    bool stop = h->stopping;
    pthread_mutex_unlock(&h->lock);
    return stop;
}

static void answer_file(hub *h, int fd, const hub_file *f, rule r, int64_t first, int64_t last, record *rec) {
    const bool ranged = first >= 0 && r.kind != NO_RANGES && r.kind != WRONG_LENGTH;
    if (!ranged) first = 0, last = (int64_t)f->size - 1;
    if (r.kind == SHIFTED) first += r.arg;
    if (last >= (int64_t)f->size) last = (int64_t)f->size - 1;
    size_t length = (size_t)(last - first + 1), extra = r.kind == WRONG_LENGTH || r.kind == TOO_MUCH ? (size_t)r.arg : 0;
    uint8_t *body = calloc(length + extra + 1, 1);
    if (!body) return;
    memcpy(body, f->data + first, length);
    if (r.kind == SPOILT && length) body[length / 2] ^= 1;
    length += extra;
    send_text(fd, "HTTP/1.1 %s\r\nConnection: close\r\nETag: \"x\"\r\n", ranged ? "206 Partial Content" : "200 OK");
    if (ranged)
        send_text(fd, "Content-Range: bytes %lld-%lld/%zu\r\n", (long long)first, (long long)last,
                  f->size + (r.kind == WRONG_TOTAL ? (size_t)r.arg : 0));
    if (r.kind != CUT && r.kind != TOO_MUCH) send_text(fd, "Content-Length: %zu\r\n", length);
    send_text(fd, "\r\n");
    size_t sent = (r.kind == DROP || r.kind == CUT || r.kind == STALL) && (size_t)r.arg < length ? (size_t)r.arg : length;
    bool ok = send_all(fd, body, sent);
    free(body);
    pthread_mutex_lock(&h->lock);
    rec->sent = (int64_t)sent;
    pthread_mutex_unlock(&h->lock);
    while (r.kind == STALL && ok && !stopping(h)) {
        char c;
        ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
        if (n == 0) break; /* the client has left */
        usleep(10000);
    }
}

static void answer_request(hub *h, int fd) {
    char head[8192] = "", target[1024] = "";
    size_t n = 0;
    while (n < sizeof head - 1 && !strstr(head, "\r\n\r\n")) {
        ssize_t got = recv(fd, head + n, sizeof head - 1 - n, 0);
        if (got <= 0) return;
        n += (size_t)got;
        head[n] = 0;
    }
    if (sscanf(head, "GET %1000s HTTP/1.1", target) != 1) return;
    long long first = -1, last = -1;
    const char *range = strstr(head, "Range: bytes=");
    if (range) sscanf(range, "Range: bytes=%lld-%lld", &first, &last);
    pthread_mutex_lock(&h->lock);
    record *rec = &h->records[h->record_count < MAX_RECORDS - 1 ? h->record_count++ : MAX_RECORDS - 1];
    *rec = (record){.first = first, .last = last, .token = strstr(head, "Authorization: Bearer secret") != NULL};
    snprintf(rec->path, sizeof rec->path, "%.255s", target);
    pthread_mutex_unlock(&h->lock);
    rule r = take_rule(h, target, first);
    if (r.kind == STATUS) {
        send_text(fd, "HTTP/1.1 %ld No\r\nConnection: close\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nno!\n", r.arg);
        return;
    }
    if (r.kind == REDIRECT) {
        send_text(fd, "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: %s%s\r\nContent-Length: 0\r\n\r\n", r.text, target);
        return;
    }
    if (r.kind == BODY) {
        send_text(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", strlen(r.text));
        send_all(fd, r.text, strlen(r.text));
        return;
    }
    if (strstr(target, "/api/models/o/n/tree/main?")) {
        answer_listing(h, fd, target);
        return;
    }
    for (size_t i = 0; i < h->file_count; i++) {
        char want[300];
        snprintf(want, sizeof want, "/o/n/resolve/main/%s", h->files[i].path);
        if (strcmp(target, want) == 0) {
            answer_file(h, fd, &h->files[i], r, first, last, rec);
            return;
        }
    }
    send_text(fd, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

static void *serve_one(void *user) {
    connection *c = user;
    hub *h = c->hub;
    answer_request(h, c->fd);
    shutdown(c->fd, SHUT_WR);
    for (char junk[256]; recv(c->fd, junk, sizeof junk, MSG_DONTWAIT) > 0;) {
    }
    close(c->fd);
    free(c);
    pthread_mutex_lock(&h->lock);
    h->workers--;
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

static void *accept_all(void *user) {
    hub *h = user;
    for (;;) {
        int fd = accept(h->fd, NULL, NULL);
        if (fd < 0 || stopping(h)) {
            if (fd >= 0) close(fd);
            return NULL;
        }
        connection *c = malloc(sizeof *c);
        pthread_t thread;
        pthread_mutex_lock(&h->lock);
        bool room = c && h->workers < MAX_THREADS;
        if (room) h->workers++;
        pthread_mutex_unlock(&h->lock);
        if (!room) {
            close(fd);
            free(c);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        *c = (connection){h, fd};
        if (pthread_create(&thread, NULL, serve_one, c) == 0)
            pthread_detach(thread);
        else
            abort();
    }
}

static hub *hub_start(void) {
    hub *h = calloc(1, sizeof *h);
    assert_non_null(h);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    pthread_mutex_init(&h->lock, NULL);
    h->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(h->fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(h->fd, 64), 0);
    assert_int_equal(getsockname(h->fd, (struct sockaddr *)&a, &size), 0);
    h->port = ntohs(a.sin_port);
    snprintf(h->base, sizeof h->base, "http://127.0.0.1:%d", h->port);
    assert_int_equal(pthread_create(&h->acceptor, NULL, accept_all, h), 0);
    return h;
}

/* Waits until everything that was asked so far is answered and recorded. A client that was killed, or gave up, may have left requests in the
 * queue of a busy machine: taken up later, they would be answered by the next round's rules and counted among its requests. The queue is in
 * order, so when a connection of our own has been closed, all before it have been taken up. */
static void hub_settle(hub *h) {
    if (stopping(h)) return; /* hub_stop() has waited */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)h->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char c;
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    shutdown(fd, SHUT_WR); /* asks for nothing */
    while (recv(fd, &c, 1, 0) > 0) {
    }
    close(fd);
    for (bool busy = true; busy;) {
        usleep(1000);
        pthread_mutex_lock(&h->lock);
        busy = h->workers > 0;
        pthread_mutex_unlock(&h->lock);
    }
}

/* Refuses connections from here on; records stay readable. */
static void hub_stop(hub *h) {
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    pthread_mutex_unlock(&h->lock);
    shutdown(h->fd, SHUT_RDWR);
    pthread_join(h->acceptor, NULL);
    close(h->fd);
    for (bool busy = true; busy;) {
        usleep(1000);
        pthread_mutex_lock(&h->lock);
        busy = h->workers > 0;
        pthread_mutex_unlock(&h->lock);
    }
}

static void hub_free(hub *h) {
    if (!h->stopping) hub_stop(h);
    for (size_t i = 0; i < h->file_count; i++) free(h->files[i].data);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

/* A file of pseudo-random bytes. */
static hub_file *hub_add(hub *h, const char *path, size_t size, bool lfs) {
    hub_file *f = &h->files[h->file_count++];
    fs_rng rng = fs_rng_seed(h->file_count);
    fs_net_digest d;
    *f = (hub_file){.path = path, .size = size, .lfs = lfs, .data = malloc(size + 1)};
    assert_non_null(f->data);
    for (size_t i = 0; i < size; i++) f->data[i] = (uint8_t)fs_rng_next(&rng);
    fs_net_digest_begin(&d, &(fs_net_entry){.git = !lfs, .size = (int64_t)size});
    fs_net_digest_add(&d, f->data, size);
    fs_net_digest_end(&d, f->hash);
    return f;
}

static void hub_rule(hub *h, size_t i, rule r) {
    pthread_mutex_lock(&h->lock);
    h->rules[i] = r;
    pthread_mutex_unlock(&h->lock);
}

static void hub_forget(hub *h) { /* rules and records */
    hub_settle(h);
    pthread_mutex_lock(&h->lock);
    memset(h->rules, 0, sizeof h->rules);
    h->record_count = 0;
    pthread_mutex_unlock(&h->lock);
}

/* Requests for files whose path holds `name`, and the bytes of bodies sent for them. */
static size_t hub_requests(hub *h, const char *name, int64_t *sent) {
    size_t n = 0;
    int64_t bytes = 0;
    hub_settle(h); /* how much was sent is recorded after it was */
    pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < h->record_count; i++)
        if (strstr(h->records[i].path, name)) n++, bytes += h->records[i].sent;
    pthread_mutex_unlock(&h->lock);
    if (sent) *sent = bytes;
    return n;
}

#endif
