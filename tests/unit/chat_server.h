/* A language model's service for tests: HTTP/1.1 on the loopback interface, one thread a connection, one request a connection. It answers
 * in the trained form (tampered if two pictures came, authentic if one), but for the rules by which it misbehaves, and keeps what it was
 * sent. */
#ifndef CHAT_SERVER_H
#define CHAT_SERVER_H

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

#include <jansson.h>

#include "unit/data_support.h"

enum { MAX_CHAT_RULES = 8, MAX_CHAT_RECORDS = 256 };

typedef enum chat_mischief {
    CHAT_NOTHING,
    CHAT_STATUS,   /* answers arg, with text as the body, and Retry-After: 0 */
    CHAT_STALL,    /* nothing, until the client leaves or the server stops */
    CHAT_DROP,     /* closes in the middle of the body */
    CHAT_BODY,     /* 200 with text as the body */
    CHAT_CONTENT,  /* 200 with text as the model's answer */
    CHAT_CUT,      /* a good answer that is said to be cut off */
    CHAT_HUGE,     /* a body without an end, of arg bytes */
    CHAT_REDIRECT, /* 307 to text */
    CHAT_WAIT      /* 429 with Retry-After: arg */
} chat_mischief;

typedef struct chat_rule {
    chat_mischief kind;
    long arg;
    const char *text;
    int times; /* how often; -1 = always. Rules are used up in order */
} chat_rule;

typedef struct chat_record {
    char *body, head[2048];
    size_t pictures; /* how many came */
} chat_record;

typedef struct chat_server {
    int fd;
    pthread_t acceptor;
    pthread_mutex_t lock;
    size_t workers;
    bool stopping;
    chat_rule rules[MAX_CHAT_RULES];
    chat_record records[MAX_CHAT_RECORDS];
    size_t count, under_way, most_under_way;
    char url[64];
} chat_server;

static const char chat_tampered[] =
    "1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with, at the upper "
    "left, where a soft blob "
    "takes up a quarter.\n\n2. Judgment basis: The light does not match. The edges are too sharp. The noise differs.";
static const char chat_authentic[] = "**1. Whether the picture has been tampered with / Description of the tampered area:** The picture "
                                     "has not been tampered with. It shows soft blobs of colour.\n\n"
                                     "**2. Judgment basis:** Light and shadows agree everywhere, and the noise is even.\n";

static inline bool chat_send(int fd, const char *data, size_t size) {
    while (size) {
        const ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n <= 0) return false;
        data += n, size -= (size_t)n;
    }
    return true;
}

static inline void chat_reply(int fd, long code, const char *more, const char *body) {
    char head[512];
    snprintf(head, sizeof head, "HTTP/1.1 %ld X\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n", code, more, strlen(body));
    if (chat_send(fd, head, strlen(head))) chat_send(fd, body, strlen(body));
}

static inline void chat_answer(int fd, const char *content, const char *finish) {
    json_t *root =
        json_pack("{s:s, s:[{s:{s:s, s:s}, s:s}], s:{s:i, s:i}}", "object", "chat.completion", "choices", "message", "role", "assistant",
                  "content", content, "finish_reason", finish, "usage", "prompt_tokens", 1000, "completion_tokens", 50);
    char *text = json_dumps(root, 0);
    chat_reply(fd, 200, "Content-Type: application/json\r\n", text);
    free(text);
    json_decref(root);
}

static inline bool chat_stopping(chat_server *s) {
    pthread_mutex_lock(&s->lock);
    const bool stop = s->stopping;
    pthread_mutex_unlock(&s->lock);
    return stop;
}

static inline void chat_stall(chat_server *s, int fd) {
    for (char c; !chat_stopping(s) && recv(fd, &c, 1, MSG_DONTWAIT) != 0;) usleep(5000);
}

static inline void chat_misbehave(chat_server *s, int fd, const chat_rule *r, const char *good) {
    char more[256];
    switch (r->kind) {
    case CHAT_STATUS:
        chat_reply(fd, r->arg, "Retry-After: 0\r\n", r->text ? r->text : "");
        break;
    case CHAT_WAIT:
        snprintf(more, sizeof more, "Retry-After: %ld\r\n", r->arg);
        chat_reply(fd, 429, more, "");
        break;
    case CHAT_STALL:
        chat_stall(s, fd);
        break;
    case CHAT_DROP: {
        static const char half[] = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"choices\": [";
        chat_send(fd, half, sizeof half - 1);
        break;
    }
    case CHAT_BODY:
        chat_reply(fd, 200, "", r->text);
        break;
    case CHAT_CONTENT:
        chat_answer(fd, r->text, "stop");
        break;
    case CHAT_CUT:
        chat_answer(fd, good, "length");
        break;
    case CHAT_HUGE: {
        static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        char block[65536];
        memset(block, ' ', sizeof block);
        if (!chat_send(fd, head, sizeof head - 1)) break;
        for (long sent = 0; sent < r->arg && chat_send(fd, block, sizeof block);) sent += (long)sizeof block;
        break;
    }
    case CHAT_REDIRECT:
        snprintf(more, sizeof more, "Location: %s\r\n", r->text);
        chat_reply(fd, 307, more, "");
        break;
    case CHAT_NOTHING:
        break;
    }
}

/* Head and body of a request; the body is malloc'ed. */
static inline char *chat_receive(int fd, char *head, size_t room) {
    size_t n = 0, length = 0;
    char *end = NULL;
    while (!(end = strstr(head, "\r\n\r\n")) && n < room - 1) {
        const ssize_t got = recv(fd, head + n, room - 1 - n, 0);
        if (got <= 0) return NULL;
        n += (size_t)got;
        head[n] = 0;
    }
    const char *said = end ? strstr(head, "Content-Length: ") : NULL;
    if (!said || sscanf(said, "Content-Length: %zu", &length) != 1 || length > (size_t)64 << 20) return NULL;
    char *body = malloc(length + 1);
    size_t have = n - (size_t)(end + 4 - head);
    if (!body || have > length) return free(body), NULL;
    memcpy(body, end + 4, have);
    *end = 0;
    while (have < length) {
        const ssize_t got = recv(fd, body + have, length - have, 0);
        if (got <= 0) return free(body), NULL;
        have += (size_t)got;
    }
    body[length] = 0;
    return body;
}

typedef struct chat_connection {
    chat_server *server;
    int fd;
} chat_connection;

static inline void chat_serve(chat_server *s, int fd) {
    char head[2048] = "";
    char *body = chat_receive(fd, head, sizeof head);
    if (!body) return;
    size_t pictures = 0;
    for (const char *p = body; (p = strstr(p, "\"image_url\":")); p++) pictures++;
    chat_rule r = {CHAT_NOTHING, 0, NULL, 0};
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < MAX_CHAT_RULES && r.kind == CHAT_NOTHING; i++) {
        if (s->rules[i].kind == CHAT_NOTHING || s->rules[i].times == 0) continue;
        r = s->rules[i];
        if (s->rules[i].times > 0) s->rules[i].times--;
    }
    if (s->count < MAX_CHAT_RECORDS) {
        s->records[s->count] = (chat_record){.body = body, .pictures = pictures};
        memcpy(s->records[s->count++].head, head, sizeof head);
        body = NULL;
    }
    if (++s->under_way > s->most_under_way) s->most_under_way = s->under_way;
    pthread_mutex_unlock(&s->lock);
    free(body);
    const char *good = pictures == 2 ? chat_tampered : chat_authentic;
    if (r.kind == CHAT_NOTHING)
        chat_answer(fd, good, "stop");
    else
        chat_misbehave(s, fd, &r, good);
    pthread_mutex_lock(&s->lock);
    s->under_way--;
    pthread_mutex_unlock(&s->lock);
}

static inline void *chat_connection_main(void *user) {
    chat_connection *c = user;
    chat_server *s = c->server;
    chat_serve(s, c->fd);
    shutdown(c->fd, SHUT_WR);
    for (char junk[256]; recv(c->fd, junk, sizeof junk, MSG_DONTWAIT) > 0;) {
    }
    close(c->fd);
    free(c);
    pthread_mutex_lock(&s->lock);
    s->workers--;
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static inline void *chat_accept(void *user) {
    chat_server *s = user;
    for (;;) {
        const int fd = accept(s->fd, NULL, NULL);
        if (fd < 0 || chat_stopping(s)) {
            if (fd >= 0) close(fd);
            return NULL;
        }
        chat_connection *c = malloc(sizeof *c);
        pthread_t thread;
        if (!c) abort();
        *c = (chat_connection){s, fd};
        pthread_mutex_lock(&s->lock);
        s->workers++;
        pthread_mutex_unlock(&s->lock);
        if (pthread_create(&thread, NULL, chat_connection_main, c)) abort();
        pthread_detach(thread);
    }
}

static inline chat_server *chat_start(void) {
    chat_server *s = calloc(1, sizeof *s);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    assert_non_null(s);
    pthread_mutex_init(&s->lock, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(s->fd, 64), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&a, &size), 0);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d/v1", ntohs(a.sin_port));
    assert_int_equal(pthread_create(&s->acceptor, NULL, chat_accept, s), 0);
    return s;
}

static inline void chat_free(chat_server *s) {
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_mutex_unlock(&s->lock);
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->acceptor, NULL);
    close(s->fd);
    for (bool busy = true; busy;) {
        usleep(1000);
        pthread_mutex_lock(&s->lock);
        busy = s->workers > 0;
        pthread_mutex_unlock(&s->lock);
    }
    for (size_t i = 0; i < s->count; i++) free(s->records[i].body);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static inline void chat_rule_set(chat_server *s, size_t i, chat_mischief kind, long arg, const char *text, int times) {
    pthread_mutex_lock(&s->lock);
    s->rules[i] = (chat_rule){kind, arg, text, times};
    pthread_mutex_unlock(&s->lock);
}

#endif
